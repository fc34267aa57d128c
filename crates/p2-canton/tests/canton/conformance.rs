//! One suite for both ledgers: the same requests have the same answers.

use fake_canton::Fake;
use p2_core::ids::{AccountId, Id};
use p2_core::ledger::{Book, reward_id};
use p2_core::record::*;

use crate::desk::{Desk, On, compare, fold, id, ledger, mint, opening, receipts, request, transfer};

fn reward(name: &str, score: f64, occasion: &str) -> PaymentRequest {
    let reward = Reward {
        target: id("work"),
        evaluator: "gpt4_judge".into(),
        metric: "score".into(),
        payee: AccountId::from("alpha"),
        occasion: occasion.into(),
        evaluator_version: 1,
        evaluation: id(&format!("evaluation {name}")),
        score,
    };
    let asked = request(name, PaymentBody::Reward(reward.clone()));
    let cause = PaymentCause {
        kind: CauseKind::Evaluation,
        reference: Some(reward.evaluation),
        ..asked.cause.clone()
    };
    PaymentRequest { id: reward_id(&reward), cause, ..asked }
}

fn named(name: &str, of: &str, body: PaymentBody) -> PaymentRequest {
    PaymentRequest { id: id(of), ..request(name, body) }
}

fn account(name: &str) -> AccountId {
    AccountId::from(name)
}

/// Everything that can be asked of a book, good and bad.
fn suite() -> Vec<PaymentRequest> {
    let legs = |legs: &[(&str, &str, i64)]| {
        let leg = |(from, to, amount): &(&str, &str, i64)| Leg {
            from: account(from),
            to: account(to),
            amount: *amount,
        };
        PaymentBody::Transfer(Transfer { legs: legs.iter().map(leg).collect(), scale: None })
    };
    let hold = |from: &str, amount| {
        let (from, to) = (account(from), account("gamma"));
        PaymentBody::Reserve(Reserve { from, to, amount, expires_ms: None, scale: None })
    };
    let freeze = |name: &str, frozen| PaymentBody::Freeze(Freeze { account: account(name), frozen });
    let post = |of: &str, amount| PaymentBody::Post(Post { reservation: id(of), amount, scale: None });
    let mut policy = p2_core::ledger::default_policy(2);
    policy.version = 2;
    policy.approval_above = Some(9_000);
    let mut all = opening();
    all.extend([
        request("plain", transfer("alpha", "beta", 2_500)),
        named("plain again", "plain", transfer("alpha", "beta", 2_500)),
        named("plain otherwise", "plain", transfer("alpha", "beta", 2_501)),
        request("too much", transfer("alpha", "beta", 7_501)),
        request("all of it", transfer("alpha", "beta", 7_500)),
        request("back", transfer("beta", "alpha", 20_000)),
        request("group", legs(&[("alpha", "beta", 8_000), ("beta", "gamma", 8_000), ("gamma", "alpha", 1)])),
        request("half a group", legs(&[("alpha", "beta", 1), ("beta", "gamma", 99_999)])),
        request("to itself", transfer("alpha", "alpha", 1)),
        request("to nobody", transfer("alpha", "delta", 1)),
        request("nothing", transfer("alpha", "beta", 0)),
        request("hold", hold("alpha", 3_000)),
        request("more than is left", transfer("alpha", "beta", 9_002)),
        request("post a part", post("hold", Some(1_000))),
        request("post again", post("hold", None)),
        request("hold two", hold("alpha", 3_000)),
        request("void", PaymentBody::Void(Void { reservation: id("hold two") })),
        request("freeze", freeze("beta", true)),
        request("to the frozen", transfer("alpha", "beta", 1)),
        request("thaw", freeze("beta", false)),
        request("to the thawed", transfer("alpha", "beta", 1)),
        reward("good", 0.9, "first"),
        reward("judged again", 0.7, "first"),
        reward("bad", 0.1, "second"),
        request("out of the world", transfer("alpha", "mint", 500)),
        request("policy", PaymentBody::SetPolicy(SetPolicy { policy })),
        request("more", mint("alpha", 20_000)),
        request("large", transfer("alpha", "beta", 9_001)),
        request("yes", PaymentBody::Approve(Approve { request: id("large") })),
        request("largest", transfer("alpha", "beta", 9_002)),
        request("no", PaymentBody::Deny(Deny { request: id("largest"), reason: "no".into() })),
        request(
            "account",
            PaymentBody::OpenAccount(OpenAccount {
                account: account("delta"),
                kind: AccountKind::Agent,
                limits: AccountLimits { transfer_max: Some(10), ..AccountLimits::default() },
            }),
        ),
        request("to the new one", transfer("alpha", "delta", 100)),
        request("over its limit", transfer("delta", "alpha", 11)),
        request("last", transfer("delta", "alpha", 10)),
    ]);
    all
}

/// The final answers of a settlement to the whole suite, in the order of the questions, and the book.
async fn answers(on: On) -> (Vec<String>, Book) {
    let mut desk = Desk::new();
    desk.start(on);
    desk.ask(suite()).await;
    let made = desk.until(|made| crate::desk::answer(made, "last").is_some()).await;
    desk.stop().await;
    let line = |made: &LedgerTransaction| {
        let outcome = match &made.outcome {
            LedgerOutcome::Committed(done) => format!("committed, policy {:?}", done.policy),
            LedgerOutcome::Rejected(why) => format!("{} ({})", why.code, why.message.len()),
            other => other.as_str().to_owned(),
        };
        let (asked, holds) = (&made.request.cause.reason, &made.holds);
        format!("{asked}: {outcome} {holds:?} {:?}", made.postings)
    };
    let on_its_way =
        |made: &&LedgerTransaction| !matches!(made.outcome.as_str(), "planned" | "queued" | "in_doubt");
    let mut told: Vec<String> = made.iter().filter(on_its_way).map(line).collect();
    // Sentences name transactions, whose ids are those of their place in the chain.
    told.sort();
    (told, fold(&made))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_requests_have_the_same_answers_on_both_ledgers() {
    let (embedded, expected) = answers(On::Embedded).await;
    let fake = Fake::ready().await;
    let (outside, book) = answers(On::Outside(ledger(&fake))).await;
    assert_eq!(outside, embedded);
    for (name, account) in expected.accounts.iter() {
        assert_eq!(book.account(name).unwrap().balance, account.balance, "{name}");
    }
    compare(&fake, &book).await;
    let told = receipts(&fake);
    assert_eq!(told.iter().filter(|reason| *reason == "plain").count(), 1);
    assert_eq!(told.iter().filter(|reason| *reason == "good").count(), 1);
    assert!(!told.iter().any(|reason| reason == "too much" || reason == "judged again"));
    let answered: std::collections::BTreeMap<Id, PaymentStatus> =
        book.answers.iter().map(|(id, answer)| (*id, answer.status)).collect();
    assert!(answered.values().all(|status| *status != PaymentStatus::InDoubt), "nothing is left open");
}
