//! `ledger …`.

pub(crate) mod bootstrap;
mod copy;
mod export;
mod flow;
mod requests;
mod reward;
mod said;
mod show;

use p2_core::ids::{AccountId, BookId, Id};
use p2_core::ledger::{MAIN_BOOK, format_amount, parse_amount, parse_signed};
use p2_core::record::{
    CauseKind, HoldState, LedgerOutcome, LedgerTransaction, PaymentBody, PaymentCause, PaymentRequest, Topic,
};
use p2_stream::wire;
use serde_json::json;

use super::Run;
use crate::args::{AskArgs, LedgerArgs, LedgerCommand};
use crate::engine::{BookView, EngineError, EngineResult, RecordsQuery, draw_id};

/// Records asked for at a time.
const PAGE: usize = 1_000;

/// What the ledger commands work on.
struct Desk<'r> {
    run: &'r Run,
    book: BookId,
}

/// `ledger …`.
pub(crate) async fn run(run: &Run, args: LedgerArgs) -> EngineResult<()> {
    let LedgerArgs { book, command } = args;
    let book = BookId(book);
    p2_core::ledger::check_book(&book).map_err(|refusal| EngineError::Invalid(refusal.message))?;
    let desk = Desk { run, book };
    match command {
        LedgerCommand::Init { .. }
        | LedgerCommand::Transfer { .. }
        | LedgerCommand::Mint { .. }
        | LedgerCommand::Open { .. }
        | LedgerCommand::Reserve { .. }
        | LedgerCommand::Post { .. }
        | LedgerCommand::Void { .. }
        | LedgerCommand::Freeze { .. }
        | LedgerCommand::Limits { .. }
        | LedgerCommand::Policy { .. }
        | LedgerCommand::Approve { .. }
        | LedgerCommand::Deny { .. } => desk.request(command).await,
        LedgerCommand::Copy { name } => desk.copy(name).await,
        LedgerCommand::Reward { evaluation, reason, by } => desk.reward(&evaluation, reason, by).await,
        LedgerCommand::Balance { account } => desk.balance(&account).await,
        LedgerCommand::History { account, limit } => desk.history(&account, limit).await,
        LedgerCommand::Audit { since, operation, account, limit } => {
            desk.audit(since.as_deref(), operation.as_deref(), account.as_deref(), limit).await
        }
        LedgerCommand::Overview => desk.overview().await,
        LedgerCommand::Metrics => desk.metrics().await,
        LedgerCommand::Verify => desk.verify().await,
        LedgerCommand::Export { format } => desk.export(format).await,
        // Done before an engine is opened.
        LedgerCommand::Bootstrap { .. } => Ok(()),
    }
}

/// The audit of the main book from a transaction on, as data.
pub(crate) async fn audit_from(run: &Run, seq: i64) -> EngineResult<serde_json::Value> {
    let desk = Desk { run, book: BookId::from(MAIN_BOOK) };
    desk.audit_from(seq).await
}

/// A transaction of a book.
pub(crate) async fn transaction(run: &Run, book: &BookId, id: Id) -> EngineResult<Option<LedgerTransaction>> {
    let desk = Desk { run, book: book.clone() };
    Ok(desk.transactions().await?.into_iter().rfind(|made| made.id == id))
}

/// The main book's transactions from one on.
pub(crate) async fn transactions_from(run: &Run, seq: i64) -> EngineResult<Vec<LedgerTransaction>> {
    let desk = Desk { run, book: BookId::from(MAIN_BOOK) };
    let mut made = desk.transactions().await?;
    made.retain(|made| made.seq >= seq);
    Ok(made)
}

impl Desk<'_> {
    /// The book as it is now.
    async fn view(&self) -> EngineResult<BookView> {
        self.run.engine.book(&self.book).await?.ok_or_else(|| {
            let book = &self.book;
            let which = if book.as_str() == MAIN_BOOK { String::new() } else { format!(" --book {book}") };
            let text = format!("there is no book '{book}': open it with 'p2engine ledger{which} init'");
            EngineError::NotFound(text)
        })
    }

    /// All transactions of the book, in order.
    async fn transactions(&self) -> EngineResult<Vec<LedgerTransaction>> {
        let topic = Topic::LedgerTransactions;
        let counts = self.run.engine.topic_counts().await?;
        let count = counts.iter().find(|count| count.topic == topic.short());
        let partitions = count.map_or(1, |count| count.partitions.len());
        let partition = wire::partition(self.book.as_str(), i32::try_from(partitions).unwrap_or(1));
        let (mut from, mut found) = (0, Vec::new());
        loop {
            let query = RecordsQuery { topic, partition: Some(partition), from, max: PAGE };
            let records = self.run.engine.records(&query).await?;
            let Some(last) = records.last() else { return Ok(found) };
            from = last.offset + 1;
            for record in records.into_iter().filter(|record| record.key == self.book.as_str()) {
                let at = format!("{}/{}/{}", record.topic, record.partition, record.offset);
                let made = serde_json::from_value(record.value).map_err(|error| {
                    EngineError::Internal(format!("{at} is no ledger transaction: {error}"))
                })?;
                found.push(made);
            }
        }
    }

    /// Asks, and gives the transaction; a refusal is an error.
    async fn ask(&self, ask: &AskArgs, body: PaymentBody) -> EngineResult<LedgerTransaction> {
        let id = ask.id.as_deref().map_or_else(|| Ok(draw_id()), named_id)?;
        let made = self.run.engine.pay(self.payment(id, &ask.by, &ask.reason, body)).await;
        let made = made.map_err(|error| unknown(error, &id))?;
        match made.outcome {
            LedgerOutcome::Rejected(why) => {
                Err(EngineError::Refused { code: why.code, message: why.message })
            }
            _ => Ok(made),
        }
    }

    fn payment(&self, id: Id, by: &str, reason: &str, body: PaymentBody) -> PaymentRequest {
        PaymentRequest {
            id,
            book: self.book.clone(),
            by: by.to_owned(),
            cause: PaymentCause {
                kind: CauseKind::Human,
                reference: None,
                conversation: None,
                agent: None,
                branch: None,
                reason: reason.to_owned(),
            },
            reply_to: None,
            not_after_ms: None,
            body,
        }
    }
}

/// An error after which the request may have been done, with the way to ask again.
fn unknown(error: EngineError, id: &Id) -> EngineError {
    let again =
        |text: String| format!("{text}; it may have been done: the same command with --id {id} does it once");
    match error {
        EngineError::Timeout(text) => EngineError::Timeout(again(text)),
        EngineError::Unavailable(text) => EngineError::Unavailable(again(text)),
        EngineError::Gone { message, sent: true } => {
            EngineError::Gone { message: again(message), sent: true }
        }
        other => other,
    }
}

/// An id as people give one: 32 hex digits, or any text, which is hashed.
fn named_id(text: &str) -> EngineResult<Id> {
    if text.trim().is_empty() {
        return Err(EngineError::Invalid("--id is empty: it names the request for ever".to_owned()));
    }
    Ok(text.parse().unwrap_or_else(|_| Id::of_text(text)))
}

fn account(name: &str) -> AccountId {
    AccountId::from(name)
}

/// An amount above zero.
fn amount(text: &str, scale: i32) -> EngineResult<i64> {
    parse_amount(text, scale).map_err(|bad| EngineError::Invalid(bad.to_string()))
}

/// An amount, or zero.
fn limit(text: &str, scale: i32) -> EngineResult<i64> {
    match parse_signed(text, scale) {
        Ok(minor) if minor >= 0 => Ok(minor),
        Ok(_) => Err(EngineError::Invalid(format!("'{text}' is below zero"))),
        Err(bad) => Err(EngineError::Invalid(bad.to_string())),
    }
}

/// An amount with its unit.
fn money(view: &BookView, minor: i64) -> String {
    format!("{} {}", format_amount(minor, view.scale), view.unit)
}

/// What moved, for people.
fn moved(view: &BookView, made: &LedgerTransaction) -> String {
    let mut parts: Vec<String> = made
        .holds
        .iter()
        .map(|hold| {
            let (amount, whose) = (money(view, hold.change.saturating_abs()), &hold.account);
            match (hold.state, &made.request.body) {
                (HoldState::Open, PaymentBody::Reserve(asked)) => {
                    format!("set aside {amount} of {whose} for {}", asked.to)
                }
                (HoldState::Open, _) => format!("set aside {amount} of {whose}"),
                (state, _) => format!("{} {amount} of {whose}", state.as_str()),
            }
        })
        .collect();
    parts.extend(
        made.postings
            .iter()
            .map(|posting| format!("{} -> {} {}", posting.from, posting.to, money(view, posting.amount))),
    );
    parts.join("; ")
}

/// The parts of a transaction that people and programs ask for after a request.
fn told(view: &BookView, made: &LedgerTransaction) -> serde_json::Value {
    let posting = |posting: &p2_core::record::Posting| {
        json!({
            "from": posting.from,
            "to": posting.to,
            "amount": format_amount(posting.amount, view.scale),
            "from_balance": format_amount(posting.from_after.posted, view.scale),
            "to_balance": format_amount(posting.to_after.posted, view.scale),
        })
    };
    json!({
        "transaction": made.id,
        "request": made.request.id,
        "book": made.book,
        "seq": made.seq,
        "outcome": made.outcome.as_str(),
        "operation": made.request.body.kind(),
        "unit": view.unit,
        "postings": made.postings.iter().map(posting).collect::<Vec<_>>(),
    })
}
