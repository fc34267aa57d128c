//! What is measured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2_core::record::Topic;
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_stream::memory::MemoryStore;
use p2_stream::ports::{Log, NewRecord, StackStore};
use p2_stream::runtime::Limits;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::json;

use crate::counted::{Counted, Counts};
use crate::engine::{self, Copier, Engine};
use crate::{Cpu, Figures, Since, bare, fresh_log, milliseconds, number, object, round};

/// Records in one transaction, for the engine and for the bare loop.
const BATCH: usize = 500;
const PARTITIONS: i32 = 4;

fn counted(log: &KafkaLog) -> (Arc<dyn Log>, Arc<Counts>) {
    let counts: Arc<Counts> = Arc::default();
    (Arc::new(Counted { log: log.clone(), counts: Arc::clone(&counts) }), counts)
}

async fn fill(log: &KafkaLog, records: impl Iterator<Item = NewRecord>) {
    let records: Vec<NewRecord> = records.collect();
    for some in records.chunks(1_000) {
        log.append(some.to_vec()).await.unwrap();
    }
}

/// Reads until `count` records were seen.
fn observe(reader: &BaseConsumer, count: usize) {
    let mut seen = 0;
    while seen < count {
        match reader.poll(Duration::from_secs(30)) {
            Some(Ok(_)) => seen += 1,
            other => panic!("no record: {other:?}"),
        }
    }
}

fn limits() -> Limits {
    Limits { batch_records_max: BATCH, ..Limits::default() }
}

/// Copies in transactions: as fast as it goes.
pub(crate) async fn copy() -> Vec<(&'static str, Figures)> {
    let count = number("P2_BENCH_RECORDS", 20_000);
    let (config, log) = fresh_log("copy", PARTITIONS).await;
    fill(&log, (0..count).map(|number| engine::input(number, PARTITIONS))).await;
    let bare = tokio::task::spawn_blocking(move || {
        let mut copier = bare::Copier::new(&config);
        let (mut done, mut since) = (0, None);
        while done < count {
            done += copier.step(BATCH, Duration::from_millis(100));
            if done > 0 {
                since.get_or_insert_with(|| (done, Since::now()));
            }
        }
        let (before, since) = since.unwrap();
        let mut figures = since.figures(done - before);
        figures.insert("records_per_commit".to_owned(), json!(done / copier.commits));
        figures.insert("commit".to_owned(), json!(milliseconds(&copier.times)["p50_ms"]));
        figures
    });
    let bare = bare.await.unwrap();
    let (log, counts) = counted(&log);
    let engine = Engine::start(log, Copier::AtOnce, &MemoryStore::default(), limits());
    counts.committed(count).await;
    let figures = {
        let seen = counts.seen.lock().unwrap();
        let mut figures = seen.since.unwrap().figures(count);
        figures.insert("records_per_commit".to_owned(), json!(count / seen.commits));
        figures.insert("commit".to_owned(), json!(milliseconds(&seen.times)["p50_ms"]));
        figures
    };
    engine.stop().await;
    vec![("bare", bare), ("engine", figures)]
}

/// One record at a time: from before it is appended until its copy is read.
async fn one_by_one(config: &KafkaConfig, log: &KafkaLog, count: usize) -> Vec<Duration> {
    let reader = Arc::new(bare::reader(config, Topic::Artifacts, 1));
    let mut times = Vec::new();
    // The first ones open connections.
    for number in 0..count + 20 {
        let record = engine::input(number, 1);
        let of_this = Arc::clone(&reader);
        let observed = tokio::task::spawn_blocking(move || {
            observe(&of_this, 1);
            Instant::now()
        });
        let begin = Instant::now();
        log.append(vec![record]).await.unwrap();
        let end = observed.await.unwrap();
        if number >= 20 {
            times.push(end - begin);
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    times
}

/// Latency of a single record with nothing else going on.
pub(crate) async fn idle() -> Vec<(&'static str, Figures)> {
    let count = number("P2_BENCH_SINGLES", 150);
    let (config, log) = fresh_log("idle-bare", 1).await;
    let (of_copier, stop) = (config.clone(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let copier = tokio::task::spawn_blocking(move || {
        let mut copier = bare::Copier::new(&of_copier);
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            copier.step(BATCH, Duration::from_millis(100));
        }
        copier.times
    });
    let since = Cpu::now();
    let times = one_by_one(&config, &log, count).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let transactions = copier.await.unwrap();
    let bare = with_commits(since, &times, &transactions);

    let (config, log) = fresh_log("idle-engine", 1).await;
    let (counted, counts) = counted(&log);
    let engine = Engine::start(counted, Copier::AtOnce, &MemoryStore::default(), limits());
    let since = Cpu::now();
    let times = one_by_one(&config, &log, count).await;
    let figures = with_commits(since, &times, &counts.seen.lock().unwrap().times);
    engine.stop().await;
    vec![("bare", bare), ("engine", figures)]
}

fn with_commits(since: Cpu, times: &[Duration], commits: &[Duration]) -> Figures {
    let mut figures = milliseconds(times);
    let cpu = Cpu::now();
    figures.insert("commit_p50_ms".to_owned(), milliseconds(commits)["p50_ms"].clone());
    figures.insert("cpu_ms_each".to_owned(), json!(round((cpu.own - since.own) / times.len() as f64)));
    figures.insert(
        "broker_cpu_ms_each".to_owned(),
        json!(round((cpu.broker - since.broker) / times.len() as f64)),
    );
    figures
}

/// Reading all of a view at the start of a partition's ownership.
pub(crate) async fn catch_up() -> Vec<(&'static str, Figures)> {
    let count = number("P2_BENCH_RECORDS", 20_000);
    let (config, log) = fresh_log("catch-up", PARTITIONS).await;
    fill(&log, (0..count).map(|number| engine::transition(number, PARTITIONS))).await;
    let of_reader = config.clone();
    let bare = tokio::task::spawn_blocking(move || {
        // From its assignment on, as the engine: by the first record, the library has fetched many more.
        let since = Since::now();
        let reader = bare::reader(&of_reader, Topic::StateTransitions, PARTITIONS);
        observe(&reader, count);
        since.figures(count)
    });
    let bare = bare.await.unwrap();
    let mut marks = BTreeMap::new();
    for partition in 0..PARTITIONS {
        marks.insert(partition, log.bounds(Topic::StateTransitions, partition).await.unwrap().1);
    }
    let (counted, counts) = counted(&log);
    let store = MemoryStore::default();
    let engine = Engine::start(counted, Copier::WithView, &store, limits());
    while counts.seen.lock().unwrap().assigned == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let since = Since::now();
    for (partition, mark) in marks {
        while store.applied(partition).await.unwrap() < mark {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let figures = since.figures(count);
    engine.stop().await;
    vec![("bare", bare), ("engine", figures)]
}

/// A thousand slow calls at a time on one partition.
pub(crate) async fn calls() -> Vec<(&'static str, Figures)> {
    let count = number("P2_BENCH_CALLS", 10_000);
    let (config, log) = fresh_log("calls", 1).await;
    fill(&log, (0..count).map(|number| engine::input(number, 1))).await;
    let stable = bare::reader(&config, Topic::Artifacts, 1);
    let (counted, counts) = counted(&log);
    let limits = Limits { calls_max: 1_000, ..limits() };
    let engine = Engine::start(counted, Copier::AfterCall, &MemoryStore::default(), limits);
    while counts.seen.lock().unwrap().since.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // All calls of the first thousand wait: nothing is committed, and nothing is open.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let before = counts.seen.lock().unwrap().commits;
    let name = format!("{}{}", config.prefix, Topic::Artifacts.name());
    let (_, stable_end) = stable.fetch_watermarks(&name, 0, Duration::from_secs(5)).unwrap();
    let open = log.bounds(Topic::Artifacts, 0).await.unwrap().1 - stable_end;
    counts.committed(count).await;
    let figures = {
        let seen = counts.seen.lock().unwrap();
        let mut figures = seen.since.unwrap().figures(count);
        let seconds = figures["seconds"].as_f64().unwrap() - 2.0;
        figures.extend(object(json!({
            "calls_per_s_after_the_first": round((count as f64 - 1_000.0) / seconds),
            "records_per_commit": count / seen.commits,
            "commit_p50_ms": milliseconds(&seen.times)["p50_ms"],
            "commits_while_waiting": before,
            "offsets_in_open_transactions_while_waiting": open,
            "assigned": seen.assigned,
            "revoked": seen.revoked,
        })));
        figures
    };
    engine.stop().await;
    vec![("engine", figures)]
}

/// What it costs to do nothing: a connected log, a member, a follower.
pub(crate) async fn rest() -> Vec<(&'static str, Figures)> {
    let span = Duration::from_secs(20);
    let measure = async || {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = Cpu::now();
        tokio::time::sleep(span).await;
        let after = Cpu::now();
        let per_second = |before: f64, after: f64| json!(round((after - before) / span.as_secs_f64()));
        object(json!({
            "cpu_ms_per_s": per_second(before.own, after.own),
            "broker_cpu_ms_per_s": per_second(before.broker, after.broker),
        }))
    };
    let nothing = measure().await;
    let (_, log) = fresh_log("rest", PARTITIONS).await;
    let connected = measure().await;
    let mut follower =
        log.follow((0..PARTITIONS).map(|one| (Topic::Artifacts, one, 0)).collect()).await.unwrap();
    let following = tokio::spawn(async move { follower.next().await.map(drop) });
    let followed = measure().await;
    following.abort();
    let engine = Engine::start(Arc::new(log), Copier::AtOnce, &MemoryStore::default(), limits());
    let engaged = measure().await;
    engine.stop().await;
    vec![
        ("nothing", nothing),
        ("log", connected),
        ("log and follower", followed),
        ("log and engine", engaged),
    ]
}
