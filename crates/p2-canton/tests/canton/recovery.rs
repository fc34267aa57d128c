//! A settlement that is killed, loses answers, and finds its participant gone.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fake_canton::{Fake, Fault};
use p2_core::ids::BookId;
use p2_core::ledger::{Submission, Submitted};
use p2_core::record::*;
use p2_stream::ports::{OutsideLedger, StoreError};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::desk::{Desk, On, answer, compare, has, ledger, opening, receipts, request, transfer};

/// A ledger whose answers never arrive.
struct Mute(Arc<dyn OutsideLedger>);

#[async_trait]
impl OutsideLedger for Mute {
    async fn submit(&self, batch: &Submission, deadline_ms: i64) -> Submitted {
        self.0.submit(batch, deadline_ms).await;
        std::future::pending().await
    }

    async fn reconcile(&self, batch: &Submission, deadline_ms: i64) -> Submitted {
        self.submit(batch, deadline_ms).await
    }

    async fn cursor(&self, book: &BookId) -> Result<Option<i64>, StoreError> {
        self.0.cursor(book).await
    }
}

async fn opened(fake: &Fake) -> Desk {
    let mut desk = Desk::new();
    desk.start(On::Outside(ledger(fake)));
    let book = desk.settle(opening()).await;
    assert_eq!(has(&book, "alpha"), 10_000);
    desk
}

fn count(fake: &Fake, reason: &str) -> usize {
    receipts(fake).iter().filter(|found| *found == reason).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_after_the_submission_and_before_its_result_pays_once() {
    for window in [0, 90_000] {
        let fake = Fake::ready().await;
        let mut desk = opened(&fake).await;
        desk.stop().await;
        desk.start(On::Outside(Arc::new(Mute(ledger(&fake)))));
        desk.ask(vec![request("pay", transfer("alpha", "beta", 2_500))]).await;
        while count(&fake, "pay") == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        desk.kill().await;
        assert!(answer(&desk.made().await, "pay").is_none(), "nobody was told");
        // The second time the participant has forgotten the command: what is left is the cursor.
        fake.pass_seconds(window);
        desk.start(On::Outside(ledger(&fake)));
        let book = desk.settled(&["pay".to_owned()]).await;
        desk.stop().await;
        assert_eq!((has(&book, "beta"), count(&fake, "pay")), (12_500, 1));
        compare(&fake, &book).await;
        let made = desk.made().await;
        let LedgerOutcome::Committed(done) = &answer(&made, "pay").unwrap().outcome else { panic!() };
        let update = fake.state().updates.last().unwrap().update_id.clone();
        assert_eq!(done.external, Some(update), "the audit trail leads to the ledger's own");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_before_the_submission_pays_once() {
    let fake = Fake::ready().await;
    let mut desk = opened(&fake).await;
    desk.stop().await;
    fake.stop().await;
    desk.start(On::Outside(ledger(&fake)));
    desk.ask(vec![request("pay", transfer("alpha", "beta", 2_500))]).await;
    desk.until(|made| made.last().is_some_and(|made| made.outcome.as_str() == "planned")).await;
    desk.kill().await;
    fake.start_again().await;
    desk.start(On::Outside(ledger(&fake)));
    let book = desk.settled(&["pay".to_owned()]).await;
    desk.stop().await;
    assert_eq!((has(&book, "beta"), count(&fake, "pay")), (12_500, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_leads_to_the_same_result_and_one_receipt() {
    let faults = [
        Fault::LoseAnswer,
        Fault::TimeOut,
        Fault::Unavailable,
        Fault::BadGateway,
        Fault::Contention,
        Fault::Slow(60),
    ];
    let fake = Fake::ready().await;
    let mut desk = opened(&fake).await;
    for (number, fault) in faults.into_iter().enumerate() {
        let name = format!("pay {number}");
        fake.fail([fault.clone()]);
        let book = desk.settle(vec![request(&name, transfer("alpha", "beta", 100))]).await;
        assert_eq!((has(&book, "beta"), count(&fake, &name)), (10_100 + 100 * number as i64, 1), "{fault:?}");
        compare(&fake, &book).await;
    }
    desk.stop().await;
    let state = fake.state();
    let commands: std::collections::BTreeSet<_> = state.tries.iter().map(|(command, _)| command).collect();
    let tries: std::collections::BTreeSet<_> = state.tries.iter().map(|(_, submission)| submission).collect();
    assert!(commands.len() < state.tries.len(), "something was tried again");
    assert_eq!(tries.len(), state.tries.len(), "every try has a name of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_pays_nothing_is_in_doubt_and_goes_on_when_it_is_mended() {
    let fake = Fake::ready().await;
    let mut desk = opened(&fake).await;
    fake.state().token = Some("a-token".into());
    desk.ask(vec![request("pay", transfer("alpha", "beta", 100))]).await;
    let made = desk.until(|made| made.last().is_some_and(|made| made.outcome.as_str() == "in_doubt")).await;
    let LedgerOutcome::InDoubt(why) = &made.last().unwrap().outcome else { panic!() };
    assert!(why.message.contains("401") || why.message.contains("NA"), "{}", why.message);
    fake.state().token = None;
    let book = desk.settled(&["pay".to_owned()]).await;
    desk.stop().await;
    assert_eq!((has(&book, "beta"), count(&fake, "pay")), (10_100, 1));
    let doubts = desk.made().await.iter().filter(|made| made.outcome.as_str() == "in_doubt").count();
    assert_eq!(doubts, 1, "it is said once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_request_in_a_batch_is_refused_alone() {
    let fake = Fake::ready().await;
    let mut desk = opened(&fake).await;
    fake.state().poison = Some("poison".into());
    let name = |number: usize| if number == 11 { "poison".to_owned() } else { format!("pay {number}") };
    let requests: Vec<_> =
        (0..30).map(|number| request(&name(number), transfer("alpha", "beta", 1))).collect();
    let book = desk.settle(requests).await;
    desk.stop().await;
    let made = desk.made().await;
    let LedgerOutcome::Rejected(why) = &answer(&made, "poison").unwrap().outcome else { panic!() };
    assert_eq!(why.code, "external");
    assert!(why.message.contains("DAML_FAILURE"), "{}", why.message);
    assert_eq!(has(&book, "beta"), 10_029);
    compare(&fake, &book).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_that_is_asked_fifty_times_at_once_has_one_receipt() {
    let fake = Fake::ready().await;
    let mut desk = opened(&fake).await;
    let pay = request("pay", transfer("alpha", "beta", 100));
    let asked = (0..50).map(|_| desk.ask(vec![pay.clone()]));
    futures::future::join_all(asked).await;
    let book = desk.settle(vec![request("last", transfer("beta", "alpha", 1))]).await;
    desk.stop().await;
    assert_eq!((has(&book, "beta"), count(&fake, "pay")), (10_099, 1));
    let made = desk.made().await;
    let final_answers = made.iter().filter(|made| made.request.id == crate::desk::id("pay"));
    assert_eq!(final_answers.filter(|made| made.outcome.as_str() == "committed").count(), 1);
}

/// Random payments in random batches, with faults and kills in between: nothing is lost, nothing happens twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_conserved_whatever_goes_wrong() {
    const WALLETS: [&str; 4] = ["alpha", "beta", "gamma", "treasury"];
    for seed in 0..6 {
        let mut random = SmallRng::seed_from_u64(seed);
        let fake = Fake::ready().await;
        let mut desk = opened(&fake).await;
        let mut names = Vec::new();
        for round in 0..12 {
            for _ in 0..random.random_range(0..3) {
                let faults = [
                    Fault::LoseAnswer,
                    Fault::TimeOut,
                    Fault::Unavailable,
                    Fault::BadGateway,
                    Fault::Contention,
                    Fault::Slow(20),
                ];
                fake.fail([faults[random.random_range(0..faults.len())].clone()]);
            }
            let requests: Vec<_> = (0..random.random_range(1..20))
                .map(|number| {
                    let name = format!("{seed} {round} {number}");
                    names.push(name.clone());
                    let from = WALLETS[random.random_range(0..4)];
                    let to = WALLETS[random.random_range(0..4)];
                    request(&name, transfer(from, to, random.random_range(1..6_000)))
                })
                .collect();
            desk.ask(requests).await;
            match random.random_range(0..4) {
                0 => {
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await;
                    desk.kill().await;
                    fake.pass_seconds(random.random_range(0..100_000));
                    desk.start(On::Outside(ledger(&fake)));
                }
                1 => {
                    fake.stop().await;
                    fake.start_again().await;
                }
                _ => {}
            }
        }
        let book = desk.settled(&names).await;
        desk.stop().await;
        compare(&fake, &book).await;
        let made = desk.made().await;
        let mut paid: Vec<String> = made
            .iter()
            .filter(|made| !made.postings.is_empty())
            .map(|made| made.request.cause.reason.clone())
            .collect();
        let mut told = receipts(&fake);
        paid.sort();
        told.sort();
        assert_eq!(told, paid, "seed {seed}: a receipt for every payment and no other");
    }
}
