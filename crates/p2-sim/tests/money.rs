//! Thousands of seeds of settlement beside agent-step and tool-exec: random payments on a bad log, with promise 6
//! checked after every transaction, and the books kept a second time by rules of their own.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a failing test says so")]

mod common;
mod real;

use common::Subject;
use p2_sim::Config;
use real::Real;

const FEATURES: [&str; 3] = ["account opened", "transfer", "reward paid"];

fn money() -> Subject {
    Subject {
        test: "money",
        features: &FEATURES,
        config: Config { inputs: 110, ..Config::default() },
        make: |seed| Box::new(Real::new(seed, true)),
    }
}

#[test]
fn two_thousand_seeds_keep_every_promise() {
    money().keeps_every_promise();
}

#[test]
fn the_same_seed_plays_the_same_events() {
    money().plays_the_same_events();
}

#[test]
fn replay_seed() {
    money().replays();
}
