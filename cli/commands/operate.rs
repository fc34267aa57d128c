//! `replay`, `dead-letters`, `effects in-doubt`, `apply`, `up`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use p2_core::ids::BookId;
use p2_core::ledger::MAIN_BOOK;
use p2_core::record::RegistryRecord;
use serde_json::{Value, json};

use super::{Run, by_beginning, data_of, listed, object};
use crate::api::endpoint;
use crate::args::{DeadLettersCommand, InDoubtCommand};
use crate::config::Config;
use crate::engine::{EngineError, EngineResult, Resolution};
use crate::local::router_of;
use crate::views::labelled::count;
use crate::views::{one_line, table, time};
use crate::wiring;

/// `replay stacks --verify`.
pub(crate) async fn verify(run: &Run) -> EngineResult<()> {
    let report = run.engine.verify_replay().await?;
    let (conversations, transitions) = (report.conversations, report.transitions);
    let found = report.differences.len();
    run.show(&data_of(&report)?, || {
        let end =
            if found == 0 { "equal to the live view".to_owned() } else { report.differences.join("\n") };
        let (conversations, transitions) =
            (count(conversations, "conversation"), count(transitions, "transition"));
        format!("{conversations}, {transitions} replayed: {end}")
    });
    if found == 0 {
        return Ok(());
    }
    Err(EngineError::Differs(format!("the live view differs from the log in {}", count(found, "place"))))
}

/// `dead-letters …`.
pub(crate) async fn dead_letters(run: &Run, command: DeadLettersCommand) -> EngineResult<()> {
    match command {
        DeadLettersCommand::List => {
            let letters = run.engine.dead_letters().await?;
            run.show(&data_of(&letters)?, || {
                let rows = letters.iter().map(|letter| {
                    let place = format!("{}/{}/{}", letter.topic, letter.partition, letter.offset);
                    let at = time(letter.time_ms);
                    vec![listed(letter.id), at, place, letter.group.clone(), letter.code.clone()]
                });
                let header = ["ID", "TIME (UTC)", "RECORD", "GROUP", "CODE"];
                table::render(&header, rows.collect(), run.out.width)
            });
        }
        DeadLettersCommand::Show { id } => {
            let letters = run.engine.dead_letters().await?;
            let id = by_beginning("dead letter", &id, letters.iter().map(|letter| letter.id))?;
            let letter = letters.iter().find(|letter| letter.id == id);
            let letter =
                letter.ok_or_else(|| EngineError::NotFound(format!("there is no dead letter {id}")))?;
            run.show(&data_of(letter)?, || {
                let value = String::from_utf8_lossy(&letter.value);
                format!(
                    "{} of {}/{}/{} (key {}) for {}\n{}\n{} bytes: {}",
                    letter.code,
                    letter.topic,
                    letter.partition,
                    letter.offset,
                    one_line(&letter.key, usize::MAX),
                    letter.group,
                    one_line(&letter.reason, usize::MAX),
                    letter.value.len(),
                    one_line(&value, usize::from(run.out.width))
                )
            });
        }
        DeadLettersCommand::Replay { id, force } => {
            let letters = run.engine.dead_letters().await?;
            let id = by_beginning("dead letter", &id, letters.iter().map(|letter| letter.id))?;
            run.engine.replay_dead_letter(id, force).await?;
            run.show(&json!({"replayed": id}), || format!("Replayed {}", id.short()));
        }
    }
    Ok(())
}

/// `effects in-doubt …`.
pub(crate) async fn in_doubt(run: &Run, command: InDoubtCommand) -> EngineResult<()> {
    match command {
        InDoubtCommand::List => {
            let doubts = run.engine.in_doubt().await?;
            run.show(&data_of(&doubts)?, || {
                let rows = doubts.iter().map(|doubt| {
                    let (tool, since) = (doubt.tool.clone(), time(doubt.since_ms));
                    let conversation = doubt.conversation.to_string();
                    vec![listed(doubt.effect), since, conversation, tool, doubt.detail.clone()]
                });
                let header = ["EFFECT", "SINCE (UTC)", "CONVERSATION", "TOOL", "WHY"];
                table::render(&header, rows.collect(), run.out.width)
            });
        }
        InDoubtCommand::Resolve { effect, done, not_done } => {
            let resolution = match done {
                Some(result) => Resolution::Done { result: object("--done", &result)? },
                None => Resolution::NotDone { reason: not_done.unwrap_or_default() },
            };
            let doubts = run.engine.in_doubt().await?;
            let effect = by_beginning("effect in doubt", &effect, doubts.iter().map(|doubt| doubt.effect))?;
            run.engine.resolve(effect, resolution).await?;
            run.show(&json!({"resolved": effect}), || format!("Resolved {}", effect.short()));
        }
    }
    Ok(())
}

/// `apply FILE…`: all files are checked before anything is appended.
pub(crate) async fn apply(run: &Run, config: &Config, files: &[PathBuf]) -> EngineResult<()> {
    let registry = run.engine.registry().await?;
    let read = |file: &PathBuf| {
        let path = file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(text) => Ok((path, text)),
            Err(error) => Err(EngineError::Invalid(format!("{path}: {error}"))),
        }
    };
    let files: Vec<(String, String)> = files.iter().map(read).collect::<EngineResult<_>>()?;
    let records = wiring::records_of(&files, &registry)?;
    let applied: Vec<String> =
        records.iter().filter(|record| record.body.is_some()).map(|record| record.key.clone()).collect();
    for remark in check_models(config, &records)?.into_iter().chain(check_books(run, &records).await) {
        run.out.remark(&remark);
    }
    if !records.is_empty() {
        run.engine.apply(records).await?;
    }
    run.show(&json!({"applied": applied}), || {
        if applied.is_empty() { "Nothing new".to_owned() } else { format!("Applied {}", applied.join(", ")) }
    });
    Ok(())
}

/// What is to be said of the models that definitions name, as far as this process can know: scripts and providers may be
/// known where the processors run, and not here. Keys mostly are, so nothing is said of those.
///
/// # Errors
/// A script that is here and cannot be used.
fn check_models(config: &Config, records: &[RegistryRecord]) -> EngineResult<Vec<String>> {
    let router = router_of(config)?;
    let mut remarks = Vec::new();
    for record in records {
        let mut models = BTreeSet::new();
        if let Some(body) = &record.body {
            models_in(&body.0, &mut models);
        }
        for model in models {
            let Err(error) = router.check(&model) else { continue };
            let text = format!("{}/{}: {}", record.kind, record.id, error.message);
            if error.code == "bad_script" {
                return Err(EngineError::Invalid(text));
            }
            if error.code == "unknown_model" {
                remarks
                    .push(format!("{text} (as this process sees it; what counts is where agent-step runs)"));
            }
        }
    }
    Ok(remarks)
}

/// What is to be said of the books that rewards are paid in, as far as they can be asked for.
async fn check_books(run: &Run, records: &[RegistryRecord]) -> Vec<String> {
    let mut remarks = Vec::new();
    for record in records.iter().filter(|record| record.kind == "evaluator") {
        let rewards = record.body.as_ref().and_then(|body| body.0.get("rewards")).filter(|of| of.is_object());
        let Some(rewards) = rewards else { continue };
        let name = rewards.get("book").and_then(Value::as_str).unwrap_or(MAIN_BOOK);
        if let Ok(None) = run.engine.book(&BookId::from(name)).await {
            let which = if name == MAIN_BOOK { String::new() } else { format!(" --book {name}") };
            remarks.push(format!(
                "evaluator/{}: there is no book '{name}', and until there is its rewards are refused: open it with \
                 'p2engine ledger{which} init'",
                record.id
            ));
        }
    }
    remarks
}

/// Every string under a key `model`.
fn models_in(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(model) if key == "model" && !model.is_empty() => {
                        found.insert(model.clone());
                    }
                    other => models_in(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| models_in(item, found)),
        _ => {}
    }
}

/// `up`: runs until Ctrl-C, which the caller watches.
pub(crate) async fn up(run: &Run, config: &Config, served: Option<String>) -> EngineResult<()> {
    let Some(url) = served else {
        let other = endpoint::read(&config.api_file())?;
        let pid = other.map_or_else(String::new, |other| format!(" ({})", other.pid));
        let text = format!(
            "another process{pid} serves this data directory already: end it first; it may be a chat that went on when \
             'up' ended"
        );
        return Err(EngineError::Refused { code: "running".to_owned(), message: text });
    };
    run.show(&json!({"url": url, "pid": std::process::id()}), || {
        format!("Serving {url} (token in api.json of the data directory); Ctrl-C ends it")
    });
    std::future::pending().await
}
