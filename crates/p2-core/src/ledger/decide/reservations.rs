//! Money that is set aside: made, paid out, given back or ended by its time.

use super::super::answer::{Code, Refusal};
use super::super::apply::{in_units, reservation};
use super::super::book::{Book, Reservation};
use super::super::draft::{self, Reason, check_amount};
use super::{Done, Work, needs_approval, own_wallet, thawed};
use crate::ids::Id;
use crate::record::{CauseKind, HoldState, PaymentRequest, Post, Reserve};

impl Work {
    pub(super) fn reserve(
        &self,
        mut draft: Book,
        request: &PaymentRequest,
        reserve: &Reserve,
        approved: bool,
    ) -> Result<Done, Refusal> {
        if reserve.expires_ms.is_some_and(|expires| expires <= self.now_ms) {
            return Err(Refusal::new(Code::Invalid, "the reservation would end before it begins"));
        }
        let reservation = reservation(request, reserve, draft.scale(), self.now_ms)?;
        let amount = reservation.amount;
        self.may_pay(&draft, request, &reserve.from, &reserve.to, amount)?;
        if reserve.from == reserve.to {
            let sentence = format!("'{}' cannot pay itself", reserve.from);
            return Err(Refusal::new(Code::SelfTransfer, sentence));
        }
        let hold = draft::hold(&mut draft, request.id, reservation, self.now_ms)?;
        let waits = needs_approval(&self.book, amount, approved);
        Ok(Done { holds: vec![hold], waits, ..Done::default() })
    }

    pub(super) fn post(
        &self,
        mut draft: Book,
        request: &PaymentRequest,
        post: &Post,
    ) -> Result<Done, Refusal> {
        let open = open_reservation(&draft, request, post.reservation)?;
        let amount =
            in_units(post.amount.unwrap_or(open.amount), post.amount.and(post.scale), draft.scale(), false)?;
        check_amount(&draft, amount)?;
        if amount > open.amount {
            let (wanted, held) = (draft.money(amount), draft.money(open.amount));
            let id = post.reservation;
            let sentence = format!("{wanted} are more than the {held} that reservation {id} holds");
            return Err(Refusal::new(Code::Insufficient, sentence));
        }
        thawed(&draft, &open.from)?;
        thawed(&draft, &open.to)?;
        let unspent = open.amount - amount;
        let hold = draft::release(&mut draft, post.reservation, HoldState::Posted, unspent)?;
        let posting = draft::post(&mut draft, &open.from, &open.to, amount, &self.why(request, 0))?;
        Ok(Done { holds: vec![hold], postings: vec![posting], ..Done::default() })
    }

    /// What work has cost: it was done, so it is paid whatever it was estimated at, whether or not the reservation has
    /// expired meanwhile, and also by who is frozen. What is not there is owed.
    pub(super) fn post_cost(
        &self,
        mut draft: Book,
        request: &PaymentRequest,
        post: &Post,
    ) -> Result<Done, Refusal> {
        let lapsed = draft.lapsed.get(&post.reservation).cloned();
        let open = match lapsed {
            Some(lapsed) => lapsed,
            None => reservation_of(&draft, post.reservation)?,
        };
        may_end(&draft, request, &open)?;
        let amount =
            in_units(post.amount.unwrap_or(open.amount), post.amount.and(post.scale), draft.scale(), true)?;
        check_amount(&draft, amount)?;
        let mut holds = Vec::new();
        let mut held = 0;
        if draft.reservations.contains_key(&post.reservation) {
            held = open.amount;
            let unspent = (held - amount).max(0);
            holds.push(draft::release(&mut draft, post.reservation, HoldState::Posted, unspent)?);
        }
        let why = Reason { owes: true, ..self.why(request, Reason::beyond(amount, held)) };
        let posting = draft::post(&mut draft, &open.from, &open.to, amount, &why)?;
        if draft.outside.is_used() && draft.account(&open.from)?.debt > 0 {
            let (from, amount) = (&open.from, draft.money(amount));
            let sentence = format!("'{from}' does not have {amount}, and an outside ledger knows no debts");
            return Err(Refusal::new(Code::Insufficient, sentence));
        }
        Ok(Done { holds, postings: vec![posting], ..Done::default() })
    }

    /// Gives a reservation back, or withdraws a request that waits for a person: `go_on` ends that.
    pub(super) fn void(&self, mut draft: Book, request: &PaymentRequest, id: Id) -> Result<Done, Refusal> {
        if let Some(held) = draft.held.get(&id) {
            may_withdraw(request, held)?;
            return Ok(Done::default());
        }
        let open = open_reservation(&draft, request, id)?;
        let hold = draft::release(&mut draft, id, HoldState::Voided, open.amount)?;
        Ok(Done { holds: vec![hold], ..Done::default() })
    }

    pub(super) fn expire(&self, mut draft: Book, reference: Id) -> Result<Done, Refusal> {
        let now = self.now_ms;
        let not_due = || Refusal::new(Code::NotDue, format!("the time of {reference} has not come"));
        if let Some(held) = draft.held.get(&reference) {
            let due = held.not_after_ms.is_some_and(|due| due <= now);
            return if due { Ok(Done::default()) } else { Err(not_due()) };
        }
        let open = reservation_of(&draft, reference)?;
        if open.expires_ms.is_none_or(|due| due > now) {
            return Err(not_due());
        }
        let hold = draft::release(&mut draft, reference, HoldState::Expired, open.amount)?;
        Ok(Done { holds: vec![hold], ..Done::default() })
    }
}

fn reservation_of(book: &Book, id: Id) -> Result<Reservation, Refusal> {
    if let Some(open) = book.reservations.get(&id) {
        return Ok(open.clone());
    }
    match book.answers.get(&id).and_then(|answer| answer.hold) {
        Some(state) => {
            let how = if state == HoldState::Expired { "has" } else { "was" };
            let state = state.as_str();
            Err(Refusal::new(Code::Ended, format!("reservation {id} has ended: it {how} {state}")))
        }
        None => Err(Refusal::new(Code::UnknownRequest, format!("there is no reservation {id}"))),
    }
}

/// A reservation that the request may end.
fn open_reservation(book: &Book, request: &PaymentRequest, id: Id) -> Result<Reservation, Refusal> {
    let open = reservation_of(book, id)?;
    may_end(book, request, &open)?;
    Ok(open)
}

/// An agent withdraws what it asked for itself, in the same conversation and in the same way.
fn may_withdraw(request: &PaymentRequest, held: &PaymentRequest) -> Result<(), Refusal> {
    let (by, of) = (&request.cause, &held.cause);
    let machine = matches!(by.kind, CauseKind::ToolCall | CauseKind::Budget);
    let own = by.agent.is_some()
        && (by.kind, &by.agent, &by.conversation) == (of.kind, &of.agent, &of.conversation);
    if !machine || own {
        return Ok(());
    }
    let sentence = format!("request {} is another's: who asked for it withdraws it, or a person", held.id);
    Err(Refusal::new(Code::NotAllowed, sentence))
}

/// What is set aside for an agent's work is ended in that agent's name, what is not is not.
fn may_end(book: &Book, request: &PaymentRequest, open: &Reservation) -> Result<(), Refusal> {
    own_wallet(request, &open.from, book.account(&open.from)?.kind)?;
    let fits = match request.cause.kind {
        CauseKind::Budget => open.budget.is_some() && open.budget == request.cause.agent,
        CauseKind::ToolCall => open.budget.is_none(),
        _ => true,
    };
    if fits {
        return Ok(());
    }
    let sentence = match &open.budget {
        Some(agent) => {
            format!("it is set aside for the work of '{agent}': the engine ends it when that is done")
        }
        None => "it is not set aside for an agent's work: who made it ends it".to_owned(),
    };
    Err(Refusal::new(Code::NotAllowed, sentence))
}
