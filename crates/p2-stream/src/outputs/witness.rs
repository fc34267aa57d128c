//! Whether the progress that a group is told can be true.
//!
//! An output and the progress of the record that led to it are committed in one transaction. So there is no output
//! without progress: one whose record is not done in the progress that a group is told shows that it is told old
//! progress, as by a coordinator that lost a part of its log (docs/reliability.md, "An hour").

use p2_core::record::Topic;

use super::is_together;
use crate::ports::{Log, LogError, StoredRecord};
use crate::runtime::Progress;
use crate::topics::spec;
use crate::wire;

/// How far back outputs are looked for, in two steps, offsets.
const BACK: [i64; 2] = [200, 4_000];
/// Outputs of one topic that are looked at.
const OUTPUTS_MAX: usize = 50;

/// An output: what it says of a record of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Where the output lies: the topic; its partition is that of the input.
    pub topic: Topic,
    /// And the offset.
    pub at: i64,
    /// When it was written, milliseconds since the epoch, by its writer's clock.
    pub time_ms: i64,
    /// The offset in the input of the record that led to it.
    pub offset: i64,
}

impl Witness {
    /// Whether progress that knows nothing of this output's record is old. An output of the time before the group was
    /// made to begin somewhere says nothing.
    pub fn contradicts(&self, progress: &Progress) -> bool {
        progress.begun_ms.is_some_and(|begun_ms| self.time_ms > begun_ms)
            && progress.mark_of(self.offset).is_none()
    }
}

/// The newest outputs of a processor for one partition of its input, of each topic whose partitions go with it; the
/// older ones of a topic first. None where the processor wrote nothing lately.
///
/// # Errors
/// Those of the log.
pub async fn newest(
    log: &dyn Log,
    processor: &str,
    input: Topic,
    partition: i32,
) -> Result<Vec<Witness>, LogError> {
    let source = format!("/p2/{processor}");
    let of_topic = |topic: Topic| {
        let source = source.as_str();
        async move {
            for back in BACK {
                let records = log.newest(topic, partition, back).await?;
                let told = records.iter().filter_map(|stored| witness(stored, source, input, partition));
                let mut told: Vec<Witness> = told.collect();
                let older = told.len().saturating_sub(OUTPUTS_MAX);
                told.drain(..older);
                if !told.is_empty() {
                    return Ok(told);
                }
            }
            Ok(Vec::new())
        }
    };
    let topics =
        Topic::ALL.into_iter().filter(|topic| is_together(*topic, input) && writes(processor, *topic));
    let found = futures::future::try_join_all(topics.map(of_topic)).await?;
    Ok(found.into_iter().flatten().collect())
}

/// Whether a processor writes to a topic; one that no topic names may write to any.
fn writes(processor: &str, topic: Topic) -> bool {
    let names = |topic| spec(topic).is_ok_and(|spec| spec.producers.iter().any(|name| name == processor));
    names(topic) || !Topic::ALL.into_iter().any(names)
}

fn witness(stored: &StoredRecord, source: &str, input: Topic, partition: i32) -> Option<Witness> {
    let headers = &stored.record.headers;
    if wire::headers::text(headers, "ce_source")? != source {
        return None;
    }
    let cause = wire::headers::cause_position(headers)?;
    let of_input = cause.topic == input && cause.partition == partition;
    let (topic, time_ms) = (stored.record.topic, stored.record.time_ms);
    of_input.then_some(Witness { topic, at: stored.offset, time_ms, offset: cause.offset })
}
