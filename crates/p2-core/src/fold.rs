//! Folding transitions into a conversation.

use crate::conversation::{Conversation, OutOfOrder};
use crate::record::StateTransition;

pub(crate) fn apply(conversation: &mut Conversation, transition: &StateTransition) -> Result<(), OutOfOrder> {
    let _ = (conversation, transition);
    Ok(())
}
