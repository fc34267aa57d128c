//! The handle: a session, its prepared statements, and the generation that it reads and writes.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures::future::try_join_all;
use p2_core::ids::{AgentId, BranchId, ConversationId};
use p2_core::record::StateTransition;
use p2_core::state::Entry;
use p2_stream::ports::{ConversationSummary, StackStore, StoreError};
use scylla::client::execution_profile::ExecutionProfileHandle;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::PagingState;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;

use crate::applied::Gathering;
use crate::cache::Cache;
use crate::error::{OpenError, failed};
use crate::flavour::Flavour;
use crate::head::Head;
use crate::loss::{Acknowledged, Recent};
use crate::options::{LogIdentity, Options};
use crate::schema;
use crate::session::{Connected, connect};
use crate::statements::Texts;

/// Heads kept in memory, at least; a head is some hundred bytes.
const HEADS_MAX: usize = 20_000;
/// Rows asked for at a time. A bucket has some megabytes at most, so a page has too.
const PAGE_ROWS: i32 = 500;

/// The [`StackStore`] on CQL. Clones are handles of the same store, over the same connections.
///
/// A handle follows the generation that is current, until it writes: from then on it stays with the one it
/// writes, and fails with [`StoreError::Rebuilt`] once another one is current, until [`StackStore::follow`]. One
/// processor writes through a handle and its clones.
#[derive(Clone, Debug)]
pub struct CqlStore {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) connected: Connected,
    pub(crate) statements: Arc<Statements>,
    pub(crate) log: LogIdentity,
    pub(crate) shards: i32,
    pub(crate) opened: Instant,
    view: Mutex<View>,
    heads: Mutex<Cache<(i32, ConversationId), Head>>,
    announced: Mutex<BTreeSet<(i32, i32)>>,
    pub(crate) applied: Gathering,
    recent: Mutex<Recent>,
    /// When another generation was last switched to through this handle.
    switched: Mutex<Option<Instant>>,
    /// The losses up to which everything recent was written again.
    settled: tokio::sync::Mutex<u64>,
}

/// Which generation a handle works on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) generation: i32,
    pub(crate) role: Role,
    pub(crate) checked: Instant,
}

/// What a handle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It has only read so far: it follows the current generation.
    Reader,
    /// It writes the generation that was current when it began.
    Owner,
    /// It fills a generation that nobody reads yet.
    Builder,
}

/// Prepared forms of [`Texts`].
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) write_transition: PreparedStatement,
    pub(crate) write_newest: PreparedStatement,
    pub(crate) write_head: PreparedStatement,
    pub(crate) write_applied: PreparedStatement,
    pub(crate) load: PreparedStatement,
    pub(crate) newest: PreparedStatement,
    pub(crate) tail: PreparedStatement,
    pub(crate) head: PreparedStatement,
    pub(crate) heads: PreparedStatement,
    pub(crate) list_first: PreparedStatement,
    pub(crate) list_after: PreparedStatement,
    pub(crate) applied: PreparedStatement,
    pub(crate) partitions: PreparedStatement,
    pub(crate) about: PreparedStatement,
    pub(crate) claim: PreparedStatement,
    pub(crate) number: PreparedStatement,
    pub(crate) switch: PreparedStatement,
    pub(crate) drop_bucket: PreparedStatement,
    pub(crate) drop_shard: PreparedStatement,
    pub(crate) drop_applied: PreparedStatement,
}

impl Statements {
    async fn prepare(connected: &Connected, texts: &Texts) -> Result<Statements, StoreError> {
        let profiles = &connected.profiles;
        let one = async |text: &String, profile: &ExecutionProfileHandle, idempotent: bool| {
            let prepared = connected.session.prepare(text.as_str()).await;
            let mut prepared = prepared.map_err(|error| failed(&error, &connected.nodes))?;
            prepared.set_execution_profile_handle(Some(profile.clone()));
            prepared.set_is_idempotent(idempotent);
            prepared.set_page_size(PAGE_ROWS);
            Ok::<_, StoreError>(prepared)
        };
        let read = async |text: &String| one(text, &profiles.read, true).await;
        let write = async |text: &String| one(text, &profiles.write, true).await;
        let conditional = async |text: &String| one(text, &profiles.conditional, false).await;
        Ok(Statements {
            write_transition: write(&texts.write_transition).await?,
            write_newest: write(&texts.write_newest).await?,
            write_head: write(&texts.write_head).await?,
            write_applied: write(&texts.write_applied).await?,
            load: read(&texts.load).await?,
            newest: read(&texts.newest).await?,
            tail: read(&texts.tail).await?,
            head: read(&texts.head).await?,
            heads: read(&texts.heads).await?,
            list_first: read(&texts.list_first).await?,
            list_after: read(&texts.list_after).await?,
            applied: read(&texts.applied).await?,
            partitions: read(&texts.partitions).await?,
            about: read(&texts.about).await?,
            claim: conditional(&texts.claim).await?,
            number: conditional(&texts.number).await?,
            switch: conditional(&texts.switch).await?,
            drop_bucket: write(&texts.drop_bucket).await?,
            drop_shard: write(&texts.drop_shard).await?,
            drop_applied: write(&texts.drop_applied).await?,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CqlStore {
    /// Connects, compares the tables with this program, and takes the store for this log where nobody has it.
    ///
    /// # Errors
    /// [`OpenError`]: the store is not there, refuses the login, has other tables, or belongs to another log.
    pub async fn open(options: &Options, log: &LogIdentity) -> Result<CqlStore, OpenError> {
        let connected = connect(options).await?;
        let state = schema::state(&connected, &options.keyspace).await?;
        if let Some(complaint) = state.complaint(&options.keyspace) {
            return Err(OpenError::Schema(complaint));
        }
        let texts = Texts::new(&options.keyspace, connected.flavour);
        let statements = Statements::prepare(&connected, &texts).await?;
        let about = crate::generation::claim(&connected, &statements, log).await?;
        let view = View { generation: about.generation, role: Role::Reader, checked: Instant::now() };
        connected.losses.watch(&connected.session);
        let inner = Inner::new(connected, Arc::new(statements), log.clone(), about.shards, view);
        Ok(CqlStore { inner: Arc::new(inner) })
    }

    /// The generation that this handle reads and writes.
    pub fn generation(&self) -> i32 {
        self.inner.view().generation
    }

    /// What the server was found or said to be.
    pub fn flavour(&self) -> Flavour {
        self.inner.connected.flavour
    }
}

impl Inner {
    /// The same store with another view: the connections and prepared statements are shared, the heads not.
    pub(crate) fn sibling(&self, view: View) -> Inner {
        let (connected, statements) = (self.connected.clone(), Arc::clone(&self.statements));
        Inner::new(connected, statements, self.log.clone(), self.shards, view)
    }

    fn new(
        connected: Connected,
        statements: Arc<Statements>,
        log: LogIdentity,
        shards: i32,
        view: View,
    ) -> Inner {
        let settled = tokio::sync::Mutex::new(connected.losses.count());
        Inner {
            connected,
            statements,
            log,
            shards,
            opened: Instant::now(),
            view: Mutex::new(view),
            heads: Mutex::new(Cache::new(HEADS_MAX)),
            announced: Mutex::default(),
            applied: Gathering::default(),
            recent: Mutex::default(),
            switched: Mutex::default(),
            settled,
        }
    }

    pub(crate) fn keep(&self, write: Acknowledged) {
        lock(&self.recent).push(Instant::now(), write);
    }

    /// Writes again what a node may have lost, where one went away since the last time.
    ///
    /// # Errors
    /// Where the store is still away: then the caller's request waits with it, since reading rows that are about
    /// to be written again would show a conversation with holes.
    pub(crate) async fn settle(&self) -> Result<(), StoreError> {
        let mut settled = self.settled.lock().await;
        let losses = self.connected.losses.count();
        if *settled == losses {
            return Ok(());
        }
        let (recent, whole) = {
            let recent = lock(&self.recent);
            (recent.all(), recent.is_whole(Instant::now()))
        };
        if !whole {
            tracing::warn!(
                "a CQL node was away, and more was written lately than is kept here: compare the view with the log"
            );
        }
        if !recent.is_empty() {
            tracing::info!(writes = recent.len(), "a CQL node was away: writing again what it may have lost");
        }
        for write in recent {
            self.put(write.generation, write.partition, &write.transitions, write.applied).await?;
        }
        *settled = losses;
        Ok(())
    }

    pub(crate) fn view(&self) -> View {
        *lock(&self.view)
    }

    pub(crate) fn set_view(&self, view: View) {
        *lock(&self.view) = view;
    }

    pub(crate) fn cached_head(&self, generation: i32, conversation: &ConversationId) -> Option<Head> {
        lock(&self.heads).get(&(generation, conversation.clone()))
    }

    pub(crate) fn cache_head(&self, generation: i32, conversation: ConversationId, head: Head) {
        lock(&self.heads).put((generation, conversation), head);
    }

    pub(crate) fn clear_heads(&self) {
        lock(&self.heads).clear();
    }

    pub(crate) fn forget_recent(&self) {
        *lock(&self.recent) = Recent::default();
    }

    pub(crate) fn switched(&self) -> Option<Instant> {
        *lock(&self.switched)
    }

    pub(crate) fn set_switched(&self) {
        *lock(&self.switched) = Some(Instant::now());
    }

    pub(crate) fn is_announced(&self, generation: i32, partition: i32) -> bool {
        lock(&self.announced).contains(&(generation, partition))
    }

    pub(crate) fn set_announced(&self, generation: i32, partition: i32) {
        lock(&self.announced).insert((generation, partition));
    }

    pub(crate) fn failed(&self, error: &(dyn Error + 'static)) -> StoreError {
        failed(error, &self.connected.nodes)
    }

    /// Runs a write.
    pub(crate) async fn execute(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(), StoreError> {
        let done = self.connected.session.execute_unpaged(statement, values).await;
        done.map(|_| ()).map_err(|error| self.failed(&error))
    }

    /// Runs a read: every row, page by page, through `take`.
    pub(crate) async fn each<R>(
        &self,
        statement: &PreparedStatement,
        values: &impl SerializeRow,
        mut take: impl FnMut(R) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let mut paging = PagingState::start();
        loop {
            let session = &self.connected.session;
            let page = session.execute_single_page(statement, values, paging).await;
            let (result, next) = page.map_err(|error| self.failed(&error))?;
            let result = result.into_rows_result().map_err(|error| self.failed(&error))?;
            for row in result.rows::<R>().map_err(|error| self.failed(&error))? {
                take(row.map_err(|error| self.failed(&error))?)?;
            }
            match next.into_paging_control_flow() {
                std::ops::ControlFlow::Break(()) => return Ok(()),
                std::ops::ControlFlow::Continue(state) => paging = state,
            }
        }
    }

    /// Runs a read: every row.
    pub(crate) async fn rows<R>(
        &self,
        statement: &PreparedStatement,
        values: &impl SerializeRow,
    ) -> Result<Vec<R>, StoreError>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let mut found = Vec::new();
        self.each(statement, values, |row| {
            found.push(row);
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// The log partitions that have rows in a generation.
    pub(crate) async fn partitions(&self, generation: i32) -> Result<Vec<i32>, StoreError> {
        let rows = self.rows::<(i32,)>(&self.statements.partitions, &(generation,)).await?;
        Ok(rows.into_iter().map(|(partition,)| partition).collect())
    }
}

#[async_trait]
impl StackStore for CqlStore {
    async fn write(
        &self,
        partition: i32,
        transitions: Vec<(i64, StateTransition)>,
        applied: i64,
    ) -> Result<(), StoreError> {
        let generation = self.inner.writing().await?;
        let transitions = Arc::new(transitions);
        let bytes = self.inner.put(generation, partition, &transitions, applied).await?;
        self.inner.keep(Acknowledged { generation, partition, transitions, applied, bytes });
        Ok(())
    }

    async fn applied(&self, partition: i32) -> Result<i64, StoreError> {
        let generation = self.inner.reading().await?;
        let rows =
            self.inner.rows::<(i64,)>(&self.inner.statements.applied, &(generation, partition)).await?;
        Ok(rows.first().map_or(0, |(applied,)| *applied))
    }

    async fn load(&self, conversation: &ConversationId) -> Result<Vec<StateTransition>, StoreError> {
        let generation = self.inner.reading().await?;
        self.inner.load(generation, conversation).await
    }

    async fn tail(
        &self,
        conversation: &ConversationId,
        agent: &AgentId,
        branch: &BranchId,
        before: i64,
        entries_max: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let generation = self.inner.reading().await?;
        let place = crate::read::Place { generation, conversation, agent, branch };
        self.inner.tail(&place, before, entries_max).await
    }

    async fn open(&self, partition: i32) -> Result<Vec<ConversationId>, StoreError> {
        let generation = self.inner.reading().await?;
        let shards =
            (0..self.inner.shards).map(|shard| self.inner.open_of_shard(generation, partition, shard));
        let mut found = try_join_all(shards).await?.concat();
        found.sort_unstable();
        Ok(found)
    }

    async fn list(
        &self,
        after: Option<&ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationSummary>, StoreError> {
        let generation = self.inner.reading().await?;
        self.inner.list(generation, after, max).await
    }

    async fn wipe(&self) -> Result<(), StoreError> {
        let old = self.inner.view().generation;
        let next = self.begin_rebuild().await?;
        self.switch(&next).await?;
        self.drop_now(old).await
    }

    async fn follow(&self) -> Result<(), StoreError> {
        self.inner.follow().await
    }
}
