//! Rendering a stack for a model: what of it the model sees, and in which order.
//!
//! A stack is a log of what happened; providers want a dialogue in which every tool call is directly followed
//! by its results. [`request`] makes the one from the other. Waits, agent calls, requests to people, visible
//! errors and ends of runs are for people and for the core: a model never sees them.

mod items;
pub(crate) mod prompt;
mod window;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::definition::{Executor, LlmAgent, Persona, RenderPolicy, Tool};
use crate::ids::{AccountId, AgentId, ConversationId};
use crate::model::{ChatMessage, ModelRequest, ToolSpec};
use crate::record::Overrides;
use crate::registry::Registry;
use crate::state::{Entry, State};

/// How many agents the description of `delegate` names; more would crowd out the conversation.
const AGENTS_NAMED_MAX: usize = 100;

/// For whom and with what a stack is rendered. [`RenderSpec::resolve`] makes one.
#[derive(Clone, Debug)]
pub struct RenderSpec<'a> {
    /// The conversation.
    pub conversation: &'a ConversationId,
    /// The agent.
    pub agent: &'a AgentId,
    /// Its definition, overrides applied ([`effective`]).
    pub llm: &'a LlmAgent,
    /// The persona that `llm.behavior` names.
    pub persona: Option<&'a Persona>,
    /// The tools on offer: at least `llm.tools` and what the persona requires.
    pub tools: Vec<&'a Tool>,
    /// The agents that it may hand a task to ([`callable`]).
    pub agents: Vec<&'a str>,
    /// Whether any other agent will do too.
    pub any_agent: bool,
}

impl<'a> RenderSpec<'a> {
    /// Looks up the persona and the tools that `llm` names, at the versions that are pinned (`kind/id` →
    /// version), and adds the tools that the persona requires.
    ///
    /// # Errors
    /// A sentence that names the persona or tool that does not exist.
    pub fn resolve(
        registry: &'a Registry,
        pins: &BTreeMap<String, i32>,
        conversation: &'a ConversationId,
        agent: &'a AgentId,
        llm: &'a LlmAgent,
    ) -> Result<RenderSpec<'a>, String> {
        let pin = |kind: &str, id: &str| pins.get(&format!("{kind}/{id}")).copied();
        let persona = match &llm.behavior {
            None => None,
            Some(id) => match registry.persona(id, pin("persona", id)) {
                Some((_, persona)) => Some(persona),
                None => return Err(missing_persona(agent, id)),
            },
        };
        let tools = tool_ids(llm, persona)
            .into_iter()
            .map(|id| {
                let found = registry.tool(id, pin("tool", id));
                found.map(|(_, tool)| tool).ok_or_else(|| missing_tool(agent, id))
            })
            .collect::<Result<Vec<&Tool>, String>>()?;
        let agents = callable(registry, agent);
        Ok(RenderSpec { conversation, agent, llm, persona, tools, agents, any_agent: false })
    }
}

fn missing_persona(agent: &AgentId, id: &str) -> String {
    format!(
        "agent '{agent}' has the behavior '{id}', but there is no such persona: apply one, or change the agent"
    )
}

fn missing_tool(agent: &AgentId, id: &str) -> String {
    format!("agent '{agent}' needs the tool '{id}', which does not exist: apply it, or take it off the agent")
}

/// The tools that an agent has: its own, then those that its persona requires; each once.
pub fn tool_ids<'a>(llm: &'a LlmAgent, persona: Option<&'a Persona>) -> Vec<&'a str> {
    let mut ids: Vec<&str> = Vec::new();
    for id in llm.tools.iter().chain(persona.into_iter().flat_map(|persona| &persona.required_tools)) {
        if !ids.contains(&id.as_str()) {
            ids.push(id);
        }
    }
    ids
}

/// The agents that an agent may hand a task to: all but itself, by id.
pub fn callable<'a>(registry: &'a Registry, agent: &AgentId) -> Vec<&'a str> {
    registry.list("agent").map(|(_, known)| known.id()).filter(|id| *id != agent.as_str()).collect()
}

/// The description of a tool for the model; that of `delegate` names the agents.
fn description(spec: &RenderSpec<'_>, tool: &Tool) -> String {
    if tool.executor != Executor::Core || tool.id != "delegate" {
        return tool.description.clone();
    }
    let shown: Vec<&str> = spec.agents.iter().copied().take(AGENTS_NAMED_MAX).collect();
    let rest = spec.agents.len().saturating_sub(shown.len());
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    let any = if spec.any_agent { " Any other id gives a new agent." } else { "" };
    match shown.is_empty() {
        true if spec.any_agent => format!("{} Any id gives a new agent.", tool.description),
        true => format!("{} There is no other agent at the moment.", tool.description),
        false => format!("{} The agents are: {}{more}.{any}", tool.description, shown.join(", ")),
    }
}

/// The agent as a conversation's overrides change it. An empty `behavior` takes the persona away.
pub fn effective(llm: &LlmAgent, overrides: &Overrides) -> LlmAgent {
    let mut llm = llm.clone();
    if let Some(model) = &overrides.model {
        llm.model.clone_from(model);
    }
    if let Some(tools) = &overrides.tools {
        llm.tools.clone_from(tools);
    }
    if let Some(behavior) = &overrides.behavior {
        llm.behavior = Some(behavior.clone()).filter(|id| !id.is_empty());
    }
    if let (Some(budget), Some(account)) = (&mut llm.budget, &overrides.budget) {
        budget.account = Some(AccountId::from(account.as_str()));
    }
    llm.temperature = overrides.temperature.or(llm.temperature);
    llm.top_p = overrides.top_p.or(llm.top_p);
    llm.max_tokens = overrides.max_tokens.or(llm.max_tokens);
    llm
}

/// The request for the next model call. `entries` is the visible lineage, oldest first.
///
/// System messages come first: the system prompt, then the persona. Then the dialogue, in which a tool call
/// and its results are one group that is kept or dropped whole; the agent's policy chooses. Whatever the
/// policy, the newest message of a person and the newest part of the dialogue are kept.
///
/// # Errors
/// A sentence where the persona or a tool of the agent is not in `spec`, or a template fails.
pub fn request(spec: &RenderSpec<'_>, entries: &[&Entry]) -> Result<ModelRequest, String> {
    check(spec)?;
    let mut messages = prompt::system_messages(spec, question(entries))?;
    let dialogue = items::dialogue(entries);
    let chosen = match spec.llm.render {
        RenderPolicy::Default { window } => window::newest(dialogue, window),
        RenderPolicy::Tokens { budget } => window::within(dialogue, &messages, budget)?,
        RenderPolicy::Compact => dialogue,
    };
    messages.extend(chosen.iter().flat_map(items::Item::messages));
    let mut tools: Vec<ToolSpec> = Vec::new();
    for tool in &spec.tools {
        if tools.iter().all(|known| known.name != tool.id) {
            let parameters = tool.parameters.clone().into();
            tools.push(ToolSpec { name: tool.id.clone(), description: description(spec, tool), parameters });
        }
    }
    Ok(ModelRequest {
        model: spec.llm.model.clone(),
        messages,
        tools,
        temperature: spec.llm.temperature,
        top_p: spec.llm.top_p,
        max_tokens: spec.llm.max_tokens,
    })
}

fn check(spec: &RenderSpec<'_>) -> Result<(), String> {
    if let Some(id) = &spec.llm.behavior
        && spec.persona.is_none_or(|persona| persona.id != *id)
    {
        return Err(missing_persona(spec.agent, id));
    }
    let missing =
        tool_ids(spec.llm, spec.persona).into_iter().find(|id| spec.tools.iter().all(|tool| tool.id != *id));
    missing.map_or(Ok(()), |id| Err(missing_tool(spec.agent, id)))
}

/// The newest message that a person or a caller wrote.
fn question<'a>(entries: &[&'a Entry]) -> &'a str {
    let newest = entries.iter().rev().find_map(|entry| match &entry.state {
        State::UserMessage(message) if !items::is_reflection(message) => Some(message.text.as_str()),
        _ => None,
    });
    newest.unwrap_or_default()
}

/// The messages of a request after the system messages; for those who show or count them.
pub fn dialogue(request: &ModelRequest) -> impl Iterator<Item = &ChatMessage> {
    request.messages.iter().skip_while(|message| matches!(message, ChatMessage::System { .. }))
}
