//! Faults, membership and the life of instances.

use p2_core::record::Topic;
use p2_stream::runtime::Event;
use rand::Rng;

use crate::world::{Address, Happening, Instance, Seat, World};

/// Every kind of fault: a run of many seeds must have seen all of them often.
pub const KINDS: [&str; 14] = [
    "crash",
    "suspension",
    "rebalance",
    "duplicate delivery",
    "commit aborted",
    "commit unknown, applied",
    "commit unknown, lost",
    "transaction timed out",
    "late marker",
    "lost group offsets",
    "vanished store tail",
    "vanished store tail, owner stays",
    "clock jump",
    "slow store write",
];

/// How far a clock may be from the true time, milliseconds.
const SKEW_MAX_MS: i64 = 1_200;
/// How long an answer is on its way at most, milliseconds.
const LATENCY_MS: i64 = 10;

impl World<'_> {
    pub(crate) fn may_fail(&self) -> bool {
        self.now < self.config.faults_until_ms
    }

    pub(crate) fn count_fault(&mut self, kind: &'static str) {
        *self.report.faults.entry(kind).or_default() += 1;
        if self.config.trace {
            println!("{} !! {kind}", self.now);
        }
    }

    /// One in `n`, while faults happen at all.
    pub(crate) fn strikes(&mut self, n: u32) -> bool {
        self.may_fail() && self.rng.random_range(0..n) == 0
    }

    /// A point between any two things of an instance: perhaps one of them goes wrong.
    pub(crate) fn fault(&mut self, at: Address) {
        if !self.strikes(self.config.fault_one_in) || self.seat(at).is_none() {
            return;
        }
        match self.rng.random_range(0..12) {
            0..3 => {
                self.count_fault("crash");
                let down = self.rng.random_range(1..4_000);
                self.crash(at.instance, down);
            }
            3..6 => self.suspend(at),
            6..8 => {
                self.count_fault("rebalance");
                self.shuffle(at);
            }
            8 => {
                let partition = self.rng.random_range(0..self.config.partitions);
                if let Some(name) = self.seat(at).map(|seat| seat.actor.name()) {
                    self.count_fault("lost group offsets");
                    self.lose_offsets(name, partition);
                }
            }
            9 => self.set_clock(at),
            _ => self.lose_tail(),
        }
    }

    fn lose_offsets(&mut self, name: &'static str, partition: i32) {
        if let Some(group) = self.log.groups.get_mut(name) {
            group.committed.remove(&partition);
        }
        // It shows with the next assignment.
        self.rebalance(name);
    }

    /// The store loses what it acknowledged lately: no more than `resync_ms` covers, less what the clock of an owner
    /// may have been set by since. By the log's time that is counted from the newest record, since a late write
    /// of an earlier owner may still move the applied offset up to there.
    fn lose_tail(&mut self) {
        let partition = self.rng.random_range(0..self.config.partitions);
        let newest = self.log.newest_ms(Topic::StateTransitions, partition);
        let covered = newest - self.limits.resync_ms;
        let from = self.log.offset_at(Topic::StateTransitions, partition, covered);
        let most = self.limits.resync_ms - 2 * SKEW_MAX_MS - LATENCY_MS;
        let age = self.rng.random_range(1..=most);
        let after = self.now - age;
        if self.store.lose(partition, from, after) > 0 {
            self.outside.count("rows vanished");
            self.vanished.insert(partition);
        }
        if self.rng.random_bool(0.5) {
            // The owner stays, and may read a lane back that it had let go. Its handle of the store writes again
            // what it wrote lately (`p2-scylla`'s `loss`), before the owner takes those rows for safe.
            self.count_fault("vanished store tail, owner stays");
            let delay = self.rng.random_range(1..=(most - age).max(1));
            for to in self.view_owners(partition) {
                self.schedule(delay, Happening::WriteAgain(to, partition));
            }
            return;
        }
        self.count_fault("vanished store tail");
        for owner in self.view_owners(partition) {
            self.crash(owner.instance, 50);
        }
    }

    /// The seats that write the transitions of a partition to the store.
    fn view_owners(&self, partition: i32) -> Vec<Address> {
        let mut owners = Vec::new();
        for (index, instance) in self.instances.iter().enumerate().filter(|(_, instance)| instance.alive) {
            for (actor, seat) in instance.seats.iter().enumerate() {
                if seat.actor.view() == Some(Topic::StateTransitions) && seat.owned.contains_key(&partition) {
                    owners.push(Address { instance: index, life: instance.life, actor });
                }
            }
        }
        owners
    }

    /// The clock of an instance is set: never further from the true time than the grace that reconcilers get,
    /// which is the assumption that an operator has to keep.
    fn set_clock(&mut self, at: Address) {
        self.count_fault("clock jump");
        let skew = self.rng.random_range(-SKEW_MAX_MS..=SKEW_MAX_MS);
        if let Some(instance) = self.instances.get_mut(at.instance) {
            instance.skew = skew;
        }
    }

    pub(crate) fn crash(&mut self, index: usize, down_ms: i64) {
        let Some(instance) = self.instances.get_mut(index) else { return };
        if !instance.alive {
            return;
        }
        instance.alive = false;
        let seats = std::mem::take(&mut instance.seats);
        let session = self.rng.random_range(0..3_000);
        for seat in seats {
            *self.report.features.entry("timer fired").or_default() += seat.actor.counters().timers;
            self.schedule(session, Happening::Expire(seat.actor.name(), seat.member));
        }
        self.schedule(down_ms, Happening::Boot(index));
    }

    fn suspend(&mut self, at: Address) {
        self.count_fault("suspension");
        let pause = self.rng.random_range(50..8_000);
        let now = self.now;
        let Some(instance) = self.instances.get_mut(at.instance) else { return };
        instance.suspended_until = now + pause;
        let members: Vec<_> = instance.seats.iter().map(|seat| (seat.actor.name(), seat.member)).collect();
        if pause > 1_500 {
            for (name, member) in members {
                self.schedule(1_000, Happening::Expire(name, member));
            }
            // What is due is played first, as a zombie; then it learns that it is out.
            let wake = pause + self.rng.random_range(0..300);
            self.schedule(wake, Happening::Rejoin(at.instance, at.life));
        }
    }

    /// A partition moves to another member, and perhaps back soon.
    fn shuffle(&mut self, at: Address) {
        let Some(name) = self.seat(at).map(|seat| seat.actor.name()) else { return };
        self.rebalance(name);
        if self.rng.random_bool(0.5) {
            self.rebalance(name);
        }
    }

    pub(crate) fn boot(&mut self, index: usize) {
        let life = self.number();
        let nonce = self.rng.random();
        let skew = self.instances.get(index).map_or(0, |instance| instance.skew);
        let actors = self.topology.actors(self.limits, nonce);
        self.views = actors.iter().map(|actor| actor.view()).collect();
        let mut seats = Vec::new();
        for actor in actors {
            let member = self.number();
            seats.push(Seat {
                actor,
                member,
                generation: 0,
                reading: Default::default(),
                owned: Default::default(),
                tick_ms: None,
            });
        }
        let names: Vec<_> = seats.iter().map(|seat| (seat.actor.name(), seat.member)).collect();
        if let Some(instance) = self.instances.get_mut(index) {
            *instance =
                Instance { life, alive: true, suspended_until: 0, skew, seats, books: Default::default() };
        }
        for (name, member) in names {
            self.log.groups.entry(name).or_default().members.insert(member, Vec::new());
            self.rebalance(name);
        }
    }

    pub(crate) fn rejoin(&mut self, index: usize, life: u64) {
        let Some(instance) = self.instances.get(index).filter(|known| known.alive && known.life == life)
        else {
            return;
        };
        for actor in 0..instance.seats.len() {
            let to = Address { instance: index, life, actor };
            let fresh = self.number();
            let Some(seat) = self.seat(to) else { return };
            let (name, member) = (seat.actor.name(), seat.member);
            if self.log.groups.get(name).is_some_and(|group| group.members.contains_key(&member)) {
                continue;
            }
            let Some(seat) = self.seat(to) else { return };
            seat.member = fresh;
            let lost: Vec<i32> = std::mem::take(&mut seat.owned).into_keys().collect();
            seat.reading.clear();
            self.log.groups.entry(name).or_default().members.insert(fresh, Vec::new());
            for partition in lost {
                self.tell(to, Event::Revoked { partition });
            }
            self.rebalance(name);
        }
    }

    pub(crate) fn expire(&mut self, name: &'static str, member: u64) {
        let Some(group) = self.log.groups.get_mut(name) else { return };
        if group.members.remove(&member).is_some() {
            self.rebalance(name);
        }
    }

    /// A new generation: partitions are dealt out anew, at random.
    pub(crate) fn rebalance(&mut self, name: &'static str) {
        let Some(group) = self.log.groups.get_mut(name) else { return };
        group.generation += 1;
        let generation = group.generation;
        let members: Vec<u64> = group.members.keys().copied().collect();
        group.members.values_mut().for_each(Vec::clear);
        if members.is_empty() {
            return;
        }
        for partition in 0..self.config.partitions {
            let winner = members.get(self.rng.random_range(0..members.len())).copied().unwrap_or_default();
            if let Some(owned) =
                self.log.groups.get_mut(name).and_then(|group| group.members.get_mut(&winner))
            {
                owned.push(partition);
            }
        }
        for member in members {
            let owned = self.log.groups.get(name).and_then(|group| group.members.get(&member)).cloned();
            let (Some(owned), Some(to)) = (owned, self.address_of(member)) else { continue };
            let delay = self.rng.random_range(1..60);
            self.schedule(delay, Happening::Rebalanced(to, generation, owned));
        }
    }

    fn address_of(&self, member: u64) -> Option<Address> {
        self.instances.iter().enumerate().filter(|(_, instance)| instance.alive).find_map(
            |(index, instance)| {
                let actor = instance.seats.iter().position(|seat| seat.member == member)?;
                Some(Address { instance: index, life: instance.life, actor })
            },
        )
    }

    pub(crate) fn rebalanced(&mut self, to: Address, generation: u64, partitions: &[i32]) {
        let keep = self.rng.random_bool(0.3);
        let Some(seat) = self.seat(to) else { return };
        if generation <= seat.generation {
            return;
        }
        let lost: Vec<i32> =
            seat.owned.keys().copied().filter(|known| !keep || !partitions.contains(known)).collect();
        for partition in &lost {
            if let Some(seat) = self.seat(to) {
                seat.owned.remove(partition);
                seat.reading.remove(partition);
            }
            self.tell(to, Event::Revoked { partition: *partition });
        }
        // The generation is taken over only when everything that was lost is forgotten.
        let Some(seat) = self.seat(to) else { return };
        seat.generation = generation;
        for partition in partitions {
            let ticket = self.number();
            let latency = self.latency();
            let Some(seat) = self.seat(to) else { return };
            if !seat.owned.contains_key(partition) {
                seat.owned.insert(*partition, ticket);
                self.schedule(latency, Happening::Fetch(to, *partition, ticket));
            }
        }
    }
}
