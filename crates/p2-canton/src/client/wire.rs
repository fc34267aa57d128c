//! The bodies of the API.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

/// A command, with template and choice by the package's name.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Makes a contract.
    Create {
        /// `#package:Module:Template`.
        template: String,
        /// Its fields.
        arguments: Value,
    },
    /// Exercises a choice on a contract.
    Exercise {
        /// `#package:Module:Template`.
        template: String,
        /// The contract.
        contract: String,
        /// The choice.
        choice: String,
        /// Its arguments.
        argument: Value,
    },
}

/// One command as it is submitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// What is done.
    pub command: Command,
    /// The idempotency key, together with user and party.
    pub command_id: String,
    /// Names this try.
    pub submission_id: String,
    /// What it belongs to, for people.
    pub workflow_id: String,
    /// The user.
    pub user: String,
    /// The party.
    pub party: String,
    /// How long the command is remembered, seconds.
    pub deduplication_s: u64,
}

impl Submission {
    pub(super) fn body(&self) -> Value {
        let command = match &self.command {
            Command::Create { template, arguments } => {
                json!({"CreateCommand": {"templateId": template, "createArguments": arguments}})
            }
            Command::Exercise { template, contract, choice, argument } => json!({"ExerciseCommand": {
                "templateId": template, "contractId": contract, "choice": choice, "choiceArgument": argument,
            }}),
        };
        json!({
            "commands": [command],
            "commandId": self.command_id,
            "submissionId": self.submission_id,
            "workflowId": self.workflow_id,
            "userId": self.user,
            "actAs": [self.party],
            "deduplicationPeriod":
                {"DeduplicationDuration": {"value": {"seconds": self.deduplication_s, "nanos": 0}}},
        })
    }
}

/// Contracts of these templates, seen by one party.
pub(super) fn event_format(party: &str, templates: &[&str]) -> Value {
    let filter = |template: &&str| {
        json!({"identifierFilter": {"TemplateFilter": {"value":
            {"templateId": template, "includeCreatedEventBlob": false}}}})
    };
    let filters: Vec<Value> = templates.iter().map(filter).collect();
    let mut by_party = Map::new();
    by_party.insert(party.to_owned(), json!({"cumulative": filters}));
    json!({"filtersByParty": by_party, "verbose": false})
}

#[derive(Deserialize)]
pub(super) struct Version {
    pub(super) version: String,
}

#[derive(Deserialize)]
pub(super) struct Offset {
    pub(super) offset: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PartyList {
    #[serde(default)]
    pub(super) party_details: Vec<Party>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PartyAnswer {
    pub(super) party_details: Party,
}

#[derive(Deserialize)]
pub(super) struct Party {
    pub(super) party: String,
}

#[derive(Deserialize)]
pub(super) struct UserAnswer {
    pub(super) user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct User {
    #[serde(default)]
    pub(super) primary_party: String,
}

#[derive(Deserialize)]
pub(super) struct Rights {}

#[derive(Deserialize)]
pub(super) struct Answer {
    pub(super) transaction: Transaction,
}

/// What a command, or somebody else's, did.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    /// Its name on the ledger.
    pub update_id: String,
    /// The command; empty where another participant submitted it.
    #[serde(default)]
    pub command_id: String,
    /// Its offset on this participant.
    pub offset: i64,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
enum Event {
    #[serde(rename = "CreatedEvent")]
    Created(Created),
    #[serde(rename = "ArchivedEvent")]
    Archived(Archived),
    #[serde(rename = "ExercisedEvent")]
    Exercised(IgnoredAny),
}

/// A contract that came to be.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// Its id.
    pub contract_id: String,
    /// `package-id:Module:Template`.
    pub template_id: String,
    /// Its fields.
    pub create_argument: Value,
    /// The offset of the transaction that made it.
    #[serde(default)]
    pub offset: i64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Archived {
    contract_id: String,
}

impl Transaction {
    /// Contracts that it made.
    pub fn created(&self) -> impl Iterator<Item = &Created> {
        self.events.iter().filter_map(|event| match event {
            Event::Created(created) => Some(created),
            _ => None,
        })
    }

    /// Ids of contracts that it ended.
    pub fn archived(&self) -> impl Iterator<Item = &str> {
        self.events.iter().filter_map(|event| match event {
            Event::Archived(archived) => Some(archived.contract_id.as_str()),
            _ => None,
        })
    }
}

/// A contract that is active.
pub type ActiveContract = Created;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AcsPage {
    pub(super) active_contracts: Vec<AcsEntry>,
    pub(super) next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AcsEntry {
    contract_entry: ContractEntry,
}

#[derive(Deserialize)]
enum ContractEntry {
    #[serde(rename = "JsActiveContract")]
    Active(ActiveEntry),
    #[serde(rename = "JsEmpty")]
    Empty(IgnoredAny),
    #[serde(rename = "JsIncompleteAssigned")]
    Assigned(IgnoredAny),
    #[serde(rename = "JsIncompleteUnassigned")]
    Unassigned(IgnoredAny),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ActiveEntry {
    created_event: Created,
}

impl AcsEntry {
    pub(super) fn contract(self) -> Option<ActiveContract> {
        match self.contract_entry {
            ContractEntry::Active(entry) => Some(entry.created_event),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct UpdateEnvelope {
    update: Update,
}

#[derive(Deserialize)]
enum Update {
    Transaction(Valued<Transaction>),
    OffsetCheckpoint(IgnoredAny),
    Reassignment(IgnoredAny),
    TopologyTransaction(IgnoredAny),
}

#[derive(Deserialize)]
struct Valued<T> {
    value: T,
}

impl UpdateEnvelope {
    pub(super) fn transaction(self) -> Option<Transaction> {
        match self.update {
            Update::Transaction(transaction) => Some(transaction.value),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CompletionEnvelope {
    completion_response: CompletionResponse,
}

#[derive(Deserialize)]
enum CompletionResponse {
    Completion(Valued<Completion>),
    OffsetCheckpoint(IgnoredAny),
    Empty(IgnoredAny),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Completion {
    command_id: String,
    #[serde(default)]
    update_id: String,
    offset: i64,
}

impl CompletionEnvelope {
    pub(super) fn completion(self) -> Option<(String, Option<String>, i64)> {
        match self.completion_response {
            CompletionResponse::Completion(Valued { value }) => {
                let update = Some(value.update_id).filter(|update| !update.is_empty());
                Some((value.command_id, update, value.offset))
            }
            _ => None,
        }
    }
}
