//! The store: immutable rows fed from the log, an applied offset per partition, and tails that vanish.

use std::collections::BTreeMap;

use p2_core::record::StateTransition;

#[derive(Clone, Debug)]
struct Row {
    transition: StateTransition,
    /// When it was first written: writing it again changes nothing.
    written_ms: i64,
}

/// Rows by (partition, offset).
#[derive(Clone, Debug, Default)]
pub struct SimStore {
    rows: BTreeMap<(i32, i64), Row>,
    applied: BTreeMap<i32, i64>,
}

impl SimStore {
    /// Writes rows; with `applied`, notes that too (it only grows: its timestamp is the log offset).
    ///
    /// # Errors
    /// A row that is there with another value.
    pub fn write(
        &mut self,
        partition: i32,
        rows: &[(i64, StateTransition)],
        applied: Option<i64>,
        now_ms: i64,
    ) -> Result<(), String> {
        for (offset, transition) in rows {
            let new = || Row { transition: transition.clone(), written_ms: now_ms };
            let row = self.rows.entry((partition, *offset)).or_insert_with(new);
            if row.transition != *transition {
                return Err(format!("row {partition}/{offset} would change"));
            }
        }
        if let Some(applied) = applied {
            let known = self.applied.entry(partition).or_default();
            *known = applied.max(*known);
        }
        Ok(())
    }

    /// The applied offset.
    pub fn applied(&self, partition: i32) -> i64 {
        self.applied.get(&partition).copied().unwrap_or(0)
    }

    /// Loses acknowledged rows, those at `from` or above that were first written after a time, and keeps the
    /// applied offset. Returns how many.
    pub fn lose(&mut self, partition: i32, from: i64, after_ms: i64) -> usize {
        let before = self.rows.len();
        self.rows.retain(|(known, offset), row| {
            *known != partition || *offset < from || row.written_ms <= after_ms
        });
        before - self.rows.len()
    }

    /// Whether a row is there.
    pub fn has(&self, partition: i32, offset: i64) -> bool {
        self.rows.contains_key(&(partition, offset))
    }

    /// All rows of a partition.
    pub fn rows(&self, partition: i32) -> Vec<(i64, &StateTransition)> {
        self.rows
            .range((partition, i64::MIN)..=(partition, i64::MAX))
            .map(|((_, offset), row)| (*offset, &row.transition))
            .collect()
    }

    /// The rows of one conversation, in order.
    pub fn load(&self, partition: i32, key: &str) -> Vec<StateTransition> {
        let mut rows: Vec<_> = self
            .rows(partition)
            .into_iter()
            .filter(|(_, transition)| transition.conversation.as_str() == key)
            .map(|(_, transition)| transition.clone())
            .collect();
        rows.sort_by_key(|transition| transition.seq);
        rows
    }

    /// Rows by conversation.
    pub fn conversations(&self, partition: i32) -> BTreeMap<String, Vec<StateTransition>> {
        let mut found: BTreeMap<String, Vec<StateTransition>> = BTreeMap::new();
        for (_, transition) in self.rows(partition) {
            found.entry(transition.conversation.0.clone()).or_default().push(transition.clone());
        }
        found
    }
}
