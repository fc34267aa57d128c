//! The log: the index over the journal, consumer groups, and members that are woken by new records. Everything
//! that changes it goes through the one thread of [`crate::writer`], but for retention.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use p2_core::record::{Position, Topic};
use p2_stream::follow::follow_as_member;
use p2_stream::groups::Lane;
use p2_stream::ports::{
    Batch, CommitError, CommittedOffset, Committer, Follower, Log, LogError, Member, MemberEvent, NewRecord,
    StoredRecord,
};
use tokio::sync::{Notify, oneshot};

use crate::index::{self, Visible};
use crate::retention::{Expired, Expiry};
use crate::writer::{Request, Work};

/// Most records of one `Records` event.
const EVENT_RECORDS_MAX: usize = 500;

/// What the log, its members, its writer and its retention share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) visible: Mutex<Visible>,
    /// Why the writer stopped; none while it works.
    pub(crate) stopped: OnceLock<String>,
    /// Held while segments are written again, so that this never goes on after the directory is released.
    pub(crate) rewriting: Mutex<()>,
}

impl Shared {
    pub(crate) fn visible(&self) -> MutexGuard<'_, Visible> {
        self.visible.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing is written any more.
    pub(crate) fn gone(&self) -> String {
        let closed = || "the log is closed".to_owned();
        self.stopped.get().cloned().unwrap_or_else(closed)
    }

    /// Reads durable records, over segments, up to a limit of bytes. The reads hit the page cache as a rule and
    /// are small, so they are made in place.
    fn read(&self, lane: Lane, from: i64, records_max: usize) -> Result<Vec<StoredRecord>, LogError> {
        let mut found = Vec::new();
        let (mut next, mut bytes, mut missed) = (from, 0, 0);
        while found.len() < records_max && bytes < index::READ_BYTES_MAX && missed < 3 {
            let left = records_max - found.len();
            let place = match self.visible().place(lane, next, left) {
                // Retention went by: what was read is still what was asked for.
                Err(_) if !found.is_empty() => break,
                place => place?,
            };
            let Some(read) = index::read_place(place, lane, next, left)? else {
                missed += 1;
                continue;
            };
            let Some(last) = read.last() else { return Ok(found) };
            next = last.offset + 1;
            bytes += read.iter().map(|stored| stored.record.value.len() as u64).sum::<u64>();
            found.extend(read);
        }
        if missed < 3 || !found.is_empty() {
            return Ok(found);
        }
        let (topic, partition) = (lane.0.name(), lane.1);
        Err(LogError::Unavailable(format!(
            "{topic} partition {partition}: the segment with {from} is missing"
        )))
    }
}

/// Lets the writer end when the last handle is gone, and waits until it has released the directory.
#[derive(Debug)]
pub(crate) struct WriterHandle {
    pub(crate) requests: Option<Sender<Request>>,
    pub(crate) thread: Option<JoinHandle<()>>,
    /// Retention by the clock; it ends when the sender is dropped.
    pub(crate) clock: Option<(Sender<()>, JoinHandle<()>)>,
    pub(crate) expiry: Option<Expiry>,
}

impl WriterHandle {
    fn send(&self, request: Request) -> bool {
        self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok())
    }
}

impl Drop for WriterHandle {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.clock.take() {
            drop(stop);
            let _ = thread.join();
        }
        self.expiry = None;
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // It only fails where the writer panicked, and then its callers were told already.
            let _ = thread.join();
        }
    }
}

/// The embedded [`Log`]. Clones are handles of the same log.
#[derive(Clone, Debug)]
pub struct EmbeddedLog {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: Arc<WriterHandle>,
}

impl EmbeddedLog {
    fn check_lane(&self, topic: Topic, partition: i32) -> Result<(), LogError> {
        let count = self.shared.visible().partitions(topic);
        if (0..count).contains(&partition) {
            return Ok(());
        }
        let topic = topic.name();
        Err(LogError::NotFound(format!(
            "{topic} has {count} partitions, counted from 0: there is no {partition}"
        )))
    }

    fn gone(&self) -> LogError {
        LogError::Unavailable(self.shared.gone())
    }

    /// Removes what is beyond its retention at `now_ms`, as it is also done once an hour. Blocks; commits go on
    /// beside it.
    ///
    /// # Errors
    /// Where a segment cannot be read or written again: everything in it is still there.
    pub fn expire(&self, now_ms: i64) -> Result<Expired, LogError> {
        self.writer.expiry.as_ref().map_or_else(|| Err(self.gone()), |expiry| expiry.run(now_ms))
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    fn partitions(&self, topic: Topic) -> i32 {
        self.shared.visible().partitions(topic)
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, LogError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        self.writer.send(Request::Work(Work::Append { records, reply }));
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        records_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.check_lane(topic, partition)?;
        self.shared.read((topic, partition), from, records_max)
    }

    async fn bounds(&self, topic: Topic, partition: i32) -> Result<(i64, i64), LogError> {
        self.check_lane(topic, partition)?;
        let visible = self.shared.visible();
        Ok((visible.start((topic, partition)), visible.end((topic, partition))))
    }

    async fn follow(&self, from: Vec<(Topic, i32, i64)>) -> Result<Box<dyn Follower>, LogError> {
        follow_as_member(self, from).await
    }

    async fn join(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Member>, LogError> {
        let (reply, answer) = oneshot::channel();
        self.writer.send(Request::Join { group: group.to_owned(), topics: topics.to_vec(), reply });
        let (id, wake) = answer.await.map_err(|_| self.gone())?;
        Ok(Box::new(EmbeddedMember { log: self.clone(), id, wake }))
    }
}

/// A member; it leaves its group when it is dropped.
#[derive(Debug)]
struct EmbeddedMember {
    log: EmbeddedLog,
    id: u64,
    wake: Arc<Notify>,
}

impl EmbeddedMember {
    /// The next event that is there already. Without an await, so nothing is lost by cancelling.
    fn poll(&self) -> Result<Option<MemberEvent>, LogError> {
        let (lane, from) = {
            let mut visible = self.log.shared.visible();
            if let Some(event) = visible.groups.take_event(self.id) {
                return Ok(Some(event));
            }
            let Some(ready) = visible.ready(self.id) else { return Ok(None) };
            ready
        };
        let records = match self.log.shared.read(lane, from, EVENT_RECORDS_MAX) {
            Err(LogError::NotFound(_)) => {
                let mut visible = self.log.shared.visible();
                visible.groups.truncated(self.id, lane);
                let start = visible.start(lane);
                return Ok(Some(MemberEvent::Truncated { topic: lane.0, partition: lane.1, start }));
            }
            read => read?,
        };
        let Some(last) = records.last() else { return Ok(None) };
        self.log.shared.visible().groups.delivered(self.id, lane, last.offset + 1);
        Ok(Some(MemberEvent::Records { topic: lane.0, partition: lane.1, records }))
    }
}

#[async_trait]
impl Member for EmbeddedMember {
    async fn next(&mut self) -> Result<MemberEvent, LogError> {
        loop {
            if let Some(event) = self.poll()? {
                return Ok(event);
            }
            self.wake.notified().await;
        }
    }

    async fn committed(&self, topic: Topic, partition: i32) -> Result<Option<CommittedOffset>, LogError> {
        // A commit that its caller dropped may still be on its way to the writer.
        let (reply, settled) = oneshot::channel();
        self.log.writer.send(Request::Settle { reply });
        settled.await.map_err(|_| self.log.gone())?;
        Ok(self.log.shared.visible().groups.committed(self.id, (topic, partition)))
    }

    async fn seek(&mut self, topic: Topic, partition: i32, offset: i64) -> Result<(), LogError> {
        self.log.shared.visible().groups.seek(self.id, (topic, partition), offset)
    }

    fn pause(&mut self, topic: Topic, partition: i32) {
        self.log.shared.visible().groups.pause(self.id, (topic, partition), true);
    }

    fn resume(&mut self, topic: Topic, partition: i32) {
        self.log.shared.visible().groups.pause(self.id, (topic, partition), false);
    }

    fn committer(&self) -> Arc<dyn Committer> {
        Arc::new(EmbeddedCommitter { log: self.log.clone(), id: self.id })
    }
}

impl Drop for EmbeddedMember {
    fn drop(&mut self) {
        self.log.writer.send(Request::Leave { member: self.id });
    }
}

#[derive(Debug)]
struct EmbeddedCommitter {
    log: EmbeddedLog,
    id: u64,
}

#[async_trait]
impl Committer for EmbeddedCommitter {
    async fn commit(&self, batch: Batch) -> Result<Vec<Position>, CommitError> {
        let ticket = self.log.shared.visible().groups.ticket(self.id);
        let (reply, answer) = oneshot::channel();
        if !self.log.writer.send(Request::Work(Work::Commit { member: self.id, ticket, batch, reply })) {
            return Err(CommitError::Fenced(self.log.shared.gone()));
        }
        answer.await.unwrap_or_else(|_| Err(CommitError::Unknown(self.log.shared.gone())))
    }
}
