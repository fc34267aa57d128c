//! What the topics say alone: nothing lost, nothing twice, one answer for each.

use std::collections::BTreeMap;

use p2_core::definition::Executor;
use p2_core::ids::Id;
use p2_core::record::{ArtifactBody, Effect, EffectBody, Payload, Topic, Verdict as Said};

use super::{Index, Verdict};
use crate::chaos::history::Event;

pub(super) fn check(index: &Index<'_>, verdict: &mut Verdict) {
    readable(index, verdict);
    acknowledged(index, verdict);
    once(index, verdict);
    outcomes(index, verdict);
    letters(index, verdict);
    answered(index, verdict);
}

/// Every record can be read, but for what people made unreadable; what people did not write has no twin.
fn readable(index: &Index<'_>, verdict: &mut Verdict) {
    for (&(topic, partition), records) in &index.evidence.topics {
        verdict.count("records", records.len());
        for (offset, record) in records {
            let known = topic == Topic::Inbox && index.poison.contains(&(partition, *offset));
            if let Err(why) = record
                && !known
            {
                verdict.broken(format!("{}/{partition}/{offset} cannot be read: {why}", topic.short()));
            }
        }
    }
}

/// What was acknowledged lies where the log said, and nothing lies there that nobody wrote.
fn acknowledged(index: &Index<'_>, verdict: &mut Verdict) {
    let lying: BTreeMap<(i32, i64), Id> = index
        .inbox
        .iter()
        .chain(&index.misplaced)
        .map(|lying| ((lying.partition, lying.offset), lying.message.id))
        .collect();
    for line in &index.evidence.history {
        if let Event::Poisoned { partition, offset } = &line.event
            && !index.poison.contains(&(*partition, *offset))
        {
            verdict.broken(format!("poison was acknowledged at inbox/{partition}/{offset} and is not there"));
        }
        let Event::Acknowledged { id, partition, offset } = &line.event else { continue };
        verdict.count("acknowledged inputs", 1);
        match lying.get(&(*partition, *offset)) {
            Some(found) if found == id => {}
            Some(found) => verdict.broken(format!(
                "input {id} was acknowledged at inbox/{partition}/{offset}, where {found} lies"
            )),
            None => verdict.broken(format!(
                "input {id} was acknowledged at inbox/{partition}/{offset} and is not there: it is lost"
            )),
        }
    }
}

/// No record is written twice by a processor.
fn once(index: &Index<'_>, verdict: &mut Verdict) {
    let topics = [
        Topic::Inbox,
        Topic::StateTransitions,
        Topic::Effects,
        Topic::Artifacts,
        Topic::PaymentRequests,
        Topic::LedgerTransactions,
    ];
    for topic in topics {
        let mut first: BTreeMap<Id, (i32, i64)> = BTreeMap::new();
        for (partition, offset, record) in index.of(topic) {
            let Ok(message) = record else { continue };
            if may_be_there_again(index, message) {
                continue;
            }
            if let Some((at, earlier)) = first.insert(message.id, (partition, offset)) {
                let topic = topic.short();
                verdict.broken(format!(
                    "{topic} {} was committed twice: at {at}/{earlier} and at {partition}/{offset}",
                    message.id
                ));
            }
        }
    }
}

/// People may say a thing again, and then get to know again what became of it.
fn may_be_there_again(index: &Index<'_>, message: &p2_core::record::Message) -> bool {
    match &message.payload {
        Payload::Inbox(_) => index.sent.contains(&message.id),
        Payload::PaymentRequest(_) => index.asked.contains(&message.id),
        Payload::Artifact(artifact) => matches!(&artifact.body, ArtifactBody::InputOutcome(outcome)
            if outcome.outcome.verdict == Said::Duplicate),
        _ => false,
    }
}

/// Every input has exactly one outcome, and every copy of it says that it is one.
fn outcomes(index: &Index<'_>, verdict: &mut Verdict) {
    let mut said: BTreeMap<Id, Vec<Said>> = BTreeMap::new();
    for lying in &index.artifacts {
        if let Payload::Artifact(artifact) = &lying.message.payload
            && let ArtifactBody::InputOutcome(outcome) = &artifact.body
        {
            said.entry(outcome.input).or_default().push(outcome.outcome.verdict);
        }
    }
    let mut copies: BTreeMap<Id, usize> = BTreeMap::new();
    for lying in &index.inbox {
        *copies.entry(lying.message.id).or_default() += 1;
    }
    for lying in &index.misplaced {
        verdict.count("misplaced inputs", 1);
        copies.entry(lying.message.id).or_default();
    }
    verdict.count("inputs", copies.len());
    for (id, copies) in &copies {
        let said = said.remove(id).unwrap_or_default();
        let first = said.iter().filter(|said| **said != Said::Duplicate).count();
        match (first, said.len() == *copies) {
            (1, true) => {}
            (0, _) => verdict.broken(format!("input {id} lies in the inbox and has no outcome: it is lost")),
            (1, false) => verdict
                .broken(format!("input {id} lies in the inbox {copies} times and has outcomes {said:?}")),
            (more, _) => verdict.broken(format!("input {id} has {more} outcomes: {said:?}")),
        }
    }
    for id in said.keys().filter(|id| !copies.contains_key(id)) {
        verdict.broken(format!("an outcome names input {id}, which does not lie in the inbox"));
    }
}

/// What cannot be read has exactly one letter, and nothing else has any.
fn letters(index: &Index<'_>, verdict: &mut Verdict) {
    let mut letters: BTreeMap<(i32, i64), usize> = BTreeMap::new();
    for (.., record) in index.of(Topic::DeadLetters) {
        let Ok(Payload::DeadLetter(letter)) = record.as_ref().map(|message| &message.payload) else {
            continue;
        };
        let at = (letter.partition, letter.offset);
        if Topic::parse(&letter.topic) == Some(Topic::Inbox) && index.poison.contains(&at) {
            *letters.entry(at).or_default() += 1;
        } else {
            let place = format!("{}/{}/{}", letter.topic, letter.partition, letter.offset);
            verdict.broken(format!("{place} went to dead-letters: {}", letter.reason));
        }
    }
    verdict.count("poison records", index.poison.len());
    for at in &index.poison {
        let count = letters.get(at).copied().unwrap_or(0);
        if count != 1 {
            verdict.broken(format!("the poison at inbox/{}/{} has {count} dead letters", at.0, at.1));
        }
    }
}

/// Every call that `tool-exec` has to make is answered exactly once.
fn answered(index: &Index<'_>, verdict: &mut Verdict) {
    let mut answers: BTreeMap<Id, usize> = BTreeMap::new();
    for lying in &index.inbox {
        *answers.entry(lying.message.id).or_default() += 1;
    }
    for effect in index.effects.values().filter(|effect| is_ours(index, effect)) {
        verdict.count("effects", 1);
        let count = answers.get(&Id::derive(&effect.id, "outcome", 0)).copied().unwrap_or(0);
        if count != 1 {
            verdict.broken(format!("{}: effect {} has {count} answers", effect.conversation, effect.id));
        }
    }
}

fn is_ours(index: &Index<'_>, effect: &Effect) -> bool {
    let EffectBody::CallTool(call) = &effect.body else { return false };
    let tool = index.evidence.registry.tool(&call.tool, Some(call.version));
    tool.is_none_or(|(_, tool)| tool.executor == Executor::Builtin)
}
