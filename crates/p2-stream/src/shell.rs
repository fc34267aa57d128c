//! The tokio shell: carries out the actions of a [`Runtime`] over the ports and feeds their answers back.
//! It decides nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use p2_core::ids::{ConversationId, Id};
use p2_core::record::{Message, StateTransition, Topic};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::ports::{
    Batch, CommitError, Log, LogError, Member, MemberEvent, NewRecord, StackStore, StoreError,
};
use crate::ports::{Committer, StoredRecord};
use crate::processor::Processor;
use crate::runtime::{Action, Codec, Epoch, Event, Incoming, Limits, Runtime};

/// View records read at a time.
const VIEW_RECORDS_MAX: usize = 1_000;
/// Longest pause between two tries of a store or log that is away.
const RETRY_PAUSE_MAX_MS: u64 = 5_000;

/// Carries out the calls of a processor.
#[async_trait]
pub trait CallPort<P: Processor>: Send + Sync + 'static {
    /// Carries out one call, until its deadline (milliseconds since the epoch) at the latest. Dropping the
    /// future cuts it.
    async fn call(&self, id: Id, request: P::Request, deadline_ms: i64) -> P::Reply;
}

/// Between typed messages and the records of a log.
pub trait Wire: Codec + Send + Sync + 'static {
    /// Encodes a message and assigns its partition.
    ///
    /// # Errors
    /// (code, sentence).
    fn encode(&self, message: &Message) -> Result<NewRecord, (String, String)>;

    /// Decodes a record of the input topic: a message, a misplaced one, or poison with its letter.
    fn incoming(&self, record: &StoredRecord, now_ms: i64) -> Incoming;

    /// Decodes a record of a view.
    ///
    /// # Errors
    /// A sentence: a view that cannot be read stops its partition.
    fn transition(&self, record: &StoredRecord) -> Result<StateTransition, String>;
}

/// How a processor ended.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The log is of no use any more.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A partition's view cannot be read.
    #[error("{0}")]
    View(String),
}

/// What a shell needs besides its processor.
pub struct Setup<W> {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The store of the view; unused where the processor has none.
    pub store: Arc<dyn StackStore>,
    /// The wire.
    pub wire: Arc<W>,
    /// Limits.
    pub limits: Limits,
    /// Marks this owner's batches: drawn at start.
    pub nonce: u64,
    /// Turns true when it is time to stop.
    pub stop: watch::Receiver<bool>,
    /// How long a stop waits for what is under way.
    pub drain: Duration,
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Runs a processor until `stop`: joins its group, works, drains, leaves.
///
/// # Errors
/// Where the log fails for good or a view cannot be read. Store and log outages are waited out.
pub async fn run<P, W, C>(processor: P, port: Arc<C>, setup: Setup<W>) -> Result<(), ShellError>
where
    P: Processor + Send + 'static,
    P::Lane: Send,
    P::Request: Send + Sync + 'static,
    P::Reply: Send + 'static,
    W: Wire,
    C: CallPort<P>,
{
    let group = format!("p2.{}", processor.name());
    let input = processor.input();
    let member = setup.log.join(&group, &[input]).await?;
    let committer = member.committer();
    let (sender, receiver) = mpsc::unbounded_channel();
    let codec = SharedCodec(setup.wire.clone());
    let view = processor.view();
    let runtime = Runtime::new(processor, Box::new(codec), setup.limits, setup.nonce);
    let shell = Shell { runtime, setup, port, committer, sender, view, input, calls: BTreeMap::new() };
    shell.serve(member, receiver).await
}

struct SharedCodec<W>(Arc<W>);

impl<W: Wire> Codec for SharedCodec<W> {
    fn size(&self, message: &Message) -> Result<usize, (String, String)> {
        self.0.size(message)
    }

    fn letter(
        &self,
        at: (i32, i64),
        message: &Message,
        code: &str,
        reason: &str,
        now_ms: i64,
    ) -> p2_core::record::DeadLetter {
        self.0.letter(at, message, code, reason, now_ms)
    }
}

struct Shell<P: Processor, W, C> {
    runtime: Runtime<P>,
    setup: Setup<W>,
    port: Arc<C>,
    committer: Arc<dyn Committer>,
    sender: mpsc::UnboundedSender<Result<Event<P::Reply>, ShellError>>,
    view: Option<Topic>,
    input: Topic,
    calls: BTreeMap<Id, AbortHandle>,
}

type Received<P> = mpsc::UnboundedReceiver<Result<Event<<P as Processor>::Reply>, ShellError>>;

impl<P, W, C> Shell<P, W, C>
where
    P: Processor + Send + 'static,
    P::Lane: Send,
    P::Request: Send + Sync + 'static,
    P::Reply: Send + 'static,
    W: Wire,
    C: CallPort<P>,
{
    async fn serve(
        mut self,
        mut member: Box<dyn Member>,
        mut receiver: Received<P>,
    ) -> Result<(), ShellError> {
        let mut epochs = BTreeMap::new();
        let mut stop = self.setup.stop.clone();
        let mut stop_at: Option<tokio::time::Instant> = None;
        loop {
            if let Some(at) = stop_at
                && (self.is_drained() || tokio::time::Instant::now() >= at)
            {
                break;
            }
            let timer = self.runtime.next_timer_ms();
            tokio::select! {
                event = receiver.recv() => {
                    let Some(event) = event else { break };
                    self.drive(event?, &mut member, &mut epochs).await?;
                }
                event = member.next() => self.member_event(event?, &mut member, &mut epochs).await?,
                () = sleep_until(timer) => self.drive(Event::Tick, &mut member, &mut epochs).await?,
                () = stopped(&mut stop), if stop_at.is_none() => {
                    stop_at = Some(tokio::time::Instant::now() + self.setup.drain);
                    self.drive(Event::Drain, &mut member, &mut epochs).await?;
                }
                () = tokio::time::sleep(Duration::from_millis(50)), if stop_at.is_some() => {}
            }
        }
        for call in self.calls.values() {
            call.abort();
        }
        Ok(())
    }

    /// Model calls are asked again by the next owner; a tool call that was begun is better seen to its end.
    fn is_drained(&self) -> bool {
        self.runtime.is_settled() && (self.view.is_some() || self.runtime.calls_running() == 0)
    }

    async fn member_event(
        &mut self,
        event: MemberEvent,
        member: &mut Box<dyn Member>,
        epochs: &mut BTreeMap<i32, Epoch>,
    ) -> Result<(), ShellError> {
        match event {
            MemberEvent::Assigned { partition, committed, .. } => {
                let (start, end) = self.setup.log.bounds(self.input, partition).await?;
                member.pause(self.input, partition);
                let event = Event::Assigned { partition, committed, start, end };
                self.drive(event, member, epochs).await
            }
            MemberEvent::Revoked { partition, .. } => {
                epochs.remove(&partition);
                self.drive(Event::Revoked { partition }, member, epochs).await
            }
            MemberEvent::Records { partition, records, .. } => {
                let Some(epoch) = epochs.get(&partition).copied() else { return Ok(()) };
                for stored in records {
                    let record = self.setup.wire.incoming(&stored, now_ms());
                    let offset = stored.offset;
                    self.drive(Event::Record { partition, epoch, offset, record }, member, epochs).await?;
                }
                Ok(())
            }
        }
    }

    async fn drive(
        &mut self,
        event: Event<P::Reply>,
        member: &mut Box<dyn Member>,
        epochs: &mut BTreeMap<i32, Epoch>,
    ) -> Result<(), ShellError> {
        if let Event::Reply { call, .. } = &event {
            self.calls.remove(call);
        }
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.runtime.on(event, now_ms()) {
                events.extend(self.act(action, member, epochs).await?);
            }
        }
        Ok(())
    }

    /// Carries out or starts an action; what answers it at once comes back as an event.
    async fn act(
        &mut self,
        action: Action<P::Request>,
        member: &mut Box<dyn Member>,
        epochs: &mut BTreeMap<i32, Epoch>,
    ) -> Result<Option<Event<P::Reply>>, ShellError> {
        match action {
            Action::Deliver { partition, epoch, offset } => {
                epochs.insert(partition, epoch);
                member.seek(self.input, partition, offset).await?;
                member.resume(self.input, partition);
            }
            Action::Pause { partition } => member.pause(self.input, partition),
            Action::Resume { partition } => member.resume(self.input, partition),
            Action::StartOver { partition } => {
                epochs.remove(&partition);
                member.pause(self.input, partition);
                // Answered before the member is polled again: no revocation can come in between.
                let committed = member.committed(self.input, partition).await?;
                let (start, end) = self.setup.log.bounds(self.input, partition).await?;
                return Ok(Some(Event::Assigned { partition, committed, start, end }));
            }
            Action::Halt { partition, reason } => {
                tracing::error!(processor = self.runtime.processor().name(), partition, reason, "halted");
            }
            Action::Cut { id } => {
                if let Some(call) = self.calls.remove(&id) {
                    call.abort();
                }
            }
            Action::Call { partition, epoch, id, deadline_ms, request } => {
                self.call(partition, epoch, id, deadline_ms, request);
            }
            Action::Commit { batch, outputs, progress } => self.commit(batch, &outputs, progress),
            view => self.view_action(view),
        }
        Ok(None)
    }

    fn send(&self, event: Result<Event<P::Reply>, ShellError>) {
        // The receiver outlives every sender but the last moment of a stop.
        let _ = self.sender.send(event);
    }

    fn call(&mut self, partition: i32, epoch: Epoch, id: Id, deadline_ms: i64, request: P::Request) {
        let (port, sender) = (self.port.clone(), self.sender.clone());
        let task = tokio::spawn(async move {
            let reply = port.call(id, request, deadline_ms).await;
            let _ = sender.send(Ok(Event::Reply { partition, epoch, call: id, reply }));
        });
        self.calls.insert(id, task.abort_handle());
    }

    fn commit(&self, batch: u64, outputs: &[Message], progress: Vec<(i32, crate::ports::CommittedOffset)>) {
        let encoded: Result<Vec<NewRecord>, _> =
            outputs.iter().map(|message| self.setup.wire.encode(message)).collect();
        let outputs = match encoded {
            Ok(outputs) => outputs,
            Err((code, reason)) => {
                tracing::error!(batch, code, reason, "an output does not encode");
                self.send(Ok(Event::Aborted { batch, halve: true }));
                return;
            }
        };
        let input = self.input;
        let progress = progress.into_iter().map(|(index, committed)| (input, index, committed)).collect();
        let (committer, sender) = (self.committer.clone(), self.sender.clone());
        tokio::spawn(async move {
            let event = match committer.commit(Batch { outputs, progress }).await {
                Ok(positions) => Event::Committed { batch, positions },
                Err(CommitError::Aborted(reason)) => {
                    tracing::warn!(batch, reason, "commit aborted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Event::Aborted { batch, halve: false }
                }
                Err(CommitError::Unfit(reason)) => {
                    tracing::warn!(batch, reason, "commit does not fit");
                    Event::Aborted { batch, halve: true }
                }
                Err(CommitError::Fenced(reason)) => {
                    tracing::warn!(batch, reason, "commit fenced");
                    Event::Fenced { batch }
                }
                Err(CommitError::Unknown(reason)) => {
                    tracing::warn!(batch, reason, "commit outcome unknown");
                    Event::Unknown { batch }
                }
            };
            let _ = sender.send(Ok(event));
        });
    }

    /// Reads and writes of the view, each in a task of its own; outages are waited out.
    fn view_action(&self, action: Action<P::Request>) {
        let Some(view) = self.view else { return };
        let (log, store, wire) = (self.setup.log.clone(), self.setup.store.clone(), self.setup.wire.clone());
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let mut pause_ms = 20;
            let event = loop {
                match view_event(&action, view, log.as_ref(), store.as_ref(), wire.as_ref()).await {
                    Ok(event) => break Ok(event),
                    Err(ViewError::Away(reason)) => {
                        tracing::warn!(reason, "store or log away, trying again");
                        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                        pause_ms = (pause_ms * 2).min(RETRY_PAUSE_MAX_MS);
                    }
                    Err(ViewError::Broken(reason)) => break Err(ShellError::View(reason)),
                }
            };
            let _ = sender.send(event);
        });
    }
}

enum ViewError {
    Away(String),
    Broken(String),
}

impl From<StoreError> for ViewError {
    fn from(error: StoreError) -> ViewError {
        match error {
            StoreError::Unavailable(reason) => ViewError::Away(reason),
            StoreError::Foreign(reason) | StoreError::Corrupt(reason) => ViewError::Broken(reason),
        }
    }
}

impl From<LogError> for ViewError {
    fn from(error: LogError) -> ViewError {
        match error {
            LogError::Unavailable(reason) => ViewError::Away(reason),
            other => ViewError::Broken(other.to_string()),
        }
    }
}

async fn view_event<Q, R>(
    action: &Action<Q>,
    view: Topic,
    log: &dyn Log,
    store: &dyn StackStore,
    wire: &impl Wire,
) -> Result<Event<R>, ViewError>
where
    Q: Sync,
{
    match action {
        Action::ReadViewBounds { partition, epoch } => {
            let applied = store.applied(*partition).await?;
            let (_, mark) = log.bounds(view, *partition).await?;
            Ok(Event::ViewBounds { partition: *partition, epoch: *epoch, applied, mark })
        }
        Action::ReadView { partition, epoch, from } => {
            let (_, end) = log.bounds(view, *partition).await?;
            let records = log.read(view, *partition, *from, VIEW_RECORDS_MAX).await?;
            let next = records.last().map_or(end, |last| last.offset + 1);
            let mut transitions = Vec::with_capacity(records.len());
            for stored in records {
                let transition = wire.transition(&stored).map_err(|reason| {
                    let at = stored.position();
                    ViewError::Broken(format!("{}/{}/{}: {reason}", at.topic.name(), at.partition, at.offset))
                })?;
                transitions.push((stored.offset, transition));
            }
            Ok(Event::ViewRecords { partition: *partition, epoch: *epoch, transitions, next })
        }
        Action::WriteView { partition, epoch, transitions, applied } => {
            store.write(*partition, transitions.clone(), *applied).await?;
            Ok(Event::ViewWritten { partition: *partition, epoch: *epoch, applied: *applied })
        }
        Action::ListOpenLanes { partition, epoch } => {
            let keys = store.open(*partition).await?.into_iter().map(|id| id.0).collect();
            Ok(Event::OpenLanes { partition: *partition, epoch: *epoch, keys })
        }
        Action::Load { partition, epoch, key } => {
            let transitions = store.load(&ConversationId(key.clone())).await?;
            Ok(Event::Loaded { partition: *partition, epoch: *epoch, key: key.clone(), transitions })
        }
        _ => Err(ViewError::Broken("not an action on a view".to_owned())),
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A closed channel means that nobody can ask for a stop any more: then it is time too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn sleep_until(due_ms: Option<i64>) {
    match due_ms {
        None => std::future::pending().await,
        Some(due) => {
            let left = u64::try_from(due.saturating_sub(now_ms())).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
    }
}
