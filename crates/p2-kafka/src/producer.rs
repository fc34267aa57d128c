//! A producer with a thread that serves its events, and one that answers each record's sender.
//!
//! The library's own thread asks anew ten times a second, and spins for the last part of a millisecond each time:
//! half a percent of a processor for every producer that does nothing. This one asks every few seconds, and an
//! event wakes it at once all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use p2_stream::ports::{LogError, NewRecord};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, ProducerContext};
use tokio::sync::oneshot;

use crate::config;
use crate::context::Context;
use crate::records;

/// How long one wait for events lasts; a producer that was dropped is closed after so long at the latest.
const POLL: Duration = Duration::from_secs(2);

/// A producer and its thread. Dropping it waits for nothing: the thread closes the producer.
pub(crate) struct Polled<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    is_over: Arc<AtomicBool>,
}

impl<C: ProducerContext + 'static> Polled<C> {
    /// # Errors
    /// [`LogError::Refused`] for settings, [`LogError::Unavailable`] where no thread can be had.
    pub(crate) fn start(settings: &ClientConfig, context: C) -> Result<Polled<C>, LogError> {
        let made = BaseProducer::from_config_and_context(settings, context);
        let producer = Arc::new(made.map_err(|error| config::property(&error))?);
        let is_over = Arc::new(AtomicBool::new(false));
        let (polled, over) = (Arc::clone(&producer), Arc::clone(&is_over));
        let poll = move || {
            while !over.load(Ordering::Acquire) {
                polled.poll(POLL);
            }
        };
        let thread = std::thread::Builder::new().name("p2-kafka-events".to_owned()).spawn(poll);
        thread.map_err(|error| LogError::Unavailable(format!("no thread for a producer: {error}")))?;
        Ok(Polled { producer, is_over })
    }

    pub(crate) fn get(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for Polled<C> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

/// Where a record lies: (partition, offset), or why not.
type Delivered = Result<(i32, i64), KafkaError>;

/// Tells each record's sender what became of it.
#[derive(Clone, Default)]
pub(crate) struct Answers(pub(crate) Context);

impl ClientContext for Answers {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = Box<oneshot::Sender<Delivered>>;

    fn delivery(&self, result: &DeliveryResult<'_>, sender: Self::DeliveryOpaque) {
        let delivered = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        // Nobody may be waiting any more.
        let _ = sender.send(delivered);
    }
}

/// The record as the client library takes it, without its value where that is empty: a tombstone.
pub(crate) fn message<'a, D: rdkafka::util::IntoOpaque>(
    name: &'a str,
    record: &'a NewRecord,
    opaque: D,
) -> BaseRecord<'a, str, [u8], D> {
    let message = BaseRecord::with_opaque_to(name, opaque)
        .partition(record.partition)
        .key(record.key.as_str())
        .timestamp(record.time_ms)
        .headers(records::headers(record));
    if record.value.is_empty() { message } else { message.payload(record.value.as_slice()) }
}

impl Polled<Answers> {
    /// Sends one record and waits until it is acknowledged; for a place in a full queue at most `longest`.
    pub(crate) async fn send(&self, name: &str, record: &NewRecord, longest: Duration) -> Delivered {
        let until = Instant::now() + longest;
        loop {
            let (sender, answer) = oneshot::channel();
            let refused = self.get().send(message(name, record, Box::new(sender))).err();
            match refused.map(|(error, _)| error) {
                None => {
                    // The sender goes with the producer.
                    let gone = Err(KafkaError::Canceled);
                    return answer.await.unwrap_or(gone);
                }
                Some(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull))
                    if Instant::now() < until =>
                {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Some(error) => return Err(error),
            }
        }
    }
}
