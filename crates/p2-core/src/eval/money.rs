//! What model calls cost, in exact decimal arithmetic: units of 10^-18 US dollars.

use crate::definition::Price;

/// What so many tokens cost, in units of 10^-18 dollars; none where the price is not a decimal or the tokens are
/// negative or absurdly many.
pub fn usage(price: &Price, prompt: i64, completion: i64) -> Option<u128> {
    // 10^-12 dollars per million tokens: 10^-18 dollars per token.
    let prompt = u128::try_from(prompt).ok()?.checked_mul(pico(&price.prompt_usd_per_million)?)?;
    let completion =
        u128::try_from(completion).ok()?.checked_mul(pico(&price.completion_usd_per_million)?)?;
    prompt.checked_add(completion)
}

/// An amount as decimal text, without needless zeros.
pub fn text(atto: u128) -> String {
    let (whole, rest) = (atto / 10_u128.pow(18), atto % 10_u128.pow(18));
    let fraction = format!("{rest:018}");
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") }
}

/// Decimal text as an amount; none where it is not a decimal of at most 18 places.
pub fn parse(text: &str) -> Option<u128> {
    scaled(text, 18)
}

/// A decimal in units of 10^-12.
pub fn pico(text: &str) -> Option<u128> {
    scaled(text, 12)
}

fn scaled(text: &str, places: usize) -> Option<u128> {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > places {
        return None;
    }
    format!("{whole}{fraction:0<places$}").parse().ok()
}
