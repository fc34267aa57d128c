//! What operators look at and do: dead letters, traces, topics, artifacts, the demo.

use std::collections::BTreeMap;

use p2_core::ids::{ConversationId, Id};
use p2_core::record::{DeadLetter, InboxBody, InboxMessage, Message, Payload, Topic, UserText};
use p2_embedded::{Durability, Embedded, Options};
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_stream::ports::{Log, NewRecord};
use p2_stream::shell::now_ms;
use p2_stream::wire;
use serde_json::{Value, json};

use crate::home::{Home, entries, until};

/// Writes records past the API, as another program on the topics does. No process may have the directory.
pub(crate) fn append(home: &Home, make: impl Fn(&dyn Fn(Topic) -> i32) -> Vec<NewRecord>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    if !home.is_embedded() {
        let of = |name: &str| home.env.iter().find(|(known, _)| known == name).unwrap().1.clone();
        let (brokers, prefix) = (of("P2_KAFKA_BROKERS"), of("P2_KAFKA_PREFIX"));
        let config = KafkaConfig { brokers, prefix, ..KafkaConfig::default() };
        return runtime.block_on(async {
            let log = KafkaLog::connect(config).await.unwrap();
            log.append(make(&|topic| log.partitions(topic))).await.unwrap();
        });
    }
    let specs = p2_stream::topics::specs().unwrap();
    let partitions: BTreeMap<Topic, i32> =
        Topic::ALL.into_iter().zip(specs.iter().map(|spec| spec.partitions)).collect();
    let options = Options { durability: Durability::Commit, partitions, ..Options::default() };
    let embedded = Embedded::open(home.path("data"), &options).unwrap();
    let log = embedded.log();
    let records = make(&|topic| log.partitions(topic));
    runtime.block_on(log.append(records)).unwrap();
}

fn said(conversation: &str, text: &str) -> Message {
    let id = Id::of_text(text);
    let body =
        InboxBody::UserText(UserText { agent: Some("worker".into()), branch: None, text: text.to_owned() });
    let inbox = InboxMessage { conversation: ConversationId::from(conversation), body };
    let payload = Payload::Inbox(inbox);
    Message { id, cause: id, cause_position: None, time_ms: now_ms(), traceparent: None, payload }
}

fn texts(conversation: &Value) -> Vec<String> {
    let users = entries(conversation, "worker").into_iter().filter(|(kind, _)| kind == "UserMessage");
    users.map(|(_, fields)| fields["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_record_that_cannot_be_read_becomes_a_dead_letter_and_holds_up_nobody() {
    let home = Home::with_fixtures();
    append(&home, |partitions| {
        let good = wire::encode(&said("x", "before"), "/test", partitions(Topic::Inbox)).unwrap();
        let bad = NewRecord { value: b"no avro at all".to_vec(), ..good.clone() };
        let after = wire::encode(&said("x", "after"), "/test", partitions(Topic::Inbox)).unwrap();
        vec![good, bad, after]
    });
    let up = home.up();
    let conversation = up.api.conversation_when("x", |found| texts(found).len() == 2);
    assert_eq!(texts(&conversation), ["before", "after"]);
    let listed = until("the letter", || {
        let listed = home.p2(&["dead-letters", "list", "--json"]).exits(0).json();
        (!listed.as_array().unwrap().is_empty()).then_some(listed)
    });
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((&listed[0]["key"], &listed[0]["group"]), (&json!("x"), &json!("p2.agent-step")));
    let id = listed[0]["id"].as_str().unwrap();
    let shown = home.p2(&["dead-letters", "show", id]).exits(0).stdout;
    assert!(shown.contains("14 bytes: no avro at all"), "{shown}");
    assert!(home.p2(&["dead-letters", "list"]).exits(0).stdout.contains(&id[..12]), "ids can be copied");
    let again = home.p2(&["dead-letters", "replay", id]).exits(3);
    assert!(again.stderr.contains("still unreadable"), "{}", again.stderr);
    home.p2(&["dead-letters", "show", "00000000000000000000000000000000"]).exits(4);
    // The record itself can be looked at among the others.
    let tail = home.p2(&["topics", "tail", "inbox", "--json"]).exits(0).json();
    assert!(tail.as_array().unwrap().iter().any(|record| record["kind"] == "unreadable"), "{tail}");
    let effect = format!("inbox/{}/1", listed[0]["partition"]);
    home.p2(&["trace", &effect]).exits(0);
    up.interrupt().exits(130);
}

#[test]
fn a_dead_letter_is_replayed_once_and_again_only_by_force() {
    let home = Home::with_fixtures();
    append(&home, |partitions| {
        let original = wire::encode(&said("x", "held up"), "/test", partitions(Topic::Inbox)).unwrap();
        let letter = DeadLetter {
            id: Id::of_text("letter"),
            key: original.key.clone(),
            topic: Topic::Inbox.name().to_owned(),
            partition: original.partition,
            offset: 0,
            group: "p2.agent-step".to_owned(),
            code: "too_large".to_owned(),
            reason: "it was too large for an earlier limit".to_owned(),
            headers: Vec::from(&original.headers),
            value: original.value.clone(),
            time_ms: now_ms(),
        };
        let id = letter.id;
        let payload = Payload::DeadLetter(letter);
        let message =
            Message { id, cause: id, cause_position: None, time_ms: now_ms(), traceparent: None, payload };
        vec![wire::encode(&message, "/test", partitions(Topic::DeadLetters)).unwrap()]
    });
    let id = Id::of_text("letter").to_string();
    let up = home.up();
    let replay = |more: &[&str]| home.p2(&[&["dead-letters", "replay", id.as_str()], more].concat()).exits(0);
    replay(&[]);
    assert_eq!(texts(&up.api.conversation_when("x", |found| !texts(found).is_empty())), ["held up"]);
    replay(&[]);
    up.api.say("x", "worker", "next");
    assert_eq!(texts(&up.api.settled("x")), ["held up", "next"], "the second replay is a duplicate");
    replay(&["--force"]);
    up.api.conversation_when("x", |found| texts(found) == ["held up", "next", "held up"]);
    up.interrupt().exits(130);
}

#[test]
fn a_trace_walks_from_any_record_to_its_causes_and_consequences() {
    let home = Home::with_fixtures();
    home.p2_with(&["chat", "with", "worker", "--name", "x"], "call dev_once 0\nlater\n").exits(0);
    let effects = home.p2(&["topics", "tail", "effects", "--json"]).exits(0).json();
    let effects = effects.as_array().unwrap();
    let call = effects.iter().find(|record| record["value"]["body"]["CallTool"].is_object()).unwrap();
    let id = call["id"].as_str().unwrap();
    let tree = home.p2(&["trace", id, "--json"]).exits(0).json();
    let kinds: Vec<&str> =
        tree.as_array().unwrap().iter().map(|record| record["kind"].as_str().unwrap()).collect();
    // Up to the person's message, down to the tool's outcome and the answer.
    assert_eq!(kinds[0], "user_text", "{kinds:?}");
    for kind in ["effect", "tool_run", "tool_outcome", "model_call", "transition"] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }
    assert!(!tree.to_string().contains("later"), "another message is another tree");
    let shown = home.p2(&["trace", &id[..12]]).exits(0).stdout;
    assert_eq!(shown.lines().filter(|line| line.starts_with("▶ ")).count(), 1, "{shown}");
    let place = format!("effects/{}/{}", call["partition"], call["offset"]);
    assert_eq!(home.p2(&["trace", &place]).exits(0).stdout, shown);
    home.p2(&["trace", "effects/0/999"]).exits(4);
    home.p2(&["trace", "ffffffffffff"]).exits(4);
    home.p2(&["trace", "xyz"]).exits(2);
}

#[test]
fn topics_are_listed_described_and_tailed() {
    let home = Home::with_fixtures();
    home.p2_with(&["chat", "with", "worker", "--name", "x"], "one\ntwo\n").exits(0);
    let listed = home.p2(&["topics", "list", "--json"]).exits(0).json();
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|row| row["topic"].as_str().unwrap()).collect();
    let known: Vec<&str> = Topic::ALL.iter().map(|topic| topic.short()).collect();
    assert_eq!(names, known);
    let described = home.p2(&["topics", "describe", "p2.inbox.v1", "--json"]).exits(0).json();
    let partitions = if home.is_embedded() { 16 } else { 2 };
    assert_eq!(described["partitions"].as_array().unwrap().len(), partitions);
    let tail = home.p2(&["topics", "tail", "inbox", "--n", "1", "--json"]).exits(0).json();
    assert_eq!(tail[0]["value"]["body"]["UserText"]["text"], "two");
    home.p2(&["topics", "tail", "inbox", "--partition", "99"]).exits(4);
    let unknown = home.p2(&["topics", "describe", "inbx"]).exits(4);
    assert!(unknown.stderr.contains("there are: inbox, "), "{}", unknown.stderr);
}

#[test]
fn a_followed_topic_shows_what_comes() {
    let home = Home::with_fixtures();
    let up = home.up();
    let follow = home.start(&["topics", "tail", "inbox", "--follow", "--json"]);
    up.api.say("x", "worker", "one");
    until("the record", || follow.stdout().contains("\"text\":\"one\"").then_some(()));
    follow.signal("INT");
    follow.end().exits(130);
    // Who looks on does not take over: what was stopped can be started again.
    let follow = home.start(&["topics", "tail", "inbox", "--follow", "--json"]);
    until("the record again", || follow.stdout().contains("\"text\":\"one\"").then_some(()));
    up.interrupt().exits(130);
    follow.end().exits(5);
    home.up().interrupt().exits(130);
}

#[test]
fn artifacts_are_listed_by_conversation_and_kind_and_shown() {
    let home = Home::with_fixtures();
    home.p2_with(&["chat", "with", "worker", "--name", "x"], "call dev_once 0\n").exits(0);
    let args = ["artifact", "list", "--conversation", "x", "--kind", "model_call", "--json"];
    let calls = home.p2(&args).exits(0).json();
    assert_eq!(calls.as_array().unwrap().len(), 2);
    let id = calls[0]["id"].as_str().unwrap();
    let shown = home.p2(&["artifact", "show", id, "--json"]).exits(0).json();
    assert_eq!(shown, calls[0]);
    assert_eq!(shown["body"]["ModelCall"]["model"], "scripted/worker");
    assert!(shown["body"]["ModelCall"]["cost_usd"].is_null(), "an unknown price is absent, not 0");
    home.p2(&["artifact", "show", "00000000000000000000000000000000"]).exits(4);
}

#[test]
fn the_demo_verifies_itself_and_gives_the_same_as_data() {
    let home = Home::new();
    let shown = home.p2(&["demo"]).exits(0).stdout;
    assert!(shown.contains("0 differences from the live view"), "{shown}");
    let data = home.p2(&["demo", "--json"]).exits(0).json();
    assert_eq!(data["verified"]["differences"], json!([]));
    let branches = data["branches"]["branches"].as_array().unwrap();
    let main = branches.iter().find(|branch| branch["id"] == "main").unwrap();
    assert_eq!((&main["entries"], &main["current"]), (&json!(14), &json!(true)));
    assert_eq!(branches.len(), 3);
    let stacks = data["delegation"]["stacks"].as_object().unwrap();
    let called = stacks.keys().filter(|name| name.starts_with("agent_helper/") || name.starts_with("child/"));
    let ledger = &data["ledger"];
    assert_eq!((&ledger["sum"], &ledger["verified"]["differences"]), (&json!(0), &json!([])));
    assert_eq!(ledger["refused"].as_array().unwrap().len(), 4);
    for one in ledger["refused"].as_array().unwrap() {
        assert!(one["answer"].as_str().unwrap().contains("transfer_funds did not work"), "{one}");
    }
    let audit = ledger["audit"].as_array().unwrap();
    let of = |kind: &str| {
        let kind = kind.to_owned();
        let found =
            audit.iter().filter(move |line| line["transaction"]["request"]["body"].get(&kind).is_some());
        found.collect::<Vec<_>>()
    };
    assert_eq!(of("Reward").len(), 1, "{ledger}");
    let chain = of("Reward")[0]["chain"].to_string();
    for part in ["evaluation of agent_alpha", "evaluation 1 by demo_paid@", " of agent_alpha/main) "] {
        assert!(chain.contains(part), "{part} in {chain}");
    }
    let from = &of("Reward")[0]["money"]["from"][0];
    assert_eq!(from["way"], json!(["mint", "treasury"]));
    assert!(shown.contains("Done: 10.00 to agent_helper; transaction"), "{shown}");
    assert_eq!(called.count(), 3, "one child twice and another once: {:?}", stacks.keys());
}

#[test]
fn overrides_are_set_shown_locked_and_cleared() {
    let home = Home::with_fixtures();
    home.p2_with(&["chat", "with", "worker", "--name", "x"], "hey\n").exits(0);
    home.p2(&["config", "set-model", "x", "--temperature", "0.5", "--lock"]).exits(0);
    let shown = home.p2(&["config", "show-overrides", "x", "--json"]).exits(0).json();
    assert_eq!(
        (&shown["agents"][0]["locked"], &shown["agents"][0]["overrides"]["temperature"]),
        (&json!(true), &json!(0.5))
    );
    home.p2(&["config", "set-tools", "x", "none"]).exits(3);
    home.p2(&["config", "set-tools", "x", "nothing-of-the-kind", "--unlock"]).exits(4);
    home.p2(&["config", "set-tools", "x", "none", "--unlock"]).exits(0);
    let ran = home.p2_with(&["chat", "resume", "x"], "call dev_look 0\n").exits(0);
    assert!(!ran.stdout.contains("dev_look said call"), "{}", ran.stdout);
    home.p2(&["config", "clear-overrides", "x"]).exits(0);
    assert!(home.p2(&["config", "show-tools"]).exits(0).stdout.contains("dev_look"));
}
