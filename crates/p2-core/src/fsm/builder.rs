//! A decision while it is being made: a working copy of the conversation, and what has been decided so far.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::budget::{self, Cost};
use crate::conversation::{Conversation, OpenWait};
use crate::fold::{self, Place};
use crate::ids::{AgentId, BranchId, ConversationId, Id};
use crate::json_text::JsonText;
use crate::record::{
    Appended, Artifact, ArtifactBody, BranchStatus, Change, Closed, Decided, Effect, EffectBody,
    EntryAppended, Event, InputOutcome, Outcome, PaymentRequest, StateTransition, Verdict,
};
use crate::state::{Entry, State};
use crate::step::{Context, Decision, Input};

pub(super) struct Step<'a> {
    /// The conversation with everything decided so far folded in.
    pub(super) conv: Conversation,
    pub(super) input: Id,
    pub(super) context: Context<'a>,
    pub(super) now: i64,
    conversation: ConversationId,
    out: Decision,
    counters: BTreeMap<&'static str, u32>,
    open: Option<(AgentId, BranchId, Vec<Change>)>,
}

/// What a second delivery of an input gets: the first outcome, and nothing changes.
pub(super) fn duplicate(conversation: &Conversation, input: &Input, first: &Outcome, now: i64) -> Decision {
    let mut decision = Decision::default();
    if let Input::Inbox { id, .. } = input {
        let outcome = Outcome {
            verdict: Verdict::Duplicate,
            code: first.code.clone(),
            message: match first.message.as_str() {
                "" => format!("seen before: {:?}", first.verdict).to_lowercase(),
                message => format!("seen before: {message}"),
            },
            reference: first.reference.clone(),
        };
        decision.artifacts.push(Artifact {
            id: Id::derive(id, "duplicate", 0),
            conversation: conversation.id.clone(),
            agent: None,
            branch: None,
            entry: None,
            parents: vec![Id::derive(id, "outcome", 0)],
            time_ms: now,
            body: ArtifactBody::InputOutcome(InputOutcome { input: *id, outcome }),
        });
    }
    decision
}

impl<'a> Step<'a> {
    pub(super) fn new(
        conversation: &Conversation,
        input: &Input,
        context: Context<'a>,
        now: i64,
    ) -> Step<'a> {
        let id = match input {
            Input::Inbox { message, .. } => message.conversation.clone(),
            _ => conversation.id.clone(),
        };
        Step {
            conv: conversation.clone(),
            input: input.id(),
            context,
            now,
            conversation: id,
            out: Decision::default(),
            counters: BTreeMap::new(),
            open: None,
        }
    }

    /// The next id of a kind.
    pub(super) fn id(&mut self, kind: &'static str) -> Id {
        let counter = self.counters.entry(kind).or_default();
        let id = Id::derive(&self.input, kind, *counter);
        *counter += 1;
        id
    }

    /// One change on one stack; neighbouring changes of one stack share a transition.
    pub(super) fn change(&mut self, agent: &AgentId, branch: &BranchId, change: Change) {
        let same = matches!(&self.open, Some((a, b, _)) if a == agent && b == branch);
        if !same {
            self.seal();
        }
        let place = Place { agent, branch, input: self.input, time_ms: self.now };
        fold::change(&mut self.conv, &place, &change);
        let (_, _, changes) = self.open.get_or_insert_with(|| (agent.clone(), branch.clone(), Vec::new()));
        match (changes.last_mut(), change) {
            (Some(Change::Appended(last)), Change::Appended(new)) => last.entries.extend(new.entries),
            (_, change) => changes.push(change),
        }
    }

    /// Appends an entry and says so in an artifact. Gives its `seq`.
    pub(super) fn append(&mut self, agent: &AgentId, branch: &BranchId, state: State) -> i64 {
        let seq = self.conv.head(agent, branch) + 1;
        let id = self.id("entry");
        let parents = self.entry_parents(agent, branch, &state);
        self.out.artifacts.push(Artifact {
            id: entry_artifact(&id),
            conversation: self.conversation.clone(),
            agent: Some(agent.clone()),
            branch: Some(branch.clone()),
            entry: Some(seq),
            parents,
            time_ms: self.now,
            body: ArtifactBody::EntryAppended(EntryAppended { state: state.kind().to_owned() }),
        });
        let entry = Entry { seq, id, time_ms: self.now, state };
        self.change(agent, branch, Change::Appended(Appended { entries: vec![entry] }));
        seq
    }

    fn entry_parents(&self, agent: &AgentId, branch: &BranchId, state: &State) -> Vec<Id> {
        let of = self.conv.newest(agent, branch).find(|entry| match (state, &entry.state) {
            (State::ToolResult(result), State::ToolCall(call)) => call.call_id == result.call_id,
            (State::AgentResult(result), State::AgentCall(call)) => call.id == result.id,
            (State::UserResponse(response), State::UserInputRequest(request)) => {
                request.id == response.request
            }
            (State::ToolResult(_) | State::AgentResult(_) | State::UserResponse(_), _) => false,
            (_, State::Waiting(_)) => false,
            _ => true,
        });
        of.map(|entry| entry_artifact(&entry.id)).into_iter().collect()
    }

    /// Closes an open wait; none where somebody was faster. What is set aside for its call is ended: it was not made, or
    /// nobody knows what it has cost.
    pub(super) fn close(&mut self, wait: &Id) -> Option<OpenWait> {
        let open = self.close_keeping(wait)?;
        budget::end(self, &open, budget::unrecorded(&open));
        Some(open)
    }

    /// As [`Step::close`], where it is known what the call has cost.
    pub(super) fn close_costing(&mut self, wait: &Id, cost: Cost) -> Option<OpenWait> {
        let open = self.close_keeping(wait)?;
        budget::end(self, &open, cost);
        Some(open)
    }

    /// As [`Step::close`]; what is set aside goes to another wait, or was not.
    pub(super) fn close_keeping(&mut self, wait: &Id) -> Option<OpenWait> {
        let open = self.conv.waits.get(wait)?.clone();
        self.change(&open.agent, &open.branch, Change::Closed(Closed { waits: vec![*wait] }));
        self.out.closed.push(*wait);
        Some(open)
    }

    /// Tells the runtime to cut a running call short although its wait stays open.
    pub(super) fn cut_short(&mut self, wait: Id) {
        self.out.closed.push(wait);
    }

    pub(super) fn artifact(
        &mut self,
        agent: &AgentId,
        branch: &BranchId,
        entry: Option<i64>,
        body: ArtifactBody,
    ) {
        let id = self.id("artifact");
        let parents = entry
            .and_then(|seq| {
                self.conv.newest(agent, branch).find(|e| e.seq == seq).map(|e| entry_artifact(&e.id))
            })
            .into_iter()
            .collect();
        self.out.artifacts.push(Artifact {
            id,
            conversation: self.conversation.clone(),
            agent: Some(agent.clone()),
            branch: Some(branch.clone()),
            entry,
            parents,
            time_ms: self.now,
            body,
        });
    }

    pub(super) fn event(&mut self, agent: &AgentId, branch: &BranchId, name: &str, data: Value) {
        let body = ArtifactBody::Event(Event { name: name.to_owned(), data: JsonText(data) });
        self.artifact(agent, branch, None, body);
    }

    pub(super) fn effect(
        &mut self,
        agent: &AgentId,
        branch: &BranchId,
        not_after_ms: Option<i64>,
        body: EffectBody,
    ) {
        self.paid_effect(agent, branch, not_after_ms, body, None);
    }

    /// As [`Step::effect`], with what is set aside for it.
    pub(super) fn paid_effect(
        &mut self,
        agent: &AgentId,
        branch: &BranchId,
        not_after_ms: Option<i64>,
        body: EffectBody,
        reservation: Option<Id>,
    ) {
        let id = self.id("effect");
        self.out.effects.push(Effect {
            id,
            conversation: self.conversation.clone(),
            agent: agent.clone(),
            branch: branch.clone(),
            not_after_ms,
            body,
            reservation,
        });
    }

    pub(super) fn payment(&mut self, request: PaymentRequest) {
        self.out.payments.push(request);
    }

    /// The conversation, also where this step opens it.
    pub(super) fn conversation(&self) -> &ConversationId {
        &self.conversation
    }

    pub(super) fn ask(&mut self, ask: crate::step::Ask) {
        self.out.asks.push(ask);
    }

    /// Remembers the outcome and gives the decision.
    pub(super) fn finish(mut self, input: &Input, outcome: Outcome) -> Decision {
        let (agent, branch) = match &self.open {
            Some((agent, branch, _)) => (agent.clone(), branch.clone()),
            None => (self.conv.root.clone(), self.conv.current(&self.conv.root)),
        };
        self.change(&agent, &branch, Change::Decided(Decided { outcome: outcome.clone() }));
        self.seal();
        if let Input::Inbox { id, .. } = input {
            self.out.artifacts.push(Artifact {
                id: Id::derive(id, "outcome", 0),
                conversation: self.conversation,
                agent: Some(agent).filter(|agent| !agent.0.is_empty()),
                branch: None,
                entry: None,
                parents: Vec::new(),
                time_ms: self.now,
                body: ArtifactBody::InputOutcome(InputOutcome { input: *id, outcome }),
            });
        } else if outcome.verdict != Verdict::Applied {
            let data =
                json!({"input": self.input.to_string(), "code": outcome.code, "message": outcome.message});
            self.event(&agent, &branch, "input_recorded", data);
        }
        self.out
    }

    fn seal(&mut self) {
        let Some((agent, branch, changes)) = self.open.take() else { return };
        let transition = StateTransition {
            id: self.id("transition"),
            conversation: self.conversation.clone(),
            seq: self.conv.next_seq,
            previous: self.conv.last,
            head: self.conv.head(&agent, &branch),
            status: self.status(&agent, &branch),
            agent,
            branch,
            input: self.input,
            changes,
            time_ms: self.now,
        };
        if self.conv.last.is_none() {
            self.conv.id = self.conversation.clone();
        }
        fold::sealed(&mut self.conv, &transition);
        self.out.transitions.push(transition);
    }

    fn status(&self, agent: &AgentId, branch: &BranchId) -> BranchStatus {
        if !self.conv.waits_on(agent, branch).is_empty() {
            return BranchStatus::Waiting;
        }
        match self.conv.newest_said(agent, branch).map(|entry| &entry.state) {
            Some(State::Finished(_)) => BranchStatus::Finished,
            _ => BranchStatus::Idle,
        }
    }
}

/// The artifact that stands for an entry.
pub(super) fn entry_artifact(entry: &Id) -> Id {
    Id::derive(entry, "artifact", 0)
}
