//! The broker and the CQL server of the campaign, started by the scripts in `deploy/dev`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::task::JoinSet;

use super::plan::Service;
use crate::engine::{EngineError, EngineResult};

const KAFKA: &str = include_str!("../../deploy/dev/kafka.sh");
const CASSANDRA: &str = include_str!("../../deploy/dev/cassandra.sh");
/// What both source.
const PROCESS: &str = include_str!("../../deploy/dev/process.sh");
/// How long a server may take until it answers after a start.
const START_MAX: Duration = Duration::from_secs(600);
/// How often a start is tried: on a busy machine the scripts give up early.
const TRIES: usize = 3;

/// One server on loopback.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    service: Service,
    script: PathBuf,
    dir: PathBuf,
    /// Where it listens itself.
    port: u16,
    environment: Vec<(String, String)>,
}

fn failed(what: &str, error: &std::io::Error) -> EngineError {
    EngineError::Internal(format!("{what}: {error}"))
}

/// A port that nobody has, with the next ones. Below those that systems give to outgoing connections: a server that is
/// down for a while must find its port free when it comes back.
///
/// # Errors
/// There is none.
pub(crate) fn free_port(in_a_row: u16) -> EngineResult<u16> {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let tries = std::iter::repeat_with(|| rand::random_range(20_000_u16..32_000)).take(1_000);
    let found = { tries }.find(|port| (0..in_a_row).all(|next| is_free(port + next)));
    found.ok_or_else(|| EngineError::Unavailable(format!("there are no {in_a_row} free ports in a row")))
}

/// Where a broker has its files, from 1.
fn broker_dir(dir: &Path, node: usize) -> PathBuf {
    dir.join(if node == 1 { "kafka".to_owned() } else { format!("kafka-{node}") })
}

/// How many brokers a campaign left in its directory.
pub(crate) fn brokers_in(dir: &Path) -> usize {
    (1..).take_while(|node| broker_dir(dir, *node).is_dir()).count().max(1)
}

/// The script as a file, beside what it sources.
fn script(dir: &Path, name: &str, text: &str) -> EngineResult<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    let written = std::fs::write(dir.join("process.sh"), PROCESS)
        .and_then(|()| std::fs::write(&path, text))
        .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
    written.map_err(|error| failed(&path.display().to_string(), &error))?;
    Ok(path)
}

impl Server {
    /// Brokers in folders of `dir`, one for each pair of a port that it listens on and one (of a proxy) where its
    /// clients are told to stay; several are a cluster.
    ///
    /// # Errors
    /// A folder cannot be written, or there is no free port.
    pub(crate) fn brokers(dir: &Path, ports: &[(u16, u16)]) -> EngineResult<Vec<Server>> {
        let controllers = ports.iter().map(|_| free_port(1)).collect::<EngineResult<Vec<u16>>>()?;
        let voters = controllers.iter().zip(1..).map(|(port, node)| format!("{node}@127.0.0.1:{port}"));
        let voters = voters.collect::<Vec<_>>().join(",");
        let cluster: String = (0..22).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
        let broker = |(((listener, proxied), controller), node): (((&u16, &u16), &u16), usize)| {
            let mut environment = vec![
                ("KAFKA_LISTENER", format!("PROXIED://127.0.0.1:{listener}")),
                ("KAFKA_ADVERTISED", format!("PROXIED://127.0.0.1:{proxied}")),
            ];
            if ports.len() == 1 {
                environment.push(("KAFKA_CONTROLLER_PORT", controller.to_string()));
            } else {
                environment.push(("KAFKA_NODE", node.to_string()));
                environment.push(("KAFKA_VOTERS", voters.clone()));
                environment.push(("KAFKA_CLUSTER_ID", cluster.clone()));
            }
            Ok(Server {
                service: Service::Broker,
                script: script(dir, "kafka.sh", KAFKA)?,
                dir: broker_dir(dir, node),
                port: free_port(1)?,
                environment: environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            })
        };
        ports
            .iter()
            .map(|(listener, proxied)| (listener, proxied))
            .zip(&controllers)
            .zip(1..)
            .map(broker)
            .collect()
    }

    /// A CQL server in a folder of `dir`.
    ///
    /// # Errors
    /// The folder cannot be written, or there are no free ports.
    pub(crate) fn store(dir: &Path) -> EngineResult<Server> {
        let environment = [
            ("P2_OWNER", std::process::id().to_string()),
            // It is started often and lives for minutes.
            ("P2_CASSANDRA_TIER", "1".to_owned()),
        ];
        Ok(Server {
            service: Service::Store,
            script: script(dir, "cassandra.sh", CASSANDRA)?,
            dir: dir.join("cassandra"),
            port: free_port(3)?,
            environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
        })
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it, or starts it again with its data; returns once it answers.
    ///
    /// # Errors
    /// The script's words.
    pub(crate) async fn start(&self) -> EngineResult<()> {
        let port = self.port.to_string();
        let pid = std::process::id().to_string();
        let dir = self.dir.display().to_string();
        let arguments = match self.service {
            Service::Broker => ["start", &dir, &port, &pid],
            Service::Store => ["start", &dir, &port, "320M"],
        };
        let mut tries = 1;
        loop {
            match self.script(&arguments).await {
                Err(error) if tries < TRIES => tracing::warn!(%error, "a server does not start: once more"),
                ended => return ended,
            }
            tries += 1;
        }
    }

    /// `kill -9`: nothing is said to anybody.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) async fn kill(&self) -> EngineResult<()> {
        let file = self.pid_file();
        let text =
            std::fs::read_to_string(&file).map_err(|error| failed(&file.display().to_string(), &error))?;
        let pid = text.trim().to_owned();
        // A number may be another program's by now; ours names its directory.
        let line = std::fs::read(Path::new("/proc").join(&pid).join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&self.dir.display().to_string()) {
            signal("KILL", &pid).await?;
        }
        let begin = Instant::now();
        while Path::new("/proc").join(&pid).exists() && begin.elapsed() < START_MAX {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::remove_file(&file).map_err(|error| failed(&file.display().to_string(), &error))
    }

    /// Stops it in order.
    pub(crate) async fn stop(&self) {
        let dir = self.dir.display().to_string();
        if let Err(error) = self.script(&["stop", &dir]).await {
            tracing::warn!(%error, "a server did not stop");
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join(match self.service {
            Service::Broker => "kafka.pid",
            Service::Store => "pid",
        })
    }

    async fn script(&self, arguments: &[&str]) -> EngineResult<()> {
        let mut command = Command::new(&self.script);
        command.args(arguments).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        let name = self.service.name();
        let output = command.output();
        let output = tokio::time::timeout(START_MAX, output).await;
        let Ok(output) = output else {
            return Err(EngineError::Unavailable(format!(
                "the {name} does not answer: see {}",
                self.dir.display()
            )));
        };
        let Output { status, stderr, .. } =
            output.map_err(|error| failed("the script of a server", &error))?;
        if status.success() {
            return Ok(());
        }
        Err(EngineError::Unavailable(format!("the {name}: {}", String::from_utf8_lossy(&stderr).trim())))
    }
}

/// Starts servers at once: of a cluster none is ready before most are.
///
/// # Errors
/// The words of the first that does not start.
pub(crate) async fn start_all(servers: &[Server]) -> EngineResult<()> {
    let mut starts = JoinSet::new();
    for server in servers {
        starts.spawn(start(server.clone()));
    }
    while let Some(started) = starts.join_next().await {
        started.map_err(|error| EngineError::Internal(error.to_string()))??;
    }
    Ok(())
}

async fn start(server: Server) -> EngineResult<()> {
    server.start().await
}

async fn stop(server: Server) {
    server.stop().await;
}

/// Stops servers at once: the last of a cluster would wait for the others.
pub(crate) async fn stop_all(servers: impl Iterator<Item = &Server>) {
    let mut stops = JoinSet::new();
    for server in servers {
        stops.spawn(stop(server.clone()));
    }
    while stops.join_next().await.is_some() {}
}

/// Sends a signal to a process, by its number.
///
/// # Errors
/// It is gone.
pub(crate) async fn signal(name: &str, pid: &str) -> EngineResult<()> {
    let sent = Command::new("kill").args(["-s", name, pid]).stderr(Stdio::null()).status().await;
    match sent.map_err(|error| failed("kill", &error))?.success() {
        true => Ok(()),
        false => Err(EngineError::Internal(format!("there is no process {pid} to send {name} to"))),
    }
}
