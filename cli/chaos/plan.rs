//! Which fault happens when: a function of the seed.

use std::collections::BTreeSet;
use std::fmt;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Processes of each processor that are there from beginning to end.
pub(crate) const STEADY: usize = 2;
/// Processes of each processor at most.
pub(crate) const INSTANCES_MAX: usize = 4;
/// Processes beyond the steady ones at a time: all of them share the machine.
pub(crate) const GUESTS_MAX: usize = 4;
/// Mean time between two faults, milliseconds.
const GAP_MS: u64 = 3_600;
/// Nothing is done to the system before it has begun to work, milliseconds.
const QUIET_MS: u64 = 3_000;
/// Least time between two faults of the same service, milliseconds: it has to come back in between, and the
/// system has to work in between.
const SERVICE_EVERY_MS: u64 = 25_000;

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Processor {
    /// `agent-step`.
    AgentStep,
    /// `tool-exec`.
    ToolExec,
    /// `settlement`.
    Settlement,
    /// `evaluator`.
    Evaluator,
}

impl Processor {
    /// All of them.
    pub(crate) const ALL: [Processor; 4] =
        [Processor::AgentStep, Processor::ToolExec, Processor::Settlement, Processor::Evaluator];

    /// The name that `p2engine run` takes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Processor::AgentStep => "agent-step",
            Processor::ToolExec => "tool-exec",
            Processor::Settlement => "settlement",
            Processor::Evaluator => "evaluator",
        }
    }
}

/// A process: its processor and its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// What it runs.
    pub(crate) processor: Processor,
    /// Its slot, from 0.
    pub(crate) slot: usize,
}

impl Instance {
    /// The name of its slot, its data directory and its log.
    pub(crate) fn name(self) -> String {
        format!("{}-{}", self.processor.name(), self.slot)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.processor.name(), self.slot)
    }
}

/// A server that the processes talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Service {
    /// The broker.
    Broker,
    /// The CQL server.
    Store,
}

impl Service {
    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Service::Broker => "broker",
            Service::Store => "store",
        }
    }
}

/// One thing that is done to the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// `kill -9` of a process; it starts again after so long.
    Kill { instance: Instance, down_ms: u64 },
    /// SIGSTOP; SIGCONT after so long.
    Suspend { instance: Instance, ms: u64 },
    /// One more process.
    Add { instance: Instance },
    /// SIGTERM; the process does not come back by itself.
    Remove { instance: Instance },
    /// `kill -9` of a server; it starts again with its data after so long.
    KillService { service: Service, down_ms: u64 },
    /// Connections to a server are closed: so many of a hundred. New ones are welcome.
    Cut { service: Service, percent: u8 },
    /// All connections to a server are closed, and new ones too for so long.
    Refuse { service: Service, ms: u64 },
    /// Nothing gets through to a server or back for so long; the connections stay.
    Stall { service: Service, ms: u64 },
    /// What is sent to a server arrives, its answers do not, for so long; then the connections are closed.
    Mute { service: Service, ms: u64 },
}

impl Fault {
    /// The kind, as in the summary.
    pub(crate) fn kind(&self) -> String {
        match self {
            Fault::Kill { instance, .. } => format!("kill {}", instance.processor.name()),
            Fault::Suspend { .. } => "suspend".to_owned(),
            Fault::Add { .. } => "add".to_owned(),
            Fault::Remove { .. } => "remove".to_owned(),
            Fault::KillService { service, .. } => format!("kill {}", service.name()),
            Fault::Cut { service, .. } => format!("cut {}", service.name()),
            Fault::Refuse { service, .. } => format!("refuse {}", service.name()),
            Fault::Stall { service, .. } => format!("stall {}", service.name()),
            Fault::Mute { service, .. } => format!("mute {}", service.name()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill { instance, down_ms } => write!(f, "kill -9 {instance}, back after {down_ms} ms"),
            Fault::Suspend { instance, ms } => write!(f, "suspend {instance} for {ms} ms"),
            Fault::Add { instance } => write!(f, "add {instance}"),
            Fault::Remove { instance } => write!(f, "remove {instance}"),
            Fault::KillService { service, down_ms } => {
                write!(f, "kill -9 the {}, back after {down_ms} ms", service.name())
            }
            Fault::Cut { service, percent } => {
                write!(f, "cut {percent} % of the connections to the {}", service.name())
            }
            Fault::Refuse { service, ms } => {
                write!(f, "refuse connections to the {} for {ms} ms", service.name())
            }
            Fault::Mute { service, ms } => {
                write!(f, "lose every answer of the {} for {ms} ms", service.name())
            }
            Fault::Stall { service, ms } => {
                write!(f, "let nothing through to the {} for {ms} ms", service.name())
            }
        }
    }
}

/// A fault and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Due {
    /// Milliseconds since the start of the faults.
    pub(crate) at_ms: u64,
    /// What is done.
    pub(crate) fault: Fault,
}

/// What may be done to the servers: to those that somebody else runs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ours {
    /// The broker is ours.
    pub(crate) broker: bool,
    /// The CQL server is ours.
    pub(crate) store: bool,
}

/// Everything that is done to the system, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The faults, ascending by time.
    pub(crate) faults: Vec<Due>,
    /// When everything heals, milliseconds.
    pub(crate) end_ms: u64,
}

/// When which process and server is busy with an earlier fault.
struct Draft {
    rng: SmallRng,
    ours: Ours,
    /// Guests that are there.
    guests: BTreeSet<Instance>,
    /// (process, until).
    busy: Vec<(Instance, u64)>,
    /// Until when the broker and the store are busy.
    services: [u64; 2],
}

/// The plan of a seed. Faults end before `end_ms`.
pub(crate) fn plan(seed: u64, end_ms: u64, ours: Ours) -> Plan {
    let rng = SmallRng::seed_from_u64(seed);
    let mut draft = Draft { rng, ours, guests: BTreeSet::new(), busy: Vec::new(), services: [QUIET_MS; 2] };
    let mut faults = Vec::new();
    let mut at_ms = QUIET_MS;
    while at_ms < end_ms {
        if let Some(fault) = draft.next(at_ms, end_ms) {
            faults.push(Due { at_ms, fault });
        }
        // Some at once, some after a while.
        at_ms += match draft.rng.random_range(0..5) {
            0 => draft.rng.random_range(1..300),
            _ => draft.rng.random_range(GAP_MS / 4..GAP_MS * 9 / 4),
        };
    }
    Plan { faults, end_ms }
}

impl Draft {
    fn next(&mut self, at_ms: u64, end_ms: u64) -> Option<Fault> {
        let left = end_ms - at_ms;
        match self.rng.random_range(0..100) {
            0..52 => self.kill(at_ms),
            52..62 => self.suspend(at_ms, left),
            62..70 => self.add(at_ms),
            70..76 => self.remove(at_ms),
            76..82 => self.service(Service::Broker, at_ms, left),
            82..86 => self.service(Service::Store, at_ms, left),
            roll => self.connections(if roll < 94 { Service::Broker } else { Service::Store }, at_ms, left),
        }
    }

    /// A process that is there and to which nothing is being done.
    fn free(&mut self, at_ms: u64, among: impl Fn(&Instance) -> bool) -> Option<Instance> {
        self.busy.retain(|(_, until)| *until > at_ms);
        let steady = Processor::ALL
            .into_iter()
            .flat_map(|processor| (0..STEADY).map(move |slot| Instance { processor, slot }));
        let free: Vec<Instance> = steady
            .chain(self.guests.iter().copied())
            .filter(|instance| among(instance) && !self.busy.iter().any(|(busy, _)| busy == instance))
            .collect();
        let index = self.rng.random_range(0..free.len().max(1));
        free.get(index).copied()
    }

    fn kill(&mut self, at_ms: u64) -> Option<Fault> {
        let instance = self.free(at_ms, |_| true)?;
        let down_ms = match self.rng.random_range(0..10) {
            0..5 => 0,
            5..9 => self.rng.random_range(100..2_500),
            // Longer than a session: the others take over.
            _ => self.rng.random_range(8_000..14_000),
        };
        // A process that is killed while it starts is a case of its own, so little time is left to it.
        self.busy.push((instance, at_ms + down_ms + self.rng.random_range(200..4_000)));
        Some(Fault::Kill { instance, down_ms })
    }

    fn suspend(&mut self, at_ms: u64, left_ms: u64) -> Option<Fault> {
        let instance = self.free(at_ms, |_| true)?;
        let ms = match self.rng.random_range(0..10) {
            0..4 => self.rng.random_range(5_000..8_000),
            4..9 => self.rng.random_range(8_000..20_000),
            _ => self.rng.random_range(20_000..60_000),
        };
        let ms = ms.min(left_ms);
        self.busy.push((instance, at_ms + ms));
        Some(Fault::Suspend { instance, ms })
    }

    fn add(&mut self, at_ms: u64) -> Option<Fault> {
        let processor = *Processor::ALL.choose(&mut self.rng)?;
        if self.guests.len() >= GUESTS_MAX {
            return None;
        }
        let slots = (STEADY..INSTANCES_MAX).map(|slot| Instance { processor, slot });
        let instance = { slots }.find(|instance| !self.guests.contains(instance))?;
        self.guests.insert(instance);
        self.busy.push((instance, at_ms + 2_000));
        Some(Fault::Add { instance })
    }

    fn remove(&mut self, at_ms: u64) -> Option<Fault> {
        let instance = self.free(at_ms, |instance| instance.slot >= STEADY)?;
        self.guests.remove(&instance);
        Some(Fault::Remove { instance })
    }

    fn is_ours(&self, service: Service) -> bool {
        match service {
            Service::Broker => self.ours.broker,
            Service::Store => self.ours.store,
        }
    }

    /// Takes the service for so long; whether it was free.
    fn take(&mut self, service: Service, at_ms: u64, ms: u64) -> bool {
        let Some(until) = self.services.get_mut(service as usize) else { return false };
        let free = *until <= at_ms;
        if free {
            *until = at_ms + ms;
        }
        free
    }

    fn service(&mut self, service: Service, at_ms: u64, left_ms: u64) -> Option<Fault> {
        let down_ms = match self.rng.random_range(0..4) {
            0 => 0,
            1 | 2 => self.rng.random_range(500..4_000),
            _ => self.rng.random_range(4_000..15_000),
        };
        let down_ms = down_ms.min(left_ms);
        let taken = self.is_ours(service) && self.take(service, at_ms, down_ms + SERVICE_EVERY_MS);
        taken.then_some(Fault::KillService { service, down_ms })
    }

    fn connections(&mut self, service: Service, at_ms: u64, left_ms: u64) -> Option<Fault> {
        if !self.is_ours(service) {
            return None;
        }
        let ms = self.rng.random_range(200..9_000).min(left_ms);
        let fault = match self.rng.random_range(0..7) {
            0..3 => Fault::Cut { service, percent: if self.rng.random_bool(0.4) { 100 } else { 40 } },
            3 => Fault::Refuse { service, ms },
            4 | 5 => Fault::Mute { service, ms },
            _ => Fault::Stall { service, ms },
        };
        let takes = if matches!(fault, Fault::Cut { .. }) { 1_000 } else { ms + 5_000 };
        self.take(service, at_ms, takes).then_some(fault)
    }
}
