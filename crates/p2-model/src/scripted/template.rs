//! Templates and expressions of scripts: minijinja, bounded, with a few filters of our own.

use minijinja::value::{Value, ViaDeserialize};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use regex::{Regex, RegexBuilder};

use super::view::View;

/// Steps that one template may take: a script cannot hang an agent.
const FUEL: u64 = 200_000;

/// The variables of a template; `captures` come from the rule's `matches`.
pub(super) fn context(view: &View, matches: Option<&Regex>) -> Value {
    let mut captures: Vec<String> = Vec::new();
    let mut groups = std::collections::BTreeMap::new();
    if let Some((regex, found)) = matches.and_then(|regex| Some((regex, regex.captures(&view.user)?))) {
        let text =
            |group: Option<regex::Match<'_>>| group.map_or(String::new(), |part| part.as_str().to_owned());
        captures = found.iter().map(text).collect();
        groups =
            regex.capture_names().flatten().map(|name| (name.to_owned(), text(found.name(name)))).collect();
    }
    minijinja::context! {
        model => view.model,
        user => view.user,
        users => view.users,
        system => view.system,
        last_tool => view.last_tool,
        result => view.results.last().and_then(|result| result.get("content")),
        results => view.results,
        tools => view.tools,
        messages => view.messages,
        turn => view.turn,
        step => view.step,
        captures,
        groups,
    }
}

/// Renders a text.
pub(super) fn render(text: &str, context: &Value) -> Result<String, String> {
    if !text.contains('{') {
        return Ok(text.to_owned());
    }
    environment().render_str(text, context).map_err(|error| describe(&error))
}

/// Renders every text inside a JSON value. A text that is one `{{ … }}` keeps its value's type, so that
/// numbers stay numbers.
pub(super) fn value(value: &serde_json::Value, context: &Value) -> Result<serde_json::Value, String> {
    use serde_json::Value as Json;
    Ok(match value {
        Json::String(text) => match sole_expression(text) {
            Some(expression) => {
                let result = evaluate(expression, context)?;
                serde_json::to_value(result).map_err(|error| error.to_string())?
            }
            None => Json::String(render(text, context)?),
        },
        Json::Array(items) => {
            Json::Array(items.iter().map(|item| self::value(item, context)).collect::<Result<_, _>>()?)
        }
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, field)| Ok((name.clone(), self::value(field, context)?)));
            Json::Object(fields.collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

fn sole_expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}") && !inner.contains("{%")).then_some(inner)
}

/// Whether an expression is true.
pub(super) fn truth(expression: &str, context: &Value) -> Result<bool, String> {
    evaluate(expression, context).map(|value| value.is_true())
}

/// One context per item of the list that `each` gives, with the item as `item` and its place, from 0, as
/// `index`; without it the context.
pub(super) fn items(each: Option<&str>, context: &Value) -> Result<Vec<Value>, String> {
    let Some(each) = each else { return Ok(vec![context.clone()]) };
    let list = evaluate(each, context)?;
    let items = list.try_iter().map_err(|error| format!("each: `{each}`: {}", describe(&error)))?;
    let items = items.enumerate();
    Ok(items.map(|(index, item)| minijinja::context! { item, index, ..context.clone() }).collect())
}

/// Whether a text is a valid template.
pub(super) fn check_template(text: &str) -> Result<(), String> {
    environment().template_from_str(text).map(|_| ()).map_err(|error| describe(&error))
}

/// Whether a text is a valid expression.
pub(super) fn check_expression(text: &str) -> Result<(), String> {
    environment().compile_expression(text).map(|_| ()).map_err(|error| describe(&error))
}

fn evaluate(expression: &str, context: &Value) -> Result<Value, String> {
    let environment = environment();
    let compiled = environment.compile_expression(expression);
    compiled
        .and_then(|compiled| compiled.eval(context))
        .map_err(|error| format!("`{}`: {}", expression.trim(), describe(&error)))
}

fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(FUEL));
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.add_filter("matches", |text: String, pattern: String| {
        compile(&pattern).map(|regex| regex.is_match(&text)).map_err(invalid)
    });
    environment.add_filter("find_all", find_all);
    environment.add_filter("field", |value: ViaDeserialize<serde_json::Value>, name: String| {
        field(&value.0, &name).map_or(Value::from(""), Value::from_serialize)
    });
    environment
}

/// Every match of a pattern, in order, without repetitions; its first group where it has one.
fn find_all(text: String, pattern: String) -> Result<Vec<String>, Error> {
    let regex = compile(&pattern).map_err(invalid)?;
    let mut found: Vec<String> = Vec::new();
    for captures in regex.captures_iter(&text) {
        let part = captures.get(1).or(captures.get(0)).map_or("", |part| part.as_str());
        if !found.iter().any(|earlier| earlier.eq_ignore_ascii_case(part)) {
            found.push(part.to_owned());
        }
    }
    Ok(found)
}

/// The first field of that name, at any depth, outer ones first.
fn field<'a>(value: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    use serde_json::Value as Json;
    match value {
        Json::Object(fields) => {
            fields.get(name).or_else(|| fields.values().find_map(|inner| field(inner, name)))
        }
        Json::Array(items) => items.iter().find_map(|inner| field(inner, name)),
        _ => None,
    }
}

/// A pattern without regard to case.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).case_insensitive(true).build().map_err(|error| {
        let text = error.to_string();
        format!("`{pattern}` is no valid pattern: {}", text.lines().last().unwrap_or_default())
    })
}

fn invalid(problem: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}
