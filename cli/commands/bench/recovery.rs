//! `bench recovery`: how long a partition stands still when the process that owns it goes away.
//!
//! Two `run agent-step` share topics of this run's own. Probes (a message to a new conversation each) go to every
//! partition, and a follower notes when each of them is taken in. What is told is the longest that a message waited
//! which was sent when the fault happened or later.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use p2_core::ids::{AgentId, ConversationId, Id};
use p2_core::record::{InboxBody, InboxMessage, Message, Payload, Topic, UserText};
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_stream::ports::{Follower, Log};
use p2_stream::shell::now_ms;
use p2_stream::wire;
use serde_json::json;
use tokio::process::{Child, Command};

use super::{AGENT, cluster, internal, round};
use crate::args::BenchRecovery;
use crate::backend::engine_error;
use crate::config::Config;
use crate::engine::{EngineError, EngineResult, draw_id};
use crate::output::Output;

/// Pause between two rounds of probes.
const PROBE_EVERY: Duration = Duration::from_millis(25);
/// Without probes before a kill, so that no transaction is open.
const QUIET: Duration = Duration::from_millis(500);
/// All partitions have to have answered for so long before the next fault.
const STEADY: Duration = Duration::from_secs(2);
/// A partition that stands still for longer is lost.
const BACK_MAX: Duration = Duration::from_secs(120);

/// What is done to one of the two processes.
#[derive(Clone, Copy)]
enum Fault {
    /// `kill -9` between two transactions; it stays away.
    Kill,
    /// `kill -9`, and it is started again at once, in its slot.
    KillAndRestart,
    /// SIGTERM; it stays away.
    Stop,
}

impl Fault {
    const ALL: [Fault; 3] = [Fault::Kill, Fault::KillAndRestart, Fault::Stop];

    fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill -9",
            Fault::KillAndRestart => "kill -9, started again at once",
            Fault::Stop => "SIGTERM",
        }
    }
}

/// Runs `bench recovery`: one line of JSON per fault.
pub(crate) async fn recovery(
    out: Output,
    config: &Config,
    settings: Option<&Path>,
    args: BenchRecovery,
) -> EngineResult<()> {
    let dir = std::env::temp_dir().join(format!("p2engine-bench-{}", draw_id().short()));
    std::fs::create_dir_all(&dir).map_err(|error| internal(&dir, &error))?;
    let measured = measure(out, config, settings, &args, &dir).await;
    match measured {
        Ok(()) => drop(std::fs::remove_dir_all(&dir)),
        Err(_) => out.remark(&format!("logs: {}", dir.display())),
    }
    measured
}

async fn measure(
    out: Output,
    config: &Config,
    settings: Option<&Path>,
    args: &BenchRecovery,
    dir: &Path,
) -> EngineResult<()> {
    let system = cluster(config)?;
    let of = |name: &str| system.iter().find(|(of, _)| *of == name).map(|(_, value)| value.clone());
    let Some(kafka) = &config.kafka else { return Ok(()) };
    let prefix = of("P2_KAFKA_PREFIX").unwrap_or_default();
    let kafka = KafkaConfig { prefix, ..kafka.value.clone() };
    let fleet = Fleet { dir, settings, system: &system };
    let partitions = args.partitions.to_string();
    fleet.to_end(&["topics", "apply", "--partitions", &partitions]).await?;
    fleet.to_end(&["store", "apply"]).await?;
    let log = KafkaLog::connect(kafka.clone()).await.map_err(engine_error)?;
    let mut probes = Probes::start(&log).await?;
    let mut pair = [fleet.start(0)?, fleet.start(1)?];
    let progress = out.progress(u64::try_from(args.rounds * Fault::ALL.len()).unwrap_or(0), "faults");
    for fault in Fault::ALL {
        let mut seen = Vec::new();
        for round in 0..args.rounds {
            probes.until_steady(&log, 2).await?;
            let victim = round % 2;
            let Some(child) = pair.get_mut(victim) else { continue };
            seen.push(probes.through(fault, child, &fleet, victim).await?);
            if !matches!(fault, Fault::KillAndRestart) {
                let _ = child.wait().await;
                *child = fleet.start(victim)?;
            }
            progress.inc(1);
        }
        seen.sort_unstable();
        let ms = |at: usize| seen.get(at).map(|time| round(time.as_secs_f64() * 1_000.0, 0));
        out.data(&json!({
            "fault": fault.name(),
            "rounds": args.rounds,
            "recovery_p50_ms": ms(seen.len() / 2),
            "recovery_max_ms": ms(seen.len().saturating_sub(1)),
            "session_timeout_ms": kafka.session_timeout_ms,
            "transaction_timeout_ms": kafka.transaction_timeout_ms,
            "partitions": args.partitions,
        }));
    }
    progress.finish_and_clear();
    Ok(())
}

/// How processes are started.
struct Fleet<'a> {
    dir: &'a Path,
    settings: Option<&'a Path>,
    system: &'a [(&'static str, String)],
}

impl Fleet<'_> {
    fn command(&self, name: &str) -> EngineResult<Command> {
        let failed = |error: std::io::Error| internal(self.dir, &error);
        let log = self.dir.join(format!("{name}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        match self.settings {
            Some(settings) => drop(command.arg("--config").arg(settings)),
            None => drop(command.current_dir(self.dir)),
        }
        command.arg("--data-dir").arg(self.dir.join(name));
        command.envs(self.system.iter().map(|(name, value)| (*name, value.as_str())));
        command.env("P2_MODEL", "scripted/demo");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        Ok(command)
    }

    fn start(&self, which: usize) -> EngineResult<Child> {
        let name = format!("agent-step-{which}");
        let mut command = self.command(&name)?;
        command.args(["run", "agent-step", "--slot", &format!("recovery-{which}")]);
        command.spawn().map_err(|error| internal(self.dir, &error))
    }

    async fn to_end(&self, args: &[&str]) -> EngineResult<()> {
        let status = self.command("setup")?.args(args).status().await;
        if status.map_err(|error| internal(self.dir, &error))?.success() {
            return Ok(());
        }
        let log = std::fs::read_to_string(self.dir.join("setup.log")).unwrap_or_default();
        Err(EngineError::Unavailable(format!("{} failed: {}", args.join(" "), log.trim())))
    }
}

/// Messages on their way, and how long they were.
struct Probes {
    log: KafkaLog,
    follower: Box<dyn Follower>,
    partitions: i32,
    /// Probe → when it was sent.
    sent: HashMap<Id, Instant>,
    /// The longest that one waited since this was last set to nothing.
    longest: Duration,
}

impl Probes {
    async fn start(log: &KafkaLog) -> EngineResult<Probes> {
        let partitions = log.partitions(Topic::Inbox);
        let from = (0..partitions).map(|partition| (Topic::StateTransitions, partition, 0)).collect();
        let follower = log.follow(from).await.map_err(engine_error)?;
        Ok(Probes { log: log.clone(), follower, partitions, sent: HashMap::new(), longest: Duration::ZERO })
    }

    /// One message to each partition.
    async fn send(&mut self) -> EngineResult<()> {
        let mut records = Vec::new();
        for partition in 0..self.partitions {
            let names = std::iter::repeat_with(|| format!("probe-{}", draw_id()));
            let Some(name) =
                names.into_iter().find(|name| wire::partition(name, self.partitions) == partition)
            else {
                continue;
            };
            let text = UserText {
                agent: Some(AgentId::from(AGENT)),
                branch: None,
                text: "Are you there?".to_owned(),
            };
            let body = InboxBody::UserText(text);
            let payload = Payload::Inbox(InboxMessage { conversation: ConversationId(name), body });
            let id = draw_id();
            let message = Message {
                id,
                cause: id,
                cause_position: None,
                time_ms: now_ms(),
                traceparent: None,
                payload,
            };
            let encoded = wire::encode(&message, "/p2/bench", self.partitions);
            records.push(encoded.map_err(|error| EngineError::Internal(error.to_string()))?);
            self.sent.insert(id, Instant::now());
        }
        self.log.append(records).await.map(drop).map_err(engine_error)
    }

    /// Takes in what comes for so long.
    async fn watch(&mut self, time: Duration) -> EngineResult<()> {
        let until = tokio::time::Instant::now() + time;
        while let Ok(records) = tokio::time::timeout_at(until, self.follower.next()).await {
            for stored in records.map_err(engine_error)? {
                let decoded =
                    wire::decode(&stored).map_err(|error| EngineError::Internal(error.to_string()))?;
                let Payload::Transition(transition) = decoded.payload else { continue };
                if let Some(sent) = self.sent.remove(&transition.input) {
                    self.longest = self.longest.max(sent.elapsed());
                }
            }
        }
        Ok(())
    }

    /// Until so many processes share the partitions and all of these move.
    async fn until_steady(&mut self, log: &KafkaLog, members: usize) -> EngineResult<()> {
        let begin = Instant::now();
        let mut since = Instant::now();
        while since.elapsed() < STEADY {
            if begin.elapsed() > BACK_MAX {
                return Err(EngineError::Timeout("the processes do not come to rest".to_owned()));
            }
            self.send().await?;
            self.watch(STEADY / 4).await?;
            let here = log.group_members("p2.agent-step").await.map_err(engine_error)?.len();
            if here != members || !self.sent.is_empty() {
                since = Instant::now();
            }
        }
        Ok(())
    }

    /// Causes a fault and gives the longest that a message waited which was sent from then on.
    async fn through(
        &mut self,
        fault: Fault,
        child: &mut Child,
        fleet: &Fleet<'_>,
        which: usize,
    ) -> EngineResult<Duration> {
        if !matches!(fault, Fault::Stop) {
            self.watch(QUIET).await?;
        }
        self.longest = Duration::ZERO;
        let begin = Instant::now();
        match fault {
            Fault::Kill => child.kill().await.map_err(|error| internal(fleet.dir, &error))?,
            Fault::KillAndRestart => {
                child.kill().await.map_err(|error| internal(fleet.dir, &error))?;
                *child = fleet.start(which)?;
            }
            Fault::Stop => {
                let pid = child.id().unwrap_or_default().to_string();
                let sent = Command::new("kill").args(["-s", "TERM", &pid]).status().await;
                sent.map_err(|error| internal(fleet.dir, &error))?;
            }
        }
        loop {
            self.send().await?;
            self.watch(PROBE_EVERY).await?;
            // One that stops goes on with what it has for a moment.
            if !matches!(fault, Fault::Stop) || child.try_wait().ok().flatten().is_some() {
                break;
            }
        }
        while !self.sent.is_empty() {
            self.watch(PROBE_EVERY).await?;
            if begin.elapsed() > BACK_MAX {
                return Err(EngineError::Timeout(format!("{}: a partition did not come back", fault.name())));
            }
        }
        Ok(self.longest)
    }
}
