//! The stack store as this process sees it: every write wakes those who wait for a conversation.
//!
//! What the processors of this process write to the view is also the news: no polling, and a wait costs one look at
//! the store when its conversation moved. On a cluster others write rows as well; there the news is what comes in
//! on `state-transitions`, and the rows follow a moment later.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use p2_core::conversation::Conversation;
use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{BranchStatus, Change, DeadLetter, Outcome, StateTransition, Verdict};
use p2_core::state::{Entry, State};
use p2_stream::ports::{ConversationSummary, StackStore, StoreError};
use tokio::sync::{Notify, watch};

use super::recent::Recent;

/// Outcomes kept for those who ask; older ones are in the conversations.
const OUTCOMES_MAX: usize = 100_000;

/// Within what time news of a fresh message come, mostly: before that nothing need be asked.
pub(super) const FRESH: Duration = Duration::from_millis(100);
/// Conversations that are known to move soon; more are not remembered.
const MOVING_MAX: usize = 10_000;

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
    /// Partition → how far its news came in, where others write rows too.
    heard: watch::Sender<BTreeMap<i32, Heard>>,
    outcomes: Mutex<HashMap<Id, Outcome>>,
    recent: Mutex<Recent>,
    /// Conversations that got a message from here, when, and no news of them yet.
    moving: Mutex<HashMap<ConversationId, Instant>>,
    waiters: Mutex<Waiters>,
    /// Who of the waiters for a partition's rows looks at the store for all of them.
    looks: Mutex<BTreeMap<i32, Arc<tokio::sync::Mutex<()>>>>,
}

/// How far the news of a partition came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The offset after the newest.
    pub(super) next: i64,
    /// Whether there is a transition right before `next`: what has it is there. Else `next` is where the log ended
    /// when this process began to listen, and on Kafka offsets before that may hold nothing.
    pub(super) is_record: bool,
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
        Live {
            store,
            applied,
            heard,
            outcomes: Mutex::default(),
            recent: Mutex::default(),
            moving: Mutex::default(),
            waiters: Mutex::default(),
            looks: Mutex::default(),
        }
    }

    /// Committed transitions of a partition that may be anyone's, up to `next`.
    pub(super) fn hear(&self, partition: i32, transitions: &[(i64, StateTransition)], next: i64) {
        // Before the waiters are woken: they look there.
        self.fold(transitions.iter());
        self.heard.send_modify(|known| {
            let heard = known.entry(partition).or_default();
            let is_record = transitions.last().is_some_and(|(offset, _)| offset + 1 == next);
            if next > heard.next || (is_record && next == heard.next) {
                *heard = Heard { next, is_record };
            }
        });
        self.tell(transitions.iter().map(|(_, transition)| told(transition)).collect());
    }

    fn fold<'a>(&self, transitions: impl Iterator<Item = &'a (i64, StateTransition)>) {
        let mut recent = lock(&self.recent);
        transitions.for_each(|(_, transition)| recent.take(transition));
    }

    /// News may be missing.
    pub(super) fn forget_recent(&self) {
        lock(&self.recent).clear();
    }

    /// A conversation that began since this process follows the log, as of the newest news of it: no older than what
    /// any waiter was told or any outcome speaks of. None in a process that does not follow it.
    pub(super) fn recent(&self, conversation: &ConversationId) -> Option<Conversation> {
        lock(&self.recent).get(conversation)
    }

    /// Held by the one who looks at the store for how far a partition's rows are.
    pub(super) fn look(&self, partition: i32) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(lock(&self.looks).entry(partition).or_default())
    }

    /// Up to where the news of a partition came in.
    pub(super) fn heard(&self, partition: i32) -> Option<Heard> {
        self.heard.borrow().get(&partition).copied()
    }

    /// A message of this process is about to move a conversation.
    pub(super) fn will_move(&self, conversation: &ConversationId) {
        let mut moving = lock(&self.moving);
        if moving.len() >= MOVING_MAX {
            moving.retain(|_, since| since.elapsed() < FRESH);
        }
        if moving.len() < MOVING_MAX {
            moving.insert(conversation.clone(), Instant::now());
        }
    }

    /// Whether news of a conversation are about to come: a look at it now would be too early.
    pub(super) fn is_to_move(&self, conversation: &ConversationId) -> bool {
        lock(&self.moving).get(conversation).is_some_and(|since| since.elapsed() < FRESH)
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
        lock(&self.moving).remove(conversation);
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
        // Committed, and maybe not heard yet. What was heard before is told again when a partition is caught up with:
        // a conversation that was forgotten meanwhile must not be taken up in the middle of that.
        if let Some(heard) = self.heard(partition) {
            self.fold(transitions.iter().filter(|(offset, _)| *offset >= heard.next));
        }
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
        self.forget_recent();
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

#[cfg(test)]
mod tests {
    use p2_stream::memory::MemoryStore;

    use super::super::recent::tests::transition;
    use super::*;

    fn said(live: &Live, conversation: &str) -> Option<i64> {
        live.recent(&ConversationId(conversation.to_owned())).map(|known| known.next_seq)
    }

    #[tokio::test]
    async fn rows_of_our_own_are_shown_before_the_log_tells_of_them_and_old_ones_are_not_taken_up() {
        let live = Live::new(Arc::new(MemoryStore::default()));
        live.hear(0, &[(0, transition("old", 0, "hello")), (1, transition("old", 1, "on"))], 2);
        assert_eq!(said(&live, "old"), Some(2));
        live.forget_recent();
        // A partition that is caught up with: its rows are written again, in pieces.
        live.write(0, vec![(0, transition("old", 0, "hello"))], 1).await.unwrap();
        assert_eq!(said(&live, "old"), None, "half of a conversation");
        live.write(0, vec![(2, transition("new", 0, "hello"))], 3).await.unwrap();
        assert_eq!(said(&live, "new"), Some(1));
        live.hear(0, &[(2, transition("new", 0, "hello")), (3, transition("new", 1, "on"))], 4);
        assert_eq!(said(&live, "new"), Some(2));
    }

    #[tokio::test]
    async fn a_process_that_does_not_follow_the_log_keeps_no_conversations() {
        let live = Live::new(Arc::new(MemoryStore::default()));
        live.write(0, vec![(0, transition("told", 0, "hello"))], 1).await.unwrap();
        assert_eq!(said(&live, "told"), None);
    }

    #[test]
    fn a_conversation_is_about_to_move_until_there_is_news_of_it() {
        let live = Live::new(Arc::new(MemoryStore::default()));
        let id = ConversationId("c".to_owned());
        assert!(!live.is_to_move(&id));
        live.will_move(&id);
        assert!(live.is_to_move(&id));
        live.hear(0, &[(0, transition("c", 0, "hello"))], 1);
        assert!(!live.is_to_move(&id));
    }

    #[test]
    fn only_an_end_that_is_a_record_is_known_to_hold_something() {
        let live = Live::new(Arc::new(MemoryStore::default()));
        assert_eq!(live.heard(0), None);
        live.hear(0, &[], 5);
        assert_eq!(live.heard(0), Some(Heard { next: 5, is_record: false }));
        live.hear(0, &[(7, transition("c", 0, "hello"))], 8);
        assert_eq!(live.heard(0), Some(Heard { next: 8, is_record: true }));
        live.hear(0, &[], 3);
        assert_eq!(live.heard(0), Some(Heard { next: 8, is_record: true }));
    }
}
