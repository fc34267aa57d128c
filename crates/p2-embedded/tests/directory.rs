//! What a data directory promises: the ports' suites, one opener, refusal without a changed byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use p2_core::record::Topic;
use p2_embedded::{Durability, Embedded, OpenError, Options};
use p2_stream::conformance;
use p2_stream::ports::{Log, LogError, NewRecord, StackStore};
use tempfile::TempDir;

fn record(text: &str) -> NewRecord {
    NewRecord {
        topic: Topic::Inbox,
        partition: 0,
        key: "k".to_owned(),
        headers: p2_stream::ports::Headers::default(),
        value: text.as_bytes().to_vec(),
        time_ms: 1,
    }
}

/// The first segment of the log.
fn segment(dir: &Path) -> PathBuf {
    dir.join("log/00000001-0.log")
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.file_name() != "lock" {
            found.insert(entry.path(), std::fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// Opens fresh directories and keeps them until the end.
struct Fresh(Mutex<Vec<TempDir>>, Durability, u64);

impl Fresh {
    fn open(&self) -> Embedded {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { durability: self.1, segment_bytes: self.2, ..Options::with_partitions(4) };
        let embedded = Embedded::open(dir.path(), &options).unwrap();
        self.0.lock().unwrap().push(dir);
        embedded
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_log_does_what_every_log_does() {
    for (durability, segment_bytes) in
        [(Durability::Commit, 64 << 20), (Durability::Interval { ms: 5 }, 64 << 20), (Durability::Commit, 1)]
    {
        let fresh = Fresh(Mutex::default(), durability, segment_bytes);
        conformance::log_conformance(async || fresh.open().log()).await;
    }
}

#[tokio::test]
async fn the_embedded_store_does_what_every_store_does() {
    let fresh = Fresh(Mutex::default(), Durability::Commit, 1 << 20);
    conformance::store_conformance(async || fresh.open().store()).await;
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = Embedded::open(dir.path(), &Options::default()).unwrap();
    assert!(first.report().created);
    first.log().append(vec![record("a"), record("b")]).await.unwrap();
    let transition = NewRecord { topic: Topic::StateTransitions, partition: 3, ..record("t") };
    first.log().append(vec![transition]).await.unwrap();
    first.store().write(3, Vec::new(), 1).await.unwrap();
    let log_id = first.report().log_id.clone();
    drop(first);
    let second = Embedded::open(dir.path(), &Options::default()).unwrap();
    assert_eq!((second.report().created, second.report().records, second.report().dropped), (false, 3, None));
    assert_eq!(second.report().log_id, log_id);
    assert_eq!(second.store().applied(3).await.unwrap(), 1);
    let values: Vec<_> = second.log().read(Topic::Inbox, 0, 0, 9).await.unwrap();
    assert_eq!(
        values.into_iter().map(|stored| stored.record).collect::<Vec<_>>(),
        [record("a"), record("b")]
    );
}

#[test]
fn a_second_opener_is_told_which_process_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = Embedded::open(dir.path(), &Options::default()).unwrap();
    let error = Embedded::open(dir.path(), &Options::default()).unwrap_err();
    assert!(error.to_string().contains(&format!("open in process {}", std::process::id())), "{error}");
    drop(first);
    Embedded::open(dir.path(), &Options::default()).unwrap();
}

#[test]
fn another_number_of_partitions_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Embedded::open(dir.path(), &Options::with_partitions(4)).unwrap());
    let before = files(dir.path());
    let error = Embedded::open(dir.path(), &Options::with_partitions(8)).unwrap_err();
    assert!(error.to_string().contains("has 4 partitions here and 8 in the options"), "{error}");
    assert_eq!(files(dir.path()), before);
}

#[tokio::test]
async fn a_newer_or_foreign_directory_is_refused_and_no_byte_changed() {
    let dir = tempfile::tempdir().unwrap();
    let first = Embedded::open(dir.path(), &Options::default()).unwrap();
    first.log().append(vec![record("a")]).await.unwrap();
    drop(first);
    let format = std::fs::read_to_string(dir.path().join("format")).unwrap();
    for (text, expected) in [
        (format.replace("p2engine-data 2", "p2engine-data 3"), "format 3 is newer than 2"),
        (format.replace("p2engine-data 2", "p2engine-data 1"), "use a new data directory"),
        ("hello\n".to_owned(), "not a data directory"),
        (format!("{format}compression best\n"), "'compression' is not known"),
    ] {
        std::fs::write(dir.path().join("format"), text).unwrap();
        let before = files(dir.path());
        let error = Embedded::open(dir.path(), &Options::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(files(dir.path()), before);
    }
    std::fs::remove_file(dir.path().join("format")).unwrap();
    let before = files(dir.path());
    assert!(matches!(Embedded::open(dir.path(), &Options::default()), Err(OpenError::Format { .. })));
    assert_eq!(files(dir.path()), before);
}

#[tokio::test]
async fn views_of_another_log_are_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(Embedded::open(one.path(), &Options::default()).unwrap());
    drop(Embedded::open(other.path(), &Options::default()).unwrap());
    std::fs::copy(one.path().join("views"), other.path().join("views")).unwrap();
    let error = Embedded::open(other.path(), &Options::default()).unwrap_err();
    assert!(error.to_string().contains("belong to another log"), "{error}");
    std::fs::remove_file(other.path().join("views")).unwrap();
    Embedded::open(other.path(), &Options::default()).unwrap();
}

#[tokio::test]
async fn a_record_damaged_after_opening_is_an_error_and_not_other_data() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(dir.path(), &Options::default()).unwrap();
    embedded.log().append(vec![record("precious")]).await.unwrap();
    let path = segment(dir.path());
    let text = std::fs::read(&path).unwrap();
    let at = text.windows(8).position(|window| window == b"precious").unwrap();
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(&path).unwrap(),
        b"P",
        at as u64,
    )
    .unwrap();
    assert!(matches!(embedded.log().read(Topic::Inbox, 0, 0, 1).await, Err(LogError::Corrupt(_))));
}

#[tokio::test]
async fn views_that_are_ahead_of_the_log_are_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let first = Embedded::open(dir.path(), &Options::default()).unwrap();
    first.store().write(3, Vec::new(), 1).await.unwrap();
    drop(first);
    let second = Embedded::open(dir.path(), &Options::default()).unwrap();
    assert!(second.report().views_reset);
    assert_eq!(second.store().applied(3).await.unwrap(), 0);
    drop(second);
    assert!(!Embedded::open(dir.path(), &Options::default()).unwrap().report().views_reset);
}

#[test]
fn a_missing_journal_is_not_taken_for_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(Embedded::open(dir.path(), &Options::default()).unwrap());
    std::fs::remove_file(segment(dir.path())).unwrap();
    let before = files(dir.path());
    let error = Embedded::open(dir.path(), &Options::default()).unwrap_err();
    assert!(error.to_string().contains("missing beside its views"), "{error}");
    assert_eq!(files(dir.path()), before);
}

#[cfg(unix)]
#[test]
fn a_directory_that_is_made_is_its_owners_alone_and_one_that_is_there_keeps_its_rights() {
    use std::os::unix::fs::PermissionsExt;
    let rights = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("new/data");
    drop(Embedded::open(&dir, &Options::with_partitions(1)).unwrap());
    for made in [&dir, &dir.join("log")] {
        assert_eq!(rights(made), 0o700, "{}", made.display());
    }
    let there = scratch.path().join("there");
    std::fs::create_dir(&there).unwrap();
    std::fs::set_permissions(&there, std::fs::Permissions::from_mode(0o750)).unwrap();
    drop(Embedded::open(&there, &Options::with_partitions(1)).unwrap());
    assert_eq!((rights(&there), rights(&there.join("log"))), (0o750, 0o700));
}
