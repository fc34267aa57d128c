//! Writes: the rows of each conversation, then the applied offset.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::{try_join, try_join_all};
use futures::stream::{self, StreamExt, TryStreamExt};
use p2_core::ids::{ConversationId, Id};
use p2_core::record::{Change, StateTransition};
use p2_stream::ports::StoreError;
use scylla::statement::batch::{Batch, BatchStatement, BatchType};

use crate::cell;
use crate::head::Head;
use crate::store::Inner;

/// Conversations written at a time within one write.
const CONVERSATIONS_MAX: usize = 32;
/// A batch is closed before the next row would take it over this many bytes. A batch lies within one CQL
/// partition, so its size costs nobody atomicity; what it bounds is one message to a node.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// A transition that has entries: found by [`CqlStore::tail`](crate::CqlStore).
const WITH_ENTRIES: i32 = 0;
/// One that has none.
const WITHOUT: i32 = 1;

/// The timestamp of what a record at this offset writes. Offsets begin at 0, timestamps of writes at 1.
pub(crate) fn timestamp(offset: i64) -> i64 {
    offset.saturating_add(1)
}

/// The shard of a conversation. Not the hash of the log's partitioner: within one partition of the log that one
/// has few values left.
pub(crate) fn shard(conversation: &ConversationId, shards: i32) -> i32 {
    let [a, b, c, d, ..] = *Id::of_text(conversation.as_str()).as_bytes();
    i32::from_be_bytes([a & 0x7F, b, c, d]) % shards.max(1)
}

/// `(generation, conversation, bucket, kind, agent, branch, first, seq, cell, timestamp)`.
type RowValues = (i32, Arc<str>, i32, i32, String, String, i64, i64, Vec<u8>, i64);

struct NewRow {
    offset: i64,
    seq: i64,
    kind: i32,
    agent: String,
    branch: String,
    first: i64,
    cell: Vec<u8>,
}

impl NewRow {
    fn of(offset: i64, transition: &StateTransition) -> Result<NewRow, StoreError> {
        let seqs = transition.changes.iter().flat_map(|change| match change {
            Change::Appended(appended) => appended.entries.as_slice(),
            _ => &[],
        });
        let first = seqs.map(|entry| entry.seq).min();
        Ok(NewRow {
            offset,
            seq: transition.seq,
            kind: if first.is_some() { WITH_ENTRIES } else { WITHOUT },
            agent: transition.agent.0.clone(),
            branch: transition.branch.0.clone(),
            first: first.unwrap_or(0),
            cell: cell::of_transition(transition)?,
        })
    }

    fn values(self, generation: i32, conversation: Arc<str>, bucket: i32) -> RowValues {
        let NewRow { offset, seq, kind, agent, branch, first, cell } = self;
        (generation, conversation, bucket, kind, agent, branch, first, seq, cell, timestamp(offset))
    }
}

impl Inner {
    /// Writes rows, and the applied offset when all of them are acknowledged. Returns the bytes of the cells.
    pub(crate) async fn put(
        &self,
        generation: i32,
        partition: i32,
        transitions: &Arc<Vec<(i64, StateTransition)>>,
        applied: i64,
    ) -> Result<usize, StoreError> {
        // A partition is known before it has rows, so that whoever drops the generation finds them all.
        if !self.is_announced(generation, partition) {
            self.write_applied(generation, partition, 0).await?;
            self.set_announced(generation, partition);
        }
        let mut by_conversation: BTreeMap<ConversationId, Vec<usize>> = BTreeMap::new();
        for (index, (_, transition)) in transitions.iter().enumerate() {
            by_conversation.entry(transition.conversation.clone()).or_default().push(index);
        }
        let bytes = stream::iter(by_conversation)
            .map(|(conversation, indexes)| {
                let all = Arc::clone(transitions);
                self.write_conversation(generation, partition, conversation, all, indexes)
            })
            .buffer_unordered(CONVERSATIONS_MAX)
            .try_fold(0, async |sum, bytes| Ok(sum + bytes))
            .await?;
        self.write_applied(generation, partition, applied).await?;
        Ok(bytes)
    }

    async fn write_conversation(
        &self,
        generation: i32,
        partition: i32,
        conversation: ConversationId,
        transitions: Arc<Vec<(i64, StateTransition)>>,
        indexes: Vec<usize>,
    ) -> Result<usize, StoreError> {
        let of_it = || indexes.iter().filter_map(|index| transitions.get(*index));
        let first = of_it().next().map_or(0, |(_, transition)| transition.seq);
        let mut head = self.head_before(generation, partition, &conversation, first).await?;
        let mut rows = Vec::with_capacity(indexes.len());
        for (offset, transition) in of_it() {
            let row = NewRow::of(*offset, transition)?;
            head.take(*offset, transition, row.cell.len());
            rows.push(row);
        }
        let bytes = rows.iter().map(|row| row.cell.len()).sum();
        let head_row = (
            generation,
            partition,
            shard(&conversation, self.shards),
            conversation.as_str(),
            // Also where nothing is new: a store that lost its newest writes may have lost this one.
            cell::of_head(&head)?,
            timestamp(head.offset),
        );
        try_join(
            self.write_rows(generation, &conversation, &head, rows),
            self.execute(&self.statements.write_head, head_row),
        )
        .await?;
        self.cache_head(generation, conversation, head);
        Ok(bytes)
    }

    /// The head that a transition with this `seq` follows, or a newer one.
    async fn head_before(
        &self,
        generation: i32,
        partition: i32,
        conversation: &ConversationId,
        seq: i64,
    ) -> Result<Head, StoreError> {
        if let Some(head) = self.cached_head(generation, conversation)
            && head.next_seq >= seq
        {
            return Ok(head);
        }
        if seq == 0 {
            // A conversation that begins needs no look: were it there already, the newer row stays.
            return Ok(Head::default());
        }
        let values = (generation, partition, shard(conversation, self.shards), conversation.as_str());
        let rows = self.rows::<(Vec<u8>,)>(&self.statements.head, &values).await?;
        let head = rows.first().map(|(cell,)| cell::head(cell)).transpose()?.unwrap_or_default();
        if head.next_seq >= seq { Ok(head) } else { self.refold(generation, conversation, seq).await }
    }

    /// Folds a head anew, from the rows below `seq`: the store has lost it, but not them.
    async fn refold(
        &self,
        generation: i32,
        conversation: &ConversationId,
        seq: i64,
    ) -> Result<Head, StoreError> {
        let mut head = Head::default();
        for transition in self.load(generation, conversation).await? {
            if transition.seq < seq {
                // The offset is that of the transition to come, which folds next: its row is the one written.
                head.take(0, &transition, cell::of_transition(&transition)?.len());
            }
        }
        if head.next_seq < seq {
            tracing::warn!(%conversation, seq, next = head.next_seq, "transitions are missing in the store");
        }
        Ok(head)
    }

    /// Writes transitions in unlogged batches, each within one CQL partition.
    async fn write_rows(
        &self,
        generation: i32,
        conversation: &ConversationId,
        head: &Head,
        rows: Vec<NewRow>,
    ) -> Result<(), StoreError> {
        let name: Arc<str> = conversation.as_str().into();
        let mut batches: Vec<Vec<RowValues>> = Vec::new();
        let mut newest: Option<(i32, i64)> = None;
        let (mut bytes, mut open) = (0, -1);
        for row in rows {
            let bucket = head.bucket(row.seq);
            newest = newest.max((bucket > 0).then_some((bucket, row.offset)));
            let size = row.cell.len();
            if bucket != open || bytes + size > BATCH_BYTES_MAX {
                batches.push(Vec::new());
                (bytes, open) = (0, bucket);
            }
            bytes += size;
            if let Some(batch) = batches.last_mut() {
                batch.push(row.values(generation, Arc::clone(&name), bucket));
            }
        }
        if let Some((bucket, offset)) = newest {
            // Before the bucket has rows: whoever finds it noted may look into an empty bucket, never the other
            // way round.
            let values = (generation, &*name, bucket, timestamp(offset));
            self.execute(&self.statements.write_newest, values).await?;
        }
        try_join_all(batches.into_iter().map(|batch| self.write_batch(batch))).await?;
        Ok(())
    }

    async fn write_batch(&self, rows: Vec<RowValues>) -> Result<(), StoreError> {
        let statement = &self.statements.write_transition;
        if rows.len() < 2 {
            for row in rows {
                self.execute(statement, row).await?;
            }
            return Ok(());
        }
        let statements = vec![BatchStatement::PreparedStatement(statement.clone()); rows.len()];
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        batch.set_is_idempotent(true);
        batch.set_execution_profile_handle(Some(self.connected.profiles.write.clone()));
        let done = self.connected.session.batch(&batch, rows).await;
        done.map(|_| ()).map_err(|error| self.failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_of_one_partition_of_the_log_spread_over_all_shards() {
        let ids = (0..10_000).map(|n| ConversationId(format!("conversation-{n}")));
        let of_one = ids.filter(|id| p2_stream::wire::partition(id.as_str(), 16) == 3);
        let mut counts = [0; 8];
        for id in of_one {
            counts[usize::try_from(shard(&id, 8)).unwrap()] += 1;
        }
        let total: i32 = counts.iter().sum();
        assert!(counts.iter().all(|count| *count > total / 16 && *count < total / 4), "{counts:?}");
    }

    #[test]
    fn a_later_record_has_a_later_timestamp_and_none_has_zero() {
        assert!(timestamp(0) > 0);
        assert!(timestamp(1) > timestamp(0));
    }
}
