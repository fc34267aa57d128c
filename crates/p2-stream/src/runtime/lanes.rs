//! Lanes: the inputs of one key, decided in order.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use p2_core::ids::Id;
use p2_core::record::{Message, Payload, Position};

use super::{Action, Actions, Encoded, Epoch, Incoming, OffsetMark, Output, Part, Runtime};
use crate::processor::{LaneInput, Mark, Processor};
use crate::view::LaneRows;

/// How often in a row a view is folded anew because a store lost rows in the middle.
const GAP_FOLDS_MAX: u8 = 3;

/// (partition, key).
pub(super) type LaneKey = (i32, String);
/// Outputs with what the codec wrote of them, and their bytes together.
type Measured = (Vec<Arc<Output>>, usize);

/// One lane.
pub(super) struct Lane<P: Processor> {
    /// None while it is loading.
    pub(super) state: Option<P::Lane>,
    /// Inputs that wait: for the state to load, or (lanes without a view) for the record before them.
    backlog: VecDeque<(i64, LaneInput<P::Reply>)>,
    /// Lanes without a view: the offset of the record that is under way.
    record: Option<i64>,
    /// Timers that are set.
    timers: Vec<(i64, Id)>,
    /// (due, timer) that fired: each does so once per ownership, unless its deadline moves.
    fired: BTreeSet<(i64, Id)>,
}

impl<P: Processor> Lane<P> {
    pub(super) fn loading() -> Lane<P> {
        Lane {
            state: None,
            backlog: VecDeque::new(),
            record: None,
            timers: Vec::new(),
            fired: BTreeSet::new(),
        }
    }

    /// Loaded, and nothing of it waits for anything.
    pub(super) fn is_idle(&self) -> bool {
        self.state.is_some() && self.backlog.is_empty() && self.timers.is_empty()
    }
}

impl<P: Processor> Runtime<P> {
    pub(super) fn loaded(
        &mut self,
        index: i32,
        epoch: Epoch,
        key: String,
        rows: LaneRows,
        now_ms: i64,
        actions: &mut Actions<P>,
    ) {
        if !self.is_current(index, epoch) {
            return;
        }
        if !self.partitions.get(&index).is_some_and(|known| known.recent.is_whole(&key, rows.newest_seq())) {
            // The store lost rows that it had acknowledged: catching up brings them back from the log.
            self.forget(index, actions);
            self.start_over(index, actions);
            return;
        }
        let gap = rows.has_gap();
        let state = match self.processor.restore(rows) {
            Ok(state) => state,
            Err(reason) => {
                // Rows that the store lost say nothing of the log: it may lose some of what a fold wrote, too.
                let most = if gap { GAP_FOLDS_MAX } else { 1 };
                self.refold(index, &reason, most, actions);
                return;
            }
        };
        let calls = self.processor.open_calls(&state);
        let Some(lane) = self.lanes.get_mut(&(index, key.clone())).filter(|lane| lane.state.is_none()) else {
            return;
        };
        lane.state = Some(state);
        self.hot.touch(&(index, key.clone()));
        self.refresh_timers(index, &key);
        for call in calls {
            self.start_call(index, epoch, &key, call, actions);
        }
        self.opened(index, 1, actions);
        self.run_backlog(index, epoch, &key, now_ms, actions);
    }

    pub(super) fn record(
        &mut self,
        index: i32,
        epoch: Epoch,
        offset: i64,
        record: Incoming,
        now_ms: i64,
        actions: &mut Actions<P>,
    ) {
        if !self.is_current(index, epoch) {
            return;
        }
        let Some(partition) = self.partitions.get_mut(&index) else { return };
        if offset < partition.next {
            self.counters.redelivered += 1;
            return;
        }
        // Offsets in between are transaction markers and aborted records: done.
        while !partition.overrun && partition.next <= offset {
            let before = self.sealed.as_ref().and_then(|sealed| sealed.before.get(&index));
            if partition.ahead(before) >= self.limits.window_offsets {
                // On its way when the partition was paused. Progress has no room for it: it is read again.
                partition.overrun = true;
            } else {
                if partition.next < offset {
                    partition.progress.mark(partition.next, OffsetMark::Done);
                    partition.gaps.push(partition.next);
                }
                partition.next += 1;
            }
        }
        if partition.overrun {
            return;
        }
        let mark = partition.progress.mark_of(offset);
        if mark == Some(OffsetMark::Done) {
            return;
        }
        let message = match record {
            Incoming::Message(message) => *message,
            Incoming::Misplaced(message) => {
                self.finish_record(index, epoch, offset, *message);
                return;
            }
            Incoming::Poison(letter) => {
                self.counters.dead_letters += 1;
                self.finish_record(index, epoch, offset, letter_message(*letter));
                return;
            }
        };
        if let Some((code, reason)) = self.poisoned.get(&(index, offset)).cloned() {
            self.dead_letter(index, epoch, offset, &message, (&code, &reason), now_ms);
            return;
        }
        let key = self.processor.lane_key(&message);
        let input = match mark {
            Some(OffsetMark::Claimed) => LaneInput::Claimed(message),
            _ => LaneInput::Record(message),
        };
        let has_view = self.processor.view().is_some();
        let lane = self.lanes.entry((index, key.clone())).or_insert_with(|| {
            if has_view {
                actions.push(Action::Load { partition: index, epoch, key: key.clone() });
                Lane::loading()
            } else {
                Lane { state: Some(P::Lane::default()), ..Lane::loading() }
            }
        });
        lane.backlog.push_back((offset, input));
        self.run_backlog(index, epoch, &key, now_ms, actions);
    }

    pub(super) fn reply(
        &mut self,
        index: i32,
        epoch: Epoch,
        call: Id,
        reply: P::Reply,
        now_ms: i64,
        actions: &mut Actions<P>,
    ) {
        if !self.is_current(index, epoch) {
            return;
        }
        // A call that was cut is not known any more: whoever closed its wait won.
        let Some(running) = self.calls.get(&call).filter(|running| running.epoch == epoch) else { return };
        let key = running.key.clone();
        self.calls.remove(&call);
        self.counters.replies += 1;
        self.decide(index, epoch, &key, None, &LaneInput::Reply { call, reply }, now_ms, actions);
        self.run_backlog(index, epoch, &key, now_ms, actions);
    }

    pub(super) fn fire_timers(&mut self, now_ms: i64, actions: &mut Actions<P>) {
        while let Some((due, ..)) = self.timers.first() {
            if *due > now_ms {
                return;
            }
            let Some((due, index, key, timer)) = self.timers.pop_first() else { return };
            let Some(epoch) = self.partitions.get(&index).map(|partition| partition.epoch) else { continue };
            let Some(lane) = self.lanes.get_mut(&(index, key.clone())) else { continue };
            lane.timers.retain(|(_, id)| *id != timer);
            lane.fired.insert((due, timer));
            self.counters.timers += 1;
            self.decide(index, epoch, &key, None, &LaneInput::Timer { timer }, now_ms, actions);
            self.run_backlog(index, epoch, &key, now_ms, actions);
        }
    }

    fn run_backlog(&mut self, index: i32, epoch: Epoch, key: &str, now_ms: i64, actions: &mut Actions<P>) {
        let lane_key = (index, key.to_owned());
        loop {
            let Some(lane) = self.lanes.get_mut(&lane_key) else { return };
            if lane.state.is_none() || lane.record.is_some() {
                return;
            }
            let Some((offset, input)) = lane.backlog.pop_front() else { return };
            self.decide(index, epoch, key, Some(offset), &input, now_ms, actions);
        }
    }

    /// Decides one input of a loaded lane and puts what follows into the batch.
    #[allow(clippy::too_many_arguments, reason = "one place, and every argument names itself")]
    fn decide(
        &mut self,
        index: i32,
        epoch: Epoch,
        key: &str,
        offset: Option<i64>,
        input: &LaneInput<P::Reply>,
        now_ms: i64,
        actions: &mut Actions<P>,
    ) {
        let lane_key = (index, key.to_owned());
        let Some(lane) = self.lanes.get_mut(&lane_key) else { return };
        let Some(state) = lane.state.as_mut() else { return };
        self.counters.inputs += 1;
        let has_view = self.processor.view().is_some();
        if !has_view && let LaneInput::Record(message) | LaneInput::Claimed(message) = input {
            // A lane without a view knows its record only through this.
            let _ = self.processor.apply(state, message);
        }
        let record = offset.or(lane.record);
        let (mut step, after) = self.processor.decide_and_apply(key, state, input, now_ms);
        if let Some(offset) = record {
            let at = Position { topic: self.processor.input(), partition: index, offset };
            step.outputs.iter_mut().for_each(|output| output.cause_position = Some(at));
        }
        let (outputs, bytes) = match self.encoded(step.outputs) {
            Ok(encoded) => encoded,
            Err((code, reason)) => {
                if let (Some(offset), LaneInput::Record(message) | LaneInput::Claimed(message)) =
                    (offset, input)
                {
                    self.dead_letter(index, epoch, offset, message, (&code, &reason), now_ms);
                }
                // A reply that does not fit is left to the deadline of its wait, which closes it visibly.
                return;
            }
        };
        let Some(lane) = self.lanes.get_mut(&lane_key) else { return };
        let Some(state) = lane.state.as_mut() else { return };
        let view = self.processor.view();
        let mut of_view =
            outputs.iter().map(|output| &output.message).filter(|made| Some(made.payload.topic()) == view);
        if let Some(after) = after {
            *state = after;
        } else if let Err(reason) = of_view.try_for_each(|made| self.processor.apply(state, made)) {
            self.refold(index, &reason, 1, actions);
            return;
        }
        let mark = match step.mark {
            Mark::Done | Mark::DoneThenCall => record.map(|offset| (offset, OffsetMark::Done)),
            Mark::Claimed => record.map(|offset| (offset, OffsetMark::Claimed)),
            Mark::Pending => None,
        };
        let done = matches!(step.mark, Mark::Done | Mark::DoneThenCall);
        lane.record = if has_view || done { None } else { record };
        let spent = !has_view && done && lane.backlog.is_empty();
        if spent {
            let timers = self.lanes.remove(&lane_key).map(|lane| lane.timers).unwrap_or_default();
            for (due, id) in timers {
                self.timers.remove(&(due, index, key.to_owned(), id));
            }
        } else {
            self.refresh_timers(index, key);
            if has_view {
                self.hot.touch(&lane_key);
            }
        }
        for id in &step.cancel {
            self.cut(*id, actions);
        }
        let (now, after): (Vec<_>, Vec<_>) = match step.mark {
            Mark::Claimed | Mark::DoneThenCall => (Vec::new(), step.calls),
            Mark::Done | Mark::Pending => (step.calls, Vec::new()),
        };
        if !outputs.is_empty() || mark.is_some() || !after.is_empty() {
            let key = key.to_owned();
            let part = Part { partition: index, epoch, key, outputs, bytes, mark, calls: after };
            self.building.push_back(part);
        }
        for call in now {
            self.start_call(index, epoch, key, call, actions);
        }
    }

    fn encoded(&self, outputs: Vec<Message>) -> Result<Measured, (String, String)> {
        let mut all = 0;
        let encode = |message: Message| {
            let Encoded { bytes, value } = self.codec.encode(&message)?;
            all += bytes;
            Ok(Arc::new(Output { message, value }))
        };
        let outputs: Result<_, (String, String)> = outputs.into_iter().map(encode).collect();
        Ok((outputs?, all))
    }

    fn dead_letter(
        &mut self,
        index: i32,
        epoch: Epoch,
        offset: i64,
        message: &Message,
        (code, reason): (&str, &str),
        now_ms: i64,
    ) {
        self.counters.dead_letters += 1;
        let letter = self.codec.letter((index, offset), message, code, reason, now_ms);
        self.finish_record(index, epoch, offset, letter_message(letter));
    }

    /// A record that ends in one other record instead of a decision.
    fn finish_record(&mut self, index: i32, epoch: Epoch, offset: i64, message: Message) {
        let Encoded { bytes, value } = self.codec.encode(&message).unwrap_or_default();
        let mark = Some((offset, OffsetMark::Done));
        let key = message.payload.key().to_owned();
        let outputs = vec![Arc::new(Output { message, value })];
        self.building.push_back(Part {
            partition: index,
            epoch,
            key,
            outputs,
            bytes,
            mark,
            calls: Vec::new(),
        });
    }

    fn refresh_timers(&mut self, index: i32, key: &str) {
        let Some(lane) = self.lanes.get_mut(&(index, key.to_owned())) else { return };
        let Some(state) = lane.state.as_ref() else { return };
        for (due, id) in lane.timers.drain(..) {
            self.timers.remove(&(due, index, key.to_owned(), id));
        }
        for (id, due) in self.processor.timers(state) {
            if !lane.fired.contains(&(due, id)) {
                lane.timers.push((due, id));
                self.timers.insert((due, index, key.to_owned(), id));
            }
        }
    }
}

fn letter_message(letter: p2_core::record::DeadLetter) -> Message {
    Message {
        id: letter.id,
        cause: letter.id,
        cause_position: None,
        time_ms: letter.time_ms,
        traceparent: None,
        payload: Payload::DeadLetter(letter),
    }
}
