//! `ledger bootstrap`: makes a Canton participant ready. It needs no engine.

use std::path::PathBuf;

use serde_json::json;

use crate::config::Config;
use crate::engine::{EngineError, EngineResult};
use crate::output::Output;

/// What to do about a missing `[ledger.canton]`.
const NO_CANTON: &str = "no Canton ledger is configured: set url in [ledger.canton] or P2_CANTON_URL; the embedded ledger needs no bootstrap";

/// Uploads the package, and makes party and user where they are missing.
pub(crate) async fn run(config: &Config, dar: Option<&PathBuf>, out: Output) -> EngineResult<()> {
    let canton = config.canton.as_ref().ok_or_else(|| EngineError::Invalid(NO_CANTON.to_owned()))?;
    let made = crate::wiring::bootstrap_canton(&canton.value, dar).await?;
    if out.json {
        out.data(&json!(made));
        return Ok(());
    }
    let is_new = |new: bool| if new { "made" } else { "there" };
    out.line(&format!("Canton {} at {}", made.version, canton.value.url));
    out.line(&match made.dar_bytes {
        Some(bytes) => format!("  package  uploaded ({bytes} bytes)"),
        None => "  package  not uploaded: give one with --dar, or as 'dar' in [ledger.canton]".to_owned(),
    });
    out.line(&format!("  party    {} ({})", made.party, is_new(made.party_made)));
    out.line(&format!("  user     {} ({})", made.user, is_new(made.user_made)));
    Ok(())
}
