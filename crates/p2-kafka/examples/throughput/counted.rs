//! A log that counts what is committed through it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use p2_core::record::{Position, Topic};
use p2_kafka::KafkaLog;
use p2_stream::ports::{
    Batch, CommitError, CommittedOffset, Committer, Follower, Log, LogError, Member, MemberEvent, NewRecord,
    StoredRecord,
};
use tokio::sync::Notify;

use crate::Since;

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Seen {
    /// Since the first record was delivered.
    pub(crate) since: Option<Since>,
    pub(crate) commits: usize,
    pub(crate) committed: usize,
    pub(crate) value_bytes: usize,
    pub(crate) times: Vec<Duration>,
    pub(crate) assigned: usize,
    pub(crate) revoked: usize,
}

/// Counts, and wakes who waits for them.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) seen: Mutex<Seen>,
    pub(crate) changed: Notify,
}

impl Counts {
    /// Waits until so many records are committed.
    pub(crate) async fn committed(&self, count: usize) {
        loop {
            let changed = self.changed.notified();
            if self.seen.lock().unwrap().committed >= count {
                return;
            }
            changed.await;
        }
    }
}

/// The Kafka log, counted.
#[derive(Clone)]
pub(crate) struct Counted {
    pub(crate) log: KafkaLog,
    pub(crate) counts: Arc<Counts>,
}

struct CountedMember(Box<dyn Member>, Arc<Counts>);
struct CountedCommitter(Arc<dyn Committer>, Arc<Counts>);

#[async_trait]
impl Log for Counted {
    fn partitions(&self, topic: Topic) -> i32 {
        self.log.partitions(topic)
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, LogError> {
        self.log.append(records).await
    }

    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.log.read(topic, partition, from, max).await
    }

    async fn read_values(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.log.read_values(topic, partition, from, max).await
    }

    async fn bounds(&self, topic: Topic, partition: i32) -> Result<(i64, i64), LogError> {
        self.log.bounds(topic, partition).await
    }

    async fn follow(&self, from: Vec<(Topic, i32, i64)>) -> Result<Box<dyn Follower>, LogError> {
        self.log.follow(from).await
    }

    async fn join(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Member>, LogError> {
        Ok(Box::new(CountedMember(self.log.join(group, topics).await?, Arc::clone(&self.counts))))
    }
}

#[async_trait]
impl Member for CountedMember {
    async fn next(&mut self) -> Result<MemberEvent, LogError> {
        let event = self.0.next().await?;
        let mut seen = self.1.seen.lock().unwrap();
        match event {
            MemberEvent::Assigned { .. } => seen.assigned += 1,
            MemberEvent::Revoked { .. } => seen.revoked += 1,
            _ => {
                seen.since.get_or_insert_with(Since::now);
            }
        }
        drop(seen);
        self.1.changed.notify_waiters();
        Ok(event)
    }

    async fn committed(&self, topic: Topic, partition: i32) -> Result<Option<CommittedOffset>, LogError> {
        self.0.committed(topic, partition).await
    }

    async fn seek(&mut self, topic: Topic, partition: i32, offset: i64) -> Result<(), LogError> {
        self.0.seek(topic, partition, offset).await
    }

    fn pause(&mut self, topic: Topic, partition: i32) {
        self.0.pause(topic, partition);
    }

    fn resume(&mut self, topic: Topic, partition: i32) {
        self.0.resume(topic, partition);
    }

    fn committer(&self) -> Arc<dyn Committer> {
        Arc::new(CountedCommitter(self.0.committer(), Arc::clone(&self.1)))
    }
}

#[async_trait]
impl Committer for CountedCommitter {
    async fn commit(&self, batch: Batch) -> Result<Vec<Position>, CommitError> {
        let bytes: usize = batch.outputs.iter().map(|output| output.value.len()).sum();
        let begin = Instant::now();
        let positions = self.0.commit(batch).await?;
        let mut seen = self.1.seen.lock().unwrap();
        seen.commits += 1;
        seen.committed += positions.len();
        seen.value_bytes += bytes;
        seen.times.push(begin.elapsed());
        drop(seen);
        self.1.changed.notify_waiters();
        Ok(positions)
    }
}
