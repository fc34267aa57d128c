//! Settings, credentials and topics that fit or do not: one sentence each.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use p2_core::record::{RECORD_BYTES_MAX, Topic};
use p2_kafka::topics::{self, Difference, TopicSettings};
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_stream::ports::{Log, LogError, MemberEvent, NewRecord};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use tokio::sync::watch;

use crate::broker::{self, Broker, create_topics, free_port, fresh_prefix};
use crate::copier::{Counts, copy, demand_exactly_once, record};

async fn error(config: KafkaConfig) -> LogError {
    match KafkaLog::connect(config).await {
        Ok(_) => panic!("it connects"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_there_is_one_sentence() {
    // Needs no broker: that is the point.
    let port = free_port();
    let config = KafkaConfig {
        brokers: format!("127.0.0.1:{port}"),
        request_timeout_ms: 2_000,
        ..KafkaConfig::default()
    };
    let error = error(config).await.to_string();
    assert!(
        error.contains(&format!("no Kafka broker answers at 127.0.0.1:{port} within 2000 ms")),
        "{error}"
    );
    assert!(error.contains("Connection refused") && error.contains("check kafka.brokers"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_created_once_checked_and_never_changed_to_lose_something() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    let missing = error(config.clone()).await;
    assert!(matches!(missing, LogError::NotFound(_)), "{missing:?}");
    assert!(missing.to_string().contains("p2engine topics apply"), "{missing}");
    let settings = TopicSettings { partitions: Some(4), ..TopicSettings::default() };
    let before = topics::diff(&config, &settings).await.unwrap();
    assert!(before.iter().all(|one| matches!(one, Difference::Missing(_))), "{before:?}");
    assert_eq!(topics::apply(&config, &settings).await.unwrap(), before);
    assert_eq!(topics::diff(&config, &settings).await.unwrap(), []);
    assert_eq!(topics::apply(&config, &settings).await.unwrap(), []);

    // Somebody made it worse in one way, and set something of their own.
    let inbox = format!("{}{}", config.prefix, Topic::Inbox.name());
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.brokers);
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    let worse = AlterConfig::new(ResourceSpecifier::Topic(&inbox)).set("retention.ms", "1000");
    admin.alter_configs(&[worse.set("segment.bytes", "10000000")], &AdminOptions::new()).await.unwrap();
    // Brokers take settings over a little later than they answer.
    let mut found = Vec::new();
    while found.is_empty() {
        found = topics::diff(&config, &settings).await.unwrap();
    }
    assert_eq!(found[0].to_string(), format!("set {inbox}: retention.ms 1000 -> 604800000"));
    topics::apply(&config, &settings).await.unwrap();
    while !topics::diff(&config, &settings).await.unwrap().is_empty() {}
    let described = topics::describe(&config).await.unwrap();
    assert_eq!(described[&inbox].own["segment.bytes"], "10000000", "their own setting is still there");

    let other = TopicSettings { partitions: Some(8), ..TopicSettings::default() };
    let refused = topics::apply(&config, &other).await;
    let Err(LogError::Refused(sentences)) = refused else { panic!("got {refused:?}") };
    assert!(sentences.contains("it has 4 partitions, 8 are wanted"), "{sentences}");
    KafkaLog::connect(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_topic_does_not_take_is_one_sentence() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    let log = KafkaLog::connect(config).await.unwrap();
    // The value is within our limit, but with its key it is over that of the topic.
    let large = NewRecord {
        key: "k".repeat(200_000),
        value: vec![7; RECORD_BYTES_MAX],
        ..record(Topic::Inbox, 0, "")
    };
    let refused = log.append(vec![large.clone()]).await;
    let Err(LogError::TooLarge(sentence)) = refused else { panic!("got {refused:?}") };
    assert!(sentence.contains("max.message.bytes"), "{sentence}");
    let refused = log.append(vec![record(Topic::Inbox, 0, "small"), large]).await;
    assert!(matches!(refused, Err(LogError::TooLarge(_))), "got {refused:?}");
    log.append(vec![record(Topic::Inbox, 0, "next")]).await.unwrap();
    let read = log.read(Topic::Inbox, 0, 0, 9).await.unwrap();
    assert_eq!(read.len(), 1, "all or none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_with_one_slot_do_not_work_side_by_side() {
    if !broker::is_wanted() {
        return;
    }
    let config = broker::shared().config(&fresh_prefix());
    create_topics(&config).await;
    let one = KafkaLog::connect(config.clone()).await.unwrap();
    let two = KafkaLog::connect(config).await.unwrap();
    let mut first = one.join("p2.same", &[Topic::Inbox]).await.unwrap();
    for _ in 0..4 {
        assert!(matches!(first.next().await.unwrap(), MemberEvent::Assigned { .. }));
    }
    let mut second = two.join("p2.same", &[Topic::Inbox]).await.unwrap();
    for _ in 0..4 {
        assert!(matches!(second.next().await.unwrap(), MemberEvent::Assigned { .. }));
    }
    let ended = loop {
        match tokio::time::timeout(Duration::from_secs(20), first.next()).await.expect("the first one ends") {
            Ok(MemberEvent::Revoked { .. }) => {}
            other => break other,
        }
    };
    let Err(LogError::Refused(sentence)) = ended else { panic!("got {ended:?}") };
    assert!(sentence.contains("give each process its own kafka.slot"), "{sentence}");
}

fn openssl(dir: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A throw-away authority, and a key store of the broker that it signed.
fn certificates(dir: &Path) {
    openssl(dir, "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=p2-ca -days 2");
    openssl(
        dir,
        "req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.pem -subj /CN=other -days 2",
    );
    openssl(dir, "req -newkey rsa:2048 -nodes -keyout broker.key -out broker.csr -subj /CN=127.0.0.1");
    std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        dir,
        "x509 -req -in broker.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out broker.pem",
    );
    let mut store = std::fs::read(dir.join("broker.key")).unwrap();
    store.extend(std::fs::read(dir.join("broker.pem")).unwrap());
    std::fs::write(dir.join("store.pem"), store).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_over_tls_with_scram_and_wrong_credentials_are_one_sentence() {
    if !broker::is_wanted() {
        return;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{}-tls", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    certificates(&dir);
    let port = free_port();
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let plain = "org.apache.kafka.common.security.plain.PlainLoginModule required user_bob=\"bobs-secret\";";
    let extra = format!(
        "listener.name.secure.ssl.keystore.type=PEM\n\
         listener.name.secure.ssl.keystore.location={}\n\
         listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-256,PLAIN\n\
         listener.name.secure.scram-sha-256.sasl.jaas.config={scram}\n\
         listener.name.secure.plain.sasl.jaas.config={plain}",
        dir.join("store.pem").display()
    );
    let broker = Broker::start_with(&[
        ("KAFKA_LISTENER", format!("SECURE://127.0.0.1:{port}")),
        ("KAFKA_ADVERTISED", format!("SECURE://127.0.0.1:{port}")),
        ("KAFKA_PROTOCOL", "SASL_SSL".to_owned()),
        ("KAFKA_EXTRA", extra),
        ("KAFKA_FORMAT", "--add-scram SCRAM-SHA-256=[name=alice,password=alices-secret]".to_owned()),
    ]);
    let secure = |mechanism: &str, user: &str, password: &str, ca: &str| {
        let mut config = broker.config(&fresh_prefix());
        config.brokers = format!("127.0.0.1:{port}");
        config.request_timeout_ms = 20_000;
        for (key, value) in [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", mechanism),
            ("sasl.username", user),
            ("sasl.password", password),
            ("ssl.ca.location", dir.join(ca).to_str().unwrap()),
        ] {
            config.properties.insert(key.to_owned(), value.to_owned());
        }
        config
    };
    for (mechanism, user, password) in
        [("SCRAM-SHA-256", "alice", "alices-secret"), ("PLAIN", "bob", "bobs-secret")]
    {
        let config = secure(mechanism, user, password, "ca.pem");
        create_topics(&config).await;
        let log = KafkaLog::connect(config).await.unwrap();
        log.append((0..40).map(|n| record(Topic::Inbox, n % 4, &n.to_string())).collect()).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let copier = tokio::spawn({
            let log = log.clone();
            async move { copy(&log, "p2.secure", "s", Arc::<Counts>::default(), stopped).await }
        });
        demand_exactly_once(&log, 40).await;
        stop.send(true).unwrap();
        copier.await.unwrap().unwrap();
    }
    let wrong = error(secure("SCRAM-SHA-256", "alice", "not-alices-secret", "ca.pem")).await;
    assert!(matches!(wrong, LogError::Refused(_)), "{wrong:?}");
    let wrong = wrong.to_string();
    assert!(wrong.contains("refuses the credentials") && wrong.contains("check sasl.*"), "{wrong}");
    assert!(!wrong.contains("alices-secret"), "{wrong}");
    let foreign = error(secure("SCRAM-SHA-256", "alice", "alices-secret", "other.pem")).await;
    assert!(matches!(foreign, LogError::Refused(_)), "{foreign:?}");
    assert!(foreign.to_string().contains("TLS fails"), "{foreign}");
    let absent = error(secure("SCRAM-SHA-256", "alice", "alices-secret", "absent.pem")).await;
    assert!(absent.to_string().contains("absent.pem"), "{absent}");
    let mut open = broker.config("");
    open.brokers = format!("127.0.0.1:{port}");
    let open = error(open).await.to_string();
    assert!(open.contains("no Kafka broker answers") && open.contains("security.protocol"), "{open}");
    std::fs::remove_dir_all(&dir).unwrap();
}
