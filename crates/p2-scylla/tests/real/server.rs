//! One Cassandra for this test process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use p2_scylla::{CqlStore, LogIdentity, OpenError, Options, Password, migrate};

pub(crate) const USER: &str = "cassandra";
pub(crate) const PASSWORD: &str = "cassandra";
const START_LIMIT: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub(crate) struct Server {
    dir: PathBuf,
    port: u16,
    in_use: RwLock<()>,
}

/// The server; none where it was not asked for, which one line says.
pub(crate) fn server(test: &str) -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        (std::env::var("P2_REAL").as_deref() == Ok("1")).then(|| {
            let server = Server::new();
            server.start();
            server.wait_for_login();
            server
        })
    });
    if server.is_none() {
        eprintln!("skipped: {test} needs a CQL server, run it with P2_REAL=1");
    }
    server.as_ref()
}

/// Three free ports in a row, the first of them.
fn free_ports() -> u16 {
    let bound = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..1_000)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port())
        .find(|port| *port < 65_000 && (0..3).all(|next| bound(port + next)))
        .expect("three free ports in a row")
}

impl Server {
    fn new() -> Server {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = target.join(format!("cassandra-{}", std::process::id()));
        Server { dir, port: free_ports(), in_use: RwLock::new(()) }
    }

    fn script(&self, arguments: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/services/cassandra.sh");
        let done = Command::new(script)
            .args(arguments)
            .env("P2_CASSANDRA_AUTH", "1")
            .env("P2_CASSANDRA_TLS", "1")
            .env("P2_OWNER", std::process::id().to_string())
            .status()
            .unwrap();
        let logs = self.dir.join("log");
        assert!(done.success(), "cassandra.sh {arguments:?} failed, its logs: {}", logs.display());
    }

    fn start(&self) {
        self.script(&["start", self.dir.to_str().unwrap(), &self.port.to_string(), "384M"]);
    }

    /// kill -9.
    pub(crate) fn kill(&self) {
        self.script(&["kill", self.dir.to_str().unwrap()]);
    }

    /// Starts it again after [`Server::kill`], with what it had written.
    pub(crate) fn restart(&self) {
        self.start();
    }

    /// The first user is made in the background after the start.
    fn wait_for_login(&self) {
        let begin = Instant::now();
        let options = self.options("none");
        // A thread of its own: whoever comes first is in a runtime already.
        let tries = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            while let Err(error) = runtime.block_on(p2_scylla::check(&options)) {
                assert!(begin.elapsed() < START_LIMIT, "no login: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        tries.join().unwrap();
    }

    pub(crate) fn options(&self, keyspace: &str) -> Options {
        Options {
            user: Some((USER.to_owned(), Password::new(PASSWORD))),
            request_timeout: Duration::from_secs(20),
            ..Options::new([format!("127.0.0.1:{}", self.port)], keyspace)
        }
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.join("tls/ca.pem")
    }

    /// Keeps it from being killed.
    pub(crate) fn share(&self) -> RwLockReadGuard<'_, ()> {
        self.in_use.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else uses it.
    pub(crate) fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.in_use.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A keyspace of its own with the tables of this program.
    pub(crate) async fn keyspace(&self) -> Options {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let options = self.options(&format!("p2_{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        migrate(&options).await.unwrap();
        options
    }

    /// A store of its own.
    pub(crate) async fn store(&self) -> CqlStore {
        open(&self.keyspace().await).await.unwrap()
    }
}

pub(crate) fn log(name: &str) -> LogIdentity {
    LogIdentity { cluster: "cluster".to_owned(), topic: name.to_owned() }
}

/// Opens as log `one`.
pub(crate) async fn open(options: &Options) -> Result<CqlStore, OpenError> {
    CqlStore::open(options, &log("one")).await
}
