//! Calls between agents: what the callee is told, deadlines, tree forks.

use super::*;

fn told(context: Option<&str>) -> Result<String, String> {
    let mut w = World::new();
    w.say("my name is Ann");
    w.reply("alpha", "hello Ann", &[]);
    w.say("ask the helper");
    let mut arguments = json!({"agent_id": "helper", "message": "who is she?"});
    if let Some(context) = context {
        arguments["context"] = context.into();
    }
    w.reply("alpha", "one moment", &[("delegate", arguments)]);
    let first = |branch: &crate::conversation::Branch| match &branch.entries.front()?.state {
        State::UserMessage(message) => Some(message.text.clone()),
        _ => None,
    };
    let helper = w.conv.stacks.get(&AgentId::from("helper"));
    helper.and_then(|stack| stack.branches.values().find_map(first)).ok_or_else(|| w.asked("alpha"))
}

#[test]
fn a_callee_is_told_the_message_and_as_much_of_the_conversation_as_the_call_says() {
    let mut table = String::new();
    for context in
        [None, Some("none"), Some("last:0"), Some("last:1"), Some("last:3"), Some("last:99"), Some("summary")]
    {
        table += &format!("--- {}\n{}\n", context.unwrap_or("-"), told(context).unwrap());
    }
    check(
        &table,
        expect![[r#"
        --- -
        who is she?
        --- none
        who is she?
        --- last:0
        who is she?
        --- last:1
        What was said before:
        assistant: one moment

        who is she?
        --- last:3
        What was said before:
        assistant: hello Ann
        user: ask the helper
        assistant: one moment

        who is she?
        --- last:99
        What was said before:
        user: my name is Ann
        assistant: hello Ann
        user: ask the helper
        assistant: one moment

        who is she?
        --- summary
        Summary of 5 earlier entries.
        user: my name is Ann
        assistant: hello Ann
        user: ask the helper
        assistant: one moment

        who is she?
    "#]],
    );
}

#[test]
fn a_call_that_makes_no_sense_comes_back_to_the_model_with_the_way_out() {
    let mut table = told(Some("everything")).unwrap_err() + "\n";
    for arguments in [
        json!({"agent_id": "helper"}),
        json!({"agent_id": " ", "message": "x"}),
        json!({"agent_id": "helpr", "message": "x"}),
    ] {
        let mut w = World::new();
        w.say("go");
        w.reply("alpha", "", &[("delegate", arguments)]);
        table += &(w.asked("alpha") + "\n");
    }
    check(
        &table,
        expect![[r#"
        Tool { tool_call_id: "call_13772fbcfd022857300c9810dd3894d8", name: "delegate", content: "{\"message\":\"'context' is 'everything': it must be none, last:<n> or summary\",\"status\":\"error\"}" }
        Tool { tool_call_id: "call_dd2e0135b8c48e5e254733f7f0698418", name: "delegate", content: "{\"message\":\"delegate needs the texts 'agent_id' and 'message'\",\"status\":\"error\"}" }
        Tool { tool_call_id: "call_dd2e0135b8c48e5e254733f7f0698418", name: "delegate", content: "{\"message\":\"delegate needs the texts 'agent_id' and 'message'\",\"status\":\"error\"}" }
        Tool { tool_call_id: "call_dd2e0135b8c48e5e254733f7f0698418", name: "delegate", content: "{\"message\":\"there is no agent 'helpr': did you mean 'helper'?\",\"status\":\"error\"}" }
    "#]],
    );
}

#[test]
fn the_deadline_of_a_call_stands_still_while_anyone_below_waits_for_a_person_and_moves_by_that_time() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[to_helper("x")]);
    let outer = w.wait(WaitKind::Agent);
    let deadline = w.conv.timers().iter().find(|(id, _)| *id == outer).expect("a deadline").1;
    w.reply("helper", "", &[("delegate", json!({"agent_id": "person", "message": "may I?"}))]);
    assert!(w.conv.timers().is_empty(), "both callers' deadlines stand still");
    let asked = w.now - 10;
    w.now = 5_000_000;
    assert_eq!(w.deadline(outer), Decision::default());
    let answered = w.now;
    let request = w.wait(WaitKind::UserInput);
    w.answer(request, AnswerKind::Text, "you may", None);
    let moved = w.conv.timers().into_iter().find(|(id, _)| *id == outer).expect("a deadline").1;
    assert_eq!(moved, deadline + (answered - asked));
    assert_eq!(w.deadline(outer), Decision::default(), "the old deadline is over, the moved one is not");
    w.now = moved;
    w.deadline(outer);
    assert!(w.main().contains("agent result helper timeout"));
}

#[test]
fn an_approval_of_a_callees_tool_holds_its_callers_deadline_too() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[to_helper("x")]);
    w.reply("helper", "", &[("guarded", json!({}))]);
    assert!(w.conv.timers().is_empty());
    let request = w.wait(WaitKind::UserInput);
    w.answer(request, AnswerKind::Approve, "", None);
    assert_eq!(w.conv.timers().len(), 2, "the tool's and the call's");
}

#[test]
fn what_somebody_writes_to_a_callee_that_fails_is_answered_before_its_caller_is() {
    let mut w = World::new();
    w.say("go");
    w.reply("alpha", "", &[to_helper("x")]);
    let branch = w.asks[0].branch.clone();
    let body = UserText { agent: Some("helper".into()), branch: Some(branch.clone()), text: "hurry".into() };
    assert_eq!(w.inbox(InboxBody::UserText(body)).code, "ok");
    w.fail("helper");
    assert!(!w.main().contains("agent result"), "the callee goes on");
    w.reply("helper", "done", &[]);
    assert!(w.main().contains("agent result helper success: done"));
    assert!(w.published().is_empty());
}

/// Every branch of an agent with its entries, by creator.
fn forest(w: &World, agent: &str) -> String {
    let mut text = String::new();
    let mut branches: Vec<_> = w.conv.stacks[&AgentId::from(agent)].branches.values().collect();
    branches
        .sort_by_key(|branch| (branch.created_ms, branch.creator.starts_with("tree:"), branch.id.clone()));
    for branch in branches {
        let kind = branch.creator.split(':').next().unwrap_or_default();
        text += &format!("{agent} {kind}\n");
        for line in w.show(agent, branch.id.as_str()).lines() {
            text += &format!("  {line}\n");
        }
    }
    text
}

#[test]
fn a_tree_fork_cuts_each_child_at_the_last_entry_that_the_kept_part_of_its_parent_caused() {
    let mut w = World::new();
    w.say("first");
    w.reply("alpha", "", &[to_helper("one")]);
    w.reply("helper", "", &[("delegate", json!({"agent_id": "rules", "message": "hello"}))]);
    w.reply("helper", "one is done", &[]);
    w.reply("alpha", "first is done", &[]);
    w.say("second");
    w.reply("alpha", "", &[to_helper("two")]);
    w.reply("helper", "two is done", &[]);
    w.reply("alpha", "second is done", &[]);
    let at = w.main().lines().position(|line| line.ends_with("first is done")).expect("the end of the first");
    let fork = BranchCommand {
        at: Some(i64::try_from(at).unwrap() + 1),
        tree: true,
        ..command(BranchOperation::Fork)
    };
    w.branch(fork);
    check(
        &forest(&w, "alpha"),
        expect![[r#"
            alpha open
              0 user: first
              1 call delegate {"agent_id":"helper","message":"one"}
              2 agent call helper: one
              3 agent result helper success: one is done
              4 result delegate success Some(1.0)
              5 assistant: first is done
              6 user: second
              7 call delegate {"agent_id":"helper","message":"two"}
              8 agent call helper: two
              9 agent result helper success: two is done
              10 result delegate success Some(1.0)
              11 assistant: second is done
            alpha user
              0 user: first
              1 call delegate {"agent_id":"helper","message":"one"}
              2 agent call helper: one
              3 agent result helper success: one is done
              4 result delegate success Some(1.0)
              5 assistant: first is done
              6 user: second
        "#]],
    );
    check(
        &forest(&w, "helper"),
        expect![[r#"
            helper call
              0 user (agent:alpha): one
              1 call delegate {"agent_id":"rules","message":"hello"}
              2 agent call rules: hello
              3 agent result rules success: hi
              4 result delegate success Some(1.0)
              5 assistant: one is done
              6 finished done
            helper call
              0 user (agent:alpha): one
              1 call delegate {"agent_id":"rules","message":"hello"}
              2 agent call rules: hello
              3 agent result rules success: hi
              4 result delegate success Some(1.0)
              5 assistant: one is done
              6 finished done
              7 user (agent:alpha): two
              8 assistant: two is done
              9 finished done
            helper tree
              0 user (agent:alpha): one
              1 call delegate {"agent_id":"rules","message":"hello"}
              2 agent call rules: hello
              3 agent result rules success: hi
              4 result delegate success Some(1.0)
              5 assistant: one is done
              6 finished done
        "#]],
    );
    check(
        &forest(&w, "rules"),
        expect![[r#"
        rules call
          0 user (agent:helper): hello
          1 assistant: hi
          2 finished done
        rules tree
          0 user (agent:helper): hello
          1 assistant: hi
          2 finished done
    "#]],
    );
}

#[test]
fn a_call_after_a_tree_fork_goes_on_from_the_forked_child() {
    let mut w = World::new();
    w.say("first");
    w.reply("alpha", "", &[to_helper("one")]);
    w.reply("helper", "one is done", &[]);
    w.reply("alpha", "first is done", &[]);
    w.branch(BranchCommand { tree: true, ..command(BranchOperation::Rewind) });
    w.say("second");
    w.reply("alpha", "", &[to_helper("two")]);
    let call = w.asks[0].branch.clone();
    let parent = w.conv.branch(&"helper".into(), &call).and_then(|branch| branch.parent.clone());
    let parent = parent.expect("it is a fork").0;
    let creator = &w.conv.branch(&"helper".into(), &parent).expect("the parent").creator;
    assert!(creator.starts_with("tree:"), "{creator}");
    assert!(w.show("helper", call.as_str()).starts_with("0 user (agent:alpha): one\n"));
}

#[test]
fn a_child_that_was_spoken_to_after_its_call_ended_is_cut_at_the_end_of_the_call() {
    let mut w = World::new();
    w.say("first");
    w.reply("alpha", "", &[to_helper("one")]);
    let branch = w.asks[0].branch.clone();
    w.reply("helper", "one is done", &[]);
    w.reply("alpha", "first is done", &[]);
    let checkout = BranchCommand {
        agent: Some("helper".into()),
        branch: Some(branch.0.clone()),
        ..command(BranchOperation::Checkout)
    };
    w.branch(checkout);
    w.say_to("helper", "between us");
    w.reply("helper", "sure", &[]);
    assert!(w.show("helper", branch.as_str()).ends_with("assistant: sure\n"));
    w.branch(BranchCommand { tree: true, ..command(BranchOperation::Fork) });
    let helper = &w.conv.stacks[&AgentId::from("helper")];
    let fork = helper.branches.values().find(|branch| branch.creator.starts_with("tree:")).expect("a fork");
    check(
        &w.show("helper", fork.id.as_str()),
        expect![[r#"
        0 user (agent:alpha): one
        1 assistant: one is done
        2 finished done
    "#]],
    );
}
