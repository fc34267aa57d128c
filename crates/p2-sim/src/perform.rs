//! What log and store do with a request.

use std::collections::BTreeSet;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use p2_core::ids::BookId;
use p2_core::record::{LedgerTransaction, Payload, Position, StateTransition, Topic};
use p2_stream::memory::MemoryLedger;
use p2_stream::ports::{LedgerStore, StoreError};
use p2_stream::runtime::{Action, Event};
use p2_stream::view::{LaneRows, ViewRecord};
use rand::Rng;

use crate::actor::Started;
use crate::world::{Address, Ending, Happening, OpenTxn, Sent, World};

impl World<'_> {
    pub(crate) fn fetch(&mut self, to: Address, partition: i32, ticket: u64) {
        let Some(seat) = self.seat(to) else { return };
        if seat.owned.get(&partition) != Some(&ticket) {
            return;
        }
        let (name, topic) = (seat.actor.name(), seat.actor.input());
        let Some(group) = self.log.groups.get(name) else { return };
        if group.pending.contains_key(&partition) {
            // Offsets are fetched stable: a transaction that carries them has to end first.
            self.schedule(20, Happening::Fetch(to, partition, ticket));
            return;
        }
        let committed = group.committed.get(&partition).cloned();
        let end = self.log.high(topic, partition);
        self.tell(to, Event::Assigned { partition, committed, start: 0, end });
    }

    /// The operator's `--from`: progress is rebuilt from what is committed.
    pub(crate) fn operate(&mut self, to: Address, partition: i32) {
        let ticket = self.number();
        let Some(seat) = self.seat(to) else { return };
        let Some(known) = seat.owned.get_mut(&partition) else { return };
        *known = ticket;
        let name = seat.actor.name();
        let rebuilt = self.checker.progress(name, partition).unwrap_or_default();
        if let Some(group) = self.log.groups.get_mut(name) {
            group.committed.entry(partition).or_insert(rebuilt);
        }
        self.schedule(1, Happening::Fetch(to, partition, ticket));
    }

    fn answer(&mut self, to: Address, event: Event<u64>) {
        let latency = self.latency();
        self.schedule(latency, Happening::Event(to, event));
    }

    pub(crate) fn start(&mut self, to: Address, action: &Action<u64>) {
        let Action::Call { partition, epoch, id, request: token, .. } = *action else { return };
        let now = self.clock(to);
        self.fault(to);
        let Some(seat) =
            self.instances.get_mut(to.instance).filter(|known| known.life == to.life && known.alive)
        else {
            return;
        };
        let Some(seat) = seat.seats.get_mut(to.actor) else { return };
        self.topology.look(&self.log, &self.store);
        let started = seat.actor.start(token, now, &mut self.outside, &mut self.rng);
        if let Some(reason) = self.outside.broken.take() {
            self.violate(reason);
        }
        match started {
            Some(Started::Reply(delay)) => {
                let reply = Event::Reply { partition, epoch, call: id, reply: token };
                self.schedule(delay, Happening::Event(to, reply));
            }
            Some(Started::Again(delay)) => self.schedule(delay, Happening::Start(to, action.clone())),
            None => {}
        }
    }

    pub(crate) fn perform(&mut self, to: Address, action: Action<u64>) {
        match action {
            Action::ReadViewBounds { partition, epoch, resync_ms } => {
                let Some(view) = self.seat(to).and_then(|seat| seat.actor.view()) else { return };
                let applied = self.applied(to, view, partition);
                let mark = self.log.high(view, partition);
                let from = self.log.resync_from(view, partition, applied, resync_ms);
                self.answer(to, Event::ViewBounds { partition, epoch, applied, mark, from });
            }
            Action::ReadView { partition, epoch, from } => {
                let Some(view) = self.seat(to).and_then(|seat| seat.actor.view()) else { return };
                let stable = self.log.stable(view, partition);
                if stable <= from {
                    self.outside.count("catch-up waits for a marker");
                    self.waiting.push((to, action));
                    return;
                }
                let next = stable.min(from + self.rng.random_range(1..30));
                let found = self.log.read(view, partition, from, next).into_iter();
                let records = found
                    .filter_map(|(at, message, _)| Some((at, ViewRecord::of(message.payload.clone())?)))
                    .collect();
                self.answer(to, Event::ViewRecords { partition, epoch, records, next });
            }
            Action::WriteView { partition, epoch, ref records, applied } => {
                let written = match self.views.get(to.actor).copied().flatten() {
                    Some(Topic::LedgerTransactions) => {
                        self.write_books(to, &action, partition, records, applied)
                    }
                    _ => self.write_rows(to, &action, partition, records, applied),
                };
                if written {
                    self.answer(to, Event::ViewWritten { partition, epoch, applied });
                }
            }
            Action::ListOpenLanes { partition, epoch } => {
                let Some(keys) = self.open_lanes(to, partition) else { return };
                self.answer(to, Event::OpenLanes { partition, epoch, keys });
            }
            Action::Load { partition, epoch, key } => {
                let rows = match self.books(to) {
                    Some(books) => at_once(books.load(&BookId::from(key.as_str())))
                        .map(|book| LaneRows::Book(book.into())),
                    None => Ok(LaneRows::Transitions(self.store.load(partition, &key))),
                };
                match rows {
                    Ok(rows) => self.answer(to, Event::Loaded { partition, epoch, key, rows }),
                    Err(reason) => self.violate(reason),
                }
            }
            _ => {}
        }
    }

    /// The books of an instance, for a processor whose view they are.
    fn books(&mut self, to: Address) -> Option<MemoryLedger> {
        let view = self.seat(to)?.actor.view();
        let instance = self.instances.get(to.instance)?;
        (view == Some(Topic::LedgerTransactions)).then(|| instance.books.clone())
    }

    fn applied(&mut self, to: Address, view: Topic, partition: i32) -> i64 {
        match self.books(to) {
            Some(books) if view == Topic::LedgerTransactions => books.read_up_to(partition),
            _ => self.store.applied(partition),
        }
    }

    fn open_lanes(&mut self, to: Address, partition: i32) -> Option<Vec<String>> {
        if let Some(books) = self.books(to) {
            let open = at_once(books.open(partition)).unwrap_or_default();
            return Some(open.into_iter().map(|book| book.0).collect());
        }
        let conversations = self.store.conversations(partition);
        let seat = self.seat(to)?;
        let open = conversations.into_iter().filter(|(_, transitions)| seat.actor.is_open(transitions));
        Some(open.map(|(key, _)| key).collect())
    }

    /// Takes transactions into the books of an instance, which may die or fall asleep before. False: not yet.
    fn write_books(
        &mut self,
        to: Address,
        action: &Action<u64>,
        partition: i32,
        records: &[(i64, ViewRecord)],
        applied: i64,
    ) -> bool {
        if self.strikes(12) {
            self.count_fault("slow store write");
            let delay = self.rng.random_range(50..6_000);
            self.schedule(delay, Happening::Perform(to, action.clone()));
            return false;
        }
        let Some(books) = self.books(to) else { return false };
        let outcome =
            self.checker.transactions(&self.log, partition, books.read_up_to(partition), records, applied);
        self.expect(outcome);
        let made: Vec<(i64, &LedgerTransaction)> = records
            .iter()
            .filter_map(|(at, record)| match record {
                ViewRecord::Ledger(made) => Some((*at, made.as_ref())),
                ViewRecord::Transition(_) => None,
            })
            .collect();
        let outcome = at_once(books.write(partition, &made, applied));
        self.expect(outcome);
        true
    }

    /// Writes rows of conversations. False: not yet, or not by this instance.
    fn write_rows(
        &mut self,
        to: Address,
        action: &Action<u64>,
        partition: i32,
        records: &[(i64, ViewRecord)],
        applied: i64,
    ) -> bool {
        let transitions = &transitions_of(records);
        if self.leaves_vanished_rows_behind(partition, transitions, applied) {
            // No store is left for longer than the resync covers without somebody who brings the rows back.
            if self.seat(to).is_some() {
                self.crash(to.instance, 50);
            }
            return false;
        }
        if self.strikes(12) {
            self.count_fault("slow store write");
            let part = self.rng.random_range(0..=transitions.len());
            let rows = transitions.get(..part).unwrap_or_default();
            let outcome = self.store.write(partition, rows, None, self.now);
            self.expect(outcome);
            let delay = self.rng.random_range(50..6_000);
            self.schedule(delay, Happening::Perform(to, action.clone()));
            return false;
        }
        let outcome = self.checker.rows(&self.log, &self.store, partition, transitions, applied);
        self.expect(outcome);
        let outcome = self.store.write(partition, transitions, Some(applied), self.now);
        self.expect(outcome);
        true
    }

    /// What vanished is there again, where the process that wrote it still lives.
    pub(crate) fn write_again(&mut self, to: Address, partition: i32) {
        if self.seat(to).is_none() {
            return;
        }
        let rows: Vec<(i64, StateTransition)> = (0..self.store.applied(partition))
            .filter(|offset| !self.store.has(partition, *offset))
            .filter_map(|offset| match &self.log.at(Topic::StateTransitions, partition, offset)?.0.payload {
                Payload::Transition(transition) => Some((offset, transition.clone())),
                _ => None,
            })
            .collect();
        if !rows.is_empty() {
            self.outside.count("rows written again");
        }
        let outcome = self.store.write(partition, &rows, None, self.now);
        self.expect(outcome);
    }

    /// Whether the next owner would not read everything again that vanished, were this written.
    fn leaves_vanished_rows_behind(
        &mut self,
        partition: i32,
        rows: &[(i64, StateTransition)],
        applied: i64,
    ) -> bool {
        if !self.vanished.contains(&partition) || applied <= self.store.applied(partition) {
            return false;
        }
        let view = Topic::StateTransitions;
        let missing = (0..applied).find(|offset| {
            self.log.at(view, partition, *offset).is_some()
                && !self.store.has(partition, *offset)
                && !rows.iter().any(|(row, _)| row == offset)
        });
        if missing.is_none() {
            self.vanished.remove(&partition);
        }
        missing.is_some_and(|missing| {
            self.log.resync_from(view, partition, applied, self.limits.resync_ms) > missing
        })
    }

    /// A commit reaches the log: member and generation are checked, never who owns a partition.
    pub(crate) fn commit(&mut self, from: Address, sent: Sent) {
        let Some(name) = self.group_of(from, sent.member) else { return };
        let Some(group) = self.log.groups.get_mut(name) else { return };
        if group.generation != sent.generation || !group.members.contains_key(&sent.member) {
            self.outside.count("commit fenced");
            return self.answer(from, Event::Fenced { batch: sent.batch });
        }
        if sent.outputs.iter().any(|output| self.topology.refused(output)) {
            self.outside.count("commit refused for its content");
            return self.answer(from, Event::Aborted { batch: sent.batch, halve: true });
        }
        if let Some((_, other)) = sent.progress.iter().find_map(|(p, _)| group.pending.get_key_value(p)) {
            let other = *other;
            return self.violate(format!("two transactions on one progress: {other} and {}", sent.batch));
        }
        if self.strikes(25) {
            self.count_fault("commit aborted");
            let halve = self.rng.random_bool(0.3) && sent.outputs.len() > 1 && sent.progress.len() > 1;
            return self.answer(from, Event::Aborted { batch: sent.batch, halve });
        }
        let txn = self.number();
        if let Some(group) = self.log.groups.get_mut(name) {
            group.pending.extend(sent.progress.iter().map(|(partition, _)| (*partition, txn)));
        }
        let mut positions = Vec::new();
        for output in &sent.outputs {
            let partition = self.log.partition_of(output.payload.key());
            let offset = self.log.append_open(partition, output.clone(), txn);
            positions.push((output.payload.topic(), partition, offset));
        }
        let ending = if self.strikes(20) {
            match self.rng.random_range(0..3) {
                0 => Ending::Abort,
                1 => Ending::UnknownApplied,
                _ => Ending::UnknownLost,
            }
        } else {
            Ending::Commit
        };
        self.txns.insert(txn, OpenTxn { from, sent, positions, ending });
        let latency = self.latency();
        // Some stay open for long enough that a rebalance or a crash falls into them.
        let latency = if self.strikes(20) { latency * 40 } else { latency };
        self.schedule(latency, Happening::End(txn));
    }

    fn group_of(&mut self, from: Address, member: u64) -> Option<&'static str> {
        if let Some(seat) = self.seat(from) {
            return Some(seat.actor.name());
        }
        let known = |group: &crate::log::Group| group.members.contains_key(&member);
        self.log.groups.iter().find(|(_, group)| known(group)).map(|(name, _)| *name)
    }

    /// The transaction ends: decided at the coordinator now, visible in each partition when its marker is there.
    pub(crate) fn end(&mut self, txn: u64) {
        let Some(mut open) = self.txns.remove(&txn) else { return };
        let here = self.instances.get(open.from.instance);
        let alive = here.is_some_and(|known| known.alive && known.life == open.from.life);
        let suspended = here.is_some_and(|known| known.suspended_until > self.now);
        let timed_out = !alive || suspended || self.strikes(60);
        if timed_out && self.rng.random_bool(0.5) {
            self.count_fault("transaction timed out");
            open.ending = Ending::Abort;
        }
        let commit = matches!(open.ending, Ending::Commit | Ending::UnknownApplied);
        self.log.decide(txn, commit);
        let progress = &open.sent.progress;
        let mut moved = Vec::new();
        for (name, group) in &mut self.log.groups {
            for (partition, committed) in progress {
                if group.pending.get(partition) == Some(&txn) {
                    group.pending.remove(partition);
                    if commit {
                        group.committed.insert(*partition, committed.clone());
                        moved.push((*name, *partition, committed.clone()));
                    }
                }
            }
        }
        if commit {
            let topics = self.topics();
            let outcome =
                self.checker.committed(txn, &open.positions, &moved, &self.log, &topics, self.topology);
            self.expect(outcome);
            let outputs: Vec<_> = open
                .positions
                .iter()
                .filter_map(|(topic, partition, offset)| self.log.at(*topic, *partition, *offset))
                .map(|(message, _)| message)
                .collect();
            let outcome = self.topology.committed(&outputs, &mut self.outside);
            self.expect(outcome);
        }
        let places: BTreeSet<(Topic, i32)> =
            open.positions.iter().map(|(topic, partition, _)| (*topic, *partition)).collect();
        for (topic, partition) in places {
            let late = self.strikes(15);
            if late {
                self.count_fault("late marker");
            }
            let delay = if late { self.rng.random_range(100..5_000) } else { 0 };
            self.schedule(delay, Happening::Marker(topic, partition, txn));
        }
        self.tell_end(&open, timed_out);
    }

    fn tell_end(&mut self, open: &OpenTxn, timed_out: bool) {
        let batch = open.sent.batch;
        let event = match open.ending {
            Ending::Commit => {
                let positions = open
                    .positions
                    .iter()
                    .map(|(topic, partition, offset)| Position {
                        topic: *topic,
                        partition: *partition,
                        offset: *offset,
                    })
                    .collect();
                Event::Committed { batch, positions }
            }
            Ending::Abort if timed_out => Event::Fenced { batch },
            Ending::Abort => {
                self.count_fault("commit aborted");
                // Too long: never said of a batch of one record, that would be its record's fault.
                let halve = open.sent.progress.len() > 1 && self.rng.random_bool(0.6);
                Event::Aborted { batch, halve }
            }
            Ending::UnknownApplied => {
                self.count_fault("commit unknown, applied");
                Event::Unknown { batch }
            }
            Ending::UnknownLost => {
                self.count_fault("commit unknown, lost");
                Event::Unknown { batch }
            }
        };
        self.answer(open.from, event);
    }

    pub(crate) fn topics(&self) -> Vec<(&'static str, Topic)> {
        self.instances
            .iter()
            .flat_map(|instance| &instance.seats)
            .map(|seat| (seat.actor.name(), seat.actor.input()))
            .collect()
    }
}

/// What a store in memory answers: it never waits for anything.
fn at_once<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer.map_err(|error| error.to_string()),
        Poll::Pending => Err("a store in memory waits".to_owned()),
    }
}

/// The transitions of a view of conversations.
fn transitions_of(records: &[(i64, ViewRecord)]) -> Vec<(i64, StateTransition)> {
    records.iter().filter_map(|(at, record)| Some((*at, record.transition()?.clone()))).collect()
}
