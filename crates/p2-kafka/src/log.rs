//! [`KafkaLog`]: the port.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use p2_core::record::{Position, Topic};
use p2_stream::outage::SHUTTING_DOWN;
use p2_stream::ports::{Follower, Log, LogError, Member, NewRecord, StoredRecord, search_by_time};
use p2_stream::topics::{CO_PARTITIONED, CO_PARTITIONED_BY_BOOK};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::{Notify, OnceCell, Semaphore};

use crate::committer::{Settled, settle_by_position};
use crate::config::{KafkaConfig, process_name};
use crate::context::{Context, lock};
use crate::ownership::Lane;
use crate::producer::{Answers, Polled};
use crate::reader::{self, READERS_MAX, Readers, SharedReaders, Wanted};
use crate::records::{self, Names};
use crate::transactor::{Outcome, Transactor};
use crate::{follower, member};

/// How long topics may be missing.
const TOPICS_MAX: Duration = Duration::from_secs(1);

/// The log on Kafka. Clones are handles of the same connection.
#[derive(Clone)]
pub struct KafkaLog {
    pub(crate) inner: Arc<Inner>,
}

/// What all handles and members of one connection share.
pub(crate) struct Inner {
    pub(crate) config: KafkaConfig,
    pub(crate) names: Names,
    pub(crate) readers: SharedReaders,
    partitions: BTreeMap<Topic, i32>,
    reads: Semaphore,
    /// Made for the first record: who only reads needs none.
    appender: OnceCell<Polled<Answers>>,
    answers: Answers,
    batches: Arc<tokio::sync::Mutex<Transactor>>,
    slots: Arc<Slots>,
}

impl Inner {
    pub(crate) fn partitions(&self, topic: Topic) -> i32 {
        self.partitions.get(&topic).copied().unwrap_or(0)
    }
}

/// Which slots of which groups are taken in this process.
#[derive(Default)]
pub(crate) struct Slots {
    taken: Mutex<BTreeMap<String, BTreeMap<usize, bool>>>,
    freed: Notify,
}

/// A slot of one group; free again when this is dropped.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    group: String,
    index: usize,
}

impl Slot {
    /// The member is closing: whoever joins waits for the slot instead of taking another one.
    pub(crate) fn closing(&self) {
        if let Some(is_closing) =
            lock(&self.slots.taken).entry(self.group.clone()).or_default().get_mut(&self.index)
        {
            *is_closing = true;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.slots.taken).entry(self.group.clone()).or_default().remove(&self.index);
        self.slots.freed.notify_waiters();
    }
}

impl Slots {
    /// Takes the first slot that no live member has; waits for one that is closing.
    async fn take(self: &Arc<Self>, group: &str) -> Slot {
        loop {
            let freed = self.freed.notified();
            {
                let mut taken = lock(&self.taken);
                let of_group = taken.entry(group.to_owned()).or_default();
                let index = (0..).find(|index| of_group.get(index) != Some(&false)).unwrap_or_default();
                if let Entry::Vacant(free) = of_group.entry(index) {
                    free.insert(false);
                    return Slot { slots: Arc::clone(self), group: group.to_owned(), index };
                }
            }
            // Woken by the end of a member; looks again anyway, a wake-up may be missed by a hair.
            let _ = tokio::time::timeout(Duration::from_millis(100), freed).await;
        }
    }

    fn is_empty(&self) -> bool {
        lock(&self.taken).values().all(BTreeMap::is_empty)
    }
}

impl KafkaLog {
    /// Connects, and checks that the topics are there and fit each other.
    ///
    /// # Errors
    /// [`LogError::Refused`] for settings, credentials or partition counts that do not fit,
    /// [`LogError::NotFound`] for missing topics, [`LogError::Unavailable`] where no broker answers.
    pub async fn connect(config: KafkaConfig) -> Result<KafkaLog, LogError> {
        config.check()?;
        blocking(move || KafkaLog::connect_blocking(config)).await
    }

    fn connect_blocking(config: KafkaConfig) -> Result<KafkaLog, LogError> {
        let names = Names::new(&config.prefix);
        let latest = reader::asker(&config, "read_uncommitted")?;
        let until = Instant::now() + TOPICS_MAX;
        let (counts, missing) = loop {
            let counts = partition_counts(&config, &latest)?;
            let missing: Vec<&str> = Topic::ALL
                .into_iter()
                .map(|topic| names.of(topic))
                .filter(|name| !counts.contains_key(*name))
                .collect();
            // Of several brokers one knows a new topic a little later than another.
            if missing.is_empty() || Instant::now() >= until {
                break (counts, missing);
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        if !missing.is_empty() {
            return Err(LogError::NotFound(format!(
                "Kafka at {} has no topic {}: create them with p2engine topics apply",
                config.brokers,
                missing.join(", ")
            )));
        }
        let count = |topic: Topic| counts.get(names.of(topic)).copied().unwrap_or(0);
        let partitions: BTreeMap<Topic, i32> =
            Topic::ALL.into_iter().map(|topic| (topic, count(topic))).collect();
        check_counts(&names, &partitions)?;
        let batches = Transactor::new(&config, format!("{}p2.append-{}", config.prefix, process_name()));
        Ok(KafkaLog {
            inner: Arc::new(Inner {
                readers: Arc::new(Readers::new(&config, latest)?),
                partitions,
                reads: Semaphore::new(READERS_MAX),
                appender: OnceCell::new(),
                answers: Answers::default(),
                batches: Arc::new(tokio::sync::Mutex::new(batches)),
                slots: Arc::default(),
                names,
                config,
            }),
        })
    }

    /// The live members of a group (`p2.<processor>`), by name, ascending: the instance id, which ends with the
    /// slot, or the client id of a member without one. Empty where the group is not there.
    ///
    /// # Errors
    /// [`LogError::Refused`] for a group of the new protocol (KIP-848), whose members the client library cannot
    /// ask for; [`LogError::Unavailable`].
    pub async fn group_members(&self, group: &str) -> Result<Vec<String>, LogError> {
        let readers = Arc::clone(&self.inner.readers);
        let group = format!("{}{group}", self.inner.config.prefix);
        blocking(move || readers.group_members(&group)).await
    }

    /// The id that the cluster was given when it was formatted: another cluster has another one.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] where no broker answers.
    pub async fn cluster_id(&self) -> Result<String, LogError> {
        let readers = Arc::clone(&self.inner.readers);
        blocking(move || readers.cluster_id()).await
    }

    /// Waits until every member that was dropped has left its group, at most `longest`. Whether all have.
    pub async fn left(&self, longest: Duration) -> bool {
        let until = Instant::now() + longest;
        while !self.inner.slots.is_empty() && Instant::now() < until {
            let _ = tokio::time::timeout(Duration::from_millis(20), self.inner.slots.freed.notified()).await;
        }
        self.inner.slots.is_empty()
    }

    fn check_lane(&self, topic: Topic, partition: i32) -> Result<(), LogError> {
        records::check_lane(topic, partition, self.partitions(topic))
    }

    async fn read_as(
        &self,
        wanted: Wanted,
        lane: Lane,
        from: i64,
        records_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.check_lane(lane.0, lane.1)?;
        let turn = self.inner.reads.acquire().await;
        let _turn = turn.map_err(|_| LogError::Unavailable("the log is closed".to_owned()))?;
        let readers = Arc::clone(&self.inner.readers);
        blocking(move || readers.read_as(wanted, lane, from, records_max)).await
    }

    async fn append_one(&self, record: &NewRecord) -> Result<Position, LogError> {
        let longest = Duration::from_millis(u64::from(self.inner.config.request_timeout_ms));
        let inner = Arc::clone(&self.inner);
        let start = move || Polled::start(&inner.config.appender(), inner.answers.clone());
        let appender = self.inner.appender.get_or_try_init(|| blocking(start)).await?;
        let delivered = appender.send(self.inner.names.of(record.topic), record, longest).await;
        let (partition, offset) = delivered.map_err(|error| self.append_error(record.topic, &error))?;
        Ok(Position { topic: record.topic, partition, offset })
    }

    fn append_error(&self, topic: Topic, error: &KafkaError) -> LogError {
        let name = self.inner.names.of(topic);
        if let Some(refusal) = self.inner.answers.0.refusal() {
            return LogError::Refused(refusal);
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => LogError::TooLarge(format!(
                "a record for {name} is larger than the topic's max.message.bytes or the client's \
                 message.max.bytes: raise them, or make it smaller"
            )),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                LogError::NotFound(format!("{name} is gone: create it with p2engine topics apply"))
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => LogError::Refused(format!(
                "the broker does not let this client write to {name}: grant it WRITE"
            )),
            _ => LogError::Unavailable(format!(
                "a record for {name} was not acknowledged ({error}): it may have been written all the same"
            )),
        }
    }

    /// Several records: one transaction, so that it is all or none.
    async fn append_batch(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, LogError> {
        let mut batches = Arc::clone(&self.inner.batches).lock_owned().await;
        let readers = Arc::clone(&self.inner.readers);
        let longest = Duration::from_millis(u64::from(self.inner.config.request_timeout_ms));
        blocking(move || match batches.run(&records, None) {
            Outcome::Committed(positions) => Ok(positions),
            Outcome::Unfit(reason) => Err(LogError::TooLarge(reason)),
            Outcome::Refused(reason) => Err(LogError::Refused(reason)),
            Outcome::Aborted(reason) | Outcome::Stale(reason) | Outcome::Fenced(reason) => {
                Err(LogError::Unavailable(format!("nothing was written: {reason}")))
            }
            Outcome::Unknown { reason, positions } => {
                // The next producer settles what became of it; then it is there, or it is not.
                let settled = match batches.ready(longest) {
                    Ok(()) => settle_by_position(&readers, &positions),
                    Err(_) => Settled::Unknown,
                };
                match settled {
                    Settled::Committed => Ok(positions),
                    Settled::Aborted => Err(LogError::Unavailable(format!("nothing was written: {reason}"))),
                    Settled::Unknown => {
                        Err(LogError::Unavailable(format!("{reason}: it may have been written all the same")))
                    }
                }
            }
        })
        .await
    }
}

#[async_trait]
impl Log for KafkaLog {
    fn partitions(&self, topic: Topic) -> i32 {
        self.inner.partitions(topic)
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, LogError> {
        records::check(&records, |topic| self.partitions(topic))?;
        match records.as_slice() {
            [] => Ok(Vec::new()),
            [record] => Ok(vec![self.append_one(record).await?]),
            _ => self.append_batch(records).await,
        }
    }

    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        records_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.read_as(records::stored, (topic, partition), from, records_max).await
    }

    async fn read_values(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        records_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.read_as(records::values, (topic, partition), from, records_max).await
    }

    async fn newest(
        &self,
        topic: Topic,
        partition: i32,
        offsets: i64,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.check_lane(topic, partition)?;
        let turn = self.inner.reads.acquire().await;
        let _turn = turn.map_err(|_| LogError::Unavailable("the log is closed".to_owned()))?;
        let readers = Arc::clone(&self.inner.readers);
        blocking(move || readers.newest((topic, partition), offsets)).await
    }

    async fn bounds(&self, topic: Topic, partition: i32) -> Result<(i64, i64), LogError> {
        self.check_lane(topic, partition)?;
        let readers = Arc::clone(&self.inner.readers);
        blocking(move || readers.bounds((topic, partition))).await
    }

    async fn offset_at(&self, topic: Topic, partition: i32, time_ms: i64) -> Result<i64, LogError> {
        self.check_lane(topic, partition)?;
        let readers = Arc::clone(&self.inner.readers);
        match blocking(move || readers.offset_at((topic, partition), time_ms)).await? {
            Some(offset) => Ok(offset),
            None => search_by_time(self, topic, partition, time_ms).await,
        }
    }

    async fn follow(&self, from: Vec<(Topic, i32, i64)>) -> Result<Box<dyn Follower>, LogError> {
        for (topic, partition, _) in &from {
            self.check_lane(*topic, *partition)?;
        }
        Ok(Box::new(follower::follow(Arc::clone(&self.inner), from).await?))
    }

    async fn join(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Member>, LogError> {
        let topics: BTreeSet<Topic> = topics.iter().copied().collect();
        let slot = self.inner.slots.take(group).await;
        let slot_name = match slot.index {
            0 => self.inner.config.slot.clone(),
            more => format!("{}.{more}", self.inner.config.slot),
        };
        let identity = format!("{}{group}-{slot_name}", self.inner.config.prefix);
        let group = format!("{}{group}", self.inner.config.prefix);
        Ok(Box::new(member::join(Arc::clone(&self.inner), group, identity, &topics, Arc::new(slot)).await?))
    }
}

/// Runs what blocks on a thread where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(LogError::Unavailable(SHUTTING_DOWN.to_owned())))
}

/// Partition counts of all topics at the broker, by name; waits for a broker for the time of a request.
pub(crate) fn partition_counts(
    config: &KafkaConfig,
    client: &BaseConsumer<Context>,
) -> Result<BTreeMap<String, i32>, LogError> {
    let until = Instant::now() + Duration::from_millis(u64::from(config.request_timeout_ms));
    loop {
        let found = client.fetch_metadata(None, Duration::from_millis(500));
        reader::serve(client);
        match found {
            Ok(metadata) => {
                let counted = metadata.topics().iter().filter(|topic| topic.error().is_none());
                return Ok(counted
                    .map(|topic| {
                        (topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(0))
                    })
                    .collect());
            }
            Err(error) => {
                if let Some(refusal) = client.context().refusal() {
                    return Err(LogError::Refused(format!("Kafka at {}: {refusal}", config.brokers)));
                }
                if Instant::now() >= until {
                    let why = client.context().last().unwrap_or_else(|| error.to_string());
                    return Err(LogError::Unavailable(format!(
                        "no Kafka broker answers at {} within {} ms ({why}): check kafka.brokers, that the broker \
                         runs and can be reached from here, and that its listener speaks security.protocol",
                        config.brokers, config.request_timeout_ms
                    )));
                }
            }
        }
    }
}

/// Topics with the same key must be partitioned alike, or one owner would not have all of a conversation or book.
fn check_counts(names: &Names, partitions: &BTreeMap<Topic, i32>) -> Result<(), LogError> {
    let count = |topic: Topic| partitions.get(&topic).copied().unwrap_or(0);
    for alike in [&CO_PARTITIONED[..], &CO_PARTITIONED_BY_BOOK[..]] {
        let Some(first) = alike.first().copied() else { continue };
        let wanted = count(first);
        if let Some(other) = alike.iter().copied().find(|topic| count(*topic) != wanted) {
            return Err(LogError::Refused(format!(
                "{} has {} partitions, but {} has {wanted}: they must have the same number; a number cannot be \
                 changed in place, copy them with p2engine topics copy",
                names.of(other),
                count(other),
                names.of(first)
            )));
        }
    }
    if count(Topic::Registry) != 1 {
        return Err(LogError::Refused(format!(
            "{} has {} partitions: it must have one, so that it can be read to its end in order",
            names.of(Topic::Registry),
            count(Topic::Registry)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
