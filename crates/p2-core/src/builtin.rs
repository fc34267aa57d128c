//! The definitions that the program brings along: six agents on the offline model, eight tools, one persona,
//! a few prices, two judges and a rubric. They are version 0, so an applied definition of the same id supersedes them.

use std::sync::LazyLock;

use crate::apply::{ApplyError, parse_file};
use crate::definition::Definition;
use crate::registry::Registry;

#[cfg(test)]
mod tests;

const FILES: &[(&str, &str)] = &[
    ("agents.yml", include_str!("builtin/agents.yml")),
    ("tools.yml", include_str!("builtin/tools.yml")),
    ("personas.yml", include_str!("builtin/personas.yml")),
    ("prices.yml", include_str!("builtin/prices.yml")),
    ("evaluators.yml", include_str!("builtin/evaluators.yml")),
];

static DEFINITIONS: LazyLock<Result<Vec<Definition>, ApplyError>> = LazyLock::new(parse);

fn parse() -> Result<Vec<Definition>, ApplyError> {
    let mut definitions = Vec::new();
    for (name, text) in FILES {
        definitions.extend(parse_file(text, name)?);
    }
    Ok(definitions)
}

/// The built-in definitions.
pub fn definitions() -> Vec<Definition> {
    // The files are part of the program; a test reads them, so a mistake in them never leaves the build.
    DEFINITIONS.as_ref().map(Clone::clone).unwrap_or_default()
}

/// A registry that holds the built-in definitions as version 0 and nothing else.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    for definition in definitions() {
        registry.insert(definition, 0);
    }
    registry
}
