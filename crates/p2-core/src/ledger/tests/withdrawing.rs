//! Requests that wait for a person and are not wanted any more.

use super::*;

fn void(name: &str) -> PaymentBody {
    PaymentBody::Void(Void { reservation: id(name) })
}

#[test]
fn who_asked_withdraws_what_waits_for_a_person_and_nobody_can_agree_to_it_then() {
    let mut desk = with_threshold();
    let asked = by_agent("large", "alpha", transfer("alpha", "beta", 6_000));
    assert_eq!(desk.code_of(&asked), "pending");
    assert_eq!(desk.code_of(&by_agent("not its own", "beta", void("large"))), "not_allowed");
    assert_eq!(desk.code_of(&budgets::budget("for work", "alpha", void("large"))), "not_allowed");
    let Ruling::Transactions(done) = desk.ask(&by_agent("away", "alpha", void("large"))) else { panic!() };
    assert_eq!((done.len(), done[1].request.id), (2, id("large")));
    assert_eq!(desk.book.answers[&id("large")].code, Code::Withdrawn);
    let Ruling::Transactions(late) =
        desk.ask(&request("yes", PaymentBody::Approve(Approve { request: id("large") })))
    else {
        panic!()
    };
    let LedgerOutcome::Rejected(why) = &late[0].outcome else { panic!("{late:?}") };
    assert!(why.code == "unknown_request" && why.message.contains("'withdrawn'"), "{why:?}");
    assert_eq!(desk.has("alpha"), (10_000, 0));
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn what_was_agreed_to_before_it_was_withdrawn_is_paid() {
    let mut desk = with_threshold();
    let asked = by_agent("large", "alpha", transfer("alpha", "beta", 6_000));
    assert_eq!(desk.code_of(&asked), "pending");
    desk.ok("yes", PaymentBody::Approve(Approve { request: id("large") }));
    assert_eq!(desk.code_of(&by_agent("away", "alpha", void("large"))), "unknown_request");
    assert_eq!(desk.has("alpha"), (4_000, 0));
}

#[test]
fn what_work_would_set_aside_is_not_set_aside_after_it_was_given_up() {
    let mut desk = with_threshold();
    let held = budgets::budget("estimate", "alpha", reserve("alpha", "fees", 6_000, None));
    assert_eq!(desk.code_of(&held), "pending");
    assert_eq!(desk.code_of(&budgets::budget("end", "alpha", void("estimate"))), "ok");
    assert_eq!(
        desk.code("yes", PaymentBody::Approve(Approve { request: id("estimate") })),
        "unknown_request"
    );
    assert_eq!(desk.has("alpha"), (10_000, 0));
}
