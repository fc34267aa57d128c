//! Which keys a definition has, what shape each is, and under which other names it is known.

use serde_json::{Map, Value, json};

use super::{Problem, evaluators};

/// One key of a definition.
struct Field {
    name: &'static str,
    shape: Shape,
    required: bool,
    /// Its name in the earlier system.
    earlier: Option<&'static str>,
}

/// What a value must look like.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Number,
    Integer,
    Flag,
    Texts,
    Rules,
    Object,
    Decimal,
    Render,
    OneOf(&'static [&'static str]),
    /// Any scalar, taken as text.
    Words,
    Trigger,
    Judges,
    Formulas,
    Rewards,
    Budget,
}

const fn must(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true, earlier: None }
}

const fn may(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false, earlier: None }
}

const fn was(field: Field, earlier: &'static str) -> Field {
    Field { earlier: Some(earlier), ..field }
}

/// Kinds of definition.
pub(super) const KINDS: &[&str] = &["agent", "tool", "persona", "price", "evaluator", "rubric"];

/// Types of agent: (name, name in the earlier system).
const TYPES: &[(&str, &str)] = &[("llm", "llm"), ("rule", "rule_based"), ("human", "human_in_loop")];

const ID: Field = must("id", Shape::Text);
const TYPE: Field = must("type", Shape::Text);

const LLM: &[Field] = &[
    ID,
    TYPE,
    was(must("model", Shape::Text), "llm_model"),
    may("system_prompt", Shape::Text),
    was(may("behavior", Shape::Text), "behavior_template"),
    may("tools", Shape::Texts),
    was(may("render", Shape::Render), "render_policy"),
    may("temperature", Shape::Number),
    may("top_p", Shape::Number),
    may("max_tokens", Shape::Integer),
    was(may("self_reflection", Shape::Flag), "enable_self_reflection"),
    was(may("reflection_agent", Shape::Text), "reflection_agent_id"),
    may("at_limit", Shape::OneOf(&["compact", "refuse"])),
    may("model_timeout_ms", Shape::Integer),
    may("agent_timeout_ms", Shape::Integer),
    may("budget", Shape::Budget),
];

const RULE: &[Field] = &[ID, TYPE, may("rules", Shape::Rules)];

const HUMAN: &[Field] = &[ID, TYPE, may("callback_url", Shape::Text)];

const TOOL: &[Field] = &[
    ID,
    must("description", Shape::Text),
    must("parameters", Shape::Object),
    may("executor", Shape::OneOf(&["builtin", "core", "external", "ledger"])),
    may("side_effect_free", Shape::Flag),
    may("idempotent", Shape::Flag),
    may("reconcile", Shape::Flag),
    may("dedup_ttl_ms", Shape::Integer),
    may("cache_ttl_ms", Shape::Integer),
    may("reflect", Shape::Flag),
    may("post_effects", Shape::Texts),
    may("timeout_ms", Shape::Integer),
    may("approval", Shape::OneOf(&["none", "required"])),
    may("spends", Shape::Flag),
    may("price", Shape::Decimal),
];

const PERSONA: &[Field] = &[ID, must("template", Shape::Text), may("required_tools", Shape::Texts)];

const PRICE: &[Field] =
    &[ID, must("prompt_usd_per_million", Shape::Decimal), must("completion_usd_per_million", Shape::Decimal)];

const RUBRIC: &[Field] = &[ID, must("text", Shape::Words)];

/// What every type of evaluator has.
const JUDGING: [Field; 5] =
    [ID, TYPE, may("trigger", Shape::Trigger), may("agents", Shape::Texts), may("rewards", Shape::Rewards)];

/// The keys of each type of evaluator beside those of [`JUDGING`].
const EVALUATORS: &[(&str, &[Field])] = &[
    (
        "llm_judge",
        &[
            must("model", Shape::Text),
            may("rubric", Shape::Words),
            may("rubric_id", Shape::Text),
            may("persona", Shape::Text),
            may("judges", Shape::Judges),
            may("samples", Shape::Integer),
            may("metrics", Shape::Texts),
            may("temperature", Shape::Number),
            may("max_tokens", Shape::Integer),
            may("cost_cap_usd", Shape::Decimal),
            may("timeout_ms", Shape::Integer),
        ],
    ),
    ("exact", &[must("expected", Shape::Words), may("ignore_case", Shape::Flag)]),
    ("contains", &[must("texts", Shape::Texts), may("all", Shape::Flag), may("ignore_case", Shape::Flag)]),
    ("regex", &[must("pattern", Shape::Text)]),
    ("json_schema", &[must("schema", Shape::Object)]),
    ("latency", &[must("good_ms", Shape::Integer), must("bad_ms", Shape::Integer)]),
    ("cost", &[must("good_usd", Shape::Decimal), must("bad_usd", Shape::Decimal)]),
    ("tool_reward", &[may("tools", Shape::Texts)]),
    ("expression", &[must("score", Shape::Words), may("metrics", Shape::Formulas)]),
    ("topic", &[may("description", Shape::Text)]),
];

/// The definition's keys under our own names, in the shape that the types expect. Keys without a value are
/// left out: `key:` with nothing behind it means the default.
pub(super) fn normalise(kind: &str, mut object: Map<String, Value>) -> Result<Map<String, Value>, Problem> {
    let fields: Vec<&Field> = fields(kind, &mut object)?.into_iter().flatten().collect();
    let mut normal = Map::new();
    for (key, value) in object {
        let Some(field) = fields.iter().find(|field| field.name == key || field.earlier == Some(&key)) else {
            return Err(unknown_key(&key, &fields));
        };
        if value.is_null() {
            continue;
        }
        let value = shaped(field.shape, value)
            .map_err(|found| Problem::of(&key, format!("'{key}' must be {found}")))?;
        if normal.insert(field.name.to_owned(), value).is_some() {
            let earlier = field.earlier.unwrap_or(field.name);
            let message = format!("'{}' and '{earlier}' are the same key; keep one of them", field.name);
            return Err(Problem::of(&key, message));
        }
    }
    if normal.get("behavior").and_then(Value::as_str) == Some("") {
        normal.remove("behavior");
    }
    match fields.iter().find(|field| field.required && !normal.contains_key(field.name)) {
        None => Ok(normal),
        Some(field) => {
            Err(Problem { key: None, message: format!("the key '{}' is missing; add it", field.name) })
        }
    }
}

fn fields(kind: &str, object: &mut Map<String, Value>) -> Result<[&'static [Field]; 2], Problem> {
    match kind {
        "agent" => Ok([agent_fields(object)?, &[]]),
        "tool" => Ok([TOOL, &[]]),
        "persona" => Ok([PERSONA, &[]]),
        "price" => Ok([PRICE, &[]]),
        "evaluator" => Ok([&JUDGING, evaluator_fields(object)?]),
        "rubric" => Ok([RUBRIC, &[]]),
        other => {
            let near = nearest(other, KINDS.iter().copied()).unwrap_or_default();
            let message = format!(
                "the kind '{other}' is not known; the nearest is '{near}' (there are {})",
                KINDS.join(", ")
            );
            Err(Problem::of("kind", message))
        }
    }
}

fn agent_fields(object: &mut Map<String, Value>) -> Result<&'static [Field], Problem> {
    let given = match object.get("type") {
        Some(Value::String(given)) => given.clone(),
        Some(other) => {
            return Err(Problem::of("type", format!("'type' must be text, found {}", describe(other))));
        }
        None => {
            let message = "the key 'type' is missing; add type: llm, rule or human".to_owned();
            return Err(Problem { key: None, message });
        }
    };
    let Some((own, _)) = TYPES.iter().find(|(own, earlier)| *own == given || *earlier == given) else {
        let names = TYPES.iter().flat_map(|(own, earlier)| [*own, *earlier]);
        let near = nearest(&given, names).unwrap_or_default();
        let message = format!("the agent type '{given}' is not known; the nearest is '{near}'");
        return Err(Problem::of("type", message));
    };
    object.insert("type".to_owned(), Value::from(*own));
    Ok(match *own {
        "llm" => LLM,
        "rule" => RULE,
        _ => HUMAN,
    })
}

fn evaluator_fields(object: &Map<String, Value>) -> Result<&'static [Field], Problem> {
    let names = || EVALUATORS.iter().map(|(name, _)| *name);
    let given = match object.get("type") {
        Some(Value::String(given)) => given.as_str(),
        Some(other) => {
            return Err(Problem::of("type", format!("'type' must be text, found {}", describe(other))));
        }
        None => {
            let known = names().collect::<Vec<_>>().join(", ");
            let message = format!("the key 'type' is missing; add one of {known}");
            return Err(Problem { key: None, message });
        }
    };
    let found = EVALUATORS.iter().find(|(name, _)| *name == given);
    found.map(|(_, fields)| *fields).ok_or_else(|| {
        let near = nearest(given, names()).unwrap_or_default();
        Problem::of("type", format!("the evaluator type '{given}' is not known; the nearest is '{near}'"))
    })
}

/// The name of an agent's key in the earlier system, where it was another one.
pub(super) fn earlier_name(key: &str) -> Option<&'static str> {
    LLM.iter().find(|field| field.name == key).and_then(|field| field.earlier)
}

fn unknown_key(key: &str, fields: &[&Field]) -> Problem {
    let names = fields.iter().flat_map(|field| std::iter::once(field.name).chain(field.earlier));
    let near = nearest(key, names).unwrap_or_default();
    Problem::of(key, format!("unknown key '{key}'; the nearest valid key is '{near}'"))
}

/// The most similar of `known`; the first of equals.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.min_by_key(|name| strsim::damerau_levenshtein(word, name))
}

/// What a value is, for messages: never a long text.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        Value::String(text) => {
            let short: String = text.chars().take(40).collect();
            format!("the text '{short}'")
        }
        other => other.to_string(),
    }
}

/// The value in its canonical shape, or what it must be and what was found instead.
fn shaped(shape: Shape, value: Value) -> Result<Value, String> {
    let fits = match shape {
        Shape::Text => value.is_string(),
        Shape::Number => value.is_number(),
        Shape::Integer => value.is_i64(),
        Shape::Flag => value.is_boolean(),
        Shape::Texts => value.as_array().is_some_and(|items| items.iter().all(Value::is_string)),
        Shape::Object => value.is_object(),
        Shape::Decimal => return decimal(value),
        Shape::Rules => return rules(value),
        Shape::Render => return render(value),
        Shape::OneOf(names) => value.as_str().is_some_and(|text| names.contains(&text)),
        Shape::Words => return words(value),
        Shape::Trigger => return evaluators::trigger(value),
        Shape::Judges => return evaluators::judges(value),
        Shape::Formulas => return evaluators::formulas(value),
        Shape::Rewards => return evaluators::rewards(value),
        Shape::Budget => return budget(value),
    };
    if fits { Ok(value) } else { Err(format!("{}, found {}", expected(shape), describe(&value))) }
}

fn expected(shape: Shape) -> String {
    match shape {
        Shape::Text => "text".to_owned(),
        Shape::Number => "a number".to_owned(),
        Shape::Integer => "a whole number".to_owned(),
        Shape::Flag => "true or false".to_owned(),
        Shape::Texts => "a list of texts".to_owned(),
        Shape::Object => "a mapping".to_owned(),
        Shape::Decimal => "a decimal number such as 2.50".to_owned(),
        Shape::Rules => "a mapping of questions to answers, both text".to_owned(),
        Shape::Render => "default, tokens, compact, or a mapping with 'policy'".to_owned(),
        Shape::OneOf(names) => format!("one of {}", names.join(", ")),
        Shape::Trigger => "a mapping of 'finished', 'every', 'states', 'artifacts'".to_owned(),
        Shape::Judges => "a list of models, or of mappings with 'model' and 'persona'".to_owned(),
        Shape::Formulas => "a mapping of names to expressions".to_owned(),
        Shape::Rewards => "a mapping of 'metric', 'occasion', 'book'".to_owned(),
        Shape::Budget => {
            "a mapping of 'model_call' and, as needed, 'account', 'units_per_usd', 'fees', 'book'".to_owned()
        }
        Shape::Words => "text".to_owned(),
    }
}

/// Text, or another scalar as it is written.
pub(super) fn words(value: Value) -> Result<Value, String> {
    match value {
        Value::String(_) => Ok(value),
        Value::Number(_) | Value::Bool(_) => Ok(Value::String(value.to_string())),
        other => Err(format!("text, found {}", describe(&other))),
    }
}

/// Decimals travel as text, so that nothing is rounded; a number is taken as it is written.
fn decimal(value: Value) -> Result<Value, String> {
    match value {
        Value::String(_) => Ok(value),
        Value::Number(number) => Ok(Value::String(number.to_string())),
        other => Err(format!("{}, found {}", expected(Shape::Decimal), describe(&other))),
    }
}

/// What pays for an agent's work.
fn budget(value: Value) -> Result<Value, String> {
    const KEYS: [&str; 5] = ["account", "book", "fees", "model_call", "units_per_usd"];
    let Value::Object(given) = value else {
        return Err(format!("{}, found {}", expected(Shape::Budget), describe(&value)));
    };
    let mut budget = Map::new();
    for (key, item) in given {
        let known = KEYS.contains(&key.as_str());
        let near = nearest(&key, KEYS.into_iter()).unwrap_or_default();
        let item = match (known, key.as_str()) {
            (false, _) => {
                return Err(format!("free of unknown keys: '{key}'; the nearest valid key is '{near}'"));
            }
            (_, "model_call" | "units_per_usd") if !item.is_null() => decimal(item),
            _ if item.is_string() || item.is_null() => Ok(item),
            _ => Err(format!("text, found {}", describe(&item))),
        };
        let item = item.map_err(|found| format!("complete: '{key}' must be {found}"))?;
        if !item.is_null() {
            budget.insert(key, item);
        }
    }
    if !budget.contains_key("model_call") {
        return Err("complete: add 'model_call', what a call of the model may cost, such as 0.50".to_owned());
    }
    Ok(Value::Object(budget))
}

/// Questions are compared trimmed and in lower case, so they are kept that way.
fn rules(value: Value) -> Result<Value, String> {
    let wrong = |found: &Value| format!("{}, found {}", expected(Shape::Rules), describe(found));
    let Value::Object(given) = value else { return Err(wrong(&value)) };
    let mut rules = Map::new();
    for (question, answer) in given {
        let answer = match answer {
            Value::String(_) => answer,
            Value::Number(_) | Value::Bool(_) => Value::String(answer.to_string()),
            other => return Err(wrong(&other)),
        };
        let question = question.trim().to_lowercase();
        if let Some(twice) = rules.insert(question.clone(), answer) {
            return Err(format!("free of repeated questions: '{question}' also has {}", describe(&twice)));
        }
    }
    Ok(Value::Object(rules))
}

fn render(value: Value) -> Result<Value, String> {
    let wrong = |found: &Value| format!("{}, found {}", expected(Shape::Render), describe(found));
    let object = match value {
        Value::String(policy) => json!({ "policy": policy }),
        Value::Object(_) => value,
        other => return Err(wrong(&other)),
    };
    let own = match object.get("policy").and_then(Value::as_str) {
        Some("default") => Some("window"),
        Some("tokens") => Some("budget"),
        Some("compact") => None,
        _ => return Err(wrong(object.get("policy").unwrap_or(&object))),
    };
    for (key, item) in object.as_object().into_iter().flatten() {
        if key != "policy" && Some(key.as_str()) != own {
            let valid = own.unwrap_or("policy");
            return Err(format!("free of unknown keys: '{key}'; the nearest valid key is '{valid}'"));
        }
        if key != "policy" && !item.is_u64() {
            return Err(format!("complete: '{key}' must be a whole number, found {}", describe(item)));
        }
    }
    Ok(object)
}
