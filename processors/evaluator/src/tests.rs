use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use p2_core::apply::parse_file;
use p2_core::eval::{ANSWERED, FIRST, REQUESTED, evaluation_id};
use p2_core::ids::{AgentId, BranchId, ConversationId};
use p2_core::model::{ModelError, ModelErrorClass, ModelOutcome, ModelReply, ModelRequest};
use p2_core::record::*;
use p2_core::state::*;
use p2_stream::memory::{MemoryLog, MemoryStore};
use p2_stream::ports::{ConversationSummary, Log, Model, StackStore, StoreError};
use p2_stream::processor::Mark;
use p2_stream::wire;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_000_000;
const PARTITIONS: i32 = 2;

const EVALUATORS: &str = r#"
{kind: price, id: test/judge, prompt_usd_per_million: "1", completion_usd_per_million: "1"}
---
{kind: evaluator, id: judge, type: llm_judge, model: test/judge, trigger: {finished: both}}
---
{kind: evaluator, id: panel, type: llm_judge, model: test/judge, judges: [test/judge, test/other], samples: 2, metrics: [wit]}
---
{kind: evaluator, id: capped, type: llm_judge, model: test/judge, cost_cap_usd: "0.000001"}
---
{kind: evaluator, id: roomy, type: llm_judge, model: test/judge, cost_cap_usd: "1"}
---
{kind: evaluator, id: unpriced, type: llm_judge, model: test/other, cost_cap_usd: "1"}
---
{kind: evaluator, id: lost, type: llm_judge, model: test/judge, rubric_id: gone}
---
{kind: evaluator, id: children, type: exact, expected: "4", trigger: {finished: children}}
---
{kind: evaluator, id: exact, type: exact, expected: "4", trigger: {states: [AssistantMessage]}}
---
{kind: evaluator, id: shaped, type: json_schema, schema: {type: integer, minimum: 3}}
---
{kind: evaluator, id: cheap, type: cost, good_usd: "0.01", bad_usd: "0.03"}
---
{kind: evaluator, id: rewards, type: tool_reward}
---
{kind: evaluator, id: echo, type: exact, expected: "4", trigger: {artifacts: [evaluation]}}
---
{kind: evaluator, id: outside, type: topic, trigger: {finished: both}}
---
{kind: evaluator, id: paid, type: llm_judge, model: test/judge, rewards: {}}
---
{kind: evaluator, id: witty, type: llm_judge, model: test/judge, rewards: {metric: wit, occasion: spring, book: prizes}}
---
{kind: evaluator, id: jury, type: topic, agents: [alpha], rewards: {trusted: Only the jury may write artifacts.}}
"#;

fn registry() -> Arc<Registry> {
    let mut registry = Registry::default();
    for definition in parse_file(EVALUATORS, "e.yml").unwrap() {
        registry.insert(definition, 3);
    }
    Arc::new(registry)
}

/// A model with prepared answers; counts its calls, and fails when it is asked too often.
struct Scripted {
    answers: Mutex<VecDeque<Result<ModelReply, ModelError>>>,
    calls: AtomicUsize,
    asked: Mutex<Vec<ModelRequest>>,
    silent: bool,
}

#[async_trait]
impl Model for Scripted {
    async fn ask(&self, request: &ModelRequest, _deadline_ms: i64) -> ModelOutcome {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.asked.lock().unwrap().push(request.clone());
        if self.silent {
            std::future::pending::<()>().await;
        }
        let none = Err(ModelError {
            class: ModelErrorClass::Permanent,
            code: "no_answer".into(),
            message: "none left".into(),
        });
        let result = self.answers.lock().unwrap().pop_front().unwrap_or(none);
        ModelOutcome { result, latency_ms: 1, attempts: 1 }
    }
}

fn says(text: &str) -> Result<ModelReply, ModelError> {
    Ok(ModelReply {
        text: Some(text.into()),
        prompt_tokens: Some(100),
        completion_tokens: Some(10),
        ..ModelReply::default()
    })
}

/// A store that judges cannot always reach.
struct Reached {
    store: MemoryStore,
    away: Arc<AtomicBool>,
}

#[async_trait]
impl StackStore for Reached {
    async fn load(&self, conversation: &ConversationId) -> Result<Vec<StateTransition>, StoreError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("nobody answers".into())),
            false => self.store.load(conversation).await,
        }
    }

    async fn write(
        &self,
        partition: i32,
        rows: Vec<(i64, StateTransition)>,
        applied: i64,
    ) -> Result<(), StoreError> {
        self.store.write(partition, rows, applied).await
    }

    async fn applied(&self, partition: i32) -> Result<i64, StoreError> {
        self.store.applied(partition).await
    }

    async fn tail(
        &self,
        conversation: &ConversationId,
        agent: &AgentId,
        branch: &BranchId,
        before: i64,
        max: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.store.tail(conversation, agent, branch, before, max).await
    }

    async fn open(&self, partition: i32) -> Result<Vec<ConversationId>, StoreError> {
        self.store.open(partition).await
    }

    async fn list(
        &self,
        after: Option<&ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationSummary>, StoreError> {
        self.store.list(after, max).await
    }

    async fn wipe(&self) -> Result<(), StoreError> {
        self.store.wipe().await
    }
}

struct Rig {
    port: JudgePort,
    model: Arc<Scripted>,
    log: MemoryLog,
    store: MemoryStore,
    away: Arc<AtomicBool>,
    offset_ms: Arc<AtomicI64>,
}

fn rig_of(answers: Vec<Result<ModelReply, ModelError>>, silent: bool) -> Rig {
    let model = Arc::new(Scripted {
        answers: Mutex::new(answers.into()),
        calls: AtomicUsize::default(),
        asked: Mutex::default(),
        silent,
    });
    let (log, store) = (MemoryLog::new(PARTITIONS), MemoryStore::default());
    let offset_ms = Arc::new(AtomicI64::new(0));
    let (start, offset) = (tokio::time::Instant::now(), offset_ms.clone());
    let clock: Clock = Arc::new(move || {
        NOW + offset.load(Ordering::SeqCst) + i64::try_from(start.elapsed().as_millis()).unwrap()
    });
    let away = Arc::new(AtomicBool::new(false));
    let reached = Arc::new(Reached { store: store.clone(), away: away.clone() });
    let port = JudgePort::new(model.clone(), reached, Arc::new(log.clone()), registry, clock);
    Rig { port, model, log, store, away, offset_ms }
}

fn rig(answers: &[&str]) -> Rig {
    rig_of(answers.iter().map(|text| says(text)).collect(), false)
}

impl Rig {
    fn calls(&self) -> usize {
        self.model.calls.load(Ordering::SeqCst)
    }

    /// Puts a conversation into the store.
    async fn talk(&self, name: &str, states: Vec<State>) {
        let entries = states.into_iter().zip(0..);
        let entries = entries
            .map(|(state, seq)| Entry {
                seq,
                id: Id::of_text(&format!("{name}{seq}")),
                time_ms: NOW + seq,
                state,
            })
            .collect();
        let transition = StateTransition {
            id: Id::of_text(name),
            conversation: name.into(),
            seq: 0,
            previous: None,
            agent: "alpha".into(),
            branch: BranchId::main(),
            input: Id::of_text("input"),
            changes: vec![
                Change::Opened(Opened { root: "alpha".into() }),
                Change::Forked(Forked {
                    parent: None,
                    at: -1,
                    name: None,
                    creator: "open".into(),
                    call: None,
                }),
                Change::CheckedOut(CheckedOut { from: BranchId::main() }),
                Change::Appended(Appended { entries }),
            ],
            head: 1,
            status: BranchStatus::Idle,
            time_ms: NOW,
        };
        self.store.write(0, vec![(0, transition)], 1).await.unwrap();
    }

    /// Moves the money of a conversation to a book.
    async fn move_to(&self, name: &str, book: &str) {
        let transition = StateTransition {
            id: Id::of_text(&format!("{name} moves")),
            conversation: name.into(),
            seq: 1,
            previous: Some(Id::of_text(name)),
            agent: "alpha".into(),
            branch: BranchId::main(),
            input: Id::of_text("move"),
            changes: vec![Change::BookSet(BookSet { book: Some(book.into()) })],
            head: 1,
            status: BranchStatus::Idle,
            time_ms: NOW,
        };
        self.store.write(0, vec![(1, transition)], 2).await.unwrap();
    }

    /// Commits records of this processor.
    async fn commit(&self, messages: &[Message]) {
        let records =
            messages.iter().map(|message| wire::encode(message, "/p2/evaluator", PARTITIONS).unwrap());
        self.log.append(records.collect()).await.unwrap();
    }

    /// Takes one record to its end: what is written for it.
    async fn take(&self, record: &Message) -> Vec<Message> {
        let mut lane = Driver::default();
        let step = lane.on(LaneInput::Record(record.clone()));
        let Some(call) = step.calls.first() else { return step.outputs };
        assert_eq!(
            (step.mark, step.outputs.len()),
            (Mark::Pending, 0),
            "nothing is written before it is judged"
        );
        let reply = self.port.judge(&call.request, call.deadline_ms).await;
        let step = lane.on(LaneInput::Reply { call: call.id, reply });
        assert_eq!(step.mark, Mark::Done);
        step.outputs
    }

    /// The same, with what is written committed.
    async fn settle(&self, record: &Message) -> Vec<Message> {
        let outputs = self.take(record).await;
        self.commit(&outputs).await;
        outputs
    }
}

/// A lane as the runtime drives it.
#[derive(Default)]
struct Driver {
    lane: EvaluatorLane,
}

impl Driver {
    fn on(&mut self, input: LaneInput<Vec<Ruling>>) -> LaneStep<JudgeRequest> {
        let processor = Evaluators::new(registry);
        if let LaneInput::Record(record) | LaneInput::Claimed(record) = &input {
            processor.apply(&mut self.lane, record).unwrap();
        }
        processor.decide("lane", &self.lane, &input, NOW)
    }
}

fn chat() -> Vec<State> {
    vec![user("What is 2 + 2?"), assistant("4")]
}

fn user(text: &str) -> State {
    State::UserMessage(UserMessage { text: text.into(), origin: None })
}

fn assistant(text: &str) -> State {
    State::AssistantMessage(AssistantMessage { text: text.into(), ..AssistantMessage::default() })
}

fn record(name: &str, conversation: &str, entry: Option<i64>, body: ArtifactBody) -> Message {
    let id = Id::of_text(name);
    let artifact = Artifact {
        id,
        conversation: conversation.into(),
        agent: Some("alpha".into()),
        branch: Some(BranchId::main()),
        entry,
        parents: Vec::new(),
        time_ms: NOW + 50,
        body,
    };
    let payload = Payload::Artifact(artifact);
    Message {
        id,
        cause: id,
        cause_position: None,
        time_ms: NOW + 50,
        traceparent: Some("00-aa-bb-01".into()),
        payload,
    }
}

fn event(name: &str, conversation: &str, kind: &str, data: Value) -> Message {
    record(name, conversation, None, ArtifactBody::Event(Event { name: kind.into(), data: data.into() }))
}

fn finished(name: &str) -> Message {
    event(name, "talk", "agent_finished", json!({"stop_reason": "done", "entry": 1}))
}

fn asks(name: &str, evaluator: &str, occasion: &str) -> Message {
    let data = json!({"evaluator": evaluator, "occasion": occasion, "entry": 1});
    event(name, "talk", REQUESTED, data)
}

fn evaluation(message: &Message) -> &Evaluation {
    match &message.payload {
        Payload::Artifact(Artifact { body: ArtifactBody::Evaluation(evaluation), .. }) => evaluation,
        other => panic!("{other:?}"),
    }
}

fn answer(message: &Message) -> &Value {
    match &message.payload {
        Payload::Artifact(Artifact { body: ArtifactBody::Event(event), .. }) if event.name == ANSWERED => {
            &event.data.0
        }
        other => panic!("{other:?}"),
    }
}

fn target() -> Id {
    let (agent, branch) = ("alpha".into(), BranchId::main());
    Place { conversation: "talk".into(), agent, branch, entry: 1 }.target()
}

const GOOD: &str = r#"{"score": 0.75, "metrics": {"wit": 0.5}, "comment": "Right."}"#;

// ---------------------------------------------------------------------------------------------- judging

#[tokio::test(start_paused = true)]
async fn a_finished_run_is_judged_by_those_that_wait_for_it_and_the_result_says_everything() {
    let rig = rig(&[GOOD]);
    rig.talk("talk", chat()).await;
    let written = rig.take(&finished("end")).await;
    // `children` waits for agents that were called, `outside` is somebody else's.
    assert_eq!(written.len(), 1, "{written:?}");
    let found = evaluation(&written[0]);
    assert_eq!((found.evaluator.as_str(), found.version, found.occasion.as_str()), ("judge", 3, FIRST));
    assert_eq!((found.score, found.comment.as_str(), found.samples), (Some(0.75), "Right.", 1));
    assert_eq!((found.metric("wit"), found.target, found.request), (Some(0.5), target(), None));
    assert_eq!((found.calls, found.prompt_tokens, found.completion_tokens), (1, Some(100), Some(10)));
    assert_eq!(found.cost_usd.as_deref(), Some("0.00011"));
    let id = evaluation_id(&target(), "judge", 3, FIRST);
    assert_eq!((written[0].id, written[0].cause), (id, Id::of_text("end")));
    assert_eq!(written[0].traceparent.as_deref(), Some("00-aa-bb-01"));
    let Payload::Artifact(artifact) = &written[0].payload else { panic!() };
    assert_eq!(
        (artifact.id, artifact.agent.as_ref().unwrap().as_str(), artifact.entry),
        (id, "alpha", Some(1))
    );
    assert_eq!(artifact.parents, [p2_core::eval::trigger::entry_artifact(&Id::of_text("talk1"))]);
}

#[tokio::test(start_paused = true)]
async fn garbage_twice_is_repaired_and_garbage_for_ever_is_a_visible_error() {
    let rig = rig(&["seven", r#"{"score": 7}"#, GOOD]);
    rig.talk("talk", chat()).await;
    let written = rig.take(&finished("end")).await;
    assert_eq!((evaluation(&written[0]).score, evaluation(&written[0]).calls), (Some(0.75), 3));
    let asked = rig.model.asked.lock().unwrap().clone();
    assert_eq!(asked.iter().map(|request| request.messages.len()).collect::<Vec<_>>(), [2, 4, 6]);

    let rig = rig_of((0..9).map(|_| says("no")).collect(), false);
    rig.talk("talk", chat()).await;
    let written = rig.take(&finished("end")).await;
    let found = evaluation(&written[0]);
    assert_eq!((found.score, found.calls, found.outcome()), (None, 4, "unreadable_reply"));
    let message = &found.error.as_ref().unwrap().message;
    assert!(message.contains("no judgement after 3 repairs: it is not the JSON object"), "{message}");
    assert_eq!(found.prompt_tokens, Some(400), "what failed was paid for as well");
}

#[tokio::test(start_paused = true)]
async fn a_panel_is_asked_for_all_its_samples_and_agrees_more_or_less() {
    let reply = |score: f64| format!(r#"{{"score": {score}, "metrics": {{"wit": {score}}}}}"#);
    let replies = [0.2, 0.4, 0.8, 1.0].map(reply);
    let rig = rig(&replies.each_ref().map(String::as_str));
    rig.talk("talk", chat()).await;
    let written = rig.take(&asks("ask", "panel", FIRST)).await;
    let found = evaluation(&written[0]);
    let rounded = |value: Option<f64>| value.map(|value| (value * 100.0).round() / 100.0);
    assert_eq!(
        (rounded(found.score), found.samples, rounded(found.metric("wit"))),
        (Some(0.6), 4, Some(0.6))
    );
    assert_eq!((rounded(found.agreement), found.judges.len()), (Some(0.4), 2));
    assert!(found.spread.is_some());
    assert_eq!(found.cost_usd, None, "one of the models has no price");
    assert_eq!(found.request, Some(Id::of_text("ask")));
}

#[tokio::test(start_paused = true)]
async fn no_call_is_made_that_might_go_beyond_the_cap_or_cannot_be_priced() {
    for (evaluator, code, calls) in
        [("capped", "cost_cap", 0), ("unpriced", "no_price", 0), ("roomy", "scored", 1)]
    {
        let rig = rig(&[GOOD]);
        rig.talk("talk", chat()).await;
        let written = rig.take(&asks("ask", evaluator, FIRST)).await;
        assert_eq!((evaluation(&written[0]).outcome(), rig.calls()), (code, calls), "{evaluator}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_judge_that_never_answers_or_fails_ends_in_an_error_and_not_in_silence() {
    let rig = rig_of(Vec::new(), true);
    rig.talk("talk", chat()).await;
    let written = rig.take(&finished("end")).await;
    let found = evaluation(&written[0]);
    assert_eq!((found.outcome(), found.latency_ms), ("deadline", 120_000));
    let rig = rig_of(Vec::new(), false);
    rig.talk("talk", chat()).await;
    let written = rig.take(&finished("end")).await;
    assert_eq!(evaluation(&written[0]).outcome(), "model");
    let rig = rig_of(Vec::new(), false);
    rig.talk("talk", chat()).await;
    let written = rig.take(&asks("ask", "lost", FIRST)).await;
    let error = evaluation(&written[0]).error.as_ref().unwrap();
    assert_eq!((error.code.as_str(), rig.calls()), ("definition", 0));
    assert!(error.message.contains("there is no rubric 'gone'"), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn rules_are_judged_without_a_model_and_a_rule_without_ground_is_an_error() {
    let rig = rig(&[]);
    rig.talk("talk", chat()).await;
    for (evaluator, outcome, score) in
        [("exact", "scored", Some(1.0)), ("shaped", "scored", Some(1.0)), ("rewards", "rule", None)]
    {
        let written = rig.take(&asks(evaluator, evaluator, FIRST)).await;
        let found = evaluation(&written[0]);
        assert_eq!((found.outcome(), found.score, found.cost_usd.as_deref()), (outcome, score, Some("0")));
    }
    rig.talk("words", vec![user("2 + 2?"), assistant("four")]).await;
    let data = json!({"evaluator": "shaped", "occasion": FIRST, "entry": 1});
    let written = rig.take(&event("words", "words", REQUESTED, data)).await;
    assert_eq!(evaluation(&written[0]).score, Some(0.0));
    assert!(evaluation(&written[0]).comment.contains("not JSON"), "{}", evaluation(&written[0]).comment);
}

#[tokio::test(start_paused = true)]
async fn what_an_answer_cost_is_read_from_the_model_calls_of_its_turn() {
    let rig = rig(&[]);
    rig.talk("talk", chat()).await;
    let call = |name: &str, time_ms: i64, cost: Option<&str>| {
        let body = ArtifactBody::ModelCall(ModelCall {
            model: "test/agent".into(),
            wait: Id::of_text("w"),
            prompt_ref: String::new(),
            prompt_tokens: None,
            completion_tokens: None,
            cost_usd: cost.map(str::to_owned),
            latency_ms: 5,
            attempts: 1,
            error: None,
        });
        let mut message = record(name, "talk", None, body);
        let Payload::Artifact(artifact) = &mut message.payload else { panic!() };
        artifact.time_ms = time_ms;
        message
    };
    rig.commit(&[
        call("a", NOW, Some("0.01")),
        call("b", NOW + 1, Some("0.01")),
        call("later", NOW + 9, Some("5")),
    ])
    .await;
    let written = rig.take(&asks("ask", "cheap", FIRST)).await;
    assert_eq!(evaluation(&written[0]).metric("answer_usd"), Some(0.02));
    assert_eq!(evaluation(&written[0]).score.map(|score| (score * 10.0).round()), Some(5.0));
    rig.commit(&[call("unknown", NOW + 1, None)]).await;
    let written = rig.take(&asks("again", "cheap", "again")).await;
    assert_eq!(evaluation(&written[0]).outcome(), "rule", "an unknown cost is not zero");
}

// --------------------------------------------------------------------------------------- once and no more

#[tokio::test(start_paused = true)]
async fn a_second_trigger_a_redelivery_and_a_backfill_judge_nothing_twice() {
    let rig = rig(&[GOOD, GOOD, GOOD]);
    rig.talk("talk", chat()).await;
    rig.settle(&finished("end")).await;
    assert_eq!(rig.settle(&finished("end")).await, [], "the same record again");
    assert_eq!(rig.settle(&finished("another end")).await, [], "another one that names the same entry");
    let written = rig.settle(&asks("ask", "judge", FIRST)).await;
    assert_eq!(answer(&written[0])["code"], "judged_before");
    assert_eq!(answer(&written[0])["evaluation"], json!(evaluation_id(&target(), "judge", 3, FIRST)));
    assert_eq!(rig.calls(), 1);
    let written = rig.settle(&asks("again", "judge", "after lunch")).await;
    assert_eq!(
        (evaluation(&written[0]).occasion.as_str(), rig.calls()),
        ("after lunch", 2),
        "asked for again"
    );
    assert_eq!(evaluation(&written[0]).same_as, None);
    let written = rig.settle(&asks("again again", "judge", "after lunch")).await;
    assert_eq!((answer(&written[0])["code"].as_str(), rig.calls()), (Some("judged_before"), 2));
}

#[tokio::test(start_paused = true)]
async fn another_process_finds_in_the_log_what_was_judged_before() {
    let rig = rig(&[GOOD]);
    rig.talk("talk", chat()).await;
    rig.settle(&finished("end")).await;
    let other = rig_of(Vec::new(), false);
    let clock: Clock = Arc::new(|| NOW);
    let port = JudgePort::new(
        other.model.clone(),
        Arc::new(rig.store.clone()),
        Arc::new(rig.log.clone()),
        registry,
        clock,
    );
    let other = Rig { port, ..other };
    assert_eq!(other.take(&finished("end")).await, []);
    assert_eq!(other.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_commit_was_lost_is_given_again_without_a_second_judgement() {
    let rig = rig(&[GOOD, GOOD]);
    rig.talk("talk", chat()).await;
    let lost = rig.take(&finished("end")).await;
    let again = rig.take(&finished("end")).await;
    assert_eq!(lost, again);
    assert_eq!(rig.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_same_dialogue_elsewhere_is_not_judged_again_by_the_same_evaluator() {
    let rig = rig(&[GOOD, GOOD]);
    rig.talk("talk", chat()).await;
    rig.talk("twin", chat()).await;
    let first = rig.settle(&finished("end")).await;
    let twin = event("twin end", "twin", "agent_finished", json!({"entry": 1}));
    let written = rig.settle(&twin).await;
    let found = evaluation(&written[0]);
    assert_eq!((found.score, found.metric("wit"), found.same_as), (Some(0.75), Some(0.5), Some(first[0].id)));
    assert_eq!((found.calls, found.cost_usd.as_deref(), rig.calls()), (0, Some("0"), 1));
    assert_ne!(written[0].id, first[0].id, "it is an evaluation of its own");
}

#[tokio::test(start_paused = true)]
async fn judging_may_move_between_threads() {
    fn sent<F: Future + Send>(future: F) -> F {
        future
    }
    let rig = rig(&[GOOD]);
    let call = Driver::default().on(LaneInput::Record(finished("end"))).calls.remove(0);
    drop(sent(rig.port.judge(&call.request, call.deadline_ms)));
}

#[tokio::test(start_paused = true)]
async fn two_triggers_at_the_same_time_judge_once() {
    let rig = rig(&[GOOD, GOOD]);
    rig.talk("talk", chat()).await;
    let request = |name: &str| {
        let mut lane = Driver::default();
        lane.on(LaneInput::Record(finished(name))).calls.remove(0)
    };
    let (a, b) = (request("a"), request("b"));
    let (a, b) =
        tokio::join!(rig.port.judge(&a.request, a.deadline_ms), rig.port.judge(&b.request, b.deadline_ms));
    assert_eq!((a, rig.calls()), (b, 1));
}

// ------------------------------------------------------------------------------------------- the target

#[tokio::test(start_paused = true)]
async fn a_target_that_is_not_in_the_store_yet_is_waited_for() {
    let rig = rig(&[GOOD]);
    let end = finished("end");
    let judged = rig.take(&end);
    let written = async {
        tokio::time::advance(Duration::from_secs(5)).await;
        rig.talk("talk", chat()).await;
    };
    let (judged, ()) = tokio::join!(judged, written);
    assert_eq!(evaluation(&judged[0]).score, Some(0.75));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_for_minutes_is_waited_for_and_catches_up_before_anything_is_missing() {
    let rig = rig(&[GOOD]);
    rig.away.store(true, Ordering::SeqCst);
    let end = finished("end");
    let judged = rig.take(&end);
    let back = async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        rig.away.store(false, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(20)).await;
        rig.talk("talk", chat()).await;
    };
    let (judged, ()) = tokio::join!(judged, back);
    assert_eq!(evaluation(&judged[0]).score, Some(0.75));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_comes_back_is_an_error_that_says_so() {
    let rig = rig(&[]);
    rig.away.store(true, Ordering::SeqCst);
    let written = rig.take(&finished("end")).await;
    let found = evaluation(&written[0]);
    assert_eq!(found.outcome(), "no_target");
    assert!(found.error.as_ref().unwrap().message.contains("nobody answers"), "{found:?}");
    assert!(found.latency_ms >= STORE_TIMEOUT_MS, "{}", found.latency_ms);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_never_comes_is_an_error_and_not_for_ever_pending() {
    let rig = rig(&[]);
    let written = rig.take(&asks("ask", "judge", FIRST)).await;
    let found = evaluation(&written[0]);
    assert_eq!((found.outcome(), found.target), ("no_target", target()));
    assert!(rig.offset_ms.load(Ordering::SeqCst) == 0 && found.latency_ms >= TARGET_TIMEOUT_MS);
    let hidden = Change::Hidden(Hidden { after: 0 });
    rig.talk("talk", chat()).await;
    let transition = StateTransition {
        id: Id::of_text("hide"),
        conversation: "talk".into(),
        seq: 1,
        previous: Some(Id::of_text("talk")),
        agent: "alpha".into(),
        branch: BranchId::main(),
        input: Id::of_text("input"),
        changes: vec![hidden],
        head: 0,
        status: BranchStatus::Idle,
        time_ms: NOW,
    };
    rig.store.write(0, vec![(1, transition)], 2).await.unwrap();
    let written = rig.take(&asks("hidden", "exact", FIRST)).await;
    let message = &evaluation(&written[0]).error.as_ref().unwrap().message;
    assert!(message.contains("a rewind hid it"), "{message}");
}

// ------------------------------------------------------------------------------------------ the decision

#[test]
fn what_concerns_nobody_is_done_at_once() {
    let outcome =
        Outcome { verdict: Verdict::Applied, code: "ok".into(), message: String::new(), reference: None };
    for body in [
        ArtifactBody::EntryAppended(EntryAppended { state: "ToolCall".into() }),
        ArtifactBody::InputOutcome(InputOutcome { input: Id::of_text("x"), outcome }),
        ArtifactBody::Event(Event { name: "override_set".into(), data: json!({}).into() }),
        ArtifactBody::Event(Event { name: ANSWERED.into(), data: json!({}).into() }),
    ] {
        let step = Driver::default().on(LaneInput::Record(record("a", "talk", Some(1), body)));
        assert_eq!((step.outputs.len(), step.calls.len(), step.mark), (0, 0, Mark::Done));
    }
}

#[test]
fn evaluations_do_not_trigger_evaluators_unless_one_names_them() {
    let body = ArtifactBody::Evaluation(Box::default());
    let step = Driver::default().on(LaneInput::Record(record("a", "talk", Some(1), body)));
    let asked: Vec<&str> =
        step.calls[0].request.candidates.iter().map(|one| one.evaluator.id.as_str()).collect();
    assert_eq!(asked, ["echo"]);
}

#[test]
fn requests_that_cannot_be_met_are_answered_and_those_of_others_left_to_them() {
    for (data, code, words) in [
        (
            json!({"evaluator": "nobody", "occasion": "x", "entry": 1}),
            "not_found",
            "there is no evaluator 'nobody'",
        ),
        (
            json!({"evaluator": "judge", "version": 9, "occasion": "x", "entry": 1}),
            "not_found",
            "no version 9",
        ),
        (json!({"evaluator": 5}), "invalid", "cannot be read"),
    ] {
        let step = Driver::default().on(LaneInput::Record(event("ask", "talk", REQUESTED, data)));
        assert_eq!((step.calls.len(), step.mark), (0, Mark::Done));
        let answer = answer(&step.outputs[0]);
        assert_eq!((&answer["code"], &answer["request"]), (&json!(code), &json!(Id::of_text("ask"))));
        assert!(answer["message"].as_str().unwrap().contains(words), "{answer}");
    }
    let step = Driver::default().on(LaneInput::Record(asks("ask", "outside", FIRST)));
    assert_eq!((step.outputs.len(), step.calls.len(), step.mark), (0, 0, Mark::Done));
}

#[test]
fn all_records_about_one_target_share_its_lane() {
    let processor = Evaluators::new(registry);
    let entry = ArtifactBody::EntryAppended(EntryAppended { state: "AssistantMessage".into() });
    let keys: Vec<String> =
        [finished("a"), asks("b", "judge", FIRST), record("c", "talk", Some(1), entry.clone())]
            .iter()
            .map(|message| processor.lane_key(message))
            .collect();
    assert_eq!(keys, vec![target().to_string(); 3]);
    assert_ne!(processor.lane_key(&record("d", "talk", Some(2), entry.clone())), keys[0]);
    assert_eq!(processor.lane_key(&record("e", "talk", None, entry)), Id::of_text("e").to_string());
}

#[test]
fn the_decision_is_the_same_for_a_record_that_comes_back() {
    let step = |input| Driver::default().on(input);
    assert_eq!(step(LaneInput::Record(finished("end"))), step(LaneInput::Claimed(finished("end"))));
}

// ---------------------------------------------------------------------------------------------- rewards

fn reward_of(message: &Message) -> (&PaymentRequest, &Reward) {
    match &message.payload {
        Payload::PaymentRequest(request) => match &request.body {
            PaymentBody::Reward(reward) => (request, reward),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// What an outsider writes about the chat.
fn verdict(change: impl FnOnce(&mut Artifact, &mut Evaluation)) -> Message {
    let mut evaluation = Evaluation {
        target: target(),
        evaluator: "jury".into(),
        version: 3,
        occasion: FIRST.into(),
        score: Some(0.9),
        samples: 1,
        ..Evaluation::default()
    };
    let Message { payload: Payload::Artifact(mut artifact), .. } =
        record("verdict", "talk", Some(1), ArtifactBody::Evaluation(Box::new(evaluation.clone())))
    else {
        panic!()
    };
    artifact.id = evaluation_id(&target(), "jury", 3, FIRST);
    change(&mut artifact, &mut evaluation);
    artifact.body = ArtifactBody::Evaluation(Box::new(evaluation));
    let id = artifact.id;
    Message {
        id,
        cause: id,
        cause_position: None,
        time_ms: NOW,
        traceparent: None,
        payload: Payload::Artifact(artifact),
    }
}

/// Without what `echo` says, which judges whatever was judged.
fn but_echo(mut written: Vec<Message>) -> Vec<Message> {
    written.retain(|message| match &message.payload {
        Payload::Artifact(Artifact { body: ArtifactBody::Evaluation(found), .. }) => {
            found.evaluator != "echo"
        }
        _ => true,
    });
    written
}

fn refusal(written: &[Message]) -> String {
    let [message] = written else { panic!("{written:?}") };
    let Payload::Artifact(Artifact { body: ArtifactBody::Event(event), .. }) = &message.payload else {
        panic!("{message:?}")
    };
    assert_eq!(event.name, "reward_refused");
    event.data.0["message"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn an_evaluation_and_the_request_for_its_reward_are_written_together() {
    let rig = rig(&[GOOD]);
    rig.talk("talk", chat()).await;
    let written = rig.take(&asks("ask", "paid", FIRST)).await;
    assert_eq!(written.len(), 2, "{written:?}");
    let (request, reward) = reward_of(&written[1]);
    let evaluation = written[0].id;
    assert_eq!((request.id, request.book.as_str()), (p2_core::ledger::reward_id(reward), "main"));
    assert_eq!((request.cause.kind, request.cause.reference), (CauseKind::Evaluation, Some(evaluation)));
    let PaymentCause { conversation, agent, branch, .. } = &request.cause;
    assert_eq!(conversation.as_ref().unwrap().as_str(), "talk");
    assert_eq!((agent.as_ref().unwrap().as_str(), branch.as_ref().unwrap()), ("alpha", &BranchId::main()));
    assert_eq!((reward.target, reward.evaluation, reward.score), (target(), evaluation, 0.75));
    assert_eq!((reward.payee.as_str(), reward.occasion.clone()), ("alpha", target().to_string()));
    // The same work judged once more is the same reward, in a record of its own.
    let again = rig.take(&asks("again", "paid", "after lunch")).await;
    assert_eq!(again.len(), 1, "there is no model left to say anything: {again:?}");
    let rig = self::rig(&[GOOD, GOOD]);
    rig.talk("talk", chat()).await;
    rig.settle(&asks("ask", "paid", FIRST)).await;
    let again = rig.settle(&asks("again", "paid", "after lunch")).await;
    assert_eq!(reward_of(&again[1]).0.id, request.id);
    assert_ne!(again[1].id, written[1].id);
    assert_eq!(rig.settle(&asks("ask", "paid", FIRST)).await.len(), 1, "kept: an answer and no reward");
}

#[tokio::test(start_paused = true)]
async fn a_reward_may_be_for_another_metric_in_another_book_on_another_occasion() {
    let rig = rig(&[GOOD, r#"{"score": 1, "metrics": {"wit": 1.5}, "comment": ""}"#]);
    rig.talk("talk", chat()).await;
    rig.talk("more", vec![user("Say it."), assistant("It.")]).await;
    let written = rig.take(&asks("ask", "witty", FIRST)).await;
    let (request, reward) = reward_of(&written[1]);
    assert_eq!((request.book.as_str(), reward.metric.as_str(), reward.score), ("prizes", "wit", 0.5));
    assert_eq!(reward.occasion, "spring");
    // What is out of range is not paid, and never as if it were 1.
    let data = json!({"evaluator": "witty", "occasion": FIRST, "entry": 1});
    let written = rig.take(&event("over", "more", REQUESTED, data)).await;
    assert_eq!((written.len(), evaluation(&written[0]).metric("wit")), (1, Some(1.5)));
}

#[tokio::test(start_paused = true)]
async fn what_a_conversation_earns_is_in_its_own_book_where_it_has_one() {
    let rig = rig(&[GOOD]);
    rig.talk("talk", chat()).await;
    rig.move_to("talk", "trial").await;
    let written = rig.take(&asks("ask", "witty", FIRST)).await;
    assert_eq!(reward_of(&written[1]).0.book.as_str(), "trial");
    let written = but_echo(rig.take(&verdict(|_, _| {})).await);
    assert_eq!(reward_of(&written[0]).0.book.as_str(), "trial", "what somebody else judged, too");
}

#[tokio::test(start_paused = true)]
async fn a_judgement_that_failed_earns_nothing() {
    let rig = rig(&["no", "no", "no", "no"]);
    rig.talk("talk", chat()).await;
    let written = rig.take(&asks("ask", "paid", FIRST)).await;
    assert_eq!((written.len(), evaluation(&written[0]).outcome()), (1, "unreadable_reply"));
}

#[tokio::test(start_paused = true)]
async fn a_record_in_the_name_of_an_evaluator_of_the_engine_earns_nothing_and_lends_nobody_its_score() {
    let rig = rig(&[r#"{"score": 0.1, "comment": "Poor."}"#, GOOD]);
    rig.talk("talk", chat()).await;
    rig.talk("twin", chat()).await;
    // A stranger knows the content of a genuine judgement and writes a better one under another target's id.
    let genuine = rig.settle(&asks("ask", "paid", FIRST)).await;
    let content = evaluation(&genuine[0]).content.clone();
    let fresh = rig_of(vec![says(r#"{"score": 0.1, "comment": "Poor."}"#)], false);
    fresh.talk("twin", chat()).await;
    let forged = verdict(|artifact, evaluation| {
        evaluation.evaluator = "paid".into();
        evaluation.score = Some(1.0);
        evaluation.content = content;
        artifact.id = evaluation_id(&target(), "paid", 3, FIRST);
        artifact.conversation = "twin".into();
    });
    fresh.commit(std::slice::from_ref(&forged)).await;
    assert_eq!(but_echo(fresh.take(&forged).await), [], "it is nothing to this processor");
    let data = json!({"evaluator": "paid", "occasion": FIRST, "entry": 1});
    let written = fresh.take(&event("twin ask", "twin", REQUESTED, data)).await;
    let (_, reward) = reward_of(&written[1]);
    assert_eq!((reward.score, evaluation(&written[0]).same_as), (0.1, None), "judged, not repeated");
}

#[tokio::test(start_paused = true)]
async fn what_a_trusted_outsider_judged_is_paid_for_once_its_target_is_found() {
    let rig = rig(&[]);
    rig.talk("talk", chat()).await;
    for content in [String::new(), hex::encode(<sha2::Sha256 as sha2::Digest>::digest("4"))] {
        let record = verdict(|_, evaluation| evaluation.content = content);
        let written = but_echo(rig.take(&record).await);
        let (request, reward) = reward_of(&written[0]);
        assert_eq!((reward.score, request.cause.reference), (0.9, Some(record.id)));
        assert_eq!((reward.payee.as_str(), written.len()), ("alpha", 1));
    }
    let failed = verdict(|_, evaluation| evaluation.score = None);
    assert_eq!(but_echo(rig.take(&failed).await), [], "there is nothing to pay for");
}

#[tokio::test(start_paused = true)]
async fn a_forged_evaluation_record_pays_nobody_and_says_why() {
    let rig = rig(&[]);
    rig.talk("talk", chat()).await;
    type Forgery = fn(&mut Artifact, &mut Evaluation);
    let forgeries: [(Forgery, &str); 11] = [
        (|_, e| e.version = 9, "has no version 9"),
        (|a, _| a.agent = Some("mallory".into()), "does not judge agent 'mallory'"),
        (|a, _| a.conversation = "elsewhere".into(), "is not that of the place"),
        (|a, _| a.entry = Some(0), "is not that of the place"),
        (|a, _| a.entry = None, "names no agent, branch and entry"),
        (|_, e| e.occasion = "another".into(), "its id must be"),
        (|a, _| a.id = Id::of_text("mine"), "its id must be"),
        (|_, e| e.score = Some(1.5), "not from 0 to 1"),
        (|_, e| e.score = Some(f64::NAN), "not from 0 to 1"),
        (|_, e| e.samples = 0, "no judgement that counts"),
        (|_, e| e.content = "abc".into(), "not the hash of what is there"),
    ];
    for (forge, expected) in forgeries {
        let why = refusal(&but_echo(rig.take(&verdict(forge)).await));
        assert!(why.contains(expected), "{expected}: {why}");
    }
    // The place is as it should be, and nothing is there.
    let nowhere = |branch: &str, entry| {
        let (branch, conversation) = (BranchId::from(branch), "talk".into());
        let place = Place { conversation, agent: "alpha".into(), branch, entry };
        verdict(|artifact, evaluation| {
            evaluation.target = place.target();
            artifact.id = evaluation_id(&place.target(), "jury", 3, FIRST);
            artifact.branch = Some(place.branch);
            artifact.entry = Some(entry);
        })
    };
    for record in [nowhere("main", 7), nowhere("other", 1)] {
        let why = refusal(&but_echo(rig.take(&record).await));
        assert!(why.contains("cannot be read"), "{why}");
    }
    let nobodys = verdict(|_, evaluation| evaluation.evaluator = "outside".into());
    assert_eq!(but_echo(rig.take(&nobodys).await), [], "it has no rewards");
}

#[test]
fn rewards_end_with_a_version_that_has_none() {
    let mut registry = Registry::clone(&registry());
    let file = "{kind: evaluator, id: jury, type: topic}\n---\n{kind: evaluator, id: paid, type: exact, expected: x}";
    for definition in parse_file(file, "e.yml").unwrap() {
        registry.insert(definition, 4);
    }
    let record = verdict(|_, _| {});
    let Payload::Artifact(artifact) = &record.payload else { panic!() };
    let claim = p2_core::eval::reward::claim(&registry, record.id, artifact, evaluation(&record));
    assert_eq!(claim, Ok(None));
    assert_eq!(p2_core::eval::reward::rewards(&registry, "paid", 3), None);
}
