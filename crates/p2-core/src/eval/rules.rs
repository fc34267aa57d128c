//! Evaluators that need no model.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};

use super::combine::mean;
use super::reply::{Judgement, check_metrics};
use super::trajectory::Trajectory;
use super::{expression, is_metric_name, money};
use crate::definition::{Contains, Cost, EvaluatorKind, Exact, Expression, Latency, ToolReward};

/// Longest compiled pattern, bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Whether a pattern compiles.
///
/// # Errors
/// What is wrong, as the end of a sentence.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    compiled(pattern).map(drop)
}

fn compiled(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
    built.map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        format!("is not a regular expression: {}", last.trim_start_matches("error: "))
    })
}

/// What a rule says of a trajectory. `cost_usd` is what the model calls since the question cost, where that is
/// known. None for kinds that are no rules of this module: models, outsiders, and `json_schema`, whose validator
/// is not part of the core.
///
/// # Errors
/// A sentence where the rule has nothing to go by, or gives no number.
pub fn judge(
    kind: &EvaluatorKind,
    trajectory: &Trajectory,
    cost_usd: Option<&str>,
) -> Option<Result<Judgement, String>> {
    Some(match kind {
        EvaluatorKind::Exact(rule) => Ok(exact(rule, &trajectory.answer)),
        EvaluatorKind::Contains(rule) => Ok(contains(rule, &trajectory.answer)),
        EvaluatorKind::Regex(rule) => compiled(&rule.pattern)
            .map(|regex| yes(regex.is_match(&trajectory.answer), "the pattern matches", "nothing matches"))
            .map_err(|error| format!("'pattern' {error}")),
        EvaluatorKind::Latency(rule) => Ok(latency(rule, trajectory.latency_ms())),
        EvaluatorKind::Cost(rule) => cost(rule, cost_usd),
        EvaluatorKind::ToolReward(rule) => tool_reward(rule, trajectory),
        EvaluatorKind::Expression(rule) => formula(rule, trajectory, cost_usd),
        EvaluatorKind::LlmJudge(_) | EvaluatorKind::JsonSchema(_) | EvaluatorKind::Topic(_) => return None,
    })
}

fn judgement(score: f64, comment: impl Into<String>) -> Judgement {
    Judgement { score, metrics: BTreeMap::new(), comment: comment.into() }
}

fn yes(is: bool, then: &str, otherwise: &str) -> Judgement {
    judgement(f64::from(u8::from(is)), if is { then } else { otherwise })
}

fn folded(text: &str, ignore_case: bool) -> String {
    if ignore_case { text.to_lowercase() } else { text.to_owned() }
}

fn exact(rule: &Exact, answer: &str) -> Judgement {
    let same = folded(answer.trim(), rule.ignore_case) == folded(rule.expected.trim(), rule.ignore_case);
    yes(same, "the answer is the expected one", "the answer is another one")
}

#[expect(clippy::cast_precision_loss, reason = "counts of texts are far below 2^53")]
fn contains(rule: &Contains, answer: &str) -> Judgement {
    let answer = folded(answer, rule.ignore_case);
    let missing: Vec<&String> =
        rule.texts.iter().filter(|text| !answer.contains(&folded(text, rule.ignore_case))).collect();
    let found = rule.texts.len() - missing.len();
    let share = found as f64 / rule.texts.len().max(1) as f64;
    let score = if rule.all && !missing.is_empty() { 0.0 } else { share };
    let comment = match missing.first() {
        None => "all texts are there".to_owned(),
        Some(first) => format!("{found} of {} texts are there; '{first}' is missing", rule.texts.len()),
    };
    Judgement { metrics: BTreeMap::from([("found".to_owned(), found as f64)]), ..judgement(score, comment) }
}

/// 1 up to `good`, 0 from `bad` on.
fn between(value: f64, good: f64, bad: f64) -> f64 {
    ((bad - value) / (bad - good)).clamp(0.0, 1.0)
}

#[expect(clippy::cast_precision_loss, reason = "times of a turn are far below 2^53 ms")]
fn latency(rule: &Latency, latency_ms: i64) -> Judgement {
    let score = between(latency_ms as f64, rule.good_ms as f64, rule.bad_ms as f64);
    let metrics = BTreeMap::from([("answer_ms".to_owned(), latency_ms as f64)]);
    Judgement { metrics, ..judgement(score, format!("answered after {latency_ms} ms")) }
}

fn cost(rule: &Cost, cost_usd: Option<&str>) -> Result<Judgement, String> {
    let cost = cost_usd.ok_or(
        "what the answer cost is not known: a model without a price took part (kind: price), or the provider did not \
         count tokens",
    )?;
    let number = |text: &str| -> Result<f64, String> {
        let valid = money::parse(text).is_some();
        valid.then(|| text.trim().parse().ok()).flatten().ok_or_else(|| format!("'{text}' is not an amount"))
    };
    let (value, good, bad) = (number(cost)?, number(&rule.good_usd)?, number(&rule.bad_usd)?);
    let metrics = BTreeMap::from([("answer_usd".to_owned(), value)]);
    Ok(Judgement { metrics, ..judgement(between(value, good, bad), format!("the answer cost {cost} USD")) })
}

fn tool_reward(rule: &ToolReward, trajectory: &Trajectory) -> Result<Judgement, String> {
    let counts = |tool: &str| rule.tools.is_empty() || rule.tools.iter().any(|wanted| wanted == tool);
    let of = trajectory.tools.iter().filter(|outcome| counts(&outcome.tool));
    let rewards: Vec<f64> = of.filter_map(|outcome| outcome.reward).collect();
    let score = mean(&rewards).ok_or("no tool that counts returned a reward since the question")?;
    let each = trajectory.tool_rewards().into_iter().filter(|(tool, _)| counts(tool) && is_metric_name(tool));
    let metrics: BTreeMap<String, f64> = each
        .filter_map(|(tool, (_, reward))| Some((tool.to_owned(), reward?)))
        .take(super::METRICS_MAX)
        .collect();
    Ok(Judgement { metrics, ..judgement(score.clamp(0.0, 1.0), format!("{} reward(s)", rewards.len())) })
}

fn formula(rule: &Expression, trajectory: &Trajectory, cost_usd: Option<&str>) -> Result<Judgement, String> {
    let cost = cost_usd.and_then(|text| text.parse().ok());
    let score =
        expression::number(&rule.score, trajectory, cost).map_err(|error| format!("'score' {error}"))?;
    if !(0.0..=1.0).contains(&score) {
        return Err(format!("'score' must be from 0 to 1, found {score}"));
    }
    let mut metrics = BTreeMap::new();
    for (name, formula) in &rule.metrics {
        let number = expression::number(formula, trajectory, cost)
            .map_err(|error| format!("the metric '{name}' {error}"))?;
        metrics.insert(name.clone(), number);
    }
    check_metrics(&metrics, &[])?;
    Ok(Judgement { metrics, ..judgement(score, "") })
}
