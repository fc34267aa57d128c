//! The embedded default: a durable log and a stack store for one machine and one process, in one directory.
//!
//! ```text
//! <dir>/lock      who has it open: the process id
//! <dir>/format    format version, log id, partitions per topic
//! <dir>/log/      the log, in numbered segments: the truth
//! <dir>/views     the stack store: may be deleted at any time and is then built again
//! ```
//!
//! A copy for safe keeping: end the process, copy `format` and `log/` (`views` may come along, `lock` need not).
//! Sealed segments never change but for retention, which replaces whole files.
//!
//! `docs/decisions/embedded-store.md` says why the log is a journal of our own and the views are not.

mod cell;
mod codec;
mod disk;
mod format;
mod index;
mod journal;
mod keys;
mod log;
mod retention;
mod segment;
mod store;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, mpsc};

use p2_core::record::Topic;
use p2_stream::ports::StoreError;

pub use journal::{DroppedTail, JournalError};
pub use log::EmbeddedLog;
pub use retention::Expired;
pub use store::EmbeddedStore;
pub use verify::{Verified, verify};

use disk::Disk;
use index::Visible;
use journal::{Found, Journal};
use log::{Shared, WriterHandle};
use retention::Expiry;
use writer::Writer;

/// Most records of one batch.
pub const BATCH_RECORDS_MAX: usize = 50_000;
/// Most bytes of one batch: keys, headers and values.
pub const BATCH_BYTES_MAX: usize = 64 << 20;

/// A segment is sealed at this size, bytes.
const SEGMENT_BYTES: u64 = 64 << 20;
/// A segment is sealed at this age, so that retention reaches it on a quiet machine too.
const SEGMENT_MS: i64 = 86_400_000;

/// When an acknowledged batch is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// Before it is acknowledged: nothing acknowledged is ever lost.
    #[default]
    Commit,
    /// At most this long after it. A killed process loses nothing. A power cut or a disk that fails loses the
    /// acknowledged batches of up to this long: always whole ones, always the newest. What they led to outside
    /// (a call that was made, an answer that was shown) is then not known any more and may be done again.
    Interval {
        /// Milliseconds.
        ms: u64,
    },
}

/// How to open a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// When an acknowledged batch is on the disk.
    pub durability: Durability,
    /// Partitions per topic, for a new directory. An existing one must have the same numbers.
    pub partitions: BTreeMap<Topic, i32>,
    /// How long records stay, milliseconds; topics that are missing here are kept for ever. By default what
    /// the topics declare.
    pub retention: BTreeMap<Topic, i64>,
    /// The log goes on in another segment when the last one has this many bytes.
    pub segment_bytes: u64,
}

impl Options {
    /// The same number of partitions for every topic.
    pub fn with_partitions(count: i32) -> Options {
        let partitions = Topic::ALL.into_iter().map(|topic| (topic, count)).collect();
        Options {
            durability: Durability::Commit,
            partitions,
            retention: retention::declared(),
            segment_bytes: SEGMENT_BYTES,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options::with_partitions(16)
    }
}

/// What was found when a directory was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// Identifies the log: views of another one are refused.
    pub log_id: String,
    /// Whether the directory was empty.
    pub created: bool,
    /// Records of all topics that are kept.
    pub records: u64,
    /// The torn tail of a group commit that was never acknowledged; it was cut off.
    pub dropped: Option<DroppedTail>,
    /// Whether the views had more than the log, which a power cut can lead to with [`Durability::Interval`];
    /// they were emptied and have to be built again.
    pub views_reset: bool,
}

/// Why a data directory cannot be opened. Nothing of what was in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{path} is open in process {pid}: end that process, or use another data directory")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process, as it wrote it down; `unknown` where it did not come to that.
        pid: String,
    },
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The format file is of a newer version, unreadable, or says something else than the options.
    #[error("{path}: {what}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What does not fit, and how to mend it.
        what: String,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The views.
    #[error(
        "the views cannot be opened: {0}; the file `views` may be deleted, it is built again from the log"
    )]
    Views(#[from] StoreError),
}

/// An open data directory. It is released when this and every handle of its log is dropped.
#[derive(Clone, Debug)]
pub struct Embedded {
    log: EmbeddedLog,
    store: EmbeddedStore,
    report: OpenReport,
}

impl Embedded {
    /// Opens a data directory, or makes a new one. Reads and checks the last segment of the log and the
    /// directories of the others; [`verify`] reads everything.
    ///
    /// # Errors
    /// [`OpenError`]; nothing of what was in the directory was changed.
    pub fn open(dir: impl AsRef<Path>, options: &Options) -> Result<Embedded, OpenError> {
        Embedded::open_on(dir.as_ref(), options, &Disk::default())
    }

    pub(crate) fn open_on(dir: &Path, options: &Options, disk: &Disk) -> Result<Embedded, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        make_private(dir).map_err(io(dir))?;
        let lock = lock(dir)?;
        let (format, created) = read_format(dir, options, disk)?;
        let log_path = dir.join("log");
        make_private(&log_path).map_err(io(&log_path))?;
        let mut visible = Visible::new(format.partitions.clone());
        let now_ms = p2_stream::shell::now_ms();
        let (journal, dropped) =
            Journal::open(disk, &log_path, format.salt(), now_ms, |found| match found {
                Found::Sealed(segment) => visible.take_sealed(&segment),
                Found::Frame(frame) => visible.take(frame.payload_at, codec::decode_payload(frame.payload)?),
            })?;
        visible.begins(journal.file());
        disk.sync_directory(dir).map_err(io(dir))?;
        if let Some(tail) = dropped {
            tracing::warn!(?tail, "dropped the torn tail of an unacknowledged commit");
        }
        let records = visible.records();
        let store = EmbeddedStore::open(&dir.join("views"), &format.log_id)?;
        let views_reset =
            store.wipe_if_ahead(|partition| visible.end((Topic::StateTransitions, partition)))?;
        if views_reset {
            tracing::warn!("the views had more than the log and were emptied: they are built again");
        }
        let shared = Arc::new(Shared {
            visible: Mutex::new(visible),
            stopped: OnceLock::new(),
            rewriting: Mutex::default(),
        });
        let writer = start(journal, &shared, options, disk, lock).map_err(io(&log_path))?;
        let report = OpenReport { log_id: format.log_id, created, records, dropped, views_reset };
        Ok(Embedded { log: EmbeddedLog { shared, writer: Arc::new(writer) }, store, report })
    }

    /// The log.
    pub fn log(&self) -> EmbeddedLog {
        self.log.clone()
    }

    /// The stack store.
    pub fn store(&self) -> EmbeddedStore {
        self.store.clone()
    }

    /// What was found when it was opened.
    pub fn report(&self) -> &OpenReport {
        &self.report
    }
}

/// Reads the format file, or makes a new directory where there is nothing at all. Returns whether it did.
fn read_format(dir: &Path, options: &Options, disk: &Disk) -> Result<(format::Format, bool), OpenError> {
    let path = dir.join("format");
    let found = format::read(&path, Some(options))?;
    let log_path = dir.join("log");
    let has_log = !journal::list(&log_path)?.is_empty();
    if !has_log && dir.join("views").exists() {
        let what = "it is missing beside its views: restore it from a copy of the directory".to_owned();
        return Err(OpenError::Format { path: log_path, what });
    }
    match found {
        Some(format) => Ok((format, false)),
        None if has_log => {
            let what = "it is missing beside a log: restore it from a copy of the directory".to_owned();
            Err(OpenError::Format { path, what })
        }
        None => {
            let made = format::create(disk, dir, options);
            Ok((made.map_err(|source| OpenError::Io { path: dir.to_owned(), source })?, true))
        }
    }
}

/// Starts the threads of the log: the writer, and retention by the clock.
fn start(
    journal: Journal,
    shared: &Arc<Shared>,
    options: &Options,
    disk: &Disk,
    lock: File,
) -> std::io::Result<WriterHandle> {
    let (requests, inbox) = mpsc::channel();
    let writer = Writer {
        journal,
        shared: Arc::clone(shared),
        durability: options.durability,
        segment_bytes: options.segment_bytes,
        lock,
    };
    let spawn = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let thread = spawn("p2-journal").spawn(move || writer.run(&inbox))?;
    let expiry = Expiry {
        shared: Arc::clone(shared),
        requests: requests.clone(),
        disk: disk.clone(),
        retention: options.retention.clone(),
        segment_ms: SEGMENT_MS,
    };
    let mut handle = WriterHandle {
        requests: Some(requests),
        thread: Some(thread),
        clock: None,
        expiry: Some(expiry.clone()),
    };
    if !options.retention.is_empty() {
        let (stop, stopped) = mpsc::channel();
        let clock = spawn("p2-retention").spawn(move || expiry.by_the_clock(&stopped))?;
        handle.clock = Some((stop, clock));
    }
    Ok(handle)
}

/// Makes a directory that only its owner can read, where it is not there: what people said is in it.
fn make_private(dir: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Takes the directory's lock and writes the process id into it.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let io = |source| OpenError::Io { path: path.clone(), source };
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::Error(source)) => return Err(OpenError::Io { path, source }),
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let read = file.read_to_string(&mut pid).is_ok();
            let pid =
                if read && !pid.trim().is_empty() { pid.trim().to_owned() } else { "unknown".to_owned() };
            return Err(OpenError::Locked { path: dir.to_owned(), pid });
        }
    }
    file.set_len(0).map_err(io)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(io)?;
    Ok(file)
}
