//! Walking a stack: the entries that a branch shows, its own and inherited ones.

use p2_core::conversation::{Branch, Conversation, Stack};
use p2_core::ids::{AgentId, BranchId};
use p2_core::state::{Entry, State};

/// The visible entries of a branch from 0 on, inherited ones first; Waiting entries included.
pub(crate) fn lineage<'a>(
    conversation: &'a Conversation,
    agent: &AgentId,
    branch: &BranchId,
) -> Vec<&'a Entry> {
    let Some(stack) = conversation.stacks.get(agent) else { return Vec::new() };
    let mut found = Vec::new();
    let mut next = Some((branch, i64::MAX));
    // A branch has fewer ancestors than the stack has branches; more would be a circle.
    for _ in 0..=stack.branches.len() {
        let Some((id, last)) = next else { break };
        let Some(branch) = stack.branches.get(id) else { break };
        let own = branch.entries.iter().filter(|entry| entry.seq <= last && !is_hidden(branch, entry));
        found.extend(own);
        next = branch.parent.as_ref().map(|(parent, at)| (parent, (*at).min(last)));
    }
    found.sort_by_key(|entry| entry.seq);
    found
}

fn is_hidden(branch: &Branch, entry: &Entry) -> bool {
    branch.hidden.iter().any(|(first, last)| (*first..=*last).contains(&entry.seq))
}

/// Entries that people count: all but Waiting.
pub(crate) fn counted<'a>(entries: &[&'a Entry]) -> Vec<&'a Entry> {
    entries.iter().copied().filter(|entry| !matches!(entry.state, State::Waiting(_))).collect()
}

/// The branch that a person means: its id, its name, or a unique beginning of its id.
pub(crate) fn find_branch<'a>(stack: &'a Stack, wanted: &str) -> Result<&'a Branch, String> {
    if let Some(branch) = stack.branches.get(&BranchId::from(wanted)) {
        return Ok(branch);
    }
    let by_name = stack.branches.values().find(|branch| branch.name.as_deref() == Some(wanted));
    if let Some(branch) = by_name {
        return Ok(branch);
    }
    let fitting: Vec<&Branch> =
        stack.branches.values().filter(|branch| branch.id.as_str().starts_with(wanted)).collect();
    match fitting.as_slice() {
        [branch] => Ok(branch),
        [] => Err(format!("there is no branch '{wanted}'; see 'p2engine conversation branches'")),
        several => {
            let ids: Vec<&str> = several.iter().map(|branch| branch.id.as_str()).collect();
            Err(format!("'{wanted}' fits several branches: {}", ids.join(", ")))
        }
    }
}
