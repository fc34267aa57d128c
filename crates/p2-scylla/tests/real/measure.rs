//! Depth, branches and size: what is read is right at any of them. Times are printed, not judged.

use std::time::{Duration, Instant};

use p2_core::ids::{BranchId, ConversationId};
use p2_core::state::Entry;
use p2_scylla::CqlStore;
use p2_stream::memory::MemoryStore;
use p2_stream::ports::StackStore;

use crate::made::{agent, forked, log_of, on, opened, said, transition};
use crate::server::{feed, server};

async fn tail(
    store: &impl StackStore,
    conversation: &str,
    branch: &str,
    before: i64,
    max: usize,
) -> Vec<Entry> {
    let (conversation, branch) = (ConversationId::from(conversation), BranchId::from(branch));
    store.tail(&conversation, &agent(), &branch, before, max).await.unwrap()
}

async fn feed_to(store: &impl StackStore, partition: i32, log: &[(i64, p2_core::record::StateTransition)]) {
    store.write(partition, log.to_vec(), log.len() as i64).await.unwrap();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn deep(name: &str, depth: i64, text: &str) -> Vec<(i64, p2_core::record::StateTransition)> {
    let changes = |seq| if seq == 0 { vec![opened(), said(0, text)] } else { vec![said(seq, text)] };
    (0..depth).map(|seq| (seq, transition(name, seq, changes(seq)))).collect()
}

#[tokio::test]
async fn tails_are_right_at_depth_10_and_1900() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let store = server.store().await;
    let depths = [10, 100, 1_900];
    for depth in depths {
        feed(&store, &deep(&format!("depth-{depth}"), depth, &"text ".repeat(200)), 100).await;
    }
    let mut times = vec![Vec::new(); depths.len()];
    for _ in 0..400 {
        for (times, depth) in times.iter_mut().zip(depths) {
            let begin = Instant::now();
            let found = tail(&store, &format!("depth-{depth}"), "main", i64::MAX, 10).await;
            times.push(begin.elapsed());
            assert!(found.iter().map(|entry| entry.seq).eq((depth - 10..depth).rev()));
        }
    }
    let medians: Vec<Duration> = times.into_iter().map(median).collect();
    let ratio = medians[2].as_secs_f64() / medians[0].as_secs_f64();
    eprintln!("tail of 10, medians of 400 at depths {depths:?}: {medians:?}, 1,900 over 10: {ratio:.2}");
    let found = tail(&store, "depth-1900", "main", 950, 3).await;
    assert!(found.iter().map(|entry| entry.seq).eq([949, 948, 947]), "from the middle");
}

#[tokio::test]
async fn a_thousand_nested_rewinds_copy_nothing_and_read_like_one() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let store = server.store().await;
    // main has 1,200 entries; every rewind forks from the one before, one entry further back, and says nothing.
    let mut log = deep("c", 1_200, "said on main");
    for n in 0..1_000 {
        let name = format!("rewind-{n}");
        // What the core writes: the parent is the ancestor that owns the entry.
        log.push((1_200 + n, on(&name, transition("c", 1_200 + n, vec![forked("main", 1_198 - n)]))));
    }
    log.push((2_200, on("rewind-999", transition("c", 2_200, vec![said(200, "at last")]))));
    feed(&store, &log, 100).await;
    let begin = Instant::now();
    let own = tail(&store, "c", "rewind-999", i64::MAX, 10).await;
    let inherited = tail(&store, "c", "main", 200, 9).await;
    eprintln!("tail over 1,000 rewinds, two queries: {:?}", begin.elapsed());
    assert!(own.iter().chain(&inherited).map(|entry| entry.seq).eq((191..=200).rev()));
    let begin = Instant::now();
    assert_eq!(store.load(&ConversationId::from("c")).await.unwrap().len(), 2_201);
    eprintln!("load of 2,201 transitions: {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_conversation_of_many_megabytes_lies_in_several_buckets_and_reads_as_one() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let store = server.store().await;
    let memory = MemoryStore::default();
    let text = "0123456789".repeat(80_000);
    let mut log = deep("large", 48, &text);
    // Two branches whose entries lie in the oldest and in the newest bucket only.
    for (at, branch) in [(3, "early"), (46, "late")] {
        let one = &mut log[at].1;
        *one = on(branch, one.clone());
    }
    for part in log.chunks(5) {
        for store in [&store as &dyn StackStore, &memory] {
            store.write(0, part.to_vec(), part.last().unwrap().0 + 1).await.unwrap();
        }
    }
    let conversation = ConversationId::from("large");
    assert_eq!(store.load(&conversation).await.unwrap(), memory.load(&conversation).await.unwrap());
    for (branch, before, max) in [
        ("main", i64::MAX, 3),
        ("main", i64::MAX, 100),
        ("main", 20, 30),
        ("early", i64::MAX, 2),
        ("late", i64::MAX, 2),
        ("other", i64::MAX, 2),
    ] {
        let found = tail(&store, "large", branch, before, max).await;
        assert_eq!(found, tail(&memory, "large", branch, before, max).await, "{branch} {before} {max}");
    }
    assert_eq!(store.list(None, 9).await.unwrap(), memory.list(None, 9).await.unwrap());
    let again: CqlStore = store.begin_rebuild().await.unwrap();
    store.switch(&again).await.unwrap();
    store.drop_generation(1).await.unwrap();
    assert_eq!(store.load(&conversation).await.unwrap(), []);
}

#[tokio::test]
async fn lists_and_open_waits_of_thousands_of_conversations_are_whole() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let (store, memory) = (server.store().await, MemoryStore::default());
    let log = log_of(3_000, 1);
    let (cpu, begin) = (server.cpu(), Instant::now());
    feed(&store, &log, 500).await;
    let per_second = log.len() as f64 / begin.elapsed().as_secs_f64();
    let busy = (server.cpu() - cpu) / u32::try_from(log.len()).unwrap();
    feed(&memory, &log, 10_000).await;
    let (cpu, mut alone) = (server.cpu(), Vec::new());
    for (offset, one) in deep("alone", 300, &"text ".repeat(200)) {
        let begin = Instant::now();
        store.write(1, vec![(offset, one)], offset + 1).await.unwrap();
        alone.push(begin.elapsed());
    }
    feed_to(&memory, 1, &deep("alone", 300, &"text ".repeat(200))).await;
    let idle = (server.cpu() - cpu) / 300;
    eprintln!("the server's CPU for a transition: {busy:?} in writes of 500, {idle:?} alone");
    eprintln!("a write of one transition alone, median of 300: {:?}", median(alone));
    let begin = Instant::now();
    let open = store.open(0).await.unwrap();
    eprintln!("{} transitions at {per_second:.0}/s; open waits of 3,000: {:?}", log.len(), begin.elapsed());
    assert_eq!(open, memory.open(0).await.unwrap());
    let mut found = Vec::new();
    let mut times = Vec::new();
    loop {
        let begin = Instant::now();
        let page = store
            .list(found.last().map(|line: &p2_stream::ports::ConversationSummary| &line.id), 97)
            .await
            .unwrap();
        times.push(begin.elapsed());
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    eprintln!("a page of 97 of the list, median: {:?}", median(times));
    assert_eq!(found, memory.list(None, 10_000).await.unwrap());
}
