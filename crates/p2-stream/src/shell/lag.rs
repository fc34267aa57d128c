//! How much of its input partitions a process has not done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use p2_core::record::Topic;

use super::gauge::{Gauge, offsets};
use crate::metrics::Metric;
use crate::outage::{self, Part};
use crate::ports::Log;

/// Among so many offsets at the end there is a record, where there is one to be done and not only ends of
/// transactions.
const NEWEST: i64 = 16;

/// Ends of partitions up to which there is nothing but ends of transactions.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends(Arc<Mutex<BTreeMap<i32, i64>>>);

impl Ends {
    fn known(&self, partition: i32) -> Option<i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).copied()
    }

    fn note(&self, partition: i32, end: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, end);
    }
}

/// Offsets that are not done, between the low watermark and the end; none where everything delivered is done and no
/// record was written since: on Kafka the last offset of a partition is mostly the end of a transaction.
fn lag(low: i64, next: i64, end: i64, newest: Option<i64>) -> i64 {
    let nothing_new = newest.is_none_or(|newest| newest < next);
    if low == next && nothing_new { 0 } else { (end - low).max(0) }
}

/// Measures what was done (`low`) and delivered (`next`) of a partition against its end.
pub(super) async fn measure(
    gauge: &Gauge,
    ends: &Ends,
    log: &dyn Log,
    input: Topic,
    (partition, low, next): (i32, i64, i64),
) {
    let label = partition.to_string();
    let labels = [gauge.name, label.as_str()];
    gauge.metrics.set(Metric::WindowOffsets, &labels, offsets(next - low));
    let Ok((_, end)) = log.bounds(input, partition).await else { return };
    outage::answered(Part::Log);
    let mut found = (end - low).max(0);
    if low == next && (1..=NEWEST).contains(&(end - next)) {
        if ends.known(partition) == Some(end) {
            found = 0;
        } else if let Ok(newest) = log.newest(input, partition, NEWEST).await {
            found = lag(low, next, end, newest.last().map(|newest| newest.offset));
        }
        if found == 0 {
            ends.note(partition, end);
        }
    }
    gauge.metrics.set(Metric::ConsumerLagRecords, &labels, offsets(found));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_transaction_is_nothing_to_be_done() {
        // low, next, end, newest record, lag
        for (low, next, end, newest, expected) in [
            (5, 5, 6, Some(4), 0),
            (5, 5, 6, None, 0),
            (5, 5, 7, Some(5), 2),
            (4, 5, 6, Some(4), 2),
            (5, 5, 5, Some(4), 0),
        ] {
            assert_eq!(lag(low, next, end, newest), expected, "{low} {next} {end} {newest:?}");
        }
    }
}
