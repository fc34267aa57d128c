//! People at random: what they do on a conversation as it stands.

use p2_core::conversation::Conversation;
use p2_core::ids::{AgentId, BranchId, Id};
use p2_core::json_text::JsonText;
use p2_core::record::{BranchCommand, BranchOperation, HumanAnswer, InboxBody};
use p2_core::state::{Answer, AnswerKind, RequestKind, State, WaitKind};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::json;

/// Any branch of an agent; none where the agent has no stack.
pub fn any_branch(conversation: &Conversation, agent: &AgentId, rng: &mut SmallRng) -> Option<BranchId> {
    let branches: Vec<&BranchId> = conversation.stacks.get(agent)?.branches.keys().collect();
    branches.choose(rng).map(|&branch| branch.clone())
}

/// One to four people answer one request at the same time; it may be answered already.
///
/// `asked` are all requests of the conversation; texts tell the agent to call one of `tools`.
pub fn answers(
    conversation: &Conversation,
    asked: &[Id],
    tools: &[&str],
    rng: &mut SmallRng,
) -> Vec<InboxBody> {
    let open: Vec<Id> = conversation
        .waits
        .values()
        .filter(|w| w.waiting.kind == WaitKind::UserInput)
        .map(|w| w.waiting.id)
        .collect();
    let from = if open.is_empty() || rng.random_range(0..10) == 0 { asked } else { &open };
    let Some(request) = from.choose(rng).copied() else { return Vec::new() };
    let kind = conversation
        .stacks
        .values()
        .flat_map(|stack| stack.branches.values())
        .flat_map(|branch| &branch.entries)
        .find_map(|entry| match &entry.state {
            State::UserInputRequest(known) if known.id == request => Some(known.kind),
            _ => None,
        });
    let people = if rng.random_range(0..3) == 0 { rng.random_range(2..5) } else { 1 };
    (0..people)
        .map(|person| {
            let kind = match kind {
                Some(RequestKind::Approval) if rng.random_range(0..12) > 0 => {
                    let kinds =
                        [AnswerKind::Approve, AnswerKind::Approve, AnswerKind::Deny, AnswerKind::Edit];
                    kinds.choose(rng).copied().unwrap_or(AnswerKind::Approve)
                }
                _ => AnswerKind::Text,
            };
            let arguments =
                (kind == AnswerKind::Edit).then(|| JsonText(json!({"n": rng.random_range(4..9)})));
            let tool = tools.choose(rng).copied().unwrap_or_default();
            let answer = Answer { kind, text: format!("do:{tool}"), arguments };
            InboxBody::HumanAnswer(HumanAnswer { request, answer, by: format!("person {person}") })
        })
        .collect()
}

/// A fork, a rewind or a checkout of anything, in any combination; it may well be refused.
pub fn branch_command(conversation: &Conversation, rng: &mut SmallRng) -> InboxBody {
    let agents: Vec<&AgentId> = conversation.stacks.keys().collect();
    let agent = match rng.random_range(0..4) {
        0 => agents.choose(rng).map_or_else(|| conversation.root.clone(), |&agent| agent.clone()),
        _ => conversation.root.clone(),
    };
    let operation = match rng.random_range(0..10) {
        0..4 => BranchOperation::Fork,
        4..7 => BranchOperation::Rewind,
        _ => BranchOperation::Checkout,
    };
    let branch = match operation {
        BranchOperation::Checkout => any_branch(conversation, &agent, rng),
        _ if rng.random_range(0..3) == 0 => any_branch(conversation, &agent, rng),
        _ => None,
    };
    let on = branch.clone().unwrap_or_else(|| conversation.current(&agent));
    let entries = i64::try_from(conversation.indexed(&agent, &on).len()).unwrap_or(0);
    let at = match rng.random_range(0..4) {
        0 => None,
        1 => Some(entries - 1),
        _ => Some(rng.random_range(0..=entries)),
    };
    InboxBody::BranchCommand(BranchCommand {
        operation,
        agent: Some(agent),
        branch: branch.map(|branch| branch.0),
        at,
        name: (rng.random_range(0..5) == 0).then(|| format!("name {}", rng.random_range(0..5))),
        tree: rng.random_range(0..3) == 0,
        keep_wait: rng.random_range(0..3) == 0,
        destructive: rng.random_range(0..4) == 0,
    })
}
