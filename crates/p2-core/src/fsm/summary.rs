//! Compaction: a branch at its limit of entries is summed up.

use super::builder::Step;
use super::{lookup, turn};
use crate::conversation::Conversation;
use crate::definition::AtLimit;
use crate::ids::{AgentId, BranchId};
use crate::state::{AssistantMessage, Entry, State};

/// Whether the most entries that may gather since the newest summary have gathered.
pub(super) fn is_full(step: &Step<'_>, agent: &AgentId, branch: &BranchId) -> bool {
    let (conv, most) = (&step.conv, step.context.settings.stack_entries_max);
    // Hidden entries only make it fewer: with so few in all there is nothing to count.
    if conv.head(agent, branch) + 1 < most {
        return false;
    }
    let summed = newest_summary(conv, agent, branch);
    let since = conv.newest(agent, branch).take_while(|entry| entry.seq > summed).count();
    i64::try_from(since).unwrap_or(i64::MAX) >= most
}

/// Up to which `seq` the newest summary covers a branch; -1 where there is none.
fn newest_summary(conv: &Conversation, agent: &AgentId, branch: &BranchId) -> i64 {
    let summary = conv.newest(agent, branch).find_map(|entry| match &entry.state {
        State::AssistantMessage(message) => message.summary_of,
        _ => None,
    });
    summary.unwrap_or(-1)
}

/// Makes room on a full branch where its policy is to compact: sums up what is before the question at hand.
pub(super) fn make_room(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, policy: AtLimit) -> bool {
    if policy == AtLimit::Refuse {
        return false;
    }
    let entries = step.conv.visible(agent, branch);
    let pending = turn::is_pending(&step.conv, agent, branch);
    let covered = newest_summary(&step.conv, agent, branch);
    let question = entries.iter().rposition(|entry| lookup::is_question(&entry.state));
    let upto = if pending { question.unwrap_or(0) } else { entries.len() };
    let summed = entries.get(..upto).unwrap_or_default();
    let Some(last) = summed.last().map(|entry| entry.seq).filter(|seq| *seq > covered) else { return false };
    let text = digest(summed);
    let message = AssistantMessage { text, summary_of: Some(last), ..AssistantMessage::default() };
    step.append(agent, branch, State::AssistantMessage(message));
    true
}

/// What was said, in short: the beginning and the end, each message cut.
pub(super) fn digest(entries: &[&Entry]) -> String {
    const HEAD: usize = 8;
    const TAIL: usize = 24;
    const CHARS: usize = 160;
    let lines: Vec<String> = entries
        .iter()
        .filter_map(|entry| match &entry.state {
            State::UserMessage(message) => Some(("user", &message.text)),
            State::AssistantMessage(message) if message.error.is_none() && !message.text.is_empty() => {
                Some(("assistant", &message.text))
            }
            _ => None,
        })
        .map(|(who, text)| {
            let cut: String = text.chars().take(CHARS).collect();
            let more = if cut.len() < text.len() { "…" } else { "" };
            format!("{who}: {cut}{more}")
        })
        .collect();
    let mut text = format!("Summary of {} earlier entries.", entries.len());
    let left_out = lines.len().saturating_sub(HEAD + TAIL);
    for (at, line) in lines.iter().enumerate() {
        if at == HEAD && left_out > 0 {
            text.push_str(&format!("\n… {left_out} messages left out …"));
        }
        if at < HEAD || at >= HEAD + left_out {
            text.push('\n');
            text.push_str(line);
        }
    }
    text
}
