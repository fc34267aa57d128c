//! Definitions from files: `agents.yml` of the earlier system, and every registry kind as YAML documents.
//!
//! One way in for all of them: [`parse_file`] reads and checks the text, [`check_references`] looks whether
//! what a definition names exists, [`records`] turns what changed into records of `registry`.

mod check;
mod evaluators;
mod fields;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use crate::definition::{AgentKind, Definition};
use crate::record::RegistryRecord;
use crate::registry::Registry;

/// The model of an `llm` agent that names none in an `agents.yml` of the earlier system.
const EARLIER_DEFAULT_MODEL: &str = "openai/gpt-4.1";

/// Why a file cannot be applied: where, what, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ApplyError {
    /// The file; none where only definitions were looked at.
    pub path: Option<String>,
    /// The line, counted from 1, where it is known.
    pub line: Option<usize>,
    /// Which definition, e.g. `agent 'alpha'`.
    pub place: String,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{path}")?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
        }
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.message)
    }
}

/// A problem of one definition, and the key that it is about.
#[derive(Debug)]
struct Problem {
    key: Option<String>,
    message: String,
}

impl Problem {
    fn of(key: &str, message: String) -> Problem {
        Problem { key: Some(key.to_owned()), message }
    }
}

/// A definition of `kind` from its JSON body in `registry`. Looks at keys and shapes only: what was accepted
/// once stays readable even where later versions check values more strictly.
///
/// # Errors
/// A sentence that names the kind, the id and what does not fit.
pub fn definition_from_json(kind: &str, body: &Value) -> Result<Definition, String> {
    let Some(object) = body.as_object() else {
        return Err(format!("{kind}: its body must be a JSON object, found {}", fields::describe(body)));
    };
    build(kind, object.clone()).map_err(|problem| format!("{}: {}", place(kind, object), problem.message))
}

fn build(kind: &str, object: Map<String, Value>) -> Result<Definition, Problem> {
    let object = Value::Object(fields::normalise(kind, object)?);
    let built = match kind {
        "agent" => serde_json::from_value(object).map(Definition::Agent),
        "tool" => serde_json::from_value(object).map(Definition::Tool),
        "persona" => serde_json::from_value(object).map(Definition::Persona),
        "evaluator" => serde_json::from_value(object).map(|it| Definition::Evaluator(Box::new(it))),
        "rubric" => serde_json::from_value(object).map(Definition::Rubric),
        _ => serde_json::from_value(object).map(Definition::Price),
    };
    built.map_err(|error| Problem { key: None, message: error.to_string() })
}

fn place(kind: &str, object: &Map<String, Value>) -> String {
    match object.get("id").and_then(Value::as_str) {
        Some(id) => format!("{kind} '{id}'"),
        None => format!("{kind} without id"),
    }
}

/// All definitions of a file, in its order, each one checked by itself.
///
/// A document is one of: a mapping with `kind: agent|tool|persona|price|evaluator|rubric` and the definition's keys; a list of
/// agents; a mapping with only `agents:`, which holds that list. The key and type names of the earlier
/// system's `agents.yml` mean the same as ours. `path` only serves the messages.
///
/// # Errors
/// The first problem found: text that is not YAML, a key that does not exist (with the nearest that does), a
/// value of the wrong shape or out of range, a template that does not compile, an id used twice.
pub fn parse_file(text: &str, path: &str) -> Result<Vec<Definition>, ApplyError> {
    let error = |line, place, message| ApplyError { path: Some(path.to_owned()), line, place, message };
    let documents = yaml::documents(text).map_err(|(line, message)| error(line, String::new(), message))?;
    let mut definitions = Vec::new();
    let mut known = BTreeSet::new();
    for (index, document) in documents.into_iter().enumerate() {
        let number = format!("document {}", index + 1);
        let bodies = bodies(document).map_err(|message| error(None, number.clone(), message))?;
        for (kind, body) in bodies {
            let place = place(&kind, &body);
            let id = body.get("id").and_then(Value::as_str).map(str::to_owned);
            let definition = build(&kind, body).and_then(|definition| {
                check::check(&definition)?;
                Ok(definition)
            });
            let definition = definition.map_err(|problem| {
                let line = problem.key.and_then(|key| yaml::line_of(text, &key, id.as_deref()));
                error(line, place.clone(), problem.message)
            })?;
            if !known.insert((definition.kind(), definition.id().to_owned())) {
                return Err(error(None, place, "is defined twice in this file; keep one of them".to_owned()));
            }
            definitions.push(definition);
        }
    }
    if definitions.is_empty() {
        let message = "holds no definition; write documents with kind: agent, tool, persona, price, evaluator or rubric";
        return Err(error(None, String::new(), message.to_owned()));
    }
    Ok(definitions)
}

/// A definition still to be read: its kind and its keys without `kind`.
type Body = (String, Map<String, Value>);

/// The definitions of one document.
fn bodies(document: Value) -> Result<Vec<Body>, String> {
    match document {
        Value::Null => Ok(Vec::new()),
        Value::Array(agents) => agents.into_iter().map(listed_agent).collect(),
        Value::Object(mut object) => {
            if let Some(kind) = object.remove("kind") {
                let Value::String(kind) = kind else {
                    return Err(format!("'kind' must be text, found {}", fields::describe(&kind)));
                };
                return Ok(vec![(kind, object)]);
            }
            match object.remove("agents") {
                Some(Value::Array(agents)) => match object.keys().next() {
                    None => agents.into_iter().map(listed_agent).collect(),
                    Some(key) => Err(format!("unknown key '{key}' beside 'agents'; remove it")),
                },
                Some(Value::Null) => Ok(Vec::new()),
                Some(other) => Err(format!("'agents' must be a list, found {}", fields::describe(&other))),
                None => {
                    Err("has no 'kind'; add kind: agent, tool, persona, price, evaluator or rubric"
                        .to_owned())
                }
            }
        }
        other => Err(format!("must be a mapping or a list of agents, found {}", fields::describe(&other))),
    }
}

fn listed_agent(item: Value) -> Result<Body, String> {
    let Value::Object(mut object) = item else {
        return Err(format!("every agent of the list must be a mapping, found {}", fields::describe(&item)));
    };
    if let Some(kind) = object.remove("kind").filter(|kind| kind != "agent") {
        return Err(format!("a list holds agents only, found kind {kind}; put it into its own document"));
    }
    let llm = object.get("type").and_then(Value::as_str) == Some("llm");
    if llm && !object.contains_key("model") && !object.contains_key("llm_model") {
        object.insert("model".to_owned(), Value::from(EARLIER_DEFAULT_MODEL));
    }
    Ok(("agent".to_owned(), object))
}

/// Whether the tools, personas, agents and rubrics that the definitions name exist, in `registry` or among themselves.
/// `source` is the file's (path, text), for the message.
///
/// # Errors
/// The first name that does not, with the nearest that does.
pub fn check_references(
    definitions: &[Definition],
    registry: &Registry,
    source: Option<(&str, &str)>,
) -> Result<(), ApplyError> {
    for definition in definitions {
        let missing = missing(definition, definitions, registry);
        let Some((key, kind, id)) = missing.into_iter().next() else { continue };
        let mut ids: Vec<&str> = registry.list(kind).map(|(_, known)| known.id()).collect();
        ids.extend(definitions.iter().filter(|other| other.kind() == kind).map(Definition::id));
        let nearest = fields::nearest(id, ids.iter().copied());
        let hint = nearest.map_or_else(
            || format!("apply a {kind} of that id first"),
            |near| format!("the nearest known {kind} is '{near}', or apply that {kind} too"),
        );
        let line = source.and_then(|(_, text)| {
            let names = std::iter::once(key).chain(fields::earlier_name(key));
            names.filter_map(|name| yaml::line_of(text, name, Some(definition.id()))).next()
        });
        return Err(ApplyError {
            path: source.map(|(path, _)| path.to_owned()),
            line,
            place: format!("{} '{}'", definition.kind(), definition.id()),
            message: format!("'{key}' names the {kind} '{id}', which does not exist; {hint}"),
        });
    }
    Ok(())
}

/// What a definition names that is neither in `registry` nor among `definitions`: (its key, kind, id).
fn missing<'a>(
    definition: &'a Definition,
    definitions: &[Definition],
    registry: &Registry,
) -> Vec<(&'static str, &'static str, &'a str)> {
    let mut named = references(definition);
    named.retain(|(_, kind, id)| {
        let among = definitions.iter().any(|other| other.kind() == *kind && other.id() == *id);
        !among && registry.newest(kind, id).is_none()
    });
    named
}

/// What a definition names: (its key, kind, id).
fn references(definition: &Definition) -> Vec<(&'static str, &'static str, &str)> {
    let mut found = Vec::new();
    match definition {
        Definition::Agent(agent) => {
            if let AgentKind::Llm(llm) = &agent.kind {
                found.extend(llm.tools.iter().map(|tool| ("tools", "tool", tool.as_str())));
                found.extend(llm.behavior.iter().map(|persona| ("behavior", "persona", persona.as_str())));
                found
                    .extend(llm.reflection_agent.iter().map(|id| ("reflection_agent", "agent", id.as_str())));
            }
        }
        Definition::Persona(persona) => {
            found.extend(persona.required_tools.iter().map(|tool| ("required_tools", "tool", tool.as_str())));
        }
        Definition::Evaluator(evaluator) => found.extend(evaluators::references(evaluator)),
        Definition::Tool(_) | Definition::Price(_) | Definition::Rubric(_) => {}
    }
    found
}

/// The records that make `definitions` the newest ones of `registry`: for each that differs from the newest
/// version its next version, directly followed by the pointer to it. What did not change yields nothing, so
/// applying a file twice is harmless.
pub fn records(definitions: &[Definition], registry: &Registry) -> Vec<RegistryRecord> {
    let mut newest: BTreeMap<(&str, &str), (i32, &Definition)> = BTreeMap::new();
    let mut records = Vec::new();
    for definition in definitions {
        let (kind, id) = (definition.kind(), definition.id());
        let before = newest.get(&(kind, id)).copied().or_else(|| registry.newest(kind, id));
        if before.is_some_and(|(_, same)| same == definition) {
            continue;
        }
        let version = before.map_or(0, |(version, _)| version).saturating_add(1);
        newest.insert((kind, id), (version, definition));
        let pointer = RegistryRecord {
            key: format!("{kind}/{id}"),
            kind: kind.to_owned(),
            id: id.to_owned(),
            version,
            body: None,
        };
        records.push(RegistryRecord {
            key: format!("{kind}/{id}@{version}"),
            body: Some(definition.body().into()),
            ..pointer.clone()
        });
        records.push(pointer);
    }
    records
}
