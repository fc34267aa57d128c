//! What work costs: who may set it aside, what is posted, and what is owed.

use super::*;

/// A request of the engine for the work of an agent.
pub(super) fn budget(name: &str, agent: &str, body: PaymentBody) -> PaymentRequest {
    let cause = PaymentCause { agent: Some(AgentId::from(agent)), ..cause(CauseKind::Budget) };
    PaymentRequest { cause, ..request(name, body) }
}

/// As [`Desk::new`], with the spending account `budget:team`, which has 5.00.
fn desk() -> Desk {
    let mut desk = Desk::new();
    desk.ok("open team", open("budget:team", AccountKind::Escrow));
    desk.ok("fund team", transfer("treasury", "budget:team", 500));
    desk
}

fn post(of: &str, amount: Option<i64>) -> PaymentBody {
    PaymentBody::Post(Post { reservation: id(of), amount, scale: None })
}

fn void(of: &str) -> PaymentBody {
    PaymentBody::Void(Void { reservation: id(of) })
}

fn debt(desk: &Desk, name: &str) -> i64 {
    desk.book.accounts.get(&account(name)).unwrap().debt
}

#[test]
fn an_estimate_is_set_aside_and_what_the_work_cost_is_paid() {
    let mut desk = desk();
    for (name, from) in [("one", "budget:team"), ("two", "alpha")] {
        assert_eq!(desk.code_of(&budget(name, "alpha", reserve(from, "fees", 300, None))), "ok", "{from}");
        let paid = budget(&format!("post {name}"), "alpha", post(name, Some(120)));
        assert_eq!(desk.code_of(&paid), "ok", "{from}");
    }
    assert_eq!((desk.has("budget:team"), desk.has("alpha")), ((380, 0), (9_880, 0)));
    assert_eq!(desk.has("fees"), (240, 0));
    assert_eq!(desk.code_of(&budget("three", "beta", reserve("budget:team", "fees", 380, None))), "ok");
    assert_eq!(
        desk.code_of(&budget("four", "beta", reserve("budget:team", "fees", 1, None))),
        "insufficient"
    );
    assert_eq!(desk.code_of(&budget("void", "beta", void("three"))), "ok");
    assert_eq!(desk.has("budget:team"), (380, 0));
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn a_budget_takes_only_from_the_agents_own_wallet_or_a_spending_account_and_pays_only_fees() {
    let mut desk = desk();
    desk.ok("open budget agent", open("budget:agent", AccountKind::Agent));
    desk.ok("open budget", open("budget", AccountKind::Escrow));
    desk.ok("open escrow", open("escrow", AccountKind::Escrow));
    for other in ["budget:agent", "budget", "escrow"] {
        desk.ok(&format!("fund {other}"), transfer("treasury", other, 500));
    }
    for (nth, (from, to, code)) in [
        ("beta", "fees", "not_allowed"),
        ("treasury", "fees", "not_allowed"),
        ("mint", "fees", "not_allowed"),
        ("escrow", "fees", "not_allowed"),
        ("budget", "fees", "not_allowed"),
        ("budget:agent", "fees", "not_allowed"),
        ("budget:nobody", "fees", "unknown_account"),
        ("b\u{443}dget:team", "fees", "invalid"),
        ("alpha", "beta", "not_allowed"),
        ("alpha", "treasury", "not_allowed"),
        ("alpha", "mint", "not_allowed"),
        ("budget:team", "alpha", "not_allowed"),
        ("budget:team", "escrow", "not_allowed"),
        ("alpha", "alpha", "not_allowed"),
    ]
    .into_iter()
    .enumerate()
    {
        let asked = budget(&format!("attack {nth}"), "alpha", reserve(from, to, 10, None));
        assert_eq!(desk.code_of(&asked), code, "{from} -> {to}");
    }
    let nobody = PaymentRequest {
        cause: cause(CauseKind::Budget),
        ..request("nobody", reserve("alpha", "fees", 10, None))
    };
    assert_eq!(desk.code_of(&nobody), "not_allowed");
    let mut unnamed = budget("unnamed", "alpha", reserve("alpha", "fees", 10, None));
    unnamed.cause.reference = None;
    assert_eq!(desk.code_of(&unnamed), "invalid", "it must name the call");
    let moves = budget("moves", "alpha", transfer("alpha", "fees", 10));
    assert_eq!(desk.code_of(&moves), "not_allowed", "a budget sets aside, posts and voids, and nothing else");
    let asks = PaymentBody::Query(Query { account: account("alpha"), movements: 0 });
    assert!(matches!(desk.ask(&budget("asks", "alpha", asks)), Ruling::Queried(Err(_))));
    assert_eq!((desk.has("alpha"), desk.has("fees")), ((10_000, 0), (0, 0)));
}

#[test]
fn what_is_set_aside_for_work_is_ended_by_the_engine_in_that_agents_name_or_by_a_person() {
    let mut desk = desk();
    assert_eq!(desk.code_of(&budget("work", "alpha", reserve("budget:team", "fees", 300, None))), "ok");
    assert_eq!(desk.code_of(&budget("own", "alpha", reserve("alpha", "fees", 300, None))), "ok");
    desk.ok("by hand", reserve("alpha", "fees", 300, None));
    for (name, of, agent) in [("beta posts", "work", "beta"), ("nobody's", "by hand", "alpha")] {
        assert_eq!(desk.code_of(&budget(name, agent, post(of, None))), "not_allowed", "{name}");
        assert_eq!(desk.code_of(&budget(&format!("{name} void"), agent, void(of))), "not_allowed", "{name}");
    }
    let tool = |name: &str, body| by_agent(name, "alpha", body);
    assert_eq!(desk.code_of(&tool("tool voids", void("own"))), "not_allowed", "a tool call frees no budget");
    assert_eq!(desk.code_of(&tool("tool posts", post("own", Some(1)))), "not_allowed");
    desk.ok("a person voids", void("work"));
    assert_eq!(desk.code_of(&budget("late", "alpha", post("work", None))), "ended");
    assert_eq!(desk.has("budget:team"), (500, 0));
}

#[test]
fn an_estimate_and_a_cost_finer_than_the_book_are_rounded_up() {
    let mut desk = desk();
    let fine = |amount, scale| {
        let (from, to) = (account("budget:team"), account("fees"));
        PaymentBody::Reserve(Reserve { from, to, amount, expires_ms: None, scale: Some(scale) })
    };
    assert_eq!(desk.code_of(&budget("one", "alpha", fine(100_001, 6))), "ok");
    assert_eq!(desk.has("budget:team").1, 11);
    let cost = PaymentBody::Post(Post { reservation: id("one"), amount: Some(1), scale: Some(8) });
    assert_eq!(desk.code_of(&budget("post", "alpha", cost)), "ok");
    assert_eq!(desk.has("fees"), (1, 0), "nothing that has a price is free");
    assert_eq!(desk.code_of(&budget("whole", "alpha", fine(2, 0))), "ok");
    assert_eq!(desk.has("budget:team").1, 200);
    for (name, amount, scale) in [
        ("nine", 1, 9),
        ("below", 1, -1),
        ("huge", AMOUNT_MAX, 0),
        ("zero", 0, 8),
        ("less", -5, 2),
        ("most", i64::MAX, 8),
    ] {
        let code = desk.code_of(&budget(name, "alpha", fine(amount, scale)));
        assert!(["invalid", "insufficient"].contains(&code.as_str()), "{name}: {code}");
    }
    assert_eq!(desk.code("exact", fine(100_001, 6)), "invalid", "nobody else is rounded");
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn a_cost_above_its_estimate_is_paid_and_what_is_not_there_is_owed() {
    let mut desk = desk();
    assert_eq!(desk.code_of(&budget("one", "alpha", reserve("budget:team", "fees", 300, None))), "ok");
    assert_eq!(desk.code_of(&budget("two", "alpha", reserve("budget:team", "fees", 200, None))), "ok");
    assert_eq!(desk.code_of(&budget("post one", "alpha", post("one", Some(450)))), "ok");
    // 0.50 are there and 2.00 are set aside: that promise stands.
    assert_eq!((desk.has("budget:team"), debt(&desk, "budget:team")), ((50, 200), 150));
    assert_eq!(
        desk.code_of(&budget("three", "alpha", reserve("budget:team", "fees", 1, None))),
        "insufficient"
    );
    assert_eq!(desk.code_of(&budget("void two", "alpha", void("two"))), "ok");
    assert_eq!(debt(&desk, "budget:team"), 0, "what comes free is for the debt first");
    assert_eq!(
        desk.code_of(&budget("four", "alpha", reserve("budget:team", "fees", 51, None))),
        "insufficient"
    );
    assert_eq!(desk.code_of(&budget("five", "alpha", reserve("budget:team", "fees", 50, None))), "ok");
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn what_was_set_aside_before_a_debt_is_posted_in_full_and_the_debt_stays() {
    let mut desk = desk();
    desk.ok("promised", reserve("budget:team", "beta", 200, None));
    assert_eq!(desk.code_of(&budget("work", "alpha", reserve("budget:team", "fees", 300, None))), "ok");
    assert_eq!(desk.code_of(&budget("post work", "alpha", post("work", Some(450)))), "ok");
    assert_eq!((desk.has("budget:team"), debt(&desk, "budget:team")), ((50, 200), 150));
    desk.ok("keep the promise", post("promised", None));
    assert_eq!((desk.has("budget:team"), debt(&desk, "budget:team")), ((-150, 0), 150));
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn a_post_after_the_reservation_expired_is_booked_once_as_debt_and_what_comes_in_pays_it_off() {
    let mut desk = desk();
    let asked = budget("work", "alpha", reserve("budget:team", "fees", 400, Some(NOON + 5)));
    assert_eq!(desk.code_of(&asked), "ok");
    desk.wait_until(NOON + 5);
    assert_eq!(desk.has("budget:team"), (500, 0));
    desk.ok("spent meanwhile", transfer("budget:team", "beta", 450));
    assert_eq!(desk.code_of(&budget("other", "beta", post("work", None))), "not_allowed");
    assert_eq!(desk.code("a person", post("work", None)), "ended", "for all others it has ended");
    assert_eq!(desk.code_of(&budget("late", "alpha", post("work", None))), "ok");
    assert_eq!((desk.has("budget:team"), debt(&desk, "budget:team")), ((-350, 0), 350));
    assert_eq!(desk.code_of(&budget("again", "alpha", post("work", None))), "ended");
    assert_eq!(desk.book.answers[&id("work")].hold, Some(HoldState::Expired), "it ended once, by time");
    assert_eq!(desk.code("pays", transfer("budget:team", "beta", 1)), "insufficient");
    desk.ok("some", transfer("treasury", "budget:team", 200));
    assert_eq!(debt(&desk, "budget:team"), 150);
    desk.ok("more", transfer("treasury", "budget:team", 200));
    assert_eq!((desk.has("budget:team"), debt(&desk, "budget:team")), ((50, 0), 0));
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn debt_is_no_credit_for_anything_else() {
    let mut desk = desk();
    let credit = |credit| AccountLimits { credit, ..AccountLimits::default() };
    desk.limits("credit", "budget:team", credit(100));
    assert_eq!(desk.code_of(&budget("one", "alpha", reserve("budget:team", "fees", 600, None))), "ok");
    assert_eq!(desk.code_of(&budget("post one", "alpha", post("one", Some(700)))), "ok");
    assert_eq!((desk.has("budget:team"), debt(&desk, "budget:team")), ((-200, 0), 100));
    let less = PaymentBody::SetLimits(SetLimits { account: account("budget:team"), limits: credit(99) });
    assert_eq!(desk.code("less credit", less), "insufficient");
    desk.limits("more credit", "budget:team", credit(150));
    assert_eq!(debt(&desk, "budget:team"), 50);
    desk.limits("much credit", "budget:team", credit(300));
    assert_eq!(debt(&desk, "budget:team"), 0);
    assert_eq!(desk.code("pays", transfer("budget:team", "beta", 101)), "insufficient");
    desk.ok("pays within", transfer("budget:team", "beta", 100));
}

#[test]
fn a_transaction_that_owes_without_being_a_budgets_post_is_not_taken_in() {
    let mut desk = desk();
    assert_eq!(desk.code_of(&budget("one", "alpha", reserve("budget:team", "fees", 300, None))), "ok");
    let mut over = desk.clone();
    assert_eq!(over.code_of(&budget("post", "alpha", post("one", Some(900)))), "ok");
    let mut forged = over.log.last().unwrap().clone();
    desk.book.clone().apply(&forged).unwrap();
    forged.request.cause.kind = CauseKind::Human;
    let refused = desk.book.clone().apply(&forged).unwrap_err();
    assert!(refused.contains("owes"), "{refused}");
    // A post without a hold, for something that never expired.
    let mut late = over.log.last().unwrap().clone();
    late.holds.clear();
    assert!(desk.book.clone().apply(&late).unwrap_err().contains("was not set aside"));
}

#[test]
fn a_day_is_charged_for_what_is_beyond_the_estimate() {
    let mut desk = desk();
    let day = AccountLimits { day_max: Some(400), ..AccountLimits::default() };
    desk.limits("day", "budget:team", day);
    let asked = |name: &str, amount| budget(name, "alpha", reserve("budget:team", "fees", amount, None));
    assert_eq!(desk.code_of(&asked("one", 100)), "ok");
    assert_eq!(desk.code_of(&budget("post one", "alpha", post("one", Some(250)))), "ok");
    assert_eq!(desk.code_of(&asked("two", 151)), "over_day_limit");
    assert_eq!(desk.code_of(&asked("three", 150)), "ok");
    assert_eq!(desk.code_of(&budget("post three", "alpha", post("three", Some(50)))), "ok");
    assert_eq!(desk.code_of(&asked("four", 100)), "ok");
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn work_that_was_done_is_paid_also_by_who_was_frozen_meanwhile() {
    let mut desk = desk();
    assert_eq!(desk.code_of(&budget("one", "alpha", reserve("budget:team", "fees", 100, None))), "ok");
    desk.ok("freeze", PaymentBody::Freeze(Freeze { account: account("budget:team"), frozen: true }));
    assert_eq!(desk.code_of(&budget("two", "alpha", reserve("budget:team", "fees", 100, None))), "frozen");
    assert_eq!(desk.code_of(&budget("post one", "alpha", post("one", None))), "ok");
    assert_eq!(desk.has("budget:team"), (400, 0));
}
