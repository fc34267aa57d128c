//! The interleavings that the rules of the runtime close, one test each, with a small counting processor.

use std::collections::BTreeMap;

use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::json_text::JsonText;
use p2_core::record::{
    Artifact, ArtifactBody, BranchStatus, DeadLetter, Event as ArtifactEvent, InboxBody, InboxMessage,
    Message, Payload, Position, StateTransition, Topic, UserText,
};
use serde_json::json;

use super::{Action, Codec, Encoded, Event, Incoming, Limits, OffsetMark, Progress, Runtime, Start};
use crate::ports::CommittedOffset;
use crate::processor::{Call, LaneInput, LaneStep, Mark, Processor};
use crate::view::LaneRows;

/// Counts the texts of a conversation. `ask` starts a repeatable call, `timer` sets a timer at 1,000,
/// `large` makes an output that does not fit.
#[derive(Clone)]
struct Counting;

#[derive(Clone, Debug, Default, PartialEq)]
struct Count {
    seq: i64,
    open: Vec<Id>,
    timers: Vec<(Id, i64)>,
}

fn rows(transitions: Vec<StateTransition>) -> LaneRows {
    LaneRows::Transitions(transitions)
}

fn transition(key: &str, seq: i64, input: Id, note: &str) -> StateTransition {
    StateTransition {
        id: Id::derive(&input, "transition", 0),
        conversation: ConversationId::from(key),
        seq,
        previous: None,
        agent: AgentId::from(note),
        branch: BranchId::main(),
        input,
        changes: Vec::new(),
        head: -1,
        status: BranchStatus::Idle,
        time_ms: 0,
    }
}

fn message(id: Id, payload: Payload) -> Message {
    Message { id, cause: id, cause_position: None, time_ms: 0, traceparent: None, payload }
}

impl Processor for Counting {
    type Lane = Count;
    type Request = String;
    type Reply = String;

    fn name(&self) -> &'static str {
        "counting"
    }

    fn input(&self) -> Topic {
        Topic::Inbox
    }

    fn view(&self) -> Option<Topic> {
        Some(Topic::StateTransitions)
    }

    fn lane_key(&self, message: &Message) -> String {
        message.payload.key().to_owned()
    }

    fn decide(&self, key: &str, lane: &Count, input: &LaneInput<String>, _now_ms: i64) -> LaneStep<String> {
        let (id, note) = match input {
            LaneInput::Record(message) | LaneInput::Claimed(message) => match &message.payload {
                Payload::Inbox(InboxMessage { body: InboxBody::UserText(text), .. }) => {
                    (message.id, text.text.clone())
                }
                _ => (message.id, "other".to_owned()),
            },
            LaneInput::Reply { call, reply } => {
                (Id::derive(call, "reply", 0), format!("reply:{call}:{reply}"))
            }
            LaneInput::Timer { timer } => (Id::derive(timer, "timer", 0), format!("fired:{timer}")),
        };
        if note == "nothing" {
            return LaneStep { outputs: vec![], calls: vec![], cancel: vec![], mark: Mark::Done };
        }
        let made = transition(key, lane.seq, id, &note);
        let calls = if note == "ask" {
            vec![Call { id: made.id, deadline_ms: 5_000, request: "question".into() }]
        } else {
            Vec::new()
        };
        LaneStep {
            outputs: vec![message(made.id, Payload::Transition(made))],
            calls,
            cancel: vec![],
            mark: Mark::Done,
        }
    }

    fn apply(&self, lane: &mut Count, message: &Message) -> Result<(), String> {
        let Payload::Transition(transition) = &message.payload else { return Ok(()) };
        if transition.seq != lane.seq {
            return Err(format!("seq {} after {}", transition.seq, lane.seq));
        }
        lane.seq += 1;
        let note = transition.agent.as_str();
        if note == "ask" {
            lane.open.push(transition.id);
        }
        if note == "timer" {
            lane.timers.push((transition.id, 1_000));
        }
        lane.open.retain(|id| !note.starts_with(&format!("reply:{id}")));
        lane.timers.retain(|(id, _)| note != format!("fired:{id}"));
        Ok(())
    }

    fn open_calls(&self, lane: &Count) -> Vec<Call<String>> {
        lane.open.iter().map(|id| Call { id: *id, deadline_ms: 5_000, request: "question".into() }).collect()
    }

    fn timers(&self, lane: &Count) -> Vec<(Id, i64)> {
        lane.timers.clone()
    }
}

/// Effects whose call may not be repeated, where the effect's key is `claim`; repeatable otherwise.
struct Claiming;

impl Processor for Claiming {
    type Lane = bool;
    type Request = String;
    type Reply = String;

    fn name(&self) -> &'static str {
        "claiming"
    }

    fn input(&self) -> Topic {
        Topic::Inbox
    }

    fn view(&self) -> Option<Topic> {
        None
    }

    fn lane_key(&self, message: &Message) -> String {
        message.id.to_string()
    }

    fn decide(&self, _key: &str, claims: &bool, input: &LaneInput<String>, _now_ms: i64) -> LaneStep<String> {
        let note = |id: Id, name: &str| {
            let body = ArtifactBody::Event(ArtifactEvent { name: name.into(), data: JsonText(json!({})) });
            let artifact = Artifact {
                id,
                conversation: ConversationId::from("c"),
                agent: None,
                branch: None,
                entry: None,
                parents: vec![],
                time_ms: 0,
                body,
            };
            message(id, Payload::Artifact(artifact))
        };
        match input {
            LaneInput::Record(record) => LaneStep {
                outputs: if *claims { vec![note(record.id, "intent")] } else { vec![] },
                calls: vec![Call { id: record.id, deadline_ms: 9, request: "do".into() }],
                cancel: vec![],
                mark: if *claims { Mark::Claimed } else { Mark::Pending },
            },
            LaneInput::Claimed(record) => LaneStep {
                outputs: vec![note(record.id, "in_doubt")],
                calls: vec![],
                cancel: vec![],
                mark: Mark::Done,
            },
            LaneInput::Reply { call, .. } => LaneStep {
                outputs: vec![note(Id::derive(call, "outcome", 0), "done")],
                calls: vec![],
                cancel: vec![],
                mark: Mark::Done,
            },
            LaneInput::Timer { .. } => {
                LaneStep { outputs: vec![], calls: vec![], cancel: vec![], mark: Mark::Done }
            }
        }
    }

    fn apply(&self, lane: &mut bool, message: &Message) -> Result<(), String> {
        if message.payload.topic() == Topic::Inbox {
            *lane = message.payload.key() == "claim";
        }
        Ok(())
    }

    fn open_calls(&self, _lane: &bool) -> Vec<Call<String>> {
        vec![]
    }

    fn timers(&self, _lane: &bool) -> Vec<(Id, i64)> {
        vec![]
    }
}

struct Sizes;

impl Codec for Sizes {
    fn encode(&self, message: &Message) -> Result<Encoded, (String, String)> {
        match &message.payload {
            Payload::Transition(transition) if transition.agent.as_str() == "large" => {
                Err(("too_large".into(), "larger than a record may be".into()))
            }
            _ => Ok(Encoded { bytes: 100, value: None }),
        }
    }

    fn letter(&self, at: (i32, i64), message: &Message, code: &str, reason: &str, now_ms: i64) -> DeadLetter {
        DeadLetter {
            id: Id::derive(&message.id, "letter", 0),
            key: message.payload.key().into(),
            topic: message.payload.topic().name(),
            partition: at.0,
            offset: at.1,
            group: "p2.counting".into(),
            code: code.into(),
            reason: reason.into(),
            headers: vec![],
            value: vec![],
            time_ms: now_ms,
        }
    }
}

type Counter = Runtime<Counting>;

fn limits() -> Limits {
    Limits { start: Start::Earliest, resync_ms: 0, progress_ms: 0, ..Limits::default() }
}

fn counting() -> Counter {
    Runtime::new(Counting, Box::new(Sizes), limits(), 1)
}

fn claiming() -> Runtime<Claiming> {
    Runtime::new(Claiming, Box::new(Sizes), limits(), 1)
}

fn text(key: &str, text: &str, n: u32) -> Incoming {
    let id = Id::derive(&Id::of_text(key), text, n);
    let body = InboxBody::UserText(UserText { agent: None, branch: None, text: text.into() });
    let payload = Payload::Inbox(InboxMessage { conversation: ConversationId::from(key), body });
    Incoming::Message(Box::new(message(id, payload)))
}

/// Assigns partition 0 with an empty view and returns its epoch.
fn own(runtime: &mut Counter, committed: Option<CommittedOffset>) -> u64 {
    let committed = Some(committed.unwrap_or_default());
    let actions = runtime.on(Event::Assigned { partition: 0, committed, start: 0, end: 1_000 }, 0);
    let Some(Action::ReadViewBounds { epoch, .. }) = actions.last() else { panic!("{actions:?}") };
    let epoch = *epoch;
    let actions = runtime.on(Event::ViewBounds { partition: 0, epoch, applied: 0, mark: 0, from: 0 }, 0);
    assert_eq!(actions, [Action::ListOpenLanes { partition: 0, epoch }]);
    runtime.on(Event::OpenLanes { partition: 0, epoch, keys: vec![] }, 0);
    epoch
}

fn own_claiming(runtime: &mut Runtime<Claiming>, committed: Option<CommittedOffset>) -> u64 {
    let committed = Some(committed.unwrap_or_default());
    let actions = runtime.on(Event::Assigned { partition: 0, committed, start: 0, end: 1_000 }, 0);
    let Some(Action::Deliver { epoch, .. }) = actions.last() else { panic!("{actions:?}") };
    *epoch
}

fn record(runtime: &mut Counter, epoch: u64, offset: i64, record: Incoming) -> Vec<Action<String>> {
    runtime.on(Event::Record { partition: 0, epoch, offset, record }, offset)
}

fn load(runtime: &mut Counter, epoch: u64, key: &str) -> Vec<Action<String>> {
    runtime.on(Event::Loaded { partition: 0, epoch, key: key.into(), rows: rows(vec![]) }, 0)
}

/// (batch, outputs, progress) of the commit among these actions.
type Committing = (u64, Vec<Message>, Vec<(i32, CommittedOffset)>);

fn commit<R: Clone>(actions: &[Action<R>]) -> Option<Committing> {
    actions.iter().find_map(|action| match action {
        Action::Commit { batch, outputs, progress } => {
            let outputs = outputs.iter().map(|output| output.message.clone()).collect();
            Some((*batch, outputs, progress.clone()))
        }
        _ => None,
    })
}

fn positions(outputs: &[Message], from: i64) -> Vec<Position> {
    (from..)
        .zip(outputs)
        .map(|(offset, output)| Position { topic: output.payload.topic(), partition: 0, offset })
        .collect()
}

fn calls<R>(actions: &[Action<R>]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Call { .. })).count()
}

#[test]
fn a_record_is_decided_only_once_its_lane_is_loaded_and_its_offset_is_done_with_that_commit() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    let actions = record(&mut runtime, epoch, 0, text("c", "hi", 0));
    assert_eq!(actions, [Action::Load { partition: 0, epoch, key: "c".into() }]);
    let (_, outputs, progress) = commit(&load(&mut runtime, epoch, "c")).unwrap();
    assert_eq!(outputs.len(), 1);
    assert_eq!(progress[0].1.offset, 1);
}

#[test]
fn every_output_of_a_record_names_the_place_of_that_record() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, Some(Progress::at(7).encode()));
    record(&mut runtime, epoch, 7, text("a", "hello", 0));
    let actions = load(&mut runtime, epoch, "a");
    let (_, outputs, _) = commit(&actions).unwrap();
    let place = Position { topic: Topic::Inbox, partition: 0, offset: 7 };
    assert!(!outputs.is_empty());
    assert!(outputs.iter().all(|output| output.cause_position == Some(place)), "{outputs:?}");
}

#[test]
fn progress_of_a_batch_speaks_only_of_the_steps_in_it() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 0, text("c", "one", 0));
    let (batch, outputs, progress) = commit(&load(&mut runtime, epoch, "c")).unwrap();
    // Decided while the first commit is under way: it must not be in that progress, nor start a second commit.
    assert_eq!(commit(&record(&mut runtime, epoch, 1, text("c", "two", 0))), None);
    assert_eq!(progress[0].1.offset, 1);
    let next = runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 2);
    let (_, outputs, progress) = commit(&next).unwrap();
    assert_eq!(outputs.len(), 1);
    assert_eq!(progress[0].1.offset, 2);
}

#[test]
fn inputs_of_one_lane_apply_in_order_and_each_sees_its_predecessor() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    for offset in 0..5 {
        record(&mut runtime, epoch, offset, text("c", "hi", u32::try_from(offset).unwrap()));
    }
    let (batch, first, _) = commit(&load(&mut runtime, epoch, "c")).unwrap();
    let rest = runtime.on(Event::Committed { batch, positions: positions(&first, 0) }, 9);
    let rest = commit(&rest).map(|(_, outputs, _)| outputs).unwrap_or_default();
    let seqs: Vec<i64> = first
        .iter()
        .chain(&rest)
        .map(|output| match &output.payload {
            Payload::Transition(transition) => transition.seq,
            _ => -1,
        })
        .collect();
    assert_eq!(seqs, [0, 1, 2, 3, 4]);
}

#[test]
fn an_unknown_commit_outcome_drops_everything_that_rests_on_it_and_starts_over_from_what_is_committed() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 0, text("c", "ask", 0));
    let actions = load(&mut runtime, epoch, "c");
    assert_eq!(calls(&actions), 1, "a repeatable call starts beside the commit");
    let (batch, ..) = commit(&actions).unwrap();
    record(&mut runtime, epoch, 1, text("c", "two", 0));
    let actions = runtime.on(Event::Unknown { batch }, 2);
    assert!(actions.iter().any(|action| matches!(action, Action::Cut { .. })), "{actions:?}");
    assert!(actions.contains(&Action::StartOver { partition: 0 }));
    assert_eq!(commit(&actions), None, "what was decided on the dropped batch is dropped with it");
    assert!(runtime.lane(0, "c").is_none());
}

#[test]
fn a_fenced_batch_is_not_tried_again() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 0, text("c", "hi", 0));
    let (batch, ..) = commit(&load(&mut runtime, epoch, "c")).unwrap();
    let actions = runtime.on(Event::Fenced { batch }, 2);
    assert_eq!(commit(&actions), None);
    assert!(actions.contains(&Action::StartOver { partition: 0 }));
}

#[test]
fn an_aborted_batch_is_committed_again_unchanged() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 0, text("c", "hi", 0));
    let first = commit(&load(&mut runtime, epoch, "c")).unwrap();
    let again = commit(&runtime.on(Event::Aborted { batch: first.0, halve: false }, 2)).unwrap();
    assert_eq!(first, again);
}

#[test]
fn a_batch_that_is_too_large_is_halved_and_a_record_that_fails_alone_is_a_dead_letter() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 0, text("c", "zero", 0));
    let (batch, outputs, _) = commit(&load(&mut runtime, epoch, "c")).unwrap();
    for offset in 1..5 {
        record(&mut runtime, epoch, offset, text("c", "hi", u32::try_from(offset).unwrap()));
    }
    let actions = runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 5);
    let (batch, outputs, _) = commit(&actions).unwrap();
    assert_eq!(outputs.len(), 4);
    let (batch, outputs, progress) = commit(&runtime.on(Event::Aborted { batch, halve: true }, 6)).unwrap();
    assert_eq!((outputs.len(), progress[0].1.offset), (2, 3));
    let (batch, outputs, _) = commit(&runtime.on(Event::Aborted { batch, halve: true }, 6)).unwrap();
    assert_eq!(outputs.len(), 1);
    let actions = runtime.on(Event::Aborted { batch, halve: true }, 6);
    assert!(actions.contains(&Action::StartOver { partition: 0 }));
    // Delivered again, the record that failed alone is not decided any more.
    let epoch = own(&mut runtime, Some(CommittedOffset { offset: 1, metadata: String::new() }));
    let (_, outputs, progress) = commit(&record(&mut runtime, epoch, 1, text("c", "hi", 1))).unwrap();
    assert_eq!(outputs[0].payload.topic(), Topic::DeadLetters);
    assert_eq!(progress[0].1.offset, 2);
}

/// Makes the records at these offsets poison: each fails alone in its batch.
fn poison(runtime: &mut Counter, offset: i64) {
    let committed = Some(CommittedOffset { offset, metadata: String::new() });
    let epoch = own(runtime, committed);
    record(runtime, epoch, offset, text("c", "hi", u32::try_from(offset).unwrap()));
    let (batch, ..) = commit(&load(runtime, epoch, "c")).unwrap();
    runtime.on(Event::Aborted { batch, halve: true }, 6);
}

#[test]
fn what_is_known_of_a_poison_record_is_forgotten_once_its_letter_is_committed() {
    let mut runtime = counting();
    poison(&mut runtime, 1);
    assert_eq!(runtime.poisoned.len(), 1);
    let epoch = own(&mut runtime, Some(CommittedOffset { offset: 1, metadata: String::new() }));
    let (batch, outputs, _) = commit(&record(&mut runtime, epoch, 1, text("c", "hi", 1))).unwrap();
    assert_eq!(runtime.poisoned.len(), 1, "the letter may still be lost");
    runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 7);
    assert_eq!(runtime.poisoned.len(), 0);
}

#[test]
fn what_is_known_of_poison_records_goes_with_the_partition() {
    let mut runtime = counting();
    poison(&mut runtime, 1);
    own(&mut runtime, Some(CommittedOffset { offset: 1, metadata: String::new() }));
    assert_eq!(runtime.poisoned.len(), 1, "starting over keeps it: that is what it is for");
    runtime.on(Event::Revoked { partition: 0 }, 8);
    assert_eq!(runtime.poisoned.len(), 0);
}

#[test]
fn gaps_passed_while_a_batch_is_under_way_are_not_lost_when_it_is_halved() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 0, text("c", "zero", 0));
    let (batch, outputs, _) = commit(&load(&mut runtime, epoch, "c")).unwrap();
    record(&mut runtime, epoch, 1, text("c", "one", 0));
    record(&mut runtime, epoch, 2, text("c", "two", 0));
    let actions = runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 5);
    let (batch, outputs, progress) = commit(&actions).unwrap();
    assert_eq!((outputs.len(), progress[0].1.offset), (2, 3));
    // Markers at 3 and 4 are passed while the batch is on its way.
    assert_eq!(commit(&record(&mut runtime, epoch, 5, text("c", "five", 0))), None);
    let mut actions = runtime.on(Event::Aborted { batch, halve: true }, 6);
    let mut low = Vec::new();
    while let Some((batch, outputs, progress)) = commit(&actions) {
        low.push(progress[0].1.offset);
        actions = runtime.on(Event::Committed { batch, positions: positions(&outputs, 1) }, 7);
    }
    // The first half, the second half with the gaps behind it, and the record after them.
    assert_eq!((low.first(), low.last()), (Some(&2), Some(&6)), "{low:?}");
}

#[test]
fn a_call_that_may_not_be_repeated_starts_only_after_its_claim_is_committed() {
    let mut runtime = claiming();
    let epoch = own_claiming(&mut runtime, None);
    let event = Event::Record { partition: 0, epoch, offset: 0, record: text("claim", "x", 0) };
    let actions = runtime.on(event, 0);
    assert_eq!(calls(&actions), 0);
    let (batch, outputs, progress) = commit(&actions).unwrap();
    assert_eq!(progress[0].1.offset, 0, "a claim is not done");
    assert_eq!(Progress::decode(&progress[0].1).unwrap().mark_of(0), Some(OffsetMark::Claimed));
    let actions = runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 1);
    assert_eq!(calls(&actions), 1);
    let Some(Action::Call { id, .. }) = actions.first() else { panic!("{actions:?}") };
    let actions = runtime.on(Event::Reply { partition: 0, epoch, call: *id, reply: "ok".into() }, 2);
    let (_, outputs, progress) = commit(&actions).unwrap();
    assert_eq!((outputs.len(), progress[0].1.offset), (1, 1));
}

#[test]
fn a_claim_whose_commit_is_fenced_never_calls() {
    let mut runtime = claiming();
    let epoch = own_claiming(&mut runtime, None);
    let event = Event::Record { partition: 0, epoch, offset: 0, record: text("claim", "x", 0) };
    let (batch, ..) = commit(&runtime.on(event, 0)).unwrap();
    assert_eq!(calls(&runtime.on(Event::Fenced { batch }, 1)), 0);
    assert_eq!(calls(&runtime.on(Event::Committed { batch, positions: vec![] }, 1)), 0);
}

#[test]
fn a_claim_committed_after_its_partition_was_lost_never_calls() {
    let mut runtime = claiming();
    let epoch = own_claiming(&mut runtime, None);
    let event = Event::Record { partition: 0, epoch, offset: 0, record: text("claim", "x", 0) };
    let (batch, outputs, _) = commit(&runtime.on(event, 0)).unwrap();
    runtime.on(Event::Revoked { partition: 0 }, 1);
    assert_eq!(calls(&runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 1)), 0);
}

#[test]
fn a_record_redelivered_as_claimed_is_reconciled_not_called() {
    let mut progress = Progress::at(0);
    progress.mark(0, OffsetMark::Claimed);
    let mut runtime = claiming();
    let epoch = own_claiming(&mut runtime, Some(progress.encode()));
    let event = Event::Record { partition: 0, epoch, offset: 0, record: text("claim", "x", 0) };
    let actions = runtime.on(event, 0);
    assert_eq!(calls(&actions), 0);
    let (_, outputs, progress) = commit(&actions).unwrap();
    assert_eq!((outputs.len(), progress[0].1.offset), (1, 1));
}

#[test]
fn a_pending_call_holds_its_offset_but_not_those_behind_it() {
    let mut runtime = claiming();
    let epoch = own_claiming(&mut runtime, None);
    let first = runtime.on(Event::Record { partition: 0, epoch, offset: 0, record: text("free", "a", 0) }, 0);
    assert_eq!((calls(&first), commit(&first)), (1, None));
    let second =
        runtime.on(Event::Record { partition: 0, epoch, offset: 1, record: text("free", "b", 1) }, 0);
    let Some(Action::Call { id, .. }) = second.first() else { panic!("{second:?}") };
    let actions = runtime.on(Event::Reply { partition: 0, epoch, call: *id, reply: "ok".into() }, 1);
    let (_, _, progress) = commit(&actions).unwrap();
    assert_eq!(progress[0].1.offset, 0);
    assert_eq!(Progress::decode(&progress[0].1).unwrap().mark_of(1), Some(OffsetMark::Done));
}

#[test]
fn records_replies_and_loads_of_an_earlier_epoch_are_dropped() {
    let mut runtime = counting();
    let old = own(&mut runtime, None);
    record(&mut runtime, old, 0, text("c", "ask", 0));
    let actions = load(&mut runtime, old, "c");
    let Some(Action::Call { id, .. }) = actions.iter().find(|a| matches!(a, Action::Call { .. })) else {
        panic!("{actions:?}")
    };
    let (batch, ..) = commit(&actions).unwrap();
    runtime.on(Event::Fenced { batch }, 1);
    let epoch = own(&mut runtime, None);
    assert_ne!(old, epoch);
    let reply = Event::Reply { partition: 0, epoch: old, call: *id, reply: "late".into() };
    assert_eq!(runtime.on(reply, 2), []);
    assert_eq!(record(&mut runtime, old, 0, text("c", "hi", 0)), []);
    assert_eq!(load(&mut runtime, old, "c"), []);
    assert_eq!(runtime.counters().stale, 3);
}

#[test]
fn gaps_of_markers_and_aborted_records_count_as_done() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 3, text("c", "hi", 0));
    let (_, _, progress) = commit(&load(&mut runtime, epoch, "c")).unwrap();
    assert_eq!(progress[0].1.offset, 4);
}

#[test]
fn a_record_delivered_twice_is_decided_once() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 0, text("c", "hi", 0));
    load(&mut runtime, epoch, "c");
    assert_eq!(record(&mut runtime, epoch, 0, text("c", "hi", 0)), []);
    assert_eq!(runtime.counters().inputs, 1);
}

#[test]
fn a_log_that_lost_records_above_our_progress_stops_the_partition() {
    let mut runtime = counting();
    let committed = Some(CommittedOffset { offset: 5, metadata: String::new() });
    let actions = runtime.on(Event::Assigned { partition: 0, committed, start: 9, end: 20 }, 0);
    let Some(Action::Halt { reason, .. }) = actions.first() else { panic!("{actions:?}") };
    assert!(reason.contains("begins at offset 9") && reason.contains("is only at 5"), "{reason}");
}

#[test]
fn a_group_without_progress_on_a_topic_that_has_records_does_not_start_silently() {
    let refusing = Limits { start: Start::Refuse, ..limits() };
    let mut runtime = Runtime::new(Counting, Box::new(Sizes), refusing, 1);
    let actions = runtime.on(Event::Assigned { partition: 0, committed: None, start: 0, end: 4 }, 0);
    assert!(matches!(actions.as_slice(), [Action::Halt { .. }]), "{actions:?}");
}

#[test]
fn nothing_is_delivered_before_the_view_reached_the_high_watermark() {
    let mut runtime = counting();
    let actions = runtime.on(
        Event::Assigned { partition: 0, committed: Some(CommittedOffset::default()), start: 0, end: 4 },
        0,
    );
    let [Action::ReadViewBounds { epoch, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    let epoch = *epoch;
    let actions = runtime.on(Event::ViewBounds { partition: 0, epoch, applied: 2, mark: 6, from: 2 }, 0);
    assert_eq!(actions, [Action::ReadView { partition: 0, epoch, from: 2 }]);
    let view = vec![(2, transition("c", 0, Id::of_text("x"), "hi").into())];
    let actions = runtime.on(Event::ViewRecords { partition: 0, epoch, records: view.clone(), next: 4 }, 0);
    assert_eq!(actions, [Action::WriteView { partition: 0, epoch, records: view, applied: 4 }]);
    let actions = runtime.on(Event::ViewWritten { partition: 0, epoch, applied: 4 }, 0);
    assert_eq!(actions, [Action::ReadView { partition: 0, epoch, from: 4 }]);
    runtime.on(Event::ViewRecords { partition: 0, epoch, records: vec![], next: 6 }, 0);
    let actions = runtime.on(Event::ViewWritten { partition: 0, epoch, applied: 6 }, 0);
    assert_eq!(actions, [Action::ListOpenLanes { partition: 0, epoch }]);
    let actions = runtime.on(Event::OpenLanes { partition: 0, epoch, keys: vec![] }, 0);
    assert_eq!(actions, [Action::Deliver { partition: 0, epoch, offset: 0 }]);
}

/// What is done when the store is found at `applied` and the log at `mark`, to be read again `from`.
fn found(applied: i64, mark: i64, from: i64) -> Vec<Action<String>> {
    let limits = Limits { resync_ms: 60_000, ..limits() };
    let mut runtime = Runtime::new(Counting, Box::new(Sizes), limits, 1);
    let committed = Some(CommittedOffset::default());
    let actions = runtime.on(Event::Assigned { partition: 0, committed, start: 0, end: 0 }, 0);
    let [Action::ReadViewBounds { epoch, resync_ms: 60_000, .. }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    runtime.on(Event::ViewBounds { partition: 0, epoch: *epoch, applied, mark, from }, 0)
}

#[test]
fn what_a_store_may_have_lost_is_read_again_before_anything_else() {
    assert_eq!(found(9, 9, 4), [Action::ReadView { partition: 0, epoch: 1, from: 4 }]);
    assert_eq!(found(9, 9, 9), [Action::ListOpenLanes { partition: 0, epoch: 1 }], "nothing is that new");
    assert_eq!(found(9, 12, 20), [Action::ReadView { partition: 0, epoch: 1, from: 9 }], "no gap, whatever");
}

#[test]
fn a_store_that_is_ahead_of_its_log_stops_the_partition_with_a_sentence_that_says_how_to_mend_it() {
    let actions = found(9, 4, 9);
    let [Action::Halt { partition: 0, reason }] = actions.as_slice() else { panic!("{actions:?}") };
    for part in ["state-transitions partition 0", "offset 9", "ends at 4", "--rebuild", "keyspace"] {
        assert!(reason.contains(part), "{part} in: {reason}");
    }
    assert!(matches!(found(9, 9, 9).as_slice(), [Action::ListOpenLanes { .. }]), "level is not ahead");
}

#[test]
fn a_new_owner_asks_open_calls_again_and_sets_open_timers() {
    let mut runtime = counting();
    let actions = runtime.on(
        Event::Assigned { partition: 0, committed: Some(CommittedOffset::default()), start: 0, end: 0 },
        0,
    );
    let [Action::ReadViewBounds { epoch, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    let epoch = *epoch;
    runtime.on(Event::ViewBounds { partition: 0, epoch, applied: 2, mark: 2, from: 2 }, 0);
    let actions = runtime.on(Event::OpenLanes { partition: 0, epoch, keys: vec!["c".into()] }, 0);
    assert_eq!(actions, [Action::Load { partition: 0, epoch, key: "c".into() }]);
    let ask = transition("c", 0, Id::of_text("a"), "ask");
    let timer = transition("c", 1, Id::of_text("b"), "timer");
    let loaded =
        Event::Loaded { partition: 0, epoch, key: "c".into(), rows: rows(vec![ask.clone(), timer.clone()]) };
    let actions = runtime.on(loaded, 0);
    assert!(matches!(actions.first(), Some(Action::Call { id, .. }) if *id == ask.id), "{actions:?}");
    assert!(matches!(actions.last(), Some(Action::Deliver { .. })));
    assert_eq!(runtime.next_timer_ms(), Some(1_000));
    let (_, outputs, _) = commit(&runtime.on(Event::Tick, 1_000)).unwrap();
    assert_eq!(outputs.len(), 1);
    assert_eq!(runtime.next_timer_ms(), None);
}

#[test]
fn a_lane_that_does_not_fold_is_folded_from_the_log_and_halts_when_that_does_not_help() {
    let mut runtime = counting();
    let mut halted = false;
    let mut actions = runtime.on(
        Event::Assigned { partition: 0, committed: Some(CommittedOffset::default()), start: 0, end: 0 },
        0,
    );
    // A gap may be what the store lost: it is folded anew three times in a row.
    for round in 0..4 {
        let [Action::ReadViewBounds { epoch, .. }] = actions.as_slice() else { panic!("{actions:?}") };
        let epoch = *epoch;
        let bounds = runtime.on(Event::ViewBounds { partition: 0, epoch, applied: 5, mark: 5, from: 5 }, 0);
        if round > 0 {
            assert_eq!(bounds, [Action::ReadView { partition: 0, epoch, from: 0 }]);
            runtime.on(Event::ViewRecords { partition: 0, epoch, records: vec![], next: 5 }, 0);
            runtime.on(Event::ViewWritten { partition: 0, epoch, applied: 5 }, 0);
        }
        runtime.on(Event::OpenLanes { partition: 0, epoch, keys: vec!["c".into()] }, 0);
        let gap = vec![transition("c", 1, Id::of_text("a"), "hi")];
        let after = runtime.on(Event::Loaded { partition: 0, epoch, key: "c".into(), rows: rows(gap) }, 0);
        halted = matches!(after.as_slice(), [Action::Halt { .. }]);
        if round < 3 {
            assert_eq!(after, [Action::StartOver { partition: 0 }]);
            actions = runtime.on(
                Event::Assigned {
                    partition: 0,
                    committed: Some(CommittedOffset::default()),
                    start: 0,
                    end: 0,
                },
                0,
            );
        }
    }
    assert!(halted);
}

#[test]
fn rows_are_written_only_from_committed_transitions_with_their_offsets() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 0, text("c", "hi", 0));
    let actions = load(&mut runtime, epoch, "c");
    assert!(!actions.iter().any(|action| matches!(action, Action::WriteView { .. })));
    let (batch, outputs, _) = commit(&actions).unwrap();
    let actions = runtime.on(Event::Committed { batch, positions: positions(&outputs, 7) }, 1);
    let Some(Action::WriteView { records, applied, .. }) = actions.first() else { panic!("{actions:?}") };
    assert_eq!((records[0].0, *applied), (7, 8));
}

#[test]
fn an_output_that_does_not_fit_makes_a_dead_letter_and_the_next_record_goes_on() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 0, text("c", "large", 0));
    record(&mut runtime, epoch, 1, text("c", "small", 0));
    let (batch, outputs, _) = commit(&load(&mut runtime, epoch, "c")).unwrap();
    let more = runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 1);
    let all: Vec<Topic> = outputs
        .iter()
        .cloned()
        .chain(commit(&more).map(|(_, outputs, _)| outputs).unwrap_or_default())
        .map(|output| output.payload.topic())
        .collect();
    assert_eq!(all, [Topic::DeadLetters, Topic::StateTransitions]);
}

#[test]
fn a_full_window_pauses_its_partition_and_half_a_window_resumes_it() {
    let small = Limits { window_offsets: 4, ..limits() };
    let mut runtime = Runtime::new(Claiming, Box::new(Sizes), small, 1);
    let epoch = own_claiming(&mut runtime, None);
    let mut paused = 0;
    let mut ids = Vec::new();
    for offset in 0..4 {
        let incoming = text("free", "x", u32::try_from(offset).unwrap());
        let actions = runtime.on(Event::Record { partition: 0, epoch, offset, record: incoming }, 0);
        paused += actions.iter().filter(|action| matches!(action, Action::Pause { .. })).count();
        ids.extend(actions.iter().filter_map(|action| match action {
            Action::Call { id, .. } => Some(*id),
            _ => None,
        }));
    }
    assert_eq!(paused, 1, "paused once, not per record");
    let mut resumed = BTreeMap::new();
    for (done, id) in ids.iter().enumerate() {
        let mut actions = runtime.on(Event::Reply { partition: 0, epoch, call: *id, reply: "ok".into() }, 1);
        while let Some((batch, outputs, _)) = commit(&actions) {
            actions = runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 1);
            if actions.contains(&Action::Resume { partition: 0 }) {
                resumed.insert(done, ());
            }
        }
    }
    assert_eq!(resumed.len(), 1);
}

/// A lane in memory, and nothing under way.
fn ready(limits: Limits) -> (Counter, u64) {
    let mut runtime = Runtime::new(Counting, Box::new(Sizes), limits, 1);
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 0, text("c", "hi", 0));
    let (batch, outputs, _) = commit(&load(&mut runtime, epoch, "c")).unwrap();
    runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 0);
    (runtime, epoch)
}

#[test]
fn progress_on_what_led_to_nothing_waits_for_outputs_or_for_its_time() {
    let (mut runtime, epoch) = ready(Limits { progress_ms: 100, ..limits() });
    assert_eq!(runtime.next_timer_ms(), None);
    for offset in 1..4 {
        assert_eq!(commit(&record(&mut runtime, epoch, offset, text("c", "nothing", 0))), None);
    }
    assert_eq!(runtime.next_timer_ms(), Some(101), "from the first one on");
    assert!(!runtime.is_settled());
    // Outputs take it along.
    let (batch, outputs, progress) = commit(&record(&mut runtime, epoch, 4, text("c", "hi", 1))).unwrap();
    assert_eq!((outputs.len(), progress[0].1.offset), (1, 5));
    // What comes while a commit is under way waits from then on.
    assert_eq!(commit(&record(&mut runtime, epoch, 5, text("c", "nothing", 1))), None);
    assert_eq!(runtime.next_timer_ms(), None);
    let actions = runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 50);
    assert_eq!((commit(&actions), runtime.next_timer_ms()), (None, Some(150)));
    assert_eq!(commit(&runtime.on(Event::Tick, 149)), None);
    let (_, outputs, progress) = commit(&runtime.on(Event::Tick, 150)).unwrap();
    assert_eq!((outputs.len(), progress[0].1.offset), (0, 6));
}

#[test]
fn progress_does_not_wait_where_the_window_gets_narrow_or_the_process_ends_or_it_was_asked_for() {
    let (mut runtime, epoch) = ready(Limits { progress_ms: 100, window_offsets: 16, ..limits() });
    for offset in 1..4 {
        assert_eq!(commit(&record(&mut runtime, epoch, offset, text("c", "nothing", 0))), None);
    }
    assert!(
        commit(&record(&mut runtime, epoch, 4, text("c", "nothing", 0))).is_some(),
        "a quarter of the window"
    );

    let (mut runtime, epoch) = ready(Limits { progress_ms: 100, ..limits() });
    record(&mut runtime, epoch, 1, text("c", "nothing", 0));
    assert!(commit(&runtime.on(Event::Drain, 2)).is_some());

    let (mut runtime, epoch) = ready(Limits { progress_ms: 100, ..limits() });
    record(&mut runtime, epoch, 1, text("c", "nothing", 0));
    runtime.on(Event::Revoked { partition: 0 }, 2);
    assert_eq!(runtime.next_timer_ms(), None, "nothing waits any more");

    // A group's first progress is not that of a record.
    let mut runtime = Runtime::new(Counting, Box::new(Sizes), Limits { progress_ms: 100, ..limits() }, 1);
    let actions = runtime.on(Event::Assigned { partition: 0, committed: None, start: 0, end: 9 }, 0);
    assert!(commit(&actions).is_some());
}

#[test]
fn a_claim_does_not_wait_with_progress() {
    let mut runtime = Runtime::new(Claiming, Box::new(Sizes), Limits { progress_ms: 100, ..limits() }, 1);
    let epoch = own_claiming(&mut runtime, None);
    let actions =
        runtime.on(Event::Record { partition: 0, epoch, offset: 0, record: text("claim", "x", 0) }, 0);
    assert!(commit(&actions).is_some());
}

#[test]
fn what_arrives_after_the_window_is_full_is_let_go_and_delivered_again() {
    let small = Limits { window_offsets: 4, ..limits() };
    let mut runtime = Runtime::new(Claiming, Box::new(Sizes), small, 1);
    let epoch = own_claiming(&mut runtime, None);
    let free = |offset: i64| {
        let record = text("free", "x", u32::try_from(offset).unwrap());
        Event::Record { partition: 0, epoch, offset, record }
    };
    let called = |actions: &[Action<String>]| -> Vec<Id> {
        let call = |action: &Action<String>| match action {
            Action::Call { id, .. } => Some(*id),
            _ => None,
        };
        actions.iter().filter_map(call).collect()
    };
    // One read of ten records, of which the window has room for four.
    let ids: Vec<Id> = (0..10).flat_map(|offset| called(&runtime.on(free(offset), 0))).collect();
    assert_eq!(ids.len(), 4, "nothing is begun that progress has no room for");
    let mut delivered = Vec::new();
    for id in &ids {
        let mut actions = runtime.on(Event::Reply { partition: 0, epoch, call: *id, reply: "ok".into() }, 1);
        while let Some((batch, outputs, progress)) = commit(&actions) {
            assert!(Progress::decode(&progress[0].1).unwrap().span() <= 4);
            // Late ones of the same read, before anything is delivered again: not the next, so a gap if taken.
            if delivered.is_empty() {
                assert_eq!(called(&runtime.on(free(9), 1)), []);
            }
            actions = runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 1);
            delivered.extend(actions.iter().filter_map(|action| match action {
                Action::Deliver { offset, .. } => Some(*offset),
                Action::Resume { .. } => panic!("what was let go would be passed over"),
                _ => None,
            }));
        }
    }
    assert_eq!(delivered, [4], "from the first one that was let go, once");
    let again: usize = (4..8).map(|offset| called(&runtime.on(free(offset), 2)).len()).sum();
    assert_eq!(again, 4);
}

#[test]
fn a_batch_that_is_split_leaves_no_progress_that_spans_more_than_a_window() {
    let small = Limits { window_offsets: 4, ..limits() };
    let mut runtime = Runtime::new(Claiming, Box::new(Sizes), small, 1);
    let epoch = own_claiming(&mut runtime, None);
    let mut ids = Vec::new();
    for offset in 0..4 {
        let record = text("free", "x", u32::try_from(offset).unwrap());
        for action in runtime.on(Event::Record { partition: 0, epoch, offset, record }, 0) {
            if let Action::Call { id, .. } = action {
                ids.push(id);
            }
        }
    }
    let reply = |at: usize| Event::Reply { partition: 0, epoch, call: ids[at], reply: "ok".into() };
    let (first, outputs, _) = commit(&runtime.on(reply(0), 1)).unwrap();
    runtime.on(reply(1), 1);
    runtime.on(reply(2), 1);
    let done = runtime.on(Event::Committed { batch: first, positions: positions(&outputs, 0) }, 1);
    let (both, outputs, progress) = commit(&done).unwrap();
    assert_eq!((outputs.len(), progress[0].1.offset), (2, 3), "two steps in one batch");
    // Markers pass while it is under way; then the log wants it in two.
    let record = text("free", "x", 7);
    runtime.on(Event::Record { partition: 0, epoch, offset: 7, record }, 1);
    let halved = runtime.on(Event::Aborted { batch: both, halve: true }, 1);
    let (_, outputs, progress) = commit(&halved).unwrap();
    assert_eq!((outputs.len(), progress[0].1.offset), (1, 2));
    assert!(Progress::decode(&progress[0].1).unwrap().span() <= 4);
}

/// (offset, key) of each record whose step is in a batch, where offsets are the records' numbers.
fn committed_keys(outputs: &[Message]) -> Vec<String> {
    outputs.iter().map(|output| output.payload.key().to_owned()).collect()
}

#[test]
fn a_lane_that_floods_its_partition_while_it_loads_holds_the_others_up_no_longer_than_that() {
    let small = Limits { window_offsets: 8, ..limits() };
    let mut runtime = Runtime::new(Counting, Box::new(Sizes), small, 1);
    let epoch = own(&mut runtime, None);
    let mut paused = false;
    let mut batch = None;
    // The store does not answer for the flooding lane. Another one, within the window, is not kept waiting.
    for offset in 0..8 {
        let key = if offset == 5 { "other" } else { "flood" };
        let n = u32::try_from(offset).unwrap();
        let actions = record(&mut runtime, epoch, offset, text(key, "hi", n));
        paused |= actions.contains(&Action::Pause { partition: 0 });
        if offset == 5 {
            batch = commit(&load(&mut runtime, epoch, "other"));
        }
    }
    let (batch, outputs, progress) = batch.unwrap();
    assert_eq!((committed_keys(&outputs), progress[0].1.offset), (vec!["other".to_owned()], 0));
    assert!(paused, "the window is full");
    runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 9);
    // Once it answers, all of the lane is decided at once, and the partition goes on with whatever comes.
    let mut actions = load(&mut runtime, epoch, "flood");
    let (mut resumed, mut low) = (false, 0);
    while let Some((batch, outputs, progress)) = commit(&actions) {
        low = progress[0].1.offset;
        actions = runtime.on(Event::Committed { batch, positions: positions(&outputs, 1) }, 10);
        resumed |= actions.contains(&Action::Resume { partition: 0 });
    }
    assert_eq!((low, resumed), (8, true));
    let (_, outputs, _) = commit(&record(&mut runtime, epoch, 8, text("other", "next", 0))).unwrap();
    assert_eq!(committed_keys(&outputs), ["other"]);
}

#[test]
fn a_lane_that_never_pauses_for_breath_does_not_overtake_the_others() {
    let small = Limits { batch_records_max: 4, ..limits() };
    let mut runtime = Runtime::new(Counting, Box::new(Sizes), small, 1);
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 0, text("other", "first", 0));
    let mut actions = load(&mut runtime, epoch, "other");
    record(&mut runtime, epoch, 1, text("flood", "first", 0));
    load(&mut runtime, epoch, "flood");
    let mut offset = 1;
    let (mut waited, mut commits) = (0, Vec::new());
    // Each commit finds ten more records of the flooding lane; one of another lane comes in between once.
    while let Some((batch, outputs, _)) = commit(&actions) {
        commits.push(committed_keys(&outputs));
        for n in 0..10 {
            offset += 1;
            let key = if commits.len() == 3 && n == 5 { "other" } else { "flood" };
            record(&mut runtime, epoch, offset, text(key, "hi", u32::try_from(offset).unwrap()));
        }
        actions = runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 9);
        waited += usize::from(commits.len() > 3);
        if commits.len() > 3 && commits.last().is_some_and(|keys| keys.contains(&"other".to_owned())) {
            break;
        }
        assert!(waited < 10, "thirty records were before it, and batches are of four");
    }
    assert!(waited > 0);
}

#[test]
fn a_misplaced_record_is_forwarded_and_never_applied_where_it_lies() {
    let mut runtime = counting();
    let epoch = own(&mut runtime, None);
    let Incoming::Message(original) = text("elsewhere", "hi", 0) else { panic!() };
    let (_, outputs, progress) =
        commit(&record(&mut runtime, epoch, 0, Incoming::Misplaced(original.clone()))).unwrap();
    assert_eq!((outputs, progress[0].1.offset), (vec![*original], 1));
    assert_eq!(runtime.counters().inputs, 0);
}

#[test]
fn the_first_assignment_commits_explicit_progress_even_without_a_record() {
    let mut runtime = Runtime::new(Counting, Box::new(Sizes), limits(), 1);
    let actions = runtime.on(Event::Assigned { partition: 0, committed: None, start: 0, end: 0 }, 0);
    let committed = actions.iter().any(|action| {
        matches!(action, Action::Commit { outputs, progress, .. }
            if outputs.is_empty() && progress.iter().any(|(partition, at)| *partition == 0 && at.offset == 0))
    });
    assert!(committed, "{actions:?}");
}

#[test]
fn a_group_that_is_ahead_of_its_log_stops_the_partition() {
    let mut runtime = Runtime::new(Counting, Box::new(Sizes), limits(), 1);
    let committed = Some(CommittedOffset { offset: 9, metadata: String::new() });
    let actions = runtime.on(Event::Assigned { partition: 0, committed, start: 0, end: 4 }, 0);
    assert!(matches!(actions.as_slice(), [Action::Halt { partition: 0, .. }]), "{actions:?}");
}

#[test]
fn a_lane_read_back_without_its_newest_rows_makes_the_partition_catch_up_again() {
    let limits = Limits { lanes_max: 0, resync_ms: 10, ..limits() };
    let mut runtime = Runtime::new(Counting, Box::new(Sizes), limits, 1);
    let epoch = own(&mut runtime, None);
    record(&mut runtime, epoch, 0, text("c", "one", 0));
    let (batch, outputs, _) = commit(&load(&mut runtime, epoch, "c")).unwrap();
    runtime.on(Event::Committed { batch, positions: positions(&outputs, 0) }, 1);
    // The last moment at which the store may lose this.
    runtime.on(Event::ViewWritten { partition: 0, epoch, applied: 1 }, 1);
    assert!(runtime.lane(0, "c").is_none(), "it has left memory");
    record(&mut runtime, epoch, 1, text("c", "two", 0));
    // The store has lost what it had acknowledged.
    let actions = load(&mut runtime, epoch, "c");
    assert_eq!(actions, [Action::StartOver { partition: 0 }]);
}

#[test]
fn rows_lost_while_they_are_folded_anew_are_folded_once_more_and_a_gap_that_stays_stops_the_partition() {
    let mut runtime = counting();
    let loaded = |runtime: &mut Counter, seqs: &[i64]| {
        let epoch = own(runtime, None);
        record(runtime, epoch, 0, text("c", "hi", 0));
        let found = seqs.iter().map(|seq| transition("c", *seq, Id::of_text("row"), "hi")).collect();
        runtime.on(Event::Loaded { partition: 0, epoch, key: "c".into(), rows: rows(found) }, 1)
    };
    // A store may lose rows once more while they are brought back; a log that lacks them does so for ever.
    for _ in 0..3 {
        assert_eq!(loaded(&mut runtime, &[0, 2]), [Action::StartOver { partition: 0 }]);
    }
    assert!(matches!(loaded(&mut runtime, &[0, 2]).as_slice(), [Action::Halt { partition: 0, .. }]));
}

#[test]
fn the_lanes_used_last_stay_in_memory_and_none_leaves_before_its_rows_are_written() {
    let limits = Limits { lanes_max: 2, ..limits() };
    let mut runtime = Runtime::new(Counting, Box::new(Sizes), limits, 1);
    let epoch = own(&mut runtime, None);
    let mut written = 0;
    let mut step = |runtime: &mut Counter, offset: i64, key: &str| {
        let actions = record(runtime, epoch, offset, text(key, "hi", u32::try_from(offset).unwrap()));
        let actions = if actions.iter().any(|action| matches!(action, Action::Load { .. })) {
            load(runtime, epoch, key)
        } else {
            actions
        };
        let (batch, outputs, _) = commit(&actions).unwrap();
        runtime.on(Event::Committed { batch, positions: positions(&outputs, written) }, 0);
        written += 1;
        written
    };
    let acknowledge = |runtime: &mut Counter, applied| {
        runtime.on(Event::ViewWritten { partition: 0, epoch, applied }, 0);
        ["a", "b", "c"].map(|key| runtime.lane(0, key).is_some())
    };
    let rows = step(&mut runtime, 0, "a");
    assert_eq!(acknowledge(&mut runtime, rows), [true, false, false]);
    let rows = step(&mut runtime, 1, "b");
    assert_eq!(acknowledge(&mut runtime, rows), [true, true, false]);
    let rows = step(&mut runtime, 2, "a");
    assert_eq!(acknowledge(&mut runtime, rows), [true, true, false]);
    let rows = step(&mut runtime, 3, "c");
    // Over the limit already, but nothing leaves while rows are on their way.
    assert_eq!(["a", "b", "c"].map(|key| runtime.lane(0, key).is_some()), [true, true, true]);
    assert_eq!(acknowledge(&mut runtime, rows), [true, false, true], "'b' was unused for longest");
}
