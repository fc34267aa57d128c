//! The summary of a campaign.

use serde_json::{Value, json};

use super::check::Verdict;
use super::plan::Plan;
use super::shift::Shift;

/// What the summary says beside what was found.
pub(crate) struct Facts<'p> {
    /// The seed.
    pub(crate) seed: u64,
    /// What was checked out.
    pub(crate) commit: String,
    /// The plan.
    pub(crate) plan: &'p Plan,
    /// How long the system was under fire.
    pub(crate) seconds: f64,
}

/// The summary: what `--json` prints.
pub(crate) fn summary(verdict: &Verdict, violations: &[String], shift: &Shift, facts: &Facts<'_>) -> Value {
    let kills: u64 = shift.counts.iter().filter(|(kind, _)| kind.starts_with("kill")).map(|(_, n)| n).sum();
    let of = |what: &str| verdict.checked.get(what).copied().unwrap_or(0);
    let rate = |count: u64| (count as f64 / facts.seconds.max(1.0) * 10.0).round() / 10.0;
    json!({
        "commit": facts.commit,
        "seed": facts.seed,
        "minutes": (facts.plan.end_ms as f64 / 600.0).round() / 100.0,
        "violations": violations,
        "kills": kills,
        "faults": shift.counts,
        "process_starts": shift.processes.starts(),
        "starts_without_a_server": shift.processes.gave_up(),
        "conversations": of("conversations"),
        "transitions_per_s": rate(of("transitions")),
        "inputs_per_s": rate(of("inputs")),
        "checked": verdict.checked,
        "features": verdict.features,
        "debug_build": cfg!(debug_assertions),
    })
}

/// The summary for people.
pub(crate) fn text(summary: &Value) -> String {
    let lines = summary.as_object().into_iter().flatten().filter(|(key, _)| *key != "violations");
    let lines: Vec<String> = lines
        .flat_map(|(key, value)| match value {
            Value::Object(fields) => {
                let fields = fields.iter().map(|(field, value)| format!("  {field:<38} {value}"));
                std::iter::once(key.clone()).chain(fields).collect::<Vec<_>>()
            }
            Value::String(text) => vec![format!("{key:<40} {text}")],
            other => vec![format!("{key:<40} {other}")],
        })
        .collect();
    lines.join("\n")
}
