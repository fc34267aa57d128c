use super::*;

#[test]
fn a_plain_chat_is_two_entries() {
    let mut w = World::new();
    assert_eq!(w.say("hey").verdict, Verdict::Applied);
    w.reply("alpha", "hello", &[]);
    check(
        &w.main(),
        expect![[r#"
        0 user: hey
        1 assistant: hello
    "#]],
    );
    assert!(matches!(&w.effects[0].body, EffectBody::PublishReply(reply) if reply.text == "hello"));
    assert!(w.conv.waits.is_empty());
    let cost = w.artifacts.iter().find_map(|a| match &a.body {
        ArtifactBody::ModelCall(call) => call.cost_usd.clone(),
        _ => None,
    });
    assert_eq!(cost.as_deref(), Some("0.00257"));
}

#[test]
fn b1_b9_a_message_typed_while_a_call_runs_is_answered() {
    let mut w = World::new();
    w.say("one");
    w.say("two");
    w.reply("alpha", "first", &[]);
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
fn b2_the_same_child_can_be_called_any_number_of_times() {
    let mut w = World::new();
    for turn in 0..3 {
        w.say("go");
        w.reply("alpha", "", &[to_helper("q")]);
        w.reply("helper", &format!("a{turn}"), &[]);
        w.reply("alpha", "done", &[]);
    }
    assert_eq!(w.main().matches("agent result helper success").count(), 3);
    let last = w.conv.stacks[&AgentId::from("helper")]
        .branches
        .keys()
        .max_by_key(|b| w.conv.head(&"helper".into(), b));
    let last = last.unwrap().0.clone();
    check(
        &w.show("helper", &last),
        expect![[r#"
        0 user (agent:alpha): q
        1 assistant: a0
        2 finished done
        3 user (agent:alpha): q
        4 assistant: a1
        5 finished done
        6 user (agent:alpha): q
        7 assistant: a2
        8 finished done
    "#]],
    );
}

#[test]
fn b3_the_last_assistant_text_is_the_newest() {
    let mut w = World::new();
    for text in ["first", "second"] {
        w.say("q");
        w.reply("alpha", text, &[]);
    }
    assert_eq!(w.conv.last_assistant_text(&"alpha".into(), &BranchId::main()), Some("second"));
}

#[test]
fn b4_b18_the_parent_goes_on_after_its_children_answered() {
    let mut w = World::new();
    w.say("ask both, then pay");
    w.reply("alpha", "asking", &[to_helper("x"), to_helper("y")]);
    w.reply("helper", "one", &[]);
    assert!(w.asks.iter().all(|ask| ask.agent.as_str() == "helper"), "the parent waits for both");
    w.reply("helper", "two", &[]);
    w.reply("alpha", "", &[("pay", json!({"amount": 20}))]);
    w.tool_done(0, ToolStatus::Success);
    w.reply("alpha", "paid", &[]);
    assert_eq!(w.tool_effects().len(), 1);
    check(
        &w.main(),
        expect![[r#"
            0 user: ask both, then pay
            1 assistant +2: asking
            2 call delegate {"agent_id":"helper","message":"x"}
            3 agent call helper: x
            4 call delegate {"agent_id":"helper","message":"y"}
            5 agent call helper: y
            6 agent result helper success: one
            7 result delegate success Some(1.0)
            8 agent result helper success: two
            9 result delegate success Some(1.0)
            10 call pay {"amount":20}
            11 result pay success Some(1.0)
            12 assistant: paid
        "#]],
    );
}

#[test]
fn b5_a_model_that_does_not_answer_in_time_is_a_visible_message() {
    let mut w = World::new();
    w.say("hey");
    let wait = w.ask_of("alpha");
    assert_eq!(w.deadline(wait), Decision::default(), "too early");
    w.now = 200_000;
    w.deadline(wait);
    check(
        &w.main(),
        expect![[r#"
        0 user: hey
        1 assistant error timeout/timeout
    "#]],
    );
    w.say("again");
    w.reply("alpha", "here", &[]);
    assert!(w.main().ends_with("assistant: here\n"));
}

#[test]
fn b6_a_result_that_comes_after_a_branch_switch_lands_where_it_was_asked() {
    let mut w = World::new();
    w.say("weather");
    w.reply("alpha", "", &[("weather", json!({}))]);
    let new = w.branch(BranchCommand { at: Some(0), ..command(BranchOperation::Rewind) }).reference.unwrap();
    let outcome = w.tool_done(0, ToolStatus::Success);
    assert_eq!((outcome.verdict, outcome.code.as_str()), (Verdict::Recorded, "parked"));
    assert!(w.asks.is_empty());
    assert!(w.main().ends_with("result weather success Some(1.0)\n"));
    assert_eq!(w.show("alpha", &new), "0 user: weather\n");
    w.branch(BranchCommand { branch: Some("main".into()), ..command(BranchOperation::Checkout) });
    w.reply("alpha", "sunny", &[]);
    assert!(w.main().ends_with("assistant: sunny\n"));
    assert_eq!(w.tool_done(0, ToolStatus::Success).code, "late");
    assert_eq!(w.main().matches("result weather").count(), 1);
}

#[test]
fn b7_a_model_error_is_seen_and_the_conversation_goes_on() {
    let mut w = World::new();
    w.say("hey");
    w.fail("alpha");
    assert!(w.main().ends_with("assistant error model/http_401\n"));
    w.say("again");
    w.reply("alpha", "here", &[]);
    assert!(w.main().ends_with("assistant: here\n"));
}

#[test]
fn b8_several_agents_are_asked_side_by_side() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[to_helper("x"), to_helper("y"), to_helper("z")]);
    assert_eq!(w.asks.len(), 3);
    let context = Context { registry: &w.registry, settings: &w.settings };
    let mut again = open_asks(&w.conv, context);
    let mut asks = w.asks.clone();
    again.sort_by_key(|ask| ask.wait);
    asks.sort_by_key(|ask| ask.wait);
    assert_eq!(again, asks);
}

#[test]
fn b10_a_failed_tool_is_a_failure() {
    let mut w = World::new();
    w.say("weather");
    w.reply("alpha", "", &[("weather", json!({}))]);
    w.tool_done(0, ToolStatus::Error);
    assert!(w.main().ends_with("result weather error Some(0.0)\n"));
}

#[test]
fn b11_text_and_every_call_of_a_reply_count() {
    let mut w = World::new();
    w.say("go");
    let calls = [("weather", json!({})), ("pay", json!({})), ("nope", json!({})), ("pay", json!("{oops"))];
    w.reply("alpha", "working", &calls);
    assert_eq!(w.tool_effects().len(), 2);
    assert!(w.asks.is_empty());
    w.tool_done(1, ToolStatus::Success);
    w.tool_done(0, ToolStatus::Success);
    assert_eq!(w.asks.len(), 1);
    assert_eq!(w.main().matches(" error Some(0.0)").count(), 2);
}

#[test]
fn b15_nothing_but_what_was_said_is_on_a_stack() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[to_helper("x")]);
    let text = format!("{:?}", w.asks[0].request);
    assert!(!text.contains("synthetic") && !text.contains("agent:"), "{text}");
}

#[test]
fn b16_strict_dedup_ends_with_the_next_user_message() {
    let mut w = World::new();
    w.settings.dedup = DedupPolicy::Strict;
    w.say("pay");
    w.reply("alpha", "", &[("pay", json!({"to": 1})), ("pay", json!({"to": 1}))]);
    assert_eq!(w.tool_effects().len(), 1);
    assert!(w.main().ends_with("result pay skipped None\n"));
    w.tool_done(0, ToolStatus::Success);
    w.reply("alpha", "done", &[]);
    w.say("pay again");
    w.reply("alpha", "", &[("pay", json!({"to": 1}))]);
    assert_eq!(w.tool_effects().len(), 2);
}

#[test]
fn b17_ending_twice_leaves_one_finished_entry() {
    let mut w = World::new();
    w.say("hey");
    w.control(ControlOperation::Cancel);
    w.control(ControlOperation::Cancel);
    check(
        &w.main(),
        expect![[r#"
        0 user: hey
        1 assistant error cancelled/cancelled
        2 finished cancelled
    "#]],
    );
    w.say("again");
    w.reply("alpha", "here", &[]);
    assert!(w.main().ends_with("assistant: here\n"));
}

#[test]
fn of_fifty_concurrent_answers_one_wins() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[("guarded", json!({"a": 1}))]);
    let request = w.wait(WaitKind::UserInput);
    assert_eq!(w.answer(request, AnswerKind::Text, "x", None).code, "invalid");
    let outcomes: Vec<Outcome> = (0..50)
        .map(|n| {
            let kind = if n % 2 == 0 { AnswerKind::Edit } else { AnswerKind::Deny };
            w.answer(request, kind, "", Some(json!({"a": n})))
        })
        .collect();
    assert_eq!(outcomes.iter().filter(|o| o.verdict == Verdict::Applied).count(), 1);
    assert_eq!(outcomes.iter().filter(|o| o.code == "conflict").count(), 49);
    assert_eq!(w.tool_effects().len(), 1);
    assert_eq!(w.tool_effects()[0].1.arguments.0, json!({"a": 0}));
    assert_eq!(w.answer(Id::of_text("none"), AnswerKind::Approve, "", None).code, "unknown_request");
}

#[test]
fn a_human_agent_is_asked_and_answers_as_a_callee_and_the_callers_deadline_stands_still() {
    let mut w = World::new();
    w.say("go");
    let call = ("delegate", json!({"agent_id": "person", "message": "may I?", "context": "last:1"}));
    w.reply("alpha", "", &[call]);
    assert!(w.effects.iter().any(|e| matches!(&e.body, EffectBody::NotifyWebhook(_))));
    let wait = w.wait(WaitKind::Agent);
    assert!(w.conv.timers().is_empty());
    w.now = 10_000_000;
    assert_eq!(w.deadline(wait), Decision::default());
    let request = w.wait(WaitKind::UserInput);
    assert_eq!(w.answer(request, AnswerKind::Text, "you may", None).verdict, Verdict::Applied);
    w.reply("alpha", "thanks", &[]);
    assert!(w.main().contains("agent result person success: you may"));
}

#[test]
fn a_question_of_the_model_reaches_a_person_and_comes_back() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[("ask_user", json!({"question": "which?"}))]);
    let request = w.wait(WaitKind::UserInput);
    w.answer(request, AnswerKind::Text, "that", None);
    assert!(w.main().ends_with("result ask_user success Some(1.0)\n"));
    assert_eq!(w.asks.len(), 1);
}

#[test]
fn a_call_that_may_not_be_repeated_is_in_doubt_after_its_deadline_until_somebody_knows() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[("pay", json!({}))]);
    let wait = w.wait(WaitKind::Tool);
    w.now = 40_000;
    w.deadline(wait);
    assert!(w.conv.timers().is_empty() && w.conv.waits.contains_key(&wait) && w.asks.is_empty());
    assert_eq!(w.tool_done(0, ToolStatus::InDoubt).code, "in_doubt");
    assert_eq!(w.tool_done(0, ToolStatus::Success).verdict, Verdict::Applied);
    assert_eq!(w.asks.len(), 1);
}

#[test]
fn a_call_to_an_agent_that_takes_too_long_ends_for_both() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[to_helper("x")]);
    let wait = w.wait(WaitKind::Agent);
    w.now = 400_000;
    w.deadline(wait);
    assert!(w.main().contains("result delegate timeout"));
    assert_eq!(w.asks.len(), 1);
    assert_eq!(w.asks[0].agent.as_str(), "alpha");
}

#[test]
fn rewinding_a_fourteen_entry_conversation_keeps_main() {
    let mut w = World::new();
    for _ in 0..7 {
        w.say("q");
        w.reply("alpha", "a", &[]);
    }
    let rewind = BranchCommand { at: Some(4), name: Some("pi".into()), ..command(BranchOperation::Rewind) };
    let new = w.branch(rewind.clone()).reference.unwrap();
    assert_eq!(w.show("alpha", &new).lines().count(), 5);
    assert_eq!(w.main().lines().count(), 14);
    assert!(w.asks.is_empty(), "a rewind asks nothing");
    assert_eq!(w.branch(rewind).code, "invalid", "names are unique");
    w.say("what?");
    w.reply("alpha", "pi", &[]);
    assert_eq!(w.show("alpha", &new).lines().count(), 7);
    let id = AgentId::from("alpha");
    assert_eq!(w.conv.diff(&id, &BranchId::main(), &new.as_str().into()).common, 5);
    let far = BranchCommand { at: Some(99), ..command(BranchOperation::Fork) };
    assert!(w.branch(far).message.contains("has 7 entries, 0 to 6"));
    let to = BranchCommand { branch: Some("pi".into()), ..command(BranchOperation::Checkout) };
    assert_eq!(w.branch(to).reference, Some(new));
}

#[test]
fn a_destructive_rewind_hides_and_a_fork_made_before_keeps_what_it_had() {
    let mut w = World::new();
    for n in 0..3 {
        w.say(&format!("q{n}"));
        w.reply("alpha", "a", &[]);
    }
    let fork = w.branch(command(BranchOperation::Fork)).reference.unwrap();
    w.branch(BranchCommand { at: Some(1), destructive: true, ..command(BranchOperation::Rewind) });
    assert_eq!(w.main().lines().count(), 2);
    assert_eq!(w.show("alpha", &fork).lines().count(), 6);
    w.say("new");
    assert_eq!(w.main().lines().count(), 3);
}

#[test]
fn a_fork_inside_an_open_step_starts_before_it_or_keeps_the_wait() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[("weather", json!({}))]);
    let cut = w.branch(command(BranchOperation::Fork)).reference.unwrap();
    assert_eq!(w.show("alpha", &cut), "0 user: go\n");
    let kept =
        w.branch(BranchCommand { keep_wait: true, ..command(BranchOperation::Rewind) }).reference.unwrap();
    w.tool_done(0, ToolStatus::Success);
    assert!(w.show("alpha", &kept).ends_with("result weather success Some(1.0)\n"));
    assert!(w.main().ends_with("result weather success Some(1.0)\n"));
    assert_eq!(w.asks.len(), 1);
    assert_eq!(w.asks[0].branch.as_str(), kept);
}

#[test]
fn a_tree_fork_takes_the_callees_along() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[to_helper("x")]);
    w.reply("helper", "y", &[]);
    w.reply("alpha", "done", &[]);
    w.branch(BranchCommand { tree: true, ..command(BranchOperation::Fork) });
    let helper = &w.conv.stacks[&AgentId::from("helper")];
    assert_eq!(helper.branches.values().filter(|b| b.creator.starts_with("tree:")).count(), 1);
}

#[test]
fn three_empty_replies_or_too_many_calls_end_the_turn_visibly() {
    let mut w = World::new();
    w.say("go");
    for _ in 0..3 {
        w.reply("alpha", "", &[]);
    }
    assert!(w.main().ends_with("1 assistant error rounds/no_content\n2 finished rounds\n"), "{}", w.main());
    w.say("go");
    for n in 0..25 {
        w.reply("alpha", "", &[("nope", json!({"n": n}))]);
    }
    assert!(w.main().ends_with("finished rounds\n"));
    assert!(w.asks.is_empty());
}

#[test]
fn locked_overrides_need_unlock() {
    let mut w = World::new();
    w.say("go");
    let set = |temperature| Overrides { temperature: Some(temperature), ..Overrides::default() };
    let with = |set, lock, unlock| {
        InboxBody::OverrideCommand(OverrideCommand {
            agent: None,
            set,
            clear: false,
            lock,
            unlock,
            book: None,
        })
    };
    assert_eq!(w.inbox(with(set(3.0), false, false)).code, "invalid");
    assert_eq!(w.inbox(with(set(1.0), true, false)).code, "ok");
    assert_eq!(w.inbox(with(set(0.5), false, false)).code, "locked");
    assert_eq!(w.inbox(with(set(0.5), false, true)).code, "ok");
}

#[test]
fn a_pause_stops_asking_and_a_resume_asks_again() {
    let mut w = World::new();
    w.say("go");
    w.control(ControlOperation::Pause);
    assert!(w.asks.is_empty() && w.conv.timers().is_empty());
    w.control(ControlOperation::Resume);
    w.reply("alpha", "here", &[]);
    assert!(w.main().ends_with("assistant: here\n"));
}

#[test]
fn a_rule_agent_answers_at_once() {
    let mut w = World::new();
    w.say_to("rules", " Hello ");
    assert!(w.show("rules", "main").ends_with("assistant: hi\n"));
}

#[test]
fn an_unknown_agent_or_conversation_is_refused_with_a_hint() {
    let mut w = World::new();
    assert!(w.say_to("alpho", "hey").message.contains("did you mean 'alpha'"));
    assert_eq!(w.control(ControlOperation::Pause).code, "not_found");
    assert!(!w.conv.is_open());
    assert_eq!(w.say("hey").verdict, Verdict::Applied);
}

#[test]
fn a_childs_answer_recorded_while_the_parent_was_parked_is_delivered_at_checkout() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[to_helper("x")]);
    w.branch(BranchCommand { at: Some(0), ..command(BranchOperation::Rewind) });
    w.reply("helper", "y", &[]);
    assert!(!w.main().contains("agent result"));
    assert!(w.asks.is_empty());
    w.branch(BranchCommand { branch: Some("main".into()), ..command(BranchOperation::Checkout) });
    w.reply("alpha", "done", &[]);
    check(
        &w.main(),
        expect![[r#"
            0 user: go
            1 call delegate {"agent_id":"helper","message":"x"}
            2 agent call helper: x
            3 agent result helper success: y
            4 result delegate success Some(1.0)
            5 assistant: done
        "#]],
    );
}

#[test]
fn reflections_are_at_most_three_for_a_message() {
    let mut w = World::new();
    let Definition::Agent(mut agent) = llm("mirror", &[]) else { unreachable!() };
    let AgentKind::Llm(llm) = &mut agent.kind else { unreachable!() };
    llm.self_reflection = true;
    w.registry.insert(Definition::Agent(agent), 1);
    w.say_to("mirror", "think");
    for n in 0..4 {
        w.reply("mirror", &format!("draft {n}"), &[]);
    }
    assert!(w.asks.is_empty());
    let shown = w.show("mirror", "main");
    assert_eq!(shown.matches("user (reflection)").count(), 3);
    assert!(matches!(&w.effects[..], [effect] if matches!(&effect.body,
        EffectBody::PublishReply(reply) if reply.text == "draft 3")));
}

#[test]
fn calls_nest_eight_deep_and_then_the_model_is_told() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[to_helper("x")]);
    for _ in 0..8 {
        w.reply("helper", "", &[to_helper("deeper")]);
    }
    let refused = w.conv.stacks[&AgentId::from("helper")].branches.values().filter(|branch| {
        branch
            .entries
            .iter()
            .any(|e| matches!(&e.state, State::ToolResult(r) if r.status == ToolStatus::Error))
    });
    assert_eq!(refused.count(), 1);
    assert_eq!(w.asks.len(), 1);
}

#[test]
fn a_full_branch_is_summed_up_and_the_question_is_still_asked() {
    let mut w = World::new();
    for _ in 0..667 {
        w.say("q");
        w.reply("alpha", "a", &[]);
    }
    assert!(!w.main().contains("Summary of"));
    w.say("after");
    assert!(w.main().contains("Summary of 2001 earlier entries."));
    w.reply("alpha", "here", &[]);
    assert!(w.main().ends_with("assistant: here\n"));
}

#[test]
fn a_message_typed_while_a_person_is_asked_is_put_to_that_person_next() {
    let mut w = World::new();
    w.say_to("person", "one");
    let first = w.wait(WaitKind::UserInput);
    w.say_to("person", "two");
    w.answer(first, AnswerKind::Text, "an answer to one", None);
    let second = w.wait(WaitKind::UserInput);
    assert_ne!(first, second);
    w.answer(second, AnswerKind::Text, "an answer to two", None);
    assert!(w.conv.waits.is_empty());
    let asked: Vec<String> =
        w.show("person", "main").lines().filter(|l| l.contains("request")).map(str::to_owned).collect();
    assert_eq!(asked, ["1 request Reply: one", "5 request Reply: two"]);
}

#[test]
fn a_message_typed_while_a_call_runs_is_asked_after_a_pause_too() {
    let mut w = World::new();
    w.say("one");
    let wait = w.ask_of("alpha");
    w.say("two");
    w.control(ControlOperation::Pause);
    // It was on its way already.
    w.reply_to(wait, "an answer to one", &[]);
    assert!(w.conv.waits.is_empty());
    w.control(ControlOperation::Resume);
    w.reply("alpha", "an answer to two", &[]);
    check(
        &w.main(),
        expect![[r#"
        0 user: one
        1 user: two
        2 assistant: an answer to one
        3 assistant: an answer to two
    "#]],
    );
}
