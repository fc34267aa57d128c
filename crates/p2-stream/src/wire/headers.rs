//! Headers: CloudEvents (Kafka binding, binary mode), W3C Trace Context, and our causes.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use p2_core::ids::Id;
use p2_core::record::{EffectBody, Message, Payload, Position, Topic};

use super::WireError;
use crate::ports::Headers;

/// Where the cause lies, as `topic/partition/offset`.
const CAUSE_POSITION: &str = "p2_cause_position";

/// The headers of a message, in a fixed order.
pub(super) fn write(message: &Message, source: &str) -> Headers {
    let mut headers = Headers::roomy();
    headers.push_text("ce_specversion", "1.0");
    headers.push_text("ce_id", message.id);
    headers.push_text("ce_type", Type(&message.payload));
    headers.push_text("ce_source", source);
    headers.push_text("ce_subject", Subject(&message.payload));
    headers.push_text("ce_time", rfc3339(message.time_ms));
    headers.push_text("content-type", "application/avro");
    headers.push_text("p2_cause", message.cause);
    if let Some(at) = message.cause_position {
        push_cause(&mut headers, at);
    }
    if let Some(traceparent) = &message.traceparent {
        headers.push_text("traceparent", traceparent);
    }
    headers
}

fn push_cause(headers: &mut Headers, at: Position) {
    headers.push_text(CAUSE_POSITION, format_args!("{}/{}/{}", at.topic.name(), at.partition, at.offset));
}

/// Says that the cause lies somewhere else; none: that it is not known where.
pub(crate) fn move_cause(headers: &mut Headers, to: Option<Position>) {
    let mut moved = Headers::roomy();
    for (name, value) in headers.iter() {
        match to {
            _ if name != CAUSE_POSITION => moved.push(name, value),
            Some(at) => push_cause(&mut moved, at),
            None => {}
        }
    }
    *headers = moved;
}

/// (`ce_id`, cause, where the cause lies).
pub(super) fn read(headers: &Headers) -> Result<(Id, Id, Option<Position>), WireError> {
    let id = id(headers, "ce_id")?.ok_or(WireError::Header {
        name: "ce_id",
        reason: "is missing: every record needs an id of 32 hex digits, it is the idempotency key".to_owned(),
    })?;
    let cause = id_or(headers, "p2_cause", id)?;
    let position = text(headers, CAUSE_POSITION).map(position).transpose()?;
    Ok((id, cause, position))
}

/// A header's text; none where it is missing or not UTF-8.
pub(crate) fn text<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    std::str::from_utf8(headers.get(name)?).ok()
}

/// Where the cause lies; none where the header is missing or bad.
pub(crate) fn cause_position(headers: &Headers) -> Option<Position> {
    text(headers, CAUSE_POSITION).and_then(|text| position(text).ok())
}

fn id(headers: &Headers, name: &'static str) -> Result<Option<Id>, WireError> {
    let Some(text) = text(headers, name) else { return Ok(None) };
    let parsed = Id::from_str(text);
    parsed.map(Some).map_err(|bad| WireError::Header { name, reason: bad.to_string() })
}

fn id_or(headers: &Headers, name: &'static str, default: Id) -> Result<Id, WireError> {
    Ok(id(headers, name)?.unwrap_or(default))
}

fn position(text: &str) -> Result<Position, WireError> {
    let parsed = (|| {
        let mut parts = text.split('/');
        let topic = Topic::parse(parts.next()?)?;
        let partition = parts.next()?.parse().ok()?;
        let offset = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Position { topic, partition, offset })
    })();
    parsed.ok_or_else(|| WireError::Header {
        name: CAUSE_POSITION,
        reason: format!("'{text}' is not topic/partition/offset"),
    })
}

/// `ce_type`.
struct Type<'a>(&'a Payload);

impl Display for Type<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Payload::Inbox(message) => write!(f, "p2.inbox.{}", message.body.kind()),
            Payload::Transition(_) => f.write_str("p2.state_transition"),
            Payload::Effect(effect) => write!(f, "p2.effect.{}", effect_kind(&effect.body)),
            Payload::Artifact(artifact) => write!(f, "p2.artifact.{}", artifact.body.kind()),
            Payload::PaymentRequest(request) => write!(f, "p2.payment_request.{}", request.body.kind()),
            Payload::LedgerTransaction(transaction) => {
                write!(f, "p2.ledger_transaction.{}", transaction.outcome.as_str())
            }
            Payload::Registry(record) => write!(f, "p2.registry.{}", record.kind),
            Payload::DeadLetter(_) => f.write_str("p2.dead_letter"),
        }
    }
}

fn effect_kind(body: &EffectBody) -> &'static str {
    match body {
        EffectBody::CallTool(_) => "call_tool",
        EffectBody::PublishReply(_) => "publish_reply",
        EffectBody::NotifyWebhook(_) => "notify_webhook",
    }
}

/// `ce_subject`.
struct Subject<'a>(&'a Payload);

impl Display for Subject<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Payload::Transition(transition) => write!(f, "{}/{}", transition.agent, transition.branch),
            Payload::Effect(effect) => write!(f, "{}/{}", effect.agent, effect.branch),
            Payload::Artifact(artifact) => match (&artifact.agent, &artifact.branch) {
                (Some(agent), Some(branch)) => write!(f, "{agent}/{branch}"),
                (Some(agent), None) => agent.fmt(f),
                _ => artifact.conversation.fmt(f),
            },
            other => f.write_str(other.key()),
        }
    }
}

/// UTC with milliseconds; the epoch itself for a time that no calendar reaches.
fn rfc3339(time_ms: i64) -> impl Display {
    let time = jiff::Timestamp::from_millisecond(time_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
}
