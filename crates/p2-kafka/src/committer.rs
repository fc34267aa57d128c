//! Commits of one member: ownership, transaction, and what became of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use p2_core::record::{Position, Topic};
use p2_stream::ports::{Batch, CommitError, CommittedOffset, Committer, LogError};
use rdkafka::consumer::Consumer;
use tokio::sync::mpsc;

use crate::callbacks::{self, Shared};
use crate::context::lock;
use crate::log::Inner;
use crate::ownership::{Lane, Ticket};
use crate::poller::Command;
use crate::reader::Readers;
use crate::records;
use crate::transactor::{Offsets, Outcome, Transactor};

/// How often a producer may be fenced within a minute before the slot counts as taken by another process.
const FENCES_MAX: usize = 3;

/// What became of a transaction whose answer did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Committed,
    Aborted,
    Unknown,
}

/// The committer of a member.
pub(crate) struct KafkaCommitter {
    log: Arc<Inner>,
    shared: Arc<Shared>,
    transactor: Arc<tokio::sync::Mutex<Transactor>>,
    commands: mpsc::UnboundedSender<Command>,
    fences: Arc<Mutex<Vec<Instant>>>,
}

/// What a commit needs on its thread.
struct Work {
    log: Arc<Inner>,
    shared: Arc<Shared>,
    batch: Batch,
    ticket: Ticket,
}

/// What a commit means for the member, beside its result.
#[derive(Debug, PartialEq, Eq)]
enum Aftermath {
    None,
    /// Somebody else took the transactional id.
    Fenced,
    /// No commit will ever go through.
    Refused(String),
}

/// Ends the commit for the rebalance callbacks, whatever happens.
struct UnderWay<'a>(&'a Shared);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.end_commit();
    }
}

impl KafkaCommitter {
    pub(crate) fn new(
        log: Arc<Inner>,
        shared: Arc<Shared>,
        transactor: Transactor,
        commands: mpsc::UnboundedSender<Command>,
    ) -> KafkaCommitter {
        let transactor = Arc::new(tokio::sync::Mutex::new(transactor));
        KafkaCommitter { log, shared, transactor, commands, fences: Arc::default() }
    }

    /// Waits for the commit that is under way, settled, also where nobody waits for it any more.
    pub(crate) async fn settled(&self) {
        drop(self.transactor.lock().await);
    }

    /// Another process with the same slot fences this one again and again, and is fenced by it: one has to end.
    fn fenced(&self) {
        let mut fences = lock(&self.fences);
        let now = Instant::now();
        fences.retain(|at| now.duration_since(*at) < Duration::from_secs(60));
        fences.push(now);
        if fences.len() >= FENCES_MAX {
            let _ = self.commands.send(Command::Fail(LogError::Refused(format!(
                "another process commits with the slot '{}': give each process its own kafka.slot",
                self.log.config.slot
            ))));
        }
    }
}

#[async_trait]
impl Committer for KafkaCommitter {
    async fn commit(&self, batch: Batch) -> Result<Vec<Position>, CommitError> {
        let partitions = |topic| self.log.partitions(topic);
        records::check(&batch.outputs, partitions).map_err(|error| match error {
            LogError::TooLarge(reason) => CommitError::Unfit(reason),
            other => CommitError::Aborted(other.to_string()),
        })?;
        let ticket = self.shared.state().ownership.ticket();
        let mut transactor = Arc::clone(&self.transactor).lock_owned().await;
        let work = Work { log: Arc::clone(&self.log), shared: Arc::clone(&self.shared), batch, ticket };
        // Not cut when the caller goes away: a transaction that was begun is ended.
        let done = tokio::task::spawn_blocking(move || work.run(&mut transactor)).await;
        let Ok((result, aftermath)) = done else {
            return Err(CommitError::Unknown("the process is shutting down".to_owned()));
        };
        match aftermath {
            Aftermath::None => {}
            Aftermath::Fenced => self.fenced(),
            Aftermath::Refused(reason) => {
                let _ = self.commands.send(Command::Fail(LogError::Refused(reason)));
            }
        }
        result
    }
}

/// A commit's result and what it means for the member.
type Ended = (Result<Vec<Position>, CommitError>, Aftermath);

impl Work {
    fn run(&self, transactor: &mut Transactor) -> Ended {
        let offsets = {
            // One critical section with the rebalance callbacks: the partitions are ours in the generation that
            // this metadata is of, and the callbacks wait for the end of the transaction.
            let mut state = self.shared.state();
            if let Err(error) = state.ownership.check(&self.ticket, &self.batch.progress) {
                return (Err(error), Aftermath::None);
            }
            let Some(client) = &state.client else {
                return (Err(CommitError::Fenced("the member is closing".to_owned())), Aftermath::None);
            };
            let offsets = if self.batch.progress.is_empty() {
                None
            } else if client.assignment_lost() {
                return (
                    Err(CommitError::Fenced("the member was away for too long".to_owned())),
                    Aftermath::None,
                );
            } else {
                let Some(metadata) = client.group_metadata() else {
                    return (
                        Err(CommitError::Aborted("the member is in no group yet".to_owned())),
                        Aftermath::None,
                    );
                };
                Some(Offsets { progress: self.batch.progress.clone(), metadata })
            };
            if self.batch.outputs.is_empty() && offsets.is_none() {
                return (Ok(Vec::new()), Aftermath::None);
            }
            self.shared.begin_commit(&mut state);
            offsets
        };
        let outcome = {
            let _under_way = UnderWay(&self.shared);
            transactor.run(&self.batch.outputs, offsets.as_ref())
        };
        self.judge(outcome, transactor)
    }

    fn judge(&self, outcome: Outcome, transactor: &mut Transactor) -> Ended {
        let result = match outcome {
            Outcome::Committed(positions) => Ok(positions),
            Outcome::Aborted(reason) => Err(CommitError::Aborted(reason)),
            Outcome::Refused(reason) => {
                return (Err(CommitError::Aborted(reason.clone())), Aftermath::Refused(reason));
            }
            Outcome::Unfit(reason) => Err(CommitError::Unfit(reason)),
            Outcome::Fenced(reason) => return (Err(CommitError::Fenced(reason)), Aftermath::Fenced),
            // The generation moved on while the partitions may have stayed: then it is only tried again.
            Outcome::Stale(reason) => Err(match self.check() {
                Ok(()) => CommitError::Aborted(reason),
                Err(error) => error,
            }),
            Outcome::Unknown { reason, positions } => match self.settle(transactor, &positions) {
                Settled::Committed => {
                    tracing::info!(reason, "the commit went through all the same");
                    Ok(positions)
                }
                Settled::Aborted => Err(CommitError::Aborted(reason)),
                Settled::Unknown => Err(CommitError::Unknown(reason)),
            },
        };
        (result, Aftermath::None)
    }

    fn check(&self) -> Result<(), CommitError> {
        self.shared.state().ownership.check(&self.ticket, &self.batch.progress)
    }

    /// Asks the broker what became of the transaction. The next producer of the id ends what was left open, so
    /// that after it the answer does not change any more.
    fn settle(&self, transactor: &mut Transactor, positions: &[Position]) -> Settled {
        let longest = Duration::from_millis(u64::from(self.log.config.request_timeout_ms));
        while let Err(outcome) = transactor.ready(longest) {
            tracing::warn!(?outcome, "the outcome of a commit is not known yet, asking again");
            if self.shared.state().client.is_none() || matches!(outcome, Outcome::Refused(_)) {
                return Settled::Unknown;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        // What was written is asked first: the log of a partition is not told twice. Without it, the progress.
        match settle_by_position(&self.log.readers, positions) {
            Settled::Unknown => self.settle_by_progress(longest),
            settled => settled,
        }
    }

    /// The batch number in the committed progress says which way it went, as long as nobody else commits for
    /// the partition.
    fn settle_by_progress(&self, longest: Duration) -> Settled {
        let wanted = |(topic, partition, committed): &(Topic, i32, CommittedOffset)| {
            ((*topic, *partition), committed.clone())
        };
        let Some((lane, wanted)) = self.batch.progress.first().map(wanted) else { return Settled::Unknown };
        loop {
            let Some(client) = self.shared.state().client.clone() else { return Settled::Unknown };
            if self.check().is_err() {
                return Settled::Unknown;
            }
            match callbacks::committed(&client, &self.log.names, &[lane], longest) {
                Ok(found) => {
                    let is_this = found.get(&lane).is_some_and(|found| found.as_ref() == Some(&wanted));
                    return if is_this { Settled::Committed } else { Settled::Aborted };
                }
                Err(error) => {
                    tracing::warn!(%error, "the outcome of a commit is not known yet, asking again");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

/// Whether the first output is visible: then the whole transaction is. Only after its producer was replaced.
pub(crate) fn settle_by_position(readers: &Readers, positions: &[Position]) -> Settled {
    let Some(first) = positions.first() else { return Settled::Unknown };
    let lane: Lane = (first.topic, first.partition);
    match readers.read(lane, first.offset, 1) {
        Ok(found) if found.first().is_some_and(|record| record.offset == first.offset) => Settled::Committed,
        Ok(_) => Settled::Aborted,
        Err(_) => Settled::Unknown,
    }
}
