//! `eval`: what evaluators said, and asking them.

use clap::{Args, Subcommand};

use super::StackArgs;

/// `eval`.
#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// Have a stack judged up to an entry, and wait for the result. What was judged before is shown, not judged again.
    #[command(
        after_help = "Examples:\n  p2engine eval run trip --evaluator gpt4_judge\n  p2engine eval run trip 6 --agent agent_helper --evaluator \
                      gpt4_judge\n  p2engine eval run trip --evaluator gpt4_judge --again 'after the new rubric' --json"
    )]
    Run(EvalRun),
    /// Have the past judged: everything that the evaluator's trigger would have fired at, or every end of a run where it
    /// has none. What was judged before is left out.
    #[command(
        after_help = "Examples:\n  p2engine eval backfill --evaluator gpt4_judge --since 2026-05-01T00:00:00Z\n  p2engine eval \
                      backfill --evaluator gpt4_judge --dry-run\n  p2engine eval backfill --evaluator gpt4_judge --failed --again 'after \
                      the outage'"
    )]
    Backfill(EvalBackfill),
    /// The branches by the mean of a metric, best first; or the single evaluations.
    #[command(
        after_help = "Examples:\n  p2engine eval top trip\n  p2engine eval top --evaluator gpt4_judge --metric clarity --k 5\n  \
                      p2engine eval top trip --evaluations --json"
    )]
    Top(EvalTop),
    /// The numbers of two evaluations side by side.
    #[command(after_help = "Example:\n  p2engine eval diff 3f2a91c0d5b8 77b01de2a9c4")]
    Diff {
        /// Id of one, or a unique beginning of it.
        left: String,
        /// Id of the other.
        right: String,
    },
    /// One evaluation with everything that is in it.
    #[command(after_help = "Example:\n  p2engine eval show 3f2a91c0d5b8")]
    Show {
        /// Its id, or a unique beginning of it.
        id: String,
    },
    /// Evaluations, oldest first.
    #[command(
        after_help = "Examples:\n  p2engine eval list --conversation trip\n  p2engine eval list --evaluator gpt4_judge --limit 5"
    )]
    List(EvalList),
    /// The evaluators that are defined.
    #[command(after_help = "Example:\n  p2engine eval evaluators")]
    Evaluators,
}

/// `eval run`.
#[derive(Debug, Args)]
pub(crate) struct EvalRun {
    /// Which stack.
    #[command(flatten)]
    pub stack: StackArgs,
    /// Index of the entry, as `conversation stack` prints it [default: the newest].
    pub index: Option<usize>,
    /// The evaluator.
    #[arg(long)]
    pub evaluator: String,
    /// Judge again what was judged before, on this occasion (any text). The same occasion twice judges once.
    #[arg(long, value_name = "WHY")]
    pub again: Option<String>,
    /// Wait so long for the result, seconds.
    #[arg(long, default_value_t = 180)]
    pub timeout: u64,
    /// Do not wait.
    #[arg(long)]
    pub no_wait: bool,
}

/// `eval backfill`.
#[derive(Debug, Args)]
pub(crate) struct EvalBackfill {
    /// The evaluator.
    #[arg(long)]
    pub evaluator: String,
    /// From this time on (UTC): 2026-05-01, or 2026-05-01T12:00:00Z [default: everything].
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Of this conversation only.
    #[arg(long)]
    pub conversation: Option<String>,
    /// Judge again what was judged before, on this occasion (any text). The same occasion twice judges once.
    #[arg(long, value_name = "WHY")]
    pub again: Option<String>,
    /// Only what was judged before and ended in an error; needs --again.
    #[arg(long, requires = "again")]
    pub failed: bool,
    /// Only say how many there are.
    #[arg(long)]
    pub dry_run: bool,
    /// Wait so long for all results, seconds.
    #[arg(long, default_value_t = 600)]
    pub timeout: u64,
    /// Do not wait.
    #[arg(long)]
    pub no_wait: bool,
}

/// Which evaluations.
#[derive(Debug, Args)]
pub(crate) struct EvalFilter {
    /// Of this evaluator.
    #[arg(long)]
    pub evaluator: Option<String>,
    /// Of this agent's work.
    #[arg(long)]
    pub agent: Option<String>,
}

/// `eval top`.
#[derive(Debug, Args)]
pub(crate) struct EvalTop {
    /// The conversation's name [default: all].
    pub name: Option<String>,
    /// Which.
    #[command(flatten)]
    pub filter: EvalFilter,
    /// The number that counts: score, spread, agreement, cost_usd, latency_ms, or a metric of the evaluator.
    #[arg(long, default_value = "score")]
    pub metric: String,
    /// At most so many.
    #[arg(short, long, default_value_t = 20)]
    pub k: usize,
    /// Single evaluations instead of branches.
    #[arg(long)]
    pub evaluations: bool,
}

/// `eval list`.
#[derive(Debug, Args)]
pub(crate) struct EvalList {
    /// Of this conversation.
    #[arg(long)]
    pub conversation: Option<String>,
    /// Which.
    #[command(flatten)]
    pub filter: EvalFilter,
    /// The newest so many; 0 for all.
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
}
