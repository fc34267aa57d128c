use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{Artifact, InboxBody, InboxMessage, Position, ToolRun, UserText};

use super::*;
use crate::memory::MemoryLog;

async fn write(log: &MemoryLog, source: &str, message: &Message) -> Position {
    let record = wire::encode(message, source, 1).unwrap();
    *log.append(vec![record]).await.unwrap().first().unwrap()
}

fn message(payload: Payload, cause: Option<Position>, name: &str) -> Message {
    let id = Id::of_text(name);
    Message { id, cause: id, cause_position: cause, time_ms: 1, traceparent: None, payload }
}

fn input(name: &str) -> Message {
    let body = InboxBody::UserText(UserText { agent: None, branch: None, text: name.to_owned() });
    message(Payload::Inbox(InboxMessage { conversation: ConversationId::from("c"), body }), None, name)
}

fn run(phase: &str, cause: Position, name: &str) -> Message {
    let run = ToolRun {
        effect: Id::of_text(name),
        tool: "pay".to_owned(),
        phase: phase.to_owned(),
        latency_ms: None,
        reward: None,
        detail: String::new(),
    };
    let artifact = Artifact {
        id: Id::of_text(name),
        conversation: ConversationId::from("c"),
        agent: Some(AgentId::from("a")),
        branch: Some(BranchId::from("main")),
        entry: None,
        parents: Vec::new(),
        time_ms: 1,
        body: ArtifactBody::ToolRun(run),
    };
    message(Payload::Artifact(artifact), Some(cause), name)
}

#[tokio::test]
async fn what_has_an_output_is_done_and_what_was_announced_is_claimed() {
    let log = MemoryLog::new(1);
    let mut at = Vec::new();
    for name in ["done", "claimed", "pending", "also done"] {
        at.push(write(&log, "/p2/api", &input(name)).await);
    }
    write(&log, "/p2/tool-exec", &run("success", at[0], "r0")).await;
    write(&log, "/p2/tool-exec", &run("intent", at[1], "i1")).await;
    write(&log, "/p2/tool-exec", &run("intent", at[3], "i3")).await;
    write(&log, "/p2/tool-exec", &run("success", at[3], "r3")).await;
    // What somebody else made of the same record says nothing.
    write(&log, "/p2/evaluator", &run("success", at[2], "r2")).await;
    let found = progress_from_outputs(&log, "tool-exec", Topic::Inbox).await.unwrap();
    let known = found.get(&0).unwrap();
    assert_eq!(known.low, 1);
    let marks: Vec<Option<OffsetMark>> = (0..4).map(|offset| known.mark_of(offset)).collect();
    let (done, claimed) = (Some(OffsetMark::Done), Some(OffsetMark::Claimed));
    assert_eq!(marks, [done, claimed, None, done]);
}

#[tokio::test]
async fn without_records_it_begins_at_the_start() {
    let found = progress_from_outputs(&MemoryLog::new(2), "tool-exec", Topic::Effects).await.unwrap();
    assert_eq!(found, BTreeMap::from([(0, Progress::at(0)), (1, Progress::at(0))]));
}

#[tokio::test]
async fn who_writes_little_begins_a_window_before_the_last_thing_that_it_wrote() {
    let log = MemoryLog::new(1);
    let at = write(&log, "/p2/api", &input("judged")).await;
    let records = (0..9_000).map(|n| wire::encode(&input(&format!("more {n}")), "/p2/api", 1).unwrap());
    log.append(records.collect()).await.unwrap();
    let far = Position { offset: 8_999, ..at };
    let low = |found: BTreeMap<i32, Progress>| found.get(&0).unwrap().low;
    let near = || progress_near_outputs(&log, "evaluator", Topic::Inbox);
    assert_eq!(low(near().await.unwrap()), 9_001 - WINDOW_OFFSETS_MAX, "nothing was written");
    write(&log, "/p2/evaluator", &run("success", at, "r0")).await;
    assert_eq!(low(near().await.unwrap()), 0);
    write(&log, "/p2/evaluator", &run("success", far, "r1")).await;
    assert_eq!(low(near().await.unwrap()), 9_000 - WINDOW_OFFSETS_MAX);
}

#[test]
fn a_hole_that_no_window_spans_is_refused_with_its_place() {
    let inputs: Vec<i64> = (0..20_000).collect();
    let marks = (1..20_000).map(|offset| (offset, OffsetMark::Done)).collect();
    let error = progress(0, &inputs, &marks, Topic::Effects, 3).unwrap_err().to_string();
    assert!(error.starts_with("p2.effects.v1 partition 3: nothing was written for offset 0, but for 19999"));
}
