//! The log: partitions of offsets, transactions whose markers arrive when they like, consumer groups that check
//! generation and member and never who owns a partition.

use std::collections::BTreeMap;

use p2_core::record::{Message, Topic};
use p2_stream::ports::CommittedOffset;

/// A transaction's number.
pub type Txn = u64;

/// How a stored record is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As it is.
    Plain,
    /// Its bytes cannot be decoded.
    Poison,
}

#[derive(Clone, Debug)]
enum Slot {
    Record { message: Box<Message>, shape: Shape, txn: Option<Txn> },
    Marker,
}

/// What is known of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    Aborted,
}

#[derive(Clone, Debug, Default)]
struct Partition {
    slots: Vec<Slot>,
    /// Transactions without their marker here, with their first offset.
    unmarked: BTreeMap<Txn, i64>,
}

/// A group: membership, assignment, progress.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Counts rebalances.
    pub generation: u64,
    /// Member → partitions.
    pub members: BTreeMap<u64, Vec<i32>>,
    /// Committed progress.
    pub committed: BTreeMap<i32, CommittedOffset>,
    /// Partitions in whose progress a transaction is under way.
    pub pending: BTreeMap<i32, Txn>,
}

/// Topics and groups.
#[derive(Clone, Debug, Default)]
pub struct SimLog {
    partitions: BTreeMap<(Topic, i32), Partition>,
    fates: BTreeMap<Txn, Fate>,
    /// Groups by processor name.
    pub groups: BTreeMap<&'static str, Group>,
    /// Partitions per topic.
    pub count: i32,
}

impl SimLog {
    /// An empty log with `count` partitions in each topic.
    pub fn new(count: i32) -> SimLog {
        SimLog { count, ..SimLog::default() }
    }

    /// The partition of a key.
    pub fn partition_of(&self, key: &str) -> i32 {
        let hash = key.bytes().fold(17u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
        i32::try_from(hash % u32::try_from(self.count).unwrap_or(1)).unwrap_or(0)
    }

    fn push(&mut self, at: (Topic, i32), slot: Slot) -> i64 {
        let partition = self.partitions.entry(at).or_default();
        partition.slots.push(slot);
        end(partition) - 1
    }

    /// Appends a record outside of any transaction.
    pub fn append(&mut self, partition: i32, message: Message, shape: Shape) -> i64 {
        let topic = message.payload.topic();
        self.push((topic, partition), Slot::Record { message: Box::new(message), shape, txn: None })
    }

    /// Appends a record of an open transaction; it is not visible yet.
    pub fn append_open(&mut self, partition: i32, message: Message, txn: Txn) -> i64 {
        let topic = message.payload.topic();
        self.fates.insert(txn, Fate::Open);
        let offset = self.push(
            (topic, partition),
            Slot::Record { message: Box::new(message), shape: Shape::Plain, txn: Some(txn) },
        );
        if let Some(partition) = self.partitions.get_mut(&(topic, partition)) {
            partition.unmarked.entry(txn).or_insert(offset);
        }
        offset
    }

    /// The coordinator decides. Markers follow.
    pub fn decide(&mut self, txn: Txn, commit: bool) {
        self.fates.insert(txn, if commit { Fate::Committed } else { Fate::Aborted });
    }

    /// The marker of a decided transaction arrives in one partition; it takes an offset.
    pub fn mark(&mut self, topic: Topic, partition: i32, txn: Txn) {
        self.push((topic, partition), Slot::Marker);
        if let Some(partition) = self.partitions.get_mut(&(topic, partition)) {
            partition.unmarked.remove(&txn);
        }
    }

    /// The high watermark: the offset after the last one, whatever lies there.
    pub fn high(&self, topic: Topic, partition: i32) -> i64 {
        self.partitions.get(&(topic, partition)).map_or(0, end)
    }

    /// The last stable offset: readers of committed records get no further.
    pub fn stable(&self, topic: Topic, partition: i32) -> i64 {
        self.partitions
            .get(&(topic, partition))
            .map_or(0, |known| known.unmarked.values().min().copied().unwrap_or(end(known)))
    }

    /// Committed records in `from..to`, below the last stable offset.
    pub fn read(&self, topic: Topic, partition: i32, from: i64, to: i64) -> Vec<(i64, &Message, Shape)> {
        let to = to.min(self.stable(topic, partition));
        (from.max(0)..to)
            .filter_map(|offset| {
                self.at(topic, partition, offset).map(|(message, shape)| (offset, message, shape))
            })
            .collect()
    }

    /// Every record of a partition that the coordinator knows as committed, its marker here or not.
    pub fn decided(&self, topic: Topic, partition: i32) -> Vec<(i64, &Message, Shape)> {
        (0..self.high(topic, partition))
            .filter_map(|offset| {
                self.at(topic, partition, offset).map(|(message, shape)| (offset, message, shape))
            })
            .collect()
    }

    /// The highest time of a record, milliseconds: of open and aborted transactions too.
    pub fn newest_ms(&self, topic: Topic, partition: i32) -> i64 {
        let slots = self.partitions.get(&(topic, partition)).map(|known| known.slots.as_slice());
        let times = slots.unwrap_or_default().iter().filter_map(|slot| match slot {
            Slot::Record { message, .. } => Some(message.time_ms),
            Slot::Marker => None,
        });
        times.max().unwrap_or(0)
    }

    /// The first committed record at or after a time; the high watermark where there is none. Times are those of
    /// their writers' clocks, so they do not ascend: it is the first all the same, as Kafka answers.
    pub fn offset_at(&self, topic: Topic, partition: i32, time_ms: i64) -> i64 {
        let high = self.high(topic, partition);
        let late = |offset: &i64| {
            self.at(topic, partition, *offset).is_some_and(|(message, _)| message.time_ms >= time_ms)
        };
        (0..high).find(late).unwrap_or(high)
    }

    /// From where a view is read again that was applied up to `applied`, as a shell finds it: `resync_ms` before
    /// the newest committed record below.
    pub fn resync_from(&self, topic: Topic, partition: i32, applied: i64, resync_ms: i64) -> i64 {
        let newest = (0..applied).rev().find_map(|offset| {
            self.at(topic, partition, offset).map(|(message, _)| (offset, message.time_ms))
        });
        newest.map_or(applied, |(offset, time_ms)| {
            self.offset_at(topic, partition, time_ms - resync_ms).min(offset)
        })
    }

    /// The record at an offset, where it is committed.
    pub fn at(&self, topic: Topic, partition: i32, offset: i64) -> Option<(&Message, Shape)> {
        let known = self.partitions.get(&(topic, partition))?;
        match known.slots.get(usize::try_from(offset).ok()?)? {
            Slot::Record { message, shape, txn } => {
                let visible = txn.is_none_or(|txn| self.fates.get(&txn) == Some(&Fate::Committed));
                visible.then_some((message.as_ref(), *shape))
            }
            Slot::Marker => None,
        }
    }
}

fn end(partition: &Partition) -> i64 {
    i64::try_from(partition.slots.len()).unwrap_or(i64::MAX)
}
