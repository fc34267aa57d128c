//! The tools that ask the ledger: what is asked, what is refused before it is asked, and how a call ends; with a real
//! book on the other side.

use super::*;
use std::collections::BTreeSet;

use crate::builtin;
use crate::definition::Approval;
use crate::ids::AccountId;
use crate::ledger::{self, Book, Ruling};

const TOOLS: [&str; 4] = ["transfer_funds", "check_balance", "transaction_history", "reward_agent"];

/// A conversation whose agents have the ledger's tools, and a book with 100.00 for each of them.
struct Bank {
    w: World,
    book: Book,
    /// Requests that were answered, with how many transactions moved money.
    moved: usize,
}

impl Bank {
    fn new() -> Bank {
        let mut w = World::new();
        w.alpha(|llm| llm.tools.extend(TOOLS.map(str::to_owned)));
        for definition in builtin::definitions() {
            if TOOLS.contains(&definition.id()) {
                w.apply(definition, 1);
            }
        }
        let mut bank = Bank { w, book: Book::default(), moved: 0 };
        bank.human(PaymentBody::OpenBook(OpenBook { unit: "TOKEN".into(), scale: 2 }));
        let accounts =
            [("mint", AccountKind::Mint), ("alpha", AccountKind::Agent), ("helper", AccountKind::Agent)];
        for (name, kind) in accounts {
            let (account, limits) = (AccountId::from(name), AccountLimits::default());
            bank.human(PaymentBody::OpenAccount(OpenAccount { account, kind, limits }));
        }
        for to in ["alpha", "helper"] {
            let mint = Mint { mint: "mint".into(), to: to.into(), amount: 10_000 };
            bank.human(PaymentBody::Mint(mint));
        }
        bank.moved = 0;
        bank.w.say("pay helper");
        bank
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
        let request = PaymentRequest {
            id,
            book: "main".into(),
            by: "ann".into(),
            cause,
            reply_to: None,
            not_after_ms: None,
            body,
        };
        self.ask(&request);
    }

    fn ask(&mut self, request: &PaymentRequest) -> Ruling {
        let ruling = ledger::decide(&self.book, request, self.w.now);
        if let Ruling::Transactions(made) = &ruling {
            for made in made {
                self.book.apply(made).unwrap();
                self.moved += made.postings.len();
            }
        }
        self.book.check().unwrap();
        ruling
    }

    /// The newest request as settlement answers it.
    fn settle(&mut self) -> InboxBody {
        let request = self.w.payments.last().expect("a request").clone();
        self.settle_one(&request)
    }

    fn settle_one(&mut self, request: &PaymentRequest) -> InboxBody {
        let ruling = self.ask(request);
        let to = request.reply_to.clone().expect("somebody waits");
        let mut result = PaymentResult {
            request: request.id,
            wait: to.wait,
            call_id: to.call_id,
            status: PaymentStatus::Committed,
            code: "ok".into(),
            message: String::new(),
            transaction: None,
            postings: Vec::new(),
            unit: self.book.unit().to_owned(),
            scale: self.book.scale(),
            account: None,
        };
        match ruling {
            Ruling::Queried(Ok(account)) => result.account = Some(account),
            Ruling::Queried(Err(why)) => {
                result.status = PaymentStatus::Rejected;
                (result.code, result.message) = (why.code.as_str().into(), why.message);
            }
            Ruling::Duplicate(answer) => result.transaction = Some(answer.transaction),
            Ruling::Broken(why) => panic!("{why}"),
            Ruling::Transactions(made) => {
                let last = made.last().unwrap();
                result.transaction = Some(last.id);
                result.postings = last.postings.clone();
                if let LedgerOutcome::Rejected(why) = &last.outcome {
                    result.status = PaymentStatus::Rejected;
                    (result.code, result.message) = (why.code.clone(), why.message.clone());
                }
            }
        }
        InboxBody::PaymentResult(result)
    }

    fn call(&mut self, tool: &str, arguments: Value) {
        self.w.reply("alpha", "", &[(tool, arguments)]);
    }

    /// Calls a tool, settles what it asks, and gives what the model reads.
    fn done(&mut self, tool: &str, arguments: Value) -> Value {
        self.call(tool, arguments);
        let result = self.settle();
        self.w.inbox(result);
        self.read()
    }

    /// Calls a tool that asks nothing: why.
    fn refused(&mut self, tool: &str, arguments: Value) -> String {
        let asked = self.w.payments.len();
        self.call(tool, arguments);
        assert_eq!(self.w.payments.len(), asked, "nothing was asked");
        self.read()["message"].as_str().expect("a sentence").to_owned()
    }

    fn read(&self) -> Value {
        let found =
            self.w.conv.newest(&"alpha".into(), &BranchId::main()).find_map(|entry| match &entry.state {
                State::ToolResult(result) => Some(result.result.0.clone()),
                _ => None,
            });
        found.expect("a result")
    }

    fn has(&self, name: &str) -> i64 {
        self.book.account(&name.into()).unwrap().balance.posted
    }
}

#[test]
fn a_transfer_pays_from_the_callers_wallet_and_tells_its_transaction() {
    let mut bank = Bank::new();
    let read =
        bank.done("transfer_funds", json!({"to_agent": "helper", "amount": 25.5, "reason": "analysis"}));
    let request = bank.w.payments[0].clone();
    assert_eq!(
        read,
        json!({
            "transferred": "25.50", "from": "alpha", "to": "helper", "new_balance": "74.50", "reason": "analysis",
            "transaction_id": bank.book.answers[&request.id].transaction,
        })
    );
    assert_eq!((bank.has("alpha"), bank.has("helper")), (7_450, 12_550));
    assert_eq!((request.cause.kind, request.cause.reason.as_str()), (CauseKind::ToolCall, "analysis"));
    let call = bank.w.artifacts.iter().find(|artifact| Some(artifact.id) == request.cause.reference).unwrap();
    assert_eq!(call.body, ArtifactBody::EntryAppended(EntryAppended { state: "ToolCall".into() }));
    let PaymentCause { conversation, agent, branch, .. } = request.cause;
    assert_eq!(
        (conversation, agent, branch),
        (Some("demo".into()), Some("alpha".into()), Some(BranchId::main()))
    );
    assert!(bank.w.tool_effects().is_empty(), "no executor is asked to pay");
    bank.w.ask_of("alpha");
}

#[test]
fn every_way_to_write_an_amount_that_is_none_is_refused_before_anything_is_asked() {
    let mut bank = Bank::new();
    for amount in [
        json!(-50),
        json!(0),
        json!(0.0),
        json!("NaN"),
        json!("inf"),
        json!("-1"),
        json!("1e3"),
        json!(1e300),
        json!("12345678901234567890"),
        json!(12_345_678_901_234_567_890_u64),
        json!("0.000000001"),
        json!(1e-9),
        json!("1,000"),
        json!("٢٥"),
        json!("25 tokens"),
        json!(""),
        json!(true),
        json!([25]),
        json!({"value": 25}),
    ] {
        let why = bank.refused("transfer_funds", json!({"to_agent": "helper", "amount": amount}));
        assert!(why.contains("'amount' of transfer_funds"), "{amount}: {why}");
    }
    assert_eq!((bank.moved, bank.has("alpha")), (0, 10_000));
    let mut bank = Bank::new();
    for (tool, to, most) in [("transfer_funds", "to_agent", "10000"), ("reward_agent", "agent_id", "100")] {
        for over in [json!(format!("{most}.01")), json!("9007199254740991")] {
            let why = bank.refused(tool, json!({to: "helper", "amount": over}));
            assert!(why.contains(&format!("at most {most} may be paid")), "{why}");
        }
    }
    assert!(bank.refused("transfer_funds", json!({"to_agent": "helper"})).contains("needs 'amount'"));
    assert!(bank.refused("transfer_funds", json!({"amount": 1})).contains("needs 'to_agent'"));
    assert_eq!((bank.moved, bank.has("alpha")), (0, 10_000));
    // A book has two decimals: what is finer is the book's to refuse, and is not rounded.
    let read = bank.done("transfer_funds", json!({"to_agent": "helper", "amount": "0.005"}));
    assert_eq!((read["error"].as_str(), bank.moved), (Some("invalid"), 0), "{read}");
}

#[test]
fn an_agent_cannot_pay_itself_nor_name_another_payer() {
    let mut bank = Bank::new();
    for (tool, arguments) in [
        ("transfer_funds", json!({"to_agent": "alpha", "amount": 5})),
        ("reward_agent", json!({"agent_id": "alpha"})),
    ] {
        assert!(bank.refused(tool, arguments).contains("an agent cannot pay itself"));
    }
    for key in ["from", "from_agent", "agent", "amount_minor", "book", "Amount"] {
        let why = bank.refused("transfer_funds", json!({"to_agent": "helper", "amount": 5, key: "treasury"}));
        assert!(why.contains(&format!("no argument '{key}'")) && why.contains("your own wallet"), "{why}");
    }
    // Whatever a step asks, the ledger knows whose call it was.
    bank.call("transfer_funds", json!({"to_agent": "helper", "amount": 5}));
    let mut forged = bank.w.payments[0].clone();
    let (from, to) = (AccountId::from("helper"), AccountId::from("alpha"));
    forged.body = PaymentBody::Transfer(Transfer { legs: vec![Leg { from, to, amount: 5 }], scale: Some(0) });
    let InboxBody::PaymentResult(result) = bank.settle_one(&forged) else { panic!() };
    assert_eq!((result.code.as_str(), bank.moved), ("not_allowed", 0));
}

#[test]
fn names_that_look_alike_are_no_names_and_unknown_ones_are_not_made_up() {
    let mut bank = Bank::new();
    for name in ["hеlper", "helper\u{200b}", "ｈelper", "helper ", "", "../helper", "hel\nper"] {
        let why = bank.refused("transfer_funds", json!({"to_agent": name, "amount": 5}));
        assert!(why.contains("'to_agent' of transfer_funds: the name of the account"), "{why}");
    }
    let read = bank.done("transfer_funds", json!({"to_agent": "weather_checker", "amount": 5}));
    assert_eq!(read["error"], "unknown_account");
    let read = bank.done("transfer_funds", json!({"to_agent": "mint", "amount": 5}));
    assert_eq!(read["error"], "not_allowed");
    bank.human(PaymentBody::Freeze(Freeze { account: "helper".into(), frozen: true }));
    let read = bank.done("transfer_funds", json!({"to_agent": "helper", "amount": 5}));
    assert_eq!(read["error"], "frozen");
    let read = bank.done("transfer_funds", json!({"to_agent": "helper", "amount": 1_000}));
    assert!(read["message"].is_string() && bank.moved == 0, "{read}");
    assert_eq!(bank.book.accounts.len(), 3);
}

#[test]
fn a_balance_and_a_history_are_asked_for_each_time_and_change_nothing() {
    let mut bank = Bank::new();
    let own = bank.done("check_balance", json!({}));
    assert_eq!(own, json!({"agent": "alpha", "balance": "100.00", "formatted": "100.00 TOKEN"}));
    bank.done("transfer_funds", json!({"to_agent": "helper", "amount": "10", "reason": "thanks"}));
    assert_eq!(bank.done("check_balance", json!({}))["balance"], "90.00", "nothing is remembered");
    assert_eq!(bank.done("check_balance", json!({"agent_id": "helper"}))["balance"], "110.00");
    assert_eq!(bank.done("check_balance", json!({"agent_id": "nobody"}))["error"], "unknown_account");
    let told = bank.done("transaction_history", json!({"limit": 1}));
    assert_eq!((&told["count"], &told["agent"]), (&json!(1), &json!("alpha")));
    let newest = &told["transactions"][0];
    assert_eq!(
        (&newest["type"], &newest["amount"], &newest["reason"]),
        (&json!("sent"), &json!("10.00"), &json!("thanks"))
    );
    assert_eq!(newest["id"].as_str().unwrap().len(), 32);
    for limit in [json!(0), json!(101), json!("ten"), json!(1.5), json!(-1)] {
        assert!(bank.refused("transaction_history", json!({"limit": limit})).contains("from 1 to 100"));
    }
    assert!(
        bank.refused("transaction_history", json!({"agent_id": "helper"})).contains("no argument"),
        "its own only"
    );
    assert_eq!(bank.moved, 1);
}

#[test]
fn a_reward_by_an_agent_is_its_own_money_and_never_the_treasurys() {
    let mut bank = Bank::new();
    let read = bank.done("reward_agent", json!({"agent_id": "helper"}));
    assert_eq!((&read["transferred"], &read["from"]), (&json!("10.00"), &json!("alpha")));
    assert_eq!(bank.w.payments[0].cause.reason, "Reward: Good work!");
    assert!(matches!(bank.w.payments[0].body, PaymentBody::Transfer(_)), "no reward without an evaluation");
    assert_eq!((bank.has("alpha"), bank.has("helper")), (9_000, 11_000));
}

#[test]
fn a_payment_that_is_replayed_decided_again_or_told_twice_is_made_once() {
    let mut bank = Bank::new();
    bank.call("transfer_funds", json!({"to_agent": "helper", "amount": 25}));
    let request = bank.w.payments[0].clone();
    let first = bank.settle();
    // The topic has it once more; later, under another deadline, and after a week.
    for _ in 0..3 {
        bank.w.now += 400_000_000;
        let again = PaymentRequest { not_after_ms: Some(bank.w.now), ..request.clone() };
        assert!(matches!(bank.ask(&again), Ruling::Duplicate(_)));
    }
    bank.w.inbox(first.clone());
    assert_eq!(bank.w.inbox(first).code, "late");
    assert_eq!((bank.moved, bank.has("helper")), (1, 12_500));
    let main = bank.w.main();
    assert_eq!(main.matches("result transfer_funds").count(), 1, "{main}");
}

#[test]
fn the_same_payment_twice_in_a_turn_is_made_once_under_the_strict_policy() {
    for (policy, paid) in [(DedupPolicy::None, 2), (DedupPolicy::Strict, 1)] {
        let mut bank = Bank::new();
        bank.w.settings.dedup = policy;
        let call = ("transfer_funds", json!({"to_agent": "helper", "amount": 5}));
        bank.w.reply("alpha", "", &[call.clone(), call.clone()]);
        assert_eq!(bank.w.payments.len(), paid, "{policy:?}");
        let ids: BTreeSet<Id> = bank.w.payments.iter().map(|request| request.id).collect();
        assert_eq!(ids.len(), paid, "each call is a payment of its own");
    }
}

#[test]
fn a_payment_that_nobody_answers_is_in_doubt_and_a_question_is_given_up() {
    let mut bank = Bank::new();
    bank.call("transfer_funds", json!({"to_agent": "helper", "amount": 25}));
    let wait = bank.w.wait(WaitKind::Payment);
    let request = bank.w.payments[0].clone();
    bank.w.now = request.not_after_ms.unwrap();
    bank.w.deadline(wait);
    assert_eq!(bank.w.events("in_doubt").len(), 1);
    assert!(bank.w.conv.waits.contains_key(&wait));
    // The ledger takes the request up after its time: it says so, and nothing is paid.
    let result = bank.settle();
    bank.w.inbox(result);
    assert_eq!((bank.read()["error"].as_str(), bank.moved), (Some("expired"), 0));
    bank.call("check_balance", json!({}));
    let wait = bank.w.wait(WaitKind::Payment);
    bank.w.now += 60_000;
    bank.w.deadline(wait);
    assert!(bank.w.main().contains("result check_balance timeout"), "{}", bank.w.main());
    let late = bank.settle();
    assert_eq!(bank.w.inbox(late).code, "late");
    bank.w.ask_of("alpha");
}

#[test]
fn an_approved_call_pays_what_the_person_agreed_to() {
    let mut bank = Bank::new();
    let Some(Definition::Tool(tool)) =
        builtin::definitions().into_iter().find(|definition| definition.id() == "transfer_funds")
    else {
        panic!()
    };
    bank.w = World::new();
    bank.w.alpha(|llm| llm.tools.push("transfer_funds".into()));
    bank.w.apply(Definition::Tool(Tool { approval: Approval::Required, ..tool }), 1);
    bank.w.say("pay helper");
    bank.call("transfer_funds", json!({"to_agent": "helper", "amount": 25}));
    assert!(bank.w.payments.is_empty());
    let request = bank.w.wait(WaitKind::UserInput);
    bank.w.answer(request, AnswerKind::Edit, "", Some(json!({"to_agent": "helper", "amount": 5})));
    let result = bank.settle();
    bank.w.inbox(result);
    assert_eq!((bank.read()["transferred"].as_str(), bank.has("helper")), (Some("5.00"), 10_500));
}

#[test]
fn a_payment_that_waits_for_a_person_is_withdrawn_when_its_conversation_is_cancelled() {
    let mut bank = Bank::new();
    let policy = LedgerPolicy { version: 2, approval_above: Some(1_000), ..ledger::default_policy(2) };
    let policy = LedgerPolicy { treasury: "helper".into(), ..policy };
    bank.human(PaymentBody::SetPolicy(SetPolicy { policy }));
    bank.call("transfer_funds", json!({"to_agent": "helper", "amount": 20}));
    let asked = bank.w.payments[0].clone();
    bank.ask(&asked);
    assert!(bank.book.held.contains_key(&asked.id));
    bank.w.control(ControlOperation::Cancel);
    assert!(bank.w.conv.waits.is_empty());
    let withdrawn = bank.w.payments.last().unwrap().clone();
    assert!(matches!(&withdrawn.body, PaymentBody::Void(void) if void.reservation == asked.id));
    let Ruling::Transactions(made) = bank.ask(&withdrawn) else { panic!() };
    assert!(matches!(&made[1].outcome, LedgerOutcome::Rejected(why) if why.code == "withdrawn"), "{made:?}");
    bank.human(PaymentBody::Approve(Approve { request: asked.id }));
    assert_eq!((bank.moved, bank.has("alpha")), (0, 10_000));
    let read = bank.read();
    assert!(read["message"].as_str().unwrap().contains("is withdrawn unless it was made before"), "{read}");
}

#[test]
fn a_number_that_was_not_read_exactly_pays_nothing() {
    use super::super::ledger_tools::inexact;
    for (json, found) in [
        (r#"{"amount": 0.1000000000000000055}"#, Some("0.1000000000000000055")),
        (r#"{"amount":12345678901234567}"#, None),
        (r#"[1, -0.30000000000000004e2]"#, Some("0.30000000000000004e2")),
        (r#"{"amount": 0.10000000000000000000}"#, None),
        (r#"{"amount": 10.50, "reason": "0.1000000000000000055 \" 0.1000000000000000055"}"#, None),
        ("9007199254740.99", None),
    ] {
        assert_eq!(inexact(json).as_deref(), found, "{json}");
    }
    let mut bank = Bank::new();
    let asked = bank.w.payments.len();
    bank.call("transfer_funds", json!(r#"{"to_agent": "helper", "amount": 0.1000000000000000055}"#));
    assert_eq!(bank.w.payments.len(), asked);
    assert!(bank.read()["message"].as_str().unwrap().contains("write it as text"));
}
