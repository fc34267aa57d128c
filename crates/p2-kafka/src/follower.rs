//! Reading on, outside of any group.
//!
//! A follower has a consumer with an assignment of its own: no membership, no progress at the broker. It keeps the
//! next offset of each partition itself, and the consumer is only believed where it goes on from there: a message
//! from below is dropped, a jump is compared with a range read first. Wherever something does not fit, the
//! consumer is put back to those offsets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use p2_core::record::Topic;
use p2_stream::ports::{Follower, LogError, StoredRecord};
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::Offset;

use crate::config;
use crate::context::{Context, tell_outage};
use crate::log::{Inner, blocking};
use crate::ownership::Lane;
use crate::poller::{GAP_OFFSETS_MAX, ReceiveNow as _};
use crate::reader::{METADATA_MAX, Readers, find_topics};
use crate::records::{self, Names};

/// Records taken in at a time.
const RECORDS_MAX: usize = 500;
/// How soon a question is asked again that the broker did not answer, and how often the end of a partition is
/// asked for that ends below the offset wanted.
const AGAIN: Duration = Duration::from_millis(250);
/// The same error of the consumer is logged at most so often.
const SAY_AGAIN: Duration = Duration::from_secs(5);

type Client = StreamConsumer<Context>;

/// Where a partition stands between the offset wanted and its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Inside,
    /// What is wanted is deleted; the start.
    Below(i64),
    /// Nothing is there yet.
    Beyond,
}

fn place(wanted: i64, (start, end): (i64, i64)) -> Place {
    match wanted {
        wanted if wanted < start => Place::Below(start),
        wanted if wanted > end => Place::Beyond,
        _ => Place::Inside,
    }
}

/// What must be done before more messages are taken in.
#[derive(Debug, PartialEq)]
enum Errand {
    None,
    /// The consumer is put to the next offsets, after a look at the bounds of all partitions.
    Place,
    /// The record of a partition that came next is far above the one expected.
    Jump(Box<StoredRecord>),
}

/// A follower. Dropping it ends it, without waiting for that.
pub(crate) struct KafkaFollower {
    log: Arc<Inner>,
    /// Gone once it is being dropped.
    client: Option<Arc<Client>>,
    /// The next offset of each partition.
    next: BTreeMap<Lane, i64>,
    /// Partitions that end below the offset wanted. The broker answers with an error there, so they are not fetched.
    beyond: BTreeSet<Lane>,
    ready: VecDeque<Vec<StoredRecord>>,
    errand: Errand,
    failed: Option<LogError>,
    said: BTreeMap<String, Instant>,
}

/// Starts a follower.
///
/// # Errors
/// [`LogError::Refused`] for settings that the client library does not take.
pub(crate) async fn follow(log: Arc<Inner>, from: Vec<(Topic, i32, i64)>) -> Result<KafkaFollower, LogError> {
    let next: BTreeMap<Lane, i64> =
        from.into_iter().map(|(topic, partition, offset)| ((topic, partition), offset)).collect();
    let settings = log.config.follower();
    // A negative offset has another meaning for the client library: the look at the bounds refuses it first.
    let errand = if next.values().any(|offset| *offset < 0) { Errand::Place } else { Errand::None };
    let (names, starts) = (log.names.clone(), next.clone());
    let is_ready = errand == Errand::None;
    let client = blocking(move || {
        let made = Client::from_config_and_context(&settings, Context::default());
        let client = Arc::new(made.map_err(|error| config::property(&error))?);
        if is_ready {
            assign(&client, &names, &starts)?;
        }
        Ok(client)
    })
    .await?;
    Ok(KafkaFollower {
        log,
        client: Some(client),
        next,
        beyond: BTreeSet::new(),
        ready: VecDeque::new(),
        errand,
        failed: None,
        said: BTreeMap::new(),
    })
}

/// Puts the consumer to these offsets, whatever it had before.
fn assign(client: &Client, names: &Names, starts: &BTreeMap<Lane, i64>) -> Result<(), LogError> {
    // The list must not outlive this function: one that is alive while the consumer is dropped hangs it.
    let mut list = TopicPartitionList::with_capacity(starts.len());
    let assigned = starts
        .iter()
        .try_for_each(|((topic, partition), offset)| {
            list.add_partition_offset(names.of(*topic), *partition, Offset::Offset(*offset))
        })
        .and_then(|()| client.unassign())
        .and_then(|()| client.assign(&list));
    assigned.map_err(|error| LogError::Unavailable(format!("following: {error}")))?;
    let topics: BTreeSet<Topic> = starts.keys().map(|(topic, _)| *topic).collect();
    find_topics(client, topics.into_iter().map(|topic| names.of(topic)), METADATA_MAX);
    Ok(())
}

/// Where each of these partitions stands.
fn places(readers: &Readers, wanted: &BTreeMap<Lane, i64>) -> Result<BTreeMap<Lane, Place>, LogError> {
    let place_of = |(lane, offset): (&Lane, &i64)| Ok((*lane, place(*offset, readers.bounds(*lane)?)));
    wanted.iter().map(place_of).collect()
}

impl KafkaFollower {
    /// Looks at these partitions and puts the consumer to the next offsets of all that can be read. Cancel-safe.
    async fn put(&mut self, lanes: BTreeMap<Lane, i64>) -> Result<(), LogError> {
        let readers = Arc::clone(&self.log.readers);
        let looked_at = lanes.clone();
        let places = blocking(move || places(&readers, &looked_at)).await?;
        let mut beyond = self.beyond.clone();
        for (lane, place) in places {
            match place {
                Place::Inside => beyond.remove(&lane),
                Place::Beyond => beyond.insert(lane),
                Place::Below(start) => {
                    let from = self.next.get(&lane).copied().unwrap_or_default();
                    return Err(LogError::before_start(lane.0, lane.1, from, start));
                }
            };
        }
        if beyond != self.beyond || self.errand == Errand::Place {
            let Some(client) = self.client.clone() else { return Ok(()) };
            let names = self.log.names.clone();
            let inside = self.next.iter().filter(|(lane, _)| !beyond.contains(lane));
            let inside: BTreeMap<Lane, i64> = inside.map(|(lane, offset)| (*lane, *offset)).collect();
            blocking(move || assign(&client, &names, &inside)).await?;
        }
        self.beyond = beyond;
        self.errand = Errand::None;
        Ok(())
    }

    /// Whether nothing lies between what was expected and what came. Cancel-safe.
    async fn judge_jump(&mut self, to: i64, lane: Lane) {
        let from = self.next.get(&lane).copied().unwrap_or_default();
        let readers = Arc::clone(&self.log.readers);
        let is_gap = blocking(move || Ok(readers.is_gap(lane, from, to))).await.unwrap_or(false);
        let Errand::Jump(record) = std::mem::replace(&mut self.errand, Errand::None) else { return };
        if is_gap {
            self.next.insert(lane, to + 1);
            self.ready.push_back(vec![*record]);
        } else {
            tracing::warn!(?lane, expected = from, found = to, "a jump, going back");
            self.errand = Errand::Place;
        }
    }

    /// Does what must be done before more messages are taken in. Cancel-safe.
    async fn errand(&mut self) -> Result<(), LogError> {
        let done = match &self.errand {
            Errand::None if self.beyond.is_empty() => return Ok(()),
            Errand::Jump(record) => {
                let (to, lane) = (record.offset, (record.record.topic, record.record.partition));
                self.judge_jump(to, lane).await;
                return Ok(());
            }
            Errand::Place => self.put(self.next.clone()).await,
            Errand::None => {
                let beyond = self.next.iter().filter(|(lane, _)| self.beyond.contains(lane));
                self.put(beyond.map(|(lane, offset)| (*lane, *offset)).collect()).await
            }
        };
        match done {
            // It knows its place, so nobody else has to try again.
            Err(LogError::Unavailable(reason)) => {
                self.say(&reason);
                tokio::time::sleep(AGAIN).await;
                Ok(())
            }
            done => done,
        }
    }

    /// Takes in a message and those that are there already.
    fn take(&mut self, client: &Client, first: Result<BorrowedMessage<'_>, KafkaError>) {
        let mut taken: BTreeMap<Lane, Vec<StoredRecord>> = BTreeMap::new();
        let mut next = Some(first);
        let mut count = 0;
        while let Some(message) = next {
            match message {
                Ok(message) => self.message(&message, &mut taken),
                Err(error) => self.error(client, &error),
            }
            count += 1;
            let go_on = count < RECORDS_MAX && self.failed.is_none() && self.errand == Errand::None;
            next = if go_on { client.recv_now() } else { None };
        }
        self.ready.extend(taken.into_values());
    }

    fn message(&mut self, message: &BorrowedMessage<'_>, taken: &mut BTreeMap<Lane, Vec<StoredRecord>>) {
        let Some(stored) = records::stored(&self.log.names, message) else { return };
        let lane = (stored.record.topic, stored.record.partition);
        let Some(expected) = self.next.get_mut(&lane) else { return };
        if stored.offset < *expected {
            return;
        }
        if stored.offset - *expected > GAP_OFFSETS_MAX {
            self.errand = Errand::Jump(Box::new(stored));
            return;
        }
        *expected = stored.offset + 1;
        taken.entry(lane).or_default().push(stored);
    }

    /// What an error of the consumer means: most pass by themselves.
    fn error(&mut self, client: &Client, error: &KafkaError) {
        let refused = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset) => {
                self.errand = Errand::Place;
                return;
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                Some(format!("the broker does not let this client read: {error}"))
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                Some(format!("the consumer cannot go on: {error}"))
            }
            _ => client.context().refusal(),
        };
        match refused {
            Some(refused) => self.failed = Some(LogError::Refused(refused)),
            None if tell_outage(error) => {}
            None => self.say(&error.to_string()),
        }
    }

    fn say(&mut self, trouble: &str) {
        let now = Instant::now();
        if self.said.get(trouble).is_none_or(|at| now.duration_since(*at) > SAY_AGAIN) {
            tracing::warn!(error = trouble, "Kafka, following on");
            self.said.retain(|_, at| now.duration_since(*at) <= SAY_AGAIN);
            self.said.insert(trouble.to_owned(), now);
        }
    }
}

#[async_trait]
impl Follower for KafkaFollower {
    async fn next(&mut self) -> Result<Vec<StoredRecord>, LogError> {
        loop {
            if let Some(records) = self.ready.pop_front() {
                return Ok(records);
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            self.errand().await?;
            if self.errand != Errand::None || !self.ready.is_empty() {
                continue;
            }
            let Some(client) = self.client.clone() else {
                return Err(LogError::Unavailable("the follower has ended".to_owned()));
            };
            if self.beyond.is_empty() {
                let message = client.recv().await;
                self.take(&client, message);
            } else if let Ok(message) = tokio::time::timeout(AGAIN, client.recv()).await {
                self.take(&client, message);
            }
        }
    }
}

impl Drop for KafkaFollower {
    fn drop(&mut self) {
        // To close a consumer may take as long as a request.
        if let Some(client) = self.client.take() {
            let _ = std::thread::Builder::new().name("p2-kafka-close".to_owned()).spawn(move || drop(client));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_wanted_below_within_or_beyond_what_is_kept() {
        for (wanted, expected) in [
            (-1, Place::Below(3)),
            (2, Place::Below(3)),
            (3, Place::Inside),
            (7, Place::Inside),
            (8, Place::Beyond),
        ] {
            assert_eq!(place(wanted, (3, 7)), expected, "{wanted}");
        }
    }
}
