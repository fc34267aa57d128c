//! What every [`Log`] and every [`StackStore`] must do, as test bodies: each implementation runs the same.
//!
//! Every body gets a fresh, empty log (topics of at least four partitions) or store. They panic where the
//! promise is broken, as tests do; nothing else may call them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::sync::Arc;

use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{
    Appended, BranchStatus, Change, Closed, Opened, Position, RECORD_BYTES_MAX, StateTransition, Topic,
};
use p2_core::state::{Entry, State, UserMessage, WaitKind, Waiting};

use crate::groups::METADATA_BYTES_MAX;
use crate::ports::{
    Batch, CommitError, CommittedOffset, Log, LogError, Member, MemberEvent, NewRecord, StackStore,
    StoredRecord,
};

/// Runs every body for a log; `make` gives a fresh one each time.
///
/// # Panics
/// Where a promise is broken.
pub async fn log_conformance<L: Log + 'static>(make: impl AsyncFn() -> L) {
    log_appends_and_reads(&make().await).await;
    log_refuses_what_is_not_there(&make().await).await;
    log_refuses_what_is_too_large(&make().await).await;
    log_keeps_a_thousand_records_in_order(&make().await).await;
    log_commits_outputs_with_progress(&make().await).await;
    log_refuses_a_commit_whole(&make().await).await;
    log_gives_progress_back_on_rejoin(&make().await).await;
    log_shares_partitions_out(&make().await).await;
    log_fences_a_commit_for_a_lost_partition(&make().await).await;
    log_delivers_from_seek_until_pause(&make().await).await;
    log_wakes_a_waiting_member(make().await).await;
    log_keeps_groups_apart(&make().await).await;
}

fn record(topic: Topic, partition: i32, text: &str) -> NewRecord {
    NewRecord {
        topic,
        partition,
        key: format!("key-{text}"),
        headers: vec![p2_core::record::Header { name: "ce_id".to_owned(), value: text.as_bytes().to_vec() }],
        value: text.as_bytes().to_vec(),
        time_ms: 1_000,
    }
}

fn progress(partition: i32, offset: i64, metadata: &str) -> (Topic, i32, CommittedOffset) {
    (Topic::Inbox, partition, CommittedOffset { offset, metadata: metadata.to_owned() })
}

fn texts(records: &[StoredRecord]) -> Vec<String> {
    records.iter().map(|stored| String::from_utf8(stored.record.value.clone()).unwrap()).collect()
}

/// Takes `count` assignments: (partition, committed).
async fn assignments(member: &mut dyn Member, count: usize) -> Vec<(i32, Option<CommittedOffset>)> {
    let mut found = Vec::new();
    while found.len() < count {
        match member.next().await.unwrap() {
            MemberEvent::Assigned { partition, committed, .. } => found.push((partition, committed)),
            other => panic!("expected an assignment, got {other:?}"),
        }
    }
    found
}

async fn records(member: &mut dyn Member) -> (i32, Vec<StoredRecord>) {
    match member.next().await.unwrap() {
        MemberEvent::Records { partition, records, .. } => (partition, records),
        other => panic!("expected records, got {other:?}"),
    }
}

async fn quiet(member: &mut dyn Member) -> bool {
    // The future is polled once: what is there already is there at once.
    tokio::select! {
        biased;
        _ = member.next() => false,
        () = std::future::ready(()) => true,
    }
}

async fn log_appends_and_reads(log: &impl Log) {
    let written = vec![
        record(Topic::Inbox, 0, "a"),
        record(Topic::Inbox, 1, "b"),
        record(Topic::Inbox, 0, "c"),
        record(Topic::Artifacts, 0, "d"),
    ];
    let at = |topic, partition, offset| Position { topic, partition, offset };
    let positions = log.append(written.clone()).await.unwrap();
    let expected =
        [at(Topic::Inbox, 0, 0), at(Topic::Inbox, 1, 0), at(Topic::Inbox, 0, 1), at(Topic::Artifacts, 0, 0)];
    assert_eq!(positions, expected);
    assert_eq!(log.bounds(Topic::Inbox, 0).await.unwrap(), (0, 2));
    assert_eq!(log.bounds(Topic::Inbox, 2).await.unwrap(), (0, 0));
    let read = log.read(Topic::Inbox, 0, 0, 10).await.unwrap();
    assert_eq!(read.iter().map(|stored| &stored.record).collect::<Vec<_>>(), [&written[0], &written[2]]);
    assert_eq!(read[1].position(), at(Topic::Inbox, 0, 1));
    assert_eq!(texts(&log.read(Topic::Inbox, 0, 1, 10).await.unwrap()), ["c"]);
    assert_eq!(texts(&log.read(Topic::Inbox, 0, 0, 1).await.unwrap()), ["a"]);
    assert_eq!(log.read(Topic::Inbox, 0, 2, 10).await.unwrap(), []);
    let tombstone = NewRecord { value: Vec::new(), ..record(Topic::Registry, 0, "gone") };
    log.append(vec![tombstone.clone()]).await.unwrap();
    assert_eq!(log.read(Topic::Registry, 0, 0, 1).await.unwrap()[0].record, tombstone);
}

async fn log_refuses_what_is_not_there(log: &impl Log) {
    let count = log.partitions(Topic::Inbox);
    assert!(count >= 4, "the suite wants at least four partitions");
    for partition in [-1, count] {
        assert!(matches!(log.read(Topic::Inbox, partition, 0, 1).await, Err(LogError::NotFound(_))));
        assert!(matches!(log.bounds(Topic::Inbox, partition).await, Err(LogError::NotFound(_))));
        let both = vec![record(Topic::Inbox, 0, "fine"), record(Topic::Inbox, partition, "nowhere")];
        assert!(matches!(log.append(both).await, Err(LogError::NotFound(_))));
    }
    assert_eq!(log.bounds(Topic::Inbox, 0).await.unwrap(), (0, 0), "all or none");
}

async fn log_refuses_what_is_too_large(log: &impl Log) {
    let large = |size| NewRecord { value: vec![7; size], ..record(Topic::Inbox, 0, "large") };
    log.append(vec![large(RECORD_BYTES_MAX)]).await.unwrap();
    let refused = log.append(vec![record(Topic::Inbox, 1, "x"), large(RECORD_BYTES_MAX + 1)]).await;
    assert!(matches!(refused, Err(LogError::TooLarge(_))));
    assert_eq!(log.bounds(Topic::Inbox, 1).await.unwrap(), (0, 0), "all or none");
    assert_eq!(log.read(Topic::Inbox, 0, 0, 2).await.unwrap()[0].record.value.len(), RECORD_BYTES_MAX);
}

async fn log_keeps_a_thousand_records_in_order(log: &impl Log) {
    let batch: Vec<_> = (0..1_000).map(|n| record(Topic::Inbox, n % 4, &n.to_string())).collect();
    log.append(batch.clone()).await.unwrap();
    log.append(batch).await.unwrap();
    for partition in 0..4 {
        let mut found = Vec::new();
        loop {
            let more = log.read(Topic::Inbox, partition, found.len() as i64, 170).await.unwrap();
            if more.is_empty() {
                break;
            }
            assert_eq!(more[0].offset, found.len() as i64);
            found.extend(texts(&more));
        }
        let once = (0..1_000).filter(|n| n % 4 == partition).map(|n| n.to_string());
        assert_eq!(found, once.clone().chain(once).collect::<Vec<_>>());
    }
}

async fn log_commits_outputs_with_progress(log: &impl Log) {
    let count = log.partitions(Topic::Inbox) as usize;
    let mut member = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
    let all = assignments(member.as_mut(), count).await;
    assert!(all.iter().all(|(_, committed)| committed.is_none()), "nothing was committed yet");
    let outputs = vec![record(Topic::StateTransitions, 3, "s"), record(Topic::Effects, 3, "e")];
    let batch = Batch { outputs, progress: vec![progress(3, 1, "batch 1")] };
    let positions = member.committer().commit(batch).await.unwrap();
    let at = |topic| Position { topic, partition: 3, offset: 0 };
    assert_eq!(positions, [at(Topic::StateTransitions), at(Topic::Effects)]);
    assert_eq!(texts(&log.read(Topic::Effects, 3, 0, 9).await.unwrap()), ["e"]);
    drop(member);
    let mut again = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
    let all = assignments(again.as_mut(), count).await;
    let expected = CommittedOffset { offset: 1, metadata: "batch 1".to_owned() };
    assert!(all.contains(&(3, Some(expected))));
}

async fn log_refuses_a_commit_whole(log: &impl Log) {
    let count = log.partitions(Topic::Inbox);
    let mut member = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
    assignments(member.as_mut(), count as usize).await;
    let committer = member.committer();
    let outputs = vec![record(Topic::Effects, 0, "e")];
    let nowhere = vec![record(Topic::Effects, 0, "e"), record(Topic::Effects, count, "nowhere")];
    let too_long = "m".repeat(METADATA_BYTES_MAX + 1);
    for batch in [
        Batch { outputs: nowhere, progress: vec![progress(0, 5, "never")] },
        Batch { outputs: outputs.clone(), progress: vec![progress(0, 5, &too_long)] },
    ] {
        let refused = committer.commit(batch).await;
        assert!(matches!(refused, Err(CommitError::Aborted(_))), "got {refused:?}");
    }
    let foreign = Batch { outputs, progress: vec![progress(0, 5, "never"), progress(count, 5, "")] };
    assert!(matches!(committer.commit(foreign).await, Err(CommitError::Fenced(_))));
    assert_eq!(log.bounds(Topic::Effects, 0).await.unwrap(), (0, 0));
    drop(member);
    let mut again = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
    let all = assignments(again.as_mut(), count as usize).await;
    assert!(all.iter().all(|(_, committed)| committed.is_none()));
}

async fn log_gives_progress_back_on_rejoin(log: &impl Log) {
    let count = log.partitions(Topic::Inbox) as usize;
    let longest = "m".repeat(METADATA_BYTES_MAX);
    for round in 0..3 {
        let mut member = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
        let all = assignments(member.as_mut(), count).await;
        let before = (round > 0).then(|| CommittedOffset { offset: round - 1, metadata: longest.clone() });
        assert!(all.contains(&(1, before)));
        let batch = Batch { outputs: Vec::new(), progress: vec![progress(1, round, &longest)] };
        assert_eq!(member.committer().commit(batch).await.unwrap(), []);
    }
}

async fn log_shares_partitions_out(log: &impl Log) {
    let count = log.partitions(Topic::Inbox);
    let mut first = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
    assignments(first.as_mut(), count as usize).await;
    let mut second = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
    let given: BTreeSet<i32> = assignments(second.as_mut(), (count / 2) as usize)
        .await
        .into_iter()
        .map(|(partition, _)| partition)
        .collect();
    let mut lost = BTreeSet::new();
    while lost.len() < given.len() {
        match first.next().await.unwrap() {
            MemberEvent::Revoked { partition, .. } => lost.insert(partition),
            other => panic!("expected a revocation, got {other:?}"),
        };
    }
    assert_eq!(lost, given, "what one loses the other gets");
    drop(second);
    let back = assignments(first.as_mut(), given.len()).await;
    assert_eq!(back.into_iter().map(|(partition, _)| partition).collect::<BTreeSet<_>>(), given);
    assert!(quiet(first.as_mut()).await);
}

async fn log_fences_a_commit_for_a_lost_partition(log: &impl Log) {
    let count = log.partitions(Topic::Inbox) as usize;
    let mut first = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
    assignments(first.as_mut(), count).await;
    let mut second = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
    let given = assignments(second.as_mut(), count / 2).await[0].0;
    let batch = |text: &str| Batch {
        outputs: vec![record(Topic::Effects, 0, text)],
        progress: vec![progress(given, 7, text)],
    };
    let committer = first.committer();
    assert!(matches!(committer.commit(batch("zombie")).await, Err(CommitError::Fenced(_))));
    assert_eq!(log.bounds(Topic::Effects, 0).await.unwrap(), (0, 0), "nothing of it is visible");
    second.committer().commit(batch("owner")).await.unwrap();
    drop(second);
    // It is the first one's again, but it does not know yet: what it prepared before is still refused.
    let refused = committer.commit(batch("old tenure")).await;
    assert!(matches!(refused, Err(CommitError::Fenced(_))), "got {refused:?}");
    for _ in 0..count / 2 {
        assert!(matches!(first.next().await.unwrap(), MemberEvent::Revoked { .. }));
    }
    let back = assignments(first.as_mut(), count / 2).await;
    let expected = CommittedOffset { offset: 7, metadata: "owner".to_owned() };
    assert!(back.contains(&(given, Some(expected))));
    committer.commit(batch("new tenure")).await.unwrap();
    drop(first);
    assert!(matches!(committer.commit(Batch::default()).await, Err(CommitError::Fenced(_))), "it has left");
    assert_eq!(texts(&log.read(Topic::Effects, 0, 0, 9).await.unwrap()), ["owner", "new tenure"]);
}

async fn log_delivers_from_seek_until_pause(log: &impl Log) {
    let count = log.partitions(Topic::Inbox) as usize;
    let written = ["a", "b", "c"].map(|text| record(Topic::Inbox, 2, text));
    log.append(written.to_vec()).await.unwrap();
    let mut member = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
    assert!(matches!(member.seek(Topic::Effects, 0, 0).await, Err(LogError::NotFound(_))));
    assignments(member.as_mut(), count).await;
    assert!(quiet(member.as_mut()).await, "nothing is delivered before the first seek");
    member.seek(Topic::Inbox, 2, 1).await.unwrap();
    let (partition, found) = records(member.as_mut()).await;
    assert_eq!((partition, texts(&found)), (2, vec!["b".to_owned(), "c".to_owned()]));
    assert_eq!(found[0].offset, 1);
    assert!(quiet(member.as_mut()).await, "each record once");
    member.pause(Topic::Inbox, 2);
    log.append(vec![record(Topic::Inbox, 2, "d")]).await.unwrap();
    assert!(quiet(member.as_mut()).await, "paused");
    member.resume(Topic::Inbox, 2);
    assert_eq!(texts(&records(member.as_mut()).await.1), ["d"]);
    member.seek(Topic::Inbox, 2, 0).await.unwrap();
    assert_eq!(texts(&records(member.as_mut()).await.1), ["a", "b", "c", "d"]);
}

async fn log_wakes_a_waiting_member(log: impl Log + 'static) {
    let count = log.partitions(Topic::Inbox) as usize;
    let log = Arc::new(log);
    let mut member = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
    assignments(member.as_mut(), count).await;
    for partition in 0..count as i32 {
        member.seek(Topic::Inbox, partition, 0).await.unwrap();
    }
    let waiting = tokio::spawn(async move {
        let mut found = Vec::new();
        while found.len() < 50 {
            found.extend(texts(&records(member.as_mut()).await.1));
        }
        found
    });
    for n in 0..50 {
        tokio::task::yield_now().await;
        log.append(vec![record(Topic::Inbox, 0, &n.to_string())]).await.unwrap();
    }
    assert_eq!(waiting.await.unwrap(), (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
}

async fn log_keeps_groups_apart(log: &impl Log) {
    let count = log.partitions(Topic::Inbox) as usize;
    log.append(vec![record(Topic::Inbox, 0, "both")]).await.unwrap();
    for group in ["p2.one", "p2.two"] {
        let mut member = log.join(group, &[Topic::Inbox]).await.unwrap();
        let all = assignments(member.as_mut(), count).await;
        assert!(all.contains(&(0, None)), "the other group's progress is not this one's");
        member.seek(Topic::Inbox, 0, 0).await.unwrap();
        assert_eq!(texts(&records(member.as_mut()).await.1), ["both"]);
        let batch = Batch { outputs: Vec::new(), progress: vec![progress(0, 1, group)] };
        member.committer().commit(batch).await.unwrap();
    }
}

/// Runs every body for a store; `make` gives a fresh one each time.
///
/// # Panics
/// Where a promise is broken.
pub async fn store_conformance<S: StackStore>(make: impl AsyncFn() -> S) {
    store_loads_in_order_and_writes_once(&make().await).await;
    store_reads_tails_of_one_branch(&make().await).await;
    store_indexes_open_waits(&make().await).await;
    store_lists_in_pages(&make().await).await;
    store_keeps_any_names_apart(&make().await).await;
    store_wipes(&make().await).await;
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
    let waiting =
        Waiting { id: Id::of_text(id), kind: WaitKind::Tool, deadline_ms: None, correlation: "c".to_owned() };
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
