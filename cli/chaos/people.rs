//! What people do to the conversations as they see them. Pure: it goes by what the live reader has read and a
//! generator.

use p2_core::conversation::Conversation;
use p2_core::ids::{AgentId, ConversationId, Id};
use p2_core::json_text::JsonText;
use p2_core::record::{
    CallTool, ControlCommand, ControlOperation, Effect, EffectBody, InboxBody, InboxMessage, Message,
    Payload, ToolOutcome, UserText,
};
use p2_core::state::{ToolStatus, WaitKind};
use p2_sim::people::{answers, any_branch, branch_command};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::json;
use tool_exec::{Resolution, resolve};

use super::payers::WALLETS;
use super::watch::World;

/// Conversations that are spoken to at a time.
const ACTIVE: u64 = 24;
/// Inputs of a conversation, about, before another takes its place.
const INPUTS: u64 = 14;
/// Tools that a message may name.
const TOOLS: [&str; 8] =
    ["dev_read", "dev_put", "dev_pay", "dev_pay", "dev_ship", "dev_risky", "remote", "dev_read"];
/// Agents that people talk to.
const ROOTS: [&str; 8] = ["boss", "boss", "boss", "clerk", "human", "rules", "hired", "solo"];
/// Agents that can be asked by others.
const CALLEES: [&str; 5] = ["clerk", "clerk", "human", "rules", "hired"];

/// What somebody does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Deed {
    /// Writes a message where it belongs.
    Say(Message),
    /// Writes it into a partition of others, as a careless program would.
    Misplace(Message),
    /// Writes bytes that are no message.
    Poison(ConversationId),
    /// Asks the ledger for something.
    Ask(Message),
}

/// People, and what they have said so far.
pub(crate) struct People {
    seed: u64,
    rng: SmallRng,
    count: u64,
    said: Vec<Message>,
}

impl People {
    /// They have said nothing yet.
    pub(crate) fn new(seed: u64, rng: SmallRng) -> People {
        People { seed, rng, count: 0, said: Vec::new() }
    }

    /// What is done next, all of it at once.
    pub(crate) fn act(&mut self, world: &World) -> Vec<Deed> {
        let newest = self.count / INPUTS;
        let number = newest + self.rng.random_range(0..ACTIVE);
        let key = ConversationId(format!("c{:x}-{number}", self.seed));
        if self.rng.random_range(0..14) == 0
            && let Some(again) = self.said.choose(&mut self.rng)
        {
            return vec![Deed::Say(again.clone())];
        }
        if self.rng.random_range(0..150) == 0 {
            return vec![Deed::Poison(key)];
        }
        let bodies = match world.conversations.get(&key) {
            Some(conversation) => self.say(conversation, world),
            None => vec![(None, text(self.pick(&ROOTS).map(AgentId::from), self.errand(0)))],
        };
        let deeds: Vec<Deed> = bodies.into_iter().map(|(id, body)| self.deed(id, &key, body)).collect();
        self.said.truncate(400);
        deeds
    }

    /// What has to be said so that everything can come to rest: whoever is paused goes on.
    pub(crate) fn closing(&mut self, world: &World) -> Vec<Deed> {
        let paused = world.conversations.iter().filter(|(_, conversation)| conversation.paused);
        let paused: Vec<ConversationId> = paused.map(|(key, _)| key.clone()).collect();
        paused.into_iter().map(|key| self.deed(None, &key, control(ControlOperation::Resume))).collect()
    }

    fn deed(&mut self, id: Option<Id>, key: &ConversationId, body: InboxBody) -> Deed {
        self.count += 1;
        let id = id.unwrap_or_else(|| Id::of_text(&format!("chaos {} {}", self.seed, self.count)));
        let payload = Payload::Inbox(InboxMessage { conversation: key.clone(), body });
        let message = Message { id, cause: id, cause_position: None, time_ms: 0, traceparent: None, payload };
        let place = self.rng.random_range(0..self.said.len().max(1));
        self.said.insert(place, message.clone());
        match self.rng.random_range(0..120) {
            0 => Deed::Misplace(message),
            _ => Deed::Say(message),
        }
    }

    fn pick<'t>(&mut self, from: &[&'t str]) -> Option<&'t str> {
        from.choose(&mut self.rng).copied()
    }

    fn say(&mut self, conversation: &Conversation, world: &World) -> Vec<(Option<Id>, InboxBody)> {
        let one = |body: InboxBody| vec![(None, body)];
        let waits = |kind: WaitKind| conversation.waits.values().any(|wait| wait.waiting.kind == kind);
        if waits(WaitKind::UserInput) && self.rng.random_bool(0.5) {
            let asked = world.requests.get(&conversation.id).map(Vec::as_slice).unwrap_or_default();
            let answers = answers(conversation, asked, &["dev_put", "dev_pay"], &mut self.rng);
            return answers.into_iter().map(|body| (None, body)).collect();
        }
        if waits(WaitKind::Tool) && self.rng.random_bool(0.5) {
            let others = self.executed_elsewhere(conversation, world);
            if !others.is_empty() {
                return others;
            }
        }
        match self.rng.random_range(0..100) {
            0..58 => one(text(None, self.errand(0))),
            58..62 => {
                let branch = any_branch(conversation, &conversation.root, &mut self.rng);
                let text = UserText { agent: None, branch, text: self.errand(0) };
                one(InboxBody::UserText(text))
            }
            62..64 => {
                // Two at once, in one breath.
                let (first, second) = (self.errand(0), self.errand(1));
                vec![(None, text(None, first)), (None, text(None, second))]
            }
            64..82 => one(branch_command(conversation, &mut self.rng)),
            82..86 => one(control(ControlOperation::Cancel)),
            86..92 if conversation.paused => one(control(ControlOperation::Resume)),
            86..89 => one(control(ControlOperation::Pause)),
            89..95 => self.settled(conversation, world),
            _ => one(text(self.pick(&ROOTS).map(AgentId::from), self.errand(0))),
        }
    }

    /// What a message tells an agent to do.
    fn errand(&mut self, depth: u32) -> String {
        let number = self.rng.random_range(0..1_000);
        let ms = match self.rng.random_range(0..12) {
            0..8 => self.rng.random_range(1..60),
            8..11 => self.rng.random_range(60..1_500),
            _ => self.rng.random_range(1_500..6_000),
        };
        let tool = self.pick(&TOOLS).unwrap_or_default();
        let other = self.pick(&TOOLS).unwrap_or_default();
        let what = match self.rng.random_range(0..33) {
            0..5 => "hello".to_owned(),
            5..13 => format!("do:{tool} ms={ms}"),
            13..18 => format!("do:{tool} do:{other} ms={ms}"),
            18..20 => format!("do:dev_pay do:dev_ship do:dev_put ms={ms}"),
            20..22 => format!("twice do:{tool} ms={ms}"),
            22..26 if depth < 2 => {
                let who = self.pick(&CALLEES).unwrap_or_default();
                format!("ask:{who} {}", self.errand(depth + 1))
            }
            26 => "do:ask".to_owned(),
            27 => "do:error".to_owned(),
            28 => "slow".to_owned(),
            29 | 30 => {
                let who = self.pick(&WALLETS).unwrap_or_default();
                // Now and then more than any agent has.
                let amount = if number < 120 { 9_000 } else { number % 10 + 1 };
                format!("pay:{who} {amount}.{:02}", number % 100)
            }
            31 => "do:balance".to_owned(),
            _ => "hello".to_owned(),
        };
        format!("m{number} {what}")
    }

    /// Somebody's own executor answers, in time or late, once or twice.
    fn executed_elsewhere(
        &mut self,
        conversation: &Conversation,
        world: &World,
    ) -> Vec<(Option<Id>, InboxBody)> {
        let called = |effect: &Id| match world.effects.get(effect) {
            Some(Effect { id, body: EffectBody::CallTool(call), .. }) if call.tool == "remote" => {
                conversation.waits.contains_key(&call.wait).then(|| (*id, call.clone()))
            }
            _ => None,
        };
        let of = world.effects_of.get(&conversation.id).map(Vec::as_slice).unwrap_or_default();
        let open: Vec<(Id, CallTool)> = of.iter().filter_map(called).collect();
        let Some((effect, call)) = open.choose(&mut self.rng).cloned() else { return Vec::new() };
        let times = if self.rng.random_range(0..4) == 0 { 2 } else { 1 };
        let success = self.rng.random_bool(0.8);
        let outcome = |time: i32| ToolOutcome {
            effect,
            wait: call.wait,
            call_id: call.call_id.clone(),
            status: if success { ToolStatus::Success } else { ToolStatus::Error },
            result: JsonText(json!({"time": time})),
            reward: None,
            latency_ms: Some(5),
        };
        (0..times).map(|time| (None, InboxBody::ToolOutcome(outcome(time)))).collect()
    }

    /// An operator settles an effect in doubt.
    fn settled(&mut self, conversation: &Conversation, world: &World) -> Vec<(Option<Id>, InboxBody)> {
        let of = world.effects_of.get(&conversation.id).map(Vec::as_slice).unwrap_or_default();
        let in_doubt: Vec<&Effect> = of
            .iter()
            .filter(|id| world.in_doubt.contains(id))
            .filter_map(|id| world.effects.get(id))
            .collect();
        let Some(effect) = in_doubt.choose(&mut self.rng) else { return Vec::new() };
        // A second resolution is a duplicate of the first, so that it has to say the same.
        let resolution = Resolution::NotDone { reason: "an operator looked".to_owned() };
        match resolve(effect, &resolution) {
            Ok((id, message)) => vec![(Some(id), message.body)],
            Err(_) => Vec::new(),
        }
    }
}

fn text(agent: Option<AgentId>, text: String) -> InboxBody {
    InboxBody::UserText(UserText { agent, branch: None, text })
}

fn control(operation: ControlOperation) -> InboxBody {
    InboxBody::ControlCommand(ControlCommand { operation, reason: "because".to_owned() })
}
