//! What there is on Kafka and CQL only: copies, rebuilt views, many processes. Skipped without a cluster.

use crate::home::{Home, STANDS_IN, cluster, until};

/// The variable of a place.
fn of(home: &Home, name: &str) -> String {
    home.env.iter().find(|(known, _)| known == name).unwrap().1.clone()
}

fn skipped() -> bool {
    let is_skipped = cluster().is_none();
    if is_skipped {
        eprintln!("skipped: needs a cluster, see .ci/run (P2_E2E_KAFKA, P2_E2E_CQL)");
    }
    is_skipped
}

/// A process that has just begun is a member of its groups a moment later.
fn all_run(home: &Home) {
    until("every processor has a member", || {
        (!home.p2(&["doctor"]).stdout.contains("nobody runs it")).then_some(())
    });
}

fn ask(home: &Home, name: &str, text: &str) -> String {
    home.p2_with(&["chat", "with", "agent_alpha", "--name", name], text).exits(0).stdout
}

#[test]
fn a_data_directory_moves_to_kafka_with_its_history_and_goes_on() {
    if skipped() {
        return;
    }
    let mut home = Home::new();
    let (brokers, nodes) = (of(&home, "P2_KAFKA_BROKERS"), of(&home, "P2_SCYLLA_NODES"));
    home.unset("P2_KAFKA_BROKERS");
    home.unset("P2_SCYLLA_NODES");
    let keyspace = of(&home, "P2_SCYLLA_KEYSPACE");
    home.unset("P2_SCYLLA_KEYSPACE");
    home.set("P2_DATA_DIR", &home.path("laptop").display().to_string());
    let prefix = of(&home, "P2_KAFKA_PREFIX");
    home.unset("P2_KAFKA_PREFIX");
    home.p2_with(&["chat", "with", "agent_alpha", "--name", "x"], "hey\nwhat is weather in paris?\n")
        .exits(0);
    let laptop = of(&home, "P2_DATA_DIR");
    for (name, value) in [
        ("P2_KAFKA_BROKERS", &brokers),
        ("P2_SCYLLA_NODES", &nodes),
        ("P2_KAFKA_PREFIX", &prefix),
        ("P2_SCYLLA_KEYSPACE", &keyspace),
    ] {
        home.set(name, value);
    }
    home.unset("P2_DATA_DIR");
    let copied = home.p2(&["topics", "copy", "--from-data-dir", &laptop, "--json"]).exits(0).json();
    assert_eq!(copied["records"]["inbox"], 3, "{copied}");
    assert_eq!(copied["pending"]["p2.agent-step"], 0, "{copied}");
    home.p2(&["topics", "copy", "--from-data-dir", &laptop]).exits(3);
    assert_eq!(ask(&home, "x", "what is weather in tokyo?\n"), "It is 50°F in Tokyo.\n");
    let stack = home.p2(&["conversation", "stack", "x", "--json"]).exits(0).json();
    assert_eq!(stack.as_array().unwrap().len(), 10, "{stack}");
    home.p2(&["replay", "stacks", "--verify"]).exits(0);
}

#[test]
fn a_view_is_rebuilt_under_running_processors_and_they_go_on() {
    if skipped() {
        return;
    }
    let home = Home::new();
    ask(&home, "x", "hey\n");
    let fleet = home.start(&["run", "--json"]);
    until("the processors run", || (!fleet.stdout().is_empty()).then_some(()));
    ask(&home, "x", "what is weather in paris?\n");
    let rebuilt = home.p2(&["replay", "stacks", "--rebuild", "--json"]).exits(0).json();
    assert_eq!((&rebuilt["generation"], &rebuilt["dropped"]), (&2.into(), &1.into()), "{rebuilt}");
    assert_eq!(ask(&home, "x", "what is weather in tokyo?\n"), "It is 50°F in Tokyo.\n");
    home.p2(&["replay", "stacks", "--verify"]).exits(0);
    home.p2(&["replay", "stacks", "--from", "earliest"]).exits(0);
    home.p2(&["replay", "stacks", "--verify"]).exits(0);
    fleet.signal("TERM");
    assert_eq!(fleet.end().code, Some(0));
}

#[test]
fn a_chat_says_where_it_runs_the_processors_itself() {
    if skipped() {
        return;
    }
    let home = Home::new();
    let mut alone = home.start(&["chat", "with", "agent_alpha", "--name", "x"]);
    let said = format!("{STANDS_IN}agent-step, tool-exec");
    until("it says so", || alone.stderr().starts_with(&said).then_some(()));
    alone.close_input();
    alone.end().exits(0);
    let fleet = home.start(&["run", "--json"]);
    all_run(&home);
    let mut beside = home.start(&["chat", "with", "agent_alpha", "--name", "x"]);
    until("it begins", || beside.stderr().contains("conversation 'x'").then_some(()));
    assert!(!beside.stderr().contains(STANDS_IN), "{}", beside.stderr());
    beside.close_input();
    beside.end().exits(0);
    fleet.signal("TERM");
    assert_eq!(fleet.end().code, Some(0));
}

#[test]
fn a_killed_process_of_three_is_missed_by_nobody() {
    if skipped() {
        return;
    }
    let home = Home::new();
    let fleet: Vec<_> = (0..3).map(|_| home.another(&["run"])).collect();
    for one in &fleet {
        until("it runs", || (!one.stdout().is_empty()).then_some(()));
    }
    let doctor = until("all of them are members", || {
        let doctor = home.p2(&["doctor"]).exits(0).stdout;
        doctor.contains("3 running").then_some(doctor)
    });
    assert!(!doctor.contains("BAD"), "{doctor}");
    let mut fleet = fleet.into_iter();
    fleet.next().unwrap().kill();
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(ask(&home, name, "what is weather in paris?\n"), "It is 71.6°F in Paris.\n");
    }
    home.p2(&["replay", "stacks", "--verify"]).exits(0);
    for one in fleet {
        one.signal("TERM");
        assert_eq!(one.end().code, Some(0));
    }
}
