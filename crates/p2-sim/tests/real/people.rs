//! People at random: messages, answers, branch commands, controls, overrides, operators and other executors.

use p2_core::conversation::{Conversation, OpenWait};
use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::json_text::JsonText;
use p2_core::record::*;
use p2_core::state::{ToolStatus, WaitKind};
use p2_sim::Outside;
use p2_sim::oracle::Oracle;
use p2_sim::people::{answers, any_branch, branch_command};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::json;
use tool_exec::{Resolution, resolve};

use super::model::{OVERSIZE, errand};
use super::registry::{ROOTS, TOOLS};

/// A text whose record the log refuses.
pub(crate) const REFUSED: &str = "#refused";

const CONVERSATIONS: u32 = 5;

/// Those who write to conversations.
#[derive(Default)]
pub(crate) struct People {
    sent: Vec<Message>,
    count: u32,
}

fn message(id: Id, conversation: ConversationId, body: InboxBody) -> Message {
    let payload = Payload::Inbox(InboxMessage { conversation, body });
    Message { id, cause: id, cause_position: None, time_ms: 0, traceparent: None, payload }
}

/// Resumes whoever is paused.
pub(crate) fn closing(oracle: &Oracle) -> Vec<Message> {
    let paused = oracle.conversations.iter().filter(|(_, conversation)| conversation.paused);
    paused
        .map(|(key, _)| {
            let id = Id::of_text(&format!("closing {key}"));
            let operation = ControlOperation::Resume;
            let body = InboxBody::ControlCommand(ControlCommand { operation, reason: String::new() });
            message(id, key.clone(), body)
        })
        .collect()
}

impl People {
    /// What is written now, at once.
    pub(crate) fn act(
        &mut self,
        number: usize,
        _now_ms: i64,
        oracle: &Oracle,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> Vec<Message> {
        let key = ConversationId(format!("c{}", rng.random_range(0..CONVERSATIONS)));
        let known = oracle.conversations.get(&key);
        if rng.random_range(0..16) == 0
            && let Some(again) = self.sent.choose(rng)
        {
            outside.count("late duplicate");
            return vec![again.clone()];
        }
        let mut bodies = match known {
            Some(conversation) => self.say(conversation, oracle, outside, rng),
            None => vec![(key.clone(), opening(rng))],
        };
        if bodies.is_empty() {
            bodies.push((key, text(None, None, errand(rng, 0))));
        }
        let mut messages = Vec::new();
        for (key, body) in bodies {
            self.count += 1;
            let id = match (&body, operator(&body, oracle)) {
                (_, Some(id)) => id,
                _ => Id::of_text(&format!("input {number} {}", self.count)),
            };
            messages.push(message(id, key, body));
        }
        self.sent.extend(messages.iter().cloned());
        messages
    }

    fn say(
        &mut self,
        conversation: &Conversation,
        oracle: &Oracle,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> Vec<(ConversationId, InboxBody)> {
        let key = conversation.id.clone();
        let one = |body: InboxBody| vec![(key.clone(), body)];
        let answered = |rng: &mut SmallRng| {
            answers(conversation, &asked(conversation, oracle), &TOOLS[..3], rng)
                .into_iter()
                .map(|body| (key.clone(), body))
                .collect()
        };
        // What holds a conversation up is seen to first, mostly.
        let waits = |kind: WaitKind| conversation.waits.values().any(|wait| wait.waiting.kind == kind);
        if waits(WaitKind::UserInput) && rng.random_bool(0.35) {
            return answered(rng);
        }
        if waits(WaitKind::Tool)
            && rng.random_bool(0.35)
            && let Some(settled) = settled(Some(conversation), oracle, outside, rng)
        {
            return vec![settled];
        }
        match rng.random_range(0..100) {
            0..34 => one(text(None, None, errand(rng, 0))),
            34..38 => one(text(ROOTS.choose(rng).map(|&id| id.into()), None, errand(rng, 0))),
            38..40 => one(text(None, any_branch(conversation, &conversation.root, rng), errand(rng, 0))),
            40 => one(text(Some("nobody".into()), None, "who?".to_owned())),
            41 => one(text(None, None, (*[OVERSIZE, REFUSED, " "].choose(rng).unwrap_or(&" ")).to_owned())),
            42..52 => answered(rng),
            52..78 => one(branch_command(conversation, rng)),
            78..82 => one(control(ControlOperation::Cancel)),
            82..85 if conversation.paused => one(control(ControlOperation::Resume)),
            82..85 => one(control(ControlOperation::Pause)),
            85..91 => one(InboxBody::OverrideCommand(overrides(rng))),
            91..95 => settled(None, oracle, outside, rng).into_iter().collect(),
            _ => external(conversation, oracle, outside, rng)
                .into_iter()
                .map(|body| (key.clone(), body))
                .collect(),
        }
    }
}

/// Every request of a conversation, answered or not.
fn asked(conversation: &Conversation, oracle: &Oracle) -> Vec<Id> {
    oracle.requests.iter().filter(|(key, _)| *key == conversation.id).map(|(_, id)| *id).collect()
}

fn opening(rng: &mut SmallRng) -> InboxBody {
    text(ROOTS.choose(rng).map(|&id| id.into()), None, errand(rng, 0))
}

fn text(agent: Option<AgentId>, branch: Option<BranchId>, text: String) -> InboxBody {
    InboxBody::UserText(UserText { agent, branch, text })
}

fn control(operation: ControlOperation) -> InboxBody {
    InboxBody::ControlCommand(ControlCommand { operation, reason: "because".to_owned() })
}

fn overrides(rng: &mut SmallRng) -> OverrideCommand {
    let agent = ["human", "clerk"].get(rng.random_range(0..8)).map(|&agent| agent.into());
    OverrideCommand {
        agent,
        set: Overrides {
            model: rng.random_bool(0.5).then(|| "sim/other".to_owned()),
            temperature: rng.random_bool(0.3).then(|| rng.random_range(0..6).into()),
            tools: rng
                .random_bool(0.2)
                .then(|| vec!["read".to_owned(), "pay".to_owned(), "delegate".to_owned()]),
            ..Overrides::default()
        },
        clear: rng.random_bool(0.2),
        lock: rng.random_bool(0.6),
        unlock: rng.random_bool(0.2),
        book: ["side", "main", ""].get(rng.random_range(0..12)).map(|&book| book.into()),
    }
}

/// An operator settles an effect in doubt.
fn settled(
    of: Option<&Conversation>,
    oracle: &Oracle,
    outside: &mut Outside,
    rng: &mut SmallRng,
) -> Option<(ConversationId, InboxBody)> {
    let concerns = |effect: &&Effect| {
        let EffectBody::CallTool(call) = &effect.body else { return false };
        of.is_none_or(|conversation| conversation.waits.contains_key(&call.wait))
    };
    let effects = oracle.in_doubt.iter().filter_map(|effect| oracle.effects.get(effect));
    let doubtful: Vec<&Effect> = effects.filter(concerns).collect();
    let effect = *doubtful.choose(rng)?;
    // A second resolution is a duplicate of the first, so that it has to say the same.
    let resolution = if effect.id.as_bytes()[0].is_multiple_of(2) {
        Resolution::Done { result: json!({"settled": true}) }
    } else {
        Resolution::NotDone { reason: "an operator looked".to_owned() }
    };
    let (_, message) = resolve(effect, &resolution).ok()?;
    outside.count("in doubt settled");
    Some((message.conversation, message.body))
}

/// The id that an operator's resolution has: it depends on the effect alone.
fn operator(body: &InboxBody, oracle: &Oracle) -> Option<Id> {
    let InboxBody::ToolOutcome(outcome) = body else { return None };
    oracle.in_doubt.contains(&outcome.effect).then(|| Id::derive(&outcome.effect, "resolved", 0))
}

/// Somebody's own executor answers, in time or late, once or twice.
fn external(
    conversation: &Conversation,
    oracle: &Oracle,
    outside: &mut Outside,
    rng: &mut SmallRng,
) -> Vec<InboxBody> {
    let open = |wait: &Id| conversation.waits.get(wait).map(|open: &OpenWait| open.waiting.id);
    let mut called: Vec<(&Effect, &CallTool)> = oracle
        .effects
        .values()
        .filter(|effect| effect.conversation == conversation.id)
        .filter_map(|effect| match &effect.body {
            EffectBody::CallTool(call) if call.tool == "remote" => Some((effect, call)),
            _ => None,
        })
        .collect();
    if called.iter().any(|(_, call)| open(&call.wait).is_some()) && rng.random_range(0..4) > 0 {
        called.retain(|(_, call)| open(&call.wait).is_some());
    }
    let Some((effect, call)) = called.choose(rng) else { return Vec::new() };
    let times = if rng.random_range(0..4) == 0 { 2 } else { 1 };
    (0..times)
        .map(|time| {
            outside.count("external result");
            InboxBody::ToolOutcome(ToolOutcome {
                effect: effect.id,
                wait: call.wait,
                call_id: call.call_id.clone(),
                status: if rng.random_bool(0.8) { ToolStatus::Success } else { ToolStatus::Error },
                result: JsonText(json!({"time": time})),
                reward: None,
                latency_ms: Some(5),
            })
        })
        .collect()
}
