use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use p2_core::ids::AccountId;
use p2_core::ledger::{self, Ruling};
use p2_core::record::{
    AccountKind, AccountLimits, CauseKind, Leg, Message, Mint, OpenAccount, OpenBook, PaymentBody,
    PaymentCause, PaymentRequest, Reserve, Transfer,
};

use super::*;
use crate::memory::MemoryLog;

const PARTITIONS: i32 = 2;
const NOW: i64 = 1_800_000_000_000;

#[derive(Debug, Default)]
struct Files {
    kept: Mutex<BTreeMap<i32, Vec<u8>>>,
    loads: AtomicU64,
}

impl FoldFiles for Files {
    fn load(&self, partition: i32) -> Option<Vec<u8>> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.kept.lock().unwrap().get(&partition).cloned()
    }

    fn keep(&self, partition: i32, bytes: &[u8]) {
        self.kept.lock().unwrap().insert(partition, bytes.to_vec());
    }
}

fn body(n: u64) -> PaymentBody {
    let account = |name: &str| AccountId::from(name);
    let open =
        |name: &str, kind| OpenAccount { account: account(name), kind, limits: AccountLimits::default() };
    match n {
        0 => PaymentBody::OpenBook(OpenBook { unit: "TOKEN".to_owned(), scale: 2 }),
        1 => PaymentBody::OpenAccount(open("mint", AccountKind::Mint)),
        2 => PaymentBody::OpenAccount(open("alpha", AccountKind::Agent)),
        3 => PaymentBody::OpenAccount(open("beta", AccountKind::Agent)),
        4 => PaymentBody::Mint(Mint { mint: account("mint"), to: account("alpha"), amount: 100_000 }),
        n if n % 50 == 0 => PaymentBody::Reserve(Reserve {
            from: account("alpha"),
            to: account("beta"),
            amount: 1,
            expires_ms: Some(NOW + 1_000_000),
            scale: None,
        }),
        n => {
            let (from, to) = if n % 2 == 0 { ("alpha", "beta") } else { ("beta", "alpha") };
            PaymentBody::Transfer(Transfer {
                legs: vec![Leg { from: account(from), to: account(to), amount: 3 }],
                scale: None,
            })
        }
    }
}

/// Appends so many requests' transactions, from the `from`-th on.
async fn settle(log: &MemoryLog, book: &mut Book, from: u64, count: u64) {
    let cause = PaymentCause {
        kind: CauseKind::Human,
        reference: None,
        conversation: None,
        agent: None,
        branch: None,
        reason: "test".to_owned(),
    };
    let mut records = Vec::new();
    for n in from..from + count {
        let request = PaymentRequest {
            id: Id::of_text(&n.to_string()),
            book: BookId::from("main"),
            by: "test".to_owned(),
            cause: cause.clone(),
            reply_to: None,
            not_after_ms: None,
            body: body(n),
        };
        let Ruling::Transactions(made) = ledger::decide(book, &request, NOW) else { panic!("{n}") };
        for transaction in made {
            book.apply(&transaction).unwrap();
            let message = Message {
                id: transaction.id,
                cause: request.id,
                cause_position: None,
                time_ms: NOW,
                traceparent: None,
                payload: Payload::LedgerTransaction(transaction),
            };
            records.push(wire::encode(&message, "/p2/test", PARTITIONS).unwrap());
        }
    }
    log.append(records).await.unwrap();
}

fn partition() -> i32 {
    wire::partition("main", PARTITIONS)
}

fn ledger(files: &Arc<Files>, log: &MemoryLog) -> MemoryLedger {
    MemoryLedger::kept(Arc::clone(files) as Arc<dyn FoldFiles>, Arc::new(log.clone()))
}

/// A log with enough for a fold to be kept, and what is kept of it.
async fn with_kept(count: u64) -> (MemoryLog, Book, Arc<Files>) {
    let (log, mut book, files) = (MemoryLog::new(PARTITIONS), Book::default(), Arc::new(Files::default()));
    settle(&log, &mut book, 0, count).await;
    let first = ledger(&files, &log);
    first.catch_up(&log, partition()).await.unwrap();
    while files.kept.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    (log, book, files)
}

/// Where a ledger is when it has only taken up what is kept.
async fn begins_at(files: &Arc<Files>, log: &MemoryLog) -> i64 {
    ledger(files, log).applied(partition()).await.unwrap()
}

#[tokio::test]
async fn a_start_goes_on_from_the_kept_fold_and_comes_to_the_same() {
    let (log, mut book, files) = with_kept(KEEP_AFTER + 7).await;
    settle(&log, &mut book, KEEP_AFTER + 7, 100).await;
    assert_eq!(files.loads.load(Ordering::SeqCst), 1, "looked for once");
    let second = ledger(&files, &log);
    let begin = second.applied(partition()).await.unwrap();
    assert!(begin >= i64::try_from(KEEP_AFTER).unwrap(), "{begin}");
    second.catch_up(&log, partition()).await.unwrap();
    let folded = second.book(&BookId::from("main")).unwrap();
    assert!(folded == book, "what was kept and the rest are the whole");
    folded.check().unwrap();
    assert!(folded.answers.len() > usize::try_from(KEEP_AFTER).unwrap());
    assert!(folded.next_due().is_some(), "timers too");
}

#[tokio::test]
async fn a_small_ledger_is_not_kept() {
    let (log, mut book, files) = (MemoryLog::new(PARTITIONS), Book::default(), Arc::new(Files::default()));
    settle(&log, &mut book, 0, 500).await;
    ledger(&files, &log).catch_up(&log, partition()).await.unwrap();
    tokio::task::yield_now().await;
    assert!(files.kept.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_fold_of_another_log_or_a_damaged_one_is_passed_over() {
    let (log, _, files) = with_kept(KEEP_AFTER).await;
    assert!(begins_at(&files, &log).await > 0);
    // Another log that has something at the same place.
    let (other, mut book) = (MemoryLog::new(PARTITIONS), Book::default());
    settle(&other, &mut book, 0, 4).await;
    settle(&other, &mut book, 1_000_000, KEEP_AFTER).await;
    assert_eq!(begins_at(&files, &other).await, 0);
    assert_eq!(begins_at(&files, &MemoryLog::new(PARTITIONS)).await, 0, "an empty one");
    let whole = files.kept.lock().unwrap()[&partition()].clone();
    for at in [0, 7, 8, 39, 40, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        files.keep(partition(), &damaged);
        assert_eq!(begins_at(&files, &log).await, 0, "byte {at}");
    }
    for length in [0, 8, 40, whole.len() - 1] {
        files.keep(partition(), &whole[..length]);
        assert_eq!(begins_at(&files, &log).await, 0, "{length} bytes");
    }
}

/// The form is not described anywhere but in the types. When this fails, a kept fold of the version before would be
/// misread: raise the version in `HEAD`, and write the file anew with `UPDATE_GOLDEN=1`.
#[tokio::test]
async fn the_form_of_a_kept_fold_changes_with_its_version_only() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/memory/ledger/golden.fold");
    let (log, mut book, files) = (MemoryLog::new(PARTITIONS), Book::default(), Arc::new(Files::default()));
    settle(&log, &mut book, 0, 60).await;
    let ledger = ledger(&files, &log);
    ledger.catch_up(&log, partition()).await.unwrap();
    ledger.inner().newest.get_mut(&partition()).unwrap().since_kept = KEEP_AFTER;
    ledger.keep_where_due(partition());
    while files.kept.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &files.kept.lock().unwrap()[&partition()]).unwrap();
    }
    assert_eq!(std::fs::read(&file).unwrap(), files.kept.lock().unwrap()[&partition()]);
}
