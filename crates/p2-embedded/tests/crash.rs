//! Killed processes and the order of system calls: what was acknowledged is there, whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use p2_core::record::Topic;
use p2_embedded::{Embedded, Options};
use p2_stream::ports::{Batch, CommittedOffset, Log, MemberEvent, NewRecord, StoredRecord};
use rand::{Rng, SeedableRng};

const DIR: &str = "P2_CRASH_CHILD_DIR";
const COMMITS: &str = "P2_CRASH_CHILD_COMMITS";
const WRITERS: i32 = 4;
/// Records per batch, each on a partition of its own.
const PARTS: i32 = 3;

/// Small segments, so that many kills meet a rotation.
fn options() -> Options {
    Options { segment_bytes: 20_000, ..Options::with_partitions(WRITERS) }
}

/// The record `part` of a batch. The mark is found again in a trace of system calls.
fn part(mark: &str, part: i32) -> NewRecord {
    NewRecord {
        topic: Topic::Effects,
        partition: part,
        key: mark.to_owned(),
        headers: p2_stream::ports::Headers::default(),
        value: format!("mark-{mark};{}", "x".repeat(200)).into_bytes(),
        time_ms: 1,
    }
}

/// The child: not a test by itself. Commits from several tasks at once and prints each acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_commits_until_it_is_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let commits: i64 = std::env::var(COMMITS).unwrap().parse().unwrap();
    let embedded = Embedded::open(dir, &options()).unwrap();
    let round = embedded.report().records;
    let log = embedded.log();
    let mut member = log.join("p2.child", &[Topic::Inbox]).await.unwrap();
    for _ in 0..WRITERS {
        member.next().await.unwrap();
    }
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (committer, log) = (member.committer(), log.clone());
            tokio::spawn(async move {
                for n in 0..commits {
                    let mark = format!("{round}.{writer}.{n}");
                    let outputs = (0..PARTS).map(|number| part(&mark, number)).collect();
                    if n % 4 == 3 {
                        log.append(outputs).await.unwrap();
                    } else {
                        let committed = CommittedOffset { offset: n, metadata: mark.clone() };
                        let progress = vec![(Topic::Inbox, writer, committed)];
                        committer.commit(Batch { outputs, progress }).await.unwrap();
                    }
                    // One write call per line.
                    std::io::stdout().lock().write_all(format!("ack {mark}\n").as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

fn child(program: &Path, arguments: &[&str], dir: &Path, commits: i64) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(["--exact", "child_that_commits_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(COMMITS, commits.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

async fn marks(log: &impl Log, partition: i32) -> Vec<String> {
    let mut found: Vec<StoredRecord> = Vec::new();
    loop {
        let more = log.read(Topic::Effects, partition, found.len() as i64, 500).await.unwrap();
        if more.is_empty() {
            break found.into_iter().map(|stored| stored.record.key).collect();
        }
        found.extend(more);
    }
}

/// The number behind the last dot.
fn number(mark: &str) -> i64 {
    mark.rsplit('.').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn every_acknowledged_batch_of_a_killed_process_is_there_and_none_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = rand::rngs::SmallRng::seed_from_u64(7);
    let mut acknowledged = BTreeSet::new();
    let (mut newest, mut dropped, mut unacknowledged) = (Vec::new(), 0, 0);
    for kill in 0..100 {
        let mut process =
            child(&std::env::current_exe().unwrap(), &[], dir.path(), i64::MAX).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let patience = random.random_range(0..40);
        let mut seen = 0;
        while seen < patience {
            let line = lines.next().unwrap().unwrap();
            seen += i32::from(line.contains("ack "));
            acknowledged.extend(line.split_once("ack ").map(|(_, mark)| mark.to_owned()));
        }
        for _ in 0..random.random_range(0..3_000) {
            std::hint::spin_loop();
        }
        process.kill().unwrap();
        process.wait().unwrap();
        // What it printed before it died counts too; a line that was cut short does not.
        acknowledged.extend(
            lines.map_while(Result::ok).filter_map(|line| Some(line.split_once("ack ")?.1.to_owned())),
        );

        let embedded = Embedded::open(dir.path(), &options()).unwrap();
        dropped += i32::from(embedded.report().dropped.is_some());
        let log = embedded.log();
        let first = marks(&log, 0).await;
        for partition in 1..PARTS {
            assert_eq!(
                marks(&log, partition).await,
                first,
                "kill {kill}: a batch in part, or in another order"
            );
        }
        let found: BTreeSet<String> = first.iter().cloned().collect();
        assert_eq!(found.len(), first.len(), "kill {kill}: a batch twice");
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert_eq!(lost, [""; 0], "kill {kill}: acknowledged and lost");
        unacknowledged = found.len() - acknowledged.len();
        // Progress is that of the newest batch that carried any.
        let mut member = log.join("p2.child", &[Topic::Inbox]).await.unwrap();
        newest.clear();
        for _ in 0..WRITERS {
            let MemberEvent::Assigned { partition, committed, .. } = member.next().await.unwrap() else {
                panic!("expected an assignment");
            };
            let infix = format!(".{partition}.");
            let carrier = first.iter().rev().find(|mark| mark.contains(&infix) && number(mark) % 4 != 3);
            assert_eq!(committed.map(|committed| committed.metadata).as_ref(), carrier, "kill {kill}");
            newest.extend(carrier.cloned());
        }
    }
    assert!(acknowledged.len() > 1_000, "only {} batches were acknowledged", acknowledged.len());
    let segments = std::fs::read_dir(dir.path().join("log")).unwrap().count();
    assert!(segments > 50, "{segments} segments");
    assert_eq!(p2_embedded::verify(dir.path()).unwrap().torn, None);
    println!(
        "100 kills: {} acknowledged batches, {unacknowledged} more that were written, {dropped} torn tails",
        acknowledged.len()
    );
}

#[test]
fn no_acknowledgement_is_written_before_the_sync_that_covers_it() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        println!("skipped: strace is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let arguments = [
        "-f",
        "-y",
        "-s",
        "1000000",
        "-e",
        "trace=write,writev,pwrite64,fdatasync,fsync",
        "-o",
        trace.to_str().unwrap(),
        std::env::current_exe().unwrap().to_str().unwrap(),
    ]
    .map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let data = dir.path().join("data");
    let output = child(Path::new("strace"), &arguments, &data, 25).output().unwrap();
    let acknowledged = String::from_utf8_lossy(&output.stdout).matches("ack ").count();
    assert_eq!(acknowledged, 100, "the child did its work: {}", output.status);
    let trace = std::fs::read_to_string(trace).unwrap();
    let checked = check_order(&trace).unwrap();
    assert_eq!(checked, 100);
    // The check has teeth: the same trace without its syncs fails it.
    let unsynced: Vec<&str> = trace.lines().filter(|line| !line.contains("sync")).collect();
    assert!(check_order(&unsynced.join("\n")).is_err());
}

fn marks_of(line: &str, before: &str, after: char) -> Vec<String> {
    line.split(before).skip(1).filter_map(|rest| Some(rest.split_once(after)?.0.to_owned())).collect()
}

/// Walks a trace: a mark is written to the journal, then a sync of the journal that began later ends, then
/// its acknowledgement may begin. Returns how many acknowledgements there were.
fn check_order(trace: &str) -> Result<usize, String> {
    let (mut written, mut covered, mut synced) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut syncing = String::new();
    let mut checked = 0;
    for line in trace.lines() {
        let (process, call) = line.split_once(' ').unwrap_or_default();
        let call = call.trim_start();
        let journal = call.contains("/data/log/");
        if journal && call.starts_with("pwrite64(") {
            written.extend(marks_of(call, "mark-", ';'));
        } else if journal && (call.starts_with("fdatasync(") || call.starts_with("fsync(")) {
            covered.clone_from(&written);
            if call.ends_with("= 0") {
                synced.append(&mut covered);
            } else {
                process.clone_into(&mut syncing);
            }
        } else if call.starts_with("<... fdatasync resumed>") && process == syncing && call.ends_with("= 0") {
            synced.append(&mut covered);
            syncing.clear();
        } else if call.starts_with("write(1<") {
            for mark in marks_of(call, "ack ", '\\') {
                if !synced.contains(&mark) {
                    return Err(format!("{mark} was acknowledged before it was synced"));
                }
                checked += 1;
            }
        }
    }
    Ok(checked)
}
