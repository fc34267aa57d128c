//! A model made of rules: the same conversation always gets the same answer, offline. Pure.
//!
//! The format is described for its users in `docs/scripted-models.md`.

mod parse;
mod template;
mod view;

use p2_core::model::{ModelError, ModelErrorClass, ModelReply, ModelRequest, ModelToolCall};
use regex::Regex;

pub use parse::ScriptError;
use view::View;

/// A script: rules, the first that matches answers.
#[derive(Clone, Debug)]
pub struct Script {
    rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug)]
struct Rule {
    /// Its number from 1, and its name where it has one: for messages.
    label: String,
    when: Condition,
    unless: Option<Condition>,
    /// Never empty; the n-th is used where the rule matched n earlier turns, the last one from then on.
    replies: Vec<Reply>,
}

/// What must hold; every part that is given.
#[derive(Clone, Debug, Default)]
struct Condition {
    contains: Vec<String>,
    equals: Vec<String>,
    matches: Option<Regex>,
    last: Vec<String>,
    tool: Vec<String>,
    result_contains: Vec<String>,
    system_contains: Vec<String>,
    history_contains: Vec<String>,
    model: Vec<String>,
    has_tool: Vec<String>,
    turn: Option<u64>,
    step: Option<u64>,
    expression: Option<String>,
}

/// What is answered.
#[derive(Clone, Debug, Default)]
struct Reply {
    text: Option<String>,
    calls: Vec<Call>,
    delay_ms: u64,
    error: Option<ModelError>,
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
}

/// A tool call to be made, once or once per item.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    id: Option<String>,
    arguments: serde_json::Value,
    each: Option<String>,
    condition: Option<String>,
}

/// What the script says to one request.
#[derive(Clone, Debug, PartialEq)]
pub struct ScriptedAnswer {
    /// The rule that answered, as `rule 3 (greeting)`; none where none matched.
    pub rule: Option<String>,
    /// How long to wait before the result, milliseconds.
    pub delay_ms: u64,
    /// Reply or error.
    pub result: Result<ModelReply, ModelError>,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// [`ScriptError`] naming the rule and the key, with the nearest valid key.
    pub fn parse(yaml: &str) -> Result<Script, ScriptError> {
        parse::script(yaml)
    }

    /// The script behind `scripted/demo`.
    ///
    /// # Errors
    /// None in a build whose tests pass.
    pub fn demo() -> Result<Script, ScriptError> {
        Script::parse(include_str!("../../scripts/demo.yml"))
    }
}

/// Answers one request. A function of its arguments alone.
pub fn answer(script: &Script, request: &ModelRequest) -> ScriptedAnswer {
    let view = View::new(request, &request.messages);
    match find(script, request, &view) {
        Ok(Some((rule, reply))) => {
            let result = match &reply.error {
                Some(error) => Err(templated(error, rule, &view)),
                None => build(rule, reply, &view),
            };
            ScriptedAnswer { rule: Some(rule.label.clone()), delay_ms: reply.delay_ms, result }
        }
        Ok(None) => {
            let said: String = view.user.chars().take(80).collect();
            let text = format!(
                "no rule of the script matches (last user text: {said:?}): end it with a rule without `when`"
            );
            ScriptedAnswer { rule: None, delay_ms: 0, result: Err(permanent("no_rule", text)) }
        }
        Err(error) => ScriptedAnswer { rule: None, delay_ms: 0, result: Err(error) },
    }
}

fn find<'a>(
    script: &'a Script,
    request: &ModelRequest,
    view: &View,
) -> Result<Option<(&'a Rule, &'a Reply)>, ModelError> {
    for rule in &script.rules {
        if !rule.applies(view)? {
            continue;
        }
        let earlier = if rule.replies.len() > 1 { earlier_turns(rule, request)? } else { 0 };
        let reply = rule.replies.get(earlier).or(rule.replies.last());
        return Ok(reply.map(|reply| (rule, reply)));
    }
    Ok(None)
}

/// How many of the assistant's earlier turns the rule matched: what a sequence counts. Read off the
/// conversation, so that a branch or a replay counts the same.
fn earlier_turns(rule: &Rule, request: &ModelRequest) -> Result<usize, ModelError> {
    let mut count = 0;
    for (index, message) in request.messages.iter().enumerate() {
        let is_turn = matches!(message, p2_core::model::ChatMessage::Assistant { .. });
        let before = request.messages.get(..index).unwrap_or_default();
        if is_turn && rule.applies(&View::new(request, before))? {
            count += 1;
        }
    }
    Ok(count)
}

impl Rule {
    fn applies(&self, view: &View) -> Result<bool, ModelError> {
        let broken = |error: String| permanent("script_error", format!("{}: {error}", self.label));
        Ok(self.when.holds(view).map_err(broken)?
            && match &self.unless {
                Some(unless) => !unless.holds(view).map_err(broken)?,
                None => true,
            })
    }
}

impl Condition {
    fn holds(&self, view: &View) -> Result<bool, String> {
        let within = |needles: &[String], text: &str| {
            let text = text.to_lowercase();
            needles.is_empty() || needles.iter().any(|needle| text.contains(needle.as_str()))
        };
        let among = |names: &[String], name: &str| {
            names.is_empty() || names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        let plain = within(&self.contains, &view.user)
            && (self.equals.is_empty() || self.equals.contains(&view.user.trim().to_lowercase()))
            && self.matches.as_ref().is_none_or(|regex| regex.is_match(&view.user))
            && among(&self.last, view.last_role)
            && among(&self.tool, view.last_tool.as_deref().unwrap_or_default())
            && (self.result_contains.is_empty()
                || view.last_result.as_ref().is_some_and(|text| within(&self.result_contains, text)))
            && within(&self.system_contains, &view.system)
            && (self.history_contains.is_empty()
                || view.users.iter().any(|text| within(&self.history_contains, text)))
            && (among(&self.model, &view.model)
                || self.model.iter().any(|model| Some(model.as_str()) == view.model.split('/').next_back()))
            && self.has_tool.iter().all(|tool| view.tools.contains(tool))
            && self.turn.is_none_or(|turn| turn == view.turn)
            && self.step.is_none_or(|step| step == view.step);
        if !plain {
            return Ok(false);
        }
        match &self.expression {
            Some(expression) => template::truth(expression, &self.context(view)),
            None => Ok(true),
        }
    }

    fn context(&self, view: &View) -> minijinja::Value {
        template::context(view, self.matches.as_ref())
    }
}

fn build(rule: &Rule, reply: &Reply, view: &View) -> Result<ModelReply, ModelError> {
    let broken = |error: String| permanent("script_error", format!("{}: {error}", rule.label));
    let context = rule.when.context(view);
    let text = match &reply.text {
        Some(text) => Some(template::render(text, &context).map_err(broken)?.trim().to_owned()),
        None => None,
    };
    let mut tool_calls = Vec::new();
    for call in &reply.calls {
        for context in template::items(call.each.as_deref(), &context).map_err(broken)? {
            let wanted = match &call.condition {
                Some(condition) => template::truth(condition, &context).map_err(broken)?,
                None => true,
            };
            if !wanted {
                continue;
            }
            let id = match &call.id {
                Some(id) => template::render(id, &context).map_err(broken)?,
                None => format!("call_{}_{}", view.turn, tool_calls.len() + 1),
            };
            let arguments = template::value(&call.arguments, &context).map_err(broken)?;
            let arguments = match arguments {
                // A text is sent as it is: the way to play a model that writes malformed arguments.
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            let name = template::render(&call.name, &context).map_err(broken)?;
            tool_calls.push(ModelToolCall { id, name, arguments });
        }
    }
    let text = text.filter(|text| !text.is_empty());
    let completion = words(text.as_deref().unwrap_or_default())
        + tool_calls.iter().map(|call| words(&call.name) + words(&call.arguments)).sum::<i64>();
    Ok(ModelReply {
        text,
        tool_calls,
        prompt_tokens: reply.prompt_tokens.or(Some(view.words)),
        completion_tokens: reply.completion_tokens.or(Some(completion)),
    })
}

fn templated(error: &ModelError, rule: &Rule, view: &View) -> ModelError {
    match template::render(&error.message, &rule.when.context(view)) {
        Ok(message) => ModelError { message, ..error.clone() },
        Err(problem) => permanent("script_error", format!("{}: {problem}", rule.label)),
    }
}

/// The token estimate: words between white space. Simple on purpose: a person can check it by counting.
fn words(text: &str) -> i64 {
    i64::try_from(text.split_whitespace().count()).unwrap_or(i64::MAX)
}

fn permanent(code: &str, message: String) -> ModelError {
    ModelError { class: ModelErrorClass::Permanent, code: code.to_owned(), message }
}

#[cfg(test)]
mod demo_tests;
#[cfg(test)]
mod tests;
