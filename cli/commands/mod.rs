//! One module per group of commands. They see the engine only through [`crate::engine::Engine`].

pub(crate) mod bench;
pub(crate) mod chaos;
pub(crate) mod chat;
pub(crate) mod cluster;
pub(crate) mod configure;
pub(crate) mod conversation;
pub(crate) mod copy;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod inspect;
pub(crate) mod ledger;
pub(crate) mod operate;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod trace;

use std::sync::Arc;
use std::time::Duration;

use p2_core::conversation::Conversation;
use p2_core::ids::{AgentId, ConversationId, Id};
use p2_core::record::{InboxBody, InboxMessage, Outcome, Verdict};
use serde_json::Value;

use crate::engine::{Engine, EngineError, EngineResult, OUTCOME_TIMEOUT};
use crate::output::Output;

/// Whoever waits longer for the outcome of a message is told so.
const PATIENCE: Duration = Duration::from_secs(8);

/// What every command gets.
pub(crate) struct Run {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// Where to print.
    pub out: Output,
}

impl Run {
    /// The conversation of that name.
    pub(crate) async fn conversation(&self, name: &str) -> EngineResult<Conversation> {
        let found = self.engine.conversation(&ConversationId::from(name)).await?;
        found.ok_or_else(|| no_conversation(name))
    }

    /// Submits a message; a refusal is an error.
    pub(crate) async fn submit(&self, conversation: &str, body: InboxBody) -> EngineResult<Outcome> {
        let message = InboxMessage { conversation: ConversationId::from(conversation), body };
        let submitting = self.engine.submit(message);
        tokio::pin!(submitting);
        let submitted = tokio::select! {
            submitted = &mut submitting => submitted,
            () = tokio::time::sleep(PATIENCE) => {
                let longest = OUTCOME_TIMEOUT.as_secs();
                self.out.remark(&format!("no answer from agent-step yet; waiting for {longest} s in all"));
                submitting.await
            }
        };
        let (_, outcome) = submitted?;
        match outcome.verdict {
            Verdict::Refused if outcome.code == "not_found" => Err(EngineError::NotFound(outcome.message)),
            Verdict::Refused => Err(EngineError::Refused { code: outcome.code, message: outcome.message }),
            Verdict::Applied | Verdict::Recorded | Verdict::Duplicate => Ok(outcome),
        }
    }

    /// Prints data with `--json`, else text.
    pub(crate) fn show(&self, data: &Value, text: impl FnOnce() -> String) {
        if self.out.json {
            self.out.data(data);
        } else {
            self.out.line(&text());
        }
    }
}

/// Digits of an id in a list; commands take any unique beginning.
pub(crate) const LISTED_DIGITS: usize = 12;

/// An id as lists show it.
pub(crate) fn listed(id: Id) -> String {
    id.to_string().chars().take(LISTED_DIGITS).collect()
}

/// The one of `ids` that begins with `wanted`; `what` names them in an error.
pub(crate) fn by_beginning(what: &str, wanted: &str, ids: impl Iterator<Item = Id>) -> EngineResult<Id> {
    let wanted = wanted.to_ascii_lowercase();
    let mut found: Vec<Id> = ids.filter(|id| id.to_string().starts_with(&wanted)).collect();
    found.dedup();
    match found.as_slice() {
        [id] => Ok(*id),
        [] => Err(EngineError::NotFound(format!("there is no {what} {wanted}"))),
        several => {
            let many = several.len();
            Err(EngineError::Invalid(format!("{many} ids begin with {wanted}: give more of it")))
        }
    }
}

/// There is none of that name.
pub(crate) fn no_conversation(name: &str) -> EngineError {
    EngineError::NotFound(format!("there is no conversation '{name}'; see 'p2engine conversation list'"))
}

/// The agent that is meant: the given one, else the root.
pub(crate) fn agent_or_root(conversation: &Conversation, agent: Option<&str>) -> EngineResult<AgentId> {
    let Some(agent) = agent else { return Ok(conversation.root.clone()) };
    let agent = AgentId::from(agent);
    if conversation.stacks.contains_key(&agent) {
        return Ok(agent);
    }
    let known: Vec<&str> = conversation.stacks.keys().map(AgentId::as_str).collect();
    Err(EngineError::NotFound(format!(
        "'{agent}' has no stack in '{}'; these have: {}",
        conversation.id,
        known.join(", ")
    )))
}

/// A JSON value of anything that is one.
pub(crate) fn data_of(value: &impl serde::Serialize) -> EngineResult<Value> {
    serde_json::to_value(value).map_err(|error| EngineError::Internal(format!("not JSON: {error}")))
}

/// A JSON object from the command line.
pub(crate) fn object(flag: &str, text: &str) -> EngineResult<Value> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(Value::Object(map)),
        Ok(_) => Err(EngineError::Invalid(format!("{flag} takes a JSON object, e.g. '{{\"a\": 1}}'"))),
        Err(error) => Err(EngineError::Invalid(format!("{flag} takes a JSON object: {error}"))),
    }
}
