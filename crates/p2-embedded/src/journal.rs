//! The journal: numbered segments in one directory, of which the last one is written. [`crate::segment`] has
//! their form.
//!
//! Opening reads the directories of the sealed segments and the whole last segment, checks both, and only then
//! changes anything. What is wrong inside a sealed segment is found when it is read, or by [`crate::verify`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::segment::{
    self, Directory, FILE_HEADER, FORMAT_VERSION, FRAME_HEADER, Frame, GroupProgress, Header, HeaderError,
    LaneSlots, SLOT, Scan, TRAILER,
};

/// Why a journal cannot be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A newer program wrote it.
    #[error(
        "{path}: journal format {found} is newer than {FORMAT_VERSION}, the newest that this program reads: use the newer program"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Damaged below acknowledged records.
    #[error(
        "{path}: damaged at byte {at} ({what}), with acknowledged records in or behind it: restore the file from a copy; nothing was changed"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        at: u64,
        /// What does not fit.
        what: String,
    },
}

impl JournalError {
    fn damaged(path: &Path, at: u64, what: impl Into<String>) -> JournalError {
        JournalError::Damaged { path: path.to_owned(), at, what: what.into() }
    }
}

/// The torn tail that an opening dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedTail {
    /// The number of the segment: the last one.
    pub segment: u64,
    /// Where in it the tail began.
    pub at: u64,
    /// How long it was.
    pub bytes: u64,
}

/// A sealed segment. Its file is opened for each read, so that a long history needs no open files.
#[derive(Debug)]
pub(crate) struct Sealed {
    disk: Disk,
    pub(crate) path: PathBuf,
    pub(crate) header: Header,
    pub(crate) directory: Directory,
    /// Where its directory begins.
    pub(crate) directory_at: u64,
    /// Length of the file.
    pub(crate) bytes: u64,
}

impl Sealed {
    pub(crate) fn open(&self) -> io::Result<DiskFile> {
        self.disk.open(&self.path, false)
    }
}

/// What opening finds, in order.
pub(crate) enum Found<'a> {
    Sealed(Arc<Sealed>),
    /// A frame of the last segment.
    Frame(&'a Frame<'a>),
}

/// Why a frame was not written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The file is as it was before.
    Clean(io::Error),
    /// Part of it may lie at the end of the file.
    Doubtful(io::Error),
}

/// How a rotation ended.
#[derive(Debug)]
pub(crate) enum Rotation {
    /// The segment is sealed, another one is written.
    Done(Arc<Sealed>),
    /// The segment stays as it was, and goes on.
    Postponed(io::Error),
}

/// An open journal. One writer; any number of readers through [`Journal::file`].
#[derive(Debug)]
pub(crate) struct Journal {
    disk: Disk,
    dir: PathBuf,
    /// The segment that is written.
    file: Arc<DiskFile>,
    header: Header,
    /// Where the next frame goes.
    end: u64,
    /// Frames written, in all segments.
    seq: u64,
    /// Frames known to be on the disk.
    synced: u64,
    /// A sync failed: nothing is known of the disk any more, and no later sync can say anything about it.
    failed: bool,
}

/// The path of a segment.
pub(crate) fn path_of(dir: &Path, number: u64, generation: u32) -> PathBuf {
    dir.join(format!("{number:08}-{generation}.log"))
}

/// Segments of a directory by number, with the generations that are there.
pub(crate) fn list(dir: &Path) -> Result<BTreeMap<u64, BTreeSet<u32>>, JournalError> {
    let io = |source| JournalError::Io { path: dir.to_owned(), source };
    let mut found: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(io(error)),
    };
    for entry in entries {
        let name = entry.map_err(io)?.file_name();
        let parts = name.to_str().and_then(|name| name.strip_suffix(".log")?.split_once('-'));
        let Some((number, generation)) = parts else { continue };
        if let (Ok(number), Ok(generation)) = (number.parse(), generation.parse()) {
            found.entry(number).or_default().insert(generation);
        }
    }
    for (expected, number) in (1..).zip(found.keys()) {
        if *number != expected {
            return Err(JournalError::damaged(&path_of(dir, expected, 0), 0, "the segment is missing"));
        }
    }
    Ok(found)
}

/// A sealed segment with its directory, or the header of one that is not sealed.
pub(crate) enum Read {
    Sealed(Sealed),
    Unsealed(Header),
    /// Empty, or only the beginning of a header.
    Torn,
}

/// Reads header and directory of a segment.
pub(crate) fn read_segment(disk: &Disk, path: &Path, salt: u64, number: u64) -> Result<Read, JournalError> {
    let io = |source| JournalError::Io { path: path.to_owned(), source };
    let file = disk.open(path, false).map_err(io)?;
    let length = file.len().map_err(io)?;
    let head = file.read_at(0, FILE_HEADER.min(usize::try_from(length).unwrap_or(usize::MAX))).map_err(io)?;
    let header = match Header::decode(&head) {
        Ok(header) => header,
        Err(HeaderError::Torn) => return Ok(Read::Torn),
        Err(HeaderError::Newer(found)) => return Err(JournalError::Newer { path: path.to_owned(), found }),
        Err(HeaderError::Bad(what)) => return Err(JournalError::damaged(path, 0, what)),
    };
    if header.salt != salt || header.number != number {
        return Err(JournalError::damaged(path, 0, "it is a segment of another log, or has another's name"));
    }
    let Some(trailer_at) = length.checked_sub(TRAILER as u64) else { return Ok(Read::Unsealed(header)) };
    let trailer = file.read_at(trailer_at, TRAILER).map_err(io)?;
    let Some((at, size, crc)) = segment::decode_trailer(&trailer, length) else {
        return Ok(Read::Unsealed(header));
    };
    let bytes = file.read_at(at, size).map_err(io)?;
    match segment::decode_directory(&header, at, &bytes, crc) {
        Ok(directory) => Ok(Read::Sealed(Sealed {
            disk: disk.clone(),
            path: path.to_owned(),
            header,
            directory,
            directory_at: at,
            bytes: length,
        })),
        // Frames may end in any bytes, so this is a segment that is not sealed until it is known to be one.
        Err(_) => Ok(Read::Unsealed(header)),
    }
}

/// How the last segment goes on, once everything was read.
pub(crate) struct Last {
    pub(crate) path: PathBuf,
    pub(crate) header: Header,
    /// What is there of it; none where it has to be made.
    pub(crate) found: Option<(Vec<u8>, Scan)>,
    /// Bytes of a torn header.
    pub(crate) torn_header: u64,
}

impl Journal {
    /// Opens or makes the journal in `dir` and hands sealed segments and then the whole frames of the last
    /// segment to `visit`. A torn tail is cut off and reported.
    ///
    /// # Errors
    /// [`JournalError`]; `visit` refuses what it is given with a sentence. All files are then as they were.
    pub(crate) fn open(
        disk: &Disk,
        dir: &Path,
        salt: u64,
        now_ms: i64,
        mut visit: impl FnMut(Found<'_>) -> Result<(), String>,
    ) -> Result<(Journal, Option<DroppedTail>), JournalError> {
        let segments = list(dir)?;
        let last = read_all(disk, dir, salt, now_ms, &segments, &mut visit)?;
        let io = |source| JournalError::Io { path: last.path.clone(), source };
        let number = last.header.number;
        let mut dropped =
            (last.torn_header > 0).then_some(DroppedTail { segment: number, at: 0, bytes: last.torn_header });
        let (file, end, seq) = match &last.found {
            None => {
                let file = create(disk, dir, &last.path, &last.header).map_err(io)?;
                (file, FILE_HEADER as u64, last.header.first_seq)
            }
            Some((bytes, scan)) => {
                let file = disk.open(&last.path, true).map_err(io)?;
                if scan.torn {
                    let length = bytes.len() as u64;
                    dropped = Some(DroppedTail { segment: number, at: scan.end, bytes: length - scan.end });
                    file.set_len(scan.end).map_err(io)?;
                }
                settle(&file, bytes, scan).map_err(io)?;
                (file, scan.end, scan.seq)
            }
        };
        remove_leftovers(disk, dir, &segments);
        disk.sync_directory(dir).map_err(io)?;
        let (disk, dir) = (disk.clone(), dir.to_owned());
        let header = last.header;
        let journal =
            Journal { disk, dir, file: Arc::new(file), header, end, seq, synced: seq, failed: false };
        Ok((journal, dropped))
    }

    /// The segment that is written, for readers.
    pub(crate) fn file(&self) -> Arc<DiskFile> {
        Arc::clone(&self.file)
    }

    /// Where the segment that is written lies.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Bytes of the segment that is written.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.end
    }

    /// When the segment that is written was begun; none where it has no frame yet.
    pub(crate) fn segment_since_ms(&self) -> Option<i64> {
        (self.seq > self.header.first_seq).then_some(self.header.created_ms)
    }

    /// Writes one frame at the end and returns where its payload begins. Not durable before [`Journal::sync`].
    pub(crate) fn write(&mut self, payload: &[u8]) -> Result<u64, WriteError> {
        let frame = segment::encode_frame(self.header.salt, self.seq, self.synced, payload)
            .ok_or_else(|| WriteError::Clean(io::Error::other("a frame over 4 GiB")))?;
        if let Err(error) = self.file.write_all_at(&frame, self.end) {
            // Whatever part of it arrived must not lie before the next frame.
            return Err(match self.file.set_len(self.end) {
                Ok(()) => WriteError::Clean(error),
                Err(_) => WriteError::Doubtful(error),
            });
        }
        let payload_at = self.end + FRAME_HEADER as u64;
        self.end += frame.len() as u64;
        self.seq += 1;
        Ok(payload_at)
    }

    /// Whether frames were written since the last sync.
    pub(crate) fn is_dirty(&self) -> bool {
        self.synced < self.seq
    }

    /// Makes every written frame durable (fdatasync). After it failed once it fails for ever: the system may
    /// have dropped the pages, and a second try would succeed without having written them.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier sync failed"));
        }
        if let Err(error) = self.file.sync_data() {
            self.failed = true;
            return Err(error);
        }
        self.synced = self.seq;
        Ok(())
    }

    /// Seals the segment and begins the next one.
    ///
    /// # Errors
    /// What leaves the files in doubt: nothing may be written any more.
    pub(crate) fn rotate(
        &mut self,
        lanes: &[LaneSlots],
        progress: Vec<GroupProgress>,
        now_ms: i64,
    ) -> io::Result<Rotation> {
        self.sync()?;
        let footer = segment::encode_footer(&self.header, self.end, lanes, progress, self.seq, now_ms);
        let (footer, directory) = footer.map_err(io::Error::other)?;
        let slots = lanes.iter().flat_map(|lane| &lane.slots).map(|slots| slots.len() * SLOT).sum::<usize>();
        if let Err(error) = self.file.write_all_at(&footer, self.end) {
            self.file.set_len(self.end)?;
            return Ok(Rotation::Postponed(error));
        }
        let sealed = self.file.sync_all().and_then(|()| {
            let header = Header {
                number: self.header.number + 1,
                first_seq: self.seq,
                created_ms: now_ms,
                ..self.header
            };
            let path = path_of(&self.dir, header.number, 0);
            Ok((create(&self.disk, &self.dir, &path, &header)?, header))
        });
        let (file, header) = sealed.inspect_err(|_| self.failed = true)?;
        let sealed = Sealed {
            disk: self.disk.clone(),
            path: self.file.path().to_owned(),
            header: self.header,
            directory,
            directory_at: self.end + slots as u64,
            bytes: self.end + footer.len() as u64,
        };
        (self.file, self.header, self.end) = (Arc::new(file), header, FILE_HEADER as u64);
        Ok(Rotation::Done(Arc::new(sealed)))
    }
}

/// Makes the file of a segment, durable with its name.
fn create(disk: &Disk, dir: &Path, path: &Path, header: &Header) -> io::Result<DiskFile> {
    let file = disk.create(path)?;
    file.write_all_at(&header.encode(), 0)?;
    file.sync_all()?;
    disk.sync_directory(dir)?;
    Ok(file)
}

/// Makes the frames of the last segment durable before anybody sees them. A killed process may not have synced
/// them; after a failed sync the system may hold them in memory as if it had. So what no later frame vouches
/// for is written once more.
fn settle(file: &DiskFile, bytes: &[u8], scan: &Scan) -> io::Result<()> {
    let at = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let unsure = bytes.get(at(scan.unsure_from)..at(scan.end)).unwrap_or_default();
    if !unsure.is_empty() {
        file.write_all_at(unsure, scan.unsure_from)?;
    }
    file.sync_all()
}

/// Reads every segment; changes nothing.
pub(crate) fn read_all(
    disk: &Disk,
    dir: &Path,
    salt: u64,
    now_ms: i64,
    segments: &BTreeMap<u64, BTreeSet<u32>>,
    visit: &mut impl FnMut(Found<'_>) -> Result<(), String>,
) -> Result<Last, JournalError> {
    let fresh = |number, first_seq| {
        let header = Header { salt, number, generation: 0, first_seq, created_ms: now_ms };
        Last { path: path_of(dir, number, 0), header, found: None, torn_header: 0 }
    };
    let count = segments.len() as u64;
    let mut seq = 0;
    for (number, generations) in segments {
        let newest = generations.last().copied().unwrap_or(0);
        let path = path_of(dir, *number, newest);
        let io = |source| JournalError::Io { path: path.clone(), source };
        let damaged = |at, what: &str| JournalError::damaged(&path, at, what);
        match read_segment(disk, &path, salt, *number)? {
            Read::Sealed(found) => {
                if found.header.first_seq != seq || found.header.generation != newest {
                    return Err(damaged(0, "it does not follow the segment before it"));
                }
                seq = found.directory.end_seq;
                visit(Found::Sealed(Arc::new(found))).map_err(|what| damaged(0, &what))?;
            }
            Read::Unsealed(header) if *number == count && newest == 0 && header.first_seq == seq => {
                let file = disk.open(&path, false).map_err(io)?;
                let length = usize::try_from(file.len().map_err(io)?).unwrap_or(usize::MAX);
                let bytes = file.read_at(0, length).map_err(io)?;
                let scan = segment::scan(&bytes, &header, &mut |frame| visit(Found::Frame(frame)))
                    .map_err(|(at, what)| damaged(at, &what))?;
                return Ok(Last { path, header, found: Some((bytes, scan)), torn_header: 0 });
            }
            Read::Torn if *number == count && newest == 0 => {
                let bytes = std::fs::metadata(&path).map_err(io)?.len();
                return Ok(Last { torn_header: bytes, ..fresh(*number, seq) });
            }
            Read::Unsealed(_) => return Err(damaged(0, "its end is missing or damaged")),
            Read::Torn => return Err(damaged(0, "its beginning is missing")),
        }
    }
    Ok(fresh(count + 1, seq))
}

/// Older generations of segments, and drafts. What cannot be removed now goes next time.
fn remove_leftovers(disk: &Disk, dir: &Path, segments: &BTreeMap<u64, BTreeSet<u32>>) {
    let older = segments.iter().flat_map(|(number, generations)| {
        let newest = generations.last().copied().unwrap_or(0);
        generations.iter().filter(move |older| **older < newest).map(|older| path_of(dir, *number, *older))
    });
    let drafts = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let drafts = drafts.filter(|path| path.extension().is_some_and(|extension| extension == "new"));
    for path in older.chain(drafts) {
        if let Err(error) = disk.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "a file that is no longer needed stays");
        }
    }
}

#[cfg(test)]
mod tests;
