//! A stack as a table, and single entries as text.

use anstyle::{AnsiColor, Style};
use p2_core::state::{AnswerKind, Entry, State};
use serde_json::{Value, json};

use super::lineage::counted;
use super::{one_line, table, time};

/// Fewer columns than this are narrow.
const NARROW: u16 = 100;

/// What an entry says, on one line.
pub(crate) fn content(state: &State) -> String {
    match state {
        State::UserMessage(message) => match &message.origin {
            Some(origin) => format!("[{origin}] {}", message.text),
            None => message.text.clone(),
        },
        State::AssistantMessage(message) => match (&message.error, message.summary_of) {
            (Some(error), _) => format!("[{}: {}] {}", error.class, error.code, message.text),
            (None, Some(_)) => format!("[summary of what was before] {}", message.text),
            (None, None) => message.text.clone(),
        },
        State::ToolCall(call) => format!("{} {}", call.tool, call.arguments.text()),
        State::ToolResult(result) => {
            format!("{} {} {}", result.tool, result.status.as_str(), result.result.text())
        }
        State::AgentCall(call) => format!("→ {} ({}): {}", call.agent, call.branch, call.message),
        State::AgentResult(result) => {
            format!("← {} {}: {}", result.agent, result.status.as_str(), result.text)
        }
        State::Waiting(waiting) => format!("{} {}", waiting.kind.as_str(), waiting.id.short()),
        State::UserInputRequest(request) => format!("{} [{}]", request.text, request.id.short()),
        State::UserResponse(response) => {
            let answer = &response.answer;
            let said = match answer.kind {
                AnswerKind::Approve => "approved".to_owned(),
                AnswerKind::Deny => format!("denied: {}", answer.text),
                AnswerKind::Edit => {
                    format!("edited: {}", answer.arguments.as_ref().map_or_else(String::new, |a| a.text()))
                }
                AnswerKind::Text => answer.text.clone(),
            };
            format!("{said} (by {})", response.by)
        }
        State::Finished(finished) => finished.stop_reason.as_str().to_owned(),
    }
}

/// The colour of a kind of entry: people, agents, what is outside.
pub(crate) fn style_of(kind: &str) -> Style {
    let colour = match kind {
        "UserMessage" | "UserResponse" => AnsiColor::Cyan,
        "AssistantMessage" => AnsiColor::Green,
        "ToolCall" | "ToolResult" | "AgentCall" | "AgentResult" => AnsiColor::Yellow,
        "UserInputRequest" => AnsiColor::Magenta,
        _ => return Style::new().dimmed(),
    };
    Style::new().fg_color(Some(colour.into()))
}

/// The stack as a table. `entries` with Waiting ones; they show only with `all`, and are never counted.
/// `newest`: only the newest so many.
pub(crate) fn render(entries: &[&Entry], all: bool, newest: Option<usize>, width: u16) -> String {
    let narrow = width < NARROW;
    let mut index = -1_i64;
    let mut rows = Vec::new();
    for entry in entries {
        let waiting = matches!(entry.state, State::Waiting(_));
        if waiting && !all {
            continue;
        }
        index += i64::from(!waiting);
        let shown = if waiting { "·".to_owned() } else { index.to_string() };
        let at = time(entry.time_ms);
        // On a narrow terminal the day gives way to the content.
        let at =
            if narrow { at.split_once(' ').map_or(at.clone(), |(_, clock)| clock.to_owned()) } else { at };
        rows.push(vec![shown, at, entry.state.kind().to_owned(), content(&entry.state)]);
    }
    let skipped = newest.map_or(0, |newest| rows.len().saturating_sub(newest));
    let header = ["INDEX", "TIME (UTC)", "KIND", "CONTENT"];
    let text = table::render_styled(&header, rows.split_off(skipped), width, style_of);
    if skipped == 0 {
        text
    } else {
        format!("{text}\n({skipped} earlier entries not shown; --n 0 shows all)")
    }
}

/// The same as data.
pub(crate) fn data(entries: &[&Entry], all: bool) -> Value {
    let shown = if all { entries.to_vec() } else { counted(entries) };
    let rows = shown.iter().map(|entry| {
        json!({
            "seq": entry.seq, "id": entry.id, "time_ms": entry.time_ms, "kind": entry.state.kind(),
            "content": content(&entry.state), "state": entry.state,
        })
    });
    rows.collect()
}

/// What two branches share and where they part.
pub(crate) fn diff(left: (&str, &[&Entry]), right: (&str, &[&Entry]), width: usize) -> String {
    let (a, b) = (counted(left.1), counted(right.1));
    let shared = a.iter().zip(&b).take_while(|(x, y)| x.id == y.id).count();
    let mut lines = vec![format!("--- {}", left.0), format!("+++ {}", right.0)];
    lines.push(format!("  {shared} shared entries"));
    for (sign, entries) in [('-', &a), ('+', &b)] {
        for (index, entry) in entries.iter().enumerate().skip(shared) {
            let before = format!("{sign} {index:>3} {:<17} ", entry.state.kind());
            let room = width.saturating_sub(before.len()).max(20);
            lines.push(format!("{before}{}", one_line(&content(&entry.state), room)));
        }
    }
    lines.join("\n")
}
