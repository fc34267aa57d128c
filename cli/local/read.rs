//! Reading log and store.

use std::time::Duration;

use p2_core::conversation::Conversation;
use p2_core::ids::ConversationId;
use p2_core::record::{Message, Position, Topic};
use p2_embedded::EmbeddedLog;
use p2_stream::ports::{Log, StackStore, StoredRecord};
use p2_stream::wire;

use super::{LocalEngine, engine_error, internal};
use crate::engine::{EngineError, EngineResult};

/// Records read from the log at a time.
pub(super) const READ_RECORDS_MAX: usize = 1_000;
/// How long a read waits for the store to catch up with the log.
const STORE_LAG_MAX: Duration = Duration::from_secs(5);

impl LocalEngine {
    /// Waits until the store shows everything that is committed for a conversation's partition.
    pub(super) async fn store_is_current(&self, conversation: &ConversationId) -> EngineResult<()> {
        let partitions = self.log.partitions(Topic::StateTransitions);
        let partition = wire::partition(conversation.as_str(), partitions);
        let (_, end) = self.log.bounds(Topic::StateTransitions, partition).await.map_err(engine_error)?;
        let mut here = self.store.applied_here();
        if here.borrow_and_update().get(&partition).is_some_and(|applied| *applied >= end) {
            return Ok(());
        }
        // Rows of an earlier process.
        if self.store.applied(partition).await.map_err(internal)? >= end {
            return Ok(());
        }
        let written = here.wait_for(|applied| applied.get(&partition).is_some_and(|applied| *applied >= end));
        match tokio::time::timeout(STORE_LAG_MAX, written).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let late = format!("the view of partition {partition} is behind the log; try again");
                Err(EngineError::Timeout(late))
            }
        }
    }

    /// The fold of what the store has of a conversation; none where it has nothing.
    pub(super) async fn fold_of_store(&self, id: &ConversationId) -> EngineResult<Option<Conversation>> {
        let transitions = self.store.load(id).await.map_err(internal)?;
        if transitions.is_empty() {
            return Ok(None);
        }
        let mut conversation = Conversation::default();
        for transition in &transitions {
            conversation.apply(transition).map_err(internal)?;
        }
        Ok(Some(conversation))
    }

    /// All messages of a topic that can be read, or those of one key.
    pub(super) async fn messages(
        &self,
        topic: Topic,
        key: Option<&str>,
    ) -> EngineResult<Vec<(Position, Message)>> {
        let partitions = self.log.partitions(topic);
        let wanted = key.map(|key| wire::partition(key, partitions));
        let mut found = Vec::new();
        for partition in (0..partitions).filter(|index| wanted.is_none_or(|wanted| wanted == *index)) {
            for stored in read_all(&self.log, topic, partition).await? {
                let message = match decode(&stored) {
                    Ok(message) => message,
                    Err(error) => {
                        tracing::warn!(target: "p2engine", %error, "a record is left out");
                        continue;
                    }
                };
                if key.is_none_or(|key| message.payload.key() == key) {
                    found.push((stored.position(), message));
                }
            }
        }
        Ok(found)
    }
}

/// All records of a partition.
pub(super) async fn read_all(
    log: &EmbeddedLog,
    topic: Topic,
    partition: i32,
) -> EngineResult<Vec<StoredRecord>> {
    let (mut from, _) = log.bounds(topic, partition).await.map_err(engine_error)?;
    let mut all = Vec::new();
    loop {
        let more = log.read(topic, partition, from, READ_RECORDS_MAX).await.map_err(engine_error)?;
        let Some(last) = more.last() else { return Ok(all) };
        from = last.offset + 1;
        all.extend(more);
    }
}

/// The message of a record.
pub(super) fn decode(stored: &StoredRecord) -> EngineResult<Message> {
    wire::decode(stored).map_err(|error| {
        let at = stored.position();
        EngineError::Internal(format!("{}/{}/{}: {error}", at.topic.name(), at.partition, at.offset))
    })
}
