//! The commands and their arguments.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::Shell;
use p2_core::ids::Id;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Play delegation and branches on the offline scripted model, and verify the log afterwards.
    Demo,
    /// Talk to an agent. Reads lines from a pipe too.
    #[command(subcommand)]
    Chat(Chat),
    /// Look at conversations, branch them, answer and control them.
    #[command(subcommand)]
    Conversation(ConversationCommand),
    /// The agents that are defined.
    #[command(subcommand)]
    Agent(AgentCommand),
    /// What was produced and observed.
    #[command(subcommand)]
    Artifact(ArtifactCommand),
    /// The topics of the log.
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Fold the log anew.
    #[command(subcommand)]
    Replay(ReplayCommand),
    /// Records that could not be processed.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Effects.
    #[command(subcommand)]
    Effects(EffectsCommand),
    /// Validate definitions (agents, tools, personas, prices) and add them to the registry.
    #[command(after_help = "Example:\n  p2engine apply agents.yml prices.yml")]
    Apply {
        /// YAML files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// The causes and consequences of a record, as a tree.
    #[command(after_help = "Examples:\n  p2engine trace 0f3a9c1e\n  p2engine trace effects/7/0")]
    Trace {
        /// A record: its id (32 hex digits) or a unique beginning of it, or TOPIC/PARTITION/OFFSET.
        reference: String,
    },
    /// Run the engine and its HTTP API (loopback only) until Ctrl-C.
    #[command(after_help = "The API, all with 'Authorization: Bearer <token of <data-dir>/api.json>':\n  \
                            POST /v1/inbox[?wait=outcome]\n  GET  /v1/conversations[/ID[?seen_seq=N&\
                            timeout_ms=M[&rest=true]]]\n  GET  /v1/conversations/ID/outcomes/INPUT\n  GET  /v1/artifacts\n  \
                            GET  /v1/topics[/TOPIC/records]\n  GET, POST /v1/registry\n  GET  /v1/dead-letters, \
                            POST /v1/dead-letters/ID/replay\n  GET  /v1/effects/in-doubt, POST \
                            /v1/effects/ID/resolution\n  POST /v1/verify\nWithout a token:\n  GET  /metrics")]
    Up {
        /// Port on 127.0.0.1; 0 takes a free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// Settings, and overrides of one conversation.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// What work costs, measured.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// A completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
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
    /// Keep the data directory.
    #[arg(long)]
    pub keep: bool,
}

/// `chat`.
#[derive(Debug, Subcommand)]
pub(crate) enum Chat {
    /// Start a conversation, or go on with it where the name exists.
    #[command(
        after_help = "Examples:\n  p2engine chat with agent_alpha --name trip\n  echo 'hi' | p2engine chat with agent_alpha"
    )]
    With {
        /// The agent.
        agent: String,
        /// The conversation's name [default: a fresh one].
        #[arg(long)]
        name: Option<String>,
    },
    /// Go on with a conversation.
    Resume {
        /// The conversation's name.
        name: String,
    },
}

/// Which stack.
#[derive(Debug, Args)]
pub(crate) struct StackArgs {
    /// The conversation's name.
    pub name: String,
    /// Whose stack [default: the root agent's].
    #[arg(long)]
    pub agent: Option<String>,
    /// Id, name or unique beginning of a branch's id [default: the one checked out].
    #[arg(long)]
    pub branch: Option<String>,
}

/// Cutting a stack.
#[derive(Debug, Args)]
pub(crate) struct CutArgs {
    /// Which stack.
    #[command(flatten)]
    pub stack: StackArgs,
    /// Index of the last entry that is kept, as `conversation stack` prints it.
    pub index: Option<i64>,
    /// A name for the new branch.
    #[arg(long = "as", value_name = "BRANCH-NAME")]
    pub branch_name: Option<String>,
    /// Keep an open wait: its result goes to both branches.
    #[arg(long)]
    pub keep_wait: bool,
}

/// `conversation`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConversationCommand {
    /// All conversations.
    List,
    /// The entries of a stack.
    Stack {
        /// Which.
        #[command(flatten)]
        stack: StackArgs,
        /// The newest so many; 0 for all.
        #[arg(long, default_value_t = 0)]
        n: usize,
        /// Waiting entries too.
        #[arg(long)]
        all: bool,
    },
    /// The branch tree.
    Branches {
        /// The conversation's name.
        name: String,
        /// Whose [default: every agent's].
        #[arg(long)]
        agent: Option<String>,
    },
    /// A new branch, without checking it out.
    Fork {
        /// Where.
        #[command(flatten)]
        cut: CutArgs,
        /// Fork the callees' stacks too.
        #[arg(long)]
        tree: bool,
    },
    /// A new branch from an index, checked out.
    #[command(after_help = "Example:\n  p2engine conversation rewind demo 4 --as second-try")]
    Rewind {
        /// Where.
        #[command(flatten)]
        cut: CutArgs,
        /// Hide what follows on this branch instead of forking.
        #[arg(long)]
        destructive: bool,
    },
    /// Go on with another branch.
    Checkout {
        /// The conversation's name.
        name: String,
        /// Id, name or unique beginning of the id.
        branch: String,
        /// Whose [default: the root agent's].
        #[arg(long)]
        agent: Option<String>,
    },
    /// What two branches share and where they part.
    Diff {
        /// The conversation's name.
        name: String,
        /// One branch.
        left: String,
        /// The other.
        right: String,
        /// Whose [default: the root agent's].
        #[arg(long)]
        agent: Option<String>,
    },
    /// Print entries as they come, until Ctrl-C.
    Watch {
        /// The conversation's name.
        name: String,
    },
    /// Answer a request.
    Answer {
        /// The conversation's name.
        name: String,
        /// The request: its id, or a unique beginning of it [default: the only open one].
        #[arg(long)]
        request: Option<String>,
        /// The answer.
        #[command(flatten)]
        answer: AnswerArgs,
        /// Who answers.
        #[arg(long, default_value = "cli")]
        by: String,
    },
    /// Close every open wait and finish every open run.
    Cancel(ControlArgs),
    /// Ask nothing new until resumed.
    Pause(ControlArgs),
    /// Go on.
    Resume(ControlArgs),
}

/// One of four answers.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct AnswerArgs {
    /// Do it.
    #[arg(long)]
    pub approve: bool,
    /// Do not do it, because …
    #[arg(long, value_name = "REASON")]
    pub deny: Option<String>,
    /// Do it with these arguments, a JSON object.
    #[arg(long, value_name = "JSON")]
    pub edit: Option<String>,
    /// Free text.
    #[arg(long)]
    pub text: Option<String>,
}

/// Cancel, pause, resume.
#[derive(Debug, Args)]
pub(crate) struct ControlArgs {
    /// The conversation's name.
    pub name: String,
    /// Why, for people.
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// `agent`.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// All agents.
    List,
    /// One agent's definition.
    Show {
        /// Its id.
        agent: String,
    },
}

/// `artifact`.
#[derive(Debug, Subcommand)]
pub(crate) enum ArtifactCommand {
    /// Artifacts, oldest first.
    List {
        /// Of this conversation.
        #[arg(long)]
        conversation: Option<String>,
        /// entry_appended, model_call, tool_run, input_outcome or event.
        #[arg(long)]
        kind: Option<String>,
        /// The newest so many; 0 for all.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// One artifact.
    Show {
        /// Its id.
        id: Id,
    },
}

/// `topics`.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// All topics with their number of records.
    List,
    /// The partitions of a topic.
    Describe {
        /// Its name, short or full.
        topic: String,
    },
    /// The newest records of a topic.
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

/// `replay`.
#[derive(Debug, Subcommand)]
pub(crate) enum ReplayCommand {
    /// Fold all state transitions anew and compare with the live view.
    Stacks {
        /// Compare only; the view is not changed.
        #[arg(long, required = true)]
        verify: bool,
    },
}

/// `dead-letters`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// All letters.
    List,
    /// One letter.
    Show {
        /// Its id.
        id: Id,
    },
    /// Hand it to its consumer group again.
    Replay {
        /// Its id.
        id: Id,
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
    InDoubt(InDoubtCommand),
}

/// `effects in-doubt`.
#[derive(Debug, Subcommand)]
pub(crate) enum InDoubtCommand {
    /// All of them.
    List,
    /// Say what became of one.
    Resolve {
        /// The effect's id.
        effect: Id,
        /// It was done, with this result (a JSON object).
        #[arg(long, value_name = "JSON", required_unless_present = "not_done", conflicts_with = "not_done")]
        done: Option<String>,
        /// It was not done, because …
        #[arg(long, value_name = "REASON")]
        not_done: Option<String>,
    },
}

/// Which agent's overrides, and their lock.
#[derive(Debug, Args)]
pub(crate) struct OverrideArgs {
    /// The conversation's name.
    pub name: String,
    /// Whose [default: the root agent's].
    #[arg(long)]
    pub agent: Option<String>,
    /// Refuse later overrides that do not bring --unlock.
    #[arg(long)]
    pub lock: bool,
    /// Lift the lock first.
    #[arg(long)]
    pub unlock: bool,
}

/// `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Settings in effect and where each comes from; secrets redacted.
    Show,
    /// Give an agent another persona in one conversation.
    SetBehavior {
        /// Whose.
        #[command(flatten)]
        target: OverrideArgs,
        /// The persona, or `none`.
        persona: String,
    },
    /// Give an agent other tools in one conversation.
    SetTools {
        /// Whose.
        #[command(flatten)]
        target: OverrideArgs,
        /// Comma-separated ids, or `none`.
        tools: String,
    },
    /// Override model or sampling in one conversation.
    SetModel {
        /// Whose.
        #[command(flatten)]
        target: OverrideArgs,
        /// provider/model.
        #[arg(long)]
        model: Option<String>,
        /// 0 to 2.
        #[arg(long)]
        temperature: Option<f64>,
        /// 0 to 1.
        #[arg(long)]
        top_p: Option<f64>,
        /// Longest reply in tokens.
        #[arg(long)]
        max_tokens: Option<i64>,
    },
    /// Go back to the agent's definition.
    ClearOverrides {
        /// Whose.
        #[command(flatten)]
        target: OverrideArgs,
    },
    /// The overrides of one conversation.
    ShowOverrides {
        /// The conversation's name.
        name: String,
    },
    /// The tools that are defined.
    ShowTools,
}
