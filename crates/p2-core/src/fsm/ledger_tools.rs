//! The tools that ask the ledger. Each call is a payment request and a wait; the ledger's result ends both.

use serde_json::{Map, Value};

use super::builder::{Step, entry_artifact};
use super::tool_calls::Call;
use crate::conversation::OpenWait;
use crate::definition::Tool;
use crate::ids::{AccountId, BookId, Id};
use crate::ledger::{AMOUNT_MAX, MAIN_BOOK, check_account, parse_decimal};
use crate::record::{
    CauseKind, Leg, PaymentBody, PaymentCause, PaymentReplyTo, PaymentRequest, Query, Transfer, Void,
};
use crate::state::{Entry, State, WaitKind, Waiting};

/// The tools of this file, with the arguments that each takes.
const TOOLS: [(&str, &[&str]); 4] = [
    ("transfer_funds", &["to_agent", "amount", "reason"]),
    ("check_balance", &["agent_id"]),
    ("transaction_history", &["limit"]),
    ("reward_agent", &["agent_id", "amount", "reason"]),
];
/// Most in one `transfer_funds`, whole units.
const TRANSFER_MAX: i64 = 10_000;
/// Most in one `reward_agent`, whole units.
const REWARD_MAX: i64 = 100;
/// Longest reason, bytes.
const REASON_BYTES_MAX: usize = 500;
/// Movements in `transaction_history` where nobody says how many.
const HISTORY: i64 = 10;

/// Asks the ledger what a call wants: Waiting(payment), and a request that names the call as its cause.
///
/// The request is made out by the call's place, so the same step decided again asks under the same id; the payer is
/// always the calling agent's own wallet, which no argument can change and which the ledger checks once more.
///
/// # Errors
/// A sentence that the model can act on; then nothing was asked.
pub(super) fn ask(
    step: &mut Step<'_>,
    call: &Call<'_>,
    tool: &Tool,
    arguments: &Value,
) -> Result<(), String> {
    let given = Given::of(&tool.id, arguments)?;
    let own = AccountId::from(call.agent.as_str());
    let (body, reason) = match tool.id.as_str() {
        "transfer_funds" => {
            let to = given.account("to_agent")?.ok_or("transfer_funds needs 'to_agent', the agent to pay")?;
            let amount = given.amount(TRANSFER_MAX)?;
            let (minor, scale) = amount.ok_or("transfer_funds needs 'amount', such as 25 or 10.50")?;
            (pay(own, to, minor, scale)?, given.text("reason")?.unwrap_or_default())
        }
        "reward_agent" => {
            let to =
                given.account("agent_id")?.ok_or("reward_agent needs 'agent_id', the agent to reward")?;
            let (minor, scale) = given.amount(REWARD_MAX)?.unwrap_or((10, 0));
            let reason = given.text("reason")?.unwrap_or_else(|| "Good work!".to_owned());
            (pay(own, to, minor, scale)?, format!("Reward: {reason}"))
        }
        "check_balance" => {
            let account = given.account("agent_id")?.unwrap_or(own);
            (PaymentBody::Query(Query { account, movements: 0 }), String::new())
        }
        _ => {
            let movements = given.limit()?;
            (PaymentBody::Query(Query { account: own, movements }), String::new())
        }
    };
    request(step, call, tool, body, reason);
    Ok(())
}

/// Whether a tool of that id pays; none where the ledger has no such tool.
pub(crate) fn pays(tool: &str) -> Option<bool> {
    TOOLS.iter().any(|(name, _)| *name == tool).then(|| ["transfer_funds", "reward_agent"].contains(&tool))
}

/// The first number of a JSON text that a reader may have rounded: one with more than 15 significant digits that is not
/// whole. Whole ones are kept, or too large for any amount.
pub(super) fn inexact(json: &str) -> Option<String> {
    let (mut in_text, mut escaped) = (false, false);
    let mut number = String::new();
    for c in json.chars().chain([' ']) {
        if in_text {
            (in_text, escaped) = (escaped || c != '"', !escaped && c == '\\');
        } else if c.is_ascii_digit() || (!number.is_empty() && matches!(c, '.' | 'e' | 'E' | '+' | '-')) {
            number.push(c);
        } else {
            let mantissa = number.split(['e', 'E']).next().unwrap_or_default().replace('.', "");
            if number.contains(['.', 'e', 'E']) && mantissa.trim_matches('0').len() > 15 {
                return Some(number.chars().take(40).collect());
            }
            number.clear();
            in_text = c == '"';
        }
    }
    None
}

fn pay(from: AccountId, to: AccountId, amount: i64, scale: i32) -> Result<PaymentBody, String> {
    if from == to {
        return Err(format!("'{from}' is your own wallet: an agent cannot pay itself"));
    }
    Ok(PaymentBody::Transfer(Transfer { legs: vec![Leg { from, to, amount }], scale: Some(scale) }))
}

fn request(step: &mut Step<'_>, call: &Call<'_>, tool: &Tool, body: PaymentBody, reason: String) {
    let wait = step.id("wait");
    let deadline_ms = Some(step.now.saturating_add(tool.timeout_ms));
    let correlation = call.call_id.to_owned();
    let waiting = Waiting { id: wait, kind: WaitKind::Payment, deadline_ms, correlation, budget: None };
    step.append(call.agent, call.branch, State::Waiting(waiting));
    let asked = step
        .conv
        .newest(call.agent, call.branch)
        .find(|entry| matches!(&entry.state, State::ToolCall(asked) if asked.call_id == call.call_id));
    let reference = asked.map(|entry| entry_artifact(&entry.id));
    let conversation = step.conversation().clone();
    step.payment(PaymentRequest {
        id: payment_id(&wait),
        book: book(step.conv.book.as_ref()),
        by: call.agent.to_string(),
        cause: PaymentCause {
            kind: CauseKind::ToolCall,
            reference,
            conversation: Some(conversation.clone()),
            agent: Some(call.agent.clone()),
            branch: Some(call.branch.clone()),
            reason,
        },
        reply_to: Some(PaymentReplyTo { conversation, wait, call_id: call.call_id.to_owned() }),
        not_after_ms: deadline_ms,
        body,
    });
}

/// The id of the request that a wait is on.
fn payment_id(wait: &Id) -> Id {
    Id::derive(wait, "payment", 0)
}

fn book(own: Option<&BookId>) -> BookId {
    own.cloned().unwrap_or_else(|| BookId::from(MAIN_BOOK))
}

/// Takes back what a wait is on, where it still waits for a person: nobody wants it any more. The ledger reads both
/// requests in their order, so what it has paid by then stands; its answer to the first one says which of the two it was.
pub(super) fn withdraw(step: &mut Step<'_>, open: &OpenWait, why: &str) {
    let reservation = payment_id(&open.waiting.id);
    let waits =
        |entry: &&Entry| matches!(&entry.state, State::Waiting(waiting) if waiting.id == open.waiting.id);
    let reference = step.conv.newest(&open.agent, &open.branch).find(waits);
    let reference = reference.map_or(open.waiting.id, |entry| entry_artifact(&entry.id));
    let request = PaymentRequest {
        id: Id::derive(&reservation, "withdraw", 0),
        book: book(open.book.as_ref()),
        by: open.agent.to_string(),
        cause: PaymentCause {
            kind: CauseKind::ToolCall,
            reference: Some(reference),
            conversation: Some(step.conversation().clone()),
            agent: Some(open.agent.clone()),
            branch: Some(open.branch.clone()),
            reason: format!("cancelled: {}", why.chars().take(REASON_BYTES_MAX / 4).collect::<String>()),
        },
        reply_to: None,
        not_after_ms: None,
        body: PaymentBody::Void(Void { reservation }),
    };
    step.payment(request);
}

/// The arguments of a call, all of them known.
struct Given<'a> {
    tool: &'a str,
    arguments: Option<&'a Map<String, Value>>,
}

impl<'a> Given<'a> {
    fn of(tool: &'a str, arguments: &'a Value) -> Result<Given<'a>, String> {
        let (_, known) = TOOLS
            .iter()
            .find(|(name, _)| *name == tool)
            .ok_or_else(|| format!("the ledger has no tool '{tool}'"))?;
        let arguments = arguments.as_object();
        match arguments.into_iter().flat_map(Map::keys).find(|key| !known.contains(&key.as_str())) {
            None => Ok(Given { tool, arguments }),
            Some(key) => {
                let key: String = key.chars().take(40).flat_map(char::escape_debug).collect();
                let own = if *known == ["agent_id"] || *known == ["limit"] {
                    ""
                } else {
                    "; it is always paid from your own wallet"
                };
                Err(format!("{tool} has no argument '{key}': it takes {}{own}", known.join(", ")))
            }
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.arguments?.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<String>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| format!("'{key}' of {} must be text", self.tool))?;
        if text.len() > REASON_BYTES_MAX {
            return Err(format!(
                "'{key}' of {} is longer than {REASON_BYTES_MAX} bytes: shorten it",
                self.tool
            ));
        }
        Ok(Some(text.to_owned()))
    }

    fn account(&self, key: &str) -> Result<Option<AccountId>, String> {
        let Some(name) = self.text(key)? else { return Ok(None) };
        let account = AccountId(name);
        check_account(&account).map_err(|refusal| format!("'{key}' of {}: {refusal}", self.tool))?;
        Ok(Some(account))
    }

    /// An amount above zero and up to `most` whole units: (units, decimals). Decimal text, or a JSON number as it is
    /// written.
    fn amount(&self, most: i64) -> Result<Option<(i64, i32)>, String> {
        let text = match self.get("amount") {
            None => return Ok(None),
            Some(Value::String(text)) => text.trim().to_owned(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => return Err(format!("'amount' of {} must be a number such as 25 or 10.50", self.tool)),
        };
        let (minor, scale) =
            parse_decimal(&text).map_err(|bad| format!("'amount' of {}: {bad}", self.tool))?;
        let unit = (0..scale).fold(1_i64, |unit, _| unit.saturating_mul(10));
        if minor > most.saturating_mul(unit).min(AMOUNT_MAX) {
            return Err(format!(
                "'amount' of {}: at most {most} may be paid in one call, found {text}",
                self.tool
            ));
        }
        Ok(Some((minor, scale)))
    }

    fn limit(&self) -> Result<i32, String> {
        let wrong = || "'limit' of transaction_history must be a whole number from 1 to 100".to_owned();
        let limit = match self.get("limit") {
            None => HISTORY,
            Some(value) => value.as_i64().ok_or_else(wrong)?,
        };
        i32::try_from(limit).ok().filter(|limit| (1..=100).contains(limit)).ok_or_else(wrong)
    }
}
