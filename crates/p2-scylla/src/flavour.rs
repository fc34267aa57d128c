//! ScyllaDB or Apache Cassandra: what only one of them has.

use std::fmt;

/// The kind of server behind the protocol. Statements are the same for both but for what is listed here:
///
/// | | ScyllaDB | Cassandra |
/// |---|---|---|
/// | keyspace | `tablets = {'enabled': false}`: conditional writes are refused on tablets by many versions | no such option |
/// | whole scans | `BYPASS CACHE`: they must not push the hot rows out | no such clause |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// ScyllaDB.
    Scylla,
    /// Apache Cassandra.
    Cassandra,
}

impl Flavour {
    /// The end of a `CREATE KEYSPACE`.
    pub(crate) fn keyspace_options(self) -> &'static str {
        match self {
            Flavour::Scylla => " AND tablets = {'enabled': false}",
            Flavour::Cassandra => "",
        }
    }

    /// The end of a read that goes over everything there is.
    pub(crate) fn scan_options(self) -> &'static str {
        match self {
            Flavour::Scylla => " BYPASS CACHE",
            Flavour::Cassandra => "",
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flavour::Scylla => "ScyllaDB",
            Flavour::Cassandra => "Cassandra",
        })
    }
}
