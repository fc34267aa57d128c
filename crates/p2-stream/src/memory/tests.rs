use super::*;
use crate::conformance;

#[tokio::test]
async fn the_memory_log_does_what_every_log_does() {
    conformance::log_conformance(async || MemoryLog::new(4)).await;
}

#[tokio::test]
async fn the_memory_store_does_what_every_store_does() {
    conformance::store_conformance(async || MemoryStore::default()).await;
}
