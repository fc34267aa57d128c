//! Definitions: agents, tools, personas and prices, as data in `registry`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{AccountId, AgentId, BookId};

mod evaluator;

pub use evaluator::*;

/// An agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// What it is; its fields lie beside `id`, told apart by `type`.
    #[serde(flatten)]
    pub kind: AgentKind,
}

/// The three kinds of agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentKind {
    /// A language model with tools.
    Llm(LlmAgent),
    /// Fixed answers.
    Rule(RuleAgent),
    /// A person.
    Human(HumanAgent),
}

/// A language model with tools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LlmAgent {
    /// `provider/model`.
    pub model: String,
    /// System prompt as a minijinja template; none: the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// Persona (`persona/<id>`), none for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behavior: Option<String>,
    /// Tools by id.
    #[serde(default)]
    pub tools: Vec<String>,
    /// How the stack is rendered.
    #[serde(default)]
    pub render: RenderPolicy,
    /// Sampling temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Longest reply in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<i64>,
    /// Ask the agent to look at its own answer once more (at most three reflections per user message).
    #[serde(default)]
    pub self_reflection: bool,
    /// Ask another agent to criticise the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reflection_agent: Option<AgentId>,
    /// What happens at the limit of entries.
    #[serde(default)]
    pub at_limit: AtLimit,
    /// Deadline of a model call over all retries, milliseconds.
    #[serde(default = "model_timeout_ms")]
    pub model_timeout_ms: i64,
    /// Deadline of a call to another agent, milliseconds.
    #[serde(default = "agent_timeout_ms")]
    pub agent_timeout_ms: i64,
    /// What pays for its work; none: nobody has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Box<Budget>>,
}

/// What pays for an agent's work. Amounts are decimal text in the unit of the book; what the book has no decimals for is
/// rounded up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The account: the agent's own wallet, or one whose name begins with `budget:`. None: the wallet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// The book.
    #[serde(default = "main_book")]
    pub book: BookId,
    /// Who is paid: an account of kind fees.
    #[serde(default = "fees")]
    pub fees: AccountId,
    /// What a model call may cost: set aside before it, and paid where nobody knows what it did cost.
    pub model_call: String,
    /// How many units a US dollar is: then a model call costs what the price of its model says. None: it costs
    /// `model_call`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units_per_usd: Option<String>,
}

fn main_book() -> BookId {
    BookId::from(crate::ledger::MAIN_BOOK)
}

fn fees() -> AccountId {
    AccountId::from(crate::ledger::FEES)
}

impl LlmAgent {
    /// An agent on `model` with every option at its default and no tools.
    pub fn new(model: &str) -> LlmAgent {
        LlmAgent {
            model: model.to_owned(),
            system_prompt: None,
            behavior: None,
            tools: Vec::new(),
            render: RenderPolicy::default(),
            temperature: None,
            top_p: None,
            max_tokens: None,
            self_reflection: false,
            reflection_agent: None,
            at_limit: AtLimit::default(),
            model_timeout_ms: model_timeout_ms(),
            agent_timeout_ms: agent_timeout_ms(),
            budget: None,
        }
    }
}

const fn model_timeout_ms() -> i64 {
    120_000
}

const fn agent_timeout_ms() -> i64 {
    300_000
}

const fn window() -> usize {
    40
}

const fn budget() -> usize {
    16_000
}

/// How a stack is rendered for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "snake_case")]
pub enum RenderPolicy {
    /// The newest `window` rendered messages (internal entries do not count).
    Default {
        /// How many.
        #[serde(default = "window")]
        window: usize,
    },
    /// As many of the newest messages as fit.
    Tokens {
        /// Budget in tokens of the `o200k_base` encoding, system messages included.
        #[serde(default = "budget")]
        budget: usize,
    },
    /// Everything since the newest summary, the summary first.
    Compact,
}

impl Default for RenderPolicy {
    fn default() -> RenderPolicy {
        RenderPolicy::Default { window: window() }
    }
}

/// What happens when 2,000 entries have gathered since the newest summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtLimit {
    /// Append a summary and go on.
    #[default]
    Compact,
    /// Refuse the message, visibly.
    Refuse,
}

/// Fixed answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleAgent {
    /// Question (trimmed, lower case) → answer.
    #[serde(default)]
    pub rules: BTreeMap<String, String>,
}

/// A person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HumanAgent {
    /// Told of each request, with its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
}

/// A tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Its id, which is its name for the model.
    pub id: String,
    /// For the model.
    pub description: String,
    /// JSON Schema (draft 2020-12) of the arguments: an object schema.
    pub parameters: Value,
    /// Who carries it out.
    #[serde(default)]
    pub executor: Executor,
    /// Reads only: repeating it changes nothing, strict dedup lets it pass. Implies `idempotent`.
    #[serde(default)]
    pub side_effect_free: bool,
    /// May be repeated with the same idempotency key. Otherwise a claim is committed before each call.
    #[serde(default)]
    pub idempotent: bool,
    /// Can say what became of a claimed call.
    #[serde(default)]
    pub reconcile: bool,
    /// How long a repetition counts as a duplicate, milliseconds.
    #[serde(default = "day_ms")]
    pub dedup_ttl_ms: i64,
    /// How long a success is answered from the cache, milliseconds; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_ttl_ms: Option<i64>,
    /// After each result the agent is asked to reflect on it.
    #[serde(default)]
    pub reflect: bool,
    /// Custom effects to emit after a success.
    #[serde(default)]
    pub post_effects: Vec<String>,
    /// Deadline of a call, milliseconds.
    #[serde(default = "tool_timeout_ms")]
    pub timeout_ms: i64,
    /// Whether a person must approve each call.
    #[serde(default)]
    pub approval: Approval,
    /// Moves money: never given to auto-created agents.
    #[serde(default)]
    pub spends: bool,
    /// What a call costs an agent that has a budget: decimal text, as there. None: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
}

const fn day_ms() -> i64 {
    86_400_000
}

const fn tool_timeout_ms() -> i64 {
    30_000
}

/// Who carries a tool out.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Executor {
    /// `tool-exec`, a built-in of that id.
    #[default]
    Builtin,
    /// Core: `delegate` and `ask_user` are transitions, not effects.
    Core,
    /// Somebody else's consumer of `effects`; `tool-exec` leaves it alone.
    External,
    /// The ledger: a call is a payment request, and `settlement` answers it.
    Ledger,
}

/// Whether a person must approve each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// No.
    #[default]
    None,
    /// Yes.
    Required,
}

/// A persona: a second system message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persona {
    /// Its id.
    pub id: String,
    /// A minijinja template; sees `question` (the last user message), `agent`, `conversation`.
    pub template: String,
    /// Tools that an agent with this persona always has.
    #[serde(default)]
    pub required_tools: Vec<String>,
}

/// What a model costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// The model, `provider/model`.
    pub id: String,
    /// US dollars per million prompt tokens, decimal text.
    pub prompt_usd_per_million: String,
    /// US dollars per million completion tokens, decimal text.
    pub completion_usd_per_million: String,
}

/// Any definition.
#[derive(Clone, Debug, PartialEq)]
pub enum Definition {
    /// `agent`.
    Agent(Agent),
    /// `tool`.
    Tool(Tool),
    /// `persona`.
    Persona(Persona),
    /// `price`.
    Price(Price),
    /// `evaluator`.
    Evaluator(Box<Evaluator>),
    /// `rubric`.
    Rubric(Rubric),
}

impl Definition {
    /// The kind's name in `registry`.
    pub fn kind(&self) -> &'static str {
        match self {
            Definition::Agent(_) => "agent",
            Definition::Tool(_) => "tool",
            Definition::Persona(_) => "persona",
            Definition::Price(_) => "price",
            Definition::Evaluator(_) => "evaluator",
            Definition::Rubric(_) => "rubric",
        }
    }

    /// The definition's id.
    pub fn id(&self) -> &str {
        match self {
            Definition::Agent(agent) => agent.id.as_str(),
            Definition::Tool(tool) => &tool.id,
            Definition::Persona(persona) => &persona.id,
            Definition::Price(price) => &price.id,
            Definition::Evaluator(evaluator) => &evaluator.id,
            Definition::Rubric(rubric) => &rubric.id,
        }
    }

    /// The canonical JSON body, as in `registry`: own key names, defaults written out, absent options left out.
    /// `definition_from_json` of it gives the same definition back.
    pub fn body(&self) -> Value {
        let body = match self {
            Definition::Agent(agent) => serde_json::to_value(agent),
            Definition::Tool(tool) => serde_json::to_value(tool),
            Definition::Persona(persona) => serde_json::to_value(persona),
            Definition::Price(price) => serde_json::to_value(price),
            Definition::Evaluator(evaluator) => serde_json::to_value(evaluator),
            Definition::Rubric(rubric) => serde_json::to_value(rubric),
        };
        // These types have text keys only, so there is nothing that could fail here.
        body.unwrap_or(Value::Null)
    }
}
