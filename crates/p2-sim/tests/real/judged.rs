//! Who asks for evaluations and forges them, and who looks at those that are committed.

use std::collections::{BTreeMap, BTreeSet};

use p2_core::definition::EvaluatorKind;
use p2_core::eval::reward::{self, REFUSED};
use p2_core::eval::{ANSWERED, FIRST, Place, REQUESTED, evaluation_id};
use p2_core::ids::Id;
use p2_core::record::*;
use p2_core::registry::Registry;
use p2_sim::oracle::Oracle;
use p2_sim::{Outside, Shape, SimLog};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use serde_json::json;

/// Whom people ask to judge; the last is nobody.
const ASKED: [&str; 6] = ["tidy", "panel", "tools", "asked", "outsider", "nobody"];
/// In whose name strangers write evaluations.
const NAMES: [&str; 5] = ["outsider", "outsider", "outsider", "untrusted", "tidy"];

/// Everything that is known of evaluations.
#[derive(Default)]
pub(crate) struct Judged {
    /// Evaluations that the processor committed.
    made: BTreeMap<Id, Evaluation>,
    /// Records of evaluations that strangers wrote, as they may have been decided.
    forged: BTreeMap<Id, Artifact>,
    count: u32,
}

fn artifact(id: Id, place: &Place, body: ArtifactBody) -> Artifact {
    Artifact {
        id,
        conversation: place.conversation.clone(),
        agent: Some(place.agent.clone()),
        branch: Some(place.branch.clone()),
        entry: Some(place.entry),
        parents: Vec::new(),
        time_ms: 0,
        body,
    }
}

/// An entry of a conversation, or one that nobody appended.
fn somewhere(oracle: &Oracle, rng: &mut SmallRng) -> Option<Place> {
    let conversation = oracle.conversations.values().choose(rng)?;
    let (agent, stack) = conversation.stacks.iter().choose(rng)?;
    let branch = stack.branches.keys().choose(rng)?;
    let entry = conversation.visible(agent, branch).choose(rng).map_or(0, |entry| entry.seq);
    let mut place = Place::of(conversation, agent, branch, entry);
    if rng.random_range(0..12) == 0 {
        place.entry += 40;
    }
    Some(place)
}

impl Judged {
    /// What is asked for, or forged; none where nobody has said anything yet.
    pub(crate) fn act(
        &mut self,
        oracle: &Oracle,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> Option<Vec<Message>> {
        if rng.random_range(0..5) != 0 {
            return None;
        }
        let place = somewhere(oracle, rng)?;
        self.count += 1;
        let artifact = if rng.random_bool(0.5) {
            outside.count("evaluation asked for");
            self.asks(&place, rng)
        } else {
            self.forges(&place, outside, rng)
        };
        let (id, payload) = (artifact.id, Payload::Artifact(artifact));
        Some(vec![Message { id, cause: id, cause_position: None, time_ms: 0, traceparent: None, payload }])
    }

    fn asks(&self, place: &Place, rng: &mut SmallRng) -> Artifact {
        let again = format!("again {}", rng.random_range(0..3));
        let occasion = if rng.random_bool(0.6) { FIRST } else { again.as_str() };
        let data = match rng.random_range(0..12) {
            0 => json!({"evaluator": 7}),
            _ => json!({"evaluator": ASKED.choose(rng), "occasion": occasion, "by": "people"}),
        };
        let body = ArtifactBody::Event(Event { name: REQUESTED.to_owned(), data: data.into() });
        let mut asked = artifact(Id::of_text(&format!("asked {}", self.count)), place, body);
        if rng.random_range(0..8) == 0 {
            asked.entry = None;
        }
        asked
    }

    fn forges(&mut self, place: &Place, outside: &mut Outside, rng: &mut SmallRng) -> Artifact {
        let name = (*NAMES.choose(rng).unwrap_or(&"outsider")).to_owned();
        let mut evaluation = Evaluation {
            target: place.target(),
            evaluator: name,
            version: 1,
            occasion: FIRST.to_owned(),
            score: Some(f64::from(rng.random_range(0..=20)) / 20.0),
            samples: 1,
            ..Evaluation::default()
        };
        let Evaluation { target, evaluator, occasion, .. } = &evaluation;
        let mut id = evaluation_id(target, evaluator, 1, occasion);
        match rng.random_range(0..8) {
            0 => id = Id::of_text(&format!("forged {}", self.count)),
            1 => evaluation.target = Id::of_text("another target"),
            2 => evaluation.content = "of something else".to_owned(),
            3 => evaluation.score = Some(7.0),
            4 => evaluation.samples = 0,
            _ => {}
        }
        outside.count("evaluation by a stranger");
        let forged = artifact(id, place, ArtifactBody::Evaluation(Box::new(evaluation)));
        self.forged.insert(id, forged.clone());
        forged
    }

    /// Whether a record of artifacts must lead to something.
    pub(crate) fn must_answer(registry: &Registry, artifact: &Artifact) -> bool {
        let ArtifactBody::Event(event) = &artifact.body else { return false };
        let named = event.data.0.get("evaluator").and_then(|name| name.as_str());
        let found = named.and_then(|name| registry.evaluator(name, None));
        event.name == REQUESTED
            && found.is_none_or(|(_, evaluator)| !matches!(evaluator.kind, EvaluatorKind::Topic(_)))
    }

    /// What is answered again under the same id where it comes by again: a request, and what a stranger wrote.
    pub(crate) fn may_repeat(&self, message: &Message) -> bool {
        match &message.payload {
            Payload::Artifact(Artifact { body: ArtifactBody::Event(event), .. }) => {
                event.name == ANSWERED || event.name == REFUSED
            }
            Payload::PaymentRequest(request) => {
                request.cause.reference.is_some_and(|of| self.forged.contains_key(&of))
            }
            _ => false,
        }
    }

    /// Takes the records of one commit.
    ///
    /// # Errors
    /// What they break.
    pub(crate) fn committed(
        &mut self,
        outputs: &[&Message],
        registry: &Registry,
        oracle: &Oracle,
        outside: &mut Outside,
    ) -> Result<(), String> {
        let mut owed: BTreeSet<Id> = BTreeSet::new();
        // What names itself as its cause is a record from outside that lay in a wrong partition.
        for output in outputs.iter().filter(|output| output.cause != output.id) {
            match &output.payload {
                Payload::Artifact(artifact) => match &artifact.body {
                    ArtifactBody::Evaluation(evaluation) => {
                        let owes = self.made(artifact, evaluation, registry, oracle, outside);
                        owed.extend(owes.map_err(|why| format!("evaluation {}: {why}", artifact.id))?);
                    }
                    ArtifactBody::Event(event) if event.name == ANSWERED => {
                        let code = event.data.0.get("code").and_then(|code| code.as_str());
                        outside.count(match code {
                            Some("judged_before") => "judged before",
                            _ => "evaluation refused",
                        });
                    }
                    ArtifactBody::Event(event) if event.name == REFUSED => {
                        outside.count("forged evaluation refused")
                    }
                    _ => {}
                },
                Payload::PaymentRequest(request) if request.cause.kind == CauseKind::Evaluation => {
                    let of = request.cause.reference.ok_or("a reward for no evaluation")?;
                    if owed.remove(&of) {
                        outside.count("reward asked for");
                        continue;
                    }
                    let trusted = self.trusted(of, registry, oracle);
                    trusted.map_err(|why| format!("reward {}: {why}", request.id))?;
                    outside.count("stranger's reward asked for");
                }
                _ => {}
            }
        }
        match owed.first() {
            Some(id) => Err(format!("evaluation {id} is committed without the request for its reward")),
            None => Ok(()),
        }
    }

    /// An evaluation by the processor. Gives its id where it earns something.
    fn made(
        &mut self,
        artifact: &Artifact,
        evaluation: &Evaluation,
        registry: &Registry,
        oracle: &Oracle,
        outside: &mut Outside,
    ) -> Result<Option<Id>, String> {
        let Evaluation { target, evaluator, version, occasion, .. } = evaluation;
        let (_, definition) =
            registry.evaluator(evaluator, Some(*version)).ok_or_else(|| format!("by nobody: {evaluator}"))?;
        let place = Place::of_artifact(artifact).ok_or("of no place")?;
        if place.target() != *target || artifact.id != evaluation_id(target, evaluator, *version, occasion) {
            return Err("its id or target is not that of its place".to_owned());
        }
        if let Some(before) = self.made.insert(artifact.id, evaluation.clone()) {
            outside.count("evaluation written again");
            if before != *evaluation {
                return Err(format!("it was {before:?} and is {evaluation:?}"));
            }
        }
        let models = matches!(definition.kind, EvaluatorKind::LlmJudge(_));
        outside.count(match (&evaluation.error, evaluation.same_as, models) {
            (Some(error), ..) if error.code == "no_target" => "evaluation of nothing",
            (Some(_), ..) => "evaluation failed",
            (None, Some(_), _) => "evaluation by content",
            (None, None, true) => "evaluation by models",
            (None, None, false) => "evaluation by a rule",
        });
        if evaluation.error.as_ref().is_none_or(|error| error.code != "no_target") {
            let conversation = oracle.conversations.get(&place.conversation);
            let conversation = conversation.ok_or("of a conversation that nobody opened")?;
            if conversation.head(&place.agent, &place.branch) < place.entry {
                return Err("of an entry that is not committed".to_owned());
            }
            p2_sim::judged::same_rule(&definition.kind, &place, conversation, evaluation)?;
        }
        let rewards = definition.rewards.as_ref();
        let earned = rewards
            .and_then(|rewards| reward::request(rewards, None, &place, artifact.id, evaluation).ok()?);
        Ok(earned.map(|_| artifact.id))
    }

    /// Whether what a stranger wrote may be paid for.
    fn trusted(&self, id: Id, registry: &Registry, oracle: &Oracle) -> Result<(), String> {
        let artifact = self.forged.get(&id).ok_or("nobody wrote that evaluation")?;
        let ArtifactBody::Evaluation(evaluation) = &artifact.body else { return Ok(()) };
        let definition = registry.evaluator(&evaluation.evaluator, None).map(|(_, definition)| definition);
        let rewards = definition.and_then(|definition| definition.rewards.as_ref());
        if rewards.is_none_or(|rewards| rewards.trusted.is_none()) {
            return Err(format!("'{}' is not trusted", evaluation.evaluator));
        }
        let there = oracle.conversations.get(&artifact.conversation).is_some_and(|conversation| {
            let (agent, branch) = (artifact.agent.clone(), artifact.branch.clone());
            agent.zip(branch).is_some_and(|(agent, branch)| {
                artifact.entry.is_some_and(|entry| {
                    let place = Place::of(conversation, &agent, &branch, entry);
                    conversation.head(&agent, &branch) >= entry && place.target() == evaluation.target
                })
            })
        });
        let whole = evaluation.content.is_empty()
            && evaluation.samples > 0
            && evaluation.score.is_some_and(|score| (0.0..=1.0).contains(&score));
        if there && whole { Ok(()) } else { Err(format!("it is paid for {artifact:?}")) }
    }

    /// Every run that ended was judged by whoever judges the runs of all.
    ///
    /// # Errors
    /// The first that was not.
    pub(crate) fn all_judged(registry: &Registry, log: &SimLog) -> Result<(), String> {
        let mut judged = BTreeSet::new();
        let mut ended = Vec::new();
        for partition in 0..log.count {
            for (_, message, shape) in log.decided(Topic::Artifacts, partition) {
                let Payload::Artifact(artifact) = &message.payload else { continue };
                let here = shape == Shape::Plain && log.partition_of(message.payload.key()) == partition;
                match &artifact.body {
                    ArtifactBody::Evaluation(evaluation) if here => {
                        judged.insert((
                            artifact.conversation.clone(),
                            artifact.entry,
                            evaluation.evaluator.clone(),
                        ));
                    }
                    ArtifactBody::Event(event) if here && event.name == "agent_finished" => {
                        let entry = event.data.0.get("entry").and_then(|entry| entry.as_i64());
                        ended.push((artifact.conversation.clone(), entry.or(artifact.entry)));
                    }
                    _ => {}
                }
            }
        }
        for (conversation, entry) in ended {
            for (_, evaluator) in registry.evaluators().filter(|(_, known)| known.trigger.finished.len() == 2)
            {
                if !judged.contains(&(conversation.clone(), entry, evaluator.id.clone())) {
                    return Err(format!(
                        "{}: entry {entry:?} of {conversation} was never judged",
                        evaluator.id
                    ));
                }
            }
        }
        Ok(())
    }
}
