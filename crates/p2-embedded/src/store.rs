//! The stack store: the view of `state-transitions`, in one redb file.
//!
//! Every write is one atomic commit of rows and applied offset. It is not synced on its own, since the log is
//! the truth: what a crash takes away is the newest commits, whole, and the applied offset with them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{Change, StateTransition};
use p2_core::state::{Entry, State};
use p2_stream::outage::SHUTTING_DOWN;
use p2_stream::ports::{ConversationSummary, StackStore, StoreError};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::cell;
use crate::keys::Key;

/// (conversation, seq) → transition.
const TRANSITIONS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("transitions");
/// (conversation, agent, branch, seq) → entry.
const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
/// Conversation id → [`Row`].
const CONVERSATIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("conversations");
/// (partition, conversation id) of those with open waits.
const OPEN: TableDefinition<'_, (i32, &str), ()> = TableDefinition::new("open");
/// Partition → offset after the last transition in the view.
const APPLIED: TableDefinition<'_, i32, i64> = TableDefinition::new("applied");
/// `log-id`, `version`.
const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");

const VERSION: &str = "1";
/// Every so many commits one is synced, which bounds what a crash takes away and frees old pages.
const SYNC_EVERY: u64 = 256;

/// What the view knows of a conversation beside its rows.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Row {
    root: AgentId,
    opened_ms: i64,
    changed_ms: i64,
    transitions: i64,
    waits: BTreeSet<Id>,
}

/// The embedded [`StackStore`]. Clones are handles of the same store.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    file: Arc<File>,
}

#[derive(Debug)]
struct File {
    database: Database,
    writes: AtomicU64,
}

impl Drop for File {
    fn drop(&mut self) {
        if let Err(error) = self.commit(Durability::Immediate, |_| Ok(())) {
            tracing::warn!(%error, "the views were not synced; the log has what is missing");
        }
    }
}

fn unavailable(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(what) => {
            StoreError::Corrupt(format!("the views are damaged: {what}: rebuild them"))
        }
        other => StoreError::Unavailable(format!("views: {other}")),
    }
}

impl File {
    fn commit(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_write().map_err(unavailable)?;
        transaction.set_durability(durability).map_err(unavailable)?;
        work(&transaction)?;
        transaction.commit().map_err(unavailable)
    }
}

impl EmbeddedStore {
    /// Opens or makes the views of a log.
    pub(crate) fn open(path: &Path, log_id: &str) -> Result<EmbeddedStore, StoreError> {
        let database = Database::create(path).map_err(unavailable)?;
        let file = File { database, writes: AtomicU64::new(0) };
        file.commit(Durability::Immediate, |transaction| {
            transaction.open_table(TRANSITIONS).map_err(unavailable)?;
            transaction.open_table(ENTRIES).map_err(unavailable)?;
            transaction.open_table(CONVERSATIONS).map_err(unavailable)?;
            transaction.open_table(OPEN).map_err(unavailable)?;
            transaction.open_table(APPLIED).map_err(unavailable)?;
            let mut about = transaction.open_table(ABOUT).map_err(unavailable)?;
            for (name, wanted) in [("log-id", log_id), ("version", VERSION)] {
                let found = about.get(name).map_err(unavailable)?.map(|value| value.value().to_owned());
                match found {
                    None => {
                        about.insert(name, wanted).map_err(unavailable)?;
                    }
                    Some(found) if found == wanted => {}
                    Some(found) => {
                        return Err(StoreError::Foreign(format!(
                            "the views have {name} {found}, the log has {wanted}: they belong to another log or program"
                        )));
                    }
                }
            }
            Ok(())
        })?;
        Ok(EmbeddedStore { file: Arc::new(file) })
    }

    /// Empties the views where they have more than the log: a power cut took unsynced records away. Returns
    /// whether it did.
    pub(crate) fn wipe_if_ahead(&self, end: impl Fn(i32) -> i64) -> Result<bool, StoreError> {
        let mut ahead = false;
        {
            let transaction = self.file.database.begin_read().map_err(unavailable)?;
            let table = transaction.open_table(APPLIED).map_err(unavailable)?;
            for row in table.iter().map_err(unavailable)? {
                let (partition, applied) = row.map_err(unavailable)?;
                ahead |= applied.value() > end(partition.value());
            }
        }
        if ahead {
            wipe(&self.file)?;
        }
        Ok(ahead)
    }

    /// Runs blocking work off the async threads.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || work(&file)).await.unwrap_or_else(|error| {
            let cut = if error.is_cancelled() { SHUTTING_DOWN.to_owned() } else { format!("views: {error}") };
            Err(StoreError::Unavailable(cut))
        })
    }
}

/// The tables that one write touches.
struct Tables<'t> {
    transitions: Table<'t, &'static [u8], &'static [u8]>,
    entries: Table<'t, &'static [u8], &'static [u8]>,
    conversations: Table<'t, &'static str, &'static [u8]>,
    open: Table<'t, (i32, &'static str), ()>,
}

impl Tables<'_> {
    /// Takes one transition in; one that is there already changes nothing.
    fn take(&mut self, partition: i32, transition: &StateTransition) -> Result<(), StoreError> {
        let conversation = transition.conversation.as_str();
        let key = Key::default().text(conversation).number(transition.seq).into_bytes();
        if self.transitions.get(key.as_slice()).map_err(unavailable)?.is_some() {
            return Ok(());
        }
        let bytes = cell::write(transition)?;
        self.transitions.insert(key.as_slice(), bytes.as_slice()).map_err(unavailable)?;
        let mut row = match self.conversations.get(conversation).map_err(unavailable)? {
            Some(found) => cell::read(found.value())?,
            None => Row { opened_ms: transition.time_ms, ..Row::default() },
        };
        row.transitions += 1;
        row.changed_ms = row.changed_ms.max(transition.time_ms);
        for change in &transition.changes {
            self.take_change(transition, change, &mut row)?;
        }
        let bytes = cell::write(&row)?;
        self.conversations.insert(conversation, bytes.as_slice()).map_err(unavailable)?;
        if row.waits.is_empty() {
            self.open.remove((partition, conversation)).map_err(unavailable)?;
        } else {
            self.open.insert((partition, conversation), ()).map_err(unavailable)?;
        }
        Ok(())
    }

    fn take_change(
        &mut self,
        of: &StateTransition,
        change: &Change,
        row: &mut Row,
    ) -> Result<(), StoreError> {
        match change {
            Change::Opened(opened) => {
                row.root = opened.root.clone();
                row.opened_ms = of.time_ms;
            }
            Change::Appended(appended) => {
                for entry in &appended.entries {
                    let key = entry_key(&of.conversation, &of.agent, &of.branch, entry.seq);
                    let bytes = cell::write(entry)?;
                    self.entries.insert(key.as_slice(), bytes.as_slice()).map_err(unavailable)?;
                    if let State::Waiting(waiting) = &entry.state {
                        row.waits.insert(waiting.id);
                    }
                }
            }
            Change::Closed(closed) => row.waits.retain(|wait| !closed.waits.contains(wait)),
            _ => {}
        }
        Ok(())
    }
}

fn entry_key(conversation: &ConversationId, agent: &AgentId, branch: &BranchId, seq: i64) -> Vec<u8> {
    let stack = Key::default().text(conversation.as_str()).text(agent.as_str()).text(branch.as_str());
    stack.number(seq).into_bytes()
}

fn summary(id: &str, row: Row) -> ConversationSummary {
    ConversationSummary {
        id: ConversationId::from(id),
        root: row.root,
        opened_ms: row.opened_ms,
        changed_ms: row.changed_ms,
        transitions: row.transitions,
        open_waits: row.waits.len() as i64,
    }
}

fn write(
    file: &File,
    partition: i32,
    transitions: &[(i64, StateTransition)],
    applied: i64,
) -> Result<(), StoreError> {
    let synced = file.writes.fetch_add(1, Ordering::Relaxed) % SYNC_EVERY == SYNC_EVERY - 1;
    let durability = if synced { Durability::Immediate } else { Durability::None };
    file.commit(durability, |transaction| {
        let mut tables = Tables {
            transitions: transaction.open_table(TRANSITIONS).map_err(unavailable)?,
            entries: transaction.open_table(ENTRIES).map_err(unavailable)?,
            conversations: transaction.open_table(CONVERSATIONS).map_err(unavailable)?,
            open: transaction.open_table(OPEN).map_err(unavailable)?,
        };
        for (_, transition) in transitions {
            tables.take(partition, transition)?;
        }
        let mut table = transaction.open_table(APPLIED).map_err(unavailable)?;
        let before = table.get(partition).map_err(unavailable)?.map_or(0, |offset| offset.value());
        table.insert(partition, applied.max(before)).map_err(unavailable)?;
        Ok(())
    })
}

fn wipe(file: &File) -> Result<(), StoreError> {
    file.commit(Durability::Immediate, |transaction| {
        for table in [TRANSITIONS, ENTRIES] {
            transaction.delete_table(table).map_err(unavailable)?;
            transaction.open_table(table).map_err(unavailable)?;
        }
        transaction.delete_table(CONVERSATIONS).map_err(unavailable)?;
        transaction.open_table(CONVERSATIONS).map_err(unavailable)?;
        transaction.delete_table(OPEN).map_err(unavailable)?;
        transaction.open_table(OPEN).map_err(unavailable)?;
        transaction.delete_table(APPLIED).map_err(unavailable)?;
        transaction.open_table(APPLIED).map_err(unavailable)?;
        Ok(())
    })
}

#[async_trait]
impl StackStore for EmbeddedStore {
    async fn write(
        &self,
        partition: i32,
        transitions: Vec<(i64, StateTransition)>,
        applied: i64,
    ) -> Result<(), StoreError> {
        self.run(move |file| write(file, partition, &transitions, applied)).await
    }

    async fn applied(&self, partition: i32) -> Result<i64, StoreError> {
        self.run(move |file| {
            let transaction = file.database.begin_read().map_err(unavailable)?;
            let table = transaction.open_table(APPLIED).map_err(unavailable)?;
            Ok(table.get(partition).map_err(unavailable)?.map_or(0, |offset| offset.value()))
        })
        .await
    }

    async fn load(&self, conversation: &ConversationId) -> Result<Vec<StateTransition>, StoreError> {
        let first = Key::default().text(conversation.as_str()).number(i64::MIN).into_bytes();
        let last = Key::default().text(conversation.as_str()).number(i64::MAX).into_bytes();
        self.run(move |file| {
            let transaction = file.database.begin_read().map_err(unavailable)?;
            let table = transaction.open_table(TRANSITIONS).map_err(unavailable)?;
            let rows = table.range(first.as_slice()..=last.as_slice()).map_err(unavailable)?;
            rows.map(|row| cell::read(row.map_err(unavailable)?.1.value())).collect()
        })
        .await
    }

    async fn tail(
        &self,
        conversation: &ConversationId,
        agent: &AgentId,
        branch: &BranchId,
        before: i64,
        entries_max: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let first = entry_key(conversation, agent, branch, i64::MIN);
        let end = entry_key(conversation, agent, branch, before);
        self.run(move |file| {
            let transaction = file.database.begin_read().map_err(unavailable)?;
            let table = transaction.open_table(ENTRIES).map_err(unavailable)?;
            let rows = table.range(first.as_slice()..end.as_slice()).map_err(unavailable)?;
            rows.rev().take(entries_max).map(|row| cell::read(row.map_err(unavailable)?.1.value())).collect()
        })
        .await
    }

    async fn open(&self, partition: i32) -> Result<Vec<ConversationId>, StoreError> {
        self.run(move |file| {
            let transaction = file.database.begin_read().map_err(unavailable)?;
            let table = transaction.open_table(OPEN).map_err(unavailable)?;
            let rows = table.range((partition, "")..).map_err(unavailable)?;
            let mut found = Vec::new();
            for row in rows {
                let (key, ()) = row.map(|(key, value)| (key, value.value())).map_err(unavailable)?;
                let (of, id) = key.value();
                if of != partition {
                    break;
                }
                found.push(ConversationId::from(id));
            }
            Ok(found)
        })
        .await
    }

    async fn list(
        &self,
        after: Option<&ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationSummary>, StoreError> {
        let after = after.map(|id| id.0.clone());
        self.run(move |file| {
            let transaction = file.database.begin_read().map_err(unavailable)?;
            let table = transaction.open_table(CONVERSATIONS).map_err(unavailable)?;
            let rows = match &after {
                Some(after) => {
                    let from = std::ops::Bound::Excluded(after.as_str());
                    table.range::<&str>((from, std::ops::Bound::Unbounded)).map_err(unavailable)?
                }
                None => table.range::<&str>(..).map_err(unavailable)?,
            };
            rows.take(max)
                .map(|row| {
                    let (key, value) = row.map_err(unavailable)?;
                    Ok(summary(key.value(), cell::read(value.value())?))
                })
                .collect()
        })
        .await
    }

    async fn wipe(&self) -> Result<(), StoreError> {
        self.run(wipe).await
    }
}
