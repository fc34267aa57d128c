//! Thousands of seeds of the real processors and the real core: random conversations on a bad log and a bad
//! store, with every promise checked at each commit and at the end.

mod common;
mod real;

use common::Subject;
use p2_sim::Config;
use real::Real;

const FEATURES: [&str; 0] = [];

fn real() -> Subject {
    Subject {
        test: "conversations",
        features: &FEATURES,
        config: Config::default(),
        make: |seed| Box::new(Real::new(seed)),
    }
}

#[test]
fn two_thousand_seeds_keep_every_promise() {
    real().keeps_every_promise();
}

#[test]
fn the_same_seed_plays_the_same_events() {
    real().plays_the_same_events();
}

#[test]
fn replay_seed() {
    real().replays();
}
