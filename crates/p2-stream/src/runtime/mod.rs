//! The runtime: everything that makes a pure processor exactly once, as a value without IO.
//!
//! [`Runtime::on`] takes an event and returns actions. It is driven by the tokio shell and by the simulator
//! and by nothing else; all maps are ordered, so the same events give the same actions.
//!
//! The life of a partition: assigned → bounds of the view → committed view records up to the *high watermark*
//! into the store → lanes with open waits loaded → calls made again, timers set → records delivered. Every
//! ownership has an [`Epoch`]; what carries another one is dropped.
//!
//! The life of a record: delivered → its lane loaded → decided → part of a batch → committed with its mark.
//! A lane decides on its predecessor's uncommitted result; batches of one runtime commit one at a time and in
//! order, so what was decided on a batch that is dropped is dropped with it.

mod event;
mod hot;
mod lanes;
mod partition;
mod progress;
mod recent;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use p2_core::ids::Id;
use p2_core::record::{DeadLetter, Message};

pub use event::{Action, Epoch, Event, Incoming, Output};
pub use progress::{OffsetMark, Progress, WINDOW_OFFSETS_MAX};

use crate::ports::CommittedOffset;
use crate::processor::{Call, Processor};
use crate::view::ViewRecord;
use hot::Hot;
use lanes::{Lane, LaneKey};
use partition::{Partition, Phase};

/// What happens when the group never committed for a partition that has records. Never decided silently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The partition is halted, with a sentence that names the choices.
    Refuse,
    /// From the first record that is kept.
    Earliest,
    /// After the last one.
    Latest,
}

/// More parts without outputs than these do not wait.
const LIGHT_MAX: usize = 1_000;

/// Limits of one runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Offsets ahead of the low watermark; at most [`WINDOW_OFFSETS_MAX`].
    pub window_offsets: i64,
    /// Calls in flight.
    pub calls_max: usize,
    /// Records in a batch (a single step may exceed it).
    pub batch_records_max: usize,
    /// Bytes in a batch (a single step may exceed it).
    pub batch_bytes_max: usize,
    /// Lanes kept in memory when nothing is open in them.
    pub lanes_max: usize,
    /// Progress on records that led to nothing is committed with the next outputs, and after so many milliseconds at
    /// the latest. Whoever starts over reads that much again, and again it leads to nothing.
    pub progress_ms: i64,
    /// View records of so much of the log's time, milliseconds, are read again before the store's applied offset,
    /// since a store may have lost the newest rows that it acknowledged. It covers what a store may lose, how long
    /// rows were committed but not yet written when it did, and what the clocks of owners differ by.
    pub resync_ms: i64,
    /// What happens to a group without progress.
    pub start: Start,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            window_offsets: WINDOW_OFFSETS_MAX,
            calls_max: 1_024,
            batch_records_max: 2_000,
            batch_bytes_max: 8 << 20,
            lanes_max: 20_000,
            progress_ms: 1_000,
            resync_ms: 60_000,
            start: Start::Refuse,
        }
    }
}

/// What the runtime must know of the wire: pure, no IO.
pub trait Codec {
    /// The encoded size of a message, and what was written to learn it.
    ///
    /// # Errors
    /// (code, sentence) where it cannot be written: too large, or it does not fit its schema.
    fn encode(&self, message: &Message) -> Result<Encoded, (String, String)>;

    /// The dead letter of a record that was read but cannot be processed.
    fn letter(&self, at: (i32, i64), message: &Message, code: &str, reason: &str, now_ms: i64) -> DeadLetter;
}

/// What a codec says of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The size of its record in bytes.
    pub bytes: usize,
    /// Its value: it goes with the output to the commit, so that nothing is encoded twice. None where whoever commits
    /// has no use for it.
    pub value: Option<Vec<u8>>,
}

/// What one lane input left to be committed.
#[derive(Clone, Debug)]
struct Part<C> {
    partition: i32,
    epoch: Epoch,
    key: String,
    outputs: Vec<Arc<Output>>,
    bytes: usize,
    /// The record behind the step and what becomes of its offset.
    mark: Option<(i64, OffsetMark)>,
    /// Calls that may start only after this commit.
    calls: Vec<Call<C>>,
}

impl<C> Part<C> {
    /// Nothing is written and nothing waits for the commit: only the offset is done.
    fn is_light(&self) -> bool {
        self.outputs.is_empty() && self.calls.is_empty() && matches!(self.mark, Some((_, OffsetMark::Done)))
    }
}

/// The batch whose commit is under way.
#[derive(Clone, Debug)]
struct Sealed<C> {
    id: u64,
    parts: Vec<Part<C>>,
    progress: Vec<(i32, CommittedOffset)>,
    /// Progress before, to go back to when the batch is split.
    before: BTreeMap<i32, Progress>,
}

/// A call that was asked for and has not ended.
#[derive(Clone, Debug)]
struct Running {
    partition: i32,
    epoch: Epoch,
    key: String,
}

/// The runtime of one processor.
pub struct Runtime<P: Processor> {
    processor: P,
    codec: Box<dyn Codec + Send>,
    limits: Limits,
    nonce: u64,
    epochs: Epoch,
    batches: u64,
    parts_max: usize,
    draining: bool,
    partitions: BTreeMap<i32, Partition>,
    lanes: BTreeMap<LaneKey, Lane<P>>,
    hot: Hot,
    building: VecDeque<Part<P::Request>>,
    /// So many parts at the front of `building` are known to be [light](Part::is_light).
    light: usize,
    /// When they are committed, where nothing else is before: milliseconds since the epoch.
    light_due_ms: Option<i64>,
    sealed: Option<Sealed<P::Request>>,
    calls: BTreeMap<Id, Running>,
    queued: VecDeque<(i32, Epoch, String, Call<P::Request>)>,
    timers: BTreeSet<(i64, i32, String, Id)>,
    /// Records that failed by themselves, until they are done: (partition, offset) → (code, reason).
    poisoned: BTreeMap<(i32, i64), (String, String)>,
    /// Partitions whose view is folded from offset 0 at their next assignment, and how often in a row by then.
    refolding: BTreeMap<i32, u8>,
    /// Partitions that start over once the commit under way has ended.
    starting_over: BTreeSet<i32>,
    counters: Counters,
}

/// What the runtime counts; never reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Inputs decided.
    pub inputs: u64,
    /// Batches committed.
    pub commits: u64,
    /// Events of an epoch that is over.
    pub stale: u64,
    /// Records that were delivered again.
    pub redelivered: u64,
    /// Of these, replies of calls.
    pub replies: u64,
    /// Of these, timers.
    pub timers: u64,
    /// Dead letters written.
    pub dead_letters: u64,
}

type Actions<P> = Vec<Action<<P as Processor>::Request>>;

impl<P: Processor> Runtime<P> {
    /// A runtime that owns nothing yet. `nonce` is drawn at start; it marks this owner's batches.
    pub fn new(processor: P, codec: Box<dyn Codec + Send>, limits: Limits, nonce: u64) -> Runtime<P> {
        Runtime {
            processor,
            codec,
            limits,
            nonce,
            epochs: 0,
            batches: 0,
            parts_max: usize::MAX,
            draining: false,
            partitions: BTreeMap::new(),
            lanes: BTreeMap::new(),
            hot: Hot::default(),
            building: VecDeque::new(),
            light: 0,
            light_due_ms: None,
            sealed: None,
            calls: BTreeMap::new(),
            queued: VecDeque::new(),
            timers: BTreeSet::new(),
            poisoned: BTreeMap::new(),
            refolding: BTreeMap::new(),
            starting_over: BTreeSet::new(),
            counters: Counters::default(),
        }
    }

    /// The processor.
    pub fn processor(&self) -> &P {
        &self.processor
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// When the next timer is due, or progress is to be committed, milliseconds since the epoch: send [`Event::Tick`] then.
    pub fn next_timer_ms(&self) -> Option<i64> {
        let timer = self.timers.first().map(|(due, ..)| *due);
        let progress = self.light_due_ms.filter(|_| self.sealed.is_none());
        timer.into_iter().chain(progress).min()
    }

    /// Nothing is decided that is not committed, and no row is unwritten.
    pub fn is_settled(&self) -> bool {
        self.sealed.is_none()
            && self.building.is_empty()
            && self.partitions.values().all(|partition| partition.view_is_written())
    }

    /// Calls that have not ended.
    pub fn calls_running(&self) -> usize {
        self.calls.len()
    }

    /// The owned partitions that have started: (partition, low watermark, the offset after the newest record
    /// taken).
    pub fn progress(&self) -> Vec<(i32, i64, i64)> {
        self.partitions
            .iter()
            .filter(|(_, partition)| partition.phase == Phase::Running)
            .map(|(index, partition)| (*index, partition.progress.low, partition.next))
            .collect()
    }

    /// The state of a lane that is in memory.
    pub fn lane(&self, partition: i32, key: &str) -> Option<&P::Lane> {
        self.lanes.get(&(partition, key.to_owned()))?.state.as_ref()
    }

    /// The key of the lane that a call belongs to, while it runs.
    pub fn call_lane(&self, call: &Id) -> Option<&str> {
        self.calls.get(call).map(|running| running.key.as_str())
    }

    /// Takes an event at a time and returns what is to be done, in order.
    pub fn on(&mut self, event: Event<P::Reply>, now_ms: i64) -> Actions<P> {
        let mut actions = Vec::new();
        let reading = matches!(event, Event::Record { .. });
        self.handle(event, now_ms, &mut actions);
        if self.sealed.is_none() {
            for partition in std::mem::take(&mut self.starting_over) {
                actions.push(Action::StartOver { partition });
            }
        }
        self.fire_timers(now_ms, &mut actions);
        self.start_queued(&mut actions);
        self.seal(now_ms, &mut actions);
        self.regulate(reading, &mut actions);
        actions
    }

    fn handle(&mut self, event: Event<P::Reply>, now_ms: i64, actions: &mut Actions<P>) {
        match event {
            Event::Assigned { partition, committed, start, end } => {
                self.assigned(partition, committed, (start, end), now_ms, actions);
            }
            Event::Revoked { partition } => {
                self.forget(partition, actions);
                self.poisoned.retain(|(index, _), _| *index != partition);
            }
            Event::ViewBounds { partition, epoch, applied, mark, from } => {
                self.view_bounds(partition, epoch, (applied, mark, from), actions);
            }
            Event::ViewRecords { partition, epoch, records, next } => {
                self.view_records(partition, epoch, records, next, actions);
            }
            Event::ViewWritten { partition, epoch, applied } => {
                self.view_written(partition, epoch, applied, now_ms, actions);
            }
            Event::OpenLanes { partition, epoch, keys } => self.open_lanes(partition, epoch, keys, actions),
            Event::Loaded { partition, epoch, key, rows } => {
                self.loaded(partition, epoch, key, rows, now_ms, actions);
            }
            Event::Record { partition, epoch, offset, record } => {
                self.record(partition, epoch, offset, record, now_ms, actions);
            }
            Event::Reply { partition, epoch, call, reply } => {
                self.reply(partition, epoch, call, reply, now_ms, actions);
            }
            Event::Tick => {}
            Event::Committed { batch, positions } => self.committed(batch, &positions, actions),
            Event::Aborted { batch, halve } => self.aborted(batch, halve, actions),
            Event::Fenced { batch } | Event::Unknown { batch } => self.start_over_batch(batch, actions),
            Event::Drain => self.draining = true,
        }
    }

    /// Whether something of `epoch` still concerns us; counts it where not.
    fn is_current(&mut self, partition: i32, epoch: Epoch) -> bool {
        let current = self.partitions.get(&partition).is_some_and(|known| known.epoch == epoch);
        if !current {
            self.counters.stale += 1;
        }
        current
    }

    // ------------------------------------------------------------------------------------- batches

    /// Seals what is finished into a batch, unless one is under way, or all of it is progress that can wait.
    fn seal(&mut self, now_ms: i64, actions: &mut Actions<P>) {
        if self.building.is_empty() {
            (self.light, self.light_due_ms) = (0, None);
        }
        if self.sealed.is_some() || self.building.is_empty() {
            return;
        }
        while self.building.get(self.light).is_some_and(Part::is_light) {
            self.light += 1;
        }
        if self.light == self.building.len() {
            let due_ms = *self.light_due_ms.get_or_insert(now_ms.saturating_add(self.limits.progress_ms));
            // Before the window gets narrow, nobody waits.
            let many = usize::try_from(self.limits.window_offsets / 4).unwrap_or(0).min(LIGHT_MAX);
            if now_ms < due_ms && self.light < many && !self.draining {
                return;
            }
        }
        (self.light, self.light_due_ms) = (0, None);
        let mut parts = Vec::new();
        let (mut records, mut bytes) = (0, 0);
        while let Some(part) = self.building.front() {
            let full = records + part.outputs.len() > self.limits.batch_records_max
                || bytes + part.bytes > self.limits.batch_bytes_max
                || parts.len() >= self.parts_max;
            if full && !parts.is_empty() {
                break;
            }
            records += part.outputs.len();
            bytes += part.bytes;
            parts.extend(self.building.pop_front());
        }
        self.batches += 1;
        let mut before = BTreeMap::new();
        for part in &parts {
            let Some(partition) = self.partitions.get_mut(&part.partition) else { continue };
            before.entry(part.partition).or_insert_with(|| {
                partition.gaps.clear();
                partition.progress.clone()
            });
            if let Some((offset, mark)) = part.mark {
                partition.progress.mark(offset, mark);
            }
        }
        let mut progress = Vec::new();
        for index in before.keys() {
            let Some(partition) = self.partitions.get_mut(index) else { continue };
            partition.progress.batch = self.batches;
            partition.progress.nonce = self.nonce;
            progress.push((*index, partition.progress.encode()));
        }
        let sealed = Sealed { id: self.batches, parts, progress, before };
        actions.push(Self::commit_action(&sealed));
        self.sealed = Some(sealed);
    }

    /// Commits a partition's progress as it is.
    fn commit_progress(&mut self, partition: i32, epoch: Epoch) {
        self.building.push_back(Part {
            partition,
            epoch,
            key: String::new(),
            outputs: Vec::new(),
            bytes: 0,
            mark: None,
            calls: Vec::new(),
        });
    }

    fn commit_action(sealed: &Sealed<P::Request>) -> Action<P::Request> {
        Action::Commit {
            batch: sealed.id,
            outputs: sealed.parts.iter().flat_map(|part| part.outputs.iter().map(Arc::clone)).collect(),
            progress: sealed.progress.clone(),
        }
    }

    fn take_sealed(&mut self, batch: u64) -> Option<Sealed<P::Request>> {
        self.sealed.take_if(|sealed| sealed.id == batch)
    }

    fn committed(&mut self, batch: u64, positions: &[p2_core::record::Position], actions: &mut Actions<P>) {
        let Some(sealed) = self.take_sealed(batch) else { return };
        self.counters.commits += 1;
        self.parts_max = self.parts_max.saturating_mul(2);
        for (index, committed) in &sealed.progress {
            // Below the committed watermark nothing is delivered again.
            self.poisoned.retain(|(partition, offset), _| partition != index || *offset >= committed.offset);
        }
        let mut positions = positions.iter();
        for part in sealed.parts {
            let current = self.is_current(part.partition, part.epoch);
            for output in part.outputs {
                let position = positions.next();
                if let (true, Some(position)) = (current, position)
                    && self.processor.view() == Some(position.topic)
                    && let Some(record) = ViewRecord::of(Arc::unwrap_or_clone(output).message.payload)
                    && let Some(partition) = self.partitions.get_mut(&part.partition)
                {
                    partition.recent.remember(position.offset, record.key(), record.seq());
                    partition.to_write.push((position.offset, record));
                }
            }
            if current {
                for call in part.calls {
                    self.start_call(part.partition, part.epoch, &part.key, call, actions);
                }
            }
        }
        self.write_views(actions);
    }

    fn aborted(&mut self, batch: u64, halve: bool, actions: &mut Actions<P>) {
        let Some(mut sealed) = self.take_sealed(batch) else { return };
        self.light = 0;
        // Parts of partitions that were lost meanwhile must not be tried again.
        let lost: Vec<i32> = sealed
            .parts
            .iter()
            .filter(|part| self.partitions.get(&part.partition).is_none_or(|now| now.epoch != part.epoch))
            .map(|part| part.partition)
            .collect();
        if !halve && lost.is_empty() {
            actions.push(Self::commit_action(&sealed));
            self.sealed = Some(sealed);
            return;
        }
        for (index, progress) in &sealed.before {
            if let Some(partition) = self.partitions.get_mut(index).filter(|_| !lost.contains(index)) {
                partition.progress = progress.clone();
                // Passed while the commit was under way: nobody delivers them again.
                for gap in &partition.gaps {
                    partition.progress.mark(*gap, OffsetMark::Done);
                }
            }
        }
        let alone = sealed.parts.len() == 1;
        sealed.parts.retain(|part| !lost.contains(&part.partition));
        if halve {
            if let ([only], true) = (sealed.parts.as_slice(), alone) {
                self.single_part_failed(only.clone(), actions);
                return;
            }
            self.parts_max = (sealed.parts.len() / 2).max(1);
        }
        for part in sealed.parts.into_iter().rev() {
            self.building.push_front(part);
        }
    }

    /// A part that cannot be committed even alone: its record is poison, and the partition starts over.
    fn single_part_failed(&mut self, part: Part<P::Request>, actions: &mut Actions<P>) {
        let partition = part.partition;
        if let Some((offset, _)) = part.mark {
            let reason = "the outputs of this record are refused by the log, even alone in a batch";
            self.poisoned.insert((partition, offset), ("uncommittable".to_owned(), reason.to_owned()));
            self.forget(partition, actions);
            self.start_over(partition, actions);
        } else {
            let reason = format!("the log refuses the outputs of a reply or timer of lane '{}'", part.key);
            self.forget(partition, actions);
            actions.push(Action::Halt { partition, reason });
        }
    }

    /// After a fence or an unknown outcome: whatever rests on this batch is dropped, its partitions begin anew
    /// from what is committed.
    fn start_over_batch(&mut self, batch: u64, actions: &mut Actions<P>) {
        let Some(sealed) = self.take_sealed(batch) else { return };
        let owners: BTreeMap<i32, Epoch> =
            sealed.parts.iter().map(|part| (part.partition, part.epoch)).collect();
        for (partition, epoch) in owners {
            if self.partitions.get(&partition).is_some_and(|known| known.epoch == epoch) {
                self.forget(partition, actions);
                self.start_over(partition, actions);
            }
        }
    }

    // --------------------------------------------------------------------------------------- calls

    fn start_call(
        &mut self,
        partition: i32,
        epoch: Epoch,
        key: &str,
        call: Call<P::Request>,
        actions: &mut Actions<P>,
    ) {
        if self.calls.contains_key(&call.id) {
            return;
        }
        if self.calls.len() >= self.limits.calls_max {
            self.queued.push_back((partition, epoch, key.to_owned(), call));
            return;
        }
        self.calls.insert(call.id, Running { partition, epoch, key: key.to_owned() });
        actions.push(Action::Call {
            partition,
            epoch,
            id: call.id,
            deadline_ms: call.deadline_ms,
            request: call.request,
        });
    }

    fn start_queued(&mut self, actions: &mut Actions<P>) {
        while self.calls.len() < self.limits.calls_max {
            let Some((partition, epoch, key, call)) = self.queued.pop_front() else { return };
            if self.partitions.get(&partition).is_some_and(|known| known.epoch == epoch) {
                self.start_call(partition, epoch, &key, call, actions);
            }
        }
    }

    fn cut(&mut self, id: Id, actions: &mut Actions<P>) {
        self.queued.retain(|(.., call)| call.id != id);
        if self.calls.remove(&id).is_some() {
            actions.push(Action::Cut { id });
        }
    }
}
