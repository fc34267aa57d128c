//! Walking a stack: the entries that a branch shows, its own and inherited ones.

use std::collections::BTreeMap;

use p2_core::conversation::{Branch, Conversation, Stack};
use p2_core::ids::{AgentId, BranchId, ConversationId};
use p2_core::record::Artifact;
use p2_core::state::{Entry, State};

/// The visible entries of a branch from 0 on, inherited ones first; Waiting entries included. The same that the engine
/// counts: an index is typed as it is shown.
pub(crate) fn lineage<'a>(
    conversation: &'a Conversation,
    agent: &AgentId,
    branch: &BranchId,
) -> Vec<&'a Entry> {
    conversation.visible(agent, branch)
}

/// Entries that people count: all but Waiting.
pub(crate) fn counted<'a>(entries: &[&'a Entry]) -> Vec<&'a Entry> {
    entries.iter().copied().filter(|entry| !matches!(entry.state, State::Waiting(_))).collect()
}

/// A branch of an agent in a conversation.
type Seen = (ConversationId, AgentId, BranchId);

/// Which index the entries of some conversations have: what records name by `seq`, people see and type so.
#[derive(Default)]
pub(crate) struct Indices {
    conversations: BTreeMap<ConversationId, Conversation>,
    /// `seq` to index, of the branches that were asked for.
    known: BTreeMap<Seen, BTreeMap<i64, usize>>,
}

impl Indices {
    /// Takes a conversation in.
    pub(crate) fn add(&mut self, conversation: Conversation) {
        self.conversations.insert(conversation.id.clone(), conversation);
    }

    /// The index of the entry that an artifact is of, as `conversation stack` shows it on the artifact's branch; none
    /// for one that is not counted: a wait, or one that a rewind hid.
    pub(crate) fn of(&mut self, artifact: &Artifact) -> Option<usize> {
        let (agent, branch) = (artifact.agent.clone()?, artifact.branch.clone()?);
        let conversation = self.conversations.get(&artifact.conversation)?;
        let seen = (artifact.conversation.clone(), agent.clone(), branch.clone());
        let indices = self.known.entry(seen).or_insert_with(|| {
            let entries = conversation.indexed(&agent, &branch);
            entries.iter().enumerate().map(|(index, entry)| (entry.seq, index)).collect()
        });
        indices.get(&artifact.entry?).copied()
    }
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
