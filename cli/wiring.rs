//! Where the engine comes from: another process that serves the data directory, or this one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use p2_core::apply;
use p2_core::definition::Definition;
use p2_core::record::RegistryRecord;
use p2_core::registry::Registry;
use p2_stream::metrics::Metrics;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::server::Server;
use crate::backend::OpenFailed;
use crate::client::HttpEngine;
use crate::config::Config;
use crate::engine::{Engine, EngineError, EngineResult};
use crate::local::{LocalEngine, Role, Work};
use crate::rejoin::Rejoining;

/// How long a stop waits for requests under way. Long polls end by themselves, so only a client that never
/// sends the rest of its request, or never reads its answer, is cut off.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// How long a directory that another process holds is tried again: it may be about to serve, or to end.
const HELD_MAX: Duration = Duration::from_secs(10);
/// Pause between two tries.
const HELD_EVERY: Duration = Duration::from_millis(50);

/// An engine at work, and what must be shut down after use.
pub(crate) struct Opened {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The API of this process, where it opened the data directory itself.
    pub served: Option<Served>,
    /// The processors of this process, to be drained at the end.
    local: Option<Arc<LocalEngine>>,
    /// The engine, where it was found in another process.
    joined: Option<Arc<Rejoining>>,
}

/// The running HTTP API of this process.
pub(crate) struct Served {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    stop: watch::Sender<bool>,
    task: JoinHandle<EngineResult<()>>,
}

impl Opened {
    /// The processors that run here because nobody in the cluster ran them.
    pub(crate) fn stands_in_for(&self) -> &[&'static str] {
        self.local.as_ref().map_or(&[], |local| local.stands_in_for())
    }

    /// Ends when a processor of this process has failed, with the reason.
    pub(crate) async fn failed(&self) -> EngineError {
        match (&self.local, &self.joined) {
            (Some(local), _) => local.failed().await,
            (None, Some(joined)) => joined.failed().await,
            (None, None) => std::future::pending().await,
        }
    }

    /// The engine of this process.
    pub(crate) fn local(&self) -> Option<Arc<LocalEngine>> {
        self.local.clone()
    }

    /// Finishes running requests and withdraws `api.json`.
    pub(crate) async fn close(self) -> EngineResult<()> {
        match self.joined.clone() {
            Some(joined) => joined.close().await,
            None => self.shut().await,
        }
    }

    /// As [`Opened::close`], of an engine of this process.
    pub(crate) async fn shut(self) -> EngineResult<()> {
        if let Some(served) = self.served {
            let Served { stop, mut task, .. } = served;
            let _ = stop.send(true);
            match tokio::time::timeout(CLOSE_MAX, &mut task).await {
                Ok(ended) => {
                    ended
                        .map_err(|error| EngineError::Internal(format!("the HTTP API stopped: {error}")))??;
                }
                Err(_) => {
                    tracing::warn!(target: "p2engine", "a client of the HTTP API was cut off");
                    task.abort();
                }
            }
        }
        match self.local {
            Some(local) => local.close().await,
            None => Ok(()),
        }
    }
}

/// Joins the process that serves this system from the data directory, or opens it here; and serves it, unless it is
/// on a cluster and this process runs nothing in it. When a process that was joined ends, the engine goes on in
/// another one or here ([`Rejoining`]).
pub(crate) async fn open(config: &Config, port: u16, role: Role) -> EngineResult<Opened> {
    Ok(match find_or_open(config, port, &role).await? {
        Place::Here(opened) => opened,
        Place::Elsewhere(found) => {
            let role = Role { rebuild: false, ..role };
            let joined = Arc::new(Rejoining::new(config.clone(), port, role, found));
            Opened { engine: joined.clone(), served: None, local: None, joined: Some(joined) }
        }
    })
}

/// As [`open`], for who only looks on: when a process that was joined ends, so does the engine. Who looks on must not be
/// what keeps that process from being started again.
pub(crate) async fn open_to_watch(config: &Config) -> EngineResult<Opened> {
    Ok(match find_or_open(config, 0, &Work::None.into()).await? {
        Place::Here(opened) => opened,
        Place::Elsewhere(found) => {
            Opened { engine: Arc::new(found), served: None, local: None, joined: None }
        }
    })
}

/// Where the engine is.
pub(crate) enum Place {
    /// In this process.
    Here(Opened),
    /// In the one that serves the data directory now.
    Elsewhere(HttpEngine),
}

/// As [`open`]; what is found elsewhere is that process and no other.
pub(crate) async fn find_or_open(config: &Config, port: u16, role: &Role) -> EngineResult<Place> {
    let begin = Instant::now();
    let api_file = config.api_file();
    loop {
        if let Some(engine) = HttpEngine::find(&api_file).await? {
            return Ok(Place::Elsewhere(engine));
        }
        let local = match LocalEngine::open(config, role).await {
            Ok(local) => local,
            Err(OpenFailed::Held(_)) if begin.elapsed() < HELD_MAX => {
                tokio::time::sleep(HELD_EVERY).await;
                continue;
            }
            Err(OpenFailed::Held(error) | OpenFailed::Other(error)) => return Err(error),
        };
        if config.kafka.is_some() && role.work == Work::None {
            let engine = local.clone();
            return Ok(Place::Here(Opened { engine, served: None, local: Some(local), joined: None }));
        }
        let served = serve(local.clone(), local.metrics().clone(), &api_file, port).await;
        return match served {
            Ok(opened) => Ok(Place::Here(Opened { local: Some(local), ..opened })),
            Err(error) => local.close().await.and(Err(error)),
        };
    }
}

/// Runs processors and nothing else: other processes find no API here, only `/metrics`.
///
/// # Errors
/// As [`open`], and without a log on Kafka.
pub(crate) async fn open_processors(config: &Config, role: &Role, port: u16) -> EngineResult<Opened> {
    let local = match LocalEngine::open(config, role).await {
        Ok(local) => local,
        Err(OpenFailed::Held(error) | OpenFailed::Other(error)) => return Err(error),
    };
    match serve_on(local.clone(), local.metrics().clone(), None, port).await {
        Ok(opened) => Ok(Opened { local: Some(local), ..opened }),
        Err(error) => local.close().await.and(Err(error)),
    }
}

/// Serves an engine of this process to others.
pub(crate) async fn serve(
    engine: Arc<dyn Engine>,
    metrics: Metrics,
    api_file: &Path,
    port: u16,
) -> EngineResult<Opened> {
    serve_on(engine, metrics, Some(api_file), port).await
}

async fn serve_on(
    engine: Arc<dyn Engine>,
    metrics: Metrics,
    api_file: Option<&Path>,
    port: u16,
) -> EngineResult<Opened> {
    let server = Server::bind(api_file, port).await?;
    let url = server.endpoint().url.clone();
    let (stop, stopping) = watch::channel(false);
    let task = tokio::spawn(server.run(engine.clone(), metrics, stopping));
    Ok(Opened { engine, served: Some(Served { url, stop, task }), local: None, joined: None })
}

/// Makes a Canton participant ready; `dar` wins over the one of the settings.
///
/// # Errors
/// A file that cannot be read, and what the participant says.
pub(crate) async fn bootstrap_canton(
    config: &p2_canton::CantonConfig,
    dar: Option<&std::path::PathBuf>,
) -> EngineResult<p2_canton::Bootstrapped> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|error| EngineError::Invalid(format!("{}: {error}", path.display())))
    };
    let bytes = dar.or(config.dar.as_ref()).map(read).transpose()?;
    let client = p2_canton::Client::new(config).map_err(|error| EngineError::Invalid(error.to_string()))?;
    p2_canton::bootstrap(&client, config, bytes).await.map_err(|error| match error.class() {
        p2_canton::Class::Transient | p2_canton::Class::Unknown => {
            EngineError::Unavailable(error.to_string())
        }
        _ => EngineError::Invalid(error.to_string()),
    })
}

/// The registry records of files of definitions, each (path, text): what is new or differs from the newest
/// version. Files may refer to each other.
pub(crate) fn records_of(
    files: &[(String, String)],
    registry: &Registry,
) -> EngineResult<Vec<RegistryRecord>> {
    let invalid = |error: apply::ApplyError| EngineError::Invalid(error.to_string());
    let mut parsed = Vec::new();
    let mut known = registry.clone();
    for (path, text) in files {
        let definitions = apply::parse_file(text, path).map_err(invalid)?;
        for definition in &definitions {
            known.insert(definition.clone(), i32::MAX);
        }
        parsed.push((path, text, definitions));
    }
    for (path, text, definitions) in &parsed {
        apply::check_references(definitions, &known, Some((path, text))).map_err(invalid)?;
    }
    let all: Vec<Definition> = parsed.into_iter().flat_map(|(.., definitions)| definitions).collect();
    Ok(apply::records(&all, registry))
}
