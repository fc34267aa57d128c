//! Agents are judged and paid, and pay each other: by evaluations and by tools, once each.

use p2_core::eval::{Place, evaluation_id};
use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{Artifact, ArtifactBody, Evaluation, Message, Payload, PaymentRequest, Topic};
use p2_stream::ports::NewRecord;
use p2_stream::shell::now_ms;
use p2_stream::wire;
use serde_json::{Value, json};

use crate::home::{Home, Up, entries, until};
use crate::metrics::scrape;
use crate::operate::append;

const DEFINITIONS: &str = r#"
- {id: alpha, type: llm, model: scripted/bank, tools: [transfer_funds, check_balance, transaction_history, reward_agent, delegate]}
- {id: beta, type: llm, model: scripted/bank, tools: [check_balance]}
"#;
const EVALUATORS: &str = r#"
{kind: evaluator, id: paid, type: contains, texts: [good], trigger: {finished: root}, rewards: {}}
---
{kind: evaluator, id: jury, type: topic, rewards: {trusted: In this test only the jury writes.}}
---
{kind: evaluator, id: talk, type: topic}
"#;
/// Pays as it is told; what a tool returned is the answer, as it is.
const SCRIPT: &str = r#"
rules:
  - when: { last: tool, tool: delegate, step: 2, matches: 'pay beta (?P<amount>\S+)' }
    reply: { tool_calls: [{ name: transfer_funds, arguments: { to_agent: beta, amount: "{{ groups.amount }}", reason: its work } }] }
  - when: { last: tool }
    reply: { text: "{{ results[-1].text }}" }
  - when: { matches: 'ask beta' }
    reply: { tool_calls: [{ name: delegate, arguments: { agent_id: beta, message: say something } }] }
  - when: { matches: 'pay (?P<to>\S+) (?P<amount>\S+)' }
    reply: { tool_calls: [{ name: transfer_funds, arguments: { to_agent: "{{ groups.to }}", amount: "{{ groups.amount ~ '' }}", reason: thanks } }] }
  - when: { matches: 'steal (?P<from>\S+)' }
    reply: { tool_calls: [{ name: transfer_funds, arguments: { from: "{{ groups.from }}", to_agent: alpha, amount: "1" } }] }
  - when: { matches: 'reward (?P<to>\S+)' }
    reply: { tool_calls: [{ name: reward_agent, arguments: { agent_id: "{{ groups.to }}" } }] }
  - when: { contains: balance }
    reply: { tool_calls: [{ name: check_balance }] }
  - when: { contains: history }
    reply: { tool_calls: [{ name: transaction_history }] }
  - reply: { text: "Nothing good: {{ user }}" }
"#;

/// Wallets of 100.00, an evaluator that pays for everything that alpha answers by itself.
fn home() -> Home {
    let mut home = Home::new();
    home.write("scripts/bank.yml", SCRIPT);
    home.set("P2_SCRIPTS_DIR", &home.path("scripts").display().to_string());
    home.write("agents.yml", DEFINITIONS);
    home.write("evaluators.yml", EVALUATORS);
    home.p2(&["apply", "agents.yml", "evaluators.yml"]).exits(0);
    home.p2(&["ledger", "init", "--agent", "alpha", "--agent", "beta"]).exits(0);
    home
}

fn balance(home: &Home, account: &str) -> String {
    let found = home.p2(&["ledger", "balance", account, "--json"]).exits(0).json();
    found["balance"].as_str().unwrap().to_owned()
}

fn has(home: &Home, account: &str, expected: &str) {
    until(&format!("{account} has {expected}"), || (balance(home, account) == expected).then_some(()));
}

fn rewards(home: &Home, count: usize) -> Vec<Value> {
    until(&format!("{count} rewards"), || {
        let audit = home.p2(&["ledger", "audit", "--type", "reward", "--json"]).exits(0).json();
        let found = audit.as_array().unwrap().clone();
        assert!(found.len() <= count, "{found:?}");
        (found.len() == count).then_some(found)
    })
}

fn verified(home: &Home) {
    assert_eq!(home.p2(&["ledger", "verify", "--json"]).exits(0).json()["differences"], json!([]));
    assert_eq!(home.p2(&["ledger", "overview", "--json"]).exits(0).json()["sum"], "0.00");
}

/// What alpha answers, as JSON: the result of its tool.
fn told(up: &Up, name: &str, text: &str) -> Value {
    up.api.say(name, "alpha", text);
    let conversation = up.api.settled(name);
    let all = entries(&conversation, "alpha");
    let answer = all.iter().rev().find(|(kind, _)| kind == "AssistantMessage").unwrap();
    serde_json::from_str(answer.1["text"].as_str().unwrap()).unwrap_or_else(|_| answer.1["text"].clone())
}

#[test]
fn a_judged_answer_is_paid_once_whatever_is_judged_again() {
    let home = home();
    let up = home.up();
    told(&up, "x", "hello");
    has(&home, "alpha", "125.00");
    let reward = rewards(&home, 1).remove(0);
    let chain = reward["chain"].to_string();
    for part in [
        "evaluation of alpha in x (score 1 by paid, version 1)",
        "evaluation 1 by paid@1 (entry 1 of alpha/main) ",
        "UserMessage (entry 0 of alpha/main) ",
    ] {
        assert!(chain.contains(part), "{part} in {chain}");
    }
    // Whatever a link names can be followed on.
    for link in reward["chain"].as_array().unwrap().iter().skip(1) {
        let id = link.as_str().unwrap().rsplit(' ').next().unwrap().to_owned();
        home.p2(&["trace", &id]).exits(0);
    }
    // What is shown is what is typed: the same place, judged before.
    let listed = home.p2(&["eval", "list", "--evaluator", "paid"]).exits(0).stdout;
    assert!(listed.contains("  x 1 alpha/main  "), "{listed}");
    let typed = ["eval", "run", "x", "1", "--agent", "alpha", "--branch", "main", "--evaluator", "paid"];
    let judged = home.p2(&typed).exits(0);
    assert!(judged.stderr.contains("it was judged before"), "{judged:?}");
    assert!(judged.stdout.contains("judged      x 1 alpha/main\n"), "{judged:?}");
    assert_eq!(reward["money"]["from"][0]["way"], json!(["mint", "treasury"]));
    assert_eq!(reward["money"]["now"], json!({"alpha": "25.00"}));
    let request = reward["transaction"]["request"]["id"].as_str().unwrap();
    let traced = home.p2(&["trace", &request[..12]]).exits(0).stdout;
    assert!(traced.contains("payment-requests") && traced.contains("ledger-transactions"), "{traced}");
    // The past once more, another evaluation of the same answer, another policy: nothing is paid.
    let fill = home.p2(&["eval", "backfill", "--evaluator", "paid", "--json"]).exits(0).json();
    assert_eq!((&fill["targets"], &fill["judged_before"]), (&json!(1), &json!(1)));
    let again = |why: &str| {
        home.p2(&["eval", "run", "x", "1", "--evaluator", "paid", "--again", why, "--json"]).exits(0);
    };
    again("a second look");
    assert_eq!(rewards(&home, 2)[1]["transaction"]["outcome"]["Rejected"]["code"], "already_rewarded");
    home.p2(&["ledger", "policy", "--tier", "0.5=40"]).exits(0);
    again("under another policy");
    rewards(&home, 3);
    assert_eq!(balance(&home, "alpha"), "125.00");
    // A new occasion of the reward is another payment.
    let spring = EVALUATORS.replace("rewards: {}", "rewards: {occasion: spring}");
    home.write("evaluators.yml", &spring);
    home.p2(&["apply", "evaluators.yml"]).exits(0);
    again("in spring");
    has(&home, "alpha", "165.00");
    let metrics = scrape(&format!("{}/metrics", up.api.url));
    assert!(metrics.contains(r#"p2_rewards_total{evaluator="paid",outcome="committed"} 2"#), "{metrics}");
    assert!(metrics.contains(r#"p2_rewards_total{evaluator="paid",outcome="already_rewarded"} 2"#));
    up.interrupt().exits(130);
    verified(&home);
}

#[test]
fn a_reward_that_was_refused_is_paid_once_when_a_person_asks_for_it_again() {
    let mut home = Home::new();
    home.write("scripts/bank.yml", SCRIPT);
    home.set("P2_SCRIPTS_DIR", &home.path("scripts").display().to_string());
    home.write("agents.yml", DEFINITIONS);
    home.write("evaluators.yml", EVALUATORS);
    let applied = home.p2(&["apply", "agents.yml", "evaluators.yml"]).exits(0);
    assert!(applied.stderr.contains("evaluator/paid: there is no book 'main'"), "{applied:?}");
    let up = home.up();
    told(&up, "x", "hello");
    let run = |more: &[&str]| {
        let mut args = vec!["eval", "run", "x", "1", "--evaluator", "paid"];
        args.extend(more);
        home.p2(&args).exits(0)
    };
    let judged = run(&["--json"]).json();
    assert_eq!(judged["reward"]["code"], "unknown_book", "{judged}");
    let evaluation = judged["id"].as_str().unwrap().to_owned();
    let mend = judged["reward"]["mend"].as_str().unwrap();
    assert!(
        mend.contains("ledger init'") && mend.contains(&format!("ledger reward {evaluation}'")),
        "{mend}"
    );
    home.p2(&["ledger", "init", "--treasury", "0", "--agent", "alpha", "--agent", "beta"]).exits(0);
    let ask = |code: i32| home.p2(&["ledger", "reward", &evaluation[..12]]).exits(code);
    assert!(ask(3).stderr.contains("'treasury' has 0.00 TOKEN available"));
    assert!(run(&[]).stdout.contains("no reward (insufficient)"));
    home.p2(&["ledger", "mint", "treasury", "100"]).exits(0);
    let again = run(&["--again", "now", "--json"]).json();
    assert_eq!(again["reward"]["code"], "already_rewarded", "no evaluation asks once more");
    assert!(ask(0).stdout.contains("treasury -> alpha 25.00 TOKEN"));
    assert!(run(&[]).stdout.contains("reward 25.00 TOKEN to alpha"));
    assert!(ask(3).stderr.contains("this work was rewarded for this occasion"));
    assert_eq!((balance(&home, "alpha"), balance(&home, "treasury")), ("125.00".into(), "75.00".into()));
    up.interrupt().exits(130);
    verified(&home);
}

#[test]
fn a_cancelled_conversation_pays_nobody_who_is_agreed_to_later() {
    let home = home();
    home.p2(&["ledger", "policy", "--approval-above", "10"]).exits(0);
    let up = home.up();
    up.api.say("x", "alpha", "pay beta 20");
    let waiting = || home.p2(&["ledger", "overview", "--json"]).exits(0).json()["waiting"].clone();
    let id = until("a payment waits", || waiting()[0]["id"].as_str().map(str::to_owned));
    home.p2(&["conversation", "cancel", "x"]).exits(0);
    until("it is withdrawn", || (waiting() == json!([])).then_some(()));
    let late = home.p2(&["ledger", "approve", &id]).exits(3);
    assert!(late.stderr.contains("'withdrawn'"), "{late:?}");
    assert_eq!((balance(&home, "alpha"), balance(&home, "beta")), ("100.00".into(), "100.00".into()));
    up.interrupt().exits(130);
    verified(&home);
}

/// A record of an evaluation, as anybody who may write to the topic can write one.
fn evaluation(partitions: &dyn Fn(Topic) -> i32, evaluator: &str, entry: i64, agent: &str) -> NewRecord {
    let place = Place {
        conversation: ConversationId::from("x"),
        agent: AgentId::from(agent),
        branch: BranchId::main(),
        entry,
    };
    let id = evaluation_id(&place.target(), evaluator, 1, "first");
    let evaluation = Evaluation {
        target: place.target(),
        evaluator: evaluator.to_owned(),
        version: 1,
        occasion: "first".to_owned(),
        score: Some(1.0),
        samples: 1,
        ..Evaluation::default()
    };
    let artifact = Artifact {
        id,
        conversation: place.conversation,
        agent: Some(place.agent),
        branch: Some(place.branch),
        entry: Some(entry),
        parents: Vec::new(),
        time_ms: now_ms(),
        body: ArtifactBody::Evaluation(Box::new(evaluation)),
    };
    let payload = Payload::Artifact(artifact);
    let message =
        Message { id, cause: id, cause_position: None, time_ms: now_ms(), traceparent: None, payload };
    wire::encode(&message, "/p2/evaluator", partitions(Topic::Artifacts)).unwrap()
}

fn misnamed(mut record: NewRecord) -> NewRecord {
    record.headers.retain(|name, _| name != "ce_id");
    record.headers.push_text("ce_id", Id::of_text("another"));
    record
}

#[test]
fn a_forged_evaluation_pays_nothing_and_a_trusted_outsiders_pays_once() {
    let home = home();
    let up = home.up();
    told(&up, "x", "hello");
    has(&home, "alpha", "125.00");
    up.interrupt().exits(130);
    append(&home, |partitions| {
        vec![
            // In the engine's name, down to the header: of an answer that it did not judge.
            evaluation(partitions, "paid", 0, "alpha"),
            // By somebody whose evaluations are not paid for; by nobody.
            evaluation(partitions, "talk", 1, "alpha"),
            evaluation(partitions, "nobody", 1, "alpha"),
            // By the jury, under an id that is not that of its target.
            misnamed(evaluation(partitions, "jury", 0, "alpha")),
            // By the jury, twice.
            evaluation(partitions, "jury", 1, "alpha"),
            evaluation(partitions, "jury", 1, "alpha"),
        ]
    });
    let up = home.up();
    has(&home, "alpha", "150.00");
    until("the refusal", || {
        let listed = home
            .p2(&["artifact", "list", "--conversation", "x", "--kind", "event", "--json"])
            .exits(0)
            .json();
        listed.to_string().contains("reward_refused").then_some(())
    });
    told(&up, "y", "something good again");
    has(&home, "alpha", "175.00");
    let paid = rewards(&home, 3);
    assert!(paid.iter().all(|line| line["transaction"]["outcome"].get("Committed").is_some()), "{paid:?}");
    up.interrupt().exits(130);
    assert_eq!((balance(&home, "alpha"), balance(&home, "beta")), ("175.00".into(), "100.00".into()));
    verified(&home);
}

#[test]
fn agents_pay_with_tools_and_read_real_transactions() {
    let home = home();
    home.write("evaluators.yml", &EVALUATORS.replace("trigger: {finished: root}, ", ""));
    home.p2(&["apply", "evaluators.yml"]).exits(0);
    let up = home.up();
    let paid = told(&up, "x", "pay beta 25");
    assert_eq!((&paid["transferred"], &paid["new_balance"]), (&json!("25.00"), &json!("75.00")));
    let transaction = paid["transaction_id"].as_str().unwrap().to_owned();
    assert_eq!(transaction.len(), 32, "{paid}");
    assert_eq!(told(&up, "x", "my balance")["formatted"], "75.00 TOKEN");
    let history = told(&up, "x", "my history");
    assert_eq!((&history["transactions"][0]["id"], &history["count"]), (&json!(transaction), &json!(2)));
    // Work for another agent, then its pay, in one message.
    let paid = told(&up, "x", "ask beta for something and pay beta 10");
    assert_eq!((&paid["transferred"], &paid["to"]), (&json!("10.00"), &json!("beta")));
    assert_eq!(told(&up, "x", "reward beta")["transferred"], "10.00");
    for (text, expected) in [
        ("pay beta 1000", "insufficient"),
        ("pay weather_checker 5", "unknown_account"),
        ("pay mint 5", "not_allowed"),
    ] {
        assert_eq!(told(&up, "x", text)["error"], expected, "{text}");
    }
    for text in [
        "pay beta -50",
        "pay beta 0",
        "pay beta NaN",
        "pay beta 12345678901234567890",
        "pay bet\u{430} 5",
        "pay alpha 5",
        "reward alpha",
        "steal treasury",
        "steal beta",
    ] {
        let told = told(&up, "x", text);
        assert!(told["message"].is_string() && told.get("transaction_id").is_none(), "{text}: {told}");
    }
    let audit = home.p2(&["ledger", "audit", "--type", "transfer", "--json"]).exits(0).json();
    let first = &audit[0];
    assert_eq!(first["transaction"]["id"], json!(transaction));
    assert!(first["chain"].to_string().contains("ToolCall (entry 1 of alpha/main) "), "{first}");
    assert_eq!(first["money"]["now"], json!({"beta": "25.00"}));
    up.interrupt().exits(130);
    assert_eq!((balance(&home, "alpha"), balance(&home, "beta")), ("55.00".into(), "145.00".into()));
    // Every request once more, in records of their own: each has its answer, and none is paid again.
    let replayed: Vec<PaymentRequest> = audit
        .as_array()
        .unwrap()
        .iter()
        .map(|line| serde_json::from_value(line["transaction"]["request"].clone()).unwrap())
        .collect();
    assert!(replayed.len() >= 6, "{}", replayed.len());
    append(&home, |partitions| {
        let record = |(n, request): (usize, &PaymentRequest)| {
            let id = Id::of_text(&format!("replay {n}"));
            let payload = Payload::PaymentRequest(request.clone());
            let message = Message {
                id,
                cause: id,
                cause_position: None,
                time_ms: now_ms(),
                traceparent: None,
                payload,
            };
            wire::encode(&message, "/p2/agent-step", partitions(Topic::PaymentRequests)).unwrap()
        };
        replayed.iter().enumerate().map(record).collect()
    });
    home.p2(&["ledger", "transfer", "beta", "alpha", "1"]).exits(0);
    assert_eq!((balance(&home, "alpha"), balance(&home, "beta")), ("56.00".into(), "144.00".into()));
    verified(&home);
}

#[test]
fn a_payment_above_the_threshold_keeps_its_agent_waiting_for_a_person() {
    let home = home();
    home.p2(&["ledger", "policy", "--approval-above", "50"]).exits(0);
    let up = home.up();
    up.api.say("x", "alpha", "pay beta 60");
    let waiting = until("the request", || {
        let view = home.p2(&["ledger", "overview", "--json"]).exits(0).json();
        view["waiting"].as_array().unwrap().first().map(|held| held["id"].as_str().unwrap().to_owned())
    });
    home.p2(&["ledger", "approve", &waiting]).exits(0);
    let conversation = up.api.settled("x");
    let result = entries(&conversation, "alpha").into_iter().find(|(kind, _)| kind == "ToolResult").unwrap();
    assert!(result.1.to_string().contains("60.00"), "{}", result.1);
    assert_eq!(balance(&home, "beta"), "160.00");
    up.interrupt().exits(130);
    verified(&home);
}

/// An experiment beside the real money: what is paid and earned in it is in a copy of the book.
#[test]
fn a_conversation_on_a_copy_of_the_book_pays_and_earns_there_and_nowhere_else() {
    let home = home();
    let up = home.up();
    let of = |book: &str, account: &str, expected: &str| {
        until(&format!("{account} has {expected} in {book}"), || {
            let found = home.p2(&["ledger", "--book", book, "balance", account, "--json"]).exits(0).json();
            (found["balance"] == expected).then_some(())
        });
    };
    told(&up, "x", "hello");
    of("main", "alpha", "125.00");
    let missing = home.p2(&["config", "set-book", "x", "trial"]).exits(4);
    assert!(missing.stderr.contains("p2engine ledger copy trial"), "{}", missing.stderr);
    home.p2(&["ledger", "copy", "trial"]).exits(0);
    let moved = home.p2(&["config", "set-book", "x", "trial"]).exits(0);
    assert!(moved.stdout.contains("is in book 'trial' now"), "{}", moved.stdout);
    let paid = told(&up, "x", "pay beta 40");
    assert_eq!(paid["new_balance"], "85.00");
    assert_eq!(told(&up, "x", "balance")["balance"], "85.00");
    told(&up, "x", "and now something");
    of("trial", "alpha", "110.00");
    of("trial", "beta", "140.00");
    assert_eq!((balance(&home, "alpha"), balance(&home, "beta")), ("125.00".into(), "100.00".into()));
    let shown = home.p2(&["config", "show-overrides", "x"]).exits(0);
    assert!(shown.stdout.contains("is in book 'trial'"), "{}", shown.stdout);
    assert_eq!(home.p2(&["config", "show-overrides", "x", "--json"]).exits(0).json()["book"], "trial");
    home.p2(&["config", "set-book", "x", "none"]).exits(0);
    told(&up, "x", "pay beta 5");
    of("main", "beta", "105.00");
    of("trial", "beta", "140.00");
    up.interrupt().exits(130);
    for book in ["main", "trial"] {
        let found = home.p2(&["ledger", "--book", book, "verify", "--json"]).exits(0).json();
        assert_eq!(found["differences"], json!([]), "{book}");
    }
}
