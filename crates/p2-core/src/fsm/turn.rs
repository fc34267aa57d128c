//! A turn: from a user message to the answer. What happens next on a branch when nothing holds it up.

use serde_json::json;

use super::builder::Step;
use super::{delegation, lookup};
use crate::conversation::Conversation;
use crate::definition::{AgentKind, AtLimit, HumanAgent, LlmAgent, RuleAgent};
use crate::ids::{AgentId, BranchId, Id};
use crate::record::{EffectBody, NotifyWebhook, PublishReply};
use crate::state::{
    AgentStatus, AssistantMessage, Entry, Finished, MessageError, RequestKind, State, StopReason,
    UserInputRequest, UserMessage, WaitKind, Waiting,
};
use crate::step::{ASKS_MAX, Ask, EMPTY_REPLIES_MAX, REFLECTIONS_MAX};

const REFLECT_SELF: &str = "Look at your last answer once more. Is it complete, correct and clear? Answer with the \
                            improved text, or with the same text where nothing is to be improved.";

/// Whether the newest entry calls for something to happen.
fn is_pending(entries: &[&Entry]) -> bool {
    let newest = entries.iter().rev().find(|entry| !matches!(entry.state, State::Waiting(_)));
    match newest.map(|entry| &entry.state) {
        Some(
            State::UserMessage(_) | State::ToolResult(_) | State::AgentResult(_) | State::UserResponse(_),
        ) => true,
        // Replies with neither text nor call leave nothing but their closed wait.
        Some(_) | None => false,
    }
}

/// Whether the newest question came while an earlier one was being answered, and nobody was asked it yet.
fn is_unseen(entries: &[&Entry]) -> bool {
    let Some(question) = entries.iter().rposition(|entry| lookup::is_question(&entry.state)) else {
        return false;
    };
    let (before, after) = entries.split_at(question);
    let asked = |entry: &&Entry| matches!(&entry.state, State::Waiting(w) if matches!(w.kind, WaitKind::Llm | WaitKind::UserInput));
    let over = |entry: &&Entry| match &entry.state {
        State::Finished(_) => true,
        State::AssistantMessage(said) => said.error.is_some(),
        _ => false,
    };
    before.iter().any(asked) && !after.iter().any(|entry| asked(entry) || over(entry))
}

/// Goes on with the turn of a branch: asks the model, the person or the rules, unless the branch is parked or
/// held up by a wait, the conversation paused or the turn over.
pub(super) fn go_on(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId) {
    let entries = step.conv.visible(agent, branch);
    let rules = || matches!(lookup::agent(&step.conv, step.context, agent), Some(known) if matches!(known.kind, AgentKind::Rule(_)));
    // Rules answer at once, so that nothing stays unseen.
    if is_pending(&entries) || is_unseen(&entries) && !rules() {
        ask_for_more(step, agent, branch);
    }
}

/// As [`go_on`], also where the newest entry is the agent's: something was said while it was being made.
pub(super) fn ask_for_more(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId) {
    let held = !step.conv.waits_on(agent, branch).is_empty();
    if held || step.conv.paused || step.conv.is_parked(agent, branch) {
        return;
    }
    match lookup::agent(&step.conv, step.context, agent).map(|agent| agent.kind) {
        Some(AgentKind::Llm(_)) => match lookup::llm(&step.conv, step.context, agent) {
            Some(llm) => ask_model(step, agent, branch, &llm),
            None => {
                failed(step, agent, branch, "model", "unknown_agent", "This agent is not in the registry.")
            }
        },
        Some(AgentKind::Rule(rule)) => answer_by_rule(step, agent, branch, &rule),
        Some(AgentKind::Human(human)) => ask_person(step, agent, branch, &human),
        None => {
            let text =
                format!("Agent '{agent}' is not in the registry. Apply its definition and write again.");
            failed(step, agent, branch, "model", "unknown_agent", &text);
        }
    }
}

/// Takes a branch up again that was parked or paused: what is open is asked again, what is pending goes on.
/// A fork that has nothing of its own yet stays as it is: its next message decides.
pub(super) fn resume(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId) {
    let waits: Vec<_> = step.conv.waits_on(agent, branch).into_iter().cloned().collect();
    for wait in &waits {
        match wait.waiting.kind {
            WaitKind::Llm => ask_again(step, agent, branch, &wait.waiting),
            WaitKind::Agent => {
                if let Some((callee, on)) = delegation::callee(&step.conv, &wait.waiting.id) {
                    resume(step, &callee, &on);
                }
            }
            _ => {}
        }
    }
    if waits.is_empty() && step.conv.branch(agent, branch).is_some_and(|branch| !branch.entries.is_empty()) {
        go_on(step, agent, branch);
        deliver(step, agent, branch);
    }
}

/// Ends a callee's turn whose last words were recorded while its caller was parked.
fn deliver(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId) {
    let Some(call) = step.conv.open_call(agent, branch).cloned() else { return };
    if step.conv.is_parked(agent, branch) || !step.conv.waits_on(agent, branch).is_empty() {
        return;
    }
    let newest = step.conv.indexed(agent, branch).last().map(|entry| (entry.seq, entry.state.clone()));
    match newest {
        Some((seq, State::AssistantMessage(said))) if said.error.is_none() => {
            end(step, agent, branch, seq, &said.text);
        }
        Some((_, State::AssistantMessage(said))) => {
            finish(step, agent, branch, StopReason::Error);
            delegation::answer(step, &call.id, AgentStatus::Error, said.text);
        }
        _ => {}
    }
}

/// As [`resume`], without its callees: for a caller that walks over all branches itself.
pub(super) fn resume_here(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId) {
    let waits: Vec<_> = step.conv.waits_on(agent, branch).into_iter().cloned().collect();
    for wait in waits.iter().filter(|wait| wait.waiting.kind == WaitKind::Llm) {
        ask_again(step, agent, branch, &wait.waiting);
    }
    if waits.is_empty() && step.conv.branch(agent, branch).is_some_and(|branch| !branch.entries.is_empty()) {
        go_on(step, agent, branch);
    }
}

/// Whether a turn is under way on a branch.
pub(super) fn is_open(conv: &Conversation, agent: &AgentId, branch: &BranchId) -> bool {
    conv.branch(agent, branch).is_some_and(|branch| !branch.entries.is_empty())
        && is_pending(&conv.visible(agent, branch))
}

fn ask_again(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, waiting: &Waiting) {
    if step.conv.paused || step.conv.is_parked(agent, branch) {
        return;
    }
    let Some(llm) = lookup::llm(&step.conv, step.context, agent) else { return };
    wait_for_model(step, agent, branch, &llm, waiting.id);
}

fn ask_model(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, llm: &LlmAgent) {
    let entries = step.conv.visible(agent, branch);
    let turn = lookup::since_question(&entries);
    let waits = |entries: &[&Entry]| {
        let mut ids: Vec<Id> = entries
            .iter()
            .filter_map(|entry| match &entry.state {
                State::Waiting(waiting) if waiting.kind == WaitKind::Llm => Some(waiting.id),
                _ => None,
            })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids.len()
    };
    let asked = waits(turn);
    let last =
        entries.iter().rposition(|entry| !matches!(entry.state, State::Waiting(_))).map_or(0, |at| at + 1);
    let empty = waits(entries.get(last..).unwrap_or_default());
    if empty >= EMPTY_REPLIES_MAX {
        return rounds(step, agent, branch, "no_content", "The model gave no answer, three times in a row.");
    }
    if asked >= ASKS_MAX {
        let text = format!("Stopped after {ASKS_MAX} model calls for one message without an answer.");
        return rounds(step, agent, branch, "asks", &text);
    }
    let most = step.context.settings.stack_entries_max;
    if entries_since_summary(&entries) >= most && !make_room(step, agent, branch, llm.at_limit) {
        let text =
            format!("This branch holds {most} entries, its limit: rewind it, or set at_limit to compact.");
        return failed(step, agent, branch, "limit", "entries", &text);
    }
    reflect_on_tools(step, agent, branch);
    let wait = step.id("wait");
    wait_for_model(step, agent, branch, llm, wait);
}

fn wait_for_model(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, llm: &LlmAgent, wait: Id) {
    let entries = step.conv.visible(agent, branch);
    let request = match lookup::render(&step.conv, step.context, agent, &entries) {
        Ok(request) => request,
        Err(why) => {
            step.close(&wait);
            return failed(
                step,
                agent,
                branch,
                "model",
                "render",
                &format!("The prompt could not be made: {why}"),
            );
        }
    };
    let deadline_ms = step.now.saturating_add(llm.model_timeout_ms);
    let waiting = Waiting {
        id: wait,
        kind: WaitKind::Llm,
        deadline_ms: Some(deadline_ms),
        correlation: prompt_ref(&request),
    };
    step.append(agent, branch, State::Waiting(waiting));
    step.ask(Ask { wait, agent: agent.clone(), branch: branch.clone(), deadline_ms, request });
}

fn prompt_ref(request: &crate::model::ModelRequest) -> String {
    use sha2::{Digest, Sha256};
    // Through `Value`, whose keys are sorted. A request always serialises; should it not, its ref is of nothing.
    let text = serde_json::to_value(request).unwrap_or_default().to_string();
    hex::encode(Sha256::digest(text.as_bytes()))
}

fn reflect_on_tools(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId) {
    let entries = step.conv.visible(agent, branch);
    if lookup::reflections(&entries) >= REFLECTIONS_MAX {
        return;
    }
    let since = entries
        .iter()
        .rposition(|entry| matches!(entry.state, State::AssistantMessage(_) | State::UserMessage(_)))
        .map_or(0, |at| at + 1);
    let names: Vec<String> = entries
        .get(since..)
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| match &entry.state {
            State::ToolResult(result) => Some(result.tool.clone()),
            _ => None,
        })
        .filter(|name| lookup::tool(&step.conv, step.context, name).is_some_and(|(_, tool)| tool.reflect))
        .collect();
    let Some(name) = names.first() else { return };
    let text = format!("Before you go on, check the result of '{name}': does it answer what was asked?");
    reflection(step, agent, branch, text);
}

/// Appends a prompt that no person wrote.
pub(super) fn reflection(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, text: String) {
    let message = UserMessage { text, origin: Some("reflection".into()) };
    step.append(agent, branch, State::UserMessage(message));
}

fn answer_by_rule(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, rule: &RuleAgent) {
    let question = step.conv.visible(agent, branch).into_iter().rev().find_map(|entry| match &entry.state {
        State::UserMessage(message) => Some(message.text.trim().to_lowercase()),
        _ => None,
    });
    let answer = question.as_deref().and_then(|question| rule.rules.get(question)).cloned();
    let text = answer.unwrap_or_else(|| "I have no rule for that.".to_owned());
    let seq = say(step, agent, branch, text.clone());
    end(step, agent, branch, seq, &text);
}

fn ask_person(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, human: &HumanAgent) {
    let text = step.conv.visible(agent, branch).into_iter().rev().find_map(|entry| match &entry.state {
        State::UserMessage(message) => Some(message.text.clone()),
        _ => None,
    });
    let url = human.callback_url.clone();
    request(step, agent, branch, RequestKind::Reply, String::new(), text.unwrap_or_default(), url);
}

/// Asks a person. The wait has the request's id.
pub(super) fn request(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    kind: RequestKind,
    call_id: String,
    text: String,
    webhook: Option<String>,
) {
    let id = step.id("request");
    let state = UserInputRequest { id, text: text.clone(), kind, call_id };
    step.append(agent, branch, State::UserInputRequest(state));
    let waiting = Waiting { id, kind: WaitKind::UserInput, deadline_ms: None, correlation: id.to_string() };
    step.append(agent, branch, State::Waiting(waiting));
    if let Some(url) = webhook {
        step.effect(agent, branch, None, EffectBody::NotifyWebhook(NotifyWebhook { url, request: id, text }));
    }
}

/// Appends what the agent says.
pub(super) fn say(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, text: String) -> i64 {
    step.append(
        agent,
        branch,
        State::AssistantMessage(AssistantMessage { text, ..AssistantMessage::default() }),
    )
}

/// A model's final text: reflected on where the agent is so defined, otherwise the end of the turn.
pub(super) fn answered(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, seq: i64, text: &str) {
    let llm = lookup::llm(&step.conv, step.context, agent);
    let entries = step.conv.visible(agent, branch);
    let turn = lookup::since_question(&entries);
    let room = lookup::reflections(&entries) < REFLECTIONS_MAX;
    let earlier = turn.iter().any(|entry| {
        entry.seq < seq && matches!(&entry.state, State::AssistantMessage(said) if said.text == text)
    });
    let critic_asked =
        turn.iter().any(|entry| matches!(&entry.state, State::AgentCall(c) if c.call_id.is_empty()));
    if let Some(llm) = llm.filter(|_| room && !step.conv.paused) {
        if llm.self_reflection && !earlier {
            reflection(step, agent, branch, REFLECT_SELF.to_owned());
            return go_on(step, agent, branch);
        }
        if let Some(critic) = llm.reflection_agent.filter(|_| !critic_asked) {
            let message = format!("Critique the following response: {text}");
            match delegation::call(step, agent, branch, "", &critic, message) {
                Ok(()) => return,
                Err(why) => step.event(agent, branch, "reflection_skipped", json!({"message": why})),
            }
        }
    }
    end(step, agent, branch, seq, text);
}

/// The turn ends with an answer.
pub(super) fn end(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, seq: i64, text: &str) {
    let call = step.conv.open_call(agent, branch).cloned();
    if call.is_some() {
        finish(step, agent, branch, StopReason::Done);
    } else {
        publish(step, agent, branch, seq, text);
    }
    step.event(agent, branch, "agent_finished", json!({"stop_reason": "done", "entry": seq}));
    if let Some(call) = call {
        delegation::answer(step, &call.id, AgentStatus::Success, text.to_owned());
    }
}

fn publish(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, seq: i64, text: &str) {
    let body = PublishReply { entry: seq, text: text.to_owned() };
    step.effect(agent, branch, None, EffectBody::PublishReply(body));
}

/// Ends a run for good, once.
pub(super) fn finish(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, stop_reason: StopReason) {
    let finished =
        matches!(step.conv.indexed(agent, branch).last().map(|entry| &entry.state), Some(State::Finished(_)));
    if !finished {
        step.append(agent, branch, State::Finished(Finished { stop_reason }));
    }
}

/// The turn ends with a failure that people see; the conversation goes on with the next message.
pub(super) fn failed(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    class: &str,
    code: &str,
    text: &str,
) {
    ended(step, agent, branch, class, code, text, None);
}

fn rounds(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, code: &str, text: &str) {
    ended(step, agent, branch, "rounds", code, text, Some(StopReason::Rounds));
}

fn ended(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    class: &str,
    code: &str,
    text: &str,
    stop: Option<StopReason>,
) {
    let seq = say_error(step, agent, branch, class, code, text);
    if step.conv.is_parked(agent, branch) {
        return;
    }
    let call = step.conv.open_call(agent, branch).cloned();
    let stop = stop.or(call.as_ref().map(|_| StopReason::Error));
    if let Some(stop) = stop {
        finish(step, agent, branch, stop);
    }
    if call.is_none() {
        publish(step, agent, branch, seq, text);
    }
    let reason = stop.map_or("error", StopReason::as_str);
    step.event(agent, branch, "agent_finished", json!({"stop_reason": reason, "entry": seq}));
    if let Some(call) = call {
        delegation::answer(step, &call.id, AgentStatus::Error, text.to_owned());
    }
}

/// Appends a failure that people see.
pub(super) fn say_error(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    class: &str,
    code: &str,
    text: &str,
) -> i64 {
    let error = MessageError { class: class.to_owned(), code: code.to_owned() };
    let message =
        AssistantMessage { text: text.to_owned(), error: Some(error), ..AssistantMessage::default() };
    step.append(agent, branch, State::AssistantMessage(message))
}

/// How many entries have gathered since the newest summary.
pub(super) fn entries_since_summary(entries: &[&Entry]) -> i64 {
    let summed = newest_summary(entries);
    i64::try_from(entries.iter().filter(|entry| entry.seq > summed).count()).unwrap_or(i64::MAX)
}

fn newest_summary(entries: &[&Entry]) -> i64 {
    let summary = entries.iter().rev().find_map(|entry| match &entry.state {
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
    let pending = is_pending(&entries);
    let question = entries.iter().rposition(|entry| lookup::is_question(&entry.state));
    let upto = if pending { question.unwrap_or(0) } else { entries.len() };
    let summed = entries.get(..upto).unwrap_or_default();
    let Some(last) = summed.last().map(|entry| entry.seq).filter(|seq| *seq > newest_summary(&entries))
    else {
        return false;
    };
    let text = digest(summed);
    let message = AssistantMessage { text, summary_of: Some(last), ..AssistantMessage::default() };
    step.append(agent, branch, State::AssistantMessage(message));
    if pending {
        // The question stays the newest thing said: a summary must not look like its answer.
        let again =
            step.conv.visible(agent, branch).into_iter().rev().find(|e| lookup::is_question(&e.state));
        if let Some(State::UserMessage(question)) = again.map(|entry| entry.state.clone()) {
            reflection(step, agent, branch, question.text);
        }
    }
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
