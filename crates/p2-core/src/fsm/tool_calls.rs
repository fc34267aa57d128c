//! The tool calls of a model's reply: all of them run, side by side.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use super::builder::Step;
use super::{budget, delegation, ledger_tools, lookup, turn};
use crate::definition::{Approval, Executor, Tool};
use crate::ids::{AgentId, BranchId, Id};
use crate::json_text::JsonText;
use crate::model::ModelToolCall;
use crate::record::{CallTool, EffectBody};
use crate::state::{
    AnswerKind, Held, RequestKind, State, ToolCall, ToolResult, ToolStatus, WaitKind, Waiting,
};
use crate::step::DedupPolicy;

pub(super) fn run(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    reply: &Id,
    calls: &[ModelToolCall],
) {
    let mut taken: BTreeSet<String> = step
        .conv
        .newest(agent, branch)
        .filter_map(|entry| match &entry.state {
            State::ToolCall(call) => Some(call.call_id.clone()),
            _ => None,
        })
        .collect();
    for (ordinal, call) in calls.iter().enumerate() {
        let mut call_id = call.id.trim().to_owned();
        if call_id.is_empty() || taken.contains(&call_id) {
            let ordinal = u32::try_from(ordinal).unwrap_or(u32::MAX);
            call_id = format!("call_{}", Id::derive(reply, "call", ordinal));
        }
        taken.insert(call_id.clone());
        one(step, agent, branch, reply, call_id, call);
    }
}

fn one(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    reply: &Id,
    call_id: String,
    call: &ModelToolCall,
) {
    let raw = if call.arguments.trim().is_empty() { "{}" } else { call.arguments.as_str() };
    let parsed = serde_json::from_str::<Value>(raw);
    let arguments = parsed.as_ref().map_or_else(|_| Value::String(raw.to_owned()), Clone::clone);
    let state = ToolCall {
        call_id: call_id.clone(),
        tool: call.name.clone(),
        arguments: JsonText(arguments.clone()),
        reply: *reply,
        dedup_key: dedup_key(&call.name, &arguments),
    };
    let key = state.dedup_key.clone();
    let seq = step.append(agent, branch, State::ToolCall(state));
    let call_of = Call { agent, branch, call_id: &call_id, name: &call.name };
    if step.conv.is_parked(agent, branch) {
        let why = "not done: the branch is not checked out. Call again where it is still needed.";
        return call_of.ended(step, ToolStatus::Skipped, why);
    }
    match parsed {
        Err(error) => {
            let why = format!("the arguments are not JSON ({error}): call again with a JSON object");
            return call_of.ended(step, ToolStatus::Error, &why);
        }
        Ok(value) if !value.is_object() => {
            return call_of.ended(step, ToolStatus::Error, "the arguments must be a JSON object");
        }
        Ok(_) => {}
    }
    let llm = lookup::llm(&step.conv, step.context, agent);
    let offered: Vec<&Tool> =
        llm.map(|llm| lookup::offered(&step.conv, step.context, agent, &llm)).unwrap_or_default();
    let Some(tool) = offered.iter().find(|tool| tool.id == call.name) else {
        let names: Vec<&str> = offered.iter().map(|tool| tool.id.as_str()).collect();
        let why = format!("there is no tool '{}': you have {}", call.name, names.join(", "));
        return call_of.ended(step, ToolStatus::Error, &why);
    };
    if step.context.settings.dedup != DedupPolicy::None && is_duplicate(step, agent, branch, tool, &key, seq)
    {
        let skip = step.context.settings.dedup == DedupPolicy::Strict && !tool.side_effect_free;
        let action = if skip { "blocked" } else { "allowed" };
        let policy = step.context.settings.dedup.as_str();
        let data = json!({"tool": tool.id, "call_id": call_id, "policy": policy, "action": action});
        step.event(agent, branch, "duplicate_tool_call", data);
        if skip {
            return call_of.ended(step, ToolStatus::Skipped, "duplicate call skipped by the dedup policy");
        }
    }
    if tool.executor == Executor::Ledger
        && let Some(number) = ledger_tools::inexact(raw)
    {
        let why = format!(
            "the number {number} has more than 15 digits, which are not read exactly: write it as text"
        );
        return call_of.ended(step, ToolStatus::Error, &why);
    }
    if tool.approval == Approval::Required {
        let text = format!("May '{agent}' call {} with {}?", tool.id, JsonText(arguments).text());
        return turn::request(step, agent, branch, RequestKind::Approval, call_id.clone(), text, None);
    }
    call_of.start(step, tool, &arguments);
}

/// A tool call on its way.
pub(super) struct Call<'c> {
    pub(super) agent: &'c AgentId,
    pub(super) branch: &'c BranchId,
    pub(super) call_id: &'c str,
    pub(super) name: &'c str,
}

impl Call<'_> {
    /// Carries the call out: the core's own tools at once, those of the ledger by a payment request, the others by an
    /// effect.
    pub(super) fn start(&self, step: &mut Step<'_>, tool: &Tool, arguments: &Value) {
        match tool.executor {
            Executor::Core => {}
            Executor::Ledger => {
                if let Err(why) = ledger_tools::ask(step, self, tool, arguments) {
                    self.ended(step, ToolStatus::Error, &why);
                }
                return;
            }
            Executor::Builtin | Executor::External => {
                if !budget::tool_call(step, self, tool) {
                    let wait = step.id("wait");
                    self.effect(step, tool, arguments, wait, None);
                }
                return;
            }
        }
        let done = match tool.id.as_str() {
            "delegate" => delegation::delegate(step, self.agent, self.branch, self.call_id, arguments),
            "ask_user" => match arguments
                .get("question")
                .and_then(Value::as_str)
                .filter(|q| !q.trim().is_empty())
            {
                Some(question) => {
                    let (kind, call_id) = (RequestKind::Question, self.call_id.to_owned());
                    turn::request(step, self.agent, self.branch, kind, call_id, question.to_owned(), None);
                    Ok(())
                }
                None => Err("ask_user needs the text 'question'".to_owned()),
            },
            other => Err(format!("the core has no tool '{other}'")),
        };
        if let Err(why) = done {
            self.ended(step, ToolStatus::Error, &why);
        }
    }

    fn effect(&self, step: &mut Step<'_>, tool: &Tool, arguments: &Value, wait: Id, budget: Option<Held>) {
        let reservation = budget.as_ref().map(|held| held.reservation);
        let deadline_ms = Some(step.now.saturating_add(tool.timeout_ms));
        let correlation = self.call_id.to_owned();
        let waiting = Waiting { id: wait, kind: WaitKind::Tool, deadline_ms, correlation, budget };
        step.append(self.agent, self.branch, State::Waiting(waiting));
        let version = lookup::tool(&step.conv, step.context, &tool.id).map_or(0, |(version, _)| version);
        let body = CallTool {
            tool: tool.id.clone(),
            version,
            arguments: JsonText(arguments.clone()),
            call_id: self.call_id.to_owned(),
            wait,
        };
        step.paid_effect(self.agent, self.branch, deadline_ms, EffectBody::CallTool(body), reservation);
    }

    /// The call ends without having been made.
    pub(super) fn ended(&self, step: &mut Step<'_>, status: ToolStatus, why: &str) {
        let reward = (status == ToolStatus::Error).then_some(0.0);
        let result = ToolResult {
            call_id: self.call_id.to_owned(),
            tool: self.name.to_owned(),
            status,
            result: JsonText(json!({"message": why})),
            reward,
        };
        step.append(self.agent, self.branch, State::ToolResult(result));
    }
}

/// Makes a call for which money was awaited, under a wait of that id.
pub(super) fn resume(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    call_id: &str,
    (wait, held): (Id, Held),
) {
    let Some(asked) = find(step, agent, branch, call_id) else { return };
    let call = Call { agent, branch, call_id, name: &asked.tool };
    let arguments = edited(step, agent, branch, call_id).unwrap_or(asked.arguments.0);
    // The conversation has pinned it, and the registry forgets nothing.
    if let Some((_, tool)) = lookup::tool(&step.conv, step.context, &asked.tool) {
        call.effect(step, tool, &arguments, wait, Some(held));
    }
}

/// The arguments that a person gave a call instead of its own.
fn edited(step: &Step<'_>, agent: &AgentId, branch: &BranchId, call_id: &str) -> Option<Value> {
    let entries = || step.conv.newest(agent, branch);
    let request = entries().find_map(|entry| match &entry.state {
        State::UserInputRequest(request) if request.call_id == call_id => Some(request.id),
        _ => None,
    })?;
    entries().find_map(|entry| match &entry.state {
        State::UserResponse(found) if found.request == request && found.answer.kind == AnswerKind::Edit => {
            found.answer.arguments.as_ref().map(|arguments| arguments.0.clone())
        }
        _ => None,
    })
}

/// Appends the result of a call that is on the stack.
pub(super) fn result(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    call_id: &str,
    status: ToolStatus,
    body: Value,
    reward: Option<f64>,
) {
    let Some(call) = find(step, agent, branch, call_id) else { return };
    let result = if body.is_object() { body } else { json!({"value": body}) };
    let state =
        ToolResult { call_id: call.call_id, tool: call.tool, status, result: JsonText(result), reward };
    step.append(agent, branch, State::ToolResult(state));
}

/// The call with that id on a branch.
pub(super) fn find(step: &Step<'_>, agent: &AgentId, branch: &BranchId, call_id: &str) -> Option<ToolCall> {
    step.conv.newest(agent, branch).find_map(|entry| match &entry.state {
        State::ToolCall(call) if call.call_id == call_id => Some(call.clone()),
        _ => None,
    })
}

/// Whether the tool of a call may be called once more without harm.
pub(super) fn repeatable(step: &Step<'_>, tool: &str) -> bool {
    lookup::tool(&step.conv, step.context, tool)
        .is_some_and(|(_, tool)| tool.idempotent || tool.side_effect_free)
}

fn dedup_key(name: &str, params: &Value) -> String {
    hex::encode(Sha1::digest(json!({"name": name, "params": params}).to_string().as_bytes()))
}

/// Whether the same call was made since the newest user message and succeeded or is still open. One that
/// failed may be tried again.
fn is_duplicate(
    step: &Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    tool: &Tool,
    key: &str,
    seq: i64,
) -> bool {
    let turn = lookup::turn(&step.conv, agent, branch);
    let failed = |call_id: &str| {
        turn.iter().any(|entry| {
            matches!(&entry.state, State::ToolResult(result)
                if result.call_id == call_id
                    && !matches!(result.status, ToolStatus::Success | ToolStatus::InDoubt))
        })
    };
    turn.iter().any(|entry| {
        entry.seq < seq
            && step.now.saturating_sub(entry.time_ms) <= tool.dedup_ttl_ms
            && matches!(&entry.state, State::ToolCall(call) if call.dedup_key == key && !failed(&call.call_id))
    })
}
