//! System prompt and persona: minijinja templates.

use std::io::{self, Write};

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, context};

use super::RenderSpec;
use crate::definition::Persona;
use crate::model::ChatMessage;

const BUILT_IN: &str = include_str!("../builtin/system.j2");

const SYSTEM_NAMES: &[&str] =
    &["agent", "agents", "conversation", "question", "tools", "can_delegate", "can_ask"];
const PERSONA_NAMES: &[&str] = &["agent", "conversation", "question"];
/// Names that minijinja itself defines.
const TEMPLATE_GLOBALS: &[&str] = &["range", "dict", "namespace", "debug", "loop", "self", "super", "caller"];

/// Steps (about one for each instruction of the template engine) that a template may take: milliseconds.
const STEPS_MAX: u64 = 100_000;
/// How deep macros may call each other.
const MACRO_DEPTH_MAX: usize = 50;
/// Longest text that a template may make, in bytes.
const OUTPUT_BYTES_MAX: usize = 262_144;

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // Unknown names are found when a template is applied; in a running conversation they are better empty
    // than fatal.
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(STEPS_MAX));
    environment.set_recursion_limit(MACRO_DEPTH_MAX);
    environment
}

/// Takes text up to its limit.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn fill(environment: &Environment<'_>, template: &str, names: &Value) -> Result<String, Error> {
    let mut text = Bounded::default();
    environment.template_from_str(template)?.render_captured_to(names, &mut text)?;
    Ok(String::from_utf8_lossy(&text.0).trim().to_owned())
}

/// What is wrong and in which line of the template.
fn sentence(error: &Error) -> String {
    let what = match error.kind() {
        ErrorKind::OutOfFuel => format!("it takes more than {STEPS_MAX} steps: shorten its loops"),
        ErrorKind::WriteFailure => {
            format!("it makes more than {OUTPUT_BYTES_MAX} bytes of text: shorten its loops")
        }
        kind => match error.detail() {
            Some(detail) => format!("{kind}: {detail}"),
            None => kind.to_string(),
        },
    };
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

/// The system messages: the prompt, then the persona where there is one.
pub(super) fn system_messages(spec: &RenderSpec<'_>, question: &str) -> Result<Vec<ChatMessage>, String> {
    let environment = environment();
    let has = |id: &str| spec.tools.iter().any(|tool| tool.id == id);
    let tools: Vec<_> =
        spec.tools.iter().map(|tool| context! { id => tool.id, description => tool.description }).collect();
    let names = context! {
        agent => spec.agent.as_str(),
        agents => spec.agents,
        conversation => spec.conversation.as_str(),
        question => question,
        tools => tools,
        can_delegate => has("delegate"),
        can_ask => has("ask_user"),
    };
    let template = spec.llm.system_prompt.as_deref().unwrap_or(BUILT_IN);
    let prompt = fill(&environment, template, &names).map_err(|error| {
        format!("the system prompt of agent '{}' cannot be rendered: {}", spec.agent, sentence(&error))
    })?;
    let mut messages = vec![ChatMessage::System { content: prompt }];
    if let Some(persona) = spec.persona {
        let text = fill(&environment, &persona.template, &names)
            .map_err(|error| format!("persona '{}' cannot be rendered: {}", persona.id, sentence(&error)))?;
        messages.push(ChatMessage::System { content: text });
    }
    Ok(messages)
}

/// A persona's text.
///
/// # Errors
/// A sentence where the template cannot be rendered.
pub(crate) fn fill_persona(
    persona: &Persona,
    agent: &str,
    conversation: &str,
    question: &str,
) -> Result<String, String> {
    let names = context! { agent => agent, conversation => conversation, question => question };
    fill(&environment(), &persona.template, &names)
        .map_err(|error| format!("persona '{}' cannot be rendered: {}", persona.id, sentence(&error)))
}

/// Whether a system prompt compiles, ends and uses only names that exist.
pub(crate) fn check_system(template: &str) -> Result<(), String> {
    check(template, SYSTEM_NAMES)
}

/// Whether a persona compiles, ends and uses only names that exist.
pub(crate) fn check_persona(template: &str) -> Result<(), String> {
    check(template, PERSONA_NAMES)
}

fn check(text: &str, names: &[&str]) -> Result<(), String> {
    let environment = environment();
    let template = environment
        .template_from_str(text)
        .map_err(|error| format!("is not a valid template: {}", sentence(&error)))?;
    let mut unknown: Vec<String> = template
        .undeclared_variables(false)
        .into_iter()
        .filter(|name| !names.contains(&name.as_str()) && !TEMPLATE_GLOBALS.contains(&name.as_str()))
        .collect();
    unknown.sort();
    if let Some(name) = unknown.first() {
        return Err(format!("uses the unknown name '{name}'; it may use {}", names.join(", ")));
    }
    try_out(&environment, text)
}

/// Fills a template with examples, so that what can never work is found when it is applied. A failure that may
/// come from the examples is none.
fn try_out(environment: &Environment<'_>, text: &str) -> Result<(), String> {
    let names = context! {
        agent => "alpha",
        agents => ["beta"],
        conversation => "demo",
        question => "What is the weather in Paris?",
        tools => [context! { id => "look", description => "Looks." }],
        can_delegate => true,
        can_ask => true,
    };
    let Err(error) = fill(environment, text, &names) else { return Ok(()) };
    let recursion = error.detail().is_some_and(|detail| detail.contains("recursion limit"));
    match error.kind() {
        ErrorKind::OutOfFuel
        | ErrorKind::WriteFailure
        | ErrorKind::UnknownFilter
        | ErrorKind::UnknownTest
        | ErrorKind::UnknownFunction
        | ErrorKind::UnknownMethod => {}
        _ if recursion => {}
        _ => return Ok(()),
    }
    Err(format!("cannot be rendered: {}", sentence(&error)))
}

#[cfg(test)]
mod tests;
