//! What a judge's reply means. Strict: what is not a judgement gets a reason that the judge can act on.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{METRICS_MAX, RESERVED_METRICS, is_metric_name};
use crate::model::ModelReply;

/// Longest reply that is looked at, bytes.
pub const REPLY_BYTES_MAX: usize = 16_384;
/// Longest comment, characters.
pub const COMMENT_CHARS_MAX: usize = 4_000;
/// Largest amount of a metric.
const METRIC_MAX: f64 = 1e9;

/// What a judge said.
#[derive(Clone, Debug, PartialEq, Default, Serialize)]
pub struct Judgement {
    /// 0 to 1.
    pub score: f64,
    /// Further numbers by name.
    pub metrics: BTreeMap<String, f64>,
    /// Why; may be empty.
    pub comment: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    score: f64,
    #[serde(default)]
    metrics: Option<Numbers>,
    #[serde(default)]
    comment: Option<String>,
}

/// Numbers by name, each name once.
struct Numbers(BTreeMap<String, f64>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Numbers, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Numbers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Numbers, A::Error> {
                let mut numbers = BTreeMap::new();
                while let Some((name, number)) = map.next_entry::<String, f64>()? {
                    if numbers.insert(name.clone(), number).is_some() {
                        return Err(serde::de::Error::custom(format!("duplicate metric `{name}`")));
                    }
                }
                Ok(Numbers(numbers))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// Reads a judge's reply. `wanted` are the metrics that were asked for; none: any are taken.
///
/// One JSON object, alone or in one fenced block; each key once; nothing that was not asked for.
///
/// # Errors
/// What is wrong with it, as the end of a sentence to the judge.
pub fn parse(reply: &ModelReply, wanted: &[String]) -> Result<Judgement, String> {
    if !reply.tool_calls.is_empty() {
        return Err("it calls a tool, but there are none".to_owned());
    }
    let text = reply.text.as_deref().unwrap_or_default();
    parse_text(text, wanted)
}

/// As [`parse`], from the text alone.
///
/// # Errors
/// As [`parse`].
pub fn parse_text(text: &str, wanted: &[String]) -> Result<Judgement, String> {
    if text.len() > REPLY_BYTES_MAX {
        return Err(format!("it has {} bytes, and at most {REPLY_BYTES_MAX} are read", text.len()));
    }
    let text = unfenced(text.trim());
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if !text.starts_with('{') {
        return Err("it is not the JSON object: it must begin with {".to_owned());
    }
    let raw: Raw =
        serde_json::from_str(text).map_err(|error| format!("it is not the JSON object: {error}"))?;
    if !(0.0..=1.0).contains(&raw.score) {
        return Err(format!("\"score\" must be from 0 to 1, found {}", raw.score));
    }
    let metrics = raw.metrics.map(|numbers| numbers.0).unwrap_or_default();
    check_metrics(&metrics, wanted)?;
    let comment = raw.comment.unwrap_or_default().trim().to_owned();
    if comment.chars().count() > COMMENT_CHARS_MAX {
        return Err(format!("\"comment\" is longer than {COMMENT_CHARS_MAX} characters"));
    }
    Ok(Judgement { score: raw.score, metrics, comment })
}

/// Whether numbers may be the metrics of an evaluation.
///
/// # Errors
/// The first one that may not, and why.
pub fn check_metrics(metrics: &BTreeMap<String, f64>, wanted: &[String]) -> Result<(), String> {
    if metrics.len() > METRICS_MAX {
        return Err(format!("\"metrics\" has {} numbers; at most {METRICS_MAX} are kept", metrics.len()));
    }
    for (name, number) in metrics {
        if !wanted.is_empty() && !wanted.contains(name) {
            return Err(format!("the metric {name:?} was not asked for"));
        }
        if !is_metric_name(name) {
            return Err(format!("{name:?} is no name of a metric: use ASCII letters, digits, _ - ."));
        }
        if RESERVED_METRICS.contains(&name.as_str()) {
            return Err(format!("{name:?} cannot be a metric: it is there anyway"));
        }
        if !number.is_finite() || number.abs() > METRIC_MAX {
            return Err(format!(
                "the metric {name:?} must be a number of at most {METRIC_MAX}, found {number}"
            ));
        }
    }
    match wanted.iter().find(|name| !metrics.contains_key(*name)) {
        None => Ok(()),
        Some(name) => Err(format!("the metric {name:?} is missing")),
    }
}

/// The inside of one fenced block that is the whole text; many models cannot do without.
fn unfenced(text: &str) -> &str {
    let inside = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    let Some(inside) = inside else { return text };
    let inside = inside.strip_prefix("json").unwrap_or(inside);
    if inside.contains("```") { text } else { inside.trim() }
}
