//! The store against a real CQL server: Apache Cassandra, started by `deploy/dev/cassandra.sh` when
//! `P2_REAL=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// One server for all tests; a test that kills it waits for the others and keeps them waiting.
#![allow(clippy::await_holding_lock)]

mod conformance;
mod edges;
mod faults;
mod generations;
mod lost_answers;
mod made;
mod measure;
mod rebuilt;
mod server;
