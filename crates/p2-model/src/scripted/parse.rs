//! Reads a script. By hand rather than by derive, so that every message names the rule and the key.

use p2_core::model::{ModelError, ModelErrorClass};
use serde_yaml_ng::{Mapping, Value};

use super::{Call, Condition, Reply, Rule, Script, template};

/// A script that cannot be used: what, where, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ScriptError {
    /// `script`, or `rule 3 (greeting)`.
    pub place: String,
    /// What is wrong there.
    pub problem: String,
}

const SCRIPT_KEYS: &[&str] = &["name", "description", "rules"];
const RULE_KEYS: &[&str] = &["name", "when", "unless", "reply", "sequence"];
const WHEN_KEYS: &[&str] = &[
    "contains",
    "equals",
    "matches",
    "last",
    "tool",
    "result_contains",
    "system_contains",
    "history_contains",
    "model",
    "has_tool",
    "turn",
    "step",
    "if",
];
const REPLY_KEYS: &[&str] = &["text", "tool_calls", "delay_ms", "error", "usage"];
const CALL_KEYS: &[&str] = &["name", "arguments", "id", "each", "if"];
const ERROR_KEYS: &[&str] = &["class", "code", "message"];
const USAGE_KEYS: &[&str] = &["prompt_tokens", "completion_tokens"];
const ROLES: &[&str] = &["user", "tool", "assistant", "system"];

type Result<T> = std::result::Result<T, ScriptError>;

/// Where a message points: a rule, and the path of keys inside it.
#[derive(Clone, Copy)]
struct Place<'a> {
    rule: &'a str,
    path: &'a str,
}

impl Place<'_> {
    fn error(self, problem: impl std::fmt::Display) -> ScriptError {
        let problem =
            if self.path.is_empty() { problem.to_string() } else { format!("`{}`: {problem}", self.path) };
        ScriptError { place: self.rule.to_owned(), problem }
    }
}

pub(super) fn script(yaml: &str) -> Result<Script> {
    let place = Place { rule: "script", path: "" };
    let value: Value =
        serde_yaml_ng::from_str(yaml).map_err(|error| place.error(format!("not valid YAML: {error}")))?;
    let script = Keys::new(&value, SCRIPT_KEYS, place)?;
    let Some(Value::Sequence(rules)) = script.get("rules") else {
        return Err(place.error("needs a list `rules`, e.g. `rules: [{reply: {text: Hello}}]`"));
    };
    if rules.is_empty() {
        return Err(place.error("`rules` is empty: it needs at least one rule"));
    }
    let rules = rules.iter().zip(1_usize..).map(|(value, number)| rule(value, number));
    Ok(Script { rules: rules.collect::<Result<_>>()? })
}

fn rule(value: &Value, number: usize) -> Result<Rule> {
    let name = value.get("name").and_then(Value::as_str);
    let label = name.map_or_else(|| format!("rule {number}"), |name| format!("rule {number} ({name})"));
    let place = Place { rule: &label, path: "" };
    let keys = Keys::new(value, RULE_KEYS, place)?;
    let when = match keys.get("when") {
        Some(when) => condition(when, Place { path: "when", ..place })?,
        None => Condition::default(),
    };
    let unless = keys.get("unless").map(|unless| condition(unless, Place { path: "unless", ..place }));
    let replies = match (keys.get("reply"), keys.get("sequence")) {
        (Some(one), None) => vec![reply(one, Place { path: "reply", ..place })?],
        (None, Some(Value::Sequence(several))) if !several.is_empty() => several
            .iter()
            .zip(1_usize..)
            .map(|(one, number)| {
                let path = format!("sequence[{number}]");
                reply(one, Place { path: &path, ..place })
            })
            .collect::<Result<_>>()?,
        (None, Some(_)) => return Err(place.error("`sequence` must be a list of at least one reply")),
        _ => return Err(place.error("needs either `reply` or `sequence`")),
    };
    let unless = unless.transpose()?;
    Ok(Rule { label, when, unless, replies })
}

fn condition(value: &Value, place: Place<'_>) -> Result<Condition> {
    let keys = Keys::new(value, WHEN_KEYS, place)?;
    let lower = |key| keys.texts(key).map(|texts| texts.iter().map(|text| text.to_lowercase()).collect());
    let matches = match keys.text("matches")? {
        Some(pattern) => Some(template::compile(&pattern).map_err(|error| place.error(error))?),
        None => None,
    };
    let last: Vec<String> = keys.texts("last")?;
    if let Some(role) = last.iter().find(|role| !ROLES.contains(&role.as_str())) {
        return Err(place.error(format!("last: '{role}' is no role; one of {}", ROLES.join(", "))));
    }
    let expression = keys.text("if")?;
    if let Some(expression) = &expression {
        template::check_expression(expression).map_err(|error| place.error(format!("if: {error}")))?;
    }
    Ok(Condition {
        contains: lower("contains")?,
        equals: lower("equals")?,
        matches,
        last,
        tool: keys.texts("tool")?,
        result_contains: lower("result_contains")?,
        system_contains: lower("system_contains")?,
        history_contains: lower("history_contains")?,
        model: keys.texts("model")?,
        has_tool: keys.texts("has_tool")?,
        turn: keys.number("turn")?,
        step: keys.number("step")?,
        expression,
    })
}

fn reply(value: &Value, place: Place<'_>) -> Result<Reply> {
    let keys = Keys::new(value, REPLY_KEYS, place)?;
    let text = keys.text("text")?;
    if let Some(text) = &text {
        template::check_template(text).map_err(|error| place.error(format!("text: {error}")))?;
    }
    let calls = match keys.get("tool_calls") {
        None => Vec::new(),
        Some(Value::Sequence(calls)) => {
            calls.iter().map(|value| call(value, place)).collect::<Result<_>>()?
        }
        Some(_) => return Err(place.error("`tool_calls` must be a list")),
    };
    let error = keys.get("error").map(|value| model_error(value, place)).transpose()?;
    if error.is_some() && (text.is_some() || !calls.is_empty()) {
        return Err(place.error("has an `error` beside `text` or `tool_calls`: a call either fails or not"));
    }
    let mut reply = Reply { text, calls, error, ..Reply::default() };
    reply.delay_ms = keys.number("delay_ms")?.unwrap_or_default();
    if let Some(usage) = keys.get("usage") {
        let path = format!("{}.usage", place.path);
        let usage = Keys::new(usage, USAGE_KEYS, Place { path: &path, ..place })?;
        let tokens = |key| Ok(usage.number(key)?.map(|count| i64::try_from(count).unwrap_or(i64::MAX)));
        (reply.prompt_tokens, reply.completion_tokens) =
            (tokens("prompt_tokens")?, tokens("completion_tokens")?);
    }
    Ok(reply)
}

fn call(value: &Value, place: Place<'_>) -> Result<Call> {
    let path = format!("{}.tool_calls", place.path);
    let place = Place { path: &path, ..place };
    let keys = Keys::new(value, CALL_KEYS, place)?;
    let name = keys.text("name")?.ok_or_else(|| place.error("a call needs the tool's `name`"))?;
    let (each, condition) = (keys.text("each")?, keys.text("if")?);
    for expression in each.iter().chain(&condition) {
        template::check_expression(expression).map_err(|error| place.error(error))?;
    }
    let arguments = match keys.get("arguments") {
        None => serde_json::json!({}),
        Some(arguments) => serde_json::to_value(arguments)
            .map_err(|error| place.error(format!("arguments: not expressible as JSON: {error}")))?,
    };
    if !arguments.is_object() && !arguments.is_string() {
        return Err(place.error("arguments: must be an object (or a text, sent as it is)"));
    }
    check_texts(&arguments).map_err(|error| place.error(format!("arguments: {error}")))?;
    Ok(Call { name, id: keys.text("id")?, arguments, each, condition })
}

fn check_texts(value: &serde_json::Value) -> std::result::Result<(), String> {
    match value {
        serde_json::Value::String(text) => template::check_template(text),
        serde_json::Value::Array(items) => items.iter().try_for_each(check_texts),
        serde_json::Value::Object(fields) => fields.values().try_for_each(check_texts),
        _ => Ok(()),
    }
}

fn model_error(value: &Value, place: Place<'_>) -> Result<ModelError> {
    let path = format!("{}.error", place.path);
    let place = Place { path: &path, ..place };
    let keys = Keys::new(value, ERROR_KEYS, place)?;
    let class = match keys.text("class")?.as_deref() {
        None | Some("permanent") => ModelErrorClass::Permanent,
        Some("transient") => ModelErrorClass::Transient,
        Some("timeout") => ModelErrorClass::Timeout,
        Some(other) => {
            return Err(place.error(format!("class: '{other}' is none of transient, permanent, timeout")));
        }
    };
    let message = keys.text("message")?.unwrap_or_else(|| "a scripted error".to_owned());
    template::check_template(&message).map_err(|error| place.error(format!("message: {error}")))?;
    Ok(ModelError { class, code: keys.text("code")?.unwrap_or_else(|| "scripted".to_owned()), message })
}

/// A mapping whose keys are known to be valid.
struct Keys<'a> {
    mapping: &'a Mapping,
    place: Place<'a>,
}

impl<'a> Keys<'a> {
    fn new(value: &'a Value, valid: &[&str], place: Place<'a>) -> Result<Keys<'a>> {
        let Value::Mapping(mapping) = value else {
            return Err(place.error(format!("must be a mapping with keys of {}", valid.join(", "))));
        };
        for key in mapping.keys() {
            let Some(key) = key.as_str() else {
                return Err(place.error("every key must be a text"));
            };
            if !valid.contains(&key) {
                let nearest = valid.iter().max_by(|one, other| {
                    strsim::jaro_winkler(key, one).total_cmp(&strsim::jaro_winkler(key, other))
                });
                let nearest = nearest.copied().unwrap_or_default();
                let problem =
                    format!("unknown key '{key}': did you mean '{nearest}'? ({})", valid.join(", "));
                return Err(place.error(problem));
            }
        }
        Ok(Keys { mapping, place })
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.mapping.get(key)
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        self.get(key).map(|value| self.scalar(key, value)).transpose()
    }

    /// A text, or a list of texts: any of them.
    fn texts(&self, key: &str) -> Result<Vec<String>> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Sequence(items)) if items.is_empty() => {
                Err(self.place.error(format!("{key}: an empty list matches nothing: leave it out")))
            }
            Some(Value::Sequence(items)) => items.iter().map(|item| self.scalar(key, item)).collect(),
            Some(value) => Ok(vec![self.scalar(key, value)?]),
        }
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64();
        number.map(Some).ok_or_else(|| self.place.error(format!("{key}: must be a whole number, 0 or more")))
    }

    fn scalar(&self, key: &str, value: &Value) -> Result<String> {
        match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(flag) => Ok(flag.to_string()),
            _ => Err(self.place.error(format!("{key}: must be a text"))),
        }
    }
}
