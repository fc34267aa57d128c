//! What was written to the store lately: by this, a lane that comes back from it is measured.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Lanes remembered for one partition. Over that, those written longest ago are forgotten before their time: a
/// partition in which more conversations than this change within `resync_ms` has to trust its store.
const LANES_MAX: usize = 50_000;
/// In how many steps `resync_ms` passes: an acknowledgement is kept up to one step longer.
const STEPS: i64 = 64;

/// The newest record of every lane whose rows a store that loses its newest ones may lose.
///
/// A lane is one entry, however many transitions it had; acknowledgements are one entry for each step of time. So
/// a million records within the time take no more than [`LANES_MAX`] entries.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    /// Lane → offset and `seq` of its newest record.
    lanes: BTreeMap<Arc<str>, (i64, i64)>,
    /// The same by offset.
    by_offset: BTreeMap<i64, Arc<str>>,
    /// When rows are safe, by the clock of this process → the offset below which they are.
    safe: BTreeMap<i64, i64>,
}

impl Recent {
    /// A record of a lane is in the log, and its row is to be written. Ascending in offsets.
    pub(super) fn remember(&mut self, offset: i64, key: &str, seq: i64) {
        let lane = self.lanes.get_key_value(key).map_or_else(|| Arc::from(key), |(lane, _)| lane.clone());
        if let Some((before, _)) = self.lanes.insert(lane.clone(), (offset, seq)) {
            self.by_offset.remove(&before);
        }
        self.by_offset.insert(offset, lane);
        while self.by_offset.len() > LANES_MAX {
            self.forget_oldest();
        }
    }

    /// The rows below `applied` are acknowledged at `now_ms`. They are forgotten `resync_ms` later: by then, they
    /// are safe. The time of the acknowledgement counts and not that of the record, since it is the newest
    /// *writes* that a store loses, and old records are written too, at catch-up.
    pub(super) fn acknowledged(&mut self, applied: i64, now_ms: i64, resync_ms: i64) {
        let step = (resync_ms / STEPS).max(1);
        let due = now_ms.saturating_add(resync_ms);
        let due = due.saturating_add(step - 1) / step * step;
        let due = if resync_ms == 0 { now_ms } else { due };
        let below = self.safe.entry(due).or_default();
        *below = applied.max(*below);
        while let Some((at, below)) = self.safe.first_key_value().map(|(at, below)| (*at, *below))
            && at <= now_ms
        {
            self.safe.remove(&at);
            while self.by_offset.first_key_value().is_some_and(|(offset, _)| *offset < below) {
                self.forget_oldest();
            }
        }
    }

    /// Whether a lane whose newest row is `found` has all its rows, as far as we remember them.
    pub(super) fn is_whole(&self, key: &str, found: Option<i64>) -> bool {
        let newest = self.lanes.get(key).map(|(_, seq)| *seq);
        newest.is_none_or(|newest| found.is_some_and(|found| found >= newest))
    }

    fn forget_oldest(&mut self) {
        if let Some((_, lane)) = self.by_offset.pop_first() {
            self.lanes.remove(&lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_measured_until_its_rows_were_acknowledged_for_long_enough() {
        let mut recent = Recent::default();
        recent.remember(0, "c", 0);
        recent.remember(1, "c", 1);
        assert!(recent.is_whole("other", None));
        assert!(!recent.is_whole("c", None));
        assert!(!recent.is_whole("c", Some(0)));
        assert!(recent.is_whole("c", Some(1)));
        recent.acknowledged(2, 10_000, 60_000);
        recent.acknowledged(2, 69_999, 60_000);
        assert!(!recent.is_whole("c", Some(0)), "the store may still lose it");
        recent.acknowledged(2, 71_000, 60_000);
        assert!(recent.is_whole("c", Some(0)), "it is on disk by now");
        assert!(recent.lanes.is_empty() && recent.by_offset.is_empty());
    }

    #[test]
    fn what_is_not_acknowledged_is_not_forgotten_however_old_it_is() {
        let mut recent = Recent::default();
        recent.remember(0, "old", 0);
        recent.remember(1, "new", 0);
        recent.acknowledged(1, 0, 100);
        recent.acknowledged(1, 1_000_000, 100);
        assert!(recent.is_whole("old", None));
        assert!(!recent.is_whole("new", None));
    }

    #[test]
    fn a_million_records_within_the_time_take_bounded_memory() {
        let mut recent = Recent::default();
        let keys: Vec<String> = (0..60_000).map(|n| format!("conversation-{n}")).collect();
        for offset in 0..1_000_000_i64 {
            let key = &keys[usize::try_from(offset).unwrap() % keys.len()];
            recent.remember(offset, key, offset);
            if offset % 500 == 0 {
                recent.acknowledged(offset, offset / 20, 60_000);
            }
        }
        assert_eq!((recent.lanes.len(), recent.by_offset.len()), (LANES_MAX, LANES_MAX));
        assert!(recent.safe.len() <= 66, "{}", recent.safe.len());
        let newest = &keys[999_999 % keys.len()];
        assert!(!recent.is_whole(newest, Some(0)), "the newest are kept");
    }
}
