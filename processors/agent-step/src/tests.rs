use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use p2_core::conversation::OpenWait;
use p2_core::definition::{Definition, Price};
use p2_core::ids::ConversationId;
use p2_core::model::{ModelReply, ModelToolCall};
use p2_core::record::*;
use p2_core::registry::Registry;
use p2_core::state::{WaitKind, Waiting};
use serde_json::json;

use super::*;

fn id(text: &str) -> Id {
    Id::of_text(text)
}

fn conversation() -> ConversationId {
    "talk".into()
}

fn transition(name: &str, seq: i64) -> StateTransition {
    StateTransition {
        id: id(name),
        conversation: conversation(),
        seq,
        previous: None,
        agent: "alpha".into(),
        branch: "main".into(),
        input: id("input"),
        changes: Vec::new(),
        head: -1,
        status: BranchStatus::Idle,
        time_ms: 7,
    }
}

fn effect(name: &str) -> Effect {
    Effect {
        id: id(name),
        conversation: conversation(),
        agent: "alpha".into(),
        branch: "main".into(),
        not_after_ms: None,
        body: EffectBody::PublishReply(PublishReply { entry: 1, text: "hi".into() }),
        reservation: None,
    }
}

fn artifact(name: &str) -> Artifact {
    Artifact {
        id: id(name),
        conversation: conversation(),
        agent: None,
        branch: None,
        entry: None,
        parents: Vec::new(),
        time_ms: 7,
        body: ArtifactBody::Event(Event { name: name.into(), data: json!({}).into() }),
    }
}

fn request() -> ModelRequest {
    ModelRequest {
        model: "scripted/demo".into(),
        messages: Vec::new(),
        tools: Vec::new(),
        temperature: None,
        top_p: None,
        max_tokens: None,
    }
}

fn payment() -> PaymentRequest {
    PaymentRequest {
        id: id("p0"),
        book: "main".into(),
        by: "alpha".into(),
        cause: PaymentCause {
            kind: CauseKind::ToolCall,
            reference: Some(id("a0")),
            conversation: Some(conversation()),
            agent: Some("alpha".into()),
            branch: Some("main".into()),
            reason: String::new(),
        },
        reply_to: None,
        not_after_ms: None,
        body: PaymentBody::Query(Query { account: "alpha".into(), movements: 0 }),
    }
}

fn decision() -> Decision {
    Decision {
        transitions: vec![transition("t0", 0), transition("t1", 1)],
        effects: vec![effect("e0")],
        payments: vec![payment()],
        artifacts: vec![artifact("a0"), artifact("a1")],
        asks: vec![Ask {
            wait: id("wait"),
            agent: "alpha".into(),
            branch: "main".into(),
            deadline_ms: 120_007,
            request: request(),
        }],
        closed: vec![id("old wait")],
    }
}

fn record(payload: Payload) -> Message {
    Message {
        id: id("record"),
        cause: id("record"),
        cause_position: None,
        time_ms: 5,
        traceparent: Some("00-aa-bb-01".into()),
        payload,
    }
}

fn inbox_record() -> Message {
    let text = UserText { agent: Some("alpha".into()), branch: None, text: "hello".into() };
    record(Payload::Inbox(InboxMessage { conversation: conversation(), body: InboxBody::UserText(text) }))
}

fn outcome() -> ModelOutcome {
    let error =
        ModelError { class: ModelErrorClass::Timeout, code: "timeout".into(), message: "late".into() };
    ModelOutcome { result: Err(error), latency_ms: 3, attempts: 1 }
}

fn processor() -> AgentStep {
    AgentStep::new(RegistryHandle::default(), Settings::default())
}

fn check(decision: &Decision, meta: &Meta, expected: Expect) {
    let mut names: BTreeMap<Id, &str> = ["t0", "t1", "e0", "a0", "a1"].map(|name| (id(name), name)).into();
    names.insert(Id::derive(&id("p0"), "record", 0), "p0");
    let mut text = String::new();
    for message in messages(decision, meta) {
        text += &format!(
            "{} {} key={} time={} cause={} trace={}\n",
            message.payload.topic().short(),
            names[&message.id],
            message.payload.key(),
            message.time_ms,
            if message.cause == meta.input { "input" } else { "?" },
            message.traceparent.as_deref().unwrap_or("-"),
        );
    }
    expected.assert_eq(&text);
}

#[test]
fn records_come_as_transitions_then_effects_payments_and_artifacts_and_name_their_cause() {
    let meta = Meta { input: id("input"), time_ms: 7, traceparent: Some("00-aa-bb-01".into()) };
    check(
        &decision(),
        &meta,
        expect![[r#"
            state-transitions t0 key=talk time=7 cause=input trace=00-aa-bb-01
            state-transitions t1 key=talk time=7 cause=input trace=00-aa-bb-01
            effects e0 key=talk time=7 cause=input trace=00-aa-bb-01
            payment-requests p0 key=main time=7 cause=input trace=00-aa-bb-01
            artifacts a0 key=talk time=7 cause=input trace=00-aa-bb-01
            artifacts a1 key=talk time=7 cause=input trace=00-aa-bb-01
        "#]],
    );
}

#[test]
fn an_empty_decision_writes_no_record() {
    check(&Decision::default(), &Meta { input: id("input"), time_ms: 7, traceparent: None }, expect![""]);
}

#[test]
fn an_ask_becomes_a_call_named_by_its_wait_and_the_offset_is_done_at_once() {
    let step = lane_step(decision(), &Meta { input: id("input"), time_ms: 7, traceparent: None });
    assert_eq!(step.mark, Mark::Done);
    assert_eq!(step.calls, vec![Call { id: id("wait"), deadline_ms: 120_007, request: request() }]);
    assert_eq!(step.cancel, vec![id("old wait")]);
    assert_eq!(step.outputs.len(), 6);
}

#[test]
fn lane_inputs_become_core_inputs() {
    let message = inbox_record();
    let Payload::Inbox(inbox) = message.payload.clone() else { panic!("not an inbox record") };
    let from_record =
        Some((Input::Inbox { id: id("record"), message: inbox }, Some("00-aa-bb-01".to_owned())));
    assert_eq!(core_input(&LaneInput::Record(message.clone())), from_record);
    assert_eq!(core_input(&LaneInput::Claimed(message)), from_record);
    assert_eq!(
        core_input(&LaneInput::Reply { call: id("wait"), reply: outcome() }),
        Some((Input::ModelReply { wait: id("wait"), outcome: outcome() }, None))
    );
    assert_eq!(
        core_input(&LaneInput::Timer { timer: id("wait") }),
        Some((Input::Deadline { wait: id("wait") }, None))
    );
}

#[test]
fn a_reply_that_no_record_could_hold_is_a_visible_error() {
    let reply = |text: usize, calls: usize| ModelReply {
        text: Some("x".repeat(text)),
        tool_calls: vec![ModelToolCall { id: "c".into(), name: "t".into(), arguments: "{}".into() }; calls],
        ..ModelReply::default()
    };
    let code = |reply: ModelReply| {
        let outcome = ModelOutcome { result: Ok(reply), latency_ms: 3, attempts: 1 };
        fitting(&outcome).result.err().map(|error| error.code)
    };
    assert_eq!(code(reply(ENTRY_BYTES_MAX, 0)), None);
    assert_eq!(code(reply(ENTRY_BYTES_MAX + 1, 0)), Some("too_large".into()));
    assert_eq!(code(reply(10, 100)), None);
    assert_eq!(code(reply(10, 2_000)), Some("too_large".into()));
}

#[test]
fn a_record_that_is_no_inbox_message_is_done_without_output() {
    let input = LaneInput::Record(record(Payload::Effect(effect("e0"))));
    let step = processor().decide("talk", &Conversation::default(), &input, 7);
    assert_eq!(step, nothing());
}

#[test]
fn the_lane_of_a_message_is_its_conversation() {
    assert_eq!(processor().lane_key(&inbox_record()), "talk");
}

#[test]
fn only_transitions_change_a_lane() {
    let mut lane = Conversation::default();
    processor().apply(&mut lane, &record(Payload::Effect(effect("e0")))).unwrap();
    processor().apply(&mut lane, &record(Payload::Artifact(artifact("a0")))).unwrap();
    assert_eq!(lane, Conversation::default());
}

#[test]
fn waits_with_a_deadline_are_timers_and_waits_without_are_not() {
    let mut lane = Conversation::default();
    for (name, deadline_ms) in [("timed", Some(99)), ("open", None)] {
        let waiting = Waiting {
            id: id(name),
            kind: WaitKind::Tool,
            deadline_ms,
            correlation: String::new(),
            budget: None,
        };
        let wait = OpenWait { agent: "alpha".into(), branch: "main".into(), seq: 1, waiting, book: None };
        lane.waits.insert(id(name), wait);
    }
    assert_eq!(processor().timers(&lane), vec![(id("timed"), 99)]);
}

#[test]
fn an_update_reaches_the_processor_and_leaves_earlier_snapshots_alone() {
    let processor = processor();
    let before = processor.registry().snapshot();
    let mut registry = Registry::default();
    let price = Price {
        id: "a/b".into(),
        prompt_usd_per_million: "1".into(),
        completion_usd_per_million: "2".into(),
    };
    registry.insert(Definition::Price(price), 1);
    processor.clone().registry().replace(registry);
    assert!(before.price("a/b").is_none());
    assert!(processor.registry().snapshot().price("a/b").is_some());
}
