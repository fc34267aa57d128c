//! The engine of this process: the embedded log and store, and the processors on top of them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_step::{AgentStep, RegistryHandle};
use async_trait::async_trait;
use p2_core::builtin;
use p2_core::conversation::Conversation;
use p2_core::definition::{AgentKind, Definition};
use p2_core::ids::{ConversationId, Id};
use p2_core::model::{ModelOutcome, ModelRequest};
use p2_core::record::{
    Artifact, ArtifactBody, DeadLetter, EffectBody, InboxBody, InboxMessage, Message, Outcome, Payload,
    Position, RegistryRecord, Topic,
};
use p2_core::registry::Registry;
use p2_core::state::WaitKind;
use p2_core::step::{DedupPolicy, Settings};
use p2_embedded::{Durability, Embedded, EmbeddedLog, EmbeddedStore, Options};
use p2_model::router::{Router, RouterConfig};
use p2_stream::ports::{Log, LogError, MemberEvent, Model, NewRecord, StackStore, StoredRecord};
use p2_stream::runtime::{Limits, Start};
use p2_stream::shell::{self, CallPort, Setup, now_ms};
use p2_stream::wire::{self, ProcessorWire};
use p2_stream::{processor::Call, shell::ShellError};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tool_exec::toolbox::BuiltinToolbox;
use tool_exec::{HttpWebhook, ToolExec, ToolExecReply, ToolExecRequest, ToolPort};

use crate::config::Config;
use crate::engine::{
    ArtifactFilter, ConversationLine, Engine, EngineError, EngineResult, InDoubt, RecordView, RecordsQuery,
    Resolution, TopicCount, VerifyReport,
};

/// Records read from the log at a time.
const READ_RECORDS_MAX: usize = 1_000;
/// How long a stop waits for what is under way.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a read waits for the store to catch up with the log.
const STORE_LAG_MAX: Duration = Duration::from_secs(5);
/// Outcomes kept for those who wait for one.
const OUTCOMES_MAX: usize = 100_000;
/// Source of records that the CLI and the HTTP API write.
const SOURCE: &str = "/p2/api";

/// What the tail of `artifacts` has shown since this process started.
#[derive(Default)]
struct Seen {
    outcomes: Mutex<HashMap<Id, Outcome>>,
    changed: Notify,
}

/// The engine of this process.
pub(crate) struct LocalEngine {
    log: EmbeddedLog,
    store: EmbeddedStore,
    registry: RegistryHandle,
    seen: Arc<Seen>,
    stop: watch::Sender<bool>,
    processors: Mutex<Vec<JoinHandle<Result<(), ShellError>>>>,
}

impl LocalEngine {
    /// Opens the data directory, reads the registry to its end and starts the processors.
    ///
    /// # Errors
    /// Where the directory is in use, damaged or of a newer format, or a setting does not fit.
    pub(crate) async fn open(config: &Config) -> EngineResult<Arc<LocalEngine>> {
        let durability = match config.durability.value.as_str() {
            "interval" => Durability::Interval { ms: 100 },
            _ => Durability::Commit,
        };
        let specs = p2_stream::topics::specs().map_err(EngineError::Internal)?;
        let partitions = Topic::ALL.into_iter().zip(specs.iter().map(|spec| spec.partitions)).collect();
        let options = Options { durability, partitions };
        let dir = config.data_dir.value.clone();
        let opened = tokio::task::spawn_blocking(move || Embedded::open(dir, &options)).await;
        let embedded = opened
            .map_err(|error| EngineError::Internal(error.to_string()))?
            .map_err(|error| EngineError::Unavailable(error.to_string()))?;
        if let Some(dropped) = &embedded.report().dropped {
            tracing::warn!(?dropped, "the torn tail of a commit that was never acknowledged was dropped");
        }
        let log = embedded.log();
        let registry = RegistryHandle::new(base_registry(&config.model.value));
        for stored in read_all(&log, Topic::Registry, 0).await? {
            if let Payload::Registry(record) = decode(&stored)?.payload {
                registry.apply(&record).map_err(EngineError::Internal)?;
            }
        }
        load_agents_file(config, &registry)?;
        let (stop, _) = watch::channel(false);
        let engine = Arc::new(LocalEngine {
            log,
            store: embedded.store(),
            registry,
            seen: Arc::default(),
            stop,
            processors: Mutex::default(),
        });
        engine.start(config).await?;
        Ok(engine)
    }

    /// Stops the processors: what is under way is finished and committed.
    pub(crate) async fn close(&self) -> EngineResult<()> {
        let _ = self.stop.send(true);
        let handles = std::mem::take(&mut *self.processors.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in handles {
            let ended = handle.await.map_err(|error| EngineError::Internal(error.to_string()))?;
            ended.map_err(|error| EngineError::Internal(error.to_string()))?;
        }
        Ok(())
    }

    async fn start(&self, config: &Config) -> EngineResult<()> {
        let settings = settings_of(config);
        let router = router_of(config)?;
        let webhook = HttpWebhook::new().map_err(EngineError::Internal)?;
        let tools = ToolPort::new(Arc::new(BuiltinToolbox::default()), Arc::new(webhook), Arc::new(now_ms));
        self.tail().await?;
        let agents = AgentStep::new(self.registry.clone(), settings);
        let handle = self.registry.clone();
        let executor = ToolExec::new(move || handle.snapshot());
        let agent_step = shell::run(agents, Arc::new(ModelPort(router)), self.setup("agent-step"));
        let tool_exec = shell::run(executor, Arc::new(ToolCalls(tools)), self.setup("tool-exec"));
        let handles = vec![watched("agent-step", agent_step), watched("tool-exec", tool_exec)];
        self.processors.lock().unwrap_or_else(PoisonError::into_inner).extend(handles);
        Ok(())
    }

    fn setup(&self, name: &'static str) -> Setup<ProcessorWire> {
        Setup {
            log: Arc::new(self.log.clone()),
            store: Arc::new(self.store.clone()),
            wire: Arc::new(ProcessorWire::new(name, |topic| self.log.partitions(topic))),
            // Progress and records are in one journal here, so a group without progress is a new one.
            limits: Limits { start: Start::Earliest, ..Limits::default() },
            nonce: rand::random(),
            stop: self.stop.subscribe(),
            drain: DRAIN,
            metrics: p2_stream::metrics::Metrics::default(),
        }
    }

    /// Follows `artifacts` from its end: outcomes for those who wait, and a wake-up on every change.
    async fn tail(&self) -> EngineResult<()> {
        let mut member = self.log.join("p2.local-api", &[Topic::Artifacts]).await.map_err(engine_error)?;
        let mut ends = BTreeMap::new();
        for partition in 0..self.log.partitions(Topic::Artifacts) {
            let (_, end) = self.log.bounds(Topic::Artifacts, partition).await.map_err(engine_error)?;
            ends.insert(partition, end);
        }
        let (seen, mut stop) = (self.seen.clone(), self.stop.subscribe());
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = member.next() => event,
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                match event {
                    Ok(MemberEvent::Assigned { topic, partition, .. }) => {
                        let end = ends.get(&partition).copied().unwrap_or(0);
                        if let Err(error) = member.seek(topic, partition, end).await {
                            tracing::error!(%error, "the tail of artifacts cannot start");
                        }
                    }
                    Ok(MemberEvent::Records { records, .. }) => seen.take(&records),
                    // Artifacts are kept for ever.
                    Ok(MemberEvent::Revoked { .. } | MemberEvent::Truncated { .. }) => {}
                    Err(error) => {
                        tracing::error!(%error, "the tail of artifacts ended");
                        return;
                    }
                }
            }
        });
        Ok(())
    }

    async fn append_messages(&self, messages: &[Message]) -> EngineResult<Vec<Position>> {
        let encode = |message: &Message| {
            wire::encode(message, SOURCE, self.log.partitions(message.payload.topic()))
                .map_err(|error| EngineError::Invalid(error.to_string()))
        };
        let records: Vec<NewRecord> = messages.iter().map(encode).collect::<EngineResult<_>>()?;
        self.log.append(records).await.map_err(engine_error)
    }

    /// Waits until the store shows everything that is committed for a conversation's partition.
    async fn store_is_current(&self, conversation: &ConversationId) -> EngineResult<()> {
        let partitions = self.log.partitions(Topic::StateTransitions);
        let partition = wire::partition(conversation.as_str(), partitions);
        let (_, end) = self.log.bounds(Topic::StateTransitions, partition).await.map_err(engine_error)?;
        let begin = Instant::now();
        while self.store.applied(partition).await.map_err(internal)? < end {
            if begin.elapsed() > STORE_LAG_MAX {
                let late = format!("the view of partition {partition} is behind the log; try again");
                return Err(EngineError::Timeout(late));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn fold_of_store(&self, id: &ConversationId) -> EngineResult<Option<Conversation>> {
        let transitions = self.store.load(id).await.map_err(internal)?;
        if transitions.is_empty() {
            return Ok(None);
        }
        let mut conversation = Conversation::default();
        for transition in &transitions {
            conversation.apply(transition).map_err(internal)?;
        }
        Ok(Some(conversation))
    }

    async fn messages(&self, topic: Topic, key: Option<&str>) -> EngineResult<Vec<(Position, Message)>> {
        let partitions = self.log.partitions(topic);
        let wanted = key.map(|key| wire::partition(key, partitions));
        let mut found = Vec::new();
        for partition in (0..partitions).filter(|index| wanted.is_none_or(|wanted| wanted == *index)) {
            for stored in read_all(&self.log, topic, partition).await? {
                let message = decode(&stored)?;
                if key.is_none_or(|key| message.payload.key() == key) {
                    found.push((stored.position(), message));
                }
            }
        }
        Ok(found)
    }
}

impl Seen {
    fn take(&self, records: &[StoredRecord]) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        for stored in records {
            let Ok(message) = wire::decode(stored) else { continue };
            if let Payload::Artifact(Artifact { body: ArtifactBody::InputOutcome(it), .. }) = message.payload
            {
                if outcomes.len() >= OUTCOMES_MAX {
                    outcomes.clear();
                }
                outcomes.entry(it.input).or_insert(it.outcome);
            }
        }
        drop(outcomes);
        self.changed.notify_waiters();
    }

    fn outcome(&self, input: Id) -> Option<Outcome> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).get(&input).cloned()
    }
}

/// Carries out model calls.
struct ModelPort(Router);

#[async_trait]
impl CallPort<AgentStep> for ModelPort {
    async fn call(&self, _id: Id, request: ModelRequest, deadline_ms: i64) -> ModelOutcome {
        self.0.ask(&request, deadline_ms).await
    }
}

/// Carries out tool calls and webhooks.
struct ToolCalls(ToolPort);

#[async_trait]
impl CallPort<ToolExec> for ToolCalls {
    async fn call(&self, id: Id, request: ToolExecRequest, deadline_ms: i64) -> ToolExecReply {
        self.0.carry_out(&Call { id, deadline_ms, request }).await
    }
}

fn watched(
    name: &'static str,
    processor: impl Future<Output = Result<(), ShellError>> + Send + 'static,
) -> JoinHandle<Result<(), ShellError>> {
    tokio::spawn(async move {
        let ended = processor.await;
        if let Err(error) = &ended {
            tracing::error!(processor = name, %error, "stopped");
        }
        ended
    })
}

/// The built-in definitions, their agents on the configured model.
fn base_registry(model: &str) -> Registry {
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

/// Definitions from the configured file stand in for built-ins, without being written to `registry`.
fn load_agents_file(config: &Config, registry: &RegistryHandle) -> EngineResult<()> {
    let Some(file) = &config.agents_file else { return Ok(()) };
    let text = read_text(&file.value)?;
    for record in crate::wiring::records_of(&text, &file.value.display().to_string(), &registry.snapshot())? {
        registry.apply(&record).map_err(EngineError::Invalid)?;
    }
    Ok(())
}

fn read_text(path: &Path) -> EngineResult<String> {
    std::fs::read_to_string(path)
        .map_err(|error| EngineError::Invalid(format!("{}: {error}", path.display())))
}

fn settings_of(config: &Config) -> Settings {
    let dedup = match config.dedup.value.as_str() {
        "penalty" => DedupPolicy::Penalty,
        "strict" => DedupPolicy::Strict,
        _ => DedupPolicy::None,
    };
    Settings {
        dedup,
        allow_unknown_agents: config.allow_unknown_agents.value,
        default_model: config.model.value.clone(),
    }
}

fn router_of(config: &Config) -> EngineResult<Router> {
    let env = |name: &str| match name {
        "OPENAI_API_KEY" => config.openai_api_key.as_ref().map(|key| key.value.expose().to_owned()),
        "OPENAI_BASE_URL" => {
            Some(config.openai_base_url.value.clone()).filter(|_| config.openai_base_url.source != "default")
        }
        other => std::env::var(other).ok(),
    };
    let scripts_dir = Some("scripts".into());
    Router::new(RouterConfig { providers: Vec::new(), scripts_dir }, env)
        .map_err(|error| EngineError::Invalid(error.to_string()))
}

async fn read_all(log: &EmbeddedLog, topic: Topic, partition: i32) -> EngineResult<Vec<StoredRecord>> {
    let (mut from, _) = log.bounds(topic, partition).await.map_err(engine_error)?;
    let mut all = Vec::new();
    loop {
        let more = log.read(topic, partition, from, READ_RECORDS_MAX).await.map_err(engine_error)?;
        let Some(last) = more.last() else { return Ok(all) };
        from = last.offset + 1;
        all.extend(more);
    }
}

fn decode(stored: &StoredRecord) -> EngineResult<Message> {
    wire::decode(stored).map_err(|error| {
        let at = stored.position();
        EngineError::Internal(format!("{}/{}/{}: {error}", at.topic.name(), at.partition, at.offset))
    })
}

fn engine_error(error: LogError) -> EngineError {
    match error {
        LogError::Unavailable(reason) => EngineError::Unavailable(reason),
        LogError::NotFound(reason) => EngineError::NotFound(reason),
        LogError::TooLarge(reason) => EngineError::Invalid(reason),
        LogError::Corrupt(reason) | LogError::Refused(reason) => EngineError::Internal(reason),
    }
}

fn internal(error: impl std::fmt::Display) -> EngineError {
    EngineError::Internal(error.to_string())
}

fn message(id: Id, payload: Payload) -> Message {
    Message { id, cause: id, cause_position: None, time_ms: now_ms(), traceparent: None, payload }
}

#[async_trait]
impl Engine for LocalEngine {
    async fn append(&self, id: Id, inbox: InboxMessage) -> EngineResult<()> {
        self.append_messages(&[message(id, Payload::Inbox(inbox))]).await.map(drop)
    }

    async fn outcome(
        &self,
        conversation: &ConversationId,
        input: Id,
        timeout: Duration,
    ) -> EngineResult<Option<Outcome>> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let mut changed = std::pin::pin!(self.seen.changed.notified());
            // Registered before the look, so that no change between look and wait is missed.
            changed.as_mut().enable();
            if let Some(outcome) = self.seen.outcome(input) {
                self.store_is_current(conversation).await?;
                return Ok(Some(outcome));
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                // It may be older than this process.
                let conversation = self.conversation(conversation).await?;
                return Ok(conversation.and_then(|it| it.seen.get(&input).cloned()));
            }
        }
    }

    async fn conversation(&self, id: &ConversationId) -> EngineResult<Option<Conversation>> {
        self.store_is_current(id).await?;
        self.fold_of_store(id).await
    }

    async fn conversations(&self) -> EngineResult<Vec<ConversationLine>> {
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
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let mut changed = std::pin::pin!(self.seen.changed.notified());
            changed.as_mut().enable();
            let now = self.conversation(id).await?;
            if now.as_ref().is_some_and(|now| now.next_seq > seen_seq) {
                return Ok(now);
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Ok(now);
            }
        }
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

    async fn records(&self, query: &RecordsQuery) -> EngineResult<Vec<RecordView>> {
        let mut views = Vec::new();
        for partition in 0..self.log.partitions(query.topic) {
            if query.partition.is_some_and(|wanted| wanted != partition) {
                continue;
            }
            let (start, end) = self.log.bounds(query.topic, partition).await.map_err(engine_error)?;
            let from = if query.from < 0 { (end + query.from).max(start) } else { query.from };
            let records =
                self.log.read(query.topic, partition, from, query.max).await.map_err(engine_error)?;
            for stored in records {
                views.push(RecordView::new(stored.position(), &decode(&stored)?)?);
            }
        }
        Ok(views)
    }

    async fn registry(&self) -> EngineResult<Registry> {
        Ok(Registry::clone(&self.registry.snapshot()))
    }

    async fn apply(&self, records: Vec<RegistryRecord>) -> EngineResult<()> {
        let messages: Vec<Message> = records
            .iter()
            .map(|record| message(crate::engine::draw_id(), Payload::Registry(record.clone())))
            .collect();
        self.append_messages(&messages).await?;
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

    /// The record is written again to the topic that only its group consumes, under an id derived from the
    /// letter: a second replay of the same letter is a duplicate.
    async fn replay_dead_letter(&self, letter: Id, force: bool) -> EngineResult<()> {
        let letters = self.dead_letters().await?;
        let Some(letter) = letters.into_iter().find(|known| known.id == letter) else {
            return Err(EngineError::NotFound(format!("there is no dead letter {letter}")));
        };
        let topic = Topic::parse(&letter.topic)
            .filter(|topic| matches!(topic, Topic::Inbox | Topic::Effects))
            .ok_or_else(|| EngineError::Invalid(format!("records of '{}' are not replayed", letter.topic)))?;
        let record = NewRecord {
            topic,
            partition: letter.partition,
            key: letter.key.clone(),
            headers: letter.headers.clone(),
            value: letter.value.clone(),
            time_ms: now_ms(),
        };
        let original = wire::decode(&StoredRecord { offset: letter.offset, record }).map_err(|error| {
            let code = error.code().to_owned();
            EngineError::Refused { code, message: format!("still unreadable: {error}") }
        })?;
        let id = if force { crate::engine::draw_id() } else { Id::derive(&letter.id, "replay", 0) };
        let again = Message { id, cause: letter.id, time_ms: now_ms(), ..original };
        self.append_messages(&[again]).await.map(drop)
    }

    async fn in_doubt(&self) -> EngineResult<Vec<InDoubt>> {
        let mut found = Vec::new();
        for line in self.conversations().await?.into_iter().filter(|line| line.open_waits > 0) {
            let Some(conversation) = self.conversation(&line.id).await? else { continue };
            let timed: Vec<Id> = conversation.timers().into_iter().map(|(id, _)| id).collect();
            let doubtful = |wait: &Id| {
                let open = conversation.waits.get(wait);
                open.is_some_and(|open| open.waiting.kind == WaitKind::Tool) && !timed.contains(wait)
            };
            for (_, message) in self.messages(Topic::Effects, Some(line.id.as_str())).await? {
                let Payload::Effect(effect) = message.payload else { continue };
                let EffectBody::CallTool(call) = effect.body else { continue };
                if doubtful(&call.wait) {
                    found.push(InDoubt {
                        effect: effect.id,
                        wait: call.wait,
                        call_id: call.call_id,
                        conversation: line.id.clone(),
                        agent: effect.agent.0,
                        tool: call.tool,
                        arguments: call.arguments.0,
                        since_ms: effect.not_after_ms.unwrap_or(message.time_ms),
                        detail: "the call may or may not have been made".to_owned(),
                    });
                }
            }
        }
        found.sort_by_key(|doubt| doubt.since_ms);
        Ok(found)
    }

    async fn resolve(&self, effect: Id, resolution: Resolution) -> EngineResult<()> {
        let doubts = self.in_doubt().await?;
        let Some(doubt) = doubts.iter().find(|doubt| doubt.effect == effect) else {
            return Err(EngineError::NotFound(format!(
                "effect {effect} is not in doubt: see 'effects in-doubt list'"
            )));
        };
        let body = InboxBody::ToolOutcome(resolution.outcome(doubt));
        let inbox = InboxMessage { conversation: doubt.conversation.clone(), body };
        let id = Id::derive(&effect, "resolved", 0);
        self.append(id, inbox).await?;
        match self.outcome(&doubt.conversation, id, crate::engine::OUTCOME_TIMEOUT).await? {
            Some(_) => Ok(()),
            None => Err(EngineError::Timeout("stored, but not processed in time".to_owned())),
        }
    }

    async fn verify_replay(&self) -> EngineResult<VerifyReport> {
        let mut report = VerifyReport::default();
        for partition in 0..self.log.partitions(Topic::StateTransitions) {
            let mut folds: BTreeMap<ConversationId, Conversation> = BTreeMap::new();
            for stored in read_all(&self.log, Topic::StateTransitions, partition).await? {
                let Payload::Transition(transition) = decode(&stored)?.payload else { continue };
                report.transitions += 1;
                let fold = folds.entry(transition.conversation.clone()).or_default();
                if let Err(error) = fold.apply(&transition) {
                    report.differences.push(error.to_string());
                }
            }
            for (id, fold) in folds {
                report.conversations += 1;
                self.store_is_current(&id).await?;
                let live = self.fold_of_store(&id).await?;
                // The conversation may have gone on since the log was read: then the fold is a prefix.
                if live.as_ref() != Some(&fold) && live.is_none_or(|live| live.next_seq <= fold.next_seq) {
                    report.differences.push(format!("conversation '{id}': the live view is not the fold"));
                }
            }
        }
        Ok(report)
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
