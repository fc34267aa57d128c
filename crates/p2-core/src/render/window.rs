//! Which part of a dialogue a policy keeps.

use std::sync::OnceLock;

use tiktoken_rs::CoreBPE;

use super::items::Item;
use crate::model::ChatMessage;

/// What a provider adds around each message, in tokens; on the safe side.
const MESSAGE_TOKENS: usize = 4;
/// Longest text that is encoded at once, in bytes: encoding one unbroken piece takes quadratic time. Cutting
/// adds a token per cut at most, so the count stays on the safe side.
const PIECE_BYTES: usize = 1_024;

/// The newest items that have at most `most` messages together.
pub(super) fn newest(items: Vec<Item<'_>>, most: usize) -> Vec<Item<'_>> {
    choose(items, most, 0, Item::len)
}

/// The newest items that, with the system messages, have at most `budget` tokens.
pub(super) fn within<'a>(
    items: Vec<Item<'a>>,
    system: &[ChatMessage],
    budget: usize,
) -> Result<Vec<Item<'a>>, String> {
    let tokenizer = tokenizer()?;
    let cost = |messages: &[ChatMessage]| messages.iter().map(|message| tokens(tokenizer, message)).sum();
    let used = cost(system);
    Ok(choose(items, budget, used, |item| cost(&item.messages())))
}

/// Keeps an unbroken run of the newest items within `limit`, and in any case the newest item and the newest
/// question, which count first: a model without them would not know what to do.
fn choose<'a>(
    items: Vec<Item<'a>>,
    limit: usize,
    used: usize,
    cost: impl Fn(&Item<'a>) -> usize,
) -> Vec<Item<'a>> {
    let newest = items.len().saturating_sub(1);
    let question = items.iter().rposition(Item::asked);
    let forced = |place: usize| place == newest || Some(place) == question;
    let kept = items.iter().enumerate().filter(|(place, _)| forced(*place));
    let mut used = kept.fold(used, |used, (_, item)| used.saturating_add(cost(item)));
    let mut unbroken = true;
    let mut chosen = Vec::new();
    for (place, item) in items.into_iter().enumerate().rev() {
        if !forced(place) {
            if !unbroken {
                continue;
            }
            let with = used.saturating_add(cost(&item));
            if with > limit {
                unbroken = false;
                continue;
            }
            used = with;
        }
        chosen.push(item);
    }
    chosen.reverse();
    chosen
}

/// Built once: it takes a good part of a second.
fn tokenizer() -> Result<&'static CoreBPE, String> {
    static TOKENIZER: OnceLock<Result<CoreBPE, String>> = OnceLock::new();
    let built = TOKENIZER.get_or_init(|| {
        tiktoken_rs::o200k_base()
            .map_err(|error| format!("the o200k_base tokenizer cannot be built: {error}"))
    });
    built.as_ref().map_err(Clone::clone)
}

fn tokens(tokenizer: &CoreBPE, message: &ChatMessage) -> usize {
    let count = |text: &str| count(tokenizer, text);
    MESSAGE_TOKENS
        + match message {
            ChatMessage::System { content } | ChatMessage::User { content } => count(content),
            ChatMessage::Assistant { content, tool_calls } => {
                let calls = tool_calls.iter().map(|call| {
                    MESSAGE_TOKENS + count(&call.id) + count(&call.name) + count(&call.arguments)
                });
                count(content.as_deref().unwrap_or_default()) + calls.sum::<usize>()
            }
            ChatMessage::Tool { tool_call_id, name, content } => {
                count(tool_call_id) + count(name) + count(content)
            }
        }
}

fn count(tokenizer: &CoreBPE, mut text: &str) -> usize {
    let mut sum = 0;
    while !text.is_empty() {
        let mut end = text.len().min(PIECE_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, rest) = text.split_at(end);
        sum += tokenizer.encode_ordinary(piece).len();
        text = rest;
    }
    sum
}

#[cfg(test)]
pub(super) fn count_all(messages: &[ChatMessage]) -> usize {
    let tokenizer = tokenizer().unwrap();
    messages.iter().map(|message| tokens(tokenizer, message)).sum()
}
