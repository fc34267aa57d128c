//! What ends a command from outside: Ctrl-C, SIGTERM, and a reader of our output that has gone.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::engine::{EngineError, EngineResult};

/// Ctrl-C.
const INTERRUPTED: u8 = 130;
/// SIGTERM, where a command was not done.
const TERMINATED: u8 = 143;

/// Woken when standard output is closed.
pub(crate) static OUTPUT_CLOSED: Notify = Notify::const_new();

/// Why a command has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// SIGINT.
    Interrupted,
    /// SIGTERM.
    Terminated,
    /// Nobody reads what we print.
    OutputClosed,
}

impl Stop {
    /// The exit code. A service (`up`) that is told to end has done its work.
    pub(crate) fn code(self, service: bool) -> ExitCode {
        match self {
            Stop::Interrupted => ExitCode::from(INTERRUPTED),
            Stop::Terminated if service => ExitCode::SUCCESS,
            Stop::Terminated => ExitCode::from(TERMINATED),
            Stop::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

/// The signals of this process; from its making on they end nothing by themselves any more.
pub(crate) struct Stops {
    interrupt: Signal,
    terminate: Signal,
}

impl Stops {
    /// Takes the signals over.
    ///
    /// # Errors
    /// Where the system refuses.
    pub(crate) fn new() -> EngineResult<Stops> {
        let take = |kind| {
            signal(kind).map_err(|error| EngineError::Internal(format!("cannot watch for signals: {error}")))
        };
        Ok(Stops { interrupt: take(SignalKind::interrupt())?, terminate: take(SignalKind::terminate())? })
    }

    /// The next reason to end. Safe to drop.
    pub(crate) async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupted,
            _ = self.terminate.recv() => Stop::Terminated,
            () = OUTPUT_CLOSED.notified() => Stop::OutputClosed,
        }
    }
}
