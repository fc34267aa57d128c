//! A person's message.

use super::builder::Step;
use super::{applied, lookup, recorded, refused, summary, turn};
use crate::ids::{AgentId, BranchId, ConversationId};
use crate::record::{Change, Forked, Opened, Outcome, Pinned, UserText};
use crate::state::{State, UserMessage};

pub(super) fn decide(step: &mut Step<'_>, conversation: &ConversationId, text: &UserText) -> Outcome {
    if text.text.trim().is_empty() {
        return refused("invalid", "the message is empty: write some text".into());
    }
    let opening = !step.conv.is_open();
    let agent = match (&text.agent, opening) {
        (Some(agent), _) => agent.clone(),
        (None, false) => step.conv.root.clone(),
        (None, true) => {
            let why =
                format!("conversation '{conversation}' is not open: its first message must name an agent");
            return refused("invalid", why);
        }
    };
    let Some(definition) = lookup::agent(&step.conv, step.context, &agent) else {
        return refused("not_found", unknown_agent(step, &agent));
    };
    let branch = text.branch.clone().unwrap_or_else(|| step.conv.current(&agent));
    if step.conv.branch(&agent, &branch).is_none() {
        if branch != BranchId::main() {
            let why =
                format!("agent '{agent}' has no branch '{branch}': look at the branches of the conversation");
            return refused("not_found", why);
        }
        if opening {
            step.change(&agent, &branch, Change::Opened(Opened { root: agent.clone() }));
        }
        open_stack(step, &agent, &branch);
    }
    if let crate::definition::AgentKind::Llm(llm) = &definition.kind {
        let most = step.context.settings.stack_entries_max;
        let full = summary::is_full(step, &agent, &branch);
        let held = !step.conv.waits_on(&agent, &branch).is_empty();
        if full && !held && !summary::make_room(step, &agent, &branch, llm.at_limit) {
            let why = format!(
                "branch '{branch}' of '{agent}' holds {most} entries, its limit: rewind it, or set at_limit to compact"
            );
            return refused("limit", why);
        }
    }
    let message = UserMessage { text: text.text.clone(), origin: None };
    step.append(&agent, &branch, State::UserMessage(message));
    if step.conv.is_parked(&agent, &branch) {
        let why = format!("branch '{branch}' is not checked out: the message is kept, and asked when it is");
        return recorded("parked", why);
    }
    turn::go_on(step, &agent, &branch);
    applied()
}

fn open_stack(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId) {
    let forked = Forked { parent: None, at: -1, name: None, creator: "open".into(), call: None };
    step.change(agent, branch, Change::Forked(forked));
    pin(step, agent, branch);
}

/// Pins what an agent that joins brings along.
pub(super) fn pin(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId) {
    let versions = lookup::pins(&step.conv, step.context, agent);
    if !versions.is_empty() {
        step.change(agent, branch, Change::Pinned(Pinned { versions }));
    }
}

/// Says that there is no such agent, and which there are.
pub(super) fn unknown_agent(step: &Step<'_>, agent: &AgentId) -> String {
    let known: Vec<&str> =
        step.context.registry.list("agent").map(|(_, definition)| definition.id()).collect();
    let near = known
        .iter()
        .map(|id| (strsim::damerau_levenshtein(id, agent.as_str()), id))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    match near {
        Some((_, id)) => format!("there is no agent '{agent}': did you mean '{id}'?"),
        None => format!("there is no agent '{agent}': known are {}", known.join(", ")),
    }
}
