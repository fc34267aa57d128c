//! `get_league_leader`: a fixed table, for demonstrations and tests.

use p2_stream::ports::ToolReply;
use serde_json::{Value, json};

const LEADERS: [(&str, &str); 3] =
    [("Ligue 1", "Paris Saint-Germain"), ("Premier League", "Manchester City"), ("La Liga", "Real Madrid")];

/// `{league}` → `{league, leader}`.
pub(super) fn get_league_leader(arguments: &Value) -> ToolReply {
    let league = match super::text(arguments, "league") {
        Ok(league) => league.trim(),
        Err(failure) => return failure,
    };
    match LEADERS.iter().find(|(name, _)| name.eq_ignore_ascii_case(league)) {
        Some((name, leader)) => ToolReply::Success(json!({ "league": name, "leader": leader })),
        None => {
            let names = LEADERS.map(|(name, _)| name).join(", ");
            ToolReply::Failure(format!("No leader known for league '{league}'; known leagues: {names}."))
        }
    }
}
