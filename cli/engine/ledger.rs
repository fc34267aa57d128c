//! The ledger, as commands and the HTTP API see it.

use p2_core::ids::{AccountId, BookId, Id};
use p2_core::ledger::Book;
use p2_core::record::{AccountKind, AccountLimits, Balance, LedgerPolicy, PaymentRequest};
use serde::{Deserialize, Serialize};

/// A book as it is now. Amounts are minor units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BookView {
    /// Its name.
    pub book: BookId,
    /// The unit of account.
    pub unit: String,
    /// Its decimals.
    pub scale: i32,
    /// What is paid for scores, and what waits for a person.
    pub policy: Option<LedgerPolicy>,
    /// Its accounts, by name.
    pub accounts: Vec<AccountLine>,
    /// Open reservations.
    pub reservations: Vec<ReservationLine>,
    /// Requests that wait for a person.
    pub held: Vec<PaymentRequest>,
    /// Transactions so far, refused ones included.
    pub transactions: i64,
}

/// An account of a book.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AccountLine {
    /// Its name.
    pub account: AccountId,
    /// What it is for.
    pub kind: AccountKind,
    /// What it has.
    pub balance: Balance,
    /// What it can spend, credit included.
    pub available: i64,
    /// What its work has cost that was not there.
    #[serde(default)]
    pub debt: i64,
    /// It neither pays nor is paid.
    pub frozen: bool,
    /// What it may do.
    pub limits: AccountLimits,
}

/// An open reservation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReservationLine {
    /// Its id.
    pub id: Id,
    /// Whose money.
    pub from: AccountId,
    /// Who is to get it.
    pub to: AccountId,
    /// How much.
    pub amount: i64,
    /// When it ends by itself, milliseconds since the epoch.
    pub expires_ms: Option<i64>,
}

impl BookView {
    /// The view of a book; none where it was never opened.
    pub(crate) fn of(book: &Book) -> Option<BookView> {
        let terms = book.terms.as_ref()?;
        let accounts = book.accounts.iter().map(|(name, account)| AccountLine {
            account: name.clone(),
            kind: account.kind,
            balance: account.balance,
            available: account.spendable(),
            debt: account.debt,
            frozen: account.frozen,
            limits: account.limits,
        });
        let reservations = book.reservations.iter().map(|(id, open)| ReservationLine {
            id: *id,
            from: open.from.clone(),
            to: open.to.clone(),
            amount: open.amount,
            expires_ms: open.expires_ms,
        });
        Some(BookView {
            book: terms.book.clone(),
            unit: terms.unit.clone(),
            scale: terms.scale,
            policy: book.policy.clone(),
            accounts: accounts.collect(),
            reservations: reservations.collect(),
            held: book.held.values().cloned().collect(),
            transactions: book.next_seq,
        })
    }

    /// An account of it.
    pub(crate) fn account(&self, name: &str) -> Option<&AccountLine> {
        self.accounts.iter().find(|line| line.account.as_str() == name)
    }
}

/// What a fold of all ledger transactions from the first one showed.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct LedgerReport {
    /// Books folded.
    pub books: u64,
    /// Accounts in them.
    pub accounts: u64,
    /// Transactions folded.
    pub transactions: u64,
    /// One sentence for every rule that is broken and every difference to the live books; empty is what we want.
    pub differences: Vec<String>,
}
