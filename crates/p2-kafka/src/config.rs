//! Settings, and the librdkafka configuration of each kind of client.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use p2_stream::ports::LogError;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use serde::Deserialize;

#[cfg(test)]
mod tests;

/// How a group shares out its partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// The members share them out, cooperatively. Every broker knows it.
    #[default]
    Classic,
    /// The broker shares them out (KIP-848): Apache Kafka 4.0 and later. The session time-out is the broker's.
    Consumer,
}

/// How to reach Kafka and who this process is there.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// This process among those that run the same processor: its transactional ids are
    /// `p2.<processor>-<slot>`, and a process that starts again with the same slot ends at once what the earlier
    /// one left open. Two processes must not have the same.
    pub slot: String,
    /// Put before the names of topics, groups and transactional ids: several systems on one cluster.
    pub prefix: String,
    /// How groups share out partitions.
    pub protocol: GroupProtocol,
    /// A member that is not heard of for so long loses its partitions, milliseconds.
    pub session_timeout_ms: u32,
    /// A transaction that is open for so long is aborted by the broker, milliseconds; shorter than a session.
    pub transaction_timeout_ms: u32,
    /// How long a request outside of a transaction may take before it is an error, milliseconds.
    pub request_timeout_ms: u32,
    /// On an orderly stop, keep the partitions for the session time-out instead of handing them over: for
    /// restarts one by one, where the slot is back before that.
    pub keep_on_stop: bool,
    /// Any librdkafka property: `security.protocol`, `sasl.*`, `ssl.*`, `client.rack`, …
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> KafkaConfig {
        KafkaConfig {
            brokers: String::new(),
            slot: "0".to_owned(),
            prefix: String::new(),
            protocol: GroupProtocol::Classic,
            session_timeout_ms: 15_000,
            transaction_timeout_ms: 10_000,
            request_timeout_ms: 10_000,
            keep_on_stop: false,
            properties: BTreeMap::new(),
        }
    }
}

/// Longest time between two heartbeats, milliseconds: with one of them a member hears that others came or went, so it
/// bounds how long the partitions of one that left lie idle.
const HEARTBEAT_MS: u32 = 500;

/// How often every client asks who leads its partitions, milliseconds. The client library asks once when a broker is gone,
/// mostly before the others have noticed it, and then only after this time again: 5 minutes by default, in which a
/// consumer gets nothing of the partitions that this broker had led.
const LEADERS_MS: u32 = 2_000;

/// Parts of names of properties whose values are not for other eyes.
const SECRET: [&str; 7] = ["password", "secret", "token", "pem", "oauthbearer.config", "jaas", "username"];

fn is_secret(key: &str) -> bool {
    SECRET.iter().any(|part| key.contains(part))
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(key, value): (&String, &String)| {
            (key.clone(), if is_secret(key) { "***".to_owned() } else { value.clone() })
        };
        out.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("slot", &self.slot)
            .field("prefix", &self.prefix)
            .field("protocol", &self.protocol)
            .field("session_timeout_ms", &self.session_timeout_ms)
            .field("transaction_timeout_ms", &self.transaction_timeout_ms)
            .field("request_timeout_ms", &self.request_timeout_ms)
            .field("keep_on_stop", &self.keep_on_stop)
            .field("properties", &self.properties.iter().map(shown).collect::<BTreeMap<_, _>>())
            .finish()
    }
}

/// Properties that the promises rest on, and what to do instead of setting them.
const OWN: [(&str, &str); 17] = [
    ("bootstrap.servers", "set kafka.brokers"),
    ("metadata.broker.list", "set kafka.brokers"),
    ("group.id", "it is p2.<processor>"),
    ("group.instance.id", "set kafka.slot"),
    ("group.protocol", "set kafka.protocol"),
    ("transactional.id", "set kafka.slot"),
    ("transaction.timeout.ms", "set kafka.transaction_timeout_ms"),
    ("session.timeout.ms", "set kafka.session_timeout_ms"),
    ("message.timeout.ms", "set kafka.transaction_timeout_ms"),
    ("delivery.timeout.ms", "set kafka.transaction_timeout_ms"),
    ("enable.auto.commit", "progress is committed with the outputs"),
    ("enable.auto.offset.store", "progress is committed with the outputs"),
    ("enable.idempotence", "it is always on"),
    ("isolation.level", "committed records only are read"),
    ("auto.offset.reset", "a group without progress is the operator's decision: --from"),
    ("partition.assignment.strategy", "partitions are shared out cooperatively"),
    ("enable.partition.eof", "reading to the end rests on it"),
];

/// Whether a property is one for which the client library needs OpenSSL.
fn needs_tls(key: &str, value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    match key {
        "security.protocol" => matches!(value.as_str(), "ssl" | "sasl_ssl"),
        "sasl.mechanism" | "sasl.mechanisms" => value.starts_with("scram-") || value == "oauthbearer",
        _ => key.starts_with("ssl."),
    }
}

/// Whether a property is one for which the client library needs to ask a token endpoint.
fn needs_oidc(key: &str) -> bool {
    key.starts_with("sasl.oauthbearer.") || key.starts_with("https.")
}

impl KafkaConfig {
    /// The library takes no tokens from anywhere else: without an endpoint it would wait for one for ever.
    fn check_tokens(&self) -> Result<(), LogError> {
        let is = |key: &str, value: &str| {
            self.properties.get(key).is_some_and(|is| is.trim().eq_ignore_ascii_case(value))
        };
        let has_tokens = is("sasl.mechanism", "oauthbearer") || is("sasl.mechanisms", "oauthbearer");
        if has_tokens && !is("sasl.oauthbearer.method", "oidc") {
            return Err(LogError::Refused(
                "kafka.properties: the mechanism OAUTHBEARER takes its tokens from an endpoint: set \
                 'sasl.oauthbearer.method' to 'oidc', and 'sasl.oauthbearer.token.endpoint.url', \
                 'sasl.oauthbearer.client.id' and 'sasl.oauthbearer.client.secret'"
                    .to_owned(),
            ));
        }
        match self.properties.keys().find(|key| needs_oidc(key)) {
            Some(key) if !cfg!(feature = "oidc") => Err(LogError::Refused(format!(
                "kafka.properties: '{key}' needs a program that asks token endpoints, and this one was built without: \
                 build it with --features oidc"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks what can be checked without a broker.
    ///
    /// # Errors
    /// [`LogError::Refused`]: what is wrong and how to mend it.
    pub fn check(&self) -> Result<(), LogError> {
        let refused = |sentence: String| Err(LogError::Refused(sentence));
        if self.brokers.trim().is_empty() {
            return refused("kafka.brokers is empty: set it to host:port of one or more brokers".to_owned());
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.slot.is_empty() || self.slot.len() > 100 || !self.slot.chars().all(plain) {
            return refused(format!(
                "kafka.slot is '{}': use 1 to 100 letters, digits, '.', '_' or '-', a different one for each \
                 process",
                self.slot
            ));
        }
        if self.transaction_timeout_ms < 1_000 {
            return refused(format!(
                "kafka.transaction_timeout_ms is {}: at least 1000",
                self.transaction_timeout_ms
            ));
        }
        if self.transaction_timeout_ms >= self.session_timeout_ms {
            return refused(format!(
                "kafka.transaction_timeout_ms ({}) must be shorter than kafka.session_timeout_ms ({}): raise the \
                 latter or lower the former",
                self.transaction_timeout_ms, self.session_timeout_ms
            ));
        }
        for (key, instead) in OWN {
            if self.properties.contains_key(key) {
                return refused(format!("kafka.properties must not set '{key}': {instead}"));
            }
        }
        if !cfg!(feature = "tls")
            && let Some((key, value)) = self.properties.iter().find(|(key, value)| needs_tls(key, value))
        {
            let what =
                if key.starts_with("ssl.") { format!("'{key}'") } else { format!("'{key}' = '{value}'") };
            return refused(format!(
                "kafka.properties: {what} needs TLS, and this program was built without it: build it with \
                 --features tls"
            ));
        }
        self.check_tokens()?;
        for (key, value) in &self.properties {
            if key.ends_with(".location") && value != "probe" && !Path::new(value).exists() {
                return refused(format!(
                    "kafka.properties: '{key}' is '{value}', and there is no such file: correct the path"
                ));
            }
        }
        self.base("check").create_native_config().map(drop).map_err(|error| property(&error))
    }

    /// What every client has.
    fn base(&self, role: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("client.id", format!("p2.{role}-{}", self.slot))
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("retry.backoff.ms", "50")
            .set("topic.metadata.refresh.interval.ms", LEADERS_MS.to_string())
            // A connection that was cut in the middle must not hold a commit for the default of a minute.
            .set("socket.timeout.ms", self.transaction_timeout_ms.to_string());
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        let debug = self.properties.contains_key("debug");
        let level = if debug { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info };
        config.set("bootstrap.servers", &self.brokers).set_log_level(level);
        config
    }

    /// A client that asks for offsets and metadata; in no group.
    pub(crate) fn asker(&self, isolation: &str) -> ClientConfig {
        let mut config = self.base("ask");
        // The default is longer than a poll interval that a user may have set.
        config
            .set("isolation.level", isolation)
            .set("session.timeout.ms", self.session_timeout_ms.to_string());
        config
    }

    /// A client that writes the progress of a group in which nobody is.
    pub(crate) fn of_group(&self, group: &str) -> ClientConfig {
        let mut config = self.asker("read_committed");
        config.set("group.id", group).set("enable.auto.commit", "false");
        config
    }

    /// A client that reads ranges. The client library wants the name of a group for that; it is never joined.
    pub(crate) fn reader(&self) -> ClientConfig {
        let mut config = self.base("reader");
        config.set("log.connection.close", "false");
        config
            .set("group.id", format!("{}p2.reader", self.prefix))
            .set("session.timeout.ms", self.session_timeout_ms.to_string())
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            // A read ends at the end of the partition: it must not wait there for more.
            .set("fetch.wait.max.ms", "5")
            .set("fetch.queue.backoff.ms", "5")
            .set("queued.max.messages.kbytes", "16384");
        config
    }

    /// A client that reads on for ever. The client library wants the name of a group for that; it is never joined.
    pub(crate) fn follower(&self) -> ClientConfig {
        let mut config = self.base("follow");
        config.set("log.connection.close", "false");
        config
            .set("group.id", format!("{}p2.reader", self.prefix))
            .set("session.timeout.ms", self.session_timeout_ms.to_string())
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "false")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("fetch.error.backoff.ms", "50")
            // What waits for a slow reader stays at the broker.
            .set("queued.min.messages", "2000")
            .set("queued.max.messages.kbytes", "4096");
        config
    }

    /// A member of a group.
    pub(crate) fn member(&self, group: &str, instance: &str) -> ClientConfig {
        let mut config = self.base("member");
        config.set("log.connection.close", "false");
        if !self.properties.contains_key("fetch.wait.max.ms") {
            // A partition that is resumed waits for the fetch under way to return.
            config.set("fetch.wait.max.ms", "100");
        }
        config
            .set("group.id", group)
            .set("group.instance.id", instance)
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "false")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("fetch.error.backoff.ms", "50")
            .set("queued.max.messages.kbytes", "16384");
        match self.protocol {
            GroupProtocol::Classic => config
                .set("partition.assignment.strategy", "cooperative-sticky")
                .set("session.timeout.ms", self.session_timeout_ms.to_string())
                .set(
                    "heartbeat.interval.ms",
                    (self.session_timeout_ms / 5).clamp(100, HEARTBEAT_MS).to_string(),
                ),
            GroupProtocol::Consumer => config.set("group.protocol", "consumer"),
        };
        config
    }

    /// A transactional producer.
    pub(crate) fn transactional(&self, id: &str) -> ClientConfig {
        let mut config = self.base("commits");
        config.set("log.connection.close", "false");
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", self.transaction_timeout_ms.to_string())
            .set("message.timeout.ms", (self.transaction_timeout_ms * 4 / 5).to_string())
            .set("linger.ms", "0");
        config
    }

    /// A producer of single records outside of any group.
    pub(crate) fn appender(&self) -> ClientConfig {
        let mut config = self.base("append");
        config.set("log.connection.close", "false");
        config
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", self.request_timeout_ms.to_string())
            .set("linger.ms", "0");
        config
    }

    /// A client for topics.
    pub(crate) fn admin(&self) -> ClientConfig {
        self.base("admin")
    }
}

/// A name of this process that no other has: for transactional ids that nobody comes back to.
pub(crate) fn process_name() -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{}-{nanos:x}", std::process::id())
}

/// The sentence for a property that librdkafka refuses. Values stay out of it: they may be secret.
pub(crate) fn property(error: &KafkaError) -> LogError {
    LogError::Refused(match error {
        KafkaError::ClientConfig(_, description, key, value) => {
            let description = if is_secret(key) || value.is_empty() {
                description.replace(value.as_str(), if value.is_empty() { "" } else { "***" })
            } else {
                description.clone()
            };
            format!("kafka.properties: '{key}' is refused by the Kafka client: {description}")
        }
        KafkaError::ClientCreation(reason) => {
            format!("the Kafka client does not accept its settings: {reason}; see kafka.properties")
        }
        other => format!("the Kafka client does not start: {other}"),
    })
}
