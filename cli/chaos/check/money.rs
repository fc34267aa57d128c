//! Promise 6 on the log: the ledger refolded from its first transaction, each request decided once, each reservation ended
//! once. The rules are those of the fold itself and, in other words, those of the simulation's bookkeeper.

use std::collections::{BTreeMap, BTreeSet};

use p2_core::conversation::Conversation;
use p2_core::ids::{BookId, ConversationId, Id};
use p2_core::ledger::{Book, digest, expiry_id};
use p2_core::record::{
    ArtifactBody, CauseKind, InboxBody, LedgerOutcome, LedgerTransaction, Message, Payload, PaymentBody,
    PaymentRequest, PaymentResult,
};
use p2_sim::Outside;
use p2_sim::money::Bookkeeper;
use p2_stream::wire;

use super::{Index, Verdict};
use crate::chaos::history::Event;

/// The conversations of the log, folded.
pub(super) type Conversations<'e> = BTreeMap<&'e ConversationId, Conversation>;

pub(super) fn check(
    index: &Index<'_>,
    conversations: &Conversations<'_>,
    verdict: &mut Verdict,
) -> BTreeMap<BookId, Book> {
    taken(index, verdict);
    placed(index, verdict);
    let books = fold(index, verdict);
    decided(index, &books, verdict);
    bookkeeping(index, &books, verdict);
    read_along(index, &books, verdict);
    work(&books, conversations, verdict);
    told(index, &books, verdict);
    books
}

/// What was acknowledged lies where the log said.
fn taken(index: &Index<'_>, verdict: &mut Verdict) {
    let lying: BTreeMap<(i32, i64), Id> =
        index.requests.iter().map(|(lying, _)| ((lying.partition, lying.offset), lying.message.id)).collect();
    for line in &index.evidence.history {
        let Event::Taken { id, partition, offset } = &line.event else { continue };
        verdict.count("acknowledged payment requests", 1);
        if lying.get(&(*partition, *offset)) != Some(id) {
            verdict.broken(format!(
                "payment request {id} was acknowledged at payment-requests/{partition}/{offset} and is not there: it is \
                 lost"
            ));
        }
    }
}

/// Requests and transactions lie in the partition of their book, and nobody asked but people and what they led to.
fn placed(index: &Index<'_>, verdict: &mut Verdict) {
    let partitions = index.evidence.partitions();
    let mut misplaced = |at: i32, book: &BookId, what: &str, id: Id| {
        if wire::partition(book.as_str(), partitions) != at {
            verdict.broken(format!("{what} {id} of book '{book}' lies in a partition of others"));
        }
    };
    for (lying, request) in &index.requests {
        misplaced(lying.partition, &request.book, "payment request", request.id);
    }
    for (lying, made) in &index.made {
        misplaced(lying.partition, &made.book, "ledger transaction", made.id);
    }
    for (lying, request) in &index.requests {
        let by_itself = lying.message.cause == lying.message.id;
        if by_itself && !index.asked.contains(&lying.message.id) {
            verdict.broken(format!("nobody asked for {} {}", request.body.kind(), request.id));
        }
    }
}

/// Every book from its first transaction on: the fold believes no sum and takes in nothing that breaks a rule.
fn fold(index: &Index<'_>, verdict: &mut Verdict) -> BTreeMap<BookId, Book> {
    let mut books: BTreeMap<BookId, Book> = BTreeMap::new();
    let mut broken: BTreeSet<&BookId> = BTreeSet::new();
    verdict.count("ledger transactions", index.made.len());
    for (_, made) in &index.made {
        // What follows in a book that is broken says nothing new.
        if !broken.contains(&made.book)
            && let Err(why) = books.entry(made.book.clone()).or_default().apply(made)
        {
            broken.insert(&made.book);
            verdict.broken(why);
        }
    }
    for (name, book) in &books {
        if let Err(why) = book.check() {
            verdict.broken(format!("book '{name}': {why}"));
        }
    }
    verdict.count("books", books.len());
    verdict.count("accounts", books.values().map(|book| book.accounts.len()).sum());
    books
}

/// What was asked under one id: first, and how often something else.
struct Asked<'e> {
    first: (Id, &'e PaymentRequest),
    others: BTreeMap<Id, usize>,
    times: usize,
}

/// Every request is decided exactly once: the first under its id is answered, what asks for something else is refused each
/// time, and nothing is decided that nobody asked for.
fn decided(index: &Index<'_>, books: &BTreeMap<BookId, Book>, verdict: &mut Verdict) {
    let mut asked: BTreeMap<(&BookId, Id), Asked<'_>> = BTreeMap::new();
    for (_, request) in &index.requests {
        verdict.count("payment requests", 1);
        if matches!(request.body, PaymentBody::Query(_)) {
            continue;
        }
        let what = digest(request);
        let known = asked.entry((&request.book, request.id)).or_insert_with(|| Asked {
            first: (what, request),
            others: BTreeMap::new(),
            times: 0,
        });
        known.times += 1;
        if known.first.0 != what {
            *known.others.entry(what).or_default() += 1;
        }
    }
    let mut made: BTreeMap<(&BookId, Id), Vec<(Id, &LedgerTransaction)>> = BTreeMap::new();
    for (_, one) in &index.made {
        let of = made.entry((&one.book, one.request.id)).or_default();
        of.push((digest(&one.request), one));
    }
    for ((book, id), of) in &asked {
        verdict.count("payment requests asked again", of.times - 1);
        let answers = made.remove(&(*book, *id)).unwrap_or_default();
        let at = format!("{} {id} in book '{book}'", of.first.1.body.kind());
        let is_held = books.get(*book).is_some_and(|book| book.held.contains_key(id));
        let finals =
            |wanted: &Id| answers.iter().filter(|(what, made)| what == wanted && is_final(made)).count();
        match (finals(&of.first.0), is_held) {
            (1, false) => {}
            (0, true) => verdict.count("payment requests that wait for a person", 1),
            (0, false) => verdict.broken(format!("{at} was asked for and has no answer: it is lost")),
            (more, _) => verdict.broken(format!("{at} was decided {more} times")),
        }
        for (what, times) in &of.others {
            verdict.count("conflicting payment requests", *times);
            let refused = finals(what);
            if refused != *times {
                verdict.broken(format!(
                    "{at}: something else was asked for under its id {times} times, and decided {refused} times"
                ));
            }
        }
        let known = |what: &Id| *what == of.first.0 || of.others.contains_key(what);
        if let Some((_, made)) = answers.iter().find(|(what, _)| !known(what)) {
            verdict.broken(format!("{at}: transaction {} is of a request that nobody wrote", made.id));
        }
    }
    for ((book, id), answers) in &made {
        let by_time = |made: &LedgerTransaction| {
            let PaymentBody::Expire(expire) = &made.request.body else { return false };
            made.request.cause.kind == CauseKind::Timer && expiry_id(&expire.reference) == *id
        };
        match answers.as_slice() {
            [(_, made)] if by_time(made) => verdict.count("ended by time", 1),
            [(_, made), ..] => verdict.broken(format!(
                "transaction {} in book '{book}' is of {} {id}, for which nobody asked, or which ended twice",
                made.id,
                made.request.body.kind()
            )),
            [] => {}
        }
    }
}

fn is_final(made: &LedgerTransaction) -> bool {
    matches!(made.outcome, LedgerOutcome::Committed(_) | LedgerOutcome::Rejected(_))
}

/// The bookkeeper of the simulation goes through everything: what had to become of each request, in which order, what every
/// account has, and who was told in the same commit.
fn bookkeeping(index: &Index<'_>, books: &BTreeMap<BookId, Book>, verdict: &mut Verdict) {
    let mut results: BTreeMap<Id, Vec<&Message>> = BTreeMap::new();
    for (message, result) in results_of(index) {
        if let Some(transaction) = result.transaction {
            results.entry(transaction).or_default().push(message);
        }
    }
    let mut outside = Outside::default();
    let mut keepers: BTreeMap<&BookId, Result<Bookkeeper, String>> = BTreeMap::new();
    let together = |a: &Message, b: &Message| (a.cause, a.cause_position) == (b.cause, b.cause_position);
    for commit in
        index.made.chunk_by(|(a, one), (b, other)| one.book == other.book && together(a.message, b.message))
    {
        let Some((_, first)) = commit.first() else { continue };
        let mut outputs: Vec<&Message> = Vec::new();
        for (lying, made) in commit {
            outputs.push(lying.message);
            outputs.extend(results.get(&made.id).into_iter().flatten());
        }
        let keeper = keepers.entry(&first.book).or_insert_with(|| Ok(Bookkeeper::default()));
        let Ok(books) = keeper else { continue };
        if let Err(why) = books.committed(&outputs, &mut outside) {
            *keeper = Err(why);
        }
    }
    for (name, keeper) in keepers {
        let at_rest = keeper.and_then(|keeper| match books.get(name) {
            Some(fold) => keeper.at_rest(name, fold),
            None => Ok(()),
        });
        if let Err(why) = at_rest {
            verdict.broken(format!("the bookkeeper says: {why}"));
        }
    }
    for (feature, times) in outside.features {
        *verdict.features.entry(feature).or_default() += times;
    }
}

fn results_of<'i, 'e>(index: &'i Index<'e>) -> impl Iterator<Item = (&'e Message, &'e PaymentResult)> + 'i {
    index.inbox.iter().filter_map(|lying| match &lying.message.payload {
        Payload::Inbox(inbox) => match &inbox.body {
            InboxBody::PaymentResult(result) => Some((lying.message, result)),
            _ => None,
        },
        _ => None,
    })
}

/// Whoever folded the books while everything broke has the same.
fn read_along(index: &Index<'_>, books: &BTreeMap<BookId, Book>, verdict: &mut Verdict) {
    let live = &index.evidence.books;
    let names: BTreeSet<&BookId> = books.keys().chain(live.keys()).collect();
    for name in names {
        if books.get(name) != live.get(name) {
            let count = |of: Option<&Book>| of.map_or(0, |book| book.next_seq);
            verdict.broken(format!(
                "book '{name}' as it was read along has {} transactions, and is not the fold of the {} in the log",
                count(live.get(name)),
                count(books.get(name))
            ));
        }
    }
}

/// What is set aside for work is ended with it; what is still set aside is for a call of which nobody knows the outcome.
fn work(books: &BTreeMap<BookId, Book>, conversations: &Conversations<'_>, verdict: &mut Verdict) {
    let waits = conversations.values().flat_map(|conversation| conversation.waits.values());
    let held: Vec<_> = waits.filter_map(|wait| wait.waiting.budget.as_ref()).collect();
    let wanted: BTreeSet<Id> = held.iter().map(|held| held.reservation).collect();
    for (name, book) in books {
        for (id, open) in &book.reservations {
            if let Some(until_ms) = open.expires_ms {
                verdict.broken(format!(
                    "reservation {id} in book '{name}' was to end at {until_ms}, and is open"
                ));
            } else if let Some(agent) = open.budget.as_ref().filter(|_| !wanted.contains(id)) {
                verdict.broken(format!(
                    "reservation {id} in book '{name}' is for work of {agent} that has ended, and is open"
                ));
            }
        }
        verdict.count("reservations that are open for a reason", book.reservations.len());
    }
    for held in held {
        let is_open = |book: &Book| book.reservations.contains_key(&held.reservation);
        if !books.get(&held.book).is_some_and(is_open) {
            verdict.broken(format!(
                "reservation {} has ended, and the call that it is for has not",
                held.reservation
            ));
        }
    }
}

/// Whoever waits was told, and every movement has its artifact.
fn told(index: &Index<'_>, books: &BTreeMap<BookId, Book>, verdict: &mut Verdict) {
    let results: BTreeSet<(Id, Id)> =
        results_of(index).map(|(_, result)| (result.wait, result.request)).collect();
    let asked: BTreeSet<Id> = index.requests.iter().map(|(_, request)| request.id).collect();
    for (message, result) in results_of(index).filter(|(_, result)| !asked.contains(&result.request)) {
        verdict.broken(format!(
            "result {} is of request {}, for which nobody asked",
            message.id, result.request
        ));
    }
    let waits = |request: &PaymentRequest| {
        books.get(&request.book).is_some_and(|book| book.held.contains_key(&request.id))
    };
    for (_, request) in &index.requests {
        let Some(to) = request.reply_to.as_ref().filter(|_| !waits(request)) else { continue };
        verdict.count("payment results", 1);
        if !results.contains(&(to.wait, request.id)) {
            let (kind, id) = (request.body.kind(), request.id);
            verdict.broken(format!("{}: nobody was told of the end of {kind} {id}", to.conversation));
        }
    }
    let mut artifacts: BTreeSet<Id> = index
        .artifacts
        .iter()
        .filter_map(|lying| match &lying.message.payload {
            Payload::Artifact(artifact) => match &artifact.body {
                ArtifactBody::Payment(payment) => Some(payment.transaction),
                _ => None,
            },
            _ => None,
        })
        .collect();
    for (_, made) in &index.made {
        let found = artifacts.remove(&made.id);
        let moves = !made.postings.is_empty() || !made.holds.is_empty();
        if moves && !found {
            verdict.broken(format!("transaction {} moves money and has no artifact", made.id));
        }
    }
    if let Some(transaction) = artifacts.first() {
        verdict.broken(format!("an artifact tells of transaction {transaction}, which is not there"));
    }
}
