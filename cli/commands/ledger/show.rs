//! The commands that look at the ledger.

use std::collections::BTreeMap;

use p2_core::ids::{ConversationId, Id};
use p2_core::ledger::format_amount;
use p2_core::record::{AccountKind, LedgerOutcome, LedgerTransaction, PaymentBody, Posting};
use serde_json::{Value, json};

use super::flow::{self, Flow, Source};
use super::said::{self, Known, details, until};
use super::{Desk, money};
use crate::commands::{data_of, listed};
use crate::engine::{AccountLine, ArtifactFilter, BookView, EngineError, EngineResult};
use crate::views::labelled::count;
use crate::views::{parse_time, table, time};

/// Ways of money that a line shows.
const WAYS_SHOWN: usize = 3;

impl Desk<'_> {
    pub(super) async fn balance(&self, account: &str) -> EngineResult<()> {
        let view = self.view().await?;
        let line = view.account(account).ok_or_else(|| no_account(&view, account))?;
        self.run.show(&account_data(&view, line), || {
            let mut text = format!("{account}: {}", money(&view, line.balance.posted));
            if line.balance.reserved > 0 {
                let (aside, free) = (money(&view, line.balance.reserved), money(&view, line.available));
                text.push_str(&format!(" ({aside} set aside, {free} available)"));
            }
            for state in states(&view, line) {
                text.push_str(&format!(", {state}"));
            }
            text
        });
        Ok(())
    }

    pub(super) async fn history(&self, account: &str, limit: usize) -> EngineResult<()> {
        let view = self.view().await?;
        view.account(account).ok_or_else(|| no_account(&view, account))?;
        let all = self.transactions().await?;
        let movements = all.iter().rev().flat_map(|made| {
            let of = made.postings.iter().rev();
            of.filter(|posting| posting.from.as_str() == account || posting.to.as_str() == account)
                .map(move |posting| (made, posting))
        });
        let limit = if limit == 0 { usize::MAX } else { limit };
        let shown: Vec<(&LedgerTransaction, &Posting)> = movements.take(limit).collect();
        let sent = |posting: &Posting| posting.from.as_str() == account;
        let data: Vec<Value> = shown
            .iter()
            .map(|(made, posting)| {
                let (other, after) = other_side(posting, sent(posting));
                json!({
                    "type": if sent(posting) { "sent" } else { "received" },
                    "amount": format_amount(posting.amount, view.scale),
                    "other_party": other,
                    "balance": format_amount(after, view.scale),
                    "reason": made.request.cause.reason,
                    "timestamp": time(made.time_ms),
                    "id": made.id,
                })
            })
            .collect();
        let data = json!({"account": account, "count": data.len(), "transactions": data});
        self.run.show(&data, || {
            let rows = shown.iter().map(|(made, posting)| {
                let (other, after) = other_side(posting, sent(posting));
                vec![
                    time(made.time_ms),
                    if sent(posting) { "↑ SENT" } else { "↓ RECV" }.to_owned(),
                    format_amount(posting.amount, view.scale),
                    other.to_owned(),
                    format_amount(after, view.scale),
                    listed(made.id),
                    made.request.cause.reason.clone(),
                ]
            });
            let header = ["TIME (UTC)", "", "AMOUNT", "OTHER", "BALANCE", "TRANSACTION", "REASON"];
            table::render(&header, rows.collect(), self.run.out.width)
        });
        Ok(())
    }

    pub(super) async fn audit(
        &self,
        since: Option<&str>,
        operation: Option<&str>,
        account: Option<&str>,
        limit: usize,
    ) -> EngineResult<()> {
        let bad = |text: &str| {
            let form = "write a day like 2026-05-01 or a time like 2026-05-01T12:00:00Z";
            EngineError::Invalid(format!("--since {text}: {form}"))
        };
        let since = since.map(|text| parse_time(text).ok_or_else(|| bad(text))).transpose()?;
        let view = self.view().await?;
        if let Some(account) = account.filter(|account| view.account(account).is_none()) {
            return Err(no_account(&view, account));
        }
        let all = self.transactions().await?;
        let mut made: Vec<&LedgerTransaction> = all
            .iter()
            .filter(|made| {
                since.is_none_or(|since| made.time_ms >= since)
                    && operation.is_none_or(|operation| made.request.body.kind() == operation)
                    && account.is_none_or(|account| touches(made, account))
            })
            .collect();
        if limit > 0 {
            made.drain(..made.len().saturating_sub(limit));
        }
        let audited = self.audited(&view, &all, &made).await?;
        let data: Vec<Value> = audited.iter().map(|line| line.data(&view)).collect::<EngineResult<_>>()?;
        self.run.show(&Value::Array(data), || {
            let rows = audited.iter().map(|line| {
                let made = line.made;
                let (kind, outcome) = (made.request.body.kind().to_owned(), made.outcome.as_str().to_owned());
                let (seq, at) = (made.seq.to_string(), time(made.time_ms));
                let why = match &made.outcome {
                    LedgerOutcome::Rejected(why) => format!("{}: {}", why.code, why.message),
                    _ => String::new(),
                };
                let notes =
                    vec![("why", why), ("money", line.money(&view)), ("cause", line.chain.join(" ← "))];
                (vec![seq, at, kind, outcome, listed(made.id), details(&view, made)], notes)
            });
            let header = ["SEQ", "TIME (UTC)", "OPERATION", "OUTCOME", "TRANSACTION", "DETAILS"];
            table::render_noted(&header, rows.collect(), self.run.out.width)
        });
        Ok(())
    }

    /// The audit of everything from a transaction on, as data.
    pub(super) async fn audit_from(&self, seq: i64) -> EngineResult<Value> {
        let view = self.view().await?;
        let all = self.transactions().await?;
        let made: Vec<&LedgerTransaction> = all.iter().filter(|made| made.seq >= seq).collect();
        let audited = self.audited(&view, &all, &made).await?;
        Ok(Value::Array(audited.iter().map(|line| line.data(&view)).collect::<EngineResult<_>>()?))
    }

    async fn audited<'m>(
        &self,
        view: &BookView,
        all: &[LedgerTransaction],
        made: &[&'m LedgerTransaction],
    ) -> EngineResult<Vec<Audited<'m>>> {
        let kinds = view.accounts.iter().map(|line| (line.account.clone(), line.kind)).collect();
        let watched = made.iter().map(|made| made.seq).collect();
        let mut flows = flow::follow(all, &kinds, &watched);
        let mut chains = self.chains(made).await?;
        let line = |made: &&'m LedgerTransaction| Audited {
            made,
            chain: chains.remove(&made.id).unwrap_or_default(),
            flow: flows.remove(&made.seq).unwrap_or_default(),
        };
        Ok(made.iter().map(line).collect())
    }

    /// Of each transaction what caused it, back to the step that did.
    async fn chains(&self, made: &[&LedgerTransaction]) -> EngineResult<BTreeMap<Id, Vec<String>>> {
        let mut known = Known::default();
        let mut of: Vec<&ConversationId> =
            made.iter().filter_map(|made| made.request.cause.conversation.as_ref()).collect();
        of.sort();
        of.dedup();
        for id in of {
            let filter = ArtifactFilter { conversation: Some(id.clone()), ..ArtifactFilter::default() };
            let found = self.run.engine.artifacts(&filter).await?;
            known.artifacts.extend(found.into_iter().map(|artifact| (artifact.id, artifact)));
            if let Some(conversation) = self.run.engine.conversation(id).await? {
                known.indices.add(conversation);
            }
        }
        Ok(made.iter().map(|made| (made.id, known.chain(made))).collect())
    }

    pub(super) async fn overview(&self) -> EngineResult<()> {
        let view = self.view().await?;
        let sum: i64 = view.accounts.iter().map(|line| line.balance.posted).sum();
        let accounts: Vec<Value> = view.accounts.iter().map(|line| account_data(&view, line)).collect();
        let data = json!({
            "book": view.book,
            "unit": view.unit,
            "scale": view.scale,
            "accounts": accounts,
            "reservations": view.reservations,
            "waiting": view.held,
            "transactions": view.transactions,
            "sum": format_amount(sum, view.scale),
        });
        self.run.show(&data, || {
            let rows = view.accounts.iter().map(|line| {
                let Balances { posted, reserved, available } = balances(&view, line);
                let (name, kind) = (line.account.to_string(), line.kind.as_str().to_owned());
                let row = vec![name, kind, posted, reserved, available, states(&view, line).join(", ")];
                (row, Vec::new())
            });
            let header = ["ACCOUNT", "KIND", "BALANCE", "SET ASIDE", "AVAILABLE", "STATE"];
            let mut text = table::render_noted(&header, rows.collect(), self.run.out.width);
            for open in &view.reservations {
                let until = until(open.expires_ms);
                let amount = money(&view, open.amount);
                text.push_str(&format!(
                    "\nreservation {}: {amount} of {} for {}{until}",
                    listed(open.id),
                    open.from,
                    open.to
                ));
            }
            for held in &view.held {
                text.push_str(&format!("\n{}", said::waiting(&view, held, self.run.out.width)));
            }
            format!(
                "{text}\n{} in book '{}', refused requests included; the sum of all accounts is {}",
                count(view.transactions, "transaction"),
                view.book,
                money(&view, sum)
            )
        });
        Ok(())
    }

    pub(super) async fn metrics(&self) -> EngineResult<()> {
        let view = self.view().await?;
        let all = self.transactions().await?;
        let committed = all.iter().filter(|made| matches!(made.outcome, LedgerOutcome::Committed(_)));
        let rejected = all.iter().filter(|made| matches!(made.outcome, LedgerOutcome::Rejected(_))).count();
        let newest: BTreeMap<Id, &LedgerOutcome> =
            all.iter().map(|made| (made.request.id, &made.outcome)).collect();
        let in_doubt = newest.values().filter(|outcome| matches!(outcome, LedgerOutcome::InDoubt(_))).count();
        let paid = committed.clone().filter(|made| !made.postings.is_empty()).count();
        let rewards =
            committed.clone().filter(|made| matches!(made.request.body, PaymentBody::Reward(_))).count();
        let volume: i128 =
            committed.flat_map(|made| &made.postings).map(|posting| i128::from(posting.amount)).sum();
        let wallets: Vec<&AccountLine> =
            view.accounts.iter().filter(|line| line.kind == AccountKind::Agent).collect();
        let total: i64 = wallets.iter().map(|line| line.balance.posted).sum();
        let supply: i64 = view
            .accounts
            .iter()
            .filter(|line| line.kind == AccountKind::Mint)
            .map(|line| -line.balance.posted)
            .sum();
        let average = mean(total, wallets.len());
        let text = |minor: i64| format_amount(minor, view.scale);
        let volume = text(i64::try_from(volume).unwrap_or(i64::MAX));
        let facts = [
            ("wallet_count", "wallets", json!(wallets.len())),
            ("total_balance", "in all wallets", json!(text(total))),
            ("average_balance", "in a wallet on average", json!(text(average))),
            ("supply", "in all accounts but mints", json!(text(supply))),
            ("transaction_count", "transactions that moved money", json!(paid)),
            ("total_volume", "moved by them", json!(volume)),
            ("rewards", "of them rewards", json!(rewards)),
            ("rejected", "refused requests", json!(rejected)),
            ("in_doubt", "requests in doubt", json!(in_doubt)),
            ("open_reservations", "open reservations", json!(view.reservations.len())),
            ("waiting_for_a_person", "waiting for a person", json!(view.held.len())),
        ];
        let data: serde_json::Map<String, Value> =
            facts.iter().map(|(key, _, value)| ((*key).to_owned(), value.clone())).collect();
        self.run.show(&Value::Object(data), || {
            let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let rows = facts.iter().map(|(_, what, value)| vec![(*what).to_owned(), plain(value)]);
            table::render(&["WHAT", "HOW MUCH"], rows.collect(), self.run.out.width)
        });
        Ok(())
    }

    pub(super) async fn verify(&self) -> EngineResult<()> {
        let report = self.run.engine.verify_ledger().await?;
        let found = report.differences.len();
        self.run.show(&data_of(&report)?, || {
            let end = if found == 0 {
                "every rule holds, equal to the live books".to_owned()
            } else {
                report.differences.join("\n")
            };
            format!(
                "{}, {}, {} folded from the first: {end}",
                count(report.books, "book"),
                count(report.accounts, "account"),
                count(report.transactions, "transaction")
            )
        });
        if found == 0 {
            return Ok(());
        }
        Err(EngineError::Differs(format!("the ledger is broken in {}", count(found, "place"))))
    }
}

fn no_account(view: &BookView, account: &str) -> EngineError {
    let book = &view.book;
    EngineError::NotFound(format!(
        "there is no account '{account}' in book '{book}'; see 'p2engine ledger overview'"
    ))
}

/// A sum over so many, rounded to the nearest minor unit, a half away from zero; 0 of none.
fn mean(sum: i64, count: usize) -> i64 {
    let Some(count) = i128::try_from(count).ok().filter(|count| *count > 0) else { return 0 };
    let twice = 2 * i128::from(sum) + count * i128::from(sum.signum());
    i64::try_from(twice / (2 * count)).unwrap_or(sum)
}

struct Balances {
    posted: String,
    reserved: String,
    available: String,
}

fn balances(view: &BookView, line: &AccountLine) -> Balances {
    let text = |minor| format_amount(minor, view.scale);
    Balances {
        posted: text(line.balance.posted),
        reserved: text(line.balance.reserved),
        available: if line.kind == AccountKind::Mint { String::new() } else { text(line.available) },
    }
}

/// What is special about an account, for people.
fn states(view: &BookView, line: &AccountLine) -> Vec<String> {
    let owes = (line.debt > 0).then(|| format!("owes {}", money(view, line.debt)));
    let frozen = line.frozen.then(|| "frozen".to_owned());
    frozen.into_iter().chain(owes).chain(said::limits(view, &line.limits)).collect()
}

fn account_data(view: &BookView, line: &AccountLine) -> Value {
    let Balances { posted, reserved, available } = balances(view, line);
    let text = |minor: i64| format_amount(minor, view.scale);
    json!({
        "account": line.account,
        "kind": line.kind.as_str(),
        "balance": posted,
        "reserved": reserved,
        "available": available,
        "debt": text(line.debt),
        "frozen": line.frozen,
        "unit": view.unit,
        "limits": {
            "credit": text(line.limits.credit),
            "transfer_max": line.limits.transfer_max.map(text),
            "day_max": line.limits.day_max.map(text),
        },
    })
}

/// The other side of a posting, and what this side had afterwards.
fn other_side(posting: &Posting, sent: bool) -> (&str, i64) {
    if sent {
        (posting.to.as_str(), posting.from_after.posted)
    } else {
        (posting.from.as_str(), posting.to_after.posted)
    }
}

fn touches(made: &LedgerTransaction, account: &str) -> bool {
    let paid = made.postings.iter().flat_map(|posting| [&posting.from, &posting.to]);
    paid.chain(made.holds.iter().map(|hold| &hold.account)).any(|name| name.as_str() == account)
}

/// A transaction with what led to it, where its money came from and where that is now.
struct Audited<'m> {
    made: &'m LedgerTransaction,
    chain: Vec<String>,
    flow: Flow,
}

impl Audited<'_> {
    fn data(&self, view: &BookView) -> EngineResult<Value> {
        let amount = |minor: i64| format_amount(minor, view.scale);
        let source = |source: &Source| json!({"mint": source.mint, "way": source.places(), "amount": amount(source.amount)});
        let now: BTreeMap<&str, String> =
            self.flow.now.iter().map(|(account, minor)| (account.as_str(), amount(*minor))).collect();
        Ok(json!({
            "transaction": data_of(self.made)?,
            "chain": self.chain,
            "money": {"from": self.flow.sources.iter().map(source).collect::<Vec<_>>(), "now": now},
        }))
    }

    /// `mint#5 > treasury > alpha; now alpha 15.00, beta 10.00`.
    fn money(&self, view: &BookView) -> String {
        let mut ways: Vec<String> = Vec::new();
        for source in &self.flow.sources {
            let way = source.places().join(" → ");
            let way = match source.mint {
                Some(seq) => format!("#{seq} {way}"),
                None => format!("credit of {way}"),
            };
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        if ways.is_empty() {
            return String::new();
        }
        let more = ways.len().saturating_sub(WAYS_SHOWN);
        ways.truncate(WAYS_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let now: Vec<String> = self
            .flow
            .now
            .iter()
            .map(|(account, minor)| format!("{account} {}", format_amount(*minor, view.scale)))
            .collect();
        let now = if now.is_empty() { "gone".to_owned() } else { format!("now {}", now.join(", ")) };
        format!("{}{more}; {now}", ways.join(" + "))
    }
}

#[cfg(test)]
mod tests {
    use super::mean;

    #[test]
    fn a_mean_is_the_nearest_amount() {
        let means = [(100, 3), (101, 3), (200, 3), (5, 2), (-5, 2), (-100, 3), (i64::MAX, 1), (7, 0)];
        assert_eq!(means.map(|(sum, count)| mean(sum, count)), [33, 34, 67, 3, -3, -33, i64::MAX, 0]);
    }
}
