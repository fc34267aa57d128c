//! The chat completions format: requests out, replies and errors in. Pure.

use p2_core::model::{ChatMessage, ModelReply, ModelRequest, ModelToolCall};
use serde_json::{Map, Value, json};

/// Longest provider message that is kept in an error, characters.
const MESSAGE_MAX: usize = 500;

/// Why a body with status 200 is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadReply {
    /// It stops before its end.
    Incomplete(String),
    /// It is not a chat completion.
    Malformed(String),
    /// The provider withheld it: (code, message).
    Withheld(&'static str, String),
}

/// What a server calls the longest reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenLimit {
    /// `max_tokens`: what compatible servers know.
    MaxTokens,
    /// `max_completion_tokens`: OpenAI's own API, whose reasoning models refuse `max_tokens`
    /// (API reference, chat completions, "max_tokens: deprecated").
    MaxCompletionTokens,
}

impl TokenLimit {
    /// The one that the server at this host knows.
    pub fn of_host(host: &str) -> TokenLimit {
        let own = host == "openai.com" || host.ends_with(".openai.com");
        if own { TokenLimit::MaxCompletionTokens } else { TokenLimit::MaxTokens }
    }

    fn field(self) -> &'static str {
        match self {
            TokenLimit::MaxTokens => "max_tokens",
            TokenLimit::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// The request body. What is `None` is left out, so that the provider's default holds.
pub fn request_body(model: &str, limit: TokenLimit, request: &ModelRequest) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), json!(model));
    body.insert("messages".into(), request.messages.iter().map(message).collect());
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            json!({
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters.0,
                },
            })
        });
        body.insert("tools".into(), tools.collect());
        body.insert("tool_choice".into(), json!("auto"));
    }
    let options = [
        ("temperature", request.temperature.map(Value::from)),
        ("top_p", request.top_p.map(Value::from)),
        (limit.field(), request.max_tokens.map(Value::from)),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            body.insert(name.into(), value);
        }
    }
    Value::Object(body)
}

fn message(message: &ChatMessage) -> Value {
    match message {
        ChatMessage::System { content } => json!({"role": "system", "content": content}),
        ChatMessage::User { content } => json!({"role": "user", "content": content}),
        ChatMessage::Assistant { content, tool_calls } if tool_calls.is_empty() => {
            json!({"role": "assistant", "content": content.as_deref().unwrap_or_default()})
        }
        ChatMessage::Assistant { content, tool_calls } => {
            let calls: Vec<Value> = tool_calls
                .iter()
                .map(|call| {
                    json!({
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": valid_arguments(&call.arguments)},
                    })
                })
                .collect();
            json!({"role": "assistant", "content": content, "tool_calls": calls})
        }
        ChatMessage::Tool { tool_call_id, content, .. } => {
            json!({"role": "tool", "tool_call_id": tool_call_id, "content": content})
        }
    }
}

/// Some servers parse the arguments in the history and refuse the whole request over one bad call that a
/// model once made: such a text is wrapped, so that the conversation can go on.
fn valid_arguments(arguments: &str) -> String {
    match serde_json::from_str::<Value>(arguments) {
        Ok(_) => arguments.to_owned(),
        Err(_) if arguments.trim().is_empty() => "{}".to_owned(),
        Err(_) => json!({"malformed_arguments": arguments}).to_string(),
    }
}

/// Reads a whole body of status 200.
///
/// # Errors
/// [`BadReply`] where it stops early, is no chat completion, or was withheld.
pub fn parse_reply(body: &[u8]) -> Result<ModelReply, BadReply> {
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        // A body without a length that is cut looks like a whole one: only its JSON tells.
        if error.is_eof() {
            BadReply::Incomplete(format!("the body ends after {} bytes, inside its JSON", body.len()))
        } else {
            BadReply::Malformed(format!("the body is not JSON: {error}"))
        }
    })?;
    if let Some(text) = error_text(&value) {
        return Err(BadReply::Malformed(format!("an error with status 200: {text}")));
    }
    let choice = value.pointer("/choices/0").ok_or_else(|| missing("choices"))?;
    let message =
        choice.get("message").filter(|message| message.is_object()).ok_or_else(|| missing("message"))?;
    let finish = choice.get("finish_reason").and_then(Value::as_str).unwrap_or_default();
    if finish == "content_filter" {
        let text = "the provider withheld the reply (finish_reason content_filter): rephrase the request";
        return Err(BadReply::Withheld("content_filter", text.to_owned()));
    }
    let mut text = content(message.get("content"))?.or(content(message.get("refusal"))?);
    let tool_calls = tool_calls(message.get("tool_calls"))?;
    if finish == "length" {
        match text.as_mut() {
            Some(text) => text.push_str("\n\n[cut off: the reply reached its token limit]"),
            None if tool_calls.is_empty() => {
                let text = "the reply reached its token limit before any text: raise max_tokens";
                return Err(BadReply::Withheld("length", text.to_owned()));
            }
            None => {}
        }
    }
    let tokens = |name: &str| value.pointer(&format!("/usage/{name}")).and_then(Value::as_i64);
    Ok(ModelReply {
        text,
        tool_calls,
        prompt_tokens: tokens("prompt_tokens"),
        completion_tokens: tokens("completion_tokens"),
    })
}

fn missing(what: &str) -> BadReply {
    BadReply::Malformed(format!(
        "the body is JSON but holds no `{what}`: is base_url an OpenAI-compatible API?"
    ))
}

/// Text, or an array of text parts; null and empty text are none.
fn content(value: Option<&Value>) -> Result<Option<String>, BadReply> {
    let text = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect()
        }
        Some(_) => return Err(BadReply::Malformed("`message.content` is neither text nor null".to_owned())),
    };
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn tool_calls(value: Option<&Value>) -> Result<Vec<ModelToolCall>, BadReply> {
    let calls = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(calls)) => calls,
        Some(_) => return Err(BadReply::Malformed("`message.tool_calls` is not an array".to_owned())),
    };
    calls
        .iter()
        .map(|call| {
            let name = call.pointer("/function/name").and_then(Value::as_str);
            let name = name
                .filter(|name| !name.is_empty())
                .ok_or_else(|| BadReply::Malformed("a tool call has no `function.name`".to_owned()))?;
            // Text by the book; an object from some servers; nothing where there are no parameters.
            let arguments = match call.pointer("/function/arguments") {
                None | Some(Value::Null) => "{}".to_owned(),
                Some(Value::String(text)) if text.is_empty() => "{}".to_owned(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            let id = call.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
            Ok(ModelToolCall { id, name: name.to_owned(), arguments })
        })
        .collect()
}

/// The provider's message in an error body, trimmed to one line; the body itself where it has none.
pub fn error_message(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(value) => error_text(&value).unwrap_or_else(|| value.to_string()),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return "no message".to_owned();
    }
    match line.char_indices().nth(MESSAGE_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// Whether an error body says that the account is out of quota.
pub fn is_out_of_quota(body: &[u8]) -> bool {
    let quota =
        |value: &Value, path| value.pointer(path).and_then(Value::as_str) == Some("insufficient_quota");
    serde_json::from_slice::<Value>(body)
        .is_ok_and(|value| quota(&value, "/error/code") || quota(&value, "/error/type"))
}

fn error_text(value: &Value) -> Option<String> {
    let error = value.get("error").filter(|error| !error.is_null());
    let text = match error {
        Some(error) => error.get("message").and_then(Value::as_str).or(error.as_str()),
        None => return None,
    };
    Some(text.map_or_else(|| error.map(Value::to_string).unwrap_or_default(), str::to_owned))
}

#[cfg(test)]
mod tests;
