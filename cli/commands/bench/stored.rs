//! A system that has been in use: conversations that were held before the measurement, in log and view.

use std::collections::BTreeMap;

use indicatif::ProgressBar;
use p2_core::ids::{AgentId, BranchId, ConversationId, Id};
use p2_core::record::{
    Appended, BranchStatus, Change, CheckedOut, Decided, Forked, Message, Opened, Outcome, Payload,
    StateTransition, Topic, Verdict,
};
use p2_core::state::{AssistantMessage, Entry, State, UserMessage};
use p2_stream::ports::NewRecord;
use p2_stream::shell::now_ms;
use p2_stream::wire;

use super::AGENT;
use crate::backend::{Backend, OpenFailed, engine_error};
use crate::config::Config;
use crate::engine::{EngineError, EngineResult};

/// Conversations written at a time.
const CHUNK: usize = 500;
/// Transitions of each: a message and an answer, twice.
const TRANSITIONS: i64 = 4;
/// How long ago they were held, milliseconds: before everything that a starting owner reads again.
const AGO_MS: i64 = 24 * 60 * 60 * 1_000;

/// Writes so many conversations to the log and the view of a system that does not run.
pub(super) async fn fill(config: &Config, count: usize, progress: &ProgressBar) -> EngineResult<()> {
    let opened = Backend::open(config).await.map_err(|failed| match failed {
        OpenFailed::Held(error) | OpenFailed::Other(error) => error,
    })?;
    let partitions = opened.log.partitions(Topic::StateTransitions);
    let time_ms = now_ms() - AGO_MS;
    let mut begun = 0;
    while begun < count {
        let numbers = begun..count.min(begun + CHUNK);
        begun = numbers.end;
        let transitions: Vec<StateTransition> = numbers
            .flat_map(|number| {
                let name = format!("stored-{number}");
                (0..TRANSITIONS).map(move |seq| transition(&name, seq, time_ms)).collect::<Vec<_>>()
            })
            .collect();
        let encode = |transition: &StateTransition| -> EngineResult<NewRecord> {
            let payload = Payload::Transition(transition.clone());
            let (id, cause) = (transition.id, transition.input);
            let message = Message { id, cause, cause_position: None, time_ms, traceparent: None, payload };
            wire::encode(&message, "/p2/bench", partitions)
                .map_err(|error| EngineError::Internal(error.to_string()))
        };
        let records: Vec<NewRecord> = transitions.iter().map(encode).collect::<EngineResult<_>>()?;
        let positions = opened.log.append(records).await.map_err(engine_error)?;
        let mut rows: BTreeMap<i32, Vec<(i64, StateTransition)>> = BTreeMap::new();
        for (position, transition) in positions.iter().zip(transitions) {
            rows.entry(position.partition).or_default().push((position.offset, transition));
        }
        for (partition, mut rows) in rows {
            rows.sort_unstable_by_key(|(offset, _)| *offset);
            let applied = rows.last().map_or(0, |(offset, _)| offset + 1);
            let written = opened.store.write(partition, rows, applied).await;
            written.map_err(|error| EngineError::Unavailable(error.to_string()))?;
        }
        progress.set_position(u64::try_from(begun).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// One transition of a conversation in which person and agent take turns.
fn transition(conversation: &str, seq: i64, time_ms: i64) -> StateTransition {
    let id = |kind: &'static str, seq: i64| Id::of_text(&format!("{conversation}/{kind}/{seq}"));
    let text = "It was said before anybody measured, and it is about as long as what people say. ".repeat(3);
    let state = if seq % 2 == 0 {
        State::UserMessage(UserMessage { text, origin: None })
    } else {
        State::AssistantMessage(AssistantMessage { text, error: None, summary_of: None, tool_calls: 0 })
    };
    let (agent, main) = (AgentId::from(AGENT), BranchId::from("main"));
    let mut changes = Vec::new();
    if seq == 0 {
        let forked = Forked { parent: None, at: -1, name: None, creator: "open".to_owned(), call: None };
        changes.push(Change::Opened(Opened { root: agent.clone() }));
        changes.push(Change::Forked(forked));
        changes.push(Change::CheckedOut(CheckedOut { from: main.clone() }));
    }
    let entry = Entry { seq, id: id("entry", seq), time_ms, state };
    changes.push(Change::Appended(Appended { entries: vec![entry] }));
    let (code, message) = ("ok".to_owned(), String::new());
    let outcome = Outcome { verdict: Verdict::Applied, code, message, reference: None };
    changes.push(Change::Decided(Decided { outcome }));
    StateTransition {
        id: id("transition", seq),
        conversation: ConversationId(conversation.to_owned()),
        seq,
        previous: (seq > 0).then(|| id("transition", seq - 1)),
        agent,
        branch: main,
        input: id("input", seq),
        changes,
        head: seq,
        status: BranchStatus::Idle,
        time_ms,
    }
}

#[cfg(test)]
mod tests {
    use p2_core::conversation::Conversation;

    use super::*;

    #[test]
    fn a_stored_conversation_is_one_that_can_go_on() {
        let mut conversation = Conversation::default();
        for seq in 0..TRANSITIONS {
            conversation.apply(&transition("stored-1", seq, 1)).unwrap();
        }
        let root = conversation.root.clone();
        assert_eq!(root, AgentId::from(AGENT));
        assert_eq!(conversation.current(&root), BranchId::from("main"));
        assert_eq!(conversation.visible(&root, &BranchId::from("main")).len(), 4);
        assert!(conversation.waits.is_empty());
    }
}
