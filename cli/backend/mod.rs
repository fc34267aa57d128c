//! Where records and views lie: in the data directory, or on Kafka and a CQL store.

pub(crate) mod slot;

use std::sync::Arc;

use p2_core::record::Topic;
use p2_embedded::{Durability, Embedded, OpenError, Options};
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_registry::{FramedLog, RegistryClient, RegistryError};
use p2_scylla::{CqlStore, LogIdentity};
use p2_stream::memory::MemoryStore;
use p2_stream::ports::{Log, LogError, NewRecord, StackStore};
use p2_stream::wire::SchemaIds;

use crate::config::Config;
use crate::engine::{EngineError, EngineResult};

/// The processors that there are (each is a folder, a consumer group and a metric label), and what each consumes.
pub(crate) const INPUTS: [(&str, Topic); 4] = [
    ("agent-step", Topic::Inbox),
    ("tool-exec", Topic::Effects),
    ("evaluator", Topic::Artifacts),
    ("settlement", Topic::PaymentRequests),
];

/// Log and view of one system.
pub(crate) struct Backend {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The view of `state-transitions`.
    pub store: Arc<dyn StackStore>,
    /// On a cluster; none for the embedded one, which this process alone has open.
    pub cluster: Option<Cluster>,
}

/// What is different where other processes work on the same log.
pub(crate) struct Cluster {
    /// How the log is reached; the slot in it is of no importance until processors start.
    pub config: KafkaConfig,
    /// The log.
    pub kafka: KafkaLog,
    /// The view on CQL; none: it is kept in memory and filled from the log at each start.
    pub cql: Option<CqlStore>,
    /// Puts the framing of the schema registry on and takes it off; none: there is no registry.
    framed: Option<FramedLog>,
}

impl Cluster {
    /// A handle of the log as processors and readers see it.
    pub(crate) fn log(&self, kafka: &KafkaLog) -> Arc<dyn Log> {
        seen(self.framed.as_ref(), kafka)
    }

    /// A record that was kept elsewhere, as it would be read from the log.
    pub(crate) async fn readable(&self, record: NewRecord) -> Result<NewRecord, LogError> {
        match &self.framed {
            Some(framed) => framed.unframe(record).await,
            None => Ok(record),
        }
    }
}

/// A handle of the log with the framing of the schema registry taken off, where there is one.
pub(crate) fn seen(framed: Option<&FramedLog>, kafka: &KafkaLog) -> Arc<dyn Log> {
    let log = Arc::new(kafka.clone());
    match framed {
        Some(framed) => Arc::new(framed.over(log)),
        None => log,
    }
}

/// The framing of the schema registry, where one is set: registers the schemas of all topics.
pub(crate) async fn framing(config: &Config, kafka: &KafkaLog) -> EngineResult<Option<FramedLog>> {
    let (Some(registry), Some(settings)) = (&config.schema_registry, &config.kafka) else { return Ok(None) };
    let ids = register_schemas(&registry.value, &settings.value).await?;
    Ok(Some(FramedLog::new(Arc::new(kafka.clone()), Arc::new(registry.value.clone()), ids)))
}

/// Why a backend could not be opened.
pub(crate) enum OpenFailed {
    /// Another process has the data directory.
    Held(EngineError),
    /// Anything else.
    Other(EngineError),
}

impl From<EngineError> for OpenFailed {
    fn from(error: EngineError) -> OpenFailed {
        OpenFailed::Other(error)
    }
}

impl Backend {
    /// Opens what the settings say.
    ///
    /// # Errors
    /// Where the directory is in use, damaged or of a newer format; where Kafka or the store cannot be reached,
    /// have not been set up, or belong to something else.
    pub(crate) async fn open(config: &Config) -> Result<Backend, OpenFailed> {
        match &config.kafka {
            None => embedded(config).await,
            Some(kafka) => Ok(cluster(config, kafka.value.clone()).await?),
        }
    }
}

async fn embedded(config: &Config) -> Result<Backend, OpenFailed> {
    let durability = match config.durability.value.as_str() {
        "interval" => Durability::Interval { ms: 100 },
        _ => Durability::Commit,
    };
    let specs = p2_stream::topics::specs().map_err(EngineError::Internal)?;
    let partitions = Topic::ALL.into_iter().zip(specs.iter().map(|spec| spec.partitions)).collect();
    let options = Options { durability, partitions, ..Options::default() };
    let dir = config.data_dir.value.clone();
    let opened = tokio::task::spawn_blocking(move || Embedded::open(dir, &options)).await;
    let opened = opened.map_err(|error| EngineError::Internal(error.to_string()))?;
    let embedded = opened.map_err(|error| {
        let reason = EngineError::Unavailable(error.to_string());
        match error {
            OpenError::Locked { .. } => OpenFailed::Held(reason),
            _ => OpenFailed::Other(reason),
        }
    })?;
    if let Some(dropped) = &embedded.report().dropped {
        tracing::warn!(?dropped, "the torn tail of a commit that was never acknowledged was dropped");
    }
    Ok(Backend { log: Arc::new(embedded.log()), store: Arc::new(embedded.store()), cluster: None })
}

async fn cluster(config: &Config, settings: KafkaConfig) -> EngineResult<Backend> {
    let kafka = KafkaLog::connect(settings.clone()).await.map_err(engine_error)?;
    let (store, cql): (Arc<dyn StackStore>, Option<CqlStore>) = match &config.scylla {
        None => (Arc::new(MemoryStore::default()), None),
        Some(scylla) => {
            let identity = identity(&kafka, &settings).await?;
            let store = CqlStore::open(&scylla.value, &identity)
                .await
                .map_err(|error| EngineError::Unavailable(error.to_string()))?;
            (Arc::new(store.clone()), Some(store))
        }
    };
    let framed = framing(config, &kafka).await?;
    let cluster = Cluster { config: settings, kafka: kafka.clone(), cql, framed };
    Ok(Backend { log: cluster.log(&kafka), store, cluster: Some(cluster) })
}

/// Registers the schemas of all topics where they are not yet.
pub(crate) async fn register_schemas(
    registry: &RegistryClient,
    settings: &KafkaConfig,
) -> EngineResult<SchemaIds> {
    let name_of = |topic: Topic| format!("{}{}", settings.prefix, topic.name());
    p2_registry::register(registry, name_of).await.map_err(|error| match error {
        RegistryError::Unavailable { .. } => EngineError::Unavailable(error.to_string()),
        RegistryError::Refused(reason) => EngineError::Invalid(reason),
    })
}

/// Which log a view belongs to. The client library does not tell the ids of topics: a topic that was deleted and
/// made again is noticed by its end, which is then before what the store has of it.
pub(crate) async fn identity(kafka: &KafkaLog, settings: &KafkaConfig) -> EngineResult<LogIdentity> {
    let cluster = kafka.cluster_id().await.map_err(engine_error)?;
    let topic = format!("{}{}", settings.prefix, Topic::StateTransitions.name());
    Ok(LogIdentity { cluster, topic })
}

/// A failure of the log as one of the engine.
pub(crate) fn engine_error(error: LogError) -> EngineError {
    match error {
        LogError::Unavailable(reason) => EngineError::Unavailable(reason),
        LogError::NotFound(reason) => EngineError::NotFound(reason),
        LogError::TooLarge(reason) | LogError::Refused(reason) => EngineError::Invalid(reason),
        LogError::Corrupt(reason) => EngineError::Internal(reason),
    }
}
