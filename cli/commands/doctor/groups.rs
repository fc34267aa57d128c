//! The processors' groups: who runs, and what waits for them.

use std::fmt;

use p2_core::record::Topic;
use p2_kafka::KafkaLog;
use p2_stream::ports::{Log, LogError, StoredRecord};
use p2_stream::runtime::{OffsetMark, Progress};
use p2_stream::shell::now_ms;

use super::{Findings, Health};
use crate::backend::INPUTS;

/// Records looked at in each partition: who has more before it is told "at least".
const LOOKED_AT: usize = 500;
/// How long a record may wait without a word about it, milliseconds: the longest that something passing (a pause of the
/// store, a restart, a rebalance) holds one up.
const LONG_MS: i64 = 60_000;

/// What waits for a group in its input.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Backlog {
    records: usize,
    /// There may be more.
    is_cut: bool,
    /// Partitions with such a record.
    partitions: Vec<i32>,
    /// Time of the oldest one and its partition.
    oldest: Option<(i64, i32)>,
}

impl Backlog {
    /// Takes in the records of a partition from its low watermark on.
    fn take(&mut self, partition: i32, progress: &Progress, records: &[StoredRecord]) {
        let done = |record: &&StoredRecord| progress.mark_of(record.offset) == Some(OffsetMark::Done);
        let mut waits = records.iter().filter(|record| !done(record)).peekable();
        if let Some(first) = waits.peek() {
            let time_ms = first.record.time_ms;
            self.partitions.push(partition);
            if self.oldest.is_none_or(|(oldest, _)| time_ms < oldest) {
                self.oldest = Some((time_ms, partition));
            }
        }
        self.records += waits.count();
        self.is_cut |= records.len() >= LOOKED_AT;
    }

    /// How it stands with a group that has members.
    fn health(&self, now_ms: i64) -> Health {
        let is_long = self.oldest.is_some_and(|(oldest, _)| now_ms.saturating_sub(oldest) > LONG_MS);
        if is_long { Health::Note } else { Health::Ok }
    }

    fn told(&self, topic: Topic, now_ms: i64) -> String {
        let Some((oldest, partition)) = self.oldest else { return "nothing waits".to_owned() };
        let seconds = now_ms.saturating_sub(oldest).max(0) / 1_000;
        let mut text =
            format!("{self} of {}, the oldest for {seconds} s (partition {partition})", topic.short());
        if self.health(now_ms) != Health::Ok {
            text.push_str(
                ": if it does not go down, look at the log of whoever owns that partition (p2_partitions_owned), or end that \
                 process with SIGTERM and another takes over",
            );
        }
        text
    }
}

impl fmt::Display for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = if self.is_cut { "at least " } else { "" };
        let s = |count: usize| if count == 1 { "" } else { "s" };
        let (records, partitions) = (self.records, self.partitions.len());
        let verb = if records == 1 && !self.is_cut { "waits" } else { "wait" };
        write!(f, "{least}{records} record{} {verb} in {partitions} partition{}", s(records), s(partitions))
    }
}

/// One line for each processor.
pub(super) async fn look(log: &KafkaLog, found: &mut Findings) {
    for (processor, input) in INPUTS {
        let group = format!("p2.{processor}");
        let members = match log.group_members(&group).await {
            Ok(members) => members,
            Err(error) => {
                found.add(processor, Health::Bad, error.to_string());
                continue;
            }
        };
        let backlog = match backlog(log, &group, input).await {
            Ok(backlog) => backlog,
            Err(error) => {
                found.add(processor, Health::Bad, error.to_string());
                continue;
            }
        };
        let now_ms = now_ms();
        let waiting = backlog.told(input, now_ms);
        if members.is_empty() {
            let detail = format!("nobody runs it; {}: p2engine run {processor}", count(&backlog, input));
            found.add(processor, Health::Note, detail);
        } else {
            let detail = format!("{} running: {}; {waiting}", members.len(), members.join(", "));
            found.add(processor, backlog.health(now_ms), detail);
        }
    }
}

fn count(backlog: &Backlog, input: Topic) -> String {
    match backlog.oldest {
        None => "nothing waits".to_owned(),
        Some(_) => format!("{backlog} of {}", input.short()),
    }
}

async fn backlog(log: &KafkaLog, group: &str, input: Topic) -> Result<Backlog, LogError> {
    let known = log.group_progress(group, input).await?;
    let mut backlog = Backlog::default();
    for partition in 0..log.partitions(input) {
        let (start, end) = log.bounds(input, partition).await?;
        let progress = known.get(&partition).cloned().unwrap_or_else(|| Progress::at(start));
        let low = progress.low.max(start);
        if low < end {
            let records = log.read(input, partition, low, LOOKED_AT).await?;
            backlog.take(partition, &progress, &records);
        }
    }
    Ok(backlog)
}

#[cfg(test)]
mod tests {
    use p2_stream::ports::NewRecord;

    use super::*;

    fn record(offset: i64, time_ms: i64) -> StoredRecord {
        let record = NewRecord {
            topic: Topic::Inbox,
            partition: 0,
            key: "x".to_owned(),
            headers: Default::default(),
            value: Vec::new(),
            time_ms,
        };
        StoredRecord { offset, record }
    }

    #[test]
    fn what_is_done_above_the_low_watermark_does_not_wait() {
        let mut progress = Progress::at(5);
        progress.mark(6, OffsetMark::Done);
        progress.mark(8, OffsetMark::Claimed);
        let mut backlog = Backlog::default();
        backlog.take(0, &Progress::at(3), &[]);
        assert_eq!(
            (backlog.told(Topic::Inbox, 0).as_str(), backlog.health(0)),
            ("nothing waits", Health::Ok)
        );
        backlog.take(1, &progress, &[record(6, 1_000)]);
        assert_eq!(backlog, Backlog::default(), "an end of a transaction at 5, and 6 is done");
        backlog.take(2, &progress, &[record(6, 500), record(7, 2_000), record(8, 1_000)]);
        assert_eq!((backlog.records, backlog.oldest), (2, Some((2_000, 2))));
        let told = backlog.told(Topic::Effects, 62_000);
        assert_eq!(told, "2 records wait in 1 partition of effects, the oldest for 60 s (partition 2)");
        assert_eq!(backlog.health(62_000), Health::Ok);
        assert_eq!(backlog.health(62_001), Health::Note);
        assert!(backlog.told(Topic::Effects, 63_000).contains("another takes over"));
        backlog.take(4, &Progress::at(0), &vec![record(0, 1_500); LOOKED_AT]);
        let told = backlog.told(Topic::Inbox, 3_500);
        assert_eq!(
            told,
            "at least 502 records wait in 2 partitions of inbox, the oldest for 2 s (partition 4)"
        );
    }
}
