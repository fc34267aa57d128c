//! One owned partition: catch-up of its view, the window, and the end of its ownership.

use super::lanes::Lane;
use super::recent::Recent;
use super::{Action, Actions, Epoch, Progress, Runtime, Start};
use crate::ports::CommittedOffset;
use crate::processor::Processor;
use crate::view::ViewRecord;

/// How far a partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The view is brought up to `mark`.
    CatchingUp {
        /// High watermark of the view at assignment.
        mark: i64,
    },
    /// Lanes with open waits are loading; how many are left.
    Opening {
        /// How many.
        left: usize,
    },
    /// Records are delivered.
    Running,
}

/// One owned partition.
#[derive(Clone, Debug)]
pub(super) struct Partition {
    pub(super) epoch: Epoch,
    pub(super) phase: Phase,
    /// As of the newest sealed batch.
    pub(super) progress: Progress,
    /// The offset after the newest one delivered.
    pub(super) next: i64,
    pub(super) paused: bool,
    /// Records from `next` on were let go, as the window had no room for them: they have to be delivered again.
    pub(super) overrun: bool,
    /// Committed records of the view whose rows are not written yet.
    pub(super) to_write: Vec<(i64, ViewRecord)>,
    /// Offsets without a record that were passed since the newest batch was sealed.
    pub(super) gaps: Vec<i64>,
    /// Rows up to here are being written.
    pub(super) writing: Option<i64>,
    /// The view was folded from the beginning, and nothing was written since: a lane that still does not fit
    /// is a bug.
    pub(super) refolded: u8,
    /// What a store that lost its newest rows must be measured by.
    pub(super) recent: Recent,
}

impl Partition {
    /// How many offsets lie between the low watermark and the newest record delivered: no more than a window. What a
    /// batch under way moves counts once it is committed, since its progress comes back (`before`) where it is split.
    pub(super) fn ahead(&self, before: Option<&Progress>) -> i64 {
        self.next - before.map_or(self.progress.low, |before| before.low.min(self.progress.low))
    }

    pub(super) fn view_is_written(&self) -> bool {
        self.to_write.is_empty() && self.writing.is_none()
    }
}

impl<P: Processor> Runtime<P> {
    pub(super) fn assigned(
        &mut self,
        index: i32,
        committed: Option<CommittedOffset>,
        (start, end): (i64, i64),
        now_ms: i64,
        actions: &mut Actions<P>,
    ) {
        self.forget(index, actions);
        if self.sealed.iter().any(|sealed| sealed.parts.iter().any(|part| part.partition == index)) {
            // A commit of an earlier ownership may still change what was fetched: fetch again after it.
            self.start_over(index, actions);
            return;
        }
        let is_new = committed.is_none();
        let progress = match self.first_progress(committed, start, end) {
            // A begin that nobody noted, as by a tool of the log's own, is one of now.
            Ok(progress) if progress.begun_ms.is_none() => progress.begun(now_ms),
            Ok(progress) => progress,
            Err(reason) => {
                actions.push(Action::Halt { partition: index, reason });
                return;
            }
        };
        self.epochs += 1;
        let epoch = self.epochs;
        let next = progress.low;
        self.partitions.insert(
            index,
            Partition {
                epoch,
                phase: Phase::CatchingUp { mark: 0 },
                progress,
                next,
                paused: false,
                overrun: false,
                to_write: Vec::new(),
                writing: None,
                gaps: Vec::new(),
                refolded: self.refolding.remove(&index).unwrap_or(0),
                recent: Recent::default(),
            },
        );
        if is_new {
            // Progress is explicit from the first assignment on: an owner that dies before its first record is
            // done must not leave a group that looks as if it had lost its progress.
            self.commit_progress(index, epoch);
        }
        match self.processor.view() {
            Some(_) => actions.push(Action::ReadViewBounds {
                partition: index,
                epoch,
                resync_ms: self.limits.resync_ms,
            }),
            None => self.deliver(index, actions),
        }
    }

    fn first_progress(
        &self,
        committed: Option<CommittedOffset>,
        start: i64,
        end: i64,
    ) -> Result<Progress, String> {
        let Some(committed) = committed else {
            return match self.limits.start {
                _ if start == end => Ok(Progress::at(end)),
                Start::Earliest => Ok(Progress::at(start)),
                Start::Latest => Ok(Progress::at(end)),
                Start::Refuse => Err(format!(
                    "group p2.{} has no progress on a topic that has records ({start}..{end}): start once with \
                     --from earliest, latest, a time or outputs",
                    self.processor.name(),
                )),
            };
        };
        let progress = Progress::decode(&committed)?;
        if progress.low < start {
            return Err(format!(
                "the log begins at offset {start}, but group p2.{} is only at {}: records were deleted before \
                 they were processed; raise the topic's retention and start once with --from earliest",
                self.processor.name(),
                progress.low,
            ));
        }
        if progress.low > end {
            return Err(format!(
                "group p2.{} is at offset {}, but the log ends at {end}: the log lost records that were \
                 processed, or it is another log; start once with --from outputs",
                self.processor.name(),
                progress.low,
            ));
        }
        Ok(progress)
    }

    pub(super) fn view_bounds(
        &mut self,
        index: i32,
        epoch: Epoch,
        (applied, mark, from): (i64, i64, i64),
        actions: &mut Actions<P>,
    ) {
        if !self.is_current(index, epoch) {
            return;
        }
        if applied > mark {
            let reason = self.ahead_of_its_log(index, applied, mark);
            self.forget(index, actions);
            actions.push(Action::Halt { partition: index, reason });
            return;
        }
        let Some(partition) = self.partitions.get_mut(&index) else { return };
        partition.phase = Phase::CatchingUp { mark };
        let from = if partition.refolded > 0 { 0 } else { from.min(applied) };
        if from >= mark {
            actions.push(Action::ListOpenLanes { partition: index, epoch });
        } else {
            actions.push(Action::ReadView { partition: index, epoch, from });
        }
    }

    /// Rows of records that the log does not have: nothing that is folded on top of them would be right.
    fn ahead_of_its_log(&self, index: i32, applied: i64, mark: i64) -> String {
        let topic = self.processor.view().map_or("its topic", |view| view.short());
        format!(
            "the store has {topic} partition {index} up to offset {applied}, but the log ends at {mark}: the topic \
             was deleted and made again, or the store belongs to another log; rebuild the view with \
             `p2engine replay stacks --rebuild`, or give this log a store (a keyspace) of its own",
        )
    }

    pub(super) fn view_records(
        &mut self,
        index: i32,
        epoch: Epoch,
        records: Vec<(i64, ViewRecord)>,
        next: i64,
        actions: &mut Actions<P>,
    ) {
        if !self.is_current(index, epoch) {
            return;
        }
        let Some(partition) = self.partitions.get_mut(&index) else { return };
        if partition.phase == Phase::Running {
            return;
        }
        partition.writing = Some(next);
        for (offset, record) in &records {
            partition.recent.remember(*offset, record.key(), record.seq());
        }
        actions.push(Action::WriteView { partition: index, epoch, records, applied: next });
    }

    pub(super) fn view_written(
        &mut self,
        index: i32,
        epoch: Epoch,
        applied: i64,
        now_ms: i64,
        actions: &mut Actions<P>,
    ) {
        if !self.is_current(index, epoch) {
            return;
        }
        let Some(partition) = self.partitions.get_mut(&index) else { return };
        partition.writing = None;
        partition.recent.acknowledged(applied, now_ms, self.limits.resync_ms);
        match partition.phase {
            Phase::CatchingUp { mark } if applied < mark => {
                actions.push(Action::ReadView { partition: index, epoch, from: applied });
            }
            Phase::CatchingUp { .. } => actions.push(Action::ListOpenLanes { partition: index, epoch }),
            Phase::Opening { .. } | Phase::Running => {
                partition.refolded = 0;
                self.evict();
                self.write_views(actions);
            }
        }
    }

    pub(super) fn open_lanes(
        &mut self,
        index: i32,
        epoch: Epoch,
        keys: Vec<String>,
        actions: &mut Actions<P>,
    ) {
        if !self.is_current(index, epoch) {
            return;
        }
        let Some(partition) = self.partitions.get_mut(&index) else { return };
        partition.phase = Phase::Opening { left: keys.len() };
        for key in keys {
            self.lanes.insert((index, key.clone()), Lane::loading());
            actions.push(Action::Load { partition: index, epoch, key });
        }
        self.opened(index, 0, actions);
    }

    /// `loaded` lanes of those with open waits have arrived; with the last one, delivery begins.
    pub(super) fn opened(&mut self, index: i32, loaded: usize, actions: &mut Actions<P>) {
        let Some(partition) = self.partitions.get_mut(&index) else { return };
        let Phase::Opening { left } = partition.phase else { return };
        let left = left.saturating_sub(loaded);
        partition.phase = Phase::Opening { left };
        if left == 0 {
            self.deliver(index, actions);
        }
    }

    fn deliver(&mut self, index: i32, actions: &mut Actions<P>) {
        let Some(partition) = self.partitions.get_mut(&index) else { return };
        partition.phase = Phase::Running;
        actions.push(Action::Deliver { partition: index, epoch: partition.epoch, offset: partition.next });
    }

    /// A lane's view does not fit: folds the whole view of its partition from the log, `most` times in a row.
    pub(super) fn refold(&mut self, index: i32, reason: &str, most: u8, actions: &mut Actions<P>) {
        let Some(old) = self.partitions.get(&index) else { return };
        let refolded = old.refolded;
        self.forget(index, actions);
        if refolded >= most {
            let reason = format!("the view of partition {index} does not fold, even from offset 0: {reason}");
            actions.push(Action::Halt { partition: index, reason });
            return;
        }
        self.refolding.insert(index, refolded.saturating_add(1));
        self.start_over(index, actions);
    }

    /// Asks for the partition's committed progress anew, once no commit is under way that could still change
    /// it.
    pub(super) fn start_over(&mut self, index: i32, actions: &mut Actions<P>) {
        if self.sealed.is_some() {
            self.starting_over.insert(index);
        } else {
            actions.push(Action::StartOver { partition: index });
        }
    }

    /// Ends an ownership: its lanes, calls, timers and unsealed parts are dropped.
    pub(super) fn forget(&mut self, index: i32, actions: &mut Actions<P>) {
        self.starting_over.remove(&index);
        if self.partitions.remove(&index).is_none() {
            return;
        }
        self.lanes.retain(|(partition, _), _| *partition != index);
        self.hot.forget(index);
        self.timers.retain(|(_, partition, ..)| *partition != index);
        self.light = 0;
        self.building.retain(|part| part.partition != index);
        self.queued.retain(|(partition, ..)| *partition != index);
        let cut: Vec<_> =
            self.calls.iter().filter(|(_, call)| call.partition == index).map(|(id, _)| *id).collect();
        for id in cut {
            self.cut(id, actions);
        }
    }

    /// Writes the views of committed records, one write per partition at a time.
    pub(super) fn write_views(&mut self, actions: &mut Actions<P>) {
        for (index, partition) in &mut self.partitions {
            if partition.writing.is_some() || partition.to_write.is_empty() {
                continue;
            }
            let records = std::mem::take(&mut partition.to_write);
            let applied = records.last().map_or(0, |(offset, _)| offset + 1);
            partition.writing = Some(applied);
            actions.push(Action::WriteView { partition: *index, epoch: partition.epoch, records, applied });
        }
    }

    /// Pauses partitions whose window is full, resumes them when half of it is free again. `reading`: the event at hand
    /// is a record, and others of the same read may follow it; what they let go is asked for only after them.
    pub(super) fn regulate(&mut self, reading: bool, actions: &mut Actions<P>) {
        for (index, partition) in &mut self.partitions {
            if partition.phase != Phase::Running {
                continue;
            }
            let ahead = partition.ahead(self.sealed.as_ref().and_then(|sealed| sealed.before.get(index)));
            if !partition.paused && (self.draining || ahead >= self.limits.window_offsets) {
                partition.paused = true;
                actions.push(Action::Pause { partition: *index });
            } else if partition.paused && !self.draining && ahead < self.limits.window_offsets / 2 {
                if !partition.overrun {
                    partition.paused = false;
                    actions.push(Action::Resume { partition: *index });
                } else if !reading {
                    (partition.paused, partition.overrun) = (false, false);
                    let (partition, epoch, offset) = (*index, partition.epoch, partition.next);
                    actions.push(Action::Deliver { partition, epoch, offset });
                }
            }
        }
    }
}
