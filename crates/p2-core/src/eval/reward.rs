//! What an evaluation earns: the payment request that follows from it, and whether a record that somebody else wrote
//! may be believed.

use super::{Place, evaluation_id};
use crate::definition::{Evaluator, EvaluatorKind, Rewards};
use crate::ids::{AccountId, BookId, Id};
use crate::ledger;
use crate::record::{Artifact, CauseKind, Evaluation, PaymentBody, PaymentCause, PaymentRequest, Reward};
use crate::registry::Registry;

/// Name of the event that says why a record by somebody else earned nothing.
pub const REFUSED: &str = "reward_refused";

/// What an evaluator pays for: as its version says, unless the newest version pays nothing any more.
pub fn rewards<'r>(registry: &'r Registry, evaluator: &str, version: i32) -> Option<&'r Rewards> {
    registry.evaluator(evaluator, None)?.1.rewards.as_ref()?;
    registry.evaluator(evaluator, Some(version))?.1.rewards.as_ref()
}

/// The request for the reward of an evaluation; none where it earned nothing: judging failed, or it does not have the
/// metric. It is paid in `book`, the conversation's, or in that of the evaluator where the conversation has none.
///
/// The payee is the wallet of the judged agent, and the request's id does not depend on who judged how often: see
/// [`ledger::reward_id`]. An evaluation that repeats another one's result (`same_as`) is of another piece of work, and
/// earns like any other: whether the result was remembered is a matter of chance.
///
/// # Errors
/// A sentence where the number is there and cannot be paid for.
pub fn request(
    rewards: &Rewards,
    book: Option<&BookId>,
    place: &Place,
    id: Id,
    evaluation: &Evaluation,
) -> Result<Option<PaymentRequest>, String> {
    let Rewards { metric, occasion, book: own_book, .. } = rewards;
    if evaluation.error.is_some() || evaluation.score.is_none() {
        return Ok(None);
    }
    let Some(score) = evaluation.metric(metric) else { return Ok(None) };
    // Also where it is no number at all.
    if !(0.0..=1.0).contains(&score) {
        return Err(format!("'{metric}' is {score}, which is not from 0 to 1"));
    }
    if evaluation.samples < 1 {
        return Err("it has a score, and no judgement that counts ('samples' is 0)".to_owned());
    }
    let Evaluation { target, evaluator, version, .. } = evaluation;
    let reward = Reward {
        target: *target,
        evaluator: evaluator.clone(),
        metric: metric.clone(),
        payee: AccountId::from(place.agent.as_str()),
        occasion: occasion.clone().unwrap_or_else(|| target.to_string()),
        evaluator_version: *version,
        evaluation: id,
        score,
    };
    Ok(Some(PaymentRequest {
        id: ledger::reward_id(&reward),
        book: book.unwrap_or(own_book).clone(),
        by: format!("evaluator:{evaluator}"),
        cause: PaymentCause {
            kind: CauseKind::Evaluation,
            reference: Some(id),
            conversation: Some(place.conversation.clone()),
            agent: Some(place.agent.clone()),
            branch: Some(place.branch.clone()),
            reason: format!("{metric} {score} by {evaluator}, version {version}"),
        },
        reply_to: None,
        not_after_ms: None,
        body: PaymentBody::Reward(reward),
    }))
}

/// An evaluation by somebody else that earns something if its target is what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The target as the record has it.
    pub place: Place,
    /// What was judged, as the record has it; empty: it does not say.
    pub content: String,
    /// What is paid, in the evaluator's book: only the target tells whether the conversation has one of its own.
    pub request: PaymentRequest,
}

/// What a record of an evaluation may earn, as far as the record and the registry tell; none: nothing.
///
/// Only evaluators of type `topic` are paid for by what is found in the log. What the engine judges itself is paid for
/// together with the evaluation, in one commit, so a record that claims to be the engine's earns nothing, whoever
/// wrote it.
///
/// # Errors
/// A sentence where the record is not what it must be.
pub fn claim(
    registry: &Registry,
    record: Id,
    artifact: &Artifact,
    evaluation: &Evaluation,
) -> Result<Option<Claim>, String> {
    let Evaluation { target, evaluator, version, occasion, .. } = evaluation;
    let is_topic = |evaluator: &Evaluator| matches!(evaluator.kind, EvaluatorKind::Topic(_));
    let newest = registry.evaluator(evaluator, None).map(|(_, newest)| newest);
    let Some(newest) = newest.filter(|newest| is_topic(newest) && newest.rewards.is_some()) else {
        return Ok(None);
    };
    let Some((_, named)) = registry.evaluator(evaluator, Some(*version)) else {
        return Err(format!("evaluator '{}' has no version {version}", newest.id));
    };
    let Some(rewards) = named.rewards.as_ref().filter(|rewards| is_topic(named) && rewards.trusted.is_some())
    else {
        return Ok(None);
    };
    let place = Place::of_artifact(artifact).ok_or("it names no agent, branch and entry")?;
    let agent = &place.agent;
    if !named.agents.is_empty() && !named.agents.iter().any(|id| id == agent.as_str()) {
        return Err(format!("evaluator '{evaluator}' does not judge agent '{agent}'"));
    }
    if place.target() != *target {
        return Err(format!(
            "its target {target} is not that of the place that it names ({})",
            place.target()
        ));
    }
    let id = evaluation_id(target, evaluator, *version, occasion);
    if artifact.id != id || record != id {
        return Err(format!("its id must be {id}: that of its target, evaluator, version and occasion"));
    }
    let request = request(rewards, None, &place, id, evaluation)?;
    Ok(request.map(|request| Claim { place, content: evaluation.content.clone(), request }))
}
