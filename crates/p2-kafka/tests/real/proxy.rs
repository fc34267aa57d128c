//! A TCP proxy that understands as much of the Kafka protocol as it takes to lose or delay single messages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// `OffsetFetch`: the progress of a group.
pub const OFFSET_FETCH: i16 = 9;
/// `EndTxn`: the commit or abort of a transaction.
pub const END_TXN: i16 = 26;
/// `TxnOffsetCommit`: progress that is part of a transaction.
pub const TXN_OFFSET_COMMIT: i16 = 28;

/// What happens to the messages of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The broker never gets the request.
    LoseRequest,
    /// The broker gets the request late.
    DelayRequest(Duration),
    /// The client never gets the reply.
    LoseReply,
    /// The client gets the reply late.
    DelayReply(Duration),
    /// The client gets the first reply again and again, as from a broker that forgot what came since. Only for
    /// requests that ask for the same.
    RepeatReply,
}

#[derive(Default)]
struct Rules {
    faults: Mutex<BTreeMap<i16, Fault>>,
    hits: AtomicU64,
    /// What is repeated, by kind.
    first: Mutex<BTreeMap<i16, Vec<u8>>>,
    /// New connections are closed at once.
    refuses: AtomicBool,
}

/// A proxy; gone when dropped.
pub struct Proxy {
    rules: Arc<Rules>,
    cut: watch::Sender<u64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens on one port of loopback and passes everything on to another.
    pub async fn start(from: u16, to: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", from)).await.unwrap();
        let rules: Arc<Rules> = Arc::default();
        let (cut, cuts) = watch::channel(0);
        let task = tokio::spawn({
            let rules = Arc::clone(&rules);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if rules.refuses.load(Ordering::SeqCst) {
                        continue;
                    }
                    let (rules, mut cuts) = (Arc::clone(&rules), cuts.clone());
                    tokio::spawn(async move {
                        let Ok(broker) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                        cuts.mark_unchanged();
                        tokio::select! {
                            () = connection(client, broker, rules) => {}
                            _ = cuts.changed() => {}
                        }
                    });
                }
            }
        });
        Proxy { rules, cut, task }
    }

    /// From now on messages of this kind fare so.
    pub fn fault(&self, api: i16, fault: Fault) {
        self.rules.faults.lock().unwrap().insert(api, fault);
    }

    /// All is well again.
    pub fn heal(&self) {
        self.rules.faults.lock().unwrap().clear();
        self.rules.first.lock().unwrap().clear();
        self.rules.refuses.store(false, Ordering::SeqCst);
    }

    /// How many messages met a fault.
    pub fn hits(&self) -> u64 {
        self.rules.hits.load(Ordering::SeqCst)
    }

    /// Closes every connection; new ones are welcome.
    pub fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    /// Closes every connection, and new ones too, until healed.
    pub fn refuse(&self) {
        self.rules.refuses.store(true, Ordering::SeqCst);
        self.cut();
    }
}

/// Requests on their way: correlation id → kind.
type Pending = Arc<Mutex<BTreeMap<i32, i16>>>;

async fn connection(client: TcpStream, broker: TcpStream, rules: Arc<Rules>) {
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let pending = Pending::default();
    tokio::select! {
        _ = requests(from_client, to_broker, Arc::clone(&pending), Arc::clone(&rules)) => {}
        _ = replies(from_broker, to_client, pending, rules) => {}
    }
}

async fn frame(from: &mut OwnedReadHalf) -> std::io::Result<Vec<u8>> {
    let size = from.read_u32().await?;
    let mut frame = vec![0; size as usize];
    from.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn pass(to: &mut OwnedWriteHalf, frame: &[u8]) -> std::io::Result<()> {
    to.write_u32(u32::try_from(frame.len()).unwrap()).await?;
    to.write_all(frame).await
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    pending: Pending,
    rules: Arc<Rules>,
) -> std::io::Result<()> {
    loop {
        let frame = frame(&mut from).await?;
        let api = i16::from_be_bytes([frame[0], frame[1]]);
        let correlation = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
        let fault = rules.faults.lock().unwrap().get(&api).copied();
        pending.lock().unwrap().insert(correlation, api);
        match fault {
            Some(Fault::LoseRequest) => {
                rules.hits.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            Some(Fault::DelayRequest(time)) => {
                rules.hits.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(time).await;
            }
            _ => {}
        }
        pass(&mut to, &frame).await?;
    }
}

async fn replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    pending: Pending,
    rules: Arc<Rules>,
) -> std::io::Result<()> {
    loop {
        let mut frame = frame(&mut from).await?;
        let correlation = i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        let api = pending.lock().unwrap().remove(&correlation);
        let fault = api.and_then(|api| rules.faults.lock().unwrap().get(&api).copied());
        match fault {
            Some(Fault::LoseReply) => {
                rules.hits.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            Some(Fault::DelayReply(time)) => {
                rules.hits.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(time).await;
            }
            Some(Fault::RepeatReply) => {
                let mut first = rules.first.lock().unwrap();
                let body = first.entry(api.unwrap()).or_insert_with(|| frame[4..].to_vec());
                if frame[4..] != body[..] {
                    rules.hits.fetch_add(1, Ordering::SeqCst);
                    frame.truncate(4);
                    frame.extend_from_slice(body);
                }
            }
            _ => {}
        }
        pass(&mut to, &frame).await?;
    }
}
