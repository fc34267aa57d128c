//! `trace REF`: what led to a record, and what followed from it.

use std::collections::{BTreeMap, BTreeSet};

use p2_core::ids::Id;
use p2_core::record::Topic;

use super::{Run, data_of};
use crate::engine::{EngineError, EngineResult, RecordView, RecordsQuery};

/// Records read at a time.
const PAGE: usize = 1_000;

/// Prints the whole causal tree around a record; `▶` marks the record asked for.
pub(crate) async fn run(run: &Run, reference: Id) -> EngineResult<()> {
    let mut records = all(run).await?;
    records.sort_by(|a, b| {
        (a.time_ms, &a.topic, a.partition, a.offset).cmp(&(b.time_ms, &b.topic, b.partition, b.offset))
    });
    let tree = tree(&records, reference)
        .ok_or_else(|| EngineError::NotFound(format!("no record, cause or wait has the id {reference}")))?;
    let data: Vec<&RecordView> = tree.iter().map(|(_, record)| *record).collect();
    run.show(&data_of(&data)?, || {
        let lines = tree.iter().map(|(depth, record)| {
            let mark = if record.id == reference { "▶ " } else { "  " };
            let indent = "  ".repeat(*depth);
            let width =
                run.out.width.saturating_sub(u16::try_from(2 * depth + 2).unwrap_or(u16::MAX)).max(40);
            format!("{mark}{indent}{}", super::inspect::line(record, width))
        });
        lines.collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

async fn all(run: &Run) -> EngineResult<Vec<RecordView>> {
    let mut records = Vec::new();
    for count in run.engine.topic_counts().await? {
        let Some(topic) = Topic::parse(&count.topic) else { continue };
        for (partition, (first, end)) in (0..).zip(count.partitions) {
            let mut from = first;
            while from < end {
                let query = RecordsQuery { topic, partition: Some(partition), from, max: PAGE };
                let page = run.engine.records(&query).await?;
                let Some(last) = page.last() else { break };
                from = last.offset + 1;
                records.extend(page);
            }
        }
    }
    Ok(records)
}

/// From the first cause down, depth first: (depth, record). A cause that is no record (a wait, a model's
/// reply) joins its consequences without a line of its own.
pub(crate) fn tree(records: &[RecordView], reference: Id) -> Option<Vec<(usize, &RecordView)>> {
    let mut by_id: BTreeMap<Id, &RecordView> = BTreeMap::new();
    let mut caused: BTreeMap<Id, Vec<&RecordView>> = BTreeMap::new();
    for record in records {
        by_id.entry(record.id).or_insert(record);
        if record.cause != record.id {
            caused.entry(record.cause).or_default().push(record);
        }
    }
    if !by_id.contains_key(&reference) && !caused.contains_key(&reference) {
        return None;
    }
    let mut root = reference;
    let mut above = BTreeSet::from([root]);
    while let Some(cause) = by_id.get(&root).map(|record| record.cause).filter(|cause| above.insert(*cause)) {
        root = cause;
    }
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![(0, root)];
    while let Some((depth, id)) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let record = by_id.get(&id);
        found.extend(record.map(|record| (depth, *record)));
        let deeper = depth + usize::from(record.is_some());
        open.extend(caused.get(&id).into_iter().flatten().rev().map(|record| (deeper, record.id)));
    }
    Some(found)
}
