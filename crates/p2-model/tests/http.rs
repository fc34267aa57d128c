//! The OpenAI-compatible client against a plain TCP server whose every byte is written here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use p2_core::model::{ChatMessage, ModelErrorClass, ModelOutcome, ModelRequest};
use p2_model::router::{ProviderConfig, Router, RouterConfig};
use p2_model::secret::Secret;
use p2_stream::ports::Model;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const KEY: &str = "sk-do-not-show-me";

/// What the server does with one request.
#[derive(Clone)]
enum Play {
    /// Writes these bytes, then closes.
    Bytes(String),
    /// Reads the request and says nothing until the client goes away; then reports it.
    Silence,
    /// Closes at once.
    Close,
}

struct Server {
    base_url: String,
    requests: Arc<Mutex<Vec<String>>>,
    gone: mpsc::UnboundedReceiver<()>,
    begun: mpsc::UnboundedReceiver<()>,
}

/// Plays one `Play` per connection, the last one for ever.
async fn server(plays: Vec<Play>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (tell_gone, gone) = mpsc::unbounded_channel();
    let (tell_begun, begun) = mpsc::unbounded_channel();
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let play = plays.get(number).or(plays.last()).unwrap().clone();
            let (seen, tell_gone, tell_begun) = (Arc::clone(&seen), tell_gone.clone(), tell_begun.clone());
            tokio::spawn(async move {
                let request = read_request(&mut stream).await;
                seen.lock().unwrap().push(request);
                let _ = tell_begun.send(());
                match play {
                    Play::Bytes(bytes) => {
                        let _ = stream.write_all(bytes.as_bytes()).await;
                        let _ = stream.shutdown().await;
                    }
                    Play::Silence => {
                        let _ = stream.read(&mut [0; 1]).await;
                        let _ = tell_gone.send(());
                    }
                    Play::Close => {}
                }
            });
        }
    });
    Server { base_url, requests, gone, begun }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")
                    .map(|n| n.parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return text,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn response(status: &str, headers: &str, body: &str) -> Play {
    Play::Bytes(format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
        body.len()
    ))
}

fn ok(text: &str) -> Play {
    response("200 OK", "", &completion(text))
}

fn completion(text: &str) -> String {
    serde_json::json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).to_string()
}

fn router(base_url: &str) -> Router {
    let provider = ProviderConfig {
        name: "local".into(),
        base_url: base_url.into(),
        api_key_env: None,
        api_key: Some(Secret::new(KEY)),
        headers: BTreeMap::from([("x-team".to_owned(), Secret::new("team-secret"))]),
    };
    Router::new(RouterConfig { providers: vec![provider], scripts_dir: None }, |_| None).unwrap()
}

fn within(time: Duration) -> i64 {
    i64::try_from((SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + time).as_millis())
        .unwrap()
}

fn request() -> ModelRequest {
    ModelRequest {
        model: "local/org/model-1".into(),
        messages: vec![ChatMessage::User { content: "hello".into() }],
        tools: vec![],
        temperature: None,
        top_p: None,
        max_tokens: None,
    }
}

async fn ask(server: &Server, time: Duration) -> ModelOutcome {
    let outcome = router(&server.base_url).ask(&request(), within(time)).await;
    let shown =
        format!("{outcome:?} {}", outcome.result.as_ref().err().map(ToString::to_string).unwrap_or_default());
    assert!(!shown.contains(KEY) && !shown.contains("team-secret"), "{shown}");
    outcome
}

const LONG: Duration = Duration::from_secs(30);

#[track_caller]
fn text(outcome: &ModelOutcome) -> &str {
    outcome.result.as_ref().unwrap().text.as_deref().unwrap()
}

#[tokio::test]
async fn a_reply_is_asked_for_with_the_key_and_the_models_own_name() {
    let server = server(vec![ok("hi there")]).await;
    let outcome = ask(&server, LONG).await;
    assert_eq!((text(&outcome), outcome.attempts), ("hi there", 1));
    let requests = server.requests.lock().unwrap();
    let request = &requests[0];
    assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("authorization: Bearer {KEY}\r\n")), "{request}");
    assert!(request.contains("x-team: team-secret\r\n"), "{request}");
    assert!(
        request.ends_with(r#"{"messages":[{"content":"hello","role":"user"}],"model":"org/model-1"}"#),
        "{request}"
    );
}

#[tokio::test]
async fn a_connection_cut_in_the_body_is_repeated_and_never_a_short_answer() {
    let whole = completion("a long answer that will be cut");
    let cut_by_length =
        Play::Bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", whole.len(), &whole[..40]));
    let cut_without_length =
        Play::Bytes(format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", &whole[..40]));
    let cut_chunked = Play::Bytes(format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{whole}\r\n",
        whole.len()
    ));
    let server = server(vec![cut_by_length, cut_without_length, cut_chunked, Play::Close, ok("whole")]).await;
    let outcome = ask(&server, LONG).await;
    assert_eq!((text(&outcome), outcome.attempts), ("whole", 5));
}

#[tokio::test]
async fn what_stays_cut_ends_as_incomplete_or_at_the_deadline() {
    let server =
        server(vec![Play::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"choices\"".into())]).await;
    let outcome = ask(&server, Duration::from_millis(600)).await;
    let error = outcome.result.unwrap_err();
    assert!(["incomplete", "timeout"].contains(&error.code.as_str()), "{error}");
    assert!(error.class != ModelErrorClass::Permanent && outcome.attempts >= 1, "{error:?}");
}

#[tokio::test]
async fn a_body_that_is_no_chat_completion_is_malformed_at_once() {
    for body in ["<html>welcome</html>", "{\"choices\": [{\"mess", "{}", r#"{"choices": []}"#] {
        let server = server(vec![response("200 OK", "", body), ok("later")]).await;
        let outcome = ask(&server, LONG).await;
        match outcome.result {
            // Cut JSON under a right length is as good as a cut connection: asked again.
            Ok(reply) => assert_eq!((reply.text.as_deref(), body), (Some("later"), "{\"choices\": [{\"mess")),
            Err(error) => {
                assert_eq!(
                    (error.code.as_str(), error.class),
                    ("malformed", ModelErrorClass::Permanent),
                    "{body}"
                );
                assert_eq!(outcome.attempts, 1);
            }
        }
    }
}

#[tokio::test]
async fn a_rate_limit_then_an_error_then_an_answer_is_an_answer() {
    let limited =
        response("429 Too Many Requests", "retry-after: 1\r\n", r#"{"error": {"message": "slow down"}}"#);
    let server = server(vec![limited, response("500 Oh", "", "boom"), ok("third time lucky")]).await;
    let begin = Instant::now();
    let outcome = ask(&server, LONG).await;
    assert_eq!((text(&outcome), outcome.attempts), ("third time lucky", 3));
    assert!(begin.elapsed() >= Duration::from_secs(1), "Retry-After was not honoured: {:?}", begin.elapsed());
    assert!(outcome.latency_ms >= 1000, "{}", outcome.latency_ms);
}

#[tokio::test]
async fn a_rate_limit_beyond_the_deadline_is_reported_at_once() {
    let limited =
        response("429 Too Many Requests", "retry-after: 100\r\n", r#"{"error": {"message": "slow down"}}"#);
    let server = server(vec![limited]).await;
    let begin = Instant::now();
    let outcome = ask(&server, LONG).await;
    let error = outcome.result.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (ModelErrorClass::Transient, "http_429"));
    assert!(error.message.contains("slow down"), "{error}");
    assert!(begin.elapsed() < LONG && outcome.attempts == 1);
}

#[tokio::test]
async fn a_permanent_refusal_is_told_in_the_providers_words_without_the_key() {
    for (status, code) in [
        ("400 Bad", "http_400"),
        ("401 No", "http_401"),
        ("403 No", "http_403"),
        ("404 No", "http_404"),
        ("422 No", "http_422"),
    ] {
        let body =
            format!(r#"{{"error": {{"message": "no such model, or a wrong key {KEY} of team-secret"}}}}"#);
        let server = server(vec![response(status, "retry-after: 1\r\n", &body)]).await;
        let outcome = ask(&server, LONG).await;
        let error = outcome.result.unwrap_err();
        assert_eq!(
            (error.class, error.code.as_str(), outcome.attempts),
            (ModelErrorClass::Permanent, code, 1)
        );
        assert!(error.message.contains("no such model, or a wrong key [redacted] of [redacted]"), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = server(vec![ok("stolen")]).await;
    let location = format!("location: {}\r\n", elsewhere.base_url);
    let server = server(vec![response("307 Temporary Redirect", &location, "")]).await;
    let outcome = ask(&server, LONG).await;
    assert_eq!(outcome.result.unwrap_err().code, "http_307");
    assert!(elsewhere.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_slow_server_is_cut_at_the_deadline() {
    let mut server = server(vec![Play::Silence]).await;
    let begin = Instant::now();
    let outcome = ask(&server, Duration::from_millis(300)).await;
    let error = outcome.result.unwrap_err();
    assert_eq!(
        (error.class, error.code.as_str(), outcome.attempts),
        (ModelErrorClass::Timeout, "timeout", 1)
    );
    assert!(begin.elapsed() >= Duration::from_millis(290), "{:?}", begin.elapsed());
    tokio::time::timeout(LONG, server.gone.recv()).await.expect("the connection was left open");
}

#[tokio::test]
async fn a_deadline_in_the_past_asks_nobody() {
    let server = server(vec![ok("late")]).await;
    let outcome = ask(&server, Duration::ZERO).await;
    assert_eq!((outcome.result.unwrap_err().class, outcome.attempts), (ModelErrorClass::Timeout, 0));
    assert!(server.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn dropping_the_call_closes_the_connection() {
    let mut server = server(vec![Play::Silence]).await;
    let router = router(&server.base_url);
    let request = request();
    tokio::select! {
        outcome = router.ask(&request, within(LONG)) => panic!("{outcome:?}"),
        begun = server.begun.recv() => assert!(begun.is_some()),
    }
    tokio::time::timeout(LONG, server.gone.recv()).await.expect("the connection was left open");
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error_after_several_attempts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let outcome = router(&base_url).ask(&request(), within(Duration::from_secs(2))).await;
    let error = outcome.result.unwrap_err();
    assert!(["connect", "timeout"].contains(&error.code.as_str()), "{error}");
    assert!(
        error.class != ModelErrorClass::Permanent && outcome.attempts > 1,
        "{error:?} {}",
        outcome.attempts
    );
    assert!(!error.message.contains(KEY));
}

#[tokio::test]
async fn a_reply_without_end_is_refused_by_size() {
    let body = format!("{{\"choices\": \"{}\"}}", "x".repeat(p2_model::openai::BODY_BYTES_MAX));
    let server = server(vec![response("200 OK", "", &body)]).await;
    let error = ask(&server, LONG).await.result.unwrap_err();
    assert_eq!(error.code, "malformed");
    assert!(error.message.contains("larger than"), "{error}");
}
