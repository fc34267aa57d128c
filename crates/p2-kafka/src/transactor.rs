//! One transactional producer, used for one transaction at a time, from threads that may block.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2_core::record::{Position, Topic};
use p2_stream::ports::{CommittedOffset, LogError, NewRecord};
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka::topic_partition_list::Offset;

use crate::config::KafkaConfig;
use crate::context::{Context, lock};
use crate::producer::{Polled, message};
use crate::records::Names;

/// How a transaction ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All of it is visible; where the outputs lie.
    Committed(Vec<Position>),
    /// Nothing of it is visible; it may be tried again.
    Aborted(String),
    /// Nothing of it is visible: the broker knows this member or generation no more.
    Stale(String),
    /// Nothing of it is visible, and as it is it never will be.
    Unfit(String),
    /// Nothing of it is visible: somebody else uses the transactional id, or the broker aborted for time.
    Fenced(String),
    /// It was asked to be committed, and the answer did not come.
    Unknown {
        /// Why.
        reason: String,
        /// Where the outputs lie, if it went through.
        positions: Vec<Position>,
    },
    /// It will never work: credentials or settings.
    Refused(String),
}

/// The progress of a transaction and the member in whose name it is committed.
pub(crate) struct Offsets {
    pub(crate) progress: Vec<(Topic, i32, CommittedOffset)>,
    pub(crate) metadata: ConsumerGroupMetadata,
}

/// Delivery reports of the transaction under way.
#[derive(Default)]
struct Reports {
    /// Reports of earlier transactions may still come in: this tells them apart.
    transaction: u64,
    left: usize,
    delivered: Vec<Option<(i32, i64)>>,
    error: Option<KafkaError>,
}

#[derive(Clone, Default)]
struct Deliveries {
    base: Context,
    reports: Arc<(Mutex<Reports>, Condvar)>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.base.log(level, facility, message);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.base.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<(u64, usize)>;

    fn delivery(&self, result: &DeliveryResult<'_>, at: Box<(u64, usize)>) {
        let (transaction, index) = *at;
        let mut reports = lock(&self.reports.0);
        if reports.transaction != transaction {
            return;
        }
        reports.left = reports.left.saturating_sub(1);
        match result {
            Ok(message) => {
                if let Some(slot) = reports.delivered.get_mut(index) {
                    *slot = Some((message.partition(), message.offset()));
                }
            }
            Err((error, _)) => {
                reports.error.get_or_insert_with(|| error.clone());
            }
        }
        // Not for every record: the waiting thread has nothing to do before the last one.
        if reports.left == 0 || reports.error.is_some() {
            self.reports.1.notify_all();
        }
    }
}

impl Deliveries {
    fn begin(&self, transaction: u64, count: usize) {
        let mut reports = lock(&self.reports.0);
        *reports = Reports { transaction, left: count, delivered: vec![None; count], error: None };
    }

    /// Waits until every record is acknowledged. The offsets, in order.
    fn wait(&self, until: Instant) -> Result<Vec<(i32, i64)>, KafkaError> {
        let mut reports = lock(&self.reports.0);
        loop {
            if let Some(error) = reports.error.take() {
                return Err(error);
            }
            if reports.left == 0 {
                let delivered = reports.delivered.iter().copied().collect::<Option<Vec<_>>>();
                return delivered.ok_or(KafkaError::MessageProduction(RDKafkaErrorCode::Fail));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut));
            }
            let waited = self.reports.1.wait_timeout(reports, left);
            reports = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn pause(&self, longest: Duration) {
        let reports = lock(&self.reports.0);
        drop(self.reports.1.wait_timeout(reports, longest));
    }
}

type TransactionalProducer = Polled<Deliveries>;

/// One transactional id and its producer.
pub(crate) struct Transactor {
    config: KafkaConfig,
    names: Names,
    id: String,
    deliveries: Deliveries,
    producer: Option<TransactionalProducer>,
    is_ready: bool,
    transactions: u64,
}

impl Drop for Transactor {
    fn drop(&mut self) {
        self.discard();
    }
}

impl Transactor {
    pub(crate) fn new(config: &KafkaConfig, id: String) -> Transactor {
        Transactor {
            config: config.clone(),
            names: Names::new(&config.prefix),
            id,
            deliveries: Deliveries::default(),
            producer: None,
            is_ready: false,
            transactions: 0,
        }
    }

    /// Lets go of the producer, which waits for nothing.
    pub(crate) fn discard(&mut self) {
        self.is_ready = false;
        self.producer = None;
    }

    /// A producer whose transactional id is taken over: whatever was open or undecided under it is settled by
    /// now, at the broker.
    ///
    /// # Errors
    /// [`Outcome::Aborted`] where it may be tried again, [`Outcome::Refused`] where not.
    pub(crate) fn ready(&mut self, longest: Duration) -> Result<(), Outcome> {
        if self.is_ready {
            return Ok(());
        }
        if self.producer.is_none() {
            let config = self.config.transactional(&self.id);
            self.deliveries = Deliveries::default();
            let producer = TransactionalProducer::start(&config, self.deliveries.clone());
            self.producer = Some(producer.map_err(|error| match error {
                LogError::Unavailable(reason) => Outcome::Aborted(reason),
                refused => Outcome::Refused(refused.to_string()),
            })?);
        }
        let Some(producer) = self.producer.as_ref().map(Polled::get) else {
            return Err(Outcome::Aborted("no producer".to_owned()));
        };
        match producer.init_transactions(longest) {
            Ok(()) => {
                self.is_ready = true;
                Ok(())
            }
            Err(error) => {
                let outcome = self.trouble("taking over the transactional id", &error);
                // A call that timed out goes on where it is called again; any other leaves a producer of no use.
                if !is_retriable(&error) {
                    self.discard();
                }
                Err(outcome)
            }
        }
    }

    fn trouble(&self, what: &str, error: &KafkaError) -> Outcome {
        let id = &self.id;
        let code = error.rdkafka_error_code();
        if let Some(refusal) = self.deliveries.base.refusal() {
            return Outcome::Refused(refusal);
        }
        match code {
            Some(
                RDKafkaErrorCode::TransactionalIdAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::InvalidTransactionTimeout
                | RDKafkaErrorCode::UnsupportedFeature,
            ) => {
                Outcome::Refused(format!("{what} of '{id}': {error}: the broker's settings do not allow it"))
            }
            Some(
                RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch,
            ) => Outcome::Fenced(format!("{what} of '{id}': {error}")),
            Some(
                RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::RebalanceInProgress
                | RDKafkaErrorCode::FencedInstanceId
                | RDKafkaErrorCode::StaleMemberEpoch,
            ) => Outcome::Stale(format!("{what} of '{id}': {error}")),
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::InvalidRecord,
            ) => Outcome::Unfit(format!(
                "{what}: {error}: raise max.message.bytes of the topic, or message.max.bytes in kafka.properties"
            )),
            _ => Outcome::Aborted(format!("{what} of '{id}': {error}")),
        }
    }

    /// One transaction: these records and this progress, or nothing. Blocks for about twice the transaction
    /// time-out at the longest.
    pub(crate) fn run(&mut self, outputs: &[NewRecord], offsets: Option<&Offsets>) -> Outcome {
        let longest = Duration::from_millis(u64::from(self.config.transaction_timeout_ms));
        if let Err(outcome) = self.ready(longest) {
            return outcome;
        }
        let until = Instant::now() + longest * 9 / 10;
        self.transactions += 1;
        let Some(producer) = self.producer.as_ref().map(Polled::get) else {
            return Outcome::Aborted("no producer".to_owned());
        };
        if let Err(error) = producer.begin_transaction() {
            let outcome = self.trouble("beginning a transaction", &error);
            self.discard();
            return outcome;
        }
        match self.write(outputs, offsets, until) {
            Ok(positions) => self.commit(longest, positions),
            Err((what, error)) => {
                let outcome = self.trouble(what, &error);
                self.abort(&error, longest);
                outcome
            }
        }
    }

    /// Sends the records, waits for them, sends the progress. In this order: offsets or a commit that are asked
    /// for while records are in flight wait in steps of 100 ms.
    fn write(
        &self,
        outputs: &[NewRecord],
        offsets: Option<&Offsets>,
        until: Instant,
    ) -> Result<Vec<Position>, (&'static str, KafkaError)> {
        let Some(producer) = self.producer.as_ref().map(Polled::get) else { return Ok(Vec::new()) };
        self.deliveries.begin(self.transactions, outputs.len());
        for (index, record) in outputs.iter().enumerate() {
            self.send(producer, index, record, until).map_err(|error| ("sending a record", error))?;
        }
        let delivered = self.deliveries.wait(until).map_err(|error| ("writing records", error))?;
        if let Some(offsets) = offsets {
            let list = progress_list(&self.names, &offsets.progress).map_err(|error| ("progress", error))?;
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
            producer
                .send_offsets_to_transaction(&list, &offsets.metadata, left)
                .map_err(|error| ("sending progress", error))?;
        }
        let positions = outputs.iter().zip(delivered);
        let positions = positions
            .map(|(record, (partition, offset))| Position { topic: record.topic, partition, offset })
            .collect();
        Ok(positions)
    }

    fn send(
        &self,
        producer: &BaseProducer<Deliveries>,
        index: usize,
        record: &NewRecord,
        until: Instant,
    ) -> Result<(), KafkaError> {
        let opaque = Box::new((self.transactions, index));
        let mut message = message(self.names.of(record.topic), record, opaque);
        loop {
            match producer.send(message) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now() < until =>
                {
                    message = back;
                    self.deliveries.pause(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    fn commit(&mut self, longest: Duration, positions: Vec<Position>) -> Outcome {
        let Some(producer) = self.producer.as_ref().map(Polled::get) else {
            return Outcome::Aborted("no producer".to_owned());
        };
        match producer.commit_transaction(longest) {
            Ok(()) => Outcome::Committed(positions),
            Err(error) => {
                // Whatever it says: the broker may have taken the commit and the answer was lost on its way.
                self.discard();
                Outcome::Unknown { reason: format!("committing of '{}': {error}", self.id), positions }
            }
        }
    }

    /// Ends a transaction that failed before its commit was asked for. Where that does not work within the
    /// time, or the failure was a time-out, the next producer of this id ends it.
    fn abort(&mut self, error: &KafkaError, longest: Duration) {
        let is_fatal = matches!(error, KafkaError::Transaction(error) if error.is_fatal());
        let timed_out = is_retriable(error);
        let Some(producer) = self.producer.as_ref().map(Polled::get) else { return };
        if is_fatal || timed_out || producer.client().fatal_error().is_some() {
            self.discard();
        } else if let Err(error) = producer.abort_transaction(longest) {
            tracing::info!(id = self.id, %error, "abort failed, the producer is replaced");
            self.discard();
        }
    }
}

fn is_retriable(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_retriable() && !error.is_fatal())
}

fn progress_list(
    names: &Names,
    progress: &[(Topic, i32, CommittedOffset)],
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(progress.len());
    for (topic, partition, committed) in progress {
        let mut element = list.add_partition(names.of(*topic), *partition);
        element.set_offset(Offset::Offset(committed.offset))?;
        element.set_metadata(&committed.metadata);
    }
    Ok(list)
}
