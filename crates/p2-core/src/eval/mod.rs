//! Judging, as far as it is pure: what is judged, what a judge is asked, what its reply means, how several replies
//! become one score, when an evaluator judges by itself, and what many evaluations say together.
//!
//! Everything around it (reading the target, calling models, deadlines) is `processors/evaluator`.

pub mod aggregate;
pub mod combine;
pub mod expression;
pub mod money;
pub mod prompt;
pub mod reply;
pub mod reward;
pub mod rules;
pub mod trajectory;
pub mod trigger;

#[cfg(test)]
mod tests;

use serde_json::json;

use crate::conversation::Conversation;
use crate::ids::{AgentId, BranchId, ConversationId, Id};
use crate::record::Artifact;

/// The occasion of an evaluation that nobody asked to be made again.
pub const FIRST: &str = "first";
/// Name of the event by which an evaluation is asked for.
pub const REQUESTED: &str = "evaluation_requested";
/// Name of the event that answers a request to which there is no new evaluation.
pub const ANSWERED: &str = "evaluation_answered";
/// Most metrics of one evaluation beside the score.
pub const METRICS_MAX: usize = 32;
/// Longest name of a metric, bytes.
pub const METRIC_NAME_MAX: usize = 64;
/// Numbers that every evaluation has by itself ([`crate::record::Evaluation::metric`]).
pub const RESERVED_METRICS: &[&str] = &["score", "spread", "agreement", "samples", "cost_usd", "latency_ms"];

/// Whether a text may be the name of a metric.
pub fn is_metric_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    (1..=METRIC_NAME_MAX).contains(&name.len()) && name.chars().all(fits)
}

/// What is judged: a branch of an agent's stack up to and including one entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The conversation.
    pub conversation: ConversationId,
    /// The agent: who is judged, and who is paid for it.
    pub agent: AgentId,
    /// The branch that owns the entry.
    pub branch: BranchId,
    /// `seq` of the entry.
    pub entry: i64,
}

impl Place {
    /// The place of an entry as seen from any branch that inherits it: always that of the branch that owns it, so
    /// that one entry is one target.
    pub fn of(conversation: &Conversation, agent: &AgentId, branch: &BranchId, entry: i64) -> Place {
        Place {
            conversation: conversation.id.clone(),
            agent: agent.clone(),
            branch: conversation.owner(agent, branch, entry),
            entry,
        }
    }

    /// The place that an artifact names, such as that of an evaluation; none where it names none.
    pub fn of_artifact(artifact: &Artifact) -> Option<Place> {
        Some(Place {
            conversation: artifact.conversation.clone(),
            agent: artifact.agent.clone()?,
            branch: artifact.branch.clone()?,
            entry: artifact.entry?,
        })
    }

    /// Its name: the id of the text `["target",conversation,agent,branch,entry]` (compact JSON).
    pub fn target(&self) -> Id {
        let Place { conversation, agent, branch, entry } = self;
        Id::of_text(&json!(["target", conversation, agent, branch, entry]).to_string())
    }
}

/// The id of an evaluation, and of its artifact: the id of the text `["evaluation",target,evaluator,version,occasion]`
/// (compact JSON). Whoever judges the same again without another occasion would write the same record again.
pub fn evaluation_id(target: &Id, evaluator: &str, version: i32, occasion: &str) -> Id {
    Id::of_text(&json!(["evaluation", target, evaluator, version, occasion]).to_string())
}
