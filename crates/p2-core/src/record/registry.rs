//! The records of `registry` and `dead-letters`.

use serde::{Deserialize, Serialize};

use crate::ids::Id;
use crate::json_text::JsonText;

/// A definition as applied, or the pointer to the newest version of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegistryRecord {
    /// `kind/id@version` for a definition, `kind/id` for the pointer.
    pub key: String,
    /// `agent`, `tool`, `persona`, `price`; more kinds later.
    pub kind: String,
    /// The definition's id.
    pub id: String,
    /// Counts from 1.
    pub version: i32,
    /// The definition as JSON; absent in a pointer.
    pub body: Option<JsonText>,
}

/// A record that could not be processed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// This letter's id.
    pub id: Id,
    /// The original key.
    pub key: String,
    /// The original topic's full name.
    pub topic: String,
    /// The original partition.
    pub partition: i32,
    /// The original offset.
    pub offset: i64,
    /// The consumer group that could not process it; a replay is delivered to this group only.
    pub group: String,
    /// `undecodable`, `invalid`, `too_large`, `wrong_partition`, …
    pub code: String,
    /// What, where, how to mend.
    pub reason: String,
    /// The original headers.
    pub headers: Vec<Header>,
    /// The original value.
    #[serde(with = "crate::bytes")]
    pub value: Vec<u8>,
    /// When, milliseconds since the epoch.
    pub time_ms: i64,
}

/// One header of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Name.
    pub name: String,
    /// Value; text by convention, kept as bytes.
    #[serde(with = "crate::bytes")]
    pub value: Vec<u8>,
}
