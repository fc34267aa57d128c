//! `chat` in a pipe, resumed, refused, joined by a second terminal.

use crate::home::{Home, entries, until, user_text};

#[test]
fn a_chat_in_a_pipe_says_first_which_model_it_runs_on_and_answers_on_stdout() {
    let mut home = Home::new();
    home.unset("OPENAI_API_KEY");
    home.unset("P2_MODEL");
    let ran = home
        .p2_with(&["chat", "with", "agent_alpha", "--name", "x"], "hey\nwhat is weather in paris?\n")
        .exits(0);
    assert_eq!(
        ran.stderr.lines().next().unwrap(),
        "agent_alpha runs on scripted/demo (offline: no OPENAI_API_KEY is configured); conversation 'x' (new)"
    );
    assert_eq!(ran.stdout, "Hello! How can I help you today?\nIt is 71.6°F in Paris.\n");
}

#[test]
fn a_chat_goes_on_where_it_was_left() {
    let home = Home::new();
    home.p2_with(&["chat", "with", "agent_alpha", "--name", "x"], "What is pi?\n").exits(0);
    let ran = home.p2_with(&["chat", "resume", "x"], "What were we talking about?\n").exits(0);
    assert!(
        ran.stderr.starts_with("agent_alpha runs on scripted/demo; conversation 'x' (resumed)\n"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.stdout, "We were talking about the number pi.\n");
    let again = home.p2_with(&["chat", "with", "agent_alpha", "--name", "x"], "").exits(0);
    assert!(again.stderr.contains("(resumed)"), "{}", again.stderr);
}

#[test]
fn a_conversation_that_does_not_exist_cannot_be_resumed() {
    let ran = Home::new().p2(&["chat", "resume", "nothing"]).exits(4);
    assert_eq!(ran.stderr, "error: there is no conversation 'nothing'; see 'p2engine conversation list'\n");
}

#[test]
fn a_conversation_belongs_to_the_agent_that_it_began_with() {
    let home = Home::new();
    home.p2_with(&["chat", "with", "agent_alpha", "--name", "x"], "hey\n").exits(0);
    let ran = home.p2_with(&["chat", "with", "child", "--name", "x"], "hey\n").exits(3);
    assert!(ran.stderr.contains("conversation 'x' is with agent_alpha"), "{}", ran.stderr);
}

#[test]
fn an_agent_that_does_not_exist_is_refused_with_the_nearest_one() {
    let ran = Home::new().p2_with(&["chat", "with", "agent_alfa"], "hey\n").exits(4);
    assert!(ran.stderr.contains("there is no agent 'agent_alfa'"), "{}", ran.stderr);
    assert!(ran.stderr.contains("agent_alpha"), "{}", ran.stderr);
}

#[test]
fn a_model_that_fails_is_told_and_the_conversation_goes_on() {
    let home = Home::with_fixtures();
    let ran = home.p2_with(&["chat", "with", "worker", "--name", "x"], "fail\nhey\n").exits(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.stdout);
    assert!(lines[0].contains("nobody is there") && lines[0].contains("http_503"), "{}", lines[0]);
    assert_eq!(lines[1], "You said: hey");
}

#[test]
fn a_chat_prints_json_lines_on_demand() {
    let home = Home::new();
    let ran = home.p2_with(&["--json", "chat", "with", "agent_alpha", "--name", "x"], "hey\n").exits(0);
    let values: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = values.last().unwrap();
    assert_eq!(last["agent"], "agent_alpha");
    assert_eq!(last["entry"]["state"]["AssistantMessage"]["text"], "Hello! How can I help you today?");
}

#[test]
fn a_second_terminal_joins_a_running_engine() {
    let home = Home::new();
    let up = home.up();
    let ran = home.p2_with(&["chat", "with", "agent_alpha", "--name", "x"], "hey\n").exits(0);
    assert_eq!(ran.stdout, "Hello! How can I help you today?\n");
    // Seen through the running process and through a third terminal alike.
    let conversation = up.api.settled("x");
    assert_eq!(entries(&conversation, "agent_alpha")[0].0, "UserMessage");
    let listed = home.p2(&["conversation", "list", "--json"]).exits(0).json();
    assert_eq!(listed[0]["id"], "x");
    assert!(home.api_file().is_some());
    up.interrupt().exits(130);
    assert!(home.api_file().is_none());
    assert_eq!(home.p2(&["conversation", "list", "--json"]).exits(0).json()[0]["id"], "x");
}

#[test]
fn a_second_terminal_joins_a_running_chat_and_both_see_the_same() {
    let home = Home::with_fixtures();
    let mut first = home.start(&["chat", "with", "worker", "--name", "x"]);
    first.say("hey\n");
    until("the first answer", || first.stdout().contains("You said: hey").then_some(()));
    let second = home.p2_with(&["chat", "resume", "x"], "from the second\n").exits(0);
    assert_eq!(second.stdout, "You said: from the second\n");
    first.say("again\n");
    first.close_input();
    let first = first.end().exits(0);
    assert!(first.stdout.ends_with("You said: again\n"), "{}", first.stdout);
    let stack = home.p2(&["conversation", "stack", "x", "--json"]).exits(0).json();
    let users = stack.as_array().unwrap().iter().filter(|entry| entry["kind"] == "UserMessage");
    assert_eq!(users.count(), 3);
}

#[test]
fn a_second_terminal_goes_on_when_the_first_has_ended_or_was_killed() {
    let home = Home::with_fixtures();
    let mut first = home.start(&["chat", "with", "worker", "--name", "x"]);
    first.say("one\n");
    until("the first answer", || first.stdout().contains("You said: one").then_some(()));
    let mut second = home.start(&["chat", "with", "worker", "--name", "y"]);
    second.say("two\n");
    until("the second's answer", || second.stdout().contains("You said: two").then_some(()));
    let mut third = home.start(&["chat", "resume", "x"]);
    first.close_input();
    first.end().exits(0);
    second.say("three\n");
    until("an answer without the first", || second.stdout().contains("You said: three").then_some(()));
    third.say("four\n");
    until("the third's answer", || third.stdout().contains("You said: four").then_some(()));
    // One of the two serves the other now; whichever it is.
    second.kill();
    third.say("five\n");
    until("an answer without the second", || third.stdout().contains("You said: five").then_some(()));
    third.close_input();
    third.end().exits(0);
    let stack = home.p2(&["conversation", "stack", "x", "--json"]).exits(0).json();
    let users = stack.as_array().unwrap().iter().filter(|entry| entry["kind"] == "UserMessage");
    assert_eq!(users.count(), 3, "each once: {stack}");
}

#[test]
fn a_second_up_says_that_one_is_running() {
    let home = Home::new();
    let up = home.up();
    let ran = home.p2(&["up"]).exits(3);
    let told = format!("another process ({}) serves this data directory", up.running.pid());
    assert!(ran.stderr.contains(&told), "{}", ran.stderr);
    up.interrupt().exits(130);
}

#[test]
fn a_text_that_no_record_could_hold_is_refused_with_its_size() {
    let home = Home::with_fixtures();
    let up = home.up();
    let (status, body) = up.api.post("inbox", &user_text("x", "greeter", &"x".repeat(600_001)));
    assert_eq!(status, 400, "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("600001 bytes"), "{body}");
    let (status, _) = up.api.post("inbox?wait=outcome", &user_text("x", "greeter", &"x".repeat(600_000)));
    assert_eq!(status, 200);
    up.interrupt().exits(130);
}
