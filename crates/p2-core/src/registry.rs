//! The registry as a fold of its topic: every version of every definition, and which is newest.

use std::collections::BTreeMap;

use crate::definition::{Agent, Definition, Evaluator, Persona, Price, Rubric, Tool};
use crate::record::RegistryRecord;

/// All definitions, every version. A conversation pins the versions it began with, so a lookup takes a pin.
///
/// Version 0 is what the program brings along ([`crate::builtin`]); versions from `registry` count from 1, so
/// whatever somebody applied supersedes it, and a conversation that pinned 0 keeps the built-in one.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Registry {
    versions: BTreeMap<(String, String), BTreeMap<i32, Definition>>,
}

impl Registry {
    /// Takes one record of the topic. Pointers and versions already known change nothing, so a replay is
    /// harmless.
    ///
    /// # Errors
    /// A sentence where the body is not a definition of its kind, its id is not the record's, or the version
    /// is below 1.
    pub fn apply(&mut self, record: &RegistryRecord) -> Result<(), String> {
        let Some(body) = &record.body else { return Ok(()) };
        if record.version < 1 {
            return Err(format!("registry record '{}': versions count from 1", record.key));
        }
        let definition = crate::apply::definition_from_json(&record.kind, &body.0)?;
        if definition.id() != record.id {
            return Err(format!(
                "registry record '{}': its body defines '{}' instead of '{}'",
                record.key,
                definition.id(),
                record.id
            ));
        }
        self.insert(definition, record.version);
        Ok(())
    }

    /// Adds one version of a definition.
    pub fn insert(&mut self, definition: Definition, version: i32) {
        let key = (definition.kind().to_owned(), definition.id().to_owned());
        self.versions.entry(key).or_default().entry(version).or_insert(definition);
    }

    /// The newest version of a definition.
    pub fn newest(&self, kind: &str, id: &str) -> Option<(i32, &Definition)> {
        let versions = self.versions.get(&(kind.to_owned(), id.to_owned()))?;
        versions.last_key_value().map(|(version, definition)| (*version, definition))
    }

    /// That version of a definition; the newest where there is no pin.
    pub fn get(&self, kind: &str, id: &str, pin: Option<i32>) -> Option<(i32, &Definition)> {
        match pin {
            None => self.newest(kind, id),
            Some(version) => {
                let versions = self.versions.get(&(kind.to_owned(), id.to_owned()))?;
                versions.get(&version).map(|definition| (version, definition))
            }
        }
    }

    /// An agent.
    pub fn agent(&self, id: &str, pin: Option<i32>) -> Option<(i32, &Agent)> {
        match self.get("agent", id, pin)? {
            (version, Definition::Agent(agent)) => Some((version, agent)),
            _ => None,
        }
    }

    /// A tool.
    pub fn tool(&self, id: &str, pin: Option<i32>) -> Option<(i32, &Tool)> {
        match self.get("tool", id, pin)? {
            (version, Definition::Tool(tool)) => Some((version, tool)),
            _ => None,
        }
    }

    /// A persona.
    pub fn persona(&self, id: &str, pin: Option<i32>) -> Option<(i32, &Persona)> {
        match self.get("persona", id, pin)? {
            (version, Definition::Persona(persona)) => Some((version, persona)),
            _ => None,
        }
    }

    /// A price. Prices are never pinned: a call costs what it costs on the day.
    pub fn price(&self, model: &str) -> Option<&Price> {
        match self.newest("price", model)? {
            (_, Definition::Price(price)) => Some(price),
            _ => None,
        }
    }

    /// An evaluator.
    pub fn evaluator(&self, id: &str, pin: Option<i32>) -> Option<(i32, &Evaluator)> {
        match self.get("evaluator", id, pin)? {
            (version, Definition::Evaluator(evaluator)) => Some((version, evaluator)),
            _ => None,
        }
    }

    /// The newest version of every evaluator, by id.
    pub fn evaluators(&self) -> impl Iterator<Item = (i32, &Evaluator)> {
        self.list("evaluator").filter_map(|(version, definition)| match definition {
            Definition::Evaluator(evaluator) => Some((version, &**evaluator)),
            _ => None,
        })
    }

    /// A rubric.
    pub fn rubric(&self, id: &str, pin: Option<i32>) -> Option<(i32, &Rubric)> {
        match self.get("rubric", id, pin)? {
            (version, Definition::Rubric(rubric)) => Some((version, rubric)),
            _ => None,
        }
    }

    /// The newest version of every definition of a kind, by id.
    pub fn list(&self, kind: &str) -> impl Iterator<Item = (i32, &Definition)> {
        self.versions
            .iter()
            .filter(move |((of, _), _)| of == kind)
            .filter_map(|(_, versions)| versions.last_key_value())
            .map(|(version, definition)| (*version, definition))
    }
}
