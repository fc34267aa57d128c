//! The file operations of the log, in one place, so that a test can make each of them fail where it wants.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is about to be done to a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Open,
    Read,
    Write,
    Truncate,
    Sync,
    Rename,
    Remove,
    SyncDirectory,
}

/// How it goes wrong.
#[cfg_attr(not(test), allow(dead_code, reason = "only tests make anything fail"))]
#[derive(Debug)]
pub(crate) enum Fault {
    /// It fails and does nothing.
    Error(io::Error),
    /// A write fails after so many bytes.
    Short(usize, io::Error),
}

/// Says which operations fail. Only tests have any.
pub(crate) trait Faults: Debug + Send + Sync {
    /// Asked before each operation.
    fn strike(&self, operation: Operation, path: &Path) -> Option<Fault>;
}

/// The file system.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    faults: Option<Arc<dyn Faults>>,
}

impl Disk {
    #[cfg(test)]
    pub(crate) fn with(faults: Arc<dyn Faults>) -> Disk {
        Disk { faults: Some(faults) }
    }

    fn fault(&self, operation: Operation, path: &Path) -> Option<Fault> {
        self.faults.as_ref()?.strike(operation, path)
    }

    fn check(&self, operation: Operation, path: &Path) -> io::Result<()> {
        match self.fault(operation, path) {
            None => Ok(()),
            Some(Fault::Error(error) | Fault::Short(_, error)) => Err(error),
        }
    }

    fn file(&self, file: File, path: &Path) -> DiskFile {
        DiskFile { file, path: path.to_owned(), disk: self.clone() }
    }

    /// Makes an empty file, for reading and writing.
    pub(crate) fn create(&self, path: &Path) -> io::Result<DiskFile> {
        self.check(Operation::Create, path)?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(self.file(file, path))
    }

    /// Opens a file that is there, for reading and perhaps for writing. Changes nothing.
    pub(crate) fn open(&self, path: &Path, write: bool) -> io::Result<DiskFile> {
        self.check(Operation::Open, path)?;
        let file = OpenOptions::new().read(true).write(write).open(path)?;
        Ok(self.file(file, path))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(Operation::Rename, from)?;
        std::fs::rename(from, to)
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.check(Operation::Remove, path)?;
        std::fs::remove_file(path)
    }

    /// Makes the names in a directory durable.
    pub(crate) fn sync_directory(&self, dir: &Path) -> io::Result<()> {
        self.check(Operation::SyncDirectory, dir)?;
        File::open(dir)?.sync_all()
    }
}

/// An open file. Reads and writes say where, so that it can be shared.
#[derive(Debug)]
pub(crate) struct DiskFile {
    file: File,
    path: PathBuf,
    disk: Disk,
}

impl DiskFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.disk.check(Operation::Read, &self.path)?;
        self.file.read_exact_at(bytes, at)
    }

    /// `length` bytes from `at` on.
    pub(crate) fn read_at(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        match self.disk.fault(Operation::Write, &self.path) {
            None => self.file.write_all_at(bytes, at),
            Some(Fault::Error(error)) => Err(error),
            Some(Fault::Short(count, error)) => {
                self.file.write_all_at(bytes.get(..count).unwrap_or(bytes), at)?;
                Err(error)
            }
        }
    }

    pub(crate) fn set_len(&self, length: u64) -> io::Result<()> {
        self.disk.check(Operation::Truncate, &self.path)?;
        self.file.set_len(length)
    }

    /// fdatasync.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        self.disk.check(Operation::Sync, &self.path)?;
        self.file.sync_data()
    }

    /// fsync.
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        self.disk.check(Operation::Sync, &self.path)?;
        self.file.sync_all()
    }
}
