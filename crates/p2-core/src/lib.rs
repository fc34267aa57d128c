//! The pure core of p2engine.
//!
//! It never does IO, never awaits, never reads a clock and never draws a random number: time and ids come in
//! as arguments, what should happen goes out as values. Start at [`step::decide`].

pub mod apply;
pub mod builtin;
pub mod bytes;
pub mod conversation;
pub mod definition;
pub mod eval;
mod fold;
mod fsm;
pub mod ids;
pub mod json_text;
pub mod ledger;
pub mod model;
pub mod record;
pub mod registry;
pub mod render;
pub mod state;
pub mod step;
