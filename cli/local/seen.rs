//! The tail of `artifacts`: outcomes for those who wait for one, and a wake-up on every change.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use p2_core::ids::{ConversationId, Id};
use p2_core::record::{Artifact, ArtifactBody, Outcome, Payload, Topic};
use p2_embedded::EmbeddedLog;
use p2_stream::ports::{Log, Member, MemberEvent, StoredRecord};
use p2_stream::wire;
use tokio::sync::{Notify, watch};

use super::{LocalEngine, engine_error};
use crate::engine::EngineResult;

/// Outcomes kept for those who wait for one.
const OUTCOMES_MAX: usize = 100_000;

/// What the tail of `artifacts` has shown since this process started.
#[derive(Default)]
pub(super) struct Seen {
    outcomes: Mutex<HashMap<Id, Outcome>>,
    /// Woken on every change.
    pub(super) changed: Notify,
}

impl Seen {
    fn take(&self, records: &[StoredRecord]) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        for stored in records {
            let Ok(message) = wire::decode(stored) else { continue };
            if let Payload::Artifact(Artifact { body: ArtifactBody::InputOutcome(it), .. }) = message.payload
            {
                if outcomes.len() >= OUTCOMES_MAX {
                    outcomes.clear();
                }
                outcomes.entry(it.input).or_insert(it.outcome);
            }
        }
        drop(outcomes);
        self.changed.notify_waiters();
    }

    /// The outcome of an input that was decided since this process started.
    pub(super) fn outcome(&self, input: Id) -> Option<Outcome> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).get(&input).cloned()
    }
}

impl LocalEngine {
    /// The outcome of an input that the store has.
    pub(super) async fn outcome_stored(
        &self,
        conversation: &ConversationId,
        input: Id,
    ) -> EngineResult<Option<Outcome>> {
        self.store_is_current(conversation).await?;
        let known = self.fold_of_store(conversation).await?;
        Ok(known.and_then(|conversation| conversation.seen.get(&input).cloned()))
    }

    /// The outcome of an input that is decided in this process's time, once it is, and the store shows it.
    pub(super) async fn outcome_seen(
        &self,
        conversation: &ConversationId,
        input: Id,
        deadline: tokio::time::Instant,
    ) -> EngineResult<Option<Outcome>> {
        loop {
            let mut changed = std::pin::pin!(self.seen.changed.notified());
            // Registered before the look, so that no change between look and wait is missed.
            changed.as_mut().enable();
            if let Some(outcome) = self.seen.outcome(input) {
                self.store_is_current(conversation).await?;
                return Ok(Some(outcome));
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Ok(None);
            }
        }
    }
}

/// Follows `artifacts` from its end until `stop`.
///
/// # Errors
/// Where the log cannot be joined.
pub(super) async fn follow(
    log: &EmbeddedLog,
    seen: Arc<Seen>,
    mut stop: watch::Receiver<bool>,
) -> EngineResult<()> {
    let mut member = log.join("p2.local-api", &[Topic::Artifacts]).await.map_err(engine_error)?;
    let mut ends = BTreeMap::new();
    for partition in 0..log.partitions(Topic::Artifacts) {
        let (_, end) = log.bounds(Topic::Artifacts, partition).await.map_err(engine_error)?;
        ends.insert(partition, end);
    }
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = member.next() => event,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match event {
                Ok(event) => take(&mut *member, event, &ends, &seen).await,
                Err(error) => {
                    tracing::error!(target: "p2engine", %error, "the tail of artifacts ended");
                    return;
                }
            }
        }
    });
    Ok(())
}

async fn take(member: &mut dyn Member, event: MemberEvent, ends: &BTreeMap<i32, i64>, seen: &Seen) {
    match event {
        MemberEvent::Assigned { topic, partition, .. } => {
            let end = ends.get(&partition).copied().unwrap_or(0);
            if let Err(error) = member.seek(topic, partition, end).await {
                tracing::error!(target: "p2engine", %error, "the tail of artifacts cannot start");
            }
        }
        MemberEvent::Records { records, .. } => seen.take(&records),
        // Artifacts are kept for ever.
        MemberEvent::Revoked { .. } | MemberEvent::Truncated { .. } => {}
    }
}
