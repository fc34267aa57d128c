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
    expect![[r#""#]].assert_eq(&differing.concat());
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
    expect![[r#""#]].assert_eq(&migration(1, "p2").join("\n"));
}
