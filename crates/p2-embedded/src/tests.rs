//! Faults of the disk, injected below the log: what was acknowledged is there afterwards, and nothing is
//! acknowledged that may not be.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use p2_core::record::{Position, Topic};
use p2_stream::ports::{Batch, CommitError, CommittedOffset, Log, LogError, MemberEvent, NewRecord};

use super::*;
use crate::disk::{Fault, Faults, Operation};

const NOT_FOUND: i32 = 2;
const NO_SPACE: i32 = 28;
const IO_ERROR: i32 = 5;

fn error(code: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(code)
}

/// Lets an operation on a file whose name ends so fail, the `after`th time it is tried, and for so many times.
#[derive(Debug, Default)]
struct Plan {
    strikes: Mutex<Option<Strike>>,
    /// Every operation, in order.
    seen: Mutex<Vec<(Operation, PathBuf)>>,
}

#[derive(Debug)]
struct Strike {
    operation: Operation,
    ends_with: &'static str,
    /// So many get through before.
    skip: u32,
    times: u32,
    /// Bytes of a write that get through.
    short: Option<usize>,
    code: i32,
}

impl Plan {
    fn strike(&self, operation: Operation, ends_with: &'static str, code: i32) {
        let strike = Strike { operation, ends_with, skip: 0, times: u32::MAX, short: None, code };
        *self.strikes.lock().unwrap() = Some(strike);
    }

    fn short(&self, bytes: usize) {
        self.strike(Operation::Write, ".log", NO_SPACE);
        self.strikes.lock().unwrap().as_mut().unwrap().short = Some(bytes);
    }

    fn once(&self) {
        self.strikes.lock().unwrap().as_mut().unwrap().times = 1;
    }

    fn skip(&self, times: u32) {
        self.strikes.lock().unwrap().as_mut().unwrap().skip = times;
    }

    fn mend(&self) {
        *self.strikes.lock().unwrap() = None;
    }

    fn count(&self, operation: Operation) -> usize {
        self.seen.lock().unwrap().iter().filter(|(seen, _)| *seen == operation).count()
    }
}

impl Faults for Plan {
    fn strike(&self, operation: Operation, path: &Path) -> Option<Fault> {
        self.seen.lock().unwrap().push((operation, path.to_owned()));
        let mut strikes = self.strikes.lock().unwrap();
        let strike = strikes.as_mut().filter(|strike| {
            strike.operation == operation
                && path.to_str().is_some_and(|path| path.ends_with(strike.ends_with))
                && strike.times > 0
        })?;
        if strike.skip > 0 {
            strike.skip -= 1;
            return None;
        }
        strike.times -= 1;
        Some(match strike.short {
            Some(bytes) => Fault::Short(bytes, error(strike.code)),
            None => Fault::Error(error(strike.code)),
        })
    }
}

fn small(segment_bytes: u64) -> Options {
    // Without retention there is no clock beside the writer: its requests come one after the other.
    Options { segment_bytes, retention: BTreeMap::new(), ..Options::with_partitions(4) }
}

/// An open directory whose disk fails as planned.
fn open(dir: &Path, options: &Options) -> (Embedded, Arc<Plan>) {
    let plan = Arc::new(Plan::default());
    (Embedded::open_on(dir, options, &Disk::with(plan.clone())).unwrap(), plan)
}

fn inbox(text: &str) -> NewRecord {
    NewRecord {
        topic: Topic::Inbox,
        partition: 0,
        key: "key".to_owned(),
        headers: p2_stream::ports::Headers::default(),
        value: text.as_bytes().to_vec(),
        time_ms: 1,
    }
}

async fn append(embedded: &Embedded, text: &str) -> Result<Vec<Position>, LogError> {
    embedded.log().append(vec![inbox(text)]).await
}

async fn texts(embedded: &Embedded) -> Vec<String> {
    let (mut found, mut next) = (Vec::new(), embedded.log().bounds(Topic::Inbox, 0).await.unwrap().0);
    loop {
        let more = embedded.log().read(Topic::Inbox, 0, next, 3).await.unwrap();
        let Some(last) = more.last() else { return found };
        next = last.offset + 1;
        found.extend(more.into_iter().map(|stored| String::from_utf8(stored.record.value).unwrap()));
    }
}

fn message(failed: Result<Vec<Position>, LogError>) -> String {
    failed.unwrap_err().to_string()
}

#[tokio::test]
async fn a_full_disk_refuses_a_commit_whole_and_the_log_goes_on_when_there_is_space() {
    let dir = fast();
    let (embedded, plan) = open(dir.path(), &small(1 << 20));
    append(&embedded, "before").await.unwrap();
    for short in [0, 1, 27, 28, 60] {
        plan.short(short);
        let why = message(append(&embedded, "refused").await);
        assert!(why.contains("00000001-0.log: No space left on device"), "{why}");
        assert!(why.contains("nothing of it was written"), "{why}");
        plan.mend();
        append(&embedded, &format!("after {short}")).await.unwrap();
    }
    let expected = ["before", "after 0", "after 1", "after 27", "after 28", "after 60"];
    assert_eq!(texts(&embedded).await, expected);
    drop(embedded);
    let again = Embedded::open(dir.path(), &small(1 << 20)).unwrap();
    assert_eq!(again.report().dropped, None);
    assert_eq!(texts(&again).await, expected);
}

#[tokio::test]
async fn a_full_disk_whose_half_written_commit_cannot_be_cut_off_stops_the_log_and_a_restart_mends_it() {
    let dir = fast();
    #[derive(Debug)]
    struct Full;
    impl Faults for Full {
        fn strike(&self, operation: Operation, path: &Path) -> Option<Fault> {
            let log = path.to_str().unwrap().ends_with("00000001-0.log");
            match operation {
                Operation::Write if log => Some(Fault::Short(40, error(NO_SPACE))),
                Operation::Truncate => Some(Fault::Error(error(IO_ERROR))),
                _ => None,
            }
        }
    }
    drop(Embedded::open(dir.path(), &small(1 << 20)).unwrap());
    let embedded = Embedded::open_on(dir.path(), &small(1 << 20), &Disk::with(Arc::new(Full))).unwrap();
    let why = message(append(&embedded, "lost").await);
    assert!(why.contains("the log has stopped"), "{why}");
    assert_eq!(message(append(&embedded, "later").await), why, "everybody is told the same");
    drop(embedded);
    let again = Embedded::open(dir.path(), &small(1 << 20)).unwrap();
    assert_eq!(again.report().dropped.map(|tail| tail.bytes), Some(40));
    append(&again, "goes on").await.unwrap();
    assert_eq!(texts(&again).await, ["goes on"]);
}

#[tokio::test]
async fn a_write_error_refuses_its_commit_and_shows_nothing_of_it() {
    let dir = fast();
    let (embedded, plan) = open(dir.path(), &small(1 << 20));
    plan.strike(Operation::Write, ".log", IO_ERROR);
    let log = embedded.log();
    let mut member = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
    for _ in 0..4 {
        assert!(matches!(member.next().await.unwrap(), MemberEvent::Assigned { .. }));
    }
    let progress = vec![(Topic::Inbox, 0, CommittedOffset { offset: 1, metadata: String::new() })];
    let batch = Batch { outputs: vec![inbox("refused")], progress };
    let refused = member.committer().commit(batch.clone()).await;
    assert!(matches!(&refused, Err(CommitError::Aborted(why)) if why.contains("error 5")), "{refused:?}");
    assert_eq!(member.committed(Topic::Inbox, 0).await.unwrap(), None);
    assert_eq!(texts(&embedded).await, [""; 0]);
    plan.mend();
    member.committer().commit(batch).await.unwrap();
    assert_eq!(texts(&embedded).await, ["refused"]);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_shown_or_synced_any_more() {
    let dir = fast();
    let (embedded, plan) = open(dir.path(), &small(1 << 20));
    append(&embedded, "safe").await.unwrap();
    let log = embedded.log();
    let mut member = log.join("p2.one", &[Topic::Inbox]).await.unwrap();
    for _ in 0..4 {
        assert!(matches!(member.next().await.unwrap(), MemberEvent::Assigned { .. }));
    }
    plan.strike(Operation::Sync, ".log", IO_ERROR);
    // Only the first sync fails: a second one would succeed without having written anything.
    plan.once();
    let batch = Batch { outputs: vec![inbox("in doubt")], progress: Vec::new() };
    let doubt = member.committer().commit(batch.clone()).await;
    let Err(CommitError::Unknown(why)) = doubt else { panic!("{doubt:?}") };
    assert!(why.contains("the log has stopped") && why.contains("Input/output error"), "{why}");
    assert!(why.contains("nothing that was acknowledged is lost") && why.contains("start again"), "{why}");
    let syncs = plan.count(Operation::Sync);
    assert!(message(append(&embedded, "later").await).contains(&why), "everybody is told the same");
    assert!(matches!(
        member.committer().commit(batch).await,
        Err(CommitError::Fenced(_) | CommitError::Unknown(_))
    ));
    assert!(matches!(member.committed(Topic::Inbox, 0).await, Err(LogError::Unavailable(_))));
    assert!(matches!(log.join("p2.two", &[Topic::Inbox]).await, Err(LogError::Unavailable(_))));
    assert_eq!(texts(&embedded).await, ["safe"], "what is durable can be read still");
    drop((member, log, embedded));
    assert_eq!(plan.count(Operation::Sync), syncs, "no sync was tried again");
    // What the failed sync left in memory is written once more before it is shown.
    let (again, plan) = open(dir.path(), &small(1 << 20));
    assert!(plan.count(Operation::Write) > 0);
    assert_eq!(texts(&again).await, ["safe", "in doubt"]);
    append(&again, "goes on").await.unwrap();
}

#[tokio::test]
async fn a_failed_sync_of_an_interval_says_what_may_be_lost() {
    let dir = fast();
    let options = Options { durability: Durability::Interval { ms: 1 }, ..small(1 << 20) };
    let (embedded, plan) = open(dir.path(), &options);
    plan.strike(Operation::Sync, ".log", IO_ERROR);
    // The first is acknowledged before it is synced; soon nothing is any more.
    append(&embedded, "first").await.unwrap();
    let mut why = String::new();
    for _ in 0..100_000 {
        if let Err(error) = append(&embedded, "more").await {
            why = error.to_string();
            break;
        }
    }
    assert!(why.contains("what was acknowledged in the 1 ms before may be lost"), "{why}");
}

#[tokio::test]
async fn a_rotation_that_finds_no_space_is_put_off_and_loses_nothing() {
    let dir = fast();
    let options = small(1);
    let (embedded, plan) = open(dir.path(), &options);
    let member = embedded.log().join("p2.one", &[]).await.unwrap();
    for n in 0..6 {
        // The frame gets through, the footer behind it does not.
        plan.short(9);
        plan.skip(1);
        append(&embedded, &n.to_string()).await.unwrap();
        // Answered once the writer has done what follows the acknowledgement.
        member.committed(Topic::Inbox, 0).await.unwrap();
    }
    assert_eq!(std::fs::read_dir(dir.path().join("log")).unwrap().count(), 1, "no segment was sealed");
    drop(member);
    assert_eq!(texts(&embedded).await, ["0", "1", "2", "3", "4", "5"]);
    drop(embedded);
    let again = Embedded::open(dir.path(), &options).unwrap();
    assert_eq!(again.report().dropped, None, "nothing of a footer is left behind the frames");
    assert_eq!(texts(&again).await, ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(verified(again, dir.path()).records, 6);
}

fn verified(embedded: Embedded, dir: &Path) -> Verified {
    drop(embedded);
    verify(dir).unwrap()
}

#[tokio::test]
async fn a_rotation_that_fails_halfway_stops_the_log_and_a_restart_has_everything() {
    for (operation, name) in [
        (Operation::Create, "00000002-0.log"),
        (Operation::Write, "00000002-0.log"),
        (Operation::Sync, "00000002-0.log"),
        (Operation::SyncDirectory, "log"),
    ] {
        let dir = fast();
        let (embedded, plan) = open(dir.path(), &small(1));
        plan.strike(operation, name, NO_SPACE);
        append(&embedded, "acknowledged").await.unwrap();
        let why = message(append(&embedded, "not any more").await);
        assert!(why.contains("the log has stopped"), "{operation:?}: {why}");
        drop(embedded);
        let again = Embedded::open(dir.path(), &small(1)).unwrap();
        assert_eq!(texts(&again).await, ["acknowledged"], "{operation:?}");
        append(&again, "goes on").await.unwrap();
        assert_eq!(verified(again, dir.path()).records, 2, "{operation:?}");
    }
}

#[test]
fn a_new_directory_that_cannot_be_made_durable_is_not_opened_and_the_next_try_makes_it() {
    for (operation, name) in [
        (Operation::Create, "format.new"),
        (Operation::Write, "format.new"),
        (Operation::Sync, "format.new"),
        (Operation::Rename, "format.new"),
        (Operation::SyncDirectory, ""),
        (Operation::Create, "00000001-0.log"),
        (Operation::Write, "00000001-0.log"),
        (Operation::Sync, "00000001-0.log"),
    ] {
        let dir = fast();
        let plan = Arc::new(Plan::default());
        plan.strike(operation, name, IO_ERROR);
        let refused = Embedded::open_on(dir.path(), &Options::default(), &Disk::with(plan));
        assert!(
            matches!(refused, Err(OpenError::Io { .. } | OpenError::Journal(_))),
            "{operation:?} of {name}"
        );
        Embedded::open(dir.path(), &Options::default()).unwrap();
    }
}

#[tokio::test]
async fn a_history_of_many_segments_reads_the_same_from_any_offset_and_after_opening_again() {
    let dir = fast();
    let options = small(400);
    let embedded = Embedded::open(dir.path(), &options).unwrap();
    let expected: Vec<String> = (0..200).map(|n| format!("text {n}")).collect();
    for text in &expected {
        append(&embedded, text).await.unwrap();
    }
    let check = async |embedded: &Embedded| {
        assert_eq!(texts(embedded).await, expected);
        for (from, text) in (0..).zip(&expected) {
            let read = embedded.log().read(Topic::Inbox, 0, from, 1).await.unwrap();
            assert_eq!((read[0].offset, &read[0].record.value), (from, &text.as_bytes().to_vec()));
        }
    };
    check(&embedded).await;
    assert!(std::fs::read_dir(dir.path().join("log")).unwrap().count() > 40);
    drop(embedded);
    let again = Embedded::open(dir.path(), &options).unwrap();
    assert_eq!(again.report().records, 200);
    check(&again).await;
    assert_eq!(verified(again, dir.path()).records, 200);
}

#[tokio::test]
async fn a_segment_that_is_replaced_between_looking_it_up_and_opening_it_is_looked_up_again() {
    let dir = fast();
    let (embedded, plan) = open(dir.path(), &small(1));
    append(&embedded, "first").await.unwrap();
    append(&embedded, "second").await.unwrap();
    plan.strike(Operation::Open, "00000001-0.log", NOT_FOUND);
    plan.once();
    assert_eq!(texts(&embedded).await, ["first", "second"]);
    plan.strike(Operation::Open, "00000001-0.log", NOT_FOUND);
    let gone = embedded.log().read(Topic::Inbox, 0, 0, 1).await;
    assert!(matches!(gone, Err(LogError::Unavailable(_))), "one that stays away is an error: {gone:?}");
}

#[tokio::test]
async fn verify_finds_any_damage_in_a_sealed_segment_that_opening_does_not_read() {
    let dir = fast();
    let embedded = Embedded::open(dir.path(), &small(1)).unwrap();
    append(&embedded, "first").await.unwrap();
    append(&embedded, "second").await.unwrap();
    drop(embedded);
    let path = dir.path().join("log/00000001-0.log");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        assert!(verify(dir.path()).is_err(), "byte {at}");
        assert_eq!(std::fs::read(&path).unwrap(), bad);
    }
    // A record that is damaged is an error where it is read, not other data; the rest is there.
    let mut bad = whole.clone();
    let at = bad.windows(5).position(|window| window == b"first").unwrap();
    bad[at] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let embedded = Embedded::open(dir.path(), &small(1)).unwrap();
    assert!(matches!(embedded.log().read(Topic::Inbox, 0, 0, 1).await, Err(LogError::Corrupt(_))));
    assert_eq!(embedded.log().read(Topic::Inbox, 0, 1, 1).await.unwrap()[0].record.value, b"second");
    drop(embedded);
    std::fs::write(&path, &whole).unwrap();
    let found = verify(dir.path()).unwrap();
    assert_eq!((found.segments, found.records, found.torn), (3, 2, None));
}

/// A directory for tests that sync thousands of times: in memory, where the system has such a place.
pub(crate) fn fast() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The batches that opening a log finds, in order.
fn batches(log: &Path, salt: u64) -> (Vec<codec::FoundBatch>, Option<DroppedTail>) {
    let mut found = Vec::new();
    let opened = Journal::open(&Disk::default(), log, salt, 1_000, |part| {
        if let Found::Frame(frame) = part {
            found.extend(codec::decode_payload(frame.payload)?);
        }
        Ok(())
    });
    let (_, dropped) = opened.unwrap();
    (found, dropped)
}

#[tokio::test]
async fn a_log_cut_at_every_byte_of_its_last_64_kib_opens_to_a_prefix_of_the_acknowledged_batches() {
    let dir = fast();
    let embedded = Embedded::open(dir.path(), &Options::with_partitions(4)).unwrap();
    let salt = format::read(&dir.path().join("format"), None).unwrap().unwrap().salt();
    let log = embedded.log();
    let mut acknowledged = 0;
    for round in 0..42 {
        let batch = |text: &str| log.append(vec![inbox(&format!("{round} {text} {}", "x".repeat(600)))]);
        // Three callers at a time, so that frames have one batch or several.
        let (first, second, third) = tokio::join!(batch("a"), batch("b"), batch("c"));
        for positions in [first, second, third] {
            assert_eq!(positions.unwrap().len(), 1);
            acknowledged += 1;
        }
    }
    drop((log, embedded));
    let path = dir.path().join("log/00000001-0.log");
    let whole = std::fs::read(&path).unwrap();
    assert!(whole.len() > 64 * 1024, "{} bytes", whole.len());
    let all = batches(&dir.path().join("log"), salt).0;
    assert_eq!(all.len(), acknowledged);
    let (mut fewest, mut torn) = (all.len(), 0);
    for length in whole.len() - 64 * 1024..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let (found, dropped) = batches(&dir.path().join("log"), salt);
        assert_eq!(found, all[..found.len()], "cut to {length}");
        // Whole batches, and as many as there are.
        let kept = std::fs::metadata(&path).unwrap().len();
        assert_eq!(dropped.map_or(0, |tail| tail.bytes), length as u64 - kept, "cut to {length}");
        fewest = fewest.min(found.len());
        torn += u32::from(dropped.is_some());
        if length % 4_096 == 0 {
            // Some of them through the front door too, with a new commit behind.
            let again = Embedded::open(dir.path(), &Options::with_partitions(4)).unwrap();
            assert_eq!(again.report().records, found.len() as u64);
            append(&again, "goes on").await.unwrap();
            assert_eq!(texts(&again).await.len(), found.len() + 1);
        }
    }
    assert!(fewest < 40, "the cuts reach back over most batches, but {fewest} are always there");
    assert!(torn > 65_000, "{torn}");
}

#[tokio::test]
async fn the_views_belong_to_one_log() {
    let dir = fast();
    let open = async |id: &str| EmbeddedStore::open(&dir.path().join("views"), id);
    p2_stream::conformance::store_identity_conformance(open).await;
}
