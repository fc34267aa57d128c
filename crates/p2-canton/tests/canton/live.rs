//! Against a real participant, where `P2_CANTON_URL` names one: docs/canton.md says how to have it. Without, it tests
//! nothing and says so.

use std::path::PathBuf;
use std::sync::Arc;

use p2_canton::{CantonConfig, CantonLedger, Client, bootstrap};
use p2_core::ids::{AccountId, BookId, Id};
use p2_core::ledger::{Entry, EntryKind, Submission, Submitted};
use p2_stream::ports::OutsideLedger;
use p2_stream::shell::now_ms;

fn live() -> Option<CantonConfig> {
    let url = std::env::var("P2_CANTON_URL").ok().filter(|url| !url.is_empty())?;
    let token_file = std::env::var_os("P2_CANTON_TOKEN_FILE").map(PathBuf::from);
    Some(CantonConfig { url, token_file, ..CantonConfig::default() })
}

#[tokio::test]
async fn a_real_participant_takes_a_batch_once() {
    let Some(config) = live() else {
        println!("P2_CANTON_URL is not set: nothing was tested");
        return;
    };
    let client = Client::new(&config).unwrap();
    let dar = std::env::var_os("P2_CANTON_DAR").map(|path| std::fs::read(path).unwrap());
    let ready = bootstrap(&client, &config, dar).await.unwrap();
    println!("Canton {}, party {}", ready.version, ready.party);
    // A book of this run, so that runs do not meet.
    let book = BookId(format!("live-{}", now_ms()));
    let entry = |kind, from: Option<&str>, to: Option<&str>, amount| Entry {
        kind,
        from: from.map(AccountId::from),
        to: to.map(AccountId::from),
        amount,
        request: Id::of_text(book.as_str()),
        evaluation: Some(Id::of_text("evaluation")),
        conversation: None,
        reason: "live test".into(),
    };
    let batch = |expected: i64, last: i64, entries| Submission {
        book: book.clone(),
        unit: "TOKEN".into(),
        scale: 2,
        batch: Id::of_text("batch"),
        command: format!("p2/{book}/{expected}-{last}"),
        expected,
        last,
        entries,
    };
    let first = batch(
        0,
        1,
        vec![
            entry(EntryKind::Deposit, None, Some("treasury"), 10_000),
            entry(EntryKind::Reward, Some("treasury"), Some("alpha"), 2_500),
        ],
    );
    let soon = || now_ms() + 60_000;
    let ledger = Arc::new(CantonLedger::new(config.clone()).unwrap());
    let outcome = ledger.submit(&first, soon()).await;
    assert!(matches!(outcome, Submitted::Taken { .. }), "{outcome:?}");
    let fresh = CantonLedger::new(config).unwrap();
    assert_eq!(fresh.reconcile(&first, soon()).await, outcome);
    let overdraft = batch(2, 2, vec![entry(EntryKind::Transfer, Some("alpha"), Some("beta"), 2_501)]);
    let refused = ledger.submit(&overdraft, soon()).await;
    assert!(matches!(refused, Submitted::Refused { .. }), "{refused:?}");
    let second = batch(2, 3, vec![entry(EntryKind::Transfer, Some("alpha"), Some("beta"), 2_500)]);
    assert!(matches!(ledger.submit(&second, soon()).await, Submitted::Taken { .. }));
    let balances = fresh.balances(&book, 2).await.unwrap();
    assert_eq!(balances.get(&AccountId::from("beta")), Some(&2_500));
    assert_eq!(fresh.cursor(&book).await.unwrap(), Some(4));
}
