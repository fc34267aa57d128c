//! `ledger copy`.

use std::collections::BTreeSet;

use p2_core::ids::{BookId, Id};
use p2_core::ledger::{Book, Original, OriginalAccount, check_book, copied};
use p2_core::record::{LedgerOutcome, LedgerTransaction, PaymentBody};
use serde_json::json;

use super::Desk;
use crate::args::AskArgs;
use crate::engine::{BookView, EngineError, EngineResult};

impl Desk<'_> {
    /// Opens a book that begins as this one is now; one that was cut off is finished, as this one was when it began.
    pub(super) async fn copy(&self, name: String) -> EngineResult<()> {
        let book = BookId(name);
        check_book(&book).map_err(|refusal| EngineError::Invalid(refusal.message))?;
        let copy = Desk { run: self.run, book };
        let (view, made) = match self.run.engine.book(&copy.book).await? {
            None => (self.view().await?, BTreeSet::new()),
            Some(_) => self.begun(&copy).await?,
        };
        let bodies = copied(&original(&view)).map_err(|refusal| EngineError::Refused {
            code: refusal.code.as_str().to_owned(),
            message: refusal.message,
        })?;
        let of = of(&view.book, view.transactions);
        let ids: Vec<Id> = (0..bodies.len()).map(|nth| id(&of, &copy.book, nth)).collect();
        if ids.iter().all(|id| made.contains(id)) {
            return Err(exists(&copy.book));
        }
        if !made.is_empty() {
            let left = ids.iter().filter(|id| !made.contains(id)).count();
            let book = &copy.book;
            self.run
                .out
                .remark(&format!("'{book}' is half a {of}: it is finished now, {left} steps are missing"));
        }
        for (id, body) in ids.into_iter().zip(bodies).filter(|(id, _)| !made.contains(id)) {
            // Two who copy at once do it once.
            let ask = AskArgs { reason: of.clone(), by: "cli".to_owned(), id: Some(id.to_string()) };
            copy.ask(&ask, body).await.map_err(|error| self.half(&copy.book, error))?;
        }
        self.tell_copy(&copy.book, &view);
        Ok(())
    }

    /// What a copy that somebody began is of, and what is done of it.
    async fn begun(&self, copy: &Desk<'_>) -> EngineResult<(BookView, BTreeSet<Id>)> {
        let made = copy.transactions().await?;
        let opened = made.iter().find(|made| {
            matches!(
                (&made.request.body, &made.outcome),
                (PaymentBody::OpenBook(_), LedgerOutcome::Committed(_))
            )
        });
        let after = opened.and_then(|opened| self.after(copy, opened)).ok_or_else(|| exists(&copy.book))?;
        let mut book = Book::default();
        for made in self.transactions().await?.iter().filter(|made| made.seq < after) {
            book.apply(made).map_err(EngineError::Internal)?;
        }
        let view = BookView::of(&book).ok_or_else(|| exists(&copy.book))?;
        let done = |made: &&LedgerTransaction| matches!(made.outcome, LedgerOutcome::Committed(_));
        Ok((view, made.iter().filter(done).map(|made| made.request.id).collect()))
    }

    /// After how many transactions of this book a copy was begun, where it is a copy of this one.
    fn after(&self, copy: &Desk<'_>, opened: &LedgerTransaction) -> Option<i64> {
        let (_, after) = opened.request.cause.reason.rsplit_once(' ')?;
        let after = after.parse().ok()?;
        (opened.request.id == id(&of(&self.book, after), &copy.book, 0)).then_some(after)
    }

    /// What is said where a step of a copy fails.
    fn half(&self, copy: &BookId, error: EngineError) -> EngineError {
        match error {
            EngineError::Refused { code, message } => EngineError::Refused {
                code,
                message: format!(
                    "'{copy}' is half a copy of '{}' and cannot be finished: {message}",
                    self.book
                ),
            },
            other => other,
        }
    }

    fn tell_copy(&self, name: &BookId, view: &BookView) {
        let count = view.accounts.len();
        let data = json!({
            "book": name, "of": view.book, "transactions": view.transactions, "accounts": count,
            "reservations_left_out": view.reservations.len(), "waiting_left_out": view.held.len(),
        });
        self.run.show(&data, || {
            let under_way = match view.reservations.len() + view.held.len() {
                0 => String::new(),
                1 => "; 1 reservation or waiting request was left out".to_owned(),
                more => format!("; {more} reservations and waiting requests were left out"),
            };
            let accounts = if count == 1 { "account" } else { "accounts" };
            format!("Opened '{name}', a copy of '{}' with {count} {accounts}{under_way}", view.book)
        });
    }
}

/// The reason of every request of a copy. What follows is worked out from it, so that a second run asks the same.
fn of(book: &BookId, transactions: i64) -> String {
    format!("copy of {book} after its transaction {transactions}")
}

fn id(of: &str, copy: &BookId, nth: usize) -> Id {
    Id::of_text(&format!("ledger {of}\n{copy}\n{nth}"))
}

fn exists(book: &BookId) -> EngineError {
    let message = format!("there is a book '{book}' already: give the copy a name of its own");
    EngineError::Refused { code: "exists".to_owned(), message }
}

fn original(view: &BookView) -> Original {
    let accounts = view.accounts.iter().map(|line| OriginalAccount {
        account: line.account.clone(),
        kind: line.kind,
        posted: line.balance.posted,
        debt: line.debt,
        frozen: line.frozen,
        limits: line.limits,
    });
    Original {
        unit: view.unit.clone(),
        scale: view.scale,
        policy: view.policy.clone(),
        accounts: accounts.collect(),
    }
}
