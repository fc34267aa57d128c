use super::*;

/// One thing that may happen, whatever the state: numbers pick among what is there.
fn happen(w: &mut World, kind: u8, pick: usize) {
    let asks = w.asks.clone();
    let ask = asks.get(pick % asks.len().max(1)).map(|ask| ask.wait);
    let waits: Vec<Id> = w.conv.waits.keys().copied().collect();
    let branches: Vec<BranchId> =
        w.conv.stacks.get(&w.conv.root).map(|s| s.branches.keys().cloned().collect()).unwrap_or_default();
    let branch = branches.get(pick % branches.len().max(1)).map(|b| b.0.clone());
    match (kind, ask) {
        (0, _) => drop(w.say("hey")),
        (1 | 2, Some(wait)) => drop(w.reply_to(wait, "text", &[])),
        (3 | 4, Some(wait)) => {
            let calls = [
                ("weather", json!({})),
                ("pay", json!({"n": pick % 2})),
                to_helper("x"),
                ("guarded", json!({})),
            ];
            drop(w.reply_to(wait, "", calls.get(pick % 4..).unwrap()));
        }
        (5, Some(_)) => drop(w.reply_to(ask.unwrap(), "", &[])),
        (6 | 7, _) if !w.tool_effects().is_empty() => {
            let nth = pick % w.tool_effects().len();
            let status = [ToolStatus::Success, ToolStatus::Error, ToolStatus::InDoubt][pick % 3];
            w.tool_done(nth, status);
        }
        (8, _) if !waits.is_empty() => {
            w.now += 500_000;
            drop(w.deadline(waits[pick % waits.len()]));
        }
        (9, _) if !waits.is_empty() => {
            let kind = [AnswerKind::Approve, AnswerKind::Deny, AnswerKind::Text][pick % 3];
            w.answer(waits[pick % waits.len()], kind, "because", None);
        }
        (10, _) => {
            let at = Some(i64::try_from(pick % 12).unwrap());
            let operation = [BranchOperation::Fork, BranchOperation::Rewind][pick % 2];
            let (tree, keep_wait, destructive) =
                (pick.is_multiple_of(3), pick.is_multiple_of(5), pick.is_multiple_of(7));
            w.branch(BranchCommand { at, tree, keep_wait, destructive, branch, ..command(operation) });
        }
        (11, _) => drop(w.branch(BranchCommand { branch, ..command(BranchOperation::Checkout) })),
        (12, _) => {
            let all = [ControlOperation::Cancel, ControlOperation::Pause, ControlOperation::Resume];
            w.control(all[pick % 3]);
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replaying_the_log_gives_the_same_conversation_and_every_call_ends_once(
        script in prop::collection::vec((0_u8..13, 0_usize..1_000), 1..60)
    ) {
        let mut w = World::new();
        w.say("begin");
        for (kind, pick) in script {
            happen(&mut w, kind, pick);
        }
        let mut replayed = Conversation::default();
        for (seq, transition) in w.log.iter().enumerate() {
            prop_assert_eq!(transition.seq, i64::try_from(seq).unwrap());
            replayed.apply(transition).unwrap();
        }
        prop_assert_eq!(&replayed, &w.conv);
        for transition in &w.log {
            replayed.apply(transition).unwrap();
        }
        prop_assert_eq!(&replayed, &w.conv);
    }

    #[test]
    fn a_duplicate_changes_nothing(script in prop::collection::vec((0_u8..13, 0_usize..1_000), 1..30)) {
        let mut w = World::new();
        w.say("begin");
        for (kind, pick) in script {
            happen(&mut w, kind, pick);
        }
        let inputs: Vec<Id> = w.conv.seen.keys().copied().collect();
        for id in inputs {
            let body = InboxBody::UserText(UserText { agent: None, branch: None, text: "again".into() });
            let message = InboxMessage { conversation: "demo".into(), body };
            let before = w.conv.clone();
            let decision = w.input(&Input::Inbox { id, message });
            prop_assert!(decision.transitions.is_empty() && decision.effects.is_empty());
            prop_assert_eq!(outcome(&decision).verdict, Verdict::Duplicate);
            prop_assert_eq!(&before, &w.conv);
        }
    }

    #[test]
    fn what_follows_a_rewind_leaves_the_parent_as_it_was(turns in 1_usize..6, at in 0_i64..12) {
        let mut w = World::new();
        for _ in 0..turns {
            w.say("q");
            w.reply("alpha", "a", &[]);
        }
        let before = w.main();
        w.branch(BranchCommand { at: Some(at % i64::try_from(turns * 2).unwrap()), ..command(BranchOperation::Rewind) });
        w.say("other");
        w.reply("alpha", "b", &[]);
        prop_assert_eq!(before, w.main());
    }
}
