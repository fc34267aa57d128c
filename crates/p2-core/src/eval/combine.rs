//! Several judgements become one: means, spread and agreement.

use std::collections::BTreeMap;

use super::reply::Judgement;
use crate::record::{Evaluation, JudgeScore};

/// What one judge of a panel said, sample by sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Panelist {
    /// `provider/model`.
    pub model: String,
    /// Its persona.
    pub persona: Option<String>,
    /// The samples that count.
    pub judgements: Vec<Judgement>,
}

/// The mean; none of nothing.
#[expect(clippy::cast_precision_loss, reason = "counts of samples are far below 2^53")]
pub fn mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    Some(values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation of a sample (n − 1); none of fewer than two values.
#[expect(clippy::cast_precision_loss, reason = "counts of samples are far below 2^53")]
pub fn spread(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// 1 − the mean distance between two of the values; none of fewer than two.
pub fn agreement(values: &[f64]) -> Option<f64> {
    let pairs = values.iter().enumerate();
    let distances: Vec<f64> =
        pairs.flat_map(|(at, a)| values.iter().skip(at + 1).map(move |b| (a - b).abs())).collect();
    mean(&distances).map(|distance| 1.0 - distance)
}

/// Fills score, metrics, comment, samples, spread, agreement and judges of an evaluation. Every judge counts the
/// same, however many of its samples do. A metric is the mean of those who gave it. Nothing is filled in where a
/// judge said nothing that counts.
pub fn combine(panel: &[Panelist], into: &mut Evaluation) {
    let scores =
        |panelist: &Panelist| -> Vec<f64> { panelist.judgements.iter().map(|one| one.score).collect() };
    let means: Option<Vec<f64>> = panel.iter().map(|panelist| mean(&scores(panelist))).collect();
    let Some(means) = means else { return };
    let all: Vec<f64> = panel.iter().flat_map(scores).collect();
    into.score = mean(&means).map(|score| score.clamp(0.0, 1.0));
    into.samples = i32::try_from(all.len()).unwrap_or(i32::MAX);
    into.spread = spread(&all);
    into.agreement = agreement(&means);
    let judge = |(panelist, score): (&Panelist, f64)| JudgeScore {
        model: panelist.model.clone(),
        persona: panelist.persona.clone(),
        samples: i32::try_from(panelist.judgements.len()).unwrap_or(i32::MAX),
        score,
    };
    into.judges = panel.iter().zip(means).map(judge).collect();
    let mut numbers: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
    for (name, number) in panel.iter().flat_map(|panelist| &panelist.judgements).flat_map(|one| &one.metrics)
    {
        numbers.entry(name).or_default().push(*number);
    }
    let means = numbers.into_iter().filter_map(|(name, of)| Some((name.clone(), mean(&of)?)));
    into.metrics = means.take(super::METRICS_MAX).collect();
    into.comment = comment(panel, into.score.unwrap_or_default());
}

/// Of several comments the one whose score is nearest to the result.
fn comment(panel: &[Panelist], score: f64) -> String {
    let all = panel.iter().flat_map(|panelist| &panelist.judgements).filter(|one| !one.comment.is_empty());
    let nearest = all.min_by(|a, b| (a.score - score).abs().total_cmp(&(b.score - score).abs()));
    nearest.map(|one| one.comment.clone()).unwrap_or_default()
}
