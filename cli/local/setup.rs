//! What the processors of this process are made of: settings, definitions, models, tools.

use std::path::Path;

use agent_step::{AgentStep, RegistryHandle};
use async_trait::async_trait;
use evaluator::{Evaluators, JudgePort, JudgeRequest, Ruling};
use p2_core::builtin;
use p2_core::definition::{AgentKind, Definition};
use p2_core::ids::Id;
use p2_core::model::{ModelOutcome, ModelRequest};
use p2_core::record::RegistryRecord;
use p2_core::registry::Registry;
use p2_core::step::{DedupPolicy, Settings};
use p2_model::router::{Router, RouterConfig};
use p2_stream::ports::Model;
use p2_stream::processor::Call;
use p2_stream::shell::{CallPort, ShellError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tool_exec::{ToolExec, ToolExecReply, ToolExecRequest, ToolPort};

use crate::config::Config;
use crate::engine::{EngineError, EngineResult};

/// Carries out model calls.
pub(super) struct ModelPort(pub(super) Router);

#[async_trait]
impl CallPort<AgentStep> for ModelPort {
    async fn call(&self, _id: Id, request: ModelRequest, deadline_ms: i64) -> ModelOutcome {
        let outcome = self.0.ask(&request, deadline_ms).await;
        let (attempt, latency_ms) = (outcome.attempts, outcome.latency_ms);
        match &outcome.result {
            Ok(reply) => tracing::info!(
                target: "agent-step",
                attempt,
                latency_ms,
                prompt_tokens = reply.prompt_tokens,
                completion_tokens = reply.completion_tokens,
                tool_calls = reply.tool_calls.len(),
                "model answered"
            ),
            Err(error) => tracing::warn!(target: "agent-step", attempt, latency_ms, %error, "model failed"),
        }
        outcome
    }
}

/// Carries out tool calls and webhooks.
pub(super) struct ToolCalls(pub(super) ToolPort);

#[async_trait]
impl CallPort<ToolExec> for ToolCalls {
    async fn call(&self, id: Id, request: ToolExecRequest, deadline_ms: i64) -> ToolExecReply {
        self.0.carry_out(&Call { id, deadline_ms, request }).await
    }
}

/// Has targets judged.
pub(super) struct Judges(pub(super) JudgePort);

#[async_trait]
impl CallPort<Evaluators> for Judges {
    async fn call(&self, _id: Id, request: JudgeRequest, deadline_ms: i64) -> Vec<Ruling> {
        self.0.judge(&request, deadline_ms).await
    }
}

/// Runs a processor; a failure is logged and told.
pub(super) fn watched(
    name: &'static str,
    processor: impl Future<Output = Result<(), ShellError>> + Send + 'static,
    failed: watch::Sender<Option<String>>,
) -> JoinHandle<Result<(), ShellError>> {
    tokio::spawn(async move {
        let ended = processor.await;
        if let Err(error) = &ended {
            tracing::error!(target: "p2engine", processor = name, %error, "stopped");
            failed.send_replace(Some(format!("the processor {name} stopped: {error}")));
        }
        ended
    })
}

/// The built-in definitions, their agents on the configured model.
pub(super) fn base_registry(model: &str) -> Registry {
    let mut registry = Registry::default();
    for mut definition in builtin::definitions() {
        if let Definition::Agent(agent) = &mut definition
            && let AgentKind::Llm(llm) = &mut agent.kind
        {
            model.clone_into(&mut llm.model);
        }
        registry.insert(definition, 0);
    }
    registry
}

/// What the configured file changes, taken in; the caller writes it to `registry`, so that conversations find the
/// versions that they pinned whatever the file says later.
pub(super) fn load_agents_file(
    config: &Config,
    registry: &RegistryHandle,
) -> EngineResult<Vec<RegistryRecord>> {
    let Some(file) = &config.agents_file else { return Ok(Vec::new()) };
    let text = read_text(&file.value)?;
    let path = file.value.display().to_string();
    let records = crate::wiring::records_of(&[(path, text)], &registry.snapshot())?;
    for record in &records {
        registry.apply(record).map_err(EngineError::Invalid)?;
    }
    Ok(records)
}

fn read_text(path: &Path) -> EngineResult<String> {
    std::fs::read_to_string(path)
        .map_err(|error| EngineError::Invalid(format!("{}: {error}", path.display())))
}

pub(super) fn settings_of(config: &Config) -> Settings {
    let dedup = match config.dedup.value.as_str() {
        "penalty" => DedupPolicy::Penalty,
        "strict" => DedupPolicy::Strict,
        _ => DedupPolicy::None,
    };
    Settings {
        dedup,
        allow_unknown_agents: config.allow_unknown_agents.value,
        default_model: config.model.value.clone(),
        ..Settings::default()
    }
}

pub(crate) fn router_of(config: &Config) -> EngineResult<Router> {
    let env = |name: &str| match name {
        "OPENAI_API_KEY" => config.openai_api_key.as_ref().map(|key| key.value.expose().to_owned()),
        "OPENAI_BASE_URL" => {
            Some(config.openai_base_url.value.clone()).filter(|_| config.openai_base_url.source != "default")
        }
        other => std::env::var(other).ok(),
    };
    let scripts_dir = Some(config.scripts_dir.value.clone());
    Router::new(RouterConfig { providers: Vec::new(), scripts_dir }, env)
        .map_err(|error| EngineError::Invalid(error.to_string()))
}
