//! Thousands of seeds of small processors that use every feature of the runtime, a replay of one, and what the
//! simulation itself promises.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a failing test says so")]

mod common;
mod toy;

use common::Subject;
use p2_sim::Config;
use toy::Toy;

const FEATURES: [&str; 21] = [
    "plain input",
    "poison input",
    "misplaced input",
    "duplicate input",
    "window full",
    "window overrun",
    "rows written again",
    "started over",
    "halted without progress",
    "call no longer wanted",
    "catch-up waits for a marker",
    "commit fenced",
    "commit refused for its content",
    "model asked",
    "slow model",
    "claimed tool called",
    "repeatable tool called",
    "tool failed",
    "slow tool",
    "claim reconciled",
    "timer fired",
];

fn toy() -> Subject {
    Subject { test: "simulation", features: &FEATURES, config: Config::default(), make: |_| Box::new(Toy) }
}

#[test]
fn two_thousand_seeds_keep_every_promise() {
    toy().keeps_every_promise();
}

#[test]
fn the_same_seed_plays_the_same_events() {
    toy().plays_the_same_events();
}

#[test]
fn replay_seed() {
    toy().replays();
}
