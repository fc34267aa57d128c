//! Commits: one batch, and how it ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{CallPort, Shell, Wire};
use crate::ports::{Batch, CommitError, CommittedOffset, NewRecord};
use crate::processor::Processor;
use crate::runtime::{Event, Output};

/// Longest pause before an aborted commit is tried again.
const ABORT_PAUSE_MAX_MS: u64 = 5_000;

impl<P, W, C> Shell<P, W, C>
where
    P: Processor + Send + 'static,
    P::Lane: Send,
    P::Request: Send + Sync + 'static,
    P::Reply: Send + 'static,
    W: Wire,
    C: CallPort<P>,
{
    pub(super) fn commit(
        &mut self,
        batch: u64,
        messages: Vec<Arc<Output>>,
        progress: Vec<(i32, CommittedOffset)>,
    ) {
        let encoded: Result<Vec<NewRecord>, _> =
            messages.iter().map(|output| self.setup.wire.record(output)).collect();
        let outputs = match encoded {
            Ok(outputs) => outputs,
            Err((code, reason)) => {
                tracing::error!(batch, code, reason, "an output does not encode");
                self.send(Event::Aborted { batch, halve: true });
                return;
            }
        };
        self.committing = messages;
        let input = self.input;
        let progress = progress.into_iter().map(|(index, committed)| (input, index, committed)).collect();
        let (committer, sender, gauge) = (self.committer.clone(), self.sender.clone(), self.gauge.clone());
        let aborts = self.aborts.clone();
        tokio::spawn(async move {
            let begin = Instant::now();
            let result = committer.commit(Batch { outputs, progress }).await;
            gauge.commit(&result, begin.elapsed());
            let event = match result {
                Ok(positions) => {
                    aborts.store(0, Ordering::Relaxed);
                    Event::Committed { batch, positions }
                }
                Err(CommitError::Aborted(reason)) => {
                    // A full disk aborts until there is space: less and less often.
                    let before = aborts.fetch_add(1, Ordering::Relaxed).min(8);
                    let pause_ms = (20 << before).min(ABORT_PAUSE_MAX_MS);
                    tracing::warn!(batch, reason, pause_ms, "commit aborted, trying again");
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    Event::Aborted { batch, halve: false }
                }
                Err(CommitError::Unfit(reason)) => {
                    tracing::warn!(batch, reason, "commit does not fit");
                    Event::Aborted { batch, halve: true }
                }
                Err(CommitError::Fenced(reason)) => {
                    tracing::warn!(batch, reason, "commit fenced");
                    Event::Fenced { batch }
                }
                Err(CommitError::Unknown(reason)) => {
                    tracing::warn!(batch, reason, "commit outcome unknown");
                    Event::Unknown { batch }
                }
            };
            let _ = sender.send(Ok(event));
        });
    }
}
