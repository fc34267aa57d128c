//! What every client does with the log lines and errors of librdkafka.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2_stream::outage::{self, Part};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Takes a lock; a thread that panicked while it held it left nothing half-done that matters here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells of an error that passes when brokers answer again; false for any other. Of several brokers one may be away for
/// hours while work goes on: only that none is left is an outage.
pub(crate) fn tell_outage(error: &KafkaError) -> bool {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AllBrokersDown) => outage::met(Part::Log, &error.to_string()),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::Resolve,
        ) => tracing::info!(%error, "a broker does not answer"),
        _ => return false,
    }
    true
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
    /// No token could be had: then the broker refuses the old one sooner or later, which passes with the cause.
    no_token: Option<String>,
    /// Any other error.
    last: Option<String>,
}

impl Seen {
    /// The endpoint gave no token: it refused, for good, or it may give one later.
    fn no_token(&mut self, why: &str) {
        let is_final = matches!(status(why), Some(400 | 401 | 403));
        let first = why.lines().next().unwrap_or_default();
        let why: String = first.chars().take(TEXT_MAX).collect();
        let sentence = format!(
            "no token for Kafka ({why}): check sasl.oauthbearer.client.id, sasl.oauthbearer.client.secret, \
             sasl.oauthbearer.scope and sasl.oauthbearer.token.endpoint.url"
        );
        if is_final {
            self.refusal = Some(sentence.clone());
        }
        self.no_token = Some(sentence.clone());
        self.last = Some(sentence);
    }

    fn credentials_refused(&mut self, reason: &str) {
        // Said for people, after the reason was in the log.
        if let Some(why) = reason.split_once("Failed to acquire SASL OAUTHBEARER token: ").map(|(_, why)| why)
        {
            if self.no_token.is_none() {
                self.no_token(why);
            }
            return;
        }
        if let Some(no_token) = &self.no_token {
            self.last = Some(no_token.clone());
        } else if reason.contains("invalid_token") {
            // It ran out, and the library is still asking for another: what it asks in vain it says after a minute.
            self.last = Some(format!("the broker refuses the token ({reason}): check sasl.oauthbearer.*"));
        } else if reason.contains("Broker transport failure") {
            // The connection broke in the middle of the handshake, which is no answer.
            self.last = Some(reason.to_owned());
        } else {
            self.refusal = Some(format!("the broker refuses the credentials ({reason}): check sasl.*"));
        }
    }
}

/// Most of what an endpoint says that is told.
const TEXT_MAX: usize = 300;

/// The HTTP status at the end of what the client library says of an endpoint: "… (401)".
fn status(text: &str) -> Option<i32> {
    text.trim_end().strip_suffix(')')?.rsplit_once('(')?.1.parse().ok()
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
        if facility == "OIDC" {
            let text = message.split_once("]: ").map_or(message, |(_, text)| text);
            lock(&self.seen).no_token(text);
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
                seen.credentials_refused(reason);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses(context: &Context, reason: &str) {
        let error = KafkaError::Global(RDKafkaErrorCode::SaslAuthenticationFailed);
        context.error(error, reason);
    }

    #[test]
    fn an_endpoint_that_refuses_is_final_and_one_that_is_away_is_not() {
        let context = Context::default();
        let said = "[thrd:background]: Failed to retrieve OIDC token from \"http://e/t\": {\"error\":\"invalid_client\"} (401)";
        context.log(RDKafkaLogLevel::Error, "OIDC", said);
        let refusal = context.refusal().unwrap();
        assert!(refusal.contains("invalid_client") && refusal.contains("client.secret"), "{refusal}");

        let context = Context::default();
        let said =
            "[thrd:background]: Failed to retrieve OIDC token from \"http://e/t\": Connection refused (-1)";
        context.log(RDKafkaLogLevel::Error, "OIDC", said);
        refuses(&context, "SASL authentication error: Authentication failed");
        assert_eq!(context.refusal(), None, "the old token has run out, and a new one may come");
        assert!(context.last().unwrap().contains("http://e/t"));

        let context = Context::default();
        refuses(&context, "SASL authentication error: {\"status\":\"invalid_token\"}");
        assert_eq!(context.refusal(), None, "it ran out");
        refuses(&context, "SASL authentication error: Authentication failed");
        assert!(context.refusal().unwrap().contains("the broker refuses the credentials"));
    }

    #[test]
    fn a_handshake_that_was_cut_off_is_no_refusal() {
        let context = Context::default();
        refuses(&context, "SASL SCRAM-SHA-256 mechanism handshake failed: Local: Broker transport failure");
        assert_eq!(context.refusal(), None);
    }
}
