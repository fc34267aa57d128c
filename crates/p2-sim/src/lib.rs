//! Deterministic simulation: several instances, each with the real runtimes and processors, on a log and a store
//! that behave as badly as the real ones may, under virtual time, from a seed.
//!
//! [`run`] plays one seed of a [`Topology`] and checks the promises at every step and at the end. The same seed
//! gives the same events, so a failing seed replays exactly.

pub mod actor;
pub mod chain;
pub mod check;
mod faults;
pub mod judged;
pub mod log;
pub mod money;
pub mod oracle;
pub mod people;
mod perform;
pub mod rest;
pub mod store;
mod world;

use std::collections::BTreeMap;

use p2_core::record::{DeadLetter, Message, StateTransition};
use p2_stream::memory::MemoryLedger;
use p2_stream::runtime::Limits;
use rand::rngs::SmallRng;

pub use actor::{Actor, Asked, CallAnswer, Hosted, Outside, Port};
pub use faults::KINDS as FAULT_KINDS;
pub use log::{Shape, SimLog};
pub use store::SimStore;
pub use world::run;

/// Sizes and times of a run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Instances.
    pub instances: usize,
    /// Partitions per topic.
    pub partitions: i32,
    /// Inputs injected.
    pub inputs: usize,
    /// Faults stop at this virtual time, milliseconds.
    pub faults_until_ms: i64,
    /// A fault happens at one in so many points.
    pub fault_one_in: u32,
    /// The run ends at the latest here: work that is open then never finishes.
    pub end_ms: i64,
    /// Print every event.
    pub trace: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            instances: 3,
            partitions: 3,
            inputs: 44,
            faults_until_ms: 60_000,
            fault_one_in: 220,
            end_ms: 3_600_000,
            trace: false,
        }
    }
}

/// What is simulated.
pub trait Topology {
    /// The processors of one instance, fresh, as after a start of the process.
    fn actors(&self, limits: Limits, nonce: u64) -> Vec<Box<dyn Actor>>;

    /// The next inputs from outside, written together; it may look at the log (to answer a request that stands
    /// there).
    fn inputs(
        &mut self,
        number: usize,
        now_ms: i64,
        log: &SimLog,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> Vec<Message>;

    /// What is written once all faults are over and everything has come to rest, so that nothing is left open
    /// that somebody still owes an answer (a paused conversation is resumed).
    fn closing(&mut self) -> Vec<Message> {
        Vec::new()
    }

    /// Whether the log refuses a record for its content.
    fn refused(&self, message: &Message) -> bool;

    /// Whether a processor answers this input record with at least one output.
    fn is_answered(&self, message: &Message) -> bool;

    /// Whether `output` is an answer to this input record.
    fn answers(&self, output: &Message, record: &Message) -> bool {
        output.cause == record.id || output.id == record.id
    }

    /// One transaction was committed; its records, in order.
    ///
    /// # Errors
    /// The promise that it breaks.
    fn committed(&mut self, _outputs: &[&Message], _outside: &mut Outside) -> Result<(), String> {
        Ok(())
    }

    /// Log and store as whoever is asked now sees them. Called before every call of a port.
    fn look(&mut self, _log: &SimLog, _store: &SimStore) {}

    /// Whether a record may be committed again under the same id: who asks again is answered again.
    fn may_repeat(&self, _message: &Message) -> bool {
        false
    }

    /// Checks the log, once everything has come to rest.
    ///
    /// # Errors
    /// What is wrong.
    fn check_log(&self, _log: &SimLog) -> Result<(), String> {
        Ok(())
    }

    /// The letter of a record that cannot be decoded.
    fn letter(&self, message: &Message, partition: i32, offset: i64) -> DeadLetter;

    /// Checks the books in the memory of who owns a partition, once everything has come to rest.
    ///
    /// # Errors
    /// What is wrong.
    fn check_books(&self, _partition: i32, _books: &MemoryLedger, _log: &SimLog) -> Result<(), String> {
        Ok(())
    }

    /// Checks one conversation's committed transitions, in order, once everything has come to rest.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self, transitions: &[StateTransition], outside: &Outside) -> Result<(), String>;
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Hash of every event in order.
    pub hash: u64,
    /// Events.
    pub events: u64,
    /// Inputs injected.
    pub inputs: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Features by name.
    pub features: BTreeMap<&'static str, u64>,
    /// The first broken promise.
    pub violation: Option<String>,
}
