//! What was committed, folded beside the processors, and the promises that can be seen in it at each commit.
//!
//! Who feeds it decides what it is fed from: the simulation gives it every transaction as it is committed, the
//! fault campaign the steps of each conversation as the log tells them afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use p2_core::conversation::Conversation;
use p2_core::definition::Tool;
use p2_core::ids::{AgentId, BookId, BranchId, ConversationId, Id};
use p2_core::ledger::Book;
use p2_core::record::*;
use p2_core::registry::Registry;
use p2_core::state::{Entry, State, ToolStatus, WaitKind, Waiting};
use p2_core::step::{ASKS_MAX, DedupPolicy, Settings};

use crate::actor::Outside;

mod features;
use features::{feature_of_event, feature_of_phase, features_of_calls, features_of_entry};

type Place = (ConversationId, AgentId, BranchId);

/// A wait that was closed by the input at hand, and whom it held up.
struct ClosedNow {
    agent: AgentId,
    waiting: Waiting,
    holders: Vec<BranchId>,
}

/// The world of one run as its log tells it.
pub struct Oracle {
    /// Every definition.
    pub registry: Rc<Registry>,
    /// What the processors decide with.
    pub settings: Settings,
    /// The fold of what was committed.
    pub conversations: BTreeMap<ConversationId, Conversation>,
    /// Everything addressed to a conversation, by its id.
    pub inputs: BTreeMap<Id, InboxBody>,
    /// Every effect, by its id.
    pub effects: BTreeMap<Id, Effect>,
    /// Effects whose intent is committed.
    pub claims: BTreeSet<Id>,
    /// Effects in doubt.
    pub in_doubt: BTreeSet<Id>,
    /// Requests to people, newest last.
    pub requests: Vec<(ConversationId, Id)>,
    outcomes: BTreeSet<Id>,
    /// Claimed calls that were said not to have been made.
    undone: BTreeSet<Id>,
    opened: BTreeSet<Id>,
    closed: BTreeSet<Id>,
    waits_with_effects: BTreeSet<Id>,
    entries: BTreeSet<Id>,
    heads: BTreeMap<Place, i64>,
    winners: BTreeMap<Id, u32>,
    closed_now: Vec<ClosedNow>,
    stepping: Option<Id>,
    callees: Vec<(AgentId, BranchId)>,
    /// The books, as their transactions tell them.
    books: BTreeMap<BookId, Book>,
    /// Model calls under a reservation.
    paying: BTreeSet<Id>,
    complaint: Option<String>,
}

/// Whether calls of a tool may be repeated.
pub fn is_repeatable(tool: &Tool) -> bool {
    tool.idempotent || tool.side_effect_free
}

fn as_result(ok: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if ok { Ok(()) } else { Err(why()) }
}

impl Oracle {
    /// Nothing was committed so far.
    pub fn new(registry: Rc<Registry>, settings: Settings) -> Oracle {
        Oracle {
            registry,
            settings,
            conversations: BTreeMap::new(),
            inputs: BTreeMap::new(),
            effects: BTreeMap::new(),
            claims: BTreeSet::new(),
            in_doubt: BTreeSet::new(),
            requests: Vec::new(),
            outcomes: BTreeSet::new(),
            undone: BTreeSet::new(),
            opened: BTreeSet::new(),
            closed: BTreeSet::new(),
            waits_with_effects: BTreeSet::new(),
            entries: BTreeSet::new(),
            heads: BTreeMap::new(),
            winners: BTreeMap::new(),
            closed_now: Vec::new(),
            stepping: None,
            callees: Vec::new(),
            books: BTreeMap::new(),
            paying: BTreeSet::new(),
            complaint: None,
        }
    }

    /// A tool, in its newest version.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn tool(&self, id: &str) -> Result<&Tool, String> {
        let found = self.registry.tool(id, None).map(|(_, tool)| tool);
        found.ok_or_else(|| format!("the tool {id} is called and not defined"))
    }

    /// Somebody else saw a promise broken: the next commit says so.
    pub fn complain(&mut self, why: String) {
        self.complaint.get_or_insert(why);
    }

    /// Takes the records of one transaction, or of one step: its transitions before what follows from them.
    ///
    /// # Errors
    /// The promise that they break.
    pub fn committed(&mut self, outputs: &[&Message], outside: &mut Outside) -> Result<(), String> {
        for output in outputs {
            match &output.payload {
                Payload::Transition(transition) => self.transition(transition, outside)?,
                Payload::Effect(effect) => self.effect(effect)?,
                Payload::Artifact(artifact) => self.artifact(artifact, outside)?,
                Payload::Inbox(inbox) => self.inbox(output.id, inbox, outside)?,
                Payload::DeadLetter(_) => outside.count("dead letter"),
                // A fold takes in no transaction that breaks a rule of promise 6.
                Payload::LedgerTransaction(made) => {
                    self.books.entry(made.book.clone()).or_default().apply(made)?;
                }
                Payload::PaymentRequest(_) | Payload::Registry(_) => {}
            }
        }
        match self.complaint.take() {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    // ------------------------------------------------------------------------------------ transitions

    fn transition(&mut self, transition: &StateTransition, outside: &mut Outside) -> Result<(), String> {
        let key = transition.conversation.clone();
        let at = format!("{key} {} {}", transition.agent, transition.branch);
        let mut conversation = self.conversations.remove(&key).unwrap_or_default();
        for change in &transition.changes {
            self.before(&at, &conversation, change)?;
        }
        conversation.apply(transition).map_err(|error| error.to_string())?;
        for change in &transition.changes {
            match change {
                Change::Appended(appended) => {
                    for entry in &appended.entries {
                        self.appended(&at, &conversation, transition, entry, outside)?;
                    }
                    features_of_calls(&appended.entries, outside);
                }
                Change::Forked(forked) => {
                    if forked.creator == "rewind" {
                        outside.count("rewind");
                    }
                    let place = (key.clone(), transition.agent.clone(), transition.branch.clone());
                    let fresh = self.heads.insert(place, forked.at).is_none();
                    as_result(fresh, || format!("{at}: forked twice"))?;
                }
                Change::Decided(decided) => self.decided(&at, &conversation, transition, decided, outside)?,
                _ => {}
            }
        }
        self.callees_of(transition, outside);
        self.conversations.insert(key, conversation);
        Ok(())
    }

    /// The calls of one step lie in several transitions: each callee has one of its own in between.
    fn callees_of(&mut self, transition: &StateTransition, outside: &mut Outside) {
        if self.stepping != Some(transition.input) {
            self.stepping = Some(transition.input);
            self.callees.clear();
        }
        for change in &transition.changes {
            let Change::Appended(appended) = change else { continue };
            for entry in &appended.entries {
                match &entry.state {
                    State::AgentCall(call) => {
                        outside.count("delegation");
                        let place = (call.agent.clone(), transition.branch.clone());
                        if self.callees.contains(&place) {
                            outside.count("same child twice");
                        }
                        self.callees.push(place);
                    }
                    State::AssistantMessage(_) if transition.agent.as_str() == "rules" => {
                        outside.count("rule answered");
                    }
                    _ => {}
                }
            }
        }
    }

    /// What must hold before a change is folded: a wait is closed once, and by somebody who names it.
    fn before(&mut self, at: &str, conversation: &Conversation, change: &Change) -> Result<(), String> {
        let Change::Closed(closed) = change else { return Ok(()) };
        for wait in &closed.waits {
            as_result(self.closed.insert(*wait), || format!("{at}: wait {wait} has two winners"))?;
            let Some(open) = conversation.waits.get(wait) else {
                return Err(format!("{at}: wait {wait} is closed and was not open"));
            };
            let holders = branches_that_see(conversation, &open.agent, wait);
            let (agent, waiting) = (open.agent.clone(), open.waiting.clone());
            self.closed_now.push(ClosedNow { agent, waiting, holders });
        }
        Ok(())
    }

    fn appended(
        &mut self,
        at: &str,
        conversation: &Conversation,
        transition: &StateTransition,
        entry: &Entry,
        outside: &mut Outside,
    ) -> Result<(), String> {
        let (agent, branch) = (&transition.agent, &transition.branch);
        as_result(self.entries.insert(entry.id), || format!("{at}: entry {} twice", entry.id))?;
        let place = (transition.conversation.clone(), agent.clone(), branch.clone());
        let head = self.heads.entry(place).or_insert(-1);
        as_result(entry.seq == *head + 1, || format!("{at}: entry {} after {head}", entry.seq))?;
        *head = entry.seq;
        let visible = conversation.visible(agent, branch);
        let count = |wanted: &dyn Fn(&State) -> bool| visible.iter().filter(|e| wanted(&e.state)).count();
        match &entry.state {
            State::Waiting(waiting) => {
                self.waiting(at, conversation, agent, branch, waiting, outside)?;
                let asked = asked_since_question(&visible);
                as_result(asked <= ASKS_MAX, || format!("{at}: {asked} model calls for one message"))?;
            }
            State::ToolResult(result) => {
                let calls = count(&|s| matches!(s, State::ToolCall(c) if c.call_id == result.call_id));
                let results = count(&|s| matches!(s, State::ToolResult(r) if r.call_id == result.call_id));
                let fits = calls == 1 && results == 1;
                as_result(fits, || format!("{at}: {calls} calls {} with {results} results", result.call_id))?;
                self.lands(at, agent, branch, &result.call_id)?;
            }
            State::AgentResult(result) => {
                let results = count(&|s| matches!(s, State::AgentResult(r) if r.id == result.id));
                as_result(results == 1, || format!("{at}: {results} results of call {}", result.id))?;
            }
            State::UserResponse(response) => {
                let answers =
                    count(&|s| matches!(s, State::UserResponse(r) if r.request == response.request));
                as_result(answers == 1, || format!("{at}: {answers} answers to {}", response.request))?;
            }
            State::UserInputRequest(request) => {
                self.requests.push((transition.conversation.clone(), request.id));
            }
            State::UserMessage(message)
                if message.origin.is_none() && !conversation.waits_on(agent, branch).is_empty() =>
            {
                outside.count("message typed during a wait");
            }
            _ => {}
        }
        features_of_entry(&entry.state, outside);
        Ok(())
    }

    /// Nothing is asked or called from a parked branch, no model while paused, no wait opens twice.
    fn waiting(
        &mut self,
        at: &str,
        conversation: &Conversation,
        agent: &AgentId,
        branch: &BranchId,
        waiting: &Waiting,
        outside: &mut Outside,
    ) -> Result<(), String> {
        let id = waiting.id;
        as_result(!self.closed.contains(&id), || format!("{at}: wait {id} is opened after its end"))?;
        let first = self.opened.insert(id);
        let open = conversation.waits.contains_key(&id);
        let doubt = !first && waiting.kind == WaitKind::Tool && waiting.deadline_ms.is_none();
        if doubt {
            outside.count("tool in doubt");
        }
        let held = waiting.kind == WaitKind::Llm && waiting.budget.is_some();
        if held {
            self.paying.insert(id);
        } else if self.paying.remove(&id) {
            // A pause paid for what it cut short: nothing is asked by that.
            return Ok(());
        }
        if open && !doubt && conversation.is_parked(agent, branch) {
            return Err(format!("{at}: {:?} is asked from a parked branch", waiting.kind));
        }
        let asks = waiting.kind == WaitKind::Llm && open;
        as_result(!(asks && conversation.paused), || format!("{at}: a model is asked while paused"))
    }

    /// A result lands where its call waits, and nowhere else.
    fn lands(&self, at: &str, agent: &AgentId, branch: &BranchId, call_id: &str) -> Result<(), String> {
        // A cancel closes many waits, and models use one call id on many branches.
        let [closed] = self.closed_now.as_slice() else { return Ok(()) };
        let other = closed.waiting.kind != WaitKind::Tool || closed.waiting.correlation != call_id;
        let right = other || closed.agent == *agent && closed.holders.contains(branch);
        as_result(right, || format!("{at}: the result of {call_id} belongs to another branch"))
    }

    /// The end of an input: whoever was held up got what was waited for, and answers have one winner.
    fn decided(
        &mut self,
        at: &str,
        conversation: &Conversation,
        transition: &StateTransition,
        decided: &Decided,
        outside: &mut Outside,
    ) -> Result<(), String> {
        for closed in std::mem::take(&mut self.closed_now) {
            if closed.waiting.kind != WaitKind::Tool {
                continue;
            }
            for branch in &closed.holders {
                let call = &closed.waiting.correlation;
                let got = conversation
                    .visible(&closed.agent, branch)
                    .iter()
                    .any(|entry| matches!(&entry.state, State::ToolResult(r) if r.call_id == *call));
                as_result(got, || format!("{at}: {} {branch} did not get {call}", closed.agent))?;
            }
        }
        let outcome = &decided.outcome;
        match self.inputs.get(&transition.input) {
            Some(InboxBody::HumanAnswer(answer)) => {
                let winners = self.winners.entry(answer.request).or_default();
                *winners += u32::from(outcome.verdict != Verdict::Refused);
                as_result(*winners <= 1, || format!("{at}: {} was answered twice", answer.request))?;
                if outcome.verdict == Verdict::Refused {
                    let known = ["conflict", "invalid", "unknown_request", "parked", "not_found"];
                    let typed = known.contains(&outcome.code.as_str()) && !outcome.message.is_empty();
                    as_result(typed, || format!("{at}: a loser got {outcome:?}"))?;
                }
                if outcome.code == "conflict" {
                    outside.count("answer lost the race");
                }
            }
            Some(InboxBody::ToolOutcome(_)) => match outcome.code.as_str() {
                "parked" => outside.count("late result on a parked branch"),
                "late" => outside.count("late result"),
                _ => {}
            },
            _ if outcome.code == "parked" => outside.count("recorded on a parked branch"),
            _ => {}
        }
        match outcome.code.as_str() {
            "limit" => outside.count("limit refused"),
            "locked" => outside.count("override locked"),
            _ if outcome.verdict == Verdict::Refused => outside.count("input refused"),
            _ => {}
        }
        Ok(())
    }

    // ---------------------------------------------------------------------------- effects and outcomes

    fn effect(&mut self, effect: &Effect) -> Result<(), String> {
        let at = format!("{} {} {}", effect.conversation, effect.agent, effect.branch);
        let Some(conversation) = self.conversations.get(&effect.conversation) else {
            return Err(format!("{at}: an effect before the conversation"));
        };
        if conversation.is_parked(&effect.agent, &effect.branch) {
            return Err(format!("{at}: an effect of a parked branch: {:?}", effect.body));
        }
        if let EffectBody::CallTool(call) = &effect.body {
            let open = conversation.waits.get(&call.wait);
            let fits = open.is_some_and(|open| open.waiting.correlation == call.call_id);
            as_result(fits, || format!("{at}: {} is called and nobody waits for it", call.tool))?;
            let first = self.waits_with_effects.insert(call.wait);
            as_result(first, || format!("{at}: {} is called twice for one wait", call.tool))?;
            if self.settings.dedup == DedupPolicy::Strict && !self.tool(&call.tool)?.side_effect_free {
                let earlier = repeats(conversation, &effect.agent, &effect.branch, &call.call_id, true);
                as_result(earlier == 0, || format!("{at}: strict dedup let {} pass", call.call_id))?;
            }
        }
        self.effects.insert(effect.id, effect.clone());
        Ok(())
    }

    fn artifact(&mut self, artifact: &Artifact, outside: &mut Outside) -> Result<(), String> {
        match &artifact.body {
            ArtifactBody::ToolRun(run) => {
                if run.phase == "intent" {
                    self.claims.insert(run.effect);
                }
                if let Some(feature) = feature_of_phase(&run.phase) {
                    outside.count(feature);
                }
            }
            ArtifactBody::Event(event) => {
                if event.name == "duplicate_tool_call" {
                    self.duplicate(artifact, event)?;
                }
                if let Some(feature) = feature_of_event(event) {
                    outside.count(feature);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A call counts as a duplicate only after the newest message of a person.
    fn duplicate(&self, artifact: &Artifact, event: &Event) -> Result<(), String> {
        let (Some(agent), Some(branch)) = (&artifact.agent, &artifact.branch) else {
            return Err("a duplicate without a place".to_owned());
        };
        let Some(conversation) = self.conversations.get(&artifact.conversation) else { return Ok(()) };
        let call = event.data.0.get("call_id").and_then(|id| id.as_str()).unwrap_or_default();
        let earlier = repeats(conversation, agent, branch, call, false);
        as_result(earlier > 0, || {
            format!("{} {agent} {branch}: {call} is no duplicate", artifact.conversation)
        })
    }

    fn inbox(&mut self, id: Id, inbox: &InboxMessage, outside: &mut Outside) -> Result<(), String> {
        // A misplaced record that was written again is known; what is new comes from tool-exec.
        if self.inputs.insert(id, inbox.body.clone()).is_some() {
            return Ok(());
        }
        let outcome = match &inbox.body {
            InboxBody::ToolOutcome(outcome) => outcome,
            // Whether it is right is the bookkeeper's business.
            InboxBody::PaymentResult(_) => return Ok(()),
            _ => return Err(format!("{}: a processor wrote {:?}", inbox.conversation, inbox.body)),
        };
        let first = self.outcomes.insert(outcome.effect);
        as_result(first, || format!("effect {} has two outcomes", outcome.effect))?;
        let Some(Effect { body: EffectBody::CallTool(call), .. }) = self.effects.get(&outcome.effect) else {
            return Err(format!("an outcome of the unknown effect {}", outcome.effect));
        };
        let claimed = !is_repeatable(self.tool(&call.tool)?);
        let times = outside.once.get(&outcome.effect).copied().unwrap_or(0);
        let why = |said: &str| format!("{} {}: {said}, called {times} times", call.tool, outcome.effect);
        match outcome.status {
            ToolStatus::Expired => as_result(times == 0, || why("expired"))?,
            ToolStatus::Success if claimed => as_result(times == 1, || why("success"))?,
            ToolStatus::Timeout if claimed => {
                self.undone.insert(outcome.effect);
            }
            ToolStatus::InDoubt => {
                as_result(claimed, || why("in doubt although it may be repeated"))?;
                self.in_doubt.insert(outcome.effect);
            }
            _ => {}
        }
        Ok(())
    }

    /// Once everything is at rest: what was said not to have been done was not done.
    ///
    /// # Errors
    /// The effect of which that is not true.
    pub fn undone_stayed_undone(&self, outside: &Outside) -> Result<(), String> {
        match self.undone.iter().find(|effect| outside.took_place.contains_key(effect)) {
            Some(effect) => Err(format!("effect {effect} took place and was said not to have been done")),
            None => Ok(()),
        }
    }
}

/// The branches of an agent in whose lineage a wait stands, without asking the conversation for its holders.
fn branches_that_see(conversation: &Conversation, agent: &AgentId, wait: &Id) -> Vec<BranchId> {
    let Some(stack) = conversation.stacks.get(agent) else { return Vec::new() };
    let sees = |branch: &&BranchId| {
        conversation
            .visible(agent, branch)
            .iter()
            .any(|entry| matches!(&entry.state, State::Waiting(waiting) if waiting.id == *wait))
    };
    stack.branches.keys().filter(sees).cloned().collect()
}

fn is_question(state: &State) -> bool {
    matches!(state, State::UserMessage(message) if message.origin.as_deref() != Some("reflection"))
}

/// Distinct model calls since the newest question.
fn asked_since_question(visible: &[&Entry]) -> usize {
    let asked = visible.iter().rev().take_while(|entry| !is_question(&entry.state));
    let waits = asked.filter_map(|entry| match &entry.state {
        State::Waiting(waiting) if waiting.kind == WaitKind::Llm => Some(waiting),
        _ => None,
    });
    // Another attempt at a call that was begun under another reservation is no other call, whether or not a pause has
    // paid for it since.
    let again = |waiting: &&Waiting| waiting.budget.as_ref().is_some_and(|held| held.again);
    let attempts: BTreeSet<Id> = waits.clone().filter(again).map(|waiting| waiting.id).collect();
    let ids: BTreeSet<Id> = waits.map(|waiting| waiting.id).filter(|id| !attempts.contains(id)).collect();
    ids.len()
}

/// How many calls before that one, since the newest question, are the same; those that did not fail only, where
/// `unless_failed`.
fn repeats(
    conversation: &Conversation,
    agent: &AgentId,
    branch: &BranchId,
    call_id: &str,
    unless_failed: bool,
) -> usize {
    let visible = conversation.visible(agent, branch);
    let Some(place) =
        visible.iter().rposition(|e| matches!(&e.state, State::ToolCall(c) if c.call_id == call_id))
    else {
        return 0;
    };
    let Some(State::ToolCall(call)) = visible.get(place).map(|entry| &entry.state) else { return 0 };
    let failed = |id: &str| {
        visible.iter().any(|entry| {
            matches!(&entry.state, State::ToolResult(result) if result.call_id == id
                && !matches!(result.status, ToolStatus::Success | ToolStatus::InDoubt))
        })
    };
    visible
        .iter()
        .take(place)
        .rev()
        .take_while(|entry| !is_question(&entry.state))
        .filter(|entry| {
            matches!(&entry.state, State::ToolCall(c)
                if c.tool == call.tool && c.arguments == call.arguments && !(unless_failed && failed(&c.call_id)))
        })
        .count()
}
