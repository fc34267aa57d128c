//! A member of a consumer group: the side that the shell talks to.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use p2_core::record::Topic;
use p2_stream::ports::{CommittedOffset, Committer, LogError, Member, MemberEvent};
use tokio::sync::mpsc;

use crate::callbacks::{self, Shared};
use crate::committer::KafkaCommitter;
use crate::log::{Inner, Slot, blocking};
use crate::poller::{self, Channels, Command, Notice};
use crate::transactor::{Outcome, Transactor};

/// Below so many waiting bytes a throttled delivery goes on.
const WAITING_BYTES_LOW: usize = 16 << 20;

/// A member. Dropping it leaves the group, without waiting for that.
pub(crate) struct KafkaMember {
    log: Arc<Inner>,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
    notices: mpsc::UnboundedReceiver<Notice>,
    committer: Arc<KafkaCommitter>,
    failed: Option<LogError>,
    /// Held by the poller until it has left the group.
    slot: Weak<Slot>,
}

/// Joins a group. `identity` names the slot: the static member and its transactional id.
///
/// # Errors
/// Where the transactional id cannot be taken over, or the consumer does not start.
pub(crate) async fn join(
    log: Arc<Inner>,
    group: String,
    identity: String,
    topics: &BTreeSet<Topic>,
    slot: Arc<Slot>,
) -> Result<KafkaMember, LogError> {
    let mut transactor = Transactor::new(&log.config, identity.clone());
    let longest = Duration::from_millis(u64::from(log.config.request_timeout_ms));
    // Before anything is read: what an earlier process of this slot left open is aborted here, at once.
    let transactor = blocking(move || match transactor.ready(longest) {
        Ok(()) => Ok(transactor),
        Err(Outcome::Refused(reason)) => Err(LogError::Refused(reason)),
        Err(Outcome::Aborted(reason) | Outcome::Fenced(reason)) => Err(LogError::Unavailable(reason)),
        Err(other) => Err(LogError::Unavailable(format!("{other:?}"))),
    })
    .await?;
    let shared: Arc<Shared> = Arc::default();
    let topics: Vec<Topic> = topics.iter().copied().collect();
    let held = Arc::downgrade(&slot);
    let (of_log, of_poller) = (Arc::clone(&log), Arc::clone(&shared));
    let start = move || {
        poller::start(&of_log.config, &of_log.readers, (&group, &identity), &topics, &of_poller, slot)
    };
    let Channels { commands, notices } = blocking(start).await?;
    let committer =
        Arc::new(KafkaCommitter::new(Arc::clone(&log), Arc::clone(&shared), transactor, commands.clone()));
    Ok(KafkaMember { log, shared, commands, notices, committer, failed: None, slot: held })
}

impl KafkaMember {
    fn command(&self, command: Command) {
        // A poller that has ended told its reason as the last notice.
        let _ = self.commands.send(command);
    }

    /// Takes notice. None of what is out of date by now.
    fn take(&mut self, notice: Notice) -> Option<Result<MemberEvent, LogError>> {
        match notice {
            Notice::Assigned { lane: (topic, partition), tenure, committed } => {
                self.shared.state().ownership.tell_assigned((topic, partition), tenure);
                Some(Ok(MemberEvent::Assigned { topic, partition, committed }))
            }
            Notice::Revoked { lane: (topic, partition) } => {
                self.shared.state().ownership.tell_revoked((topic, partition));
                Some(Ok(MemberEvent::Revoked { topic, partition }))
            }
            Notice::Records { lane, tenure, seek, bytes, records } => {
                let before = self.shared.waiting.fetch_sub(bytes, Ordering::AcqRel);
                if before.saturating_sub(bytes) < WAITING_BYTES_LOW
                    && self.shared.throttled.swap(false, Ordering::AcqRel)
                {
                    self.command(Command::Unthrottle);
                }
                let told = self.shared.state().ownership.told(lane)?;
                let is_current = (told.tenure, told.seek) == (tenure, seek);
                is_current.then_some(Ok(MemberEvent::Records { topic: lane.0, partition: lane.1, records }))
            }
            Notice::Truncated { lane, tenure, seek, start } => {
                let told = self.shared.state().ownership.told(lane)?;
                let is_current = (told.tenure, told.seek) == (tenure, seek);
                is_current.then_some(Ok(MemberEvent::Truncated { topic: lane.0, partition: lane.1, start }))
            }
            Notice::Failed(error) => {
                self.failed = Some(error.clone());
                Some(Err(error))
            }
        }
    }
}

#[async_trait]
impl Member for KafkaMember {
    async fn next(&mut self) -> Result<MemberEvent, LogError> {
        loop {
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            let Some(notice) = self.notices.recv().await else {
                return Err(LogError::Unavailable("the consumer has ended".to_owned()));
            };
            if let Some(event) = self.take(notice) {
                return event;
            }
        }
    }

    async fn committed(&self, topic: Topic, partition: i32) -> Result<Option<CommittedOffset>, LogError> {
        self.committer.settled().await;
        let Some(client) = self.shared.state().client.clone() else {
            return Err(LogError::Unavailable("the member is closing".to_owned()));
        };
        let (names, lane) = (self.log.names.clone(), (topic, partition));
        let longest = Duration::from_millis(u64::from(self.log.config.request_timeout_ms));
        let found = blocking(move || callbacks::committed(&client, &names, &[lane], longest)).await?;
        Ok(found.get(&lane).cloned().flatten())
    }

    async fn seek(&mut self, topic: Topic, partition: i32, offset: i64) -> Result<(), LogError> {
        let lane = (topic, partition);
        let Some(told) = self.shared.state().ownership.seek(lane) else {
            return Err(LogError::NotFound(format!(
                "{} partition {partition} is not assigned to this member: seek after its Assigned event",
                topic.name()
            )));
        };
        self.command(Command::Seek { lane, tenure: told.tenure, seek: told.seek, offset });
        Ok(())
    }

    fn pause(&mut self, topic: Topic, partition: i32) {
        self.command(Command::Pause { lane: (topic, partition), paused: true });
    }

    fn resume(&mut self, topic: Topic, partition: i32) {
        self.command(Command::Pause { lane: (topic, partition), paused: false });
    }

    fn committer(&self) -> Arc<dyn Committer> {
        Arc::clone(&self.committer) as Arc<dyn Committer>
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.upgrade() {
            slot.closing();
        }
        self.shared.state().ownership.leave();
        self.command(Command::Close);
    }
}
