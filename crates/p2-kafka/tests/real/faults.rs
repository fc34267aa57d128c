//! What goes wrong between a processor and its broker.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use p2_core::record::Topic;
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_stream::ports::{Batch, CommitError, CommittedOffset, Log, LogError, Member, MemberEvent};
use tokio::sync::watch;

use crate::broker::{self, Broker, create_topics, free_port, fresh_prefix};
use crate::copier::{Counts, all, copy, demand_exactly_once, record};
use crate::proxy::{END_TXN, Fault, OFFSET_FETCH, Proxy, TXN_OFFSET_COMMIT};

/// A broker that clients reach through a proxy.
async fn proxied() -> (Broker, Proxy, KafkaConfig) {
    let (inside, outside) = (free_port(), free_port());
    let broker = Broker::start_with(&[
        ("KAFKA_LISTENER", format!("PROXIED://127.0.0.1:{inside}")),
        ("KAFKA_ADVERTISED", format!("PROXIED://127.0.0.1:{outside}")),
    ]);
    let proxy = Proxy::start(outside, inside).await;
    let mut config = broker.config(&fresh_prefix());
    config.brokers = format!("127.0.0.1:{outside}");
    create_topics(&config).await;
    (broker, proxy, config)
}

async fn own(log: &KafkaLog, member: &mut dyn Member) {
    for _ in 0..log.partitions(Topic::Inbox) {
        assert!(matches!(member.next().await.unwrap(), MemberEvent::Assigned { .. }));
    }
}

fn batch(n: i64) -> Batch {
    let text = n.to_string();
    let progress = CommittedOffset { offset: n, metadata: format!("batch {n}") };
    Batch {
        outputs: vec![record(Topic::Effects, 0, &text), record(Topic::Artifacts, 3, &text)],
        progress: vec![(Topic::Inbox, 2, progress)],
    }
}

async fn demand_effects(log: &KafkaLog, wanted: &[&str]) {
    assert_eq!(all(log, Topic::Effects, 0).await, wanted);
    assert_eq!(all(log, Topic::Artifacts, 3).await, wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_messages_are_lost_or_late_is_settled_and_never_torn() {
    if !broker::is_wanted() {
        return;
    }
    let (_broker, proxy, config) = proxied().await;
    let log = KafkaLog::connect(config).await.unwrap();
    let mut member = log.join("p2.unknown", &[Topic::Inbox]).await.unwrap();
    own(&log, member.as_mut()).await;
    let committer = member.committer();
    committer.commit(batch(1)).await.unwrap();

    // The broker commits, and nobody hears of it: the next producer's owner finds it done.
    proxy.fault(END_TXN, Fault::LoseReply);
    committer.commit(batch(2)).await.unwrap();
    assert!(proxy.hits() > 0, "the reply was lost");
    proxy.heal();
    demand_effects(&log, &["1", "2"]).await;

    // The broker never hears of the commit: the next producer aborts it.
    let before = proxy.hits();
    proxy.fault(END_TXN, Fault::LoseRequest);
    let lost = committer.commit(batch(3)).await;
    assert!(proxy.hits() > before, "the request was lost");
    assert!(matches!(lost, Err(CommitError::Aborted(_))), "got {lost:?}");
    proxy.heal();
    demand_effects(&log, &["1", "2"]).await;
    committer.commit(batch(3)).await.unwrap();

    // The broker hears of it when a newer producer has the id: it must not count any more.
    let late = Duration::from_secs(10);
    proxy.fault(END_TXN, Fault::DelayRequest(late));
    let begin = Instant::now();
    let delayed = committer.commit(batch(4)).await;
    assert!(matches!(delayed, Err(CommitError::Aborted(_))), "got {delayed:?}");
    assert!(begin.elapsed() < late, "settled before the request arrived");
    proxy.heal();
    demand_effects(&log, &["1", "2", "3"]).await;
    tokio::time::sleep(late.saturating_sub(begin.elapsed()) + Duration::from_secs(1)).await;
    demand_effects(&log, &["1", "2", "3"]).await;
    let committed = member.committed(Topic::Inbox, 2).await.unwrap().unwrap();
    assert_eq!((committed.offset, committed.metadata.as_str()), (3, "batch 3"));
    committer.commit(batch(4)).await.unwrap();

    // Progress that does not get through in time, then a reply that is late but in time.
    proxy.fault(TXN_OFFSET_COMMIT, Fault::LoseRequest);
    let stuck = committer.commit(batch(5)).await;
    assert!(matches!(stuck, Err(CommitError::Aborted(_))), "got {stuck:?}");
    proxy.heal();
    demand_effects(&log, &["1", "2", "3", "4"]).await;
    proxy.fault(END_TXN, Fault::DelayReply(Duration::from_secs(1)));
    committer.commit(batch(5)).await.unwrap();
    proxy.heal();
    demand_effects(&log, &["1", "2", "3", "4", "5"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_from_a_coordinator_that_forgot_is_not_believed() {
    if !broker::is_wanted() {
        return;
    }
    let (_broker, proxy, mut config) = proxied().await;
    config.request_timeout_ms = 5_000;
    let log = KafkaLog::connect(config).await.unwrap();
    let mut member = log.join("p2.forgotten", &[Topic::Inbox]).await.unwrap();
    own(&log, member.as_mut()).await;
    let committer = member.committer();
    committer.commit(batch(1)).await.unwrap();
    // Once it is known, no transaction is open any more that an answer would wait for.
    assert_eq!(member.committed(Topic::Inbox, 2).await.unwrap().unwrap().offset, 1);
    proxy.fault(OFFSET_FETCH, Fault::RepeatReply);
    let known = member.committed(Topic::Inbox, 2).await.unwrap().unwrap();
    assert_eq!(known.offset, 1, "nothing is out of date yet");
    committer.commit(batch(2)).await.unwrap();
    let old = member.committed(Topic::Inbox, 2).await;
    assert!(proxy.hits() > 0, "an old answer was given");
    assert!(matches!(old, Err(LogError::Unavailable(_))), "got {old:?}");

    // Nor where the outcome of a commit hangs on it.
    proxy.fault(END_TXN, Fault::LoseReply);
    committer.commit(batch(3)).await.unwrap();
    proxy.heal();
    demand_effects(&log, &["1", "2", "3"]).await;
    assert_eq!(member.committed(Topic::Inbox, 2).await.unwrap().unwrap().offset, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_cut_off_past_its_session_commits_nothing_for_what_it_lost_and_got_back() {
    if !broker::is_wanted() {
        return;
    }
    let (broker, proxy, config) = proxied().await;
    let zombie = KafkaLog::connect(config.clone()).await.unwrap();
    let mut member = zombie.join("p2.zombie", &[Topic::Inbox]).await.unwrap();
    own(&zombie, member.as_mut()).await;
    let committer = member.committer();
    committer.commit(batch(1)).await.unwrap();
    proxy.refuse();
    let direct = KafkaConfig { slot: "other".to_owned(), prefix: config.prefix, ..broker.config("") };
    let log = KafkaLog::connect(direct).await.unwrap();
    let mut heir = log.join("p2.zombie", &[Topic::Inbox]).await.unwrap();
    own(&log, heir.as_mut()).await;
    assert_eq!(heir.committed(Topic::Inbox, 2).await.unwrap().unwrap().metadata, "batch 1");
    heir.committer().commit(batch(2)).await.unwrap();
    proxy.heal();
    // It was told nothing and believes that it still owns everything.
    let old = loop {
        match committer.commit(batch(7)).await {
            Err(CommitError::Aborted(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => break other,
        }
    };
    assert!(matches!(old, Err(CommitError::Fenced(_))), "got {old:?}");
    drop(heir);
    // The partition comes back: what was prepared under the first ownership is refused all the same.
    let mut back = false;
    while !back {
        let refused = committer.commit(batch(8)).await;
        assert!(refused.is_err(), "prepared before it knew of the loss");
        if let MemberEvent::Assigned { partition: 2, committed, .. } = member.next().await.unwrap() {
            assert_eq!(committed.unwrap().metadata, "batch 2");
            back = true;
        }
    }
    committer.commit(batch(3)).await.unwrap();
    demand_effects(&log, &["1", "2", "3"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_exactly_once_while_the_broker_is_killed_and_connections_are_cut() {
    if !broker::is_wanted() {
        return;
    }
    let (broker, proxy, config) = proxied().await;
    let log = KafkaLog::connect(config.clone()).await.unwrap();
    let direct = KafkaConfig { slot: "writer".to_owned(), ..broker.config(&config.prefix) };
    let writer = KafkaLog::connect(direct).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let mut copiers = Vec::new();
    let mut counts = Vec::new();
    for nonce in ["one", "two"] {
        let of_this: Arc<Counts> = Arc::default();
        counts.push(Arc::clone(&of_this));
        let (log, stopped) = (log.clone(), stopped.clone());
        copiers.push(tokio::spawn(async move {
            let ended = copy(&log, "p2.copy", nonce, of_this, stopped).await;
            if let Err(error) = &ended {
                eprintln!("copier {nonce} ended: {error}");
            }
            ended
        }));
    }
    let mut inputs = 0;
    for round in 0..24 {
        let records: Vec<_> = (0..40).map(|n| record(Topic::Inbox, n % 4, &format!("{round}/{n}"))).collect();
        // A batch whose answer was lost would be written twice by a second try: so one by one, by position.
        if writer.append(records).await.is_ok() {
            inputs += 40;
        }
        match round {
            8 => {
                broker.kill();
                broker.run();
            }
            4 | 12 | 18 => proxy.cut(),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    demand_exactly_once(&writer, inputs).await;
    stop.send(true).unwrap();
    for copier in copiers {
        copier.await.unwrap().unwrap();
    }
    let committed: u64 = counts.iter().map(|one| one.committed.load(Ordering::SeqCst)).sum();
    assert!(committed > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_exactly_once_while_members_come_and_go() {
    if !broker::is_wanted() {
        return;
    }
    let log = broker::shared().log().await;
    let (stop, stopped) = watch::channel(false);
    let counts: Arc<Counts> = Arc::default();
    let steady = tokio::spawn({
        let (log, counts, stopped) = (log.clone(), Arc::clone(&counts), stopped.clone());
        async move { copy(&log, "p2.storm", "steady", counts, stopped).await }
    });
    let mut guests = 0;
    for round in 0..10 {
        let (leave, left) = watch::channel(false);
        let of_guest: Arc<Counts> = Arc::default();
        let guest = tokio::spawn({
            let (log, counts) = (log.clone(), Arc::clone(&of_guest));
            async move { copy(&log, "p2.storm", &format!("guest {round}"), counts, left).await }
        });
        for n in 0..20 {
            let records = (0..4).map(|partition| record(Topic::Inbox, partition, &format!("{round}/{n}")));
            log.append(records.collect()).await.unwrap();
        }
        // It stays until it got something, or for a while: some leave before they were let in.
        let stay = async {
            while of_guest.assigned.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let longest = if round % 3 == 0 { Duration::from_millis(500) } else { Duration::from_secs(20) };
        let _ = tokio::time::timeout(longest, stay).await;
        leave.send(true).unwrap();
        guest.await.unwrap().unwrap();
        guests += of_guest.assigned.load(Ordering::SeqCst);
    }
    demand_exactly_once(&log, 10 * 20 * 4).await;
    stop.send(true).unwrap();
    let ended = steady.await.unwrap();
    let moved = (counts.assigned.load(Ordering::SeqCst), counts.revoked.load(Ordering::SeqCst));
    // Who had them in between is the group's business: they moved if guests had some.
    assert!(
        ended.is_ok() && guests > 0,
        "steady: {moved:?} assigned and revoked, {ended:?}; guests: {guests}"
    );
}

/// Every two seconds somebody joins or leaves, for `P2_STORM_SECONDS` (20), while records come in all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_exactly_once_under_a_rebalance_every_two_seconds() {
    if !broker::is_wanted() {
        return;
    }
    let seconds = std::env::var("P2_STORM_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let log = broker::shared().log().await;
    let (stop, stopped) = watch::channel(false);
    let counts: Arc<Counts> = Arc::default();
    let start = |name: String, stopped: watch::Receiver<bool>| {
        let (log, counts) = (log.clone(), Arc::clone(&counts));
        tokio::spawn(async move { copy(&log, "p2.rebalances", &name, counts, stopped).await })
    };
    let steady: Vec<_> = (0..2).map(|n| start(format!("steady {n}"), stopped.clone())).collect();
    let mut guest = None;
    let mut inputs = 0;
    let (begin, mut turns) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(seconds) {
        if begin.elapsed() >= Duration::from_secs(2) * turns {
            turns += 1;
            guest = match guest.take() {
                None => {
                    let (leave, left) = watch::channel(false);
                    Some((leave, start(format!("guest {turns}"), left)))
                }
                Some((leave, guest)) => {
                    leave.send(true).unwrap();
                    guest.await.unwrap().unwrap();
                    None
                }
            };
        }
        let records =
            (0..4).map(|partition| record(Topic::Inbox, partition, &format!("{inputs}/{partition}")));
        log.append(records.collect()).await.unwrap();
        inputs += 4;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    demand_exactly_once(&log, inputs).await;
    stop.send(true).unwrap();
    if let Some((leave, guest)) = guest {
        leave.send(true).unwrap();
        guest.await.unwrap().unwrap();
    }
    for steady in steady {
        steady.await.unwrap().unwrap();
    }
    let (assigned, revoked) = (counts.assigned.load(Ordering::SeqCst), counts.revoked.load(Ordering::SeqCst));
    eprintln!("{inputs} records, {turns} comings and goings, {assigned} assigned, {revoked} revoked");
    assert!(assigned > 4, "partitions moved: {assigned} assigned, {revoked} revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_died_inside_a_transaction_is_ended_at_once_by_its_slot() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    if !broker::is_wanted() {
        return;
    }
    let mut config = broker::shared().config(&fresh_prefix());
    config.transaction_timeout_ms = 40_000;
    config.session_timeout_ms = 45_000;
    create_topics(&config).await;
    let mut client = rdkafka::ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("transactional.id", format!("{}p2.dies-0", config.prefix))
        .set("transaction.timeout.ms", "40000");
    let dying: BaseProducer = client.create().unwrap();
    dying.init_transactions(Duration::from_secs(10)).unwrap();
    dying.begin_transaction().unwrap();
    let name = format!("{}{}", config.prefix, Topic::Inbox.name());
    dying
        .send(BaseRecord::to(&name).partition(1).key("k").payload("never"))
        .unwrap_or_else(|_| panic!("sent"));
    dying.flush(Duration::from_secs(10)).unwrap();
    // It says nothing more, as if it had been killed.
    std::mem::forget(dying);
    let log = KafkaLog::connect(config).await.unwrap();
    let after = log.append(vec![record(Topic::Inbox, 1, "after")]).await.unwrap();
    assert_eq!(after[0].offset, 1);
    let mut blocked = std::pin::pin!(log.read(Topic::Inbox, 1, 0, 9));
    let first = tokio::time::timeout(Duration::from_secs(1), &mut blocked).await;
    assert!(first.is_err(), "an open transaction hides what comes after it: {first:?}");
    let begin = Instant::now();
    let member = log.join("p2.dies", &[Topic::Inbox]).await.unwrap();
    let read = blocked.await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(15), "long before the transaction times out");
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].record.value, b"after");
    drop(member);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_nobody_asks_for_events_keeps_its_partitions() {
    if !broker::is_wanted() {
        return;
    }
    let mut config = broker::shared().config(&fresh_prefix());
    config.properties.insert("max.poll.interval.ms".to_owned(), "6000".to_owned());
    create_topics(&config).await;
    let log = KafkaLog::connect(config).await.unwrap();
    let mut member = log.join("p2.slow", &[Topic::Inbox]).await.unwrap();
    own(&log, member.as_mut()).await;
    for partition in 0..4 {
        member.seek(Topic::Inbox, partition, 0).await.unwrap();
        member.pause(Topic::Inbox, partition);
    }
    log.append((0..400).map(|n| record(Topic::Inbox, n % 4, "waits")).collect()).await.unwrap();
    // Longer than a session and than the poll interval: thousands of calls of two seconds in the real thing.
    tokio::time::sleep(Duration::from_secs(9)).await;
    member.committer().commit(batch(1)).await.unwrap();
    for partition in 0..4 {
        member.resume(Topic::Inbox, partition);
    }
    let mut found = 0;
    while found < 400 {
        match member.next().await.unwrap() {
            MemberEvent::Records { records, .. } => found += records.len(),
            other => panic!("expected records, got {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_member_is_gone_soon_also_when_the_broker_is() {
    if !broker::is_wanted() {
        return;
    }
    let broker = Broker::start();
    let log = broker.log().await;
    for (round, limit) in [("well", 5), ("frozen", 30), ("killed", 30)] {
        let mut member = log.join("p2.drops", &[Topic::Inbox]).await.unwrap();
        own(&log, member.as_mut()).await;
        member.committer().commit(batch(1)).await.unwrap();
        match round {
            "frozen" => broker.freeze(),
            "killed" => broker.kill(),
            _ => {}
        }
        let begin = Instant::now();
        drop(member);
        assert!(begin.elapsed() < Duration::from_millis(100), "dropping waits for nothing");
        assert!(log.left(Duration::from_secs(limit)).await, "{round}: still there after {limit} s");
        eprintln!("dropped with a broker that is {round}: gone after {} ms", begin.elapsed().as_millis());
        match round {
            "frozen" => broker.go_on(),
            "killed" => broker.run(),
            _ => {}
        }
    }
}
