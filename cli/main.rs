//! `p2engine`: the command line, the local HTTP API and the wiring.

mod api;
mod args;
mod backend;
mod chaos;
mod client;
mod commands;
mod config;
mod engine;
mod local;
mod output;
mod rejoin;
mod signals;
mod views;
mod wiring;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use args::{Cli, Color, Command, ConfigCommand, TopicsCommand};
use commands::Run;
use config::Config;
use engine::{EngineError, EngineResult};
use local::Work;
use output::Output;
use signals::{Stop, Stops};
use wiring::Opened;

/// A conversation is some thousand small allocations, made on one thread and freed on another: with the system's
/// allocator they were a fifth of the engine's CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| misused(&error));
    match cli.color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    let out = Output::new(cli.json);
    // The faults are meant: what the clients of the campaign itself say of them is noise.
    // What the clients of Kafka and CQL say of an outage, we say ourselves, once and with the mend.
    let usual =
        if matches!(cli.command, Command::Chaos(_)) { "off" } else { "warn,librdkafka=off,scylla=off" };
    if let Err(error) = start_log(cli.verbose, usual) {
        return fail(out, &error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(out, &EngineError::Internal(format!("cannot start: {error}"))),
    };
    let result = runtime.block_on(run(cli, out));
    // A blocked read of stdin must not keep the process alive.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => fail(out, &error),
    }
}

/// Help and version as they are; what is wrong with a command line as everything else that is wrong.
fn misused(error: &clap::Error) -> ! {
    let wants_json = std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json");
    if !wants_json || !error.use_stderr() {
        error.exit()
    }
    let text = error.render().to_string();
    let text = text.trim().trim_start_matches("error: ");
    let _ = fail(Output::new(true), &EngineError::Invalid(text.to_owned()));
    std::process::exit(error.exit_code())
}

fn fail(out: Output, error: &EngineError) -> ExitCode {
    if out.json && matches!(error, EngineError::Differs(_)) {
        // What was shown is the one document on standard output; the exit code says the rest.
    } else if out.json {
        let shape = serde_json::json!({"error": {"code": error.code(), "message": error.to_string()}});
        out.data(&shape);
    } else {
        out.error(&error.to_string());
    }
    ExitCode::from(exit_code(error))
}

fn exit_code(error: &EngineError) -> u8 {
    match error {
        EngineError::Internal(_) | EngineError::Differs(_) => 1,
        EngineError::Invalid(_) => 2,
        EngineError::Refused { .. } => 3,
        EngineError::NotFound(_) => 4,
        EngineError::Timeout(_)
        | EngineError::Unavailable(_)
        | EngineError::Gone { .. }
        | EngineError::Unauthorized(_) => 5,
    }
}

/// Structured logs to stderr; `P2_LOG_FORMAT=json` for machines.
fn start_log(verbose: u8, usual: &str) -> EngineResult<()> {
    let level = match verbose {
        0 => usual,
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let wanted = std::env::var("P2_LOG").ok().filter(|wanted| !wanted.trim().is_empty());
    let filter = EnvFilter::builder().parse(wanted.as_deref().unwrap_or(level)).map_err(|error| {
        EngineError::Invalid(format!(
            "env P2_LOG: {error}; give levels by target, e.g. 'warn,agent-step=debug,tool-exec=info'"
        ))
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match std::env::var("P2_LOG_FORMAT").unwrap_or_default().as_str() {
        "" | "text" => log.with_ansi(colours_on_stderr()).init(),
        "json" => log.json().init(),
        other => {
            let text = format!("env P2_LOG_FORMAT: '{other}' is not one of text, json");
            return Err(EngineError::Invalid(text));
        }
    }
    Ok(())
}

/// As for everything else that is printed: on a terminal, unless `NO_COLOR` or `--color` says otherwise.
fn colours_on_stderr() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

async fn run(cli: Cli, out: Output) -> EngineResult<ExitCode> {
    if let Command::Completions { shell } = &cli.command {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Cli::command(), "p2engine", &mut script);
        out.line(String::from_utf8_lossy(&script).trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Chaos(args) = cli.command {
        let mut stops = Stops::new()?;
        return tokio::select! {
            done = commands::chaos::run(out, args) => done,
            stop = stops.next() => Ok(stop.code(false)),
        };
    }
    let env = |name: &str| std::env::var(name).ok();
    let config = Config::load(cli.config.as_deref(), cli.data_dir.as_deref(), &env)?;
    if let Command::Bench(args::BenchCommand::Conversation(args)) = cli.command {
        commands::bench::conversation(out, &config, cli.config.as_deref(), args).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Bench(args::BenchCommand::Recovery(args)) = cli.command {
        commands::bench::recovery(out, &config, cli.config.as_deref(), args).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Bench(args::BenchCommand::Ledger(args)) = cli.command {
        commands::bench::ledger(out, &config, args).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if matches!(cli.command, Command::Config(ConfigCommand::Show)) {
        commands::configure::show(&config, out);
        return Ok(ExitCode::SUCCESS);
    }
    if before_an_engine(&config, &cli.command, out).await? {
        return Ok(ExitCode::SUCCESS);
    }
    let service = matches!(cli.command, Command::Up { .. } | Command::Run(_));
    let mut stops = Stops::new()?;
    let opened = tokio::select! {
        opened = open(config.clone(), &cli.command) => opened?,
        stop = stops.next() => return Ok(stop.code(service)),
    };
    if !opened.stands_in_for().is_empty() {
        let names = opened.stands_in_for().join(", ");
        out.remark(&format!("Nobody in the cluster runs {names}: this process does, as long as it lives."));
    }
    let run = Run { engine: opened.engine.clone(), out };
    let served = opened.served.as_ref().map(|served| served.url.clone());
    // Every write is one durable message: stopping between two of them leaves nothing half done.
    let mut stopped = false;
    let result = tokio::select! {
        result = dispatch(&run, cli.command, &config, served) => result.map(|()| ExitCode::SUCCESS),
        error = opened.failed() => Err(error),
        stop = stops.next() => {
            stopped = true;
            Ok(stop.code(service))
        }
    };
    // What is under way is finished; whoever insists is let go at once, which loses nothing either.
    let closed = tokio::select! {
        closed = opened.close() => closed,
        () = insisted(&mut stops, out, stopped) => Ok(()),
    };
    let code = result?;
    closed?;
    Ok(code)
}

/// Commands that need no engine; false for the others.
async fn before_an_engine(config: &Config, command: &Command, out: Output) -> EngineResult<bool> {
    match command {
        Command::Doctor => commands::doctor::run(config, out).await?,
        Command::Store(command) => commands::cluster::store(config, command, out).await?,
        Command::Topics(TopicsCommand::Apply(wanted)) => {
            commands::cluster::topics(config, wanted, true, out).await?;
        }
        Command::Topics(TopicsCommand::Diff(wanted)) => {
            commands::cluster::topics(config, wanted, false, out).await?;
        }
        Command::Topics(TopicsCommand::Copy(from)) => commands::copy::run(config, from, out).await?,
        Command::Ledger(args::LedgerArgs { command: args::LedgerCommand::Bootstrap { dar }, .. }) => {
            commands::ledger::bootstrap::run(config, dar.as_ref(), out).await?;
        }
        Command::Replay(args::ReplayCommand::Stacks(what)) if !what.verify && config.kafka.is_some() => {
            commands::replay::rows(config, what, out).await?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Opens the engine as far as a command needs it.
async fn open(config: Config, command: &Command) -> EngineResult<Opened> {
    match command {
        Command::Run(args) => commands::run::open(config, args).await,
        Command::Up { port } => wiring::open(&config, *port, Work::All.into()).await,
        Command::Replay(args::ReplayCommand::Stacks(what)) if !what.verify => {
            commands::replay::open_emptied(&config).await
        }
        Command::Conversation(args::ConversationCommand::Watch { .. })
        | Command::Topics(TopicsCommand::Tail { follow: true, .. }) => wiring::open_to_watch(&config).await,
        // Whoever talks to agents wants answers, on a laptop too.
        Command::Chat(_) | Command::Demo => wiring::open(&config, 0, Work::WhereNobodyDoes.into()).await,
        _ => wiring::open(&config, 0, Work::None.into()).await,
    }
}

/// Ends at a further signal; says so where somebody who stopped a command would begin to wonder.
async fn insisted(stops: &mut Stops, out: Output, stopped: bool) {
    let wonder = async {
        if !stopped {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    };
    let again = async { while stops.next().await == Stop::OutputClosed {} };
    tokio::pin!(wonder, again);
    tokio::select! {
        () = &mut again => return,
        () = wonder => out.remark("finishing what is under way; Ctrl-C again ends at once"),
    }
    again.await;
}

async fn dispatch(run: &Run, command: Command, config: &Config, served: Option<String>) -> EngineResult<()> {
    match command {
        Command::Demo => commands::demo::run(run).await,
        Command::Chat(chat) => commands::chat::run(run, chat, config).await,
        Command::Conversation(command) => commands::conversation::run(run, command).await,
        Command::Agent(command) => commands::inspect::agent(run, command).await,
        Command::Artifact(command) => commands::inspect::artifact(run, command).await,
        Command::Eval(command) => commands::eval::run(run, command).await,
        Command::Ledger(args) => commands::ledger::run(run, args).await,
        Command::Topics(command) => commands::inspect::topics(run, command).await,
        Command::Replay(_) => commands::operate::verify(run).await,
        Command::DeadLetters(command) => commands::operate::dead_letters(run, command).await,
        Command::Effects(args::EffectsCommand::InDoubt(command)) => {
            commands::operate::in_doubt(run, command).await
        }
        Command::Apply { files } => commands::operate::apply(run, config, &files).await,
        Command::Trace { reference } => commands::trace::run(run, &reference).await,
        Command::Up { .. } => commands::operate::up(run, config, served).await,
        Command::Run(args) => commands::run::run(run, &args, served).await,
        Command::Config(command) => commands::configure::run(run, command).await,
        Command::Completions { .. }
        | Command::Bench(_)
        | Command::Chaos(_)
        | Command::Doctor
        | Command::Store(_) => Ok(()),
    }
}
