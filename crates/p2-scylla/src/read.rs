//! Reads: a conversation, the tail of a branch, open waits, the list.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use futures::future::try_join_all;
use p2_core::ids::{AgentId, BranchId, ConversationId};
use p2_core::record::{Change, StateTransition};
use p2_core::state::Entry;
use p2_stream::ports::{ConversationSummary, StoreError};

use crate::cell;
use crate::store::Inner;

/// Rows of the list that a shard is asked for at first, beside its share of the page.
const PAGE_SLACK: usize = 4;

/// A branch of one generation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) generation: i32,
    pub(crate) conversation: &'a ConversationId,
    pub(crate) agent: &'a AgentId,
    pub(crate) branch: &'a BranchId,
}

impl Inner {
    /// A conversation's transitions by `seq`, each once.
    pub(crate) async fn load(
        &self,
        generation: i32,
        conversation: &ConversationId,
    ) -> Result<Vec<StateTransition>, StoreError> {
        let (newest, mut found) = self.load_bucket(generation, conversation, 0).await?;
        let others = (1..=newest).map(|bucket| self.load_bucket(generation, conversation, bucket));
        for (_, more) in try_join_all(others).await? {
            found.extend(more);
        }
        found.sort_unstable_by_key(|transition| transition.seq);
        found.dedup_by_key(|transition| transition.seq);
        Ok(found)
    }

    async fn load_bucket(
        &self,
        generation: i32,
        conversation: &ConversationId,
        bucket: i32,
    ) -> Result<(i32, Vec<StateTransition>), StoreError> {
        let mut newest = 0;
        let mut found = Vec::new();
        let values = (generation, conversation.as_str(), bucket);
        self.each::<(Option<i32>, Option<Vec<u8>>)>(&self.statements.load, &values, |(noted, cell)| {
            newest = noted.unwrap_or(0);
            // A partition with nothing but its static column is one row without a cell.
            if let Some(cell) = cell {
                found.push(cell::transition(&cell)?);
            }
            Ok(())
        })
        .await?;
        Ok((newest, found))
    }

    /// The newest own entries of a branch below `before`, newest first.
    ///
    /// One slice of bucket 0 answers it for every conversation that has no other bucket (under 16 MiB), however
    /// deep. Else the buckets are gone through from the newest on until there are enough.
    pub(crate) async fn tail(
        &self,
        place: &Place<'_>,
        before: i64,
        entries_max: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        if entries_max == 0 {
            return Ok(Vec::new());
        }
        let (noted, oldest) = self.tail_of_bucket(place, 0, before, entries_max).await?;
        let newest = match noted {
            Some(newest) => newest,
            // No row, so no static column came with one either: ask for it alone.
            None => self.newest(place).await?,
        };
        let mut found = Vec::new();
        for bucket in (1..=newest).rev() {
            if found.len() >= entries_max {
                break;
            }
            found.extend(self.tail_of_bucket(place, bucket, before, entries_max).await?.1);
        }
        found.extend(oldest);
        found.sort_by_key(|entry| Reverse(entry.seq));
        found.dedup_by_key(|entry| entry.seq);
        found.truncate(entries_max);
        Ok(found)
    }

    async fn newest(&self, place: &Place<'_>) -> Result<i32, StoreError> {
        let values = (place.generation, place.conversation.as_str());
        let rows = self.rows::<(Option<i32>,)>(&self.statements.newest, &values).await?;
        Ok(rows.first().and_then(|(newest,)| *newest).unwrap_or(0))
    }

    /// The newest bucket, where a row came with it, and the entries.
    async fn tail_of_bucket(
        &self,
        place: &Place<'_>,
        bucket: i32,
        before: i64,
        entries_max: usize,
    ) -> Result<(Option<i32>, Vec<Entry>), StoreError> {
        let limit = i32::try_from(entries_max).unwrap_or(i32::MAX);
        let (agent, branch) = (place.agent.as_str(), place.branch.as_str());
        let values = (place.generation, place.conversation.as_str(), bucket, agent, branch, before, limit);
        let mut newest = None;
        let mut found = Vec::new();
        self.each::<(Option<i32>, Vec<u8>)>(&self.statements.tail, &values, |(noted, cell)| {
            newest = Some(noted.unwrap_or(0));
            for change in cell::transition(&cell)?.changes {
                if let Change::Appended(appended) = change {
                    found.extend(appended.entries.into_iter().filter(|entry| entry.seq < before));
                }
            }
            Ok(())
        })
        .await?;
        Ok((newest, found))
    }

    /// The conversations of one shard that have open waits.
    pub(crate) async fn open_of_shard(
        &self,
        generation: i32,
        partition: i32,
        shard: i32,
    ) -> Result<Vec<ConversationId>, StoreError> {
        let mut found = Vec::new();
        let values = (generation, partition, shard);
        self.each::<(String, Vec<u8>)>(&self.statements.heads, &values, |(conversation, cell)| {
            if !cell::head(&cell)?.waits.is_empty() {
                found.push(ConversationId(conversation));
            }
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// A page of the list: the shards, each in order, merged.
    pub(crate) async fn list(
        &self,
        generation: i32,
        after: Option<&ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationSummary>, StoreError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let partitions = self.partitions(generation).await?;
        let shards = partitions
            .iter()
            .flat_map(|partition| (0..self.shards).map(move |shard| (generation, *partition, shard)));
        let mut shards: Vec<Shard> = shards.map(|key| Shard::new(key, after)).collect();
        let share = (max / shards.len().max(1)).saturating_add(PAGE_SLACK).min(max);
        try_join_all(shards.iter_mut().map(|shard| shard.fill(self, share))).await?;
        let front = |shards: &[Shard], index: usize| -> Option<Reverse<(ConversationId, usize)>> {
            Some(Reverse((shards.get(index)?.rows.front()?.id.clone(), index)))
        };
        let mut fronts: BinaryHeap<_> = (0..shards.len()).filter_map(|index| front(&shards, index)).collect();
        let mut page = Vec::new();
        while page.len() < max {
            let Some(Reverse((_, index))) = fronts.pop() else { break };
            let Some(shard) = shards.get_mut(index) else { break };
            page.extend(shard.rows.pop_front());
            if shard.rows.is_empty() && page.len() < max {
                shard.fill(self, max - page.len()).await?;
            }
            fronts.extend(front(&shards, index));
        }
        Ok(page)
    }
}

/// One shard of the list while it is being merged.
struct Shard {
    key: (i32, i32, i32),
    after: Option<String>,
    rows: VecDeque<ConversationSummary>,
    exhausted: bool,
}

impl Shard {
    fn new(key: (i32, i32, i32), after: Option<&ConversationId>) -> Shard {
        let after = after.map(|after| after.0.clone());
        Shard { key, after, rows: VecDeque::new(), exhausted: false }
    }

    /// Reads its next rows, at most `rows_max`; none where there are no more.
    async fn fill(&mut self, inner: &Inner, rows_max: usize) -> Result<(), StoreError> {
        if self.exhausted {
            return Ok(());
        }
        let limit = i32::try_from(rows_max).unwrap_or(i32::MAX);
        let (generation, partition, shard) = self.key;
        let statements = &inner.statements;
        let rows: Vec<(String, Vec<u8>)> = match &self.after {
            None => inner.rows(&statements.list_first, &(generation, partition, shard, limit)).await?,
            Some(after) => {
                let values = (generation, partition, shard, after.as_str(), limit);
                inner.rows(&statements.list_after, &values).await?
            }
        };
        self.exhausted = rows.len() < rows_max;
        if let Some((last, _)) = rows.last() {
            self.after = Some(last.clone());
        }
        for (conversation, cell) in rows {
            self.rows.push_back(cell::head(&cell)?.summary(ConversationId(conversation)));
        }
        Ok(())
    }
}
