//! The stores of views, one kind for each view's topic.

use std::sync::Arc;

use p2_core::ids::{BookId, ConversationId};

use crate::ports::{LedgerStore, StackStore, StoreError};
use crate::view::{LaneRows, ViewRecord};

/// The store of a processor's view.
#[derive(Clone)]
pub enum Views {
    /// The processor has no view.
    None,
    /// Of `state-transitions`.
    Stacks(Arc<dyn StackStore>),
    /// Of `ledger-transactions`.
    Ledger(Arc<dyn LedgerStore>),
}

impl Views {
    pub(super) async fn write(
        &self,
        partition: i32,
        records: &[(i64, ViewRecord)],
        applied: i64,
    ) -> Result<(), StoreError> {
        match self {
            Views::None => Err(none()),
            Views::Stacks(store) => {
                let mut transitions = Vec::with_capacity(records.len());
                for (offset, record) in records {
                    let ViewRecord::Transition(transition) = record else { return Err(foreign()) };
                    transitions.push((*offset, transition.clone()));
                }
                store.write(partition, transitions, applied).await
            }
            Views::Ledger(store) => {
                let mut transactions = Vec::with_capacity(records.len());
                for (offset, record) in records {
                    let ViewRecord::Ledger(transaction) = record else { return Err(foreign()) };
                    transactions.push((*offset, transaction.as_ref()));
                }
                store.write(partition, &transactions, applied).await
            }
        }
    }

    pub(super) async fn applied(&self, partition: i32) -> Result<i64, StoreError> {
        match self {
            Views::None => Err(none()),
            Views::Stacks(store) => store.applied(partition).await,
            Views::Ledger(store) => store.applied(partition).await,
        }
    }

    pub(super) async fn load(&self, key: &str) -> Result<LaneRows, StoreError> {
        match self {
            Views::None => Err(none()),
            Views::Stacks(store) => store.load(&ConversationId::from(key)).await.map(LaneRows::Transitions),
            Views::Ledger(store) => {
                store.load(&BookId::from(key)).await.map(|book| LaneRows::Book(Box::new(book)))
            }
        }
    }

    /// Lanes in which something is open.
    pub(super) async fn open(&self, partition: i32) -> Result<Vec<String>, StoreError> {
        match self {
            Views::None => Err(none()),
            Views::Stacks(store) => Ok(store.open(partition).await?.into_iter().map(|id| id.0).collect()),
            Views::Ledger(store) => Ok(store.open(partition).await?.into_iter().map(|id| id.0).collect()),
        }
    }

    pub(super) async fn follow(&self) -> Result<(), StoreError> {
        match self {
            Views::None | Views::Ledger(_) => Ok(()),
            Views::Stacks(store) => store.follow().await,
        }
    }
}

fn none() -> StoreError {
    StoreError::Corrupt("this processor has a view, but was given no store for it".to_owned())
}

fn foreign() -> StoreError {
    StoreError::Corrupt("a record of another topic in the view".to_owned())
}
