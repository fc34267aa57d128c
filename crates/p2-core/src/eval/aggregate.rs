//! What many evaluations say together. An evaluation that has no value of a metric counts for nothing there: it is
//! neither a zero nor a reason to have no mean.

use std::collections::BTreeMap;

use super::combine::mean;
use crate::ids::{AgentId, BranchId, ConversationId, Id};
use crate::record::{Artifact, ArtifactBody, Evaluation};

/// An evaluation with its place.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// The artifact.
    pub artifact: &'a Artifact,
    /// What it says.
    pub evaluation: &'a Evaluation,
}

/// The evaluations among artifacts, each id once, in their order.
pub fn evaluations<'a>(artifacts: impl IntoIterator<Item = &'a Artifact>) -> Vec<Judged<'a>> {
    let mut seen = std::collections::BTreeSet::new();
    artifacts
        .into_iter()
        .filter_map(|artifact| match &artifact.body {
            ArtifactBody::Evaluation(evaluation) => Some(Judged { artifact, evaluation }),
            _ => None,
        })
        .filter(|judged| seen.insert(judged.artifact.id))
        .collect()
}

/// The mean of a metric over one branch's own evaluations.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct BranchScore {
    /// The conversation.
    pub conversation: ConversationId,
    /// The agent.
    pub agent: AgentId,
    /// The branch.
    pub branch: BranchId,
    /// The mean.
    pub mean: f64,
    /// Over so many evaluations.
    pub evaluations: usize,
    /// When the newest of them was made, milliseconds since the epoch.
    pub newest_ms: i64,
}

/// The mean of a metric for each branch that has evaluations with it, best first; of equal ones the newer first.
pub fn branches(judged: &[Judged<'_>], metric: &str) -> Vec<BranchScore> {
    let mut found: BTreeMap<(&ConversationId, &AgentId, &BranchId), (Vec<f64>, i64)> = BTreeMap::new();
    for Judged { artifact, evaluation } in judged {
        let (Some(agent), Some(branch), Some(value)) =
            (&artifact.agent, &artifact.branch, evaluation.metric(metric))
        else {
            continue;
        };
        let of = found.entry((&artifact.conversation, agent, branch)).or_insert((Vec::new(), i64::MIN));
        of.0.push(value);
        of.1 = of.1.max(artifact.time_ms);
    }
    let mut scores: Vec<BranchScore> = found
        .into_iter()
        .filter_map(|((conversation, agent, branch), (values, newest_ms))| {
            Some(BranchScore {
                conversation: conversation.clone(),
                agent: agent.clone(),
                branch: branch.clone(),
                mean: mean(&values)?,
                evaluations: values.len(),
                newest_ms,
            })
        })
        .collect();
    scores.sort_by(|a, b| b.mean.total_cmp(&a.mean).then(b.newest_ms.cmp(&a.newest_ms)));
    scores
}

/// The evaluations with the highest value of a metric, best first; of equal ones the older first.
pub fn top<'a>(judged: &[Judged<'a>], metric: &str, count: usize) -> Vec<(f64, Judged<'a>)> {
    let mut found: Vec<(f64, Judged<'a>)> =
        judged.iter().filter_map(|one| Some((one.evaluation.metric(metric)?, *one))).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.artifact.time_ms.cmp(&b.1.artifact.time_ms)));
    found.truncate(count);
    found
}

/// One number of two evaluations.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Difference {
    /// The metric.
    pub metric: String,
    /// Of the first.
    pub left: Option<f64>,
    /// Of the second.
    pub right: Option<f64>,
    /// Second minus first, where both have it.
    pub change: Option<f64>,
}

/// All numbers that one of two evaluations has: the score first, then what both have by themselves, then their
/// metrics by name.
pub fn diff(left: &Evaluation, right: &Evaluation) -> Vec<Difference> {
    let own = super::RESERVED_METRICS.iter().map(|name| (*name).to_owned());
    let mut names: Vec<String> = left.metrics.keys().chain(right.metrics.keys()).cloned().collect();
    names.sort();
    names.dedup();
    own.chain(names)
        .map(|metric| {
            let (a, b) = (left.metric(&metric), right.metric(&metric));
            Difference { change: a.zip(b).map(|(a, b)| b - a), left: a, right: b, metric }
        })
        .filter(|difference| difference.left.is_some() || difference.right.is_some())
        .collect()
}

/// The evaluation with that id.
pub fn find<'a>(judged: &[Judged<'a>], id: &Id) -> Option<Judged<'a>> {
    judged.iter().find(|one| one.artifact.id == *id).copied()
}
