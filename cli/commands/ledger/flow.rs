//! Where money came from and where it is now: the movements of a book, followed coin by coin.
//!
//! Money has no marks, so a convention is needed: an account pays with what it got first. Each payment then consists of
//! lots that were made by known mint transactions and went through known accounts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use p2_core::ids::AccountId;
use p2_core::record::{AccountKind, LedgerTransaction};

/// Most accounts of a way that are kept; what is between the first and the newest is left out, and that is said.
const WAY_MAX: usize = 6;
/// How many of the first are kept, and what stands behind them where some are left out. No account has that name.
const FIRST_KEPT: usize = 2;
const LEFT_OUT: &str = "…";

/// A part of the money that a transaction moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// `seq` of the transaction that made it; none: it was lent by a credit.
    pub(super) mint: Option<i64>,
    /// The accounts that it went through up to the payer, the mint first.
    way: Vec<AccountId>,
    /// Whether accounts behind the first ones are left out.
    shortened: bool,
    /// How much.
    pub(super) amount: i64,
}

impl Source {
    /// The accounts that it went through; `…` stands for those that are left out.
    pub(super) fn places(&self) -> Vec<&str> {
        let mut places: Vec<&str> = self.way.iter().map(AccountId::as_str).collect();
        if self.shortened {
            places.insert(FIRST_KEPT.min(places.len()), LEFT_OUT);
        }
        places
    }

    fn step(&mut self, to: &AccountId) {
        if self.way.len() >= WAY_MAX {
            self.way.remove(FIRST_KEPT);
            self.shortened = true;
        }
        self.way.push(to.clone());
    }
}

/// The money that one transaction moved.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Flow {
    /// What it was made of.
    pub(super) sources: Vec<Source>,
    /// Where it is now, after everything that followed.
    pub(super) now: BTreeMap<AccountId, i64>,
}

/// Money of one origin that lies in one account.
#[derive(Clone)]
struct Lot {
    source: Source,
    /// The watched transactions that moved it.
    moved_by: Vec<i64>,
}

/// Follows the money of the watched transactions (by `seq`). `made` is the whole book, in order.
pub(super) fn follow(
    made: &[LedgerTransaction],
    kinds: &BTreeMap<AccountId, AccountKind>,
    watched: &BTreeSet<i64>,
) -> BTreeMap<i64, Flow> {
    let is_mint = |account: &AccountId| kinds.get(account) == Some(&AccountKind::Mint);
    let mut purses: BTreeMap<AccountId, VecDeque<Lot>> = BTreeMap::new();
    let mut debts: BTreeMap<AccountId, i64> = BTreeMap::new();
    let mut flows: BTreeMap<i64, Flow> = BTreeMap::new();
    for transaction in made {
        let seq = transaction.seq;
        for posting in &transaction.postings {
            let mint = is_mint(&posting.from).then_some(seq);
            let mut lots = match mint {
                Some(_) => vec![lot(mint, &posting.from, posting.amount)],
                None => take(purses.entry(posting.from.clone()).or_default(), posting.amount),
            };
            let found: i64 = lots.iter().map(|lot| lot.source.amount).sum();
            if found < posting.amount {
                let lent = posting.amount - found;
                *debts.entry(posting.from.clone()).or_default() += lent;
                lots.push(lot(None, &posting.from, lent));
            }
            if watched.contains(&seq) {
                let flow = flows.entry(seq).or_default();
                flow.sources.extend(lots.iter().map(|lot| lot.source.clone()));
            }
            if is_mint(&posting.to) {
                continue;
            }
            let owed = debts.entry(posting.to.clone()).or_default();
            let paid_back = (*owed).min(posting.amount);
            *owed -= paid_back;
            let mut lots = VecDeque::from(lots);
            take(&mut lots, paid_back);
            for lot in &mut lots {
                lot.source.step(&posting.to);
                if watched.contains(&seq) && lot.moved_by.last() != Some(&seq) {
                    lot.moved_by.push(seq);
                }
            }
            purses.entry(posting.to.clone()).or_default().extend(lots);
        }
    }
    for (account, lots) in &purses {
        for lot in lots {
            for seq in &lot.moved_by {
                let flow = flows.entry(*seq).or_default();
                *flow.now.entry(account.clone()).or_default() += lot.source.amount;
            }
        }
    }
    flows
}

fn lot(mint: Option<i64>, from: &AccountId, amount: i64) -> Lot {
    Lot { source: Source { mint, way: vec![from.clone()], shortened: false, amount }, moved_by: Vec::new() }
}

/// Up to that much, what came first.
fn take(purse: &mut VecDeque<Lot>, mut amount: i64) -> Vec<Lot> {
    let mut taken = Vec::new();
    while amount > 0 {
        let Some(mut first) = purse.pop_front() else { break };
        if first.source.amount > amount {
            let mut rest = first.clone();
            rest.source.amount -= amount;
            first.source.amount = amount;
            purse.push_front(rest);
        }
        amount -= first.source.amount;
        taken.push(first);
    }
    taken
}

#[cfg(test)]
mod tests {
    use p2_core::ids::{BookId, Id};
    use p2_core::record::*;

    use super::*;

    fn moved(seq: i64, from: &str, to: &str, amount: i64) -> LedgerTransaction {
        let id = Id::of_text(&seq.to_string());
        let after = Balance::default();
        let cause = PaymentCause {
            kind: CauseKind::Human,
            reference: None,
            conversation: None,
            agent: None,
            branch: None,
            reason: String::new(),
        };
        let (reply_to, not_after_ms) = (None, None);
        let body = PaymentBody::Transfer(Transfer { legs: Vec::new(), scale: None });
        let by = String::new();
        let request =
            PaymentRequest { id, book: BookId::from("main"), by, cause, reply_to, not_after_ms, body };
        let (from, to) = (AccountId::from(from), AccountId::from(to));
        LedgerTransaction {
            id,
            book: BookId::from("main"),
            seq,
            previous: None,
            request,
            holds: Vec::new(),
            postings: vec![Posting { from, to, amount, from_after: after, to_after: after }],
            outcome: LedgerOutcome::Committed(Committed::default()),
            time_ms: 0,
        }
    }

    fn told(made: &[LedgerTransaction], seq: i64) -> String {
        let kinds = BTreeMap::from([(AccountId::from("mint"), AccountKind::Mint)]);
        let flows = follow(made, &kinds, &BTreeSet::from([seq]));
        let Some(flow) = flows.get(&seq) else { return String::new() };
        let source =
            |source: &Source| format!("{:?} {} {}", source.mint, source.places().join(">"), source.amount);
        let sources: Vec<String> = flow.sources.iter().map(source).collect();
        let now: Vec<String> =
            flow.now.iter().map(|(account, amount)| format!("{account} {amount}")).collect();
        format!("{} | {}", sources.join(", "), now.join(", "))
    }

    #[test]
    fn a_reward_is_followed_from_the_mint_to_where_it_is_now() {
        let made = [
            moved(0, "mint", "treasury", 100),
            moved(1, "mint", "alpha", 10),
            moved(2, "treasury", "alpha", 25),
            moved(3, "alpha", "beta", 20),
            moved(4, "beta", "fees", 15),
        ];
        assert_eq!(told(&made, 2), "Some(0) mint>treasury 25 | alpha 15, beta 5, fees 5");
        assert_eq!(told(&made, 3), "Some(1) mint>alpha 10, Some(0) mint>treasury>alpha 10 | beta 5, fees 15");
        assert_eq!(
            told(&made, 4),
            "Some(1) mint>alpha>beta 10, Some(0) mint>treasury>alpha>beta 5 | fees 15"
        );
    }

    #[test]
    fn what_a_credit_lent_is_paid_back_first_and_what_goes_back_to_the_mint_is_nowhere() {
        let made = [
            moved(0, "alpha", "beta", 5),
            moved(1, "mint", "alpha", 8),
            moved(2, "beta", "mint", 5),
            moved(3, "alpha", "beta", 3),
        ];
        assert_eq!(told(&made, 0), "None alpha 5 | ");
        assert_eq!(told(&made, 1), "Some(1) mint 8 | beta 3");
        assert_eq!(told(&made, 3), "Some(1) mint>alpha 3 | beta 3");
    }

    #[test]
    fn money_that_goes_round_for_long_keeps_its_beginning_and_its_end_and_says_that_more_is_between() {
        let mut made = vec![moved(0, "mint", "a", 1)];
        made.extend((1..40).map(|n| if n % 2 == 1 { moved(n, "a", "b", 1) } else { moved(n, "b", "a", 1) }));
        assert_eq!(told(&made, 39), "Some(0) mint>a>…>b>a>b>a 1 | b 1");
    }
}
