//! Templates that are wrong, endless or too large; the agents that a model may call.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};

use super::*;
use crate::builtin;
use crate::definition::{LlmAgent, RenderPolicy};
use crate::ids::{AgentId, ConversationId};
use crate::model::ModelRequest;
use crate::registry::Registry;
use crate::render::{RenderSpec, request};

const ENDLESS: &str = "fine\n{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}";

fn asked(registry: &Registry, system_prompt: Option<&str>, any_agent: bool) -> Result<ModelRequest, String> {
    let (conversation, agent) = (ConversationId::from("talk"), AgentId::from("agent_alpha"));
    let llm = LlmAgent {
        tools: vec!["delegate".to_owned()],
        render: RenderPolicy::Compact,
        system_prompt: system_prompt.map(str::to_owned),
        ..LlmAgent::new("scripted/demo")
    };
    let mut spec = RenderSpec::resolve(registry, &BTreeMap::new(), &conversation, &agent, &llm)?;
    spec.any_agent = any_agent;
    request(&spec, &[])
}

fn refused(template: &str, expected: Expect) {
    expected.assert_eq(&check_persona(template).unwrap_err());
}

#[test]
fn an_endless_template_is_refused_with_its_line() {
    refused(
        ENDLESS,
        expect!["cannot be rendered: line 2: it takes more than 100000 steps: shorten its loops"],
    );
    refused(
        "{% macro again() %}{{ again() }}{% endmacro %}\n{{ again() }}",
        expect!["cannot be rendered: line 1: invalid operation: recursion limit exceeded"],
    );
    refused(
        "{% for n in range(9000) %}0123456789012345678901234567890123456789{% endfor %}",
        expect!["cannot be rendered: it makes more than 262144 bytes of text: shorten its loops"],
    );
}

#[test]
fn a_template_that_can_never_work_is_refused_with_its_line() {
    refused(
        "one\n\n{% endfor %}",
        expect!["is not a valid template: line 3: syntax error: unknown statement endfor"],
    );
    refused(
        "one\n{{ agent|shout }}",
        expect!["cannot be rendered: line 2: unknown filter: filter shout is unknown"],
    );
    refused("{{ agent is loud }}", expect!["cannot be rendered: line 1: unknown test: test loud is unknown"]);
    refused(
        "{{ tools }}",
        expect!["uses the unknown name 'tools'; it may use agent, conversation, question"],
    );
}

#[test]
fn a_failure_that_comes_from_the_example_alone_does_not_refuse_a_template() {
    assert_eq!(check_persona("{{ question|int + 1 }}"), Ok(()));
    assert_eq!(check_system("{% for one in agents %}{{ one|upper }}{% endfor %}{{ tools[0].id }}"), Ok(()));
}

#[test]
fn an_endless_template_that_was_applied_long_ago_fails_and_names_the_agent() {
    let error = asked(&builtin::registry(), Some(ENDLESS), false).unwrap_err();
    expect!["the system prompt of agent 'agent_alpha' cannot be rendered: line 2: it takes more than 100000 steps: shorten its loops"].assert_eq(&error);
}

#[test]
fn the_description_of_delegate_names_every_other_agent() {
    let named = |registry: &Registry, any| asked(registry, None, any).unwrap().tools[0].description.clone();
    let registry = builtin::registry();
    expect!["Give a task to another agent and wait for its answer. Several calls in one reply run at the same time. The agents are: agent_beta, agent_helper, agent_lemy, child, treasurer."].assert_eq(&named(&registry, false));
    expect!["Give a task to another agent and wait for its answer. Several calls in one reply run at the same time. The agents are: agent_beta, agent_helper, agent_lemy, child, treasurer. Any other id gives a new agent."].assert_eq(&named(&registry, true));
    let mut alone = Registry::default();
    for definition in builtin::definitions().into_iter().filter(|one| one.kind() == "tool") {
        alone.insert(definition, 1);
    }
    expect!["Give a task to another agent and wait for its answer. Several calls in one reply run at the same time. There is no other agent at the moment."].assert_eq(&named(&alone, false));
    expect!["Give a task to another agent and wait for its answer. Several calls in one reply run at the same time. Any id gives a new agent."].assert_eq(&named(&alone, true));
}

#[test]
fn a_system_prompt_may_name_the_other_agents_itself() {
    let request = asked(&builtin::registry(), Some("{{ agents|join('+') }}"), false).unwrap();
    let ChatMessage::System { content } = &request.messages[0] else { panic!("no system message") };
    expect!["agent_beta+agent_helper+agent_lemy+child+treasurer"].assert_eq(content);
}
