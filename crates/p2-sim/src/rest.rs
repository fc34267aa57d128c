//! What must hold of a conversation once everything has come to rest.

use p2_core::conversation::Conversation;
use p2_core::definition::AgentKind;
use p2_core::ids::{AgentId, BranchId, Id};
use p2_core::record::{InboxMessage, StateTransition};
use p2_core::state::{Entry, State, WaitKind};
use p2_core::step::{self, Context, Input};

use crate::oracle::Oracle;

/// Nothing is open that nobody is awaited for, every call has its one result, and nobody was passed over.
///
/// # Errors
/// What is wrong, with the entries of the branch.
pub fn check(oracle: &Oracle, transitions: &[StateTransition]) -> Result<(), String> {
    let mut conversation = Conversation::default();
    for transition in transitions {
        conversation.apply(transition).map_err(|error| error.to_string())?;
    }
    if oracle.conversations.get(&conversation.id) != Some(&conversation) {
        return Err("folded again it is another conversation".to_owned());
    }
    if conversation.paused {
        return Err("still paused".to_owned());
    }
    for (id, wait) in &conversation.waits {
        let fine = match wait.waiting.kind {
            WaitKind::UserInput => true,
            // In doubt.
            WaitKind::Tool => wait.waiting.deadline_ms.is_none(),
            // Its callee waits for a person.
            WaitKind::Agent => conversation.deadline(wait).is_none(),
            WaitKind::Llm | WaitKind::Payment => false,
        };
        if !fine {
            return Err(format!("wait {id} is open: {wait:?}"));
        }
    }
    for (agent, stack) in &conversation.stacks {
        for branch in stack.branches.keys() {
            let at = format!("{agent} {branch}");
            let told = |why| format!("{at}: {why}\n{}", entries(&conversation, agent, branch));
            ends(&conversation, agent, branch).map_err(told)?;
            goes_on(oracle, &conversation, agent, branch).map_err(told)?;
        }
    }
    Ok(())
}

/// Each input but the models' replies, decided once more on what was folded before it: what was committed is
/// what follows from the log alone, whoever decided it, and on whatever state in memory.
///
/// # Errors
/// The first input that is decided differently.
pub fn decide_again(oracle: &Oracle, transitions: &[StateTransition]) -> Result<(), String> {
    let context = Context { registry: &oracle.registry, settings: &oracle.settings };
    let mut conversation = Conversation::default();
    for step in transitions.chunk_by(|a, b| a.input == b.input) {
        if let Some(first) = step.first()
            && let Some(input) = input(oracle, &conversation, first)
        {
            let again = step::decide(&conversation, &input, context, first.time_ms);
            if again.transitions != step {
                let (was, is) = (step, again.transitions);
                return Err(format!("{input:?} is decided as\n{is:#?}\nand was\n{was:#?}"));
            }
        }
        for transition in step {
            conversation.apply(transition).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

fn input(oracle: &Oracle, conversation: &Conversation, of: &StateTransition) -> Option<Input> {
    if let Some(body) = oracle.inputs.get(&of.input) {
        let message = InboxMessage { conversation: of.conversation.clone(), body: body.clone() };
        return Some(Input::Inbox { id: of.input, message });
    }
    let fired = |wait: &&Id| Id::derive(wait, "timer", 0) == of.input;
    conversation.waits.keys().find(fired).map(|wait| Input::Deadline { wait: *wait })
}

/// A branch for whoever looks into a failing seed.
fn entries(conversation: &Conversation, agent: &AgentId, branch: &BranchId) -> String {
    let lines = conversation.visible(agent, branch).into_iter().map(|entry| {
        let state: String = format!("{:?}", entry.state).chars().take(180).collect();
        format!("  {} {} {state}\n", entry.seq, entry.time_ms)
    });
    lines.collect()
}

/// Every call has its one result, unless somebody waits for it.
fn ends(conversation: &Conversation, agent: &AgentId, branch: &BranchId) -> Result<(), String> {
    let visible = conversation.visible(agent, branch);
    let open = conversation.waits_on(agent, branch);
    for entry in &visible {
        let State::ToolCall(call) = &entry.state else { continue };
        let results = visible
            .iter()
            .filter(|other| matches!(&other.state, State::ToolResult(r) if r.call_id == call.call_id))
            .count();
        let requests: Vec<_> = visible
            .iter()
            .filter_map(|other| match &other.state {
                State::UserInputRequest(request) if request.call_id == call.call_id => Some(request.id),
                State::AgentCall(asked) if asked.call_id == call.call_id => Some(asked.id),
                _ => None,
            })
            .collect();
        let waited = open
            .iter()
            .any(|wait| wait.waiting.correlation == call.call_id || requests.contains(&wait.waiting.id));
        if results != usize::from(!waited) {
            return Err(format!(
                "call {} of {} has {results} results, open: {waited}",
                call.call_id, call.tool
            ));
        }
    }
    Ok(())
}

/// Whatever was said or came back on a live branch led to something.
fn goes_on(
    oracle: &Oracle,
    conversation: &Conversation,
    agent: &AgentId,
    branch: &BranchId,
) -> Result<(), String> {
    let Some(known) = conversation.branch(agent, branch) else { return Ok(()) };
    let visible = conversation.visible(agent, branch);
    let held = !conversation.waits_on(agent, branch).is_empty();
    // A fork or a rewound branch does nothing until something is said on it.
    if held || conversation.is_parked(agent, branch) || known.entries.is_empty() || !known.hidden.is_empty() {
        return Ok(());
    }
    let newest = visible.iter().rev().find(|entry| !matches!(entry.state, State::Waiting(_)));
    if let Some(Entry { seq, state, .. }) = newest
        && matches!(
            state,
            State::UserMessage(_) | State::ToolResult(_) | State::AgentResult(_) | State::UserResponse(_)
        )
    {
        return Err(format!("nobody goes on after entry {seq}: {state:?}"));
    }
    let Some(question) = visible.iter().rposition(
        |entry| matches!(&entry.state, State::UserMessage(m) if m.origin.as_deref() != Some("reflection")),
    ) else {
        return Ok(());
    };
    let seen = visible.iter().skip(question).any(|entry| match &entry.state {
        State::Waiting(waiting) => matches!(waiting.kind, WaitKind::Llm | WaitKind::UserInput),
        State::AssistantMessage(said) => said.error.is_some() || is_rule(oracle, agent),
        State::Finished(_) => true,
        _ => false,
    });
    let seq = visible.get(question).map_or(0, |entry| entry.seq);
    if seen { Ok(()) } else { Err(format!("nobody saw entry {seq}")) }
}

fn is_rule(oracle: &Oracle, agent: &AgentId) -> bool {
    let found = oracle.registry.agent(agent.as_str(), None);
    found.is_some_and(|(_, agent)| matches!(agent.kind, AgentKind::Rule(_)))
}
