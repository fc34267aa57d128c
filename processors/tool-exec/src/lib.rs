//! The processor `tool-exec`: carries out the effects that agents ask for.
//!
//! One lane per effect, without a view: a lane lives as long as its record is open. The decision
//! ([`ToolExec`]) is pure; [`ToolPort`] carries out what it asks for, and [`toolbox`] holds the built-in
//! tools.
//!
//! How often a tool is called: one that is idempotent or free of side effects may be called again after a
//! crash, with the same key. Any other is claimed first: the claim is committed, then the call starts. A
//! record that comes back as claimed is never called again; its reconciler is asked, and where there is none
//! the outcome is `in_doubt` until an operator settles it ([`resolve`]).

mod arguments;
mod cache;
mod decide;
mod outcome;
mod port;
pub mod toolbox;
mod webhook;

use std::fmt;
use std::sync::Arc;

use p2_core::ids::Id;
use p2_core::record::{Effect, Message, Payload, Topic};
use p2_core::registry::Registry;
use p2_stream::ports::{Reconciled, ToolReply, ToolRequest};
use p2_stream::processor::{Call, LaneInput, LaneStep, Processor};
use serde_json::Value;

pub use outcome::{NotACall, Resolution, resolve};
pub use port::{Clock, ToolPort};
pub use webhook::{Environment, HttpWebhook, WebhookError, WebhookSender};

/// How long after a call's deadline a reconciler's "not done" is believed, milliseconds: the time that a
/// request may still be on its way after its caller has given up.
pub const RECONCILE_GRACE_MS: i64 = 5_000;
/// Deadline of a webhook over all attempts, milliseconds.
pub const WEBHOOK_TIMEOUT_MS: i64 = 30_000;
/// Longest result of a tool as JSON text, bytes.
pub const RESULT_BYTES_MAX: usize = p2_core::record::ENTRY_BYTES_MAX;

/// What the processor asks its port.
#[derive(Clone, PartialEq)]
pub enum ToolExecRequest {
    /// Call a tool, or answer from the cache.
    Tool {
        /// The call.
        request: ToolRequest,
        /// The tool's pinned version: part of the cache's key.
        version: i32,
        /// How long a success is kept for the same arguments, milliseconds; none: no cache.
        cache_ttl_ms: Option<i64>,
    },
    /// Ask what became of a claimed call.
    Reconcile(ToolRequest),
    /// POST a JSON body. May be repeated: the receiver knows the key.
    Webhook {
        /// Where to.
        url: String,
        /// What.
        body: Value,
        /// The idempotency key: the effect's id.
        key: Id,
    },
}

impl fmt::Debug for ToolExecRequest {
    /// Without the URL of a webhook, which may hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ToolExecRequest::Tool { request, version, cache_ttl_ms } => f
                .debug_struct("Tool")
                .field("request", request)
                .field("version", version)
                .field("cache_ttl_ms", cache_ttl_ms)
                .finish(),
            ToolExecRequest::Reconcile(request) => f.debug_tuple("Reconcile").field(request).finish(),
            ToolExecRequest::Webhook { url: _, body, key } => {
                f.debug_struct("Webhook").field("body", body).field("key", key).finish_non_exhaustive()
            }
        }
    }
}

/// What the port answers.
#[derive(Clone, Debug, PartialEq)]
pub enum ToolExecReply {
    /// To [`ToolExecRequest::Tool`]: what the tool, or the cache, said.
    Tool {
        /// The answer.
        reply: ToolReply,
        /// How long it took, milliseconds.
        latency_ms: i64,
        /// The tool was not called: the answer to the same call is still fresh.
        cache_hit: bool,
    },
    /// To [`ToolExecRequest::Tool`]: the deadline had passed before the call was sent; nothing was done.
    NotSent,
    /// To [`ToolExecRequest::Reconcile`].
    Reconciled(Reconciled),
    /// To [`ToolExecRequest::Webhook`]: delivered, or why not after the last attempt (without the URL, which
    /// may hold a secret).
    Webhook(Result<(), String>),
}

/// The state of one effect's lane.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ToolLane {
    /// The effect's record. The runtime applies it before the first decision.
    record: Option<Message>,
}

impl ToolLane {
    fn effect(&self) -> Option<&Effect> {
        match &self.record.as_ref()?.payload {
            Payload::Effect(effect) => Some(effect),
            _ => None,
        }
    }

    fn traceparent(&self) -> Option<String> {
        self.record.as_ref()?.traceparent.clone()
    }
}

/// Where the processor takes the registry from, anew at each decision: a pointer to a value that does not
/// change.
pub type RegistrySnapshot = Arc<dyn Fn() -> Arc<Registry> + Send + Sync>;

/// Carries out effects. Cheap to clone.
#[derive(Clone)]
pub struct ToolExec {
    registry: RegistrySnapshot,
}

impl ToolExec {
    /// A processor that looks tools up in what `registry` returns.
    pub fn new(registry: impl Fn() -> Arc<Registry> + Send + Sync + 'static) -> ToolExec {
        ToolExec { registry: Arc::new(registry) }
    }
}

impl fmt::Debug for ToolExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolExec").finish_non_exhaustive()
    }
}

impl Processor for ToolExec {
    type Lane = ToolLane;
    type Request = ToolExecRequest;
    type Reply = ToolExecReply;

    fn name(&self) -> &'static str {
        "tool-exec"
    }

    fn input(&self) -> Topic {
        Topic::Effects
    }

    fn view(&self) -> Option<Topic> {
        None
    }

    fn lane_key(&self, message: &Message) -> String {
        match &message.payload {
            Payload::Effect(effect) => effect.id.to_string(),
            _ => message.id.to_string(),
        }
    }

    fn decide(
        &self,
        key: &str,
        lane: &ToolLane,
        input: &LaneInput<ToolExecReply>,
        now_ms: i64,
    ) -> LaneStep<ToolExecRequest> {
        let effect = match input {
            LaneInput::Record(record) | LaneInput::Claimed(record) => match &record.payload {
                Payload::Effect(effect) => Some(effect),
                _ => None,
            },
            LaneInput::Reply { .. } | LaneInput::Timer { .. } => lane.effect(),
        };
        let conversation = effect.map(|effect| effect.conversation.as_str());
        let span = tracing::info_span!(target: "tool-exec", "step", conversation, ce_id = key);
        let _entered = span.enter();
        let decided = decide::decide(&(self.registry)(), lane, input, now_ms);
        tracing::debug!(target: "tool-exec", mark = ?decided.mark, outputs = decided.outputs.len(), "decided");
        decided
    }

    fn apply(&self, lane: &mut ToolLane, message: &Message) -> Result<(), String> {
        decide::apply(lane, message);
        Ok(())
    }

    fn open_calls(&self, _lane: &ToolLane) -> Vec<Call<ToolExecRequest>> {
        // Lanes are rebuilt from their records, pending or claimed; there is nothing to ask again from here.
        Vec::new()
    }

    fn timers(&self, _lane: &ToolLane) -> Vec<(Id, i64)> {
        // Calls carry their deadline, and waits are timed by the conversation.
        Vec::new()
    }

    fn call_span(
        &self,
        key: &str,
        lane: Option<&ToolLane>,
        _call: &Id,
        request: &ToolExecRequest,
    ) -> tracing::Span {
        let effect = lane.and_then(ToolLane::effect);
        let (kind, tool) = match request {
            ToolExecRequest::Tool { request, .. } => ("call", Some(request.tool.as_str())),
            ToolExecRequest::Reconcile(request) => ("reconcile", Some(request.tool.as_str())),
            ToolExecRequest::Webhook { .. } => ("webhook", None),
        };
        tracing::info_span!(
            target: "tool-exec",
            "tool_call",
            conversation = effect.map(|effect| effect.conversation.as_str()),
            agent = effect.map(|effect| effect.agent.as_str()),
            branch = effect.map(|effect| effect.branch.as_str()),
            ce_id = key,
            kind,
            tool,
        )
    }
}

#[cfg(test)]
mod tests;
