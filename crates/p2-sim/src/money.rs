//! Money beside the ledger: a bookkeeper with rules of its own, and people who pay at random.

mod bookkeeper;
mod payers;
mod rules;

pub use bookkeeper::{Bookkeeper, Purse, Standing};
pub use payers::{AGENTS, BOOKS, Payers, SPENDING, opening, request};
