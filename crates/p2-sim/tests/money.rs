//! Thousands of seeds of settlement beside agent-step and tool-exec: random payments on a bad log, with promise 6
//! checked after every transaction, and the books kept a second time by rules of their own.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a failing test says so")]

mod common;
mod real;

use common::Subject;
use p2_sim::Config;
use real::Real;

const FEATURES: [&str; 62] = [
    "account frozen",
    "account opened",
    "account thawed",
    "already rewarded",
    "balance told",
    "book opened",
    "catch-up waits for a marker",
    "claimed tool called",
    "commit fenced",
    "cost of work above its estimate",
    "denied",
    "duplicate input",
    "ended",
    "ended by time",
    "exists",
    "expired",
    "frozen",
    "halted without progress",
    "insufficient",
    "invalid",
    "judged again",
    "limits set",
    "misplaced input",
    "model asked",
    "money made",
    "no_tier",
    "not_allowed",
    "not_due",
    "over_day_limit",
    "over_limit",
    "payment approved",
    "payment asked again",
    "payment conflict",
    "payment denied",
    "payment waits for a person",
    "plain input",
    "poison input",
    "policy set",
    "reservation made",
    "reservation posted",
    "reservation posted in part",
    "reservation voided",
    "refused reward paid later",
    "reward paid",
    "run out of budget",
    "self_transfer",
    "started over",
    "timer fired",
    "tool succeeded",
    "transfer",
    "transfer in legs",
    "transfer of an agent",
    "unknown_account",
    "unknown_book",
    "unknown_request",
    "window full",
    "window overrun",
    "withdrawn",
    "rows written again",
    "work: cost posted",
    "work: estimate given back",
    "work: estimate set aside",
];

fn money() -> Subject {
    Subject {
        test: "money",
        features: &FEATURES,
        config: Config { inputs: 55, ..Config::default() },
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
