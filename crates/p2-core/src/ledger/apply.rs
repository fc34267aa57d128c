//! The fold of `ledger-transactions`. It believes no sum: everything is computed again and compared.

use super::amount::{rescale, rescale_up};
use super::answer::{Answer, Code, Refusal, digest};
use super::book::{Account, Book, Reservation, Terms};
use super::draft::{self, Reason, day_of};
use super::reward::default_policy;
use super::shared::Movements;
use crate::ids::Id;
use crate::record::{
    Balance, CauseKind, Hold, HoldState, LedgerOutcome, LedgerTransaction, PaymentBody, PaymentRequest,
    PaymentStatus, Posting,
};

impl Book {
    /// Takes a transaction in.
    ///
    /// # Errors
    /// A sentence where it does not follow what was folded before, or breaks a rule; the book is unchanged then.
    pub fn apply(&mut self, transaction: &LedgerTransaction) -> Result<(), String> {
        let LedgerTransaction { book, seq, previous, id, .. } = transaction;
        let at = || format!("ledger transaction {id} (book '{book}', seq {seq})");
        if self.terms.as_ref().is_some_and(|terms| terms.book != *book) {
            return Err(format!("{} is of another book", at()));
        }
        if (*seq, *previous) != (self.next_seq, self.last) {
            let last = self.last.map_or_else(|| "none".to_owned(), |last| last.to_string());
            return Err(format!("{} does not follow seq {} after {last}", at(), self.next_seq));
        }
        // The answers are many: they are changed in place and mended where the rest fails, everything else in a copy.
        let answers = std::mem::take(&mut self.answers);
        let named = std::iter::once(transaction.request.id)
            .chain(transaction.holds.iter().map(|hold| hold.reservation));
        let before: Vec<(Id, Option<Answer>)> = named.map(|id| (id, answers.get(&id).copied())).collect();
        let mut next = Book { answers, ..self.clone() };
        let taken = next.take(transaction).and_then(|()| {
            next.next_seq += 1;
            next.last = Some(*id);
            next.check_touched(transaction)
        });
        if let Err(reason) = taken {
            self.answers = next.answers;
            for (id, answer) in before {
                match answer {
                    Some(answer) => self.answers.insert(id, answer),
                    None => self.answers.remove(&id),
                };
            }
            return Err(format!("{}: {reason}", at()));
        }
        *self = next;
        Ok(())
    }

    fn take(&mut self, transaction: &LedgerTransaction) -> Result<(), String> {
        let LedgerTransaction { request, outcome, .. } = transaction;
        if !self.remember(transaction)? {
            return nothing_moved(transaction);
        }
        self.outside.take(transaction)?;
        if is_final(outcome)
            && let Some(held) = self.held.remove(&request.id)
            && let Some(due) = held.not_after_ms
        {
            self.due.remove(&(due, request.id));
        }
        match outcome {
            LedgerOutcome::Committed(_) => {
                self.define(request).map_err(|refusal| refusal.message)?;
                self.move_money(transaction)
            }
            LedgerOutcome::Pending(_) => {
                self.due.extend(request.not_after_ms.map(|due| (due, request.id)));
                self.held.insert(request.id, request.clone());
                nothing_moved(transaction)
            }
            LedgerOutcome::Rejected(_)
            | LedgerOutcome::InDoubt(_)
            | LedgerOutcome::Planned(_)
            | LedgerOutcome::Queued(_) => nothing_moved(transaction),
        }
    }

    /// Keeps the answer; false for a refused second request under an answered id, which changes nothing.
    fn remember(&mut self, transaction: &LedgerTransaction) -> Result<bool, String> {
        let LedgerTransaction { request, outcome, id, seq, .. } = transaction;
        let (status, code) = status_of(outcome);
        let reserves =
            matches!((&request.body, outcome), (PaymentBody::Reserve(_), LedgerOutcome::Committed(_)));
        let hold = reserves.then_some(HoldState::Open);
        let answer = Answer { digest: digest(request), transaction: *id, seq: *seq, status, code, hold };
        match self.answers.get(&request.id) {
            Some(first) if first.digest != answer.digest => {
                if status == PaymentStatus::Rejected {
                    return Ok(false);
                }
                return Err(format!("request {} was answered with another body", request.id));
            }
            Some(first) if matches!(first.status, PaymentStatus::Committed | PaymentStatus::Rejected) => {
                return Err(format!("request {} has its final answer already", request.id));
            }
            _ => {}
        }
        self.answers.insert(request.id, answer);
        Ok(true)
    }

    /// What a request says word for word: books, accounts, limits, policies.
    pub(super) fn define(&mut self, request: &PaymentRequest) -> Result<(), Refusal> {
        match &request.body {
            PaymentBody::OpenBook(_) if self.terms.is_some() => {
                return Err(Refusal::new(Code::Exists, format!("book '{}' is opened twice", request.book)));
            }
            PaymentBody::OpenBook(open) => {
                let terms = Terms { book: request.book.clone(), unit: open.unit.clone(), scale: open.scale };
                self.terms = Some(terms);
                self.policy = Some(default_policy(open.scale));
            }
            PaymentBody::OpenAccount(open) => {
                let account = Account {
                    kind: open.kind,
                    limits: open.limits,
                    frozen: false,
                    balance: Balance::default(),
                    debt: 0,
                    day: 0,
                    spent: 0,
                    movements: Movements::default(),
                };
                if self.accounts.insert(open.account.clone(), account) {
                    let sentence = format!("account '{}' is opened twice", open.account);
                    return Err(Refusal::new(Code::Exists, sentence));
                }
            }
            PaymentBody::SetLimits(set) => {
                let mut account = self.account(&set.account)?.clone();
                account.limits = set.limits;
                account.debt = account.debt.min(account.short());
                self.accounts.insert(set.account.clone(), account);
            }
            PaymentBody::Freeze(set) => {
                let mut account = self.account(&set.account)?.clone();
                account.frozen = set.frozen;
                self.accounts.insert(set.account.clone(), account);
            }
            PaymentBody::SetPolicy(set) => self.policy = Some(set.policy.clone()),
            _ => {}
        }
        Ok(())
    }

    fn move_money(&mut self, transaction: &LedgerTransaction) -> Result<(), String> {
        let LedgerTransaction { id, request, holds, postings, time_ms, .. } = transaction;
        let paid: i64 = postings.iter().map(|posting| posting.amount).fold(0, i64::saturating_add);
        for told in holds {
            let found = self.take_hold(told, request, *time_ms, paid).map_err(|refusal| refusal.message)?;
            if found != *told {
                return Err(format!("{told:?} does not follow, but {found:?}"));
            }
        }
        let owes = self.end_lapsed(request, holds, postings)?;
        let set_aside =
            holds.iter().map(|hold| hold.change.saturating_neg().max(0)).fold(0, i64::saturating_add);
        for told in postings {
            let Posting { from, to, amount, .. } = told;
            let posts = matches!(request.body, PaymentBody::Post(_));
            let counts = Reason::beyond(*amount, if posts { set_aside } else { 0 });
            let why =
                Reason { transaction: *id, time_ms: *time_ms, reason: &request.cause.reason, counts, owes };
            let found = draft::post(self, from, to, *amount, &why).map_err(|refusal| refusal.message)?;
            if found != *told {
                return Err(format!("{told:?} does not follow, but {found:?}"));
            }
        }
        Ok(())
    }

    /// Whether this posts for a budget, so that what is not there is owed. One without a hold is for a reservation that
    /// expired, which ends for good with it.
    fn end_lapsed(
        &mut self,
        request: &PaymentRequest,
        holds: &[Hold],
        postings: &[Posting],
    ) -> Result<bool, String> {
        let PaymentBody::Post(post) = &request.body else { return Ok(false) };
        if holds.is_empty() {
            let lapsed = self.lapsed.remove(&post.reservation);
            let same = |posting: &Posting| {
                lapsed.as_ref().is_some_and(|open| (&open.from, &open.to) == (&posting.from, &posting.to))
            };
            if !postings.iter().all(same) {
                return Err(format!("it posts for {}, which was not set aside", post.reservation));
            }
        }
        Ok(request.cause.kind == CauseKind::Budget)
    }

    fn take_hold(
        &mut self,
        told: &Hold,
        request: &PaymentRequest,
        time_ms: i64,
        paid: i64,
    ) -> Result<Hold, Refusal> {
        match (&request.body, told.state) {
            (PaymentBody::Reserve(reserve), HoldState::Open) => {
                let reservation = reservation(request, reserve, self.scale(), time_ms)?;
                draft::hold(self, request.id, reservation, time_ms)
            }
            (_, HoldState::Posted) => {
                let unspent = Reason::beyond(told.change.saturating_neg(), paid);
                draft::release(self, told.reservation, told.state, unspent)
            }
            (_, state) => draft::release(self, told.reservation, state, told.change.saturating_neg()),
        }
    }
}

/// The reservation that a request makes.
///
/// # Errors
/// [`Code::Invalid`] where its amount cannot be written in the decimals of the book.
pub(super) fn reservation(
    request: &PaymentRequest,
    reserve: &crate::record::Reserve,
    scale: i32,
    time_ms: i64,
) -> Result<Reservation, Refusal> {
    let budget = request.cause.kind == CauseKind::Budget;
    Ok(Reservation {
        from: reserve.from.clone(),
        to: reserve.to.clone(),
        amount: in_units(reserve.amount, reserve.scale, scale, budget)?,
        expires_ms: reserve.expires_ms,
        day: day_of(time_ms),
        budget: request.cause.agent.clone().filter(|_| budget),
    })
}

/// An amount in the decimals of the book, exactly, or rounded up for a budget.
pub(super) fn in_units(amount: i64, from: Option<i32>, to: i32, up: bool) -> Result<i64, Refusal> {
    let Some(from) = from else { return Ok(amount) };
    let found = if up { rescale_up(amount, from, to) } else { rescale(amount, from, to) };
    found.map_err(|bad| Refusal::new(Code::Invalid, format!("the amount {bad}")))
}

/// Its id: derived, so that deciding again names it again.
pub(super) fn transaction_id(request: &PaymentRequest, seq: i64) -> Id {
    Id::of_text(&format!("ledger-transaction\n{}\n{seq}\n{}", request.book, request.id))
}

fn is_final(outcome: &LedgerOutcome) -> bool {
    matches!(outcome, LedgerOutcome::Committed(_) | LedgerOutcome::Rejected(_))
}

fn status_of(outcome: &LedgerOutcome) -> (PaymentStatus, Code) {
    match outcome {
        LedgerOutcome::Committed(_) => (PaymentStatus::Committed, Code::Ok),
        LedgerOutcome::Rejected(rejected) => (PaymentStatus::Rejected, Code::parse(&rejected.code)),
        LedgerOutcome::Pending(_) => (PaymentStatus::Pending, Code::Ok),
        LedgerOutcome::InDoubt(_) | LedgerOutcome::Planned(_) | LedgerOutcome::Queued(_) => {
            (PaymentStatus::InDoubt, Code::Ok)
        }
    }
}

fn nothing_moved(transaction: &LedgerTransaction) -> Result<(), String> {
    if transaction.holds.is_empty() && transaction.postings.is_empty() {
        return Ok(());
    }
    Err(format!("it moves money, but is {}", transaction.outcome.as_str()))
}
