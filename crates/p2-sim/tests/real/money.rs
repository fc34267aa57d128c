//! Payment requests beside what people say, and who keeps the books a second time.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use p2_core::ids::{BookId, Id};
use p2_core::record::*;
use p2_sim::money::{Bookkeeper, Payers};
use p2_sim::{Asked, CallAnswer, Outside, Port, Shape, SimLog};
use p2_stream::memory::MemoryLedger;
use rand::Rng;
use rand::rngs::SmallRng;
use settlement::Settlement;

/// Money in a run.
#[derive(Default)]
pub(crate) struct Money {
    pub(crate) books: Rc<RefCell<Bookkeeper>>,
    payers: Payers,
    count: u64,
}

/// Settlement calls nobody.
pub(crate) struct Nobody;

impl Port<Settlement> for Nobody {
    fn answer(
        &mut self,
        asked: &Asked<'_, Infallible>,
        _: &mut Outside,
        _: &mut SmallRng,
    ) -> CallAnswer<Infallible> {
        match *asked.request {}
    }

    fn cut(&self, request: &Infallible, _: bool) -> Option<Infallible> {
        match *request {}
    }
}

impl Money {
    /// Requests; none: it is for people to say something.
    pub(crate) fn act(
        &mut self,
        now_ms: i64,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> Option<Vec<Message>> {
        if rng.random_range(0..4) == 0 {
            return None;
        }
        let requests = self.payers.act(&self.books.borrow(), now_ms, outside, rng);
        Some(requests.into_iter().map(|request| self.message(request)).collect())
    }

    fn message(&mut self, request: PaymentRequest) -> Message {
        self.count += 1;
        // Who asks again does so in another record.
        let id = Id::derive(&request.id, "asked", u32::try_from(self.count).unwrap_or(u32::MAX));
        let payload = Payload::PaymentRequest(request);
        Message { id, cause: id, cause_position: None, time_ms: 0, traceparent: None, payload }
    }

    /// Whether a request that is done must have led to something: not where it was answered before, nor where nobody
    /// hears of a balance.
    pub(crate) fn must_answer(&self, request: &PaymentRequest) -> bool {
        let books = self.books.borrow();
        match books.standing(&request.book, &request.id) {
            _ if matches!(request.body, PaymentBody::Query(_)) => request.reply_to.is_some(),
            Some(first) if first.body == request.body => {
                request.reply_to.is_some() && first.status != PaymentStatus::Pending
            }
            _ => true,
        }
    }

    /// Every request that lies where it belongs has its answer.
    pub(crate) fn all_answered(&self, partition: i32, log: &SimLog) -> Result<(), String> {
        let books = self.books.borrow();
        for (offset, message, shape) in log.decided(Topic::PaymentRequests, partition) {
            let Payload::PaymentRequest(request) = &message.payload else { continue };
            let asks = matches!(request.body, PaymentBody::Query(_));
            let here = shape == Shape::Plain && log.partition_of(request.book.as_str()) == partition;
            if here && !asks && !books.is_answered(request) {
                return Err(format!("request {} at {partition}/{offset} was never answered", request.id));
            }
        }
        Ok(())
    }

    /// The books in the memory of an owner are those that were kept beside.
    pub(crate) fn same(&self, partition: i32, found: &MemoryLedger, log: &SimLog) -> Result<(), String> {
        let books = self.books.borrow();
        let here = |book: &&BookId| log.partition_of(book.as_str()) == partition;
        for book in books.books().filter(here) {
            let fold = found.book(book).ok_or_else(|| format!("the owner of {book} does not know it"))?;
            books.at_rest(book, &fold)?;
        }
        Ok(())
    }
}
