//! What readers see: which record lies where, and what groups have done. Only what is durable gets in here.
//!
//! Of sealed segments only the ranges are in memory (some 40 bytes per segment and partition); where each of
//! their records lies is read from their footer. Of the last segment every record is in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use p2_core::record::Topic;
use p2_stream::groups::{Groups, Lane};
use p2_stream::ports::{LogError, StoredRecord};

use crate::codec::{self, FoundBatch};
use crate::disk::DiskFile;
use crate::journal::Sealed;
use crate::segment::{LaneSlots, SLOT, Slot, decode_slots};

/// Bytes after which a read ends.
pub(crate) const READ_BYTES_MAX: u64 = 1 << 20;
/// Records that lie near each other are read in one go, of so many bytes at most.
const CHUNK_BYTES_MAX: u64 = 64 << 10;
/// So much between two of them is read along.
const GAP_BYTES_MAX: u64 = 4 << 10;

/// Records of one partition in one sealed segment.
#[derive(Clone, Debug)]
struct Run {
    first: i64,
    end: i64,
    slots_at: u64,
    segment: Arc<Sealed>,
}

/// One partition.
#[derive(Clone, Debug, Default)]
struct LaneIndex {
    /// The first offset kept.
    start: i64,
    /// In sealed segments, ascending and without gaps.
    runs: Vec<Run>,
    /// The first offset in the last segment.
    base: i64,
    slots: Vec<Slot>,
}

impl LaneIndex {
    fn end(&self) -> i64 {
        self.base + self.slots.len() as i64
    }
}

/// The index, and the groups.
#[derive(Debug)]
pub(crate) struct Visible {
    pub(crate) partitions: BTreeMap<Topic, i32>,
    pub(crate) groups: Groups,
    lanes: BTreeMap<Lane, LaneIndex>,
    /// The last segment.
    active: Option<Arc<DiskFile>>,
}

/// Where records lie.
#[derive(Debug)]
pub(crate) enum Place {
    /// In the last segment.
    Active(Arc<DiskFile>, Vec<Slot>),
    /// In a sealed segment: where their slots begin, and how many.
    Sealed(Arc<Sealed>, u64, usize),
    Nowhere,
}

impl Visible {
    pub(crate) fn new(partitions: BTreeMap<Topic, i32>) -> Visible {
        Visible { partitions, groups: Groups::default(), lanes: BTreeMap::new(), active: None }
    }

    pub(crate) fn partitions(&self, topic: Topic) -> i32 {
        self.partitions.get(&topic).copied().unwrap_or(0)
    }

    pub(crate) fn start(&self, lane: Lane) -> i64 {
        self.lanes.get(&lane).map_or(0, |index| index.start)
    }

    pub(crate) fn end(&self, lane: Lane) -> i64 {
        self.lanes.get(&lane).map_or(0, LaneIndex::end)
    }

    /// The end of a partition, for members, whose borrow of the groups is mutable.
    pub(crate) fn ready(&mut self, member: u64) -> Option<(Lane, i64)> {
        let lanes = &self.lanes;
        self.groups.ready(member, |lane| lanes.get(&lane).map_or(0, LaneIndex::end))
    }

    /// Records of all partitions.
    pub(crate) fn records(&self) -> u64 {
        self.lanes.values().map(|index| u64::try_from(index.end() - index.start).unwrap_or(0)).sum()
    }

    /// Takes the batches of one frame in.
    pub(crate) fn take(&mut self, payload_at: u64, batches: Vec<FoundBatch>) -> Result<(), String> {
        for batch in batches {
            for found in batch.records {
                let index = self.lanes.entry((found.topic, found.partition)).or_default();
                follows((found.topic, found.partition), found.offset, index.end())?;
                index.slots.push(Slot { at: payload_at + found.at as u64, length: found.length });
            }
            self.groups.note(&batch.group, &batch.progress);
        }
        Ok(())
    }

    /// Takes a sealed segment in, while opening.
    pub(crate) fn take_sealed(&mut self, segment: &Arc<Sealed>) -> Result<(), String> {
        for lane in &segment.directory.lanes {
            let index = self.lanes.entry(lane.lane).or_default();
            follows(lane.lane, lane.first, index.base)?;
            index.base = lane.end;
            if lane.kept {
                let (first, end, slots_at) = (lane.first, lane.end, lane.slots_at);
                index.runs.push(Run { first, end, slots_at, segment: Arc::clone(segment) });
            } else if index.runs.is_empty() {
                index.start = lane.end;
            } else {
                let (topic, partition) = (lane.lane.0.name(), lane.lane.1);
                return Err(format!("{topic} partition {partition}: records between others were deleted"));
            }
        }
        for (group, topic, partition, committed) in &segment.directory.progress {
            self.groups.note(group, &[(*topic, *partition, committed.clone())]);
        }
        Ok(())
    }

    /// The records of the last segment, for its footer.
    pub(crate) fn active_lanes(&self) -> Vec<LaneSlots> {
        let used = self.lanes.iter().filter(|(_, index)| !index.slots.is_empty());
        used.map(|(lane, index)| LaneSlots {
            lane: *lane,
            first: index.base,
            end: index.end(),
            slots: Some(index.slots.clone()),
        })
        .collect()
    }

    /// The last segment is sealed, and another one is the last.
    pub(crate) fn sealed(&mut self, segment: &Arc<Sealed>, next: Arc<DiskFile>) {
        for lane in &segment.directory.lanes {
            let index = self.lanes.entry(lane.lane).or_default();
            let (first, end, slots_at) = (lane.first, lane.end, lane.slots_at);
            index.runs.push(Run { first, end, slots_at, segment: Arc::clone(segment) });
            index.base = end;
            index.slots = Vec::new();
        }
        self.active = Some(next);
    }

    /// The segment that is written after opening.
    pub(crate) fn begins(&mut self, file: Arc<DiskFile>) {
        self.active = Some(file);
    }

    /// Sealed segments that have records, ascending.
    pub(crate) fn sealed_segments(&self) -> Vec<Arc<Sealed>> {
        let runs = self.lanes.values().flat_map(|index| &index.runs);
        let found: BTreeMap<u64, Arc<Sealed>> =
            runs.map(|run| (run.segment.header.number, Arc::clone(&run.segment))).collect();
        found.into_values().collect()
    }

    /// A segment was written again with fewer records.
    pub(crate) fn replaced(&mut self, segment: &Arc<Sealed>) {
        for lane in &segment.directory.lanes {
            let Some(index) = self.lanes.get_mut(&lane.lane) else { continue };
            if lane.kept {
                let number = segment.header.number;
                for run in index.runs.iter_mut().filter(|run| run.segment.header.number == number) {
                    run.segment = Arc::clone(segment);
                    run.slots_at = lane.slots_at;
                }
            } else {
                index.runs.retain(|run| run.first != lane.first);
                index.start = index.start.max(lane.end);
            }
        }
        self.groups.wake_all();
    }

    /// Where the records from an offset on lie: some of them, at most `records_max`.
    pub(crate) fn place(&self, lane: Lane, from: i64, records_max: usize) -> Result<Place, LogError> {
        let Some(index) = self.lanes.get(&lane) else { return Ok(Place::Nowhere) };
        let from = from.max(0);
        if from < index.start {
            return Err(LogError::before_start(lane.0, lane.1, from, index.start));
        }
        let ahead = |from: i64, first: i64| usize::try_from(from - first).unwrap_or(usize::MAX);
        if from >= index.base {
            let Some(file) = &self.active else { return Ok(Place::Nowhere) };
            let slots = index.slots.get(ahead(from, index.base)..).unwrap_or_default();
            return Ok(Place::Active(Arc::clone(file), fitting(slots, records_max)));
        }
        let run = index.runs.partition_point(|run| run.end <= from);
        let Some(run) = index.runs.get(run) else { return Ok(Place::Nowhere) };
        let skipped = ahead(from, run.first);
        let count = ahead(run.end, from).min(records_max);
        let slots_at = run.slots_at + skipped as u64 * SLOT as u64;
        Ok(Place::Sealed(Arc::clone(&run.segment), slots_at, count))
    }
}

fn follows(lane: Lane, offset: i64, end: i64) -> Result<(), String> {
    if offset == end {
        return Ok(());
    }
    Err(format!("{} partition {}: offset {offset} follows {end}", lane.0.name(), lane.1))
}

/// As many slots as a read takes.
fn fitting(slots: &[Slot], records_max: usize) -> Vec<Slot> {
    let mut bytes = 0;
    let fits = |slot: &&Slot| {
        let first = bytes == 0;
        bytes += u64::from(slot.length);
        first || bytes <= READ_BYTES_MAX
    };
    slots.iter().take(records_max).take_while(fits).copied().collect()
}

/// Reads the records at a place.
///
/// # Errors
/// None where the file is gone: retention has written it again, so its place has to be looked up anew.
pub(crate) fn read_place(
    place: Place,
    lane: Lane,
    from: i64,
    records_max: usize,
) -> Result<Option<Vec<StoredRecord>>, LogError> {
    let away = |path: &std::path::Path, error: io::Error| {
        LogError::Unavailable(format!("{}: {error}", path.display()))
    };
    match place {
        Place::Nowhere => Ok(Some(Vec::new())),
        Place::Active(file, slots) => read_slots(&file, lane, from, &slots).map(Some),
        Place::Sealed(segment, slots_at, count) => {
            let file = match segment.open() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => opened.map_err(|error| away(&segment.path, error))?,
            };
            let bytes = file.read_at(slots_at, count * SLOT).map_err(|error| away(&segment.path, error))?;
            read_slots(&file, lane, from, &fitting(&decode_slots(&bytes), records_max)).map(Some)
        }
    }
}

fn read_slots(file: &DiskFile, lane: Lane, from: i64, slots: &[Slot]) -> Result<Vec<StoredRecord>, LogError> {
    let mut found = Vec::with_capacity(slots.len());
    let (mut chunk_at, mut chunk) = (0, Vec::new());
    let mut left = slots;
    for (slot, offset) in slots.iter().zip(from.max(0)..) {
        if part(&chunk, chunk_at, *slot).is_none() {
            let length = usize::try_from(near(left).saturating_sub(slot.at)).unwrap_or(0);
            // Where it cannot be read, the record says why.
            (chunk_at, chunk) = (slot.at, file.read_at(slot.at, length).unwrap_or_default());
        }
        found.push(match part(&chunk, chunk_at, *slot) {
            Some(bytes) => checked(file, lane, offset, *slot, bytes)?,
            None => read_record(file, lane, offset, *slot)?,
        });
        left = left.get(1..).unwrap_or_default();
    }
    Ok(found)
}

/// Where the records end that lie near the first one: a few of other lanes in between cost less than another read.
fn near(slots: &[Slot]) -> u64 {
    let from = slots.first().map_or(0, |first| first.at);
    let mut near = from;
    for slot in slots {
        let end = slot.at.saturating_add(u64::from(slot.length));
        if slot.at < near || slot.at - near > GAP_BYTES_MAX || end - from > CHUNK_BYTES_MAX {
            break;
        }
        near = end;
    }
    near
}

/// A record's bytes in a chunk of the file.
fn part(chunk: &[u8], chunk_at: u64, slot: Slot) -> Option<&[u8]> {
    let at = usize::try_from(slot.at.checked_sub(chunk_at)?).ok()?;
    chunk.get(at..at.checked_add(slot.length as usize)?)
}

fn corrupt(file: &DiskFile, slot: Slot, what: &str) -> LogError {
    let path = file.path().display();
    LogError::Corrupt(format!("{path}: {what} at byte {}: restore the file from a copy", slot.at))
}

/// Reads one record and checks that it is the one that was looked for.
pub(crate) fn read_record(
    file: &DiskFile,
    lane: Lane,
    offset: i64,
    slot: Slot,
) -> Result<StoredRecord, LogError> {
    let corrupt = |what: &str| corrupt(file, slot, what);
    if slot.length as usize > crate::BATCH_BYTES_MAX {
        return Err(corrupt("a length that cannot be"));
    }
    let bytes = match file.read_at(slot.at, slot.length as usize) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(corrupt("the file ends")),
        Err(error) => return Err(LogError::Unavailable(format!("{}: {error}", file.path().display()))),
    };
    checked(file, lane, offset, slot, &bytes)
}

/// The record in these bytes, where it is the one that was looked for.
fn checked(
    file: &DiskFile,
    lane: Lane,
    offset: i64,
    slot: Slot,
    bytes: &[u8],
) -> Result<StoredRecord, LogError> {
    let corrupt = |what: &str| corrupt(file, slot, what);
    let stored = codec::decode_record(bytes).map_err(|what| corrupt(&what))?;
    let found = stored.position();
    if (found.topic, found.partition, found.offset) != (lane.0, lane.1, offset) {
        return Err(corrupt("another record"));
    }
    Ok(stored)
}
