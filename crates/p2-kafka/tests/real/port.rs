//! The suite of every log, on a real broker.

use std::time::Duration;

use p2_core::record::Topic;
use p2_kafka::{GroupProtocol, KafkaConfig, KafkaLog};
use p2_stream::conformance::{LogTraits, log_conformance_of, log_start_conformance};
use p2_stream::ports::{Log, NewRecord};
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::topic_partition_list::Offset;

use crate::broker::{self, create_topics, fresh_prefix};

pub fn traits() -> LogTraits {
    LogTraits { silence: Duration::from_millis(400), limit: Duration::from_secs(60), loses_unpolled: true }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kafka_log_does_what_every_log_does() {
    if !broker::is_wanted() {
        return;
    }
    log_conformance_of(async || broker::shared().log().await, traits()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kafka_log_does_it_with_the_new_group_protocol_too() {
    if !broker::is_wanted() {
        return;
    }
    let make = async || {
        let config =
            KafkaConfig { protocol: GroupProtocol::Consumer, ..broker::shared().config(&fresh_prefix()) };
        create_topics(&config).await;
        KafkaLog::connect(config).await.unwrap()
    };
    log_conformance_of(make, traits()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_retention_deleted_are_no_gap() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    let log = KafkaLog::connect(config.clone()).await.unwrap();
    let delete = async |_: &KafkaLog, partition: i32, below: i64| {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &config.brokers);
        let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
        let mut list = TopicPartitionList::new();
        let name = format!("{}{}", config.prefix, Topic::Inbox.name());
        list.add_partition_offset(&name, partition, Offset::Offset(below)).unwrap();
        admin.delete_records(&list, &AdminOptions::new()).await.unwrap();
    };
    log_start_conformance(log, delete, traits()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_found_by_time() {
    if !broker::is_wanted() {
        return;
    }
    let log = broker::shared().log().await;
    for time_ms in [1_000, 2_000, 3_000] {
        let record = NewRecord {
            topic: Topic::Inbox,
            partition: 1,
            key: "k".to_owned(),
            headers: p2_stream::ports::Headers::default(),
            value: b"v".to_vec(),
            time_ms,
        };
        log.append(vec![record]).await.unwrap();
    }
    for (time_ms, offset) in [(0, 0), (1_000, 0), (1_001, 1), (2_500, 2), (3_001, 3)] {
        assert_eq!(log.offset_at(Topic::Inbox, 1, time_ms).await.unwrap(), offset, "at {time_ms}");
    }
    assert_eq!(log.offset_at(Topic::Inbox, 0, 1_000).await.unwrap(), 0, "an empty partition");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_gaps_of_aborted_transactions_are_passed_and_nothing_behind_them_is_lost() {
    use p2_stream::ports::MemberEvent;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    let log = KafkaLog::connect(config.clone()).await.unwrap();
    let record = |text: &str| NewRecord {
        topic: Topic::Inbox,
        partition: 1,
        key: "k".to_owned(),
        headers: p2_stream::ports::Headers::default(),
        value: text.as_bytes().to_vec(),
        time_ms: 1_000,
    };
    log.append(vec![record("before")]).await.unwrap();
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("transactional.id", format!("{}aborts", config.prefix));
    let aborts: BaseProducer = client.create().unwrap();
    aborts.init_transactions(Duration::from_secs(10)).unwrap();
    aborts.begin_transaction().unwrap();
    let name = format!("{}{}", config.prefix, Topic::Inbox.name());
    for _ in 0..40 {
        aborts
            .send(BaseRecord::to(&name).partition(1).key("k").payload("never"))
            .unwrap_or_else(|_| panic!("sent"));
    }
    aborts.flush(Duration::from_secs(10)).unwrap();
    aborts.abort_transaction(Duration::from_secs(10)).unwrap();
    let after = log.append(vec![record("after")]).await.unwrap()[0].offset;
    assert!(after >= 41, "40 aborted records lie between: {after}");
    let read = log.read(Topic::Inbox, 1, 1, 9).await.unwrap();
    assert_eq!(read.iter().map(|stored| stored.offset).collect::<Vec<_>>(), [after]);
    let mut member = log.join("p2.gaps", &[Topic::Inbox]).await.unwrap();
    let mut found = Vec::new();
    while found.len() < 2 {
        match member.next().await.unwrap() {
            MemberEvent::Assigned { partition, .. } => member.seek(Topic::Inbox, partition, 0).await.unwrap(),
            MemberEvent::Records { records, .. } => found.extend(records.iter().map(|stored| stored.offset)),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(found, [0, after]);
}
