//! The records of `payment-requests`.

use serde::{Deserialize, Serialize};

use crate::ids::{AccountId, AgentId, BookId, BranchId, ConversationId, Id};

/// One request to a book of the ledger. Amounts are minor units: with scale 2, 1050 is 10.50.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaymentRequest {
    /// The idempotency key, for ever: the same id with the same body has the same answer, with another body it is
    /// refused.
    pub id: Id,
    /// The book.
    pub book: BookId,
    /// Who asks, for people.
    pub by: String,
    /// Why.
    pub cause: PaymentCause,
    /// The conversation that awaits the result; none: nobody is told, the ledger tells everybody.
    pub reply_to: Option<PaymentReplyTo>,
    /// Reached later, it is answered `expired` and not done. Milliseconds since the epoch.
    pub not_after_ms: Option<i64>,
    /// What is asked.
    pub body: PaymentBody,
}

/// Why money is to move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaymentCause {
    /// What kind of cause.
    pub kind: CauseKind,
    /// The thing itself, as an artifact: the evaluation, the tool call; or the rollout. Not for people.
    pub reference: Option<Id>,
    /// The conversation in which it happened.
    pub conversation: Option<ConversationId>,
    /// The agent that did it.
    pub agent: Option<AgentId>,
    /// Its branch.
    pub branch: Option<BranchId>,
    /// In words.
    pub reason: String,
}

/// What kind of cause. It decides what may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CauseKind {
    /// A person, through the command line or the API.
    Human,
    /// An agent's tool call.
    ToolCall,
    /// An evaluation.
    Evaluation,
    /// A rollout.
    Rollout,
    /// The engine, for work that is about to begin or has ended: a model call, a tool call.
    Budget,
    /// Time has passed.
    Timer,
}

impl CauseKind {
    /// Snake-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            CauseKind::Human => "human",
            CauseKind::ToolCall => "tool_call",
            CauseKind::Evaluation => "evaluation",
            CauseKind::Rollout => "rollout",
            CauseKind::Budget => "budget",
            CauseKind::Timer => "timer",
        }
    }
}

/// Who awaits the result of a payment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaymentReplyTo {
    /// The conversation.
    pub conversation: ConversationId,
    /// The wait that the result closes.
    pub wait: Id,
    /// The tool call's `call_id`.
    pub call_id: String,
}

/// What is asked of a book.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PaymentBody {
    /// Open the book.
    OpenBook(OpenBook),
    /// Open an account.
    OpenAccount(OpenAccount),
    /// Change what an account may do.
    SetLimits(SetLimits),
    /// Freeze an account, or thaw it.
    Freeze(Freeze),
    /// Change what is paid for scores, and what waits for a person.
    SetPolicy(SetPolicy),
    /// Make money.
    Mint(Mint),
    /// Move money: all legs or none.
    Transfer(Transfer),
    /// Set money aside for a payment that is to follow.
    Reserve(Reserve),
    /// Pay from a reservation; what is not needed becomes available again.
    Post(Post),
    /// Give a reservation back, or withdraw a request that waits for a person.
    Void(Void),
    /// End a reservation, or a request that waits for a person, whose time has come.
    Expire(Expire),
    /// Pay for a judged piece of work.
    Reward(Reward),
    /// A person agrees to a request that waits.
    Approve(Approve),
    /// A person refuses a request that waits.
    Deny(Deny),
    /// Ask for a balance and the newest movements. It changes nothing and is not recorded.
    Query(Query),
}

impl PaymentBody {
    /// Snake-case name: `ce_type` is `p2.payment_request.<kind>`.
    pub fn kind(&self) -> &'static str {
        match self {
            PaymentBody::OpenBook(_) => "open_book",
            PaymentBody::OpenAccount(_) => "open_account",
            PaymentBody::SetLimits(_) => "set_limits",
            PaymentBody::Freeze(_) => "freeze",
            PaymentBody::SetPolicy(_) => "set_policy",
            PaymentBody::Mint(_) => "mint",
            PaymentBody::Transfer(_) => "transfer",
            PaymentBody::Reserve(_) => "reserve",
            PaymentBody::Post(_) => "post",
            PaymentBody::Void(_) => "void",
            PaymentBody::Expire(_) => "expire",
            PaymentBody::Reward(_) => "reward",
            PaymentBody::Approve(_) => "approve",
            PaymentBody::Deny(_) => "deny",
            PaymentBody::Query(_) => "query",
        }
    }
}

/// Open the book. It begins with the default policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenBook {
    /// The unit of account, e.g. `TOKEN`: 2 to 12 of `A-Z` and `0-9`, a letter first.
    pub unit: String,
    /// Decimals of the unit, 0 to 8.
    pub scale: i32,
}

/// What an account is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AccountKind {
    /// An agent's wallet: its name is the agent's id.
    Agent,
    /// What rewards are paid from.
    Treasury,
    /// Where money comes from; its balance is what all others have together, below zero.
    Mint,
    /// What work costs.
    Fees,
    /// Held for others.
    Escrow,
}

impl AccountKind {
    /// Every kind.
    pub const ALL: [AccountKind; 5] = [
        AccountKind::Agent,
        AccountKind::Treasury,
        AccountKind::Mint,
        AccountKind::Fees,
        AccountKind::Escrow,
    ];

    /// Lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            AccountKind::Agent => "agent",
            AccountKind::Treasury => "treasury",
            AccountKind::Mint => "mint",
            AccountKind::Fees => "fees",
            AccountKind::Escrow => "escrow",
        }
    }
}

/// Open an account, with nothing in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenAccount {
    /// Its name: 1 to 100 of `A-Z a-z 0-9 _ . - : /`, a letter or digit first.
    pub account: AccountId,
    /// What it is for.
    pub kind: AccountKind,
    /// What it may do.
    pub limits: AccountLimits,
}

/// What an account may do with its money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AccountLimits {
    /// How far below zero its available money may go; 0: no overdraft.
    pub credit: i64,
    /// Most in one transfer or reservation.
    pub transfer_max: Option<i64>,
    /// Most in one day (UTC), reservations included.
    pub day_max: Option<i64>,
}

/// Change what an account may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetLimits {
    /// The account.
    pub account: AccountId,
    /// The whole set.
    pub limits: AccountLimits,
}

/// Freeze an account, or thaw it. A frozen one neither pays nor is paid; what it has set aside can be given back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Freeze {
    /// The account.
    pub account: AccountId,
    /// The new value.
    pub frozen: bool,
}

/// Change what is paid for scores, and what waits for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetPolicy {
    /// The whole policy.
    pub policy: LedgerPolicy,
}

/// What is paid for scores, and what waits for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerPolicy {
    /// Counts the policies of a book; a new one has a greater number.
    pub version: i32,
    /// The account that rewards are paid from.
    pub treasury: AccountId,
    /// What is paid: the first tier whose `at_least` the score reaches. Descending.
    pub tiers: Vec<RewardTier>,
    /// Transfers, reservations and rewards above it wait for a person; none: none does.
    pub approval_above: Option<i64>,
}

/// One tier of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RewardTier {
    /// From this score on, 0 to 1.
    pub at_least: f64,
    /// What is paid.
    pub amount: i64,
}

/// Make money: the only thing that takes from a mint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mint {
    /// The mint.
    pub mint: AccountId,
    /// Who gets it.
    pub to: AccountId,
    /// How much.
    pub amount: i64,
}

/// Move money: all legs in their order, or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// One leg for a plain transfer, up to 100 for a group.
    pub legs: Vec<Leg>,
    /// The decimals in which the amounts are written, 0 to 8, where whoever asks does not know those of the book; they
    /// are converted exactly, or refused. None: the book's own.
    #[serde(default)]
    pub scale: Option<i32>,
}

/// One movement of a transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    /// Who pays.
    pub from: AccountId,
    /// Who gets it.
    pub to: AccountId,
    /// How much, more than zero.
    pub amount: i64,
}

/// Set money aside. The reservation's id is the request's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reserve {
    /// Whose.
    pub from: AccountId,
    /// Who is to get it.
    pub to: AccountId,
    /// How much, more than zero.
    pub amount: i64,
    /// When it ends by itself, milliseconds since the epoch; none: never.
    pub expires_ms: Option<i64>,
    /// As in [`Transfer`]; for a budget, what the book has no decimals for is rounded up.
    #[serde(default)]
    pub scale: Option<i32>,
}

/// Pay from a reservation, once. For a budget it is what the work has cost, which may be more than was set aside, and may
/// come after the reservation expired: what is not there is then the account's debt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Post {
    /// The reservation.
    pub reservation: Id,
    /// How much of it; none: all.
    pub amount: Option<i64>,
    /// As in [`Reserve`].
    #[serde(default)]
    pub scale: Option<i32>,
}

/// Give a reservation back, or withdraw a request that waits for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Void {
    /// The reservation, or the request that waits.
    pub reservation: Id,
}

/// End what has reached its time. Refused before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expire {
    /// The reservation, or the request that waits for a person.
    pub reference: Id,
}

/// Pay for a judged piece of work: one reward per (target, criterion, payee, occasion). How much is a matter of the
/// book's policy. The request's id is `p2_core::ledger::reward_id` of this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    /// What was judged: the evaluation's target.
    pub target: Id,
    /// The standard by which it was judged: the evaluator's id, without its version.
    pub evaluator: String,
    /// The metric of it that counts.
    pub metric: String,
    /// Who is paid.
    pub payee: AccountId,
    /// Why it is paid now: by default the target. Paying again takes another occasion.
    pub occasion: String,
    /// The version of the evaluator; no part of the id.
    pub evaluator_version: i32,
    /// The evaluation's artifact; no part of the id. The cause's reference.
    pub evaluation: Id,
    /// What it scored in that metric, 0 to 1.
    pub score: f64,
}

/// A person agrees to a request that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approve {
    /// The request.
    pub request: Id,
}

/// A person refuses a request that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deny {
    /// The request.
    pub request: Id,
    /// Why, for whoever asked.
    pub reason: String,
}

/// Ask for a balance and the newest movements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// The account.
    pub account: AccountId,
    /// The newest so many movements, 0 to 100.
    pub movements: i32,
}
