//! An agent whose budget runs out: what people see, what the books say, and how it goes on.

use serde_json::{Value, json};

use crate::home::{Home, entries, until};

/// The price has nothing to do with the script: what a call costs is its estimate.
const DEFINITIONS: &str = r#"
{kind: agent, id: alpha, type: llm, model: scripted/echo, tools: [delegate], budget: {account: "budget:team", model_call: 0.50}}
---
{kind: agent, id: beta, type: llm, model: scripted/echo, budget: {model_call: "0.25"}}
---
{kind: agent, id: free, type: llm, model: scripted/echo}
"#;
const SCRIPT: &str = r#"
rules:
  - when: { last: tool }
    reply: { text: "It said: {{ results[-1].text }}" }
  - when: { matches: '^ask beta' }
    reply: { tool_calls: [{ name: delegate, arguments: { agent_id: beta, message: hello } }] }
  - reply: { text: "You said: {{ user }}" }
"#;

/// A call that costs ten times what is set aside for it.
const DEAR: &str = r#"
{kind: agent, id: dear, type: llm, model: scripted/dear, budget: {account: "budget:dear", model_call: 0.10, units_per_usd: 1}}
---
{kind: price, id: scripted/dear, prompt_usd_per_million: 1, completion_usd_per_million: 0}
"#;
const DEAR_SCRIPT: &str = r#"
rules:
  - reply: { text: "It was a pleasure.", usage: { prompt_tokens: 1000000, completion_tokens: 1 } }
"#;

fn home() -> Home {
    let mut home = Home::new();
    home.write("scripts/echo.yml", SCRIPT);
    home.set("P2_SCRIPTS_DIR", &home.path("scripts").display().to_string());
    home.write("agents.yml", DEFINITIONS);
    home.p2(&["apply", "agents.yml"]).exits(0);
    home.p2(&["ledger", "init", "--agent", "alpha", "--agent", "beta"]).exits(0);
    home.p2(&["ledger", "open", "budget:team", "--kind", "escrow"]).exits(0);
    home.p2(&["ledger", "transfer", "treasury", "budget:team", "1.20"]).exits(0);
    home
}

/// Posted, reserved and owed.
fn has(home: &Home, account: &str) -> [String; 3] {
    let found = home.p2(&["ledger", "balance", account, "--json"]).exits(0).json();
    ["balance", "reserved", "debt"].map(|key| found[key].as_str().unwrap().to_owned())
}

/// What work has cost is paid a moment after it.
fn comes_to(home: &Home, account: &str, expected: [&str; 3]) {
    until(&format!("{account} has {expected:?}"), || (has(home, account) == expected).then_some(()));
}

fn newest(conversation: &Value, agent: &str, state: &str) -> Value {
    let all = entries(conversation, agent);
    all.into_iter().rev().find(|(kind, _)| kind == state).map(|(_, entry)| entry).unwrap_or_default()
}

#[test]
fn a_chat_that_runs_out_of_budget_ends_visibly_and_the_books_say_what_each_call_cost() {
    let home = home();
    let up = home.up();
    for text in ["one", "two"] {
        up.api.say("x", "alpha", text);
        let said = up.api.settled("x");
        assert_eq!(newest(&said, "alpha", "AssistantMessage")["text"], format!("You said: {text}"));
    }
    up.api.say("x", "alpha", "three");
    let stopped = up.api.conversation_when("x", |found| !newest(found, "alpha", "Finished").is_null());
    assert_eq!(newest(&stopped, "alpha", "Finished")["stop_reason"], "Budget");
    let said = newest(&stopped, "alpha", "AssistantMessage");
    assert_eq!(said["error"]["class"], "budget");
    let text = said["text"].as_str().unwrap();
    assert!(text.contains("'budget:team' has 0.20 TOKEN available, 0.50 TOKEN are needed"), "{text}");
    assert!(text.contains("'p2engine ledger transfer treasury budget:team AMOUNT'"), "{text}");
    assert_eq!(has(&home, "budget:team"), ["0.20", "0.00", "0.00"]);
    assert_eq!(has(&home, "fees")[0], "1.00");

    // The movements, and of each what caused it, back to what was said.
    let history = home.p2(&["ledger", "history", "budget:team", "--json"]).exits(0).json();
    let sent: Vec<&Value> =
        history["transactions"].as_array().unwrap().iter().filter(|line| line["type"] == "sent").collect();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|line| line["amount"] == "0.50" && line["other_party"] == "fees"), "{sent:?}");
    let audit = |operation: &str| -> Vec<Value> {
        let found = home.p2(&["ledger", "audit", "--type", operation, "--json"]).exits(0).json();
        found.as_array().unwrap().clone()
    };
    let (reserved, posted) = (audit("reserve"), audit("post"));
    assert_eq!((reserved.len(), posted.len()), (3, 2));
    for line in reserved.iter().chain(&posted) {
        let cause = &line["transaction"]["request"]["cause"];
        assert_eq!((&cause["kind"], &cause["agent"]), (&json!("Budget"), &json!("alpha")), "{line}");
        assert!(!line["chain"].as_array().unwrap().is_empty(), "{line}");
    }
    let shown = home.p2(&["ledger", "audit", "--type", "post"]).exits(0).stdout;
    assert!(shown.contains("budget"), "{shown}");

    // It goes on with more money, or with another account.
    home.p2(&["ledger", "transfer", "treasury", "budget:team", "0.30"]).exits(0);
    up.api.say("x", "alpha", "four");
    let four = |found: &Value| newest(found, "alpha", "AssistantMessage")["text"] == "You said: four";
    up.api.conversation_when("x", four);
    home.p2(&["config", "set-budget", "x", "treasury"]).exits(3);
    home.p2(&["config", "set-budget", "x", "alpha"]).exits(0);
    up.api.say("x", "alpha", "five");
    let five = |found: &Value| newest(found, "alpha", "AssistantMessage")["text"] == "You said: five";
    up.api.conversation_when("x", five);
    up.api.settled("x");
    up.interrupt().exits(130);
    comes_to(&home, "budget:team", ["0.00", "0.00", "0.00"]);
    comes_to(&home, "alpha", ["99.50", "0.00", "0.00"]);
    assert_eq!(home.p2(&["ledger", "verify", "--json"]).exits(0).json()["differences"], json!([]));
}

#[test]
fn a_callee_pays_from_its_own_wallet_and_who_has_no_budget_asks_nobody() {
    let home = home();
    let up = home.up();
    up.api.say("x", "alpha", "ask beta");
    up.api.conversation_when("x", |found| {
        newest(found, "alpha", "AssistantMessage")["text"]
            .as_str()
            .is_some_and(|text| text.starts_with("It said"))
    });
    up.api.say("y", "free", "hello");
    up.api.settled("y");
    up.interrupt().exits(130);
    comes_to(&home, "budget:team", ["0.20", "0.00", "0.00"]);
    comes_to(&home, "beta", ["99.75", "0.00", "0.00"]);
    let audit = home.p2(&["ledger", "audit", "--type", "reserve", "--json"]).exits(0).json();
    assert_eq!(audit.as_array().unwrap().len(), 3, "{audit}");
}

#[test]
fn a_budget_that_cannot_work_is_refused_when_it_is_applied() {
    let home = home();
    for (budget, why) in [
        ("{account: treasury, model_call: 1}", "'treasury' cannot be the budget of 'a'"),
        ("{model_call: 0}", "'0' is not more than zero"),
        ("{}", "add 'model_call'"),
        ("{model_call: 1, acount: a}", "the nearest valid key is 'account'"),
    ] {
        home.write(
            "bad.yml",
            &format!("{{kind: agent, id: a, type: llm, model: scripted/echo, budget: {budget}}}"),
        );
        let said = home.p2(&["apply", "bad.yml"]);
        assert!(said.stderr.contains(why), "{budget}: {}", said.stderr);
    }
}

/// The receipts of money that changed hands, as the outside ledger has them.
fn receipts(canton: &fake_canton::Fake) -> Vec<Value> {
    let state = canton.state();
    let all = state.active(fake_canton::model::RECEIPT);
    let moved = all.iter().filter(|receipt| receipt.arguments["kind"] == "transfer");
    moved.map(|receipt| receipt.arguments.clone()).collect()
}

#[test]
fn a_budget_over_canton_is_set_aside_here_and_paid_there_and_makes_no_debt() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let canton = runtime.block_on(fake_canton::Fake::start());
    let mut home = Home::new();
    home.write("scripts/echo.yml", SCRIPT);
    home.write("scripts/dear.yml", DEAR_SCRIPT);
    home.set("P2_SCRIPTS_DIR", &home.path("scripts").display().to_string());
    home.set("P2_CANTON_URL", &canton.url());
    home.write("ledger.dar", "PK package");
    home.p2(&["ledger", "bootstrap", "--dar", &home.path("ledger.dar").display().to_string()]).exits(0);
    home.write("agents.yml", &format!("{DEFINITIONS}---{DEAR}"));
    home.p2(&["apply", "agents.yml"]).exits(0);
    home.p2(&["ledger", "init", "--agent", "alpha", "--agent", "beta"]).exits(0);
    for (account, amount) in [("budget:team", "0.70"), ("budget:dear", "0.15")] {
        home.p2(&["ledger", "open", account, "--kind", "escrow"]).exits(0);
        home.p2(&["ledger", "transfer", "treasury", account, amount]).exits(0);
    }
    let filled = receipts(&canton).len();
    let up = home.up();
    up.api.say("x", "alpha", "one");
    let said = up.api.settled("x");
    assert_eq!(newest(&said, "alpha", "AssistantMessage")["text"], "You said: one");
    comes_to(&home, "budget:team", ["0.20", "0.00", "0.00"]);
    // What is set aside is nobody's business there; what it cost is one payment.
    let paid = receipts(&canton).split_off(filled);
    assert_eq!(paid.len(), 1, "{paid:?}");
    assert_eq!((&paid[0]["payer"], &paid[0]["payee"]), (&json!("budget:team"), &json!("fees")), "{paid:?}");

    // Nothing is set aside where there is not enough: the run ends as it does without an outside ledger.
    up.api.say("x", "alpha", "two");
    let stopped = up.api.conversation_when("x", |found| !newest(found, "alpha", "Finished").is_null());
    assert_eq!(newest(&stopped, "alpha", "Finished")["stop_reason"], "Budget");

    // More than was set aside and is there: no debts on an outside ledger, so its reservation goes on until its time.
    up.api.say("y", "dear", "one");
    let posts = until("the cost is refused", || {
        let found = home.p2(&["ledger", "audit", "--type", "post", "--json"]).exits(0).json();
        let refused = |line: &&Value| line["transaction"]["outcome"].get("Rejected").is_some();
        found.as_array().unwrap().iter().find(refused).cloned()
    });
    let why = &posts["transaction"]["outcome"]["Rejected"];
    assert_eq!(why["code"], "insufficient", "{why}");
    assert_eq!(
        why["message"],
        "'budget:dear' does not have 1.00 TOKEN, and an outside ledger knows no debts"
    );
    assert_eq!(has(&home, "budget:dear"), ["0.15", "0.10", "0.00"]);
    up.interrupt().exits(130);
    assert_eq!(receipts(&canton).len(), filled + 1);
    assert_eq!(home.p2(&["ledger", "verify", "--json"]).exits(0).json()["differences"], json!([]));
}
