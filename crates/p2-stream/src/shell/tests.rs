use p2_core::ids::ConversationId;
use p2_core::json_text::JsonText;
use p2_core::record::{
    Artifact, ArtifactBody, Event as ArtifactEvent, InboxBody, InboxMessage, Payload, UserText,
};
use serde_json::json;

use super::*;
use crate::memory::{MemoryLog, MemoryStore};
use crate::processor::{Call, LaneInput, LaneStep, Mark};
use crate::runtime::Start;
use crate::wire::{ProcessorWire, encode};

/// Answers each record with one artifact of its conversation.
struct Echo {
    view: Option<Topic>,
}

impl Processor for Echo {
    type Lane = ();
    type Request = ();
    type Reply = ();

    fn name(&self) -> &'static str {
        "echo"
    }

    fn input(&self) -> Topic {
        Topic::Inbox
    }

    fn view(&self) -> Option<Topic> {
        self.view
    }

    fn lane_key(&self, message: &Message) -> String {
        message.id.to_string()
    }

    fn decide(&self, _key: &str, _lane: &(), input: &LaneInput<()>, _now_ms: i64) -> LaneStep<()> {
        let outputs = match input {
            LaneInput::Record(message) => vec![answer(message)],
            _ => Vec::new(),
        };
        LaneStep { outputs, calls: Vec::new(), cancel: Vec::new(), mark: Mark::Done }
    }

    fn apply(&self, _lane: &mut (), _message: &Message) -> Result<(), String> {
        Ok(())
    }

    fn open_calls(&self, _lane: &()) -> Vec<Call<()>> {
        Vec::new()
    }

    fn timers(&self, _lane: &()) -> Vec<(Id, i64)> {
        Vec::new()
    }
}

struct NoCalls;

#[async_trait]
impl CallPort<Echo> for NoCalls {
    async fn call(&self, _id: Id, _request: (), _deadline_ms: i64) {}
}

fn message(id: Id, payload: Payload) -> Message {
    Message { id, cause: id, cause_position: None, time_ms: 1, traceparent: None, payload }
}

fn answer(to: &Message) -> Message {
    let id = Id::derive(&to.id, "answer", 0);
    let body = ArtifactBody::Event(ArtifactEvent { name: "echo".into(), data: JsonText(json!({})) });
    let conversation = ConversationId::from(to.payload.key());
    let (agent, branch, entry, parents) = (None, None, None, Vec::new());
    message(
        id,
        Payload::Artifact(Artifact { id, conversation, agent, branch, entry, parents, time_ms: 1, body }),
    )
}

fn text(key: &str, number: u32) -> NewRecord {
    let id = Id::derive(&Id::of_text(key), "text", number);
    let body = InboxBody::UserText(UserText { agent: None, branch: None, text: number.to_string() });
    let payload = Payload::Inbox(InboxMessage { conversation: ConversationId::from(key), body });
    encode(&message(id, payload), "test", 4).unwrap()
}

/// Waits until there are so many answers, and returns how many there are for a key.
async fn answers(log: &MemoryLog, count: usize, key: &str) -> usize {
    for _ in 0..100_000 {
        let mut found = Vec::new();
        for partition in 0..4 {
            found.extend(log.read(Topic::Artifacts, partition, 0, 99).await.unwrap());
        }
        if found.len() >= count {
            return found.iter().filter(|stored| stored.record.key == key).count();
        }
        tokio::task::yield_now().await;
    }
    panic!("{count} answers did not come");
}

/// Runs the processor until the sender says stop.
fn start(
    view: Option<Topic>,
    log: &MemoryLog,
    store: MemoryStore,
) -> (tokio::task::JoinHandle<Result<(), ShellError>>, watch::Sender<bool>, Metrics) {
    let (stop, stopped) = watch::channel(false);
    let metrics = Metrics::new();
    let setup = Setup {
        log: Arc::new(log.clone()),
        store: Arc::new(store),
        wire: Arc::new(ProcessorWire::new("echo", |_| 4)),
        limits: Limits { start: Start::Earliest, ..Limits::default() },
        nonce: 1,
        stop: stopped,
        drain: Duration::from_secs(5),
        metrics: metrics.clone(),
    };
    (tokio::spawn(run(Echo { view }, Arc::new(NoCalls), setup)), stop, metrics)
}

#[tokio::test]
async fn a_store_that_is_ahead_of_its_log_halts_its_partition_and_no_other() {
    let (ahead, fits) = ("lost", "kept");
    let partition = text(ahead, 0).partition;
    assert_ne!(partition, text(fits, 0).partition, "the test wants two partitions");
    // The store was filled from a topic that had five records; the one of today has none.
    let (log, store) = (MemoryLog::new(4), MemoryStore::default());
    store.write(partition, Vec::new(), 5).await.unwrap();
    let (running, stop, metrics) = start(Some(Topic::StateTransitions), &log, store.clone());
    log.append(vec![text(ahead, 0), text(fits, 0), text(fits, 1)]).await.unwrap();
    assert_eq!(answers(&log, 2, fits).await, 2);
    for _ in 0..100_000 {
        if metrics.text(0).contains("halted") {
            break;
        }
        tokio::task::yield_now().await;
    }
    let halted = metrics.text(0);
    assert!(halted.lines().any(|line| line.contains("halted") && line.ends_with(" 1")), "{halted}");
    log.append(vec![text(ahead, 1), text(fits, 2)]).await.unwrap();
    assert_eq!(answers(&log, 3, ahead).await, 0, "nothing is decided on a view of another log");
    assert_eq!(store.applied(partition).await.unwrap(), 5, "and nothing is written to it");
    assert!(!running.is_finished());
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn records_deleted_before_they_were_processed_stop_their_partition_and_no_other() {
    let log = MemoryLog::new(4);
    let (running, stop, _) = start(None, &log, MemoryStore::default());
    let (lost, kept) = ("lost", "kept");
    let partition = text(lost, 0).partition;
    assert_ne!(partition, text(kept, 0).partition, "the test wants two partitions");
    log.append(vec![text(lost, 0), text(kept, 0)]).await.unwrap();
    assert_eq!(answers(&log, 2, lost).await, 1);
    // Nothing here gives way to the processor: when it looks, its next records are gone.
    log.append(vec![text(lost, 1), text(lost, 2)]).await.unwrap();
    log.delete_before(Topic::Inbox, partition, 2);
    log.append(vec![text(kept, 1)]).await.unwrap();
    assert_eq!(answers(&log, 3, lost).await, 1, "what is left behind a hole is not processed");
    log.append(vec![text(lost, 3), text(kept, 2), text(kept, 3)]).await.unwrap();
    assert_eq!(answers(&log, 5, lost).await, 1);
    assert_eq!(answers(&log, 5, kept).await, 4);
    assert!(!running.is_finished());
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
}
