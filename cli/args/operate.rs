//! What operators do: processors, topics, the store, replays, dead letters, effects in doubt, measuring.

use clap::{Args, Subcommand};

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Which.
    #[arg(value_parser = ["agent-step", "tool-exec", "evaluator", "settlement"])]
    pub processors: Vec<String>,
    /// This process among those that run the same processor; one that comes back with the same slot ends at once
    /// what the earlier one left open. Also kafka.slot, P2_KAFKA_SLOT.
    #[arg(long)]
    pub slot: Option<String>,
    /// Port on 127.0.0.1 for /metrics; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    pub metrics_port: u16,
    /// Most calls (of models, of tools) in flight in each processor.
    #[arg(long)]
    pub calls: Option<usize>,
    /// Where a group begins that has lost its progress: outputs (where its committed outputs say that it was),
    /// earliest, latest, or a time (2026-05-01T12:00:00Z). A group that has progress goes on where it was.
    #[arg(long, value_name = "WHERE")]
    pub from: Option<String>,
}

/// `store`.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Make the keyspace and its tables, or bring them up to date.
    #[command(after_help = "Example:\n  p2engine store apply")]
    Apply,
    /// Whether the tables fit this program.
    #[command(after_help = "Example:\n  p2engine store status")]
    Status,
}

/// `bench`.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Conversations of two model calls and a tool call against an OpenAI-compatible server.
    #[command(
        after_help = "Starts an engine of its own on an empty data directory and drives it over HTTP; needs \
                            Linux. Prints one line of JSON per run.\n\nExample:\n  p2engine bench conversation \
                            --llm-base-url http://127.0.0.1:8080/v1 --conversations 2000 --concurrency 100"
    )]
    Conversation(BenchConversation),
    /// How long messages wait when one of two agent-step processes is killed or stopped.
    #[command(
        after_help = "On the configured Kafka and CQL store, in topics and a keyspace of this run's own, which stay. \
                            Prints one line of JSON per fault.\n\nExample:\n  p2engine bench recovery --rounds 5"
    )]
    Recovery(BenchRecovery),
    /// Payments on the embedded ledger, against the bare rate of the log that carries it.
    #[command(
        after_help = "On fresh data directories of its own. Prints one line of JSON.\n\nExample:\n  p2engine bench \
                            ledger --transfers 20000"
    )]
    Ledger(BenchLedger),
}

/// `bench ledger`.
#[derive(Debug, Args)]
pub(crate) struct BenchLedger {
    /// Payments in batches, and by 100 clients.
    #[arg(long, default_value_t = 10_000)]
    pub transfers: usize,
    /// Payments by one client, one after the other.
    #[arg(long, default_value_t = 500)]
    pub single: usize,
    /// Payments with a pause before each: the latency of an idle ledger.
    #[arg(long, default_value_t = 200)]
    pub idle: usize,
}

/// `bench recovery`.
#[derive(Debug, Args)]
pub(crate) struct BenchRecovery {
    /// How often each fault is caused.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Partitions of the topics.
    #[arg(long, default_value_t = 8)]
    pub partitions: i32,
}

/// `bench conversation`.
#[derive(Debug, Args)]
pub(crate) struct BenchConversation {
    /// Where the model server's API begins. It must answer a user message with a call of get_weather, and the
    /// tool's result with text.
    #[arg(long)]
    pub llm_base_url: String,
    /// The model's name there.
    #[arg(long, default_value = "gpt-4o-mini")]
    pub model: String,
    /// How many.
    #[arg(long, default_value_t = 1000)]
    pub conversations: usize,
    /// How many at a time.
    #[arg(long, default_value_t = 100)]
    pub concurrency: usize,
    /// Then so many one at a time: the latency of an idle engine.
    #[arg(long, default_value_t = 50)]
    pub idle: usize,
    /// What the server's latency is set to, milliseconds; it is only printed.
    #[arg(long, default_value_t = 0)]
    pub llm_latency_ms: u64,
    /// With `durability: interval` instead of `commit`.
    #[arg(long)]
    pub interval: bool,
    /// On the configured Kafka and CQL store (topics with a prefix and a keyspace of this run's own, which stay).
    #[arg(long)]
    pub cluster: bool,
    /// Partitions of these topics.
    #[arg(long, default_value_t = 16)]
    pub partitions: i32,
    /// Conversations that were held before, in log and store.
    #[arg(long, default_value_t = 0)]
    pub stored: usize,
    /// Count this process too (broker, CQL server); as often as needed.
    #[arg(long, value_name = "PID")]
    pub count_pid: Vec<u32>,
    /// Keep the data directory.
    #[arg(long)]
    pub keep: bool,
}

/// `topics`.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// All topics with their number of offsets; on Kafka each end of a transaction takes one, too.
    #[command(after_help = "Example:\n  p2engine topics list")]
    List,
    /// Create the topics on Kafka and set what differs. Refuses what would move keys or lose records.
    #[command(
        after_help = "Examples:\n  p2engine topics apply\n  p2engine topics apply --partitions 64 --replication 3"
    )]
    Apply(TopicsApply),
    /// What on Kafka differs from what it should be; ends with 1 where something does.
    #[command(after_help = "Example:\n  p2engine topics diff")]
    Diff(TopicsApply),
    /// Copy a stopped system into the empty topics of the configured log on Kafka: from a data directory, or from
    /// topics with another prefix, e.g. to change the number of partitions. Progress, dead letters and causes go along.
    #[command(
        after_help = "Examples:\n  p2engine topics copy --from-data-dir ~/.local/share/p2engine\n  P2_KAFKA_PREFIX=wide. \
                      p2engine topics copy --from-prefix ''"
    )]
    Copy(TopicsCopy),
    /// The partitions of a topic.
    #[command(after_help = "Example:\n  p2engine topics describe inbox")]
    Describe {
        /// Its name, short or full.
        topic: String,
    },
    /// The newest records of a topic.
    #[command(
        after_help = "Examples:\n  p2engine topics tail effects --n 5\n  p2engine topics tail artifacts --follow --json"
    )]
    Tail {
        /// Its name, short or full.
        topic: String,
        /// One partition only.
        #[arg(long)]
        partition: Option<i32>,
        /// So many of each partition.
        #[arg(long, default_value_t = 10)]
        n: usize,
        /// Go on as records come, until Ctrl-C.
        #[arg(short, long)]
        follow: bool,
    },
}

/// What the cluster decides for topics on Kafka.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TopicsApply {
    /// Partitions of every topic but the registry; never changed later [default: 16].
    #[arg(long)]
    pub partitions: Option<i32>,
    /// Copies of each partition [default: 3, or as many as there are brokers].
    #[arg(long)]
    pub replication: Option<i32>,
    /// Copies that must have a record before it counts as written [default: one less than all].
    #[arg(long)]
    pub min_insync: Option<i32>,
}

/// Where a system is copied from.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TopicsCopy {
    /// A data directory that no process has open.
    #[arg(long, value_name = "DIR")]
    pub from_data_dir: Option<std::path::PathBuf>,
    /// Topics with this prefix at the same brokers.
    #[arg(long, value_name = "PREFIX")]
    pub from_prefix: Option<String>,
}

/// `replay`.
#[derive(Debug, Subcommand)]
pub(crate) enum ReplayCommand {
    /// Fold all state transitions anew.
    #[command(
        after_help = "Without --verify and --rebuild, the rows of what happened since --from are written to the view \
                      again, e.g. where a store lost its newest ones.\n\nExamples:\n  p2engine replay stacks --verify\n  \
                      p2engine replay stacks --rebuild\n  p2engine replay stacks --from 2026-05-01T12:00:00Z"
    )]
    Stacks(ReplayStacks),
}

/// `replay stacks`.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ReplayStacks {
    /// Compare with the live view; nothing is changed.
    #[arg(long)]
    pub verify: bool,
    /// Build the view anew beside the live one, and go over to it when it is complete.
    #[arg(long)]
    pub rebuild: bool,
    /// Write the rows since then again: earliest, a time (2026-05-01T12:00:00Z), or an offset of each partition.
    #[arg(long, value_name = "WHERE")]
    pub from: Option<String>,
}

/// `dead-letters`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// All letters.
    #[command(after_help = "Example:\n  p2engine dead-letters list")]
    List,
    /// One letter.
    #[command(after_help = "Example:\n  p2engine dead-letters show 3f2a91c0d5b8")]
    Show {
        /// Its id, or a unique beginning of it.
        id: String,
    },
    /// Hand it to its consumer group again.
    #[command(after_help = "Example:\n  p2engine dead-letters replay 3f2a91c0d5b8")]
    Replay {
        /// Its id, or a unique beginning of it.
        id: String,
        /// Even where later records superseded it.
        #[arg(long)]
        force: bool,
    },
}

/// `effects`.
#[derive(Debug, Subcommand)]
pub(crate) enum EffectsCommand {
    /// Effects of which nobody knows whether they were done.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  p2engine effects in-doubt list")]
    InDoubt(InDoubtCommand),
}

/// `effects in-doubt`.
#[derive(Debug, Subcommand)]
pub(crate) enum InDoubtCommand {
    /// All of them.
    #[command(after_help = "Example:\n  p2engine effects in-doubt list")]
    List,
    /// Say what became of one.
    #[command(
        after_help = "Examples:\n  p2engine effects in-doubt resolve 3f2a91c0d5b8 --done '{\"paid\": true}'\n  p2engine effects in-doubt resolve 3f2a91c0d5b8 --not-done 'the bank never saw it'"
    )]
    Resolve {
        /// The effect's id, or a unique beginning of it.
        effect: String,
        /// It was done, with this result (a JSON object).
        #[arg(long, value_name = "JSON", required_unless_present = "not_done", conflicts_with = "not_done")]
        done: Option<String>,
        /// It was not done, because …
        #[arg(long, value_name = "REASON")]
        not_done: Option<String>,
    },
}
