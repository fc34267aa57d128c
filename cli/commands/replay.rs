//! `replay stacks`: the view written anew from the log.

use p2_core::record::{Payload, Topic};
use p2_stream::ports::{Log, StackStore};
use p2_stream::wire;
use serde_json::json;

use crate::args::ReplayStacks;
use crate::backend::{Backend, OpenFailed, engine_error};
use crate::config::Config;
use crate::engine::{EngineError, EngineResult};
use crate::local::{Role, Work};
use crate::output::Output;
use crate::views;
use crate::views::labelled::count;
use crate::wiring::{self, Opened};

/// Records read and written at a time.
const RECORDS: usize = 500;

/// Where rows begin to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Earliest,
    Time(i64),
    Offset(i64),
}

fn from_of(text: &str) -> EngineResult<From> {
    if text == "earliest" {
        return Ok(From::Earliest);
    }
    if let Ok(offset) = text.parse::<i64>() {
        return Ok(From::Offset(offset.max(0)));
    }
    views::parse_time(text).map(From::Time).ok_or_else(|| {
        EngineError::Invalid(format!(
            "--from {text}: not one of earliest, an offset, or a time like 2026-05-01T12:00:00Z"
        ))
    })
}

/// Opens a data directory with an empty view; its processors fill it.
pub(crate) async fn open_emptied(config: &Config) -> EngineResult<Opened> {
    let role = Role { rebuild: true, ..Work::All.into() };
    let opened = wiring::open(config, 0, role).await?;
    if opened.served.is_some() {
        return Ok(opened);
    }
    let message = "another process serves this data directory: end it, then rebuild".to_owned();
    Err(EngineError::Refused { code: "running".to_owned(), message })
}

/// `--rebuild` and `--from` on a cluster.
pub(crate) async fn rows(config: &Config, what: &ReplayStacks, out: Output) -> EngineResult<()> {
    let backend = match Backend::open(config).await {
        Ok(backend) => backend,
        Err(OpenFailed::Held(error) | OpenFailed::Other(error)) => return Err(error),
    };
    let Some(store) = backend.cluster.as_ref().and_then(|cluster| cluster.cql.clone()) else {
        return Err(EngineError::Invalid(
            "the view is kept in memory and filled at each start: there is nothing to rebuild".to_owned(),
        ));
    };
    let failed = |error: p2_stream::ports::StoreError| EngineError::Unavailable(error.to_string());
    let log = backend.log.as_ref();
    if !what.rebuild {
        let from = from_of(what.from.as_deref().unwrap_or("earliest"))?;
        let written = write(log, &store, from, out).await?;
        say(out, &json!({ "written": written }), &format!("{} written again", count(written, "transition")));
        return Ok(());
    }
    let before = store.generation();
    let next = store.begin_rebuild().await.map_err(failed)?;
    let written = write(log, &next, From::Earliest, out).await?;
    store.switch(&next).await.map_err(failed)?;
    store.drop_generation(before).await.map_err(failed)?;
    let now = next.generation();
    let text = format!(
        "{} written; generation {now} is read from now on, generation {before} is dropped",
        count(written, "transition")
    );
    say(out, &json!({ "written": written, "generation": now, "dropped": before }), &text);
    Ok(())
}

fn say(out: Output, data: &serde_json::Value, text: &str) {
    if out.json {
        out.data(data);
    } else {
        out.line(text);
    }
}

/// Writes the rows of every partition. Returns the number of transitions.
async fn write(log: &dyn Log, store: &impl StackStore, from: From, out: Output) -> EngineResult<u64> {
    let topic = Topic::StateTransitions;
    let mut starts = Vec::new();
    let mut expected = 0;
    for partition in 0..log.partitions(topic) {
        let (start, end) = log.bounds(topic, partition).await.map_err(engine_error)?;
        let applied = store.applied(partition).await;
        let applied = applied.map_err(|error| EngineError::Unavailable(error.to_string()))?;
        let wanted = match from {
            From::Earliest => start,
            From::Offset(offset) => offset,
            From::Time(time_ms) => log.offset_at(topic, partition, time_ms).await.map_err(engine_error)?,
        };
        // Nothing between what is written and what is written again may be missing.
        let begin = wanted.min(applied).max(start);
        expected += u64::try_from(end - begin).unwrap_or(0);
        starts.push((partition, begin));
    }
    let bar = out.progress(expected, "offsets");
    let mut written = 0;
    for (partition, mut next) in starts {
        loop {
            let records = log.read(topic, partition, next, RECORDS).await.map_err(engine_error)?;
            let Some(last) = records.last() else { break };
            let after = last.offset + 1;
            let mut transitions = Vec::with_capacity(records.len());
            for stored in &records {
                let message = wire::decode(stored).map_err(|error| {
                    let at = stored.position();
                    EngineError::Internal(format!(
                        "{}/{}/{}: {error}",
                        at.topic.name(),
                        at.partition,
                        at.offset
                    ))
                })?;
                if let Payload::Transition(transition) = message.payload {
                    transitions.push((stored.offset, transition));
                }
            }
            written += transitions.len() as u64;
            let done = store.write(partition, transitions, after).await;
            done.map_err(|error| EngineError::Unavailable(error.to_string()))?;
            bar.inc(u64::try_from(after - next).unwrap_or(0));
            next = after;
        }
    }
    bar.finish_and_clear();
    Ok(written)
}
