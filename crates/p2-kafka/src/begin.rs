//! The first progress of a group: written by the one who makes the topics, so that a group without any is always
//! one that lost it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use p2_core::record::Topic;
use p2_stream::ports::LogError;
use p2_stream::runtime::Progress;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;

use crate::behind;
use crate::config::KafkaConfig;
use crate::context::Context;
use crate::fence;
use crate::log::{blocking, partition_counts};
use crate::records::Names;

/// Where a group begins that has no progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the first record that is kept.
    Earliest,
    /// After the last one.
    Latest,
    /// At the first record at or after a time, milliseconds since the epoch.
    Time(i64),
    /// With this progress, by partition; a partition that is missing begins at its first record.
    Progress(BTreeMap<i32, Progress>),
}

/// Commits where `group` (`p2.<processor>`, without prefix) begins on `topic`, for those partitions for which it has
/// no progress. Returns how many. The group must have no members.
///
/// # Errors
/// [`LogError::NotFound`] for a missing topic, [`LogError::Refused`] where the group has members,
/// [`LogError::Unavailable`] where no broker answers.
pub async fn begin_group(
    config: &KafkaConfig,
    group: &str,
    topic: Topic,
    begin: Begin,
) -> Result<usize, LogError> {
    let config = config.clone();
    let group = format!("{}{group}", config.prefix);
    blocking(move || {
        let until = Instant::now() + Duration::from_millis(u64::from(config.request_timeout_ms));
        loop {
            // The partitions of a new topic have no leader yet for a moment.
            match begin_blocking(&config, &group, topic, &begin) {
                Err(LogError::Unavailable(_)) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                done => return done,
            }
        }
    })
    .await
}

fn begin_blocking(config: &KafkaConfig, group: &str, topic: Topic, begin: &Begin) -> Result<usize, LogError> {
    let names = Names::new(&config.prefix);
    let name = names.of(topic);
    let longest = Duration::from_millis(u64::from(config.request_timeout_ms));
    let client = behind::client(config, group)?;
    let failed = |error: KafkaError| match client.context().refusal() {
        Some(refusal) => LogError::Refused(refusal),
        None => LogError::Unavailable(format!("the progress of group {group} cannot be written: {error}")),
    };
    let counts = partition_counts(config, &client)?;
    let Some(count) = counts.get(name).copied() else {
        return Err(LogError::NotFound(format!("{name} is missing: create it with p2engine topics apply")));
    };
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range(name, 0, count - 1);
    let mut known = client.committed_offsets(asked.clone(), longest).map_err(failed)?;
    if known.elements().iter().any(|element| !matches!(element.offset(), Offset::Offset(_))) {
        // Nothing is put over progress that the coordinator only has not loaded.
        known = fence::progress(&client, &names, &asked, longest, || client.context().refusal())?;
    }
    let now_ms = p2_stream::shell::now_ms();
    let mut first = TopicPartitionList::new();
    for element in known.elements_for_topic(name) {
        if matches!(element.offset(), Offset::Offset(_)) {
            continue;
        }
        let partition = element.partition();
        let (low, high) = client.fetch_watermarks(name, partition, longest).map_err(failed)?;
        let at = |offset: i64| Progress::at(offset.clamp(low, high));
        let progress = match begin {
            Begin::Earliest => at(low),
            Begin::Latest => at(high),
            Begin::Time(time_ms) => {
                at(offset_at(&client, name, partition, *time_ms, longest).map_err(failed)?)
            }
            Begin::Progress(known) => known.get(&partition).cloned().unwrap_or_else(|| at(low)),
        };
        let progress = progress.begun(now_ms).encode();
        first.add_partition_offset(name, partition, Offset::Offset(progress.offset)).map_err(failed)?;
        if let Some(mut element) = first.find_partition(name, partition) {
            element.set_metadata(progress.metadata);
        }
    }
    if first.count() > 0 {
        client.commit(&first, CommitMode::Sync).map_err(failed)?;
    }
    Ok(first.count())
}

fn offset_at(
    client: &BaseConsumer<Context>,
    name: &str,
    partition: i32,
    time_ms: i64,
    longest: Duration,
) -> Result<i64, KafkaError> {
    let mut times = TopicPartitionList::new();
    times.add_partition_offset(name, partition, Offset::Offset(time_ms))?;
    let found = client.offsets_for_times(times, longest)?;
    let element = found.find_partition(name, partition);
    Ok(match element.map(|element| element.offset()) {
        Some(Offset::Offset(offset)) => offset,
        _ => i64::MAX,
    })
}
