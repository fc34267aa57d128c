//! Where records and views lie: in the data directory, or on Kafka and a CQL store.

pub(crate) mod slot;

use std::sync::Arc;

use p2_core::record::Topic;
use p2_embedded::{Durability, Embedded, OpenError, Options};
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_scylla::{CqlStore, LogIdentity};
use p2_stream::memory::MemoryStore;
use p2_stream::ports::{Log, LogError, StackStore};

use crate::config::Config;
use crate::engine::{EngineError, EngineResult};

/// The processors that there are (each is a folder, a consumer group and a metric label), and what each consumes.
pub(crate) const INPUTS: [(&str, Topic); 2] = [("agent-step", Topic::Inbox), ("tool-exec", Topic::Effects)];

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
    let log = Arc::new(kafka.clone());
    Ok(Backend { log, store, cluster: Some(Cluster { config: settings, kafka, cql }) })
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
