//! `chaos` and its arguments.

use std::path::PathBuf;

use clap::Args;

/// `chaos`.
#[derive(Debug, Args)]
pub(crate) struct ChaosArgs {
    /// Decides which fault happens when and what people say; drawn where none is given.
    #[arg(long)]
    pub seed: Option<u32>,
    /// How long faults are caused. Starting, coming to rest and checking take a minute or two more.
    #[arg(long, default_value_t = 4.0)]
    pub minutes: f64,
    /// Where history, logs and data go, and stay [default: a temporary directory, kept on a violation].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Cause no faults: start what the campaign in --dir left, let it come to rest, and check it once more.
    #[arg(long, requires = "dir", conflicts_with_all = ["kafka_brokers", "scylla_nodes", "seed", "minutes"])]
    pub again: bool,
    /// Keep the temporary directory.
    #[arg(long)]
    pub keep: bool,
    /// Brokers of the cluster that is started, 1 or 3; of three, with three copies of everything, one at a time is
    /// killed or cut off.
    #[arg(long, default_value_t = 1, value_parser = brokers, conflicts_with_all = ["kafka_brokers", "again"])]
    pub brokers: usize,
    /// An existing broker (host:port) instead of one of our own; nothing is done to it.
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka_brokers: Option<String>,
    /// An existing CQL server (host:port) instead of one of our own; nothing is done to it.
    #[arg(long, value_name = "HOST:PORT")]
    pub scylla_nodes: Option<String>,
    /// Levels of the logs of the processes, which are kept with the history.
    #[arg(long, default_value = "info", value_name = "LEVELS")]
    pub log: String,
}

fn brokers(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("one broker or three".to_owned()),
    }
}
