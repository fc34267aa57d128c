//! The `Model` port: picks the provider by the prefix of the model's name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use p2_core::model::{ModelError, ModelErrorClass, ModelOutcome, ModelRequest};
use p2_stream::ports::Model;
use serde::Deserialize;

use crate::openai::{ConfigError, OpenAi, until};
use crate::scripted::{self, Script};
use crate::secret::Secret;

const SCRIPTED: &str = "scripted";
const OPENAI: &str = "openai";
const OPENAI_URL: &str = "https://api.openai.com/v1";

/// An OpenAI-compatible server. Its models are named `<name>/<model>`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// The prefix of its models' names.
    pub name: String,
    /// Where its API begins, e.g. `http://localhost:11434/v1`.
    pub base_url: String,
    /// The environment variable that holds the key. With neither this nor `api_key`, no key is sent.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// The key itself; prefer `api_key_env`.
    #[serde(default)]
    pub api_key: Option<Secret>,
    /// Further headers of every request.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
}

/// What the router needs to know.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RouterConfig {
    /// Servers beside the built-in `openai`; one of that name replaces it.
    pub providers: Vec<ProviderConfig>,
    /// Where `scripted/<name>` looks for `<name>.yml`; none: only the built-in `scripted/demo`.
    pub scripts_dir: Option<PathBuf>,
}

/// A server as set up.
enum Provider {
    Ready(OpenAi),
    /// This environment variable should hold its key, and does not.
    NoKey(String),
}

/// A file's script as last read, with the file's time and length then.
type Cached = (SystemTime, u64, Result<Arc<Script>, String>);

/// All models of a process.
pub struct Router {
    providers: BTreeMap<String, Provider>,
    scripts_dir: Option<PathBuf>,
    demo: Arc<Script>,
    cache: Arc<Mutex<BTreeMap<String, Cached>>>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Router").field("providers", &self.providers()).finish_non_exhaustive()
    }
}

impl Router {
    /// A router whose keys come from `env` (a variable's name → its value), read once, here. The built-in
    /// `openai` takes `OPENAI_API_KEY` and `OPENAI_BASE_URL`; with another base URL the key is optional.
    ///
    /// # Errors
    /// [`ConfigError`] for a provider that cannot be used, naming it. A missing key is no error before it is
    /// needed.
    pub fn new(config: RouterConfig, env: impl Fn(&str) -> Option<String>) -> Result<Router, ConfigError> {
        let env =
            |name: &str| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let mut providers = BTreeMap::new();
        providers.insert(OPENAI.to_owned(), set_up(&built_in_openai(&env), &env)?);
        let mut named = std::collections::BTreeSet::new();
        for provider in &config.providers {
            check_name(&provider.name)?;
            if !named.insert(provider.name.clone()) {
                return Err(refuse(&provider.name, "is configured twice: keep one"));
            }
            providers.insert(provider.name.clone(), set_up(provider, &env)?);
        }
        let demo = Script::demo().map_err(|error| refuse(SCRIPTED, &error.to_string()))?;
        Ok(Router { providers, scripts_dir: config.scripts_dir, demo: Arc::new(demo), cache: Arc::default() })
    }

    /// The names of all providers, sorted.
    pub fn providers(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.providers.keys().map(String::as_str).chain([SCRIPTED]).collect();
        names.sort_unstable();
        names
    }

    /// Whether `model` can be asked at all: provider known, key present, script readable. Asks nobody.
    ///
    /// # Errors
    /// The error that [`Model::ask`] would end with.
    pub fn check(&self, model: &str) -> Result<(), ModelError> {
        match self.split(model)? {
            (SCRIPTED, name) => self.script(name).map(|_| ()),
            (provider, _) => self.server(provider).map(|_| ()),
        }
    }

    fn split<'a>(&self, model: &'a str) -> Result<(&'a str, &'a str), ModelError> {
        let parts = model.split_once('/').filter(|(provider, name)| {
            !name.is_empty() && (*provider == SCRIPTED || self.providers.contains_key(*provider))
        });
        parts.ok_or_else(|| {
            let known = self.providers().join("/…, ");
            permanent(
                "unknown_model",
                format!("model '{model}': its provider is not known; known: {known}/…"),
            )
        })
    }

    fn server(&self, name: &str) -> Result<&OpenAi, ModelError> {
        match self.providers.get(name) {
            Some(Provider::Ready(server)) => Ok(server),
            Some(Provider::NoKey(variable)) => {
                let text = format!(
                    "model provider '{name}' needs a key: set {variable}, or use an agent on scripted/demo"
                );
                Err(permanent("no_key", text))
            }
            None => Err(permanent("unknown_model", format!("model provider '{name}' is not known"))),
        }
    }

    fn script(&self, name: &str) -> Result<Arc<Script>, ModelError> {
        if name == "demo" {
            return Ok(Arc::clone(&self.demo));
        }
        let Some(dir) = &self.scripts_dir else {
            let text = format!("model 'scripted/{name}': no scripts directory is configured; built in: demo");
            return Err(permanent("unknown_model", text));
        };
        load(dir, name, &self.cache)
    }

    async fn ask_script(&self, name: &str, request: &ModelRequest, deadline_ms: i64) -> ModelOutcome {
        let script = match self.script(name) {
            Ok(script) => script,
            Err(error) => return refused(error),
        };
        let answer = scripted::answer(&script, request);
        let left = until(deadline_ms, SystemTime::now());
        let delay = std::time::Duration::from_millis(answer.delay_ms);
        tokio::time::sleep(delay.min(left)).await;
        if delay > left || left.is_zero() {
            let message = format!("model 'scripted/{name}': no reply before the deadline");
            let error = ModelError { class: ModelErrorClass::Timeout, code: "timeout".to_owned(), message };
            let latency_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
            return ModelOutcome { result: Err(error), latency_ms, attempts: 1 };
        }
        // The delay as written, not as measured: the same conversation gives the same records.
        let latency_ms = i64::try_from(answer.delay_ms).unwrap_or(i64::MAX);
        ModelOutcome { result: answer.result, latency_ms, attempts: 1 }
    }
}

#[async_trait]
impl Model for Router {
    async fn ask(&self, request: &ModelRequest, deadline_ms: i64) -> ModelOutcome {
        match self.split(&request.model) {
            Err(error) => refused(error),
            Ok((SCRIPTED, name)) => self.ask_script(name, request, deadline_ms).await,
            Ok((provider, model)) => match self.server(provider) {
                Ok(server) => server.ask(model, request, deadline_ms).await,
                Err(error) => refused(error),
            },
        }
    }
}

fn built_in_openai(env: &impl Fn(&str) -> Option<String>) -> ProviderConfig {
    let key = "OPENAI_API_KEY".to_owned();
    let base_url = env("OPENAI_BASE_URL");
    // A server of one's own may need no key.
    let optional = base_url.is_some() && env(&key).is_none();
    ProviderConfig {
        name: OPENAI.to_owned(),
        base_url: base_url.unwrap_or_else(|| OPENAI_URL.to_owned()),
        api_key_env: Some(key).filter(|_| !optional),
        api_key: None,
        headers: BTreeMap::new(),
    }
}

fn set_up(config: &ProviderConfig, env: &impl Fn(&str) -> Option<String>) -> Result<Provider, ConfigError> {
    let key = match (&config.api_key, &config.api_key_env) {
        (Some(_), Some(_)) => {
            return Err(refuse(&config.name, "has both api_key and api_key_env: keep api_key_env"));
        }
        (Some(key), None) => Some(key.clone()),
        (None, Some(variable)) => match env(variable) {
            Some(key) => Some(Secret::new(key)),
            None => {
                // A bad URL is reported now all the same.
                OpenAi::new(&config.name, &config.base_url, None, &config.headers)?;
                return Ok(Provider::NoKey(variable.clone()));
            }
        },
        (None, None) => None,
    };
    OpenAi::new(&config.name, &config.base_url, key.as_ref(), &config.headers).map(Provider::Ready)
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    if name == SCRIPTED {
        return Err(refuse(name, "this name belongs to the scripted models: take another"));
    }
    if !is_plain(name) {
        return Err(refuse(name, "a name is made of letters, digits, '-', '_' and '.'"));
    }
    Ok(())
}

fn is_plain(name: &str) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(plain)
}

/// Reads `<dir>/<name>.yml`, again only when the file changed.
fn load(dir: &Path, name: &str, cache: &Mutex<BTreeMap<String, Cached>>) -> Result<Arc<Script>, ModelError> {
    let unknown = |text: String| permanent("unknown_model", format!("model 'scripted/{name}': {text}"));
    // The name becomes a path: it must not leave the directory.
    if !is_plain(name) {
        return Err(unknown("a script's name is made of letters, digits, '-', '_' and '.'".to_owned()));
    }
    let path = dir.join(format!("{name}.yml"));
    let read = |error: std::io::Error| unknown(format!("{}: {error}; built in: demo", path.display()));
    let metadata = std::fs::metadata(&path).map_err(read)?;
    let stamp = (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len());
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    let script = match cache.get(name) {
        Some((time, length, script)) if (*time, *length) == stamp => script.clone(),
        _ => {
            let text = std::fs::read_to_string(&path).map_err(read)?;
            let script = Script::parse(&text).map(Arc::new).map_err(|error| error.to_string());
            cache.insert(name.to_owned(), (stamp.0, stamp.1, script.clone()));
            script
        }
    };
    script.map_err(|error| {
        permanent("bad_script", format!("model 'scripted/{name}': {}: {error}", path.display()))
    })
}

fn refuse(provider: &str, problem: &str) -> ConfigError {
    ConfigError { provider: provider.to_owned(), problem: problem.to_owned() }
}

fn permanent(code: &str, message: String) -> ModelError {
    ModelError { class: ModelErrorClass::Permanent, code: code.to_owned(), message }
}

fn refused(error: ModelError) -> ModelOutcome {
    ModelOutcome { result: Err(error), latency_ms: 0, attempts: 0 }
}

#[cfg(test)]
mod tests;
