//! Conversations to write.

use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{Appended, BranchStatus, Change, Closed, Forked, Opened, StateTransition};
use p2_core::state::{Entry, State, UserMessage, WaitKind, Waiting};

pub(crate) fn agent() -> AgentId {
    AgentId::from("alpha")
}

pub(crate) fn transition(conversation: &str, seq: i64, changes: Vec<Change>) -> StateTransition {
    let id = |seq: i64| Id::of_text(&format!("{conversation}/{seq}"));
    StateTransition {
        id: id(seq),
        conversation: ConversationId::from(conversation),
        seq,
        previous: (seq > 0).then(|| id(seq - 1)),
        agent: agent(),
        branch: BranchId::main(),
        input: Id::of_text("input"),
        changes,
        head: seq,
        status: BranchStatus::Idle,
        time_ms: 1_000 + seq,
    }
}

pub(crate) fn on(branch: &str, transition: StateTransition) -> StateTransition {
    StateTransition { branch: BranchId::from(branch), ..transition }
}

pub(crate) fn opened() -> Change {
    Change::Opened(Opened { root: agent() })
}

pub(crate) fn said(seq: i64, text: &str) -> Change {
    let state = State::UserMessage(UserMessage { text: text.to_owned(), origin: None });
    let id = Id::of_text(&format!("{seq}/{}", text.len()));
    Change::Appended(Appended { entries: vec![Entry { seq, id, time_ms: 1, state }] })
}

pub(crate) fn forked(parent: &str, at: i64) -> Change {
    let creator = "rewind".to_owned();
    Change::Forked(Forked { parent: Some(BranchId::from(parent)), at, name: None, creator, call: None })
}

pub(crate) fn waits(seq: i64, name: &str) -> Change {
    let id = Id::of_text(name);
    let waiting =
        Waiting { id, kind: WaitKind::Tool, deadline_ms: None, correlation: String::new(), budget: None };
    Change::Appended(Appended {
        entries: vec![Entry { seq, id, time_ms: 1, state: State::Waiting(waiting) }],
    })
}

pub(crate) fn closes(name: &str) -> Change {
    Change::Closed(Closed { waits: vec![Id::of_text(name)] })
}

/// `count` conversations of `turns` turns each, interleaved as one partition of a log: (offset, transition). A
/// turn is two transitions: said and awaited, answered and closed. The last turn of every third is open.
pub(crate) fn log_of(count: usize, turns: i64) -> Vec<(i64, StateTransition)> {
    let mut log = Vec::new();
    for turn in 0..turns {
        for name in (0..count).map(|n| format!("conversation-{n:04}")) {
            let wait = format!("{name}/{turn}");
            let mut changes = vec![said(turn * 4, &name), waits(turn * 4 + 1, &wait)];
            if turn == 0 {
                changes.insert(0, opened());
            }
            log.push(transition(&name, turn * 2, changes));
        }
        for (n, name) in (0..count).map(|n| (n, format!("conversation-{n:04}"))) {
            let wait = format!("{name}/{turn}");
            if turn + 1 < turns || n % 3 != 0 {
                let changes = vec![closes(&wait), said(turn * 4 + 2, &format!("answer {turn} to {name}"))];
                log.push(transition(&name, turn * 2 + 1, changes));
            }
        }
    }
    (0..).zip(log).collect()
}
