//! Settlement of books whose money is on an outside ledger.
//!
//! The rules are the same ([`p2_core::ledger`]); the difference is when they are final. What a request moves is
//! planned first, the plan is committed, and only then submitted; the outside ledger's answer is the lane's next
//! input. One batch of a book is on its way at a time, and what is asked meanwhile waits in the book's queue.
//!
//! A crash at any point leaves either nothing, or a plan: a new owner finds it in the book and reconciles it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use p2_core::ids::Id;
use p2_core::ledger::{self, Batching, Book, Ruling, Submission, Submitted};
use p2_core::record::{LedgerTransaction, Message, Payload, Topic};
use p2_stream::ports::OutsideLedger;
use p2_stream::processor::{Call, LaneInput, LaneStep, Mark, Processor};
use p2_stream::shell::CallPort;
use p2_stream::view::LaneRows;

use crate::outputs::{self, Envelope};
use crate::{Settlement, log_ruling};

/// How long one try may take, milliseconds.
const TRY_MS: i64 = 60_000;
/// Pause before the second try, milliseconds; doubled before each further one.
const PAUSE_MS: u64 = 250;
/// Longest pause between two tries, milliseconds.
const PAUSE_MAX_MS: u64 = 30_000;
/// How long a lane whose batch is on its way stays in memory without an answer, milliseconds: a year.
const KEEP_MS: i64 = 31_536_000_000;

/// Settles payment requests on an outside ledger.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutsideSettlement {
    /// How large batches may be.
    pub batching: Batching,
}

/// What is asked of the port.
#[derive(Clone, Debug, PartialEq)]
pub struct Submit {
    /// The batch.
    pub batch: Submission,
    /// Counts the tries of this owner from 0. All but the first reconcile.
    pub attempt: u32,
    /// It may have been submitted by an owner before this one.
    pub inherited: bool,
}

/// What the port answers.
#[derive(Clone, Debug, PartialEq)]
pub struct SubmitReply {
    /// The batch.
    pub batch: Id,
    /// The try.
    pub attempt: u32,
    /// What became of it.
    pub outcome: Submitted,
}

/// Submits batches to an outside ledger. Cheap to clone.
#[derive(Clone)]
pub struct OutsidePort(Arc<dyn OutsideLedger>);

impl OutsidePort {
    /// A port on that ledger.
    pub fn new(ledger: Arc<dyn OutsideLedger>) -> OutsidePort {
        OutsidePort(ledger)
    }
}

impl fmt::Debug for OutsidePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutsidePort").finish_non_exhaustive()
    }
}

#[async_trait]
impl CallPort<OutsideSettlement> for OutsidePort {
    /// The deadline of the call is that of a plan, which has none: each try has its own.
    async fn call(&self, _id: Id, request: Submit, _deadline_ms: i64) -> SubmitReply {
        let Submit { batch, attempt, inherited } = request;
        if attempt > 0 {
            let pause = PAUSE_MS.saturating_mul(1 << (attempt - 1).min(16)).min(PAUSE_MAX_MS);
            tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
        }
        let deadline_ms = p2_stream::shell::now_ms().saturating_add(TRY_MS);
        let outcome = if attempt == 0 && !inherited {
            self.0.submit(&batch, deadline_ms).await
        } else {
            self.0.reconcile(&batch, deadline_ms).await
        };
        let command = batch.command.as_str();
        match &outcome {
            Submitted::Taken { external } => {
                tracing::info!(target: "settlement", command, attempt, external, "batch taken");
            }
            Submitted::Refused { message } => {
                tracing::warn!(target: "settlement", command, attempt, reason = message, "batch refused");
            }
            Submitted::Unknown { message } => {
                tracing::warn!(target: "settlement", command, attempt, reason = message, "batch in doubt");
            }
        }
        SubmitReply { batch: batch.batch, attempt, outcome }
    }
}

impl OutsideSettlement {
    /// The records of transactions, and the submission of the batch that they plan.
    fn step(
        &self,
        lane: &Book,
        transactions: &[LedgerTransaction],
        outputs: Vec<Message>,
    ) -> LaneStep<Submit> {
        let mut after = lane.clone();
        let taken = transactions.iter().try_for_each(|made| after.apply(made));
        let batch = after.submission().filter(|_| taken.is_ok());
        let before = lane.outside.plan.as_ref().map(|plan| plan.batch);
        let calls: Vec<_> = batch
            .filter(|batch| Some(batch.batch) != before)
            .map(|batch| call(Submit { batch, attempt: 0, inherited: false }))
            .into_iter()
            .collect();
        // What was planned is committed before it is submitted.
        let mark = if calls.is_empty() { Mark::Done } else { Mark::DoneThenCall };
        LaneStep { outputs, calls, cancel: Vec::new(), mark }
    }

    fn asked(&self, lane: &Book, ruling: Ruling, of: &Asked<'_>) -> LaneStep<Submit> {
        log_ruling(of.key, &of.envelope.cause, &ruling);
        let transactions = match &ruling {
            Ruling::Transactions(transactions) => transactions.clone(),
            _ => Vec::new(),
        };
        let is_broken = matches!(ruling, Ruling::Broken(_));
        let outputs = outputs::of(lane, of.request, ruling, &of.envelope);
        let mut step = self.step(lane, &transactions, outputs);
        if is_broken {
            // Never skipped: it is decided again by the next owner, once the book was mended.
            step.mark = Mark::Pending;
        }
        step
    }

    fn replied(&self, lane: &Book, call_id: &Id, reply: &SubmitReply, now_ms: i64) -> LaneStep<Submit> {
        let SubmitReply { batch, attempt, outcome } = reply;
        let made = ledger::replied(lane, batch, outcome, now_ms, self.batching);
        let envelope = Envelope { cause: *call_id, traceparent: None, now_ms };
        let outputs = outputs::of_transactions(lane, &made, &envelope);
        let mut step = self.step(lane, &made, outputs);
        let same = lane.submission().filter(|now| now.batch == *batch);
        // It is still on its way: nothing that followed ended it, and nothing else was planned.
        if let (Submitted::Unknown { .. }, Some(batch)) = (outcome, same) {
            let again = Submit { batch, attempt: attempt.saturating_add(1), inherited: true };
            step.calls.push(call(again));
        }
        step
    }
}

/// A request, and where it comes from.
struct Asked<'a> {
    key: &'a str,
    request: &'a p2_core::record::PaymentRequest,
    envelope: Envelope,
}

fn call(request: Submit) -> Call<Submit> {
    let kind = if request.inherited { "reconcile" } else { "submit" };
    let id = Id::derive(&request.batch.batch, kind, request.attempt);
    Call { id, deadline_ms: i64::MAX, request }
}

fn nothing() -> LaneStep<Submit> {
    LaneStep { outputs: Vec::new(), calls: Vec::new(), cancel: Vec::new(), mark: Mark::Done }
}

impl Processor for OutsideSettlement {
    type Lane = Book;
    type Request = Submit;
    type Reply = SubmitReply;

    fn name(&self) -> &'static str {
        Settlement.name()
    }

    fn input(&self) -> Topic {
        Settlement.input()
    }

    fn view(&self) -> Option<Topic> {
        Settlement.view()
    }

    fn lane_key(&self, message: &Message) -> String {
        Settlement.lane_key(message)
    }

    fn decide(
        &self,
        key: &str,
        lane: &Book,
        input: &LaneInput<SubmitReply>,
        now_ms: i64,
    ) -> LaneStep<Submit> {
        match input {
            LaneInput::Record(message) | LaneInput::Claimed(message) => match &message.payload {
                Payload::PaymentRequest(request) => {
                    let ruling = ledger::decide_outside(lane, request, now_ms, self.batching);
                    let traceparent = message.traceparent.clone();
                    let envelope = Envelope { cause: message.id, traceparent, now_ms };
                    self.asked(lane, ruling, &Asked { key, request, envelope })
                }
                _ => nothing(),
            },
            LaneInput::Timer { timer } => match ledger::due_outside(lane, now_ms) {
                Some(request) => {
                    let ruling = ledger::decide_outside(lane, &request, now_ms, self.batching);
                    let envelope = Envelope { cause: *timer, traceparent: None, now_ms };
                    self.asked(lane, ruling, &Asked { key, request: &request, envelope })
                }
                None => nothing(),
            },
            LaneInput::Reply { call, reply } => self.replied(lane, call, reply, now_ms),
        }
    }

    fn apply(&self, lane: &mut Book, message: &Message) -> Result<(), String> {
        Settlement.apply(lane, message)
    }

    fn restore(&self, rows: LaneRows) -> Result<Book, String> {
        Settlement.restore(rows)
    }

    /// A new owner does not know whether the batch in flight was submitted.
    fn open_calls(&self, lane: &Book) -> Vec<Call<Submit>> {
        let batch = lane.submission();
        batch.map(|batch| call(Submit { batch, attempt: 0, inherited: true })).into_iter().collect()
    }

    /// Nothing ends by itself while a batch is on its way; the timer that is set then keeps the lane in memory, where
    /// the answer finds it.
    fn timers(&self, lane: &Book) -> Vec<(Id, i64)> {
        match &lane.outside.plan {
            Some(plan) => vec![(Id::derive(&plan.batch, "kept", 0), plan.time_ms.saturating_add(KEEP_MS))],
            None => Settlement.timers(lane),
        }
    }

    fn call_span(&self, key: &str, _lane: Option<&Book>, _call: &Id, request: &Submit) -> tracing::Span {
        let (command, attempt) = (request.batch.command.as_str(), request.attempt);
        tracing::info_span!(target: "settlement", "submit", book = key, command, attempt)
    }
}
