//! `ledger reward`.

use std::collections::{BTreeMap, BTreeSet};

use p2_core::ids::Id;
use p2_core::ledger::{self, Code};
use p2_core::record::{
    CauseKind, LedgerOutcome, LedgerTransaction, PaymentBody, PaymentCause, PaymentRequest, Reward,
};

use super::{Desk, moved, told};
use crate::commands::by_beginning;
use crate::engine::{EngineError, EngineResult};

impl Desk<'_> {
    /// Asks once more for the reward of an evaluation, under the id that follows from the request that was refused: two
    /// who do so at once ask for one and the same.
    pub(super) async fn reward(&self, evaluation: &str, reason: String, by: String) -> EngineResult<()> {
        let view = self.view().await?;
        let made = self.transactions().await?;
        let rewards: Vec<(&LedgerTransaction, &Reward)> = made.iter().filter_map(of_reward).collect();
        let ids: BTreeSet<Id> = rewards.iter().map(|(_, reward)| reward.evaluation).collect();
        let what = format!("reward in book '{}' that was asked for by evaluation", view.book);
        let id = by_beginning(&what, evaluation, ids.into_iter())?;
        let Some((asked, reward)) = rewards.iter().rfind(|(_, reward)| reward.evaluation == id) else {
            return Err(EngineError::NotFound(format!("there is no {what} {id}")));
        };
        let (id, before) = next(reward, &answers(&rewards))?;
        let before =
            before.map_or_else(String::new, |(code, made)| format!("refused before as {code} ({made})"));
        let cause = PaymentCause {
            kind: CauseKind::Human,
            reason: if reason.is_empty() { before } else { reason },
            ..asked.request.cause.clone()
        };
        let request = PaymentRequest {
            id,
            book: self.book.clone(),
            by,
            cause: PaymentCause { reference: Some(reward.evaluation), ..cause },
            reply_to: None,
            not_after_ms: None,
            body: PaymentBody::Reward((*reward).clone()),
        };
        let made = self.run.engine.pay(request).await?;
        match &made.outcome {
            LedgerOutcome::Rejected(why) => {
                Err(EngineError::Refused { code: why.code.clone(), message: why.message.clone() })
            }
            outcome => {
                self.run.show(&told(&view, &made), || match outcome {
                    LedgerOutcome::Pending(why) => {
                        format!("Waiting: {}\nrequest {}", why.message, made.request.id)
                    }
                    _ => format!("{}\n  transaction {}", moved(&view, &made), made.id),
                });
                Ok(())
            }
        }
    }
}

fn of_reward(made: &LedgerTransaction) -> Option<(&LedgerTransaction, &Reward)> {
    match &made.request.body {
        PaymentBody::Reward(reward) => Some((made, reward)),
        _ => None,
    }
}

/// What each request was answered; another one under its id is no answer to it.
fn answers<'t>(rewards: &[(&'t LedgerTransaction, &Reward)]) -> BTreeMap<Id, &'t LedgerTransaction> {
    let mut answers: BTreeMap<Id, &LedgerTransaction> = BTreeMap::new();
    for (made, _) in rewards {
        let first = answers.entry(made.request.id).or_insert(made);
        if ledger::digest(&first.request) == ledger::digest(&made.request) {
            *first = made;
        }
    }
    answers
}

/// The id under which a reward can be paid now, and the refusal before it: (code, transaction).
fn next(
    reward: &Reward,
    answers: &BTreeMap<Id, &LedgerTransaction>,
) -> EngineResult<(Id, Option<(String, Id)>)> {
    let (mut id, mut before) = (ledger::reward_id(reward), None);
    while let Some(made) = answers.get(&id) {
        let stands = |what: String| {
            let message = format!("{what} (request {id}, transaction {})", made.id);
            Err(EngineError::Refused { code: Code::AlreadyRewarded.as_str().to_owned(), message })
        };
        match &made.outcome {
            LedgerOutcome::Rejected(why) if ledger::may_be_asked_again(Code::parse(&why.code)) => {
                before = Some((why.code.clone(), made.id));
                id = ledger::reward_again_id(&id);
            }
            LedgerOutcome::Rejected(why) => return stands(format!("that stands: {}", why.message)),
            LedgerOutcome::Committed(_) => {
                return stands("this work was rewarded for this occasion".to_owned());
            }
            LedgerOutcome::Pending(_) => {
                return stands(format!("it waits for a person: 'p2engine ledger approve {id}'"));
            }
            _ => return stands("it is on its way".to_owned()),
        }
    }
    Ok((id, before))
}
