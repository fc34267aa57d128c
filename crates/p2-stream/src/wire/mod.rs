//! The wire contract: typed messages ↔ records of the log.
//!
//! A value is Avro in single-object encoding: the bytes C3 01, the 8-byte little-endian CRC-64-AVRO fingerprint
//! of the writer's schema in Parsing Canonical Form, the datum (Avro 1.12, "Single-object encoding"). Headers
//! follow the Kafka protocol binding of CloudEvents 1.0 in binary mode, and W3C Trace Context. The framing of schema
//! registries is put on and taken off at the log, by [`SchemaIds`].

mod framing;
pub(crate) mod headers;
mod partitioner;
mod prepared;
mod schemas;
#[cfg(test)]
mod tests;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use p2_core::ids::Id;
use p2_core::record::{DeadLetter, Message, Payload, RECORD_BYTES_MAX, StateTransition, Topic};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use framing::{Fingerprint, Framing, SchemaIds, fingerprint, schema};
pub use partitioner::partition;

use crate::ports::{NewRecord, StoredRecord};
use crate::runtime::{Codec, Encoded, Incoming, Output};
use crate::shell::Wire;
use crate::view::ViewRecord;

/// More than all headers need beside what they repeat of key and value, and the trace.
const HEADERS_BYTES_MAX: usize = 16 << 10;
/// The first two bytes of single-object encoding.
const MARKER: [u8; 2] = [0xC3, 0x01];

/// Why a record cannot be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It does not fit a record.
    #[error("a record of '{topic}' would be {bytes} bytes, the limit is {RECORD_BYTES_MAX}: make it smaller")]
    TooLarge {
        /// The topic.
        topic: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// It does not fit its schema.
    #[error("a record of '{topic}' does not fit its schema: {reason}")]
    Schema {
        /// The topic.
        topic: &'static str,
        /// The encoder's words.
        reason: String,
    },
    /// The value is not single-object encoding.
    #[error(
        "the value is not Avro single-object encoding: it must begin with C3 01 and a schema fingerprint"
    )]
    NotSingleObject,
    /// The fingerprint names no schema of the topic.
    #[error("schema fingerprint {fingerprint} is none of the '{topic}' schemas, see schemas/{topic}.avsc")]
    UnknownSchema {
        /// The topic.
        topic: &'static str,
        /// Little-endian hex, as in the value.
        fingerprint: String,
    },
    /// The value is in the framing of a schema registry, and the id names no schema of the topic.
    #[error(
        "schema id {id} of the registry is none of the '{topic}' schemas (where no schema_registry.url is set, no \
         id is known): write with schemas/{topic}.avsc, registered under the subject of the topic's values"
    )]
    UnknownSchemaId {
        /// The topic.
        topic: &'static str,
        /// The id in the value.
        id: u32,
    },
    /// The datum does not decode.
    #[error("the value does not decode with the '{topic}' schema: {reason}")]
    Undecodable {
        /// The topic.
        topic: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// A header that must be there is not, or not what it must be.
    #[error("header '{name}': {reason}")]
    Header {
        /// Its name.
        name: &'static str,
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// Record key and value disagree.
    #[error("the record key is '{key}', but the value belongs to '{value}': both must be the same")]
    Key {
        /// The key.
        key: String,
        /// What the value says.
        value: String,
    },
}

impl WireError {
    /// A stable code: what dead letters carry.
    pub fn code(&self) -> &'static str {
        match self {
            WireError::TooLarge { .. } => "too_large",
            WireError::Schema { .. } => "schema",
            WireError::NotSingleObject => "not_single_object",
            WireError::UnknownSchema { .. } => "unknown_schema",
            WireError::UnknownSchemaId { .. } => "unknown_schema_id",
            WireError::Undecodable { .. } => "undecodable",
            WireError::Header { .. } => "header",
            WireError::Key { .. } => "key",
        }
    }
}

/// Encodes a message; `source` is the CloudEvents source, e.g. `/p2/agent-step`, `partitions` those of its topic.
///
/// # Errors
/// [`WireError::TooLarge`] or [`WireError::Schema`].
pub fn encode(message: &Message, source: &str, partitions: i32) -> Result<NewRecord, WireError> {
    with_value(message, encode_payload(&message.payload)?, source, partitions)
}

/// The record of a message whose value is encoded.
fn with_value(
    message: &Message,
    value: Vec<u8>,
    source: &str,
    partitions: i32,
) -> Result<NewRecord, WireError> {
    let topic = message.payload.topic();
    let key = message.payload.key().to_owned();
    let headers = headers::write(message, source);
    let bytes = value.len() + key.len() + headers.size();
    if bytes > RECORD_BYTES_MAX {
        return Err(WireError::TooLarge { topic: topic.short(), bytes });
    }
    let partition = partition(&key, partitions);
    Ok(NewRecord { topic, partition, key, headers, value, time_ms: message.time_ms })
}

/// Decodes a record. Headers that are not vital may be missing: a record that an outsider wrote needs `ce_id`
/// and nothing else.
///
/// # Errors
/// What is wrong with it; then it belongs in `dead-letters`.
pub fn decode(stored: &StoredRecord) -> Result<Message, WireError> {
    let record = &stored.record;
    let payload = decode_checked(record)?;
    let (id, cause, cause_position) = headers::read(&record.headers)?;
    let traceparent = headers::text(&record.headers, "traceparent").map(str::to_owned);
    Ok(Message { id, cause, cause_position, time_ms: record.time_ms, traceparent, payload })
}

/// The value, where it belongs to the record's key. Headers are not looked at.
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_checked(record: &NewRecord) -> Result<Payload, WireError> {
    let payload = decode_payload(record.topic, &record.value)?;
    if payload.key() == record.key {
        Ok(payload)
    } else {
        Err(WireError::Key { key: record.key.clone(), value: payload.key().to_owned() })
    }
}

/// The value of a `state-transitions` record alone, for views that keep it: the same bytes as in the log's record.
///
/// # Errors
/// [`WireError::Schema`].
pub fn encode_transition(transition: &StateTransition) -> Result<Vec<u8>, WireError> {
    encode_value(Topic::StateTransitions, transition)
}

/// Reads what [`encode_transition`] wrote, with any published version of the schema.
///
/// # Errors
/// What is wrong with it.
pub fn decode_transition(value: &[u8]) -> Result<StateTransition, WireError> {
    decode_value(Topic::StateTransitions, value)
}

/// The value alone.
pub(crate) fn encode_payload(payload: &Payload) -> Result<Vec<u8>, WireError> {
    match payload {
        Payload::Inbox(value) => encode_value(Topic::Inbox, value),
        Payload::Transition(value) => encode_value(Topic::StateTransitions, value),
        Payload::Effect(value) => encode_value(Topic::Effects, value),
        Payload::Artifact(value) => encode_value(Topic::Artifacts, value),
        Payload::PaymentRequest(value) => encode_value(Topic::PaymentRequests, value),
        Payload::LedgerTransaction(value) => encode_value(Topic::LedgerTransactions, value),
        Payload::Registry(value) => encode_value(Topic::Registry, value),
        Payload::DeadLetter(value) => encode_value(Topic::DeadLetters, value),
    }
}

fn encode_value<T: Serialize>(topic: Topic, value: &T) -> Result<Vec<u8>, WireError> {
    let failed = |reason: String| WireError::Schema { topic: topic.short(), reason };
    let current = &schemas::of(topic).map_err(failed)?.current;
    let mut bytes = MARKER.to_vec();
    bytes.extend(current.fingerprint);
    let writer = prepared::writer(topic).map_err(failed)?;
    writer.write_ser(&mut bytes, value).map_err(|e| failed(e.to_string()))?;
    Ok(bytes)
}

fn decode_payload(topic: Topic, value: &[u8]) -> Result<Payload, WireError> {
    Ok(match topic {
        Topic::Inbox => Payload::Inbox(decode_value(topic, value)?),
        Topic::StateTransitions => Payload::Transition(decode_value(topic, value)?),
        Topic::Effects => Payload::Effect(decode_value(topic, value)?),
        Topic::Artifacts => Payload::Artifact(decode_value(topic, value)?),
        Topic::PaymentRequests => Payload::PaymentRequest(decode_value(topic, value)?),
        Topic::LedgerTransactions => Payload::LedgerTransaction(decode_value(topic, value)?),
        Topic::Registry => Payload::Registry(decode_value(topic, value)?),
        Topic::DeadLetters => Payload::DeadLetter(decode_value(topic, value)?),
    })
}

fn decode_value<T: DeserializeOwned>(topic: Topic, value: &[u8]) -> Result<T, WireError> {
    if let Some(id) = framing::schema_id(value) {
        return Err(WireError::UnknownSchemaId { topic: topic.short(), id });
    }
    let rest = value.strip_prefix(&MARKER).ok_or(WireError::NotSingleObject)?;
    let (fingerprint, mut datum) = rest.split_first_chunk::<8>().ok_or(WireError::NotSingleObject)?;
    let failed = |reason: String| WireError::Undecodable { topic: topic.short(), reason };
    let schemas = schemas::of(topic).map_err(failed)?;
    let decoded = if *fingerprint == schemas.current.fingerprint {
        let reader = prepared::reader(topic).map_err(failed)?;
        reader.read_deser(&mut datum).map_err(|e| failed(e.to_string()))?
    } else {
        let writer = schemas.older.get(fingerprint).ok_or_else(|| WireError::UnknownSchema {
            topic: topic.short(),
            fingerprint: hex::encode(fingerprint),
        })?;
        read(writer, &mut datum).map_err(failed)?
    };
    if datum.is_empty() { Ok(decoded) } else { Err(failed(format!("{} bytes are left over", datum.len()))) }
}

/// Reads with the schema that wrote it. Older versions rely on serde's defaults instead of Avro's resolution:
/// apache-avro 0.22 resolves a union branch by shape, which turns one variant into another that has the same
/// fields. So variants are only appended, and a new field is an `Option` or has a serde default.
fn read<T: DeserializeOwned>(writer: &Schema, datum: &mut &[u8]) -> Result<T, String> {
    let reader = GenericDatumReader::builder(writer).build().map_err(|e| e.to_string())?;
    reader.read_deser(datum).map_err(|e| e.to_string())
}

/// The wire of one processor: its name in `ce_source`, its group in dead letters, the partition counts of a log.
#[derive(Clone, Debug)]
pub struct ProcessorWire {
    name: &'static str,
    /// `ce_source` of what it writes.
    source: String,
    partitions: [i32; Topic::ALL.len()],
}

impl ProcessorWire {
    /// For a processor on a log whose topics have these many partitions.
    pub fn new(name: &'static str, partitions: impl Fn(Topic) -> i32) -> ProcessorWire {
        ProcessorWire { name, source: format!("/p2/{name}"), partitions: Topic::ALL.map(partitions) }
    }

    fn partitions(&self, topic: Topic) -> i32 {
        let known = Topic::ALL.iter().zip(self.partitions).find(|(of, _)| **of == topic);
        known.map_or(1, |(_, partitions)| partitions)
    }

    fn record_of(&self, message: &Message, value: Vec<u8>) -> Result<NewRecord, (String, String)> {
        with_value(message, value, &self.source, self.partitions(message.payload.topic())).map_err(told)
    }

    fn dead_letter(&self, stored: &StoredRecord, error: &WireError, now_ms: i64) -> DeadLetter {
        let record = &stored.record;
        let at = format!("{}/{}/{}", record.topic.name(), record.partition, stored.offset);
        DeadLetter {
            id: Id::of_text(&format!("{at}/{}", self.name)),
            key: record.key.clone(),
            topic: record.topic.name(),
            partition: record.partition,
            offset: stored.offset,
            group: format!("p2.{}", self.name),
            code: error.code().to_owned(),
            reason: error.to_string(),
            headers: Vec::from(&record.headers),
            value: record.value.clone(),
            time_ms: now_ms,
        }
    }
}

/// (code, sentence).
fn told(error: WireError) -> (String, String) {
    (error.code().to_owned(), error.to_string())
}

impl Codec for ProcessorWire {
    fn encode(&self, message: &Message) -> Result<Encoded, (String, String)> {
        let value = encode_payload(&message.payload).map_err(told)?;
        let bytes = value.len();
        // Headers are written where they might decide: what they repeat of key and value is as long as these at
        // most, and the trace is foreign text.
        let trace = message.traceparent.as_ref().map_or(0, String::len);
        if 2 * bytes + 4 * message.payload.key().len() + trace + HEADERS_BYTES_MAX > RECORD_BYTES_MAX {
            self.record_of(message, value.clone())?;
        }
        Ok(Encoded { bytes: bytes + 400, value: Some(value) })
    }

    fn letter(&self, at: (i32, i64), message: &Message, code: &str, reason: &str, now_ms: i64) -> DeadLetter {
        let original = encode(message, "/p2/replay", self.partitions(message.payload.topic())).ok();
        let (headers, value) =
            original.map(|record| (Vec::from(&record.headers), record.value)).unwrap_or_default();
        let topic = message.payload.topic().name();
        DeadLetter {
            id: Id::of_text(&format!("{topic}/{}/{}/{}", at.0, at.1, self.name)),
            key: message.payload.key().to_owned(),
            topic,
            partition: at.0,
            offset: at.1,
            group: format!("p2.{}", self.name),
            code: code.to_owned(),
            reason: reason.to_owned(),
            headers,
            value,
            time_ms: now_ms,
        }
    }
}

impl Wire for ProcessorWire {
    fn record(&self, output: &Output) -> Result<NewRecord, (String, String)> {
        let value = output.value.clone();
        let value = value.map_or_else(|| encode_payload(&output.message.payload).map_err(told), Ok)?;
        self.record_of(&output.message, value)
    }

    fn incoming(&self, stored: &StoredRecord, now_ms: i64) -> Incoming {
        match decode(stored) {
            Ok(mut message) => {
                let right = partition(&stored.record.key, self.partitions(stored.record.topic));
                message.cause_position = Some(stored.position());
                if right == stored.record.partition {
                    Incoming::Message(Box::new(message))
                } else {
                    Incoming::Misplaced(Box::new(message))
                }
            }
            Err(error) => Incoming::Poison(Box::new(self.dead_letter(stored, &error, now_ms))),
        }
    }

    fn view_record(&self, stored: &StoredRecord) -> Result<ViewRecord, String> {
        // Headers are not part of the view: most of the time of a catch-up would go into them.
        let payload = decode_checked(&stored.record).map_err(|error| error.to_string())?;
        let topic = payload.topic();
        ViewRecord::of(payload).ok_or_else(|| format!("a record of '{}' in a view", topic.short()))
    }
}
