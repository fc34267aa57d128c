//! Small processors that use every feature of the runtime: an agent whose lane is a fold of transitions, and a
//! tool executor with claims.

use std::collections::{BTreeMap, BTreeSet};

use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::json_text::JsonText;
use p2_core::record::*;
use p2_core::state::{Answer, AnswerKind, Entry, State, ToolStatus, WaitKind, Waiting};
use p2_sim::{Actor, Asked, CallAnswer, Hosted, Outside, Port, SimLog, Topology};
use p2_stream::processor::{Call, LaneInput, LaneStep, Mark, Processor};
use p2_stream::runtime::{Codec, Encoded, Limits, Runtime};
use rand::Rng;
use rand::rngs::SmallRng;

const OVERSIZE: &str = "#oversize";
const REFUSED: &str = "#refused";

fn message(id: Id, cause: Id, payload: Payload) -> Message {
    Message { id, cause, cause_position: None, time_ms: 0, traceparent: None, payload }
}

fn json() -> JsonText {
    JsonText::from(serde_json::json!({}))
}

fn artifact(key: &str, cause: Id, ordinal: u32, body: ArtifactBody) -> Message {
    let id = Id::derive(&cause, "artifact", ordinal);
    let artifact = Artifact {
        id,
        conversation: key.into(),
        agent: None,
        branch: None,
        entry: None,
        parents: Vec::new(),
        time_ms: 0,
        body,
    };
    message(id, cause, Payload::Artifact(artifact))
}

// ---------------------------------------------------------------------------------------------- agent

/// The fold of a conversation's transitions.
#[derive(Clone, Default)]
pub(crate) struct Lane {
    seq: i64,
    last: Option<Id>,
    inputs: BTreeSet<Id>,
    waits: BTreeMap<Id, Waiting>,
    closed: BTreeSet<Id>,
}

impl Lane {
    fn take(&mut self, transition: &StateTransition) -> Result<(), String> {
        if transition.seq != self.seq || transition.previous != self.last {
            return Err(format!("transition {} after {}", transition.seq, self.seq));
        }
        self.seq += 1;
        self.last = Some(transition.id);
        self.inputs.insert(transition.input);
        for change in &transition.changes {
            match change {
                Change::Appended(appended) => {
                    for entry in &appended.entries {
                        if let State::Waiting(waiting) = &entry.state {
                            self.waits.insert(waiting.id, waiting.clone());
                        }
                    }
                }
                Change::Decided(decided) => {
                    for id in decided.outcome.reference.iter().flat_map(|text| text.split(',')) {
                        let id: Id = id.parse().map_err(|_| "no id".to_owned())?;
                        self.waits.remove(&id);
                        if !self.closed.insert(id) {
                            return Err(format!("wait {id} has two winners"));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

pub(crate) struct Agent;

/// What one input leads to.
#[derive(Default)]
struct Plan {
    verdict: Option<Verdict>,
    open: Vec<Waiting>,
    close: Vec<Id>,
    effects: Vec<Message>,
    weight: Option<&'static str>,
}

impl Agent {
    fn call(waiting: &Waiting) -> Call<Id> {
        Call { id: waiting.id, deadline_ms: waiting.deadline_ms.unwrap_or(i64::MAX), request: waiting.id }
    }

    fn ask(id: Id, ordinal: u32, kind: WaitKind, deadline_ms: Option<i64>) -> Waiting {
        Waiting {
            id: Id::derive(&id, "wait", ordinal),
            kind,
            deadline_ms,
            correlation: String::new(),
            budget: None,
        }
    }

    fn text(key: &str, id: Id, text: &str, now_ms: i64) -> Plan {
        let mut plan = Plan { verdict: Some(Verdict::Applied), ..Plan::default() };
        for (ordinal, word) in (0..).zip(text.split(' ')) {
            match word {
                // Asked alone it has no deadline: nothing but its reply closes it, after any number of owners.
                "model" => {
                    let deadline_ms = (text != "model").then_some(now_ms + 3_000);
                    plan.open.push(Self::ask(id, ordinal, WaitKind::Llm, deadline_ms));
                }
                "once" | "idem" => {
                    let wait = Self::ask(id, ordinal, WaitKind::Tool, None);
                    plan.effects.push(Self::effect(key, id, ordinal, word, wait.id, now_ms));
                    plan.open.push(wait);
                }
                "person" => {
                    plan.open.push(Self::ask(id, ordinal, WaitKind::UserInput, Some(now_ms + 20_000)));
                }
                "oversize" => plan.weight = Some(OVERSIZE),
                "refused" => plan.weight = Some(REFUSED),
                _ => {}
            }
        }
        plan
    }

    fn effect(key: &str, input: Id, ordinal: u32, tool: &str, wait: Id, now_ms: i64) -> Message {
        let id = Id::derive(&input, "effect", ordinal);
        let body = EffectBody::CallTool(CallTool {
            tool: tool.to_owned(),
            version: 1,
            arguments: json(),
            call_id: String::new(),
            wait,
        });
        let effect = Effect {
            id,
            reservation: None,
            conversation: key.into(),
            agent: "toy".into(),
            branch: BranchId::main(),
            not_after_ms: Some(now_ms + 15_000),
            body,
        };
        message(id, input, Payload::Effect(effect))
    }

    fn plan(key: &str, lane: &Lane, input: &LaneInput<bool>, now_ms: i64) -> (Id, Plan) {
        match input {
            LaneInput::Record(record) | LaneInput::Claimed(record) => {
                let id = record.id;
                let Payload::Inbox(inbox) = &record.payload else { return (id, Plan::default()) };
                if lane.inputs.contains(&id) {
                    return (id, Plan { verdict: Some(Verdict::Duplicate), ..Plan::default() });
                }
                let close = match &inbox.body {
                    InboxBody::UserText(text) => return (id, Self::text(key, id, &text.text, now_ms)),
                    InboxBody::ToolOutcome(outcome) => vec![outcome.wait],
                    InboxBody::HumanAnswer(answer) => vec![answer.request],
                    _ => lane.waits.keys().copied().collect(),
                };
                let close: Vec<Id> = close.into_iter().filter(|id| lane.waits.contains_key(id)).collect();
                let verdict = if close.is_empty() { Verdict::Refused } else { Verdict::Applied };
                (id, Plan { verdict: Some(verdict), close, ..Plan::default() })
            }
            LaneInput::Reply { call, reply } => {
                let id = Id::derive(call, "reply", 0);
                let mut plan = Plan { close: vec![*call], ..Plan::default() };
                if *reply && lane.waits.contains_key(call) {
                    // The model wants another round.
                    plan.open.push(Self::ask(id, 0, WaitKind::Llm, Some(now_ms + 3_000)));
                }
                (id, plan)
            }
            LaneInput::Timer { timer } => {
                (Id::derive(timer, "timer", 0), Plan { close: vec![*timer], ..Plan::default() })
            }
        }
    }
}

impl Processor for Agent {
    type Lane = Lane;
    type Request = Id;
    type Reply = bool;

    fn name(&self) -> &'static str {
        "agent-step"
    }

    fn input(&self) -> Topic {
        Topic::Inbox
    }

    fn view(&self) -> Option<Topic> {
        Some(Topic::StateTransitions)
    }

    fn lane_key(&self, message: &Message) -> String {
        message.payload.key().to_owned()
    }

    fn decide(&self, key: &str, lane: &Lane, input: &LaneInput<bool>, now_ms: i64) -> LaneStep<Id> {
        let nothing =
            LaneStep { outputs: Vec::new(), calls: Vec::new(), cancel: Vec::new(), mark: Mark::Done };
        let (id, plan) = Self::plan(key, lane, input, now_ms);
        if plan.verdict.is_none() && plan.close.iter().any(|wait| !lane.waits.contains_key(wait)) {
            return nothing;
        }
        let close: Vec<String> = plan.close.iter().map(Id::to_string).collect();
        let outcome = Outcome {
            verdict: plan.verdict.unwrap_or(Verdict::Applied),
            code: String::new(),
            message: String::new(),
            reference: (!close.is_empty()).then(|| close.join(",")),
        };
        let mut outputs = Vec::new();
        if plan.verdict != Some(Verdict::Duplicate) {
            let entries = plan
                .open
                .iter()
                .map(|waiting| Entry { seq: 0, id, time_ms: 0, state: State::Waiting(waiting.clone()) })
                .collect();
            let transition = StateTransition {
                id: Id::derive(&id, "transition", 0),
                conversation: key.into(),
                seq: lane.seq,
                previous: lane.last,
                agent: AgentId::from("toy"),
                branch: BranchId::main(),
                input: id,
                changes: vec![
                    Change::Appended(Appended { entries }),
                    Change::Decided(Decided { outcome: outcome.clone() }),
                ],
                head: 0,
                status: BranchStatus::Idle,
                time_ms: 0,
            };
            let made = message(transition.id, id, Payload::Transition(transition));
            outputs.push(Message { time_ms: now_ms, ..made });
        }
        outputs.extend(plan.effects);
        if plan.verdict.is_some() {
            outputs.push(artifact(
                key,
                id,
                0,
                ArtifactBody::InputOutcome(InputOutcome { input: id, outcome }),
            ));
        }
        if let Some(weight) = plan.weight {
            let body = ArtifactBody::EntryAppended(EntryAppended { state: weight.to_owned() });
            outputs.push(artifact(key, id, 1, body));
        }
        let calls =
            plan.open.iter().filter(|waiting| waiting.kind == WaitKind::Llm).map(Self::call).collect();
        LaneStep { outputs, calls, cancel: plan.close, mark: Mark::Done }
    }

    fn apply(&self, lane: &mut Lane, message: &Message) -> Result<(), String> {
        match &message.payload {
            Payload::Transition(transition) => lane.take(transition),
            _ => Ok(()),
        }
    }

    fn open_calls(&self, lane: &Lane) -> Vec<Call<Id>> {
        lane.waits.values().filter(|waiting| waiting.kind == WaitKind::Llm).map(Self::call).collect()
    }

    fn timers(&self, lane: &Lane) -> Vec<(Id, i64)> {
        lane.waits.values().filter_map(|waiting| Some((waiting.id, waiting.deadline_ms?))).collect()
    }
}

pub(crate) struct ToyModel;

impl Port<Agent> for ToyModel {
    fn answer(&mut self, _: &Asked<'_, Id>, outside: &mut Outside, rng: &mut SmallRng) -> CallAnswer<bool> {
        outside.count("model asked");
        let again = rng.random_bool(0.3);
        let delay = if rng.random_bool(0.1) {
            outside.count("slow model");
            6_000
        } else {
            rng.random_range(1..900)
        };
        CallAnswer::After(delay, again)
    }

    fn cut(&self, _: &Id, _: bool) -> Option<bool> {
        Some(false)
    }
}

// ----------------------------------------------------------------------------------------------- tool

#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Call { once: bool },
    Reconcile { effect: Id },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Told {
    Done(ToolStatus),
    /// The reconciler: it was not done, or nobody knows.
    Unclear,
}

pub(crate) struct Tool;

impl Tool {
    fn done(effect: &Effect, status: ToolStatus) -> LaneStep<Ask> {
        let EffectBody::CallTool(call) = &effect.body else {
            return LaneStep { outputs: Vec::new(), calls: Vec::new(), cancel: Vec::new(), mark: Mark::Done };
        };
        let body = InboxBody::ToolOutcome(ToolOutcome {
            effect: effect.id,
            wait: call.wait,
            call_id: String::new(),
            status,
            result: json(),
            reward: None,
            latency_ms: None,
        });
        let inbox = InboxMessage { conversation: effect.conversation.clone(), body };
        let output = message(Id::derive(&effect.id, "outcome", 0), effect.id, Payload::Inbox(inbox));
        let cancel = vec![Id::derive(&effect.id, "call", 0), Id::derive(&effect.id, "reconcile", 0)];
        LaneStep { outputs: vec![output], calls: Vec::new(), cancel, mark: Mark::Done }
    }
}

impl Processor for Tool {
    type Lane = Option<Effect>;
    type Request = Ask;
    type Reply = Told;

    fn name(&self) -> &'static str {
        "tool-exec"
    }

    fn input(&self) -> Topic {
        Topic::Effects
    }

    fn view(&self) -> Option<Topic> {
        None
    }

    fn lane_key(&self, message: &Message) -> String {
        match &message.payload {
            Payload::Effect(effect) => effect.id.to_string(),
            other => other.key().to_owned(),
        }
    }

    fn decide(&self, _: &str, lane: &Option<Effect>, input: &LaneInput<Told>, now_ms: i64) -> LaneStep<Ask> {
        let nothing =
            LaneStep { outputs: Vec::new(), calls: Vec::new(), cancel: Vec::new(), mark: Mark::Done };
        let Some(effect) = lane else { return nothing };
        let EffectBody::CallTool(call) = &effect.body else { return nothing };
        let deadline = effect.not_after_ms.unwrap_or(i64::MAX);
        let once = call.tool == "once";
        match input {
            LaneInput::Record(_) if now_ms >= deadline => Self::done(effect, ToolStatus::Expired),
            LaneInput::Record(_) => {
                let request = Ask::Call { once };
                let asked = Call {
                    id: Id::derive(&effect.id, "call", 0),
                    deadline_ms: deadline.min(now_ms + 4_000),
                    request,
                };
                let mut outputs = Vec::new();
                if once {
                    let run = ToolRun {
                        effect: effect.id,
                        tool: call.tool.clone(),
                        phase: "intent".to_owned(),
                        latency_ms: None,
                        reward: None,
                        detail: String::new(),
                    };
                    outputs.push(artifact(
                        effect.conversation.as_str(),
                        effect.id,
                        0,
                        ArtifactBody::ToolRun(run),
                    ));
                }
                let mark = if once { Mark::Claimed } else { Mark::Pending };
                LaneStep { outputs, calls: vec![asked], cancel: Vec::new(), mark }
            }
            LaneInput::Claimed(_) => {
                let asked = Call {
                    id: Id::derive(&effect.id, "reconcile", 0),
                    deadline_ms: now_ms + 10_000,
                    request: Ask::Reconcile { effect: effect.id },
                };
                LaneStep { outputs: Vec::new(), calls: vec![asked], cancel: Vec::new(), mark: Mark::Pending }
            }
            LaneInput::Reply { reply: Told::Done(status), .. } => Self::done(effect, *status),
            LaneInput::Reply { reply: Told::Unclear, .. } => Self::done(effect, ToolStatus::InDoubt),
            LaneInput::Timer { .. } => Self::done(effect, ToolStatus::Expired),
        }
    }

    fn apply(&self, lane: &mut Option<Effect>, message: &Message) -> Result<(), String> {
        if let Payload::Effect(effect) = &message.payload {
            *lane = Some(effect.clone());
        }
        Ok(())
    }

    fn open_calls(&self, _: &Option<Effect>) -> Vec<Call<Ask>> {
        Vec::new()
    }

    fn timers(&self, lane: &Option<Effect>) -> Vec<(Id, i64)> {
        lane.iter()
            .filter_map(|effect| Some((Id::derive(&effect.id, "timer", 0), effect.not_after_ms? + 12_000)))
            .collect()
    }
}

pub(crate) struct ToyToolbox;

impl Port<Tool> for ToyToolbox {
    fn answer(
        &mut self,
        asked: &Asked<'_, Ask>,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> CallAnswer<Told> {
        match asked.request {
            Ask::Call { once } => {
                if *once {
                    *outside.once.entry(asked.call).or_default() += 1;
                    outside.count("claimed tool called");
                } else {
                    outside.count("repeatable tool called");
                }
                let status = match rng.random_range(0..10) {
                    0 => {
                        outside.count("tool failed");
                        ToolStatus::Error
                    }
                    _ => ToolStatus::Success,
                };
                let slow = rng.random_range(0..12) == 0;
                if slow {
                    outside.count("slow tool");
                }
                CallAnswer::After(if slow { 9_000 } else { rng.random_range(1..1_500) }, Told::Done(status))
            }
            Ask::Reconcile { effect } => {
                outside.count("claim reconciled");
                let done = outside.once.contains_key(&Id::derive(effect, "call", 0)) && rng.random_bool(0.7);
                let told = if done { Told::Done(ToolStatus::Success) } else { Told::Unclear };
                CallAnswer::After(rng.random_range(1..300), told)
            }
        }
    }

    fn cut(&self, request: &Ask, sent: bool) -> Option<Told> {
        Some(match request {
            Ask::Call { once: true } if sent => Told::Unclear,
            Ask::Call { .. } => Told::Done(ToolStatus::Timeout),
            Ask::Reconcile { .. } => Told::Unclear,
        })
    }
}

// ------------------------------------------------------------------------------------------- topology

pub(crate) struct ToyCodec;

impl Codec for ToyCodec {
    fn encode(&self, message: &Message) -> Result<Encoded, (String, String)> {
        match weight(message) {
            Some(OVERSIZE) => Err(("too_large".to_owned(), "too large".to_owned())),
            _ => Ok(Encoded { bytes: 100, value: None }),
        }
    }

    fn letter(&self, at: (i32, i64), message: &Message, code: &str, reason: &str, _: i64) -> DeadLetter {
        letter(message, at, code, reason)
    }
}

fn weight(message: &Message) -> Option<&str> {
    match &message.payload {
        Payload::Artifact(Artifact { body: ArtifactBody::EntryAppended(entry), .. }) => Some(&entry.state),
        _ => None,
    }
}

fn letter(message: &Message, (partition, offset): (i32, i64), code: &str, reason: &str) -> DeadLetter {
    DeadLetter {
        id: Id::of_text(&format!("letter {} {partition} {offset}", message.id)),
        key: message.payload.key().to_owned(),
        topic: message.payload.topic().name(),
        partition,
        offset,
        group: "toy".to_owned(),
        code: code.to_owned(),
        reason: reason.to_owned(),
        headers: Vec::new(),
        value: Vec::new(),
        time_ms: 0,
    }
}

pub(crate) struct Toy;

impl Topology for Toy {
    fn actors(&self, limits: Limits, nonce: u64) -> Vec<Box<dyn Actor>> {
        let agent = Runtime::new(Agent, Box::new(ToyCodec), limits, nonce);
        let tool = Runtime::new(Tool, Box::new(ToyCodec), limits, nonce);
        vec![Box::new(Hosted::new(agent, ToyModel)), Box::new(Hosted::new(tool, ToyToolbox))]
    }

    fn inputs(
        &mut self,
        number: usize,
        _: i64,
        log: &SimLog,
        _: &mut Outside,
        rng: &mut SmallRng,
    ) -> Vec<Message> {
        let id = Id::of_text(&format!("input {number}"));
        let conversation = ConversationId(format!("c{}", rng.random_range(0..7)));
        let text =
            |text: &str| InboxBody::UserText(UserText { agent: None, branch: None, text: text.to_owned() });
        let body = match rng.random_range(0..24) {
            0..4 => text("model"),
            4..7 => text("once"),
            7..9 => text("idem"),
            9..12 => text("model once idem"),
            12..14 => text("person model"),
            14 => text("oversize"),
            15 => text("refused"),
            16 | 17 => InboxBody::ControlCommand(ControlCommand {
                operation: ControlOperation::Cancel,
                reason: String::new(),
            }),
            18..21 => answer(log, &conversation).unwrap_or_else(|| text("plain")),
            _ => text("plain"),
        };
        vec![message(id, id, Payload::Inbox(InboxMessage { conversation, body }))]
    }

    fn refused(&self, message: &Message) -> bool {
        weight(message) == Some(REFUSED)
    }

    fn is_answered(&self, _: &Message) -> bool {
        true
    }

    fn letter(&self, message: &Message, partition: i32, offset: i64) -> DeadLetter {
        letter(message, (partition, offset), "undecodable", "not to be read")
    }

    fn check(&self, transitions: &[StateTransition], _: &Outside) -> Result<(), String> {
        let mut lane = Lane::default();
        transitions.iter().try_for_each(|transition| lane.take(transition))?;
        match lane.waits.first_key_value() {
            Some((id, waiting)) => Err(format!("wait {id} is open: {waiting:?}")),
            None => Ok(()),
        }
    }
}

/// An answer to somebody who was asked in this conversation, open or not.
fn answer(log: &SimLog, conversation: &ConversationId) -> Option<InboxBody> {
    let partition = log.partition_of(conversation.as_str());
    let records = log.decided(Topic::StateTransitions, partition);
    let request = records.iter().rev().find_map(|(_, message, _)| match &message.payload {
        Payload::Transition(transition) if transition.conversation == *conversation => {
            transition.changes.iter().find_map(|change| match change {
                Change::Appended(appended) => appended.entries.iter().find_map(|entry| match &entry.state {
                    State::Waiting(waiting) if waiting.kind == WaitKind::UserInput => Some(waiting.id),
                    _ => None,
                }),
                _ => None,
            })
        }
        _ => None,
    })?;
    let answer = Answer { kind: AnswerKind::Text, text: String::new(), arguments: None };
    Some(InboxBody::HumanAnswer(HumanAnswer { request, answer, by: "toy".to_owned() }))
}
