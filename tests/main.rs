//! One binary for all end-to-end tests. They start the built binary, each in a place of its own ([`home`]).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod apply;
mod branches;
mod budgets;
mod chat;
mod cli;
mod cluster;
mod crash;
mod eval;
mod home;
mod human;
mod ledger;
mod logs;
mod metrics;
mod operate;
mod rewards;
mod stop;
mod tidy;
