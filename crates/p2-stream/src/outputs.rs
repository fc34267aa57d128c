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

/// The progress of a processor in every partition of its input, as its committed outputs tell it: what has an output
/// is done, what has an announcement alone is claimed. What lies a window or more before something done is done as well,
/// as no owner goes further ahead of its progress; there are inputs that lead to no output. Reads all topics from their
/// start.
///
/// # Errors
/// Those of the log.
pub async fn progress_from_outputs(
    log: &dyn Log,
    processor: &str,
    input: Topic,
) -> Result<BTreeMap<i32, Progress>, LogError> {
    let mut marks = marks(log, processor, input).await?;
    let mut found = BTreeMap::new();
    for partition in 0..log.partitions(input) {
        let (start, _) = log.bounds(input, partition).await?;
        let marks = marks.remove(&partition).unwrap_or_default();
        let inputs = offsets(log, input, partition, start).await?;
        found.insert(partition, progress(start, &inputs, &marks));
    }
    Ok(found)
}

/// As [`progress_from_outputs`], for a processor that writes nothing for most of its input and may take the same input
/// twice: a window before the last record that it wrote something for, or before the end where it never did. What was
/// under way lies within that window, and what lies before it is done.
///
/// # Errors
/// Those of the log.
pub async fn progress_near_outputs(
    log: &dyn Log,
    processor: &str,
    input: Topic,
) -> Result<BTreeMap<i32, Progress>, LogError> {
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
/// it says, and what [`progress_from_outputs`] tells of the outputs since the group was made to begin.
///
/// # Errors
/// Those of the log.
pub async fn progress_since(
    log: &dyn Log,
    processor: &str,
    input: Topic,
    partition: i32,
    told: &Progress,
) -> Result<Progress, LogError> {
    let (start, _) = log.bounds(input, partition).await?;
    let inputs = offsets(log, input, partition, told.low.max(start)).await?;
    let mut since_ms = told.begun_ms.unwrap_or_default();
    if let Some(first) = inputs.first()
        && let Some(first) = log.read(input, partition, *first, 1).await?.first()
    {
        // Every output is younger than the record that led to it, by the clocks of two machines.
        since_ms = since_ms.max(first.record.time_ms.saturating_sub(CLOCKS_DIFFER_MS));
    }
    let mut marks = BTreeMap::new();
    for topic in Topic::ALL.into_iter().filter(|topic| *topic != Topic::Registry) {
        let together = is_together(topic, input);
        for of in (0..log.partitions(topic)).filter(|of| !together || *of == partition) {
            let from = log.offset_at(topic, of, since_ms).await?;
            let of = Outputs { processor, input, begun_ms: told.begun_ms, topic, partition: of };
            of.marks(log, from, &mut marks).await?;
        }
    }
    let mut marks = marks.remove(&partition).unwrap_or_default();
    for offset in &inputs {
        if let Some(mark) = told.mark_of(*offset) {
            marks.entry(*offset).or_insert(mark);
        }
    }
    let mut known = progress(told.low.max(start), &inputs, &marks);
    (known.batch, known.nonce, known.begun_ms) = (told.batch, told.nonce, told.begun_ms);
    Ok(known)
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
) -> Result<BTreeMap<i32, BTreeMap<i64, OffsetMark>>, LogError> {
    let mut marks: BTreeMap<i32, BTreeMap<i64, OffsetMark>> = BTreeMap::new();
    for topic in Topic::ALL.into_iter().filter(|topic| *topic != Topic::Registry) {
        for partition in 0..log.partitions(topic) {
            let (start, _) = log.bounds(topic, partition).await?;
            let of = Outputs { processor, input, begun_ms: None, topic, partition };
            of.marks(log, start, &mut marks).await?;
        }
    }
    Ok(marks)
}

/// The outputs of a processor for one input topic, as far as they lie in one partition.
struct Outputs<'a> {
    processor: &'a str,
    input: Topic,
    /// Only those that are younger.
    begun_ms: Option<i64>,
    topic: Topic,
    partition: i32,
}

impl Outputs<'_> {
    /// Adds what they say from an offset on, by partition of the input.
    async fn marks(
        &self,
        log: &dyn Log,
        from: i64,
        marks: &mut BTreeMap<i32, BTreeMap<i64, OffsetMark>>,
    ) -> Result<(), LogError> {
        let mut next = from;
        loop {
            let records = log.read(self.topic, self.partition, next, READ_RECORDS).await?;
            let Some(last) = records.last() else { return Ok(()) };
            next = last.offset + 1;
            let young = |stored: &&StoredRecord| {
                self.begun_ms.is_none_or(|begun_ms| stored.record.time_ms > begun_ms)
            };
            let records = records.iter().filter(young);
            for (at, offset, mark) in records.filter_map(|stored| told(stored, self.processor, self.input)) {
                let known = marks.entry(at).or_default().entry(offset).or_insert(mark);
                if mark == OffsetMark::Done {
                    *known = mark;
                }
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

/// Progress from marks. Offsets without a record hold nothing up, and neither does what lies a window before.
fn progress(start: i64, inputs: &[i64], marks: &BTreeMap<i64, OffsetMark>) -> Progress {
    let done = |offset: &i64| marks.get(offset) == Some(&OffsetMark::Done);
    let first = inputs.iter().copied().find(|offset| !done(offset));
    let low = first.or_else(|| inputs.last().map(|last| last + 1)).unwrap_or(start);
    let last = marks.keys().next_back().copied().unwrap_or(low);
    let mut known = Progress::at(low.max(last + 1 - WINDOW_OFFSETS_MAX));
    for (offset, mark) in marks.range(known.low..) {
        known.mark(*offset, *mark);
    }
    known
}

#[cfg(test)]
mod tests;
