//! The engine's calls, answered from log and store of this process.

use std::time::Duration;

use async_trait::async_trait;
use p2_core::conversation::Conversation;
use p2_core::eval::trigger;
use p2_core::ids::{BookId, ConversationId, Id};
use p2_core::record::{
    Artifact, DeadLetter, ENTRY_BYTES_MAX, InboxBody, InboxMessage, LedgerTransaction, Outcome, Payload,
    PaymentRequest, RegistryRecord, Topic,
};
use p2_core::registry::Registry;
use p2_stream::ports::{StackStore, StoredRecord};

use super::live::{FRESH, News};
use super::read::{READ_RECORDS_MAX, decode};
use super::{LocalEngine, engine_error, internal, message};
use crate::engine::{
    ArtifactFilter, BookView, ConversationLine, Engine, EngineError, EngineResult, InDoubt, LedgerReport,
    RecordView, RecordsQuery, Resolution, TopicCount, VerifyReport, rests,
};

impl LocalEngine {
    /// The newest `-from` records of a partition, of which at most `max`. Offsets may have gaps, so it looks back
    /// further until there are so many.
    async fn newest(&self, query: &RecordsQuery, partition: i32) -> EngineResult<Vec<StoredRecord>> {
        let (start, end) = self.log.bounds(query.topic, partition).await.map_err(engine_error)?;
        let wanted = usize::try_from(-query.from).unwrap_or(0);
        let mut back = -query.from;
        loop {
            let from = (end - back).max(start);
            let mut records = Vec::new();
            let mut next = from;
            while next < end {
                let more = self.log.read(query.topic, partition, next, READ_RECORDS_MAX).await;
                let more = more.map_err(engine_error)?;
                let Some(last) = more.last() else { break };
                next = last.offset + 1;
                records.extend(more);
            }
            if records.len() >= wanted || from <= start {
                records.drain(..records.len().saturating_sub(wanted));
                records.truncate(query.max);
                return Ok(records);
            }
            back = back.saturating_mul(4);
        }
    }

    /// The conversation once it is as wanted, or as it is after `timeout`.
    async fn wait_for(
        &self,
        id: &ConversationId,
        news: News,
        timeout: Duration,
        wanted: impl Fn(&Conversation) -> bool,
    ) -> EngineResult<Option<Conversation>> {
        let deadline = tokio::time::Instant::now() + timeout;
        let waiter = self.store.waiter(id, news);
        loop {
            let mut changed = std::pin::pin!(waiter.notify.notified());
            changed.as_mut().enable();
            if self.store.is_to_move(id) {
                let soon = deadline.min(tokio::time::Instant::now() + FRESH);
                let _ = tokio::time::timeout_at(soon, changed.as_mut()).await;
                changed.set(waiter.notify.notified());
                changed.as_mut().enable();
            }
            let now = self.conversation(id).await?;
            if now.as_ref().is_some_and(&wanted) || tokio::time::timeout_at(deadline, changed).await.is_err()
            {
                return Ok(now);
            }
        }
    }
}

#[async_trait]
impl Engine for LocalEngine {
    async fn append(&self, id: Id, inbox: InboxMessage) -> EngineResult<()> {
        let text = match &inbox.body {
            InboxBody::UserText(said) => said.text.len(),
            InboxBody::HumanAnswer(said) => said.answer.text.len(),
            _ => 0,
        };
        if text > ENTRY_BYTES_MAX {
            return Err(EngineError::Invalid(format!(
                "a text of {text} bytes is over the limit of {ENTRY_BYTES_MAX}: send less, or a reference to it"
            )));
        }
        let conversation = inbox.conversation.clone();
        if self.cluster.is_some() {
            self.store.will_move(&conversation);
        }
        self.append_messages(&[message(id, Payload::Inbox(inbox))]).await.map(drop)
    }

    async fn outcome(
        &self,
        conversation: &ConversationId,
        input: Id,
        timeout: Duration,
    ) -> EngineResult<Option<Outcome>> {
        let deadline = tokio::time::Instant::now() + timeout;
        let waiter = self.store.waiter(conversation, News::Any);
        // A fresh input is decided within milliseconds; then the store need not be asked.
        let mut look = Some(deadline.min(tokio::time::Instant::now() + FRESH));
        loop {
            let mut changed = std::pin::pin!(waiter.notify.notified());
            // Registered before the look, so that no change between look and wait is missed.
            changed.as_mut().enable();
            if let Some(outcome) = self.store.outcome(input) {
                return Ok(Some(outcome));
            }
            if tokio::time::timeout_at(look.unwrap_or(deadline), changed).await.is_err() {
                // It may be older than this process: then there is no news of it.
                let known = self.conversation(conversation).await?;
                let found = known.and_then(|it| it.seen.get(&input).cloned());
                if found.is_some() || tokio::time::Instant::now() >= deadline {
                    return Ok(found);
                }
                look = None;
            }
        }
    }

    async fn conversation(&self, id: &ConversationId) -> EngineResult<Option<Conversation>> {
        if let Some(known) = self.store.recent(id) {
            return Ok(Some(known));
        }
        self.store_is_current(id).await?;
        self.fold_of_store(id).await
    }

    async fn conversations(&self) -> EngineResult<Vec<ConversationLine>> {
        if self.cluster.is_none() {
            // What the process before this one decided last may not be in the view yet. On a cluster a list is as
            // new as the store.
            for partition in 0..self.log.partitions(Topic::StateTransitions) {
                self.partition_is_current(partition).await?;
            }
        }
        let mut lines: Vec<ConversationLine> = Vec::new();
        loop {
            let after = lines.last().map(|line| line.id.clone());
            let more = self.store.list(after.as_ref(), READ_RECORDS_MAX).await.map_err(internal)?;
            if more.is_empty() {
                lines.retain(|line| !line.agent.is_empty());
                return Ok(lines);
            }
            lines.extend(more.into_iter().map(ConversationLine::from));
        }
    }

    async fn wait_change(
        &self,
        id: &ConversationId,
        seen_seq: i64,
        timeout: Duration,
    ) -> EngineResult<Option<Conversation>> {
        self.wait_for(id, News::Any, timeout, |now| now.next_seq > seen_seq).await
    }

    async fn wait_rest(
        &self,
        id: &ConversationId,
        seen_seq: i64,
        timeout: Duration,
    ) -> EngineResult<Option<Conversation>> {
        self.wait_for(id, News::Rest, timeout, |now| now.next_seq > seen_seq && rests(now)).await
    }

    async fn artifacts(&self, filter: &ArtifactFilter) -> EngineResult<Vec<Artifact>> {
        let key = filter.conversation.as_ref().map(ConversationId::as_str);
        let mut artifacts: Vec<Artifact> = self
            .messages(Topic::Artifacts, key)
            .await?
            .into_iter()
            .filter_map(|(_, message)| match message.payload {
                Payload::Artifact(artifact) => Some(artifact),
                _ => None,
            })
            .filter(|artifact| filter.kind.as_ref().is_none_or(|kind| artifact.body.kind() == kind))
            .filter(|artifact| filter.since_ms.is_none_or(|since| artifact.time_ms >= since))
            .collect();
        artifacts.sort_by_key(|artifact| artifact.time_ms);
        if let Some(limit) = filter.limit {
            artifacts.drain(..artifacts.len().saturating_sub(limit));
        }
        Ok(artifacts)
    }

    async fn request_evaluations(&self, requests: Vec<Artifact>) -> EngineResult<()> {
        for request in &requests {
            match trigger::request(request) {
                Some(Ok(_)) if request.entry.is_some() => {}
                Some(Err(why)) => return Err(EngineError::Invalid(why)),
                _ => {
                    let name = p2_core::eval::REQUESTED;
                    let text = format!("artifact {} is no event {name} with a target", request.id);
                    return Err(EngineError::Invalid(text));
                }
            }
        }
        let messages: Vec<_> =
            requests.into_iter().map(|request| message(request.id, Payload::Artifact(request))).collect();
        if messages.is_empty() {
            return Ok(());
        }
        self.append_messages(&messages).await.map(drop)
    }

    async fn records(&self, query: &RecordsQuery) -> EngineResult<Vec<RecordView>> {
        let mut views = Vec::new();
        for partition in 0..self.log.partitions(query.topic) {
            if query.partition.is_some_and(|wanted| wanted != partition) {
                continue;
            }
            let records = if query.from < 0 {
                self.newest(query, partition).await?
            } else {
                self.log.read(query.topic, partition, query.from, query.max).await.map_err(engine_error)?
            };
            for stored in records {
                views.push(match decode(&stored) {
                    Ok(message) => RecordView::new(stored.position(), &message)?,
                    Err(error) => RecordView::unreadable(&stored, &error.to_string()),
                });
            }
        }
        Ok(views)
    }

    async fn registry(&self) -> EngineResult<Registry> {
        Ok(Registry::clone(&self.registry.snapshot()))
    }

    async fn apply(&self, records: Vec<RegistryRecord>) -> EngineResult<()> {
        // One at a time: two files applied at once may have drawn the same version.
        let _applying = self.applying.lock().await;
        let known = self.registry.snapshot();
        for record in records.iter().filter(|record| record.body.is_some()) {
            let newest = known.newest(&record.kind, &record.id).map_or(0, |(version, _)| version);
            if record.version <= newest && newest > 0 {
                let message = format!("{} was changed meanwhile: apply again", record.key);
                return Err(EngineError::Refused { code: "conflict".to_owned(), message });
            }
        }
        self.append_definitions(&records).await?;
        for record in &records {
            self.registry.apply(record).map_err(EngineError::Internal)?;
        }
        Ok(())
    }

    async fn dead_letters(&self) -> EngineResult<Vec<DeadLetter>> {
        let mut letters: Vec<DeadLetter> = self
            .messages(Topic::DeadLetters, None)
            .await?
            .into_iter()
            .filter_map(|(_, message)| match message.payload {
                Payload::DeadLetter(letter) => Some(letter),
                _ => None,
            })
            .collect();
        letters.sort_by_key(|letter| letter.time_ms);
        Ok(letters)
    }

    async fn replay_dead_letter(&self, letter: Id, force: bool) -> EngineResult<()> {
        self.deliver_letter_again(letter, force).await
    }

    async fn in_doubt(&self) -> EngineResult<Vec<InDoubt>> {
        self.effects_in_doubt().await
    }

    async fn resolve(&self, effect: Id, resolution: Resolution) -> EngineResult<()> {
        self.close_in_doubt(effect, resolution).await
    }

    async fn verify_replay(&self) -> EngineResult<VerifyReport> {
        self.compare_with_log().await
    }

    async fn pay(&self, request: PaymentRequest) -> EngineResult<LedgerTransaction> {
        self.settle(request).await
    }

    async fn book(&self, book: &BookId) -> EngineResult<Option<BookView>> {
        self.book_now(book).await
    }

    async fn books(&self) -> EngineResult<Vec<BookId>> {
        self.books_now().await
    }

    async fn verify_ledger(&self) -> EngineResult<LedgerReport> {
        self.compare_ledger().await
    }

    async fn topic_counts(&self) -> EngineResult<Vec<TopicCount>> {
        let mut counts = Vec::new();
        for topic in Topic::ALL {
            let mut partitions = Vec::new();
            for partition in 0..self.log.partitions(topic) {
                partitions.push(self.log.bounds(topic, partition).await.map_err(engine_error)?);
            }
            counts.push(TopicCount { topic: topic.short().to_owned(), partitions });
        }
        Ok(counts)
    }
}
