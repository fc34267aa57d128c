//! A runtime with its processor and its port, the types of its calls hidden behind numbers.

use std::collections::BTreeMap;

use p2_core::ids::Id;
use p2_core::record::{Message, Payload, StateTransition, Topic};
use p2_stream::processor::Processor;
use p2_stream::runtime::{Action, Counters, Event, Runtime};
use rand::rngs::SmallRng;

/// What the world outside has seen of calls.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// How often each call was started.
    pub starts: BTreeMap<Id, u32>,
    /// Calls that may be started once only.
    pub once: BTreeMap<Id, u32>,
    /// What took place outside by a call, and when, milliseconds: a call may be cut before or after that.
    pub took_place: BTreeMap<Id, i64>,
    /// The first promise that somebody outside saw broken.
    pub broken: Option<String>,
    /// Things that happened, by name.
    pub features: BTreeMap<&'static str, u64>,
}

impl Outside {
    /// Counts a feature.
    pub fn count(&mut self, feature: &'static str) {
        *self.features.entry(feature).or_default() += 1;
    }

    /// Says that a promise is broken.
    pub fn complain(&mut self, reason: String) {
        self.broken.get_or_insert(reason);
    }
}

/// A call that is made.
#[derive(Debug)]
pub struct Asked<'a, R> {
    /// Told apart from every other call of this process, the same call of an earlier ownership included.
    pub token: u64,
    /// The call.
    pub call: Id,
    /// What is asked.
    pub request: &'a R,
    /// Its deadline, milliseconds.
    pub deadline_ms: i64,
    /// Now, by the clock of the process, milliseconds.
    pub now_ms: i64,
}

/// What came of a call so far.
#[derive(Debug)]
pub enum CallAnswer<R> {
    /// It is answered after so many milliseconds.
    After(i64, R),
    /// Nothing yet: it is to be looked at again after so many milliseconds, under the same token.
    Again(i64),
}

/// The other side of a processor's port.
pub trait Port<P: Processor> {
    /// Answers a call.
    fn answer(
        &mut self,
        asked: &Asked<'_, P::Request>,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> CallAnswer<P::Reply>;

    /// The reply of a call that was cut at its deadline, before (`sent` is false) or after it was sent; none: the port
    /// keeps deadlines itself, and answers whatever it is asked.
    fn cut(&self, request: &P::Request, sent: bool) -> Option<P::Reply>;
}

/// When something comes of a call that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// Its reply is there after so many milliseconds.
    Reply(i64),
    /// It is to be started again after so many milliseconds.
    Again(i64),
}

/// What the simulator needs of a hosted processor. Replies and requests are tokens.
pub trait Actor {
    /// The processor's name.
    fn name(&self) -> &'static str;
    /// Its input topic.
    fn input(&self) -> Topic;
    /// Its view.
    fn view(&self) -> Option<Topic>;
    /// The runtime takes an event.
    fn on(&mut self, event: Event<u64>, now_ms: i64) -> Vec<Action<u64>>;
    /// Makes a call; its reply waits under the token. None: there is no such call any more.
    fn start(
        &mut self,
        token: u64,
        now_ms: i64,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> Option<Started>;
    /// When the next timer is due.
    fn next_timer_ms(&self) -> Option<i64>;
    /// Whether nothing is under way.
    fn is_settled(&self) -> bool;
    /// Whether a lane with these transitions has anything open.
    fn is_open(&self, transitions: &[StateTransition]) -> bool;
    /// What the runtime counted.
    fn counters(&self) -> Counters;
}

/// A call that was not answered yet.
struct Begun<R> {
    call: Id,
    deadline_ms: i64,
    request: R,
    /// The port has seen it.
    looked: bool,
}

/// A runtime and its port.
pub struct Hosted<P: Processor, T: Port<P>> {
    runtime: Runtime<P>,
    port: T,
    calls: BTreeMap<u64, Begun<P::Request>>,
    replies: BTreeMap<u64, P::Reply>,
    tokens: u64,
}

impl<P: Processor, T: Port<P>> Hosted<P, T> {
    /// Hosts a runtime.
    pub fn new(runtime: Runtime<P>, port: T) -> Hosted<P, T> {
        Hosted { runtime, port, calls: BTreeMap::new(), replies: BTreeMap::new(), tokens: 0 }
    }
}

impl<P: Processor, T: Port<P>> Actor for Hosted<P, T> {
    fn name(&self) -> &'static str {
        self.runtime.processor().name()
    }

    fn input(&self) -> Topic {
        self.runtime.processor().input()
    }

    fn view(&self) -> Option<Topic> {
        self.runtime.processor().view()
    }

    fn on(&mut self, event: Event<u64>, now_ms: i64) -> Vec<Action<u64>> {
        let Some(event) = self.typed(event) else { return Vec::new() };
        let actions = self.runtime.on(event, now_ms);
        actions.into_iter().map(|action| self.untyped(action)).collect()
    }

    fn start(
        &mut self,
        token: u64,
        now_ms: i64,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> Option<Started> {
        let Begun { call, deadline_ms, request, looked } = self.calls.remove(&token)?;
        let too_late = if now_ms >= deadline_ms { self.port.cut(&request, false) } else { None };
        let (delay, reply) = if let Some(reply) = too_late {
            outside.count("call past its deadline");
            (0, reply)
        } else {
            if !looked {
                *outside.starts.entry(call).or_default() += 1;
            }
            let asked = Asked { token, call, request: &request, deadline_ms, now_ms };
            match self.port.answer(&asked, outside, rng) {
                CallAnswer::Again(delay) => {
                    self.calls.insert(token, Begun { call, deadline_ms, request, looked: true });
                    return Some(Started::Again(delay));
                }
                CallAnswer::After(delay, reply) if now_ms + delay > deadline_ms => {
                    match self.port.cut(&request, true) {
                        None => (delay, reply),
                        Some(reply) => {
                            outside.count("call cut at its deadline");
                            (deadline_ms - now_ms, reply)
                        }
                    }
                }
                CallAnswer::After(delay, reply) => (delay, reply),
            }
        };
        self.replies.insert(token, reply);
        Some(Started::Reply(delay))
    }

    fn next_timer_ms(&self) -> Option<i64> {
        self.runtime.next_timer_ms()
    }

    fn is_settled(&self) -> bool {
        self.runtime.is_settled() && self.runtime.calls_running() == 0
    }

    fn is_open(&self, transitions: &[StateTransition]) -> bool {
        let processor = self.runtime.processor();
        let mut lane = P::Lane::default();
        for transition in transitions {
            let message = Message {
                id: transition.id,
                cause: transition.input,
                cause_position: None,
                time_ms: transition.time_ms,
                traceparent: None,
                payload: Payload::Transition(transition.clone()),
            };
            if processor.apply(&mut lane, &message).is_err() {
                return true;
            }
        }
        !processor.timers(&lane).is_empty() || !processor.open_calls(&lane).is_empty()
    }

    fn counters(&self) -> Counters {
        self.runtime.counters()
    }
}

impl<P: Processor, T: Port<P>> Hosted<P, T> {
    fn typed(&mut self, event: Event<u64>) -> Option<Event<P::Reply>> {
        Some(match event {
            Event::Reply { partition, epoch, call, reply } => {
                Event::Reply { partition, epoch, call, reply: self.replies.remove(&reply)? }
            }
            Event::Assigned { partition, committed, start, end } => {
                Event::Assigned { partition, committed, start, end }
            }
            Event::Revoked { partition } => Event::Revoked { partition },
            Event::ViewBounds { partition, epoch, applied, mark, from } => {
                Event::ViewBounds { partition, epoch, applied, mark, from }
            }
            Event::ViewRecords { partition, epoch, records, next } => {
                Event::ViewRecords { partition, epoch, records, next }
            }
            Event::ViewWritten { partition, epoch, applied } => {
                Event::ViewWritten { partition, epoch, applied }
            }
            Event::OpenLanes { partition, epoch, keys } => Event::OpenLanes { partition, epoch, keys },
            Event::Loaded { partition, epoch, key, rows } => Event::Loaded { partition, epoch, key, rows },
            Event::Record { partition, epoch, offset, record } => {
                Event::Record { partition, epoch, offset, record }
            }
            Event::Tick => Event::Tick,
            Event::Committed { batch, positions } => Event::Committed { batch, positions },
            Event::Aborted { batch, halve } => Event::Aborted { batch, halve },
            Event::Fenced { batch } => Event::Fenced { batch },
            Event::Unknown { batch } => Event::Unknown { batch },
            Event::Drain => Event::Drain,
        })
    }

    fn untyped(&mut self, action: Action<P::Request>) -> Action<u64> {
        match action {
            Action::Call { partition, epoch, id, deadline_ms, request } => {
                self.tokens += 1;
                self.calls.insert(self.tokens, Begun { call: id, deadline_ms, request, looked: false });
                Action::Call { partition, epoch, id, deadline_ms, request: self.tokens }
            }
            Action::ReadViewBounds { partition, epoch, resync_ms } => {
                Action::ReadViewBounds { partition, epoch, resync_ms }
            }
            Action::ReadView { partition, epoch, from } => Action::ReadView { partition, epoch, from },
            Action::WriteView { partition, epoch, records, applied } => {
                Action::WriteView { partition, epoch, records, applied }
            }
            Action::ListOpenLanes { partition, epoch } => Action::ListOpenLanes { partition, epoch },
            Action::Load { partition, epoch, key } => Action::Load { partition, epoch, key },
            Action::Deliver { partition, epoch, offset } => Action::Deliver { partition, epoch, offset },
            Action::Pause { partition } => Action::Pause { partition },
            Action::Resume { partition } => Action::Resume { partition },
            Action::Commit { batch, outputs, progress } => Action::Commit { batch, outputs, progress },
            Action::Cut { id } => Action::Cut { id },
            Action::StartOver { partition } => Action::StartOver { partition },
            Action::Halt { partition, reason } => Action::Halt { partition, reason },
        }
    }
}
