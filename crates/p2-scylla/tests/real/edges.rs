//! What goes wrong at the start, and what is said then.

use p2_scylla::{
    CqlStore, Flavour, OpenError, Options, Password, SCHEMA_VERSION, SchemaState, Tls, check, migrate,
};
use p2_stream::ports::StackStore;

use crate::made::log_of;
use crate::server::{USER, expected, feed, log, names, open, reads, server, session};

const WRONG: &str = "wrong-and-hidden";

#[tokio::test]
async fn tables_are_made_once_and_compared_from_then_on() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let options = server.options("edges_migrations");
    let refused = open(&options).await.unwrap_err();
    assert!(matches!(refused, OpenError::Schema(_)), "{refused:?}");
    assert!(refused.to_string().contains("run `p2engine store apply`"), "{refused}");
    assert_eq!(check(&options).await.unwrap(), SchemaState::Missing);
    assert_eq!(migrate(&options).await.unwrap(), SchemaState::Missing);
    assert_eq!(check(&options).await.unwrap(), SchemaState::Current);
    assert_eq!(
        migrate(&options).await.unwrap(),
        SchemaState::Current,
        "a second time there is nothing to do"
    );
    assert_eq!(open(&options).await.unwrap().flavour(), Flavour::Cassandra, "found out by asking");

    let session = session(&options).await;
    let note = "INSERT INTO edges_migrations.migrations (name, version, checksum) VALUES ('schema', ?, 'x')";
    session.query_unpaged(note, (SCHEMA_VERSION + 1,)).await.unwrap();
    let newer = SchemaState::Newer { found: SCHEMA_VERSION + 1 };
    assert_eq!(check(&options).await.unwrap(), newer);
    for refused in [migrate(&options).await.unwrap_err(), open(&options).await.unwrap_err()] {
        assert!(refused.to_string().contains("use the newer program"), "{refused}");
    }
    session.query_unpaged("TRUNCATE edges_migrations.migrations", ()).await.unwrap();
    assert_eq!(
        migrate(&options).await.unwrap(),
        SchemaState::Missing,
        "one that was cut short is made again"
    );
    session.query_unpaged(note, (SCHEMA_VERSION,)).await.unwrap();
    assert_eq!(check(&options).await.unwrap(), SchemaState::Different { version: SCHEMA_VERSION });
}

#[tokio::test]
async fn a_wrong_or_missing_login_is_one_sentence_without_the_password() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let right = server.options("none");
    let wrong = Options { user: Some((USER.to_owned(), Password::new(WRONG))), ..right.clone() };
    let none = Options { user: None, ..right };
    for options in [wrong, none] {
        let refused = check(&options).await.unwrap_err();
        assert!(matches!(refused, OpenError::Login { .. }), "{refused:?}");
        let said = format!("{refused} {refused:?} {options:?}");
        assert!(said.contains("refuses the login"), "{said}");
        assert!(!said.contains(WRONG) && !refused.to_string().contains('\n'), "{said}");
    }
}

#[tokio::test]
async fn a_password_that_is_right_is_in_no_debug_text_either() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let options = server.keyspace().await;
    let role = "CREATE ROLE IF NOT EXISTS p2_role WITH PASSWORD = 'right-and-hidden' AND LOGIN = true";
    session(&options).await.query_unpaged(role, ()).await.unwrap();
    let user = Some(("p2_role".to_owned(), Password::new("right-and-hidden")));
    let options = Options { user, ..options };
    let store = open(&options).await.unwrap();
    let log = log_of(2, 1);
    feed(&store, &log, 2).await;
    assert_eq!(reads(&store, &names(&log)).await, expected(&log).await);
    let said = format!("{store:?} {options:?}");
    assert!(!said.contains("right-and-hidden"), "{said}");
}

#[tokio::test]
async fn a_store_over_tls_works_and_an_unknown_certificate_is_refused() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let tls = Some(Tls { ca_file: server.ca_file() });
    let options = Options { tls, ..server.keyspace().await };
    let log = log_of(3, 2);
    let store = open(&options).await.unwrap();
    feed(&store, &log, 2).await;
    assert_eq!(reads(&store, &names(&log)).await, expected(&log).await);

    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other.pem");
    std::fs::write(&other, OTHER_CA).unwrap();
    let options = Options { tls: Some(Tls { ca_file: other }), ..options };
    let refused = check(&options).await.unwrap_err();
    assert!(matches!(refused, OpenError::Tls(_)), "{refused:?}");
    assert!(refused.to_string().contains("invalid peer certificate"), "{refused}");
}

#[tokio::test]
async fn a_store_of_another_log_is_named() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let options = server.keyspace().await;
    open(&options).await.unwrap();
    let refused = CqlStore::open(&options, &log("two")).await.unwrap_err().to_string();
    assert!(refused.contains("belongs to log cluster/one, this is log cluster/two"), "{refused}");
}

#[tokio::test]
async fn a_keyspace_that_was_dropped_under_a_store_is_not_waited_for() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let options = server.keyspace().await;
    let store = open(&options).await.unwrap();
    session(&options).await.query_unpaged(format!("DROP KEYSPACE {}", options.keyspace), ()).await.unwrap();
    let refused = store.applied(0).await.unwrap_err();
    assert!(matches!(refused, p2_stream::ports::StoreError::Foreign(_)), "{refused:?}");
    assert!(refused.to_string().contains("p2engine store apply"), "{refused}");
}

/// A self-signed certificate of nobody.
const OTHER_CA: &str = include_str!("other-ca.pem");
