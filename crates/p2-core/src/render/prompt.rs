//! System prompt and persona: minijinja templates.

use minijinja::{Environment, UndefinedBehavior, context};

use super::RenderSpec;
use crate::model::ChatMessage;

const BUILT_IN: &str = include_str!("../builtin/system.j2");

const SYSTEM_NAMES: &[&str] = &["agent", "conversation", "question", "tools", "can_delegate", "can_ask"];
const PERSONA_NAMES: &[&str] = &["agent", "conversation", "question"];
/// Names that minijinja itself defines.
const TEMPLATE_GLOBALS: &[&str] = &["range", "dict", "namespace", "debug", "loop", "self", "super", "caller"];

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // Unknown names are found when a template is applied; in a running conversation they are better empty
    // than fatal.
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment
}

/// The system messages: the prompt, then the persona where there is one.
pub(super) fn system_messages(spec: &RenderSpec<'_>, question: &str) -> Result<Vec<ChatMessage>, String> {
    let environment = environment();
    let has = |id: &str| spec.tools.iter().any(|tool| tool.id == id);
    let tools: Vec<_> =
        spec.tools.iter().map(|tool| context! { id => tool.id, description => tool.description }).collect();
    let names = context! {
        agent => spec.agent.as_str(),
        conversation => spec.conversation.as_str(),
        question => question,
        tools => tools,
        can_delegate => has("delegate"),
        can_ask => has("ask_user"),
    };
    let template = spec.llm.system_prompt.as_deref().unwrap_or(BUILT_IN);
    let prompt = environment.render_str(template, &names).map_err(|error| {
        format!("the system prompt of agent '{}' cannot be rendered: {error}", spec.agent)
    })?;
    let mut messages = vec![ChatMessage::System { content: prompt.trim().to_owned() }];
    if let Some(persona) = spec.persona {
        let text = environment
            .render_str(&persona.template, &names)
            .map_err(|error| format!("persona '{}' cannot be rendered: {error}", persona.id))?;
        messages.push(ChatMessage::System { content: text.trim().to_owned() });
    }
    Ok(messages)
}

/// Whether a system prompt compiles and uses only names that exist.
pub(crate) fn check_system(template: &str) -> Result<(), String> {
    check(template, SYSTEM_NAMES)
}

/// Whether a persona compiles and uses only names that exist.
pub(crate) fn check_persona(template: &str) -> Result<(), String> {
    check(template, PERSONA_NAMES)
}

fn check(text: &str, names: &[&str]) -> Result<(), String> {
    let environment = environment();
    let template =
        environment.template_from_str(text).map_err(|error| format!("is not a valid template: {error}"))?;
    let mut unknown: Vec<String> = template
        .undeclared_variables(false)
        .into_iter()
        .filter(|name| !names.contains(&name.as_str()) && !TEMPLATE_GLOBALS.contains(&name.as_str()))
        .collect();
    unknown.sort();
    match unknown.first() {
        None => Ok(()),
        Some(name) => Err(format!("uses the unknown name '{name}'; it may use {}", names.join(", "))),
    }
}
