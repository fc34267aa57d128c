//! The command line.

mod chaos;
mod commands;
mod eval;
mod ledger;
mod operate;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

pub(crate) use chaos::ChaosArgs;
pub(crate) use commands::*;
pub(crate) use eval::*;
pub(crate) use ledger::*;
pub(crate) use operate::*;

/// Agent conversations on a log.
#[derive(Debug, Parser)]
#[command(
    name = "p2engine",
    version,
    after_help = "Examples:\n  p2engine demo\n  p2engine chat with agent_alpha --name x\n  echo 'hello' | \
                  p2engine chat with agent_alpha --name x\n  p2engine conversation stack x\n  p2engine \
                  conversation rewind x 4\n\nExit codes:\n  0  done\n  1  an error\n  2  wrong usage or \
                  configuration\n  3  refused by the engine\n  4  not found\n  5  no engine reachable, or no \
                  answer in time\n  130  Ctrl-C\n  143  SIGTERM ('up' exits with 0 then)"
)]
pub(crate) struct Cli {
    /// Where the embedded log and store live [default: $XDG_DATA_HOME/p2engine, else
    /// ~/.local/share/p2engine]; also P2_DATA_DIR.
    #[arg(long, global = true)]
    pub data_dir: Option<PathBuf>,
    /// Settings file [default: p2engine.toml in the current directory, where it exists].
    #[arg(long, global = true)]
    pub config: Option<PathBuf>,
    /// Print data as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// When to colour.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Log more to stderr: -v info, -vv debug, -vvv trace. P2_LOG overrides (e.g. `agent-step=debug`).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}
