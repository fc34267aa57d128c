use std::path::PathBuf;

use p2_core::record::Position;
use p2_stream::conformance::{LogTraits, log_start_conformance};
use p2_stream::ports::{Batch, CommittedOffset, Log, Member, MemberEvent, NewRecord};

use super::*;
use crate::disk::{Fault, Faults, Operation};
use crate::tests::fast;
use crate::{Embedded, EmbeddedLog, Options, verify};

const WEEK_MS: i64 = 7 * DAY_MS;

/// Every frame is a segment of its own.
fn options() -> Options {
    Options { segment_bytes: 1, ..Options::with_partitions(4) }
}

fn later(days: i64) -> i64 {
    p2_stream::shell::now_ms() + days * DAY_MS
}

fn record(topic: Topic, partition: i32, text: &str) -> NewRecord {
    NewRecord {
        topic,
        partition,
        key: "key".to_owned(),
        headers: p2_stream::ports::Headers::default(),
        value: text.as_bytes().to_vec(),
        time_ms: 1,
    }
}

async fn append(log: &EmbeddedLog, topic: Topic, partition: i32, text: &str) -> Position {
    log.append(vec![record(topic, partition, text)]).await.unwrap()[0]
}

/// Commits that a group has processed a partition up to an offset.
async fn processed(log: &EmbeddedLog, group: &str, topic: Topic, partition: i32, offset: i64) {
    let mut member: Box<dyn Member> = log.join(group, &[topic]).await.unwrap();
    for _ in 0..log.partitions(topic) {
        assert!(matches!(member.next().await.unwrap(), MemberEvent::Assigned { .. }));
    }
    let progress = vec![(topic, partition, CommittedOffset { offset, metadata: String::new() })];
    member.committer().commit(Batch { outputs: Vec::new(), progress }).await.unwrap();
}

async fn values(log: &EmbeddedLog, topic: Topic, partition: i32) -> Vec<String> {
    let (start, end) = log.bounds(topic, partition).await.unwrap();
    let mut found = Vec::new();
    for offset in start..end {
        let read = log.read(topic, partition, offset, 1).await.unwrap();
        found.push(String::from_utf8(read[0].record.value.clone()).unwrap());
    }
    found
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[tokio::test]
async fn the_start_of_the_embedded_log_moves_and_nothing_passes_for_a_gap() {
    let dir = fast();
    let embedded = Embedded::open(dir.path(), &options()).unwrap();
    let delete = async |log: &EmbeddedLog, partition, before| {
        processed(log, "p2.agent-step", Topic::Inbox, partition, before).await;
        log.expire(later(8)).unwrap();
    };
    log_start_conformance(embedded.log(), delete, LogTraits::default()).await;
}

#[tokio::test]
async fn records_stay_as_long_as_their_topic_declares_and_the_truth_stays_for_ever() {
    let dir = fast();
    let embedded = Embedded::open(dir.path(), &options()).unwrap();
    let log = embedded.log();
    let topics =
        [Topic::Inbox, Topic::Effects, Topic::DeadLetters, Topic::StateTransitions, Topic::Artifacts];
    for topic in topics {
        append(&log, topic, 2, topic.short()).await;
    }
    processed(&log, "p2.agent-step", Topic::Inbox, 2, 1).await;
    processed(&log, "p2.tool-exec", Topic::Effects, 2, 1).await;
    let kept = async |log: &EmbeddedLog| {
        let mut kept = Vec::new();
        for topic in topics {
            kept.extend(values(log, topic, 2).await);
        }
        kept
    };
    assert_eq!(log.expire(later(6)).unwrap(), Expired::default());
    assert_eq!(kept(&log).await.len(), 5);
    let expired = log.expire(later(8)).unwrap();
    assert_eq!((expired.segments, expired.records), (2, 2));
    assert!(expired.bytes > 0);
    assert_eq!(kept(&log).await, ["dead-letters", "state-transitions", "artifacts"]);
    assert_eq!(log.expire(later(31)).unwrap().records, 1);
    assert_eq!(log.expire(later(3_650)).unwrap(), Expired::default());
    assert_eq!(kept(&log).await, ["state-transitions", "artifacts"]);
    let positions = append(&log, Topic::Inbox, 2, "next").await;
    assert_eq!(positions.offset, 1, "offsets go on");
    drop((log, embedded));
    let again = Embedded::open(dir.path(), &options()).unwrap();
    assert_eq!(again.report().records, 3);
    assert_eq!(kept(&again.log()).await, ["next", "state-transitions", "artifacts"]);
    assert_eq!(again.log().bounds(Topic::Inbox, 2).await.unwrap(), (1, 2));
    assert_eq!(again.log().bounds(Topic::DeadLetters, 2).await.unwrap(), (1, 1));
    drop(again);
    assert_eq!(verify(dir.path()).unwrap().records, 3);
}

#[tokio::test]
async fn what_a_group_has_not_processed_stays_whatever_its_age() {
    let dir = fast();
    let embedded = Embedded::open(dir.path(), &options()).unwrap();
    let log = embedded.log();
    for n in 0..6 {
        append(&log, Topic::Inbox, 1, &n.to_string()).await;
    }
    assert_eq!(log.expire(later(99)).unwrap().records, 0, "its consumer has never been there");
    processed(&log, "p2.agent-step", Topic::Inbox, 1, 4).await;
    processed(&log, "p2.other", Topic::Inbox, 1, 2).await;
    assert_eq!(log.expire(later(99)).unwrap().records, 2, "up to the group that is furthest behind");
    assert_eq!(values(&log, Topic::Inbox, 1).await, ["2", "3", "4", "5"]);
    processed(&log, "p2.other", Topic::Inbox, 1, 6).await;
    assert_eq!(log.expire(later(99)).unwrap().records, 2);
    assert_eq!(values(&log, Topic::Inbox, 1).await, ["4", "5"]);
    drop((log, embedded));
    let again = Embedded::open(dir.path(), &options()).unwrap();
    assert_eq!(values(&again.log(), Topic::Inbox, 1).await, ["4", "5"]);
    // Progress is that of the newest commit, although its segments hold nothing else any more.
    let mut member = again.log().join("p2.agent-step", &[Topic::Inbox]).await.unwrap();
    let mut found = None;
    for _ in 0..4 {
        let MemberEvent::Assigned { partition, committed, .. } = member.next().await.unwrap() else {
            panic!()
        };
        found = found.or(committed.filter(|_| partition == 1));
    }
    assert_eq!(found.map(|committed| committed.offset), Some(4));
}

#[tokio::test]
async fn the_segment_that_is_written_gets_old_too() {
    let dir = fast();
    let large = Options { segment_bytes: 1 << 20, ..options() };
    let embedded = Embedded::open(dir.path(), &large).unwrap();
    let log = embedded.log();
    append(&log, Topic::DeadLetters, 0, "letter").await;
    append(&log, Topic::Artifacts, 0, "artifact").await;
    assert_eq!(log.expire(later(0)).unwrap(), Expired::default());
    assert_eq!(logs(dir.path()).len(), 1);
    log.expire(later(2)).unwrap();
    assert_eq!(logs(dir.path()).len(), 2, "sealed at the age of a day");
    assert_eq!(log.expire(later(40)).unwrap().records, 1);
    assert_eq!(values(&log, Topic::Artifacts, 0).await, ["artifact"]);
    assert_eq!(values(&log, Topic::DeadLetters, 0).await, [""; 0]);
}

#[derive(Debug)]
struct Breaks(Operation, &'static str);

impl Faults for Breaks {
    fn strike(&self, operation: Operation, path: &Path) -> Option<Fault> {
        let hit = operation == self.0 && path.to_str().is_some_and(|path| path.ends_with(self.1));
        let error = std::io::Error::from_raw_os_error(if operation == Operation::Write { 28 } else { 5 });
        hit.then(|| if operation == Operation::Write { Fault::Short(30, error) } else { Fault::Error(error) })
    }
}

#[tokio::test]
async fn retention_that_fails_anywhere_loses_nothing_and_the_next_one_does_it() {
    for (operation, name) in [
        (Operation::Create, ".new"),
        (Operation::Write, ".new"),
        (Operation::Sync, ".new"),
        (Operation::Rename, ".new"),
        (Operation::Remove, "00000001-0.log"),
    ] {
        let dir = fast();
        {
            let embedded = Embedded::open(dir.path(), &options()).unwrap();
            let both = vec![record(Topic::DeadLetters, 0, "letter"), record(Topic::Artifacts, 0, "artifact")];
            embedded.log().append(both).await.unwrap();
            append(&embedded.log(), Topic::Artifacts, 0, "second").await;
        }
        let disk = Disk::with(Arc::new(Breaks(operation, name)));
        let embedded = Embedded::open_on(dir.path(), &options(), &disk).unwrap();
        let result = embedded.log().expire(later(31));
        assert_eq!(result.is_ok(), operation == Operation::Remove, "{operation:?}: {result:?}");
        assert_eq!(values(&embedded.log(), Topic::Artifacts, 0).await, ["artifact", "second"]);
        append(&embedded.log(), Topic::Artifacts, 0, "third").await;
        drop(embedded);
        let again = Embedded::open(dir.path(), &options()).unwrap();
        assert!(logs(dir.path()).iter().all(|path| path.extension().is_some_and(|name| name == "log")));
        assert_eq!(values(&again.log(), Topic::Artifacts, 0).await, ["artifact", "second", "third"]);
        again.log().expire(later(31)).unwrap();
        assert_eq!(values(&again.log(), Topic::DeadLetters, 0).await, [""; 0], "{operation:?}");
        drop(again);
        assert_eq!(verify(dir.path()).unwrap().records, 3);
        assert!(!dir.path().join("log/00000001-0.log").exists(), "{operation:?}");
    }
}

#[tokio::test]
async fn a_damaged_record_is_not_written_again_as_if_it_were_whole() {
    let dir = fast();
    let embedded = Embedded::open(dir.path(), &options()).unwrap();
    let both = vec![record(Topic::DeadLetters, 0, "letter"), record(Topic::Artifacts, 0, "precious")];
    embedded.log().append(both).await.unwrap();
    append(&embedded.log(), Topic::Artifacts, 0, "second").await;
    let path = dir.path().join("log/00000001-0.log");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(8).position(|window| window == b"precious").unwrap();
    bytes[at] = b'P';
    std::fs::write(&path, &bytes).unwrap();
    let refused = embedded.log().expire(later(31));
    assert!(matches!(refused, Err(LogError::Corrupt(_))), "{refused:?}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn readers_and_retention_do_not_get_in_each_others_way() {
    let dir = fast();
    let embedded = Embedded::open(dir.path(), &options()).unwrap();
    let log = embedded.log();
    for n in 0..60 {
        let both = vec![record(Topic::DeadLetters, 0, "x"), record(Topic::Artifacts, 0, &n.to_string())];
        log.append(both).await.unwrap();
    }
    let expected: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    let expiring = {
        let log = log.clone();
        tokio::task::spawn_blocking(move || log.expire(later(31)).unwrap())
    };
    while !expiring.is_finished() {
        assert_eq!(values(&log, Topic::Artifacts, 0).await, expected);
        tokio::task::yield_now().await;
    }
    assert!(expiring.await.unwrap().records >= 59);
    assert_eq!(values(&log, Topic::Artifacts, 0).await, expected);
}

#[test]
fn retention_is_what_the_topics_declare() {
    let expected = [
        (Topic::Inbox, WEEK_MS),
        (Topic::Effects, WEEK_MS),
        (Topic::PaymentRequests, WEEK_MS),
        (Topic::DeadLetters, 30 * DAY_MS),
    ];
    assert_eq!(declared(), expected.into());
}
