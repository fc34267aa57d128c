//! The progress of a group, and a mark without which it is not believed.
//!
//! A group coordinator answers from a state that it loaded from `__consumer_offsets`. One that took a part of that
//! log for the whole (seen with Kafka 4.1.1, right after a broker under load was killed and came back) answers with
//! progress that is minutes old, without an error, and whoever believes it does all the work since then again. So
//! something is written to the group first, and an answer counts only if what was written is part of it. A coordinator
//! that notices the mismatch at that write loads again; most old answers end here. It is no proof: seen, too, was one
//! that held an old beginning of its log and what was written since, with a hole between (docs/reliability.md, "An hour").
//!
//! What is written is progress of a partition that no processor consumes, under a name of its own: never the
//! progress itself, which could put an old one over a newer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use p2_core::record::Topic;
use p2_stream::ports::LogError;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;

use crate::records::Names;

#[cfg(test)]
mod tests;

/// Where marks are written: every processor may read it, and it has this partition.
const MARKS: (Topic, i32) = (Topic::Registry, 0);
/// How often the group is asked for one mark before another is written.
const QUESTIONS: u32 = 5;

/// Asks a group for its progress of `asked`, and believes no answer without a mark that was written before it.
///
/// `refusal` tells why the broker takes no mark, where it said so. Blocks for about twice `longest` at most.
///
/// # Errors
/// [`LogError::Unavailable`] where there is no such answer within that time, [`LogError::Refused`] where the group may
/// not be written to.
pub(crate) fn progress<C: ConsumerContext>(
    client: &impl Consumer<C>,
    names: &Names,
    asked: &TopicPartitionList,
    longest: Duration,
    refusal: impl Fn() -> Option<String>,
) -> Result<TopicPartitionList, LogError> {
    let away = |error: KafkaError| LogError::Unavailable(format!("the group's progress: {error}"));
    let until = Instant::now() + longest;
    let mut asked = asked.clone();
    asked.add_partition(names.of(MARKS.0), MARKS.1);
    let mut marks = Marks::default();
    loop {
        let mark = marks.next();
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(names.of(MARKS.0), MARKS.1, Offset::Offset(0)).map_err(away)?;
        if let Some(mut element) = list.find_partition(names.of(MARKS.0), MARKS.1) {
            element.set_metadata(mark);
        }
        // Not waited for: requests to the coordinator are answered in their order, and it is the answer that counts.
        client.commit(&list, CommitMode::Async).map_err(away)?;
        for question in 0..QUESTIONS {
            let found = client.committed_offsets(asked.clone(), longest).map_err(away)?;
            let seen = found.find_partition(names.of(MARKS.0), MARKS.1);
            let seen = seen.map(|element| element.metadata().to_owned());
            if marks.proves(seen.as_deref()) {
                return Ok(found);
            }
            if let Some(refusal) = refusal() {
                return Err(LogError::Refused(refusal));
            }
            if Instant::now() > until {
                return Err(LogError::Unavailable(
                    "the group's progress: the coordinator does not know yet what was just written to it"
                        .to_owned(),
                ));
            }
            std::thread::sleep(Duration::from_millis(2 << question));
        }
        tracing::info!("the group's coordinator does not know what was just written to it, writing again");
    }
}

/// The marks of one question.
#[derive(Default)]
struct Marks {
    written: Vec<String>,
}

impl Marks {
    /// One that nobody ever wrote.
    fn next(&mut self) -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("mark {:x} {now:x} {count:x}", std::process::id());
        self.written.push(mark.clone());
        mark
    }

    /// Whether an answer in which this mark stands knows one of these. Another's mark proves nothing: it may be older.
    fn proves(&self, seen: Option<&str>) -> bool {
        seen.is_some_and(|seen| self.written.iter().any(|mark| mark == seen))
    }
}
