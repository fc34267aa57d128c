//! The records of `artifacts`.

use serde::{Deserialize, Serialize};

use super::{Evaluation, Outcome, Payment};
use crate::ids::{AgentId, BranchId, ConversationId, Id};
use crate::json_text::JsonText;

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
    /// Something was judged.
    Evaluation(Box<Evaluation>),
    /// What became of a payment request.
    Payment(Payment),
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
            ArtifactBody::Evaluation(_) => "evaluation",
            ArtifactBody::Payment(_) => "payment",
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
