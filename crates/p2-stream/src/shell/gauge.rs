//! Where the shell counts.

use std::sync::Arc;
use std::time::Duration;

use p2_core::record::{Payload, Position, Topic};

use crate::metrics::{Metric, Metrics};
use crate::ports::CommitError;
use crate::runtime::{Counters, Output};

/// The metrics, and the processor in whose name it is counted.
#[derive(Clone)]
pub(super) struct Gauge {
    pub(super) metrics: Metrics,
    pub(super) name: &'static str,
}

impl Gauge {
    pub(super) fn assignment(&self, event: &str) {
        self.metrics.add(Metric::Assignments, &[self.name, event], 1.0);
    }

    /// A partition cannot be worked on.
    pub(super) fn halted(&self, partition: i32, reason: &str) {
        self.assignment("halted");
        tracing::error!(processor = self.name, partition, reason, "halted");
    }

    /// A partition is somebody else's now, and so are its numbers.
    pub(super) fn revoked(&self, partition: i32, knows_waits: bool) {
        self.assignment("revoked");
        let label = partition.to_string();
        for metric in [Metric::WindowOffsets, Metric::ConsumerLagRecords, Metric::CatchUpRemainingRecords] {
            self.metrics.forget(metric, &[self.name, label.as_str()]);
        }
        if knows_waits {
            self.metrics.forget_waits(partition);
        }
    }

    /// From a record's time to its step.
    pub(super) fn lag(&self, millis: i64) {
        let seconds = offsets(millis.max(0)) / 1_000.0;
        self.metrics.observe(Metric::StepLagSeconds, &[self.name], seconds);
    }

    /// One event was handled: what the runtime counted meanwhile.
    pub(super) fn step(&self, before: Counters, after: Counters, took: Duration) {
        let inputs = after.inputs - before.inputs;
        let timers = after.timers - before.timers;
        let replies = after.replies - before.replies;
        let records = inputs.saturating_sub(timers + replies);
        for (kind, count) in [("record", records), ("reply", replies), ("timer", timers)] {
            if count > 0 {
                self.metrics.add(Metric::Inputs, &[self.name, kind], whole(count));
            }
        }
        if inputs > 0 {
            let each = took.as_secs_f64() / whole(inputs);
            for _ in 0..inputs {
                self.metrics.observe(Metric::StepDurationSeconds, &[self.name], each);
            }
        }
        self.metrics.add(Metric::Redelivered, &[self.name], whole(after.redelivered - before.redelivered));
        self.metrics.add(Metric::StaleEvents, &[self.name], whole(after.stale - before.stale));
    }

    /// A transaction ended.
    pub(super) fn commit(&self, result: &Result<Vec<Position>, CommitError>, took: Duration) {
        let outcome = match result {
            Ok(positions) => {
                self.metrics.observe(Metric::CommitRecords, &[self.name], as_f64(positions.len()));
                "committed"
            }
            Err(CommitError::Aborted(_) | CommitError::Unfit(_)) => "aborted",
            Err(CommitError::Fenced(_)) => "fenced",
            Err(CommitError::Unknown(_)) => "unknown",
        };
        self.metrics.add(Metric::Commits, &[self.name, outcome], 1.0);
        self.metrics.observe(Metric::CommitDurationSeconds, &[self.name], took.as_secs_f64());
    }

    /// What a committed batch wrote.
    pub(super) fn committed(&self, outputs: &[Arc<Output>], positions: &[Position], view: Option<Topic>) {
        for (Output { message, .. }, position) in outputs.iter().map(AsRef::as_ref).zip(positions) {
            self.metrics.committed(self.name, message);
            if let Payload::Transition(transition) = &message.payload
                && view == Some(position.topic)
            {
                self.metrics.waits(position.partition, std::slice::from_ref(transition));
            }
        }
    }

    pub(super) fn catching_up(&self, partition: i32, next: i64, mark: i64) {
        let label = partition.to_string();
        let left = offsets((mark - next).max(0));
        self.metrics.set(Metric::CatchUpRemainingRecords, &[self.name, label.as_str()], left);
    }
}

/// A count of offsets or milliseconds as Prometheus takes it.
pub(super) fn offsets(number: i64) -> f64 {
    crate::metrics::observe::as_f64(number)
}

/// A count as Prometheus takes it.
pub(super) fn as_f64(number: usize) -> f64 {
    offsets(i64::try_from(number).unwrap_or(i64::MAX))
}

fn whole(number: u64) -> f64 {
    offsets(i64::try_from(number).unwrap_or(i64::MAX))
}
