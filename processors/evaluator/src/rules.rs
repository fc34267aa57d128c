//! Evaluators that ask no model.

use jsonschema::Draft;
use p2_core::definition::{EvaluatorKind, Shape};
use p2_core::eval::reply::Judgement;
use p2_core::eval::rules;
use p2_core::eval::trajectory::Trajectory;

/// Longest comment on a violation, characters.
const SHOWN_CHARS_MAX: usize = 300;

/// Whether a rule needs to know what the answer cost.
pub(crate) fn needs_cost(kind: &EvaluatorKind) -> bool {
    match kind {
        EvaluatorKind::Cost(_) => true,
        EvaluatorKind::Expression(rule) => std::iter::once(&rule.score)
            .chain(rule.metrics.values())
            .any(|formula| formula.contains("cost_usd")),
        _ => false,
    }
}

/// What a rule says.
///
/// # Errors
/// A sentence where it has nothing to go by.
pub(crate) fn judge(
    kind: &EvaluatorKind,
    trajectory: &Trajectory,
    cost_usd: Option<&str>,
) -> Result<Judgement, String> {
    if let EvaluatorKind::JsonSchema(rule) = kind {
        return json_schema(rule, &trajectory.answer);
    }
    let judged = rules::judge(kind, trajectory, cost_usd);
    judged.unwrap_or_else(|| Err(format!("an evaluator of type {} is no rule", kind.name())))
}

fn json_schema(rule: &Shape, answer: &str) -> Result<Judgement, String> {
    // References are resolved inside of the schema only; nothing is fetched.
    let validator = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .build(&rule.schema)
        .map_err(|error| format!("'schema' is no JSON Schema: {}", cut(&error.to_string())))?;
    let no = |comment: String| Judgement { comment, ..Judgement::default() };
    let value = match serde_json::from_str(answer) {
        Ok(value) => value,
        Err(error) => return Ok(no(format!("the answer is not JSON: {error}"))),
    };
    let first = validator.iter_errors(&value).next().map(|error| {
        let place = error.instance_path.as_str();
        let place = if place.is_empty() { "the answer" } else { place };
        format!("{place}: {}", cut(&error.to_string()))
    });
    Ok(match first {
        None => {
            Judgement { score: 1.0, comment: "the answer fits the schema".to_owned(), ..Judgement::default() }
        }
        Some(comment) => no(comment),
    })
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
