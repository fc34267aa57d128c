//! The rebalance callbacks of a member's consumer, and what member, committer and poller share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2_core::record::Topic;
use p2_stream::ports::{CommittedOffset, LogError};
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::Notify;

use crate::context::{Context, lock};
use crate::fence;
use crate::ownership::{Lane, Ownership, Tenure};
use crate::records::Names;

/// The consumer of a member.
pub(crate) type Client = StreamConsumer<Callbacks>;

/// What member, committer and poller share.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    commit_ended: Condvar,
    /// Bytes of values that wait for the member.
    pub(crate) waiting: AtomicUsize,
    pub(crate) throttled: AtomicBool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) ownership: Ownership,
    /// Gone once the member closes.
    pub(crate) client: Option<Arc<Client>>,
    /// A transaction with this member's progress is under way.
    committing: bool,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn begin_commit(&self, state: &mut State) {
        state.committing = true;
    }

    pub(crate) fn end_commit(&self) {
        self.state().committing = false;
        self.commit_ended.notify_all();
    }

    /// Waits for the transaction under way, so that it ends under the generation it began with.
    pub(crate) fn wait_for_commit(&self, longest: Duration) -> MutexGuard<'_, State> {
        let until = Instant::now() + longest;
        let mut state = self.state();
        while state.committing {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.commit_ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }
}

/// What a rebalance did.
pub(crate) enum Change {
    Assigned(Lane, Tenure),
    Revoked(Lane, Tenure),
}

/// The callbacks of a member's consumer; they run on the poller's thread.
pub(crate) struct Callbacks {
    base: Context,
    names: Names,
    shared: Arc<Shared>,
    /// A revocation waits at most so long for the transaction under way.
    pub(crate) commit_max: Duration,
    changes: Mutex<Vec<Change>>,
    /// There are changes to take.
    pub(crate) changed: Notify,
    /// Something was revoked since this was last cleared.
    pub(crate) has_revoked: AtomicBool,
    /// Why the group cannot be written to.
    refusal: Mutex<Option<String>>,
    /// Another consumer has the member's partitions now.
    is_retired: AtomicBool,
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.base.log(level, facility, message);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.base.error(error, reason);
    }
}

impl Callbacks {
    pub(crate) fn new(names: Names, shared: Arc<Shared>, commit_max: Duration) -> Callbacks {
        Callbacks {
            base: Context::default(),
            names,
            shared,
            commit_max,
            changes: Mutex::default(),
            changed: Notify::new(),
            has_revoked: AtomicBool::new(false),
            refusal: Mutex::default(),
            is_retired: AtomicBool::new(false),
        }
    }

    /// Why the group cannot be written to, where the broker said so.
    pub(crate) fn refusal(&self) -> Option<String> {
        lock(&self.refusal).clone().or_else(|| self.base.refusal())
    }

    /// From now on rebalances of this consumer change nothing of who owns what.
    pub(crate) fn retire(&self) {
        let _state = self.shared.state();
        self.is_retired.store(true, Ordering::Release);
    }

    /// What rebalances did since this was last asked, in order.
    pub(crate) fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut *lock(&self.changes))
    }

    fn lanes(&self, list: &TopicPartitionList) -> Vec<Lane> {
        let elements = list.elements();
        let lanes = elements.iter().filter_map(|one| Some((self.names.topic(one.topic())?, one.partition())));
        lanes.collect()
    }

    fn assigned(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &mut TopicPartitionList,
    ) -> Result<(), KafkaError> {
        // Where to begin is said by a seek, after catch-up. Until then: paused, at an offset that needs no question.
        // At the logical "end", the answer to the question where that is may come in after the seek, and then the
        // consumer asks again and goes there: records would be skipped without a word.
        list.set_all_offsets(Offset::Offset(0))?;
        let mut state = self.shared.state();
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list)?,
            _ => consumer.assign(list)?,
        }
        if list.count() > 0 {
            consumer.pause(list)?;
        }
        let mut changes = lock(&self.changes);
        let lanes = if self.is_retired.load(Ordering::Acquire) { Vec::new() } else { self.lanes(list) };
        for lane in lanes {
            let tenure = state.ownership.assign(lane);
            changes.push(Change::Assigned(lane, tenure));
        }
        Ok(())
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> Result<(), KafkaError> {
        // A lost assignment is already somebody else's: the broker refuses what is under way, nobody waits.
        let longest = if consumer.assignment_lost() { Duration::ZERO } else { self.commit_max };
        let mut state = self.shared.wait_for_commit(longest);
        let mut changes = lock(&self.changes);
        let lanes = if self.is_retired.load(Ordering::Acquire) { Vec::new() } else { self.lanes(list) };
        for lane in lanes {
            if let Some(tenure) = state.ownership.revoke(lane) {
                changes.push(Change::Revoked(lane, tenure));
            }
        }
        self.has_revoked.store(true, Ordering::Release);
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        }
    }
}

impl ConsumerContext for Callbacks {
    /// Only marks are committed here: progress goes with its outputs, in transactions.
    fn commit_callback(&self, result: Result<(), KafkaError>, _offsets: &TopicPartitionList) {
        let Err(error) = result else { return };
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed) => {
                *lock(&self.refusal) = Some(format!(
                    "the broker does not let this member write to its group ({error}): grant it READ on the group \
                     and on {}",
                    self.names.of(Topic::Registry)
                ));
            }
            _ => tracing::debug!(%error, "a mark was not taken"),
        }
    }

    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let done = match kind {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, list),
            _ => self.revoked(consumer, list),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "a rebalance did not go through; the group will try again");
        }
        self.changed.notify_one();
    }
}

/// The group's committed progress of partitions ([`fence`]), once no open transaction can change it any
/// more.
///
/// # Errors
/// As [`fence::progress`].
pub(crate) fn committed(
    client: &Client,
    names: &Names,
    lanes: &[Lane],
    longest: Duration,
) -> Result<BTreeMap<Lane, Option<CommittedOffset>>, LogError> {
    let away = |error: KafkaError| LogError::Unavailable(format!("the group's progress: {error}"));
    let mut list = TopicPartitionList::with_capacity(lanes.len());
    for (topic, partition) in lanes {
        list.add_partition(names.of(*topic), *partition);
    }
    // The list must not outlive this function: one that is alive while the consumer is dropped hangs it.
    let list = fence::progress(client, names, &list, longest, || client.context().refusal())?;
    let mut found = BTreeMap::new();
    for element in list.elements() {
        element.error().map_err(away)?;
        let Some(topic) = names.topic(element.topic()) else { continue };
        let committed = match element.offset() {
            Offset::Offset(offset) => {
                Some(CommittedOffset { offset, metadata: element.metadata().to_owned() })
            }
            _ => None,
        };
        found.insert((topic, element.partition()), committed);
    }
    Ok(found)
}
