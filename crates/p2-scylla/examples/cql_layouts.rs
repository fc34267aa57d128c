//! Three layouts of the same transitions on a CQL server: what a write costs it and what a tail takes.
//!
//! `deploy/dev/cassandra.sh start DIR PORT`, then
//! `P2_CQL=127.0.0.1:PORT P2_CQL_PID=$(cat DIR/pid) cargo run -p p2-scylla --example cql_layouts`.
//! The numbers in `docs/decisions/cql-store.md` come from it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::print_stdout)]

use std::time::{Duration, Instant};

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use scylla::statement::prepared::PreparedStatement;

const BODY: usize = 1_000;
const CONVERSATIONS: i64 = 1_000;
const STEPS: i64 = 4;
/// Rounds that count, and rounds before them in which the server warms up.
const ROUNDS: usize = 7;
const WARM: usize = 3;
const TAILS: usize = 400;

/// A layout: how one transition is written, and how the tail of a branch is read.
struct Layout {
    name: &'static str,
    inserts: Vec<PreparedStatement>,
    tail: PreparedStatement,
    bucket_of: fn(i64) -> i32,
    buckets_at: fn(i64) -> Vec<i32>,
}

async fn prepare(session: &Session, text: &str) -> PreparedStatement {
    let mut prepared = session.prepare(text).await.unwrap();
    prepared.set_is_idempotent(true);
    prepared
}

async fn layouts(session: &Session) -> Vec<Layout> {
    let k = "layouts";
    for text in [
        format!("DROP KEYSPACE IF EXISTS {k}"),
        format!(
            "CREATE KEYSPACE {k} WITH replication = {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
        ),
        format!(
            "CREATE TABLE {k}.by_branch (c text, bucket int, branch text, first bigint, seq bigint, cell blob, \
             PRIMARY KEY ((c, bucket), branch, first, seq)) WITH CLUSTERING ORDER BY (branch ASC, first DESC, seq DESC)"
        ),
        format!(
            "CREATE TABLE {k}.by_256 (c text, bucket int, branch text, first bigint, seq bigint, cell blob, \
             PRIMARY KEY ((c, bucket), branch, first, seq)) WITH CLUSTERING ORDER BY (branch ASC, first DESC, seq DESC)"
        ),
        format!(
            "CREATE TABLE {k}.by_seq (c text, bucket int, branch text, first bigint, seq bigint, cell blob, \
             PRIMARY KEY ((c, bucket), seq))"
        ),
        format!(
            "CREATE TABLE {k}.by_entry (c text, bucket int, branch text, first bigint, seq bigint, cell blob, \
             PRIMARY KEY ((c, branch, bucket), first)) WITH CLUSTERING ORDER BY (first DESC)"
        ),
    ] {
        session.query_unpaged(text, ()).await.unwrap();
    }
    let insert = |table: &str| {
        format!(
            "INSERT INTO {k}.{table} (c, bucket, branch, first, seq, cell) VALUES (?, ?, 'main', ?, ?, ?) USING TIMESTAMP ?"
        )
    };
    let tail = |table: &str| {
        format!(
            "SELECT cell FROM {k}.{table} WHERE c = ? AND bucket IN ? AND branch = 'main' AND first < ? LIMIT 10"
        )
    };
    let none: fn(i64) -> i32 = |_| 0;
    let first: fn(i64) -> Vec<i32> = |_| vec![0];
    vec![
        Layout {
            name: "one copy, clustered by branch (taken)",
            inserts: vec![prepare(session, &insert("by_branch")).await],
            tail: prepare(session, &tail("by_branch")).await,
            bucket_of: none,
            buckets_at: first,
        },
        Layout {
            name: "two copies: by seq, and entries by branch",
            inserts: vec![
                prepare(session, &insert("by_seq")).await,
                prepare(session, &insert("by_entry")).await,
            ],
            tail: prepare(session, &tail("by_entry")).await,
            bucket_of: none,
            buckets_at: first,
        },
        Layout {
            name: "one copy, buckets of 256 transitions",
            inserts: vec![prepare(session, &insert("by_256")).await],
            tail: prepare(session, &tail("by_256")).await,
            bucket_of: |seq| i32::try_from(seq / 256).unwrap(),
            buckets_at: |depth| (0..=i32::try_from((depth - 1) / 256).unwrap()).rev().collect(),
        },
    ]
}

/// Bytes that do not compress to nothing.
fn body(seed: i64) -> Vec<u8> {
    let mut state = seed.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"abcdefghijklmnop"[(state >> 60) as usize]
    };
    std::iter::repeat_with(next).take(BODY).collect()
}

async fn write(session: &Session, layout: &Layout, conversation: &str, seqs: std::ops::Range<i64>) {
    for insert in &layout.inserts {
        let rows: Vec<_> = seqs
            .clone()
            .map(|seq| (conversation, (layout.bucket_of)(seq), seq, seq, body(seq), seq + 1))
            .collect();
        if let [one] = rows.as_slice() {
            session.execute_unpaged(insert, one).await.unwrap();
            continue;
        }
        for rows in rows.chunk_by(|a, b| a.1 == b.1) {
            let statements = vec![BatchStatement::PreparedStatement(insert.clone()); rows.len()];
            let batch = Batch::new_with_statements(BatchType::Unlogged, statements);
            session.batch(&batch, rows).await.unwrap();
        }
    }
}

/// User and system time of a process so far.
fn cpu(pid: &Option<String>) -> Duration {
    let Some(stat) = pid.as_ref().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok())
    else {
        return Duration::ZERO;
    };
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    Duration::from_millis((fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10)
}

fn median<T: Ord + Copy>(values: &mut [T]) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let node = std::env::var("P2_CQL").expect("P2_CQL=host:port of a CQL server without users");
    let pid = std::env::var("P2_CQL_PID").ok();
    let session = SessionBuilder::new().known_node(node).build().await.unwrap();
    let layouts = layouts(&session).await;
    let mut costs = vec![Vec::new(); layouts.len()];
    for round in 0..WARM + ROUNDS {
        for turn in 0..layouts.len() {
            let index = (turn + round) % layouts.len();
            let (layout, costs) = (&layouts[index], &mut costs[index]);
            let (before, begin) = (cpu(&pid), Instant::now());
            for n in 0..CONVERSATIONS {
                for step in 0..STEPS {
                    write(&session, layout, &format!("c-{round}-{n}"), step..step + 1).await;
                }
            }
            let done = u32::try_from(CONVERSATIONS * STEPS).unwrap();
            if round >= WARM {
                costs.push(((cpu(&pid) - before) / done, begin.elapsed() / done));
            }
        }
    }
    for (layout, costs) in layouts.iter().zip(&mut costs) {
        let mut server: Vec<_> = costs.iter().map(|cost| cost.0).collect();
        let mut wall: Vec<_> = costs.iter().map(|cost| cost.1).collect();
        println!(
            "{}: a transition of {BODY} bytes written alone: {:?} of the server's CPU, {:?} in all (medians of {ROUNDS} rounds of {})",
            layout.name,
            median(&mut server),
            median(&mut wall),
            CONVERSATIONS * STEPS
        );
    }
    let depths = [10, 1_900];
    for layout in &layouts {
        for depth in depths {
            for from in (0..depth).step_by(50) {
                write(&session, layout, &format!("depth-{depth}"), from..(from + 50).min(depth)).await;
            }
        }
    }
    let mut times = vec![vec![Vec::new(); depths.len()]; layouts.len()];
    for _ in 0..TAILS {
        for (layout, times) in layouts.iter().zip(&mut times) {
            for (depth, times) in depths.iter().zip(times) {
                let (name, buckets) = (format!("depth-{depth}"), (layout.buckets_at)(*depth));
                let begin = Instant::now();
                let found = session.execute_unpaged(&layout.tail, (name, buckets, i64::MAX)).await.unwrap();
                times.push(begin.elapsed());
                assert_eq!(found.into_rows_result().unwrap().rows_num(), 10);
            }
        }
    }
    for (layout, times) in layouts.iter().zip(&mut times) {
        let medians: Vec<Duration> = times.iter_mut().map(|times| median(times)).collect();
        let ratio = medians[1].as_secs_f64() / medians[0].as_secs_f64();
        println!("{}: tail of 10 at depths {depths:?}: {medians:?}, ratio {ratio:.2}", layout.name);
    }
}
