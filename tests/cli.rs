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
