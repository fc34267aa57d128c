//! Who keeps the books a second time, by rules written down a second time: it takes every ledger transaction in its
//! order, says what had to become of the request, and compares.

use std::collections::{BTreeMap, BTreeSet};

use p2_core::ids::{AccountId, AgentId, BookId, Id};
use p2_core::ledger::Code;
use p2_core::record::*;

use super::payers::SPENDING;
use super::rules::{Expected, Rewarded};
use crate::actor::Outside;

/// What an account has, and what it may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Purse {
    /// What it is for.
    pub kind: AccountKind,
    /// What it may do.
    pub limits: AccountLimits,
    /// It neither pays nor is paid.
    pub frozen: bool,
    /// Paid to it less what it paid, minor units.
    pub has: i64,
    /// The newest day on which it paid, and how much since.
    pub day: (i64, i64),
    /// What its work has cost that was not there.
    pub owes: i64,
}

/// What is set aside.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Aside {
    pub(super) from: AccountId,
    pub(super) to: AccountId,
    pub(super) amount: i64,
    pub(super) until_ms: Option<i64>,
    pub(super) day: i64,
    /// The agent for whose work it is.
    pub(super) agent: Option<AgentId>,
}

/// How a request stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// What it asked.
    pub body: PaymentBody,
    /// How it ended, or that it waits.
    pub status: PaymentStatus,
    /// Its newest transaction.
    pub transaction: Id,
    /// Why it was refused; empty where it was not.
    pub code: String,
}

/// One book.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    pub(super) open: bool,
    pub(super) purses: BTreeMap<AccountId, Purse>,
    pub(super) asides: BTreeMap<Id, Aside>,
    /// Reservations that have ended.
    pub(super) ended: BTreeSet<Id>,
    /// Of these, those for work that time ended: what it cost may still be told.
    pub(super) overdue: BTreeMap<Id, Aside>,
    pub(super) waiting: BTreeMap<Id, PaymentRequest>,
    pub(super) answered: BTreeMap<Id, Standing>,
    pub(super) policy: Option<LedgerPolicy>,
    rewarded: BTreeSet<Rewarded>,
    /// A request that waited and must be answered by the very next transaction: what was said of it.
    goes_on: Option<(Id, Option<Verdict>)>,
    /// Second bodies under an answered id, which were refused.
    refused: Vec<(Id, PaymentBody)>,
    seq: i64,
    last: Option<Id>,
    /// Where the newest request that was decided lies.
    newest: i64,
}

/// The bookkeeper.
#[derive(Clone, Debug, Default)]
pub struct Bookkeeper {
    books: BTreeMap<BookId, Pages>,
}

fn as_result(ok: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if ok { Ok(()) } else { Err(why()) }
}

impl Bookkeeper {
    /// Takes the records of one commit in their order.
    ///
    /// # Errors
    /// The promise that they break.
    pub fn committed(&mut self, outputs: &[&Message], outside: &mut Outside) -> Result<(), String> {
        for output in outputs {
            match &output.payload {
                Payload::LedgerTransaction(made) => {
                    self.take(made, outside)?;
                    self.in_order(made, output)?;
                    told(made, outputs)?;
                }
                Payload::Inbox(InboxMessage { body: InboxBody::PaymentResult(result), .. }) => {
                    self.result(result, outside)?;
                }
                _ => {}
            }
        }
        match self.books.iter().find(|(_, pages)| pages.goes_on.is_some()) {
            Some((book, _)) => Err(format!("{book}: a decided request was not answered with its decision")),
            None => Ok(()),
        }
    }

    /// Takes the next transaction of its book.
    ///
    /// # Errors
    /// It is not what had to follow, or breaks a rule.
    pub fn take(&mut self, made: &LedgerTransaction, outside: &mut Outside) -> Result<(), String> {
        let pages = self.books.entry(made.book.clone()).or_default();
        let at = format!("{} {} ({} {})", made.book, made.seq, made.request.body.kind(), made.request.id);
        pages.take(made, outside).map_err(|why| format!("{at}: {why}"))?;
        pages.balanced().map_err(|why| format!("{at}: {why}"))
    }

    /// Requests of a book are decided in the order in which they lie.
    fn in_order(&mut self, made: &LedgerTransaction, output: &Message) -> Result<(), String> {
        let Some(pages) = self.books.get_mut(&made.book) else { return Ok(()) };
        let Some(place) = output.cause_position else { return Ok(()) };
        let newest = std::mem::replace(&mut pages.newest, place.offset);
        as_result(newest <= place.offset, || {
            format!("{}: the request at {} was decided after that at {newest}", made.book, place.offset)
        })
    }

    fn result(&self, result: &PaymentResult, outside: &mut Outside) -> Result<(), String> {
        if let Some(view) = &result.account {
            let has = |pages: &Pages| {
                let purse = pages.purses.get(&view.account);
                purse.is_some_and(|purse| {
                    (purse.has, pages.aside_of(&view.account)) == (view.balance.posted, view.balance.reserved)
                })
            };
            outside.count("balance told");
            return as_result(self.books.values().any(has), || format!("no book has {view:?}"));
        }
        let Some(transaction) = result.transaction else { return Ok(()) };
        let conflict = ["conflict", "already_rewarded"].contains(&result.code.as_str());
        let stands = |pages: &Pages| {
            let first = pages.answered.get(&result.request);
            first.is_some_and(|first| first.transaction == transaction && first.status == result.status)
        };
        as_result(conflict || self.books.values().any(stands), || {
            format!("a conversation was told {result:?}, and that is not what became of it")
        })
    }

    /// How a request stands, if it was ever answered.
    pub fn standing(&self, book: &BookId, request: &Id) -> Option<&Standing> {
        self.books.get(book)?.answered.get(request)
    }

    /// Whether it was answered: as it is, or refused because its id belongs to another.
    pub fn is_answered(&self, request: &PaymentRequest) -> bool {
        self.books.get(&request.book).is_some_and(|pages| {
            let same = |first: &Standing| first.body == request.body;
            pages.answered.get(&request.id).is_some_and(same)
                || pages.refused.iter().any(|(id, body)| *id == request.id && *body == request.body)
        })
    }

    /// The accounts of a book.
    pub fn purses(&self, book: &BookId) -> Option<&BTreeMap<AccountId, Purse>> {
        self.books.get(book).filter(|pages| pages.open).map(|pages| &pages.purses)
    }

    /// Reservations of a book: (open, ended).
    pub fn reservations(&self, book: &BookId) -> (Vec<Id>, Vec<Id>) {
        let Some(pages) = self.books.get(book) else { return (Vec::new(), Vec::new()) };
        (pages.asides.keys().copied().collect(), pages.ended.iter().copied().collect())
    }

    /// Requests of a book that wait for a person.
    pub fn waiting(&self, book: &BookId) -> Vec<Id> {
        self.books.get(book).map(|pages| pages.waiting.keys().copied().collect()).unwrap_or_default()
    }

    /// The version of a book's policy.
    pub fn policy_version(&self, book: &BookId) -> i32 {
        self.books.get(book).and_then(|pages| pages.policy.as_ref()).map_or(0, |policy| policy.version)
    }

    /// Everything has come to rest: nothing may be open whose time has come, and the fold of the same records says
    /// the same.
    ///
    /// # Errors
    /// What differs.
    pub fn at_rest(&self, book: &BookId, fold: &p2_core::ledger::Book) -> Result<(), String> {
        fold.check()?;
        let Some(pages) = self.books.get(book) else { return Err(format!("{book} was never heard of")) };
        let waits = pages.waiting.values().find(|waits| waits.not_after_ms.is_some());
        let open = pages.asides.values().find(|aside| aside.until_ms.is_some());
        if waits.is_some() || open.is_some() {
            return Err(format!("{book}: {waits:?} or {open:?} should have ended by itself"));
        }
        as_result(fold.next_seq == pages.seq, || {
            format!("{book}: {} transactions, the view has {}", pages.seq, fold.next_seq)
        })?;
        for (name, purse) in &pages.purses {
            let found = fold.accounts.get(name);
            let found = found.map(|known| (known.balance.posted, known.balance.reserved, known.debt));
            let due = Some((purse.has, pages.aside_of(name), purse.owes));
            as_result(found == due, || format!("{book}: '{name}' has {found:?} and should have {due:?}"))?;
        }
        as_result(fold.accounts.len() == pages.purses.len(), || format!("{book}: accounts nobody opened"))
    }

    /// Everything has come to rest: what is still set aside for work is held by a call that is in doubt.
    ///
    /// # Errors
    /// The reservation that was forgotten.
    pub fn work_has_ended(&self, book: &BookId, held: &BTreeSet<Id>) -> Result<(), String> {
        let Some(pages) = self.books.get(book) else { return Ok(()) };
        let left = |(id, aside): &(&Id, &Aside)| {
            aside.from.as_str() == SPENDING && aside.agent.is_some() && !held.contains(id)
        };
        match pages.asides.iter().find(left) {
            Some((id, aside)) => Err(format!("{book}: {id} is set aside for work that has ended: {aside:?}")),
            None => Ok(()),
        }
    }

    /// The books.
    pub fn books(&self) -> impl Iterator<Item = &BookId> {
        self.books.keys()
    }
}

/// Who asked and waits is told in the same commit.
fn told(made: &LedgerTransaction, outputs: &[&Message]) -> Result<(), String> {
    let status = match &made.outcome {
        LedgerOutcome::Committed(_) => PaymentStatus::Committed,
        LedgerOutcome::Rejected(_) => PaymentStatus::Rejected,
        _ => return Ok(()),
    };
    let Some(to) = &made.request.reply_to else { return Ok(()) };
    let tells = |output: &&Message| match &output.payload {
        Payload::Inbox(InboxMessage { conversation, body: InboxBody::PaymentResult(result) }) => {
            *conversation == to.conversation
                && (result.wait, result.transaction) == (to.wait, Some(made.id))
                && (result.request, result.status) == (made.request.id, status)
        }
        _ => false,
    };
    as_result(outputs.iter().any(tells), || {
        format!("nobody was told of the end of {} {}", made.request.body.kind(), made.request.id)
    })
}

impl Pages {
    pub(super) fn aside_of(&self, name: &AccountId) -> i64 {
        self.asides.values().filter(|aside| aside.from == *name).map(|aside| aside.amount).sum()
    }

    /// A copy of what payments change. What was answered is long, and has nothing to do with them.
    pub(super) fn purses_and_asides(&self) -> Pages {
        let (purses, asides) = (self.purses.clone(), self.asides.clone());
        Pages { open: self.open, purses, asides, policy: self.policy.clone(), ..Pages::default() }
    }

    fn take(&mut self, made: &LedgerTransaction, outside: &mut Outside) -> Result<(), String> {
        as_result((made.seq, made.previous) == (self.seq, self.last), || {
            format!("it does not follow transaction {}", self.seq - 1)
        })?;
        (self.seq, self.last) = (self.seq + 1, Some(made.id));
        let request = &made.request;
        if let Some(first) = self.answered.get(&request.id)
            && self.goes_on.as_ref().is_none_or(|(id, _)| *id != request.id)
        {
            let other = first.body != request.body;
            let refused = matches!(made.outcome, LedgerOutcome::Rejected(_));
            as_result(other && refused, || "its id was answered before".to_owned())?;
            self.refused.push((request.id, request.body.clone()));
            outside.count(match request.body {
                PaymentBody::Reward(_) => "already rewarded",
                _ => "payment conflict",
            });
            return Ok(());
        }
        let expected = match self.goes_on.take() {
            Some((id, decided)) => {
                as_result(id == request.id, || format!("request {id} was decided and must follow"))?;
                self.waiting.remove(&id);
                let late = request.not_after_ms.is_some_and(|most| made.time_ms >= most);
                match decided {
                    Some(Verdict::Applied) if !late => self.expect(request, made.time_ms, true),
                    _ => Expected::Refused,
                }
            }
            None => self.expect(request, made.time_ms, false),
        };
        self.compare(made, expected, outside)
    }

    /// What was to be expected is what was done; then it is done here too.
    fn compare(
        &mut self,
        made: &LedgerTransaction,
        expected: Expected,
        outside: &mut Outside,
    ) -> Result<(), String> {
        let request = &made.request;
        let status = match (&made.outcome, &expected) {
            (LedgerOutcome::Committed(_), Expected::Done { .. }) => PaymentStatus::Committed,
            (LedgerOutcome::Rejected(why), Expected::Refused) => {
                outside.count(Code::parse(&why.code).as_str());
                PaymentStatus::Rejected
            }
            (LedgerOutcome::Pending(_), Expected::Waits) => PaymentStatus::Pending,
            (outcome, expected) => return Err(format!("{expected:?} was to follow and it is {outcome:?}")),
        };
        let code = match &made.outcome {
            LedgerOutcome::Rejected(why) => why.code.clone(),
            _ => String::new(),
        };
        let standing = Standing { body: request.body.clone(), status, transaction: made.id, code };
        self.answered.insert(request.id, standing);
        let Expected::Done { moves, aside, ended } = expected else {
            if status == PaymentStatus::Pending {
                outside.count("payment waits for a person");
                self.waiting.insert(request.id, request.clone());
            }
            let still = made.postings.is_empty() && made.holds.is_empty();
            return as_result(still, || "it moves money and was not done".to_owned());
        };
        outside.count(feature(request));
        let paid: Vec<_> = made.postings.iter().map(|p| (p.from.clone(), p.to.clone(), p.amount)).collect();
        as_result(paid == moves, || format!("{moves:?} were to be paid, {paid:?} were"))?;
        self.define(request);
        let held = self.end(made, ended, &moves, outside)?;
        if let Some(aside) = aside {
            let amount = aside.amount;
            self.spend(&aside.from, aside.day, amount);
            self.asides.insert(request.id, aside);
            let right = made.holds.iter().map(|hold| (hold.reservation, hold.change)).collect::<Vec<_>>();
            as_result(right == [(request.id, amount)], || {
                format!("not {amount} but {right:?} are set aside")
            })?;
        }
        let posts = matches!(request.body, PaymentBody::Post(_));
        let cost = posts && request.cause.kind == CauseKind::Budget;
        for (from, to, amount) in &moves {
            let charged = if posts { (amount - held).max(0) } else { *amount };
            if charged > 0 {
                self.spend(from, made.time_ms.div_euclid(86_400_000), charged);
            }
            self.change(from, -amount)?;
            self.change(to, *amount)?;
            if cost {
                if let Some(late) = self.overdue.remove(&posted(request)) {
                    outside.count("cost of work told after its time");
                    as_result((&late.from, &late.to) == (from, to), || {
                        "it is charged to another".to_owned()
                    })?;
                } else if charged > 0 {
                    outside.count("cost of work above its estimate");
                }
            }
        }
        self.owed(cost.then(|| moves.first().map(|(from, _, _)| from.clone())).flatten(), outside);
        if let Some(posting) = made.postings.last() {
            let found = (posting.from_after.posted, posting.to_after.posted);
            let due = (self.has(&posting.from), self.has(&posting.to));
            as_result(found == due, || format!("it says {found:?} were there afterwards, not {due:?}"))?;
        }
        self.follow_up(request)
    }

    /// A reservation ends once.
    fn end(
        &mut self,
        made: &LedgerTransaction,
        ended: Option<Id>,
        moves: &[(AccountId, AccountId, i64)],
        outside: &mut Outside,
    ) -> Result<i64, String> {
        let Some(id) = ended else { return Ok(0) };
        as_result(self.ended.insert(id), || format!("reservation {id} ends twice"))?;
        let Some(aside) = self.asides.remove(&id) else { return Err(format!("{id} was not set aside")) };
        let paid: i64 = moves.iter().map(|(_, _, amount)| amount).sum();
        if paid > 0 && paid < aside.amount {
            outside.count("reservation posted in part");
        }
        if let Some(purse) = self.purses.get_mut(&aside.from)
            && purse.day.0 == aside.day
        {
            purse.day.1 = (purse.day.1 - (aside.amount - paid).max(0)).max(0);
        }
        let holds: Vec<_> = made.holds.iter().map(|hold| (hold.reservation, hold.change)).collect();
        let amount = aside.amount;
        if matches!(made.request.body, PaymentBody::Expire(_)) && aside.agent.is_some() {
            self.overdue.insert(id, aside);
        }
        as_result(holds == [(id, -amount)], || format!("{holds:?} is not the end of {id}"))?;
        Ok(amount)
    }

    /// Who pays for work may owe; what comes in, or comes free, is for that first.
    fn owed(&mut self, may: Option<AccountId>, outside: &mut Outside) {
        let asides: Vec<(AccountId, i64)> =
            self.purses.keys().map(|name| (name.clone(), self.aside_of(name))).collect();
        for (name, aside) in asides {
            let Some(purse) = self.purses.get_mut(&name) else { continue };
            let short = (aside - purse.has - purse.limits.credit).max(0);
            if may.as_ref() == Some(&name) {
                if short > 0 {
                    outside.count("work not paid in full");
                }
                purse.owes = short;
            } else {
                purse.owes = purse.owes.min(short);
            }
        }
    }

    /// What a decision leads to, and what is paid once only.
    fn follow_up(&mut self, request: &PaymentRequest) -> Result<(), String> {
        match &request.body {
            PaymentBody::Approve(approve) => self.goes_on = Some((approve.request, Some(Verdict::Applied))),
            PaymentBody::Deny(deny) => self.goes_on = Some((deny.request, Some(Verdict::Refused))),
            PaymentBody::Void(void) if self.waiting.contains_key(&void.reservation) => {
                self.goes_on = Some((void.reservation, Some(Verdict::Refused)));
            }
            PaymentBody::Expire(expire) if self.waiting.contains_key(&expire.reference) => {
                self.goes_on = Some((expire.reference, None));
            }
            PaymentBody::Reward(reward) => {
                as_result(self.rewarded.insert(Rewarded::of(reward)), || {
                    format!("{} is rewarded twice for one work and occasion", reward.payee)
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    fn has(&self, name: &AccountId) -> i64 {
        self.purses.get(name).map_or(0, |purse| purse.has)
    }

    fn change(&mut self, name: &AccountId, by: i64) -> Result<(), String> {
        let purse = self.purses.get_mut(name).ok_or_else(|| format!("'{name}' was never opened"))?;
        purse.has = purse.has.checked_add(by).ok_or_else(|| format!("'{name}' overflows"))?;
        Ok(())
    }

    fn spend(&mut self, name: &AccountId, day: i64, amount: i64) {
        let Some(purse) = self.purses.get_mut(name) else { return };
        let before = if day > purse.day.0 { 0 } else { purse.day.1 };
        purse.day = (purse.day.0.max(day), before.saturating_add(amount));
    }

    /// Promise 6, for the whole book.
    fn balanced(&self) -> Result<(), String> {
        let sum: i128 = self.purses.values().map(|purse| i128::from(purse.has)).sum();
        as_result(sum == 0, || format!("the sum is {sum}"))?;
        for (name, purse) in &self.purses {
            let free = i128::from(purse.has) - i128::from(self.aside_of(name));
            let owes = i128::from(purse.owes);
            let covered =
                purse.kind == AccountKind::Mint || free + i128::from(purse.limits.credit) + owes >= 0;
            as_result(covered, || format!("'{name}' is overdrawn: {free}"))?;
        }
        Ok(())
    }

    fn define(&mut self, request: &PaymentRequest) {
        match &request.body {
            PaymentBody::OpenBook(_) => {
                self.open = true;
                self.policy = None;
            }
            PaymentBody::OpenAccount(open) => {
                let (kind, limits) = (open.kind, open.limits);
                let purse = Purse { kind, limits, frozen: false, has: 0, day: (0, 0), owes: 0 };
                self.purses.insert(open.account.clone(), purse);
            }
            PaymentBody::SetLimits(set) => {
                if let Some(purse) = self.purses.get_mut(&set.account) {
                    purse.limits = set.limits;
                }
            }
            PaymentBody::Freeze(set) => {
                if let Some(purse) = self.purses.get_mut(&set.account) {
                    purse.frozen = set.frozen;
                }
            }
            PaymentBody::SetPolicy(set) => self.policy = Some(set.policy.clone()),
            _ => {}
        }
    }
}

fn posted(request: &PaymentRequest) -> Id {
    match &request.body {
        PaymentBody::Post(post) => post.reservation,
        _ => request.id,
    }
}

fn feature(request: &PaymentRequest) -> &'static str {
    if request.cause.kind == CauseKind::Budget {
        return match &request.body {
            PaymentBody::Reserve(_) => "work: estimate set aside",
            PaymentBody::Post(_) => "work: cost posted",
            _ => "work: estimate given back",
        };
    }
    match &request.body {
        PaymentBody::OpenBook(_) => "book opened",
        PaymentBody::OpenAccount(_) => "account opened",
        PaymentBody::SetLimits(_) => "limits set",
        PaymentBody::Freeze(freeze) if freeze.frozen => "account frozen",
        PaymentBody::Freeze(_) => "account thawed",
        PaymentBody::SetPolicy(_) => "policy set",
        PaymentBody::Mint(_) => "money made",
        PaymentBody::Transfer(transfer) if transfer.legs.len() > 1 => "transfer in legs",
        PaymentBody::Transfer(_) if request.cause.kind == CauseKind::ToolCall => "transfer of an agent",
        PaymentBody::Transfer(_) => "transfer",
        PaymentBody::Reserve(_) => "reservation made",
        PaymentBody::Post(_) => "reservation posted",
        PaymentBody::Void(_) => "reservation voided",
        PaymentBody::Expire(_) if request.cause.kind == CauseKind::Timer => "ended by time",
        PaymentBody::Expire(_) => "ended by a person, in time's stead",
        PaymentBody::Reward(_) if request.cause.kind == CauseKind::Human => "refused reward paid later",
        PaymentBody::Reward(_) => "reward paid",
        PaymentBody::Approve(_) => "payment approved",
        PaymentBody::Deny(_) => "payment denied",
        PaymentBody::Query(_) => "query recorded",
    }
}
