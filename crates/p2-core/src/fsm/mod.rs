//! The finite-state machine: one file per kind of input, on top of [`builder::Step`].

mod branch_command;
mod budget;
mod builder;
mod control;
mod cost;
mod deadline;
mod delegation;
mod human_answer;
pub(crate) mod ledger_tools;
mod lookup;
mod model_reply;
mod overrides;
mod payment;
mod summary;
mod tool_calls;
mod tool_outcome;
mod turn;
mod user_text;

#[cfg(test)]
mod tests;

use crate::conversation::Conversation;
use crate::record::{InboxBody, Outcome, Verdict};
use crate::state::{State, WaitKind};
use crate::step::{Ask, Context, Decision, Input};

use builder::Step;

pub(crate) fn decide(
    conversation: &Conversation,
    input: &Input,
    context: Context<'_>,
    now_ms: i64,
) -> Decision {
    if let Some(first) = conversation.seen.get(&input.id()) {
        return builder::duplicate(conversation, input, first, now_ms);
    }
    let mut step = Step::new(conversation, input, context, now_ms);
    let outcome = match input {
        Input::ModelReply { wait, outcome } => model_reply::decide(&mut step, wait, outcome),
        Input::Deadline { wait } => match deadline::decide(&mut step, wait) {
            Some(outcome) => outcome,
            // Fired early: the deadline has moved meanwhile and the timer is still to come, so that this input
            // must not be remembered.
            None => return Decision::default(),
        },
        Input::Inbox { message, .. } => match &message.body {
            InboxBody::UserText(body) => user_text::decide(&mut step, &message.conversation, body),
            _ if !step.conv.is_open() => refused(
                "not_found",
                format!(
                    "conversation '{}' does not exist: it begins with its first user message",
                    message.conversation
                ),
            ),
            InboxBody::HumanAnswer(body) => human_answer::decide(&mut step, body),
            InboxBody::ToolOutcome(body) => tool_outcome::decide(&mut step, body),
            InboxBody::BranchCommand(body) => branch_command::decide(&mut step, body),
            InboxBody::OverrideCommand(body) => overrides::decide(&mut step, body),
            InboxBody::ControlCommand(body) => control::decide(&mut step, body),
            InboxBody::PaymentResult(body) => payment::decide(&mut step, body),
        },
    };
    step.finish(input, outcome)
}

pub(crate) fn open_asks(conversation: &Conversation, context: Context<'_>) -> Vec<Ask> {
    if conversation.paused {
        return Vec::new();
    }
    conversation
        .waits
        .values()
        .filter(|wait| wait.waiting.kind == WaitKind::Llm)
        .filter_map(|wait| {
            let holders = conversation.holders(wait);
            let branch = holders.iter().find(|branch| !conversation.is_parked(&wait.agent, branch))?;
            // What was said since is for the next call: this one is asked again as it was asked last.
            let entries = conversation.visible(&wait.agent, branch);
            let asked = entries
                .iter()
                .rposition(|entry| matches!(&entry.state, State::Waiting(w) if w.id == wait.waiting.id));
            let seen = entries.get(..asked?).unwrap_or_default();
            let request = lookup::render(conversation, context, &wait.agent, seen).ok()?;
            Some(Ask {
                wait: wait.waiting.id,
                agent: wait.agent.clone(),
                branch: branch.clone(),
                // What an earlier owner began is paid for; to begin it again takes a reservation of its own, which the
                // reply of a call that has no time left asks for.
                deadline_ms: match &wait.waiting.budget {
                    Some(_) => 0,
                    None => wait.waiting.deadline_ms.unwrap_or(i64::MAX),
                },
                request,
            })
        })
        .collect()
}

fn applied() -> Outcome {
    Outcome { verdict: Verdict::Applied, code: "ok".into(), message: String::new(), reference: None }
}

fn recorded(code: &str, message: String) -> Outcome {
    Outcome { verdict: Verdict::Recorded, code: code.into(), message, reference: None }
}

fn refused(code: &str, message: String) -> Outcome {
    Outcome { verdict: Verdict::Refused, code: code.into(), message, reference: None }
}
