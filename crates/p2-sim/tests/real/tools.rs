//! Tools that count from outside how often they are called and what took place.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use p2_sim::oracle::{Oracle, is_repeatable};
use p2_sim::{Asked, CallAnswer, Outside, Port};
use p2_stream::ports::{Reconciled, ToolReply, ToolRequest};
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use tool_exec::{ToolExec, ToolExecReply, ToolExecRequest};

/// The tools as one process sees them: the cache is its own.
pub(crate) struct SimToolbox {
    pub(crate) oracle: Rc<RefCell<Oracle>>,
    pub(crate) cache: BTreeMap<String, (Value, i64)>,
}

impl SimToolbox {
    fn call(
        &mut self,
        request: &ToolRequest,
        now_ms: i64,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> (i64, ToolReply) {
        self.look(request, now_ms, outside);
        let quick = rng.random_range(1..1_200);
        match rng.random_range(0..40) {
            0..3 => (quick, ToolReply::Failure("no".to_owned())),
            3 => (quick, ToolReply::Success(json!({"status": "error", "message": "not today"}))),
            4 | 5 => {
                // Carried out, and the answer comes too late.
                outside.took_place.insert(request.key, now_ms + quick);
                outside.count("slow tool");
                (9_000, ToolReply::Success(json!({"late": true})))
            }
            6 => {
                outside.count("call lost on its way");
                (9_000, ToolReply::Unknown("the line was cut".to_owned()))
            }
            7 => (quick, ToolReply::Unknown("the line was cut".to_owned())),
            _ => {
                outside.took_place.insert(request.key, now_ms + quick);
                (quick, ToolReply::Success(json!({"n": request.arguments["n"]})))
            }
        }
    }

    /// Whether this call may be made at all.
    fn look(&self, request: &ToolRequest, now_ms: i64, outside: &mut Outside) {
        let oracle = self.oracle.borrow();
        let Some(effect) = oracle.effects.get(&request.key) else {
            return outside.complain(format!("{} is called before its effect is committed", request.tool));
        };
        if effect.not_after_ms.is_some_and(|last| now_ms > last) {
            outside.complain(format!("{} {} is called after its time", request.tool, request.key));
        }
        if oracle.tool(&request.tool).is_ok_and(is_repeatable) {
            return outside.count("repeatable tool called");
        }
        outside.count("claimed tool called");
        let count = outside.once.entry(request.key).or_default();
        *count += 1;
        if *count > 1 {
            outside.complain(format!("{} {} is called twice", request.tool, request.key));
        }
        if !oracle.claims.contains(&request.key) {
            outside.complain(format!("{} {} is called without a claim", request.tool, request.key));
        }
    }
}

impl Port<ToolExec> for SimToolbox {
    fn answer(
        &mut self,
        asked: &Asked<'_, ToolExecRequest>,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> CallAnswer<ToolExecReply> {
        let (delay, reply) = self.carry_out(asked.request, asked.now_ms, outside, rng);
        CallAnswer::After(delay, reply)
    }

    fn cut(&self, request: &ToolExecRequest, sent: bool) -> Option<ToolExecReply> {
        Some(match request {
            ToolExecRequest::Tool { .. } if sent => ToolExecReply::Tool {
                reply: ToolReply::Unknown("no answer in time".to_owned()),
                latency_ms: 4_000,
                cache_hit: false,
            },
            ToolExecRequest::Tool { .. } => ToolExecReply::NotSent,
            ToolExecRequest::Reconcile(_) => ToolExecReply::Reconciled(Reconciled::Unknown),
            ToolExecRequest::Webhook { .. } => ToolExecReply::Webhook(Err("too late".to_owned())),
        })
    }
}

impl SimToolbox {
    fn carry_out(
        &mut self,
        request: &ToolExecRequest,
        now_ms: i64,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> (i64, ToolExecReply) {
        match request {
            ToolExecRequest::Tool { request, version, cache_ttl_ms } => {
                let key = format!("{}@{version} {}", request.tool, request.arguments);
                let kept =
                    self.cache.get(&key).filter(|(_, until)| cache_ttl_ms.is_some() && now_ms < *until);
                if let Some((value, _)) = kept {
                    let reply = ToolReply::Success(value.clone());
                    return (0, ToolExecReply::Tool { reply, latency_ms: 0, cache_hit: true });
                }
                let (delay, reply) = self.call(request, now_ms, outside, rng);
                if let (Some(ttl), ToolReply::Success(value)) = (cache_ttl_ms, &reply)
                    && value.get("status").is_none()
                    && delay < 4_000
                {
                    self.cache.insert(key, (value.clone(), now_ms + delay + ttl));
                }
                (delay, ToolExecReply::Tool { reply, latency_ms: delay, cache_hit: false })
            }
            ToolExecRequest::Reconcile(request) => {
                let there = outside.took_place.get(&request.key).is_some_and(|at| *at <= now_ms);
                let said = match rng.random_range(0..10) {
                    0 | 1 => Reconciled::Unknown,
                    _ if there => {
                        outside.count("reconciled as done");
                        Reconciled::Done(ToolReply::Success(json!({"reconciled": true})))
                    }
                    _ => {
                        outside.count("reconciled as not done");
                        Reconciled::NotDone
                    }
                };
                (rng.random_range(1..300), ToolExecReply::Reconciled(said))
            }
            ToolExecRequest::Webhook { .. } => {
                outside.count("webhook sent");
                let lost = rng.random_bool(0.2);
                let result = if lost { Err("refused".to_owned()) } else { Ok(()) };
                (rng.random_range(1..500), ToolExecReply::Webhook(result))
            }
        }
    }
}
