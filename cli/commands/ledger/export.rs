//! `ledger export`: movements for other programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use p2_core::ids::AccountId;
use p2_core::ledger::format_amount;
use p2_core::record::{AccountKind, LedgerTransaction};
use serde_json::json;

use super::Desk;
use crate::args::Format;
use crate::engine::{BookView, EngineResult};
use crate::views::{is_unseen, time};

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

impl Desk<'_> {
    pub(super) async fn export(&self, format: Format) -> EngineResult<()> {
        let view = self.view().await?;
        // A book that is paid in meanwhile is exported as of its view.
        let mut made = self.transactions().await?;
        made.retain(|made| made.seq < view.transactions);
        let text = match format {
            Format::Csv => csv(&view, &made),
            Format::Beancount => beancount(&view, &made),
        };
        if self.run.out.json {
            let name = if format == Format::Csv { "csv" } else { "beancount" };
            self.run.out.data(&json!({"format": name, "text": text}));
        } else {
            self.run.out.file(&text);
        }
        Ok(())
    }
}

/// One line per posting.
pub(super) fn csv(view: &BookView, made: &[LedgerTransaction]) -> String {
    let mut text = String::from(
        "seq,time,transaction,request,operation,from,to,amount,unit,from_balance,to_balance,cause,by,reason\r\n",
    );
    for made in made {
        for posting in &made.postings {
            let money = |minor| format_amount(minor, view.scale);
            let cells = [
                made.seq.to_string(),
                time(made.time_ms),
                made.id.to_string(),
                made.request.id.to_string(),
                made.request.body.kind().to_owned(),
                posting.from.to_string(),
                posting.to.to_string(),
                money(posting.amount),
                view.unit.clone(),
                money(posting.from_after.posted),
                money(posting.to_after.posted),
                made.request.cause.kind.as_str().to_owned(),
                foreign(&made.request.by),
                foreign(&made.request.cause.reason),
            ];
            let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
            let _ = write!(text, "{}\r\n", cells.join(","));
        }
    }
    text
}

/// A text of others that a spreadsheet could take for a formula is marked as text: as it is, without the blanks before
/// it, or in full-width characters.
fn foreign(text: &str) -> String {
    let formula = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];
    let odd = |c: char| formula.contains(&c) || c.is_whitespace() || is_unseen(c);
    if text.starts_with(odd) { format!("'{text}") } else { text.to_owned() }
}

fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

/// Accounts, movements, and at the end what each account must have: the reader checks the sums.
pub(super) fn beancount(view: &BookView, made: &[LedgerTransaction]) -> String {
    let names: BTreeMap<&AccountId, String> =
        view.accounts.iter().map(|line| (&line.account, name(line.kind, &line.account))).collect();
    let named = |account: &AccountId| {
        names.get(account).cloned().unwrap_or_else(|| name(AccountKind::Escrow, account))
    };
    let first = made.first().map_or(0, |made| made.time_ms);
    let mut text = format!("option \"title\" \"p2engine, book {}\"\n", view.book);
    let _ = writeln!(text, "option \"operating_currency\" \"{}\"\n", view.unit);
    let _ = writeln!(text, "{} commodity {}", day(first), view.unit);
    for (account, name) in &names {
        let _ = writeln!(text, "{} open {name} {}\n  name: \"{account}\"", day(first), view.unit);
    }
    for made in made.iter().filter(|made| !made.postings.is_empty()) {
        let (by, why) = (string(&made.request.by), string(&made.request.cause.reason));
        let _ = writeln!(text, "\n{} * {by} {why}", day(made.time_ms));
        let (id, request) = (made.id, made.request.id);
        let _ = writeln!(text, "  transaction: \"{id}\"\n  request: \"{request}\"\n  seq: {}", made.seq);
        let (kind, cause) = (made.request.body.kind(), made.request.cause.kind.as_str());
        let _ = writeln!(text, "  operation: \"{kind}\"\n  cause: \"{cause}\"");
        for posting in &made.postings {
            let money = |minor| format!("{} {}", format_amount(minor, view.scale), view.unit);
            let _ = writeln!(text, "  {}  {}", named(&posting.from), money(-posting.amount));
            let _ = writeln!(text, "  {}  {}", named(&posting.to), money(posting.amount));
        }
    }
    // A balance is that of the day's beginning.
    let after = made.last().map_or(0, |made| made.time_ms).saturating_add(DAY_MS);
    text.push('\n');
    for line in &view.accounts {
        let posted = format_amount(line.balance.posted, view.scale);
        let _ = writeln!(text, "{} balance {}  {posted} {}", day(after), named(&line.account), view.unit);
    }
    text
}

fn day(time_ms: i64) -> String {
    time(time_ms).chars().take(10).collect()
}

fn string(text: &str) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    format!("\"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\""))
}

/// An account as Beancount has them: words that begin with a capital, of letters, digits and `-`. What is neither is
/// its code point in hex between two `-`, so that no two accounts have one name.
fn name(kind: AccountKind, account: &AccountId) -> String {
    let root = match kind {
        AccountKind::Mint => "Equity:Mint",
        AccountKind::Agent => "Assets:Agent",
        AccountKind::Treasury => "Assets:Treasury",
        AccountKind::Fees => "Assets:Fees",
        AccountKind::Escrow => "Assets:Escrow",
    };
    let mut word = String::from("A-");
    for c in account.as_str().chars() {
        if c.is_ascii_alphanumeric() {
            word.push(c);
        } else {
            let _ = write!(word, "-{:X}-", u32::from(c));
        }
    }
    format!("{root}:{word}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_begins_like_a_formula_is_one() {
        for text in [
            "=1",
            "+1",
            "-1",
            "@a",
            "\t=1",
            "\n=1",
            "\r=1",
            " =1",
            "\u{a0}=1",
            "\u{feff}=1",
            "＝1",
            "＋1",
            "－1",
            "＠a",
        ] {
            assert_eq!(foreign(text), format!("'{text}"));
        }
        assert_eq!(foreign("order 17 = paid"), "order 17 = paid");
    }
}
