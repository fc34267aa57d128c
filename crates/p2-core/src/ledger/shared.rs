//! Parts of a book that its copies share one by one. A persistent collection copies a whole node, some dozen elements,
//! where one of them changes; here an element of that copy is a counter and not a name, a history and texts.

use std::fmt;
use std::sync::Arc;

use imbl::{OrdMap, Vector};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::book::{Account, MOVEMENTS_MAX};
use crate::ids::AccountId;
use crate::record::Movement;

/// The accounts of a book, by name. Written down as a map.
#[derive(Clone, Default, PartialEq)]
pub struct Accounts(OrdMap<Arc<str>, Arc<(AccountId, Account)>>);

impl Accounts {
    /// The account of that name.
    pub fn get(&self, name: &AccountId) -> Option<&Account> {
        self.0.get(name.as_str()).map(|entry| &entry.1)
    }

    /// Whether there is one of that name.
    pub fn contains_key(&self, name: &AccountId) -> bool {
        self.0.contains_key(name.as_str())
    }

    /// Puts an account there, and says whether there was one.
    pub fn insert(&mut self, name: AccountId, account: Account) -> bool {
        let key = match self.0.get_key_value(name.as_str()) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::from(name.as_str()),
        };
        self.0.insert(key, Arc::new((name, account))).is_some()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&AccountId, &Account)> {
        self.0.values().map(|entry| (&entry.0, &entry.1))
    }

    /// All of them, by name, without their names.
    pub fn values(&self) -> impl Iterator<Item = &Account> {
        self.0.values().map(|entry| &entry.1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Accounts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Accounts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Accounts, D::Error> {
        let read = std::collections::BTreeMap::<AccountId, Account>::deserialize(from)?;
        let mut accounts = Accounts::default();
        for (name, account) in read {
            accounts.insert(name, account);
        }
        Ok(accounts)
    }
}

/// The newest movements of an account, oldest first; at most [`MOVEMENTS_MAX`]. Written down as a list.
#[derive(Clone, Default, PartialEq)]
pub struct Movements(Vector<Arc<Movement>>);

impl Movements {
    /// Keeps one more, and forgets the oldest where that is too many.
    pub fn push(&mut self, movement: Movement) {
        while self.0.len() >= MOVEMENTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Arc::new(movement));
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Movement> {
        self.0.iter().map(AsRef::as_ref)
    }
}

impl fmt::Debug for Movements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for Movements {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Movements {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Movements, D::Error> {
        Ok(Movements(Vec::<Movement>::deserialize(from)?.into_iter().map(Arc::new).collect()))
    }
}
