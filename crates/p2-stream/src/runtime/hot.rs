//! Which lanes stay in memory: the ones used last.

use std::collections::{BTreeMap, BTreeSet};

use super::Runtime;
use super::lanes::LaneKey;
use crate::processor::Processor;

/// Lanes looked at per lane that has to go: the oldest may all be waiting for something.
const LOOK_PER_LANE: usize = 4;
/// Lanes looked at in any case.
const LOOK_AT_LEAST: usize = 64;

/// Lanes with a view that are in memory, by their last use.
#[derive(Debug, Default)]
pub(super) struct Hot {
    uses: u64,
    by_use: BTreeMap<u64, LaneKey>,
    last: BTreeMap<LaneKey, u64>,
}

impl Hot {
    pub(super) fn touch(&mut self, lane: &LaneKey) {
        self.uses += 1;
        if let Some(before) = self.last.insert(lane.clone(), self.uses) {
            self.by_use.remove(&before);
        }
        self.by_use.insert(self.uses, lane.clone());
    }

    fn remove(&mut self, lane: &LaneKey) {
        if let Some(before) = self.last.remove(lane) {
            self.by_use.remove(&before);
        }
    }

    pub(super) fn forget(&mut self, partition: i32) {
        self.last.retain(|(of, _), _| *of != partition);
        self.by_use.retain(|_, (of, _)| *of != partition);
    }
}

impl<P: Processor> Runtime<P> {
    /// Drops the lanes unused for longest where there are more than may be. A lane stays while anything of it is
    /// under way: uncommitted, without its rows in the store, waiting, calling.
    pub(super) fn evict(&mut self) {
        let spare = self.lanes.len().saturating_sub(self.limits.lanes_max);
        if spare == 0 {
            return;
        }
        let unwritten = self.partitions.values().flat_map(|partition| &partition.to_write);
        let mut kept: BTreeSet<&str> = unwritten.map(|(_, record)| record.key()).collect();
        kept.extend(self.building.iter().map(|part| part.key.as_str()));
        kept.extend(self.sealed.iter().flat_map(|sealed| sealed.parts.iter().map(|part| part.key.as_str())));
        kept.extend(self.calls.values().map(|call| call.key.as_str()));
        kept.extend(self.queued.iter().map(|(_, _, key, _)| key.as_str()));
        let look = spare.saturating_mul(LOOK_PER_LANE).saturating_add(LOOK_AT_LEAST);
        let evicted: Vec<LaneKey> = self
            .hot
            .by_use
            .values()
            .take(look)
            .filter(|lane| {
                // Rows on their way to the store are those of the whole partition's last write.
                let written = self.partitions.get(&lane.0).is_some_and(|owned| owned.writing.is_none());
                written
                    && !kept.contains(lane.1.as_str())
                    && self.lanes.get(*lane).is_some_and(super::lanes::Lane::is_idle)
            })
            .take(spare)
            .cloned()
            .collect();
        for lane in evicted {
            self.lanes.remove(&lane);
            self.hot.remove(&lane);
        }
    }
}
