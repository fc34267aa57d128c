//! The OpenAI-compatible client against aimock, a server that nobody here wrote. Runs with `P2_REAL=1`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

mod server;

use std::path::Path;
use std::time::{Duration, SystemTime};

use p2_core::json_text::JsonText;
use p2_core::model::{ChatMessage, ModelErrorClass, ModelOutcome, ModelRequest, ToolSpec};
use p2_model::router::{ProviderConfig, Router, RouterConfig};
use p2_model::secret::Secret;
use p2_stream::ports::Model;
use serde_json::json;
use server::Aimock;

struct Setup {
    router: Router,
    within: Duration,
    _server: Aimock,
}

/// None, with one line that says so, where real services are not asked for.
fn setup(test: &str) -> Option<Setup> {
    setup_with(test, &[])
}

/// With further headers: by `x-aimock-chaos-…` the server breaks the reply.
fn setup_with(test: &str, headers: &[(&str, &str)]) -> Option<Setup> {
    if std::env::var("P2_REAL").as_deref() != Ok("1") {
        println!("skipped: {test} against aimock (needs node and npm; set P2_REAL=1)");
        return None;
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aimock/fixtures.json");
    let server = Aimock::start(&fixtures);
    let provider = ProviderConfig {
        name: "aimock".into(),
        base_url: server.base_url.clone(),
        api_key_env: Some("AIMOCK_KEY".into()),
        api_key: None,
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned())))
            .collect(),
    };
    let config = RouterConfig { providers: vec![provider], scripts_dir: None };
    let router = Router::new(config, |name| (name == "AIMOCK_KEY").then(|| "any-key".to_owned())).unwrap();
    Some(Setup { router, within: Duration::from_secs(60), _server: server })
}

impl Setup {
    async fn ask(&self, messages: Vec<ChatMessage>) -> ModelOutcome {
        let request = ModelRequest {
            model: "aimock/gpt-4o".into(),
            messages,
            tools: vec![ToolSpec {
                name: "get_weather".into(),
                description: "The weather of a city.".into(),
                parameters: JsonText(
                    json!({"type": "object", "properties": {"location": {"type": "string"}}}),
                ),
            }],
            temperature: Some(0.0),
            top_p: None,
            max_tokens: Some(100),
        };
        let within = self.within;
        let deadline = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + within;
        self.router.ask(&request, i64::try_from(deadline.as_millis()).unwrap()).await
    }
}

fn user(text: &str) -> ChatMessage {
    ChatMessage::User { content: text.into() }
}

#[tokio::test]
async fn parallel_calls_and_their_results_make_a_round() {
    let Some(setup) = setup("parallel calls") else { return };
    let reply = setup.ask(vec![user("weather of two cities")]).await.result.unwrap();
    let calls: Vec<_> =
        reply.tool_calls.iter().map(|call| (call.name.as_str(), call.arguments.as_str())).collect();
    assert_eq!(
        calls,
        [("get_weather", r#"{"location":"Paris"}"#), ("get_weather", r#"{"location":"Tokyo"}"#)]
    );
    assert!(reply.tool_calls.iter().all(|call| !call.id.is_empty()));
    let mut messages = vec![
        user("weather of two cities"),
        ChatMessage::Assistant { content: reply.text, tool_calls: reply.tool_calls.clone() },
    ];
    messages.extend(reply.tool_calls.into_iter().map(|call| ChatMessage::Tool {
        tool_call_id: call.id,
        name: call.name,
        content: "{\"temperature\": 50}".into(),
    }));
    let answer = setup.ask(messages).await.result.unwrap();
    assert_eq!(answer.text.as_deref(), Some("Paris 71.6, Tokyo 50."));
}

#[tokio::test]
async fn a_rate_limit_with_retry_after_then_an_error_then_success() {
    let Some(setup) = setup("429, 500, 200") else { return };
    let outcome = setup.ask(vec![user("be unsteady")]).await;
    assert_eq!(outcome.result.unwrap().text.as_deref(), Some("third time lucky"));
    assert_eq!(outcome.attempts, 3);
    assert!(outcome.latency_ms >= 1000, "Retry-After was not honoured: {} ms", outcome.latency_ms);
}

#[tokio::test]
async fn what_no_fixture_matches_is_a_permanent_404() {
    let Some(setup) = setup("404") else { return };
    let outcome = setup.ask(vec![user("nothing of the kind")]).await;
    let error = outcome.result.unwrap_err();
    assert_eq!(
        (error.class, error.code.as_str(), outcome.attempts),
        (ModelErrorClass::Permanent, "http_404", 1)
    );
    let plain = setup.ask(vec![user("plain")]).await.result.unwrap();
    assert_eq!(plain.text.as_deref(), Some("A plain answer."));
}

#[tokio::test]
async fn a_connection_that_is_cut_is_tried_again_and_then_a_transient_failure() {
    let Some(mut setup) = setup_with("a cut connection", &[("x-aimock-chaos-disconnect", "1")]) else {
        return;
    };
    setup.within = Duration::from_secs(3);
    let outcome = setup.ask(vec![user("plain")]).await;
    let error = outcome.result.unwrap_err();
    // The deadline may fall into an attempt: then it is a time-out that names the attempt before.
    assert_ne!(error.class, ModelErrorClass::Permanent, "{error}");
    assert!(error.message.contains("the connection ended"), "{error}");
    assert!(outcome.attempts > 1, "{error}");
}

#[tokio::test]
async fn malformed_json_is_a_failure_and_never_an_answer() {
    let Some(setup) = setup_with("malformed JSON", &[("x-aimock-chaos-malformed", "1")]) else { return };
    let outcome = setup.ask(vec![user("plain")]).await;
    let error = outcome.result.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (ModelErrorClass::Permanent, "malformed"), "{error}");
}
