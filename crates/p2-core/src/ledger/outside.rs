//! Books whose money is on an outside ledger.
//!
//! Such a book gives out one batch at a time. A request that comes meanwhile waits in the queue; when the batch has
//! its answer, the queue is decided in its order, and what it moves is the next batch. The batch is fixed by its
//! `Planned` transactions: they hold, word for word, what is submitted and what becomes of every request if the
//! outside ledger takes it. So a restart, or a later version of the rules, submits and settles the same.
//!
//! A batch is taken as a whole or not at all. So what follows from its requests can be worked out beforehand, one
//! on the other, and is right if it is taken; if it is refused, all of it is worked out again.

mod plan;
#[cfg(test)]
mod tests;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};

pub use plan::{Batching, decide_outside, due_outside, replied};

use super::book::Book;
use crate::ids::{AccountId, BookId, ConversationId, Id};
use crate::record::{Hold, LedgerOutcome, LedgerTransaction, PaymentRequest, Planned, Posting};

/// What a book has to do with an outside ledger; nothing for a book of the embedded one.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Outside {
    /// Requests without a final answer, those of the batch in flight included, by the `seq` of the transaction that
    /// put them here.
    pub queue: OrdMap<i64, PaymentRequest>,
    /// Request → its place in the queue.
    pub places: OrdMap<Id, i64>,
    /// The batch in flight.
    pub plan: Option<Plan>,
    /// Most requests of the next batch: halved when a batch is refused, doubled when one is taken.
    pub limit: Option<i32>,
    /// What the outside ledger's cursor of this book is at: the `seq` after the last batch that it took.
    pub next: i64,
    /// Batches that it took.
    pub batches: i64,
}

/// A batch that was, or is about to be, submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Its id.
    pub batch: Id,
    /// The outside ledger's idempotency key.
    pub command: String,
    /// The `seq` of its last `Planned` transaction.
    pub last: i64,
    /// How many requests it has.
    pub of: i32,
    /// When it was planned, milliseconds since the epoch.
    pub time_ms: i64,
    /// Its requests, in order.
    pub parts: Vector<Part>,
    /// Somebody was told that its outcome is not known.
    pub in_doubt: bool,
    /// Requests of it without a final answer.
    pub open: i32,
    /// It was taken.
    pub taken: bool,
}

/// One request of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The request.
    pub request: Id,
    /// What is submitted for it, and what follows.
    pub terms: PartTerms,
}

/// What `Planned::data` holds.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct PartTerms {
    /// What is submitted; nothing for a request that moves nothing by itself.
    pub entries: Vec<Entry>,
    /// What becomes of the request if the batch is taken, and of a request which it lets go on.
    pub made: Vec<Made>,
}

/// What becomes of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// The request.
    pub request: Id,
    /// Its outcome.
    pub outcome: LedgerOutcome,
    /// What is set aside or given back.
    pub holds: Vec<Hold>,
    /// What moves.
    pub postings: Vec<Posting>,
}

/// One movement on the outside ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Who pays; the account itself for `Freeze` and `Thaw`.
    pub from: Option<AccountId>,
    /// Who is paid.
    pub to: Option<AccountId>,
    /// How much, in minor units.
    pub amount: i64,
    /// The request.
    pub request: Id,
    /// The evaluation that earned it.
    pub evaluation: Option<Id>,
    /// The conversation in which it was earned or asked for.
    pub conversation: Option<ConversationId>,
    /// Why, in words.
    pub reason: String,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// Money comes into the world.
    Deposit,
    /// Money leaves it.
    Withdraw,
    /// It changes hands.
    Transfer,
    /// Judged work is paid.
    Reward,
    /// An account neither pays nor is paid from now on.
    Freeze,
    /// It does again.
    Thaw,
}

/// A batch as an outside ledger is given it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// The book.
    pub book: BookId,
    /// Its unit.
    pub unit: String,
    /// Its decimals.
    pub scale: i32,
    /// The batch.
    pub batch: Id,
    /// The idempotency key: the same for every try.
    pub command: String,
    /// What the ledger's cursor of the book must be at.
    pub expected: i64,
    /// What it is one past afterwards.
    pub last: i64,
    /// What moves, in order.
    pub entries: Vec<Entry>,
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// All of it is on the outside ledger.
    Taken {
        /// What it calls it there.
        external: String,
    },
    /// Nothing of it is, and trying again changes nothing.
    Refused {
        /// What the outside ledger said.
        message: String,
    },
    /// Nobody knows, or it could not be tried: to be reconciled.
    Unknown {
        /// Why, in a sentence.
        message: String,
    },
}

impl Outside {
    /// Whether an outside ledger has, or may have, money of this book.
    pub fn is_used(&self) -> bool {
        self.batches > 0 || self.plan.is_some() || !self.queue.is_empty()
    }

    /// A request that waits, or is in the batch in flight.
    pub fn waiting(&self, request: &Id) -> Option<&PaymentRequest> {
        self.queue.get(self.places.get(request)?)
    }

    /// Takes a transaction in, after its answer was kept.
    pub(super) fn take(&mut self, transaction: &LedgerTransaction) -> Result<(), String> {
        let LedgerTransaction { request, seq, outcome, time_ms, .. } = transaction;
        match outcome {
            LedgerOutcome::Queued(_) => self.enter(*seq, request),
            LedgerOutcome::Planned(planned) => {
                self.enter(*seq, request);
                self.plan(*seq, *time_ms, request.id, planned)?;
            }
            LedgerOutcome::InDoubt(_) => {
                if let Some(plan) = self.plan.as_mut().filter(|plan| plan.has(&request.id)) {
                    plan.in_doubt = true;
                }
            }
            LedgerOutcome::Committed(done) => self.end(request.id, done.external.is_some()),
            LedgerOutcome::Rejected(_) => self.end(request.id, false),
            LedgerOutcome::Pending(_) => self.end(request.id, false),
        }
        Ok(())
    }

    fn enter(&mut self, seq: i64, request: &PaymentRequest) {
        if !self.places.contains_key(&request.id) {
            self.places.insert(request.id, seq);
            self.queue.insert(seq, request.clone());
        }
    }

    fn plan(&mut self, seq: i64, time_ms: i64, request: Id, planned: &Planned) -> Result<(), String> {
        let Planned { batch, index, of, command, data } = planned;
        let terms = match data {
            Some(data) => serde_json::from_value(data.0.clone())
                .map_err(|error| format!("the plan of request {request} cannot be read: {error}"))?,
            None => PartTerms::default(),
        };
        let same = self.plan.as_ref().is_some_and(|plan| plan.batch == *batch);
        if !same {
            // Another batch while one is in flight: that one was refused, and this is what is tried instead.
            if let Some(refused) = self.plan.take() {
                self.limit = Some((refused.of / 2).max(1));
            }
            self.plan = Some(Plan {
                batch: *batch,
                command: command.clone(),
                last: seq.saturating_add(i64::from(*of)).saturating_sub(1),
                of: *of,
                time_ms,
                parts: Vector::new(),
                in_doubt: false,
                open: *of,
                taken: false,
            });
        }
        let Some(plan) = self.plan.as_mut() else { return Ok(()) };
        if usize::try_from(*index).ok() != Some(plan.parts.len()) || index >= of || *of != plan.of {
            return Err(format!("request {request} is not the next of batch {batch}"));
        }
        plan.parts.push_back(Part { request, terms });
        Ok(())
    }

    fn end(&mut self, request: Id, taken: bool) {
        if let Some(place) = self.places.remove(&request) {
            self.queue.remove(&place);
        }
        let Some(plan) = self.plan.as_mut().filter(|plan| plan.has(&request)) else { return };
        plan.taken |= taken;
        plan.open -= 1;
        if plan.open > 0 {
            return;
        }
        if plan.taken {
            self.next = plan.last.saturating_add(1);
            self.batches += 1;
            self.limit = self.limit.and_then(|limit| limit.checked_mul(2)).filter(|limit| *limit < 1 << 16);
        }
        self.plan = None;
    }

    /// The rules of the queue.
    pub(super) fn check(&self) -> Result<(), String> {
        let known = |id: &Id| self.places.get(id).is_some_and(|place| self.queue.contains_key(place));
        if self.places.len() != self.queue.len() || !self.queue.values().all(|request| known(&request.id)) {
            return Err("the queue for the outside ledger does not know its own requests".to_owned());
        }
        let waiting = self.plan.iter().flat_map(|plan| &plan.parts).filter(|part| known(&part.request));
        let open = self.plan.as_ref().map_or(0, |plan| plan.open);
        if i32::try_from(waiting.count()).ok() != Some(open) {
            return Err("the batch in flight has requests that do not wait".to_owned());
        }
        Ok(())
    }
}

impl Plan {
    fn has(&self, request: &Id) -> bool {
        self.parts.iter().any(|part| part.request == *request)
    }
}

impl Book {
    /// The batch in flight, as it is submitted: the same at every try.
    pub fn submission(&self) -> Option<Submission> {
        let (plan, terms) = (self.outside.plan.as_ref()?, self.terms.as_ref()?);
        Some(Submission {
            book: terms.book.clone(),
            unit: terms.unit.clone(),
            scale: terms.scale,
            batch: plan.batch,
            command: plan.command.clone(),
            expected: self.outside.next,
            last: plan.last,
            entries: plan.parts.iter().flat_map(|part| part.terms.entries.iter().cloned()).collect(),
        })
    }
}
