//! The real agent-step, and somebody who looks at what a new owner asks again.

use std::cell::RefCell;
use std::rc::Rc;

use agent_step::AgentStep;
use p2_core::conversation::Conversation;
use p2_core::ids::Id;
use p2_core::model::{ModelOutcome, ModelRequest};
use p2_core::record::{Message, Topic};
use p2_sim::oracle::Oracle;
use p2_stream::processor::{Call, LaneInput, LaneStep, Processor};

pub(crate) struct Watched {
    pub(crate) step: AgentStep,
    pub(crate) oracle: Rc<RefCell<Oracle>>,
}

impl Processor for Watched {
    type Lane = Conversation;
    type Request = ModelRequest;
    type Reply = ModelOutcome;

    fn name(&self) -> &'static str {
        self.step.name()
    }

    fn input(&self) -> Topic {
        self.step.input()
    }

    fn view(&self) -> Option<Topic> {
        self.step.view()
    }

    fn lane_key(&self, message: &Message) -> String {
        self.step.lane_key(message)
    }

    fn decide(
        &self,
        key: &str,
        lane: &Conversation,
        input: &LaneInput<ModelOutcome>,
        now_ms: i64,
    ) -> LaneStep<ModelRequest> {
        self.step.decide(key, lane, input, now_ms)
    }

    fn apply(&self, lane: &mut Conversation, message: &Message) -> Result<(), String> {
        self.step.apply(lane, message)
    }

    fn open_calls(&self, lane: &Conversation) -> Vec<Call<ModelRequest>> {
        let calls = self.step.open_calls(lane);
        for call in &calls {
            let live = lane.waits.get(&call.id).is_some_and(|wait| {
                lane.holders(wait).iter().any(|branch| !lane.is_parked(&wait.agent, branch))
            });
            if lane.paused || !live {
                let why = format!("{}: {} is asked again while parked or paused", lane.id, call.id);
                self.oracle.borrow_mut().complain(why);
            }
        }
        calls
    }

    fn timers(&self, lane: &Conversation) -> Vec<(Id, i64)> {
        self.step.timers(lane)
    }
}
