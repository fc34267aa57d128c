//! Conversations of late, folded from the news: who asks for one of them waits for no store and costs it nothing.
//!
//! A conversation is kept from its first transition on, so a fold is whole or not there at all: one that lacks a
//! transition is dropped, and the store is asked. News may come twice, from the log and from the processors of this
//! process, in either order.

use p2_core::conversation::Conversation;
use p2_core::ids::ConversationId;
use p2_core::record::{Change, StateTransition};
use p2_core::state::State;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use serde_json::Value;

/// Bytes of conversations that are kept, roughly.
const BYTES_MAX: u64 = 64 << 20;
/// How many that may be, for the table's first size.
const CONVERSATIONS_EXPECTED: usize = 4_096;
/// What a transition and its entries take beside their texts, roughly.
const TRANSITION_BYTES: usize = 1_000;

struct Kept {
    conversation: Conversation,
    bytes: usize,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<ConversationId, Kept> for Bytes {
    fn weight(&self, _: &ConversationId, kept: &Kept) -> u64 {
        u64::try_from(kept.bytes).unwrap_or(u64::MAX)
    }
}

/// The conversations that were last heard of.
pub(super) struct Recent(Cache<ConversationId, Kept, Bytes>);

impl Default for Recent {
    fn default() -> Recent {
        Recent(Cache::with_weighter(CONVERSATIONS_EXPECTED, BYTES_MAX, Bytes))
    }
}

impl Recent {
    /// Takes a committed transition in.
    pub(super) fn take(&mut self, transition: &StateTransition) {
        let id = &transition.conversation;
        let kept = match self.0.remove(id) {
            Some((_, kept)) => Some(kept),
            None if transition.seq == 0 => Some(Kept { conversation: Conversation::default(), bytes: 0 }),
            None => None,
        };
        let Some(mut kept) = kept else { return };
        let is_new = transition.seq >= kept.conversation.next_seq;
        if kept.conversation.apply(transition).is_err() {
            return;
        }
        if is_new {
            kept.bytes += bytes_of(transition);
        }
        self.0.insert(id.clone(), kept);
    }

    /// The conversation, where it is known from its beginning.
    pub(super) fn get(&self, id: &ConversationId) -> Option<Conversation> {
        self.0.get(id).map(|kept| kept.conversation.clone())
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn bytes_of(transition: &StateTransition) -> usize {
    let entries = transition.changes.iter().flat_map(|change| match change {
        Change::Appended(appended) => appended.entries.as_slice(),
        _ => &[],
    });
    TRANSITION_BYTES + entries.map(|entry| text_of(&entry.state)).sum::<usize>()
}

fn text_of(state: &State) -> usize {
    match state {
        State::UserMessage(said) => said.text.len(),
        State::AssistantMessage(said) => said.text.len(),
        State::ToolCall(call) => json(&call.arguments.0),
        State::ToolResult(result) => json(&result.result.0),
        State::AgentCall(call) => call.message.len(),
        State::AgentResult(result) => result.text.len(),
        State::UserInputRequest(request) => request.text.len(),
        State::UserResponse(response) => {
            response.answer.text.len() + response.answer.arguments.as_ref().map_or(0, |given| json(&given.0))
        }
        State::Waiting(_) | State::Finished(_) => 0,
    }
}

/// What a value takes, roughly.
fn json(value: &Value) -> usize {
    let inner = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(json).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + json(value)).sum(),
        _ => 0,
    };
    size_of::<Value>() + inner
}

#[cfg(test)]
pub(super) mod tests {
    use p2_core::ids::{AgentId, BranchId, Id};
    use p2_core::record::{Appended, BranchStatus, Opened};
    use p2_core::state::{Entry, UserMessage};

    use super::*;

    fn id(conversation: &str, seq: i64) -> Id {
        Id::of_text(&format!("{conversation}/{seq}"))
    }

    /// The transition of a conversation in which only people speak.
    pub(in crate::local) fn transition(conversation: &str, seq: i64, text: &str) -> StateTransition {
        let said = State::UserMessage(UserMessage { text: text.to_owned(), origin: None });
        let entry = Entry { seq, id: id(conversation, 1_000 + seq), time_ms: 1, state: said };
        let mut changes = vec![Change::Appended(Appended { entries: vec![entry] })];
        if seq == 0 {
            changes.insert(0, Change::Opened(Opened { root: AgentId::from("helper") }));
        }
        StateTransition {
            id: id(conversation, seq),
            conversation: ConversationId(conversation.to_owned()),
            seq,
            previous: (seq > 0).then(|| id(conversation, seq - 1)),
            agent: AgentId::from("helper"),
            branch: BranchId::from("main"),
            input: id(conversation, 2_000 + seq),
            changes,
            head: seq,
            status: BranchStatus::Idle,
            time_ms: 1,
        }
    }

    fn next_seq(recent: &Recent, conversation: &str) -> Option<i64> {
        recent.get(&ConversationId(conversation.to_owned())).map(|known| known.next_seq)
    }

    #[test]
    fn a_conversation_is_known_from_its_first_transition_on_however_often_it_is_told() {
        let mut recent = Recent::default();
        for seq in [0, 1, 0, 1, 2, 1] {
            recent.take(&transition("told", seq, "hello"));
        }
        assert_eq!(next_seq(&recent, "told"), Some(3));
        let mut folded = Conversation::default();
        for seq in 0..3 {
            folded.apply(&transition("told", seq, "hello")).unwrap();
        }
        assert_eq!(recent.get(&ConversationId("told".to_owned())), Some(folded));
    }

    #[test]
    fn a_fold_that_lacks_a_transition_is_no_fold() {
        let mut recent = Recent::default();
        recent.take(&transition("late", 1, "its beginning was before our time"));
        assert_eq!(next_seq(&recent, "late"), None);
        recent.take(&transition("gap", 0, "hello"));
        recent.take(&transition("gap", 2, "one is missing"));
        assert_eq!(next_seq(&recent, "gap"), None);
        recent.take(&transition("gap", 1, "too late"));
        assert_eq!(next_seq(&recent, "gap"), None);
    }

    #[test]
    fn what_is_kept_is_bounded_by_its_texts() {
        let mut recent = Recent::default();
        let text = "x".repeat(500_000);
        for n in 0..400 {
            recent.take(&transition(&format!("large-{n}"), 0, &text));
        }
        assert!(recent.0.weight() <= BYTES_MAX, "{}", recent.0.weight());
        assert!(recent.0.len() < 150, "{}", recent.0.len());
        recent.take(&transition("newest", 0, "hello"));
        assert_eq!(next_seq(&recent, "newest"), Some(1));
    }
}
