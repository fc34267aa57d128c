//! Folds that are kept between starts, so that a start does not fold every transaction that ever was.
//!
//! A kept fold is a cache. It is taken up only where the log has the very transaction that it ends with, in a log of
//! as many partitions; one that is damaged, of another log or of another version is passed over, and everything is
//! folded from the first transaction. `ledger verify` does that too, and compares.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use p2_core::ids::{BookId, Id};
use p2_core::ledger::Book;
use p2_core::record::{Payload, Topic};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{MemoryLedger, Newest};
use crate::ports::{Log, LogError};
use crate::wire;

/// So many transactions that are in no kept fold are worth writing one, if they are also a quarter of all.
pub(super) const KEEP_AFTER: u64 = 10_000;
/// What a kept fold begins with: a name, and the version of what follows. Another [`Book`], another version.
const HEAD: &[u8; 8] = b"p2fold\0\x02";
/// SHA-256.
const DIGEST_BYTES: usize = 32;

/// Where folds are kept, by partition. What is lost there costs time and nothing else.
pub trait FoldFiles: fmt::Debug + Send + Sync {
    /// What was kept last; none where nothing was, or it cannot be read. May block.
    fn load(&self, partition: i32) -> Option<Vec<u8>>;

    /// Keeps it instead of what was there, whole or not at all. May block.
    fn keep(&self, partition: i32, bytes: &[u8]);
}

#[derive(Serialize, Deserialize)]
struct Kept {
    partitions: i32,
    partition: i32,
    applied: i64,
    /// The newest transaction in it.
    offset: i64,
    id: Id,
    books: BTreeMap<BookId, Book>,
}

impl Kept {
    fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = HEAD.to_vec();
        bytes.resize(HEAD.len() + DIGEST_BYTES, 0);
        let mut bytes = postcard::to_extend(self, bytes).ok()?;
        let (front, value) = bytes.split_at_mut(HEAD.len() + DIGEST_BYTES);
        front.get_mut(HEAD.len()..)?.copy_from_slice(&Sha256::digest(value));
        Some(bytes)
    }

    fn decode(bytes: &[u8]) -> Option<Kept> {
        let rest = bytes.strip_prefix(HEAD)?;
        let (digest, value) = rest.split_at_checked(DIGEST_BYTES)?;
        if digest != Sha256::digest(value).as_slice() {
            return None;
        }
        let (kept, rest) = postcard::take_from_bytes::<Kept>(value).ok()?;
        rest.is_empty().then_some(kept)
    }
}

impl MemoryLedger {
    /// Takes up what is kept of a partition, once, before anything else is folded there.
    pub(super) async fn take_up(&self, partition: i32) -> Result<(), LogError> {
        let Some((files, log)) = &self.kept else { return Ok(()) };
        let mut taken_up = self.taking_up.lock().await;
        if taken_up.contains(&partition) {
            return Ok(());
        }
        let from = Arc::clone(files);
        let read = move || from.load(partition).and_then(|bytes| Kept::decode(&bytes));
        let found = tokio::task::spawn_blocking(read).await.ok().flatten();
        if let Some(kept) = found
            && is_of(&kept, log.as_ref(), partition).await?
        {
            tracing::info!(partition, from = kept.applied, "the ledger goes on from a kept fold");
            let mut inner = self.inner();
            for (name, book) in kept.books {
                inner.books.insert(name, (partition, book));
            }
            inner.applied.insert(partition, kept.applied);
            let newest = Newest { offset: kept.offset, id: kept.id, ..Newest::default() };
            inner.newest.insert(partition, newest);
        }
        taken_up.insert(partition);
        Ok(())
    }

    /// Writes what is folded of a partition down, beside the work, where that has become worth it.
    pub(super) fn keep_where_due(&self, partition: i32) {
        let Some((files, log)) = &self.kept else { return };
        let kept = {
            let mut inner = self.inner();
            if inner
                .newest
                .get(&partition)
                .is_none_or(|newest| newest.keeping || newest.since_kept < KEEP_AFTER)
            {
                return;
            }
            let of_partition = inner.books.iter().filter(|(_, (at, _))| *at == partition);
            let books: BTreeMap<BookId, Book> =
                of_partition.map(|(name, (_, book))| (name.clone(), book.clone())).collect();
            let total: i64 = books.values().map(|book| book.next_seq).sum();
            let applied = inner.applied.get(&partition).copied().unwrap_or(0);
            let Some(newest) = inner.newest.get_mut(&partition) else { return };
            if newest.since_kept < u64::try_from(total).unwrap_or(0) / 4 {
                return;
            }
            (newest.since_kept, newest.keeping) = (0, true);
            let (offset, id) = (newest.offset, newest.id);
            let partitions = log.partitions(Topic::LedgerTransactions);
            Kept { partitions, partition, applied, offset, id, books }
        };
        let (files, ledger) = (Arc::clone(files), self.clone());
        tokio::task::spawn_blocking(move || {
            if let Some(bytes) = kept.encode() {
                files.keep(partition, &bytes);
            }
            if let Some(newest) = ledger.inner().newest.get_mut(&partition) {
                newest.keeping = false;
            }
        });
    }
}

/// Whether the log has the transaction that the fold ends with, where the fold says.
async fn is_of(kept: &Kept, log: &dyn Log, partition: i32) -> Result<bool, LogError> {
    if (kept.partition, kept.partitions) != (partition, log.partitions(Topic::LedgerTransactions)) {
        return Ok(false);
    }
    let (start, end) = log.bounds(Topic::LedgerTransactions, partition).await?;
    if kept.offset < start || kept.offset >= end || kept.applied <= kept.offset || kept.applied > end {
        return Ok(false);
    }
    let found = log.read(Topic::LedgerTransactions, partition, kept.offset, 1).await?;
    let found = found.first().filter(|stored| stored.offset == kept.offset);
    Ok(match found.and_then(|stored| wire::decode(stored).ok()).map(|message| message.payload) {
        Some(Payload::LedgerTransaction(transaction)) => transaction.id == kept.id,
        _ => false,
    })
}
