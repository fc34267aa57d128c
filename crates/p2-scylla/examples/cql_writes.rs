//! What writing the view costs a CQL server and this program: CPU for 1,000 transitions, by how many come in one
//! write of a partition.
//!
//! `deploy/dev/cassandra.sh start DIR PORT`, then
//! `P2_CQL=127.0.0.1:PORT P2_CQL_PID=$(cat DIR/pid) cargo run -p p2-scylla --example cql_writes`.
//! The numbers in `docs/performance.md` come from it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::print_stdout)]

use std::time::{Duration, Instant};

use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{Appended, BranchStatus, Change, Closed, Opened, StateTransition};
use p2_core::state::{Entry, State, UserMessage, WaitKind, Waiting};
use p2_scylla::{CqlStore, LogIdentity, Options, migrate};
use p2_stream::ports::StackStore;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

/// Partitions of the log that are written at the same time, each one write at a time, as the shell does.
const PARTITIONS: i32 = 16;
/// Transitions of one conversation: asked, then a reply or a result in turns, the last one closes it.
const STEPS: i64 = 6;
const TRANSITIONS: usize = 20_000;
const BODY: usize = 1_000;
/// Rounds that count, and rounds before them in which the server warms up.
const ROUNDS: usize = 5;
const WARM: usize = 3;

fn entry(seq: i64, state: State) -> Entry {
    Entry { seq, id: Id::of_text(&seq.to_string()), time_ms: 1, state }
}

fn transition(conversation: &str, seq: i64) -> StateTransition {
    let wait = |seq: i64| Id::of_text(&format!("{conversation}/wait/{seq}"));
    let text = "word ".repeat(BODY / 5);
    let mut changes = Vec::new();
    if seq == 0 {
        changes.push(Change::Opened(Opened { root: AgentId::from("assistant") }));
    } else {
        changes.push(Change::Closed(Closed { waits: vec![wait(seq - 1)] }));
    }
    let mut entries = vec![entry(seq * 2, State::UserMessage(UserMessage { text, origin: None }))];
    if seq + 1 < STEPS {
        let (kind, correlation) = (WaitKind::Tool, String::new());
        let waiting = Waiting { id: wait(seq), kind, deadline_ms: None, correlation, budget: None };
        entries.push(entry(seq * 2 + 1, State::Waiting(waiting)));
    }
    changes.push(Change::Appended(Appended { entries }));
    StateTransition {
        id: Id::of_text(&format!("{conversation}/{seq}")),
        conversation: ConversationId::from(conversation),
        seq,
        previous: (seq > 0).then(|| Id::of_text(&format!("{conversation}/{}", seq - 1))),
        agent: AgentId::from("assistant"),
        branch: BranchId::main(),
        input: Id::of_text("input"),
        changes,
        head: seq,
        status: BranchStatus::Idle,
        time_ms: 1_000 + seq,
    }
}

/// The writes of one partition: `width` conversations a step each, until they are done, then the next ones.
fn writes(round: usize, partition: i32, width: usize) -> Vec<(Vec<(i64, StateTransition)>, i64)> {
    let each = TRANSITIONS / usize::try_from(PARTITIONS).unwrap();
    let mut offset = i64::try_from(round * TRANSITIONS).unwrap();
    let mut made = Vec::new();
    for wave in 0..each.div_ceil(width * usize::try_from(STEPS).unwrap()) {
        for seq in 0..STEPS {
            let names = (0..width).map(|n| format!("conversation-{round}-{width}-{partition}-{wave}-{n}"));
            let part: Vec<_> = (offset..).zip(names.map(|name| transition(&name, seq))).collect();
            offset += i64::try_from(width).unwrap();
            made.push((part, offset));
        }
    }
    made
}

/// User and system time of a process so far.
fn cpu(pid: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|field| field.parse().ok()).collect();
    Duration::from_millis((fields[10] + fields[11]) * 10)
}

/// Requests that the server has got from whoever is connected; zero where it does not count them.
async fn requests(session: &Session) -> f64 {
    let Ok(found) = session.query_unpaged("SELECT request_count FROM system_views.clients", ()).await else {
        return 0.0;
    };
    let rows = found.into_rows_result().unwrap();
    rows.rows::<(i64,)>().unwrap().map(|row| row.unwrap().0 as f64).sum()
}

/// For 1,000 transitions: milliseconds of the server's CPU, of ours, and of the clock; requests.
type Measured = [f64; 4];

/// Writes so many transitions.
async fn round(store: &CqlStore, beside: &Session, number: usize, width: usize, server: &str) -> Measured {
    let all: Vec<_> = (0..PARTITIONS).map(|partition| writes(number, partition, width)).collect();
    let count: usize = all.iter().flatten().map(|(part, _)| part.len()).sum();
    let asked = requests(beside).await;
    let before = (cpu(server), cpu("self"), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for (partition, writes) in (0..).zip(all) {
        let store = store.clone();
        tasks.spawn(async move {
            for (part, applied) in writes {
                // As the shell does: a machine that is busy with other work may not answer in time.
                while store.write(partition, part.clone(), applied).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let thousands = count as f64 / 1_000.0;
    let ms = |spent: Duration| spent.as_secs_f64() * 1_000.0 / thousands;
    let times = (ms(cpu(server) - before.0), ms(cpu("self") - before.1), ms(before.2.elapsed()));
    [times.0, times.1, times.2, (requests(beside).await - asked) / thousands]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let nodes = std::env::var("P2_CQL").expect("P2_CQL=HOST:PORT");
    let pid = std::env::var("P2_CQL_PID").expect("P2_CQL_PID: the process whose CPU is counted");
    let keyspace = format!("writes_{}", std::process::id());
    let options = Options::new([nodes], &keyspace);
    migrate(&options).await.unwrap();
    let log = LogIdentity { cluster: "cluster".to_owned(), topic: "topic".to_owned() };
    let store = CqlStore::open(&options, &log).await.unwrap();
    let beside = SessionBuilder::new().known_nodes(&options.nodes).build().await.unwrap();
    let mut number = 0;
    for _ in 0..WARM {
        round(&store, &beside, number, 5, &pid).await;
        number += 1;
    }
    println!("for 1,000 transitions, medians of {ROUNDS}:");
    println!("transitions in a write | ms of the server's CPU, of ours, of the clock | requests");
    for width in [1, 2, 5, 20, 50] {
        let mut found = Vec::new();
        for _ in 0..ROUNDS {
            found.push(round(&store, &beside, number, width, &pid).await);
            number += 1;
        }
        let of = |what: usize| median(found.iter().map(|measured| measured[what]).collect());
        println!("{width:>3} | {:.0} {:.0} {:.0} | {:.0}", of(0), of(1), of(2), of(3));
    }
}
