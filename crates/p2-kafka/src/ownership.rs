//! Who owns which partition, as a value without IO.
//!
//! The broker checks a member and its generation, never who owns a partition. So this is checked here, in one
//! critical section with the rebalance callbacks: every assignment is a *tenure*, and a commit is let through
//! only while the tenure that the member was told of is the one that it has.

use std::collections::BTreeMap;

use p2_core::record::Topic;
use p2_stream::groups::METADATA_BYTES_MAX;
use p2_stream::ports::{CommitError, CommittedOffset};

#[cfg(test)]
mod tests;

/// A partition of a topic.
pub(crate) type Lane = (Topic, i32);

/// One assignment of one partition; never used twice.
pub(crate) type Tenure = u64;

/// What the member was told of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) tenure: Tenure,
    /// Counts seeks: what was read for an earlier one is not delivered any more.
    pub(crate) seek: u64,
}

/// What a member held when it asked for a commit.
pub(crate) type Ticket = BTreeMap<Lane, Tenure>;

/// The partitions of one member.
#[derive(Debug, Default)]
pub(crate) struct Ownership {
    last: Tenure,
    owned: BTreeMap<Lane, Tenure>,
    told: BTreeMap<Lane, Told>,
    has_left: bool,
}

impl Ownership {
    /// A partition is this member's from now on.
    pub(crate) fn assign(&mut self, lane: Lane) -> Tenure {
        self.last += 1;
        self.owned.insert(lane, self.last);
        self.last
    }

    /// A partition is no longer this member's.
    pub(crate) fn revoke(&mut self, lane: Lane) -> Option<Tenure> {
        self.owned.remove(&lane)
    }

    /// The member left its group, or will: it may not commit any more.
    pub(crate) fn leave(&mut self) {
        self.has_left = true;
        self.owned.clear();
    }

    pub(crate) fn tenure(&self, lane: Lane) -> Option<Tenure> {
        self.owned.get(&lane).copied()
    }

    /// The member takes notice of an assignment.
    pub(crate) fn tell_assigned(&mut self, lane: Lane, tenure: Tenure) {
        self.told.insert(lane, Told { tenure, seek: 0 });
    }

    /// The member takes notice of a loss.
    pub(crate) fn tell_revoked(&mut self, lane: Lane) {
        self.told.remove(&lane);
    }

    pub(crate) fn told(&self, lane: Lane) -> Option<Told> {
        self.told.get(&lane).copied()
    }

    /// Delivery of a partition starts anew. None where it was not assigned as far as the member was told.
    pub(crate) fn seek(&mut self, lane: Lane) -> Option<Told> {
        let told = self.told.get_mut(&lane)?;
        told.seek += 1;
        Some(*told)
    }

    /// What the member holds as far as it was told.
    pub(crate) fn ticket(&self) -> Ticket {
        self.told.iter().map(|(lane, told)| (*lane, told.tenure)).collect()
    }

    /// Whether progress of these partitions may be committed under this ticket.
    ///
    /// # Errors
    /// [`CommitError::Fenced`] where the member left or a partition is not its own in that tenure,
    /// [`CommitError::Aborted`] for metadata over the limit.
    pub(crate) fn check(
        &self,
        ticket: &Ticket,
        progress: &[(Topic, i32, CommittedOffset)],
    ) -> Result<(), CommitError> {
        if self.has_left {
            return Err(CommitError::Fenced("the member has left its group".to_owned()));
        }
        for (topic, partition, committed) in progress {
            let lane = (*topic, *partition);
            let held = ticket.get(&lane);
            if held.is_none() || held != self.owned.get(&lane) {
                return Err(CommitError::Fenced(format!(
                    "{} partition {partition} is not this member's",
                    topic.name()
                )));
            }
            if committed.metadata.len() > METADATA_BYTES_MAX {
                return Err(CommitError::Aborted(format!(
                    "metadata of {} partition {partition} has {} bytes, at most {METADATA_BYTES_MAX} are allowed",
                    topic.name(),
                    committed.metadata.len()
                )));
            }
        }
        Ok(())
    }
}
