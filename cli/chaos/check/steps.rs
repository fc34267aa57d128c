//! The steps of every conversation, fed to the oracle of the simulation in the order of what caused what.

use std::collections::BTreeMap;
use std::rc::Rc;

use p2_core::ids::{ConversationId, Id};
use p2_core::record::{ArtifactBody, Message, Payload, StateTransition, Topic};
use p2_sim::Outside;
use p2_sim::chain::Chains;
use p2_sim::oracle::{Oracle, is_repeatable};
use p2_sim::rest;
use p2_stream::wire;

use super::{Index, Verdict};

pub(super) fn check(index: &Index<'_>, verdict: &mut Verdict) {
    chains(index, verdict);
    let mut outside = outside(index);
    let mut oracle = Oracle::new(Rc::new(index.evidence.registry.clone()), index.evidence.settings.clone());
    for lying in &index.inbox {
        // What people write is known beforehand; what processors write is looked at when it comes.
        if let Payload::Inbox(inbox) = &lying.message.payload
            && index.sent.contains(&lying.message.id)
        {
            oracle.inputs.insert(lying.message.id, inbox.body.clone());
        }
    }
    verdict.count("conversations", index.transitions.len());
    let followed = Followed::new(index);
    for (key, transitions) in &index.transitions {
        verdict.count("transitions", transitions.len());
        if let Err(why) = conversation(&followed, transitions, &mut oracle, &mut outside) {
            // What follows from a broken conversation says nothing new.
            verdict.broken(why);
            continue;
        }
        let transitions: Vec<StateTransition> = transitions.iter().map(|(.., one)| (*one).clone()).collect();
        if let Err(why) = rest::check(&oracle, &transitions) {
            verdict.broken(format!("{key}: {why}"));
        }
        if let Err(why) = rest::decide_again(&oracle, &transitions) {
            verdict.broken(format!("{key}: decided again on its log: {why}"));
        }
    }
    verdict.features = outside.features;
}

/// One chain per conversation, inputs in their order, everything in its partition.
fn chains(index: &Index<'_>, verdict: &mut Verdict) {
    let mut places: BTreeMap<Id, i64> = BTreeMap::new();
    for lying in &index.inbox {
        places.entry(lying.message.id).or_insert(lying.offset);
    }
    let partitions = index.evidence.partitions();
    let mut chains = Chains::default();
    let mut step = 0;
    for (key, transitions) in &index.transitions {
        let mut input = None;
        for (partition, offset, transition) in transitions {
            // The same input again after another one is another step: it was applied twice.
            if input.replace(transition.input) != Some(transition.input) {
                step += 1;
            }
            if wire::partition(key.as_str(), partitions) != *partition {
                verdict
                    .broken(format!("{key}: transition {partition}/{offset} lies in a partition of others"));
            }
            let place = places.get(&transition.input).copied();
            if let Err(why) = chains.follows(step, place, transition) {
                verdict.broken(why);
                break;
            }
        }
    }
}

/// What the tools noted, as the oracle wants it.
fn outside(index: &Index<'_>) -> Outside {
    let mut outside = Outside::default();
    for called in &index.evidence.calls {
        let tool = index.evidence.registry.tool(&called.tool, None);
        match called.begin {
            true if tool.is_some_and(|(_, tool)| !is_repeatable(tool)) => {
                *outside.once.entry(called.effect).or_default() += 1;
            }
            true => {}
            false => drop(outside.took_place.insert(called.effect, 0)),
        }
    }
    outside
}

/// What follows from what.
struct Followed<'e> {
    /// Effects and artifacts of `agent-step`, by the input that led to them.
    caused: BTreeMap<(&'e ConversationId, Id), Vec<&'e Message>>,
    /// Inputs that processors wrote.
    written: BTreeMap<Id, &'e Message>,
}

impl<'e> Followed<'e> {
    fn new(index: &Index<'e>) -> Followed<'e> {
        let mut caused: BTreeMap<_, Vec<&Message>> = BTreeMap::new();
        for topic in [Topic::Effects, Topic::Artifacts] {
            for (.., record) in index.of(topic) {
                let Ok(message) = record else { continue };
                let of = match &message.payload {
                    Payload::Effect(effect) => &effect.conversation,
                    Payload::Artifact(artifact) => &artifact.conversation,
                    _ => continue,
                };
                caused.entry((of, message.cause)).or_default().push(message);
            }
        }
        let written = index.inbox.iter().filter(|lying| !index.sent.contains(&lying.message.id));
        Followed { caused, written: written.map(|lying| (lying.message.id, lying.message)).collect() }
    }
}

fn conversation(
    followed: &Followed<'_>,
    transitions: &[(i32, i64, &StateTransition)],
    oracle: &mut Oracle,
    outside: &mut Outside,
) -> Result<(), String> {
    for step in transitions.chunk_by(|(.., a), (.., b)| a.input == b.input) {
        let Some((.., first)) = step.first() else { continue };
        if let Some(input) = followed.written.get(&first.input) {
            oracle.committed(&[*input], outside)?;
        }
        let carried: Vec<Message> = step.iter().map(|(.., transition)| carry(transition)).collect();
        let mut outputs: Vec<&Message> = carried.iter().collect();
        let caused = followed.caused.get(&(&first.conversation, first.input));
        outputs.extend(caused.into_iter().flatten().copied().filter(|message| !is_of_a_tool(message)));
        oracle.committed(&outputs, outside)?;
    }
    Ok(())
}

fn is_of_a_tool(message: &Message) -> bool {
    matches!(&message.payload, Payload::Artifact(artifact) if matches!(artifact.body, ArtifactBody::ToolRun(_)))
}

fn carry(transition: &StateTransition) -> Message {
    Message {
        id: transition.id,
        cause: transition.input,
        cause_position: None,
        time_ms: transition.time_ms,
        traceparent: None,
        payload: Payload::Transition(transition.clone()),
    }
}
