use super::*;
use crate::conformance;

#[tokio::test]
async fn the_memory_log_does_what_every_log_does() {
    conformance::log_conformance(async || MemoryLog::new(4)).await;
}

#[tokio::test]
async fn the_start_of_the_memory_log_moves_and_nothing_passes_for_a_gap() {
    let delete =
        async |log: &MemoryLog, partition, before| log.delete_before(Topic::Inbox, partition, before);
    conformance::log_start_conformance(MemoryLog::new(4), delete, conformance::LogTraits::default()).await;
}

#[tokio::test]
async fn the_memory_store_does_what_every_store_does() {
    conformance::store_conformance(async || MemoryStore::default()).await;
}
