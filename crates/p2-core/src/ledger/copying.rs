//! A copy of a book: what an experiment pays and earns with, without anybody else seeing it.

use super::answer::{Code, Refusal};
use super::reward::default_policy;
use crate::ids::AccountId;
use crate::record::{
    AccountKind, AccountLimits, Freeze, LedgerPolicy, Leg, Mint, OpenAccount, OpenBook, PaymentBody,
    SetLimits, SetPolicy, Transfer,
};

/// What a book has, as far as a copy has it too.
#[derive(Clone, Debug, PartialEq)]
pub struct Original {
    /// The unit of account.
    pub unit: String,
    /// Its decimals.
    pub scale: i32,
    /// What is paid for scores, and what waits for a person.
    pub policy: Option<LedgerPolicy>,
    /// Its accounts, in any order.
    pub accounts: Vec<OriginalAccount>,
}

/// An account to be copied.
#[derive(Clone, Debug, PartialEq)]
pub struct OriginalAccount {
    /// Its name.
    pub account: AccountId,
    /// What it is for.
    pub kind: AccountKind,
    /// What it has, in minor units; what is set aside of it counts.
    pub posted: i64,
    /// What its work has cost that was not there, in minor units.
    pub debt: i64,
    /// It neither pays nor is paid.
    pub frozen: bool,
    /// What it may do.
    pub limits: AccountLimits,
}

/// What a person or a rollout asks of an empty book, in this order, so that it has the same accounts with the same
/// limits, money and policy. Neither reservations nor what waits for a person are copied: what is set aside in the
/// original is free in the copy.
///
/// # Errors
/// [`Code::Insufficient`] for an account that owes: a debt is made by work and by nothing else.
pub fn copied(original: &Original) -> Result<Vec<PaymentBody>, Refusal> {
    if let Some(owes) = original.accounts.iter().find(|account| account.debt > 0) {
        let name = &owes.account;
        let sentence = format!("'{name}' owes for work: pay that first, with a transfer to '{name}'");
        return Err(Refusal::new(Code::Insufficient, sentence));
    }
    let Original { unit, scale, policy, accounts } = original;
    let mut asked = vec![PaymentBody::OpenBook(OpenBook { unit: unit.clone(), scale: *scale })];
    asked.extend(accounts.iter().map(|OriginalAccount { account, kind, limits, .. }| {
        // No other limit may be in the way of what moves now.
        let limits = AccountLimits { credit: limits.credit, ..AccountLimits::default() };
        PaymentBody::OpenAccount(OpenAccount { account: account.clone(), kind: *kind, limits })
    }));
    asked.extend(moves(accounts));
    let limited = accounts.iter().filter(|account| {
        account.limits != AccountLimits { credit: account.limits.credit, ..AccountLimits::default() }
    });
    asked.extend(limited.map(|OriginalAccount { account, limits, .. }| {
        PaymentBody::SetLimits(SetLimits { account: account.clone(), limits: *limits })
    }));
    let frozen = accounts.iter().filter(|account| account.frozen);
    asked.extend(frozen.map(|OriginalAccount { account, .. }| {
        PaymentBody::Freeze(Freeze { account: account.clone(), frozen: true })
    }));
    let policy = policy.iter().filter(|policy| **policy != default_policy(*scale));
    asked.extend(policy.map(|policy| PaymentBody::SetPolicy(SetPolicy { policy: policy.clone() })));
    Ok(asked)
}

/// Who is below 0 pays who is above, until all have what they have in the original, where the sum is 0.
fn moves(accounts: &[OriginalAccount]) -> Vec<PaymentBody> {
    let below = accounts.iter().filter(|account| account.posted < 0);
    let mut payers = below.map(|account| (account, account.posted.saturating_neg()));
    let mut left = payers.next();
    let mut moves = Vec::new();
    for receiver in accounts.iter().filter(|account| account.posted > 0) {
        let (mut wanted, to) = (receiver.posted, &receiver.account);
        while wanted > 0
            && let Some((payer, has)) = left
        {
            let amount = wanted.min(has);
            let from = payer.account.clone();
            moves.push(if payer.kind == AccountKind::Mint {
                PaymentBody::Mint(Mint { mint: from, to: to.clone(), amount })
            } else {
                let leg = Leg { from, to: to.clone(), amount };
                PaymentBody::Transfer(Transfer { legs: vec![leg], scale: None })
            });
            wanted -= amount;
            left = if has > amount { Some((payer, has - amount)) } else { payers.next() };
        }
    }
    moves
}
