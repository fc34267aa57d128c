use p2_core::json_text::JsonText;
use p2_core::model::ToolSpec;

use super::*;

fn call(id: &str, name: &str, arguments: &str) -> ModelToolCall {
    ModelToolCall { id: id.into(), name: name.into(), arguments: arguments.into() }
}

fn completion(message: Value, finish: &str) -> Vec<u8> {
    json!({"choices": [{"index": 0, "message": message, "finish_reason": finish}],
           "usage": {"prompt_tokens": 12, "completion_tokens": 3}})
    .to_string()
    .into_bytes()
}

#[test]
fn a_request_carries_the_whole_conversation_and_only_the_options_that_are_set() {
    let request = ModelRequest {
        model: "openai/gpt-4o".into(),
        messages: vec![
            ChatMessage::System { content: "be kind".into() },
            ChatMessage::User { content: "weather?".into() },
            ChatMessage::Assistant {
                content: None,
                tool_calls: vec![
                    call("a", "get_weather", "{\"location\":\"Paris\"}"),
                    call("b", "broken", "{oops"),
                ],
            },
            ChatMessage::Tool { tool_call_id: "a".into(), name: "get_weather".into(), content: "{}".into() },
            ChatMessage::Assistant { content: None, tool_calls: vec![] },
        ],
        tools: vec![ToolSpec {
            name: "get_weather".into(),
            description: "weather".into(),
            parameters: JsonText(json!({"type": "object"})),
        }],
        temperature: Some(0.25),
        top_p: None,
        max_tokens: Some(64),
    };
    let expected = json!({
        "model": "gpt-4o",
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "a", "type": "function",
                 "function": {"name": "get_weather", "arguments": "{\"location\":\"Paris\"}"}},
                {"id": "b", "type": "function",
                 "function": {"name": "broken", "arguments": "{\"malformed_arguments\":\"{oops\"}"}},
            ]},
            {"role": "tool", "tool_call_id": "a", "content": "{}"},
            {"role": "assistant", "content": ""},
        ],
        "tools": [{"type": "function", "function":
            {"name": "get_weather", "description": "weather", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "temperature": 0.25,
        "max_tokens": 64,
    });
    assert_eq!(request_body("gpt-4o", TokenLimit::MaxTokens, &request), expected);
}

#[test]
fn a_request_without_tools_names_neither_tools_nor_a_choice() {
    let request = ModelRequest {
        model: "m".into(),
        messages: vec![],
        tools: vec![],
        temperature: None,
        top_p: None,
        max_tokens: None,
    };
    assert_eq!(request_body("m", TokenLimit::MaxTokens, &request), json!({"model": "m", "messages": []}));
}

#[test]
fn only_openais_own_api_is_told_the_limit_by_its_new_name() {
    for (host, name) in [
        ("api.openai.com", "max_completion_tokens"),
        ("eu.api.openai.com", "max_completion_tokens"),
        ("localhost", "max_tokens"),
        ("notopenai.com", "max_tokens"),
    ] {
        let request = ModelRequest {
            model: "openai/o4-mini".into(),
            messages: vec![],
            tools: vec![],
            temperature: None,
            top_p: None,
            max_tokens: Some(9),
        };
        let body = request_body("o4-mini", TokenLimit::of_host(host), &request);
        assert_eq!(body, json!({"model": "o4-mini", "messages": [], name: 9}), "{host}");
    }
}

#[test]
fn text_beside_several_calls_is_kept_in_order() {
    let message = json!({"content": "on it", "tool_calls": [
        {"id": "1", "function": {"name": "a", "arguments": "{\"x\":1}"}},
        {"function": {"name": "b", "arguments": {"y": 2}}},
        {"id": "3", "function": {"name": "c"}},
    ]});
    let reply = parse_reply(&completion(message, "tool_calls")).unwrap();
    assert_eq!(reply.text.as_deref(), Some("on it"));
    assert_eq!(
        reply.tool_calls,
        [call("1", "a", "{\"x\":1}"), call("", "b", "{\"y\":2}"), call("3", "c", "{}")]
    );
    assert_eq!((reply.prompt_tokens, reply.completion_tokens), (Some(12), Some(3)));
}

#[test]
fn null_and_empty_content_are_no_text_and_absent_usage_is_not_zero() {
    for content in [json!(null), json!(""), json!([])] {
        let body = json!({"choices": [{"message": {"content": content}}], "usage": null}).to_string();
        assert_eq!(parse_reply(body.as_bytes()).unwrap(), ModelReply::default());
    }
}

#[test]
fn content_parts_are_joined_and_a_refusal_is_the_text() {
    let parts = json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
    assert_eq!(parse_reply(&completion(parts, "stop")).unwrap().text.as_deref(), Some("ab"));
    let refusal = json!({"content": null, "refusal": "I cannot"});
    assert_eq!(parse_reply(&completion(refusal, "stop")).unwrap().text.as_deref(), Some("I cannot"));
}

#[test]
fn every_proper_prefix_of_a_reply_is_incomplete_and_never_a_short_answer() {
    let whole = completion(json!({"content": "a fairly long answer"}), "stop");
    for end in 0..whole.len() {
        let result = parse_reply(&whole[..end]);
        assert!(matches!(result, Err(BadReply::Incomplete(_))), "{end}: {result:?}");
    }
    assert!(parse_reply(&whole).is_ok());
}

#[test]
fn what_is_no_chat_completion_is_malformed() {
    let bodies = [
        "<html>hi</html>",
        "[]",
        "{}",
        r#"{"choices": []}"#,
        r#"{"choices": [{}]}"#,
        r#"{"choices": [{"message": "hi"}]}"#,
        r#"{"choices": [{"message": {"content": 7}}]}"#,
        r#"{"choices": [{"message": {"tool_calls": {}}}]}"#,
        r#"{"choices": [{"message": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]}"#,
        r#"{"error": {"message": "overloaded"}}"#,
    ];
    for body in bodies {
        let result = parse_reply(body.as_bytes());
        assert!(matches!(result, Err(BadReply::Malformed(_))), "{body}: {result:?}");
    }
}

#[test]
fn a_reply_at_its_token_limit_keeps_its_text_and_says_so() {
    let reply = parse_reply(&completion(json!({"content": "once upon"}), "length")).unwrap();
    assert_eq!(reply.text.as_deref(), Some("once upon\n\n[cut off: the reply reached its token limit]"));
    let empty = parse_reply(&completion(json!({"content": null}), "length"));
    assert!(matches!(empty, Err(BadReply::Withheld("length", _))), "{empty:?}");
}

#[test]
fn a_filtered_reply_is_an_error() {
    let result = parse_reply(&completion(json!({"content": "partial"}), "content_filter"));
    assert!(matches!(result, Err(BadReply::Withheld("content_filter", _))), "{result:?}");
}

#[test]
fn the_message_of_an_error_body_is_one_short_line() {
    assert_eq!(error_message(br#"{"error": {"message": " no\n such model "}}"#), "no such model");
    assert_eq!(error_message(br#"{"error": "plain"}"#), "plain");
    assert_eq!(error_message(br#"{"detail": 1}"#), r#"{"detail":1}"#);
    assert_eq!(error_message(b"<b>Bad\nGateway</b>"), "<b>Bad Gateway</b>");
    assert_eq!(error_message(b""), "no message");
    assert_eq!(error_message("é".repeat(9000).as_bytes()).chars().count(), MESSAGE_MAX + 1);
}

#[test]
fn an_empty_quota_is_told_from_a_rate_limit() {
    assert!(is_out_of_quota(br#"{"error": {"code": "insufficient_quota"}}"#));
    assert!(!is_out_of_quota(br#"{"error": {"code": "rate_limit_exceeded"}}"#));
}
