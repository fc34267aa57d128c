//! `topics copy`.

use std::path::Path;
use std::sync::Arc;

use p2_core::record::Topic;
use p2_embedded::{Embedded, Options};
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_stream::copy::{Copied, copy};
use p2_stream::ports::Log;
use serde_json::{Map, Value, json};

use super::cluster::NO_KAFKA;
use crate::args::TopicsCopy;
use crate::backend::{INPUTS, engine_error, framing, seen};
use crate::config::Config;
use crate::engine::{EngineError, EngineResult};
use crate::output::Output;

/// Copies into the configured log on Kafka.
pub(crate) async fn run(config: &Config, from: &TopicsCopy, out: Output) -> EngineResult<()> {
    let kafka = config.kafka.as_ref().ok_or_else(|| EngineError::Invalid(NO_KAFKA.to_owned()))?;
    let target = KafkaLog::connect(kafka.value.clone()).await.map_err(engine_error)?;
    nobody_works(&target).await?;
    let framed = framing(config, &target).await?;
    let source: Arc<dyn Log> = match (&from.from_data_dir, &from.from_prefix) {
        (Some(dir), _) => directory(dir).await?,
        (None, prefix) => {
            let prefix = prefix.clone().unwrap_or_default();
            if prefix == kafka.value.prefix {
                return Err(EngineError::Invalid(format!(
                    "source and target have the same prefix '{prefix}': set kafka.prefix (P2_KAFKA_PREFIX) to that \
                     of the new topics"
                )));
            }
            let source = KafkaLog::connect(KafkaConfig { prefix, ..kafka.value.clone() }).await;
            let source = source.map_err(engine_error)?;
            nobody_works(&source).await?;
            seen(framed.as_ref(), &source)
        }
    };
    let copied = copy_all(source.as_ref(), seen(framed.as_ref(), &target).as_ref(), out).await?;
    target.left(std::time::Duration::from_secs(5)).await;
    show(&copied, out);
    Ok(())
}

async fn directory(dir: &Path) -> EngineResult<Arc<dyn Log>> {
    let path = dir.join("format");
    if !path.exists() {
        return Err(EngineError::NotFound(format!("{}: there is no data directory", dir.display())));
    }
    let specs = p2_stream::topics::specs().map_err(EngineError::Internal)?;
    let partitions = Topic::ALL.into_iter().zip(specs.iter().map(|spec| spec.partitions)).collect();
    let options = Options { partitions, ..Options::default() };
    let dir = dir.to_owned();
    let opened = tokio::task::spawn_blocking(move || Embedded::open(dir, &options)).await;
    let opened = opened.map_err(|error| EngineError::Internal(error.to_string()))?;
    let embedded = opened.map_err(|error| EngineError::Unavailable(error.to_string()))?;
    Ok(Arc::new(embedded.log()))
}

/// Nothing may run on either side.
async fn nobody_works(log: &KafkaLog) -> EngineResult<()> {
    for (processor, _) in INPUTS {
        let members = log.group_members(&format!("p2.{processor}")).await.map_err(engine_error)?;
        if let Some(member) = members.first() {
            let message = format!("{processor} is running ({member}): stop everything, then copy");
            return Err(EngineError::Refused { code: "running".to_owned(), message });
        }
    }
    Ok(())
}

async fn copy_all(source: &dyn Log, target: &dyn Log, out: Output) -> EngineResult<Copied> {
    let mut expected = 0;
    for topic in Topic::ALL {
        for partition in 0..source.partitions(topic) {
            let (start, end) = source.bounds(topic, partition).await.map_err(engine_error)?;
            expected += u64::try_from(end - start).unwrap_or(0);
        }
    }
    let bar = out.progress(expected, "records");
    let groups: Vec<(String, Topic)> =
        INPUTS.into_iter().map(|(name, input)| (format!("p2.{name}"), input)).collect();
    let groups: Vec<(&str, Topic)> = groups.iter().map(|(group, input)| (group.as_str(), *input)).collect();
    let copied = copy(source, target, &groups, |count| bar.inc(count)).await;
    bar.finish_and_clear();
    copied.map_err(|error| EngineError::Refused { code: "copy".to_owned(), message: error.to_string() })
}

fn show(copied: &Copied, out: Output) {
    if out.json {
        let records: Map<String, Value> =
            copied.records.iter().map(|(topic, count)| (topic.short().to_owned(), json!(count))).collect();
        out.data(&json!({ "records": records, "pending": copied.pending }));
        return;
    }
    for (topic, count) in &copied.records {
        out.line(&format!("{count:>8} records of {}", topic.short()));
    }
    for (group, count) in copied.pending.iter().filter(|(_, count)| **count > 0) {
        out.line(&format!("{group} goes on with {count} that are not finished"));
    }
    out.line("The view is filled at the next start of agent-step");
}
