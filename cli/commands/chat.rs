//! `chat …`: at a terminal and in a pipe.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};
use p2_core::conversation::{Conversation, OpenWait};
use p2_core::definition::AgentKind;
use p2_core::ids::{AgentId, ConversationId, Id};
use p2_core::record::{HumanAnswer, InboxBody, UserText};
use p2_core::state::{Answer, AnswerKind, Entry, RequestKind, State, UserInputRequest, WaitKind};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use super::conversation::open_requests;
use super::{Run, no_conversation, object};
use crate::args::Chat;
use crate::config::Config;
use crate::engine::{EngineError, EngineResult, draw_id};
use crate::output::Output;
use crate::views::lineage::lineage;
use crate::views::stack::content;
use crate::views::{clean, one_line, wrapped};

/// How long one look at the conversation waits for a change.
const LOOK: Duration = Duration::from_secs(20);

struct Session<'a> {
    run: &'a Run,
    name: ConversationId,
    agent: AgentId,
    lines: Lines<BufReader<Stdin>>,
    interactive: bool,
    printed: BTreeSet<Id>,
}

/// Runs `chat with` or `chat resume`.
pub(crate) async fn run(run: &Run, chat: Chat, config: &Config) -> EngineResult<()> {
    let (agent, name) = match chat {
        Chat::With { agent, name } => {
            let name = name.unwrap_or_else(|| format!("chat-{}", draw_id().short()));
            (Some(AgentId(agent)), ConversationId(name))
        }
        Chat::Resume { name } => (None, ConversationId(name)),
    };
    let known = run.engine.conversation(&name).await?;
    let agent = match (&known, agent) {
        (Some(conversation), Some(agent)) if agent != conversation.root => {
            return Err(EngineError::Refused {
                code: "conflict".to_owned(),
                message: format!(
                    "conversation '{name}' is with {}; choose another --name, or 'p2engine chat resume {name}'",
                    conversation.root
                ),
            });
        }
        (Some(conversation), _) => conversation.root.clone(),
        (None, Some(agent)) => agent,
        (None, None) => {
            return Err(no_conversation(name.as_str()));
        }
    };
    greet(run, config, &name, &agent, known.as_ref()).await?;
    let interactive = std::io::stdin().is_terminal();
    let mut printed: BTreeSet<Id> = known.iter().flat_map(all_entries).map(|(_, entry)| entry.id).collect();
    if let (true, Some(known)) = (interactive, &known) {
        // The last question and what followed are shown again, so that one knows where one was.
        for entry in last_turn(known, &agent) {
            if let State::UserMessage(said) = &entry.state {
                run.out.remark(&format!("You: {}", said.text));
            }
            printed.remove(&entry.id);
        }
    }
    let lines = BufReader::new(tokio::io::stdin()).lines();
    Session { run, name, agent, lines, interactive, printed }.talk().await
}

/// The first line: which agent and which model, and that no key is needed for a scripted one.
async fn greet(
    run: &Run,
    config: &Config,
    name: &ConversationId,
    agent: &AgentId,
    known: Option<&Conversation>,
) -> EngineResult<()> {
    let registry = run.engine.registry().await?;
    let pin = known.and_then(|conversation| conversation.pins.get(&format!("agent/{agent}")).copied());
    let kind = registry.agent(agent.as_str(), pin).map(|(_, agent)| &agent.kind);
    let on = match kind {
        Some(AgentKind::Llm(llm)) => {
            let overrides = known.and_then(|conversation| conversation.overrides.get(agent));
            let model = overrides.and_then(|(set, _)| set.model.as_ref()).unwrap_or(&llm.model);
            let no_key = model.starts_with("scripted/") && config.openai_api_key.is_none();
            let note = if no_key { " (offline: no OPENAI_API_KEY is configured)" } else { "" };
            format!("runs on {model}{note}")
        }
        Some(AgentKind::Rule(_)) => "has fixed answers".to_owned(),
        Some(AgentKind::Human(_)) => "is a person".to_owned(),
        None => "is not defined here".to_owned(),
    };
    let began = if known.is_some() { "resumed" } else { "new" };
    run.out.remark(&format!("{agent} {on}; conversation '{name}' ({began})"));
    let stack = known.and_then(|conversation| conversation.stacks.get(agent));
    if let Some(stack) = stack.filter(|stack| stack.current.as_str() != "main") {
        run.out.remark(&format!("Currently on branch {}", stack.current));
    }
    Ok(())
}

fn all_entries(conversation: &Conversation) -> Vec<(&AgentId, &Entry)> {
    let mut found: Vec<(&AgentId, &Entry)> = Vec::new();
    for (agent, stack) in &conversation.stacks {
        let entries = stack.branches.values().flat_map(|branch| &branch.entries);
        found.extend(entries.map(|entry| (agent, entry)));
    }
    // Of one moment, whoever asks comes before those who are asked.
    found.sort_by_key(|(agent, entry)| (entry.time_ms, **agent != conversation.root));
    found
}

/// What is awaited, for the one who waits.
fn awaited(conversation: &Conversation, agent: &AgentId) -> String {
    let mut calls: Vec<String> = Vec::new();
    for wait in conversation.waits.values() {
        let text = match wait.waiting.kind {
            WaitKind::Llm => format!("{} is thinking", wait.agent),
            WaitKind::Payment if wait.waiting.correlation.is_empty() => {
                format!("{} asks its budget", wait.agent)
            }
            WaitKind::Tool | WaitKind::Payment => {
                let branch = conversation.branch(&wait.agent, &wait.branch);
                let tool = branch.and_then(|branch| {
                    branch.entries.iter().rev().find_map(|entry| match &entry.state {
                        State::ToolCall(call) if call.call_id == wait.waiting.correlation => Some(&call.tool),
                        _ => None,
                    })
                });
                tool.map_or_else(
                    || format!("{} uses a tool", wait.agent),
                    |tool| format!("{} uses {tool}", wait.agent),
                )
            }
            // Whoever is asked shows what it does itself.
            WaitKind::Agent | WaitKind::UserInput => continue,
        };
        if !calls.contains(&text) {
            calls.push(text);
        }
    }
    if calls.is_empty() { format!("waiting for {agent}") } else { calls.join(", ") }
}

/// The newest question to an agent on its current branch, and what followed.
fn last_turn<'c>(conversation: &'c Conversation, agent: &AgentId) -> Vec<&'c Entry> {
    let Some(stack) = conversation.stacks.get(agent) else { return Vec::new() };
    let mut entries = lineage(conversation, agent, &stack.current);
    let question = entries.iter().rposition(|entry| matches!(entry.state, State::UserMessage(_)));
    entries.split_off(question.unwrap_or(entries.len()))
}

impl Session<'_> {
    async fn talk(mut self) -> EngineResult<()> {
        // A run that was interrupted, or a request still open, comes first.
        self.settle(false).await?;
        loop {
            let Some(text) = self.ask("You: ").await? else { return Ok(()) };
            match text.trim() {
                "" => continue,
                "exit" | "quit" if self.interactive => return Ok(()),
                _ => {}
            }
            let body = UserText { agent: Some(self.agent.clone()), branch: None, text };
            match self.run.submit(self.name.as_str(), InboxBody::UserText(body)).await {
                Ok(_) => self.settle(true).await?,
                // A person reads it and tries something else; a script must see it.
                Err(error @ EngineError::Refused { .. }) if self.interactive => {
                    self.run.out.remark(&error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next line of input; none at its end.
    async fn ask(&mut self, prompt: &str) -> EngineResult<Option<String>> {
        if self.interactive {
            let mut out = anstream::stderr();
            let _ = write!(out, "{prompt}").and_then(|()| out.flush());
        }
        let line = self.lines.next_line().await;
        if self.interactive && matches!(line, Ok(None)) {
            // Ctrl-D leaves the cursor behind the prompt.
            let _ = writeln!(anstream::stderr());
        }
        line.map_err(|error| EngineError::Invalid(format!("standard input: {error}")))
    }

    /// Shows what happens until nothing is awaited any more, answering requests on the way.
    async fn settle(&mut self, expected: bool) -> EngineResult<()> {
        let mut spinner = self.spinner();
        let mut conversation = self.run.engine.conversation(&self.name).await?;
        if conversation.is_none() && expected {
            conversation = self.run.engine.wait_change(&self.name, 0, LOOK).await?;
        }
        while let Some(now) = conversation {
            spinner.suspend(|| self.print_new(&now));
            let mut open = open_requests(&now).into_iter();
            if let Some(request) = open.next().cloned() {
                spinner.finish_and_clear();
                if !self.answer(&request).await? {
                    return Ok(());
                }
                spinner = self.spinner();
            } else if now.paused {
                let name = &self.name;
                let text = format!("'{name}' is paused; 'p2engine conversation resume {name}' goes on");
                spinner.suspend(|| self.run.out.remark(&text));
                break;
            } else if !self.is_waiting(&now) {
                if now.waits.values().any(|wait| self.is_own(&now, wait) && in_doubt(wait)) {
                    let text = "the outcome of a call is not known; the conversation goes on once somebody says what \
                                became of it: see 'p2engine effects in-doubt list'";
                    spinner.suspend(|| self.run.out.remark(text));
                }
                break;
            }
            spinner.set_message(one_line(&awaited(&now, &self.agent), usize::from(self.run.out.width)));
            // After an answer the conversation moved on: this returns at once.
            conversation = self.run.engine.wait_change(&self.name, now.next_seq, LOOK).await?;
        }
        spinner.finish_and_clear();
        Ok(())
    }

    fn spinner(&self) -> ProgressBar {
        if !(self.interactive && self.run.out.animate) {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{spinner} {msg}");
        let spinner = ProgressBar::new_spinner();
        spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    }

    /// Whether the run that we look at still awaits something that comes by itself.
    fn is_waiting(&self, conversation: &Conversation) -> bool {
        conversation.waits.values().any(|wait| self.is_own(conversation, wait) && !in_doubt(wait))
    }

    /// Whether a wait is that of the run that we look at; parked branches do not count.
    fn is_own(&self, conversation: &Conversation, wait: &OpenWait) -> bool {
        let stack = conversation.stacks.get(&self.agent);
        wait.agent == self.agent && stack.is_some_and(|stack| wait.branch == stack.current)
    }

    fn print_new(&mut self, conversation: &Conversation) {
        for (agent, entry) in all_entries(conversation) {
            if !self.printed.insert(entry.id) {
                continue;
            }
            if self.run.out.json {
                self.run.out.data(&json!({"agent": agent, "entry": entry}));
                continue;
            }
            let own = *agent == self.agent;
            match &entry.state {
                State::AssistantMessage(message) if own && !message.text.is_empty() => {
                    let green = if self.interactive {
                        Style::new().fg_color(Some(AnsiColor::Green.into()))
                    } else {
                        Style::new()
                    };
                    let who = if self.interactive { format!("{agent}: ") } else { String::new() };
                    let said = format!("{who}{}", message.text);
                    let said = spoken(said, self.interactive, self.run.out);
                    self.run.out.line(&format!("{green}{said}{green:#}"));
                }
                State::UserMessage(_) if own => {}
                State::Waiting(_) | State::Finished(_) | State::UserInputRequest(_) => {}
                state => {
                    let text = format!("{agent} {}: {}", state.kind(), content(state));
                    let room = usize::from(self.run.out.width).saturating_sub(2);
                    self.run.out.remark(&format!("  {}", one_line(&text, room)));
                }
            }
        }
    }

    /// Asks the person and submits the answer; false at the end of input.
    async fn answer(&mut self, request: &UserInputRequest) -> EngineResult<bool> {
        self.run.out.question(&request.text);
        let prompt = match request.kind {
            RequestKind::Approval => "approve / deny [reason] / edit {json}: ",
            RequestKind::Reply | RequestKind::Question => "Answer: ",
        };
        loop {
            let Some(line) = self.ask(prompt).await? else { return Ok(false) };
            let answer = match parse_answer(request.kind, &line) {
                Ok(answer) => answer,
                Err(error) if self.interactive => {
                    self.run.out.remark(&error.to_string());
                    continue;
                }
                Err(error) => return Err(error),
            };
            let body = HumanAnswer { request: request.id, answer, by: "chat".to_owned() };
            match self.run.submit(self.name.as_str(), InboxBody::HumanAnswer(body)).await {
                // Somebody else was faster: their answer counts, and the conversation goes on.
                Err(EngineError::Refused { code, message }) if code == "conflict" => {
                    self.run.out.remark(&message);
                    return Ok(true);
                }
                other => return other.map(|_| true),
            }
        }
    }
}

/// What an agent said, for who reads it: a person, or a program that wants it exactly.
fn spoken(said: String, interactive: bool, out: Output) -> String {
    match (interactive, out.terminal) {
        (true, _) => wrapped(&said, usize::from(out.width)),
        (false, true) => clean(&said),
        (false, false) => said,
    }
}

/// A call whose outcome nobody knows: its wait has lost its deadline.
fn in_doubt(wait: &OpenWait) -> bool {
    matches!(wait.waiting.kind, WaitKind::Tool | WaitKind::Payment) && wait.waiting.deadline_ms.is_none()
}

fn parse_answer(kind: RequestKind, line: &str) -> EngineResult<Answer> {
    let answer = |kind, text: &str| Answer { kind, text: text.to_owned(), arguments: None };
    let line = line.trim();
    if kind != RequestKind::Approval {
        return Ok(answer(AnswerKind::Text, line));
    }
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match word {
        "approve" | "a" | "y" | "yes" => Ok(answer(AnswerKind::Approve, "")),
        "deny" | "d" | "n" | "no" => Ok(answer(AnswerKind::Deny, rest.trim())),
        "edit" | "e" => {
            let arguments = Some(object("edit", rest)?.into());
            Ok(Answer { kind: AnswerKind::Edit, text: String::new(), arguments })
        }
        _ => Err(EngineError::Invalid(format!(
            "'{word}' is no answer to an approval: say approve, deny [reason] or edit {{json}}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_says_is_exact_for_programs_and_harmless_on_a_terminal() {
        let out = |terminal| Output { json: false, width: 80, terminal, animate: false, silent: false };
        let said = || "one\u{1b}[2J\ntwo\u{202e}".to_owned();
        assert_eq!(spoken(said(), false, out(false)), said());
        assert_eq!(spoken(said(), false, out(true)), "one[2J\ntwo");
        assert_eq!(spoken(said(), true, out(true)), "one[2J\ntwo");
    }
}
