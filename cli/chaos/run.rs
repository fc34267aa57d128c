//! The campaign from beginning to end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use p2_core::record::Topic;
use p2_core::registry::Registry;
use p2_stream::shell::now_ms as wall_ms;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::check::{Verdict, check};
use super::evidence::{self, Evidence};
use super::history::{Event, History};
use super::payers::{Payers, opened};
use super::people::People;
use super::plan::{INSTANCES_MAX, Instance, Ours, Plan, Processor, plan};
use super::processes::{Processes, UNAVAILABLE};
use super::proxy::Proxy;
use super::report::{Facts, summary};
use super::services::{Server, brokers_in, free_port, start_all};
use super::shift::{Behind, Shift};
use super::watch::Watch;
use super::writer::{self, Writer};
use crate::args::ChaosArgs;
use crate::backend::{Backend, OpenFailed};
use crate::config::Config;
use crate::engine::{EngineError, EngineResult, draw_id};
use crate::output::Output;

const AGENTS: &str = include_str!("agents.yml");
const SCRIPT: &str = include_str!("script.yml");
const JUDGE: &str = include_str!("judge.yml");
/// Partitions of the topics that are keyed by conversation.
const PARTITIONS: i32 = 4;
/// How long the system may take to come to rest once everything is healed.
const REST_MAX: Duration = Duration::from_secs(180);
/// How long what an earlier campaign left may take to be read and in the store: all of it, since the store is new.
const BEHIND_MAX: Duration = Duration::from_secs(1_200);
/// Among so many offsets there is a record, if there is any in a partition.
const NEWEST: i64 = 100;
/// How often it is said what is waited for.
const SAY_AGAIN: Duration = Duration::from_secs(15);
/// How often it is looked at whether something is due.
const TICK: Duration = Duration::from_millis(25);
/// How often those who wait for a person's consent are refused at the end.
const REFUSE_AGAIN: Duration = Duration::from_secs(3);

/// Where everything is, and how it is reached.
struct Ground {
    dir: PathBuf,
    /// Settings of processes: through the proxies.
    through: PathBuf,
    /// Settings of whoever checks: past them.
    past: PathBuf,
}

fn internal(path: &Path, error: &std::io::Error) -> EngineError {
    EngineError::Internal(format!("{}: {error}", path.display()))
}

/// Runs the campaign: its summary, and the violations.
///
/// # Errors
/// A service does not start, or something that is not under test fails.
pub(crate) async fn campaign(
    out: Output,
    args: &ChaosArgs,
    dir: &Path,
    history: &Arc<History>,
) -> EngineResult<(Value, Vec<String>)> {
    let seed = args.seed.unwrap_or_else(rand::random::<u32>).into();
    let seconds = if args.again { 0.0 } else { (args.minutes * 60.0).max(1.0) };
    let faults_ms = Duration::from_secs_f64(seconds).as_millis() as u64;
    let commit = commit().await;
    history.note(Event::Began { seed, seconds: faults_ms / 1_000, commit: commit.clone() });
    let ours = Ours { broker: args.kafka_brokers.is_none(), store: args.scylla_nodes.is_none() };
    let plan = plan(seed, faults_ms, ours);
    out.remark(&format!(
        "seed {seed}: {} faults in {seconds:.0} s; files in {}",
        plan.faults.len(),
        dir.display()
    ));
    let (ground, brokers, store) = services(out, args, dir).await?;
    let environment = vec![
        ("P2_DEV_TOOLS", dir.join("calls").display().to_string()),
        ("P2_SCRIPTS_DIR", dir.join("scripts").display().to_string()),
        ("P2_LOG", args.log.clone()),
        ("NO_COLOR", "1".to_owned()),
    ];
    let processes = Processes::new(&ground.through, dir, environment, Arc::clone(history))?;
    let mut shift = Shift::new(processes, brokers, store, Arc::clone(history), out);
    let worked = work(out, &mut shift, &plan, seed, &ground).await;
    shift.stop_servers().await;
    let (verdict, seconds) = worked?;
    let mut violations = verdict.violations.clone();
    violations.extend(shift.ended.iter().map(|what| format!("a process failed: {what}")));
    Ok((summary(&verdict, &violations, &shift, &Facts { seed, commit, plan: &plan, seconds }), violations))
}

/// Starts what is ours, and sets everything up.
async fn services(
    out: Output,
    args: &ChaosArgs,
    dir: &Path,
) -> EngineResult<(Ground, Vec<Behind>, Option<Behind>)> {
    let scripts = dir.join("scripts");
    std::fs::create_dir_all(&scripts).map_err(|error| internal(&scripts, &error))?;
    let files = [("people.yml", SCRIPT), ("judge.yml", JUDGE)].map(|(name, text)| (scripts.join(name), text));
    for (path, text) in files.into_iter().chain([(dir.join("agents.yml"), AGENTS)]) {
        std::fs::write(&path, text).map_err(|error| internal(&path, &error))?;
    }
    let count = if args.again { brokers_in(dir) } else { args.brokers };
    let brokers = async {
        if args.kafka_brokers.is_some() {
            return Ok(Vec::new());
        }
        let mut proxies = Vec::new();
        let mut ports = Vec::new();
        for _ in 0..count {
            let listener = free_port(1)?;
            let proxy = Proxy::start(0, listener).await?;
            ports.push((listener, proxy.port()));
            proxies.push(proxy);
        }
        let servers = Server::brokers(dir, &ports)?;
        start_all(&servers).await?;
        let behind = servers.into_iter().zip(proxies).map(|(server, proxy)| Behind { server, proxy });
        Ok::<_, EngineError>(behind.collect())
    };
    let store = async {
        if args.scylla_nodes.is_some() {
            return Ok(None);
        }
        let server = Server::store(dir)?;
        let proxy = Proxy::start(0, server.port()).await?;
        server.start().await?;
        Ok::<_, EngineError>(Some(Behind { server, proxy }))
    };
    out.remark(if count == 1 { "starting broker and store" } else { "starting brokers and store" });
    let (brokers, store) = tokio::try_join!(brokers, store)?;
    let address = |port: u16| format!("127.0.0.1:{port}");
    let given = |given: &Option<String>| given.clone().unwrap_or_default();
    let list =
        |port: fn(&Behind) -> u16| brokers.iter().map(|one| address(port(one))).collect::<Vec<_>>().join(",");
    let (through, past) = match &args.kafka_brokers {
        Some(given) => (given.clone(), given.clone()),
        None => (list(|one| one.proxy.port()), list(|one| one.server.port())),
    };
    let nodes = store.as_ref().map(|behind| (address(behind.proxy.port()), address(behind.server.port())));
    let nodes = nodes.unwrap_or((given(&args.scylla_nodes), given(&args.scylla_nodes)));
    // On servers of somebody else the campaign has names of its own.
    let drawn = format!("chaos{}", draw_id().short());
    let name = if args.again { name_in(dir)? } else { drawn };
    let ground = Ground {
        dir: dir.to_owned(),
        through: settings(dir, "through.toml", &through, &nodes.0, &name)?,
        past: settings(dir, "past.toml", &past, &nodes.1, &name)?,
    };
    Ok((ground, brokers, store))
}

/// The name that the campaign in a directory had.
fn name_in(dir: &Path) -> EngineResult<String> {
    let (settings, driver) = (dir.join("past.toml"), dir.join("driver"));
    let config = Config::load(Some(&settings), Some(&driver), &|_| None)?;
    config.scylla.map(|set| set.value.keyspace).ok_or_else(|| {
        EngineError::NotFound(format!("{} names no CQL server: nothing to check again", settings.display()))
    })
}

/// A settings file. Time-outs are short, so that a minute holds many of them.
fn settings(dir: &Path, file: &str, brokers: &str, nodes: &str, name: &str) -> EngineResult<PathBuf> {
    let path = dir.join(file);
    let text = format!(
        "[kafka]\nbrokers = \"{brokers}\"\nprefix = \"{name}.\"\nsession_timeout_ms = 6000\n\
         transaction_timeout_ms = 4000\n\n[scylla]\nnodes = \"{nodes}\"\nkeyspace = \"{name}\"\n"
    );
    std::fs::write(&path, text).map_err(|error| internal(&path, &error))?;
    Ok(path)
}

/// Runs a command of this executable to its end; again where a server does not answer, as a busy machine's may.
async fn command(shift: &Shift, ground: &Ground, arguments: &[&str]) -> EngineResult<()> {
    command_in(shift, ground, "driver", arguments).await
}

/// As [`command`], with the data directory of that name.
async fn command_in(shift: &Shift, ground: &Ground, name: &str, arguments: &[&str]) -> EngineResult<()> {
    let begin = Instant::now();
    loop {
        let mut command = shift.processes.command(&ground.past);
        command.arg("--data-dir").arg(ground.dir.join(name)).args(arguments);
        let done = command.output().await.map_err(|error| internal(&ground.dir, &error))?;
        if done.status.success() {
            return Ok(());
        }
        if done.status.code() != Some(UNAVAILABLE) || begin.elapsed() > REST_MAX {
            let said = String::from_utf8_lossy(&done.stderr);
            return Err(EngineError::Internal(format!("{}: {}", arguments.join(" "), said.trim())));
        }
    }
}

/// As [`command`], for what reads only.
async fn patiently<T, F: Future<Output = EngineResult<T>>>(read: impl Fn() -> F) -> EngineResult<T> {
    let begin = Instant::now();
    loop {
        match read().await {
            Err(EngineError::Unavailable(_)) if begin.elapsed() < REST_MAX => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            other => return other,
        }
    }
}

async fn backend(ground: &Ground, settings: &Path) -> EngineResult<Backend> {
    let config = Config::load(Some(settings), Some(&ground.dir.join("driver")), &|_| None)?;
    Backend::open(&config).await.map_err(|error| match error {
        OpenFailed::Held(error) | OpenFailed::Other(error) => error,
    })
}

/// Everything between the start of the services and their end; how long faults were caused, too.
async fn work(
    out: Output,
    shift: &mut Shift,
    plan: &Plan,
    seed: u64,
    ground: &Ground,
) -> EngineResult<(Verdict, f64)> {
    let agents = ground.dir.join("agents.yml").display().to_string();
    let partitions = PARTITIONS.to_string();
    command(shift, ground, &["topics", "apply", "--partitions", &partitions]).await?;
    command(shift, ground, &["store", "apply"]).await?;
    command(shift, ground, &["apply", &agents]).await?;
    let past = patiently(|| backend(ground, &ground.past)).await?;
    let through = patiently(|| backend(ground, &ground.through)).await?;
    let registry = patiently(|| evidence::registry(past.log.as_ref())).await?;
    let watch = Watch::start(Arc::clone(&past.log), Arc::clone(&shift.history))?;
    if plan.end_ms > 0 {
        let (log, history) = (past.log.as_ref(), &shift.history);
        let mut payers = Payers::new(seed, SmallRng::seed_from_u64(seed));
        writer::in_order(log, history, &payers.deeds(opened())).await?;
    }
    shift.begin()?;
    let writer = Writer::new(Arc::clone(&through.log), Arc::clone(&shift.history));
    let begin = Instant::now();
    under_fire(out, shift, plan, seed, &watch, &writer).await?;
    let seconds = begin.elapsed().as_secs_f64();
    out.remark("everything heals");
    shift.heal_all().await?;
    let mut violations = Vec::new();
    let begin = Instant::now();
    // Of what an earlier campaign left; after faults of its own, `rest` is all the time there is.
    while plan.end_ms == 0
        && let Some(behind) = patiently(|| behind(&past, &watch)).await?
    {
        if begin.elapsed() > BEHIND_MAX {
            violations.push(format!("after {} s still {behind}", BEHIND_MAX.as_secs()));
            break;
        }
        shift.tick(&Plan { faults: Vec::new(), end_ms: 0 }, &mut 0, u64::MAX - 10_000).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    if let Some(unrest) = rest(shift, seed, &watch, &writer, &registry).await? {
        violations.push(format!("not at rest {} s after everything healed: {unrest}", REST_MAX.as_secs()));
    }
    out.remark("at rest: checking");
    shift.end().await?;
    if let Err(error) = command(shift, ground, &["replay", "stacks", "--verify"]).await {
        violations.push(format!("the replay differs from the store: {error}"));
    }
    violations.extend(books_that_differ(shift, ground).await);
    let topics = patiently(|| evidence::topics(past.log.as_ref())).await?;
    let conversations = evidence::conversations(&topics);
    let evidence = Evidence {
        store: patiently(|| evidence::store(past.store.as_ref(), PARTITIONS, &conversations)).await?,
        topics,
        history: shift.history.read()?,
        calls: evidence::calls(&ground.dir.join("calls"))?,
        books: watch.world().money.books.clone(),
        registry,
        ..Evidence::default()
    };
    let mut verdict = tokio::task::spawn_blocking(move || check(&evidence))
        .await
        .map_err(|error| EngineError::Internal(format!("the checker failed: {error}")))?;
    violations.append(&mut verdict.violations);
    Ok((Verdict { violations, ..verdict }, seconds))
}

/// The books refolded from the first transaction, compared with what a process folds that starts now, and with what those
/// that settled have kept.
async fn books_that_differ(shift: &Shift, ground: &Ground) -> Vec<String> {
    let settled = (0..INSTANCES_MAX).map(|slot| Instance { processor: Processor::Settlement, slot });
    let kept =
        settled.map(|instance| instance.name()).filter(|name| ground.dir.join(name).join("folds").is_dir());
    let mut differences = Vec::new();
    for name in std::iter::once("driver".to_owned()).chain(kept) {
        if let Err(error) = command_in(shift, ground, &name, &["ledger", "verify"]).await {
            differences.push(format!("the books that {name} keeps differ from the log: {error}"));
        }
    }
    differences
}

/// What is not read, or not in the store, of what the log has; none where all of it is.
async fn behind(past: &Backend, watch: &Watch) -> EngineResult<Option<String>> {
    for topic in evidence::TOPICS {
        for partition in 0..past.log.partitions(topic) {
            let newest = past.log.newest(topic, partition, NEWEST).await;
            let newest = newest.map_err(|error| evidence::of_log(&error))?;
            let Some(end) = newest.last().map(|newest| newest.offset + 1) else { continue };
            let read = watch.world().next.get(&(topic, partition)).copied().unwrap_or(0);
            let applied = match topic {
                Topic::StateTransitions => past.store.applied(partition).await,
                _ => Ok(end),
            };
            let applied = applied.map_err(|error| evidence::of_store(&error))?;
            if read < end || applied < end {
                let topic = topic.short();
                return Ok(Some(format!(
                    "{topic}/{partition}: {end} written, {read} read, {applied} in the store"
                )));
            }
        }
    }
    Ok(None)
}

/// Faults and people, side by side, until the plan is done.
async fn under_fire(
    out: Output,
    shift: &mut Shift,
    plan: &Plan,
    seed: u64,
    watch: &Watch,
    writer: &Writer,
) -> EngineResult<()> {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
    let mut people = People::new(seed, SmallRng::seed_from_u64(seed ^ 0xbeef));
    let mut payers = Payers::new(seed, SmallRng::seed_from_u64(seed ^ 0xcafe));
    let bar = bar(out, plan.end_ms / 1_000);
    let begin = Instant::now();
    let mut next = 0;
    let mut speaks_ms = 0;
    loop {
        let now_ms = begin.elapsed().as_millis() as u64;
        if now_ms >= plan.end_ms {
            break;
        }
        bar.set_position(now_ms / 1_000);
        shift.tick(plan, &mut next, now_ms).await?;
        while speaks_ms <= now_ms {
            let deeds = people.act(&watch.world());
            deeds.into_iter().for_each(|deed| writer.write(deed));
            if rng.random_range(0..4) == 0 {
                let deeds = payers.act(&watch.world().money, wall_ms());
                deeds.into_iter().for_each(|deed| writer.write(deed));
            }
            // Now and then many at once.
            speaks_ms += if rng.random_range(0..6) == 0 { 1 } else { rng.random_range(20..180) };
        }
        tokio::time::sleep(TICK).await;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Waits until nothing moves any more; what still does after the limit.
async fn rest(
    shift: &mut Shift,
    seed: u64,
    watch: &Watch,
    writer: &Writer,
    registry: &Registry,
) -> EngineResult<Option<String>> {
    writer.drain().await;
    // What was said at an earlier end of the same campaign has other ids.
    let mut people = People::new(rand::random(), SmallRng::seed_from_u64(seed));
    let mut payers = Payers::new(rand::random(), SmallRng::seed_from_u64(seed));
    let mut refused: Option<Instant> = None;
    let begin = Instant::now();
    let quiet = Plan { faults: Vec::new(), end_ms: 0 };
    let mut closed = false;
    let mut rested = 0;
    let mut said = Instant::now();
    loop {
        shift.tick(&quiet, &mut 0, u64::MAX - 10_000).await?;
        if refused.is_none_or(|at| at.elapsed() > REFUSE_AGAIN) {
            refused = Some(Instant::now());
            let deeds = payers.closing(&watch.world().money);
            deeds.into_iter().for_each(|deed| writer.write(deed));
        }
        let unrest = watch.world().unrest(&writer.acknowledged(), registry);
        if let Some(unrest) = &unrest
            && said.elapsed() > SAY_AGAIN
        {
            said = Instant::now();
            shift.out.remark(&format!("not at rest yet: {unrest}"));
        }
        if unrest.is_none() && !closed {
            closed = true;
            let deeds = people.closing(&watch.world());
            for deed in deeds {
                writer.has_a_turn().await;
                writer.write(deed);
            }
            writer.drain().await;
            continue;
        }
        rested = if unrest.is_none() { rested + 1 } else { 0 };
        // The rows of the last transition are written after it is read.
        if rested > 20 {
            return Ok(None);
        }
        if begin.elapsed() > REST_MAX {
            return Ok(unrest);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn bar(out: Output, seconds: u64) -> ProgressBar {
    if !out.animate {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(seconds);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} s") {
        bar.set_style(style);
    }
    bar
}

/// The commit that is checked out where this runs; the version where none is.
async fn commit() -> String {
    let asked = tokio::process::Command::new("git").args(["rev-parse", "--short=10", "HEAD"]).output().await;
    let said = asked.ok().filter(|asked| asked.status.success());
    said.map_or_else(
        || format!("v{}", env!("CARGO_PKG_VERSION")),
        |asked| String::from_utf8_lossy(&asked.stdout).trim().to_owned(),
    )
}
