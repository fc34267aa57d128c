//! Amounts as text: only here, and exactly.

/// The largest amount and balance, in minor units: what every reader of JSON can hold exactly (2^53 − 1).
pub const AMOUNT_MAX: i64 = 9_007_199_254_740_991;

/// Most decimals that are written out: more than any unit has.
const SHOWN_SCALE_MAX: u8 = 30;

/// Most decimals of a unit.
pub(super) const SCALE_MAX: i32 = 8;

/// A text that is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAmount {
    /// Not digits with at most one point.
    #[error("'{0}' is not an amount: write digits and at most one point, as in 25 or 10.50")]
    NotDecimal(String),
    /// More decimals than there are: those of the book, or where it is not known, the most that any has.
    #[error("'{text}' has more than {scale} decimals: round it yourself")]
    TooFine {
        /// The text.
        text: String,
        /// How many there are.
        scale: i32,
    },
    /// More than any account can hold.
    #[error("'{0}' is more than an account can hold (9007199254740991 minor units)")]
    TooLarge(String),
    /// Zero or less.
    #[error("'{0}' is not more than zero")]
    NotPositive(String),
}

/// An amount above zero, in minor units. No sign, no exponent, no separators, no more decimals than `scale`.
///
/// # Errors
/// [`BadAmount`].
pub fn parse_amount(text: &str, scale: i32) -> Result<i64, BadAmount> {
    match parse_signed(text, scale)? {
        amount if amount > 0 => Ok(amount),
        _ => Err(BadAmount::NotPositive(shown(text))),
    }
}

/// As [`parse_amount`], zero and amounts below it (with a `-` in front) included.
///
/// # Errors
/// [`BadAmount`].
pub fn parse_signed(text: &str, scale: i32) -> Result<i64, BadAmount> {
    let not_decimal = || BadAmount::NotDecimal(shown(text));
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = match digits.split_once('.') {
        Some((_, "")) => return Err(not_decimal()),
        Some((whole, fraction)) => (whole, fraction),
        None => (digits, ""),
    };
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = whole.len() > 1 && whole.starts_with('0');
    if whole.is_empty() || leading_zero || !all_digits(whole) || !all_digits(fraction) {
        return Err(not_decimal());
    }
    let decimals = usize::try_from(scale).unwrap_or(0);
    if fraction.len() > decimals {
        return Err(BadAmount::TooFine { text: shown(text), scale });
    }
    let mut minor = 0_i64;
    let padding = std::iter::repeat_n(b'0', decimals - fraction.len());
    for byte in whole.bytes().chain(fraction.bytes()).chain(padding) {
        let digit = i64::from(byte - b'0');
        minor = minor
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(digit))
            .filter(|sum| *sum <= AMOUNT_MAX)
            .ok_or_else(|| BadAmount::TooLarge(shown(text)))?;
    }
    Ok(sign * minor)
}

/// An amount above zero without knowing the book: (units, decimals), as few decimals as it takes. What a book has less
/// decimals for is refused by the book.
///
/// # Errors
/// [`BadAmount`]; also for more than 8 decimals, which no book has.
pub fn parse_decimal(text: &str) -> Result<(i64, i32), BadAmount> {
    let exact = match text.split_once('.') {
        Some((_, fraction)) if !fraction.is_empty() => {
            let digits = text.trim_end_matches('0');
            digits.strip_suffix('.').unwrap_or(digits)
        }
        _ => text,
    };
    let decimals = exact.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let scale = i32::try_from(decimals).unwrap_or(i32::MAX).min(SCALE_MAX);
    Ok((parse_amount(exact, scale)?, scale))
}

/// An amount in other decimals, exactly.
///
/// # Errors
/// [`BadAmount`] where it has more than there are, or is more than an account can hold.
pub(super) fn rescale(amount: i64, from: i32, to: i32) -> Result<i64, BadAmount> {
    let shown = || format_amount(amount, from);
    if !(0..=SCALE_MAX).contains(&from) {
        return Err(BadAmount::TooFine { text: amount.to_string(), scale: SCALE_MAX });
    }
    let factor = (0..from.abs_diff(to)).try_fold(1_i64, |factor, _| factor.checked_mul(10));
    let factor = factor.ok_or_else(|| BadAmount::TooLarge(shown()))?;
    if from > to {
        return if amount % factor == 0 {
            Ok(amount / factor)
        } else {
            Err(BadAmount::TooFine { text: shown(), scale: to })
        };
    }
    let scaled = amount.checked_mul(factor).filter(|scaled| scaled.abs() <= AMOUNT_MAX);
    scaled.ok_or_else(|| BadAmount::TooLarge(shown()))
}

/// As [`rescale`], but what is finer than `to` is rounded up: nothing that has a price becomes free.
///
/// # Errors
/// [`BadAmount`] where it is more than an account can hold, or `from` are more decimals than any book has.
pub(super) fn rescale_up(amount: i64, from: i32, to: i32) -> Result<i64, BadAmount> {
    if from <= to || !(0..=SCALE_MAX).contains(&from) {
        return rescale(amount, from, to);
    }
    let factor = (0..from.abs_diff(to)).fold(1_i64, |factor, _| factor.saturating_mul(10));
    let rest = amount.rem_euclid(factor);
    let rounded = if rest == 0 { Some(amount) } else { amount.checked_add(factor - rest) };
    rounded.map(|rounded| rounded / factor).ok_or_else(|| BadAmount::TooLarge(format_amount(amount, from)))
}

/// An amount as decimal text with exactly `scale` decimals. With so many, or so few, that no book has them, as in a
/// request that was refused for that: the digits and the exponent, `2500e-65536`.
pub fn format_amount(minor: i64, scale: i32) -> String {
    let exponent = || format!("{minor}e{}", -i64::from(scale));
    let fitting = u8::try_from(scale).ok().filter(|decimals| *decimals <= SHOWN_SCALE_MAX);
    let Some(decimals) = fitting.map(usize::from) else { return exponent() };
    let digits = format!("{:0>width$}", minor.unsigned_abs(), width = decimals + 1);
    let sign = if minor < 0 { "-" } else { "" };
    match digits.split_at_checked(digits.len() - decimals) {
        Some((whole, fraction)) if !fraction.is_empty() => format!("{sign}{whole}.{fraction}"),
        _ => format!("{sign}{digits}"),
    }
}

/// As much of a foreign text as belongs into a message.
fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(40).flat_map(char::escape_debug).collect();
    if chars.next().is_some() { format!("{head}…") } else { head }
}
