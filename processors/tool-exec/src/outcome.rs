//! The records that say what became of an effect.

use p2_core::ids::Id;
use p2_core::json_text::JsonText;
use p2_core::record::{
    Artifact, ArtifactBody, CallTool, Effect, EffectBody, Event, InboxBody, InboxMessage, Message, Payload,
    ToolOutcome, ToolRun,
};
use p2_core::state::ToolStatus;
use p2_stream::ports::ToolReply;
use serde_json::{Map, Value, json};

use crate::RESULT_BYTES_MAX;

/// Longest message of a failure, characters.
const MESSAGE_CHARS_MAX: usize = 4_000;

/// How a tool call ended, before it is put into records.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct End {
    /// Status.
    pub(crate) status: ToolStatus,
    /// A JSON object.
    pub(crate) result: Value,
    /// 1.0, 0.0 or absent.
    pub(crate) reward: Option<f64>,
    /// Why it failed; empty for a success.
    pub(crate) detail: String,
    /// Milliseconds, where something was called.
    pub(crate) latency_ms: Option<i64>,
    /// The tool was not called: the cache answered.
    pub(crate) cache_hit: bool,
}

impl End {
    /// The tool did it.
    pub(crate) fn success(value: Value) -> End {
        End {
            status: ToolStatus::Success,
            result: value,
            reward: Some(1.0),
            detail: String::new(),
            latency_ms: None,
            cache_hit: false,
        }
    }

    /// The tool said no, or the call was refused before it was made.
    pub(crate) fn error(message: &str) -> End {
        End { reward: Some(0.0), ..End::without_reward(ToolStatus::Error, message) }
    }

    /// The tool did not run to an end that anybody saw.
    pub(crate) fn without_reward(status: ToolStatus, message: &str) -> End {
        let message = cut(message, MESSAGE_CHARS_MAX);
        End {
            status,
            result: json!({ "message": message }),
            reward: None,
            detail: message,
            latency_ms: None,
            cache_hit: false,
        }
    }

    /// What a tool's answer means. `Unknown` has no meaning of its own: it is the caller's to say.
    pub(crate) fn of_reply(reply: &ToolReply) -> Result<End, String> {
        match reply {
            ToolReply::Failure(message) => Ok(End::error(message)),
            ToolReply::Unknown(message) => Err(message.clone()),
            ToolReply::Success(value) => Ok(match normalised(value) {
                Ok(object) => fitting(object),
                Err(message) => End::error(&message),
            }),
        }
    }
}

/// A tool's value as an object, or its message where it is a failure in the dress of a success: an object
/// with `"status": "error"`. A value that is no object becomes `{"data": value}`.
pub(crate) fn normalised(value: &Value) -> Result<Value, String> {
    let Value::Object(object) = value else { return Ok(json!({ "data": value })) };
    if object.get("status").and_then(Value::as_str) == Some("error") {
        Err(message_of(object))
    } else {
        Ok(value.clone())
    }
}

fn message_of(object: &Map<String, Value>) -> String {
    match object.get("message") {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(other) if !other.is_null() => other.to_string(),
        _ => Value::Object(object.clone()).to_string(),
    }
}

fn fitting(object: Value) -> End {
    let bytes = object.to_string().len();
    if bytes <= RESULT_BYTES_MAX {
        return End::success(object);
    }
    // It was done, so it is no failure of the tool: no reward, and nobody should be led to repeat it.
    End::without_reward(
        ToolStatus::Error,
        &format!(
            "The tool was carried out, but its answer of {bytes} bytes is over the limit of {RESULT_BYTES_MAX}. \
             Do not repeat the call; ask for less, or have the tool return a reference."
        ),
    )
}

/// Writes the records of one effect.
pub(crate) struct Writer<'a> {
    /// The effect.
    pub(crate) effect: &'a Effect,
    /// What led to these records.
    pub(crate) cause: Id,
    /// Trace context of the effect's record.
    pub(crate) traceparent: Option<String>,
    /// Time of the input, milliseconds since the epoch.
    pub(crate) now_ms: i64,
}

impl Writer<'_> {
    /// The intent behind a claim.
    pub(crate) fn intent(&self, call: &CallTool) -> Message {
        let run = ToolRun {
            effect: self.effect.id,
            tool: call.tool.clone(),
            phase: "intent".to_owned(),
            latency_ms: None,
            reward: None,
            detail: String::new(),
        };
        self.artifact(intent_id(self.effect), Vec::new(), ArtifactBody::ToolRun(run))
    }

    /// The outcome and its artifact, in this order.
    pub(crate) fn end(&self, call: &CallTool, end: &End, claimed: bool) -> Vec<Message> {
        let inbox = inbox_message(self.effect, call, end);
        let phase = if end.cache_hit { "cache_hit" } else { end.status.as_str() };
        let run = ToolRun {
            effect: self.effect.id,
            tool: call.tool.clone(),
            phase: phase.to_owned(),
            latency_ms: end.latency_ms,
            reward: end.reward,
            detail: end.detail.clone(),
        };
        let parents = if claimed { vec![intent_id(self.effect)] } else { Vec::new() };
        vec![
            self.message(Id::derive(&self.effect.id, "outcome", 0), Payload::Inbox(inbox)),
            self.artifact(run_id(self.effect), parents, ArtifactBody::ToolRun(run)),
        ]
    }

    /// One event per custom effect of a tool that succeeded, in the order of its definition.
    pub(crate) fn post_effects(&self, call: &CallTool, names: &[String]) -> Vec<Message> {
        names
            .iter()
            .zip(0..)
            .map(|(name, ordinal)| {
                let data = json!({ "name": name, "tool": call.tool, "effect": self.effect.id });
                let event = Event { name: "post_effect".to_owned(), data: data.into() };
                let id = Id::derive(&self.effect.id, "post_effect", ordinal);
                self.artifact(id, vec![run_id(self.effect)], ArtifactBody::Event(event))
            })
            .collect()
    }

    /// A webhook that could not be delivered.
    pub(crate) fn webhook_failed(&self, request: &Id, message: &str) -> Message {
        let data = json!({
            "effect": self.effect.id,
            "request": request,
            "message": cut(message, MESSAGE_CHARS_MAX),
        });
        let event = Event { name: "webhook_failed".to_owned(), data: data.into() };
        self.artifact(
            Id::derive(&self.effect.id, "webhook_failed", 0),
            Vec::new(),
            ArtifactBody::Event(event),
        )
    }

    fn artifact(&self, id: Id, parents: Vec<Id>, body: ArtifactBody) -> Message {
        let artifact = Artifact {
            id,
            conversation: self.effect.conversation.clone(),
            agent: Some(self.effect.agent.clone()),
            branch: Some(self.effect.branch.clone()),
            entry: None,
            parents,
            time_ms: self.now_ms,
            body,
        };
        self.message(id, Payload::Artifact(artifact))
    }

    fn message(&self, id: Id, payload: Payload) -> Message {
        Message {
            id,
            cause: self.cause,
            cause_position: None,
            time_ms: self.now_ms,
            traceparent: self.traceparent.clone(),
            payload,
        }
    }
}

/// The id of the intent's artifact.
pub(crate) fn intent_id(effect: &Effect) -> Id {
    Id::derive(&effect.id, "intent", 0)
}

fn run_id(effect: &Effect) -> Id {
    Id::derive(&effect.id, "tool_run", 0)
}

fn inbox_message(effect: &Effect, call: &CallTool, end: &End) -> InboxMessage {
    let outcome = ToolOutcome {
        effect: effect.id,
        wait: call.wait,
        call_id: call.call_id.clone(),
        status: end.status,
        result: JsonText(end.result.clone()),
        reward: end.reward,
        latency_ms: end.latency_ms,
    };
    InboxMessage { conversation: effect.conversation.clone(), body: InboxBody::ToolOutcome(outcome) }
}

/// What an operator knows of an effect in doubt.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolution {
    /// It was done, with this result. An object with `"status": "error"` is a failure.
    Done {
        /// What the tool returned.
        result: Value,
    },
    /// It was not done and will not be.
    NotDone {
        /// Why, for the model and for people.
        reason: String,
    },
}

/// An effect that has no outcome to settle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "effect {0} is not a tool call: only tool calls can be in doubt (`effects in-doubt list` names them)"
)]
pub struct NotACall(pub Id);

/// The inbox message that settles an effect in doubt, and its record id. The id depends on the effect alone:
/// a second resolution, even a different one, is a duplicate of the first.
///
/// # Errors
/// [`NotACall`] where the effect is not a tool call.
pub fn resolve(effect: &Effect, resolution: &Resolution) -> Result<(Id, InboxMessage), NotACall> {
    let EffectBody::CallTool(call) = &effect.body else { return Err(NotACall(effect.id)) };
    let end = match resolution {
        Resolution::Done { result } => match normalised(result) {
            Ok(object) => fitting(object),
            Err(message) => End::error(&message),
        },
        Resolution::NotDone { reason } => {
            End::without_reward(ToolStatus::Error, &format!("It was not done: {reason}"))
        }
    };
    Ok((Id::derive(&effect.id, "resolved", 0), inbox_message(effect, call, &end)))
}

/// At most `chars_max` characters of a text, with a mark where some were left out.
pub(crate) fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
