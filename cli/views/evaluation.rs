//! One evaluation, for people.

use p2_core::eval::FIRST;
use p2_core::record::{Artifact, Evaluation, JudgeScore};

use super::labelled::{self, count};

/// Everything that an evaluation says, a line for each; `judged` names the place.
pub(crate) fn render(artifact: &Artifact, evaluation: &Evaluation, judged: String, width: u16) -> String {
    let id = |id: Option<p2_core::ids::Id>| id.map(|id| id.to_string()).unwrap_or_default();
    let named = format!("{}, version {}", evaluation.evaluator, evaluation.version);
    let score = match &evaluation.error {
        Some(error) => format!("none, {}: {}", error.code, error.message),
        None => number(evaluation.score),
    };
    let metrics: Vec<String> =
        evaluation.metrics.iter().map(|(name, value)| format!("{name} {}", number(Some(*value)))).collect();
    let again = if evaluation.occasion == FIRST { "" } else { evaluation.occasion.as_str() };
    let mut lines = vec![
        ("evaluation", artifact.id.to_string()),
        ("evaluator", named),
        ("judged", judged),
        ("again", again.to_owned()),
        ("score", score),
        ("metrics", metrics.join(", ")),
        ("comment", evaluation.comment.clone()),
        ("samples", samples(evaluation)),
    ];
    lines.extend(evaluation.judges.iter().map(|judge| ("judge", judge_line(judge))));
    lines.extend([
        ("effort", effort(evaluation)),
        ("same as", id(evaluation.same_as)),
        ("request", id(evaluation.request)),
        ("target", evaluation.target.to_string()),
        ("content", evaluation.content.clone()),
    ]);
    labelled::render(&lines, 1, width)
}

/// A number with at most four decimals; `-` for none. What has more digits before the point than anybody reads has an
/// exponent.
pub(crate) fn number(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    if value.abs() >= 1e15 {
        return format!("{value:e}");
    }
    let text = format!("{value:.4}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// How many judgements there were and how they differ; nothing for a single one.
fn samples(evaluation: &Evaluation) -> String {
    let Evaluation { samples, spread, agreement, .. } = evaluation;
    if *samples <= 1 && spread.is_none() && agreement.is_none() {
        return String::new();
    }
    let part =
        |name: &str, value: &Option<f64>| value.map(|value| format!(", {name} {}", number(Some(value))));
    let parts = [part("spread", spread), part("agreement", agreement)];
    format!("{samples}{}", parts.into_iter().flatten().collect::<String>())
}

fn judge_line(judge: &JudgeScore) -> String {
    let persona = judge.persona.as_ref().map(|persona| format!(" as {persona}")).unwrap_or_default();
    format!("{}{persona}: {} in {}", judge.model, number(Some(judge.score)), count(judge.samples, "sample"))
}

/// What judging took: calls of models with their tokens and cost, and time.
fn effort(evaluation: &Evaluation) -> String {
    let Evaluation { calls, prompt_tokens, completion_tokens, cost_usd, latency_ms, .. } = evaluation;
    let mut parts = Vec::new();
    if *calls > 0 {
        parts.push(format!("{} of models", count(*calls, "call")));
    }
    parts.extend(prompt_tokens.map(|tokens| format!("{} in prompts", count(tokens, "token"))));
    parts.extend(completion_tokens.map(|tokens| format!("{} in replies", count(tokens, "token"))));
    parts.extend(cost_usd.as_ref().map(|cost| format!("{cost} USD")));
    parts.push(format!("{latency_ms} ms"));
    parts.join(", ")
}
