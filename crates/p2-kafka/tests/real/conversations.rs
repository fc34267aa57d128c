//! The real processors and the real runtime on a real broker: the same as on the embedded log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_step::{AgentStep, RegistryHandle};
use async_trait::async_trait;
use p2_core::builtin;
use p2_core::ids::{AgentId, ConversationId, Id};
use p2_core::model::{ModelOutcome, ModelRequest};
use p2_core::record::{
    Artifact, ArtifactBody, Change, InboxBody, InboxMessage, Message, Payload, StateTransition, Topic,
    UserText,
};
use p2_core::state::State;
use p2_core::step::Settings;
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_model::router::{Router, RouterConfig};
use p2_stream::memory::MemoryStore;
use p2_stream::metrics::Metrics;
use p2_stream::ports::{Log, Model, StackStore};
use p2_stream::processor::Call;
use p2_stream::runtime::{Limits, Progress, Start};
use p2_stream::shell::{self, CallPort, Setup, ShellError, Views, now_ms};
use p2_stream::wire::{self, ProcessorWire};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tool_exec::toolbox::BuiltinToolbox;
use tool_exec::{HttpWebhook, ToolExec, ToolExecReply, ToolExecRequest, ToolPort};

use crate::broker::{self, create_topics, fresh_prefix};

struct ModelPort(Router);

#[async_trait]
impl CallPort<AgentStep> for ModelPort {
    async fn call(&self, _id: Id, request: ModelRequest, deadline_ms: i64) -> ModelOutcome {
        self.0.ask(&request, deadline_ms).await
    }
}

struct ToolCalls(ToolPort);

#[async_trait]
impl CallPort<ToolExec> for ToolCalls {
    async fn call(&self, id: Id, request: ToolExecRequest, deadline_ms: i64) -> ToolExecReply {
        self.0.carry_out(&Call { id, deadline_ms, request }).await
    }
}

/// What would be one process: both processors on a connection of their own.
struct Instance {
    stop: watch::Sender<bool>,
    processors: JoinSet<Result<(), ShellError>>,
    log: KafkaLog,
}

impl Instance {
    async fn start(config: &KafkaConfig, slot: &str, store: &MemoryStore, start: Start) -> Instance {
        let log = KafkaLog::connect(KafkaConfig { slot: slot.to_owned(), ..config.clone() }).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let setup = |name: &'static str| Setup {
            log: Arc::new(log.clone()) as Arc<dyn Log>,
            views: Views::Stacks(Arc::new(store.clone())),
            wire: Arc::new(ProcessorWire::new(name, |topic| log.partitions(topic))),
            limits: Limits { start, ..Limits::default() },
            nonce: u64::from(slot.bytes().fold(0u32, |hash, byte| hash * 31 + u32::from(byte))),
            stop: stopped.clone(),
            drain: Duration::from_secs(5),
            metrics: Metrics::default(),
        };
        let registry = RegistryHandle::new(builtin::registry());
        let router =
            Router::new(RouterConfig { providers: Vec::new(), scripts_dir: None }, |_| None).unwrap();
        let webhook = Arc::new(HttpWebhook::new(Arc::new(|_: &str| None)).unwrap());
        let tools = ToolPort::new(Arc::new(BuiltinToolbox::default()), webhook, Arc::new(now_ms));
        let agents = AgentStep::new(registry.clone(), Settings::default());
        let executor = ToolExec::new(move || registry.snapshot());
        let mut processors = JoinSet::new();
        processors.spawn(shell::run(agents, Arc::new(ModelPort(router)), setup("agent-step")));
        processors.spawn(shell::run(executor, Arc::new(ToolCalls(tools)), setup("tool-exec")));
        Instance { stop, processors, log }
    }

    async fn stop(mut self) {
        self.stop.send(true).unwrap();
        while let Some(ended) = self.processors.join_next().await {
            ended.unwrap().unwrap();
        }
        assert!(self.log.left(Duration::from_secs(10)).await);
    }
}

async fn say(log: &KafkaLog, conversation: &str, text: &str) -> Id {
    let id = Id::of_text(&format!("{conversation}/{text}"));
    let body = InboxBody::UserText(UserText {
        agent: Some(AgentId::from("agent_alpha")),
        branch: None,
        text: text.to_owned(),
    });
    let payload = Payload::Inbox(InboxMessage { conversation: ConversationId::from(conversation), body });
    let message =
        Message { id, cause: id, cause_position: None, time_ms: now_ms(), traceparent: None, payload };
    let record = wire::encode(&message, "/test", log.partitions(Topic::Inbox)).unwrap();
    log.append(vec![record]).await.unwrap();
    id
}

async fn messages(log: &KafkaLog, topic: Topic) -> Vec<Message> {
    let mut found = Vec::new();
    for partition in 0..log.partitions(topic) {
        let mut from = 0;
        loop {
            let records = log.read(topic, partition, from, 500).await.unwrap();
            let Some(last) = records.last() else { break };
            from = last.offset + 1;
            found.extend(records.iter().map(|stored| wire::decode(stored).unwrap()));
        }
    }
    found
}

fn states(transitions: &[StateTransition]) -> Vec<&State> {
    let changes = transitions.iter().flat_map(|transition| &transition.changes);
    changes
        .filter_map(|change| match change {
            Change::Appended(appended) => Some(&appended.entries),
            _ => None,
        })
        .flatten()
        .map(|entry| &entry.state)
        .filter(|state| !matches!(state, State::Waiting(_)))
        .collect()
}

fn is_done(transitions: &[StateTransition], questions: usize) -> bool {
    let states = states(transitions);
    let asked = states.iter().filter(|state| matches!(state, State::UserMessage(_))).count();
    let text =
        |state: &&&State| matches!(state, State::AssistantMessage(message) if !message.text.is_empty());
    asked == questions && states.last().as_ref().is_some_and(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_with_tools_end_once_each_while_instances_come_and_go() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    // The first start of a group with records before it is the operator's decision. One store for all, as the
    // real one is.
    let store = MemoryStore::default();
    let first = Instance::start(&config, "one", &store, Start::Earliest).await;
    let second = Instance::start(&config, "two", &store, Start::Earliest).await;
    let log = KafkaLog::connect(KafkaConfig { slot: "client".to_owned(), ..config.clone() }).await.unwrap();
    let names: Vec<String> = (0..12).map(|n| format!("conversation {n}")).collect();
    let mut inputs = Vec::new();
    for name in &names {
        inputs.push(say(&log, name, "What is the weather in Paris?").await);
    }
    // Each partition has been worked on, so the group has progress everywhere.
    for name in &names {
        let id = ConversationId::from(name.as_str());
        while store.load(&id).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // One goes in an orderly way and another one comes, both under load. It needs no decision: there is progress.
    first.stop().await;
    let third = Instance::start(&config, "three", &store, Start::Refuse).await;
    for name in &names {
        inputs.push(say(&log, name, "And what is the weather in Rome?").await);
    }
    all_done(&store, &names, 2).await;
    second.stop().await;
    third.stop().await;

    let mut log_of: BTreeMap<String, Vec<StateTransition>> = BTreeMap::new();
    for message in messages(&log, Topic::StateTransitions).await {
        let Payload::Transition(transition) = message.payload else { panic!("of another kind") };
        log_of.entry(transition.conversation.to_string()).or_default().push(transition);
    }
    for name in &names {
        let stored = store.load(&ConversationId::from(name.as_str())).await.unwrap();
        assert_eq!(stored, log_of[name], "the view of {name} is the fold of its log");
        let seqs: Vec<i64> = stored.iter().map(|transition| transition.seq).collect();
        assert_eq!(seqs, (0..seqs.len() as i64).collect::<Vec<_>>(), "{name}: no gap, nothing twice");
        let count = |is: fn(&State) -> bool| states(&stored).into_iter().filter(|state| is(state)).count();
        let calls = count(|state| matches!(state, State::ToolCall(_)));
        let results = count(|state| matches!(state, State::ToolResult(_)));
        // A question that comes while the first is worked on may share its call.
        assert!((1..=2).contains(&calls), "{name}: {calls} calls");
        assert_eq!(results, calls, "{name}: one result for each call");
    }
    demand_one_outcome_each(&log, &inputs).await;
}

/// Waits until every conversation answered so many questions.
async fn all_done(store: &MemoryStore, names: &[String], questions: usize) {
    let ended = async {
        loop {
            let mut done = 0;
            for name in names {
                let transitions = store.load(&ConversationId::from(name.as_str())).await.unwrap();
                done += usize::from(is_done(&transitions, questions));
            }
            if done == names.len() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), ended).await.is_err() {
        let id = ConversationId::from(names[0].as_str());
        panic!("not done in time: {:#?}", states(&store.load(&id).await.unwrap()));
    }
}

/// Every input was decided once, and every call was made once.
async fn demand_one_outcome_each(log: &KafkaLog, inputs: &[Id]) {
    let mut outcomes: BTreeMap<Id, usize> = BTreeMap::new();
    let mut runs: BTreeMap<Id, usize> = BTreeMap::new();
    for message in messages(log, Topic::Artifacts).await {
        let Payload::Artifact(Artifact { body, .. }) = message.payload else { panic!("of another kind") };
        match body {
            ArtifactBody::InputOutcome(it) => *outcomes.entry(it.input).or_default() += 1,
            ArtifactBody::ToolRun(run) => *runs.entry(run.effect).or_default() += 1,
            _ => {}
        }
    }
    assert!(runs.values().all(|runs| *runs == 1), "{runs:?}");
    assert!(outcomes.values().all(|outcomes| *outcomes == 1), "{outcomes:?}");
    for input in inputs {
        assert_eq!(outcomes.get(input), Some(&1), "one outcome for each input");
    }
}

/// Puts the progress of a group with nothing done in the place of what it has, as a coordinator does that lost a part
/// of its log. The group has no members.
fn forget(config: &KafkaConfig, group: &str, topic: &str, begun_ms: i64) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.brokers).set("group.id", format!("{}{group}", config.prefix));
    let client: BaseConsumer = client.create().unwrap();
    let old = Progress::at(0).begun(begun_ms).encode();
    let mut list = TopicPartitionList::new();
    for partition in 0..4 {
        let mut element = list.add_partition(&format!("{}{topic}", config.prefix), partition);
        element.set_offset(Offset::Offset(old.offset)).unwrap();
        element.set_metadata(&old.metadata);
    }
    client.commit(&list, CommitMode::Sync).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_whose_progress_a_coordinator_forgot_is_not_done_again() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    let begun_ms = now_ms();
    let store = MemoryStore::default();
    let instance = Instance::start(&config, "one", &store, Start::Earliest).await;
    let log = KafkaLog::connect(KafkaConfig { slot: "client".to_owned(), ..config.clone() }).await.unwrap();
    let names: Vec<String> = (0..8).map(|n| format!("conversation {n}")).collect();
    let mut inputs = Vec::new();
    for name in &names {
        inputs.push(say(&log, name, "What is the weather in Paris?").await);
    }
    all_done(&store, &names, 1).await;
    instance.stop().await;
    forget(&config, "p2.agent-step", &Topic::Inbox.name(), begun_ms);
    forget(&config, "p2.tool-exec", &Topic::Effects.name(), begun_ms);

    let instance = Instance::start(&config, "two", &store, Start::Refuse).await;
    for name in &names {
        inputs.push(say(&log, name, "And what is the weather in Rome?").await);
    }
    all_done(&store, &names, 2).await;
    instance.stop().await;
    demand_one_outcome_each(&log, &inputs).await;
}
