//! The bodies for a stack store.

use std::time::Duration;

use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{Appended, BranchStatus, Change, Closed, Opened, StateTransition};
use p2_core::state::{Entry, State, UserMessage, WaitKind, Waiting};

use super::within;
use crate::ports::{ConversationSummary, StackStore, StoreError};

/// How long one body may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs every body for a store; `make` gives a fresh one each time.
///
/// # Panics
/// Where a promise is broken.
pub async fn store_conformance<S: StackStore>(make: impl AsyncFn() -> S) {
    macro_rules! run {
        ($($body:ident),* $(,)?) => {
            $( let store = make().await; within(LIMIT, stringify!($body), $body(&store)).await; )*
        };
    }
    run!(
        store_loads_in_order_and_writes_once,
        store_has_the_rows_below_its_applied_offset,
        store_keeps_a_row_against_an_older_write,
        store_reads_tails_of_one_branch,
        store_reads_inherited_entries_from_the_parent,
        store_indexes_open_waits,
        store_closes_a_wait_once,
        store_lists_in_pages,
        store_keeps_any_names_apart,
        store_wipes,
        store_rebuilds_to_the_same_reads,
    );
}

/// A store belongs to one log. `open` opens the same store for the log of an identity, or refuses.
///
/// # Panics
/// Where a promise is broken.
pub async fn store_identity_conformance<S: StackStore>(open: impl AsyncFn(&str) -> Result<S, StoreError>) {
    let body = async {
        let store = open("log-a").await.unwrap();
        store.write(0, vec![(0, transition("c", 0, vec![opened()]))], 1).await.unwrap();
        drop(store);
        for _ in 0..2 {
            let other = open("log-b").await.map(drop);
            assert!(matches!(other, Err(StoreError::Foreign(_))), "got {other:?}");
        }
        let store = open("log-a").await.unwrap();
        assert_eq!(store.applied(0).await.unwrap(), 1, "the refusal changed nothing");
        assert_eq!(store.load(&ConversationId::from("c")).await.unwrap().len(), 1);
    };
    within(LIMIT, "store_identity_conformance", body).await;
}

fn transition(conversation: &str, seq: i64, changes: Vec<Change>) -> StateTransition {
    StateTransition {
        id: Id::of_text(&format!("{conversation}/{seq}")),
        conversation: ConversationId::from(conversation),
        seq,
        previous: (seq > 0).then(|| Id::of_text(&format!("{conversation}/{}", seq - 1))),
        agent: AgentId::from("agent_alpha"),
        branch: BranchId::main(),
        input: Id::of_text("input"),
        changes,
        head: seq,
        status: BranchStatus::Idle,
        time_ms: 1_000 + seq,
    }
}

fn said(seq: i64, text: &str) -> Change {
    let state = State::UserMessage(UserMessage { text: text.to_owned(), origin: None });
    Change::Appended(Appended { entries: vec![Entry { seq, id: Id::of_text(text), time_ms: 1, state }] })
}

fn waits(seq: i64, id: &str) -> Change {
    let waiting = Waiting {
        id: Id::of_text(id),
        kind: WaitKind::Tool,
        deadline_ms: None,
        correlation: "c".to_owned(),
        budget: None,
    };
    let entry = Entry { seq, id: Id::of_text(id), time_ms: 1, state: State::Waiting(waiting) };
    Change::Appended(Appended { entries: vec![entry] })
}

fn closes(ids: &[&str]) -> Change {
    Change::Closed(Closed { waits: ids.iter().map(|id| Id::of_text(id)).collect() })
}

fn opened() -> Change {
    Change::Opened(Opened { root: AgentId::from("agent_alpha") })
}

async fn store_loads_in_order_and_writes_once(store: &impl StackStore) {
    let conversation = ConversationId::from("c");
    assert_eq!(store.load(&conversation).await.unwrap(), []);
    assert_eq!(store.applied(5).await.unwrap(), 0);
    let long = "long text ".repeat(1_000);
    let all: Vec<_> = (0..300).map(|seq| transition("c", seq, vec![said(seq, &long)])).collect();
    let numbered: Vec<_> =
        all.iter().cloned().zip(10..).map(|(transition, offset)| (offset, transition)).collect();
    store.write(5, numbered[..120].to_vec(), 130).await.unwrap();
    store.write(5, numbered[120..].to_vec(), 310).await.unwrap();
    assert_eq!(store.load(&conversation).await.unwrap(), all);
    assert_eq!(store.applied(5).await.unwrap(), 310);
    assert_eq!(store.applied(4).await.unwrap(), 0);
    let listed = store.list(None, 10).await.unwrap();
    store.write(5, numbered[40..90].to_vec(), 100).await.unwrap();
    assert_eq!(store.load(&conversation).await.unwrap(), all, "the same again changes nothing");
    assert_eq!(store.list(None, 10).await.unwrap(), listed);
    assert_eq!(store.applied(5).await.unwrap(), 310, "the applied offset never goes back");
}

async fn store_reads_tails_of_one_branch(store: &impl StackStore) {
    let conversation = ConversationId::from("c");
    let agent = AgentId::from("agent_alpha");
    let mut all = Vec::new();
    for seq in 0..400 {
        all.push((seq, transition("c", seq, vec![said(seq, &format!("main {seq}"))])));
    }
    for seq in 400..410 {
        let mut fork = transition("c", seq, vec![said(seq - 300, &format!("fork {seq}"))]);
        fork.branch = BranchId::from("fork");
        all.push((seq, fork));
    }
    store.write(0, all, 410).await.unwrap();
    let tail = async |branch: &str, before, max| -> Vec<i64> {
        let branch = BranchId::from(branch);
        let found = store.tail(&conversation, &agent, &branch, before, max).await.unwrap();
        found.into_iter().map(|entry| entry.seq).collect()
    };
    assert_eq!(tail("main", i64::MAX, 3).await, [399, 398, 397]);
    assert_eq!(tail("main", 255, 2).await, [254, 253], "before is not part of it");
    assert_eq!(tail("main", 1, 5).await, [0]);
    assert_eq!(tail("main", 0, 5).await, [0; 0]);
    assert_eq!(tail("fork", i64::MAX, 100).await, (100..110).rev().collect::<Vec<_>>(), "own entries only");
    assert_eq!(tail("other", i64::MAX, 100).await, [0; 0]);
}

async fn store_indexes_open_waits(store: &impl StackStore) {
    let names = |ids: Vec<ConversationId>| ids.into_iter().map(|id| id.0).collect::<Vec<_>>();
    let first = vec![
        (0, transition("a", 0, vec![opened(), waits(0, "a1"), waits(1, "a2")])),
        (1, transition("b", 0, vec![opened(), waits(0, "b1")])),
        (2, transition("c", 0, vec![opened(), said(0, "nothing awaited")])),
    ];
    store.write(1, first.clone(), 3).await.unwrap();
    store.write(2, vec![(0, transition("d", 0, vec![opened(), waits(0, "d1")]))], 1).await.unwrap();
    assert_eq!(names(store.open(1).await.unwrap()), ["a", "b"]);
    assert_eq!(names(store.open(2).await.unwrap()), ["d"]);
    assert_eq!(names(store.open(0).await.unwrap()), [""; 0]);
    let second = vec![
        (3, transition("a", 1, vec![closes(&["a1"])])),
        (4, transition("b", 1, vec![closes(&["b1"]), said(1, "done")])),
    ];
    store.write(1, second, 5).await.unwrap();
    assert_eq!(names(store.open(1).await.unwrap()), ["a"]);
    assert_eq!(store.list(None, 1).await.unwrap()[0].open_waits, 1);
    store.write(1, first, 5).await.unwrap();
    assert_eq!(
        names(store.open(1).await.unwrap()),
        ["a"],
        "what is closed stays closed when it is written again"
    );
    store.write(1, vec![(5, transition("a", 2, vec![closes(&["a2"])]))], 6).await.unwrap();
    assert_eq!(names(store.open(1).await.unwrap()), [""; 0]);
    assert_eq!(names(store.open(2).await.unwrap()), ["d"]);
}

async fn store_lists_in_pages(store: &impl StackStore) {
    for (partition, id) in ["e", "a", "ab", "c", "b"].into_iter().enumerate() {
        let both =
            vec![(0, transition(id, 0, vec![opened()])), (1, transition(id, 1, vec![said(0, "hello")]))];
        store.write(partition as i32, both, 2).await.unwrap();
    }
    let mut found = Vec::new();
    loop {
        let page = store.list(found.last(), 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        for line in page {
            assert_eq!((line.opened_ms, line.changed_ms, line.transitions), (1_000, 1_001, 2));
            assert_eq!(line.root, AgentId::from("agent_alpha"));
            found.push(line.id);
        }
    }
    assert_eq!(found.iter().map(ConversationId::as_str).collect::<Vec<_>>(), ["a", "ab", "b", "c", "e"]);
}

async fn store_keeps_any_names_apart(store: &impl StackStore) {
    let names = ["a", "a\0", "a\0\u{1}", "a\0b", "\0", "", "a/b", "ä", "a\u{ff}", "\u{10ffff}"];
    for (offset, name) in names.into_iter().enumerate() {
        let one = transition(name, 0, vec![opened(), waits(0, name)]);
        store.write(0, vec![(offset as i64, one)], offset as i64 + 1).await.unwrap();
    }
    for name in names {
        let found = store.load(&ConversationId::from(name)).await.unwrap();
        assert_eq!(found, [transition(name, 0, vec![opened(), waits(0, name)])], "{name:?}");
    }
    assert_eq!(store.list(None, 100).await.unwrap().len(), names.len());
    assert_eq!(store.open(0).await.unwrap().len(), names.len());
}

async fn store_wipes(store: &impl StackStore) {
    let one = vec![(0, transition("c", 0, vec![opened(), waits(0, "w")]))];
    store.write(0, one.clone(), 1).await.unwrap();
    store.wipe().await.unwrap();
    let conversation = ConversationId::from("c");
    assert_eq!(store.load(&conversation).await.unwrap(), []);
    assert_eq!(store.applied(0).await.unwrap(), 0);
    assert_eq!(store.open(0).await.unwrap(), []);
    assert_eq!(store.list(None, 9).await.unwrap(), []);
    let branch = BranchId::main();
    let tail = store.tail(&conversation, &AgentId::from("agent_alpha"), &branch, 9, 9).await.unwrap();
    assert_eq!(tail, []);
    store.write(0, one, 1).await.unwrap();
    assert_eq!(store.load(&conversation).await.unwrap().len(), 1);
}

/// A reader that sees an applied offset sees the rows below it, also while writes are under way or dropped.
async fn store_has_the_rows_below_its_applied_offset(store: &impl StackStore) {
    let conversation = ConversationId::from("c");
    let check = async || {
        let applied = store.applied(0).await.unwrap();
        let rows = store.load(&conversation).await.unwrap().len() as i64;
        assert!(rows >= applied, "applied is {applied}, but only {rows} rows are there");
        applied
    };
    let rows = |from: i64| (from..from + 10).map(|seq| (seq, transition("c", seq, vec![said(seq, "text")])));
    let write = async {
        for from in (0..200).step_by(10) {
            store.write(0, rows(from).collect(), from + 10).await.unwrap();
        }
    };
    let read = async { while check().await < 200 {} };
    tokio::join!(write, read);
    for from in (200..400).step_by(10) {
        tokio::select! {
            biased;
            written = store.write(0, rows(from).collect(), from + 10) => written.unwrap(),
            () = tokio::task::yield_now() => {}
        }
        check().await;
        store.write(0, rows(from).collect(), from + 10).await.unwrap();
        assert_eq!(check().await, from + 10, "written again after it was dropped");
    }
    assert_eq!(store.load(&conversation).await.unwrap().len(), 400);
}

/// A zombie's late write carries older offsets: it changes nothing that is there.
async fn store_keeps_a_row_against_an_older_write(store: &impl StackStore) {
    let newer = transition("c", 0, vec![opened(), said(0, "of the owner")]);
    store.write(0, vec![(10, newer.clone())], 11).await.unwrap();
    let older = transition("c", 0, vec![said(0, "of a zombie"), waits(1, "w")]);
    store.write(0, vec![(4, older)], 5).await.unwrap();
    let conversation = ConversationId::from("c");
    assert_eq!(store.load(&conversation).await.unwrap(), [newer]);
    assert_eq!(store.applied(0).await.unwrap(), 11);
    let agent = AgentId::from("agent_alpha");
    let tail = store.tail(&conversation, &agent, &BranchId::main(), 1, 9).await.unwrap();
    assert_eq!(tail.iter().map(|entry| entry.id).collect::<Vec<_>>(), [Id::of_text("of the owner")]);
}

/// A fork copies nothing: the caller reads its own entries, then the parent's below the fork.
async fn store_reads_inherited_entries_from_the_parent(store: &impl StackStore) {
    let conversation = ConversationId::from("c");
    let mut all = Vec::new();
    for seq in 0..20 {
        all.push((seq, transition("c", seq, vec![said(seq, &format!("main {seq}"))])));
    }
    for (seq, agent, branch) in
        [(20, "agent_alpha", "fork"), (21, "agent_beta", "main"), (22, "agent_beta", "fork")]
    {
        let mut own = transition("c", seq, vec![said(8, &format!("{agent} {branch}"))]);
        (own.agent, own.branch) = (AgentId::from(agent), BranchId::from(branch));
        all.push((seq, own));
    }
    store.write(0, all, 23).await.unwrap();
    let tail = async |agent: &str, branch: &str, before, max| {
        let (agent, branch) = (AgentId::from(agent), BranchId::from(branch));
        store.tail(&conversation, &agent, &branch, before, max).await.unwrap()
    };
    let own = tail("agent_alpha", "fork", i64::MAX, 4).await;
    let inherited = tail("agent_alpha", "main", own[0].seq, 3).await;
    let seqs: Vec<i64> = own.iter().chain(&inherited).map(|entry| entry.seq).collect();
    assert_eq!(seqs, [8, 7, 6, 5]);
    assert_eq!(own[0].id, Id::of_text("agent_alpha fork"), "agents and branches are kept apart");
    assert_eq!(tail("agent_beta", "main", i64::MAX, 9).await[0].id, Id::of_text("agent_beta main"));
    // In pages, each entry once.
    let (mut before, mut found) = (i64::MAX, Vec::new());
    loop {
        let page = tail("agent_alpha", "main", before, 7).await;
        let Some(last) = page.last() else { break };
        before = last.seq;
        found.extend(page.into_iter().map(|entry| entry.seq));
    }
    assert_eq!(found, (0..20).rev().collect::<Vec<_>>());
}

/// Of several that close a wait one wins; what the others leave behind does not open it again, nor close another.
async fn store_closes_a_wait_once(store: &impl StackStore) {
    let open = async || store.list(None, 9).await.unwrap().first().map(|line| line.open_waits);
    let mut answer = transition("c", 1, vec![closes(&["one"])]);
    answer.agent = AgentId::from("agent_beta");
    answer.branch = BranchId::from("fork");
    let all = vec![
        (0, transition("c", 0, vec![opened(), waits(0, "one"), waits(1, "two")])),
        (1, answer),
        (2, transition("c", 2, vec![closes(&["one"]), said(2, "too late")])),
    ];
    store.write(0, all.clone(), 3).await.unwrap();
    assert_eq!(open().await, Some(1), "another agent's transition may close it; twice is once");
    store.write(0, vec![(3, transition("c", 3, vec![closes(&["two", "never opened"])]))], 4).await.unwrap();
    assert_eq!(open().await, Some(0));
    assert_eq!(store.open(0).await.unwrap(), []);
    store.write(0, all, 3).await.unwrap();
    assert_eq!(open().await, Some(0), "written again, it stays closed");
    assert_eq!(store.open(0).await.unwrap(), []);
}

/// Everything that can be read of these conversations.
async fn reads(store: &impl StackStore, names: &[&str]) -> Reads {
    let mut all = Reads { list: store.list(None, 99).await.unwrap(), ..Reads::default() };
    for partition in 0..4 {
        all.open.push(store.open(partition).await.unwrap());
        all.applied.push(store.applied(partition).await.unwrap());
    }
    for name in names {
        let conversation = ConversationId::from(*name);
        all.transitions.push(store.load(&conversation).await.unwrap());
        let agent = AgentId::from("agent_alpha");
        all.tails.push(store.tail(&conversation, &agent, &BranchId::main(), i64::MAX, 99).await.unwrap());
    }
    all
}

#[derive(Debug, Default, PartialEq)]
struct Reads {
    list: Vec<ConversationSummary>,
    open: Vec<Vec<ConversationId>>,
    applied: Vec<i64>,
    transitions: Vec<Vec<StateTransition>>,
    tails: Vec<Vec<Entry>>,
}

/// The view is a fold of the log: emptied and fed again, in other portions, it reads the same.
async fn store_rebuilds_to_the_same_reads(store: &impl StackStore) {
    let names = ["a", "b", "c"];
    let mut log = Vec::new();
    for seq in 0..30 {
        for name in names {
            let wait = format!("{name}{}", seq / 2);
            let changes = match seq {
                0 => vec![opened(), waits(0, &wait)],
                _ if seq % 2 == 0 && seq < 29 => vec![waits(seq, &wait), said(seq + 1_000, "beside it")],
                _ if seq == 29 && name == "b" => vec![said(seq, "leaves its wait open")],
                _ => vec![closes(&[&wait]), said(seq, &"long ".repeat(900))],
            };
            log.push((log.len() as i64, transition(name, seq, changes)));
        }
    }
    let mut seen = Vec::new();
    for portion in [1, 7, 90] {
        for part in log.chunks(portion) {
            store.write(2, part.to_vec(), part.last().unwrap().0 + 1).await.unwrap();
        }
        seen.push(reads(store, &names).await);
        store.wipe().await.unwrap();
        let empty = reads(store, &names).await;
        assert!(empty.list.is_empty() && empty.transitions.iter().all(Vec::is_empty), "wiped");
        assert_eq!(empty.applied, [0; 4]);
    }
    assert_eq!(seen[0].open[2], [ConversationId::from("b")]);
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
}
