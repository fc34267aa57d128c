//! The JSON Ledger API v2, as much of it as a ledger of holdings takes.

mod wire;

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Url};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::{BadConfig, CantonConfig, TokenFile};
use crate::error::{CantonError, Class, of_answer};
use wire::{AcsPage, Answer, Offset, PartyList, Rights, UpdateEnvelope, UserAnswer, Version};
pub use wire::{ActiveContract, Command, Created, Submission, Transaction};

/// How long one request may take. A submission waits for its transaction.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// Contracts asked for at a time; lists over HTTP end at 200 elements.
const PAGE: usize = 100;
/// Offsets asked for at a time: an update has at least one, so no list is longer.
const OFFSETS: i64 = 100;

/// A client of one participant. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    place: String,
    token: Option<TokenFile>,
}

type Result<T, E = CantonError> = std::result::Result<T, E>;

impl Client {
    /// A client; asks nothing yet.
    ///
    /// # Errors
    /// [`BadConfig`] for an address that is none.
    pub fn new(config: &CantonConfig) -> Result<Client, BadConfig> {
        let base = config.base()?;
        let http = reqwest::Client::builder()
            .timeout(REQUEST_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| BadConfig(format!("no HTTP client: {error}")))?;
        let place = base.as_str().trim_end_matches('/').to_owned();
        Ok(Client { http, base, place, token: config.token_file.clone().map(TokenFile::new) })
    }

    /// The participant's address.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        self.http.request(method, url)
    }

    fn broken(&self, reason: impl Into<String>, class: Class) -> CantonError {
        CantonError::Broken { place: self.place.clone(), reason: reason.into(), class }
    }

    async fn send(&self, request: RequestBuilder) -> Result<String> {
        let request = match &self.token {
            Some(file) => {
                request.bearer_auth(file.token().map_err(|text| self.broken(text, Class::Configuration))?)
            }
            None => request,
        };
        let response = request.send().await.map_err(|error| self.lost(error))?;
        let status = response.status();
        let body = response.text().await.map_err(|error| self.lost(error))?;
        if status.is_success() {
            return Ok(body);
        }
        let body = self.token.as_ref().map_or(body.clone(), |file| file.scrub(&body));
        if let (Some(file), 401) = (&self.token, status.as_u16()) {
            file.forget();
        }
        Err(of_answer(&self.place, status.as_u16(), &body))
    }

    /// A request without an answer. Where there was no connection, nobody saw it.
    fn lost(&self, error: reqwest::Error) -> CantonError {
        let class = if error.is_connect() || error.is_builder() { Class::Transient } else { Class::Unknown };
        let error = error.without_url();
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        self.broken(format!("no answer: {text}"), class)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let body = self.send(request).await?;
        serde_json::from_str(&body).map_err(|error| {
            let reason =
                format!("its answer is none of the JSON Ledger API v2 ({error}): check ledger.canton.url");
            self.broken(reason, Class::Unknown)
        })
    }

    async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &Value) -> Result<T> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    /// Whether the participant takes requests.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn ready(&self) -> Result<()> {
        self.send(self.request(Method::GET, &["readyz"])).await.map(drop)
    }

    /// Its version.
    ///
    /// # Errors
    /// Its own.
    pub async fn version(&self) -> Result<String> {
        let found: Version = self.json(self.request(Method::GET, &["v2", "version"])).await?;
        Ok(found.version)
    }

    /// Uploads a package with everything that it needs. The same again changes nothing.
    ///
    /// # Errors
    /// Its own, [`Class::Configuration`] for a file that is no package.
    pub async fn upload_dar(&self, bytes: Vec<u8>) -> Result<()> {
        let request = self
            .request(Method::POST, &["v2", "dars"])
            .query(&[("vetAllPackages", "true")])
            .header("content-type", "application/octet-stream")
            .body(bytes);
        self.send(request).await.map(drop)
    }

    /// Parties whose name begins with `hint::`.
    ///
    /// # Errors
    /// Its own.
    pub async fn parties(&self, hint: &str) -> Result<Vec<String>> {
        let request = self.request(Method::GET, &["v2", "parties"]).query(&[("filter-party", hint)]);
        let found: PartyList = self.json(request).await?;
        let ours = |party: &String| party.split_once("::").is_some_and(|(name, _)| name == hint);
        Ok(found.party_details.into_iter().map(|details| details.party).filter(ours).collect())
    }

    /// Makes a party; gives its name.
    ///
    /// # Errors
    /// Its own.
    pub async fn allocate_party(&self, hint: &str) -> Result<String> {
        let body = json!({"partyIdHint": hint, "identityProviderId": ""});
        let found: wire::PartyAnswer = self.post(&["v2", "parties"], &body).await?;
        Ok(found.party_details.party)
    }

    /// The primary party of a user; none where there is no such user.
    ///
    /// # Errors
    /// Its own; [`Class::Configuration`] where the user has no primary party.
    pub async fn user_party(&self, user: &str) -> Result<Option<String>> {
        match self.json::<UserAnswer>(self.request(Method::GET, &["v2", "users", user])).await {
            Ok(found) if found.user.primary_party.is_empty() => {
                let reason = format!("user '{user}' has no primary party: give it one, or name another user");
                Err(self.broken(reason, Class::Configuration))
            }
            Ok(found) => Ok(Some(found.user.primary_party)),
            Err(error) if error.code() == "USER_NOT_FOUND" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a user that may act as a party; one that is there stays as it is.
    ///
    /// # Errors
    /// Its own.
    pub async fn create_user(&self, user: &str, party: &str) -> Result<()> {
        let body = json!({
            "user": {"id": user, "primaryParty": party, "isDeactivated": false, "identityProviderId": ""},
            "rights": [act_as(party)],
        });
        match self.post::<Value>(&["v2", "users"], &body).await {
            Err(error) if error.class() == Class::Exists => Ok(()),
            made => made.map(drop),
        }
    }

    /// Gives a user the right to act as a party. The same again changes nothing.
    ///
    /// # Errors
    /// Its own.
    pub async fn grant_act_as(&self, user: &str, party: &str) -> Result<()> {
        let body = json!({"userId": user, "identityProviderId": "", "rights": [act_as(party)]});
        self.post::<Rights>(&["v2", "users", user, "rights"], &body).await.map(drop)
    }

    /// Submits a command and waits for its transaction.
    ///
    /// # Errors
    /// Its own; [`Class`] says what to do.
    pub async fn submit(&self, submission: &Submission) -> Result<Transaction> {
        let body = json!({"commands": submission.body()});
        let answer: Answer = self.post(&["v2", "commands", "submit-and-wait-for-transaction"], &body).await?;
        Ok(answer.transaction)
    }

    /// What became of commands after an offset: (command, update where it succeeded, offset), at most `limit`.
    ///
    /// # Errors
    /// Its own.
    pub async fn completions(
        &self,
        user: &str,
        party: &str,
        begin_exclusive: i64,
        limit: usize,
    ) -> Result<Vec<(String, Option<String>, i64)>> {
        let limit = limit.to_string();
        let request = self
            .request(Method::POST, &["v2", "commands", "completions"])
            .query(&[("limit", limit.as_str()), ("stream_idle_timeout_ms", "200")])
            .json(&json!({"userId": user, "parties": [party], "beginExclusive": begin_exclusive}));
        let found: Vec<wire::CompletionEnvelope> = self.json(request).await?;
        Ok(found.into_iter().filter_map(wire::CompletionEnvelope::completion).collect())
    }

    /// The newest offset.
    ///
    /// # Errors
    /// Its own.
    pub async fn ledger_end(&self) -> Result<i64> {
        let found: Offset = self.json(self.request(Method::GET, &["v2", "state", "ledger-end"])).await?;
        Ok(found.offset)
    }

    /// Contracts of these templates that are active at an offset, page by page. Participants before 3.5.10 have no
    /// pages and give 200 contracts at most.
    ///
    /// # Errors
    /// Its own; [`Class::Configuration`] where there are more than it gives.
    pub async fn active_contracts(
        &self,
        party: &str,
        templates: &[&str],
        offset: i64,
    ) -> Result<Vec<ActiveContract>> {
        let format = wire::event_format(party, templates);
        let (mut found, mut token) = (Vec::new(), None::<String>);
        loop {
            let mut body = json!({"activeAtOffset": offset, "eventFormat": format, "maxPageSize": PAGE});
            if let (Some(token), Some(fields)) = (token.take(), body.as_object_mut()) {
                fields.insert("pageToken".to_owned(), token.into());
            }
            let page = match self.post::<AcsPage>(&["v2", "state", "active-contracts-page"], &body).await {
                Err(error) if error.class() == Class::NotFound && found.is_empty() => {
                    return self.active_contracts_at_once(&format, offset).await;
                }
                page => page?,
            };
            found.extend(page.active_contracts.into_iter().filter_map(wire::AcsEntry::contract));
            match page.next_page_token.filter(|token| !token.is_empty()) {
                Some(next) => token = Some(next),
                None => return Ok(found),
            }
        }
    }

    async fn active_contracts_at_once(&self, format: &Value, offset: i64) -> Result<Vec<ActiveContract>> {
        let body = json!({"activeAtOffset": offset, "eventFormat": format});
        match self.post::<Vec<wire::AcsEntry>>(&["v2", "state", "active-contracts"], &body).await {
            Err(error) if error.class() == Class::TooMany => {
                let reason = "it has more contracts than it lists at once, and no pages: use Canton 3.5.10 or later, or \
                              raise http-list-max-elements-limit of its JSON API";
                Err(self.broken(reason, Class::Configuration))
            }
            found => Ok(found?.into_iter().filter_map(wire::AcsEntry::contract).collect()),
        }
    }

    /// What happened to contracts of these templates after `begin_exclusive` and up to `end_inclusive`, in order.
    ///
    /// # Errors
    /// Its own; [`Class::Pruned`] where the beginning is not kept any more.
    pub async fn updates(
        &self,
        party: &str,
        templates: &[&str],
        begin_exclusive: i64,
        end_inclusive: i64,
    ) -> Result<Vec<Transaction>> {
        let format = json!({"includeTransactions": {
            "transactionShape": "TRANSACTION_SHAPE_ACS_DELTA",
            "eventFormat": wire::event_format(party, templates),
        }});
        let (mut found, mut begin) = (Vec::new(), begin_exclusive);
        while begin < end_inclusive {
            let end = begin.saturating_add(OFFSETS).min(end_inclusive);
            let body = json!({"beginExclusive": begin, "endInclusive": end, "updateFormat": format});
            let updates: Vec<UpdateEnvelope> = self.post(&["v2", "updates"], &body).await?;
            found.extend(updates.into_iter().filter_map(UpdateEnvelope::transaction));
            begin = end;
        }
        Ok(found)
    }

    /// The update at an offset.
    ///
    /// # Errors
    /// Its own; [`Class::NotFound`] where there is none for these templates.
    pub async fn update_at(&self, party: &str, templates: &[&str], offset: i64) -> Result<Transaction> {
        let body = json!({"offset": offset, "updateFormat": {"includeTransactions": {
            "transactionShape": "TRANSACTION_SHAPE_ACS_DELTA",
            "eventFormat": wire::event_format(party, templates),
        }}});
        let found: UpdateEnvelope = self.post(&["v2", "updates", "update-by-offset"], &body).await?;
        found.transaction().ok_or_else(|| {
            self.broken(format!("the update at offset {offset} is no transaction"), Class::NotFound)
        })
    }
}

fn act_as(party: &str) -> Value {
    json!({"kind": {"CanActAs": {"value": {"party": party}}}})
}
