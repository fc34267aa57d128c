//! Properties over inputs of every kind in any order, sensible or not.

use std::collections::BTreeSet;

use super::*;
use crate::model::{ChatMessage, ModelRequest};
use crate::render;

/// Something that may arrive. Numbers pick among what there is, or miss it.
#[derive(Clone, Debug)]
pub(super) enum Arrival {
    Text { agent: usize, branch: usize, text: String },
    Reply { wait: usize, text: String, calls: Vec<(usize, usize)> },
    ReplyError { wait: usize, timeout: bool },
    Outcome { effect: usize, status: usize, mixed: bool },
    Answer { wait: usize, kind: usize, text: String },
    Branch { operation: usize, agent: usize, branch: usize, at: Option<i64>, flags: u8 },
    Override { agent: usize, model: bool, tools: Option<usize>, flags: u8 },
    Control(usize),
    Deadline { wait: usize },
    Time(i64),
}

const AGENTS: [&str; 5] = ["alpha", "helper", "rules", "person", "nobody"];
const TOOLS: [&str; 7] = ["weather", "pay", "guarded", "delegate", "ask_user", "look", "nope"];

pub(super) fn arrival() -> impl Strategy<Value = Arrival> {
    let text = "[a-z ]{0,8}";
    let calls = prop::collection::vec((0..TOOLS.len(), 0..6_usize), 0..4);
    let nth = 0..1_000_usize;
    prop_oneof![
        4 => (0..AGENTS.len(), nth.clone(), text)
            .prop_map(|(agent, branch, text)| Arrival::Text { agent, branch, text }),
        8 => (nth.clone(), text, calls).prop_map(|(wait, text, calls)| Arrival::Reply { wait, text, calls }),
        1 => (nth.clone(), any::<bool>()).prop_map(|(wait, timeout)| Arrival::ReplyError { wait, timeout }),
        6 => (nth.clone(), 0..7_usize, prop::bool::weighted(0.1))
            .prop_map(|(effect, status, mixed)| Arrival::Outcome { effect, status, mixed }),
        3 => (nth.clone(), 0..4_usize, text).prop_map(|(wait, kind, text)| Arrival::Answer { wait, kind, text }),
        3 => (0..3_usize, 0..AGENTS.len(), nth.clone(), prop::option::of(-1..20_i64), any::<u8>())
            .prop_map(|(operation, agent, branch, at, flags)| {
                Arrival::Branch { operation, agent, branch, at, flags }
            }),
        1 => (0..AGENTS.len(), any::<bool>(), prop::option::of(0..TOOLS.len()), any::<u8>())
            .prop_map(|(agent, model, tools, flags)| Arrival::Override { agent, model, tools, flags }),
        1 => (0..3_usize).prop_map(Arrival::Control),
        2 => nth.prop_map(|wait| Arrival::Deadline { wait }),
        1 => (0..400_000_i64).prop_map(Arrival::Time),
    ]
}

fn policies() -> impl Strategy<Value = RenderPolicy> {
    prop_oneof![
        (1..12_usize).prop_map(|window| RenderPolicy::Default { window }),
        (1..400_usize).prop_map(|budget| RenderPolicy::Tokens { budget }),
        Just(RenderPolicy::Compact),
    ]
}

fn pick<T: Clone>(of: &[T], nth: usize) -> Option<T> {
    of.get(nth % of.len().max(1)).cloned()
}

/// A wait that is or was open, or one that never was.
fn some_wait(w: &World, nth: usize) -> Id {
    let waits: Vec<Id> = w.conv.waits.keys().copied().collect();
    match nth % 9 {
        0 => Id::of_text("never"),
        1 => w.closed.get(nth % w.closed.len().max(1)).copied().unwrap_or_default(),
        _ => pick(&waits, nth).unwrap_or_default(),
    }
}

fn model_call(nth: usize, (tool, arguments): (usize, usize)) -> ModelToolCall {
    let arguments = match arguments {
        0 => "{}".to_owned(),
        1 => r#"{"agent_id":"helper","message":"x","context":"last:2","question":"q"}"#.to_owned(),
        2 => r#"{"agent_id":"person","message":"x","question":"q"}"#.to_owned(),
        3 => r#"{"agent_id":"nobody","message":"x"}"#.to_owned(),
        4 => "{".to_owned(),
        _ => "[]".to_owned(),
    };
    let id = ["", "a", "b"][nth % 3].to_owned();
    ModelToolCall { id, name: TOOLS[tool].to_owned(), arguments }
}

fn some_branch(w: &World, agent: &str, nth: usize) -> Option<String> {
    let stack = w.conv.stacks.get(&AgentId::from(agent))?;
    let branches: Vec<String> = stack.branches.keys().map(|id| id.0.clone()).collect();
    if nth.is_multiple_of(7) { Some("nowhere".into()) } else { pick(&branches, nth) }
}

fn flag(flags: u8, bit: u8) -> bool {
    flags & (1 << bit) != 0
}

pub(super) fn arrive(w: &mut World, arrival: &Arrival) {
    match arrival.clone() {
        Arrival::Text { agent, branch, text } => {
            let branch = if branch.is_multiple_of(2) { None } else { some_branch(w, AGENTS[agent], branch) };
            let branch = branch.map(BranchId);
            w.inbox(InboxBody::UserText(UserText { agent: Some(AGENTS[agent].into()), branch, text }));
        }
        Arrival::Reply { wait, text, calls } => {
            let calls = calls.into_iter().enumerate().map(|(nth, call)| model_call(nth, call)).collect();
            let wait = some_wait(w, wait);
            w.reply_with(wait, &text, calls);
        }
        Arrival::ReplyError { wait, timeout } => {
            let class = if timeout { ModelErrorClass::Timeout } else { ModelErrorClass::Permanent };
            let error = ModelError { class, code: "x".into(), message: "y".into() };
            let wait = some_wait(w, wait);
            w.asks.retain(|ask| ask.wait != wait);
            let outcome = ModelOutcome { result: Err(error), latency_ms: 1, attempts: 1 };
            w.input(&Input::ModelReply { wait, outcome });
        }
        Arrival::Outcome { effect, status, mixed } => {
            let Some((effect, call)) = pick(&w.tool_effects(), effect) else { return };
            let all = [
                ToolStatus::Success,
                ToolStatus::Error,
                ToolStatus::Timeout,
                ToolStatus::Expired,
                ToolStatus::Skipped,
                ToolStatus::Cancelled,
                ToolStatus::InDoubt,
            ];
            let call_id = if mixed { "other".to_owned() } else { call.call_id };
            let (effect, wait, status) = (effect.id, call.wait, all[status]);
            let result = json!({"n": 1}).into();
            let (reward, latency_ms) = (None, Some(1));
            let outcome = ToolOutcome { effect, wait, call_id, status, result, reward, latency_ms };
            w.inbox(InboxBody::ToolOutcome(outcome));
        }
        Arrival::Answer { wait, kind, text } => {
            let kind = [AnswerKind::Approve, AnswerKind::Deny, AnswerKind::Edit, AnswerKind::Text][kind];
            let request = some_wait(w, wait);
            w.answer(request, kind, &text, Some(json!({"n": 2})));
        }
        Arrival::Branch { operation, agent, branch, at, flags } => {
            let all = [BranchOperation::Fork, BranchOperation::Rewind, BranchOperation::Checkout];
            let branch = some_branch(w, AGENTS[agent], branch);
            w.branch(BranchCommand {
                operation: all[operation],
                agent: Some(AGENTS[agent].into()).filter(|_| flag(flags, 0)),
                branch: branch.filter(|_| flag(flags, 0)),
                at,
                name: flag(flags, 4).then(|| format!("name {flags}")),
                tree: flag(flags, 1),
                keep_wait: flag(flags, 2),
                destructive: flag(flags, 3) && flag(flags, 5),
            });
        }
        Arrival::Override { agent, model, tools, flags } => {
            let set = Overrides {
                model: model.then(|| "other/model".into()),
                tools: tools.map(|tool| vec![TOOLS[tool].to_owned()]),
                ..Overrides::default()
            };
            let agent = Some(AGENTS[agent].into());
            let (clear, lock, unlock) = (flag(flags, 0), flag(flags, 1), flag(flags, 2));
            w.inbox(InboxBody::OverrideCommand(OverrideCommand {
                agent,
                set,
                clear,
                lock,
                unlock,
                book: None,
            }));
        }
        Arrival::Control(nth) => {
            let all = [ControlOperation::Cancel, ControlOperation::Pause, ControlOperation::Resume];
            w.control(all[nth]);
        }
        Arrival::Deadline { wait } => {
            let wait = some_wait(w, wait);
            w.deadline(wait);
        }
        Arrival::Time(ms) => w.now += ms,
    }
}

pub(super) fn world(policy: &RenderPolicy, dedup: DedupPolicy, unknown: bool) -> World {
    let mut w = World::new();
    w.settings.dedup = dedup;
    w.settings.allow_unknown_agents = unknown;
    w.apply(tool("look", json!({"side_effect_free": true, "reflect": true})), 1);
    w.alpha(|llm| {
        llm.render = policy.clone();
        llm.tools.push("look".into());
        llm.self_reflection = true;
        llm.reflection_agent = Some("helper".into());
    });
    w
}

/// Every entry by its place.
fn entries(w: &World) -> BTreeMap<(AgentId, BranchId, i64), Entry> {
    let mut all = BTreeMap::new();
    for (agent, stack) in &w.conv.stacks {
        for branch in stack.branches.values() {
            for entry in &branch.entries {
                all.insert((agent.clone(), branch.id.clone(), entry.seq), entry.clone());
            }
        }
    }
    all
}

/// Every call is directly followed by one result for each id, and nothing internal is in the text.
fn check_request(w: &World, request: &ModelRequest) -> Result<(), TestCaseError> {
    let mut open: BTreeSet<&str> = BTreeSet::new();
    for message in render::dialogue(request) {
        match message {
            ChatMessage::Tool { tool_call_id, .. } => {
                prop_assert!(open.remove(tool_call_id.as_str()), "a result without its call: {tool_call_id}");
            }
            other => {
                prop_assert!(open.is_empty(), "no result for {open:?}");
                if let ChatMessage::Assistant { tool_calls, .. } = other {
                    open = tool_calls.iter().map(|call| call.id.as_str()).collect();
                    prop_assert_eq!(open.len(), tool_calls.len());
                }
            }
        }
    }
    prop_assert!(open.is_empty(), "no result for {open:?}");
    let text = format!("{:?}", request.messages);
    for marker in
        ["synthetic", "agent:", "reflection\"", "Waiting", "Finished", "AgentCall", "UserInputRequest"]
    {
        prop_assert!(!text.contains(marker), "{marker} in {text}");
    }
    let internal = w.conv.waits.keys().chain(&w.closed).find(|id| text.contains(&format!("\"{id}")));
    prop_assert!(internal.is_none(), "the id of a wait in {text}");
    Ok(())
}

fn results_of(w: &World, call_id: &str, agent: &AgentId, branch: &BranchId) -> usize {
    let result = |entry: &&&Entry| matches!(&entry.state, State::ToolResult(r) if r.call_id == call_id);
    w.conv.visible(agent, branch).iter().filter(result).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_arrives_in_whatever_order_no_entry_changes_and_every_call_ends_once(
        arrivals in prop::collection::vec(arrival(), 1..50),
        policy in policies(),
        dedup in prop::sample::select(vec![DedupPolicy::None, DedupPolicy::Penalty, DedupPolicy::Strict]),
        unknown in any::<bool>(),
    ) {
        let mut w = world(&policy, dedup, unknown);
        w.say("begin");
        let mut before = entries(&w);
        for arrival in &arrivals {
            let asks = w.asks.clone();
            arrive(&mut w, arrival);
            let after = entries(&w);
            for (place, entry) in &before {
                prop_assert_eq!(after.get(place), Some(entry), "{:?} changed {:?}", arrival, place);
            }
            before = after;
            for ask in w.asks.iter().filter(|ask| !asks.contains(ask)) {
                check_request(&w, &ask.request)?;
            }
            let parked = w.asks.iter().find(|ask| w.conv.is_parked(&ask.agent, &ask.branch) && !asks.contains(ask));
            prop_assert!(parked.is_none(), "a parked branch asks");
        }
        let mut replayed = Conversation::default();
        w.log.iter().for_each(|transition| replayed.apply(transition).unwrap());
        prop_assert_eq!(&replayed, &w.conv);

        w.control(ControlOperation::Cancel);
        prop_assert!(w.conv.waits.is_empty(), "a cancel closes every wait");
        for (agent, stack) in &w.conv.stacks {
            for branch in stack.branches.keys() {
                for entry in w.conv.visible(agent, branch) {
                    if let State::ToolCall(call) = &entry.state {
                        prop_assert_eq!(results_of(&w, &call.call_id, agent, branch), 1, "{}", call.call_id);
                    }
                }
            }
        }
    }

    #[test]
    fn whatever_arrives_at_once_limits_hold(
        arrivals in prop::collection::vec(arrival(), 1..60),
    ) {
        let mut w = world(&RenderPolicy::Compact, DedupPolicy::None, true);
        w.say("begin");
        arrivals.iter().for_each(|arrival| arrive(&mut w, arrival));
        for (agent, stack) in &w.conv.stacks {
            for branch in stack.branches.keys() {
                let (mut asks, mut reflections) = (BTreeSet::new(), 0);
                for entry in w.conv.visible(agent, branch) {
                    match &entry.state {
                        State::UserMessage(m) if m.origin.as_deref() == Some("reflection") => reflections += 1,
                        State::UserMessage(_) => (asks, reflections) = (BTreeSet::new(), 0),
                        State::Waiting(wait) if wait.kind == WaitKind::Llm => drop(asks.insert(wait.id)),
                        _ => {}
                    }
                    prop_assert!(asks.len() <= 25 && reflections <= 3, "{} asks, {reflections}", asks.len());
                }
            }
        }
        let spends = |ask: &Ask| ask.agent.as_str() == "nobody" && ask.request.tools.iter().any(|t| t.name == "pay");
        prop_assert!(!w.asks.iter().any(spends), "a made-up agent may pay");
    }

    #[test]
    fn a_rewind_to_where_something_was_appended_shows_what_was_there_before(
        arrivals in prop::collection::vec(arrival(), 0..30),
        destructive in any::<bool>(),
    ) {
        let mut w = world(&RenderPolicy::Compact, DedupPolicy::None, false);
        w.say("begin");
        arrivals.iter().for_each(|arrival| arrive(&mut w, arrival));
        w.control(ControlOperation::Resume);
        w.control(ControlOperation::Cancel);
        let alpha = AgentId::from("alpha");
        let shown = |w: &World, branch: &BranchId| -> Vec<Entry> {
            w.conv.indexed(&alpha, branch).into_iter().cloned().collect()
        };
        let branch = w.conv.current(&alpha);
        let before = shown(&w, &branch);
        prop_assume!(!before.is_empty());
        w.say("appended");
        if w.asks.iter().any(|ask| ask.agent == alpha) {
            w.reply("alpha", "", &[("weather", json!({}))]);
        }
        w.control(ControlOperation::Cancel);
        let appended = shown(&w, &branch);
        prop_assert!(appended.len() > before.len());
        let at = Some(i64::try_from(before.len()).unwrap() - 1);
        let outcome = w.branch(BranchCommand { at, destructive, ..command(BranchOperation::Rewind) });
        prop_assert_eq!(outcome.code, "ok");
        let now = w.conv.current(&alpha);
        prop_assert_eq!(shown(&w, &now), before);
        if !destructive {
            prop_assert_eq!(shown(&w, &branch), appended, "the parent keeps everything");
        }
    }
}
