//! What the runtime is told and what it wants done. The shell and the simulator translate both, nothing else.

use std::sync::Arc;

use p2_core::ids::Id;
use p2_core::record::{DeadLetter, Message, Position};

use crate::ports::CommittedOffset;
use crate::view::{LaneRows, ViewRecord};

/// Fences what belongs to one ownership of one partition. A partition that comes back gets a new one.
pub type Epoch = u64;

/// A record of the input topic, decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// A message for a lane.
    Message(Box<Message>),
    /// It lies in another partition than its key says: it is written again to the right one, never applied.
    Misplaced(Box<Message>),
    /// It cannot be read: it goes to `dead-letters`.
    Poison(Box<DeadLetter>),
}

/// A message on its way to the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The message.
    pub message: Message,
    /// Its value as [`Codec::encode`](super::Codec::encode) wrote it, for whoever commits. The runtime does not look at it.
    pub value: Option<Vec<u8>>,
}

/// What the runtime is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<R> {
    /// A partition is ours. `start` and `end` are the bounds of the input partition.
    Assigned {
        /// The partition.
        partition: i32,
        /// The group's progress, none where it never committed.
        committed: Option<CommittedOffset>,
        /// First offset that the log still has.
        start: i64,
        /// The high watermark.
        end: i64,
    },
    /// A partition is no longer ours.
    Revoked {
        /// The partition.
        partition: i32,
    },
    /// How far the store has the view of a partition, and the *high watermark* of the view's topic.
    ViewBounds {
        /// The partition.
        partition: i32,
        /// Whose ownership.
        epoch: Epoch,
        /// The store's applied offset.
        applied: i64,
        /// The high watermark of the view's partition, aborted and open transactions included.
        mark: i64,
        /// The offset from which the view is read again, at most `applied`: what was written to the log within
        /// `resync_ms` before the record just below `applied` lies at or above it.
        from: i64,
    },
    /// Committed records of the view, from the offset that was asked for.
    ViewRecords {
        /// The partition.
        partition: i32,
        /// Whose ownership.
        epoch: Epoch,
        /// (offset, record), ascending.
        records: Vec<(i64, ViewRecord)>,
        /// Everything committed below this offset was read (markers and aborted records included).
        next: i64,
    },
    /// The rows are acknowledged.
    ViewWritten {
        /// The partition.
        partition: i32,
        /// Whose ownership.
        epoch: Epoch,
        /// The offset after the last one written.
        applied: i64,
    },
    /// The lanes of a partition that have open waits.
    OpenLanes {
        /// The partition.
        partition: i32,
        /// Whose ownership.
        epoch: Epoch,
        /// Their keys.
        keys: Vec<String>,
    },
    /// A lane's view, in order; empty for a new one.
    Loaded {
        /// The partition.
        partition: i32,
        /// Whose ownership.
        epoch: Epoch,
        /// The lane.
        key: String,
        /// What the view has of it.
        rows: LaneRows,
    },
    /// A record of the input.
    Record {
        /// The partition.
        partition: i32,
        /// Whose ownership.
        epoch: Epoch,
        /// Its offset.
        offset: i64,
        /// The record.
        record: Incoming,
    },
    /// A call ended.
    Reply {
        /// The partition.
        partition: i32,
        /// Whose ownership.
        epoch: Epoch,
        /// The call.
        call: Id,
        /// Its reply.
        reply: R,
    },
    /// Time has passed.
    Tick,
    /// The batch is committed; where its outputs lie, in order.
    Committed {
        /// The batch.
        batch: u64,
        /// Positions of the outputs.
        positions: Vec<Position>,
    },
    /// Nothing of the batch is visible, and it may be tried again.
    Aborted {
        /// The batch.
        batch: u64,
        /// It was too large or took too long: try with half.
        halve: bool,
    },
    /// Nothing of the batch is visible, and we may not commit for its partitions any more.
    Fenced {
        /// The batch.
        batch: u64,
    },
    /// The batch went through or did not, and that is settled by now: start its partitions over.
    Unknown {
        /// The batch.
        batch: u64,
    },
    /// Draining begins: take nothing new, finish what is under way.
    Drain,
}

/// What the runtime wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action<C> {
    /// Answer with [`Event::ViewBounds`].
    ReadViewBounds {
        /// The partition.
        partition: i32,
        /// For the answer.
        epoch: Epoch,
        /// How much of the log's time before the applied offset is to be read again, milliseconds.
        resync_ms: i64,
    },
    /// Answer with [`Event::ViewRecords`], committed records only. Where nothing new is committed yet, wait.
    ReadView {
        /// The partition.
        partition: i32,
        /// For the answer.
        epoch: Epoch,
        /// The first offset.
        from: i64,
    },
    /// Write the view of committed records, then the applied offset; answer with [`Event::ViewWritten`].
    WriteView {
        /// The partition.
        partition: i32,
        /// For the answer.
        epoch: Epoch,
        /// (offset, record), ascending.
        records: Vec<(i64, ViewRecord)>,
        /// The offset after the last one.
        applied: i64,
    },
    /// Answer with [`Event::OpenLanes`].
    ListOpenLanes {
        /// The partition.
        partition: i32,
        /// For the answer.
        epoch: Epoch,
    },
    /// Answer with [`Event::Loaded`].
    Load {
        /// The partition.
        partition: i32,
        /// For the answer.
        epoch: Epoch,
        /// The lane.
        key: String,
    },
    /// Deliver records of this partition from `offset` on, under this epoch, and nothing that was read before. Also
    /// for one that was paused: then what came after the pause was let go.
    Deliver {
        /// The partition.
        partition: i32,
        /// For the records.
        epoch: Epoch,
        /// The first offset.
        offset: i64,
    },
    /// No more records of this partition for now.
    Pause {
        /// The partition.
        partition: i32,
    },
    /// Records of this partition again.
    Resume {
        /// The partition.
        partition: i32,
    },
    /// Commit; answer with Committed, Aborted, Fenced or Unknown. One at a time.
    Commit {
        /// The batch's number.
        batch: u64,
        /// Records to write, in order; shared with the runtime, which keeps them until it knows how the commit ended.
        outputs: Vec<Arc<Output>>,
        /// Progress per input partition.
        progress: Vec<(i32, CommittedOffset)>,
    },
    /// Make a call; answer with [`Event::Reply`].
    Call {
        /// The partition.
        partition: i32,
        /// For the reply.
        epoch: Epoch,
        /// The call.
        id: Id,
        /// Cut at this time, milliseconds since the epoch. Check it again just before sending.
        deadline_ms: i64,
        /// What is asked.
        request: C,
    },
    /// The call is no longer wanted.
    Cut {
        /// The call.
        id: Id,
    },
    /// Fetch the group's committed progress anew and answer with [`Event::Assigned`].
    StartOver {
        /// The partition.
        partition: i32,
    },
    /// This partition cannot be worked on until somebody mends it; the others go on.
    Halt {
        /// The partition.
        partition: i32,
        /// What, where, how to mend.
        reason: String,
    },
}
