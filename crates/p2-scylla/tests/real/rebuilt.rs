//! A processor that runs while its view is rebuilt: it goes over to the new generation without a restart.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use p2_core::ids::{ConversationId, Id};
use p2_core::record::{InboxBody, InboxMessage, Message, Payload, StateTransition, Topic, UserText};
use p2_scylla::CqlStore;
use p2_stream::memory::MemoryLog;
use p2_stream::metrics::Metrics;
use p2_stream::ports::{Log, NewRecord, StackStore};
use p2_stream::processor::{Call, LaneInput, LaneStep, Mark, Processor};
use p2_stream::runtime::{Limits, Start};
use p2_stream::shell::{CallPort, Setup, Views, Wire, run};
use p2_stream::wire::{ProcessorWire, encode};
use tokio::sync::watch;

use crate::made::{said, transition};
use crate::server::{open, server, until};

/// Answers each record with the next transition of its conversation.
struct Folding;

struct NoCalls;

#[async_trait]
impl CallPort<Folding> for NoCalls {
    async fn call(&self, _id: Id, _request: (), _deadline_ms: i64) {}
}

impl Processor for Folding {
    /// The next `seq`.
    type Lane = i64;
    type Request = ();
    type Reply = ();

    fn name(&self) -> &'static str {
        "folding"
    }

    fn input(&self) -> Topic {
        Topic::Inbox
    }

    fn view(&self) -> Option<Topic> {
        Some(Topic::StateTransitions)
    }

    fn lane_key(&self, message: &Message) -> String {
        message.payload.key().to_owned()
    }

    fn decide(&self, key: &str, seq: &i64, input: &LaneInput<()>, now_ms: i64) -> LaneStep<()> {
        let outputs = match input {
            LaneInput::Record(_) => {
                let made = transition(key, *seq, vec![said(*seq, "again")]);
                let payload = Payload::Transition(made.clone());
                let (id, cause) = (made.id, made.input);
                vec![Message { id, cause, cause_position: None, time_ms: now_ms, traceparent: None, payload }]
            }
            _ => Vec::new(),
        };
        LaneStep { outputs, calls: Vec::new(), cancel: Vec::new(), mark: Mark::Done }
    }

    fn apply(&self, next: &mut i64, message: &Message) -> Result<(), String> {
        let Payload::Transition(transition) = &message.payload else { return Ok(()) };
        if transition.seq != *next {
            return Err(format!("{} where {next} was due", transition.seq));
        }
        *next += 1;
        Ok(())
    }

    fn open_calls(&self, _lane: &i64) -> Vec<Call<()>> {
        Vec::new()
    }

    fn timers(&self, _lane: &i64) -> Vec<(Id, i64)> {
        Vec::new()
    }
}

const PARTITIONS: i32 = 2;

fn text(n: usize) -> NewRecord {
    let key = format!("conversation-{}", n % 7);
    let id = Id::derive(&Id::of_text(&key), "text", u32::try_from(n).unwrap());
    let body = InboxBody::UserText(UserText { agent: None, branch: None, text: n.to_string() });
    let payload = Payload::Inbox(InboxMessage { conversation: ConversationId(key), body });
    let message = Message { id, cause: id, cause_position: None, time_ms: 1, traceparent: None, payload };
    encode(&message, "test", PARTITIONS).unwrap()
}

async fn transitions(log: &MemoryLog, partition: i32) -> Vec<(i64, StateTransition)> {
    let wire = ProcessorWire::new("folding", |_| PARTITIONS);
    let found = log.read(Topic::StateTransitions, partition, 0, 100_000).await.unwrap();
    found.iter().map(|stored| (stored.offset, wire.transition(stored).unwrap())).collect()
}

/// Waits until the store has the log, and compares every conversation.
async fn level(log: &MemoryLog, store: &CqlStore, records: usize) {
    let mut all = Vec::new();
    until("all is decided", async || {
        all.clear();
        for partition in 0..PARTITIONS {
            all.extend(transitions(log, partition).await.into_iter().map(|(_, transition)| transition));
        }
        all.len() == records
    })
    .await;
    for partition in 0..PARTITIONS {
        let end = log.bounds(Topic::StateTransitions, partition).await.unwrap().1;
        until("the view is level", async || store.applied(partition).await.unwrap_or(0) == end).await;
    }
    for n in 0..7 {
        let conversation = ConversationId(format!("conversation-{n}"));
        let mut expected: Vec<_> =
            all.iter().filter(|made| made.conversation == conversation).cloned().collect();
        expected.sort_by_key(|made| made.seq);
        assert!(expected.iter().map(|made| made.seq).eq(0..expected.len() as i64), "none twice");
        assert_eq!(store.load(&conversation).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_processor_that_runs_goes_over_to_the_generation_that_was_rebuilt_beside_it() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let options = server.keyspace().await;
    let (log, owner) = (MemoryLog::new(PARTITIONS), open(&options).await.unwrap());
    let (stop, stopped) = watch::channel(false);
    let setup = Setup {
        log: Arc::new(log.clone()),
        views: Views::Stacks(Arc::new(owner.clone())),
        wire: Arc::new(ProcessorWire::new("folding", |_| PARTITIONS)),
        limits: Limits { start: Start::Earliest, lanes_max: 3, ..Limits::default() },
        nonce: 1,
        stop: stopped,
        drain: Duration::from_secs(20),
        metrics: Metrics::new(),
    };
    let running = tokio::spawn(run(Folding, Arc::new(NoCalls), setup));
    log.append((0..100).map(text).collect()).await.unwrap();
    level(&log, &owner, 100).await;

    // Somebody else rebuilds it, up to what the log has by then; the processor works on all the while.
    let rebuilder = open(&options).await.unwrap();
    let next = rebuilder.begin_rebuild().await.unwrap();
    for partition in 0..PARTITIONS {
        let rows = transitions(&log, partition).await;
        let applied = rows.last().map_or(0, |(offset, _)| offset + 1);
        next.write(partition, rows, applied).await.unwrap();
    }
    log.append((100..150).map(text).collect()).await.unwrap();
    level(&log, &owner, 150).await;
    rebuilder.switch(&next).await.unwrap();
    for n in 150..200 {
        log.append(vec![text(n)]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    level(&log, &open(&options).await.unwrap(), 200).await;
    until("the owner follows", async || owner.generation() == next.generation()).await;
    rebuilder.drop_generation(1).await.unwrap();
    log.append((200..230).map(text).collect()).await.unwrap();
    level(&log, &owner, 230).await;
    assert!(!running.is_finished());
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
}
