use rdkafka::consumer::BaseConsumer;
use rdkafka::producer::BaseProducer;

use super::*;

fn config() -> KafkaConfig {
    KafkaConfig { brokers: "127.0.0.1:9092".to_owned(), ..KafkaConfig::default() }
}

fn with(key: &str, value: &str) -> KafkaConfig {
    let mut config = config();
    config.properties.insert(key.to_owned(), value.to_owned());
    config
}

fn refused(config: &KafkaConfig) -> String {
    match config.check() {
        Err(LogError::Refused(sentence)) => sentence,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn defaults_with_a_broker_are_fine() {
    config().check().unwrap();
    with("security.protocol", "plaintext").check().unwrap();
}

#[test]
fn each_mistake_is_named_with_its_mend() {
    assert!(refused(&KafkaConfig::default()).starts_with("kafka.brokers is empty"));
    assert!(refused(&KafkaConfig { slot: "a b".to_owned(), ..config() }).contains("kafka.slot is 'a b'"));
    let long = KafkaConfig { transaction_timeout_ms: 15_000, ..config() };
    assert!(refused(&long).contains("must be shorter than kafka.session_timeout_ms (15000)"));
    let short = KafkaConfig { transaction_timeout_ms: 10, ..config() };
    assert!(refused(&short).contains("at least 1000"));
    let unknown = refused(&with("no.such.thing", "x"));
    assert!(unknown.contains("'no.such.thing' is refused"), "{unknown}");
    let bad = refused(&with("security.protocol", "carrier-pigeon"));
    assert!(bad.contains("'security.protocol' is refused"), "{bad}");
}

#[test]
fn properties_that_the_promises_rest_on_cannot_be_set() {
    for (key, instead) in OWN {
        let sentence = refused(&with(key, "x"));
        assert!(sentence.contains(key) && sentence.contains(instead), "{sentence}");
    }
}

#[test]
#[cfg(not(feature = "tls"))]
fn what_needs_tls_is_refused_with_the_mend_where_the_build_has_none() {
    for (key, value, named) in [
        ("security.protocol", "SSL", "'security.protocol' = 'SSL'"),
        ("security.protocol", "sasl_ssl", "'security.protocol' = 'sasl_ssl'"),
        ("sasl.mechanism", "SCRAM-SHA-512", "'sasl.mechanism' = 'SCRAM-SHA-512'"),
        ("sasl.mechanisms", "OAUTHBEARER", "'sasl.mechanisms' = 'OAUTHBEARER'"),
        ("ssl.key.password", "hunter2", "'ssl.key.password'"),
        ("ssl.ca.location", "/no/such/file", "'ssl.ca.location'"),
    ] {
        let sentence = refused(&with(key, value));
        let expected = format!(
            "kafka.properties: {named} needs TLS, and this program was built without it: build it with \
             --features tls"
        );
        assert_eq!(sentence, expected);
    }
    with("sasl.mechanism", "PLAIN").check().unwrap();
}

#[test]
#[cfg(feature = "tls")]
fn what_needs_tls_is_taken_where_the_build_has_it() {
    with("security.protocol", "SASL_SSL").check().unwrap();
    with("sasl.mechanism", "SCRAM-SHA-512").check().unwrap();
}

#[test]
#[cfg(feature = "tls")]
fn tokens_need_an_endpoint_and_a_build_that_asks_it() {
    let alone = refused(&with("sasl.mechanism", "OAUTHBEARER"));
    assert!(alone.contains("'sasl.oauthbearer.method' to 'oidc'"), "{alone}");
    let mut config = with("sasl.mechanism", "OAUTHBEARER");
    for (key, value) in [
        ("sasl.oauthbearer.method", "oidc"),
        ("sasl.oauthbearer.client.id", "p2"),
        ("sasl.oauthbearer.client.secret", "hunter2"),
        ("sasl.oauthbearer.token.endpoint.url", "https://127.0.0.1/token"),
    ] {
        config.properties.insert(key.to_owned(), value.to_owned());
    }
    if cfg!(feature = "oidc") {
        config.check().unwrap();
    } else {
        let sentence = refused(&config);
        assert!(sentence.contains("--features oidc") && !sentence.contains("hunter2"), "{sentence}");
    }
}

#[test]
fn secrets_are_in_no_debug_text_and_in_no_error() {
    let mut config = with("sasl.password", "hunter2");
    config.properties.insert("ssl.key.pem".to_owned(), "hunter2".to_owned());
    config.properties.insert("sasl.oauthbearer.client.secret".to_owned(), "hunter2".to_owned());
    config.properties.insert("client.rack".to_owned(), "shown".to_owned());
    let text = format!("{config:?}");
    assert!(!text.contains("hunter2") && text.contains("shown"), "{text}");
    let error = property(&KafkaError::ClientConfig(
        rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
        "Invalid value \"hunter2\"".to_owned(),
        "ssl.key.password".to_owned(),
        "hunter2".to_owned(),
    ));
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn every_kind_of_client_is_accepted_by_librdkafka() {
    let consumer = KafkaConfig { protocol: GroupProtocol::Consumer, ..config() };
    for config in [config(), consumer] {
        config.asker("read_committed").create::<BaseConsumer>().unwrap();
        config.reader().create::<BaseConsumer>().unwrap();
        config.follower().create::<BaseConsumer>().unwrap();
        config.member("g", "i").create::<BaseConsumer>().unwrap();
        config.transactional("t").create::<BaseProducer>().unwrap();
        config.appender().create::<BaseProducer>().unwrap();
        config.admin().create::<BaseProducer>().unwrap();
    }
}
