//! What came of a tool call.

use serde_json::{Value, json};

use super::builder::Step;
use super::{applied, budget, recorded, refused, tool_calls, turn};
use crate::conversation::OpenWait;
use crate::record::{Outcome, ToolOutcome};
use crate::state::{State, ToolStatus, WaitKind, Waiting};

pub(super) fn decide(step: &mut Step<'_>, outcome: &ToolOutcome) -> Outcome {
    let open = step.conv.waits.get(&outcome.wait).cloned();
    let Some(open) = open else { return late(step, outcome) };
    if open.waiting.kind != WaitKind::Tool || open.waiting.correlation != outcome.call_id {
        let why = format!("wait {} is not on the tool call '{}'", outcome.wait, outcome.call_id);
        return refused("invalid", why);
    }
    if outcome.status == ToolStatus::InDoubt {
        doubt(step, &open, outcome.result.0.clone());
        return recorded(
            "in_doubt",
            "nobody knows whether it was done: its result or a reconciler will say".into(),
        );
    }
    let holders = step.conv.holders(&open);
    step.close_costing(&outcome.wait, budget::of_tool(outcome.status));
    let reward = match outcome.status {
        ToolStatus::Success => outcome.reward.or(Some(1.0)),
        ToolStatus::Error => Some(0.0),
        _ => None,
    };
    let mut parked = true;
    for branch in &holders {
        parked &= step.conv.is_parked(&open.agent, branch);
        let body = outcome.result.0.clone();
        tool_calls::result(step, &open.agent, branch, &outcome.call_id, outcome.status, body, reward);
        turn::go_on(step, &open.agent, branch);
    }
    if parked {
        recorded("parked", "recorded on its branch, which is not checked out".into())
    } else {
        applied()
    }
}

/// The wait stays open without a deadline until somebody knows.
pub(super) fn doubt(step: &mut Step<'_>, open: &OpenWait, detail: Value) {
    let data =
        json!({"wait": open.waiting.id.to_string(), "call_id": open.waiting.correlation, "detail": detail});
    step.event(&open.agent, &open.branch, "in_doubt", data);
    if open.waiting.deadline_ms.is_some() {
        let waiting = Waiting { deadline_ms: None, ..open.waiting.clone() };
        step.append(&open.agent, &open.branch, State::Waiting(waiting));
    }
}

/// A result that comes after its wait was closed is kept beside the first one.
pub(super) fn late(step: &mut Step<'_>, outcome: &ToolOutcome) -> Outcome {
    let place = step.conv.stacks.iter().find_map(|(agent, stack)| {
        stack.branches.values().find_map(|branch| {
            let asked = branch
                .entries
                .iter()
                .any(|entry| matches!(&entry.state, State::Waiting(waiting) if waiting.id == outcome.wait));
            asked.then(|| (agent.clone(), branch.id.clone()))
        })
    });
    let Some((agent, branch)) = place else {
        return refused("unknown_request", format!("no call of this conversation waits as {}", outcome.wait));
    };
    let data = json!({
        "wait": outcome.wait.to_string(),
        "call_id": outcome.call_id,
        "status": outcome.status.as_str(),
        "result": outcome.result.0,
    });
    step.event(&agent, &branch, "late_result", data);
    recorded(
        "late",
        format!("the call '{}' had its result before: this one is kept beside it", outcome.call_id),
    )
}
