//! Measures what commits cost by batch size and durability, as ratios, and how long a history takes to open.
//! `cargo run --release -p p2-embedded --example log_bench [MiB of history]`
//!
//! The numbers and what follows from them are in `docs/decisions/embedded-store.md`.

use std::io::Write;
use std::time::{Duration, Instant};

use p2_core::record::Topic;
use p2_embedded::{Durability, Embedded, Options};
use p2_stream::ports::{Log, NewRecord};

type Failure = Box<dyn std::error::Error>;

/// Records written for each line of the table.
const RECORDS: usize = 3_000;
const VALUE: usize = 600;

fn record(partition: usize) -> NewRecord {
    NewRecord {
        topic: Topic::Artifacts,
        partition: (partition % 16) as i32,
        key: "conversation".to_owned(),
        headers: p2_stream::ports::Headers::default(),
        value: vec![0x5A; VALUE],
        time_ms: 1,
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let mebibytes = std::env::args().nth(1).map_or(Ok(1_024), |text| text.parse::<usize>())?;
    let out = &mut std::io::stdout();
    writeln!(out, "{RECORDS} records of {VALUE} bytes; the first line is 1.0")?;
    let mut unit = None;
    for (name, durability) in [("commit", Durability::Commit), ("interval", Durability::Interval { ms: 100 })]
    {
        for (batch, callers) in [(1, 1), (1, 64), (100, 1)] {
            let time = commits(durability, batch, callers).await?;
            let rate = RECORDS as f64 / time.as_secs_f64();
            let unit = *unit.get_or_insert(rate);
            let ratio = rate / unit;
            writeln!(out, "{name:8} batches of {batch:3}, {callers:2} at a time: {ratio:7.1} ({rate:.0}/s)")?;
        }
    }
    history(mebibytes, out).await
}

async fn commits(durability: Durability, batch: usize, callers: usize) -> Result<Duration, Failure> {
    let dir = tempfile::tempdir_in(".")?;
    let embedded = Embedded::open(dir.path(), &Options { durability, ..Options::default() })?;
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let log = embedded.log();
            tokio::spawn(async move {
                for _ in 0..RECORDS / batch / callers {
                    log.append((0..batch).map(|n| record(caller + n)).collect()).await?;
                }
                Ok::<(), p2_stream::ports::LogError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(start.elapsed())
}

async fn history(mebibytes: usize, out: &mut impl Write) -> Result<(), Failure> {
    let dir = tempfile::tempdir_in(".")?;
    let options = Options { durability: Durability::Interval { ms: 1_000 }, ..Options::default() };
    let embedded = Embedded::open(dir.path(), &options)?;
    let batches = mebibytes * (1 << 20) / (1_000 * (VALUE + 60));
    for _ in 0..batches {
        embedded.log().append((0..1_000).map(record).collect()).await?;
    }
    drop(embedded);
    for _ in 0..2 {
        let start = Instant::now();
        let embedded = Embedded::open(dir.path(), &Options::default())?;
        let opened = start.elapsed();
        let (_, end) = embedded.log().bounds(Topic::Artifacts, 3).await?;
        let start = Instant::now();
        let read = embedded.log().read(Topic::Artifacts, 3, end / 2, 100).await?.len();
        let records = embedded.report().records;
        let reading = start.elapsed();
        writeln!(
            out,
            "{mebibytes} MiB, {records} records: opened in {opened:?}, {read} read in {reading:?}"
        )?;
    }
    let start = Instant::now();
    let verified = p2_embedded::verify(dir.path())?;
    writeln!(out, "verified {} bytes in {:?}", verified.bytes, start.elapsed())?;
    Ok(())
}
