//! Evaluators and rubrics: what is judged, by whom, by which standard, and when.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::BookId;

/// An evaluator: judges what agents did and gives a score from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluator {
    /// Its id. Together with a metric's name it is the criterion that a reward refers to.
    pub id: String,
    /// How it judges; its fields lie beside `id`, told apart by `type`.
    #[serde(flatten)]
    pub kind: EvaluatorKind,
    /// When it judges by itself; by default only on demand.
    #[serde(default)]
    pub trigger: Trigger,
    /// Judges only these agents; empty: all.
    #[serde(default)]
    pub agents: Vec<String>,
    /// What its evaluations earn; none: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Rewards>,
}

/// What evaluations earn: one reward to the judged agent's wallet, out of the book's treasury, as much as the book's
/// policy says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewards {
    /// The number that counts, from 0 to 1.
    #[serde(default = "score")]
    pub metric: String,
    /// Why it is paid now; none: the target itself, so that each is paid once. A new occasion pays what was judged
    /// again once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occasion: Option<String>,
    /// The book.
    #[serde(default = "main_book")]
    pub book: BookId,
    /// For evaluators of type `topic` only, and needed there: why whoever writes these evaluations may spend from the
    /// treasury, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted: Option<String>,
}

fn score() -> String {
    "score".to_owned()
}

fn main_book() -> BookId {
    BookId::from(crate::ledger::MAIN_BOOK)
}

/// How an evaluator judges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EvaluatorKind {
    /// Models judge by a rubric.
    LlmJudge(LlmJudge),
    /// The answer is this text.
    Exact(Exact),
    /// The answer contains these texts.
    Contains(Contains),
    /// The answer matches a pattern.
    Regex(Pattern),
    /// The answer is JSON of this shape.
    JsonSchema(Shape),
    /// How long the answer took.
    Latency(Latency),
    /// What the answer cost.
    Cost(Cost),
    /// What the tools returned as rewards.
    ToolReward(ToolReward),
    /// A formula.
    Expression(Expression),
    /// Somebody else's consumer of `artifacts` judges and writes the evaluations.
    Topic(External),
}

impl EvaluatorKind {
    /// The value of `type`.
    pub fn name(&self) -> &'static str {
        match self {
            EvaluatorKind::LlmJudge(_) => "llm_judge",
            EvaluatorKind::Exact(_) => "exact",
            EvaluatorKind::Contains(_) => "contains",
            EvaluatorKind::Regex(_) => "regex",
            EvaluatorKind::JsonSchema(_) => "json_schema",
            EvaluatorKind::Latency(_) => "latency",
            EvaluatorKind::Cost(_) => "cost",
            EvaluatorKind::ToolReward(_) => "tool_reward",
            EvaluatorKind::Expression(_) => "expression",
            EvaluatorKind::Topic(_) => "topic",
        }
    }
}

/// Models judge by a rubric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LlmJudge {
    /// `provider/model` of the judge.
    pub model: String,
    /// The standard, any text. Never looked up: a text that is the id of a rubric is still a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rubric: Option<String>,
    /// The standard by its id (`rubric/<id>`). Neither this nor `rubric`: a general one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rubric_id: Option<String>,
    /// Who the judge is (`persona/<id>`); the template sees `question`, `agent` and `conversation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persona: Option<String>,
    /// Judges instead of the one of `model` and `persona`.
    #[serde(default)]
    pub judges: Vec<Judge>,
    /// How often each judge is asked.
    #[serde(default = "one")]
    pub samples: i64,
    /// Names of the numbers wanted beside the score; none: what the judge gives.
    #[serde(default)]
    pub metrics: Vec<String>,
    /// Sampling temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Longest reply in tokens.
    #[serde(default = "reply_tokens")]
    pub max_tokens: i64,
    /// Most US dollars that one evaluation may cost, decimal text; no call is made that might go beyond it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_cap_usd: Option<String>,
    /// Deadline of one evaluation over all judges, samples and repairs, milliseconds.
    #[serde(default = "judge_timeout_ms")]
    pub timeout_ms: i64,
}

impl LlmJudge {
    /// Everybody who judges, at least one.
    pub fn panel(&self) -> Vec<Judge> {
        if self.judges.is_empty() {
            return vec![Judge { model: self.model.clone(), persona: self.persona.clone() }];
        }
        self.judges.clone()
    }
}

/// One of several judges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judge {
    /// `provider/model`.
    pub model: String,
    /// Who the judge is (`persona/<id>`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persona: Option<String>,
}

/// A named standard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rubric {
    /// Its id.
    pub id: String,
    /// The standard, any text.
    pub text: String,
}

/// The answer is this text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exact {
    /// The text; white space at both ends does not count.
    pub expected: String,
    /// Capitals and small letters are the same.
    #[serde(default)]
    pub ignore_case: bool,
}

/// The answer contains these texts. The score is the share of them that it contains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contains {
    /// The texts.
    pub texts: Vec<String>,
    /// Only all or nothing: 1 where every text is there, else 0.
    #[serde(default)]
    pub all: bool,
    /// Capitals and small letters are the same.
    #[serde(default)]
    pub ignore_case: bool,
}

/// The answer matches a pattern somewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pattern {
    /// A regular expression (syntax of the `regex` crate; takes linear time).
    pub pattern: String,
}

/// The answer is JSON of this shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// JSON Schema, draft 2020-12. References are resolved inside of it only.
    pub schema: Value,
}

/// From the question to the answer: 1 up to `good_ms`, 0 from `bad_ms` on, and in between by the distance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Up to here the score is 1.
    pub good_ms: i64,
    /// From here on it is 0.
    pub bad_ms: i64,
}

/// What the model calls from the question to the answer cost, delegated work not included: as [`Latency`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Up to here the score is 1. US dollars, decimal text.
    pub good_usd: String,
    /// From here on it is 0. US dollars, decimal text.
    pub bad_usd: String,
}

/// The mean of the rewards of the tools that were called since the question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolReward {
    /// Only these tools; empty: all.
    #[serde(default)]
    pub tools: Vec<String>,
}

/// A formula.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expression {
    /// A minijinja expression: a number from 0 to 1, or true or false.
    pub score: String,
    /// Further numbers by name, each an expression.
    #[serde(default)]
    pub metrics: std::collections::BTreeMap<String, String>,
}

/// Somebody else's consumer judges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct External {
    /// For people: who.
    #[serde(default)]
    pub description: String,
}

/// When an evaluator judges by itself. All of them may be set; what fires twice judges once.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// When a run has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finished: Vec<Run>,
    /// At every so many replies of the agent on a branch, those that it inherited included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<i64>,
    /// When an entry of this state was appended (`ToolResult`, …).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<String>,
    /// When an artifact of this kind (`tool_run`, …) or an event of this name (`timed_out`, …) comes by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<String>,
}

/// Whose run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// The agent that people talk to answered.
    Root,
    /// An agent that was called answered its caller.
    Children,
}

const fn one() -> i64 {
    1
}

const fn reply_tokens() -> i64 {
    1_024
}

const fn judge_timeout_ms() -> i64 {
    120_000
}
