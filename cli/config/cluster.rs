//! The tables `[kafka]`, `[scylla]` and `[schema_registry]`: one end of the same system on other engines.

use std::path::{Path, PathBuf};
use std::time::Duration;

use p2_kafka::KafkaConfig;
use p2_registry::{RegistryClient, RegistryConfig};
use p2_scylla::{Flavour, Options, Password, Tls};
use serde::Deserialize;
use toml::{Table, Value};

use super::Setting;
use crate::engine::{EngineError, EngineResult};

/// (table, key, environment variable): what differs from process to process, or is secret.
const VARIABLES: [(&str, &str, &str); 11] = [
    ("kafka", "brokers", "P2_KAFKA_BROKERS"),
    ("kafka", "prefix", "P2_KAFKA_PREFIX"),
    ("kafka", "slot", "P2_KAFKA_SLOT"),
    ("kafka", "protocol", "P2_KAFKA_PROTOCOL"),
    ("scylla", "nodes", "P2_SCYLLA_NODES"),
    ("scylla", "keyspace", "P2_SCYLLA_KEYSPACE"),
    ("scylla", "user", "P2_SCYLLA_USER"),
    ("scylla", "password", "P2_SCYLLA_PASSWORD"),
    ("schema_registry", "url", "P2_SCHEMA_REGISTRY_URL"),
    ("schema_registry", "user", "P2_SCHEMA_REGISTRY_USER"),
    ("schema_registry", "password", "P2_SCHEMA_REGISTRY_PASSWORD"),
];

/// A table of the settings file, with what the environment says on top; none where neither says anything.
pub(super) fn table(
    name: &str,
    file: Option<(&Table, &Path)>,
    env: &dyn Fn(&str) -> Option<String>,
) -> EngineResult<Option<Setting<Table>>> {
    let given = file.and_then(|(table, path)| Some((table.get(name)?, path)));
    let mut found = match given {
        Some((Value::Table(table), path)) => {
            Some(Setting { value: table.clone(), source: format!("file {}", path.display()) })
        }
        Some((_, path)) => {
            let at = path.display();
            return Err(EngineError::Invalid(format!("{at}: '{name}' is a table: write it as [{name}]")));
        }
        None => None,
    };
    // The parser shows a value of the wrong type, and this one is secret.
    let secret = found.as_ref().and_then(|set| Some((set, set.value.get("password")?)));
    if let Some((set, password)) = secret
        && !password.is_str()
    {
        let source = &set.source;
        return Err(EngineError::Invalid(format!(
            "{source}: {name}: 'password' takes text: put it in quotes"
        )));
    }
    for (_, key, variable) in VARIABLES.into_iter().filter(|(table, ..)| *table == name) {
        let Some(value) = env(variable).filter(|value| !value.is_empty()) else { continue };
        let source = format!("env {variable}");
        let setting = found.get_or_insert_with(|| Setting { value: Table::new(), source: source.clone() });
        setting.value.insert(key.to_owned(), Value::String(value));
        if matches!(key, "brokers" | "nodes" | "url") {
            setting.source = source;
        }
    }
    Ok(found)
}

/// Where the setting stands that is to blame: the variable whose key or value the reason names, otherwise the table's source.
fn blamed(table: &str, source: &str, reason: &str, env: &dyn Fn(&str) -> Option<String>) -> String {
    // What is expected instead is not what is wrong.
    let wrong = reason.split(", expected").next().unwrap_or(reason);
    let names =
        |key: &str| wrong.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == key);
    let mut of_table = VARIABLES.into_iter().filter(|(name, ..)| *name == table);
    let found = of_table.find(|(_, key, variable)| {
        env(variable)
            .is_some_and(|value| !value.is_empty() && (names(key) || wrong.contains(&format!("`{value}`"))))
    });
    found.map_or_else(|| source.to_owned(), |(.., variable)| format!("env {variable}"))
}

/// The log on Kafka. Values of `properties` may be `{ env = "NAME" }`, so that secrets need not be in a file.
pub(super) fn kafka(
    given: Option<Setting<Table>>,
    env: &dyn Fn(&str) -> Option<String>,
) -> EngineResult<Option<Setting<KafkaConfig>>> {
    let Some(Setting { mut value, source }) = given else { return Ok(None) };
    let wrong = |reason: &str| {
        EngineError::Invalid(format!("{}: kafka: {reason}", blamed("kafka", &source, reason, env)))
    };
    if let Some(properties) = value.get_mut("properties") {
        let Value::Table(properties) = properties else {
            return Err(wrong("'properties' is a table: write it as [kafka.properties]"));
        };
        for (key, property) in properties.iter_mut() {
            *property = Value::String(property_text(key, property, env).map_err(|reason| wrong(&reason))?);
        }
    }
    if let Some(Value::Array(brokers)) = value.get("brokers") {
        let texts: Option<Vec<&str>> = brokers.iter().map(Value::as_str).collect();
        let texts = texts.ok_or_else(|| wrong("'brokers' takes host:port, one or several"))?;
        let joined = texts.join(",");
        value.insert("brokers".to_owned(), Value::String(joined));
    }
    if let Some(Value::String(brokers)) = value.get("brokers") {
        check_ports("brokers", brokers.split(',')).map_err(|reason| wrong(&reason))?;
    }
    let config: KafkaConfig = value.try_into().map_err(|error: toml::de::Error| wrong(error.message()))?;
    config.check().map_err(|error| wrong(&error.to_string()))?;
    Ok(Some(Setting { value: config, source }))
}

/// Where an address names a port, it is one: clients take the lowest 16 bits of larger numbers, and ask somebody else.
fn check_ports<'a>(key: &str, addresses: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    for address in addresses.into_iter().map(str::trim) {
        let port = address.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.contains(']'));
        if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
            return Err(format!("'{key}': '{address}' has no port from 1 to 65535"));
        }
    }
    Ok(())
}

/// A property as librdkafka takes it. Values stay out of errors: they may be secret.
fn property_text(key: &str, value: &Value, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(flag) => Ok(flag.to_string()),
        Value::Table(table) => {
            let name = table.get("env").and_then(Value::as_str).filter(|_| table.len() == 1);
            let name = name.ok_or_else(|| format!("property '{key}': write {{ env = \"NAME\" }}"))?;
            env(name).ok_or_else(|| format!("property '{key}': the environment variable {name} is not set"))
        }
        _ => Err(format!("property '{key}' takes text, a number, true or false")),
    }
}

/// `[scylla]` as people write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scylla {
    nodes: Nodes,
    #[serde(default = "default_keyspace")]
    keyspace: String,
    #[serde(default = "one")]
    replication_factor: u32,
    datacenter: Option<String>,
    user: Option<String>,
    password: Option<String>,
    ca_file: Option<PathBuf>,
    flavour: Option<String>,
    request_timeout_ms: Option<u64>,
}

/// A list, or one text with commas.
#[derive(Deserialize)]
#[serde(untagged)]
enum Nodes {
    List(Vec<String>),
    Text(String),
}

fn default_keyspace() -> String {
    "p2".to_owned()
}

fn one() -> u32 {
    1
}

/// The stack store on CQL.
pub(super) fn scylla(
    given: Option<Setting<Table>>,
    env: &dyn Fn(&str) -> Option<String>,
) -> EngineResult<Option<Setting<Options>>> {
    let Some(Setting { value, source }) = given else { return Ok(None) };
    let wrong = |reason: &str| {
        EngineError::Invalid(format!("{}: scylla: {reason}", blamed("scylla", &source, reason, env)))
    };
    let read: Scylla = value.try_into().map_err(|error: toml::de::Error| wrong(error.message()))?;
    let nodes = match read.nodes {
        Nodes::List(nodes) => nodes,
        Nodes::Text(text) => text.split(',').map(|node| node.trim().to_owned()).collect(),
    };
    check_ports("nodes", nodes.iter().map(String::as_str)).map_err(|reason| wrong(&reason))?;
    let mut options = Options::new(nodes, read.keyspace);
    options.replication_factor = read.replication_factor;
    options.datacenter = read.datacenter;
    options.user = match (read.user, read.password) {
        (Some(user), Some(password)) => Some((user, Password::new(password))),
        (None, None) => None,
        (Some(_), None) => return Err(wrong("a user needs a password: P2_SCYLLA_PASSWORD")),
        (None, Some(_)) => return Err(wrong("a password needs a user: P2_SCYLLA_USER")),
    };
    options.tls = read.ca_file.map(|ca_file| Tls { ca_file });
    options.flavour = match read.flavour.as_deref() {
        None => None,
        Some("cassandra") => Some(Flavour::Cassandra),
        Some("scylla") => Some(Flavour::Scylla),
        Some(other) => return Err(wrong(&format!("flavour '{other}' is not one of cassandra, scylla"))),
    };
    if let Some(ms) = read.request_timeout_ms {
        options.request_timeout = Duration::from_millis(ms);
    }
    options.check().map_err(|error| wrong(&error.to_string()))?;
    Ok(Some(Setting { value: options, source }))
}

/// `[schema_registry]` as people write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SchemaRegistry {
    url: String,
    user: Option<String>,
    password: Option<String>,
    ca_file: Option<PathBuf>,
}

/// The schema registry, by which values on Kafka get their framing.
pub(super) fn schema_registry(
    given: Option<Setting<Table>>,
) -> EngineResult<Option<Setting<RegistryClient>>> {
    let Some(Setting { value, source }) = given else { return Ok(None) };
    let wrong = |reason: String| EngineError::Invalid(format!("{source}: {reason}"));
    let read: SchemaRegistry = value
        .try_into()
        .map_err(|error: toml::de::Error| wrong(format!("schema_registry: {}", error.message())))?;
    let ca_pem = match &read.ca_file {
        None => None,
        Some(path) => Some(
            std::fs::read_to_string(path)
                .map_err(|error| wrong(format!("schema_registry: ca_file {}: {error}", path.display())))?,
        ),
    };
    let config = RegistryConfig { url: read.url, user: read.user, password: read.password, ca_pem };
    let client = RegistryClient::new(config).map_err(|error| wrong(error.to_string()))?;
    Ok(Some(Setting { value: client, source }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn env_of(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        let map: BTreeMap<String, String> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        move |name: &str| map.get(name).cloned()
    }

    fn both(text: &str, env: &[(&str, &str)]) -> (EngineResult<String>, EngineResult<String>) {
        let parsed: Table = text.parse().unwrap();
        let (env, path) = (env_of(env), Path::new("p2engine.toml"));
        let of = |name: &str| table(name, Some((&parsed, path)), &env);
        let log = of("kafka").and_then(|given| kafka(given, &env)).map(|found| format!("{found:?}"));
        let store = of("scylla").and_then(|given| scylla(given, &env)).map(|found| format!("{found:?}"));
        (log, store)
    }

    #[test]
    fn brokers_may_be_a_list_and_ports_are_ports() {
        let log = both("[kafka]\nbrokers = ['k1:9092', 'k2:9092']", &[]).0.unwrap();
        assert!(log.contains("\"k1:9092,k2:9092\""), "{log}");
        for (text, what) in [
            ("[kafka]\nbrokers = 'k1:9092,k2:99999'", "'brokers': 'k2:99999' has no port from 1 to 65535"),
            ("[kafka]\nbrokers = [7]", "'brokers' takes host:port, one or several"),
        ] {
            let error = both(text, &[]).0.unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let error = both("[scylla]\nnodes = ['n1:0']", &[]).1.unwrap_err().to_string();
        assert!(error.contains("'nodes': 'n1:0' has no port"), "{error}");
        assert!(both("[kafka]\nbrokers='[::1]:9092,k'\n[scylla]\nnodes='[::1]'", &[]).0.is_ok());
    }

    #[test]
    fn brokers_and_nodes_are_all_that_is_needed() {
        let (log, store) = both("[kafka]\nbrokers = 'k1:9092'\n[scylla]\nnodes = ['n1:9042']", &[]);
        assert!(log.unwrap().contains("k1:9092"));
        assert!(store.unwrap().contains("n1:9042"));
        let (log, store) = both("", &[("P2_KAFKA_BROKERS", "k2"), ("P2_SCYLLA_NODES", "a:1, b:2")]);
        assert!(log.unwrap().contains("env P2_KAFKA_BROKERS"));
        assert!(store.unwrap().contains(r#"["a:1", "b:2"]"#));
        let (log, store) = both("", &[]);
        assert_eq!((log.unwrap(), store.unwrap()), ("None".to_owned(), "None".to_owned()));
    }

    #[test]
    fn a_secret_property_comes_from_the_environment_and_is_never_shown() {
        let text = "[kafka]\nbrokers='k'\n[kafka.properties]\n'sasl.password' = { env = 'SECRET' }";
        let (log, _) = both(text, &[("SECRET", "hunter2")]);
        assert!(!log.unwrap().contains("hunter2"));
        let error = both(text, &[]).0.unwrap_err().to_string();
        assert_eq!(
            error,
            "file p2engine.toml: kafka: property 'sasl.password': the environment variable SECRET is not set"
        );
    }

    #[test]
    fn a_registry_needs_its_url_and_never_shows_its_password() {
        let of = |text: &str, env: &[(&str, &str)]| {
            let parsed: Table = text.parse().unwrap();
            let table = table("schema_registry", Some((&parsed, Path::new("p2engine.toml"))), &env_of(env));
            table.and_then(schema_registry).map(|found| format!("{found:?}"))
        };
        let secret = [("P2_SCHEMA_REGISTRY_PASSWORD", "hunter2")];
        let found = of("[schema_registry]\nurl = 'https://r:8081'\nuser = 'u'", &secret).unwrap();
        assert!(found.contains("https://r:8081") && !found.contains("hunter2"), "{found}");
        assert!(
            of("", &[("P2_SCHEMA_REGISTRY_URL", "http://r")]).unwrap().contains("env P2_SCHEMA_REGISTRY_URL")
        );
        assert_eq!(of("", &[]).unwrap(), "None");
        let error = of("[schema_registry]\nurl = 'r:8081'", &[]).unwrap_err().to_string();
        assert!(error.starts_with("file p2engine.toml: schema_registry: the url must begin with"), "{error}");
        let error = of("[schema_registry]\nuser = 'u'", &[]).unwrap_err().to_string();
        assert_eq!(error, "file p2engine.toml: schema_registry: missing field `url`");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let error = both("[kafka]\nbrokers='k'\nbroker='x'", &[]).0.unwrap_err().to_string();
        assert!(error.starts_with("file p2engine.toml: kafka: unknown field `broker`"), "{error}");
        let error = both("kafka = 3", &[]).0.unwrap_err().to_string();
        assert_eq!(error, "p2engine.toml: 'kafka' is a table: write it as [kafka]");
        let error = both("[scylla]\nnodes='n'\nuser='u'", &[]).1.unwrap_err().to_string();
        assert_eq!(error, "file p2engine.toml: scylla: a user needs a password: P2_SCYLLA_PASSWORD");
        let error = both("[scylla]\nnodes='n'\nuser='u'\npassword=424242", &[]).1.unwrap_err().to_string();
        assert_eq!(error, "file p2engine.toml: scylla: 'password' takes text: put it in quotes");
        let keyspace = [("P2_SCYLLA_KEYSPACE", "P-2")];
        let error = both("[scylla]\nnodes='n'\nkeyspace='p2'", &keyspace).1.unwrap_err().to_string();
        assert!(error.starts_with("env P2_SCYLLA_KEYSPACE: scylla: "), "{error}");
        let protocol = [("P2_KAFKA_PROTOCOL", "new")];
        let error = both("[kafka]\nbrokers='k'", &protocol).0.unwrap_err().to_string();
        assert!(error.starts_with("env P2_KAFKA_PROTOCOL: kafka: "), "{error}");
        let error = both("[kafka]\nbroker='x'", &[("P2_KAFKA_PREFIX", "a.")]).0.unwrap_err().to_string();
        assert!(error.starts_with("file p2engine.toml: kafka: unknown field `broker`"), "{error}");
        let error = both("[scylla]\nnodes='n'\nkeyspace='P-2'", &[]).1.unwrap_err().to_string();
        assert!(error.contains("is not a keyspace name"), "{error}");
    }
}
