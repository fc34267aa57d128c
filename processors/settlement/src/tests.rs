//! What a request leads to, record by record; and the processor on a log, stopped and started again.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use p2_core::ids::{AccountId, AgentId, BookId, BranchId, ConversationId};
use p2_core::ledger::{Submitted, format_amount};
use p2_core::record::*;
use p2_stream::memory::{MemoryLedger, MemoryLog};
use p2_stream::metrics::Metrics;
use p2_stream::ports::{Log, NewRecord};
use p2_stream::runtime::{Action, Event, Incoming, Limits, Runtime, Start};
use p2_stream::shell::{self, Setup, ShellError, Views};
use p2_stream::wire::{self, ProcessorWire};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

const NOW: i64 = 1_700_000_000_000;
const PARTITIONS: i32 = 4;

fn id(text: &str) -> Id {
    Id::of_text(text)
}

fn request(name: &str, body: PaymentBody) -> PaymentRequest {
    PaymentRequest {
        id: id(name),
        book: BookId::from("main"),
        by: "tester".into(),
        cause: PaymentCause {
            kind: CauseKind::Human,
            reference: None,
            conversation: None,
            agent: None,
            branch: None,
            reason: name.into(),
        },
        reply_to: None,
        not_after_ms: None,
        body,
    }
}

/// As an agent's tool call asks it, in the conversation `demo`.
fn by_agent(name: &str, agent: &str, body: PaymentBody) -> PaymentRequest {
    let asked = request(name, body);
    PaymentRequest {
        cause: PaymentCause {
            kind: CauseKind::ToolCall,
            reference: Some(id("call")),
            conversation: Some(ConversationId::from("demo")),
            agent: Some(AgentId::from(agent)),
            branch: Some(BranchId::main()),
            ..asked.cause
        },
        reply_to: Some(PaymentReplyTo {
            conversation: ConversationId::from("demo"),
            wait: id(&format!("wait {name}")),
            call_id: "call_1".into(),
        }),
        ..asked
    }
}

fn transfer(from: &str, to: &str, amount: i64) -> PaymentBody {
    let leg = Leg { from: AccountId::from(from), to: AccountId::from(to), amount };
    PaymentBody::Transfer(Transfer { legs: vec![leg], scale: None })
}

fn reserve(amount: i64, expires_ms: Option<i64>) -> PaymentBody {
    let (from, to) = (AccountId::from("alpha"), AccountId::from("beta"));
    PaymentBody::Reserve(Reserve { from, to, amount, expires_ms, scale: None })
}

/// A book with 100.00 in each of alpha and beta.
fn opening() -> Vec<PaymentRequest> {
    let mut all = vec![request("book", PaymentBody::OpenBook(OpenBook { unit: "TOKEN".into(), scale: 2 }))];
    for (name, kind) in
        [("mint", AccountKind::Mint), ("alpha", AccountKind::Agent), ("beta", AccountKind::Agent)]
    {
        let (account, limits) = (AccountId::from(name), AccountLimits::default());
        let open = PaymentBody::OpenAccount(OpenAccount { account, kind, limits });
        all.push(request(&format!("open {name}"), open));
    }
    for to in ["alpha", "beta"] {
        let mint = Mint { mint: AccountId::from("mint"), to: AccountId::from(to), amount: 10_000 };
        all.push(request(&format!("mint {to}"), PaymentBody::Mint(mint)));
    }
    all
}

fn message(request: PaymentRequest) -> Message {
    let id = Id::derive(&request.id, "message", 0);
    let payload = Payload::PaymentRequest(request);
    let traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
    Message { id, cause: id, cause_position: None, time_ms: NOW, traceparent, payload }
}

fn take(book: &mut Book, input: &LaneInput<Infallible>, now_ms: i64) -> String {
    let step = Settlement.decide("main", book, input, now_ms);
    assert_eq!((step.mark, step.calls.len(), step.cancel.len()), (Mark::Done, 0, 0));
    step.outputs.iter().for_each(|output| Settlement.apply(book, output).unwrap());
    book.check().unwrap();
    table(&step.outputs)
}

fn ask(book: &mut Book, request: PaymentRequest) -> String {
    take(book, &LaneInput::Record(message(request)), NOW)
}

fn opened() -> Book {
    let mut book = Book::default();
    for request in opening() {
        let told = ask(&mut book, request);
        assert!(told.starts_with("ledger committed"), "{told}");
    }
    book
}

fn postings(all: &[Posting]) -> String {
    all.iter().fold(String::new(), |mut text, posting| {
        let after = format_amount(posting.from_after.posted, 2);
        let _ =
            write!(text, " {}>{} {} ({after})", posting.from, posting.to, format_amount(posting.amount, 2));
        text
    })
}

fn table(outputs: &[Message]) -> String {
    let line = |output: &Message| match &output.payload {
        Payload::LedgerTransaction(made) => {
            let holds: String = made
                .holds
                .iter()
                .map(|hold| format!(" hold {} {}", hold.state.as_str(), format_amount(hold.change, 2)))
                .collect();
            let (outcome, asked) = (made.outcome.as_str(), made.request.body.kind());
            format!("ledger {outcome} {asked}{holds}{}", postings(&made.postings))
        }
        Payload::Artifact(artifact) => match &artifact.body {
            ArtifactBody::Payment(paid) => {
                let of = artifact.conversation.as_str();
                format!("artifact {of} {} {} {}", paid.operation, paid.outcome, paid.code)
            }
            other => format!("{other:?}"),
        },
        Payload::Inbox(inbox) => match &inbox.body {
            InboxBody::PaymentResult(result) => {
                let (status, code) = (result.status.as_str(), &result.code);
                let has = result.account.as_ref().map(|of| format_amount(of.balance.posted, result.scale));
                let has = has.map(|has| format!(" has {has} {}", result.unit)).unwrap_or_default();
                format!("inbox {} {status} {code}{}{has}", inbox.conversation, postings(&result.postings))
            }
            other => format!("{other:?}"),
        },
        other => format!("{other:?}"),
    };
    outputs.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_transfer_of_an_agent_is_in_the_ledger_in_the_conversation_and_told_to_the_wait() {
    let mut book = opened();
    let told = ask(&mut book, by_agent("pay", "alpha", transfer("alpha", "beta", 2_500)));
    assert_eq!(
        told,
        "ledger committed transfer alpha>beta 25.00 (75.00)\n\
         artifact demo transfer committed ok\n\
         inbox demo committed ok alpha>beta 25.00 (75.00)"
    );
}

#[test]
fn a_refusal_is_told_with_its_code_and_moves_nothing() {
    let mut book = opened();
    let theft = by_agent("theft", "alpha", transfer("beta", "alpha", 100));
    assert_eq!(
        ask(&mut book, theft),
        "ledger rejected transfer\n\
         artifact demo transfer rejected not_allowed\n\
         inbox demo rejected not_allowed"
    );
    // Nobody waits for it and no conversation is concerned: the ledger alone tells.
    let unknown = request("unknown", transfer("alpha", "weather_checker", 100));
    assert_eq!(ask(&mut book, unknown), "ledger rejected transfer");
}

#[test]
fn a_second_delivery_moves_nothing_and_repeats_the_answer() {
    let mut book = opened();
    let pay = by_agent("pay", "alpha", transfer("alpha", "beta", 2_500));
    let first = Settlement.decide("main", &book, &LaneInput::Record(message(pay.clone())), NOW);
    ask(&mut book, pay.clone());
    let again = Settlement.decide("main", &book, &LaneInput::Record(message(pay.clone())), NOW);
    assert_eq!(table(&again.outputs), "inbox demo committed ok");
    let result = |step: &LaneStep<Infallible>| step.outputs.last().unwrap().id;
    assert_eq!(result(&first), result(&again), "the conversation knows that it has it already");
    assert_eq!(ask(&mut book, PaymentRequest { reply_to: None, ..pay }), "");
    let other = by_agent("pay", "alpha", transfer("alpha", "beta", 2_600));
    assert!(ask(&mut book, other).contains("inbox demo rejected conflict"));
}

#[test]
fn what_waits_for_a_person_is_told_when_the_person_has_decided() {
    let mut book = opened();
    let policy =
        LedgerPolicy { version: 2, approval_above: Some(1_000), ..p2_core::ledger::default_policy(2) };
    let policy = LedgerPolicy { treasury: AccountId::from("beta"), ..policy };
    ask(&mut book, request("policy", PaymentBody::SetPolicy(SetPolicy { policy })));
    let large = by_agent("large", "alpha", transfer("alpha", "beta", 1_001));
    assert_eq!(
        ask(&mut book, large),
        "ledger pending transfer\n\
         artifact demo transfer pending ok"
    );
    assert_eq!(
        ask(&mut book, request("yes", PaymentBody::Approve(Approve { request: id("large") }))),
        "ledger committed approve\n\
         ledger committed transfer alpha>beta 10.01 (89.99)\n\
         artifact demo transfer committed ok\n\
         inbox demo committed ok alpha>beta 10.01 (89.99)"
    );
}

#[test]
fn on_a_broken_book_a_request_stays_pending_and_nothing_is_written() {
    let mut book = opened();
    let large = request("large", transfer("alpha", "beta", 1_001));
    // It waits for a person, and was answered for good: no fold makes such a book.
    ask(&mut book, large.clone());
    book.held.insert(large.id, large);
    let yes = request("yes", PaymentBody::Approve(Approve { request: id("large") }));
    let step = Settlement.decide("main", &book, &LaneInput::Record(message(yes)), NOW);
    assert_eq!((step.mark, table(&step.outputs).as_str()), (Mark::Pending, ""));
    // Where every change is checked in full, no request is answered on a sum that is not 0, not even refused.
    if cfg!(debug_assertions) {
        let mut book = opened();
        let mut alpha = book.account(&AccountId::from("alpha")).unwrap().clone();
        alpha.balance.posted += 1;
        book.accounts.insert(AccountId::from("alpha"), alpha);
        for body in [transfer("alpha", "beta", 100), transfer("alpha", "nobody", 100)] {
            let step = Settlement.decide("main", &book, &LaneInput::Record(message(request("x", body))), NOW);
            assert_eq!((step.mark, table(&step.outputs).as_str()), (Mark::Pending, ""));
        }
    }
}

#[test]
fn a_query_is_answered_and_not_recorded() {
    let mut book = opened();
    let query = PaymentBody::Query(Query { account: AccountId::from("alpha"), movements: 5 });
    assert_eq!(ask(&mut book, by_agent("query", "alpha", query)), "inbox demo committed ok has 100.00 TOKEN");
}

#[test]
fn a_reservation_ends_by_the_timer_of_its_book() {
    let mut book = opened();
    assert_eq!(Settlement.timers(&book), []);
    ask(&mut book, request("late", reserve(1_000, Some(NOW + 20))));
    ask(&mut book, request("soon", reserve(2_000, Some(NOW + 10))));
    let [(timer, due)] = Settlement.timers(&book)[..] else { panic!("one timer at a time") };
    assert_eq!(due, NOW + 10);
    let early = LaneInput::Timer { timer };
    assert_eq!(take(&mut book, &early, NOW + 9), "");
    assert_eq!(
        take(&mut book, &early, NOW + 10),
        "ledger committed expire hold expired -20.00\n\
         artifact ledger:main expire committed ok"
    );
    assert_eq!(Settlement.timers(&book).len(), 1);
}

type Running = (JoinHandle<Result<(), ShellError>>, watch::Sender<bool>);

fn start(log: &MemoryLog, ledger: &MemoryLedger) -> Running {
    let (stop, stopped) = watch::channel(false);
    let setup = Setup {
        log: Arc::new(log.clone()),
        views: Views::Ledger(Arc::new(ledger.clone())),
        wire: Arc::new(ProcessorWire::new("settlement", |_| PARTITIONS)),
        limits: Limits { start: Start::Earliest, ..Limits::default() },
        nonce: 1,
        stop: stopped,
        drain: Duration::from_secs(5),
        metrics: Metrics::new(),
    };
    (tokio::spawn(shell::run(Settlement, Arc::new(NoPort), setup)), stop)
}

fn record(request: PaymentRequest) -> NewRecord {
    wire::encode(&message(request), "/p2/test", PARTITIONS).unwrap()
}

async fn all(log: &MemoryLog, topic: Topic) -> Vec<Message> {
    let mut found = Vec::new();
    for partition in 0..PARTITIONS {
        let records = log.read(topic, partition, 0, 10_000).await.unwrap();
        found.extend(records.iter().map(|stored| wire::decode(stored).unwrap()));
    }
    found
}

/// Looks until so many answers are in the ledger.
async fn until(log: &MemoryLog, count: usize) -> Vec<LedgerTransaction> {
    for _ in 0..200_000 {
        let found = all(log, Topic::LedgerTransactions).await;
        if found.len() >= count {
            let transaction = |message: Message| match message.payload {
                Payload::LedgerTransaction(transaction) => transaction,
                other => panic!("{other:?}"),
            };
            return found.into_iter().map(transaction).collect();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{count} answers did not come");
}

async fn end((running, stop): Running) {
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_new_owner_knows_every_book_and_every_answer() {
    let log = MemoryLog::new(PARTITIONS);
    let first = start(&log, &MemoryLedger::default());
    log.append(opening().into_iter().map(record).collect()).await.unwrap();
    let pay = by_agent("pay", "alpha", transfer("alpha", "beta", 2_500));
    log.append(vec![record(pay.clone()); 25]).await.unwrap();
    let soon = shell::now_ms() + 50;
    log.append(vec![record(request("hold", reserve(1_000, Some(soon))))]).await.unwrap();
    until(&log, 8).await;
    end(first).await;

    let ledger = MemoryLedger::default();
    let second = start(&log, &ledger);
    log.append(vec![record(pay); 25]).await.unwrap();
    // The opening, one transfer for fifty requests, the reservation, its end by time, and this.
    log.append(vec![record(request("last", transfer("beta", "alpha", 100)))]).await.unwrap();
    let made = until(&log, 10).await;
    end(second).await;
    assert_eq!(made.len(), 10);
    assert_eq!(made.iter().filter(|made| made.request.id == id("pay")).count(), 1);

    let mut fold = Book::default();
    made.iter().for_each(|made| fold.apply(made).unwrap());
    fold.check().unwrap();
    let has = |name: &str| fold.account(&AccountId::from(name)).unwrap().balance;
    assert_eq!(has("alpha"), Balance { posted: 7_600, reserved: 0 });
    assert_eq!(has("beta"), Balance { posted: 12_400, reserved: 0 });
    assert_eq!(ledger.book(&BookId::from("main")), Some(fold.clone()), "the view is the fold of the log");
    let reader = MemoryLedger::default();
    for partition in 0..PARTITIONS {
        reader.catch_up(&log, partition).await.unwrap();
        reader.catch_up(&log, partition).await.unwrap();
    }
    assert_eq!(reader.book(&BookId::from("main")), Some(fold));
    let results: std::collections::BTreeSet<Id> =
        all(&log, Topic::Inbox).await.iter().map(|result| result.id).collect();
    assert_eq!(results.len(), 1, "fifty deliveries are told as one result");
}

#[tokio::test]
async fn a_ledger_that_was_tampered_with_is_not_settled_on() {
    let log = MemoryLog::new(PARTITIONS);
    let first = start(&log, &MemoryLedger::default());
    log.append(opening().into_iter().map(record).collect()).await.unwrap();
    let made = until(&log, 6).await;
    end(first).await;
    let mut forged = made.last().unwrap().clone();
    forged.seq += 1;
    forged.previous = Some(forged.id);
    forged.id = id("forged");
    forged.request.id = id("never asked");
    let payload = Payload::LedgerTransaction(forged);
    let forged = Message { payload, ..message(opening().remove(0)) };
    log.append(vec![wire::encode(&forged, "/p2/stranger", PARTITIONS).unwrap()]).await.unwrap();
    let (running, _stop) = start(&log, &MemoryLedger::default());
    let error = running.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("ledger-transactions") && error.contains("does not follow"), "{error}");
}

/// The runtime of one partition with a settlement on an outside ledger; commits are answered when they are asked for.
struct Stage {
    runtime: Runtime<OutsideSettlement>,
    /// What the log has.
    made: Vec<LedgerTransaction>,
    sealed: Option<(u64, Vec<Message>)>,
    calls: Vec<(u64, Id, Submit)>,
    epoch: u64,
}

impl Stage {
    /// A new owner, of what is in the log.
    fn new(made: Vec<LedgerTransaction>) -> Stage {
        let codec = Box::new(ProcessorWire::new("settlement", |_| PARTITIONS));
        let limits = Limits { start: Start::Earliest, ..Limits::default() };
        let runtime = Runtime::new(OutsideSettlement::default(), codec, limits, 1);
        let mut stage = Stage { runtime, made, sealed: None, calls: Vec::new(), epoch: 0 };
        stage.on(Event::Assigned { partition: 0, committed: None, start: 0, end: 0 });
        stage.commit();
        stage
    }

    fn book(&self) -> Book {
        let mut book = Book::default();
        self.made.iter().for_each(|made| book.apply(made).unwrap());
        book
    }

    fn on(&mut self, event: Event<SubmitReply>) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.runtime.on(event, NOW) {
                match action {
                    Action::ReadViewBounds { partition, epoch, .. } => {
                        self.epoch = epoch;
                        events.push(Event::ViewBounds { partition, epoch, applied: 0, mark: 0, from: 0 });
                    }
                    Action::ListOpenLanes { partition, epoch } => {
                        let open = self.book().outside.plan.is_some();
                        let keys = open.then(|| "main".to_owned()).into_iter().collect();
                        events.push(Event::OpenLanes { partition, epoch, keys });
                    }
                    Action::Load { partition, epoch, key } => {
                        let rows = LaneRows::Book(Box::new(self.book()));
                        events.push(Event::Loaded { partition, epoch, key, rows });
                    }
                    Action::WriteView { partition, epoch, applied, .. } => {
                        events.push(Event::ViewWritten { partition, epoch, applied });
                    }
                    Action::Commit { batch, outputs, .. } => {
                        let outputs = outputs.iter().map(|output| output.message.clone()).collect();
                        self.sealed = Some((batch, outputs));
                    }
                    Action::Call { epoch, id, request, .. } => self.calls.push((epoch, id, request)),
                    _ => {}
                }
            }
        }
    }

    /// The log takes what was sealed.
    fn commit(&mut self) {
        while let Some((batch, outputs)) = self.sealed.take() {
            let mut positions = Vec::new();
            for output in outputs {
                let payload = output.payload;
                let topic = payload.topic();
                let offset = self.made.len() as i64;
                positions.push(Position { topic, partition: 0, offset });
                if let Payload::LedgerTransaction(made) = payload {
                    self.made.push(made);
                }
            }
            self.on(Event::Committed { batch, positions });
        }
    }

    fn ask(&mut self, offset: i64, request: PaymentRequest) {
        let record = Incoming::Message(Box::new(message(request)));
        self.on(Event::Record { partition: 0, epoch: self.epoch, offset, record });
    }

    fn reply(&mut self, outcome: Submitted) {
        let (epoch, call, request) = self.calls.remove(0);
        let reply = SubmitReply { batch: request.batch.batch, attempt: request.attempt, outcome };
        self.on(Event::Reply { partition: 0, epoch, call, reply });
    }
}

#[test]
fn a_batch_is_submitted_after_its_plan_is_committed_and_reconciled_by_the_next_owner() {
    let taken = |name: &str| Submitted::Taken { external: name.to_owned() };
    let mut stage = Stage::new(Vec::new());
    for (offset, request) in (0..).zip(opening()) {
        stage.ask(offset, request);
    }
    assert!(stage.calls.is_empty(), "nothing is submitted that is not committed");
    stage.commit();
    let plans = |stage: &Stage| stage.calls.iter().map(|(.., submit)| submit.clone()).collect::<Vec<_>>();
    let [first] = &plans(&stage)[..] else { panic!("one batch at a time") };
    assert!(!first.inherited && first.batch.entries.len() == 1, "{first:?}");
    stage.reply(taken("up-1"));
    assert!(stage.calls.is_empty(), "the next batch is planned, not yet committed");
    stage.commit();
    assert_eq!(plans(&stage).len(), 1);

    // The owner dies with a batch on its way; the next one asks what became of it, with the same words.
    let planned = plans(&stage).remove(0).batch;
    let mut next = Stage::new(stage.made.clone());
    let [again] = &plans(&next)[..] else { panic!("it is found") };
    assert!(again.inherited);
    assert_eq!(again.batch, planned);

    // Nobody knows: it is said once, and asked again.
    let unknown = || Submitted::Unknown { message: "no answer".into() };
    next.reply(unknown());
    next.commit();
    let doubts = |stage: &Stage| stage.made.iter().filter(|made| made.outcome.as_str() == "in_doubt").count();
    assert_eq!((doubts(&next), plans(&next).len()), (1, 1));
    next.reply(unknown());
    next.commit();
    assert_eq!((doubts(&next), plans(&next)[0].attempt), (1, 2));
    next.reply(taken("up-2"));
    next.commit();
    let book = next.book();
    book.check().unwrap();
    assert!(book.outside.plan.is_none() && next.calls.is_empty());
    assert_eq!(book.account(&AccountId::from("beta")).unwrap().balance.posted, 10_000);
}
