//! The shared runtime of all processors, the ports to the outside, and the wire contract.
//!
//! A processor is one pure decision ([`processor::Processor`]) plus one port. Everything that makes it exactly
//! once (batches, epochs, progress, claims, timers, catch-up) is here, as a value without IO in `runtime`.

pub mod conformance;
pub mod copy;
pub mod follow;
pub mod groups;
pub mod memory;
pub mod metrics;
pub mod outage;
pub mod outputs;
pub mod ports;
pub mod processor;
pub mod runtime;
pub mod shell;
pub mod topics;
pub mod view;
pub mod wire;
