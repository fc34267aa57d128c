//! What others saw: the store, and a reader that read along while everything broke.

use std::collections::{BTreeMap, BTreeSet};

use p2_core::conversation::Conversation;
use p2_core::ids::{ConversationId, Id};
use p2_core::record::{StateTransition, Topic};

use super::{Index, Verdict};
use crate::chaos::history::Event;

/// Offsets and ids, ascending.
type Sequence = Vec<(i64, Option<Id>)>;

pub(super) fn check(index: &Index<'_>, verdict: &mut Verdict) {
    read_along(index, verdict);
    store(index, verdict);
}

/// Whoever read along saw every committed record once, in order, and nothing else.
fn read_along(index: &Index<'_>, verdict: &mut Verdict) {
    let mut seen: BTreeMap<(Topic, i32), Sequence> = BTreeMap::new();
    for line in &index.evidence.history {
        if let Event::Seen { topic, partition, offset, id } = &line.event
            && let Some(topic) = Topic::parse(topic)
        {
            seen.entry((topic, *partition)).or_default().push((*offset, *id));
        }
    }
    if seen.is_empty() && !index.evidence.topics.values().all(Vec::is_empty) {
        return verdict.broken("nobody read along: the live reader saw nothing".to_owned());
    }
    for (&(topic, partition), records) in &index.evidence.topics {
        let seen = seen.remove(&(topic, partition)).unwrap_or_default();
        verdict.count("records read along", seen.len());
        let lying: Sequence = records
            .iter()
            .map(|(offset, record)| (*offset, record.as_ref().ok().map(|message| message.id)))
            .collect();
        let Some(at) = (0..seen.len().max(lying.len())).find(|at| seen.get(*at) != lying.get(*at)) else {
            continue;
        };
        let place = format!("{}/{partition}", topic.short());
        verdict.broken(match (seen.get(at), lying.get(at)) {
            (Some((offset, _)), None) => format!("{place}: the live reader saw {offset}, which is not there"),
            (None, Some((offset, _))) => format!("{place}: the live reader never saw {offset}"),
            (Some((saw, _)), Some((is, _))) if saw < is => {
                format!("{place}: the live reader saw {saw}, which was not committed or was seen before")
            }
            (Some((saw, _)), Some((is, _))) => format!("{place}: the live reader saw {saw} and not {is}"),
            (None, None) => continue,
        });
    }
}

/// The store is the fold of the log.
fn store(index: &Index<'_>, verdict: &mut Verdict) {
    let store = &index.evidence.store;
    let mut open: BTreeMap<i32, BTreeSet<ConversationId>> = BTreeMap::new();
    let mut newest: BTreeMap<i32, i64> = BTreeMap::new();
    for (key, lying) in &index.transitions {
        let truth: Vec<&StateTransition> = lying.iter().map(|(.., transition)| *transition).collect();
        let kept = store.transitions.get(*key).map(Vec::as_slice).unwrap_or_default();
        if let Some(at) = (0..truth.len().max(kept.len())).find(|at| truth.get(*at).copied() != kept.get(*at))
        {
            verdict.broken(format!(
                "{key}: the store has {} transitions, the log {}; the first that differs is {at}",
                kept.len(),
                truth.len()
            ));
        }
        let length = i64::try_from(truth.len()).unwrap_or(i64::MAX);
        match store.listed.get(*key) {
            Some(listed) if *listed == length => {}
            listed => verdict
                .broken(format!("{key}: the list of the store says {listed:?} transitions of {length}")),
        }
        let mut conversation = Conversation::default();
        let folded = truth.iter().try_for_each(|transition| conversation.apply(transition));
        if let (Ok(()), Some((partition, ..))) = (folded, lying.first())
            && !conversation.waits.is_empty()
        {
            open.entry(*partition).or_default().insert((*key).clone());
        }
        for (partition, offset, _) in lying {
            let newest = newest.entry(*partition).or_default();
            *newest = (*newest).max(*offset + 1);
        }
    }
    for key in store.listed.keys().filter(|key| !index.transitions.contains_key(key)) {
        verdict.broken(format!("{key}: the store lists it, and the log does not know it"));
    }
    for (partition, listed) in &store.open {
        let listed: BTreeSet<ConversationId> = listed.iter().cloned().collect();
        let expected = open.remove(partition).unwrap_or_default();
        if let Some(key) = listed.symmetric_difference(&expected).next() {
            let whether =
                if expected.contains(key) { "open waits and is not" } else { "no open waits and is" };
            verdict.broken(format!("{key}: it has {whether} in the store's list of open conversations"));
        }
    }
    for (partition, newest) in &newest {
        let applied = store.applied.get(partition).copied().unwrap_or(0);
        if applied < *newest {
            verdict.broken(format!(
                "partition {partition} is applied up to {applied}, and the log goes to {newest}"
            ));
        }
    }
    verdict.count("conversations compared with the store", index.transitions.len());
}
