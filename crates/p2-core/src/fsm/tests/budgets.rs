//! Budgets: what is set aside before a call, what is posted after it, and what ends a run; with a real book on the other
//! side.

use super::*;
use crate::definition::Budget;
use crate::ids::AccountId;
use crate::ledger::{self, Book, Ruling};
use crate::step::{ASKS_MAX, EMPTY_REPLIES_MAX};

const TEAM: &str = "budget:team";

fn budget(model_call: &str, units_per_usd: Option<&str>) -> Budget {
    Budget {
        account: Some(TEAM.into()),
        book: "main".into(),
        fees: "fees".into(),
        model_call: model_call.into(),
        units_per_usd: units_per_usd.map(str::to_owned),
    }
}

/// A conversation whose agent has a budget of `budget:team`, and a book with 5.00 for it.
struct Purse {
    w: World,
    book: Book,
    /// How many payment requests the ledger has read.
    read: usize,
    /// What it said to the conversation and has not arrived.
    answers: Vec<InboxBody>,
}

impl Purse {
    fn new(budget: &Budget) -> Purse {
        let mut w = World::new();
        w.alpha(|llm| llm.budget = Some(Box::new(budget.clone())));
        Purse::of(w)
    }

    fn of(w: World) -> Purse {
        let mut purse = Purse { w, book: Book::default(), read: 0, answers: Vec::new() };
        purse.human(PaymentBody::OpenBook(OpenBook { unit: "TOKEN".into(), scale: 2 }));
        for (name, kind) in [
            ("mint", AccountKind::Mint),
            ("fees", AccountKind::Fees),
            ("alpha", AccountKind::Agent),
            (TEAM, AccountKind::Escrow),
        ] {
            let (account, limits) = (AccountId::from(name), AccountLimits::default());
            purse.human(PaymentBody::OpenAccount(OpenAccount { account, kind, limits }));
        }
        purse.give(TEAM, 500);
        purse
    }

    fn give(&mut self, to: &str, amount: i64) {
        let mint = Mint { mint: "mint".into(), to: to.into(), amount };
        self.human(PaymentBody::Mint(mint));
    }

    fn human(&mut self, body: PaymentBody) {
        let cause = PaymentCause {
            kind: CauseKind::Human,
            reference: None,
            conversation: None,
            agent: None,
            branch: None,
            reason: String::new(),
        };
        let id = Id::of_text(&format!("human {}", self.book.next_seq));
        let (book, by) = ("main".into(), "ann".into());
        let made =
            self.decide(&PaymentRequest { id, book, by, cause, reply_to: None, not_after_ms: None, body });
        assert!(matches!(made.outcome, LedgerOutcome::Committed(_)), "{made:?}");
    }

    fn decide(&mut self, request: &PaymentRequest) -> LedgerTransaction {
        let Ruling::Transactions(made) = ledger::decide(&self.book, request, self.w.now) else {
            panic!("{request:?} was asked twice")
        };
        made.iter().for_each(|made| self.book.apply(made).unwrap());
        self.book.check().unwrap();
        made[0].clone()
    }

    /// The ledger reads what was asked, and ends what is due.
    fn read(&mut self) {
        while let Some(request) = ledger::due(&self.book, self.w.now) {
            self.decide(&request);
        }
        for request in self.w.payments.clone().split_off(self.read) {
            self.read += 1;
            let made = self.decide(&request);
            let Some(to) = request.reply_to else { continue };
            let (status, code, message) = match &made.outcome {
                LedgerOutcome::Committed(_) => (PaymentStatus::Committed, "ok".into(), String::new()),
                LedgerOutcome::Rejected(why) => {
                    (PaymentStatus::Rejected, why.code.clone(), why.message.clone())
                }
                other => panic!("{other:?}"),
            };
            self.answers.push(InboxBody::PaymentResult(PaymentResult {
                request: request.id,
                wait: to.wait,
                call_id: to.call_id,
                status,
                code,
                message,
                transaction: Some(made.id),
                postings: made.postings,
                unit: "TOKEN".into(),
                scale: 2,
                account: None,
            }));
        }
    }

    /// The ledger reads, and its answers arrive, until nothing is left.
    fn settle(&mut self) {
        loop {
            self.read();
            if self.answers.is_empty() {
                break;
            }
            for answer in std::mem::take(&mut self.answers) {
                self.w.inbox(answer);
            }
        }
        self.consistent();
    }

    /// What is set aside is what open calls hold.
    fn consistent(&self) {
        let held: BTreeMap<Id, Id> = self
            .w
            .conv
            .waits
            .values()
            .filter_map(|wait| Some((wait.waiting.budget.as_ref()?.reservation, wait.waiting.id)))
            .collect();
        for reservation in self.book.reservations.keys() {
            assert!(held.contains_key(reservation), "reservation {reservation} is left over");
        }
        for (reservation, wait) in &held {
            let open = self.book.reservations.contains_key(reservation);
            let lapsed = self.book.lapsed.contains_key(reservation);
            assert!(open || lapsed, "wait {wait} runs under nothing");
        }
    }

    fn say(&mut self, text: &str) {
        self.w.say(text);
        self.settle();
    }

    fn has(&self, account: &str) -> (i64, i64) {
        let balance = self.book.accounts.get(&AccountId::from(account)).unwrap().balance;
        (balance.posted, balance.reserved)
    }

    /// A model's reply that used so many tokens.
    fn reply(&mut self, text: &str, calls: &[(&str, Value)], tokens: Option<(i64, i64)>) {
        let wait = self.w.ask_of("alpha");
        let tool_calls = calls.iter().map(|(name, arguments)| ModelToolCall {
            id: String::new(),
            name: (*name).to_owned(),
            arguments: arguments.to_string(),
        });
        let reply = ModelReply {
            text: Some(text.to_owned()).filter(|text| !text.is_empty()),
            tool_calls: tool_calls.collect(),
            prompt_tokens: tokens.map(|(prompt, _)| prompt),
            completion_tokens: tokens.map(|(_, completion)| completion),
        };
        self.end(wait, Ok(reply), 1);
    }

    fn end(&mut self, wait: Id, result: Result<ModelReply, ModelError>, attempts: i32) {
        self.w.asks.retain(|ask| ask.wait != wait);
        let outcome = ModelOutcome { result, latency_ms: 1, attempts };
        self.w.input(&Input::ModelReply { wait, outcome });
        self.settle();
    }

    fn fail(&mut self, code: &str, attempts: i32) {
        let error = ModelError { class: ModelErrorClass::Permanent, code: code.into(), message: "no".into() };
        self.end(self.w.ask_of("alpha"), Err(error), attempts);
    }
}

#[test]
fn an_agent_without_a_budget_asks_nobody_and_its_waits_carry_nothing() {
    let mut w = World::new();
    w.apply(tool("weather", json!({"side_effect_free": true, "price": "1"})), 1);
    w.say("go");
    w.reply("alpha", "", &[("weather", json!({})), ("pay", json!({}))]);
    w.tool_done(0, ToolStatus::Success);
    w.tool_done(1, ToolStatus::Success);
    w.reply("alpha", "done", &[]);
    assert!(w.payments.is_empty());
    assert!(w.effects.iter().all(|effect| effect.reservation.is_none()));
    let text = serde_json::to_string(&w.log).unwrap();
    assert!(!text.contains("reservation") && !text.contains("Payment"), "{text}");
}

#[test]
fn a_model_is_called_when_its_estimate_is_set_aside_and_what_it_cost_is_posted() {
    let mut p = Purse::new(&budget("0.50", Some("100")));
    p.w.say("hello");
    assert!(p.w.asks.is_empty(), "nothing is asked before the ledger has answered");
    let asked = p.w.payments[0].clone();
    assert_eq!((asked.cause.kind, asked.by.as_str()), (CauseKind::Budget, "alpha"));
    assert!(asked.cause.reference.is_some());
    let PaymentBody::Reserve(reserve) = &asked.body else { panic!() };
    let wait = p.w.conv.waits.values().next().unwrap().waiting.clone();
    assert_eq!((wait.kind, wait.correlation.as_str()), (WaitKind::Payment, ""));
    assert!(reserve.expires_ms.unwrap() >= wait.deadline_ms.unwrap() + 120_000 + 600_000);
    p.settle();
    assert_eq!(p.has(TEAM), (500, 50));
    let call = p.w.conv.waits.values().next().unwrap().waiting.clone();
    assert_eq!((call.kind, call.budget.unwrap().reservation), (WaitKind::Llm, asked.id));
    // 4,000 · 2.5 + 1,500 · 10 micro-dollars are 0.025 dollars, and 2.5 units.
    p.reply("hi", &[], Some((4_000, 1_500)));
    assert_eq!((p.has(TEAM), p.has("fees")), ((250, 0), (250, 0)));
    assert!(p.w.conv.waits.is_empty());
    check(
        &p.w.main(),
        expect![[r#"
            0 user: hello
            1 assistant: hi
        "#]],
    );
    p.say("and");
    p.reply("a little", &[], Some((1, 0)));
    assert_eq!(p.has(TEAM), (249, 0), "0.00025 units are rounded up");
}

#[test]
fn what_a_call_cost_that_nobody_can_price_is_its_estimate() {
    for (rate, tokens) in
        [(None, Some((1, 1))), (Some("100"), None), (Some("99999999999"), Some((i64::MAX, 1)))]
    {
        let mut p = Purse::new(&budget("0.50", rate));
        p.say("hello");
        p.reply("hi", &[], tokens);
        assert_eq!((p.has(TEAM), p.has("fees")), ((450, 0), (50, 0)), "{rate:?} {tokens:?}");
    }
    let mut p = Purse::new(&budget("0.50", Some("100")));
    p.say("hello");
    p.reply("hi", &[], Some((0, 0)));
    assert_eq!((p.has(TEAM), p.has("fees")), ((500, 0), (0, 0)), "what is free is given back");
}

#[test]
fn a_call_that_failed_costs_its_estimate_unless_the_provider_refused_it() {
    for (code, attempts, has) in [
        ("http_401", 1, 500),
        ("no_key", 1, 500),
        ("unknown_model", 0, 500),
        ("connect", 1, 500),
        ("connect", 2, 450),
        ("http_500", 1, 450),
        ("http_429", 3, 450),
        ("incomplete", 1, 450),
        ("http_4", 1, 450),
    ] {
        let mut p = Purse::new(&budget("0.50", Some("100")));
        p.say("hello");
        p.fail(code, attempts);
        assert_eq!(p.has(TEAM), (has, 0), "{code} {attempts}");
    }
}

#[test]
fn a_call_without_an_answer_costs_its_estimate_and_a_late_reply_changes_nothing() {
    for cancel in [false, true] {
        let mut p = Purse::new(&budget("0.50", Some("100")));
        p.say("hello");
        let wait = p.w.ask_of("alpha");
        if cancel {
            p.w.control(ControlOperation::Cancel);
        } else {
            p.w.now += 200_000;
            p.w.deadline(wait);
        }
        p.settle();
        assert_eq!(p.has(TEAM), (450, 0));
        let asked = p.w.payments.len();
        let reply = ModelReply {
            text: Some("late".into()),
            prompt_tokens: Some(1),
            completion_tokens: Some(1),
            ..ModelReply::default()
        };
        p.end(wait, Ok(reply), 1);
        assert_eq!(p.w.payments.len(), asked, "it is ended once");
        assert_eq!(p.has(TEAM), (450, 0));
    }
}

#[test]
fn an_exhausted_budget_ends_the_run_visibly_and_the_next_message_tries_again() {
    let mut p = Purse::new(&budget("2.00", None));
    p.say("one");
    p.reply("first", &[], None);
    p.say("two");
    p.reply("second", &[], None);
    p.say("three");
    assert!(p.w.asks.is_empty() && p.w.conv.waits.is_empty());
    check(
        &p.w.main(),
        expect![[r#"
            0 user: one
            1 assistant: first
            2 user: two
            3 assistant: second
            4 user: three
            5 assistant error budget/refused
            6 finished budget
        "#]],
    );
    let said = p.w.published().last().unwrap().to_owned();
    expect!["Stopped by the budget: 'budget:team' has 1.00 TOKEN available, 2.00 TOKEN are needed. Put money into it: 'p2engine ledger transfer treasury budget:team AMOUNT'. Then write again to go on."]
        .assert_eq(said);
    assert_eq!(p.w.events("agent_finished").last().unwrap()["stop_reason"], "budget");
    p.give(TEAM, 100);
    p.say("four");
    p.reply("third", &[], None);
    assert_eq!((p.has(TEAM), p.has("fees")), ((0, 0), (600, 0)));
}

#[test]
fn every_refusal_says_what_to_mend() {
    let freeze = |account: &str| PaymentBody::Freeze(Freeze { account: account.into(), frozen: true });
    let limits = AccountLimits { transfer_max: Some(1), ..AccountLimits::default() };
    let cases: [(Budget, Option<PaymentBody>, &str, &str); 5] = [
        (
            Budget { account: Some("budget:none".into()), ..budget("1", None) },
            None,
            "there is no account 'budget:none'",
            "'p2engine ledger open budget:none --kind escrow'",
        ),
        (budget("1", None), Some(freeze(TEAM)), "'budget:team' is frozen", "freeze budget:team --thaw'"),
        (
            budget("1", None),
            Some(PaymentBody::SetLimits(SetLimits { account: TEAM.into(), limits })),
            "over the limit",
            "'p2engine ledger limits budget:team'",
        ),
        (
            Budget { fees: "alpha".into(), ..budget("1", None) },
            None,
            "is no account of kind fees",
            "'p2engine ledger balance budget:team'",
        ),
        (
            Budget { account: None, ..budget("1", None) },
            None,
            "'alpha' has 0.00 TOKEN available",
            "transfer treasury alpha AMOUNT",
        ),
    ];
    for (budget, first, why, mend) in cases {
        let mut p = Purse::new(&budget);
        first.into_iter().for_each(|body| p.human(body));
        p.say("hello");
        let said = p.w.published().last().unwrap().to_owned();
        assert!(said.contains(why) && said.contains(mend), "{said}");
        assert!(p.w.main().ends_with("finished budget\n"), "{}", p.w.main());
    }
}

#[test]
fn a_callee_whose_budget_is_exhausted_answers_its_caller_with_that() {
    let mut w = World::new();
    w.apply(changed(llm("helper", ALL), |llm| llm.budget = Some(Box::new(budget("9", None)))), 2);
    let mut p = Purse::of(w);
    p.say("ask helper");
    p.reply("", &[to_helper("what is it?")], None);
    let shown = p.w.main();
    assert!(shown.contains("agent result helper error: Stopped by the budget"), "{shown}");
    p.w.ask_of("alpha");
    let callee = p.w.conv.stacks[&AgentId::from("helper")].branches.keys().next().unwrap().0.clone();
    assert!(p.w.show("helper", &callee).ends_with("finished budget\n"));
}

#[test]
fn what_is_said_while_money_is_awaited_is_in_the_prompt() {
    let mut p = Purse::new(&budget("1", None));
    p.w.say("one");
    p.w.say("two");
    assert_eq!(p.w.payments.len(), 1, "one call, one reservation");
    p.settle();
    let text = format!("{:?}", p.w.asks[0].request.messages);
    assert!(text.contains("one") && text.contains("two"));
    p.reply("both", &[], None);
    assert!(p.w.conv.waits.is_empty() && p.has(TEAM) == (400, 0));
}

#[test]
fn a_second_answer_of_the_ledger_changes_nothing() {
    let mut p = Purse::new(&budget("1", None));
    p.w.say("one");
    p.read();
    let answer = p.answers[0].clone();
    p.settle();
    let (asks, payments) = (p.w.asks.clone(), p.w.payments.len());
    assert_eq!(p.w.inbox(answer).code, "late");
    assert_eq!((&p.w.asks, p.w.payments.len()), (&asks, payments));
}

#[test]
fn an_answer_about_another_reservation_lets_nothing_go_on() {
    let mut p = Purse::new(&budget("1", None));
    p.w.say("one");
    p.read();
    let InboxBody::PaymentResult(mut forged) = p.answers[0].clone() else { panic!() };
    forged.request = Id::of_text("forged");
    assert_eq!(p.w.inbox(InboxBody::PaymentResult(forged.clone())).code, "invalid");
    forged.request = p.w.payments[0].id;
    forged.call_id = "call_1".into();
    assert_eq!(p.w.inbox(InboxBody::PaymentResult(forged)).code, "invalid");
    assert!(p.w.asks.is_empty());
    p.settle();
    p.w.ask_of("alpha");
}

#[test]
fn a_cancel_while_money_is_awaited_gives_back_what_the_ledger_sets_aside_later() {
    let mut p = Purse::new(&budget("1", None));
    p.w.say("one");
    p.w.control(ControlOperation::Cancel);
    assert_eq!(p.w.payments.len(), 2);
    p.settle();
    assert_eq!((p.has(TEAM), p.has("fees")), ((500, 0), (0, 0)));
    assert!(p.w.asks.is_empty() && p.w.main().ends_with("finished cancelled\n"), "{}", p.w.main());
}

#[test]
fn a_ledger_that_does_not_answer_ends_the_turn_and_keeps_nothing() {
    let mut p = Purse::new(&budget("1", None));
    p.w.say("one");
    let wait = p.w.wait(WaitKind::Payment);
    p.w.now += 899_000;
    p.w.deadline(wait);
    assert!(p.w.conv.waits.contains_key(&wait), "not before its time");
    p.w.now += 2_000;
    p.w.deadline(wait);
    assert!(p.w.main().ends_with("assistant error budget/timeout\n"), "{}", p.w.main());
    p.settle();
    assert_eq!(p.has(TEAM), (500, 0));
    p.say("two");
    p.reply("hi", &[], None);
    assert_eq!(p.has(TEAM), (400, 0));
}

#[test]
fn an_answer_that_arrives_days_later_is_given_back_and_asked_for_anew() {
    let mut p = Purse::new(&budget("1", None));
    p.w.say("one");
    p.read();
    p.w.now += 3 * 86_400_000;
    p.settle();
    p.w.ask_of("alpha");
    assert_eq!(p.has(TEAM), (500, 100), "the first has expired, the second is open");
    p.reply("hi", &[], None);
    assert_eq!(p.has(TEAM), (400, 0));
}

#[test]
fn a_reply_after_its_reservation_expired_is_booked_all_the_same() {
    let mut p = Purse::new(&budget("5", None));
    p.say("one");
    p.w.now += 3 * 86_400_000;
    p.read();
    assert_eq!(p.has(TEAM), (500, 0), "time gave it back");
    let spent = Leg { from: TEAM.into(), to: "alpha".into(), amount: 400 };
    p.human(PaymentBody::Transfer(Transfer { legs: vec![spent], scale: None }));
    p.reply("days later", &[], None);
    assert_eq!(p.has(TEAM), (-400, 0));
    assert_eq!(p.book.accounts.get(&AccountId::from(TEAM)).unwrap().debt, 400);
    p.say("two");
    assert!(p.w.main().ends_with("finished budget\n"), "who owes has no budget: {}", p.w.main());
}

#[test]
fn a_pause_pays_for_what_it_cuts_short_and_what_goes_on_has_a_reservation_of_its_own() {
    let mut p = Purse::new(&budget("1", None));
    for round in 0..5 {
        if round == 0 {
            p.say("one");
        }
        p.w.control(ControlOperation::Pause);
        p.settle();
        assert_eq!(p.has(TEAM).1, 0, "nothing stays set aside for a pause of days");
        p.give(TEAM, 100);
        p.w.control(ControlOperation::Resume);
        p.settle();
        assert_eq!(p.has("fees").0, 100 * (round + 1));
        assert_eq!(p.has(TEAM), (500, 100));
    }
    p.reply("at last", &[], None);
    assert!(
        p.w.main().ends_with("assistant: at last\n"),
        "no attempt counts as an empty reply: {}",
        p.w.main()
    );
    assert_eq!(p.has(TEAM), (400, 0));
}

#[test]
fn a_pause_while_money_is_awaited_asks_for_it_anew_afterwards() {
    let mut p = Purse::new(&budget("1", None));
    p.w.say("one");
    p.w.control(ControlOperation::Pause);
    p.settle();
    assert_eq!(p.has(TEAM), (500, 0));
    assert!(p.w.asks.is_empty() && p.w.conv.waits.is_empty());
    p.w.control(ControlOperation::Resume);
    p.settle();
    p.reply("hi", &[], None);
    assert_eq!(p.has(TEAM), (400, 0));
}

#[test]
fn a_branch_that_was_left_while_money_is_awaited_calls_nothing_and_pays_nothing() {
    let mut p = Purse::new(&budget("1", None));
    p.say("one");
    p.reply("first", &[], None);
    p.w.say("two");
    p.w.branch(BranchCommand { at: Some(1), ..command(BranchOperation::Rewind) });
    p.settle();
    assert!(p.w.asks.is_empty());
    assert_eq!(p.has(TEAM), (400, 0));
    p.w.branch(BranchCommand { branch: Some("main".into()), ..command(BranchOperation::Checkout) });
    p.settle();
    p.reply("second", &[], None);
    assert_eq!(p.has(TEAM), (300, 0));
}

#[test]
fn a_branch_that_is_checked_out_again_pays_for_its_second_attempt_too() {
    let mut p = Purse::new(&budget("1", None));
    p.say("one");
    p.w.branch(BranchCommand { at: Some(0), ..command(BranchOperation::Fork) });
    let other =
        p.w.conv.stacks[&p.w.conv.root].branches.keys().find(|id| id.as_str() != "main").unwrap().0.clone();
    p.w.branch(BranchCommand { branch: Some(other), ..command(BranchOperation::Checkout) });
    p.settle();
    p.w.branch(BranchCommand { branch: Some("main".into()), ..command(BranchOperation::Checkout) });
    p.settle();
    p.reply("hi", &[], None);
    p.w.control(ControlOperation::Cancel);
    p.settle();
    assert_eq!(p.has(TEAM).1, 0);
    let posted = p.has("fees").0;
    assert_eq!(p.has(TEAM).0 + posted, 500);
    assert!(posted >= 200, "{posted}");
}

#[test]
fn branches_that_inherit_a_wait_for_money_share_no_reservation() {
    let mut p = Purse::new(&budget("1", None));
    p.w.say("one");
    p.w.branch(BranchCommand { keep_wait: true, ..command(BranchOperation::Fork) });
    p.settle();
    assert_eq!(p.w.asks.len(), 1, "one reservation, one call");
    assert_eq!(p.has(TEAM), (500, 100));
    p.reply("hi", &[], None);
    assert_eq!(p.has(TEAM), (400, 0));
}

#[test]
fn an_override_names_another_account_and_one_that_may_not_pay_is_refused() {
    let mut p = Purse::new(&budget("1", None));
    p.say("one");
    p.reply("first", &[], None);
    let over = |account: &str| Overrides { budget: Some(account.into()), ..Overrides::default() };
    for bad in ["treasury", "beta", "fees", "budget:", "", "budget:té", "mint"] {
        assert_eq!(p.w.over(over(bad)).code, "invalid", "{bad}");
    }
    assert_eq!(p.w.over(over("alpha")).code, "ok");
    p.give("alpha", 150);
    p.say("two");
    p.reply("second", &[], None);
    assert_eq!((p.has("alpha"), p.has(TEAM)), ((50, 0), (400, 0)));
    let mut w = World::new();
    w.say("one");
    let outcome = w.over(over("alpha"));
    assert!(outcome.message.contains("no budget in its definition"), "{}", outcome.message);
}

#[test]
fn a_call_whose_owner_is_gone_is_paid_and_begun_again_under_a_reservation_of_its_own() {
    let mut p = Purse::new(&budget("1", None));
    p.say("one");
    for round in 1..=4 {
        let context = Context { registry: &p.w.registry, settings: &p.w.settings };
        let asks = open_asks(&p.w.conv, context);
        assert_eq!((asks.len(), asks[0].deadline_ms), (1, 0), "the next owner makes no call by itself");
        let error =
            ModelError { class: ModelErrorClass::Timeout, code: "timeout".into(), message: "gone".into() };
        p.give(TEAM, 100);
        p.end(asks[0].wait, Err(error), 0);
        assert_eq!((p.has("fees").0, p.has(TEAM)), (100 * round, (500, 100)));
        assert_ne!(p.w.ask_of("alpha"), asks[0].wait);
    }
    p.reply("at last", &[], None);
    assert!(p.w.main().ends_with("assistant: at last\n"), "{}", p.w.main());
    assert_eq!(p.has(TEAM), (400, 0));
}

/// Calls of a model that a pause cut short, so that each was begun again under a reservation of its own.
fn interrupted(p: &mut Purse, times: usize) {
    p.say("one");
    for _ in 0..times {
        p.give(TEAM, 100);
        p.w.control(ControlOperation::Pause);
        p.settle();
        p.w.control(ControlOperation::Resume);
        p.settle();
    }
}

#[test]
fn a_call_that_was_begun_again_is_not_a_reply_without_content() {
    let mut p = Purse::new(&budget("1", None));
    interrupted(&mut p, EMPTY_REPLIES_MAX);
    p.reply("", &[], None);
    assert!(!p.w.main().contains("no_content"), "one reply was empty: {}", p.w.main());
    p.reply("at last", &[], None);
    assert!(p.w.main().ends_with("assistant: at last\n"), "{}", p.w.main());
}

#[test]
fn a_call_that_was_begun_again_counts_once_against_the_calls_of_a_message() {
    let mut p = tools();
    interrupted(&mut p, ASKS_MAX);
    p.reply("", &[("weather", json!({}))], None);
    p.w.tool_done(0, ToolStatus::Success);
    p.settle();
    assert!(!p.w.main().contains("rounds"), "this is the second call for the message: {}", p.w.main());
    p.reply("at last", &[], None);
    assert!(p.w.main().ends_with("assistant: at last\n"), "{}", p.w.main());
}

/// With prices on two tools, one of which may be repeated.
fn tools() -> Purse {
    let mut w = World::new();
    w.alpha(|llm| llm.budget = Some(Box::new(budget("1", None))));
    w.apply(tool("weather", json!({"side_effect_free": true, "price": "0.305"})), 2);
    w.apply(tool("pay", json!({"price": "2", "timeout_ms": 5000})), 2);
    w.apply(tool("guarded", json!({"approval": "required", "price": "0.01"})), 2);
    Purse::of(w)
}

#[test]
fn a_tool_is_called_under_its_own_reservation_which_the_effect_names() {
    let mut p = tools();
    p.say("go");
    p.reply(
        "",
        &[("weather", json!({})), ("pay", json!({})), ("ask_user", json!({"question": "ok?"}))],
        None,
    );
    let effects = p.w.tool_effects();
    assert_eq!(effects.len(), 2);
    assert_eq!(p.has(TEAM), (400, 31 + 200), "rounded up");
    for (effect, call) in &effects {
        let waiting = &p.w.conv.waits[&call.wait].waiting;
        assert_eq!(effect.reservation, waiting.budget.as_ref().map(|held| held.reservation));
        let open = &p.book.reservations[&effect.reservation.unwrap()];
        assert_eq!(
            open.expires_ms.is_none(),
            call.tool == "pay",
            "what may be in doubt for days keeps its money"
        );
    }
    p.w.tool_done(0, ToolStatus::Success);
    p.w.tool_done(1, ToolStatus::InDoubt);
    p.w.now += 30 * 86_400_000;
    p.settle();
    assert_eq!(p.has(TEAM), (369, 200));
    assert_eq!(p.w.tool_done(1, ToolStatus::Expired).code, "ok");
    p.settle();
    assert_eq!(p.has(TEAM), (369, 0), "it was not done");
}

#[test]
fn every_end_of_a_tool_call_is_posted_or_given_back() {
    for (status, has) in [
        (ToolStatus::Success, 369),
        (ToolStatus::Error, 369),
        (ToolStatus::Timeout, 369),
        (ToolStatus::Expired, 400),
        (ToolStatus::Skipped, 400),
        (ToolStatus::Cancelled, 400),
    ] {
        let mut p = tools();
        p.say("go");
        p.reply("", &[("weather", json!({}))], None);
        p.w.tool_done(0, status);
        p.w.control(ControlOperation::Cancel);
        p.settle();
        // The next model call was not begun: its money had not been set aside yet.
        assert_eq!(p.has(TEAM), (has, 0), "{status:?}");
    }
    let mut p = tools();
    p.say("go");
    p.reply("", &[("weather", json!({}))], None);
    p.w.control(ControlOperation::Cancel);
    p.settle();
    assert_eq!(p.has(TEAM), (369, 0), "it may have been made");
    let mut p = tools();
    p.say("go");
    p.reply("", &[("weather", json!({}))], None);
    let wait = p.w.tool_effects()[0].1.wait;
    p.w.now += 60_000;
    p.w.deadline(wait);
    p.settle();
    assert_eq!(p.has(TEAM), (369, 100), "it timed out, and the model is asked what now");
}

#[test]
fn a_tool_that_nobody_pays_for_is_not_called_and_the_run_ends() {
    let mut p = tools();
    p.say("go");
    p.reply("", &[("pay", json!({"n": 1})), ("pay", json!({"n": 2})), ("weather", json!({}))], None);
    assert_eq!(p.w.tool_effects().len(), 2, "4.00 are enough for one more, not for both");
}

#[test]
fn a_run_whose_tool_was_refused_ends_when_its_other_calls_have() {
    let mut p = tools();
    p.say("go");
    p.reply("", &[("pay", json!({"n": 1})), ("pay", json!({"n": 2})), ("weather", json!({}))], None);
    let done: Vec<usize> = (0..p.w.tool_effects().len()).collect();
    for nth in done {
        p.w.tool_done(nth, ToolStatus::Success);
        p.settle();
    }
    let shown = p.w.main();
    assert!(shown.contains("result weather skipped") || shown.contains("result pay skipped"), "{shown}");
    assert!(shown.ends_with("finished budget\n"), "{shown}");
    assert!(p.w.asks.is_empty());
    assert_eq!(p.has(TEAM).1, 0);
}

#[test]
fn a_call_that_a_person_edited_is_made_as_edited_once_money_is_there() {
    let mut p = tools();
    p.say("go");
    p.reply("", &[("guarded", json!({"n": 1}))], None);
    assert_eq!(p.has(TEAM), (400, 0), "nothing is set aside while a person thinks");
    let request = p.w.wait(WaitKind::UserInput);
    p.w.answer(request, AnswerKind::Edit, "", Some(json!({"n": 2})));
    p.settle();
    let (_, call) = p.w.tool_effects()[0].clone();
    assert_eq!(call.arguments.0, json!({"n": 2}));
    p.w.tool_done(0, ToolStatus::Success);
    p.settle();
    assert_eq!(p.has(TEAM), (399, 100));
}

#[test]
fn a_tool_call_cancelled_before_its_money_came_was_not_made() {
    let mut p = tools();
    p.say("go");
    let wait = p.w.ask_of("alpha");
    p.w.reply_to(wait, "", &[("pay", json!({}))]);
    p.w.control(ControlOperation::Cancel);
    p.settle();
    assert!(p.w.main().contains("result pay cancelled"), "{}", p.w.main());
    assert!(p.w.tool_effects().is_empty());
    assert_eq!(p.has(TEAM), (400, 0));
}

#[test]
fn a_tool_whose_money_does_not_come_in_time_is_not_called_and_the_model_goes_on() {
    let mut p = tools();
    p.say("go");
    let wait = p.w.ask_of("alpha");
    p.w.reply_to(wait, "", &[("pay", json!({}))]);
    let wait = p.w.wait(WaitKind::Payment);
    p.w.now += 1_000_000;
    p.w.deadline(wait);
    p.settle();
    assert!(p.w.main().contains("result pay expired"), "{}", p.w.main());
    assert!(p.w.tool_effects().is_empty());
    p.w.ask_of("alpha");
    assert_eq!(p.has(TEAM), (400, 100));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_arrives_each_reservation_ends_once_and_none_is_left_over(
        arrivals in prop::collection::vec((anything::arrival(), 0..5_u8), 1..60),
        rich in any::<bool>(),
    ) {
        let mut w = anything::world(&RenderPolicy::Compact, DedupPolicy::None, true);
        let with = |definition, account: &str| changed(definition, |llm| {
            let budget = Budget { account: Some(account.into()), ..budget("0.70", Some("50")) };
            llm.budget = Some(Box::new(budget));
        });
        w.apply(with(llm("alpha", &["weather", "pay", "guarded", "delegate", "ask_user", "look"]), TEAM), 2);
        w.apply(with(llm("helper", ALL), TEAM), 2);
        w.apply(tool("pay", json!({"spends": true, "price": "0.40"})), 2);
        w.apply(tool("weather", json!({"side_effect_free": true, "price": "0.1"})), 2);
        let mut p = Purse::of(w);
        if rich {
            p.give(TEAM, 50_000);
        }
        p.w.say("begin");
        for (arrival, pace) in &arrivals {
            anything::arrive(&mut p.w, arrival);
            match pace {
                0 => p.read(),
                1 | 2 => p.settle(),
                3 => {
                    // One answer arrives before the others.
                    p.read();
                    if let Some(answer) = p.answers.pop() {
                        p.w.inbox(answer);
                    }
                }
                _ => {}
            }
        }
        p.settle();
        let mut replayed = Conversation::default();
        p.w.log.iter().for_each(|transition| replayed.apply(transition).unwrap());
        prop_assert_eq!(&replayed, &p.w.conv);
        p.w.control(ControlOperation::Cancel);
        p.settle();
        prop_assert!(p.book.reservations.is_empty(), "{:?}", p.book.reservations);
        let reserved = p.w.payments.iter().filter(|asked| matches!(asked.body, PaymentBody::Reserve(_)));
        let ends: Vec<Id> = p.w.payments.iter().filter_map(|asked| match &asked.body {
            PaymentBody::Post(post) => Some(post.reservation),
            PaymentBody::Void(void) => Some(void.reservation),
            _ => None,
        }).collect();
        for asked in reserved {
            let answer = &p.book.answers[&asked.id];
            let ended = ends.iter().filter(|id| **id == asked.id).count();
            // One that the ledger refuses may have been given up on before.
            let least = usize::from(answer.status == PaymentStatus::Committed);
            prop_assert!((least..=1).contains(&ended), "{} ends of {:?}", ended, asked);
            prop_assert!(answer.hold != Some(HoldState::Open), "{:?}", asked);
        }
    }
}
