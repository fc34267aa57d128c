//! The log: an index in memory over the journal, consumer groups, and members that are woken by new records.
//! Everything that changes it goes through the one thread of [`crate::writer`].

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use p2_core::record::{Position, Topic};
use p2_stream::groups::{Groups, Lane};
use p2_stream::ports::{
    Batch, CommitError, CommittedOffset, Committer, Log, LogError, Member, MemberEvent, NewRecord,
    StoredRecord,
};
use tokio::sync::{Notify, oneshot};

use crate::codec::{self, FoundBatch};
use crate::writer::{Request, Work};

/// Most records of one `Records` event.
const EVENT_RECORDS_MAX: usize = 500;
/// Most bytes of one `Records` event or read, unless the first record alone is larger.
const EVENT_BYTES_MAX: u64 = 1 << 20;

/// Where one record lies in the journal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    at: u64,
    length: u32,
}

/// What readers see: only what is durable.
#[derive(Debug)]
pub(crate) struct Visible {
    pub(crate) partitions: BTreeMap<Topic, i32>,
    pub(crate) slots: BTreeMap<Lane, Vec<Slot>>,
    pub(crate) groups: Groups,
}

impl Visible {
    pub(crate) fn new(partitions: BTreeMap<Topic, i32>) -> Visible {
        Visible { partitions, slots: BTreeMap::new(), groups: Groups::default() }
    }

    pub(crate) fn partitions(&self, topic: Topic) -> i32 {
        self.partitions.get(&topic).copied().unwrap_or(0)
    }

    pub(crate) fn end(&self, lane: Lane) -> i64 {
        self.slots.get(&lane).map_or(0, |slots| slots.len() as i64)
    }

    /// Takes the batches of one frame in.
    pub(crate) fn take(&mut self, payload_at: u64, batches: Vec<FoundBatch>) -> Result<(), String> {
        for batch in batches {
            for found in batch.records {
                let lane = (found.topic, found.partition);
                let slots = self.slots.entry(lane).or_default();
                if found.offset != slots.len() as i64 {
                    return Err(format!(
                        "{} partition {}: offset {} follows {}",
                        found.topic.name(),
                        found.partition,
                        found.offset,
                        slots.len()
                    ));
                }
                slots.push(Slot { at: payload_at + found.at as u64, length: found.length });
            }
            self.groups.note(&batch.group, &batch.progress);
        }
        Ok(())
    }
}

/// What the log, its members and its writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) visible: Mutex<Visible>,
    pub(crate) file: Arc<File>,
    pub(crate) path: PathBuf,
}

impl Shared {
    pub(crate) fn visible(&self) -> MutexGuard<'_, Visible> {
        self.visible.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self, lane: Lane, from: i64, records_max: usize) -> Vec<Slot> {
        let visible = self.visible();
        let slots = visible.slots.get(&lane).map(Vec::as_slice).unwrap_or_default();
        let from = usize::try_from(from.max(0)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |slot: &&Slot| {
            let first = bytes == 0;
            bytes += u64::from(slot.length);
            first || bytes <= EVENT_BYTES_MAX
        };
        slots.get(from..).unwrap_or_default().iter().take(records_max).take_while(fits).copied().collect()
    }

    /// Reads durable records. The reads hit the page cache as a rule and are small, so they are made in place.
    fn read(&self, lane: Lane, from: i64, records_max: usize) -> Result<Vec<StoredRecord>, LogError> {
        let read = |slot: Slot| {
            let mut bytes = vec![0; slot.length as usize];
            self.file
                .read_exact_at(&mut bytes, slot.at)
                .map_err(|error| LogError::Unavailable(format!("{}: {error}", self.path.display())))?;
            codec::decode_record(&bytes).map_err(|what| {
                let path = self.path.display();
                LogError::Corrupt(format!("{path}: {what} at byte {}: restore the file from a copy", slot.at))
            })
        };
        self.slots(lane, from, records_max).into_iter().map(read).collect()
    }
}

/// Lets the writer end when the last handle is gone, and waits until it has released the directory.
#[derive(Debug)]
pub(crate) struct WriterHandle {
    pub(crate) requests: Option<Sender<Request>>,
    pub(crate) thread: Option<JoinHandle<()>>,
}

impl WriterHandle {
    fn send(&self, request: Request) -> bool {
        self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok())
    }
}

impl Drop for WriterHandle {
    fn drop(&mut self) {
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
}

/// The writer ended: an earlier write or sync failed.
const WRITER_GONE: &str = "the journal's writer has stopped after a failure: open the data directory again";

#[async_trait]
impl Log for EmbeddedLog {
    fn partitions(&self, topic: Topic) -> i32 {
        self.shared.visible().partitions(topic)
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, LogError> {
        let (reply, answer) = oneshot::channel();
        self.writer.send(Request::Work(Work::Append { records, reply }));
        answer.await.unwrap_or_else(|_| Err(LogError::Unavailable(WRITER_GONE.to_owned())))
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
        Ok((0, self.shared.visible().end((topic, partition))))
    }

    async fn join(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Member>, LogError> {
        let (reply, answer) = oneshot::channel();
        self.writer.send(Request::Join { group: group.to_owned(), topics: topics.to_vec(), reply });
        let (id, wake) = answer.await.map_err(|_| LogError::Unavailable(WRITER_GONE.to_owned()))?;
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
        let ready = {
            let mut visible = self.log.shared.visible();
            let Visible { groups, slots, .. } = &mut *visible;
            if let Some(event) = groups.take_event(self.id) {
                return Ok(Some(event));
            }
            groups.ready(self.id, |lane| slots.get(&lane).map_or(0, |slots| slots.len() as i64))
        };
        let Some((lane, from)) = ready else { return Ok(None) };
        let records = self.log.shared.read(lane, from, EVENT_RECORDS_MAX)?;
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
        settled.await.map_err(|_| LogError::Unavailable(WRITER_GONE.to_owned()))?;
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
            return Err(CommitError::Aborted(WRITER_GONE.to_owned()));
        }
        answer.await.unwrap_or_else(|_| Err(CommitError::Unknown(WRITER_GONE.to_owned())))
    }
}
