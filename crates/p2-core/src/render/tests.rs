use std::collections::BTreeSet;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::builtin;
use crate::ids::Id;
use crate::state::{
    AgentCall, AgentResult, AgentStatus, Answer, AnswerKind, AssistantMessage, Finished, MessageError,
    RequestKind, StopReason, ToolCall, ToolResult, ToolStatus, UserInputRequest, UserMessage, UserResponse,
    WaitKind, Waiting,
};

fn user(text: &str) -> State {
    State::UserMessage(UserMessage { text: text.to_owned(), origin: None })
}

fn from(origin: &str, text: &str) -> State {
    State::UserMessage(UserMessage { text: text.to_owned(), origin: Some(origin.to_owned()) })
}

fn says(text: &str) -> State {
    State::AssistantMessage(AssistantMessage { text: text.to_owned(), ..AssistantMessage::default() })
}

fn says_and_calls(text: &str, tool_calls: i32) -> State {
    State::AssistantMessage(AssistantMessage { text: text.to_owned(), tool_calls, ..Default::default() })
}

fn summary(covered: i64, text: &str) -> State {
    State::AssistantMessage(AssistantMessage {
        text: text.to_owned(),
        summary_of: Some(covered),
        ..AssistantMessage::default()
    })
}

fn call_with(reply: &str, call_id: &str, tool: &str, arguments: Value) -> State {
    State::ToolCall(ToolCall {
        call_id: call_id.to_owned(),
        tool: tool.to_owned(),
        arguments: arguments.into(),
        reply: Id::of_text(reply),
        dedup_key: String::new(),
    })
}

fn call(reply: &str, call_id: &str) -> State {
    call_with(reply, call_id, "get_weather", json!({"location": "Paris"}))
}

fn result_with(call_id: &str, status: ToolStatus, result: Value) -> State {
    State::ToolResult(ToolResult {
        call_id: call_id.to_owned(),
        tool: "get_weather".to_owned(),
        status,
        result: result.into(),
        reward: Some(1.0),
    })
}

fn result(call_id: &str) -> State {
    result_with(call_id, ToolStatus::Success, json!({"temperature": 71.6}))
}

fn wait(kind: WaitKind) -> State {
    let id = Id::of_text("wait");
    State::Waiting(Waiting {
        id,
        kind,
        deadline_ms: Some(1),
        correlation: "secret-wait".to_owned(),
        budget: None,
    })
}

fn stack(states: Vec<State>) -> Vec<Entry> {
    let entry = |(index, state): (usize, State)| {
        let seq = i64::try_from(index).unwrap();
        Entry { seq, id: Id::of_text(&format!("entry {seq}")), time_ms: 0, state }
    };
    states.into_iter().enumerate().map(entry).collect()
}

fn llm(render: RenderPolicy) -> LlmAgent {
    LlmAgent { tools: vec!["get_weather".to_owned()], render, ..LlmAgent::new("scripted/demo") }
}

fn rendered(llm: &LlmAgent, states: Vec<State>) -> ModelRequest {
    let registry = builtin::registry();
    let (conversation, agent) = ("talk".into(), "alpha".into());
    let spec = RenderSpec::resolve(&registry, &BTreeMap::new(), &conversation, &agent, llm).unwrap();
    let entries = stack(states);
    request(&spec, &entries.iter().collect::<Vec<_>>()).unwrap()
}

/// One line for each message.
fn lines(request: &ModelRequest) -> String {
    let mut text = String::new();
    for message in dialogue(request) {
        match message {
            ChatMessage::System { content } => text += &format!("system: {content}\n"),
            ChatMessage::User { content } => text += &format!("user: {content}\n"),
            ChatMessage::Assistant { content, tool_calls } => {
                text += &format!("assistant: {}", content.as_deref().unwrap_or("-"));
                for call in tool_calls {
                    text += &format!(" [{} {}{}]", call.id, call.name, call.arguments);
                }
                text += "\n";
            }
            ChatMessage::Tool { tool_call_id, name, content } => {
                text += &format!("  tool {tool_call_id} {name}: {content}\n");
            }
        }
    }
    text
}

fn compact(states: Vec<State>, expected: Expect) {
    expected.assert_eq(&lines(&rendered(&llm(RenderPolicy::Compact), states)));
}

fn windowed(window: usize, states: Vec<State>, expected: Expect) {
    expected.assert_eq(&lines(&rendered(&llm(RenderPolicy::Default { window }), states)));
}

#[test]
fn the_whole_request_of_a_short_chat() {
    let agent = LlmAgent { temperature: Some(0.5), max_tokens: Some(9), ..llm(RenderPolicy::Compact) };
    let request = rendered(&agent, vec![user("hey")]);
    expect![[r#"
        {
          "model": "scripted/demo",
          "messages": [
            {
              "role": "system",
              "content": "You are the agent \"alpha\". Answer the person you talk to, or the agent that gave you a task, clearly and briefly.\n\nYour tools:\n- get_weather: The current temperature at a place.\n\nCall a tool whenever it knows better than you; never make up what it could tell you. Calls that do not depend on each other belong in one reply. When a call fails, say so, or correct its arguments and try again."
            },
            {
              "role": "user",
              "content": "hey"
            }
          ],
          "tools": [
            {
              "name": "get_weather",
              "description": "The current temperature at a place.",
              "parameters": "{\"additionalProperties\":false,\"properties\":{\"location\":{\"description\":\"The place, for example \\\"Paris\\\".\",\"type\":\"string\"},\"unit\":{\"default\":\"fahrenheit\",\"description\":\"The unit of the temperature, \\\"fahrenheit\\\" or \\\"celsius\\\".\",\"type\":\"string\"}},\"required\":[\"location\"],\"type\":\"object\"}"
            }
          ],
          "temperature": 0.5,
          "top_p": null,
          "max_tokens": 9
        }"#]].assert_eq(&serde_json::to_string_pretty(&request).unwrap());
}

#[test]
fn the_system_prompt_speaks_of_tools_and_delegation_only_to_those_who_have_them() {
    let system = |tools: &[&str]| {
        let tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
        let request = rendered(&LlmAgent { tools, ..llm(RenderPolicy::Compact) }, vec![user("hey")]);
        match request.messages.into_iter().next() {
            Some(ChatMessage::System { content }) => content,
            other => panic!("no system message: {other:?}"),
        }
    };
    expect![[r#"You are the agent "alpha". Answer the person you talk to, or the agent that gave you a task, clearly and briefly."#]].assert_eq(&system(&[]));
    expect![[r#"
        You are the agent "alpha". Answer the person you talk to, or the agent that gave you a task, clearly and briefly.

        Your tools:
        - delegate: Give a task to another agent and wait for its answer. Several calls in one reply run at the same time.
        - ask_user: Ask the person one question and wait for the answer.

        Call a tool whenever it knows better than you; never make up what it could tell you. Calls that do not depend on each other belong in one reply. When a call fails, say so, or correct its arguments and try again.

        Working with other agents:
        - Hand a task over with delegate when you were asked to involve another agent, or when you lack the tool for it. Use the agent's id exactly as the description of delegate or the person gave it to you.
        - The other agent sees only the message, so put into it whatever the task needs; set context where it needs what was said before.
        - Its answer comes back to you as the result of the call. Then carry on: finish every other step you were asked for, and only after that give the final answer in your own words.
        - Do not hand a task back to the agent that gave it to you.

        Use ask_user only when you cannot go on without knowing something that the person alone can tell you."#]].assert_eq(&system(&["delegate", "ask_user"]));
}

#[test]
fn an_agents_own_system_prompt_and_its_persona_are_templates() {
    let agent = LlmAgent {
        system_prompt: Some("I am {{ agent }} with {% for t in tools %}{{ t.id }}{% endfor %}.".to_owned()),
        behavior: Some("weather_expert".to_owned()),
        tools: Vec::new(),
        ..llm(RenderPolicy::Compact)
    };
    let request = rendered(
        &agent,
        vec![user("old"), says("x"), user("is it {{ cold }}?"), says("yes"), from("reflection", "Sure?")],
    );
    expect![[r#"
        [
            System {
                content: "I am alpha with get_weather.",
            },
            System {
                content: "In this conversation you are a meteorologist who explains the weather to laypeople.\nLook every temperature up with get_weather; do not estimate one. Give the place, the number and its unit\nfirst, and after that at most two sentences on what it means for the day.\nYou were last asked: is it {{ cold }}?",
            },
            User {
                content: "old",
            },
            Assistant {
                content: Some(
                    "x",
                ),
                tool_calls: [],
            },
            User {
                content: "is it {{ cold }}?",
            },
            Assistant {
                content: Some(
                    "yes",
                ),
                tool_calls: [],
            },
            User {
                content: "Sure?",
            },
        ]
    "#]].assert_debug_eq(&request.messages);
    assert_eq!(request.tools.len(), 1, "the persona brings its tool along");
}

#[test]
fn text_beside_calls_and_the_calls_of_one_reply_are_one_message() {
    compact(
        vec![
            user("Paris and Rome?"),
            wait(WaitKind::Llm),
            says_and_calls("Let me look.", 2),
            call("r1", "c1"),
            wait(WaitKind::Tool),
            call_with("r1", "c2", "get_weather", json!({"unit": "celsius", "location": "Rome"})),
            wait(WaitKind::Tool),
            result("c2"),
            result_with("c1", ToolStatus::Error, json!({"message": "no such place"})),
            wait(WaitKind::Llm),
            says("Done."),
            State::Finished(Finished { stop_reason: StopReason::Done }),
        ],
        expect![[r#"
            user: Paris and Rome?
            assistant: Let me look. [c1 get_weather{"location":"Paris"}] [c2 get_weather{"location":"Rome","unit":"celsius"}]
              tool c1 get_weather: {"message":"no such place","status":"error"}
              tool c2 get_weather: {"status":"success","temperature":71.6}
            assistant: Done.
        "#]],
    );
}

#[test]
fn results_stand_beside_their_calls_whatever_was_typed_in_between() {
    compact(
        vec![
            user("weather?"),
            call("r1", "c1"),
            call("r1", "c2"),
            user("hurry up"),
            result("c1"),
            from("agent:beta", "me too"),
            result("c2"),
            says("ok"),
        ],
        expect![[r#"
            user: weather?
            assistant: - [c1 get_weather{"location":"Paris"}] [c2 get_weather{"location":"Paris"}]
              tool c1 get_weather: {"status":"success","temperature":71.6}
              tool c2 get_weather: {"status":"success","temperature":71.6}
            user: hurry up
            user: me too
            assistant: ok
        "#]],
    );
}

#[test]
fn what_was_typed_while_a_call_ran_stands_after_the_reply_that_did_not_see_it() {
    let asking = || wait(WaitKind::Llm);
    compact(
        vec![user("one"), asking(), user("two"), user("three"), says("first"), asking(), says("second")],
        expect![[r#"
            user: one
            assistant: first
            user: two
            user: three
            assistant: second
        "#]],
    );
    compact(
        vec![user("one"), asking(), user("two"), says_and_calls("", 1), call("r1", "c1"), result("c1")],
        expect![[r#"
            user: one
            assistant: - [c1 get_weather{"location":"Paris"}]
              tool c1 get_weather: {"status":"success","temperature":71.6}
            user: two
        "#]],
    );
    // Asked anew after a pause: that call saw it.
    compact(
        vec![user("one"), asking(), user("two"), asking(), says("both")],
        expect![[r#"
        user: one
        user: two
        assistant: both
    "#]],
    );
    compact(
        vec![user("one"), asking(), user("two")],
        expect![[r#"
        user: one
        user: two
    "#]],
    );
}

#[test]
fn calls_of_two_replies_are_two_messages() {
    compact(
        vec![user("x"), call("r1", "c1"), result("c1"), call("r2", "c2"), result("c2")],
        expect![[r#"
        user: x
        assistant: - [c1 get_weather{"location":"Paris"}]
          tool c1 get_weather: {"status":"success","temperature":71.6}
        assistant: - [c2 get_weather{"location":"Paris"}]
          tool c2 get_weather: {"status":"success","temperature":71.6}
    "#]],
    );
}

#[test]
fn a_group_without_a_result_is_left_out_and_one_with_some_names_the_rest_as_pending() {
    compact(
        vec![user("x"), says_and_calls("Looking.", 1), call("r1", "c1"), user("y")],
        expect![[r#"
        user: x
        user: y
    "#]],
    );
    compact(
        vec![user("x"), says_and_calls("Looking.", 2), call("r1", "c1"), call("r1", "c2"), result("c2")],
        expect![[r#"
            user: x
            assistant: Looking. [c1 get_weather{"location":"Paris"}] [c2 get_weather{"location":"Paris"}]
              tool c1 get_weather: {"status":"pending"}
              tool c2 get_weather: {"status":"success","temperature":71.6}
        "#]],
    );
}

#[test]
fn a_delegation_is_its_tool_call_and_its_result() {
    let id = Id::of_text("agent call");
    compact(
        vec![
            user("ask beta"),
            call_with("r1", "c1", "delegate", json!({"agent_id": "beta", "message": "m"})),
            State::AgentCall(AgentCall {
                id,
                call_id: "c1".to_owned(),
                agent: "beta".into(),
                branch: "call-1".into(),
                message: "INTERNAL".to_owned(),
            }),
            wait(WaitKind::Agent),
            State::AgentResult(AgentResult {
                id,
                agent: "beta".into(),
                status: AgentStatus::Success,
                text: "INTERNAL".to_owned(),
                score: None,
            }),
            result_with("c1", ToolStatus::Success, json!({"answer": "50 °F"})),
            says("It is 50 °F."),
        ],
        expect![[r#"
            user: ask beta
            assistant: - [c1 delegate{"agent_id":"beta","message":"m"}]
              tool c1 delegate: {"answer":"50 °F","status":"success"}
            assistant: It is 50 °F.
        "#]],
    );
}

#[test]
fn a_question_to_a_person_is_its_tool_call_and_its_result() {
    let id = Id::of_text("request");
    let answer = Answer { kind: AnswerKind::Text, text: "INTERNAL".to_owned(), arguments: None };
    compact(
        vec![
            user("book it"),
            call_with("r1", "c1", "ask_user", json!({"question": "Which day?"})),
            State::UserInputRequest(UserInputRequest {
                id,
                text: "INTERNAL".to_owned(),
                kind: RequestKind::Question,
                call_id: "c1".to_owned(),
            }),
            wait(WaitKind::UserInput),
            State::UserResponse(UserResponse { request: id, answer, by: "ann".to_owned() }),
            result_with("c1", ToolStatus::Success, json!({"answer": "Monday"})),
        ],
        expect![[r#"
            user: book it
            assistant: - [c1 ask_user{"question":"Which day?"}]
              tool c1 ask_user: {"answer":"Monday","status":"success"}
        "#]],
    );
}

#[test]
fn visible_errors_and_empty_replies_are_for_people_only() {
    let error = Some(MessageError { class: "model".to_owned(), code: "http_500".to_owned() });
    let failed = AssistantMessage { text: "INTERNAL".to_owned(), error, ..Default::default() };
    compact(
        vec![
            user("a"),
            State::AssistantMessage(failed),
            user("b"),
            says(""),
            says_and_calls("", 1),
            user("c"),
        ],
        expect![[r#"
            user: a
            user: b
            user: c
        "#]],
    );
}

#[test]
fn text_whose_calls_a_fork_cut_off_is_a_plain_message() {
    compact(
        vec![user("a"), says_and_calls("Looking.", 2)],
        expect![[r#"
        user: a
        assistant: Looking.
    "#]],
    );
}

#[test]
fn a_doubt_is_replaced_by_the_result_that_settles_it_and_any_other_result_stands() {
    compact(
        vec![
            user("x"),
            call("r1", "c1"),
            call("r1", "c2"),
            result_with("c1", ToolStatus::InDoubt, json!({"message": "unknown"})),
            result_with("c2", ToolStatus::Timeout, json!({"message": "too slow"})),
            says("Hm."),
            result("c1"),
            result("c2"),
            result("never-called"),
        ],
        expect![[r#"
            user: x
            assistant: - [c1 get_weather{"location":"Paris"}] [c2 get_weather{"location":"Paris"}]
              tool c1 get_weather: {"status":"success","temperature":71.6}
              tool c2 get_weather: {"message":"too slow","status":"timeout"}
            assistant: Hm.
        "#]],
    );
}

#[test]
fn arguments_and_results_of_odd_shapes_are_still_objects() {
    compact(
        vec![
            user("x"),
            call_with("r", "c1", "t", json!("{\"broken\": ")),
            call_with("r", "c2", "t", json!("")),
            call_with("r", "c3", "t", json!([1])),
            result_with("c1", ToolStatus::Error, json!("plain")),
            result_with("c2", ToolStatus::Success, json!({"status": "liar", "n": 1})),
            result_with("c3", ToolStatus::Cancelled, Value::Null),
        ],
        expect![[r#"
            user: x
            assistant: - [c1 t{"malformed_arguments":"{\"broken\": "}] [c2 t{}] [c3 t{"malformed_arguments":[1]}]
              tool c1 t: {"result":"plain","status":"error"}
              tool c2 t: {"n":1,"status":"success"}
              tool c3 t: {"status":"cancelled"}
        "#]],
    );
}

#[test]
fn a_summary_stands_in_place_of_all_that_it_sums_up() {
    let states = || {
        vec![
            user("old question"),
            says("old answer"),
            call("r1", "c1"),
            summary(2, "first summary"),
            user("newer"),
            says("covered too"),
            summary(5, "they spoke of old things"),
            result("c1"),
            user("now"),
        ]
    };
    compact(
        states(),
        expect![[r#"
        user: Summary of the conversation so far: they spoke of old things
        assistant: - [c1 get_weather{"location":"Paris"}]
          tool c1 get_weather: {"status":"success","temperature":71.6}
        user: now
    "#]],
    );
    windowed(
        40,
        states(),
        expect![[r#"
        user: Summary of the conversation so far: they spoke of old things
        assistant: - [c1 get_weather{"location":"Paris"}]
          tool c1 get_weather: {"status":"success","temperature":71.6}
        user: now
    "#]],
    );
    windowed(
        2,
        states(),
        expect![[r#"
        user: now
    "#]],
    );
}

#[test]
fn a_window_counts_messages_and_not_internal_entries_and_never_splits_a_group() {
    let states = || {
        let mut states = vec![user("1")];
        states.extend([call("r1", "c1"), wait(WaitKind::Tool), call("r1", "c2"), wait(WaitKind::Tool)]);
        states.extend([result("c1"), result("c2"), wait(WaitKind::Llm), says("2"), user("3"), says("4")]);
        states
    };
    windowed(
        3,
        states(),
        expect![[r#"
        assistant: 2
        user: 3
        assistant: 4
    "#]],
    );
    windowed(
        5,
        states(),
        expect![[r#"
        assistant: 2
        user: 3
        assistant: 4
    "#]],
    );
    windowed(
        6,
        states(),
        expect![[r#"
        assistant: - [c1 get_weather{"location":"Paris"}] [c2 get_weather{"location":"Paris"}]
          tool c1 get_weather: {"status":"success","temperature":71.6}
          tool c2 get_weather: {"status":"success","temperature":71.6}
        assistant: 2
        user: 3
        assistant: 4
    "#]],
    );
    windowed(
        7,
        states(),
        expect![[r#"
        user: 1
        assistant: - [c1 get_weather{"location":"Paris"}] [c2 get_weather{"location":"Paris"}]
          tool c1 get_weather: {"status":"success","temperature":71.6}
          tool c2 get_weather: {"status":"success","temperature":71.6}
        assistant: 2
        user: 3
        assistant: 4
    "#]],
    );
}

#[test]
fn the_newest_question_stays_in_a_window_however_long_the_work_on_it_takes() {
    let mut states = vec![user("older"), says("a"), user("the question")];
    for round in 0..5 {
        let name = format!("c{round}");
        states.extend([call(&name, &name), result(&name)]);
    }
    states.push(from("reflection", "Was that right?"));
    windowed(
        4,
        states,
        expect![[r#"
        user: the question
        assistant: - [c4 get_weather{"location":"Paris"}]
          tool c4 get_weather: {"status":"success","temperature":71.6}
        user: Was that right?
    "#]],
    );
}

#[test]
fn a_token_budget_keeps_the_newest_that_fits_beside_the_system_messages() {
    let states = || (0..50).flat_map(|n| [user(&format!("question {n}")), says("the same answer")]);
    let request = rendered(&llm(RenderPolicy::Tokens { budget: 250 }), states().collect());
    let kept = dialogue(&request).count();
    let used = window::count_all(&request.messages);
    assert!(used <= 250 && used > 230, "{used} tokens");
    assert!(kept > 4 && kept < 40, "{kept} messages");
    assert!(lines(&request).ends_with("user: question 49\nassistant: the same answer\n"));
}

#[test]
fn a_token_budget_that_is_too_small_still_keeps_the_newest_question() {
    let states = vec![user("older"), says("a"), user("the question"), call("r", "c"), result("c")];
    let request = rendered(&llm(RenderPolicy::Tokens { budget: 1 }), states);
    expect![[r#"
        user: the question
        assistant: - [c get_weather{"location":"Paris"}]
          tool c get_weather: {"status":"success","temperature":71.6}
    "#]]
    .assert_eq(&lines(&request));
}

#[test]
fn long_unbroken_texts_are_counted_without_trouble() {
    for unit in [" ", "a", "\n", "é", "🙂", "1"] {
        let text = unit.repeat(200_000);
        let count = window::count_all(&[ChatMessage::User { content: text }]);
        assert!(count > 100, "{unit:?}: {count}");
    }
}

#[test]
fn what_the_agent_names_and_does_not_exist_is_an_error_that_names_it() {
    let registry = builtin::registry();
    let (conversation, agent) = ("talk".into(), "alpha".into());
    let resolve = |llm: &LlmAgent| {
        RenderSpec::resolve(&registry, &BTreeMap::new(), &conversation, &agent, llm).map(|_| ()).unwrap_err()
    };
    let tools = LlmAgent { tools: vec!["fly".to_owned()], ..llm(RenderPolicy::Compact) };
    expect!["agent 'alpha' needs the tool 'fly', which does not exist: apply it, or take it off the agent"]
        .assert_eq(&resolve(&tools));
    let persona = LlmAgent { behavior: Some("bard".to_owned()), ..llm(RenderPolicy::Compact) };
    expect![
        "agent 'alpha' has the behavior 'bard', but there is no such persona: apply one, or change the agent"
    ]
    .assert_eq(&resolve(&persona));
    let bare = |llm| {
        let (conversation, agent) = (&conversation, &agent);
        let spec = RenderSpec {
            conversation,
            agent,
            llm,
            persona: None,
            tools: Vec::new(),
            agents: Vec::new(),
            any_agent: false,
        };
        request(&spec, &[]).unwrap_err()
    };
    assert_eq!(bare(&tools), resolve(&tools));
    assert_eq!(bare(&persona), resolve(&persona));
}

#[test]
fn overrides_change_what_they_name_and_leave_the_rest() {
    let agent = LlmAgent {
        behavior: Some("weather_expert".to_owned()),
        temperature: Some(0.1),
        top_p: Some(0.2),
        ..llm(RenderPolicy::Compact)
    };
    let nothing = Overrides {
        model: None,
        temperature: None,
        top_p: None,
        max_tokens: None,
        tools: None,
        behavior: None,
        budget: None,
    };
    assert_eq!(effective(&agent, &nothing), agent);
    let all = Overrides {
        model: Some("x/y".to_owned()),
        temperature: Some(1.5),
        top_p: None,
        max_tokens: Some(7),
        tools: Some(vec!["delegate".to_owned()]),
        behavior: Some(String::new()),
        budget: None,
    };
    let expected = LlmAgent {
        model: "x/y".to_owned(),
        temperature: Some(1.5),
        max_tokens: Some(7),
        tools: vec!["delegate".to_owned()],
        behavior: None,
        ..agent.clone()
    };
    assert_eq!(effective(&agent, &all), expected);
}

#[test]
fn a_pinned_version_of_a_tool_or_persona_is_used_although_a_newer_one_was_applied() {
    let mut registry = builtin::registry();
    let newer = "
{kind: persona, id: weather_expert, template: newer}
---
{kind: tool, id: get_weather, description: newer, parameters: {type: object}}";
    let newer = crate::apply::parse_file(newer, "a.yml").unwrap();
    for record in crate::apply::records(&newer, &registry) {
        registry.apply(&record).unwrap();
    }
    let agent = LlmAgent { behavior: Some("weather_expert".to_owned()), ..llm(RenderPolicy::Compact) };
    let newest = |pins: &[&str]| {
        let pins = pins.iter().map(|key| ((*key).to_owned(), 0)).collect();
        let (conversation, id) = ("talk".into(), "alpha".into());
        let spec = RenderSpec::resolve(&registry, &pins, &conversation, &id, &agent).unwrap();
        (spec.persona.unwrap().template == "newer", spec.tools[0].description == "newer")
    };
    assert_eq!(newest(&[]), (true, true));
    assert_eq!(newest(&["persona/weather_expert"]), (false, true));
    assert_eq!(newest(&["tool/get_weather"]), (true, false));
}

fn any_status() -> impl Strategy<Value = ToolStatus> {
    prop::sample::select(vec![ToolStatus::Success, ToolStatus::InDoubt, ToolStatus::Timeout])
}

fn any_state() -> impl Strategy<Value = State> {
    let id = || (0..6_u8).prop_map(|n| format!("c{n}"));
    let reply = || (0..4_u8).prop_map(|n| format!("r{n}"));
    prop_oneof![
        2 => "[a-z ]{0,12}".prop_map(|text| user(&text)),
        1 => Just(from("reflection", "Again?")),
        2 => ("[a-z ]{0,12}", 0..3_i32).prop_map(|(text, calls)| says_and_calls(&text, calls)),
        1 => (0..30_i64).prop_map(|covered| summary(covered, "sum")),
        6 => (reply(), id()).prop_map(|(reply, id)| call(&reply, &id)),
        6 => (id(), any_status()).prop_map(|(id, status)| result_with(&id, status, json!({"a": 1}))),
        1 => Just(wait(WaitKind::Tool)),
        2 => Just(wait(WaitKind::Llm)),
        1 => Just(State::Finished(Finished { stop_reason: StopReason::Done })),
    ]
}

fn any_policy() -> impl Strategy<Value = RenderPolicy> {
    prop_oneof![
        (1..20_usize).prop_map(|window| RenderPolicy::Default { window }),
        (1..600_usize).prop_map(|budget| RenderPolicy::Tokens { budget }),
        Just(RenderPolicy::Compact),
    ]
}

proptest! {
    #[test]
    fn every_call_is_directly_followed_by_exactly_one_message_for_each_id(
        states in prop::collection::vec(any_state(), 0..40),
        policy in any_policy(),
    ) {
        let request = rendered(&llm(policy), states);
        let mut open: BTreeSet<String> = BTreeSet::new();
        for message in dialogue(&request) {
            match message {
                ChatMessage::Tool { tool_call_id, .. } => {
                    prop_assert!(open.remove(tool_call_id), "no open call {tool_call_id}");
                }
                other => {
                    prop_assert!(open.is_empty(), "no result for {open:?}");
                    if let ChatMessage::Assistant { content, tool_calls } = other {
                        prop_assert!(!tool_calls.is_empty() || content.is_some());
                        open = tool_calls.iter().map(|call| call.id.clone()).collect();
                        prop_assert_eq!(open.len(), tool_calls.len());
                    }
                }
            }
        }
        prop_assert!(open.is_empty(), "no result for {open:?}");
    }

    #[test]
    fn policies_only_leave_parts_out_and_keep_the_order(
        states in prop::collection::vec(any_state(), 0..40),
        policy in any_policy(),
    ) {
        let whole = rendered(&llm(RenderPolicy::Compact), states.clone());
        let some = rendered(&llm(policy), states);
        let mut rest = dialogue(&whole);
        for message in dialogue(&some) {
            prop_assert!(rest.any(|other| other == message), "{message:?} is out of order");
        }
    }

    #[test]
    fn a_token_budget_is_kept_to_unless_the_newest_parts_alone_exceed_it(
        states in prop::collection::vec(any_state(), 0..40),
        budget in 1..600_usize,
    ) {
        let least = rendered(&llm(RenderPolicy::Tokens { budget: 1 }), states.clone());
        let request = rendered(&llm(RenderPolicy::Tokens { budget }), states);
        let least = window::count_all(&least.messages);
        prop_assert!(window::count_all(&request.messages) <= budget.max(least));
    }

    #[test]
    fn a_window_is_kept_to_except_for_the_newest_part_and_question(
        states in prop::collection::vec(any_state(), 0..40),
        window in 1..12_usize,
    ) {
        let request = rendered(&llm(RenderPolicy::Default { window }), states);
        // A group has at most its reply and six results; the newest question is one message more.
        prop_assert!(dialogue(&request).count() <= window.max(8));
    }
}
