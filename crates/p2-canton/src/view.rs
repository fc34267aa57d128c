//! What is on the ledger, as far as it was read: the active holdings and cursors, kept up by updates.

use std::collections::BTreeMap;

use p2_core::ids::{AccountId, BookId};

use crate::client::{Client, Created, Transaction};
use crate::error::{CantonError, Class};
use crate::model::{Contract, Cursor, TEMPLATES, contract};

/// Offsets that are read one after the other; further behind, the active contracts are read anew.
const BEHIND_MAX: i64 = 5_000;

/// Active holdings and cursors at an offset.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// None before the first reading.
    offset: Option<i64>,
    contracts: BTreeMap<String, Contract>,
}

/// Why the ledger could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Canton(#[from] CantonError),
    #[error("{0}")]
    Model(String),
}

impl View {
    /// Reads on to the ledger's end as of now.
    pub(crate) async fn catch_up(&mut self, client: &Client, party: &str) -> Result<(), ReadError> {
        let end = client.ledger_end().await?;
        let Some(offset) =
            self.offset.filter(|offset| end.saturating_sub(*offset) <= BEHIND_MAX && end >= *offset)
        else {
            return self.read_anew(client, party, end).await;
        };
        match client.updates(party, &TEMPLATES, offset, end).await {
            Ok(updates) => updates.iter().try_for_each(|update| self.take(update))?,
            Err(error) if matches!(error.class(), Class::Pruned | Class::TooMany) => {
                return self.read_anew(client, party, end).await;
            }
            Err(error) => return Err(error.into()),
        }
        self.offset = Some(end);
        Ok(())
    }

    async fn read_anew(&mut self, client: &Client, party: &str, end: i64) -> Result<(), ReadError> {
        self.offset = None;
        self.contracts.clear();
        for created in client.active_contracts(party, &TEMPLATES, end).await? {
            self.insert(&created)?;
        }
        self.offset = Some(end);
        Ok(())
    }

    fn take(&mut self, update: &Transaction) -> Result<(), ReadError> {
        for created in update.created() {
            self.insert(&Created { offset: update.offset, ..created.clone() })?;
        }
        update.archived().for_each(|ended| drop(self.contracts.remove(ended)));
        Ok(())
    }

    fn insert(&mut self, created: &Created) -> Result<(), ReadError> {
        if let Some(found) = contract(created).map_err(ReadError::Model)? {
            self.contracts.insert(created.contract_id.clone(), found);
        }
        Ok(())
    }

    /// The cursor of a book.
    ///
    /// # Errors
    /// A sentence where it has two: nothing of that book can be settled safely.
    pub(crate) fn cursor(&self, book: &BookId) -> Result<Option<Cursor>, String> {
        let mut found = self.contracts.values().filter_map(|contract| match contract {
            Contract::Cursor(cursor) if cursor.book == *book => Some(cursor),
            _ => None,
        });
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(format!(
                "book '{book}' has two cursors on the ledger: archive the one that is not the book's, by hand"
            )),
            (first, _) => Ok(first.cloned()),
        }
    }

    /// The holdings of a book's wallets: (contract, amount).
    pub(crate) fn holdings(&self, book: &BookId) -> BTreeMap<AccountId, Vec<(String, i128)>> {
        let mut found: BTreeMap<AccountId, Vec<(String, i128)>> = BTreeMap::new();
        for (id, contract) in &self.contracts {
            if let Contract::Holding(holding) = contract
                && holding.book == *book
            {
                found.entry(holding.wallet.clone()).or_default().push((id.clone(), holding.amount));
            }
        }
        found
    }
}
