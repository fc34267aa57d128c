//! `ledger`.

use clap::{Args, Subcommand, ValueEnum};

/// What can be asked of a book and is written down, as the audit names it.
const OPERATIONS: [&str; 14] = [
    "open_book",
    "open_account",
    "set_limits",
    "freeze",
    "set_policy",
    "mint",
    "transfer",
    "reserve",
    "post",
    "void",
    "expire",
    "reward",
    "approve",
    "deny",
];

/// Which book.
#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
    /// The book: books know nothing of each other.
    #[arg(long, global = true, default_value = p2_core::ledger::MAIN_BOOK)]
    pub book: String,
    /// What to do.
    #[command(subcommand)]
    pub command: LedgerCommand,
}

/// Who asks, why, and under which id.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// Why, for people.
    #[arg(long, short = 'r', default_value = "")]
    pub reason: String,
    /// Who asks.
    #[arg(long, default_value = "cli")]
    pub by: String,
    /// Names the request for ever: asked again with the same id, it is answered as the first time and not done again.
    /// 32 hex digits, or any text [default: a fresh one].
    #[arg(long)]
    pub id: Option<String>,
}

/// `ledger …`.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Make a Canton participant ready: package, party, user, rights. What is there stays as it is.
    #[command(
        after_help = "Example:\n  p2engine ledger bootstrap --dar daml/ledger/.daml/dist/p2engine-ledger-1.0.0.dar"
    )]
    Bootstrap {
        /// The package as built from daml/ [default: 'dar' of the settings, else none is uploaded].
        #[arg(long, value_name = "FILE")]
        dar: Option<std::path::PathBuf>,
    },
    /// Open the book, its mint, treasury and fees, and a wallet for every agent. What is there stays as it is.
    #[command(
        after_help = "Examples:\n  p2engine ledger init\n  p2engine ledger init --balance 250 --agent agent_alpha --agent agent_beta"
    )]
    Init {
        /// What every new wallet begins with.
        #[arg(long, default_value = "100")]
        balance: String,
        /// What the treasury begins with.
        #[arg(long, default_value = "10000")]
        treasury: String,
        /// The unit of account: 2 to 12 of A-Z and 0-9.
        #[arg(long, default_value = "TOKEN")]
        unit: String,
        /// Its decimals.
        #[arg(long, default_value_t = 2)]
        scale: i32,
        /// A wallet for this agent; several may be given [default: all agents that are defined].
        #[arg(long = "agent", value_name = "AGENT")]
        agents: Vec<String>,
    },
    /// Open another book with the same accounts, limits, money and policy: an experiment pays and earns there, and this
    /// book does not see it.
    #[command(
        after_help = "Examples:\n  p2engine ledger copy trial-1\n  p2engine ledger --book trial-1 overview"
    )]
    Copy {
        /// The name of the copy, which is not there yet.
        name: String,
    },
    /// What an account has.
    #[command(after_help = "Example:\n  p2engine ledger balance agent_alpha")]
    Balance {
        /// The account.
        account: String,
    },
    /// Move money from one account to another.
    #[command(
        after_help = "Examples:\n  p2engine ledger transfer agent_alpha agent_beta 25 --reason 'helping with analysis'\n  p2engine ledger transfer treasury agent_beta 10.50 --id invoice-17"
    )]
    Transfer {
        /// Who pays.
        from: String,
        /// Who gets it.
        to: String,
        /// How much.
        #[arg(allow_hyphen_values = true)]
        amount: String,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Make money.
    #[command(after_help = "Example:\n  p2engine ledger mint treasury 5000 --reason 'second quarter'")]
    Mint {
        /// Who gets it.
        to: String,
        /// How much.
        #[arg(allow_hyphen_values = true)]
        amount: String,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Open an account.
    #[command(
        after_help = "Examples:\n  p2engine ledger open agent_gamma --kind agent\n  p2engine ledger open budget:team-a --kind escrow"
    )]
    Open {
        /// Its name: an agent's wallet has the agent's id.
        account: String,
        /// What it is for.
        #[arg(long, value_enum, default_value_t = Kind::Agent)]
        kind: Kind,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Set money aside for a payment that is to follow.
    #[command(
        after_help = "Example:\n  p2engine ledger reserve agent_alpha fees 10 --expires-in 3600\nIt prints the reservation's id, for 'ledger post' and 'ledger void'."
    )]
    Reserve {
        /// Whose money.
        from: String,
        /// Who is to get it.
        to: String,
        /// How much.
        #[arg(allow_hyphen_values = true)]
        amount: String,
        /// Given back by itself after so many seconds [default: never].
        #[arg(long, value_name = "SECONDS")]
        expires_in: Option<u32>,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Pay from a reservation, once; what is not needed becomes available again.
    #[command(after_help = "Example:\n  p2engine ledger post 3f2a91c0d5b8 --amount 7.25")]
    Post {
        /// The reservation: its id, or a unique beginning of it.
        reservation: String,
        /// How much of it [default: all].
        #[arg(long, allow_hyphen_values = true)]
        amount: Option<String>,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Give a reservation back, or withdraw a request that waits for a person.
    #[command(after_help = "Example:\n  p2engine ledger void 3f2a91c0d5b8")]
    Void {
        /// The reservation, or the request that waits: its id, or a unique beginning of it.
        reservation: String,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Freeze an account: it neither pays nor is paid.
    #[command(
        after_help = "Examples:\n  p2engine ledger freeze agent_alpha --reason 'under review'\n  p2engine ledger freeze agent_alpha --thaw"
    )]
    Freeze {
        /// The account.
        account: String,
        /// Thaw it.
        #[arg(long)]
        thaw: bool,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Change what an account may do. What is not given is unlimited; the credit is 0.
    #[command(after_help = "Example:\n  p2engine ledger limits agent_alpha --transfer-max 50 --day-max 200")]
    Limits {
        /// The account.
        account: String,
        /// How far below zero it may go.
        #[arg(long, default_value = "0")]
        credit: String,
        /// Most in one transfer or reservation.
        #[arg(long)]
        transfer_max: Option<String>,
        /// Most in one day (UTC).
        #[arg(long)]
        day_max: Option<String>,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// What is paid for scores, and what waits for a person: shows it, or changes what is given.
    #[command(
        after_help = "Examples:\n  p2engine ledger policy\n  p2engine ledger policy --approval-above 500\n  p2engine ledger policy --tier 0.9=40 --tier 0.5=10"
    )]
    Policy {
        /// SCORE=AMOUNT: from this score on, so much; the highest first. Replaces all tiers.
        #[arg(long = "tier", value_name = "SCORE=AMOUNT")]
        tiers: Vec<String>,
        /// What is above it waits for a person; `none`: nothing does.
        #[arg(long, value_name = "AMOUNT")]
        approval_above: Option<String>,
        /// The account that rewards are paid from.
        #[arg(long)]
        treasury: Option<String>,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Agree to a request that waits; `ledger overview` lists them.
    #[command(after_help = "Example:\n  p2engine ledger approve 3f2a91c0d5b8")]
    Approve {
        /// The request: its id, or a unique beginning of it.
        request: String,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Refuse a request that waits.
    #[command(after_help = "Example:\n  p2engine ledger deny 3f2a91c0d5b8 --reason 'too dear'")]
    Deny {
        /// The request: its id, or a unique beginning of it.
        request: String,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Ask once more for the reward of an evaluation that was refused, once the reason has passed: the treasury has money
    /// again, the book or the wallet is there. It is paid once, whoever asks and how often.
    #[command(after_help = "Example:\n  p2engine ledger reward 3f2a91c0d5b8")]
    Reward {
        /// The evaluation: its id, or a unique beginning of it.
        evaluation: String,
        /// Why, for people.
        #[arg(long, short = 'r', default_value = "")]
        reason: String,
        /// Who asks.
        #[arg(long, default_value = "cli")]
        by: String,
    },
    /// The movements of an account, newest first.
    #[command(after_help = "Example:\n  p2engine ledger history agent_alpha --limit 5")]
    History {
        /// The account.
        account: String,
        /// The newest so many; 0 for all.
        #[arg(long, short = 'l', default_value_t = 20)]
        limit: usize,
    },
    /// What was asked, what became of it, and what caused it, newest last.
    #[command(
        after_help = "Examples:\n  p2engine ledger audit --limit 10\n  p2engine ledger audit --type reward --since 2026-05-01"
    )]
    Audit {
        /// At or after this time (UTC): 2026-05-01, or 2026-05-01T12:00:00Z.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Only these operations.
        #[arg(long = "type", value_name = "OPERATION", value_parser = OPERATIONS)]
        operation: Option<String>,
        /// That moved money of this account.
        #[arg(long)]
        account: Option<String>,
        /// The newest so many; 0 for all.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// All accounts, open reservations, and what waits for a person.
    #[command(after_help = "Example:\n  p2engine ledger overview --json")]
    Overview,
    /// The book in numbers.
    #[command(after_help = "Example:\n  p2engine ledger metrics")]
    Metrics,
    /// Fold all transactions of all books from the first one, check every rule, and compare with the live books.
    #[command(after_help = "Example:\n  p2engine ledger verify")]
    Verify,
    /// All movements, for other programs.
    #[command(
        after_help = "Examples:\n  p2engine ledger export > movements.csv\n  p2engine ledger export --format beancount > book.beancount && bean-check book.beancount"
    )]
    Export {
        /// In this format.
        #[arg(long, value_enum, default_value_t = Format::Csv)]
        format: Format,
    },
}

/// What an account is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// An agent's wallet.
    Agent,
    /// What rewards are paid from.
    Treasury,
    /// Where money comes from.
    Mint,
    /// What work costs.
    Fees,
    /// Held for others.
    Escrow,
}

/// A format of `ledger export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Comma-separated values with a header (RFC 4180).
    Csv,
    /// Plain-text accounting: Beancount.
    Beancount,
}

#[cfg(test)]
mod tests {
    use p2_core::record::PaymentBody;

    use super::OPERATIONS;

    #[test]
    fn every_operation_that_is_written_down_can_be_asked_for() {
        let unknown = serde_json::from_str::<PaymentBody>(r#"{"Nothing": {}}"#).unwrap_err().to_string();
        let known = unknown.split('`').skip(3).step_by(2).map(|name| {
            let words = name
                .chars()
                .map(|c| format!("{}{}", if c.is_uppercase() { "_" } else { "" }, c.to_lowercase()));
            words.collect::<String>().trim_start_matches('_').to_owned()
        });
        let recorded: Vec<String> = known.filter(|name| name != "query").collect();
        assert_eq!(recorded, OPERATIONS);
    }
}
