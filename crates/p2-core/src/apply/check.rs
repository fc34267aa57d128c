//! Whether the values of one definition make sense: ids, ranges, decimals, schemas, templates.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde_json::Value;

use super::Problem;
use crate::definition::{
    Agent, AgentKind, Budget, Definition, Executor, LlmAgent, Persona, Price, RenderPolicy, Tool,
};
use crate::ids::AgentId;
use crate::ledger::{budget_account, check_account, check_book, parse_decimal};
use crate::render::prompt;

const WEEK_MS: i64 = 604_800_000;
const MONTH_MS: i64 = 2_592_000_000;
/// Tools that the core itself carries out.
const CORE_TOOLS: &[&str] = &["delegate", "ask_user"];

pub(super) fn check(definition: &Definition) -> Result<(), Problem> {
    match definition {
        Definition::Agent(agent) => check_agent(agent),
        Definition::Tool(tool) => check_tool(tool),
        Definition::Persona(persona) => check_persona(persona),
        Definition::Price(price) => check_price(price),
        Definition::Evaluator(evaluator) => super::evaluators::check(evaluator),
        Definition::Rubric(rubric) => super::evaluators::check_rubric(rubric),
    }
}

/// `extra` are the characters allowed besides ASCII letters and digits.
pub(super) fn check_id(id: &str, extra: &str, length: usize) -> Result<(), Problem> {
    let fits = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
    if (1..=length).contains(&id.len()) && id.chars().all(fits) {
        return Ok(());
    }
    let shown: Vec<String> = extra.chars().map(String::from).collect();
    let message =
        format!("'id' must be 1 to {length} characters out of ASCII letters, digits and {}", shown.join(" "));
    Err(Problem::of("id", message))
}

pub(super) fn check_range(key: &str, value: i64, range: RangeInclusive<i64>) -> Result<(), Problem> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Problem::of(key, format!("'{key}' must be from {} to {}, found {value}", range.start(), range.end())))
}

pub(super) fn check_fraction(
    key: &str,
    value: Option<f64>,
    range: RangeInclusive<f64>,
) -> Result<(), Problem> {
    match value {
        Some(value) if !range.contains(&value) => {
            let message = format!("'{key}' must be from {} to {}, found {value}", range.start(), range.end());
            Err(Problem::of(key, message))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_distinct(key: &str, names: &[String]) -> Result<(), Problem> {
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        None => Ok(()),
        Some(twice) => Err(Problem::of(key, format!("'{key}' names '{twice}' twice; keep one of them"))),
    }
}

fn check_agent(agent: &Agent) -> Result<(), Problem> {
    check_id(agent.id.as_str(), "_-.", 64)?;
    match &agent.kind {
        AgentKind::Llm(llm) => {
            check_llm(llm)?;
            llm.budget.as_ref().map_or(Ok(()), |budget| check_budget(&agent.id, budget))
        }
        AgentKind::Rule(_) => Ok(()),
        AgentKind::Human(human) => match &human.callback_url {
            // `${NAME}` stands for a variable of the process that calls it.
            Some(url) if !["https://", "http://", "${"].iter().any(|begin| url.starts_with(begin)) => {
                let message =
                    "'callback_url' must begin with https://, http:// or a variable ${NAME}".to_owned();
                Err(Problem::of("callback_url", message))
            }
            _ => Ok(()),
        },
    }
}

fn check_llm(llm: &LlmAgent) -> Result<(), Problem> {
    check_model("model", &llm.model)?;
    check_distinct("tools", &llm.tools)?;
    check_fraction("temperature", llm.temperature, 0.0..=2.0)?;
    check_fraction("top_p", llm.top_p, 0.0..=1.0)?;
    if let Some(most) = llm.max_tokens {
        check_range("max_tokens", most, 1..=10_000_000)?;
    }
    let as_i64 = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    match llm.render {
        RenderPolicy::Default { window } => check_range("window", as_i64(window), 1..=10_000)?,
        RenderPolicy::Tokens { budget } => check_range("budget", as_i64(budget), 1..=100_000_000)?,
        RenderPolicy::Compact => {}
    }
    check_range("model_timeout_ms", llm.model_timeout_ms, 1..=WEEK_MS)?;
    check_range("agent_timeout_ms", llm.agent_timeout_ms, 1..=WEEK_MS)?;
    match &llm.system_prompt {
        None => Ok(()),
        Some(template) => prompt::check_system(template)
            .map_err(|error| Problem::of("system_prompt", format!("'system_prompt' {error}"))),
    }
}

/// An agent's budget: accounts that may be used for it, and amounts that can be set aside.
fn check_budget(agent: &AgentId, budget: &Budget) -> Result<(), Problem> {
    let wrong = |why: String| Problem::of("budget", format!("'budget': {why}"));
    if let Some(account) = &budget.account {
        budget_account(agent, account).map_err(|why| wrong(format!("'account': {why}")))?;
    }
    check_book(&budget.book).map_err(|why| wrong(format!("'book': {why}")))?;
    check_account(&budget.fees).map_err(|why| wrong(format!("'fees': {why}")))?;
    parse_decimal(&budget.model_call).map_err(|why| wrong(format!("'model_call': {why}")))?;
    if let Some(rate) = &budget.units_per_usd {
        parse_decimal(rate).map_err(|why| wrong(format!("'units_per_usd': {why}")))?;
    }
    Ok(())
}

/// What a call of a tool costs: only where it is carried out by an effect, which carries what is set aside.
fn check_tool_price(tool: &Tool) -> Result<(), Problem> {
    let Some(price) = &tool.price else { return Ok(()) };
    if !matches!(tool.executor, Executor::Builtin | Executor::External) {
        let why = "'price' is only for tools with executor builtin or external; remove it".to_owned();
        return Err(Problem::of("price", why));
    }
    parse_decimal(price).map(drop).map_err(|why| Problem::of("price", format!("'price': {why}")))
}

pub(super) fn check_model(key: &str, model: &str) -> Result<(), Problem> {
    let halves = model.split_once('/');
    let named = halves.is_some_and(|(provider, name)| !provider.is_empty() && !name.is_empty());
    if named && !model.contains(char::is_whitespace) {
        return Ok(());
    }
    let message = format!("'{key}' must be provider/model such as openai/gpt-4o, found '{model}'");
    Err(Problem::of(key, message))
}

fn check_tool(tool: &Tool) -> Result<(), Problem> {
    check_id(&tool.id, "_-", 64)?;
    if tool.executor == Executor::Core && !CORE_TOOLS.contains(&tool.id.as_str()) {
        let message = format!("'executor' core is only for {}; use external", CORE_TOOLS.join(" and "));
        return Err(Problem::of("executor", message));
    }
    check_ledger_tool(tool)?;
    check_tool_price(tool)?;
    check_range("timeout_ms", tool.timeout_ms, 1..=WEEK_MS)?;
    check_range("dedup_ttl_ms", tool.dedup_ttl_ms, 0..=MONTH_MS)?;
    if let Some(ttl) = tool.cache_ttl_ms {
        check_range("cache_ttl_ms", ttl, 1..=MONTH_MS)?;
    }
    check_distinct("post_effects", &tool.post_effects)?;
    check_schema(&tool.parameters).map_err(|error| Problem::of("parameters", format!("'parameters' {error}")))
}

/// A tool that the ledger carries out: one of those it has, and one that pays must say so.
fn check_ledger_tool(tool: &Tool) -> Result<(), Problem> {
    if tool.executor != Executor::Ledger {
        return Ok(());
    }
    let Some(pays) = crate::fsm::ledger_tools::pays(&tool.id) else {
        let message = "'executor' ledger is only for transfer_funds, check_balance, transaction_history and \
                       reward_agent; use external"
            .to_owned();
        return Err(Problem::of("executor", message));
    };
    if pays && (!tool.spends || tool.idempotent || tool.side_effect_free) {
        let message = format!(
            "'{}' pays: it needs spends: true, and is neither idempotent nor side_effect_free, since each call is a \
             payment of its own",
            tool.id
        );
        return Err(Problem::of("executor", message));
    }
    Ok(())
}

/// An object schema, well formed as far as models and people trip over it.
fn check_schema(schema: &Value) -> Result<(), String> {
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return Err("must be a JSON Schema of an object; add type: object".to_owned());
    }
    let properties = match schema.get("properties") {
        None => None,
        Some(Value::Object(properties)) => Some(properties),
        Some(_) => return Err("must have a mapping of names to schemas as 'properties'".to_owned()),
    };
    for (name, property) in properties.into_iter().flatten() {
        let types = ["string", "number", "integer", "boolean", "array", "object", "null"];
        let known = |of: &Value| of.as_str().is_some_and(|of| types.contains(&of));
        let fits = match property.get("type") {
            Some(Value::Array(several)) => several.iter().all(known),
            Some(one) => known(one),
            None => property.is_object() || property.is_boolean(),
        };
        if !fits {
            return Err(format!("has no valid schema for '{name}'; 'type' is one of {}", types.join(", ")));
        }
    }
    match schema.get("required") {
        None => Ok(()),
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => Ok(()),
        Some(_) => Err("must have a list of names as 'required'".to_owned()),
    }
}

fn check_persona(persona: &Persona) -> Result<(), Problem> {
    check_id(&persona.id, "_-.", 64)?;
    check_distinct("required_tools", &persona.required_tools)?;
    prompt::check_persona(&persona.template)
        .map_err(|error| Problem::of("template", format!("'template' {error}")))
}

fn check_price(price: &Price) -> Result<(), Problem> {
    check_id(&price.id, "_-./:", 128)?;
    check_model("id", &price.id)?;
    let both = [
        ("prompt_usd_per_million", &price.prompt_usd_per_million),
        ("completion_usd_per_million", &price.completion_usd_per_million),
    ];
    both.into_iter().try_for_each(|(key, text)| check_decimal(key, text))
}

pub(super) fn check_decimal(key: &str, text: &str) -> Result<(), Problem> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| (1..=9).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    if digits(whole) && digits(fraction) {
        return Ok(());
    }
    Err(Problem::of(key, format!("'{key}' must be a decimal number such as 2.50, found '{text}'")))
}
