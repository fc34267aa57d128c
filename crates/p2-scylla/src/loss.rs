//! What a node may have lost: acknowledged writes that it had not yet synced when it went down.
//!
//! Both servers acknowledge a write before it is synced (by default up to 10 s before), so a node that is killed
//! forgets its newest writes. A new owner reads the last minute of the log again and writes it. An owner that
//! lives on reads nothing again: its rows would stay lost. So every handle keeps what it wrote lately and
//! writes it again once a connection was lost, before it reads or writes anything else. Written again, rows that
//! are there stay as they are.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use p2_core::record::StateTransition;
use scylla::client::session::Session;
use scylla::errors::RequestAttemptError;
use scylla::policies::retry::{
    DefaultRetryPolicy, FallthroughRetryPolicy, RequestInfo, RetryDecision, RetryPolicy, RetrySession,
};

/// How long a write is kept: three times the time after which both servers sync, unless told otherwise.
const KEPT: Duration = Duration::from_secs(30);
/// Of all that is kept, at most so many bytes of cells.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// How often the nodes are looked at. A server needs longer than that to come back.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Counts the times that a node was seen to go away.
#[derive(Clone, Debug, Default)]
pub(crate) struct Losses(Arc<AtomicU64>);

impl Losses {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Looks at the nodes until the session is gone; needs a tokio runtime.
    pub(crate) fn watch(&self, session: &Arc<Session>) {
        let (losses, session) = (self.clone(), Arc::downgrade(session));
        tokio::spawn(async move { losses.look(session).await });
    }

    async fn look(self, session: Weak<Session>) {
        let mut before = BTreeMap::new();
        while let Some(session) = session.upgrade() {
            let state = session.get_cluster_state();
            let now: BTreeMap<_, _> =
                state.get_nodes_info().iter().map(|node| (node.host_id, node.is_connected())).collect();
            if now.iter().any(|(node, connected)| !connected && before.get(node) == Some(&true)) {
                self.add();
            }
            before = now;
            drop(session);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// A retry policy that notices broken connections, whatever the policy behind it makes of them.
#[derive(Debug)]
pub(crate) struct Noticing {
    losses: Losses,
    policy: Arc<dyn RetryPolicy>,
}

impl Noticing {
    /// For what may be repeated: another node where one fails; once more where a read had enough answers but no
    /// data. Never with a lower consistency.
    pub(crate) fn repeating(losses: &Losses) -> Arc<Noticing> {
        Arc::new(Noticing { losses: losses.clone(), policy: Arc::new(DefaultRetryPolicy::new()) })
    }

    /// For what may not be repeated.
    pub(crate) fn once(losses: &Losses) -> Arc<Noticing> {
        Arc::new(Noticing { losses: losses.clone(), policy: Arc::new(FallthroughRetryPolicy::new()) })
    }
}

impl RetryPolicy for Noticing {
    fn new_session(&self) -> Box<dyn RetrySession> {
        Box::new(NoticingSession { losses: self.losses.clone(), session: self.policy.new_session() })
    }
}

struct NoticingSession {
    losses: Losses,
    session: Box<dyn RetrySession>,
}

impl RetrySession for NoticingSession {
    fn decide_should_retry(&mut self, request: RequestInfo) -> RetryDecision {
        if matches!(request.error, RequestAttemptError::BrokenConnectionError(_)) {
            self.losses.add();
        }
        self.session.decide_should_retry(request)
    }

    fn reset(&mut self) {
        self.session.reset();
    }
}

/// A write that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) generation: i32,
    pub(crate) partition: i32,
    pub(crate) transitions: Arc<Vec<(i64, StateTransition)>>,
    pub(crate) applied: i64,
    pub(crate) bytes: usize,
}

/// What was acknowledged lately, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    writes: VecDeque<(Instant, Acknowledged)>,
    bytes: usize,
    /// The newest write that was forgotten for its size, before its time.
    cut: Option<Instant>,
}

impl Recent {
    /// Keeps a write, and forgets what is too old or too much.
    pub(crate) fn push(&mut self, now: Instant, write: Acknowledged) {
        self.bytes += write.bytes;
        self.writes.push_back((now, write));
        while let Some((at, oldest)) = self.writes.front()
            && (now.duration_since(*at) > KEPT || self.bytes > KEPT_BYTES_MAX)
        {
            if now.duration_since(*at) <= KEPT {
                self.cut = Some(*at);
            }
            self.bytes -= oldest.bytes;
            self.writes.pop_front();
        }
    }

    /// Whether everything that a node may have lost is still here.
    pub(crate) fn is_whole(&self, now: Instant) -> bool {
        self.cut.is_none_or(|cut| now.duration_since(cut) > KEPT)
    }

    pub(crate) fn all(&self) -> Vec<Acknowledged> {
        self.writes.iter().map(|(_, write)| write.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(applied: i64, bytes: usize) -> Acknowledged {
        Acknowledged { generation: 1, partition: 0, transitions: Arc::default(), applied, bytes }
    }

    fn applied(recent: &Recent) -> Vec<i64> {
        recent.all().iter().map(|write| write.applied).collect()
    }

    #[test]
    fn what_was_written_lately_is_kept_and_what_is_old_is_not() {
        let (mut recent, begin) = (Recent::default(), Instant::now());
        for seconds in 0..100 {
            recent.push(begin + Duration::from_secs(seconds), write(seconds as i64, 1));
        }
        assert_eq!(applied(&recent), (69..100).collect::<Vec<_>>());
        assert_eq!(recent.bytes, 31);
        assert!(recent.is_whole(begin));
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for n in 0..10 {
            recent.push(now, write(n, KEPT_BYTES_MAX / 3));
        }
        assert_eq!(applied(&recent), [7, 8, 9]);
        assert!(!recent.is_whole(now));
        assert!(recent.is_whole(now + KEPT + Duration::from_secs(1)), "what was cut is synced by then");
    }
}
