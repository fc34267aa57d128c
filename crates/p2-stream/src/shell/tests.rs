use std::sync::atomic::{AtomicUsize, Ordering};

use p2_core::ids::{AgentId, BranchId, ConversationId};
use p2_core::json_text::JsonText;
use p2_core::record::{
    Artifact, ArtifactBody, BranchStatus, Event as ArtifactEvent, InboxBody, InboxMessage, Payload, UserText,
};
use p2_core::state::Entry;
use serde_json::json;

use super::*;
use crate::memory::{MemoryLog, MemoryStore};
use crate::ports::{ConversationSummary, StackStore, StoreError};
use crate::processor::{Call, LaneInput, LaneStep, Mark};
use crate::runtime::Start;
use crate::wire::{ProcessorWire, encode};

/// Answers each record with one artifact of its conversation.
pub(super) struct Echo {
    pub(super) view: Option<Topic>,
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

pub(super) struct NoCalls;

#[async_trait]
impl<P: Processor<Request = (), Reply = ()>> CallPort<P> for NoCalls {
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

pub(super) fn text(key: &str, number: u32) -> NewRecord {
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

pub(super) type Running = (tokio::task::JoinHandle<Result<(), ShellError>>, watch::Sender<bool>, Metrics);

/// Runs an echo until the sender says stop.
pub(super) fn start(view: Option<Topic>, log: &MemoryLog, store: MemoryStore) -> Running {
    start_processor(Echo { view }, log, Arc::new(store))
}

fn start_processor<P>(processor: P, log: &MemoryLog, store: Arc<dyn StackStore>) -> Running
where
    P: Processor + Send + 'static,
    P::Lane: Send,
    P::Request: Send + Sync + 'static,
    P::Reply: Send + 'static,
    NoCalls: CallPort<P>,
{
    start_on(processor, Arc::new(log.clone()), store)
}

pub(super) fn start_on<P>(processor: P, log: Arc<dyn Log>, store: Arc<dyn StackStore>) -> Running
where
    P: Processor + Send + 'static,
    P::Lane: Send,
    P::Request: Send + Sync + 'static,
    P::Reply: Send + 'static,
    NoCalls: CallPort<P>,
{
    let (stop, stopped) = watch::channel(false);
    let metrics = Metrics::new();
    let setup = Setup {
        log,
        views: Views::Stacks(store),
        wire: Arc::new(ProcessorWire::new("echo", |_| 4)),
        limits: Limits { start: Start::Earliest, ..Limits::default() },
        nonce: 1,
        stop: stopped,
        drain: Duration::from_secs(5),
        metrics: metrics.clone(),
    };
    (tokio::spawn(run(processor, Arc::new(NoCalls), setup)), stop, metrics)
}

/// Looks again and again until it is so.
async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000_000 {
        if look().await {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it did not come to that: {what}");
}

/// A store with generations: a handle that has written one stays with it until it follows.
#[derive(Default)]
struct Generations {
    stores: [MemoryStore; 2],
    /// The one that is read.
    current: AtomicUsize,
    /// The one of this handle.
    ours: AtomicUsize,
    follows: AtomicUsize,
}

impl Generations {
    fn ours(&self) -> Result<&MemoryStore, StoreError> {
        let ours = self.ours.load(Ordering::SeqCst);
        if ours != self.current.load(Ordering::SeqCst) {
            return Err(StoreError::Rebuilt("another generation is read now".to_owned()));
        }
        Ok(&self.stores[ours])
    }
}

#[async_trait]
impl StackStore for Generations {
    async fn write(
        &self,
        partition: i32,
        transitions: Vec<(i64, StateTransition)>,
        applied: i64,
    ) -> Result<(), StoreError> {
        self.ours()?.write(partition, transitions, applied).await
    }

    async fn applied(&self, partition: i32) -> Result<i64, StoreError> {
        self.ours()?.applied(partition).await
    }

    async fn load(&self, conversation: &ConversationId) -> Result<Vec<StateTransition>, StoreError> {
        self.ours()?.load(conversation).await
    }

    async fn tail(
        &self,
        conversation: &ConversationId,
        agent: &AgentId,
        branch: &BranchId,
        before: i64,
        entries_max: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.ours()?.tail(conversation, agent, branch, before, entries_max).await
    }

    async fn open(&self, partition: i32) -> Result<Vec<ConversationId>, StoreError> {
        self.ours()?.open(partition).await
    }

    async fn list(
        &self,
        after: Option<&ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationSummary>, StoreError> {
        self.ours()?.list(after, max).await
    }

    async fn wipe(&self) -> Result<(), StoreError> {
        self.ours()?.wipe().await
    }

    async fn follow(&self) -> Result<(), StoreError> {
        if self.follows.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(StoreError::Unavailable("just now".to_owned()));
        }
        self.ours.store(self.current.load(Ordering::SeqCst), Ordering::SeqCst);
        Ok(())
    }
}

/// Answers each record with the next transition of its conversation.
struct Folding;

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

    fn decide(&self, key: &str, seq: &i64, input: &LaneInput<()>, _now_ms: i64) -> LaneStep<()> {
        let outputs = match input {
            LaneInput::Record(record) => vec![next_of(key, *seq, record.id)],
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

fn next_of(key: &str, seq: i64, input: Id) -> Message {
    let id = Id::derive(&input, "transition", 0);
    let made = StateTransition {
        id,
        conversation: ConversationId::from(key),
        seq,
        previous: None,
        agent: AgentId::from("a"),
        branch: BranchId::main(),
        input,
        changes: Vec::new(),
        head: -1,
        status: BranchStatus::Idle,
        time_ms: 1,
    };
    message(id, Payload::Transition(made))
}

#[tokio::test]
async fn a_view_that_was_rebuilt_is_gone_over_to_by_a_running_processor() {
    let (log, store) = (MemoryLog::new(4), Arc::new(Generations::default()));
    let [old, new] = store.stores.clone();
    let partition = text("c", 0).partition;
    let (running, stop, _) = start_processor(Folding, &log, store.clone());
    log.append((0..3).map(|n| text("c", n)).collect()).await.unwrap();
    until("three are written", async || old.applied(partition).await.unwrap() == 3).await;
    // The rebuild has got as far as the second, and is read from now on.
    let rows = old.load(&ConversationId::from("c")).await.unwrap();
    new.write(partition, (0..).zip(rows.into_iter().take(2)).collect(), 2).await.unwrap();
    store.current.store(1, Ordering::SeqCst);
    log.append(vec![text("c", 3)]).await.unwrap();
    until("the new one is level", async || new.applied(partition).await.unwrap() == 4).await;
    log.append(vec![text("c", 4)]).await.unwrap();
    until("the new one is written on", async || new.applied(partition).await.unwrap() == 5).await;
    let seqs: Vec<i64> =
        new.load(&ConversationId::from("c")).await.unwrap().iter().map(|row| row.seq).collect();
    assert_eq!(seqs, [0, 1, 2, 3, 4], "no row is missing, and none was decided on an old view");
    assert_eq!(log.read(Topic::StateTransitions, partition, 0, 99).await.unwrap().len(), 5);
    assert_eq!(old.applied(partition).await.unwrap(), 3, "the old one is left alone");
    assert!(!running.is_finished());
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
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
    until("it is halted", async || metrics.text(0).contains("halted")).await;
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

/// A log that cannot be joined for a while.
struct Away {
    log: MemoryLog,
    refusals: AtomicUsize,
}

#[async_trait]
impl Log for Away {
    fn partitions(&self, topic: Topic) -> i32 {
        self.log.partitions(topic)
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<p2_core::record::Position>, LogError> {
        self.log.append(records).await
    }

    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        records_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.log.read(topic, partition, from, records_max).await
    }

    async fn bounds(&self, topic: Topic, partition: i32) -> Result<(i64, i64), LogError> {
        self.log.bounds(topic, partition).await
    }

    async fn follow(
        &self,
        from: Vec<(Topic, i32, i64)>,
    ) -> Result<Box<dyn crate::ports::Follower>, LogError> {
        self.log.follow(from).await
    }

    async fn join(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Member>, LogError> {
        let left = self.refusals.load(Ordering::SeqCst);
        if left > 0 {
            self.refusals.store(left - 1, Ordering::SeqCst);
            return Err(LogError::Unavailable("the broker went away".to_owned()));
        }
        self.log.join(group, topics).await
    }
}

#[tokio::test]
async fn a_log_that_is_away_when_a_processor_joins_is_waited_for() {
    let log = MemoryLog::new(4);
    log.append(vec![text("a", 0)]).await.unwrap();
    let away = Away { log: log.clone(), refusals: AtomicUsize::new(2) };
    let (running, stop, _) = start_on(Echo { view: None }, Arc::new(away), Arc::new(MemoryStore::default()));
    let partition = crate::wire::partition("a", 4);
    until("an answer", async || !log.read(Topic::Artifacts, partition, 0, 9).await.unwrap().is_empty()).await;
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_while_the_log_is_away_ends_in_order() {
    let away = Away { log: MemoryLog::new(4), refusals: AtomicUsize::new(usize::MAX) };
    let (running, stop, _) = start_on(Echo { view: None }, Arc::new(away), Arc::new(MemoryStore::default()));
    tokio::task::yield_now().await;
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
}
