//! The log and the stack store in memory: for tests, and the simplest reading of what the ports promise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{Change, Position, RECORD_BYTES_MAX, StateTransition, Topic};
use p2_core::state::{Entry, State};
use tokio::sync::Notify;

use crate::follow::follow_as_member;
use crate::groups::{Groups, Lane};
use crate::ports::{
    Batch, CommitError, CommittedOffset, Committer, ConversationSummary, Follower, Log, LogError, Member,
    MemberEvent, NewRecord, StackStore, StoreError, StoredRecord,
};

/// A [`Log`] in memory. Clones are handles of the same log.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    inner: Arc<Mutex<Inner>>,
    partitions: i32,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<Lane, Vec<NewRecord>>,
    /// First offset kept, where records were deleted.
    starts: BTreeMap<Lane, i64>,
    groups: Groups,
}

impl Inner {
    fn start(&self, lane: Lane) -> i64 {
        self.starts.get(&lane).copied().unwrap_or(0)
    }

    fn end(&self, lane: Lane) -> i64 {
        self.records.get(&lane).map_or(0, |records| records.len() as i64)
    }

    fn read(&self, lane: Lane, from: i64, records_max: usize) -> Result<Vec<StoredRecord>, LogError> {
        let (from, start) = (from.max(0), self.start(lane));
        if from < start {
            return Err(LogError::before_start(lane.0, lane.1, from, start));
        }
        let records = self.records.get(&lane).map(Vec::as_slice).unwrap_or_default();
        let rest = records.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
        let numbered = rest.iter().take(records_max).zip(from..);
        Ok(numbered.map(|(record, offset)| StoredRecord { offset, record: record.clone() }).collect())
    }

    fn push(&mut self, records: Vec<NewRecord>) -> Vec<Position> {
        let mut positions = Vec::with_capacity(records.len());
        for record in records {
            let lane = self.records.entry((record.topic, record.partition)).or_default();
            let offset = lane.len() as i64;
            positions.push(Position { topic: record.topic, partition: record.partition, offset });
            lane.push(record);
        }
        self.groups.wake_all();
        positions
    }
}

impl MemoryLog {
    /// An empty log whose topics have this many partitions each.
    pub fn new(partitions: i32) -> MemoryLog {
        MemoryLog { inner: Arc::default(), partitions: partitions.max(1) }
    }

    /// Deletes the records of a partition below an offset, as retention does. The end stays where it is.
    pub fn delete_before(&self, topic: Topic, partition: i32, before: i64) {
        let mut inner = self.inner();
        let lane = (topic, partition);
        let start = before.clamp(inner.start(lane), inner.end(lane));
        inner.starts.insert(lane, start);
        inner.groups.wake_all();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_lane(&self, topic: Topic, partition: i32) -> Result<(), LogError> {
        if (0..self.partitions).contains(&partition) {
            return Ok(());
        }
        let (topic, count) = (topic.name(), self.partitions);
        Err(LogError::NotFound(format!(
            "{topic} has {count} partitions, counted from 0: there is no {partition}"
        )))
    }

    fn check(&self, records: &[NewRecord]) -> Result<(), LogError> {
        for record in records {
            self.check_lane(record.topic, record.partition)?;
            let size = record.value.len();
            if size > RECORD_BYTES_MAX {
                let topic = record.topic.name();
                return Err(LogError::TooLarge(format!(
                    "a record for {topic} with a value of {size} bytes: at most {RECORD_BYTES_MAX} are allowed"
                )));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Log for MemoryLog {
    fn partitions(&self, _topic: Topic) -> i32 {
        self.partitions
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, LogError> {
        self.check(&records)?;
        Ok(self.inner().push(records))
    }

    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        records_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.check_lane(topic, partition)?;
        self.inner().read((topic, partition), from, records_max)
    }

    async fn bounds(&self, topic: Topic, partition: i32) -> Result<(i64, i64), LogError> {
        self.check_lane(topic, partition)?;
        let inner = self.inner();
        let lane = (topic, partition);
        Ok((inner.start(lane), inner.end(lane)))
    }

    async fn follow(&self, from: Vec<(Topic, i32, i64)>) -> Result<Box<dyn Follower>, LogError> {
        follow_as_member(self, from).await
    }

    async fn join(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Member>, LogError> {
        let (id, wake) = self.inner().groups.join(group, topics, |_| self.partitions);
        Ok(Box::new(MemoryMember { log: self.clone(), id, wake }))
    }
}

struct MemoryMember {
    log: MemoryLog,
    id: u64,
    wake: Arc<Notify>,
}

impl MemoryMember {
    fn poll(&self) -> Option<MemberEvent> {
        let mut inner = self.log.inner();
        let Inner { records, groups, .. } = &mut *inner;
        if let Some(event) = groups.take_event(self.id) {
            return Some(event);
        }
        let end = |lane: Lane| records.get(&lane).map_or(0, |records| records.len() as i64);
        let (lane, from) = groups.ready(self.id, end)?;
        let start = inner.start(lane);
        let Ok(records) = inner.read(lane, from, 500) else {
            inner.groups.truncated(self.id, lane);
            return Some(MemberEvent::Truncated { topic: lane.0, partition: lane.1, start });
        };
        let next = records.last()?.offset + 1;
        inner.groups.delivered(self.id, lane, next);
        Some(MemberEvent::Records { topic: lane.0, partition: lane.1, records })
    }
}

#[async_trait]
impl Member for MemoryMember {
    async fn next(&mut self) -> Result<MemberEvent, LogError> {
        loop {
            if let Some(event) = self.poll() {
                return Ok(event);
            }
            self.wake.notified().await;
        }
    }

    async fn committed(&self, topic: Topic, partition: i32) -> Result<Option<CommittedOffset>, LogError> {
        Ok(self.log.inner().groups.committed(self.id, (topic, partition)))
    }

    async fn seek(&mut self, topic: Topic, partition: i32, offset: i64) -> Result<(), LogError> {
        self.log.inner().groups.seek(self.id, (topic, partition), offset)
    }

    fn pause(&mut self, topic: Topic, partition: i32) {
        self.log.inner().groups.pause(self.id, (topic, partition), true);
    }

    fn resume(&mut self, topic: Topic, partition: i32) {
        self.log.inner().groups.pause(self.id, (topic, partition), false);
    }

    fn committer(&self) -> Arc<dyn Committer> {
        Arc::new(MemoryCommitter { log: self.log.clone(), id: self.id })
    }
}

impl Drop for MemoryMember {
    fn drop(&mut self) {
        self.log.inner().groups.leave(self.id, |_| self.log.partitions);
    }
}

struct MemoryCommitter {
    log: MemoryLog,
    id: u64,
}

#[async_trait]
impl Committer for MemoryCommitter {
    async fn commit(&self, batch: Batch) -> Result<Vec<Position>, CommitError> {
        self.log.check(&batch.outputs).map_err(|error| CommitError::Aborted(error.to_string()))?;
        let mut inner = self.log.inner();
        let ticket = inner.groups.ticket(self.id);
        let group = inner.groups.check(self.id, &ticket, &batch.progress)?.to_owned();
        inner.groups.note(&group, &batch.progress);
        Ok(inner.push(batch.outputs))
    }
}

/// A [`StackStore`] in memory. Clones are handles of the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Rows>>,
}

#[derive(Debug, Default)]
struct Rows {
    conversations: BTreeMap<ConversationId, Conversation>,
    applied: BTreeMap<i32, i64>,
}

#[derive(Debug, Default)]
struct Conversation {
    partition: i32,
    transitions: BTreeMap<i64, StateTransition>,
    entries: BTreeMap<(AgentId, BranchId, i64), Entry>,
    waits: BTreeSet<Id>,
}

impl Conversation {
    fn take(&mut self, partition: i32, transition: StateTransition) {
        if self.transitions.contains_key(&transition.seq) {
            return;
        }
        self.partition = partition;
        for change in &transition.changes {
            match change {
                Change::Appended(appended) => {
                    for entry in &appended.entries {
                        let key = (transition.agent.clone(), transition.branch.clone(), entry.seq);
                        self.entries.insert(key, entry.clone());
                        if let State::Waiting(waiting) = &entry.state {
                            self.waits.insert(waiting.id);
                        }
                    }
                }
                Change::Closed(closed) => self.waits.retain(|wait| !closed.waits.contains(wait)),
                _ => {}
            }
        }
        self.transitions.insert(transition.seq, transition);
    }

    fn summary(&self, id: &ConversationId) -> ConversationSummary {
        let opened = self.transitions.values().find_map(|transition| {
            transition.changes.iter().find_map(|change| match change {
                Change::Opened(opened) => Some((opened.root.clone(), transition.time_ms)),
                _ => None,
            })
        });
        let first_ms = self.transitions.values().next().map_or(0, |transition| transition.time_ms);
        let (root, opened_ms) = opened.unwrap_or((AgentId::default(), first_ms));
        ConversationSummary {
            id: id.clone(),
            root,
            opened_ms,
            changed_ms: self.transitions.values().map(|transition| transition.time_ms).max().unwrap_or(0),
            transitions: self.transitions.len() as i64,
            open_waits: self.waits.len() as i64,
        }
    }
}

impl MemoryStore {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl StackStore for MemoryStore {
    async fn write(
        &self,
        partition: i32,
        transitions: Vec<(i64, StateTransition)>,
        applied: i64,
    ) -> Result<(), StoreError> {
        let mut rows = self.rows();
        for (_, transition) in transitions {
            let conversation = transition.conversation.clone();
            rows.conversations.entry(conversation).or_default().take(partition, transition);
        }
        let before = rows.applied.entry(partition).or_default();
        *before = applied.max(*before);
        Ok(())
    }

    async fn applied(&self, partition: i32) -> Result<i64, StoreError> {
        Ok(self.rows().applied.get(&partition).copied().unwrap_or(0))
    }

    async fn load(&self, conversation: &ConversationId) -> Result<Vec<StateTransition>, StoreError> {
        let rows = self.rows();
        let found = rows.conversations.get(conversation);
        Ok(found.map(|found| found.transitions.values().cloned().collect()).unwrap_or_default())
    }

    async fn tail(
        &self,
        conversation: &ConversationId,
        agent: &AgentId,
        branch: &BranchId,
        before: i64,
        entries_max: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let rows = self.rows();
        let Some(found) = rows.conversations.get(conversation) else { return Ok(Vec::new()) };
        let key = |seq| (agent.clone(), branch.clone(), seq);
        let range = found.entries.range(key(i64::MIN)..key(before));
        Ok(range.rev().take(entries_max).map(|(_, entry)| entry.clone()).collect())
    }

    async fn open(&self, partition: i32) -> Result<Vec<ConversationId>, StoreError> {
        let rows = self.rows();
        let open =
            rows.conversations.iter().filter(|(_, of)| of.partition == partition && !of.waits.is_empty());
        Ok(open.map(|(id, _)| id.clone()).collect())
    }

    async fn list(
        &self,
        after: Option<&ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationSummary>, StoreError> {
        let rows = self.rows();
        let later = rows.conversations.iter().filter(|(id, _)| after.is_none_or(|after| *id > after));
        Ok(later.take(max).map(|(id, of)| of.summary(id)).collect())
    }

    async fn wipe(&self) -> Result<(), StoreError> {
        *self.rows() = Rows::default();
        Ok(())
    }
}

mod ledger;
#[cfg(test)]
mod tests;

pub use ledger::{FoldFiles, MemoryLedger};
