//! Reading log and store.

use std::collections::BTreeMap;
use std::time::Duration;

use p2_core::conversation::Conversation;
use p2_core::ids::ConversationId;
use p2_core::record::{Message, Position, Topic};
use p2_stream::ports::{Log, StackStore, StoredRecord};
use p2_stream::wire;
use tokio::time::Instant;

use super::{LocalEngine, engine_error, internal};
use crate::engine::{EngineError, EngineResult};

/// Records read from the log at a time.
pub(super) const READ_RECORDS_MAX: usize = 1_000;
/// How long a read waits for the store to catch up with the log; on a cluster the session time-out more, since nobody
/// writes the rows of a process that was killed before it is missed.
const STORE_LAG_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks at a store whose rows others write: the first and the longest.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// How long rows of this process's own are waited for before the store is asked.
const ROWS_FOLLOW: Duration = Duration::from_millis(5);

impl LocalEngine {
    /// Waits until the store shows everything that is committed for a conversation's partition.
    pub(super) async fn store_is_current(&self, conversation: &ConversationId) -> EngineResult<()> {
        let partitions = self.log.partitions(Topic::StateTransitions);
        self.partition_is_current(wire::partition(conversation.as_str(), partitions)).await
    }

    /// Waits until the store shows everything that is committed in a partition.
    pub(super) async fn partition_is_current(&self, partition: i32) -> EngineResult<()> {
        let (end, is_record) = match self.store.heard(partition) {
            Some(heard) => (heard.next, heard.is_record),
            None => {
                (self.log.bounds(Topic::StateTransitions, partition).await.map_err(engine_error)?.1, false)
            }
        };
        let mut known = self.store.applied_known();
        let reached = |known: &BTreeMap<i32, i64>| known.get(&partition).is_some_and(|at| *at >= end);
        let missed = self.cluster.as_ref().map_or(0, |cluster| cluster.config.session_timeout_ms);
        let until = Instant::now() + STORE_LAG_MAX + Duration::from_millis(missed.into());
        let mut pause = LOOK_EVERY.0;
        if reached(&known.borrow_and_update()) {
            return Ok(());
        }
        // Rows follow their news within milliseconds.
        if is_record && tokio::time::timeout(ROWS_FOLLOW, known.wait_for(reached)).await.is_ok() {
            return Ok(());
        }
        // One looks for all who wait; the others learn what it finds.
        let look = self.store.look(partition);
        let _looking = tokio::select! {
            _ = known.wait_for(reached) => return Ok(()),
            looking = look.lock() => looking,
        };
        loop {
            if reached(&known.borrow_and_update()) {
                return Ok(());
            }
            // Rows of an earlier process, or of another one.
            let applied = self.store.applied(partition).await.map_err(internal)?;
            let looks = (pause == LOOK_EVERY.0 && !is_record) || pause == LOOK_EVERY.1;
            if applied >= end || (looks && self.is_gap(partition, applied, end).await?) {
                self.store.note_applied(partition, end.max(applied));
                return Ok(());
            }
            self.store.note_applied(partition, applied);
            if Instant::now() >= until {
                return Err(EngineError::Timeout(format!(
                    "the view of partition {partition} is at offset {applied}, the log at {end}, and nobody \
                     brings it there: is an agent-step running (p2engine run agent-step)? Then try again"
                )));
            }
            // This process's own rows wake it.
            let _ = tokio::time::timeout(pause, known.wait_for(reached)).await;
            pause = (pause * 2).min(LOOK_EVERY.1);
        }
    }

    /// Whether nothing that the store lacks lies between two offsets: a log on Kafka has offsets without records.
    async fn is_gap(&self, partition: i32, applied: i64, end: i64) -> EngineResult<bool> {
        if self.cluster.is_none() {
            return Ok(false);
        }
        let next = self.log.read(Topic::StateTransitions, partition, applied, 1).await;
        Ok(next.map_err(engine_error)?.first().is_none_or(|next| next.offset >= end))
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
            for stored in read_all(self.log.as_ref(), topic, partition).await? {
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
pub(super) async fn read_all(log: &dyn Log, topic: Topic, partition: i32) -> EngineResult<Vec<StoredRecord>> {
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
