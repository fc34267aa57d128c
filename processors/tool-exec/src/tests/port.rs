use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use p2_stream::ports::{ToolRequest, Toolbox};
use p2_stream::processor::Call;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers in order, then never; counts the calls.
struct Scripted {
    answers: Mutex<VecDeque<ToolReply>>,
    calls: AtomicUsize,
}

#[async_trait]
impl Toolbox for Scripted {
    async fn call(&self, _request: &ToolRequest) -> ToolReply {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers.lock().unwrap().pop_front();
        match answer {
            Some(reply) => reply,
            None => std::future::pending().await,
        }
    }

    async fn reconcile(&self, _request: &ToolRequest) -> Reconciled {
        std::future::pending().await
    }
}

#[derive(Default)]
struct Hooks {
    answers: Mutex<VecDeque<Result<(), WebhookError>>>,
    calls: AtomicUsize,
}

#[async_trait]
impl WebhookSender for Hooks {
    async fn post(&self, _url: &str, _body: &Value, _key: &Id) -> Result<(), WebhookError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.answers.lock().unwrap().pop_front().unwrap_or(Ok(()))
    }
}

struct Rig {
    port: ToolPort,
    tools: Arc<Scripted>,
    hooks: Arc<Hooks>,
    offset_ms: Arc<AtomicI64>,
}

/// A port whose clock is tokio's, which stands still but for timers, plus what a test adds.
fn rig(answers: impl IntoIterator<Item = ToolReply>, hooks: Vec<Result<(), WebhookError>>) -> Rig {
    let tools =
        Arc::new(Scripted { answers: Mutex::new(answers.into_iter().collect()), calls: AtomicUsize::new(0) });
    let hooks = Arc::new(Hooks { answers: Mutex::new(hooks.into()), calls: AtomicUsize::new(0) });
    let offset_ms = Arc::new(AtomicI64::new(0));
    let (start, offset) = (tokio::time::Instant::now(), offset_ms.clone());
    let clock: Clock = Arc::new(move || {
        NOW + offset.load(Ordering::SeqCst) + i64::try_from(start.elapsed().as_millis()).unwrap()
    });
    Rig { port: ToolPort::new(tools.clone(), hooks.clone(), clock), tools, hooks, offset_ms }
}

fn ask(name: &str) -> Call<ToolExecRequest> {
    Driver::new(&paris(name)).on(Event::Record, NOW).calls.remove(0)
}

fn post() -> Call<ToolExecRequest> {
    Driver::new(&webhook()).on(Event::Record, NOW).calls.remove(0)
}

fn failing(transient: bool) -> Result<(), WebhookError> {
    Err(WebhookError { transient, message: "no".into() })
}

#[tokio::test(start_paused = true)]
async fn a_call_is_cut_at_its_deadline_and_what_became_of_it_is_unknown() {
    let rig = rig([], vec![]);
    let reply = rig.port.carry_out(&ask("put")).await;
    let unknown = ToolReply::Unknown("no answer within 5000 ms".into());
    assert_eq!(reply, ToolExecReply::Tool { reply: unknown, latency_ms: 5_000, cache_hit: false });
}

#[tokio::test(start_paused = true)]
async fn a_call_after_its_deadline_is_not_sent() {
    let rig = rig([ToolReply::Success(json!({}))], vec![]);
    rig.offset_ms.store(60_000, Ordering::SeqCst);
    assert_eq!(rig.port.carry_out(&ask("pay")).await, ToolExecReply::NotSent);
    assert_eq!(rig.tools.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reconciler_that_does_not_answer_does_not_know() {
    let call = Driver::new(&paris("ship")).on(Event::Claimed, NOW).calls.remove(0);
    let reply = rig([], vec![]).port.carry_out(&call).await;
    assert_eq!(reply, ToolExecReply::Reconciled(Reconciled::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_success_is_answered_from_the_cache_until_it_is_too_old() {
    let rig = rig([1, 2].map(|n| ToolReply::Success(json!({ "n": n }))), vec![]);
    let mut seen = Vec::new();
    for offset_ms in [0, 59_999, 60_000] {
        rig.offset_ms.store(offset_ms, Ordering::SeqCst);
        let call = Call { deadline_ms: i64::MAX, ..ask("kept") };
        let ToolExecReply::Tool { reply: ToolReply::Success(value), cache_hit, .. } =
            rig.port.carry_out(&call).await
        else {
            panic!("no success")
        };
        seen.push((value["n"].as_i64().unwrap(), cache_hit));
    }
    assert_eq!(seen, [(1, false), (1, true), (2, false)]);
}

#[tokio::test(start_paused = true)]
async fn failures_and_errors_in_disguise_are_not_cached() {
    let answers = [
        ToolReply::Failure("no".into()),
        ToolReply::Success(json!({"status": "error", "message": "no"})),
        ToolReply::Success(json!({"n": 1})),
    ];
    let rig = rig(answers, vec![]);
    for _ in 0..4 {
        rig.port.carry_out(&ask("kept")).await;
    }
    assert_eq!(rig.tools.calls.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_tool_without_cache_is_called_each_time() {
    let rig = rig([1, 2].map(|n| ToolReply::Success(json!({ "n": n }))), vec![]);
    rig.port.carry_out(&ask("put")).await;
    rig.port.carry_out(&ask("put")).await;
    assert_eq!(rig.tools.calls.load(Ordering::SeqCst), 2);
}

#[test]
fn the_cache_stays_bounded_and_gives_up_what_ends_first() {
    let mut cache = cache::Cache::default();
    for n in 0..2_000 {
        cache.put(format!("key {n}"), json!(n), 0, 10_000 - n);
    }
    assert_eq!(cache.len(), 1_024);
    assert_eq!(cache.get("key 0", 5), Some(json!(0)));
    cache.put("large".into(), json!("x".repeat(100_000)), 0, 10_000);
    assert_eq!(cache.get("large", 5), None);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_is_tried_three_times_with_growing_pauses() {
    let rig = rig([], vec![failing(true), failing(true), failing(true)]);
    let start = tokio::time::Instant::now();
    let reply = rig.port.carry_out(&post()).await;
    assert_eq!(reply, ToolExecReply::Webhook(Err("no (after 3 attempts)".into())));
    assert_eq!(rig.hooks.calls.load(Ordering::SeqCst), 3);
    assert!((1_500..=2_250).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_works_the_second_time_is_delivered() {
    let rig = rig([], vec![failing(true)]);
    assert_eq!(rig.port.carry_out(&post()).await, ToolExecReply::Webhook(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_permanent_refusal_of_a_webhook_is_not_tried_again() {
    let rig = rig([], vec![failing(false)]);
    assert_eq!(rig.port.carry_out(&post()).await, ToolExecReply::Webhook(Err("no".into())));
    assert_eq!(rig.hooks.calls.load(Ordering::SeqCst), 1);
}

/// Serves one connection with this status line and returns what was sent to it.
async fn serve(listener: TcpListener, status: &str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut received = Vec::new();
    let mut buffer = [0; 4_096];
    while !received.ends_with(b"}") {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the request ended early");
        received.extend_from_slice(&buffer[..count]);
    }
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(received).unwrap()
}

async fn post_to(status: &str) -> (Result<(), WebhookError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?token=${{TOKEN}}", listener.local_addr().unwrap());
    let sender = HttpWebhook::new(Arc::new(|name| (name == "TOKEN").then(|| "s3cret".to_owned()))).unwrap();
    let (key, body) = (Id::of_text("key"), json!({"text": "Approve?"}));
    let both = async { tokio::join!(sender.post(&url, &body, &key), serve(listener, status)) };
    tokio::time::timeout(Duration::from_secs(20), both).await.unwrap()
}

#[tokio::test]
async fn a_webhook_over_http_carries_the_key_and_the_body() {
    let (result, request) = post_to("204 No Content").await;
    assert_eq!(result, Ok(()));
    assert!(request.starts_with("POST /hook?token=s3cret HTTP/1.1\r\n"), "{request}");
    let key = format!("idempotency-key: {}\r\n", Id::of_text("key"));
    assert!(request.to_ascii_lowercase().contains(&key), "{request}");
    assert!(request.ends_with(r#"{"text":"Approve?"}"#), "{request}");
}

#[tokio::test]
async fn http_answers_are_sorted_into_those_worth_another_attempt_and_the_rest() {
    for (status, transient) in [
        ("500 Internal Server Error", true),
        ("429 Too Many Requests", true),
        ("404 Not Found", false),
        ("302 Found", false),
    ] {
        let message = format!("the webhook answered HTTP {status}");
        assert_eq!(post_to(status).await.0, Err(WebhookError { transient, message }));
    }
}

#[tokio::test]
async fn errors_of_a_webhook_do_not_tell_its_url() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = format!("http://{}/hook?token=${{TOKEN}}", listener.local_addr().unwrap());
    drop(listener);
    let sender = HttpWebhook::new(Arc::new(|name| (name == "TOKEN").then(|| "s3cret".to_owned()))).unwrap();
    for (url, transient) in [(closed.as_str(), true), ("not a url s3cret", false), ("ftp://s3cret/", false)] {
        let error = sender.post(url, &json!({}), &Id::of_text("key")).await.unwrap_err();
        assert_eq!(error.transient, transient, "{error}");
        assert!(!error.message.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn a_variable_that_a_webhook_names_must_be_set() {
    let sender = HttpWebhook::new(Arc::new(|_| None)).unwrap();
    let url = "http://127.0.0.1:1/${A}?token=${B}";
    let error = sender.post(url, &json!({}), &Id::of_text("key")).await.unwrap_err();
    let message = "the webhook's URL names the variable A, which is not set for this process".to_owned();
    assert_eq!(error, WebhookError { transient: false, message });
}
