//! The log on Apache Kafka.
//!
//! [`KafkaLog`] implements the port [`p2_stream::ports::Log`]: what a processor read, wrote and how far it got
//! is one Kafka transaction, and only committed records are ever read. [`topics`] creates and checks the topics.
//!
//! How it is built, and which hazards each part closes:
//!
//! - `poller`: one thread per member polls its consumer, always, also while everything is paused, so that slow
//!   calls never cost the membership. Rebalance callbacks (`callbacks`) run there and become events.
//! - `ownership`: which partition is whose, as a value. A commit takes the group's metadata in one critical
//!   section with that check and the callbacks; what was prepared under an earlier assignment is refused.
//! - `transactor`: one transactional producer. It waits for all delivery reports before the offsets and the
//!   commit. After a commit that failed or timed out the producer is replaced: the broker then says what became
//!   of the transaction before anything else is sent.
//! - `producer`: producers that cost nothing while nothing is sent.
//! - `committer`: ties these together and settles commits whose outcome is unknown.
//! - `fence`: a group's progress, asked so that most answers from a part of it are not taken for all.
//! - `follower`: reads on outside of any group, from offsets that it keeps itself.
//! - `reader`: ranges of committed records. "Nothing there" is only said when no open transaction can still
//!   become visible below the end.
//!
//! Blocking calls of the client library run on threads of their own, never on those of the async runtime.

mod begin;
mod behind;
mod callbacks;
mod committer;
mod config;
mod context;
mod fence;
mod follower;
mod log;
mod member;
mod ownership;
mod poller;
mod producer;
mod reader;
mod records;
pub mod topics;
mod transactor;

pub use begin::{Begin, begin_group};
pub use config::{GroupProtocol, KafkaConfig};
pub use log::KafkaLog;
