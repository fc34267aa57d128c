//! The records of `state-transitions`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Overrides;
use crate::ids::{AgentId, BookId, BranchId, ConversationId, Id};
use crate::state::Entry;

/// One state transition of one (conversation, agent, branch) stack.
///
/// Folding all transitions of a conversation in order gives the conversation. A step that touches several
/// stacks is several transitions in one batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateTransition {
    /// This transition's id, derived from the input.
    pub id: Id,
    /// The conversation.
    pub conversation: ConversationId,
    /// Counts the conversation's transitions from 0 without gaps.
    pub seq: i64,
    /// The id of the transition before it; absent for the first.
    pub previous: Option<Id>,
    /// The agent whose stack it is.
    pub agent: AgentId,
    /// The branch.
    pub branch: BranchId,
    /// The id of the input that led to it: an inbox record, a model reply, a timer.
    pub input: Id,
    /// What changed, in order.
    pub changes: Vec<Change>,
    /// `seq` of the newest entry of the branch afterwards; −1 for an empty one.
    pub head: i64,
    /// What the branch is doing afterwards.
    pub status: BranchStatus,
    /// Time of the input.
    pub time_ms: i64,
}

/// What the branch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BranchStatus {
    /// Nothing to do: a new message is awaited.
    Idle,
    /// At least one wait is open.
    Waiting,
    /// The newest entry is Finished.
    Finished,
}

/// One change of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// The conversation began. Always the first change of the first transition.
    Opened(Opened),
    /// Entries were appended.
    Appended(Appended),
    /// A branch was made.
    Forked(Forked),
    /// The pointer moved to this transition's branch.
    CheckedOut(CheckedOut),
    /// The entries after a `seq` of this branch are hidden (destructive rewind).
    Hidden(Hidden),
    /// An agent's overrides are now these.
    Overridden(Overridden),
    /// Paused or resumed.
    PauseSet(PauseSet),
    /// The outcome of the input, remembered for its duplicates.
    Decided(Decided),
    /// Definitions were pinned after the conversation began (an agent that joined by delegation).
    Pinned(Pinned),
    /// Waits were closed.
    Closed(Closed),
    /// The conversation's money is in another book.
    BookSet(BookSet),
}

/// The book that the conversation's money is in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BookSet {
    /// The book; none: those that the definitions name.
    pub book: Option<BookId>,
}

/// Waits were closed: whatever answers one of them from now on is late.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// Their ids.
    pub waits: Vec<Id>,
}

/// The conversation began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// The root agent.
    pub root: AgentId,
}

/// Definitions that the conversation goes on with: `kind/id` → version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pinned {
    /// `kind/id` → version.
    pub versions: BTreeMap<String, i32>,
}

/// Entries were appended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Appended {
    /// The entries, ascending by `seq`.
    pub entries: Vec<Entry>,
}

/// This transition's branch was made as a fork.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forked {
    /// The parent; absent for a root branch (`main`, a callee's first branch).
    pub parent: Option<BranchId>,
    /// The last `seq` of the parent that it inherits; −1 for none.
    pub at: i64,
    /// The name, where one was given.
    pub name: Option<String>,
    /// `user`, `rewind`, `call:<id>` or `tree:<id>`.
    pub creator: String,
    /// Where this is an agent call's branch: the call that it answers.
    pub call: Option<CallLink>,
}

/// Links a callee's branch to the call that it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLink {
    /// The agent call's id.
    pub id: Id,
    /// The caller.
    pub agent: AgentId,
    /// The caller's branch.
    pub branch: BranchId,
    /// How deep: 1 for a callee of the root.
    pub depth: i32,
}

/// The pointer moved to this transition's branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckedOut {
    /// The branch that was checked out before.
    pub from: BranchId,
}

/// The entries after `after` are hidden.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hidden {
    /// The last `seq` that stays visible; −1 hides all.
    pub after: i64,
}

/// An agent's overrides are now these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overridden {
    /// The whole set.
    pub overrides: Overrides,
    /// Whether they are locked.
    pub locked: bool,
}

/// Paused or resumed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PauseSet {
    /// The new value.
    pub paused: bool,
}

/// The outcome of an input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// The outcome.
    pub outcome: Outcome,
}

/// What became of an input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Applied or not.
    pub verdict: Verdict,
    /// A stable code: `ok`, `duplicate`, `conflict`, `unknown_request`, `parked`, `not_found`, `locked`,
    /// `busy`, `limit`, `invalid`.
    pub code: String,
    /// One sentence for people: what, where, how to mend; empty where applied.
    pub message: String,
    /// What it made, where it made something: a branch id, a request id.
    pub reference: Option<String>,
}

/// Applied or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It changed the conversation.
    Applied,
    /// It was recorded, and nothing more was done (a late result, a parked branch).
    Recorded,
    /// It changed nothing.
    Refused,
    /// Its id was seen before; this is the first outcome again.
    Duplicate,
}
