//! What must hold of every book.

use std::collections::BTreeMap;

use super::book::Book;
use super::draft::is_sound;
use crate::ids::AccountId;
use crate::record::LedgerTransaction;

impl Book {
    /// The rules, for the accounts that a transaction touched; in debug and test builds for everything it could have
    /// touched.
    pub(super) fn check_touched(&self, transaction: &LedgerTransaction) -> Result<(), String> {
        let paid = transaction.postings.iter().flat_map(|posting| [&posting.from, &posting.to]);
        let held = transaction.holds.iter().map(|hold| &hold.account);
        for name in paid.chain(held) {
            self.check_account(name)?;
        }
        if cfg!(debug_assertions) { self.check_sum() } else { Ok(()) }
    }

    fn check_account(&self, name: &AccountId) -> Result<(), String> {
        let account = self.accounts.get(name).ok_or_else(|| format!("there is no account '{name}'"))?;
        if is_sound(account) {
            return Ok(());
        }
        let (posted, reserved) = (account.balance.posted, account.balance.reserved);
        let (posted, reserved, debt) = (self.money(posted), self.money(reserved), self.money(account.debt));
        Err(format!("'{name}' has {posted}, set aside {reserved} and owes {debt}"))
    }

    fn check_sum(&self) -> Result<(), String> {
        let sum: i128 = self.accounts.values().map(|account| i128::from(account.balance.posted)).sum();
        if sum == 0 { Ok(()) } else { Err(format!("the sum of all accounts is {sum} and not 0")) }
    }

    /// Every rule, for everything.
    ///
    /// # Errors
    /// The first one that is broken, in a sentence.
    pub fn check(&self) -> Result<(), String> {
        self.check_sum()?;
        self.outside.check()?;
        let mut reserved: BTreeMap<&AccountId, i128> = BTreeMap::new();
        for (id, open) in &self.reservations {
            *reserved.entry(&open.from).or_default() += i128::from(open.amount);
            if open.amount <= 0 || !self.answers.contains_key(id) {
                return Err(format!("reservation {id} is of nothing, or of no request"));
            }
        }
        for (id, lapsed) in &self.lapsed {
            if lapsed.budget.is_none() || self.reservations.contains_key(id) {
                return Err(format!("reservation {id} has expired and is open, or is no budget's"));
            }
        }
        for (name, account) in self.accounts.iter() {
            self.check_account(name)?;
            let sum = reserved.remove(name).unwrap_or_default();
            if sum != i128::from(account.balance.reserved) {
                let told = account.balance.reserved;
                return Err(format!("'{name}' has {told} set aside, but its reservations are {sum}"));
            }
        }
        if let Some(name) = reserved.keys().next() {
            return Err(format!("there are reservations of '{name}', which is no account"));
        }
        let open = self.reservations.iter().filter_map(|(id, open)| Some((open.expires_ms?, *id)));
        let held = self.held.iter().filter_map(|(id, held)| Some((held.not_after_ms?, *id)));
        let due: imbl::OrdSet<(i64, crate::ids::Id)> = open.chain(held).collect();
        if due != self.due {
            return Err("the deadlines are not those of what is open".to_owned());
        }
        Ok(())
    }
}
