//! What the tools noted of themselves, compared with what the log says of them.

use std::collections::BTreeMap;

use p2_core::ids::Id;
use p2_core::record::{EffectBody, InboxBody, Payload};
use p2_core::state::ToolStatus;
use p2_sim::oracle::is_repeatable;

use super::{Index, Verdict};

/// How often a call began and ended outside.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    began: u32,
    ended: u32,
}

pub(super) fn check(index: &Index<'_>, verdict: &mut Verdict) {
    let mut times: BTreeMap<Id, Times> = BTreeMap::new();
    for called in &index.evidence.calls {
        let of = times.entry(called.effect).or_default();
        if called.begin { of.began += 1 } else { of.ended += 1 }
    }
    verdict.count("calls of tools", index.evidence.calls.iter().filter(|called| called.begin).count());
    let claims = index.claims();
    for (id, times) in &times {
        let Some(effect) = index.effects.get(id) else {
            verdict.broken(format!("a tool was called for effect {id}, which was never committed"));
            continue;
        };
        let EffectBody::CallTool(call) = &effect.body else { continue };
        let tool = index.evidence.registry.tool(&call.tool, Some(call.version));
        if tool.is_none_or(|(_, tool)| is_repeatable(tool)) {
            verdict.count("calls made again", times.began.saturating_sub(1) as usize);
            continue;
        }
        verdict.count("claimed calls", 1);
        if times.began > 1 {
            verdict.broken(format!(
                "{} {id} may not be repeated and was called {} times",
                call.tool, times.began
            ));
        }
        if !claims.contains(id) {
            verdict.broken(format!("{} {id} was called without a committed claim", call.tool));
        }
    }
    said(index, &times, verdict);
}

/// What was said of a call is what happened outside.
fn said(index: &Index<'_>, times: &BTreeMap<Id, Times>, verdict: &mut Verdict) {
    for lying in index.inbox.iter().filter(|lying| !index.sent.contains(&lying.message.id)) {
        let Payload::Inbox(inbox) = &lying.message.payload else { continue };
        if matches!(inbox.body, InboxBody::PaymentResult(_)) {
            // What money has come to is looked at with the books.
            continue;
        }
        let InboxBody::ToolOutcome(outcome) = &inbox.body else {
            let (id, kind) = (lying.message.id, inbox.body.kind());
            verdict.broken(format!("{}: nobody sent {kind} {id}", inbox.conversation));
            continue;
        };
        let times = times.get(&outcome.effect).copied().unwrap_or_default();
        let id = outcome.effect;
        match outcome.status {
            ToolStatus::Success if times.ended == 0 => {
                verdict.broken(format!("effect {id} is said to have succeeded and never ended outside"));
            }
            ToolStatus::Expired if times.began > 0 && changes_something(index, id) => {
                verdict.broken(format!(
                    "effect {id} is said to have expired and was called {} times",
                    times.began
                ));
            }
            ToolStatus::InDoubt => verdict.count("calls in doubt", 1),
            ToolStatus::Success => verdict.count("calls that succeeded", 1),
            ToolStatus::Expired => verdict.count("calls that expired", 1),
            _ => {}
        }
    }
}

/// Whether a call of it leaves anything behind.
fn changes_something(index: &Index<'_>, effect: Id) -> bool {
    let Some(EffectBody::CallTool(call)) = index.effects.get(&effect).map(|effect| &effect.body) else {
        return false;
    };
    let tool = index.evidence.registry.tool(&call.tool, Some(call.version));
    tool.is_some_and(|(_, tool)| !tool.side_effect_free)
}
