//! The one thread that writes the journal: it gathers what waits into one frame, makes it durable, shows it
//! to readers and only then acknowledges it. Joining and leaving a group pass through it too, so a partition
//! never changes hands while a commit for it is under way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use p2_core::record::{Position, RECORD_BYTES_MAX, Topic};
use p2_stream::groups::{Lane, Ticket};
use p2_stream::ports::{Batch, CommitError, CommittedOffset, LogError, NewRecord};
use tokio::sync::{Notify, oneshot};

use crate::codec::{self, FoundBatch};
use crate::journal::{Journal, Rotation, WriteError};
use crate::log::Shared;
use crate::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Durability};

/// A group commit is closed when it has this many bytes.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// What the writer is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Something that goes into a group commit.
    Work(Work),
    /// Join a group; answered with the member's id and what wakes it.
    Join { group: String, topics: Vec<Topic>, reply: oneshot::Sender<(u64, Arc<Notify>)> },
    /// Leave it.
    Leave { member: u64 },
    /// Answered when everything that was asked before has ended.
    Settle { reply: oneshot::Sender<()> },
    /// Seal the segment that is written, where it was begun before this time.
    Rotate { older_than_ms: i64, reply: Sender<()> },
}

/// Something that goes into a group commit.
#[derive(Debug)]
pub(crate) enum Work {
    /// Records outside of any group.
    Append { records: Vec<NewRecord>, reply: oneshot::Sender<Result<Vec<Position>, LogError>> },
    /// A member's batch.
    Commit {
        member: u64,
        ticket: Ticket,
        batch: Batch,
        reply: oneshot::Sender<Result<Vec<Position>, CommitError>>,
    },
}

/// The sender of a piece of work, to be told how it ended. A caller that is gone does not want to know.
enum Reply {
    Append(oneshot::Sender<Result<Vec<Position>, LogError>>),
    Commit(oneshot::Sender<Result<Vec<Position>, CommitError>>),
}

impl Reply {
    fn done(self, positions: Vec<Position>) {
        match self {
            Reply::Append(reply) => drop(reply.send(Ok(positions))),
            Reply::Commit(reply) => drop(reply.send(Ok(positions))),
        }
    }

    /// Nothing of it was written.
    fn aborted(self, why: &str) {
        match self {
            Reply::Append(reply) => drop(reply.send(Err(LogError::Unavailable(why.to_owned())))),
            Reply::Commit(reply) => drop(reply.send(Err(CommitError::Aborted(why.to_owned())))),
        }
    }

    /// It was written, but perhaps not to the disk.
    fn unknown(self, why: &str) {
        match self {
            Reply::Append(reply) => drop(reply.send(Err(LogError::Unavailable(why.to_owned())))),
            Reply::Commit(reply) => drop(reply.send(Err(CommitError::Unknown(why.to_owned())))),
        }
    }
}

/// The group commit that is being gathered.
struct Group {
    payload: Vec<u8>,
    batches: Vec<FoundBatch>,
    waiting: Vec<(Reply, Vec<Position>)>,
    ends: BTreeMap<Lane, i64>,
}

impl Group {
    fn new() -> Group {
        // The count is filled in when the group is closed.
        Group { payload: vec![0; 4], batches: Vec::new(), waiting: Vec::new(), ends: BTreeMap::new() }
    }
}

/// The writer. It ends when all handles are dropped, or after a failure that leaves the file in doubt: then it
/// says why, once, and whoever asks later is told the same.
pub(crate) struct Writer {
    pub(crate) journal: Journal,
    pub(crate) shared: Arc<Shared>,
    pub(crate) durability: Durability,
    /// A segment is sealed when it has this many bytes.
    pub(crate) segment_bytes: u64,
    /// Held as long as the writer lives.
    pub(crate) lock: File,
}

impl Writer {
    pub(crate) fn run(mut self, requests: &Receiver<Request>) {
        let mut unsynced_since: Option<Instant> = None;
        while let Some(first) = self.receive(requests, &mut unsynced_since) {
            let mut next = Some(first);
            let mut group = Group::new();
            let mut membership = None;
            while let Some(request) = next.take() {
                match request {
                    Request::Work(work) => self.gather(&mut group, work),
                    other => membership = Some(other),
                }
                if membership.is_none() && group.payload.len() < GROUP_BYTES_MAX {
                    next = requests.try_recv().ok();
                }
            }
            if !self.commit(group) {
                break;
            }
            let full = self.journal.segment_bytes() >= self.segment_bytes;
            if full && self.journal.segment_since_ms().is_some() && !self.rotate() {
                break;
            }
            if self.journal.is_dirty() && unsynced_since.is_none() {
                unsynced_since = Some(Instant::now());
            }
            if !membership.is_none_or(|request| self.change_membership(request)) {
                break;
            }
        }
        self.end();
    }

    /// Releases the directory. After a failure nothing is synced any more: a later sync may succeed without
    /// having written what the failed one lost.
    fn end(mut self) {
        if self.shared.stopped.get().is_none()
            && self.journal.is_dirty()
            && let Err(error) = self.journal.sync()
        {
            self.stop(&error);
        }
        let _rewriting = self.shared.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing may be written to the directory after this.
        let _ = self.shared.stopped.set("the log is closed".to_owned());
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "the data directory's lock was not released; it ends with the process");
        }
    }

    /// Notes and says, once, that nothing can be written any more. Returns the sentence.
    fn stop(&self, error: &io::Error) -> String {
        let lost = match self.durability {
            Durability::Commit => "nothing that was acknowledged is lost".to_owned(),
            Durability::Interval { ms } => {
                format!("what was acknowledged in the {ms} ms before may be lost")
            }
        };
        let why = format!(
            "{}: {error}: the log has stopped, since it is not known what is on the disk; {lost}; see to the disk, \
             then start again",
            self.journal.path().display()
        );
        tracing::error!("{why}");
        let _ = self.shared.stopped.set(why.clone());
        why
    }

    /// Seals the segment and begins the next one. False where nothing may be written any more.
    fn rotate(&mut self) -> bool {
        let (lanes, progress) = {
            let visible = self.shared.visible();
            (visible.active_lanes(), visible.groups.progress())
        };
        match self.journal.rotate(&lanes, progress, p2_stream::shell::now_ms()) {
            Ok(Rotation::Done(sealed)) => {
                self.shared.visible().sealed(&sealed, self.journal.file());
                true
            }
            Ok(Rotation::Postponed(error)) => {
                tracing::warn!(path = %self.journal.path().display(), %error, "the segment goes on growing");
                true
            }
            Err(error) => {
                self.stop(&error);
                false
            }
        }
    }

    /// The next request; syncs in between where durability is by interval. `None`: it is time to end.
    fn receive(&mut self, requests: &Receiver<Request>, since: &mut Option<Instant>) -> Option<Request> {
        loop {
            let (Durability::Interval { ms }, Some(start)) = (self.durability, *since) else {
                return requests.recv().ok();
            };
            let due = start + Duration::from_millis(ms);
            match requests.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(request) if Instant::now() < due => return Some(request),
                Ok(request) => return self.sync_interval(since).then_some(request),
                Err(RecvTimeoutError::Timeout) if self.sync_interval(since) => {}
                Err(_) => return None,
            }
        }
    }

    fn sync_interval(&mut self, since: &mut Option<Instant>) -> bool {
        *since = None;
        match self.journal.sync() {
            Ok(()) => true,
            Err(error) => {
                self.stop(&error);
                false
            }
        }
    }

    fn gather(&self, group: &mut Group, work: Work) {
        match work {
            Work::Append { records, reply } => {
                if let Err(error) = self.check_records(&records) {
                    drop(reply.send(Err(error)));
                    return;
                }
                Self::add(group, self, &records, "", Vec::new(), Reply::Append(reply));
            }
            Work::Commit { member, ticket, batch, reply } => {
                if let Err(error) = self.check_records(&batch.outputs) {
                    drop(reply.send(Err(CommitError::Aborted(error.to_string()))));
                    return;
                }
                let name = {
                    let visible = self.shared.visible();
                    visible.groups.check(member, &ticket, &batch.progress).map(str::to_owned)
                };
                match name {
                    Ok(name) => {
                        Self::add(group, self, &batch.outputs, &name, batch.progress, Reply::Commit(reply));
                    }
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
        }
    }

    fn check_records(&self, records: &[NewRecord]) -> Result<(), LogError> {
        let visible = self.shared.visible();
        let mut total = 0;
        for record in records {
            let count = visible.partitions(record.topic);
            if !(0..count).contains(&record.partition) {
                return Err(LogError::NotFound(format!(
                    "{} has {count} partitions, counted from 0: there is no {}",
                    record.topic.name(),
                    record.partition
                )));
            }
            let size = record.key.len() + record.headers.size() + record.value.len();
            if record.value.len() > RECORD_BYTES_MAX || size > 2 * RECORD_BYTES_MAX {
                return Err(LogError::TooLarge(format!(
                    "a record for {} with a value of {} bytes ({size} with key and headers): at most \
                     {RECORD_BYTES_MAX} are allowed",
                    record.topic.name(),
                    record.value.len()
                )));
            }
            total += size;
        }
        if records.len() > BATCH_RECORDS_MAX || total > BATCH_BYTES_MAX {
            return Err(LogError::TooLarge(format!(
                "a batch of {} records and {total} bytes: at most {BATCH_RECORDS_MAX} and {BATCH_BYTES_MAX} are \
                 allowed, so split it",
                records.len()
            )));
        }
        Ok(())
    }

    fn add(
        group: &mut Group,
        writer: &Writer,
        records: &[NewRecord],
        name: &str,
        progress: Vec<(Topic, i32, CommittedOffset)>,
        reply: Reply,
    ) {
        let mut ends = group.ends.clone();
        let mut placed = Vec::with_capacity(records.len());
        for record in records {
            let lane = (record.topic, record.partition);
            let end = ends.entry(lane).or_insert_with(|| writer.shared.visible().end(lane));
            placed.push((*end, record));
            *end += 1;
        }
        let before = group.payload.len();
        match codec::encode_batch(&mut group.payload, &placed, name, &progress) {
            Ok(found) => {
                let position = |(offset, record): &(i64, &NewRecord)| Position {
                    topic: record.topic,
                    partition: record.partition,
                    offset: *offset,
                };
                group.waiting.push((reply, placed.iter().map(position).collect()));
                group.batches.push(FoundBatch { records: found, group: name.to_owned(), progress });
                group.ends = ends;
            }
            Err(why) => {
                group.payload.truncate(before);
                reply.aborted(&why);
            }
        }
    }

    /// Writes, syncs, shows and acknowledges a group. False where the file is in doubt: the writer ends, and
    /// the next opening of the directory settles what is there.
    fn commit(&mut self, mut group: Group) -> bool {
        if group.batches.is_empty() {
            return true;
        }
        let count = u32::try_from(group.batches.len()).unwrap_or(u32::MAX);
        for (to, from) in group.payload.iter_mut().zip(count.to_le_bytes()) {
            *to = from;
        }
        let payload_at = match self.journal.write(&group.payload) {
            Ok(at) => at,
            Err(WriteError::Clean(error)) => {
                let why = format!("{}: {error}: nothing of it was written", self.journal.path().display());
                group.waiting.into_iter().for_each(|(reply, _)| reply.aborted(&why));
                return true;
            }
            Err(WriteError::Doubtful(error)) => {
                let why = self.stop(&error);
                group.waiting.into_iter().for_each(|(reply, _)| reply.unknown(&why));
                return false;
            }
        };
        if self.durability == Durability::Commit
            && let Err(error) = self.journal.sync()
        {
            let why = self.stop(&error);
            group.waiting.into_iter().for_each(|(reply, _)| reply.unknown(&why));
            return false;
        }
        let shown = {
            let mut visible = self.shared.visible();
            let shown = visible.take(payload_at, group.batches);
            visible.groups.wake_all();
            shown
        };
        if let Err(why) = shown {
            let why = self.stop(&io::Error::other(why));
            group.waiting.into_iter().for_each(|(reply, _)| reply.unknown(&why));
            return false;
        }
        group.waiting.into_iter().for_each(|(reply, positions)| reply.done(positions));
        true
    }

    /// False where nothing may be written any more.
    fn change_membership(&mut self, request: Request) -> bool {
        if let Request::Rotate { older_than_ms, reply } = request {
            let old = self.journal.segment_since_ms().is_some_and(|since| since <= older_than_ms);
            let goes_on = !old || self.rotate();
            let _ = reply.send(());
            return goes_on;
        }
        let mut visible = self.shared.visible();
        let partitions = visible.partitions.clone();
        let count = |topic: Topic| partitions.get(&topic).copied().unwrap_or(0);
        match request {
            Request::Join { group, topics, reply } => {
                let (id, wake) = visible.groups.join(&group, &topics, count);
                if reply.send((id, wake)).is_err() {
                    visible.groups.leave(id, count);
                }
            }
            Request::Leave { member } => visible.groups.leave(member, count),
            // It does not matter to the writer whether anybody still waits.
            Request::Settle { reply } => drop(reply.send(())),
            Request::Work(_) | Request::Rotate { .. } => {}
        }
        true
    }
}
