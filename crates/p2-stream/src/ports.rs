//! The ports: what the runtime needs from the outside, each with one embedded and one real implementation.

mod headers;

use async_trait::async_trait;
use p2_core::ids::{AgentId, BookId, BranchId, ConversationId, Id};
use p2_core::ledger::{Book, Submission, Submitted};
use p2_core::model::{ModelOutcome, ModelRequest};
use p2_core::record::{LedgerTransaction, Position, StateTransition, Topic};
use p2_core::state::Entry;

pub use headers::Headers;

/// A record to be written: encoded, and already assigned to its partition (murmur2 of the key).
#[derive(Clone, Debug, PartialEq)]
pub struct NewRecord {
    /// The topic.
    pub topic: Topic,
    /// The partition.
    pub partition: i32,
    /// The key, UTF-8.
    pub key: String,
    /// CloudEvents headers, `traceparent`, `content-type`, causes.
    pub headers: Headers,
    /// Avro single-object encoding; empty for a tombstone.
    pub value: Vec<u8>,
    /// Milliseconds since the epoch.
    pub time_ms: i64,
}

/// A record as read from the log.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRecord {
    /// Its offset in (topic, partition).
    pub offset: i64,
    /// What was written.
    pub record: NewRecord,
}

impl StoredRecord {
    /// Where it lies.
    pub fn position(&self) -> Position {
        Position { topic: self.record.topic, partition: self.record.partition, offset: self.offset }
    }
}

/// What a commit records for one input partition: Kafka's committed offset and its metadata string.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CommittedOffset {
    /// The low watermark: every offset below it is done.
    pub offset: i64,
    /// Batch number, nonce and the bitmap of the window ahead; at most 4,096 bytes, ASCII.
    pub metadata: String,
}

/// One transaction: all of it, or nothing of it, becomes visible and durable.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Batch {
    /// Records to append, in order.
    pub outputs: Vec<NewRecord>,
    /// Progress of the input partitions that they came from: (topic, partition, progress).
    pub progress: Vec<(Topic, i32, CommittedOffset)>,
}

/// How a commit ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Nothing of it is visible, and it may be tried again.
    #[error("commit aborted: {0}")]
    Aborted(String),
    /// Nothing of it is visible, and the same batch will not go through later either: with fewer records it may.
    #[error("commit does not fit: {0}")]
    Unfit(String),
    /// Nothing of it is visible, and this member may no longer commit for these partitions.
    #[error("commit refused: this member was fenced: {0}")]
    Fenced(String),
    /// It may or may not be visible: read the committed batch number back.
    #[error("commit outcome unknown: {0}")]
    Unknown(String),
}

/// A failure of the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Worth retrying.
    #[error("log unavailable: {0}")]
    Unavailable(String),
    /// A topic, partition or offset that is not there.
    #[error("{0}")]
    NotFound(String),
    /// The log is damaged or of another format; nothing was changed.
    #[error("{0}")]
    Corrupt(String),
    /// A record over the limit.
    #[error("{0}")]
    TooLarge(String),
    /// The log does not serve this client: its settings, its credentials, or its place is taken by another.
    /// Waiting does not help.
    #[error("{0}")]
    Refused(String),
}

impl LogError {
    /// A read below the first offset kept.
    pub fn before_start(topic: Topic, partition: i32, from: i64, start: i64) -> LogError {
        let topic = topic.name();
        LogError::NotFound(format!(
            "{topic} partition {partition} begins at offset {start}: what was at {from} is deleted"
        ))
    }
}

/// What a member of a group is told.
#[derive(Clone, Debug, PartialEq)]
pub enum MemberEvent {
    /// A partition is now this member's. `committed` is absent where the group never committed for it.
    Assigned {
        /// Topic.
        topic: Topic,
        /// Partition.
        partition: i32,
        /// The group's progress.
        committed: Option<CommittedOffset>,
    },
    /// A partition is no longer this member's.
    Revoked {
        /// Topic.
        topic: Topic,
        /// Partition.
        partition: i32,
    },
    /// Records of one assigned partition, ascending, after the last ones.
    Records {
        /// Topic.
        topic: Topic,
        /// Partition.
        partition: i32,
        /// The records.
        records: Vec<StoredRecord>,
    },
    /// Records that this member was still to get are gone: the log begins above the next one of them. Nothing
    /// more of that partition is delivered before the next seek.
    Truncated {
        /// Topic.
        topic: Topic,
        /// Partition.
        partition: i32,
        /// The first offset that is kept.
        start: i64,
    },
}

/// The log: topics of partitions of records.
#[async_trait]
pub trait Log: Send + Sync {
    /// Partitions of a topic.
    fn partitions(&self, topic: Topic) -> i32;

    /// Appends records outside of any group (CLI, HTTP API): all or none, durable when it returns.
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, LogError>;

    /// Committed records from `from` on, ascending, at most `records_max`, and fewer at the end or where they are
    /// large; offsets may have gaps. Empty at the end and behind it. [`LogError::NotFound`] below the log's start: what is gone must not
    /// pass for a gap.
    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        records_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError>;

    /// As [`Log::read`], for who wants keys, values and times: headers may be left out, where that is cheaper.
    async fn read_values(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        records_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.read(topic, partition, from, records_max).await
    }

    /// Committed records among the newest `offsets` offsets of what is decided, ascending: an open transaction is not
    /// waited for, and nothing behind its beginning is seen. Fewer where they are large.
    async fn newest(
        &self,
        topic: Topic,
        partition: i32,
        offsets: i64,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let records_max = usize::try_from(offsets).unwrap_or(0);
        loop {
            let (start, end) = self.bounds(topic, partition).await?;
            let from = end.saturating_sub(offsets).max(start);
            match self.read(topic, partition, from, records_max).await {
                // Deleted since: it begins somewhere else now.
                Err(LogError::NotFound(_)) if self.bounds(topic, partition).await?.0 > from => {}
                records => return records,
            }
        }
    }

    /// (first offset kept, high watermark: above the last record).
    async fn bounds(&self, topic: Topic, partition: i32) -> Result<(i64, i64), LogError>;

    /// The offset of the first committed record at or after a time (milliseconds since the epoch), by the records'
    /// own times; the high watermark where there is none. Exact where times ascend; where they do not, some record
    /// around that time. Never below the first offset kept.
    async fn offset_at(&self, topic: Topic, partition: i32, time_ms: i64) -> Result<i64, LogError> {
        search_by_time(self, topic, partition, time_ms).await
    }

    /// Reads partitions from the given offsets on, for ever and outside of any group: every follower gets every
    /// committed record once, ascending in each partition. [`LogError::NotFound`] later, from
    /// [`Follower::next`], where an offset is below the log's start.
    async fn follow(&self, from: Vec<(Topic, i32, i64)>) -> Result<Box<dyn Follower>, LogError>;

    /// Joins a consumer group on these topics.
    async fn join(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Member>, LogError>;
}

/// Reads on as records come. Dropping it ends it.
#[async_trait]
pub trait Follower: Send {
    /// The next records of one partition, at least one; waits until there are some. Cancel-safe.
    async fn next(&mut self) -> Result<Vec<StoredRecord>, LogError>;
}

/// Bisects a partition: a dozen reads of one record.
///
/// # Errors
/// As [`Log::read`].
pub async fn search_by_time<L: Log + ?Sized>(
    log: &L,
    topic: Topic,
    partition: i32,
    time_ms: i64,
) -> Result<i64, LogError> {
    let (mut low, end) = log.bounds(topic, partition).await?;
    let (mut high, mut found_at) = (end, end);
    while low < high {
        let middle = low + (high - low) / 2;
        match log.read(topic, partition, middle, 1).await?.first() {
            Some(found) if found.record.time_ms < time_ms => low = found.offset + 1,
            // Not `middle`: there may be no record, only the end of a transaction.
            found => (high, found_at) = (middle, found.map_or(end, |found| found.offset)),
        }
    }
    Ok(found_at)
}

/// A member of a consumer group.
#[async_trait]
pub trait Member: Send + Sync {
    /// The next event; waits until there is one. Cancel-safe.
    async fn next(&mut self) -> Result<MemberEvent, LogError>;

    /// The group's committed progress of a partition as of now, settled: no commit of this member that is under
    /// way, dropped or of unknown outcome can change it afterwards.
    async fn committed(&self, topic: Topic, partition: i32) -> Result<Option<CommittedOffset>, LogError>;

    /// Starts delivery of an assigned partition at `offset` (after catch-up, to start over, or to go on). Nothing that
    /// was read before is delivered any more.
    async fn seek(&mut self, topic: Topic, partition: i32, offset: i64) -> Result<(), LogError>;

    /// No more records of that partition until resumed. Those on their way may still arrive.
    fn pause(&mut self, topic: Topic, partition: i32);

    /// Records of that partition again.
    fn resume(&mut self, topic: Topic, partition: i32);

    /// A handle that commits beside `next`.
    fn committer(&self) -> std::sync::Arc<dyn Committer>;
}

/// Commits batches of one member, one at a time, in order.
#[async_trait]
pub trait Committer: Send + Sync {
    /// Commits one batch. Returns where the outputs lie, in order.
    async fn commit(&self, batch: Batch) -> Result<Vec<Position>, CommitError>;
}

/// A failure of the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Worth retrying: the processor pauses, says so and goes on when it is back.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// The store belongs to another log.
    #[error("{0}")]
    Foreign(String),
    /// The view was rebuilt: another generation of it is read now than the one that this handle writes. Whoever
    /// writes drops what it knows of the view, calls [`StackStore::follow`] and catches up.
    #[error("{0}")]
    Rebuilt(String),
    /// A row that cannot be read.
    #[error("{0}")]
    Corrupt(String),
}

/// One line of the list of conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationSummary {
    /// Its id.
    pub id: ConversationId,
    /// Its root agent.
    pub root: AgentId,
    /// When it began, milliseconds since the epoch.
    pub opened_ms: i64,
    /// When it last changed.
    pub changed_ms: i64,
    /// Its transitions so far.
    pub transitions: i64,
    /// Open waits.
    pub open_waits: i64,
}

/// The view of `state-transitions`: stacks, branches, waits. Written only from committed records, in offset
/// order per partition, by the owner of that partition.
#[async_trait]
pub trait StackStore: Send + Sync {
    /// Writes the view of these committed transitions of one partition, then notes `applied` (the offset
    /// after the last one). Writing the same again changes nothing.
    async fn write(
        &self,
        partition: i32,
        transitions: Vec<(i64, StateTransition)>,
        applied: i64,
    ) -> Result<(), StoreError>;

    /// The offset up to which a partition is in the store; 0 for none.
    async fn applied(&self, partition: i32) -> Result<i64, StoreError>;

    /// A conversation's transitions in order; empty where there is none.
    async fn load(&self, conversation: &ConversationId) -> Result<Vec<StateTransition>, StoreError>;

    /// The newest `entries_max` own entries of one branch below `before`, newest first. One query whatever
    /// the depth; the caller goes on in the parent for inherited ones.
    async fn tail(
        &self,
        conversation: &ConversationId,
        agent: &AgentId,
        branch: &BranchId,
        before: i64,
        entries_max: usize,
    ) -> Result<Vec<Entry>, StoreError>;

    /// Conversations of a partition that have open waits.
    async fn open(&self, partition: i32) -> Result<Vec<ConversationId>, StoreError>;

    /// All conversations, by id, after `after`, at most `max`.
    async fn list(
        &self,
        after: Option<&ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationSummary>, StoreError>;

    /// Removes every row (a rebuild starts from offset 0).
    async fn wipe(&self) -> Result<(), StoreError>;

    /// Goes over to the generation of the view that is read now, after [`StoreError::Rebuilt`]. Its applied offsets
    /// and rows are its own, so nothing that is known of the old one may be used or written any more: no other
    /// request of this handle or its clones is under way. Stores without generations have nothing to do.
    async fn follow(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The view of `ledger-transactions`: the books. Written only from committed records, in offset order per partition.
#[async_trait]
pub trait LedgerStore: Send + Sync {
    /// Takes in these committed transactions of one partition, then notes `applied` (the offset after the last
    /// one). Taking the same in again changes nothing.
    async fn write(
        &self,
        partition: i32,
        transactions: &[(i64, &LedgerTransaction)],
        applied: i64,
    ) -> Result<(), StoreError>;

    /// The offset up to which a partition is in the store; 0 for none.
    async fn applied(&self, partition: i32) -> Result<i64, StoreError>;

    /// A book as far as it is in the store; an empty one where there is none.
    async fn load(&self, book: &BookId) -> Result<Book, StoreError>;

    /// Books of a partition in which something ends by itself, or that have a batch at an outside ledger.
    async fn open(&self, partition: i32) -> Result<Vec<BookId>, StoreError>;
}

/// A ledger outside of the log that books can have their money on.
///
/// It takes a batch as a whole or not at all, and no batch twice: every submission names what the ledger's own
/// cursor of the book must be at, and moves it on in the same step.
#[async_trait]
pub trait OutsideLedger: Send + Sync {
    /// Submits a batch, for the first time as far as is known. Tries what may be tried again, under the same command,
    /// until `deadline_ms` (milliseconds since the epoch).
    async fn submit(&self, batch: &Submission, deadline_ms: i64) -> Submitted;

    /// Finds out what became of a batch that may have been submitted: reads first, and submits it again only where
    /// it is not there.
    async fn reconcile(&self, batch: &Submission, deadline_ms: i64) -> Submitted;

    /// What its cursor of a book is at; none where it does not know the book.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where it cannot be asked now.
    async fn cursor(&self, book: &BookId) -> Result<Option<i64>, StoreError>;
}

/// A model provider.
#[async_trait]
pub trait Model: Send + Sync {
    /// Asks, with retries, until there is a whole reply, a permanent error or the deadline (milliseconds since
    /// the epoch). Dropping the future cancels the call.
    async fn ask(&self, request: &ModelRequest, deadline_ms: i64) -> ModelOutcome;
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolRequest {
    /// The effect's id: the idempotency key.
    pub key: Id,
    /// The tool.
    pub tool: String,
    /// Validated arguments, a JSON object.
    pub arguments: serde_json::Value,
    /// The conversation.
    pub conversation: ConversationId,
    /// The agent that asks.
    pub agent: AgentId,
    /// Its branch.
    pub branch: BranchId,
    /// Cut at this time, milliseconds since the epoch.
    pub deadline_ms: i64,
}

/// What a tool answered.
#[derive(Clone, Debug, PartialEq)]
pub enum ToolReply {
    /// It did it.
    Success(serde_json::Value),
    /// It said no: nothing was done.
    Failure(String),
    /// No answer before the deadline: it may or may not have been done.
    Unknown(String),
}

/// What a reconciler says of a claimed call.
#[derive(Clone, Debug, PartialEq)]
pub enum Reconciled {
    /// It was done, with this answer.
    Done(ToolReply),
    /// It was not done and will not be.
    NotDone,
    /// It cannot say.
    Unknown,
}

/// The tools of a process.
#[async_trait]
pub trait Toolbox: Send + Sync {
    /// Calls a tool. Dropping the future cuts the call.
    async fn call(&self, request: &ToolRequest) -> ToolReply;

    /// Asks what became of a claimed call.
    async fn reconcile(&self, request: &ToolRequest) -> Reconciled;
}
