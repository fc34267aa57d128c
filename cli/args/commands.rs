//! The commands and their arguments.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::Shell;

use super::EvalCommand;
use super::operate::{
    BenchCommand, DeadLettersCommand, EffectsCommand, ReplayCommand, RunArgs, StoreCommand, TopicsCommand,
};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Play delegation, branches and the ledger on the offline scripted model, and verify the log afterwards.
    #[command(after_help = "Examples:\n  p2engine demo\n  p2engine demo --json")]
    Demo,
    /// Talk to an agent. Reads lines from a pipe too.
    #[command(subcommand)]
    #[command(
        after_help = "Examples:\n  p2engine chat with agent_alpha --name trip\n  p2engine chat resume trip"
    )]
    Chat(Chat),
    /// Look at conversations, branch them, answer and control them.
    #[command(subcommand)]
    #[command(
        after_help = "Examples:\n  p2engine conversation list\n  p2engine conversation stack trip\n  p2engine conversation rewind trip 4"
    )]
    Conversation(ConversationCommand),
    /// The agents that are defined.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  p2engine agent list")]
    Agent(AgentCommand),
    /// What was produced and observed.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  p2engine artifact list --conversation trip --kind model_call")]
    Artifact(ArtifactCommand),
    /// What evaluators said of agents' work, and asking them.
    #[command(subcommand)]
    #[command(
        after_help = "Examples:\n  p2engine eval run trip --evaluator gpt4_judge\n  p2engine eval top trip"
    )]
    Eval(EvalCommand),
    /// Accounts, transfers, reservations, rewards: who has what, and why.
    #[command(
        after_help = "Examples:\n  p2engine ledger init\n  p2engine ledger transfer agent_alpha agent_beta 25\n  p2engine ledger audit"
    )]
    Ledger(super::LedgerArgs),
    /// The topics of the log.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  p2engine topics tail artifacts --follow")]
    Topics(TopicsCommand),
    /// Fold the log anew.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  p2engine replay stacks --verify")]
    Replay(ReplayCommand),
    /// Records that could not be processed.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  p2engine dead-letters list")]
    DeadLetters(DeadLettersCommand),
    /// Effects.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  p2engine effects in-doubt list")]
    Effects(EffectsCommand),
    /// Validate definitions (agents, tools, personas, prices, evaluators, rubrics) and add them to the registry.
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
    /// Run processors on a log on Kafka until Ctrl-C: any of agent-step, tool-exec, evaluator, settlement; all where
    /// none is named.
    #[command(
        after_help = "Any number of processes share the work of a processor. Each has a slot, a name of its own: \
                      by default the first that no living process of the data directory has.\n\nExamples:\n  p2engine \
                      run\n  p2engine run agent-step --metrics-port 7071\n  p2engine run tool-exec --slot tools-east-1 --calls 64"
    )]
    Run(RunArgs),
    /// Look at everything that the settings name (data directory, brokers, topics, groups, store, model) and say how
    /// to mend what is wrong.
    #[command(after_help = "Example:\n  p2engine doctor")]
    Doctor,
    /// The tables of the stack store on CQL.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  p2engine store apply")]
    Store(StoreCommand),
    /// Run the engine and its HTTP API (loopback only) until Ctrl-C.
    #[command(
        after_help = "Examples:\n  p2engine up\n  p2engine up --port 7070 --json\n\nThe API, all with 'Authorization: Bearer <token of <data-dir>/api.json>':\n  \
                            POST /v1/inbox[?wait=outcome]\n  GET  /v1/conversations[/ID[?seen_seq=N&\
                            timeout_ms=M[&rest=true]]]\n  GET  /v1/conversations/ID/outcomes/INPUT\n  GET  /v1/artifacts\n  POST /v1/evaluations/requests\n  \
                            GET  /v1/topics[/TOPIC/records]\n  GET, POST /v1/registry\n  GET  /v1/dead-letters, \
                            POST /v1/dead-letters/ID/replay\n  GET  /v1/effects/in-doubt, POST \
                            /v1/effects/ID/resolution\n  POST /v1/verify\n  POST /v1/ledger/requests, POST /v1/ledger/verify\n  GET  /v1/ledger/books[/BOOK]\nWithout a token:\n  GET  /metrics"
    )]
    Up {
        /// Port on 127.0.0.1; 0 takes a free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// Settings, and overrides of one conversation.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  p2engine config show")]
    Config(ConfigCommand),
    /// What work costs, measured.
    #[command(subcommand)]
    #[command(
        after_help = "Example:\n  p2engine bench conversation --llm-base-url http://127.0.0.1:8080/v1 --conversations 500"
    )]
    Bench(BenchCommand),
    /// Kill, suspend and cut off a whole system on this machine for minutes, and check every promise afterwards.
    ///
    /// Starts a broker and a CQL server (Java 17 and Maven) and several processes of each processor. A broken promise is
    /// exit code 1, and the history is kept. Linux only.
    #[command(
        after_help = "Examples:\n  p2engine chaos --minutes 4\n  p2engine chaos --seed 7 --minutes 60 --dir long --json\n  p2engine chaos --again --dir long"
    )]
    Chaos(super::ChaosArgs),
    /// A completion script for a shell.
    #[command(
        after_help = "Example:\n  p2engine completions bash > ~/.local/share/bash-completion/completions/p2engine"
    )]
    Completions {
        /// The shell.
        shell: Shell,
    },
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
    #[command(after_help = "Example:\n  p2engine chat resume trip")]
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
    #[command(after_help = "Example:\n  p2engine conversation list --json")]
    List,
    /// The entries of a stack.
    #[command(
        after_help = "Examples:\n  p2engine conversation stack trip --n 10\n  p2engine conversation stack trip --agent agent_helper --branch 3f2a"
    )]
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
    #[command(after_help = "Example:\n  p2engine conversation branches trip")]
    Branches {
        /// The conversation's name.
        name: String,
        /// Whose [default: every agent's].
        #[arg(long)]
        agent: Option<String>,
    },
    /// A new branch, without checking it out.
    #[command(after_help = "Example:\n  p2engine conversation fork trip 7 --as other-way")]
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
    #[command(after_help = "Example:\n  p2engine conversation checkout trip main")]
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
    #[command(after_help = "Example:\n  p2engine conversation diff trip main other-way")]
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
    #[command(after_help = "Example:\n  p2engine conversation watch trip")]
    Watch {
        /// The conversation's name.
        name: String,
    },
    /// Answer a request.
    #[command(
        after_help = "Examples:\n  p2engine conversation answer trip --approve\n  p2engine conversation answer trip --deny 'too dear'\n  p2engine conversation answer trip --request 3f2a91 --edit '{\"amount\": 5}'"
    )]
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
    #[command(after_help = "Example:\n  p2engine conversation cancel trip --reason 'no longer needed'")]
    Cancel(ControlArgs),
    /// Ask nothing new until resumed.
    #[command(after_help = "Example:\n  p2engine conversation pause trip")]
    Pause(ControlArgs),
    /// Go on.
    #[command(after_help = "Example:\n  p2engine conversation resume trip")]
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
    #[command(after_help = "Example:\n  p2engine agent list")]
    List,
    /// One agent's definition.
    #[command(after_help = "Example:\n  p2engine agent show agent_alpha")]
    Show {
        /// Its id.
        agent: String,
    },
}

/// `artifact`.
#[derive(Debug, Subcommand)]
pub(crate) enum ArtifactCommand {
    /// Artifacts, oldest first.
    #[command(
        after_help = "Example:\n  p2engine artifact list --conversation trip --kind model_call --limit 5"
    )]
    List {
        /// Of this conversation.
        #[arg(long)]
        conversation: Option<String>,
        /// entry_appended, model_call, tool_run, input_outcome, payment or event.
        #[arg(long)]
        kind: Option<String>,
        /// The newest so many; 0 for all.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// One artifact.
    #[command(after_help = "Example:\n  p2engine artifact show 3f2a91c0d5b8")]
    Show {
        /// Its id, or a unique beginning of it.
        id: String,
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
    #[command(after_help = "Example:\n  p2engine config show --json")]
    Show,
    /// Give an agent another persona in one conversation.
    #[command(after_help = "Example:\n  p2engine config set-behavior trip weather_expert")]
    SetBehavior {
        /// Whose.
        #[command(flatten)]
        target: OverrideArgs,
        /// The persona, or `none`.
        persona: String,
    },
    /// Give an agent other tools in one conversation.
    #[command(after_help = "Example:\n  p2engine config set-tools trip get_weather,delegate --lock")]
    SetTools {
        /// Whose.
        #[command(flatten)]
        target: OverrideArgs,
        /// Comma-separated ids, or `none`.
        tools: String,
    },
    /// Let another account pay for an agent's work in one conversation. Its definition must have a budget.
    #[command(
        after_help = "Examples:\n  p2engine config set-budget trip budget:team-a\n  p2engine config set-budget trip budget:tenant-7 --agent agent_beta --lock"
    )]
    SetBudget {
        /// Whose.
        #[command(flatten)]
        target: OverrideArgs,
        /// The agent's own wallet, or an account whose name begins with `budget:`.
        account: String,
    },
    /// Move the money of one conversation to another book: what all its agents pay, spend on their work and earn.
    #[command(
        after_help = "Examples:\n  p2engine ledger copy trial && p2engine config set-book trip trial\n  p2engine config set-book trip none"
    )]
    SetBook {
        /// The conversation's name.
        name: String,
        /// The book, or `none`: the books that the definitions name.
        book: String,
    },
    /// Override model or sampling in one conversation.
    #[command(
        after_help = "Example:\n  p2engine config set-model trip --model openai/gpt-4o --temperature 0.2"
    )]
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
    #[command(after_help = "Example:\n  p2engine config clear-overrides trip")]
    ClearOverrides {
        /// Whose.
        #[command(flatten)]
        target: OverrideArgs,
    },
    /// The overrides of one conversation.
    #[command(after_help = "Example:\n  p2engine config show-overrides trip")]
    ShowOverrides {
        /// The conversation's name.
        name: String,
    },
    /// The tools that are defined.
    #[command(after_help = "Example:\n  p2engine config show-tools")]
    ShowTools,
}
