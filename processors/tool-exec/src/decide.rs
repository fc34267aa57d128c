//! The pure decision of `tool-exec`.

use p2_core::definition::{Executor, Tool};
use p2_core::ids::Id;
use p2_core::record::{CallTool, Effect, EffectBody, Message, NotifyWebhook, Payload};
use p2_core::registry::Registry;
use p2_core::state::{RequestKind, ToolStatus};
use p2_stream::ports::{Reconciled, ToolReply, ToolRequest};
use p2_stream::processor::{Call, LaneInput, LaneStep, Mark};
use serde_json::json;

use crate::outcome::{End, Writer};
use crate::{RECONCILE_GRACE_MS, ToolExecReply, ToolExecRequest, ToolLane, WEBHOOK_TIMEOUT_MS, arguments};

type Step = LaneStep<ToolExecRequest>;

/// Takes the lane's record.
pub(crate) fn apply(lane: &mut ToolLane, message: &Message) {
    if matches!(message.payload, Payload::Effect(_)) {
        lane.record = Some(message.clone());
    }
}

/// Decides what follows from one input of an effect's lane.
pub(crate) fn decide(
    registry: &Registry,
    lane: &ToolLane,
    input: &LaneInput<ToolExecReply>,
    now_ms: i64,
) -> Step {
    match input {
        LaneInput::Record(record) => arrived(registry, record, Arrival::First, now_ms),
        LaneInput::Claimed(record) => arrived(registry, record, Arrival::Claimed, now_ms),
        LaneInput::Reply { call, reply } => replied(registry, lane, call, reply, now_ms),
        LaneInput::Timer { .. } => step(unchanged(registry, lane)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrival {
    First,
    Claimed,
}

fn step(mark: Mark) -> Step {
    LaneStep { outputs: Vec::new(), calls: Vec::new(), cancel: Vec::new(), mark }
}

fn done(outputs: Vec<Message>) -> Step {
    LaneStep { outputs, ..step(Mark::Done) }
}

fn arrived(registry: &Registry, record: &Message, arrival: Arrival, now_ms: i64) -> Step {
    let Payload::Effect(effect) = &record.payload else { return step(Mark::Done) };
    let writer = Writer { effect, cause: record.id, traceparent: record.traceparent.clone(), now_ms };
    match &effect.body {
        EffectBody::PublishReply(_) => step(Mark::Done),
        // A POST with a key may be repeated, so it is never claimed and a claim changes nothing.
        EffectBody::NotifyWebhook(notify) => notify_webhook(&writer, notify),
        EffectBody::CallTool(call) => match (registry.tool(&call.tool, Some(call.version)), arrival) {
            (None, Arrival::First) => done(writer.end(call, &End::error(&unknown_tool(call)), false)),
            (None, Arrival::Claimed) => done(writer.end(call, &in_doubt(call, NO_DEFINITION), true)),
            (Some((_, tool)), _) if tool.executor != Executor::Builtin => step(Mark::Done),
            (Some((_, tool)), Arrival::First) => first_time(&writer, call, tool),
            (Some((_, tool)), Arrival::Claimed) => claimed(&writer, call, tool),
        },
    }
}

/// The record is seen for the first time: the tool was not called yet.
fn first_time(writer: &Writer<'_>, call: &CallTool, tool: &Tool) -> Step {
    let effect = writer.effect;
    if passed(effect, writer.now_ms) {
        return done(writer.end(call, &too_late(call, Some(tool)), false));
    }
    if let Err(message) = arguments::check(&call.tool, &tool.parameters, &call.arguments.0) {
        return done(writer.end(call, &End::error(&message), false));
    }
    let deadline_ms = deadline(effect, writer.now_ms, tool.timeout_ms);
    let request = ToolExecRequest::Tool {
        request: tool_request(effect, call, deadline_ms),
        version: call.version,
        cache_ttl_ms: tool.cache_ttl_ms.filter(|ttl| *ttl > 0),
    };
    let calls = vec![Call { id: call_id(effect), deadline_ms, request }];
    if repeatable(tool) {
        LaneStep { calls, ..step(Mark::Pending) }
    } else {
        LaneStep { outputs: vec![writer.intent(call)], calls, ..step(Mark::Claimed) }
    }
}

/// The record was claimed before: the tool may have been called, and is not called again.
fn claimed(writer: &Writer<'_>, call: &CallTool, tool: &Tool) -> Step {
    if !tool.reconcile {
        return done(writer.end(call, &in_doubt(call, NO_RECONCILER), true));
    }
    // The effect's own deadline may have passed long ago; asking what became of it needs time of its own.
    let deadline_ms = writer.now_ms.saturating_add(tool.timeout_ms);
    let request = ToolExecRequest::Reconcile(tool_request(writer.effect, call, deadline_ms));
    let calls = vec![Call { id: reconcile_id(writer.effect), deadline_ms, request }];
    LaneStep { calls, ..step(Mark::Claimed) }
}

fn replied(registry: &Registry, lane: &ToolLane, id: &Id, reply: &ToolExecReply, now_ms: i64) -> Step {
    let Some(effect) = lane.effect() else { return step(Mark::Done) };
    let writer = Writer { effect, cause: *id, traceparent: lane.traceparent(), now_ms };
    match (&effect.body, reply) {
        (EffectBody::NotifyWebhook(notify), ToolExecReply::Webhook(result)) if *id == call_id(effect) => {
            match result {
                Ok(()) => step(Mark::Done),
                Err(message) => done(vec![writer.webhook_failed(&notify.request, message)]),
            }
        }
        (EffectBody::CallTool(call), ToolExecReply::Reconciled(said)) if *id == reconcile_id(effect) => {
            let end = reconciled_end(effect, call, said, now_ms);
            finish(&writer, registry, call, &end, true)
        }
        (EffectBody::CallTool(call), ToolExecReply::Tool { reply, latency_ms, cache_hit })
            if *id == call_id(effect) =>
        {
            let repeatable = is_repeatable(registry, call);
            let end = End {
                // From the cache: nothing was called.
                latency_ms: (!*cache_hit).then_some(*latency_ms),
                cache_hit: *cache_hit,
                ..reply_end(call, reply, repeatable)
            };
            finish(&writer, registry, call, &end, !repeatable)
        }
        (EffectBody::CallTool(call), ToolExecReply::NotSent) if *id == call_id(effect) => {
            let tool = registry.tool(&call.tool, Some(call.version)).map(|(_, tool)| tool);
            done(writer.end(call, &too_late(call, tool), !is_repeatable(registry, call)))
        }
        // A reply to something that this lane did not ask: it changes nothing.
        _ => step(unchanged(registry, lane)),
    }
}

fn finish(writer: &Writer<'_>, registry: &Registry, call: &CallTool, end: &End, claimed: bool) -> Step {
    let mut outputs = writer.end(call, end, claimed);
    if end.status == ToolStatus::Success
        && !end.cache_hit
        && let Some((_, tool)) = registry.tool(&call.tool, Some(call.version))
    {
        outputs.extend(writer.post_effects(call, &tool.post_effects));
    }
    done(outputs)
}

fn reply_end(call: &CallTool, reply: &ToolReply, repeatable: bool) -> End {
    match End::of_reply(reply) {
        Ok(end) => end,
        Err(message) if repeatable => End::without_reward(
            ToolStatus::Timeout,
            &format!("'{}' did not answer in time: {message}. The call may be repeated.", call.tool),
        ),
        Err(message) => in_doubt(call, &message),
    }
}

fn reconciled_end(effect: &Effect, call: &CallTool, said: &Reconciled, now_ms: i64) -> End {
    match said {
        Reconciled::Done(reply) => match End::of_reply(reply) {
            Ok(end) => end,
            Err(message) => in_doubt(call, &message),
        },
        // No call of this effect was cut later than `not_after`. Without it the time of the cut is not known
        // here, and a request may still be under way.
        Reconciled::NotDone => match effect.not_after_ms {
            Some(last) if now_ms > last.saturating_add(RECONCILE_GRACE_MS) => End::without_reward(
                ToolStatus::Timeout,
                &format!("'{}' was interrupted and is known not to have been done.", call.tool),
            ),
            _ => in_doubt(call, "it is not there so far, and it may still be on its way"),
        },
        Reconciled::Unknown => in_doubt(call, "the tool cannot say what became of it"),
    }
}

fn notify_webhook(writer: &Writer<'_>, notify: &NotifyWebhook) -> Step {
    let effect = writer.effect;
    if passed(effect, writer.now_ms) {
        let message = "its time had passed before it could be sent";
        return done(vec![writer.webhook_failed(&notify.request, message)]);
    }
    let deadline_ms = deadline(effect, writer.now_ms, WEBHOOK_TIMEOUT_MS);
    let body = json!({
        "conversation": effect.conversation,
        "agent": effect.agent,
        "branch": effect.branch,
        "request": notify.request,
        "kind": notify.kind.unwrap_or(RequestKind::Reply).as_str(),
        "text": notify.text,
    });
    let request = ToolExecRequest::Webhook { url: notify.url.clone(), body, key: effect.id };
    LaneStep { calls: vec![Call { id: call_id(effect), deadline_ms, request }], ..step(Mark::Pending) }
}

const NO_RECONCILER: &str = "the process that called it ended before the answer was recorded";
const NO_DEFINITION: &str = "it was called, and its definition is no longer known here";

fn in_doubt(call: &CallTool, why: &str) -> End {
    End::without_reward(
        ToolStatus::InDoubt,
        &format!(
            "It is not known whether '{}' was done ({why}). Do not repeat it; an operator can settle it.",
            call.tool
        ),
    )
}

/// The time had passed before this process could make the call. A tool that may be repeated leaves no claim, so
/// nobody knows whether an earlier process made it; only where that changes nothing it is as if it was not done.
fn too_late(call: &CallTool, tool: Option<&Tool>) -> End {
    if tool.is_some_and(|tool| tool.idempotent && !tool.side_effect_free) {
        return End::without_reward(
            ToolStatus::Timeout,
            &format!(
                "The time for '{}' passed before its answer was recorded: it may have been done, and may be \
                 repeated.",
                call.tool
            ),
        );
    }
    End::without_reward(
        ToolStatus::Expired,
        "The time for this call had passed before it could be made; it was not done.",
    )
}

fn unknown_tool(call: &CallTool) -> String {
    format!("There is no tool '{}' in version {}; use one of the tools on offer.", call.tool, call.version)
}

fn repeatable(tool: &Tool) -> bool {
    tool.idempotent || tool.side_effect_free
}

/// A definition never changes or goes away, so where it is missing the careful answer is no.
fn is_repeatable(registry: &Registry, call: &CallTool) -> bool {
    registry.tool(&call.tool, Some(call.version)).is_some_and(|(_, tool)| repeatable(tool))
}

/// The mark that the lane's open record already has.
fn unchanged(registry: &Registry, lane: &ToolLane) -> Mark {
    match lane.effect().map(|effect| &effect.body) {
        None | Some(EffectBody::PublishReply(_)) => Mark::Done,
        Some(EffectBody::NotifyWebhook(_)) => Mark::Pending,
        Some(EffectBody::CallTool(call)) if is_repeatable(registry, call) => Mark::Pending,
        Some(EffectBody::CallTool(_)) => Mark::Claimed,
    }
}

fn passed(effect: &Effect, now_ms: i64) -> bool {
    effect.not_after_ms.is_some_and(|last| now_ms > last)
}

fn deadline(effect: &Effect, now_ms: i64, timeout_ms: i64) -> i64 {
    let own = now_ms.saturating_add(timeout_ms);
    effect.not_after_ms.map_or(own, |last| own.min(last))
}

fn call_id(effect: &Effect) -> Id {
    Id::derive(&effect.id, "call", 0)
}

fn reconcile_id(effect: &Effect) -> Id {
    Id::derive(&effect.id, "reconcile", 0)
}

fn tool_request(effect: &Effect, call: &CallTool, deadline_ms: i64) -> ToolRequest {
    ToolRequest {
        key: effect.id,
        tool: call.tool.clone(),
        arguments: call.arguments.0.clone(),
        conversation: effect.conversation.clone(),
        agent: effect.agent.clone(),
        branch: effect.branch.clone(),
        deadline_ms,
    }
}
