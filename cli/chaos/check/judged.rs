//! Evaluations: whatever had to be judged was, once, as its rule says, and was paid for, once.

use std::collections::{BTreeMap, BTreeSet};

use p2_core::definition::EvaluatorKind;
use p2_core::eval::{Place, evaluation_id, reward};
use p2_core::ids::{BookId, Id};
use p2_core::ledger::Book;
use p2_core::record::{
    Artifact, ArtifactBody, Evaluation, LedgerOutcome, LedgerTransaction, Payload, PaymentBody,
    PaymentRequest,
};
use p2_sim::judged::same_rule;

use super::money::Conversations;
use super::{Index, Verdict};
use crate::chaos::judging::{Due, NO_TARGET, due};

pub(super) fn check(
    index: &Index<'_>,
    conversations: &Conversations<'_>,
    books: &BTreeMap<BookId, Book>,
    verdict: &mut Verdict,
) {
    let wanted = wanted(index, conversations);
    let earned: BTreeMap<Id, &PaymentRequest> =
        index.requests.iter().map(|(lying, request)| (lying.message.id, *request)).collect();
    let paid = paid(index);
    let mut judged: BTreeMap<(Id, &str, i32, &str), Id> = BTreeMap::new();
    let mut made: BTreeSet<Id> = BTreeSet::new();
    let mut unreadable: BTreeSet<Id> = BTreeSet::new();
    let mut expected: BTreeSet<Id> = BTreeSet::new();
    for (artifact, evaluation) in evaluations(index) {
        let Evaluation { target, evaluator, version, occasion, .. } = evaluation;
        let failed = evaluation.error.as_ref().map(|error| error.code.as_str());
        verdict.count("evaluations", 1);
        match failed {
            Some(NO_TARGET) => {
                verdict.count("evaluations whose target could not be read", 1);
                unreadable.insert(*target);
            }
            Some(_) => verdict.count("evaluations that failed", 1),
            None => {}
        }
        if let Some(first) = judged.insert((*target, evaluator, *version, occasion), artifact.id) {
            verdict.broken(format!(
                "target {target} was judged twice by {evaluator}, version {version}: {first} and {}",
                artifact.id
            ));
        }
        made.insert(artifact.id);
        if let Err(why) = right(index, conversations, artifact, evaluation) {
            verdict.broken(format!("evaluation {} by {evaluator}: {why}", artifact.id));
            continue;
        }
        if failed != Some(NO_TARGET) && !wanted.contains_key(&artifact.id) {
            verdict.broken(format!("evaluation {} by {evaluator}: nothing led to it", artifact.id));
        }
        if let Some(request) = earns(index, artifact, evaluation) {
            verdict.count("evaluations that earn", 1);
            expected.insert(Id::derive(&artifact.id, "reward", 0));
            if let Err(why) = is_paid(&earned, &paid, books, artifact, &request) {
                verdict.broken(format!("evaluation {} by {evaluator} {why}", artifact.id));
            }
        }
    }
    for (id, due) in &wanted {
        verdict.count("evaluations that were due", 1);
        if !made.contains(id) && !unreadable.contains(&due.place.target()) {
            let Place { conversation, agent, branch, entry } = &due.place;
            verdict.broken(format!(
                "{conversation}: entry {entry} of {agent} {branch} was never judged by {}",
                due.evaluator
            ));
        }
    }
    for (lying, request) in &index.requests {
        let of_evaluator = matches!(request.body, PaymentBody::Reward(_));
        if of_evaluator && !expected.contains(&lying.message.id) && !index.asked.contains(&lying.message.id) {
            verdict.broken(format!("reward {} was asked for and no evaluation earned it", request.id));
        }
    }
    for (id, payments) in &paid {
        let times = payments.iter().filter(|made| !made.postings.is_empty()).count();
        verdict.count("rewards paid", times);
        if times > 1 {
            verdict.broken(format!("reward {id} was paid {times} times"));
        }
    }
}

fn evaluations<'i, 'e>(index: &'i Index<'e>) -> impl Iterator<Item = (&'e Artifact, &'e Evaluation)> + 'i {
    index.artifacts.iter().filter_map(|lying| match &lying.message.payload {
        Payload::Artifact(artifact) => match &artifact.body {
            ArtifactBody::Evaluation(evaluation) => Some((artifact, evaluation.as_ref())),
            _ => None,
        },
        _ => None,
    })
}

/// What everything that came by leads to.
fn wanted(index: &Index<'_>, conversations: &Conversations<'_>) -> BTreeMap<Id, Due> {
    let mut wanted = BTreeMap::new();
    for lying in &index.artifacts {
        let Payload::Artifact(artifact) = &lying.message.payload else { continue };
        let conversation = conversations.get(&artifact.conversation);
        for due in due(&index.evidence.registry, conversation, artifact) {
            wanted.insert(due.id, due);
        }
    }
    wanted
}

/// The transactions of each reward.
fn paid<'e>(index: &Index<'e>) -> BTreeMap<Id, Vec<&'e LedgerTransaction>> {
    let mut paid: BTreeMap<Id, Vec<&LedgerTransaction>> = BTreeMap::new();
    for (_, made) in &index.made {
        if matches!(made.request.body, PaymentBody::Reward(_)) {
            paid.entry(made.request.id).or_default().push(made);
        }
    }
    paid
}

/// It is of what it says, under its own id, by somebody who judges, and says what the rule says.
fn right(
    index: &Index<'_>,
    conversations: &Conversations<'_>,
    artifact: &Artifact,
    evaluation: &Evaluation,
) -> Result<(), String> {
    let Evaluation { target, evaluator, version, occasion, .. } = evaluation;
    let (_, definition) = index
        .evidence
        .registry
        .evaluator(evaluator, Some(*version))
        .ok_or_else(|| format!("there is no version {version} of it"))?;
    let place = Place::of_artifact(artifact).ok_or("it is of no place")?;
    if place.target() != *target || artifact.id != evaluation_id(target, evaluator, *version, occasion) {
        return Err("its id or target is not that of its place".to_owned());
    }
    if evaluation.score.is_some_and(|score| !(0.0..=1.0).contains(&score)) {
        return Err(format!("its score is {:?}", evaluation.score));
    }
    match (conversations.get(&place.conversation), &evaluation.error, &definition.kind) {
        (_, Some(_), _) | (_, _, EvaluatorKind::LlmJudge(_) | EvaluatorKind::Topic(_)) => Ok(()),
        (Some(conversation), None, kind) => same_rule(kind, &place, conversation, evaluation),
        (None, None, _) => Err("it is of a conversation that is not there".to_owned()),
    }
}

/// What is paid for it, as the core says.
fn earns(index: &Index<'_>, artifact: &Artifact, evaluation: &Evaluation) -> Option<PaymentRequest> {
    let Evaluation { evaluator, version, .. } = evaluation;
    let rewards = reward::rewards(&index.evidence.registry, evaluator, *version)?;
    reward::request(rewards, None, &Place::of_artifact(artifact)?, artifact.id, evaluation).ok().flatten()
}

/// Its reward was asked for, and paid where the policy pays for that score. Policies are set before anybody works.
fn is_paid(
    earned: &BTreeMap<Id, &PaymentRequest>,
    paid: &BTreeMap<Id, Vec<&LedgerTransaction>>,
    books: &BTreeMap<BookId, Book>,
    artifact: &Artifact,
    request: &PaymentRequest,
) -> Result<(), String> {
    match earned.get(&Id::derive(&artifact.id, "reward", 0)) {
        Some(asked) if *asked == request => {}
        Some(_) => return Err("asked for another reward than it earns".to_owned()),
        None => return Err("is committed without the request for its reward".to_owned()),
    }
    let PaymentBody::Reward(reward) = &request.body else { return Ok(()) };
    let policy = books.get(&request.book).and_then(|book| book.policy.as_ref());
    let pays = policy.is_some_and(|policy| policy.tiers.iter().any(|tier| reward.score >= tier.at_least));
    let outcomes = paid.get(&request.id).map(Vec::as_slice).unwrap_or_default();
    let refusal = outcomes.iter().find_map(|made| match &made.outcome {
        LedgerOutcome::Rejected(why) => Some(why.code.as_str()),
        _ => None,
    });
    let is_paid = outcomes.iter().any(|made| !made.postings.is_empty());
    match (pays, is_paid, refusal) {
        (true, true, _) | (false, false, Some("no_tier")) => Ok(()),
        (_, false, refusal) => {
            Err(format!("scored {} and was not paid: {}", reward.score, refusal.unwrap_or("no answer")))
        }
        (false, true, _) => Err(format!("scored {}, which no tier reaches, and was paid", reward.score)),
    }
}
