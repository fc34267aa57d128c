//! The books in memory: a view that every process folds from the log, from what was folded before where that is kept.

mod kept;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use p2_core::ids::{BookId, Id};
use p2_core::ledger::Book;
use p2_core::record::{LedgerTransaction, Payload, Topic};

use crate::ports::{LedgerStore, Log, LogError, StoreError};
use crate::wire;

pub use kept::FoldFiles;
#[cfg(test)]
use kept::KEEP_AFTER;

/// Records read at a time.
const READ_RECORDS: usize = 1_000;

/// The books of the partitions that were read so far. Clones share them.
///
/// It holds folds and no records: of a transaction, its answer stays (under 100 bytes), and the newest movements of
/// an account.
#[derive(Clone, Default)]
pub struct MemoryLedger {
    books: Arc<Mutex<Books>>,
    /// Where folds are kept between starts, and the log that they are of.
    kept: Option<(Arc<dyn FoldFiles>, Arc<dyn Log>)>,
    /// Held while a kept fold is taken up: nobody folds the same partition meanwhile.
    taking_up: Arc<tokio::sync::Mutex<BTreeSet<i32>>>,
}

#[derive(Debug, Default)]
struct Books {
    /// Book → its partition and fold.
    books: BTreeMap<BookId, (i32, Book)>,
    applied: BTreeMap<i32, i64>,
    /// Partition → the newest transaction, and how many are not in a kept fold.
    newest: BTreeMap<i32, Newest>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    offset: i64,
    id: Id,
    since_kept: u64,
    /// A fold is being written.
    keeping: bool,
}

impl MemoryLedger {
    fn inner(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ledger that keeps its folds there, and goes on from them after a start.
    pub fn kept(files: Arc<dyn FoldFiles>, log: Arc<dyn Log>) -> MemoryLedger {
        MemoryLedger { kept: Some((files, log)), ..MemoryLedger::default() }
    }

    /// Reads a partition of `ledger-transactions` to its end as of now, from where it was read before.
    ///
    /// # Errors
    /// The log's; [`LogError::Corrupt`] where its records do not fold.
    pub async fn catch_up(&self, log: &dyn Log, partition: i32) -> Result<(), LogError> {
        self.take_up(partition).await?;
        let (_, end) = log.bounds(Topic::LedgerTransactions, partition).await?;
        let mut next = self.read_up_to(partition);
        while next < end {
            let records = log.read_values(Topic::LedgerTransactions, partition, next, READ_RECORDS).await?;
            let Some(last) = records.last() else { break };
            let applied = last.offset + 1;
            let mut transactions = Vec::with_capacity(records.len());
            for stored in &records {
                let at = format!("{}/{partition}/{}", Topic::LedgerTransactions.name(), stored.offset);
                let payload = wire::decode_checked(&stored.record)
                    .map_err(|e| LogError::Corrupt(format!("{at}: {e}")))?;
                let Payload::LedgerTransaction(transaction) = payload else { continue };
                transactions.push((stored.offset, transaction));
            }
            let transactions: Vec<_> = transactions.iter().map(|(at, made)| (*at, made)).collect();
            let taken = self.inner().take(partition, &transactions, applied);
            taken.map_err(|error| LogError::Corrupt(error.to_string()))?;
            self.keep_where_due(partition);
            next = applied;
        }
        Ok(())
    }

    /// The offset up to which a partition was read.
    pub fn read_up_to(&self, partition: i32) -> i64 {
        self.inner().applied.get(&partition).copied().unwrap_or(0)
    }

    /// A book as far as it was read.
    pub fn book(&self, book: &BookId) -> Option<Book> {
        self.inner().books.get(book).map(|(_, fold)| fold.clone())
    }

    /// The books read so far.
    pub fn names(&self) -> Vec<BookId> {
        self.inner().books.keys().cloned().collect()
    }
}

impl Books {
    fn take(
        &mut self,
        partition: i32,
        transactions: &[(i64, &LedgerTransaction)],
        applied: i64,
    ) -> Result<(), StoreError> {
        for (offset, transaction) in transactions.iter().copied() {
            let (_, book) =
                self.books.entry(transaction.book.clone()).or_insert_with(|| (partition, Book::default()));
            // Read again after a new assignment, or read by somebody else of this process meanwhile.
            if transaction.seq < book.next_seq {
                continue;
            }
            let newest = self.newest.entry(partition).or_default();
            (newest.offset, newest.id) = (offset, transaction.id);
            newest.since_kept += 1;
            book.apply(transaction).map_err(|reason| {
                let topic = Topic::LedgerTransactions.name();
                StoreError::Corrupt(format!("{topic}/{partition}/{offset}: {reason}"))
            })?;
        }
        let before = self.applied.entry(partition).or_default();
        *before = applied.max(*before);
        Ok(())
    }
}

#[async_trait]
impl LedgerStore for MemoryLedger {
    async fn write(
        &self,
        partition: i32,
        transactions: &[(i64, &LedgerTransaction)],
        applied: i64,
    ) -> Result<(), StoreError> {
        self.inner().take(partition, transactions, applied)?;
        self.keep_where_due(partition);
        Ok(())
    }

    async fn applied(&self, partition: i32) -> Result<i64, StoreError> {
        self.take_up(partition).await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(self.inner().applied.get(&partition).copied().unwrap_or(0))
    }

    async fn load(&self, book: &BookId) -> Result<Book, StoreError> {
        Ok(self.book(book).unwrap_or_default())
    }

    async fn open(&self, partition: i32) -> Result<Vec<BookId>, StoreError> {
        let books = self.inner();
        let waits = |book: &Book| book.next_due().is_some() || book.outside.plan.is_some();
        let open = books.books.iter().filter(|(_, (at, book))| *at == partition && waits(book));
        Ok(open.map(|(id, _)| id.clone()).collect())
    }
}
