//! The records of the topics, typed. One struct per topic; the Avro schemas in `schemas/` describe the same
//! shapes, and `p2-stream` encodes one as the other.
//!
//! Unions on the wire are enums of newtype variants around a named struct, in the order of the Avro union.
//! Integers are `i64` (Avro `long`) or `i32` (`int`), times are milliseconds since the Unix epoch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, BranchId, ConversationId, Id};
use crate::json_text::JsonText;
use crate::state::{Answer, Entry, ToolStatus};

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
    /// Agents, tools, personas, prices as applied.
    Registry,
    /// What could not be processed.
    DeadLetters,
}

impl Topic {
    /// Every topic, in the order of the design's table.
    pub const ALL: [Topic; 6] = [
        Topic::Inbox,
        Topic::StateTransitions,
        Topic::Effects,
        Topic::Artifacts,
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
            Payload::Registry(record) => &record.key,
            Payload::DeadLetter(letter) => &letter.key,
        }
    }
}

// ------------------------------------------------------------------------------------------------ inbox

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

// ---------------------------------------------------------------------------------- state-transitions

/// One state transition of one (conversation, agent, branch) stack.
///
/// Folding all transitions of a conversation in order gives the conversation. A step that touches several
/// stacks is several transitions in one batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateTransition {
    /// This transition's id, derived from the input.
    pub id: Id,
    /// The conversation.
    pub conversation: ConversationId,
    /// Counts the conversation's transitions from 0 without gaps.
    pub seq: i64,
    /// The id of the transition before it; absent for the first.
    pub previous: Option<Id>,
    /// The agent whose stack it is.
    pub agent: AgentId,
    /// The branch.
    pub branch: BranchId,
    /// The id of the input that led to it: an inbox record, a model reply, a timer.
    pub input: Id,
    /// What changed, in order.
    pub changes: Vec<Change>,
    /// `seq` of the newest entry of the branch afterwards; −1 for an empty one.
    pub head: i64,
    /// What the branch is doing afterwards.
    pub status: BranchStatus,
    /// Time of the input.
    pub time_ms: i64,
}

/// What the branch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BranchStatus {
    /// Nothing to do: a new message is awaited.
    Idle,
    /// At least one wait is open.
    Waiting,
    /// The newest entry is Finished.
    Finished,
}

/// One change of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// The conversation began. Always the first change of the first transition.
    Opened(Opened),
    /// Entries were appended.
    Appended(Appended),
    /// A branch was made.
    Forked(Forked),
    /// The pointer moved to this transition's branch.
    CheckedOut(CheckedOut),
    /// The entries after a `seq` of this branch are hidden (destructive rewind).
    Hidden(Hidden),
    /// An agent's overrides are now these.
    Overridden(Overridden),
    /// Paused or resumed.
    PauseSet(PauseSet),
    /// The outcome of the input, remembered for its duplicates.
    Decided(Decided),
    /// Definitions were pinned after the conversation began (an agent that joined by delegation).
    Pinned(Pinned),
    /// Waits were closed.
    Closed(Closed),
}

/// Waits were closed: whatever answers one of them from now on is late.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// Their ids.
    pub waits: Vec<Id>,
}

/// The conversation began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// The root agent.
    pub root: AgentId,
}

/// Definitions that the conversation goes on with: `kind/id` → version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pinned {
    /// `kind/id` → version.
    pub versions: BTreeMap<String, i32>,
}

/// Entries were appended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Appended {
    /// The entries, ascending by `seq`.
    pub entries: Vec<Entry>,
}

/// This transition's branch was made as a fork.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forked {
    /// The parent; absent for a root branch (`main`, a callee's first branch).
    pub parent: Option<BranchId>,
    /// The last `seq` of the parent that it inherits; −1 for none.
    pub at: i64,
    /// The name, where one was given.
    pub name: Option<String>,
    /// `user`, `rewind`, `call:<id>` or `tree:<id>`.
    pub creator: String,
    /// Where this is an agent call's branch: the call that it answers.
    pub call: Option<CallLink>,
}

/// Links a callee's branch to the call that it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLink {
    /// The agent call's id.
    pub id: Id,
    /// The caller.
    pub agent: AgentId,
    /// The caller's branch.
    pub branch: BranchId,
    /// How deep: 1 for a callee of the root.
    pub depth: i32,
}

/// The pointer moved to this transition's branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckedOut {
    /// The branch that was checked out before.
    pub from: BranchId,
}

/// The entries after `after` are hidden.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hidden {
    /// The last `seq` that stays visible; −1 hides all.
    pub after: i64,
}

/// An agent's overrides are now these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overridden {
    /// The whole set.
    pub overrides: Overrides,
    /// Whether they are locked.
    pub locked: bool,
}

/// Paused or resumed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PauseSet {
    /// The new value.
    pub paused: bool,
}

/// The outcome of an input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// The outcome.
    pub outcome: Outcome,
}

/// What became of an input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Applied or not.
    pub verdict: Verdict,
    /// A stable code: `ok`, `duplicate`, `conflict`, `unknown_request`, `parked`, `not_found`, `locked`,
    /// `busy`, `limit`, `invalid`.
    pub code: String,
    /// One sentence for people: what, where, how to mend; empty where applied.
    pub message: String,
    /// What it made, where it made something: a branch id, a request id.
    pub reference: Option<String>,
}

/// Applied or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It changed the conversation.
    Applied,
    /// It was recorded, and nothing more was done (a late result, a parked branch).
    Recorded,
    /// It changed nothing.
    Refused,
    /// Its id was seen before; this is the first outcome again.
    Duplicate,
}

// -------------------------------------------------------------------------------------------- effects

/// One effect to carry out, by `tool-exec` or anyone's own executor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Names the effect; also the idempotency key that is handed on.
    pub id: Id,
    /// The conversation.
    pub conversation: ConversationId,
    /// The agent that asks.
    pub agent: AgentId,
    /// Its branch.
    pub branch: BranchId,
    /// Reached later, it is answered `expired` and not done. Milliseconds since the epoch.
    pub not_after_ms: Option<i64>,
    /// What to do.
    pub body: EffectBody,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EffectBody {
    /// Call a tool; answer with a [`ToolOutcome`] on `inbox`.
    CallTool(CallTool),
    /// An agent's reply to people: for bridges to chat systems. Nothing is answered.
    PublishReply(PublishReply),
    /// Tell a webhook that a person is asked. Nothing is answered.
    NotifyWebhook(NotifyWebhook),
}

/// Call a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallTool {
    /// The tool.
    pub tool: String,
    /// Its pinned version.
    pub version: i32,
    /// The arguments, a JSON object as the model gave it or the person edited it.
    pub arguments: JsonText,
    /// The provider's call id.
    pub call_id: String,
    /// The wait that the answer closes.
    pub wait: Id,
}

/// An agent's reply to people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishReply {
    /// The entry that is the reply: `seq` on (agent, branch).
    pub entry: i64,
    /// The text.
    pub text: String,
}

/// Tell a webhook that a person is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NotifyWebhook {
    /// Where to POST `{"conversation","agent","branch","request","kind","text"}`.
    pub url: String,
    /// The request's id.
    pub request: Id,
    /// What is asked.
    pub text: String,
}

// ------------------------------------------------------------------------------------------ artifacts

/// Something produced or observed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its ref.
    pub id: Id,
    /// The conversation.
    pub conversation: ConversationId,
    /// The agent, where it concerns one.
    pub agent: Option<AgentId>,
    /// The branch, where it concerns one.
    pub branch: Option<BranchId>,
    /// The entry that it stands for or belongs to: `seq` on (agent, branch). Text stays in the entry.
    pub entry: Option<i64>,
    /// What it came from: the call's artifact for a result, the judged one for an evaluation.
    pub parents: Vec<Id>,
    /// Time of the triggering input.
    pub time_ms: i64,
    /// What it is.
    pub body: ArtifactBody,
}

/// What an artifact is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ArtifactBody {
    /// An entry was appended.
    EntryAppended(EntryAppended),
    /// A model was called.
    ModelCall(ModelCall),
    /// A tool call is about to be made (the intent behind a claim), or was made.
    ToolRun(ToolRun),
    /// What became of an input. Every inbox message gets exactly one.
    InputOutcome(InputOutcome),
    /// Anything else worth knowing: `branch_forked`, `agent_finished`, `timed_out`, `override_set`, …
    Event(Event),
}

impl ArtifactBody {
    /// Snake-case name: `ce_type` is `p2.artifact.<kind>`.
    pub fn kind(&self) -> &'static str {
        match self {
            ArtifactBody::EntryAppended(_) => "entry_appended",
            ArtifactBody::ModelCall(_) => "model_call",
            ArtifactBody::ToolRun(_) => "tool_run",
            ArtifactBody::InputOutcome(_) => "input_outcome",
            ArtifactBody::Event(_) => "event",
        }
    }
}

/// An entry was appended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryAppended {
    /// The state's name.
    pub state: String,
}

/// A model was called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCall {
    /// The model asked for.
    pub model: String,
    /// The wait that the call belongs to.
    pub wait: Id,
    /// SHA-256 hex of the rendered request (canonical JSON): the prompt's ref.
    pub prompt_ref: String,
    /// Tokens in the prompt, where the provider said.
    pub prompt_tokens: Option<i64>,
    /// Tokens in the reply, where the provider said.
    pub completion_tokens: Option<i64>,
    /// US dollars as decimal text; absent where the price is unknown.
    pub cost_usd: Option<String>,
    /// From first send to last byte over all attempts, milliseconds.
    pub latency_ms: i64,
    /// Attempts made.
    pub attempts: i32,
    /// Absent: it replied.
    pub error: Option<String>,
}

/// A tool call, before or after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolRun {
    /// The effect.
    pub effect: Id,
    /// The tool.
    pub tool: String,
    /// `intent`, `success`, `error`, `timeout`, `expired`, `skipped`, `in_doubt`, `cache_hit`, …
    pub phase: String,
    /// Latency in milliseconds, once made.
    pub latency_ms: Option<i64>,
    /// 1.0, 0.0 or absent.
    pub reward: Option<f64>,
    /// For people: why it failed, what is in doubt.
    pub detail: String,
}

/// What became of an input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputOutcome {
    /// The input's `ce_id`.
    pub input: Id,
    /// The outcome.
    pub outcome: Outcome,
}

/// Anything else worth knowing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: JsonText,
}

// ------------------------------------------------------------------------- registry and dead letters

/// A definition as applied, or the pointer to the newest version of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegistryRecord {
    /// `kind/id@version` for a definition, `kind/id` for the pointer.
    pub key: String,
    /// `agent`, `tool`, `persona`, `price`; more kinds later.
    pub kind: String,
    /// The definition's id.
    pub id: String,
    /// Counts from 1.
    pub version: i32,
    /// The definition as JSON; absent in a pointer.
    pub body: Option<JsonText>,
}

/// A record that could not be processed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// This letter's id.
    pub id: Id,
    /// The original key.
    pub key: String,
    /// The original topic's full name.
    pub topic: String,
    /// The original partition.
    pub partition: i32,
    /// The original offset.
    pub offset: i64,
    /// The consumer group that could not process it; a replay is delivered to this group only.
    pub group: String,
    /// `undecodable`, `invalid`, `too_large`, `wrong_partition`, …
    pub code: String,
    /// What, where, how to mend.
    pub reason: String,
    /// The original headers.
    pub headers: Vec<Header>,
    /// The original value.
    #[serde(with = "crate::bytes")]
    pub value: Vec<u8>,
    /// When, milliseconds since the epoch.
    pub time_ms: i64,
}

/// One header of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Name.
    pub name: String,
    /// Value; text by convention, kept as bytes.
    #[serde(with = "crate::bytes")]
    pub value: Vec<u8>,
}
