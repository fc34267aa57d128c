//! The driver's errors as sentences for people.

use std::error::Error;

use p2_stream::ports::StoreError;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestError, ConnectionSetupRequestErrorKind,
    DbError, ExecutionError, MetadataError, NewSessionError, PrepareError, RequestAttemptError,
};

/// Why the store could not be opened, made or checked. Each is one sentence that says how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A setting that cannot be meant.
    #[error("{0}")]
    Option(String),
    /// No node answers; worth retrying.
    #[error("no CQL node answers at {nodes}: {reason}")]
    Unreachable {
        /// The contact points.
        nodes: String,
        /// The deepest reason.
        reason: String,
    },
    /// User or password are missing or wrong.
    #[error("the CQL store at {nodes} refuses the login{user}: set scylla.user and its password")]
    Login {
        /// The contact points.
        nodes: String,
        /// ` of '<user>'`; empty where none was given.
        user: String,
    },
    /// The TLS handshake failed, or the certificates to trust cannot be read.
    #[error("TLS to the CQL store: {0}")]
    Tls(String),
    /// The tables are missing, older or newer than this program.
    #[error("{0}")]
    Schema(String),
    /// The store was filled from another log.
    #[error("{0}")]
    Foreign(String),
    /// A statement failed.
    #[error("{0}")]
    Store(StoreError),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> OpenError {
        match error {
            StoreError::Foreign(what) => OpenError::Foreign(what),
            other => OpenError::Store(other),
        }
    }
}

/// The innermost reason: the driver wraps what a person wants to know in layers of where it was noticed.
pub(crate) fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut at = error;
    while let Some(inner) = at.source() {
        at = inner;
    }
    at.to_string()
}

fn pool_error(error: &NewSessionError) -> Option<&ConnectionError> {
    match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
            last_connection_error,
            ..
        })) => Some(last_connection_error),
        _ => None,
    }
}

fn is_login(error: &ConnectionError) -> bool {
    let ConnectionError::ConnectionSetupRequestError(setup) = error else { return false };
    let setup: &ConnectionSetupRequestError = setup;
    matches!(
        setup.get_error(),
        ConnectionSetupRequestErrorKind::MissingAuthentication
            | ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, _)
    )
}

/// Why there is no session.
pub(crate) fn no_session(error: &NewSessionError, nodes: String, user: Option<&str>) -> OpenError {
    let Some(connection) = pool_error(error) else {
        return OpenError::Unreachable { nodes, reason: deepest(error) };
    };
    if is_login(connection) {
        return OpenError::Login {
            nodes,
            user: user.map(|user| format!(" of '{user}'")).unwrap_or_default(),
        };
    }
    if let ConnectionError::IoError(io) = connection
        && let Some(tls) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        return OpenError::Tls(format!("{nodes}: {tls}"));
    }
    OpenError::Unreachable { nodes, reason: deepest(connection) }
}

/// Why a request came to nothing, as the port says it. Whatever time can mend is [`StoreError::Unavailable`].
pub(crate) fn failed(error: &(dyn Error + 'static), nodes: &str) -> StoreError {
    let mut at: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(inner) = at {
        // Several of the driver's errors are transparent: their cause is within them, not behind them.
        if let Some(attempt) = attempt_in(inner) {
            return attempt_failed(attempt, nodes);
        }
        if let Some(ExecutionError::RequestTimeout(after)) = inner.downcast_ref::<ExecutionError>() {
            let ms = after.as_millis();
            return StoreError::Unavailable(format!("CQL at {nodes}: no answer within {ms} ms"));
        }
        at = inner.source();
    }
    StoreError::Unavailable(format!("no CQL node answers at {nodes}: {}", deepest(error)))
}

fn attempt_in<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e RequestAttemptError> {
    if let Some(ExecutionError::LastAttemptError(attempt)) = error.downcast_ref::<ExecutionError>() {
        return Some(attempt);
    }
    if let Some(ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt })) =
        error.downcast_ref::<ExecutionError>()
    {
        return Some(first_attempt);
    }
    if let Some(PrepareError::AllAttemptsFailed { first_attempt }) = error.downcast_ref::<PrepareError>() {
        return Some(first_attempt);
    }
    error.downcast_ref::<RequestAttemptError>()
}

fn attempt_failed(error: &RequestAttemptError, nodes: &str) -> StoreError {
    let RequestAttemptError::DbError(kind, text) = error else {
        return StoreError::Unavailable(format!("CQL at {nodes}: {}", deepest(error)));
    };
    match kind {
        // What no waiting mends: the tables are not there, or not ours.
        DbError::SyntaxError | DbError::Invalid | DbError::ConfigError | DbError::AlreadyExists { .. } => {
            StoreError::Foreign(format!(
                "the CQL store at {nodes} refuses a statement: {text}: are these the tables of `p2engine store apply`?"
            ))
        }
        DbError::Unauthorized => StoreError::Unavailable(format!(
            "the CQL store at {nodes} does not allow it: {text}: grant the role SELECT and MODIFY on the keyspace"
        )),
        _ => StoreError::Unavailable(format!("CQL at {nodes}: {kind}: {text}")),
    }
}
