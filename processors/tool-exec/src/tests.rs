use std::sync::Arc;

use expect_test::{Expect, expect};
use p2_core::definition::{Definition, Tool};
use p2_core::ids::Id;
use p2_core::record::*;
use p2_core::registry::Registry;
use p2_core::state::{RequestKind, ToolStatus};
use p2_stream::ports::{Reconciled, ToolReply};
use p2_stream::processor::{LaneInput, LaneStep, Mark, Processor};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod port;

const NOW: i64 = 1_000;
const NOT_AFTER: i64 = 31_000;

fn tool(name: &str, options: Value) -> Tool {
    let mut definition = json!({
        "id": name,
        "description": "A tool.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "minLength": 2},
                "unit": {"enum": ["c", "f"]},
                "days": {"type": ["integer", "null"], "maximum": 14},
                "at": {"type": "object", "required": ["lat"], "properties": {"lat": {"type": "number"}}},
            },
            "required": ["city"],
            "additionalProperties": false,
        },
    });
    for (key, value) in options.as_object().unwrap() {
        definition[key] = value.clone();
    }
    serde_json::from_value(definition).unwrap()
}

fn processor() -> ToolExec {
    let mut registry = Registry::default();
    for (name, options) in [
        ("ask", json!({"side_effect_free": true, "post_effects": ["noted", "told"]})),
        ("put", json!({"idempotent": true, "timeout_ms": 5_000})),
        ("pay", json!({"post_effects": ["paid"]})),
        ("ship", json!({"reconcile": true})),
        ("kept", json!({"side_effect_free": true, "cache_ttl_ms": 60_000, "post_effects": ["noted"]})),
        ("other", json!({"executor": "external"})),
        ("delegate", json!({"executor": "core"})),
        ("broken", json!({"parameters": {"type": "nonsense"}})),
    ] {
        registry.insert(Definition::Tool(tool(name, options)), 1);
    }
    let registry = Arc::new(registry);
    ToolExec::new(move || registry.clone())
}

fn effect_of(body: EffectBody) -> Effect {
    Effect {
        id: Id::of_text("effect"),
        conversation: "talk".into(),
        agent: "alpha".into(),
        branch: "main".into(),
        not_after_ms: Some(NOT_AFTER),
        body,
        reservation: None,
    }
}

fn call_of(tool: &str, arguments: Value) -> Effect {
    effect_of(EffectBody::CallTool(CallTool {
        tool: tool.into(),
        version: 1,
        arguments: arguments.into(),
        call_id: "call_1".into(),
        wait: Id::of_text("wait"),
    }))
}

fn paris(tool: &str) -> Effect {
    call_of(tool, json!({"city": "Paris"}))
}

fn webhook() -> Effect {
    effect_of(EffectBody::NotifyWebhook(NotifyWebhook {
        url: "http://localhost/hook?token=s3cret".into(),
        request: Id::of_text("request"),
        text: "Approve?".into(),
        kind: Some(RequestKind::Reply),
    }))
}

fn record_of(effect: &Effect) -> Message {
    Message {
        id: effect.id,
        cause: Id::of_text("cause"),
        cause_position: None,
        time_ms: 900,
        traceparent: Some("00-aa-bb-01".into()),
        payload: Payload::Effect(effect.clone()),
    }
}

/// What happens to a lane.
#[derive(Clone, Debug)]
enum Event {
    Record,
    Claimed,
    Timer,
    /// The reply to the tool call or webhook.
    Reply(ToolExecReply),
    /// The reply to the reconcile call.
    Reconciled(Reconciled),
    /// The lane is lost and its record delivered again.
    Crash,
}

fn success(value: Value) -> Event {
    said(ToolReply::Success(value))
}

fn said(reply: ToolReply) -> Event {
    Event::Reply(ToolExecReply::Tool { reply, latency_ms: 12, cache_hit: false })
}

/// A lane as the runtime drives it.
struct Driver {
    processor: ToolExec,
    effect: Effect,
    lane: ToolLane,
    committed: Option<Mark>,
}

impl Driver {
    fn new(effect: &Effect) -> Driver {
        Driver { processor: processor(), effect: effect.clone(), lane: ToolLane::default(), committed: None }
    }

    /// A record whose claim was committed comes back as claimed.
    fn delivery(&self, record: &Message) -> LaneInput<ToolExecReply> {
        match self.committed {
            Some(Mark::Claimed) => LaneInput::Claimed(record.clone()),
            _ => LaneInput::Record(record.clone()),
        }
    }

    fn on(&mut self, event: Event, now_ms: i64) -> LaneStep<ToolExecRequest> {
        let record = record_of(&self.effect);
        let input = match event {
            Event::Record => self.delivery(&record),
            Event::Claimed => LaneInput::Claimed(record.clone()),
            Event::Timer => LaneInput::Timer { timer: Id::of_text("timer") },
            Event::Reply(reply) => LaneInput::Reply { call: Id::derive(&self.effect.id, "call", 0), reply },
            Event::Reconciled(said) => LaneInput::Reply {
                call: Id::derive(&self.effect.id, "reconcile", 0),
                reply: ToolExecReply::Reconciled(said),
            },
            Event::Crash => {
                self.lane = ToolLane::default();
                self.delivery(&record)
            }
        };
        if matches!(input, LaneInput::Record(_) | LaneInput::Claimed(_)) {
            self.processor.apply(&mut self.lane, &record).unwrap();
        }
        let key = self.processor.lane_key(&record);
        let step = self.processor.decide(&key, &self.lane, &input, now_ms);
        if self.committed != Some(Mark::Claimed) || step.mark == Mark::Done {
            self.committed = Some(step.mark);
        }
        step
    }
}

fn run(effect: &Effect, events: impl IntoIterator<Item = Event>) -> String {
    let mut driver = Driver::new(effect);
    events.into_iter().map(|event| shown(&driver.on(event, NOW))).collect::<Vec<_>>().join("--\n")
}

fn check(effect: &Effect, events: impl IntoIterator<Item = Event>, expected: Expect) {
    expected.assert_eq(&run(effect, events));
}

fn shown(step: &LaneStep<ToolExecRequest>) -> String {
    let mut text = String::new();
    for message in &step.outputs {
        text += &match &message.payload {
            Payload::Inbox(InboxMessage { conversation, body: InboxBody::ToolOutcome(outcome) }) => format!(
                "inbox {conversation}: {} {} reward={:?} latency={:?} {}",
                outcome.call_id,
                outcome.status.as_str(),
                outcome.reward,
                outcome.latency_ms,
                outcome.result.text(),
            ),
            Payload::Artifact(Artifact { body: ArtifactBody::ToolRun(run), parents, .. }) => format!(
                "artifact tool_run: {} {} reward={:?} latency={:?} parents={} {}",
                run.tool,
                run.phase,
                run.reward,
                run.latency_ms,
                parents.len(),
                run.detail,
            ),
            Payload::Artifact(Artifact { body: ArtifactBody::Event(event), .. }) => {
                format!("artifact {}: {}", event.name, event.data.text())
            }
            other => format!("{other:?}"),
        };
        text = text.trim_end().to_owned() + "\n";
    }
    for call in &step.calls {
        text += &match &call.request {
            ToolExecRequest::Tool { request, version, cache_ttl_ms } => format!(
                "call {}@{version} {} until {} cache={cache_ttl_ms:?}\n",
                request.tool, request.arguments, call.deadline_ms
            ),
            ToolExecRequest::Reconcile(request) => {
                format!("reconcile {} until {}\n", request.tool, call.deadline_ms)
            }
            ToolExecRequest::Webhook { url, body, .. } => {
                format!("post {url} {body} until {}\n", call.deadline_ms)
            }
        };
    }
    text + &format!("{:?}\n", step.mark)
}

#[test]
fn a_repeatable_tool_is_called_without_a_claim_and_its_success_is_the_outcome() {
    check(
        &paris("ask"),
        [Event::Record, success(json!({"sky": "blue"}))],
        expect![[r#"
        call ask@1 {"city":"Paris"} until 31000 cache=None
        Pending
        --
        inbox talk: call_1 success reward=Some(1.0) latency=Some(12) {"sky":"blue"}
        artifact tool_run: ask success reward=Some(1.0) latency=Some(12) parents=0
        artifact post_effect: {"effect":"dcb576426a17b7df13907007cb02a1f1","name":"noted","tool":"ask"}
        artifact post_effect: {"effect":"dcb576426a17b7df13907007cb02a1f1","name":"told","tool":"ask"}
        Done
    "#]],
    );
}

#[test]
fn a_tool_that_may_not_be_repeated_is_claimed_with_its_intent_before_the_call() {
    check(
        &paris("pay"),
        [Event::Record, success(json!({"sum": 5}))],
        expect![[r#"
        artifact tool_run: pay intent reward=None latency=None parents=0
        call pay@1 {"city":"Paris"} until 31000 cache=None
        Claimed
        --
        inbox talk: call_1 success reward=Some(1.0) latency=Some(12) {"sum":5}
        artifact tool_run: pay success reward=Some(1.0) latency=Some(12) parents=1
        artifact post_effect: {"effect":"dcb576426a17b7df13907007cb02a1f1","name":"paid","tool":"pay"}
        Done
    "#]],
    );
}

#[test]
fn a_failed_tool_is_a_failure_with_reward_zero_and_its_message() {
    check(
        &paris("ask"),
        [Event::Record, said(ToolReply::Failure("No such city.".into()))],
        expect![[r#"
        call ask@1 {"city":"Paris"} until 31000 cache=None
        Pending
        --
        inbox talk: call_1 error reward=Some(0.0) latency=Some(12) {"message":"No such city."}
        artifact tool_run: ask error reward=Some(0.0) latency=Some(12) parents=0 No such city.
        Done
    "#]],
    );
}

#[test]
fn a_success_that_says_error_is_a_failure() {
    let value = json!({"status": "error", "message": "No such city.", "error_type": "ValueError"});
    check(
        &paris("ask"),
        [Event::Record, success(value)],
        expect![[r#"
        call ask@1 {"city":"Paris"} until 31000 cache=None
        Pending
        --
        inbox talk: call_1 error reward=Some(0.0) latency=Some(12) {"message":"No such city."}
        artifact tool_run: ask error reward=Some(0.0) latency=Some(12) parents=0 No such city.
        Done
    "#]],
    );
}

#[test]
fn a_value_that_is_no_object_is_wrapped_into_one() {
    check(
        &paris("put"),
        [Event::Record, success(json!([1, 2]))],
        expect![[r#"
        call put@1 {"city":"Paris"} until 6000 cache=None
        Pending
        --
        inbox talk: call_1 success reward=Some(1.0) latency=Some(12) {"data":[1,2]}
        artifact tool_run: put success reward=Some(1.0) latency=Some(12) parents=0
        Done
    "#]],
    );
}

#[test]
fn no_answer_of_a_repeatable_tool_is_a_timeout() {
    check(
        &paris("put"),
        [Event::Record, said(ToolReply::Unknown("gone".into()))],
        expect![[r#"
        call put@1 {"city":"Paris"} until 6000 cache=None
        Pending
        --
        inbox talk: call_1 timeout reward=None latency=Some(12) {"message":"'put' did not answer in time: gone. The call may be repeated."}
        artifact tool_run: put timeout reward=None latency=Some(12) parents=0 'put' did not answer in time: gone. The call may be repeated.
        Done
    "#]],
    );
}

#[test]
fn no_answer_of_a_tool_that_may_not_be_repeated_is_in_doubt() {
    check(
        &paris("pay"),
        [Event::Record, said(ToolReply::Unknown("gone".into()))],
        expect![[r#"
        artifact tool_run: pay intent reward=None latency=None parents=0
        call pay@1 {"city":"Paris"} until 31000 cache=None
        Claimed
        --
        inbox talk: call_1 in_doubt reward=None latency=Some(12) {"message":"It is not known whether 'pay' was done (gone). Do not repeat it; an operator can settle it."}
        artifact tool_run: pay in_doubt reward=None latency=Some(12) parents=1 It is not known whether 'pay' was done (gone). Do not repeat it; an operator can settle it.
        Done
    "#]],
    );
}

#[test]
fn a_claimed_call_without_a_reconciler_is_in_doubt_and_not_called_again() {
    check(
        &paris("pay"),
        [Event::Claimed],
        expect![[r#"
        inbox talk: call_1 in_doubt reward=None latency=None {"message":"It is not known whether 'pay' was done (the process that called it ended before the answer was recorded). Do not repeat it; an operator can settle it."}
        artifact tool_run: pay in_doubt reward=None latency=None parents=1 It is not known whether 'pay' was done (the process that called it ended before the answer was recorded). Do not repeat it; an operator can settle it.
        Done
    "#]],
    );
}

#[test]
fn a_claimed_call_is_reconciled_where_the_tool_can() {
    let reply = ToolReply::Success(json!({"parcel": 7}));
    check(
        &paris("ship"),
        [Event::Claimed, Event::Reconciled(Reconciled::Done(reply))],
        expect![[r#"
        reconcile ship until 31000
        Claimed
        --
        inbox talk: call_1 success reward=Some(1.0) latency=None {"parcel":7}
        artifact tool_run: ship success reward=Some(1.0) latency=None parents=1
        Done
    "#]],
    );
    check(
        &paris("ship"),
        [Event::Claimed, Event::Reconciled(Reconciled::Unknown)],
        expect![[r#"
        reconcile ship until 31000
        Claimed
        --
        inbox talk: call_1 in_doubt reward=None latency=None {"message":"It is not known whether 'ship' was done (the tool cannot say what became of it). Do not repeat it; an operator can settle it."}
        artifact tool_run: ship in_doubt reward=None latency=None parents=1 It is not known whether 'ship' was done (the tool cannot say what became of it). Do not repeat it; an operator can settle it.
        Done
    "#]],
    );
}

#[test]
fn not_done_is_believed_only_after_the_deadline_and_the_grace() {
    for (now_ms, status) in [
        (NOT_AFTER, "in_doubt"),
        (NOT_AFTER + RECONCILE_GRACE_MS, "in_doubt"),
        (NOT_AFTER + RECONCILE_GRACE_MS + 1, "timeout"),
    ] {
        let mut driver = Driver::new(&paris("ship"));
        driver.on(Event::Claimed, NOW);
        let step = driver.on(Event::Reconciled(Reconciled::NotDone), now_ms);
        assert_eq!(statuses(&step), [status], "at {now_ms}");
    }
    let endless = Effect { not_after_ms: None, ..paris("ship") };
    let mut driver = Driver::new(&endless);
    driver.on(Event::Claimed, NOW);
    assert_eq!(statuses(&driver.on(Event::Reconciled(Reconciled::NotDone), i64::MAX)), ["in_doubt"]);
}

#[test]
fn an_effect_that_is_reached_too_late_is_expired_and_not_done() {
    let effect = Effect { not_after_ms: Some(NOW - 1), ..paris("pay") };
    check(
        &effect,
        [Event::Record],
        expect![[r#"
        inbox talk: call_1 expired reward=None latency=None {"message":"The time for this call had passed before it could be made; it was not done."}
        artifact tool_run: pay expired reward=None latency=None parents=0 The time for this call had passed before it could be made; it was not done.
        Done
    "#]],
    );
}

#[test]
fn a_repeatable_call_that_is_reached_too_late_may_have_been_made_by_an_earlier_process() {
    let late = |tool: &str| Effect { not_after_ms: Some(NOW - 1), ..paris(tool) };
    let said = |tool: &str| {
        let mut driver = Driver::new(&late(tool));
        statuses(&driver.on(Event::Record, NOW))
    };
    assert_eq!(said("put"), ["timeout"]);
    // Whoever only looks leaves nothing behind.
    assert_eq!(said("ask"), ["expired"]);
    let mut driver = Driver::new(&paris("put"));
    driver.on(Event::Record, NOW);
    assert_eq!(statuses(&driver.on(Event::Reply(ToolExecReply::NotSent), NOW)), ["timeout"]);
}

#[test]
fn a_call_whose_deadline_passed_before_it_was_sent_is_expired() {
    check(
        &paris("pay"),
        [Event::Record, Event::Reply(ToolExecReply::NotSent)],
        expect![[r#"
        artifact tool_run: pay intent reward=None latency=None parents=0
        call pay@1 {"city":"Paris"} until 31000 cache=None
        Claimed
        --
        inbox talk: call_1 expired reward=None latency=None {"message":"The time for this call had passed before it could be made; it was not done."}
        artifact tool_run: pay expired reward=None latency=None parents=1 The time for this call had passed before it could be made; it was not done.
        Done
    "#]],
    );
}

#[test]
fn an_unknown_tool_or_version_is_an_error() {
    check(
        &paris("fly"),
        [Event::Record],
        expect![[r#"
        inbox talk: call_1 error reward=Some(0.0) latency=None {"message":"There is no tool 'fly' in version 1; use one of the tools on offer."}
        artifact tool_run: fly error reward=Some(0.0) latency=None parents=0 There is no tool 'fly' in version 1; use one of the tools on offer.
        Done
    "#]],
    );
    let mut effect = paris("ask");
    if let EffectBody::CallTool(call) = &mut effect.body {
        call.version = 2;
    }
    check(
        &effect,
        [Event::Record],
        expect![[r#"
        inbox talk: call_1 error reward=Some(0.0) latency=None {"message":"There is no tool 'ask' in version 2; use one of the tools on offer."}
        artifact tool_run: ask error reward=Some(0.0) latency=None parents=0 There is no tool 'ask' in version 2; use one of the tools on offer.
        Done
    "#]],
    );
}

#[test]
fn what_other_executors_do_is_left_to_them() {
    check(
        &paris("other"),
        [Event::Record],
        expect![[r#"
        Done
    "#]],
    );
    check(
        &paris("delegate"),
        [Event::Record],
        expect![[r#"
        Done
    "#]],
    );
    let reply = effect_of(EffectBody::PublishReply(PublishReply { entry: 3, text: "Hi".into() }));
    check(
        &reply,
        [Event::Record],
        expect![[r#"
        Done
    "#]],
    );
}

#[test]
fn refused_arguments_are_named_with_what_was_expected_and_given() {
    let arguments = json!({"unit": "k", "days": 99, "at": {"lng": 1}, "colour": "red"});
    check(
        &call_of("ask", arguments),
        [Event::Record],
        expect![[r#"
        inbox talk: call_1 error reward=Some(0.0) latency=None {"message":"The arguments of 'ask' were refused: argument 'at' lacks 'lat', given: {\"lng\":1}; argument 'days': 99 is greater than the maximum of 14; argument 'unit' must be one of [\"c\",\"f\"], given: \"k\"; unknown: 'colour'; argument 'city' is missing. Correct them and call it again."}
        artifact tool_run: ask error reward=Some(0.0) latency=None parents=0 The arguments of 'ask' were refused: argument 'at' lacks 'lat', given: {"lng":1}; argument 'days': 99 is greater than the maximum of 14; argument 'unit' must be one of ["c","f"], given: "k"; unknown: 'colour'; argument 'city' is missing. Correct them and call it again.
        Done
    "#]],
    );
    check(
        &call_of("ask", json!({"city": 5, "days": "x"})),
        [Event::Record],
        expect![[r#"
        inbox talk: call_1 error reward=Some(0.0) latency=None {"message":"The arguments of 'ask' were refused: argument 'city' must be of type string, given: 5; argument 'days' must be of type integer or null, given: \"x\". Correct them and call it again."}
        artifact tool_run: ask error reward=Some(0.0) latency=None parents=0 The arguments of 'ask' were refused: argument 'city' must be of type string, given: 5; argument 'days' must be of type integer or null, given: "x". Correct them and call it again.
        Done
    "#]],
    );
    check(
        &call_of("ask", json!({"city": "x"})),
        [Event::Record],
        expect![[r#"
        inbox talk: call_1 error reward=Some(0.0) latency=None {"message":"The arguments of 'ask' were refused: argument 'city': \"x\" is shorter than 2 characters. Correct them and call it again."}
        artifact tool_run: ask error reward=Some(0.0) latency=None parents=0 The arguments of 'ask' were refused: argument 'city': "x" is shorter than 2 characters. Correct them and call it again.
        Done
    "#]],
    );
}

#[test]
fn arguments_that_are_no_object_are_refused_as_a_whole() {
    check(
        &call_of("ask", json!("{\"city\": ")),
        [Event::Record],
        expect![[r#"
        inbox talk: call_1 error reward=Some(0.0) latency=None {"message":"The arguments of 'ask' must be one JSON object, given: \"{\\\"city\\\": \". Call it again with an object."}
        artifact tool_run: ask error reward=Some(0.0) latency=None parents=0 The arguments of 'ask' must be one JSON object, given: "{\"city\": ". Call it again with an object.
        Done
    "#]],
    );
}

#[test]
fn a_broken_schema_is_an_error_that_an_operator_can_mend() {
    check(
        &paris("broken"),
        [Event::Record],
        expect![[r#"
        inbox talk: call_1 error reward=Some(0.0) latency=None {"message":"The definition of tool 'broken' has a broken parameter schema (\"nonsense\" is not valid under any of the schemas listed in the 'anyOf' keyword); an operator has to apply a mended version."}
        artifact tool_run: broken error reward=Some(0.0) latency=None parents=0 The definition of tool 'broken' has a broken parameter schema ("nonsense" is not valid under any of the schemas listed in the 'anyOf' keyword); an operator has to apply a mended version.
        Done
    "#]],
    );
}

#[test]
fn long_lists_of_violations_and_long_values_are_cut() {
    let many: serde_json::Map<String, Value> = (0..30).map(|n| (format!("x{n}"), json!(1))).collect();
    let schema = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let message = arguments::check("t", &schema, &Value::Object(many)).unwrap_err();
    assert!(message.contains("; and 22 more. "), "{message}");
    let long = json!({"a": [("é").repeat(5_000)]});
    let message = arguments::check("t", &schema, &long).unwrap_err();
    assert!(message.chars().count() < 400 && message.contains('…'), "{message}");
}

#[test]
fn a_reference_to_another_document_is_not_fetched() {
    let schema = json!({"$ref": "http://localhost:1/schema.json"});
    let message = arguments::check("t", &schema, &json!({})).unwrap_err();
    assert!(message.contains("broken parameter schema"), "{message}");
}

#[test]
fn an_answer_from_the_cache_says_so_and_triggers_no_further_effects() {
    let hit = ToolExecReply::Tool {
        reply: ToolReply::Success(json!({"sky": "blue"})),
        latency_ms: 0,
        cache_hit: true,
    };
    check(
        &paris("kept"),
        [Event::Record, Event::Reply(hit)],
        expect![[r#"
            call kept@1 {"city":"Paris"} until 31000 cache=Some(60000)
            Pending
            --
            inbox talk: call_1 success reward=Some(1.0) latency=None {"sky":"blue"}
            artifact tool_run: kept cache_hit reward=Some(1.0) latency=None parents=0
            Done
        "#]],
    );
}

#[test]
fn an_answer_over_the_limit_is_a_visible_error() {
    let value = json!({"text": "x".repeat(RESULT_BYTES_MAX)});
    check(
        &paris("pay"),
        [Event::Record, success(value)],
        expect![[r#"
        artifact tool_run: pay intent reward=None latency=None parents=0
        call pay@1 {"city":"Paris"} until 31000 cache=None
        Claimed
        --
        inbox talk: call_1 error reward=None latency=Some(12) {"message":"The tool was carried out, but its answer of 600011 bytes is over the limit of 600000. Do not repeat the call; ask for less, or have the tool return a reference."}
        artifact tool_run: pay error reward=None latency=Some(12) parents=1 The tool was carried out, but its answer of 600011 bytes is over the limit of 600000. Do not repeat the call; ask for less, or have the tool return a reference.
        Done
    "#]],
    );
}

#[test]
fn a_webhook_is_posted_and_only_its_failure_is_recorded_without_the_url() {
    let failed = Event::Reply(ToolExecReply::Webhook(Err("the webhook answered HTTP 500".into())));
    check(
        &webhook(),
        [Event::Record, Event::Reply(ToolExecReply::Webhook(Ok(())))],
        expect![[r#"
        post http://localhost/hook?token=s3cret {"agent":"alpha","branch":"main","conversation":"talk","kind":"reply","request":"1f58b9145b24d108d7ac38887338b3ea","text":"Approve?"} until 31000
        Pending
        --
        Done
    "#]],
    );
    check(
        &webhook(),
        [Event::Record, failed],
        expect![[r#"
        post http://localhost/hook?token=s3cret {"agent":"alpha","branch":"main","conversation":"talk","kind":"reply","request":"1f58b9145b24d108d7ac38887338b3ea","text":"Approve?"} until 31000
        Pending
        --
        artifact webhook_failed: {"effect":"dcb576426a17b7df13907007cb02a1f1","message":"the webhook answered HTTP 500","request":"1f58b9145b24d108d7ac38887338b3ea"}
        Done
    "#]],
    );
    let late = Effect { not_after_ms: Some(NOW - 1), ..webhook() };
    check(
        &late,
        [Event::Record],
        expect![[r#"
        artifact webhook_failed: {"effect":"dcb576426a17b7df13907007cb02a1f1","message":"its time had passed before it could be sent","request":"1f58b9145b24d108d7ac38887338b3ea"}
        Done
    "#]],
    );
}

#[test]
fn what_was_not_asked_changes_nothing() {
    let strange = Event::Reply(ToolExecReply::Webhook(Ok(())));
    check(
        &paris("pay"),
        [Event::Record, strange, Event::Timer, success(json!({"sum": 5}))],
        expect![[r#"
            artifact tool_run: pay intent reward=None latency=None parents=0
            call pay@1 {"city":"Paris"} until 31000 cache=None
            Claimed
            --
            Claimed
            --
            Claimed
            --
            inbox talk: call_1 success reward=Some(1.0) latency=Some(12) {"sum":5}
            artifact tool_run: pay success reward=Some(1.0) latency=Some(12) parents=1
            artifact post_effect: {"effect":"dcb576426a17b7df13907007cb02a1f1","name":"paid","tool":"pay"}
            Done
        "#]],
    );
}

#[test]
fn outputs_carry_cause_trace_time_and_ids_that_a_repetition_has_too() {
    let mut driver = Driver::new(&paris("pay"));
    let claim = driver.on(Event::Record, NOW);
    let step = driver.on(success(json!({})), NOW + 5);
    let effect = Id::of_text("effect");
    assert_eq!(claim.outputs[0].cause, effect);
    assert_eq!(step.outputs[0].id, Id::derive(&effect, "outcome", 0));
    assert_eq!(step.outputs[0].cause, claim.calls[0].id);
    for output in claim.outputs.iter().chain(&step.outputs) {
        assert_eq!(output.traceparent.as_deref(), Some("00-aa-bb-01"));
        assert_eq!(output.payload.key(), "talk");
    }
    assert_eq!(step.outputs[1].time_ms, NOW + 5);
    let in_doubt = Driver::new(&paris("pay")).on(Event::Claimed, NOW);
    assert_eq!(in_doubt.outputs[0].id, step.outputs[0].id);
}

#[test]
fn an_operator_settles_a_doubt_once() {
    let effect = paris("pay");
    let done = resolve(&effect, &Resolution::Done { result: json!(5) }).unwrap();
    let not_done = resolve(&effect, &Resolution::NotDone { reason: "the bank says no".into() }).unwrap();
    let failed = json!({"status": "error", "message": "refused"});
    let failed = resolve(&effect, &Resolution::Done { result: failed }).unwrap();
    assert_eq!(done.0, Id::derive(&effect.id, "resolved", 0));
    assert_eq!((done.0, done.0), (not_done.0, failed.0));
    let of = |message: &InboxMessage| match &message.body {
        InboxBody::ToolOutcome(outcome) => (outcome.status, outcome.result.text(), outcome.reward),
        other => panic!("{other:?}"),
    };
    assert_eq!(of(&done.1), (ToolStatus::Success, r#"{"data":5}"#.to_owned(), Some(1.0)));
    let message = r#"{"message":"It was not done: the bank says no"}"#.to_owned();
    assert_eq!(of(&not_done.1), (ToolStatus::Error, message, None));
    assert_eq!(of(&failed.1), (ToolStatus::Error, r#"{"message":"refused"}"#.to_owned(), Some(0.0)));
    assert_eq!(resolve(&webhook(), &Resolution::Done { result: json!({}) }), Err(NotACall(effect.id)));
}

#[test]
fn the_lane_of_an_effect_is_its_id() {
    let effect = paris("ask");
    assert_eq!(processor().lane_key(&record_of(&effect)), effect.id.to_string());
    assert_eq!(processor().view(), None);
}

#[test]
fn equal_arguments_are_one_cache_key_in_any_order() {
    let one: Value = serde_json::from_str(r#"{"a": 1, "b": {"d": 2, "c": 3}}"#).unwrap();
    let two: Value = serde_json::from_str(r#"{"b": {"c": 3, "d": 2}, "a": 1}"#).unwrap();
    assert_eq!(cache::Cache::key("t", 1, &one), cache::Cache::key("t", 1, &two));
    assert_ne!(cache::Cache::key("t", 1, &one), cache::Cache::key("t", 2, &one));
}

fn statuses(step: &LaneStep<ToolExecRequest>) -> Vec<&'static str> {
    let outcomes = step.outputs.iter().filter_map(|message| match &message.payload {
        Payload::Inbox(InboxMessage { body: InboxBody::ToolOutcome(outcome), .. }) => {
            Some(outcome.status.as_str())
        }
        _ => None,
    });
    outcomes.collect()
}

fn any_reply() -> impl Strategy<Value = ToolReply> {
    prop_oneof![
        Just(ToolReply::Success(json!({"ok": 1}))),
        Just(ToolReply::Success(json!(null))),
        Just(ToolReply::Success(json!({"status": "error"}))),
        Just(ToolReply::Failure("no".into())),
        Just(ToolReply::Unknown("late".into())),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let reconciled = prop_oneof![
        any_reply().prop_map(Reconciled::Done),
        Just(Reconciled::NotDone),
        Just(Reconciled::Unknown),
    ];
    prop_oneof![
        Just(Event::Record),
        Just(Event::Claimed),
        Just(Event::Timer),
        Just(Event::Crash),
        any_reply().prop_map(said),
        Just(Event::Reply(ToolExecReply::NotSent)),
        Just(Event::Reply(ToolExecReply::Webhook(Ok(())))),
        reconciled.prop_map(Event::Reconciled),
    ]
}

proptest! {
    #[test]
    fn a_tool_that_may_not_be_repeated_is_never_called_twice(
        ship in any::<bool>(),
        events in proptest::collection::vec(any_event(), 0..12),
    ) {
        let mut driver = Driver::new(&paris(if ship { "ship" } else { "pay" }));
        let mut calls = 0;
        for event in std::iter::once(Event::Record).chain(events) {
            let step = driver.on(event, NOW);
            let made = step.calls.iter().filter(|call| matches!(call.request, ToolExecRequest::Tool { .. }));
            let made = made.count();
            prop_assert!(made == 0 || step.mark == Mark::Claimed);
            calls += made;
            if step.mark == Mark::Done {
                break;
            }
        }
        prop_assert_eq!(calls, 1);
    }

    #[test]
    fn every_call_ends_in_exactly_one_outcome_when_its_record_is_done(
        name in prop_oneof![Just("ask"), Just("put"), Just("pay"), Just("ship"), Just("fly"), Just("broken")],
        events in proptest::collection::vec(any_event(), 0..12),
        last in any_reply(),
    ) {
        let mut driver = Driver::new(&paris(name));
        let finally = [said(last), Event::Reconciled(Reconciled::Unknown)];
        let mut outcomes = Vec::new();
        for event in std::iter::once(Event::Record).chain(events).chain(finally) {
            let step = driver.on(event, NOW);
            let here = statuses(&step);
            prop_assert_eq!(here.len(), usize::from(step.mark == Mark::Done));
            outcomes.extend(here);
            if step.mark == Mark::Done {
                break;
            }
        }
        prop_assert_eq!(outcomes.len(), 1);
    }
}

#[test]
fn the_url_of_a_webhook_is_not_in_what_is_logged() {
    let effect = webhook();
    assert!(!format!("{effect:?}").contains("s3cret"));
    let EffectBody::NotifyWebhook(notify) = effect.body else { panic!("not a webhook") };
    let request = ToolExecRequest::Webhook { url: notify.url, body: json!({"text": "x"}), key: effect.id };
    let shown = format!("{request:?}");
    assert!(!shown.contains("s3cret") && shown.contains("text"), "{shown}");
}
