//! The agents and tools of every run.

use p2_core::definition::{
    Agent, AgentKind, Approval, AtLimit, Budget, Contains, Definition, Evaluator, EvaluatorKind, Executor,
    Expression, External, HumanAgent, LlmAgent, LlmJudge, Pattern, Price, RenderPolicy, Rewards, RuleAgent,
    Run, Tool, Trigger,
};
use p2_core::registry::Registry;
use p2_sim::money::SPENDING;
use serde_json::json;

/// How long a model may take, milliseconds.
const MODEL_MS: i64 = 5_000;
/// How long a callee may take, milliseconds.
const AGENT_MS: i64 = 30_000;
/// How long a tool may take, milliseconds.
const TOOL_MS: i64 = 4_000;

/// Tools that agents have, the core's own included.
pub(crate) const TOOLS: [&str; 10] =
    ["read", "lookup", "put", "note", "pay", "ship", "risky", "remote", "delegate", "ask_user"];

/// Agents that can be called.
pub(crate) const CALLEES: [&str; 6] = ["clerk", "clerk", "critic", "rules", "human", "boss"];

/// Agents that people talk to.
pub(crate) const ROOTS: [&str; 9] =
    ["boss", "boss", "boss", "boss", "clerk", "human", "rules", "tight", "tight"];

fn tool(id: &str) -> Tool {
    Tool {
        id: id.to_owned(),
        description: format!("does {id}"),
        parameters: json!({
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "required": ["n"],
            "additionalProperties": false,
        }),
        executor: Executor::Builtin,
        side_effect_free: false,
        idempotent: false,
        reconcile: false,
        dedup_ttl_ms: 86_400_000,
        cache_ttl_ms: None,
        reflect: false,
        post_effects: Vec::new(),
        timeout_ms: TOOL_MS,
        approval: Approval::None,
        spends: false,
        price: None,
    }
}

fn tools() -> Vec<Tool> {
    let free = json!({"type": "object"});
    vec![
        Tool { side_effect_free: true, ..tool("read") },
        Tool { side_effect_free: true, cache_ttl_ms: Some(30_000), ..tool("lookup") },
        Tool { idempotent: true, ..tool("put") },
        Tool { idempotent: true, reflect: true, post_effects: vec!["noted".into()], ..tool("note") },
        Tool { spends: true, ..tool("pay") },
        Tool { reconcile: true, ..tool("ship") },
        Tool { reconcile: true, approval: Approval::Required, ..tool("risky") },
        Tool { executor: Executor::External, ..tool("remote") },
        Tool { executor: Executor::Core, parameters: free.clone(), ..tool("delegate") },
        Tool { executor: Executor::Core, parameters: free, ..tool("ask_user") },
    ]
}

fn llm(tools: &[&str]) -> LlmAgent {
    LlmAgent {
        tools: tools.iter().map(|&tool| tool.to_owned()).collect(),
        render: RenderPolicy::Default { window: 30 },
        model_timeout_ms: MODEL_MS,
        agent_timeout_ms: AGENT_MS,
        ..LlmAgent::new("sim/plain")
    }
}

fn agents() -> Vec<(&'static str, AgentKind)> {
    let critic = Some("critic".into());
    let rules = RuleAgent { rules: [("hello".to_owned(), "good day".to_owned())].into() };
    let url = Some("http://127.0.0.1:9/told".to_owned());
    vec![
        ("boss", AgentKind::Llm(llm(&TOOLS))),
        ("clerk", AgentKind::Llm(LlmAgent { reflection_agent: critic, ..llm(&TOOLS) })),
        ("critic", AgentKind::Llm(LlmAgent { self_reflection: true, ..llm(&["read"]) })),
        ("tight", AgentKind::Llm(LlmAgent { at_limit: AtLimit::Refuse, ..llm(&TOOLS) })),
        ("rules", AgentKind::Rule(rules)),
        ("human", AgentKind::Human(HumanAgent { callback_url: url })),
    ]
}

/// The agents that pay for their work where there is money, and what a model call of each may cost.
const PAYING: [(&str, &str); 3] = [("boss", "0.25"), ("clerk", "0.60"), ("tight", "2")];
/// What a call of some tools costs there.
const PRICES: [(&str, &str); 3] = [("read", "0.015"), ("ship", "0.40"), ("put", "1")];

fn evaluator(id: &str, kind: EvaluatorKind, trigger: Trigger, rewards: Option<Rewards>) -> Definition {
    Definition::Evaluator(Box::new(Evaluator {
        id: id.to_owned(),
        kind,
        trigger,
        agents: Vec::new(),
        rewards,
    }))
}

/// Who judges where there is money.
fn evaluators() -> Vec<Definition> {
    let pays = |trusted: Option<&str>| {
        Some(Rewards {
            metric: "score".to_owned(),
            occasion: None,
            book: "main".into(),
            trusted: trusted.map(str::to_owned),
        })
    };
    let never = Trigger::default();
    let all = Trigger { finished: vec![Run::Root, Run::Children], ..never.clone() };
    let every = Trigger { every: Some(2), finished: vec![Run::Root], ..never.clone() };
    let tools = Trigger { states: vec!["ToolResult".to_owned()], ..never.clone() };
    let tidy = Expression {
        score: "failure is none and answer | length < 12".to_owned(),
        metrics: std::collections::BTreeMap::new(),
    };
    let panel: LlmJudge = serde_json::from_value(json!({
        "model": "sim/judge", "judges": [{"model": "sim/judge"}, {"model": "sim/other"}], "samples": 2,
        "timeout_ms": 8_000,
    }))
    .expect("a definition");
    let contains = Contains { texts: vec!["it".to_owned(), "7".to_owned()], all: false, ignore_case: true };
    let pattern = Pattern { pattern: "answer [0-9]+".to_owned() };
    vec![
        evaluator("tidy", EvaluatorKind::Expression(tidy), all, pays(None)),
        evaluator("panel", EvaluatorKind::LlmJudge(panel), every, pays(None)),
        evaluator("tools", EvaluatorKind::Contains(contains), tools, None),
        evaluator("asked", EvaluatorKind::Regex(pattern), never.clone(), pays(None)),
        evaluator(
            "outsider",
            EvaluatorKind::Topic(External { description: String::new() }),
            never.clone(),
            pays(Some("a friend")),
        ),
        evaluator(
            "untrusted",
            EvaluatorKind::Topic(External { description: String::new() }),
            never,
            pays(None),
        ),
    ]
}

/// As [`registry`], with budgets of the account [`SPENDING`], and with evaluators.
pub(crate) fn registry_with_budgets() -> Registry {
    let mut registry = Registry::default();
    for mut tool in tools() {
        let price = PRICES.iter().find(|(id, _)| *id == tool.id);
        tool.price = price.map(|(_, price)| (*price).to_owned());
        registry.insert(Definition::Tool(tool), 1);
    }
    for (id, mut kind) in agents() {
        if let AgentKind::Llm(llm) = &mut kind
            && let Some((_, model_call)) = PAYING.iter().find(|(paying, _)| *paying == id)
        {
            llm.budget = Some(Box::new(Budget {
                account: Some(SPENDING.into()),
                book: "main".into(),
                fees: "fees".into(),
                model_call: (*model_call).to_owned(),
                units_per_usd: Some("100".to_owned()),
            }));
        }
        registry.insert(Definition::Agent(Agent { id: id.into(), kind }), 1);
    }
    evaluators().into_iter().for_each(|definition| registry.insert(definition, 1));
    // 10 tokens are 0.45 units: below some estimates and above others. No other model has a price.
    registry.insert(
        Definition::Price(Price {
            id: "sim/plain".to_owned(),
            prompt_usd_per_million: "300".to_owned(),
            completion_usd_per_million: "800".to_owned(),
        }),
        1,
    );
    registry
}

/// The registry of every run.
pub(crate) fn registry() -> Registry {
    let mut registry = Registry::default();
    for tool in tools() {
        registry.insert(Definition::Tool(tool), 1);
    }
    for (id, kind) in agents() {
        registry.insert(Definition::Agent(Agent { id: id.into(), kind }), 1);
    }
    registry
}
