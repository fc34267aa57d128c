//! Fork, rewind, checkout.

use serde_json::json;

use super::builder::Step;
use super::{applied, refused, turn};
use crate::conversation::{Conversation, Stack};
use crate::ids::{AgentId, BranchId, Id};
use crate::record::{BranchCommand, BranchOperation, CallLink, Change, CheckedOut, Forked, Hidden, Outcome};
use crate::state::{Entry, State};

pub(super) fn decide(step: &mut Step<'_>, command: &BranchCommand) -> Outcome {
    let agent = command.agent.clone().unwrap_or_else(|| step.conv.root.clone());
    let Some(stack) = step.conv.stacks.get(&agent) else {
        let known: Vec<&str> = step.conv.stacks.keys().map(AgentId::as_str).collect();
        let why = format!("agent '{agent}' has no stack here: those that have are {}", known.join(", "));
        return refused("not_found", why);
    };
    let from = match &command.branch {
        None if command.operation == BranchOperation::Checkout => {
            return refused("invalid", format!("checkout needs a branch: there are {}", names(stack)));
        }
        None => stack.current.clone(),
        Some(text) => match find(stack, text) {
            Ok(branch) => branch,
            Err(why) => return refused("not_found", why),
        },
    };
    if command.operation == BranchOperation::Checkout {
        checkout(step, &agent, &from);
        turn::resume(step, &agent, &from);
        return Outcome { reference: Some(from.0), ..applied() };
    }
    if let Some(why) = command.name.as_deref().and_then(|name| bad_name(stack, name)) {
        return refused("invalid", why);
    }
    let seq = match seq_at(&step.conv, &agent, &from, command.at) {
        Ok(seq) => seq,
        Err(why) => return refused("invalid", why),
    };
    if command.destructive && command.operation == BranchOperation::Rewind {
        return hide(step, &agent, &from, seq);
    }
    let entries = step.conv.visible(&agent, &from);
    let kept = with_waits(&entries, seq);
    let at = if command.keep_wait && all_held(&step.conv, &entries, kept) {
        kept
    } else {
        safe_cut(&entries, seq)
    };
    let new = fork(step, command, &agent, &from, at);
    Outcome { reference: Some(new.0), ..applied() }
}

fn fork(step: &mut Step<'_>, command: &BranchCommand, agent: &AgentId, from: &BranchId, at: i64) -> BranchId {
    let rewind = command.operation == BranchOperation::Rewind;
    let new = new_branch(step, agent);
    let forked = Forked {
        parent: Some(step.conv.owner(agent, from, at)),
        at,
        name: command.name.clone(),
        creator: if rewind { "rewind" } else { "user" }.to_owned(),
        // A call is answered by the branch that it names; a fork of that branch is for looking into it.
        call: None,
    };
    step.change(agent, &new, Change::Forked(forked));
    let data = json!({"from": from.as_str(), "branch": new.as_str(), "at": at, "tree": command.tree});
    step.event(agent, &new, "branch_forked", data);
    if command.tree {
        fork_callees(step, agent, &new, 1);
    }
    if rewind {
        checkout(step, agent, &new);
    }
    new
}

/// Forks the branch of every call in a branch's lineage, cut where that call ended.
fn fork_callees(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, depth: i32) {
    if depth > crate::step::CALL_DEPTH_MAX {
        return;
    }
    let calls: Vec<_> = step
        .conv
        .visible(agent, branch)
        .into_iter()
        .filter_map(|entry| match &entry.state {
            State::AgentCall(call) => Some(call.clone()),
            _ => None,
        })
        .collect();
    for call in calls {
        let entries = step.conv.visible(&call.agent, &call.branch);
        let own =
            step.conv.branch(&call.agent, &call.branch).and_then(|b| b.parent.as_ref()).map_or(-1, |p| p.1);
        let end = entries.iter().find(|e| e.seq > own && matches!(e.state, State::Finished(_)));
        let Some(at) = end.or(entries.last()).map(|entry| safe_cut(&entries, entry.seq)) else { continue };
        let new = new_branch(step, &call.agent);
        let link = CallLink { id: call.id, agent: agent.clone(), branch: branch.clone(), depth };
        let creator = format!("tree:{}", step.input);
        let parent = Some(step.conv.owner(&call.agent, &call.branch, at));
        let forked = Forked { parent, at, name: None, creator, call: Some(link) };
        step.change(&call.agent, &new, Change::Forked(forked));
        fork_callees(step, &call.agent, &new, depth + 1);
    }
}

fn new_branch(step: &mut Step<'_>, agent: &AgentId) -> BranchId {
    loop {
        let id = BranchId(step.id("branch").short());
        if step.conv.branch(agent, &id).is_none() {
            return id;
        }
    }
}

fn checkout(step: &mut Step<'_>, agent: &AgentId, to: &BranchId) {
    let from = step.conv.current(agent);
    if &from != to {
        step.change(agent, to, Change::CheckedOut(CheckedOut { from: from.clone() }));
        let data = json!({"from": from.as_str(), "to": to.as_str()});
        step.event(agent, to, "branch_checked_out", data);
    }
}

fn hide(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, seq: i64) -> Outcome {
    if !step.conv.waits_on(agent, branch).is_empty() {
        let why =
            format!("branch '{branch}' waits for something: cancel it, or rewind without --destructive");
        return refused("busy", why);
    }
    let after = safe_cut(&step.conv.visible(agent, branch), seq);
    step.change(agent, branch, Change::Hidden(Hidden { after }));
    step.event(agent, branch, "entries_hidden", json!({"after": after}));
    Outcome { reference: Some(branch.0.clone()), ..applied() }
}

fn seq_at(conv: &Conversation, agent: &AgentId, branch: &BranchId, at: Option<i64>) -> Result<i64, String> {
    let entries = conv.indexed(agent, branch);
    let Some(at) = at else { return Ok(entries.last().map_or(-1, |entry| entry.seq)) };
    let entry = usize::try_from(at).ok().and_then(|at| entries.get(at));
    entry.map(|entry| entry.seq).ok_or_else(|| match entries.len() {
        0 => format!("branch '{branch}' is empty"),
        many => format!("there is no index {at}: branch '{branch}' has {many} entries, 0 to {}", many - 1),
    })
}

/// The last `seq` at or before `seq` where no call or request is left open: inside an open step it lies before
/// the reply that began the step.
fn safe_cut(entries: &[&Entry], seq: i64) -> i64 {
    let mut kept: Vec<&Entry> = entries.iter().copied().filter(|entry| entry.seq <= seq).collect();
    loop {
        let open = kept.iter().position(|entry| match &entry.state {
            State::ToolCall(call) => !kept.iter().any(
                |other| matches!(&other.state, State::ToolResult(result) if result.call_id == call.call_id),
            ),
            State::UserInputRequest(request) => !kept.iter().any(|other| {
                matches!(&other.state, State::UserResponse(r) if r.request == request.id)
                    || matches!(&other.state, State::ToolResult(r) if r.call_id == request.call_id)
            }),
            State::AgentCall(call) => {
                !kept.iter().any(|other| matches!(&other.state, State::AgentResult(r) if r.id == call.id))
            }
            _ => false,
        });
        let Some(open) = open else { break };
        kept.truncate(reply_begin(&kept, open));
    }
    while kept.last().is_some_and(|entry| matches!(entry.state, State::Waiting(_))) {
        kept.pop();
    }
    kept.last().map_or(-1, |entry| entry.seq)
}

/// Where the reply begins to which the entry at `at` belongs: at its text, else at its first call. Anything but a
/// call stands for itself.
fn reply_begin(entries: &[&Entry], at: usize) -> usize {
    let reply_of = |entry: &&Entry| match &entry.state {
        State::ToolCall(call) => Some(call.reply),
        _ => None,
    };
    let Some(reply) = entries.get(at).and_then(reply_of) else { return at };
    let first = entries.iter().position(|entry| reply_of(entry) == Some(reply)).unwrap_or(at);
    let is_text =
        |entry: &&Entry| matches!(&entry.state, State::AssistantMessage(message) if message.tool_calls > 0);
    first.checked_sub(1).filter(|before| entries.get(*before).is_some_and(is_text)).unwrap_or(first)
}

/// Whether all that is open up to `seq` has its open wait there too, so that its result will come to a fork.
fn all_held(conv: &Conversation, entries: &[&Entry], seq: i64) -> bool {
    let kept: Vec<&Entry> = entries.iter().copied().filter(|entry| entry.seq <= seq).collect();
    let open = |id: &Id| {
        conv.waits.contains_key(id)
            && kept.iter().any(|entry| matches!(&entry.state, State::Waiting(waiting) if waiting.id == *id))
    };
    kept.iter().all(|entry| match &entry.state {
        State::ToolCall(call) => kept.iter().any(|other| match &other.state {
            State::ToolResult(result) => result.call_id == call.call_id,
            State::Waiting(waiting) => waiting.correlation == call.call_id && open(&waiting.id),
            State::AgentCall(agent) => agent.call_id == call.call_id && open(&agent.id),
            State::UserInputRequest(request) => request.call_id == call.call_id && open(&request.id),
            _ => false,
        }),
        State::AgentCall(call) => {
            open(&call.id)
                || kept.iter().any(|other| matches!(&other.state, State::AgentResult(r) if r.id == call.id))
        }
        State::UserInputRequest(request) if request.call_id.is_empty() => {
            open(&request.id)
                || kept.iter().any(|e| matches!(&e.state, State::UserResponse(r) if r.request == request.id))
        }
        _ => true,
    })
}

/// The open step that begins at or before `seq`, whole.
fn with_waits(entries: &[&Entry], seq: i64) -> i64 {
    let rest = entries.iter().filter(|entry| entry.seq > seq).take_while(|entry| {
        matches!(
            entry.state,
            State::Waiting(_) | State::ToolCall(_) | State::AgentCall(_) | State::UserInputRequest(_)
        )
    });
    rest.last().map_or(seq, |entry| entry.seq)
}

fn find(stack: &Stack, text: &str) -> Result<BranchId, String> {
    if let Some(branch) = stack.branches.get(&BranchId::from(text)) {
        return Ok(branch.id.clone());
    }
    if let Some(branch) = stack.branches.values().find(|branch| branch.name.as_deref() == Some(text)) {
        return Ok(branch.id.clone());
    }
    let mut found = stack.branches.keys().filter(|id| !text.is_empty() && id.as_str().starts_with(text));
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only.clone()),
        (Some(a), Some(b)) => Err(format!("'{text}' fits '{a}' and '{b}': write more of the id")),
        _ => Err(format!("there is no branch '{text}': there are {}", names(stack))),
    }
}

fn names(stack: &Stack) -> String {
    let names: Vec<String> = stack
        .branches
        .values()
        .map(|branch| match &branch.name {
            Some(name) => format!("{} ({name})", branch.id),
            None => branch.id.to_string(),
        })
        .collect();
    names.join(", ")
}

fn bad_name(stack: &Stack, name: &str) -> Option<String> {
    if name.trim().is_empty() || name.trim() != name {
        return Some("a branch name must not be empty nor begin or end with a blank".into());
    }
    let taken = stack.branches.values().any(|b| b.name.as_deref() == Some(name) || b.id.as_str() == name);
    taken.then(|| format!("there is a branch '{name}' already: choose another name"))
}
