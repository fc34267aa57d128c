//! The text of every statement, in one place, as a function of keyspace and flavour.

use crate::flavour::Flavour;

/// What is prepared once for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Texts {
    /// One transition.
    pub(crate) write_transition: String,
    /// The newest bucket of a conversation, noted in its bucket 0.
    pub(crate) write_newest: String,
    /// The head of a conversation.
    pub(crate) write_head: String,
    /// The applied offset of a partition.
    pub(crate) write_applied: String,
    /// One bucket of a conversation.
    pub(crate) load: String,
    /// The newest bucket of a conversation.
    pub(crate) newest: String,
    /// The newest transitions with entries of one branch below an entry, in one bucket.
    pub(crate) tail: String,
    /// The head of a conversation.
    pub(crate) head: String,
    /// Every head of one shard.
    pub(crate) heads: String,
    /// A page of heads of one shard, from its beginning.
    pub(crate) list_first: String,
    /// A page of heads of one shard, after a conversation.
    pub(crate) list_after: String,
    /// The applied offset of a partition.
    pub(crate) applied: String,
    /// The partitions of a generation.
    pub(crate) partitions: String,
    /// Whose view it is, and the generation that is read.
    pub(crate) about: String,
    /// Conditional: the first log that comes owns the store.
    pub(crate) claim: String,
    /// Conditional: a number for a new generation.
    pub(crate) number: String,
    /// Conditional: the generation that is read from now on.
    pub(crate) switch: String,
    /// Drops a bucket of an old generation.
    pub(crate) drop_bucket: String,
    /// Drops a shard of an old generation.
    pub(crate) drop_shard: String,
    /// Drops the applied offsets of an old generation.
    pub(crate) drop_applied: String,
}

impl Texts {
    pub(crate) fn new(keyspace: &str, flavour: Flavour) -> Texts {
        let k = keyspace;
        let scan = flavour.scan_options();
        let bucket = "generation = ? AND conversation = ? AND bucket = ?";
        let shard = "generation = ? AND log_partition = ? AND shard = ?";
        Texts {
            write_transition: format!(
                "INSERT INTO {k}.transitions (generation, conversation, bucket, kind, agent, branch, first, seq, cell) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
            ),
            write_newest: format!(
                "INSERT INTO {k}.transitions (generation, conversation, bucket, newest) VALUES (?, ?, 0, ?) \
                 USING TIMESTAMP ?"
            ),
            write_head: format!(
                "INSERT INTO {k}.conversations (generation, log_partition, shard, conversation, cell) \
                 VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?"
            ),
            write_applied: format!(
                "INSERT INTO {k}.applied (generation, log_partition, applied) VALUES (?, ?, ?) USING TIMESTAMP ?"
            ),
            load: format!("SELECT newest, cell FROM {k}.transitions WHERE {bucket}"),
            newest: format!(
                "SELECT newest FROM {k}.transitions WHERE generation = ? AND conversation = ? AND bucket = 0 LIMIT 1"
            ),
            tail: format!(
                "SELECT newest, cell FROM {k}.transitions WHERE {bucket} AND kind = 0 AND agent = ? AND branch = ? \
                 AND first < ? LIMIT ?"
            ),
            head: format!("SELECT cell FROM {k}.conversations WHERE {shard} AND conversation = ?"),
            heads: format!("SELECT conversation, cell FROM {k}.conversations WHERE {shard}{scan}"),
            list_first: format!("SELECT conversation, cell FROM {k}.conversations WHERE {shard} LIMIT ?"),
            list_after: format!(
                "SELECT conversation, cell FROM {k}.conversations WHERE {shard} AND conversation > ? LIMIT ?"
            ),
            applied: format!("SELECT applied FROM {k}.applied WHERE generation = ? AND log_partition = ?"),
            partitions: format!("SELECT log_partition FROM {k}.applied WHERE generation = ?"),
            about: format!(
                "SELECT log, shards, generation, newest, builder FROM {k}.about WHERE name = 'view'"
            ),
            claim: format!(
                "INSERT INTO {k}.about (name, log, shards, generation, newest, builder) \
                 VALUES ('view', ?, ?, ?, ?, '') IF NOT EXISTS"
            ),
            number: format!("UPDATE {k}.about SET newest = ?, builder = ? WHERE name = 'view' IF newest = ?"),
            switch: format!("UPDATE {k}.about SET generation = ? WHERE name = 'view' IF generation = ?"),
            drop_bucket: format!("DELETE FROM {k}.transitions WHERE {bucket}"),
            drop_shard: format!("DELETE FROM {k}.conversations WHERE {shard}"),
            drop_applied: format!("DELETE FROM {k}.applied WHERE generation = ?"),
        }
    }
}

/// The statements of one migration, in order. Each may be run again: a migration that was cut short is repeated.
pub(crate) fn migration(version: i32, keyspace: &str) -> Vec<String> {
    let k = keyspace;
    match version {
        1 => vec![
            format!(
                "CREATE TABLE IF NOT EXISTS {k}.about (name text PRIMARY KEY, log text, shards int, \
                 generation int, newest int, builder text)"
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {k}.applied (generation int, log_partition int, applied bigint, \
                 PRIMARY KEY ((generation), log_partition))"
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {k}.conversations (generation int, log_partition int, shard int, \
                 conversation text, cell blob, PRIMARY KEY ((generation, log_partition, shard), conversation))"
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {k}.transitions (generation int, conversation text, bucket int, \
                 kind int, agent text, branch text, first bigint, seq bigint, newest int STATIC, cell blob, \
                 PRIMARY KEY ((generation, conversation, bucket), kind, agent, branch, first, seq)) \
                 WITH CLUSTERING ORDER BY (kind ASC, agent ASC, branch ASC, first DESC, seq DESC)"
            ),
        ],
        _ => Vec::new(),
    }
}

/// The keyspace, where it is not there yet.
pub(crate) fn keyspace(keyspace: &str, replication_factor: u32, flavour: Flavour) -> String {
    let options = flavour.keyspace_options();
    format!(
        "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = \
         {{'class': 'NetworkTopologyStrategy', 'replication_factor': {replication_factor}}}{options}"
    )
}

/// The table that says which migrations were made.
pub(crate) fn migrations_table(keyspace: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {keyspace}.migrations (name text, version int, checksum text, \
         PRIMARY KEY ((name), version))"
    )
}

/// Notes a migration. Not conditional: whoever makes the same migration notes the same.
pub(crate) fn note_migration(keyspace: &str) -> String {
    format!("INSERT INTO {keyspace}.migrations (name, version, checksum) VALUES ('schema', ?, ?)")
}

/// The migrations that were made.
pub(crate) fn made_migrations(keyspace: &str) -> String {
    format!("SELECT version, checksum FROM {keyspace}.migrations WHERE name = 'schema'")
}

/// Whether a table is there; asks for nothing that only one flavour has.
pub(crate) const TABLE_EXISTS: &str =
    "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
/// Whether a keyspace is there.
pub(crate) const KEYSPACE_EXISTS: &str =
    "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";

#[cfg(test)]
mod tests;
