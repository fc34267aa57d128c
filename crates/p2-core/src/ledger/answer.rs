//! What a request was answered, remembered for ever, and why one is refused.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::reward::may_be_asked_again;
use crate::ids::Id;
use crate::record::{HoldState, PaymentBody, PaymentRequest, PaymentStatus};

/// The answer to a request, as much of it as is kept for ever. The rest is in its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`digest`] of the request.
    #[serde(with = "bytes")]
    pub digest: Id,
    /// Its newest transaction.
    #[serde(with = "bytes")]
    pub transaction: Id,
    /// That transaction's `seq`.
    pub seq: i64,
    /// How it ended, or what it waits for.
    pub status: PaymentStatus,
    /// Why it was refused; [`Code::Ok`] where it was not.
    pub code: Code,
    /// For a reservation that was made: what it is now.
    pub hold: Option<HoldState>,
}

/// Ids as bytes: there is an answer for every request that ever was.
mod bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::ids::Id;

    pub(super) fn serialize<S: Serializer>(id: &Id, to: S) -> Result<S::Ok, S::Error> {
        id.as_bytes().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Id, D::Error> {
        <[u8; 16]>::deserialize(from).map(Id::from_bytes)
    }
}

/// Names what a request asks: the first 128 bits of SHA-256 of its book and body as JSON with sorted keys and
/// without what is null, so that a field that is added later changes no digest. Who asks, when and why are no part
/// of it.
pub fn digest(request: &PaymentRequest) -> Id {
    let mut body = serde_json::to_value(&request.body).unwrap_or_default();
    drop_nulls(&mut body);
    let body = serde_json::to_string(&body).unwrap_or_default();
    Id::of_text(&format!("{}\n{body}", request.book))
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Whether a request with an id that was answered asks the same as the one that was.
pub(super) fn same(answer: &Answer, request: &PaymentRequest) -> bool {
    answer.digest == digest(request)
}

/// What a second request under an answered id is told, where it asks something else.
pub fn conflict(answer: &Answer, request: &PaymentRequest) -> Refusal {
    let first = answer.transaction;
    match request.body {
        PaymentBody::Reward(_) if answer.status == PaymentStatus::Rejected => Refusal::new(
            Code::AlreadyRewarded,
            format!(
                "this work was judged for this occasion before and got nothing ({}, transaction {first}): another \
                 evaluation of it pays nothing either; {}",
                answer.code.as_str(),
                if may_be_asked_again(answer.code) {
                    "once the reason has passed, a person asks for it with 'p2engine ledger reward EVALUATION'"
                } else {
                    "to pay, name another occasion"
                }
            ),
        ),
        PaymentBody::Reward(_) => Refusal::new(
            Code::AlreadyRewarded,
            format!(
                "this work was judged and rewarded for this occasion before (transaction {first}): another \
                 evaluation of it pays nothing; to pay again, name another occasion"
            ),
        ),
        _ => Refusal::new(
            Code::Conflict,
            format!(
                "request {} asked for something else before (transaction {first}): use a new id for a new request",
                request.id
            ),
        ),
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Stable.
    pub code: Code,
    /// One sentence: what, where, how to mend.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Stable codes of answers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// Snake-case name, as in records.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Code::$name => $text,)*
                }
            }
        }
    };
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Code, D::Error> {
        String::deserialize(from).map(|text| Code::parse(&text))
    }
}

codes! {
    /// It was done.
    Ok = "ok",
    /// The request itself is wrong: a name, an amount, a score.
    Invalid = "invalid",
    /// The id belongs to another request.
    Conflict = "conflict",
    /// The same work was rewarded for the same occasion.
    AlreadyRewarded = "already_rewarded",
    /// It was reached too late.
    Expired = "expired",
    /// There is no such book.
    UnknownBook = "unknown_book",
    /// There is no such account.
    UnknownAccount = "unknown_account",
    /// There is no such reservation, or no such request that waits.
    UnknownRequest = "unknown_request",
    /// The book or account is there already.
    Exists = "exists",
    /// An account is frozen.
    Frozen = "frozen",
    /// Payer and receiver are one.
    SelfTransfer = "self_transfer",
    /// Not enough money.
    Insufficient = "insufficient",
    /// Over the account's limit for one transfer.
    OverLimit = "over_limit",
    /// Over the account's limit for one day.
    OverDayLimit = "over_day_limit",
    /// A balance would be larger than any may be.
    Overflow = "overflow",
    /// The cause does not give the right to ask this.
    NotAllowed = "not_allowed",
    /// The reservation ended before.
    Ended = "ended",
    /// Its time has not come.
    NotDue = "not_due",
    /// The score reaches no tier.
    NoTier = "no_tier",
    /// A person said no.
    Denied = "denied",
    /// Who asked gave up before a person had agreed.
    Withdrawn = "withdrawn",
    /// What an outside ledger said.
    External = "external",
}

impl Code {
    /// The code of that name; [`Code::External`] for one that this version does not know.
    pub fn parse(text: &str) -> Code {
        Code::ALL.iter().copied().find(|code| code.as_str() == text).unwrap_or(Code::External)
    }
}
