//! The real port of the evaluator in virtual time, on what the simulated log and store show, and who looks at what it
//! comes to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use evaluator::{Evaluators, JudgePort, JudgeRequest, Ruling};
use futures::future::BoxFuture;
use p2_core::ids::{AgentId, BranchId, ConversationId};
use p2_core::model::{ModelError, ModelErrorClass, ModelOutcome, ModelReply, ModelRequest};
use p2_core::record::*;
use p2_core::registry::Registry;
use p2_core::state::Entry;
use p2_sim::{Asked, CallAnswer, Outside, Port, Shape, SimLog, SimStore};
use p2_stream::ports::{
    ConversationSummary, Follower, Log, LogError, Member, Model, NewRecord, StackStore, StoreError,
    StoredRecord,
};
use p2_stream::wire;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;

use super::model::digest;

/// Log and store as a judge sees them, as far as it looks at them.
#[derive(Default)]
struct Shown {
    /// Evaluations that a reader of committed records has come by, in that order, as if in one partition.
    evaluations: Vec<StoredRecord>,
    /// Up to where each partition was looked at: its last stable offset.
    next: BTreeMap<i32, i64>,
    /// The high watermark of each.
    high: BTreeMap<i32, i64>,
    rows: BTreeMap<(i32, i64), StateTransition>,
}

/// What all judges of a run see.
#[derive(Clone, Default)]
pub(crate) struct View(Arc<Mutex<Shown>>);

impl View {
    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes in what log and store show now.
    pub(crate) fn look(&self, log: &SimLog, store: &SimStore) {
        let mut shown = self.shown();
        let mut there = BTreeSet::new();
        for partition in 0..log.count {
            let from = shown.next.get(&partition).copied().unwrap_or(0);
            for (_, message, shape) in log.read(Topic::Artifacts, partition, from, i64::MAX) {
                let Payload::Artifact(artifact) = &message.payload else { continue };
                if shape == Shape::Plain && matches!(artifact.body, ArtifactBody::Evaluation(_)) {
                    let record = wire::encode(message, "sim", 1).expect("what was written can be written");
                    let offset = i64::try_from(shown.evaluations.len()).unwrap_or(i64::MAX);
                    shown.evaluations.push(StoredRecord { offset, record });
                }
            }
            shown.next.insert(partition, log.stable(Topic::Artifacts, partition));
            shown.high.insert(partition, log.high(Topic::Artifacts, partition));
            for (offset, row) in store.rows(partition) {
                there.insert((partition, offset));
                shown.rows.entry((partition, offset)).or_insert_with(|| row.clone());
            }
        }
        if shown.rows.len() > there.len() {
            shown.rows.retain(|at, _| there.contains(at));
        }
    }
}

fn not_here<T>() -> Result<T, LogError> {
    Err(LogError::Refused("a judge only reads".to_owned()))
}

fn nor_here<T>() -> Result<T, StoreError> {
    Err(StoreError::Foreign("a judge only loads".to_owned()))
}

#[async_trait]
impl Log for View {
    fn partitions(&self, _: Topic) -> i32 {
        1
    }

    async fn append(&self, _: Vec<NewRecord>) -> Result<Vec<Position>, LogError> {
        not_here()
    }

    /// As a reader of committed records: what was written when it began to read, it waits for until it is decided.
    async fn read(&self, _: Topic, _: i32, from: i64, max: usize) -> Result<Vec<StoredRecord>, LogError> {
        let from = usize::try_from(from).unwrap_or(0);
        let high = self.shown().high.clone();
        loop {
            {
                let shown = self.shown();
                let found: Vec<StoredRecord> =
                    shown.evaluations.iter().skip(from).take(max).cloned().collect();
                if !found.is_empty()
                    || high.iter().all(|(partition, high)| shown.next.get(partition) >= Some(high))
                {
                    return Ok(found);
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn bounds(&self, _: Topic, _: i32) -> Result<(i64, i64), LogError> {
        // Of what is not decided, nobody knows yet how much it is.
        let shown = self.shown();
        let undecided = if shown.next == shown.high { 0 } else { 1_000_000 };
        Ok((0, i64::try_from(shown.evaluations.len() + undecided).unwrap_or(i64::MAX)))
    }

    async fn offset_at(&self, _: Topic, _: i32, _: i64) -> Result<i64, LogError> {
        Ok(0)
    }

    async fn follow(&self, _: Vec<(Topic, i32, i64)>) -> Result<Box<dyn Follower>, LogError> {
        not_here()
    }

    async fn join(&self, _: &str, _: &[Topic]) -> Result<Box<dyn Member>, LogError> {
        not_here()
    }
}

#[async_trait]
impl StackStore for View {
    async fn write(&self, _: i32, _: Vec<(i64, StateTransition)>, _: i64) -> Result<(), StoreError> {
        nor_here()
    }

    async fn applied(&self, _: i32) -> Result<i64, StoreError> {
        nor_here()
    }

    async fn load(&self, conversation: &ConversationId) -> Result<Vec<StateTransition>, StoreError> {
        let shown = self.shown();
        let own = shown.rows.values().filter(|row| row.conversation == *conversation);
        let mut rows: Vec<StateTransition> = own.cloned().collect();
        rows.sort_by_key(|row| row.seq);
        Ok(rows)
    }

    async fn tail(
        &self,
        _: &ConversationId,
        _: &AgentId,
        _: &BranchId,
        _: i64,
        _: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        nor_here()
    }

    async fn open(&self, _: i32) -> Result<Vec<ConversationId>, StoreError> {
        nor_here()
    }

    async fn list(
        &self,
        _: Option<&ConversationId>,
        _: usize,
    ) -> Result<Vec<ConversationSummary>, StoreError> {
        nor_here()
    }

    async fn wipe(&self) -> Result<(), StoreError> {
        nor_here()
    }
}

/// A model that judges, each time anew: who is asked twice gives two scores.
struct Judge {
    seed: u64,
    asked: AtomicU32,
}

#[async_trait]
impl Model for Judge {
    async fn ask(&self, request: &ModelRequest, _: i64) -> ModelOutcome {
        let attempt = self.asked.fetch_add(1, Ordering::Relaxed);
        let mut rng = SmallRng::seed_from_u64(digest(self.seed, request, attempt));
        let slow = rng.random_range(0..20) == 0;
        let latency_ms: i64 = if slow { 9_000 } else { rng.random_range(1..1_500) };
        tokio::time::sleep(Duration::from_millis(latency_ms.unsigned_abs())).await;
        let text = match rng.random_range(0..10) {
            0 => "I would say it is fine".to_owned(),
            1 => r#"{"score": 7, "comment": ""}"#.to_owned(),
            _ => format!(
                r#"{{"score": {}, "comment": "as it is"}}"#,
                f64::from(rng.random_range(0..=20)) / 20.0
            ),
        };
        let reply = ModelReply {
            text: Some(text),
            prompt_tokens: Some(20),
            completion_tokens: Some(5),
            ..ModelReply::default()
        };
        let error = ModelError {
            class: ModelErrorClass::Permanent,
            code: "http_500".to_owned(),
            message: "the simulated judge fails".to_owned(),
        };
        let result = if rng.random_range(0..12) == 0 { Err(error) } else { Ok(reply) };
        ModelOutcome { result, latency_ms, attempts: 1 }
    }
}

/// The judges of one process.
pub(crate) struct Judges {
    port: JudgePort,
    clock: Arc<AtomicI64>,
    /// Its time stands still but for what it is told.
    runtime: Runtime,
    told_ms: i64,
    /// Token → what is under way, and when it is looked at again.
    running: BTreeMap<u64, (i64, BoxFuture<'static, Vec<Ruling>>)>,
}

impl Judges {
    pub(crate) fn new(seed: u64, view: &View, registry: &Arc<Registry>) -> Judges {
        let clock = Arc::new(AtomicI64::new(0));
        let now = clock.clone();
        let model = Arc::new(Judge { seed, asked: AtomicU32::default() });
        let (store, log) = (Arc::new(view.clone()), Arc::new(view.clone()));
        let registry = registry.clone();
        let now = Arc::new(move || now.load(Ordering::Relaxed));
        let port = JudgePort::new(model, store, log, move || registry.clone(), now);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without any IO");
        Judges { port, clock, runtime, told_ms: 0, running: BTreeMap::new() }
    }
}

impl Port<Evaluators> for Judges {
    fn answer(
        &mut self,
        asked: &Asked<'_, JudgeRequest>,
        outside: &mut Outside,
        _: &mut SmallRng,
    ) -> CallAnswer<Vec<Ruling>> {
        self.clock.store(asked.now_ms, Ordering::Relaxed);
        // The clock of a process may be set back; time passes all the same.
        let passed = Duration::from_millis(u64::try_from(asked.now_ms - self.told_ms).unwrap_or(0));
        self.told_ms = self.told_ms.max(asked.now_ms);
        let (pause_ms, mut judging) = self.running.remove(&asked.token).unwrap_or_else(|| {
            outside.count("judge asked");
            let (port, request) = (self.port.clone(), asked.request.clone());
            let deadline_ms = asked.deadline_ms;
            (5, Box::pin(async move { port.judge(&request, deadline_ms).await }))
        });
        let ruled = self.runtime.block_on(async {
            tokio::time::advance(passed).await;
            match futures::poll!(&mut judging) {
                std::task::Poll::Ready(ruled) => Some(ruled),
                std::task::Poll::Pending => None,
            }
        });
        match ruled {
            Some(ruled) => CallAnswer::After(0, ruled),
            None => {
                self.running.insert(asked.token, ((pause_ms * 2).min(400), judging));
                CallAnswer::Again(pause_ms)
            }
        }
    }

    /// It keeps its deadlines itself.
    fn cut(&self, _: &JudgeRequest, _: bool) -> Option<Vec<Ruling>> {
        None
    }
}
