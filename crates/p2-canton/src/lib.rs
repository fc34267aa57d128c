//! Books on a Canton ledger, over its JSON Ledger API v2.
//!
//! [`Client`] speaks the protocol; [`CantonLedger`] submits the batches of `settlement` with it; [`bootstrap`] makes a
//! participant ready for both. What is on the ledger is the model of `daml/`: holdings, receipts, and one cursor for
//! each book, whose consuming choice is the only thing that moves money.
//!
//! A batch happens once. Its command id is the same at every try, so the participant refuses a repetition while its
//! deduplication window lasts; for ever, every try consumes the cursor of the book and says what the cursor must be
//! at, so that of all tries, of whatever process, one can succeed; and before a batch that may have been submitted is
//! submitted again, the cursor is read.

mod bootstrap;
mod client;
mod config;
mod error;
mod inputs;
mod ledger;
mod model;
mod view;

pub use bootstrap::{Bootstrapped, bootstrap};
pub use client::{ActiveContract, Client, Command, Created, Submission, Transaction};
pub use config::{BadConfig, CantonConfig};
pub use error::{CantonError, Class};
pub use ledger::CantonLedger;
