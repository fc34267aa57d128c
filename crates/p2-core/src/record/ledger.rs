//! The records of `ledger-transactions`, and what conversations are told of them.

use serde::{Deserialize, Serialize};

use super::{AccountKind, PaymentRequest};
use crate::ids::{AccountId, BookId, Id};
use crate::json_text::JsonText;

/// What became of one payment request. Folding all transactions of a book in order gives the book.
///
/// It holds the request, since requests are kept for a week and this for ever; it holds what moved and what every
/// account had afterwards, so that it can be read without the ones before it, and a fold can check itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerTransaction {
    /// Its id, derived from book, `seq` and request.
    pub id: Id,
    /// The book.
    pub book: BookId,
    /// Counts the book's transactions from 0 without gaps, refused ones included.
    pub seq: i64,
    /// The id of the transaction before it; absent for the first.
    pub previous: Option<Id>,
    /// What was asked.
    pub request: PaymentRequest,
    /// What was set aside or given back, in order, before any posting.
    pub holds: Vec<Hold>,
    /// What moved, in order.
    pub postings: Vec<Posting>,
    /// What became of it.
    pub outcome: LedgerOutcome,
    /// When it was decided, milliseconds since the epoch.
    pub time_ms: i64,
}

/// What an account has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Balance {
    /// What was paid to it less what it paid.
    pub posted: i64,
    /// Of that, what is set aside.
    pub reserved: i64,
}

impl Balance {
    /// What it can spend, credit aside.
    pub fn available(self) -> i64 {
        self.posted.saturating_sub(self.reserved)
    }
}

/// Money moved from one account to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Posting {
    /// Who paid.
    pub from: AccountId,
    /// Who got it.
    pub to: AccountId,
    /// How much.
    pub amount: i64,
    /// What the payer had afterwards.
    pub from_after: Balance,
    /// What the receiver had afterwards.
    pub to_after: Balance,
}

/// Money was set aside, or is no longer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// The reservation: the id of the request that made it.
    pub reservation: Id,
    /// Whose money.
    pub account: AccountId,
    /// How much: above zero set aside, below zero given back.
    pub change: i64,
    /// What the account had afterwards.
    pub after: Balance,
    /// What the reservation is from then on.
    pub state: HoldState,
}

/// What a reservation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HoldState {
    /// The money is set aside.
    Open,
    /// It was paid.
    Posted,
    /// It was given back.
    Voided,
    /// Its time was over.
    Expired,
}

impl HoldState {
    /// Lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            HoldState::Open => "open",
            HoldState::Posted => "posted",
            HoldState::Voided => "voided",
            HoldState::Expired => "expired",
        }
    }
}

/// What became of a request. The first two are final, the others are followed by another transaction of the same
/// request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum LedgerOutcome {
    /// It was done.
    Committed(Committed),
    /// It was not done and will not be.
    Rejected(Rejected),
    /// It waits for a person.
    Pending(Pending),
    /// It was given to an outside ledger, and nobody knows whether it was done.
    InDoubt(InDoubt),
    /// It is about to be given to an outside ledger, in a batch that is fixed by this.
    Planned(Box<Planned>),
    /// It waits for the batch before it; so far nobody outside knows of it.
    Queued(Queued),
}

impl LedgerOutcome {
    /// Snake-case name.
    pub fn as_str(&self) -> &'static str {
        match self {
            LedgerOutcome::Committed(_) => "committed",
            LedgerOutcome::Rejected(_) => "rejected",
            LedgerOutcome::Pending(_) => "pending",
            LedgerOutcome::InDoubt(_) => "in_doubt",
            LedgerOutcome::Planned(_) => "planned",
            LedgerOutcome::Queued(_) => "queued",
        }
    }
}

/// It was done.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Committed {
    /// The version of the policy that said how much, for a reward.
    pub policy: Option<i32>,
    /// What an outside ledger calls it.
    pub external: Option<String>,
}

/// It was not done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    /// A stable code, see docs/ledger.md.
    pub code: String,
    /// One sentence for people and models: what, where, how to mend.
    pub message: String,
}

/// It waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Why, in a sentence.
    pub message: String,
}

/// Nobody knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InDoubt {
    /// Why, in a sentence.
    pub message: String,
}

/// A place in a batch for an outside ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// The batch.
    pub batch: Id,
    /// Its place in the batch, from 0.
    pub index: i32,
    /// How many the batch has.
    pub of: i32,
    /// The outside ledger's idempotency key of the whole batch.
    pub command: String,
    /// What is submitted for the request and what becomes of it if the batch is taken, a JSON object.
    pub data: Option<JsonText>,
}

/// It waits for the batch before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Queued {
    /// Why, in a sentence.
    pub message: String,
}

/// How a payment ended, for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaymentStatus {
    /// It was done.
    Committed,
    /// It was not done and will not be.
    Rejected,
    /// It waits for a person.
    Pending,
    /// Nobody knows yet.
    InDoubt,
}

impl PaymentStatus {
    /// Snake-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            PaymentStatus::Committed => "committed",
            PaymentStatus::Rejected => "rejected",
            PaymentStatus::Pending => "pending",
            PaymentStatus::InDoubt => "in_doubt",
        }
    }
}

/// The result of a payment request, to the conversation that asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaymentResult {
    /// The request.
    pub request: Id,
    /// The wait that it closes.
    pub wait: Id,
    /// The call's `call_id`.
    pub call_id: String,
    /// How it ended.
    pub status: PaymentStatus,
    /// `ok`, or the code of the refusal.
    pub code: String,
    /// One sentence; empty where it was done.
    pub message: String,
    /// The ledger transaction; none for a query.
    pub transaction: Option<Id>,
    /// What moved. Empty in the answer to a request that was answered before.
    pub postings: Vec<Posting>,
    /// The unit of the book; empty where there is no such book.
    pub unit: String,
    /// Its decimals.
    pub scale: i32,
    /// The answer to a query.
    pub account: Option<AccountView>,
}

/// An account, for whoever asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccountView {
    /// Its name.
    pub account: AccountId,
    /// What it is for.
    pub kind: AccountKind,
    /// What it has.
    pub balance: Balance,
    /// It neither pays nor is paid.
    pub frozen: bool,
    /// The newest movements asked for, newest first.
    pub movements: Vec<Movement>,
}

/// One movement, seen from one account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Movement {
    /// The ledger transaction.
    pub transaction: Id,
    /// When, milliseconds since the epoch.
    pub time_ms: i64,
    /// The other side.
    pub other: AccountId,
    /// How much: above zero it was paid to the account, below zero it paid.
    pub amount: i64,
    /// What the account had afterwards.
    pub posted: i64,
    /// Why.
    pub reason: String,
}

/// What became of a payment request, as an artifact of the conversation that it concerns (`ledger:<book>` where it
/// concerns none).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Payment {
    /// The book.
    pub book: BookId,
    /// The request.
    pub request: Id,
    /// The ledger transaction.
    pub transaction: Id,
    /// What was asked: the request's kind.
    pub operation: String,
    /// `committed`, `rejected`, `pending`, `in_doubt` or `planned`.
    pub outcome: String,
    /// `ok`, or the code of the refusal.
    pub code: String,
    /// What moved.
    pub postings: Vec<Posting>,
}
