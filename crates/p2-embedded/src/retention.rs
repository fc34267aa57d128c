//! Retention: a sealed segment in which all records of a topic are beyond their retention is written again
//! without them.
//!
//! The age of a segment's records is the time since it was sealed: never more than their own. A record that a
//! group has still to process stays, whatever its age.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use p2_core::record::Topic;
use p2_stream::groups::Lane;
use p2_stream::ports::LogError;
use p2_stream::topics;

use crate::disk::{Disk, DiskFile};
use crate::index::read_record;
use crate::journal::{Sealed, path_of};
use crate::log::Shared;
use crate::segment::{self, Header, LaneSlots, SLOT, decode_slots};
use crate::writer::Request;

/// How often retention looks.
const EVERY: Duration = Duration::from_secs(3_600);
const DAY_MS: i64 = 86_400_000;

/// What retention removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Segments that were written again.
    pub segments: u64,
    /// Records that are gone.
    pub records: u64,
    /// Bytes that are free again.
    pub bytes: u64,
}

/// What the topics declare (`topics/*.toml`): milliseconds per topic; those that are kept for ever are missing.
pub(crate) fn declared() -> BTreeMap<Topic, i64> {
    let days = |topic: Topic| topics::spec(topic).ok()?.retention.strip_suffix('d')?.parse::<i64>().ok();
    Topic::ALL.into_iter().filter_map(|topic| Some((topic, days(topic)? * DAY_MS))).collect()
}

/// The groups that must have processed a topic's records before they may go: its declared consumers.
fn consumers(topic: Topic) -> Vec<String> {
    let declared = topics::spec(topic).map(|spec| spec.consumers).unwrap_or_default();
    declared.into_iter().filter(|name| name != "client").map(|name| format!("p2.{name}")).collect()
}

/// Removes what is beyond its retention.
#[derive(Clone, Debug)]
pub(crate) struct Expiry {
    pub(crate) shared: Arc<Shared>,
    pub(crate) requests: Sender<Request>,
    pub(crate) disk: Disk,
    /// Milliseconds per topic.
    pub(crate) retention: BTreeMap<Topic, i64>,
    /// The last segment is sealed when it is older than this, so that it gets old too.
    pub(crate) segment_ms: i64,
}

impl Expiry {
    /// Runs now and once an hour, until the sender is dropped.
    pub(crate) fn by_the_clock(&self, stop: &Receiver<()>) {
        loop {
            match self.run(p2_stream::shell::now_ms()) {
                Ok(Expired { segments: 0, .. }) => {}
                Ok(expired) => {
                    tracing::info!(expired.segments, expired.records, expired.bytes, "retention");
                }
                Err(error) => tracing::warn!(%error, "retention did not finish; it tries again in an hour"),
            }
            if stop.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    pub(crate) fn run(&self, now_ms: i64) -> Result<Expired, LogError> {
        let (reply, rotated) = mpsc::channel();
        let older_than_ms = now_ms.saturating_sub(self.segment_ms);
        let gone = || LogError::Unavailable(self.shared.gone());
        self.requests.send(Request::Rotate { older_than_ms, reply }).map_err(|_| gone())?;
        rotated.recv().map_err(|_| gone())?;
        let _rewriting = self.shared.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.stopped.get().is_some() {
            return Err(gone());
        }
        let mut expired = Expired::default();
        let mut blocked = BTreeSet::new();
        let segments = self.shared.visible().sealed_segments();
        for segment in segments {
            let topics = self.beyond(&segment, now_ms, &mut blocked);
            if topics.is_empty() {
                continue;
            }
            let next = self.rewrite(&segment, &topics).map_err(|error| match error {
                Failure::Log(error) => error,
                Failure::Io(error) => {
                    LogError::Unavailable(format!("{}: retention: {error}", segment.path.display()))
                }
            })?;
            let gone =
                segment.directory.lanes.iter().filter(|lane| lane.kept && topics.contains(&lane.lane.0));
            expired.records +=
                gone.map(|lane| u64::try_from(lane.end - lane.first).unwrap_or(0)).sum::<u64>();
            expired.bytes += segment.bytes.saturating_sub(next.bytes);
            expired.segments += 1;
            self.shared.visible().replaced(&Arc::new(next));
            // Readers look the place up anew; a file that stays is removed at the next opening.
            if let Err(error) = self.disk.remove(&segment.path) {
                tracing::warn!(path = %segment.path.display(), %error, "a file that is no longer needed stays");
            }
        }
        Ok(expired)
    }

    /// The topics of which nothing in this segment has to stay. A topic that has to stay in one segment stays in
    /// all later ones.
    fn beyond(&self, segment: &Sealed, now_ms: i64, blocked: &mut BTreeSet<Topic>) -> BTreeSet<Topic> {
        let kept = segment.directory.lanes.iter().filter(|lane| lane.kept);
        let mut ends: BTreeMap<Topic, Vec<(Lane, i64)>> = BTreeMap::new();
        for lane in kept {
            ends.entry(lane.lane.0).or_default().push((lane.lane, lane.end));
        }
        let mut found = BTreeSet::new();
        for (topic, lanes) in ends {
            let old = self
                .retention
                .get(&topic)
                .is_some_and(|retention| now_ms.saturating_sub(segment.directory.sealed_ms) >= *retention);
            let required = consumers(topic);
            let visible = self.shared.visible();
            let done = lanes.iter().all(|(lane, end)| *end <= visible.groups.done_below(*lane, &required));
            if old && done && !blocked.contains(&topic) {
                found.insert(topic);
            } else {
                blocked.insert(topic);
            }
        }
        found
    }

    /// Writes a segment again without some topics. The new file has its name only once it is whole and durable.
    fn rewrite(&self, old: &Sealed, without: &BTreeSet<Topic>) -> Result<Sealed, Failure> {
        let header = Header { generation: old.header.generation + 1, ..old.header };
        let file = old.open()?;
        let mut bytes = header.encode();
        let mut lanes = Vec::new();
        for lane in &old.directory.lanes {
            let keep = lane.kept && !without.contains(&lane.lane.0);
            let slots = if keep { Some(self.copy(&file, lane, &mut bytes)?) } else { None };
            lanes.push(LaneSlots { lane: lane.lane, first: lane.first, end: lane.end, slots });
        }
        let at = bytes.len() as u64;
        let of = &old.directory;
        let footer =
            segment::encode_footer(&header, at, &lanes, of.progress.clone(), of.end_seq, of.sealed_ms);
        let (footer, _) = footer.map_err(io::Error::other)?;
        bytes.extend(footer);
        let dir = old.path.parent().unwrap_or(Path::new("."));
        let path = path_of(dir, header.number, header.generation);
        let draft = path.with_extension("new");
        let written = (|| {
            let draft = self.disk.create(&draft)?;
            draft.write_all_at(&bytes, 0)?;
            draft.sync_all()
        })();
        if let Err(error) = written {
            let _ = self.disk.remove(&draft);
            return Err(error.into());
        }
        self.disk.rename(&draft, &path)?;
        self.disk.sync_directory(dir)?;
        match crate::journal::read_segment(&self.disk, &path, header.salt, header.number) {
            Ok(crate::journal::Read::Sealed(sealed)) => Ok(sealed),
            _ => Err(io::Error::other("the segment that was written does not read back").into()),
        }
    }

    /// Copies the records of one partition and returns where they lie then.
    fn copy(
        &self,
        file: &DiskFile,
        lane: &segment::SealedLane,
        to: &mut Vec<u8>,
    ) -> Result<Vec<segment::Slot>, Failure> {
        let count = usize::try_from(lane.end - lane.first).unwrap_or(0);
        let slots = decode_slots(&file.read_at(lane.slots_at, count * SLOT)?);
        let mut copied = Vec::with_capacity(count);
        for (offset, slot) in (lane.first..).zip(slots) {
            // What is damaged must not be written as if it were whole.
            read_record(file, lane.lane, offset, slot)?;
            let at = to.len() as u64;
            to.extend(file.read_at(slot.at, slot.length as usize)?);
            copied.push(segment::Slot { at, length: slot.length });
        }
        Ok(copied)
    }
}

/// Why a segment was not written again.
enum Failure {
    Io(io::Error),
    Log(LogError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Failure {
        Failure::Log(error)
    }
}

#[cfg(test)]
mod tests;
