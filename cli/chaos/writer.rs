//! Writes what people do into the topics, and notes what became of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use p2_core::ids::Id;
use p2_core::record::{Message, Payload, Topic};
use p2_stream::ports::{Log, NewRecord};
use p2_stream::shell::now_ms;
use p2_stream::wire;
use tokio::sync::Semaphore;

use super::evidence::{POISON, of_log};
use super::history::{Event, History};
use super::people::Deed;
use crate::engine::EngineResult;

/// Writes of people that are under way at a time.
const WRITES_MAX: usize = 64;

/// What the log has acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledged {
    /// Messages to conversations.
    pub(crate) inputs: BTreeSet<Id>,
    /// Records of requests to the ledger.
    pub(crate) requests: BTreeSet<Id>,
    /// Records that are no message.
    pub(crate) poison: usize,
}

/// Writes many at a time.
pub(crate) struct Writer {
    log: Arc<dyn Log>,
    history: Arc<History>,
    turns: Arc<Semaphore>,
    acknowledged: Arc<Mutex<Acknowledged>>,
}

impl Writer {
    /// Nothing is written yet.
    pub(crate) fn new(log: Arc<dyn Log>, history: Arc<History>) -> Writer {
        let turns = Arc::new(Semaphore::new(WRITES_MAX));
        Writer { log, history, turns, acknowledged: Arc::default() }
    }

    /// What the log has acknowledged so far.
    pub(crate) fn acknowledged(&self) -> Acknowledged {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for everything that is being written.
    pub(crate) async fn drain(&self) {
        let all = u32::try_from(WRITES_MAX).unwrap_or(u32::MAX);
        drop(self.turns.acquire_many(all).await);
    }

    /// Waits until there is a turn.
    pub(crate) async fn has_a_turn(&self) {
        drop(self.turns.acquire().await);
    }

    /// Writes in the background; what there is no turn for is not said.
    pub(crate) fn write(&self, deed: Deed) {
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else { return };
        let (log, history) = (Arc::clone(&self.log), Arc::clone(&self.history));
        let acknowledged = Arc::clone(&self.acknowledged);
        tokio::spawn(async move {
            let Some(record) = record(&deed, log.partitions(Topic::Inbox)) else { return };
            if let Some(event) = about_to(&deed) {
                history.note(event);
            }
            match log.append(vec![record]).await {
                Ok(positions) => {
                    let Some(at) = positions.first() else { return };
                    let (partition, offset) = (at.partition, at.offset);
                    let mut acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                    history.note(match &deed {
                        Deed::Say(Message { id, .. }) | Deed::Misplace(Message { id, .. }) => {
                            acknowledged.inputs.insert(*id);
                            Event::Acknowledged { id: *id, partition, offset }
                        }
                        Deed::Ask(Message { id, .. }) => {
                            acknowledged.requests.insert(*id);
                            Event::Taken { id: *id, partition, offset }
                        }
                        Deed::Poison(_) => {
                            acknowledged.poison += 1;
                            Event::Poisoned { partition, offset }
                        }
                    });
                }
                Err(error) => history.note(match &deed {
                    Deed::Say(message) | Deed::Misplace(message) | Deed::Ask(message) => {
                        Event::Unacknowledged { id: message.id, reason: error.to_string() }
                    }
                    Deed::Poison(_) => Event::Note { what: format!("poison: {error}") },
                }),
            }
            drop(turn);
        });
    }
}

/// Writes all of it, one after the other.
///
/// # Errors
/// The log does not take it.
pub(crate) async fn in_order(log: &dyn Log, history: &History, deeds: &[Deed]) -> EngineResult<()> {
    let partitions = log.partitions(Topic::Inbox);
    deeds.iter().filter_map(about_to).for_each(|event| history.note(event));
    let records = deeds.iter().filter_map(|deed| record(deed, partitions)).collect();
    let positions = log.append(records).await.map_err(|error| of_log(&error))?;
    for (deed, at) in deeds.iter().zip(positions) {
        if let Deed::Ask(Message { id, .. }) = deed {
            history.note(Event::Taken { id: *id, partition: at.partition, offset: at.offset });
        }
    }
    Ok(())
}

/// What is noted before a deed, so that nothing lies in the log that nobody wrote.
fn about_to(deed: &Deed) -> Option<Event> {
    let sent = |message: &Message, kind: &str| Event::Sent {
        id: message.id,
        conversation: message.payload.key().to_owned(),
        kind: kind.to_owned(),
    };
    match deed {
        Deed::Say(message) => Some(sent(message, "said")),
        Deed::Misplace(message) => Some(sent(message, "misplaced")),
        Deed::Ask(message) => match &message.payload {
            Payload::PaymentRequest(request) => Some(Event::Asked {
                id: message.id,
                book: request.book.to_string(),
                kind: request.body.kind().to_owned(),
            }),
            _ => None,
        },
        Deed::Poison(_) => None,
    }
}

/// The record of a deed.
fn record(deed: &Deed, partitions: i32) -> Option<NewRecord> {
    let encoded = |message: &Message| {
        let message = Message { time_ms: now_ms(), ..message.clone() };
        wire::encode(&message, "/p2/chaos", partitions).ok()
    };
    match deed {
        Deed::Say(message) | Deed::Ask(message) => encoded(message),
        Deed::Misplace(message) => {
            let record = encoded(message)?;
            let partition = (record.partition + 1) % partitions;
            Some(NewRecord { partition, ..record })
        }
        Deed::Poison(key) => Some(NewRecord {
            topic: Topic::Inbox,
            partition: wire::partition(key.as_str(), partitions),
            key: key.0.clone(),
            headers: [("content-type", &b"text/plain"[..])].into_iter().collect(),
            value: POISON.to_vec(),
            time_ms: now_ms(),
        }),
    }
}
