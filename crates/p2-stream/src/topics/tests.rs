use expect_test::expect;

use super::*;

#[test]
fn topic_files_and_code_name_the_same_topics() {
    let specs = specs().unwrap();
    assert_eq!(specs.len(), Topic::ALL.len());
    for (spec, topic) in specs.iter().zip(Topic::ALL) {
        assert_eq!(spec.short, topic.short());
        assert_eq!(spec.name, topic.name());
        assert_eq!(spec.schema, topic.short());
        assert!(spec.partitions > 0 && !spec.doc.is_empty());
        let days = spec.retention.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
        assert!(spec.retention == "forever" || days.is_some(), "{}", spec.retention);
    }
}

#[test]
fn there_is_no_topic_file_that_the_code_does_not_know() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../topics");
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(Topic::parse(name.trim_end_matches(".toml")).is_some(), "{name}");
    }
}

#[test]
fn topics_keyed_by_conversation_have_the_same_partition_count() {
    let keyed: Vec<Topic> =
        Topic::ALL.into_iter().filter(|topic| spec(*topic).unwrap().key == "conversation").collect();
    assert_eq!(keyed, CO_PARTITIONED);
    for topic in CO_PARTITIONED {
        assert_eq!(spec(topic).unwrap().partitions, spec(Topic::Inbox).unwrap().partitions);
    }
}

#[test]
fn topics_keyed_by_book_have_the_same_partition_count() {
    let keyed: Vec<Topic> =
        Topic::ALL.into_iter().filter(|topic| spec(*topic).unwrap().key == "book").collect();
    assert_eq!(keyed, CO_PARTITIONED_BY_BOOK);
    let [requests, transactions] = CO_PARTITIONED_BY_BOOK.map(|topic| spec(topic).unwrap().partitions);
    assert_eq!(requests, transactions);
}

#[test]
fn the_registry_has_one_partition_and_is_compacted() {
    let registry = spec(Topic::Registry).unwrap();
    assert_eq!((registry.partitions, registry.cleanup), (1, Cleanup::Compact));
}

#[test]
fn the_topology_is_the_golden_text() {
    expect![[r#"
        topics
          inbox               key conversation  16 partitions  7d
          state-transitions   key conversation  16 partitions  forever
          effects             key conversation  16 partitions  7d
          artifacts           key conversation  16 partitions  forever
          payment-requests    key book          16 partitions  7d
          ledger-transactions key book          16 partitions  forever
          registry            key definition     1 partitions  forever
          dead-letters        key original      16 partitions  30d
        agent-step
          reads   inbox, state-transitions, registry
          writes  inbox, state-transitions, effects, artifacts, payment-requests, dead-letters
        client
          reads   artifacts, ledger-transactions, dead-letters
          writes  inbox, artifacts, payment-requests, registry
        evaluator
          reads   artifacts, registry
          writes  artifacts, payment-requests, dead-letters
        settlement
          reads   payment-requests, ledger-transactions
          writes  inbox, artifacts, ledger-transactions, dead-letters
        tool-exec
          reads   effects, registry
          writes  inbox, artifacts, dead-letters
    "#]]
    .assert_eq(&topology().unwrap());
}
