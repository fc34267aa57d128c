//! Round trips, golden bytes and hostile input.

use std::collections::BTreeMap;
use std::path::PathBuf;

use p2_core::ids::{AccountId, AgentId, BookId, BranchId, ConversationId, Id};
use p2_core::json_text::JsonText;
use p2_core::record::*;
use p2_core::state::*;
use proptest::prelude::*;
use serde_json::json;

use super::*;

mod evolution;
mod framing;

fn id(text: &str) -> Id {
    Id::of_text(text)
}

fn answer() -> Answer {
    Answer { kind: AnswerKind::Edit, text: String::new(), arguments: Some(JsonText(json!({"a": [1, null]}))) }
}

fn states() -> Vec<State> {
    vec![
        State::UserMessage(UserMessage { text: "héllo".into(), origin: Some("agent:alpha".into()) }),
        State::AssistantMessage(AssistantMessage {
            text: String::new(),
            error: Some(MessageError { class: "model".into(), code: "http_429".into() }),
            summary_of: Some(7),
            tool_calls: 2,
        }),
        State::ToolCall(ToolCall {
            call_id: "call_1".into(),
            tool: "get_weather".into(),
            arguments: JsonText(json!({"location": "Paris"})),
            reply: id("reply"),
            dedup_key: "da39a3ee".into(),
        }),
        State::ToolResult(ToolResult {
            call_id: "call_1".into(),
            tool: "get_weather".into(),
            status: ToolStatus::InDoubt,
            result: JsonText(json!({"message": "?"})),
            reward: Some(0.5),
        }),
        State::AgentCall(AgentCall {
            id: id("call"),
            call_id: "call_2".into(),
            agent: AgentId::from("child"),
            branch: BranchId::from("call-1"),
            message: "do".into(),
        }),
        State::AgentResult(AgentResult {
            id: id("call"),
            agent: AgentId::from("child"),
            status: AgentStatus::Cancelled,
            text: "done".into(),
            score: None,
        }),
        State::Waiting(Waiting {
            id: id("wait"),
            kind: WaitKind::Payment,
            deadline_ms: Some(-1),
            correlation: "call_1".into(),
            budget: Some(Held {
                reservation: id("reservation"),
                book: BookId::from("main"),
                account: AccountId::from("budget:team"),
                again: true,
            }),
        }),
        State::UserInputRequest(UserInputRequest {
            id: id("request"),
            text: "may I?".into(),
            kind: RequestKind::Question,
            call_id: String::new(),
        }),
        State::UserResponse(UserResponse { request: id("request"), answer: answer(), by: "cli".into() }),
        State::Finished(Finished { stop_reason: StopReason::Rounds }),
    ]
}

fn changes() -> Vec<Change> {
    let entries = states()
        .into_iter()
        .zip(0..)
        .map(|(state, seq)| Entry { seq, id: id("entry"), time_ms: 1_700_000_000_000, state })
        .collect();
    let overrides = Overrides {
        model: Some("openai/gpt-4o".into()),
        temperature: Some(0.2),
        top_p: None,
        max_tokens: Some(100),
        tools: Some(vec!["get_weather".into()]),
        behavior: Some(String::new()),
        budget: Some("budget:team".into()),
    };
    let link = CallLink { id: id("call"), agent: AgentId::from("alpha"), branch: BranchId::main(), depth: 1 };
    let outcome = Outcome {
        verdict: Verdict::Duplicate,
        code: "duplicate".into(),
        message: String::new(),
        reference: Some("main".into()),
    };
    vec![
        Change::Opened(Opened { root: AgentId::from("alpha") }),
        Change::Appended(Appended { entries }),
        Change::Forked(Forked {
            parent: Some(BranchId::main()),
            at: 4,
            name: Some("try".into()),
            creator: "rewind".into(),
            call: Some(link),
        }),
        Change::CheckedOut(CheckedOut { from: BranchId::main() }),
        Change::Hidden(Hidden { after: -1 }),
        Change::Overridden(Overridden { overrides, locked: true }),
        Change::PauseSet(PauseSet { paused: true }),
        Change::Decided(Decided { outcome }),
        Change::Pinned(Pinned { versions: BTreeMap::from([("agent/alpha".to_owned(), 3)]) }),
        Change::Closed(Closed { waits: vec![id("wait")] }),
        Change::BookSet(BookSet { book: Some("trial".into()) }),
    ]
}

fn inbox_bodies() -> Vec<InboxBody> {
    vec![
        InboxBody::UserText(UserText {
            agent: Some(AgentId::from("alpha")),
            branch: None,
            text: "hi".into(),
        }),
        InboxBody::HumanAnswer(HumanAnswer { request: id("request"), answer: answer(), by: "api".into() }),
        InboxBody::ToolOutcome(ToolOutcome {
            effect: id("effect"),
            wait: id("wait"),
            call_id: "call_1".into(),
            status: ToolStatus::Success,
            result: JsonText(json!({"temperature": 71.6})),
            reward: Some(1.0),
            latency_ms: Some(12),
        }),
        InboxBody::BranchCommand(BranchCommand {
            operation: BranchOperation::Rewind,
            agent: None,
            branch: Some("main".into()),
            at: Some(4),
            name: None,
            tree: true,
            keep_wait: false,
            destructive: false,
        }),
        InboxBody::OverrideCommand(OverrideCommand {
            agent: None,
            set: Overrides::default(),
            clear: true,
            lock: false,
            unlock: true,
            book: Some("trial".into()),
        }),
        InboxBody::ControlCommand(ControlCommand {
            operation: ControlOperation::Resume,
            reason: "go".into(),
        }),
        InboxBody::PaymentResult(PaymentResult {
            request: id("payment"),
            wait: id("wait"),
            call_id: "call_1".into(),
            status: PaymentStatus::Committed,
            code: "ok".into(),
            message: String::new(),
            transaction: Some(id("ledger")),
            postings: vec![posting()],
            unit: "TOKEN".into(),
            scale: 2,
            account: Some(AccountView {
                account: AccountId::from("alpha"),
                kind: AccountKind::Agent,
                balance: balance(),
                frozen: false,
                movements: vec![Movement {
                    transaction: id("ledger"),
                    time_ms: 1_700_000_000_000,
                    other: AccountId::from("beta"),
                    amount: -2_500,
                    posted: 7_500,
                    reason: "thanks".into(),
                }],
            }),
        }),
    ]
}

fn balance() -> Balance {
    Balance { posted: 7_500, reserved: 100 }
}

fn posting() -> Posting {
    Posting {
        from: AccountId::from("alpha"),
        to: AccountId::from("beta"),
        amount: 2_500,
        from_after: balance(),
        to_after: balance(),
    }
}

fn payment_bodies() -> Vec<PaymentBody> {
    let account = AccountId::from("alpha");
    let limits = AccountLimits { credit: 0, transfer_max: Some(1_000), day_max: None };
    let policy = LedgerPolicy {
        version: 2,
        treasury: AccountId::from("treasury"),
        tiers: vec![RewardTier { at_least: 0.8, amount: 2_500 }],
        approval_above: Some(100_000),
    };
    let (to, amount) = (AccountId::from("beta"), 2_500);
    vec![
        PaymentBody::OpenBook(OpenBook { unit: "TOKEN".into(), scale: 2 }),
        PaymentBody::OpenAccount(OpenAccount { account: account.clone(), kind: AccountKind::Agent, limits }),
        PaymentBody::SetLimits(SetLimits { account: account.clone(), limits }),
        PaymentBody::Freeze(Freeze { account: account.clone(), frozen: true }),
        PaymentBody::SetPolicy(SetPolicy { policy }),
        PaymentBody::Mint(Mint { mint: AccountId::from("mint"), to: to.clone(), amount }),
        PaymentBody::Transfer(Transfer {
            legs: vec![Leg { from: account.clone(), to: to.clone(), amount }],
            scale: Some(2),
        }),
        PaymentBody::Reserve(Reserve {
            from: account.clone(),
            to,
            amount,
            expires_ms: Some(9),
            scale: Some(8),
        }),
        PaymentBody::Post(Post { reservation: id("payment"), amount: Some(1), scale: Some(2) }),
        PaymentBody::Void(Void { reservation: id("payment") }),
        PaymentBody::Expire(Expire { reference: id("payment") }),
        PaymentBody::Reward(Reward {
            target: id("artifact"),
            evaluator: "gpt4_judge".into(),
            metric: "score".into(),
            payee: account.clone(),
            occasion: id("artifact").to_string(),
            evaluator_version: 3,
            evaluation: id("evaluation"),
            score: 0.75,
        }),
        PaymentBody::Approve(Approve { request: id("payment") }),
        PaymentBody::Deny(Deny { request: id("payment"), reason: "no".into() }),
        PaymentBody::Query(Query { account, movements: 10 }),
    ]
}

fn payment_request(body: PaymentBody) -> PaymentRequest {
    PaymentRequest {
        id: id("payment"),
        book: BookId::from("main"),
        by: "alpha".into(),
        cause: PaymentCause {
            kind: CauseKind::ToolCall,
            reference: Some(id("entry")),
            conversation: Some(ConversationId::from("demo")),
            agent: Some(AgentId::from("alpha")),
            branch: Some(BranchId::main()),
            reason: "thanks".into(),
        },
        reply_to: Some(PaymentReplyTo {
            conversation: ConversationId::from("demo"),
            wait: id("wait"),
            call_id: "call_1".into(),
        }),
        not_after_ms: Some(1_700_000_030_000),
        body,
    }
}

fn ledger_outcomes() -> Vec<LedgerOutcome> {
    vec![
        LedgerOutcome::Committed(Committed { policy: Some(2), external: Some("tx-1".into()) }),
        LedgerOutcome::Rejected(Rejected { code: "insufficient".into(), message: "not enough".into() }),
        LedgerOutcome::Pending(Pending { message: "a person".into() }),
        LedgerOutcome::InDoubt(InDoubt { message: "cut off".into() }),
        LedgerOutcome::Planned(Box::new(Planned {
            batch: id("batch"),
            index: 0,
            of: 2,
            command: "main/0-1".into(),
            data: Some(JsonText(json!({"inputs": ["00a1"]}))),
        })),
        LedgerOutcome::Queued(Queued { message: "a batch".into() }),
    ]
}

fn ledger_transaction(outcome: LedgerOutcome) -> LedgerTransaction {
    let body = payment_bodies().remove(7);
    LedgerTransaction {
        id: id("ledger"),
        book: BookId::from("main"),
        seq: 7,
        previous: Some(id("previous")),
        request: payment_request(body),
        holds: vec![Hold {
            reservation: id("payment"),
            account: AccountId::from("alpha"),
            change: 2_500,
            after: balance(),
            state: HoldState::Voided,
        }],
        postings: vec![posting()],
        outcome,
        time_ms: 1_700_000_000_000,
    }
}

fn effect_bodies() -> Vec<EffectBody> {
    vec![
        EffectBody::CallTool(CallTool {
            tool: "get_weather".into(),
            version: 1,
            arguments: JsonText(json!({})),
            call_id: "call_1".into(),
            wait: id("wait"),
        }),
        EffectBody::PublishReply(PublishReply { entry: 3, text: "there".into() }),
        EffectBody::NotifyWebhook(NotifyWebhook {
            url: "http://127.0.0.1/hook".into(),
            request: id("request"),
            text: "may I?".into(),
            kind: Some(RequestKind::Reply),
        }),
    ]
}

fn artifact_bodies() -> Vec<ArtifactBody> {
    let outcome =
        Outcome { verdict: Verdict::Applied, code: "ok".into(), message: String::new(), reference: None };
    vec![
        ArtifactBody::EntryAppended(EntryAppended { state: "UserMessage".into() }),
        ArtifactBody::ModelCall(ModelCall {
            model: "openai/gpt-4o".into(),
            wait: id("wait"),
            prompt_ref: "00".into(),
            prompt_tokens: Some(10),
            completion_tokens: None,
            cost_usd: Some("0.000025".into()),
            latency_ms: 900,
            attempts: 2,
            error: None,
        }),
        ArtifactBody::ToolRun(ToolRun {
            effect: id("effect"),
            tool: "get_weather".into(),
            phase: "intent".into(),
            latency_ms: None,
            reward: None,
            detail: String::new(),
        }),
        ArtifactBody::InputOutcome(InputOutcome { input: id("input"), outcome }),
        ArtifactBody::Event(Event { name: "agent_finished".into(), data: JsonText(json!({"a": "b"})) }),
        ArtifactBody::Evaluation(Box::new(Evaluation {
            target: id("target"),
            evaluator: "gpt4_judge".into(),
            version: 3,
            occasion: "first".into(),
            score: Some(0.75),
            metrics: BTreeMap::from([("clarity".into(), 0.5), ("wit".into(), -2.0)]),
            comment: "Clear, but short.".into(),
            samples: 2,
            spread: Some(0.25),
            agreement: Some(0.5),
            judges: vec![JudgeScore {
                model: "openai/gpt-4o-mini".into(),
                persona: Some("critic".into()),
                samples: 2,
                score: 0.75,
            }],
            calls: 3,
            prompt_tokens: Some(900),
            completion_tokens: Some(40),
            cost_usd: Some("0.000159".into()),
            latency_ms: 1_200,
            content: "ab".repeat(32),
            same_as: Some(id("earlier")),
            request: Some(id("request")),
            error: Some(EvaluationError { code: "deadline".into(), message: "too late".into() }),
        })),
        ArtifactBody::Payment(Payment {
            book: BookId::from("main"),
            request: id("payment"),
            transaction: id("ledger"),
            operation: "transfer".into(),
            outcome: "committed".into(),
            code: "ok".into(),
            postings: vec![posting()],
        }),
    ]
}

/// A message of every kind and every variant, with the name of its golden file.
fn samples() -> Vec<(String, Message)> {
    let conversation = ConversationId::from("demo");
    let (agent, branch) = (AgentId::from("alpha"), BranchId::main());
    let mut payloads = Vec::new();
    for body in inbox_bodies() {
        let name = body.kind().to_owned();
        payloads.push((name, Payload::Inbox(InboxMessage { conversation: conversation.clone(), body })));
    }
    for (change, n) in changes().into_iter().zip(0..) {
        let variant = format!("{change:?}");
        let name = variant.split('(').next().unwrap_or_default().to_lowercase();
        let transition = StateTransition {
            id: id("transition"),
            conversation: conversation.clone(),
            seq: n,
            previous: (n > 0).then(|| id("previous")),
            agent: agent.clone(),
            branch: branch.clone(),
            input: id("input"),
            changes: vec![change],
            head: 9,
            status: BranchStatus::Waiting,
            time_ms: 1_700_000_000_000,
        };
        payloads.push((name, Payload::Transition(transition)));
    }
    for body in effect_bodies() {
        let variant = format!("{body:?}");
        let name = variant.split('(').next().unwrap_or_default().to_lowercase();
        let effect = Effect {
            id: id("effect"),
            conversation: conversation.clone(),
            agent: agent.clone(),
            branch: branch.clone(),
            not_after_ms: Some(1_700_000_030_000),
            body,
            reservation: Some(id("reservation")),
        };
        payloads.push((name, Payload::Effect(effect)));
    }
    for body in artifact_bodies() {
        let name = body.kind().to_owned();
        let artifact = Artifact {
            id: id("artifact"),
            conversation: conversation.clone(),
            agent: Some(agent.clone()),
            branch: None,
            entry: Some(3),
            parents: vec![id("parent")],
            time_ms: 1_700_000_000_000,
            body,
        };
        payloads.push((name, Payload::Artifact(artifact)));
    }
    for body in payment_bodies() {
        let name = body.kind().to_owned();
        payloads.push((name, Payload::PaymentRequest(payment_request(body))));
    }
    for outcome in ledger_outcomes() {
        let name = outcome.as_str().to_owned();
        payloads.push((name, Payload::LedgerTransaction(ledger_transaction(outcome))));
    }
    let body = Some(JsonText(json!({"id": "alpha"})));
    for (name, key, body) in [("definition", "agent/alpha@1", body), ("pointer", "agent/alpha", None)] {
        let (key, kind, id) = (key.to_owned(), "agent".to_owned(), "alpha".to_owned());
        payloads
            .push((name.to_owned(), Payload::Registry(RegistryRecord { key, kind, id, version: 1, body })));
    }
    let letter = DeadLetter {
        id: id("letter"),
        key: "demo".into(),
        topic: "p2.inbox.v1".into(),
        partition: 3,
        offset: 42,
        group: "p2.agent-step".into(),
        code: "undecodable".into(),
        reason: "why".into(),
        headers: vec![Header { name: "ce_id".into(), value: b"x".to_vec() }],
        value: vec![0, 255, 1],
        time_ms: 1_700_000_000_000,
    };
    payloads.push(("letter".to_owned(), Payload::DeadLetter(letter)));
    let message = |payload| Message {
        id: id("message"),
        cause: id("cause"),
        cause_position: Some(Position { topic: Topic::Inbox, partition: 3, offset: 41 }),
        time_ms: 1_700_000_000_123,
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        payload,
    };
    payloads.into_iter().map(|(name, payload)| (name, message(payload))).collect()
}

fn stored(record: NewRecord) -> StoredRecord {
    StoredRecord { offset: 5, record }
}

fn json_of(payload: &Payload) -> serde_json::Value {
    let value = match payload {
        Payload::Inbox(value) => serde_json::to_value(value),
        Payload::Transition(value) => serde_json::to_value(value),
        Payload::Effect(value) => serde_json::to_value(value),
        Payload::Artifact(value) => serde_json::to_value(value),
        Payload::PaymentRequest(value) => serde_json::to_value(value),
        Payload::LedgerTransaction(value) => serde_json::to_value(value),
        Payload::Registry(value) => serde_json::to_value(value),
        Payload::DeadLetter(value) => serde_json::to_value(value),
    };
    value.unwrap()
}

#[test]
fn every_kind_and_variant_reads_back_as_it_was_written() {
    for (name, message) in samples() {
        let record = encode(&message, "/p2/test", 16).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(record.partition, partition(message.payload.key(), 16));
        assert_eq!(decode(&stored(record)).unwrap(), message, "{name}");
    }
}

/// The bytes of every kind are what they were when they were published; `UPDATE_GOLDEN=1` writes new ones.
#[test]
fn bytes_are_golden() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut files = 0;
    for (name, message) in samples() {
        let folder = folder.join(message.payload.topic().short());
        let record = encode(&message, "/p2/test", 16).unwrap();
        let (bytes, text) = (folder.join(format!("{name}.avro")), folder.join(format!("{name}.json")));
        if update {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&bytes, &record.value).unwrap();
            std::fs::write(&text, format!("{:#}\n", json_of(&message.payload))).unwrap();
        }
        let golden = std::fs::read(&bytes).unwrap_or_else(|error| panic!("{}: {error}", bytes.display()));
        assert_eq!(golden, record.value, "{name}: the wire changed");
        let golden = StoredRecord { offset: 5, record: NewRecord { value: golden, ..record } };
        assert_eq!(decode(&golden).unwrap().payload, message.payload, "{name}");
        files += 1;
    }
    assert!(files >= 27, "{files}");
}

#[test]
fn headers_follow_cloudevents_and_trace_context() {
    let (_, message) = samples().remove(0);
    let record = encode(&message, "/p2/agent-step", 16).unwrap();
    let headers: Vec<String> = record
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
        .collect();
    expect_test::expect![[r#"
        ce_specversion: 1.0
        ce_id: ab530a13e45914982b79f9b7e3fba994
        ce_type: p2.inbox.user_text
        ce_source: /p2/agent-step
        ce_subject: demo
        ce_time: 2023-11-14T22:13:20.123Z
        content-type: application/avro
        p2_cause: 6a7ef1ed9f15c2f59ab7bfaf50f5b51f
        p2_cause_position: p2.inbox.v1/3/41
        traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"#]]
    .assert_eq(&headers.join("\n"));
}

#[test]
fn an_outsiders_record_needs_an_id_and_nothing_else() {
    let (_, message) = samples().remove(0);
    let mut record = encode(&message, "/p2/test", 16).unwrap();
    record.headers.retain(|name, _| name == "ce_id");
    let read = decode(&stored(record.clone())).unwrap();
    assert_eq!((read.id, read.cause, read.cause_position), (message.id, message.id, None));
    record.headers = crate::ports::Headers::default();
    assert_eq!(decode(&stored(record)).unwrap_err().code(), "header");
}

#[test]
fn what_is_wrong_with_a_record_has_a_code_and_a_sentence() {
    let (_, message) = samples().remove(0);
    let good = encode(&message, "/p2/test", 16).unwrap();
    let with = |change: &dyn Fn(&mut NewRecord)| {
        let mut record = good.clone();
        change(&mut record);
        decode(&stored(record)).unwrap_err()
    };
    assert_eq!(with(&|record| record.value[0] = 1).code(), "not_single_object");
    assert_eq!(with(&|record| record.value[0] = 0).code(), "unknown_schema_id");
    assert_eq!(with(&|record| record.value[3] ^= 1).code(), "unknown_schema");
    assert_eq!(with(&|record| record.value.truncate(14)).code(), "undecodable");
    assert_eq!(with(&|record| record.value.push(0)).code(), "undecodable");
    assert_eq!(with(&|record| record.key = "other".into()).code(), "key");
    let large = InboxBody::UserText(UserText { agent: None, branch: None, text: "x".repeat(900_001) });
    let payload = Payload::Inbox(InboxMessage { conversation: ConversationId::from("c"), body: large });
    assert_eq!(encode(&Message { payload, ..message }, "/p2/test", 16).unwrap_err().code(), "too_large");
}

#[test]
fn a_record_in_the_wrong_partition_is_misplaced_and_an_unreadable_one_is_poison_with_its_bytes() {
    let wire = ProcessorWire::new("agent-step", |_| 16);
    let (_, message) = samples().remove(0);
    let mut record = encode(&message, "/p2/agent-step", 16).unwrap();
    assert!(matches!(wire.incoming(&stored(record.clone()), 0), Incoming::Message(_)));
    record.partition = (record.partition + 1) % 16;
    assert!(matches!(wire.incoming(&stored(record.clone()), 0), Incoming::Misplaced(_)));
    record.value = b"not avro".to_vec();
    let Incoming::Poison(letter) = wire.incoming(&stored(record.clone()), 9) else { panic!() };
    assert_eq!(
        (letter.value.as_slice(), letter.headers),
        (b"not avro".as_slice(), Vec::from(&record.headers))
    );
    assert_eq!((letter.code.as_str(), letter.group.as_str()), ("not_single_object", "p2.agent-step"));
}

/// A union branch is chosen by index: the order of variants is the wire.
#[test]
fn union_order_is_the_order_of_the_variants() {
    let names = |topic: Topic, field: &str| -> Vec<String> {
        let schema = serde_json::to_value(&schemas::of(topic).unwrap().current.schema).unwrap();
        find_union(&schema, field).unwrap_or_else(|| panic!("no union '{field}' in {topic:?}"))
    };
    let variants = |debug: Vec<String>| -> Vec<String> {
        debug.iter().map(|text| text.split('(').next().unwrap_or_default().to_owned()).collect()
    };
    fn debug<T: std::fmt::Debug>(values: Vec<T>) -> Vec<String> {
        values.iter().map(|value| format!("{value:?}")).collect()
    }
    assert_eq!(names(Topic::Inbox, "body"), variants(debug(inbox_bodies())));
    assert_eq!(names(Topic::Effects, "body"), variants(debug(effect_bodies())));
    assert_eq!(names(Topic::Artifacts, "body"), variants(debug(artifact_bodies())));
    assert_eq!(names(Topic::PaymentRequests, "body"), variants(debug(payment_bodies())));
    assert_eq!(names(Topic::LedgerTransactions, "outcome"), variants(debug(ledger_outcomes())));
    assert_eq!(names(Topic::StateTransitions, "changes"), variants(debug(changes())));
    assert_eq!(names(Topic::StateTransitions, "state"), variants(debug(states())));
}

/// The record names of the union that is the type (or the items) of the field of that name.
fn find_union(schema: &serde_json::Value, field: &str) -> Option<Vec<String>> {
    match schema {
        serde_json::Value::Object(object) => {
            if object.get("name").and_then(|name| name.as_str()) == Some(field) {
                let of = object.get("type")?;
                let union = of.as_array().or_else(|| of.get("items")?.as_array());
                if let Some(union) = union {
                    let name = |branch: &serde_json::Value| Some(branch.get("name")?.as_str()?.to_owned());
                    return union.iter().map(name).collect();
                }
            }
            object.values().find_map(|value| find_union(value, field))
        }
        serde_json::Value::Array(values) => values.iter().find_map(|value| find_union(value, field)),
        _ => None,
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(value in prop::collection::vec(any::<u8>(), 0..200), topic in 0..Topic::ALL.len()) {
        let topic = Topic::ALL[topic];
        let record = NewRecord { topic, partition: 0, key: "k".into(), headers: crate::ports::Headers::default(), value, time_ms: 0 };
        prop_assert!(decode(&stored(record)).is_err());
    }

    #[test]
    fn damaged_records_are_read_or_refused(sample in 0usize..49, at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (_, message) = samples().remove(sample);
        let mut record = encode(&message, "/p2/test", 16).unwrap();
        let at = at.index(record.value.len());
        record.value[at] ^= 1 << bit;
        let _ = decode(&stored(record));
    }
}

/// Written with version 1 of the schema, which had no `kind`.
#[test]
fn a_webhook_of_the_first_version_is_read_without_its_kind() {
    let value = hex::decode(concat!(
        "c301638de603f948ee7b4064636235373634323661313762376466313339303730303763623032613166310864656d6f0a616c",
        "706861086d61696e02e0f4aefef962042a687474703a2f2f3132372e302e302e312f686f6f6b403166353862393134356232346",
        "4313038643761633338383837333338623365610c6d617920493f"
    ));
    let (_, message) = samples().into_iter().find(|(name, _)| name == "notifywebhook").unwrap();
    let record = NewRecord { value: value.unwrap(), ..encode(&message, "/p2/test", 16).unwrap() };
    let Payload::Effect(effect) = decode(&stored(record)).unwrap().payload else { panic!("not an effect") };
    let EffectBody::NotifyWebhook(notify) = effect.body else { panic!("not a webhook") };
    assert_eq!((notify.kind, notify.text.as_str()), (None, "may I?"));
}
