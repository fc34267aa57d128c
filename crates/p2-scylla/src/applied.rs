//! Applied offsets: those of several partitions in one statement.
//!
//! They lie in one CQL partition, and partitions of the log are written side by side. So while one statement is
//! under way, the offsets of the writes that finish meanwhile gather, and go together in the next.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2_stream::ports::StoreError;
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use tokio::sync::oneshot;

use crate::store::Inner;
use crate::write::timestamp;

type Waiting = oneshot::Sender<Result<(), StoreError>>;
/// (Generation, partition) → (offset, who waits).
type WaitingFor = BTreeMap<(i32, i32), (i64, Vec<Waiting>)>;

/// Applied offsets that wait for their statement, and the turn of who writes them.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// By (generation, partition): the highest offset, and who waits for it.
    waiting: Mutex<WaitingFor>,
    turn: tokio::sync::Mutex<()>,
}

impl Gathering {
    fn waiting(&self) -> MutexGuard<'_, WaitingFor> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Notes the applied offset of a partition; returns when it is acknowledged. Every row below it is.
    ///
    /// The offset is its own timestamp: the applied offset never goes back, whoever writes it late.
    pub(crate) async fn write_applied(
        &self,
        generation: i32,
        partition: i32,
        applied: i64,
    ) -> Result<(), StoreError> {
        let (done, mut outcome) = oneshot::channel();
        {
            let mut waiting = self.applied.waiting();
            let (highest, all) = waiting.entry((generation, partition)).or_default();
            *highest = applied.max(*highest);
            all.push(done);
        }
        let turn = self.applied.turn.lock().await;
        match outcome.try_recv() {
            Ok(outcome) => return outcome,
            // Who had the turn was dropped in the middle of it: whether it was written is not known.
            Err(oneshot::error::TryRecvError::Closed) => {
                return Err(StoreError::Unavailable("a write of applied offsets was cut short".to_owned()));
            }
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        let gathered = std::mem::take(&mut *self.applied.waiting());
        let offsets: Vec<(i32, i32, i64, i64)> = gathered
            .iter()
            .map(|((generation, partition), (applied, _))| {
                (*generation, *partition, *applied, timestamp(*applied))
            })
            .collect();
        let written = self.write_offsets(offsets).await;
        for waiting in gathered.into_values().flat_map(|(_, all)| all) {
            // Who waits no longer was dropped.
            let _ = waiting.send(written.clone());
        }
        // Only now: whoever has the turn next has an answer already, or is not gathered yet.
        drop(turn);
        written
    }

    async fn write_offsets(&self, offsets: Vec<(i32, i32, i64, i64)>) -> Result<(), StoreError> {
        let statement = &self.statements.write_applied;
        if let [one] = offsets.as_slice() {
            return self.execute(statement, *one).await;
        }
        let statements = vec![BatchStatement::PreparedStatement(statement.clone()); offsets.len()];
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        batch.set_is_idempotent(true);
        batch.set_execution_profile_handle(Some(self.connected.profiles.write.clone()));
        let done = self.connected.session.batch(&batch, offsets).await;
        done.map(|_| ()).map_err(|error| self.failed(&error))
    }
}
