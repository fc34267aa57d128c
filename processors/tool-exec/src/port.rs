//! The port: carries out what the decision asks for.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use p2_core::ids::Id;
use p2_stream::ports::{Reconciled, ToolReply, ToolRequest, Toolbox};
use p2_stream::processor::Call;
use serde_json::Value;
use tokio::time::timeout;

use crate::cache::Cache;
use crate::outcome::normalised;
use crate::webhook::WebhookSender;
use crate::{ToolExecReply, ToolExecRequest};

/// The time, milliseconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Attempts at a webhook.
const WEBHOOK_ATTEMPTS: u32 = 3;
/// Pause after the first failed attempt, milliseconds; doubled after each further one.
const WEBHOOK_BACKOFF_MS: u64 = 500;

/// Calls tools, asks reconcilers and posts webhooks, each cut at its deadline. Cheap to clone; clones share
/// the cache.
#[derive(Clone)]
pub struct ToolPort {
    toolbox: Arc<dyn Toolbox>,
    webhook: Arc<dyn WebhookSender>,
    clock: Clock,
    cache: Arc<Mutex<Cache>>,
}

impl fmt::Debug for ToolPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolPort").finish_non_exhaustive()
    }
}

impl ToolPort {
    /// A port on these tools and this way to send webhooks.
    pub fn new(toolbox: Arc<dyn Toolbox>, webhook: Arc<dyn WebhookSender>, clock: Clock) -> ToolPort {
        ToolPort { toolbox, webhook, clock, cache: Arc::default() }
    }

    /// Carries out one call and returns its reply, at the latest shortly after its deadline. Dropping the
    /// future cuts the call; what was sent by then stays sent.
    pub async fn carry_out(&self, call: &Call<ToolExecRequest>) -> ToolExecReply {
        match &call.request {
            ToolExecRequest::Tool { request, version, cache_ttl_ms } => {
                self.tool(request, *version, *cache_ttl_ms, call.deadline_ms).await
            }
            ToolExecRequest::Reconcile(request) => {
                let Some(left) = self.left(call.deadline_ms) else {
                    return ToolExecReply::Reconciled(Reconciled::Unknown);
                };
                let said = timeout(left, self.toolbox.reconcile(request)).await;
                ToolExecReply::Reconciled(said.unwrap_or(Reconciled::Unknown))
            }
            ToolExecRequest::Webhook { url, body, key } => {
                ToolExecReply::Webhook(self.post(url, body, key, call.deadline_ms).await)
            }
        }
    }

    async fn tool(
        &self,
        request: &ToolRequest,
        version: i32,
        cache_ttl_ms: Option<i64>,
        deadline_ms: i64,
    ) -> ToolExecReply {
        let started_ms = (self.clock)();
        let key = cache_ttl_ms.map(|ttl| (Cache::key(&request.tool, version, &request.arguments), ttl));
        if let Some((key, _)) = &key
            && let Some(value) = self.cached(key, started_ms)
        {
            return ToolExecReply::Tool { reply: ToolReply::Success(value), latency_ms: 0, cache_hit: true };
        }
        let Some(left) = self.left(deadline_ms) else { return ToolExecReply::NotSent };
        let reply = match timeout(left, self.toolbox.call(request)).await {
            Ok(reply) => reply,
            Err(_) => ToolReply::Unknown(format!("no answer within {} ms", left.as_millis())),
        };
        let ended_ms = (self.clock)();
        let latency_ms = ended_ms.saturating_sub(started_ms).max(0);
        if let (Some((key, ttl)), ToolReply::Success(value)) = (key, &reply)
            && normalised(value).is_ok()
        {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.put(key, value.clone(), ended_ms, ended_ms.saturating_add(ttl));
        }
        let outcome = match &reply {
            ToolReply::Success(_) => "success",
            ToolReply::Failure(_) => "failure",
            ToolReply::Unknown(_) => "unknown",
        };
        tracing::info!(target: "tool-exec", outcome, latency_ms, "tool called");
        ToolExecReply::Tool { reply, latency_ms, cache_hit: false }
    }

    fn cached(&self, key: &str, now_ms: i64) -> Option<Value> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(key, now_ms)
    }

    async fn post(&self, url: &str, body: &Value, key: &Id, deadline_ms: i64) -> Result<(), String> {
        let mut last = "its deadline had passed before it could be sent".to_owned();
        for attempt in 1..=WEBHOOK_ATTEMPTS {
            let Some(left) = self.left(deadline_ms) else { return Err(last) };
            let tried = timeout(left, self.webhook.post(url, body, key)).await;
            let delivered = matches!(tried, Ok(Ok(())));
            tracing::info!(target: "tool-exec", attempt, delivered, "webhook called");
            match tried {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if !error.transient => return Err(error.message),
                Ok(Err(error)) => last = error.message,
                Err(_) => return Err(format!("no answer within {} ms", left.as_millis())),
            }
            if attempt < WEBHOOK_ATTEMPTS {
                let Some(left) = self.left(deadline_ms) else { return Err(last) };
                tokio::time::sleep(backoff(attempt, key).min(left)).await;
            }
        }
        Err(format!("{last} (after {WEBHOOK_ATTEMPTS} attempts)"))
    }

    /// The time until a deadline; none once it has passed.
    fn left(&self, deadline_ms: i64) -> Option<Duration> {
        let left = deadline_ms.saturating_sub((self.clock)());
        u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_millis)
    }
}

/// 0.5 s, 1 s, … and up to half as much again. What is added comes from the key, which is as good as random,
/// so that many webhooks that failed together are not tried again together.
fn backoff(attempt: u32, key: &Id) -> Duration {
    let base = WEBHOOK_BACKOFF_MS << (attempt - 1).min(8);
    let byte = u64::from(key.as_bytes().first().copied().unwrap_or_default());
    Duration::from_millis(base + base / 2 * byte / 255)
}
