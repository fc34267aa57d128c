use super::super::tests::{Echo, start, start_on, text};
use super::*;
use crate::memory::{MemoryLog, MemoryStore};
use crate::ports::{Batch, Committer, Follower, LogError, MemberEvent, NewRecord, StoredRecord};
use crate::runtime::OffsetMark;

const KEY: &str = "a conversation";

fn partition() -> i32 {
    crate::wire::partition(KEY, 4)
}

/// The group's progress of the conversation's partition.
async fn told(log: &MemoryLog) -> Progress {
    let mut member = log.join("p2.echo", &[Topic::Inbox]).await.unwrap();
    loop {
        if let MemberEvent::Assigned { partition: of, committed, .. } = member.next().await.unwrap()
            && of == partition()
        {
            return Progress::decode(&committed.unwrap()).unwrap();
        }
    }
}

/// Waits until there are so many answers, in the clock's time, which goes on as soon as nothing else does.
async fn answers(log: &MemoryLog, count: usize) -> usize {
    for _ in 0..10_000 {
        let found = log.read(Topic::Artifacts, partition(), 0, 99).await.unwrap().len();
        if found >= count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{count} answers did not come");
}

/// Puts other progress in its place.
async fn tell(log: &MemoryLog, progress: &Progress) {
    let mut member = log.join("p2.echo", &[Topic::Inbox]).await.unwrap();
    let mut assigned = 0;
    while assigned < 4 {
        assigned += i32::from(matches!(member.next().await.unwrap(), MemberEvent::Assigned { .. }));
    }
    let progress = vec![(Topic::Inbox, partition(), progress.encode())];
    member.committer().commit(Batch { outputs: Vec::new(), progress }).await.unwrap();
}

/// Answers what is there and ends.
async fn answered(log: &MemoryLog, count: usize) {
    let (running, stop, _) = start(None, log, MemoryStore::default());
    answers(log, count).await;
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn progress_that_its_outputs_contradict_is_not_worked_from() {
    let log = MemoryLog::new(4);
    log.append((0..10).map(|number| text(KEY, number)).collect()).await.unwrap();
    answered(&log, 10).await;
    assert_eq!(told(&log).await.low, 10);
    // As a coordinator tells it that lost a part of its log: true once, with a part of the window.
    let mut old = Progress::at(3).begun(0);
    old.mark(5, OffsetMark::Done);
    tell(&log, &old).await;
    log.append(vec![text(KEY, 10)]).await.unwrap();
    let (running, stop, metrics) = start(None, &log, MemoryStore::default());
    assert_eq!(answers(&log, 11).await, 11);
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(answers(&log, 11).await, 11, "nothing is answered twice");
    assert_eq!(told(&log).await.low, 11);
    assert!(metrics.text(0).contains(r#"p2_assignments_total{event="restored",processor="echo"} 1"#));
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_made_to_begin_earlier_does_so() {
    let log = MemoryLog::new(4);
    log.append((0..10).map(|number| text(KEY, number)).collect()).await.unwrap();
    answered(&log, 10).await;
    tell(&log, &Progress::at(3).begun(super::super::now_ms())).await;
    let (running, stop, metrics) = start(None, &log, MemoryStore::default());
    assert_eq!(answers(&log, 17).await, 17);
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    assert!(!metrics.text(0).contains(r#"event="restored""#));
}

/// Tells old progress a few times, then what is so.
struct Forgetful {
    log: MemoryLog,
    old: Progress,
    times: usize,
}

struct ForgetfulMember {
    member: Box<dyn Member>,
    old: Progress,
    left: std::sync::atomic::AtomicUsize,
}

impl ForgetfulMember {
    fn told(&self, partition: i32, committed: Option<CommittedOffset>) -> Option<CommittedOffset> {
        use std::sync::atomic::Ordering::SeqCst;
        if partition != self::partition() || self.left.load(SeqCst) == 0 {
            return committed;
        }
        self.left.fetch_sub(1, SeqCst);
        Some(self.old.encode())
    }
}

#[async_trait::async_trait]
impl Member for ForgetfulMember {
    async fn next(&mut self) -> Result<MemberEvent, LogError> {
        Ok(match self.member.next().await? {
            MemberEvent::Assigned { topic, partition, committed } => {
                let committed = self.told(partition, committed);
                MemberEvent::Assigned { topic, partition, committed }
            }
            other => other,
        })
    }

    async fn committed(&self, topic: Topic, partition: i32) -> Result<Option<CommittedOffset>, LogError> {
        Ok(self.told(partition, self.member.committed(topic, partition).await?))
    }

    async fn seek(&mut self, topic: Topic, partition: i32, offset: i64) -> Result<(), LogError> {
        self.member.seek(topic, partition, offset).await
    }

    fn pause(&mut self, topic: Topic, partition: i32) {
        self.member.pause(topic, partition);
    }

    fn resume(&mut self, topic: Topic, partition: i32) {
        self.member.resume(topic, partition);
    }

    fn committer(&self) -> Arc<dyn Committer> {
        self.member.committer()
    }
}

#[async_trait::async_trait]
impl Log for Forgetful {
    fn partitions(&self, topic: Topic) -> i32 {
        self.log.partitions(topic)
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<p2_core::record::Position>, LogError> {
        self.log.append(records).await
    }

    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        records_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.log.read(topic, partition, from, records_max).await
    }

    async fn bounds(&self, topic: Topic, partition: i32) -> Result<(i64, i64), LogError> {
        self.log.bounds(topic, partition).await
    }

    async fn follow(&self, from: Vec<(Topic, i32, i64)>) -> Result<Box<dyn Follower>, LogError> {
        self.log.follow(from).await
    }

    async fn join(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Member>, LogError> {
        let (member, old) = (self.log.join(group, topics).await?, self.old.clone());
        Ok(Box::new(ForgetfulMember { member, old, left: self.times.into() }))
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_remembers_in_time_is_believed() {
    let log = MemoryLog::new(4);
    log.append((0..10).map(|number| text(KEY, number)).collect()).await.unwrap();
    answered(&log, 10).await;
    log.append(vec![text(KEY, 10)]).await.unwrap();
    let forgetful = Forgetful { log: log.clone(), old: Progress::at(2).begun(0), times: 3 };
    let (running, stop, metrics) =
        start_on(Echo { view: None }, Arc::new(forgetful), Arc::new(MemoryStore::default()));
    assert_eq!(answers(&log, 11).await, 11);
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(answers(&log, 11).await, 11, "nothing is answered twice");
    assert!(!metrics.text(0).contains(r#"event="restored""#));
}
