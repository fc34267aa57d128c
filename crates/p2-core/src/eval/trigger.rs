//! When an evaluator judges by itself, as far as an artifact says.

use serde_json::Value;

use super::{ANSWERED, REQUESTED};
use crate::definition::{Evaluator, Run};
use crate::ids::{AgentId, BranchId, ConversationId, Id};
use crate::record::{Artifact, ArtifactBody};

/// Where an artifact points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The conversation.
    pub conversation: ConversationId,
    /// The agent.
    pub agent: AgentId,
    /// The branch.
    pub branch: BranchId,
    /// `seq` of the entry; none: the newest one at the artifact's time.
    pub entry: Option<i64>,
}

/// What somebody asks for: the data of an event [`REQUESTED`], whose agent, branch and entry are the target.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Request {
    /// The evaluator.
    pub evaluator: String,
    /// Its version; none: the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i32>,
    /// The occasion.
    pub occasion: String,
    /// Who asks.
    #[serde(default)]
    pub by: String,
}

/// What is left to be looked up before it is certain that an evaluator judges: whether the run is a root's, how many
/// replies there were. Several may be fulfilled; one is enough.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct If {
    /// Whatever the target is.
    pub always: bool,
    /// Where the run that ended is one of these.
    pub finished: Vec<Run>,
    /// Where the replies so far can be divided by this.
    pub every: Option<i64>,
}

impl If {
    /// Whether it is so.
    pub fn holds(&self, trajectory: &super::trajectory::Trajectory) -> bool {
        let run = if trajectory.is_child { Run::Children } else { Run::Root };
        let every = |every: i64| trajectory.replies > 0 && trajectory.replies % every.max(1) == 0;
        self.always || self.finished.contains(&run) || self.every.is_some_and(every)
    }
}

/// The place that an artifact is about; none where it names no agent and branch.
///
/// An artifact of several entries counts as one of the newest of them.
pub fn spot(artifact: &Artifact) -> Option<Spot> {
    let named = match &artifact.body {
        // The entry that a run ended with is not the one that the event belongs to.
        ArtifactBody::Event(event) => event.data.0.get("entry").and_then(Value::as_i64),
        _ => None,
    };
    Some(Spot {
        conversation: artifact.conversation.clone(),
        agent: artifact.agent.clone()?,
        branch: artifact.branch.clone()?,
        entry: named.or(artifact.entry),
    })
}

/// The states that an artifact says were appended.
fn states(artifact: &Artifact) -> Vec<&str> {
    match &artifact.body {
        ArtifactBody::EntryAppended(entry) => vec![entry.state.as_str()],
        _ => Vec::new(),
    }
}

/// The request that an artifact is.
///
/// # Errors
/// A sentence where it is one that cannot be read.
pub fn request(artifact: &Artifact) -> Option<Result<Request, String>> {
    let ArtifactBody::Event(event) = &artifact.body else { return None };
    if event.name != REQUESTED {
        return None;
    }
    let read = serde_json::from_value::<Request>(event.data.0.clone());
    Some(read.map_err(|error| format!("the data of an event {REQUESTED} cannot be read: {error}")))
}

/// Whether an artifact may make an evaluator judge, and what is left to be looked up; none where it does not.
pub fn matches(evaluator: &Evaluator, artifact: &Artifact) -> Option<If> {
    let trigger = &evaluator.trigger;
    let agent = artifact.agent.as_ref()?;
    if !evaluator.agents.is_empty() && !evaluator.agents.iter().any(|id| id == agent.as_str()) {
        return None;
    }
    let kind = artifact.body.kind();
    let event = match &artifact.body {
        ArtifactBody::Event(event) => Some(event.name.as_str()),
        _ => None,
    };
    // What judging itself writes triggers only who names it.
    let ours = kind == "evaluation" || event == Some(REQUESTED) || event == Some(ANSWERED);
    let named = |name: &str| trigger.artifacts.iter().any(|wanted| wanted == name);
    let states = states(artifact);
    let mut found = If {
        always: named(kind) && !(ours && kind == "event")
            || event.is_some_and(named)
            || states.iter().any(|state| trigger.states.iter().any(|wanted| wanted == state)),
        ..If::default()
    };
    if event == Some("agent_finished") {
        found.finished = trigger.finished.clone();
    }
    if states.contains(&"AssistantMessage") {
        found.every = trigger.every;
    }
    (found.always || !found.finished.is_empty() || found.every.is_some()).then_some(found)
}

/// The artifact of the entry at a spot, the parent of an evaluation.
pub fn entry_artifact(entry: &Id) -> Id {
    Id::derive(entry, "artifact", 0)
}
