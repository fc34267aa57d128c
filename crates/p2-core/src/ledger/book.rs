//! A book: accounts, open reservations, what waits for a person, and every answer ever given.

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use super::amount::format_amount;
use super::answer::{Answer, Code, Refusal};
use super::outside::Outside;
use super::shared::{Accounts, Movements};
use crate::ids::{AccountId, AgentId, BookId, Id};
use crate::record::{AccountKind, AccountLimits, AccountView, Balance, LedgerPolicy, PaymentRequest, Query};

/// The newest movements that are kept with an account.
pub const MOVEMENTS_MAX: usize = 100;

/// A book. Persistent: a copy costs nothing and is not changed with the original.
///
/// It can be written down and read again, to go on from there; the form is that of one version of this crate.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Book {
    /// Its unit; none: it was never opened, and only refusals are in it.
    pub terms: Option<Terms>,
    /// What is paid for scores.
    pub policy: Option<LedgerPolicy>,
    /// Its accounts.
    pub accounts: Accounts,
    /// Open reservations.
    pub reservations: OrdMap<Id, Reservation>,
    /// Reservations of budgets that expired: what their work has cost may still be told, once.
    #[serde(default)]
    pub lapsed: OrdMap<Id, Reservation>,
    /// Requests that wait for a person.
    pub held: OrdMap<Id, PaymentRequest>,
    /// When reservations and waiting requests end by themselves.
    pub due: OrdSet<(i64, Id)>,
    /// Every request that was ever answered.
    pub answers: OrdMap<Id, Answer>,
    /// The `seq` of the next transaction.
    pub next_seq: i64,
    /// The newest transaction.
    pub last: Option<Id>,
    /// What waits for an outside ledger.
    pub outside: Outside,
}

/// Name and unit of a book.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Its name.
    pub book: BookId,
    /// The unit of account.
    pub unit: String,
    /// Its decimals.
    pub scale: i32,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// What it is for.
    pub kind: AccountKind,
    /// What it may do.
    pub limits: AccountLimits,
    /// It neither pays nor is paid.
    pub frozen: bool,
    /// What it has.
    pub balance: Balance,
    /// How far it may be below its credit: what work has cost beyond what was set aside and was not there. It makes
    /// nothing available; what comes in is for it first.
    #[serde(default)]
    pub debt: i64,
    /// The day (since the epoch, UTC) of its newest payment or reservation.
    pub day: i64,
    /// What it paid or set aside on that day.
    pub spent: i64,
    /// The newest movements, oldest first.
    pub movements: Movements,
}

impl Account {
    /// What it can spend, its credit included.
    pub fn spendable(&self) -> i64 {
        self.balance.available().saturating_add(self.limits.credit)
    }

    /// How far it is below its credit.
    pub(super) fn short(&self) -> i64 {
        self.spendable().saturating_neg().max(0)
    }

    /// What it paid or set aside on `day` so far.
    pub fn spent_on(&self, day: i64) -> i64 {
        if day > self.day { 0 } else { self.spent }
    }
}

/// Money that is set aside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reservation {
    /// Whose.
    pub from: AccountId,
    /// Who is to get it.
    pub to: AccountId,
    /// How much.
    pub amount: i64,
    /// When it ends by itself.
    pub expires_ms: Option<i64>,
    /// The day on which it was made.
    pub day: i64,
    /// Where it is for a call of an agent, which has a budget: the agent. Nobody but the engine, in its name, and people
    /// end it.
    #[serde(default)]
    pub budget: Option<AgentId>,
}

impl Book {
    /// Decimals of its amounts; 2 where it was never opened.
    pub fn scale(&self) -> i32 {
        self.terms.as_ref().map_or(2, |terms| terms.scale)
    }

    /// Its unit; empty where it was never opened.
    pub fn unit(&self) -> &str {
        self.terms.as_ref().map_or("", |terms| terms.unit.as_str())
    }

    /// An amount with its unit, for people.
    pub fn money(&self, minor: i64) -> String {
        format!("{} {}", format_amount(minor, self.scale()), self.unit()).trim_end().to_owned()
    }

    /// An account.
    ///
    /// # Errors
    /// [`Code::UnknownAccount`].
    pub fn account(&self, name: &AccountId) -> Result<&Account, Refusal> {
        self.accounts.get(name).ok_or_else(|| {
            Refusal::new(
                Code::UnknownAccount,
                format!(
                    "there is no account '{name}': accounts are opened first, none comes to be by being paid"
                ),
            )
        })
    }

    /// The answer to a query.
    ///
    /// # Errors
    /// [`Code::UnknownAccount`].
    pub fn view(&self, query: &Query) -> Result<AccountView, Refusal> {
        let account = self.account(&query.account)?;
        let newest = usize::try_from(query.movements).unwrap_or(0).min(MOVEMENTS_MAX);
        Ok(AccountView {
            account: query.account.clone(),
            kind: account.kind,
            balance: account.balance,
            frozen: account.frozen,
            movements: account.movements.iter().rev().take(newest).cloned().collect(),
        })
    }

    /// What ends by itself first: (when, the reservation or the request that waits).
    pub fn next_due(&self) -> Option<(i64, Id)> {
        self.due.get_min().copied()
    }
}
