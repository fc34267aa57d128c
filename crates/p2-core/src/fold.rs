//! Folding transitions into a conversation.

use imbl::Vector;

use crate::conversation::{Branch, Conversation, OpenWait, OutOfOrder, Stack};
use crate::ids::{AgentId, BranchId, Id};
use crate::record::{BranchStatus, Change, StateTransition};
use crate::state::{Entry, State, WaitKind, Waiting};

pub(crate) fn apply(conversation: &mut Conversation, transition: &StateTransition) -> Result<(), OutOfOrder> {
    if transition.seq < conversation.next_seq {
        return Ok(());
    }
    if transition.seq != conversation.next_seq || transition.previous != conversation.last {
        return Err(OutOfOrder {
            conversation: transition.conversation.clone(),
            id: transition.id,
            found: transition.seq,
            expected: conversation.next_seq,
        });
    }
    if conversation.last.is_none() {
        conversation.id = transition.conversation.clone();
    }
    let place = Place {
        agent: &transition.agent,
        branch: &transition.branch,
        input: transition.input,
        time_ms: transition.time_ms,
    };
    for one in &transition.changes {
        change(conversation, &place, one);
    }
    sealed(conversation, transition);
    Ok(())
}

/// Where and when a change happens.
pub(crate) struct Place<'a> {
    pub(crate) agent: &'a AgentId,
    pub(crate) branch: &'a BranchId,
    pub(crate) input: Id,
    pub(crate) time_ms: i64,
}

/// What a whole transition sets besides its changes.
pub(crate) fn sealed(conversation: &mut Conversation, transition: &StateTransition) {
    if let Some(branch) = branch_mut(conversation, &transition.agent, &transition.branch) {
        branch.status = transition.status;
    }
    conversation.next_seq = transition.seq + 1;
    conversation.last = Some(transition.id);
}

/// One change. The builder of a decision uses it too, so that what is decided on is what will be folded.
pub(crate) fn change(conversation: &mut Conversation, place: &Place<'_>, change: &Change) {
    match change {
        Change::Opened(opened) => {
            conversation.root = opened.root.clone();
            conversation.opened_ms = place.time_ms;
        }
        Change::Appended(appended) => {
            for entry in &appended.entries {
                append(conversation, place, entry);
            }
        }
        Change::Forked(forked) => {
            let branch = Branch {
                id: place.branch.clone(),
                parent: forked.parent.clone().map(|parent| (parent, forked.at)),
                name: forked.name.clone(),
                creator: forked.creator.clone(),
                created_ms: place.time_ms,
                call: forked.call.clone(),
                entries: Vector::new(),
                hidden: Vec::new(),
                status: BranchStatus::Idle,
            };
            stack_mut(conversation, place.agent).branches.insert(place.branch.clone(), branch);
        }
        Change::CheckedOut(_) => {
            stack_mut(conversation, place.agent).current = place.branch.clone();
        }
        Change::Hidden(hidden) => {
            let head = conversation.head(place.agent, place.branch);
            if let Some(branch) = branch_mut(conversation, place.agent, place.branch)
                && hidden.after < head
            {
                branch.hidden.push((hidden.after + 1, head));
            }
        }
        Change::Overridden(set) => {
            conversation.overrides.insert(place.agent.clone(), (set.overrides.clone(), set.locked));
        }
        Change::PauseSet(set) => conversation.paused = set.paused,
        Change::BookSet(set) => conversation.book = set.book.clone(),
        Change::Decided(decided) => {
            conversation.seen.entry(place.input).or_insert_with(|| decided.outcome.clone());
        }
        Change::Pinned(pinned) => {
            conversation.pins.extend(pinned.versions.iter().map(|(key, version)| (key.clone(), *version)));
        }
        Change::Closed(closed) => {
            for wait in &closed.waits {
                conversation.waits.remove(wait);
                conversation.asked_models.remove(wait);
            }
        }
    }
}

fn append(conversation: &mut Conversation, place: &Place<'_>, entry: &Entry) {
    let book = conversation.book.clone();
    if let State::Waiting(waiting) = &entry.state {
        note_model(conversation, place, waiting);
        conversation
            .waits
            .entry(waiting.id)
            .and_modify(|open| open.waiting = waiting.clone())
            .or_insert_with(|| OpenWait {
                agent: place.agent.clone(),
                branch: place.branch.clone(),
                seq: entry.seq,
                waiting: waiting.clone(),
                book,
            });
    }
    if let Some(branch) = branch_mut(conversation, place.agent, place.branch) {
        branch.entries.push_back(entry.clone());
    }
}

/// An override may change the model while a call is under way; what the call is booked under must not change.
fn note_model(conversation: &mut Conversation, place: &Place<'_>, waiting: &Waiting) {
    if waiting.kind != WaitKind::Llm {
        return;
    }
    let model = conversation.overrides.get(place.agent).and_then(|(set, _)| set.model.clone());
    match model {
        Some(model) => conversation.asked_models.insert(waiting.id, model),
        None => conversation.asked_models.remove(&waiting.id),
    };
}

fn stack_mut<'c>(conversation: &'c mut Conversation, agent: &AgentId) -> &'c mut Stack {
    conversation
        .stacks
        .entry(agent.clone())
        .or_insert_with(|| Stack { current: BranchId::main(), ..Stack::default() })
}

fn branch_mut<'c>(
    conversation: &'c mut Conversation,
    agent: &AgentId,
    branch: &BranchId,
) -> Option<&'c mut Branch> {
    conversation.stacks.get_mut(agent)?.branches.get_mut(branch)
}
