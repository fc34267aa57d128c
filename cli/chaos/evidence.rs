//! Everything that the checker looks at, gathered once all has come to rest.

use std::collections::BTreeMap;
use std::path::Path;

use p2_core::ids::{BookId, ConversationId};
use p2_core::ledger::Book;
use p2_core::record::{Message, Payload, StateTransition, Topic};
use p2_core::registry::Registry;
use p2_core::step::Settings;
use p2_stream::ports::{Log, LogError, StackStore, StoreError, StoredRecord};
use p2_stream::wire;

use super::history::{Called, Line, parse_calls};
use crate::engine::{EngineError, EngineResult};

/// Topics that are read.
pub(crate) const TOPICS: [Topic; 7] = [
    Topic::Inbox,
    Topic::StateTransitions,
    Topic::Effects,
    Topic::Artifacts,
    Topic::PaymentRequests,
    Topic::LedgerTransactions,
    Topic::DeadLetters,
];
/// What people write that is no message.
pub(crate) const POISON: &[u8] = b"not a message";
/// How such a record is told from others that cannot be decoded.
pub(crate) const POISONED: &str = "it is poison that people wrote";
/// Records that are read at a time.
const READ_MAX: usize = 2_000;

/// A committed record; an error where it cannot be decoded.
pub(crate) type Lying = (i64, Result<Message, String>);

/// The log, the store and the outside world once everything has come to rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// What the campaign did and saw.
    pub(crate) history: Vec<Line>,
    /// Every record of every topic and partition, ascending by offset.
    pub(crate) topics: BTreeMap<(Topic, i32), Vec<Lying>>,
    /// What the tools noted of themselves.
    pub(crate) calls: Vec<Called>,
    /// The store.
    pub(crate) store: StoreView,
    /// The books as somebody folded them who read along.
    pub(crate) books: BTreeMap<BookId, Book>,
    /// The definitions.
    pub(crate) registry: Registry,
    /// The settings of the processors.
    pub(crate) settings: Settings,
}

impl Evidence {
    /// Partitions of the inbox.
    pub(crate) fn partitions(&self) -> i32 {
        let partitions = self.topics.keys().filter(|(topic, _)| *topic == Topic::Inbox).count();
        i32::try_from(partitions).unwrap_or(i32::MAX)
    }
}

/// What the store shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreView {
    /// Conversations in the list, with their number of transitions.
    pub(crate) listed: BTreeMap<ConversationId, i64>,
    /// The transitions of each conversation of the log.
    pub(crate) transitions: BTreeMap<ConversationId, Vec<StateTransition>>,
    /// Conversations with open waits, by partition.
    pub(crate) open: BTreeMap<i32, Vec<ConversationId>>,
    /// The applied offset of each partition.
    pub(crate) applied: BTreeMap<i32, i64>,
}

pub(super) fn of_log(error: &LogError) -> EngineError {
    EngineError::Unavailable(format!("reading the topics: {error}"))
}

pub(super) fn of_store(error: &StoreError) -> EngineError {
    EngineError::Unavailable(format!("reading the store: {error}"))
}

/// All committed records of a partition.
async fn partition(log: &dyn Log, topic: Topic, partition: i32) -> EngineResult<Vec<StoredRecord>> {
    let (start, end) = log.bounds(topic, partition).await.map_err(|error| of_log(&error))?;
    let mut records: Vec<StoredRecord> = Vec::new();
    let mut next = start;
    while next < end {
        let read = log.read(topic, partition, next, READ_MAX).await.map_err(|error| of_log(&error))?;
        let Some(last) = read.last() else { break };
        next = last.offset + 1;
        records.extend(read);
    }
    Ok(records)
}

/// Every record of the topics that are read.
///
/// # Errors
/// The log cannot be read.
pub(crate) async fn topics(log: &dyn Log) -> EngineResult<BTreeMap<(Topic, i32), Vec<Lying>>> {
    let mut found = BTreeMap::new();
    for topic in TOPICS {
        for index in 0..log.partitions(topic) {
            let records = partition(log, topic, index).await?;
            let decoded = records.iter().map(|record| (record.offset, decode(record)));
            found.insert((topic, index), decoded.collect());
        }
    }
    Ok(found)
}

fn decode(record: &StoredRecord) -> Result<Message, String> {
    wire::decode(record).map_err(|error| match record.record.value == POISON {
        true => POISONED.to_owned(),
        false => error.to_string(),
    })
}

/// The definitions as applied.
///
/// # Errors
/// The log cannot be read, or a record is none.
pub(crate) async fn registry(log: &dyn Log) -> EngineResult<Registry> {
    let mut registry = Registry::default();
    p2_core::builtin::definitions().into_iter().for_each(|definition| registry.insert(definition, 0));
    for record in partition(log, Topic::Registry, 0).await? {
        let message = wire::decode(&record).map_err(|error| EngineError::Internal(error.to_string()))?;
        if let Payload::Registry(record) = &message.payload {
            registry.apply(record).map_err(EngineError::Internal)?;
        }
    }
    Ok(registry)
}

/// What the store shows of these conversations, and everything that it lists.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn store(
    store: &dyn StackStore,
    partitions: i32,
    conversations: &[ConversationId],
) -> EngineResult<StoreView> {
    let failed = |error: StoreError| of_store(&error);
    let mut view = StoreView::default();
    for partition in 0..partitions {
        view.open.insert(partition, store.open(partition).await.map_err(failed)?);
        view.applied.insert(partition, store.applied(partition).await.map_err(failed)?);
    }
    let mut after: Option<ConversationId> = None;
    loop {
        let page = store.list(after.as_ref(), 1_000).await.map_err(failed)?;
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        view.listed.extend(page.into_iter().map(|summary| (summary.id, summary.transitions)));
    }
    for conversation in conversations {
        let transitions = store.load(conversation).await.map_err(failed)?;
        view.transitions.insert(conversation.clone(), transitions);
    }
    Ok(view)
}

/// What the tools noted; nothing where none was called.
///
/// # Errors
/// The file cannot be read, or a line is none of theirs.
pub(crate) fn calls(path: &Path) -> EngineResult<Vec<Called>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.map_err(|error| EngineError::Internal(format!("{}: {error}", path.display())))?,
    };
    parse_calls(&text).map_err(|error| EngineError::Internal(format!("{}: {error}", path.display())))
}

/// The conversations of the log, by the transitions that lie there.
pub(crate) fn conversations(topics: &BTreeMap<(Topic, i32), Vec<Lying>>) -> Vec<ConversationId> {
    let mut found: Vec<ConversationId> = topics
        .iter()
        .filter(|((topic, _), _)| *topic == Topic::StateTransitions)
        .flat_map(|(_, records)| records)
        .filter_map(|(_, record)| match record.as_ref().map(|message| &message.payload) {
            Ok(Payload::Transition(transition)) => Some(transition.conversation.clone()),
            _ => None,
        })
        .collect();
    found.sort();
    found.dedup();
    found
}
