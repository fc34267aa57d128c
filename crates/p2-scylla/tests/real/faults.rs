//! Kills, zombies, repeats, lost rows.

use std::time::Duration;

use p2_core::record::StateTransition;
use p2_scylla::{CqlStore, Options, migrate};
use p2_stream::ports::{StackStore, StoreError};

use crate::made::{closes, log_of, opened, said, transition, waits};
use crate::server::{PASSWORD, dump, expected, feed, names, open, reads, server, session, until};

/// Writes as the shell does: what is unavailable is waited out and the same is written again. Returns how many
/// tries failed.
async fn write_on(store: &CqlStore, part: &[(i64, StateTransition)]) -> usize {
    let mut failures = 0;
    loop {
        match store.write(0, part.to_vec(), part.last().unwrap().0 + 1).await {
            Ok(()) => return failures,
            Err(StoreError::Unavailable(said)) => {
                assert!(!said.contains(PASSWORD) && !said.contains('\n'), "{said}");
                failures += 1;
                assert!(failures < 5_000, "still {said}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// Opens after a kill, which may have taken away the note that the tables were made, just before.
async fn reopen(options: &Options) -> CqlStore {
    migrate(options).await.unwrap();
    open(options).await.unwrap()
}

/// The server acknowledges before it syncs, so each kill takes the last second of acknowledged writes away. The
/// owner that lives on has to notice and write them again: nobody catches up for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_outlives_kills_of_its_store_has_everything_in_the_end() {
    let Some(server) = server() else { return };
    let _alone = server.alone();
    let options = Options { request_timeout: Duration::from_secs(5), ..server.keyspace().await };
    let log = log_of(120, 8);
    let store = open(&options).await.unwrap();
    let mut failures = 0;
    for half in log.chunks(log.len() / 2 + 1) {
        let kill = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(40));
            server.kill();
            server.restart();
        });
        for part in half.chunks(9) {
            failures += write_on(&store, part).await;
        }
        kill.await.unwrap();
        let written = log.partition_point(|(offset, _)| *offset <= half.last().unwrap().0);
        let so_far = &log[..written];
        until("the store is back", async || store.applied(0).await.is_ok()).await;
        assert_eq!(reads(&store, &names(so_far)).await, expected(so_far).await);
    }
    assert!(failures > 0, "the kills came between the writes: nothing was shown");
    let other = reopen(&options).await;
    assert_eq!(reads(&other, &names(&log)).await, expected(&log).await, "as everyone else reads it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_its_last_acknowledged_writes_is_caught_up_by_the_next_owner() {
    let Some(server) = server() else { return };
    let _alone = server.alone();
    let options = server.keyspace().await;
    let log = log_of(60, 6);
    let store = open(&options).await.unwrap();
    for part in log.chunks(9) {
        write_on(&store, part).await;
    }
    drop(store);
    server.kill();
    server.restart();
    let next = reopen(&options).await;
    let lost = log.len() as i64 - next.applied(0).await.unwrap();
    eprintln!("{lost} of {} acknowledged transitions were lost by the kill", log.len());
    let from = usize::try_from(next.applied(0).await.unwrap()).unwrap().saturating_sub(300);
    for part in log[from..].chunks(50) {
        write_on(&next, part).await;
    }
    assert_eq!(reads(&next, &names(&log)).await, expected(&log).await);
}

#[tokio::test]
async fn a_node_that_is_away_is_unavailable_for_every_kind_of_request() {
    let Some(server) = server() else { return };
    let _alone = server.alone();
    let options = Options { request_timeout: Duration::from_secs(2), ..server.keyspace().await };
    let store = open(&options).await.unwrap();
    let log = log_of(2, 1);
    feed(&store, &log, 4).await;
    server.kill();
    let conversation = log[0].1.conversation.clone();
    let (agent, branch) = (&log[0].1.agent, &log[0].1.branch);
    let errors = [
        store.write(0, log.clone(), 4).await.unwrap_err(),
        store.applied(0).await.unwrap_err(),
        store.load(&conversation).await.map(drop).unwrap_err(),
        store.tail(&conversation, agent, branch, 9, 9).await.map(drop).unwrap_err(),
        store.open(0).await.map(drop).unwrap_err(),
        store.list(None, 9).await.map(drop).unwrap_err(),
        store.begin_rebuild().await.map(drop).unwrap_err(),
    ];
    server.restart();
    for error in errors {
        let StoreError::Unavailable(said) = &error else { panic!("{error:?}") };
        assert!(said.contains(&options.nodes[0]) && !said.contains('\n'), "{said}");
    }
    write_on(&store, &log).await;
    assert_eq!(reads(&store, &names(&log)).await, expected(&log).await, "it comes back by itself");
}

#[tokio::test]
async fn a_zombies_late_write_changes_no_byte() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let options = server.keyspace().await;
    // So long that the bytes of an older head are greater than those of the newest one: on equal timestamps the
    // greater value would win.
    let log = log_of(9, 20);
    let zombie = open(&options).await.unwrap();
    feed(&zombie, &log[..100], 5).await;
    let owner = open(&options).await.unwrap();
    feed(&owner, &log[80..], 7).await;
    let before = dump(&options).await;
    // It wakes up in the middle of its work, with heads in memory that are long behind.
    feed(&zombie, &log[90..190], 3).await;
    assert_eq!(dump(&options).await, before);
    assert_eq!(reads(&owner, &names(&log)).await, expected(&log).await);
}

#[tokio::test]
async fn the_same_log_gives_the_same_bytes_however_often_and_in_whatever_portions() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let log = log_of(11, 5);
    let mut dumps = Vec::new();
    for portion in [1, 13, 1_000] {
        let options = server.keyspace().await;
        feed(&open(&options).await.unwrap(), &log, portion).await;
        let once = dump(&options).await;
        feed(&open(&options).await.unwrap(), &log[log.len() / 2..], 4).await;
        assert_eq!(dump(&options).await, once, "a second handle that writes a part of it again");
        dumps.push(once);
    }
    assert_eq!(dumps[0], dumps[1]);
    assert_eq!(dumps[0], dumps[2]);
}

#[tokio::test]
async fn heads_that_the_store_lost_are_folded_again_from_the_rows() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let (from, to) = (server.keyspace().await, server.keyspace().await);
    let (a, b) = ("kept", "other");
    let mut log = Vec::new();
    for (name, seq) in (0..20).flat_map(|seq| [(a, seq), (b, seq)]) {
        let wait = |seq: i64| format!("{name}/{seq}");
        let changes = match seq {
            0 => vec![opened(), waits(0, &wait(0))],
            _ => vec![closes(&wait(seq - 1)), said(seq * 2, "text"), waits(seq * 2 + 1, &wait(seq))],
        };
        log.push((log.len() as i64, transition(name, seq, changes)));
    }
    feed(&open(&from).await.unwrap(), &log[..38], 5).await;
    open(&to).await.unwrap();
    copy_transitions(&from, &to).await;
    let store = open(&to).await.unwrap();
    assert_eq!(store.list(None, 9).await.unwrap(), [], "the rows are there, the heads are not");
    feed(&store, &log[38..], 2).await;
    assert_eq!(reads(&store, &names(&log)).await, expected(&log).await);
    feed(&open(&from).await.unwrap(), &log[38..], 1).await;
    assert_eq!(dump(&from).await, dump(&to).await, "and the bytes are those of a store that lost nothing");
}

/// Copies the rows of conversations without their heads.
async fn copy_transitions(from: &Options, to: &Options) {
    let session = session(from).await;
    let read = format!(
        "SELECT generation, conversation, bucket, kind, agent, branch, first, seq, cell, WRITETIME(cell) \
         FROM {}.transitions",
        from.keyspace
    );
    let write = format!(
        "INSERT INTO {}.transitions (generation, conversation, bucket, kind, agent, branch, first, seq, cell) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
        to.keyspace
    );
    let found = session.query_unpaged(read, ()).await.unwrap().into_rows_result().unwrap();
    type Columns = (i32, String, i32, i32, String, String, i64, i64, Vec<u8>, i64);
    for row in found.rows::<Columns>().unwrap() {
        session.query_unpaged(write.as_str(), row.unwrap()).await.unwrap();
    }
}
