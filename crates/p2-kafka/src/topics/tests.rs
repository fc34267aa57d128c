use super::*;

fn all(settings: TopicSettings) -> Vec<Wanted> {
    let specs = p2_stream::topics::specs().unwrap();
    specs.iter().map(|spec| wanted(spec, &settings, "x.", 1).unwrap()).collect()
}

fn found(wanted: &[Wanted]) -> BTreeMap<String, TopicState> {
    let state = |one: &Wanted| {
        let config = one.config.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let state = TopicState {
            partitions: one.partitions,
            replication: one.replication,
            config,
            own: BTreeMap::new(),
        };
        (one.name.clone(), state)
    };
    wanted.iter().map(state).collect()
}

fn with_copies(copies: i32, min_insync: &str, settings: &TopicSettings) -> Vec<Difference> {
    let spec = p2_stream::topics::spec(Topic::Inbox).unwrap();
    let wanted = [wanted(&spec, settings, "", 3).unwrap()];
    let mut found = found(&wanted);
    let state = found.get_mut("p2.inbox.v1").unwrap();
    state.replication = copies;
    state.config.insert(MIN_INSYNC.to_owned(), min_insync.to_owned());
    compare(&wanted, &found)
}

fn with(key: &str, value: &str) -> Vec<Difference> {
    let wanted = all(TopicSettings::default());
    let mut found = found(&wanted);
    found.get_mut("x.p2.inbox.v1").unwrap().config.insert(key.to_owned(), value.to_owned());
    compare(&wanted, &found)
}

#[test]
fn what_is_missing_is_created_and_what_fits_is_left() {
    let wanted = all(TopicSettings::default());
    let differences = compare(&wanted, &BTreeMap::new());
    assert_eq!(differences.len(), Topic::ALL.len());
    assert_eq!(
        differences.first().unwrap().to_string(),
        "create x.p2.inbox.v1: 16 partitions, 1 copies, cleanup.policy=delete max.message.bytes=1048588 \
         message.timestamp.type=CreateTime min.insync.replicas=1 retention.bytes=-1 retention.ms=604800000"
    );
    assert_eq!(compare(&wanted, &found(&wanted)), []);
}

#[test]
fn three_brokers_give_three_copies_of_which_two_must_have_a_record() {
    let spec = p2_stream::topics::spec(Topic::Inbox).unwrap();
    let wanted = |brokers| wanted(&spec, &TopicSettings::default(), "", brokers).unwrap();
    assert_eq!((wanted(5).replication, wanted(5).config["min.insync.replicas"].as_str()), (3, "2"));
    assert_eq!((wanted(1).replication, wanted(1).config["min.insync.replicas"].as_str()), (1, "1"));
}

#[test]
fn fewer_copies_than_there_could_be_are_a_hint_unless_they_were_asked_for() {
    let by_itself = TopicSettings::default();
    assert_eq!(with_copies(3, "2", &by_itself), []);
    assert_eq!(with_copies(4, "3", &by_itself), [], "more is left as it is");
    let hints = with_copies(1, "1", &by_itself);
    assert_eq!(hints.len(), 1, "nothing is written with two of one copy: {hints:?}");
    assert!(hints[0].is_hint());
    assert_eq!(
        hints[0].to_string(),
        "hint p2.inbox.v1: each partition has 1 copy, and there are brokers for 3: add some with \
         kafka-reassign-partitions, then p2engine topics apply for min.insync.replicas"
    );
    let set = with_copies(3, "1", &by_itself);
    assert_eq!(set.len(), 1);
    assert_eq!(set[0].to_string(), "set p2.inbox.v1: min.insync.replicas 1 -> 2");
    assert!(set[0].is_hint());
    let asked = with_copies(1, "1", &TopicSettings { replication: Some(3), ..by_itself });
    assert_eq!(asked.len(), 1);
    assert!(matches!(asked[0], Difference::Refused { .. }) && !asked[0].is_hint(), "{asked:?}");
    assert_eq!(with_copies(1, "1", &TopicSettings { replication: Some(1), ..by_itself }), []);
}

#[test]
fn what_brokers_keep_for_themselves_has_a_hint_too() {
    let listed = |copies| BTreeMap::from([("__consumer_offsets".to_owned(), (50, copies))]);
    assert_eq!(hint_of_brokers(&listed(3), 3), None);
    assert_eq!(hint_of_brokers(&BTreeMap::new(), 3), None);
    let hint = hint_of_brokers(&listed(1), 3).unwrap().to_string();
    assert!(hint.starts_with("hint __consumer_offsets: each partition has 1 copy, and"), "{hint}");
}

#[test]
fn copies_that_cannot_be_are_refused() {
    let spec = p2_stream::topics::spec(Topic::Inbox).unwrap();
    for (replication, min_insync) in [(Some(0), None), (Some(2), Some(3)), (None, Some(0)), (None, Some(2))] {
        let settings = TopicSettings { replication, min_insync, ..TopicSettings::default() };
        let refused = wanted(&spec, &settings, "", 1);
        assert!(matches!(refused, Err(LogError::Refused(_))), "{settings:?}: {refused:?}");
    }
}

#[test]
fn the_registry_keeps_its_one_partition() {
    let settings = TopicSettings { partitions: Some(4), ..TopicSettings::default() };
    for one in all(settings) {
        assert_eq!(one.partitions, if one.name == "x.p2.registry.v1" { 1 } else { 4 });
    }
}

#[test]
fn what_would_move_keys_or_lose_records_is_refused() {
    let wanted = all(TopicSettings::default());
    let mut found = found(&wanted);
    found.get_mut("x.p2.inbox.v1").unwrap().partitions = 8;
    found.get_mut("x.p2.effects.v1").unwrap().partitions = 2;
    found
        .get_mut("x.p2.registry.v1")
        .unwrap()
        .config
        .insert("cleanup.policy".to_owned(), "delete".to_owned());
    let differences = compare(&wanted, &found);
    assert_eq!(differences.len(), 3);
    for (one, part) in
        differences.iter().zip(["it has 8 partitions, 16", "it has 2 partitions", "cleanup.policy is delete"])
    {
        assert!(matches!(one, Difference::Refused { .. }) && one.to_string().contains(part), "{one}");
    }
}

#[test]
fn settings_are_only_ever_changed_to_keep_more() {
    let set = |key, is: &str| {
        let differences = with(key, is);
        assert!(differences.iter().all(|one| matches!(one, Difference::Setting { .. })), "{differences:?}");
        differences.len()
    };
    assert_eq!(set("retention.ms", "3600000"), 1);
    assert_eq!(set("retention.ms", "-1"), 0, "kept for ever is kept longer");
    assert_eq!(set("retention.ms", "999999999999"), 0);
    assert_eq!(set("retention.bytes", "1000"), 1);
    assert_eq!(set("max.message.bytes", "1000"), 1);
    assert_eq!(set("max.message.bytes", "99999999"), 0);
    assert_eq!(set("min.insync.replicas", "2"), 0);
    assert_eq!(set("message.timestamp.type", "LogAppendTime"), 1);
    assert_eq!(set("unclean.leader.election.enable", "true"), 1);
    assert_eq!(set("unclean.leader.election.enable", "false"), 0);
}
