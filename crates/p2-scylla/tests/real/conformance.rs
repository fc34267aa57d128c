//! The port's own suite.

use p2_scylla::CqlStore;
use p2_stream::conformance;
use p2_stream::ports::StackStore;

use crate::server::server;

#[tokio::test]
async fn the_cql_store_does_what_every_store_does() {
    let Some(server) = server("the store's conformance suite") else { return };
    let _guard = server.share();
    let store: CqlStore = server.store().await;
    conformance::store_conformance(async || {
        store.wipe().await.unwrap();
        store.clone()
    })
    .await;
}
