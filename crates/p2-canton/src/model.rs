//! The contracts of `daml/`, as JSON.

use p2_core::ids::{AccountId, BookId};
use p2_core::ledger::{Entry, EntryKind, Submission, format_amount, parse_signed};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Created;

/// Money of one wallet.
pub(crate) const HOLDING: &str = "#p2engine-ledger:P2Engine.Ledger:Holding";
/// How far a book is.
pub(crate) const CURSOR: &str = "#p2engine-ledger:P2Engine.Ledger:SettlementCursor";
/// What a view of the ledger needs.
pub(crate) const TEMPLATES: [&str; 2] = [HOLDING, CURSOR];

/// Money of one wallet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Holding {
    pub(crate) book: BookId,
    pub(crate) wallet: AccountId,
    /// In units of 10^-10, as the ledger counts.
    pub(crate) amount: i128,
}

/// How far a book is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cursor {
    pub(crate) contract: String,
    pub(crate) book: BookId,
    pub(crate) next: i64,
    /// The command that moved it here.
    pub(crate) command: String,
    /// The offset of the transaction that did.
    pub(crate) offset: i64,
}

/// A contract that this crate reads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Contract {
    Holding(Holding),
    Cursor(Cursor),
}

#[derive(Deserialize)]
struct HoldingFields {
    book: String,
    wallet: String,
    amount: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CursorFields {
    book: String,
    next_offset: String,
    last_command: String,
}

/// Reads a contract; none for another template.
///
/// # Errors
/// A sentence where its fields are not those of the model: the package on the ledger is another one.
pub(crate) fn contract(created: &Created) -> Result<Option<Contract>, String> {
    let Created { contract_id, template_id, create_argument, offset } = created;
    let wrong = |what: &str| {
        format!(
            "contract {contract_id} on the ledger is no {what} as this version knows it: upload the package of daml/"
        )
    };
    if template_id.ends_with(":P2Engine.Ledger:Holding") {
        let fields = HoldingFields::deserialize(create_argument).map_err(|_| wrong("Holding"))?;
        let amount = ledger_units(&fields.amount).ok_or_else(|| wrong("Holding"))?;
        let (book, wallet) = (BookId(fields.book), AccountId(fields.wallet));
        return Ok(Some(Contract::Holding(Holding { book, wallet, amount })));
    }
    if template_id.ends_with(":P2Engine.Ledger:SettlementCursor") {
        let fields = CursorFields::deserialize(create_argument).map_err(|_| wrong("SettlementCursor"))?;
        let next = fields.next_offset.parse().map_err(|_| wrong("SettlementCursor"))?;
        return Ok(Some(Contract::Cursor(Cursor {
            contract: contract_id.clone(),
            book: BookId(fields.book),
            next,
            command: fields.last_command,
            offset: *offset,
        })));
    }
    Ok(None)
}

/// A decimal of the ledger in units of 10^-10; none where it is none.
fn ledger_units(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 28 || fraction.len() > 10 || !digits(whole) || !digits(fraction) {
        return None;
    }
    format!("{whole}{fraction:0<10}").parse().ok()
}

/// Minor units of a book in units of 10^-10.
pub(crate) fn units(minor: i64, scale: i32) -> i128 {
    let places = u32::try_from(10 - scale.clamp(0, 10)).unwrap_or(0);
    i128::from(minor) * 10_i128.pow(places)
}

/// The cursor of a book that the ledger does not know yet.
pub(crate) fn new_cursor(party: &str, batch: &Submission) -> Value {
    json!({
        "operator": party,
        "book": batch.book,
        "instrument": batch.unit,
        "nextOffset": "0",
        "lastCommand": "",
        "frozen": [],
    })
}

/// The argument of `Settle`.
pub(crate) fn settle(batch: &Submission, inputs: &[String]) -> Value {
    let entries: Vec<Value> = batch.entries.iter().map(|entry| entry_of(entry, batch.scale)).collect();
    json!({
        "expected": batch.expected.to_string(),
        "lastOffset": batch.last.to_string(),
        "command": batch.command,
        "inputs": inputs,
        "entries": entries,
    })
}

fn entry_of(entry: &Entry, scale: i32) -> Value {
    let Entry { kind, from, to, amount, request, evaluation, conversation, reason } = entry;
    let cause = json!({
        "recordId": request,
        "conversationId": conversation,
        "evaluationId": evaluation,
        "reason": reason,
    });
    let amount = format_amount(*amount, scale);
    match kind {
        EntryKind::Deposit => {
            json!({"tag": "Deposit", "value": {"wallet": to, "amount": amount, "cause": cause}})
        }
        EntryKind::Withdraw => {
            json!({"tag": "Withdraw", "value": {"wallet": from, "amount": amount, "cause": cause}})
        }
        EntryKind::Transfer => {
            json!({"tag": "Transfer", "value": {"payer": from, "payee": to, "amount": amount, "cause": cause}})
        }
        EntryKind::Reward => {
            json!({"tag": "Reward", "value": {"payer": from, "payee": to, "amount": amount, "cause": cause}})
        }
        EntryKind::Freeze => json!({"tag": "Freeze", "value": {"wallet": from, "cause": cause}}),
        EntryKind::Thaw => json!({"tag": "Thaw", "value": {"wallet": from, "cause": cause}}),
    }
}

/// What a wallet of a ledger has, as minor units of a book; none where the ledger has parts of one.
pub(crate) fn minor(units: i128, scale: i32) -> Option<i64> {
    let per = 10_i128.pow(u32::try_from(10 - scale.clamp(0, 10)).unwrap_or(0));
    let minor = i64::try_from(units / per).ok().filter(|_| units % per == 0)?;
    // What the book can say of it.
    parse_signed(&format_amount(minor, scale), scale).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_amount_is_the_same_on_both_ledgers(minor_units in 1..=p2_core::ledger::AMOUNT_MAX, scale in 0..=8) {
            let text = format_amount(minor_units, scale);
            prop_assert_eq!(ledger_units(&text), Some(units(minor_units, scale)));
            // The ledger writes ten decimals.
            let whole = text.split('.').next().unwrap().to_owned();
            let fraction = text.split('.').nth(1).unwrap_or("");
            let long = format!("{whole}.{fraction:0<10}");
            prop_assert_eq!(ledger_units(&long).and_then(|units| minor(units, scale)), Some(minor_units));
        }

        #[test]
        fn no_text_makes_reading_a_decimal_panic(text in "\\PC*") {
            let _ = ledger_units(&text);
        }
    }
}
