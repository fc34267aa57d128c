//! Measures what a durable commit costs in the candidates for the embedded store, and what each makes of a
//! cut and of a damaged file. `cargo run --release -p p2-embedded --example kv_bench`
//!
//! The numbers and what follows from them are in `docs/decisions/embedded-store.md`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fjall::{Database as Fjall, KeyspaceCreateOptions, PersistMode};
use redb::{Database as Redb, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

type Failure = Box<dyn std::error::Error>;

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const COMMITS: u64 = 300;
const VALUE: [u8; 600] = [0x5A; 600];

fn main() -> Result<(), Failure> {
    let scratch = tempfile::tempdir()?;
    let out = &mut std::io::stdout();
    writeln!(out, "{COMMITS} commits of 600-byte values, each synced; milliseconds per commit (mean, p99)")?;
    for batch in [1, 100] {
        for (name, run) in [("redb", redb as Run), ("fjall", fjall), ("journal", journal)] {
            let mut times = run(&scratch.path().join(format!("{name}-{batch}")), batch)?;
            times.sort();
            let mean = times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len() as f64;
            let p99 = times.get(times.len() * 99 / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3);
            writeln!(out, "{name:8} batch {batch:3}: {mean:6.2} {p99:6.2}")?;
        }
    }
    for name in ["redb", "fjall"] {
        probe(name, scratch.path(), out)?;
    }
    Ok(())
}

type Run = fn(&Path, u64) -> Result<Vec<Duration>, Failure>;

fn redb(path: &Path, batch: u64) -> Result<Vec<Duration>, Failure> {
    fs::create_dir_all(path)?;
    let database = Redb::create(path.join("data"))?;
    (0..COMMITS)
        .map(|commit| {
            let start = Instant::now();
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(TABLE)?;
                for row in 0..batch {
                    table.insert(commit * batch + row, VALUE.as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(start.elapsed())
        })
        .collect()
}

fn fjall(path: &Path, batch: u64) -> Result<Vec<Duration>, Failure> {
    let database = Fjall::builder(path).open()?;
    let keyspace = database.keyspace("log", KeyspaceCreateOptions::default)?;
    (0..COMMITS)
        .map(|commit| {
            let start = Instant::now();
            let mut write = database.batch();
            for row in 0..batch {
                write.insert(&keyspace, (commit * batch + row).to_be_bytes(), VALUE);
            }
            write.commit()?;
            database.persist(PersistMode::SyncData)?;
            Ok(start.elapsed())
        })
        .collect()
}

fn journal(path: &Path, batch: u64) -> Result<Vec<Duration>, Failure> {
    fs::create_dir_all(path)?;
    let mut file = File::create(path.join("data"))?;
    (0..COMMITS)
        .map(|_| {
            let start = Instant::now();
            let payload = VALUE.repeat(usize::try_from(batch)?);
            file.write_all(&crc32c::crc32c(&payload).to_le_bytes())?;
            file.write_all(&payload)?;
            file.sync_data()?;
            Ok(start.elapsed())
        })
        .collect()
}

/// Cuts and damages copies of a store of 300 single-value commits, and says what is left of them.
fn probe(name: &str, scratch: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let original = scratch.join(format!("{name}-1"));
    let (file, used) = newest_file(&original)?;
    for (what, from_end, cut) in [
        ("cut 1 byte", 1, true),
        ("cut 1000 bytes", 1_000, true),
        ("bit flipped in the middle", used / 2, false),
    ] {
        let copy = scratch.join("copy");
        let _ = fs::remove_dir_all(&copy);
        copy_all(&original, &copy)?;
        let target = copy.join(file.strip_prefix(&original)?);
        let mut bytes = fs::read(&target)?;
        let at = usize::try_from(used.saturating_sub(from_end))?;
        if cut {
            bytes.truncate(at);
        } else if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1;
        }
        fs::write(&target, &bytes)?;
        let found = if name == "redb" { count_redb(&copy) } else { count_fjall(&copy) };
        match found {
            Ok(count) => {
                writeln!(out, "{name:8} {what} at {at} of {used}: opens, {count} of {COMMITS} commits")?
            }
            Err(error) => writeln!(out, "{name:8} {what} at {at} of {used}: refused: {error}")?,
        }
    }
    Ok(())
}

/// The largest file that holds values, and where the last value ends in it.
fn newest_file(root: &Path) -> Result<(PathBuf, u64), Failure> {
    let mut found = (PathBuf::new(), 0);
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let bytes = fs::read(&path)?;
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
            if used > found.1 {
                found = (path, used);
            }
        }
    }
    Ok(found)
}

fn copy_all(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &target)?
        } else {
            let _bytes = fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn count_redb(path: &Path) -> Result<u64, Failure> {
    let database = Redb::create(path.join("data"))?;
    let table = database.begin_read()?.open_table(TABLE)?;
    let whole =
        table.iter()?.filter(|row| row.as_ref().is_ok_and(|(_, value)| value.value() == VALUE)).count();
    writeln!(std::io::stdout(), "         ({whole} values as written, {} rows)", table.len()?)?;
    Ok(whole as u64)
}

fn count_fjall(path: &Path) -> Result<u64, Failure> {
    let database = Fjall::builder(path).open()?;
    let keyspace = database.keyspace("log", KeyspaceCreateOptions::default)?;
    let mut count = 0;
    for row in keyspace.iter() {
        count += u64::from(*row.value()? == VALUE);
    }
    Ok(count)
}
