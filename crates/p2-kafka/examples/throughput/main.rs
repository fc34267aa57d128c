//! What the engine costs on a real broker, against bare clients of the same library in the same run.
//!
//! ```text
//! deploy/dev/kafka.sh start DIR PORT
//! P2_BENCH_BROKERS=127.0.0.1:PORT P2_BENCH_BROKER_PID=$(cat DIR/kafka.pid) \
//!   cargo run --release -p p2-kafka --example throughput -- copy idle catch-up calls rest
//! ```
//!
//! Every scene prints one JSON line per round and one with the medians. `P2_BENCH_ROUNDS` (3) and
//! `P2_BENCH_RECORDS` (20000) change the amount. CPU is that of this process, and of the broker where its process
//! id is given; both are read from `/proc`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bare;
mod counted;
mod engine;
mod scenes;

use std::time::{Duration, Instant};

use p2_kafka::topics::{self, TopicSettings};
use p2_kafka::{KafkaConfig, KafkaLog};
use serde_json::{Map, Value, json};

/// Names and numbers of one measurement.
pub(crate) type Figures = Map<String, Value>;

/// Processor time of this process and of the broker, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    own: f64,
    broker: f64,
}

fn process_ms(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold spaces; it ends with the last ')'. Ticks of 10 ms.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() * 10.0
}

impl Cpu {
    pub(crate) fn now() -> Cpu {
        let broker = std::env::var("P2_BENCH_BROKER_PID").map_or(0.0, |pid| process_ms(&pid));
        Cpu { own: process_ms("self"), broker }
    }
}

/// Since when something is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since {
    at: Instant,
    cpu: Cpu,
}

impl Since {
    pub(crate) fn now() -> Since {
        Since { at: Instant::now(), cpu: Cpu::now() }
    }

    /// Records per second and processor time per 1,000 records.
    pub(crate) fn figures(&self, records: usize) -> Figures {
        let (seconds, cpu) = (self.at.elapsed().as_secs_f64(), Cpu::now());
        let thousands = records as f64 / 1_000.0;
        let figures = json!({
            "records": records,
            "seconds": round(seconds),
            "records_per_s": (records as f64 / seconds).round(),
            "cpu_ms_per_1000": round((cpu.own - self.cpu.own) / thousands),
            "broker_cpu_ms_per_1000": round((cpu.broker - self.cpu.broker) / thousands),
        });
        object(figures)
    }
}

pub(crate) fn object(value: Value) -> Figures {
    match value {
        Value::Object(figures) => figures,
        _ => Figures::new(),
    }
}

pub(crate) fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

pub(crate) fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

pub(crate) fn milliseconds(times: &[Duration]) -> Figures {
    let mut sorted: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1_000.0).collect();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (sorted.len() as f64 * share) as usize;
        round(sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default())
    };
    object(json!({ "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "count": sorted.len() }))
}

/// A log whose topics nobody else uses.
pub(crate) async fn fresh_log(scene: &str, partitions: i32) -> (KafkaConfig, KafkaLog) {
    let brokers = std::env::var("P2_BENCH_BROKERS").expect("P2_BENCH_BROKERS is host:port of a broker");
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let config = KafkaConfig { brokers, prefix: format!("{scene}-{nanos}."), ..KafkaConfig::default() };
    let settings = TopicSettings { partitions: Some(partitions), ..TopicSettings::default() };
    topics::apply(&config, &settings).await.unwrap();
    let log = KafkaLog::connect(config.clone()).await.unwrap();
    (config, log)
}

fn print(scene: &str, of: &str, round: Option<usize>, figures: &Figures) {
    let mut line = object(json!({ "scene": scene, "of": of, "round": round }));
    line.extend(figures.clone());
    println!("{}", Value::Object(line));
}

/// Several rounds of a scene, interleaved: (who, figures) each. Then the medians of every figure.
async fn rounds(scene: &str, count: usize, run: impl AsyncFn() -> Vec<(&'static str, Figures)>) {
    let mut all: Vec<(&'static str, Vec<Figures>)> = Vec::new();
    for number in 0..count {
        for (of, figures) in run().await {
            print(scene, of, Some(number), &figures);
            match all.iter_mut().find(|(known, _)| *known == of) {
                Some((_, before)) => before.push(figures),
                None => all.push((of, vec![figures])),
            }
        }
    }
    for (of, of_rounds) in all {
        let mut medians = Figures::new();
        for key in
            of_rounds.first().map(|first| first.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        {
            let values = of_rounds.iter().filter_map(|figures| figures.get(&key)?.as_f64()).collect();
            medians.insert(key, json!(round(median(values))));
        }
        print(scene, &format!("median of {of}"), None, &medians);
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let count = number("P2_BENCH_ROUNDS", 3);
    for scene in std::env::args().skip(1) {
        match scene.as_str() {
            "copy" => rounds("copy", count, scenes::copy).await,
            "idle" => rounds("idle", count, scenes::idle).await,
            "catch-up" => rounds("catch-up", count, scenes::catch_up).await,
            "calls" => rounds("calls", 1, scenes::calls).await,
            "rest" => rounds("rest", 1, scenes::rest).await,
            other => panic!("no scene '{other}': copy, idle, catch-up, calls or rest"),
        }
    }
}
