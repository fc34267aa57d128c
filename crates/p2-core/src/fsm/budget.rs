//! What an agent's work costs: money is set aside before a call, and what the call has cost is paid after it.
//!
//! Before a call there is a Waiting(payment) whose request sets the estimate aside; the call's own wait carries that
//! reservation. Whoever closes the call's wait ends the reservation in the same step ([`super::builder::Step::close`]), so
//! that it is ended once, and each attempt has one of its own. Nobody waits for that.

use serde_json::json;

use super::builder::{Step, entry_artifact};
use super::tool_calls::{self, Call};
use super::{applied, cost, lookup, recorded, refused, turn};
use crate::conversation::OpenWait;
use crate::definition::{Budget, LlmAgent, Tool};
use crate::ids::{AccountId, AgentId, BranchId, Id};
use crate::ledger::{MAIN_BOOK, is_budget, parse_decimal};
use crate::model::ModelOutcome;
use crate::record::{
    CauseKind, Outcome, PaymentBody, PaymentCause, PaymentReplyTo, PaymentRequest, PaymentResult,
    PaymentStatus, Post, Reserve, Void,
};
use crate::state::{Entry, Held, State, ToolResult, ToolStatus, WaitKind, Waiting};

/// How long the ledger, or the person whom it asks, may take to set money aside.
pub(super) const WAIT_MS: i64 = 900_000;
/// How much longer than the call it is for a reservation lives: clocks differ, and settlement may have to catch up.
pub(super) const GRACE_MS: i64 = 600_000;
/// What the result of a tool call says that was not made because nobody pays for it.
const ERROR: &str = "budget";

/// What a call has cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// Nothing: it was not made, or refused before anything was done.
    Nothing,
    /// Nobody knows: what was set aside.
    Estimate,
    /// So many units, with so many decimals.
    Exactly(i64, i32),
}

/// What money is set aside for.
struct Purpose<'p> {
    /// A tool call's `call_id`; empty for a model call.
    correlation: &'p str,
    /// Decimal text.
    estimate: &'p str,
    /// How long the call may take; none: until somebody knows what became of it.
    call_ms: Option<i64>,
    again: bool,
    reason: String,
}

/// Asks the ledger for what the next model call of an agent may cost; false where nobody has to pay for it.
pub(super) fn model_call(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    llm: &LlmAgent,
    again: bool,
) -> bool {
    let Some(budget) = &llm.budget else { return false };
    let purpose = Purpose {
        correlation: "",
        estimate: &budget.model_call,
        call_ms: Some(llm.model_timeout_ms),
        again,
        reason: format!("a call of {}", llm.model),
    };
    reserve(step, agent, branch, budget, &purpose);
    true
}

/// As [`model_call`], for a tool call.
pub(super) fn tool_call(step: &mut Step<'_>, call: &Call<'_>, tool: &Tool) -> bool {
    let Some(llm) = lookup::llm(&step.conv, step.context, call.agent) else { return false };
    let (Some(budget), Some(price)) = (&llm.budget, &tool.price) else { return false };
    let repeatable = tool.idempotent || tool.side_effect_free;
    let purpose = Purpose {
        correlation: call.call_id,
        estimate: price,
        // One that may be in doubt for days keeps its money until somebody knows.
        call_ms: repeatable.then_some(tool.timeout_ms),
        again: false,
        reason: format!("a call of {}", tool.id),
    };
    reserve(step, call.agent, call.branch, budget, &purpose);
    true
}

fn reserve(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, budget: &Budget, purpose: &Purpose<'_>) {
    let wait = step.id("wait");
    let until = step.now.saturating_add(WAIT_MS);
    let account = budget.account.clone().unwrap_or_else(|| AccountId::from(agent.as_str()));
    let held = Held {
        reservation: Id::derive(&wait, "reservation", 0),
        book: step.conv.book.clone().unwrap_or_else(|| budget.book.clone()),
        account: account.clone(),
        again: purpose.again,
    };
    let waiting = Waiting {
        id: wait,
        kind: WaitKind::Payment,
        deadline_ms: Some(until),
        correlation: purpose.correlation.to_owned(),
        budget: Some(held.clone()),
    };
    step.append(agent, branch, State::Waiting(waiting));
    // What `apply` let through is an amount; anything else is refused by the ledger, as nothing.
    let (amount, scale) = parse_decimal(purpose.estimate).unwrap_or_default();
    let body = PaymentBody::Reserve(Reserve {
        from: account,
        to: budget.fees.clone(),
        amount,
        expires_ms: purpose.call_ms.map(|call_ms| until.saturating_add(call_ms).saturating_add(GRACE_MS)),
        scale: Some(scale),
    });
    let conversation = step.conversation().clone();
    let call_id = purpose.correlation.to_owned();
    let request = PaymentRequest {
        id: held.reservation,
        book: held.book,
        by: agent.to_string(),
        cause: cause(step, agent, branch, wait, purpose.reason.clone()),
        reply_to: Some(PaymentReplyTo { conversation, wait, call_id }),
        not_after_ms: Some(until),
        body,
    };
    step.payment(request);
}

/// The step that waits is what money is wanted for.
fn cause(step: &Step<'_>, agent: &AgentId, branch: &BranchId, wait: Id, reason: String) -> PaymentCause {
    let waits = |entry: &&Entry| matches!(&entry.state, State::Waiting(waiting) if waiting.id == wait);
    let reference = step.conv.newest(agent, branch).find(waits).map(|entry| entry_artifact(&entry.id));
    PaymentCause {
        kind: CauseKind::Budget,
        reference: Some(reference.unwrap_or(wait)),
        conversation: Some(step.conversation().clone()),
        agent: Some(agent.clone()),
        branch: Some(branch.clone()),
        reason,
    }
}

/// Ends the reservation of a wait that is closed.
pub(super) fn end(step: &mut Step<'_>, open: &OpenWait, cost: Cost) {
    let Some(held) = &open.waiting.budget else { return };
    let reservation = held.reservation;
    let (body, reason) = match cost {
        Cost::Nothing => (PaymentBody::Void(Void { reservation }), "nothing was spent"),
        Cost::Estimate => {
            // What a model call costs is seen afterwards; a tool has its price.
            let model = open.waiting.correlation.is_empty();
            let why = if model { "its cost is not known" } else { "its price" };
            (PaymentBody::Post(Post { reservation, amount: None, scale: None }), why)
        }
        Cost::Exactly(amount, scale) => {
            let post = Post { reservation, amount: Some(amount), scale: Some(scale) };
            (PaymentBody::Post(post), "what it has cost")
        }
    };
    let request = PaymentRequest {
        id: Id::derive(&reservation, "end", 0),
        book: held.book.clone(),
        by: open.agent.to_string(),
        cause: cause(step, &open.agent, &open.branch, open.waiting.id, reason.to_owned()),
        reply_to: None,
        not_after_ms: None,
        body,
    };
    step.payment(request);
}

/// What is done for a wait that somebody closed without knowing what its call has cost.
pub(super) fn unrecorded(open: &OpenWait) -> Cost {
    // Where money was still awaited no call was made; what may have been set aside meanwhile is given back.
    if open.waiting.kind == WaitKind::Payment { Cost::Nothing } else { Cost::Estimate }
}

/// What a model call has cost.
pub(super) fn of_model(step: &Step<'_>, agent: &AgentId, model: &str, outcome: &ModelOutcome) -> Cost {
    let reply = match &outcome.result {
        Ok(reply) => reply,
        Err(error) if outcome.attempts <= 1 && is_free(&error.code) => return Cost::Nothing,
        Err(_) => return Cost::Estimate,
    };
    let llm = lookup::llm_as_defined(&step.conv, step.context, agent);
    let rate = llm.and_then(|llm| llm.budget).and_then(|budget| budget.units_per_usd);
    let units = rate
        .zip(step.context.registry.price(model))
        .and_then(|(rate, price)| cost::units(price, reply.prompt_tokens?, reply.completion_tokens?, &rate));
    match units {
        None => Cost::Estimate,
        Some((0, _)) => Cost::Nothing,
        Some((amount, scale)) => Cost::Exactly(amount, scale),
    }
}

/// Whether a provider that says this has done nothing that it could charge.
fn is_free(code: &str) -> bool {
    let refused = code.strip_prefix("http_4").is_some_and(|rest| rest.len() == 2);
    refused || ["no_key", "unknown_model", "connect"].contains(&code)
}

/// What a tool call has cost that ended so.
pub(super) fn of_tool(status: ToolStatus) -> Cost {
    match status {
        ToolStatus::Success | ToolStatus::Error | ToolStatus::Timeout | ToolStatus::InDoubt => Cost::Estimate,
        ToolStatus::Expired | ToolStatus::Skipped | ToolStatus::Cancelled => Cost::Nothing,
    }
}

/// The ledger's answer to a request of [`reserve`].
pub(super) fn decide(step: &mut Step<'_>, open: &OpenWait, held: &Held, result: &PaymentResult) -> Outcome {
    if result.request != held.reservation {
        let why = format!("wait {} is on reservation {}", open.waiting.id, held.reservation);
        return refused("invalid", why);
    }
    match result.status {
        PaymentStatus::Committed => granted(step, open, held),
        PaymentStatus::Rejected => {
            let text = refusal(held, result);
            // There is nothing to give back.
            step.close_keeping(&open.waiting.id);
            denied(step, open, &text, ToolStatus::Skipped)
        }
        PaymentStatus::Pending => recorded("pending", "the payment waits for a person".into()),
        PaymentStatus::InDoubt => recorded("in_doubt", "the ledger will say whether it was done".into()),
    }
}

/// The call goes on, on one branch: what was set aside is for one. The other branches that waited go on by themselves.
fn granted(step: &mut Step<'_>, open: &OpenWait, held: &Held) -> Outcome {
    let (agent, wait) = (&open.agent, open.waiting.id);
    let holders = step.conv.holders(open);
    let model = open.waiting.correlation.is_empty();
    let late = open.waiting.deadline_ms.is_some_and(|deadline| deadline <= step.now);
    let able = !model || (!step.conv.paused && lookup::llm(&step.conv, step.context, agent).is_some());
    let live = |branch: &&BranchId| able && !step.conv.is_parked(agent, branch);
    let on = holders.iter().find(live).filter(|_| !late).cloned();
    if on.is_some() {
        step.close_keeping(&wait);
    } else {
        step.close(&wait);
    }
    let next = Id::derive(&wait, "call", 0);
    for branch in &holders {
        match (on.as_ref() == Some(branch), model) {
            (true, true) => turn::call_model(step, agent, branch, next, Some(held.clone())),
            (true, false) => {
                tool_calls::resume(step, agent, branch, &open.waiting.correlation, (next, held.clone()));
            }
            (false, true) => turn::go_on(step, agent, branch),
            (false, false) => {
                let why = "not done here: call again where it is still needed";
                not_called(
                    step,
                    agent,
                    branch,
                    &open.waiting.correlation,
                    ToolStatus::Skipped,
                    json!({"message": why}),
                );
                turn::go_on(step, agent, branch);
            }
        }
    }
    match on {
        Some(_) => applied(),
        None if late => recorded("late", "it was set aside too late and is given back".into()),
        None => recorded("parked", "nothing is called from there: what was set aside is given back".into()),
    }
}

/// Nobody pays: a run that cannot go on ends visibly, a tool call has that as its result.
fn denied(step: &mut Step<'_>, open: &OpenWait, text: &str, status: ToolStatus) -> Outcome {
    let agent = &open.agent;
    for branch in step.conv.holders(open) {
        if !open.waiting.correlation.is_empty() {
            let body = json!({"error": ERROR, "message": text});
            not_called(step, agent, &branch, &open.waiting.correlation, status, body);
            turn::go_on(step, agent, &branch);
        } else if step.conv.is_parked(agent, &branch) || step.conv.paused {
            // Asked anew when it goes on.
        } else if status == ToolStatus::Skipped {
            turn::out_of_budget(step, agent, &branch, text);
        } else {
            turn::failed(step, agent, &branch, "budget", "timeout", text);
        }
    }
    applied()
}

/// No answer in time. What the ledger may still set aside is given back: it reads both requests in their order.
pub(super) fn overdue(step: &mut Step<'_>, open: &OpenWait) -> Outcome {
    step.close(&open.waiting.id);
    let text = "The ledger did not set aside in time what the next call may cost. Write again to go on.";
    denied(step, open, text, ToolStatus::Expired)
}

fn not_called(
    step: &mut Step<'_>,
    agent: &AgentId,
    branch: &BranchId,
    call_id: &str,
    status: ToolStatus,
    body: serde_json::Value,
) {
    tool_calls::result(step, agent, branch, call_id, status, body, None);
}

/// Why a turn cannot go on: one of its tool calls was not paid for.
pub(super) fn unpaid(turn: &[&Entry]) -> Option<String> {
    let unpaid = |result: &ToolResult| {
        let skipped = result.status == ToolStatus::Skipped;
        let text = result.result.0.get("message").and_then(serde_json::Value::as_str);
        text.filter(|_| skipped && result.result.0.get("error") == Some(&json!(ERROR))).map(str::to_owned)
    };
    turn.iter().find_map(|entry| match &entry.state {
        State::ToolResult(result) => unpaid(result),
        _ => None,
    })
}

/// What people read where the ledger refuses: which account lacks what, and how to go on.
fn refusal(held: &Held, result: &PaymentResult) -> String {
    let account = &held.account;
    let book = if held.book.as_str() == MAIN_BOOK { String::new() } else { format!(" --book {}", held.book) };
    let mend = match result.code.as_str() {
        "insufficient" => {
            format!("Put money into it: 'p2engine ledger{book} transfer treasury {account} AMOUNT'")
        }
        "unknown_account" => {
            let kind = if is_budget(account) { "escrow" } else { "agent" };
            format!("Open what is missing: 'p2engine ledger{book} open {account} --kind {kind}'")
        }
        "frozen" => format!("Thaw what is frozen: 'p2engine ledger{book} freeze {account} --thaw'"),
        "over_limit" | "over_day_limit" => {
            format!("Raise its limits: 'p2engine ledger{book} limits {account}'")
        }
        _ => format!("Look at it with 'p2engine ledger{book} balance {account}'"),
    };
    let message = result.message.trim_end_matches('.');
    format!("Stopped by the budget: {message}. {mend}. Then write again to go on.")
}
