//! Single batches: two owners, old commands, refused ones that may still be on their way.

use std::sync::Arc;

use fake_canton::{Fake, Fault};
use p2_canton::{CantonLedger, Class, Command};
use p2_core::ids::{AccountId, BookId, Id};
use p2_core::ledger::{Entry, EntryKind, Submission, Submitted};
use p2_stream::ports::OutsideLedger;
use p2_stream::shell::now_ms;
use serde_json::json;

use crate::desk::{ledger, receipts};

fn entry(kind: EntryKind, from: Option<&str>, to: Option<&str>, reason: &str, amount: i64) -> Entry {
    Entry {
        kind,
        from: from.map(AccountId::from),
        to: to.map(AccountId::from),
        amount,
        request: Id::of_text(reason),
        evaluation: None,
        conversation: None,
        reason: reason.into(),
    }
}

fn batch(expected: i64, last: i64, entries: Vec<Entry>) -> Submission {
    Submission {
        book: BookId::from("main"),
        unit: "TOKEN".into(),
        scale: 2,
        batch: Id::of_text(&format!("{expected} {last}")),
        command: format!("p2/main/{expected}-{last}"),
        expected,
        last,
        entries,
    }
}

fn deposit(to: &str, reason: &str) -> Vec<Entry> {
    vec![entry(EntryKind::Deposit, None, Some(to), reason, 1_000)]
}

fn soon() -> i64 {
    now_ms() + 10_000
}

async fn taken(ledger: &CantonLedger, batch: &Submission) -> String {
    match ledger.submit(batch, soon()).await {
        Submitted::Taken { external } => external,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn two_owners_of_one_book_are_told_apart_by_its_cursor() {
    let fake = Fake::ready().await;
    taken(&ledger(&fake), &batch(0, 0, deposit("alpha", "first"))).await;
    let (one, other) = (ledger(&fake), ledger(&fake));
    let (mine, yours) = (batch(1, 3, deposit("alpha", "mine")), batch(1, 4, deposit("alpha", "yours")));
    let (a, b) = tokio::join!(one.submit(&mine, soon()), other.submit(&yours, soon()));
    let won = [&a, &b].into_iter().filter(|outcome| matches!(outcome, Submitted::Taken { .. })).count();
    assert_eq!(won, 1, "{a:?} {b:?}");
    let told = [a, b].into_iter().find_map(|outcome| match outcome {
        Submitted::Unknown { message } => Some(message),
        _ => None,
    });
    let told = told.unwrap();
    assert!(told.contains("somebody else settles"), "{told}");
    assert_eq!(receipts(&fake).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_submissions_of_one_batch_at_once_are_one_transaction() {
    let fake = Fake::ready().await;
    let first = batch(0, 7, deposit("alpha", "once"));
    let all = (0..50).map(|_| {
        let (ledger, first) = (ledger(&fake), first.clone());
        tokio::spawn(async move { ledger.submit(&first, soon()).await })
    });
    let outcomes = futures::future::join_all(all).await;
    let names: std::collections::BTreeSet<String> = outcomes
        .into_iter()
        .map(|outcome| match outcome.unwrap() {
            Submitted::Taken { external } => external,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names.len(), 1, "all are told the same transaction");
    assert_eq!(receipts(&fake), ["once"]);
    assert_eq!(fake.state().active(fake_canton::model::CURSOR).len(), 1, "and made one cursor");
}

#[tokio::test]
async fn what_the_participant_has_forgotten_the_cursor_still_refuses() {
    let fake = Fake::ready().await;
    let first = batch(0, 7, deposit("alpha", "once"));
    let name = taken(&ledger(&fake), &first).await;
    let cursor = {
        let state = fake.state();
        let found = state
            .contracts
            .iter()
            .find(|(_, contract)| contract.active && contract.template == fake_canton::model::CURSOR);
        found.unwrap().0.clone()
    };
    fake.pass_seconds(1_000_000);
    assert_eq!(taken(&ledger(&fake), &first).await, name, "asked again, it reads the cursor");

    // A client that asks nothing first: with the cursor that it knew, and with the newest one.
    let client = ledger(&fake).client().clone();
    let old = "00".to_owned() + &"0".repeat(61) + "1";
    for (contract, class) in [(old, Class::Inputs), (cursor, Class::Definite)] {
        let submission = p2_canton::Submission {
            command: Command::Exercise {
                template: "#p2engine-ledger:P2Engine.Ledger:SettlementCursor".into(),
                contract,
                choice: "Settle".into(),
                argument: json!({
                    "expected": "0", "lastOffset": "7", "command": first.command, "inputs": [],
                    "entries": [{"tag": "Deposit", "value": {
                        "wallet": "alpha", "amount": "10.00",
                        "cause": {"recordId": "r", "conversationId": null, "evaluationId": null, "reason": "twice"},
                    }}],
                }),
            },
            command_id: first.command.clone(),
            submission_id: format!("try {class:?}"),
            workflow_id: "p2/main".into(),
            user: "p2engine".into(),
            party: "p2engine::1220feed".into(),
            deduplication_s: 60,
        };
        assert_eq!(client.submit(&submission).await.unwrap_err().class(), class);
    }
    assert_eq!(receipts(&fake), ["once"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_refused_cannot_succeed_later_by_an_earlier_try() {
    let fake = Fake::ready().await;
    let ledger = ledger(&fake);
    taken(&ledger, &batch(0, 0, deposit("alpha", "first"))).await;
    // The first try is accepted and kept; the participant then refuses what was submitted again.
    let spend = vec![entry(EntryKind::Transfer, Some("alpha"), Some("beta"), "spend", 1_000)];
    let held = batch(1, 1, spend);
    fake.fail([Fault::Hold]);
    let early = now_ms() + 300;
    assert!(matches!(ledger.submit(&held, early).await, Submitted::Unknown { .. }));
    fake.state().poison = Some("spend".into());
    // It restarts, and has forgotten that the command is in flight; the network has not.
    fake.stop().await;
    fake.start_again().await;
    let outcome = ledger.reconcile(&held, soon()).await;
    assert!(matches!(&outcome, Submitted::Refused { message } if message.contains("poison")), "{outcome:?}");
    fake.state().poison = None;
    fake.release();
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let next = batch(1, 2, deposit("alpha", "next"));
    taken(&ledger, &next).await;
    assert_eq!(receipts(&fake), ["first", "next"], "what was refused stays refused");
}

#[tokio::test]
async fn an_overdraft_that_the_book_does_not_know_of_is_refused_by_the_ledger() {
    let fake = Fake::ready().await;
    let ledger = ledger(&fake);
    let spend = |amount| vec![entry(EntryKind::Transfer, Some("alpha"), Some("beta"), "spend", amount)];
    taken(&ledger, &batch(0, 0, deposit("alpha", "first"))).await;
    let outcome = ledger.submit(&batch(1, 1, spend(1_001)), soon()).await;
    assert!(
        matches!(&outcome, Submitted::Refused { message } if message.contains("overdraft")),
        "{outcome:?}"
    );
    taken(&ledger, &batch(1, 2, spend(1_000))).await;
    let reward = vec![entry(EntryKind::Reward, Some("beta"), Some("alpha"), "reward", 10)];
    let outcome = ledger.submit(&batch(3, 3, reward), soon()).await;
    assert!(
        matches!(&outcome, Submitted::Refused { message } if message.contains("evaluation")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn more_contracts_than_a_list_has_are_read_in_pages() {
    let fake = Fake::ready().await;
    let writer = ledger(&fake);
    for round in 0..3 {
        let entries = (0..150)
            .map(|n| entry(EntryKind::Deposit, None, Some(&format!("w{round}-{n}")), "many", 100))
            .collect();
        taken(&writer, &batch(round, round, entries)).await;
    }
    let balances = ledger(&fake).balances(&BookId::from("main"), 2).await.unwrap();
    assert_eq!((balances.len(), balances.values().sum::<i64>()), (450, 45_000));
    assert_eq!(writer.balances(&BookId::from("main"), 2).await.unwrap(), balances, "updates tell the same");
    fake.state().no_pages = true;
    let error = ledger(&fake).balances(&BookId::from("main"), 2).await.unwrap_err();
    assert!(error.contains("no pages") && error.contains("http-list-max-elements-limit"), "{error}");
}

#[tokio::test]
async fn a_view_that_fell_behind_the_pruning_is_read_anew() {
    let fake = Fake::ready().await;
    let reader = Arc::clone(&ledger(&fake));
    taken(&reader, &batch(0, 0, deposit("alpha", "a"))).await;
    let before = reader.cursor(&BookId::from("main")).await.unwrap();
    assert_eq!(before, Some(1));
    taken(&ledger(&fake), &batch(1, 4, deposit("alpha", "b"))).await;
    {
        let mut state = fake.state();
        state.pass(10);
        state.pruned = state.end();
    }
    assert_eq!(reader.cursor(&BookId::from("main")).await.unwrap(), Some(5));
    assert_eq!(reader.cursor(&BookId::from("other")).await.unwrap(), None);
    // What moved the cursor is pruned: it is known by its offset.
    let known = reader.reconcile(&batch(1, 4, deposit("alpha", "b")), soon()).await;
    assert!(matches!(&known, Submitted::Taken { external } if external.starts_with("offset ")), "{known:?}");
    fake.state().pass(100_000);
    assert_eq!(reader.cursor(&BookId::from("main")).await.unwrap(), Some(5), "far behind is read anew too");
}
