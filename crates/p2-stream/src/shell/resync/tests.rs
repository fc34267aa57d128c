use async_trait::async_trait;
use p2_core::record::Position;

use super::*;
use crate::ports::{Follower, Headers, Member, NewRecord};

const VIEW: Topic = Topic::StateTransitions;

/// One partition with records at some offsets only, as transactions leave it.
struct Sparse {
    start: i64,
    end: i64,
    /// (offset, time in milliseconds), ascending in offsets.
    records: Vec<(i64, i64)>,
}

impl Sparse {
    /// A record every second at every third offset.
    fn regular(count: i64) -> Sparse {
        let records = (0..count).map(|n| (n * 3, n * 1_000)).collect();
        Sparse { start: 0, end: count * 3, records }
    }
}

fn refused<T>() -> Result<T, LogError> {
    Err(LogError::Refused("not here".to_owned()))
}

#[async_trait]
impl Log for Sparse {
    fn partitions(&self, _: Topic) -> i32 {
        1
    }

    async fn append(&self, _: Vec<NewRecord>) -> Result<Vec<Position>, LogError> {
        refused()
    }

    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        if from < self.start {
            return Err(LogError::before_start(topic, partition, from, self.start));
        }
        let kept = self.records.iter().filter(|(offset, _)| *offset >= from).take(max);
        Ok(kept
            .map(|(offset, time_ms)| {
                let (key, headers, value) = (String::new(), Headers::default(), Vec::new());
                let record = NewRecord { topic, partition, key, headers, value, time_ms: *time_ms };
                StoredRecord { offset: *offset, record }
            })
            .collect())
    }

    async fn bounds(&self, _: Topic, _: i32) -> Result<(i64, i64), LogError> {
        Ok((self.start, self.end))
    }

    async fn follow(&self, _: Vec<(Topic, i32, i64)>) -> Result<Box<dyn Follower>, LogError> {
        refused()
    }

    async fn join(&self, _: &str, _: &[Topic]) -> Result<Box<dyn Member>, LogError> {
        refused()
    }
}

const LATE: i64 = 1_000_000_000;

/// The first record that is read again; where there is none, the offset.
async fn from(log: &Sparse, applied: i64, now_ms: i64) -> i64 {
    let from = start(log, VIEW, 0, applied, 60_000, now_ms).await.unwrap();
    assert!(from <= applied);
    log.records.iter().map(|(offset, _)| *offset).find(|offset| *offset >= from).unwrap_or(from)
}

#[tokio::test]
async fn a_minute_of_the_logs_own_time_is_read_again_however_long_ago_that_was() {
    let log = Sparse::regular(1_000);
    // The record below 2,998 has offset 2,997 and came at 999 s: from 939 s on.
    assert_eq!(from(&log, 2_998, LATE).await, 939 * 3);
    assert_eq!(from(&log, 1_501, LATE).await, 440 * 3);
}

#[tokio::test]
async fn the_applied_offset_may_lie_behind_markers_and_aborted_records() {
    let log = Sparse { end: 5_000, ..Sparse::regular(1_000) };
    for applied in [2_998, 2_999, 3_000, 3_001] {
        assert_eq!(from(&log, applied, LATE).await, 939 * 3, "applied up to {applied}");
    }
    for applied in [3_100, 4_000, 5_000] {
        let found = from(&log, applied, LATE).await;
        assert!((0..=939 * 3).contains(&found), "applied up to {applied}: from {found}");
    }
}

#[tokio::test]
async fn what_is_shorter_than_a_minute_is_read_again_whole() {
    assert_eq!(from(&Sparse::regular(40), 120, LATE).await, 0);
    assert_eq!(from(&Sparse::regular(1), 1, LATE).await, 0);
}

#[tokio::test]
async fn where_nothing_was_applied_or_nothing_is_kept_below_there_is_nothing_to_read_again() {
    assert_eq!(from(&Sparse::regular(40), 0, LATE).await, 0);
    let aborted = Sparse { start: 0, end: 90, records: Vec::new() };
    assert_eq!(from(&aborted, 90, LATE).await, 90);
    let deleted = Sparse { start: 30, ..Sparse::regular(40) };
    assert_eq!(from(&deleted, 30, LATE).await, 30);
    assert_eq!(from(&deleted, 60, LATE).await, 30, "never below the log's start");
    // What lies in between is gone: reading there says so, and reading higher up would skip it in silence.
    assert_eq!(start(&deleted, VIEW, 0, 20, 60_000, LATE).await.unwrap(), 20);
}

#[tokio::test]
async fn a_minute_without_records_does_not_count_as_nothing_lost() {
    // Five records in a row after a day of rest, and two before it.
    let day = 86_400_000;
    let times = [0, 1, day, day + 1, day + 2, day + 3, day + 4];
    let records: Vec<(i64, i64)> = (500..).zip(times).collect();
    let log = Sparse { start: 0, end: 507, records };
    // Offsets below count too: the rest may have been a clock that was set.
    assert_eq!(from(&log, 507, LATE * 10).await, 500);
}

#[tokio::test]
async fn a_record_from_the_future_does_not_hide_the_ones_before_it() {
    let mut log = Sparse::regular(1_000);
    log.records.last_mut().unwrap().1 = LATE;
    assert_eq!(from(&log, 2_998, 999_500).await, 940 * 3, "a minute before now");
    // Where our own clock is wrong as well, the newest are read again whatever their times say.
    assert_eq!(from(&log, 2_998, LATE).await, 2_898 / 3 * 3);
}

#[tokio::test]
async fn a_record_from_the_past_makes_more_be_read_and_not_less() {
    let mut log = Sparse::regular(1_000);
    log.records.last_mut().unwrap().1 = 5_000;
    assert_eq!(from(&log, 2_998, LATE).await, 0);
    // Two clocks, two seconds apart, in turns.
    let mut log = Sparse::regular(1_000);
    for (offset, time_ms) in &mut log.records {
        *time_ms -= *offset % 2 * 2_000;
    }
    let found = from(&log, 2_998, LATE).await;
    let truly = 939 * 3;
    assert!((truly - 9..=truly + 6).contains(&found), "{found}: off by what the clocks differ at most");
}
