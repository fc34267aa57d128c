//! What both topologies share: many seeds on two threads, counts, and the replay of one seed.

use std::collections::BTreeMap;

use p2_sim::{Config, FAULT_KINDS, Report, Topology, run};

/// Seeds of a run in which everything must have happened often.
const SEEDS: u64 = 2_000;

/// What everything must at least have happened.
const TIMES_MIN: u64 = 100;

/// A topology under test.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    /// The test binary, for the command that replays a seed.
    pub(crate) test: &'static str,
    /// What must happen.
    pub(crate) features: &'static [&'static str],
    pub(crate) config: Config,
    pub(crate) make: fn(u64) -> Box<dyn Topology>,
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl Subject {
    fn play(&self, seed: u64, trace: bool) -> Report {
        run(seed, &Config { trace, ..self.config }, (self.make)(seed).as_mut())
    }

    fn play_all(self, first: u64, seeds: u64) -> Vec<Report> {
        let threads = 2;
        let halves: Vec<_> = (0..threads)
            .map(|half| {
                std::thread::spawn(move || {
                    let mut reports = Vec::new();
                    for seed in (first + half..first + seeds).step_by(2) {
                        let report = self.play(seed, false);
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

    /// Plays `P2_SIM_SEEDS` seeds from `P2_SIM_FIRST` on, prints what happened, and fails on a broken promise
    /// or on something that hardly ever happened.
    pub(crate) fn keeps_every_promise(self) {
        let seeds = variable("P2_SIM_SEEDS").unwrap_or(SEEDS);
        let reports = self.play_all(variable("P2_SIM_FIRST").unwrap_or(0), seeds);
        let broken = reports.iter().filter(|report| report.violation.is_some()).min_by_key(|r| r.seed);
        if let Some(report) = broken {
            panic!(
                "seed {}: {}\nreplay: P2_SIM_SEED={} cargo test -p p2-sim --test {} replay_seed -- --nocapture",
                report.seed,
                report.violation.as_deref().unwrap_or_default(),
                report.seed,
                self.test,
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
        println!("{}: {count} seeds, {inputs} inputs, {fault_sum} faults, {events} events", self.test);
        println!("faults {faults:#?}\nfeatures {features:#?}");
        assert!(inputs >= 40 * count, "too few inputs per seed");
        assert!(fault_sum >= 5 * count, "too few faults per seed");
        if count < SEEDS {
            return;
        }
        let rare = |names: &[&'static str], counts: &BTreeMap<&'static str, u64>| -> Vec<&'static str> {
            let few = |name: &&&str| counts.get(**name).copied().unwrap_or(0) < TIMES_MIN;
            names.iter().filter(few).copied().collect()
        };
        let mut rarely = rare(&FAULT_KINDS, &faults);
        rarely.extend(rare(self.features, &features));
        assert!(rarely.is_empty(), "fewer than {TIMES_MIN} times: {rarely:?}");
    }

    /// The same seed gives the same report, its event hash among it.
    pub(crate) fn plays_the_same_events(self) {
        for seed in 0..50 {
            assert_eq!(self.play(seed, false), self.play(seed, false));
        }
        assert_ne!(self.play(1, false).hash, self.play(2, false).hash);
    }

    /// Replays `P2_SIM_SEED` and prints every event.
    pub(crate) fn replays(self) {
        let Some(seed) = variable("P2_SIM_SEED") else { return };
        let report = self.play(seed, true);
        println!("{report:#?}");
        assert_eq!(report.violation, None);
    }
}
