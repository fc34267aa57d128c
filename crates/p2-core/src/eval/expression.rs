//! Formulas: minijinja expressions over numbers and texts of a trajectory.

use minijinja::value::ValueKind;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use super::trajectory::Trajectory;

/// Steps (about one for each instruction) that a formula may take: milliseconds.
const STEPS_MAX: u64 = 100_000;

/// Names that a formula may use.
pub const NAMES: &[&str] = &[
    "question",
    "answer",
    "failure",
    "agent",
    "is_child",
    "replies",
    "messages",
    "latency_ms",
    "cost_usd",
    "tool_calls",
    "tools_failed",
    "tool_reward",
    "tools",
];

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(STEPS_MAX));
    environment
}

/// Whether a formula compiles and uses only names that exist.
///
/// # Errors
/// What is wrong, as the end of a sentence.
pub fn check(formula: &str) -> Result<(), String> {
    let environment = environment();
    let compiled = environment
        .compile_expression(formula)
        .map_err(|error| format!("is not an expression: {}", said(&error)))?;
    let mut unknown: Vec<String> = compiled
        .undeclared_variables(false)
        .into_iter()
        .filter(|name| !NAMES.contains(&name.as_str()))
        .collect();
    unknown.sort();
    match unknown.first() {
        None => Ok(()),
        Some(name) => Err(format!("uses the unknown name '{name}'; it may use {}", NAMES.join(", "))),
    }
}

/// The number that a formula gives; true is 1 and false is 0. `cost_usd` is what the judged turn cost, where that
/// is known.
///
/// # Errors
/// What is wrong, as the end of a sentence that begins with the formula's name.
pub fn number(formula: &str, trajectory: &Trajectory, cost_usd: Option<f64>) -> Result<f64, String> {
    let environment = environment();
    let compiled = environment
        .compile_expression(formula)
        .map_err(|error| format!("is not an expression: {}", said(&error)))?;
    let value = compiled
        .eval(names(trajectory, cost_usd))
        .map_err(|error| format!("cannot be worked out: {}", said(&error)))?;
    let number = match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => None,
    };
    match number {
        Some(number) if number.is_finite() => Ok(number),
        _ => {
            let shown: String = value.to_string().chars().take(80).collect();
            Err(format!("gives no number, but {} ({shown})", value.kind()))
        }
    }
}

fn said(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn names(trajectory: &Trajectory, cost_usd: Option<f64>) -> Value {
    let failed = trajectory.tools.iter().filter(|tool| tool.reward == Some(0.0)).count();
    let rewards: Vec<f64> = trajectory.tools.iter().filter_map(|tool| tool.reward).collect();
    context! {
        question => trajectory.question,
        answer => trajectory.answer,
        failure => trajectory.failure,
        agent => trajectory.place.agent.as_str(),
        is_child => trajectory.is_child,
        replies => trajectory.replies,
        messages => trajectory.lines.len() + trajectory.left_out,
        latency_ms => trajectory.latency_ms(),
        cost_usd => cost_usd,
        tool_calls => trajectory.tools.len(),
        tools_failed => failed,
        tool_reward => super::combine::mean(&rewards),
        tools => trajectory.tools,
    }
}
