//! `chaos`: the fault campaign, its printing and its exit code.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::args::ChaosArgs;
use crate::chaos::{History, campaign, text};
use crate::engine::{EngineError, EngineResult, draw_id};
use crate::output::Output;

/// Violations that are printed.
const SHOWN_MAX: usize = 10;

/// Runs the campaign: its summary is printed, and a violation is exit code 1.
///
/// # Errors
/// A service does not start, or something that is not under test fails.
pub(crate) async fn run(out: Output, args: ChaosArgs) -> EngineResult<ExitCode> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("p2engine-chaos-{}", draw_id().short())),
    };
    let past = dir.join("history.jsonl");
    if args.again && !past.is_file() {
        let at = past.display();
        return Err(EngineError::NotFound(format!(
            "there is no {at}: name the directory of a campaign with --dir"
        )));
    }
    std::fs::create_dir_all(&dir).map_err(|error| internal(&dir, &error))?;
    if !args.again && std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
        let at = dir.display();
        return Err(EngineError::Invalid(format!("--dir {at}: it is not empty: name a new directory")));
    }
    let history = Arc::new(History::open(&past)?);
    let done = campaign(out, &args, &dir, &history).await;
    let (summary, violations) = match done {
        Ok(done) => done,
        Err(error) => {
            out.remark(&format!("history and logs are kept in {}", dir.display()));
            return Err(error);
        }
    };
    let kept = args.keep || args.dir.is_some() || !violations.is_empty();
    if !kept {
        let _ = std::fs::remove_dir_all(&dir);
    }
    if out.json {
        out.data(&summary);
    } else {
        out.line(&text(&summary));
    }
    for violation in violations.iter().take(SHOWN_MAX) {
        out.error(violation);
    }
    if violations.len() > SHOWN_MAX {
        out.remark(&format!("and {} more", violations.len() - SHOWN_MAX));
    }
    if kept {
        out.remark(&format!("history and logs are kept in {}", dir.display()));
    }
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn internal(path: &Path, error: &std::io::Error) -> EngineError {
    EngineError::Internal(format!("{}: {error}", path.display()))
}
