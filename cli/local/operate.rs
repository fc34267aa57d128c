//! What operators do: dead letters, effects in doubt, verification.

use std::collections::BTreeMap;

use p2_core::conversation::Conversation;
use p2_core::ids::{ConversationId, Id};
use p2_core::record::{EffectBody, InboxBody, InboxMessage, Message, Payload, Topic};
use p2_core::state::{State, WaitKind};
use p2_stream::ports::{Headers, NewRecord, StoredRecord};
use p2_stream::shell::now_ms;
use p2_stream::wire;

use super::read::{decode, read_all};
use super::{LocalEngine, message};
use crate::backend::engine_error;
use crate::engine::{Engine, EngineError, EngineResult, InDoubt, Resolution, VerifyReport};

impl LocalEngine {
    /// The record is written again to the topic that only its group consumes, under an id derived from the
    /// letter: a second replay of the same letter is a duplicate.
    pub(super) async fn deliver_letter_again(&self, letter: Id, force: bool) -> EngineResult<()> {
        let letters = self.dead_letters().await?;
        let Some(letter) = letters.into_iter().find(|known| known.id == letter) else {
            return Err(EngineError::NotFound(format!("there is no dead letter {letter}")));
        };
        let topic = Topic::parse(&letter.topic)
            .filter(|topic| matches!(topic, Topic::Inbox | Topic::Effects | Topic::PaymentRequests))
            .ok_or_else(|| EngineError::Invalid(format!("records of '{}' are not replayed", letter.topic)))?;
        let record = NewRecord {
            topic,
            partition: letter.partition,
            key: letter.key.clone(),
            headers: Headers::from(letter.headers.as_slice()),
            value: letter.value.clone(),
            time_ms: now_ms(),
        };
        let record = match &self.cluster {
            Some(cluster) => cluster.readable(record).await.map_err(engine_error)?,
            None => record,
        };
        let original = wire::decode(&StoredRecord { offset: letter.offset, record }).map_err(|error| {
            let code = error.code().to_owned();
            EngineError::Refused { code, message: format!("still unreadable: {error}") }
        })?;
        let id = if force { crate::engine::draw_id() } else { Id::derive(&letter.id, "replay", 0) };
        let again = Message { id, cause: letter.id, time_ms: now_ms(), ..original };
        self.append_messages(&[again]).await.map(drop)
    }

    pub(super) async fn effects_in_doubt(&self) -> EngineResult<Vec<InDoubt>> {
        let mut found = Vec::new();
        for line in self.conversations().await?.into_iter().filter(|line| line.open_waits > 0) {
            let Some(conversation) = self.conversation(&line.id).await? else { continue };
            let timed: Vec<Id> = conversation.timers().into_iter().map(|(id, _)| id).collect();
            let doubtful = |wait: &Id| {
                let open = conversation.waits.get(wait);
                open.is_some_and(|open| open.waiting.kind == WaitKind::Tool) && !timed.contains(wait)
            };
            for (_, message) in self.messages(Topic::Effects, Some(line.id.as_str())).await? {
                let Payload::Effect(effect) = message.payload else { continue };
                let EffectBody::CallTool(call) = effect.body else { continue };
                if doubtful(&call.wait) {
                    found.push(InDoubt {
                        effect: effect.id,
                        wait: call.wait,
                        call_id: call.call_id,
                        conversation: line.id.clone(),
                        agent: effect.agent.0,
                        tool: call.tool,
                        arguments: call.arguments.0,
                        since_ms: in_doubt_since(&conversation, call.wait).unwrap_or(message.time_ms),
                        detail: "the call may or may not have been made".to_owned(),
                    });
                }
            }
        }
        found.sort_by_key(|doubt| doubt.since_ms);
        Ok(found)
    }

    pub(super) async fn close_in_doubt(&self, effect: Id, resolution: Resolution) -> EngineResult<()> {
        let doubts = self.effects_in_doubt().await?;
        let Some(doubt) = doubts.iter().find(|doubt| doubt.effect == effect) else {
            return Err(EngineError::NotFound(format!(
                "effect {effect} is not in doubt: see 'effects in-doubt list'"
            )));
        };
        let body = InboxBody::ToolOutcome(resolution.outcome(doubt));
        let inbox = InboxMessage { conversation: doubt.conversation.clone(), body };
        let id = Id::derive(&effect, "resolved", 0);
        let resolved = Message { cause: effect, ..message(id, Payload::Inbox(inbox)) };
        self.append_messages(&[resolved]).await?;
        match self.outcome(&doubt.conversation, id, crate::engine::OUTCOME_TIMEOUT).await? {
            Some(_) => Ok(()),
            None => Err(EngineError::Timeout("stored, but not processed in time".to_owned())),
        }
    }

    pub(super) async fn compare_with_log(&self) -> EngineResult<VerifyReport> {
        let mut report = VerifyReport::default();
        for partition in 0..self.log.partitions(Topic::StateTransitions) {
            let mut folds: BTreeMap<ConversationId, Conversation> = BTreeMap::new();
            for stored in read_all(self.log.as_ref(), Topic::StateTransitions, partition).await? {
                let Payload::Transition(transition) = decode(&stored)?.payload else { continue };
                report.transitions += 1;
                let fold = folds.entry(transition.conversation.clone()).or_default();
                if let Err(error) = fold.apply(&transition) {
                    report.differences.push(error.to_string());
                }
            }
            self.partition_is_current(partition).await?;
            for (id, fold) in folds {
                report.conversations += 1;
                let live = self.fold_of_store(&id).await?;
                // The conversation may have gone on since the log was read: then the fold is a prefix.
                if live.as_ref() != Some(&fold) && live.is_none_or(|live| live.next_seq <= fold.next_seq) {
                    report.differences.push(format!("conversation '{id}': the live view is not the fold"));
                }
            }
        }
        Ok(report)
    }
}

/// When it was written down that nobody knows: its wait was appended again, without a deadline.
fn in_doubt_since(conversation: &Conversation, wait: Id) -> Option<i64> {
    let branches = conversation.stacks.values().flat_map(|stack| stack.branches.values());
    branches.flat_map(|branch| &branch.entries).find_map(|entry| match &entry.state {
        State::Waiting(waiting) if waiting.id == wait && waiting.deadline_ms.is_none() => Some(entry.time_ms),
        _ => None,
    })
}
