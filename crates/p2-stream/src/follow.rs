//! Following a log whose groups live in this process: a member of a group that nobody else is in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use p2_core::record::Topic;

use crate::groups::Lane;
use crate::ports::{Follower, Log, LogError, Member, MemberEvent, StoredRecord};

/// Makes the names of the groups different.
static FOLLOWERS: AtomicU64 = AtomicU64::new(0);

/// [`Log::follow`] for a log whose groups cost nothing and end with the process.
///
/// # Errors
/// [`LogError::NotFound`] for a partition that is not there.
pub async fn follow_as_member(
    log: &dyn Log,
    from: Vec<(Topic, i32, i64)>,
) -> Result<Box<dyn Follower>, LogError> {
    let number = FOLLOWERS.fetch_add(1, Ordering::Relaxed);
    let mut starts = BTreeMap::new();
    for (topic, partition, offset) in from {
        log.bounds(topic, partition).await?;
        starts.insert((topic, partition), offset);
    }
    let topics: BTreeSet<Topic> = starts.keys().map(|(topic, _)| *topic).collect();
    let topics: Vec<Topic> = topics.into_iter().collect();
    let member = log.join(&format!("p2.follow-{number}"), &topics).await?;
    Ok(Box::new(MemberFollower { member, starts }))
}

struct MemberFollower {
    member: Box<dyn Member>,
    starts: BTreeMap<Lane, i64>,
}

#[async_trait]
impl Follower for MemberFollower {
    async fn next(&mut self) -> Result<Vec<StoredRecord>, LogError> {
        loop {
            match self.member.next().await? {
                MemberEvent::Assigned { topic, partition, .. } => {
                    if let Some(offset) = self.starts.get(&(topic, partition)) {
                        self.member.seek(topic, partition, *offset).await?;
                    }
                }
                MemberEvent::Records { records, .. } => return Ok(records),
                MemberEvent::Truncated { topic, partition, start } => {
                    let from = self.starts.get(&(topic, partition)).copied().unwrap_or(0);
                    return Err(LogError::before_start(topic, partition, from, start));
                }
                MemberEvent::Revoked { .. } => {}
            }
        }
    }
}
