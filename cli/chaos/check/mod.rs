//! The checker: what the log, the store and the outside world say, compared with what was promised. Pure.

mod judged;
mod log;
mod money;
mod outside;
mod steps;
#[cfg(test)]
mod tests;
mod views;

use std::collections::{BTreeMap, BTreeSet};

use p2_core::conversation::Conversation;
use p2_core::ids::{ConversationId, Id};
use p2_core::record::{
    ArtifactBody, Effect, LedgerTransaction, Message, Payload, PaymentRequest, StateTransition, Topic,
};
use p2_stream::wire;

use super::evidence::{Evidence, POISONED};
use super::history::Event;

/// What the checker found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Broken promises, one sentence each.
    pub(crate) violations: Vec<String>,
    /// How much was looked at, by what it is.
    pub(crate) checked: BTreeMap<&'static str, u64>,
    /// How often what happened in the conversations.
    pub(crate) features: BTreeMap<&'static str, u64>,
}

impl Verdict {
    fn count(&mut self, what: &'static str, number: usize) {
        *self.checked.entry(what).or_default() += number as u64;
    }

    fn broken(&mut self, why: String) {
        self.violations.push(why);
    }
}

/// A record and where it lies.
#[derive(Clone, Copy, Debug)]
struct Lying<'e> {
    partition: i32,
    offset: i64,
    message: &'e Message,
}

/// The evidence, sorted for the checks.
struct Index<'e> {
    evidence: &'e Evidence,
    /// What lies in the inbox, in the partition of its key.
    inbox: Vec<Lying<'e>>,
    /// What people wrote into a partition of others: it is written again where it belongs.
    misplaced: Vec<Lying<'e>>,
    artifacts: Vec<Lying<'e>>,
    effects: BTreeMap<Id, &'e Effect>,
    /// The transitions of each conversation as they lie there.
    transitions: BTreeMap<&'e ConversationId, Vec<(i32, i64, &'e StateTransition)>>,
    /// Requests to the ledger, in the order of their partition.
    requests: Vec<(Lying<'e>, &'e PaymentRequest)>,
    /// Transactions of the ledger, in the order of their partition.
    made: Vec<(Lying<'e>, &'e LedgerTransaction)>,
    /// Messages that people wrote, or tried to.
    sent: BTreeSet<Id>,
    /// Records of requests to the ledger that people wrote, or tried to.
    asked: BTreeSet<Id>,
    /// Where lies what people wrote that is no message: a log may have taken it twice.
    poison: BTreeSet<(i32, i64)>,
}

impl<'e> Index<'e> {
    fn new(evidence: &'e Evidence) -> Index<'e> {
        let mut index = Index {
            evidence,
            inbox: Vec::new(),
            misplaced: Vec::new(),
            artifacts: Vec::new(),
            effects: BTreeMap::new(),
            transitions: BTreeMap::new(),
            requests: Vec::new(),
            made: Vec::new(),
            asked: BTreeSet::new(),
            sent: BTreeSet::new(),
            poison: BTreeSet::new(),
        };
        for line in &evidence.history {
            match &line.event {
                Event::Sent { id, .. } => drop(index.sent.insert(*id)),
                Event::Asked { id, .. } => drop(index.asked.insert(*id)),
                _ => {}
            }
        }
        let partitions = evidence.partitions();
        for (&(topic, partition), records) in &evidence.topics {
            for (offset, record) in records {
                let Ok(message) = record else {
                    if topic == Topic::Inbox && record.as_ref().is_err_and(|why| why == POISONED) {
                        index.poison.insert((partition, *offset));
                    }
                    continue;
                };
                let lying = Lying { partition, offset: *offset, message };
                match &message.payload {
                    Payload::Inbox(inbox) => {
                        let placed = wire::partition(inbox.conversation.as_str(), partitions) == partition;
                        let of = if placed { &mut index.inbox } else { &mut index.misplaced };
                        of.push(lying);
                    }
                    Payload::Artifact(_) => index.artifacts.push(lying),
                    Payload::Effect(effect) => drop(index.effects.insert(effect.id, effect)),
                    Payload::Transition(transition) => {
                        let of = index.transitions.entry(&transition.conversation).or_default();
                        of.push((partition, *offset, transition));
                    }
                    Payload::PaymentRequest(request) => index.requests.push((lying, request)),
                    Payload::LedgerTransaction(made) => index.made.push((lying, made)),
                    Payload::Registry(_) | Payload::DeadLetter(_) => {}
                }
            }
        }
        index
    }

    fn of(&self, topic: Topic) -> impl Iterator<Item = (i32, i64, &'e Result<Message, String>)> {
        let of_topic = self.evidence.topics.iter().filter(move |((of, _), _)| *of == topic);
        of_topic.flat_map(|(&(_, partition), records)| {
            records.iter().map(move |(offset, record)| (partition, *offset, record))
        })
    }

    /// Effects whose intent is committed.
    fn claims(&self) -> BTreeSet<Id> {
        let intents = self.artifacts.iter().filter_map(|lying| match &lying.message.payload {
            Payload::Artifact(artifact) => match &artifact.body {
                ArtifactBody::ToolRun(run) if run.phase == "intent" => Some(run.effect),
                _ => None,
            },
            _ => None,
        });
        intents.collect()
    }
}

/// Compares everything with everything.
pub(crate) fn check(evidence: &Evidence) -> Verdict {
    let index = Index::new(evidence);
    let mut verdict = Verdict::default();
    log::check(&index, &mut verdict);
    outside::check(&index, &mut verdict);
    steps::check(&index, &mut verdict);
    views::check(&index, &mut verdict);
    let conversations = folded(&index);
    let books = money::check(&index, &conversations, &mut verdict);
    judged::check(&index, &conversations, &books, &mut verdict);
    verdict
}

/// Every conversation, folded as far as it can be: where it cannot, others have said so.
fn folded<'e>(index: &Index<'e>) -> money::Conversations<'e> {
    let fold = |(key, transitions): (&&'e ConversationId, &Vec<(i32, i64, &StateTransition)>)| {
        let mut conversation = Conversation::default();
        let _ = transitions.iter().try_for_each(|(.., transition)| conversation.apply(transition));
        (*key, conversation)
    };
    index.transitions.iter().map(fold).collect()
}
