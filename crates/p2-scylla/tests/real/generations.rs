//! Rebuilds: a new generation is filled while the old one is read.

use std::collections::BTreeSet;

use p2_stream::ports::{StackStore, StoreError};

use crate::made::log_of;
use crate::server::{dump, expected, feed, names, open, reads, server, session, until};

#[tokio::test]
async fn a_rebuild_fills_a_new_generation_while_the_old_one_is_read() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let options = server.keyspace().await;
    let log = log_of(7, 4);
    let (old, all) = (&log[..24], names(&log));
    let owner = open(&options).await.unwrap();
    feed(&owner, old, 5).await;
    let reader = open(&options).await.unwrap();
    let next = owner.begin_rebuild().await.unwrap();
    assert_eq!((owner.generation(), next.generation()), (1, 2));
    assert_eq!(next.applied(0).await.unwrap(), 0, "it starts from nothing");
    for part in log.chunks(6) {
        next.write(0, part.to_vec(), part.last().unwrap().0 + 1).await.unwrap();
        assert_eq!(reads(&reader, &all).await, expected_with(old, &all).await, "the old one is read");
    }
    assert_eq!(reads(&next, &all).await, expected(&log).await);
    feed(&owner, old, 9).await;

    let refused = owner.drop_generation(1).await.unwrap_err();
    assert!(matches!(refused, StoreError::Foreign(_)), "what is read is not dropped: {refused:?}");
    let writer = open(&options).await.unwrap();
    feed(&writer, &old[..3], 3).await;
    owner.switch(&next).await.unwrap();
    owner.switch(&next).await.unwrap();
    assert_eq!(reads(&owner, &all).await, expected(&log).await, "who switches sees it at once");
    until("a reader follows", async || reader.applied(0).await.unwrap() == log.len() as i64).await;
    until("a writer of the old one is told", async || {
        let said = writer.write(0, old[..3].to_vec(), 3).await;
        matches!(said, Err(StoreError::Rebuilt(said)) if said.contains("generation 2 is read now"))
    })
    .await;
    let still = writer.load(&log[0].1.conversation).await;
    assert!(matches!(still, Err(StoreError::Rebuilt(_))), "it reads neither, until it follows: {still:?}");
    writer.follow().await.unwrap();
    assert_eq!((writer.generation(), writer.applied(0).await.unwrap()), (2, log.len() as i64));
    feed(&writer, &log[20..], 3).await;

    owner.drop_generation(1).await.unwrap();
    owner.drop_generation(1).await.unwrap();
    let left = dump(&options).await;
    assert!(!left.is_empty() && left.iter().all(|row| row.starts_with("[Some(Int(2))")), "{left:#?}");
    assert_eq!(reads(&reader, &all).await, expected(&log).await);
    feed(&next, &log, 11).await;
    assert_eq!(reads(&reader, &all).await, expected(&log).await, "the rebuilder writes on");
}

async fn expected_with(
    log: &[(i64, p2_core::record::StateTransition)],
    names: &BTreeSet<String>,
) -> Vec<String> {
    let store = p2_stream::memory::MemoryStore::default();
    store.write(0, log.to_vec(), log.last().unwrap().0 + 1).await.unwrap();
    reads(&store, names).await
}

#[tokio::test]
async fn generations_never_share_a_number_and_never_go_back() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let options = server.keyspace().await;
    let (one, two) = (open(&options).await.unwrap(), open(&options).await.unwrap());
    let mut builders = Vec::new();
    while builders.len() < 6 {
        let (a, b) = tokio::join!(one.begin_rebuild(), two.begin_rebuild());
        for asked in [a, b] {
            match asked {
                Ok(builder) => builders.push(builder),
                Err(StoreError::Unavailable(said)) => assert!(said.contains("at the same moment"), "{said}"),
                Err(other) => panic!("{other}"),
            }
        }
    }
    let numbers: BTreeSet<i32> = builders.iter().map(|builder| builder.generation()).collect();
    assert_eq!(numbers.len(), builders.len(), "{numbers:?}");
    one.switch(&builders[3]).await.unwrap();
    let refused = two.switch(&builders[1]).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Foreign(said) if said.contains("rebuild again")), "{refused:?}");
    assert_eq!(open(&options).await.unwrap().generation(), builders[3].generation());
}

#[tokio::test]
async fn a_wiped_store_has_no_rows_left_behind() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let options = server.keyspace().await;
    let log = log_of(20, 3);
    let store = open(&options).await.unwrap();
    feed(&store, &log, 50).await;
    store.wipe().await.unwrap();
    assert_eq!(dump(&options).await, [""; 0]);
    feed(&store, &log, 50).await;
    assert_eq!(reads(&store, &names(&log)).await, expected(&log).await);
}

#[tokio::test]
async fn a_store_that_somebody_emptied_is_not_written_on() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let options = server.keyspace().await;
    let store = open(&options).await.unwrap();
    let log = log_of(3, 2);
    feed(&store, &log, 5).await;
    session(&options).await.query_unpaged(format!("TRUNCATE {}.about", options.keyspace), ()).await.unwrap();
    until("it is noticed", async || {
        let said = store.write(0, log.clone(), log.len() as i64).await;
        matches!(said, Err(StoreError::Foreign(said)) if said.contains("emptied"))
    })
    .await;
}
