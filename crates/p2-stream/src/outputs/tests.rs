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
fn what_lies_a_window_before_something_done_is_done() {
    let inputs: Vec<i64> = (0..20_000).collect();
    // Nobody was further ahead than a window; 0 and 19,000 lead to no output, as some records do.
    let marks =
        (1..20_000).filter(|offset| *offset != 19_000).map(|offset| (offset, OffsetMark::Done)).collect();
    let known = progress(0, &inputs, &marks);
    assert_eq!(known.low, 19_000);
    let marks = [(12_000, OffsetMark::Done)].into();
    let known = progress(0, &inputs, &marks);
    assert_eq!(known.low, 12_001 - WINDOW_OFFSETS_MAX);
    assert_eq!(known.span(), WINDOW_OFFSETS_MAX);
}

#[tokio::test]
async fn outputs_from_before_the_group_was_made_to_begin_do_not_count() {
    let (log, told) = forgotten().await;
    let told = told.begun(1);
    let known = progress_since(&log, "tool-exec", Topic::Inbox, 0, &told).await.unwrap();
    assert_eq!(known, told);
}

/// Old progress, and what was written since: (log, told).
async fn forgotten() -> (MemoryLog, Progress) {
    let log = MemoryLog::new(1);
    let mut at = Vec::new();
    for name in 0..8 {
        at.push(write(&log, "/p2/api", &input(&name.to_string())).await);
    }
    for (offset, phase) in [(0, "success"), (3, "success"), (4, "intent"), (5, "intent"), (5, "success")] {
        write(&log, "/p2/tool-exec", &run(phase, at[offset], &format!("{offset} {phase}"))).await;
    }
    let mut told = Progress::at(2).begun(0);
    told.mark(6, OffsetMark::Claimed);
    (log, told)
}

#[tokio::test]
async fn old_progress_is_brought_up_to_what_was_written_since() {
    let (log, told) = forgotten().await;
    let known = progress_since(&log, "tool-exec", Topic::Inbox, 0, &told).await.unwrap();
    let (done, claimed) = (Some(OffsetMark::Done), Some(OffsetMark::Claimed));
    let marks: Vec<Option<OffsetMark>> = (0..8).map(|offset| known.mark_of(offset)).collect();
    // 1 was done without an output, as the old progress knows; 2 has none yet, 6 was claimed before.
    assert_eq!(marks, [done, done, None, done, claimed, done, claimed, None]);
    assert_eq!((known.low, known.begun_ms), (2, Some(0)));
}

#[tokio::test]
async fn old_progress_of_a_processor_that_writes_little_goes_on_a_window_before_its_last_output() {
    let log = MemoryLog::new(1);
    let records =
        (0..9_000).map(|n| wire::encode(&run("success", FIRST, &format!("r{n}")), "/p2/x", 1).unwrap());
    log.append(records.collect()).await.unwrap();
    let far = Position { topic: Topic::Artifacts, partition: 0, offset: 8_999 };
    write(&log, "/p2/evaluator", &run("success", far, "judged")).await;
    let told = Progress::at(100).begun(0);
    let known = progress_since(&log, "evaluator", Topic::Artifacts, 0, &told).await.unwrap();
    assert_eq!(known.low, 9_000 - WINDOW_OFFSETS_MAX);
    assert_eq!(known.mark_of(8_999), Some(OffsetMark::Done));
    let told = Progress::at(5_000).begun(0);
    let known = progress_since(&log, "evaluator", Topic::Artifacts, 0, &told).await.unwrap();
    assert_eq!(known.low, 5_000, "never below what was told");
}

const FIRST: Position = Position { topic: Topic::Inbox, partition: 0, offset: 0 };

#[tokio::test]
async fn the_newest_outputs_contradict_progress_that_is_older_than_they_are() {
    let (log, told) = forgotten().await;
    let found = newest(&log, "tool-exec", Topic::Inbox, 0).await.unwrap();
    let offsets: Vec<i64> = found.iter().map(|witness| witness.offset).collect();
    assert_eq!(offsets, [0, 3, 4, 5, 5]);
    let contradicting = |progress: &Progress| -> Vec<i64> {
        found.iter().filter(|witness| witness.contradicts(progress)).map(|witness| witness.at).collect()
    };
    assert_eq!(contradicting(&told), [1, 2, 3, 4]);
    // A claim is known, whatever came of it.
    let mut newer = told.clone();
    newer.mark(3, OffsetMark::Done);
    newer.mark(4, OffsetMark::Claimed);
    newer.mark(5, OffsetMark::Claimed);
    assert_eq!(contradicting(&newer), [0_i64; 0]);
    assert_eq!(contradicting(&told.clone().begun(1)), [0_i64; 0], "made to begin after they were written");
    let mut unknown = told;
    unknown.begun_ms = None;
    assert_eq!(contradicting(&unknown), [0_i64; 0], "nobody noted when it began");
    assert_eq!(newest(&log, "evaluator", Topic::Inbox, 0).await.unwrap(), []);
    assert_eq!(newest(&log, "tool-exec", Topic::Effects, 0).await.unwrap(), [], "of another input");
}
