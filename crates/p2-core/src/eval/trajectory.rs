//! What an agent did, as a judge sees it: a chat up to the judged entry, and numbers about it.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Place;
use crate::conversation::Conversation;
use crate::ids::{BranchId, Id};
use crate::state::{AnswerKind, Entry, State};

/// Longest text of one line of the transcript, characters; what is over is cut out of its middle.
const LINE_CHARS_MAX: usize = 20_000;
/// Longest transcript, bytes; of a longer one the oldest lines are left out.
const BYTES_MAX: usize = 160_000;

/// One line of a transcript.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// `user`, `assistant`, `tool_call`, `tool_result`, `agent_call`, `agent_result`, `question`, `answer`, `end`.
    pub role: &'static str,
    /// The tool, the other agent, or the one who answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What was said, asked for or returned.
    pub content: String,
}

/// What a tool returned as a reward.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolOutcome {
    /// The tool.
    pub tool: String,
    /// `success`, `error`, ….
    pub status: &'static str,
    /// 1.0, 0.0 or absent.
    pub reward: Option<f64>,
}

/// What is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// Where it is.
    pub place: Place,
    /// When the judged entry was made, milliseconds since the epoch.
    pub time_ms: i64,
    /// When the newest message before it was, milliseconds since the epoch.
    pub asked_ms: i64,
    /// The newest message to the agent; empty where there is none.
    pub question: String,
    /// What is judged as the answer: the text of the judged entry, or the newest text of the agent before it.
    pub answer: String,
    /// Where the answer stands for a failure: its class.
    pub failure: Option<String>,
    /// Replies of the agent up to here, over the whole lineage.
    pub replies: i64,
    /// Whether the agent was called by another one here.
    pub is_child: bool,
    /// Everything, oldest first.
    pub lines: Vec<Line>,
    /// How many older lines were left out.
    pub left_out: usize,
    /// Tools that were called since the question, in order.
    pub tools: Vec<ToolOutcome>,
    /// The id of the judged entry.
    pub entry_id: Id,
}

impl Trajectory {
    /// The trajectory that ends at a place, as a branch shows it that has the entry; none where it does not (not yet,
    /// or hidden by a rewind). A fork keeps what its parent hides after it, so the owner of an entry is not always
    /// the one to be asked.
    pub fn of(conversation: &Conversation, place: &Place, branch: &BranchId) -> Option<Trajectory> {
        let mut entries = conversation.visible(&place.agent, branch);
        entries.retain(|entry| entry.seq <= place.entry);
        let judged = *entries.last().filter(|entry| entry.seq == place.entry)?;
        let asked = entries.iter().rposition(|entry| matches!(entry.state, State::UserMessage(_)));
        let since = entries.get(asked.unwrap_or(0)..).unwrap_or_default();
        let question = asked.and_then(|at| entries.get(at)).map(|entry| match &entry.state {
            State::UserMessage(message) => message.text.clone(),
            _ => String::new(),
        });
        let (answer, failure) = answer(judged, since);
        let mut lines: Vec<Line> = entries.iter().filter_map(|entry| line(entry)).collect();
        let left_out = shorten(&mut lines);
        let replies = entries.iter().filter(|entry| is_reply(entry)).count();
        let owner = conversation.branch(&place.agent, &place.branch);
        Some(Trajectory {
            place: place.clone(),
            time_ms: judged.time_ms,
            asked_ms: since.first().map_or(judged.time_ms, |entry| entry.time_ms),
            question: question.unwrap_or_default(),
            answer,
            failure,
            replies: i64::try_from(replies).unwrap_or(i64::MAX),
            is_child: place.agent != conversation.root || owner.is_some_and(|branch| branch.call.is_some()),
            lines,
            left_out,
            tools: since.iter().filter_map(|entry| tool(entry)).collect(),
            entry_id: judged.id,
        })
    }

    /// From the question to the judged entry, milliseconds.
    pub fn latency_ms(&self) -> i64 {
        self.time_ms.saturating_sub(self.asked_ms).max(0)
    }

    /// The lines as JSON, one on each line of text: nothing in a message can end its line or begin another one.
    pub fn transcript(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            // These types have nothing that could fail to serialise.
            text += &serde_json::to_string(line).unwrap_or_default();
            text.push('\n');
        }
        text
    }

    /// SHA-256 hex of everything that a judge may look at, times and names left out: the same dialogue has the same
    /// content wherever it took place. Rules about time or money are not a matter of content.
    pub fn content(&self) -> String {
        let tools: Vec<_> = self.tools.iter().map(|tool| (&tool.tool, tool.status, tool.reward)).collect();
        let seen = serde_json::json!([
            self.lines,
            self.left_out,
            self.question,
            self.answer,
            self.failure,
            tools,
            self.place.agent,
            self.is_child
        ]);
        hex::encode(Sha256::digest(seen.to_string()))
    }

    /// Each tool called since the question: (how often, mean of its rewards where it had any).
    pub fn tool_rewards(&self) -> BTreeMap<&str, (usize, Option<f64>)> {
        let mut found: BTreeMap<&str, Vec<Option<f64>>> = BTreeMap::new();
        for outcome in &self.tools {
            found.entry(&outcome.tool).or_default().push(outcome.reward);
        }
        let mean = |rewards: Vec<Option<f64>>| {
            let known: Vec<f64> = rewards.iter().copied().flatten().collect();
            (rewards.len(), super::combine::mean(&known))
        };
        found.into_iter().map(|(tool, rewards)| (tool, mean(rewards))).collect()
    }
}

/// Whether an entry is a reply of the agent's model that people or callers see.
pub fn is_reply(entry: &Entry) -> bool {
    matches!(&entry.state, State::AssistantMessage(message) if message.summary_of.is_none())
}

fn answer(judged: &Entry, since: &[&Entry]) -> (String, Option<String>) {
    match &judged.state {
        State::UserMessage(message) => return (message.text.clone(), None),
        State::ToolResult(result) => return (result.result.text(), None),
        State::AgentResult(result) => return (result.text.clone(), None),
        State::UserResponse(response) => return (response.answer.text.clone(), None),
        _ => {}
    }
    let newest = since.iter().rev().find_map(|entry| match &entry.state {
        State::AssistantMessage(message) if message.summary_of.is_none() => Some(message),
        _ => None,
    });
    newest.map_or_else(Default::default, |message| {
        (message.text.clone(), message.error.as_ref().map(|error| error.class.clone()))
    })
}

fn tool(entry: &Entry) -> Option<ToolOutcome> {
    let State::ToolResult(result) = &entry.state else { return None };
    Some(ToolOutcome { tool: result.tool.clone(), status: result.status.as_str(), reward: result.reward })
}

fn line(entry: &Entry) -> Option<Line> {
    let of = |role, name: Option<&str>, content: &str| {
        Some(Line { role, name: name.map(str::to_owned), content: cut(content) })
    };
    match &entry.state {
        State::UserMessage(message) => of("user", message.origin.as_deref(), &message.text),
        State::AssistantMessage(message) if message.summary_of.is_some() => {
            of("summary", None, &message.text)
        }
        State::AssistantMessage(message) => {
            of("assistant", message.error.as_ref().map(|_| "failure"), &message.text)
        }
        State::ToolCall(call) => of("tool_call", Some(&call.tool), &call.arguments.text()),
        State::ToolResult(result) => {
            let content = format!("{}: {}", result.status.as_str(), result.result.text());
            of("tool_result", Some(&result.tool), &content)
        }
        State::AgentCall(call) => of("agent_call", Some(call.agent.as_str()), &call.message),
        State::AgentResult(result) => {
            let content = format!("{}: {}", result.status.as_str(), result.text);
            of("agent_result", Some(result.agent.as_str()), &content)
        }
        State::UserInputRequest(request) => of("question", None, &request.text),
        State::UserResponse(response) => {
            let said = match response.answer.kind {
                AnswerKind::Approve => "approved",
                AnswerKind::Deny => "denied",
                AnswerKind::Edit => "edited",
                AnswerKind::Text => "",
            };
            let content = format!("{said} {}", response.answer.text);
            of("answer", Some(&response.by), content.trim())
        }
        State::Waiting(_) => None,
        State::Finished(finished) => of("end", None, finished.stop_reason.as_str()),
    }
}

/// The middle of a long text is left out: beginnings and ends say the most.
fn cut(text: &str) -> String {
    let chars = text.chars().count();
    if chars <= LINE_CHARS_MAX {
        return text.to_owned();
    }
    let half = LINE_CHARS_MAX / 2;
    let begin: String = text.chars().take(half).collect();
    let end: String = text.chars().skip(chars - half).collect();
    format!("{begin} […{} characters left out…] {end}", chars - 2 * half)
}

/// Leaves out the oldest lines of a long transcript, and says how many.
fn shorten(lines: &mut Vec<Line>) -> usize {
    let mut bytes = 0;
    let kept = lines.iter().rev().take_while(|line| {
        bytes += line.content.len() + 40;
        bytes <= BYTES_MAX
    });
    let left_out = lines.len() - kept.count().max(1).min(lines.len());
    lines.drain(..left_out);
    left_out
}
