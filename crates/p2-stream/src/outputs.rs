//! The progress of a group that lost it, from what it wrote: every output names the record that led to it. And whether
//! progress that is told can be true: an output and the progress with it are committed together.

use std::collections::BTreeMap;

use p2_core::record::{ArtifactBody, Message, Payload, Topic};

use crate::ports::{Log, LogError, StoredRecord};
use crate::runtime::{OffsetMark, Progress, WINDOW_OFFSETS_MAX};
use crate::topics::{CO_PARTITIONED, CO_PARTITIONED_BY_BOOK};
use crate::wire;

mod witness;
pub use witness::{Witness, newest};

/// Records read at a time.
const READ_RECORDS: usize = 1_000;
/// How much the clocks of those who write to the log may differ, milliseconds.
const CLOCKS_DIFFER_MS: i64 = 3_600_000;
/// The phase of a tool run that announces a call.
const INTENT: &str = "intent";

/// Why there is no progress to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputsError {
    /// A record that was never processed lies too far before the last one that was.
    #[error(
        "{topic} partition {partition}: nothing was written for offset {pending}, but for {last}, which is more than \
         {WINDOW_OFFSETS_MAX} offsets later: begin at a time instead"
    )]
    TooFar {
        /// The input topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The first offset without an output.
        pending: i64,
        /// The last one with.
        last: i64,
    },
    /// Reading failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The progress of a processor in every partition of its input, as its committed outputs tell it: what has an output
/// is done, what has an announcement alone is claimed. Reads all topics from their start.
///
/// # Errors
/// [`OutputsError`].
pub async fn progress_from_outputs(
    log: &dyn Log,
    processor: &str,
    input: Topic,
) -> Result<BTreeMap<i32, Progress>, OutputsError> {
    let mut marks = marks(log, processor, input).await?;
    let mut found = BTreeMap::new();
    for partition in 0..log.partitions(input) {
        let (start, _) = log.bounds(input, partition).await?;
        let marks = marks.remove(&partition).unwrap_or_default();
        let inputs = offsets(log, input, partition, start).await?;
        found.insert(partition, progress(start, &inputs, &marks, input, partition)?);
    }
    Ok(found)
}

/// As [`progress_from_outputs`], for a processor that writes nothing for most of its input and may take the same input
/// twice: a window before the last record that it wrote something for, or before the end where it never did. What was
/// under way lies within that window, and what lies before it is done.
///
/// # Errors
/// [`OutputsError::Log`].
pub async fn progress_near_outputs(
    log: &dyn Log,
    processor: &str,
    input: Topic,
) -> Result<BTreeMap<i32, Progress>, OutputsError> {
    let marks = marks(log, processor, input).await?;
    let mut found = BTreeMap::new();
    for partition in 0..log.partitions(input) {
        let (start, end) = log.bounds(input, partition).await?;
        let last = marks.get(&partition).and_then(|marks| marks.keys().next_back());
        let low = last.map_or(end, |last| last + 1).saturating_sub(WINDOW_OFFSETS_MAX).max(start);
        found.insert(partition, Progress::at(low));
    }
    Ok(found)
}

/// What the progress of one partition must be, where all that is known of it is `told`: true once, and old. Done is what
/// it says, and what was written since.
///
/// For a processor that writes nothing for most of its input it is [`progress_near_outputs`], never below `told`.
///
/// # Errors
/// [`OutputsError`].
pub async fn progress_since(
    log: &dyn Log,
    processor: &str,
    input: Topic,
    partition: i32,
    told: &Progress,
) -> Result<Progress, OutputsError> {
    let (start, _) = log.bounds(input, partition).await?;
    let inputs = offsets(log, input, partition, told.low.max(start)).await?;
    // Every output is younger than the record that led to it, by the clocks of two machines.
    let since_ms = match inputs.first() {
        Some(first) => log.read(input, partition, *first, 1).await?.first().map(|first| first.record.time_ms),
        None => None,
    };
    let since_ms = since_ms.map(|time_ms| time_ms.saturating_sub(CLOCKS_DIFFER_MS));
    let mut marks = BTreeMap::new();
    for topic in Topic::ALL.into_iter().filter(|topic| *topic != Topic::Registry) {
        let together = is_together(topic, input);
        for of in (0..log.partitions(topic)).filter(|of| !together || *of == partition) {
            let from = match since_ms {
                Some(since_ms) => log.offset_at(topic, of, since_ms).await?,
                None => log.bounds(topic, of).await?.0,
            };
            marks_of(log, (topic, of, from), processor, input, &mut marks).await?;
        }
    }
    let mut marks = marks.remove(&partition).unwrap_or_default();
    let mut known = if is_sparse(input) {
        let last = marks.keys().next_back().map_or(told.low, |last| last + 1);
        let low = last.saturating_sub(WINDOW_OFFSETS_MAX).max(told.low).max(start);
        let mut known = Progress::at(low);
        for (offset, mark) in marks.range(low..) {
            known.mark(*offset, *mark);
        }
        known
    } else {
        for offset in &inputs {
            if let Some(mark) = told.mark_of(*offset) {
                marks.entry(*offset).or_insert(mark);
            }
        }
        let end = inputs.last().map_or(told.low, |last| last + 1);
        progress(end, &inputs, &marks, input, partition)?
    };
    (known.batch, known.nonce, known.begun_ms) = (told.batch, told.nonce, told.begun_ms);
    Ok(known)
}

/// Whether most records of a topic lead to no output of the processor that consumes it.
pub fn is_sparse(input: Topic) -> bool {
    input == Topic::Artifacts
}

/// Whether the outputs for a partition of `input` lie in the same partition of `topic`.
fn is_together(topic: Topic, input: Topic) -> bool {
    [&CO_PARTITIONED[..], &CO_PARTITIONED_BY_BOOK[..]]
        .iter()
        .any(|group| group.contains(&topic) && group.contains(&input))
}

/// Partition of the input → offset → what the outputs say of it.
async fn marks(
    log: &dyn Log,
    processor: &str,
    input: Topic,
) -> Result<BTreeMap<i32, BTreeMap<i64, OffsetMark>>, OutputsError> {
    let mut marks: BTreeMap<i32, BTreeMap<i64, OffsetMark>> = BTreeMap::new();
    for topic in Topic::ALL.into_iter().filter(|topic| *topic != Topic::Registry) {
        for partition in 0..log.partitions(topic) {
            let (start, _) = log.bounds(topic, partition).await?;
            marks_of(log, (topic, partition, start), processor, input, &mut marks).await?;
        }
    }
    Ok(marks)
}

/// Adds what the outputs of one partition say, from an offset on.
async fn marks_of(
    log: &dyn Log,
    (topic, partition, from): (Topic, i32, i64),
    processor: &str,
    input: Topic,
    marks: &mut BTreeMap<i32, BTreeMap<i64, OffsetMark>>,
) -> Result<(), LogError> {
    let mut next = from;
    loop {
        let records = log.read(topic, partition, next, READ_RECORDS).await?;
        let Some(last) = records.last() else { return Ok(()) };
        next = last.offset + 1;
        for (at, offset, mark) in records.iter().filter_map(|stored| told(stored, processor, input)) {
            let known = marks.entry(at).or_default().entry(offset).or_insert(mark);
            if mark == OffsetMark::Done {
                *known = mark;
            }
        }
    }
}

/// The offsets of a partition that have a record, from one on.
async fn offsets(log: &dyn Log, topic: Topic, partition: i32, from: i64) -> Result<Vec<i64>, LogError> {
    let mut next = from;
    let mut found = Vec::new();
    loop {
        let records = log.read(topic, partition, next, READ_RECORDS).await?;
        let Some(last) = records.last() else { return Ok(found) };
        next = last.offset + 1;
        found.extend(records.iter().map(|stored| stored.offset));
    }
}

/// What an output says of an input: (partition, offset, mark); none where it is another processor's.
fn told(stored: &StoredRecord, processor: &str, input: Topic) -> Option<(i32, i64, OffsetMark)> {
    let source = wire::headers::text(&stored.record.headers, "ce_source")?;
    if source.strip_prefix("/p2/") != Some(processor) {
        return None;
    }
    let Message { payload, cause_position, .. } = wire::decode(stored).ok()?;
    if let Payload::DeadLetter(letter) = &payload {
        let ours = letter.topic == input.name();
        return ours.then_some((letter.partition, letter.offset, OffsetMark::Done));
    }
    let at = cause_position.filter(|at| at.topic == input)?;
    let announces = matches!(&payload, Payload::Artifact(artifact)
        if matches!(&artifact.body, ArtifactBody::ToolRun(run) if run.phase == INTENT));
    let mark = if announces { OffsetMark::Claimed } else { OffsetMark::Done };
    Some((at.partition, at.offset, mark))
}

/// Progress from marks. Offsets without a record hold nothing up.
fn progress(
    start: i64,
    inputs: &[i64],
    marks: &BTreeMap<i64, OffsetMark>,
    topic: Topic,
    partition: i32,
) -> Result<Progress, OutputsError> {
    let done = |offset: &i64| marks.get(offset) == Some(&OffsetMark::Done);
    let first = inputs.iter().copied().find(|offset| !done(offset));
    let low = first.or_else(|| inputs.last().map(|last| last + 1)).unwrap_or(start);
    let last = marks.keys().next_back().copied().unwrap_or(low);
    if last - low >= WINDOW_OFFSETS_MAX {
        return Err(OutputsError::TooFar { topic: topic.name(), partition, pending: low, last });
    }
    let mut known = Progress::at(low);
    for (offset, mark) in marks.range(low..) {
        known.mark(*offset, *mark);
    }
    Ok(known)
}

#[cfg(test)]
mod tests;
