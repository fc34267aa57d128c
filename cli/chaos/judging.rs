//! Which evaluations an artifact leads to: what has to be judged by the end, and what may be judged at all.

use std::collections::{BTreeMap, BTreeSet};

use p2_core::conversation::Conversation;
use p2_core::definition::{EvaluatorKind, Run};
use p2_core::eval::{FIRST, Place, evaluation_id, trigger};
use p2_core::ids::{ConversationId, Id};
use p2_core::record::{Artifact, ArtifactBody};
use p2_core::registry::Registry;

/// The code of an evaluation whose target could not be read in time.
pub(crate) const NO_TARGET: &str = "no_target";

/// An evaluation that an artifact leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// Its id.
    pub(crate) id: Id,
    /// The evaluator.
    pub(crate) evaluator: String,
    /// What is judged.
    pub(crate) place: Place,
}

/// The evaluations that follow from an artifact. Evaluators that count replies are none of the campaign's.
pub(crate) fn due(registry: &Registry, conversation: Option<&Conversation>, artifact: &Artifact) -> Vec<Due> {
    let judge = |(version, evaluator): (i32, &p2_core::definition::Evaluator)| {
        if matches!(evaluator.kind, EvaluatorKind::Topic(_)) {
            return None;
        }
        let when = trigger::matches(evaluator, artifact)?;
        let spot = trigger::spot(artifact)?;
        let place = place(conversation, &spot)?;
        let run = if is_child(conversation, &place) { Run::Children } else { Run::Root };
        (when.always || when.finished.contains(&run)).then(|| Due {
            id: evaluation_id(&place.target(), &evaluator.id, version, FIRST),
            evaluator: evaluator.id.clone(),
            place,
        })
    };
    registry.evaluators().filter_map(judge).collect()
}

fn place(conversation: Option<&Conversation>, spot: &trigger::Spot) -> Option<Place> {
    let entry = spot.entry?;
    Some(match conversation {
        Some(conversation) => Place::of(conversation, &spot.agent, &spot.branch, entry),
        None => Place {
            conversation: spot.conversation.clone(),
            agent: spot.agent.clone(),
            branch: spot.branch.clone(),
            entry,
        },
    })
}

/// Whether an agent was called by another one there.
fn is_child(conversation: Option<&Conversation>, place: &Place) -> bool {
    let Some(conversation) = conversation else { return false };
    let branch = conversation.branch(&place.agent, &place.branch);
    place.agent != conversation.root || branch.is_some_and(|branch| branch.call.is_some())
}

/// What was to be judged and was, as far as the live reader has read.
#[derive(Default)]
pub(crate) struct Judging {
    /// Artifacts that may make somebody judge, until it is done.
    open: Vec<Artifact>,
    /// Evaluations.
    judged: BTreeSet<Id>,
    /// Targets that could not be read.
    unreadable: BTreeSet<Id>,
}

impl Judging {
    /// Takes an artifact.
    pub(crate) fn take(&mut self, artifact: &Artifact) {
        match &artifact.body {
            ArtifactBody::Evaluation(evaluation) => {
                self.judged.insert(artifact.id);
                if evaluation.error.as_ref().is_some_and(|error| error.code == NO_TARGET) {
                    self.unreadable.insert(evaluation.target);
                }
            }
            ArtifactBody::EntryAppended(_) | ArtifactBody::Event(_) => self.open.push(artifact.clone()),
            _ => {}
        }
    }

    /// What still has to be judged; none where all is.
    pub(crate) fn unrest(
        &mut self,
        registry: &Registry,
        conversations: &BTreeMap<ConversationId, Conversation>,
    ) -> Option<String> {
        let mut missing = Vec::new();
        let (judged, unreadable) = (&self.judged, &self.unreadable);
        self.open.retain(|artifact| {
            let due = due(registry, conversations.get(&artifact.conversation), artifact);
            let left = due
                .into_iter()
                .find(|due| !judged.contains(&due.id) && !unreadable.contains(&due.place.target()));
            let open = left.is_some();
            missing.extend(left);
            open
        });
        let first = missing.first()?;
        let (evaluator, place) = (&first.evaluator, &first.place);
        let at = format!("entry {} of {} in {}", place.entry, place.agent, place.conversation);
        Some(format!("{} evaluations are missing, first {at} by {evaluator}", missing.len()))
    }
}
