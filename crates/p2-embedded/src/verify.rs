//! Reads every byte of a log and checks it. Changes nothing.

use std::path::Path;

use crate::disk::Disk;
use crate::index::{Visible, read_record};
use crate::journal::{self, DroppedTail, Found, Sealed};
use crate::segment::{self, SLOT, decode_slots};
use crate::{OpenError, codec, format, lock};

/// What a full check of a data directory's log found: no damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Segments.
    pub segments: u64,
    /// Records that are kept.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The torn tail of a commit that was never acknowledged, which the next opening will drop.
    pub torn: Option<DroppedTail>,
}

/// Checks the log of a data directory that nobody has open: every checksum, every record's place and the order
/// of offsets, in sealed segments too, of which [`crate::Embedded::open`] reads the directory only.
///
/// # Errors
/// [`OpenError`]: the first damage that is found. No byte of the log is changed.
pub fn verify(dir: impl AsRef<Path>) -> Result<Verified, OpenError> {
    let dir = dir.as_ref();
    let _lock = lock(dir)?;
    let path = dir.join("format");
    let missing = || OpenError::Format { path: path.clone(), what: "there is no data directory".to_owned() };
    let format = format::read(&path, None)?.ok_or_else(missing)?;
    let (disk, log) = (Disk::default(), dir.join("log"));
    let mut verified = Verified::default();
    let mut visible = Visible::new(format.partitions.clone());
    let last =
        journal::read_all(&disk, &log, format.salt(), 0, &journal::list(&log)?, &mut |found| match found {
            Found::Sealed(segment) => {
                verified.segments += 1;
                verified.bytes += segment.bytes;
                visible.take_sealed(&segment)?;
                check_sealed(&segment, &mut verified.records)
            }
            Found::Frame(frame) => {
                let batches = codec::decode_payload(frame.payload)?;
                verified.records += check_records(frame.payload, &batches)?;
                visible.take(frame.payload_at, batches)
            }
        })?;
    if let Some((bytes, scan)) = &last.found {
        let length = bytes.len() as u64;
        verified.segments += 1;
        verified.bytes += length;
        let segment = last.header.number;
        verified.torn = scan.torn.then_some(DroppedTail { segment, at: scan.end, bytes: length - scan.end });
    } else if last.torn_header > 0 {
        let segment = last.header.number;
        verified.torn = Some(DroppedTail { segment, at: 0, bytes: last.torn_header });
    }
    Ok(verified)
}

/// The records of a payload read back; returns how many.
fn check_records(payload: &[u8], batches: &[codec::FoundBatch]) -> Result<u64, String> {
    let mut count = 0;
    for found in batches.iter().flat_map(|batch| &batch.records) {
        codec::decode_record(payload.get(found.at..).unwrap_or_default())?;
        count += 1;
    }
    Ok(count)
}

fn check_sealed(segment: &Sealed, records: &mut u64) -> Result<(), String> {
    let file = segment.open().map_err(|error| error.to_string())?;
    for lane in segment.directory.lanes.iter().filter(|lane| lane.kept) {
        let count =
            usize::try_from(lane.end - lane.first).map_err(|_| "a range that cannot be".to_owned())?;
        let bytes = file.read_at(lane.slots_at, count * SLOT).map_err(|error| error.to_string())?;
        if crc32c::crc32c(&bytes) != lane.slots_crc {
            return Err(format!("the checksum of the slots at byte {} does not fit", lane.slots_at));
        }
        for (offset, slot) in (lane.first..).zip(decode_slots(&bytes)) {
            read_record(&file, lane.lane, offset, slot).map_err(|error| error.to_string())?;
            *records += 1;
        }
    }
    if segment.header.generation > 0 {
        return Ok(());
    }
    // As it was written: its frames are whole and follow each other up to the footer.
    let slots =
        segment.directory.lanes.iter().map(|lane| lane.slots_at).min().unwrap_or(segment.directory_at);
    let length = usize::try_from(slots).unwrap_or(usize::MAX);
    let bytes = file.read_at(0, length).map_err(|error| error.to_string())?;
    let scan = segment::scan(&bytes, &segment.header, &mut |_| Ok(()))
        .map_err(|(at, what)| format!("{what} at byte {at}"))?;
    if scan.torn || scan.seq != segment.directory.end_seq {
        return Err(format!("the frames end at byte {}, before the footer", scan.end));
    }
    Ok(())
}
