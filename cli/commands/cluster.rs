//! What is done to Kafka and the CQL store before an engine can be opened on them, and what is wrong with them.

use p2_core::record::Topic;
use p2_kafka::topics::{self, Difference, TopicSettings};
use p2_kafka::{Begin, KafkaConfig, KafkaLog, begin_group};
use p2_stream::ports::Log;
use p2_stream::topics::specs;
use serde_json::json;

use crate::args::{StoreCommand, TopicsApply};
use crate::backend::{INPUTS, engine_error, register_schemas};
use crate::config::Config;
use crate::engine::{EngineError, EngineResult};
use crate::output::Output;
use crate::views::labelled::count;

/// What to do about a missing `[kafka]`.
pub(super) const NO_KAFKA: &str = "no log on Kafka is configured: set brokers in [kafka] or P2_KAFKA_BROKERS; the embedded log needs no topics";
/// What to do about a missing `[scylla]`.
const NO_STORE: &str = "no CQL store is configured: set nodes in [scylla] or P2_SCYLLA_NODES; without one the view is kept in memory";

/// `topics apply` and `topics diff`.
pub(crate) async fn topics(
    config: &Config,
    wanted: &TopicsApply,
    is_apply: bool,
    out: Output,
) -> EngineResult<()> {
    let kafka = config.kafka.as_ref().ok_or_else(|| EngineError::Invalid(NO_KAFKA.to_owned()))?;
    let TopicsApply { partitions, replication, min_insync } = *wanted;
    let settings = TopicSettings { partitions, replication, min_insync };
    let found = if is_apply {
        topics::apply(&kafka.value, &settings).await.map_err(engine_error)?
    } else {
        topics::diff(&kafka.value, &settings).await.map_err(engine_error)?
    };
    if is_apply {
        if let Some(registry) = &config.schema_registry {
            register_schemas(&registry.value, &kafka.value).await?;
        }
        begin(&kafka.value).await?;
    }
    let (hints, differences): (Vec<&Difference>, Vec<&Difference>) =
        found.iter().partition(|one| matches!(one, Difference::Hint { .. }));
    let lines = |list: &[&Difference]| list.iter().map(ToString::to_string).collect::<Vec<String>>();
    let (hints, differences) = (lines(&hints), lines(&differences));
    if out.json {
        out.data(&json!({ "applied": is_apply, "differences": differences, "hints": hints }));
    } else {
        let mut lines = differences.clone();
        if differences.is_empty() {
            let topics = specs().map_err(EngineError::Internal)?.len();
            lines.push(format!("all {topics} topics are as they should be"));
        } else if is_apply {
            lines.push("done".to_owned());
        }
        lines.extend(hints);
        out.line(&lines.join("\n"));
    }
    if is_apply || differences.is_empty() {
        return Ok(());
    }
    let found = count(differences.len(), "difference");
    Err(EngineError::Differs(format!("{found}: 'p2engine topics apply' does what is said above")))
}

/// Where nothing was ever processed, the groups begin at the beginning: from then on a group without progress is one
/// that has lost it.
async fn begin(config: &KafkaConfig) -> EngineResult<()> {
    let log = KafkaLog::connect(config.clone()).await.map_err(engine_error)?;
    for partition in 0..log.partitions(Topic::StateTransitions) {
        let (_, end) = log.bounds(Topic::StateTransitions, partition).await.map_err(engine_error)?;
        if end > 0 {
            return Ok(());
        }
    }
    for (processor, input) in INPUTS {
        let group = format!("p2.{processor}");
        begin_group(config, &group, input, Begin::Earliest).await.map_err(engine_error)?;
    }
    Ok(())
}

/// `store …`.
pub(crate) async fn store(config: &Config, command: &StoreCommand, out: Output) -> EngineResult<()> {
    let scylla = config.scylla.as_ref().ok_or_else(|| EngineError::Invalid(NO_STORE.to_owned()))?;
    let keyspace = &scylla.value.keyspace;
    let failed = |error: p2_scylla::OpenError| EngineError::Unavailable(error.to_string());
    let (before, applied) = match command {
        StoreCommand::Apply => (p2_scylla::migrate(&scylla.value).await.map_err(failed)?, true),
        StoreCommand::Status => (p2_scylla::check(&scylla.value).await.map_err(failed)?, false),
    };
    let complaint = before.complaint(keyspace);
    if out.json {
        out.data(
            &json!({ "keyspace": keyspace, "before": format!("{before:?}"), "applied": applied, "complaint": complaint }),
        );
    } else {
        match (&complaint, applied) {
            (None, _) => out.line(&format!("keyspace {keyspace}: the tables are as they should be")),
            (Some(_), true) => {
                out.line(&format!("keyspace {keyspace}: tables made, version {}", p2_scylla::SCHEMA_VERSION));
            }
            (Some(_), false) => {}
        }
    }
    match complaint {
        Some(complaint) if !applied => Err(EngineError::Differs(complaint)),
        _ => Ok(()),
    }
}
