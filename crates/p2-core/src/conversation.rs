//! A conversation: the fold of its state transitions. Stacks, branches, waits, and the inputs it has seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, BranchId, ConversationId, Id};
use crate::record::{BranchStatus, CallLink, Outcome, Overrides, StateTransition};
use crate::state::{Entry, Waiting};

/// Everything about one conversation. Two equal folds are equal values.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Conversation {
    /// Its id; empty before the first transition.
    pub id: ConversationId,
    /// The agent that people talk to; empty before the first transition.
    pub root: AgentId,
    /// When it began, milliseconds since the epoch.
    pub opened_ms: i64,
    /// `seq` that the next transition must have.
    pub next_seq: i64,
    /// The newest transition.
    pub last: Option<Id>,
    /// `kind/id` → pinned version.
    pub pins: BTreeMap<String, i32>,
    /// One stack per agent.
    pub stacks: BTreeMap<AgentId, Stack>,
    /// Waits that are open, by id. Parked branches' waits stay here: late results still close them.
    pub waits: BTreeMap<Id, OpenWait>,
    /// Every input seen, with its first outcome.
    pub seen: BTreeMap<Id, Outcome>,
    /// Overrides per agent.
    pub overrides: BTreeMap<AgentId, (Overrides, bool)>,
    /// Nothing new is asked while true.
    pub paused: bool,
}

/// One agent's stack: its branches, and which is checked out.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Stack {
    /// The branch that is checked out.
    pub current: BranchId,
    /// All branches.
    pub branches: BTreeMap<BranchId, Branch>,
}

/// One branch. It owns the entries after its fork point and refers to its parent for the earlier ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    /// Its id.
    pub id: BranchId,
    /// (parent, last inherited `seq`); absent for a root branch.
    pub parent: Option<(BranchId, i64)>,
    /// Its name, where one was given.
    pub name: Option<String>,
    /// `open`, `user`, `rewind`, `call:<id>` or `tree:<id>`.
    pub creator: String,
    /// When it was made, milliseconds since the epoch.
    pub created_ms: i64,
    /// Where it is an agent call's branch: the call.
    pub call: Option<CallLink>,
    /// Its own entries, ascending by `seq`, hidden ones included.
    pub entries: Vec<Entry>,
    /// Ranges of `seq` hidden by destructive rewinds: (first hidden, last hidden), inclusive.
    pub hidden: Vec<(i64, i64)>,
    /// What it is doing.
    pub status: BranchStatus,
}

/// A wait that is open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenWait {
    /// The agent.
    pub agent: AgentId,
    /// The branch that asked.
    pub branch: BranchId,
    /// `seq` of its Waiting entry.
    pub seq: i64,
    /// The Waiting state.
    pub waiting: Waiting,
}

/// A transition that does not follow the one before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "conversation '{conversation}': transition {id} has seq {found}, expected {expected}: refold it from the log"
)]
pub struct OutOfOrder {
    /// The conversation.
    pub conversation: ConversationId,
    /// The transition.
    pub id: Id,
    /// Its seq.
    pub found: i64,
    /// The seq that should follow.
    pub expected: i64,
}

impl Conversation {
    /// Folds one transition. One that was folded before (lower `seq`) changes nothing.
    ///
    /// # Errors
    /// [`OutOfOrder`] where one is missing in between or its `previous` is not our newest.
    pub fn apply(&mut self, transition: &StateTransition) -> Result<(), OutOfOrder> {
        crate::fold::apply(self, transition)
    }
}
