//! The rules of the ledger: double entry over the accounts of a book, in integer minor units.
//!
//! A [`Book`] is a fold of its `ledger-transactions`. [`decide`] answers a payment request on a book; what it
//! returns is taken in with [`Book::apply`], which checks it against the rules once more: no sum is believed that
//! does not follow from the transactions before it.
//!
//! What always holds (promise 6 of the design): the sum of all accounts is 0; no account but a mint has less than
//! its credit allows, but for what finished work has cost beyond what was set aside (its debt); a request id has one answer for ever; a reservation ends once.

mod amount;
mod answer;
mod apply;
mod book;
mod check;
mod copying;
mod decide;
mod draft;
mod names;
mod outside;
mod reward;
mod shared;
#[cfg(test)]
mod tests;

pub use amount::{AMOUNT_MAX, BadAmount, format_amount, parse_amount, parse_decimal, parse_signed};
pub use answer::{Answer, Code, Refusal, conflict, digest};
pub use book::{Account, Book, MOVEMENTS_MAX, Reservation, Terms};
pub use copying::{Original, OriginalAccount, copied};
pub use decide::{LEGS_MAX, Ruling, decide, decide_and_apply, due, expiry_id};
pub use names::{BUDGET, budget_account, check_account, check_book, check_name, is_budget};
pub use outside::{
    Batching, Entry, EntryKind, Made, Outside, Part, PartTerms, Plan, Submission, Submitted, decide_outside,
    due_outside, replied,
};
pub use reward::{default_policy, may_be_asked_again, reward_again_id, reward_id};
pub use shared::{Accounts, Movements};

/// The name of a book's mint, as `ledger init` opens it.
pub const MINT: &str = "mint";
/// The name of a book's treasury.
pub const TREASURY: &str = "treasury";
/// The name of the account that is paid for work.
pub const FEES: &str = "fees";
/// The book that is meant where none is named.
pub const MAIN_BOOK: &str = "main";
