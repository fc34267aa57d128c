//! What has to become of a request: `docs/ledger.md` once more, in other words than the ledger's own.

use p2_core::ids::{AccountId, Id};
use p2_core::record::*;

use super::bookkeeper::{Aside, Pages, Purse};

/// The largest amount of all.
const MOST: i64 = 9_007_199_254_740_991;
const DAY_MS: i64 = 86_400_000;

/// What has to follow.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expected {
    /// It is done: what is paid, what is set aside, which reservation ends.
    Done { moves: Vec<(AccountId, AccountId, i64)>, aside: Option<Aside>, ended: Option<Id> },
    /// It is refused.
    Refused,
    /// It waits for a person.
    Waits,
}

/// What is rewarded once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rewarded([String; 5]);

impl Rewarded {
    pub(super) fn of(reward: &Reward) -> Rewarded {
        let Reward { target, evaluator, metric, payee, occasion, .. } = reward;
        let (target, payee) = (target.to_string(), payee.to_string());
        Rewarded([target, evaluator.clone(), metric.clone(), payee, occasion.clone()])
    }
}

fn done() -> Expected {
    Expected::Done { moves: Vec::new(), aside: None, ended: None }
}

fn is_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | ':' | '/');
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    first && name.len() <= 100 && name.chars().all(known)
}

/// An amount of so many decimals in those of the books, which have two: never less.
fn in_cents(amount: i64, scale: Option<i32>) -> Option<i64> {
    match scale {
        None => Some(amount),
        Some(scale @ 0..=2) => amount.checked_mul(10_i64.pow(scale.abs_diff(2))),
        Some(scale @ 3..=8) => {
            let (cents, rest) = (
                amount.div_euclid(10_i64.pow(scale.abs_diff(2))),
                amount.rem_euclid(10_i64.pow(scale.abs_diff(2))),
            );
            Some(if rest > 0 { cents + 1 } else { cents })
        }
        Some(_) => None,
    }
}

/// An amount of so many decimals in those of the books, exactly.
fn exactly_in_cents(amount: i64, scale: Option<i32>) -> Option<i64> {
    let cents = in_cents(amount, scale)?;
    let finer = scale.map_or(0, |scale| scale - 2).max(0).unsigned_abs();
    let back = cents.checked_mul(10_i64.pow(finer))?;
    (finer == 0 || back == amount).then_some(cents)
}

fn is_amount(amount: i64) -> bool {
    (1..=MOST).contains(&amount)
}

impl Pages {
    /// What has to become of a request now.
    pub(super) fn expect(&self, request: &PaymentRequest, now_ms: i64, approved: bool) -> Expected {
        let timely = |most: i64| now_ms < most || matches!(request.body, PaymentBody::Expire(_)) || approved;
        if !self.may_ask(request) || !request.not_after_ms.is_none_or(timely) {
            return Expected::Refused;
        }
        self.due(request, now_ms, approved).unwrap_or(Expected::Refused)
    }

    fn may_ask(&self, request: &PaymentRequest) -> bool {
        let (cause, named) = (request.cause.kind, request.cause.reference.is_some());
        let by_machine = matches!(cause, CauseKind::ToolCall | CauseKind::Evaluation | CauseKind::Budget);
        let right = match &request.body {
            PaymentBody::Approve(_) | PaymentBody::Deny(_) => cause == CauseKind::Human,
            PaymentBody::Reward(_) => matches!(cause, CauseKind::Human | CauseKind::Evaluation),
            PaymentBody::Expire(_) => matches!(cause, CauseKind::Human | CauseKind::Timer),
            // What work costs is set aside, posted and given back, and that is all.
            PaymentBody::Transfer(_) | PaymentBody::Query(_) if cause == CauseKind::Budget => false,
            PaymentBody::Transfer(_)
            | PaymentBody::Reserve(_)
            | PaymentBody::Post(_)
            | PaymentBody::Void(_)
            | PaymentBody::Query(_) => !matches!(cause, CauseKind::Evaluation | CauseKind::Timer),
            _ => matches!(cause, CauseKind::Human | CauseKind::Rollout),
        };
        let open = self.open || matches!(request.body, PaymentBody::OpenBook(_));
        right && open && (named || !by_machine)
    }

    /// None: it is refused.
    fn due(&self, request: &PaymentRequest, now_ms: i64, approved: bool) -> Option<Expected> {
        match &request.body {
            PaymentBody::OpenBook(_) => (!self.open).then(done),
            PaymentBody::OpenAccount(open) => {
                let new = !self.purses.contains_key(&open.account);
                (new && is_name(open.account.as_str()) && fits(&open.limits, open.kind)).then(done)
            }
            PaymentBody::SetLimits(set) => {
                let purse = self.purses.get(&set.account)?;
                let free = purse.has - self.aside_of(&set.account);
                let covered = purse.kind == AccountKind::Mint || free + set.limits.credit + purse.owes >= 0;
                (covered && fits(&set.limits, purse.kind)).then(done)
            }
            PaymentBody::Freeze(set) => self.purses.get(&set.account).map(|_| done()),
            PaymentBody::SetPolicy(set) => {
                let last = i64::from(self.policy.as_ref().map_or(1, |known| known.version));
                let newer = (1..=1_000_000).contains(&(i64::from(set.policy.version) - last));
                let treasury = self.purses.get(&set.policy.treasury)?;
                (newer && treasury.kind != AccountKind::Mint).then(done)
            }
            PaymentBody::Mint(mint) => {
                let (from, to) = (self.purses.get(&mint.mint)?, self.purses.get(&mint.to)?);
                let right = from.kind == AccountKind::Mint && mint.mint != mint.to && is_amount(mint.amount);
                (right
                    && !from.frozen
                    && !to.frozen
                    && self.holds(&mint.to, mint.amount)
                    && self.holds(&mint.mint, -mint.amount))
                .then(|| paid(vec![(mint.mint.clone(), mint.to.clone(), mint.amount)]))
            }
            PaymentBody::Transfer(transfer) => self.transfer(request, transfer, now_ms, approved),
            PaymentBody::Reserve(reserve) => self.reserve(request, reserve, now_ms, approved),
            PaymentBody::Post(post) if request.cause.kind == CauseKind::Budget => self.cost(request, post),
            PaymentBody::Post(post) => {
                let aside = self.asides.get(&post.reservation)?;
                let amount = post.amount.unwrap_or(aside.amount);
                let (from, to) = (self.purses.get(&aside.from)?, self.purses.get(&aside.to)?);
                let right = is_amount(amount) && amount <= aside.amount && self.may_end(request, aside, from);
                (right && !from.frozen && !to.frozen && self.holds(&aside.to, amount)).then(|| {
                    Expected::Done {
                        moves: vec![(aside.from.clone(), aside.to.clone(), amount)],
                        aside: None,
                        ended: Some(post.reservation),
                    }
                })
            }
            PaymentBody::Void(void) if self.waiting.contains_key(&void.reservation) => {
                let (by, of) = (&request.cause, &self.waiting.get(&void.reservation)?.cause);
                let machine = matches!(by.kind, CauseKind::ToolCall | CauseKind::Budget);
                let same = by.kind == of.kind && by.agent == of.agent && by.conversation == of.conversation;
                (!machine || same && by.agent.is_some()).then(done)
            }
            PaymentBody::Void(void) => {
                let aside = self.asides.get(&void.reservation)?;
                let purse = self.purses.get(&aside.from)?;
                self.may_end(request, aside, purse).then(|| ends(void.reservation))
            }
            PaymentBody::Expire(expire) => self.expire(expire.reference, now_ms),
            PaymentBody::Reward(reward) => self.reward(request, reward, now_ms, approved),
            PaymentBody::Approve(approve) => self.waiting.get(&approve.request).map(|_| done()),
            PaymentBody::Deny(deny) => self.waiting.get(&deny.request).map(|_| done()),
            PaymentBody::Query(_) => None,
        }
    }

    /// What work has cost: paid whatever was set aside, once, and by the agent for whom it was.
    fn cost(&self, request: &PaymentRequest, post: &Post) -> Option<Expected> {
        let open = self.asides.get(&post.reservation);
        let aside = open.or_else(|| self.overdue.get(&post.reservation))?;
        let amount = match post.amount {
            Some(amount) => in_cents(amount, post.scale)?,
            None => aside.amount,
        };
        let payer = self.purses.get(&aside.from)?;
        let right = is_amount(amount) && self.may_end(request, aside, payer);
        let fits = self.holds(&aside.to, amount) && self.holds(&aside.from, -amount);
        (right && fits).then(|| Expected::Done {
            moves: vec![(aside.from.clone(), aside.to.clone(), amount)],
            aside: None,
            ended: open.map(|_| post.reservation),
        })
    }

    /// What is for an agent's work is ended in its name; a tool call ends nothing of that kind.
    fn may_end(&self, request: &PaymentRequest, aside: &Aside, payer: &Purse) -> bool {
        let right = match request.cause.kind {
            CauseKind::Budget => aside.agent.is_some() && aside.agent == request.cause.agent,
            CauseKind::ToolCall => aside.agent.is_none(),
            _ => true,
        };
        right && self.owns(request, &aside.from, payer)
    }

    fn expire(&self, reference: Id, now_ms: i64) -> Option<Expected> {
        if let Some(waits) = self.waiting.get(&reference) {
            return (waits.not_after_ms? <= now_ms).then(done);
        }
        let aside = self.asides.get(&reference)?;
        (aside.until_ms? <= now_ms).then(|| ends(reference))
    }

    fn transfer(
        &self,
        request: &PaymentRequest,
        transfer: &Transfer,
        now_ms: i64,
        approved: bool,
    ) -> Option<Expected> {
        if transfer.legs.is_empty() || transfer.legs.len() > 100 {
            return None;
        }
        let legs = transfer.legs.iter().map(|leg| {
            let amount = exactly_in_cents(leg.amount, transfer.scale)?;
            Some(Leg { amount, ..leg.clone() })
        });
        let legs = legs.collect::<Option<Vec<Leg>>>()?;
        let mut copy = self.purses_and_asides();
        let mut sum = 0_i64;
        for leg in &legs {
            copy.can_pay(request, (&leg.from, &leg.to, leg.amount), now_ms)?;
            for (name, change) in [(&leg.from, -leg.amount), (&leg.to, leg.amount)] {
                let purse = copy.purses.get_mut(name)?;
                purse.has += change;
                if change < 0 {
                    let day = now_ms.div_euclid(DAY_MS);
                    let before = if day > purse.day.0 { 0 } else { purse.day.1 };
                    purse.day = (purse.day.0.max(day), before - change);
                }
            }
            sum = sum.saturating_add(leg.amount);
        }
        let moves = legs.into_iter().map(|leg| (leg.from, leg.to, leg.amount)).collect();
        Some(if self.asks_a_person(sum, approved) { Expected::Waits } else { paid(moves) })
    }

    fn reserve(
        &self,
        request: &PaymentRequest,
        reserve: &Reserve,
        now_ms: i64,
        approved: bool,
    ) -> Option<Expected> {
        if reserve.expires_ms.is_some_and(|until| until <= now_ms) {
            return None;
        }
        let amount = in_cents(reserve.amount, reserve.scale)?;
        let work = request.cause.kind == CauseKind::Budget;
        if work && self.purses.get(&reserve.to)?.kind != AccountKind::Fees {
            return None;
        }
        self.can_pay(request, (&reserve.from, &reserve.to, amount), now_ms)?;
        if self.asks_a_person(amount, approved) {
            return Some(Expected::Waits);
        }
        let aside = Aside {
            from: reserve.from.clone(),
            to: reserve.to.clone(),
            amount,
            until_ms: reserve.expires_ms,
            day: now_ms.div_euclid(DAY_MS),
            agent: request.cause.agent.clone().filter(|_| work),
        };
        Some(Expected::Done { moves: Vec::new(), aside: Some(aside), ended: None })
    }

    fn reward(
        &self,
        request: &PaymentRequest,
        reward: &Reward,
        now_ms: i64,
        approved: bool,
    ) -> Option<Expected> {
        let Reward { target, evaluator, metric, payee, occasion, .. } = reward;
        let lines = ["reward", &target.to_string(), evaluator, metric, payee.as_str(), occasion].join("\n");
        let first = Id::of_text(&lines);
        let due = request.id == first || self.once_more(request, first);
        if !due || request.cause.reference != Some(reward.evaluation) || !(0.0..=1.0).contains(&reward.score)
        {
            return None;
        }
        // A person may reward anybody, an evaluation agents only, and so does who asks once more.
        if (request.cause.kind == CauseKind::Evaluation || request.id != first)
            && self.purses.get(payee).is_none_or(|purse| purse.kind != AccountKind::Agent)
        {
            return None;
        }
        let (treasury, amount) = match &self.policy {
            Some(policy) => {
                let tier = policy.tiers.iter().find(|tier| reward.score >= tier.at_least)?;
                (policy.treasury.clone(), tier.amount)
            }
            // Whole units of a book with two decimals.
            None => {
                let whole = match reward.score {
                    score if score >= 0.8 => 25,
                    score if score >= 0.6 => 15,
                    score if score >= 0.4 => 10,
                    _ => return None,
                };
                (AccountId::from("treasury"), whole * 100)
            }
        };
        self.can_pay(request, (&treasury, payee, amount), now_ms)?;
        let waits = self.asks_a_person(amount, approved);
        Some(if waits { Expected::Waits } else { paid(vec![(treasury, payee.clone(), amount)]) })
    }

    /// A person asks again for a reward that was refused, for a reason that may pass, as often as it was asked for.
    fn once_more(&self, request: &PaymentRequest, first: Id) -> bool {
        let mut asked = vec![first];
        while let Some(newest) = asked.last().copied() {
            let Some(standing) = self.answered.get(&newest) else { return false };
            let stands = ["no_tier", "denied", "withdrawn"].contains(&standing.code.as_str());
            if standing.status != PaymentStatus::Rejected || stands {
                return false;
            }
            let next = Id::derive(&newest, "reward_again", 0);
            if next == request.id {
                return request.cause.kind == CauseKind::Human;
            }
            asked.push(next);
        }
        false
    }

    fn asks_a_person(&self, amount: i64, approved: bool) -> bool {
        let above = self.policy.as_ref().and_then(|policy| policy.approval_above);
        above.is_some_and(|above| amount > above && !approved)
    }

    fn owns(&self, request: &PaymentRequest, name: &AccountId, purse: &Purse) -> bool {
        let machine = matches!(request.cause.kind, CauseKind::ToolCall | CauseKind::Budget);
        let named = request.cause.agent.as_ref().is_some_and(|agent| agent.as_str() == name.as_str());
        let spending = name.as_str().len() > 7 && name.as_str().starts_with("budget:");
        let set_up = request.cause.kind == CauseKind::Budget && spending && purse.kind == AccountKind::Escrow;
        !machine || set_up || named && purse.kind == AccountKind::Agent
    }

    /// Whether an account can have so much more.
    fn holds(&self, name: &AccountId, more: i64) -> bool {
        let has = self.purses.get(name).map_or(0, |purse| purse.has);
        has.checked_add(more).is_some_and(|sum| (-MOST..=MOST).contains(&sum))
    }

    /// None: it cannot.
    fn can_pay(
        &self,
        request: &PaymentRequest,
        (from, to, amount): (&AccountId, &AccountId, i64),
        now_ms: i64,
    ) -> Option<()> {
        let (payer, payee) = (self.purses.get(from)?, self.purses.get(to)?);
        let today = if now_ms.div_euclid(DAY_MS) > payer.day.0 { 0 } else { payer.day.1 };
        let limits = &payer.limits;
        let right = from != to
            && is_amount(amount)
            && self.owns(request, from, payer)
            && payer.kind != AccountKind::Mint
            && (payee.kind != AccountKind::Mint || request.cause.kind == CauseKind::Human)
            && !payer.frozen
            && !payee.frozen
            && limits.transfer_max.is_none_or(|most| amount <= most)
            && limits.day_max.is_none_or(|most| today.saturating_add(amount) <= most)
            && payer.has - self.aside_of(from) + limits.credit >= amount
            && self.holds(to, amount);
        right.then_some(())
    }
}

fn paid(moves: Vec<(AccountId, AccountId, i64)>) -> Expected {
    Expected::Done { moves, aside: None, ended: None }
}

fn ends(id: Id) -> Expected {
    Expected::Done { moves: Vec::new(), aside: None, ended: Some(id) }
}

fn fits(limits: &AccountLimits, kind: AccountKind) -> bool {
    let within = |limit: i64| (0..=MOST).contains(&limit);
    let all =
        within(limits.credit) && limits.transfer_max.is_none_or(within) && limits.day_max.is_none_or(within);
    let none = limits.credit == 0 && limits.transfer_max.is_none() && limits.day_max.is_none();
    all && (kind != AccountKind::Mint || none)
}
