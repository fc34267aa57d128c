use p2_core::model::ChatMessage;
use serde_json::json;

use super::*;

fn user(text: &str) -> ChatMessage {
    ChatMessage::User { content: text.into() }
}

fn said(text: &str) -> ChatMessage {
    ChatMessage::Assistant { content: Some(text.into()), tool_calls: vec![] }
}

fn request(messages: Vec<ChatMessage>) -> ModelRequest {
    ModelRequest {
        model: "scripted/test".into(),
        messages,
        tools: vec![],
        temperature: None,
        top_p: None,
        max_tokens: None,
    }
}

#[track_caller]
fn reply(script: &str, messages: Vec<ChatMessage>) -> ModelReply {
    answer(&Script::parse(script).unwrap(), &request(messages)).result.unwrap()
}

#[track_caller]
fn text(script: &str, messages: Vec<ChatMessage>) -> String {
    reply(script, messages).text.unwrap_or_default()
}

#[track_caller]
fn refused(script: &str) -> String {
    Script::parse(script).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn the_first_rule_that_matches_answers() {
    let script = "
rules:
  - {when: {contains: [cat, DOG]}, reply: {text: animal}}
  - {when: {equals: Hello}, reply: {text: greeting}}
  - {when: {matches: '(\\d+) plus (?P<other>\\d+)'}, reply: {text: '{{ captures[1]|int + groups.other|int }}'}}
  - {when: {contains: cat}, reply: {text: never}}
  - {when: {system_contains: pirate}, reply: {text: arr}}
  - {when: {turn: 2}, reply: {text: second turn}}
  - {when: {history_contains: secret}, unless: {contains: forget}, reply: {text: I remember}}
  - {reply: {text: 'echo {{ user }}'}}
";
    assert_eq!(text(script, vec![user("my dog")]), "animal");
    assert_eq!(text(script, vec![user(" hELLO ")]), "greeting");
    assert_eq!(text(script, vec![user("hello you")]), "echo hello you");
    assert_eq!(text(script, vec![user("2 PLUS 40")]), "42");
    let pirate = ChatMessage::System { content: "You are a Pirate.".into() };
    assert_eq!(text(script, vec![pirate, user("x")]), "arr");
    assert_eq!(text(script, vec![user("x"), said("y"), user("z")]), "second turn");
    let past = || vec![user("the secret"), said("a"), user("b"), said("c")];
    assert_eq!(text(script, [past(), vec![user("d")]].concat()), "I remember");
    assert_eq!(text(script, [past(), vec![user("forget it")]].concat()), "echo forget it");
}

#[test]
fn tool_results_are_matched_and_seen_by_templates() {
    let script = "
rules:
  - when: {last: tool, tool: get_weather, result_contains: PARIS}
    reply: {text: \"{{ result.temperature }} {{ results|length }} {{ results[0].arguments.location }} {{ step }}\"}
  - {when: {last: user}, reply: {text: no tool}}
  - {reply: {text: other tool}}
";
    let calls = ["Rome", "Paris"].map(|city| ModelToolCall {
        id: city.into(),
        name: "get_weather".into(),
        arguments: json!({"location": city}).to_string(),
    });
    let result = |city: &str, content: &str| ChatMessage::Tool {
        tool_call_id: city.into(),
        name: "get_weather".into(),
        content: content.into(),
    };
    let mut messages = vec![
        user("weather?"),
        ChatMessage::Assistant { content: None, tool_calls: calls.to_vec() },
        result("Rome", "not json"),
        result("Paris", r#"{"location": "Paris", "temperature": 71.6}"#),
    ];
    assert_eq!(text(script, messages.clone()), "71.6 2 Rome 2");
    messages.push(result("Oslo", "cold"));
    assert_eq!(text(script, messages.clone()), "other tool");
    messages.push(user("and?"));
    assert_eq!(text(script, messages), "no tool");
}

#[test]
fn calls_are_templated_repeated_per_item_and_keep_their_types() {
    let script = "
rules:
  - reply:
      text: looking
      tool_calls:
        - {name: find, each: \"user|find_all('[a-z]+[0-9]')\", arguments: {what: '{{ item }}', rank: '{{ index + 1 }}'}}
        - {name: never, if: \"'never' in tools\"}
        - {name: raw, id: mine, arguments: '{broken'}
";
    let reply = reply(script, vec![user("b1 A2 b1")]);
    let calls: Vec<_> =
        reply.tool_calls.iter().map(|c| format!("{} {} {}", c.id, c.name, c.arguments)).collect();
    assert_eq!(
        calls,
        [
            r#"call_1_1 find {"rank":1,"what":"b1"}"#,
            r#"call_1_2 find {"rank":2,"what":"A2"}"#,
            "mine raw {broken"
        ]
    );
    assert_eq!(reply.text.as_deref(), Some("looking"));
}

#[test]
fn a_sequence_counts_the_earlier_turns_that_its_rule_matched() {
    let script = "
rules:
  - {when: {contains: again}, sequence: [{text: one}, {text: two}, {error: {class: transient, code: http_500, message: 'no {{ user }}'}}]}
  - {reply: {text: other}}
";
    let mut messages = vec![user("again")];
    assert_eq!(text(script, messages.clone()), "one");
    messages.extend([said("one"), user("else"), said("other"), user("again")]);
    assert_eq!(text(script, messages.clone()), "two");
    messages.extend([said("two"), user("again")]);
    for _ in 0..2 {
        let answer = answer(&Script::parse(script).unwrap(), &request(messages.clone()));
        let error = answer.result.unwrap_err();
        assert_eq!((error.class, error.code.as_str()), (ModelErrorClass::Transient, "http_500"));
        assert_eq!(error.message, "no again");
        assert_eq!(answer.rule.as_deref(), Some("rule 1"));
        messages.extend([said("x"), user("again")]);
    }
}

#[test]
fn usage_is_as_written_or_counted_in_words() {
    let script = "
rules:
  - {when: {contains: priced}, reply: {text: a b, usage: {prompt_tokens: 70, completion_tokens: 5}}}
  - {reply: {text: 'three short words', delay_ms: 40}}
";
    let given = reply(script, vec![user("priced")]);
    assert_eq!((given.prompt_tokens, given.completion_tokens), (Some(70), Some(5)));
    let counted = reply(script, vec![user("one two"), said("three"), user("four")]);
    assert_eq!((counted.prompt_tokens, counted.completion_tokens), (Some(4), Some(3)));
    assert_eq!(answer(&Script::parse(script).unwrap(), &request(vec![user("x")])).delay_ms, 40);
}

#[test]
fn an_unknown_key_is_named_with_its_rule_and_the_nearest_valid_one() {
    let message = refused("rules: [{reply: {text: x}}, {name: hi, when: {contians: a}, reply: {text: x}}]");
    assert!(
        message.starts_with("rule 2 (hi): `when`: unknown key 'contians': did you mean 'contains'?"),
        "{message}"
    );
    let message = refused("rules: [{replay: {text: x}}]");
    assert!(message.starts_with("rule 1: unknown key 'replay': did you mean 'reply'?"), "{message}");
    let message = refused("rules: [{sequence: [{text: x}, {tool_calls: [{name: a, argments: {}}]}]}]");
    assert!(message.starts_with("rule 1: `sequence[2].tool_calls`: unknown key 'argments'"), "{message}");
    assert!(refused("ruls: []").contains("did you mean 'rules'?"));
}

#[test]
fn a_script_that_cannot_work_is_refused_with_its_place() {
    let cases = [
        ("rules: [", "script: not valid YAML"),
        ("[]", "script: must be a mapping"),
        ("{}", "script: needs a list `rules`"),
        ("rules: []", "`rules` is empty"),
        ("rules: [{when: {}}]", "rule 1: needs either `reply` or `sequence`"),
        ("rules: [{reply: {text: a}, sequence: [{text: b}]}]", "needs either `reply` or `sequence`"),
        ("rules: [{sequence: []}]", "at least one reply"),
        ("rules: [{when: {matches: '('}, reply: {text: a}}]", "rule 1: `when`: `(` is no valid pattern"),
        ("rules: [{when: {last: tol}, reply: {text: a}}]", "'tol' is no role"),
        ("rules: [{when: {if: 'a ='}, reply: {text: a}}]", "rule 1: `when`: if:"),
        ("rules: [{when: {turn: -1}, reply: {text: a}}]", "turn: must be a whole number"),
        ("rules: [{when: {contains: []}, reply: {text: a}}]", "an empty list matches nothing"),
        ("rules: [{reply: {text: '{{ a'}}]", "rule 1: `reply`: text:"),
        ("rules: [{reply: {tool_calls: [{name: a, arguments: {b: '{% if %}'}}]}}]", "arguments:"),
        ("rules: [{reply: {tool_calls: [{arguments: {}}]}}]", "needs the tool's `name`"),
        ("rules: [{reply: {tool_calls: [{name: a, arguments: [1]}]}}]", "must be an object"),
        ("rules: [{reply: {error: {class: odd}}}]", "'odd' is none of transient, permanent, timeout"),
        ("rules: [{reply: {text: a, error: {}}}]", "has an `error` beside"),
        ("rules: [{1: 2}]", "every key must be a text"),
        ("rules: [7]", "rule 1: must be a mapping"),
    ];
    for (script, expected) in cases {
        let message = refused(script);
        assert!(message.contains(expected), "{script}: {message}");
    }
}

#[test]
fn what_fails_at_run_time_is_an_error_that_names_the_rule() {
    let script =
        Script::parse("rules: [{name: odd, when: {contains: a}, reply: {text: '{{ nothing }}'}}]").unwrap();
    let error = answer(&script, &request(vec![user("a")])).result.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (ModelErrorClass::Permanent, "script_error"));
    assert!(error.message.starts_with("rule 1 (odd): undefined value"), "{}", error.message);
    let none = answer(&script, &request(vec![user("b")]));
    assert_eq!(none.result.unwrap_err().code, "no_rule");
}

#[test]
fn a_template_cannot_run_for_ever() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a * b }}{% endfor %}{% endfor %}";
    let script = Script::parse(&format!("rules: [{{reply: {{text: '{endless}'}}}}]")).unwrap();
    let error = answer(&script, &request(vec![user("a")])).result.unwrap_err();
    assert!(error.message.contains("fuel"), "{}", error.message);
}

#[test]
fn the_same_request_always_gets_the_same_answer() {
    let script = Script::demo().unwrap();
    let request = request(vec![user("what is pi?")]);
    let first = answer(&script, &request);
    assert!((0..20).all(|_| answer(&script, &request) == first));
}
