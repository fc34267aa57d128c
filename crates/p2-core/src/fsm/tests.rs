use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::conversation::Conversation;
use crate::definition::{
    Agent, AgentKind, AtLimit, Definition, HumanAgent, LlmAgent, RenderPolicy, RuleAgent, Tool,
};
use crate::ids::{AgentId, BranchId, ConversationId, Id};
use crate::json_text::JsonText;
use crate::model::{ModelError, ModelErrorClass, ModelOutcome, ModelReply, ModelToolCall};
use crate::record::*;
use crate::registry::Registry;
use crate::state::*;
use crate::step::{Ask, Context, Decision, DedupPolicy, Input, Settings, decide, open_asks};

fn llm(id: &str, tools: &[&str]) -> Definition {
    let llm = LlmAgent {
        model: "scripted/demo".into(),
        system_prompt: None,
        behavior: None,
        tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
        render: RenderPolicy::Default { window: 10 },
        temperature: None,
        top_p: None,
        max_tokens: None,
        self_reflection: false,
        reflection_agent: None,
        at_limit: AtLimit::Compact,
        model_timeout_ms: 120_000,
        agent_timeout_ms: 300_000,
        budget: None,
    };
    Definition::Agent(Agent { id: id.into(), kind: AgentKind::Llm(llm) })
}

fn tool(id: &str, extra: Value) -> Definition {
    let mut body = json!({"id": id, "description": "", "parameters": {"type": "object"}});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Definition::Tool(serde_json::from_value::<Tool>(body).unwrap())
}

fn changed(definition: Definition, change: impl FnOnce(&mut LlmAgent)) -> Definition {
    let Definition::Agent(Agent { id, kind: AgentKind::Llm(mut llm) }) = definition else { unreachable!() };
    change(&mut llm);
    Definition::Agent(Agent { id, kind: AgentKind::Llm(llm) })
}

const ALL: &[&str] = &["weather", "pay", "guarded", "delegate", "ask_user"];

fn registry() -> Registry {
    let mut registry = Registry::default();
    for definition in [
        llm("alpha", ALL),
        llm("helper", ALL),
        Definition::Agent(Agent {
            id: "rules".into(),
            kind: AgentKind::Rule(RuleAgent { rules: BTreeMap::from([("hello".into(), "hi".into())]) }),
        }),
        Definition::Agent(Agent {
            id: "person".into(),
            kind: AgentKind::Human(HumanAgent { callback_url: Some("https://example.org/h".into()) }),
        }),
        tool("weather", json!({"side_effect_free": true})),
        tool("pay", json!({"spends": true})),
        tool("guarded", json!({"approval": "required"})),
        tool("delegate", json!({"executor": "core"})),
        tool("ask_user", json!({"executor": "core"})),
        Definition::Price(crate::definition::Price {
            id: "scripted/demo".into(),
            prompt_usd_per_million: "2.5".into(),
            completion_usd_per_million: "10".into(),
        }),
    ] {
        registry.insert(definition, 1);
    }
    registry
}

/// A conversation with everything that was decided in it.
struct World {
    conv: Conversation,
    registry: Registry,
    settings: Settings,
    now: i64,
    count: u32,
    log: Vec<StateTransition>,
    asks: Vec<Ask>,
    effects: Vec<Effect>,
    payments: Vec<PaymentRequest>,
    artifacts: Vec<Artifact>,
    /// Waits that were open once.
    closed: Vec<Id>,
}

impl World {
    fn new() -> World {
        World {
            conv: Conversation::default(),
            registry: registry(),
            settings: Settings::default(),
            now: 1_000,
            count: 0,
            log: Vec::new(),
            asks: Vec::new(),
            effects: Vec::new(),
            payments: Vec::new(),
            artifacts: Vec::new(),
            closed: Vec::new(),
        }
    }

    fn input(&mut self, input: &Input) -> Decision {
        let context = Context { registry: &self.registry, settings: &self.settings };
        let decision = decide(&self.conv, input, context, self.now);
        assert_eq!(decision, decide(&self.conv, input, context, self.now), "a decision repeats");
        for transition in &decision.transitions {
            self.conv.apply(transition).unwrap();
        }
        self.log.extend(decision.transitions.iter().cloned());
        self.asks.retain(|ask| !decision.closed.contains(&ask.wait));
        self.closed.extend(&decision.closed);
        for ask in &decision.asks {
            self.asks.retain(|old| old.wait != ask.wait);
            self.asks.push(ask.clone());
        }
        self.effects.extend(decision.effects.iter().cloned());
        self.payments.extend(decision.payments.iter().cloned());
        self.artifacts.extend(decision.artifacts.iter().cloned());
        self.check();
        self.now += 10;
        decision
    }

    /// What holds after every step.
    fn check(&self) {
        for (agent, stack) in &self.conv.stacks {
            for branch in stack.branches.values() {
                let entries = self.conv.visible(agent, &branch.id);
                for entry in &entries {
                    if let State::ToolCall(call) = &entry.state {
                        let results = entries.iter().filter(
                            |e| matches!(&e.state, State::ToolResult(r) if r.call_id == call.call_id),
                        );
                        let open = !self.conv.waits_on(agent, &branch.id).is_empty();
                        match results.count() {
                            0 => assert!(open, "{} of {agent}/{} is lost", call.call_id, branch.id),
                            1 => {}
                            many => panic!("{} has {many} results", call.call_id),
                        }
                    }
                }
            }
        }
        for ask in &self.asks {
            assert!(self.conv.waits.contains_key(&ask.wait), "an ask without its wait");
        }
    }

    fn inbox(&mut self, body: InboxBody) -> Outcome {
        self.count += 1;
        let id = Id::of_text(&format!("input {}", self.count));
        let message = InboxMessage { conversation: ConversationId::from("demo"), body };
        outcome(&self.input(&Input::Inbox { id, message }))
    }

    fn say(&mut self, text: &str) -> Outcome {
        self.say_to("alpha", text)
    }

    fn say_to(&mut self, agent: &str, text: &str) -> Outcome {
        let body = UserText { agent: Some(agent.into()), branch: None, text: text.into() };
        self.inbox(InboxBody::UserText(body))
    }

    fn ask_of(&self, agent: &str) -> Id {
        self.asks.iter().find(|ask| ask.agent.as_str() == agent).expect("an open ask").wait
    }

    fn reply(&mut self, agent: &str, text: &str, calls: &[(&str, Value)]) -> Decision {
        let wait = self.ask_of(agent);
        self.reply_to(wait, text, calls)
    }

    fn reply_to(&mut self, wait: Id, text: &str, calls: &[(&str, Value)]) -> Decision {
        let calls = calls.iter().map(|(name, arguments)| ModelToolCall {
            id: String::new(),
            name: (*name).to_owned(),
            arguments: match arguments {
                Value::String(raw) => raw.clone(),
                value => value.to_string(),
            },
        });
        self.reply_with(wait, text, calls.collect())
    }

    fn reply_with(&mut self, wait: Id, text: &str, tool_calls: Vec<ModelToolCall>) -> Decision {
        let reply = ModelReply {
            text: Some(text.to_owned()).filter(|text| !text.is_empty()),
            tool_calls,
            prompt_tokens: Some(1_000),
            completion_tokens: Some(7),
        };
        self.asks.retain(|ask| ask.wait != wait);
        let outcome = ModelOutcome { result: Ok(reply), latency_ms: 5, attempts: 1 };
        self.input(&Input::ModelReply { wait, outcome })
    }

    fn fail(&mut self, agent: &str) -> Decision {
        let wait = self.ask_of(agent);
        let error =
            ModelError { class: ModelErrorClass::Permanent, code: "http_401".into(), message: "no".into() };
        let outcome = ModelOutcome { result: Err(error), latency_ms: 5, attempts: 3 };
        self.input(&Input::ModelReply { wait, outcome })
    }

    fn tool_effects(&self) -> Vec<(Effect, CallTool)> {
        let call = |effect: &Effect| match &effect.body {
            EffectBody::CallTool(call) => Some((effect.clone(), call.clone())),
            _ => None,
        };
        self.effects.iter().filter_map(call).collect()
    }

    fn tool_done(&mut self, nth: usize, status: ToolStatus) -> Outcome {
        let (effect, call) = self.tool_effects()[nth].clone();
        self.inbox(InboxBody::ToolOutcome(ToolOutcome {
            effect: effect.id,
            wait: call.wait,
            call_id: call.call_id,
            status,
            result: json!({"nth": nth}).into(),
            reward: None,
            latency_ms: Some(1),
        }))
    }

    fn apply(&mut self, definition: Definition, version: i32) {
        self.registry.insert(definition, version);
    }

    /// Defines `alpha` anew, before the conversation begins.
    fn alpha(&mut self, change: impl FnOnce(&mut LlmAgent)) {
        let mut registry = Registry::default();
        for kind in ["agent", "tool", "persona", "price"] {
            for (version, definition) in self.registry.list(kind) {
                if definition.id() != "alpha" {
                    registry.insert(definition.clone(), version);
                }
            }
        }
        registry.insert(changed(llm("alpha", ALL), change), 1);
        self.registry = registry;
    }

    fn over(&mut self, set: Overrides) -> Outcome {
        let command =
            OverrideCommand { agent: None, set, clear: false, lock: false, unlock: false, book: None };
        self.inbox(InboxBody::OverrideCommand(command))
    }

    /// The names and data of the events of one name.
    fn events(&self, name: &str) -> Vec<Value> {
        let of = |artifact: &Artifact| match &artifact.body {
            ArtifactBody::Event(event) if event.name == name => Some(event.data.0.clone()),
            _ => None,
        };
        self.artifacts.iter().filter_map(of).collect()
    }

    /// What was published to people, oldest first.
    fn published<'w>(&'w self) -> Vec<&'w str> {
        let text = |effect: &'w Effect| match &effect.body {
            EffectBody::PublishReply(reply) => Some(reply.text.as_str()),
            _ => None,
        };
        self.effects.iter().filter_map(text).collect()
    }

    /// The last message of the newest request to an agent.
    fn asked(&self, agent: &str) -> String {
        let ask = self.asks.iter().rev().find(|ask| ask.agent.as_str() == agent).expect("an open ask");
        format!("{:?}", ask.request.messages.last().expect("a message"))
    }

    fn deadline(&mut self, wait: Id) -> Decision {
        self.input(&Input::Deadline { wait })
    }

    fn wait(&self, kind: WaitKind) -> Id {
        self.conv.waits.values().find(|wait| wait.waiting.kind == kind).expect("an open wait").waiting.id
    }

    fn answer(&mut self, request: Id, kind: AnswerKind, text: &str, arguments: Option<Value>) -> Outcome {
        let answer = Answer { kind, text: text.into(), arguments: arguments.map(JsonText) };
        self.inbox(InboxBody::HumanAnswer(HumanAnswer { request, answer, by: "ann".into() }))
    }

    fn branch(&mut self, command: BranchCommand) -> Outcome {
        self.inbox(InboxBody::BranchCommand(command))
    }

    fn control(&mut self, operation: ControlOperation) -> Outcome {
        self.inbox(InboxBody::ControlCommand(ControlCommand { operation, reason: "enough".into() }))
    }

    /// The entries of a branch that people count, one a line.
    fn show(&self, agent: &str, branch: &str) -> String {
        let entries = self.conv.indexed(&agent.into(), &branch.into());
        entries.into_iter().enumerate().map(|(at, entry)| format!("{at} {}\n", line(&entry.state))).collect()
    }

    fn main(&self) -> String {
        self.show("alpha", "main")
    }
}

fn outcome(decision: &Decision) -> Outcome {
    let mut found = decision.artifacts.iter().filter_map(|artifact| match &artifact.body {
        ArtifactBody::InputOutcome(outcome) => Some(outcome.outcome.clone()),
        _ => None,
    });
    let first = found.next().expect("an outcome");
    assert!(found.next().is_none(), "one outcome");
    first
}

fn line(state: &State) -> String {
    match state {
        State::UserMessage(m) => match &m.origin {
            Some(origin) => format!("user ({origin}): {}", m.text),
            None => format!("user: {}", m.text),
        },
        State::AssistantMessage(m) => match &m.error {
            Some(error) => format!("assistant error {}/{}", error.class, error.code),
            None if m.tool_calls > 0 => format!("assistant +{}: {}", m.tool_calls, m.text),
            None => format!("assistant: {}", m.text),
        },
        State::ToolCall(c) => format!("call {} {}", c.tool, c.arguments.text()),
        State::ToolResult(r) => format!("result {} {} {:?}", r.tool, r.status.as_str(), r.reward),
        State::AgentCall(c) => format!("agent call {}: {}", c.agent, c.message),
        State::AgentResult(r) => format!("agent result {} {}: {}", r.agent, r.status.as_str(), r.text),
        State::Waiting(w) => format!("waiting {}", w.kind.as_str()),
        State::UserInputRequest(r) => format!("request {:?}: {}", r.kind, r.text),
        State::UserResponse(r) => format!("response {:?} by {}", r.answer.kind, r.by),
        State::Finished(f) => format!("finished {}", f.stop_reason.as_str()),
    }
}

#[track_caller]
fn check(actual: &str, expected: Expect) {
    expected.assert_eq(actual);
}

fn command(operation: BranchOperation) -> BranchCommand {
    BranchCommand {
        operation,
        agent: None,
        branch: None,
        at: None,
        name: None,
        tree: false,
        keep_wait: false,
        destructive: false,
    }
}

fn to_helper(message: &str) -> (&'static str, Value) {
    ("delegate", json!({"agent_id": "helper", "message": message}))
}

mod anything;
mod behaviour;
mod books;
mod budgets;
mod delegation;
mod ledger_tools;
mod order;
mod payments;
mod properties;
mod rewinds;
mod tools;
mod turns;
