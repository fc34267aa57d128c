//! The step: one pure function from (conversation, input) to everything that follows from it.
//!
//! ```text
//! decide(conversation, input, context, now) -> Decision { transitions, effects, payments, artifacts, asks, cancels }
//! ```
//!
//! The caller applies `transitions` to its copy of the conversation with [`Conversation::apply`], writes all
//! records in one batch, and carries out `asks` beside that commit.

use crate::conversation::Conversation;
use crate::ids::{AgentId, BranchId, Id};
use crate::model::{ModelOutcome, ModelRequest};
use crate::record::{Artifact, Effect, InboxMessage, PaymentRequest, StateTransition};
use crate::registry::Registry;

/// Most model calls per user message of one branch; then the run ends with `StopReason::Rounds`.
pub const ASKS_MAX: usize = 25;
/// Most replies in a row with neither text nor tool call.
pub const EMPTY_REPLIES_MAX: usize = 3;
/// Most reflections per user message, of all kinds.
pub const REFLECTIONS_MAX: usize = 3;
/// Deepest agent call: the root is 0.
pub const CALL_DEPTH_MAX: i32 = 8;
/// Most entries of a branch since its newest summary, where the settings say nothing else.
pub const STACK_ENTRIES_MAX: i64 = 2_000;

/// One input of a conversation's lane.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A record of `inbox`; `id` is its `ce_id`.
    Inbox {
        /// The record's id.
        id: Id,
        /// Its value.
        message: InboxMessage,
    },
    /// A model's reply to an ask. Its id is `Id::derive(wait, "reply", 0)`.
    ModelReply {
        /// The wait that it closes.
        wait: Id,
        /// Reply or error.
        outcome: ModelOutcome,
    },
    /// A wait's deadline passed. Its id is `Id::derive(wait, "timer", 0)`.
    Deadline {
        /// The wait.
        wait: Id,
    },
}

impl Input {
    /// The input's id: what its outputs are derived from, and what makes a duplicate.
    pub fn id(&self) -> Id {
        match self {
            Input::Inbox { id, .. } => *id,
            Input::ModelReply { wait, .. } => Id::derive(wait, "reply", 0),
            Input::Deadline { wait } => Id::derive(wait, "timer", 0),
        }
    }
}

/// What the step may look at besides the conversation.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// All definitions.
    pub registry: &'a Registry,
    /// Settings of the system.
    pub settings: &'a Settings,
}

/// Settings of the system that change decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What happens to a repeated tool call.
    pub dedup: DedupPolicy,
    /// Whether an unknown agent is made up on the fly (an LLM agent with `default_model` and every tool that
    /// does not spend).
    pub allow_unknown_agents: bool,
    /// The model of such agents.
    pub default_model: String,
    /// Most entries of a branch since its newest summary.
    pub stack_entries_max: i64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            dedup: DedupPolicy::None,
            allow_unknown_agents: false,
            default_model: "scripted/demo".into(),
            stack_entries_max: STACK_ENTRIES_MAX,
        }
    }
}

/// What happens to a repeated tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DedupPolicy {
    /// It runs.
    #[default]
    None,
    /// It runs, and the repetition is recorded.
    Penalty,
    /// It is skipped, unless the tool is free of side effects.
    Strict,
}

impl DedupPolicy {
    /// Lower-case name, as in the configuration and in events.
    pub fn as_str(self) -> &'static str {
        match self {
            DedupPolicy::None => "none",
            DedupPolicy::Penalty => "penalty",
            DedupPolicy::Strict => "strict",
        }
    }
}

/// Everything that follows from one input.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Decision {
    /// In order; several where several stacks changed. Never empty: at least the outcome is remembered.
    pub transitions: Vec<StateTransition>,
    /// Effects to carry out.
    pub effects: Vec<Effect>,
    /// Requests to the ledger: one per new Waiting(payment), and the end of each reservation whose call has ended.
    pub payments: Vec<PaymentRequest>,
    /// Artifacts, the input's outcome among them.
    pub artifacts: Vec<Artifact>,
    /// Model calls to start, one per new Waiting(llm).
    pub asks: Vec<Ask>,
    /// Waits that this step closed: a running model call of one is cut short, its timer is dropped.
    pub closed: Vec<Id>,
}

/// A model call to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The Waiting(llm) that the reply closes.
    pub wait: Id,
    /// The agent.
    pub agent: AgentId,
    /// The branch.
    pub branch: BranchId,
    /// When it is given up, milliseconds since the epoch.
    pub deadline_ms: i64,
    /// The request.
    pub request: ModelRequest,
}

/// Decides what follows from an input. Pure: the same arguments give the same decision, byte for byte.
///
/// `now_ms` is the clock when the input is decided: deadlines count from the moment a wait begins, not from
/// when the input was written, so a backlog that is worked off late does not time out at once.
pub fn decide(conversation: &Conversation, input: &Input, context: Context<'_>, now_ms: i64) -> Decision {
    crate::fsm::decide(conversation, input, context, now_ms)
}

/// The model calls that are open: what a new owner of the conversation asks again. Parked branches and
/// paused conversations have none. One under a reservation has no time left (`deadline_ms` 0): it is not made again, its
/// reply asks for a reservation for the next attempt.
pub fn open_asks(conversation: &Conversation, context: Context<'_>) -> Vec<Ask> {
    crate::fsm::open_asks(conversation, context)
}
