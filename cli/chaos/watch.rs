//! A reader that reads along while everything breaks, and what it has read so far.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2_core::conversation::Conversation;
use p2_core::definition::Executor;
use p2_core::ids::{ConversationId, Id};
use p2_core::record::{
    ArtifactBody, Change, Effect, EffectBody, InboxBody, Message, Payload, StateTransition, Topic,
};
use p2_core::registry::Registry;
use p2_core::state::{State, ToolStatus, WaitKind};
use p2_stream::ports::{Log, LogError, StoredRecord};
use p2_stream::wire;
use tokio::task::JoinHandle;

use super::evidence::TOPICS;
use super::history::{Event, History};
use super::judging::Judging;
use super::money::Money;
use super::writer::Acknowledged;
use crate::engine::EngineResult;

/// How soon a reader that failed is made again.
const AGAIN: Duration = Duration::from_millis(500);

/// What was read so far.
#[derive(Default)]
pub(crate) struct World {
    /// Up to where each partition was read.
    pub(crate) next: BTreeMap<(Topic, i32), i64>,
    /// Every conversation, folded.
    pub(crate) conversations: BTreeMap<ConversationId, Conversation>,
    /// Requests to people, per conversation.
    pub(crate) requests: BTreeMap<ConversationId, Vec<Id>>,
    /// Tool calls, by effect.
    pub(crate) effects: BTreeMap<Id, Effect>,
    /// The tool calls of each conversation.
    pub(crate) effects_of: BTreeMap<ConversationId, Vec<Id>>,
    /// Effects that are said to be in doubt.
    pub(crate) in_doubt: BTreeSet<Id>,
    /// Payment requests and books.
    pub(crate) money: Money,
    /// What was to be judged and was.
    judging: Judging,
    /// Ids of messages that lie in the inbox.
    inbox: BTreeSet<Id>,
    /// Inputs that have an outcome.
    outcomes: BTreeSet<Id>,
    letters: usize,
    /// Records so far.
    pub(crate) records: u64,
    /// A transition that does not follow, or anything else that cannot be.
    broken: Option<String>,
}

impl World {
    /// Takes the next record of its partition. Its id, where it can be read.
    pub(crate) fn take(&mut self, record: &StoredRecord) -> Option<Id> {
        self.records += 1;
        let message = wire::decode(record).ok()?;
        let id = message.id;
        self.message(message);
        Some(id)
    }

    fn message(&mut self, message: Message) {
        match message.payload {
            Payload::Inbox(inbox) => {
                self.inbox.insert(message.id);
                if let InboxBody::ToolOutcome(outcome) = &inbox.body {
                    match outcome.status {
                        ToolStatus::InDoubt => self.in_doubt.insert(outcome.effect),
                        _ => self.in_doubt.remove(&outcome.effect),
                    };
                }
            }
            Payload::Transition(transition) => self.transition(&transition),
            Payload::Effect(effect) => {
                if matches!(effect.body, EffectBody::CallTool(_)) {
                    self.effects_of.entry(effect.conversation.clone()).or_default().push(effect.id);
                    self.effects.insert(effect.id, effect);
                }
            }
            Payload::Artifact(artifact) => {
                self.judging.take(&artifact);
                if let ArtifactBody::InputOutcome(outcome) = &artifact.body {
                    self.outcomes.insert(outcome.input);
                }
            }
            Payload::DeadLetter(_) => self.letters += 1,
            Payload::PaymentRequest(request) => self.money.request(message.id, &request),
            Payload::LedgerTransaction(made) => {
                if let Err(why) = self.money.transaction(&made) {
                    self.broken.get_or_insert(why);
                }
            }
            Payload::Registry(_) => {}
        }
    }

    fn transition(&mut self, transition: &StateTransition) {
        let key = &transition.conversation;
        for change in &transition.changes {
            let Change::Appended(appended) = change else { continue };
            for entry in &appended.entries {
                if let State::UserInputRequest(request) = &entry.state {
                    self.requests.entry(key.clone()).or_default().push(request.id);
                }
            }
        }
        if let Err(error) = self.conversations.entry(key.clone()).or_default().apply(transition) {
            self.broken.get_or_insert_with(|| error.to_string());
        }
    }

    /// What still has to happen before everything is at rest; none where it is.
    pub(crate) fn unrest(&mut self, said: &Acknowledged, registry: &Registry) -> Option<String> {
        if let Some(broken) = &self.broken {
            return Some(broken.clone());
        }
        let missing = |what: &str, ids: Vec<Id>| {
            let first = ids.first()?;
            Some(format!("{} {what}, first {first}", ids.len()))
        };
        let unread: Vec<Id> = said.inputs.difference(&self.inbox).copied().collect();
        let undecided: Vec<Id> = self.inbox.difference(&self.outcomes).copied().collect();
        let unanswered = self.effects.values().filter(|effect| {
            let EffectBody::CallTool(call) = &effect.body else { return false };
            let tool = registry.tool(&call.tool, Some(call.version));
            let ours = tool.is_none_or(|(_, tool)| tool.executor == Executor::Builtin);
            ours && !self.inbox.contains(&Id::derive(&effect.id, "outcome", 0))
        });
        missing("acknowledged inputs are not read yet", unread)
            .or_else(|| missing("inputs have no outcome", undecided))
            .or_else(|| missing("effects have no answer", unanswered.map(|effect| effect.id).collect()))
            .or_else(|| {
                (self.letters < said.poison).then(|| format!("{} letters of {}", self.letters, said.poison))
            })
            .or_else(|| self.conversations.values().find_map(open_wait))
            .or_else(|| self.money.unrest(&said.requests))
            .or_else(|| self.judging.unrest(registry, &self.conversations))
    }
}

/// A wait that ends by itself.
fn open_wait(conversation: &Conversation) -> Option<String> {
    let ends = conversation.waits.iter().find(|(_, wait)| match wait.waiting.kind {
        WaitKind::UserInput => false,
        WaitKind::Tool => wait.waiting.deadline_ms.is_some(),
        WaitKind::Agent => conversation.deadline(wait).is_some(),
        WaitKind::Llm | WaitKind::Payment => !conversation.paused,
    });
    let (id, wait) = ends?;
    Some(format!("{}: wait {id} for {} is open", conversation.id, wait.waiting.kind.as_str()))
}

/// The live reader; it ends when it is dropped.
pub(crate) struct Watch {
    world: Arc<Mutex<World>>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Reads every topic from its beginning on, notes what it sees that was not noted before, and never gives up.
    ///
    /// # Errors
    /// The history cannot be read.
    pub(crate) fn start(log: Arc<dyn Log>, history: Arc<History>) -> EngineResult<Watch> {
        let mut noted = Noted::new();
        for line in history.read()? {
            if let Event::Seen { topic, partition, offset, .. } = line.event {
                let known = noted.entry((topic, partition)).or_default();
                *known = offset.max(*known);
            }
        }
        let world = Arc::<Mutex<World>>::default();
        let task = tokio::spawn(read_on(log, history, Arc::clone(&world), noted));
        Ok(Watch { world, task })
    }

    /// What was read so far.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest offset that was noted, by topic and partition.
type Noted = BTreeMap<(String, i32), i64>;

async fn read_on(log: Arc<dyn Log>, history: Arc<History>, world: Arc<Mutex<World>>, noted: Noted) {
    let mut next: BTreeMap<(Topic, i32), i64> = TOPICS
        .into_iter()
        .flat_map(|topic| (0..log.partitions(topic)).map(move |partition| ((topic, partition), 0)))
        .collect();
    loop {
        if let Err(error) = follow(log.as_ref(), &history, &world, &mut next, &noted).await {
            history.note(Event::Note { what: format!("the live reader starts again: {error}") });
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow(
    log: &dyn Log,
    history: &History,
    world: &Mutex<World>,
    next: &mut BTreeMap<(Topic, i32), i64>,
    noted: &Noted,
) -> Result<(), LogError> {
    let from = next.iter().map(|(&(topic, partition), offset)| (topic, partition, *offset)).collect();
    let mut follower = log.follow(from).await?;
    loop {
        let records = follower.next().await?;
        let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            let (topic, partition) = (record.record.topic, record.record.partition);
            next.insert((topic, partition), record.offset + 1);
            world.next.insert((topic, partition), record.offset + 1);
            let id = world.take(&record);
            let topic = topic.short().to_owned();
            if noted.get(&(topic.clone(), partition)).is_none_or(|newest| record.offset > *newest) {
                history.note(Event::Seen { topic, partition, offset: record.offset, id });
            }
        }
    }
}
