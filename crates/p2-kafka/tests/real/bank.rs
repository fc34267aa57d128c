//! Settlement in processes of its own, killed every few seconds: promise 6 on a real broker.
//!
//! The whole bank takes half a minute; `P2_BANK_SECONDS` and `P2_BANK_REWARDS` make it longer (60 and 1000 by hand).

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use p2_core::ids::{AccountId, BookId, Id};
use p2_core::ledger::reward_id;
use p2_core::record::*;
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_sim::Outside;
use p2_sim::money::{AGENTS, BOOKS, Bookkeeper, opening, request};
use p2_stream::memory::MemoryLedger;
use p2_stream::metrics::Metrics;
use p2_stream::ports::Log;
use p2_stream::runtime::{Limits, Start};
use p2_stream::shell::{self, Setup, Views, now_ms};
use p2_stream::wire::{self, ProcessorWire};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use settlement::{NoPort, Settlement};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::broker::{self, create_topics, fresh_prefix};

/// Says to a process of this test binary that it settles: brokers, prefix and slot.
const CHILD: &str = "P2_KAFKA_SETTLES";
/// Without every answer after this long, something is lost.
const ANSWERS_MAX: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_settles() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let [brokers, prefix, slot] = what.split('|').collect::<Vec<_>>().try_into().unwrap();
    let config = KafkaConfig {
        brokers: brokers.to_owned(),
        prefix: prefix.to_owned(),
        slot: slot.to_owned(),
        session_timeout_ms: 6_000,
        transaction_timeout_ms: 4_000,
        ..KafkaConfig::default()
    };
    let log = KafkaLog::connect(config).await.unwrap();
    let (_stop, stop) = watch::channel(false);
    let of = log.clone();
    let setup = Setup {
        log: Arc::new(log),
        views: Views::Ledger(Arc::new(MemoryLedger::default())),
        wire: Arc::new(ProcessorWire::new("settlement", move |topic| of.partitions(topic))),
        limits: Limits { start: Start::Earliest, ..Limits::default() },
        nonce: u64::from(std::process::id()),
        stop,
        drain: Duration::from_secs(5),
        metrics: Metrics::default(),
    };
    shell::run(Settlement, Arc::new(NoPort), setup).await.unwrap();
}

struct Settler(Child);

impl Settler {
    fn start(config: &KafkaConfig, slot: &str) -> Settler {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "bank::child_settles", "--nocapture", "--test-threads", "1"])
            .env(CHILD, format!("{}|{}|{slot}", config.brokers, config.prefix))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Settler(child)
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        // A kill -9: nothing is said to anybody.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two that settle, one of them killed every few seconds and started again in its slot. Ends with the sender.
async fn killed_in_turns(config: KafkaConfig, mut stopped: watch::Receiver<bool>, kills: Arc<AtomicU64>) {
    let slots = ["one", "two"];
    let mut settlers = slots.map(|slot| Settler::start(&config, slot));
    for turn in (0..2).cycle() {
        let pause = Duration::from_millis(2_500);
        if tokio::time::timeout(pause, stopped.wait_for(|stop| *stop)).await.is_ok() {
            return;
        }
        // The old one is dead before the new one is there.
        settlers[turn].0.kill().unwrap();
        settlers[turn].0.wait().unwrap();
        settlers[turn] = Settler::start(&config, slots[turn]);
        kills.fetch_add(1, Ordering::Relaxed);
    }
}

fn seconds(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

async fn write(log: &KafkaLog, requests: &[PaymentRequest]) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let records = requests.iter().map(|request| {
        let id = Id::of_text(&format!("record {}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let payload = Payload::PaymentRequest(request.clone());
        let message =
            Message { id, cause: id, cause_position: None, time_ms: now_ms(), traceparent: None, payload };
        wire::encode(&message, "/test", log.partitions(Topic::PaymentRequests)).unwrap()
    });
    log.append(records.collect()).await.unwrap();
}

/// Every transaction from offset 0, in the order of its book.
async fn ledger(log: &KafkaLog) -> Vec<LedgerTransaction> {
    let mut found = Vec::new();
    for partition in 0..log.partitions(Topic::LedgerTransactions) {
        let mut from = 0;
        loop {
            let records = log.read(Topic::LedgerTransactions, partition, from, 1_000).await.unwrap();
            let Some(last) = records.last() else { break };
            from = last.offset + 1;
            found.extend(records.iter().map(|stored| match wire::decode(stored).unwrap().payload {
                Payload::LedgerTransaction(made) => made,
                other => panic!("{other:?}"),
            }));
        }
    }
    found
}

/// Waits until the ledger has an answer to each of these requests; gives it, as somebody else keeps the books.
async fn until_answered(log: &KafkaLog, ids: &[Id]) -> (Vec<LedgerTransaction>, Bookkeeper) {
    let begin = Instant::now();
    loop {
        let made = ledger(log).await;
        let mut answered = std::collections::BTreeSet::new();
        answered.extend(made.iter().map(|made| made.request.id));
        let missing = ids.iter().filter(|id| !answered.contains(id)).count();
        if missing == 0 {
            let mut books = Bookkeeper::default();
            for made in &made {
                books.take(made, &mut Outside::default()).unwrap();
            }
            return (made, books);
        }
        assert!(begin.elapsed() < ANSWERS_MAX, "{missing} requests were never answered");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Reads the ledger up to anywhere, again and again: whatever part of it is read, the sum is 0 and every rule holds.
async fn reads_up_to_anywhere(log: KafkaLog, seed: u64, mut stopped: watch::Receiver<bool>) -> u64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut reads = 0;
    while !*stopped.borrow() {
        let made = ledger(&log).await;
        let up_to = rng.random_range(0..=made.len());
        let mut books: BTreeMap<BookId, p2_core::ledger::Book> = BTreeMap::new();
        for made in &made[..up_to] {
            books.entry(made.book.clone()).or_default().apply(made).unwrap();
        }
        for book in books.values() {
            book.check().unwrap();
            let sum: i64 = book.accounts.values().map(|account| account.balance.posted).sum();
            assert_eq!(sum, 0);
        }
        reads += 1;
        let _ = tokio::time::timeout(Duration::from_millis(200), stopped.changed()).await;
    }
    reads
}

fn wallet(rng: &mut SmallRng) -> AccountId {
    AccountId::from(AGENTS[rng.random_range(0..AGENTS.len())])
}

/// What a client asks next: mostly a transfer, of too much now and then.
fn any_request(client: u64, number: u64, mine: &[PaymentRequest], rng: &mut SmallRng) -> PaymentRequest {
    let book = BookId::from(BOOKS[usize::from(rng.random_bool(0.3))]);
    let name = format!("client {client} request {number}");
    let reserved = |mine: &[PaymentRequest], rng: &mut SmallRng| {
        let all = mine.iter().filter(|asked| matches!(asked.body, PaymentBody::Reserve(_)));
        let all: Vec<&PaymentRequest> = all.collect();
        (!all.is_empty()).then(|| all[rng.random_range(0..all.len())].clone())
    };
    let amount = if rng.random_range(0..20) == 0 { 1_000_000 } else { rng.random_range(1..3_000) };
    match rng.random_range(0..10) {
        0..6 => {
            let legs =
                (0..rng.random_range(1..4)).map(|_| Leg { from: wallet(rng), to: wallet(rng), amount });
            request(&book, &name, PaymentBody::Transfer(Transfer { legs: legs.collect(), scale: None }))
        }
        6 | 7 => {
            let expires_ms = rng.random_bool(0.5).then(|| now_ms() + rng.random_range(200..6_000));
            let reserve = Reserve { from: wallet(rng), to: wallet(rng), amount, expires_ms, scale: None };
            request(&book, &name, PaymentBody::Reserve(reserve))
        }
        8 => match reserved(mine, rng) {
            Some(of) => {
                let body = match rng.random_bool(0.6) {
                    true => PaymentBody::Post(Post { reservation: of.id, amount: None, scale: None }),
                    false => PaymentBody::Void(Void { reservation: of.id }),
                };
                request(&of.book, &name, body)
            }
            None => request(&book, &name, PaymentBody::Void(Void { reservation: Id::of_text(&name) })),
        },
        // The answer was slow: asked once more.
        _ if !mine.is_empty() => mine[rng.random_range(0..mine.len())].clone(),
        _ => request(&book, &name, PaymentBody::Freeze(Freeze { account: wallet(rng), frozen: false })),
    }
}

async fn opened(config: &KafkaConfig) -> KafkaLog {
    create_topics(config).await;
    let log = KafkaLog::connect(config.clone()).await.unwrap();
    for book in BOOKS {
        write(&log, &opening(&BookId::from(book), &AGENTS, 10_000_000, 0)).await;
    }
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_paid_while_settlement_is_killed_the_sum_is_0_wherever_one_reads_up_to() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    let log = opened(&config).await;
    let (stop, stopped) = watch::channel(false);
    let kills = Arc::<AtomicU64>::default();
    let killer = tokio::spawn(killed_in_turns(config.clone(), stopped.clone(), kills.clone()));
    let mut readers = JoinSet::new();
    for seed in 0..2 {
        readers.spawn(reads_up_to_anywhere(log.clone(), seed, stopped.clone()));
    }
    let until = Instant::now() + Duration::from_secs(seconds("P2_BANK_SECONDS", 20));
    let mut clients = JoinSet::new();
    for client in 0..4_u64 {
        let log = log.clone();
        clients.spawn(async move {
            let mut rng = SmallRng::seed_from_u64(100 + client);
            let mut asked: Vec<PaymentRequest> = Vec::new();
            while Instant::now() < until {
                for _ in 0..rng.random_range(1..6) {
                    let next = any_request(client, asked.len() as u64, &asked, &mut rng);
                    write(&log, std::slice::from_ref(&next)).await;
                    asked.push(next);
                }
                tokio::time::sleep(Duration::from_millis(rng.random_range(5..60))).await;
            }
            asked
        });
    }
    let asked: Vec<PaymentRequest> = clients.join_all().await.concat();
    let ids: Vec<Id> = asked.iter().map(|request| request.id).collect();
    let (_, books) = until_answered(&log, &ids).await;
    stop.send(true).unwrap();
    killer.await.unwrap();
    let reads: u64 = readers.join_all().await.iter().sum();
    for request in &asked {
        assert!(books.is_answered(request), "{request:?}");
    }
    let made = ledger(&log).await;
    let paid = made.iter().filter(|made| !made.postings.is_empty()).count();
    let ended = made.iter().filter(|made| made.request.cause.kind == CauseKind::Timer).count();
    let kills = kills.load(Ordering::Relaxed);
    eprintln!(
        "{} requests, {} transactions, {paid} paid, {ended} ended by time, {kills} kills, {reads} reads",
        asked.len(),
        made.len()
    );
    assert!(kills >= 5 && reads >= 10 && paid > 100 && ended > 0);
}

/// One of two criteria, one occasion; `judged` tells the evaluations of one work apart.
fn reward(number: u64, judged: u64) -> PaymentRequest {
    let target = Id::of_text(&format!("work {number}"));
    let evaluation = Id::of_text(&format!("evaluation {number} {judged}"));
    let reward = Reward {
        target,
        evaluator: if number.is_multiple_of(2) { "gpt4_judge" } else { "exact" }.to_owned(),
        metric: "score".to_owned(),
        payee: AccountId::from(AGENTS[usize::try_from(number).unwrap() % AGENTS.len()]),
        occasion: target.to_string(),
        evaluator_version: i32::try_from(judged).unwrap() + 1,
        evaluation,
        score: 0.5 + 0.1 * f64::from(u32::try_from((number + judged) % 5).unwrap()),
    };
    let mut asked = request(&BookId::from(BOOKS[0]), "", PaymentBody::Reward(reward.clone()));
    asked.id = reward_id(&reward);
    asked.cause.kind = CauseKind::Evaluation;
    asked.cause.reference = Some(evaluation);
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reward_is_paid_exactly_once_while_settlement_is_killed() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    let log = opened(&config).await;
    let (stop, stopped) = watch::channel(false);
    let kills = Arc::<AtomicU64>::default();
    let killer = tokio::spawn(killed_in_turns(config.clone(), stopped, kills.clone()));
    let rewards = seconds("P2_BANK_REWARDS", 300);
    let mut rng = SmallRng::seed_from_u64(7);
    for number in 0..rewards {
        // The judgement, a copy of it, a second judgement with another score; and an older one again.
        let old = rng.random_range(0..=number);
        write(&log, &[reward(number, 0), reward(number, 0), reward(number, 1), reward(old, 0)]).await;
        tokio::time::sleep(Duration::from_millis(35)).await;
    }
    let ids: Vec<Id> = (0..rewards).map(|number| reward(number, 0).id).collect();
    let (made, books) = until_answered(&log, &ids).await;
    stop.send(true).unwrap();
    killer.await.unwrap();
    let mut paid: BTreeMap<Id, Vec<i64>> = BTreeMap::new();
    for made in &made {
        if matches!(made.request.body, PaymentBody::Reward(_)) && !made.postings.is_empty() {
            paid.entry(made.request.id).or_default().extend(made.postings.iter().map(|p| p.amount));
        }
    }
    for id in &ids {
        assert_eq!(paid.get(id).map(Vec::len), Some(1), "{id}: {:?}", paid.get(id));
    }
    assert_eq!(paid.len(), ids.len());
    let sum: i64 = paid.values().flatten().sum();
    let purses = books.purses(&BookId::from(BOOKS[0])).unwrap();
    assert_eq!(purses[&AccountId::from("treasury")].has, 10_000_000 - sum);
    assert_eq!(purses.values().map(|purse| purse.has).sum::<i64>(), 0);
    let kills = kills.load(Ordering::Relaxed);
    eprintln!(
        "{rewards} rewards, asked for {} times, each paid once, {sum} in all, {kills} kills",
        rewards * 4
    );
    assert!(kills >= 3);
}
