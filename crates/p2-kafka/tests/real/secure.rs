//! TLS and credentials.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use p2_core::record::Topic;
use p2_kafka::KafkaLog;
use p2_stream::ports::{Log, LogError};
use tokio::sync::watch;

use crate::broker::{self, Broker, create_topics, free_port, fresh_prefix};
use crate::clients::error;
use crate::copier::{Counts, copy, demand_exactly_once, record};

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
