//! The progress with which work on a partition begins: what the group is told, where its outputs do not show it to be old.

use std::sync::Arc;
use std::time::Duration;

use p2_core::record::Topic;
use tokio::sync::watch;

use super::gauge::Gauge;
use super::{ShellError, patiently};
use crate::outputs::{self, Witness};
use crate::ports::{CommittedOffset, Log, Member};
use crate::runtime::{Event, Progress, Start};

/// How often the group is asked again, and the pause before the first time, milliseconds; it doubles.
const QUESTIONS: u32 = 5;
const PAUSE_MS: u64 = 200;

/// Whose progress it is about.
pub(super) struct Asked<'a> {
    pub(super) log: &'a Arc<dyn Log>,
    pub(super) stop: &'a watch::Receiver<bool>,
    pub(super) gauge: &'a Gauge,
    pub(super) input: Topic,
    pub(super) start: Start,
}

impl Asked<'_> {
    /// The event that begins work on a partition. `committed` is what the group was told; where the processor's own
    /// outputs contradict it the group is asked again, and where that does not help, the outputs count. None where it is
    /// time to stop.
    ///
    /// # Errors
    /// Where the log is of no use any more.
    pub(super) async fn event<R>(
        &self,
        partition: i32,
        mut committed: Option<CommittedOffset>,
        member: &mut Box<dyn Member>,
    ) -> Result<Option<Event<R>>, ShellError> {
        let (log, input) = (self.log, self.input);
        let name = self.gauge.name;
        let mut asked = 0;
        loop {
            let newest = || outputs::newest(log.as_ref(), name, input, partition);
            let newest = patiently(self.stop, newest).await?;
            let progress = committed.as_ref().map(Progress::decode).transpose();
            let Some(witness) = self.contradiction(progress.as_ref(), &newest) else { break };
            if asked < QUESTIONS {
                let at = format!("{} offset {}", witness.topic.name(), witness.at);
                tracing::warn!(
                    processor = name,
                    partition,
                    output = at,
                    input_offset = witness.offset,
                    told = committed.as_ref().map(|told| told.offset),
                    "the group's progress is older than what was written with it, asking again"
                );
                tokio::time::sleep(Duration::from_millis(PAUSE_MS << asked)).await;
                if *self.stop.borrow() {
                    return Ok(None);
                }
                asked += 1;
                committed = patiently(self.stop, || member.committed(input, partition)).await?;
                continue;
            }
            let Ok(Some(told)) = progress else { break };
            let since = || outputs::progress_since(log.as_ref(), name, input, partition, &told);
            let progress = patiently(self.stop, since).await?;
            let (from, to) = (told.low, progress.low);
            tracing::warn!(processor = name, partition, from, to, "progress taken from outputs");
            self.gauge.assignment("restored");
            committed = Some(progress.encode());
            break;
        }
        let (start, end) = patiently(self.stop, || log.bounds(input, partition)).await?;
        Ok(Some(Event::Assigned { partition, committed, start, end }))
    }

    /// An output that cannot be there if this were all the progress.
    fn contradiction<'w>(
        &self,
        progress: Result<&Option<Progress>, &String>,
        newest: &'w [Witness],
    ) -> Option<&'w Witness> {
        match progress {
            Ok(Some(progress)) => newest.iter().rfind(|witness| witness.contradicts(progress)),
            // Where a group may begin by itself, outputs of an earlier one are nothing strange.
            Ok(None) if self.start == Start::Refuse => newest.last(),
            Ok(None) | Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
