//! What every client does with the log lines and errors of librdkafka.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Takes a lock; a thread that panicked while it held it left nothing half-done that matters here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an error says that no broker answers: it passes when one does.
pub(crate) fn is_outage(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::Resolve
    )
}

/// The newest errors of a client, for sentences to people. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Context {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// The broker or TLS refused us: waiting does not help.
    refusal: Option<String>,
    /// Any other error.
    last: Option<String>,
}

impl Context {
    pub(crate) fn refusal(&self) -> Option<String> {
        lock(&self.seen).refusal.clone()
    }

    pub(crate) fn last(&self) -> Option<String> {
        lock(&self.seen).last.clone()
    }
}

fn tls_fails(reason: &str) -> String {
    format!("TLS fails ({reason}): check security.protocol and ssl.* (the CA?)")
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" {
            // "[thrd:name]: host:port/id: what": some failures are only ever said here.
            let text = message.split_once("]: ").map_or(message, |(_, text)| text);
            let mut seen = lock(&self.seen);
            // Other ends of a handshake may be a broker that restarts; this one does not mend itself.
            if text.contains("certificate verify failed") {
                seen.refusal = Some(tls_fails(text));
            }
            seen.last = Some(text.to_owned());
        }
        match level {
            // Properties of consumers are given to producers too, and the other way round: that is on purpose.
            _ if facility == "CONFWARN" => tracing::debug!(target: "librdkafka", facility, message),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::warn!(target: "librdkafka", facility, message),
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, message);
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, message),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let statistics = String::from_utf8_lossy(statistics);
        tracing::trace!(target: "librdkafka", %statistics, "statistics");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        tracing::debug!(target: "librdkafka", ?code, reason, "client error");
        let mut seen = lock(&self.seen);
        match code {
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                seen.refusal = Some(format!("the broker refuses the credentials ({reason}): check sasl.*"));
            }
            Some(RDKafkaErrorCode::SSL) => {
                seen.refusal = Some(tls_fails(reason));
            }
            // It only sums up what was said before.
            Some(RDKafkaErrorCode::AllBrokersDown) => {}
            _ => seen.last = Some(reason.to_owned()),
        }
    }
}

impl ConsumerContext for Context {}
