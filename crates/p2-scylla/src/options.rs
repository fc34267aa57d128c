//! What the store is told at start, and how bad values are refused.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::OpenError;
use crate::flavour::Flavour;

/// How to reach the store, and what is kept in it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Contact points, `host:port`; the port is 9042 where none is given. The other nodes are found from them.
    pub nodes: Vec<String>,
    /// The keyspace: a lower-case letter, then up to 47 lower-case letters, digits and underscores.
    pub keyspace: String,
    /// Copies of each row, for a keyspace that [`migrate`](crate::migrate) makes. One that exists is left as it is.
    pub replication_factor: u32,
    /// The data centre whose nodes are asked first; none: whichever.
    pub datacenter: Option<String>,
    /// User and password, where the store wants them.
    pub user: Option<(String, Password)>,
    /// TLS; none: plain text.
    pub tls: Option<Tls>,
    /// The kind of server; none: found out by asking it.
    pub flavour: Option<Flavour>,
    /// How long one read or write may take, all tries of the driver included.
    pub request_timeout: Duration,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// A read that has no answer after this time is also sent to a second node. Writes never are.
    pub speculative_after: Duration,
}

impl Options {
    /// The defaults: one copy, no user, no TLS, 5 s for a request, 5 s for a connection, a second node asked
    /// after 100 ms.
    pub fn new(nodes: impl IntoIterator<Item = impl Into<String>>, keyspace: impl Into<String>) -> Options {
        Options {
            nodes: nodes.into_iter().map(Into::into).collect(),
            keyspace: keyspace.into(),
            replication_factor: 1,
            datacenter: None,
            user: None,
            tls: None,
            flavour: None,
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            speculative_after: Duration::from_millis(100),
        }
    }

    /// The contact points as people write them.
    pub(crate) fn nodes_text(&self) -> String {
        self.nodes.join(", ")
    }

    /// Checks what can be checked without a server.
    ///
    /// # Errors
    /// [`OpenError::Option`]: what is wrong and how to mend it.
    pub fn check(&self) -> Result<(), OpenError> {
        self.validate()
    }

    /// Refuses what cannot be meant. Keyspace names go into statements as text, so the check is also what
    /// keeps statements free of anything else.
    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        let bad = |what: String| Err(OpenError::Option(what));
        if self.nodes.is_empty() || self.nodes.iter().any(|node| node.trim().is_empty()) {
            return bad("scylla.nodes: give at least one node as host:port".to_owned());
        }
        let mut letters = self.keyspace.chars();
        let begins = letters.next().is_some_and(|first| first.is_ascii_lowercase());
        let goes_on = letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !begins || !goes_on || self.keyspace.len() > 48 {
            return bad(format!(
                "scylla.keyspace: '{}' is not a keyspace name: use a lower-case letter, then up to 47 \
                 lower-case letters, digits and underscores",
                self.keyspace
            ));
        }
        if self.replication_factor == 0 {
            return bad("scylla.replication_factor: at least 1 copy is needed".to_owned());
        }
        if self.request_timeout.is_zero() || self.connect_timeout.is_zero() {
            return bad("scylla: a time-out of 0 would refuse everything".to_owned());
        }
        Ok(())
    }
}

/// TLS to the store. The server's certificate must be valid for the node's IP address: that is what the driver
/// connects to, also where a host name was given.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// PEM file with the certificates to trust.
    pub ca_file: PathBuf,
}

/// A password: shown by neither `Debug` nor `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Password {
        Password(text.into())
    }

    /// The text, for the driver alone.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Which log the view belongs to. A store that was filled from another one is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster's id.
    pub cluster: String,
    /// The id of the topic `state-transitions`: another one after it was deleted and made again.
    pub topic: String,
}

impl fmt::Display for LogIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_no_debug_text() {
        let user = Some(("p2".to_owned(), Password::new("hunter2-hidden")));
        let options = Options { user, ..Options::new(["n1:9042"], "p2") };
        let text = format!("{options:?}");
        assert!(text.contains("[redacted]") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_keyspace_name_that_could_be_anything_else_is_refused() {
        let long = "a".repeat(49);
        for name in ["", "P2", "1p", "p2;drop", "p 2", "p\"", "é", long.as_str()] {
            let refused = Options::new(["n1"], name).validate().unwrap_err().to_string();
            assert!(refused.starts_with("scylla.keyspace: "), "{refused}");
        }
        for name in ["p2", "p2_test_1", "a".repeat(48).as_str()] {
            Options::new(["n1"], name).validate().unwrap();
        }
    }

    #[test]
    fn options_that_refuse_everything_are_refused_themselves() {
        let none: [&str; 0] = [];
        assert!(Options::new(none, "p2").validate().unwrap_err().to_string().contains("scylla.nodes"));
        let zero = Options { request_timeout: Duration::ZERO, ..Options::new(["n1"], "p2") };
        assert!(zero.validate().unwrap_err().to_string().contains("time-out"));
        let none = Options { replication_factor: 0, ..Options::new(["n1"], "p2") };
        assert!(none.validate().unwrap_err().to_string().contains("replication_factor"));
    }
}
