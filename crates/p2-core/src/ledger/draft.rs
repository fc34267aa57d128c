//! Movements on a working copy of a book. What fails drops the copy: all of a request happens, or nothing.

use super::amount::AMOUNT_MAX;
use super::answer::{Code, Refusal};
use super::book::{Account, Book, Reservation};
use crate::ids::{AccountId, Id};
use crate::record::{AccountKind, Balance, Hold, HoldState, Movement, Posting};

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// The day of a time, since the epoch, UTC.
pub(super) fn day_of(time_ms: i64) -> i64 {
    time_ms.div_euclid(DAY_MS)
}

/// What a movement is part of.
#[derive(Clone, Debug)]
pub(super) struct Reason<'r> {
    /// The transaction.
    pub(super) transaction: Id,
    /// Its time.
    pub(super) time_ms: i64,
    /// In words.
    pub(super) reason: &'r str,
    /// How much of it counts against the payer's day: not what was set aside before.
    pub(super) counts: i64,
    /// What is not there becomes debt.
    pub(super) owes: bool,
}

impl Reason<'_> {
    /// How much `amount` is above `held`: what counts where that had been set aside.
    pub(super) fn beyond(amount: i64, held: i64) -> i64 {
        amount.saturating_sub(held).max(0)
    }
}

/// Moves money, whatever the limits say; they are the business of who asks.
///
/// # Errors
/// Unknown accounts, the same account on both sides, and sums that no account can hold.
pub(super) fn post(
    book: &mut Book,
    from: &AccountId,
    to: &AccountId,
    amount: i64,
    why: &Reason<'_>,
) -> Result<Posting, Refusal> {
    if from == to {
        return Err(Refusal::new(Code::SelfTransfer, format!("'{from}' cannot pay itself")));
    }
    check_amount(book, amount)?;
    book.account(to)?;
    let payer = book.account(from)?;
    let posted = sum(from, payer.balance.posted, -amount)?;
    let mut payer = payer.clone();
    payer.balance.posted = posted;
    if why.counts > 0 {
        spend(&mut payer, day_of(why.time_ms), why.counts);
    }
    payer.debt = if why.owes { payer.short() } else { payer.debt.min(payer.short()) };
    let from_after = payer.balance;
    remember(&mut payer, to, -amount, why);
    book.accounts.insert(from.clone(), payer);
    let mut receiver = book.account(to)?.clone();
    receiver.balance.posted = sum(to, receiver.balance.posted, amount)?;
    receiver.debt = receiver.debt.min(receiver.short());
    let to_after = receiver.balance;
    remember(&mut receiver, from, amount, why);
    book.accounts.insert(to.clone(), receiver);
    Ok(Posting { from: from.clone(), to: to.clone(), amount, from_after, to_after })
}

/// Sets money aside under the reservation `id`.
///
/// # Errors
/// As [`post`]; and where there is such a reservation.
pub(super) fn hold(book: &mut Book, id: Id, reservation: Reservation, time_ms: i64) -> Result<Hold, Refusal> {
    check_amount(book, reservation.amount)?;
    if book.reservations.contains_key(&id) {
        return Err(Refusal::new(Code::Exists, format!("there is a reservation {id}")));
    }
    let name = reservation.from.clone();
    let mut account = book.account(&name)?.clone();
    account.balance.reserved = sum(&name, account.balance.reserved, reservation.amount)?;
    spend(&mut account, day_of(time_ms), reservation.amount);
    let after = account.balance;
    let change = reservation.amount;
    book.accounts.insert(name.clone(), account);
    book.due.extend(reservation.expires_ms.map(|due| (due, id)));
    book.reservations.insert(id, reservation);
    Ok(Hold { reservation: id, account: name, change, after, state: HoldState::Open })
}

/// Ends a reservation; one that is posted is followed by its [`post`]. `unspent` of it does not count against its day any
/// more.
///
/// # Errors
/// [`Code::UnknownRequest`] where it is not open.
pub(super) fn release(book: &mut Book, id: Id, state: HoldState, unspent: i64) -> Result<Hold, Refusal> {
    let Some(open) = book.reservations.get(&id).cloned() else {
        return Err(Refusal::new(Code::UnknownRequest, format!("there is no open reservation {id}")));
    };
    let mut account = book.account(&open.from)?.clone();
    account.balance.reserved = sum(&open.from, account.balance.reserved, -open.amount)?;
    // What is posted leaves at once again ([`post`] follows): it is not there for a debt.
    if state != HoldState::Posted {
        account.debt = account.debt.min(account.short());
    }
    if account.day == open.day {
        account.spent = account.spent.saturating_sub(unspent).max(0);
    }
    let after = account.balance;
    book.accounts.insert(open.from.clone(), account);
    if let Some(due) = open.expires_ms {
        book.due.remove(&(due, id));
    }
    book.reservations.remove(&id);
    if state == HoldState::Expired && open.budget.is_some() {
        book.lapsed.insert(id, open.clone());
    }
    if let Some(answer) = book.answers.get_mut(&id) {
        answer.hold = Some(state);
    }
    Ok(Hold { reservation: id, account: open.from, change: -open.amount, after, state })
}

/// Whether a rule-abiding account may have this balance: reserved money is there, and nothing is overdrawn but by debt.
pub(super) fn is_sound(account: &Account) -> bool {
    let Balance { posted, reserved } = account.balance;
    let within = |value: i64| value.abs() <= AMOUNT_MAX;
    let covered = account.kind == AccountKind::Mint || account.short() == account.debt;
    reserved >= 0 && within(posted) && within(reserved) && covered
}

fn spend(account: &mut Account, day: i64, amount: i64) {
    // A clock that went back does not open a day again.
    if day > account.day {
        account.day = day;
        account.spent = 0;
    }
    account.spent = account.spent.saturating_add(amount);
}

fn remember(account: &mut Account, other: &AccountId, amount: i64, why: &Reason<'_>) {
    account.movements.push(Movement {
        transaction: why.transaction,
        time_ms: why.time_ms,
        other: other.clone(),
        amount,
        posted: account.balance.posted,
        reason: why.reason.to_owned(),
    });
}

fn sum(account: &AccountId, balance: i64, change: i64) -> Result<i64, Refusal> {
    balance.checked_add(change).filter(|sum| sum.abs() <= AMOUNT_MAX).ok_or_else(|| {
        Refusal::new(Code::Overflow, format!("'{account}' would hold more than any account can"))
    })
}

/// An amount that can move: above zero, and no more than an account can hold.
pub(super) fn check_amount(book: &Book, amount: i64) -> Result<(), Refusal> {
    if amount <= 0 {
        let shown = book.money(amount);
        return Err(Refusal::new(Code::Invalid, format!("the amount must be more than zero, found {shown}")));
    }
    if amount > AMOUNT_MAX {
        let most = book.money(AMOUNT_MAX);
        return Err(Refusal::new(
            Code::Invalid,
            format!("the amount is more than an account can hold ({most})"),
        ));
    }
    Ok(())
}
