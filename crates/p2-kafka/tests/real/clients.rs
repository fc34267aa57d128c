//! Settings, credentials and topics that fit or do not: one sentence each.

use std::time::Duration;

use p2_core::record::{RECORD_BYTES_MAX, Topic};
use p2_kafka::topics::{self, Difference, TopicSettings};
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_stream::ports::{Batch, CommitError, CommittedOffset, Log, LogError, MemberEvent, NewRecord};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use crate::broker::{self, create_topics, free_port, fresh_prefix};
use crate::copier::record;

pub async fn error(config: KafkaConfig) -> LogError {
    match KafkaLog::connect(config).await {
        Ok(_) => panic!("it connects"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_there_is_one_sentence() {
    // Needs no broker: that is the point.
    let port = free_port();
    let config = KafkaConfig {
        brokers: format!("127.0.0.1:{port}"),
        request_timeout_ms: 2_000,
        ..KafkaConfig::default()
    };
    let error = error(config).await.to_string();
    assert!(
        error.contains(&format!("no Kafka broker answers at 127.0.0.1:{port} within 2000 ms")),
        "{error}"
    );
    assert!(error.contains("Connection refused") && error.contains("check kafka.brokers"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_created_once_checked_and_never_changed_to_lose_something() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    let missing = error(config.clone()).await;
    assert!(matches!(missing, LogError::NotFound(_)), "{missing:?}");
    assert!(missing.to_string().contains("p2engine topics apply"), "{missing}");
    let settings = TopicSettings { partitions: Some(4), ..TopicSettings::default() };
    let before = topics::diff(&config, &settings).await.unwrap();
    assert!(before.iter().all(|one| matches!(one, Difference::Missing(_))), "{before:?}");
    assert_eq!(topics::apply(&config, &settings).await.unwrap(), before);
    assert_eq!(topics::diff(&config, &settings).await.unwrap(), []);
    assert_eq!(topics::apply(&config, &settings).await.unwrap(), []);

    // Somebody made it worse in one way, and set something of their own.
    let inbox = format!("{}{}", config.prefix, Topic::Inbox.name());
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.brokers);
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    let worse = AlterConfig::new(ResourceSpecifier::Topic(&inbox)).set("retention.ms", "1000");
    admin.alter_configs(&[worse.set("segment.bytes", "10000000")], &AdminOptions::new()).await.unwrap();
    // Brokers take settings over a little later than they answer.
    let mut found = Vec::new();
    while found.is_empty() {
        found = topics::diff(&config, &settings).await.unwrap();
    }
    assert_eq!(found[0].to_string(), format!("set {inbox}: retention.ms 1000 -> 604800000"));
    topics::apply(&config, &settings).await.unwrap();
    while !topics::diff(&config, &settings).await.unwrap().is_empty() {}
    let described = topics::describe(&config).await.unwrap();
    assert_eq!(described[&inbox].own["segment.bytes"], "10000000", "their own setting is still there");

    let other = TopicSettings { partitions: Some(8), ..TopicSettings::default() };
    let refused = topics::apply(&config, &other).await;
    let Err(LogError::Refused(sentences)) = refused else { panic!("got {refused:?}") };
    assert!(sentences.contains("it has 4 partitions, 8 are wanted"), "{sentences}");
    KafkaLog::connect(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_topic_does_not_take_is_one_sentence() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    let log = KafkaLog::connect(config).await.unwrap();
    // The value is within our limit, but with its key it is over that of the topic.
    let large = NewRecord {
        key: "k".repeat(200_000),
        value: vec![7; RECORD_BYTES_MAX],
        ..record(Topic::Inbox, 0, "")
    };
    let refused = log.append(vec![large.clone()]).await;
    let Err(LogError::TooLarge(sentence)) = refused else { panic!("got {refused:?}") };
    assert!(sentence.contains("max.message.bytes"), "{sentence}");
    let refused = log.append(vec![record(Topic::Inbox, 0, "small"), large]).await;
    assert!(matches!(refused, Err(LogError::TooLarge(_))), "got {refused:?}");
    log.append(vec![record(Topic::Inbox, 0, "next")]).await.unwrap();
    let read = log.read(Topic::Inbox, 0, 0, 9).await.unwrap();
    assert_eq!(read.len(), 1, "all or none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_with_one_slot_do_not_work_side_by_side() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    let one = KafkaLog::connect(config.clone()).await.unwrap();
    let two = KafkaLog::connect(config).await.unwrap();
    let mut first = one.join("p2.same", &[Topic::Inbox]).await.unwrap();
    for _ in 0..4 {
        assert!(matches!(first.next().await.unwrap(), MemberEvent::Assigned { .. }));
    }
    let mut second = two.join("p2.same", &[Topic::Inbox]).await.unwrap();
    for _ in 0..4 {
        assert!(matches!(second.next().await.unwrap(), MemberEvent::Assigned { .. }));
    }
    // Each takes the slot from the other, and joins again a few times: it may have been the broker's mistake.
    let ended = loop {
        let next = async {
            tokio::select! {
                event = first.next() => event,
                event = second.next() => event,
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), next).await.expect("one of them ends") {
            Ok(MemberEvent::Revoked { .. } | MemberEvent::Assigned { .. }) => {}
            other => break other,
        }
    };
    let Err(LogError::Refused(sentence)) = ended else { panic!("got {ended:?}") };
    assert!(sentence.contains("give each process its own kafka.slot"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_taken_for_another_joins_again() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    let one = KafkaLog::connect(config.clone()).await.unwrap();
    let two = KafkaLog::connect(config).await.unwrap();
    let mut first = one.join("p2.again", &[Topic::Inbox]).await.unwrap();
    let mut assigned = 0;
    while assigned < 4 {
        assert!(matches!(first.next().await.unwrap(), MemberEvent::Assigned { .. }));
        assigned += 1;
    }
    let mut second = two.join("p2.again", &[Topic::Inbox]).await.unwrap();
    assert!(matches!(second.next().await.unwrap(), MemberEvent::Assigned { .. }));
    drop(second);
    let (mut revoked, mut held) = (0, 4);
    while revoked < 4 || held < 4 {
        match tokio::time::timeout(Duration::from_secs(30), first.next())
            .await
            .expect("it joins again")
            .unwrap()
        {
            MemberEvent::Revoked { .. } => (revoked, held) = (revoked + 1, held - 1),
            MemberEvent::Assigned { .. } => held += 1,
            other => panic!("got {other:?}"),
        }
    }
    // And what it does counts.
    let progress = CommittedOffset { offset: 0, metadata: "again".to_owned() };
    let outputs = vec![record(Topic::Effects, 0, "again")];
    let batch = Batch { outputs, progress: vec![(Topic::Inbox, 2, progress)] };
    // The other one took its producer too, which the first commit finds out.
    let committer = first.committer();
    if let Err(error) = committer.commit(batch.clone()).await {
        assert!(matches!(error, CommitError::Aborted(_) | CommitError::Fenced(_)), "{error:?}");
        committer.commit(batch).await.unwrap();
    }
    assert_eq!(first.committed(Topic::Inbox, 2).await.unwrap().unwrap().metadata, "again");
}
