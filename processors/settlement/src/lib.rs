//! The processor `settlement`: answers payment requests.
//!
//! One lane per book, folded from `ledger-transactions`, so that a new owner knows every book of its partitions and
//! every request that was ever answered. All rules are [`p2_core::ledger`]'s; this crate translates between lane
//! inputs and requests, and between transactions and records. Reservations and requests that wait for a person end
//! by timers of the lane.
//!
//! [`Settlement`] has no port: the ledger is the log. One transaction of the log carries a ledger transaction, the result for
//! the conversation that asked, the artifact, and the progress; so money moves exactly once and nobody hears of
//! anything that did not happen. [`OutsideSettlement`] is for books whose money is on another ledger.

mod outputs;
mod outside;

use std::convert::Infallible;

use async_trait::async_trait;
use p2_core::ids::Id;
use p2_core::ledger::{self, Book, Ruling};
use p2_core::record::{Message, Payload, PaymentRequest, Topic};
use p2_stream::processor::{Call, LaneInput, LaneStep, Mark, Processor};
use p2_stream::shell::CallPort;
use p2_stream::view::LaneRows;

use outputs::Envelope;
pub use outside::{OutsidePort, OutsideSettlement, Submit, SubmitReply};

/// Settles payment requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settlement;

/// It asks nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPort;

#[async_trait]
impl CallPort<Settlement> for NoPort {
    async fn call(&self, _id: Id, request: Infallible, _deadline_ms: i64) -> Infallible {
        match request {}
    }
}

impl Processor for Settlement {
    type Lane = Book;
    type Request = Infallible;
    type Reply = Infallible;

    fn name(&self) -> &'static str {
        "settlement"
    }

    fn input(&self) -> Topic {
        Topic::PaymentRequests
    }

    fn view(&self) -> Option<Topic> {
        Some(Topic::LedgerTransactions)
    }

    fn lane_key(&self, message: &Message) -> String {
        message.payload.key().to_owned()
    }

    fn decide(
        &self,
        key: &str,
        lane: &Book,
        input: &LaneInput<Infallible>,
        now_ms: i64,
    ) -> LaneStep<Infallible> {
        self.decide_and_apply(key, lane, input, now_ms).0
    }

    fn decide_and_apply(
        &self,
        key: &str,
        lane: &Book,
        input: &LaneInput<Infallible>,
        now_ms: i64,
    ) -> (LaneStep<Infallible>, Option<Book>) {
        let (mut mark, mut after) = (Mark::Done, None);
        let mut answered = |request: &PaymentRequest, cause: Id, traceparent: Option<String>| {
            let (ruling, book) = ledger::decide_and_apply(lane, request, now_ms);
            after = book;
            log_ruling(key, &cause, &ruling);
            if matches!(ruling, Ruling::Broken(_)) {
                // Never skipped: it is decided again by the next owner, once the book was mended.
                mark = Mark::Pending;
            }
            outputs::of(lane, request, ruling, &Envelope { cause, traceparent, now_ms })
        };
        let outputs = match input {
            LaneInput::Record(message) | LaneInput::Claimed(message) => match &message.payload {
                Payload::PaymentRequest(request) => {
                    answered(request, message.id, message.traceparent.clone())
                }
                _ => Vec::new(),
            },
            LaneInput::Timer { timer } => match ledger::due(lane, now_ms) {
                Some(request) => answered(&request, *timer, None),
                None => Vec::new(),
            },
            LaneInput::Reply { reply, .. } => match *reply {},
        };
        (LaneStep { outputs, calls: Vec::new(), cancel: Vec::new(), mark }, after)
    }

    fn apply(&self, lane: &mut Book, message: &Message) -> Result<(), String> {
        match &message.payload {
            Payload::LedgerTransaction(transaction) => lane.apply(transaction),
            _ => Ok(()),
        }
    }

    fn restore(&self, rows: LaneRows) -> Result<Book, String> {
        match rows {
            LaneRows::Book(book) => Ok(*book),
            LaneRows::Transitions(_) => Err("settlement folds ledger transactions".to_owned()),
        }
    }

    fn open_calls(&self, _lane: &Book) -> Vec<Call<Infallible>> {
        Vec::new()
    }

    /// What ends first; the timer of the next is set when this one has ended.
    fn timers(&self, lane: &Book) -> Vec<(Id, i64)> {
        let due = lane.next_due();
        due.map(|(due_ms, reference)| (ledger::expiry_id(&reference), due_ms)).into_iter().collect()
    }
}

fn log_ruling(book: &str, input: &Id, ruling: &Ruling) {
    match ruling {
        Ruling::Transactions(transactions) => {
            for made in transactions {
                let (request, outcome) = (&made.request.id, made.outcome.as_str());
                tracing::debug!(target: "settlement", book, ce_id = %input, %request, seq = made.seq, outcome, "decided");
            }
        }
        Ruling::Duplicate(answer) => {
            let first = &answer.transaction;
            tracing::debug!(target: "settlement", book, ce_id = %input, %first, "answered before");
        }
        Ruling::Queried(_) => {
            tracing::debug!(target: "settlement", book, ce_id = %input, "queried");
        }
        Ruling::Broken(reason) => {
            tracing::error!(
                target: "settlement", book, ce_id = %input, %reason,
                "the book breaks a rule: the request is left pending; see 'p2engine ledger verify'"
            );
        }
    }
}

#[cfg(test)]
mod tests;
