//! `apply`: good files, and for each kind of bad one a message that says file, line, key and what would fit.

use crate::home::Home;

/// The agents of the earlier system, in its own words.
const EARLIER: &str = r#"
agents:
  - id: agent_alpha
    type: llm
    llm_model: "openai/gpt-4o"
    behavior_template: weather_expert
    tools: ["get_weather", "delegate", "check_balance", "transfer_funds", "reward_agent"]
  - id: treasurer
    type: llm
    llm_model: "openai/gpt-4o"
    tools: [check_balance, transfer_funds, transaction_history, reward_agent]
  - id: greeter
    type: rule_based
    rules: { hello: "Hi there!" }
  - id: reviewer
    type: human_in_loop
"#;

#[track_caller]
fn refused(text: &str, expected: &str) {
    let home = Home::new();
    home.write("bad.yml", text);
    let ran = home.p2(&["apply", "bad.yml"]).exits(2);
    assert_eq!(ran.stderr, format!("error: {expected}\n"));
    assert_eq!(ran.stdout, "");
}

#[test]
fn the_agents_of_the_earlier_system_load_as_they_are() {
    let home = Home::new();
    home.write("agents.yml", EARLIER);
    let ran = home.p2(&["apply", "agents.yml"]).exits(0);
    assert_eq!(ran.stderr, "");
    assert_eq!(
        ran.stdout,
        "Applied agent/agent_alpha@1, agent/treasurer@1, agent/greeter@1, agent/reviewer@1\n"
    );
    let shown = home.p2(&["agent", "show", "agent_alpha", "--json"]).exits(0).json();
    assert_eq!(shown["version"], 1);
    assert_eq!(home.p2(&["apply", "agents.yml"]).exits(0).stdout, "Nothing new\n");
    let ran = home.p2_with(&["chat", "with", "greeter", "--name", "x"], "hello\n").exits(0);
    assert_eq!(ran.stdout, "Hi there!\n");
}

#[test]
fn an_agent_that_names_the_ledgers_tools_is_offered_them() {
    let home = Home::with_fixtures();
    home.write(
        "a.yml",
        "- {id: a, type: llm, model: scripted/offer, tools: [get_weather, transfer_funds]}\n",
    );
    home.write("scripts/offer.yml", "rules: [{reply: {text: \"I have {{ tools | join(', ') }}.\"}}]\n");
    let mut home = home;
    home.set("P2_SCRIPTS_DIR", &home.path("scripts").display().to_string());
    home.p2(&["apply", "a.yml"]).exits(0);
    let ran = home.p2_with(&["chat", "with", "a", "--name", "x"], "what can you do?\n").exits(0);
    assert_eq!(ran.stdout, "I have get_weather, transfer_funds.\n");
}

#[test]
fn a_settings_file_may_name_agents_that_conversations_keep() {
    let mut home = Home::new();
    home.unset("P2_MODEL");
    home.write("agents.yml", "- {id: greeter, type: rule, rules: {hello: first}}\n");
    home.write("p2engine.toml", "agents_file = 'agents.yml'\nmodel = 'scripted/demo'\n");
    let chat = ["chat", "with", "greeter", "--name", "x"];
    assert_eq!(home.p2_with(&chat, "hello\n").exits(0).stdout, "first\n");
    home.write("agents.yml", "- {id: greeter, type: rule, rules: {hello: second}}\n");
    assert_eq!(
        home.p2_with(&chat, "hello\n").exits(0).stdout,
        "first\n",
        "the conversation keeps its version"
    );
    let new = ["chat", "with", "greeter", "--name", "y"];
    assert_eq!(home.p2_with(&new, "hello\n").exits(0).stdout, "second\n");
    std::fs::remove_file(home.path("p2engine.toml")).unwrap();
    home.set("P2_MODEL", "scripted/demo");
    assert_eq!(home.p2_with(&chat, "hello\n").exits(0).stdout, "first\n");
}

#[test]
fn a_script_that_cannot_be_used_is_refused_and_one_that_is_not_here_is_told_of() {
    let mut home = Home::new();
    home.set("P2_SCRIPTS_DIR", &home.path("scripts").display().to_string());
    home.write("a.yml", "- {id: a, type: llm, model: scripted/mine}\n");
    let ran = home.p2(&["apply", "a.yml"]).exits(0);
    assert!(
        ran.stderr.contains("agent/a: model 'scripted/mine': ") && ran.stderr.contains("mine.yml"),
        "{}",
        ran.stderr
    );
    home.write("scripts/mine.yml", "rules: [{repy: {text: hi}}]\n");
    home.write("b.yml", "- {id: c, type: human_in_loop}\n- {id: b, type: llm, model: scripted/mine}\n");
    let ran = home.p2(&["apply", "b.yml"]).exits(2);
    assert!(
        ran.stderr.contains("agent/b: model 'scripted/mine': ") && ran.stderr.contains("repy"),
        "{}",
        ran.stderr
    );
    home.p2(&["agent", "show", "c"]).exits(4);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() {
    refused(
        "- id: a\n  type: llm\n  model: openai/gpt-4o\n  temprature: 1\n",
        "bad.yml:4: agent 'a': unknown key 'temprature'; the nearest valid key is 'temperature'",
    );
}

#[test]
fn a_value_of_the_wrong_shape_is_named_with_its_line() {
    refused(
        "- id: a\n  type: llm\n  model: openai/gpt-4o\n  temperature: warm\n",
        "bad.yml:4: agent 'a': 'temperature' must be a number, found the text 'warm'",
    );
}

#[test]
fn a_value_out_of_range_is_named_with_its_line() {
    refused(
        "- id: a\n  type: llm\n  model: openai/gpt-4o\n  temperature: 3\n",
        "bad.yml:4: agent 'a': 'temperature' must be from 0 to 2, found 3",
    );
}

#[test]
fn an_unknown_type_is_named_with_the_nearest_one() {
    refused(
        "- id: a\n  type: lmm\n",
        "bad.yml:2: agent 'a': the agent type 'lmm' is not known; the nearest is 'llm'",
    );
}

#[test]
fn an_unknown_kind_is_named_with_the_nearest_one() {
    refused(
        "kind: tol\nid: a\n",
        "bad.yml:1: tol 'a': the kind 'tol' is not known; the nearest is 'tool' (there are agent, tool, persona, price, evaluator, rubric)",
    );
}

#[test]
fn a_missing_key_is_named() {
    refused(
        "kind: tool\nid: t\ndescription: d\n",
        "bad.yml: tool 't': the key 'parameters' is missing; add it",
    );
}

#[test]
fn a_reference_to_what_does_not_exist_is_named_with_its_line_and_the_nearest_one() {
    refused(
        "- id: a\n  type: llm\n  model: x/y\n  tools: [get_wether]\n",
        "bad.yml:4: agent 'a': 'tools' names the tool 'get_wether', which does not exist; the nearest known tool is \
         'get_weather', or apply that tool too",
    );
}

#[test]
fn a_template_that_does_not_compile_is_named() {
    let home = Home::new();
    home.write("bad.yml", "kind: persona\nid: p\ntemplate: '{{ question'\n");
    let ran = home.p2(&["apply", "bad.yml"]).exits(2);
    assert!(ran.stderr.starts_with("error: bad.yml:3: persona 'p': 'template' "), "{}", ran.stderr);
}

#[test]
fn text_that_is_not_yaml_is_named_with_its_line() {
    let home = Home::new();
    home.write("bad.yml", "- id: a\n  type: [llm\n");
    let ran = home.p2(&["apply", "bad.yml"]).exits(2);
    assert!(ran.stderr.starts_with("error: bad.yml:"), "{}", ran.stderr);
}

#[test]
fn a_file_without_definitions_and_a_file_that_is_not_there_are_told() {
    refused(
        "",
        "bad.yml: holds no definition; write documents with kind: agent, tool, persona, price, evaluator or rubric",
    );
    let ran = Home::new().p2(&["apply", "none.yml"]).exits(2);
    assert!(ran.stderr.starts_with("error: none.yml: "), "{}", ran.stderr);
}

#[test]
fn of_several_files_none_is_applied_where_one_is_bad() {
    let home = Home::new();
    home.write("good.yml", "- {id: greeter, type: rule, rules: {}}\n");
    home.write("bad.yml", "- {id: a, type: rule, rulez: {}}\n");
    home.p2(&["apply", "good.yml", "bad.yml"]).exits(2);
    home.p2(&["agent", "show", "greeter"]).exits(4);
}

#[test]
fn files_may_refer_to_each_other() {
    let home = Home::new();
    home.write("agents.yml", "- {id: a, type: llm, model: scripted/demo, tools: [look]}\n");
    home.write(
        "tools.yml",
        "kind: tool\nid: look\ndescription: d\nparameters: {type: object}\nexecutor: external\n",
    );
    let ran = home.p2(&["apply", "agents.yml", "tools.yml"]).exits(0);
    assert_eq!(ran.stdout, "Applied agent/a@1, tool/look@1\n");
}
