//! `trace REF`: what led to a record, and what followed from it.

use std::collections::{BTreeMap, BTreeSet};

use p2_core::ids::Id;
use p2_core::record::Topic;
use serde_json::Value;

use super::{Run, data_of};
use crate::engine::{EngineError, EngineResult, RecordView, RecordsQuery};

/// Records read at a time.
const PAGE: usize = 1_000;

/// Prints the whole causal tree around a record; `▶` marks the record asked for.
pub(crate) async fn run(run: &Run, reference: &str) -> EngineResult<()> {
    let mut records = all(run).await?;
    let rank = |record: &RecordView| Topic::ALL.iter().position(|topic| topic.short() == record.topic);
    records.sort_by_key(|record| (record.time_ms, rank(record), record.partition, record.offset));
    let aliases = aliases(&records);
    let reference = resolve(&records, &aliases, reference)?;
    let reference = aliases.get(&reference).copied().unwrap_or(reference);
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

/// The id that is meant: in full, by its beginning, or by the record's place.
fn resolve(records: &[RecordView], aliases: &BTreeMap<Id, Id>, reference: &str) -> EngineResult<Id> {
    if reference.contains('/') {
        let short = |record: &&RecordView| place(record) == reference;
        let full = |record: &&RecordView| {
            let topic = Topic::parse(&record.topic).map_or_else(String::new, |topic| topic.name());
            format!("{topic}/{}/{}", record.partition, record.offset) == reference
        };
        let found = records.iter().find(short).or_else(|| records.iter().find(full));
        let missing = || EngineError::NotFound(format!("there is no record at {reference}"));
        return found.map(|record| record.id).ok_or_else(missing);
    }
    let hex = reference.len() >= 4 && reference.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !hex || reference.len() > 32 {
        let text = format!("'{reference}' is no id: give 4 to 32 hex digits, or TOPIC/PARTITION/OFFSET");
        return Err(EngineError::Invalid(text));
    }
    let wanted = reference.to_ascii_lowercase();
    let ids = records.iter().flat_map(|record| [record.id, record.cause]);
    let ids = ids.chain(aliases.keys().copied());
    let found: BTreeSet<Id> = ids.filter(|id| id.to_string().starts_with(&wanted)).collect();
    match (found.first(), found.len()) {
        (Some(id), 1) => Ok(*id),
        (None, _) => Err(EngineError::NotFound(format!(
            "no record, cause or wait has an id that begins with {reference}"
        ))),
        (_, many) => Err(EngineError::Invalid(format!("{many} ids begin with {reference}: give more of it"))),
    }
}

fn place(record: &RecordView) -> String {
    format!("{}/{}/{}", record.topic, record.partition, record.offset)
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

/// What is no record and has an id: a wait, its reply and its timer stand for the transition that opened it, a tool
/// call for its effect, a payment or reservation for the record that asked for it, or for its transaction where that is
/// kept no longer. In the order of `records`: the first one counts.
fn aliases(records: &[RecordView]) -> BTreeMap<Id, Id> {
    let mut aliases = BTreeMap::new();
    for record in records {
        if record.topic == Topic::StateTransitions.short() {
            for wait in waits(&record.value) {
                let inputs = ["reply", "timer"].map(|input| Id::derive(&wait, input, 0));
                for id in std::iter::once(wait).chain(inputs) {
                    aliases.entry(id).or_insert(record.id);
                }
            }
        } else if record.topic == Topic::Effects.short() {
            for call in ["call", "reconcile"] {
                aliases.entry(Id::derive(&record.id, call, 0)).or_insert(record.id);
            }
        } else if let Some(payment) = payment(record) {
            aliases.entry(payment).or_insert(record.id);
        }
    }
    aliases
}

/// The id of the payment request that a record is, or answers.
fn payment(record: &RecordView) -> Option<Id> {
    let request = if record.topic == Topic::PaymentRequests.short() {
        &record.value
    } else if record.topic == Topic::LedgerTransactions.short() {
        record.value.get("request")?
    } else {
        return None;
    };
    let id = request.get("id")?.as_str()?.parse().ok()?;
    (id != record.id).then_some(id)
}

/// The ids of all waits in a value.
fn waits(value: &Value) -> Vec<Id> {
    let mut found = Vec::new();
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(fields) => {
                let id = fields.get("Waiting").and_then(|waiting| waiting.get("id")).and_then(Value::as_str);
                found.extend(id.and_then(|id| id.parse::<Id>().ok()));
                open.extend(fields.values());
            }
            _ => {}
        }
    }
    found
}

/// From the first cause down, depth first: (depth, record). A cause that is neither a record nor stands for one
/// joins its consequences without a line of its own.
pub(crate) fn tree(records: &[RecordView], reference: Id) -> Option<Vec<(usize, &RecordView)>> {
    let aliases = aliases(records);
    let real = |id: Id| aliases.get(&id).copied().unwrap_or(id);
    let reference = real(reference);
    let mut by_id: BTreeMap<Id, &RecordView> = BTreeMap::new();
    let mut caused: BTreeMap<Id, Vec<&RecordView>> = BTreeMap::new();
    for record in records {
        by_id.entry(record.id).or_insert(record);
        if record.cause != record.id {
            caused.entry(real(record.cause)).or_default().push(record);
        }
    }
    if !by_id.contains_key(&reference) && !caused.contains_key(&reference) {
        return None;
    }
    let mut root = reference;
    let mut above = BTreeSet::from([root]);
    while let Some(cause) =
        by_id.get(&root).map(|record| real(record.cause)).filter(|cause| above.insert(*cause))
    {
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
