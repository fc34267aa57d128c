//! The stack store on CQL: the view of `state-transitions` in ScyllaDB or Apache Cassandra.
//!
//! [`migrate`] makes the tables, [`check`] compares them with this program, [`CqlStore::open`] gives the
//! [`StackStore`](p2_stream::ports::StackStore). Rows never change: each is a function of the log up to its
//! record, is one self-describing cell, and carries the record's offset as its write timestamp, so that writing
//! it again, or late, changes nothing. The reasons for the tables are in `docs/decisions/cql-store.md`.

mod applied;
mod cache;
mod cell;
mod error;
mod flavour;
mod generation;
mod head;
mod loss;
mod options;
mod read;
mod schema;
mod session;
mod statements;
mod store;
mod write;

pub use error::OpenError;
pub use flavour::Flavour;
pub use options::{LogIdentity, Options, Password, Tls};
pub use schema::{SCHEMA_VERSION, SchemaState, check, migrate};
pub use store::CqlStore;
