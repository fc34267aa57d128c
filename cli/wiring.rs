//! Where the engine comes from: another process that serves the data directory, or this one.

use std::path::Path;
use std::sync::Arc;

use p2_core::apply;
use p2_core::record::RegistryRecord;
use p2_core::registry::Registry;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::api::server::Server;
use crate::client::HttpEngine;
use crate::config::Config;
use crate::engine::{Engine, EngineError, EngineResult};
use crate::local::LocalEngine;

/// How long a stop waits for requests under way.
const CLOSE_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// An engine at work, and what must be shut down after use.
pub(crate) struct Opened {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The API of this process, where it opened the data directory itself.
    pub served: Option<Served>,
    /// The processors of this process, to be drained at the end.
    local: Option<Arc<LocalEngine>>,
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
        if let Some(served) = self.served {
            let _ = served.stop.send(());
            // Somebody may sit in a long poll: its connection is cut rather than waited for.
            match tokio::time::timeout(CLOSE_MAX, served.task).await {
                Ok(ended) => {
                    ended
                        .map_err(|error| EngineError::Internal(format!("the HTTP API stopped: {error}")))??;
                }
                Err(_) => tracing::debug!("the HTTP API was cut off"),
            }
        }
        match self.local {
            Some(local) => local.close().await,
            None => Ok(()),
        }
    }
}

/// Joins the process that serves the data directory, or opens it here and serves it.
pub(crate) async fn open(config: &Config, port: u16) -> EngineResult<Opened> {
    if let Some(engine) = HttpEngine::find(&config.data_dir.value).await? {
        return Ok(Opened { engine: Arc::new(engine), served: None, local: None });
    }
    let local = LocalEngine::open(config).await?;
    let opened = serve(local.clone(), &config.data_dir.value, port).await?;
    Ok(Opened { local: Some(local), ..opened })
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
    Ok(Opened { engine, served: Some(Served { url, stop, task }), local: None })
}

/// The registry records of a file of definitions: what is new or differs from the newest version.
pub(crate) fn records_of(text: &str, path: &str, registry: &Registry) -> EngineResult<Vec<RegistryRecord>> {
    let invalid = |error: apply::ApplyError| EngineError::Invalid(error.to_string());
    let definitions = apply::parse_file(text, path).map_err(invalid)?;
    apply::check_references(&definitions, registry).map_err(invalid)?;
    Ok(apply::records(&definitions, registry))
}
