//! Thousands of seeds, a replay of one, and what the simulation itself promises.

mod toy;

use std::collections::BTreeMap;

use p2_sim::{Config, FAULT_KINDS, Report, run};
use toy::Toy;

const FEATURES: [&str; 19] = [
    "plain input",
    "poison input",
    "misplaced input",
    "duplicate input",
    "window full",
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

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn play(seed: u64, trace: bool) -> Report {
    run(seed, &Config { trace, ..Config::default() }, &mut Toy)
}

fn play_all(seeds: u64) -> Vec<Report> {
    let threads = 2;
    let halves: Vec<_> = (0..threads)
        .map(|half| {
            std::thread::spawn(move || {
                let mut reports = Vec::new();
                for seed in (half..seeds).step_by(2) {
                    let report = play(seed, false);
                    let broken = report.violation.is_some();
                    reports.push(report);
                    if broken {
                        break;
                    }
                }
                reports
            })
        })
        .collect();
    halves
        .into_iter()
        .flat_map(|half| half.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)))
        .collect()
}

#[test]
fn two_thousand_seeds_keep_every_promise() {
    let seeds = variable("P2_SIM_SEEDS").unwrap_or(2_000);
    let reports = play_all(seeds);
    if let Some(report) = reports.iter().filter(|report| report.violation.is_some()).min_by_key(|r| r.seed) {
        panic!(
            "seed {}: {}\nreplay: P2_SIM_SEED={} cargo test -p p2-sim replay_seed -- --nocapture",
            report.seed,
            report.violation.as_deref().unwrap_or_default(),
            report.seed,
        );
    }
    let (mut faults, mut features) = (BTreeMap::new(), BTreeMap::new());
    for report in &reports {
        for (kind, count) in &report.faults {
            *faults.entry(*kind).or_insert(0u64) += count;
        }
        for (feature, count) in &report.features {
            *features.entry(*feature).or_insert(0u64) += count;
        }
    }
    let count = reports.len() as u64;
    let inputs: u64 = reports.iter().map(|report| report.inputs).sum();
    let fault_sum: u64 = faults.values().sum();
    let events: u64 = reports.iter().map(|report| report.events).sum();
    println!("{count} seeds, {inputs} inputs, {fault_sum} faults, {events} events");
    println!("faults {faults:#?}\nfeatures {features:#?}");
    assert!(inputs >= 40 * count, "too few inputs per seed");
    assert!(fault_sum >= 5 * count, "too few faults per seed");
    if count >= 2_000 {
        for kind in FAULT_KINDS {
            assert!(faults.get(kind).copied().unwrap_or(0) >= 100, "too few of '{kind}'");
        }
        for feature in FEATURES {
            assert!(features.get(feature).copied().unwrap_or(0) >= 100, "too few of '{feature}'");
        }
    }
}

#[test]
fn the_same_seed_plays_the_same_events() {
    for seed in 0..50 {
        assert_eq!(play(seed, false), play(seed, false));
    }
    assert_ne!(play(1, false).hash, play(2, false).hash);
}

#[test]
fn replay_seed() {
    let Some(seed) = variable("P2_SIM_SEED") else { return };
    let report = play(seed, true);
    println!("{report:#?}");
    assert_eq!(report.violation, None);
}
