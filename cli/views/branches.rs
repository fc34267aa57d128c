//! The branch tree of a stack.

use std::collections::BTreeMap;

use p2_core::conversation::{Branch, Conversation};
use p2_core::ids::{AgentId, BranchId};
use p2_core::record::BranchStatus;
use serde_json::{Value, json};

use super::lineage::{counted, lineage};
use super::{labelled, one_line};

/// The visible index of the last inherited entry; −1 for none.
fn fork_index(conversation: &Conversation, agent: &AgentId, branch: &Branch) -> Option<i64> {
    let (parent, at) = branch.parent.as_ref()?;
    let entries = lineage(conversation, agent, parent);
    let kept = counted(&entries).iter().filter(|entry| entry.seq <= *at).count();
    i64::try_from(kept).ok().map(|kept| kept - 1)
}

fn status(status: BranchStatus) -> &'static str {
    match status {
        BranchStatus::Idle => "idle",
        BranchStatus::Waiting => "waiting",
        BranchStatus::Finished => "finished",
    }
}

fn line(conversation: &Conversation, agent: &AgentId, branch: &Branch, current: bool) -> String {
    let length = labelled::count(counted(&lineage(conversation, agent, &branch.id)).len(), "entry");
    let name =
        branch.name.as_ref().map_or_else(String::new, |name| format!(" \"{}\"", one_line(name, usize::MAX)));
    let from = fork_index(conversation, agent, branch)
        .map_or_else(String::new, |index| format!(", from index {index}"));
    let mark = if current { " *" } else { "" };
    let creator = match branch.creator.split_once(':') {
        Some((kind, id)) => format!("{kind} {}", id.chars().take(8).collect::<String>()),
        None => branch.creator.clone(),
    };
    format!("{}{name}{mark}  {length}{from}, by {creator}, {}", branch.id, status(branch.status))
}

/// The tree, one line a branch; `*` marks the one that is checked out.
pub(crate) fn render(conversation: &Conversation, agent: &AgentId) -> String {
    let Some(stack) = conversation.stacks.get(agent) else { return String::new() };
    let mut children: BTreeMap<Option<&BranchId>, Vec<&Branch>> = BTreeMap::new();
    for branch in stack.branches.values() {
        // A parent that is not there would hide the branch: it is drawn as a root then.
        let parent = branch.parent.as_ref().map(|(id, _)| id).filter(|id| stack.branches.contains_key(*id));
        children.entry(parent).or_default().push(branch);
    }
    for branches in children.values_mut() {
        branches.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
    }
    let mut lines = vec![agent.to_string()];
    // Depth first without recursion: (branch, indentation, whether it is the last child).
    let mut open: Vec<(&Branch, String, bool)> = Vec::new();
    let push = |open: &mut Vec<_>, parent: Option<&BranchId>, indent: &str| {
        let kids = children.get(&parent).map_or(&[][..], Vec::as_slice);
        for (n, branch) in kids.iter().enumerate().rev() {
            open.push((*branch, indent.to_owned(), n + 1 == kids.len()));
        }
    };
    push(&mut open, None, "");
    while let Some((branch, indent, last)) = open.pop() {
        let joint = if last { "└── " } else { "├── " };
        let text = line(conversation, agent, branch, branch.id == stack.current);
        lines.push(format!("{indent}{joint}{text}"));
        let deeper = format!("{indent}{}", if last { "    " } else { "│   " });
        push(&mut open, Some(&branch.id), &deeper);
    }
    lines.join("\n")
}

/// The same as data.
pub(crate) fn data(conversation: &Conversation, agent: &AgentId) -> Value {
    let Some(stack) = conversation.stacks.get(agent) else { return json!([]) };
    let rows = stack.branches.values().map(|branch| {
        json!({
            "agent": agent, "id": branch.id, "name": branch.name, "creator": branch.creator,
            "created_ms": branch.created_ms,
            "parent": branch.parent.as_ref().map(|(parent, _)| parent),
            "fork_index": fork_index(conversation, agent, branch),
            "entries": counted(&lineage(conversation, agent, &branch.id)).len(),
            "status": status(branch.status), "current": branch.id == stack.current,
        })
    });
    rows.collect()
}
