use expect_test::expect;

use super::*;

fn all(flavour: Flavour) -> String {
    let texts = format!("{:#?}", Texts::new("p2", flavour));
    format!("{}\n{}", keyspace("p2", 3, flavour), texts)
}

#[test]
fn scylla_and_cassandra_differ_in_these_lines_only() {
    let (scylla, cassandra) = (all(Flavour::Scylla), all(Flavour::Cassandra));
    let differing: Vec<String> = scylla
        .lines()
        .zip(cassandra.lines())
        .filter(|(scylla, cassandra)| scylla != cassandra)
        .map(|(scylla, cassandra)| format!("scylla:    {}\ncassandra: {}\n", scylla.trim(), cassandra.trim()))
        .collect();
    expect![[r#"
        scylla:    CREATE KEYSPACE IF NOT EXISTS p2 WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 3} AND tablets = {'enabled': false}
        cassandra: CREATE KEYSPACE IF NOT EXISTS p2 WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 3}
        scylla:    heads: "SELECT conversation, cell FROM p2.conversations WHERE generation = ? AND log_partition = ? AND shard = ? BYPASS CACHE",
        cassandra: heads: "SELECT conversation, cell FROM p2.conversations WHERE generation = ? AND log_partition = ? AND shard = ?",
    "#]].assert_eq(&differing.concat());
}

#[test]
fn cassandra_is_sent_nothing_that_it_refuses() {
    let text = all(Flavour::Cassandra);
    for word in ["BYPASS CACHE", "USING TIMEOUT", "tablets", "tombstone_gc", "paxos_grace", "ALLOW FILTERING"]
    {
        assert!(!text.contains(word), "{word}");
    }
    for flavour in [Flavour::Scylla, Flavour::Cassandra] {
        let text = all(flavour) + &migration(1, "p2").concat();
        for word in
            ["MATERIALIZED", "cdc", "sai", "SAI", "UnifiedCompaction", "CREATE INDEX", "ALLOW FILTERING"]
        {
            assert!(!text.contains(word), "{word} is for one of them only");
        }
    }
}

#[test]
fn conditional_writes_carry_no_timestamp_and_touch_one_table() {
    let texts = Texts::new("p2", Flavour::Cassandra);
    for text in [&texts.claim, &texts.number, &texts.switch] {
        assert!(text.contains(" IF ") && text.contains("p2.about") && !text.contains("TIMESTAMP"), "{text}");
    }
    for text in [&texts.write_transition, &texts.write_newest, &texts.write_head, &texts.write_applied] {
        assert!(text.ends_with("USING TIMESTAMP ?") && !text.contains(" IF "), "{text}");
    }
}

#[test]
fn the_tables_are_these() {
    expect![[r#"
        CREATE TABLE IF NOT EXISTS p2.about (name text PRIMARY KEY, log text, shards int, generation int, newest int, builder text)
        CREATE TABLE IF NOT EXISTS p2.applied (generation int, log_partition int, applied bigint, PRIMARY KEY ((generation), log_partition))
        CREATE TABLE IF NOT EXISTS p2.conversations (generation int, log_partition int, shard int, conversation text, cell blob, PRIMARY KEY ((generation, log_partition, shard), conversation))
        CREATE TABLE IF NOT EXISTS p2.transitions (generation int, conversation text, bucket int, kind int, agent text, branch text, first bigint, seq bigint, newest int STATIC, cell blob, PRIMARY KEY ((generation, conversation, bucket), kind, agent, branch, first, seq)) WITH CLUSTERING ORDER BY (kind ASC, agent ASC, branch ASC, first DESC, seq DESC)"#]].assert_eq(&migration(1, "p2").join("\n"));
}
