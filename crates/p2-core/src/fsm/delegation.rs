//! Calls between agents: each runs on its own branch of the callee.

use serde_json::{Value, json};

use super::builder::Step;
use super::{lookup, summary, tool_calls, turn, user_text};
use crate::conversation::Conversation;
use crate::ids::{AgentId, BranchId, Id};
use crate::record::{CallLink, Change, Forked};
use crate::state::{
    AgentCall, AgentResult, AgentStatus, Entry, State, ToolStatus, UserMessage, WaitKind, Waiting,
};
use crate::step::CALL_DEPTH_MAX;

/// The `delegate` tool: `{agent_id, message, context?: "none" | "last:<n>" | "summary"}`.
pub(super) fn delegate(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    call_id: &str,
    arguments: &Value,
) -> Result<(), String> {
    let text =
        |key: &str| arguments.get(key).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty());
    let (Some(callee), Some(message)) = (text("agent_id"), text("message")) else {
        return Err("delegate needs the texts 'agent_id' and 'message'".into());
    };
    let entries = step.conv.indexed(agent, branch);
    let told = match text("context") {
        None | Some("none") => message.to_owned(),
        Some("summary") => format!("{}\n\n{message}", summary::digest(&entries)),
        Some(context) => {
            let Some(count) = context.strip_prefix("last:").and_then(|n| n.parse::<usize>().ok()) else {
                return Err(format!("'context' is '{context}': it must be none, last:<n> or summary"));
            };
            match last_said(&entries, count) {
                Some(said) => format!("{said}\n\n{message}"),
                None => message.to_owned(),
            }
        }
    };
    call(step, agent, branch, call_id, &AgentId::from(callee), told)
}

/// The newest `count` messages; none where there is nothing to tell.
fn last_said(entries: &[&Entry], count: usize) -> Option<String> {
    let said: Vec<String> = entries
        .iter()
        .filter_map(|entry| match &entry.state {
            State::UserMessage(message) => Some(format!("user: {}", message.text)),
            State::AssistantMessage(message) if message.error.is_none() && !message.text.is_empty() => {
                Some(format!("assistant: {}", message.text))
            }
            _ => None,
        })
        .collect();
    let from = said.len().saturating_sub(count);
    let last = said.get(from..).unwrap_or_default();
    (!last.is_empty()).then(|| format!("What was said before:\n{}", last.join("\n")))
}

/// Calls another agent: AgentCall and Waiting(agent) here, a branch and its first message there.
///
/// # Errors
/// A sentence that the model can act on: no such agent, or too deep.
pub(super) fn call(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    call_id: &str,
    callee: &AgentId,
    message: String,
) -> Result<(), String> {
    if lookup::agent(&step.conv, step.context, callee).is_none() {
        return Err(user_text::unknown_agent(step, callee));
    }
    let depth =
        step.conv.branch(agent, branch).and_then(|b| b.call.as_ref()).map_or(0, |link| link.depth) + 1;
    if depth > CALL_DEPTH_MAX {
        return Err(format!("agents may call each other {CALL_DEPTH_MAX} deep: answer with what you have"));
    }
    let timeout = lookup::llm(&step.conv, step.context, agent).map_or(300_000, |llm| llm.agent_timeout_ms);
    let id = step.id("call");
    let on = BranchId(format!("call-{}", id.short()));
    let from = newest_finished(&step.conv, agent, branch, callee);
    let state = AgentCall {
        id,
        call_id: call_id.to_owned(),
        agent: callee.clone(),
        branch: on.clone(),
        message: message.clone(),
    };
    step.append(agent, branch, State::AgentCall(state));
    let waiting = Waiting {
        id,
        kind: WaitKind::Agent,
        deadline_ms: Some(step.now.saturating_add(timeout)),
        correlation: id.to_string(),
        budget: None,
    };
    step.append(agent, branch, State::Waiting(waiting));
    let at = from.as_ref().map_or(-1, |from| step.conv.head(callee, from));
    let link = CallLink { id, agent: agent.clone(), branch: branch.clone(), depth };
    let forked = Forked { parent: from, at, name: None, creator: format!("call:{id}"), call: Some(link) };
    step.change(callee, &on, Change::Forked(forked));
    user_text::pin(step, callee, &on);
    let message = UserMessage { text: message, origin: Some(format!("agent:{agent}")) };
    step.append(callee, &on, State::UserMessage(message));
    turn::go_on(step, callee, &on);
    Ok(())
}

/// The callee's newest finished call that the caller's branch may know of: its own calls only where their
/// result is in its lineage, so that what a rewind left behind stays behind.
fn newest_finished(
    conv: &Conversation,
    agent: &AgentId,
    branch: &BranchId,
    callee: &AgentId,
) -> Option<BranchId> {
    let result_seq = |id: &Id| {
        conv.newest(agent, branch).find_map(|entry| match &entry.state {
            State::AgentResult(result) if result.id == *id => Some(entry.seq),
            _ => None,
        })
    };
    let stack = conv.stacks.get(callee)?;
    let finished = stack.branches.values().filter_map(|candidate| {
        let link = candidate.call.as_ref()?;
        let last = conv
            .newest_said(callee, &candidate.id)
            .filter(|entry| matches!(entry.state, State::Finished(_)))?;
        let own = &link.agent == agent;
        let seq = result_seq(&link.id);
        if own && seq.is_none() || !conv.waits_on(callee, &candidate.id).is_empty() {
            return None;
        }
        let mine = &link.branch == branch;
        Some(((last.time_ms, seq, mine, candidate.created_ms, candidate.id.clone()), candidate.id.clone()))
    });
    finished.max_by(|a, b| a.0.cmp(&b.0)).map(|(_, id)| id)
}

/// Where a call runs.
pub(super) fn callee(conv: &Conversation, call: &Id) -> Option<(AgentId, BranchId)> {
    let wait = conv.waits.get(call)?;
    conv.newest(&wait.agent, &wait.branch).find_map(|entry| match &entry.state {
        State::AgentCall(found) if found.id == *call => Some((found.agent.clone(), found.branch.clone())),
        _ => None,
    })
}

/// A call ends: AgentResult and the one ToolResult on every branch that waits for it, which then go on.
pub(super) fn answer(step: &mut Step<'_>, id: &Id, status: AgentStatus, text: String) {
    let holders = settle(step, id, status, &text);
    for (agent, branch) in holders {
        turn::go_on(step, &agent, &branch);
    }
}

/// As [`answer`], without going on.
pub(super) fn settle(
    step: &mut Step<'_>,
    id: &Id,
    status: AgentStatus,
    text: &str,
) -> Vec<(AgentId, BranchId)> {
    let Some(wait) = step.conv.waits.get(id).cloned() else { return Vec::new() };
    let call = step.conv.newest(&wait.agent, &wait.branch).find_map(|e| match &e.state {
        State::AgentCall(call) if call.id == *id => Some(call.clone()),
        _ => None,
    });
    let holders = step.conv.holders(&wait);
    step.close(id);
    let Some(call) = call else { return Vec::new() };
    for branch in &holders {
        let result =
            AgentResult { id: *id, agent: call.agent.clone(), status, text: text.to_owned(), score: None };
        step.append(&wait.agent, branch, State::AgentResult(result));
        if call.call_id.is_empty() {
            critique(step, &wait.agent, branch, status, text);
            continue;
        }
        let key = if status == AgentStatus::Success { "answer" } else { "message" };
        let body = json!({"status": status.as_str(), "child": call.agent.as_str(), key: text});
        let (tool_status, reward) = match status {
            AgentStatus::Success => (ToolStatus::Success, Some(1.0)),
            AgentStatus::Error => (ToolStatus::Error, Some(0.0)),
            AgentStatus::Timeout => (ToolStatus::Timeout, None),
            AgentStatus::Cancelled => (ToolStatus::Cancelled, None),
        };
        tool_calls::result(step, &wait.agent, branch, &call.call_id, tool_status, body, reward);
    }
    holders.into_iter().map(|branch| (wait.agent.clone(), branch)).collect()
}

/// What a critic said becomes a prompt; a critic that failed is passed over.
fn critique(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, status: AgentStatus, text: &str) {
    let prompt = if status == AgentStatus::Success {
        format!("A reviewer said about your last answer: {text}\nAnswer again with that in mind.")
    } else {
        "The review of your last answer failed. Give your final answer.".to_owned()
    };
    turn::reflection(step, agent, branch, prompt);
}
