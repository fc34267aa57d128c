//! The world: instances, an ordered queue of happenings, virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use p2_core::record::{Message, Topic};
use p2_stream::memory::MemoryLedger;
use p2_stream::ports::CommittedOffset;
use p2_stream::runtime::{Action, Event, Incoming, Limits, Start};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::actor::{Actor, Outside};
use crate::check::Checker;
use crate::log::{Shape, SimLog, Txn};
use crate::store::SimStore;
use crate::{Config, Report, Topology};

/// A runtime in one life of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) instance: usize,
    pub(crate) life: u64,
    pub(crate) actor: usize,
}

/// One commit on its way.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) member: u64,
    pub(crate) generation: u64,
    pub(crate) batch: u64,
    pub(crate) outputs: Vec<Message>,
    pub(crate) progress: Vec<(i32, CommittedOffset)>,
}

/// What happens at a time.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// An event reaches a runtime.
    Event(Address, Event<u64>),
    /// A runtime asks for records.
    Poll(Address, i32),
    /// A runtime learns of a new generation.
    Rebalanced(Address, u64, Vec<i32>),
    /// The group's progress is fetched; the number guards against an answer that was overtaken.
    Fetch(Address, i32, u64),
    /// A call is sent: partition, epoch, call, token.
    Start(Address, Action<u64>),
    /// A request reaches log or store.
    Perform(Address, Action<u64>),
    /// A commit reaches the log.
    Commit(Address, Sent),
    /// A transaction ends.
    End(Txn),
    /// Its marker arrives.
    Marker(Topic, i32, Txn),
    /// An instance that was suspended joins its groups again.
    Rejoin(usize, u64),
    /// An instance starts.
    Boot(usize),
    /// The session of a member has timed out.
    Expire(&'static str, u64),
    /// An input from outside.
    Input(usize),
    /// The operator mends a group without progress.
    Operator(Address, i32),
    /// A handle of the store has seen that it went away, and writes again what it wrote lately.
    WriteAgain(Address, i32),
}

pub(crate) struct Seat {
    pub(crate) actor: Box<dyn Actor>,
    pub(crate) member: u64,
    pub(crate) generation: u64,
    /// Partition → epoch, next offset, paused, a poll is due.
    pub(crate) reading: BTreeMap<i32, Reading>,
    /// Partitions that this member believes to own → ticket of the newest assignment.
    pub(crate) owned: BTreeMap<i32, u64>,
    pub(crate) tick_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) epoch: u64,
    pub(crate) next: i64,
    pub(crate) paused: bool,
    pub(crate) polling: bool,
}

#[derive(Default)]
pub(crate) struct Instance {
    pub(crate) life: u64,
    pub(crate) alive: bool,
    pub(crate) suspended_until: i64,
    /// How far its clock is from the world's, milliseconds.
    pub(crate) skew: i64,
    pub(crate) seats: Vec<Seat>,
    /// The books, as far as this life has read them.
    pub(crate) books: MemoryLedger,
}

/// A transaction under way: whose, what it writes, how it is to end.
pub(crate) struct OpenTxn {
    pub(crate) from: Address,
    pub(crate) sent: Sent,
    pub(crate) positions: Vec<(Topic, i32, i64)>,
    pub(crate) ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Commit,
    Abort,
    UnknownApplied,
    UnknownLost,
}

pub(crate) struct World<'a> {
    pub(crate) now: i64,
    pub(crate) config: Config,
    pub(crate) topology: &'a mut dyn Topology,
    pub(crate) limits: Limits,
    pub(crate) rng: SmallRng,
    pub(crate) queue: BTreeMap<(i64, u64), Happening>,
    pub(crate) order: u64,
    pub(crate) instances: Vec<Instance>,
    pub(crate) log: SimLog,
    pub(crate) store: SimStore,
    pub(crate) outside: Outside,
    pub(crate) checker: Checker,
    pub(crate) txns: BTreeMap<Txn, OpenTxn>,
    pub(crate) numbers: u64,
    /// The views of an instance's processors, by their seat: what is on its way outlives the seat.
    pub(crate) views: Vec<Option<Topic>>,
    /// Partitions of which rows vanished that may not be back yet.
    pub(crate) vanished: BTreeSet<i32>,
    /// Reads that wait for the view to grow, fetches that wait for a transaction.
    pub(crate) waiting: Vec<(Address, Action<u64>)>,
    pub(crate) report: Report,
    pub(crate) label: String,
}

/// Plays one seed.
pub fn run(seed: u64, config: &Config, topology: &mut dyn Topology) -> Report {
    let mut rng = SmallRng::seed_from_u64(seed);
    let limits = Limits {
        window_offsets: rng.random_range(3..24),
        calls_max: rng.random_range(1..8),
        batch_records_max: rng.random_range(1..40),
        batch_bytes_max: rng.random_range(500..20_000),
        lanes_max: rng.random_range(0..4),
        // Not drawn: what the seed draws stays as it is.
        progress_ms: match seed % 4 {
            0 => 0,
            1 => 30,
            2 => 300,
            _ => 3_000,
        },
        resync_ms: rng.random_range(5_000..40_000),
        start: Start::Refuse,
    };
    let mut world = World {
        now: 0,
        config: *config,
        topology,
        limits,
        rng,
        queue: BTreeMap::new(),
        order: 0,
        instances: (0..config.instances).map(|_| Instance::default()).collect(),
        log: SimLog::new(config.partitions),
        store: SimStore::default(),
        outside: Outside::default(),
        checker: Checker::of_window(limits.window_offsets),
        txns: BTreeMap::new(),
        numbers: 0,
        views: Vec::new(),
        vanished: BTreeSet::new(),
        waiting: Vec::new(),
        report: Report { seed, hash: 0xcbf2_9ce4_8422_2325, ..Report::default() },
        label: String::new(),
    };
    world.play();
    world.report
}

impl World<'_> {
    fn play(&mut self) {
        for instance in 0..self.config.instances {
            let at = self.rng.random_range(0..200);
            self.schedule(at, Happening::Boot(instance));
        }
        for number in 0..self.config.inputs {
            // In bursts: that is what fills windows, batches and lanes.
            let burst = i64::try_from(number / 11).unwrap_or(0) * self.config.faults_until_ms / 5;
            let at = burst + self.rng.random_range(0..self.config.faults_until_ms / 30);
            self.schedule(at, Happening::Input(number));
        }
        self.drain();
        // Where all was done early: from here on nothing goes wrong any more.
        self.now = self.now.max(self.config.faults_until_ms);
        for message in self.topology.closing() {
            self.append(message, Shape::Plain, 0, 1);
        }
        self.drain();
        self.check_rest();
        // Everybody starts once more: what the store lost meanwhile comes back from the log.
        for instance in 0..self.config.instances {
            self.crash(instance, 10);
        }
        self.drain();
        if self.report.violation.is_none() {
            self.check_end();
        }
        for (feature, count) in std::mem::take(&mut self.outside.features) {
            *self.report.features.entry(feature).or_default() += count;
        }
        for seat in self.instances.iter().flat_map(|instance| &instance.seats) {
            *self.report.features.entry("timer fired").or_default() += seat.actor.counters().timers;
        }
    }

    /// Plays until nothing is left to happen, time is up or a promise is broken.
    fn drain(&mut self) {
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            if self.report.violation.is_some() {
                return;
            }
            if at > self.config.end_ms {
                return self.violate(format!("work goes on for ever: {happening:?}"));
            }
            self.now = self.now.max(at);
            if self.postpone(&happening) {
                continue;
            }
            self.note(&happening);
            self.happen(happening);
        }
    }

    /// Faults are over and nothing happens any more: nobody may need a restart to go on.
    fn check_rest(&mut self) {
        for (group, topic) in self.topics() {
            for partition in 0..self.config.partitions {
                let outcome = self.checker.all_done(group, topic, partition, &self.log);
                self.expect(outcome);
            }
        }
    }

    fn check_end(&mut self) {
        let settled =
            self.instances.iter().flat_map(|instance| &instance.seats).all(|seat| seat.actor.is_settled());
        let groups = self.topics();
        let outcome = if settled {
            self.check_books().and_then(|()| {
                self.checker.end(&self.log, &self.store, &self.outside, &groups, self.topology)
            })
        } else {
            Err("work is left under way".to_owned())
        };
        if let Err(reason) = outcome {
            self.violate(reason);
        }
    }

    fn check_books(&self) -> Result<(), String> {
        for instance in &self.instances {
            let settles = |seat: &&Seat| seat.actor.view() == Some(Topic::LedgerTransactions);
            for partition in instance.seats.iter().filter(settles).flat_map(|seat| seat.owned.keys()) {
                self.topology.check_books(*partition, &instance.books, &self.log)?;
            }
        }
        Ok(())
    }

    pub(crate) fn violate(&mut self, reason: String) {
        if self.report.violation.is_none() {
            self.report.violation = Some(format!("at {} ms: {reason}", self.now));
        }
    }

    pub(crate) fn expect(&mut self, outcome: Result<(), String>) {
        if let Err(reason) = outcome {
            self.violate(reason);
        }
    }

    pub(crate) fn schedule(&mut self, delay: i64, happening: Happening) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), happening);
    }

    pub(crate) fn latency(&mut self) -> i64 {
        self.rng.random_range(1..6)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn note(&mut self, happening: &Happening) {
        let mut label = std::mem::take(&mut self.label);
        label.clear();
        let _ = write!(label, "{} ", self.now);
        let _ = describe(&mut label, happening);
        for byte in label.bytes() {
            self.report.hash = (self.report.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.report.events += 1;
        if self.config.trace {
            println!("{label}");
        }
        self.label = label;
    }

    /// Whether it concerns a dead or suspended instance, and is dropped or put off.
    fn postpone(&mut self, happening: &Happening) -> bool {
        let (to, local) = match happening {
            Happening::Event(to, _)
            | Happening::Poll(to, _)
            | Happening::Rebalanced(to, ..)
            | Happening::Start(to, _) => (*to, true),
            // These may be on their way already, or still in the process.
            Happening::Perform(to, _) | Happening::Commit(to, _) => (*to, self.rng.random_bool(0.5)),
            Happening::Fetch(to, ..) | Happening::Operator(to, _) => (*to, true),
            _ => return false,
        };
        let Some(instance) = self.instances.get(to.instance) else { return true };
        if instance.life != to.life || !instance.alive {
            return local;
        }
        if local && instance.suspended_until > self.now {
            let delay = instance.suspended_until - self.now;
            self.schedule(delay, happening.clone());
            return true;
        }
        false
    }

    /// The time as an instance sees it.
    pub(crate) fn clock(&self, to: Address) -> i64 {
        self.now + self.instances.get(to.instance).map_or(0, |instance| instance.skew)
    }

    pub(crate) fn seat(&mut self, to: Address) -> Option<&mut Seat> {
        let instance = self.instances.get_mut(to.instance)?;
        if !instance.alive || instance.life != to.life {
            return None;
        }
        instance.seats.get_mut(to.actor)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Event(to, event) => {
                self.fault(to);
                self.tell(to, event);
            }
            Happening::Poll(to, partition) => self.poll(to, partition),
            Happening::Rebalanced(to, generation, partitions) => self.rebalanced(to, generation, &partitions),
            Happening::Fetch(to, partition, ticket) => self.fetch(to, partition, ticket),
            Happening::Start(to, action) => self.start(to, &action),
            Happening::Perform(to, action) => self.perform(to, action),
            Happening::Commit(to, sent) => self.commit(to, sent),
            Happening::End(txn) => self.end(txn),
            Happening::Marker(topic, partition, txn) => {
                self.log.mark(topic, partition, txn);
                self.wake(topic, partition);
            }
            Happening::Rejoin(instance, life) => self.rejoin(instance, life),
            Happening::Boot(instance) => self.boot(instance),
            Happening::Expire(group, member) => self.expire(group, member),
            Happening::Input(number) => self.input(number),
            Happening::Operator(to, partition) => self.operate(to, partition),
            Happening::WriteAgain(to, partition) => self.write_again(to, partition),
        }
    }

    fn input(&mut self, number: usize) {
        let messages = self.topology.inputs(number, self.now, &self.log, &mut self.outside, &mut self.rng);
        for message in messages {
            self.report.inputs += 1;
            let roll = self.rng.random_range(0..100);
            let (away, shape, copies) = match roll {
                0..3 => (0, Shape::Poison, 1),
                3..6 => (1, Shape::Plain, 1),
                6..10 => (0, Shape::Plain, 2),
                _ => (0, Shape::Plain, 1),
            };
            self.outside.count(match roll {
                0..3 => "poison input",
                3..6 if self.config.partitions > 1 => "misplaced input",
                6..10 => "duplicate input",
                _ => "plain input",
            });
            self.append(message, shape, away, copies);
        }
    }

    /// Writes a record from outside, so many partitions away from the right one.
    fn append(&mut self, message: Message, shape: Shape, away: i32, copies: usize) {
        let right = self.log.partition_of(message.payload.key());
        let partition = (right + away) % self.config.partitions;
        let topic = message.payload.topic();
        for _ in 0..copies {
            let offset = self.log.append(partition, message.clone(), shape);
            self.checker.produced(topic, partition, offset, &message, shape);
        }
        self.wake(topic, partition);
    }

    /// A runtime takes an event; what it wants done is put on its way.
    pub(crate) fn tell(&mut self, to: Address, event: Event<u64>) {
        let now = self.clock(to);
        let Some(seat) = self.seat(to) else { return };
        if matches!(event, Event::Tick) {
            // It may come before its time, after the clock was set back: then there is another one to come.
            seat.tick_ms = None;
        }
        let actions = seat.actor.on(event, now);
        let due = seat.actor.next_timer_ms();
        if due != seat.tick_ms {
            seat.tick_ms = due;
            if let Some(due) = due {
                self.schedule((due - now).max(1), Happening::Event(to, Event::Tick));
            }
        }
        for action in actions {
            self.fault(to);
            if self.seat(to).is_none() {
                return;
            }
            self.dispatch(to, action);
        }
    }

    fn dispatch(&mut self, to: Address, action: Action<u64>) {
        let latency = self.latency();
        let ticket = self.number();
        let Some(seat) = self.seat(to) else { return };
        match action {
            Action::Deliver { partition, epoch, offset } => {
                let reading = Reading { epoch, next: offset, paused: false, polling: true };
                if seat.reading.insert(partition, reading).is_some_and(|before| before.epoch == epoch) {
                    self.outside.count("window overrun");
                }
                self.schedule(latency, Happening::Poll(to, partition));
            }
            Action::Pause { partition } => {
                if let Some(reading) = seat.reading.get_mut(&partition) {
                    reading.paused = true;
                }
                self.outside.count("window full");
            }
            Action::Resume { partition } => {
                if let Some(reading) = seat.reading.get_mut(&partition) {
                    reading.paused = false;
                    if !std::mem::replace(&mut reading.polling, true) {
                        self.schedule(latency, Happening::Poll(to, partition));
                    }
                }
            }
            Action::StartOver { partition } => {
                seat.reading.remove(&partition);
                if let Some(known) = seat.owned.get_mut(&partition) {
                    *known = ticket;
                    self.outside.count("started over");
                    self.schedule(latency, Happening::Fetch(to, partition, ticket));
                }
            }
            Action::Halt { partition, reason } => {
                if !reason.contains("no progress") {
                    return self.violate(format!("halted: {reason}"));
                }
                self.outside.count("halted without progress");
                self.schedule(500, Happening::Operator(to, partition));
            }
            Action::Cut { .. } => self.outside.count("call no longer wanted"),
            Action::Commit { batch, outputs, progress } => {
                let outputs = outputs.iter().map(|output| output.message.clone()).collect();
                let sent =
                    Sent { member: seat.member, generation: seat.generation, batch, outputs, progress };
                self.schedule(latency, Happening::Commit(to, sent));
            }
            Action::Call { .. } => self.schedule(latency, Happening::Start(to, action)),
            Action::ReadViewBounds { .. }
            | Action::ReadView { .. }
            | Action::WriteView { .. }
            | Action::ListOpenLanes { .. }
            | Action::Load { .. } => self.schedule(latency, Happening::Perform(to, action)),
        }
    }

    fn poll(&mut self, to: Address, partition: i32) {
        let most = self.rng.random_range(1..12);
        let back = if self.may_fail() && self.rng.random_range(0..12) == 0 { 5 } else { 0 };
        let Some(seat) = self.seat(to) else { return };
        let topic = seat.actor.input();
        let Some(reading) = seat.reading.get_mut(&partition) else { return };
        reading.polling = false;
        if reading.paused {
            return;
        }
        let (epoch, next) = (reading.epoch, reading.next);
        let from = (next - back).max(0);
        let found: Vec<(i64, Message, Shape)> = self
            .log
            .read(topic, partition, from, i64::MAX)
            .into_iter()
            .take(most)
            .map(|(offset, message, shape)| (offset, message.clone(), shape))
            .collect();
        let Some((last, ..)) = found.last() else { return };
        let last = *last;
        if back > 0 {
            self.count_fault("duplicate delivery");
        }
        let latency = self.latency();
        if let Some(reading) = self.seat(to).and_then(|seat| seat.reading.get_mut(&partition)) {
            reading.next = next.max(last + 1);
            reading.polling = true;
            self.schedule(latency, Happening::Poll(to, partition));
        }
        for (offset, message, shape) in found {
            let record = match shape {
                Shape::Poison => {
                    Incoming::Poison(Box::new(self.topology.letter(&message, partition, offset)))
                }
                Shape::Plain if self.log.partition_of(message.payload.key()) != partition => {
                    Incoming::Misplaced(Box::new(message))
                }
                Shape::Plain => Incoming::Message(Box::new(message)),
            };
            self.fault(to);
            self.tell(to, Event::Record { partition, epoch, offset, record });
        }
    }

    /// The committed part of a topic's partition has grown.
    pub(crate) fn wake(&mut self, topic: Topic, partition: i32) {
        let mut due = Vec::new();
        for (index, instance) in self.instances.iter_mut().enumerate().filter(|(_, instance)| instance.alive)
        {
            for (actor, seat) in instance.seats.iter_mut().enumerate() {
                if seat.actor.input() == topic
                    && let Some(reading) = seat.reading.get_mut(&partition)
                    && !reading.paused
                    && !std::mem::replace(&mut reading.polling, true)
                {
                    due.push(Address { instance: index, life: instance.life, actor });
                }
            }
        }
        for to in due {
            let latency = self.latency();
            self.schedule(latency, Happening::Poll(to, partition));
        }
        for (to, action) in std::mem::take(&mut self.waiting) {
            self.schedule(1, Happening::Perform(to, action));
        }
    }
}

fn describe(label: &mut String, happening: &Happening) -> std::fmt::Result {
    match happening {
        Happening::Commit(to, sent) => {
            write!(label, "Commit {to:?} g{} b{} {:?}", sent.generation, sent.batch, sent.progress)?;
            sent.outputs.iter().try_for_each(|output| {
                write!(label, " {}:{}", output.payload.topic().short(), output.id.short())
            })
        }
        Happening::Event(to, event) => match event {
            Event::Loaded { partition, key, rows, .. } => {
                let rows = rows.newest_seq().map_or(0, |newest| newest + 1);
                write!(label, "Loaded {to:?} {partition} {key} {rows}")
            }
            Event::ViewRecords { partition, epoch, records, next } => {
                write!(label, "ViewRecords {to:?} {partition} e{epoch} {} next {next}", records.len())
            }
            _ => write!(label, "{to:?} {event:?}"),
        },
        Happening::Perform(to, Action::WriteView { partition, epoch, records, applied }) => {
            write!(label, "WriteView {to:?} {partition} e{epoch} {} applied {applied}", records.len())
        }
        _ => write!(label, "{happening:?}"),
    }
}
