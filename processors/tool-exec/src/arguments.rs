//! Checking arguments against a tool's JSON Schema, with errors that a model can act on.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{Draft, ValidationError};
use serde_json::Value;

/// Most violations that are listed.
const ERRORS_MAX: usize = 8;
/// Longest rendering of a value or of a single violation, characters.
const SHOWN_CHARS_MAX: usize = 200;

/// Checks `arguments` of `tool` against `schema` (draft 2020-12 unless it names another). References are
/// resolved inside the schema only; nothing is fetched.
///
/// # Errors
/// One message: which arguments, what was expected, what was given; at most [`ERRORS_MAX`] of them.
pub(crate) fn check(tool: &str, schema: &Value, arguments: &Value) -> Result<(), String> {
    if !arguments.is_object() {
        return Err(format!(
            "The arguments of '{tool}' must be one JSON object, given: {}. Call it again with an object.",
            shown(arguments)
        ));
    }
    let validator = jsonschema::options().with_draft(Draft::Draft202012).build(schema).map_err(|error| {
        format!(
            "The definition of tool '{tool}' has a broken parameter schema ({}); an operator has to apply a \
             mended version.",
            cut(&error.to_string())
        )
    })?;
    let all: Vec<String> = validator.iter_errors(arguments).map(|error| describe(&error)).collect();
    if all.is_empty() {
        return Ok(());
    }
    let mut message = format!("The arguments of '{tool}' were refused: ");
    message += &all.iter().take(ERRORS_MAX).cloned().collect::<Vec<_>>().join("; ");
    if all.len() > ERRORS_MAX {
        message += &format!("; and {} more", all.len() - ERRORS_MAX);
    }
    message += ". Correct them and call it again.";
    Err(message)
}

fn describe(error: &ValidationError<'_>) -> String {
    let place = place(error.instance_path.as_str());
    let given = shown(&error.instance);
    match &error.kind {
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            match error.instance_path.as_str() {
                "" => format!("argument '{name}' is missing"),
                _ => format!("{place} lacks '{name}', given: {given}"),
            }
        }
        ValidationErrorKind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(one) => one.to_string(),
                TypeKind::Multiple(many) => {
                    many.iter().map(|one| one.to_string()).collect::<Vec<_>>().join(" or ")
                }
            };
            format!("{place} must be of type {expected}, given: {given}")
        }
        ValidationErrorKind::Enum { options } => {
            format!("{place} must be one of {}, given: {given}", shown(options))
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let names = unexpected.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
            match error.instance_path.as_str() {
                "" => format!("unknown: {}", cut(&names)),
                _ => format!("{place} has unknown fields: {}", cut(&names)),
            }
        }
        // The library's sentence begins with the value and says what was expected.
        _ => format!("{place}: {}", cut(&error.to_string())),
    }
}

/// `/a/0/b` as `argument 'a.0.b'`.
fn place(pointer: &str) -> String {
    match pointer.strip_prefix('/') {
        Some(path) => {
            format!("argument '{}'", cut(&path.replace('/', ".").replace("~1", "/").replace("~0", "~")))
        }
        None => "the arguments as a whole".to_owned(),
    }
}

fn shown(value: &Value) -> String {
    cut(&value.to_string())
}

fn cut(text: &str) -> String {
    crate::outcome::cut(text, SHOWN_CHARS_MAX)
}
