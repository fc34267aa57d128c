//! The books as the live reader has read them, and what has to happen before they are at rest.

use std::collections::{BTreeMap, BTreeSet};

use p2_core::ids::{BookId, Id};
use p2_core::ledger::{Book, digest};
use p2_core::record::{LedgerOutcome, LedgerTransaction, PaymentBody, PaymentRequest};

/// A request as it counts: its id, and what it asks.
type Asked = (Id, Id);

/// Requests and books, as far as they were read.
#[derive(Default)]
pub(crate) struct Money {
    /// Every book, folded.
    pub(crate) books: BTreeMap<BookId, Book>,
    /// Records of requests.
    records: BTreeSet<Id>,
    /// What was asked first under each id.
    first: BTreeMap<Id, Id>,
    /// How often each was asked; what only asks for a balance is not recorded.
    asked: BTreeMap<Asked, usize>,
    /// How often each was decided for good.
    decided: BTreeMap<Asked, usize>,
}

impl Money {
    /// Takes a request.
    pub(crate) fn request(&mut self, record: Id, request: &PaymentRequest) {
        self.records.insert(record);
        if !matches!(request.body, PaymentBody::Query(_)) {
            let what = digest(request);
            self.first.entry(request.id).or_insert(what);
            *self.asked.entry((request.id, what)).or_default() += 1;
        }
    }

    /// Takes the next transaction of its book.
    ///
    /// # Errors
    /// It does not follow, or breaks a rule.
    pub(crate) fn transaction(&mut self, made: &LedgerTransaction) -> Result<(), String> {
        if matches!(made.outcome, LedgerOutcome::Committed(_) | LedgerOutcome::Rejected(_)) {
            *self.decided.entry((made.request.id, digest(&made.request))).or_default() += 1;
        }
        self.books.entry(made.book.clone()).or_default().apply(made)
    }

    /// What still has to happen before the books are at rest; none where they are.
    pub(crate) fn unrest(&self, acknowledged: &BTreeSet<Id>) -> Option<String> {
        let unread = acknowledged.difference(&self.records);
        let undecided = self.asked.iter().filter(|((id, what), times)| {
            // The first is answered once; what asks for something else under its id is refused each time.
            let due = if self.first.get(id) == Some(what) { 1 } else { **times };
            let held = self.books.values().any(|book| book.held.contains_key(id));
            !held && self.decided.get(&(*id, *what)).copied().unwrap_or(0) < due
        });
        let told = |what: &str, count: usize, first: Option<Id>| {
            first.map(|first| format!("{count} payment requests {what}, first {first}"))
        };
        told("are not read yet", unread.clone().count(), unread.clone().next().copied())
            .or_else(|| {
                let first = undecided.clone().next().map(|((id, _), _)| *id);
                told("are not decided", undecided.count(), first)
            })
            .or_else(|| {
                let due = self.books.values().find_map(Book::next_due);
                due.map(|(at_ms, id)| format!("{id} ends by time, at {at_ms}"))
            })
    }
}
