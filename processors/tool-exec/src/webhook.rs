//! Posting webhooks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use p2_core::ids::Id;
use serde_json::Value;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a webhook was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WebhookError {
    /// Worth another attempt.
    pub transient: bool,
    /// For people; without the URL, which may hold a secret.
    pub message: String,
}

/// A way to deliver one webhook: one attempt per call.
#[async_trait]
pub trait WebhookSender: Send + Sync {
    /// POSTs `body` as JSON to `url`, with `key` as the header `Idempotency-Key`.
    async fn post(&self, url: &str, body: &Value, key: &Id) -> Result<(), WebhookError>;
}

/// The value of an environment variable, or none.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Delivers over HTTP. Redirects are not followed: a webhook goes where it was configured to go. `${NAME}` in a
/// URL stands for a variable, so that tokens are in no record.
#[derive(Clone)]
pub struct HttpWebhook {
    client: reqwest::Client,
    env: Environment,
}

impl fmt::Debug for HttpWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpWebhook").finish_non_exhaustive()
    }
}

/// `url` with every `${NAME}` replaced, or the first name that has no value.
fn filled_in(url: &str, env: &Environment) -> Result<String, String> {
    let mut parts = url.split("${");
    let mut full = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // Without its bracket it is no variable.
        let Some((name, rest)) = part.split_once('}') else {
            full.push_str("${");
            full.push_str(part);
            continue;
        };
        full.push_str(&env(name).ok_or_else(|| name.to_owned())?);
        full.push_str(rest);
    }
    Ok(full)
}

impl HttpWebhook {
    /// A sender with a connection pool of its own.
    ///
    /// # Errors
    /// A sentence where the TLS set-up of this machine is unusable.
    pub fn new(env: Environment) -> Result<HttpWebhook, String> {
        reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map(|client| HttpWebhook { client, env })
            .map_err(|error| format!("cannot set up HTTP for webhooks: {error}"))
    }
}

#[async_trait]
impl WebhookSender for HttpWebhook {
    async fn post(&self, url: &str, body: &Value, key: &Id) -> Result<(), WebhookError> {
        let url = filled_in(url, &self.env).map_err(|name| WebhookError {
            transient: false,
            message: format!(
                "the webhook's URL names the variable {name}, which is not set for this process"
            ),
        })?;
        let sent = self.client.post(url).header("Idempotency-Key", key.to_string()).json(body).send().await;
        match sent {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => {
                let status = response.status();
                let transient = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
                Err(WebhookError { transient, message: format!("the webhook answered HTTP {status}") })
            }
            Err(error) => {
                let message = if error.is_builder() {
                    "the webhook's URL is not a valid http:// or https:// URL"
                } else if error.is_connect() {
                    "cannot connect to the webhook's host"
                } else {
                    "the connection to the webhook broke before it answered"
                };
                Err(WebhookError { transient: !error.is_builder(), message: message.to_owned() })
            }
        }
    }
}
