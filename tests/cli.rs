//! The command line as a process: help, exit codes, settings.

use std::process::{Command, Output};

fn p2(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_p2engine"))
        .args(args)
        .current_dir(dir.path())
        .env_clear()
        .env("HOME", dir.path())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_names_examples_and_exit_codes() {
    let output = p2(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for part in ["Examples:", "Exit codes:", "P2_DATA_DIR", "dead-letters", "completions"] {
        assert!(help.contains(part), "{part} is missing in\n{help}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [&["nothing"][..], &["replay", "stacks"], &["conversation", "answer", "x"], &["trace", "xyz"]]
    {
        assert_eq!(p2(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn wrong_usage_is_one_json_document_where_json_was_asked_for() {
    for args in
        [&["ledger", "foo", "--json"][..], &["--json", "ledger", "audit", "--limit", "x"], &["--json"]]
    {
        let output = p2(args);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &said["error"]["code"]), (Some(2), &"invalid".into()), "{args:?}");
        assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    }
    assert!(text(&p2(&["--json", "--help"]).stdout).contains("Usage:"));
}

#[test]
fn settings_are_shown_with_their_source_and_as_json() {
    let output = p2(&["config", "show", "--json", "--data-dir", "here"]);
    assert_eq!(output.status.code(), Some(0));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["data_dir"]["value"], "here");
    assert_eq!(shown["data_dir"]["source"], "--data-dir");
    assert_eq!(shown["model"]["value"], "scripted/demo");
}

#[test]
fn a_settings_file_that_is_named_must_exist() {
    let output = p2(&["config", "show", "--config", "none.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("none.toml"), "{}", text(&output.stderr));
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = p2(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(text(&output.stdout).contains("dead-letters"), "{shell}");
    }
}

/// All commands: (words, whether it has commands of its own).
fn commands() -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(words) = open.pop() {
        let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
        args.push("--help");
        let help = text(&p2(&args).stdout);
        let listed = help.split_once("Commands:\n").map_or("", |(_, rest)| rest);
        for line in listed.lines().take_while(|line| !line.is_empty()) {
            let name = line.split_whitespace().next().unwrap_or_default();
            // Descriptions that wrap begin further to the right.
            if line.starts_with("  ") && !line.starts_with("   ") && name != "help" {
                open.push(words.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
        found.push(words);
    }
    found
}

#[test]
fn every_help_has_an_example_that_can_be_parsed() {
    let commands = commands();
    assert!(commands.len() > 45, "{}", commands.len());
    for words in commands {
        let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
        args.push("--help");
        let help = text(&p2(&args).stdout);
        let examples: Vec<&str> =
            help.lines().map(str::trim).filter(|line| line.starts_with("p2engine ")).collect();
        assert!(help.contains("Example") && !examples.is_empty(), "{words:?}:\n{help}");
        let prefix = format!("p2engine {}", words.join(" "));
        assert!(examples.iter().any(|example| example.starts_with(prefix.trim())), "{words:?}: {examples:?}");
    }
}

#[test]
fn exit_codes_are_those_that_help_names() {
    let home = crate::home::Home::with_fixtures();
    home.p2(&["conversation", "list"]).exits(0);
    home.p2(&["conversation", "stack", "nothing"]).exits(4);
    home.p2(&["conversation", "cancel", "nothing"]).exits(4);
    home.p2(&["nothing"]).exits(2);
    home.p2_with(&["chat", "with", "worker", "--name", "x"], "hey\n").exits(0);
    home.p2(&["conversation", "rewind", "x", "99"]).exits(3);
    let error = home.p2(&["--json", "conversation", "rewind", "x", "99"]).exits(3).json();
    assert!(error["error"]["message"].as_str().unwrap().contains("no index 99"), "{error}");
    // A data directory that cannot be used is no engine.
    home.write("file", "");
    let ran = home.p2(&["--data-dir", "file", "conversation", "list"]).exits(5);
    assert!(ran.stderr.contains("file"), "{}", ran.stderr);
}

#[test]
fn a_log_setting_that_cannot_be_used_is_an_error() {
    for (name, value) in [("P2_LOG", "agent-step=loud"), ("P2_LOG_FORMAT", "xml")] {
        let mut home = crate::home::Home::new();
        home.set(name, value);
        let ran = home.p2(&["agent", "list"]).exits(2);
        assert!(ran.stderr.starts_with(&format!("error: env {name}: ")), "{}", ran.stderr);
    }
}
