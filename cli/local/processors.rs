//! The processors that run in this process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_step::{AgentStep, RegistryHandle};
use evaluator::{Evaluators, JudgePort};
use p2_canton::CantonLedger;
use p2_stream::metrics::Metrics;
use p2_stream::ports::{LedgerStore, Log, StackStore};
use p2_stream::runtime::Limits;
use p2_stream::shell::{self, Setup, ShellError, Views, now_ms};
use p2_stream::wire::ProcessorWire;
use settlement::{NoPort, OutsidePort, OutsideSettlement, Settlement};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tool_exec::{HttpWebhook, ToolExec, ToolPort};

use super::dev_tools;
use super::setup::{Judges, ModelPort, ToolCalls, router_of, settings_of, watched};
use crate::backend::INPUTS;
use crate::config::Config;
use crate::engine::{EngineError, EngineResult};

/// How long a stop waits for what is under way.
const DRAIN: Duration = Duration::from_secs(10);

/// What a processor works on.
pub(crate) struct Ground {
    /// The log, under a slot of this process.
    pub log: Arc<dyn Log>,
    /// The view of conversations.
    pub store: Arc<dyn StackStore>,
    /// The view of the books.
    pub ledger: Arc<dyn LedgerStore>,
    /// Limits.
    pub limits: Limits,
}

/// Processors at work, and how they are stopped.
pub(crate) struct Processors {
    registry: RegistryHandle,
    metrics: Metrics,
    stop: watch::Sender<bool>,
    failed: watch::Sender<Option<String>>,
    running: Mutex<Vec<JoinHandle<Result<(), ShellError>>>>,
}

impl Processors {
    /// None yet.
    pub(crate) fn new(registry: RegistryHandle) -> Processors {
        Processors {
            registry,
            metrics: Metrics::new(),
            stop: watch::channel(false).0,
            failed: watch::channel(None).0,
            running: Mutex::default(),
        }
    }

    /// What they count.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Turns true when it is time to stop.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Starts the processor of that name.
    ///
    /// # Errors
    /// For a name that is not in [`INPUTS`], or settings that do not fit it.
    pub(crate) fn start(&self, name: &str, config: &Config, ground: Ground) -> EngineResult<()> {
        let failed = self.failed.clone();
        let running = match name {
            "agent-step" => {
                let port = Arc::new(ModelPort(router_of(config)?));
                let agents = AgentStep::new(self.registry.clone(), settings_of(config));
                watched("agent-step", shell::run(agents, port, self.setup("agent-step", ground)), failed)
            }
            "tool-exec" => {
                let webhook = HttpWebhook::new(Arc::new(|name| std::env::var(name).ok()))
                    .map_err(EngineError::Internal)?;
                let tools = ToolPort::new(dev_tools::toolbox(), Arc::new(webhook), Arc::new(now_ms));
                let registry = self.registry.clone();
                let executor = ToolExec::new(move || registry.snapshot());
                let port = Arc::new(ToolCalls(tools));
                watched("tool-exec", shell::run(executor, port, self.setup("tool-exec", ground)), failed)
            }
            "evaluator" => {
                let (registry, looked_up) = (self.registry.clone(), self.registry.clone());
                let model = Arc::new(router_of(config)?);
                let (store, log) = (Arc::clone(&ground.store), Arc::clone(&ground.log));
                let judges = JudgePort::new(model, store, log, move || registry.snapshot(), Arc::new(now_ms));
                let evaluators = Evaluators::new(move || looked_up.snapshot());
                let port = Arc::new(Judges(judges));
                watched("evaluator", shell::run(evaluators, port, self.setup("evaluator", ground)), failed)
            }
            "settlement" => {
                let setup = self.setup("settlement", ground);
                match &config.canton {
                    None => watched("settlement", shell::run(Settlement, Arc::new(NoPort), setup), failed),
                    Some(canton) => {
                        let ledger = CantonLedger::new(canton.value.clone())
                            .map_err(|error| EngineError::Invalid(error.to_string()))?;
                        let port = Arc::new(OutsidePort::new(Arc::new(ledger)));
                        let books = OutsideSettlement::default();
                        watched("settlement", shell::run(books, port, setup), failed)
                    }
                }
            }
            other => {
                let known = INPUTS.map(|(name, _)| name).join(", ");
                return Err(EngineError::Invalid(format!("there is no processor '{other}', but: {known}")));
            }
        };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(running);
        Ok(())
    }

    fn setup(&self, name: &'static str, ground: Ground) -> Setup<ProcessorWire> {
        let Ground { log, store, ledger, limits } = ground;
        let views = match name {
            "settlement" => Views::Ledger(ledger),
            "agent-step" => Views::Stacks(store),
            _ => Views::None,
        };
        let partitions = Arc::clone(&log);
        Setup {
            wire: Arc::new(ProcessorWire::new(name, |topic| partitions.partitions(topic))),
            log,
            views,
            limits,
            nonce: rand::random(),
            stop: self.stop.subscribe(),
            drain: DRAIN,
            metrics: self.metrics.clone(),
        }
    }

    /// Ends when a processor has failed, with the reason.
    pub(crate) async fn failed(&self) -> EngineError {
        let mut failed = self.failed.subscribe();
        match failed.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(reason) => EngineError::Internal(reason.unwrap_or_default()),
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops them: what is under way is finished and committed.
    pub(crate) async fn close(&self) -> EngineResult<()> {
        let _ = self.stop.send(true);
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in running {
            let ended = handle.await.map_err(|error| EngineError::Internal(error.to_string()))?;
            ended.map_err(|error| EngineError::Internal(error.to_string()))?;
        }
        Ok(())
    }
}
