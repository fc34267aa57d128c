//! The tail of `dead-letters`: who waits for the outcome of an input that could not be processed is told so.

use std::collections::BTreeMap;
use std::sync::Arc;

use p2_core::record::{Payload, Topic};
use p2_embedded::EmbeddedLog;
use p2_stream::ports::{Log, Member, MemberEvent};
use p2_stream::wire;
use tokio::sync::watch;

use super::engine_error;
use super::live::Live;
use crate::engine::EngineResult;

/// Follows `dead-letters` from its end until `stop`.
///
/// # Errors
/// Where the log cannot be joined.
pub(super) async fn follow(
    log: &EmbeddedLog,
    live: Arc<Live>,
    mut stop: watch::Receiver<bool>,
) -> EngineResult<()> {
    let mut member = log.join("p2.local-api", &[Topic::DeadLetters]).await.map_err(engine_error)?;
    let mut ends = BTreeMap::new();
    for partition in 0..log.partitions(Topic::DeadLetters) {
        let (_, end) = log.bounds(Topic::DeadLetters, partition).await.map_err(engine_error)?;
        ends.insert(partition, end);
    }
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = member.next() => event,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match event {
                Ok(event) => take(&mut *member, event, &ends, &live).await,
                Err(error) => {
                    tracing::error!(target: "p2engine", %error, "the tail of dead-letters ended");
                    return;
                }
            }
        }
    });
    Ok(())
}

async fn take(member: &mut dyn Member, event: MemberEvent, ends: &BTreeMap<i32, i64>, live: &Live) {
    match event {
        MemberEvent::Assigned { topic, partition, .. } => {
            let end = ends.get(&partition).copied().unwrap_or(0);
            if let Err(error) = member.seek(topic, partition, end).await {
                tracing::error!(target: "p2engine", %error, "the tail of dead-letters cannot start");
            }
        }
        MemberEvent::Records { records, .. } => {
            for stored in &records {
                if let Ok(message) = wire::decode(stored)
                    && let Payload::DeadLetter(letter) = message.payload
                {
                    live.refused(&letter);
                }
            }
        }
        MemberEvent::Revoked { .. } | MemberEvent::Truncated { .. } => {}
    }
}
