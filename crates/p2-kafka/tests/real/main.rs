//! Everything that needs a real Kafka. Skipped, with a line, unless `P2_REAL=1`.

mod broker;
mod copier;
mod faults;
mod port;
mod proxy;
