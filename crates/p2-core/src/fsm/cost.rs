//! What a model call costs, in exact decimal arithmetic.

use crate::definition::Price;
use crate::eval::money;

/// US dollars as decimal text; none where the usage is unknown or the price is not a decimal.
pub(super) fn usd(price: &Price, prompt: Option<i64>, completion: Option<i64>) -> Option<String> {
    money::usage(price, prompt?, completion?).map(money::text)
}
