//! What a process says of a log or a store that is away: once that it is, now and then that it still is, and that it is
//! back. Many tasks meet one outage at the same time; people need to read of it once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A process that has said that something is away says so again after this long.
const AGAIN: Duration = Duration::from_secs(30);
/// Who answers while others still meet the outage is not back yet.
const QUIET: Duration = Duration::from_millis(500);

/// What a process cannot work without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The log.
    Log,
    /// The view's store.
    Store,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Log => "the log",
            Part::Store => "the store",
        }
    }
}

/// One outage after the other of one part.
#[derive(Debug)]
struct Outage {
    /// Of the present outage: when it began, when it was last met and when it was last spoken of.
    now: Option<(Instant, Instant, Instant)>,
}

/// What is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Away,
    StillAway(Duration),
    Back(Duration),
}

impl Outage {
    /// A request failed because the part is away.
    fn met(&mut self, now: Instant) -> Said {
        let Some((began, met, said)) = &mut self.now else {
            self.now = Some((now, now, now));
            return Said::Away;
        };
        *met = now;
        if now.duration_since(*said) < AGAIN {
            return Said::Nothing;
        }
        *said = now;
        Said::StillAway(now.duration_since(*began))
    }

    /// A request was answered.
    fn answered(&mut self, now: Instant) -> Said {
        match self.now {
            Some((began, met, _)) if now.duration_since(met) >= QUIET => {
                self.now = None;
                Said::Back(now.duration_since(began))
            }
            _ => Said::Nothing,
        }
    }
}

static LOG: Mutex<Outage> = Mutex::new(Outage { now: None });
static STORE: Mutex<Outage> = Mutex::new(Outage { now: None });

fn of(part: Part) -> &'static Mutex<Outage> {
    match part {
        Part::Log => &LOG,
        Part::Store => &STORE,
    }
}

/// The reason of requests that were cut because this process ends: that is no outage.
pub const SHUTTING_DOWN: &str = "the process is shutting down";

/// To be called wherever a request failed because `part` is away and will be tried again.
pub fn met(part: Part, reason: &str) {
    if reason == SHUTTING_DOWN {
        return;
    }
    let said = of(part).lock().unwrap_or_else(PoisonError::into_inner).met(Instant::now());
    let name = part.name();
    match said {
        Said::Away => tracing::warn!(reason, "{name} is away, trying on"),
        Said::StillAway(long) => tracing::warn!(reason, seconds = long.as_secs(), "{name} is still away"),
        Said::Nothing | Said::Back(_) => tracing::debug!(reason, "{name} is away"),
    }
}

/// To be called now and then when `part` has answered.
pub fn answered(part: Part) {
    let said = of(part).lock().unwrap_or_else(PoisonError::into_inner).answered(Instant::now());
    if let Said::Back(long) = said {
        let (name, seconds) = (part.name(), long.as_secs_f32());
        tracing::warn!("{name} is back after {seconds:.1} s");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_spoken_of_once_again_after_a_while_and_when_it_is_over() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut outage = Outage { now: None };
        assert_eq!(outage.answered(at(0)), Said::Nothing);
        assert_eq!(outage.met(at(1_000)), Said::Away);
        assert_eq!(outage.met(at(1_100)), Said::Nothing);
        assert_eq!(outage.answered(at(1_200)), Said::Nothing, "others still meet it");
        assert_eq!(outage.met(at(30_900)), Said::Nothing);
        assert_eq!(outage.met(at(31_000)), Said::StillAway(Duration::from_secs(30)));
        assert_eq!(outage.met(at(31_100)), Said::Nothing);
        assert_eq!(outage.answered(at(32_000)), Said::Back(Duration::from_secs(31)));
        assert_eq!(outage.answered(at(33_000)), Said::Nothing);
        assert_eq!(outage.met(at(34_000)), Said::Away, "the next one");
    }
}
