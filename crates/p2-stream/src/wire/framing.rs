//! The two framings of a value. The datum is the same in both, so one becomes the other by its head alone.
//!
//! - Avro single-object encoding: C3 01, the 8-byte fingerprint of the writer's schema, the datum. This is what
//!   [`encode`](super::encode) writes and [`decode`](super::decode) reads.
//! - The framing of schema registries with the Confluent API: 00, the schema's id in the registry as 4 big-endian
//!   bytes, the datum.

use std::collections::BTreeMap;

use p2_core::record::Topic;

use super::{MARKER, WireError, schemas};

/// The first byte of registry framing.
const MAGIC: u8 = 0;

/// The 8 bytes that name a schema in single-object encoding: the CRC-64-AVRO of its Parsing Canonical Form, little
/// endian.
pub type Fingerprint = [u8; 8];

/// What a schema registry has said so far: which id is which schema. A value; whoever asks the registry keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SchemaIds {
    /// Id → fingerprint; none: the registry does not know the id, or its schema is not Avro.
    schemas: BTreeMap<u32, Option<Fingerprint>>,
    /// The id that a schema is written under.
    ids: BTreeMap<Fingerprint, u32>,
}

/// What became of a value on its way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// It has to be asked what schema this id is; the value is as it was.
    Ask(u32),
    /// It is in single-object encoding now, or cannot be brought there: [`decode`](super::decode) says why.
    Settled,
}

impl SchemaIds {
    /// Takes note of the schema under which values are written.
    pub fn registered(&mut self, id: u32, schema: Fingerprint) {
        self.ids.insert(schema, id);
        self.found(id, Some(schema));
    }

    /// Takes note of what an id is; none: of no use.
    pub fn found(&mut self, id: u32, schema: Option<Fingerprint>) {
        self.schemas.insert(id, schema);
    }

    /// Whether it is known what an id is.
    pub fn knows(&self, id: u32) -> bool {
        self.schemas.contains_key(&id)
    }

    /// From single-object encoding to registry framing. A value whose schema has no id stays as it is, which every
    /// reader of ours can read.
    pub fn frame(&self, value: &mut Vec<u8>) {
        let Some((fingerprint, _)) =
            value.strip_prefix(&MARKER).and_then(|rest| rest.split_first_chunk::<8>())
        else {
            return;
        };
        let Some(id) = self.ids.get(fingerprint) else { return };
        let head = [&[MAGIC], id.to_be_bytes().as_slice()].concat();
        value.splice(..MARKER.len() + fingerprint.len(), head);
    }

    /// From either framing to single-object encoding, where the id names one of the published schemas of `topic`.
    pub fn unframe(&self, topic: Topic, value: &mut Vec<u8>) -> Framing {
        let Some(id) = schema_id(value) else { return Framing::Settled };
        let Some(known) = self.schemas.get(&id) else { return Framing::Ask(id) };
        if let Some(fingerprint) = known
            && is_published(topic, fingerprint)
        {
            let head = [MARKER.as_slice(), fingerprint].concat();
            value.splice(..1 + size_of::<u32>(), head);
        }
        Framing::Settled
    }
}

/// The schema's id of a value in registry framing.
pub(super) fn schema_id(value: &[u8]) -> Option<u32> {
    let (id, _) = value.strip_prefix(&[MAGIC])?.split_first_chunk::<4>()?;
    Some(u32::from_be_bytes(*id))
}

fn is_published(topic: Topic, fingerprint: &Fingerprint) -> bool {
    schemas::of(topic)
        .is_ok_and(|known| known.current.fingerprint == *fingerprint || known.older.contains_key(fingerprint))
}

/// The schema in force of a topic, as JSON text, and its fingerprint.
///
/// # Errors
/// [`WireError::Schema`]; a test rules that out for those that ship.
pub fn schema(topic: Topic) -> Result<(&'static str, Fingerprint), WireError> {
    let failed = |reason| WireError::Schema { topic: topic.short(), reason };
    let known = schemas::of(topic).map_err(failed)?;
    let text = schemas::SOURCES.iter().find(|(of, ..)| *of == topic).map_or("", |(_, text, _)| text);
    Ok((text, known.current.fingerprint))
}

/// The fingerprint of any Avro schema.
///
/// # Errors
/// Why it is none.
pub fn fingerprint(schema: &str) -> Result<Fingerprint, String> {
    let schema = apache_avro::Schema::parse_str(schema).map_err(|error| error.to_string())?;
    schemas::fingerprint(&schema)
}
