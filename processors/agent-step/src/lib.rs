//! The processor `agent-step`: steps conversations.
//!
//! It consumes `inbox`, one lane per conversation, and folds `state-transitions`. All decisions are made by
//! [`p2_core::step::decide`]; this crate only translates between lane inputs and core inputs, and between
//! core decisions and records. Model calls are never part of an input: the input that asks is done with its
//! own commit, and the reply comes back as another input of the lane.

mod registry_handle;

use p2_core::conversation::Conversation;
use p2_core::ids::Id;
use p2_core::model::{ModelError, ModelErrorClass, ModelOutcome, ModelRequest};
use p2_core::record::{ENTRY_BYTES_MAX, Message, Payload, Topic};
use p2_core::step::{self, Ask, Context, Decision, Input, Settings};
use p2_stream::processor::{Call, LaneInput, LaneStep, Mark, Processor};

pub use registry_handle::RegistryHandle;

/// Steps conversations. Cheap to clone; clones share the registry.
#[derive(Clone, Debug)]
pub struct AgentStep {
    registry: RegistryHandle,
    settings: Settings,
}

impl AgentStep {
    /// A processor that looks definitions up in `registry`, newest state at each decision.
    pub fn new(registry: RegistryHandle, settings: Settings) -> AgentStep {
        AgentStep { registry, settings }
    }

    /// The registry that it looks at.
    pub fn registry(&self) -> &RegistryHandle {
        &self.registry
    }
}

impl Processor for AgentStep {
    type Lane = Conversation;
    type Request = ModelRequest;
    type Reply = ModelOutcome;

    fn name(&self) -> &'static str {
        "agent-step"
    }

    fn input(&self) -> Topic {
        Topic::Inbox
    }

    fn view(&self) -> Option<Topic> {
        Some(Topic::StateTransitions)
    }

    fn lane_key(&self, message: &Message) -> String {
        message.payload.key().to_owned()
    }

    fn decide(
        &self,
        key: &str,
        lane: &Conversation,
        input: &LaneInput<ModelOutcome>,
        now_ms: i64,
    ) -> LaneStep<ModelRequest> {
        let Some((input, traceparent)) = core_input(input) else { return nothing() };
        let registry = self.registry.snapshot();
        let context = Context { registry: &registry, settings: &self.settings };
        let kind = match &input {
            Input::Inbox { message, .. } => message.body.kind(),
            Input::ModelReply { .. } => "model_reply",
            Input::Deadline { .. } => "deadline",
        };
        let span =
            tracing::info_span!(target: "agent-step", "step", conversation = key, ce_id = %input.id(), kind);
        let decision = span.in_scope(|| step::decide(lane, &input, context, now_ms));
        span.in_scope(|| log_decision(&decision));
        lane_step(decision, &Meta { input: input.id(), time_ms: now_ms, traceparent })
    }

    fn apply(&self, lane: &mut Conversation, message: &Message) -> Result<(), String> {
        match &message.payload {
            Payload::Transition(transition) => lane.apply(transition).map_err(|error| error.to_string()),
            // Effects and artifacts of a step say what it leads to; the conversation is its transitions alone.
            _ => Ok(()),
        }
    }

    fn open_calls(&self, lane: &Conversation) -> Vec<Call<ModelRequest>> {
        let registry = self.registry.snapshot();
        let context = Context { registry: &registry, settings: &self.settings };
        step::open_asks(lane, context).into_iter().map(call).collect()
    }

    fn timers(&self, lane: &Conversation) -> Vec<(Id, i64)> {
        lane.timers()
    }

    fn call_span(
        &self,
        key: &str,
        lane: Option<&Conversation>,
        call: &Id,
        request: &ModelRequest,
    ) -> tracing::Span {
        let wait = lane.and_then(|lane| lane.waits.get(call));
        tracing::info_span!(
            target: "agent-step",
            "model_call",
            conversation = key,
            agent = wait.map(|wait| wait.agent.as_str()),
            branch = wait.map(|wait| wait.branch.as_str()),
            ce_id = %call,
            model = request.model,
        )
    }
}

fn log_decision(decision: &Decision) {
    let first = decision.transitions.first();
    tracing::debug!(
        target: "agent-step",
        agent = first.map(|transition| transition.agent.as_str()),
        branch = first.map(|transition| transition.branch.as_str()),
        transitions = decision.transitions.len(),
        effects = decision.effects.len(),
        asks = decision.asks.len(),
        closed = decision.closed.len(),
        "decided"
    );
}

/// What all records of one step have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The input's id: the cause of each record.
    pub input: Id,
    /// The input's time, milliseconds since the epoch.
    pub time_ms: i64,
    /// Trace context of the input record; none for replies and timers.
    pub traceparent: Option<String>,
}

/// The records of a decision: transitions, then effects, payment requests and artifacts, each in the decision's order.
///
/// Each record's id is that of the thing it carries, so a second run of the same step writes records that are
/// recognised as the same.
pub fn messages(decision: &Decision, meta: &Meta) -> Vec<Message> {
    let transitions = decision
        .transitions
        .iter()
        .map(|transition| (transition.id, Payload::Transition(transition.clone())));
    let effects = decision.effects.iter().map(|effect| (effect.id, Payload::Effect(effect.clone())));
    // One record for each wait: its id is not the request's, which is what the ledger answers once for ever.
    let payments = decision
        .payments
        .iter()
        .map(|request| (Id::derive(&request.id, "record", 0), Payload::PaymentRequest(request.clone())));
    let artifacts =
        decision.artifacts.iter().map(|artifact| (artifact.id, Payload::Artifact(artifact.clone())));
    transitions
        .chain(effects)
        .chain(payments)
        .chain(artifacts)
        .map(|(id, payload)| Message {
            id,
            cause: meta.input,
            cause_position: None,
            time_ms: meta.time_ms,
            traceparent: meta.traceparent.clone(),
            payload,
        })
        .collect()
}

/// The lane step of a decision. Always done: model calls are waits, they hold no offset.
pub fn lane_step(decision: Decision, meta: &Meta) -> LaneStep<ModelRequest> {
    let outputs = messages(&decision, meta);
    LaneStep {
        outputs,
        calls: decision.asks.into_iter().map(call).collect(),
        cancel: decision.closed,
        mark: Mark::Done,
    }
}

fn call(ask: Ask) -> Call<ModelRequest> {
    Call { id: ask.wait, deadline_ms: ask.deadline_ms, request: ask.request }
}

fn nothing() -> LaneStep<ModelRequest> {
    LaneStep { outputs: Vec::new(), calls: Vec::new(), cancel: Vec::new(), mark: Mark::Done }
}

/// The core's input and the trace context; none where the record is not an inbox message.
fn core_input(input: &LaneInput<ModelOutcome>) -> Option<(Input, Option<String>)> {
    match input {
        // This processor never claims, so a record that comes back as claimed is an ordinary one.
        LaneInput::Record(record) | LaneInput::Claimed(record) => match &record.payload {
            Payload::Inbox(message) => {
                Some((Input::Inbox { id: record.id, message: message.clone() }, record.traceparent.clone()))
            }
            _ => None,
        },
        LaneInput::Reply { call, reply } => {
            Some((Input::ModelReply { wait: *call, outcome: fitting(reply) }, None))
        }
        LaneInput::Timer { timer } => Some((Input::Deadline { wait: *timer }, None)),
    }
}

/// Bytes that a tool call takes in a transition beside its own texts: its entry, its wait and their ids.
const CALL_OVERHEAD_BYTES: usize = 512;

/// A reply that no record could hold is an error that people see, not a wait that runs into its deadline.
fn fitting(outcome: &ModelOutcome) -> ModelOutcome {
    let Ok(reply) = &outcome.result else { return outcome.clone() };
    let calls = reply.tool_calls.iter().map(|call| {
        CALL_OVERHEAD_BYTES.saturating_add(call.id.len() + call.name.len() + call.arguments.len())
    });
    let bytes = reply.text.as_ref().map_or(0, String::len).saturating_add(calls.sum());
    if bytes <= ENTRY_BYTES_MAX {
        return outcome.clone();
    }
    let message = format!(
        "the reply of {bytes} bytes ({} tool calls) is over the limit of {ENTRY_BYTES_MAX}: ask for less, or \
         set max_tokens",
        reply.tool_calls.len()
    );
    let error = ModelError { class: ModelErrorClass::Permanent, code: "too_large".to_owned(), message };
    ModelOutcome { result: Err(error), ..outcome.clone() }
}

#[cfg(test)]
mod tests;
