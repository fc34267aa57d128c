//! The connection: nodes, TLS, login, and the policies of the three kinds of statement.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::statement::{Consistency, SerialConsistency};

use crate::error::{OpenError, failed, no_session};
use crate::flavour::Flavour;
use crate::loss::{Losses, Noticing};
use crate::options::{Options, Password, Tls};
use crate::statements::TABLE_EXISTS;

/// A connection over which nothing comes back for twice this long is given up: a machine that lost its power
/// says no goodbye.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// How statements are run. All wait for a quorum of the copies: what one process has written, the next owner
/// reads, with any one node of three away.
#[derive(Clone, Debug)]
pub(crate) struct Profiles {
    /// Reads: repeated on another node where one fails, and sent to a second one where the first is slow.
    pub(crate) read: ExecutionProfileHandle,
    /// Writes with an offset as timestamp: repeated on another node, which is harmless since they say the same.
    /// Never sent twice for being slow: a store that is slow with writes has too many of them already.
    pub(crate) write: ExecutionProfileHandle,
    /// Conditional writes, and reads of what they wrote: tried once. Whoever gets no answer reads again.
    pub(crate) conditional: ExecutionProfileHandle,
}

impl Profiles {
    fn new(options: &Options, losses: &Losses) -> Profiles {
        let base = || {
            ExecutionProfile::builder()
                .consistency(Consistency::LocalQuorum)
                .request_timeout(Some(options.request_timeout))
        };
        let speculative = SimpleSpeculativeExecutionPolicy {
            max_retry_count: 1,
            retry_interval: options.speculative_after,
        };
        let read = base()
            .retry_policy(Noticing::repeating(losses))
            .speculative_execution_policy(Some(Arc::new(speculative)));
        let write = base().retry_policy(Noticing::repeating(losses)).speculative_execution_policy(None);
        let conditional = base()
            .serial_consistency(Some(SerialConsistency::LocalSerial))
            .retry_policy(Noticing::once(losses))
            .speculative_execution_policy(None);
        Profiles {
            read: read.build().into_handle(),
            write: write.build().into_handle(),
            conditional: conditional.build().into_handle(),
        }
    }
}

/// A session with what belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    pub(crate) session: Arc<Session>,
    pub(crate) profiles: Profiles,
    pub(crate) flavour: Flavour,
    pub(crate) losses: Losses,
    /// The contact points, for sentences.
    pub(crate) nodes: Arc<str>,
    /// The longest that a request takes.
    pub(crate) request_timeout: Duration,
}

/// Connects. Nothing is read or written but what the driver needs and the flavour.
pub(crate) async fn connect(options: &Options) -> Result<Connected, OpenError> {
    options.validate()?;
    let losses = Losses::default();
    let profiles = Profiles::new(options, &losses);
    let mut builder = SessionBuilder::new()
        .known_nodes(&options.nodes)
        .connection_timeout(options.connect_timeout)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .keyspaces_to_fetch([options.keyspace.as_str()])
        .default_execution_profile_handle(profiles.read.clone());
    if let Some(datacenter) = &options.datacenter {
        builder = builder.prefer_datacenter(datacenter.clone());
    }
    if let Some((user, password)) = &options.user {
        builder = builder.user(user, Password::expose(password));
    }
    if let Some(tls) = &options.tls {
        builder = builder.tls_context(Some(Arc::new(tls_config(tls)?)));
    }
    let user = options.user.as_ref().map(|(user, _)| user.as_str());
    let session = builder.build().await.map_err(|error| no_session(&error, options.nodes_text(), user))?;
    let mut connected = Connected {
        session: Arc::new(session),
        profiles,
        flavour: Flavour::Cassandra,
        losses,
        nodes: options.nodes_text().into(),
        request_timeout: options.request_timeout,
    };
    connected.flavour = match options.flavour {
        Some(flavour) => flavour,
        None if exists(&connected, TABLE_EXISTS, &["system", "scylla_local"]).await? => Flavour::Scylla,
        None => Flavour::Cassandra,
    };
    Ok(connected)
}

/// Whether a query has a row.
pub(crate) async fn exists(connected: &Connected, text: &str, values: &[&str]) -> Result<bool, OpenError> {
    let found = connected
        .session
        .query_unpaged(text, values)
        .await
        .map_err(|error| OpenError::Store(failed(&error, &connected.nodes)))?;
    let rows =
        found.into_rows_result().map_err(|error| OpenError::Store(failed(&error, &connected.nodes)))?;
    Ok(rows.rows_num() > 0)
}

fn tls_config(tls: &Tls) -> Result<ClientConfig, OpenError> {
    let file = tls.ca_file.display();
    let bad = |reason: String| OpenError::Tls(format!("scylla.tls.ca_file '{file}': {reason}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&tls.ca_file).map_err(|error| bad(error.to_string()))? {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("it has no PEM certificate".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::Tls(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_certificates_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let said = || tls_config(&Tls { ca_file: file.clone() }).unwrap_err().to_string();
        assert!(said().contains("ca.pem"), "missing: {}", said());
        std::fs::write(&file, "not a certificate").unwrap();
        assert!(said().contains("no PEM certificate"), "{}", said());
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(said().contains("scylla.tls.ca_file"), "{}", said());
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_is_one_sentence() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = Options {
            user: Some(("p2".to_owned(), Password::new("hunter2-hidden"))),
            ..Options::new([format!("127.0.0.1:{port}")], "p2")
        };
        let error = connect(&options).await.unwrap_err();
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.starts_with(&format!("no CQL node answers at 127.0.0.1:{port}: ")), "{said}");
        assert!(!said.contains('\n') && !format!("{error:?}").contains("hunter2"), "{said}");
    }
}
