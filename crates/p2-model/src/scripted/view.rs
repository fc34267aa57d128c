//! What a script sees of a request.

use p2_core::model::{ChatMessage, ModelRequest, ModelToolCall};
use serde_json::{Value, json};

/// A request, read once.
pub(super) struct View {
    pub(super) model: String,
    /// The last user text, or empty.
    pub(super) user: String,
    /// All user texts, oldest first.
    pub(super) users: Vec<String>,
    /// All system texts.
    pub(super) system: String,
    /// Role of the last message, or empty.
    pub(super) last_role: &'static str,
    /// The tool whose result is the last message.
    pub(super) last_tool: Option<String>,
    /// The last message's text where it is a tool's result.
    pub(super) last_result: Option<String>,
    /// Results since the last user message: `{name, arguments, content, text}`.
    pub(super) results: Vec<Value>,
    /// Names of the tools on offer.
    pub(super) tools: Vec<String>,
    /// All messages but system ones: `{role, content}`.
    pub(super) messages: Vec<Value>,
    /// The reply's number in the conversation, from 1.
    pub(super) turn: u64,
    /// The reply's number since the last user message, from 1.
    pub(super) step: u64,
    /// Words of the whole prompt.
    pub(super) words: i64,
}

impl View {
    /// Reads `messages`, which may be a beginning of the request's own.
    pub(super) fn new(request: &ModelRequest, messages: &[ChatMessage]) -> View {
        let mut view = View {
            model: request.model.clone(),
            user: String::new(),
            users: Vec::new(),
            system: String::new(),
            last_role: "",
            last_tool: None,
            last_result: None,
            results: Vec::new(),
            tools: request.tools.iter().map(|tool| tool.name.clone()).collect(),
            messages: Vec::new(),
            turn: 1,
            step: 1,
            words: 0,
        };
        let mut calls: Vec<&ModelToolCall> = Vec::new();
        for message in messages {
            view.add(message, &mut calls);
        }
        view
    }

    fn add<'a>(&mut self, message: &'a ChatMessage, calls: &mut Vec<&'a ModelToolCall>) {
        (self.last_tool, self.last_result) = (None, None);
        match message {
            ChatMessage::System { content } => {
                self.last_role = "system";
                self.system.push_str(content);
                self.system.push('\n');
                self.words += super::words(content);
            }
            ChatMessage::User { content } => {
                self.last_role = "user";
                self.user.clone_from(content);
                self.users.push(content.clone());
                self.results.clear();
                self.step = 1;
                self.note("user", content);
            }
            ChatMessage::Assistant { content, tool_calls } => {
                self.last_role = "assistant";
                self.turn += 1;
                self.step += 1;
                calls.extend(tool_calls);
                self.words += tool_calls.iter().map(|call| super::words(&call.arguments) + 1).sum::<i64>();
                self.note("assistant", content.as_deref().unwrap_or_default());
            }
            ChatMessage::Tool { tool_call_id, name, content } => {
                self.last_role = "tool";
                self.last_tool = Some(name.clone());
                self.last_result = Some(content.clone());
                let call = calls.iter().rev().find(|call| call.id == *tool_call_id && call.name == *name);
                let arguments = call.map_or(Value::Null, |call| parsed(&call.arguments));
                let content_value = parsed(content);
                self.results.push(
                    json!({"name": name, "arguments": arguments, "content": content_value, "text": content}),
                );
                self.note("tool", content);
            }
        }
    }

    fn note(&mut self, role: &str, content: &str) {
        self.words += super::words(content);
        self.messages.push(json!({"role": role, "content": content}));
    }
}

/// JSON where it is JSON, else the text.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}
