//! The book that a conversation's money is in.

use super::*;
use crate::builtin;
use crate::definition::Budget;
use crate::ids::BookId;

/// Alpha and helper have the ledger's tools; alpha has a budget in book `work`.
fn world() -> World {
    let mut w = World::new();
    for definition in builtin::definitions() {
        if definition.id() == "check_balance" {
            w.apply(definition, 1);
        }
    }
    let helper = changed(llm("helper", &[]), |llm| llm.tools.push("check_balance".to_owned()));
    w.apply(helper, 2);
    w.alpha(|llm| llm.tools.push("check_balance".to_owned()));
    w
}

fn with_budget() -> World {
    let mut w = world();
    w.alpha(|llm| {
        llm.budget = Some(Box::new(Budget {
            account: Some("budget:team".into()),
            book: "work".into(),
            fees: "fees".into(),
            model_call: "1".into(),
            units_per_usd: None,
        }));
    });
    w
}

fn set_book(w: &mut World, book: &str) -> Outcome {
    w.inbox(moved_to(book))
}

fn moved_to(book: &str) -> InboxBody {
    InboxBody::OverrideCommand(OverrideCommand {
        agent: None,
        set: Overrides::default(),
        clear: false,
        lock: false,
        unlock: false,
        book: Some(book.into()),
    })
}

fn books(w: &World) -> Vec<&str> {
    w.payments.iter().map(|request| request.book.as_str()).collect()
}

/// The ledger sets aside what the newest request asks for.
fn grant(w: &mut World) {
    let request = w.payments.last().expect("a request").clone();
    let to = request.reply_to.expect("somebody waits");
    w.inbox(InboxBody::PaymentResult(PaymentResult {
        request: request.id,
        wait: to.wait,
        call_id: to.call_id,
        status: PaymentStatus::Committed,
        code: "ok".into(),
        message: String::new(),
        transaction: None,
        postings: Vec::new(),
        unit: "TOKEN".into(),
        scale: 2,
        account: None,
    }));
}

#[test]
fn the_tools_of_all_agents_ask_the_book_that_the_conversation_was_moved_to() {
    let mut w = world();
    w.say("one");
    set_book(&mut w, "trial");
    w.reply("alpha", "", &[("check_balance", json!({})), to_helper("and you?")]);
    w.reply("helper", "", &[("check_balance", json!({}))]);
    assert_eq!(books(&w), ["trial", "trial"]);
    assert_eq!(w.conv.book, Some(BookId::from("trial")));
    assert_eq!(w.events("book_set"), [json!({"book": "trial"})]);
}

#[test]
fn a_cancel_withdraws_a_payment_from_the_book_where_it_was_asked_for() {
    let mut w = world();
    let transfer = builtin::definitions().into_iter().find(|one| one.id() == "transfer_funds").unwrap();
    w.apply(transfer, 1);
    w.alpha(|llm| llm.tools.push("transfer_funds".to_owned()));
    w.say("one");
    set_book(&mut w, "trial");
    w.reply("alpha", "", &[("transfer_funds", json!({"to_agent": "helper", "amount": 5}))]);
    set_book(&mut w, "main");
    w.control(ControlOperation::Cancel);
    assert_eq!(books(&w), ["trial", "trial"]);
    assert!(matches!(w.payments[1].body, PaymentBody::Void(_)), "{:?}", w.payments[1]);
}

#[test]
fn what_was_set_aside_ends_where_it_was_and_what_comes_next_is_in_the_new_book() {
    let mut w = with_budget();
    w.say("one");
    grant(&mut w);
    assert_eq!(set_book(&mut w, "trial").code, "ok");
    w.reply("alpha", "first", &[]);
    assert_eq!(books(&w), ["work", "work"], "reserved and posted");
    w.say("two");
    grant(&mut w);
    assert_eq!(set_book(&mut w, "").code, "ok");
    assert_eq!(w.conv.book, None);
    w.reply("alpha", "second", &[]);
    w.say("three");
    assert_eq!(books(&w), ["work", "work", "trial", "trial", "work"]);
    assert!(matches!(w.payments[3].body, PaymentBody::Post(_)), "{:?}", w.payments[3]);
}

#[test]
fn a_book_that_cannot_be_and_one_that_is_locked_away_are_refused() {
    let mut w = world();
    w.say("one");
    for bad in ["tri al", "té", &"b".repeat(101), "-", "a\nb"] {
        let outcome = set_book(&mut w, bad);
        assert_eq!((outcome.code.as_str(), &w.conv.book), ("invalid", &None), "{bad}");
    }
    let lock = OverrideCommand {
        agent: None,
        set: Overrides::default(),
        clear: false,
        lock: true,
        unlock: false,
        book: Some("trial".into()),
    };
    assert_eq!(w.inbox(InboxBody::OverrideCommand(lock)).code, "ok");
    assert_eq!(w.conv.book, Some("trial".into()), "the book and the lock in one command");
    assert_eq!(set_book(&mut w, "main").code, "locked");
}

#[test]
fn a_book_alone_touches_no_override_and_needs_no_model() {
    let mut w = world();
    w.say("one");
    w.over(Overrides { model: Some("sim/other".into()), ..Overrides::default() });
    let before = w.conv.overrides.clone();
    set_book(&mut w, "trial");
    assert_eq!(w.conv.overrides, before);
    assert_eq!(w.events("override_set").len(), 1);
    let mut w = World::new();
    w.apply(
        Definition::Agent(Agent {
            id: "oracle".into(),
            kind: AgentKind::Rule(RuleAgent { rules: [].into() }),
        }),
        1,
    );
    w.say_to("oracle", "hello");
    assert_eq!(set_book(&mut w, "trial").code, "ok", "its answers earn, although it calls nothing");
}
