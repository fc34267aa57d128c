//! A fork attaches to the ancestor that owns its last entry.

use super::*;

fn rewind(at: i64) -> BranchCommand {
    BranchCommand { at: Some(at), ..command(BranchOperation::Rewind) }
}

/// How many branches a lineage has.
fn lineage(world: &World, branch: &BranchId) -> usize {
    let alpha = AgentId::from("alpha");
    let next = |branch: &BranchId| {
        world.conv.branch(&alpha, branch)?.parent.as_ref().map(|(parent, _)| parent.clone())
    };
    std::iter::successors(Some(branch.clone()), next).count()
}

#[test]
fn a_thousand_nested_rewinds_stay_one_step_from_the_branch_that_owns_the_entries() {
    let mut world = World::new();
    for turn in 0..4 {
        world.say(&format!("question {turn}"));
        world.reply("alpha", &format!("answer {turn}"), &[]);
    }
    let before = world.main();
    for round in 0..1_000 {
        assert_eq!(world.branch(rewind(7 - round % 8)).verdict, Verdict::Applied);
        // Each starts where the one before ended: back to the newest entry for the next round.
        if round % 8 == 7 {
            world.branch(BranchCommand { branch: Some("main".into()), ..command(BranchOperation::Checkout) });
        }
        let current = world.conv.current(&"alpha".into());
        assert!(lineage(&world, &current) <= 2, "round {round}");
    }
    assert_eq!(world.main(), before, "nothing was changed or copied");
    assert_eq!(world.conv.stacks[&AgentId::from("alpha")].branches.len(), 1_001);
}

#[test]
fn a_fork_of_what_was_said_on_a_fork_attaches_to_that_fork() {
    let mut world = World::new();
    world.say("one");
    world.reply("alpha", "1", &[]);
    world.branch(rewind(0));
    let first = world.conv.current(&"alpha".into());
    world.say("two");
    world.reply("alpha", "2", &[]);
    let shown = world.show("alpha", first.as_str());
    world.branch(rewind(2));
    let second = world.conv.current(&"alpha".into());
    assert_eq!(world.show("alpha", second.as_str()), shown);
    assert_eq!(lineage(&world, &second), 3, "its entries are the first fork's");
    world.branch(rewind(0));
    let third = world.conv.current(&"alpha".into());
    assert_eq!(lineage(&world, &third), 2, "its entry is main's");
    assert_eq!(world.show("alpha", third.as_str()), shown.lines().next().unwrap().to_owned() + "\n");
}

#[test]
fn what_a_destructive_rewind_hid_stays_hidden_in_forks_of_forks() {
    let mut world = World::new();
    for turn in 0..3 {
        world.say(&format!("question {turn}"));
        world.reply("alpha", &format!("answer {turn}"), &[]);
    }
    world.branch(rewind(5));
    let fork = world.conv.current(&"alpha".into());
    world.branch(BranchCommand { destructive: true, ..rewind(2) });
    let shown = world.show("alpha", fork.as_str());
    for at in [2, 1, 0] {
        world.branch(rewind(at));
        let current = world.conv.current(&"alpha".into());
        let expected: Vec<&str> = shown.lines().take(at as usize + 1).collect();
        assert_eq!(world.show("alpha", current.as_str()).lines().collect::<Vec<_>>(), expected, "at {at}");
    }
}
