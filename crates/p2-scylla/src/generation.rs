//! Whose view it is, and which generation of it is read: the few conditional writes.
//!
//! A rebuild asks for a number, fills the generation of that number while the old one is read, switches, and
//! drops the old one. A conditional write that gets no answer is not repeated: what it was to bring about is
//! read, and that decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use p2_stream::ports::StoreError;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use scylla::value::Row;

use crate::cell;
use crate::error::failed;
use crate::options::LogIdentity;
use crate::schema::was_applied;
use crate::session::Connected;
use crate::store::{CqlStore, Inner, Role, Statements, View};

/// Rows of the list of conversations are spread over so many CQL partitions for each partition of the log;
/// noted when the store is claimed, and what is noted counts.
const SHARDS: i32 = 8;
/// How long a handle goes on without asking which generation is current.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long after a handle was opened the claim may be unsynced on the nodes.
const CLAIM_SETTLES: Duration = Duration::from_secs(300);
/// Deletes of a dropped generation under way at a time.
const DROPS_MAX: usize = 16;

/// The row of `about`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) log: String,
    pub(crate) shards: i32,
    /// The generation that is read.
    pub(crate) generation: i32,
    /// The highest number that was given to one.
    pub(crate) newest: i32,
    /// Who was given it.
    pub(crate) builder: String,
}

/// Reads `about`. `settled` also finishes a conditional write that is under way, and so sees its outcome.
async fn about(
    connected: &Connected,
    statements: &Statements,
    settled: bool,
) -> Result<Option<About>, StoreError> {
    let mut statement = statements.about.clone();
    if settled {
        // A read at a serial level is how CQL spells it.
        statement.set_consistency(Consistency::LocalSerial);
        statement.set_execution_profile_handle(Some(connected.profiles.conditional.clone()));
    }
    let failed = |error: &(dyn std::error::Error + 'static)| failed(error, &connected.nodes);
    let found = connected.session.execute_unpaged(&statement, ()).await.map_err(|error| failed(&error))?;
    let found = found.into_rows_result().map_err(|error| failed(&error))?;
    let row = found.maybe_first_row::<(String, i32, i32, i32, String)>().map_err(|error| failed(&error))?;
    Ok(row.map(|(log, shards, generation, newest, builder)| About {
        log,
        shards,
        generation,
        newest,
        builder,
    }))
}

/// A conditional write: whether it was applied; none where there was no answer.
async fn conditional(
    connected: &Connected,
    statement: &PreparedStatement,
    values: impl SerializeRow,
) -> Result<Option<bool>, StoreError> {
    let mut statement = statement.clone();
    statement.set_serial_consistency(Some(SerialConsistency::LocalSerial));
    let answer = match connected.session.execute_unpaged(&statement, values).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(reason = %failed(&error, &connected.nodes), "a conditional write had no answer: reading again");
            return Ok(None);
        }
    };
    let rows = answer.into_rows_result().map_err(|error| failed(&error, &connected.nodes))?;
    let row = rows.first_row::<Row>().map_err(|error| failed(&error, &connected.nodes))?;
    Ok(Some(was_applied(&row.columns)))
}

fn foreign(found: &str, log: &LogIdentity) -> StoreError {
    StoreError::Foreign(format!(
        "the store belongs to log {found}, this is log {log}: choose another keyspace, or the right brokers"
    ))
}

fn unsettled(what: &str) -> StoreError {
    StoreError::Unavailable(format!("whether {what} is not known yet: try again"))
}

/// Takes the store for a log where nobody has it.
pub(crate) async fn claim(
    connected: &Connected,
    statements: &Statements,
    log: &LogIdentity,
) -> Result<About, StoreError> {
    let mut found = about(connected, statements, false).await?;
    if found.is_none() {
        conditional(connected, &statements.claim, (log.to_string(), SHARDS, 1, 1)).await?;
        found = about(connected, statements, true).await?;
    }
    match found {
        Some(about) if about.log == log.to_string() => Ok(about),
        Some(about) => Err(foreign(&about.log, log)),
        None => Err(unsettled("the store was claimed")),
    }
}

impl Inner {
    async fn about(&self, settled: bool) -> Result<About, StoreError> {
        let mut found = about(&self.connected, &self.statements, settled).await?;
        if found.is_none() && self.may_have_lost_claim() {
            let generation = self.view().generation;
            let values = (self.log.to_string(), self.shards, generation, generation);
            conditional(&self.connected, &self.statements.claim, values).await?;
            found = about(&self.connected, &self.statements, true).await?;
        }
        match found {
            Some(about) if about.log == self.log.to_string() => Ok(about),
            Some(about) => Err(foreign(&about.log, &self.log)),
            None => {
                Err(StoreError::Foreign("the store was emptied by somebody else: start again".to_owned()))
            }
        }
    }

    /// A node that goes down right after the store was claimed may lose the claim like any other write. Later, a
    /// claim that is missing was removed, and the rows with it.
    fn may_have_lost_claim(&self) -> bool {
        self.view().role != Role::Builder
            && self.connected.losses.count() > 0
            && self.opened.elapsed() < CLAIM_SETTLES
    }

    /// The generation to read: a reader's follows the current one.
    pub(crate) async fn reading(&self) -> Result<i32, StoreError> {
        self.settle().await?;
        let view = self.view();
        if view.role == Role::Builder || view.checked.elapsed() < CHECK_EVERY {
            return Ok(view.generation);
        }
        let current = self.about(false).await?.generation;
        if current == view.generation {
            self.set_view(View { checked: Instant::now(), ..self.view() });
            return Ok(current);
        }
        if view.role == Role::Owner {
            return Err(StoreError::Rebuilt(format!(
                "the view was rebuilt: generation {current} is read now, this process writes {}",
                view.generation
            )));
        }
        self.clear_heads();
        self.set_view(View { generation: current, role: Role::Reader, checked: Instant::now() });
        Ok(current)
    }

    /// The generation to write; from now on the handle stays with it, until [`Inner::follow`].
    ///
    /// That another one became current is noticed within [`CHECK_EVERY`], and [`StoreError::Rebuilt`] says so. What is written meanwhile goes into
    /// the old generation, which harms nobody: the new one has an applied offset of its own.
    pub(crate) async fn writing(&self) -> Result<i32, StoreError> {
        let generation = self.reading().await?;
        let view = self.view();
        if view.role == Role::Reader {
            self.set_view(View { generation, role: Role::Owner, ..view });
        }
        Ok(generation)
    }

    /// Goes over to the current generation. What was kept of the old one is forgotten: it is read no more.
    pub(crate) async fn follow(&self) -> Result<(), StoreError> {
        let view = self.view();
        if view.role == Role::Builder {
            return Ok(());
        }
        let current = self.about(true).await?.generation;
        if current != view.generation {
            self.clear_heads();
            self.forget_recent();
        }
        self.set_view(View { generation: current, role: view.role, checked: Instant::now() });
        Ok(())
    }

    /// A name that no other asker has.
    fn builder(&self) -> String {
        static ASKED: AtomicU64 = AtomicU64::new(0);
        format!("{}-{}", self.connected.session.session_id(), ASKED.fetch_add(1, Ordering::Relaxed))
    }
}

impl CqlStore {
    /// A handle on a new, empty generation that nobody reads yet: write everything to it, then
    /// [`switch`](CqlStore::switch).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where somebody else began one at the same moment, or the store is away.
    pub async fn begin_rebuild(&self) -> Result<CqlStore, StoreError> {
        let inner = &self.inner;
        let before = inner.about(true).await?;
        let (number, builder) = (before.newest + 1, inner.builder());
        let values = (number, builder.as_str(), before.newest);
        if conditional(&inner.connected, &inner.statements.number, values).await? != Some(true) {
            let after = inner.about(true).await?;
            if after.newest == before.newest {
                return Err(unsettled("a rebuild was begun"));
            }
            if after.newest != number || after.builder != builder {
                return Err(StoreError::Unavailable(
                    "somebody else began a rebuild at the same moment: try again".to_owned(),
                ));
            }
        }
        let view = View { generation: number, role: Role::Builder, checked: Instant::now() };
        Ok(self.with_view(view))
    }

    /// Makes another handle's generation the one that is read. This handle follows at once, readers elsewhere
    /// within a second; who writes the old one is refused within a second.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] where another generation was switched to meanwhile; `Unavailable` where it is not
    /// known: repeat it.
    pub async fn switch(&self, to: &CqlStore) -> Result<(), StoreError> {
        let inner = &self.inner;
        let next = to.generation();
        let current = inner.about(true).await?.generation;
        if current > next {
            return Err(StoreError::Foreign(format!(
                "generation {current} is read already, {next} is older: rebuild again"
            )));
        }
        if current != next
            && conditional(&inner.connected, &inner.statements.switch, (next, current)).await? != Some(true)
            && inner.about(true).await?.generation != next
        {
            return Err(unsettled("the new generation is read"));
        }
        inner.clear_heads();
        inner.set_view(View { generation: next, role: inner.view().role, checked: Instant::now() });
        inner.set_switched();
        to.inner.set_view(View { generation: next, role: Role::Owner, checked: Instant::now() });
        Ok(())
    }

    /// Removes every row of a generation that is no longer read, once nobody can be reading it: handles elsewhere
    /// ask every second which one is current, and a request may take a while, so that this waits for some seconds
    /// after the switch. Safe to repeat; an interrupted one is finished by the next.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] where it is the one that is read.
    pub async fn drop_generation(&self, generation: i32) -> Result<(), StoreError> {
        self.check_unread(generation).await?;
        let since = self.inner.switched().map_or(Duration::ZERO, |at| at.elapsed());
        let left = (CHECK_EVERY * 2 + self.inner.connected.request_timeout).saturating_sub(since);
        tokio::time::sleep(left).await;
        self.drop_now(generation).await
    }

    async fn check_unread(&self, generation: i32) -> Result<(), StoreError> {
        if self.inner.about(true).await?.generation == generation {
            return Err(StoreError::Foreign(format!(
                "generation {generation} is the one that is read: keep it"
            )));
        }
        Ok(())
    }

    /// Drops it while others may still read it.
    pub(crate) async fn drop_now(&self, generation: i32) -> Result<(), StoreError> {
        self.check_unread(generation).await?;
        let inner = &self.inner;
        for partition in inner.partitions(generation).await? {
            for shard in 0..inner.shards {
                inner.drop_shard(generation, partition, shard).await?;
            }
        }
        inner.execute(&inner.statements.drop_applied, (generation,)).await
    }

    /// A handle over the same connections.
    fn with_view(&self, view: View) -> CqlStore {
        CqlStore { inner: Arc::new(self.inner.sibling(view)) }
    }
}

impl Inner {
    /// Drops the conversations of a shard first, then the shard that names them.
    async fn drop_shard(&self, generation: i32, partition: i32, shard: i32) -> Result<(), StoreError> {
        let mut buckets = Vec::new();
        let values = (generation, partition, shard);
        self.each::<(String, Vec<u8>)>(&self.statements.heads, &values, |(conversation, cell)| {
            let starts = cell::head(&cell)?.starts.len();
            let newest = i32::try_from(starts).unwrap_or(i32::MAX);
            buckets.extend((0..=newest).map(|bucket| (conversation.clone(), bucket)));
            Ok(())
        })
        .await?;
        stream::iter(buckets)
            .map(async |(conversation, bucket)| {
                self.execute(&self.statements.drop_bucket, (generation, conversation, bucket)).await
            })
            .buffer_unordered(DROPS_MAX)
            .try_collect::<()>()
            .await?;
        self.execute(&self.statements.drop_shard, values).await
    }
}
