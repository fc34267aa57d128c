//! A wait's deadline.

use serde_json::json;

use super::builder::Step;
use super::{
    applied, budget, control, delegation, ledger_tools, payment, recorded, tool_calls, tool_outcome, turn,
};
use crate::conversation::OpenWait;
use crate::ids::Id;
use crate::record::Outcome;
use crate::state::{AgentStatus, State, StopReason, ToolStatus, WaitKind};

/// None where the timer fired before the deadline, which may have moved.
pub(super) fn decide(step: &mut Step<'_>, wait: &Id) -> Option<Outcome> {
    let Some(open) = step.conv.waits.get(wait).cloned() else {
        return Some(recorded("late", format!("the wait {wait} was closed before its deadline")));
    };
    if step.conv.deadline(&open).is_none_or(|deadline| deadline > step.now) {
        return None;
    }
    let data = json!({"wait": wait.to_string(), "kind": open.waiting.kind.as_str()});
    step.event(&open.agent, &open.branch, "timed_out", data);
    match open.waiting.kind {
        WaitKind::Llm => {
            let holders = step.conv.holders(&open);
            step.close(wait);
            for branch in &holders {
                let text = "The model did not answer in time. Write again to go on.";
                turn::failed(step, &open.agent, branch, "timeout", "timeout", text);
            }
        }
        WaitKind::Payment if open.waiting.budget.is_some() => return Some(budget::overdue(step, &open)),
        WaitKind::Payment if !repeatable(step, &open) => return Some(payment::overdue(step, &open)),
        // A question to the ledger that nobody answered changed nothing.
        WaitKind::Tool | WaitKind::Payment => return Some(tool(step, &open)),
        WaitKind::Agent => {
            if let Some((callee, branch)) = delegation::callee(&step.conv, wait) {
                control::cancel_branch(step, &callee, &branch, "its caller waited too long");
            }
            delegation::answer(step, wait, AgentStatus::Timeout, "no answer before the deadline".into());
        }
        WaitKind::UserInput => person(step, &open),
    }
    Some(applied())
}

/// Whether the call that a wait is on may be made once more without harm.
fn repeatable(step: &Step<'_>, open: &OpenWait) -> bool {
    let call = tool_calls::find(step, &open.agent, &open.branch, &open.waiting.correlation);
    call.is_some_and(|call| tool_calls::repeatable(step, &call.tool))
}

fn tool(step: &mut Step<'_>, open: &OpenWait) -> Outcome {
    let call_id = open.waiting.correlation.as_str();
    if !repeatable(step, open) {
        tool_outcome::doubt(step, open, json!("no answer before the deadline"));
        return recorded("in_doubt", format!("nobody knows whether the call '{call_id}' was done"));
    }
    let holders = step.conv.holders(open);
    step.close(&open.waiting.id);
    for branch in &holders {
        let body = json!({"message": "no answer before the deadline"});
        tool_calls::result(step, &open.agent, branch, call_id, ToolStatus::Timeout, body, None);
        turn::go_on(step, &open.agent, branch);
    }
    applied()
}

fn person(step: &mut Step<'_>, open: &OpenWait) {
    let holders = step.conv.holders(open);
    let call_id = step.conv.newest(&open.agent, &open.branch).find_map(|entry| match &entry.state {
        State::UserInputRequest(request) if request.id == open.waiting.id => Some(request.call_id.clone()),
        _ => None,
    });
    step.close(&open.waiting.id);
    for branch in &holders {
        match call_id.as_deref().filter(|id| !id.is_empty()) {
            Some(id) => {
                let body = json!({"message": "nobody answered in time"});
                tool_calls::result(step, &open.agent, branch, id, ToolStatus::Expired, body, None);
                turn::go_on(step, &open.agent, branch);
            }
            None => {
                turn::failed(step, &open.agent, branch, "timeout", "user_input", "Nobody answered in time.")
            }
        }
    }
}

/// Closes one wait because somebody gave up on it; nothing goes on. Gives the branches it held up.
pub(super) fn give_up(step: &mut Step<'_>, open: &OpenWait, why: &str) {
    let holders = step.conv.holders(open);
    let id = open.waiting.id;
    if open.waiting.kind == WaitKind::Agent {
        delegation::settle(step, &id, AgentStatus::Cancelled, &format!("cancelled: {why}"));
    } else {
        let request = step.conv.newest(&open.agent, &open.branch).find_map(|entry| match &entry.state {
            State::UserInputRequest(request) if request.id == id => Some(request.call_id.clone()),
            _ => None,
        });
        step.close(&id);
        let call_id = match open.waiting.kind {
            WaitKind::Tool | WaitKind::Payment => Some(open.waiting.correlation.clone()),
            _ => request,
        };
        // A model call, and what is asked of the ledger for one, is no tool call.
        let call_id = call_id.filter(|call_id| !call_id.is_empty());
        let unpaid = open.waiting.kind == WaitKind::Payment && open.waiting.budget.is_some();
        let pays = open.waiting.kind == WaitKind::Payment && !unpaid && !repeatable(step, open);
        if pays {
            ledger_tools::withdraw(step, open, why);
        }
        for branch in &holders {
            let Some(call_id) = &call_id else {
                let text = format!("Cancelled: {why}");
                turn::say_error(step, &open.agent, branch, "cancelled", "cancelled", &text);
                continue;
            };
            let tool = tool_calls::find(step, &open.agent, branch, call_id).map(|call| call.tool);
            let begun = matches!(open.waiting.kind, WaitKind::Tool | WaitKind::Payment)
                && !unpaid
                && !tool.is_some_and(|tool| tool_calls::repeatable(step, &tool));
            let (status, message) = if pays {
                let sentence =
                    "the payment is withdrawn unless it was made before: the ledger's answer says which";
                (ToolStatus::InDoubt, format!("cancelled ({why}): {sentence}"))
            } else if begun {
                (ToolStatus::InDoubt, format!("cancelled ({why}): nobody knows whether it was done"))
            } else {
                (ToolStatus::Cancelled, format!("cancelled: {why}"))
            };
            let body = json!({"message": message});
            tool_calls::result(step, &open.agent, branch, call_id, status, body, None);
        }
    }
    for branch in &holders {
        if step.conv.waits_on(&open.agent, branch).is_empty() {
            turn::finish(step, &open.agent, branch, StopReason::Cancelled);
        }
    }
}
