//! What a run was seen to do, as names that are counted.

use p2_core::record::Event;
use p2_core::state::{Entry, State};

use crate::actor::Outside;

pub(super) fn feature_of_phase(phase: &str) -> Option<&'static str> {
    Some(match phase {
        "success" => "tool succeeded",
        "error" => "tool failed",
        "timeout" => "tool time-out",
        "expired" => "tool expired",
        "in_doubt" => "tool-exec in doubt",
        "cache_hit" => "cache hit",
        _ => return None,
    })
}

pub(super) fn feature_of_event(event: &Event) -> Option<&'static str> {
    let data = &event.data.0;
    let text = |key: &str| data.get(key).and_then(|value| value.as_str());
    Some(match (event.name.as_str(), text("action"), text("kind")) {
        ("duplicate_tool_call", Some("blocked"), _) => "dedup blocked",
        ("duplicate_tool_call", ..) => "dedup hit",
        ("timed_out", _, Some("llm")) => "model time-out",
        ("timed_out", _, Some("agent")) => "agent time-out",
        ("timed_out", _, Some("tool")) => "wait for a tool timed out",
        ("branch_checked_out", ..) => "checkout",
        ("branch_forked", ..) if data.get("tree").and_then(|tree| tree.as_bool()) == Some(true) => {
            "tree fork"
        }
        ("branch_forked", ..) => "fork",
        ("entries_hidden", ..) => "destructive rewind",
        ("cancelled", ..) => "cancel",
        ("paused", ..) => "pause",
        ("resumed", ..) => "resume",
        ("override_set", ..) => "override",
        ("empty_reply", ..) => "empty reply",
        ("post_effect", ..) => "post-effect",
        ("webhook_failed", ..) => "webhook failed",
        _ => return None,
    })
}

pub(super) fn features_of_entry(state: &State, outside: &mut Outside) {
    match state {
        State::AssistantMessage(message) => {
            if message.summary_of.is_some() {
                outside.count("compacted");
            }
            if message.tool_calls > 0 && !message.text.is_empty() {
                outside.count("text beside calls");
            }
            match message.error.as_ref().map(|error| error.class.as_str()) {
                Some("model") => outside.count("model error"),
                Some("rounds") => outside.count("rounds"),
                Some("budget") => outside.count("run out of budget"),
                _ => {}
            }
        }
        State::UserMessage(message) if message.origin.as_deref() == Some("reflection") => {
            outside.count("reflection");
        }
        State::UserResponse(response) => outside.count(match response.answer.kind {
            p2_core::state::AnswerKind::Approve => "approval approved",
            p2_core::state::AnswerKind::Deny => "approval denied",
            p2_core::state::AnswerKind::Edit => "approval edited",
            p2_core::state::AnswerKind::Text => "person answered",
        }),
        _ => {}
    }
}

pub(super) fn features_of_calls(entries: &[Entry], outside: &mut Outside) {
    let calls = entries.iter().filter(|entry| matches!(entry.state, State::ToolCall(_))).count();
    if calls > 1 {
        outside.count("parallel calls");
    }
}
