//! The Avro schemas: `schemas/*.avsc` now, `schemas/history/<topic>/<n>.avsc` as ever published.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use p2_core::record::Topic;

/// (topic, the schema in force, every published version, oldest first).
pub(super) type Source = (Topic, &'static str, &'static [&'static str]);

pub(super) const SOURCES: [Source; 8] = [
    (
        Topic::Inbox,
        include_str!("../../../../schemas/inbox.avsc"),
        &[
            include_str!("../../../../schemas/history/inbox/1.avsc"),
            include_str!("../../../../schemas/history/inbox/2.avsc"),
            include_str!("../../../../schemas/history/inbox/3.avsc"),
            include_str!("../../../../schemas/history/inbox/4.avsc"),
        ],
    ),
    (
        Topic::StateTransitions,
        include_str!("../../../../schemas/state-transitions.avsc"),
        &[
            include_str!("../../../../schemas/history/state-transitions/1.avsc"),
            include_str!("../../../../schemas/history/state-transitions/2.avsc"),
            include_str!("../../../../schemas/history/state-transitions/3.avsc"),
        ],
    ),
    (
        Topic::Effects,
        include_str!("../../../../schemas/effects.avsc"),
        &[
            include_str!("../../../../schemas/history/effects/1.avsc"),
            include_str!("../../../../schemas/history/effects/2.avsc"),
            include_str!("../../../../schemas/history/effects/3.avsc"),
        ],
    ),
    (
        Topic::Artifacts,
        include_str!("../../../../schemas/artifacts.avsc"),
        &[
            include_str!("../../../../schemas/history/artifacts/1.avsc"),
            include_str!("../../../../schemas/history/artifacts/2.avsc"),
        ],
    ),
    (
        Topic::PaymentRequests,
        include_str!("../../../../schemas/payment-requests.avsc"),
        &[
            include_str!("../../../../schemas/history/payment-requests/1.avsc"),
            include_str!("../../../../schemas/history/payment-requests/2.avsc"),
            include_str!("../../../../schemas/history/payment-requests/3.avsc"),
        ],
    ),
    (
        Topic::LedgerTransactions,
        include_str!("../../../../schemas/ledger-transactions.avsc"),
        &[
            include_str!("../../../../schemas/history/ledger-transactions/1.avsc"),
            include_str!("../../../../schemas/history/ledger-transactions/2.avsc"),
            include_str!("../../../../schemas/history/ledger-transactions/3.avsc"),
        ],
    ),
    (
        Topic::Registry,
        include_str!("../../../../schemas/registry.avsc"),
        &[include_str!("../../../../schemas/history/registry/1.avsc")],
    ),
    (
        Topic::DeadLetters,
        include_str!("../../../../schemas/dead-letters.avsc"),
        &[include_str!("../../../../schemas/history/dead-letters/1.avsc")],
    ),
];

/// A schema and the 8 bytes that name it in single-object encoding.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) schema: Schema,
    pub(super) fingerprint: [u8; 8],
}

/// All schemas of one topic.
#[derive(Debug)]
pub(super) struct Schemas {
    pub(super) current: Named,
    /// Every other version, by fingerprint.
    pub(super) older: BTreeMap<[u8; 8], Schema>,
}

/// The schemas of a topic, parsed once.
///
/// # Errors
/// A sentence where a schema does not parse; a test rules that out for those that ship.
pub(super) fn of(topic: Topic) -> Result<&'static Schemas, String> {
    static PARSED: OnceLock<Result<BTreeMap<Topic, Schemas>, String>> = OnceLock::new();
    let parsed = PARSED.get_or_init(|| SOURCES.iter().map(parse).collect());
    let all = parsed.as_ref().map_err(Clone::clone)?;
    all.get(&topic).ok_or_else(|| format!("topic '{}' has no schema", topic.short()))
}

fn parse((topic, current, history): &Source) -> Result<(Topic, Schemas), String> {
    let current = named(topic, current)?;
    let mut older = BTreeMap::new();
    for text in *history {
        let version = named(topic, text)?;
        if version.fingerprint != current.fingerprint {
            older.insert(version.fingerprint, version.schema);
        }
    }
    Ok((*topic, Schemas { current, older }))
}

fn named(topic: &Topic, text: &str) -> Result<Named, String> {
    let schema = Schema::parse_str(text).map_err(|e| format!("schema of '{}': {e}", topic.short()))?;
    let fingerprint =
        fingerprint(&schema).map_err(|reason| format!("schema of '{}': {reason}", topic.short()))?;
    Ok(Named { schema, fingerprint })
}

/// What names a schema in single-object encoding.
pub(super) fn fingerprint(schema: &Schema) -> Result<[u8; 8], String> {
    let digest = schema.fingerprint::<Rabin>();
    <[u8; 8]>::try_from(digest.bytes.as_slice()).map_err(|_| "a fingerprint that is not 8 bytes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_in_force_is_the_newest_published_one() {
        for (topic, current, history) in SOURCES {
            assert_eq!(Some(&current), history.last(), "publish {} to schemas/history first", topic.short());
        }
    }

    #[test]
    fn every_schema_parses_and_has_its_own_fingerprint() {
        let mut seen = BTreeMap::new();
        for topic in Topic::ALL {
            let fingerprint = of(topic).unwrap().current.fingerprint;
            assert_eq!(seen.insert(fingerprint, topic), None);
        }
    }
}
