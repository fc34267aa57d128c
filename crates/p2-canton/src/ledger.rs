//! Batches of `settlement` on Canton.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use p2_core::ids::{AccountId, BookId};
use p2_core::ledger::{Submission, Submitted};
use p2_stream::ports::{OutsideLedger, StoreError};
use p2_stream::shell::now_ms;
use tokio::sync::{Mutex, OnceCell};

use crate::client::{self, Client, Command};
use crate::config::{BadConfig, CantonConfig};
use crate::error::{CantonError, Class};
use crate::inputs::choose;
use crate::model::{CURSOR, Cursor, TEMPLATES, minor, new_cursor, settle};
use crate::view::{ReadError, View};

/// Pause after the first try that may be repeated; doubled after each further one.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Books on a Canton ledger.
pub struct CantonLedger {
    client: Client,
    config: CantonConfig,
    party: OnceCell<String>,
    view: Mutex<View>,
}

impl fmt::Debug for CantonLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CantonLedger").field("client", &self.client).finish_non_exhaustive()
    }
}

/// What the ledger knows of a batch.
enum Known {
    /// It took it.
    Taken(String),
    /// It can be submitted: the cursor to consume and the holdings to spend.
    Open { cursor: Cursor, inputs: Vec<String> },
    /// The book is new to it.
    New,
    /// It cannot be settled there: why.
    Foreign(String),
}

/// How one try ended.
enum Tried {
    /// For good.
    Over(Submitted),
    /// Look at the ledger and try again. Whether the try may still be on its way.
    Again { message: String, uncertain: bool },
    /// Nobody can mend this by trying.
    Stop(String),
}

impl CantonLedger {
    /// A ledger; asks nothing yet.
    ///
    /// # Errors
    /// [`BadConfig`] for an address that is none.
    pub fn new(config: CantonConfig) -> Result<CantonLedger, BadConfig> {
        let client = Client::new(&config)?;
        Ok(CantonLedger { client, config, party: OnceCell::new(), view: Mutex::default() })
    }

    /// The client that it speaks with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What the wallets of a book have on the ledger now, in minor units of `scale` decimals.
    ///
    /// # Errors
    /// A sentence where the ledger cannot be read, or has amounts that the book cannot.
    pub async fn balances(&self, book: &BookId, scale: i32) -> Result<BTreeMap<AccountId, i64>, String> {
        let party = self.party().await.map_err(|error| error.to_string())?;
        let mut view = self.view.lock().await;
        view.catch_up(&self.client, party).await.map_err(|error| error.to_string())?;
        let of = |(wallet, held): (AccountId, Vec<(String, i128)>)| {
            let sum = held.iter().map(|(_, amount)| amount).sum();
            let sum = minor(sum, scale).ok_or_else(|| format!("'{wallet}' has parts of a minor unit"))?;
            Ok((wallet, sum))
        };
        view.holdings(book).into_iter().map(of).collect()
    }

    async fn party(&self) -> Result<&String, CantonError> {
        let user = &self.config.user;
        self.party
            .get_or_try_init(|| async {
                self.client.user_party(user).await?.ok_or_else(|| CantonError::Broken {
                    place: self.client.place().to_owned(),
                    reason: format!("it has no user '{user}': run 'p2engine ledger bootstrap' first"),
                    class: Class::Configuration,
                })
            })
            .await
    }

    /// Reads the ledger: what it knows of a batch.
    async fn look(&self, party: &str, batch: &Submission) -> Result<Known, ReadError> {
        let mut view = self.view.lock().await;
        view.catch_up(&self.client, party).await?;
        let cursor = view.cursor(&batch.book).map_err(ReadError::Model)?;
        let inputs = choose(batch, &view.holdings(&batch.book));
        drop(view);
        let Submission { book, command, expected, last, .. } = batch;
        let Some(cursor) = cursor else {
            return Ok(match expected {
                0 => Known::New,
                at => Known::Foreign(format!(
                    "the ledger has no cursor of book '{book}', which is at {at}: it is another ledger, or another party"
                )),
            });
        };
        if cursor.next == last.saturating_add(1) && cursor.command == *command {
            return Ok(Known::Taken(self.name_of(party, &cursor).await));
        }
        if cursor.next == *expected {
            return Ok(Known::Open { cursor, inputs });
        }
        Ok(Known::Foreign(format!(
            "the ledger's cursor of book '{book}' is at {} (after '{}'), the book at {expected}: somebody else settles \
             a book of this name there",
            cursor.next, cursor.command
        )))
    }

    /// What the ledger calls the transaction that moved a cursor; its offset where that is not kept any more.
    async fn name_of(&self, party: &str, cursor: &Cursor) -> String {
        let found = self.client.update_at(party, &TEMPLATES, cursor.offset).await;
        found.map_or_else(|_| format!("offset {}", cursor.offset), |update| update.update_id)
    }

    fn submission(
        &self,
        party: &str,
        batch: &Submission,
        command_id: String,
        command: Command,
    ) -> client::Submission {
        client::Submission {
            command,
            command_id,
            submission_id: format!("{:032x}", rand::random::<u128>()),
            workflow_id: format!("p2/{}", batch.book),
            user: self.config.user.clone(),
            party: party.to_owned(),
            deduplication_s: self.config.deduplication_s,
        }
    }

    fn exercise(cursor: &Cursor, choice: &str, argument: serde_json::Value) -> Command {
        Command::Exercise {
            template: CURSOR.to_owned(),
            contract: cursor.contract.clone(),
            choice: choice.to_owned(),
            argument,
        }
    }

    /// Reads, and submits where the ledger does not have it. `uncertain`: an earlier try may be on its way.
    async fn attempt(&self, party: &str, batch: &Submission, uncertain: bool) -> Tried {
        let (cursor, inputs) = match self.look(party, batch).await {
            Ok(Known::Taken(external)) => return Tried::Over(Submitted::Taken { external }),
            Ok(Known::Open { cursor, inputs }) => (cursor, inputs),
            Ok(Known::New) => return self.open(party, batch).await,
            Ok(Known::Foreign(message)) => return Tried::Stop(message),
            Err(ReadError::Canton(error)) if error.class() != Class::Configuration => {
                // Reading does nothing: what was uncertain before still is.
                return Tried::Again { message: error.to_string(), uncertain: false };
            }
            Err(error) => return Tried::Stop(error.to_string()),
        };
        let command = Self::exercise(&cursor, "Settle", settle(batch, &inputs));
        let submission = self.submission(party, batch, batch.command.clone(), command);
        let error = match self.client.submit(&submission).await {
            Ok(made) => return Tried::Over(Submitted::Taken { external: made.update_id }),
            Err(error) => error,
        };
        tracing::debug!(target: "settlement", command = batch.command, code = error.code(), class = ?error.class(), "not taken");
        let message = error.to_string();
        match error.class() {
            // The cursor tells whether it was taken.
            Class::DoneBefore | Class::Inputs => Tried::Again { message, uncertain: false },
            Class::Definite if uncertain => self.fence(party, batch, &cursor, message).await,
            Class::Definite => Tried::Over(Submitted::Refused { message }),
            Class::Configuration | Class::NotFound | Class::Pruned | Class::TooMany | Class::Exists => {
                Tried::Stop(message)
            }
            // A server that is busy may have passed it on all the same.
            Class::Transient | Class::InFlight | Class::Unknown => Tried::Again { message, uncertain: true },
        }
    }

    /// A batch is refused, but an earlier try of it may be on its way: the cursor that it needs is replaced, so that it
    /// cannot succeed any more. Only then is the refusal final.
    async fn fence(&self, party: &str, batch: &Submission, cursor: &Cursor, refusal: String) -> Tried {
        let fence = Self::exercise(cursor, "Fence", serde_json::json!({}));
        let name: String = cursor.contract.chars().rev().take(40).collect();
        let command_id = format!("p2/fence/{name}");
        match self.client.submit(&self.submission(party, batch, command_id, fence)).await {
            Ok(_) => Tried::Over(Submitted::Refused { message: refusal }),
            Err(error) => Tried::Again { message: format!("{refusal}; and then: {error}"), uncertain: true },
        }
    }

    /// Makes the cursor of a new book. Two that do so at once make one: the command is the same.
    async fn open(&self, party: &str, batch: &Submission) -> Tried {
        let command = Command::Create { template: CURSOR.to_owned(), arguments: new_cursor(party, batch) };
        let command_id = format!("p2/cursor/{}", batch.book);
        match self.client.submit(&self.submission(party, batch, command_id, command)).await {
            Ok(_) => Tried::Again { message: "the cursor was made".to_owned(), uncertain: false },
            Err(error) => match error.class() {
                Class::Configuration | Class::NotFound | Class::Definite => Tried::Stop(error.to_string()),
                _ => Tried::Again { message: error.to_string(), uncertain: false },
            },
        }
    }

    /// Tries until it is over or the time is.
    async fn carry(&self, batch: &Submission, deadline_ms: i64, inherited: bool) -> Submitted {
        let left = u64::try_from(deadline_ms.saturating_sub(now_ms())).unwrap_or(0);
        let last = Mutex::new("there was no time to submit it".to_owned());
        let work = async {
            let (mut uncertain, mut pause) = (inherited, PAUSE);
            loop {
                let tried = match self.party().await {
                    Ok(party) => self.attempt(party, batch, uncertain).await,
                    Err(error) if error.class() == Class::Configuration => Tried::Stop(error.to_string()),
                    Err(error) => Tried::Again { message: error.to_string(), uncertain: false },
                };
                match tried {
                    Tried::Over(outcome) => return outcome,
                    Tried::Stop(message) => return Submitted::Unknown { message },
                    Tried::Again { message, uncertain: more } => {
                        uncertain |= more;
                        *last.lock().await = message;
                    }
                }
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(PAUSE_MAX);
            }
        };
        match tokio::time::timeout(Duration::from_millis(left), work).await {
            Ok(outcome) => outcome,
            Err(_) => Submitted::Unknown { message: last.lock().await.clone() },
        }
    }
}

#[async_trait]
impl OutsideLedger for CantonLedger {
    async fn submit(&self, batch: &Submission, deadline_ms: i64) -> Submitted {
        self.carry(batch, deadline_ms, false).await
    }

    async fn reconcile(&self, batch: &Submission, deadline_ms: i64) -> Submitted {
        self.carry(batch, deadline_ms, true).await
    }

    async fn cursor(&self, book: &BookId) -> Result<Option<i64>, StoreError> {
        let away = |reason: String| StoreError::Unavailable(reason);
        let party = self.party().await.map_err(|error| away(error.to_string()))?;
        let mut view = self.view.lock().await;
        view.catch_up(&self.client, party).await.map_err(|error| away(error.to_string()))?;
        let found = view.cursor(book).map_err(away)?;
        Ok(found.map(|cursor| cursor.next))
    }
}
