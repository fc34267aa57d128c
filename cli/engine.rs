//! What the commands need from a running engine, whether it runs in this process or in another one.

mod ledger;

use std::time::Duration;

use async_trait::async_trait;
use p2_core::conversation::Conversation;
use p2_core::ids::{BookId, ConversationId, Id};
use p2_core::record::{Artifact, DeadLetter, InboxMessage, Message, Outcome, Payload, Position, Topic};
use p2_core::record::{LedgerTransaction, PaymentRequest, RegistryRecord, ToolOutcome};
use p2_core::registry::Registry;
use p2_core::state::WaitKind;
use p2_stream::ports::{ConversationSummary, StoredRecord};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use ledger::{AccountLine, BookView, LedgerReport};

/// How long `submit` waits for the outcome of an input.
pub(crate) const OUTCOME_TIMEOUT: Duration = Duration::from_secs(30);

/// A failure of the engine, in the classes that decide exit code and HTTP status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine looked at it and said no. `code` is stable.
    #[error("{message}")]
    Refused { code: String, message: String },
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// No answer in time; what was asked may still happen.
    #[error("{0}")]
    Timeout(String),
    /// Nothing serves this data directory, or it stopped.
    #[error("{0}")]
    Unavailable(String),
    /// The process that was asked has ended; where `sent`, it may have done what it was asked for.
    #[error("{message}")]
    Gone { message: String, sent: bool },
    /// The token is missing or not the one of this process.
    #[error("{0}")]
    Unauthorized(String),
    /// A comparison found differences. The command has already shown which, also with `--json`.
    #[error("{0}")]
    Differs(String),
    /// Anything else.
    #[error("{0}")]
    Internal(String),
}

impl EngineError {
    /// The stable code, as in the HTTP API's error shape.
    pub(crate) fn code(&self) -> &str {
        match self {
            EngineError::Refused { code, .. } => code,
            EngineError::NotFound(_) => "not_found",
            EngineError::Invalid(_) => "invalid",
            EngineError::Timeout(_) => "timeout",
            EngineError::Unavailable(_) | EngineError::Gone { .. } => "unavailable",
            EngineError::Unauthorized(_) => "unauthorized",
            EngineError::Differs(_) => "differs",
            EngineError::Internal(_) => "internal",
        }
    }
}

/// The result of every call of the engine.
pub(crate) type EngineResult<T> = Result<T, EngineError>;

/// Which artifacts: all conditions together.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct ArtifactFilter {
    /// Of this conversation; none: of all.
    pub conversation: Option<ConversationId>,
    /// With this `ArtifactBody::kind`.
    pub kind: Option<String>,
    /// At or after this time, milliseconds since the epoch.
    pub since_ms: Option<i64>,
    /// The newest so many; none: all.
    pub limit: Option<usize>,
}

/// Which records of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordsQuery {
    /// The topic.
    pub topic: Topic,
    /// One partition; none: all.
    pub partition: Option<i32>,
    /// The first offset wanted, in each partition; negative counts back from the end.
    pub from: i64,
    /// At most so many of each partition.
    pub max: usize,
}

/// One record of a topic, decoded, as people and programs see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RecordView {
    /// Short name of the topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Record key.
    pub key: String,
    /// `ce_id`.
    pub id: Id,
    /// The id of what led to it; its own where a person did.
    pub cause: Id,
    /// `topic/partition/offset` of the cause, where it is a record.
    pub cause_position: Option<String>,
    /// Milliseconds since the epoch.
    pub time_ms: i64,
    /// `traceparent`, where there is one.
    pub traceparent: Option<String>,
    /// What it is, e.g. `user_text`.
    pub kind: String,
    /// The value.
    pub value: Value,
}

impl RecordView {
    /// The view of a decoded record at its place.
    pub(crate) fn new(position: Position, message: &Message) -> EngineResult<RecordView> {
        let (kind, value) = match &message.payload {
            Payload::Inbox(inbox) => (inbox.body.kind().to_owned(), serde_json::to_value(inbox)),
            Payload::Transition(step) => ("transition".to_owned(), serde_json::to_value(step)),
            Payload::Effect(effect) => ("effect".to_owned(), serde_json::to_value(effect)),
            Payload::Artifact(artifact) => (artifact.body.kind().to_owned(), serde_json::to_value(artifact)),
            Payload::PaymentRequest(request) => {
                (request.body.kind().to_owned(), serde_json::to_value(request))
            }
            Payload::LedgerTransaction(transaction) => {
                (transaction.outcome.as_str().to_owned(), serde_json::to_value(transaction))
            }
            Payload::Registry(record) => (record.kind.clone(), serde_json::to_value(record)),
            Payload::DeadLetter(letter) => (letter.code.clone(), serde_json::to_value(letter)),
        };
        Ok(RecordView {
            topic: position.topic.short().to_owned(),
            partition: position.partition,
            offset: position.offset,
            key: message.payload.key().to_owned(),
            id: message.id,
            cause: message.cause,
            cause_position: message
                .cause_position
                .map(|at| format!("{}/{}/{}", at.topic.short(), at.partition, at.offset)),
            time_ms: message.time_ms,
            traceparent: message.traceparent.clone(),
            kind,
            value: value.map_err(|error| EngineError::Internal(format!("a record is not JSON: {error}")))?,
        })
    }
}

impl RecordView {
    /// The view of a record that cannot be read: what it is stays in sight, and the rest of its topic too.
    pub(crate) fn unreadable(stored: &StoredRecord, reason: &str) -> RecordView {
        let at = stored.position();
        let place = format!("{}/{}/{}", at.topic.short(), at.partition, at.offset);
        let id = Id::of_text(&place);
        RecordView {
            topic: at.topic.short().to_owned(),
            partition: at.partition,
            offset: at.offset,
            key: stored.record.key.clone(),
            id,
            cause: id,
            cause_position: None,
            time_ms: stored.record.time_ms,
            traceparent: None,
            kind: "unreadable".to_owned(),
            value: serde_json::json!({"reason": reason, "bytes": stored.record.value.len()}),
        }
    }
}

/// One line of the list of conversations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConversationLine {
    /// Its id, which is the name that people gave it.
    pub id: ConversationId,
    /// The agent that people talk to.
    pub agent: String,
    /// Milliseconds since the epoch.
    pub opened_ms: i64,
    /// Milliseconds since the epoch.
    pub changed_ms: i64,
    /// Transitions so far.
    pub transitions: i64,
    /// Open waits.
    pub open_waits: i64,
}

impl From<ConversationSummary> for ConversationLine {
    fn from(summary: ConversationSummary) -> ConversationLine {
        ConversationLine {
            id: summary.id,
            agent: summary.root.0,
            opened_ms: summary.opened_ms,
            changed_ms: summary.changed_ms,
            transitions: summary.transitions,
            open_waits: summary.open_waits,
        }
    }
}

/// An effect of which nobody knows whether it was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct InDoubt {
    /// The effect.
    pub effect: Id,
    /// The wait that its result closes.
    pub wait: Id,
    /// The provider's call id.
    pub call_id: String,
    /// The conversation.
    pub conversation: ConversationId,
    /// The agent that asked.
    pub agent: String,
    /// The tool.
    pub tool: String,
    /// The arguments.
    pub arguments: Value,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
    /// Why it is not known.
    pub detail: String,
}

/// What a person found out about an effect in doubt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "resolution", rename_all = "snake_case")]
pub(crate) enum Resolution {
    /// It was done, with this result (a JSON object).
    Done { result: Value },
    /// It was not done and will not be.
    NotDone { reason: String },
}

impl Resolution {
    /// The tool outcome that closes the wait of `doubt`.
    pub(crate) fn outcome(&self, doubt: &InDoubt) -> ToolOutcome {
        use p2_core::state::ToolStatus;
        let (status, result, reward) = match self {
            Resolution::Done { result } => (ToolStatus::Success, result.clone(), 1.0),
            Resolution::NotDone { reason } => {
                (ToolStatus::Error, serde_json::json!({ "message": reason }), 0.0)
            }
        };
        ToolOutcome {
            effect: doubt.effect,
            wait: doubt.wait,
            call_id: doubt.call_id.clone(),
            status,
            result: result.into(),
            reward: Some(reward),
            latency_ms: None,
        }
    }
}

/// What a replay of all transitions showed.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct VerifyReport {
    /// Conversations compared.
    pub conversations: u64,
    /// Transitions folded.
    pub transitions: u64,
    /// One sentence per difference between the fold and the live view; empty is what we want.
    pub differences: Vec<String>,
}

/// Where the partitions of a topic begin and end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicCount {
    /// Short name.
    pub topic: String,
    /// (first offset kept, offset after the last record) per partition.
    pub partitions: Vec<(i64, i64)>,
}

impl TopicCount {
    /// Offsets in use over all partitions.
    pub(crate) fn records(&self) -> i64 {
        self.partitions.iter().map(|(first, end)| end - first).sum()
    }
}

/// A running engine. All calls may be made at the same time; all of them are safe to drop.
#[async_trait]
pub(crate) trait Engine: Send + Sync {
    /// Appends one message to `inbox`; durable when it returns. The same `id` again is the same message.
    async fn append(&self, id: Id, message: InboxMessage) -> EngineResult<()>;

    /// The outcome of an input, once there is one; none where `timeout` passed before.
    async fn outcome(
        &self,
        conversation: &ConversationId,
        input: Id,
        timeout: Duration,
    ) -> EngineResult<Option<Outcome>>;

    /// Appends a message under a fresh id and waits for its outcome. A refusal is an outcome, not an error.
    async fn submit(&self, message: InboxMessage) -> EngineResult<(Id, Outcome)> {
        let id = draw_id();
        let conversation = message.conversation.clone();
        self.append(id, message).await?;
        match self.outcome(&conversation, id, OUTCOME_TIMEOUT).await? {
            Some(outcome) => Ok((id, outcome)),
            None => Err(EngineError::Timeout(format!(
                "conversation '{conversation}': message {id} is stored, but was not processed within {} s; it \
                 will be: look with 'p2engine conversation stack {conversation}'",
                OUTCOME_TIMEOUT.as_secs()
            ))),
        }
    }

    /// A conversation as it is now.
    async fn conversation(&self, id: &ConversationId) -> EngineResult<Option<Conversation>>;

    /// All conversations, by id.
    async fn conversations(&self) -> EngineResult<Vec<ConversationLine>>;

    /// The conversation as soon as its `next_seq` is greater than `seen_seq`, or as it is after `timeout`.
    async fn wait_change(
        &self,
        id: &ConversationId,
        seen_seq: i64,
        timeout: Duration,
    ) -> EngineResult<Option<Conversation>>;

    /// As [`Engine::wait_change`], but only once [`rests`].
    async fn wait_rest(
        &self,
        id: &ConversationId,
        seen_seq: i64,
        timeout: Duration,
    ) -> EngineResult<Option<Conversation>>;

    /// Artifacts, oldest first.
    async fn artifacts(&self, filter: &ArtifactFilter) -> EngineResult<Vec<Artifact>>;

    /// Asks for evaluations: appends these events, which must be requests; durable when it returns.
    async fn request_evaluations(&self, requests: Vec<Artifact>) -> EngineResult<()>;

    /// Records, by partition and offset.
    async fn records(&self, query: &RecordsQuery) -> EngineResult<Vec<RecordView>>;

    /// The definitions; at least the newest version of each.
    async fn registry(&self) -> EngineResult<Registry>;

    /// Appends registry records and waits until `registry` shows them.
    async fn apply(&self, records: Vec<RegistryRecord>) -> EngineResult<()>;

    /// Dead letters, oldest first.
    async fn dead_letters(&self) -> EngineResult<Vec<DeadLetter>>;

    /// Hands a dead letter to its consumer group again, at the end of its lane.
    async fn replay_dead_letter(&self, letter: Id, force: bool) -> EngineResult<()>;

    /// Effects in doubt, oldest first.
    async fn in_doubt(&self) -> EngineResult<Vec<InDoubt>>;

    /// Closes an effect in doubt with what a person found out.
    async fn resolve(&self, effect: Id, resolution: Resolution) -> EngineResult<()>;

    /// Folds all transitions anew and compares with the live view.
    async fn verify_replay(&self) -> EngineResult<VerifyReport>;

    /// Appends a payment request and waits for its transaction. A refusal is a transaction, not an error; where the
    /// id was answered before, it is the first one, and [`EngineError::Refused`] with `conflict` where that asked for
    /// something else.
    async fn pay(&self, request: PaymentRequest) -> EngineResult<LedgerTransaction>;

    /// A book as it is now; none where it was never opened.
    async fn book(&self, book: &BookId) -> EngineResult<Option<BookView>>;

    /// The books that were opened, by name.
    async fn books(&self) -> EngineResult<Vec<BookId>>;

    /// Folds all ledger transactions anew, checks every rule and compares with the live books.
    async fn verify_ledger(&self) -> EngineResult<LedgerReport>;

    /// Offsets of every topic.
    async fn topic_counts(&self) -> EngineResult<Vec<TopicCount>>;
}

/// Whether the run that is checked out awaits nothing, or something that takes as long as a person does: an
/// answer, or word of a call whose outcome nobody knows.
pub(crate) fn rests(conversation: &Conversation) -> bool {
    let root = &conversation.root;
    let slow = |kind, deadline: Option<i64>| {
        let outside = matches!(kind, WaitKind::Tool | WaitKind::Payment);
        kind == WaitKind::UserInput || (outside && deadline.is_none())
    };
    conversation.waits_on(root, &conversation.current(root)).is_empty()
        || conversation.waits.values().any(|wait| slow(wait.waiting.kind, wait.waiting.deadline_ms))
}

/// A fresh id, drawn at the edge.
pub(crate) fn draw_id() -> Id {
    Id::from_bytes(rand::random())
}
