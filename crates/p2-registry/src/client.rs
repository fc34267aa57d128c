//! The client of a schema registry with the Confluent REST API.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};

/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Longest piece of a registry's own words in an error, characters.
const SAID_CHARS_MAX: usize = 400;
/// The media type of the API.
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// The API's code for a schema that is not there.
const NO_SCHEMA: u32 = 40_403;

/// How a registry is reached.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Where its API begins: `https://registry:8081`, for Apicurio with `/apis/ccompat/v7` at the end.
    pub url: String,
    /// User of basic authentication; none: no authentication.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// Certificates (PEM) of authorities to trust beside the well-known ones.
    pub ca_pem: Option<String>,
}

impl fmt::Debug for RegistryConfig {
    /// Without password, and without a URL that may hold one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why the registry did not answer as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Worth retrying.
    #[error("the schema registry at {place} does not answer: {reason}")]
    Unavailable {
        /// Its address, without credentials.
        place: String,
        /// What happened.
        reason: String,
    },
    /// Waiting does not help.
    #[error("{0}")]
    Refused(String),
}

/// Schemas by id and subject. [`RegistryClient`] asks a registry.
#[async_trait]
pub trait Schemas: Send + Sync + 'static {
    /// Registers a schema under a subject, where it is not there yet. Gives its id; the same again the same id.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] where it does not fit the versions that the subject has.
    async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError>;

    /// The Avro schema of an id; none where the registry has none.
    ///
    /// # Errors
    /// Where it does not say.
    async fn schema(&self, id: u32) -> Result<Option<String>, RegistryError>;
}

/// A client of one registry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RegistryClient {
    http: Client,
    base: Url,
    place: String,
    config: RegistryConfig,
}

#[derive(Serialize)]
struct NewSchema<'a> {
    schema: &'a str,
}

#[derive(Deserialize)]
struct Registered {
    id: u32,
}

#[derive(Deserialize)]
struct Found {
    schema: String,
    #[serde(rename = "schemaType")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    message: String,
    #[serde(rename = "error_code")]
    code: Option<u32>,
}

impl RegistryClient {
    /// A client; asks nothing yet.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] for an address or certificate that is none.
    pub fn new(config: RegistryConfig) -> Result<RegistryClient, RegistryError> {
        let refused = |reason: String| RegistryError::Refused(format!("schema_registry: {reason}"));
        let mut base = Url::parse(config.url.trim_end_matches('/'))
            .map_err(|error| refused(format!("the url is none ({error}); write http://host:8081")))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(refused("the url must begin with http:// or https://".to_owned()));
        }
        let mut config = config;
        if !base.username().is_empty() {
            config.user = Some(base.username().to_owned());
            config.password = base.password().map(str::to_owned).or(config.password);
            // A URL that has a host takes both.
            let _ = base.set_username("");
        }
        let _ = base.set_password(None);
        let mut http = Client::builder().timeout(REQUEST_MAX).redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = &config.ca_pem {
            let certificates = Certificate::from_pem_bundle(pem.as_bytes())
                .map_err(|error| refused(format!("the certificates to trust are none: {error}")))?;
            if certificates.is_empty() {
                return Err(refused("the certificates to trust are not in PEM format".to_owned()));
            }
            http = certificates.into_iter().fold(http, reqwest::ClientBuilder::add_root_certificate);
        }
        let http = http.build().map_err(|error| refused(format!("no HTTP client: {error}")))?;
        let place = base.to_string();
        Ok(RegistryClient { http, base, place, config })
    }

    /// The registry's address, without credentials.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    async fn send(&self, request: RequestBuilder) -> Result<(StatusCode, String), RegistryError> {
        let request = match &self.config.user {
            Some(user) => request.basic_auth(user, self.config.password.as_ref()),
            None => request,
        };
        let away = |error: reqwest::Error| self.away(&words(error));
        let response: Response = request.header("accept", MEDIA_TYPE).send().await.map_err(away)?;
        let status = response.status();
        Ok((status, response.text().await.map_err(away)?))
    }

    fn away(&self, reason: &str) -> RegistryError {
        RegistryError::Unavailable { place: self.place.clone(), reason: reason.to_owned() }
    }

    /// What any status but the expected ones means.
    fn failed(&self, what: &str, status: StatusCode, body: &str) -> RegistryError {
        let place = &self.place;
        let said = said(body);
        match status.as_u16() {
            401 | 403 => RegistryError::Refused(format!(
                "the schema registry at {place} refuses these credentials ({status}): check \
                 schema_registry.user and schema_registry.password, and what that user may do"
            )),
            404 | 405 => RegistryError::Refused(format!(
                "there is no schema registry with the Confluent API at {place} ({status}): check the path of \
                 schema_registry.url (for Apicurio it ends with /apis/ccompat/v7)"
            )),
            429 | 500.. => self.away(&format!("{status} {said}")),
            _ => RegistryError::Refused(format!("the schema registry at {place}: {what}: {status} {said}")),
        }
    }

    fn parsed<T: serde::de::DeserializeOwned>(&self, body: &str) -> Result<T, RegistryError> {
        serde_json::from_str(body).map_err(|_| {
            let place = &self.place;
            RegistryError::Refused(format!(
                "what answers at {place} is no schema registry with the Confluent API: check schema_registry.url"
            ))
        })
    }
}

#[async_trait]
impl Schemas for RegistryClient {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let request = self
            .http
            .post(self.url(&["subjects", subject, "versions"]))
            .header("content-type", MEDIA_TYPE)
            .body(serde_json::to_string(&NewSchema { schema }).unwrap_or_default());
        let (status, body) = self.send(request).await?;
        match status.as_u16() {
            200 | 201 => Ok(self.parsed::<Registered>(&body)?.id),
            409 => Err(RegistryError::Refused(format!(
                "the schema registry refuses our schema for the subject '{subject}', because it does not fit the \
                 versions that are there: remove what others have registered under it, or set the subject's \
                 compatibility to BACKWARD ({})",
                said(&body)
            ))),
            _ => Err(self.failed(&format!("registering '{subject}'"), status, &body)),
        }
    }

    async fn schema(&self, id: u32) -> Result<Option<String>, RegistryError> {
        let request = self.http.get(self.url(&["schemas", "ids", &id.to_string()]));
        let (status, body) = self.send(request).await?;
        match status.as_u16() {
            200 => {
                let found: Found = self.parsed(&body)?;
                let is_avro = found.kind.is_none_or(|kind| kind.eq_ignore_ascii_case("avro"));
                Ok(is_avro.then_some(found.schema))
            }
            // Only the registry itself says so: what else answers 404 is no registry.
            404 if serde_json::from_str::<Said>(&body).is_ok_and(|said| said.code == Some(NO_SCHEMA)) => {
                Ok(None)
            }
            _ => Err(self.failed(&format!("asking for schema {id}"), status, &body)),
        }
    }
}

/// The registry's own words, cut.
fn said(body: &str) -> String {
    let text = serde_json::from_str::<Said>(body).map_or_else(|_| body.to_owned(), |said| said.message);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAID_CHARS_MAX).collect()
}

/// An error with its causes; the URL, which may hold a secret, left out.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
