//! The records that follow from a ruling.

use p2_core::ids::{ConversationId, Id};
use p2_core::ledger::{Answer, Book, Refusal, Ruling};
use p2_core::record::{
    AccountView, Artifact, ArtifactBody, InboxBody, InboxMessage, LedgerOutcome, LedgerTransaction, Message,
    OpenBook, Payload, Payment, PaymentBody, PaymentRequest, PaymentResult, PaymentStatus,
};

/// What all records of one step have in common.
pub(crate) struct Envelope {
    /// The request's record, or the timer.
    pub(crate) cause: Id,
    /// Trace context of the request's record.
    pub(crate) traceparent: Option<String>,
    /// The clock.
    pub(crate) now_ms: i64,
}

impl Envelope {
    fn message(&self, id: Id, payload: Payload) -> Message {
        Message {
            id,
            cause: self.cause,
            cause_position: None,
            time_ms: self.now_ms,
            traceparent: self.traceparent.clone(),
            payload,
        }
    }
}

/// Transactions first; then, of each, its artifact and the result for who asked.
pub(crate) fn of(book: &Book, request: &PaymentRequest, ruling: Ruling, envelope: &Envelope) -> Vec<Message> {
    match ruling {
        Ruling::Transactions(transactions) => of_transactions(book, &transactions, envelope),
        Ruling::Duplicate(answer) => {
            let outcome = repeated(&answer);
            result(book, request, outcome, Some(answer.transaction), envelope).into_iter().collect()
        }
        Ruling::Queried(answer) => {
            result(book, request, queried(answer), None, envelope).into_iter().collect()
        }
        Ruling::Broken(_) => Vec::new(),
    }
}

/// Transactions, then of each its artifact and the result for who asked.
pub(crate) fn of_transactions(
    book: &Book,
    transactions: &[LedgerTransaction],
    envelope: &Envelope,
) -> Vec<Message> {
    let made =
        transactions.iter().map(|made| envelope.message(made.id, Payload::LedgerTransaction(made.clone())));
    let told = transactions.iter().flat_map(|made| told(book, made, envelope));
    made.chain(told).collect()
}

/// How it ended, as far as a result says it.
#[derive(Default)]
struct Told {
    status: Option<PaymentStatus>,
    code: String,
    message: String,
    postings: Vec<p2_core::record::Posting>,
    account: Option<AccountView>,
}

fn told(book: &Book, made: &LedgerTransaction, envelope: &Envelope) -> Vec<Message> {
    let Told { status, code, message, .. } = ended(made);
    let mut messages: Vec<Message> = artifact(made, &code, envelope).into_iter().collect();
    let postings = made.postings.clone();
    let told = Told { status, code, message, postings, account: None };
    messages.extend(result(book, &made.request, told, Some(made.id), envelope));
    messages
}

fn ended(made: &LedgerTransaction) -> Told {
    let told = |status, code: &str, message: &str| Told {
        status,
        code: code.to_owned(),
        message: message.to_owned(),
        ..Told::default()
    };
    match &made.outcome {
        LedgerOutcome::Committed(_) => told(Some(PaymentStatus::Committed), "ok", ""),
        LedgerOutcome::Rejected(why) => told(Some(PaymentStatus::Rejected), &why.code, &why.message),
        // Who waits goes on waiting: the final answer follows, at the request's `not_after` at the latest.
        LedgerOutcome::Pending(_)
        | LedgerOutcome::InDoubt(_)
        | LedgerOutcome::Planned(_)
        | LedgerOutcome::Queued(_) => told(None, "", ""),
    }
}

fn repeated(answer: &Answer) -> Told {
    let done = matches!(answer.status, PaymentStatus::Committed | PaymentStatus::Rejected);
    let message = match answer.status {
        PaymentStatus::Rejected => {
            format!("refused before, as {} (transaction {})", answer.code.as_str(), answer.transaction)
        }
        _ => String::new(),
    };
    let code = answer.code.as_str().to_owned();
    Told { status: done.then_some(answer.status), code, message, ..Told::default() }
}

fn queried(answer: Result<AccountView, Refusal>) -> Told {
    match answer {
        Ok(account) => Told {
            status: Some(PaymentStatus::Committed),
            code: "ok".to_owned(),
            account: Some(account),
            ..Told::default()
        },
        Err(refusal) => Told {
            status: Some(PaymentStatus::Rejected),
            code: refusal.code.as_str().to_owned(),
            message: refusal.message,
            ..Told::default()
        },
    }
}

/// The result for the conversation that waits for it. One wait has one result: another with the same id is a
/// duplicate there.
fn result(
    book: &Book,
    request: &PaymentRequest,
    told: Told,
    transaction: Option<Id>,
    envelope: &Envelope,
) -> Option<Message> {
    let (to, status) = (request.reply_to.as_ref()?, told.status?);
    let (unit, scale) = match &request.body {
        PaymentBody::OpenBook(OpenBook { unit, scale }) => (unit.clone(), *scale),
        _ => (book.unit().to_owned(), book.scale()),
    };
    let body = InboxBody::PaymentResult(PaymentResult {
        request: request.id,
        wait: to.wait,
        call_id: to.call_id.clone(),
        status,
        code: told.code,
        message: told.message,
        transaction,
        postings: told.postings,
        unit,
        scale,
        account: told.account,
    });
    let message = InboxMessage { conversation: to.conversation.clone(), body };
    Some(envelope.message(Id::derive(&to.wait, "payment_result", 0), Payload::Inbox(message)))
}

/// Of every transaction that moved something or concerns a conversation.
fn artifact(made: &LedgerTransaction, code: &str, envelope: &Envelope) -> Option<Message> {
    let LedgerTransaction { request, holds, postings, outcome, .. } = made;
    // On its way: what becomes of it is told when it is known, or when it is in doubt.
    if matches!(outcome, LedgerOutcome::Planned(_) | LedgerOutcome::Queued(_)) {
        return None;
    }
    let asked = request.reply_to.as_ref().map(|to| &to.conversation);
    let concerns = asked.or(request.cause.conversation.as_ref());
    if concerns.is_none() && holds.is_empty() && postings.is_empty() {
        return None;
    }
    let id = Id::derive(&made.id, "artifact", 0);
    let body = ArtifactBody::Payment(Payment {
        book: made.book.clone(),
        request: request.id,
        transaction: made.id,
        operation: request.body.kind().to_owned(),
        outcome: outcome.as_str().to_owned(),
        code: if code.is_empty() { "ok".to_owned() } else { code.to_owned() },
        postings: postings.clone(),
    });
    let artifact = Artifact {
        id,
        conversation: concerns.cloned().unwrap_or_else(|| ConversationId(format!("ledger:{}", made.book))),
        agent: request.cause.agent.clone(),
        branch: request.cause.branch.clone(),
        entry: None,
        parents: request.cause.reference.into_iter().collect(),
        time_ms: envelope.now_ms,
        body,
    };
    Some(envelope.message(id, Payload::Artifact(artifact)))
}
