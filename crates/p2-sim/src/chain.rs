//! The transitions of every conversation: one chain each, every input once, in the order of the inputs.

use std::collections::BTreeMap;

use p2_core::ids::Id;
use p2_core::record::StateTransition;

#[derive(Default)]
struct Chain {
    transitions: Vec<StateTransition>,
    /// Input → the step that applied it.
    inputs: BTreeMap<Id, u64>,
    /// Offset of the newest inbox record that was applied.
    newest: i64,
}

/// What was committed so far.
#[derive(Default)]
pub struct Chains {
    chains: BTreeMap<String, Chain>,
}

impl Chains {
    /// Takes the next transition of a conversation. `step` names what it was committed with (one step may be
    /// several transitions of one input), `place` the offset at which its input first lies in the inbox, where it
    /// is a record.
    ///
    /// # Errors
    /// It does not follow the one before it, its input was applied before, or a later one was.
    pub fn follows(
        &mut self,
        step: u64,
        place: Option<i64>,
        transition: &StateTransition,
    ) -> Result<(), String> {
        let key = transition.conversation.as_str();
        let known = self.chains.entry(key.to_owned()).or_default();
        let length = i64::try_from(known.transitions.len()).unwrap_or(i64::MAX);
        if transition.seq != length {
            return Err(format!("{key}: transition {} where {length} was due", transition.seq));
        }
        if transition.previous != known.transitions.last().map(|last| last.id) {
            return Err(format!("{key}: transition {length} does not name its predecessor"));
        }
        if known.inputs.insert(transition.input, step).is_some_and(|first| first != step) {
            return Err(format!("{key}: input {} was applied twice", transition.input));
        }
        if let Some(offset) = place {
            if offset < known.newest {
                return Err(format!("{key}: the input at {offset} was applied after {}", known.newest));
            }
            known.newest = offset;
        }
        known.transitions.push(transition.clone());
        Ok(())
    }

    /// Each conversation's transitions, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[StateTransition])> {
        self.chains.iter().map(|(key, chain)| (key.as_str(), chain.transitions.as_slice()))
    }
}
