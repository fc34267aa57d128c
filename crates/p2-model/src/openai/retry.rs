//! Whether a failed attempt is repeated, and after how long. Pure: clock and chance come in as arguments.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// The ceiling of the first wait; it doubles with every attempt.
const BASE: Duration = Duration::from_millis(500);
/// The highest ceiling.
const CAP: Duration = Duration::from_secs(20);
/// The shortest wait, so that an unlucky draw never makes a busy loop.
const FLOOR: Duration = Duration::from_millis(20);

/// What went wrong in one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server answered with this status.
    Status(u16),
    /// The account has no money left: a 429 that waiting does not mend.
    Quota,
    /// No connection.
    Connect,
    /// The connection ended before the reply did.
    Incomplete,
    /// A whole reply that is not what it should be.
    Malformed,
}

impl Failure {
    /// Whether the same request may succeed later.
    pub fn is_transient(self) -> bool {
        match self {
            Failure::Status(status) => matches!(status, 408 | 409 | 425 | 429 | 500..=599),
            Failure::Connect | Failure::Incomplete => true,
            Failure::Quota | Failure::Malformed => false,
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again after this long; always shorter than what remains.
    Wait(Duration),
    /// Report the failure.
    GiveUp,
}

/// Decides about one failed attempt.
///
/// `attempt` counts from 1, `remaining` is the time to the deadline, `now` is for HTTP dates, `random` is in
/// [0, 1). What the server asks for by `retry-after-ms` or `Retry-After` is the least wait; otherwise it is
/// exponential backoff with full jitter. A wait that does not fit before the deadline is not begun.
pub fn decide(
    failure: Failure,
    headers: &HeaderMap,
    attempt: u32,
    remaining: Duration,
    now: SystemTime,
    random: f64,
) -> Decision {
    if !failure.is_transient() {
        return Decision::GiveUp;
    }
    let random = random.clamp(0.0, 1.0);
    let wait = match retry_after(headers, now) {
        Some(least) if least >= remaining => return Decision::GiveUp,
        // A little more than asked for, so that clients that were refused together do not return together.
        Some(least) => match least.checked_add(BASE.mul_f64(random)) {
            Some(wait) if wait < remaining => wait,
            _ => least,
        },
        None => {
            let ceiling = BASE.saturating_mul(1_u32 << attempt.saturating_sub(1).min(16)).min(CAP);
            ceiling.mul_f64(random).max(FLOOR)
        }
    };
    if wait < remaining { Decision::Wait(wait) } else { Decision::GiveUp }
}

/// How long the server asks to be left alone; a value that cannot be read is as none.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(millis) = text("retry-after-ms").and_then(|value| value.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(millis / 1000.0).ok();
    }
    let value = text(RETRY_AFTER.as_str())?;
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// A number in [0, 1) from the randomly keyed hasher of the standard library: enough for jitter.
pub(crate) fn random() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let bits = std::hash::RandomState::new().build_hasher().finish() >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let unit = bits as f64 / (1_u64 << 53) as f64;
    unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &str) -> HeaderMap {
        lines
            .split(';')
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| {
                (reqwest::header::HeaderName::try_from(name.trim()).unwrap(), value.trim().parse().unwrap())
            })
            .collect()
    }

    /// A row: failure | headers | attempt | remaining ms | random | wait in ms or "give up".
    fn check(table: &str) {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for row in table.lines().map(str::trim).filter(|row| !row.is_empty()) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let failure = match cells[0] {
                "connect" => Failure::Connect,
                "incomplete" => Failure::Incomplete,
                "malformed" => Failure::Malformed,
                "quota" => Failure::Quota,
                status => Failure::Status(status.parse().unwrap()),
            };
            let remaining = Duration::from_millis(cells[3].parse().unwrap());
            let decision = decide(
                failure,
                &headers(cells[1]),
                cells[2].parse().unwrap(),
                remaining,
                now,
                cells[4].parse().unwrap(),
            );
            let found = match decision {
                Decision::GiveUp => "give up".to_owned(),
                Decision::Wait(wait) => wait.as_millis().to_string(),
            };
            assert_eq!(found, cells[5], "{row}");
        }
    }

    #[test]
    fn only_failures_that_may_pass_are_repeated() {
        check(
            "
            408        | | 1 | 60000 | 0.5 | 250
            409        | | 1 | 60000 | 0.5 | 250
            425        | | 1 | 60000 | 0.5 | 250
            429        | | 1 | 60000 | 0.5 | 250
            500        | | 1 | 60000 | 0.5 | 250
            503        | | 1 | 60000 | 0.5 | 250
            599        | | 1 | 60000 | 0.5 | 250
            connect    | | 1 | 60000 | 0.5 | 250
            incomplete | | 1 | 60000 | 0.5 | 250
            301        | | 1 | 60000 | 0.5 | give up
            400        | | 1 | 60000 | 0.5 | give up
            401        | | 1 | 60000 | 0.5 | give up
            403        | | 1 | 60000 | 0.5 | give up
            404        | | 1 | 60000 | 0.5 | give up
            422        | | 1 | 60000 | 0.5 | give up
            malformed  | | 1 | 60000 | 0.5 | give up
            quota      | | 1 | 60000 | 0.5 | give up
            ",
        );
    }

    #[test]
    fn backoff_doubles_up_to_a_cap_and_is_jittered_over_its_whole_range() {
        check(
            "
            500 | | 1          | 60000 | 0.0   | 20
            500 | | 1          | 60000 | 0.999 | 499
            500 | | 2          | 60000 | 0.5   | 500
            500 | | 3          | 60000 | 0.5   | 1000
            500 | | 6          | 60000 | 0.5   | 8000
            500 | | 7          | 60000 | 0.5   | 10000
            500 | | 4000000000 | 60000 | 0.5   | 10000
            ",
        );
    }

    #[test]
    fn what_the_server_asks_for_is_the_least_wait() {
        check(
            "
            429 | retry-after: 2                                | 1 | 60000 | 0.0 | 2000
            429 | retry-after: 2                                | 9 | 60000 | 0.5 | 2250
            429 | retry-after: 1.5                              | 1 | 60000 | 0.0 | 1500
            503 | retry-after: Sun, 06 Nov 1994 08:49:40 GMT    | 1 | 60000 | 0.0 | 3000
            503 | retry-after: Sun, 06 Nov 1994 08:49:30 GMT    | 1 | 60000 | 0.0 | 0
            429 | retry-after-ms: 120                           | 1 | 60000 | 0.0 | 120
            429 | retry-after-ms: 120 ; retry-after: 9          | 1 | 60000 | 0.0 | 120
            429 | retry-after: soon                             | 1 | 60000 | 0.5 | 250
            429 | retry-after: -3                               | 1 | 60000 | 0.5 | 250
            400 | retry-after: 1                                | 1 | 60000 | 0.5 | give up
            ",
        );
    }

    #[test]
    fn no_wait_reaches_the_deadline() {
        check(
            "
            500 |                   | 1 | 250  | 0.5 | give up
            500 |                   | 1 | 251  | 0.5 | 250
            500 |                   | 1 | 0    | 0.0 | give up
            429 | retry-after: 2    | 1 | 2000 | 0.0 | give up
            429 | retry-after: 2    | 1 | 2001 | 0.9 | 2000
            429 | retry-after: 1e30 | 1 | 2001 | 0.9 | 450
            ",
        );
    }

    #[test]
    fn chance_stays_in_its_range() {
        let draws: Vec<f64> = (0..1000).map(|_| random()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        assert!(draws.iter().any(|draw| *draw < 0.5) && draws.iter().any(|draw| *draw >= 0.5));
    }
}
