//! How far a group has come, for who only looks.

use std::collections::BTreeMap;
use std::time::Duration;

use p2_core::record::Topic;
use p2_stream::ports::{CommittedOffset, LogError};
use p2_stream::runtime::Progress;
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;

use crate::config::{self, KafkaConfig};
use crate::context::Context;
use crate::log::{KafkaLog, blocking};
use crate::records::Names;

impl KafkaLog {
    /// The committed progress of `group` (`p2.<processor>`, without prefix) by partition of its input; a partition
    /// without any is missing. It may be a moment old: an owner asks in a way that can be relied on, this does not.
    ///
    /// # Errors
    /// [`LogError::Refused`] for credentials and rights; [`LogError::Unavailable`] where the coordinator does not answer, or
    /// the metadata is of another format.
    pub async fn group_progress(
        &self,
        group: &str,
        topic: Topic,
    ) -> Result<BTreeMap<i32, Progress>, LogError> {
        let (config, count) = (self.inner.config.clone(), p2_stream::ports::Log::partitions(self, topic));
        let group = format!("{}{group}", config.prefix);
        blocking(move || progress(&config, &group, topic, count)).await
    }
}

/// A client that asks for a group's progress, and sets it, and is no member of it.
pub(crate) fn client(config: &KafkaConfig, group: &str) -> Result<BaseConsumer<Context>, LogError> {
    BaseConsumer::from_config_and_context(&config.of_group(group), Context::default())
        .map_err(|error| config::property(&error))
}

fn progress(
    config: &KafkaConfig,
    group: &str,
    topic: Topic,
    count: i32,
) -> Result<BTreeMap<i32, Progress>, LogError> {
    let names = Names::new(&config.prefix);
    let longest = Duration::from_millis(u64::from(config.request_timeout_ms));
    let client = client(config, group)?;
    let failed = |error: KafkaError| match client.context().refusal() {
        Some(refusal) => LogError::Refused(refusal),
        None => LogError::Unavailable(format!("the progress of group {group} cannot be read: {error}")),
    };
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range(names.of(topic), 0, count - 1);
    // The list must not outlive the client: one that is alive while a consumer is dropped hangs it.
    let found = client.committed_offsets(asked, longest).map_err(failed)?;
    let mut known = BTreeMap::new();
    for element in found.elements() {
        element.error().map_err(failed)?;
        let Offset::Offset(offset) = element.offset() else { continue };
        let committed = CommittedOffset { offset, metadata: element.metadata().to_owned() };
        let progress = Progress::decode(&committed).map_err(|why| {
            LogError::Unavailable(format!("group {group}, partition {}: {why}", element.partition()))
        })?;
        known.insert(element.partition(), progress);
    }
    Ok(known)
}
