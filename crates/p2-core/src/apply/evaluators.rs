//! Evaluators and rubrics: shapes of their own, what they refer to, and whether their values make sense.

use serde_json::{Map, Value, json};

use super::Problem;
use super::check::{check_decimal, check_distinct, check_fraction, check_id, check_model, check_range};
use super::fields::{describe, nearest, words};
use crate::definition::{Evaluator, EvaluatorKind, LlmJudge, Rewards, Rubric, Trigger};
use crate::eval::{self, METRIC_NAME_MAX, METRICS_MAX, RESERVED_METRICS};
use crate::ledger;

const DAY_MS: i64 = 86_400_000;
/// Longest rubric, bytes.
const RUBRIC_BYTES_MAX: usize = 100_000;
/// The names of the states, as in artifacts.
const STATES: &[&str] = &[
    "UserMessage",
    "AssistantMessage",
    "ToolCall",
    "ToolResult",
    "AgentCall",
    "AgentResult",
    "UserInputRequest",
    "UserResponse",
    "Finished",
];
const REWARD_KEYS: &[&str] = &["metric", "occasion", "book", "trusted"];
const TRIGGER_KEYS: &[&str] = &["finished", "every", "states", "artifacts"];

/// `trigger`: each list may be one text; `finished: both` is root and children.
pub(super) fn trigger(value: Value) -> Result<Value, String> {
    let Value::Object(given) = value else {
        return Err(format!("a mapping of {}, found {}", TRIGGER_KEYS.join(", "), describe(&value)));
    };
    let mut trigger = Map::new();
    for (key, value) in given {
        if value.is_null() {
            continue;
        }
        let value = match key.as_str() {
            "finished" => match &value {
                Value::String(both) if both == "both" => json!(["root", "children"]),
                _ => listed(&key, value)?,
            },
            "states" | "artifacts" => listed(&key, value)?,
            "every" if value.is_i64() => value,
            "every" => {
                return Err(format!("complete: 'every' must be a whole number, found {}", describe(&value)));
            }
            _ => {
                let near = nearest(&key, TRIGGER_KEYS.iter().copied()).unwrap_or_default();
                return Err(format!("free of unknown keys: '{key}'; the nearest valid key is '{near}'"));
            }
        };
        if key == "finished" {
            for run in value.as_array().into_iter().flatten() {
                if !["root", "children"].iter().any(|known| run == known) {
                    let found = describe(run);
                    return Err(format!("complete: 'finished' is root, children or both, found {found}"));
                }
            }
        }
        trigger.insert(key, value);
    }
    Ok(Value::Object(trigger))
}

fn listed(key: &str, value: Value) -> Result<Value, String> {
    match value {
        Value::String(_) => Ok(Value::Array(vec![value])),
        Value::Array(items) if items.iter().all(Value::is_string) => Ok(Value::Array(items)),
        other => Err(format!("complete: '{key}' must be a list of texts, found {}", describe(&other))),
    }
}

/// `rewards`: keys and texts; `rewards: {}` takes every default.
pub(super) fn rewards(value: Value) -> Result<Value, String> {
    let Value::Object(given) = value else {
        return Err(format!("a mapping of {}, found {}", REWARD_KEYS.join(", "), describe(&value)));
    };
    let mut rewards = Map::new();
    for (key, value) in given {
        if !REWARD_KEYS.contains(&key.as_str()) {
            let near = nearest(&key, REWARD_KEYS.iter().copied()).unwrap_or_default();
            return Err(format!("free of unknown keys: '{key}'; the nearest valid key is '{near}'"));
        }
        if !value.is_null() {
            let text = words(value).map_err(|found| format!("complete: '{key}' must be {found}"))?;
            rewards.insert(key, text);
        }
    }
    Ok(Value::Object(rewards))
}

/// `judges`: a text is a model.
pub(super) fn judges(value: Value) -> Result<Value, String> {
    let Value::Array(items) = value else {
        return Err(format!("a list of models, or of mappings with 'model', found {}", describe(&value)));
    };
    let judge = |item: Value| match item {
        Value::String(model) => Ok(json!({ "model": model })),
        Value::Object(keys) => {
            if let Some(key) = keys.keys().find(|key| !["model", "persona"].contains(&key.as_str())) {
                return Err(format!("free of unknown keys: '{key}'; a judge has 'model' and 'persona'"));
            }
            match keys.get("model") {
                Some(Value::String(_)) => Ok(Value::Object(keys)),
                _ => Err("complete: each judge must have a 'model' (text)".to_owned()),
            }
        }
        other => Err(format!("a list of models, or of mappings with 'model', found {}", describe(&other))),
    };
    Ok(Value::Array(items.into_iter().map(judge).collect::<Result<_, _>>()?))
}

/// `metrics` of an expression.
pub(super) fn formulas(value: Value) -> Result<Value, String> {
    let Value::Object(given) = value else {
        return Err(format!("a mapping of names to expressions, found {}", describe(&value)));
    };
    let pairs = given.into_iter().map(|(name, formula)| Ok((name, words(formula)?)));
    Ok(Value::Object(pairs.collect::<Result<_, String>>()?))
}

/// What an evaluator names: (its key, kind, id).
pub(super) fn references(evaluator: &Evaluator) -> Vec<(&'static str, &'static str, &str)> {
    let mut found: Vec<(&str, &str, &str)> = Vec::new();
    if let EvaluatorKind::LlmJudge(judge) = &evaluator.kind {
        found.extend(judge.rubric_id.iter().map(|id| ("rubric_id", "rubric", id.as_str())));
        found.extend(judge.persona.iter().map(|id| ("persona", "persona", id.as_str())));
        let personas = judge.judges.iter().filter_map(|one| one.persona.as_deref());
        found.extend(personas.map(|id| ("persona", "persona", id)));
    }
    found
}

/// Any text is a rubric, as long as there is some and a judge can read it.
pub(super) fn check_rubric(rubric: &Rubric) -> Result<(), Problem> {
    check_id(&rubric.id, "_-.", 64)?;
    check_text("text", &rubric.text)
}

fn check_text(key: &str, text: &str) -> Result<(), Problem> {
    if text.trim().is_empty() {
        return Err(Problem::of(key, format!("'{key}' is empty; write what is to be judged")));
    }
    if text.len() > RUBRIC_BYTES_MAX {
        let message = format!("'{key}' has {} bytes; at most {RUBRIC_BYTES_MAX} are read", text.len());
        return Err(Problem::of(key, message));
    }
    Ok(())
}

pub(super) fn check(evaluator: &Evaluator) -> Result<(), Problem> {
    check_id(&evaluator.id, "_-.", 64)?;
    check_distinct("agents", &evaluator.agents)?;
    check_trigger(&evaluator.trigger)?;
    if let Some(rewards) = &evaluator.rewards {
        check_rewards(evaluator, rewards).map_err(|why| Problem::of("rewards", why))?;
    }
    match &evaluator.kind {
        EvaluatorKind::LlmJudge(judge) => check_judge(judge),
        EvaluatorKind::Exact(_) | EvaluatorKind::Topic(_) => Ok(()),
        EvaluatorKind::Contains(contains) => {
            check_distinct("texts", &contains.texts)?;
            if contains.texts.is_empty() || contains.texts.iter().any(String::is_empty) {
                let message = "'texts' must hold at least one text, and none that is empty".to_owned();
                return Err(Problem::of("texts", message));
            }
            Ok(())
        }
        EvaluatorKind::Regex(regex) => eval::rules::check_pattern(&regex.pattern)
            .map_err(|error| Problem::of("pattern", format!("'pattern' {error}"))),
        EvaluatorKind::JsonSchema(_) => Ok(()),
        EvaluatorKind::Latency(latency) => {
            check_range("good_ms", latency.good_ms, 0..=DAY_MS)?;
            check_range("bad_ms", latency.bad_ms, latency.good_ms.saturating_add(1)..=DAY_MS)
        }
        EvaluatorKind::Cost(cost) => {
            check_decimal("good_usd", &cost.good_usd)?;
            check_decimal("bad_usd", &cost.bad_usd)?;
            if eval::money::pico(&cost.good_usd) >= eval::money::pico(&cost.bad_usd) {
                let message = format!("'bad_usd' must be more than 'good_usd' ({})", cost.good_usd);
                return Err(Problem::of("bad_usd", message));
            }
            Ok(())
        }
        EvaluatorKind::ToolReward(reward) => check_distinct("tools", &reward.tools),
        EvaluatorKind::Expression(expression) => {
            let names: Vec<String> = expression.metrics.keys().cloned().collect();
            check_metrics(&names)?;
            eval::expression::check(&expression.score)
                .map_err(|error| Problem::of("score", format!("'score' {error}")))?;
            expression.metrics.iter().try_for_each(|(name, formula)| {
                eval::expression::check(formula)
                    .map_err(|error| Problem::of(name, format!("the metric '{name}' {error}")))
            })
        }
    }
}

/// Whether the ledger could pay for what it judges.
fn check_rewards(evaluator: &Evaluator, rewards: &Rewards) -> Result<(), String> {
    let Rewards { metric, occasion, book, trusted } = rewards;
    let name = |what: &str, name: &str| {
        ledger::check_name(what, name).map_err(|refusal| format!("'rewards': {}", refusal.message))
    };
    name("evaluator", &evaluator.id)?;
    name("metric", metric)?;
    name("book", book.as_str())?;
    occasion.iter().try_for_each(|occasion| name("occasion", occasion))?;
    if ["samples", "cost_usd", "latency_ms"].contains(&metric.as_str()) {
        return Err(format!(
            "'rewards': the metric '{metric}' is no number from 0 to 1; name 'score', or a metric that is"
        ));
    }
    let given: Option<Vec<&str>> = match &evaluator.kind {
        EvaluatorKind::LlmJudge(judge) if !judge.metrics.is_empty() => {
            Some(judge.metrics.iter().map(String::as_str).collect())
        }
        EvaluatorKind::Expression(expression) => {
            Some(expression.metrics.keys().map(String::as_str).collect())
        }
        _ => None,
    };
    if let Some(given) = given.filter(|given| !given.contains(&metric.as_str()))
        && !RESERVED_METRICS.contains(&metric.as_str())
    {
        let near = nearest(metric, given.into_iter().chain(["score"])).unwrap_or_default();
        return Err(format!(
            "'rewards': this evaluator has no metric '{metric}'; the nearest that it has is '{near}'"
        ));
    }
    let sentence = trusted.as_deref().is_some_and(|text| text.trim().contains(' '));
    match (&evaluator.kind, trusted) {
        (EvaluatorKind::Topic(_), _) if !sentence => Err(
            "'rewards': whoever can write to the topic 'artifacts' could pay itself in the name of this evaluator: \
             add 'trusted' with a sentence that says who writes its evaluations, and who else cannot"
                .to_owned(),
        ),
        (EvaluatorKind::Topic(_), _) | (_, None) => Ok(()),
        (_, Some(_)) => Err(
            "'rewards': 'trusted' is for evaluators of type topic; the engine pays for what it judged itself"
                .to_owned(),
        ),
    }
}

fn check_trigger(trigger: &Trigger) -> Result<(), Problem> {
    if let Some(every) = trigger.every {
        check_range("every", every, 1..=10_000)?;
    }
    check_distinct("states", &trigger.states)?;
    check_distinct("artifacts", &trigger.artifacts)?;
    match trigger.states.iter().find(|state| !STATES.contains(&state.as_str())) {
        None => Ok(()),
        Some(state) => {
            let near = nearest(state, STATES.iter().copied()).unwrap_or_default();
            Err(Problem::of("states", format!("the state '{state}' is not known; the nearest is '{near}'")))
        }
    }
}

fn check_judge(judge: &LlmJudge) -> Result<(), Problem> {
    check_model("model", &judge.model)?;
    judge.judges.iter().try_for_each(|one| check_model("model", &one.model))?;
    if judge.rubric.is_some() && judge.rubric_id.is_some() {
        let message = "'rubric' and 'rubric_id' are two standards; keep one of them".to_owned();
        return Err(Problem::of("rubric_id", message));
    }
    if let Some(text) = &judge.rubric {
        check_text("rubric", text)?;
    }
    check_range("samples", judge.samples, 1..=20)?;
    check_range("max_tokens", judge.max_tokens, 16..=100_000)?;
    check_range("timeout_ms", judge.timeout_ms, 1_000..=3_600_000)?;
    check_fraction("temperature", judge.temperature, 0.0..=2.0)?;
    if judge.judges.len() > 10 {
        let message = format!("'judges' has {} entries; at most 10 judge together", judge.judges.len());
        return Err(Problem::of("judges", message));
    }
    if let Some(cap) = &judge.cost_cap_usd {
        check_decimal("cost_cap_usd", cap)?;
    }
    check_metrics(&judge.metrics)
}

fn check_metrics(names: &[String]) -> Result<(), Problem> {
    check_distinct("metrics", names)?;
    if names.len() > METRICS_MAX {
        let message = format!("'metrics' has {} names; at most {METRICS_MAX} are kept", names.len());
        return Err(Problem::of("metrics", message));
    }
    for name in names {
        if !eval::is_metric_name(name) {
            let message = format!(
                "the metric '{name}' must be 1 to {METRIC_NAME_MAX} characters out of ASCII letters, digits, _ - ."
            );
            return Err(Problem::of("metrics", message));
        }
        if RESERVED_METRICS.contains(&name.as_str()) {
            let message = format!("the metric '{name}' is always there; choose another name");
            return Err(Problem::of("metrics", message));
        }
    }
    Ok(())
}
