//! Topics as data: `topics/*.toml`, read at compile time.

use std::fmt::Write as _;

use p2_core::record::Topic;
use serde::Deserialize;

#[cfg(test)]
mod tests;

/// A topic's settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicSpec {
    /// The full name, `p2.<short>.v1`.
    pub name: String,
    /// The short name.
    pub short: String,
    /// What the key is.
    pub key: String,
    /// Partitions by default.
    pub partitions: i32,
    /// What the log does with old records.
    pub cleanup: Cleanup,
    /// How long records stay: `forever`, or days as `7d`.
    pub retention: String,
    /// The schema's file name without `.avsc`.
    pub schema: String,
    /// What a record is.
    pub doc: String,
    /// Who writes: processors, or `client` (CLI, HTTP API).
    pub producers: Vec<String>,
    /// Who reads.
    pub consumers: Vec<String>,
}

/// What the log does with old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cleanup {
    /// Dropped after the retention.
    Delete,
    /// The newest of each key stays.
    Compact,
}

/// Topics that must have the same partition count, so that one owner has all of a conversation.
pub const CO_PARTITIONED: [Topic; 4] =
    [Topic::Inbox, Topic::StateTransitions, Topic::Effects, Topic::Artifacts];

/// As [`CO_PARTITIONED`], so that one owner has all of a book.
pub const CO_PARTITIONED_BY_BOOK: [Topic; 2] = [Topic::PaymentRequests, Topic::LedgerTransactions];

fn text(topic: Topic) -> &'static str {
    match topic {
        Topic::Inbox => include_str!("../../../topics/inbox.toml"),
        Topic::StateTransitions => include_str!("../../../topics/state-transitions.toml"),
        Topic::Effects => include_str!("../../../topics/effects.toml"),
        Topic::Artifacts => include_str!("../../../topics/artifacts.toml"),
        Topic::PaymentRequests => include_str!("../../../topics/payment-requests.toml"),
        Topic::LedgerTransactions => include_str!("../../../topics/ledger-transactions.toml"),
        Topic::Registry => include_str!("../../../topics/registry.toml"),
        Topic::DeadLetters => include_str!("../../../topics/dead-letters.toml"),
    }
}

/// A topic's settings.
///
/// # Errors
/// A sentence naming the file where it is not valid; a test rules that out for the built-in ones.
pub fn spec(topic: Topic) -> Result<TopicSpec, String> {
    toml::from_str(text(topic)).map_err(|error| format!("topics/{}.toml: {error}", topic.short()))
}

/// The settings of every topic, in the order of [`Topic::ALL`].
///
/// # Errors
/// As [`spec`].
pub fn specs() -> Result<Vec<TopicSpec>, String> {
    Topic::ALL.into_iter().map(spec).collect()
}

/// Who writes and reads which topic, as text for people.
///
/// # Errors
/// As [`spec`].
pub fn topology() -> Result<String, String> {
    let specs = specs()?;
    let mut out = String::from("topics\n");
    for spec in &specs {
        let TopicSpec { short, key, partitions, retention, .. } = spec;
        let _ = writeln!(out, "  {short:<19} key {key:<13} {partitions:>2} partitions  {retention}");
    }
    let mut names: Vec<&String> =
        specs.iter().flat_map(|spec| spec.producers.iter().chain(&spec.consumers)).collect();
    names.sort();
    names.dedup();
    for name in names {
        let of = |side: fn(&TopicSpec) -> &Vec<String>| -> String {
            let topics: Vec<&str> = specs
                .iter()
                .filter(|spec| side(spec).contains(name))
                .map(|spec| spec.short.as_str())
                .collect();
            topics.join(", ")
        };
        let _ =
            writeln!(out, "{name}\n  reads   {}\n  writes  {}", of(|s| &s.consumers), of(|s| &s.producers));
    }
    Ok(out)
}
