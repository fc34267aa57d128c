//! What came of a payment that a tool call asked for.

use serde_json::{Map, Value, json};

use super::builder::Step;
use super::{applied, budget, recorded, refused, tool_calls, tool_outcome, turn};
use crate::conversation::OpenWait;
use crate::json_text::JsonText;
use crate::ledger::format_amount;
use crate::record::{Movement, Outcome, PaymentResult, PaymentStatus, ToolOutcome};
use crate::state::{ToolCall, ToolStatus, WaitKind};

pub(super) fn decide(step: &mut Step<'_>, result: &PaymentResult) -> Outcome {
    let Some(open) = step.conv.waits.get(&result.wait).cloned() else {
        return tool_outcome::late(step, &as_tool_outcome(result));
    };
    if open.waiting.kind != WaitKind::Payment || open.waiting.correlation != result.call_id {
        let why = format!("wait {} is not on the payment of call '{}'", result.wait, result.call_id);
        return refused("invalid", why);
    }
    if let Some(held) = open.waiting.budget.clone() {
        return budget::decide(step, &open, &held, result);
    }
    let (status, reward) = match result.status {
        PaymentStatus::Committed => (ToolStatus::Success, 1.0),
        PaymentStatus::Rejected => (ToolStatus::Error, 0.0),
        PaymentStatus::Pending => {
            return recorded("pending", "the payment waits for a person".into());
        }
        PaymentStatus::InDoubt => return in_doubt(step, &open, &result.message),
    };
    let holders = step.conv.holders(&open);
    step.close(&result.wait);
    let mut parked = true;
    for branch in &holders {
        parked &= step.conv.is_parked(&open.agent, branch);
        let call = tool_calls::find(step, &open.agent, branch, &result.call_id);
        let body = tool_result(result, call.as_ref());
        tool_calls::result(step, &open.agent, branch, &result.call_id, status, body, Some(reward));
        turn::go_on(step, &open.agent, branch);
    }
    if parked {
        recorded("parked", "recorded on its branch, which is not checked out".into())
    } else {
        applied()
    }
}

/// A payment whose answer did not come in time may have been made: its wait stays open until it is told.
pub(super) fn overdue(step: &mut Step<'_>, open: &OpenWait) -> Outcome {
    in_doubt(step, open, "no answer from the ledger before the deadline")
}

fn in_doubt(step: &mut Step<'_>, open: &OpenWait, detail: &str) -> Outcome {
    tool_outcome::doubt(step, open, json!(detail));
    recorded("in_doubt", "nobody knows whether it was paid: the ledger will say".into())
}

/// A late result is kept beside the first one, as that of a tool.
fn as_tool_outcome(result: &PaymentResult) -> ToolOutcome {
    let status = match result.status {
        PaymentStatus::Committed => ToolStatus::Success,
        PaymentStatus::Rejected => ToolStatus::Error,
        PaymentStatus::Pending | PaymentStatus::InDoubt => ToolStatus::InDoubt,
    };
    ToolOutcome {
        effect: result.request,
        wait: result.wait,
        call_id: result.call_id.clone(),
        status,
        result: JsonText(tool_result(result, None)),
        reward: None,
        latency_ms: None,
    }
}

/// What the model reads. Amounts are decimal text: no reader rounds them.
fn tool_result(result: &PaymentResult, call: Option<&ToolCall>) -> Value {
    let money = |minor: i64| format_amount(minor, result.scale);
    if result.status != PaymentStatus::Committed {
        return json!({"error": result.code, "message": result.message});
    }
    let mut body = Map::new();
    if let Some(account) = &result.account {
        let balance = money(account.balance.available());
        body.insert("agent".into(), json!(account.account));
        body.insert("formatted".into(), json!(format!("{balance} {}", result.unit)));
        body.insert("balance".into(), json!(balance));
        let told = |movement: &Movement| {
            json!({
                "type": if movement.amount < 0 { "sent" } else { "received" },
                "amount": money(movement.amount.saturating_abs()),
                "other_party": movement.other,
                "reason": movement.reason,
                "timestamp": movement.time_ms,
                "id": movement.transaction,
            })
        };
        if call.is_some_and(|call| call.tool == "check_balance") {
            return Value::Object(body);
        }
        let transactions: Vec<Value> = account.movements.iter().map(told).collect();
        body.insert("count".into(), json!(transactions.len()));
        body.insert("transactions".into(), Value::Array(transactions));
        return Value::Object(body);
    }
    if let Some(posting) = result.postings.first() {
        body.insert("transferred".into(), json!(money(posting.amount)));
        body.insert("from".into(), json!(posting.from));
        body.insert("to".into(), json!(posting.to));
        body.insert("new_balance".into(), json!(money(posting.from_after.available())));
    }
    body.insert("transaction_id".into(), json!(result.transaction));
    let reason = call.and_then(|call| call.arguments.0.get("reason")).filter(|reason| reason.is_string());
    body.extend(reason.map(|reason| ("reason".to_owned(), reason.clone())));
    Value::Object(body)
}
