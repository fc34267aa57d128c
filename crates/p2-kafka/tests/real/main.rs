//! Everything that needs a real Kafka. Skipped, with a line, unless `P2_REAL=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(unreachable_pub, missing_docs)]

mod bank;
mod broker;
mod brokers;
mod clients;
mod conversations;
mod copier;
mod faults;
mod followers;
#[cfg(feature = "oidc")]
mod oauth;
mod port;
mod processes;
mod proxy;
#[cfg(feature = "tls")]
mod secure;
