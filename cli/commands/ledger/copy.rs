//! `ledger copy`.

use p2_core::ids::{BookId, Id};
use p2_core::ledger::{Original, OriginalAccount, check_book, copied};
use serde_json::json;

use super::Desk;
use crate::args::AskArgs;
use crate::engine::{EngineError, EngineResult};

impl Desk<'_> {
    /// Opens a book that begins as this one is now.
    pub(super) async fn copy(&self, name: String) -> EngineResult<()> {
        let book = BookId(name);
        check_book(&book).map_err(|refusal| EngineError::Invalid(refusal.message))?;
        let view = self.view().await?;
        if self.run.engine.book(&book).await?.is_some() {
            let message = format!("there is a book '{book}' already: give the copy a name of its own");
            return Err(EngineError::Refused { code: "exists".to_owned(), message });
        }
        let accounts = view.accounts.iter().map(|line| OriginalAccount {
            account: line.account.clone(),
            kind: line.kind,
            posted: line.balance.posted,
            debt: line.debt,
            frozen: line.frozen,
            limits: line.limits,
        });
        let original = Original {
            unit: view.unit.clone(),
            scale: view.scale,
            policy: view.policy.clone(),
            accounts: accounts.collect(),
        };
        let bodies = copied(&original).map_err(|refusal| EngineError::Refused {
            code: refusal.code.as_str().to_owned(),
            message: refusal.message,
        })?;
        let copy = Desk { run: self.run, book };
        let of = format!("copy of {} after its transaction {}", view.book, view.transactions);
        for (nth, body) in bodies.into_iter().enumerate() {
            // Two who copy at once do it once.
            let id = Id::of_text(&format!("ledger {of}\n{}\n{nth}", copy.book));
            let ask = AskArgs { reason: of.clone(), by: "cli".to_owned(), id: Some(id.to_string()) };
            copy.ask(&ask, body).await?;
        }
        let (name, count) = (&copy.book, view.accounts.len());
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
        Ok(())
    }
}
