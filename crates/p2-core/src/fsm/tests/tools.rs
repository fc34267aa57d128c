//! Tool calls: duplicates, ids, denials, who may spend; pinned versions and overrides.

use super::*;

fn pay(to: i64) -> (&'static str, Value) {
    ("pay", json!({"to": to}))
}

fn look() -> (&'static str, Value) {
    ("weather", json!({"location": "Paris"}))
}

fn with_policy(dedup: DedupPolicy) -> World {
    let mut w = World::new();
    w.settings.dedup = dedup;
    w.say("go");
    w
}

#[test]
fn a_repeated_call_runs_under_none_is_noted_under_penalty_and_skipped_under_strict() {
    let mut table = String::new();
    for policy in [DedupPolicy::None, DedupPolicy::Penalty, DedupPolicy::Strict] {
        for call in [look(), pay(1)] {
            let mut w = with_policy(policy);
            w.reply("alpha", "", &[call.clone(), call.clone()]);
            let events: Vec<String> = w
                .events("duplicate_tool_call")
                .iter()
                .map(|event| format!("{} {}", event["policy"], event["action"]))
                .collect();
            table += &format!("{policy:?} {}: {} run {events:?}\n", call.0, w.tool_effects().len());
        }
    }
    check(
        &table,
        expect![[r#"
        None weather: 2 run []
        None pay: 2 run []
        Penalty weather: 2 run ["\"penalty\" \"allowed\""]
        Penalty pay: 2 run ["\"penalty\" \"allowed\""]
        Strict weather: 2 run ["\"strict\" \"allowed\""]
        Strict pay: 1 run ["\"strict\" \"blocked\""]
    "#]],
    );
}

#[test]
fn a_note_of_a_repeated_call_says_where_and_what() {
    let mut w = with_policy(DedupPolicy::Penalty);
    w.reply("alpha", "", &[pay(1), pay(1)]);
    let note = w.artifacts.iter().find(|artifact| {
        matches!(&artifact.body, ArtifactBody::Event(event) if event.name == "duplicate_tool_call")
    });
    let note = note.expect("a note");
    assert_eq!((note.agent.clone(), note.branch.clone()), (Some("alpha".into()), Some("main".into())));
    assert_eq!(note.conversation.as_str(), "demo");
    let ArtifactBody::Event(event) = &note.body else { unreachable!() };
    assert_eq!(event.data.0["tool"], "pay");
    assert_eq!(event.data.0["call_id"], w.tool_effects()[1].1.call_id.as_str());
}

#[test]
fn other_arguments_or_the_same_in_another_order_of_keys_tell_calls_apart_and_together() {
    let mut w = with_policy(DedupPolicy::Strict);
    let calls = [
        ("pay", json!(r#"{"to": 1, "of": 2}"#)),
        ("pay", json!(r#"{"of":2,"to":1}"#)),
        ("pay", json!(r#"{"of":2,"to":3}"#)),
    ];
    w.reply("alpha", "", &calls);
    assert_eq!(w.tool_effects().len(), 2);
    assert_eq!(w.main().matches("result pay skipped").count(), 1);
}

#[test]
fn a_call_that_failed_may_be_made_again_and_one_that_is_in_doubt_may_not() {
    for (status, runs) in [(ToolStatus::Error, 2), (ToolStatus::Expired, 2), (ToolStatus::Success, 1)] {
        let mut w = with_policy(DedupPolicy::Strict);
        w.reply("alpha", "", &[pay(1)]);
        w.tool_done(0, status);
        w.reply("alpha", "", &[pay(1)]);
        assert_eq!(w.tool_effects().len(), runs, "{status:?}");
    }
    let mut w = with_policy(DedupPolicy::Strict);
    w.reply("alpha", "", &[pay(1)]);
    w.tool_done(0, ToolStatus::InDoubt);
    w.control(ControlOperation::Cancel);
    assert!(w.main().contains("result pay in_doubt"), "{}", w.main());
}

#[test]
fn a_repetition_counts_for_as_long_as_the_tool_says() {
    for (later, runs) in [(0, 1), (20_000, 2)] {
        let mut w = World::new();
        w.settings.dedup = DedupPolicy::Strict;
        w.apply(tool("tip", json!({"dedup_ttl_ms": 10_000})), 1);
        w.alpha(|llm| llm.tools = vec!["tip".into()]);
        w.say("go");
        w.reply("alpha", "", &[("tip", json!({}))]);
        w.tool_done(0, ToolStatus::Success);
        w.now += later;
        w.reply("alpha", "", &[("tip", json!({}))]);
        assert_eq!(w.tool_effects().len(), runs, "{later} ms later");
    }
}

#[test]
fn a_repetition_on_another_branch_is_none() {
    let mut w = with_policy(DedupPolicy::Strict);
    w.reply("alpha", "", &[pay(1)]);
    w.tool_done(0, ToolStatus::Success);
    w.reply("alpha", "paid", &[]);
    w.branch(BranchCommand { at: Some(0), ..command(BranchOperation::Rewind) });
    w.say("pay");
    w.reply("alpha", "", &[pay(1)]);
    assert_eq!(w.tool_effects().len(), 2);
}

fn call(id: &str, tool: &str) -> ModelToolCall {
    ModelToolCall { id: id.into(), name: tool.into(), arguments: "{}".into() }
}

#[test]
fn call_ids_that_are_missing_or_repeated_are_mended_and_each_call_gets_its_own_result() {
    let mut w = World::new();
    w.alpha(|llm| llm.render = RenderPolicy::Compact);
    w.say("go");
    let wait = w.ask_of("alpha");
    let calls = ["a", "a", "", " a ", "b", ""];
    w.reply_with(wait, "", calls.map(|id| call(id, "weather")).to_vec());
    let ids: Vec<String> = w.tool_effects().into_iter().map(|(_, call)| call.call_id).collect();
    assert_eq!((ids[0].as_str(), ids[4].as_str()), ("a", "b"), "a provider's id is kept where it can be");
    let mut distinct = ids.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 6, "{ids:?}");
    (0..6).for_each(|nth| drop(w.tool_done(nth, ToolStatus::Success)));
    let wait = w.ask_of("alpha");
    w.reply_with(wait, "", vec![call("a", "weather"), call(&ids[1], "weather")]);
    assert_eq!(w.tool_effects().len(), 8);
    assert!(w.tool_effects()[6..].iter().all(|(_, call)| !ids.contains(&call.call_id)), "of an earlier turn");
    (6..8).for_each(|nth| drop(w.tool_done(nth, ToolStatus::Success)));
    assert_eq!(w.main().matches("result weather success").count(), 8);
    let tools =
        w.asks[0].request.messages.iter().filter(|message| format!("{message:?}").starts_with("Tool"));
    assert_eq!(tools.count(), 8, "the model sees every result");
}

#[test]
fn an_outcome_that_names_another_call_than_its_wait_is_refused() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[look(), pay(1)]);
    let (effect, right) = w.tool_effects()[0].clone();
    let wrong = ToolOutcome {
        effect: effect.id,
        wait: right.wait,
        call_id: w.tool_effects()[1].1.call_id.clone(),
        status: ToolStatus::Success,
        result: json!({}).into(),
        reward: None,
        latency_ms: None,
    };
    assert_eq!(w.inbox(InboxBody::ToolOutcome(wrong)).code, "invalid");
    assert!(!w.main().contains("result"));
}

#[test]
fn a_denied_call_is_not_made_and_the_model_reads_why() {
    let mut table = String::new();
    for reason in ["too dear", " "] {
        let mut w = World::new();
        w.say("go");
        w.reply("alpha", "", &[("guarded", json!({"a": 1}))]);
        let request = w.wait(WaitKind::UserInput);
        w.answer(request, AnswerKind::Deny, reason, None);
        assert!(w.tool_effects().is_empty());
        table += &format!("{}{}\n", w.main(), w.asked("alpha"));
    }
    check(
        &table,
        expect![[r#"
            0 user: go
            1 call guarded {"a":1}
            2 request Approval: May 'alpha' call guarded with {"a":1}?
            3 response Deny by ann
            4 result guarded skipped None
            Tool { tool_call_id: "call_dd2e0135b8c48e5e254733f7f0698418", name: "guarded", content: "{\"message\":\"a person denied this call: too dear\",\"status\":\"skipped\"}" }
            0 user: go
            1 call guarded {"a":1}
            2 request Approval: May 'alpha' call guarded with {"a":1}?
            3 response Deny by ann
            4 result guarded skipped None
            Tool { tool_call_id: "call_dd2e0135b8c48e5e254733f7f0698418", name: "guarded", content: "{\"message\":\"a person denied this call\",\"status\":\"skipped\"}" }
        "#]],
    );
}

#[test]
fn an_approved_call_is_made_as_asked_and_an_edited_one_as_edited() {
    for (kind, arguments, made) in [
        (AnswerKind::Approve, None, json!({"a": 1})),
        (AnswerKind::Edit, Some(json!({"a": 2})), json!({"a": 2})),
    ] {
        let mut w = World::new();
        w.say("go");
        w.reply("alpha", "", &[("guarded", json!({"a": 1}))]);
        let request = w.wait(WaitKind::UserInput);
        assert_eq!(w.answer(request, AnswerKind::Edit, "", Some(json!([1]))).code, "invalid");
        assert_eq!(w.answer(request, kind, "", arguments).verdict, Verdict::Applied);
        assert_eq!(w.tool_effects()[0].1.arguments.0, made);
        w.tool_done(0, ToolStatus::Success);
        assert!(w.main().ends_with("result guarded success Some(1.0)\n"));
    }
}

#[test]
fn an_unknown_agent_is_made_up_only_where_that_is_allowed_and_never_gets_a_tool_that_spends() {
    let mut w = World::new();
    assert_eq!(w.say_to("stranger", "hey").code, "not_found");
    w.settings.allow_unknown_agents = true;
    assert_eq!(w.say_to("stranger", "hey").code, "ok");
    let offered: Vec<&str> = w.asks[0].request.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(offered, ["ask_user", "delegate", "guarded", "weather"]);
    w.reply("stranger", "", &[pay(1)]);
    assert!(w.tool_effects().is_empty());
    assert!(w.show("stranger", "main").ends_with("result pay error Some(0.0)\n"));
    let tools = Overrides { tools: Some(vec!["pay".into()]), ..Overrides::default() };
    let outcome = w.over(tools);
    assert_eq!(outcome.code, "invalid");
    expect!["'pay' spends, and 'stranger' is defined nowhere: apply a definition of 'stranger' first"]
        .assert_eq(&outcome.message);
    w.apply(
        Definition::Persona(crate::definition::Persona {
            id: "payer".into(),
            template: "x".into(),
            required_tools: vec!["pay".into()],
        }),
        1,
    );
    assert_eq!(w.over(Overrides { behavior: Some("payer".into()), ..Overrides::default() }).code, "invalid");
}

#[test]
fn a_tool_that_spends_in_its_pinned_version_stays_away_from_made_up_agents_whatever_is_applied_later() {
    let mut w = World::new();
    w.settings.allow_unknown_agents = true;
    w.say("go");
    w.apply(tool("pay", json!({"spends": false})), 2);
    w.apply(tool("weather", json!({"spends": true})), 2);
    w.reply("alpha", "", &[("delegate", json!({"agent_id": "stranger", "message": "x"}))]);
    let offered: Vec<&str> = w.asks[0].request.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(offered, ["ask_user", "delegate", "guarded"]);
}

#[test]
fn a_made_up_agent_stays_what_it_was_when_a_definition_of_its_name_is_applied() {
    let mut w = World::new();
    w.settings.allow_unknown_agents = true;
    w.say_to("stranger", "hey");
    w.reply("stranger", "hello", &[]);
    w.apply(llm("stranger", &["pay"]), 1);
    w.say_to("stranger", "hey");
    let tools = &w.asks[0].request.tools;
    assert!(tools.iter().all(|tool| tool.name != "pay") && tools.len() == 4, "{tools:?}");
}

#[test]
fn a_conversation_goes_on_with_the_versions_that_it_began_with() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "hello", &[]);
    w.apply(changed(llm("alpha", ALL), |llm| llm.model = "openai/new".into()), 2);
    w.apply(changed(llm("helper", ALL), |llm| llm.model = "openai/new".into()), 2);
    w.apply(tool("weather", json!({"description": "new"})), 2);
    w.say("go");
    let request = w.asks[0].request.clone();
    assert_eq!(request.model, "scripted/demo");
    assert!(request.tools.iter().all(|tool| tool.description != "new"));
    w.reply("alpha", "", &[look(), to_helper("x")]);
    assert_eq!(w.tool_effects()[0].1.version, 1);
    let helper = w.asks.iter().find(|ask| ask.agent.as_str() == "helper").expect("the helper is asked");
    assert_eq!(helper.request.model, "openai/new", "an agent that joins later comes as it is then");
    let mut pins: Vec<String> = w.conv.pins.iter().map(|(key, version)| format!("{key}@{version}")).collect();
    pins.retain(|pin| !pin.starts_with("tool/") || pin.contains("weather"));
    assert_eq!(pins, ["agent/alpha@1", "agent/helper@2", "tool/weather@1"]);
    let mut fresh = World { registry: w.registry, ..World::new() };
    fresh.say("go");
    assert_eq!(fresh.asks[0].request.model, "openai/new");
}

#[test]
fn a_model_call_is_booked_under_the_model_that_it_went_to() {
    let mut w = World::new();
    let over = |model: &str| Overrides { model: Some(model.into()), ..Overrides::default() };
    let mut calls = String::new();
    w.say("one");
    w.over(over("other/model"));
    w.reply("alpha", "first", &[]);
    w.say("two");
    w.over(over("third/model"));
    w.reply("alpha", "second", &[]);
    w.say("three");
    w.reply("alpha", "third", &[]);
    for artifact in &w.artifacts {
        if let ArtifactBody::ModelCall(call) = &artifact.body {
            calls += &format!("{} {:?}\n", call.model, call.cost_usd);
        }
    }
    check(
        &calls,
        expect![[r#"
        scripted/demo Some("0.00257")
        other/model None
        third/model None
    "#]],
    );
    assert!(w.conv.asked_models.is_empty());
}

#[test]
fn overrides_reach_the_request_and_clearing_them_takes_them_back() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "hello", &[]);
    let set = Overrides {
        model: Some("other/model".into()),
        temperature: Some(0.3),
        top_p: Some(0.4),
        max_tokens: Some(50),
        tools: Some(vec!["weather".into()]),
        behavior: None,
        budget: None,
    };
    w.over(set);
    w.say("go");
    let shown = |w: &World| {
        let request = &w.asks[0].request;
        let tools: Vec<&str> = request.tools.iter().map(|tool| tool.name.as_str()).collect();
        let numbers = (request.temperature, request.top_p, request.max_tokens);
        format!("{} {numbers:?} {tools:?}", request.model)
    };
    check(&shown(&w), expect![[r#"other/model (Some(0.3), Some(0.4), Some(50)) ["weather"]"#]]);
    w.reply("alpha", "", &[pay(1)]);
    assert!(
        w.main().ends_with("result pay error Some(0.0)\n"),
        "a tool that was taken away cannot be called"
    );
    w.reply("alpha", "sorry", &[]);
    let clear = OverrideCommand {
        agent: None,
        set: Overrides::default(),
        clear: true,
        lock: false,
        unlock: false,
        book: None,
    };
    w.inbox(InboxBody::OverrideCommand(clear));
    w.say("go");
    check(
        &shown(&w),
        expect![[
            r#"scripted/demo (None, None, None) ["weather", "pay", "guarded", "delegate", "ask_user"]"#
        ]],
    );
}

#[test]
fn wrong_arguments_of_a_call_are_told_to_the_model_and_nothing_is_called() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[("pay", json!("[1]")), ("pay", json!("{")), ("pay", json!(""))]);
    assert_eq!(w.tool_effects().len(), 1, "no text means no arguments");
    assert_eq!(w.tool_effects()[0].1.arguments.0, json!({}));
    assert_eq!(w.main().matches("result pay error").count(), 2);
}
