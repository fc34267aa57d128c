//! A model's reply.

use serde_json::json;

use super::budget::Cost;
use super::builder::Step;
use super::{applied, budget, cost, lookup, recorded, tool_calls, turn};
use crate::conversation::{Conversation, OpenWait};
use crate::ids::{AgentId, BranchId, Id};
use crate::model::{ModelErrorClass, ModelOutcome, ModelReply};
use crate::record::{ArtifactBody, ModelCall, Outcome};
use crate::state::{AssistantMessage, State, WaitKind, Waiting};

pub(super) fn decide(step: &mut Step<'_>, wait: &Id, outcome: &ModelOutcome) -> Outcome {
    let asked = asked(&step.conv, wait).filter(|(.., waiting)| waiting.kind == WaitKind::Llm);
    if let Some((agent, branch, waiting)) = asked {
        called(step, &agent, &branch, &waiting, outcome);
    }
    let Some(open) = step.conv.waits.get(wait).cloned() else {
        return recorded("late", format!("the wait {wait} was closed before this reply came"));
    };
    if open.waiting.kind != WaitKind::Llm {
        return recorded("invalid", format!("the wait {wait} is not on a model"));
    }
    let holders = step.conv.holders(&open);
    let agent = open.agent.clone();
    let parked = holders.iter().all(|branch| step.conv.is_parked(&agent, branch));
    if is_interrupted(&open, outcome, step.now) {
        let branch = holders.iter().find(|branch| !step.conv.is_parked(&agent, branch));
        let branch = branch.unwrap_or(&open.branch).clone();
        turn::ask_again(step, &agent, &branch, &open.waiting);
        return applied();
    }
    let cost = match &open.waiting.budget {
        Some(_) => budget::of_model(step, &agent, &model_of(step, &agent, wait), outcome),
        None => Cost::Nothing,
    };
    step.close_costing(wait, cost);
    for branch in &holders {
        match &outcome.result {
            Ok(reply) => replied(step, &agent, branch, wait, reply),
            Err(error) => {
                let class = if error.class == ModelErrorClass::Timeout { "timeout" } else { "model" };
                let text = format!("The model could not answer ({error}). Write again to go on.");
                turn::failed(step, &agent, branch, class, &error.code, &text);
            }
        }
    }
    if parked { recorded("parked", "the branch is not checked out".into()) } else { applied() }
}

/// Whether a call under a reservation ran out of time before its deadline: its owner is gone, and the next one did not
/// make it again ([`super::open_asks`]).
fn is_interrupted(open: &OpenWait, outcome: &ModelOutcome, now: i64) -> bool {
    let timed_out = outcome.result.as_ref().is_err_and(|error| error.class == ModelErrorClass::Timeout);
    let early = open.waiting.deadline_ms.is_some_and(|deadline| deadline > now);
    timed_out && early && open.waiting.budget.is_some()
}

/// The newest Waiting entry of that id, and where it is.
fn asked(conv: &Conversation, wait: &Id) -> Option<(AgentId, BranchId, Waiting)> {
    conv.stacks.iter().find_map(|(agent, stack)| {
        stack.branches.values().find_map(|branch| {
            branch.entries.iter().rev().find_map(|entry| match &entry.state {
                State::Waiting(waiting) if waiting.id == *wait => {
                    Some((agent.clone(), branch.id.clone(), waiting.clone()))
                }
                _ => None,
            })
        })
    })
}

fn called(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    waiting: &Waiting,
    outcome: &ModelOutcome,
) {
    let model = model_of(step, agent, &waiting.id);
    let (prompt_tokens, completion_tokens) = match &outcome.result {
        Ok(reply) => (reply.prompt_tokens, reply.completion_tokens),
        Err(_) => (None, None),
    };
    let price = step.context.registry.price(&model);
    let call = ModelCall {
        cost_usd: price.and_then(|price| cost::usd(price, prompt_tokens, completion_tokens)),
        model,
        wait: waiting.id,
        prompt_ref: waiting.correlation.clone(),
        prompt_tokens,
        completion_tokens,
        latency_ms: outcome.latency_ms,
        attempts: outcome.attempts,
        error: outcome.result.as_ref().err().map(ToString::to_string),
    };
    step.artifact(agent, branch, None, ArtifactBody::ModelCall(call));
}

/// The model that the call went to. Overrides may have changed since; a call whose wait is closed already goes
/// by those of today.
fn model_of(step: &Step<'_>, agent: &AgentId, wait: &Id) -> String {
    if let Some(model) = step.conv.asked_models.get(wait) {
        return model.clone();
    }
    let llm = if step.conv.waits.contains_key(wait) {
        lookup::llm_as_defined(&step.conv, step.context, agent)
    } else {
        lookup::llm(&step.conv, step.context, agent)
    };
    llm.map(|llm| llm.model).unwrap_or_default()
}

fn replied(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, wait: &Id, reply: &ModelReply) {
    let text = reply.text.as_deref().map(str::trim).unwrap_or_default();
    if text.is_empty() && reply.tool_calls.is_empty() {
        step.event(agent, branch, "empty_reply", json!({"wait": wait.to_string()}));
        return turn::go_on(step, agent, branch);
    }
    let message = AssistantMessage {
        text: text.to_owned(),
        tool_calls: i32::try_from(reply.tool_calls.len()).unwrap_or(i32::MAX),
        ..AssistantMessage::default()
    };
    // Calls without a text stand for themselves: nobody said anything.
    let seq = if text.is_empty() { -1 } else { step.append(agent, branch, State::AssistantMessage(message)) };
    if !reply.tool_calls.is_empty() {
        tool_calls::run(step, agent, branch, wait, &reply.tool_calls);
        return turn::go_on(step, agent, branch);
    }
    turn::answered(step, agent, branch, seq, text);
}
