//! `bench ledger`: payments on the embedded ledger, against the bare rate of the log that carries it.
//!
//! All of it in this process and on fresh data directories: settlement as `up` runs it, clients that append a request
//! and wait for its transaction, and beside them (another directory, the same records, the same number of clients) the
//! log alone. The two take turns, so that a machine with other work slows both.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2_core::ids::{AccountId, BookId, Id};
use p2_core::ledger::{MAIN_BOOK, MINT};
use p2_core::record::{
    AccountKind, AccountLimits, CauseKind, LedgerOutcome, LedgerTransaction, Leg, Message, Mint, OpenAccount,
    OpenBook, Payload, PaymentBody, PaymentCause, PaymentRequest, Topic, Transfer,
};
use p2_stream::memory::MemoryLedger;
use p2_stream::metrics::Metrics;
use p2_stream::ports::{Log, NewRecord};
use p2_stream::runtime::{Limits, Start};
use p2_stream::shell::{self, Setup, ShellError, Views, now_ms};
use p2_stream::wire::{self, ProcessorWire};
use serde_json::{Value, json};
use settlement::{NoPort, Settlement};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::{internal, percentile, ratio, round};
use crate::args::BenchLedger;
use crate::backend::{Backend, OpenFailed, engine_error};
use crate::config::Config;
use crate::engine::{EngineError, EngineResult, draw_id};
use crate::output::Output;

/// Wallets; each payment is between two of them.
const WALLETS: usize = 100;
/// Requests of one append where nobody waits for a single answer.
const BATCH: usize = 500;
/// Pause before each payment of an idle ledger.
const IDLE: Duration = Duration::from_millis(10);
/// A payment without an answer after this long is lost.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Runs `bench ledger`: one line of JSON.
pub(crate) async fn ledger(out: Output, config: &Config, args: BenchLedger) -> EngineResult<()> {
    let dir = std::env::temp_dir().join(format!("p2engine-bench-{}", draw_id().short()));
    std::fs::create_dir_all(&dir).map_err(|error| internal(&dir, &error))?;
    let measured = measure(config, &args, &dir).await;
    let _ = std::fs::remove_dir_all(&dir);
    out.data(&measured?);
    Ok(())
}

async fn measure(config: &Config, args: &BenchLedger, dir: &Path) -> EngineResult<Value> {
    let bank = Bank::open(config, &dir.join("ledger")).await?;
    let bare = open(config, &dir.join("log")).await?.log;
    bank.settle_all(opening(), BATCH).await?;
    let mut numbers = 0_usize..;
    let mut requests =
        |count: usize| -> Vec<PaymentRequest> { numbers.by_ref().take(count).map(transfer).collect() };
    let mut told = json!({"system": "p2engine embedded ledger", "durability": config.durability.value});
    for (name, clients, count) in
        [("batches", 0, args.transfers), ("clients_100", 100, args.transfers), ("clients_1", 1, args.single)]
    {
        let from = bank.ends().await?;
        let begin = Instant::now();
        let latencies = match clients {
            0 => bank.settle_all(requests(count), BATCH).await?,
            clients => bank.drive(requests(count), clients).await?,
        };
        let settled = begin.elapsed().as_secs_f64();
        let records = bank.written(&from).await?;
        let bytes: usize = records.iter().flatten().map(|record| record.value.len()).sum();
        let begin = Instant::now();
        append(&bare, records, if clients == 0 { BATCH } else { 1 }, clients.max(1)).await?;
        let appended = begin.elapsed().as_secs_f64();
        if let Some(told) = told.as_object_mut() {
            let (per_s, bare_per_s) = (ratio(count, settled), ratio(count, appended));
            let line = json!({
                "transfers": count,
                "settled_per_s": round(per_s, 1),
                "bare_append_per_s": round(bare_per_s, 1),
                "ratio": round(appended / settled, 3),
                "bytes_per_transfer": bytes / count.max(1),
                "p50_ms": percentile(&latencies, 0.5),
                "p99_ms": percentile(&latencies, 0.99),
            });
            told.insert(name.to_owned(), line);
        }
    }
    let mut idle = Vec::new();
    for request in requests(args.idle) {
        tokio::time::sleep(IDLE).await;
        idle.extend(bank.drive(vec![request], 1).await?);
    }
    idle.sort_unstable();
    let verified = verify(&bank.counter.log).await?;
    if let Some(told) = told.as_object_mut() {
        let line = json!({"transfers": idle.len(), "p50_ms": percentile(&idle, 0.5), "p99_ms": percentile(&idle, 0.99)});
        told.insert("idle".to_owned(), line);
        told.insert("verify".to_owned(), verified);
    }
    bank.close().await?;
    Ok(told)
}

/// Folds every transaction anew and checks every rule, as `ledger verify`.
async fn verify(log: &Arc<dyn Log>) -> EngineResult<Value> {
    let begin = Instant::now();
    let fold = MemoryLedger::default();
    for partition in 0..log.partitions(Topic::LedgerTransactions) {
        fold.catch_up(log.as_ref(), partition).await.map_err(engine_error)?;
    }
    let book = fold.book(&BookId::from(MAIN_BOOK)).unwrap_or_default();
    book.check().map_err(EngineError::Internal)?;
    let records = usize::try_from(book.next_seq).unwrap_or_default();
    Ok(json!({"records": records, "records_per_s": round(ratio(records, begin.elapsed().as_secs_f64()), 0)}))
}

async fn open(config: &Config, dir: &Path) -> EngineResult<Backend> {
    let mut config = config.clone();
    config.data_dir.value = dir.to_owned();
    (config.kafka, config.scylla) = (None, None);
    Backend::open(&config).await.map_err(|failed| match failed {
        OpenFailed::Held(error) | OpenFailed::Other(error) => error,
    })
}

type Awaited = Arc<Mutex<HashMap<Id, oneshot::Sender<bool>>>>;

/// Where clients ask.
#[derive(Clone)]
struct Counter {
    log: Arc<dyn Log>,
    awaited: Awaited,
}

/// A ledger at work.
struct Bank {
    counter: Counter,
    follower: JoinHandle<EngineResult<()>>,
    settlement: JoinHandle<Result<(), ShellError>>,
    stop: watch::Sender<bool>,
}

impl Bank {
    async fn open(config: &Config, dir: &Path) -> EngineResult<Bank> {
        let log = open(config, dir).await?.log;
        let awaited = Awaited::default();
        let partitions = log.partitions(Topic::LedgerTransactions);
        let from = (0..partitions).map(|partition| (Topic::LedgerTransactions, partition, 0)).collect();
        let mut records = log.follow(from).await.map_err(engine_error)?;
        let known = Arc::clone(&awaited);
        let follower = tokio::spawn(async move {
            loop {
                for stored in records.next().await.map_err(engine_error)? {
                    let decoded = wire::decode(&stored).map_err(|e| EngineError::Internal(e.to_string()))?;
                    let Payload::LedgerTransaction(made) = decoded.payload else { continue };
                    let waits = known.lock().unwrap_or_else(PoisonError::into_inner).remove(&made.request.id);
                    let Some(waits) = waits else { continue };
                    let _ = waits.send(is_done(&made));
                }
            }
        });
        let (stop, stopped) = watch::channel(false);
        let of = Arc::clone(&log);
        let setup = Setup {
            wire: Arc::new(ProcessorWire::new("settlement", move |topic| of.partitions(topic))),
            log: Arc::clone(&log),
            views: Views::Ledger(Arc::new(MemoryLedger::default())),
            limits: Limits { start: Start::Earliest, ..Limits::default() },
            nonce: rand::random(),
            stop: stopped,
            drain: ANSWER_MAX,
            metrics: Metrics::new(),
        };
        let settlement = tokio::spawn(shell::run(Settlement, Arc::new(NoPort), setup));
        Ok(Bank { counter: Counter { log, awaited }, follower, settlement, stop })
    }

    /// One client that waits for no single answer: appends in batches, and waits for the last. No latencies.
    async fn settle_all(&self, requests: Vec<PaymentRequest>, batch: usize) -> EngineResult<Vec<Duration>> {
        let mut answers = Vec::with_capacity(requests.len());
        for requests in requests.chunks(batch) {
            answers.extend(requests.iter().map(|request| self.counter.expect(request.id)));
            self.counter.append(requests).await?;
        }
        for answer in answers {
            done(answer).await?;
        }
        Ok(Vec::new())
    }

    /// So many clients, each with one payment at a time; sorted latencies.
    async fn drive(&self, requests: Vec<PaymentRequest>, clients: usize) -> EngineResult<Vec<Duration>> {
        let requests = Arc::new(Mutex::new(requests.into_iter()));
        let mut running = JoinSet::new();
        for _ in 0..clients {
            let (counter, requests) = (self.counter.clone(), Arc::clone(&requests));
            running.spawn(async move {
                let mut latencies = Vec::new();
                loop {
                    let next = requests.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(request) = next else { return Ok::<_, EngineError>(latencies) };
                    let begin = Instant::now();
                    let answer = counter.expect(request.id);
                    counter.append(std::slice::from_ref(&request)).await?;
                    done(answer).await?;
                    latencies.push(begin.elapsed());
                }
            });
        }
        let mut latencies = Vec::new();
        while let Some(of_one) = running.join_next().await {
            latencies.extend(of_one.map_err(|error| EngineError::Internal(error.to_string()))??);
        }
        latencies.sort_unstable();
        Ok(latencies)
    }

    /// The ends of what a payment is written to.
    async fn ends(&self) -> EngineResult<BTreeMap<(Topic, i32), i64>> {
        let mut ends = BTreeMap::new();
        for topic in [Topic::PaymentRequests, Topic::LedgerTransactions, Topic::Artifacts] {
            for partition in 0..self.counter.log.partitions(topic) {
                let (_, end) = self.counter.log.bounds(topic, partition).await.map_err(engine_error)?;
                ends.insert((topic, partition), end);
            }
        }
        Ok(ends)
    }

    /// What was written since: the records of each payment.
    async fn written(&self, from: &BTreeMap<(Topic, i32), i64>) -> EngineResult<Vec<Vec<NewRecord>>> {
        let mut by_topic: BTreeMap<Topic, Vec<NewRecord>> = BTreeMap::new();
        for ((topic, partition), from) in from {
            let mut next = *from;
            loop {
                let records =
                    self.counter.log.read(*topic, *partition, next, 1_000).await.map_err(engine_error)?;
                let Some(last) = records.last() else { break };
                next = last.offset + 1;
                by_topic.entry(*topic).or_default().extend(records.into_iter().map(|stored| stored.record));
            }
        }
        let mut each: Vec<Vec<NewRecord>> = Vec::new();
        for records in by_topic.into_values() {
            each.resize_with(each.len().max(records.len()), Vec::new);
            each.iter_mut().zip(records).for_each(|(payment, record)| payment.push(record));
        }
        Ok(each)
    }

    async fn close(self) -> EngineResult<()> {
        let _ = self.stop.send(true);
        self.follower.abort();
        let ended = self.settlement.await.map_err(|error| EngineError::Internal(error.to_string()))?;
        ended.map_err(|error| EngineError::Internal(error.to_string()))
    }
}

impl Counter {
    fn expect(&self, id: Id) -> oneshot::Receiver<bool> {
        let (sender, receiver) = oneshot::channel();
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        receiver
    }

    async fn append(&self, requests: &[PaymentRequest]) -> EngineResult<()> {
        let partitions = self.log.partitions(Topic::PaymentRequests);
        let records = requests.iter().map(|request| encoded(request, partitions));
        self.log.append(records.collect::<EngineResult<_>>()?).await.map_err(engine_error)?;
        Ok(())
    }
}

async fn done(answer: oneshot::Receiver<bool>) -> EngineResult<()> {
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(EngineError::Internal("a payment of the measurement was refused".to_owned())),
        _ => Err(EngineError::Timeout("a payment was not settled".to_owned())),
    }
}

/// The same records on a log without a ledger: `payments` of them in each append, by so many clients.
async fn append(
    log: &Arc<dyn Log>,
    each: Vec<Vec<NewRecord>>,
    payments: usize,
    clients: usize,
) -> EngineResult<()> {
    let appends: Vec<Vec<NewRecord>> = each.chunks(payments).map(<[_]>::concat).collect();
    let appends = Arc::new(Mutex::new(appends.into_iter()));
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let (log, appends) = (Arc::clone(log), Arc::clone(&appends));
        running.spawn(async move {
            loop {
                let next = appends.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(records) = next else { return Ok::<_, EngineError>(()) };
                log.append(records).await.map_err(engine_error)?;
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.map_err(|error| EngineError::Internal(error.to_string()))??;
    }
    Ok(())
}

fn is_done(made: &LedgerTransaction) -> bool {
    matches!(made.outcome, LedgerOutcome::Committed(_))
}

fn wallet(number: usize) -> AccountId {
    AccountId(format!("wallet_{}", number % WALLETS))
}

fn opening() -> Vec<PaymentRequest> {
    let open = |account: AccountId, kind| {
        PaymentBody::OpenAccount(OpenAccount { account, kind, limits: AccountLimits::default() })
    };
    let mint = AccountId::from(MINT);
    let mut bodies = vec![
        PaymentBody::OpenBook(OpenBook { unit: "TOKEN".to_owned(), scale: 2 }),
        open(mint.clone(), AccountKind::Mint),
    ];
    bodies.extend((0..WALLETS).map(|number| open(wallet(number), AccountKind::Agent)));
    bodies.extend((0..WALLETS).map(|number| {
        PaymentBody::Mint(Mint { mint: mint.clone(), to: wallet(number), amount: 1_000_000_000 })
    }));
    bodies.into_iter().map(request).collect()
}

/// Between two wallets that no payment soon before or after has.
fn transfer(number: usize) -> PaymentRequest {
    let (from, to) = (wallet(number), wallet(number + WALLETS / 2));
    request(PaymentBody::Transfer(Transfer { legs: vec![Leg { from, to, amount: 100 }], scale: None }))
}

fn request(body: PaymentBody) -> PaymentRequest {
    PaymentRequest {
        id: draw_id(),
        book: BookId::from(MAIN_BOOK),
        by: "bench".to_owned(),
        cause: PaymentCause {
            kind: CauseKind::Human,
            reference: None,
            conversation: None,
            agent: None,
            branch: None,
            reason: "a measurement".to_owned(),
        },
        reply_to: None,
        not_after_ms: None,
        body,
    }
}

fn encoded(request: &PaymentRequest, partitions: i32) -> EngineResult<NewRecord> {
    let id = draw_id();
    let payload = Payload::PaymentRequest(request.clone());
    let message =
        Message { id, cause: id, cause_position: None, time_ms: now_ms(), traceparent: None, payload };
    wire::encode(&message, "/p2/bench", partitions).map_err(|error| EngineError::Internal(error.to_string()))
}
