//! What judged work is paid.

use super::TREASURY;
use super::answer::{Code, Refusal};
use super::names::check;
use crate::ids::{AccountId, Id};
use crate::record::{LedgerPolicy, Reward, RewardTier};

/// The tiers that a book begins with, in whole units: (from this score on, what is paid).
const TIERS: [(f64, i64); 3] = [(0.8, 25), (0.6, 15), (0.4, 10)];
/// Most tiers of a policy.
const TIERS_MAX: usize = 100;

/// The id of the request for a reward: the first 128 bits of SHA-256 of `reward`, target, evaluator, metric, payee and
/// occasion, each on a line. No version and no score is part of it, so that nothing that is judged again, and no
/// policy that changed, pays twice.
pub fn reward_id(reward: &Reward) -> Id {
    let Reward { target, evaluator, metric, payee, occasion, .. } = reward;
    Id::of_text(&format!("reward\n{target}\n{evaluator}\n{metric}\n{payee}\n{occasion}"))
}

/// The policy that a book of that scale begins with.
pub fn default_policy(scale: i32) -> LedgerPolicy {
    let unit = (0..scale).fold(1_i64, |unit, _| unit.saturating_mul(10));
    LedgerPolicy {
        version: 1,
        treasury: AccountId::from(TREASURY),
        tiers: TIERS
            .map(|(at_least, whole)| RewardTier { at_least, amount: whole.saturating_mul(unit) })
            .to_vec(),
        approval_above: None,
    }
}

/// Whether a policy can follow the one in force.
pub(super) fn check_policy(policy: &LedgerPolicy, in_force: &LedgerPolicy) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new(Code::Invalid, format!("the policy {why}")));
    check("account", policy.treasury.as_str())?;
    if policy.version <= in_force.version {
        return refuse(format!(
            "has version {}, the one in force has {}: a new policy has a greater number",
            policy.version, in_force.version
        ));
    }
    if policy.tiers.len() > TIERS_MAX {
        return refuse(format!("has more than {TIERS_MAX} tiers"));
    }
    if policy.tiers.iter().any(|tier| !(0.0..=1.0).contains(&tier.at_least)) {
        return refuse("has a tier whose score is not between 0 and 1".to_owned());
    }
    if policy.tiers.iter().any(|tier| tier.amount <= 0 || tier.amount > super::AMOUNT_MAX) {
        return refuse("has a tier that pays nothing, or more than an account can hold".to_owned());
    }
    if !policy.tiers.is_sorted_by(|a, b| a.at_least > b.at_least) {
        return refuse("has tiers that do not descend: the highest score first".to_owned());
    }
    match policy.approval_above {
        Some(above) if !(0..=super::AMOUNT_MAX).contains(&above) => {
            refuse("has an 'approval_above' that is no amount".to_owned())
        }
        _ => Ok(()),
    }
}

/// What a score is paid.
pub(super) fn tier(policy: &LedgerPolicy, score: f64) -> Result<i64, Refusal> {
    if !(0.0..=1.0).contains(&score) {
        return Err(Refusal::new(Code::Invalid, format!("the score {score:?} is not between 0 and 1")));
    }
    let reached = policy.tiers.iter().find(|tier| score >= tier.at_least);
    reached.map(|tier| tier.amount).ok_or_else(|| {
        Refusal::new(
            Code::NoTier,
            format!("a score of {score} is below every tier of the policy: nothing is paid"),
        )
    })
}
