//! Looking things up: definitions as the conversation has them pinned, and what a stack says.

use std::collections::BTreeMap;

use crate::conversation::Conversation;
use crate::definition::{Agent, AgentKind, LlmAgent, Persona, Tool};
use crate::ids::{AgentId, BranchId};
use crate::model::ModelRequest;
use crate::render::{self, RenderSpec};
use crate::state::{Entry, State};
use crate::step::Context;

/// The version under which a made-up agent is pinned, so that a definition which is applied later does not
/// change a conversation that began without it.
const MADE_UP: i32 = -1;

/// The agent in its pinned version; made up where that is allowed.
pub(super) fn agent(conv: &Conversation, context: Context<'_>, id: &AgentId) -> Option<Agent> {
    let pin = conv.pins.get(&format!("agent/{id}")).copied();
    if let Some((_, agent)) = context.registry.agent(id.as_str(), pin) {
        return Some(agent.clone());
    }
    if !is_made_up(conv, context, id) {
        return None;
    }
    let tools = context.registry.list("tool").map(|(_, definition)| definition.id().to_owned());
    let tools = tools.filter(|tool| !spends(conv, context, tool));
    let llm = LlmAgent { tools: tools.collect(), ..LlmAgent::new(&context.settings.default_model) };
    Some(Agent { id: id.clone(), kind: AgentKind::Llm(llm) })
}

/// Whether an agent is defined nowhere and made up as it is needed. Such an agent never gets a tool that spends.
pub(super) fn is_made_up(conv: &Conversation, context: Context<'_>, id: &AgentId) -> bool {
    let pin = conv.pins.get(&format!("agent/{id}")).copied();
    let named = !id.0.trim().is_empty();
    context.settings.allow_unknown_agents && named && context.registry.agent(id.as_str(), pin).is_none()
}

/// Whether a tool moves money, in its pinned version or in its newest.
pub(super) fn spends(conv: &Conversation, context: Context<'_>, id: &str) -> bool {
    let newest = context.registry.tool(id, None);
    tool(conv, context, id).into_iter().chain(newest).any(|(_, tool)| tool.spends)
}

/// An LLM agent with its overrides; none for another kind.
pub(super) fn llm(conv: &Conversation, context: Context<'_>, id: &AgentId) -> Option<LlmAgent> {
    let llm = llm_as_defined(conv, context, id)?;
    Some(match conv.overrides.get(id) {
        Some((overrides, _)) => render::effective(&llm, overrides),
        None => llm,
    })
}

/// An LLM agent without its overrides; none for another kind.
pub(super) fn llm_as_defined(conv: &Conversation, context: Context<'_>, id: &AgentId) -> Option<LlmAgent> {
    match agent(conv, context, id)?.kind {
        AgentKind::Llm(llm) => Some(llm),
        _ => None,
    }
}

/// A tool in its pinned version.
pub(super) fn tool<'r>(conv: &Conversation, context: Context<'r>, id: &str) -> Option<(i32, &'r Tool)> {
    context.registry.tool(id, conv.pins.get(&format!("tool/{id}")).copied())
}

fn persona<'r>(conv: &Conversation, context: Context<'r>, id: &str) -> Option<(i32, &'r Persona)> {
    context.registry.persona(id, conv.pins.get(&format!("persona/{id}")).copied())
}

/// The tools that an agent has: its own and those that its persona needs.
pub(super) fn offered<'r>(
    conv: &Conversation,
    context: Context<'r>,
    id: &AgentId,
    llm: &LlmAgent,
) -> Vec<&'r Tool> {
    let made_up = is_made_up(conv, context, id);
    let needed = llm.behavior.as_deref().and_then(|id| persona(conv, context, id));
    let needed = needed.map(|(_, persona)| persona.required_tools.as_slice()).unwrap_or_default();
    let mut names: Vec<&String> = Vec::new();
    for name in llm.tools.iter().chain(needed) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.retain(|name| !(made_up && spends(conv, context, name)));
    names.into_iter().filter_map(|name| tool(conv, context, name)).map(|(_, tool)| tool).collect()
}

/// The versions that an agent brings into a conversation and that are not pinned yet.
pub(super) fn pins(conv: &Conversation, context: Context<'_>, id: &AgentId) -> BTreeMap<String, i32> {
    let mut versions = BTreeMap::new();
    if let Some((version, _)) = context.registry.newest("agent", id.as_str()) {
        versions.insert(format!("agent/{id}"), version);
    } else if is_made_up(conv, context, id) {
        versions.insert(format!("agent/{id}"), MADE_UP);
    }
    if let Some(llm) = llm(conv, context, id) {
        if let Some((version, persona)) = llm.behavior.as_deref().and_then(|id| persona(conv, context, id)) {
            versions.insert(format!("persona/{}", persona.id), version);
        }
        for offered in offered(conv, context, id, &llm) {
            if let Some((version, _)) = tool(conv, context, &offered.id) {
                versions.insert(format!("tool/{}", offered.id), version);
            }
        }
    }
    versions.retain(|key, _| !conv.pins.contains_key(key));
    versions
}

/// The request of an agent for those entries.
pub(super) fn render(
    conv: &Conversation,
    context: Context<'_>,
    id: &AgentId,
    entries: &[&Entry],
) -> Result<ModelRequest, String> {
    let llm = llm(conv, context, id).ok_or_else(|| format!("agent '{id}' is not in the registry"))?;
    let spec = RenderSpec {
        conversation: &conv.id,
        agent: id,
        llm: &llm,
        persona: llm.behavior.as_deref().and_then(|id| persona(conv, context, id)).map(|(_, p)| p),
        tools: offered(conv, context, id, &llm),
        agents: render::callable(context.registry, id),
        any_agent: context.settings.allow_unknown_agents,
    };
    render::request(&spec, entries)
}

/// Whether a message came from a person or a caller, not from a reflection.
pub(super) fn is_question(state: &State) -> bool {
    matches!(state, State::UserMessage(message) if message.origin.as_deref() != Some("reflection"))
}

/// The entries after the newest user message of a branch, oldest first.
pub(super) fn turn<'c>(conv: &'c Conversation, agent: &AgentId, branch: &BranchId) -> Vec<&'c Entry> {
    let mut turn: Vec<&Entry> =
        conv.newest(agent, branch).take_while(|entry| !is_question(&entry.state)).collect();
    turn.reverse();
    turn
}

/// The reflections asked for in a turn.
pub(super) fn reflections(turn: &[&Entry]) -> usize {
    turn.iter().filter(|entry| matches!(&entry.state, State::UserMessage(_))).count()
}
