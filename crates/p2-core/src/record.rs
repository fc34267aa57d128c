//! The records of the topics, typed. One struct per topic; the Avro schemas in `schemas/` describe the same
//! shapes, and `p2-stream` encodes one as the other.
//!
//! Unions on the wire are enums of newtype variants around a named struct, in the order of the Avro union.
//! Integers are `i64` (Avro `long`) or `i32` (`int`), times are milliseconds since the Unix epoch.

mod artifact;
mod effect;
mod evaluation;
mod inbox;
mod ledger;
mod payment;
mod registry;
mod transition;

use crate::ids::Id;

pub use artifact::*;
pub use effect::*;
pub use evaluation::*;
pub use inbox::*;
pub use ledger::*;
pub use payment::*;
pub use registry::*;
pub use transition::*;

/// Largest encoded record, in bytes. What is larger is a visible error until blobs carry it.
pub const RECORD_BYTES_MAX: usize = 900_000;

/// Longest text or JSON that one entry takes from outside (a person, a model, a tool), in bytes. It travels in
/// records that hold other things too, so it is well below the limit of a record.
pub const ENTRY_BYTES_MAX: usize = 600_000;

/// The topics that exist so far. Names and settings are data in `topics/*.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Messages addressed to a conversation.
    Inbox,
    /// State transitions: the truth.
    StateTransitions,
    /// Effects to carry out.
    Effects,
    /// Everything produced or observed.
    Artifacts,
    /// Payment requests.
    PaymentRequests,
    /// What became of them: the ledger.
    LedgerTransactions,
    /// Agents, tools, personas, prices as applied.
    Registry,
    /// What could not be processed.
    DeadLetters,
}

impl Topic {
    /// Every topic, in the order of the design's table.
    pub const ALL: [Topic; 8] = [
        Topic::Inbox,
        Topic::StateTransitions,
        Topic::Effects,
        Topic::Artifacts,
        Topic::PaymentRequests,
        Topic::LedgerTransactions,
        Topic::Registry,
        Topic::DeadLetters,
    ];

    /// The short name: `inbox`, `state-transitions`, … The topic's full name is `p2.<short>.v1`.
    pub fn short(self) -> &'static str {
        match self {
            Topic::Inbox => "inbox",
            Topic::StateTransitions => "state-transitions",
            Topic::Effects => "effects",
            Topic::Artifacts => "artifacts",
            Topic::PaymentRequests => "payment-requests",
            Topic::LedgerTransactions => "ledger-transactions",
            Topic::Registry => "registry",
            Topic::DeadLetters => "dead-letters",
        }
    }

    /// The full name.
    pub fn name(self) -> String {
        format!("p2.{}.v1", self.short())
    }

    /// The topic of that short or full name.
    pub fn parse(name: &str) -> Option<Topic> {
        Topic::ALL.into_iter().find(|topic| topic.short() == name || topic.name() == name)
    }
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The topic.
    pub topic: Topic,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// A record before it is encoded: what a processor writes and, with a [`Position`], what it reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// `ce_id`: the idempotency key.
    pub id: Id,
    /// The id of the record, reply or wait that led to it (`p2_cause`); its own id where a person did.
    pub cause: Id,
    /// Where the cause lies, when the cause is a record (`p2_cause_position`).
    pub cause_position: Option<Position>,
    /// `ce_time`: the time of the triggering input.
    pub time_ms: i64,
    /// W3C trace context, passed on from the cause.
    pub traceparent: Option<String>,
    /// The value; it also decides topic and key.
    pub payload: Payload,
}

/// The value of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// `inbox`.
    Inbox(InboxMessage),
    /// `state-transitions`.
    Transition(StateTransition),
    /// `effects`.
    Effect(Effect),
    /// `artifacts`.
    Artifact(Artifact),
    /// `payment-requests`.
    PaymentRequest(PaymentRequest),
    /// `ledger-transactions`.
    LedgerTransaction(LedgerTransaction),
    /// `registry`.
    Registry(RegistryRecord),
    /// `dead-letters`.
    DeadLetter(DeadLetter),
}

impl Payload {
    /// The topic that it belongs to.
    pub fn topic(&self) -> Topic {
        match self {
            Payload::Inbox(_) => Topic::Inbox,
            Payload::Transition(_) => Topic::StateTransitions,
            Payload::Effect(_) => Topic::Effects,
            Payload::Artifact(_) => Topic::Artifacts,
            Payload::PaymentRequest(_) => Topic::PaymentRequests,
            Payload::LedgerTransaction(_) => Topic::LedgerTransactions,
            Payload::Registry(_) => Topic::Registry,
            Payload::DeadLetter(_) => Topic::DeadLetters,
        }
    }

    /// The record key: same key, same partition, same order.
    pub fn key(&self) -> &str {
        match self {
            Payload::Inbox(message) => message.conversation.as_str(),
            Payload::Transition(transition) => transition.conversation.as_str(),
            Payload::Effect(effect) => effect.conversation.as_str(),
            Payload::Artifact(artifact) => artifact.conversation.as_str(),
            Payload::PaymentRequest(request) => request.book.as_str(),
            Payload::LedgerTransaction(transaction) => transaction.book.as_str(),
            Payload::Registry(record) => &record.key,
            Payload::DeadLetter(letter) => &letter.key,
        }
    }
}
