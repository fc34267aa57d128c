//! Headers: CloudEvents (Kafka binding, binary mode), W3C Trace Context, and our causes.

use std::str::FromStr;

use p2_core::ids::Id;
use p2_core::record::{EffectBody, Header, Message, Payload, Position, Topic};

use super::WireError;

/// Where the cause lies, as `topic/partition/offset`.
const CAUSE_POSITION: &str = "p2_cause_position";

/// The headers of a message, in a fixed order.
pub(super) fn write(message: &Message, source: &str) -> Vec<Header> {
    let mut headers = vec![
        header("ce_specversion", "1.0"),
        header("ce_id", &message.id.to_string()),
        header("ce_type", &ce_type(&message.payload)),
        header("ce_source", source),
        header("ce_subject", &subject(&message.payload)),
        header("ce_time", &rfc3339(message.time_ms)),
        header("content-type", "application/avro"),
        header("p2_cause", &message.cause.to_string()),
    ];
    headers.extend(message.cause_position.map(at_cause));
    if let Some(traceparent) = &message.traceparent {
        headers.push(header("traceparent", traceparent));
    }
    headers
}

fn at_cause(at: Position) -> Header {
    header(CAUSE_POSITION, &format!("{}/{}/{}", at.topic.name(), at.partition, at.offset))
}

/// Says that the cause lies somewhere else; none: that it is not known where.
pub(crate) fn move_cause(headers: &mut Vec<Header>, to: Option<Position>) {
    match (headers.iter_mut().find(|header| header.name == CAUSE_POSITION), to) {
        (Some(header), Some(at)) => *header = at_cause(at),
        (Some(_), None) => headers.retain(|header| header.name != CAUSE_POSITION),
        (None, _) => {}
    }
}

/// (`ce_id`, cause, where the cause lies).
pub(super) fn read(headers: &[Header]) -> Result<(Id, Id, Option<Position>), WireError> {
    let id = id(headers, "ce_id")?.ok_or(WireError::Header {
        name: "ce_id",
        reason: "is missing: every record needs an id of 32 hex digits, it is the idempotency key".to_owned(),
    })?;
    let cause = id_or(headers, "p2_cause", id)?;
    let position = text(headers, CAUSE_POSITION).map(|text| position(&text)).transpose()?;
    Ok((id, cause, position))
}

/// A header's text; none where it is missing or not UTF-8.
pub(crate) fn text(headers: &[Header], name: &str) -> Option<String> {
    let header = headers.iter().find(|header| header.name == name)?;
    String::from_utf8(header.value.clone()).ok()
}

/// Where the cause lies; none where the header is missing or bad.
pub(crate) fn cause_position(headers: &[Header]) -> Option<Position> {
    text(headers, CAUSE_POSITION).and_then(|text| position(&text).ok())
}

fn id(headers: &[Header], name: &'static str) -> Result<Option<Id>, WireError> {
    let Some(text) = text(headers, name) else { return Ok(None) };
    let parsed = Id::from_str(&text);
    parsed.map(Some).map_err(|bad| WireError::Header { name, reason: bad.to_string() })
}

fn id_or(headers: &[Header], name: &'static str, default: Id) -> Result<Id, WireError> {
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

fn header(name: &str, value: &str) -> Header {
    Header { name: name.to_owned(), value: value.as_bytes().to_vec() }
}

fn ce_type(payload: &Payload) -> String {
    match payload {
        Payload::Inbox(message) => format!("p2.inbox.{}", message.body.kind()),
        Payload::Transition(_) => "p2.state_transition".to_owned(),
        Payload::Effect(effect) => format!("p2.effect.{}", effect_kind(&effect.body)),
        Payload::Artifact(artifact) => format!("p2.artifact.{}", artifact.body.kind()),
        Payload::PaymentRequest(request) => format!("p2.payment_request.{}", request.body.kind()),
        Payload::LedgerTransaction(transaction) => {
            format!("p2.ledger_transaction.{}", transaction.outcome.as_str())
        }
        Payload::Registry(record) => format!("p2.registry.{}", record.kind),
        Payload::DeadLetter(_) => "p2.dead_letter".to_owned(),
    }
}

fn effect_kind(body: &EffectBody) -> &'static str {
    match body {
        EffectBody::CallTool(_) => "call_tool",
        EffectBody::PublishReply(_) => "publish_reply",
        EffectBody::NotifyWebhook(_) => "notify_webhook",
    }
}

fn subject(payload: &Payload) -> String {
    match payload {
        Payload::Transition(transition) => format!("{}/{}", transition.agent, transition.branch),
        Payload::Effect(effect) => format!("{}/{}", effect.agent, effect.branch),
        Payload::Artifact(artifact) => match (&artifact.agent, &artifact.branch) {
            (Some(agent), Some(branch)) => format!("{agent}/{branch}"),
            (Some(agent), None) => agent.to_string(),
            _ => artifact.conversation.to_string(),
        },
        other => other.key().to_owned(),
    }
}

/// UTC with milliseconds; the epoch itself for a time that no calendar reaches.
fn rfc3339(time_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(time_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
