//! The ledger of this process: books as they are in the log, requests, and the fold from the first transaction.

use std::time::Duration;

use p2_core::ids::BookId;
use p2_core::ledger::{self, Answer};
use p2_core::record::{LedgerOutcome, LedgerTransaction, Payload, PaymentBody, PaymentRequest, Topic};
use p2_stream::memory::MemoryLedger;
use p2_stream::ports::StoredRecord;
use p2_stream::wire;

use super::read::{READ_RECORDS_MAX, decode};
use super::{LocalEngine, engine_error, message};
use crate::engine::{BookView, EngineError, EngineResult, LedgerReport, draw_id};

/// How long the answer to a request is awaited.
const ANSWER: Duration = Duration::from_secs(30);
/// How often a comparison is made again because somebody paid meanwhile.
const COMPARE_TRIES: usize = 5;

impl LocalEngine {
    /// Appends a request and waits for its transaction. One that was answered before is not appended: its first
    /// transaction is the answer.
    pub(super) async fn settle(&self, request: PaymentRequest) -> EngineResult<LedgerTransaction> {
        ledger::check_book(&request.book).map_err(|refusal| EngineError::Invalid(refusal.message))?;
        if let PaymentBody::Query(_) = &request.body {
            // No transaction answers it.
            let text = "a query is for conversations, whose result is a message: what accounts have is in \
                        GET /v1/ledger/books/<book>, and 'p2engine ledger balance'";
            return Err(EngineError::Invalid(text.to_owned()));
        }
        let partition = self.partition_of(&request.book);
        self.ledger.catch_up(self.log.as_ref(), partition).await.map_err(engine_error)?;
        let from = self.ledger.read_up_to(partition);
        let known = self.ledger.book(&request.book);
        let answer = known.and_then(|book| book.answers.get(&request.id).copied());
        let (id, digest, asked) = (request.id, ledger::digest(&request), request.clone());
        // One that is on its way to an outside ledger has its answer before it.
        let on_its_way = |answer: &Answer| {
            answer.status == p2_core::record::PaymentStatus::InDoubt && answer.digest == digest
        };
        let is_asked = answer.as_ref().is_some_and(on_its_way);
        if let Some(answer) = answer.filter(|answer| !on_its_way(answer)) {
            return self.first_answer(partition, &request, answer).await;
        }
        let follow = vec![(Topic::LedgerTransactions, partition, from)];
        let mut follower = self.log.follow(follow).await.map_err(engine_error)?;
        if !is_asked {
            self.append_messages(&[message(draw_id(), Payload::PaymentRequest(request))]).await?;
        }
        let answer = async {
            loop {
                for stored in follower.next().await.map_err(engine_error)? {
                    let made = transaction(&stored)?;
                    let same = made.request.id == id && ledger::digest(&made.request) == digest;
                    if same && !is_on_its_way(&made) {
                        return self.own_answer(partition, &asked, made).await;
                    }
                }
            }
        };
        tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(|_| {
            Err(EngineError::Timeout(format!(
                "payment request {id} is stored, but was not settled within {} s; it will be, once a 'settlement' \
                 runs: ask again with --id {id}",
                ANSWER.as_secs()
            )))
        })
    }

    /// The transaction of a request, unless it was refused because somebody was faster with another one under its id.
    async fn own_answer(
        &self,
        partition: i32,
        request: &PaymentRequest,
        made: LedgerTransaction,
    ) -> EngineResult<LedgerTransaction> {
        if let LedgerOutcome::Rejected(why) = &made.outcome {
            self.ledger.catch_up(self.log.as_ref(), partition).await.map_err(engine_error)?;
            let book = self.ledger.book(&request.book);
            let first = book.and_then(|book| book.answers.get(&request.id).copied());
            if first.is_some_and(|first| first.digest != ledger::digest(request)) {
                return Err(EngineError::Refused { code: why.code.clone(), message: why.message.clone() });
            }
        }
        Ok(made)
    }

    async fn first_answer(
        &self,
        partition: i32,
        request: &PaymentRequest,
        answer: Answer,
    ) -> EngineResult<LedgerTransaction> {
        if answer.digest != ledger::digest(request) {
            let ledger::Refusal { code, message } = ledger::conflict(&answer, request);
            return Err(EngineError::Refused { code: code.as_str().to_owned(), message });
        }
        let mut next = 0;
        loop {
            let records = self.log.read(Topic::LedgerTransactions, partition, next, READ_RECORDS_MAX).await;
            let records = records.map_err(engine_error)?;
            let Some(last) = records.last() else {
                let text = format!("transaction {} is not in the log", answer.transaction);
                return Err(EngineError::Internal(text));
            };
            next = last.offset + 1;
            for stored in records.iter().filter(|stored| stored.record.key == request.book.as_str()) {
                let made = transaction(stored)?;
                if made.id == answer.transaction {
                    return Ok(made);
                }
            }
        }
    }

    fn partition_of(&self, book: &BookId) -> i32 {
        wire::partition(book.as_str(), self.log.partitions(Topic::LedgerTransactions))
    }

    /// A book as it is in the log now.
    pub(super) async fn book_now(&self, book: &BookId) -> EngineResult<Option<BookView>> {
        self.ledger.catch_up(self.log.as_ref(), self.partition_of(book)).await.map_err(engine_error)?;
        Ok(self.ledger.book(book).as_ref().and_then(BookView::of))
    }

    /// All books, by name.
    pub(super) async fn books_now(&self) -> EngineResult<Vec<BookId>> {
        for partition in 0..self.log.partitions(Topic::LedgerTransactions) {
            self.ledger.catch_up(self.log.as_ref(), partition).await.map_err(engine_error)?;
        }
        let opened = |name: &BookId| self.ledger.book(name).is_some_and(|book| book.terms.is_some());
        Ok(self.ledger.names().into_iter().filter(opened).collect())
    }

    /// Folds everything anew from offset 0, checks every rule, and compares with the live books.
    pub(super) async fn compare_ledger(&self) -> EngineResult<LedgerReport> {
        let mut report = LedgerReport::default();
        for partition in 0..self.log.partitions(Topic::LedgerTransactions) {
            let fresh = MemoryLedger::default();
            for read in [
                self.ledger.catch_up(self.log.as_ref(), partition).await,
                fresh.catch_up(self.log.as_ref(), partition).await,
            ] {
                match read {
                    Err(p2_stream::ports::LogError::Corrupt(reason)) => report.differences.push(reason),
                    read => read.map_err(engine_error)?,
                }
            }
            for name in fresh.names() {
                self.compare_book(&fresh, partition, &name, &mut report).await?;
            }
        }
        report.differences.dedup();
        Ok(report)
    }

    async fn compare_book(
        &self,
        fresh: &MemoryLedger,
        partition: i32,
        name: &BookId,
        report: &mut LedgerReport,
    ) -> EngineResult<()> {
        let mut fold = fresh.book(name).unwrap_or_default();
        for _ in 0..COMPARE_TRIES {
            let live = self.ledger.book(name).unwrap_or_default();
            if live.next_seq == fold.next_seq {
                if live != fold {
                    report.differences.push(format!("book '{name}' is not the fold of its transactions"));
                }
                break;
            }
            // Somebody paid meanwhile: both read on.
            self.ledger.catch_up(self.log.as_ref(), partition).await.map_err(engine_error)?;
            fresh.catch_up(self.log.as_ref(), partition).await.map_err(engine_error)?;
            fold = fresh.book(name).unwrap_or_default();
        }
        if let Err(broken) = fold.check() {
            report.differences.push(format!("book '{name}': {broken}"));
        }
        report.books += 1;
        report.accounts += u64::try_from(fold.accounts.len()).unwrap_or(u64::MAX);
        report.transactions += u64::try_from(fold.next_seq).unwrap_or_default();
        Ok(())
    }
}

/// Planned for an outside ledger, or waiting for it: the answer follows.
fn is_on_its_way(made: &LedgerTransaction) -> bool {
    use p2_core::record::LedgerOutcome::{InDoubt, Planned, Queued};
    matches!(made.outcome, Planned(_) | Queued(_) | InDoubt(_))
}

fn transaction(stored: &StoredRecord) -> EngineResult<LedgerTransaction> {
    let decoded = decode(stored).map_err(|error| EngineError::Internal(error.to_string()))?;
    match decoded.payload {
        Payload::LedgerTransaction(made) => Ok(made),
        other => Err(EngineError::Internal(format!("a record of '{}' in the ledger", other.topic().short()))),
    }
}
