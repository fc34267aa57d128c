//! Logs: spans with whose and what they are, in both forms, and no secret at any level.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use serde_json::Value;

use crate::home::{Home, KEY};

#[test]
fn logs_are_json_lines_with_spans_of_steps_and_calls() {
    let mut home = Home::with_fixtures();
    home.set("P2_LOG", "agent-step=debug,tool-exec=debug");
    home.set("P2_LOG_FORMAT", "json");
    let ran = home.p2_with(&["chat", "with", "worker", "--name", "x"], "call dev_look 0\n").exits(0);
    let lines: Vec<Value> = ran.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let found = |target: &str, message: &str, span: &str| {
        let line = lines.iter().find(|line| {
            line["target"] == target && line["fields"]["message"] == message && line["span"]["name"] == span
        });
        line.unwrap_or_else(|| panic!("no {target} {message} {span} in\n{}", ran.stderr)).clone()
    };
    let step = found("agent-step", "decided", "step");
    assert_eq!((&step["span"]["conversation"], &step["span"]["kind"]), (&"x".into(), &"user_text".into()));
    assert_eq!(step["span"]["ce_id"].as_str().unwrap().len(), 32);
    let model = found("agent-step", "model answered", "model_call");
    for (name, value) in
        [("conversation", "x"), ("agent", "worker"), ("branch", "main"), ("model", "scripted/worker")]
    {
        assert_eq!(model["span"][name], value, "{name}");
    }
    assert_eq!(model["fields"]["attempt"], 1);
    let tool = found("tool-exec", "tool called", "tool_call");
    for (name, value) in
        [("conversation", "x"), ("agent", "worker"), ("branch", "main"), ("tool", "dev_look")]
    {
        assert_eq!(tool["span"][name], value, "{name}");
    }
    assert_eq!(found("tool-exec", "decided", "step")["span"]["conversation"], "x");
}

#[test]
fn levels_are_set_by_target() {
    let mut home = Home::with_fixtures();
    home.set("P2_LOG", "tool-exec=info");
    let ran = home.p2_with(&["chat", "with", "worker", "--name", "x"], "call dev_look 0\n").exits(0);
    assert!(ran.stderr.contains("tool called") && !ran.stderr.contains("model answered"), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\u{1b}'), "no colours in a pipe");
    let ran = home.p2_with(&["chat", "resume", "x", "-v"], "hey\n").exits(0);
    assert!(!ran.stderr.contains("model answered"), "P2_LOG wins over -v");
}

/// An OpenAI-compatible server for one request; what it received.
fn model_server(status: &'static str, body: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).unwrap();
        }
        let lower = head.to_lowercase();
        let length = lower.split_once("content-length: ").unwrap().1.split("\r\n").next().unwrap();
        let mut request = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut request).unwrap();
        let reply = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        reader.get_mut().write_all(reply.as_bytes()).unwrap();
        head
    });
    (url, thread)
}

/// The home itself looks through all that was printed and written when it is dropped.
#[test]
fn a_key_that_is_used_at_trace_level_is_written_nowhere() {
    let replies = [
        (
            "200 OK",
            r#"{"choices":[{"finish_reason":"stop","message":{"role":"assistant","content":"Hello from there."}}]}"#,
        ),
        (
            "401 Unauthorized",
            r#"{"error":{"message":"Incorrect API key provided: canary-7f3a-openai-key-d41c.","code":"invalid_api_key"}}"#,
        ),
    ];
    for format in ["text", "json"] {
        for (status, body) in replies {
            let (url, server) = model_server(status, body);
            let mut home = Home::new();
            home.set("OPENAI_BASE_URL", &url);
            home.set("P2_MODEL", "openai/some-model");
            home.set("P2_LOG", "trace");
            home.set("P2_LOG_FORMAT", format);
            let ran = home.p2_with(&["chat", "with", "agent_alpha", "--name", "x"], "hey\n").exits(0);
            let head = server.join().unwrap();
            assert!(
                head.to_lowercase().contains(&format!("authorization: bearer {KEY}")),
                "the key was sent"
            );
            assert!(ran.stderr.contains("TRACE"), "everything was logged");
            assert_eq!(ran.stdout == "Hello from there.\n", status == "200 OK", "{}", ran.stdout);
            let shown = home.p2(&["config", "show"]).exits(0).stdout;
            assert!(shown.contains("[redacted]"), "{shown}");
            home.p2(&["topics", "tail", "artifacts", "--json"]).exits(0);
            let up = home.up();
            up.api.get("conversations");
            up.interrupt().exits(130);
            assert_eq!(home.leaks(), Vec::<String>::new());
        }
    }
}

#[test]
fn a_leak_would_be_found() {
    let home = Home::new();
    home.write("data/journal", &format!("…{KEY}…"));
    assert_eq!(home.leaks().len(), 1);
    std::fs::remove_file(home.path("data/journal")).unwrap();
}
