//! Between the records of the ports and those of Kafka.

use std::collections::BTreeMap;

use p2_core::record::{RECORD_BYTES_MAX, Topic};
use p2_stream::ports::{Headers as OurHeaders, LogError, NewRecord, StoredRecord};
use rdkafka::message::{BorrowedMessage, Header as KafkaHeader, Headers, Message, OwnedHeaders};

/// The names that the topics have at the broker.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    names: BTreeMap<Topic, String>,
    topics: BTreeMap<String, Topic>,
}

impl Names {
    pub(crate) fn new(prefix: &str) -> Names {
        let named = |topic: Topic| (topic, format!("{prefix}{}", topic.name()));
        let names: BTreeMap<Topic, String> = Topic::ALL.into_iter().map(named).collect();
        let topics = names.iter().map(|(topic, name)| (name.clone(), *topic)).collect();
        Names { names, topics }
    }

    pub(crate) fn of(&self, topic: Topic) -> &str {
        self.names.get(&topic).map_or("", String::as_str)
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Topic> {
        self.topics.get(name).copied()
    }
}

/// Headers as Kafka has them.
pub(crate) fn headers(record: &NewRecord) -> OwnedHeaders {
    let empty = OwnedHeaders::new_with_capacity(record.headers.count() as usize);
    let insert =
        |headers: OwnedHeaders, (key, value)| headers.insert(KafkaHeader { key, value: Some(value) });
    record.headers.iter().fold(empty, insert)
}

/// A message as the ports have it; none of a topic that is not ours.
pub(crate) fn stored(names: &Names, message: &BorrowedMessage<'_>) -> Option<StoredRecord> {
    let mut stored = values(names, message)?;
    let mut headers = OurHeaders::roomy();
    for header in message.headers().into_iter().flat_map(|found| found.iter()) {
        headers.push(header.key, header.value.unwrap_or_default());
    }
    stored.record.headers = headers;
    Some(stored)
}

/// As [`stored`], without headers: the library does not even look at those that nobody asks for.
pub(crate) fn values(names: &Names, message: &BorrowedMessage<'_>) -> Option<StoredRecord> {
    let topic = names.topic(message.topic())?;
    Some(StoredRecord {
        offset: message.offset(),
        record: NewRecord {
            topic,
            partition: message.partition(),
            key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
            headers: OurHeaders::default(),
            value: message.payload().map_or_else(Vec::new, <[u8]>::to_vec),
            time_ms: message.timestamp().to_millis().unwrap_or(0),
        },
    })
}

/// Checks records before any of them is sent: all or none.
///
/// # Errors
/// [`LogError::NotFound`] for a partition that is not there, [`LogError::TooLarge`].
pub(crate) fn check(records: &[NewRecord], partitions: impl Fn(Topic) -> i32) -> Result<(), LogError> {
    for record in records {
        let count = partitions(record.topic);
        check_lane(record.topic, record.partition, count)?;
        let size = record.value.len();
        if size > RECORD_BYTES_MAX {
            return Err(LogError::TooLarge(format!(
                "a record for {} with a value of {size} bytes: at most {RECORD_BYTES_MAX} are allowed",
                record.topic.name()
            )));
        }
    }
    Ok(())
}

/// # Errors
/// [`LogError::NotFound`] for a partition that is not there.
pub(crate) fn check_lane(topic: Topic, partition: i32, count: i32) -> Result<(), LogError> {
    if (0..count).contains(&partition) {
        return Ok(());
    }
    let topic = topic.name();
    Err(LogError::NotFound(format!(
        "{topic} has {count} partitions, counted from 0: there is no {partition}"
    )))
}
