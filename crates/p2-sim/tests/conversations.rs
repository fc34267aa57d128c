//! Thousands of seeds of the real processors and the real core: random conversations on a bad log and a bad
//! store, with every promise checked at each commit and at the end.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a failing test says so")]

mod common;
mod real;

use common::Subject;
use p2_sim::Config;
use real::Real;

const FEATURES: [&str; 76] = [
    "agent time-out",
    "answer lost the race",
    "approval approved",
    "approval denied",
    "approval edited",
    "cache hit",
    "call cut at its deadline",
    "call lost on its way",
    "call no longer wanted",
    "call past its deadline",
    "cancel",
    "catch-up waits for a marker",
    "checkout",
    "claimed tool called",
    "commit fenced",
    "commit refused for its content",
    "compacted",
    "dead letter",
    "dedup blocked",
    "dedup hit",
    "delegation",
    "destructive rewind",
    "duplicate input",
    "empty reply",
    "external result",
    "fork",
    "halted without progress",
    "in doubt settled",
    "input refused",
    "late duplicate",
    "late result",
    "late result on a parked branch",
    "limit refused",
    "message typed during a wait",
    "misplaced input",
    "model asked",
    "model asked again by another owner",
    "model error",
    "model time-out",
    "overridden model asked",
    "override",
    "override locked",
    "parallel calls",
    "pause",
    "person answered",
    "plain input",
    "poison input",
    "post-effect",
    "reconciled as done",
    "reconciled as not done",
    "recorded on a parked branch",
    "reflection",
    "repeatable tool called",
    "reply too large",
    "resume",
    "rewind",
    "rounds",
    "rows vanished",
    "rule answered",
    "same child twice",
    "slow model",
    "slow tool",
    "started over",
    "text beside calls",
    "timer fired",
    "tool expired",
    "tool failed",
    "tool in doubt",
    "tool succeeded",
    "tool time-out",
    "tool-exec in doubt",
    "tree fork",
    "webhook sent",
    "window full",
    "window overrun",
    "rows written again",
];

fn real() -> Subject {
    Subject {
        test: "conversations",
        features: &FEATURES,
        config: Config::default(),
        make: |seed| Box::new(Real::new(seed, false)),
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
