//! The engine: runtime, shell and log with a processor that copies.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{
    Appended, Artifact, ArtifactBody, BranchStatus, Change, EntryAppended, InboxBody, InboxMessage, Message,
    Payload, StateTransition, Topic, UserText,
};
use p2_core::state::{Entry, State, UserMessage};
use p2_stream::memory::MemoryStore;
use p2_stream::metrics::Metrics;
use p2_stream::ports::{Log, NewRecord};
use p2_stream::processor::{Call, LaneInput, LaneStep, Mark, Processor};
use p2_stream::runtime::{Limits, Start};
use p2_stream::shell::{self, CallPort, Setup, ShellError, Views, now_ms};
use p2_stream::wire::{self, ProcessorWire};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Every record of `inbox` becomes one of `artifacts`: at once, after a call, or never but with a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copier {
    AtOnce,
    AfterCall,
    WithView,
}

/// The text of a record's body.
const TEXT_BYTES: usize = 400;

/// A record of `inbox`.
pub(crate) fn input(number: usize, partitions: i32) -> NewRecord {
    let id = Id::of_text(&format!("input {number}"));
    let text = "x".repeat(TEXT_BYTES);
    let body = InboxBody::UserText(UserText { agent: None, branch: None, text });
    let conversation = ConversationId::from(format!("conversation-{}", number % 500).as_str());
    let payload = Payload::Inbox(InboxMessage { conversation, body });
    let message =
        Message { id, cause: id, cause_position: None, time_ms: now_ms(), traceparent: None, payload };
    wire::encode(&message, "/bench", partitions).unwrap()
}

/// A record of `state-transitions`: one more entry of one of 500 conversations.
pub(crate) fn transition(number: usize, partitions: i32) -> NewRecord {
    let id = Id::of_text(&format!("transition {number}"));
    let seq = i64::try_from(number / 500).unwrap();
    let text = "x".repeat(TEXT_BYTES);
    let state = State::UserMessage(UserMessage { text, origin: None });
    let entries = vec![Entry { seq, id, time_ms: now_ms(), state }];
    let transition = StateTransition {
        id,
        conversation: ConversationId::from(format!("conversation-{}", number % 500).as_str()),
        seq,
        previous: None,
        agent: AgentId::from("agent"),
        branch: BranchId::from("main"),
        input: id,
        changes: vec![Change::Appended(Appended { entries })],
        head: seq,
        status: BranchStatus::Idle,
        time_ms: now_ms(),
    };
    let payload = Payload::Transition(transition);
    let message =
        Message { id, cause: id, cause_position: None, time_ms: now_ms(), traceparent: None, payload };
    wire::encode(&message, "/bench", partitions).unwrap()
}

fn copied(message: &Message, now_ms: i64) -> Option<Message> {
    let Payload::Inbox(InboxMessage { conversation, body: InboxBody::UserText(text) }) = &message.payload
    else {
        return None;
    };
    let artifact = Artifact {
        id: message.id,
        conversation: conversation.clone(),
        agent: None,
        branch: None,
        entry: None,
        parents: Vec::new(),
        time_ms: now_ms,
        body: ArtifactBody::EntryAppended(EntryAppended { state: text.text.clone() }),
    };
    Some(Message {
        id: message.id,
        cause: message.id,
        cause_position: message.cause_position,
        time_ms: now_ms,
        traceparent: None,
        payload: Payload::Artifact(artifact),
    })
}

impl Processor for Copier {
    type Lane = Option<Message>;
    type Request = Id;
    type Reply = ();

    fn name(&self) -> &'static str {
        "copier"
    }

    fn input(&self) -> Topic {
        Topic::Inbox
    }

    fn view(&self) -> Option<Topic> {
        (*self == Copier::WithView).then_some(Topic::StateTransitions)
    }

    fn lane_key(&self, message: &Message) -> String {
        message.id.to_string()
    }

    fn decide(&self, _: &str, lane: &Option<Message>, input: &LaneInput<()>, now_ms: i64) -> LaneStep<Id> {
        let mut step =
            LaneStep { outputs: Vec::new(), calls: Vec::new(), cancel: Vec::new(), mark: Mark::Done };
        match (input, self) {
            (LaneInput::Record(message) | LaneInput::Claimed(message), Copier::AfterCall) => {
                step.calls.push(Call { id: message.id, deadline_ms: now_ms + 60_000, request: message.id });
                step.mark = Mark::Pending;
            }
            (LaneInput::Record(message) | LaneInput::Claimed(message), _) => {
                step.outputs.extend(copied(message, now_ms));
            }
            _ => step.outputs.extend(lane.as_ref().and_then(|message| copied(message, now_ms))),
        }
        step
    }

    fn apply(&self, lane: &mut Option<Message>, message: &Message) -> Result<(), String> {
        if matches!(message.payload, Payload::Inbox(_)) && *self == Copier::AfterCall {
            *lane = Some(message.clone());
        }
        Ok(())
    }

    fn open_calls(&self, _: &Option<Message>) -> Vec<Call<Id>> {
        Vec::new()
    }

    fn timers(&self, _: &Option<Message>) -> Vec<(Id, i64)> {
        Vec::new()
    }
}

struct Slow;

#[async_trait]
impl CallPort<Copier> for Slow {
    async fn call(&self, _: Id, _: Id, _: i64) {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// A processor that runs until it is stopped.
pub(crate) struct Engine {
    stop: watch::Sender<bool>,
    ended: JoinHandle<Result<(), ShellError>>,
}

impl Engine {
    pub(crate) fn start(log: Arc<dyn Log>, copier: Copier, store: &MemoryStore, limits: Limits) -> Engine {
        let (stop, stopped) = watch::channel(false);
        let wire = ProcessorWire::new("copier", |topic| log.partitions(topic));
        let setup = Setup {
            log,
            views: Views::Stacks(Arc::new(store.clone())),
            wire: Arc::new(wire),
            limits: Limits { start: Start::Earliest, ..limits },
            nonce: 1,
            stop: stopped,
            drain: Duration::from_secs(5),
            metrics: Metrics::default(),
        };
        Engine { stop, ended: tokio::spawn(shell::run(copier, Arc::new(Slow), setup)) }
    }

    pub(crate) async fn stop(self) {
        self.stop.send(true).unwrap();
        self.ended.await.unwrap().unwrap();
    }
}
