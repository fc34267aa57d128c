//! The outside ledger here is a list of what it took, and a word that it refuses.

use proptest::prelude::*;

use super::*;
use crate::ledger::{Code, Ruling, decide, due};
use crate::record::*;

const NOON: i64 = 1_700_000_000_000;
const SMALL: Batching = Batching { requests_max: 8, entries_max: 20 };
const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

fn id(text: &str) -> Id {
    Id::of_text(text)
}

fn request(name: &str, body: PaymentBody) -> PaymentRequest {
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

fn transfer(from: &str, to: &str, amount: i64) -> PaymentBody {
    let leg = Leg { from: AccountId::from(from), to: AccountId::from(to), amount };
    PaymentBody::Transfer(Transfer { legs: vec![leg], scale: None })
}

fn reserve(from: &str, to: &str, amount: i64) -> PaymentBody {
    let (from, to) = (AccountId::from(from), AccountId::from(to));
    PaymentBody::Reserve(Reserve { from, to, amount, expires_ms: None, scale: None })
}

fn mint(to: &str, amount: i64) -> PaymentBody {
    PaymentBody::Mint(Mint { mint: AccountId::from("mint"), to: AccountId::from(to), amount })
}

fn opening() -> Vec<PaymentRequest> {
    let mut all = vec![request("book", PaymentBody::OpenBook(OpenBook { unit: "TOKEN".into(), scale: 2 }))];
    let wallets = NAMES.map(|name| (name, AccountKind::Agent));
    for (name, kind) in [("mint", AccountKind::Mint)].into_iter().chain(wallets) {
        let (account, limits) = (AccountId::from(name), AccountLimits::default());
        let open = PaymentBody::OpenAccount(OpenAccount { account, kind, limits });
        all.push(request(&format!("open {name}"), open));
    }
    all.extend(NAMES.map(|name| request(&format!("mint {name}"), mint(name, 10_000))));
    all
}

/// A book, and the outside ledger that it plans for.
#[derive(Default)]
struct Desk {
    book: Book,
    /// What the outside ledger took.
    taken: Vec<Submission>,
    /// How often it refused.
    refused: usize,
    made: Vec<LedgerTransaction>,
}

impl Desk {
    fn apply(&mut self, made: Vec<LedgerTransaction>) {
        for transaction in made {
            self.book.apply(&transaction).unwrap();
            self.made.push(transaction);
        }
        self.book.check().unwrap();
    }

    fn ask(&mut self, request: &PaymentRequest) -> Ruling {
        let ruling = decide_outside(&self.book, request, NOON, SMALL);
        if let Ruling::Transactions(made) = &ruling {
            self.apply(made.clone());
        }
        ruling
    }

    /// The outside ledger answers the batch in flight; it takes none with an entry whose reason has the word.
    fn answer(&mut self, poison: &str) -> bool {
        let Some(batch) = self.book.submission() else { return false };
        let found = batch.entries.iter().any(|entry| !poison.is_empty() && entry.reason.contains(poison));
        let outcome = if found {
            self.refused += 1;
            Submitted::Refused { message: "poison".into() }
        } else {
            assert_eq!(batch.expected, self.taken.last().map_or(0, |last| last.last + 1), "the cursor");
            self.taken.push(batch.clone());
            Submitted::Taken { external: format!("up-{}", self.taken.len()) }
        };
        let made = replied(&self.book, &batch.batch, &outcome, NOON, SMALL);
        self.apply(made);
        true
    }

    fn settle(&mut self, poison: &str) {
        while self.answer(poison) {}
        assert!(self.book.outside.queue.is_empty(), "nobody is forgotten");
    }

    fn opened() -> Desk {
        let mut desk = Desk::default();
        for request in opening() {
            desk.ask(&request);
        }
        desk.settle("");
        desk
    }

    fn has(&self, name: &str) -> i64 {
        self.book.account(&AccountId::from(name)).unwrap().balance.posted
    }

    fn status(&self, name: &str) -> (PaymentStatus, Code) {
        let answer = &self.book.answers[&id(name)];
        (answer.status, answer.code)
    }

    /// Balances as the outside ledger's entries make them.
    fn outside(&self, name: &str) -> i64 {
        let entries = self.taken.iter().flat_map(|batch| &batch.entries);
        let is = |account: &Option<AccountId>| account.as_ref().is_some_and(|found| found.as_str() == name);
        entries.fold(0, |sum, entry| {
            let paid = if is(&entry.from) { entry.amount } else { 0 };
            sum - paid + if is(&entry.to) { entry.amount } else { 0 }
        })
    }
}

#[test]
fn a_payment_is_planned_then_final_and_what_comes_meanwhile_waits_in_its_order() {
    let mut desk = Desk::opened();
    desk.made.clear();
    desk.ask(&request("first", transfer("alpha", "beta", 100)));
    desk.ask(&request("second", transfer("beta", "gamma", 10_050)));
    desk.ask(&request("third", reserve("gamma", "beta", 20_050)));
    assert_eq!(desk.has("beta"), 10_000, "nothing moves before the outside ledger has said so");
    let again = request("first", transfer("alpha", "beta", 100));
    assert!(matches!(desk.ask(&again), Ruling::Duplicate(_)));
    desk.ask(&request("first", transfer("alpha", "beta", 101)));
    desk.settle("");
    let told: Vec<String> = desk
        .made
        .iter()
        .map(|made| format!("{} {}", made.request.cause.reason, made.outcome.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            "first planned",
            "second queued",
            "third queued",
            "first rejected",
            "first committed",
            "second planned",
            "third planned",
            "second committed",
            "third committed",
        ],
        "the second can be paid since the first was"
    );
    assert_eq!((desk.has("alpha"), desk.has("beta"), desk.has("gamma")), (9_900, 50, 20_050));
    assert_eq!(desk.taken.last().unwrap().entries.len(), 1, "setting money aside moves nothing outside");
}

#[test]
fn a_poisoned_request_is_refused_alone() {
    let mut desk = Desk::opened();
    desk.ask(&request("pay 0", transfer("alpha", "beta", 1)));
    for number in 1..=20 {
        let name = if number == 13 { "poison".to_owned() } else { format!("pay {number}") };
        desk.ask(&request(&name, transfer("alpha", "beta", 1)));
    }
    desk.settle("poison");
    assert_eq!(desk.status("poison"), (PaymentStatus::Rejected, Code::External));
    for number in (0..=20).filter(|number| *number != 13) {
        assert_eq!(desk.status(&format!("pay {number}")), (PaymentStatus::Committed, Code::Ok));
    }
    assert_eq!(desk.has("beta"), 10_020);
    assert!(desk.refused <= 8, "{} refusals to find one of 21", desk.refused);
}

#[test]
fn a_new_owner_submits_the_same_batch_word_for_word() {
    let mut desk = Desk::opened();
    desk.ask(&request("first", transfer("alpha", "beta", 100)));
    desk.ask(&request("second", transfer("beta", "alpha", 70)));
    let mut fold = Book::default();
    desk.made.iter().for_each(|made| fold.apply(made).unwrap());
    assert_eq!(fold, desk.book);
    assert_eq!(fold.submission(), desk.book.submission());
    let batch = fold.submission().unwrap();
    assert_eq!(batch.command, format!("p2/main/{}-{0}", batch.last));
}

#[test]
fn what_is_in_doubt_is_said_once_and_settled_later() {
    let mut desk = Desk::opened();
    desk.ask(&request("first", transfer("alpha", "beta", 100)));
    let batch = desk.book.submission().unwrap();
    let unknown = Submitted::Unknown { message: "cut off".into() };
    let told = replied(&desk.book, &batch.batch, &unknown, NOON, SMALL);
    assert!(matches!(&told[..], [made] if made.outcome.as_str() == "in_doubt"));
    desk.apply(told);
    assert_eq!(replied(&desk.book, &batch.batch, &unknown, NOON, SMALL), []);
    assert_eq!(desk.book.submission(), Some(batch.clone()), "the same batch, under the same command");
    desk.settle("");
    assert_eq!(desk.status("first"), (PaymentStatus::Committed, Code::Ok));
    let late = Submitted::Taken { external: "up-9".into() };
    assert_eq!(replied(&desk.book, &batch.batch, &late, NOON, SMALL), [], "it has its answer");
}

#[test]
fn nothing_ends_by_time_while_a_batch_is_in_flight() {
    let mut desk = Desk::opened();
    let (from, to) = (AccountId::from("alpha"), AccountId::from("beta"));
    let body =
        PaymentBody::Reserve(Reserve { from, to, amount: 500, expires_ms: Some(NOON + 1), scale: None });
    desk.ask(&request("hold", body));
    let post = PaymentBody::Post(Post { reservation: id("hold"), amount: None, scale: None });
    desk.ask(&request("post", post));
    assert!(due(&desk.book, NOON + 5).is_some());
    assert_eq!(due_outside(&desk.book, NOON + 5), None);
    desk.settle("");
    assert_eq!((desk.has("alpha"), desk.has("beta")), (9_500, 10_500));
}

#[test]
fn a_person_agrees_and_what_waited_is_on_the_outside_ledger() {
    let mut desk = Desk::opened();
    let policy = LedgerPolicy { version: 2, approval_above: Some(1_000), ..crate::ledger::default_policy(2) };
    let policy = LedgerPolicy { treasury: AccountId::from("gamma"), ..policy };
    desk.ask(&request("policy", PaymentBody::SetPolicy(SetPolicy { policy })));
    desk.ask(&request("large", transfer("alpha", "beta", 1_001)));
    assert_eq!(desk.status("large").0, PaymentStatus::Pending);
    desk.ask(&request("yes", PaymentBody::Approve(Approve { request: id("large") })));
    assert_eq!(desk.has("beta"), 10_000);
    desk.settle("");
    assert_eq!((desk.has("beta"), desk.outside("beta")), (11_001, 11_001));
}

#[test]
fn books_are_settled_by_the_ledger_that_has_their_money_and_no_other() {
    let mut desk = Desk::opened();
    let pay = request("pay", transfer("alpha", "beta", 1));
    let Ruling::Transactions(made) = decide(&desk.book, &pay, NOON) else { panic!() };
    assert!(matches!(&made[0].outcome, LedgerOutcome::Rejected(why) if why.code == "external"));

    let mut embedded = Desk::default();
    for request in opening() {
        let Ruling::Transactions(made) = decide(&embedded.book, &request, NOON) else { panic!() };
        embedded.apply(made);
    }
    embedded.ask(&pay);
    assert_eq!(embedded.status("pay"), (PaymentStatus::Rejected, Code::External));
    assert_eq!(embedded.book.submission(), None);
    desk.settle("");
}

#[test]
fn an_outside_ledger_gives_no_credit() {
    let mut desk = Desk::opened();
    let limits = AccountLimits { credit: 5_000, ..AccountLimits::default() };
    let set = SetLimits { account: AccountId::from("alpha"), limits };
    desk.ask(&request("limits", PaymentBody::SetLimits(set)));
    desk.ask(&request("pay", transfer("alpha", "beta", 10_001)));
    assert_eq!(desk.status("pay"), (PaymentStatus::Rejected, Code::External));
}

#[derive(Clone, Debug)]
enum Act {
    Ask(usize, usize, i64, u8),
    Answer(bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..3_usize, 0..3_usize, 1..9_000_i64, 0..6_u8).prop_map(|(a, b, c, d)| Act::Ask(a, b, c, d)),
        1 => any::<bool>().prop_map(Act::Answer),
    ]
}

proptest! {
    /// Whatever is asked in whatever batches: what the embedded ledger would answer is what is answered, the sum is
    /// 0, and the outside ledger's balances are the book's.
    #[test]
    fn batches_change_no_answer(acts in prop::collection::vec(act(), 0..80)) {
        let (mut desk, mut embedded) = (Desk::opened(), Book::default());
        let mut asked = opening();
        let mut holds = Vec::new();
        for (number, act) in acts.iter().enumerate() {
            match act {
                Act::Ask(from, to, amount, what) => {
                    let name = format!("r{number}");
                    let body = match what {
                        0 => reserve(NAMES[*from], NAMES[*to], *amount),
                        1 if !holds.is_empty() => {
                            let reservation = holds[*from % holds.len()];
                            PaymentBody::Post(Post { reservation, amount: None, scale: None })
                        }
                        2 => mint(NAMES[*to], *amount),
                        3 => PaymentBody::Freeze(Freeze {
                            account: AccountId::from(NAMES[*to]),
                            frozen: amount % 4 == 0,
                        }),
                        _ => transfer(NAMES[*from], NAMES[*to], *amount),
                    };
                    if *what == 0 {
                        holds.push(id(&name));
                    }
                    let request = request(&name, body);
                    desk.ask(&request);
                    asked.push(request);
                }
                Act::Answer(doubt) => {
                    if let (true, Some(batch)) = (*doubt, desk.book.submission()) {
                        let unknown = Submitted::Unknown { message: "cut off".into() };
                        let made = replied(&desk.book, &batch.batch, &unknown, NOON, SMALL);
                        desk.apply(made);
                    } else {
                        desk.answer("");
                    }
                }
            }
        }
        desk.settle("");
        for request in &asked {
            if let Ruling::Transactions(made) = decide(&embedded, request, NOON) {
                made.iter().for_each(|made| embedded.apply(made).unwrap());
            }
            let (found, expected) = (&desk.book.answers[&request.id], &embedded.answers[&request.id]);
            prop_assert_eq!((found.status, found.code), (expected.status, expected.code));
        }
        for (name, account) in embedded.accounts.iter() {
            prop_assert_eq!(desk.book.account(name).unwrap().balance, account.balance);
            if account.kind != AccountKind::Mint {
                prop_assert_eq!(desk.outside(name.as_str()), account.balance.posted);
            }
        }
    }
}

#[test]
fn a_refused_reward_is_paid_once_outside_whoever_asks_for_it_again() {
    let mut desk = Desk::opened();
    let reward = Reward {
        target: id("answer"),
        evaluator: "judge".into(),
        metric: "score".into(),
        payee: AccountId::from("alpha"),
        occasion: "first".into(),
        evaluator_version: 1,
        evaluation: id("evaluation"),
        score: 0.9,
    };
    let mut first = request("reward", PaymentBody::Reward(reward.clone()));
    (first.id, first.cause.kind) = (crate::ledger::reward_id(&reward), CauseKind::Evaluation);
    first.cause.reference = Some(reward.evaluation);
    desk.ask(&first);
    desk.settle("");
    assert_eq!(desk.book.answers[&first.id].code, Code::UnknownAccount);
    let (account, limits) = (AccountId::from("treasury"), AccountLimits::default());
    let treasury = OpenAccount { account, kind: AccountKind::Treasury, limits };
    desk.ask(&request("open treasury", PaymentBody::OpenAccount(treasury)));
    desk.ask(&request("mint treasury", mint("treasury", 10_000)));
    // Asked for while that batch is in flight, by two who look at the same refusal, and by one who looks further.
    let mut again = first.clone();
    (again.id, again.cause.kind) = (crate::ledger::reward_again_id(&first.id), CauseKind::Human);
    let further = PaymentRequest { id: crate::ledger::reward_again_id(&again.id), ..again.clone() };
    desk.ask(&again);
    assert!(matches!(desk.ask(&again), Ruling::Duplicate(_)));
    desk.ask(&further);
    desk.settle("");
    assert_eq!(desk.book.answers[&again.id].status, PaymentStatus::Committed);
    assert_eq!(desk.book.answers[&further.id].code, Code::AlreadyRewarded);
    assert_eq!((desk.has("alpha"), desk.outside("alpha")), (12_500, 12_500));
}

#[test]
fn what_is_withdrawn_while_its_approval_is_in_flight_is_paid() {
    for withdrawn_first in [false, true] {
        let mut desk = Desk::opened();
        let policy = LedgerPolicy {
            version: 2,
            treasury: AccountId::from("gamma"),
            approval_above: Some(1_000),
            ..crate::ledger::default_policy(2)
        };
        desk.ask(&request("policy", PaymentBody::SetPolicy(SetPolicy { policy })));
        desk.ask(&request("large", transfer("alpha", "beta", 2_000)));
        let yes = request("yes", PaymentBody::Approve(Approve { request: id("large") }));
        let no = request("no", PaymentBody::Void(Void { reservation: id("large") }));
        // Both lie behind a batch that is in flight.
        desk.ask(&request("other", transfer("beta", "gamma", 1)));
        for asked in if withdrawn_first { [&no, &yes] } else { [&yes, &no] } {
            desk.ask(asked);
        }
        desk.settle("");
        let (status, code) = desk.status("large");
        assert_eq!(code, if withdrawn_first { Code::Withdrawn } else { Code::Ok });
        assert_eq!(status == PaymentStatus::Committed, !withdrawn_first);
        assert_eq!(desk.status(if withdrawn_first { "yes" } else { "no" }).1, Code::UnknownRequest);
        assert_eq!(desk.outside("alpha"), if withdrawn_first { 10_000 } else { 8_000 });
    }
}
