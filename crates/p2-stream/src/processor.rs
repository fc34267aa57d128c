//! A processor: a pure decision over the state of a lane. The runtime does everything else.

use p2_core::ids::Id;
use p2_core::record::{Message, Topic};

use crate::view::{LaneRows, message_of};

/// What a lane is told.
#[derive(Clone, Debug, PartialEq)]
pub enum LaneInput<R> {
    /// A record of the input topic, for the first time as far as this group knows.
    Record(Message),
    /// A record that was claimed before a crash or a reassignment: whether its call was made is not known.
    Claimed(Message),
    /// The reply of a call that this lane asked for.
    Reply {
        /// The call's id.
        call: Id,
        /// The reply.
        reply: R,
    },
    /// A timer of this lane fired.
    Timer {
        /// The timer's id.
        timer: Id,
    },
}

/// How far the record behind a step has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Its offset is done with this step's commit.
    Done,
    /// A call is to follow that may not be repeated: the commit of this step marks the offset as claimed, and
    /// the calls start only after it.
    Claimed,
    /// Its offset is done with this step's commit, and the calls start only after it.
    DoneThenCall,
    /// A call is to follow that may be repeated: the offset stays pending, nothing is committed for it yet.
    Pending,
}

/// A call to a port.
#[derive(Clone, Debug, PartialEq)]
pub struct Call<C> {
    /// Its id; the reply carries it.
    pub id: Id,
    /// Cut at this time, milliseconds since the epoch.
    pub deadline_ms: i64,
    /// What is asked.
    pub request: C,
}

/// Everything that follows from one lane input.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneStep<C> {
    /// Records to write, in order.
    pub outputs: Vec<Message>,
    /// Calls to start: beside the commit where the step is `Done` or `Pending` (they are repeatable), after
    /// it where it is `Claimed` or `DoneThenCall`.
    pub calls: Vec<Call<C>>,
    /// Calls and timers that are no longer wanted.
    pub cancel: Vec<Id>,
    /// How far the record has come. For `Reply` and `Timer` inputs of lanes whose record is pending or
    /// claimed: that record's new mark.
    pub mark: Mark,
}

/// A pure decision plus one port.
pub trait Processor {
    /// The state of a lane.
    type Lane: Clone + Default;
    /// A request to the port.
    type Request: Clone;
    /// The port's reply.
    type Reply: Clone;

    /// Name: folder, crate, consumer group `p2.<name>`, metric label, tracing target.
    fn name(&self) -> &'static str;

    /// The topic that it consumes.
    fn input(&self) -> Topic;

    /// The topic of which its lanes are folds (then they are loaded from the store); none for lanes that live
    /// only as long as their record.
    fn view(&self) -> Option<Topic>;

    /// The lane of a record.
    fn lane_key(&self, message: &Message) -> String;

    /// Decides. Pure: no IO, no clock, no randomness.
    fn decide(
        &self,
        key: &str,
        lane: &Self::Lane,
        input: &LaneInput<Self::Reply>,
        now_ms: i64,
    ) -> LaneStep<Self::Request>;

    /// As [`Processor::decide`], and the lane with those outputs taken in that are of its view, where deciding has made it
    /// anyway. None: they are applied.
    fn decide_and_apply(
        &self,
        key: &str,
        lane: &Self::Lane,
        input: &LaneInput<Self::Reply>,
        now_ms: i64,
    ) -> (LaneStep<Self::Request>, Option<Self::Lane>) {
        (self.decide(key, lane, input, now_ms), None)
    }

    /// Takes a record into the lane's state: with a view, each record of it (own outputs and catch-up); without
    /// one, the lane's input record right before it is decided, and nothing else: such a lane ends when it is done.
    ///
    /// # Errors
    /// A sentence where it does not follow what was folded before: the lane is loaded anew.
    fn apply(&self, lane: &mut Self::Lane, message: &Message) -> Result<(), String>;

    /// The lane that a view's rows make.
    ///
    /// # Errors
    /// As [`Processor::apply`].
    fn restore(&self, rows: LaneRows) -> Result<Self::Lane, String> {
        let mut lane = Self::Lane::default();
        let LaneRows::Transitions(transitions) = rows else {
            return Err(format!("{} folds transitions, the view has something else", self.name()));
        };
        for transition in transitions {
            self.apply(&mut lane, &message_of(transition))?;
        }
        Ok(lane)
    }

    /// Calls that a new owner of the lane makes again (open model waits).
    fn open_calls(&self, lane: &Self::Lane) -> Vec<Call<Self::Request>>;

    /// Open timers of the lane: (id, due at, milliseconds since the epoch).
    fn timers(&self, lane: &Self::Lane) -> Vec<(Id, i64)>;

    /// The tracing span of a call: whose it is, under the processor's name as target. `lane` is absent where it
    /// has left memory.
    fn call_span(
        &self,
        key: &str,
        lane: Option<&Self::Lane>,
        call: &Id,
        request: &Self::Request,
    ) -> tracing::Span {
        let _ = (key, lane, call, request);
        tracing::Span::none()
    }
}
