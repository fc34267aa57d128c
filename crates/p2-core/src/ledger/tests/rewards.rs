//! Rewards that were refused, and policies.

use super::*;

fn again(refused: Id, reward: Reward) -> PaymentRequest {
    PaymentRequest { id: reward_again_id(&refused), cause: cause(CauseKind::Human), ..pay_reward(reward) }
}

/// A book whose treasury has nothing.
fn poor() -> Desk {
    let mut desk = Desk::new();
    desk.ok("away", transfer("treasury", "fees", 100_000));
    desk
}

#[test]
fn a_reward_that_was_refused_for_a_passing_reason_is_paid_once_later_when_a_person_asks() {
    let mut desk = poor();
    let first = pay_reward(reward(0.9));
    assert_eq!(desk.code_of(&first), "insufficient");
    let second = again(first.id, reward(0.9));
    // Still nothing there: that refusal stands too, and another follows from it.
    assert_eq!(desk.code_of(&second), "insufficient");
    desk.ok("back", transfer("fees", "treasury", 100_000));
    assert!(matches!(desk.ask(&first), Ruling::Duplicate(_)), "a replay pays nothing");
    assert!(matches!(desk.ask(&second), Ruling::Duplicate(_)));
    let judged_again = Reward { evaluator_version: 2, evaluation: id("why"), score: 0.95, ..reward(0.9) };
    assert_eq!(desk.code_of(&pay_reward(judged_again)), "already_rewarded", "no evaluation asks once more");
    let third = again(second.id, reward(0.9));
    let by_evaluation = PaymentRequest { cause: cause(CauseKind::Evaluation), ..third.clone() };
    assert_eq!(desk.clone().code_of(&by_evaluation), "not_allowed");
    assert_eq!(desk.code_of(&third), "ok");
    assert!(matches!(desk.ask(&third), Ruling::Duplicate(_)), "two who ask at once ask for one");
    for late in [again(third.id, reward(0.9)), again(first.id, Reward { score: 0.5, ..reward(0.9) })] {
        assert_eq!(desk.code_of(&late), "already_rewarded");
    }
    assert_eq!(desk.has("alpha"), (12_500, 0));
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn a_reward_of_a_book_that_was_not_open_yet_is_paid_when_it_is() {
    let mut desk = Desk { now: NOON, ..Desk::default() };
    let first = pay_reward(reward(0.9));
    assert_eq!(desk.code_of(&first), "unknown_book");
    let log = std::mem::take(&mut desk.log);
    for made in Desk::new().log {
        desk.ask(&made.request);
    }
    desk.log.splice(0..0, log);
    assert_eq!(desk.code_of(&again(first.id, reward(0.9))), "ok");
    assert_eq!(desk.has("alpha").0, 12_500);
    assert_eq!(desk.refold(), desk.book);
}

#[test]
fn what_work_has_earned_and_what_a_person_said_stands() {
    let mut desk = Desk::new();
    let low = pay_reward(reward(0.1));
    assert_eq!(desk.code_of(&low), "no_tier");
    assert_eq!(desk.code_of(&again(low.id, reward(0.9))), "already_rewarded");
    let policy = LedgerPolicy { version: 2, approval_above: Some(1), ..default_policy(2) };
    desk.ok("policy", PaymentBody::SetPolicy(SetPolicy { policy }));
    let waits = Reward { occasion: "spring".into(), ..reward(0.9) };
    let first = pay_reward(waits.clone());
    assert_eq!(desk.code_of(&first), "pending");
    assert_eq!(desk.code_of(&again(first.id, waits.clone())), "already_rewarded", "it is under way");
    desk.ok("no", PaymentBody::Deny(Deny { request: first.id, reason: String::new() }));
    let second = again(first.id, waits.clone());
    assert!(matches!(desk.ask(&second), Ruling::Duplicate(_)));
    assert_eq!(desk.code_of(&again(second.id, waits)), "already_rewarded");
    // Nothing was asked for yet: there is nothing to ask for once more.
    let fresh = Reward { occasion: "autumn".into(), ..reward(0.9) };
    assert_eq!(desk.code_of(&again(reward_id(&fresh), fresh.clone())), "invalid");
    assert_eq!(desk.has("alpha").0, 10_000);
}

#[test]
fn a_reward_that_is_asked_for_once_more_is_for_a_wallet_and_may_wait_for_a_person() {
    let mut desk = Desk::new();
    let other = Reward { payee: account("fees"), ..reward(0.9) };
    let first = pay_reward(other.clone());
    assert_eq!(desk.code_of(&first), "not_allowed");
    assert_eq!(desk.code_of(&again(first.id, other)), "not_allowed");
    let mut desk = poor();
    let policy = LedgerPolicy { version: 2, approval_above: Some(1), ..default_policy(2) };
    desk.ok("policy", PaymentBody::SetPolicy(SetPolicy { policy }));
    let first = pay_reward(reward(0.9));
    assert_eq!(desk.code_of(&first), "insufficient");
    desk.ok(
        "mint more",
        PaymentBody::Mint(Mint { mint: account("mint"), to: account("treasury"), amount: 9_000 }),
    );
    let second = again(first.id, reward(0.9));
    assert_eq!(desk.code_of(&second), "pending");
    desk.ok("yes", PaymentBody::Approve(Approve { request: second.id }));
    assert_eq!(
        (desk.has("alpha").0, desk.book.answers[&second.id].status),
        (12_500, PaymentStatus::Committed)
    );
}

#[test]
fn no_policy_uses_up_the_numbers_or_pays_from_a_mint() {
    let mut desk = Desk::new();
    let set = |version, treasury: &str| {
        let policy = LedgerPolicy { version, treasury: account(treasury), ..default_policy(2) };
        PaymentBody::SetPolicy(SetPolicy { policy })
    };
    assert_eq!(desk.code("last", set(i32::MAX, "treasury")), "invalid");
    assert_eq!(desk.code("mint", set(2, "mint")), "not_allowed");
    desk.ok("a copy's", set(1_000_001, "treasury"));
    desk.ok("next", set(1_000_002, "fees"));
}
