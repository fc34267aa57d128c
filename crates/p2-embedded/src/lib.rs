//! The embedded default: a durable log and a stack store for one machine and one process, in one directory.
//!
//! ```text
//! <dir>/lock      who has it open: the process id
//! <dir>/format    format version, log id, partitions per topic
//! <dir>/journal   the log: the truth
//! <dir>/views     the stack store: may be deleted at any time and is then built again
//! ```
//!
//! `docs/decisions/embedded-store.md` says why the log is a journal of our own and the views are not.

mod cell;
mod codec;
mod format;
mod journal;
mod keys;
mod log;
mod store;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

use p2_core::record::Topic;
use p2_stream::ports::StoreError;

pub use journal::{DroppedTail, JournalError};
pub use log::EmbeddedLog;
pub use store::EmbeddedStore;

use journal::Journal;
use log::{Shared, Visible, WriterHandle};
use writer::Writer;

/// Most records of one batch.
pub const BATCH_RECORDS_MAX: usize = 50_000;
/// Most bytes of one batch: keys, headers and values.
pub const BATCH_BYTES_MAX: usize = 64 << 20;

/// When an acknowledged batch is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// Before it is acknowledged: nothing acknowledged is ever lost.
    #[default]
    Commit,
    /// At most this long after it: a killed process loses nothing, a power cut loses up to this much, always
    /// whole batches and always the newest.
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
}

impl Options {
    /// The same number of partitions for every topic.
    pub fn with_partitions(count: i32) -> Options {
        let partitions = Topic::ALL.into_iter().map(|topic| (topic, count)).collect();
        Options { durability: Durability::Commit, partitions }
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
    /// Records of all topics.
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
    /// Opens a data directory, or makes a new one. Reads the whole journal.
    ///
    /// # Errors
    /// [`OpenError`]; nothing of what was in the directory was changed.
    pub fn open(dir: impl AsRef<Path>, options: &Options) -> Result<Embedded, OpenError> {
        let dir = dir.as_ref();
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        std::fs::create_dir_all(dir).map_err(io(dir))?;
        let lock = lock(dir)?;
        let journal_path = dir.join("journal");
        let found = format::read(&dir.join("format"), options)?;
        let created = found.is_none();
        let views_path = dir.join("views");
        if views_path.exists() && !journal_path.exists() {
            return Err(OpenError::Format {
                path: journal_path,
                what: "it is missing beside its views: restore it from a copy of the directory".to_owned(),
            });
        }
        let format = match found {
            Some(format) => format,
            None if journal_path.exists() => {
                return Err(OpenError::Format {
                    path: dir.join("format"),
                    what: "it is missing beside a journal: restore it from a copy of the directory"
                        .to_owned(),
                });
            }
            None => format::create(dir, options).map_err(io(dir))?,
        };
        let mut visible = Visible::new(format.partitions.clone());
        let (journal, dropped) = Journal::open(&journal_path, format.salt(), |frame| {
            visible.take(frame.payload_at, codec::decode_payload(frame.payload)?)
        })?;
        format::sync_directory(dir).map_err(io(dir))?;
        if let Some(tail) = dropped {
            tracing::warn!(
                at = tail.at,
                bytes = tail.bytes,
                "dropped the torn tail of an unacknowledged commit"
            );
        }
        let records = visible.slots.values().map(|slots| slots.len() as u64).sum();
        let store = EmbeddedStore::open(&views_path, &format.log_id)?;
        let views_reset =
            store.wipe_if_ahead(|partition| visible.end((Topic::StateTransitions, partition)))?;
        if views_reset {
            tracing::warn!("the views had more than the log and were emptied: they are built again");
        }
        let shared = Arc::new(Shared {
            visible: Mutex::new(visible),
            file: journal.file(),
            path: journal_path.clone(),
        });
        let (requests, inbox) = mpsc::channel();
        let writer = Writer { journal, shared: Arc::clone(&shared), durability: options.durability, lock };
        let thread = std::thread::Builder::new()
            .name("p2-journal".to_owned())
            .spawn(move || writer.run(&inbox))
            .map_err(io(&journal_path))?;
        let writer = Arc::new(WriterHandle { requests: Some(requests), thread: Some(thread) });
        let report = OpenReport { log_id: format.log_id, created, records, dropped, views_reset };
        Ok(Embedded { log: EmbeddedLog { shared, writer }, store, report })
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
