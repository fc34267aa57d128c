//! The processor `evaluator`: judges what agents did.
//!
//! It consumes `artifacts`, one lane per target, without a view. The decision ([`Evaluators`]) is pure: it says from
//! the artifact alone which evaluators may judge it; [`JudgePort`] reads the target from the store, asks models or
//! applies rules, and always comes back with a result, were it an error. What is judged is written as one artifact
//! whose id follows from target, evaluator, version and occasion.
//!
//! How often something is judged: a record is done with the commit that writes its evaluations, so a crash before it
//! judges again and writes once. Before the port judges, it looks whether the log has that evaluation already, so a
//! second trigger, a repeated request or a backfill over the same past writes nothing.
//!
//! What evaluations earn: the request for the reward is written in the commit that writes the evaluation. An evaluation
//! by somebody else (an evaluator of type `topic`) is checked against the store when it comes by.

mod decide;
mod judges;
mod known;
mod port;
mod rules;

use std::fmt;
use std::sync::Arc;

use p2_core::definition;
use p2_core::eval::Place;
use p2_core::eval::reward::Claim;
use p2_core::eval::trigger::{If, Spot};
use p2_core::ids::{BookId, Id};
use p2_core::record::{Evaluation, Message, Payload, PaymentRequest, Topic};
use p2_core::registry::Registry;
use p2_stream::processor::{Call, LaneInput, LaneStep, Processor};

pub use port::{Clock, JudgePort};

/// How long a target may be on its way into the store, milliseconds.
pub const TARGET_TIMEOUT_MS: i64 = 30_000;
/// How long a store that does not answer is waited for, milliseconds: that it is away says nothing of the target.
pub const STORE_TIMEOUT_MS: i64 = 900_000;
/// Deadline of an evaluator that asks no model, milliseconds, the wait for its target not included.
pub const RULE_TIMEOUT_MS: i64 = 30_000;

/// An evaluator that may have to judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its definition.
    pub evaluator: Arc<definition::Evaluator>,
    /// Its version.
    pub version: i32,
    /// Whether it has to.
    pub when: If,
    /// The occasion.
    pub occasion: String,
    /// The request, where somebody asked.
    pub request: Option<Id>,
}

/// What the processor asks its port: to judge one target.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeRequest {
    /// Where the target is.
    pub spot: Spot,
    /// The time of the artifact that led here: where it names no entry, the target is the newest one up to then.
    pub time_ms: i64,
    /// Who may have to judge it.
    pub candidates: Vec<Candidate>,
    /// Where the artifact is an evaluation by somebody else that may earn something: what, or why it does not.
    pub claim: Option<Result<Claim, String>>,
}

/// What came of one candidate; candidates whose trigger does not hold have none.
#[derive(Clone, Debug, PartialEq)]
pub enum Ruling {
    /// It was judged, or could not be.
    Judged {
        /// Where the target is.
        place: Place,
        /// The artifact of the judged entry, where there is such an entry.
        parent: Option<Id>,
        /// The book of the conversation's money, where it has one of its own.
        book: Option<BookId>,
        /// The evaluation.
        evaluation: Box<Evaluation>,
    },
    /// It had been judged before, and was not judged again.
    Kept {
        /// Where the target is.
        place: Place,
        /// The earlier evaluation.
        evaluation: Id,
        /// The request, where somebody asked.
        request: Option<Id>,
    },
    /// What somebody else judged is what it says it is: it earns a reward.
    Earned(Box<PaymentRequest>),
    /// A record of an evaluation is not what it must be.
    Unearned {
        /// In a sentence.
        why: String,
    },
}

/// The state of a lane: its record. The runtime applies it before the first decision.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct EvaluatorLane {
    record: Option<Message>,
}

/// Where the processor takes the registry from, anew at each decision: a pointer to a value that does not change.
pub type RegistrySnapshot = Arc<dyn Fn() -> Arc<Registry> + Send + Sync>;

/// Judges. Cheap to clone.
#[derive(Clone)]
pub struct Evaluators {
    registry: RegistrySnapshot,
}

impl Evaluators {
    /// A processor that looks evaluators up in what `registry` returns.
    pub fn new(registry: impl Fn() -> Arc<Registry> + Send + Sync + 'static) -> Evaluators {
        Evaluators { registry: Arc::new(registry) }
    }
}

impl fmt::Debug for Evaluators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evaluators").finish_non_exhaustive()
    }
}

impl Processor for Evaluators {
    type Lane = EvaluatorLane;
    type Request = JudgeRequest;
    type Reply = Vec<Ruling>;

    fn name(&self) -> &'static str {
        "evaluator"
    }

    fn input(&self) -> Topic {
        Topic::Artifacts
    }

    fn view(&self) -> Option<Topic> {
        None
    }

    fn lane_key(&self, message: &Message) -> String {
        match &message.payload {
            Payload::Artifact(artifact) => decide::lane_key(artifact),
            _ => message.id.to_string(),
        }
    }

    fn decide(
        &self,
        key: &str,
        lane: &EvaluatorLane,
        input: &LaneInput<Vec<Ruling>>,
        now_ms: i64,
    ) -> LaneStep<JudgeRequest> {
        let span = tracing::info_span!(target: "evaluator", "step", ce_id = key);
        let _entered = span.enter();
        decide::decide(&(self.registry)(), lane.record.as_ref(), input, now_ms)
    }

    fn apply(&self, lane: &mut EvaluatorLane, message: &Message) -> Result<(), String> {
        // An output of ours is written with the step that ends its lane's record: it never stands for one.
        lane.record = Some(message.clone());
        Ok(())
    }

    fn open_calls(&self, _lane: &EvaluatorLane) -> Vec<Call<JudgeRequest>> {
        // Lanes are rebuilt from their records; there is nothing to ask again from here.
        Vec::new()
    }

    fn timers(&self, _lane: &EvaluatorLane) -> Vec<(Id, i64)> {
        // Calls carry their deadline.
        Vec::new()
    }

    fn call_span(
        &self,
        key: &str,
        _lane: Option<&EvaluatorLane>,
        _call: &Id,
        request: &JudgeRequest,
    ) -> tracing::Span {
        tracing::info_span!(
            target: "evaluator",
            "judge",
            conversation = request.spot.conversation.as_str(),
            agent = request.spot.agent.as_str(),
            branch = request.spot.branch.as_str(),
            ce_id = key,
        )
    }
}

#[cfg(test)]
mod tests;
