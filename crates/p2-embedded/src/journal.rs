//! The journal: one append-only file of checksummed frames. A frame is one group commit.
//!
//! ```text
//! file   = header frame*
//! header = "P2JOURNL" version:u32 salt:u64 crc:u32                      (crc32c of the 20 bytes before it)
//! frame  = length:u32 seq:u64 synced:u64 payload_crc:u32 header_crc:u32 payload[length]
//! ```
//!
//! All integers are little-endian. `header_crc` is the crc32c of the salt and the 24 bytes before it, so no
//! payload can pass for a frame. `synced` is the number of frames that were on the disk when this one was
//! written: a damaged frame below the `synced` of any later one was acknowledged, and the file is refused;
//! otherwise it is the torn tail of a group commit that nobody was told about, and it is dropped.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The version of the journal's format that this code writes, and the newest one that it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"P2JOURNL";
const FILE_HEADER: usize = 24;
const FRAME_HEADER: usize = 28;

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
        "{path}: damaged at byte {at} ({what}), with acknowledged records behind it: restore the file from a copy; nothing was changed"
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

/// The torn tail that an opening dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedTail {
    /// Where it began.
    pub at: u64,
    /// How long it was.
    pub bytes: u64,
}

/// An open journal. One writer; any number of readers through [`Journal::file`].
#[derive(Debug)]
pub(crate) struct Journal {
    file: Arc<File>,
    path: PathBuf,
    salt: u64,
    /// Where the next frame goes.
    end: u64,
    /// Frames written.
    seq: u64,
    /// Frames known to be on the disk.
    synced: u64,
}

/// A frame found while opening.
pub(crate) struct Frame<'a> {
    /// Where its payload begins in the file.
    pub(crate) payload_at: u64,
    /// The payload.
    pub(crate) payload: &'a [u8],
}

struct FrameHeader {
    length: usize,
    seq: u64,
    synced: u64,
    payload_crc: u32,
}

/// What was read of an existing file before anything is changed.
struct Scan {
    salt: u64,
    end: u64,
    frames: u64,
    torn: bool,
}

impl Journal {
    /// Opens or makes the journal at `path` and hands every whole frame to `visit`, in order. A torn tail is
    /// cut off and reported; `salt` is used for a new file only.
    ///
    /// # Errors
    /// [`JournalError`]; `visit` refuses a frame with a sentence. The file is then as it was.
    pub(crate) fn open(
        path: &Path,
        salt: u64,
        mut visit: impl FnMut(&Frame<'_>) -> Result<(), String>,
    ) -> Result<(Journal, Option<DroppedTail>), JournalError> {
        let io = |source| JournalError::Io { path: path.to_owned(), source };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io(error)),
        };
        let scan = scan(path, &bytes, &mut visit)?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(io)?;
        let length = bytes.len() as u64;
        let (scan, fresh) = match scan {
            Some(scan) => (scan, false),
            None => (Scan { salt, end: FILE_HEADER as u64, frames: 0, torn: length > 0 }, true),
        };
        let dropped_at = if fresh { 0 } else { scan.end };
        let dropped = scan.torn.then(|| DroppedTail { at: dropped_at, bytes: length - dropped_at });
        if fresh {
            file.set_len(0).map_err(io)?;
            file.write_all_at(&file_header(salt), 0).map_err(io)?;
        } else if scan.torn {
            file.set_len(scan.end).map_err(io)?;
        }
        // Frames that a killed process wrote without syncing become durable here, before anybody sees them.
        file.sync_all().map_err(io)?;
        let journal = Journal {
            file: Arc::new(file),
            path: path.to_owned(),
            salt: scan.salt,
            end: scan.end,
            seq: scan.frames,
            synced: scan.frames,
        };
        Ok((journal, dropped))
    }

    /// The file, for readers.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Where the file lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one frame at the end and returns where its payload begins. Not durable before [`Journal::sync`].
    pub(crate) fn write(&mut self, payload: &[u8]) -> io::Result<u64> {
        let length = u32::try_from(payload.len()).map_err(|_| io::Error::other("frame over 4 GiB"))?;
        let mut frame = Vec::with_capacity(FRAME_HEADER + payload.len());
        frame.extend(length.to_le_bytes());
        frame.extend(self.seq.to_le_bytes());
        frame.extend(self.synced.to_le_bytes());
        frame.extend(crc32c::crc32c(payload).to_le_bytes());
        frame.extend(salted(self.salt, &frame).to_le_bytes());
        frame.extend(payload);
        if let Err(error) = self.file.write_all_at(&frame, self.end) {
            // Whatever part of it arrived must not lie before the next frame.
            self.file.set_len(self.end)?;
            return Err(error);
        }
        let payload_at = self.end + FRAME_HEADER as u64;
        self.end += frame.len() as u64;
        self.seq += 1;
        Ok(payload_at)
    }

    /// Where the next payload will begin.
    pub(crate) fn next_payload_at(&self) -> u64 {
        self.end + FRAME_HEADER as u64
    }

    /// Whether frames were written since the last sync.
    pub(crate) fn is_dirty(&self) -> bool {
        self.synced < self.seq
    }

    /// Makes every written frame durable (fdatasync).
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.synced = self.seq;
        Ok(())
    }
}

fn file_header(salt: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(FILE_HEADER);
    header.extend(MAGIC);
    header.extend(FORMAT_VERSION.to_le_bytes());
    header.extend(salt.to_le_bytes());
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    header
}

fn salted(salt: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), bytes)
}

/// Reads a whole file; `None` where it is empty or only the beginning of a header was written.
fn scan(
    path: &Path,
    bytes: &[u8],
    visit: &mut impl FnMut(&Frame<'_>) -> Result<(), String>,
) -> Result<Option<Scan>, JournalError> {
    let damaged = |at: usize, what: &str| JournalError::Damaged {
        path: path.to_owned(),
        at: at as u64,
        what: what.to_owned(),
    };
    let Some(salt) = read_file_header(path, bytes)? else { return Ok(None) };
    let mut at = FILE_HEADER;
    let mut frames = 0;
    while at < bytes.len() {
        let (payload, next) = match read_frame(bytes, at, salt, frames) {
            Ok(found) => found,
            Err(what) => {
                if was_acknowledged(bytes, at, salt, frames) {
                    return Err(damaged(at, what));
                }
                return Ok(Some(Scan { salt, end: at as u64, frames, torn: true }));
            }
        };
        let payload_at = (at + FRAME_HEADER) as u64;
        visit(&Frame { payload_at, payload }).map_err(|what| damaged(at, &what))?;
        frames += 1;
        at = next;
    }
    Ok(Some(Scan { salt, end: at as u64, frames, torn: false }))
}

fn read_file_header(path: &Path, bytes: &[u8]) -> Result<Option<u64>, JournalError> {
    let damaged = |what: &str| JournalError::Damaged { path: path.to_owned(), at: 0, what: what.to_owned() };
    let Some(header) = bytes.get(..FILE_HEADER) else {
        // The salt is random, so only magic and version can be compared.
        let known: Vec<u8> = MAGIC.iter().copied().chain(FORMAT_VERSION.to_le_bytes()).collect();
        let torn = known.iter().zip(bytes).all(|(known, found)| known == found);
        return if torn { Ok(None) } else { Err(damaged("not a journal")) };
    };
    if header.get(..8) != Some(MAGIC) {
        return Err(damaged("not a journal"));
    }
    let version = u32_at(header, 8).unwrap_or(0);
    if version > FORMAT_VERSION {
        return Err(JournalError::Newer { path: path.to_owned(), found: version });
    }
    if u32_at(header, 20) != header.get(..20).map(crc32c::crc32c) {
        return Err(damaged("the checksum of the file header does not fit"));
    }
    Ok(u64_at(header, 12))
}

fn read_frame(bytes: &[u8], at: usize, salt: u64, seq: u64) -> Result<(&[u8], usize), &'static str> {
    let header = read_frame_header(bytes, at, salt).ok_or("the checksum of a frame header does not fit")?;
    if header.seq != seq {
        return Err("a frame is out of order");
    }
    let from = at + FRAME_HEADER;
    let next = from + header.length;
    let payload = bytes.get(from..next).ok_or("a frame is cut short")?;
    if crc32c::crc32c(payload) != header.payload_crc {
        return Err("the checksum of a frame does not fit");
    }
    Ok((payload, next))
}

fn read_frame_header(bytes: &[u8], at: usize, salt: u64) -> Option<FrameHeader> {
    let header = bytes.get(at..at + FRAME_HEADER)?;
    if u32_at(header, 24)? != salted(salt, header.get(..24)?) {
        return None;
    }
    Some(FrameHeader {
        length: u32_at(header, 0)? as usize,
        seq: u64_at(header, 4)?,
        synced: u64_at(header, 12)?,
        payload_crc: u32_at(header, 20)?,
    })
}

/// Whether any frame header behind `at` says that frame `seq` was on the disk when it was written.
fn was_acknowledged(bytes: &[u8], at: usize, salt: u64, seq: u64) -> bool {
    let behind = bytes.get(at + 1..).unwrap_or_default();
    // The cheap look at `seq` comes first: hardly any other place passes it.
    let last = seq.saturating_add((behind.len() / FRAME_HEADER) as u64 + 1);
    behind
        .windows(FRAME_HEADER)
        .filter(|header| u64_at(header, 4).is_some_and(|found| found > seq && found <= last))
        .filter_map(|header| read_frame_header(header, 0, salt))
        .any(|header| header.seq > seq && header.synced > seq)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
