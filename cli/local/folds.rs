//! Where the folds of the ledger lie between starts: files below the data directory.

use std::io::Write;
use std::path::{Path, PathBuf};

use p2_stream::memory::FoldFiles;

/// One file for each partition. All processes of a data directory write them; the last one wins, and each is whole.
#[derive(Debug)]
pub(super) struct FoldDir(PathBuf);

impl FoldDir {
    /// `prefix` is what the topics' names begin with: systems of one data directory do not share folds.
    pub(super) fn new(data_dir: &Path, prefix: &str) -> FoldDir {
        let name = if prefix.is_empty() { "ledger".to_owned() } else { format!("ledger-{prefix}") };
        FoldDir(data_dir.join("folds").join(name))
    }

    fn path(&self, partition: i32) -> PathBuf {
        self.0.join(format!("{partition}.fold"))
    }

    fn try_keep(&self, partition: i32, bytes: &[u8]) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        let mut draft = tempfile::NamedTempFile::new_in(&self.0)?;
        draft.write_all(bytes)?;
        draft.as_file().sync_all()?;
        draft.persist(self.path(partition)).map(drop).map_err(|error| error.error)
    }
}

impl FoldFiles for FoldDir {
    fn load(&self, partition: i32) -> Option<Vec<u8>> {
        std::fs::read(self.path(partition)).ok()
    }

    fn keep(&self, partition: i32, bytes: &[u8]) {
        match self.try_keep(partition, bytes) {
            Ok(()) => tracing::debug!(partition, bytes = bytes.len(), "fold of the ledger kept"),
            Err(error) => {
                let path = self.path(partition);
                tracing::warn!(path = %path.display(), %error, "the ledger's fold cannot be kept: starts take longer");
            }
        }
    }
}
