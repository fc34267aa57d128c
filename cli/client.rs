//! The engine of another process, over its local HTTP API.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use p2_core::conversation::Conversation;
use p2_core::ids::{BookId, ConversationId, Id};
use p2_core::record::{
    Artifact, DeadLetter, InboxMessage, LedgerTransaction, Outcome, PaymentRequest, RegistryRecord,
};
use p2_core::registry::Registry;
use reqwest::{Method, RequestBuilder, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::api::endpoint::{self, Endpoint};
use crate::api::wire::{self, Accepted, DefinitionBody, ErrorBody, PostInbox, WAIT_MS_MAX};
use crate::engine::{
    ArtifactFilter, BookView, ConversationLine, Engine, EngineError, EngineResult, InDoubt, LedgerReport,
    RecordView, RecordsQuery, Resolution, TopicCount, VerifyReport, rests,
};

/// A client of a running process.
#[derive(Debug)]
pub(crate) struct HttpEngine {
    http: reqwest::Client,
    base: Url,
    endpoint: Endpoint,
}

impl HttpEngine {
    /// The process that wrote this file ([`crate::config::Config::api_file`]); none where nothing answers there.
    ///
    /// A file that a killed process left behind counts as nothing.
    pub(crate) async fn find(api_file: &Path) -> EngineResult<Option<HttpEngine>> {
        let Some(endpoint) = endpoint::read(api_file)? else { return Ok(None) };
        let engine = HttpEngine::new(endpoint)?;
        match engine.registry().await {
            Ok(_) => Ok(Some(engine)),
            Err(error @ EngineError::Timeout(_)) => Err(error),
            // Nobody, or by now another program: whether a process of ours has the directory, its lock says.
            Err(_) => Ok(None),
        }
    }

    /// A client of that endpoint; nothing is sent yet. Only loopback addresses are taken: the token must not
    /// leave the machine.
    pub(crate) fn new(endpoint: Endpoint) -> EngineResult<HttpEngine> {
        let base = Url::parse(&endpoint.url)
            .ok()
            .filter(|url| url.host_str() == Some("127.0.0.1") && url.scheme() == "http")
            .ok_or_else(|| {
                EngineError::Unavailable("api.json names no http://127.0.0.1 address".to_owned())
            })?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_secs(60))
            .build()
            .map_err(|error| EngineError::Internal(format!("HTTP client: {error}")))?;
        Ok(HttpEngine { http, base, endpoint })
    }

    fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().push("v1").extend(segments);
        }
        self.http.request(method, url).bearer_auth(&self.endpoint.token)
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> EngineResult<T> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| {
                EngineError::Internal(format!(
                    "process {} answered something else than this version expects ({error}); run the same version in both terminals",
                    self.endpoint.pid
                ))
            });
        }
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Err(wire::error_of(status, body.error)),
            Err(_) => Err(EngineError::Internal(format!("{}: HTTP {status}", self.endpoint.url))),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> EngineError {
        let pid = self.endpoint.pid;
        if error.is_timeout() {
            return EngineError::Timeout(format!("process {pid} did not answer in time"));
        }
        let message = format!("process {pid} at {} does not answer", self.endpoint.url);
        EngineError::Gone { message, sent: !error.is_connect() }
    }

    async fn get<T: DeserializeOwned>(&self, segments: &[&str]) -> EngineResult<T> {
        self.send(self.request(Method::GET, segments)).await
    }

    async fn post<T: DeserializeOwned>(&self, segments: &[&str], body: &impl Serialize) -> EngineResult<T> {
        self.send(self.request(Method::POST, segments).json(body)).await
    }
}

/// How long the next request may wait, of what is left until `end`.
fn slice(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now()).min(Duration::from_millis(WAIT_MS_MAX))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn none_if_not_found<T>(result: EngineResult<T>) -> EngineResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(EngineError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

impl HttpEngine {
    async fn wait(
        &self,
        id: &ConversationId,
        seen_seq: i64,
        timeout: Duration,
        at_rest: bool,
    ) -> EngineResult<Option<Conversation>> {
        let end = Instant::now() + timeout;
        loop {
            let request = self.request(Method::GET, &["conversations", id.as_str()]).query(&[
                ("seen_seq", seen_seq.to_string()),
                ("timeout_ms", millis(slice(end)).to_string()),
                ("rest", at_rest.to_string()),
            ]);
            let found: Option<Conversation> = none_if_not_found(self.send(request).await)?;
            let done = found.as_ref().is_some_and(|now| now.next_seq > seen_seq && (!at_rest || rests(now)));
            if done || Instant::now() >= end {
                return Ok(found);
            }
        }
    }
}

#[async_trait]
impl Engine for HttpEngine {
    async fn append(&self, id: Id, message: InboxMessage) -> EngineResult<()> {
        let _: Accepted = self.post(&["inbox"], &PostInbox { id: Some(id), message }).await?;
        Ok(())
    }

    async fn outcome(
        &self,
        conversation: &ConversationId,
        input: Id,
        timeout: Duration,
    ) -> EngineResult<Option<Outcome>> {
        let end = Instant::now() + timeout;
        let input = input.to_string();
        loop {
            let part = slice(end);
            let request = self
                .request(Method::GET, &["conversations", conversation.as_str(), "outcomes", &input])
                .query(&[("timeout_ms", millis(part))]);
            let found: Option<Outcome> = self.send(request).await?;
            if found.is_some() || Instant::now() >= end {
                return Ok(found);
            }
        }
    }

    async fn conversation(&self, id: &ConversationId) -> EngineResult<Option<Conversation>> {
        none_if_not_found(self.get(&["conversations", id.as_str()]).await)
    }

    async fn conversations(&self) -> EngineResult<Vec<ConversationLine>> {
        self.get(&["conversations"]).await
    }

    async fn wait_change(
        &self,
        id: &ConversationId,
        seen_seq: i64,
        timeout: Duration,
    ) -> EngineResult<Option<Conversation>> {
        self.wait(id, seen_seq, timeout, false).await
    }

    async fn wait_rest(
        &self,
        id: &ConversationId,
        seen_seq: i64,
        timeout: Duration,
    ) -> EngineResult<Option<Conversation>> {
        self.wait(id, seen_seq, timeout, true).await
    }

    async fn artifacts(&self, filter: &ArtifactFilter) -> EngineResult<Vec<Artifact>> {
        self.send(self.request(Method::GET, &["artifacts"]).query(filter)).await
    }

    async fn request_evaluations(&self, requests: Vec<Artifact>) -> EngineResult<()> {
        let _: serde_json::Value = self.post(&["evaluations", "requests"], &requests).await?;
        Ok(())
    }

    async fn records(&self, query: &RecordsQuery) -> EngineResult<Vec<RecordView>> {
        let mut params = vec![("from", query.from.to_string()), ("max", query.max.to_string())];
        params.extend(query.partition.map(|partition| ("partition", partition.to_string())));
        let request = self.request(Method::GET, &["topics", query.topic.short(), "records"]).query(&params);
        self.send(request).await
    }

    async fn registry(&self) -> EngineResult<Registry> {
        let bodies: Vec<DefinitionBody> = self.get(&["registry"]).await?;
        wire::registry_of(bodies)
    }

    async fn apply(&self, records: Vec<RegistryRecord>) -> EngineResult<()> {
        let _: serde_json::Value = self.post(&["registry"], &records).await?;
        Ok(())
    }

    async fn dead_letters(&self) -> EngineResult<Vec<DeadLetter>> {
        self.get(&["dead-letters"]).await
    }

    async fn replay_dead_letter(&self, letter: Id, force: bool) -> EngineResult<()> {
        let letter = letter.to_string();
        let request =
            self.request(Method::POST, &["dead-letters", &letter, "replay"]).query(&[("force", force)]);
        let _: serde_json::Value = self.send(request).await?;
        Ok(())
    }

    async fn in_doubt(&self) -> EngineResult<Vec<InDoubt>> {
        self.get(&["effects", "in-doubt"]).await
    }

    async fn resolve(&self, effect: Id, resolution: Resolution) -> EngineResult<()> {
        let effect = effect.to_string();
        let _: serde_json::Value = self.post(&["effects", &effect, "resolution"], &resolution).await?;
        Ok(())
    }

    async fn verify_replay(&self) -> EngineResult<VerifyReport> {
        self.post(&["verify"], &serde_json::json!({})).await
    }

    async fn pay(&self, request: PaymentRequest) -> EngineResult<LedgerTransaction> {
        self.post(&["ledger", "requests"], &request).await
    }

    async fn book(&self, book: &BookId) -> EngineResult<Option<BookView>> {
        none_if_not_found(self.get(&["ledger", "books", book.as_str()]).await)
    }

    async fn books(&self) -> EngineResult<Vec<BookId>> {
        self.get(&["ledger", "books"]).await
    }

    async fn verify_ledger(&self) -> EngineResult<LedgerReport> {
        self.post(&["ledger", "verify"], &serde_json::json!({})).await
    }

    async fn topic_counts(&self) -> EngineResult<Vec<TopicCount>> {
        self.get(&["topics"]).await
    }
}
