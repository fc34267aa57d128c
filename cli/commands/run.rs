//! `run`: processors of a system on Kafka.

use p2_core::record::Topic;
use p2_kafka::{Begin, KafkaConfig, KafkaLog, begin_group};
use p2_stream::outputs::{progress_from_outputs, progress_near_outputs};
use p2_stream::runtime::Limits;
use serde_json::json;

use super::Run;
use crate::args::RunArgs;
use crate::backend::{INPUTS, engine_error};
use crate::config::Config;
use crate::engine::{EngineError, EngineResult};
use crate::local::{Role, Work};
use crate::views;
use crate::wiring::{self, Opened};

/// Starts the processors.
pub(crate) async fn open(mut config: Config, args: &RunArgs) -> EngineResult<Opened> {
    let Some(kafka) = &config.kafka else {
        return Err(EngineError::Invalid(
            "'run' shares the work of a log on Kafka: set brokers in [kafka] or P2_KAFKA_BROKERS; with the embedded \
             log, 'up' runs everything in one process"
                .to_owned(),
        ));
    };
    let names = names(args);
    if let Some(from) = &args.from {
        for (name, input) in INPUTS.into_iter().filter(|(name, _)| names.iter().any(|one| one == name)) {
            let begin = begin_of(from, &kafka.value, name, input).await?;
            let group = format!("p2.{name}");
            let begun = begin_group(&kafka.value, &group, input, begin).await.map_err(engine_error)?;
            tracing::info!(target: "p2engine", processor = name, partitions = begun, "begins");
        }
    }
    if let Some(slot) = &args.slot {
        config.kafka_slot = Some(slot.clone());
    }
    let mut limits = Limits::default();
    if let Some(calls) = args.calls {
        limits.calls_max = calls.max(1);
    }
    let role = Role { work: Work::Only(names), limits, rebuild: false };
    wiring::open_processors(&config, &role, args.metrics_port).await
}

fn names(args: &RunArgs) -> Vec<String> {
    if args.processors.is_empty() {
        return INPUTS.map(|(name, _)| name.to_owned()).to_vec();
    }
    args.processors.clone()
}

async fn begin_of(text: &str, kafka: &KafkaConfig, processor: &str, input: Topic) -> EngineResult<Begin> {
    match text {
        "earliest" => Ok(Begin::Earliest),
        "latest" => Ok(Begin::Latest),
        "outputs" => {
            let log = KafkaLog::connect(kafka.clone()).await.map_err(engine_error)?;
            // Most artifacts lead to no evaluation, and nothing is judged twice.
            let known = match input {
                Topic::Artifacts => progress_near_outputs(&log, processor, input).await,
                _ => progress_from_outputs(&log, processor, input).await,
            };
            known.map(Begin::Progress).map_err(|error| EngineError::Invalid(error.to_string()))
        }
        other => views::parse_time(other).map(Begin::Time).ok_or_else(|| {
            EngineError::Invalid(format!(
                "--from {other}: not one of earliest, latest, outputs or a time like 2026-05-01T12:00:00Z"
            ))
        }),
    }
}

/// Runs until Ctrl-C, which the caller watches.
pub(crate) async fn run(run: &Run, args: &RunArgs, served: Option<String>) -> EngineResult<()> {
    let url = format!("{}/metrics", served.unwrap_or_default());
    let names = names(args);
    run.show(&json!({ "processors": names, "metrics": url, "pid": std::process::id() }), || {
        format!("Running {}; {url}; Ctrl-C ends it", names.join(", "))
    });
    std::future::pending().await
}
