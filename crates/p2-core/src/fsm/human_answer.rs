//! A person's answer to a request: one wins.

use serde_json::{Value, json};

use super::builder::Step;
use super::tool_calls::{self, Call};
use super::{applied, lookup, recorded, refused, turn};
use crate::conversation::{Conversation, OpenWait};
use crate::ids::{AgentId, BranchId, Id};
use crate::record::{HumanAnswer, Outcome};
use crate::state::{AnswerKind, RequestKind, State, ToolStatus, UserInputRequest, UserResponse};

pub(super) fn decide(step: &mut Step<'_>, answer: &HumanAnswer) -> Outcome {
    let Some(request) = find(&step.conv, &answer.request) else {
        return refused("unknown_request", format!("this conversation has no request {}", answer.request));
    };
    let Some(open) = step.conv.waits.get(&answer.request).cloned() else {
        return refused("conflict", format!("request {} is answered or closed already", answer.request));
    };
    if let Some(why) = misfit(&request, answer) {
        return refused("invalid", why);
    }
    let holders = step.conv.holders(&open);
    let parked = holders.iter().all(|branch| step.conv.is_parked(&open.agent, branch));
    if parked && matches!(answer.answer.kind, AnswerKind::Approve | AnswerKind::Edit) {
        let why = format!("branch '{}' is not checked out: check it out, then answer", open.branch);
        return refused("parked", why);
    }
    take(step, &open, &holders, &request, answer);
    if parked {
        return recorded("parked", "recorded on its branch, which is not checked out".into());
    }
    Outcome { reference: Some(answer.request.to_string()), ..applied() }
}

fn take(
    step: &mut Step<'_>,
    open: &OpenWait,
    holders: &[BranchId],
    request: &UserInputRequest,
    answer: &HumanAnswer,
) {
    step.close(&answer.request);
    for branch in holders {
        let response =
            UserResponse { request: answer.request, answer: answer.answer.clone(), by: answer.by.clone() };
        step.append(&open.agent, branch, State::UserResponse(response));
        match request.kind {
            RequestKind::Reply => {
                // Said while the person thought: that is asked next.
                let unseen = step
                    .conv
                    .visible(&open.agent, branch)
                    .iter()
                    .skip_while(|e| !matches!(&e.state, State::UserInputRequest(r) if r.id == request.id))
                    .any(|entry| lookup::is_question(&entry.state));
                let seq = turn::say(step, &open.agent, branch, answer.answer.text.clone());
                if unseen && !step.conv.paused {
                    turn::ask_for_more(step, &open.agent, branch);
                } else if !step.conv.is_parked(&open.agent, branch) {
                    turn::end(step, &open.agent, branch, seq, &answer.answer.text);
                }
            }
            RequestKind::Question => {
                let body = json!({"answer": answer.answer.text});
                let (id, status) = (request.call_id.as_str(), ToolStatus::Success);
                tool_calls::result(step, &open.agent, branch, id, status, body, Some(1.0));
            }
            RequestKind::Approval => approval(step, &open.agent, branch, request, answer),
        }
        turn::go_on(step, &open.agent, branch);
    }
}

fn approval(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    request: &UserInputRequest,
    answer: &HumanAnswer,
) {
    let Some(asked) = tool_calls::find(step, agent, branch, &request.call_id) else { return };
    let call = Call { agent, branch, call_id: &asked.call_id, name: &asked.tool };
    if answer.answer.kind == AnswerKind::Deny {
        let why = match answer.answer.text.trim() {
            "" => "a person denied this call".to_owned(),
            reason => format!("a person denied this call: {reason}"),
        };
        return call.ended(step, ToolStatus::Skipped, &why);
    }
    if step.conv.is_parked(agent, branch) {
        return call.ended(step, ToolStatus::Skipped, "not done: the branch is not checked out");
    }
    let arguments = answer.answer.arguments.clone().filter(|_| answer.answer.kind == AnswerKind::Edit);
    let arguments = arguments.unwrap_or(asked.arguments.clone()).0;
    match lookup::tool(&step.conv, step.context, &asked.tool) {
        Some((_, tool)) => call.start(step, tool, &arguments),
        None => call.ended(step, ToolStatus::Error, "the tool is not in the registry any more"),
    }
}

fn misfit(request: &UserInputRequest, answer: &HumanAnswer) -> Option<String> {
    let kind = answer.answer.kind;
    match request.kind {
        RequestKind::Approval if kind == AnswerKind::Text => {
            Some(format!("request {} asks for approval: answer approve, deny or edit", request.id))
        }
        RequestKind::Approval if kind == AnswerKind::Edit => {
            let object =
                answer.answer.arguments.as_ref().is_some_and(|json| matches!(json.0, Value::Object(_)));
            (!object).then(|| "an edit needs the changed arguments as a JSON object".to_owned())
        }
        RequestKind::Approval => None,
        _ if kind != AnswerKind::Text => Some(format!("request {} asks for text: answer text", request.id)),
        _ if answer.answer.text.trim().is_empty() => Some("the answer is empty: write some text".to_owned()),
        _ => None,
    }
}

fn find(conv: &Conversation, id: &Id) -> Option<UserInputRequest> {
    let mut entries = conv.stacks.values().flat_map(|stack| stack.branches.values()).flat_map(|b| &b.entries);
    entries.find_map(|entry| match &entry.state {
        State::UserInputRequest(request) if request.id == *id => Some(request.clone()),
        _ => None,
    })
}
