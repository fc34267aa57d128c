//! Evaluations: what a judge said of what an agent did.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::Id;

/// What one evaluator said of one target, on one occasion. Written once; the artifact's id is
/// [`crate::eval::evaluation_id`], its `agent`, `branch` and `entry` are the judged place, and its parents the
/// artifact of the judged entry.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Evaluation {
    /// What was judged: [`crate::eval::Place::target`] of the artifact's place.
    pub target: Id,
    /// The evaluator.
    pub evaluator: String,
    /// Its version.
    pub version: i32,
    /// Why it was judged now: `first`, or what whoever asked again called it.
    pub occasion: String,
    /// 0 to 1; absent where judging failed.
    pub score: Option<f64>,
    /// Further numbers by name.
    pub metrics: BTreeMap<String, f64>,
    /// For people: why this score.
    pub comment: String,
    /// Judgements that count.
    pub samples: i32,
    /// Standard deviation of their scores, where there are several.
    pub spread: Option<f64>,
    /// 1 − the mean distance between the scores of two judges, where there are several.
    pub agreement: Option<f64>,
    /// Each judge's part, where models judged.
    pub judges: Vec<JudgeScore>,
    /// Calls of models, repairs included.
    pub calls: i32,
    /// Tokens in the prompts of judges, where the providers said.
    pub prompt_tokens: Option<i64>,
    /// Tokens in the replies of judges, where the providers said.
    pub completion_tokens: Option<i64>,
    /// What judging cost in US dollars, decimal text; absent where a price is unknown.
    pub cost_usd: Option<String>,
    /// How long judging took, milliseconds.
    pub latency_ms: i64,
    /// SHA-256 hex of what was judged: the same content under the same evaluator is not judged again.
    pub content: String,
    /// The evaluation whose result this one repeats, where the same content had been judged.
    pub same_as: Option<Id>,
    /// The request that it answers, where somebody asked.
    pub request: Option<Id>,
    /// Why there is no score.
    pub error: Option<EvaluationError>,
}

impl Evaluation {
    /// A number by its name: `score`, `spread`, `agreement`, `samples`, `cost_usd`, `latency_ms`, or one of
    /// `metrics`. None where this evaluation does not have it; never 0 instead.
    pub fn metric(&self, name: &str) -> Option<f64> {
        match name {
            "score" => self.score,
            "spread" => self.spread,
            "agreement" => self.agreement,
            "samples" => Some(f64::from(self.samples)),
            "cost_usd" => self.cost_usd.as_deref().and_then(|text| text.parse().ok()),
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of a call are far below 2^53")]
            "latency_ms" => Some(self.latency_ms as f64),
            other => self.metrics.get(other).copied(),
        }
    }

    /// `scored`, or the error's code.
    pub fn outcome(&self) -> &str {
        self.error.as_ref().map_or("scored", |error| error.code.as_str())
    }
}

/// One judge's part of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeScore {
    /// `provider/model`.
    pub model: String,
    /// Its persona.
    pub persona: Option<String>,
    /// Judgements of it that count.
    pub samples: i32,
    /// Their mean.
    pub score: f64,
}

/// Why there is no score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationError {
    /// Stable: `no_target`, `unreadable_reply`, `model`, `deadline`, `cost_cap`, `no_price`, `definition`, `rule`.
    pub code: String,
    /// One sentence for people.
    pub message: String,
}
