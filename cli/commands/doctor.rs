//! `doctor`: one line for each thing that has to be right, and how to mend what is not.

mod groups;

use p2_embedded::OpenError;
use p2_kafka::topics::{self, Difference, TopicSettings};
use p2_kafka::{KafkaConfig, KafkaLog};
use p2_registry::Schemas as _;
use serde::Serialize;

use super::data_of;
use crate::backend::identity;
use crate::config::Config;
use crate::engine::{EngineError, EngineResult};
use crate::output::Output;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    Ok,
    /// It works, and somebody should know.
    Note,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    health: Health,
    detail: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, what: &str, health: Health, detail: impl Into<String>) {
        self.0.push(Finding { what: what.to_owned(), health, detail: detail.into() });
    }
}

/// Looks at everything that the settings name; changes nothing.
pub(crate) async fn run(config: &Config, out: Output) -> EngineResult<()> {
    let mut found = Findings::default();
    match &config.kafka {
        None => embedded(config, &mut found).await,
        Some(kafka) => {
            let log = broker(&kafka.value, &mut found).await;
            store(config, log.as_ref(), &mut found).await;
            schema_registry(config, &mut found).await;
        }
    }
    model(config, &mut found);
    let bad = found.0.iter().filter(|one| one.health == Health::Bad).count();
    if out.json {
        out.data(&data_of(&found.0)?);
    } else {
        let wide = found.0.iter().map(|one| one.what.len()).max().unwrap_or(0);
        for Finding { what, health, detail } in &found.0 {
            let (sign, colour) = match health {
                Health::Ok => ("ok ", anstyle::AnsiColor::Green),
                Health::Note => ("-  ", anstyle::AnsiColor::Yellow),
                Health::Bad => ("BAD", anstyle::AnsiColor::Red),
            };
            let style = anstyle::Style::new().fg_color(Some(colour.into()));
            out.line(&format!("{style}{sign}{style:#}  {what:wide$}  {detail}"));
        }
    }
    if bad == 0 {
        return Ok(());
    }
    let message = format!("{bad} of {} things are not as they should be", found.0.len());
    Err(EngineError::Refused { code: "unhealthy".to_owned(), message })
}

fn missing(difference: &Difference) -> Option<&str> {
    match difference {
        Difference::Missing(wanted) => Some(&wanted.name),
        _ => None,
    }
}

/// The log on Kafka; none where it cannot be opened.
async fn broker(config: &KafkaConfig, found: &mut Findings) -> Option<KafkaLog> {
    match topics::diff(config, &TopicSettings::default()).await {
        Ok(differences) => {
            found.add("kafka", Health::Ok, format!("{} answers", config.brokers));
            if differences.iter().all(Difference::is_hint) {
                found.add("topics", Health::Ok, "partitions, retention and clean-up are as they should be");
            }
            let missing: Vec<&str> = differences.iter().filter_map(missing).collect();
            if !missing.is_empty() {
                let missing = missing.join(", ");
                found.add(
                    "topics",
                    Health::Bad,
                    format!("missing: {missing}; p2engine topics apply makes them"),
                );
                return None;
            }
            for one in differences {
                match one {
                    Difference::Hint { .. } => found.add("topics", Health::Note, one.to_string()),
                    one => {
                        let health = if one.is_hint() { Health::Note } else { Health::Bad };
                        found.add("topics", health, format!("{one}; see p2engine topics diff, topics apply"));
                    }
                }
            }
        }
        Err(error) => {
            found.add("kafka", Health::Bad, error.to_string());
            return None;
        }
    }
    let log = match KafkaLog::connect(config.clone()).await {
        Ok(log) => log,
        Err(error) => {
            found.add("log", Health::Bad, error.to_string());
            return None;
        }
    };
    groups::look(&log, found).await;
    Some(log)
}

async fn store(config: &Config, log: Option<&KafkaLog>, found: &mut Findings) {
    let (Some(scylla), Some(kafka)) = (&config.scylla, &config.kafka) else {
        let detail = "none: the view is kept in memory and filled at each start; set [scylla] nodes for more";
        found.add("store", Health::Note, detail);
        return;
    };
    match p2_scylla::check(&scylla.value).await {
        Err(error) => {
            found.add("store", Health::Bad, error.to_string());
            return;
        }
        Ok(state) => match state.complaint(&scylla.value.keyspace) {
            Some(complaint) => {
                found.add("store", Health::Bad, complaint);
                return;
            }
            None => found.add(
                "store",
                Health::Ok,
                format!("{} answers, keyspace {} fits", scylla.value.nodes.join(", "), scylla.value.keyspace),
            ),
        },
    }
    let Some(log) = log else { return };
    let opened = match identity(log, &kafka.value).await {
        Ok(identity) => {
            p2_scylla::CqlStore::open(&scylla.value, &identity).await.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    match opened {
        Ok(store) => {
            let detail = format!("{:?}, generation {}, of this log", store.flavour(), store.generation());
            found.add("view", Health::Ok, detail);
        }
        Err(error) => found.add("view", Health::Bad, error),
    }
}

async fn schema_registry(config: &Config, found: &mut Findings) {
    let Some(registry) = &config.schema_registry else { return };
    // Whatever the answer is, it comes from a registry.
    match registry.value.schema(1).await {
        Ok(_) => found.add("schema registry", Health::Ok, format!("{} answers", registry.value.place())),
        Err(error) => found.add("schema registry", Health::Bad, error.to_string()),
    }
}

async fn embedded(config: &Config, found: &mut Findings) {
    let dir = config.data_dir.value.clone();
    let shown = dir.display().to_string();
    if !dir.join("format").exists() {
        found.add("data directory", Health::Ok, format!("{shown} is empty: it is made at the first start"));
        return;
    }
    let verified = tokio::task::spawn_blocking(move || p2_embedded::verify(&dir)).await;
    match verified {
        Ok(Ok(read)) => {
            let whole = format!("{shown}: {} records, {} bytes read and whole", read.records, read.bytes);
            let torn = if read.torn.is_some() { "; the next start drops an unfinished commit" } else { "" };
            found.add("data directory", Health::Ok, format!("{whole}{torn}"));
        }
        Ok(Err(error @ OpenError::Locked { .. })) => {
            found.add("data directory", Health::Note, format!("in use, so not read: {error}"));
        }
        Ok(Err(error)) => found.add("data directory", Health::Bad, error.to_string()),
        Err(error) => found.add("data directory", Health::Bad, error.to_string()),
    }
}

fn model(config: &Config, found: &mut Findings) {
    let model = &config.model.value;
    if model.starts_with("scripted/") {
        found.add("model", Health::Note, format!("{model}: answers come from a script"));
    } else if config.openai_api_key.is_none() && config.openai_base_url.source == "default" {
        found.add("model", Health::Bad, format!("{model}: no OPENAI_API_KEY and no OPENAI_BASE_URL is set"));
    } else {
        found.add("model", Health::Ok, format!("{model}, by {}", config.openai_base_url.source));
    }
}
