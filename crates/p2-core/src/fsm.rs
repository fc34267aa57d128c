//! The finite-state machine.

use crate::conversation::Conversation;
use crate::step::{Ask, Context, Decision, Input};

pub(crate) fn decide(
    conversation: &Conversation,
    input: &Input,
    context: Context<'_>,
    now_ms: i64,
) -> Decision {
    let _ = (conversation, input, context, now_ms);
    Decision::default()
}

pub(crate) fn open_asks(conversation: &Conversation, context: Context<'_>) -> Vec<Ask> {
    let _ = (conversation, context);
    Vec::new()
}
