//! Chat completions over HTTP: OpenAI and every server that speaks its format.
//!
//! One call is a loop of attempts until a whole reply, a permanent error or the deadline. A reply counts only
//! when its body arrived to the end and holds a choice; redirects are not followed, because they would carry
//! the key elsewhere.

pub mod retry;
pub mod wire;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use p2_core::model::{ModelError, ModelErrorClass, ModelOutcome, ModelReply, ModelRequest};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::secret::Secret;
use retry::{Decision, Failure};
use wire::{BadReply, TokenLimit};

/// Largest reply body that is read, bytes.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that cannot be used as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model provider '{provider}': {problem}")]
pub struct ConfigError {
    /// The provider's name.
    pub provider: String,
    /// What is wrong, and how to mend it.
    pub problem: String,
}

/// One OpenAI-compatible server.
pub struct OpenAi {
    name: String,
    url: reqwest::Url,
    http: reqwest::Client,
    secrets: Vec<Secret>,
}

impl std::fmt::Debug for OpenAi {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a token in its query: its host is enough.
        formatter
            .debug_struct("OpenAi")
            .field("name", &self.name)
            .field("host", &self.url.host_str().unwrap_or_default())
            .finish_non_exhaustive()
    }
}

/// One failed attempt.
struct Failed {
    failure: Failure,
    code: String,
    message: String,
    headers: HeaderMap,
}

impl OpenAi {
    /// A client of the server whose API begins at `base_url`, e.g. `http://localhost:11434/v1`. Without a key
    /// no `Authorization` header is sent. Proxies are taken from the environment.
    ///
    /// # Errors
    /// [`ConfigError`] for a base URL, key or header that cannot be sent.
    pub fn new(
        name: &str,
        base_url: &str,
        key: Option<&Secret>,
        headers: &BTreeMap<String, Secret>,
    ) -> Result<OpenAi, ConfigError> {
        let fail = |problem: String| ConfigError { provider: name.to_owned(), problem };
        let url = endpoint(base_url).map_err(fail)?;
        let mut sent = HeaderMap::new();
        for (header, value) in headers {
            let header_name = HeaderName::try_from(header.as_str())
                .map_err(|_| fail(format!("'{header}' is no valid header name")))?;
            sent.insert(header_name, sensitive(value.expose()).ok_or_else(|| fail(unsendable(header)))?);
        }
        if let Some(key) = key {
            let value = sensitive(&format!("Bearer {}", key.expose()));
            sent.insert(AUTHORIZATION, value.ok_or_else(|| fail(unsendable("the API key")))?);
        }
        let http = reqwest::Client::builder()
            .default_headers(sent)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("p2engine/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| fail(format!("the HTTP client cannot start: {error}")))?;
        let secrets = key.into_iter().chain(headers.values()).cloned().collect();
        Ok(OpenAi { name: name.to_owned(), url, http, secrets })
    }

    /// Asks `model` (without the provider's prefix) until there is a reply, a permanent error or `deadline_ms`
    /// (milliseconds since the epoch). Dropping the future closes the connection.
    pub async fn ask(&self, model: &str, request: &ModelRequest, deadline_ms: i64) -> ModelOutcome {
        let started = Instant::now();
        let deadline = started + until(deadline_ms, SystemTime::now());
        let limit = TokenLimit::of_host(self.url.host_str().unwrap_or_default());
        let body = wire::request_body(model, limit, request);
        let mut attempts: i32 = 0;
        let mut last: Option<Failed> = None;
        let result = loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                break Err(self.timeout(attempts, last.as_ref()));
            }
            attempts = attempts.saturating_add(1);
            let failed = match tokio::time::timeout_at(deadline, self.attempt(&body)).await {
                Err(_) => break Err(self.timeout(attempts, last.as_ref())),
                Ok(Ok(reply)) => break Ok(reply),
                Ok(Err(failed)) => failed,
            };
            let decision = retry::decide(
                failed.failure,
                &failed.headers,
                attempts.unsigned_abs(),
                deadline.saturating_duration_since(Instant::now()),
                SystemTime::now(),
                retry::random(),
            );
            tracing::debug!(provider = %self.name, attempt = attempts, code = %failed.code, ?decision, "model attempt failed");
            match decision {
                Decision::GiveUp => break Err(self.error(&failed, attempts)),
                Decision::Wait(wait) => tokio::time::sleep(wait).await,
            }
            last = Some(failed);
        };
        let latency_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
        ModelOutcome { result, latency_ms, attempts }
    }

    async fn attempt(&self, body: &serde_json::Value) -> Result<ModelReply, Failed> {
        let sent = self.http.post(self.url.clone()).json(body).send().await;
        let mut response = sent.map_err(|error| broken(error, "before the reply began"))?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let mut bytes = Vec::new();
        loop {
            match response.chunk().await {
                Ok(None) => break,
                Ok(Some(chunk)) if bytes.len().saturating_add(chunk.len()) > BODY_BYTES_MAX => {
                    let message = format!("the reply is larger than {BODY_BYTES_MAX} bytes");
                    return Err(Failed::new(Failure::Malformed, "malformed", message));
                }
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                // An error whose body is cut is still that error.
                Err(_) if status != 200 => break,
                Err(error) => return Err(broken(error, "in the middle of the reply")),
            }
        }
        if status == 200 {
            return wire::parse_reply(&bytes).map_err(|bad| match bad {
                BadReply::Incomplete(message) => Failed::new(Failure::Incomplete, "incomplete", message),
                BadReply::Malformed(message) => Failed::new(Failure::Malformed, "malformed", message),
                BadReply::Withheld(code, message) => Failed::new(Failure::Malformed, code, message),
            });
        }
        let quota = status == 429 && wire::is_out_of_quota(&bytes);
        let failure = if quota { Failure::Quota } else { Failure::Status(status) };
        let message = format!("status {status}: {}", wire::error_message(&bytes));
        Err(Failed { failure, code: format!("http_{status}"), message, headers })
    }

    fn error(&self, failed: &Failed, attempts: i32) -> ModelError {
        let transient = failed.failure.is_transient();
        let class = if transient { ModelErrorClass::Transient } else { ModelErrorClass::Permanent };
        let tried = if attempts > 1 { format!(" (after {attempts} attempts)") } else { String::new() };
        let message = self.scrub(&format!("model provider '{}': {}{tried}", self.name, failed.message));
        ModelError { class, code: failed.code.clone(), message }
    }

    fn timeout(&self, attempts: i32, last: Option<&Failed>) -> ModelError {
        let before = last.map(|failed| format!("; the attempt before failed: {}", failed.message));
        let message = format!(
            "model provider '{}': no whole reply before the deadline, attempts: {attempts}{}",
            self.name,
            before.unwrap_or_default()
        );
        let message = self.scrub(&message);
        ModelError { class: ModelErrorClass::Timeout, code: "timeout".to_owned(), message }
    }

    fn scrub(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| secret.scrub(&text))
    }
}

impl Failed {
    fn new(failure: Failure, code: &str, message: String) -> Failed {
        Failed { failure, code: code.to_owned(), message, headers: HeaderMap::new() }
    }
}

/// A failure below HTTP. The URL is left out: it may hold a token.
fn broken(error: reqwest::Error, place: &str) -> Failed {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    if error.is_connect() {
        Failed::new(Failure::Connect, "connect", format!("no connection: {text}"))
    } else if error.is_builder() {
        Failed::new(Failure::Malformed, "bad_request", format!("the request cannot be built: {text}"))
    } else {
        Failed::new(Failure::Incomplete, "incomplete", format!("the connection ended {place}: {text}"))
    }
}

fn endpoint(base_url: &str) -> Result<reqwest::Url, String> {
    let example = "write it as http://host:port/v1";
    let mut url = reqwest::Url::parse(base_url).map_err(|error| format!("base_url: {error}; {example}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("base_url has the scheme '{}'; {example}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("base_url holds a user name or password: use api_key_env or headers instead".to_owned());
    }
    let path = format!("{}/chat/completions", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text.trim()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn unsendable(what: &str) -> String {
    format!("the value of {what} holds characters that a header may not have (a line break?)")
}

/// Time from `now` to `deadline_ms`; zero where it has passed.
pub(crate) fn until(deadline_ms: i64, now: SystemTime) -> Duration {
    let now_ms = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let deadline_ms = u128::try_from(deadline_ms).unwrap_or(0);
    let millis = u64::try_from(deadline_ms.saturating_sub(now_ms)).unwrap_or(u64::MAX);
    // Far-off deadlines are as none; a sum beyond the clock's range would panic.
    Duration::from_millis(millis).min(Duration::from_secs(86_400 * 365))
}
