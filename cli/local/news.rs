//! What this process learns from topics: definitions, inputs that could not be processed and, on a cluster, what
//! happened to conversations.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use agent_step::RegistryHandle;
use p2_core::record::{Payload, StateTransition, Topic};
use p2_stream::ports::{Log, LogError, StackStore, StoredRecord};
use p2_stream::wire;

use super::live::Live;
use super::read::{READ_RECORDS_MAX, decode};
use super::{LocalEngine, engine_error};
use crate::engine::{EngineError, EngineResult};

/// Pause before a follower that lost its log is started again, milliseconds: the first and the longest.
const AGAIN_MS: (u64, u64) = (100, 5_000);

/// Reads the registry to its end. Returns where it ends.
pub(super) async fn read_registry(log: &dyn Log, registry: &RegistryHandle) -> EngineResult<i64> {
    let (mut from, _) = log.bounds(Topic::Registry, 0).await.map_err(engine_error)?;
    loop {
        let more = log.read(Topic::Registry, 0, from, READ_RECORDS_MAX).await.map_err(engine_error)?;
        let Some(last) = more.last() else { return Ok(from) };
        from = last.offset + 1;
        for stored in &more {
            define(registry, stored)?;
        }
    }
}

fn define(registry: &RegistryHandle, stored: &StoredRecord) -> EngineResult<()> {
    match decode(stored)?.payload {
        Payload::Registry(record) => registry.apply(&record).map_err(EngineError::Internal),
        _ => Ok(()),
    }
}

impl LocalEngine {
    /// Follows the topics that bring news until the processors stop: definitions, and what an API has to know
    /// where there is one. `fills_view`: the view is this process's own
    /// and is written from here, from the first transition on; returns when it has what there is now.
    pub(super) async fn follow(
        &self,
        registry_end: i64,
        for_api: bool,
        fills_view: bool,
    ) -> EngineResult<()> {
        let mut from = if for_api { self.ends(Topic::DeadLetters).await? } else { Vec::new() };
        if self.cluster.is_some() {
            from.push((Topic::Registry, 0, registry_end));
        }
        if self.cluster.is_some() && for_api {
            let ends = self.ends(Topic::StateTransitions).await?;
            let ends = if fills_view { self.fill().await? } else { ends };
            for (_, partition, next) in &ends {
                self.store.hear(*partition, &[], *next);
            }
            from.extend(ends);
        }
        let listener = Listener { live: self.store.clone(), registry: self.registry.clone(), fills_view };
        let (log, mut stop) = (self.log.clone(), self.processors.stopping());
        tokio::spawn(async move {
            tokio::select! {
                () = listener.listen(log.as_ref(), from) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
        Ok(())
    }

    /// Fills a view in memory. Returns where the transitions end.
    async fn fill(&self) -> EngineResult<Vec<(Topic, i32, i64)>> {
        let topic = Topic::StateTransitions;
        let mut ends = Vec::new();
        for partition in 0..self.log.partitions(topic) {
            let (mut from, _) = self.log.bounds(topic, partition).await.map_err(engine_error)?;
            loop {
                let more =
                    self.log.read(topic, partition, from, READ_RECORDS_MAX).await.map_err(engine_error)?;
                let Some(last) = more.last() else { break };
                from = last.offset + 1;
                take_transitions(&self.store, &more, true).await;
            }
            ends.push((topic, partition, from));
        }
        Ok(ends)
    }

    async fn ends(&self, topic: Topic) -> EngineResult<Vec<(Topic, i32, i64)>> {
        let mut ends = Vec::new();
        for partition in 0..self.log.partitions(topic) {
            let (_, end) = self.log.bounds(topic, partition).await.map_err(engine_error)?;
            ends.push((topic, partition, end));
        }
        Ok(ends)
    }
}

/// Who is told of what comes in.
struct Listener {
    live: Arc<Live>,
    registry: RegistryHandle,
    fills_view: bool,
}

impl Listener {
    /// Listens for ever; a follower that fails is started again where it was.
    async fn listen(&self, log: &dyn Log, from: Vec<(Topic, i32, i64)>) {
        let mut next: BTreeMap<(Topic, i32), i64> =
            from.into_iter().map(|(topic, partition, offset)| ((topic, partition), offset)).collect();
        let mut pause_ms = AGAIN_MS.0;
        loop {
            let Err(error) = self.follow_once(log, &mut next, &mut pause_ms).await;
            tracing::warn!(target: "p2engine", %error, "no news, trying again");
            self.live.forget_recent();
            tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
            // What retention took is no news any more, and must not stand between us and what is.
            for ((topic, partition), offset) in &mut next {
                if let Ok((start, _)) = log.bounds(*topic, *partition).await {
                    *offset = start.max(*offset);
                }
            }
            pause_ms = (pause_ms * 2).min(AGAIN_MS.1);
        }
    }

    async fn follow_once(
        &self,
        log: &dyn Log,
        next: &mut BTreeMap<(Topic, i32), i64>,
        pause_ms: &mut u64,
    ) -> Result<Infallible, LogError> {
        let from = next.iter().map(|((topic, partition), offset)| (*topic, *partition, *offset)).collect();
        let mut follower = log.follow(from).await?;
        loop {
            let records = follower.next().await?;
            for stored in &records {
                next.insert((stored.record.topic, stored.record.partition), stored.offset + 1);
            }
            self.take(&records).await;
            *pause_ms = AGAIN_MS.0;
        }
    }

    /// Records of one partition.
    async fn take(&self, records: &[StoredRecord]) {
        match records.first().map(|first| first.record.topic) {
            Some(Topic::StateTransitions) => take_transitions(&self.live, records, self.fills_view).await,
            Some(Topic::Registry) => {
                for stored in records {
                    if let Err(error) = define(&self.registry, stored) {
                        tracing::error!(target: "p2engine", %error, "a definition is left out");
                    }
                }
            }
            Some(Topic::DeadLetters) => {
                for stored in records {
                    if let Ok(message) = wire::decode(stored)
                        && let Payload::DeadLetter(letter) = message.payload
                    {
                        self.live.refused(&letter);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Tells of transitions, and writes them where the view is this process's own.
async fn take_transitions(live: &Live, records: &[StoredRecord], fills_view: bool) {
    let mut by_partition: BTreeMap<i32, (Vec<(i64, StateTransition)>, i64)> = BTreeMap::new();
    for stored in records {
        let of = by_partition.entry(stored.record.partition).or_default();
        of.1 = stored.offset + 1;
        match decode(stored) {
            Ok(message) => {
                if let Payload::Transition(transition) = message.payload {
                    of.0.push((stored.offset, transition));
                }
            }
            Err(error) => tracing::error!(target: "p2engine", %error, "a transition is left out"),
        }
    }
    for (partition, (transitions, next)) in by_partition {
        if fills_view && let Err(error) = live.write(partition, transitions.clone(), next).await {
            tracing::error!(target: "p2engine", %error, "the view in memory is not written");
        }
        live.hear(partition, &transitions, next);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use p2_core::ids::Id;
    use p2_core::record::{DeadLetter, Header, Message};
    use p2_core::registry::Registry;
    use p2_stream::memory::{MemoryLog, MemoryStore};

    use super::*;

    #[tokio::test]
    async fn news_come_in_although_older_ones_were_deleted_before_they_were_read() {
        let log = MemoryLog::new(1);
        for name in ["one", "two"] {
            let id = Id::of_text(name);
            let letter = DeadLetter {
                id,
                key: "c".to_owned(),
                topic: Topic::Inbox.name(),
                partition: 0,
                offset: 0,
                group: "p2.agent-step".to_owned(),
                code: "poison".to_owned(),
                reason: "it cannot be read".to_owned(),
                headers: vec![Header { name: "ce_id".to_owned(), value: id.to_string().into_bytes() }],
                value: Vec::new(),
                time_ms: 1,
            };
            let payload = Payload::DeadLetter(letter);
            let message =
                Message { id, cause: id, cause_position: None, time_ms: 1, traceparent: None, payload };
            log.append(vec![wire::encode(&message, "/test", 1).unwrap()]).await.unwrap();
        }
        log.delete_before(Topic::DeadLetters, 0, 1);
        let live = Arc::new(Live::new(Arc::new(MemoryStore::default())));
        let registry = RegistryHandle::new(Registry::default());
        let listener = Listener { live: live.clone(), registry, fills_view: false };
        let from = vec![(Topic::DeadLetters, 0, 0)];
        let heard = async {
            while live.outcome(Id::of_text("two")).is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = listener.listen(&log, from) => {}
            heard = tokio::time::timeout(Duration::from_secs(60), heard) => heard.unwrap(),
        }
        assert!(live.outcome(Id::of_text("one")).is_none());
    }
}
