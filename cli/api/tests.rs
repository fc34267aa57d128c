use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use p2_core::conversation::Conversation;
use p2_core::definition::{Definition, Price};
use p2_core::ids::{BookId, ConversationId, Id};
use p2_core::record::{
    Artifact, DeadLetter, InboxBody, InboxMessage, LedgerTransaction, Outcome, PaymentRequest,
    RegistryRecord, Topic, UserText, Verdict,
};
use p2_core::registry::Registry;
use p2_stream::metrics::Metrics;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::endpoint::{self, Endpoint};
use crate::client::HttpEngine;
use crate::engine::{
    ArtifactFilter, BookView, ConversationLine, Engine, EngineError, EngineResult, InDoubt, LedgerReport,
    RecordView, RecordsQuery, Resolution, TopicCount, VerifyReport,
};
use crate::wiring::{Opened, serve};

/// Remembers what it was asked and answers from memory.
#[derive(Default)]
struct FakeEngine {
    inbox: Mutex<Vec<(Id, InboxMessage)>>,
    resolved: Mutex<Vec<(Id, Resolution)>>,
    queries: Mutex<Vec<RecordsQuery>>,
}

#[async_trait]
impl Engine for FakeEngine {
    async fn append(&self, id: Id, message: InboxMessage) -> EngineResult<()> {
        self.inbox.lock().unwrap().push((id, message));
        Ok(())
    }

    async fn outcome(&self, _: &ConversationId, input: Id, _: Duration) -> EngineResult<Option<Outcome>> {
        let known = self.inbox.lock().unwrap().iter().any(|(id, _)| *id == input);
        let outcome = Outcome {
            verdict: Verdict::Refused,
            code: "conflict".into(),
            message: "somebody was faster".into(),
            reference: None,
        };
        Ok(known.then_some(outcome))
    }

    async fn conversation(&self, id: &ConversationId) -> EngineResult<Option<Conversation>> {
        let known = id.as_str() == "trip / ü?";
        Ok(known.then(|| Conversation { id: id.clone(), next_seq: 3, ..Conversation::default() }))
    }

    async fn conversations(&self) -> EngineResult<Vec<ConversationLine>> {
        Ok(Vec::new())
    }

    async fn wait_change(
        &self,
        id: &ConversationId,
        _: i64,
        _: Duration,
    ) -> EngineResult<Option<Conversation>> {
        self.conversation(id).await
    }

    async fn wait_rest(
        &self,
        id: &ConversationId,
        _: i64,
        _: Duration,
    ) -> EngineResult<Option<Conversation>> {
        self.conversation(id).await
    }

    async fn artifacts(&self, _: &ArtifactFilter) -> EngineResult<Vec<Artifact>> {
        Ok(Vec::new())
    }

    async fn records(&self, query: &RecordsQuery) -> EngineResult<Vec<RecordView>> {
        self.queries.lock().unwrap().push(query.clone());
        Ok(Vec::new())
    }

    async fn registry(&self) -> EngineResult<Registry> {
        let mut registry = Registry::default();
        registry.insert(Definition::Price(price()), 4);
        Ok(registry)
    }

    async fn apply(&self, _: Vec<RegistryRecord>) -> EngineResult<()> {
        Err(EngineError::Refused { code: "limit".into(), message: "too many".into() })
    }

    async fn dead_letters(&self) -> EngineResult<Vec<DeadLetter>> {
        Ok(Vec::new())
    }

    async fn replay_dead_letter(&self, letter: Id, _: bool) -> EngineResult<()> {
        Err(EngineError::NotFound(format!("there is no dead letter {letter}")))
    }

    async fn in_doubt(&self) -> EngineResult<Vec<InDoubt>> {
        Ok(Vec::new())
    }

    async fn resolve(&self, effect: Id, resolution: Resolution) -> EngineResult<()> {
        self.resolved.lock().unwrap().push((effect, resolution));
        Ok(())
    }

    async fn verify_replay(&self) -> EngineResult<VerifyReport> {
        Ok(VerifyReport { conversations: 1, transitions: 2, differences: vec!["one".into()] })
    }

    async fn request_evaluations(&self, requests: Vec<Artifact>) -> EngineResult<()> {
        assert!(requests.is_empty());
        Ok(())
    }

    async fn pay(&self, request: PaymentRequest) -> EngineResult<LedgerTransaction> {
        Err(EngineError::Refused { code: "conflict".into(), message: request.id.to_string() })
    }

    async fn book(&self, book: &BookId) -> EngineResult<Option<BookView>> {
        Ok((book.as_str() == "a/b").then(|| BookView {
            book: book.clone(),
            unit: "TOKEN".into(),
            scale: 2,
            policy: None,
            accounts: Vec::new(),
            reservations: Vec::new(),
            held: Vec::new(),
            transactions: 4,
        }))
    }

    async fn books(&self) -> EngineResult<Vec<BookId>> {
        Ok(vec!["a/b".into()])
    }

    async fn verify_ledger(&self) -> EngineResult<LedgerReport> {
        Ok(LedgerReport { books: 1, differences: vec!["one".into()], ..LedgerReport::default() })
    }

    async fn topic_counts(&self) -> EngineResult<Vec<TopicCount>> {
        Ok(vec![TopicCount { topic: "inbox".into(), partitions: vec![(2, 5), (0, 1)] }])
    }
}

fn price() -> Price {
    Price { id: "a/b".into(), prompt_usd_per_million: "1.5".into(), completion_usd_per_million: "2".into() }
}

fn hello() -> InboxMessage {
    let body = InboxBody::UserText(UserText { agent: None, branch: None, text: "hello".into() });
    InboxMessage { conversation: "trip / ü?".into(), body }
}

async fn start(dir: &Path) -> (Arc<FakeEngine>, Opened, HttpEngine) {
    let fake = Arc::new(FakeEngine::default());
    let opened = serve(fake.clone(), Metrics::new(), &dir.join("api.json"), 0).await.unwrap();
    let client = HttpEngine::find(&dir.join("api.json")).await.unwrap().unwrap();
    (fake, opened, client)
}

#[tokio::test]
async fn a_second_process_sees_the_same_engine() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, opened, client) = start(dir.path()).await;
    let (id, outcome) = client.submit(hello()).await.unwrap();
    assert_eq!(fake.inbox.lock().unwrap().as_slice(), [(id, hello())]);
    assert_eq!((outcome.verdict, outcome.code.as_str()), (Verdict::Refused, "conflict"));
    let name = ConversationId::from("trip / ü?");
    assert_eq!(client.conversation(&name).await.unwrap().unwrap().next_seq, 3);
    assert_eq!(client.conversation(&"other".into()).await.unwrap(), None);
    let changed = client.wait_change(&name, 2, Duration::from_secs(5)).await.unwrap();
    assert_eq!(changed.unwrap().id, name);
    assert_eq!(client.registry().await.unwrap(), fake.registry().await.unwrap());
    assert_eq!(client.verify_replay().await.unwrap(), fake.verify_replay().await.unwrap());
    assert_eq!(client.topic_counts().await.unwrap()[0].records(), 4);
    let query = RecordsQuery { topic: Topic::Inbox, partition: Some(3), from: -2, max: 7 };
    client.records(&query).await.unwrap();
    assert_eq!(fake.queries.lock().unwrap().as_slice(), [query]);
    let resolution = Resolution::NotDone { reason: "asked them".into() };
    client.resolve(id, resolution.clone()).await.unwrap();
    assert_eq!(fake.resolved.lock().unwrap().as_slice(), [(id, resolution)]);
    opened.close().await.unwrap();
}

#[tokio::test]
async fn errors_keep_their_class_and_code_over_http() {
    let dir = tempfile::tempdir().unwrap();
    let (_, opened, client) = start(dir.path()).await;
    let refused = client.apply(Vec::new()).await.unwrap_err();
    assert_eq!(refused, EngineError::Refused { code: "limit".into(), message: "too many".into() });
    let id = Id::of_text("x");
    let missing = client.replay_dead_letter(id, true).await.unwrap_err();
    assert_eq!(missing, EngineError::NotFound(format!("there is no dead letter {id}")));
    opened.close().await.unwrap();
}

async fn raw(endpoint: &Endpoint, token: &str, path: &str, body: Option<&str>) -> (StatusCode, Value) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}{path}", endpoint.url);
    let request = match body {
        None => http.get(url),
        Some(body) => http.post(url).header("content-type", "application/json").body(body.to_owned()),
    };
    let response = request.bearer_auth(token).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn every_error_has_one_shape_and_nothing_works_without_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("api.json");
    let (fake, opened, _client) = start(dir.path()).await;
    let endpoint = endpoint::read(&file).unwrap().unwrap();
    let message = serde_json::to_string(&hello()).unwrap();
    for (token, path, body, status, code) in [
        ("wrong", "/v1/inbox", Some(message.as_str()), 401, "unauthorized"),
        ("", "/v1/nothing", None, 401, "unauthorized"),
        (&endpoint.token, "/v1/nothing", None, 404, "not_found"),
        (&endpoint.token, "/v1/conversations/none", None, 404, "not_found"),
        (&endpoint.token, "/v1/topics/none/records", None, 404, "not_found"),
        (&endpoint.token, "/v1/topics/inbox/records?from=x", None, 400, "invalid"),
        (&endpoint.token, "/v1/inbox", Some("{\"conversation\":"), 400, "invalid"),
        (&endpoint.token, "/v1/inbox?wait=never", Some(&message), 400, "invalid"),
        (&endpoint.token, "/v1/inbox", None, 405, "invalid"),
    ] {
        let (found, body) = raw(&endpoint, token, path, body).await;
        assert_eq!(found.as_u16(), status, "{path}: {body}");
        assert_eq!(body["error"]["code"], json!(code), "{path}: {body}");
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
        assert!(!body.to_string().contains(&endpoint.token));
    }
    assert!(fake.inbox.lock().unwrap().is_empty());
    opened.close().await.unwrap();
}

#[tokio::test]
async fn an_inbox_message_is_accepted_after_it_is_stored_and_keeps_the_callers_id() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("api.json");
    let (fake, opened, _client) = start(dir.path()).await;
    let endpoint = endpoint::read(&file).unwrap().unwrap();
    let id = Id::of_text("mine");
    let mut body = serde_json::to_value(hello()).unwrap();
    body["id"] = json!(id);
    let (status, answer) = raw(&endpoint, &endpoint.token, "/v1/inbox", Some(&body.to_string())).await;
    assert_eq!((status.as_u16(), &answer["outcome"]), (202, &Value::Null));
    assert_eq!(fake.inbox.lock().unwrap()[0].0, id);
    let path = "/v1/inbox?wait=outcome";
    let (status, answer) = raw(&endpoint, &endpoint.token, path, Some(&body.to_string())).await;
    assert_eq!((status.as_u16(), &answer["outcome"]["code"]), (200, &json!("conflict")));
    opened.close().await.unwrap();
}

#[tokio::test]
async fn the_endpoint_file_is_its_owners_only_and_goes_with_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("api.json");
    let (_, opened, _client) = start(dir.path()).await;
    let path = file.clone();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let endpoint = endpoint::read(&file).unwrap().unwrap();
    assert!(endpoint.url.starts_with("http://127.0.0.1:"));
    assert!(!format!("{endpoint:?}").contains(&endpoint.token));
    opened.close().await.unwrap();
    assert!(!path.exists());
    // What a killed process leaves behind counts as nothing.
    std::mem::forget(endpoint::publish(&file, &endpoint).unwrap());
    assert!(HttpEngine::find(&file).await.unwrap().is_none());
}

#[test]
fn a_token_is_never_sent_to_another_machine() {
    for url in ["http://example.org:80", "https://127.0.0.1", "http://127.0.0.1.evil.example", "x"] {
        let endpoint = Endpoint { url: url.into(), pid: 1, token: "t".into() };
        assert!(HttpEngine::new(endpoint).is_err(), "{url}");
    }
}
