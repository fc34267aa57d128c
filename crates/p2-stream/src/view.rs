//! What lanes are folds of: the records of a view, and what a view has of one lane.

use p2_core::ledger::Book;
use p2_core::record::{LedgerTransaction, Message, Payload, StateTransition};

/// A record of a view's topic.
#[derive(Clone, Debug, PartialEq)]
pub enum ViewRecord {
    /// Of `state-transitions`.
    Transition(StateTransition),
    /// Of `ledger-transactions`.
    Ledger(Box<LedgerTransaction>),
}

impl ViewRecord {
    /// The record in a payload; none where it is of no view.
    pub fn of(payload: Payload) -> Option<ViewRecord> {
        match payload {
            Payload::Transition(transition) => Some(ViewRecord::Transition(transition)),
            Payload::LedgerTransaction(transaction) => Some(ViewRecord::Ledger(transaction.into())),
            _ => None,
        }
    }

    /// The lane.
    pub fn key(&self) -> &str {
        match self {
            ViewRecord::Transition(transition) => transition.conversation.as_str(),
            ViewRecord::Ledger(transaction) => transaction.book.as_str(),
        }
    }

    /// Counts the records of the lane from 0 without gaps.
    pub fn seq(&self) -> i64 {
        match self {
            ViewRecord::Transition(transition) => transition.seq,
            ViewRecord::Ledger(transaction) => transaction.seq,
        }
    }

    /// The transition, where it is one.
    pub fn transition(&self) -> Option<&StateTransition> {
        match self {
            ViewRecord::Transition(transition) => Some(transition),
            ViewRecord::Ledger(_) => None,
        }
    }
}

impl From<StateTransition> for ViewRecord {
    fn from(transition: StateTransition) -> ViewRecord {
        ViewRecord::Transition(transition)
    }
}

/// What a view has of one lane.
#[derive(Clone, Debug, PartialEq)]
pub enum LaneRows {
    /// Every transition, in order; none for a new lane.
    Transitions(Vec<StateTransition>),
    /// The fold of its transactions; an empty one for a new lane.
    Book(Box<Book>),
}

impl LaneRows {
    /// The `seq` of the newest record in it.
    pub fn newest_seq(&self) -> Option<i64> {
        match self {
            LaneRows::Transitions(transitions) => transitions.last().map(|last| last.seq),
            LaneRows::Book(book) => book.next_seq.checked_sub(1).filter(|newest| *newest >= 0),
        }
    }

    /// Whether a row is missing between others: the store has lost it.
    pub(crate) fn has_gap(&self) -> bool {
        match self {
            LaneRows::Transitions(transitions) => {
                (0_i64..).zip(transitions).any(|(due, transition)| transition.seq != due)
            }
            LaneRows::Book(_) => false,
        }
    }
}

/// A transition as read from the store or the log, in the envelope that `Processor::apply` takes.
pub(crate) fn message_of(transition: StateTransition) -> Message {
    Message {
        id: transition.id,
        cause: transition.input,
        cause_position: None,
        time_ms: transition.time_ms,
        traceparent: None,
        payload: Payload::Transition(transition),
    }
}
