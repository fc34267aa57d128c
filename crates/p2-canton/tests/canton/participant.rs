//! The client: bootstrap, tokens, completions.

use fake_canton::Fake;
use p2_canton::{CantonConfig, Class, Client, bootstrap};
use p2_stream::ports::OutsideLedger;

use crate::desk::{config, ledger};

#[tokio::test]
async fn a_bootstrap_makes_what_is_missing_and_the_second_one_nothing() {
    let fake = Fake::start().await;
    let config = config(&fake);
    let client = Client::new(&config).unwrap();
    let first = bootstrap(&client, &config, Some(b"PK-package".to_vec())).await.unwrap();
    assert_eq!((first.party.as_str(), first.party_made, first.user_made), ("p2engine::1220feed", true, true));
    assert_eq!(first.version, "3.5.10");
    let second = bootstrap(&client, &config, Some(b"PK-package".to_vec())).await.unwrap();
    assert_eq!((second.party_made, second.user_made, &second.party), (false, false, &first.party));
    let state = fake.state();
    assert_eq!((state.parties.len(), state.users.len(), state.rights.len()), (1, 1, 1));
}

#[tokio::test]
async fn a_file_that_is_no_package_is_refused_with_the_participants_words() {
    let fake = Fake::start().await;
    let config = config(&fake);
    let client = Client::new(&config).unwrap();
    let error = bootstrap(&client, &config, Some(b"#!/bin/sh".to_vec())).await.unwrap_err();
    assert_eq!(error.class(), Class::Configuration);
    assert!(error.to_string().contains("DAR_PARSE_ERROR"), "{error}");
    assert!(fake.state().parties.is_empty());
}

#[tokio::test]
async fn a_participant_without_our_user_says_what_to_run() {
    let fake = Fake::start().await;
    let error = ledger(&fake).cursor(&"main".into()).await.unwrap_err().to_string();
    assert!(error.contains("ledger bootstrap"), "{error}");
}

#[tokio::test]
async fn a_token_is_sent_renewed_and_shown_to_nobody_else() {
    let fake = Fake::ready().await;
    fake.state().token = Some("the-right-token".into());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "an-older-token\n").unwrap();
    let config = CantonConfig { token_file: Some(path.clone()), ..config(&fake) };
    let client = Client::new(&config).unwrap();
    let error = client.ledger_end().await.unwrap_err();
    assert_eq!(error.class(), Class::Configuration);
    let shown = format!("{error} {error:?} {client:?}");
    assert!(shown.contains("[redacted]") && !shown.contains("older-token"), "{shown}");
    std::fs::write(&path, "the-right-token\n").unwrap();
    assert_eq!(client.ledger_end().await.unwrap(), 0);
    fake.state().token = Some("the-next-token!".into());
    std::fs::write(&path, "the-next-token!\n").unwrap();
    // As long as the one before, and perhaps in the same tick of the file system's clock.
    let _ = client.ledger_end().await;
    assert_eq!(client.ledger_end().await.unwrap(), 0);
}

#[tokio::test]
async fn a_participant_that_is_not_there_or_is_something_else_is_told_apart() {
    let fake = Fake::ready().await;
    let client = Client::new(&config(&fake)).unwrap();
    client.ready().await.unwrap();
    fake.stop().await;
    assert_eq!(client.ledger_end().await.unwrap_err().class(), Class::Transient);
    fake.start_again().await;
    let config = CantonConfig { url: format!("{}/elsewhere", fake.url()), ..config(&fake) };
    let error = Client::new(&config).unwrap().ledger_end().await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(error.to_string().contains("ledger.canton.url"), "{error}");
}

#[tokio::test]
async fn completions_name_the_commands_that_succeeded() {
    let fake = Fake::ready().await;
    let ledger = ledger(&fake);
    let batch = p2_core::ledger::Submission {
        book: "main".into(),
        unit: "TOKEN".into(),
        scale: 2,
        batch: p2_core::ids::Id::of_text("b"),
        command: "p2/main/0-0".into(),
        expected: 0,
        last: 0,
        entries: vec![p2_core::ledger::Entry {
            kind: p2_core::ledger::EntryKind::Deposit,
            from: None,
            to: Some("alpha".into()),
            amount: 5,
            request: p2_core::ids::Id::of_text("r"),
            evaluation: None,
            conversation: None,
            reason: "r".into(),
        }],
    };
    ledger.submit(&batch, p2_stream::shell::now_ms() + 10_000).await;
    let found = ledger.client().completions("p2engine", "p2engine::1220feed", 0, 10).await.unwrap();
    let commands: Vec<&str> = found.iter().map(|(command, ..)| command.as_str()).collect();
    assert_eq!(commands, ["p2/cursor/main", "p2/main/0-0"]);
    let end = ledger.client().ledger_end().await.unwrap();
    assert_eq!(found.last().map(|(_, update, offset)| (update.is_some(), *offset)), Some((true, end)));
}
