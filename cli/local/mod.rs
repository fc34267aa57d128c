//! The engine of this process: the embedded log and store, and the processors on top of them.

mod calls;
mod dev_tools;
mod live;
mod operate;
mod read;
mod seen;
mod setup;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_step::{AgentStep, RegistryHandle};
use p2_core::ids::Id;
use p2_core::record::{Message, Payload, Position, RegistryRecord, Topic};
use p2_embedded::{Durability, Embedded, EmbeddedLog, Options};
use p2_stream::metrics::Metrics;
use p2_stream::ports::{Log, LogError, NewRecord};
use p2_stream::runtime::{Limits, Start};
use p2_stream::shell::{self, Setup, ShellError, now_ms};
use p2_stream::wire::{self, ProcessorWire};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tool_exec::{HttpWebhook, ToolExec, ToolPort};

use crate::config::Config;
use crate::engine::{EngineError, EngineResult, draw_id};
use live::Live;
use read::{decode, read_all};

use setup::{ModelPort, ToolCalls, base_registry, load_agents_file, router_of, settings_of, watched};

/// How long a stop waits for what is under way.
const DRAIN: Duration = Duration::from_secs(10);
/// Source of records that the CLI and the HTTP API write.
const SOURCE: &str = "/p2/api";

/// The engine of this process.
pub(crate) struct LocalEngine {
    log: EmbeddedLog,
    store: Arc<Live>,
    registry: RegistryHandle,
    stop: watch::Sender<bool>,
    failed: watch::Sender<Option<String>>,
    metrics: Metrics,
    applying: tokio::sync::Mutex<()>,
    processors: Mutex<Vec<JoinHandle<Result<(), ShellError>>>>,
}

/// Why a data directory could not be opened.
pub(crate) enum OpenFailed {
    /// Another process has it.
    Held(EngineError),
    /// Anything else.
    Other(EngineError),
}

impl From<EngineError> for OpenFailed {
    fn from(error: EngineError) -> OpenFailed {
        OpenFailed::Other(error)
    }
}

impl LocalEngine {
    /// Opens the data directory, reads the registry to its end and starts the processors.
    ///
    /// # Errors
    /// Where the directory is in use, damaged or of a newer format, or a setting does not fit.
    pub(crate) async fn open(config: &Config) -> Result<Arc<LocalEngine>, OpenFailed> {
        let durability = match config.durability.value.as_str() {
            "interval" => Durability::Interval { ms: 100 },
            _ => Durability::Commit,
        };
        let specs = p2_stream::topics::specs().map_err(EngineError::Internal)?;
        let partitions = Topic::ALL.into_iter().zip(specs.iter().map(|spec| spec.partitions)).collect();
        let options = Options { durability, partitions, ..Options::default() };
        let dir = config.data_dir.value.clone();
        let opened = tokio::task::spawn_blocking(move || Embedded::open(dir, &options)).await;
        let embedded = opened.map_err(internal)?.map_err(|error| {
            let reason = EngineError::Unavailable(error.to_string());
            match error {
                p2_embedded::OpenError::Locked { .. } => OpenFailed::Held(reason),
                _ => OpenFailed::Other(reason),
            }
        })?;
        if let Some(dropped) = &embedded.report().dropped {
            tracing::warn!(?dropped, "the torn tail of a commit that was never acknowledged was dropped");
        }
        let log = embedded.log();
        let registry = RegistryHandle::new(base_registry(&config.model.value));
        for stored in read_all(&log, Topic::Registry, 0).await? {
            if let Payload::Registry(record) = decode(&stored)?.payload {
                registry.apply(&record).map_err(EngineError::Internal)?;
            }
        }
        let from_file = load_agents_file(config, &registry)?;
        let (stop, _) = watch::channel(false);
        let engine = Arc::new(LocalEngine {
            log,
            store: Arc::new(Live::new(embedded.store())),
            registry,
            stop,
            failed: watch::channel(None).0,
            metrics: Metrics::new(),
            applying: tokio::sync::Mutex::default(),
            processors: Mutex::default(),
        });
        engine.append_definitions(&from_file).await?;
        engine.start(config).await?;
        Ok(engine)
    }

    /// What the processors of this process count.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Ends when a processor has failed, with the reason.
    pub(crate) async fn failed(&self) -> EngineError {
        let mut failed = self.failed.subscribe();
        match failed.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(reason) => EngineError::Internal(reason.unwrap_or_default()),
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops the processors: what is under way is finished and committed.
    pub(crate) async fn close(&self) -> EngineResult<()> {
        let _ = self.stop.send(true);
        let handles = std::mem::take(&mut *self.processors.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in handles {
            let ended = handle.await.map_err(|error| EngineError::Internal(error.to_string()))?;
            ended.map_err(|error| EngineError::Internal(error.to_string()))?;
        }
        Ok(())
    }

    async fn start(&self, config: &Config) -> EngineResult<()> {
        let settings = settings_of(config);
        let router = router_of(config)?;
        let webhook =
            HttpWebhook::new(Arc::new(|name| std::env::var(name).ok())).map_err(EngineError::Internal)?;
        let tools = ToolPort::new(dev_tools::toolbox(), Arc::new(webhook), Arc::new(now_ms));
        seen::follow(&self.log, self.store.clone(), self.stop.subscribe()).await?;
        let agents = AgentStep::new(self.registry.clone(), settings);
        let handle = self.registry.clone();
        let executor = ToolExec::new(move || handle.snapshot());
        let agent_step = shell::run(agents, Arc::new(ModelPort(router)), self.setup("agent-step"));
        let tool_exec = shell::run(executor, Arc::new(ToolCalls(tools)), self.setup("tool-exec"));
        let handles = vec![
            watched("agent-step", agent_step, self.failed.clone()),
            watched("tool-exec", tool_exec, self.failed.clone()),
        ];
        self.processors.lock().unwrap_or_else(PoisonError::into_inner).extend(handles);
        Ok(())
    }

    fn setup(&self, name: &'static str) -> Setup<ProcessorWire> {
        Setup {
            log: Arc::new(self.log.clone()),
            store: self.store.clone(),
            wire: Arc::new(ProcessorWire::new(name, |topic| self.log.partitions(topic))),
            // Progress and records are in one journal here, so a group without progress is a new one.
            limits: Limits { start: Start::Earliest, ..Limits::default() },
            nonce: rand::random(),
            stop: self.stop.subscribe(),
            drain: DRAIN,
            metrics: self.metrics.clone(),
        }
    }

    async fn append_definitions(&self, records: &[RegistryRecord]) -> EngineResult<()> {
        if records.is_empty() {
            return Ok(());
        }
        let of = |record: &RegistryRecord| message(draw_id(), Payload::Registry(record.clone()));
        let messages: Vec<Message> = records.iter().map(of).collect();
        self.append_messages(&messages).await.map(drop)
    }

    async fn append_messages(&self, messages: &[Message]) -> EngineResult<Vec<Position>> {
        let encode = |message: &Message| {
            wire::encode(message, SOURCE, self.log.partitions(message.payload.topic()))
                .map_err(|error| EngineError::Invalid(error.to_string()))
        };
        let records: Vec<NewRecord> = messages.iter().map(encode).collect::<EngineResult<_>>()?;
        self.log.append(records).await.map_err(engine_error)
    }
}

fn engine_error(error: LogError) -> EngineError {
    match error {
        LogError::Unavailable(reason) => EngineError::Unavailable(reason),
        LogError::NotFound(reason) => EngineError::NotFound(reason),
        LogError::TooLarge(reason) => EngineError::Invalid(reason),
        LogError::Corrupt(reason) | LogError::Refused(reason) => EngineError::Internal(reason),
    }
}

fn internal(error: impl std::fmt::Display) -> EngineError {
    EngineError::Internal(error.to_string())
}

fn message(id: Id, payload: Payload) -> Message {
    Message { id, cause: id, cause_position: None, time_ms: now_ms(), traceparent: None, payload }
}
