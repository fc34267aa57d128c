//! What a model call costs, in exact decimal arithmetic.

use crate::definition::Price;
use crate::eval::money;

/// Decimals in which what a call costs is told to a book: the most that any has.
const SCALE: i32 = 8;
/// From 10^-18 dollars times 10^-12 units per dollar to 10^-8 units.
const SHRINK: u128 = 10_u128.pow(22);

/// US dollars as decimal text; none where the usage is unknown or the price is not a decimal.
pub(super) fn usd(price: &Price, prompt: Option<i64>, completion: Option<i64>) -> Option<String> {
    money::usage(price, prompt?, completion?).map(money::text)
}

/// Units of a book and their decimals, rounded up; none where it cannot be known or written.
pub(super) fn units(price: &Price, prompt: i64, completion: i64, per_usd: &str) -> Option<(i64, i32)> {
    let units = money::usage(price, prompt, completion)?.checked_mul(money::pico(per_usd)?)?;
    Some((i64::try_from(units.div_ceil(SHRINK)).ok()?, SCALE))
}
