use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use p2_core::record::RegistryRecord;
use p2_stream::conformance;
use p2_stream::memory::MemoryLog;
use p2_stream::wire;

use super::*;
use crate::client::RegistryError;
use crate::register;

#[derive(Default)]
struct State {
    schemas: BTreeMap<u32, String>,
    subjects: Vec<String>,
    asked: Vec<u32>,
    away: bool,
}

/// A registry in memory.
#[derive(Default)]
struct Fake(Mutex<State>);

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn add(&self, id: u32, schema: &str) {
        self.state().schemas.insert(id, schema.to_owned());
    }
}

#[async_trait]
impl Schemas for Fake {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let mut state = self.state();
        state.subjects.push(subject.to_owned());
        if let Some((id, _)) = state.schemas.iter().find(|(_, known)| *known == schema) {
            return Ok(*id);
        }
        let id = 1 + u32::try_from(state.schemas.len()).unwrap();
        state.schemas.insert(id, schema.to_owned());
        Ok(id)
    }

    async fn schema(&self, id: u32) -> Result<Option<String>, RegistryError> {
        // Where others come in between.
        tokio::task::yield_now().await;
        let mut state = self.state();
        if state.away {
            let (place, reason) = ("http://r".to_owned(), "refused".to_owned());
            return Err(RegistryError::Unavailable { place, reason });
        }
        state.asked.push(id);
        Ok(state.schemas.get(&id).cloned())
    }
}

async fn framed() -> (FramedLog, MemoryLog, Arc<Fake>) {
    let registry = Arc::new(Fake::default());
    let ids = register(registry.as_ref(), |topic| topic.name().to_owned()).await.unwrap();
    let log = MemoryLog::new(4);
    (FramedLog::new(Arc::new(log.clone()), registry.clone(), ids), log, registry)
}

/// A record of `registry`, whose schema needs no more than this.
fn record(id: &str, partition: i32) -> NewRecord {
    let (kind, key) = ("tool".to_owned(), format!("tool/{id}"));
    let payload = RegistryRecord { key, kind, id: id.to_owned(), version: 1, body: None };
    let id = p2_core::ids::Id::of_text(id);
    let message = p2_core::record::Message {
        id,
        cause: id,
        cause_position: None,
        time_ms: 1_000,
        traceparent: None,
        payload: p2_core::record::Payload::Registry(payload),
    };
    NewRecord { partition, ..wire::encode(&message, "/test", 4).unwrap() }
}

/// The same value under an id of the registry.
fn under(id: u32, record: &NewRecord) -> NewRecord {
    let value = [&[0], id.to_be_bytes().as_slice(), &record.value[10..]].concat();
    NewRecord { value, ..record.clone() }
}

fn schema() -> &'static str {
    wire::schema(Topic::Registry).unwrap().0
}

/// Our schema as somebody else registered it: other documentation, and so another text with another id.
fn schema_of_others() -> String {
    let mut json: serde_json::Value = serde_json::from_str(schema()).unwrap();
    json.as_object_mut().unwrap().insert("doc".to_owned(), "ours, retold".into());
    json.to_string()
}

async fn member(log: &FramedLog) -> Box<dyn Member> {
    let mut member = log.join("p2.test", &[Topic::Registry]).await.unwrap();
    for _ in 0..4 {
        let MemberEvent::Assigned { partition, .. } = member.next().await.unwrap() else { panic!() };
        member.seek(Topic::Registry, partition, 0).await.unwrap();
        member.resume(Topic::Registry, partition);
    }
    member
}

async fn records(member: &mut Box<dyn Member>) -> (i32, Vec<NewRecord>) {
    match member.next().await.unwrap() {
        MemberEvent::Records { partition, records, .. } => {
            (partition, records.into_iter().map(|stored| stored.record).collect())
        }
        other => panic!("{other:?}"),
    }
}

async fn is_quiet(member: &mut Box<dyn Member>) -> bool {
    tokio::time::timeout(Duration::from_millis(100), member.next()).await.is_err()
}

#[tokio::test]
async fn a_log_with_registry_framing_does_what_every_log_does() {
    conformance::log_conformance(async || framed().await.0).await;
}

#[tokio::test]
async fn subjects_are_the_topics_names_with_value_and_registering_twice_changes_nothing() {
    let registry = Fake::default();
    let name_of = |topic: Topic| format!("test-{}", topic.name());
    let first = register(&registry, name_of).await.unwrap();
    assert_eq!(registry.state().subjects.len(), Topic::ALL.len());
    assert!(registry.state().subjects.contains(&"test-p2.inbox.v1-value".to_owned()));
    assert_eq!(register(&registry, name_of).await.unwrap(), first);
    assert_eq!(registry.state().schemas.len(), Topic::ALL.len());
}

#[tokio::test]
async fn what_is_written_has_the_id_in_the_log_below_and_reads_back_as_it_was() {
    let (log, below, registry) = framed().await;
    let one = record("a", 0);
    log.append(vec![one.clone()]).await.unwrap();
    let member = member(&log).await;
    let outputs = vec![record("b", 0)];
    member.committer().commit(Batch { outputs, ..Batch::default() }).await.unwrap();
    let stored = below.read(Topic::Registry, 0, 0, 10).await.unwrap();
    let at = Topic::ALL.iter().position(|topic| *topic == Topic::Registry).unwrap();
    let id = 1 + u32::try_from(at).unwrap();
    let expected = [under(id, &one), under(id, &record("b", 0))];
    assert_eq!(stored.into_iter().map(|stored| stored.record).collect::<Vec<_>>(), expected);
    let found = log.read(Topic::Registry, 0, 0, 10).await.unwrap();
    assert_eq!(found.into_iter().map(|stored| stored.record).collect::<Vec<_>>(), [one, record("b", 0)]);
    assert_eq!(registry.state().asked, [0; 0], "the own ids are known from registering");
}

#[tokio::test]
async fn both_framings_are_read_from_one_topic_and_an_id_that_is_not_known_is_asked_for_once() {
    let (log, below, registry) = framed().await;
    registry.add(77, &schema_of_others());
    let (a, b, c) = (record("a", 0), record("b", 0), record("c", 0));
    below.append(vec![under(77, &a), b.clone(), under(77, &c)]).await.unwrap();
    let expected = vec![a, b, c];
    let read = || log.read(Topic::Registry, 0, 0, 10);
    let (read, again) = tokio::join!(read(), read());
    assert_eq!(read, again);
    let read = read.unwrap();
    assert_eq!(read.into_iter().map(|stored| stored.record).collect::<Vec<_>>(), expected);
    let mut follower = log.follow(vec![(Topic::Registry, 0, 0)]).await.unwrap();
    let followed = follower.next().await.unwrap();
    assert_eq!(followed.into_iter().map(|stored| stored.record).collect::<Vec<_>>(), expected);
    let mut member = member(&log).await;
    assert_eq!(records(&mut member).await, (0, expected));
    assert_eq!(registry.state().asked, [77]);
}

#[tokio::test]
async fn a_schema_that_is_not_ours_comes_out_as_it_is_and_says_why_it_cannot_be_read() {
    let (log, below, registry) = framed().await;
    registry.add(78, r#"{"type": "record", "name": "Other", "fields": []}"#);
    registry.add(79, "no schema at all");
    for id in [78, 79, 80] {
        let foreign = NewRecord { headers: [("x", &[1][..])].into_iter().collect(), ..record("a", 0) };
        below.append(vec![under(id, &foreign)]).await.unwrap();
    }
    for (stored, id) in log.read(Topic::Registry, 0, 0, 10).await.unwrap().iter().zip(78..) {
        assert_eq!(stored.record.value[..5], [&[0], u32::to_be_bytes(id).as_slice()].concat());
        assert_eq!(wire::decode(stored).unwrap_err().code(), "unknown_schema_id");
    }
    log.read(Topic::Registry, 0, 0, 10).await.unwrap();
    assert_eq!(registry.state().asked, [78, 79, 80], "once each, also where there is nothing");
}

#[tokio::test(start_paused = true)]
async fn while_the_registry_is_away_a_partition_waits_and_the_others_go_on() {
    let (log, below, registry) = framed().await;
    registry.add(77, &schema_of_others());
    registry.state().away = true;
    let mut member = member(&log).await;
    let (a, b) = (record("a", 0), record("b", 0));
    below.append(vec![under(77, &a)]).await.unwrap();
    assert!(is_quiet(&mut member).await);
    below.append(vec![b.clone(), record("c", 1)]).await.unwrap();
    assert_eq!(records(&mut member).await, (1, vec![record("c", 1)]));
    assert!(is_quiet(&mut member).await, "'b' does not overtake 'a'");
    let unread = log.read(Topic::Registry, 0, 0, 10).await.unwrap_err();
    assert!(matches!(&unread, LogError::Unavailable(why) if why.contains("does not answer")), "{unread}");
    registry.state().away = false;
    assert_eq!(records(&mut member).await, (0, vec![a]));
    assert_eq!(records(&mut member).await, (0, vec![b]));
    below.append(vec![record("d", 0)]).await.unwrap();
    assert_eq!(records(&mut member).await, (0, vec![record("d", 0)]), "the partition was resumed");
    assert_eq!(registry.state().asked, [77]);
}

#[tokio::test(start_paused = true)]
async fn records_of_a_partition_that_was_lost_or_sought_meanwhile_are_not_delivered() {
    let (log, below, registry) = framed().await;
    registry.add(77, &schema_of_others());
    registry.state().away = true;
    let mut member = member(&log).await;
    below.append(vec![under(77, &record("a", 0)), record("b", 0)]).await.unwrap();
    assert!(is_quiet(&mut member).await);
    member.seek(Topic::Registry, 0, 1).await.unwrap();
    assert_eq!(records(&mut member).await, (0, vec![record("b", 0)]));
    below.append((0..4).map(|partition| under(77, &record("x", partition))).collect()).await.unwrap();
    assert!(is_quiet(&mut member).await);
    let mut other = log.join("p2.test", &[Topic::Registry]).await.unwrap();
    let mut lost = Vec::new();
    while let Ok(Ok(event)) = tokio::time::timeout(Duration::from_millis(100), member.next()).await {
        if let MemberEvent::Revoked { partition, .. } = event {
            lost.push(partition);
        }
        let _ = tokio::time::timeout(Duration::from_millis(10), other.next()).await;
    }
    assert!(!lost.is_empty());
    registry.state().away = false;
    while let Ok(Ok(event)) = tokio::time::timeout(Duration::from_secs(60), member.next()).await {
        if let MemberEvent::Records { partition, .. } = event {
            assert!(!lost.contains(&partition), "{partition} belongs to another member");
        }
    }
}
