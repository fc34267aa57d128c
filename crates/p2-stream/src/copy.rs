//! Copies a stopped system to another log: from the embedded one to Kafka, or to other numbers of partitions.
//!
//! Records keep ids, times, headers and, for each key, their order. What refers to a place in the log (causes,
//! dead letters) is written anew for the new places, which are known beforehand: an empty log, appended to one
//! record at a time, counts from 0 without gaps. In the topics that groups consume, what is done comes first, then
//! what was begun, then the rest, so that the progress of a group is one offset and some marks. Records of one lane
//! keep their order in that too, since a lane finishes its records in order.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use p2_core::record::{Payload, Position, Topic};

use crate::groups::Lane;
use crate::ports::{Batch, Log, LogError, MemberEvent, NewRecord, StoredRecord};
use crate::runtime::{OffsetMark, Progress, WINDOW_OFFSETS_MAX};
use crate::wire;

/// Records read at a time.
const READ_RECORDS: usize = 1_000;
/// Appends under way at a time.
const APPENDS: usize = 256;

/// Why a copy ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The target has records.
    #[error("{0} of the target has records already: copy into an empty log, e.g. under another prefix")]
    NotEmpty(String),
    /// Too much is under way to be written down as progress.
    #[error("group {group} has {count} claimed records on one partition: let it finish, then copy")]
    TooMuchClaimed {
        /// The group.
        group: String,
        /// How many.
        count: usize,
    },
    /// The target wrote a record somewhere else than it must be: somebody else writes to it.
    #[error("somebody else writes to {0} of the target: stop everything there, empty it and copy again")]
    Disturbed(String),
    /// Reading or writing failed. The target is half filled: empty it and copy again.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Records per topic.
    pub records: BTreeMap<Topic, u64>,
    /// Records that no group has finished, per group.
    pub pending: BTreeMap<String, u64>,
}

/// Where records of one partition of the source go.
#[derive(Debug, Default)]
struct Moves {
    /// First offset of the source.
    start: i64,
    /// By distance from there: (partition, offset) in the target; none for a gap.
    to: Vec<Option<(i32, i64)>>,
}

/// How far a record is, for the group that consumes its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Done,
    Claimed,
    Pending,
}

/// Copies everything; `told` hears how many records were written since it was called last. Nothing may run on
/// either log. `groups`: each consumer group (`p2.<processor>`) and the topic that it consumes.
///
/// # Errors
/// [`CopyError`]; the source is never changed.
pub async fn copy(
    source: &dyn Log,
    target: &dyn Log,
    groups: &[(&str, Topic)],
    mut told: impl FnMut(u64) + Send,
) -> Result<Copied, CopyError> {
    for topic in Topic::ALL {
        for partition in 0..target.partitions(topic) {
            if target.bounds(topic, partition).await?.1 > 0 {
                return Err(CopyError::NotEmpty(topic.name()));
            }
        }
    }
    let mut progress = BTreeMap::new();
    for (group, topic) in groups {
        progress.insert(*topic, progress_of(source, group, *topic).await?);
    }
    let mut moves = BTreeMap::new();
    let mut targets: BTreeMap<Lane, Progress> = BTreeMap::new();
    for topic in Topic::ALL {
        let stages = plan_topic(source, target, topic, progress.get(&topic), &mut moves).await?;
        for (partition, [done, claimed]) in stages {
            if i64::try_from(claimed).is_ok_and(|claimed| claimed > WINDOW_OFFSETS_MAX) {
                let group = groups.iter().find(|(_, of)| *of == topic).map_or("", |(group, _)| group);
                return Err(CopyError::TooMuchClaimed { group: group.to_owned(), count: claimed });
            }
            let low = i64::try_from(done).unwrap_or(i64::MAX);
            let mut known = Progress::at(low).begun(0);
            for offset in (low..).take(claimed) {
                known.mark(offset, OffsetMark::Claimed);
            }
            targets.insert((topic, partition), known);
        }
    }
    let mut copied = Copied::default();
    for topic in Topic::ALL {
        let written = write_topic(source, target, topic, progress.get(&topic), &moves, &mut told).await?;
        copied.records.insert(topic, written);
    }
    for (group, topic) in groups {
        let pending = commit(target, group, *topic, &targets).await?;
        copied.pending.insert((*group).to_owned(), pending);
    }
    Ok(copied)
}

/// A group's progress in every partition of its topic.
async fn progress_of(log: &dyn Log, group: &str, topic: Topic) -> Result<BTreeMap<i32, Progress>, CopyError> {
    let mut member = log.join(group, &[topic]).await?;
    let mut found = BTreeMap::new();
    while found.len() < usize::try_from(log.partitions(topic)).unwrap_or(0) {
        if let MemberEvent::Assigned { partition, committed, .. } = member.next().await? {
            let progress = committed.as_ref().map_or(Ok(Progress::default()), Progress::decode);
            found.insert(partition, progress.map_err(LogError::Corrupt)?);
        }
    }
    Ok(found)
}

fn stage(progress: Option<&BTreeMap<i32, Progress>>, stored: &StoredRecord) -> Stage {
    let mark = progress
        .and_then(|progress| progress.get(&stored.record.partition))
        .map(|progress| progress.mark_of(stored.offset));
    match mark {
        // Nobody consumes it by progress.
        None | Some(Some(OffsetMark::Done)) => Stage::Done,
        Some(Some(OffsetMark::Claimed)) => Stage::Claimed,
        Some(None) => Stage::Pending,
    }
}

/// Where a record belongs in the target. A misplaced one keeps being misplaced as far as it can.
fn target_partition(target: &dyn Log, stored: &StoredRecord, of_source: i32) -> i32 {
    let record = &stored.record;
    let of_target = target.partitions(record.topic);
    if wire::partition(&record.key, of_source) == record.partition || of_target <= record.partition {
        return wire::partition(&record.key, of_target);
    }
    record.partition
}

/// Stages in the order in which they are written.
fn stages(progress: Option<&BTreeMap<i32, Progress>>) -> &'static [Stage] {
    if progress.is_some() { &[Stage::Done, Stage::Claimed, Stage::Pending] } else { &[Stage::Done] }
}

/// Gives every record its new place. Returns, by partition of the target, how many are done and claimed.
async fn plan_topic(
    source: &dyn Log,
    target: &dyn Log,
    topic: Topic,
    progress: Option<&BTreeMap<i32, Progress>>,
    moves: &mut BTreeMap<Lane, Moves>,
) -> Result<BTreeMap<i32, [usize; 2]>, CopyError> {
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    let mut counts: BTreeMap<i32, [usize; 2]> =
        (0..target.partitions(topic)).map(|partition| (partition, [0, 0])).collect();
    for wanted in stages(progress) {
        for partition in 0..source.partitions(topic) {
            let mut reading = Reading::new(source, topic, partition).await?;
            let known = moves.entry((topic, partition)).or_default();
            known.start = reading.next;
            while let Some(records) = reading.more().await? {
                for stored in records.iter().filter(|stored| stage(progress, stored) == *wanted) {
                    let to = target_partition(target, stored, source.partitions(topic));
                    let offset = next.entry(to).or_default();
                    let index = usize::try_from(stored.offset - known.start).unwrap_or(0);
                    if known.to.len() <= index {
                        known.to.resize(index + 1, None);
                    }
                    if let Some(place) = known.to.get_mut(index) {
                        *place = Some((to, *offset));
                    }
                    *offset += 1;
                    if let Some([done, claimed]) = counts.get_mut(&to) {
                        match wanted {
                            Stage::Done => *done += 1,
                            Stage::Claimed => *claimed += 1,
                            Stage::Pending => {}
                        }
                    }
                }
            }
        }
    }
    Ok(counts)
}

/// Writes the records of a topic to their new places.
async fn write_topic(
    source: &dyn Log,
    target: &dyn Log,
    topic: Topic,
    progress: Option<&BTreeMap<i32, Progress>>,
    moves: &BTreeMap<Lane, Moves>,
    told: &mut (impl FnMut(u64) + Send),
) -> Result<u64, CopyError> {
    let mut written = 0;
    for wanted in stages(progress) {
        for partition in 0..source.partitions(topic) {
            let mut reading = Reading::new(source, topic, partition).await?;
            while let Some(records) = reading.more().await? {
                let ours: Vec<(NewRecord, i64)> = records
                    .into_iter()
                    .filter(|stored| stage(progress, stored) == *wanted)
                    .filter_map(|stored| moved(stored, moves))
                    .collect();
                let count = ours.len() as u64;
                // First polls are in order, and a first poll hands the record over: so is what is written.
                let appends = ours.into_iter().map(|(record, offset)| append(target, record, offset));
                stream::iter(appends).buffered(APPENDS).try_collect::<Vec<()>>().await?;
                written += count;
                told(count);
            }
        }
    }
    Ok(written)
}

async fn append(target: &dyn Log, record: NewRecord, offset: i64) -> Result<(), CopyError> {
    let topic = record.topic;
    let positions = target.append(vec![record]).await?;
    if positions.first().map(|at| at.offset) == Some(offset) {
        return Ok(());
    }
    Err(CopyError::Disturbed(topic.name()))
}

/// A record as it is in the target, and its offset there; none of a record that is not known.
fn moved(stored: StoredRecord, moves: &BTreeMap<Lane, Moves>) -> Option<(NewRecord, i64)> {
    let place = |at: Position| {
        let known = moves.get(&(at.topic, at.partition))?;
        let index = usize::try_from(at.offset - known.start).ok()?;
        let (partition, offset) = (*known.to.get(index)?)?;
        Some(Position { topic: at.topic, partition, offset })
    };
    let to = place(stored.position())?;
    let mut record = NewRecord { partition: to.partition, ..stored.record.clone() };
    // A record that cannot be read goes along as it is.
    if let Ok(mut message) = wire::decode(&stored) {
        wire::headers::move_cause(&mut record.headers, message.cause_position.and_then(place));
        if let Payload::DeadLetter(letter) = &mut message.payload
            && let Some(topic) = Topic::parse(&letter.topic)
            && let Some(at) = place(Position { topic, partition: letter.partition, offset: letter.offset })
        {
            (letter.partition, letter.offset) = (at.partition, at.offset);
            if let Ok(value) = wire::encode_payload(&message.payload) {
                record.value = value;
            }
        }
    }
    Some((record, to.offset))
}

/// Commits a group's progress in the target. Returns how many records are not done.
async fn commit(
    target: &dyn Log,
    group: &str,
    topic: Topic,
    progress: &BTreeMap<Lane, Progress>,
) -> Result<u64, CopyError> {
    let mut member = target.join(group, &[topic]).await?;
    let (mut committed, mut pending) = (0, 0);
    while committed < target.partitions(topic) {
        let MemberEvent::Assigned { partition, .. } = member.next().await? else { continue };
        let known = progress.get(&(topic, partition)).cloned();
        let known = known.unwrap_or_else(|| Progress::at(0).begun(0));
        let (_, end) = target.bounds(topic, partition).await?;
        pending += u64::try_from(end - known.low).unwrap_or(0);
        let batch = Batch { outputs: Vec::new(), progress: vec![(topic, partition, known.encode())] };
        let done = member.committer().commit(batch).await;
        done.map_err(|error| LogError::Unavailable(format!("progress of {group}: {error}")))?;
        committed += 1;
    }
    Ok(pending)
}

/// Reads a partition from its start.
struct Reading<'a> {
    log: &'a dyn Log,
    lane: Lane,
    next: i64,
}

impl<'a> Reading<'a> {
    async fn new(log: &'a dyn Log, topic: Topic, partition: i32) -> Result<Reading<'a>, LogError> {
        let (start, _) = log.bounds(topic, partition).await?;
        Ok(Reading { log, lane: (topic, partition), next: start })
    }

    async fn more(&mut self) -> Result<Option<Vec<StoredRecord>>, LogError> {
        let records = self.log.read(self.lane.0, self.lane.1, self.next, READ_RECORDS).await?;
        Ok(records.last().map(|last| last.offset + 1).map(|next| {
            self.next = next;
            records
        }))
    }
}

#[cfg(test)]
mod tests;
