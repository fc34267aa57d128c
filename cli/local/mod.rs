//! The engine of this process: log and view, news of conversations, and the processors that run here.

mod calls;
mod dev_tools;
mod folds;
mod ledger;
mod live;
mod news;
mod operate;
mod processors;
mod read;
mod recent;
mod setup;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agent_step::RegistryHandle;
use p2_core::ids::Id;
use p2_core::record::{Message, Payload, Position, RegistryRecord};
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_stream::memory::MemoryLedger;
use p2_stream::metrics::Metrics;
use p2_stream::ports::{Log, LogError, NewRecord};
use p2_stream::runtime::{Limits, Start};
use p2_stream::shell::now_ms;
use p2_stream::wire;

use crate::backend::slot::{self, Slot};
use crate::backend::{Backend, Cluster, INPUTS, OpenFailed, engine_error};
use crate::config::Config;
use crate::engine::{EngineError, EngineResult, draw_id};
use folds::FoldDir;
use live::Live;
use processors::{Ground, Processors};
pub(crate) use setup::router_of;
use setup::{base_registry, load_agents_file};

/// How long members may take to leave their groups at the end.
const LEAVE: Duration = Duration::from_secs(5);
/// Source of records that the CLI and the HTTP API write.
const SOURCE: &str = "/p2/api";

/// Which processors a process is to run. On the embedded log that is always all of them: nobody else can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// None: others do.
    None,
    /// Those that nobody in the cluster runs.
    WhereNobodyDoes,
    /// All.
    All,
    /// These, and nothing else: no news of conversations is kept for an API.
    Only(Vec<String>),
}

/// What a process is for.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    /// Which processors.
    pub work: Work,
    /// Their limits.
    pub limits: Limits,
    /// The view of a data directory is emptied first, and filled again from the log.
    pub rebuild: bool,
}

impl From<Work> for Role {
    fn from(work: Work) -> Role {
        Role { work, limits: Limits::default(), rebuild: false }
    }
}

/// The engine of this process.
pub(crate) struct LocalEngine {
    log: Arc<dyn Log>,
    store: Arc<Live>,
    /// The books, as far as somebody asked for them or this process settles them.
    ledger: Arc<MemoryLedger>,
    cluster: Option<Cluster>,
    registry: RegistryHandle,
    processors: Processors,
    applying: tokio::sync::Mutex<()>,
    /// Processors that run here because nobody in the cluster ran them.
    stands_in_for: OnceLock<Vec<&'static str>>,
    /// The log and slot under which the processors work on a cluster.
    place: tokio::sync::Mutex<Option<(KafkaLog, Slot)>>,
}

impl LocalEngine {
    /// Opens log and view, reads the registry to its end and starts the processors.
    ///
    /// # Errors
    /// As [`Backend::open`], and where a setting does not fit.
    pub(crate) async fn open(config: &Config, role: &Role) -> Result<Arc<LocalEngine>, OpenFailed> {
        let backend = Backend::open(config).await?;
        if role.rebuild && backend.cluster.is_none() {
            backend.store.wipe().await.map_err(internal)?;
        }
        let registry = RegistryHandle::new(base_registry(&config.model.value));
        let registry_end = news::read_registry(backend.log.as_ref(), &registry).await?;
        let from_file = load_agents_file(config, &registry)?;
        let Backend { log, store, cluster } = backend;
        let fills_view = cluster.as_ref().is_some_and(|cluster| cluster.cql.is_none());
        let prefix = cluster.as_ref().map_or("", |cluster| cluster.config.prefix.as_str());
        let folds = Arc::new(FoldDir::new(&config.data_dir.value, prefix));
        let engine = Arc::new(LocalEngine {
            ledger: Arc::new(MemoryLedger::kept(folds, log.clone())),
            log,
            store: Arc::new(Live::new(store)),
            cluster,
            processors: Processors::new(registry.clone()),
            registry,
            applying: tokio::sync::Mutex::default(),
            stands_in_for: OnceLock::new(),
            place: tokio::sync::Mutex::default(),
        });
        engine.append_definitions(&from_file).await?;
        let for_api = fills_view || !matches!(role.work, Work::Only(_));
        engine.follow(registry_end, for_api, fills_view).await?;
        engine.start(config, role).await?;
        Ok(engine)
    }

    /// What the processors of this process count.
    pub(crate) fn metrics(&self) -> &Metrics {
        self.processors.metrics()
    }

    /// The processors that run here because nobody in the cluster ran them.
    pub(crate) fn stands_in_for(&self) -> &[&'static str] {
        self.stands_in_for.get().map_or(&[], Vec::as_slice)
    }

    /// Ends when a processor has failed, with the reason.
    pub(crate) async fn failed(&self) -> EngineError {
        self.processors.failed().await
    }

    /// Stops the processors: what is under way is finished and committed.
    pub(crate) async fn close(&self) -> EngineResult<()> {
        self.processors.close().await?;
        if let Some((kafka, _slot)) = self.place.lock().await.take() {
            kafka.left(LEAVE).await;
        }
        Ok(())
    }

    async fn start(&self, config: &Config, role: &Role) -> EngineResult<()> {
        let Some(cluster) = &self.cluster else {
            for (name, _) in INPUTS {
                // Progress and records are in one journal here, so a group without progress is a new one.
                let limits = Limits { start: Start::Earliest, ..role.limits };
                let ground = self.ground(self.log.clone(), limits);
                self.processors.start(name, config, ground)?;
            }
            return Ok(());
        };
        let mut names = Vec::new();
        for (name, _) in INPUTS {
            let wanted = match &role.work {
                Work::None => false,
                Work::All => true,
                Work::Only(these) => these.iter().any(|one| one == name),
                Work::WhereNobodyDoes => members(&cluster.kafka, name).await?.is_empty(),
            };
            names.extend(wanted.then_some(name));
        }
        if names.is_empty() {
            return Ok(());
        }
        if role.work == Work::WhereNobodyDoes {
            let _ = self.stands_in_for.set(names.clone());
        }
        let kind = if names.len() == INPUTS.len() { String::new() } else { names.join("_") };
        let (kafka, slot) = take_place(config, &cluster.config, &kind).await?;
        for name in names {
            let ground = self.ground(cluster.log(&kafka), role.limits);
            self.processors.start(name, config, ground)?;
        }
        *self.place.lock().await = Some((kafka, slot));
        Ok(())
    }

    fn ground(&self, log: Arc<dyn Log>, limits: Limits) -> Ground {
        Ground { log, store: self.store.clone(), ledger: self.ledger.clone(), limits }
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

/// Members of a processor's group, of all processes.
async fn members(kafka: &KafkaLog, processor: &str) -> EngineResult<Vec<String>> {
    match kafka.group_members(&format!("p2.{processor}")).await {
        // The client library cannot ask for groups of the new protocol: those are of a fleet.
        Err(LogError::Refused(reason)) => Ok(vec![reason]),
        members => members.map_err(engine_error),
    }
}

/// The log under a slot that is this process's alone.
async fn take_place(config: &Config, kafka: &KafkaConfig, kind: &str) -> EngineResult<(KafkaLog, Slot)> {
    let slot = slot::take(&config.data_dir.value, config.kafka_slot.as_deref(), kind)?;
    let settings = KafkaConfig { slot: slot.name.clone(), ..kafka.clone() };
    let log = KafkaLog::connect(settings).await.map_err(engine_error)?;
    Ok((log, slot))
}

fn internal(error: impl std::fmt::Display) -> EngineError {
    EngineError::Internal(error.to_string())
}

fn message(id: Id, payload: Payload) -> Message {
    Message { id, cause: id, cause_position: None, time_ms: now_ms(), traceparent: None, payload }
}
