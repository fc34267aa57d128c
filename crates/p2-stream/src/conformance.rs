//! What every [`Log`](crate::ports::Log) and every [`StackStore`](crate::ports::StackStore) must do, as test
//! bodies: each implementation runs the same, embedded or external.
//!
//! Every body gets a fresh, empty log (topics of at least four partitions) or store. They panic where the
//! promise is broken, as tests do; nothing else may call them. Nothing in them rests on one process: offsets
//! may have gaps (markers of transactions), a rebalance may take everything away and give it back, members are
//! polled side by side, and what takes time is waited for up to a limit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod follow;
mod log;
mod store;

use std::future::Future;
use std::time::Duration;

pub use log::{LogTraits, log_conformance, log_conformance_of, log_start_conformance};
pub use store::{store_conformance, store_identity_conformance};

/// Runs one body; one that does not end is a failure that names it.
async fn within(limit: Duration, name: &str, body: impl Future<Output = ()>) {
    let ended = tokio::time::timeout(limit, body).await;
    assert!(ended.is_ok(), "{name} was not done within {limit:?}");
}
