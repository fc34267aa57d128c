//! Consumer groups of one process, as a value without IO: who owns which partition, what was committed, and
//! what each member is still to be told. The in-memory log and the embedded log share it.
//!
//! The owner of this value serialises its changes with its commits, so that no partition changes hands while
//! a commit for it is under way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use p2_core::record::Topic;
use tokio::sync::Notify;

use crate::ports::{CommitError, CommittedOffset, LogError, MemberEvent};

/// A partition of a topic.
pub type Lane = (Topic, i32);

/// Most bytes of the metadata of a committed offset: Kafka's default limit.
pub const METADATA_BYTES_MAX: usize = 4_096;

/// What a member held when it asked for a commit: partition → tenure. A partition that was taken away and
/// given back since has another tenure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ticket(BTreeMap<Lane, i64>);

/// All groups and members.
#[derive(Debug, Default)]
pub struct Groups {
    groups: BTreeMap<String, Group>,
    members: BTreeMap<u64, MemberState>,
    last_member: u64,
}

#[derive(Debug, Default)]
struct Group {
    generation: i64,
    members: Vec<u64>,
    /// Partition → (member, tenure: the generation in which it got it).
    owners: BTreeMap<Lane, (u64, i64)>,
    committed: BTreeMap<Lane, CommittedOffset>,
}

#[derive(Debug)]
struct MemberState {
    group: String,
    topics: Vec<Topic>,
    /// What it is still to be told, with the tenure of an assignment.
    events: VecDeque<(MemberEvent, i64)>,
    /// What it was told.
    cursors: BTreeMap<Lane, Cursor>,
    /// The partition that was served last: the next one goes first.
    served: Option<Lane>,
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct Cursor {
    tenure: i64,
    /// The next offset to deliver; none before the first seek.
    next: Option<i64>,
    paused: bool,
}

impl Groups {
    /// Adds a member and shares the partitions out anew. `partitions` says how many a topic has.
    pub fn join(
        &mut self,
        group: &str,
        topics: &[Topic],
        partitions: impl Fn(Topic) -> i32,
    ) -> (u64, Arc<Notify>) {
        self.last_member += 1;
        let id = self.last_member;
        let wake = Arc::new(Notify::new());
        self.members.insert(
            id,
            MemberState {
                group: group.to_owned(),
                topics: topics.to_vec(),
                events: VecDeque::new(),
                cursors: BTreeMap::new(),
                served: None,
                wake: Arc::clone(&wake),
            },
        );
        self.groups.entry(group.to_owned()).or_default().members.push(id);
        self.share_out(group, partitions);
        (id, wake)
    }

    /// Removes a member and gives its partitions to the others. Unknown members are ignored.
    pub fn leave(&mut self, member: u64, partitions: impl Fn(Topic) -> i32) {
        let Some(state) = self.members.remove(&member) else { return };
        if let Some(group) = self.groups.get_mut(&state.group) {
            group.members.retain(|other| *other != member);
        }
        self.share_out(&state.group, partitions);
    }

    /// Partition p of a topic goes to the p-th (modulo their number) of its members in order of joining.
    fn share_out(&mut self, name: &str, partitions: impl Fn(Topic) -> i32) {
        let Some(group) = self.groups.get_mut(name) else { return };
        group.generation += 1;
        let mut wanted: BTreeMap<Lane, u64> = BTreeMap::new();
        for topic in Topic::ALL {
            let takers: Vec<u64> = group
                .members
                .iter()
                .copied()
                .filter(|id| self.members.get(id).is_some_and(|state| state.topics.contains(&topic)))
                .collect();
            if takers.is_empty() {
                continue;
            }
            let lanes = (0..partitions(topic)).map(|partition| (topic, partition));
            wanted.extend(lanes.zip(takers.iter().copied().cycle()));
        }
        let mut owners = BTreeMap::new();
        for (lane, (member, tenure)) in &group.owners {
            if wanted.get(lane) == Some(member) {
                owners.insert(*lane, (*member, *tenure));
            } else if let Some(state) = self.members.get_mut(member) {
                let event = MemberEvent::Revoked { topic: lane.0, partition: lane.1 };
                state.events.push_back((event, *tenure));
            }
        }
        for (lane, member) in wanted {
            if owners.contains_key(&lane) {
                continue;
            }
            owners.insert(lane, (member, group.generation));
            if let Some(state) = self.members.get_mut(&member) {
                let committed = group.committed.get(&lane).cloned();
                let event = MemberEvent::Assigned { topic: lane.0, partition: lane.1, committed };
                state.events.push_back((event, group.generation));
            }
        }
        group.owners = owners;
        for id in &group.members {
            if let Some(state) = self.members.get(id) {
                state.wake.notify_one();
            }
        }
    }

    /// Takes the next assignment or revocation that a member is to be told.
    pub fn take_event(&mut self, member: u64) -> Option<MemberEvent> {
        let state = self.members.get_mut(&member)?;
        let (event, tenure) = state.events.pop_front()?;
        match &event {
            MemberEvent::Assigned { topic, partition, .. } => {
                let cursor = Cursor { tenure, next: None, paused: false };
                state.cursors.insert((*topic, *partition), cursor);
            }
            MemberEvent::Revoked { topic, partition } => {
                state.cursors.remove(&(*topic, *partition));
            }
            MemberEvent::Records { .. } | MemberEvent::Truncated { .. } => {}
        }
        Some(event)
    }

    /// What the member holds now, as far as it was told: taken when it asks for a commit.
    pub fn ticket(&self, member: u64) -> Ticket {
        let cursors = self.members.get(&member).map(|state| &state.cursors);
        Ticket(cursors.into_iter().flatten().map(|(lane, cursor)| (*lane, cursor.tenure)).collect())
    }

    /// Whether a member may commit progress for these partitions. Returns its group.
    ///
    /// # Errors
    /// [`CommitError::Fenced`] where it left its group, or a partition is not its own or no longer in the
    /// tenure of its ticket; [`CommitError::Aborted`] for metadata over the limit.
    pub fn check(
        &self,
        member: u64,
        ticket: &Ticket,
        progress: &[(Topic, i32, CommittedOffset)],
    ) -> Result<&str, CommitError> {
        let state = self.members.get(&member);
        let Some(state) = state else {
            return Err(CommitError::Fenced("the member has left its group".to_owned()));
        };
        let group = self.groups.get(&state.group);
        for (topic, partition, committed) in progress {
            let lane = (*topic, *partition);
            let owner = group.and_then(|group| group.owners.get(&lane));
            let held = ticket.0.get(&lane).map(|tenure| (member, *tenure));
            if owner.is_none() || owner != held.as_ref() {
                let topic = topic.name();
                return Err(CommitError::Fenced(format!(
                    "{topic} partition {partition} is not this member's in group '{}'",
                    state.group
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
        Ok(&state.group)
    }

    /// The progress of a member's group in one partition.
    pub fn committed(&self, member: u64, lane: Lane) -> Option<CommittedOffset> {
        let group = self.groups.values().find(|group| group.members.contains(&member))?;
        group.committed.get(&lane).cloned()
    }

    /// Notes progress that is committed.
    pub fn note(&mut self, group: &str, progress: &[(Topic, i32, CommittedOffset)]) {
        if progress.is_empty() {
            return;
        }
        let group = self.groups.entry(group.to_owned()).or_default();
        for (topic, partition, committed) in progress {
            group.committed.insert((*topic, *partition), committed.clone());
        }
    }

    /// A partition that has records for this member, and the offset to read from. Partitions take turns.
    pub fn ready(&mut self, member: u64, end: impl Fn(Lane) -> i64) -> Option<(Lane, i64)> {
        let state = self.members.get_mut(&member)?;
        let waiting = |(lane, cursor): (&Lane, &Cursor)| {
            let next = cursor.next.filter(|next| !cursor.paused && *next < end(*lane))?;
            Some((*lane, next))
        };
        let after = state.cursors.iter().filter(|(lane, _)| Some(**lane) > state.served);
        let found = after.chain(state.cursors.iter()).find_map(waiting)?;
        state.served = Some(found.0);
        Some(found)
    }

    /// The log begins above what was to be delivered next: nothing more until the next seek.
    pub fn truncated(&mut self, member: u64, lane: Lane) {
        if let Some(cursor) = self.cursor(member, lane) {
            cursor.next = None;
        }
    }

    /// The lowest offset below which every group that consumes a partition is done: none where no group has
    /// progress there.
    pub fn lowest_progress(&self, lane: Lane) -> Option<i64> {
        let committed = self.groups.values().filter_map(|group| group.committed.get(&lane));
        committed.map(|committed| committed.offset).min()
    }

    /// Notes that everything below `next` was handed to the member.
    pub fn delivered(&mut self, member: u64, lane: Lane, next: i64) {
        if let Some(cursor) = self.cursor(member, lane) {
            cursor.next = Some(next);
        }
    }

    /// Starts delivery of an assigned partition at an offset.
    ///
    /// # Errors
    /// [`LogError::NotFound`] where the partition is not this member's, as far as it was told.
    pub fn seek(&mut self, member: u64, lane: Lane, offset: i64) -> Result<(), LogError> {
        let Some(cursor) = self.cursor(member, lane) else {
            return Err(LogError::NotFound(format!(
                "{} partition {} is not assigned to this member: seek after its Assigned event",
                lane.0.name(),
                lane.1
            )));
        };
        cursor.next = Some(offset.max(0));
        self.wake(member);
        Ok(())
    }

    /// Stops or goes on with delivery of a partition. Partitions that are not the member's are ignored.
    pub fn pause(&mut self, member: u64, lane: Lane, paused: bool) {
        if let Some(cursor) = self.cursor(member, lane) {
            cursor.paused = paused;
            self.wake(member);
        }
    }

    /// Wakes every member: there are new records.
    pub fn wake_all(&self) {
        for state in self.members.values() {
            state.wake.notify_one();
        }
    }

    fn wake(&self, member: u64) {
        if let Some(state) = self.members.get(&member) {
            state.wake.notify_one();
        }
    }

    fn cursor(&mut self, member: u64, lane: Lane) -> Option<&mut Cursor> {
        self.members.get_mut(&member)?.cursors.get_mut(&lane)
    }
}
