//! Processors in processes of their own, killed and suspended.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2_core::record::Topic;
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_stream::ports::Log;
use tokio::sync::watch;

use crate::broker::{self, create_topics, fresh_prefix};
use crate::copier::{Counts, copy, demand_exactly_once, record};

/// Says to a process of this test binary that it is a copier: port, prefix and slot.
const CHILD: &str = "P2_KAFKA_CHILD";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_copies() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let [brokers, prefix, slot] = what.split('|').collect::<Vec<_>>().try_into().unwrap();
    let config = KafkaConfig {
        brokers: brokers.to_owned(),
        prefix: prefix.to_owned(),
        slot: slot.to_owned(),
        session_timeout_ms: 6_000,
        transaction_timeout_ms: 4_000,
        ..KafkaConfig::default()
    };
    let log = KafkaLog::connect(config).await.unwrap();
    let (_stop, stopped) = watch::channel(false);
    let nonce = format!("{slot}/{}", std::process::id());
    copy(&log, "p2.child", &nonce, Arc::<Counts>::default(), stopped).await.unwrap();
}

struct Copier(Child);

impl Copier {
    fn start(config: &KafkaConfig, slot: &str) -> Copier {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::child_copies", "--nocapture", "--test-threads", "1"])
            .env(CHILD, format!("{}|{}|{slot}", config.brokers, config.prefix))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Copier(child)
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        // Nothing is said to anybody: as a kill -9.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_exactly_once_while_processes_are_killed_and_suspended_past_their_session() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    let log = KafkaLog::connect(config.clone()).await.unwrap();
    let (stop, mut stopped) = watch::channel(false);
    let writer = tokio::spawn({
        let log = log.clone();
        async move {
            let mut inputs = 0;
            while !*stopped.borrow() {
                let records = (0..20).map(|n| record(Topic::Inbox, n % 4, &format!("{inputs}/{n}")));
                log.append(records.collect()).await.unwrap();
                inputs += 20;
                let _ = tokio::time::timeout(Duration::from_millis(50), stopped.changed()).await;
            }
            inputs
        }
    });
    let pause = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
    let mut first = Copier::start(&config, "one");
    let second = Copier::start(&config, "two");
    pause(4).await;
    for _ in 0..3 {
        // Comes back as the same member, with the same transactional id.
        drop(first);
        first = Copier::start(&config, "one");
        pause(2).await;
    }
    // Suspended until its partitions are long the other's; then it goes on where it was.
    second.signal("-STOP");
    pause(10).await;
    second.signal("-CONT");
    pause(3).await;
    // The other way round; what it gets back was its own before.
    first.signal("-STOP");
    pause(8).await;
    drop(second);
    first.signal("-CONT");
    let third = Copier::start(&config, "three");
    pause(3).await;
    drop(first);
    stop.send(true).unwrap();
    let inputs = writer.await.unwrap();
    let begin = Instant::now();
    demand_exactly_once(&log, inputs).await;
    eprintln!("{inputs} records, each once; the last ones {} ms after the end", begin.elapsed().as_millis());
    drop(third);
}
