//! The bare client library: what can be had at best.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use p2_core::record::Topic;
use p2_kafka::KafkaConfig;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::Offset;

const LONG: Duration = Duration::from_secs(30);

/// Counts what is acknowledged.
#[derive(Clone, Default)]
struct Acks(Arc<(Mutex<usize>, Condvar)>);

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        assert!(result.is_ok());
        *self.0.0.lock().unwrap() += 1;
        self.0.1.notify_all();
    }
}

fn client(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.brokers);
    client
}

fn name(config: &KafkaConfig, topic: Topic) -> String {
    format!("{}{}", config.prefix, topic.name())
}

/// A consumer of committed records of all partitions from their start, in no group.
pub(crate) fn reader(config: &KafkaConfig, topic: Topic, partitions: i32) -> BaseConsumer {
    let consumer: BaseConsumer = client(config)
        .set("group.id", "bare")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(&name(config, topic), partition, Offset::Offset(0)).unwrap();
    }
    consumer.assign(&list).unwrap();
    consumer
}

/// A consume, copy, commit loop with nothing around it.
pub(crate) struct Copier {
    input: BaseConsumer,
    output: ThreadedProducer<Acks>,
    acks: Acks,
    topic: String,
    pub(crate) commits: usize,
    /// Begin to commit, of each transaction.
    pub(crate) times: Vec<Duration>,
}

impl Copier {
    pub(crate) fn new(config: &KafkaConfig) -> Copier {
        let input: BaseConsumer = client(config)
            .set("group.id", format!("{}bare", config.prefix))
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        input.subscribe(&[&name(config, Topic::Inbox)]).unwrap();
        let acks = Acks::default();
        let mut settings = client(config);
        settings.set("transactional.id", format!("{}bare", config.prefix)).set("linger.ms", "0");
        let output = ThreadedProducer::from_config_and_context(&settings, acks.clone()).unwrap();
        output.init_transactions(LONG).unwrap();
        Copier { input, output, acks, topic: name(config, Topic::Artifacts), commits: 0, times: Vec::new() }
    }

    fn send(&self, message: &BorrowedMessage<'_>) {
        let mut headers = OwnedHeaders::new();
        for header in message.headers().unwrap().iter() {
            headers = headers.insert(header);
        }
        let record = BaseRecord::to(&self.topic)
            .partition(message.partition())
            .key(message.key().unwrap())
            .payload(message.payload().unwrap())
            .timestamp(message.timestamp().to_millis().unwrap())
            .headers(headers);
        assert!(self.output.send(record).is_ok());
    }

    /// One transaction over what is there, at most `max` records. How many it copied.
    pub(crate) fn step(&mut self, max: usize, patience: Duration) -> usize {
        let Some(first) = self.input.poll(patience) else { return 0 };
        let begin = Instant::now();
        *self.acks.0.0.lock().unwrap() = 0;
        self.output.begin_transaction().unwrap();
        let mut next = Some(first);
        let mut count = 0;
        let mut ends = std::collections::BTreeMap::new();
        while let Some(message) = next {
            let message = message.unwrap();
            self.send(&message);
            ends.insert(message.partition(), message.offset() + 1);
            count += 1;
            next = if count < max { self.input.poll(Duration::ZERO) } else { None };
        }
        let mut left = self.acks.0.0.lock().unwrap();
        while *left < count {
            left = self.acks.0.1.wait(left).unwrap();
        }
        drop(left);
        let mut offsets = TopicPartitionList::new();
        let input = self.topic.replace(&Topic::Artifacts.name(), &Topic::Inbox.name());
        for (partition, offset) in ends {
            offsets.add_partition_offset(&input, partition, Offset::Offset(offset)).unwrap();
        }
        let member = self.input.group_metadata().unwrap();
        self.output.send_offsets_to_transaction(&offsets, &member, LONG).unwrap();
        self.output.commit_transaction(LONG).unwrap();
        self.commits += 1;
        self.times.push(begin.elapsed());
        count
    }
}
