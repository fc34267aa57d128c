//! The rules, one by one; the attack list; and random operations.

mod budgets;
mod copying;
mod rewards;
mod withdrawing;

use proptest::prelude::*;

use super::*;
use crate::ids::{AccountId, AgentId, BookId, Id};
use crate::record::*;

const NOON: i64 = 1_700_000_000_000;
const DAY: i64 = 86_400_000;

fn id(text: &str) -> Id {
    Id::of_text(text)
}

fn account(name: &str) -> AccountId {
    AccountId::from(name)
}

fn cause(kind: CauseKind) -> PaymentCause {
    PaymentCause {
        kind,
        reference: Some(id("why")),
        conversation: None,
        agent: None,
        branch: None,
        reason: "because".into(),
    }
}

fn request(name: &str, body: PaymentBody) -> PaymentRequest {
    PaymentRequest {
        id: id(name),
        book: BookId::from("main"),
        by: "tester".into(),
        cause: cause(CauseKind::Human),
        reply_to: None,
        not_after_ms: None,
        body,
    }
}

fn transfer(from: &str, to: &str, amount: i64) -> PaymentBody {
    PaymentBody::Transfer(Transfer {
        legs: vec![Leg { from: account(from), to: account(to), amount }],
        scale: None,
    })
}

fn reserve(from: &str, to: &str, amount: i64, expires_ms: Option<i64>) -> PaymentBody {
    PaymentBody::Reserve(Reserve { from: account(from), to: account(to), amount, expires_ms, scale: None })
}

fn open(name: &str, kind: AccountKind) -> PaymentBody {
    let limits = AccountLimits::default();
    PaymentBody::OpenAccount(OpenAccount { account: account(name), kind, limits })
}

/// A book under test: decides, takes in, and checks every rule afterwards.
#[derive(Clone, Default)]
struct Desk {
    book: Book,
    log: Vec<LedgerTransaction>,
    now: i64,
}

impl Desk {
    /// A mint, a treasury with 1,000.00, fees, and the agents alpha and beta with 100.00 each.
    fn new() -> Desk {
        let mut desk = Desk { now: NOON, ..Desk::default() };
        desk.ok("book", PaymentBody::OpenBook(OpenBook { unit: "TOKEN".into(), scale: 2 }));
        for (name, kind) in [
            ("mint", AccountKind::Mint),
            ("treasury", AccountKind::Treasury),
            ("fees", AccountKind::Fees),
            ("alpha", AccountKind::Agent),
            ("beta", AccountKind::Agent),
        ] {
            desk.ok(&format!("open {name}"), open(name, kind));
        }
        for (to, amount) in [("treasury", 100_000), ("alpha", 10_000), ("beta", 10_000)] {
            let mint = Mint { mint: account("mint"), to: account(to), amount };
            desk.ok(&format!("mint {to}"), PaymentBody::Mint(mint));
        }
        desk
    }

    fn ask(&mut self, request: &PaymentRequest) -> Ruling {
        let (decided, after) = decide_and_apply(&self.book, request, self.now);
        if let Ruling::Transactions(transactions) = &decided {
            for transaction in transactions {
                self.book.apply(transaction).unwrap();
                self.log.push(transaction.clone());
            }
        }
        // The book that comes along is the one that its transactions make.
        assert_eq!(*after.as_ref().unwrap_or(&self.book), self.book);
        self.book.check().unwrap();
        decided
    }

    fn outcome(&mut self, request: &PaymentRequest) -> LedgerOutcome {
        match self.ask(request) {
            Ruling::Transactions(transactions) => transactions[0].outcome.clone(),
            other => panic!("no transaction but {other:?}"),
        }
    }

    /// The code of the answer to a request of a person.
    fn code(&mut self, name: &str, body: PaymentBody) -> String {
        self.code_of(&request(name, body))
    }

    fn code_of(&mut self, request: &PaymentRequest) -> String {
        match self.outcome(request) {
            LedgerOutcome::Committed(_) => "ok".into(),
            LedgerOutcome::Rejected(rejected) => rejected.code,
            other => other.as_str().into(),
        }
    }

    fn ok(&mut self, name: &str, body: PaymentBody) {
        assert_eq!(self.code(name, body), "ok", "{name}");
    }

    /// Posted and reserved of an account.
    fn has(&self, name: &str) -> (i64, i64) {
        let balance = self.book.account(&account(name)).unwrap().balance;
        (balance.posted, balance.reserved)
    }

    fn limits(&mut self, name: &str, of: &str, limits: AccountLimits) {
        self.ok(name, PaymentBody::SetLimits(SetLimits { account: account(of), limits }));
    }

    fn refold(&self) -> Book {
        let mut book = Book::default();
        self.log.iter().for_each(|transaction| book.apply(transaction).unwrap());
        book
    }

    /// Lets time pass, and ends what is due.
    fn wait_until(&mut self, now: i64) {
        self.now = now;
        while let Some(end) = due(&self.book, self.now) {
            assert_eq!(self.code_of(&end), "ok");
        }
    }
}

#[test]
fn a_transfer_moves_money_once_and_says_what_both_have_afterwards() {
    let mut desk = Desk::new();
    desk.ok("pay", transfer("alpha", "beta", 2_500));
    assert_eq!((desk.has("alpha"), desk.has("beta")), ((7_500, 0), (12_500, 0)));
    let last = desk.log.last().unwrap();
    let after = |posted| Balance { posted, reserved: 0 };
    assert_eq!(last.postings[0].from_after, after(7_500));
    assert_eq!(last.postings[0].to_after, after(12_500));
    assert_eq!(last.previous, Some(desk.log[desk.log.len() - 2].id));
    assert_eq!(last.seq, i64::try_from(desk.log.len()).unwrap() - 1);
    assert_eq!(desk.has("mint"), (-120_000, 0));
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn one_request_id_asked_fifty_times_moves_money_once_and_has_one_answer() {
    let mut desk = Desk::new();
    let pay = request("pay", transfer("alpha", "beta", 100));
    let Ruling::Transactions(first) = desk.ask(&pay) else { panic!() };
    for _ in 0..50 {
        let Ruling::Duplicate(answer) = desk.ask(&pay) else { panic!("asked twice, answered twice") };
        assert_eq!((answer.transaction, answer.status), (first[0].id, PaymentStatus::Committed));
    }
    assert_eq!(desk.has("alpha"), (9_900, 0));
    // Who asks, why and until when are no part of what is asked.
    let again = PaymentRequest { by: "another".into(), not_after_ms: Some(1), ..pay };
    assert!(matches!(desk.ask(&again), Ruling::Duplicate(_)));
}

#[test]
fn one_request_id_with_another_body_is_refused_and_changes_nothing() {
    let mut desk = Desk::new();
    desk.ok("pay", transfer("alpha", "beta", 100));
    let answer = desk.book.answers[&id("pay")];
    assert_eq!(desk.code("pay", transfer("alpha", "beta", 101)), "conflict");
    assert_eq!(desk.code("pay", transfer("alpha", "beta", 102)), "conflict");
    assert_eq!(desk.book.answers[&id("pay")], answer);
    assert!(matches!(desk.ask(&request("pay", transfer("alpha", "beta", 100))), Ruling::Duplicate(_)));
    assert_eq!(desk.has("alpha"), (9_900, 0));
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn a_refusal_is_final_for_its_id() {
    let mut desk = Desk::new();
    assert_eq!(desk.code("pay", transfer("alpha", "beta", 10_001)), "insufficient");
    desk.ok("more", transfer("beta", "alpha", 1_000));
    let Ruling::Duplicate(answer) = desk.ask(&request("pay", transfer("alpha", "beta", 10_001))) else {
        panic!("the same id got another answer")
    };
    assert_eq!((answer.status, answer.code), (PaymentStatus::Rejected, Code::Insufficient));
}

#[test]
fn a_group_of_legs_happens_as_a_whole_or_not_at_all() {
    let leg = |from: &str, to: &str, amount| Leg { from: account(from), to: account(to), amount };
    let mut desk = Desk::new();
    let chain = vec![leg("alpha", "fees", 10_000), leg("fees", "beta", 9_000)];
    desk.ok("chain", PaymentBody::Transfer(Transfer { legs: chain, scale: None }));
    assert_eq!((desk.has("alpha"), desk.has("fees"), desk.has("beta")), ((0, 0), (1_000, 0), (19_000, 0)));
    let broken = vec![leg("beta", "alpha", 5_000), leg("fees", "alpha", 1_001)];
    assert_eq!(
        desk.code("broken", PaymentBody::Transfer(Transfer { legs: broken, scale: None })),
        "insufficient"
    );
    assert_eq!(desk.has("beta"), (19_000, 0));
    assert_eq!(
        desk.code("none", PaymentBody::Transfer(Transfer { legs: Vec::new(), scale: None })),
        "invalid"
    );
    let many = vec![leg("beta", "alpha", 1); LEGS_MAX + 1];
    assert_eq!(desk.code("many", PaymentBody::Transfer(Transfer { legs: many, scale: None })), "invalid");
}

#[test]
fn accounts_have_their_limits() {
    let mut desk = Desk::new();
    let limits = AccountLimits { credit: 500, transfer_max: Some(6_000), day_max: Some(11_000) };
    desk.limits("limits", "alpha", limits);
    assert_eq!(desk.code("big", transfer("alpha", "beta", 6_001)), "over_limit");
    desk.ok("first", transfer("alpha", "beta", 6_000));
    assert_eq!(desk.code("day", transfer("alpha", "beta", 5_001)), "over_day_limit");
    assert_eq!(desk.code("credit", transfer("alpha", "beta", 4_501)), "insufficient");
    desk.ok("within credit", transfer("alpha", "beta", 4_500));
    assert_eq!(desk.has("alpha"), (-500, 0));
    desk.now += DAY;
    desk.ok("back", transfer("beta", "alpha", 9_000));
    desk.ok("a new day", transfer("alpha", "beta", 6_000));
    // A clock that goes back does not open yesterday again.
    desk.now -= DAY;
    assert_eq!(desk.code("yesterday", transfer("alpha", "beta", 5_001)), "over_day_limit");
    desk.ok("broke", transfer("alpha", "beta", 3_000));
    let less =
        PaymentBody::SetLimits(SetLimits { account: account("alpha"), limits: AccountLimits::default() });
    assert_eq!(desk.code("no credit", less), "insufficient", "it is used");
}

#[test]
fn a_reservation_sets_money_aside_and_ends_once() {
    let mut desk = Desk::new();
    desk.ok("hold", reserve("alpha", "fees", 9_000, None));
    assert_eq!(desk.has("alpha"), (10_000, 9_000));
    assert_eq!(desk.code("spent", transfer("alpha", "beta", 1_001)), "insufficient");
    let post = |amount| PaymentBody::Post(Post { reservation: id("hold"), amount, scale: None });
    assert_eq!(desk.code("too much", post(Some(9_001))), "insufficient");
    desk.ok("post", post(Some(8_000)));
    assert_eq!((desk.has("alpha"), desk.has("fees")), ((2_000, 0), (8_000, 0)));
    assert_eq!(desk.code("again", post(None)), "ended");
    let void = PaymentBody::Void(Void { reservation: id("hold") });
    assert_eq!(desk.code("void", void), "ended");
    assert_eq!(desk.book.answers[&id("hold")].hold, Some(HoldState::Posted));
    assert_eq!(desk.code("none", PaymentBody::Void(Void { reservation: id("other") })), "unknown_request");
}

#[test]
fn a_reservation_is_given_back_by_a_void_and_by_time() {
    let mut desk = Desk::new();
    desk.ok("one", reserve("alpha", "fees", 1_000, None));
    desk.ok("void", PaymentBody::Void(Void { reservation: id("one") }));
    desk.ok("two", reserve("alpha", "fees", 1_000, Some(NOON + 5)));
    desk.ok("three", reserve("alpha", "fees", 2_000, Some(NOON + 5)));
    desk.ok("four", reserve("alpha", "fees", 4_000, Some(NOON + 6)));
    assert_eq!(desk.book.next_due().map(|(due, _)| due), Some(NOON + 5));
    let early = request("early", PaymentBody::Expire(Expire { reference: id("two") }));
    assert_eq!(desk.code_of(&early), "not_due");
    desk.wait_until(NOON + 5);
    assert_eq!(desk.has("alpha"), (10_000, 4_000));
    let post = PaymentBody::Post(Post { reservation: id("two"), amount: None, scale: None });
    assert_eq!(desk.code("late", post), "ended");
    assert_eq!(desk.code("past", reserve("alpha", "fees", 1, Some(NOON))), "invalid");
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn what_is_set_aside_counts_against_the_day_and_what_is_given_back_does_not() {
    let mut desk = Desk::new();
    desk.limits("limits", "alpha", AccountLimits { day_max: Some(1_000), ..AccountLimits::default() });
    desk.ok("hold", reserve("alpha", "fees", 800, None));
    assert_eq!(desk.code("more", transfer("alpha", "beta", 201)), "over_day_limit");
    desk.ok("post", PaymentBody::Post(Post { reservation: id("hold"), amount: Some(300), scale: None }));
    assert_eq!(desk.code("over", transfer("alpha", "beta", 701)), "over_day_limit");
    desk.ok("within", transfer("alpha", "beta", 700));
}

#[test]
fn a_frozen_account_neither_pays_nor_is_paid_but_gets_back_what_it_set_aside() {
    let freeze = |frozen| PaymentBody::Freeze(Freeze { account: account("alpha"), frozen });
    let mut desk = Desk::new();
    desk.ok("hold", reserve("alpha", "fees", 1_000, None));
    desk.ok("freeze", freeze(true));
    assert_eq!(desk.code("pays", transfer("alpha", "beta", 1)), "frozen");
    assert_eq!(desk.code("is paid", transfer("beta", "alpha", 1)), "frozen");
    assert_eq!(desk.code("holds", reserve("alpha", "fees", 1, None)), "frozen");
    assert_eq!(
        desk.code("posts", PaymentBody::Post(Post { reservation: id("hold"), amount: None, scale: None })),
        "frozen"
    );
    desk.ok("void", PaymentBody::Void(Void { reservation: id("hold") }));
    desk.ok("thaw", freeze(false));
    desk.ok("pays again", transfer("alpha", "beta", 1));
}

fn reward(score: f64) -> Reward {
    Reward {
        target: id("answer"),
        evaluator: "gpt4_judge".into(),
        metric: "score".into(),
        payee: account("alpha"),
        occasion: id("answer").to_string(),
        evaluator_version: 1,
        evaluation: id("why"),
        score,
    }
}

fn pay_reward(reward: Reward) -> PaymentRequest {
    PaymentRequest {
        id: reward_id(&reward),
        cause: cause(CauseKind::Evaluation),
        ..request("", PaymentBody::Reward(reward))
    }
}

#[test]
fn a_reward_is_what_the_policy_says_from_the_treasury() {
    for (score, code, paid) in [
        (1.0, "ok", 2_500),
        (0.8, "ok", 2_500),
        (0.79, "ok", 1_500),
        (0.6, "ok", 1_500),
        (0.4, "ok", 1_000),
        (0.39, "no_tier", 0),
        (0.0, "no_tier", 0),
        (1.01, "invalid", 0),
        (-0.1, "invalid", 0),
        (f64::NAN, "invalid", 0),
        (f64::INFINITY, "invalid", 0),
    ] {
        let mut desk = Desk::new();
        assert_eq!(desk.code_of(&pay_reward(reward(score))), code, "{score}");
        assert_eq!(desk.has("alpha").0 - 10_000, paid, "{score}");
        assert_eq!(100_000 - desk.has("treasury").0, paid, "{score}");
    }
}

#[test]
fn nothing_pays_twice_for_one_piece_of_work_on_one_occasion() {
    let mut desk = Desk::new();
    assert_eq!(desk.code_of(&pay_reward(reward(0.9))), "ok");
    assert!(matches!(desk.ask(&pay_reward(reward(0.9))), Ruling::Duplicate(_)), "a replay");
    let judged_again = Reward { evaluator_version: 2, score: 0.7, ..reward(0.9) };
    assert_eq!(desk.code_of(&pay_reward(judged_again)), "already_rewarded");
    let policy = LedgerPolicy { version: 2, ..default_policy(2) };
    desk.ok("policy", PaymentBody::SetPolicy(SetPolicy { policy }));
    assert!(matches!(desk.ask(&pay_reward(reward(0.9))), Ruling::Duplicate(_)), "another policy");
    assert_eq!(desk.has("alpha").0, 12_500);
    let bonus = Reward { occasion: "bonus".into(), ..reward(0.9) };
    assert_eq!(desk.code_of(&pay_reward(bonus)), "ok");
    assert_eq!(desk.has("alpha").0, 15_000);
    let LedgerOutcome::Committed(committed) = &desk.log.last().unwrap().outcome else { panic!() };
    assert_eq!(committed.policy, Some(2), "the policy that decided is in the record");
}

#[test]
fn a_forged_reward_is_refused() {
    let mut desk = Desk::new();
    // Another payee under the id of an evaluation.
    let forged = PaymentRequest { id: id("made up"), ..pay_reward(reward(1.0)) };
    assert_eq!(desk.code_of(&forged), "invalid");
    // No evaluation behind it.
    let mut nothing = pay_reward(Reward { occasion: "a".into(), ..reward(1.0) });
    nothing.cause.reference = None;
    assert_eq!(desk.code_of(&nothing), "invalid");
    let mut another = pay_reward(Reward { occasion: "b".into(), ..reward(1.0) });
    another.cause.reference = Some(id("something else"));
    assert_eq!(desk.code_of(&another), "invalid");
    // A tool call is no evaluation.
    let mut by_tool = pay_reward(Reward { occasion: "c".into(), ..reward(1.0) });
    by_tool.cause.kind = CauseKind::ToolCall;
    by_tool.cause.agent = Some(AgentId::from("alpha"));
    assert_eq!(desk.code_of(&by_tool), "not_allowed");
    assert_eq!(desk.has("treasury").0, 100_000);
}

fn by_agent(name: &str, agent: &str, body: PaymentBody) -> PaymentRequest {
    let cause = PaymentCause { agent: Some(AgentId::from(agent)), ..cause(CauseKind::ToolCall) };
    PaymentRequest { cause, ..request(name, body) }
}

#[test]
fn an_agent_pays_from_its_own_wallet_and_does_nothing_else() {
    let mut desk = Desk::new();
    assert_eq!(desk.code_of(&by_agent("own", "alpha", transfer("alpha", "beta", 1))), "ok");
    let refused = [
        transfer("beta", "alpha", 1),
        transfer("treasury", "alpha", 1),
        transfer("mint", "alpha", 1),
        reserve("treasury", "alpha", 1, None),
        PaymentBody::Mint(Mint { mint: account("mint"), to: account("alpha"), amount: 1 }),
        open("mine", AccountKind::Mint),
        PaymentBody::SetLimits(SetLimits {
            account: account("alpha"),
            limits: AccountLimits { credit: 1_000_000, ..AccountLimits::default() },
        }),
        PaymentBody::Freeze(Freeze { account: account("beta"), frozen: true }),
        PaymentBody::SetPolicy(SetPolicy { policy: LedgerPolicy { version: 2, ..default_policy(2) } }),
        PaymentBody::Approve(Approve { request: id("own") }),
    ];
    for (n, body) in refused.into_iter().enumerate() {
        let code = desk.code_of(&by_agent(&format!("refused {n}"), "alpha", body.clone()));
        assert_eq!(code, "not_allowed", "{body:?}");
    }
    let mut nobody = by_agent("nobody", "alpha", transfer("alpha", "beta", 1));
    nobody.cause.agent = None;
    assert_eq!(desk.code_of(&nobody), "not_allowed");
    // An account that only bears an agent's name is no wallet of it.
    desk.ok("open", open("gamma", AccountKind::Treasury));
    assert_eq!(desk.code_of(&by_agent("kind", "gamma", transfer("gamma", "beta", 1))), "not_allowed");
    desk.ok("of beta", reserve("beta", "fees", 100, None));
    let void = PaymentBody::Void(Void { reservation: id("of beta") });
    assert_eq!(desk.code_of(&by_agent("void", "alpha", void)), "not_allowed");
}

#[test]
fn amounts_that_are_none_are_refused() {
    let mut desk = Desk::new();
    for amount in [0, -1, -5_000, i64::MIN, AMOUNT_MAX + 1, i64::MAX] {
        let name = amount.to_string();
        assert_eq!(desk.code(&name, transfer("alpha", "beta", amount)), "invalid", "{amount}");
        assert_eq!(desk.code(&format!("r{name}"), reserve("alpha", "beta", amount, None)), "invalid");
        let mint = Mint { mint: account("mint"), to: account("alpha"), amount };
        assert_eq!(desk.code(&format!("m{name}"), PaymentBody::Mint(mint)), "invalid", "{amount}");
    }
    let mint = Mint { mint: account("mint"), to: account("alpha"), amount: AMOUNT_MAX };
    assert_eq!(desk.code("all there is", PaymentBody::Mint(mint)), "overflow");
}

#[test]
fn accounts_that_are_none_are_refused_and_never_come_to_be() {
    let mut desk = Desk::new();
    assert_eq!(desk.code("self", transfer("alpha", "alpha", 1)), "self_transfer");
    assert_eq!(desk.code("self hold", reserve("alpha", "alpha", 1, None)), "self_transfer");
    assert_eq!(desk.code("unknown", transfer("alpha", "weather_checker", 1)), "unknown_account");
    assert_eq!(desk.code("payer", transfer("weather_checker", "alpha", 1)), "unknown_account");
    // Cyrillic а, full-width a, a zero-width space, an accent, a trailing space, a leading point.
    for name in ["аlpha", "ａlpha", "al\u{200b}pha", "alphá", "alpha ", ".alpha", "", "al\npha"] {
        assert_eq!(desk.code(&format!("pay {name}"), transfer("alpha", name, 1)), "invalid", "{name:?}");
        assert_eq!(desk.code(&format!("open {name}"), open(name, AccountKind::Agent)), "invalid", "{name:?}");
    }
    assert_eq!(desk.code("long", open(&"a".repeat(101), AccountKind::Agent)), "invalid");
    assert_eq!(desk.code("twice", open("alpha", AccountKind::Agent)), "exists");
    assert_eq!(desk.book.accounts.len(), 5);
}

#[test]
fn money_comes_from_a_mint_and_only_a_person_takes_it_out_again() {
    let mut desk = Desk::new();
    let mint = |from: &str| PaymentBody::Mint(Mint { mint: account(from), to: account("alpha"), amount: 1 });
    assert_eq!(desk.code("no mint", mint("treasury")), "not_allowed");
    assert_eq!(desk.code("from the mint", transfer("mint", "alpha", 1)), "not_allowed");
    assert_eq!(desk.code_of(&by_agent("burn", "alpha", transfer("alpha", "mint", 1))), "not_allowed");
    desk.ok("out", transfer("alpha", "mint", 1));
    assert_eq!(desk.has("mint").0, -119_999);
}

#[test]
fn a_book_that_was_never_opened_refuses_everything_and_remembers_it() {
    let mut desk = Desk { now: NOON, ..Desk::default() };
    assert_eq!(desk.code("pay", transfer("alpha", "beta", 1)), "unknown_book");
    assert!(matches!(desk.ask(&request("pay", transfer("alpha", "beta", 1))), Ruling::Duplicate(_)));
    let bad = |unit: &str, scale| PaymentBody::OpenBook(OpenBook { unit: unit.into(), scale });
    assert_eq!(desk.code("unit", bad("token", 2)), "invalid");
    assert_eq!(desk.code("scale", bad("TOKEN", 9)), "invalid");
    desk.ok("open", bad("TOKEN", 0));
    assert_eq!(desk.code("open again", bad("TOKEN", 2)), "exists");
    let foreign =
        PaymentRequest { book: BookId::from("ma in"), ..request("x", open("a", AccountKind::Agent)) };
    assert!(matches!(decide(&Book::default(), &foreign, NOON), Ruling::Transactions(t)
        if matches!(&t[0].outcome, LedgerOutcome::Rejected(r) if r.code == "invalid")));
}

#[test]
fn what_is_reached_too_late_is_not_done() {
    let mut desk = Desk::new();
    let late = PaymentRequest { not_after_ms: Some(NOON), ..request("late", transfer("alpha", "beta", 1)) };
    assert_eq!(desk.code_of(&late), "expired");
    let soon =
        PaymentRequest { not_after_ms: Some(NOON + 1), ..request("soon", transfer("alpha", "beta", 1)) };
    assert_eq!(desk.code_of(&soon), "ok");
}

fn with_threshold() -> Desk {
    let mut desk = Desk::new();
    let policy = LedgerPolicy { version: 2, approval_above: Some(5_000), ..default_policy(2) };
    desk.ok("policy", PaymentBody::SetPolicy(SetPolicy { policy }));
    desk
}

#[test]
fn what_is_above_the_threshold_waits_for_a_person() {
    let mut desk = with_threshold();
    desk.ok("small", transfer("alpha", "beta", 5_000));
    assert_eq!(desk.code("large", transfer("beta", "alpha", 5_001)), "pending");
    assert_eq!(desk.has("beta"), (15_000, 0));
    assert!(matches!(desk.ask(&request("large", transfer("beta", "alpha", 5_001))), Ruling::Duplicate(_)));
    assert_eq!(desk.code("large", transfer("beta", "alpha", 5_002)), "conflict");
    assert!(desk.book.held.contains_key(&id("large")), "a second request under its id takes nothing away");
    let approve = |of: &str| PaymentBody::Approve(Approve { request: id(of) });
    let Ruling::Transactions(done) = desk.ask(&request("yes", approve("large"))) else { panic!() };
    assert_eq!((done.len(), done[1].request.id), (2, id("large")));
    assert_eq!(desk.has("beta"), (9_999, 0));
    assert_eq!(desk.code("yes again", approve("large")), "unknown_request");
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn what_a_person_refuses_or_nobody_answers_is_not_done() {
    let mut desk = with_threshold();
    let large = |name: &str| PaymentRequest {
        not_after_ms: Some(NOON + 100),
        ..request(name, transfer("alpha", "beta", 6_000))
    };
    assert_eq!(desk.code_of(&large("one")), "pending");
    desk.ok("no", PaymentBody::Deny(Deny { request: id("one"), reason: "too dear".into() }));
    assert_eq!(desk.book.answers[&id("one")].code, Code::Denied);
    assert_eq!(desk.code_of(&large("two")), "pending");
    assert_eq!(desk.code_of(&large("three")), "pending");
    desk.ok("spend", transfer("alpha", "fees", 4_500));
    let Ruling::Transactions(done) =
        desk.ask(&request("yes", PaymentBody::Approve(Approve { request: id("two") })))
    else {
        panic!()
    };
    assert!(matches!(&done[1].outcome, LedgerOutcome::Rejected(r) if r.code == "insufficient"), "{done:?}");
    desk.wait_until(NOON + 100);
    assert_eq!(desk.book.answers[&id("three")].code, Code::Expired);
    assert!(desk.book.held.is_empty() && desk.book.due.is_empty());
    assert_eq!(desk.has("alpha"), (5_500, 0));
}

#[test]
fn what_a_person_agrees_to_after_its_time_is_not_done_even_where_no_timer_was_faster() {
    let mut desk = with_threshold();
    let large = PaymentRequest {
        not_after_ms: Some(NOON + 100),
        ..request("large", transfer("alpha", "beta", 6_000))
    };
    assert_eq!(desk.code_of(&large), "pending");
    let before = (desk.has("alpha"), desk.has("beta"));
    desk.now = NOON + 100;
    desk.ok("yes", PaymentBody::Approve(Approve { request: id("large") }));
    assert_eq!(desk.book.answers[&id("large")].code, Code::Expired);
    assert_eq!((desk.has("alpha"), desk.has("beta")), before);
    assert!(desk.book.held.is_empty() && desk.book.due.is_empty());
}

#[test]
fn a_query_answers_and_leaves_no_trace() {
    let mut desk = Desk::new();
    desk.ok("pay", transfer("alpha", "beta", 1));
    desk.ok("back", transfer("beta", "alpha", 2));
    let before = desk.book.clone();
    let query = |of: &str| PaymentBody::Query(Query { account: account(of), movements: 2 });
    let Ruling::Queried(Ok(view)) = desk.ask(&by_agent("q", "alpha", query("alpha"))) else { panic!() };
    assert_eq!(view.balance.posted, 10_001);
    assert_eq!(view.movements.iter().map(|movement| movement.amount).collect::<Vec<_>>(), [2, -1]);
    let Ruling::Queried(Err(refusal)) = desk.ask(&request("q2", query("nobody"))) else { panic!() };
    assert_eq!(refusal.code, Code::UnknownAccount);
    assert_eq!(desk.book, before);
}

#[test]
fn a_transaction_that_does_not_follow_is_not_taken_in() {
    let mut desk = Desk::new();
    desk.ok("hold", reserve("alpha", "fees", 100, Some(NOON + 9)));
    let before = desk.book.clone();
    desk.ok("pay", transfer("alpha", "beta", 100));
    let good = desk.log.last().unwrap().clone();
    type Spoil = fn(&mut LedgerTransaction);
    let spoils: [(&str, Spoil); 9] = [
        ("a gap", |t| t.seq += 1),
        ("another predecessor", |t| t.previous = Some(t.id)),
        ("another book", |t| t.book = BookId::from("other")),
        ("a wrong sum", |t| t.postings[0].to_after.posted += 1),
        ("more than there is", |t| {
            t.postings[0].amount = 50_000;
            t.postings[0].from_after.posted = -40_000;
            t.postings[0].to_after.posted = 60_000;
        }),
        ("a refusal that pays", |t| {
            t.outcome = LedgerOutcome::Rejected(Rejected { code: "x".into(), message: String::new() });
        }),
        ("an answered request", |t| t.request.id = Id::of_text("mint alpha")),
        ("the end of a reservation that is none", |t| {
            t.holds.push(Hold {
                reservation: Id::of_text("nothing"),
                account: AccountId::from("alpha"),
                change: -1,
                after: Balance::default(),
                state: HoldState::Voided,
            });
        }),
        ("money from nowhere", |t| t.postings[0].from = AccountId::from("nobody")),
    ];
    for (what, spoil) in spoils {
        let mut bad = good.clone();
        spoil(&mut bad);
        let mut book = before.clone();
        assert!(book.apply(&bad).is_err(), "{what} was taken in");
        assert_eq!(book, before, "{what} left something behind");
    }
    let mut book = before;
    book.apply(&good).unwrap();
    assert_eq!(book, desk.book);
}

#[test]
fn an_outside_ledger_plans_doubts_and_settles_a_request_once() {
    let mut desk = Desk::new();
    let pay = request("pay", transfer("alpha", "beta", 100));
    let mut book = desk.book.clone();
    let Ruling::Transactions(done) = decide(&book, &pay, NOON) else { panic!() };
    let follow = |book: &Book, outcome| LedgerTransaction {
        id: Id::of_text(&format!("t{}", book.next_seq)),
        seq: book.next_seq,
        previous: book.last,
        holds: Vec::new(),
        postings: Vec::new(),
        outcome,
        ..done[0].clone()
    };
    let planned = Planned { batch: id("b"), index: 0, of: 1, command: "c".into(), data: None };
    let step = follow(&book, LedgerOutcome::Planned(planned.into()));
    book.apply(&step).unwrap();
    let step = follow(&book, LedgerOutcome::InDoubt(InDoubt { message: "cut off".into() }));
    book.apply(&step).unwrap();
    assert_eq!(book.answers[&id("pay")].status, PaymentStatus::InDoubt);
    assert!(matches!(decide(&book, &pay, NOON), Ruling::Duplicate(_)), "it is not begun again");
    let settled = LedgerTransaction {
        postings: done[0].postings.clone(),
        ..follow(&book, LedgerOutcome::Committed(Committed { policy: None, external: Some("up-1".into()) }))
    };
    book.apply(&settled).unwrap();
    book.check().unwrap();
    let again =
        LedgerTransaction { postings: done[0].postings.clone(), ..follow(&book, done[0].outcome.clone()) };
    assert!(book.apply(&again).is_err(), "a final answer is final");
    desk.book = book;
    assert_eq!(desk.has("beta"), (10_100, 0));
}

#[test]
fn amounts_are_read_exactly_or_not_at_all() {
    for (text, scale, minor) in [
        ("25", 2, 2_500),
        ("10.5", 2, 1_050),
        ("0.01", 2, 1),
        ("7", 0, 7),
        ("90071992547409.91", 2, AMOUNT_MAX),
        ("0.00000001", 8, 1),
    ] {
        assert_eq!(parse_amount(text, scale), Ok(minor), "{text}");
    }
    for text in [
        "", ".", "1.", ".5", "+1", "1e3", "1E3", "NaN", "nan", "inf", "Infinity", "1,000", "1_000", " 1",
        "1 ", "0x10", "١", "１", "--1", "01", "1.2.3", "-", "1.-5", "½",
    ] {
        let read = parse_amount(text, 2);
        assert!(matches!(read, Err(BadAmount::NotDecimal(_))), "{text:?} was read as {read:?}");
    }
    for text in ["0", "0.00", "-0", "-5", "-50.00"] {
        assert!(matches!(parse_amount(text, 2), Err(BadAmount::NotPositive(_))), "{text}");
    }
    for text in ["90071992547409.92", "99999999999999999999", "12345678901234567890.12"] {
        assert!(matches!(parse_amount(text, 2), Err(BadAmount::TooLarge(_))), "{text}");
    }
    assert!(matches!(parse_amount("10.005", 2), Err(BadAmount::TooFine { .. })));
    assert!(matches!(parse_amount("1.0", 0), Err(BadAmount::TooFine { .. })));
    assert_eq!(parse_signed("-10.50", 2), Ok(-1_050));
    for (minor, scale, text) in [
        (0, 2, "0.00"),
        (5, 2, "0.05"),
        (-5, 2, "-0.05"),
        (-1_050, 2, "-10.50"),
        (7, 0, "7"),
        (i64::MIN, 0, "-9223372036854775808"),
        // What no book has, but a request can say.
        (2_500, 65_536, "2500e-65536"),
        (-2_500, i32::MAX, "-2500e-2147483647"),
        (7, -3, "7e3"),
        (i64::MIN, i32::MIN, "-9223372036854775808e2147483648"),
    ] {
        assert_eq!(format_amount(minor, scale), text);
    }
}

#[test]
fn the_digest_of_a_request_is_what_it_was_when_it_was_written() {
    // It decides for ever which request is the same as another: this must not change.
    let digests = [
        digest(&request("a", transfer("alpha", "beta", 100))).to_string(),
        digest(&request("a", reserve("alpha", "fees", 100, None))).to_string(),
        digest(&pay_reward(reward(0.75))).to_string(),
        reward_id(&reward(0.75)).to_string(),
    ];
    expect_test::expect![[r#"
        a1fb11308a17a61b5fa3367974301a7f
        873a95f32479137f7a968f8826944dbf
        76880a43d0e9bd4787f62503f373639f
        b1af8b07c17bae485fd895af1d000d96"#]]
    .assert_eq(&digests.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn an_amount_reads_back_as_it_was_written(minor in -AMOUNT_MAX..=AMOUNT_MAX, scale in 0..=8) {
        prop_assert_eq!(parse_signed(&format_amount(minor, scale), scale), Ok(minor));
    }

    #[test]
    fn no_text_makes_reading_an_amount_panic(text in "[-+0-9.eE, NaN_]{0,30}|\\PC{0,30}", scale in 0..=8) {
        if let Ok(minor) = parse_signed(&text, scale) {
            prop_assert!((-AMOUNT_MAX..=AMOUNT_MAX).contains(&minor));
        }
    }
}

/// One random request. Few ids and names, so that they meet.
fn any_request() -> impl Strategy<Value = PaymentRequest> {
    let names = || {
        prop::sample::select(vec![
            "alpha", "alpha", "beta", "fees", "fees", "treasury", "mint", "gamma", "аlpha",
        ])
    };
    let amounts =
        || prop_oneof![4 => 1..6_000_i64, 1 => prop::sample::select(vec![0, -7, AMOUNT_MAX, i64::MAX])];
    let ids = || (0..12_u8).prop_map(|n| id(&format!("r{n}")));
    let legs = prop::collection::vec((names(), names(), amounts()), 1..4);
    let expires = || prop::option::of(NOON..NOON + 300);
    let body = prop_oneof![
        4 => (legs, prop::option::weighted(0.2, -1..11_i32)).prop_map(|(legs, scale)| PaymentBody::Transfer(Transfer {
            scale,
            legs: legs.into_iter().map(|(from, to, amount)| Leg { from: account(from), to: account(to), amount }).collect(),
        })),
        3 => (names(), names(), amounts(), expires()).prop_map(|(from, to, amount, at)| reserve(from, to, amount, at)),
        3 => (ids(), prop::option::of(amounts())).prop_map(|(reservation, amount)| PaymentBody::Post(Post { reservation, amount, scale: None })),
        1 => ids().prop_map(|reservation| PaymentBody::Void(Void { reservation })),
        1 => ids().prop_map(|reference| PaymentBody::Expire(Expire { reference })),
        1 => (names(), any::<bool>()).prop_map(|(of, frozen)| PaymentBody::Freeze(Freeze { account: account(of), frozen })),
        1 => (names(), 0..3_000_i64, prop::option::of(0..9_000_i64)).prop_map(|(of, credit, most)| {
            let limits = AccountLimits { credit, transfer_max: most, day_max: most.map(|most| most * 3) };
            PaymentBody::SetLimits(SetLimits { account: account(of), limits })
        }),
        1 => (names(), amounts()).prop_map(|(to, amount)| PaymentBody::Mint(Mint { mint: account("mint"), to: account(to), amount })),
        1 => ids().prop_map(|request| PaymentBody::Approve(Approve { request })),
        1 => ids().prop_map(|request| PaymentBody::Deny(Deny { request, reason: String::new() })),
        1 => prop::option::of(0..4_000_i64).prop_map(|approval_above| PaymentBody::SetPolicy(SetPolicy {
            policy: LedgerPolicy { version: 9, approval_above, ..default_policy(2) },
        })),
        1 => (names(), 0..4_u8).prop_map(|(payee, score)| PaymentBody::Reward(Reward { payee: account(payee), ..reward(f64::from(score) / 3.0) })),
    ];
    (ids(), body, 0..7_u8, prop::option::of(NOON..NOON + 300)).prop_map(
        |(request_id, body, who, not_after_ms)| {
            let mut asked = match &body {
                // For the first time, or by a person once more, and once more after that.
                PaymentBody::Reward(reward) => {
                    (0..who).fold(pay_reward(reward.clone()), |before, _| PaymentRequest {
                        id: reward_again_id(&before.id),
                        cause: cause(CauseKind::Human),
                        ..before
                    })
                }
                _ if who >= 3 => budgets::budget("", "alpha", body),
                _ if who == 0 => by_agent("", "alpha", body),
                _ => request("", body),
            };
            if !matches!(asked.body, PaymentBody::Reward(_)) {
                asked.id = request_id;
            }
            PaymentRequest { not_after_ms, ..asked }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// `Desk::ask` checks every rule after every request.
    #[test]
    fn whatever_is_asked_money_is_conserved_and_every_answer_stands(
        requests in prop::collection::vec((any_request(), 0..40_i64), 1..60)
    ) {
        let mut desk = Desk::new();
        let mut first: std::collections::BTreeMap<Id, Id> = std::collections::BTreeMap::new();
        let mut paid: std::collections::BTreeMap<Id, u32> = std::collections::BTreeMap::new();
        let mut rewarded = std::collections::BTreeSet::new();
        for (request, passed) in requests {
            let now = desk.now + passed;
            desk.wait_until(now);
            let before = desk.book.clone();
            match desk.ask(&request) {
                Ruling::Duplicate(answer) => {
                    prop_assert_eq!(answer.digest, digest(&request));
                    prop_assert_eq!(&desk.book, &before);
                    prop_assert!(first.contains_key(&request.id));
                }
                Ruling::Transactions(done) => {
                    let asked_before = first.contains_key(&request.id);
                    prop_assert!(!asked_before || matches!(done[0].outcome, LedgerOutcome::Rejected(_)));
                    first.entry(request.id).or_insert(done[0].id);
                    for transaction in &done {
                        if matches!(transaction.outcome, LedgerOutcome::Committed(_)) {
                            if let PaymentBody::Reward(reward) = &transaction.request.body {
                                prop_assert!(rewarded.insert(reward_id(reward)), "one work is rewarded twice");
                            }
                            *paid.entry(transaction.request.id).or_default() += 1;
                        }
                    }
                }
                Ruling::Queried(_) => {}
                Ruling::Broken(reason) => prop_assert!(false, "{}", reason),
            }
        }
        prop_assert!(paid.values().all(|times| *times == 1), "a request was done twice");
        prop_assert_eq!(desk.refold(), desk.book);
    }
}

#[test]
fn an_amount_in_other_decimals_is_converted_exactly_or_refused() {
    let mut desk = Desk::new();
    let paid = |amount, scale| {
        let leg = Leg { from: account("alpha"), to: account("beta"), amount };
        PaymentBody::Transfer(Transfer { legs: vec![leg], scale: Some(scale) })
    };
    desk.ok("whole", paid(25, 0));
    desk.ok("tenth", paid(105, 1));
    desk.ok("same", paid(1, 2));
    desk.ok("finer, and even", paid(10_000, 6));
    assert_eq!(desk.has("alpha").0, 10_000 - 2_500 - 1_050 - 1 - 1);
    for (name, amount, scale) in [
        ("too fine", 1_001, 5),
        ("no decimals", 1, -1),
        ("nine", 1, 9),
        ("huge", AMOUNT_MAX, 0),
        ("huger", i64::MAX, 1),
        ("zero", 0, 0),
        ("below", -1, 0),
    ] {
        assert_eq!(desk.code(name, paid(amount, scale)), "invalid", "{name}");
    }
    assert_eq!(desk.code("poor", paid(1_000, 0)), "insufficient");
}

#[test]
fn decimal_text_is_read_without_knowing_the_book() {
    for (text, expected) in [
        ("25", (25, 0)),
        ("25.0", (25, 0)),
        ("10.50", (105, 1)),
        ("0.00000001", (1, 8)),
        ("100", (100, 0)),
        ("9007199254740991", (AMOUNT_MAX, 0)),
    ] {
        assert_eq!(parse_decimal(text), Ok(expected), "{text}");
    }
    for text in [
        "",
        ".",
        "1.",
        ".5",
        "0",
        "0.0",
        "-1",
        "-0",
        "+1",
        "1e3",
        "NaN",
        "inf",
        "1,000",
        "0.000000001",
        "1 ",
        "１",
        "12345678901234567890",
        "9007199254740992",
        "0.30000000000000004",
    ] {
        assert!(parse_decimal(text).is_err(), "{text}");
    }
}

#[test]
fn an_evaluation_rewards_an_agents_wallet_and_no_other_account() {
    let mut desk = Desk::new();
    for payee in ["fees", "treasury", "mint"] {
        let request = pay_reward(Reward { payee: account(payee), ..reward(0.9) });
        assert_eq!(desk.code_of(&request), "not_allowed", "{payee}");
    }
    assert_eq!(desk.has("treasury").0, 100_000);
}
