//! Every metric family there is: one list.

use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry};

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// Prometheus's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}

/// A family: what its series have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// `p2_…`, in base units, counters end in `_total`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Label names, in the order of their values.
    pub labels: &'static [&'static str],
    /// The places of labels whose values come from definitions or other processes, so that they need a bound.
    pub from_definitions: &'static [usize],
}

/// Seconds, from decisions (microseconds) to model calls (minutes).
const SECONDS: &[f64] = &[
    0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 120.0,
];
const SCORES: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
const RECORDS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0];

macro_rules! metrics {
    ($($variant:ident = $name:literal, $kind:expr, [$($label:literal),*], [$($bound:literal),*], $help:literal;)*) => {
        /// A metric family.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Metric {
            $(#[doc = $help] $variant,)*
        }

        impl Metric {
            /// All of them, in the order of the documentation.
            pub const ALL: [Metric; [$(Metric::$variant),*].len()] = [$(Metric::$variant),*];

            /// Its family.
            pub fn family(self) -> Family {
                match self {
                    $(Metric::$variant => Family {
                        name: $name,
                        help: $help,
                        kind: $kind,
                        labels: &[$($label),*],
                        from_definitions: &[$($bound),*],
                    },)*
                }
            }
        }
    };
}

metrics! {
    BuildInfo = "p2_build_info", Kind::Gauge, ["version"], [], "1, with the version as a label";
    Inputs = "p2_inputs_total", Kind::Counter, ["processor", "kind"], [],
        "Inputs decided: `record`, `reply` of a call, `timer`";
    InputOutcomes = "p2_input_outcomes_total", Kind::Counter, ["processor", "verdict", "code"], [2],
        "Inbox messages by what became of them; `duplicate` is a verdict";
    StepDurationSeconds = "p2_step_duration_seconds", Kind::Histogram(SECONDS), ["processor"], [],
        "Time to decide one input";
    StepLagSeconds = "p2_step_lag_seconds", Kind::Histogram(SECONDS), ["processor"], [],
        "From a record's time to its step";
    Outputs = "p2_outputs_total", Kind::Counter, ["processor", "topic"], [], "Records committed";
    Commits = "p2_commits_total", Kind::Counter, ["processor", "outcome"], [],
        "Transactions: `committed`, `aborted`, `fenced`, `unknown`";
    CommitDurationSeconds = "p2_commit_duration_seconds", Kind::Histogram(SECONDS), ["processor"], [],
        "Duration of a transaction, whatever its outcome";
    CommitRecords = "p2_commit_records", Kind::Histogram(RECORDS), ["processor"], [], "Records per transaction";
    CallsInFlight = "p2_calls_in_flight", Kind::Gauge, ["processor"], [], "Model or tool calls under way";
    CallDurationSeconds = "p2_call_duration_seconds", Kind::Histogram(SECONDS), ["processor"], [],
        "Duration of a call, retries included";
    WindowOffsets = "p2_window_offsets", Kind::Gauge, ["processor", "partition"], [],
        "Offsets between the low watermark and the newest record taken";
    ConsumerLagRecords = "p2_consumer_lag_records", Kind::Gauge, ["processor", "partition"], [],
        "Offsets between the low watermark and the end of the input partition; 0 where all records are done";
    CatchUpRemainingRecords = "p2_catch_up_remaining_records", Kind::Gauge, ["processor", "partition"], [],
        "Offsets of the view that are still to be read before the partition starts";
    Assignments = "p2_assignments_total", Kind::Counter, ["processor", "event"], [],
        "Partitions `assigned` and `revoked`, `started_over`, `halted`, and `restored`: progress taken from outputs";
    PartitionsOwned = "p2_partitions_owned", Kind::Gauge, ["processor"], [], "Partitions owned now";
    Redelivered = "p2_redelivered_total", Kind::Counter, ["processor"], [],
        "Records that were delivered again and passed over";
    StaleEvents = "p2_stale_events_total", Kind::Counter, ["processor"], [],
        "Events of an ownership that was over";
    DeadLetters = "p2_dead_letters_total", Kind::Counter, ["processor", "code"], [1],
        "Records that could not be processed";
    PortRetries = "p2_port_retries_total", Kind::Counter, ["processor"], [],
        "Tries of a store or log that was away";
    Effects = "p2_effects_total", Kind::Counter, ["kind"], [], "Effects asked for";
    ToolCalls = "p2_tool_calls_total", Kind::Counter, ["tool", "outcome"], [0, 1], "Tool calls by outcome";
    ToolCallDurationSeconds = "p2_tool_call_duration_seconds", Kind::Histogram(SECONDS), ["tool"], [0],
        "Duration of tool calls that were made";
    ModelCalls = "p2_model_calls_total", Kind::Counter, ["model", "outcome"], [0],
        "Model calls: `success` or `error`";
    ModelCallDurationSeconds = "p2_model_call_duration_seconds", Kind::Histogram(SECONDS), ["model"], [0],
        "Duration of model calls, retries included";
    ModelRetries = "p2_model_retries_total", Kind::Counter, ["model"], [0], "Attempts beyond the first";
    ModelTokens = "p2_model_tokens_total", Kind::Counter, ["model", "type"], [0],
        "Tokens as the provider counted them: `input`, `output`";
    ModelCostUsd = "p2_model_cost_usd_total", Kind::Counter, ["model"], [0],
        "US dollars, of models with a price";
    Evaluations = "p2_evaluations_total", Kind::Counter, ["evaluator", "outcome"], [0, 1],
        "Evaluations: `scored`, `repeated` (the same content had been judged), or the code of the error";
    EvaluationScore = "p2_evaluation_score", Kind::Histogram(SCORES), ["evaluator"], [0], "Scores";
    EvaluationDurationSeconds = "p2_evaluation_duration_seconds", Kind::Histogram(SECONDS), ["evaluator"], [0],
        "Time that judging took, all judges, samples and repairs together";
    EvaluationCalls = "p2_evaluation_calls_total", Kind::Counter, ["evaluator"], [0], "Calls of judges, repairs included";
    EvaluationTokens = "p2_evaluation_tokens_total", Kind::Counter, ["evaluator", "type"], [0],
        "Tokens of judges as the provider counted them: `input`, `output`; not in `p2_model_tokens_total`";
    EvaluationCostUsd = "p2_evaluation_cost_usd_total", Kind::Counter, ["evaluator"], [0],
        "US dollars of judging, of models with a price; not in `p2_model_cost_usd_total`";
    Payments = "p2_payments_total", Kind::Counter, ["operation", "outcome", "code"], [2],
        "Ledger transactions by what was asked and what became of it";
    Rewards = "p2_rewards_total", Kind::Counter, ["evaluator", "outcome"], [0, 1],
        "Requests to reward an evaluation: `committed`, `pending`, or the code of the refusal";
    Reservations = "p2_reservations_total", Kind::Counter, ["state"], [],
        "Reservations made (`open`) and ended (`posted`, `voided`, `expired`)";
    WaitsOpen = "p2_waits_open", Kind::Gauge, ["kind"], [],
        "Open waits of the owned partitions; `in_doubt` is a call whose outcome nobody knows";
    WaitOldestAgeSeconds = "p2_wait_oldest_age_seconds", Kind::Gauge, ["kind"], [],
        "Age of the oldest open wait, 0 where there is none";
}

/// The series of a family.
pub(super) enum Vector {
    Counter(CounterVec),
    Gauge(GaugeVec),
    Histogram(HistogramVec),
}

pub(super) fn vector(metric: Metric) -> prometheus::Result<Vector> {
    let family = metric.family();
    Ok(match family.kind {
        Kind::Counter => {
            Vector::Counter(CounterVec::new(Opts::new(family.name, family.help), family.labels)?)
        }
        Kind::Gauge => Vector::Gauge(GaugeVec::new(Opts::new(family.name, family.help), family.labels)?),
        Kind::Histogram(buckets) => {
            let options = HistogramOpts::new(family.name, family.help).buckets(buckets.to_vec());
            Vector::Histogram(HistogramVec::new(options, family.labels)?)
        }
    })
}

impl Vector {
    pub(super) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        match self {
            Vector::Counter(counter) => registry.register(Box::new(counter.clone())),
            Vector::Gauge(gauge) => registry.register(Box::new(gauge.clone())),
            Vector::Histogram(histogram) => registry.register(Box::new(histogram.clone())),
        }
    }

    pub(super) fn add(&self, labels: &[&str], value: f64) {
        match self {
            Vector::Counter(counter) => {
                // Prometheus panics on a counter that shrinks.
                if let Ok(counter) = counter.get_metric_with_label_values(labels)
                    && value >= 0.0
                {
                    counter.inc_by(value);
                }
            }
            Vector::Gauge(gauge) => {
                if let Ok(gauge) = gauge.get_metric_with_label_values(labels) {
                    gauge.add(value);
                }
            }
            Vector::Histogram(_) => {}
        }
    }

    pub(super) fn set(&self, labels: &[&str], value: f64) {
        if let Vector::Gauge(gauge) = self
            && let Ok(gauge) = gauge.get_metric_with_label_values(labels)
        {
            gauge.set(value);
        }
    }

    pub(super) fn observe(&self, labels: &[&str], value: f64) {
        if let Vector::Histogram(histogram) = self
            && let Ok(histogram) = histogram.get_metric_with_label_values(labels)
        {
            histogram.observe(value);
        }
    }

    pub(super) fn remove(&self, labels: &[&str]) {
        // A series that was never there is as gone as one that was removed.
        let _ = match self {
            Vector::Counter(counter) => counter.remove_label_values(labels),
            Vector::Gauge(gauge) => gauge.remove_label_values(labels),
            Vector::Histogram(histogram) => histogram.remove_label_values(labels),
        };
    }
}
