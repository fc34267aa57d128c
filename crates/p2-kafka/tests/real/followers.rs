//! Followers, and who is in a group.

use std::time::Duration;

use p2_core::record::Topic;
use p2_kafka::{GroupProtocol, KafkaConfig, KafkaLog};
use p2_stream::ports::{Batch, CommittedOffset, Follower, Log, LogError, Member, MemberEvent, NewRecord};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::broker::{self, Broker, create_topics, fresh_prefix};
use crate::copier::record;

/// The texts of the next `count` records, with their partitions.
async fn texts(follower: &mut dyn Follower, count: usize) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    while found.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(60), follower.next());
        let records = next.await.expect("records come").unwrap();
        found.extend(
            records
                .into_iter()
                .map(|stored| (stored.record.partition, String::from_utf8(stored.record.value).unwrap())),
        );
    }
    found
}

async fn of_partition(follower: &mut dyn Follower, partition: i32, count: usize) -> Vec<String> {
    let found = texts(follower, count).await;
    assert!(found.iter().all(|(of, _)| *of == partition), "{found:?}");
    found.into_iter().map(|(_, text)| text).collect()
}

fn client(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.brokers);
    client
}

fn name(config: &KafkaConfig, topic: Topic) -> String {
    format!("{}{}", config.prefix, topic.name())
}

async fn delete_below(config: &KafkaConfig, partition: i32, offset: i64) {
    let admin: AdminClient<DefaultClientContext> = client(config).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&name(config, Topic::Inbox), partition, Offset::Offset(offset)).unwrap();
    admin.delete_records(&list, &AdminOptions::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_goes_on_where_it_was_while_the_broker_dies_and_comes_back() {
    if !broker::is_wanted() {
        return;
    }
    let broker = Broker::start();
    let log = broker.log().await;
    let mut follower = log.follow(vec![(Topic::Inbox, 1, 0), (Topic::Inbox, 2, 0)]).await.unwrap();
    let mut written = Vec::new();
    let mut found = Vec::new();
    for round in 0..3 {
        for n in 0..30 {
            let text = format!("{round}/{n}");
            log.append(vec![record(Topic::Inbox, 1, &text)]).await.unwrap();
            written.push(text);
        }
        // A part is taken in before the broker dies, the rest is in the client's hands or still at the broker.
        found.extend(texts(follower.as_mut(), 10).await);
        broker.kill();
        let away = tokio::time::timeout(Duration::from_millis(500), async {
            loop {
                found.extend(texts(follower.as_mut(), 1).await);
            }
        });
        assert!(away.await.is_err(), "it waits for the broker and is no error");
        broker.run();
        // The log's own clients reconnect as well.
        while let Err(error) = log.bounds(Topic::Inbox, 1).await {
            assert!(matches!(error, LogError::Unavailable(_)), "{error:?}");
        }
    }
    log.append(vec![record(Topic::Inbox, 1, "last")]).await.unwrap();
    written.push("last".to_owned());
    found.extend(texts(follower.as_mut(), written.len() - found.len()).await);
    let found: Vec<String> = found.into_iter().map(|(_, text)| text).collect();
    assert_eq!(found, written, "nothing twice, nothing left out, in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_sees_nothing_of_transactions_that_were_aborted_or_are_open() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    let log = KafkaLog::connect(config.clone()).await.unwrap();
    let mut follower = log.follow(vec![(Topic::Inbox, 1, 0)]).await.unwrap();
    log.append(vec![record(Topic::Inbox, 1, "before")]).await.unwrap();
    let id = format!("{}aborts", config.prefix);
    let producer: BaseProducer = client(&config).set("transactional.id", id).create().unwrap();
    let longest = Duration::from_secs(10);
    producer.init_transactions(longest).unwrap();
    let inbox = name(&config, Topic::Inbox);
    // More than what passes for markers: a gap that is looked at before it is believed.
    for (round, count) in [("few", 3), ("many", 40)] {
        producer.begin_transaction().unwrap();
        for _ in 0..count {
            let sent = producer.send(BaseRecord::to(&inbox).partition(1).key("k").payload("never"));
            assert!(sent.is_ok());
        }
        producer.flush(longest).unwrap();
        producer.abort_transaction(longest).unwrap();
        log.append(vec![record(Topic::Inbox, 1, round)]).await.unwrap();
    }
    assert_eq!(of_partition(follower.as_mut(), 1, 3).await, ["before", "few", "many"]);
    producer.begin_transaction().unwrap();
    let sent = producer.send(BaseRecord::to(&inbox).partition(1).key("k").payload("open"));
    assert!(sent.is_ok());
    producer.flush(longest).unwrap();
    log.append(vec![record(Topic::Inbox, 1, "behind")]).await.unwrap();
    let early = tokio::time::timeout(Duration::from_secs(1), follower.next()).await;
    assert!(early.is_err(), "an open transaction hides itself and what comes after it: {early:?}");
    let newest = tokio::time::timeout(Duration::from_secs(5), log.newest(Topic::Inbox, 1, 100)).await;
    let newest = newest.expect("the newest that is decided waits for no transaction").unwrap();
    let values: Vec<&[u8]> = newest.iter().map(|stored| stored.record.value.as_slice()).collect();
    assert_eq!(values, [&b"before"[..], b"few", b"many"]);
    producer.commit_transaction(longest).unwrap();
    assert_eq!(of_partition(follower.as_mut(), 1, 2).await, ["open", "behind"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_is_told_of_what_is_deleted_and_waits_for_what_is_not_there_yet() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    let log = KafkaLog::connect(config.clone()).await.unwrap();
    let nowhere = log.follow(vec![(Topic::Inbox, 4, 0)]).await.err().unwrap();
    assert!(matches!(nowhere, LogError::NotFound(_)), "{nowhere:?}");
    for n in 0..6 {
        log.append(vec![record(Topic::Inbox, 1, &n.to_string())]).await.unwrap();
    }
    delete_below(&config, 1, 4).await;
    for from in [-2, 0, 3] {
        let mut below = log.follow(vec![(Topic::Inbox, 2, 0), (Topic::Inbox, 1, from)]).await.unwrap();
        let gone = below.next().await;
        let Err(LogError::NotFound(sentence)) = gone else { panic!("got {gone:?}") };
        let expected = format!("p2.inbox.v1 partition 1 begins at offset 4: what was at {from} is deleted");
        assert_eq!(sentence, expected);
    }
    let mut beyond = log.follow(vec![(Topic::Inbox, 1, 8), (Topic::Inbox, 2, 0)]).await.unwrap();
    log.append(vec![record(Topic::Inbox, 2, "other")]).await.unwrap();
    assert_eq!(of_partition(beyond.as_mut(), 2, 1).await, ["other"]);
    for n in 6..10 {
        log.append(vec![record(Topic::Inbox, 1, &n.to_string())]).await.unwrap();
    }
    assert_eq!(of_partition(beyond.as_mut(), 1, 2).await, ["8", "9"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_asked_in_pieces_loses_nothing() {
    if !broker::is_wanted() {
        return;
    }
    let log = broker::shared().log().await;
    let mut follower =
        log.follow((0..4).map(|partition| (Topic::Inbox, partition, 0)).collect()).await.unwrap();
    let mut found = Vec::new();
    for round in 0..50 {
        let records = (0..40).map(|n| record(Topic::Inbox, n % 4, &format!("{}", round * 10 + n / 4)));
        log.append(records.collect()).await.unwrap();
        // Cut off in the middle again and again.
        while let Ok(records) = tokio::time::timeout(Duration::from_millis(3), follower.next()).await {
            found.extend(records.unwrap());
        }
    }
    while found.len() < 2_000 {
        let records = follower.next().await.unwrap();
        assert!(!records.is_empty() && records.len() <= 500);
        assert!(records.iter().all(|stored| stored.record.partition == records[0].record.partition));
        found.extend(records);
    }
    for partition in 0..4 {
        let of_this = found.iter().filter(|stored| stored.record.partition == partition);
        let values: Vec<&[u8]> = of_this.map(|stored| stored.record.value.as_slice()).collect();
        let expected: Vec<String> = (0..500).map(|n| n.to_string()).collect();
        assert_eq!(values, expected.iter().map(String::as_bytes).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_follower_waits_for_nothing_and_leaves_no_group() {
    if !broker::is_wanted() {
        return;
    }
    let broker = Broker::start();
    let config = broker.config(&fresh_prefix());
    create_topics(&config).await;
    let log = KafkaLog::connect(config.clone()).await.unwrap();
    log.append(vec![record(Topic::Inbox, 1, "one")]).await.unwrap();
    let mut followers = Vec::new();
    for _ in 0..3 {
        let mut follower = log.follow(vec![(Topic::Inbox, 1, 0)]).await.unwrap();
        assert_eq!(of_partition(follower.as_mut(), 1, 1).await, ["one"]);
        followers.push(follower);
    }
    let asker: BaseConsumer = client(&config).create().unwrap();
    // A broker that has just started still reads its groups.
    let begin = std::time::Instant::now();
    let groups = loop {
        match asker.fetch_group_list(None, Duration::from_secs(10)) {
            Err(error) if begin.elapsed() < Duration::from_secs(30) => eprintln!("asked again: {error}"),
            groups => break groups.unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let names: Vec<&str> = groups.groups().iter().map(|group| group.name()).collect();
    assert_eq!(names, [""; 0], "followers are in no group");
    let closing = || {
        let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
        names.filter(|name| name.starts_with("p2-kafka-close")).count()
    };
    for round in ["well", "killed"] {
        if round == "killed" {
            broker.kill();
        }
        let begin = std::time::Instant::now();
        drop(followers.pop());
        assert!(begin.elapsed() < Duration::from_millis(100), "dropping waits for nothing");
        while closing() > 0 {
            assert!(begin.elapsed() < Duration::from_secs(30), "{round}: the client is still closing");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        eprintln!("dropped with a broker that is {round}: gone after {} ms", begin.elapsed().as_millis());
    }
}

async fn member(log: &KafkaLog, group: &str) -> Box<dyn Member> {
    let mut member = log.join(group, &[Topic::Inbox]).await.unwrap();
    assert!(matches!(member.next().await.unwrap(), MemberEvent::Assigned { .. }));
    member
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_members_of_a_group_are_counted_by_name() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    let log = KafkaLog::connect(config.clone()).await.unwrap();
    let other = KafkaConfig { slot: "other".to_owned(), ..config.clone() };
    let other = KafkaLog::connect(other).await.unwrap();
    assert_eq!(log.group_members("p2.counted").await.unwrap(), [""; 0]);
    let first = member(&log, "p2.counted").await;
    let second = member(&other, "p2.counted").await;
    let prefix = &config.prefix;
    let expected = [format!("{prefix}p2.counted-0"), format!("{prefix}p2.counted-other")];
    assert_eq!(log.group_members("p2.counted").await.unwrap(), expected);
    assert_eq!(log.group_members("p2.count").await.unwrap(), [""; 0]);
    drop(second);
    assert!(other.left(Duration::from_secs(10)).await);
    assert_eq!(log.group_members("p2.counted").await.unwrap(), expected[..1]);
    let progress = CommittedOffset { offset: 1, metadata: "kept".to_owned() };
    let mut first = first;
    let batch = loop {
        // The partitions of the other one come back.
        let batch = Batch { outputs: Vec::new(), progress: vec![(Topic::Inbox, 0, progress.clone())] };
        match first.committer().commit(batch).await {
            Ok(done) => break done,
            Err(_) => drop(first.next().await.unwrap()),
        }
    };
    assert_eq!(batch, []);
    drop(first);
    assert!(log.left(Duration::from_secs(10)).await);
    assert_eq!(
        log.group_members("p2.counted").await.unwrap(),
        [""; 0],
        "a group with progress and no member"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_group_of_the_new_protocol_are_not_passed_over() {
    if !broker::is_wanted() {
        return;
    }
    let config =
        KafkaConfig { protocol: GroupProtocol::Consumer, ..broker::shared().config(&fresh_prefix()) };
    create_topics(&config).await;
    let log = KafkaLog::connect(config).await.unwrap();
    let _member = member(&log, "p2.newer").await;
    let refused = log.group_members("p2.newer").await;
    let Err(LogError::Refused(sentence)) = refused else { panic!("got {refused:?}") };
    assert!(sentence.contains("kafka-consumer-groups --describe --members --group"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_has_one_id_and_another_has_another() {
    if !broker::is_wanted() {
        return;
    }
    let log = broker::shared().log().await;
    let id = log.cluster_id().await.unwrap();
    assert!(!id.is_empty());
    assert_eq!(broker::shared().log().await.cluster_id().await.unwrap(), id);
    let other = Broker::start();
    assert_ne!(other.log().await.cluster_id().await.unwrap(), id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_of_transactions_do_not_pass_for_records_of_a_time() {
    if !broker::is_wanted() {
        return;
    }
    let log = broker::shared().log().await;
    // Times long before the broker wrote the marker of each of these transactions.
    let timed = |time_ms: i64| NewRecord { time_ms, ..record(Topic::Inbox, 1, &time_ms.to_string()) };
    let mut positions = Vec::new();
    for second in (1..11).step_by(2) {
        let pair = vec![timed(1_000 * second), timed(1_000 * (second + 1))];
        positions.extend(log.append(pair).await.unwrap());
    }
    for (nth, position) in positions.iter().enumerate() {
        let time_ms = 1_000 * (i64::try_from(nth).unwrap() + 1);
        assert_eq!(log.offset_at(Topic::Inbox, 1, time_ms).await.unwrap(), position.offset, "{time_ms}");
    }
    let (_, end) = log.bounds(Topic::Inbox, 1).await.unwrap();
    assert_eq!(log.offset_at(Topic::Inbox, 1, 10_001).await.unwrap(), end, "after the last record");
    assert_eq!(log.offset_at(Topic::Inbox, 1, -5).await.unwrap(), 0, "before all time");
}
