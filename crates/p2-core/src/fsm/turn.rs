//! A turn: from a user message to the answer. What happens next on a branch when nothing holds it up.

use serde_json::json;

use super::budget::Cost;
use super::builder::Step;
use super::{budget, delegation, lookup, summary};
use crate::conversation::Conversation;
use crate::definition::{AgentKind, HumanAgent, LlmAgent, RuleAgent};
use crate::ids::{AgentId, BranchId, Id};
use crate::record::{EffectBody, NotifyWebhook, PublishReply};
use crate::state::{
    AgentStatus, AssistantMessage, Entry, Finished, Held, MessageError, RequestKind, State, StopReason,
    UserInputRequest, UserMessage, WaitKind, Waiting,
};
use crate::step::{ASKS_MAX, Ask, EMPTY_REPLIES_MAX, REFLECTIONS_MAX};

const REFLECT_SELF: &str = "Look at your last answer once more. Is it complete, correct and clear? Answer with the \
                            improved text, or with the same text where nothing is to be improved.";

/// Whether an entry says nothing of its own: a wait, or a summary of what was said before.
fn is_silent(entry: &Entry) -> bool {
    match &entry.state {
        State::Waiting(_) => true,
        State::AssistantMessage(message) => message.summary_of.is_some(),
        _ => false,
    }
}

/// Whether the newest entry calls for something to happen.
pub(super) fn is_pending(conv: &Conversation, agent: &AgentId, branch: &BranchId) -> bool {
    match conv.newest(agent, branch).find(|entry| !is_silent(entry)).map(|entry| &entry.state) {
        Some(
            State::UserMessage(_) | State::ToolResult(_) | State::AgentResult(_) | State::UserResponse(_),
        ) => true,
        Some(State::AssistantMessage(_)) => is_behind(conv, agent, branch),
        // Replies with neither text nor call leave nothing but their closed wait.
        Some(_) | None => false,
    }
}

/// Whether the agent's newest message, an answer or a failure, was under way when somebody wrote: then it
/// answers what was said before, and what was said meanwhile is still to be answered.
fn is_behind(conv: &Conversation, agent: &AgentId, branch: &BranchId) -> bool {
    let mut said = conv.newest(agent, branch).filter(|entry| !is_silent(entry) || is_asking(&entry.state));
    // One message closes the question that was under way; a second one was about what came meanwhile.
    if !matches!(said.next().map(|entry| &entry.state), Some(State::AssistantMessage(_))) {
        return false;
    }
    let mut meanwhile = false;
    for entry in said {
        match &entry.state {
            state if is_asking(state) => return meanwhile,
            State::AssistantMessage(_) => return false,
            state => meanwhile |= lookup::is_question(state),
        }
    }
    false
}

/// Whether this entry asks for the agent's words: of a model, of the ledger for a model, or of the person who is the
/// agent.
fn is_asking(state: &State) -> bool {
    match state {
        State::Waiting(waiting) => {
            let pays = waiting.kind == WaitKind::Payment && waiting.correlation.is_empty();
            waiting.kind == WaitKind::Llm || pays
        }
        State::UserInputRequest(request) => request.kind == RequestKind::Reply,
        _ => false,
    }
}

/// Goes on with the turn of a branch: asks the model, the person or the rules, unless the branch is parked or
/// held up by a wait, the conversation paused or the turn over.
pub(super) fn go_on(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId) {
    if !is_pending(&step.conv, agent, branch) {
        return;
    }
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
    let newest = step.conv.newest(agent, branch).find(|entry| !is_silent(entry));
    let newest = newest.map(|entry| (entry.seq, entry.state.clone()));
    match newest {
        Some((seq, State::AssistantMessage(said))) if said.error.is_none() => {
            end(step, agent, branch, seq, &said.text);
        }
        Some((_, State::AssistantMessage(said))) => {
            let stop = if is_budget(&said) { StopReason::Budget } else { StopReason::Error };
            finish(step, agent, branch, stop);
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
        && is_pending(conv, agent, branch)
}

/// Asks a model again, unless the branch is parked or the conversation paused.
pub(super) fn ask_again(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, waiting: &Waiting) {
    if step.conv.paused || step.conv.is_parked(agent, branch) {
        return;
    }
    let Some(llm) = lookup::llm(&step.conv, step.context, agent) else { return };
    if llm.budget.is_none() && waiting.budget.is_none() {
        return wait_for_model(step, agent, branch, &llm, waiting.id, None);
    }
    // Another attempt has a reservation of its own, and a wait with it.
    let holders = step.conv.waits.get(&waiting.id).map(|open| step.conv.holders(open)).unwrap_or_default();
    step.close(&waiting.id);
    if !budget::model_call(step, agent, branch, &llm, true) {
        go_on(step, agent, branch);
    }
    holders.iter().filter(|other| *other != branch).for_each(|other| go_on(step, agent, other));
}

/// Calls the model under a wait of that id, with what is set aside for it.
pub(super) fn call_model(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    wait: Id,
    held: Option<Held>,
) {
    if let Some(llm) = lookup::llm(&step.conv, step.context, agent) {
        wait_for_model(step, agent, branch, &llm, wait, held);
    }
}

fn ask_model(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, llm: &LlmAgent) {
    let turn = lookup::turn(&step.conv, agent, branch);
    let ids = |entries: &[&Entry], wanted: &dyn Fn(&Waiting) -> bool| -> Vec<Id> {
        let waits = entries.iter().filter_map(|entry| match &entry.state {
            State::Waiting(waiting) if waiting.kind == WaitKind::Llm && wanted(waiting) => Some(waiting.id),
            _ => None,
        });
        waits.collect()
    };
    // A pause writes such a wait once more, without what was set aside for it.
    let again = ids(&turn, &is_again);
    let waits = |entries: &[&Entry]| {
        let mut ids = ids(entries, &|waiting| !again.contains(&waiting.id));
        ids.sort_unstable();
        ids.dedup();
        ids.len()
    };
    if let Some(text) = budget::unpaid(&turn) {
        return out_of_budget(step, agent, branch, &text);
    }
    let asked = waits(&turn);
    let last = turn.iter().rposition(|entry| !is_silent(entry)).map_or(0, |at| at + 1);
    let empty = waits(turn.get(last..).unwrap_or_default());
    if empty >= EMPTY_REPLIES_MAX {
        return rounds(step, agent, branch, "no_content", "The model gave no answer, three times in a row.");
    }
    if asked >= ASKS_MAX {
        let text = format!("Stopped after {ASKS_MAX} model calls for one message without an answer.");
        return rounds(step, agent, branch, "asks", &text);
    }
    if summary::is_full(step, agent, branch) && !summary::make_room(step, agent, branch, llm.at_limit) {
        let most = step.context.settings.stack_entries_max;
        let text =
            format!("This branch holds {most} entries, its limit: rewind it, or set at_limit to compact.");
        return failed(step, agent, branch, "limit", "entries", &text);
    }
    reflect_on_tools(step, agent, branch);
    if !budget::model_call(step, agent, branch, llm, false) {
        let wait = step.id("wait");
        wait_for_model(step, agent, branch, llm, wait, None);
    }
}

/// Whether a wait is on a call that was begun before and counted then.
fn is_again(waiting: &Waiting) -> bool {
    waiting.budget.as_ref().is_some_and(|held| held.again)
}

fn wait_for_model(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    llm: &LlmAgent,
    wait: Id,
    budget: Option<Held>,
) {
    let entries = step.conv.visible(agent, branch);
    let rendered = lookup::render(&step.conv, step.context, agent, &entries);
    let deadline_ms = step.now.saturating_add(llm.model_timeout_ms);
    let request = match rendered {
        Ok(request) => request,
        Err(why) => {
            if budget.is_some() {
                // A wait that nobody waits on, so that what is set aside is ended where all of it is.
                let waiting = Waiting {
                    id: wait,
                    kind: WaitKind::Llm,
                    deadline_ms: None,
                    correlation: String::new(),
                    budget,
                };
                step.append(agent, branch, State::Waiting(waiting));
            }
            step.close_costing(&wait, Cost::Nothing);
            let text = format!("The prompt could not be made: {why}");
            return failed(step, agent, branch, "model", "render", &text);
        }
    };
    let waiting = Waiting {
        id: wait,
        kind: WaitKind::Llm,
        deadline_ms: Some(deadline_ms),
        correlation: prompt_ref(&request),
        budget,
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
    let turn = lookup::turn(&step.conv, agent, branch);
    if lookup::reflections(&turn) >= REFLECTIONS_MAX {
        return;
    }
    // Since the newest reply with calls, if nobody said anything since.
    let newest = turn.iter().rev().find_map(|entry| match &entry.state {
        State::ToolCall(call) => Some(call.reply),
        _ => None,
    });
    let since = turn
        .iter()
        .rposition(|entry| {
            !is_silent(entry) && matches!(entry.state, State::AssistantMessage(_) | State::UserMessage(_))
        })
        .map_or(0, |at| at + 1)
        .max(turn.iter().position(|entry| is_of(entry, newest)).unwrap_or(0));
    let names: Vec<String> = turn
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

fn is_of(entry: &Entry, reply: Option<Id>) -> bool {
    matches!(&entry.state, State::ToolCall(call) if Some(call.reply) == reply)
}

/// Appends a prompt that no person wrote.
pub(super) fn reflection(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, text: String) {
    let message = UserMessage { text, origin: Some("reflection".into()) };
    step.append(agent, branch, State::UserMessage(message));
}

fn answer_by_rule(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, rule: &RuleAgent) {
    let question = step.conv.newest(agent, branch).find_map(|entry| match &entry.state {
        State::UserMessage(message) => Some(message.text.trim().to_lowercase()),
        _ => None,
    });
    let answer = question.as_deref().and_then(|question| rule.rules.get(question)).cloned();
    let text = answer.unwrap_or_else(|| "I have no rule for that.".to_owned());
    let seq = say(step, agent, branch, text.clone());
    end(step, agent, branch, seq, &text);
}

fn ask_person(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, human: &HumanAgent) {
    let mut said: Vec<&str> = step
        .conv
        .newest(agent, branch)
        .take_while(|entry| !matches!(entry.state, State::UserInputRequest(_)))
        .filter_map(|entry| match &entry.state {
            State::UserMessage(message) => Some(message.text.as_str()),
            _ => None,
        })
        .collect();
    said.reverse();
    let (text, url) = (said.join("\n"), human.callback_url.clone());
    request(step, agent, branch, RequestKind::Reply, String::new(), text, url);
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
    let waiting = Waiting {
        id,
        kind: WaitKind::UserInput,
        deadline_ms: None,
        correlation: id.to_string(),
        budget: None,
    };
    step.append(agent, branch, State::Waiting(waiting));
    if let Some(url) = webhook {
        let notify = NotifyWebhook { url, request: id, text, kind: Some(kind) };
        step.effect(agent, branch, None, EffectBody::NotifyWebhook(notify));
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

/// What an agent answered. Where somebody wrote meanwhile the turn goes on with that; a caller gets the last
/// answer only.
pub(super) fn answered(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, seq: i64, text: &str) {
    if step.conv.is_parked(agent, branch) {
        return;
    }
    if !is_behind(&step.conv, agent, branch) {
        return reflected(step, agent, branch, seq, text);
    }
    if step.conv.open_call(agent, branch).is_none() {
        publish(step, agent, branch, seq, text);
    }
    go_on(step, agent, branch);
}

/// A final text: reflected on where the agent is so defined, otherwise the end of the turn.
fn reflected(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, seq: i64, text: &str) {
    let llm = lookup::llm(&step.conv, step.context, agent);
    let turn = lookup::turn(&step.conv, agent, branch);
    let room = lookup::reflections(&turn) < REFLECTIONS_MAX;
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
    let newest = step.conv.newest_said(agent, branch).map(|entry| &entry.state);
    let finished = matches!(newest, Some(State::Finished(_)));
    if !finished {
        step.append(agent, branch, State::Finished(Finished { stop_reason }));
    }
}

/// The turn ends with a failure that people see; the conversation goes on with the next message, at once where
/// somebody wrote meanwhile.
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

/// The run ends because nobody pays for the next call.
pub(super) fn out_of_budget(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, text: &str) {
    ended(step, agent, branch, "budget", "refused", text, Some(StopReason::Budget));
}

fn is_budget(said: &AssistantMessage) -> bool {
    said.error.as_ref().is_some_and(|error| error.class == "budget" && error.code == "refused")
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
    if stop.is_none() && is_behind(&step.conv, agent, branch) {
        if call.is_none() {
            publish(step, agent, branch, seq, text);
        }
        return go_on(step, agent, branch);
    }
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
