//! A participant for tests: the JSON Ledger API v2 on 127.0.0.1, in this process, as far as a ledger of holdings
//! needs it.
//!
//! It knows what makes a client's life hard: commands are deduplicated for a while, a contract is consumed once,
//! lists end at 200 elements, old updates are pruned; and it fails on demand ([`Fault`]). What the choices of our
//! package do is written down here a second time, by itself ([`model`]): this tests a client and how it recovers, and
//! says nothing about the Daml.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

mod api;
pub mod model;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Most elements of a list, as a participant is configured by default.
pub const LIST_MAX: usize = 200;

/// What goes wrong with one submission.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// It is committed, and the connection breaks before the answer.
    LoseAnswer,
    /// It is committed, and a proxy says that it waited too long.
    TimeOut,
    /// Nothing is done: the server is busy.
    Unavailable,
    /// Nothing is done: a proxy without a code of the API says so.
    BadGateway,
    /// Nothing is done: a contract is locked by somebody else.
    Contention,
    /// It is being worked on for so many milliseconds before it is committed.
    Slow(u64),
    /// It is accepted, held until [`Fake::release`], and the client is told nothing meanwhile.
    Hold,
    /// Nothing is done, and the client is told that the window is too long.
    WindowTooLong,
}

/// A contract.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// `Module:Template`.
    pub template: String,
    /// Its fields.
    pub arguments: Value,
    /// The offset of the transaction that made it.
    pub offset: i64,
    /// Nobody consumed it.
    pub active: bool,
}

/// A committed transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Its offset.
    pub offset: i64,
    /// Its name.
    pub update_id: String,
    /// The command.
    pub command_id: String,
    /// The try.
    pub submission_id: String,
    /// Contracts that it made.
    pub created: Vec<String>,
    /// Contracts that it ended.
    pub archived: Vec<String>,
}

/// What the participant has.
#[derive(Debug, Default)]
pub struct State {
    /// Everything ever made, by id.
    pub contracts: BTreeMap<String, Contract>,
    /// Transactions, in order.
    pub updates: Vec<Update>,
    /// Seconds since it began; only tests move it.
    pub clock_s: u64,
    /// Updates up to here are gone.
    pub pruned: i64,
    /// What goes wrong with the next submissions, in order.
    pub faults: VecDeque<Fault>,
    /// A batch with a reason that has this in it is refused by the model.
    pub poison: Option<String>,
    /// The token that it asks for.
    pub token: Option<String>,
    /// It is older than 3.5.10: no pages.
    pub no_pages: bool,
    /// Uploaded packages, by size.
    pub dars: Vec<usize>,
    /// Parties.
    pub parties: Vec<String>,
    /// User → its primary party.
    pub users: BTreeMap<String, String>,
    /// (user, party) that may act.
    pub rights: BTreeSet<(String, String)>,
    /// Submissions that reached it, whatever became of them: (command, submission).
    pub tries: Vec<(String, String)>,
    /// Longest window, seconds.
    pub window_max_s: u64,
    offset: i64,
    commands: BTreeMap<Change, Remembered>,
    in_flight: BTreeSet<Change>,
    contract_count: u64,
    released: bool,
}

/// (user, party, command): what makes two submissions the same.
type Change = (String, String, String);

#[derive(Clone, Debug)]
struct Remembered {
    offset: i64,
    submission_id: String,
    until_s: u64,
}

impl State {
    /// Active contracts of a template, by `Module:Template`.
    pub fn active(&self, template: &str) -> Vec<&Contract> {
        self.contracts.values().filter(|contract| contract.active && contract.template == template).collect()
    }

    /// The newest offset.
    pub fn end(&self) -> i64 {
        self.offset
    }

    /// Moves the offset on, as transactions of others do.
    pub fn pass(&mut self, offsets: i64) {
        self.offset += offsets;
    }
}

/// A running participant.
#[derive(Debug)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl Fake {
    /// Starts one with nothing on it.
    pub async fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { window_max_s: 7 * 86_400, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let server = Mutex::new(Some(serve(listener, Arc::clone(&state))));
        Fake { state, address, server }
    }

    /// Starts one with a user `p2engine`, its party, and the package.
    pub async fn ready() -> Fake {
        let fake = Fake::start().await;
        {
            let mut state = fake.state();
            let party = "p2engine::1220feed".to_owned();
            state.parties.push(party.clone());
            state.users.insert("p2engine".to_owned(), party.clone());
            state.rights.insert(("p2engine".to_owned(), party));
            state.dars.push(1);
        }
        fake
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it has, to look at and to change.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next submissions go wrong like this.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    /// Lets submissions go on that [`Fault::Hold`] holds.
    pub fn release(&self) {
        self.state().released = true;
    }

    /// Time passes.
    pub fn pass_seconds(&self, seconds: u64) {
        self.state().clock_s += seconds;
    }

    /// Stops answering: connections break, what was being worked on is lost, what was committed stays.
    pub async fn stop(&self) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(server) = server {
            server.abort();
            let _ = server.await;
        }
        self.state().in_flight.clear();
    }

    /// Answers again, at the same address.
    pub async fn start_again(&self) {
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let server = serve(listener, Arc::clone(&self.state));
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().unwrap_or_else(PoisonError::into_inner).take() {
            server.abort();
        }
    }
}

fn serve(listener: TcpListener, state: Arc<Mutex<State>>) -> JoinHandle<()> {
    tokio::spawn(async move {
        axum::serve(listener, api::router(state)).await.unwrap();
    })
}
