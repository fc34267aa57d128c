//! The head of a conversation: what its row in the list says, as a fold of its transitions.
//!
//! A head is a function of the log up to its offset, whoever folds it and in whatever batches. That is what
//! makes it safe to write with that offset as timestamp: two writers that disagree about which is newer cannot
//! disagree about what it says.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use p2_core::ids::{AgentId, ConversationId, Id};
use p2_core::record::{Change, StateTransition};
use p2_core::state::State;
use p2_stream::ports::ConversationSummary;
use serde::{Deserialize, Serialize};

/// A bucket of transitions is full when the next one would take it over this many bytes.
pub(crate) const BUCKET_BYTES_MAX: i64 = 16 << 20;
/// What a row takes beside its cell, roughly: keys and timestamps.
const ROW_BYTES: i64 = 100;

const MARKER: [u8; 2] = [0xC3, 0x01];
const SCHEMA: &str = include_str!("conversation-head.avsc");

/// What the view knows of a conversation beside its transitions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename = "ConversationHead")]
pub(crate) struct Head {
    /// The root agent; empty before the conversation was opened.
    pub(crate) root: AgentId,
    /// When it began, milliseconds since the epoch.
    pub(crate) opened_ms: i64,
    /// When it last changed.
    pub(crate) changed_ms: i64,
    /// Transitions folded.
    pub(crate) transitions: i64,
    /// The `seq` after the newest one.
    pub(crate) next_seq: i64,
    /// Offset of the newest one: the timestamp that the row is written with.
    pub(crate) offset: i64,
    /// Open waits.
    pub(crate) waits: BTreeSet<Id>,
    /// The first `seq` of every bucket but bucket 0, ascending.
    pub(crate) starts: Vec<i64>,
    /// Bytes in the newest bucket.
    pub(crate) bucket_bytes: i64,
}

impl Head {
    /// Folds a transition whose cell has this many bytes. One that was folded before changes nothing.
    pub(crate) fn take(&mut self, offset: i64, transition: &StateTransition, cell_bytes: usize) {
        if transition.seq < self.next_seq {
            return;
        }
        if self.transitions == 0 {
            self.opened_ms = transition.time_ms;
        }
        let bytes = i64::try_from(cell_bytes).unwrap_or(i64::MAX).saturating_add(ROW_BYTES);
        if self.bucket_bytes > 0 && self.bucket_bytes.saturating_add(bytes) > BUCKET_BYTES_MAX {
            self.starts.push(transition.seq);
            self.bucket_bytes = 0;
        }
        self.bucket_bytes = self.bucket_bytes.saturating_add(bytes);
        self.transitions += 1;
        self.next_seq = transition.seq + 1;
        self.offset = offset;
        self.changed_ms = self.changed_ms.max(transition.time_ms);
        for change in &transition.changes {
            self.change(transition, change);
        }
    }

    fn change(&mut self, of: &StateTransition, change: &Change) {
        match change {
            Change::Opened(opened) => {
                self.root = opened.root.clone();
                self.opened_ms = of.time_ms;
            }
            Change::Appended(appended) => {
                self.waits.extend(appended.entries.iter().filter_map(|entry| match &entry.state {
                    State::Waiting(waiting) => Some(waiting.id),
                    _ => None,
                }));
            }
            Change::Closed(closed) => {
                for wait in &closed.waits {
                    self.waits.remove(wait);
                }
            }
            _ => {}
        }
    }

    /// The bucket of a transition that was folded.
    pub(crate) fn bucket(&self, seq: i64) -> i32 {
        i32::try_from(self.starts.partition_point(|start| *start <= seq)).unwrap_or(i32::MAX)
    }

    pub(crate) fn summary(self, id: ConversationId) -> ConversationSummary {
        ConversationSummary {
            id,
            root: self.root,
            opened_ms: self.opened_ms,
            changed_ms: self.changed_ms,
            transitions: self.transitions,
            open_waits: i64::try_from(self.waits.len()).unwrap_or(i64::MAX),
        }
    }
}

struct Named {
    schema: Schema,
    fingerprint: [u8; 8],
}

fn schema() -> Result<&'static Named, String> {
    static PARSED: OnceLock<Result<Named, String>> = OnceLock::new();
    let parsed = PARSED.get_or_init(|| {
        let schema = Schema::parse_str(SCHEMA).map_err(|error| error.to_string())?;
        let digest = schema.fingerprint::<Rabin>();
        let fingerprint = <[u8; 8]>::try_from(digest.bytes.as_slice()).map_err(|error| error.to_string())?;
        Ok(Named { schema, fingerprint })
    });
    parsed.as_ref().map_err(Clone::clone)
}

/// Avro, single-object encoding.
pub(crate) fn encode(head: &Head) -> Result<Vec<u8>, String> {
    let named = schema()?;
    let mut bytes = MARKER.to_vec();
    bytes.extend(named.fingerprint);
    let writer = GenericDatumWriter::builder(&named.schema).build().map_err(|error| error.to_string())?;
    writer.write_ser(&mut bytes, head).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Reads [`encode`].
pub(crate) fn decode(bytes: &[u8]) -> Result<Head, String> {
    let named = schema()?;
    let rest = bytes.strip_prefix(&MARKER).and_then(|rest| rest.split_first_chunk::<8>());
    let Some((fingerprint, mut datum)) = rest else {
        return Err("it is not Avro single-object encoding".to_owned());
    };
    if *fingerprint != named.fingerprint {
        return Err("the fingerprint of its schema is not known to this program".to_owned());
    }
    let reader = GenericDatumReader::builder(&named.schema).build().map_err(|error| error.to_string())?;
    let head = reader.read_deser(&mut datum).map_err(|error| error.to_string())?;
    if datum.is_empty() { Ok(head) } else { Err(format!("{} bytes are left over", datum.len())) }
}

#[cfg(test)]
pub(crate) mod tests;
