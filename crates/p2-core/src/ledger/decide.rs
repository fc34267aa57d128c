//! What a request is answered.

use super::amount::SCALE_MAX;
use super::answer::{Answer, Code, Refusal, conflict, same};
use super::apply::{in_units, transaction_id};
use super::book::Book;
use super::draft::{self, Reason, check_amount, day_of};
use super::names::{BUDGET, check, check_account, check_book, check_text, is_budget};
use super::reward::{check_policy, check_reward_id, default_policy, reward_id, tier};
use crate::ids::{AccountId, Id};
use crate::record::{
    AccountKind, AccountLimits, AccountView, CauseKind, Committed, Expire, Hold, LedgerOutcome, LedgerPolicy,
    LedgerTransaction, Leg, OpenBook, PaymentBody, PaymentCause, PaymentRequest, Pending, Posting, Rejected,
    Reward, Transfer,
};

mod reservations;

/// Most legs of a transfer.
pub const LEGS_MAX: usize = 100;

/// What follows from a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Ruling {
    /// Transactions, in order: that of the request, then that of a request which it lets go on.
    Transactions(Vec<LedgerTransaction>),
    /// The same was asked before under this id, and answered so.
    Duplicate(Answer),
    /// The answer to a query.
    Queried(Result<AccountView, Refusal>),
    /// Not even a refusal follows on this book: it breaks a rule already, as the sentence says. Nothing may be
    /// written; the request stays unanswered until somebody has looked at the book.
    Broken(String),
}

/// Answers a request on a book as it is. The transactions are to be applied in their order.
pub fn decide(book: &Book, request: &PaymentRequest, now_ms: i64) -> Ruling {
    decide_and_apply(book, request, now_ms).0
}

/// As [`decide`], and the book after the transactions, where deciding has made it: it is the same [`Book::apply`] that took
/// them in, so there is no need to do it once more.
pub fn decide_and_apply(book: &Book, request: &PaymentRequest, now_ms: i64) -> (Ruling, Option<Book>) {
    if let Some(ruling) = answered(book, request, now_ms) {
        return (ruling, None);
    }
    let mut work = Work::new(book, now_ms);
    if book.outside.is_used() {
        let sentence = format!(
            "the money of book '{}' is on an outside ledger: run 'settlement' with that ledger configured",
            request.book
        );
        work.record(request, Err(Refusal::new(Code::External, sentence)));
    } else {
        work.settle(request);
    }
    match work.broken {
        None => (Ruling::Transactions(work.transactions), Some(work.book)),
        Some(broken) => (Ruling::Broken(broken), None),
    }
}

/// The answer to what changes nothing: queries, and requests whose id was answered before.
pub(super) fn answered(book: &Book, request: &PaymentRequest, now_ms: i64) -> Option<Ruling> {
    if let PaymentBody::Query(query) = &request.body {
        return Some(Ruling::Queried(may_ask(book, request).and_then(|()| book.view(query))));
    }
    let answer = book.answers.get(&request.id)?;
    if same(answer, request) {
        return Some(Ruling::Duplicate(*answer));
    }
    let mut work = Work::new(book, now_ms);
    work.record(request, Err(conflict(answer, request)));
    Some(work.ruling())
}

/// The request that ends what is due first, where its time has come.
pub fn due(book: &Book, now_ms: i64) -> Option<PaymentRequest> {
    let (due_ms, reference) = book.next_due().filter(|(due_ms, _)| *due_ms <= now_ms)?;
    let terms = book.terms.as_ref()?;
    Some(PaymentRequest {
        id: expiry_id(&reference),
        book: terms.book.clone(),
        by: "settlement".to_owned(),
        cause: PaymentCause {
            kind: CauseKind::Timer,
            reference: Some(reference),
            conversation: None,
            agent: None,
            branch: None,
            reason: format!("its time was over at {due_ms}"),
        },
        reply_to: None,
        not_after_ms: None,
        body: PaymentBody::Expire(Expire { reference }),
    })
}

/// The id of the request that ends a reservation, or a request that waits, by time.
pub fn expiry_id(reference: &Id) -> Id {
    Id::derive(reference, "expire", 0)
}

/// What was done, before it is a transaction.
#[derive(Default)]
pub(super) struct Done {
    holds: Vec<Hold>,
    postings: Vec<Posting>,
    policy: Option<i32>,
    /// Not done: it waits for a person.
    waits: Option<String>,
}

/// A copy of a book on which requests are answered.
pub(super) struct Work {
    pub(super) book: Book,
    pub(super) now_ms: i64,
    pub(super) transactions: Vec<LedgerTransaction>,
    /// Why not even a refusal could be taken in: then nothing of this may be written.
    pub(super) broken: Option<String>,
}

impl Work {
    pub(super) fn new(book: &Book, now_ms: i64) -> Work {
        Work { book: book.clone(), now_ms, transactions: Vec::new(), broken: None }
    }

    /// What was recorded, all or nothing.
    pub(super) fn ruling(self) -> Ruling {
        match self.broken {
            None => Ruling::Transactions(self.transactions),
            Some(broken) => Ruling::Broken(broken),
        }
    }

    /// Answers a request that was not answered before.
    pub(super) fn settle(&mut self, request: &PaymentRequest) {
        let late = request.not_after_ms.is_some_and(|not_after| self.now_ms >= not_after);
        let answer = may_ask(&self.book, request).and_then(|()| {
            if late && !matches!(request.body, PaymentBody::Expire(_)) {
                return Err(Refusal::new(Code::Expired, "it was reached after its time: nothing was done"));
            }
            self.answer(request, false)
        });
        self.record(request, answer);
        if matches!(self.transactions.last().map(|last| &last.outcome), Some(LedgerOutcome::Committed(_))) {
            self.go_on(request);
        }
    }

    /// Makes the transaction of an answer and takes it in.
    pub(super) fn record(&mut self, request: &PaymentRequest, answer: Result<Done, Refusal>) {
        let (holds, postings, outcome) = match answer {
            Ok(Done { waits: Some(message), .. }) => {
                (Vec::new(), Vec::new(), LedgerOutcome::Pending(Pending { message }))
            }
            Ok(Done { holds, postings, policy, .. }) => {
                (holds, postings, LedgerOutcome::Committed(Committed { policy, external: None }))
            }
            Err(refusal) => (Vec::new(), Vec::new(), rejected(&refusal)),
        };
        self.follow(request, outcome, holds, postings);
    }

    /// Makes the next transaction and takes it in.
    pub(super) fn follow(
        &mut self,
        request: &PaymentRequest,
        outcome: LedgerOutcome,
        holds: Vec<Hold>,
        postings: Vec<Posting>,
    ) {
        if let Err(broken) = self.try_follow(request, outcome, holds, postings) {
            // A rule that only the fold knows: nothing was done, and it is told.
            let outcome = rejected(&Refusal::new(Code::Invalid, broken));
            if let Err(broken) = self.try_follow(request, outcome, Vec::new(), Vec::new()) {
                self.broken.get_or_insert(broken);
            }
        }
    }

    /// As [`Work::follow`]; an error where the fold does not take it, and then nothing has changed.
    pub(super) fn try_follow(
        &mut self,
        request: &PaymentRequest,
        outcome: LedgerOutcome,
        holds: Vec<Hold>,
        postings: Vec<Posting>,
    ) -> Result<(), String> {
        let transaction = LedgerTransaction {
            id: transaction_id(request, self.book.next_seq),
            book: request.book.clone(),
            seq: self.book.next_seq,
            previous: self.book.last,
            request: request.clone(),
            holds,
            postings,
            outcome,
            time_ms: self.now_ms,
        };
        self.book.apply(&transaction)?;
        self.transactions.push(transaction);
        Ok(())
    }

    /// A person's decision, a withdrawal, or the end of a wait, is followed by the answer to the request that waited.
    fn go_on(&mut self, request: &PaymentRequest) {
        let (id, refusal) = match &request.body {
            PaymentBody::Approve(approve) => (approve.request, None),
            PaymentBody::Deny(deny) => {
                let why = if deny.reason.is_empty() { "no reason was given" } else { &deny.reason };
                (deny.request, Some(Refusal::new(Code::Denied, format!("a person refused it: {why}"))))
            }
            PaymentBody::Void(void) => {
                let sentence = "who asked gave up before a person had agreed: it was withdrawn and not done";
                (void.reservation, Some(Refusal::new(Code::Withdrawn, sentence)))
            }
            PaymentBody::Expire(Expire { reference }) => (
                *reference,
                Some(Refusal::new(Code::Expired, "nobody agreed to it in time: nothing was done")),
            ),
            _ => return,
        };
        let Some(held) = self.book.held.get(&id).cloned() else { return };
        let late = held.not_after_ms.is_some_and(|not_after| self.now_ms >= not_after);
        let answer = match refusal {
            Some(refusal) => Err(refusal),
            None if late => {
                Err(Refusal::new(Code::Expired, "it was approved after its time: nothing was done"))
            }
            None => self.answer(&held, true),
        };
        self.record(&held, answer);
    }

    /// What is done for a request. Works on a copy of the book: `record` does it for good.
    fn answer(&self, request: &PaymentRequest, approved: bool) -> Result<Done, Refusal> {
        let draft = self.book.clone();
        match &request.body {
            PaymentBody::OpenBook(open) => check_terms(&draft, open)?,
            PaymentBody::OpenAccount(open) => {
                check_account(&open.account)?;
                check_limits(&open.limits, open.kind)?;
                if draft.accounts.contains_key(&open.account) {
                    let sentence = format!("there is an account '{}'", open.account);
                    return Err(Refusal::new(Code::Exists, sentence));
                }
            }
            PaymentBody::SetLimits(set) => {
                let mut account = draft.account(&set.account)?.clone();
                check_limits(&set.limits, account.kind)?;
                account.limits = set.limits;
                account.debt = account.debt.min(account.short());
                if !draft::is_sound(&account) {
                    let sentence = format!("'{}' uses more credit than that already", set.account);
                    return Err(Refusal::new(Code::Insufficient, sentence));
                }
            }
            PaymentBody::Freeze(set) => drop(draft.account(&set.account)?),
            PaymentBody::SetPolicy(set) => {
                let in_force = draft.policy.clone().unwrap_or_else(|| default_policy(draft.scale()));
                check_policy(&set.policy, &in_force)?;
                if draft.account(&set.policy.treasury)?.kind == AccountKind::Mint {
                    let sentence = format!(
                        "'{}' is a mint: rewards are paid from an account that has the money",
                        set.policy.treasury
                    );
                    return Err(Refusal::new(Code::NotAllowed, sentence));
                }
            }
            PaymentBody::Mint(mint) => return self.mint(draft, request, mint),
            PaymentBody::Transfer(transfer) => return self.transfer(draft, request, transfer, approved),
            PaymentBody::Reserve(reserve) => return self.reserve(draft, request, reserve, approved),
            PaymentBody::Post(post) if request.cause.kind == CauseKind::Budget => {
                return self.post_cost(draft, request, post);
            }
            PaymentBody::Post(post) => return self.post(draft, request, post),
            PaymentBody::Void(void) => return self.void(draft, request, void.reservation),
            PaymentBody::Expire(expire) => return self.expire(draft, expire.reference),
            PaymentBody::Reward(reward) => return self.reward(draft, request, reward, approved),
            PaymentBody::Approve(approve) => waits(&draft, approve.request)?,
            PaymentBody::Deny(deny) => {
                check_text("the reason", &deny.reason)?;
                waits(&draft, deny.request)?;
            }
            PaymentBody::Query(_) => {}
        }
        Ok(Done::default())
    }

    /// `counts` of it count against the payer's day.
    fn why<'r>(&self, request: &'r PaymentRequest, counts: i64) -> Reason<'r> {
        let transaction = transaction_id(request, self.book.next_seq);
        Reason { transaction, time_ms: self.now_ms, reason: &request.cause.reason, counts, owes: false }
    }

    fn mint(
        &self,
        mut draft: Book,
        request: &PaymentRequest,
        mint: &crate::record::Mint,
    ) -> Result<Done, Refusal> {
        if draft.account(&mint.mint)?.kind != AccountKind::Mint {
            let sentence = format!("'{}' is no mint: money comes from a mint only", mint.mint);
            return Err(Refusal::new(Code::NotAllowed, sentence));
        }
        thawed(&draft, &mint.mint)?;
        thawed(&draft, &mint.to)?;
        let posting =
            draft::post(&mut draft, &mint.mint, &mint.to, mint.amount, &self.why(request, mint.amount))?;
        Ok(Done { postings: vec![posting], ..Done::default() })
    }

    fn transfer(
        &self,
        mut draft: Book,
        request: &PaymentRequest,
        transfer: &Transfer,
        approved: bool,
    ) -> Result<Done, Refusal> {
        if !(1..=LEGS_MAX).contains(&transfer.legs.len()) {
            let sentence = format!("a transfer has 1 to {LEGS_MAX} legs");
            return Err(Refusal::new(Code::Invalid, sentence));
        }
        let mut postings = Vec::new();
        for leg in &in_units_of(&draft, transfer)? {
            self.may_pay(&draft, request, &leg.from, &leg.to, leg.amount)?;
            postings.push(draft::post(
                &mut draft,
                &leg.from,
                &leg.to,
                leg.amount,
                &self.why(request, leg.amount),
            )?);
        }
        let sum = postings.iter().map(|posting| posting.amount).fold(0, i64::saturating_add);
        let waits = needs_approval(&self.book, sum, approved);
        Ok(Done { postings, waits, ..Done::default() })
    }

    fn reward(
        &self,
        mut draft: Book,
        request: &PaymentRequest,
        reward: &Reward,
        approved: bool,
    ) -> Result<Done, Refusal> {
        check("evaluator", &reward.evaluator)?;
        check("metric", &reward.metric)?;
        check("occasion", &reward.occasion)?;
        check_account(&reward.payee)?;
        check_reward_id(&draft, request, reward)?;
        if request.cause.reference != Some(reward.evaluation) {
            let sentence = "a reward must name the evaluation that earned it as its cause";
            return Err(Refusal::new(Code::Invalid, sentence));
        }
        // Also where a person asks for it once more.
        if (request.cause.kind == CauseKind::Evaluation || request.id != reward_id(reward))
            && draft.account(&reward.payee)?.kind != AccountKind::Agent
        {
            let sentence = format!("'{}' is no agent's wallet: evaluations reward agents", reward.payee);
            return Err(Refusal::new(Code::NotAllowed, sentence));
        }
        let policy: LedgerPolicy = draft.policy.clone().unwrap_or_else(|| default_policy(draft.scale()));
        let amount = tier(&policy, reward.score)?;
        self.may_pay(&draft, request, &policy.treasury, &reward.payee, amount)?;
        let why = self.why(request, amount);
        let posting = draft::post(&mut draft, &policy.treasury, &reward.payee, amount, &why)?;
        let waits = needs_approval(&self.book, amount, approved);
        Ok(Done { postings: vec![posting], policy: Some(policy.version), waits, ..Done::default() })
    }

    /// Whether an account may pay or set aside that much: rights, frost, limits, money.
    fn may_pay(
        &self,
        book: &Book,
        request: &PaymentRequest,
        from: &AccountId,
        to: &AccountId,
        amount: i64,
    ) -> Result<(), Refusal> {
        check_account(from)?;
        check_account(to)?;
        check_amount(book, amount)?;
        let payer = book.account(from)?;
        let receiver = book.account(to)?;
        own_wallet(request, from, payer.kind)?;
        if request.cause.kind == CauseKind::Budget && receiver.kind != AccountKind::Fees {
            let sentence = format!("'{to}' is no account of kind fees: what work costs is paid into one");
            return Err(Refusal::new(Code::NotAllowed, sentence));
        }
        if payer.kind == AccountKind::Mint {
            let sentence = format!("'{from}' is a mint: a mint request alone takes money from it");
            return Err(Refusal::new(Code::NotAllowed, sentence));
        }
        if receiver.kind == AccountKind::Mint && request.cause.kind != CauseKind::Human {
            let sentence = format!("'{to}' is a mint: only a person takes money out of the world");
            return Err(Refusal::new(Code::NotAllowed, sentence));
        }
        thawed(book, from)?;
        thawed(book, to)?;
        let over = |code, what: &str, most: i64| {
            let (wanted, most) = (book.money(amount), book.money(most));
            Err(Refusal::new(code, format!("{wanted} are over the limit of '{from}' {what}: {most}")))
        };
        if let Some(most) = payer.limits.transfer_max.filter(|most| amount > *most) {
            return over(Code::OverLimit, "for one transfer", most);
        }
        let today = payer.spent_on(day_of(self.now_ms));
        if let Some(most) = payer.limits.day_max.filter(|most| today.saturating_add(amount) > *most) {
            return over(Code::OverDayLimit, "for one day", most);
        }
        if payer.spendable() < amount {
            let (has, wanted) = (book.money(payer.spendable()), book.money(amount));
            let sentence = format!("'{from}' has {has} available, {wanted} are needed");
            return Err(Refusal::new(Code::Insufficient, sentence));
        }
        Ok(())
    }
}

fn rejected(refusal: &Refusal) -> LedgerOutcome {
    LedgerOutcome::Rejected(Rejected {
        code: refusal.code.as_str().to_owned(),
        message: refusal.message.clone(),
    })
}

/// Whether the request is well formed, of an open book, and its cause gives the right to ask it.
fn may_ask(book: &Book, request: &PaymentRequest) -> Result<(), Refusal> {
    check_book(&request.book)?;
    check_text("the name of who asks", &request.by)?;
    check_text("the reason", &request.cause.reason)?;
    let PaymentRequest { cause, body, .. } = request;
    let named = cause.reference.is_some();
    if !named && matches!(cause.kind, CauseKind::ToolCall | CauseKind::Evaluation | CauseKind::Budget) {
        let sentence = format!("a request caused by a {} must name it", cause.kind.as_str());
        return Err(Refusal::new(Code::Invalid, sentence));
    }
    let allowed = match body {
        PaymentBody::OpenBook(_)
        | PaymentBody::OpenAccount(_)
        | PaymentBody::SetLimits(_)
        | PaymentBody::Freeze(_)
        | PaymentBody::SetPolicy(_)
        | PaymentBody::Mint(_) => matches!(cause.kind, CauseKind::Human | CauseKind::Rollout),
        PaymentBody::Approve(_) | PaymentBody::Deny(_) => cause.kind == CauseKind::Human,
        PaymentBody::Reward(_) => matches!(cause.kind, CauseKind::Evaluation | CauseKind::Human),
        PaymentBody::Expire(_) => matches!(cause.kind, CauseKind::Timer | CauseKind::Human),
        PaymentBody::Transfer(_)
        | PaymentBody::Reserve(_)
        | PaymentBody::Post(_)
        | PaymentBody::Void(_)
        | PaymentBody::Query(_)
            if cause.kind == CauseKind::Budget =>
        {
            matches!(body, PaymentBody::Reserve(_) | PaymentBody::Post(_) | PaymentBody::Void(_))
        }
        PaymentBody::Transfer(_)
        | PaymentBody::Reserve(_)
        | PaymentBody::Post(_)
        | PaymentBody::Void(_)
        | PaymentBody::Query(_) => !matches!(cause.kind, CauseKind::Evaluation | CauseKind::Timer),
    };
    if !allowed {
        let sentence = format!("a {} cannot be asked for by a {}", body.kind(), cause.kind.as_str());
        return Err(Refusal::new(Code::NotAllowed, sentence));
    }
    if book.terms.is_none() && !matches!(body, PaymentBody::OpenBook(_)) {
        let sentence = format!("there is no book '{}': open it with 'p2engine ledger init'", request.book);
        return Err(Refusal::new(Code::UnknownBook, sentence));
    }
    Ok(())
}

/// An agent pays from the account that bears its name, and from no other; its budget may also be an account that people
/// set up for that.
fn own_wallet(request: &PaymentRequest, from: &AccountId, kind: AccountKind) -> Result<(), Refusal> {
    let budget = request.cause.kind == CauseKind::Budget;
    let own = request.cause.agent.as_ref().is_some_and(|agent| agent.as_str() == from.as_str());
    let set_up = is_budget(from) && kind == AccountKind::Escrow;
    let agents = budget || request.cause.kind == CauseKind::ToolCall;
    if !agents || (own && kind == AccountKind::Agent) || (budget && set_up) {
        return Ok(());
    }
    let who = request.cause.agent.as_ref().map_or("nobody", |agent| agent.as_str());
    Err(Refusal::new(
        Code::NotAllowed,
        if budget {
            format!(
                "'{from}' is neither the wallet of '{who}' nor a spending account: that has a name that begins with \
                 {BUDGET} and the kind escrow"
            )
        } else {
            format!("'{from}' is not the wallet of '{who}': an agent pays from its own")
        },
    ))
}

/// The legs in the book's own units.
fn in_units_of(book: &Book, transfer: &Transfer) -> Result<Vec<Leg>, Refusal> {
    let leg = |leg: &Leg| {
        let amount = in_units(leg.amount, transfer.scale, book.scale(), false)?;
        Ok(Leg { amount, ..leg.clone() })
    };
    transfer.legs.iter().map(leg).collect()
}

fn thawed(book: &Book, name: &AccountId) -> Result<(), Refusal> {
    if book.account(name)?.frozen {
        return Err(Refusal::new(Code::Frozen, format!("'{name}' is frozen")));
    }
    Ok(())
}

fn waits(book: &Book, id: Id) -> Result<(), Refusal> {
    if book.held.contains_key(&id) {
        return Ok(());
    }
    let why = match book.answers.get(&id) {
        Some(answer) => {
            let (code, made) = (answer.code.as_str(), answer.transaction);
            format!("request {id} does not wait for a person: its answer is '{code}' (transaction {made})")
        }
        None => format!("no request {id} waits for a person"),
    };
    Err(Refusal::new(Code::UnknownRequest, why))
}

fn needs_approval(book: &Book, amount: i64, approved: bool) -> Option<String> {
    let above = book.policy.as_ref()?.approval_above?;
    (amount > above && !approved).then(|| {
        let (amount, above) = (book.money(amount), book.money(above));
        format!("{amount} are above {above}: a person has to agree ('p2engine ledger approve')")
    })
}

fn check_terms(book: &Book, open: &OpenBook) -> Result<(), Refusal> {
    if let Some(terms) = &book.terms {
        return Err(Refusal::new(Code::Exists, format!("book '{}' is open", terms.book)));
    }
    let letters = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
    let begins = open.unit.starts_with(|c: char| c.is_ascii_uppercase());
    if !(2..=12).contains(&open.unit.len()) || !open.unit.chars().all(letters) || !begins {
        return Err(Refusal::new(Code::Invalid, "the unit must be 2 to 12 of A-Z and 0-9, a letter first"));
    }
    if !(0..=SCALE_MAX).contains(&open.scale) {
        return Err(Refusal::new(Code::Invalid, format!("the scale must be 0 to {SCALE_MAX}")));
    }
    Ok(())
}

fn check_limits(limits: &AccountLimits, kind: AccountKind) -> Result<(), Refusal> {
    let AccountLimits { credit, transfer_max, day_max } = *limits;
    let all = [Some(credit), transfer_max, day_max];
    if all.into_iter().flatten().any(|limit| !(0..=super::AMOUNT_MAX).contains(&limit)) {
        return Err(Refusal::new(Code::Invalid, "limits are amounts from 0 to what an account can hold"));
    }
    if kind == AccountKind::Mint && *limits != AccountLimits::default() {
        return Err(Refusal::new(Code::Invalid, "a mint has no limits: what it made is what there is"));
    }
    Ok(())
}
