//! Rendering a stack for a model.

use crate::definition::{LlmAgent, Persona, Tool};
use crate::ids::{AgentId, ConversationId};
use crate::json_text::JsonText;
use crate::model::{ChatMessage, ModelRequest, ModelToolCall, ToolSpec};
use crate::record::Overrides;
use crate::state::{Entry, State};

/// What a request is rendered from, besides the entries.
pub struct RenderSpec<'a> {
    /// The conversation.
    pub conversation: &'a ConversationId,
    /// The agent.
    pub agent: &'a AgentId,
    /// Its effective definition.
    pub llm: &'a LlmAgent,
    /// Its persona.
    pub persona: Option<&'a Persona>,
    /// The tools on offer.
    pub tools: Vec<&'a Tool>,
}

/// The definition with the overrides put in.
pub fn effective(llm: &LlmAgent, overrides: &Overrides) -> LlmAgent {
    let mut llm = llm.clone();
    if let Some(model) = &overrides.model {
        llm.model.clone_from(model);
    }
    if let Some(tools) = &overrides.tools {
        llm.tools.clone_from(tools);
    }
    if let Some(behavior) = &overrides.behavior {
        llm.behavior = (!behavior.is_empty()).then(|| behavior.clone());
    }
    llm.temperature = overrides.temperature.or(llm.temperature);
    llm.top_p = overrides.top_p.or(llm.top_p);
    llm.max_tokens = overrides.max_tokens.or(llm.max_tokens);
    llm
}

/// The request for those entries (a visible lineage, oldest first).
///
/// # Errors
/// A sentence where a template does not render.
pub fn request(spec: &RenderSpec<'_>, entries: &[&Entry]) -> Result<ModelRequest, String> {
    let mut messages = Vec::new();
    for entry in entries {
        match &entry.state {
            State::UserMessage(m) => messages.push(ChatMessage::User { content: m.text.clone() }),
            State::AssistantMessage(m) if m.error.is_none() && !m.text.is_empty() => {
                messages
                    .push(ChatMessage::Assistant { content: Some(m.text.clone()), tool_calls: Vec::new() });
            }
            State::ToolCall(c) => messages.push(ChatMessage::Assistant {
                content: None,
                tool_calls: vec![ModelToolCall {
                    id: c.call_id.clone(),
                    name: c.tool.clone(),
                    arguments: c.arguments.text(),
                }],
            }),
            State::ToolResult(r) => messages.push(ChatMessage::Tool {
                tool_call_id: r.call_id.clone(),
                name: r.tool.clone(),
                content: r.result.text(),
            }),
            _ => {}
        }
    }
    let tool = |tool: &&Tool| ToolSpec {
        name: tool.id.clone(),
        description: tool.description.clone(),
        parameters: JsonText(tool.parameters.clone()),
    };
    Ok(ModelRequest {
        model: spec.llm.model.clone(),
        messages,
        tools: spec.tools.iter().map(tool).collect(),
        temperature: spec.llm.temperature,
        top_p: spec.llm.top_p,
        max_tokens: spec.llm.max_tokens,
    })
}
