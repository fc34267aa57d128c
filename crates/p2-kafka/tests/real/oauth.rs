//! Tokens: OAUTHBEARER with a token endpoint that hands out short-lived ones, and a broker that checks their
//! signatures.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use p2_core::record::Topic;
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_stream::ports::{Log, LogError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::broker::{self, Broker, create_topics, free_port, fresh_prefix};
use crate::clients::error;
use crate::copier::{Counts, copy, demand_exactly_once, record};

/// How long a token lives.
const LIFE: Duration = Duration::from_secs(8);
const SECRET: &str = "the-secret-of-p2";

fn openssl(dir: &Path, arguments: &str, input: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(dir).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "openssl {arguments}");
    done.stdout
}

/// A token endpoint with one client, `p2`, and the key by which brokers know its tokens.
struct Endpoint {
    dir: PathBuf,
    port: u16,
    issued: AtomicU64,
    refused: AtomicU64,
    is_away: AtomicBool,
}

impl Endpoint {
    async fn start(dir: &Path) -> Arc<Endpoint> {
        openssl(dir, "genrsa -out tokens.key 2048", &[]);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = Arc::new(Endpoint {
            dir: dir.to_owned(),
            port: listener.local_addr().unwrap().port(),
            issued: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            is_away: AtomicBool::new(false),
        });
        let serving = Arc::clone(&endpoint);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let endpoint = Arc::clone(&serving);
                tokio::spawn(async move { endpoint.serve(client).await });
            }
        });
        endpoint
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    async fn serve(&self, mut client: TcpStream) -> Option<()> {
        let mut request = Vec::new();
        while !String::from_utf8_lossy(&request).contains("\r\n\r\n") {
            let mut piece = [0; 4_096];
            let count = client.read(&mut piece).await.ok().filter(|count| *count > 0)?;
            request.extend_from_slice(&piece[..count]);
        }
        let request = String::from_utf8_lossy(&request).into_owned();
        let (status, body) = self.answer(&request);
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        client.write_all(answer.as_bytes()).await.ok()
    }

    fn answer(&self, request: &str) -> (&'static str, String) {
        if request.starts_with("GET /keys") {
            return ("200 OK", self.keys());
        }
        if self.is_away.load(Ordering::SeqCst) {
            return ("503 Service Unavailable", r#"{"error":"away"}"#.to_owned());
        }
        let basic = STANDARD.encode(format!("p2:{SECRET}"));
        if !request.contains(&format!("Authorization: Basic {basic}\r\n")) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return ("401 Unauthorized", r#"{"error":"invalid_client"}"#.to_owned());
        }
        self.issued.fetch_add(1, Ordering::SeqCst);
        (
            "200 OK",
            format!(
                r#"{{"access_token":"{}","token_type":"Bearer","expires_in":{}}}"#,
                self.token(),
                LIFE.as_secs()
            ),
        )
    }

    fn token(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = r#"{"alg":"RS256","typ":"JWT","kid":"k"}"#;
        let claims = format!(
            r#"{{"sub":"p2","aud":"kafka","scope":"log","iat":{now},"exp":{}}}"#,
            now + LIFE.as_secs()
        );
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = openssl(&self.dir, "dgst -sha256 -sign tokens.key", text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn keys(&self) -> String {
        let said = String::from_utf8(openssl(&self.dir, "rsa -in tokens.key -noout -modulus", &[])).unwrap();
        let digits = said.trim().strip_prefix("Modulus=").unwrap();
        let modulus: Vec<u8> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect();
        let modulus = URL_SAFE_NO_PAD.encode(modulus);
        format!(
            r#"{{"keys":[{{"kty":"RSA","kid":"k","alg":"RS256","use":"sig","n":"{modulus}","e":"AQAB"}}]}}"#
        )
    }
}

/// A broker that lets in who has a token, for as long as it lives, and the settings of a client.
fn guarded(endpoint: &Endpoint) -> (Broker, impl Fn(&str) -> KafkaConfig) {
    let port = free_port();
    let of = "listener.name.guarded.oauthbearer";
    let package = "org.apache.kafka.common.security.oauthbearer";
    let extra = format!(
        "listener.name.guarded.sasl.enabled.mechanisms=OAUTHBEARER\n\
         {of}.sasl.jaas.config={package}.OAuthBearerLoginModule required;\n\
         {of}.sasl.server.callback.handler.class={package}.OAuthBearerValidatorCallbackHandler\n\
         {of}.sasl.oauthbearer.jwks.endpoint.url={}\n\
         {of}.sasl.oauthbearer.expected.audience=kafka\n\
         {of}.connections.max.reauth.ms=600000\n\
         sasl.oauthbearer.jwks.endpoint.url={}\n\
         sasl.oauthbearer.expected.audience=kafka",
        endpoint.url("keys"),
        endpoint.url("keys")
    );
    let broker = Broker::start_with(&[
        ("KAFKA_LISTENER", format!("GUARDED://127.0.0.1:{port}")),
        ("KAFKA_ADVERTISED", format!("GUARDED://127.0.0.1:{port}")),
        ("KAFKA_PROTOCOL", "SASL_PLAINTEXT".to_owned()),
        ("KAFKA_EXTRA", extra),
        (
            "KAFKA_HEAP",
            format!(
                "-Xms128m -Xmx256m -Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}",
                endpoint.url("keys")
            ),
        ),
    ]);
    let (open, url) = (broker.config(""), endpoint.url("token"));
    let config = move |secret: &str| {
        let mut config = KafkaConfig {
            brokers: format!("127.0.0.1:{port}"),
            prefix: fresh_prefix(),
            request_timeout_ms: 20_000,
            ..open.clone()
        };
        for (key, value) in [
            ("security.protocol", "sasl_plaintext"),
            ("sasl.mechanism", "OAUTHBEARER"),
            ("sasl.oauthbearer.method", "oidc"),
            ("sasl.oauthbearer.token.endpoint.url", &url),
            ("sasl.oauthbearer.client.id", "p2"),
            ("sasl.oauthbearer.client.secret", secret),
            ("sasl.oauthbearer.scope", "log"),
        ] {
            config.properties.insert(key.to_owned(), value.to_owned());
        }
        config
    };
    (broker, config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_over_many_lives_of_a_token_and_while_none_can_be_had() {
    if !broker::is_wanted() {
        return;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{}-oauth", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let endpoint = Endpoint::start(&dir).await;
    let (_broker, config) = guarded(&endpoint);
    let config = config(SECRET);
    create_topics(&config).await;
    let log = KafkaLog::connect(config).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let copier = tokio::spawn({
        let log = log.clone();
        async move { copy(&log, "p2.tokens", "t", Arc::<Counts>::default(), stopped).await }
    });
    let mut inputs = 0;
    let mut write = async |seconds: u64| {
        let (begin, mut written, mut failed) = (Instant::now(), 0, 0);
        while begin.elapsed() < Duration::from_secs(seconds) {
            let text = |partition| format!("{inputs}/{partition}");
            let records = (0..4).map(|partition| record(Topic::Inbox, partition, &text(partition)));
            match log.append(records.collect()).await {
                Ok(_) => (inputs, written) = (inputs + 4, written + 4),
                Err(LogError::Unavailable(_)) => failed += 1,
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (written, failed)
    };
    let before = endpoint.issued.load(Ordering::SeqCst);
    let (written, failed) = write(3 * LIFE.as_secs() + 2).await;
    let issued = endpoint.issued.load(Ordering::SeqCst) - before;
    eprintln!(
        "over three lives of a token: {written} records, {failed} attempts failed, {issued} tokens issued"
    );
    assert!(failed == 0 && issued >= 9, "a token for each client and each life");

    // Longer than a token lives: the broker lets nobody in any more, and nobody gives up.
    endpoint.is_away.store(true, Ordering::SeqCst);
    let (written, failed) = write(2 * LIFE.as_secs()).await;
    eprintln!("while none could be had: {written} records, {failed} attempts failed");
    endpoint.is_away.store(false, Ordering::SeqCst);
    let begin = Instant::now();
    let mut back = 0;
    while back == 0 {
        assert!(begin.elapsed() < Duration::from_secs(90), "it goes on when tokens can be had again");
        back = write(1).await.0;
    }
    eprintln!("{} ms after they could be had again it went on", begin.elapsed().as_millis());
    demand_exactly_once(&log, inputs).await;
    stop.send(true).unwrap();
    copier.await.unwrap().unwrap();
    let debug = format!("{:?}", log_config(&endpoint));
    assert!(!debug.contains(SECRET), "{debug}");
    std::fs::remove_dir_all(&dir).unwrap();
}

fn log_config(endpoint: &Endpoint) -> KafkaConfig {
    let mut config = KafkaConfig::default();
    config.properties.insert("sasl.oauthbearer.client.secret".to_owned(), SECRET.to_owned());
    config.properties.insert("sasl.oauthbearer.token.endpoint.url".to_owned(), endpoint.url("token"));
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_and_an_endpoint_that_is_not_there_are_one_sentence() {
    if !broker::is_wanted() {
        return;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{}-refused", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let endpoint = Endpoint::start(&dir).await;
    let (_broker, config) = guarded(&endpoint);
    let begin = Instant::now();
    let wrong = error(config("not-the-secret")).await;
    assert!(matches!(wrong, LogError::Refused(_)), "{wrong:?}");
    let wrong = wrong.to_string();
    eprintln!("after {} ms: {wrong}", begin.elapsed().as_millis());
    assert!(wrong.contains("invalid_client") && wrong.contains("sasl.oauthbearer.client.secret"), "{wrong}");
    assert!(!wrong.contains("not-the-secret"), "{wrong}");
    assert!(endpoint.refused.load(Ordering::SeqCst) > 0);

    let mut elsewhere = config(SECRET);
    let nowhere = format!("http://127.0.0.1:{}/token", free_port());
    elsewhere.properties.insert("sasl.oauthbearer.token.endpoint.url".to_owned(), nowhere.clone());
    elsewhere.request_timeout_ms = 5_000;
    let absent = error(elsewhere).await;
    assert!(matches!(absent, LogError::Unavailable(_)), "{absent:?}");
    let absent = absent.to_string();
    eprintln!("{absent}");
    assert!(absent.contains("no token") && absent.contains(&nowhere) && !absent.contains(SECRET), "{absent}");
    std::fs::remove_dir_all(&dir).unwrap();
}
