//! From entries to a dialogue: messages, and groups of a tool-calling reply with its results.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::ids::Id;
use crate::model::{ChatMessage, ModelToolCall};
use crate::state::{
    AssistantMessage, Entry, State, ToolCall, ToolResult, ToolStatus, UserMessage, WaitKind, Waiting,
};

/// A part of the dialogue that is kept or dropped whole. It refers to the stack: most of a long one is dropped,
/// so that messages are made of what is kept only.
pub(super) struct Item<'a> {
    /// The newest `seq` in it.
    last: i64,
    body: Body<'a>,
}

enum Body<'a> {
    /// The newest summary.
    Summary(&'a str),
    /// From a person or a caller, or a reflection.
    Said { text: &'a str, asked: bool },
    /// The agent's text, without calls.
    Answer(&'a str),
    /// A reply with calls, and their results.
    Group(Group<'a>),
}

struct Group<'a> {
    text: Option<&'a str>,
    calls: Vec<(&'a ToolCall, Option<&'a ToolResult>)>,
}

impl Item<'_> {
    /// Whether a person or a caller wrote it.
    pub(super) fn asked(&self) -> bool {
        matches!(self.body, Body::Said { asked: true, .. })
    }

    /// How many messages it has.
    pub(super) fn len(&self) -> usize {
        match &self.body {
            Body::Group(group) => group.calls.len() + 1,
            _ => 1,
        }
    }

    /// Its messages; a group begins with the assistant's.
    pub(super) fn messages(&self) -> Vec<ChatMessage> {
        let text = |text: &str| text.to_owned();
        match &self.body {
            Body::Summary(summary) => {
                let content = format!("Summary of the conversation so far: {summary}");
                vec![ChatMessage::User { content }]
            }
            Body::Said { text: said, .. } => vec![ChatMessage::User { content: text(said) }],
            Body::Answer(said) => {
                vec![ChatMessage::Assistant { content: Some(text(said)), tool_calls: Vec::new() }]
            }
            Body::Group(group) => group.messages(),
        }
    }
}

/// Whether the core wrote this message to make the agent look at its own work again.
pub(super) fn is_reflection(message: &UserMessage) -> bool {
    message.origin.as_deref().is_some_and(|origin| origin.starts_with("reflection"))
}

/// The whole dialogue, oldest first. Where there is a summary, it stands first, in place of all that it sums
/// up; a group that got a result after the summary was cut is not covered by it and stays.
pub(super) fn dialogue<'a>(entries: &[&'a Entry]) -> Vec<Item<'a>> {
    let mut parts = Parts::default();
    for entry in entries {
        parts.take(entry);
    }
    let items = parts.finish();
    let Some((summary, covered)) = newest_summary(entries) else { return items };
    let first = Item { last: covered, body: Body::Summary(summary) };
    std::iter::once(first).chain(items.into_iter().filter(|item| item.last > covered)).collect()
}

fn newest_summary<'a>(entries: &[&'a Entry]) -> Option<(&'a str, i64)> {
    entries.iter().rev().find_map(|entry| match &entry.state {
        State::AssistantMessage(AssistantMessage {
            text, error: None, summary_of: Some(covered), ..
        }) => Some((text.as_str(), *covered)),
        _ => None,
    })
}

#[derive(Default)]
struct Parts<'a> {
    parts: Vec<Item<'a>>,
    /// Reply → its group's place in `parts`.
    groups: BTreeMap<Id, usize>,
    /// Text of a reply whose tool calls are still to come.
    text: Option<(i64, &'a str)>,
    /// Whether a model call is under way.
    asking: bool,
    /// What was said while it was: the reply does not answer it, so it stands after the reply.
    meanwhile: Vec<Item<'a>>,
}

impl<'a> Parts<'a> {
    fn take(&mut self, entry: &'a Entry) {
        match &entry.state {
            State::UserMessage(message) => {
                self.flush();
                let body = Body::Said { text: &message.text, asked: !is_reflection(message) };
                let item = Item { last: entry.seq, body };
                if self.asking {
                    self.meanwhile.push(item);
                } else {
                    self.parts.push(item);
                }
            }
            State::AssistantMessage(message) if message.summary_of.is_some() => self.flush(),
            State::AssistantMessage(message) => {
                self.flush();
                if message.error.is_none() {
                    self.text = Some((entry.seq, &message.text));
                }
                if message.tool_calls == 0 {
                    self.flush();
                    self.replied();
                }
            }
            State::ToolCall(call) => self.call(entry.seq, call),
            State::ToolResult(result) => self.result(entry.seq, result),
            State::Waiting(Waiting { kind: WaitKind::Llm, .. }) => {
                // Asked anew: this call has seen it all.
                self.replied();
                self.asking = true;
            }
            State::AgentCall(_)
            | State::AgentResult(_)
            | State::Waiting(_)
            | State::UserInputRequest(_)
            | State::UserResponse(_)
            | State::Finished(_) => {}
        }
    }

    /// The call that was under way is over.
    fn replied(&mut self) {
        self.asking = false;
        self.parts.append(&mut self.meanwhile);
    }

    /// A reply's text of which no tool call follows (a fork may cut between them) is a plain message.
    fn flush(&mut self) {
        if let Some((seq, text)) = self.text.take()
            && !text.is_empty()
        {
            self.parts.push(Item { last: seq, body: Body::Answer(text) });
        }
    }

    fn call(&mut self, seq: i64, call: &'a ToolCall) {
        let place = self.groups.get(&call.reply).copied();
        if let Some(Item { last, body: Body::Group(group) }) =
            place.and_then(|place| self.parts.get_mut(place))
        {
            // Providers refuse a reply in which two calls share an id.
            if group.calls.iter().all(|(known, _)| known.call_id != call.call_id) {
                group.calls.push((call, None));
                *last = (*last).max(seq);
            }
            return;
        }
        self.groups.insert(call.reply, self.parts.len());
        let text = self.text.take().map(|(_, text)| text).filter(|text| !text.is_empty());
        let body = Body::Group(Group { text, calls: vec![(call, None)] });
        self.parts.push(Item { last: seq, body });
        self.replied();
    }

    /// A result belongs to the newest call of its id that is open. What was in doubt stays open: its own
    /// result closes it later.
    fn result(&mut self, seq: i64, result: &'a ToolResult) {
        let groups = self.parts.iter_mut().rev().filter_map(|item| match &mut item.body {
            Body::Group(group) => Some((&mut item.last, group)),
            _ => None,
        });
        for (last, group) in groups {
            let open = group.calls.iter_mut().find(|(call, closed)| {
                call.call_id == result.call_id
                    && closed.is_none_or(|before| before.status == ToolStatus::InDoubt)
            });
            if let Some((_, slot)) = open {
                *slot = Some(result);
                *last = (*last).max(seq);
                return;
            }
        }
    }

    /// A group without any result is left out: the model has not been answered yet, and there is nothing to
    /// say.
    fn finish(mut self) -> Vec<Item<'a>> {
        self.flush();
        self.replied();
        self.parts.retain(|item| match &item.body {
            Body::Group(group) => group.calls.iter().any(|(_, result)| result.is_some()),
            _ => true,
        });
        self.parts
    }
}

impl Group<'_> {
    /// Calls without a result are named as pending, because providers want one for each call.
    fn messages(&self) -> Vec<ChatMessage> {
        let tool_calls = self
            .calls
            .iter()
            .map(|(call, _)| ModelToolCall {
                id: call.call_id.clone(),
                name: call.tool.clone(),
                arguments: arguments(&call.arguments.0),
            })
            .collect();
        let content = self.text.map(str::to_owned);
        let results = self.calls.iter().map(|(call, result)| ChatMessage::Tool {
            tool_call_id: call.call_id.clone(),
            name: call.tool.clone(),
            content: result.map_or_else(|| json!({ "status": "pending" }), content_of).to_string(),
        });
        std::iter::once(ChatMessage::Assistant { content, tool_calls }).chain(results).collect()
    }
}

/// Always an object: some servers parse the arguments of earlier calls and fail for good on anything else.
fn arguments(given: &Value) -> String {
    match given {
        Value::Object(_) => given.to_string(),
        Value::Null => "{}".to_owned(),
        Value::String(raw) if raw.trim().is_empty() => "{}".to_owned(),
        other => json!({ "malformed_arguments": other }).to_string(),
    }
}

fn content_of(result: &ToolResult) -> Value {
    let mut content = match &result.result.0 {
        Value::Object(fields) => fields.clone(),
        Value::Null => Map::new(),
        other => Map::from_iter([("result".to_owned(), other.clone())]),
    };
    content.insert("status".to_owned(), Value::from(result.status.as_str()));
    Value::Object(content)
}
