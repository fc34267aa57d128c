//! `bench …`: what a conversation costs, measured from outside.
//!
//! The engine is a process of its own on a fresh data directory, driven over its HTTP API as any client would;
//! its CPU and memory are read from `/proc`, so that the load generator is left out.

mod ledger;
mod recovery;
mod stored;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use p2_core::conversation::Conversation;
use p2_core::ids::{AgentId, ConversationId};
use p2_core::record::{InboxBody, InboxMessage, UserText};
use p2_core::state::State;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::args::BenchConversation;
use crate::client::HttpEngine;
use crate::config::Config;
use crate::engine::{Engine, EngineError, EngineResult, draw_id};
use crate::output::Output;

pub(crate) use ledger::ledger;
pub(crate) use recovery::recovery;

/// The agent and what it is asked: one tool call, then an answer.
const AGENT: &str = "agent_alpha";
const QUESTION: &str = "What is the weather in Paris?";
/// A conversation without an answer after this long is lost.
const ANSWER_MAX: Duration = Duration::from_secs(60);
const START_MAX: Duration = Duration::from_secs(30);
/// Conversations before the measurement, so that connections and lanes are warm.
const WARM_UP: usize = 20;
/// Linux counts the CPU time in `/proc/<pid>/stat` in hundredths of a second (USER_HZ).
const TICKS_PER_S: f64 = 100.0;

/// Runs `bench conversation`: one line of JSON per run.
pub(crate) async fn conversation(
    out: Output,
    config: &Config,
    settings: Option<&Path>,
    args: BenchConversation,
) -> EngineResult<()> {
    let dir = std::env::temp_dir().join(format!("p2engine-bench-{}", draw_id().short()));
    std::fs::create_dir_all(&dir).map_err(|error| internal(&dir, &error))?;
    let measured = measure(out, config, settings, &args, &dir).await;
    if !args.keep {
        let _ = std::fs::remove_dir_all(&dir);
    } else {
        out.remark(&format!("kept: {}", dir.display()));
    }
    measured
}

async fn measure(
    out: Output,
    config: &Config,
    settings: Option<&Path>,
    args: &BenchConversation,
    dir: &Path,
) -> EngineResult<()> {
    let system = if args.cluster { Some(cluster(config)?) } else { None };
    let engine = Measured { args, dir, settings: settings.filter(|_| args.cluster), system: system.as_ref() };
    if system.is_some() {
        let partitions = args.partitions.to_string();
        engine.run_to_end(&["topics", "apply", "--partitions", &partitions]).await?;
        engine.run_to_end(&["store", "apply"]).await?;
    }
    if args.stored > 0 {
        let progress = out.progress(u64::try_from(args.stored).unwrap_or(u64::MAX), "conversations stored");
        stored::fill(&of_run(config, dir, system.as_ref()), args.stored, &progress).await?;
        progress.finish_and_clear();
    }
    let mut child = engine.start()?;
    let client = Arc::new(ready(&mut child, dir).await?);
    let mut pids = vec![child.id().unwrap_or_default()];
    pids.extend(&args.count_pid);
    drive(&client, WARM_UP, args.concurrency.min(WARM_UP), &ProgressBar::hidden()).await?;
    let name = if args.cluster { "kafka+cql" } else { "embedded" };
    let runs = [(args.conversations, args.concurrency, ""), (args.idle, 1, " idle")];
    for (conversations, concurrency, suffix) in runs.into_iter().filter(|(count, ..)| *count > 0) {
        let before = cpu_of(&pids)?;
        let begin = Instant::now();
        let progress = out.progress(u64::try_from(conversations).unwrap_or(u64::MAX), "conversations");
        let mut latencies = drive(&client, conversations, concurrency, &progress).await?;
        progress.finish_and_clear();
        let wall = begin.elapsed().as_secs_f64();
        let after = cpu_of(&pids)?;
        let each: Vec<f64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        latencies.sort_unstable();
        let done = latencies.len();
        let (per_s, shared) = (ratio(done, wall), as_f64(done.max(1)));
        out.data(&json!({
            "system": format!("p2engine {name}{suffix}"),
            "conversations": conversations,
            "concurrency": concurrency,
            "llm_latency_ms": args.llm_latency_ms,
            "stored": args.stored,
            "wall_s": round(wall, 3),
            "conv_per_s": round(per_s, 2),
            "steps_per_s": round(2.0 * per_s, 2),
            "cpu_s_per_conv": round(each.iter().sum::<f64>() / shared, 5),
            "cpu_s_per_conv_by_process": each.iter().map(|cpu| round(cpu / shared, 5)).collect::<Vec<f64>>(),
            "p50_ms": percentile(&latencies, 0.5),
            "p99_ms": percentile(&latencies, 0.99),
            "peak_rss_mb": round(peak_rss_of(&pids)?, 1),
            "completed": done,
            "lost": conversations - done,
            "durability": if args.interval { "interval" } else { "commit" },
        }));
    }
    Ok(())
}

/// Topics and a keyspace of this run's own, on the configured cluster.
fn cluster(config: &Config) -> EngineResult<Vec<(&'static str, String)>> {
    let (Some(kafka), Some(scylla)) = (&config.kafka, &config.scylla) else {
        let text = "--cluster needs [kafka] brokers and [scylla] nodes (P2_KAFKA_BROKERS, P2_SCYLLA_NODES)";
        return Err(EngineError::Invalid(text.to_owned()));
    };
    let name = format!("bench_{}", draw_id().short());
    Ok(vec![
        ("P2_KAFKA_BROKERS", kafka.value.brokers.clone()),
        ("P2_KAFKA_PREFIX", format!("{name}.")),
        ("P2_SCYLLA_NODES", scylla.value.nodes.join(",")),
        ("P2_SCYLLA_KEYSPACE", name),
    ])
}

/// The settings of the measured system, for this process.
fn of_run(config: &Config, dir: &Path, system: Option<&Vec<(&'static str, String)>>) -> Config {
    let mut config = config.clone();
    config.data_dir.value = dir.join("data");
    let of = |name: &str| {
        system
            .into_iter()
            .flatten()
            .find(|(of, _)| *of == name)
            .map_or_else(String::new, |(_, value)| value.clone())
    };
    if system.is_none() {
        (config.kafka, config.scylla) = (None, None);
    }
    if let Some(kafka) = &mut config.kafka {
        kafka.value.prefix = of("P2_KAFKA_PREFIX");
    }
    if let Some(scylla) = &mut config.scylla {
        scylla.value.keyspace = of("P2_SCYLLA_KEYSPACE");
    }
    config
}

/// How the measured program is started.
struct Measured<'a> {
    args: &'a BenchConversation,
    dir: &'a Path,
    settings: Option<&'a Path>,
    system: Option<&'a Vec<(&'static str, String)>>,
}

impl Measured<'_> {
    fn command(&self) -> EngineResult<Command> {
        let failed = |error: std::io::Error| internal(self.dir, &error);
        let program = std::env::current_exe().map_err(failed)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("engine.log"));
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(self.dir.join("data"));
        match self.settings {
            Some(settings) => {
                command.arg("--config").arg(settings);
            }
            // A settings file that lies about is not meant.
            None => {
                command.current_dir(self.dir);
            }
        }
        if self.system.is_none() {
            for name in ["P2_KAFKA_BROKERS", "P2_KAFKA_PREFIX", "P2_SCYLLA_NODES", "P2_SCYLLA_KEYSPACE"] {
                command.env_remove(name);
            }
        }
        command
            .envs(self.system.into_iter().flatten().map(|(name, value)| (*name, value.as_str())))
            .env("OPENAI_BASE_URL", &self.args.llm_base_url)
            .env("P2_MODEL", format!("openai/{}", self.args.model))
            .env("P2_DURABILITY", if self.args.interval { "interval" } else { "commit" })
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_err(failed)?)
            .kill_on_drop(true);
        Ok(command)
    }

    fn start(&self) -> EngineResult<Child> {
        self.command()?.arg("up").spawn().map_err(|error| internal(self.dir, &error))
    }

    async fn run_to_end(&self, args: &[&str]) -> EngineResult<()> {
        let status = self.command()?.args(args).status().await.map_err(|error| internal(self.dir, &error))?;
        if status.success() { Ok(()) } else { Err(did_not_start(self.dir)) }
    }
}

fn did_not_start(dir: &Path) -> EngineError {
    let log = std::fs::read_to_string(dir.join("engine.log")).unwrap_or_default();
    EngineError::Unavailable(format!("the engine did not start: {}", log.trim()))
}

async fn ready(child: &mut Child, dir: &Path) -> EngineResult<HttpEngine> {
    let data = dir.join("data");
    let begin = Instant::now();
    loop {
        if let Some(file) = api_file(&data)
            && let Ok(Some(engine)) = HttpEngine::find(&file).await
        {
            return Ok(engine);
        }
        let ended = child.try_wait().ok().flatten().is_some();
        if ended || begin.elapsed() > START_MAX {
            return Err(did_not_start(dir));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The only file of its kind in a fresh data directory.
fn api_file(data: &Path) -> Option<std::path::PathBuf> {
    let mut paths = std::fs::read_dir(data).ok()?.flatten().map(|entry| entry.path());
    paths.find(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("api") && name.ends_with(".json")
    })
}

/// CPU seconds of each process.
fn cpu_of(pids: &[u32]) -> EngineResult<Vec<f64>> {
    pids.iter().map(|pid| cpu_s(*pid)).collect()
}

/// The sum of the most memory that each process ever had.
fn peak_rss_of(pids: &[u32]) -> EngineResult<f64> {
    pids.iter().map(|pid| peak_rss_mb(*pid)).sum()
}

/// Holds so many conversations, so many at a time; gives the latencies of those that got their answer.
async fn drive(
    engine: &Arc<HttpEngine>,
    conversations: usize,
    concurrency: usize,
    progress: &ProgressBar,
) -> EngineResult<Vec<Duration>> {
    let begun = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..concurrency.max(1))
        .map(|_| {
            let (engine, begun, progress) = (engine.clone(), begun.clone(), progress.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while begun.fetch_add(1, Ordering::Relaxed) < conversations {
                    latencies.extend(one(&engine).await?);
                    progress.inc(1);
                }
                Ok::<_, EngineError>(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for worker in workers {
        latencies.extend(worker.await.map_err(|error| EngineError::Internal(error.to_string()))??);
    }
    Ok(latencies)
}

/// One conversation; none where it got no answer.
async fn one(engine: &HttpEngine) -> EngineResult<Option<Duration>> {
    let name = ConversationId(format!("bench-{}", draw_id()));
    let text = UserText { agent: Some(AgentId::from(AGENT)), branch: None, text: QUESTION.to_owned() };
    let begin = Instant::now();
    engine
        .append(draw_id(), InboxMessage { conversation: name.clone(), body: InboxBody::UserText(text) })
        .await?;
    let rest = engine.wait_rest(&name, 0, ANSWER_MAX).await?;
    match rest.as_ref().map(answered) {
        Some(Ok(())) => Ok(Some(begin.elapsed())),
        Some(Err(problem)) => Err(EngineError::Invalid(format!("conversation '{name}': {problem}"))),
        None => Ok(None),
    }
}

/// Whether the workload was done as it should: a tool ran, and the model answered.
fn answered(conversation: &Conversation) -> Result<(), String> {
    let root = &conversation.root;
    let entries = conversation.visible(root, &conversation.current(root));
    let ran = entries.iter().any(|entry| matches!(&entry.state, State::ToolResult(_)));
    match entries.last().map(|entry| &entry.state) {
        Some(State::AssistantMessage(said)) if said.error.is_none() && ran => Ok(()),
        Some(State::AssistantMessage(said)) => Err(format!("the model answered: {}", said.text)),
        other => Err(format!("it ended with {}", other.map_or("nothing", State::kind))),
    }
}

/// User and system time of a process, seconds (`proc(5)`, fields 14 and 15 of stat).
fn cpu_s(pid: u32) -> EngineResult<f64> {
    let text = proc_file(pid, "stat")?;
    // The command in parentheses may hold spaces.
    let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = |at: usize| fields.split(' ').nth(at).and_then(|field| field.parse::<f64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok((user + system) / TICKS_PER_S),
        _ => Err(EngineError::Internal("/proc/<pid>/stat has another form than expected".to_owned())),
    }
}

/// The most resident memory that a process ever had, MiB.
fn peak_rss_mb(pid: u32) -> EngineResult<f64> {
    let text = proc_file(pid, "status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kb.map(|kb| kb / 1024.0)
        .ok_or_else(|| EngineError::Internal("/proc/<pid>/status has no VmHWM".to_owned()))
}

fn proc_file(pid: u32, name: &str) -> EngineResult<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{name}")).map_err(|error| {
        EngineError::Unavailable(format!("the engine's /proc/{pid}/{name}: {error} (this needs Linux)"))
    })
}

fn percentile(sorted: &[Duration], share: f64) -> Value {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length is an index"
    )]
    let at = (as_f64(sorted.len()) * share) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .map_or(Value::Null, |latency| json!(round(latency.as_secs_f64() * 1_000.0, 1)))
}

fn ratio(count: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { as_f64(count) / seconds } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "counts of conversations are small")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

fn internal(path: &Path, error: &std::io::Error) -> EngineError {
    EngineError::Internal(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_from_the_sorted_latencies() {
        let latencies: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&latencies, 0.5), json!(51.0));
        assert_eq!(percentile(&latencies, 0.99), json!(100.0));
        assert_eq!(percentile(&latencies[..1], 0.99), json!(1.0));
        assert_eq!(percentile(&[], 0.5), Value::Null);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_cpu_and_memory_of_this_process_can_be_read() {
        let mut sum = 0_u64;
        let begin = cpu_s(std::process::id()).unwrap();
        while cpu_s(std::process::id()).unwrap() < begin + 0.02 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(peak_rss_mb(std::process::id()).unwrap() > 1.0);
    }
}
