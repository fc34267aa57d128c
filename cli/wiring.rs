//! Where the engine comes from: another process that serves the data directory, or this one.

use std::path::Path;
use std::sync::Arc;

use p2_core::record::RegistryRecord;
use p2_core::registry::Registry;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::api::server::Server;
use crate::client::HttpEngine;
use crate::config::Config;
use crate::engine::{Engine, EngineError, EngineResult};

/// An engine at work, and what must be shut down after use.
pub(crate) struct Opened {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The API of this process, where it opened the data directory itself.
    pub served: Option<Served>,
}

/// The running HTTP API of this process.
pub(crate) struct Served {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<EngineResult<()>>,
}

impl Opened {
    /// Finishes running requests and withdraws `api.json`.
    pub(crate) async fn close(self) -> EngineResult<()> {
        let Some(served) = self.served else { return Ok(()) };
        let _ = served.stop.send(());
        served.task.await.map_err(|error| EngineError::Internal(format!("the HTTP API stopped: {error}")))?
    }
}

/// Joins the process that serves the data directory, or opens it here and serves it.
pub(crate) async fn open(config: &Config, port: u16) -> EngineResult<Opened> {
    if let Some(engine) = HttpEngine::find(&config.data_dir.value).await? {
        return Ok(Opened { engine: Arc::new(engine), served: None });
    }
    let engine = embedded(config).await?;
    serve(engine, &config.data_dir.value, port).await
}

/// Serves an engine of this process to others.
pub(crate) async fn serve(engine: Arc<dyn Engine>, data_dir: &Path, port: u16) -> EngineResult<Opened> {
    let server = Server::bind(data_dir, port).await?;
    let url = server.endpoint().url.clone();
    let (stop, stopped) = oneshot::channel();
    let run = server.run(engine.clone(), async move {
        let _ = stopped.await;
    });
    let task = tokio::spawn(run);
    Ok(Opened { engine, served: Some(Served { url, stop, task }) })
}

/// The embedded engine of this process.
async fn embedded(config: &Config) -> EngineResult<Arc<dyn Engine>> {
    Err(EngineError::Unavailable(format!(
        "no p2engine process serves {}, and this build has no embedded engine to open it with",
        config.data_dir.value.display()
    )))
}

/// The registry records of a file of definitions: what is new or differs from the newest version.
pub(crate) fn records_of(text: &str, path: &str, registry: &Registry) -> EngineResult<Vec<RegistryRecord>> {
    use crate::api::wire::definition_value;
    use p2_core::record::RegistryRecord as Record;
    use serde::Deserialize;
    let invalid = |text: String| EngineError::Invalid(format!("{path}: {text}"));
    let mut records = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let mut body =
            serde_json::Value::deserialize(document).map_err(|error| invalid(error.to_string()))?;
        let kind = body.as_object_mut().and_then(|map| map.remove("kind"));
        let Some(serde_json::Value::String(kind)) = kind else {
            return Err(invalid("each document needs 'kind: agent|tool|persona|price'".to_owned()));
        };
        let definition = p2_core::apply::definition_from_json(&kind, &body).map_err(invalid)?;
        let newest = registry.newest(&kind, definition.id());
        if newest.is_some_and(|(_, known)| *known == definition) {
            continue;
        }
        let version = newest.map_or(1, |(version, _)| version + 1);
        let id = definition.id().to_owned();
        let pointer = format!("{kind}/{id}");
        let key = format!("{pointer}@{version}");
        let body = Some(definition_value(&definition)?.into());
        records.push(Record { key, kind: kind.clone(), id: id.clone(), version, body });
        records.push(Record { key: pointer, kind, id, version, body: None });
    }
    Ok(records)
}
