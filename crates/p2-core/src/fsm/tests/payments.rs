//! What a payment's result does to the conversation that waits for it.

use super::*;
use crate::ids::AccountId;

/// A conversation whose call of `pay` waits for the ledger.
fn waiting() -> (World, Id, String) {
    let mut w = World::new();
    w.say("pay beta");
    w.reply("alpha", "", &[("pay", json!({"to": 1, "reason": "thanks"}))]);
    let (effect, call) = w.tool_effects()[0].clone();
    let (agent, branch) = (AgentId::from("alpha"), BranchId::main());
    let waiting = Waiting {
        id: call.wait,
        kind: WaitKind::Payment,
        deadline_ms: effect.not_after_ms,
        correlation: call.call_id.clone(),
        budget: None,
    };
    let seq = w.conv.head(&agent, &branch) + 1;
    let entry = Entry { seq, id: Id::of_text("payment"), time_ms: w.now, state: State::Waiting(waiting) };
    let transition = StateTransition {
        id: Id::of_text("to the ledger"),
        conversation: w.conv.id.clone(),
        seq: w.conv.next_seq,
        previous: w.conv.last,
        agent,
        branch,
        input: Id::of_text("to the ledger"),
        changes: vec![Change::Appended(Appended { entries: vec![entry] })],
        head: seq,
        status: BranchStatus::Waiting,
        time_ms: w.now,
    };
    w.conv.apply(&transition).unwrap();
    (w, call.wait, call.call_id)
}

fn result(wait: Id, call_id: &str, status: PaymentStatus, code: &str) -> InboxBody {
    let balance = |posted| Balance { posted, reserved: 0 };
    let posting = Posting {
        from: AccountId::from("alpha"),
        to: AccountId::from("beta"),
        amount: 2_500,
        from_after: balance(7_500),
        to_after: balance(12_500),
    };
    InboxBody::PaymentResult(PaymentResult {
        request: Id::of_text("request"),
        wait,
        call_id: call_id.to_owned(),
        status,
        code: code.to_owned(),
        message: if code == "ok" { String::new() } else { "there is not enough".to_owned() },
        transaction: Some(Id::of_text("transaction")),
        postings: if status == PaymentStatus::Committed { vec![posting] } else { Vec::new() },
        unit: "TOKEN".into(),
        scale: 2,
        account: None,
    })
}

/// What the model reads as the result of the call.
fn read(w: &World) -> Value {
    let agent = AgentId::from("alpha");
    let found = w.conv.newest(&agent, &BranchId::main()).find_map(|entry| match &entry.state {
        State::ToolResult(result) => Some(result.result.0.clone()),
        _ => None,
    });
    found.expect("a result")
}

#[test]
fn a_payment_that_was_made_is_a_success_with_its_transaction_and_the_agent_goes_on() {
    let (mut w, wait, call) = waiting();
    let outcome = w.inbox(result(wait, &call, PaymentStatus::Committed, "ok"));
    assert_eq!(outcome.verdict, Verdict::Applied);
    assert_eq!(
        read(&w),
        json!({
            "transferred": "25.00", "from": "alpha", "to": "beta", "new_balance": "75.00", "reason": "thanks",
            "transaction_id": Id::of_text("transaction"),
        })
    );
    assert!(w.main().contains("result pay success Some(1.0)"), "{}", w.main());
    w.ask_of("alpha");
}

#[test]
fn a_payment_that_was_refused_is_an_error_that_the_model_can_act_on() {
    let (mut w, wait, call) = waiting();
    w.inbox(result(wait, &call, PaymentStatus::Rejected, "insufficient"));
    assert_eq!(read(&w), json!({"error": "insufficient", "message": "there is not enough"}));
    assert!(w.main().contains("result pay error Some(0.0)"), "{}", w.main());
    w.ask_of("alpha");
}

#[test]
fn a_payment_without_an_answer_is_in_doubt_until_the_ledger_tells() {
    let (mut w, wait, call) = waiting();
    w.now += 60_000;
    w.deadline(wait);
    assert_eq!(w.events("in_doubt").len(), 1);
    assert!(w.conv.waits.contains_key(&wait), "nobody takes it for a failure");
    assert_eq!(w.inbox(result(wait, &call, PaymentStatus::InDoubt, "ok")).code, "in_doubt");
    assert_eq!(w.inbox(result(wait, &call, PaymentStatus::Committed, "ok")).verdict, Verdict::Applied);
    assert_eq!(read(&w)["transferred"], "25.00");
    assert_eq!(w.inbox(result(wait, &call, PaymentStatus::Committed, "ok")).code, "late");
}

#[test]
fn a_result_of_another_call_closes_nothing() {
    let (mut w, wait, call) = waiting();
    assert_eq!(w.inbox(result(wait, "another", PaymentStatus::Committed, "ok")).code, "invalid");
    assert_eq!(
        w.inbox(result(Id::of_text("x"), &call, PaymentStatus::Committed, "ok")).code,
        "unknown_request"
    );
    assert!(w.conv.waits.contains_key(&wait));
    assert_eq!(w.inbox(result(wait, &call, PaymentStatus::Pending, "ok")).code, "pending");
    assert!(w.conv.waits.contains_key(&wait), "a person is asked, the conversation waits on");
}

#[test]
fn a_payment_that_was_cancelled_may_have_been_made() {
    let (mut w, wait, call) = waiting();
    w.control(ControlOperation::Cancel);
    assert!(w.main().contains("result pay in_doubt"), "{}", w.main());
    assert_eq!(w.inbox(result(wait, &call, PaymentStatus::Committed, "ok")).code, "late");
    assert_eq!(w.events("late_result")[0]["result"]["transferred"], "25.00");
}
