//! Apache Kafka for tests: started by `deploy/dev/kafka.sh`, on loopback and ports of its own.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};

use p2_kafka::topics::{self, TopicSettings};
use p2_kafka::{KafkaConfig, KafkaLog};

/// Whether tests on a real broker are wanted. One line says what to do where they are not.
pub fn is_wanted() -> bool {
    let wanted = std::env::var("P2_REAL").is_ok_and(|value| value == "1");
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    if !wanted {
        // Past the capture of the test harness, once.
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            let line =
                "p2-kafka: tests on a real broker are skipped; P2_REAL=1 starts one (Java 17 and Maven)";
            let _ = writeln!(std::io::stderr(), "{line}");
        });
    }
    wanted
}

/// A broker; stopped when dropped. Its files are kept where a test failed.
pub struct Broker {
    dir: PathBuf,
    /// Where clients connect.
    pub port: u16,
    environment: Vec<(String, String)>,
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Broker {
    pub fn start() -> Broker {
        Broker::start_with(&[])
    }

    /// Starts one with more variables for the script.
    pub fn start_with(environment: &[(&str, String)]) -> Broker {
        // A free port may be taken by somebody else before the broker has it.
        let mut said = String::new();
        for _ in 0..3 {
            let broker = Broker::prepare(environment);
            match broker.try_run() {
                Ok(()) => return broker,
                Err(error) => said = error,
            }
        }
        panic!("{said}");
    }

    fn prepare(environment: &[(&str, String)]) -> Broker {
        Broker::prepare_on(free_port(), environment)
    }

    fn prepare_on(port: u16, environment: &[(&str, String)]) -> Broker {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{}-{count}", std::process::id()));
        let mut environment: Vec<(String, String)> =
            environment.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        environment.push(("KAFKA_CONTROLLER_PORT".to_owned(), free_port().to_string()));
        // Records of tests are from 1970: retention must not come by. The new group protocol has the session
        // time-out that the broker sets.
        let ours = "log.initial.task.delay.ms=86400000\ngroup.consumer.session.timeout.ms=6000\n\
                    group.consumer.heartbeat.interval.ms=1000";
        match environment.iter_mut().find(|(key, _)| key == "KAFKA_EXTRA") {
            Some((_, lines)) => *lines = format!("{lines}\n{ours}"),
            None => environment.push(("KAFKA_EXTRA".to_owned(), ours.to_owned())),
        }
        Broker { dir, port, environment }
    }

    /// Starts it, or starts it again with its data.
    pub fn run(&self) {
        if let Err(said) = self.try_run() {
            panic!("{said}");
        }
    }

    fn try_run(&self) -> Result<(), String> {
        let (dir, pid) = (self.dir.to_str().unwrap(), std::process::id().to_string());
        let output = self.script().args(["start", dir, &self.port.to_string(), &pid]).output().unwrap();
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("Kafka does not start: {said} (files in {dir})"))
    }

    fn script(&self) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/dev/kafka.sh"));
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }

    fn signal(&self, signal: &str) {
        assert!(self.try_signal(signal));
    }

    fn try_signal(&self, signal: &str) -> bool {
        let Ok(pid) = std::fs::read_to_string(self.dir.join("kafka.pid")) else { return false };
        Command::new("kill").args([signal, pid.trim()]).status().is_ok_and(|status| status.success())
    }

    /// As a power cut for the process: nothing is said to anybody.
    pub fn kill(&self) {
        self.signal("-9");
        std::fs::remove_file(self.dir.join("kafka.pid")).unwrap();
    }

    /// Stops it from answering, until [`Broker::go_on`].
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    pub fn config(&self, prefix: &str) -> KafkaConfig {
        let debug = std::env::var("P2_KAFKA_DEBUG").ok();
        KafkaConfig {
            properties: debug.map(|debug| ("debug".to_owned(), debug)).into_iter().collect(),
            brokers: format!("127.0.0.1:{}", self.port),
            prefix: prefix.to_owned(),
            session_timeout_ms: 6_000,
            transaction_timeout_ms: 4_000,
            ..KafkaConfig::default()
        }
    }

    /// A fresh log: topics of four partitions under a prefix that nobody has.
    pub async fn log(&self) -> KafkaLog {
        let config = self.config(&fresh_prefix());
        create_topics(&config).await;
        KafkaLog::connect(config).await.unwrap()
    }
}

/// Three brokers with three copies of everything; stopped when dropped.
pub struct Cluster {
    /// The nodes 1 to 3.
    pub brokers: Vec<Broker>,
}

impl Cluster {
    pub fn start() -> Cluster {
        let mut said = Vec::new();
        for _ in 0..3 {
            let ports: Vec<(u16, u16)> = (0..3).map(|_| (low_port(), low_port())).collect();
            let voter =
                |(at, (_, controller)): (usize, &(u16, u16))| format!("{}@127.0.0.1:{controller}", at + 1);
            let voters = ports.iter().enumerate().map(voter).collect::<Vec<_>>().join(",");
            let id: String = (0..22).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
            let broker = |(at, (port, _)): (usize, &(u16, u16))| {
                Broker::prepare_on(
                    *port,
                    &[
                        ("KAFKA_NODE", (at + 1).to_string()),
                        ("KAFKA_VOTERS", voters.clone()),
                        ("KAFKA_CLUSTER_ID", id.clone()),
                    ],
                )
            };
            let cluster = Cluster { brokers: ports.iter().enumerate().map(broker).collect() };
            said = cluster.run([0, 1, 2]);
            if said.is_empty() {
                return cluster;
            }
        }
        panic!("{}", said.join("; "));
    }

    /// Starts these, at once: none is ready before two are. What those said that did not start.
    fn run<const N: usize>(&self, which: [usize; N]) -> Vec<String> {
        std::thread::scope(|scope| {
            let starts = which.map(|at| scope.spawn(move || self.brokers[at].try_run()));
            starts.into_iter().filter_map(|start| start.join().unwrap().err()).collect()
        })
    }

    /// Starts these again, with their data.
    pub fn run_again<const N: usize>(&self, which: [usize; N]) {
        let said = self.run(which);
        assert!(said.is_empty(), "{}", said.join("; "));
    }

    pub fn config(&self, prefix: &str) -> KafkaConfig {
        let all: Vec<String> =
            self.brokers.iter().map(|broker| format!("127.0.0.1:{}", broker.port)).collect();
        KafkaConfig { brokers: all.join(","), ..self.brokers[0].config(prefix) }
    }

    /// The index of the broker whose controller leads now, as the one at `at` remembers.
    pub fn controller(&self, at: usize) -> Option<usize> {
        let path = self.brokers[at].dir.join("log/__cluster_metadata-0/quorum-state");
        let state: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
        usize::try_from(state["leaderId"].as_i64()? - 1).ok()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // In order, the last ones would wait for a quorum that is gone.
        for broker in &self.brokers {
            broker.try_signal("-9");
        }
    }
}

/// A port below those that systems give to outgoing connections: clients of the others must not take it while this
/// broker is away.
fn low_port() -> u16 {
    let any = std::iter::repeat_with(|| rand::random_range(20_000_u16..32_000));
    { any }.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.script().args(["stop", self.dir.to_str().unwrap_or_default()]).status();
        if std::thread::panicking() {
            eprintln!("the broker's files are kept in {}", self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

pub fn fresh_prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("t{}.", COUNT.fetch_add(1, Ordering::Relaxed))
}

pub async fn create_topics(config: &KafkaConfig) {
    let settings = TopicSettings { partitions: Some(4), ..TopicSettings::default() };
    topics::apply(config, &settings).await.unwrap();
}

/// The broker of all tests that leave it alive. It ends with this process.
pub fn shared() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(|| {
        remove_old();
        Broker::start()
    })
}

/// Files of earlier runs.
fn remove_old() {
    let Ok(entries) = std::fs::read_dir(env!("CARGO_TARGET_TMPDIR")) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid = name.strip_prefix("kafka-").and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
