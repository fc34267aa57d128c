use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::builtin;
use crate::definition::{Agent, AtLimit, LlmAgent, RenderPolicy};
use crate::ids::AgentId;

/// The earlier system's file: same keys, same six agents, plus one of each other type.
const EARLIER: &str = r#"
agents:
  - id: agent_alpha
    type: llm
    llm_model: "openai/gpt-4o"
    behavior_template: weather_expert
    tools: ["get_weather", "delegate", "check_balance", "transfer_funds", "reward_agent"]
    render_policy: default
    enable_self_reflection: true
    reflection_agent_id: agent_beta
  - id: agent_beta
    type: llm
    llm_model: "openai/gpt-4o"
    tools: ["check_balance", "transfer_funds", "transaction_history"]
  - id: agent_helper
    type: llm
    llm_model: "openai/gpt-4o"
    behavior_template: null
    tools: [get_weather, check_balance, transaction_history]
    temperature: 0.7
    top_p: 1.0
    max_tokens: 500
  - id: treasurer
    type: llm
    llm_model: "openai/gpt-4o"
    tools: [check_balance, transfer_funds, transaction_history, reward_agent]
  - id: agent_lemy
    type: llm
    llm_model: "openai/gpt-4o"
    tools: [check_balance]
  - id: child
    type: llm
    tools: [check_balance, transaction_history]
    enable_self_reflection: false
  - id: greeter
    type: rule_based
    rules:
      " Hello ": "Hi there!"
      42: "The answer."
  - id: reviewer
    type: human_in_loop
    callback_url: null
"#;

fn llm(definition: &Definition) -> &LlmAgent {
    match definition {
        Definition::Agent(Agent { kind: AgentKind::Llm(llm), .. }) => llm,
        other => panic!("not an llm agent: {other:?}"),
    }
}

fn refused(text: &str, expected: Expect) {
    expected.assert_eq(&parse_file(text, "a.yml").unwrap_err().to_string());
}

#[test]
fn agents_yml_of_the_earlier_system_loads_unchanged() {
    let agents = parse_file(EARLIER, "agents.yml").unwrap();
    let ids: Vec<&str> = agents.iter().map(Definition::id).collect();
    assert_eq!(
        ids,
        [
            "agent_alpha",
            "agent_beta",
            "agent_helper",
            "treasurer",
            "agent_lemy",
            "child",
            "greeter",
            "reviewer"
        ]
    );
    assert_eq!(
        llm(&agents[0]),
        &LlmAgent {
            behavior: Some("weather_expert".to_owned()),
            tools: ["get_weather", "delegate", "check_balance", "transfer_funds", "reward_agent"]
                .map(str::to_owned)
                .to_vec(),
            self_reflection: true,
            reflection_agent: Some("agent_beta".into()),
            ..LlmAgent::new("openai/gpt-4o")
        }
    );
    let helper = llm(&agents[2]);
    assert_eq!((helper.temperature, helper.top_p, helper.max_tokens), (Some(0.7), Some(1.0), Some(500)));
    assert_eq!(helper.behavior, None);
    assert_eq!(llm(&agents[5]).model, "openai/gpt-4.1");
    assert_eq!(
        agents[6].body(),
        json!({"id": "greeter", "type": "rule", "rules": {"hello": "Hi there!", "42": "The answer."}})
    );
    assert_eq!(agents[7].body(), json!({"id": "reviewer", "type": "human"}));
}

#[test]
fn the_list_form_means_the_same_as_the_agents_key() {
    let list = EARLIER.replace("agents:\n", "");
    assert_eq!(parse_file(&list, "a").unwrap(), parse_file(EARLIER, "b").unwrap());
}

#[test]
fn a_file_may_hold_documents_of_every_kind() {
    let text = "
kind: agent
id: a.1
type: llm
model: ollama/llama3
system_prompt: 'You are {{ agent }}.'
render: {policy: tokens, budget: 900}
at_limit: refuse
model_timeout_ms: 5000
---
kind: tool
id: look-up
description: Looks it up.
parameters: {type: object, properties: {key: {type: string}}}
cache_ttl_ms: 1000
approval: required
---
kind: persona
id: pirate
template: Arr, {{ question }}
---
kind: price
id: ollama/llama3:8b
prompt_usd_per_million: 0.1
completion_usd_per_million: '0.20'
---
";
    let definitions = parse_file(text, "all.yml").unwrap();
    let agent = llm(&definitions[0]);
    assert_eq!(agent.render, RenderPolicy::Tokens { budget: 900 });
    assert_eq!((agent.at_limit, agent.model_timeout_ms), (AtLimit::Refuse, 5_000));
    assert_eq!(agent.agent_timeout_ms, 300_000);
    assert_eq!(
        definitions[1].body(),
        json!({
            "id": "look-up", "description": "Looks it up.",
            "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
            "executor": "builtin", "side_effect_free": false, "idempotent": false, "reconcile": false,
            "dedup_ttl_ms": 86_400_000, "cache_ttl_ms": 1000, "reflect": false, "post_effects": [],
            "timeout_ms": 30_000, "approval": "required", "spends": false
        })
    );
    assert_eq!(
        definitions[3].body(),
        json!({"id": "ollama/llama3:8b", "prompt_usd_per_million": "0.1", "completion_usd_per_million": "0.20"})
    );
    assert_eq!(definitions.len(), 4);
}

#[test]
fn the_body_of_an_agent_is_flat_and_writes_its_defaults_out() {
    let text = "kind: agent\nid: a\ntype: llm\nmodel: scripted/demo\n";
    assert_eq!(
        parse_file(text, "a.yml").unwrap()[0].body(),
        json!({
            "id": "a", "type": "llm", "model": "scripted/demo", "tools": [],
            "render": {"policy": "default", "window": 40}, "self_reflection": false,
            "at_limit": "compact", "model_timeout_ms": 120_000, "agent_timeout_ms": 300_000
        })
    );
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_valid_key() {
    refused(
        "- id: a\n  type: llm\n  model: openai/gpt-4o\n- id: b\n  type: llm\n  modle: openai/gpt-4o\n",
        expect!["a.yml:6: agent 'b': unknown key 'modle'; the nearest valid key is 'model'"],
    );
    refused(
        "- {id: a, type: llm, llm_modell: x/y}",
        expect!["a.yml: agent 'a': unknown key 'llm_modell'; the nearest valid key is 'llm_model'"],
    );
    refused(
        "- {id: a, type: rule, rule: {}}",
        expect!["a.yml: agent 'a': unknown key 'rule'; the nearest valid key is 'rules'"],
    );
    refused(
        "kind: tool\nid: t\ndescription: d\nparameters: {type: object}\ntimeout: 5\n",
        expect!["a.yml:5: tool 't': unknown key 'timeout'; the nearest valid key is 'timeout_ms'"],
    );
    refused(
        "kind: agent\nid: a\ntype: llm\nmodel: x/y\nrender: {policy: tokens, window: 3}\n",
        expect![
            "a.yml:5: agent 'a': 'render' must be free of unknown keys: 'window'; the nearest valid key is 'budget'"
        ],
    );
    refused(
        "agents: []\nagent: 1",
        expect!["a.yml: document 1: unknown key 'agent' beside 'agents'; remove it"],
    );
    refused(
        "kind: tol\nid: t\n",
        expect![
            "a.yml:1: tol 't': the kind 'tol' is not known; the nearest is 'tool' (there are agent, tool, persona, price, evaluator, rubric)"
        ],
    );
    refused(
        "- {id: a, type: rules_based}",
        expect!["a.yml: agent 'a': the agent type 'rules_based' is not known; the nearest is 'rule_based'"],
    );
}

#[test]
fn a_line_is_that_of_the_definition_that_is_wrong() {
    refused(
        "- id: a\n  type: llm\n  model: x/y\n  top_p: 1\n- id: b\n  type: llm\n  model: x/y\n  top_p: 1.5\n",
        expect!["a.yml:8: agent 'b': 'top_p' must be from 0 to 1, found 1.5"],
    );
}

#[test]
fn a_value_of_the_wrong_shape_or_out_of_range_is_refused_by_name() {
    let agent = |rest: &str| format!("[{{id: a, type: llm, model: x/y, {rest}}}]");
    refused(
        &agent("temperature: hot"),
        expect!["a.yml: agent 'a': 'temperature' must be a number, found the text 'hot'"],
    );
    refused(
        &agent("temperature: 2.1"),
        expect!["a.yml: agent 'a': 'temperature' must be from 0 to 2, found 2.1"],
    );
    refused(
        &agent("temperature: .nan"),
        expect!["a.yml: the number .nan cannot be used; write a finite one"],
    );
    refused(
        &agent("max_tokens: 0"),
        expect!["a.yml: agent 'a': 'max_tokens' must be from 1 to 10000000, found 0"],
    );
    refused(
        &agent("max_tokens: 1.5"),
        expect!["a.yml: agent 'a': 'max_tokens' must be a whole number, found 1.5"],
    );
    refused(
        &agent("tools: get_weather"),
        expect!["a.yml: agent 'a': 'tools' must be a list of texts, found the text 'get_weather'"],
    );
    refused(
        &agent("tools: [a, b, a]"),
        expect!["a.yml: agent 'a': 'tools' names 'a' twice; keep one of them"],
    );
    refused(
        &agent("render: windowed"),
        expect![
            "a.yml: agent 'a': 'render' must be default, tokens, compact, or a mapping with 'policy', found the text 'windowed'"
        ],
    );
    refused(
        &agent("render: {policy: default, window: 0}"),
        expect!["a.yml: agent 'a': 'window' must be from 1 to 10000, found 0"],
    );
    refused(
        &agent("at_limit: explode"),
        expect!["a.yml: agent 'a': 'at_limit' must be one of compact, refuse, found the text 'explode'"],
    );
    refused(
        &agent("llm_model: x/z"),
        expect!["a.yml: agent 'a': 'model' and 'llm_model' are the same key; keep one of them"],
    );
    refused(
        &agent("agent_timeout_ms: -1"),
        expect!["a.yml: agent 'a': 'agent_timeout_ms' must be from 1 to 604800000, found -1"],
    );
    refused(
        &agent("system_prompt: '{{ agent'"),
        expect![
            "a.yml: agent 'a': 'system_prompt' is not a valid template: line 1: syntax error: unexpected end of input, expected end of variable block"
        ],
    );
    refused(
        &agent("system_prompt: '{{ agnet }}'"),
        expect![
            "a.yml: agent 'a': 'system_prompt' uses the unknown name 'agnet'; it may use agent, agents, conversation, question, tools, can_delegate, can_ask"
        ],
    );
    refused(
        "[{id: a b, type: llm, model: x/y}]",
        expect!["a.yml: agent 'a b': 'id' must be 1 to 64 characters out of ASCII letters, digits and _ - ."],
    );
    refused(
        "[{id: a, type: llm, model: gpt-4o}]",
        expect!["a.yml: agent 'a': 'model' must be provider/model such as openai/gpt-4o, found 'gpt-4o'"],
    );
    refused(
        "[{id: a, type: human, callback_url: 'ftp://x'}]",
        expect!["a.yml: agent 'a': 'callback_url' must begin with https://, http:// or a variable ${NAME}"],
    );
    refused(
        "[{id: a, type: rule, rules: {Hi: 1, ' hi': 2}}]",
        expect!["a.yml: agent 'a': 'rules' must be free of repeated questions: 'hi' also has the text '2'"],
    );
    refused(
        "[{id: a}]",
        expect!["a.yml: agent 'a': the key 'type' is missing; add type: llm, rule or human"],
    );
    refused("[{type: human}]", expect!["a.yml: agent without id: the key 'id' is missing; add it"]);
}

#[test]
fn tools_personas_and_prices_are_checked_too() {
    let tool = |rest: &str| format!("{{kind: tool, id: t, description: d, {rest}}}");
    refused(
        &tool("parameters: {type: string}"),
        expect!["a.yml: tool 't': 'parameters' must be a JSON Schema of an object; add type: object"],
    );
    refused(
        &tool("parameters: {type: object, properties: {a: {type: text}}}"),
        expect![
            "a.yml: tool 't': 'parameters' has no valid schema for 'a'; 'type' is one of string, number, integer, boolean, array, object, null"
        ],
    );
    refused(
        &tool("parameters: {type: object, required: a}"),
        expect!["a.yml: tool 't': 'parameters' must have a list of names as 'required'"],
    );
    refused(
        &tool("parameters: {type: object}, executor: core"),
        expect!["a.yml: tool 't': 'executor' core is only for delegate and ask_user; use external"],
    );
    refused(
        &tool("parameters: {type: object}, timeout_ms: 0"),
        expect!["a.yml: tool 't': 'timeout_ms' must be from 1 to 604800000, found 0"],
    );
    refused(
        "{kind: persona, id: p, template: '{% if %}'}",
        expect![
            "a.yml: persona 'p': 'template' is not a valid template: line 1: syntax error: unexpected end of block"
        ],
    );
    let price = |text: &str| {
        format!("{{kind: price, id: a/b, prompt_usd_per_million: {text}, completion_usd_per_million: 1}}")
    };
    refused(
        &price("-1"),
        expect![
            "a.yml: price 'a/b': 'prompt_usd_per_million' must be a decimal number such as 2.50, found '-1'"
        ],
    );
    refused(
        &price("'1,5'"),
        expect![
            "a.yml: price 'a/b': 'prompt_usd_per_million' must be a decimal number such as 2.50, found '1,5'"
        ],
    );
    refused(
        &price("1e30"),
        expect![
            "a.yml: price 'a/b': 'prompt_usd_per_million' must be a decimal number such as 2.50, found '1e+30'"
        ],
    );
    refused(
        &price("[1]"),
        expect![
            "a.yml: price 'a/b': 'prompt_usd_per_million' must be a decimal number such as 2.50, found a list"
        ],
    );
}

#[test]
fn a_text_that_is_no_set_of_definitions_is_refused() {
    refused(
        "",
        expect![
            "a.yml: holds no definition; write documents with kind: agent, tool, persona, price, evaluator or rubric"
        ],
    );
    refused(
        "id: a\ntype: human\n",
        expect![
            "a.yml: document 1: has no 'kind'; add kind: agent, tool, persona, price, evaluator or rubric"
        ],
    );
    refused(
        "just words",
        expect!["a.yml: document 1: must be a mapping or a list of agents, found the text 'just words'"],
    );
    refused(
        "- a\n- b",
        expect!["a.yml: document 1: every agent of the list must be a mapping, found the text 'a'"],
    );
    refused("agents: 3", expect!["a.yml: document 1: 'agents' must be a list, found 3"]);
    refused(
        "kind: agent\nid: [",
        expect![
            "a.yml:3: is not valid YAML: did not find expected node content at line 3 column 1, while parsing a flow node"
        ],
    );
    refused(
        "- {id: a, type: human, type: human}",
        expect![[r#"a.yml:1: is not valid YAML: .[0]: duplicate entry with key "type" at line 1 column 3"#]],
    );
    refused(
        "- {id: a, type: human}\n- {id: a, type: human}",
        expect!["a.yml: agent 'a': is defined twice in this file; keep one of them"],
    );
    refused("- !secret {id: a}", expect!["a.yml: the YAML tag '!secret' has no meaning here; remove it"]);
}

#[test]
fn references_are_found_in_the_file_or_in_the_registry_or_named_as_missing() {
    let registry = builtin::registry();
    let parse = |text: &str| parse_file(text, "a.yml").unwrap();
    let fine = "
- {id: a, type: llm, model: x/y, behavior: weather_expert, tools: [get_weather], reflection_agent: b}
- {id: b, type: human}";
    assert_eq!(check_references(&parse(fine), &registry, None), Ok(()));
    let missing = |text: &str, expected: Expect| {
        expected.assert_eq(
            &check_references(&parse(text), &registry, Some(("a.yml", text))).unwrap_err().to_string(),
        );
    };
    missing(
        "[{id: a, type: llm, model: x/y, tools: [get_wether]}]",
        expect![
            "a.yml: agent 'a': 'tools' names the tool 'get_wether', which does not exist; the nearest known tool is 'get_weather', or apply that tool too"
        ],
    );
    missing(
        "[{id: a, type: llm, model: x/y, behavior: weatherman}]",
        expect![
            "a.yml: agent 'a': 'behavior' names the persona 'weatherman', which does not exist; the nearest known persona is 'weather_expert', or apply that persona too"
        ],
    );
    missing(
        "[{id: a, type: llm, model: x/y, reflection_agent: tresurer}]",
        expect![
            "a.yml: agent 'a': 'reflection_agent' names the agent 'tresurer', which does not exist; the nearest known agent is 'treasurer', or apply that agent too"
        ],
    );
    missing(
        "{kind: persona, id: p, template: x, required_tools: [look]}",
        expect![
            "a.yml: persona 'p': 'required_tools' names the tool 'look', which does not exist; the nearest known tool is 'delegate', or apply that tool too"
        ],
    );
}

#[test]
fn applying_yields_the_next_version_and_then_its_pointer_and_nothing_for_what_did_not_change() {
    let mut registry = builtin::registry();
    let file = |temperature: &str| {
        let text = format!(
            "- {{id: child, type: llm, model: x/y, temperature: {temperature}}}\n- {{id: me, type: human}}"
        );
        parse_file(&text, "a.yml").unwrap()
    };
    let mut apply = |definitions: &[Definition]| -> Vec<String> {
        let records = records(definitions, &registry);
        for record in &records {
            registry.apply(record).unwrap();
        }
        records
            .iter()
            .map(|record| format!("{} v{} {}", record.key, record.version, record.body.is_some()))
            .collect()
    };
    assert_eq!(
        apply(&file("0.5")),
        ["agent/child@1 v1 true", "agent/child v1 false", "agent/me@1 v1 true", "agent/me v1 false"]
    );
    assert_eq!(apply(&file("0.5")), Vec::<String>::new());
    assert_eq!(apply(&file("0.6")), ["agent/child@2 v2 true", "agent/child v2 false"]);
    let both: Vec<Definition> = file("0.7").into_iter().chain(file("0.8")).collect();
    assert_eq!(
        apply(&both),
        ["agent/child@3 v3 true", "agent/child v3 false", "agent/child@4 v4 true", "agent/child v4 false"]
    );
    assert_eq!(registry.agent("child", None).unwrap().0, 4);
    assert!(registry.agent("child", Some(2)).is_some());
}

#[test]
fn a_registry_record_that_contradicts_itself_is_refused() {
    let definitions = parse_file("[{id: me, type: human}]", "a.yml").unwrap();
    let record = records(&definitions, &Registry::default()).remove(0);
    let mut registry = Registry::default();
    let apply = |registry: &mut Registry, record: &RegistryRecord| registry.apply(record).unwrap_err();
    let zero = RegistryRecord { version: 0, ..record.clone() };
    expect!["registry record 'agent/me@1': versions count from 1"].assert_eq(&apply(&mut registry, &zero));
    let other = RegistryRecord { id: "you".to_owned(), ..record.clone() };
    expect!["registry record 'agent/me@1': its body defines 'me' instead of 'you'"]
        .assert_eq(&apply(&mut registry, &other));
    let kind = RegistryRecord { kind: "team".to_owned(), ..record };
    expect![
        "team 'me': the kind 'team' is not known; the nearest is 'tool' (there are agent, tool, persona, price, evaluator, rubric)"
    ]
    .assert_eq(&apply(&mut registry, &kind));
    assert_eq!(registry, Registry::default());
}

#[test]
fn one_agent_may_build_on_another_with_a_yaml_anchor() {
    let text =
        "- &base {id: a, type: llm, model: x/y, tools: [get_weather]}\n- {<<: *base, id: b, top_p: 0.5}\n";
    let agents = parse_file(text, "a.yml").unwrap();
    let expected = LlmAgent { top_p: Some(0.5), ..llm(&agents[0]).clone() };
    assert_eq!((agents[1].id(), llm(&agents[1])), ("b", &expected));
}

#[test]
fn only_the_earlier_list_of_agents_has_a_default_model() {
    refused(
        "kind: agent\nid: a\ntype: llm\n",
        expect!["a.yml: agent 'a': the key 'model' is missing; add it"],
    );
}

#[test]
fn a_body_that_is_no_object_is_refused() {
    expect!["agent: its body must be a JSON object, found a list"]
        .assert_eq(&definition_from_json("agent", &json!([])).unwrap_err());
}

#[test]
fn every_built_in_definition_survives_its_body() {
    for definition in builtin::definitions() {
        assert_eq!(definition_from_json(definition.kind(), &definition.body()), Ok(definition));
    }
}

prop_compose! {
    fn any_llm()(
        options in (any::<Option<bool>>(), any::<Option<u32>>(), prop::option::of("[a-z]{1,8}"), any::<bool>()),
        tools in prop::collection::btree_set("[a-z_]{1,9}", 0..4),
        render in 0..3_usize,
        size in 1..10_000_usize,
    ) -> LlmAgent {
        let (half, most, name, flag) = options;
        LlmAgent {
            system_prompt: name.clone(),
            behavior: name.clone(),
            tools: tools.into_iter().collect(),
            render: match render {
                0 => RenderPolicy::Default { window: size },
                1 => RenderPolicy::Tokens { budget: size },
                _ => RenderPolicy::Compact,
            },
            temperature: half.map(|half| if half { 0.5 } else { 2.0 }),
            top_p: half.map(|half| if half { 0.3 } else { 1.0 }),
            max_tokens: most.map(|most| i64::from(most.max(1) % 1_000 + 1)),
            self_reflection: flag,
            reflection_agent: name.map(AgentId),
            at_limit: if flag { AtLimit::Refuse } else { AtLimit::Compact },
            model_timeout_ms: 1 + i64::try_from(size).unwrap(),
            ..LlmAgent::new("x/y")
        }
    }
}

#[test]
fn a_file_that_unfolds_without_end_or_nests_too_deep_is_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let of = format!("*a{}", n - 1);
        bomb += &format!("a{n}: &a{n} [{}]\n", vec![of; 9].join(", "));
    }
    let deep = format!("kind: tool\nparameters: {}", "[".repeat(20_000));
    let objects = "{a: ".repeat(20_000);
    for text in [bomb, deep, objects] {
        assert!(parse_file(&text, "a.yml").unwrap_err().message.contains("is not valid YAML"));
    }
}

proptest! {
    #[test]
    fn a_definition_survives_its_json_body_and_its_yaml_document(llm in any_llm()) {
        let definition = Definition::Agent(Agent { id: "a".into(), kind: AgentKind::Llm(llm) });
        let mut body = definition.body();
        prop_assert_eq!(definition_from_json("agent", &body), Ok(definition.clone()));
        body["kind"] = json!("agent");
        let yaml = serde_yaml_ng::to_string(&body).unwrap();
        prop_assert_eq!(parse_file(&yaml, "a.yml"), Ok(vec![definition]));
    }

    #[test]
    fn no_change_of_a_valid_file_makes_reading_panic(
        file in 0..4_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..7_u8, "\\PC{0,6}"), 1..6),
    ) {
        let files = [
            include_str!("../builtin/agents.yml"),
            include_str!("../builtin/tools.yml"),
            include_str!("../builtin/personas.yml"),
            include_str!("../builtin/prices.yml"),
        ];
        let mut lines: Vec<String> = files[file].lines().map(str::to_owned).collect();
        for (at, edit, text) in edits {
            let at = at.index(lines.len().max(1));
            let Some(line) = lines.get_mut(at) else { break };
            match edit {
                0 => drop(lines.remove(at)),
                1 => {
                    let twice = line.clone();
                    lines.insert(at, twice);
                }
                2 => lines.insert(at, text),
                3 => line.push_str(&text),
                4 => line.insert_str(0, "  "),
                5 => *line = line.replacen(':', &format!(": {text}"), 1),
                _ => *line = line.chars().rev().collect(),
            }
        }
        let text = lines.join("\n");
        match parse_file(&text, "a.yml") {
            Ok(definitions) => {
                let registry = Registry::default();
                let _ = check_references(&definitions, &registry, None);
                for definition in definitions {
                    let again = definition_from_json(definition.kind(), &definition.body());
                    prop_assert_eq!(again, Ok(definition));
                }
            }
            Err(error) => {
                prop_assert!(error.to_string().starts_with("a.yml"), "{}", error);
                prop_assert!(!error.message.is_empty());
            }
        }
    }

    #[test]
    fn no_text_makes_reading_panic(text in "(- |id: |kind: |agent|tool|type: |llm|\\{|\\}|\\[|\\]|\n|  |&a|\\*a|!t|[a-z]|: |---\n){0,40}") {
        let _ = parse_file(&text, "a.yml");
    }
}

#[test]
fn the_ledgers_tools_are_there_by_name_and_no_other_tool_may_ask_the_ledger() {
    let registry = builtin::registry();
    let definitions = parse_file(EARLIER, "agents.yml").unwrap();
    assert_eq!(check_references(&definitions, &registry, None), Ok(()));
    let other = EARLIER.replace("transaction_history", "transaction_histories");
    let error =
        check_references(&parse_file(&other, "agents.yml").unwrap(), &registry, Some(("agents.yml", &other)));
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("agents.yml:14: agent 'agent_beta': 'tools' names the tool"), "{error}");
    let tool = |id: &str, more: &str| {
        let text = format!(
            "kind: tool\nid: {id}\ndescription: d\nparameters: {{type: object}}\nexecutor: ledger\n{more}"
        );
        parse_file(&text, "t.yml")
    };
    assert!(tool("transfer_funds", "spends: true\ntimeout_ms: 5000\n").is_ok(), "with another time-out");
    assert!(tool("check_balance", "side_effect_free: true\n").is_ok());
    for (id, more, expected) in [
        ("mint_money", "", "'executor' ledger is only for transfer_funds, check_balance"),
        ("transfer_funds", "", "'transfer_funds' pays: it needs spends: true"),
        ("reward_agent", "spends: true\nidempotent: true\n", "is neither idempotent nor side_effect_free"),
    ] {
        let error = tool(id, more).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_reference_under_its_earlier_name_is_found_in_its_line() {
    let text = "- id: a\n  type: llm\n  llm_model: x/y\n  behavior_template: weatherman\n";
    let error =
        check_references(&parse_file(text, "a.yml").unwrap(), &builtin::registry(), Some(("a.yml", text)));
    assert_eq!(error.unwrap_err().line, Some(4));
}

fn evaluator(text: &str) -> crate::definition::Evaluator {
    match parse_file(text, "a.yml").unwrap().remove(0) {
        Definition::Evaluator(evaluator) => *evaluator,
        other => panic!("not an evaluator: {other:?}"),
    }
}

fn rubric_of(line: &str) -> Option<String> {
    match evaluator(&format!("kind: evaluator\nid: e\ntype: llm_judge\nmodel: a/b\n{line}\n")).kind {
        crate::definition::EvaluatorKind::LlmJudge(judge) => judge.rubric,
        other => panic!("{other:?}"),
    }
}

#[test]
fn any_text_of_any_shape_is_a_rubric() {
    for text in [
        "Rate helpfulness 0-1",
        "joke_quality",
        "Is it right?! (Mind the units: m, kg.)",
        "{{ not a template }} {% either %}",
        "#1",
        "../../etc",
        "Längere Sätze ☂",
    ] {
        let line = format!("rubric: {}", serde_json::to_string(text).unwrap());
        assert_eq!(rubric_of(&line).as_deref(), Some(text));
    }
    assert_eq!(
        rubric_of("rubric: |-\n  First line.\n  Second: line!").as_deref(),
        Some("First line.\nSecond: line!")
    );
    assert_eq!(rubric_of("rubric: 42").as_deref(), Some("42"));
    assert_eq!(rubric_of(""), None);
}

#[test]
fn evaluators_are_read_with_every_key_and_go_through_the_registry_unchanged() {
    let text = r#"
kind: persona
id: critic
template: You are strict.
---
kind: rubric
id: short
text: Short is good.
---
kind: evaluator
id: panel
type: llm_judge
model: a/b
rubric_id: short
persona: critic
judges: [a/b, {model: c/d, persona: critic}]
samples: 3
metrics: [clarity, wit]
temperature: 0.2
max_tokens: 200
cost_cap_usd: 0.05
timeout_ms: 5000
trigger: {finished: both, every: 5, states: ToolResult, artifacts: [timed_out]}
agents: [alpha]
---
{kind: evaluator, id: same, type: exact, expected: 4, ignore_case: true}
---
{kind: evaluator, id: has, type: contains, texts: [a, b], all: true}
---
{kind: evaluator, id: like, type: regex, pattern: '^\d+$'}
---
{kind: evaluator, id: shaped, type: json_schema, schema: {type: object}}
---
{kind: evaluator, id: quick, type: latency, good_ms: 100, bad_ms: 1000}
---
{kind: evaluator, id: cheap, type: cost, good_usd: 0.01, bad_usd: "1"}
---
{kind: evaluator, id: tools, type: tool_reward, trigger: {finished: root}}
---
{kind: evaluator, id: formula, type: expression, score: "tools_failed == 0", metrics: {words: answer | length}}
---
{kind: evaluator, id: outside, type: topic, description: A script.}
---
{kind: evaluator, id: paid, type: tool_reward, rewards: {}}
---
{kind: evaluator, id: prized, type: expression, score: 1, metrics: {wit: 1}, rewards: {metric: wit, occasion: 2026, book: b}}
---
{kind: evaluator, id: jury, type: topic, rewards: {trusted: Nobody else may write artifacts.}}
"#;
    let definitions = parse_file(text, "a.yml").unwrap();
    assert_eq!(definitions.len(), 15);
    check_references(&definitions, &Registry::default(), None).unwrap();
    let mut registry = Registry::default();
    for record in records(&definitions, &registry) {
        registry.apply(&record).unwrap();
    }
    for definition in &definitions {
        assert_eq!(registry.newest(definition.kind(), definition.id()), Some((1, definition)));
    }
    assert_eq!(registry.evaluators().count(), 13);
    assert_eq!(records(&definitions, &registry), [], "applying it again changes nothing");
}

#[test]
fn mistakes_in_evaluators_are_told_with_place_and_mend() {
    let with = |keys: &str| format!("kind: evaluator\nid: e\n{keys}\n");
    let judge = |keys: &str| with(&format!("type: llm_judge\nmodel: a/b\n{keys}"));
    for (text, expected) in [
        (with("type: llm_juge"), "the evaluator type 'llm_juge' is not known; the nearest is 'llm_judge'"),
        (with(""), "the key 'type' is missing; add one of llm_judge, exact,"),
        (judge("rubrik: x"), "unknown key 'rubrik'; the nearest valid key is 'rubric'"),
        (judge("rubric: ' '"), "'rubric' is empty"),
        (judge("rubric: a\nrubric_id: b"), "'rubric' and 'rubric_id' are two standards"),
        (judge("rubric: [a]"), "'rubric' must be text, found a list"),
        (judge("samples: 0"), "'samples' must be from 1 to 20, found 0"),
        (judge("cost_cap_usd: -1"), "'cost_cap_usd' must be a decimal number"),
        (judge("metrics: [score]"), "the metric 'score' is always there"),
        (judge("metrics: ['a b']"), "the metric 'a b' must be 1 to 64 characters"),
        (judge("judges: [{persona: x}]"), "each judge must have a 'model'"),
        (judge("judges: [{model: x}]"), "'model' must be provider/model"),
        (judge("trigger: {finishd: root}"), "'finishd'; the nearest valid key is 'finished'"),
        (judge("trigger: {finished: parent}"), "'finished' is root, children or both"),
        (judge("trigger: {every: 0}"), "'every' must be from 1 to 10000"),
        (judge("trigger: {states: [ToolResults]}"), "the nearest is 'ToolResult'"),
        (with("type: regex\npattern: '('"), "'pattern' is not a regular expression: unclosed group"),
        (with("type: latency\ngood_ms: 5\nbad_ms: 5"), "'bad_ms' must be from 6 to"),
        (with("type: cost\ngood_usd: 1\nbad_usd: 0.5"), "'bad_usd' must be more than 'good_usd' (1)"),
        (with("type: contains\ntexts: []"), "'texts' must hold at least one text"),
        (with("type: expression\nscore: 1 +"), "'score' is not an expression"),
        (
            with("type: expression\nscore: answr"),
            "'score' uses the unknown name 'answr'; it may use question",
        ),
        (judge("rewards: 5"), "'rewards' must be a mapping of metric, occasion, book, trusted, found 5"),
        (judge("rewards: {metrics: wit}"), "'metrics'; the nearest valid key is 'metric'"),
        (judge("rewards: {metric: cost_usd}"), "the metric 'cost_usd' is no number from 0 to 1"),
        (
            judge("metrics: [wit]\nrewards: {metric: wits}"),
            "no metric 'wits'; the nearest that it has is 'wit'",
        ),
        (with("type: expression\nscore: 1\nrewards: {metric: wit}"), "has no metric 'wit'"),
        (judge("rewards: {occasion: 'May Day'}"), "the name of the occasion has ' ' (U+0020) in it"),
        (judge("rewards: {book: maín}"), "the name of the book has 'í'"),
        (judge("rewards: {trusted: I am sure.}"), "'trusted' is for evaluators of type topic"),
        (with("type: topic\nrewards: {}"), "add 'trusted' with a sentence"),
        (with("type: topic\nrewards: {trusted: true}"), "add 'trusted' with a sentence"),
        ("kind: evaluator\nid: _e\ntype: tool_reward\nrewards: {}".to_owned(), "must begin with a letter"),
        ("kind: rubric\nid: r\n".to_owned(), "the key 'text' is missing"),
    ] {
        let error = parse_file(&text, "a.yml").unwrap_err().to_string();
        assert!(error.contains(expected), "{text}{error}");
    }
    let definitions = parse_file(&judge("rubric_id: nowhere"), "a.yml").unwrap();
    let error = check_references(&definitions, &builtin::registry(), None).unwrap_err().to_string();
    assert!(error.contains("'rubric_id' names the rubric 'nowhere', which does not exist"), "{error}");
}

#[test]
fn an_agents_budget_is_taken_as_it_is_written_and_defaults_to_its_own_wallet() {
    let parsed = |budget: &str| {
        let text = format!("{{kind: agent, id: a, type: llm, model: x/y, budget: {budget}}}");
        parse_file(&text, "a.yml").map(|found| llm(&found[0]).budget.clone().unwrap())
    };
    let whole =
        parsed("{model_call: 0.5, account: 'budget:team', units_per_usd: 100, fees: costs, book: side}");
    let Ok(whole) = whole else { panic!("{whole:?}") };
    assert_eq!((whole.model_call.as_str(), whole.units_per_usd.as_deref()), ("0.5", Some("100")));
    assert_eq!((whole.fees.as_str(), whole.book.as_str()), ("costs", "side"));
    let least = parsed("{model_call: '1', account: }").unwrap();
    assert_eq!((least.account, least.fees.as_str(), least.book.as_str()), (None, "fees", "main"));
    assert_eq!(parsed("{model_call: 1, account: a}").unwrap().account, Some("a".into()));
    let text = "{kind: agent, id: a, type: llm, model: x/y, budget: {model_call: 1}}";
    let found = parse_file(text, "a").unwrap();
    assert_eq!(definition_from_json("agent", &found[0].body()).unwrap(), found[0]);
    assert!(
        parse_file("{kind: agent, id: a, type: llm, model: x/y}", "a").unwrap()[0]
            .body()
            .get("budget")
            .is_none()
    );
}

#[test]
fn a_budget_or_a_price_that_cannot_work_is_refused_with_one_sentence() {
    for (budget, expected) in [
        (
            "5",
            "'budget' must be a mapping of 'model_call' and, as needed, 'account', 'units_per_usd', 'fees', 'book', found 5",
        ),
        (
            "{}",
            "'budget' must be complete: add 'model_call', what a call of the model may cost, such as 0.50",
        ),
        (
            "{model_call: 1, acount: x}",
            "'budget' must be free of unknown keys: 'acount'; the nearest valid key is 'account'",
        ),
        (
            "{model_call: [1]}",
            "'budget' must be complete: 'model_call' must be a decimal number such as 2.50, found a list",
        ),
        ("{model_call: 1, account: 5}", "'budget' must be complete: 'account' must be text, found 5"),
        ("{model_call: 0}", "'budget': 'model_call': '0' is not more than zero"),
        ("{model_call: -1}", "'budget': 'model_call': '-1' is not more than zero"),
        ("{model_call: 1e3}", "'budget': 'model_call': '1000.0' is not"),
        ("{model_call: NaN}", "'budget': 'model_call': 'NaN' is not an amount"),
        ("{model_call: 0.000000001}", "'budget': 'model_call': "),
        (
            "{model_call: '99999999999999999999'}",
            "'budget': 'model_call': '99999999999999999999' is more than",
        ),
        ("{model_call: 1, units_per_usd: 0}", "'budget': 'units_per_usd': '0' is not more than zero"),
        (
            "{model_call: 1, account: treasury}",
            "'budget': 'account': 'treasury' cannot be the budget of 'a': name its own wallet 'a', or a spending account, which begins with budget:",
        ),
        ("{model_call: 1, account: 'budget:'}", "'budget': 'account': 'budget:' cannot be"),
        ("{model_call: 1, account: 'b\u{443}dget:x'}", "'budget': 'account': the name of the account has"),
        ("{model_call: 1, fees: ''}", "'budget': 'fees': the name of the account must have"),
        ("{model_call: 1, book: ' '}", "'budget': 'book': the name of the book"),
    ] {
        let text = format!("{{kind: agent, id: a, type: llm, model: x/y, budget: {budget}}}");
        let Err(error) = parse_file(&text, "a.yml") else {
            assert_eq!(budget, "{model_call: 1e3}", "it is an amount");
            continue;
        };
        assert!(error.message.starts_with(expected), "{budget}: {}", error.message);
    }
    let tool =
        |rest: &str| format!("{{kind: tool, id: t, description: d, parameters: {{type: object}}, {rest}}}");
    for (rest, expected) in [
        ("price: 0", "'price': '0' is not more than zero"),
        ("price: many", "'price': 'many' is not an amount"),
        ("price: [1]", "'price' must be a decimal number such as 2.50, found a list"),
    ] {
        let error = parse_file(&tool(rest), "a.yml").unwrap_err();
        assert!(error.message.starts_with(expected), "{rest}: {}", error.message);
    }
    let delegate = tool("price: 1, executor: core").replace("id: t", "id: delegate");
    let error = parse_file(&delegate, "a.yml").unwrap_err().message;
    assert_eq!(error, "'price' is only for tools with executor builtin or external; remove it");
    assert!(parse_file(&tool("price: 0.01, executor: external"), "a.yml").is_ok());
}
