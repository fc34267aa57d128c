//! What a process counts, for Prometheus.
//!
//! [`Metric`] is the one list of names, helps, types and labels; the registry, the exposition and the table in
//! `docs/metrics.md` come from it. What is known from records is counted from records that were committed
//! ([`observe`]), so a batch that was dropped counts nothing.

mod family;
pub mod observe;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use p2_core::record::{Message, StateTransition};
use prometheus::{Encoder, Registry, TextEncoder};

pub use family::{Family, Kind, Metric};
use family::{Vector, vector};
use observe::{Change, OpenWaits, Sample};

/// Most values that a label takes that comes from definitions (a model, a tool, a code); what comes later is
/// counted under `other`, because a series is never forgotten.
const LABEL_VALUES_MAX: usize = 200;

/// The metrics of one process. Cheap to clone; clones count together. Never fails: what cannot be counted is
/// not counted.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    vectors: BTreeMap<Metric, Vector>,
    /// The values seen of labels that come from definitions.
    seen: Mutex<BTreeMap<(Metric, usize), Vec<String>>>,
    waits: Mutex<OpenWaits>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// An empty registry with every family of [`Metric`], and the process's own (`process_*`).
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let mut vectors = BTreeMap::new();
        for metric in Metric::ALL {
            // A name, label or bucket that Prometheus refuses is a defect that a test finds, not a reason to stop.
            match vector(metric).and_then(|vector| vector.register(&registry).map(|()| vector)) {
                Ok(vector) => _ = vectors.insert(metric, vector),
                Err(error) => tracing::error!(metric = metric.family().name, %error, "not counted"),
            }
        }
        #[cfg(target_os = "linux")]
        {
            let process = prometheus::process_collector::ProcessCollector::for_self();
            if let Err(error) = registry.register(Box::new(process)) {
                tracing::warn!(%error, "the process's own metrics are not counted");
            }
        }
        let metrics =
            Metrics(Arc::new(Inner { registry, vectors, seen: Mutex::default(), waits: Mutex::default() }));
        metrics.set(Metric::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1.0);
        metrics
    }

    /// Adds to a counter, or to a gauge.
    pub fn add(&self, metric: Metric, labels: &[&str], value: f64) {
        self.with(metric, labels, |vector, labels| vector.add(labels, value));
    }

    /// Sets a gauge.
    pub fn set(&self, metric: Metric, labels: &[&str], value: f64) {
        self.with(metric, labels, |vector, labels| vector.set(labels, value));
    }

    /// Puts a value into a histogram.
    pub fn observe(&self, metric: Metric, labels: &[&str], value: f64) {
        self.with(metric, labels, |vector, labels| vector.observe(labels, value));
    }

    /// Forgets one series: a partition that is owned by somebody else now.
    pub fn forget(&self, metric: Metric, labels: &[&str]) {
        self.with(metric, labels, |vector, labels| vector.remove(labels));
    }

    /// Counts a record that was committed by `processor`.
    pub fn committed(&self, processor: &str, message: &Message) {
        for Sample { metric, labels, change } in observe::samples(processor, message) {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            match change {
                Change::Add(value) => self.add(metric, &labels, value),
                Change::Observe(value) => self.observe(metric, &labels, value),
            }
        }
    }

    /// Takes in a committed transition of an owned partition, new or from a lane that was loaded: what it opens
    /// and closes. The same transition twice changes nothing.
    pub fn waits(&self, partition: i32, transitions: &[StateTransition]) {
        let mut waits = self.0.waits.lock().unwrap_or_else(PoisonError::into_inner);
        for transition in transitions {
            waits.apply(partition, transition);
        }
    }

    /// Drops the waits of a partition that is no longer owned.
    pub fn forget_waits(&self, partition: i32) {
        self.0.waits.lock().unwrap_or_else(PoisonError::into_inner).forget(partition);
    }

    /// Everything in the text format 0.0.4 that Prometheus scrapes. `now_ms` gives open waits their age.
    pub fn text(&self, now_ms: i64) -> String {
        let open = self.0.waits.lock().unwrap_or_else(PoisonError::into_inner).summary(now_ms);
        for (kind, (count, oldest_s)) in open {
            self.set(Metric::WaitsOpen, &[kind], count);
            self.set(Metric::WaitOldestAgeSeconds, &[kind], oldest_s);
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.0.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn with(&self, metric: Metric, labels: &[&str], act: impl FnOnce(&Vector, &[&str])) {
        let Some(vector) = self.0.vectors.get(&metric) else { return };
        let bounded = metric.family().from_definitions;
        if bounded.is_empty() {
            return act(vector, labels);
        }
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let labels: Vec<&str> = labels
            .iter()
            .enumerate()
            .map(|(at, value)| {
                if !bounded.contains(&at) {
                    return *value;
                }
                let values = seen.entry((metric, at)).or_default();
                if values.iter().any(|known| known == value) {
                    *value
                } else if values.len() < LABEL_VALUES_MAX {
                    values.push((*value).to_owned());
                    *value
                } else {
                    "other"
                }
            })
            .collect();
        drop(seen);
        act(vector, &labels);
    }
}

/// The table of all metrics, Markdown: `docs/metrics.md` holds it.
pub fn table() -> String {
    let mut text = String::from("| name | type | labels | what it is |\n|---|---|---|---|\n");
    for metric in Metric::ALL {
        let family = metric.family();
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        text += &format!(
            "| `{}` | {} | {} | {} |\n",
            family.name,
            family.kind.name(),
            labels.join(", "),
            family.help
        );
    }
    text
}

#[cfg(test)]
mod tests;
