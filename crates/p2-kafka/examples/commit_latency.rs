//! How long a commit of one output with progress takes on an idle broker, one after the other.
//!
//! `cargo run --release -p p2-kafka --example commit_latency -- HOST:PORT [COUNT]`

use std::time::Instant;

use p2_core::record::Topic;
use p2_kafka::topics::{self, TopicSettings};
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_stream::ports::{Batch, CommittedOffset, Log, NewRecord};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let brokers = arguments.next().ok_or("usage: commit_latency HOST:PORT [COUNT]")?;
    let count: i64 = arguments.next().map_or(Ok(300), |count| count.parse())?;
    let config = KafkaConfig { brokers, prefix: "latency.".to_owned(), ..KafkaConfig::default() };
    topics::apply(&config, &TopicSettings { partitions: Some(1), ..TopicSettings::default() }).await?;
    let log = KafkaLog::connect(config).await?;
    let mut member = log.join("p2.latency", &[Topic::Inbox]).await?;
    member.next().await?;
    let committer = member.committer();
    let mut took = Vec::new();
    for offset in 0..count {
        let output = NewRecord {
            topic: Topic::Artifacts,
            partition: 0,
            key: "key".to_owned(),
            headers: p2_stream::ports::Headers::default(),
            value: vec![7; 600],
            time_ms: 0,
        };
        let progress = CommittedOffset { offset, metadata: offset.to_string() };
        let batch = Batch { outputs: vec![output], progress: vec![(Topic::Inbox, 0, progress)] };
        let begin = Instant::now();
        committer.commit(batch).await?;
        took.push(begin.elapsed());
    }
    took.sort();
    let at = |share: usize| took.get(took.len() * share / 100).map_or(0.0, |took| took.as_secs_f64() * 1e3);
    println!("commits {count}: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms", at(50), at(90), at(99));
    drop(member);
    log.left(std::time::Duration::from_secs(5)).await;
    Ok(())
}
