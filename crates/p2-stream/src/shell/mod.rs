//! The tokio shell: carries out the actions of a [`Runtime`] over the ports and feeds their answers back.
//! It decides nothing.

mod believed;
mod commit;
mod gauge;
mod lag;
mod rebuilt;
mod resync;
mod view;
mod views;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use p2_core::ids::Id;
use p2_core::record::{Message, StateTransition, Topic};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::Instrument;

use crate::metrics::{Metric, Metrics};
use crate::outage::{self, Part};
use crate::ports::{Committer, Log, LogError, Member, MemberEvent, NewRecord, StoredRecord};
use crate::processor::Processor;
use crate::runtime::{Action, Codec, Encoded, Epoch, Event, Incoming, Limits, Output, Runtime};
use crate::view::{LaneRows, ViewRecord};
use believed::Asked;
use gauge::{Gauge, as_f64};
use rebuilt::Note;
pub use views::Views;

/// How often lag and window of the owned partitions are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Carries out the calls of a processor.
#[async_trait]
pub trait CallPort<P: Processor>: Send + Sync + 'static {
    /// Carries out one call, until its deadline (milliseconds since the epoch) at the latest. Dropping the
    /// future cuts it.
    async fn call(&self, id: Id, request: P::Request, deadline_ms: i64) -> P::Reply;
}

/// Between typed messages and the records of a log.
pub trait Wire: Codec + Send + Sync + 'static {
    /// The record of an output, in its partition.
    ///
    /// # Errors
    /// (code, sentence).
    fn record(&self, output: &Output) -> Result<NewRecord, (String, String)>;

    /// Decodes a record of the input topic: a message, a misplaced one, or poison with its letter.
    fn incoming(&self, record: &StoredRecord, now_ms: i64) -> Incoming;

    /// Decodes a record of a view.
    ///
    /// # Errors
    /// A sentence: a view that cannot be read stops its partition.
    fn view_record(&self, record: &StoredRecord) -> Result<ViewRecord, String>;

    /// Decodes a record of `state-transitions`.
    ///
    /// # Errors
    /// As [`Wire::view_record`].
    fn transition(&self, record: &StoredRecord) -> Result<StateTransition, String> {
        match self.view_record(record)? {
            ViewRecord::Transition(transition) => Ok(transition),
            ViewRecord::Ledger(_) => Err("a ledger transaction among the transitions".to_owned()),
        }
    }
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
    /// The store of the view.
    pub views: Views,
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
    /// Where it counts.
    pub metrics: Metrics,
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
    let inputs = [input];
    let member = match patiently(&setup.stop, || setup.log.join(&group, &inputs)).await {
        // Nothing was begun, so there is nothing to finish.
        Err(LogError::Unavailable(_)) if *setup.stop.borrow() => return Ok(()),
        joined => joined?,
    };
    let committer = member.committer();
    let (sender, receiver) = mpsc::unbounded_channel();
    let codec = SharedCodec(setup.wire.clone());
    let view = processor.view();
    let runtime = Runtime::new(processor, Box::new(codec), setup.limits, setup.nonce);
    let gauge = Gauge { metrics: setup.metrics.clone(), name: runtime.processor().name() };
    let (calls, marks, committing, aborts) = (BTreeMap::new(), BTreeMap::new(), Vec::new(), Arc::default());
    let shell = Shell {
        runtime,
        setup,
        port,
        committer,
        sender,
        view,
        input,
        calls,
        committing,
        marks,
        aborts,
        owned: BTreeSet::new(),
        views: JoinSet::new(),
        follows: 0,
        following: false,
        ends: lag::Ends::default(),
        gauge,
    };
    shell.serve(member, receiver).await
}

struct SharedCodec<W>(Arc<W>);

impl<W: Wire> Codec for SharedCodec<W> {
    fn encode(&self, message: &Message) -> Result<Encoded, (String, String)> {
        self.0.encode(message)
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
    sender: mpsc::UnboundedSender<Result<Event<P::Reply>, Note>>,
    view: Option<Topic>,
    input: Topic,
    calls: BTreeMap<Id, AbortHandle>,
    /// The outputs of the commit under way.
    committing: Vec<Arc<Output>>,
    /// Partitions that catch up → the high watermark of their view at assignment.
    marks: BTreeMap<i32, i64>,
    /// Aborted commits since the last one that went through.
    aborts: Arc<AtomicU32>,
    /// The partitions that the group gave us, halted ones too.
    owned: BTreeSet<i32>,
    /// Reads and writes of the view under way.
    views: JoinSet<()>,
    /// How often another generation of the view was gone over to.
    follows: u64,
    /// It is being gone over to: nothing is worked on meanwhile.
    following: bool,
    /// What is known of the ends of partitions.
    ends: lag::Ends,
    gauge: Gauge,
}

type Received<P> = mpsc::UnboundedReceiver<Result<Event<<P as Processor>::Reply>, Note>>;

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
        let mut measure = tokio::time::interval(MEASURE_EVERY);
        measure.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Some(at) = stop_at
                && (self.is_drained() || tokio::time::Instant::now() >= at)
            {
                break;
            }
            let timer = self.runtime.next_timer_ms();
            tokio::select! {
                event = receiver.recv() => {
                    match event {
                        Some(Ok(event)) => self.drive(event, &mut member, &mut epochs).await?,
                        Some(Err(note)) => self.note(note, &mut member, &mut epochs).await?,
                        None => break,
                    }
                }
                event = member.next() => self.member_event(event?, &mut member, &mut epochs).await?,
                () = sleep_until(timer) => self.drive(Event::Tick, &mut member, &mut epochs).await?,
                () = stopped(&mut stop), if stop_at.is_none() => {
                    stop_at = Some(tokio::time::Instant::now() + self.setup.drain);
                    self.drive(Event::Drain, &mut member, &mut epochs).await?;
                }
                _ = measure.tick() => self.measure(),
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
                self.gauge.assignment("assigned");
                self.owned.insert(partition);
                if self.following {
                    member.pause(self.input, partition);
                    return Ok(());
                }
                member.pause(self.input, partition);
                match self.asked().event(partition, committed, member).await? {
                    Some(event) => self.drive(event, member, epochs).await,
                    None => Ok(()),
                }
            }
            MemberEvent::Revoked { partition, .. } => {
                epochs.remove(&partition);
                self.owned.remove(&partition);
                self.marks.remove(&partition);
                self.gauge.revoked(partition, self.view == Some(Topic::StateTransitions));
                self.drive(Event::Revoked { partition }, member, epochs).await?;
                self.measure_owned();
                Ok(())
            }
            MemberEvent::Truncated { partition, start, .. } => {
                // Starting over compares progress with the log's start and halts the partition, and only that.
                tracing::error!(partition, start, "records were deleted before they were processed");
                self.drive(Event::Revoked { partition }, member, epochs).await?;
                epochs.remove(&partition);
                if self.following {
                    return Ok(());
                }
                match self.start_over(partition, member).await? {
                    Some(event) => self.drive(event, member, epochs).await,
                    None => Ok(()),
                }
            }
            MemberEvent::Records { partition, records, .. } => {
                let Some(epoch) = epochs.get(&partition).copied() else { return Ok(()) };
                for stored in records {
                    self.gauge.lag(now_ms().saturating_sub(stored.record.time_ms));
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
            self.count(&event);
            let before = self.runtime.counters();
            let begin = Instant::now();
            let actions = self.runtime.on(event, now_ms());
            self.gauge.step(before, self.runtime.counters(), begin.elapsed());
            for action in actions {
                events.extend(self.act(action, member, epochs).await?);
            }
        }
        Ok(())
    }

    /// Counts what an event says of committed work.
    fn count(&mut self, event: &Event<P::Reply>) {
        match event {
            Event::Committed { positions, .. } => {
                let outputs = std::mem::take(&mut self.committing);
                self.gauge.committed(&outputs, positions, self.view);
            }
            Event::Loaded { partition, rows: LaneRows::Transitions(transitions), .. } => {
                self.gauge.metrics.waits(*partition, transitions);
            }
            Event::ViewBounds { partition, applied, mark, .. } => {
                self.marks.insert(*partition, *mark);
                self.gauge.catching_up(*partition, *applied, *mark);
            }
            Event::ViewWritten { partition, applied, .. } => {
                if let Some(mark) = self.marks.get(partition) {
                    self.gauge.catching_up(*partition, *applied, *mark);
                    if applied >= mark {
                        self.marks.remove(partition);
                    }
                }
            }
            _ => {}
        }
    }

    /// Notes how many partitions are owned, and says how far each is.
    fn measure_owned(&self) -> Vec<(i32, i64, i64)> {
        let owned = self.runtime.progress();
        self.gauge.metrics.set(Metric::PartitionsOwned, &[self.gauge.name], as_f64(owned.len()));
        owned
    }

    /// Lag and window of each owned partition; the log is asked in a task of its own.
    fn measure(&self) {
        let gauge = self.gauge.clone();
        gauge.metrics.set(Metric::CallsInFlight, &[gauge.name], as_f64(self.calls.len()));
        let owned = self.measure_owned();
        let (log, input, ends) = (self.setup.log.clone(), self.input, self.ends.clone());
        tokio::spawn(async move {
            for partition in owned {
                lag::measure(&gauge, &ends, log.as_ref(), input, partition).await;
            }
        });
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
                self.measure_owned();
            }
            Action::Pause { partition } => member.pause(self.input, partition),
            Action::Resume { partition } => member.resume(self.input, partition),
            Action::StartOver { partition } => {
                self.gauge.assignment("started_over");
                epochs.remove(&partition);
                return self.start_over(partition, member).await;
            }
            Action::Halt { partition, reason } => {
                self.gauge.halted(partition, &reason);
            }
            Action::Cut { id } => {
                if let Some(call) = self.calls.remove(&id) {
                    call.abort();
                }
            }
            Action::Call { partition, epoch, id, deadline_ms, request } => {
                self.call(partition, epoch, id, deadline_ms, request);
            }
            Action::Commit { batch, outputs, progress } => self.commit(batch, outputs, progress),
            view => self.view_action(view),
        }
        Ok(None)
    }

    fn asked(&self) -> Asked<'_> {
        let (log, stop, start) = (&self.setup.log, &self.setup.stop, self.setup.limits.start);
        Asked { log, stop, gauge: &self.gauge, input: self.input, start }
    }

    /// Fetches a partition's progress anew, before the member is polled again: no revocation can come in between.
    async fn start_over(
        &mut self,
        partition: i32,
        member: &mut Box<dyn Member>,
    ) -> Result<Option<Event<P::Reply>>, ShellError> {
        member.pause(self.input, partition);
        let input = self.input;
        let committed = patiently(&self.setup.stop, || member.committed(input, partition)).await?;
        self.asked().event(partition, committed, member).await
    }

    fn send(&self, event: Event<P::Reply>) {
        // The receiver outlives every sender but the last moment of a stop.
        let _ = self.sender.send(Ok(event));
    }

    fn call(&mut self, partition: i32, epoch: Epoch, id: Id, deadline_ms: i64, request: P::Request) {
        let (port, sender, gauge) = (self.port.clone(), self.sender.clone(), self.gauge.clone());
        let key = self.runtime.call_lane(&id).unwrap_or_default();
        let lane = self.runtime.lane(partition, key);
        let span = self.runtime.processor().call_span(key, lane, &id, &request);
        let work = async move {
            let begin = Instant::now();
            let reply = port.call(id, request, deadline_ms).await;
            gauge.metrics.observe(Metric::CallDurationSeconds, &[gauge.name], begin.elapsed().as_secs_f64());
            let _ = sender.send(Ok(Event::Reply { partition, epoch, call: id, reply }));
        };
        self.calls.insert(id, tokio::spawn(work.instrument(span)).abort_handle());
    }

    /// Reads and writes of the view, each in a task of its own; outages are waited out.
    fn view_action(&mut self, action: Action<P::Request>) {
        let Some(view) = self.view else { return };
        let (log, views, wire) = (self.setup.log.clone(), self.setup.views.clone(), self.setup.wire.clone());
        let (sender, gauge, follows) = (self.sender.clone(), self.gauge.clone(), self.follows);
        while self.views.try_join_next().is_some() {}
        self.views.spawn(async move {
            let (log, wire) = (log.as_ref(), wire.as_ref());
            let event = view::event(&action, view, log, &views, wire, &gauge, follows).await;
            let _ = sender.send(event);
        });
    }
}

/// Asks the log until it answers: an outage is waited out, unless it is time to stop.
async fn patiently<T, F>(stop: &watch::Receiver<bool>, mut ask: impl FnMut() -> F) -> Result<T, LogError>
where
    F: Future<Output = Result<T, LogError>>,
{
    let mut pause_ms = 20;
    loop {
        match ask().await {
            Err(LogError::Unavailable(reason)) if !*stop.borrow() => {
                outage::met(Part::Log, &reason);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                pause_ms = (pause_ms * 2).min(1_000);
            }
            answer => {
                if answer.is_ok() {
                    outage::answered(Part::Log);
                }
                return answer;
            }
        }
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

#[cfg(test)]
mod tests;
