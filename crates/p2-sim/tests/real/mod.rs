//! The real processors on the simulated log and store.

mod judged;
mod judges;
mod model;
mod money;
mod people;
mod registry;
mod tools;
mod watched;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use agent_step::{AgentStep, RegistryHandle};
use evaluator::Evaluators;
use p2_core::definition::Executor;
use p2_core::ids::Id;
use p2_core::record::*;
use p2_core::registry::Registry;
use p2_core::state::State;
use p2_core::step::{DedupPolicy, Settings};
use p2_sim::oracle::Oracle;
use p2_sim::{Actor, Hosted, Outside, SimLog, SimStore, Topology};
use p2_stream::memory::MemoryLedger;
use p2_stream::runtime::{Codec, Encoded, Limits, Runtime};
use p2_stream::wire::ProcessorWire;
use rand::rngs::SmallRng;
use settlement::Settlement;
use tool_exec::ToolExec;

use judged::Judged;
use judges::{Judges, View};
use model::{OVERSIZE, SimModel};
use money::{Money, Nobody};
use people::{People, REFUSED};
use tools::SimToolbox;
use watched::Watched;

/// The topology of one run.
pub(crate) struct Real {
    seed: u64,
    registry: Arc<Registry>,
    settings: Settings,
    oracle: Rc<RefCell<Oracle>>,
    people: People,
    /// With settlement and evaluator beside agent-step and tool-exec.
    money: Option<Money>,
    judged: Judged,
    view: View,
}

impl Real {
    pub(crate) fn new(seed: u64, money: bool) -> Real {
        let registry = if money { registry::registry_with_budgets() } else { registry::registry() };
        let settings = Settings {
            dedup: [DedupPolicy::None, DedupPolicy::Penalty, DedupPolicy::Strict][seed as usize % 3],
            // Every other run meets the limit of entries.
            stack_entries_max: if seed.is_multiple_of(2) { 24 } else { 2_000 },
            ..Settings::default()
        };
        let oracle = Oracle::new(Rc::new(registry.clone()), settings.clone());
        Real {
            seed,
            registry: Arc::new(registry),
            settings,
            oracle: Rc::new(RefCell::new(oracle)),
            people: People::default(),
            money: money.then(Money::default),
            judged: Judged::default(),
            view: View::default(),
        }
    }

    /// One run in sixteen encodes every record as it would be on the wire.
    fn codec(&self, name: &'static str) -> Box<RealCodec> {
        let wire = self.seed.is_multiple_of(16).then(|| ProcessorWire::new(name, |_| 3));
        Box::new(RealCodec { wire })
    }
}

struct RealCodec {
    wire: Option<ProcessorWire>,
}

impl Codec for RealCodec {
    fn encode(&self, message: &Message) -> Result<Encoded, (String, String)> {
        if says(message, OVERSIZE) {
            return Err(("too_large".to_owned(), "too large".to_owned()));
        }
        match &self.wire {
            Some(wire) => wire.encode(message),
            None => Ok(Encoded { bytes: 300, value: None }),
        }
    }

    fn letter(&self, at: (i32, i64), message: &Message, code: &str, reason: &str, _: i64) -> DeadLetter {
        letter(message, at, code, reason)
    }
}

/// Whether a transition appends that text.
fn says(message: &Message, text: &str) -> bool {
    let Payload::Transition(transition) = &message.payload else { return false };
    transition.changes.iter().any(|change| match change {
        Change::Appended(appended) => appended.entries.iter().any(|entry| match &entry.state {
            State::UserMessage(said) => said.text == text,
            State::AssistantMessage(said) => said.text == text,
            _ => false,
        }),
        _ => false,
    })
}

fn letter(message: &Message, (partition, offset): (i32, i64), code: &str, reason: &str) -> DeadLetter {
    DeadLetter {
        id: Id::of_text(&format!("letter {} {partition} {offset}", message.id)),
        key: message.payload.key().to_owned(),
        topic: message.payload.topic().name(),
        partition,
        offset,
        group: "real".to_owned(),
        code: code.to_owned(),
        reason: reason.to_owned(),
        headers: Vec::new(),
        value: Vec::new(),
        time_ms: 0,
    }
}

impl Topology for Real {
    fn actors(&self, limits: Limits, nonce: u64) -> Vec<Box<dyn Actor>> {
        let handle = RegistryHandle::new(Registry::clone(&self.registry));
        let step = AgentStep::new(handle, self.settings.clone());
        let agent = Watched { step, oracle: self.oracle.clone() };
        let agent = Runtime::new(agent, self.codec("agent-step"), limits, nonce);
        let registry = self.registry.clone();
        let tool = ToolExec::new(move || registry.clone());
        let tool = Runtime::new(tool, self.codec("tool-exec"), limits, nonce);
        let toolbox = SimToolbox { oracle: self.oracle.clone(), cache: BTreeMap::new() };
        let mut actors: Vec<Box<dyn Actor>> = vec![
            Box::new(Hosted::new(agent, SimModel { seed: self.seed })),
            Box::new(Hosted::new(tool, toolbox)),
        ];
        if self.money.is_some() {
            let settlement = Runtime::new(Settlement, self.codec("settlement"), limits, nonce);
            actors.push(Box::new(Hosted::new(settlement, Nobody)));
            let registry = self.registry.clone();
            let evaluators = Evaluators::new(move || registry.clone());
            let evaluators = Runtime::new(evaluators, self.codec("evaluator"), limits, nonce);
            let judges = Judges::new(self.seed, &self.view, &self.registry);
            actors.push(Box::new(Hosted::new(evaluators, judges)));
        }
        actors
    }

    fn inputs(
        &mut self,
        number: usize,
        now_ms: i64,
        _: &SimLog,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> Vec<Message> {
        if let Some(asked) = self.money.as_mut().and_then(|money| money.act(now_ms, outside, rng)) {
            return asked;
        }
        if self.money.is_some()
            && let Some(asked) = self.judged.act(&self.oracle.borrow(), outside, rng)
        {
            return asked;
        }
        let mut oracle = self.oracle.borrow_mut();
        let messages = self.people.act(number, now_ms, &oracle, outside, rng);
        for message in &messages {
            if let Payload::Inbox(inbox) = &message.payload {
                oracle.inputs.insert(message.id, inbox.body.clone());
            }
        }
        messages
    }

    fn closing(&mut self) -> Vec<Message> {
        let mut oracle = self.oracle.borrow_mut();
        let messages = people::closing(&oracle);
        for message in &messages {
            if let Payload::Inbox(inbox) = &message.payload {
                oracle.inputs.insert(message.id, inbox.body.clone());
            }
        }
        messages
    }

    fn refused(&self, message: &Message) -> bool {
        says(message, REFUSED)
    }

    fn is_answered(&self, message: &Message) -> bool {
        match &message.payload {
            Payload::Effect(Effect { body: EffectBody::CallTool(call), .. }) => self
                .registry
                .tool(&call.tool, Some(call.version))
                .is_none_or(|(_, tool)| tool.executor == Executor::Builtin),
            Payload::Effect(_) => false,
            Payload::Artifact(artifact) => Judged::must_answer(&self.registry, artifact),
            Payload::PaymentRequest(request) => {
                self.money.as_ref().is_none_or(|money| money.must_answer(request))
            }
            _ => true,
        }
    }

    fn answers(&self, output: &Message, record: &Message) -> bool {
        match (&output.payload, &record.payload) {
            (Payload::Inbox(_), Payload::Effect(effect)) => output.id == Id::derive(&effect.id, "outcome", 0),
            // Asked twice, answered once; perhaps in one commit.
            (Payload::LedgerTransaction(made), Payload::PaymentRequest(request)) => {
                made.request.id == request.id
            }
            _ => output.cause == record.id || output.id == record.id,
        }
    }

    fn committed(&mut self, outputs: &[&Message], outside: &mut Outside) -> Result<(), String> {
        if let Some(money) = &mut self.money {
            money.books.borrow_mut().committed(outputs, outside)?;
        }
        self.oracle.borrow_mut().committed(outputs, outside)?;
        if self.money.is_some() {
            self.judged.committed(outputs, &self.registry, &self.oracle.borrow(), outside)?;
        }
        Ok(())
    }

    fn look(&mut self, log: &SimLog, store: &SimStore) {
        if self.money.is_some() {
            self.view.look(log, store);
        }
    }

    fn may_repeat(&self, message: &Message) -> bool {
        self.judged.may_repeat(message)
    }

    fn check_log(&self, log: &SimLog) -> Result<(), String> {
        if self.money.is_some() { Judged::all_judged(&self.registry, log) } else { Ok(()) }
    }

    fn check_books(&self, partition: i32, books: &MemoryLedger, log: &SimLog) -> Result<(), String> {
        let Some(money) = &self.money else { return Ok(()) };
        money.all_answered(partition, log)?;
        let oracle = self.oracle.borrow();
        let waits = oracle.conversations.values().flat_map(|conversation| conversation.waits.values());
        let held = waits.filter_map(|wait| Some(wait.waiting.budget.as_ref()?.reservation)).collect();
        let kept = money.books.borrow();
        kept.books().try_for_each(|book| kept.work_has_ended(book, &held))?;
        money.same(partition, books, log)
    }

    fn letter(&self, message: &Message, partition: i32, offset: i64) -> DeadLetter {
        letter(message, (partition, offset), "undecodable", "not to be read")
    }

    fn check(&self, transitions: &[StateTransition], outside: &Outside) -> Result<(), String> {
        let oracle = self.oracle.borrow();
        oracle.undone_stayed_undone(outside)?;
        p2_sim::rest::check(&oracle, transitions)?;
        // One run in four is decided once more, on what its log says.
        if self.seed.is_multiple_of(4) { p2_sim::rest::decide_again(&oracle, transitions) } else { Ok(()) }
    }
}
