//! The client, the batches of settlement, and the whole processor, against the participant for tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

mod batches;
mod conformance;
mod desk;
mod live;
mod participant;
mod recovery;
