//! The thread that polls a member's consumer.
//!
//! Nothing else touches the consumer, except that a commit takes the group's metadata. The thread polls also
//! while every partition is paused: heartbeats and rebalances go on, however slow the calls are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use p2_core::record::Topic;
use p2_stream::ports::{CommittedOffset, LogError, StoredRecord};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::Offset;
use tokio::sync::mpsc;

use crate::callbacks::{Change, Client, Shared, committed};
use crate::config::KafkaConfig;
use crate::context::tell_outage;
use crate::log::Slot;
use crate::ownership::{Lane, Tenure};
use crate::reader::SharedReaders;
use crate::records::{self, Names};

mod joining;

use joining::{Recipe, Trouble};

/// Records handed over at a time.
const RECORDS_MAX: usize = 500;
/// Bytes of values that wait for the member before delivery is throttled.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Offsets without a record that are believed: markers of transactions. A longer gap is looked at.
pub(crate) const GAP_OFFSETS_MAX: i64 = 16;
/// Seeks that may be refused before a partition is taken up anew.
const SEEKS_MAX: u32 = 50;
/// Longest answer to a question for committed progress before it is asked again.
const FETCH_PROGRESS: Duration = Duration::from_secs(2);

/// What the member wants of its poller.
#[derive(Debug)]
pub(crate) enum Command {
    Seek {
        lane: Lane,
        tenure: Tenure,
        seek: u64,
        offset: i64,
    },
    Pause {
        lane: Lane,
        paused: bool,
    },
    /// The log's start was asked for: before a seek, or because a partition has no more what comes next.
    Start {
        lane: Lane,
        tenure: Tenure,
        seek: u64,
        /// The offset that is wanted there.
        offset: i64,
        start: i64,
    },
    /// The group's progress of new partitions has arrived.
    Progress(Vec<(Lane, Tenure, Option<CommittedOffset>)>),
    /// The member has taken in half of what waited for it.
    Unthrottle,
    /// The member's transactions cannot go on: it ends.
    Fail(LogError),
    /// The member was dropped.
    Close,
}

/// What the poller tells its member.
#[derive(Debug)]
pub(crate) enum Notice {
    Assigned { lane: Lane, tenure: Tenure, committed: Option<CommittedOffset> },
    Revoked { lane: Lane },
    Records { lane: Lane, tenure: Tenure, seek: u64, bytes: usize, records: Vec<StoredRecord> },
    Truncated { lane: Lane, tenure: Tenure, seek: u64, start: i64 },
    Failed(LogError),
}

/// What the poller knows of an owned partition.
struct LaneState {
    tenure: Tenure,
    /// The member was told, or is being told.
    announced: bool,
    /// The newest seek that was carried out, and the offset expected next.
    sought: Option<(u64, i64)>,
    /// A seek that could not be carried out yet.
    seek: Option<(u64, i64)>,
    paused_by_member: bool,
    /// As the consumer has it.
    paused: bool,
    /// The consumer gave this partition up: it must be taken up anew before a seek.
    is_dead: bool,
    /// How often the newest seek was refused.
    refusals: u32,
}

/// A member's poller.
pub(crate) struct Poller {
    client: Arc<Client>,
    recipe: Recipe,
    shared: Arc<Shared>,
    names: Names,
    config: KafkaConfig,
    readers: SharedReaders,
    commands: mpsc::UnboundedReceiver<Command>,
    own_commands: mpsc::UnboundedSender<Command>,
    notices: mpsc::UnboundedSender<Notice>,
    lanes: BTreeMap<Lane, LaneState>,
    /// When the broker took another for this member, of late.
    fenced: Vec<Instant>,
    /// Errors that were logged, and when: each at most every few seconds.
    logged: BTreeMap<String, Instant>,
}

/// The ends of a poller's channels that stay with the member.
pub(crate) struct Channels {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) notices: mpsc::UnboundedReceiver<Notice>,
}

/// Starts a member's consumer and the thread that polls it.
///
/// # Errors
/// [`LogError::Refused`] for settings, [`LogError::Unavailable`] where no thread can be had.
pub(crate) fn start(
    config: &KafkaConfig,
    readers: &SharedReaders,
    (group, instance): (&str, &str),
    topics: &[Topic],
    shared: &Arc<Shared>,
    slot: Arc<Slot>,
) -> Result<Channels, LogError> {
    let names = Names::new(&config.prefix);
    let thread_error =
        |error: std::io::Error| LogError::Unavailable(format!("no thread for a consumer: {error}"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(thread_error)?;
    let recipe = Recipe {
        config: config.clone(),
        names: names.clone(),
        shared: Arc::clone(shared),
        group: group.to_owned(),
        instance: instance.to_owned(),
        topics: topics.to_vec(),
    };
    let client = {
        let _inside = runtime.enter();
        recipe.consumer()?
    };
    let (commands, receiver) = mpsc::unbounded_channel();
    let (sender, notices) = mpsc::unbounded_channel();
    let poller = Poller {
        client,
        recipe,
        shared: Arc::clone(shared),
        names,
        config: config.clone(),
        readers: Arc::clone(readers),
        commands: receiver,
        own_commands: commands.clone(),
        notices: sender,
        lanes: BTreeMap::new(),
        fenced: Vec::new(),
        logged: BTreeMap::new(),
    };
    let run = move || {
        runtime.block_on(poller.run());
        // Questions for progress may still be under way: they end by themselves, within their time-out.
        runtime.shutdown_timeout(FETCH_PROGRESS * 2);
        drop(slot);
    };
    std::thread::Builder::new().name("p2-kafka-member".to_owned()).spawn(run).map_err(thread_error)?;
    Ok(Channels { commands, notices })
}

impl Poller {
    async fn run(mut self) {
        loop {
            let retry = self.lanes.values().any(|lane| lane.seek.is_some());
            let client = Arc::clone(&self.client);
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    None | Some(Command::Close) => break,
                    Some(Command::Fail(error)) => {
                        self.fail(error);
                        break;
                    }
                    Some(command) => self.command(command),
                },
                () = client.context().changed.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(20)), if retry => self.retry_seeks(),
                message = client.recv() => match self.messages(&client, message) {
                    Ok(()) => {}
                    Err(Trouble::Failed(error)) => {
                        self.fail(error);
                        break;
                    }
                    Err(Trouble::Fenced) => {
                        drop(client);
                        match self.join_again().await {
                            Ok(true) => {}
                            Ok(false) => break,
                            Err(error) => {
                                self.fail(error);
                                break;
                            }
                        }
                    }
                }
            }
            self.take_changes();
        }
        self.close().await;
    }

    fn fail(&self, error: LogError) {
        self.shared.state().ownership.leave();
        let _ = self.notices.send(Notice::Failed(error));
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Seek { lane, tenure, seek, offset } => {
                if let Some(state) = self.lanes.get_mut(&lane).filter(|state| state.tenure == tenure) {
                    // Nothing more for the seek before.
                    state.sought = None;
                    state.seek = None;
                    self.regulate(lane);
                    self.ask_start(lane, tenure, seek, offset);
                }
            }
            Command::Start { lane, tenure, seek, offset, start } => {
                if let Some(state) = self.lanes.get_mut(&lane).filter(|state| state.tenure == tenure) {
                    if start > offset {
                        (state.sought, state.seek) = (None, None);
                        let _ = self.notices.send(Notice::Truncated { lane, tenure, seek, start });
                        self.regulate(lane);
                    } else {
                        state.seek = Some((seek, offset));
                        self.retry_seeks();
                    }
                }
            }
            Command::Pause { lane, paused } => {
                if let Some(state) = self.lanes.get_mut(&lane) {
                    state.paused_by_member = paused;
                    self.regulate(lane);
                }
            }
            Command::Progress(found) => {
                for (lane, tenure, committed) in found {
                    if let Some(state) = self.lanes.get_mut(&lane).filter(|state| state.tenure == tenure) {
                        state.announced = true;
                        let _ = self.notices.send(Notice::Assigned { lane, tenure, committed });
                    }
                }
            }
            Command::Unthrottle => self.regulate_all(),
            Command::Fail(_) | Command::Close => {}
        }
    }

    /// Carries out seeks. One is refused where the consumer has not quite taken up the partition yet.
    fn retry_seeks(&mut self) {
        let due: Vec<(Lane, u64, i64)> = self
            .lanes
            .iter()
            .filter_map(|(lane, state)| state.seek.map(|(seek, offset)| (*lane, seek, offset)))
            .collect();
        for (lane, seek, offset) in due {
            self.revive(lane);
            let position = Offset::Offset(offset.max(0));
            let sought = self.client.seek(self.names.of(lane.0), lane.1, position, Duration::from_secs(1));
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            match sought {
                Ok(()) => {
                    tracing::debug!(?lane, offset, "sought");
                    (state.seek, state.refusals) = (None, 0);
                    state.sought = Some((seek, offset.max(0)));
                    self.regulate(lane);
                }
                Err(error) => {
                    tracing::debug!(?lane, offset, %error, "seek, again");
                    state.refusals += 1;
                    state.is_dead = state.refusals.is_multiple_of(SEEKS_MAX);
                }
            }
        }
    }

    /// Takes a partition up anew that the consumer gave up. The group does not notice.
    fn revive(&mut self, lane: Lane) {
        let Some(state) = self.lanes.get_mut(&lane).filter(|state| state.is_dead) else { return };
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(self.names.of(lane.0), lane.1);
        let again = self.client.incremental_unassign(&list).and_then(|()| {
            list.set_all_offsets(Offset::Offset(0))?;
            self.client.incremental_assign(&list)?;
            self.client.pause(&list)
        });
        match again {
            Ok(()) => (state.is_dead, state.paused) = (false, true),
            Err(error) => tracing::warn!(?lane, %error, "a partition cannot be taken up anew"),
        }
    }

    /// Asks where the log begins, beside the polling. The answer comes back as a command.
    fn ask_start(&self, lane: Lane, tenure: Tenure, seek: u64, offset: i64) {
        let (readers, shared) = (Arc::clone(&self.readers), Arc::clone(&self.shared));
        let commands = self.own_commands.clone();
        tokio::task::spawn_blocking(move || {
            while shared.state().ownership.tenure(lane) == Some(tenure) {
                match readers.bounds(lane) {
                    Ok((start, _)) => {
                        let _ = commands.send(Command::Start { lane, tenure, seek, offset, start });
                        return;
                    }
                    Err(error) => tracing::info!(%error, "where the log begins, asking again"),
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }

    /// Some partition has no more what comes next, and the consumer does not say which.
    fn find_truncated(&mut self) {
        let sought: Vec<(Lane, Tenure, u64, i64)> = self
            .lanes
            .iter_mut()
            .filter_map(|(lane, state)| {
                // Only the one that it was will be stopped; the others go on from where they are.
                let (seek, expected) = state.sought.take()?;
                state.is_dead = true;
                Some((*lane, state.tenure, seek, expected))
            })
            .collect();
        for (lane, tenure, seek, expected) in sought {
            self.ask_start(lane, tenure, seek, expected);
        }
    }

    fn regulate_all(&mut self) {
        let lanes: Vec<Lane> = self.lanes.keys().copied().collect();
        for lane in lanes {
            self.regulate(lane);
        }
    }

    /// Pauses or resumes a partition at the consumer, where what is wanted has changed.
    fn regulate(&mut self, lane: Lane) {
        let throttled = self.shared.throttled.load(Ordering::Acquire);
        let Some(state) = self.lanes.get_mut(&lane) else { return };
        let pause = state.sought.is_none() || state.paused_by_member || throttled;
        if pause == state.paused {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(self.names.of(lane.0), lane.1);
        let done = if pause { self.client.pause(&list) } else { self.client.resume(&list) };
        match done {
            Ok(()) => state.paused = pause,
            Err(error) => tracing::warn!(?lane, pause, %error, "pause or resume"),
        }
    }

    fn take_changes(&mut self) {
        let changes = self.client.context().take_changes();
        let mut new = Vec::new();
        for change in changes {
            match change {
                Change::Assigned(lane, tenure) => {
                    tracing::debug!(?lane, tenure, "assigned");
                    let state = LaneState {
                        tenure,
                        announced: false,
                        sought: None,
                        seek: None,
                        paused_by_member: false,
                        paused: true,
                        is_dead: false,
                        refusals: 0,
                    };
                    self.lanes.insert(lane, state);
                    new.push((lane, tenure));
                }
                Change::Revoked(lane, tenure) => {
                    tracing::debug!(?lane, tenure, "revoked");
                    new.retain(|(other, _)| *other != lane);
                    if self.lanes.remove(&lane).is_some_and(|state| state.announced && state.tenure == tenure)
                    {
                        let _ = self.notices.send(Notice::Revoked { lane });
                    }
                }
            }
        }
        if !new.is_empty() {
            self.fetch_progress(new);
        }
    }

    /// Asks for the group's progress beside the polling: an open transaction of an earlier owner may hold the
    /// answer up.
    fn fetch_progress(&self, new: Vec<(Lane, Tenure)>) {
        let (client, names) = (Arc::clone(&self.client), self.names.clone());
        let (shared, commands) = (Arc::clone(&self.shared), self.own_commands.clone());
        tokio::task::spawn_blocking(move || {
            loop {
                let current: Vec<(Lane, Tenure)> = {
                    let state = shared.state();
                    let held =
                        |(lane, tenure): &&(Lane, Tenure)| state.ownership.tenure(*lane) == Some(*tenure);
                    new.iter().filter(held).copied().collect()
                };
                if current.is_empty() {
                    return;
                }
                let lanes: Vec<Lane> = current.iter().map(|(lane, _)| *lane).collect();
                match committed(&client, &names, &lanes, FETCH_PROGRESS) {
                    Ok(mut found) => {
                        let told = current.into_iter();
                        let told = told.map(|(lane, tenure)| (lane, tenure, found.remove(&lane).flatten()));
                        let _ = commands.send(Command::Progress(told.collect()));
                        return;
                    }
                    Err(LogError::Refused(reason)) => {
                        let _ = commands.send(Command::Fail(LogError::Refused(reason)));
                        return;
                    }
                    Err(error) => tracing::info!(%error, "progress of new partitions, asking again"),
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }

    /// Takes in a message and those that are there already.
    fn messages(
        &mut self,
        client: &Client,
        first: Result<BorrowedMessage<'_>, KafkaError>,
    ) -> Result<(), Trouble> {
        let mut taken: BTreeMap<Lane, (Tenure, u64, usize, Vec<StoredRecord>)> = BTreeMap::new();
        let mut next = Some(first);
        let mut count = 0;
        let mut failed = Ok(());
        while let Some(message) = next {
            match message {
                Ok(message) => self.message(&message, &mut taken),
                Err(error) => failed = self.error(&error),
            }
            count += 1;
            next = if count < RECORDS_MAX && failed.is_ok() { client.recv_now() } else { None };
        }
        for (lane, (tenure, seek, bytes, records)) in taken {
            let waiting = self.shared.waiting.fetch_add(bytes, Ordering::AcqRel) + bytes;
            if waiting > WAITING_BYTES_MAX && !self.shared.throttled.swap(true, Ordering::AcqRel) {
                self.regulate_all();
            }
            let _ = self.notices.send(Notice::Records { lane, tenure, seek, bytes, records });
        }
        failed
    }

    fn message(
        &mut self,
        message: &BorrowedMessage<'_>,
        taken: &mut BTreeMap<Lane, (Tenure, u64, usize, Vec<StoredRecord>)>,
    ) {
        let Some(stored) = records::stored(&self.names, message) else { return };
        let lane = (stored.record.topic, stored.record.partition);
        let Some(state) = self.lanes.get_mut(&lane) else { return };
        // Before the first seek nothing is delivered; the seek goes back to where this was.
        let Some((seek, expected)) = state.sought else { return };
        if stored.offset < expected {
            return;
        }
        if stored.offset - expected > GAP_OFFSETS_MAX && !self.readers.is_gap(lane, expected, stored.offset) {
            // Aborted transactions leave such gaps. Anything else would be a record that is lost for good.
            tracing::warn!(?lane, expected, found = stored.offset, "a jump, going back");
            state.sought = None;
            let tenure = state.tenure;
            self.ask_start(lane, tenure, seek, expected);
            return;
        }
        state.sought = Some((seek, stored.offset + 1));
        let (.., bytes, records) = taken.entry(lane).or_insert((state.tenure, seek, 0, Vec::new()));
        // Never 0, or records without values would not be throttled.
        *bytes += stored.record.value.len() + stored.record.key.len() + 100;
        records.push(stored);
    }

    /// What an error of the consumer means: most pass by themselves.
    fn error(&mut self, error: &KafkaError) -> Result<(), Trouble> {
        let group = self.client.group_metadata().is_some();
        let refused = |reason: String| Err(Trouble::Failed(LogError::Refused(reason)));
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::FencedInstanceId | RDKafkaErrorCode::UnreleasedInstanceId) => {
                Err(Trouble::Fenced)
            }
            Some(RDKafkaErrorCode::InconsistentGroupProtocol) => refused(
                "the group has members of another kind: stop them, or set kafka.protocol as they have it"
                    .to_owned(),
            ),
            Some(RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::TopicAuthorizationFailed) => {
                refused(format!("the broker does not let this member read: {error}"))
            }
            Some(RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::UnsupportedVersion) => {
                refused(format!("the broker is too old for kafka.protocol = consumer: {error}"))
            }
            Some(RDKafkaErrorCode::AutoOffsetReset) => {
                self.find_truncated();
                Ok(())
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                refused(format!("the consumer cannot go on: {error}"))
            }
            _ if tell_outage(error) => Ok(()),
            _ => {
                let text = error.to_string();
                let now = Instant::now();
                let due = |at: &Instant| now.duration_since(*at) > Duration::from_secs(5);
                if self.logged.get(&text).is_none_or(due) {
                    tracing::warn!(error = text, joined = group, "Kafka, trying on");
                    self.logged.insert(text, now);
                }
                Ok(())
            }
        }
    }

    /// Leaves the group and lets go of the consumer.
    async fn close(self) {
        {
            let mut state = self.shared.wait_for_commit(self.client.context().commit_max);
            state.ownership.leave();
            state.client = None;
        }
        if !self.config.keep_on_stop {
            // A member with an instance id leaves only if it is told to before the consumer is closed.
            let callbacks = self.client.context();
            callbacks.has_revoked.store(false, Ordering::Release);
            self.client.unsubscribe();
            let had = !self.lanes.is_empty();
            let until = Instant::now() + Duration::from_millis(if had { 1_000 } else { 50 });
            let mut left_at: Option<Instant> = None;
            let farewell = Duration::from_millis(50);
            while Instant::now() < until && left_at.is_none_or(|at| at.elapsed() < farewell) {
                let _ = tokio::time::timeout(Duration::from_millis(10), self.client.recv()).await;
                if callbacks.has_revoked.load(Ordering::Acquire) {
                    left_at.get_or_insert_with(Instant::now);
                }
            }
        }
    }
}

/// The next message, if it is there already.
pub(crate) trait ReceiveNow {
    fn recv_now(&self) -> Option<Result<BorrowedMessage<'_>, KafkaError>>;
}

impl<C: ConsumerContext + 'static> ReceiveNow for StreamConsumer<C> {
    fn recv_now(&self) -> Option<Result<BorrowedMessage<'_>, KafkaError>> {
        let mut receiving = std::pin::pin!(self.recv());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match receiving.as_mut().poll(&mut context) {
            std::task::Poll::Ready(message) => Some(message),
            std::task::Poll::Pending => None,
        }
    }
}
