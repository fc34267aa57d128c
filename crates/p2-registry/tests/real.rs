//! The client against a registry that nobody here wrote: Apicurio, started by `deploy/dev/registry.sh` when
//! `P2_REAL=1`.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use p2_core::record::{Payload, RegistryRecord, Topic};
use p2_registry::{FramedLog, RegistryClient, RegistryConfig, RegistryError, Schemas, register};
use p2_stream::memory::MemoryLog;
use p2_stream::ports::Log;
use p2_stream::wire;

/// Stopped when dropped. Its files are kept where a test failed.
struct Registry {
    dir: PathBuf,
    port: u16,
}

fn script() -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/dev/registry.sh"));
    command.stdin(Stdio::null());
    command
}

impl Registry {
    /// None where tests on real services are not wanted; then one line says so.
    fn start() -> Option<Registry> {
        if std::env::var("P2_REAL").is_ok_and(|value| value == "1") {
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("registry-{}", std::process::id()));
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let registry = Registry { dir, port };
            registry.run();
            return Some(registry);
        }
        // Past the capture of the test harness.
        let line =
            "p2-registry: tests on a real registry are skipped; P2_REAL=1 starts one (Java 17 and Maven)";
        let _ = writeln!(std::io::stderr(), "{line}");
        None
    }

    fn run(&self) {
        let arguments = [self.dir.to_str().unwrap(), &self.port.to_string(), &std::process::id().to_string()];
        // The registry inherits what is open here: with a pipe of ours this would wait for its end.
        let status = script().arg("start").args(arguments).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "files in {}", self.dir.display());
    }

    fn stop(&self) {
        assert!(script().args(["stop", self.dir.to_str().unwrap()]).status().unwrap().success());
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    fn client(&self) -> RegistryClient {
        let config = RegistryConfig { url: self.url(), ..RegistryConfig::default() };
        RegistryClient::new(config).unwrap()
    }

    async fn be_strict(&self) {
        let request = reqwest::Client::new()
            .put(format!("{}/config", self.url()))
            .header("content-type", "application/vnd.schemaregistry.v1+json")
            .body(r#"{"compatibility": "BACKWARD"}"#);
        assert!(request.send().await.unwrap().status().is_success());
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = script().args(["stop", self.dir.to_str().unwrap_or_default()]).status();
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn record(id: &str) -> p2_stream::ports::NewRecord {
    let (kind, key) = ("tool".to_owned(), format!("tool/{id}"));
    let payload = RegistryRecord { key, kind, id: id.to_owned(), version: 1, body: None };
    let id = p2_core::ids::Id::of_text(id);
    let payload = Payload::Registry(payload);
    let message = p2_core::record::Message {
        id,
        cause: id,
        cause_position: None,
        time_ms: 1_000,
        traceparent: None,
        payload,
    };
    wire::encode(&message, "/test", 1).unwrap()
}

const HISTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/history/");

#[tokio::test]
async fn schemas_are_registered_once_fetched_by_id_and_refused_where_they_do_not_fit() {
    let Some(registry) = Registry::start() else { return };
    registry.be_strict().await;
    let client = registry.client();

    // Every published version in its order, as engines of those days registered them: each fits the one before.
    let mut ids = Vec::new();
    for topic in Topic::ALL {
        let folder = Path::new(HISTORY).join(topic.short());
        let versions = (1..).map(|version| folder.join(format!("{version}.avsc")));
        for text in versions.map_while(|path| std::fs::read_to_string(path).ok()) {
            let id = client.register(&format!("{}-value", topic.name()), &text).await.unwrap();
            let found = client.schema(id).await.unwrap().unwrap();
            assert_eq!(wire::fingerprint(&found), wire::fingerprint(&text), "{topic:?}");
            ids.push(id);
        }
    }
    let before = ids.clone();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), before.len(), "an id of its own for each");

    let name_of = |topic: Topic| topic.name().to_owned();
    let known = register(&client, name_of).await.unwrap();
    assert_eq!(register(&client, name_of).await.unwrap(), known, "again changes nothing");
    assert!(ids.iter().any(|id| known.knows(*id)));
    assert_eq!(client.schema(4_000_000).await, Ok(None));

    let breaking = r#"{"type": "record", "name": "InboxMessage", "namespace": "p2",
        "fields": [{"name": "surprise", "type": "string"}]}"#;
    let refused = client.register("p2.inbox.v1-value", breaking).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Refused(_)), "{refused}");
    let refused = refused.to_string();
    assert!(refused.contains("'p2.inbox.v1-value'") && refused.contains("BACKWARD"), "{refused}");

    // A second process, which has registered nothing, reads by asking.
    let below = MemoryLog::new(1);
    let writer = FramedLog::new(Arc::new(below.clone()), Arc::new(client.clone()), known.clone());
    writer.append(vec![record("a")]).await.unwrap();
    let stored = below.read(Topic::Registry, 0, 0, 1).await.unwrap().remove(0);
    assert_eq!(stored.record.value.first(), Some(&0));
    let reader = FramedLog::new(Arc::new(below), Arc::new(client.clone()), wire::SchemaIds::default());
    assert_eq!(reader.read(Topic::Registry, 0, 0, 1).await.unwrap().remove(0).record, record("a"));

    // The ids stay over a restart, and while it is away that is said.
    registry.stop();
    let away = client.schema(1).await.unwrap_err();
    assert!(matches!(&away, RegistryError::Unavailable { .. }), "{away}");
    assert!(away.to_string().contains(&registry.url()), "{away}");
    registry.run();
    assert_eq!(register(&client, name_of).await.unwrap(), known);

    let wrong =
        RegistryConfig { url: registry.url().replace("ccompat", "elsewhere"), ..RegistryConfig::default() };
    let lost = register(&RegistryClient::new(wrong).unwrap(), name_of).await.unwrap_err();
    assert!(lost.to_string().contains("schema_registry.url"), "{lost}");
}
