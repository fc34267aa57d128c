//! Ranges of committed records, and the bounds of partitions.
//!
//! A few consumers outside of any group take turns. One that was left in the middle of a partition goes on
//! where the next read of that partition begins, so that reading a partition to its end in pieces costs one
//! start. All functions block.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use p2_core::record::Topic;
use p2_stream::ports::{LogError, StoredRecord};
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::Offset;

use crate::config::{self, KafkaConfig};
use crate::context::{Context, lock};
use crate::ownership::Lane;
use crate::records::{self, Names};

/// Readers that are kept; also the most reads at a time.
pub(crate) const READERS_MAX: usize = 4;
/// Longest wait for where a topic is.
pub(crate) const METADATA_MAX: Duration = Duration::from_secs(2);
/// Longest wait for the leader of a partition, before it is asked who leads now.
const LEADER_MAX: Duration = Duration::from_secs(2);
/// Longest wait for what one round of brokers says of a group.
const GROUP_MAX: Duration = Duration::from_secs(3);
/// Most bytes of values that one read returns, beyond the first record.
const BYTES_MAX: usize = 16 << 20;

type Client = BaseConsumer<Context>;

/// What is wanted of a message: [`records::stored`] or [`records::values`].
pub(crate) type Wanted = fn(&Names, &BorrowedMessage<'_>) -> Option<StoredRecord>;

/// Reads ranges and bounds.
pub(crate) struct Readers {
    config: KafkaConfig,
    names: Names,
    /// Asks for high watermarks.
    latest: Client,
    /// Asks for last stable offsets.
    stable: Client,
    idle: Mutex<Vec<Reader>>,
}

struct Reader {
    client: Client,
    /// The partition that it is in the middle of, and the offset that comes next.
    at: Option<(Lane, i64)>,
    /// Those that it was given already.
    topics: BTreeSet<Topic>,
}

/// Makes a client that asks for metadata and offsets.
///
/// # Errors
/// [`LogError::Refused`] for settings that the client library does not take.
pub(crate) fn asker(config: &KafkaConfig, isolation: &str) -> Result<Client, LogError> {
    let made = Client::from_config_and_context(&config.asker(isolation), Context::default());
    made.map_err(|error| config::property(&error))
}

fn away(what: &str, client: &Client, error: &KafkaError) -> LogError {
    let context = client.context();
    if let Some(refusal) = context.refusal() {
        return LogError::Refused(refusal);
    }
    let why = context.last().map(|last| format!(" ({last})")).unwrap_or_default();
    LogError::Unavailable(format!("{what}: {error}{why}"))
}

/// (log start, end): the end is the high watermark, or the last stable offset with a read_committed client.
fn watermarks(
    client: &Client,
    name: &str,
    partition: i32,
    longest: Duration,
) -> Result<(i64, i64), LogError> {
    let until = Instant::now() + longest;
    loop {
        // One try waits for the leader that the client knows, also where that one is gone for good and another leads.
        let left = until.saturating_duration_since(Instant::now());
        let found = client.fetch_watermarks(name, partition, left.min(LEADER_MAX));
        serve(client);
        match found {
            Err(error) if (is_moving(&error) || is_late(&error)) && Instant::now() < until => {
                // A broker that has just started may answer that there is no such topic, and the client believes it
                // for minutes (`topic.metadata.refresh.interval.ms`) unless it asks again.
                find_topics(client, [name], METADATA_MAX);
                std::thread::sleep(Duration::from_millis(50));
            }
            found => {
                return found.map_err(|error| {
                    away(&format!("bounds of {name} partition {partition}"), client, &error)
                });
            }
        }
    }
}

/// The leader did not answer in time, or the client has just learned that it is none any more.
fn is_late(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::DestroyBroker
        )
    )
}

/// A partition that is new or gets another leader: soon over.
fn is_moving(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::OffsetNotAvailable
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopic
        )
    )
}

/// A broker that has just started or taken over a group: soon over.
fn is_loading(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::NotCoordinator
        )
    )
}

/// A broker that does not answer: the others know soon that it is away.
fn is_away(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::Partial
        )
    )
}

/// A member id is made by the broker: the instance id or else the client id, '-' and a UUID.
fn member_name(id: &str) -> &str {
    const UUID: usize = 36;
    let cut = id.len().checked_sub(UUID + 1).and_then(|at| id.split_at_checked(at));
    match cut {
        Some((name, uuid)) if uuid.starts_with('-') && !name.is_empty() => name,
        _ => id,
    }
}

/// Takes log lines and errors out of the queue of a client that nobody polls otherwise.
pub(crate) fn serve(client: &Client) {
    for _ in 0..100 {
        if client.poll(Duration::ZERO).is_none() {
            break;
        }
    }
}

/// Makes a client look where the topics are that it was just assigned: by itself it looks for new ones once a second.
/// Any answer about a topic tells it; whether one comes within `longest` does not matter.
pub(crate) fn find_topics<'n, C: ConsumerContext>(
    client: &impl Consumer<C>,
    names: impl IntoIterator<Item = &'n str>,
    longest: Duration,
) {
    let until = Instant::now() + longest;
    for name in names {
        let _ = client.fetch_metadata(Some(name), until.saturating_duration_since(Instant::now()));
    }
}

impl Readers {
    pub(crate) fn new(config: &KafkaConfig, latest: Client) -> Result<Readers, LogError> {
        Ok(Readers {
            config: config.clone(),
            names: Names::new(&config.prefix),
            latest,
            stable: asker(config, "read_committed")?,
            idle: Mutex::default(),
        })
    }

    fn longest(&self) -> Duration {
        Duration::from_millis(u64::from(self.config.request_timeout_ms))
    }

    /// (first offset kept, high watermark).
    pub(crate) fn bounds(&self, lane: Lane) -> Result<(i64, i64), LogError> {
        watermarks(&self.latest, self.names.of(lane.0), lane.1, self.longest())
    }

    /// The offset of the first committed record that is not older than this time; the high watermark where there
    /// is none. Nothing where the broker's answer does not help: to it, markers of transactions are records too,
    /// of the time when they were written.
    pub(crate) fn offset_at(&self, lane: Lane, time_ms: i64) -> Result<Option<i64>, LogError> {
        let name = self.names.of(lane.0);
        let mut times = TopicPartitionList::new();
        let bad =
            |error| away(&format!("offset by time in {name} partition {}", lane.1), &self.latest, &error);
        // Times below 0 are questions of another kind.
        times.add_partition_offset(name, lane.1, Offset::Offset(time_ms.max(0))).map_err(bad)?;
        let found = self.latest.offsets_for_times(times, self.longest());
        serve(&self.latest);
        let offset = found.map_err(bad)?.find_partition(name, lane.1).map(|element| element.offset());
        let end = || Ok(Some(self.bounds(lane)?.1));
        let Some(Offset::Offset(offset)) = offset else { return end() };
        match self.read(lane, offset, 1)?.first() {
            None => end(),
            Some(found) if found.record.time_ms >= time_ms => Ok(Some(found.offset)),
            Some(_) => Ok(None),
        }
    }

    /// The names of the members of a group.
    pub(crate) fn group_members(&self, group: &str) -> Result<Vec<String>, LogError> {
        let until = Instant::now() + self.longest();
        let found = loop {
            let left = until.saturating_duration_since(Instant::now());
            // Every broker that the client knows is asked, and it is an error where one does not answer: so it learns
            // first which there are.
            let _ = self.latest.fetch_metadata(None, left.min(METADATA_MAX));
            let found = self.latest.fetch_group_list(Some(group), left.min(GROUP_MAX));
            serve(&self.latest);
            match found {
                // A broker that has just started still reads its groups, and says so for any group.
                Err(error) if (is_loading(&error) || is_away(&error)) && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                found => break found,
            }
        };
        let found =
            found.map_err(|error| away(&format!("members of the group {group}"), &self.latest, &error))?;
        let mut names = Vec::new();
        for info in found.groups().iter().filter(|info| info.name() == group) {
            if info.state() == "Dead" {
                return Err(LogError::Refused(format!(
                    "{group} is a group of the new protocol (kafka.protocol = consumer): who is in it is told by \
                     kafka-consumer-groups --describe --members --group {group}"
                )));
            }
            names.extend(info.members().iter().map(|member| member_name(member.id()).to_owned()));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The id of the cluster.
    pub(crate) fn cluster_id(&self) -> Result<String, LogError> {
        let found = self.latest.client().fetch_cluster_id(self.longest());
        serve(&self.latest);
        found.ok_or_else(|| away("the id of the cluster", &self.latest, &KafkaError::NoMessageReceived))
    }

    /// Committed records from `from` on. Empty only where all below the high watermark, as of the call, is
    /// decided and nothing of it is visible: an open transaction there is waited for.
    pub(crate) fn read(&self, lane: Lane, from: i64, max: usize) -> Result<Vec<StoredRecord>, LogError> {
        self.read_as(records::stored, lane, from, max)
    }

    /// As [`Readers::read`], with what is wanted of a message.
    pub(crate) fn read_as(
        &self,
        wanted: Wanted,
        lane: Lane,
        from: i64,
        max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        if let Some(records) = self.read_on(wanted, lane, from, max) {
            return Ok(records);
        }
        let name = self.names.of(lane.0);
        let (start, mark) = self.bounds(lane)?;
        if from < start {
            return Err(LogError::before_start(lane.0, lane.1, from, start));
        }
        if from >= mark {
            return Ok(Vec::new());
        }
        let open = Duration::from_millis(u64::from(self.config.transaction_timeout_ms));
        let until = Instant::now() + self.longest() + open;
        loop {
            let (_, stable) = watermarks(&self.stable, name, lane.1, self.longest())?;
            if stable > from {
                let records = self.read_stable(wanted, lane, from, max, until)?;
                if !records.is_empty() {
                    return Ok(records);
                }
            }
            if stable >= mark {
                return Ok(Vec::new());
            }
            if Instant::now() >= until {
                return Err(LogError::Unavailable(format!(
                    "{name} partition {} cannot be read beyond offset {stable}: a transaction is open there, the \
                     broker aborts it when its time-out is over",
                    lane.1
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Committed records among the newest `offsets` offsets below the last stable one. Waits for no transaction.
    pub(crate) fn newest(&self, lane: Lane, offsets: i64) -> Result<Vec<StoredRecord>, LogError> {
        let max = usize::try_from(offsets).unwrap_or(0);
        let (start, stable) = watermarks(&self.stable, self.names.of(lane.0), lane.1, self.longest())?;
        let from = stable.saturating_sub(offsets).max(start);
        if from >= stable || max == 0 {
            return Ok(Vec::new());
        }
        self.read_stable(records::stored, lane, from, max, Instant::now() + self.longest())
    }

    /// What a reader has next that stands at this very offset: no question to the broker, and mostly no waiting.
    /// Nothing where there is none, or it is at the end.
    fn read_on(&self, wanted: Wanted, lane: Lane, from: i64, max: usize) -> Option<Vec<StoredRecord>> {
        let mut reader = {
            let mut idle = lock(&self.idle);
            let fits = idle.iter().position(|reader| reader.at == Some((lane, from)))?;
            idle.swap_remove(fits)
        };
        let until = Instant::now() + self.longest();
        let records = reader.read((&self.names, wanted), lane, from, max, until).ok()?;
        self.put_back(reader);
        (!records.is_empty()).then_some(records)
    }

    fn put_back(&self, reader: Reader) {
        let mut idle = lock(&self.idle);
        if idle.len() < READERS_MAX {
            idle.push(reader);
        }
    }

    /// Whether it is known that there is no committed record from `from` up to before `to`.
    pub(crate) fn is_gap(&self, lane: Lane, from: i64, to: i64) -> bool {
        let next = self.read(lane, from, 1);
        next.is_ok_and(|found| found.first().is_none_or(|record| record.offset >= to))
    }

    fn read_stable(
        &self,
        wanted: Wanted,
        lane: Lane,
        from: i64,
        max: usize,
        until: Instant,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let mut reader = self.take(lane, from)?;
        let read = reader.read((&self.names, wanted), lane, from, max, until);
        if read.is_ok() {
            self.put_back(reader);
        }
        read
    }

    fn take(&self, lane: Lane, from: i64) -> Result<Reader, LogError> {
        let mut idle = lock(&self.idle);
        let fits = idle.iter().position(|reader| reader.at == Some((lane, from)));
        let any = || idle.iter().position(|reader| reader.at.is_none()).or(idle.len().checked_sub(1));
        if let Some(index) = fits.or_else(any) {
            return Ok(idle.swap_remove(index));
        }
        let made = Client::from_config_and_context(&self.config.reader(), Context::default());
        let client = made.map_err(|error| config::property(&error))?;
        Ok(Reader { client, at: None, topics: BTreeSet::new() })
    }
}

impl Reader {
    /// Reads to the last stable offset or `max` records. An error leaves a reader of no use.
    fn read(
        &mut self,
        (names, wanted): (&Names, Wanted),
        lane: Lane,
        from: i64,
        max: usize,
        until: Instant,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let what = || format!("reading {} partition {} from {from}", names.of(lane.0), lane.1);
        if self.at != Some((lane, from)) {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(names.of(lane.0), lane.1, Offset::Offset(from))
                .and_then(|()| self.client.assign(&list))
                .map_err(|error| away(&what(), &self.client, &error))?;
            if self.topics.insert(lane.0) {
                let left = until.saturating_duration_since(Instant::now()).min(METADATA_MAX);
                find_topics(&self.client, [names.of(lane.0)], left);
            }
        }
        let mut found: Vec<StoredRecord> = Vec::new();
        let mut bytes = 0;
        let mut at_end = false;
        while found.len() < max && bytes < BYTES_MAX && !at_end {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match self.client.poll(left.min(Duration::from_millis(500))) {
                None => {}
                Some(Ok(message)) => {
                    let next = found.last().map_or(from, |last| last.offset + 1);
                    let Some(stored) = wanted(names, &message) else { continue };
                    if (stored.record.topic, stored.record.partition) == lane && stored.offset >= next {
                        bytes += stored.record.value.len();
                        found.push(stored);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => at_end = partition == lane.1,
                Some(Err(error)) if is_permanent(&error) => return Err(away(&what(), &self.client, &error)),
                Some(Err(error)) => tracing::debug!(%error, "while reading a range"),
            }
        }
        if found.is_empty() && !at_end {
            return Err(away(&what(), &self.client, &KafkaError::NoMessageReceived));
        }
        self.at = None;
        if at_end {
            // An assignment that nobody reads would be fetched for nothing.
            self.client.unassign().map_err(|error| away(&what(), &self.client, &error))?;
        } else {
            self.at = found.last().map(|last| (lane, last.offset + 1));
        }
        Ok(found)
    }
}

fn is_permanent(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
        )
    )
}

/// Readers shared by tasks.
pub(crate) type SharedReaders = Arc<Readers>;
