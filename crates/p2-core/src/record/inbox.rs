//! The messages of `inbox`.

use serde::{Deserialize, Serialize};

use super::PaymentResult;
use crate::ids::{AgentId, BookId, BranchId, ConversationId, Id};
use crate::json_text::JsonText;
use crate::state::{Answer, ToolStatus};

/// One message addressed to a conversation. Each gets exactly one outcome artifact that names its id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InboxMessage {
    /// The conversation; it is opened by its first [`UserText`].
    pub conversation: ConversationId,
    /// What is said.
    pub body: InboxBody,
}

/// What is said to a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum InboxBody {
    /// A person's message.
    UserText(UserText),
    /// A person's answer to a request.
    HumanAnswer(HumanAnswer),
    /// What came of a tool call.
    ToolOutcome(ToolOutcome),
    /// A branch operation.
    BranchCommand(BranchCommand),
    /// Per-conversation overrides of an agent.
    OverrideCommand(OverrideCommand),
    /// Cancel, pause, resume.
    ControlCommand(ControlCommand),
    /// What came of a payment request.
    PaymentResult(PaymentResult),
}

impl InboxBody {
    /// Snake-case name: `ce_type` is `p2.inbox.<kind>`.
    pub fn kind(&self) -> &'static str {
        match self {
            InboxBody::UserText(_) => "user_text",
            InboxBody::HumanAnswer(_) => "human_answer",
            InboxBody::ToolOutcome(_) => "tool_outcome",
            InboxBody::BranchCommand(_) => "branch_command",
            InboxBody::OverrideCommand(_) => "override_command",
            InboxBody::ControlCommand(_) => "control_command",
            InboxBody::PaymentResult(_) => "payment_result",
        }
    }
}

/// A person's message to an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserText {
    /// The agent. For an open conversation: none means its root agent.
    pub agent: Option<AgentId>,
    /// The branch; none means the one that is checked out.
    pub branch: Option<BranchId>,
    /// The text.
    pub text: String,
}

/// A person's answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HumanAnswer {
    /// The request's id.
    pub request: Id,
    /// The answer.
    pub answer: Answer,
    /// Who answers.
    pub by: String,
}

/// What came of a tool call, from `tool-exec` or anyone's own executor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolOutcome {
    /// The effect that it answers.
    pub effect: Id,
    /// The wait that it closes (the effect's `wait`).
    pub wait: Id,
    /// The call's `call_id`.
    pub call_id: String,
    /// How it ended.
    pub status: ToolStatus,
    /// What the tool returned; always a JSON object.
    pub result: JsonText,
    /// 1.0, 0.0 or absent.
    pub reward: Option<f64>,
    /// How long the call took, milliseconds; absent where nothing was called.
    pub latency_ms: Option<i64>,
}

/// A branch operation on one agent's stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BranchCommand {
    /// Which.
    pub operation: BranchOperation,
    /// The agent; none means the root agent.
    pub agent: Option<AgentId>,
    /// Fork, rewind: the branch to fork from, none means the one checked out. Checkout: the one to check out,
    /// by id, by name or by a unique prefix of the id.
    pub branch: Option<String>,
    /// Fork, rewind: the visible index (entries that are not Waiting, from 0) of the last entry that is kept.
    /// None: the newest.
    pub at: Option<i64>,
    /// A name for the new branch, unique in its stack.
    pub name: Option<String>,
    /// Fork: cut and fork the callees' stacks too.
    pub tree: bool,
    /// Fork inside an open step: keep the wait, its result goes to every branch that inherits it.
    pub keep_wait: bool,
    /// Rewind: hide the entries on this branch instead of forking.
    pub destructive: bool,
}

/// The branch operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BranchOperation {
    /// A new branch, without checking it out.
    Fork,
    /// A new branch, checked out (or, destructively, hiding the tail).
    Rewind,
    /// Move the pointer.
    Checkout,
}

/// Per-conversation overrides of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverrideCommand {
    /// The agent; none means the root agent.
    pub agent: Option<AgentId>,
    /// Only the fields that are set change.
    pub set: Overrides,
    /// Go back to the agent's definition first.
    pub clear: bool,
    /// Refuse later overrides that do not bring `unlock`.
    pub lock: bool,
    /// Lift the lock first.
    pub unlock: bool,
    /// The book that the conversation's money is in from now on, for all of its agents; the empty text: the books
    /// that the definitions name. None: no change.
    #[serde(default)]
    pub book: Option<BookId>,
}

/// What can be overridden.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Overrides {
    /// Model name.
    pub model: Option<String>,
    /// 0..=2.
    pub temperature: Option<f64>,
    /// 0..=1.
    pub top_p: Option<f64>,
    /// Longest reply, in tokens.
    pub max_tokens: Option<i64>,
    /// The tools instead of the agent's.
    pub tools: Option<Vec<String>>,
    /// The persona; the empty text for none.
    pub behavior: Option<String>,
    /// The account that pays for the agent's work, where its definition has a budget.
    #[serde(default)]
    pub budget: Option<String>,
}

/// Cancel, pause, resume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlCommand {
    /// Which.
    pub operation: ControlOperation,
    /// Why, for people.
    pub reason: String,
}

/// The control operations; each is for the whole conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlOperation {
    /// Close every open wait and finish every open run.
    Cancel,
    /// Ask nothing new until resumed.
    Pause,
    /// Go on.
    Resume,
}
