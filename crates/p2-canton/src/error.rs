//! What a participant's errors mean. The `code` decides: two HTTP statuses stand for several opposite things each.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// Longest piece of a participant's own words in an error, characters.
const SAID_CHARS_MAX: usize = 400;

/// What is to be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same command succeeded before.
    DoneBefore,
    /// The same command is being worked on.
    InFlight,
    /// Try again later.
    Transient,
    /// A contract that it needs is not there (any more): read, choose anew, try again. Our own earlier try may be why.
    Inputs,
    /// The model refuses it and always will.
    Definite,
    /// Somebody has to mend the configuration, of the engine or of the participant.
    Configuration,
    /// What was asked for is not kept any more.
    Pruned,
    /// The list is longer than the participant gives at once.
    TooMany,
    /// There is no such thing, or no such endpoint.
    NotFound,
    /// It is there already.
    Exists,
    /// Nobody knows whether it was done.
    Unknown,
}

/// Codes whose meaning does not depend on anything else.
const CODES: [(&str, Class); 33] = [
    ("DUPLICATE_COMMAND", Class::DoneBefore),
    ("SUBMISSION_ALREADY_IN_FLIGHT", Class::InFlight),
    ("REQUEST_TIME_OUT", Class::Unknown),
    ("LOCAL_VERDICT_TIMEOUT", Class::Transient),
    ("MEDIATOR_SAYS_TX_TIMED_OUT", Class::Transient),
    ("LOCAL_VERDICT_LOCKED_CONTRACTS", Class::Transient),
    ("LOCAL_VERDICT_LOCKED_KEYS", Class::Transient),
    ("PARTICIPANT_BACKPRESSURE", Class::Transient),
    ("SEQUENCER_BACKPRESSURE", Class::Transient),
    ("PARTICIPANT_OVERLOADED", Class::Transient),
    ("SERVICE_NOT_RUNNING", Class::Transient),
    ("SERVER_IS_SHUTTING_DOWN", Class::Transient),
    ("NOT_CONNECTED_TO_ANY_SYNCHRONIZER", Class::Transient),
    ("CONTRACT_NOT_FOUND", Class::Inputs),
    ("CONTRACT_NOT_ACTIVE", Class::Inputs),
    ("LOCAL_VERDICT_INACTIVE_CONTRACTS", Class::Inputs),
    ("UNHANDLED_EXCEPTION", Class::Definite),
    ("TEMPLATE_PRECONDITION_VIOLATED", Class::Definite),
    ("DAML_FAILURE", Class::Definite),
    ("INTERPRETATION_USER_ERROR", Class::Definite),
    ("INVALID_DEDUPLICATION_PERIOD", Class::Configuration),
    ("UNAUTHENTICATED", Class::Configuration),
    ("PERMISSION_DENIED", Class::Configuration),
    ("TEMPLATES_OR_INTERFACES_NOT_FOUND", Class::Configuration),
    ("PACKAGE_NAMES_NOT_FOUND", Class::Configuration),
    ("PACKAGE_NOT_FOUND", Class::Configuration),
    ("COMMAND_PREPROCESSING_FAILED", Class::Configuration),
    ("INVALID_ARGUMENT", Class::Configuration),
    ("PARTICIPANT_PRUNED_DATA_ACCESSED", Class::Pruned),
    ("JSON_API_MAXIMUM_LIST_ELEMENTS_NUMBER_REACHED", Class::TooMany),
    ("USER_NOT_FOUND", Class::NotFound),
    ("UPDATE_NOT_FOUND", Class::NotFound),
    ("USER_ALREADY_EXISTS", Class::Exists),
];

/// What a participant answers where it does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CantonError {
    /// It said why.
    #[error("the Canton participant at {place} answers {code}: {cause}")]
    Answered {
        /// Its address.
        place: String,
        /// The stable code.
        code: String,
        /// Its words, cut.
        cause: String,
        /// What to do.
        class: Class,
        /// Parts of its words for programs: for a duplicate, the offset of the completion.
        context: BTreeMap<String, String>,
    },
    /// It, or something before it, did not answer as the API does.
    #[error("the Canton participant at {place}: {reason}")]
    Broken {
        /// Its address.
        place: String,
        /// What happened.
        reason: String,
        /// What to do.
        class: Class,
    },
}

impl CantonError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            CantonError::Answered { class, .. } | CantonError::Broken { class, .. } => *class,
        }
    }

    /// The stable code; empty where there is none.
    pub fn code(&self) -> &str {
        match self {
            CantonError::Answered { code, .. } => code,
            CantonError::Broken { .. } => "",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    code: String,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    context: BTreeMap<String, Value>,
    #[serde(default)]
    error_category: i64,
}

/// The error in an answer that is none of those that were hoped for.
pub(crate) fn of_answer(place: &str, status: u16, body: &str) -> CantonError {
    let place = place.to_owned();
    let Ok(said) = serde_json::from_str::<Said>(body) else {
        return CantonError::Broken { reason: plain(status, body), class: of_status(status), place };
    };
    let class = class_of(&said.code, said.error_category);
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let context = said.context.into_iter().map(|(key, value)| (key, text(value))).collect();
    CantonError::Answered { place, code: said.code, cause: cut(&said.cause), class, context }
}

/// By its code; by its category where the code is not known here.
fn class_of(code: &str, category: i64) -> Class {
    if let Some((_, class)) = CODES.iter().find(|(known, _)| *known == code) {
        return *class;
    }
    match category {
        // A server that is busy or starting; contention; a background process that lags.
        1 | 2 | 13 => Class::Transient,
        // Credentials, permissions, requests that are wrong by themselves, what is not there, what is not supported.
        6 | 7 | 8 | 11 | 14 => Class::Configuration,
        _ => Class::Unknown,
    }
}

/// An answer without a code: a proxy's, or a body that the API could not read.
fn of_status(status: u16) -> Class {
    match status {
        400 | 401 | 403 | 415 => Class::Configuration,
        404 | 405 | 501 => Class::NotFound,
        413 => Class::TooMany,
        429 => Class::Transient,
        _ => Class::Unknown,
    }
}

fn plain(status: u16, body: &str) -> String {
    match status {
        401 | 403 => {
            format!("it refuses the token ({status}): check ledger.canton.token_file and the user's rights")
        }
        404 | 405 => {
            format!(
                "there is no such thing in its API ({status}): check ledger.canton.url and its version (3.4 or later)"
            )
        }
        _ => format!("status {status}: {}", cut(body)),
    }
}

/// A server's own words, in one line, cut.
pub(crate) fn cut(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAID_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, body: &str) -> Class {
        of_answer("http://h", status, body).class()
    }

    #[test]
    fn the_code_decides_and_not_the_status() {
        let both = |code: &str| class(409, &format!(r#"{{"code":"{code}","errorCategory":10}}"#));
        assert_eq!(both("DUPLICATE_COMMAND"), Class::DoneBefore);
        assert_eq!(both("SUBMISSION_ALREADY_IN_FLIGHT"), Class::InFlight);
        let refused = |code: &str| class(400, &format!(r#"{{"code":"{code}","errorCategory":9}}"#));
        assert_eq!(refused("DAML_FAILURE"), Class::Definite);
        assert_eq!(refused("INVALID_DEDUPLICATION_PERIOD"), Class::Configuration);
        assert_eq!(refused("PARTICIPANT_PRUNED_DATA_ACCESSED"), Class::Pruned);
    }

    #[test]
    fn a_code_that_nobody_knows_refuses_no_payment() {
        for category in 0..20 {
            let body = format!(r#"{{"code":"NEW_IN_4_0","errorCategory":{category}}}"#);
            let found = class(400, &body);
            assert!(!matches!(found, Class::Definite | Class::DoneBefore), "{category}: {found:?}");
        }
        assert_eq!(class(503, r#"{"code":"NEW","errorCategory":1}"#), Class::Transient);
    }

    #[test]
    fn an_answer_without_a_code_is_unknown_unless_it_cannot_have_been_read() {
        assert_eq!(class(400, "Invalid value for: body"), Class::Configuration);
        assert_eq!(class(502, "<html>bad gateway</html>"), Class::Unknown);
        assert_eq!(class(503, ""), Class::Unknown);
        assert_eq!(class(404, "Not found"), Class::NotFound);
    }

    #[test]
    fn every_code_stands_in_the_table_once() {
        let names: std::collections::BTreeSet<&str> = CODES.iter().map(|(code, _)| *code).collect();
        assert_eq!(names.len(), CODES.len());
    }
}
