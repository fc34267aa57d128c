//! The smallest exactly-once processor: every record of `inbox` becomes one of `artifacts`, in the same partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use p2_core::record::Topic;
use p2_kafka::KafkaLog;
use p2_stream::ports::{
    Batch, CommitError, CommittedOffset, Committer, Log, LogError, Member, MemberEvent, NewRecord,
    StoredRecord,
};
use tokio::sync::watch;

/// What happened to a copier.
#[derive(Default)]
pub struct Counts {
    pub committed: AtomicU64,
    pub aborted: AtomicU64,
    pub fenced: AtomicU64,
    pub unknown: AtomicU64,
    pub assigned: AtomicU64,
    pub revoked: AtomicU64,
}

fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::SeqCst) + 1
}

pub fn record(topic: Topic, partition: i32, text: &str) -> NewRecord {
    NewRecord {
        topic,
        partition,
        key: format!("key {text}"),
        headers: p2_stream::ports::Headers::default(),
        value: text.as_bytes().to_vec(),
        time_ms: 1_000,
    }
}

/// Copies until told to stop.
pub async fn copy(
    log: &KafkaLog,
    group: &str,
    nonce: &str,
    counts: Arc<Counts>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), LogError> {
    let mut member = log.join(group, &[Topic::Inbox]).await?;
    let committer = member.committer();
    let mut owned: BTreeMap<i32, i64> = BTreeMap::new();
    let mut batches = 0;
    loop {
        tracing::debug!(nonce, ?owned, "next");
        let event = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            event = member.next() => event?,
        };
        match event {
            MemberEvent::Assigned { partition, committed, .. } => {
                count(&counts.assigned);
                let from = committed.map_or(0, |committed| committed.offset);
                owned.insert(partition, from);
                member.seek(Topic::Inbox, partition, from).await?;
            }
            MemberEvent::Revoked { partition, .. } => {
                count(&counts.revoked);
                owned.remove(&partition);
            }
            MemberEvent::Truncated { partition, start, .. } => {
                return Err(LogError::Corrupt(format!("partition {partition} begins at {start}")));
            }
            MemberEvent::Records { partition, records, .. } => {
                let Some(next) = owned.get_mut(&partition) else { continue };
                let first = records.first().unwrap().offset;
                assert!(first >= *next, "partition {partition}: offset {first} again, after {next}");
                batches += 1;
                let metadata = format!("{nonce}/{batches}");
                let committed = commit(committer.as_ref(), partition, &records, metadata, &counts).await;
                tracing::debug!(nonce, partition, first, ?committed, "commit");
                match committed {
                    Ok(after) => *next = after,
                    Err(_) => start_over(member.as_mut(), partition, &mut owned).await?,
                }
            }
        }
    }
}

async fn commit(
    committer: &dyn Committer,
    partition: i32,
    records: &[StoredRecord],
    metadata: String,
    counts: &Counts,
) -> Result<i64, CommitError> {
    let after = records.last().unwrap().offset + 1;
    let copies = records.iter().map(|stored| NewRecord { topic: Topic::Artifacts, ..stored.record.clone() });
    let batch = Batch {
        outputs: copies.collect(),
        progress: vec![(Topic::Inbox, partition, CommittedOffset { offset: after, metadata })],
    };
    loop {
        match committer.commit(batch.clone()).await {
            Ok(positions) => {
                assert_eq!(positions.len(), records.len());
                count(&counts.committed);
                return Ok(after);
            }
            Err(CommitError::Aborted(_)) => {
                count(&counts.aborted);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Err(error) => {
                count(if matches!(error, CommitError::Unknown(_)) {
                    &counts.unknown
                } else {
                    &counts.fenced
                });
                return Err(error);
            }
        }
    }
}

async fn start_over(
    member: &mut dyn Member,
    partition: i32,
    owned: &mut BTreeMap<i32, i64>,
) -> Result<(), LogError> {
    loop {
        match member.committed(Topic::Inbox, partition).await {
            Ok(committed) => {
                let from = committed.map_or(0, |committed| committed.offset);
                owned.insert(partition, from);
                return member.seek(Topic::Inbox, partition, from).await;
            }
            Err(LogError::Unavailable(_)) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            Err(error) => return Err(error),
        }
    }
}

/// Every committed record of a partition.
pub async fn all(log: &KafkaLog, topic: Topic, partition: i32) -> Vec<String> {
    let mut found: Vec<StoredRecord> = Vec::new();
    loop {
        let from = found.last().map_or(0, |last| last.offset + 1);
        match log.read(topic, partition, from, 500).await {
            Ok(more) if more.is_empty() => break,
            Ok(more) => found.extend(more),
            Err(LogError::Unavailable(_)) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    }
    found.into_iter().map(|stored| String::from_utf8(stored.record.value).unwrap()).collect()
}

/// Waits until every input was copied, then demands that each was copied once and in order.
pub async fn demand_exactly_once(log: &KafkaLog, inputs: usize) {
    let count = log.partitions(Topic::Inbox);
    let arrived = async {
        loop {
            let mut copies = 0;
            for partition in 0..count {
                copies += all(log, Topic::Artifacts, partition).await.len();
            }
            if copies >= inputs {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(90), arrived).await;
    for partition in 0..count {
        let wanted = all(log, Topic::Inbox, partition).await;
        let found = all(log, Topic::Artifacts, partition).await;
        assert_eq!(found.len(), wanted.len(), "copies of partition {partition}");
        assert_eq!(found, wanted, "each input of partition {partition} once and in order");
    }
    in_time.expect("every input is copied in time");
}
