//! What committed records say, in numbers. Pure.

use std::collections::BTreeMap;

use p2_core::ids::Id;
use p2_core::record::{
    ArtifactBody, Change as Step, EffectBody, Evaluation, LedgerOutcome, LedgerTransaction, Message,
    ModelCall, Payload, PaymentBody, StateTransition, ToolRun, Verdict,
};
use p2_core::state::{State, WaitKind, Waiting};

use super::Metric;

/// One thing to be counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Of this family.
    pub metric: Metric,
    /// Label values in the family's order.
    pub labels: Vec<String>,
    /// How.
    pub change: Change,
}

/// How a sample counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Adds to a counter.
    Add(f64),
    /// One value of a histogram.
    Observe(f64),
}

fn add(metric: Metric, labels: &[&str], value: f64) -> Sample {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Sample { metric, labels, change: Change::Add(value) }
}

fn seconds(metric: Metric, labels: &[&str], millis: i64) -> Sample {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Sample { metric, labels, change: Change::Observe(as_f64(millis) / 1_000.0) }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are doubles; 53 bits are enough for counts and ages")]
pub(crate) fn as_f64(number: i64) -> f64 {
    number as f64
}

/// What one record committed by `processor` counts.
pub fn samples(processor: &str, message: &Message) -> Vec<Sample> {
    let topic = message.payload.topic().short();
    let mut samples = vec![add(Metric::Outputs, &[processor, topic], 1.0)];
    match &message.payload {
        Payload::Effect(effect) => {
            let kind = match &effect.body {
                EffectBody::CallTool(_) => "call_tool",
                EffectBody::PublishReply(_) => "publish_reply",
                EffectBody::NotifyWebhook(_) => "notify_webhook",
            };
            samples.push(add(Metric::Effects, &[kind], 1.0));
        }
        Payload::DeadLetter(letter) => {
            samples.push(add(Metric::DeadLetters, &[processor, &letter.code], 1.0));
        }
        Payload::Artifact(artifact) => match &artifact.body {
            ArtifactBody::InputOutcome(it) => {
                let verdict = match it.outcome.verdict {
                    Verdict::Applied => "applied",
                    Verdict::Recorded => "recorded",
                    Verdict::Refused => "refused",
                    Verdict::Duplicate => "duplicate",
                };
                let labels = [processor, verdict, &it.outcome.code];
                samples.push(add(Metric::InputOutcomes, &labels, 1.0));
            }
            ArtifactBody::ModelCall(call) => model_call(call, &mut samples),
            ArtifactBody::ToolRun(run) => tool_run(run, &mut samples),
            ArtifactBody::Evaluation(evaluation) => evaluated(evaluation, &mut samples),
            ArtifactBody::EntryAppended(_) | ArtifactBody::Event(_) | ArtifactBody::Payment(_) => {}
        },
        Payload::LedgerTransaction(made) => payment(made, &mut samples),
        Payload::Inbox(_) | Payload::Transition(_) | Payload::PaymentRequest(_) | Payload::Registry(_) => {}
    }
    samples
}

fn payment(made: &LedgerTransaction, samples: &mut Vec<Sample>) {
    let code = match &made.outcome {
        LedgerOutcome::Rejected(rejected) => rejected.code.as_str(),
        _ => "ok",
    };
    let labels = [made.request.body.kind(), made.outcome.as_str(), code];
    samples.push(add(Metric::Payments, &labels, 1.0));
    if let PaymentBody::Reward(reward) = &made.request.body {
        let outcome = if code == "ok" { made.outcome.as_str() } else { code };
        samples.push(add(Metric::Rewards, &[&reward.evaluator, outcome], 1.0));
    }
    for hold in &made.holds {
        samples.push(add(Metric::Reservations, &[hold.state.as_str()], 1.0));
    }
}

fn model_call(call: &ModelCall, samples: &mut Vec<Sample>) {
    let model = call.model.as_str();
    let outcome = if call.error.is_none() { "success" } else { "error" };
    samples.push(add(Metric::ModelCalls, &[model, outcome], 1.0));
    samples.push(seconds(Metric::ModelCallDurationSeconds, &[model], call.latency_ms));
    let retries = call.attempts.saturating_sub(1).max(0);
    samples.push(add(Metric::ModelRetries, &[model], f64::from(retries)));
    for (kind, tokens) in [("input", call.prompt_tokens), ("output", call.completion_tokens)] {
        if let Some(tokens) = tokens {
            samples.push(add(Metric::ModelTokens, &[model, kind], as_f64(tokens)));
        }
    }
    if let Some(cost) = call.cost_usd.as_deref().and_then(|text| text.parse().ok()) {
        samples.push(add(Metric::ModelCostUsd, &[model], cost));
    }
}

fn tool_run(run: &ToolRun, samples: &mut Vec<Sample>) {
    // An intent is no outcome: what came of it is a run of its own.
    if run.phase == "intent" {
        return;
    }
    samples.push(add(Metric::ToolCalls, &[&run.tool, &run.phase], 1.0));
    if let Some(latency_ms) = run.latency_ms {
        samples.push(seconds(Metric::ToolCallDurationSeconds, &[&run.tool], latency_ms));
    }
}

/// What judging took is of the call alone: an evaluation that repeats another one cost nothing.
fn evaluated(evaluation: &Evaluation, samples: &mut Vec<Sample>) {
    let evaluator = evaluation.evaluator.as_str();
    let outcome = if evaluation.same_as.is_some() { "repeated" } else { evaluation.outcome() };
    samples.push(add(Metric::Evaluations, &[evaluator, outcome], 1.0));
    if let Some(score) = evaluation.score {
        let labels = vec![evaluator.to_owned()];
        let change = Change::Observe(score);
        samples.push(Sample { metric: Metric::EvaluationScore, labels, change });
    }
    samples.push(seconds(Metric::EvaluationDurationSeconds, &[evaluator], evaluation.latency_ms));
    samples.push(add(Metric::EvaluationCalls, &[evaluator], f64::from(evaluation.calls.max(0))));
    for (kind, tokens) in [("input", evaluation.prompt_tokens), ("output", evaluation.completion_tokens)] {
        if let Some(tokens) = tokens {
            samples.push(add(Metric::EvaluationTokens, &[evaluator, kind], as_f64(tokens)));
        }
    }
    if let Some(cost) = evaluation.cost_usd.as_deref().and_then(|text| text.parse().ok()) {
        samples.push(add(Metric::EvaluationCostUsd, &[evaluator], cost));
    }
}

/// The kinds of open waits, as labels.
const KINDS: [&str; 6] = ["llm", "tool", "agent", "user_input", "payment", "in_doubt"];

/// The open waits of owned partitions: a fold of their transitions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpenWaits {
    /// Wait → (partition, kind, when it opened).
    open: BTreeMap<Id, (i32, &'static str, i64)>,
}

impl OpenWaits {
    /// Takes a committed transition in.
    pub fn apply(&mut self, partition: i32, transition: &StateTransition) {
        for change in &transition.changes {
            match change {
                Step::Appended(appended) => {
                    for entry in &appended.entries {
                        if let State::Waiting(waiting) = &entry.state {
                            let since =
                                self.open.get(&waiting.id).map_or(entry.time_ms, |(.., since)| *since);
                            self.open.insert(waiting.id, (partition, kind(waiting), since));
                        }
                    }
                }
                Step::Closed(closed) => closed.waits.iter().for_each(|wait| _ = self.open.remove(wait)),
                _ => {}
            }
        }
    }

    /// Drops the waits of a partition.
    pub fn forget(&mut self, partition: i32) {
        self.open.retain(|_, (owned, ..)| *owned != partition);
    }

    /// Kind → (how many, age of the oldest in seconds); every kind, 0 where there is none.
    pub fn summary(&self, now_ms: i64) -> BTreeMap<&'static str, (f64, f64)> {
        let mut summary: BTreeMap<&str, (f64, f64)> = KINDS.map(|kind| (kind, (0.0, 0.0))).into();
        for (_, kind, since) in self.open.values() {
            let entry = summary.entry(kind).or_default();
            entry.0 += 1.0;
            entry.1 = entry.1.max(as_f64(now_ms.saturating_sub(*since)) / 1_000.0);
        }
        summary
    }
}

/// A tool's or a payment's wait loses its deadline when nobody knows any more what became of the call.
fn kind(waiting: &Waiting) -> &'static str {
    match waiting.kind {
        WaitKind::Llm => "llm",
        WaitKind::Tool if waiting.deadline_ms.is_none() => "in_doubt",
        WaitKind::Tool => "tool",
        WaitKind::Agent => "agent",
        WaitKind::UserInput => "user_input",
        WaitKind::Payment if waiting.deadline_ms.is_none() => "in_doubt",
        WaitKind::Payment => "payment",
    }
}
