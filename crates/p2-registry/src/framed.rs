//! A log whose values have registry framing, seen as one whose values have single-object encoding.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use p2_core::record::{Position, Topic};
use p2_stream::ports::{
    Batch, CommitError, CommittedOffset, Committer, Follower, Log, LogError, Member, MemberEvent, NewRecord,
    StoredRecord,
};
use p2_stream::wire::SchemaIds;
use tokio::task::JoinSet;

use crate::client::Schemas;
use crate::ids::Ids;

type Lane = (Topic, i32);

/// A [`Log`] in front of another one. Clones are handles of the same.
///
/// Written values get registry framing; read values come out in single-object encoding, from either framing. A value
/// whose schema id is of no use comes out as it is: reading it is an error that says so. While the registry does not
/// answer, the records with ids that are not known yet wait, and those behind them in their partition.
#[derive(Clone)]
pub struct FramedLog {
    log: Arc<dyn Log>,
    ids: Ids,
}

impl fmt::Debug for FramedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FramedLog").finish_non_exhaustive()
    }
}

impl FramedLog {
    /// In front of `log`; `ids` are what [`register`](crate::register) gave.
    pub fn new(log: Arc<dyn Log>, registry: Arc<dyn Schemas>, ids: SchemaIds) -> FramedLog {
        FramedLog { log, ids: Ids::new(registry, ids) }
    }

    /// In front of another handle of the same log; what is known of the registry is shared.
    pub fn over(&self, log: Arc<dyn Log>) -> FramedLog {
        FramedLog { log, ids: self.ids.clone() }
    }

    /// One value in single-object encoding, for values that were kept outside of the log: the originals in dead
    /// letters.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] where the registry does not answer, [`LogError::Refused`].
    pub async fn unframe(&self, record: NewRecord) -> Result<NewRecord, LogError> {
        let mut one = [StoredRecord { offset: 0, record }];
        self.ids.settle(&mut one).await?;
        let [StoredRecord { record, .. }] = one;
        Ok(record)
    }
}

#[async_trait]
impl Log for FramedLog {
    fn partitions(&self, topic: Topic) -> i32 {
        self.log.partitions(topic)
    }

    async fn append(&self, mut records: Vec<NewRecord>) -> Result<Vec<Position>, LogError> {
        self.ids.frame(&mut records);
        self.log.append(records).await
    }

    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        records_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let mut records = self.log.read(topic, partition, from, records_max).await?;
        self.ids.settle(&mut records).await?;
        Ok(records)
    }

    async fn read_values(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        records_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let mut records = self.log.read_values(topic, partition, from, records_max).await?;
        self.ids.settle(&mut records).await?;
        Ok(records)
    }

    async fn bounds(&self, topic: Topic, partition: i32) -> Result<(i64, i64), LogError> {
        self.log.bounds(topic, partition).await
    }

    async fn offset_at(&self, topic: Topic, partition: i32, time_ms: i64) -> Result<i64, LogError> {
        self.log.offset_at(topic, partition, time_ms).await
    }

    async fn follow(&self, from: Vec<(Topic, i32, i64)>) -> Result<Box<dyn Follower>, LogError> {
        let follower = self.log.follow(from).await?;
        Ok(Box::new(FramedFollower { follower, ids: self.ids.clone(), held: Vec::new() }))
    }

    async fn join(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Member>, LogError> {
        let member = self.log.join(group, topics).await?;
        Ok(Box::new(FramedMember::new(member, self.ids.clone())))
    }
}

struct FramedFollower {
    follower: Box<dyn Follower>,
    ids: Ids,
    /// Read, and waiting for its schema ids: kept here, so that a dropped `next` loses nothing.
    held: Vec<StoredRecord>,
}

#[async_trait]
impl Follower for FramedFollower {
    async fn next(&mut self) -> Result<Vec<StoredRecord>, LogError> {
        if self.held.is_empty() {
            self.held = self.follower.next().await?;
        }
        self.ids.settle(&mut self.held).await?;
        Ok(std::mem::take(&mut self.held))
    }
}

struct FramedMember {
    member: Box<dyn Member>,
    ids: Ids,
    /// To be handed out, in order.
    ready: VecDeque<MemberEvent>,
    /// Records that wait for a schema id, and those behind them in their partition, in order.
    held: VecDeque<(Lane, Vec<StoredRecord>)>,
    /// Partitions that the owner wants paused; those of `held` are paused beside them.
    paused: BTreeSet<Lane>,
    /// The question to the registry, at most one. Ends with the member.
    asking: JoinSet<Result<(), LogError>>,
}

impl FramedMember {
    fn new(member: Box<dyn Member>, ids: Ids) -> FramedMember {
        let (ready, held, paused) = Default::default();
        FramedMember { member, ids, ready, held, paused, asking: JoinSet::new() }
    }

    fn holds(&self, lane: Lane) -> bool {
        self.held.iter().any(|(of, _)| *of == lane)
    }

    fn take(&mut self, event: MemberEvent) {
        match event {
            MemberEvent::Records { topic, partition, mut records } => {
                let lane = (topic, partition);
                if self.holds(lane) || self.ids.unframe(&mut records).is_some() {
                    self.member.pause(topic, partition);
                    self.held.push_back((lane, records));
                } else {
                    self.ready.push_back(MemberEvent::Records { topic, partition, records });
                }
            }
            MemberEvent::Revoked { topic, partition } | MemberEvent::Truncated { topic, partition, .. } => {
                self.forget((topic, partition));
                self.ready.push_back(event);
            }
            MemberEvent::Assigned { .. } => self.ready.push_back(event),
        }
    }

    /// What was read of a partition is not to be delivered any more.
    fn forget(&mut self, lane: Lane) {
        self.held.retain(|(of, _)| *of != lane);
        self.ready.retain(|event| {
            !matches!(event, MemberEvent::Records { topic, partition, .. } if (*topic, *partition) == lane)
        });
    }

    /// Hands out what has its ids by now.
    fn release(&mut self) {
        let mut waiting = BTreeSet::new();
        for (lane, mut records) in std::mem::take(&mut self.held) {
            if waiting.contains(&lane) || self.ids.unframe(&mut records).is_some() {
                waiting.insert(lane);
                self.held.push_back((lane, records));
                continue;
            }
            let (topic, partition) = lane;
            self.ready.push_back(MemberEvent::Records { topic, partition, records });
        }
        let released: BTreeSet<Lane> = self
            .ready
            .iter()
            .filter_map(|event| match event {
                MemberEvent::Records { topic, partition, .. } => Some((*topic, *partition)),
                _ => None,
            })
            .collect();
        for (topic, partition) in released.difference(&waiting) {
            if !self.paused.contains(&(*topic, *partition)) {
                self.member.resume(*topic, *partition);
            }
        }
    }

    /// The id that the first of the held records waits for.
    fn wanted(&mut self) -> Option<u32> {
        let (_, records) = self.held.front_mut()?;
        self.ids.unframe(records)
    }
}

#[async_trait]
impl Member for FramedMember {
    async fn next(&mut self) -> Result<MemberEvent, LogError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if self.held.is_empty() {
                let event = self.member.next().await?;
                self.take(event);
                continue;
            }
            let Some(id) = self.wanted() else {
                self.release();
                continue;
            };
            if self.asking.is_empty() {
                let ids = self.ids.clone();
                self.asking.spawn(async move { ids.ask_patiently(id).await });
            }
            // Assignments and revocations do not wait for a registry.
            tokio::select! {
                event = self.member.next() => self.take(event?),
                asked = self.asking.join_next() => if let Some(Ok(answer)) = asked { answer? },
            }
        }
    }

    async fn committed(&self, topic: Topic, partition: i32) -> Result<Option<CommittedOffset>, LogError> {
        self.member.committed(topic, partition).await
    }

    async fn seek(&mut self, topic: Topic, partition: i32, offset: i64) -> Result<(), LogError> {
        let held = self.holds((topic, partition));
        self.forget((topic, partition));
        if held && !self.paused.contains(&(topic, partition)) {
            self.member.resume(topic, partition);
        }
        self.member.seek(topic, partition, offset).await
    }

    fn pause(&mut self, topic: Topic, partition: i32) {
        self.paused.insert((topic, partition));
        self.member.pause(topic, partition);
    }

    fn resume(&mut self, topic: Topic, partition: i32) {
        self.paused.remove(&(topic, partition));
        if !self.holds((topic, partition)) {
            self.member.resume(topic, partition);
        }
    }

    fn committer(&self) -> Arc<dyn Committer> {
        Arc::new(FramedCommitter { committer: self.member.committer(), ids: self.ids.clone() })
    }
}

struct FramedCommitter {
    committer: Arc<dyn Committer>,
    ids: Ids,
}

#[async_trait]
impl Committer for FramedCommitter {
    async fn commit(&self, mut batch: Batch) -> Result<Vec<Position>, CommitError> {
        self.ids.frame(&mut batch.outputs);
        self.committer.commit(batch).await
    }
}

#[cfg(test)]
mod tests;
