//! What a batch has, and what its outcome means.

use super::{Entry, EntryKind, Made, Part, PartTerms, Plan, Submitted};
use crate::ids::Id;
use crate::ledger::answer::{Code, Refusal};
use crate::ledger::apply::transaction_id;
use crate::ledger::book::Book;
use crate::ledger::decide::{Ruling, Work, answered, due};
use crate::record::{
    AccountKind, InDoubt, LedgerOutcome, LedgerTransaction, PaymentBody, PaymentRequest, Planned, Queued,
};

/// How large batches may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Most requests.
    pub requests_max: usize,
    /// Most movements; a single request may have more.
    pub entries_max: usize,
}

impl Default for Batching {
    fn default() -> Batching {
        Batching { requests_max: 50, entries_max: 500 }
    }
}

/// Answers a request on a book whose money is on an outside ledger. Where that takes a batch, or one is in flight,
/// the transactions say so, and [`Book::submission`] of the book after them is to be submitted.
pub fn decide_outside(book: &Book, request: &PaymentRequest, now_ms: i64, batching: Batching) -> Ruling {
    if let Some(ruling) = answered(book, request, now_ms) {
        return ruling;
    }
    let mut work = Work::new(book, now_ms);
    if book.outside.plan.is_some() {
        let message = "it waits for the batch before it".to_owned();
        work.follow(request, LedgerOutcome::Queued(Queued { message }), Vec::new(), Vec::new());
    } else {
        advance(&mut work, Some(request), batching);
    }
    work.ruling()
}

/// As [`due`]; nothing ends by itself while a batch is in flight, since what it rests on must not change.
pub fn due_outside(book: &Book, now_ms: i64) -> Option<PaymentRequest> {
    if book.outside.plan.is_some() { None } else { due(book, now_ms) }
}

/// What follows from the outcome of a submission. Nothing where the batch is not the one in flight.
pub fn replied(
    book: &Book,
    batch: &Id,
    outcome: &Submitted,
    now_ms: i64,
    batching: Batching,
) -> Vec<LedgerTransaction> {
    let Some(plan) = book.outside.plan.as_ref().filter(|plan| plan.batch == *batch) else {
        return Vec::new();
    };
    let mut work = Work::new(book, now_ms);
    match outcome {
        Submitted::Unknown { message } => return doubted(work, plan, message),
        Submitted::Taken { external } => {
            work.now_ms = plan.time_ms;
            if let Err(broken) = take(&mut work, plan, external) {
                let message = format!("the outside ledger took it as {external}, but {broken}");
                return doubted(Work::new(book, now_ms), plan, &message);
            }
            work.now_ms = now_ms;
        }
        Submitted::Refused { message } => match plan.parts.front() {
            Some(part) if plan.parts.len() == 1 => {
                if let Some(request) = book.outside.waiting(&part.request) {
                    let message = format!("the outside ledger refused it: {message}");
                    work.record(request, Err(Refusal::new(Code::External, message)));
                }
            }
            _ => {
                work.book.outside.limit = Some((plan.of / 2).max(1));
                work.book.outside.plan = None;
            }
        },
    }
    advance(&mut work, None, batching);
    // On a book that breaks a rule already nothing is written; the batch stays in flight.
    if work.broken.is_some() { Vec::new() } else { work.transactions }
}

fn doubted(mut work: Work, plan: &Plan, message: &str) -> Vec<LedgerTransaction> {
    if !plan.in_doubt {
        for part in &plan.parts {
            if let Some(request) = work.book.outside.waiting(&part.request).cloned() {
                let doubt = LedgerOutcome::InDoubt(InDoubt { message: message.to_owned() });
                work.follow(&request, doubt, Vec::new(), Vec::new());
            }
        }
    }
    work.transactions
}

/// What was worked out when the batch was planned becomes what is.
fn take(work: &mut Work, plan: &Plan, external: &str) -> Result<(), String> {
    for Part { request: part, terms } in &plan.parts {
        for Made { request, outcome, holds, postings } in &terms.made {
            let found = work.book.outside.waiting(request).filter(|_| request == part);
            let asked = found.or_else(|| work.book.held.get(request)).cloned();
            let asked = asked.ok_or_else(|| format!("request {request} does not wait for it"))?;
            let outcome = match outcome.clone() {
                LedgerOutcome::Committed(mut done) => {
                    done.external = Some(external.to_owned());
                    LedgerOutcome::Committed(done)
                }
                other => other,
            };
            work.try_follow(&asked, outcome, holds.clone(), postings.clone())?;
        }
    }
    Ok(())
}

/// Decides the queue in its order, then `new`. What moves nothing outside is answered at once, up to the first
/// request that does: with that one a batch begins.
fn advance(work: &mut Work, new: Option<&PaymentRequest>, batching: Batching) {
    let limit = work.book.outside.limit.and_then(|limit| usize::try_from(limit).ok());
    let requests_max = limit.unwrap_or(usize::MAX).min(batching.requests_max).max(1);
    let queue: Vec<PaymentRequest> = work.book.outside.queue.values().chain(new).cloned().collect();
    let mut projected = Work::new(&work.book, work.now_ms);
    let mut parts: Vec<(PaymentRequest, PartTerms)> = Vec::new();
    let mut entries = 0;
    for request in queue {
        if parts.len() >= requests_max {
            break;
        }
        let before = projected.book.clone();
        projected.transactions.clear();
        settle(&mut projected, &request);
        if projected.broken.is_some() {
            work.broken = projected.broken;
            return;
        }
        let terms = terms_of(&before, &projected.transactions);
        if parts.is_empty() && terms.entries.is_empty() {
            work.book = projected.book.clone();
            work.transactions.append(&mut projected.transactions);
            continue;
        }
        if !parts.is_empty() && entries + terms.entries.len() > batching.entries_max {
            break;
        }
        entries += terms.entries.len();
        parts.push((request, terms));
    }
    plan(work, parts);
}

fn plan(work: &mut Work, parts: Vec<(PaymentRequest, PartTerms)>) {
    let Some((first, _)) = parts.first() else { return };
    let of = i32::try_from(parts.len()).unwrap_or(i32::MAX);
    let seq = work.book.next_seq;
    let batch = Id::derive(&transaction_id(first, seq), "batch", 0);
    let last = seq.saturating_add(i64::from(of)).saturating_sub(1);
    let command = format!("p2/{}/{seq}-{last}", first.book);
    for (index, (request, terms)) in parts.into_iter().enumerate() {
        let data = serde_json::to_value(&terms).ok().map(Into::into);
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        let planned = Planned { batch, index, of, command: command.clone(), data };
        work.follow(&request, LedgerOutcome::Planned(Box::new(planned)), Vec::new(), Vec::new());
    }
}

/// The embedded ledger's answer, and what an outside ledger cannot do.
fn settle(work: &mut Work, request: &PaymentRequest) {
    let (book, made) = (work.book.clone(), work.transactions.len());
    work.settle(request);
    let postings = work.transactions.iter().skip(made).flat_map(|made| &made.postings);
    let refusal = postings.clone().find_map(|posting| {
        let kind = work.book.accounts.get(&posting.from)?.kind;
        let below = kind != AccountKind::Mint && posting.from_after.posted < 0;
        below.then(|| format!("'{}' would be below zero: an outside ledger gives no credit", posting.from))
    });
    let foreign = || {
        let has_money = book.accounts.values().any(|account| account.balance.posted != 0);
        (book.outside.batches == 0 && has_money).then(|| {
            format!(
                "the money of book '{}' was never on the outside ledger: use another book, or settle without one",
                request.book
            )
        })
    };
    let moves = postings.count() > 0;
    if let Some(message) = refusal.or_else(|| if moves { foreign() } else { None }) {
        work.book = book;
        work.transactions.truncate(made);
        work.record(request, Err(Refusal::new(Code::External, message)));
    }
}

fn terms_of(before: &Book, transactions: &[LedgerTransaction]) -> PartTerms {
    let mut terms = PartTerms::default();
    for made in transactions {
        let LedgerTransaction { request, outcome, holds, postings, .. } = made;
        if matches!(outcome, LedgerOutcome::Committed(_)) {
            terms.entries.extend(entries_of(before, made));
        }
        terms.made.push(Made {
            request: request.id,
            outcome: outcome.clone(),
            holds: holds.clone(),
            postings: postings.clone(),
        });
    }
    terms
}

fn entries_of(book: &Book, made: &LedgerTransaction) -> Vec<Entry> {
    let PaymentRequest { id, cause, body, .. } = &made.request;
    let entry = |kind, from, to, amount| Entry {
        kind,
        from,
        to,
        amount,
        request: *id,
        evaluation: match body {
            PaymentBody::Reward(reward) => Some(reward.evaluation),
            _ => None,
        },
        conversation: cause.conversation.clone(),
        reason: cause.reason.clone(),
    };
    if let PaymentBody::Freeze(set) = body {
        let kind = if set.frozen { EntryKind::Freeze } else { EntryKind::Thaw };
        return vec![entry(kind, Some(set.account.clone()), None, 0)];
    }
    let is_mint = |name| book.accounts.get(name).is_some_and(|account| account.kind == AccountKind::Mint);
    let moved = made.postings.iter().map(|posting| {
        let (from, to) = (Some(posting.from.clone()), Some(posting.to.clone()));
        match (is_mint(&posting.from), is_mint(&posting.to)) {
            (true, _) => entry(EntryKind::Deposit, None, to, posting.amount),
            (false, true) => entry(EntryKind::Withdraw, from, None, posting.amount),
            _ if matches!(body, PaymentBody::Reward(_)) => entry(EntryKind::Reward, from, to, posting.amount),
            _ => entry(EntryKind::Transfer, from, to, posting.amount),
        }
    });
    moved.collect()
}
