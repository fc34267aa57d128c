//! The ten states of the finite-state machine, and the entries of a stack.
//!
//! These types are on the wire (`state-transitions`) for ever: a field is only ever added, with a default.
//! Variant order is the order of the Avro union.

use serde::{Deserialize, Serialize};

use crate::ids::{AccountId, AgentId, BookId, BranchId, Id};
use crate::json_text::JsonText;

/// One entry of a stack. Entries never change and are never deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Position in the branch, counted from 0 over the whole lineage (a fork at `n` continues with `n + 1`).
    pub seq: i64,
    /// Derived from the input that caused it.
    pub id: Id,
    /// Time of the triggering input, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// What happened.
    pub state: State,
}

/// The ten states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// Text from a person (or from the calling agent, on a callee's branch).
    UserMessage(UserMessage),
    /// Text from the agent; also visible errors and summaries.
    AssistantMessage(AssistantMessage),
    /// The model asked for a tool.
    ToolCall(ToolCall),
    /// What came of it. Every call ends in exactly one.
    ToolResult(ToolResult),
    /// Another agent was asked.
    AgentCall(AgentCall),
    /// What it answered.
    AgentResult(AgentResult),
    /// Something outside is awaited. Closed by what follows, never removed.
    Waiting(Waiting),
    /// A person is asked.
    UserInputRequest(UserInputRequest),
    /// What the person answered.
    UserResponse(UserResponse),
    /// The run on this branch ended. Terminal until a new user message arrives.
    Finished(Finished),
}

impl State {
    /// The state's name, as in the design, the CLI and the artifacts.
    pub fn kind(&self) -> &'static str {
        match self {
            State::UserMessage(_) => "UserMessage",
            State::AssistantMessage(_) => "AssistantMessage",
            State::ToolCall(_) => "ToolCall",
            State::ToolResult(_) => "ToolResult",
            State::AgentCall(_) => "AgentCall",
            State::AgentResult(_) => "AgentResult",
            State::Waiting(_) => "Waiting",
            State::UserInputRequest(_) => "UserInputRequest",
            State::UserResponse(_) => "UserResponse",
            State::Finished(_) => "Finished",
        }
    }
}

/// Text from a person, or from the calling agent on a callee's branch.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct UserMessage {
    /// The text, as typed.
    pub text: String,
    /// Set where no person wrote it: `agent:<id>` for a caller, `reflection` for a reflection prompt.
    pub origin: Option<String>,
}

/// Text from the agent.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct AssistantMessage {
    /// The text that people see. A reply with tool calls and no text has no such entry.
    pub text: String,
    /// Set where this message stands for a failure: then it is shown to people and not sent to the model.
    pub error: Option<MessageError>,
    /// Set where this message sums up the entries up to and including this `seq` (compaction).
    pub summary_of: Option<i64>,
    /// The tool calls of the same model reply that follow as `ToolCall` entries.
    pub tool_calls: i32,
}

/// Why an assistant message stands for a failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageError {
    /// `model`, `timeout`, `budget`, `rounds`, `limit` or `cancelled`.
    pub class: String,
    /// A stable code within the class, e.g. `http_429`, `no_content`.
    pub code: String,
}

/// The model asked for a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The provider's call id; a derived one where the provider gave none or repeated one.
    pub call_id: String,
    /// The tool.
    pub tool: String,
    /// The arguments as the model gave them, parsed. Where they were not JSON: a JSON string of the raw text.
    pub arguments: JsonText,
    /// Which model reply it came with: all calls of one reply share it.
    pub reply: Id,
    /// SHA-1 hex of `{"name":…,"params":…}` with sorted keys: the dedup key, nothing else.
    pub dedup_key: String,
}

/// What came of a tool call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolResult {
    /// The call's `call_id`.
    pub call_id: String,
    /// The tool.
    pub tool: String,
    /// How it ended.
    pub status: ToolStatus,
    /// What the tool returned, or `{"message": …}` where it failed. Always a JSON object.
    pub result: JsonText,
    /// 1.0 for a success, 0.0 for a failure, absent where the tool did not run to an end.
    pub reward: Option<f64>,
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToolStatus {
    /// The tool did what it was asked.
    Success,
    /// The tool said no, raised, or the arguments were refused.
    Error,
    /// No answer before the deadline, and the call may be repeated.
    Timeout,
    /// The effect was reached after `not_after` and not done.
    Expired,
    /// Not done: the dedup policy or a denied approval.
    Skipped,
    /// Given up on by cancel.
    Cancelled,
    /// Nobody knows whether it was done. Closed later by its own result or by a reconciler.
    InDoubt,
}

impl ToolStatus {
    /// Lower-case name, as the model and people see it.
    pub fn as_str(self) -> &'static str {
        match self {
            ToolStatus::Success => "success",
            ToolStatus::Error => "error",
            ToolStatus::Timeout => "timeout",
            ToolStatus::Expired => "expired",
            ToolStatus::Skipped => "skipped",
            ToolStatus::Cancelled => "cancelled",
            ToolStatus::InDoubt => "in_doubt",
        }
    }
}

/// Another agent was asked. The callee runs on its own branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentCall {
    /// Names the call: the wait, the result and the callee's branch carry it.
    pub id: Id,
    /// The provider's call id of the `delegate` tool call that led here.
    pub call_id: String,
    /// The callee.
    pub agent: AgentId,
    /// The branch of the callee's stack on which it runs.
    pub branch: BranchId,
    /// What it is asked.
    pub message: String,
}

/// What the callee answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentResult {
    /// The agent call's id.
    pub id: Id,
    /// The callee.
    pub agent: AgentId,
    /// How it ended.
    pub status: AgentStatus,
    /// Its last words, or why there are none.
    pub text: String,
    /// A score, where somebody judged it.
    pub score: Option<f64>,
}

/// How an agent call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentStatus {
    /// It answered.
    Success,
    /// It ended with an error, or there is no such agent.
    Error,
    /// No answer before the deadline.
    Timeout,
    /// It was cancelled.
    Cancelled,
}

impl AgentStatus {
    /// Lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            AgentStatus::Success => "success",
            AgentStatus::Error => "error",
            AgentStatus::Timeout => "timeout",
            AgentStatus::Cancelled => "cancelled",
        }
    }
}

/// Something outside is awaited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// Names the wait: whatever closes it carries this id, and exactly one thing closes it. A later entry with
    /// the same id moves the deadline of the open wait, it opens no second one. An agent call's wait has the
    /// call's id, a request's wait the request's.
    pub id: Id,
    /// What is awaited.
    pub kind: WaitKind,
    /// When it is given up, milliseconds since the epoch; none: never.
    pub deadline_ms: Option<i64>,
    /// What it belongs to: a tool call's `call_id`, an agent call's id, a request's id; for a model the
    /// SHA-256 hex of the rendered request (the prompt's ref). Where money is awaited for a model call: empty.
    pub correlation: String,
    /// What is set aside for the call: on a payment's wait what is asked for before it, on a model's or tool's what it
    /// runs under. None: nobody has to pay.
    #[serde(default)]
    pub budget: Option<Held>,
}

/// Money set aside for a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The reservation: the id of the request that makes it. It is ended once, under `Id::derive(reservation, "end", 0)`.
    pub reservation: Id,
    /// The book.
    pub book: BookId,
    /// Whose money.
    pub account: AccountId,
    /// The same call was begun before, under another reservation.
    pub again: bool,
}

/// What is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WaitKind {
    /// A model's reply.
    Llm,
    /// A tool's result.
    Tool,
    /// A callee's answer.
    Agent,
    /// A person's answer.
    UserInput,
    /// A payment's result.
    Payment,
}

impl WaitKind {
    /// Snake-case name, as in the design and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitKind::Llm => "llm",
            WaitKind::Tool => "tool",
            WaitKind::Agent => "agent",
            WaitKind::UserInput => "user_input",
            WaitKind::Payment => "payment",
        }
    }
}

/// A person is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserInputRequest {
    /// Names the request and its wait.
    pub id: Id,
    /// What is asked, for people.
    pub text: String,
    /// What kind of answer fits.
    pub kind: RequestKind,
    /// The tool call to be approved, or the `ask_user` call to be answered: its `call_id`; empty where the
    /// agent itself is a person.
    pub call_id: String,
}

/// What kind of answer fits a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestKind {
    /// Free text: the agent is a person.
    Reply,
    /// Approve, deny or edit a tool call.
    Approval,
    /// Free text: the model asked.
    Question,
}

impl RequestKind {
    /// Lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            RequestKind::Reply => "reply",
            RequestKind::Approval => "approval",
            RequestKind::Question => "question",
        }
    }
}

/// What a person answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserResponse {
    /// The request's id.
    pub request: Id,
    /// The answer.
    pub answer: Answer,
    /// Who answered, as the edge says.
    pub by: String,
}

/// A person's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Which of the four.
    pub kind: AnswerKind,
    /// The text (`Text`) or the reason (`Deny`); empty otherwise.
    pub text: String,
    /// The changed arguments (`Edit`).
    pub arguments: Option<JsonText>,
}

/// The four answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnswerKind {
    /// Do it.
    Approve,
    /// Do not do it.
    Deny,
    /// Do it with other arguments.
    Edit,
    /// Free text.
    Text,
}

/// The run on this branch ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Why.
    pub stop_reason: StopReason,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// The agent answered.
    Done,
    /// Somebody cancelled.
    Cancelled,
    /// The budget is used up.
    Budget,
    /// A failure that the run did not survive.
    Error,
    /// Too many model calls for one user message, or three empty replies in a row.
    Rounds,
}

impl StopReason {
    /// Lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            StopReason::Done => "done",
            StopReason::Cancelled => "cancelled",
            StopReason::Budget => "budget",
            StopReason::Error => "error",
            StopReason::Rounds => "rounds",
        }
    }
}
