//! Ctrl-C, SIGTERM and closed pipes: what is under way ends in order, and everything starts again.

use crate::home::{Home, Running, entries, until};

fn wait_for_call(home: &Home) {
    until("the tool begins", || (!home.lines("calls").is_empty()).then_some(()));
}

#[test]
fn ctrl_c_in_a_chat_exits_with_130_and_the_conversation_goes_on() {
    let home = Home::with_fixtures();
    let mut chat = home.start(&["chat", "with", "worker", "--name", "x"]);
    chat.say("hey\n");
    until("the answer", || chat.stdout().contains("You said: hey").then_some(()));
    chat.signal("INT");
    chat.end().exits(130);
    let ran = home.p2_with(&["chat", "resume", "x"], "back\n").exits(0);
    assert_eq!(ran.stdout, "You said: back\n");
}

#[test]
fn ctrl_c_while_a_tool_runs_lets_it_end_and_keeps_its_result() {
    let home = Home::with_fixtures();
    let mut chat = home.start(&["chat", "with", "worker", "--name", "x"]);
    chat.say("call dev_once 700\n");
    wait_for_call(&home);
    chat.signal("INT");
    chat.end().exits(130);
    assert_eq!(home.lines("calls").len(), 2, "the call that had begun ended");
    assert!(
        home.p2(&["effects", "in-doubt", "list", "--json"]).exits(0).json().as_array().unwrap().is_empty()
    );
    // The answer came before the end or comes now.
    let up = home.up();
    let last = entries(&up.api.settled("x"), "worker").pop().unwrap();
    assert_eq!(last.1["text"], "dev_once said call dev_once 700");
    up.interrupt().exits(130);
    assert_eq!(home.lines("calls").len(), 2, "it was not called again");
}

#[test]
fn ctrl_c_while_the_model_thinks_asks_it_again_at_the_next_start() {
    let mut home = Home::with_fixtures();
    home.set("P2_LOG", "agent-step=debug");
    let mut chat = home.start(&["chat", "with", "worker", "--name", "x"]);
    chat.say("think\n");
    until("the model is asked", || chat.stderr().contains("asks=1").then_some(()));
    chat.signal("INT");
    chat.end().exits(130);
    let ran = home.p2_with(&["chat", "resume", "x"], "").exits(0);
    assert_eq!(ran.stdout, "I thought about it.\n");
}

#[test]
fn a_second_ctrl_c_ends_at_once_and_loses_nothing() {
    let home = Home::with_fixtures();
    let mut chat = home.start(&["chat", "with", "worker", "--name", "x"]);
    chat.say("call dev_again 3000\n");
    wait_for_call(&home);
    chat.signal("INT");
    let stderr = |chat: &Running| chat.stderr();
    until("the stop is told", || stderr(&chat).contains("Ctrl-C again").then_some(()));
    chat.signal("INT");
    chat.end().exits(130);
    assert_eq!(home.lines("calls").len(), 1, "it did not wait for the call");
    let ran = home.p2_with(&["chat", "resume", "x"], "").exits(0);
    assert_eq!(ran.stdout, "dev_again said call dev_again 3000\n");
}

#[test]
fn sigterm_ends_a_serving_process_in_order() {
    let home = Home::with_fixtures();
    let up = home.up();
    up.api.say("x", "worker", "call dev_once 500");
    wait_for_call(&home);
    up.running.signal("TERM");
    up.running.end().exits(0);
    assert!(home.api_file().is_none());
    assert_eq!(home.lines("calls").len(), 2);
    let up = home.up();
    let last = entries(&up.api.settled("x"), "worker").pop().unwrap();
    assert_eq!(last.1["text"], "dev_once said call dev_once 500");
    up.interrupt().exits(130);
}

#[test]
fn sigterm_in_a_chat_exits_with_143() {
    let home = Home::with_fixtures();
    let mut chat = home.start(&["chat", "with", "worker", "--name", "x"]);
    chat.say("hey\n");
    until("the answer", || chat.stdout().contains("You said: hey").then_some(()));
    chat.signal("TERM");
    chat.end().exits(143);
}

#[test]
fn somebody_who_watches_does_not_hold_up_a_stop() {
    let home = Home::with_fixtures();
    let up = home.up();
    up.api.say("x", "worker", "hey");
    up.api.settled("x");
    let watch = home.start(&["conversation", "watch", "x"]);
    until("the watcher sees it", || watch.stdout().contains("You said: hey").then_some(()));
    let stopped = up.interrupt().exits(130);
    assert!(!stopped.stderr.contains("cut off"), "{}", stopped.stderr);
    let watch = watch.end().exits(5);
    assert!(watch.stderr.contains("does not answer"), "{}", watch.stderr);
}

#[test]
fn a_client_that_never_finishes_its_request_is_cut_off() {
    use std::io::Write;
    let home = Home::with_fixtures();
    let up = home.up();
    let mut open = std::net::TcpStream::connect(up.api.url.trim_start_matches("http://")).unwrap();
    open.write_all(b"POST /v1/inbox HTTP/1.1\r\nHost: x\r\n").unwrap();
    up.api.say("x", "worker", "hey");
    let stopped = up.interrupt().exits(130);
    assert!(stopped.stderr.contains("cut off"), "{}", stopped.stderr);
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let home = Home::with_fixtures();
    let mut chat = home.start_unread(&["chat", "with", "worker", "--name", "x"]);
    chat.say("call dev_once 200\nhey\n");
    wait_for_call(&home);
    let ran = chat.end().exits(0);
    assert!(!ran.stderr.contains("panic"), "{}", ran.stderr);
    assert!(
        home.p2(&["effects", "in-doubt", "list", "--json"]).exits(0).json().as_array().unwrap().is_empty()
    );
}
