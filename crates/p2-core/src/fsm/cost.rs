//! What a model call costs, in exact decimal arithmetic.

use crate::definition::Price;

/// US dollars as decimal text; none where the usage is unknown or the price is not a decimal.
pub(super) fn usd(price: &Price, prompt: Option<i64>, completion: Option<i64>) -> Option<String> {
    let prompt = u128::try_from(prompt?).ok()?.checked_mul(pico(&price.prompt_usd_per_million)?)?;
    let completion =
        u128::try_from(completion?).ok()?.checked_mul(pico(&price.completion_usd_per_million)?)?;
    // 10^-12 dollars per million tokens: 10^-18 dollars per token.
    let total = prompt.checked_add(completion)?;
    let (whole, rest) = (total / 10_u128.pow(18), total % 10_u128.pow(18));
    let fraction = format!("{rest:018}");
    let fraction = fraction.trim_end_matches('0');
    Some(if fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") })
}

/// A decimal in units of 10^-12.
fn pico(text: &str) -> Option<u128> {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 12 {
        return None;
    }
    format!("{whole}{fraction:0<12}").parse().ok()
}
