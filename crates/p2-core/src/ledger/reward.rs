//! What judged work is paid.

use super::TREASURY;
use super::answer::{Answer, Code, Refusal};
use super::book::Book;
use super::names::check;
use crate::ids::{AccountId, Id};
use crate::record::{CauseKind, LedgerPolicy, PaymentRequest, PaymentStatus, Reward, RewardTier};

/// The tiers that a book begins with, in whole units: (from this score on, what is paid).
const TIERS: [(f64, i64); 3] = [(0.8, 25), (0.6, 15), (0.4, 10)];
/// Most tiers of a policy.
const TIERS_MAX: usize = 100;
/// How far the version of a policy may be above that of the one in force: no request uses the numbers up. A copy of a
/// book takes over the version that this has.
const VERSIONS_MAX: i32 = 1_000_000;

/// The id of the request for a reward: the first 128 bits of SHA-256 of `reward`, target, evaluator, metric, payee and
/// occasion, each on a line. No version and no score is part of it, so that nothing that is judged again, and no
/// policy that changed, pays twice.
pub fn reward_id(reward: &Reward) -> Id {
    let Reward { target, evaluator, metric, payee, occasion, .. } = reward;
    Id::of_text(&format!("reward\n{target}\n{evaluator}\n{metric}\n{payee}\n{occasion}"))
}

/// The id under which a refused reward is asked for once more: it follows from the request that was refused, so that two
/// who ask at once ask for one and the same.
pub fn reward_again_id(refused: &Id) -> Id {
    Id::derive(refused, "reward_again", 0)
}

/// Whether a reward that was refused so may be asked for once more: it paid nobody, and the reason may pass. What work
/// has earned, and what a person said, stands.
pub fn may_be_asked_again(code: Code) -> bool {
    !matches!(code, Code::NoTier | Code::Denied | Code::Withdrawn | Code::Ok)
}

/// Whether a reward is asked for under the one id that it can be paid under now: that of the reward; where that was
/// refused for a reason that may pass, the one that follows from it; and so on. As a request has one answer for ever, of
/// all these one at most is ever paid.
///
/// # Errors
/// [`Code::Invalid`] for any other id, [`Code::AlreadyRewarded`] where one of them was paid, waits or is final, and
/// [`Code::NotAllowed`] where it is not a person who asks once more.
pub(super) fn check_reward_id(book: &Book, request: &PaymentRequest, reward: &Reward) -> Result<(), Refusal> {
    let mut id = reward_id(reward);
    if request.id == id {
        return Ok(());
    }
    while let Some(answer) = book.answers.get(&id) {
        if answer.status != PaymentStatus::Rejected || !may_be_asked_again(answer.code) {
            return Err(stands(answer));
        }
        id = reward_again_id(&id);
        if request.id == id {
            return if request.cause.kind == CauseKind::Human {
                Ok(())
            } else {
                let sentence = "a reward that was refused is asked for once more by a person only";
                Err(Refusal::new(Code::NotAllowed, sentence))
            };
        }
    }
    let sentence = "the id of a reward must be that of its target, criterion, payee and occasion, or the one that \
                    follows from it where that was refused";
    Err(Refusal::new(Code::Invalid, sentence))
}

/// Why a reward is not asked for once more.
fn stands(answer: &Answer) -> Refusal {
    let (first, code) = (answer.transaction, answer.code.as_str());
    let what = match answer.status {
        PaymentStatus::Committed => "was rewarded for this occasion before",
        PaymentStatus::Rejected => "was judged for this occasion before, and what was said then stands",
        PaymentStatus::Pending | PaymentStatus::InDoubt => "has a reward for this occasion that is under way",
    };
    let code = if answer.status == PaymentStatus::Rejected { format!("{code}, ") } else { String::new() };
    Refusal::new(Code::AlreadyRewarded, format!("this work {what} ({code}transaction {first})"))
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
    let most = in_force.version.saturating_add(VERSIONS_MAX);
    if policy.version > most {
        return refuse(format!(
            "has version {}: the next one is {}",
            policy.version,
            in_force.version.saturating_add(1)
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
