//! A settlement at work over a log in memory, on either ledger, and the requests that it is asked.

use std::sync::Arc;
use std::time::Duration;

use fake_canton::{Fake, model};
use p2_canton::{CantonConfig, CantonLedger};
use p2_core::ids::{AccountId, BookId, Id};
use p2_core::ledger::{Batching, Book};
use p2_core::record::*;
use p2_stream::memory::{MemoryLedger, MemoryLog};
use p2_stream::metrics::Metrics;
use p2_stream::ports::{Log, NewRecord, OutsideLedger};
use p2_stream::runtime::{Limits, Start};
use p2_stream::shell::{self, Setup, ShellError, Views};
use p2_stream::wire::{self, ProcessorWire};
use settlement::{NoPort, OutsidePort, OutsideSettlement, Settlement};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) const NOW: i64 = 1_700_000_000_000;
const PARTITIONS: i32 = 2;

pub(crate) fn id(text: &str) -> Id {
    Id::of_text(text)
}

pub(crate) fn request(name: &str, body: PaymentBody) -> PaymentRequest {
    PaymentRequest {
        id: id(name),
        book: BookId::from("main"),
        by: "tester".into(),
        cause: PaymentCause {
            kind: CauseKind::Human,
            reference: None,
            conversation: None,
            agent: None,
            branch: None,
            reason: name.into(),
        },
        reply_to: None,
        not_after_ms: None,
        body,
    }
}

pub(crate) fn transfer(from: &str, to: &str, amount: i64) -> PaymentBody {
    let leg = Leg { from: AccountId::from(from), to: AccountId::from(to), amount };
    PaymentBody::Transfer(Transfer { legs: vec![leg], scale: None })
}

pub(crate) fn mint(to: &str, amount: i64) -> PaymentBody {
    PaymentBody::Mint(Mint { mint: AccountId::from("mint"), to: AccountId::from(to), amount })
}

/// A book with 100.00 in the treasury and in each of alpha, beta and gamma.
pub(crate) fn opening() -> Vec<PaymentRequest> {
    let mut all = vec![request("book", PaymentBody::OpenBook(OpenBook { unit: "TOKEN".into(), scale: 2 }))];
    let wallets = ["alpha", "beta", "gamma"];
    let accounts = [("mint", AccountKind::Mint), ("treasury", AccountKind::Treasury)];
    for (name, kind) in accounts.into_iter().chain(wallets.map(|name| (name, AccountKind::Agent))) {
        let (account, limits) = (AccountId::from(name), AccountLimits::default());
        let open = PaymentBody::OpenAccount(OpenAccount { account, kind, limits });
        all.push(request(&format!("open {name}"), open));
    }
    for to in ["treasury"].into_iter().chain(wallets) {
        all.push(request(&format!("mint {to}"), mint(to, 10_000)));
    }
    all
}

pub(crate) fn config(fake: &Fake) -> CantonConfig {
    CantonConfig { url: fake.url(), ..CantonConfig::default() }
}

pub(crate) fn ledger(fake: &Fake) -> Arc<CantonLedger> {
    Arc::new(CantonLedger::new(config(fake)).unwrap())
}

/// Who settles.
pub(crate) enum On {
    Embedded,
    Outside(Arc<dyn OutsideLedger>),
}

type Running = (JoinHandle<Result<(), ShellError>>, watch::Sender<bool>);

/// A log, and who settles on it.
pub(crate) struct Desk {
    pub(crate) log: MemoryLog,
    running: Option<Running>,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        Desk { log: MemoryLog::new(PARTITIONS), running: None }
    }

    /// Starts a settlement that knows nothing but the log.
    pub(crate) fn start(&mut self, on: On) {
        let (stop, stopped) = watch::channel(false);
        let setup = Setup {
            log: Arc::new(self.log.clone()),
            views: Views::Ledger(Arc::new(MemoryLedger::default())),
            wire: Arc::new(ProcessorWire::new("settlement", |_| PARTITIONS)),
            limits: Limits { start: Start::Earliest, ..Limits::default() },
            nonce: 1,
            stop: stopped,
            drain: Duration::from_secs(5),
            metrics: Metrics::new(),
        };
        let batching = Batching { requests_max: 16, ..Batching::default() };
        let running = match on {
            On::Embedded => tokio::spawn(shell::run(Settlement, Arc::new(NoPort), setup)),
            On::Outside(ledger) => {
                let port = Arc::new(OutsidePort::new(ledger));
                tokio::spawn(shell::run(OutsideSettlement { batching }, port, setup))
            }
        };
        self.running = Some((running, stop));
    }

    /// Ends it as a crash does: nothing is finished.
    pub(crate) async fn kill(&mut self) {
        let (running, _stop) = self.running.take().unwrap();
        running.abort();
        let _ = running.await;
    }

    pub(crate) async fn stop(&mut self) {
        let (running, stop) = self.running.take().unwrap();
        stop.send(true).unwrap();
        running.await.unwrap().unwrap();
    }

    pub(crate) async fn ask(&self, requests: Vec<PaymentRequest>) {
        let record = |request: PaymentRequest| -> NewRecord {
            let id = Id::derive(&request.id, "message", 0);
            let payload = Payload::PaymentRequest(request);
            let message =
                Message { id, cause: id, cause_position: None, time_ms: NOW, traceparent: None, payload };
            wire::encode(&message, "/p2/test", PARTITIONS).unwrap()
        };
        self.log.append(requests.into_iter().map(record).collect()).await.unwrap();
    }

    pub(crate) async fn made(&self) -> Vec<LedgerTransaction> {
        let mut found = Vec::new();
        for partition in 0..PARTITIONS {
            let records = self.log.read(Topic::LedgerTransactions, partition, 0, 100_000).await.unwrap();
            found.extend(records.iter().map(|stored| match wire::decode(stored).unwrap().payload {
                Payload::LedgerTransaction(made) => made,
                other => panic!("{other:?}"),
            }));
        }
        found
    }

    /// Waits until something holds of what was made.
    pub(crate) async fn until(&self, holds: impl Fn(&[LedgerTransaction]) -> bool) -> Vec<LedgerTransaction> {
        for _ in 0..6_000 {
            let made = self.made().await;
            if holds(&made) {
                return made;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let made = self.made().await;
        let last = made.last().map(|made| (made.outcome.clone(), made.request.cause.reason.clone()));
        panic!("it did not come to that: {} transactions, {last:?}", made.len());
    }

    /// Waits until every one of these has its final answer; gives the fold.
    pub(crate) async fn settled(&self, names: &[String]) -> Book {
        let made = self.until(|made| names.iter().all(|name| answer(made, name).is_some())).await;
        fold(&made)
    }

    /// Asks, and waits for the final answers.
    pub(crate) async fn settle(&self, requests: Vec<PaymentRequest>) -> Book {
        let names: Vec<String> = requests.iter().map(|request| request.cause.reason.clone()).collect();
        self.ask(requests).await;
        self.settled(&names).await
    }
}

pub(crate) fn fold(made: &[LedgerTransaction]) -> Book {
    let mut book = Book::default();
    made.iter().for_each(|made| book.apply(made).unwrap());
    book.check().unwrap();
    book
}

/// The final answer to a request.
pub(crate) fn answer<'m>(made: &'m [LedgerTransaction], name: &str) -> Option<&'m LedgerTransaction> {
    made.iter().find(|made| {
        let last = matches!(made.outcome, LedgerOutcome::Committed(_) | LedgerOutcome::Rejected(_));
        made.request.id == id(name) && last
    })
}

pub(crate) fn has(book: &Book, name: &str) -> i64 {
    book.account(&AccountId::from(name)).unwrap().balance.posted
}

/// Reasons on the receipts of a participant, in the order in which they came to be.
pub(crate) fn receipts(fake: &Fake) -> Vec<String> {
    let state = fake.state();
    let reason = |contract: &&fake_canton::Contract| {
        contract.arguments["cause"]["reason"].as_str().unwrap().to_owned()
    };
    state.active(model::RECEIPT).iter().map(reason).collect()
}

/// What a participant has of every wallet is what the book has, and no more of anything.
pub(crate) async fn compare(fake: &Fake, book: &Book) {
    let balances = ledger(fake).balances(&BookId::from("main"), 2).await.unwrap();
    let mut outside = balances.clone();
    for (name, account) in book.accounts.iter().filter(|(_, account)| account.kind != AccountKind::Mint) {
        let found = outside.remove(name).unwrap_or(0);
        assert_eq!(found, account.balance.posted, "{name}: {balances:?}");
    }
    assert!(outside.is_empty(), "{outside:?}");
}
