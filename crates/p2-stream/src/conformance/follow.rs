//! The bodies for reading by time and without a group.

use std::collections::BTreeMap;

use p2_core::record::Topic;

use super::log::{LogTraits, inbox, own_all, record, texts};
use crate::ports::{Batch, Log, NewRecord};

pub(super) async fn finds_an_offset_by_time(log: &impl Log, _: LogTraits) {
    let (topic, base) = (Topic::Artifacts, 1_700_000_000_000);
    let (_, empty) = log.bounds(topic, 0).await.unwrap();
    assert_eq!(log.offset_at(topic, 0, base).await.unwrap(), empty, "nothing is there yet");
    let mut positions = Vec::new();
    for n in 0..20 {
        let timed = NewRecord { time_ms: base + n * 1_000, ..record(topic, 0, &n.to_string()) };
        positions.extend(log.append(vec![timed]).await.unwrap());
    }
    for (time_ms, nth) in [(0, 0), (base, 0), (base + 1, 1), (base + 7_000, 7), (base + 19_000, 19)] {
        let found = log.offset_at(topic, 0, time_ms).await.unwrap();
        assert_eq!(Some(found), positions.get(nth).map(|at| at.offset), "{time_ms}");
    }
    let after = log.offset_at(topic, 0, base + 19_001).await.unwrap();
    let (_, end) = log.bounds(topic, 0).await.unwrap();
    assert_eq!(after, end, "nothing is as late as that");
}

pub(super) async fn followers_get_everything_from_where_they_asked(log: &impl Log, _: LogTraits) {
    for n in 0..5 {
        log.append(vec![inbox(0, &format!("old{n}")), inbox(1, &format!("other{n}"))]).await.unwrap();
    }
    let all = log.read(Topic::Inbox, 0, 0, 10).await.unwrap();
    let (_, end) = log.bounds(Topic::Inbox, 1).await.unwrap();
    let third = all.get(2).unwrap().offset;
    let from = vec![(Topic::Inbox, 0, third), (Topic::Inbox, 1, end)];
    let mut one = log.follow(from.clone()).await.unwrap();
    let mut two = log.follow(from).await.unwrap();
    // What is in no follower's partitions must not reach it, and what a commit writes must.
    log.append(vec![inbox(2, "elsewhere"), inbox(1, "new")]).await.unwrap();
    let mut member = log.join("p2.beside", &[Topic::Inbox]).await.unwrap();
    own_all(log, member.as_mut()).await;
    let batch = Batch { outputs: vec![inbox(0, "committed")], progress: Vec::new() };
    member.committer().commit(batch).await.unwrap();
    for follower in [&mut one, &mut two] {
        let mut got: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        while got.values().map(Vec::len).sum::<usize>() < 5 {
            let records = follower.next().await.unwrap();
            assert!(!records.is_empty());
            for stored in &records {
                got.entry(stored.record.partition).or_default().extend(texts(std::slice::from_ref(stored)));
            }
        }
        assert_eq!(got.get(&0).unwrap(), &["old2", "old3", "old4", "committed"]);
        assert_eq!(got.get(&1).unwrap(), &["new"]);
        assert_eq!(got.len(), 2);
    }
}

pub(super) async fn gives_the_newest(log: &impl Log, _: LogTraits) {
    for n in 0..40 {
        log.append(vec![inbox(3, &n.to_string())]).await.unwrap();
    }
    let whole = log.read(Topic::Inbox, 3, 0, 99).await.unwrap();
    let (_, end) = log.bounds(Topic::Inbox, 3).await.unwrap();
    for offsets in [0, 1, 9, end, i64::MAX] {
        let newest = log.newest(Topic::Inbox, 3, offsets).await.unwrap();
        let from = end.saturating_sub(offsets);
        let expected: Vec<_> = whole.iter().filter(|stored| stored.offset >= from).collect();
        assert_eq!(newest.iter().collect::<Vec<_>>(), expected, "of the newest {offsets} offsets");
    }
    assert_eq!(log.newest(Topic::Inbox, 2, 9).await.unwrap(), [], "nothing is there");
}
