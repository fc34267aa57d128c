//! Evaluations, compared with what they are of.

use p2_core::conversation::Conversation;
use p2_core::definition::EvaluatorKind;
use p2_core::eval::trajectory::Trajectory;
use p2_core::eval::{Place, rules};
use p2_core::ids::BranchId;
use p2_core::record::Evaluation;

/// A rule says the same of what was committed, whoever judged it and when. Models, and rules that a price decides, are
/// believed.
///
/// # Errors
/// What it says instead.
pub fn same_rule(
    kind: &EvaluatorKind,
    place: &Place,
    conversation: &Conversation,
    evaluation: &Evaluation,
) -> Result<(), String> {
    let Some(stack) = conversation.stacks.get(&place.agent) else { return Ok(()) };
    let has = |branch: &&BranchId| Place::of(conversation, &place.agent, branch, place.entry) == *place;
    let mut branches = stack.branches.keys().filter(has);
    let shown = branches.find_map(|branch| Trajectory::of(conversation, place, branch));
    let Some(Ok(judgement)) = shown.and_then(|shown| rules::judge(kind, &shown, None)) else { return Ok(()) };
    if evaluation.score == Some(judgement.score) {
        return Ok(());
    }
    Err(format!("the rule says {} and it is {:?}", judgement.score, evaluation.score))
}
