//! What was judged before: the evaluations in the log, and those that are on their way there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use p2_core::ids::{ConversationId, Id};
use p2_core::record::{Artifact, ArtifactBody, Evaluation, Payload, Topic};
use p2_stream::ports::{Log, LogError, StoredRecord};
use p2_stream::wire;

/// Records read at a time.
const READ_RECORDS: usize = 1_000;
/// How much earlier than a target its evaluations are looked for: clocks of writers differ, and a record's time is
/// that of what led to it.
const SLACK_MS: i64 = 3_600_000;
/// Most evaluations that are remembered of one partition; beyond that it is read again when needed.
const IDS_MAX: usize = 500_000;
/// Most results that are remembered by content.
const CONTENTS_MAX: usize = 2_000;
/// Most results that are remembered until the log has them.
const ANSWERS_MAX: usize = 2_000;

/// The result of a judgement by what was judged: (content, evaluator, version).
pub(crate) type ContentKey = (String, String, i32);

/// A result that may stand for others of the same content.
#[derive(Clone, Debug)]
struct Outcome {
    id: Id,
    evaluation: Evaluation,
    /// Whether this process judged it itself.
    own: bool,
}

/// Evaluations of one partition of `artifacts`, read from the log.
#[derive(Debug, Default)]
struct Partition {
    /// Read from this offset …
    from: i64,
    /// … up to here; equal: nothing is read yet.
    next: i64,
    /// Everything from this time on is read.
    from_ms: Option<i64>,
    ids: BTreeSet<Id>,
}

/// A bounded map that forgets what came first.
#[derive(Debug)]
struct Recent<K, V> {
    values: BTreeMap<K, V>,
    order: VecDeque<K>,
    max: usize,
}

impl<K: Ord + Clone, V> Recent<K, V> {
    fn new(max: usize) -> Recent<K, V> {
        Recent { values: BTreeMap::new(), order: VecDeque::new(), max }
    }

    fn put(&mut self, key: K, value: V) {
        if self.values.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.max {
            if let Some(first) = self.order.pop_front() {
                self.values.remove(&first);
            }
        }
    }
}

/// What was judged before. Clones share it.
#[derive(Clone)]
pub(crate) struct Known {
    log: Arc<dyn Log>,
    partitions: Arc<Vec<tokio::sync::Mutex<Partition>>>,
    contents: Arc<Mutex<Recent<ContentKey, Outcome>>>,
    answers: Arc<Mutex<Recent<Id, Evaluation>>>,
    /// One at a time judges under one id.
    busy: Arc<Mutex<BTreeMap<Id, Arc<tokio::sync::Mutex<()>>>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    pub(crate) fn new(log: Arc<dyn Log>) -> Known {
        let count = log.partitions(Topic::Artifacts).max(0);
        Known {
            log,
            partitions: Arc::new((0..count).map(|_| tokio::sync::Mutex::default()).collect()),
            contents: Arc::new(Mutex::new(Recent::new(CONTENTS_MAX))),
            answers: Arc::new(Mutex::new(Recent::new(ANSWERS_MAX))),
            busy: Arc::default(),
        }
    }

    /// The lock under which one evaluation is made.
    pub(crate) fn lock(&self, id: Id) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = locked(&self.busy);
        // Whoever waits for a lock holds a second reference to it.
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        busy.entry(id).or_default().clone()
    }

    /// Whether the log has an evaluation of a target that was made at `time_ms`.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub(crate) async fn is_judged(
        &self,
        conversation: &ConversationId,
        time_ms: i64,
        id: &Id,
    ) -> Result<bool, LogError> {
        let index = self.partition_of(conversation);
        let Some(partition) = usize::try_from(index).ok().and_then(|at| self.partitions.get(at)) else {
            return Ok(false);
        };
        let mut partition = partition.lock().await;
        self.read_on(&mut partition, index, time_ms.saturating_sub(SLACK_MS)).await?;
        Ok(partition.ids.contains(id))
    }

    fn partition_of(&self, conversation: &ConversationId) -> i32 {
        wire::partition(conversation.as_str(), self.log.partitions(Topic::Artifacts))
    }

    async fn read_on(&self, partition: &mut Partition, index: i32, since_ms: i64) -> Result<(), LogError> {
        if partition.ids.len() > IDS_MAX {
            *partition = Partition::default();
        }
        let (start, end) = self.log.bounds(Topic::Artifacts, index).await?;
        if partition.from_ms.is_none_or(|from_ms| since_ms < from_ms) {
            let from = self.log.offset_at(Topic::Artifacts, index, since_ms).await?.max(start);
            let to = if partition.from_ms.is_some() { partition.from } else { end };
            let next = self.read(partition, index, from, to).await?;
            if partition.from_ms.is_none() {
                partition.next = next;
            }
            partition.from = from;
            partition.from_ms = Some(since_ms);
        }
        // What retention took meanwhile was read, or is of no interest any more.
        let from = partition.next.max(start);
        partition.next = self.read(partition, index, from, end).await?;
        Ok(())
    }

    /// Takes in the evaluations of [from, to), or up to where the log has committed records; gives the offset after
    /// the last one read.
    async fn read(&self, partition: &mut Partition, index: i32, from: i64, to: i64) -> Result<i64, LogError> {
        let mut next = from;
        while next < to {
            let records = self.log.read(Topic::Artifacts, index, next, READ_RECORDS).await?;
            let Some(last) = records.last() else { break };
            next = last.offset + 1;
            for (id, evaluation) in records.iter().filter_map(evaluation) {
                partition.ids.insert(id);
                self.remember(id, &evaluation, false);
            }
        }
        Ok(next)
    }

    /// Remembers a result by its content, where it is one that may stand for others. One that was read in the log
    /// does not take the place of one that was judged here.
    pub(crate) fn remember(&self, id: Id, evaluation: &Evaluation, own: bool) {
        if evaluation.score.is_some() && evaluation.same_as.is_none() && !evaluation.content.is_empty() {
            let key = (evaluation.content.clone(), evaluation.evaluator.clone(), evaluation.version);
            let mut contents = locked(&self.contents);
            if own || !contents.values.get(&key).is_some_and(|known| known.own) {
                contents.put(key, Outcome { id, evaluation: evaluation.clone(), own });
            }
        }
    }

    /// The result for the same content under the same evaluator; `own`: only where this process judged it. The log may
    /// hold what a stranger wrote in the evaluator's name, and where a score is paid for, that must not be repeated.
    pub(crate) fn of_content(&self, key: &ContentKey, own: bool) -> Option<(Id, Evaluation)> {
        let contents = locked(&self.contents);
        let known = contents.values.get(key).filter(|known| known.own || !own)?;
        Some((known.id, known.evaluation.clone()))
    }

    /// Remembers what was answered, until the log has it.
    pub(crate) fn answered(&self, id: Id, evaluation: &Evaluation) {
        locked(&self.answers).put(id, evaluation.clone());
    }

    /// What was answered under an id.
    pub(crate) fn answer(&self, id: &Id) -> Option<Evaluation> {
        locked(&self.answers).values.get(id).cloned()
    }

    /// The artifacts of a conversation since a time, oldest first.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub(crate) async fn artifacts(
        &self,
        conversation: &ConversationId,
        since_ms: i64,
    ) -> Result<Vec<Artifact>, LogError> {
        let index = self.partition_of(conversation);
        let (start, end) = self.log.bounds(Topic::Artifacts, index).await?;
        let since_ms = since_ms.saturating_sub(SLACK_MS);
        let mut next = self.log.offset_at(Topic::Artifacts, index, since_ms).await?.max(start);
        let mut found = Vec::new();
        while next < end {
            let records = self.log.read(Topic::Artifacts, index, next, READ_RECORDS).await?;
            let Some(last) = records.last() else { break };
            next = last.offset + 1;
            let own = records.iter().filter(|stored| stored.record.key == conversation.as_str());
            found.extend(own.filter_map(artifact));
        }
        Ok(found)
    }
}

fn artifact(stored: &StoredRecord) -> Option<Artifact> {
    match wire::decode(stored).ok()?.payload {
        Payload::Artifact(artifact) => Some(artifact),
        _ => None,
    }
}

/// The evaluation that a record is. Only what its headers call one is decoded: they are few among the artifacts.
fn evaluation(stored: &StoredRecord) -> Option<(Id, Evaluation)> {
    let kind = stored.record.headers.get("ce_type");
    // An outsider may leave the header out.
    if kind.is_some_and(|kind| kind != b"p2.artifact.evaluation") {
        return None;
    }
    let artifact = artifact(stored)?;
    match artifact.body {
        ArtifactBody::Evaluation(evaluation) => Some((artifact.id, *evaluation)),
        _ => None,
    }
}
