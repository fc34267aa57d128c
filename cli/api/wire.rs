//! The JSON shapes that server and client share.

use axum::http::StatusCode;
use p2_core::definition::{Agent, Definition, Evaluator, Persona, Price, Rubric, Tool};
use p2_core::ids::Id;
use p2_core::record::{InboxMessage, Outcome};
use p2_core::registry::Registry;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::{EngineError, EngineResult};

/// Longest that one request may wait, milliseconds; clients ask again.
pub(crate) const WAIT_MS_MAX: u64 = 25_000;

/// `POST /v1/inbox`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PostInbox {
    /// Idempotency key; none: the server draws one.
    pub id: Option<Id>,
    /// The message.
    #[serde(flatten)]
    pub message: InboxMessage,
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// The message's id.
    pub id: Id,
    /// With `?wait=outcome`, and where it was there in time.
    pub outcome: Option<Outcome>,
}

/// The one shape of an error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What is in it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorDetail {
    /// Stable.
    pub code: String,
    /// For people.
    pub message: String,
}

/// One definition.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DefinitionBody {
    /// `agent`, `tool`, `persona`, `price`.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: i32,
    /// Its body, as JSON of the type.
    pub body: Value,
}

/// The status of an error.
pub(crate) fn status(error: &EngineError) -> StatusCode {
    match error {
        EngineError::Refused { .. } => StatusCode::CONFLICT,
        EngineError::NotFound(_) => StatusCode::NOT_FOUND,
        EngineError::Invalid(_) => StatusCode::BAD_REQUEST,
        EngineError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
        EngineError::Unavailable(_) | EngineError::Gone { .. } => StatusCode::SERVICE_UNAVAILABLE,
        EngineError::Unauthorized(_) => StatusCode::UNAUTHORIZED,
        EngineError::Differs(_) | EngineError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The error of a status and its body: the inverse of [`status`].
pub(crate) fn error_of(status: StatusCode, detail: ErrorDetail) -> EngineError {
    match status {
        StatusCode::CONFLICT => EngineError::Refused { code: detail.code, message: detail.message },
        StatusCode::NOT_FOUND => EngineError::NotFound(detail.message),
        StatusCode::GATEWAY_TIMEOUT => EngineError::Timeout(detail.message),
        StatusCode::SERVICE_UNAVAILABLE => EngineError::Unavailable(detail.message),
        StatusCode::UNAUTHORIZED => EngineError::Unauthorized(detail.message),
        status if status.is_client_error() => EngineError::Invalid(detail.message),
        _ => EngineError::Internal(detail.message),
    }
}

/// The kinds of definition that exist.
pub(crate) const KINDS: [&str; 6] = ["agent", "tool", "persona", "price", "evaluator", "rubric"];

/// A definition as JSON of its own type.
pub(crate) fn definition_value(definition: &Definition) -> EngineResult<Value> {
    match definition {
        Definition::Agent(agent) => serde_json::to_value(agent),
        Definition::Tool(tool) => serde_json::to_value(tool),
        Definition::Persona(persona) => serde_json::to_value(persona),
        Definition::Price(price) => serde_json::to_value(price),
        Definition::Evaluator(evaluator) => serde_json::to_value(evaluator),
        Definition::Rubric(rubric) => serde_json::to_value(rubric),
    }
    .map_err(|error| EngineError::Internal(format!("a definition is not JSON: {error}")))
}

/// The newest version of every definition.
pub(crate) fn registry_bodies(registry: &Registry) -> EngineResult<Vec<DefinitionBody>> {
    let all = KINDS.into_iter().flat_map(|kind| registry.list(kind).map(move |of| (kind, of)));
    all.map(|(kind, (version, definition))| {
        let body = definition_value(definition)?;
        Ok(DefinitionBody { kind: kind.to_owned(), id: definition.id().to_owned(), version, body })
    })
    .collect()
}

/// The registry of such bodies.
pub(crate) fn registry_of(bodies: Vec<DefinitionBody>) -> EngineResult<Registry> {
    let mut registry = Registry::default();
    for DefinitionBody { kind, id, version, body } in bodies {
        let definition = match kind.as_str() {
            "agent" => serde_json::from_value::<Agent>(body).map(Definition::Agent),
            "tool" => serde_json::from_value::<Tool>(body).map(Definition::Tool),
            "persona" => serde_json::from_value::<Persona>(body).map(Definition::Persona),
            "price" => serde_json::from_value::<Price>(body).map(Definition::Price),
            "evaluator" => {
                serde_json::from_value::<Evaluator>(body).map(|it| Definition::Evaluator(Box::new(it)))
            }
            "rubric" => serde_json::from_value::<Rubric>(body).map(Definition::Rubric),
            _ => continue,
        };
        let definition = definition.map_err(|error| {
            EngineError::Internal(format!("{kind} '{id}' as served does not fit this version: {error}"))
        })?;
        registry.insert(definition, version);
    }
    Ok(registry)
}
