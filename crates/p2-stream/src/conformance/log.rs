//! The bodies for a log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use p2_core::record::{Position, RECORD_BYTES_MAX, Topic};

use super::follow::{
    finds_an_offset_by_time, followers_get_everything_from_where_they_asked, gives_the_newest,
};
use super::within;
use crate::groups::METADATA_BYTES_MAX;
use crate::ports::{
    Batch, CommitError, CommittedOffset, Log, LogError, Member, MemberEvent, NewRecord, StoredRecord,
};
use crate::runtime::{OffsetMark, Progress, WINDOW_OFFSETS_MAX};

/// What the suite must know of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTraits {
    /// How long a member must say nothing to count as quiet. Zero: what is there is there at once.
    pub silence: Duration,
    /// How long one body may take.
    pub limit: Duration,
    /// A member that is not polled loses partitions as soon as another one joins (a log whose coordinator waits
    /// for its members first says no: there it takes a session time-out, and a test of its own).
    pub loses_unpolled: bool,
}

impl Default for LogTraits {
    fn default() -> LogTraits {
        LogTraits { silence: Duration::ZERO, limit: Duration::from_secs(60), loses_unpolled: true }
    }
}

/// Runs every body for a log of this process; `make` gives a fresh one each time.
///
/// # Panics
/// Where a promise is broken.
pub async fn log_conformance<L: Log + 'static>(make: impl AsyncFn() -> L) {
    log_conformance_of(make, LogTraits::default()).await;
}

/// Runs every body for any log; `make` gives a fresh one each time.
///
/// # Panics
/// Where a promise is broken.
pub async fn log_conformance_of<L: Log + 'static>(make: impl AsyncFn() -> L, traits: LogTraits) {
    let limit = traits.limit;
    macro_rules! run {
        ($($body:ident),* $(,)?) => {
            $( let log = make().await; within(limit, stringify!($body), $body(&log, traits)).await; )*
        };
    }
    run!(
        appends_and_reads,
        reads_any_range,
        gives_the_newest,
        refuses_what_is_not_there,
        refuses_what_is_too_large,
        keeps_a_thousand_records_in_order,
        commits_outputs_with_progress,
        refuses_a_commit_whole,
        hides_what_was_not_committed,
        gives_progress_back_on_rejoin,
        keeps_a_full_window_of_progress,
        settles_an_unknown_outcome_by_its_batch_number,
        shares_partitions_out,
        refuses_a_commit_for_a_lost_partition,
        delivers_from_seek_until_pause,
        delivers_by_partition_in_order,
        keeps_groups_apart,
        finds_an_offset_by_time,
        followers_get_everything_from_where_they_asked,
    );
    if traits.loses_unpolled {
        run!(refuses_a_zombie_that_was_not_told);
    }
    let log = make().await;
    within(limit, "wakes_a_waiting_member", wakes_a_waiting_member(log)).await;
}

/// For logs with retention: `delete` removes the records of a partition of `inbox` below an offset, as retention
/// does. The log's start moves, and nobody who wanted what is gone gets something else instead.
///
/// # Panics
/// Where a promise is broken.
pub async fn log_start_conformance<L: Log>(log: L, delete: impl AsyncFn(&L, i32, i64), traits: LogTraits) {
    let body = async {
        let mut positions = Vec::new();
        for n in 0..6 {
            positions.extend(log.append(vec![inbox(1, &n.to_string())]).await.unwrap());
        }
        let kept = positions[4].offset;
        let mut member = log.join("p2.start", &[Topic::Inbox]).await.unwrap();
        own_all(&log, member.as_mut()).await;
        member.seek(Topic::Inbox, 1, positions[0].offset).await.unwrap();
        assert_eq!(texts(&records(member.as_mut(), 6).await), ["0", "1", "2", "3", "4", "5"]);
        delete(&log, 1, kept).await;
        let (start, end) = log.bounds(Topic::Inbox, 1).await.unwrap();
        assert_eq!(start, kept, "the start has moved");
        assert!(end > positions[5].offset, "the end has not");
        let below = log.read(Topic::Inbox, 1, positions[3].offset, 9).await;
        assert!(
            matches!(below, Err(LogError::NotFound(_))),
            "below the start is an error, not a gap: {below:?}"
        );
        assert_eq!(texts(&log.read(Topic::Inbox, 1, kept, 9).await.unwrap()), ["4", "5"]);
        member.seek(Topic::Inbox, 1, positions[0].offset).await.unwrap();
        let told = MemberEvent::Truncated { topic: Topic::Inbox, partition: 1, start: kept };
        assert_eq!(member.next().await.unwrap(), told, "told once, instead of later records");
        assert!(quiet(member.as_mut(), traits).await, "nothing more before the next seek");
        member.seek(Topic::Inbox, 1, kept).await.unwrap();
        assert_eq!(texts(&records(member.as_mut(), 2).await), ["4", "5"]);
        let next = log.append(vec![inbox(1, "next")]).await.unwrap();
        assert!(next[0].offset > positions[5].offset, "offsets go on where they were");
        assert_eq!(texts(&records(member.as_mut(), 1).await), ["next"]);
        assert_eq!(log.bounds(Topic::Inbox, 0).await.unwrap().0, 0, "other partitions keep theirs");
    };
    within(traits.limit, "log_start_conformance", body).await;
}

// ------------------------------------------------------------------------------------------- helpers

pub(super) fn record(topic: Topic, partition: i32, text: &str) -> NewRecord {
    NewRecord {
        topic,
        partition,
        key: format!("key-{text}"),
        headers: [("ce_id", text.as_bytes())].into_iter().collect(),
        value: text.as_bytes().to_vec(),
        time_ms: 1_000,
    }
}

pub(super) fn inbox(partition: i32, text: &str) -> NewRecord {
    record(Topic::Inbox, partition, text)
}

fn progress(partition: i32, offset: i64, metadata: &str) -> (Topic, i32, CommittedOffset) {
    (Topic::Inbox, partition, CommittedOffset { offset, metadata: metadata.to_owned() })
}

pub(super) fn texts(records: &[StoredRecord]) -> Vec<String> {
    records.iter().map(|stored| String::from_utf8(stored.record.value.clone()).unwrap()).collect()
}

/// Everything that can be read of a partition, in pages.
async fn all(log: &impl Log, topic: Topic, partition: i32, page: usize) -> Vec<StoredRecord> {
    let mut found: Vec<StoredRecord> = Vec::new();
    loop {
        let from = found.last().map_or(0, |last| last.offset + 1);
        let more = log.read(topic, partition, from, page).await.unwrap();
        if more.is_empty() {
            return found;
        }
        assert!(more.len() <= page, "at most as many as asked for");
        found.extend(more);
        assert!(found.is_sorted_by(|one, next| one.offset < next.offset), "ascending");
    }
}

/// What a member owns: partition → the group's progress as it was told.
type Owned = BTreeMap<i32, Option<CommittedOffset>>;

fn told(owned: &mut Owned, event: MemberEvent) {
    match event {
        MemberEvent::Assigned { topic: Topic::Inbox, partition, committed } => {
            owned.insert(partition, committed);
        }
        MemberEvent::Revoked { topic: Topic::Inbox, partition } => {
            owned.remove(&partition);
        }
        other => panic!("expected an assignment or revocation, got {other:?}"),
    }
}

/// Polls a member until all partitions are its own.
pub(super) async fn own_all(log: &impl Log, member: &mut dyn Member) -> Owned {
    let mut owned = Owned::new();
    while owned.len() < log.partitions(Topic::Inbox) as usize {
        told(&mut owned, member.next().await.unwrap());
    }
    owned
}

/// Polls two members side by side until each partition is owned by exactly one, and each has its half.
async fn share(log: &impl Log, first: (&mut dyn Member, &mut Owned), second: (&mut dyn Member, &mut Owned)) {
    let count = log.partitions(Topic::Inbox) as usize;
    let ((first, of_first), (second, of_second)) = (first, second);
    loop {
        let apart = of_first.keys().all(|partition| !of_second.contains_key(partition));
        let every = of_first.len() + of_second.len() == count;
        // Anything less even is a step on the way.
        if apart && every && of_first.len().abs_diff(of_second.len()) <= 1 {
            return;
        }
        tokio::select! {
            event = first.next() => told(of_first, event.unwrap()),
            event = second.next() => told(of_second, event.unwrap()),
        }
    }
}

/// Takes `count` records, in as many events as it takes.
async fn records(member: &mut dyn Member, count: usize) -> Vec<StoredRecord> {
    let mut found = Vec::new();
    while found.len() < count {
        match member.next().await.unwrap() {
            MemberEvent::Records { records, .. } => found.extend(records),
            other => panic!("expected records, got {other:?}"),
        }
    }
    found
}

/// Whether a member has nothing to say.
async fn quiet(member: &mut dyn Member, traits: LogTraits) -> bool {
    if traits.silence > Duration::ZERO {
        return tokio::time::timeout(traits.silence, member.next()).await.is_err();
    }
    // The future is polled once: what is there already is there at once.
    tokio::select! {
        biased;
        _ = member.next() => false,
        () = std::future::ready(()) => true,
    }
}

// -------------------------------------------------------------------------------- writing and reading

async fn appends_and_reads(log: &impl Log, _: LogTraits) {
    let written = vec![inbox(0, "a"), inbox(1, "b"), inbox(0, "c"), record(Topic::Artifacts, 0, "d")];
    let positions = log.append(written.clone()).await.unwrap();
    let places: Vec<_> = positions.iter().map(|at| (at.topic, at.partition)).collect();
    let expected = [(Topic::Inbox, 0), (Topic::Inbox, 1), (Topic::Inbox, 0), (Topic::Artifacts, 0)];
    assert_eq!(places, expected, "one position per record, in order");
    assert_eq!(positions[0].offset, 0, "the first offset of a fresh partition");
    assert!(positions[0].offset < positions[2].offset);
    let (start, end) = log.bounds(Topic::Inbox, 0).await.unwrap();
    assert_eq!(start, 0);
    assert!(end > positions[2].offset, "the high watermark is above every record");
    assert_eq!(log.bounds(Topic::Inbox, 2).await.unwrap(), (0, 0));
    let read = log.read(Topic::Inbox, 0, 0, 10).await.unwrap();
    assert_eq!(read.iter().map(|stored| &stored.record).collect::<Vec<_>>(), [&written[0], &written[2]]);
    let found: Vec<Position> = read.iter().map(StoredRecord::position).collect();
    assert_eq!(found, [positions[0], positions[2]], "records lie where their append said");
    assert_eq!(log.append(Vec::new()).await.unwrap(), []);
    let tombstone = NewRecord { value: Vec::new(), ..record(Topic::Registry, 0, "gone") };
    log.append(vec![tombstone.clone()]).await.unwrap();
    assert_eq!(log.read(Topic::Registry, 0, 0, 1).await.unwrap()[0].record, tombstone);
}

async fn reads_any_range(log: &impl Log, _: LogTraits) {
    let mut positions = Vec::new();
    for n in 0..40 {
        positions.extend(log.append(vec![inbox(3, &n.to_string())]).await.unwrap());
    }
    let (_, end) = log.bounds(Topic::Inbox, 3).await.unwrap();
    for (from, max, expected) in
        [(0, 1, 0..1), (7, 5, 7..12), (38, 9, 38..40), (39, 1, 39..40), (0, 40, 0..40)]
    {
        let read = log.read(Topic::Inbox, 3, positions[from].offset, max).await.unwrap();
        let expected: Vec<String> = expected.map(|n| n.to_string()).collect();
        assert_eq!(texts(&read), expected, "from the record {from}, at most {max}");
    }
    assert_eq!(log.read(Topic::Inbox, 3, positions[5].offset, 0).await.unwrap(), []);
    for beyond in [end, end + 1, i64::MAX] {
        assert_eq!(log.read(Topic::Inbox, 3, beyond, 9).await.unwrap(), [], "nothing at or behind the end");
    }
    assert_eq!(all(log, Topic::Inbox, 3, 7).await.len(), 40, "pages leave nothing out");
}

async fn refuses_what_is_not_there(log: &impl Log, _: LogTraits) {
    let count = log.partitions(Topic::Inbox);
    assert!(count >= 4, "the suite wants at least four partitions");
    for partition in [-1, count] {
        assert!(matches!(log.read(Topic::Inbox, partition, 0, 1).await, Err(LogError::NotFound(_))));
        assert!(matches!(log.bounds(Topic::Inbox, partition).await, Err(LogError::NotFound(_))));
        let both = vec![inbox(0, "fine"), inbox(partition, "nowhere")];
        assert!(matches!(log.append(both).await, Err(LogError::NotFound(_))));
    }
    assert_eq!(log.read(Topic::Inbox, 0, 0, 9).await.unwrap(), [], "all or none");
}

async fn refuses_what_is_too_large(log: &impl Log, _: LogTraits) {
    let large = |size| NewRecord { value: vec![7; size], ..inbox(0, "large") };
    log.append(vec![large(RECORD_BYTES_MAX)]).await.unwrap();
    let refused = log.append(vec![inbox(1, "x"), large(RECORD_BYTES_MAX + 1)]).await;
    assert!(matches!(refused, Err(LogError::TooLarge(_))));
    assert_eq!(log.read(Topic::Inbox, 1, 0, 9).await.unwrap(), [], "all or none");
    let read = all(log, Topic::Inbox, 0, 2).await;
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].record.value.len(), RECORD_BYTES_MAX);
}

async fn keeps_a_thousand_records_in_order(log: &impl Log, _: LogTraits) {
    let batch: Vec<_> = (0..1_000).map(|n| inbox(n % 4, &n.to_string())).collect();
    log.append(batch.clone()).await.unwrap();
    log.append(batch).await.unwrap();
    for partition in 0..4 {
        let found = texts(&all(log, Topic::Inbox, partition, 170).await);
        let once = (0..1_000).filter(|n| n % 4 == partition).map(|n| n.to_string());
        assert_eq!(found, once.clone().chain(once).collect::<Vec<_>>());
    }
}

// ---------------------------------------------------------------------------------------- committing

async fn commits_outputs_with_progress(log: &impl Log, _: LogTraits) {
    let mut member = log.join("p2.commits", &[Topic::Inbox]).await.unwrap();
    let owned = own_all(log, member.as_mut()).await;
    assert!(owned.values().all(Option::is_none), "nothing was committed yet");
    assert_eq!(member.committed(Topic::Inbox, 3).await.unwrap(), None);
    let outputs = vec![record(Topic::StateTransitions, 3, "s"), record(Topic::Effects, 3, "e")];
    let batch = Batch { outputs, progress: vec![progress(3, 1, "batch 1")] };
    let positions = member.committer().commit(batch).await.unwrap();
    let at = |topic| Position { topic, partition: 3, offset: 0 };
    assert_eq!(positions, [at(Topic::StateTransitions), at(Topic::Effects)]);
    assert_eq!(texts(&log.read(Topic::Effects, 3, 0, 9).await.unwrap()), ["e"]);
    let expected = Some(CommittedOffset { offset: 1, metadata: "batch 1".to_owned() });
    assert_eq!(member.committed(Topic::Inbox, 3).await.unwrap(), expected, "the owner can read it back");
    assert_eq!(member.committed(Topic::Inbox, 2).await.unwrap(), None);
    drop(member);
    let mut again = log.join("p2.commits", &[Topic::Inbox]).await.unwrap();
    assert_eq!(own_all(log, again.as_mut()).await.remove(&3), Some(expected));
}

async fn refuses_a_commit_whole(log: &impl Log, _: LogTraits) {
    let count = log.partitions(Topic::Inbox);
    let mut member = log.join("p2.refuses", &[Topic::Inbox]).await.unwrap();
    own_all(log, member.as_mut()).await;
    let committer = member.committer();
    let outputs = vec![record(Topic::Effects, 0, "e")];
    let nowhere = vec![record(Topic::Effects, 0, "e"), record(Topic::Effects, count, "nowhere")];
    let large = NewRecord { value: vec![7; RECORD_BYTES_MAX + 1], ..record(Topic::Effects, 0, "large") };
    let too_large = vec![record(Topic::Effects, 0, "e"), large];
    let too_long = "m".repeat(METADATA_BYTES_MAX + 1);
    for batch in [
        Batch { outputs: nowhere, progress: vec![progress(0, 5, "never")] },
        Batch { outputs: too_large, progress: vec![progress(0, 5, "never")] },
        Batch { outputs: outputs.clone(), progress: vec![progress(0, 5, &too_long)] },
    ] {
        let refused = committer.commit(batch).await;
        assert!(matches!(refused, Err(CommitError::Aborted(_) | CommitError::Unfit(_))), "got {refused:?}");
    }
    let foreign = Batch { outputs, progress: vec![progress(0, 5, "never"), progress(count, 5, "")] };
    assert!(matches!(committer.commit(foreign).await, Err(CommitError::Fenced(_))));
    assert_eq!(log.read(Topic::Effects, 0, 0, 9).await.unwrap(), []);
    assert_eq!(member.committed(Topic::Inbox, 0).await.unwrap(), None);
    drop(member);
    let mut again = log.join("p2.refuses", &[Topic::Inbox]).await.unwrap();
    assert!(own_all(log, again.as_mut()).await.values().all(Option::is_none));
}

/// Readers and members see committed records only, whatever was tried in between.
async fn hides_what_was_not_committed(log: &impl Log, traits: LogTraits) {
    let count = log.partitions(Topic::Inbox);
    let mut member = log.join("p2.hides", &[Topic::Inbox]).await.unwrap();
    own_all(log, member.as_mut()).await;
    member.seek(Topic::Inbox, 2, 0).await.unwrap();
    let committer = member.committer();
    let mut expected = Vec::new();
    for n in 0..5 {
        let (bad, good) = (format!("bad {n}"), format!("good {n}"));
        let outputs = vec![inbox(2, &bad), record(Topic::Effects, count, "nowhere")];
        let refused = committer.commit(Batch { outputs, progress: vec![progress(2, n, &bad)] }).await;
        assert!(matches!(refused, Err(CommitError::Aborted(_))), "got {refused:?}");
        let outputs = vec![inbox(2, &good), inbox(2, &good)];
        committer.commit(Batch { outputs, progress: vec![progress(2, n, &good)] }).await.unwrap();
        expected.extend([good.clone(), good]);
    }
    assert_eq!(texts(&all(log, Topic::Inbox, 2, 3).await), expected);
    assert_eq!(texts(&records(member.as_mut(), expected.len()).await), expected);
    assert!(quiet(member.as_mut(), traits).await);
}

async fn gives_progress_back_on_rejoin(log: &impl Log, _: LogTraits) {
    let longest = "m".repeat(METADATA_BYTES_MAX);
    for round in 0..3 {
        let mut member = log.join("p2.rejoins", &[Topic::Inbox]).await.unwrap();
        let mut owned = own_all(log, member.as_mut()).await;
        let before = (round > 0).then(|| CommittedOffset { offset: round - 1, metadata: longest.clone() });
        assert_eq!(owned.remove(&1), Some(before));
        let batch = Batch { outputs: Vec::new(), progress: vec![progress(1, round, &longest)] };
        assert_eq!(member.committer().commit(batch).await.unwrap(), []);
    }
}

/// The runtime's own progress, as large as it gets, comes back as it was.
async fn keeps_a_full_window_of_progress(log: &impl Log, _: LogTraits) {
    let mut member = log.join("p2.window", &[Topic::Inbox]).await.unwrap();
    own_all(log, member.as_mut()).await;
    let mut full = Progress::at(7);
    (full.batch, full.nonce) = (u64::MAX, u64::MAX);
    for ahead in 1..WINDOW_OFFSETS_MAX {
        let mark = if ahead % 3 == 0 { OffsetMark::Claimed } else { OffsetMark::Done };
        full.mark(full.low + ahead, mark);
    }
    let batch = Batch { outputs: Vec::new(), progress: vec![(Topic::Inbox, 2, full.encode())] };
    member.committer().commit(batch).await.unwrap();
    let back = member.committed(Topic::Inbox, 2).await.unwrap().unwrap();
    assert_eq!(Progress::decode(&back).unwrap(), full);
}

/// A caller that loses sight of its commit reads the committed batch number back: from then on it does not
/// change, and it says whether the outputs are there.
async fn settles_an_unknown_outcome_by_its_batch_number(log: &impl Log, _: LogTraits) {
    let mut member = log.join("p2.unknown", &[Topic::Inbox]).await.unwrap();
    own_all(log, member.as_mut()).await;
    let committer = member.committer();
    let mut expected = Vec::new();
    for batch in 1..=20 {
        let mut progress = Progress::at(0);
        (progress.batch, progress.nonce) = (batch, 7);
        let text = batch.to_string();
        let outputs = vec![record(Topic::Effects, 1, &text), record(Topic::Effects, 2, &text)];
        let batch_of = Batch { outputs, progress: vec![(Topic::Inbox, 1, progress.encode())] };
        tokio::select! {
            biased;
            // Dropped on its way, sooner or later.
            _ = committer.commit(batch_of) => {}
            () = yields(batch) => {}
        }
        let settled = member.committed(Topic::Inbox, 1).await.unwrap();
        let settled = settled.map_or(0, |settled| Progress::decode(&settled).unwrap().batch);
        if settled == batch {
            expected.push(text);
        }
        for partition in [1, 2] {
            let found = texts(&all(log, Topic::Effects, partition, 9).await);
            assert_eq!(found, expected, "batch {batch}, settled as {settled}");
        }
    }
}

async fn yields(times: u64) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

// ------------------------------------------------------------------------------------------- members

async fn shares_partitions_out(log: &impl Log, traits: LogTraits) {
    let mut first = log.join("p2.shares", &[Topic::Inbox]).await.unwrap();
    let mut of_first = own_all(log, first.as_mut()).await;
    let mut second = log.join("p2.shares", &[Topic::Inbox]).await.unwrap();
    let mut of_second = Owned::new();
    share(log, (first.as_mut(), &mut of_first), (second.as_mut(), &mut of_second)).await;
    for (member, owned) in [(&first, &of_first), (&second, &of_second)] {
        for partition in owned.keys() {
            let batch = Batch { outputs: Vec::new(), progress: vec![progress(*partition, 1, "own")] };
            member.committer().commit(batch).await.unwrap();
        }
    }
    drop(second);
    while of_first.len() < log.partitions(Topic::Inbox) as usize {
        told(&mut of_first, first.next().await.unwrap());
    }
    let own = Some(CommittedOffset { offset: 1, metadata: "own".to_owned() });
    for partition in of_second.keys() {
        assert_eq!(of_first.get(partition), Some(&own), "what the other one committed came along");
    }
    assert!(quiet(first.as_mut(), traits).await);
}

async fn refuses_a_commit_for_a_lost_partition(log: &impl Log, _: LogTraits) {
    let mut first = log.join("p2.lost", &[Topic::Inbox]).await.unwrap();
    let mut of_first = own_all(log, first.as_mut()).await;
    let mut second = log.join("p2.lost", &[Topic::Inbox]).await.unwrap();
    let mut of_second = Owned::new();
    share(log, (first.as_mut(), &mut of_first), (second.as_mut(), &mut of_second)).await;
    let given = *of_second.keys().next().unwrap();
    let kept = *of_first.keys().next().unwrap();
    let batch = |partition: i32, text: &str| Batch {
        outputs: vec![record(Topic::Effects, 0, text)],
        progress: vec![progress(kept, 7, text), progress(partition, 7, text)],
    };
    let late = first.committer().commit(batch(given, "late")).await;
    assert!(matches!(late, Err(CommitError::Fenced(_))), "got {late:?}");
    assert_eq!(log.read(Topic::Effects, 0, 0, 9).await.unwrap(), [], "nothing of it is visible");
    assert_eq!(first.committed(Topic::Inbox, kept).await.unwrap(), None, "nor of its other progress");
    let own =
        Batch { outputs: vec![record(Topic::Effects, 0, "own")], progress: vec![progress(kept, 7, "own")] };
    first.committer().commit(own).await.unwrap();
    let committer = first.committer();
    drop(first);
    let left = committer.commit(batch(kept, "left")).await;
    assert!(matches!(left, Err(CommitError::Fenced(_))), "got {left:?}");
    assert_eq!(texts(&all(log, Topic::Effects, 0, 9).await), ["own"]);
}

async fn refuses_a_zombie_that_was_not_told(log: &impl Log, _: LogTraits) {
    let count = log.partitions(Topic::Inbox) as usize;
    let mut first = log.join("p2.zombie", &[Topic::Inbox]).await.unwrap();
    own_all(log, first.as_mut()).await;
    let mut second = log.join("p2.zombie", &[Topic::Inbox]).await.unwrap();
    let mut of_second = Owned::new();
    while of_second.len() < count / 2 {
        told(&mut of_second, second.next().await.unwrap());
    }
    let given = *of_second.keys().next().unwrap();
    let batch = |text: &str| Batch {
        outputs: vec![record(Topic::Effects, 0, text)],
        progress: vec![progress(given, 7, text)],
    };
    let committer = first.committer();
    let zombie = committer.commit(batch("zombie")).await;
    assert!(matches!(zombie, Err(CommitError::Fenced(_))), "got {zombie:?}");
    assert_eq!(log.read(Topic::Effects, 0, 0, 9).await.unwrap(), [], "nothing of it is visible");
    second.committer().commit(batch("owner")).await.unwrap();
    drop(second);
    // It is the first one's again, but it does not know yet: what it prepared before is still refused.
    let refused = committer.commit(batch("old tenure")).await;
    assert!(matches!(refused, Err(CommitError::Fenced(_))), "got {refused:?}");
    let mut back = Owned::new();
    while back.len() < count / 2 {
        told(&mut back, first.next().await.unwrap());
    }
    let expected = CommittedOffset { offset: 7, metadata: "owner".to_owned() };
    assert_eq!(back.get(&given), Some(&Some(expected)));
    committer.commit(batch("new tenure")).await.unwrap();
    assert_eq!(texts(&all(log, Topic::Effects, 0, 9).await), ["owner", "new tenure"]);
}

async fn delivers_from_seek_until_pause(log: &impl Log, traits: LogTraits) {
    let positions = log.append(["a", "b", "c"].map(|text| inbox(2, text)).to_vec()).await.unwrap();
    let mut member = log.join("p2.seeks", &[Topic::Inbox]).await.unwrap();
    assert!(matches!(member.seek(Topic::Effects, 0, 0).await, Err(LogError::NotFound(_))));
    own_all(log, member.as_mut()).await;
    assert!(quiet(member.as_mut(), traits).await, "nothing is delivered before the first seek");
    member.seek(Topic::Inbox, 2, positions[1].offset).await.unwrap();
    let found = records(member.as_mut(), 2).await;
    assert_eq!(texts(&found), ["b", "c"]);
    assert_eq!(found.iter().map(StoredRecord::position).collect::<Vec<_>>(), positions[1..]);
    assert!(quiet(member.as_mut(), traits).await, "each record once");
    member.pause(Topic::Inbox, 2);
    log.append(vec![inbox(2, "d")]).await.unwrap();
    assert!(quiet(member.as_mut(), traits).await, "paused");
    member.resume(Topic::Inbox, 2);
    assert_eq!(texts(&records(member.as_mut(), 1).await), ["d"]);
    member.seek(Topic::Inbox, 2, 0).await.unwrap();
    assert_eq!(texts(&records(member.as_mut(), 4).await), ["a", "b", "c", "d"]);
}

async fn delivers_by_partition_in_order(log: &impl Log, traits: LogTraits) {
    let mut member = log.join("p2.orders", &[Topic::Inbox]).await.unwrap();
    own_all(log, member.as_mut()).await;
    let partitions: BTreeSet<i32> = [0, 1, 3].into();
    for partition in &partitions {
        member.seek(Topic::Inbox, *partition, 0).await.unwrap();
    }
    for round in 0..30 {
        let records = partitions.iter().map(|partition| inbox(*partition, &round.to_string()));
        log.append(records.collect()).await.unwrap();
    }
    let mut found: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for stored in records(member.as_mut(), 90).await {
        found.entry(stored.record.partition).or_default().extend(texts(&[stored]));
    }
    let expected: Vec<String> = (0..30).map(|round| round.to_string()).collect();
    assert_eq!(found.keys().copied().collect::<BTreeSet<_>>(), partitions);
    assert!(found.values().all(|texts| *texts == expected), "{found:?}");
    assert!(quiet(member.as_mut(), traits).await);
}

async fn keeps_groups_apart(log: &impl Log, _: LogTraits) {
    log.append(vec![inbox(0, "both")]).await.unwrap();
    for group in ["p2.one", "p2.two"] {
        let mut member = log.join(group, &[Topic::Inbox]).await.unwrap();
        let owned = own_all(log, member.as_mut()).await;
        assert_eq!(owned.get(&0), Some(&None), "the other group's progress is not this one's");
        member.seek(Topic::Inbox, 0, 0).await.unwrap();
        assert_eq!(texts(&records(member.as_mut(), 1).await), ["both"]);
        let batch = Batch { outputs: Vec::new(), progress: vec![progress(0, 1, group)] };
        member.committer().commit(batch).await.unwrap();
    }
}

async fn wakes_a_waiting_member(log: impl Log + 'static) {
    let log = Arc::new(log);
    let mut member = log.join("p2.wakes", &[Topic::Inbox]).await.unwrap();
    own_all(log.as_ref(), member.as_mut()).await;
    for partition in 0..log.partitions(Topic::Inbox) {
        member.seek(Topic::Inbox, partition, 0).await.unwrap();
    }
    let waiting = tokio::spawn(async move { texts(&records(member.as_mut(), 50).await) });
    for n in 0..50 {
        tokio::task::yield_now().await;
        log.append(vec![inbox(0, &n.to_string())]).await.unwrap();
    }
    assert_eq!(waiting.await.unwrap(), (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
}
