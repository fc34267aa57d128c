//! Three brokers with three copies of everything: one at a time is killed, at random, and work goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use p2_core::record::Topic;
use p2_kafka::topics::{self, Difference, TopicSettings};
use p2_kafka::{GroupProtocol, KafkaConfig, KafkaLog};
use p2_stream::ports::{Log, LogError, StoredRecord};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::sync::watch;

use crate::broker::{self, Cluster, create_topics, fresh_prefix};
use crate::copier::{Counts, all, copy, demand_exactly_once, record};

/// Partitions of the topics of this test.
const PARTITIONS: i32 = 4;
/// How long nothing may go on after a broker was killed.
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// How many attempts may be written and not copied.
const BACKLOG_MAX: u64 = 50;

/// Who leads what, as a client sees it.
struct Leaders {
    /// Leader and brokers in sync, by topic and partition.
    of: BTreeMap<(String, i32), (i32, usize)>,
}

impl Leaders {
    fn ask(config: &KafkaConfig) -> Option<Leaders> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &config.brokers);
        let client: BaseConsumer = client.create().unwrap();
        let metadata = client.fetch_metadata(None, Duration::from_secs(10)).ok()?;
        let mut of = BTreeMap::new();
        for topic in metadata.topics() {
            for one in topic.partitions() {
                of.insert((topic.name().to_owned(), one.id()), (one.leader(), one.isr().len()));
            }
        }
        Some(Leaders { of })
    }

    /// The index of the broker that answers for a group or a transactional id.
    fn coordinator(&self, topic: &str, id: &str) -> usize {
        let count = self.of.keys().filter(|(name, _)| name == topic).count();
        let hash = id.bytes().fold(0_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
        let partition = hash.checked_abs().unwrap_or(0) % i32::try_from(count).unwrap();
        usize::try_from(self.of[&(topic.to_owned(), partition)].0 - 1).unwrap()
    }
}

/// Waits until every partition has its three copies again.
async fn whole_again(config: &KafkaConfig) {
    let begin = Instant::now();
    loop {
        let asked = config.clone();
        let leaders = tokio::task::spawn_blocking(move || Leaders::ask(&asked)).await.unwrap();
        if leaders.is_some_and(|leaders| leaders.of.values().all(|(_, in_sync)| *in_sync == 3)) {
            return;
        }
        assert!(begin.elapsed() < PAUSE_MAX, "the copies of a broker that is back are not in sync");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What became of the attempts to write.
#[derive(Default)]
struct Written {
    /// The number of the next attempt.
    next: AtomicU64,
    /// The newest attempt that was acknowledged.
    newest: AtomicU64,
    acked: Mutex<BTreeSet<u64>>,
    /// It was said that nothing was written.
    denied: Mutex<BTreeSet<u64>>,
}

impl Seen {
    /// Waits while the copiers are far behind: on a slow machine the pauses would be those of the backlog.
    async fn keeps_up(&self, attempt: u64, stop: &watch::Receiver<bool>) {
        while !*stop.borrow() {
            let slowest = self.newest.lock().unwrap().values().copied().min().unwrap_or(0);
            if attempt.saturating_sub(slowest) < BACKLOG_MAX {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Writes a record to each partition, all or none, again and again.
async fn write(log: KafkaLog, written: Arc<Written>, seen: Arc<Seen>, stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        seen.keeps_up(written.next.load(Ordering::SeqCst), &stop).await;
        let attempt = written.next.fetch_add(1, Ordering::SeqCst) + 1;
        let records = (0..PARTITIONS).map(|partition| record(Topic::Inbox, partition, &attempt.to_string()));
        match log.append(records.collect()).await {
            Ok(_) => {
                written.acked.lock().unwrap().insert(attempt);
                written.newest.store(attempt, Ordering::SeqCst);
            }
            Err(LogError::Unavailable(reason)) if reason.starts_with("nothing was written") => {
                written.denied.lock().unwrap().insert(attempt);
            }
            Err(LogError::Unavailable(_)) => {}
            Err(error) => panic!("attempt {attempt}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writes single records, outside of transactions. Those that were acknowledged.
async fn write_singly(
    log: KafkaLog,
    written: Arc<Written>,
    seen: Arc<Seen>,
    stop: watch::Receiver<bool>,
) -> Vec<String> {
    let mut acked = Vec::new();
    for n in 0.. {
        seen.keeps_up(written.next.load(Ordering::SeqCst), &stop).await;
        if *stop.borrow() {
            break;
        }
        let text = format!("single {n}");
        match log.append(vec![record(Topic::Inbox, n % PARTITIONS, &text)]).await {
            Ok(_) => acked.push(text),
            Err(LogError::Unavailable(_)) => {}
            Err(error) => panic!("{text}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    acked
}

/// What a reader in no group saw of inputs and copies.
#[derive(Default)]
struct Seen {
    records: Mutex<BTreeMap<(Topic, i32), Vec<StoredRecord>>>,
    /// The newest attempt among the copies of each partition.
    newest: Mutex<BTreeMap<i32, u64>>,
}

async fn follow(log: KafkaLog, seen: Arc<Seen>, mut stop: watch::Receiver<bool>) -> Result<(), LogError> {
    let lanes = [Topic::Inbox, Topic::Artifacts]
        .into_iter()
        .flat_map(|topic| (0..PARTITIONS).map(move |p| (topic, p, 0)));
    let mut follower = log.follow(lanes.collect()).await?;
    loop {
        let next = tokio::select! {
            next = follower.next() => next?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        for stored in next {
            let (topic, partition) = (stored.record.topic, stored.record.partition);
            let text = String::from_utf8_lossy(&stored.record.value);
            if let (Topic::Artifacts, Ok(attempt)) = (topic, text.parse::<u64>()) {
                seen.newest.lock().unwrap().insert(partition, attempt);
            }
            seen.records.lock().unwrap().entry((topic, partition)).or_default().push(stored);
        }
    }
}

/// Waits until what is written from now on was acknowledged, and its copies were seen in every partition. How long
/// both took.
async fn goes_on(written: &Written, seen: &Seen, what: &str) -> (Duration, Duration) {
    let (begin, mark) = (Instant::now(), written.next.load(Ordering::SeqCst));
    let mut acked = None;
    loop {
        if acked.is_none() && written.newest.load(Ordering::SeqCst) > mark {
            acked = Some(begin.elapsed());
        }
        let newest = seen.newest.lock().unwrap().clone();
        let is_seen =
            (0..PARTITIONS).all(|partition| newest.get(&partition).is_some_and(|newest| *newest > mark));
        if let Some(acked) = acked.filter(|_| is_seen) {
            return (acked, begin.elapsed());
        }
        assert!(
            begin.elapsed() < PAUSE_MAX,
            "{what}: nothing goes on (acknowledged after {acked:?}; copies beyond attempt {mark}: {newest:?})"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Which broker is killed in a round: those that coordinate, then any.
fn victim(
    round: usize,
    cluster: &Cluster,
    config: &KafkaConfig,
    rng: &mut SmallRng,
) -> (usize, &'static str) {
    let leaders = Leaders::ask(config).expect("somebody answers");
    let id = |of: &str| format!("{}p2.copy{of}", config.prefix);
    match round {
        0 => (leaders.coordinator("__consumer_offsets", &id("")), "the group's coordinator"),
        1 => (leaders.coordinator("__transaction_state", &id("-one")), "a copier's transaction coordinator"),
        2 => match cluster.controller(rng.random_range(0..3)) {
            Some(controller) => (controller, "the controller"),
            None => (rng.random_range(0..3), "any"),
        },
        _ => (rng.random_range(0..3), "any"),
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Kills one broker at a time. `P2_BROKERS_KILLS` (6) and `P2_BROKERS_SEED` choose.
async fn kill_brokers(protocol: GroupProtocol) {
    let seed = number("P2_BROKERS_SEED", rand::random::<u32>().into());
    let kills = usize::try_from(number("P2_BROKERS_KILLS", 6)).unwrap();
    eprintln!("seed {seed}, {kills} kills, {protocol:?}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let cluster = Arc::new(Cluster::start());
    let config = KafkaConfig { protocol, ..cluster.config(&fresh_prefix()) };
    create_topics(&config).await;
    let (stop, stopped) = watch::channel(false);
    let mut copiers = Vec::new();
    let mut counts = Vec::new();
    for slot in ["one", "two"] {
        let log = KafkaLog::connect(KafkaConfig { slot: slot.to_owned(), ..config.clone() }).await.unwrap();
        let (of_this, stopped) = (Arc::<Counts>::default(), stopped.clone());
        counts.push(Arc::clone(&of_this));
        copiers.push(tokio::spawn(async move {
            let ended = copy(&log, "p2.copy", slot, of_this, stopped).await;
            ended.map_err(|error| format!("copier {slot} ended: {error}"))
        }));
    }
    let log = KafkaLog::connect(config.clone()).await.unwrap();
    let (written, seen) = (Arc::<Written>::default(), Arc::<Seen>::default());
    let (stop_writing, writing) = watch::channel(false);
    let writer = tokio::spawn(write(log.clone(), Arc::clone(&written), Arc::clone(&seen), writing.clone()));
    let other = KafkaLog::connect(config.clone()).await.unwrap();
    let single = tokio::spawn(write_singly(other.clone(), Arc::clone(&written), Arc::clone(&seen), writing));
    let follower = tokio::spawn(follow(other, Arc::clone(&seen), stopped));
    goes_on(&written, &seen, "with all three").await;

    for round in 0..kills {
        let (chosen, why) = victim(round, &cluster, &config, &mut rng);
        cluster.brokers[chosen].kill();
        let (acked, copied) = goes_on(&written, &seen, &format!("without broker {}", chosen + 1)).await;
        eprintln!(
            "kill {round}: broker {} ({why}): acknowledged again after {} ms, copied in every partition after {} ms",
            chosen + 1,
            acked.as_millis(),
            copied.as_millis()
        );
        let members = log.group_members("p2.copy").await;
        match protocol {
            GroupProtocol::Classic => assert_eq!(members.unwrap().len(), 2, "the copiers"),
            GroupProtocol::Consumer => assert!(matches!(members, Err(LogError::Refused(_))), "{members:?}"),
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..4_000))).await;
        let again = Arc::clone(&cluster);
        tokio::task::spawn_blocking(move || again.run_again([chosen])).await.unwrap();
        whole_again(&config).await;
    }
    // Not with the newer protocol: there a member may stand still afterwards (docs/reliability.md).
    if protocol == GroupProtocol::Classic {
        two_at_once(&cluster, &config, &written, &seen, &mut rng).await;
    }

    stop_writing.send(true).unwrap();
    writer.await.unwrap();
    let singles = single.await.unwrap();
    demand_written(&log, &written, &singles).await;
    stop.send(true).unwrap();
    for copier in copiers {
        copier.await.unwrap().unwrap();
    }
    demand_followed(&log, &seen).await;
    follower.await.unwrap().unwrap();
    let sum =
        |of: fn(&Counts) -> &AtomicU64| counts.iter().map(|one| of(one).load(Ordering::SeqCst)).sum::<u64>();
    eprintln!(
        "{} commits, {} aborted, {} fenced, {} unknown; {} partitions assigned, {} revoked",
        sum(|one| &one.committed),
        sum(|one| &one.aborted),
        sum(|one| &one.fenced),
        sum(|one| &one.unknown),
        sum(|one| &one.assigned),
        sum(|one| &one.revoked)
    );
}

/// Nothing may be acknowledged that one broker alone has. When the others are back, everything goes on.
async fn two_at_once(
    cluster: &Arc<Cluster>,
    config: &KafkaConfig,
    written: &Written,
    seen: &Seen,
    rng: &mut SmallRng,
) {
    let first = rng.random_range(0..3);
    let two = [first, (first + 1) % 3];
    for at in two {
        cluster.brokers[at].kill();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mark = written.next.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(written.newest.load(Ordering::SeqCst) <= mark, "acknowledged with one broker of three");
    let again = Arc::clone(cluster);
    tokio::task::spawn_blocking(move || again.run_again(two)).await.unwrap();
    let (acked, copied) = goes_on(written, seen, "when two are back").await;
    eprintln!(
        "two at once: acknowledged again {} ms after they were back, copied after {} ms",
        acked.as_millis(),
        copied.as_millis()
    );
    whole_again(config).await;
}

/// What was acknowledged is there once, what was denied is not, and the rest all or not at all; and every input was
/// copied once and in order.
async fn demand_written(log: &KafkaLog, written: &Written, singles: &[String]) {
    let acked = written.acked.lock().unwrap().clone();
    let denied = written.denied.lock().unwrap().clone();
    let mut found: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        for text in all(log, Topic::Inbox, partition).await {
            found.entry(text).or_default().push(partition);
        }
    }
    let everywhere: Vec<i32> = (0..PARTITIONS).collect();
    let attempts = written.next.load(Ordering::SeqCst);
    let mut settled = 0;
    for attempt in 1..=attempts {
        let is = found.get(&attempt.to_string()).map_or(&[][..], Vec::as_slice);
        if acked.contains(&attempt) {
            assert_eq!(is, everywhere, "attempt {attempt} was acknowledged");
        } else if denied.contains(&attempt) {
            assert!(is.is_empty(), "attempt {attempt} was denied, and is in {is:?}");
        } else {
            assert!(is.is_empty() || is == everywhere, "attempt {attempt} is torn: {is:?}");
            settled += usize::from(!is.is_empty());
        }
    }
    let mut twice = 0;
    for text in singles {
        let is = found.get(text).map_or(0, Vec::len);
        assert!(is >= 1, "{text} was acknowledged and is lost");
        twice += usize::from(is > 1);
    }
    eprintln!(
        "{attempts} attempts: {} acknowledged, {} denied, {settled} of the {} others written; {} single records \
         acknowledged, {twice} of them there more than once",
        acked.len(),
        denied.len(),
        attempts - (acked.len() + denied.len()) as u64,
        singles.len()
    );
    let inputs: usize = found.values().map(Vec::len).sum();
    demand_exactly_once(log, inputs).await;
}

/// A reader in no group saw what there is, once and in order.
async fn demand_followed(log: &KafkaLog, seen: &Seen) {
    let begin = Instant::now();
    for topic in [Topic::Inbox, Topic::Artifacts] {
        for partition in 0..PARTITIONS {
            let wanted = all(log, topic, partition).await;
            loop {
                let records =
                    seen.records.lock().unwrap().get(&(topic, partition)).cloned().unwrap_or_default();
                if records.len() >= wanted.len() || begin.elapsed() > PAUSE_MAX {
                    let texts = records.into_iter().map(|one| String::from_utf8(one.record.value).unwrap());
                    assert_eq!(texts.collect::<Vec<_>>(), wanted, "{} {partition}", topic.name());
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_done_twice_while_brokers_are_killed_one_by_one() {
    if broker::is_wanted() {
        kill_brokers(GroupProtocol::Classic).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_done_twice_while_brokers_are_killed_that_share_out_partitions_themselves() {
    if broker::is_wanted() {
        kill_brokers(GroupProtocol::Consumer).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_have_three_copies_and_fewer_are_a_hint() {
    if !broker::is_wanted() {
        return;
    }
    let cluster = Cluster::start();
    let config = cluster.config(&fresh_prefix());
    create_topics(&config).await;
    let insync = |state: &topics::TopicState| state.config["min.insync.replicas"].clone();
    for (name, state) in topics::describe(&config).await.unwrap() {
        assert_eq!((state.replication, insync(&state).as_str()), (3, "2"), "{name}");
    }
    assert_eq!(topics::diff(&config, &TopicSettings::default()).await.unwrap(), []);

    // Somebody wanted one copy: nothing that changes it by itself, and nothing that stands in the way.
    let config = KafkaConfig { prefix: fresh_prefix(), ..config };
    let one = TopicSettings { partitions: Some(4), replication: Some(1), min_insync: None };
    topics::apply(&config, &one).await.unwrap();
    assert_eq!(topics::diff(&config, &one).await.unwrap(), []);
    let hints = topics::apply(&config, &TopicSettings::default()).await.unwrap();
    let [Difference::Hint { topics: named, reason }] = hints.as_slice() else { panic!("got {hints:?}") };
    assert_eq!(named.len(), Topic::ALL.len());
    assert!(reason.contains("has 1 copy, and there are brokers for 3"), "{reason}");
    for (name, state) in topics::describe(&config).await.unwrap() {
        assert_eq!((state.replication, insync(&state).as_str()), (1, "1"), "{name}");
    }
    let asked = TopicSettings { replication: Some(3), ..TopicSettings::default() };
    let refused = topics::apply(&config, &asked).await;
    assert!(matches!(refused, Err(LogError::Refused(_))), "got {refused:?}");
    let four = TopicSettings { replication: Some(4), ..one };
    let many = topics::apply(&KafkaConfig { prefix: fresh_prefix(), ..config }, &four).await;
    let Err(LogError::Refused(sentence)) = many else { panic!("got {many:?}") };
    assert!(sentence.contains("fewer brokers than copies"), "{sentence}");
}
