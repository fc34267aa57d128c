//! A conversation: the fold of its state transitions. Stacks, branches, waits, and the inputs it has seen.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, BookId, BranchId, ConversationId, Id};
use crate::record::{BranchStatus, CallLink, Outcome, Overrides, StateTransition};
use crate::state::{Entry, State, WaitKind, Waiting};

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
    pub seen: OrdMap<Id, Outcome>,
    /// Overrides per agent.
    pub overrides: BTreeMap<AgentId, (Overrides, bool)>,
    /// Nothing new is asked while true.
    pub paused: bool,
    /// The model that an open model wait was asked of, where an override named it; otherwise it is that of the
    /// agent's pinned definition.
    #[serde(default)]
    pub asked_models: BTreeMap<Id, String>,
    /// The book that its money is in, whatever the definitions of its agents and evaluators say; none: as they say.
    #[serde(default)]
    pub book: Option<BookId>,
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
    pub entries: Vector<Entry>,
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
    /// The conversation's own book when it began to wait: where what it asked of the ledger is.
    #[serde(default)]
    pub book: Option<BookId>,
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

    /// Whether its first user message has been taken.
    pub fn is_open(&self) -> bool {
        !self.root.0.is_empty()
    }

    /// A branch.
    pub fn branch(&self, agent: &AgentId, branch: &BranchId) -> Option<&Branch> {
        self.stacks.get(agent)?.branches.get(branch)
    }

    /// The branch of an agent that is checked out; `main` for an agent that has no stack yet.
    pub fn current(&self, agent: &AgentId) -> BranchId {
        self.stacks.get(agent).map_or_else(BranchId::main, |stack| stack.current.clone())
    }

    /// `seq` of the newest entry of a branch, hidden ones included; -1 for an empty one.
    pub fn head(&self, agent: &AgentId, branch: &BranchId) -> i64 {
        let Some(branch) = self.branch(agent, branch) else { return -1 };
        let inherited = branch.parent.as_ref().map_or(-1, |(_, at)| *at);
        branch.entries.back().map_or(inherited, |entry| entry.seq)
    }

    /// The entries of a branch over its whole lineage, oldest first, without the hidden ones; Waiting entries
    /// included. Empty for a branch that does not exist.
    pub fn visible(&self, agent: &AgentId, branch: &BranchId) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.newest(agent, branch).collect();
        entries.reverse();
        entries
    }

    /// As [`Conversation::visible`], newest first and one at a time: for what is found near the end.
    pub fn newest(&self, agent: &AgentId, branch: &BranchId) -> impl Iterator<Item = &Entry> {
        let mut hidden: Vec<(i64, i64)> = Vec::new();
        self.lineage(agent, branch).flat_map(move |(one, cut)| {
            // A parent's range that reaches the fork point was hidden after the fork: the fork keeps it.
            hidden.extend(one.hidden.iter().filter(|(_, last)| cut == i64::MAX || *last < cut));
            let hidden = hidden.clone();
            let after = one.entries.iter().rev().skip_while(move |entry| entry.seq > cut);
            after.filter(move |entry| {
                !hidden.iter().any(|(first, last)| (*first..=*last).contains(&entry.seq))
            })
        })
    }

    /// A branch and its ancestors, each with the last `seq` that is inherited of it.
    fn lineage(&self, agent: &AgentId, branch: &BranchId) -> impl Iterator<Item = (&Branch, i64)> {
        let branches = self.stacks.get(agent).map(|stack| &stack.branches);
        let first = branches.and_then(|all| all.get(branch)).map(|one| (one, i64::MAX));
        let parent = move |(one, cut): &(&'_ Branch, i64)| {
            let (parent, at) = one.parent.as_ref()?;
            Some((branches?.get(parent)?, (*cut).min(*at)))
        };
        // The bound only guards against a damaged log whose branches are their own ancestors.
        iter::successors(first, parent).take(100_000)
    }

    /// The entries of a branch that people count: the visible ones that are not Waiting, oldest first. The
    /// position in it is the index that people see and type.
    pub fn indexed(&self, agent: &AgentId, branch: &BranchId) -> Vec<&Entry> {
        let mut entries = self.visible(agent, branch);
        entries.retain(|entry| !matches!(entry.state, State::Waiting(_)));
        entries
    }

    /// The newest entry of a branch that is not Waiting.
    pub fn newest_said(&self, agent: &AgentId, branch: &BranchId) -> Option<&Entry> {
        self.newest(agent, branch).find(|entry| !matches!(entry.state, State::Waiting(_)))
    }

    /// The visible index of the entry with that `seq`.
    pub fn index_of(&self, agent: &AgentId, branch: &BranchId, seq: i64) -> Option<usize> {
        self.indexed(agent, branch).iter().position(|entry| entry.seq == seq)
    }

    /// The `seq` of the entry with that visible index.
    pub fn seq_at(&self, agent: &AgentId, branch: &BranchId, index: usize) -> Option<i64> {
        self.indexed(agent, branch).get(index).map(|entry| entry.seq)
    }

    /// The branches of an agent as a tree, depth first, parents before children, older before newer, with
    /// their depth.
    pub fn branch_tree(&self, agent: &AgentId) -> Vec<(usize, &Branch)> {
        let Some(stack) = self.stacks.get(agent) else { return Vec::new() };
        let children = |of: Option<&BranchId>| {
            let mut found: Vec<&Branch> = stack
                .branches
                .values()
                .filter(|branch| branch.parent.as_ref().map(|(parent, _)| parent) == of)
                .collect();
            found.sort_by(|a, b| (b.created_ms, &b.id).cmp(&(a.created_ms, &a.id)));
            found
        };
        let mut todo: Vec<(usize, &Branch)> = children(None).into_iter().map(|branch| (0, branch)).collect();
        let mut tree = Vec::new();
        while let Some((depth, branch)) = todo.pop() {
            todo.extend(children(Some(&branch.id)).into_iter().map(|child| (depth + 1, child)));
            tree.push((depth, branch));
        }
        tree
    }

    /// What two branches of an agent share and where they part: how many indexed entries are common, and the
    /// rest of each.
    pub fn diff(&self, agent: &AgentId, a: &BranchId, b: &BranchId) -> BranchDiff<'_> {
        let (left, right) = (self.indexed(agent, a), self.indexed(agent, b));
        let common = left.iter().zip(&right).take_while(|(x, y)| x.id == y.id).count();
        BranchDiff {
            common,
            left: left.into_iter().skip(common).collect(),
            right: right.into_iter().skip(common).collect(),
        }
    }

    /// The newest text of the agent on a branch, errors included; none where it has said nothing.
    pub fn last_assistant_text(&self, agent: &AgentId, branch: &BranchId) -> Option<&str> {
        self.newest(agent, branch).find_map(|entry| match &entry.state {
            State::AssistantMessage(message) if message.summary_of.is_none() && !message.text.is_empty() => {
                Some(message.text.as_str())
            }
            _ => None,
        })
    }

    /// The branch in a lineage that owns what lies at `seq`: the branch itself, or the ancestor that it inherits
    /// it from. A fork attaches there, so that lineages grow with what was said and not with how often somebody
    /// rewound. What the branches in between hide lies above `seq`, where `seq` is visible.
    pub fn owner(&self, agent: &AgentId, branch: &BranchId, seq: i64) -> BranchId {
        let mut owner = branch.clone();
        let mut steps = 0;
        while let Some((parent, cut)) = self.branch(agent, &owner).and_then(|one| one.parent.as_ref())
            && seq <= *cut
            && steps < 100_000
        {
            owner = parent.clone();
            steps += 1;
        }
        owner
    }

    /// Whether a branch has the entry `seq` of branch `of` in its lineage.
    pub fn inherits(&self, agent: &AgentId, branch: &BranchId, of: &BranchId, seq: i64) -> bool {
        let Some(stack) = self.stacks.get(agent) else { return branch == of };
        let mut at = branch;
        let mut steps = 0;
        while at != of {
            match stack.branches.get(at).and_then(|branch| branch.parent.as_ref()) {
                Some((parent, cut)) if *cut >= seq && steps < 100_000 => at = parent,
                _ => return false,
            }
            steps += 1;
        }
        true
    }

    /// The branches that an open wait holds up: the one that asked, then those that inherit its Waiting entry.
    pub fn holders(&self, wait: &OpenWait) -> Vec<BranchId> {
        let mut holders = vec![wait.branch.clone()];
        if let Some(stack) = self.stacks.get(&wait.agent) {
            holders.extend(
                stack
                    .branches
                    .keys()
                    .filter(|id| {
                        **id != wait.branch && self.inherits(&wait.agent, id, &wait.branch, wait.seq)
                    })
                    .cloned(),
            );
        }
        holders
    }

    /// The open waits that hold up a branch.
    pub fn waits_on(&self, agent: &AgentId, branch: &BranchId) -> Vec<&OpenWait> {
        self.waits
            .values()
            .filter(|wait| &wait.agent == agent && self.inherits(agent, branch, &wait.branch, wait.seq))
            .collect()
    }

    /// Whether a branch is parked: neither checked out nor the branch of a call that somebody who is not
    /// parked waits for. Late results are recorded on a parked branch; nothing is asked or called from it.
    pub fn is_parked(&self, agent: &AgentId, branch: &BranchId) -> bool {
        let (mut agent, mut branch) = (agent.clone(), branch.clone());
        // Calls nest at most `CALL_DEPTH_MAX` deep; the bound only guards against a damaged log.
        for _ in 0..64 {
            if self.stacks.get(&agent).is_some_and(|stack| stack.current == branch) {
                return false;
            }
            let Some(link) = self.branch(&agent, &branch).and_then(|branch| branch.call.as_ref()) else {
                return true;
            };
            let Some(wait) = self.waits.get(&link.id) else { return true };
            let holders = self.holders(wait);
            let current = self.current(&wait.agent);
            branch = if holders.contains(&current) { current } else { wait.branch.clone() };
            agent = wait.agent.clone();
        }
        true
    }

    /// The call that a branch answers, while its caller still waits.
    pub fn open_call(&self, agent: &AgentId, branch: &BranchId) -> Option<&CallLink> {
        let link = self.branch(agent, branch)?.call.as_ref()?;
        let wait = self.waits.get(&link.id)?;
        // A tree fork copies the link; only the branch that the call names answers it.
        let names_it = self.newest(&wait.agent, &wait.branch).any(|entry| {
            matches!(&entry.state, State::AgentCall(call)
                if call.id == link.id && &call.agent == agent && &call.branch == branch)
        });
        names_it.then_some(link)
    }

    /// When each open wait is given up, milliseconds since the epoch; waits without a deadline are left out.
    ///
    /// An agent call's deadline stands still while its callee waits for a person: it is left out meanwhile and
    /// moved by that time afterwards. A paused conversation has no deadlines on models.
    pub fn timers(&self) -> Vec<(Id, i64)> {
        let calls = Calls::of(self);
        self.waits
            .values()
            .filter_map(|wait| Some((wait.waiting.id, self.deadline_within(wait, &calls)?)))
            .collect()
    }

    /// The effective deadline of one open wait, as in [`Conversation::timers`].
    pub fn deadline(&self, wait: &OpenWait) -> Option<i64> {
        match wait.waiting.kind {
            WaitKind::Agent => self.deadline_within(wait, &Calls::of(self)),
            _ => self.deadline_within(wait, &Calls::default()),
        }
    }

    fn deadline_within(&self, wait: &OpenWait, calls: &Calls<'_>) -> Option<i64> {
        let deadline = wait.waiting.deadline_ms?;
        match wait.waiting.kind {
            WaitKind::Llm if self.paused => None,
            WaitKind::Agent => Some(deadline.saturating_add(calls.human_ms(wait.waiting.id)?)),
            _ => Some(deadline),
        }
    }
}

/// The branches of calls, and which of them wait for a person: made once for all timers, since conversations
/// with hundreds of open calls exist.
#[derive(Default)]
struct Calls<'c> {
    branches: BTreeMap<Id, Vec<(&'c AgentId, &'c Branch)>>,
    asking: BTreeSet<(&'c AgentId, BranchId)>,
}

impl<'c> Calls<'c> {
    fn of(conversation: &'c Conversation) -> Calls<'c> {
        let mut calls = Calls::default();
        if !conversation.waits.values().any(|wait| wait.waiting.kind == WaitKind::Agent) {
            return calls;
        }
        for (agent, stack) in &conversation.stacks {
            for branch in stack.branches.values() {
                if let Some(link) = &branch.call {
                    calls.branches.entry(link.id).or_default().push((agent, branch));
                }
            }
        }
        for wait in conversation.waits.values().filter(|wait| wait.waiting.kind == WaitKind::UserInput) {
            calls.asking.extend(conversation.holders(wait).into_iter().map(|branch| (&wait.agent, branch)));
        }
        calls
    }

    /// How long the callees of a call have waited for people; none while one does.
    fn human_ms(&self, call: Id) -> Option<i64> {
        let mut spans: Vec<(i64, i64)> = Vec::new();
        let mut todo = vec![call];
        let mut seen = BTreeSet::new();
        while let Some(call) = todo.pop() {
            if !seen.insert(call) {
                continue;
            }
            for (agent, branch) in self.branches.get(&call).into_iter().flatten() {
                if self.asking.contains(&(*agent, branch.id.clone())) {
                    return None;
                }
                for entry in &branch.entries {
                    match &entry.state {
                        State::AgentCall(inner) => todo.push(inner.id),
                        State::UserResponse(response) => {
                            let asked = branch.entries.iter().find(|other| {
                                matches!(&other.state, State::UserInputRequest(r) if r.id == response.request)
                            });
                            spans.extend(asked.map(|asked| (asked.time_ms, entry.time_ms)));
                        }
                        _ => {}
                    }
                }
            }
        }
        spans.sort_unstable();
        let mut total = 0;
        let mut reached = i64::MIN;
        for (from, to) in spans {
            let from = from.max(reached);
            total += (to - from).max(0);
            reached = reached.max(to);
        }
        Some(total)
    }
}

/// Where two branches part.
#[derive(Clone, Debug, PartialEq)]
pub struct BranchDiff<'c> {
    /// How many indexed entries they share.
    pub common: usize,
    /// The rest of the first.
    pub left: Vec<&'c Entry>,
    /// The rest of the second.
    pub right: Vec<&'c Entry>,
}
