//! One Cassandra for this test process.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use futures::StreamExt;
use p2_core::ids::{AgentId, BranchId, ConversationId};
use p2_core::record::StateTransition;
use p2_scylla::{CqlStore, LogIdentity, OpenError, Options, Password, migrate};
use p2_stream::memory::MemoryStore;
use p2_stream::ports::StackStore;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::value::Row;

pub(crate) const USER: &str = "cassandra";
pub(crate) const PASSWORD: &str = "cassandra";
const START_LIMIT: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub(crate) struct Server {
    dir: PathBuf,
    port: u16,
    in_use: RwLock<()>,
}

/// The server; none where it was not asked for, which one line for all tests says.
pub(crate) fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        if std::env::var("P2_REAL").as_deref() != Ok("1") {
            // Past the capture of the test harness, so that it is seen.
            let line = "skipped: every test of the CQL store against a real server; P2_REAL=1 runs them (Java 17, Maven)\n";
            let _ = std::io::stderr().write_all(line.as_bytes());
            return None;
        }
        let server = Server::new();
        server.start();
        server.wait_for_login();
        Some(server)
    });
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

/// Removes the logs of runs that have ended: those of the last run stay until the next one.
fn forget_ended(target: &Path) {
    for entry in std::fs::read_dir(target).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let ended = |pid: &str| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
        if name.strip_prefix("cassandra-").is_some_and(ended) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Server {
    fn new() -> Server {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        forget_ended(target);
        let dir = target.join(format!("cassandra-{}", std::process::id()));
        Server { dir, port: free_ports(), in_use: RwLock::new(()) }
    }

    fn script(&self, arguments: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/dev/cassandra.sh");
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

    /// User and system time of the server so far; zero where the system has no `/proc`.
    pub(crate) fn cpu(&self) -> Duration {
        let pid = std::fs::read_to_string(self.dir.join("pid")).unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        // Hundredths of a second; the first field, a letter, was left out.
        Duration::from_millis(fields.get(10..12).map_or(0, |times| times.iter().sum::<u64>() * 10))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
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

/// A session beside the store's, for looking at rows as they are.
pub(crate) async fn session(options: &Options) -> Session {
    let builder = SessionBuilder::new().known_nodes(&options.nodes).user(USER, PASSWORD);
    builder.build().await.unwrap()
}

/// Every row of the view as it lies in the store, with the timestamps of its cells, in order.
pub(crate) async fn dump(options: &Options) -> Vec<String> {
    let session = session(options).await;
    let k = &options.keyspace;
    let texts = [
        format!(
            "SELECT generation, conversation, bucket, kind, agent, branch, first, seq, newest, cell, \
             WRITETIME(newest), WRITETIME(cell) FROM {k}.transitions"
        ),
        format!(
            "SELECT generation, log_partition, shard, conversation, cell, WRITETIME(cell) FROM {k}.conversations"
        ),
        format!("SELECT generation, log_partition, applied, WRITETIME(applied) FROM {k}.applied"),
    ];
    let mut found = Vec::new();
    for text in texts {
        let mut rows = session.query_iter(text, ()).await.unwrap().rows_stream::<Row>().unwrap();
        while let Some(row) = rows.next().await {
            found.push(format!("{:?}", row.unwrap().columns));
        }
    }
    found.sort();
    found
}

/// Everything that the port shows of these conversations and of partition 0.
pub(crate) async fn reads(store: &impl StackStore, conversations: &BTreeSet<String>) -> Vec<String> {
    let mut found = vec![
        format!("{:?}", store.applied(0).await.unwrap()),
        format!("{:?}", store.open(0).await.unwrap()),
        format!("{:?}", store.list(None, 10_000).await.unwrap()),
    ];
    for name in conversations {
        let conversation = ConversationId::from(name.as_str());
        found.push(format!("{:?}", store.load(&conversation).await.unwrap()));
        let (agent, branch) = (AgentId::from("alpha"), BranchId::main());
        let tail = store.tail(&conversation, &agent, &branch, i64::MAX, 7).await.unwrap();
        found.push(format!("{tail:?}"));
    }
    found
}

/// What a log is in the simplest store.
pub(crate) async fn expected(log: &[(i64, StateTransition)]) -> Vec<String> {
    let store = MemoryStore::default();
    let applied = log.last().map_or(0, |(offset, _)| offset + 1);
    store.write(0, log.to_vec(), applied).await.unwrap();
    reads(&store, &names(log)).await
}

/// The conversations of a log.
pub(crate) fn names(log: &[(i64, StateTransition)]) -> BTreeSet<String> {
    log.iter().map(|(_, transition)| transition.conversation.0.clone()).collect()
}

/// Writes a log in portions.
pub(crate) async fn feed(store: &impl StackStore, log: &[(i64, StateTransition)], portion: usize) {
    for part in log.chunks(portion) {
        store.write(0, part.to_vec(), part.last().unwrap().0 + 1).await.unwrap();
    }
}

/// Looks again and again, for a minute at most.
pub(crate) async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !look().await {
        assert!(begin.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
