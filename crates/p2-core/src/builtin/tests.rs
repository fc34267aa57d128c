use super::*;
use crate::apply::{check_references, records};
use crate::definition::{AgentKind, Executor};

#[test]
fn the_built_in_files_are_valid_and_refer_to_nothing_that_is_missing() {
    let definitions = parse().unwrap();
    assert_eq!(check_references(&definitions, &Registry::default(), None), Ok(()));
    let ids: Vec<String> = definitions.iter().map(|d| format!("{}/{}", d.kind(), d.id())).collect();
    assert_eq!(
        ids,
        [
            "agent/agent_alpha",
            "agent/agent_beta",
            "agent/agent_helper",
            "agent/treasurer",
            "agent/agent_lemy",
            "agent/child",
            "tool/get_weather",
            "tool/get_league_leader",
            "tool/delegate",
            "tool/ask_user",
            "tool/transfer_funds",
            "tool/check_balance",
            "tool/transaction_history",
            "tool/reward_agent",
            "persona/weather_expert",
            "price/openai/gpt-4o",
            "price/openai/gpt-4o-mini",
            "price/openai/gpt-4.1",
            "evaluator/gpt4_judge",
            "evaluator/joke_judge",
            "rubric/joke_quality",
        ]
    );
}

#[test]
fn every_built_in_agent_runs_offline_and_only_tools_that_pay_spend() {
    let registry = registry();
    for (version, definition) in registry.list("agent") {
        assert_eq!(version, 0);
        let Definition::Agent(agent) = definition else { panic!("not an agent: {definition:?}") };
        let AgentKind::Llm(llm) = &agent.kind else { panic!("not a model: {agent:?}") };
        assert_eq!(llm.model, "scripted/demo");
    }
    for (_, definition) in registry.list("tool") {
        let Definition::Tool(tool) = definition else { panic!("not a tool: {definition:?}") };
        let id = tool.id.as_str();
        let (core, pays) =
            (["delegate", "ask_user"].contains(&id), ["transfer_funds", "reward_agent"].contains(&id));
        let asks = ["check_balance", "transaction_history"].contains(&id);
        assert_eq!(tool.executor == Executor::Core, core, "{id}");
        assert_eq!(tool.executor == Executor::Ledger, pays || asks, "{id}");
        assert_eq!((tool.side_effect_free, tool.spends), (!core && !pays, pays), "{id}");
        assert!(!(pays && tool.idempotent), "{id}: a second call is a second payment");
    }
}

#[test]
fn an_applied_definition_supersedes_the_built_in_one_and_a_pin_on_zero_keeps_it() {
    let mut registry = registry();
    let applied =
        parse_file("[{id: child, type: llm, llm_model: openai/gpt-4o, tools: [get_weather]}]", "a.yml")
            .unwrap();
    for record in records(&applied, &registry) {
        registry.apply(&record).unwrap();
    }
    let (version, agent) = registry.agent("child", None).unwrap();
    assert_eq!((version, Definition::Agent(agent.clone())), (1, applied[0].clone()));
    let (version, agent) = registry.agent("child", Some(0)).unwrap();
    assert!(version == 0 && matches!(&agent.kind, AgentKind::Llm(llm) if llm.model == "scripted/demo"));
}

#[test]
fn applying_the_built_in_definitions_changes_nothing() {
    assert_eq!(records(&definitions(), &registry()), []);
}
