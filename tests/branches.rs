//! Stacks, branches and control of conversations, as a person uses them.

use serde_json::Value;

use crate::home::{Home, entries, until};

/// A conversation of four entries.
fn talked() -> Home {
    let home = Home::with_fixtures();
    home.p2_with(&["chat", "with", "worker", "--name", "x"], "one\ntwo\n").exits(0);
    home
}

fn json(home: &Home, args: &[&str]) -> Value {
    let first = home.p2(&[args, &["--json"]].concat()).exits(0);
    let again = home.p2(&[args, &["--json"]].concat()).exits(0);
    assert_eq!(first.stdout, again.stdout, "{args:?} prints the same again");
    assert_eq!(first.stdout.lines().count(), 1, "{args:?} prints one line");
    first.json()
}

fn stack(home: &Home, branch: &str) -> Vec<String> {
    let rows = json(home, &["conversation", "stack", "x", "--branch", branch]);
    rows.as_array().unwrap().iter().map(|row| row["content"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn conversations_are_listed_with_their_agent() {
    let home = talked();
    let listed = json(&home, &["conversation", "list"]);
    assert_eq!((&listed[0]["id"], &listed[0]["agent"]), (&"x".into(), &"worker".into()));
    let shown = home.p2(&["conversation", "list"]).exits(0).stdout;
    assert!(shown.starts_with(" NAME  AGENT   OPENED (UTC)"), "{shown}");
}

#[test]
fn a_stack_is_shown_in_full_and_by_its_newest_entries() {
    let home = talked();
    assert_eq!(stack(&home, "main"), ["one", "You said: one", "two", "You said: two"]);
    let shown = home.p2(&["conversation", "stack", "x", "--n", "1"]).exits(0).stdout;
    assert!(shown.contains("You said: two") && !shown.contains("one"), "{shown}");
    assert!(shown.ends_with("(3 earlier entries not shown; --n 0 shows all)\n"), "{shown}");
    home.p2(&["conversation", "stack", "x", "--agent", "nobody"]).exits(4);
    home.p2(&["conversation", "stack", "nothing"]).exits(4);
}

#[test]
fn a_reply_of_calls_alone_leaves_no_empty_message() {
    let home = Home::with_fixtures();
    home.p2_with(&["chat", "with", "worker", "--name", "x"], "call dev_look 0\n").exits(0);
    let rows = json(&home, &["conversation", "stack", "x"]);
    let kinds: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["UserMessage", "ToolCall", "ToolResult", "AssistantMessage"]);
}

#[test]
fn a_rewind_is_a_branch_and_nothing_is_lost() {
    let home = talked();
    let ran = home.p2(&["conversation", "rewind", "x", "1", "--as", "second-try"]).exits(0);
    let made = ran.stdout.split_whitespace().nth(2).unwrap().to_owned();
    assert_eq!(
        ran.stdout,
        format!("Created branch {made} from index 1 of 'main', which keeps its 4 entries\nNow on {made}\n")
    );
    let chat = home.p2_with(&["chat", "resume", "x"], "other\n").exits(0);
    assert!(chat.stderr.contains(&format!("on branch {made}")), "{}", chat.stderr);
    assert_eq!(stack(&home, "second-try"), ["one", "You said: one", "other", "You said: other"]);
    assert_eq!(stack(&home, "main"), ["one", "You said: one", "two", "You said: two"]);
    // From a branch that is not checked out: its own name is told.
    let ran = home.p2(&["conversation", "fork", "x", "2", "--branch", "main", "--as", "third"]).exits(0);
    assert!(ran.stdout.contains(&format!("from index 2 of 'main'; still on '{made}'")), "{}", ran.stdout);
    let tree = home.p2(&["conversation", "branches", "x"]).exits(0).stdout;
    assert!(tree.contains("\"second-try\" *") && tree.contains("\"third\""), "{tree}");
    let branches = json(&home, &["conversation", "branches", "x"]);
    assert_eq!(branches.as_array().unwrap().len(), 3);
    let diff = home.p2(&["conversation", "diff", "x", "main", "second-try"]).exits(0).stdout;
    assert!(diff.contains("  2 shared entries\n-   2 UserMessage       two\n"), "{diff}");
    assert_eq!(
        json(&home, &["conversation", "diff", "x", "main", "third"])["right"].as_array().unwrap().len(),
        3
    );
    assert_eq!(home.p2(&["conversation", "checkout", "x", "main"]).exits(0).stdout, "Checked out main\n");
    home.p2(&["conversation", "checkout", "x", "nowhere"]).exits(4);
    home.p2(&["conversation", "rewind", "x", "99"]).exits(3);
}

#[test]
fn a_destructive_rewind_hides_and_deletes_nothing() {
    let home = talked();
    let ran = home.p2(&["conversation", "rewind", "x", "1", "--destructive"]).exits(0);
    assert_eq!(ran.stdout, "Hid the entries after index 1 on 'main'; nothing was deleted\n");
    assert_eq!(stack(&home, "main"), ["one", "You said: one"]);
    let up = home.up();
    assert!(entries(&up.api.settled("x"), "worker").iter().any(|(_, fields)| fields["text"] == "two"));
    up.interrupt().exits(130);
}

#[test]
fn entries_are_watched_as_they_come() {
    let home = talked();
    let up = home.up();
    let watch = home.start(&["conversation", "watch", "x", "--json"]);
    until("what was there", || (watch.stdout().lines().count() >= 4).then_some(()));
    up.api.say("x", "worker", "three");
    until("what came", || watch.stdout().contains("You said: three").then_some(()));
    for line in watch.stdout().lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&value["agent"], &value["branch"]), (&"worker".into(), &"main".into()));
    }
    watch.signal("INT");
    watch.end().exits(130);
    up.interrupt().exits(130);
}

#[test]
fn a_cancelled_call_is_given_up_and_the_conversation_goes_on() {
    let home = Home::with_fixtures();
    let up = home.up();
    up.api.say("x", "worker", "ponder");
    let ran = home.p2(&["conversation", "cancel", "x", "--reason", "too slow"]).exits(0);
    assert_eq!(ran.stdout, "Cancelled 'x'\n");
    let conversation = up.api.settled("x");
    assert!(entries(&conversation, "worker").iter().any(|(_, fields)| fields["stop_reason"] == "Cancelled"));
    let ran = home.p2_with(&["chat", "resume", "x"], "hey\n").exits(0);
    assert_eq!(ran.stdout, "You said: hey\n");
    up.interrupt().exits(130);
}

#[test]
fn a_paused_conversation_asks_nothing_until_it_is_resumed() {
    let home = talked();
    assert_eq!(home.p2(&["conversation", "pause", "x"]).exits(0).stdout, "Paused 'x'\n");
    let ran = home.p2_with(&["chat", "resume", "x"], "three\n").exits(0);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("paused"), "{}", ran.stderr);
    let up = home.up();
    assert_eq!(home.p2(&["conversation", "resume", "x"]).exits(0).stdout, "Resumed 'x'\n");
    up.api.conversation_when("x", |found| {
        entries(found, "worker").last().is_some_and(|(_, fields)| fields["text"] == "You said: three")
    });
    up.interrupt().exits(130);
}
