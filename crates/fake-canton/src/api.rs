//! The endpoints.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use serde_json::{Value, json};

use crate::model::{self, CURSOR, Refused};
use crate::{Change, Contract, Fault, LIST_MAX, Remembered, State, Update};

type App = Arc<Mutex<State>>;

/// All of it.
pub(crate) fn router(state: App) -> Router {
    Router::new()
        .route("/livez", get(|| async { StatusCode::OK }))
        .route("/readyz", get(|| async { "[+] ledger ok (SERVING)" }))
        .route("/v2/version", get(|| async { axum::Json(json!({"version": "3.5.10", "features": {}})) }))
        .route("/v2/dars", post(dars))
        .route("/v2/parties", get(parties).post(allocate))
        .route("/v2/users", post(create_user))
        .route("/v2/users/{user}", get(user))
        .route("/v2/users/{user}/rights", post(grant))
        .route("/v2/commands/submit-and-wait-for-transaction", post(submit_for_transaction))
        .route("/v2/commands/submit-and-wait", post(submit))
        .route("/v2/commands/completions", post(completions))
        .route("/v2/state/ledger-end", get(ledger_end))
        .route("/v2/state/latest-pruned-offsets", get(pruned))
        .route("/v2/state/active-contracts", post(active_contracts))
        .route("/v2/state/active-contracts-page", post(active_contracts_page))
        .route("/v2/updates", post(updates))
        .route("/v2/updates/update-by-offset", post(update_by_offset))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), authorized))
        .with_state(state)
}

fn lock(app: &App) -> std::sync::MutexGuard<'_, State> {
    app.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn authorized(
    Shared(app): Shared<App>,
    headers: HeaderMap,
    request: axum::extract::Request,
    next: middleware::Next,
) -> Response {
    let token = lock(&app).token.clone();
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let open = matches!(request.uri().path(), "/livez" | "/readyz");
    match token {
        Some(token) if !open && shown != Some(&format!("Bearer {token}")) => {
            // A participant that echoes what it was shown: nobody may see it in an error.
            let text = format!("The command is missing a valid token ({})", shown.unwrap_or("none"));
            error(401, "NA", 6, &text, json!({}))
        }
        _ => next.run(request).await,
    }
}

fn error(status: u16, code: &str, category: i64, cause: &str, context: Value) -> Response {
    let grpc = match status {
        401 => 16,
        404 => 5,
        409 if code == "DUPLICATE_COMMAND" => 6,
        409 => 10,
        503 => 14,
        _ => 3,
    };
    let body = json!({
        "code": code, "cause": cause, "correlationId": null, "traceId": null, "context": context, "resources": [],
        "errorCategory": category, "grpcCodeValue": grpc, "retryInfo": null, "definiteAnswer": null,
    });
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}

fn bad(text: &str) -> Response {
    (StatusCode::BAD_REQUEST, text.to_owned()).into_response()
}

fn body(bytes: &Bytes) -> Result<Value, Box<Response>> {
    serde_json::from_slice(bytes).map_err(|_| Box::new(bad("Invalid value for: body")))
}

macro_rules! body {
    ($bytes:expr) => {
        match body(&$bytes) {
            Ok(body) => body,
            Err(response) => return *response,
        }
    };
}

type Asked = Query<std::collections::BTreeMap<String, String>>;

async fn dars(Shared(app): Shared<App>, Query(query): Asked, headers: HeaderMap, bytes: Bytes) -> Response {
    let octets = headers.get(header::CONTENT_TYPE).is_some_and(|found| found == "application/octet-stream");
    if !octets || query.get("vetAllPackages").map(String::as_str) != Some("true") {
        return bad("expected an octet stream, with vetAllPackages");
    }
    // A package is a ZIP file.
    if !bytes.starts_with(b"PK") {
        return error(400, "DAR_PARSE_ERROR", 8, "not a DAR", json!({}));
    }
    lock(&app).dars.push(bytes.len());
    axum::Json(json!({})).into_response()
}

async fn parties(Shared(app): Shared<App>, Query(query): Asked) -> Response {
    let state = lock(&app);
    let filter = query.get("filter-party").cloned().unwrap_or_default();
    let found: Vec<Value> =
        state.parties.iter().filter(|party| party.starts_with(&filter)).map(|party| details(party)).collect();
    axum::Json(json!({"partyDetails": found, "nextPageToken": ""})).into_response()
}

fn details(party: &str) -> Value {
    json!({"party": party, "isLocal": true, "localMetadata": null, "identityProviderId": ""})
}

async fn allocate(Shared(app): Shared<App>, bytes: Bytes) -> Response {
    let body = body!(bytes);
    let mut state = lock(&app);
    let party = format!("{}::1220feed", body["partyIdHint"].as_str().unwrap_or("party"));
    if state.parties.contains(&party) {
        return error(400, "INVALID_ARGUMENT", 8, "Party already exists", json!({}));
    }
    state.parties.push(party.clone());
    axum::Json(json!({"partyDetails": details(&party)})).into_response()
}

async fn user(Shared(app): Shared<App>, Path(user): Path<String>) -> Response {
    match lock(&app).users.get(&user) {
        Some(party) => axum::Json(json!({"user": {"id": user, "primaryParty": party}})).into_response(),
        None => error(404, "USER_NOT_FOUND", 11, "no such user", json!({})),
    }
}

async fn create_user(Shared(app): Shared<App>, bytes: Bytes) -> Response {
    let body = body!(bytes);
    let (Some(id), Some(party)) = (body["user"]["id"].as_str(), body["user"]["primaryParty"].as_str()) else {
        return bad("Invalid value for: body");
    };
    let mut state = lock(&app);
    if state.users.contains_key(id) {
        return error(409, "USER_ALREADY_EXISTS", 10, "there is such a user", json!({}));
    }
    state.users.insert(id.to_owned(), party.to_owned());
    give(&mut state, id, &body["rights"]);
    axum::Json(json!({"user": body["user"]})).into_response()
}

fn give(state: &mut State, user: &str, rights: &Value) {
    for right in rights.as_array().into_iter().flatten() {
        if let Some(party) = right["kind"]["CanActAs"]["value"]["party"].as_str() {
            state.rights.insert((user.to_owned(), party.to_owned()));
        }
    }
}

async fn grant(Shared(app): Shared<App>, Path(user): Path<String>, bytes: Bytes) -> Response {
    let body = body!(bytes);
    give(&mut lock(&app), &user, &body["rights"]);
    axum::Json(json!({"newlyGrantedRights": []})).into_response()
}

async fn ledger_end(Shared(app): Shared<App>) -> Response {
    axum::Json(json!({"offset": lock(&app).end()})).into_response()
}

async fn pruned(Shared(app): Shared<App>) -> Response {
    let offset = lock(&app).pruned;
    axum::Json(
        json!({"participantPrunedUpToInclusive": offset, "allDivulgedContractsPrunedUpToInclusive": offset}),
    )
    .into_response()
}

// ------------------------------------------------------------------------------------- submissions

async fn submit_for_transaction(Shared(app): Shared<App>, bytes: Bytes) -> Response {
    let body = body!(bytes);
    match commit(&app, &body["commands"]).await {
        Ok((update, lost)) => {
            let transaction = transaction(&lock(&app), &update, None);
            answered(json!({"transaction": transaction}), lost)
        }
        Err(response) => *response,
    }
}

async fn submit(Shared(app): Shared<App>, bytes: Bytes) -> Response {
    let body = body!(bytes);
    match commit(&app, &body).await {
        Ok((update, lost)) => {
            answered(json!({"updateId": update.update_id, "completionOffset": update.offset}), lost)
        }
        Err(response) => *response,
    }
}

/// How an answer gets lost.
#[derive(Clone, Copy, PartialEq)]
enum Lost {
    Not,
    Broken,
    TimeOut,
}

fn answered(body: Value, lost: Lost) -> Response {
    match lost {
        Lost::Not => axum::Json(body).into_response(),
        Lost::TimeOut => (StatusCode::GATEWAY_TIMEOUT, "upstream timed out").into_response(),
        Lost::Broken => {
            let broken = Err::<Bytes, _>(std::io::Error::other("the connection breaks"));
            Body::from_stream(futures::stream::once(std::future::ready(broken))).into_response()
        }
    }
}

/// Takes a command's place among those in flight, and gives it back however it ends.
struct Flight {
    app: App,
    change: Change,
}

impl Drop for Flight {
    fn drop(&mut self) {
        lock(&self.app).in_flight.remove(&self.change);
    }
}

async fn commit(app: &App, commands: &Value) -> Result<(Update, Lost), Box<Response>> {
    let change = change_of(commands)?;
    let submission = commands["submissionId"].as_str().unwrap_or_default().to_owned();
    let fault = {
        let mut state = lock(app);
        state.tries.push((change.2.clone(), submission.clone()));
        check(&state, &change, commands)?;
        let fault = state.faults.pop_front();
        prevented(fault.as_ref())?;
        // What the model refuses is refused at once.
        interpret(&state, commands).map_err(|refused| Box::new(refusal(&refused)))?;
        state.in_flight.insert(change.clone());
        fault
    };
    let flight = Flight { app: Arc::clone(app), change: change.clone() };
    let seconds = commands["deduplicationPeriod"]["DeduplicationDuration"]["value"]["seconds"].as_u64();
    let work = finish(flight, commands.clone(), submission, seconds.unwrap_or(0), fault.clone());
    match fault {
        // It goes on without its client.
        Some(Fault::Hold) => {
            tokio::spawn(work);
            Ok((nothing(), Lost::TimeOut))
        }
        Some(Fault::LoseAnswer) => work.await.map(|update| (update, Lost::Broken)),
        Some(Fault::TimeOut) => work.await.map(|update| (update, Lost::TimeOut)),
        _ => work.await.map(|update| (update, Lost::Not)),
    }
}

fn nothing() -> Update {
    let (command_id, submission_id, update_id) = Default::default();
    Update { offset: 0, update_id, command_id, submission_id, created: Vec::new(), archived: Vec::new() }
}

async fn finish(
    flight: Flight,
    commands: Value,
    submission_id: String,
    window_s: u64,
    fault: Option<Fault>,
) -> Result<Update, Box<Response>> {
    match fault {
        Some(Fault::Slow(milliseconds)) => tokio::time::sleep(Duration::from_millis(milliseconds)).await,
        Some(Fault::Hold) => {
            while !lock(&flight.app).released {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        _ => {}
    }
    let mut state = lock(&flight.app);
    // Between its interpretation and its commit somebody else may have consumed what it needs.
    let (made, archived) = interpret(&state, &commands).map_err(|_| {
        let cause = "a contract was consumed meanwhile";
        Box::new(error(409, "LOCAL_VERDICT_INACTIVE_CONTRACTS", 11, cause, json!({})))
    })?;
    state.offset += 1;
    let offset = state.offset;
    let mut created = Vec::new();
    for (template, arguments) in made {
        state.contract_count += 1;
        let id = format!("00{:062x}", state.contract_count);
        let template = template.to_owned();
        state.contracts.insert(id.clone(), Contract { template, arguments, offset, active: true });
        created.push(id);
    }
    for id in &archived {
        state.contracts.get_mut(id).unwrap().active = false;
    }
    let command_id = flight.change.2.clone();
    let update_id = format!("1220{offset:060x}");
    let update =
        Update { offset, update_id, command_id, submission_id: submission_id.clone(), created, archived };
    state.updates.push(update.clone());
    let until_s = state.clock_s + window_s;
    state.commands.insert(flight.change.clone(), Remembered { offset, submission_id, until_s });
    drop(state);
    Ok(update)
}

fn change_of(commands: &Value) -> Result<Change, Box<Response>> {
    let text = |field: &str| commands[field].as_str().map(str::to_owned);
    let parties = commands["actAs"].as_array();
    let party = parties.filter(|all| all.len() == 1).and_then(|all| all[0].as_str());
    let fits = |id: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "._:-#/ ".contains(c);
        !id.is_empty() && id.len() <= 255 && id.chars().all(known)
    };
    let ids = ["commandId", "submissionId", "workflowId"].map(text);
    let (Some(user), Some(party), [Some(command), Some(submission), Some(workflow)]) =
        (text("userId"), party, ids)
    else {
        return Err(Box::new(bad("Invalid value for: body (missing field)")));
    };
    if ![&command, &submission, &workflow].into_iter().all(|id| fits(id)) {
        return Err(Box::new(error(400, "INVALID_ARGUMENT", 8, "an id that is none", json!({}))));
    }
    Ok((user, party.to_owned(), command))
}

fn check(state: &State, change: &Change, commands: &Value) -> Result<(), Box<Response>> {
    if !state.rights.contains(&(change.0.clone(), change.1.clone())) {
        return Err(Box::new(error(403, "PERMISSION_DENIED", 7, "may not act as that party", json!({}))));
    }
    let seconds = commands["deduplicationPeriod"]["DeduplicationDuration"]["value"]["seconds"].as_u64();
    let Some(seconds) = seconds else { return Err(Box::new(bad("Invalid value for: deduplicationPeriod"))) };
    if seconds > state.window_max_s {
        let context = json!({"longest_duration": format!("PT{}S", state.window_max_s)});
        return Err(Box::new(error(400, "INVALID_DEDUPLICATION_PERIOD", 9, "too long", context)));
    }
    if state.in_flight.contains(change) {
        return Err(Box::new(error(409, "SUBMISSION_ALREADY_IN_FLIGHT", 2, "in flight", json!({}))));
    }
    if let Some(done) = state.commands.get(change).filter(|done| state.clock_s < done.until_s) {
        let context = json!({
            "completion_offset": done.offset.to_string(), "existing_submission_id": done.submission_id,
        });
        return Err(Box::new(error(409, "DUPLICATE_COMMAND", 10, "done before", context)));
    }
    Ok(())
}

fn prevented(fault: Option<&Fault>) -> Result<(), Box<Response>> {
    Err(Box::new(match fault {
        Some(Fault::Unavailable) => error(503, "SERVICE_NOT_RUNNING", 1, "starting", json!({})),
        Some(Fault::BadGateway) => (StatusCode::BAD_GATEWAY, "bad gateway").into_response(),
        Some(Fault::Contention) => error(409, "LOCAL_VERDICT_LOCKED_CONTRACTS", 2, "locked", json!({})),
        Some(Fault::WindowTooLong) => {
            error(400, "INVALID_DEDUPLICATION_PERIOD", 9, "too long", json!({"longest_duration": "PT1S"}))
        }
        _ => return Ok(()),
    }))
}

fn refusal(Refused { code, cause }: &Refused) -> Response {
    let (status, category) = match *code {
        "CONTRACT_NOT_FOUND" => (404, 11),
        "COMMAND_PREPROCESSING_FAILED" => (400, 8),
        _ => (400, 9),
    };
    error(status, code, category, cause, json!({}))
}

/// What a command makes and which contracts it ends.
fn interpret(state: &State, commands: &Value) -> Result<(model::Made, Vec<String>), Refused> {
    let malformed = |cause: &str| Refused { code: "COMMAND_PREPROCESSING_FAILED", cause: cause.to_owned() };
    let all = commands["commands"].as_array().filter(|all| all.len() == 1);
    let Some(command) = all.map(|all| &all[0]) else { return Err(malformed("one command at a time")) };
    if state.dars.is_empty() {
        return Err(Refused { code: "TEMPLATES_OR_INTERFACES_NOT_FOUND", cause: "no package".to_owned() });
    }
    let template = |of: &Value| {
        let found = of["templateId"].as_str().and_then(|id| id.strip_prefix("#p2engine-ledger:"));
        found.map(str::to_owned).ok_or_else(|| malformed("a template by the package's name"))
    };
    if let Some(create) = command.get("CreateCommand") {
        let found = template(create)?;
        if found != CURSOR || create["createArguments"]["operator"] != commands["actAs"][0] {
            return Err(malformed("a cursor is created, by its operator, and nothing else"));
        }
        return Ok((vec![(CURSOR, create["createArguments"].clone())], Vec::new()));
    }
    let Some(exercise) = command.get("ExerciseCommand") else { return Err(malformed("an unknown command")) };
    let contract = |id: &str| {
        let found = state.contracts.get(id).filter(|contract| contract.active);
        let cause = format!("Contract could not be found with id {id}");
        found.ok_or(Refused { code: "CONTRACT_NOT_FOUND", cause })
    };
    if template(exercise)? != CURSOR {
        return Err(malformed("choices are exercised on a cursor"));
    }
    let id = model::text(exercise, "contractId")?;
    let cursor = &contract(id)?.arguments;
    let argument = &exercise["choiceArgument"];
    match model::text(exercise, "choice")? {
        "Fence" => Ok((model::fence(cursor), vec![id.to_owned()])),
        "Settle" => {
            let ids = argument["inputs"].as_array().ok_or_else(|| malformed("inputs"))?;
            let ids: Vec<String> = ids.iter().map(|id| id.as_str().unwrap_or_default().to_owned()).collect();
            let inputs: Vec<Value> =
                ids.iter().map(|id| Ok(contract(id)?.arguments.clone())).collect::<Result<_, Refused>>()?;
            let entries = argument["entries"].to_string();
            if state.poison.as_ref().is_some_and(|poison| entries.contains(poison)) {
                return Err(Refused { code: "DAML_FAILURE", cause: "poison".to_owned() });
            }
            let made = model::settle(cursor, &inputs, argument)?;
            Ok((made, std::iter::once(id.to_owned()).chain(ids).collect()))
        }
        other => Err(malformed(&format!("there is no choice '{other}'"))),
    }
}

// ------------------------------------------------------------------------------------- reading

/// The templates that a format asks for, as `Module:Template`; none: all.
fn templates(format: &Value) -> Option<Vec<String>> {
    let parties = format["filtersByParty"].as_object()?;
    let filters =
        parties.values().flat_map(|party| party["cumulative"].as_array().cloned().unwrap_or_default());
    let ids = filters.filter_map(|filter| {
        let id = filter["identifierFilter"]["TemplateFilter"]["value"]["templateId"].as_str()?.to_owned();
        id.split_once(':').map(|(_, rest)| rest.to_owned())
    });
    Some(ids.collect()).filter(|all: &Vec<String>| !all.is_empty())
}

fn created(id: &str, contract: &Contract, party: &Value) -> Value {
    json!({
        "offset": contract.offset, "nodeId": 0, "contractId": id,
        "templateId": format!("1220beef:{}", contract.template), "contractKey": null,
        "createArgument": contract.arguments, "createdEventBlob": "", "interfaceViews": [],
        "witnessParties": [party], "signatories": [party], "observers": [],
        "createdAt": "2026-01-01T00:00:00Z", "packageName": "p2engine-ledger",
    })
}

fn transaction(state: &State, update: &Update, format: Option<&Value>) -> Value {
    let wanted = format.and_then(templates);
    let is_wanted = |id: &String| {
        wanted.as_ref().is_none_or(|templates| templates.contains(&state.contracts[id].template))
    };
    let mut events = Vec::new();
    for id in update.archived.iter().filter(|id| is_wanted(id)) {
        let template = format!("1220beef:{}", state.contracts[id].template);
        events.push(json!({"ArchivedEvent": {
            "offset": update.offset, "nodeId": 0, "contractId": id, "templateId": template,
            "witnessParties": [], "packageName": "p2engine-ledger", "implementedInterfaces": [],
        }}));
    }
    for id in update.created.iter().filter(|id| is_wanted(id)) {
        let contract = &state.contracts[id];
        events.push(json!({"CreatedEvent": created(id, contract, &contract.arguments["operator"])}));
    }
    json!({
        "updateId": update.update_id, "commandId": update.command_id, "workflowId": "",
        "effectiveAt": "2026-01-01T00:00:00Z", "events": events, "offset": update.offset,
        "synchronizerId": "global::1220feed", "traceContext": null, "recordTime": "2026-01-01T00:00:00Z",
    })
}

fn too_many() -> Response {
    let cause = "The number of matching elements is over the limit";
    error(413, "JSON_API_MAXIMUM_LIST_ELEMENTS_NUMBER_REACHED", 9, cause, json!({}))
}

fn is_pruned(state: &State, offset: i64) -> Option<Response> {
    let context = json!({"earliest_offset": state.pruned.to_string()});
    (offset < state.pruned).then(|| error(400, "PARTICIPANT_PRUNED_DATA_ACCESSED", 9, "pruned", context))
}

/// Contracts that were active at an offset, in the order of their ids.
fn active_at(state: &State, offset: i64, format: &Value) -> Vec<Value> {
    let wanted = templates(format);
    let ended = |id: &String| {
        let ends = state.updates.iter().find(|update| update.archived.contains(id));
        ends.is_some_and(|update| update.offset <= offset)
    };
    let found = state.contracts.iter().filter(|(id, contract)| {
        let fits = wanted.as_ref().is_none_or(|templates| templates.contains(&contract.template));
        fits && contract.offset <= offset && (contract.active || !ended(id))
    });
    let entry = |(id, contract): (&String, &Contract)| {
        json!({"workflowId": "", "contractEntry": {"JsActiveContract": {
            "createdEvent": created(id, contract, &contract.arguments["operator"]),
            "synchronizerId": "global::1220feed", "reassignmentCounter": 0,
        }}})
    };
    found.map(entry).collect()
}

async fn active_contracts(Shared(app): Shared<App>, bytes: Bytes) -> Response {
    let body = body!(bytes);
    let state = lock(&app);
    let Some(offset) = body["activeAtOffset"].as_i64() else {
        return bad("Invalid value for: activeAtOffset");
    };
    if let Some(pruned) = is_pruned(&state, offset) {
        return pruned;
    }
    let found = active_at(&state, offset, &body["eventFormat"]);
    if found.len() > LIST_MAX { too_many() } else { axum::Json(Value::Array(found)).into_response() }
}

async fn active_contracts_page(Shared(app): Shared<App>, bytes: Bytes) -> Response {
    let body = body!(bytes);
    let state = lock(&app);
    if state.no_pages {
        return (StatusCode::NOT_FOUND, "Not found").into_response();
    }
    let offset = body["activeAtOffset"].as_i64().unwrap_or_else(|| state.end());
    if let Some(pruned) = is_pruned(&state, offset) {
        return pruned;
    }
    let size = usize::try_from(body["maxPageSize"].as_u64().unwrap_or(100)).unwrap().min(LIST_MAX);
    let from: usize = body["pageToken"].as_str().and_then(|token| token.parse().ok()).unwrap_or(0);
    let all = active_at(&state, offset, &body["eventFormat"]);
    let page: Vec<Value> = all.iter().skip(from).take(size).cloned().collect();
    let more = from + page.len() < all.len();
    let next = more.then(|| (from + page.len()).to_string());
    axum::Json(json!({"activeContracts": page, "activeAtOffset": offset, "nextPageToken": next}))
        .into_response()
}

async fn updates(Shared(app): Shared<App>, bytes: Bytes) -> Response {
    let body = body!(bytes);
    let state = lock(&app);
    let Some(begin) = body["beginExclusive"].as_i64() else {
        return bad("Invalid value for: beginExclusive");
    };
    if let Some(pruned) = is_pruned(&state, begin) {
        return pruned;
    }
    let end = body["endInclusive"].as_i64().unwrap_or_else(|| state.end());
    let includes = &body["updateFormat"]["includeTransactions"];
    // The other shape tells exercises too; who asks for it is told creations and archivals all the same.
    if !["TRANSACTION_SHAPE_ACS_DELTA", "TRANSACTION_SHAPE_LEDGER_EFFECTS"]
        .iter()
        .any(|shape| includes["transactionShape"] == *shape)
    {
        return bad("Invalid value for: updateFormat");
    }
    let within = state.updates.iter().filter(|update| update.offset > begin && update.offset <= end);
    let mut found: Vec<Value> = within
        .map(|update| transaction(&state, update, Some(&includes["eventFormat"])))
        .filter(|update| update["events"].as_array().is_some_and(|events| !events.is_empty()))
        .map(|update| json!({"update": {"Transaction": {"value": update}}}))
        .collect();
    found.push(json!({"update": {"OffsetCheckpoint": {"value": {"offset": end, "synchronizerTimes": []}}}}));
    if found.len() > LIST_MAX { too_many() } else { axum::Json(Value::Array(found)).into_response() }
}

async fn update_by_offset(Shared(app): Shared<App>, bytes: Bytes) -> Response {
    let body = body!(bytes);
    let state = lock(&app);
    let offset = body["offset"].as_i64().unwrap_or_default();
    let kept = offset > state.pruned;
    match state.updates.iter().find(|update| kept && update.offset == offset) {
        Some(update) => {
            let update = transaction(&state, update, None);
            axum::Json(json!({"update": {"Transaction": {"value": update}}})).into_response()
        }
        None => error(404, "UPDATE_NOT_FOUND", 11, "no such update", json!({})),
    }
}

async fn completions(Shared(app): Shared<App>, Query(query): Asked, bytes: Bytes) -> Response {
    let body = body!(bytes);
    let state = lock(&app);
    let begin = body["beginExclusive"].as_i64().unwrap_or_default();
    if let Some(pruned) = is_pruned(&state, begin) {
        return pruned;
    }
    let limit = query.get("limit").and_then(|text| text.parse().ok()).unwrap_or(LIST_MAX);
    let found = state.updates.iter().filter(|update| update.offset > begin).take(limit).map(|update| {
        json!({"completionResponse": {"Completion": {"value": {
            "commandId": update.command_id, "submissionId": update.submission_id, "userId": body["userId"],
            "updateId": update.update_id, "offset": update.offset, "status": {"code": 0, "message": ""},
            "actAs": body["parties"], "deduplicationPeriod": {"Empty": {}},
        }}}})
    });
    axum::Json(found.collect::<Vec<Value>>()).into_response()
}
