//! The server: any engine behind HTTP on the loopback interface.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json as AxumJson, Router};
use p2_core::ids::{BookId, ConversationId, Id};
use p2_core::record::{Artifact, RECORD_BYTES_MAX, RegistryRecord, Topic};
use p2_stream::metrics::Metrics;
use p2_stream::shell::now_ms;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::endpoint::{self, Endpoint, Published};
use super::strict;
use super::wire::{self, Accepted, ErrorBody, ErrorDetail, PostInbox, WAIT_MS_MAX};
use crate::engine::{
    ArtifactFilter, Engine, EngineError, OUTCOME_TIMEOUT, RecordsQuery, Resolution, draw_id,
};

/// What the handlers share.
#[derive(Clone)]
struct Shared {
    engine: Arc<dyn Engine>,
    metrics: Metrics,
    stopping: watch::Receiver<bool>,
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // Where nobody can say it any more, it is time too.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

type Answer = Result<Response, EngineError>;

/// JSON in, with our error shape.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(Unread))]
struct Json<T>(T);

/// JSON in as it was written, with our error shape.
struct Written(Bytes);

impl<S: Send + Sync> FromRequest<S> for Written {
    type Rejection = Unread;

    async fn from_request(request: Request, state: &S) -> Result<Written, Unread> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("application/json")) {
            let text = "send JSON, with 'Content-Type: application/json'".to_owned();
            return Err(Unread { status: StatusCode::BAD_REQUEST, text });
        }
        let read = Bytes::from_request(request, state).await;
        read.map(Written).map_err(|rejection| Unread::of(rejection.status(), rejection.body_text()))
    }
}

/// Query in, with our error shape.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Unread))]
struct Query<T>(T);

/// A request that cannot be read.
struct Unread {
    status: StatusCode,
    text: String,
}

impl Unread {
    fn of(status: StatusCode, text: String) -> Unread {
        let large = status == StatusCode::PAYLOAD_TOO_LARGE;
        Unread { status: if large { status } else { StatusCode::BAD_REQUEST }, text }
    }
}

impl From<JsonRejection> for Unread {
    fn from(rejection: JsonRejection) -> Unread {
        Unread::of(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Unread {
    fn from(rejection: QueryRejection) -> Unread {
        Unread::of(rejection.status(), rejection.body_text())
    }
}

impl IntoResponse for Unread {
    fn into_response(self) -> Response {
        let error = EngineError::Invalid(self.text);
        let detail = ErrorDetail { code: error.code().to_owned(), message: error.to_string() };
        (self.status, AxumJson(ErrorBody { error: detail })).into_response()
    }
}

impl IntoResponse for EngineError {
    fn into_response(self) -> Response {
        let detail = ErrorDetail { code: self.code().to_owned(), message: self.to_string() };
        (wire::status(&self), AxumJson(ErrorBody { error: detail })).into_response()
    }
}

/// A server that runs until it is told to stop.
#[derive(Debug)]
pub(crate) struct Server {
    endpoint: Endpoint,
    listener: TcpListener,
    published: Option<Published>,
}

impl Server {
    /// Binds `127.0.0.1:port` (0: any free one) and publishes it in that file; without one, only
    /// `/metrics` can be asked for.
    ///
    /// # Errors
    /// Where the port is taken or the file cannot be written.
    pub(crate) async fn bind(api_file: Option<&FsPath>, port: u16) -> Result<Server, EngineError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failed = |error: std::io::Error| {
            EngineError::Unavailable(format!(
                "cannot listen on {address}: {error}; choose another port (--port, or --metrics-port of run)"
            ))
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let url = format!("http://{}", listener.local_addr().map_err(failed)?);
        let token = hex::encode(rand::random::<[u8; 32]>());
        let endpoint = Endpoint { url, pid: std::process::id(), token };
        let published = api_file.map(|file| endpoint::publish(file, &endpoint)).transpose()?;
        Ok(Server { endpoint, listener, published })
    }

    /// Where it listens.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Serves until `stopping` turns true; then withdraws `api.json`, answers long polls with what there is,
    /// and finishes running requests.
    pub(crate) async fn run(
        self,
        engine: Arc<dyn Engine>,
        metrics: Metrics,
        stopping: watch::Receiver<bool>,
    ) -> Result<(), EngineError> {
        let (published, stop) = (self.published, stopping.clone());
        let router = router(Shared { engine, metrics, stopping }, self.endpoint.token.clone());
        let withdraw = async move {
            stopped(stop).await;
            drop(published);
        };
        let served = axum::serve(self.listener, router).with_graceful_shutdown(withdraw).await;
        served.map_err(|error| EngineError::Internal(format!("the HTTP API stopped: {error}")))
    }
}

/// All routes; all but `/metrics` behind the token.
fn router(engine: Shared, token: String) -> Router {
    Router::new()
        .route("/v1/inbox", post(post_inbox))
        .route("/v1/conversations", get(conversations))
        .route("/v1/conversations/{id}", get(conversation))
        .route("/v1/conversations/{id}/outcomes/{input}", get(outcome))
        .route("/v1/artifacts", get(artifacts))
        .route("/v1/evaluations/requests", post(request_evaluations))
        .route("/v1/topics", get(topics))
        .route("/v1/topics/{topic}/records", get(records))
        .route("/v1/registry", get(registry).post(apply))
        .route("/v1/dead-letters", get(dead_letters))
        .route("/v1/dead-letters/{id}/replay", post(replay))
        .route("/v1/effects/in-doubt", get(in_doubt))
        .route("/v1/effects/{id}/resolution", post(resolve))
        .route("/v1/verify", post(verify))
        .route("/v1/ledger/requests", post(pay))
        .route("/v1/ledger/books", get(books))
        .route("/v1/ledger/books/{book}", get(book))
        .route("/v1/ledger/verify", post(verify_ledger))
        .fallback(|| async { EngineError::NotFound("no such path; see 'p2engine up --help'".to_owned()) })
        .method_not_allowed_fallback(|| async {
            let text = "this path does not take that method".to_owned();
            Unread { status: StatusCode::METHOD_NOT_ALLOWED, text }
        })
        .layer(DefaultBodyLimit::max(4 * RECORD_BYTES_MAX))
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let allowed = authorized(&request, &token);
            async move {
                if allowed {
                    return next.run(request).await;
                }
                let text = "missing or wrong token: send 'Authorization: Bearer <token>' with the token of \
                            <data-dir>/api.json";
                EngineError::Unauthorized(text.to_owned()).into_response()
            }
        }))
        // Numbers without names: a scraper needs no token.
        .route("/metrics", get(metrics))
        .with_state(engine)
}

async fn metrics(State(Shared { metrics, .. }): State<Shared>) -> Response {
    let format = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([format], metrics.text(now_ms())).into_response()
}

/// Compares without stopping at the first difference.
fn authorized(request: &Request, token: &str) -> bool {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .unwrap_or_default();
    let differing = given.iter().zip(token.as_bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && differing == 0
}

fn ok<T: serde::Serialize>(value: T) -> Answer {
    Ok(AxumJson(value).into_response())
}

fn parse_id(text: &str) -> Result<Id, EngineError> {
    text.parse::<Id>().map_err(|error| EngineError::Invalid(error.to_string()))
}

fn wait(timeout_ms: Option<u64>) -> Duration {
    Duration::from_millis(timeout_ms.unwrap_or(0).min(WAIT_MS_MAX))
}

#[derive(Deserialize)]
struct InboxParams {
    wait: Option<String>,
}

async fn post_inbox(
    State(Shared { engine, .. }): State<Shared>,
    Query(params): Query<InboxParams>,
    Json(body): Json<PostInbox>,
) -> Answer {
    let wanted = match params.wait.as_deref() {
        None => false,
        Some("outcome") => true,
        Some(other) => return Err(EngineError::Invalid(format!("wait={other}: only 'outcome' is known"))),
    };
    let id = body.id.unwrap_or_else(draw_id);
    let conversation = body.message.conversation.clone();
    engine.append(id, body.message).await?;
    if !wanted {
        return Ok((StatusCode::ACCEPTED, AxumJson(Accepted { id, outcome: None })).into_response());
    }
    let outcome = engine.outcome(&conversation, id, OUTCOME_TIMEOUT).await?;
    let status = if outcome.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, AxumJson(Accepted { id, outcome })).into_response())
}

async fn conversations(State(Shared { engine, .. }): State<Shared>) -> Answer {
    ok(engine.conversations().await?)
}

#[derive(Deserialize)]
struct WaitParams {
    seen_seq: Option<i64>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    rest: bool,
}

async fn conversation(
    State(Shared { engine, stopping, .. }): State<Shared>,
    Path(id): Path<String>,
    Query(params): Query<WaitParams>,
) -> Answer {
    let id = ConversationId(id);
    let found = match params.seen_seq {
        None => engine.conversation(&id).await?,
        Some(seen) if params.rest => tokio::select! {
            rests = engine.wait_rest(&id, seen, wait(params.timeout_ms)) => rests?,
            () = stopped(stopping) => engine.conversation(&id).await?,
        },
        Some(seen) => tokio::select! {
            changed = engine.wait_change(&id, seen, wait(params.timeout_ms)) => changed?,
            () = stopped(stopping) => engine.conversation(&id).await?,
        },
    };
    match found {
        Some(conversation) => ok(conversation),
        None => Err(EngineError::NotFound(format!("there is no conversation '{id}'"))),
    }
}

async fn outcome(
    State(Shared { engine, stopping, .. }): State<Shared>,
    Path((id, input)): Path<(String, String)>,
    Query(params): Query<WaitParams>,
) -> Answer {
    let input = parse_id(&input)?;
    let id = ConversationId(id);
    tokio::select! {
        found = engine.outcome(&id, input, wait(params.timeout_ms)) => ok(found?),
        () = stopped(stopping) => ok(engine.outcome(&id, input, Duration::ZERO).await?),
    }
}

async fn artifacts(
    State(Shared { engine, .. }): State<Shared>,
    Query(filter): Query<ArtifactFilter>,
) -> Answer {
    ok(engine.artifacts(&filter).await?)
}

async fn request_evaluations(
    State(Shared { engine, .. }): State<Shared>,
    Json(requests): Json<Vec<Artifact>>,
) -> Answer {
    engine.request_evaluations(requests).await?;
    ok(serde_json::json!({}))
}

async fn topics(State(Shared { engine, .. }): State<Shared>) -> Answer {
    ok(engine.topic_counts().await?)
}

#[derive(Deserialize)]
struct RecordsParams {
    partition: Option<i32>,
    #[serde(default)]
    from: i64,
    max: Option<usize>,
}

async fn records(
    State(Shared { engine, .. }): State<Shared>,
    Path(topic): Path<String>,
    Query(params): Query<RecordsParams>,
) -> Answer {
    let topic = Topic::parse(&topic)
        .ok_or_else(|| EngineError::NotFound(format!("there is no topic '{topic}'; see GET /v1/topics")))?;
    let max = params.max.unwrap_or(100).min(1_000);
    let query = RecordsQuery { topic, partition: params.partition, from: params.from, max };
    ok(engine.records(&query).await?)
}

async fn registry(State(Shared { engine, .. }): State<Shared>) -> Answer {
    ok(wire::registry_bodies(&engine.registry().await?)?)
}

async fn apply(
    State(Shared { engine, .. }): State<Shared>,
    Json(records): Json<Vec<RegistryRecord>>,
) -> Answer {
    engine.apply(records).await?;
    ok(serde_json::json!({}))
}

async fn dead_letters(State(Shared { engine, .. }): State<Shared>) -> Answer {
    ok(engine.dead_letters().await?)
}

#[derive(Deserialize)]
struct ReplayParams {
    #[serde(default)]
    force: bool,
}

async fn replay(
    State(Shared { engine, .. }): State<Shared>,
    Path(id): Path<String>,
    Query(params): Query<ReplayParams>,
) -> Answer {
    engine.replay_dead_letter(parse_id(&id)?, params.force).await?;
    ok(serde_json::json!({}))
}

async fn in_doubt(State(Shared { engine, .. }): State<Shared>) -> Answer {
    ok(engine.in_doubt().await?)
}

async fn resolve(
    State(Shared { engine, .. }): State<Shared>,
    Path(id): Path<String>,
    Json(resolution): Json<Resolution>,
) -> Answer {
    engine.resolve(parse_id(&id)?, resolution).await?;
    ok(serde_json::json!({}))
}

async fn verify(State(Shared { engine, .. }): State<Shared>) -> Answer {
    ok(engine.verify_replay().await?)
}

async fn pay(State(Shared { engine, .. }): State<Shared>, Written(bytes): Written) -> Answer {
    ok(engine.pay(strict::payment_request(&bytes)?).await?)
}

async fn books(State(Shared { engine, .. }): State<Shared>) -> Answer {
    ok(engine.books().await?)
}

async fn book(State(Shared { engine, .. }): State<Shared>, Path(book): Path<String>) -> Answer {
    let book = BookId(book);
    match engine.book(&book).await? {
        Some(found) => ok(found),
        None => Err(EngineError::NotFound(format!("there is no book '{book}'"))),
    }
}

async fn verify_ledger(State(Shared { engine, .. }): State<Shared>) -> Answer {
    ok(engine.verify_ledger().await?)
}
