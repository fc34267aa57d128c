//! Settings: `p2engine.toml`, then the environment, then the command line; the later one wins.

mod cluster;
mod ledger;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use p2_kafka::KafkaConfig;
use serde::Serialize;

use crate::engine::{EngineError, EngineResult};

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Setting<T> {
    /// The value in effect.
    pub value: T,
    /// `default`, `env NAME`, `file PATH` or `--flag`.
    pub source: String,
}

impl<T> Setting<T> {
    fn default(value: T) -> Setting<T> {
        Setting { value, source: "default".to_owned() }
    }
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// The text itself, for the one who sends it to the provider.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// All settings.
#[derive(Clone)]
pub(crate) struct Config {
    /// Where the embedded log and store live.
    pub data_dir: Setting<PathBuf>,
    /// `commit` (fsync per commit) or `interval`.
    pub durability: Setting<String>,
    /// `none`, `penalty` or `strict`.
    pub dedup: Setting<String>,
    /// Whether unknown agents are made up.
    pub allow_unknown_agents: Setting<bool>,
    /// Model of built-in and made-up agents.
    pub model: Setting<String>,
    /// Base URL of the OpenAI-compatible API.
    pub openai_base_url: Setting<String>,
    /// Its key.
    pub openai_api_key: Option<Setting<Secret>>,
    /// Agents of the earlier system's form, or any definitions.
    pub agents_file: Option<Setting<PathBuf>>,
    /// Where `scripted/<name>` finds `<name>.yml`.
    pub scripts_dir: Setting<PathBuf>,
    /// The log on Kafka instead of the embedded one.
    pub kafka: Option<Setting<KafkaConfig>>,
    /// The slot that somebody chose.
    pub kafka_slot: Option<String>,
    /// The stack store on CQL, beside a log on Kafka.
    pub scylla: Option<Setting<p2_scylla::Options>>,
    /// Where the schemas of values on Kafka are registered.
    pub schema_registry: Option<Setting<p2_registry::RegistryClient>>,
    /// The Canton ledger that books have their money on, instead of the embedded one.
    pub canton: Option<Setting<p2_canton::CantonConfig>>,
}

/// (key in the file, environment variable, meaning).
const KEYS: [(&str, &str, &str); 9] = [
    ("data_dir", "P2_DATA_DIR", "embedded log and store"),
    ("durability", "P2_DURABILITY", "commit | interval"),
    ("dedup", "P2_DEDUP", "none | penalty | strict"),
    ("allow_unknown_agents", "P2_ALLOW_UNKNOWN_AGENTS", "true | false"),
    ("model", "P2_MODEL", "provider/model"),
    ("openai_base_url", "OPENAI_BASE_URL", "OpenAI-compatible API"),
    ("openai_api_key", "OPENAI_API_KEY", "its key"),
    ("agents_file", "P2_AGENTS_FILE", "definitions to load"),
    ("scripts_dir", "P2_SCRIPTS_DIR", "scripts of scripted models"),
];

/// Tables, which have keys of their own.
const TABLES: [&str; 4] = ["kafka", "scylla", "schema_registry", "ledger"];

/// Keys whose value is a path; in a file it is relative to that file.
const PATHS: [&str; 3] = ["data_dir", "agents_file", "scripts_dir"];

/// The name of the file looked for in the current directory.
pub(crate) const FILE_NAME: &str = "p2engine.toml";

impl Config {
    /// Loads settings. `file`: named explicitly, so it must exist; otherwise `p2engine.toml` where it exists.
    ///
    /// # Errors
    /// Names the key, where it is and what would fit.
    pub(crate) fn load(
        file: Option<&Path>,
        data_dir: Option<&Path>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> EngineResult<Config> {
        let path = file.map_or_else(|| PathBuf::from(FILE_NAME), Path::to_path_buf);
        let tables = if file.is_some() || path.exists() { Some(read_file(&path)?) } else { None };
        let tables = tables.as_ref().map(|tables| (tables, path.as_path()));
        let values = collect(tables, env)?;
        let kafka = cluster::table("kafka", tables, env)?;
        let kafka_slot = kafka.as_ref().and_then(|table| Some(table.value.get("slot")?.as_str()?.to_owned()));
        let kafka = cluster::kafka(kafka, env)?;
        let scylla = cluster::scylla(cluster::table("scylla", tables, env)?, env)?;
        let schema_registry = cluster::schema_registry(cluster::table("schema_registry", tables, env)?)?;
        let canton = ledger::canton(tables, env)?;
        if let (None, Some(registry)) = (&kafka, &schema_registry) {
            return Err(EngineError::Invalid(format!(
                "{}: a schema registry goes with a log on Kafka: set [kafka] brokers, or leave [schema_registry] out",
                registry.source
            )));
        }
        if let (None, Some(scylla)) = (&kafka, &scylla) {
            return Err(EngineError::Invalid(format!(
                "{}: scylla: the store on CQL goes with a log on Kafka: set [kafka] brokers, or leave it out",
                scylla.source
            )));
        }
        let text = |key: &str| values.get(key).cloned();
        let mut dir = match text("data_dir") {
            Some(setting) => Setting { value: setting.value.into(), source: setting.source },
            None => Setting::default(default_data_dir(env)),
        };
        if let Some(path) = data_dir {
            dir = Setting { value: path.to_owned(), source: "--data-dir".to_owned() };
        }
        let key = text("openai_api_key").filter(|key| !key.value.is_empty());
        let real = key.is_some() || text("openai_base_url").is_some();
        let fallback = if real { "openai/gpt-4o-mini" } else { "scripted/demo" };
        let scripts = match text("scripts_dir") {
            Some(path) => Setting { value: path.value.into(), source: path.source },
            None => Setting::default(default_scripts_dir(file, &dir.value)),
        };
        let base = "https://api.openai.com/v1";
        let unknown_agents =
            one_of("allow_unknown_agents", text("allow_unknown_agents"), &["false", "true"])?;
        Ok(Config {
            data_dir: dir,
            durability: one_of("durability", text("durability"), &["commit", "interval"])?,
            dedup: one_of("dedup", text("dedup"), &["none", "penalty", "strict"])?,
            allow_unknown_agents: Setting {
                value: unknown_agents.value == "true",
                source: unknown_agents.source,
            },
            model: text("model").unwrap_or_else(|| Setting::default(fallback.to_owned())),
            openai_base_url: text("openai_base_url").unwrap_or_else(|| Setting::default(base.to_owned())),
            openai_api_key: key.map(|key| Setting { value: Secret(key.value), source: key.source }),
            agents_file: text("agents_file")
                .map(|path| Setting { value: path.value.into(), source: path.source }),
            scripts_dir: scripts,
            kafka,
            kafka_slot,
            scylla,
            schema_registry,
            canton,
        })
    }

    /// Where the process that serves this system writes down how it is reached: `<data-dir>/api.json`, and with a
    /// log on Kafka a file of its own for each cluster and prefix.
    pub(crate) fn api_file(&self) -> PathBuf {
        let name = match &self.kafka {
            None => "api.json".to_owned(),
            Some(kafka) => {
                let KafkaConfig { brokers, prefix, .. } = &kafka.value;
                format!("api-{}.json", p2_core::ids::Id::of_text(&format!("{brokers} {prefix}")).short())
            }
        };
        self.data_dir.value.join(name)
    }

    /// (key, value for people, source); secrets redacted.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String, String)> {
        let none = || ("(none)".to_owned(), "default".to_owned());
        let key = self.openai_api_key.as_ref();
        let agents = self.agents_file.as_ref();
        let values = [
            (self.data_dir.value.display().to_string(), self.data_dir.source.clone()),
            (self.durability.value.clone(), self.durability.source.clone()),
            (self.dedup.value.clone(), self.dedup.source.clone()),
            (self.allow_unknown_agents.value.to_string(), self.allow_unknown_agents.source.clone()),
            (self.model.value.clone(), self.model.source.clone()),
            (without_password(&self.openai_base_url.value), self.openai_base_url.source.clone()),
            key.map_or_else(none, |key| (format!("{:?}", key.value), key.source.clone())),
            agents.map_or_else(none, |file| (file.value.display().to_string(), file.source.clone())),
            (self.scripts_dir.value.display().to_string(), self.scripts_dir.source.clone()),
        ];
        let rows = KEYS.into_iter().zip(values).map(|((key, ..), (value, source))| (key, value, source));
        rows.chain(self.cluster_rows()).collect()
    }

    fn cluster_rows(&self) -> Vec<(&'static str, String, String)> {
        let (kafka, scylla) = (self.kafka.as_ref(), self.scylla.as_ref());
        let none = ("(none)".to_owned(), "default".to_owned());
        let told = kafka.map(|set| {
            let KafkaConfig { brokers, prefix, .. } = &set.value;
            let shown =
                if prefix.is_empty() { brokers.clone() } else { format!("{brokers}, prefix {prefix}") };
            (shown, set.source.clone())
        });
        let (brokers, from) = told.unwrap_or_else(|| none.clone());
        let told = scylla.map(|set| {
            let p2_scylla::Options { nodes, keyspace, .. } = &set.value;
            (format!("{}, keyspace {keyspace}", nodes.join(", ")), set.source.clone())
        });
        let (nodes, also_from) = told.unwrap_or_else(|| none.clone());
        let told =
            self.schema_registry.as_ref().map(|set| (set.value.place().to_owned(), set.source.clone()));
        let (place, place_from) = told.unwrap_or_else(|| none.clone());
        let told = self.canton.as_ref().map(|set| (set.value.url.clone(), set.source.clone()));
        let (canton, canton_from) = told.unwrap_or(none);
        vec![
            ("kafka", brokers, from),
            ("scylla", nodes, also_from),
            ("schema_registry", place, place_from),
            ("ledger.canton", canton, canton_from),
        ]
    }
}

/// A URL without `user:password@`.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://[redacted]@{rest}"),
        _ => url.to_owned(),
    }
}

/// The settings file.
fn read_file(path: &Path) -> EngineResult<toml::Table> {
    let at = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|error| EngineError::Invalid(format!("{at}: {error}")))?;
    // The parser's own message shows the line, and the line may hold a key: only its position is told.
    text.parse::<toml::Table>().map_err(|error| {
        let line =
            error.span().map_or(1, |span| 1 + text.chars().take(span.start).filter(|c| *c == '\n').count());
        EngineError::Invalid(format!("{at}: line {line}: {}", error.message()))
    })
}

/// What file and environment say, as text.
fn collect(
    file: Option<(&toml::Table, &Path)>,
    env: &dyn Fn(&str) -> Option<String>,
) -> EngineResult<BTreeMap<&'static str, Setting<String>>> {
    let mut values = BTreeMap::new();
    if let Some((table, path)) = file {
        for (key, mut value) in from_toml(table, path)? {
            if PATHS.contains(&key) {
                let beside = path.parent().unwrap_or(Path::new(""));
                value = beside.join(&value).display().to_string();
            }
            values.insert(key, Setting { value, source: format!("file {}", path.display()) });
        }
    }
    for (key, variable, _) in KEYS {
        if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
            values.insert(key, Setting { value, source: format!("env {variable}") });
        }
    }
    Ok(values)
}

fn from_toml(table: &toml::Table, path: &Path) -> EngineResult<Vec<(&'static str, String)>> {
    let at = path.display();
    let mut values = Vec::new();
    for (key, value) in table.iter().filter(|(key, _)| !TABLES.contains(&key.as_str())) {
        let Some((known, _, meaning)) = KEYS.into_iter().find(|(known, ..)| known == key) else {
            return Err(EngineError::Invalid(format!("{at}: unknown key '{key}'{}", nearest(key))));
        };
        let value = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Boolean(flag) => flag.to_string(),
            _ => return Err(EngineError::Invalid(format!("{at}: '{known}' takes: {meaning}"))),
        };
        values.push((known, value));
    }
    Ok(values)
}

fn nearest(key: &str) -> String {
    KEYS.into_iter()
        .map(|(known, ..)| known)
        .chain(TABLES)
        .map(|known| (strsim::damerau_levenshtein(known, key), known))
        .min()
        .map_or_else(String::new, |(_, known)| format!("; did you mean '{known}'?"))
}

/// The value of a key with a fixed choice; the first is the default.
fn one_of(key: &str, given: Option<Setting<String>>, choices: &[&str]) -> EngineResult<Setting<String>> {
    match given {
        None => Ok(Setting::default(choices.first().copied().unwrap_or_default().to_owned())),
        Some(setting) if choices.contains(&setting.value.as_str()) => Ok(setting),
        Some(setting) => Err(EngineError::Invalid(format!(
            "{}: {key} = '{}' is not one of {}",
            setting.source,
            setting.value,
            choices.join(", ")
        ))),
    }
}

/// `scripts` beside the settings file where there is one, else in the data directory.
fn default_scripts_dir(file: Option<&Path>, data_dir: &Path) -> PathBuf {
    let file = file.unwrap_or(Path::new(FILE_NAME));
    let beside = file.exists().then(|| file.parent().unwrap_or(Path::new("")));
    beside.unwrap_or(data_dir).join("scripts")
}

/// `$XDG_DATA_HOME/p2engine`, else `~/.local/share/p2engine`, else `.p2`.
fn default_data_dir(env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| PathBuf::from(".p2"), |base| base.join("p2engine"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, env: &[(&str, &str)]) -> EngineResult<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, text).unwrap();
        let env: BTreeMap<String, String> =
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(Some(&path), None, &|name| env.get(name).cloned())
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_source_is_told() {
        let config = load("dedup = 'strict'\nmodel = 'a/b'", &[("P2_MODEL", "c/d")]).unwrap();
        assert_eq!(config.model.value, "c/d");
        assert_eq!(config.model.source, "env P2_MODEL");
        assert_eq!(config.dedup.value, "strict");
        assert!(config.dedup.source.starts_with("file "));
        assert_eq!(config.durability.source, "default");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_nearest_one() {
        let error = load("durabilty = 'commit'", &[]).err().unwrap().to_string();
        assert!(error.ends_with("unknown key 'durabilty'; did you mean 'durability'?"), "{error}");
    }

    #[test]
    fn a_wrong_value_names_its_place_and_the_choices() {
        let error = load("", &[("P2_DEDUP", "maybe")]).err().unwrap().to_string();
        assert_eq!(error, "env P2_DEDUP: dedup = 'maybe' is not one of none, penalty, strict");
    }

    #[test]
    fn secrets_are_redacted_in_what_is_shown() {
        let env = [("OPENAI_API_KEY", "sk-very-secret"), ("OPENAI_BASE_URL", "http://u:hidden@h/v1")];
        let shown = format!("{:?}", load("", &env).unwrap().rows());
        assert!(shown.contains("[redacted]"));
        assert!(!shown.contains("very-secret") && !shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn paths_of_a_settings_file_are_relative_to_it() {
        let config = load("data_dir = 'here'\nagents_file = '/etc/agents.yml'", &[]).unwrap();
        let beside = config.data_dir.value.parent().unwrap();
        assert!(beside.is_absolute() && config.data_dir.value.ends_with("here"));
        assert_eq!(config.agents_file.unwrap().value, Path::new("/etc/agents.yml"));
        assert_eq!(config.scripts_dir.value, beside.join("scripts"));
    }

    #[test]
    fn without_a_settings_file_scripts_are_in_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let none = |_: &str| None;
        let config = Config::load(None, Some(dir.path()), &none).unwrap();
        assert_eq!(config.scripts_dir.value, dir.path().join("scripts"));
        let env = |name: &str| (name == "P2_SCRIPTS_DIR").then(|| "elsewhere".to_owned());
        assert_eq!(Config::load(None, None, &env).unwrap().scripts_dir.value, Path::new("elsewhere"));
    }

    #[test]
    fn without_a_key_the_scripted_model_is_the_default() {
        assert_eq!(load("", &[]).unwrap().model.value, "scripted/demo");
        assert_eq!(load("", &[("OPENAI_API_KEY", "k")]).unwrap().model.value, "openai/gpt-4o-mini");
        let server = [("OPENAI_BASE_URL", "http://127.0.0.1:11434/v1")];
        assert_eq!(load("", &server).unwrap().model.value, "openai/gpt-4o-mini");
    }
}
