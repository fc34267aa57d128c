//! Order: transitions that do not follow each other, and inputs that others overtook.

use super::*;

fn chat() -> World {
    let mut w = World::new();
    w.say("one");
    w.reply("alpha", "first", &[]);
    w.say("two");
    w
}

#[test]
fn a_transition_that_leaves_one_out_is_refused_with_what_should_follow_and_changes_nothing() {
    let w = chat();
    let mut conv = Conversation::default();
    conv.apply(&w.log[0]).unwrap();
    let before = conv.clone();
    let error = conv.apply(&w.log[2]).unwrap_err();
    assert_eq!((error.found, error.expected, error.id), (2, 1, w.log[2].id));
    expect!["conversation 'demo': transition ID has seq 2, expected 1: refold it from the log"]
        .assert_eq(&error.to_string().replace(&w.log[2].id.to_string(), "ID"));
    assert_eq!(conv, before);
}

#[test]
fn a_transition_of_another_history_is_refused_although_its_number_fits() {
    let w = chat();
    let mut conv = Conversation::default();
    conv.apply(&w.log[0]).unwrap();
    let mut other = w.log[1].clone();
    other.previous = Some(Id::of_text("another"));
    let before = conv.clone();
    assert!(conv.apply(&other).is_err());
    assert_eq!(conv, before);
}

#[test]
fn a_transition_that_was_folded_before_changes_nothing() {
    let w = chat();
    let mut conv = w.conv.clone();
    for transition in &w.log {
        conv.apply(transition).unwrap();
    }
    assert_eq!(conv, w.conv);
}

#[test]
fn a_reply_to_a_wait_that_somebody_closed_is_recorded_and_booked() {
    let mut w = World::new();
    w.say("one");
    let wait = w.ask_of("alpha");
    w.control(ControlOperation::Cancel);
    let before = w.main();
    w.reply_to(wait, "too late", &[("pay", json!({}))]);
    assert_eq!(w.main(), before);
    assert!(w.tool_effects().is_empty());
    assert_eq!(w.events("input_recorded")[0]["code"], "late");
    let calls = w.artifacts.iter().filter(|artifact| matches!(artifact.body, ArtifactBody::ModelCall(_)));
    assert_eq!(calls.count(), 1, "it was paid for");
}

#[test]
fn answers_results_and_deadlines_that_others_overtook_change_nothing() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[("guarded", json!({})), ("weather", json!({}))]);
    let (request, tool) = (w.wait(WaitKind::UserInput), w.wait(WaitKind::Tool));
    w.control(ControlOperation::Cancel);
    let before = w.main();
    assert_eq!(w.answer(request, AnswerKind::Approve, "", None).code, "conflict");
    assert_eq!(w.tool_done(0, ToolStatus::Success).code, "late");
    w.now += 1_000_000;
    let decision = w.deadline(tool);
    assert!(decision.effects.is_empty() && decision.asks.is_empty());
    assert_eq!(w.main(), before);
    assert_eq!(w.events("late_result").len(), 1, "what came is kept beside it");
}

#[test]
fn a_deadline_that_fires_early_is_forgotten_so_that_the_right_one_counts() {
    let mut w = World::new();
    w.say("go");
    let wait = w.ask_of("alpha");
    assert_eq!(w.deadline(wait), Decision::default());
    w.now = 121_000;
    w.deadline(wait);
    assert!(w.main().ends_with("assistant error timeout/timeout\n"));
}

#[test]
fn every_kind_of_input_is_answered_by_exactly_one_outcome_before_the_conversation_exists() {
    let id = Id::of_text("nothing");
    let answer = Answer { kind: AnswerKind::Approve, text: String::new(), arguments: None };
    let outcome = ToolOutcome {
        effect: id,
        wait: id,
        call_id: "c".into(),
        status: ToolStatus::Success,
        result: json!({}).into(),
        reward: None,
        latency_ms: None,
    };
    let over = OverrideCommand {
        agent: None,
        set: Overrides::default(),
        clear: false,
        lock: false,
        unlock: false,
        book: None,
    };
    let control = ControlCommand { operation: ControlOperation::Cancel, reason: String::new() };
    for body in [
        InboxBody::HumanAnswer(HumanAnswer { request: id, answer, by: "ann".into() }),
        InboxBody::ToolOutcome(outcome),
        InboxBody::BranchCommand(command(BranchOperation::Fork)),
        InboxBody::OverrideCommand(over),
        InboxBody::ControlCommand(control),
        InboxBody::UserText(UserText { agent: None, branch: None, text: "hey".into() }),
        InboxBody::UserText(UserText { agent: Some("alpha".into()), branch: None, text: " \n".into() }),
        InboxBody::UserText(UserText {
            agent: Some("alpha".into()),
            branch: Some("x".into()),
            text: "a".into(),
        }),
    ] {
        let mut w = World::new();
        let kind = body.kind();
        let outcome = w.inbox(body);
        assert_eq!(outcome.verdict, Verdict::Refused, "{kind}");
        assert!(!outcome.message.is_empty(), "{kind}");
        assert!(!w.conv.is_open() && w.asks.is_empty() && w.effects.is_empty(), "{kind}");
    }
}
