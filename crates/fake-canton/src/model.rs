//! What the choices of our package do, by itself: wallets as a map from names to amounts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A holding.
pub const HOLDING: &str = "P2Engine.Ledger:Holding";
/// A book's cursor.
pub const CURSOR: &str = "P2Engine.Ledger:SettlementCursor";
/// A receipt.
pub const RECEIPT: &str = "P2Engine.Ledger:Receipt";

/// Why the model does not do it: the API's code and words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The API's code.
    pub code: &'static str,
    /// Words.
    pub cause: String,
}

fn refused<T>(cause: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code: "UNHANDLED_EXCEPTION", cause: cause.into() })
}

/// A text field.
///
/// # Errors
/// Where it is none.
pub fn text<'v>(of: &'v Value, field: &str) -> Result<&'v str, Refused> {
    of[field].as_str().ok_or_else(|| Refused {
        code: "COMMAND_PREPROCESSING_FAILED",
        cause: format!("'{field}' is no text in {of}"),
    })
}

fn int(of: &Value, field: &str) -> Result<i64, Refused> {
    text(of, field)?.parse().map_err(|_| Refused {
        code: "COMMAND_PREPROCESSING_FAILED",
        cause: format!("'{field}' is no Int in {of}"),
    })
}

/// A Decimal as units of 10^-10.
///
/// # Errors
/// Where it is none.
pub fn decimal(of: &Value, field: &str) -> Result<i128, Refused> {
    let bad = || Refused {
        code: "COMMAND_PREPROCESSING_FAILED",
        cause: format!("'{field}' is no Decimal in {of}"),
    };
    let text = text(of, field)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 10 || whole.trim_start_matches('-').len() > 28 {
        return Err(bad());
    }
    format!("{whole}{fraction:0<10}").parse().map_err(|_| bad())
}

fn shown(units: i128) -> String {
    let digits = format!("{units:0>11}");
    let (whole, fraction) = digits.split_at(digits.len() - 10);
    format!("{whole}.{fraction}")
}

/// What a choice makes, as (template, fields).
pub type Made = Vec<(&'static str, Value)>;

/// The choice `Fence`: the cursor again.
pub fn fence(cursor: &Value) -> Made {
    vec![(CURSOR, cursor.clone())]
}

/// The choice `Settle` on a cursor with these inputs: what it makes. Cursor and inputs are consumed.
///
/// # Errors
/// What the model refuses.
pub fn settle(cursor: &Value, inputs: &[Value], argument: &Value) -> Result<Made, Refused> {
    let (expected, last) = (int(argument, "expected")?, int(argument, "lastOffset")?);
    if expected != int(cursor, "nextOffset")? || last < expected {
        return refused(format!("the cursor is at {}, not at {expected}", cursor["nextOffset"]));
    }
    let book = text(cursor, "book")?;
    let mut frozen: Vec<String> =
        cursor["frozen"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    let mut wallets: BTreeMap<String, i128> = BTreeMap::new();
    for holding in inputs {
        if text(holding, "book")? != book || holding["operator"] != cursor["operator"] {
            return refused("a holding of another book");
        }
        *wallets.entry(text(holding, "wallet")?.to_owned()).or_default() += decimal(holding, "amount")?;
    }
    let mut made: Made = Vec::new();
    let entries = argument["entries"].as_array().cloned().unwrap_or_default();
    if entries.is_empty() {
        return refused("an empty batch");
    }
    for entry in &entries {
        let (kind, value) = (text(entry, "tag")?, &entry["value"]);
        apply(kind, value, &mut wallets, &mut frozen)?;
        let party = |field: &str| value.get(field).cloned().unwrap_or(Value::Null);
        let (from, to) = match kind {
            "Deposit" => (Value::Null, party("wallet")),
            "Transfer" | "Reward" => (party("payer"), party("payee")),
            _ => (party("wallet"), Value::Null),
        };
        made.push((
            RECEIPT,
            json!({
                "operator": cursor["operator"], "book": book, "command": argument["command"],
                "kind": kind.to_lowercase(), "payer": from, "payee": to,
                "amount": value.get("amount").cloned().unwrap_or_else(|| json!("0.0")), "cause": value["cause"],
            }),
        ));
    }
    for (wallet, units) in wallets.iter().filter(|(_, units)| **units > 0) {
        made.push((
            HOLDING,
            json!({
                "operator": cursor["operator"], "owner": cursor["operator"], "book": book, "wallet": wallet,
                "instrument": cursor["instrument"], "amount": shown(*units),
            }),
        ));
    }
    let mut next = cursor.clone();
    next["nextOffset"] = json!((last + 1).to_string());
    next["lastCommand"] = argument["command"].clone();
    next["frozen"] = json!(frozen);
    made.push((CURSOR, next));
    Ok(made)
}

fn apply(
    kind: &str,
    value: &Value,
    wallets: &mut BTreeMap<String, i128>,
    frozen: &mut Vec<String>,
) -> Result<(), Refused> {
    let thawed = |frozen: &[String], name: &str| {
        if frozen.iter().any(|found| found == name) { refused(format!("{name} is frozen")) } else { Ok(()) }
    };
    text(&value["cause"], "recordId")?;
    if matches!(kind, "Freeze" | "Thaw") {
        let wallet = text(value, "wallet")?.to_owned();
        frozen.retain(|name| *name != wallet);
        if kind == "Freeze" {
            frozen.push(wallet);
        }
        return Ok(());
    }
    let amount = decimal(value, "amount")?;
    if amount <= 0 {
        return refused("an amount that is not above zero");
    }
    let mut pay = |name: &str| {
        let has = wallets.entry(name.to_owned()).or_default();
        if *has < amount {
            return refused(format!("overdraft: {name} has {} of {}", shown(*has), shown(amount)));
        }
        *has -= amount;
        Ok(())
    };
    let payee = match kind {
        "Deposit" => text(value, "wallet")?,
        "Withdraw" => {
            let wallet = text(value, "wallet")?;
            thawed(frozen, wallet)?;
            return pay(wallet);
        }
        "Transfer" | "Reward" => {
            if kind == "Reward" && value["cause"]["evaluationId"].as_str().is_none_or(str::is_empty) {
                return refused("a reward without an evaluation");
            }
            let payer = text(value, "payer")?;
            thawed(frozen, payer)?;
            pay(payer)?;
            text(value, "payee")?
        }
        other => {
            let cause = format!("there is no entry '{other}'");
            return Err(Refused { code: "COMMAND_PREPROCESSING_FAILED", cause });
        }
    };
    thawed(frozen, payee)?;
    *wallets.entry(payee.to_owned()).or_default() += amount;
    Ok(())
}
