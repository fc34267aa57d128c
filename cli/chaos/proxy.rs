//! A TCP proxy on loopback between the processes and a server: it cuts, refuses and stalls connections.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

use crate::engine::{EngineError, EngineResult};

/// How connections fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// Everything gets through.
    Fair,
    /// Connections stay, and nothing gets through.
    Stalled,
    /// What clients send arrives, the answers do not.
    Mute,
    /// New connections are closed.
    Refused,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

/// The connections that are open.
type Connections = Arc<Mutex<BTreeMap<u64, AbortHandle>>>;

/// A proxy; it ends, with its connections, when it is dropped.
pub(crate) struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    connections: Connections,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut(100);
    }
}

impl Proxy {
    /// Listens on a port of loopback (0: any) and passes everything on to another.
    ///
    /// # Errors
    /// The port is taken.
    pub(crate) async fn start(port: u16, to: u16) -> EngineResult<Proxy> {
        let failed = |error: std::io::Error| EngineError::Internal(format!("proxy on port {port}: {error}"));
        let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let (weather, watched) = watch::channel(Weather::Fair);
        let connections = Connections::default();
        let task = tokio::spawn(accept(listener, to, watched, Arc::clone(&connections)));
        Ok(Proxy { port, weather, connections, task })
    }

    /// Where clients connect.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Closes so many of a hundred connections, the oldest first; at least one where there is any.
    pub(crate) fn cut(&self, percent: u8) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let count = (connections.len() * usize::from(percent)).div_ceil(100);
        for _ in 0..count {
            if let Some((_, connection)) = connections.pop_first() {
                connection.abort();
            }
        }
    }

    /// Closes every connection, and new ones too, until healed.
    pub(crate) fn refuse(&self) {
        self.weather.send_replace(Weather::Refused);
        self.cut(100);
    }

    /// Lets nothing through until healed.
    pub(crate) fn stall(&self) {
        self.weather.send_replace(Weather::Stalled);
    }

    /// Loses every answer until healed: what was asked for meanwhile may well have been done.
    pub(crate) fn mute(&self) {
        self.weather.send_replace(Weather::Mute);
    }

    /// All is well again. Connections on which an answer is missing are closed.
    pub(crate) fn heal(&self) {
        if self.weather.send_replace(Weather::Fair) == Weather::Mute {
            self.cut(100);
        }
    }
}

async fn accept(listener: TcpListener, to: u16, weather: watch::Receiver<Weather>, connections: Connections) {
    let numbers = AtomicU64::new(0);
    while let Ok((client, _)) = listener.accept().await {
        if *weather.borrow() == Weather::Refused {
            continue;
        }
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let (weather, others) = (weather.clone(), Arc::clone(&connections));
        let connection = tokio::spawn(async move {
            if let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await {
                pass(client, server, weather).await;
            }
            others.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        });
        let mut open = connections.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has ended in the meantime would stay in the list for ever.
        if !connection.is_finished() {
            open.insert(number, connection.abort_handle());
        }
    }
}

async fn pass(client: TcpStream, server: TcpStream, weather: watch::Receiver<Weather>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Either end that closes closes both: a half-open connection is no fault of its own here.
    tokio::select! {
        _ = copy(from_client, to_server, Way::ToServer, weather.clone()) => {}
        _ = copy(from_server, to_client, Way::ToClient, weather) => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    mut weather: watch::Receiver<Weather>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { return Ok(()) };
        // The sender is gone only where the proxy is.
        let _ = weather.wait_for(|weather| *weather != Weather::Stalled).await;
        if way == Way::ToClient && *weather.borrow() == Weather::Mute {
            continue;
        }
        to.write_all(read).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A server that sends everything back; its port.
    async fn echo() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = client.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        port
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap()
    }

    async fn says_back(client: &mut TcpStream) -> std::io::Result<u8> {
        client.write_all(&[7]).await?;
        client.read_u8().await
    }

    #[tokio::test]
    async fn what_is_sent_comes_through_both_ways() {
        let proxy = Proxy::start(0, echo().await).await.unwrap();
        assert_eq!(says_back(&mut connect(&proxy).await).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_share_of_the_connections_is_cut_and_new_ones_are_welcome() {
        let proxy = Proxy::start(0, echo().await).await.unwrap();
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = connect(&proxy).await;
            says_back(&mut client).await.unwrap();
            clients.push(client);
        }
        proxy.cut(40);
        let mut alive = 0;
        for client in &mut clients {
            alive += u32::from(says_back(client).await.is_ok());
        }
        assert_eq!(alive, 3);
        assert_eq!(says_back(&mut connect(&proxy).await).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn refused_connections_are_closed_until_it_heals() {
        let proxy = Proxy::start(0, echo().await).await.unwrap();
        let mut early = connect(&proxy).await;
        says_back(&mut early).await.unwrap();
        proxy.refuse();
        assert!(says_back(&mut early).await.is_err());
        assert!(says_back(&mut connect(&proxy).await).await.is_err());
        proxy.heal();
        assert_eq!(says_back(&mut connect(&proxy).await).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_mute_server_is_asked_and_its_answer_never_comes() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy = Proxy::start(0, listener.local_addr().unwrap().port()).await.unwrap();
        let mut client = connect(&proxy).await;
        let mut server = listener.accept().await.unwrap().0;
        proxy.mute();
        client.write_all(&[3]).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), 3);
        server.write_all(&[4]).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), client.read_u8()).await;
        assert!(early.is_err(), "{early:?}");
        proxy.heal();
        assert!(client.read_u8().await.is_err());
    }

    #[tokio::test]
    async fn a_stalled_connection_says_nothing_and_loses_nothing() {
        let proxy = Proxy::start(0, echo().await).await.unwrap();
        let mut client = connect(&proxy).await;
        says_back(&mut client).await.unwrap();
        proxy.stall();
        client.write_all(&[9]).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), client.read_u8()).await;
        assert!(early.is_err(), "{early:?}");
        proxy.heal();
        assert_eq!(client.read_u8().await.unwrap(), 9);
    }
}
