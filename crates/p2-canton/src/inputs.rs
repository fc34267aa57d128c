//! Which holdings a batch spends.

use std::collections::BTreeMap;

use p2_core::ids::AccountId;
use p2_core::ledger::Submission;

use crate::model::units;

/// Holdings that a wallet may have before some that are not needed are merged.
const SCATTERED: usize = 16;
/// Most holdings of one wallet that a batch takes.
const INPUTS_MAX: usize = 64;

/// The holdings (contract, amount) to take in: of every wallet that pays, the largest until they cover what it pays in
/// the whole batch, or all that there are; and of a wallet with many, small ones beside them, which come back as one.
pub(crate) fn choose(batch: &Submission, holdings: &BTreeMap<AccountId, Vec<(String, i128)>>) -> Vec<String> {
    let mut pays: BTreeMap<&AccountId, i128> = BTreeMap::new();
    for entry in batch.entries.iter().filter(|entry| entry.amount > 0) {
        if let Some(payer) = &entry.from {
            *pays.entry(payer).or_default() += units(entry.amount, batch.scale);
        }
    }
    let mut chosen = Vec::new();
    for (wallet, needed) in pays {
        let mut own: Vec<&(String, i128)> = holdings.get(wallet).into_iter().flatten().collect();
        // The order of equal amounts is that of the contracts, so that two tries choose the same.
        own.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let mut sum = 0;
        let covering = own
            .iter()
            .take_while(|(_, amount)| {
                let more = sum < needed;
                sum += amount;
                more
            })
            .count();
        let merged = if own.len() > SCATTERED { INPUTS_MAX.saturating_sub(covering) } else { 0 };
        let (first, rest) = own.split_at(covering.min(own.len()));
        chosen
            .extend(first.iter().chain(rest.iter().rev().take(merged)).map(|(contract, _)| contract.clone()));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use p2_core::ids::{BookId, Id};
    use p2_core::ledger::{Entry, EntryKind};

    use super::*;

    fn batch(payments: &[(&str, i64)]) -> Submission {
        let entry = |(from, amount): &(&str, i64)| Entry {
            kind: EntryKind::Transfer,
            from: Some(AccountId::from(*from)),
            to: Some(AccountId::from("shop")),
            amount: *amount,
            request: Id::default(),
            evaluation: None,
            conversation: None,
            reason: String::new(),
        };
        Submission {
            book: BookId::from("main"),
            unit: "TOKEN".into(),
            scale: 10,
            batch: Id::default(),
            command: "c".into(),
            expected: 0,
            last: 0,
            entries: payments.iter().map(entry).collect(),
        }
    }

    fn holdings(amounts: &[i128]) -> BTreeMap<AccountId, Vec<(String, i128)>> {
        let own = amounts.iter().enumerate().map(|(at, amount)| (format!("h{at}"), *amount));
        [(AccountId::from("alpha"), own.collect())].into()
    }

    #[test]
    fn the_largest_that_cover_all_that_a_wallet_pays_are_taken() {
        let own = holdings(&[5, 50, 20, 1]);
        assert_eq!(choose(&batch(&[("alpha", 30), ("alpha", 30)]), &own), ["h1", "h2"]);
        assert_eq!(choose(&batch(&[("alpha", 50)]), &own), ["h1"]);
        assert_eq!(
            choose(&batch(&[("alpha", 1_000)]), &own).len(),
            4,
            "the ledger says that it is not enough"
        );
        assert!(choose(&batch(&[("beta", 1)]), &own).is_empty());
    }

    #[test]
    fn a_wallet_with_many_small_holdings_has_them_merged_when_it_pays() {
        let own = holdings(&[1; 200]);
        assert_eq!(choose(&batch(&[("alpha", 3)]), &own).len(), INPUTS_MAX);
        assert_eq!(choose(&batch(&[("alpha", 100)]), &own).len(), 100, "what is needed is taken");
        assert_eq!(choose(&batch(&[("alpha", 3)]), &holdings(&[1; 16])).len(), 3);
    }
}
