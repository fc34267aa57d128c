//! People in the loop: approvals, questions, agents that are people, webhooks, and one winner of many.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::home::{Api, Home, URL_TOKEN, entries};

/// The one open request of a conversation.
fn request_of(conversation: &Value, agent: &str) -> Value {
    let found = entries(conversation, agent).into_iter().rfind(|(kind, _)| kind == "UserInputRequest");
    found.unwrap().1
}

fn is_asked(conversation: &Value) -> bool {
    let waits = conversation["waits"].as_object();
    waits.is_some_and(|waits| waits.values().any(|wait| wait["waiting"]["kind"] == "UserInput"))
}

fn answer(conversation: &str, request: &Value, answer: &Value, by: &str) -> Value {
    json!({
        "conversation": conversation,
        "body": {"HumanAnswer": {"request": request["id"], "answer": answer, "by": by}},
    })
}

fn last_text(api: &Api, name: &str) -> String {
    let (kind, fields) = entries(&api.settled(name), "worker").pop().unwrap();
    assert_eq!(kind, "AssistantMessage");
    fields["text"].as_str().unwrap().to_owned()
}

#[test]
fn of_fifty_answers_at_the_same_time_one_wins_and_the_others_get_a_conflict() {
    let home = Home::with_fixtures();
    let up = home.up();
    up.api.say("x", "worker", "ask me");
    let request = request_of(&up.api.conversation_when("x", is_asked), "worker");
    assert_eq!((&request["kind"], &request["text"]), (&json!("Question"), &json!("What now?")));
    let bodies: Vec<Value> = (0..50)
        .map(|number| {
            let text = json!({"kind": "Text", "text": format!("answer {number}"), "arguments": null});
            answer("x", &request, &text, &format!("person {number}"))
        })
        .collect();
    let answers = up.api.post_all("inbox?wait=outcome", bodies);
    let verdict =
        |wanted: &str| answers.iter().filter(|(_, body)| body["outcome"]["verdict"] == wanted).count();
    assert_eq!((verdict("Applied"), verdict("Refused")), (1, 49), "{answers:?}");
    let refused = answers.iter().filter(|(_, body)| body["outcome"]["verdict"] == "Refused");
    assert!(refused.clone().all(|(status, body)| *status == 200 && body["outcome"]["code"] == "conflict"));
    let winner = answers.iter().position(|(_, body)| body["outcome"]["verdict"] == "Applied").unwrap();
    assert!(last_text(&up.api, "x").contains(&format!("\"answer\":\"answer {winner}\"")));
    let conversation = up.api.settled("x");
    let responses: Vec<_> =
        entries(&conversation, "worker").into_iter().filter(|(kind, _)| kind == "UserResponse").collect();
    assert_eq!(responses.len(), 1);
    assert_eq!(responses[0].1["by"], format!("person {winner}"));
    up.interrupt().exits(130);
}

/// A conversation in which a call awaits approval.
fn gated(home: &Home) {
    let ran = home.p2_with(&["chat", "with", "worker", "--name", "x"], "call dev_gate 0\n").exits(0);
    assert!(ran.stderr.contains("? "), "{}", ran.stderr);
}

#[test]
fn an_approved_call_is_made() {
    let home = Home::with_fixtures();
    gated(&home);
    assert!(home.lines("calls").is_empty());
    home.p2(&["conversation", "answer", "x", "--approve"]).exits(0);
    assert_eq!(last_text(&home.up().api, "x"), "dev_gate said call dev_gate 0");
    assert_eq!(home.lines("calls").len(), 2);
}

#[test]
fn a_denied_call_is_not_made_and_the_model_hears_why() {
    let home = Home::with_fixtures();
    gated(&home);
    home.p2(&["conversation", "answer", "x", "--deny", "too dear"]).exits(0);
    assert!(last_text(&home.up().api, "x").contains("too dear"));
    assert!(home.lines("calls").is_empty());
}

#[test]
fn an_edited_call_is_made_with_other_arguments() {
    let home = Home::with_fixtures();
    gated(&home);
    let wrong = home.p2(&["conversation", "answer", "x", "--edit", "[1]"]).exits(2);
    assert!(wrong.stderr.contains("--edit takes a JSON object"), "{}", wrong.stderr);
    home.p2(&["conversation", "answer", "x", "--edit", r#"{"ms": 0, "text": "cheaper"}"#]).exits(0);
    assert_eq!(last_text(&home.up().api, "x"), "dev_gate said cheaper");
}

#[test]
fn an_approval_is_given_in_a_chat() {
    let home = Home::with_fixtures();
    let input = "call dev_gate 0\nedit {\"text\": \"from the chat\"}\n";
    let ran = home.p2_with(&["chat", "with", "worker", "--name", "x"], input).exits(0);
    assert_eq!(ran.stdout, "dev_gate said from the chat\n", "{}", ran.stderr);
    let wrong =
        home.p2_with(&["chat", "with", "worker", "--name", "y"], "call dev_gate 0\nperhaps\n").exits(2);
    assert!(wrong.stderr.contains("'perhaps' is no answer to an approval"), "{}", wrong.stderr);
}

#[test]
fn an_answer_that_nobody_asked_for_is_refused() {
    let home = Home::with_fixtures();
    home.p2_with(&["chat", "with", "worker", "--name", "x"], "hey\n").exits(0);
    let ran = home.p2(&["conversation", "answer", "x", "--approve"]).exits(4);
    assert!(ran.stderr.contains("no such open request"), "{}", ran.stderr);
    gated_twice(&home);
}

/// With two open requests one has to be named.
fn gated_twice(home: &Home) {
    let up = home.up();
    up.api.say("two", "worker", "both gates");
    let conversation = up.api.conversation_when("two", |found| {
        entries(found, "worker").iter().filter(|(kind, _)| kind == "UserInputRequest").count() == 2
    });
    let ran = home.p2(&["conversation", "answer", "two", "--approve"]).exits(2);
    assert!(ran.stderr.contains("several requests are open"), "{}", ran.stderr);
    let id = request_of(&conversation, "worker")["id"].as_str().unwrap().to_owned();
    home.p2(&["conversation", "answer", "two", "--request", &id[..10], "--approve"]).exits(0);
    let again = home.p2(&["conversation", "answer", "two", "--request", &id[..10], "--approve"]).exits(4);
    assert!(again.stderr.contains("no such open request"), "{}", again.stderr);
}

#[test]
fn an_agent_that_is_a_person_answers_through_a_command() {
    let home = Home::with_fixtures();
    let ran =
        home.p2_with(&["chat", "with", "reviewer", "--name", "x"], "is this good?\nyes, it is\n").exits(0);
    assert!(ran.stderr.starts_with("reviewer is a person;"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "yes, it is\n");
    home.p2_with(&["chat", "resume", "x"], "and this?\n").exits(0);
    home.p2(&["conversation", "answer", "x", "--text", "no", "--by", "ada"]).exits(0);
    let stack = home.p2(&["conversation", "stack", "x", "--json"]).exits(0).json();
    let last: Vec<&Value> = stack.as_array().unwrap().iter().rev().take(2).collect();
    assert_eq!(last[0]["content"], "no");
    assert_eq!(last[1]["content"], "no (by ada)");
}

/// A listener that takes one POST and answers with a status: (request line, headers, body).
fn listener(statuses: Vec<u16>) -> (u16, Receiver<(String, String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for status in statuses {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).unwrap();
            }
            let length = head.to_lowercase().split_once("content-length: ").unwrap().1.to_owned();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let reply = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            reader.get_mut().write_all(reply.as_bytes()).unwrap();
            let (line, rest) = head.split_once("\r\n").unwrap();
            sender.send((line.to_owned(), rest.to_owned(), serde_json::from_slice(&body).unwrap())).unwrap();
        }
    });
    (port, receiver)
}

#[test]
fn a_webhook_is_called_with_the_request_and_the_answer_may_come_from_there() {
    let (port, received) = listener(vec![503, 200]);
    let mut home = Home::with_fixtures();
    home.set("HOOK_TOKEN", URL_TOKEN);
    home.set("P2_LOG", "trace");
    let definition = format!(
        "kind: agent\nid: clerk\ntype: human\ncallback_url: \"http://127.0.0.1:{port}/hook?token=${{HOOK_TOKEN}}\"\n"
    );
    home.write("clerk.yml", &definition);
    home.p2(&["apply", "clerk.yml"]).exits(0);
    let up = home.up();
    up.api.say("x", "clerk", "please sign");
    let request = request_of(&up.api.conversation_when("x", is_asked), "clerk");
    // The first attempt is answered with 503, so there is a second one, with the same key.
    let (line, first, _) = received.recv_timeout(crate::home::LONG).unwrap();
    let (_, second, body) = received.recv_timeout(crate::home::LONG).unwrap();
    assert_eq!(line, format!("POST /hook?token={URL_TOKEN} HTTP/1.1"));
    let key = |head: &str| head.lines().find(|line| line.starts_with("idempotency-key")).map(str::to_owned);
    assert!(key(&first).is_some() && key(&first) == key(&second));
    assert_eq!(body["request"], request["id"]);
    assert_eq!((&body["conversation"], &body["agent"]), (&json!("x"), &json!("clerk")));
    assert_eq!((&body["kind"], &body["text"]), (&json!("reply"), &json!("please sign")));
    let text = json!({"kind": "Text", "text": "signed", "arguments": null});
    let (status, outcome) = up.api.post("inbox?wait=outcome", &answer("x", &request, &text, "hook"));
    assert_eq!((status, &outcome["outcome"]["verdict"]), (200, &json!("Applied")));
    let last = entries(&up.api.settled("x"), "clerk").pop().unwrap();
    assert_eq!(last.1["text"], "signed");
    up.interrupt().exits(130);
}

#[test]
fn a_webhook_that_nobody_takes_is_told_without_its_address() {
    let mut home = Home::with_fixtures();
    home.set("HOOK_TOKEN", URL_TOKEN);
    // Nothing listens on port 1 of a machine that runs tests.
    home.write(
        "clerk.yml",
        "kind: agent\nid: clerk\ntype: human\ncallback_url: \"http://127.0.0.1:1/hook?token=${HOOK_TOKEN}\"\n",
    );
    home.p2(&["apply", "clerk.yml"]).exits(0);
    let up = home.up();
    up.api.say("x", "clerk", "please sign");
    let failed = crate::home::until("the failure is an artifact", || {
        let found = up.api.get("artifacts?conversation=x&kind=event").1;
        let failed =
            found.as_array()?.iter().find(|event| event["body"]["Event"]["name"] == "webhook_failed");
        failed.cloned()
    });
    assert!(failed.to_string().contains("cannot connect"), "{failed}");
    up.interrupt().exits(130);
}
