//! Turns: what is typed meanwhile, failures, pauses, reflections, limits.

use super::*;

fn turns(w: &mut World, many: usize) {
    for _ in 0..many {
        w.say("q");
        w.reply("alpha", "a", &[]);
    }
}

#[test]
fn what_was_typed_while_a_failing_call_ran_is_asked_next() {
    let mut w = World::new();
    w.say("one");
    w.say("two");
    w.fail("alpha");
    assert!(w.asked("alpha").contains("two"), "{}", w.asked("alpha"));
    w.reply("alpha", "answer to two", &[]);
    check(
        &w.main(),
        expect![[r#"
        0 user: one
        1 user: two
        2 assistant error model/http_401
        3 assistant: answer to two
    "#]],
    );
    assert_eq!(w.published().len(), 2);
    assert!(w.asks.is_empty());
}

#[test]
fn what_was_typed_while_a_call_ran_out_of_time_is_asked_next() {
    let mut w = World::new();
    w.say("one");
    w.say("two");
    let wait = w.ask_of("alpha");
    w.now = 200_000;
    w.deadline(wait);
    w.reply("alpha", "answer to two", &[]);
    check(
        &w.main(),
        expect![[r#"
        0 user: one
        1 user: two
        2 assistant error timeout/timeout
        3 assistant: answer to two
    "#]],
    );
}

#[test]
fn a_failure_is_asked_again_once_for_each_message_and_not_for_ever() {
    let mut w = World::new();
    w.say("one");
    w.say("two");
    w.fail("alpha");
    w.fail("alpha");
    assert!(w.asks.is_empty());
    w.control(ControlOperation::Pause);
    w.control(ControlOperation::Resume);
    assert!(w.asks.is_empty(), "a resume repeats nothing");
    check(
        &w.main(),
        expect![[r#"
        0 user: one
        1 user: two
        2 assistant error model/http_401
        3 assistant error model/http_401
    "#]],
    );
}

#[test]
fn what_was_typed_before_a_pause_is_asked_after_it_although_the_reply_came_in_between() {
    let mut w = World::new();
    w.say("one");
    let wait = w.ask_of("alpha");
    w.say("two");
    w.control(ControlOperation::Pause);
    w.reply_to(wait, "first", &[]);
    assert!(w.asks.is_empty());
    w.control(ControlOperation::Resume);
    assert!(w.asked("alpha").contains("two"), "{}", w.asked("alpha"));
    w.reply("alpha", "second", &[]);
    check(
        &w.main(),
        expect![[r#"
        0 user: one
        1 user: two
        2 assistant: first
        3 assistant: second
    "#]],
    );
    assert_eq!(w.published(), ["first", "second"]);
}

#[test]
fn what_was_typed_on_a_branch_before_it_was_parked_is_asked_when_it_is_checked_out() {
    let mut w = World::new();
    w.say("one");
    let wait = w.ask_of("alpha");
    w.say("two");
    w.branch(BranchCommand { at: Some(0), ..command(BranchOperation::Rewind) });
    w.reply_to(wait, "first", &[]);
    assert!(w.asks.is_empty());
    w.branch(BranchCommand { branch: Some("main".into()), ..command(BranchOperation::Checkout) });
    w.reply("alpha", "second", &[]);
    check(
        &w.main(),
        expect![[r#"
        0 user: one
        1 user: two
        2 assistant: first
        3 assistant: second
    "#]],
    );
}

#[test]
fn a_message_on_a_parked_branch_is_recorded_and_asked_when_it_is_checked_out() {
    let mut w = World::new();
    turns(&mut w, 1);
    w.branch(BranchCommand { at: Some(0), ..command(BranchOperation::Rewind) });
    let body = UserText { agent: None, branch: Some("main".into()), text: "and then?".into() };
    assert_eq!(w.inbox(InboxBody::UserText(body)).code, "parked");
    assert!(w.asks.is_empty());
    w.branch(BranchCommand { branch: Some("main".into()), ..command(BranchOperation::Checkout) });
    assert!(w.asked("alpha").contains("and then?"));
}

#[test]
fn after_a_resume_an_owner_that_takes_over_asks_what_was_asked_last() {
    let mut w = World::new();
    w.say("one");
    w.control(ControlOperation::Pause);
    w.say("two");
    w.control(ControlOperation::Resume);
    assert!(w.asked("alpha").contains("two"));
    let context = Context { registry: &w.registry, settings: &w.settings };
    assert_eq!(open_asks(&w.conv, context), w.asks);
    w.reply("alpha", "both", &[]);
    assert!(w.asks.is_empty(), "nothing was left unseen");
    assert_eq!(w.main().matches("assistant").count(), 1);
}

#[test]
fn what_is_typed_while_a_person_writes_is_the_next_request() {
    let mut w = World::new();
    w.say_to("person", "one");
    w.say_to("person", "two");
    w.say_to("person", "three");
    let request = w.wait(WaitKind::UserInput);
    w.answer(request, AnswerKind::Text, "first", None);
    let request = w.wait(WaitKind::UserInput);
    w.answer(request, AnswerKind::Text, "second", None);
    assert!(w.conv.waits.is_empty());
    check(
        &w.show("person", "main"),
        expect![[r#"
        0 user: one
        1 request Reply: one
        2 user: two
        3 user: three
        4 response Text by ann
        5 assistant: first
        6 request Reply: two
        three
        7 response Text by ann
        8 assistant: second
    "#]],
    );
}

#[test]
fn a_message_while_a_tool_runs_is_seen_by_the_call_that_follows_the_result() {
    let mut w = World::new();
    w.say("weather?");
    w.reply("alpha", "", &[("weather", json!({}))]);
    w.say("hurry");
    assert!(w.asks.is_empty());
    w.tool_done(0, ToolStatus::Success);
    assert!(w.asked("alpha").contains("hurry"));
    w.reply("alpha", "sunny", &[]);
    assert!(w.asks.is_empty());
}

#[test]
fn tool_self_and_critic_share_three_reflections_for_a_message() {
    let mut w = World::new();
    w.apply(tool("look", json!({"side_effect_free": true, "reflect": true})), 1);
    w.alpha(|llm| {
        llm.tools = vec!["look".into()];
        llm.self_reflection = true;
        llm.reflection_agent = Some("helper".into());
    });
    w.say("think");
    for n in 0..2 {
        w.reply("alpha", "", &[("look", json!({"n": n}))]);
        w.tool_done(n, ToolStatus::Success);
    }
    w.reply("alpha", "draft", &[]);
    w.reply("alpha", "final", &[]);
    assert!(w.asks.is_empty(), "no room is left for the critic");
    assert_eq!(w.published(), ["final"]);
    check(
        &w.main(),
        expect![[r#"
            0 user: think
            1 call look {"n":0}
            2 result look success Some(1.0)
            3 user (reflection): Before you go on, check the result of 'look': does it answer what was asked?
            4 call look {"n":1}
            5 result look success Some(1.0)
            6 user (reflection): Before you go on, check the result of 'look': does it answer what was asked?
            7 assistant: draft
            8 user (reflection): Look at your last answer once more. Is it complete, correct and clear? Answer with the improved text, or with the same text where nothing is to be improved.
            9 assistant: final
        "#]],
    );
    w.say("again");
    w.reply("alpha", "draft", &[]);
    assert_eq!(w.main().matches("user (reflection)").count(), 4, "the next message has its own three");
}

#[test]
fn a_critic_is_asked_once_and_its_words_come_back_as_a_reflection() {
    let mut w = World::new();
    w.alpha(|llm| llm.reflection_agent = Some("helper".into()));
    w.say("think");
    w.reply("alpha", "draft", &[]);
    w.reply("helper", "too short", &[]);
    w.reply("alpha", "longer", &[]);
    assert!(w.asks.is_empty());
    check(
        &w.main(),
        expect![[r#"
        0 user: think
        1 assistant: draft
        2 agent call helper: Critique the following response: draft
        3 agent result helper success: too short
        4 user (reflection): A reviewer said about your last answer: too short
        Answer again with that in mind.
        5 assistant: longer
    "#]],
    );
}

#[test]
fn a_critic_that_fails_or_does_not_exist_does_not_keep_the_answer_back() {
    let mut w = World::new();
    w.alpha(|llm| llm.reflection_agent = Some("helper".into()));
    w.say("think");
    w.reply("alpha", "draft", &[]);
    w.fail("helper");
    w.reply("alpha", "final", &[]);
    assert_eq!(w.published(), ["final"]);
    let mut w = World::new();
    w.alpha(|llm| llm.reflection_agent = Some("nobody".into()));
    w.say("think");
    w.reply("alpha", "draft", &[]);
    assert_eq!(w.published(), ["draft"]);
    assert_eq!(w.events("reflection_skipped").len(), 1);
}

#[test]
fn a_branch_at_its_limit_refuses_visibly_where_the_agent_is_so_defined() {
    let mut w = World::new();
    w.alpha(|llm| llm.at_limit = AtLimit::Refuse);
    turns(&mut w, 667);
    let before = w.conv.visible(&"alpha".into(), &BranchId::main()).len();
    assert_eq!(before, 2_001);
    let outcome = w.say("one more");
    assert_eq!((outcome.verdict, outcome.code.as_str()), (Verdict::Refused, "limit"));
    expect!["branch 'main' of 'alpha' holds 2000 entries, its limit: rewind it, or set at_limit to compact"]
        .assert_eq(&outcome.message);
    assert_eq!(w.conv.visible(&"alpha".into(), &BranchId::main()).len(), before);
    w.branch(BranchCommand { at: Some(4), ..command(BranchOperation::Rewind) });
    assert_eq!(w.say("one more").code, "ok", "a rewound branch has room");
}

#[test]
fn a_branch_that_reaches_its_limit_within_a_turn_says_so_where_it_refuses() {
    let mut w = World::new();
    w.alpha(|llm| llm.at_limit = AtLimit::Refuse);
    turns(&mut w, 666);
    w.say("weather?");
    w.reply("alpha", "", &[("weather", json!({}))]);
    w.tool_done(0, ToolStatus::Success);
    assert!(w.asks.is_empty());
    assert!(w.main().ends_with("assistant error limit/entries\n"), "{}", &w.main()[w.main().len() - 200..]);
}

#[test]
fn a_branch_that_reaches_its_limit_within_a_turn_is_summed_up_without_using_up_reflections() {
    let mut w = World::new();
    w.alpha(|llm| llm.self_reflection = true);
    turns(&mut w, 1);
    while w.conv.visible(&"alpha".into(), &BranchId::main()).len() < 1_996 {
        w.say("q");
        w.control(ControlOperation::Cancel);
    }
    w.say("the question");
    w.reply("alpha", "", &[("weather", json!({}))]);
    w.tool_done(0, ToolStatus::Success);
    assert_eq!(w.main().matches("Summary of").count(), 1);
    assert_eq!(w.main().matches(": the question\n").count(), 1, "it is not asked twice");
    let request = format!("{:?}", w.asks[0].request.messages);
    assert!(request.contains("Summary of the conversation so far") && request.contains("the question"));
    assert!(w.asked("alpha").contains("Tool {"), "the result is what the model sees last");
    for n in 0..4 {
        w.reply("alpha", &format!("draft {n}"), &[]);
    }
    assert!(w.asks.is_empty());
    let after = w.main();
    let after = after.split("the question").nth(1).expect("the question");
    assert_eq!(after.matches("user (reflection)").count(), 3);
}

#[test]
fn what_a_summary_covers_is_counted_no_more() {
    let mut w = World::new();
    turns(&mut w, 667);
    turns(&mut w, 600);
    assert_eq!(w.main().matches("Summary of").count(), 1);
    turns(&mut w, 100);
    assert_eq!(w.main().matches("Summary of").count(), 2);
}

#[test]
fn two_empty_replies_are_asked_again_and_count_anew_after_a_text() {
    let mut w = World::new();
    w.say("go");
    for _ in 0..3 {
        w.reply("alpha", "", &[]);
        w.reply("alpha", "", &[]);
        w.reply("alpha", "", &[("nope", json!({}))]);
    }
    w.reply("alpha", "done", &[]);
    assert!(w.main().ends_with("assistant: done\n"), "{}", w.main());
    assert_eq!(w.events("empty_reply").len(), 6);
}

#[test]
fn the_twenty_fifth_model_call_of_a_message_is_the_last() {
    let mut w = World::new();
    w.say("go");
    for n in 0..25 {
        assert_eq!(w.asks.len(), 1, "call {n}");
        w.reply("alpha", "", &[("nope", json!({"n": n}))]);
    }
    assert!(w.asks.is_empty());
    assert!(w.main().ends_with("assistant error rounds/asks\n52 finished rounds\n"), "{}", w.main());
    assert_eq!(w.published().len(), 1, "people are told");
    w.say("go on");
    w.reply("alpha", "here", &[]);
    assert!(w.main().ends_with("assistant: here\n"), "the next message has its own calls");
}

#[test]
fn a_new_owners_repetition_of_a_call_is_no_second_call() {
    let mut w = World::new();
    w.say("go");
    for _ in 0..30 {
        w.control(ControlOperation::Pause);
        w.control(ControlOperation::Resume);
    }
    w.reply("alpha", "here", &[]);
    assert!(w.main().ends_with("assistant: here\n"));
}

#[test]
fn a_prompt_that_cannot_be_made_is_a_visible_message() {
    let mut w = World::new();
    w.alpha(|llm| llm.behavior = Some("bard".into()));
    w.say("sing");
    assert!(w.asks.is_empty() && w.conv.waits.is_empty());
    assert!(w.main().ends_with("assistant error model/render\n"));
    assert!(w.published()[0].contains("no such persona"), "{:?}", w.published());
}
