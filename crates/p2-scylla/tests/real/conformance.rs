//! The port's own suites.

use p2_scylla::{CqlStore, OpenError};
use p2_stream::conformance;
use p2_stream::ports::{StackStore, StoreError};

use crate::server::{log, server};

#[tokio::test]
async fn the_cql_store_does_what_every_store_does() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let store = server.store().await;
    conformance::store_conformance(async || {
        store.wipe().await.unwrap();
        store.clone()
    })
    .await;
}

#[tokio::test]
async fn the_cql_store_belongs_to_one_log() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let options = server.keyspace().await;
    conformance::store_identity_conformance(async |name| {
        CqlStore::open(&options, &log(name)).await.map_err(|error| match error {
            OpenError::Foreign(what) => StoreError::Foreign(what),
            other => panic!("{other}"),
        })
    })
    .await;
}
