use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{Appended, BranchStatus, Closed, Opened};
use p2_core::state::{Entry, WaitKind, Waiting};
use proptest::prelude::*;

use super::*;

/// A transition of conversation `c`.
pub(crate) fn transition(seq: i64, changes: Vec<Change>) -> StateTransition {
    StateTransition {
        id: Id::of_text(&seq.to_string()),
        conversation: ConversationId::from("c"),
        seq,
        previous: (seq > 0).then(|| Id::of_text(&(seq - 1).to_string())),
        agent: AgentId::from("alpha"),
        branch: BranchId::main(),
        input: Id::of_text("input"),
        changes,
        head: seq,
        status: BranchStatus::Idle,
        time_ms: 1_000 + seq,
    }
}

fn waits(name: &str) -> Change {
    let id = Id::of_text(name);
    let waiting =
        Waiting { id, kind: WaitKind::Tool, deadline_ms: None, correlation: String::new(), budget: None };
    let entry = Entry { seq: 0, id, time_ms: 1, state: State::Waiting(waiting) };
    Change::Appended(Appended { entries: vec![entry] })
}

fn closes(name: &str) -> Change {
    Change::Closed(Closed { waits: vec![Id::of_text(name)] })
}

#[test]
fn a_head_counts_what_is_open_and_forgets_what_was_closed() {
    let mut head = Head::default();
    let opened = Change::Opened(Opened { root: AgentId::from("alpha") });
    head.take(7, &transition(0, vec![opened, waits("a"), waits("b")]), 10);
    head.take(9, &transition(1, vec![closes("a"), waits("c")]), 10);
    assert_eq!(head.waits, BTreeSet::from([Id::of_text("b"), Id::of_text("c")]));
    let before = head.clone();
    head.take(7, &transition(0, vec![waits("a")]), 10);
    assert_eq!(head, before, "what was folded before changes nothing");
    let summary = head.summary(ConversationId::from("c"));
    assert_eq!((summary.opened_ms, summary.changed_ms, summary.transitions), (1_000, 1_001, 2));
    assert_eq!((summary.open_waits, summary.root), (2, AgentId::from("alpha")));
}

#[test]
fn a_wait_that_is_opened_and_closed_in_one_transition_is_closed() {
    let mut head = Head::default();
    head.take(0, &transition(0, vec![waits("a"), closes("a")]), 10);
    assert!(head.waits.is_empty());
    head.take(1, &transition(1, vec![closes("b"), waits("b")]), 10);
    assert_eq!(head.waits.len(), 1, "in the order of the changes");
}

#[test]
fn no_bucket_is_larger_than_its_limit_and_one_large_record() {
    let mut head = Head::default();
    let sizes = (0..2_000).map(|n: usize| if n.is_multiple_of(7) { 900_000 } else { n });
    let mut bytes = std::collections::BTreeMap::<i32, usize>::new();
    for (seq, size) in (0..).zip(sizes) {
        head.take(seq, &transition(seq, Vec::new()), size);
        *bytes.entry(head.bucket(seq)).or_default() += size;
    }
    assert_eq!(bytes.len(), head.starts.len() + 1);
    assert!(bytes.len() > 10);
    assert!(bytes.values().all(|bytes| *bytes <= BUCKET_BYTES_MAX as usize), "{bytes:?}");
    assert_eq!(head.bucket(0), 0);
    assert_eq!(head.bucket(head.starts[0] - 1), 0);
    assert_eq!(head.bucket(head.starts[0]), 1);
}

proptest! {
    #[test]
    fn a_head_does_not_depend_on_how_the_log_was_cut_into_writes(
        sizes in prop::collection::vec(0_usize..9_000_000, 1..60),
        cuts in prop::collection::vec(0_usize..60, 0..6),
    ) {
        let all: Vec<_> = (0..).zip(&sizes).map(|(seq, size)| (transition(seq, vec![waits(&size.to_string())]), *size)).collect();
        let mut once = Head::default();
        for (one, size) in &all {
            once.take(one.seq * 3, one, *size);
        }
        // Every cut starts somewhere before the end again, as a catch-up does.
        let mut again = Head::default();
        for cut in cuts.iter().map(|cut| cut % all.len()).chain([all.len() - 1]) {
            let from = usize::try_from(again.next_seq).unwrap().min(cut);
            for (one, size) in &all[from.saturating_sub(3)..=cut.max(from)] {
                again.take(one.seq * 3, one, *size);
            }
        }
        prop_assert_eq!(encode(&again).unwrap(), encode(&once).unwrap());
        prop_assert_eq!(decode(&encode(&once).unwrap()).unwrap(), once);
    }
}
