use super::*;

const LANE: Lane = (Topic::Inbox, 3);

fn progress(metadata: &str) -> Vec<(Topic, i32, CommittedOffset)> {
    vec![(LANE.0, LANE.1, CommittedOffset { offset: 1, metadata: metadata.to_owned() })]
}

fn fenced(result: &Result<(), CommitError>) -> bool {
    matches!(result, Err(CommitError::Fenced(_)))
}

#[test]
fn only_what_is_owned_and_known_to_be_owned_may_be_committed() {
    let mut ownership = Ownership::default();
    assert!(fenced(&ownership.check(&ownership.ticket(), &progress(""))), "never assigned");
    let tenure = ownership.assign(LANE);
    assert!(fenced(&ownership.check(&ownership.ticket(), &progress(""))), "not told yet");
    ownership.tell_assigned(LANE, tenure);
    ownership.check(&ownership.ticket(), &progress("")).unwrap();
    ownership.revoke(LANE);
    assert!(fenced(&ownership.check(&ownership.ticket(), &progress(""))), "lost, though not told");
}

#[test]
fn a_partition_that_was_lost_and_came_back_is_another_tenure() {
    let mut ownership = Ownership::default();
    let first = ownership.assign(LANE);
    ownership.tell_assigned(LANE, first);
    let ticket = ownership.ticket();
    ownership.revoke(LANE);
    let second = ownership.assign(LANE);
    assert_ne!(first, second);
    assert!(fenced(&ownership.check(&ticket, &progress(""))), "what was prepared before");
    ownership.tell_revoked(LANE);
    ownership.tell_assigned(LANE, second);
    assert!(fenced(&ownership.check(&ticket, &progress(""))), "a ticket does not get younger");
    ownership.check(&ownership.ticket(), &progress("")).unwrap();
}

#[test]
fn who_left_commits_nothing_not_even_an_empty_batch() {
    let mut ownership = Ownership::default();
    ownership.check(&ownership.ticket(), &[]).unwrap();
    ownership.leave();
    assert!(fenced(&ownership.check(&ownership.ticket(), &[])));
}

#[test]
fn metadata_over_the_limit_is_refused_by_its_size() {
    let mut ownership = Ownership::default();
    let tenure = ownership.assign(LANE);
    ownership.tell_assigned(LANE, tenure);
    let ticket = ownership.ticket();
    ownership.check(&ticket, &progress(&"m".repeat(METADATA_BYTES_MAX))).unwrap();
    let refused = ownership.check(&ticket, &progress(&"m".repeat(METADATA_BYTES_MAX + 1)));
    assert!(matches!(refused, Err(CommitError::Aborted(_))));
}

#[test]
fn a_seek_needs_an_assignment_and_outdates_what_was_read_before() {
    let mut ownership = Ownership::default();
    assert_eq!(ownership.seek(LANE), None);
    let tenure = ownership.assign(LANE);
    ownership.tell_assigned(LANE, tenure);
    let before = ownership.told(LANE).unwrap();
    let after = ownership.seek(LANE).unwrap();
    assert_ne!(before, after);
    assert_eq!(ownership.told(LANE), Some(after));
}
