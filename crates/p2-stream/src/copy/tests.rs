use p2_core::ids::{ConversationId, Id};
use p2_core::record::{DeadLetter, InboxBody, InboxMessage, Message, UserText};

use super::*;
use crate::memory::MemoryLog;

const GROUP: (&str, Topic) = ("p2.agent-step", Topic::Inbox);

fn said(conversation: &str, number: u64, cause: Option<Position>) -> Message {
    let id = Id::of_text(&format!("{conversation} {number}"));
    let body = InboxBody::UserText(UserText { agent: None, branch: None, text: number.to_string() });
    let payload = Payload::Inbox(InboxMessage { conversation: ConversationId::from(conversation), body });
    let time_ms = 1_000 + i64::try_from(number).unwrap();
    Message { id, cause: id, cause_position: cause, time_ms, traceparent: None, payload }
}

async fn write(log: &MemoryLog, message: &Message) -> Position {
    let record = wire::encode(message, "/test", log.partitions(message.payload.topic())).unwrap();
    *log.append(vec![record]).await.unwrap().first().unwrap()
}

async fn all(log: &MemoryLog, topic: Topic) -> Vec<(StoredRecord, Message)> {
    let mut found = Vec::new();
    for partition in 0..log.partitions(topic) {
        for stored in log.read(topic, partition, 0, 10_000).await.unwrap() {
            let message = wire::decode(&stored).unwrap();
            found.push((stored, message));
        }
    }
    found
}

/// Forty messages of seven conversations, each caused by the one before it, and the progress of their group: what
/// `mark` says of the n-th.
async fn filled(mark: impl Fn(u64) -> Option<OffsetMark>) -> MemoryLog {
    let log = MemoryLog::new(4);
    let mut cause = None;
    let mut progress: BTreeMap<i32, Progress> = BTreeMap::new();
    for number in 0..40 {
        let at = write(&log, &said(&format!("c{}", number % 7), number, cause)).await;
        cause = Some(at);
        let known = progress.entry(at.partition).or_insert_with(|| Progress::at(0));
        if let Some(mark) = mark(number) {
            known.mark(at.offset, mark);
        }
    }
    let mut member = log.join(GROUP.0, &[GROUP.1]).await.unwrap();
    for _ in 0..4 {
        let MemberEvent::Assigned { partition, .. } = member.next().await.unwrap() else { panic!() };
        let known = progress.remove(&partition).unwrap_or_default();
        let batch = Batch { outputs: Vec::new(), progress: vec![(Topic::Inbox, partition, known.encode())] };
        member.committer().commit(batch).await.unwrap();
    }
    log
}

#[tokio::test]
async fn every_record_is_there_in_the_order_of_its_key_and_causes_point_to_its_new_place() {
    let source = filled(|_| Some(OffsetMark::Done)).await;
    for partitions in [1, 3, 4, 16] {
        let target = MemoryLog::new(partitions);
        let mut told = 0;
        let copied = copy(&source, &target, &[GROUP], |count| told += count).await.unwrap();
        assert_eq!((copied.records.get(&Topic::Inbox), told), (Some(&40), 40));
        assert_eq!(copied.pending.get(GROUP.0), Some(&0));
        let found = all(&target, Topic::Inbox).await;
        let places: BTreeMap<Id, Position> =
            found.iter().map(|(stored, message)| (message.id, stored.position())).collect();
        assert_eq!(places.len(), 40);
        let mut last: BTreeMap<String, i64> = BTreeMap::new();
        for (stored, message) in &found {
            assert_eq!(stored.record.partition, wire::partition(&stored.record.key, partitions));
            let before = last.insert(stored.record.key.clone(), stored.record.time_ms);
            assert!(before < Some(stored.record.time_ms), "records of a key stay in order");
            let number = stored.record.time_ms - 1_000;
            let cause = (number > 0).then(|| {
                let number = u64::try_from(number - 1).unwrap();
                places.get(&said(&format!("c{}", number % 7), number, None).id).copied().unwrap()
            });
            assert_eq!(message.cause_position, cause);
        }
    }
}

#[tokio::test]
async fn what_is_done_claimed_and_pending_is_so_afterwards() {
    let mark = |number: u64| match number % 5 {
        0 => None,
        1 => Some(OffsetMark::Claimed),
        _ => Some(OffsetMark::Done),
    };
    let source = filled(mark).await;
    for partitions in [1, 4, 8] {
        let target = MemoryLog::new(partitions);
        let copied = copy(&source, &target, &[GROUP], |_| {}).await.unwrap();
        let progress = progress_of(&target, GROUP.0, GROUP.1).await.unwrap();
        for (stored, _) in all(&target, Topic::Inbox).await {
            let number = u64::try_from(stored.record.time_ms - 1_000).unwrap();
            let known = progress.get(&stored.record.partition).unwrap().mark_of(stored.offset);
            assert_eq!(known, mark(number), "message {number} on {partitions} partitions");
        }
        assert_eq!(copied.pending.get(GROUP.0), Some(&16));
    }
}

#[tokio::test]
async fn a_dead_letter_names_the_new_place_of_its_record() {
    let source = MemoryLog::new(4);
    write(&source, &said("other", 1, None)).await;
    let at = write(&source, &said("bad", 2, None)).await;
    let letter = DeadLetter {
        id: Id::of_text("letter"),
        key: "bad".to_owned(),
        topic: Topic::Inbox.name(),
        partition: at.partition,
        offset: at.offset,
        group: GROUP.0.to_owned(),
        code: "refused".to_owned(),
        reason: "because".to_owned(),
        headers: Vec::new(),
        value: vec![1, 2, 3],
        time_ms: 5,
    };
    let id = Id::of_text("letter");
    let payload = Payload::DeadLetter(letter);
    write(
        &source,
        &Message { id, cause: id, cause_position: Some(at), time_ms: 5, traceparent: None, payload },
    )
    .await;
    let target = MemoryLog::new(1);
    copy(&source, &target, &[GROUP], |_| {}).await.unwrap();
    let found = all(&target, Topic::DeadLetters).await;
    let Payload::DeadLetter(letter) = &found.first().unwrap().1.payload else { panic!() };
    let named = target.read(Topic::Inbox, letter.partition, letter.offset, 1).await.unwrap();
    assert_eq!(named.first().unwrap().record.key, "bad");
    assert_eq!(letter.value, [1, 2, 3]);
}

#[tokio::test]
async fn a_log_that_has_records_is_not_copied_into() {
    let source = filled(|_| None).await;
    let target = MemoryLog::new(2);
    write(&target, &said("already", 1, None)).await;
    let refused = copy(&source, &target, &[GROUP], |_| {}).await.unwrap_err();
    assert_eq!(refused, CopyError::NotEmpty("p2.inbox.v1".to_owned()));
}
