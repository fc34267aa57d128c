//! Conditional writes that get no answer, over a proxy that takes answers or requests away.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use p2_scylla::Options;
use p2_stream::ports::{StackStore, StoreError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::made::log_of;
use crate::server::{expected, feed, names, open, reads, server};

const EXECUTE: u8 = 0x0A;

/// What to do with the `EXECUTE` requests to come.
#[derive(Debug, Default)]
struct Plan {
    /// Of the requests from now on, this one (counted from 1) is hit; 0: none.
    nth: usize,
    /// Only requests that carry these bytes count.
    carrying: &'static str,
    /// The request is taken away; else its answer.
    request: bool,
    seen: usize,
    /// Streams whose next answer is taken away, by connection.
    silent: BTreeSet<(usize, [u8; 2])>,
    hits: usize,
}

#[derive(Clone, Debug, Default)]
struct Proxy(Arc<Mutex<Plan>>);

impl Proxy {
    async fn start(&self, to: u16) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = self.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                let (there, back) = (proxy.clone(), proxy.clone());
                tokio::spawn(pump(from_client, to_server, move |frame| {
                    there.passes_request(connection, frame)
                }));
                tokio::spawn(pump(from_server, to_client, move |frame| {
                    back.passes_answer(connection, frame)
                }));
            }
        });
        port
    }

    /// Hits the `nth` `EXECUTE` from now on.
    fn arm(&self, nth: usize, request: bool) {
        let mut plan = self.0.lock().unwrap();
        (plan.nth, plan.carrying, plan.request, plan.seen) = (nth, "", request, 0);
    }

    /// Takes away the answer of the next `EXECUTE` that carries a text.
    fn arm_for(&self, carrying: &'static str) {
        let mut plan = self.0.lock().unwrap();
        (plan.nth, plan.carrying, plan.request, plan.seen) = (1, carrying, false, 0);
    }

    fn hits(&self) -> usize {
        self.0.lock().unwrap().hits
    }

    fn passes_request(&self, connection: usize, frame: &[u8]) -> bool {
        let mut plan = self.0.lock().unwrap();
        let carrying = plan.carrying.as_bytes();
        let counts = carrying.is_empty() || frame.windows(carrying.len()).any(|part| part == carrying);
        if frame[4] != EXECUTE || !counts {
            return true;
        }
        plan.seen += 1;
        if plan.seen != plan.nth {
            return true;
        }
        plan.hits += 1;
        if !plan.request {
            plan.silent.insert((connection, [frame[2], frame[3]]));
        }
        !plan.request
    }

    fn passes_answer(&self, connection: usize, frame: &[u8]) -> bool {
        !self.0.lock().unwrap().silent.remove(&(connection, [frame[2], frame[3]]))
    }
}

/// Passes frames of the native protocol on (version 4: nine bytes of header, the last four the body's length).
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, passes: impl Fn(&[u8]) -> bool) {
    loop {
        let mut frame = vec![0; 9];
        if from.read_exact(&mut frame).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]) as usize;
        frame.resize(9 + length, 0);
        if from.read_exact(&mut frame[9..]).await.is_err() {
            return;
        }
        if passes(&frame) && to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_conditional_write_without_an_answer_is_settled_by_reading() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let proxy = Proxy::default();
    let port = proxy.start(server.port()).await;
    let options = Options {
        nodes: vec![format!("127.0.0.1:{port}")],
        request_timeout: Duration::from_secs(2),
        // A second copy of a read would be a second EXECUTE.
        speculative_after: Duration::from_secs(60),
        ..server.keyspace().await
    };
    // The claim: its answer is lost, it counts all the same.
    proxy.arm_for("cluster/one");
    let store = open(&options).await.unwrap();
    assert_eq!((proxy.hits(), store.generation()), (1, 1));
    let log = log_of(4, 3);
    feed(&store, &log, 5).await;

    // A number for a generation: the answer is lost, the number is ours and none is skipped.
    proxy.arm(2, false);
    let next = store.begin_rebuild().await.unwrap();
    assert_eq!((proxy.hits(), next.generation()), (2, 2));
    // The request is lost: nothing was given out, which is said and not taken for somebody else's.
    proxy.arm(2, true);
    let unsettled = store.begin_rebuild().await.map(drop).unwrap_err();
    assert!(
        matches!(&unsettled, StoreError::Unavailable(said) if said.contains("is not known yet")),
        "{unsettled}"
    );
    assert_eq!((proxy.hits(), store.begin_rebuild().await.unwrap().generation()), (3, 3));

    feed(&next, &log, 9).await;
    // The switch: first the request is lost, then the answer.
    proxy.arm(2, true);
    let unsettled = store.switch(&next).await.unwrap_err();
    assert!(matches!(unsettled, StoreError::Unavailable(_)), "{unsettled:?}");
    assert_eq!((proxy.hits(), open(&options).await.unwrap().generation()), (4, 1));
    proxy.arm(2, false);
    store.switch(&next).await.unwrap();
    assert_eq!((proxy.hits(), open(&options).await.unwrap().generation()), (5, 2));
    assert_eq!(reads(&store, &names(&log)).await, expected(&log).await);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_unavailable_and_may_be_repeated() {
    let Some(server) = server() else { return };
    let _guard = server.share();
    let proxy = Proxy::default();
    let port = proxy.start(server.port()).await;
    let options = Options {
        nodes: vec![format!("127.0.0.1:{port}")],
        request_timeout: Duration::from_secs(1),
        ..server.keyspace().await
    };
    let store = open(&options).await.unwrap();
    let log = log_of(2, 2);
    for (nth, request) in [(1, false), (2, true), (2, false), (3, false)] {
        proxy.arm(nth, request);
        let lost = store.write(0, log.clone(), log.len() as i64).await.unwrap_err();
        assert!(
            matches!(&lost, StoreError::Unavailable(said) if said.contains("no answer within")),
            "{lost}"
        );
        proxy.arm(0, false);
        feed(&store, &log, 3).await;
        assert_eq!(reads(&store, &names(&log)).await, expected(&log).await);
    }
    assert_eq!(proxy.hits(), 4);
}
