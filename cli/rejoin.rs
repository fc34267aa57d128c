//! The engine of another process, and of whoever has its data directory after it.
//!
//! Of two terminals on one data directory the first serves the other. When the first ends, the second joins the next one that
//! serves, or serves itself, and asks again. That is safe because whoever asks names its request: a message, a payment or a
//! definition that arrives twice is the same one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use p2_core::conversation::Conversation;
use p2_core::ids::{BookId, ConversationId, Id};
use p2_core::record::{
    Artifact, DeadLetter, InboxMessage, LedgerTransaction, Outcome, PaymentRequest, RegistryRecord,
};
use p2_core::registry::Registry;
use tokio::sync::{Mutex, watch};

use crate::client::HttpEngine;
use crate::config::Config;
use crate::engine::{
    ArtifactFilter, BookView, ConversationLine, Engine, EngineError, EngineResult, InDoubt, LedgerReport,
    RecordView, RecordsQuery, Resolution, TopicCount, VerifyReport,
};
use crate::local::Role;
use crate::wiring::{self, Opened, Place};

/// How often one request is asked again: as many processes may end one after the other while it is under way.
const TIMES_MAX: usize = 10;

/// An engine that outlives the process that it was found in.
pub(crate) struct Rejoining {
    config: Config,
    port: u16,
    role: Role,
    /// Which engine, and how many there were before it.
    now: watch::Sender<(usize, Arc<dyn Engine>)>,
    /// What this process has opened itself; also the lock of who looks for the next engine.
    own: Mutex<Option<Opened>>,
    /// Whether the engine is in this process now.
    is_here: watch::Sender<bool>,
}

impl Rejoining {
    /// Begins with an engine that was found.
    pub(crate) fn new(config: Config, port: u16, role: Role, first: HttpEngine) -> Rejoining {
        let (now, _) = watch::channel((0, Arc::new(first) as Arc<dyn Engine>));
        let (is_here, _) = watch::channel(false);
        Rejoining { config, port, role, now, own: Mutex::new(None), is_here }
    }

    /// Ends when a processor of this process has failed, where it has any by then.
    pub(crate) async fn failed(&self) -> EngineError {
        if self.is_here.subscribe().wait_for(|is_here| *is_here).await.is_err() {
            return std::future::pending().await;
        }
        let local = self.own.lock().await.as_ref().and_then(Opened::local);
        match local {
            Some(local) => local.failed().await,
            None => std::future::pending().await,
        }
    }

    /// Shuts down what this process has opened.
    pub(crate) async fn close(&self) -> EngineResult<()> {
        let own = self.own.lock().await.take();
        match own {
            Some(opened) => opened.shut().await,
            None => Ok(()),
        }
    }

    /// The engine after that one.
    async fn after(&self, seen: usize) -> EngineResult<(usize, Arc<dyn Engine>)> {
        let mut own = self.own.lock().await;
        let now = self.now.borrow().clone();
        if now.0 > seen {
            return Ok(now);
        }
        let engine: Arc<dyn Engine> = match wiring::find_or_open(&self.config, self.port, &self.role).await? {
            Place::Elsewhere(engine) => Arc::new(engine),
            Place::Here(opened) => {
                tracing::info!(target: "p2engine", "the process that served this data directory has ended: this one goes on");
                let engine = opened.engine.clone();
                *own = Some(opened);
                self.is_here.send_replace(true);
                engine
            }
        };
        let next = (now.0 + 1, engine);
        self.now.send_replace(next.clone());
        Ok(next)
    }

    /// Asks, and asks again where the process has ended. `twice` says whether it may be asked again where nobody knows
    /// whether it arrived.
    async fn ask<T, F>(&self, twice: bool, ask: impl Fn(Arc<dyn Engine>) -> F) -> EngineResult<T>
    where
        F: Future<Output = EngineResult<T>>,
    {
        let (mut seen, mut engine) = self.now.borrow().clone();
        for _ in 0..TIMES_MAX {
            match ask(engine).await {
                Err(EngineError::Gone { sent, .. }) if twice || !sent => {
                    (seen, engine) = self.after(seen).await?;
                }
                answer => return answer,
            }
        }
        ask(engine).await
    }
}

#[async_trait]
impl Engine for Rejoining {
    async fn append(&self, id: Id, message: InboxMessage) -> EngineResult<()> {
        self.ask(true, |engine| {
            let message = message.clone();
            async move { engine.append(id, message).await }
        })
        .await
    }

    async fn outcome(
        &self,
        conversation: &ConversationId,
        input: Id,
        timeout: Duration,
    ) -> EngineResult<Option<Outcome>> {
        self.ask(true, |engine| async move { engine.outcome(conversation, input, timeout).await }).await
    }

    async fn conversation(&self, id: &ConversationId) -> EngineResult<Option<Conversation>> {
        self.ask(true, |engine| async move { engine.conversation(id).await }).await
    }

    async fn conversations(&self) -> EngineResult<Vec<ConversationLine>> {
        self.ask(true, |engine| async move { engine.conversations().await }).await
    }

    async fn wait_change(
        &self,
        id: &ConversationId,
        seen_seq: i64,
        timeout: Duration,
    ) -> EngineResult<Option<Conversation>> {
        self.ask(true, |engine| async move { engine.wait_change(id, seen_seq, timeout).await }).await
    }

    async fn wait_rest(
        &self,
        id: &ConversationId,
        seen_seq: i64,
        timeout: Duration,
    ) -> EngineResult<Option<Conversation>> {
        self.ask(true, |engine| async move { engine.wait_rest(id, seen_seq, timeout).await }).await
    }

    async fn artifacts(&self, filter: &ArtifactFilter) -> EngineResult<Vec<Artifact>> {
        self.ask(true, |engine| async move { engine.artifacts(filter).await }).await
    }

    async fn request_evaluations(&self, requests: Vec<Artifact>) -> EngineResult<()> {
        self.ask(true, |engine| {
            let requests = requests.clone();
            async move { engine.request_evaluations(requests).await }
        })
        .await
    }

    async fn records(&self, query: &RecordsQuery) -> EngineResult<Vec<RecordView>> {
        self.ask(true, |engine| async move { engine.records(query).await }).await
    }

    async fn registry(&self) -> EngineResult<Registry> {
        self.ask(true, |engine| async move { engine.registry().await }).await
    }

    async fn apply(&self, records: Vec<RegistryRecord>) -> EngineResult<()> {
        self.ask(true, |engine| {
            let records = records.clone();
            async move { engine.apply(records).await }
        })
        .await
    }

    async fn dead_letters(&self) -> EngineResult<Vec<DeadLetter>> {
        self.ask(true, |engine| async move { engine.dead_letters().await }).await
    }

    async fn replay_dead_letter(&self, letter: Id, force: bool) -> EngineResult<()> {
        // With `force` it is done as often as it is asked.
        self.ask(false, |engine| async move { engine.replay_dead_letter(letter, force).await }).await
    }

    async fn in_doubt(&self) -> EngineResult<Vec<InDoubt>> {
        self.ask(true, |engine| async move { engine.in_doubt().await }).await
    }

    async fn resolve(&self, effect: Id, resolution: Resolution) -> EngineResult<()> {
        self.ask(false, |engine| {
            let resolution = resolution.clone();
            async move { engine.resolve(effect, resolution).await }
        })
        .await
    }

    async fn verify_replay(&self) -> EngineResult<VerifyReport> {
        self.ask(true, |engine| async move { engine.verify_replay().await }).await
    }

    async fn pay(&self, request: PaymentRequest) -> EngineResult<LedgerTransaction> {
        self.ask(true, |engine| {
            let request = request.clone();
            async move { engine.pay(request).await }
        })
        .await
    }

    async fn book(&self, book: &BookId) -> EngineResult<Option<BookView>> {
        self.ask(true, |engine| async move { engine.book(book).await }).await
    }

    async fn books(&self) -> EngineResult<Vec<BookId>> {
        self.ask(true, |engine| async move { engine.books().await }).await
    }

    async fn verify_ledger(&self) -> EngineResult<LedgerReport> {
        self.ask(true, |engine| async move { engine.verify_ledger().await }).await
    }

    async fn topic_counts(&self) -> EngineResult<Vec<TopicCount>> {
        self.ask(true, |engine| async move { engine.topic_counts().await }).await
    }
}
