//! The form of a segment: one file of the log.
//!
//! ```text
//! segment   = header frame*                          while it is written: the last one
//!           | header frame* footer                   sealed
//!           | header record* footer                  sealed, and written again by retention (generation > 0)
//! header    = "P2JOURNL" version:u32 salt:u64 number:u64 generation:u32 first_seq:u64 created:i64 crc:u32
//! frame     = length:u32 seq:u64 synced:u64 payload_crc:u32 header_crc:u32 payload[length]
//! footer    = slot* directory directory_at:u64 length:u32 crc:u32 "P2SEALED"
//! slot      = at:u64 length:u32                                         (of a record, from its length on)
//! directory = lanes:u32 lane* progress:u32 progress* end_seq:u64 sealed:i64
//! lane      = topic:u8 partition:i32 first:i64 end:i64 kept:u8 slots_at:u64 slots_crc:u32
//! progress  = group:text topic:u8 partition:i32 offset:i64 metadata:text
//! ```
//!
//! All integers are little-endian; times are milliseconds since the epoch. A frame is one group commit; its
//! `header_crc` is the crc32c of the salt and the 24 bytes before it, so no payload can pass for a frame.
//! `synced` is the number of frames that were on the disk when this one was written: a damaged frame below the
//! `synced` of any later one was acknowledged, and the file is refused; otherwise it is the torn tail of a group
//! commit that nobody was told about. The crc of the footer covers salt, number, generation and directory.
//! `progress` in the directory is that of all groups at the end of the segment.

use p2_core::record::Topic;
use p2_stream::groups::Lane;
use p2_stream::ports::CommittedOffset;

use crate::codec::{self, Reader};

/// The version of the segments that this code writes, and the newest one that it reads.
pub(crate) const FORMAT_VERSION: u32 = 2;

const MAGIC: &[u8; 8] = b"P2JOURNL";
const SEALED: &[u8; 8] = b"P2SEALED";
/// Bytes of a file header.
pub(crate) const FILE_HEADER: usize = 52;
/// Bytes of a frame header.
pub(crate) const FRAME_HEADER: usize = 28;
/// Bytes at the end of a sealed segment.
pub(crate) const TRAILER: usize = 24;
/// Bytes of a slot in a footer.
pub(crate) const SLOT: usize = 12;

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) salt: u64,
    /// Segments are numbered from 1, without gaps.
    pub(crate) number: u64,
    /// How often retention has written it again.
    pub(crate) generation: u32,
    /// Frames in the segments before it.
    pub(crate) first_seq: u64,
    pub(crate) created_ms: i64,
}

/// Why bytes are no header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Only the beginning of one: its file was being made.
    Torn,
    /// Of this newer version.
    Newer(u32),
    /// This does not fit.
    Bad(&'static str),
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FILE_HEADER);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend(self.salt.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend(self.first_seq.to_le_bytes());
        bytes.extend(self.created_ms.to_le_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the header at the beginning of a file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
        let known: Vec<u8> = MAGIC.iter().copied().chain(FORMAT_VERSION.to_le_bytes()).collect();
        let Some(header) = bytes.get(..FILE_HEADER) else {
            let torn = known.iter().zip(bytes).all(|(known, found)| known == found);
            return Err(if torn { HeaderError::Torn } else { HeaderError::Bad("this is no part of a log") });
        };
        if header.get(..8) != Some(MAGIC) {
            return Err(HeaderError::Bad("this is no part of a log"));
        }
        let mut reader = Reader::new(header.get(8..).unwrap_or_default());
        let mut read = || {
            let version = reader.u32()?;
            let (salt, number, generation) = (reader.u64()?, reader.u64()?, reader.u32()?);
            let (first_seq, created_ms, crc) = (reader.u64()?, reader.i64()?, reader.u32()?);
            Ok::<_, String>((version, Header { salt, number, generation, first_seq, created_ms }, crc))
        };
        let Ok((version, found, crc)) = read() else { return Err(HeaderError::Torn) };
        if version > FORMAT_VERSION {
            return Err(HeaderError::Newer(version));
        }
        if version < FORMAT_VERSION || header.get(..FILE_HEADER - 4).map(crc32c::crc32c) != Some(crc) {
            return Err(HeaderError::Bad("the checksum of the file header does not fit"));
        }
        Ok(found)
    }
}

/// Encodes a frame.
pub(crate) fn encode_frame(salt: u64, seq: u64, synced: u64, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok()?;
    let mut frame = Vec::with_capacity(FRAME_HEADER + payload.len());
    frame.extend(length.to_le_bytes());
    frame.extend(seq.to_le_bytes());
    frame.extend(synced.to_le_bytes());
    frame.extend(crc32c::crc32c(payload).to_le_bytes());
    frame.extend(salted(salt, &frame).to_le_bytes());
    frame.extend(payload);
    Some(frame)
}

fn salted(salt: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), bytes)
}

/// A frame that was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    /// Where its payload begins in the file.
    pub(crate) payload_at: u64,
    /// The payload.
    pub(crate) payload: &'a [u8],
}

/// What a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Where the whole frames end.
    pub(crate) end: u64,
    /// The number of the next frame.
    pub(crate) seq: u64,
    /// Where the first frame begins that no later one says was on the disk.
    pub(crate) unsure_from: u64,
    /// Something lies behind the whole frames.
    pub(crate) torn: bool,
}

/// Where something is damaged, and how.
pub(crate) type Damage = (u64, String);

/// Reads the frames of a segment (`bytes`: the file from its beginning, up to the footer) and hands them to
/// `visit`.
///
/// # Errors
/// Damage below acknowledged frames; what `visit` refuses.
pub(crate) fn scan(
    bytes: &[u8],
    header: &Header,
    visit: &mut impl FnMut(&Frame<'_>) -> Result<(), String>,
) -> Result<Scan, Damage> {
    let (salt, mut seq) = (header.salt, header.first_seq);
    let mut at = FILE_HEADER;
    let (mut starts, mut synced) = (Vec::new(), seq);
    let mut torn = false;
    while at < bytes.len() {
        let (payload, next, known) = match read_frame(bytes, at, salt, seq) {
            Ok(found) => found,
            Err(what) if was_acknowledged(bytes, at, salt, seq) => return Err((at as u64, what.to_owned())),
            Err(_) => {
                torn = true;
                break;
            }
        };
        visit(&Frame { payload_at: (at + FRAME_HEADER) as u64, payload })
            .map_err(|what| (at as u64, what))?;
        starts.push(at as u64);
        synced = synced.max(known);
        seq += 1;
        at = next;
    }
    let sure = usize::try_from(synced.saturating_sub(header.first_seq)).unwrap_or(usize::MAX);
    let unsure_from = starts.get(sure).copied().unwrap_or(at as u64);
    Ok(Scan { end: at as u64, seq, unsure_from, torn })
}

/// (payload, where the next frame begins, its `synced`).
fn read_frame(bytes: &[u8], at: usize, salt: u64, seq: u64) -> Result<(&[u8], usize, u64), &'static str> {
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
    Ok((payload, next, header.synced))
}

struct FrameHeader {
    length: usize,
    seq: u64,
    synced: u64,
    payload_crc: u32,
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

// --------------------------------------------------------------------------------------------- footer

/// Where one record lies in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) at: u64,
    pub(crate) length: u32,
}

/// Reads the slots of a footer.
pub(crate) fn decode_slots(bytes: &[u8]) -> Vec<Slot> {
    let slots = bytes.chunks_exact(SLOT);
    slots.filter_map(|slot| Some(Slot { at: u64_at(slot, 0)?, length: u32_at(slot, 8)? })).collect()
}

/// The records of one partition in a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SealedLane {
    pub(crate) lane: Lane,
    /// Its first offset here.
    pub(crate) first: i64,
    /// The offset after its last one here.
    pub(crate) end: i64,
    /// Retention has not removed them.
    pub(crate) kept: bool,
    /// Where their slots lie in the file.
    pub(crate) slots_at: u64,
    pub(crate) slots_crc: u32,
}

/// A group's progress in one partition.
pub(crate) type GroupProgress = (String, Topic, i32, CommittedOffset);

/// The directory of a sealed segment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Directory {
    pub(crate) lanes: Vec<SealedLane>,
    pub(crate) progress: Vec<GroupProgress>,
    pub(crate) end_seq: u64,
    pub(crate) sealed_ms: i64,
}

/// The records of one partition that go into a footer.
#[derive(Clone, Debug)]
pub(crate) struct LaneSlots {
    pub(crate) lane: Lane,
    pub(crate) first: i64,
    pub(crate) end: i64,
    /// One per record; none where they are removed.
    pub(crate) slots: Option<Vec<Slot>>,
}

/// Encodes a footer that begins at `at` in its file, and the directory as it will be read.
pub(crate) fn encode_footer(
    header: &Header,
    at: u64,
    lanes: &[LaneSlots],
    progress: Vec<GroupProgress>,
    end_seq: u64,
    sealed_ms: i64,
) -> Result<(Vec<u8>, Directory), String> {
    let mut footer = Vec::new();
    let mut sealed = Vec::with_capacity(lanes.len());
    for LaneSlots { lane, first, end, slots } in lanes {
        let slots_at = at + footer.len() as u64;
        let from = footer.len();
        for slot in slots.iter().flatten() {
            footer.extend(slot.at.to_le_bytes());
            footer.extend(slot.length.to_le_bytes());
        }
        let slots_crc = crc32c::crc32c(footer.get(from..).unwrap_or_default());
        let kept = slots.is_some();
        sealed.push(SealedLane { lane: *lane, first: *first, end: *end, kept, slots_at, slots_crc });
    }
    let directory = Directory { lanes: sealed, progress, end_seq, sealed_ms };
    let directory_at = at + footer.len() as u64;
    let bytes = encode_directory(&directory)?;
    footer.extend(&bytes);
    footer.extend(directory_at.to_le_bytes());
    footer.extend(u32::try_from(bytes.len()).map_err(|_| "a directory over 4 GiB".to_owned())?.to_le_bytes());
    footer.extend(directory_crc(header, directory_at, &bytes).to_le_bytes());
    footer.extend(SEALED);
    Ok((footer, directory))
}

fn encode_directory(directory: &Directory) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    codec::put_count(&mut bytes, directory.lanes.len())?;
    for lane in &directory.lanes {
        bytes.push(codec::code(lane.lane.0));
        bytes.extend(lane.lane.1.to_le_bytes());
        bytes.extend(lane.first.to_le_bytes());
        bytes.extend(lane.end.to_le_bytes());
        bytes.push(u8::from(lane.kept));
        bytes.extend(lane.slots_at.to_le_bytes());
        bytes.extend(lane.slots_crc.to_le_bytes());
    }
    codec::put_count(&mut bytes, directory.progress.len())?;
    for (group, topic, partition, committed) in &directory.progress {
        codec::put_text(&mut bytes, group.as_bytes())?;
        codec::put_progress(&mut bytes, *topic, *partition, committed)?;
    }
    bytes.extend(directory.end_seq.to_le_bytes());
    bytes.extend(directory.sealed_ms.to_le_bytes());
    Ok(bytes)
}

fn directory_crc(header: &Header, at: u64, bytes: &[u8]) -> u32 {
    let mut crc = salted(header.salt, &header.number.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &header.generation.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &at.to_le_bytes());
    crc32c::crc32c_append(crc, bytes)
}

/// Reads the trailer (the last [`TRAILER`] bytes of a file): where the directory begins, and how long it is.
/// None where the file is not sealed.
pub(crate) fn decode_trailer(trailer: &[u8], file_length: u64) -> Option<(u64, usize, u32)> {
    if trailer.len() != TRAILER || trailer.get(16..) != Some(SEALED) {
        return None;
    }
    let (at, length, crc) = (u64_at(trailer, 0)?, u32_at(trailer, 8)?, u32_at(trailer, 12)?);
    let fits = at.checked_add(u64::from(length))?.checked_add(TRAILER as u64)? == file_length;
    (fits && at >= FILE_HEADER as u64).then_some((at, length as usize, crc))
}

/// Reads a directory.
///
/// # Errors
/// A sentence that says what does not fit.
pub(crate) fn decode_directory(
    header: &Header,
    at: u64,
    bytes: &[u8],
    crc: u32,
) -> Result<Directory, String> {
    if directory_crc(header, at, bytes) != crc {
        return Err("the checksum of the directory does not fit".to_owned());
    }
    let mut reader = Reader::new(bytes);
    let mut lanes = Vec::new();
    for _ in 0..reader.u32()? {
        let lane = (reader.topic()?, reader.i32()?);
        let (first, end, [kept]) = (reader.i64()?, reader.i64()?, reader.array()?);
        let (slots_at, slots_crc) = (reader.u64()?, reader.u32()?);
        lanes.push(SealedLane { lane, first, end, kept: kept != 0, slots_at, slots_crc });
    }
    let mut progress = Vec::new();
    for _ in 0..reader.u32()? {
        let group = reader.text()?;
        let (topic, partition, committed) = reader.progress()?;
        progress.push((group, topic, partition, committed));
    }
    Ok(Directory { lanes, progress, end_seq: reader.u64()?, sealed_ms: reader.i64()? })
}
