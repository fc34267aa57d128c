//! The pure decision of `evaluator`.

use std::sync::Arc;

use p2_core::definition::{Evaluator, EvaluatorKind};
use p2_core::eval::reward::{self, Claim};
use p2_core::eval::trigger::{self, If, Request, Spot};
use p2_core::eval::{self, Place, evaluation_id};
use p2_core::ids::{BookId, Id};
use p2_core::record::{Artifact, ArtifactBody, Evaluation, Event, Message, Payload, PaymentRequest};
use p2_core::registry::Registry;
use p2_stream::processor::{Call, LaneInput, LaneStep, Mark};
use serde_json::json;

use crate::{Candidate, JudgeRequest, RULE_TIMEOUT_MS, Ruling, STORE_TIMEOUT_MS, TARGET_TIMEOUT_MS};

type Step = LaneStep<JudgeRequest>;

/// The lane of an artifact: its target, where it says which. What is about no entry has a lane of its own.
pub(crate) fn lane_key(artifact: &Artifact) -> String {
    let place = trigger::spot(artifact).and_then(|Spot { conversation, agent, branch, entry }| {
        entry.map(|entry| Place { conversation, agent, branch, entry })
    });
    place.map_or(artifact.id, |place| place.target()).to_string()
}

/// Decides what follows from one input of a target's lane.
pub(crate) fn decide(
    registry: &Registry,
    record: Option<&Message>,
    input: &LaneInput<Vec<Ruling>>,
    now_ms: i64,
) -> Step {
    match input {
        // It never claims: judging may be repeated.
        LaneInput::Record(message) | LaneInput::Claimed(message) => arrived(registry, message, now_ms),
        LaneInput::Reply { reply, .. } => match record {
            Some(record) => {
                step(reply.iter().flat_map(|ruling| written(registry, record, ruling, now_ms)).collect())
            }
            None => step(Vec::new()),
        },
        LaneInput::Timer { .. } => Step { mark: Mark::Pending, ..step(Vec::new()) },
    }
}

fn step(outputs: Vec<Message>) -> Step {
    LaneStep { outputs, calls: Vec::new(), cancel: Vec::new(), mark: Mark::Done }
}

fn arrived(registry: &Registry, message: &Message, now_ms: i64) -> Step {
    let Payload::Artifact(artifact) = &message.payload else { return step(Vec::new()) };
    let candidates = match trigger::request(artifact) {
        None => triggered(registry, artifact),
        Some(Err(why)) => return answered(message, artifact, "invalid", &why, now_ms),
        Some(Ok(request)) => match asked(registry, message, &request) {
            Ok(candidates) => candidates,
            Err(why) => return answered(message, artifact, "not_found", &why, now_ms),
        },
    };
    let claim = claim(registry, message, artifact);
    match &claim {
        None if candidates.is_empty() => return step(Vec::new()),
        Some(Err(why)) if candidates.is_empty() => {
            return step(vec![unearned(message, artifact, why, now_ms)]);
        }
        _ => {}
    }
    let Some(spot) = trigger::spot(artifact) else {
        let why = "a request needs an agent, a branch and an entry";
        return answered(message, artifact, "invalid", why, now_ms);
    };
    let longest = candidates.iter().map(|candidate| timeout_ms(&candidate.evaluator)).max();
    let reading_ms = STORE_TIMEOUT_MS + TARGET_TIMEOUT_MS;
    let deadline_ms = now_ms.saturating_add(reading_ms).saturating_add(longest.unwrap_or(RULE_TIMEOUT_MS));
    tracing::debug!(target: "evaluator", candidates = candidates.len(), "may have to be judged");
    let request = JudgeRequest { spot, time_ms: artifact.time_ms, candidates, claim };
    let id = Id::derive(&message.id, "judge", 0);
    Step { calls: vec![Call { id, deadline_ms, request }], mark: Mark::Pending, ..step(Vec::new()) }
}

/// What an evaluation by somebody else may earn.
fn claim(registry: &Registry, message: &Message, artifact: &Artifact) -> Option<Result<Claim, String>> {
    let ArtifactBody::Evaluation(evaluation) = &artifact.body else { return None };
    reward::claim(registry, message.id, artifact, evaluation).transpose()
}

/// Says why a record of an evaluation earned nothing.
fn unearned(message: &Message, artifact: &Artifact, why: &str, now_ms: i64) -> Message {
    tracing::warn!(target: "evaluator", evaluation = %message.id, why, "a reward was refused");
    let data = json!({"evaluation": message.id, "message": why});
    let body = ArtifactBody::Event(Event { name: reward::REFUSED.to_owned(), data: data.into() });
    let id = Id::derive(&message.id, reward::REFUSED, 0);
    let refused = Artifact { id, parents: vec![artifact.id], time_ms: now_ms, body, ..artifact.clone() };
    output(message, refused.id, Payload::Artifact(refused), now_ms)
}

pub(crate) fn timeout_ms(evaluator: &Evaluator) -> i64 {
    match &evaluator.kind {
        EvaluatorKind::LlmJudge(judge) => judge.timeout_ms,
        _ => RULE_TIMEOUT_MS,
    }
}

fn is_ours(evaluator: &Evaluator) -> bool {
    !matches!(evaluator.kind, EvaluatorKind::Topic(_))
}

fn triggered(registry: &Registry, artifact: &Artifact) -> Vec<Candidate> {
    let evaluators = registry.evaluators().filter(|(_, evaluator)| is_ours(evaluator));
    evaluators
        .filter_map(|(version, evaluator)| {
            let when = trigger::matches(evaluator, artifact)?;
            let evaluator = Arc::new(evaluator.clone());
            Some(Candidate { evaluator, version, when, occasion: eval::FIRST.to_owned(), request: None })
        })
        .collect()
}

/// The one that was asked for; none where somebody else judges.
fn asked(registry: &Registry, message: &Message, request: &Request) -> Result<Vec<Candidate>, String> {
    let found = registry.evaluator(&request.evaluator, request.version);
    let (version, evaluator) = found.ok_or_else(|| match request.version {
        Some(version) => format!("there is no version {version} of evaluator '{}'", request.evaluator),
        None => format!("there is no evaluator '{}'; apply one", request.evaluator),
    })?;
    if !is_ours(evaluator) {
        return Ok(Vec::new());
    }
    Ok(vec![Candidate {
        evaluator: Arc::new(evaluator.clone()),
        version,
        when: If { always: true, ..If::default() },
        occasion: request.occasion.clone(),
        request: Some(message.id),
    }])
}

/// A request that leads to no evaluation is answered all the same.
fn answered(message: &Message, artifact: &Artifact, code: &str, why: &str, now_ms: i64) -> Step {
    let data = json!({"request": message.id, "code": code, "message": why});
    let body = ArtifactBody::Event(Event { name: eval::ANSWERED.to_owned(), data: data.into() });
    let id = Id::derive(&message.id, "answered", 0);
    let answer = Artifact { id, parents: vec![artifact.id], time_ms: now_ms, body, ..artifact.clone() };
    step(vec![output(message, answer.id, Payload::Artifact(answer), now_ms)])
}

fn written(registry: &Registry, record: &Message, ruling: &Ruling, now_ms: i64) -> Vec<Message> {
    let written = |artifact: Artifact| output(record, artifact.id, Payload::Artifact(artifact), now_ms);
    match ruling {
        Ruling::Judged { place, parent, book, evaluation } => {
            let of = evaluation.as_ref();
            let id = evaluation_id(&of.target, &of.evaluator, of.version, &of.occasion);
            let parents = parent.iter().copied().collect();
            let body = ArtifactBody::Evaluation(evaluation.clone());
            let mut messages = vec![written(at(place, id, parents, body, now_ms))];
            messages.extend(earned(registry, record, book.as_ref(), place, id, of, now_ms));
            messages
        }
        // A trigger that comes twice is nothing to write about.
        Ruling::Kept { request: None, .. } => Vec::new(),
        Ruling::Kept { place, evaluation, request: Some(request) } => {
            let data = json!({
                "request": request,
                "code": "judged_before",
                "message": format!("it was judged before: evaluation {evaluation}; ask with another occasion to judge it again"),
                "evaluation": evaluation,
            });
            let body = ArtifactBody::Event(Event { name: eval::ANSWERED.to_owned(), data: data.into() });
            let id = Id::derive(request, "answered", 0);
            vec![written(at(place, id, vec![*request], body, now_ms))]
        }
        Ruling::Earned(request) => vec![payment(record, record.id, request.as_ref().clone(), now_ms)],
        Ruling::Unearned { why } => match &record.payload {
            Payload::Artifact(artifact) => vec![unearned(record, artifact, why, now_ms)],
            _ => Vec::new(),
        },
    }
}

/// The request for the reward of what was judged here.
fn earned(
    registry: &Registry,
    record: &Message,
    book: Option<&BookId>,
    place: &Place,
    id: Id,
    evaluation: &Evaluation,
    now_ms: i64,
) -> Option<Message> {
    let rewards = reward::rewards(registry, &evaluation.evaluator, evaluation.version)?;
    match reward::request(rewards, book, place, id, evaluation) {
        Ok(request) => request.map(|request| payment(record, id, request, now_ms)),
        Err(why) => {
            tracing::warn!(target: "evaluator", evaluation = %id, why, "not rewarded");
            None
        }
    }
}

/// One record for each evaluation: the request's own id is that of the reward, which several may ask for.
fn payment(record: &Message, evaluation: Id, request: PaymentRequest, now_ms: i64) -> Message {
    output(record, Id::derive(&evaluation, "reward", 0), Payload::PaymentRequest(request), now_ms)
}

fn at(place: &Place, id: Id, parents: Vec<Id>, body: ArtifactBody, now_ms: i64) -> Artifact {
    Artifact {
        id,
        conversation: place.conversation.clone(),
        agent: Some(place.agent.clone()),
        branch: Some(place.branch.clone()),
        entry: Some(place.entry),
        parents,
        time_ms: now_ms,
        body,
    }
}

fn output(record: &Message, id: Id, payload: Payload, now_ms: i64) -> Message {
    Message {
        id,
        cause: record.id,
        cause_position: None,
        time_ms: now_ms,
        traceparent: record.traceparent.clone(),
        payload,
    }
}
