//! The stack store as this process sees it: every write wakes those who wait for a conversation.
//!
//! What the processors of this process write to the view is also the news: no polling, and a wait costs one look at
//! the store when its conversation moved. On a cluster others write rows as well; there the news is what comes in
//! on `state-transitions`, and the rows follow a moment later.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{BranchStatus, Change, DeadLetter, Outcome, StateTransition, Verdict};
use p2_core::state::{Entry, State};
use p2_stream::ports::{ConversationSummary, StackStore, StoreError};
use tokio::sync::{Notify, watch};

/// Outcomes kept for those who ask; older ones are in the conversations.
const OUTCOMES_MAX: usize = 100_000;

/// What wakes a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum News {
    /// The conversation changed.
    Any,
    /// It changed, and the branch that did awaits nothing, or something without a deadline.
    Rest,
}

/// Who waits for what: how many, and how they are woken.
type Waiters = HashMap<(ConversationId, News), (usize, Arc<Notify>)>;

/// The view, with news.
pub(super) struct Live {
    store: Arc<dyn StackStore>,
    /// Partition → offset up to which its rows are known to be written.
    applied: watch::Sender<BTreeMap<i32, i64>>,
    /// Partition → offset up to which its news came in, where others write rows too.
    heard: watch::Sender<BTreeMap<i32, i64>>,
    outcomes: Mutex<HashMap<Id, Outcome>>,
    waiters: Mutex<Waiters>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for news of one conversation, until it is dropped.
pub(super) struct Waiter<'a> {
    live: &'a Live,
    of: (ConversationId, News),
    /// Woken on news.
    pub(super) notify: Arc<Notify>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiters = lock(&self.live.waiters);
        if let Some((count, _)) = waiters.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                waiters.remove(&self.of);
            }
        }
    }
}

impl Live {
    pub(super) fn new(store: Arc<dyn StackStore>) -> Live {
        let (applied, heard) = (watch::channel(BTreeMap::new()).0, watch::channel(BTreeMap::new()).0);
        Live { store, applied, heard, outcomes: Mutex::default(), waiters: Mutex::default() }
    }

    /// Committed transitions of a partition that may be anyone's, up to `next`.
    pub(super) fn hear(&self, partition: i32, transitions: &[(i64, StateTransition)], next: i64) {
        self.heard.send_modify(|known| raise(known, partition, next));
        self.tell(transitions.iter().map(|(_, transition)| told(transition)).collect());
    }

    /// Up to where the news of a partition came in.
    pub(super) fn heard(&self, partition: i32) -> Option<i64> {
        self.heard.borrow().get(&partition).copied()
    }

    /// Somebody found that the rows of a partition are written up to there.
    pub(super) fn note_applied(&self, partition: i32, applied: i64) {
        self.applied.send_modify(|known| raise(known, partition, applied));
    }

    /// Registers for news of a conversation.
    pub(super) fn waiter(&self, conversation: &ConversationId, news: News) -> Waiter<'_> {
        let of = (conversation.clone(), news);
        let mut waiters = lock(&self.waiters);
        let (count, notify) = waiters.entry(of.clone()).or_default();
        *count += 1;
        Waiter { live: self, of, notify: Arc::clone(notify) }
    }

    /// Up to where rows are known to be written.
    pub(super) fn applied_known(&self) -> watch::Receiver<BTreeMap<i32, i64>> {
        self.applied.subscribe()
    }

    /// The outcome of an input that was decided since this process started.
    pub(super) fn outcome(&self, input: Id) -> Option<Outcome> {
        lock(&self.outcomes).get(&input).cloned()
    }

    /// An input that could not be processed: who waits for its outcome is told so.
    pub(super) fn refused(&self, letter: &DeadLetter) {
        let id = letter.headers.iter().find(|header| header.name == "ce_id");
        let id = id.and_then(|header| std::str::from_utf8(&header.value).ok()?.parse().ok());
        let Some(id) = id else { return };
        let message = format!("{} (it lies in dead-letters as {})", letter.reason, letter.id);
        let outcome =
            Outcome { verdict: Verdict::Refused, code: letter.code.clone(), message, reference: None };
        self.remember(id, outcome);
        self.wake(&ConversationId(letter.key.clone()), true);
    }

    fn remember(&self, input: Id, outcome: Outcome) {
        let mut outcomes = lock(&self.outcomes);
        if outcomes.len() >= OUTCOMES_MAX {
            outcomes.clear();
        }
        outcomes.entry(input).or_insert(outcome);
    }

    fn wake(&self, conversation: &ConversationId, rests: bool) {
        let waiters = lock(&self.waiters);
        for news in [News::Any, News::Rest] {
            if news == News::Any || rests {
                let of = (conversation.clone(), news);
                waiters.get(&of).into_iter().for_each(|(_, notify)| notify.notify_waiters());
            }
        }
    }

    fn tell(&self, told: Vec<Told>) {
        let mut changed: BTreeMap<ConversationId, bool> = BTreeMap::new();
        for Told { conversation, input, rests, outcome } in told {
            *changed.entry(conversation).or_default() |= rests;
            if let Some(outcome) = outcome {
                self.remember(input, outcome);
            }
        }
        for (conversation, rests) in changed {
            self.wake(&conversation, rests);
        }
    }
}

fn raise(known: &mut BTreeMap<i32, i64>, partition: i32, to: i64) {
    let known = known.entry(partition).or_default();
    *known = to.max(*known);
}

/// What a transition tells those who wait.
struct Told {
    conversation: ConversationId,
    input: Id,
    rests: bool,
    outcome: Option<Outcome>,
}

fn told(transition: &StateTransition) -> Told {
    let mut outcome = None;
    let mut rests = transition.status != BranchStatus::Waiting;
    for change in &transition.changes {
        match change {
            Change::Decided(decided) => outcome = Some(decided.outcome.clone()),
            Change::Appended(appended) => {
                rests |= appended.entries.iter().any(
                    |entry| matches!(&entry.state, State::Waiting(waiting) if waiting.deadline_ms.is_none()),
                );
            }
            _ => {}
        }
    }
    Told { conversation: transition.conversation.clone(), input: transition.input, rests, outcome }
}

#[async_trait]
impl StackStore for Live {
    async fn write(
        &self,
        partition: i32,
        transitions: Vec<(i64, StateTransition)>,
        applied: i64,
    ) -> Result<(), StoreError> {
        let told: Vec<Told> = transitions.iter().map(|(_, transition)| told(transition)).collect();
        self.store.write(partition, transitions, applied).await?;
        self.note_applied(partition, applied);
        self.tell(told);
        Ok(())
    }

    async fn applied(&self, partition: i32) -> Result<i64, StoreError> {
        self.store.applied(partition).await
    }

    async fn load(&self, conversation: &ConversationId) -> Result<Vec<StateTransition>, StoreError> {
        self.store.load(conversation).await
    }

    async fn tail(
        &self,
        conversation: &ConversationId,
        agent: &AgentId,
        branch: &BranchId,
        before: i64,
        entries_max: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.store.tail(conversation, agent, branch, before, entries_max).await
    }

    async fn open(&self, partition: i32) -> Result<Vec<ConversationId>, StoreError> {
        self.store.open(partition).await
    }

    async fn list(
        &self,
        after: Option<&ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationSummary>, StoreError> {
        self.store.list(after, max).await
    }

    async fn wipe(&self) -> Result<(), StoreError> {
        self.store.wipe().await?;
        self.applied.send_modify(BTreeMap::clear);
        Ok(())
    }

    async fn follow(&self) -> Result<(), StoreError> {
        self.store.follow().await?;
        // Those of the generation before: catch-up says anew how far this one is.
        self.applied.send_modify(BTreeMap::clear);
        Ok(())
    }
}
