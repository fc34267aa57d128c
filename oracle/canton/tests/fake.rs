//! The `canton-ledger` client, which is somebody else's and was verified against real nodes, understands the
//! participant for tests: bodies, answers, and what its errors are.

use canton_ledger::{JsonClient, JsonCommands};
use fake_canton::{Fake, Fault, LIST_MAX};
use serde_json::{Value, json};

const PARTY: &str = "p2engine::1220feed";
const CURSOR: &str = "#p2engine-ledger:P2Engine.Ledger:SettlementCursor";

fn commands(id: &str, submission: &str) -> JsonCommands {
    JsonCommands::new(vec![PARTY.to_owned()])
        .with_command_id(id)
        .with_submission_id(submission)
        .with_user_id("p2engine")
        .with_workflow_id("p2/main")
        .with_deduplication_period(json!({"DeduplicationDuration": {"value": {"seconds": 60, "nanos": 0}}}))
}

fn cursor(id: &str, submission: &str) -> JsonCommands {
    let arguments = json!({
        "operator": PARTY, "book": "main", "instrument": "TOKEN", "nextOffset": "0", "lastCommand": "", "frozen": [],
    });
    commands(id, submission).add_create(CURSOR, arguments)
}

fn settle(contract: &str, expected: i64, wallets: usize) -> JsonCommands {
    let entries: Vec<Value> = (0..wallets)
        .map(|number| {
            let cause =
                json!({"recordId": "r", "conversationId": null, "evaluationId": null, "reason": "a test"});
            json!({"tag": "Deposit", "value": {"wallet": format!("w{number}"), "amount": "2.50", "cause": cause}})
        })
        .collect();
    commands(&format!("p2/main/{expected}-{expected}"), &format!("try {expected}")).add_command(json!({
        "ExerciseCommand": {"templateId": CURSOR, "contractId": contract, "choice": "Settle", "choiceArgument": {
            "expected": expected.to_string(), "lastOffset": expected.to_string(), "command": "c", "inputs": [],
            "entries": entries,
        }},
    }))
}

/// The contract id of the first event that made a cursor.
fn cursor_of(events: &[Value]) -> String {
    let created = events.iter().filter_map(|event| event.get("CreatedEvent"));
    let is_cursor = |event: &&Value| event["templateId"].as_str().unwrap().ends_with(":SettlementCursor");
    created.filter(is_cursor).last().unwrap()["contractId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_command_is_done_once_and_the_second_try_is_told_so() {
    let fake = Fake::ready().await;
    let client = JsonClient::new(fake.url());
    assert!(client.version().await.unwrap().starts_with("3."));
    assert_eq!(client.ledger_end().await.unwrap(), 0);
    let first = client.submit_and_wait_for_transaction(&cursor("one", "a")).await.unwrap().transaction;
    assert_eq!((first.offset, first.command_id.as_str()), (1, "one"));
    let error = client.submit_and_wait_for_transaction(&cursor("one", "b")).await.unwrap_err();
    let info = error.error_info().unwrap();
    assert_eq!(info.reason, "DUPLICATE_COMMAND");
    assert_eq!(info.metadata.get("completion_offset").map(String::as_str), Some("1"));
    assert_eq!(info.metadata.get("existing_submission_id").map(String::as_str), Some("a"));
    assert_eq!(client.ledger_end().await.unwrap(), 1);
    let bare = client.submit_and_wait(&cursor("two", "c")).await.unwrap();
    assert_eq!(bare.completion_offset, 2);
}

#[tokio::test]
async fn errors_have_the_codes_and_categories_that_the_client_knows() {
    let fake = Fake::ready().await;
    let client = JsonClient::new(fake.url());
    let reason = |error: canton_ledger::Error| error.error_info().map(|info| info.reason).unwrap_or_default();
    fake.fail([Fault::Contention, Fault::Unavailable, Fault::WindowTooLong]);
    for expected in ["LOCAL_VERDICT_LOCKED_CONTRACTS", "SERVICE_NOT_RUNNING", "INVALID_DEDUPLICATION_PERIOD"] {
        let error = client.submit_and_wait_for_transaction(&cursor("one", "a")).await.unwrap_err();
        assert!(error.category().is_some(), "{error}");
        assert_eq!(reason(error), expected);
    }
    let missing = settle("00ff", 0, 1);
    assert_eq!(reason(client.submit_and_wait_for_transaction(&missing).await.unwrap_err()), "CONTRACT_NOT_FOUND");
    let made = client.submit_and_wait_for_transaction(&cursor("two", "b")).await.unwrap().transaction;
    let wrong = settle(&cursor_of(&made.events), 7, 1);
    assert_eq!(reason(client.submit_and_wait_for_transaction(&wrong).await.unwrap_err()), "UNHANDLED_EXCEPTION");
}

#[tokio::test]
async fn contracts_updates_and_pruning_are_read() {
    let fake = Fake::ready().await;
    let client = JsonClient::new(fake.url());
    let parties = || vec![PARTY.to_owned()];
    let made = client.submit_and_wait_for_transaction(&cursor("one", "a")).await.unwrap().transaction;
    let settled = settle(&cursor_of(&made.events), 0, 3);
    let settled = client.submit_and_wait_for_transaction(&settled).await.unwrap().transaction;
    let active = client.active_contracts(parties(), settled.offset, None).await.unwrap();
    // Three holdings, three receipts, and the cursor.
    assert_eq!(active.len(), 7);
    let first = &active[0]["contractEntry"]["JsActiveContract"]["createdEvent"];
    assert!(first["contractId"].is_string() && first["createArgument"].is_object(), "{first}");
    let updates = client.updates(parties(), 0, Some(settled.offset), None).await.unwrap();
    let names: Vec<&Value> = updates
        .iter()
        .filter_map(|update| update["update"].get("Transaction"))
        .map(|transaction| &transaction["value"]["commandId"])
        .collect();
    assert_eq!(names, [&json!("one"), &json!("p2/main/0-0")]);
    let found = client.update_by_offset(settled.offset, parties()).await.unwrap().unwrap();
    assert_eq!(found["update"]["Transaction"]["value"]["updateId"], json!(settled.update_id));
    assert!(client.update_by_offset(99, parties()).await.unwrap().is_none());
    fake.state().pruned = 1;
    assert_eq!(client.latest_pruned_offsets().await.unwrap().participant_pruned_up_to_inclusive, 1);
    let error = client.updates(parties(), 0, None, None).await.unwrap_err();
    assert_eq!(error.error_info().unwrap().reason, "PARTICIPANT_PRUNED_DATA_ACCESSED");
}

#[tokio::test]
async fn a_list_that_is_too_long_is_an_error_and_not_a_part_of_it() {
    let fake = Fake::ready().await;
    let client = JsonClient::new(fake.url());
    let made = client.submit_and_wait_for_transaction(&cursor("one", "a")).await.unwrap().transaction;
    let settled = settle(&cursor_of(&made.events), 0, LIST_MAX);
    let settled = client.submit_and_wait_for_transaction(&settled).await.unwrap().transaction;
    let error = client.active_contracts(vec![PARTY.to_owned()], settled.offset, None).await.unwrap_err();
    assert!(error.to_string().contains("413"), "{error}");
}
