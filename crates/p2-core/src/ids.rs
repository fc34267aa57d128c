//! Identifiers. All of them come from outside or are derived: the core draws none.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// A 128-bit identifier, written as 32 lower-case hex digits everywhere (Avro `string`, JSON, CLI).
///
/// It is the CloudEvents `id` of a record, the idempotency key of a call and the name of an entry, wait or
/// artifact. Two records with the same id are the same record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id([u8; 16]);

impl Id {
    /// The id of the `ordinal`-th thing of `kind` caused by `cause`: the first 128 bits of
    /// SHA-256(cause bytes ‖ kind ‖ 0x00 ‖ ordinal as 4 big-endian bytes).
    ///
    /// Deriving instead of drawing is what makes a step repeatable: a second run of the same input names the
    /// same outputs, so duplicates are recognised by id.
    pub fn derive(cause: &Id, kind: &str, ordinal: u32) -> Id {
        let mut hash = Sha256::new();
        hash.update(cause.0);
        hash.update(kind.as_bytes());
        hash.update([0]);
        hash.update(ordinal.to_be_bytes());
        Id::from_digest(&hash.finalize())
    }

    /// The id of a text, for things that have a natural name: the first 128 bits of its SHA-256.
    pub fn of_text(text: &str) -> Id {
        Id::from_digest(&Sha256::digest(text.as_bytes()))
    }

    /// An id from 16 bytes drawn at the edge (the CLI, the HTTP API).
    pub const fn from_bytes(bytes: [u8; 16]) -> Id {
        Id(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// All 32 hex digits, in a buffer of the caller: a record has ten ids.
    fn digits<'b>(&self, buffer: &'b mut [u8; 32]) -> &'b str {
        // Neither fails: the buffer fits, and digits are ASCII.
        let _ = hex::encode_to_slice(self.0, buffer);
        std::str::from_utf8(buffer).unwrap_or_default()
    }

    /// The first eight hex digits: what people see and type.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }

    fn from_digest(digest: &[u8]) -> Id {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(digest) {
            *to = *from;
        }
        Id(bytes)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 32];
        f.write_str(self.digits(&mut digits))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An id that is not 32 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an id: expected 32 hex digits, as printed by --json")]
pub struct BadId(pub String);

impl FromStr for Id {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Id, BadId> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| BadId(text.to_owned()))?;
        Ok(Id(bytes))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut digits = [0; 32];
        serializer.serialize_str(self.digits(&mut digits))
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        deserializer.deserialize_str(Digits)
    }
}

/// Reads an id from text that need not be kept.
struct Digits;

impl serde::de::Visitor<'_> for Digits {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("32 hex digits")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                $name(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                $name(text)
            }
        }
    };
}

name_type! {
    /// A conversation: the key of `inbox`, `state-transitions`, `effects` and `artifacts`.
    ///
    /// Chosen by whoever starts the conversation; the CLI uses the name that the user gave.
    ConversationId
}
name_type! {
    /// An agent, as named in `registry`.
    AgentId
}
name_type! {
    /// A branch of one agent's stack in one conversation. The first one is `main`; forks are named by the
    /// first eight hex digits of an id, agent calls by `call-` and the same.
    BranchId
}

name_type! {
    /// A book of the ledger: the key of `payment-requests` and `ledger-transactions`. Books know nothing of each other.
    BookId
}
name_type! {
    /// An account of a book. An agent's wallet has the agent's id as its name.
    AccountId
}

impl BranchId {
    /// The branch that every stack begins with.
    pub fn main() -> BranchId {
        BranchId("main".to_owned())
    }
}
