//! The table `[ledger.canton]`: books on a Canton ledger.

use std::path::Path;

use p2_canton::{CantonConfig, Client};
use toml::{Table, Value};

use super::Setting;
use crate::engine::{EngineError, EngineResult};

/// (key, environment variable).
const VARIABLES: [(&str, &str); 2] = [("url", "P2_CANTON_URL"), ("token_file", "P2_CANTON_TOKEN_FILE")];
/// Keys whose value is a path; in a file it is relative to that file.
const PATHS: [&str; 2] = ["token_file", "dar"];

/// The Canton ledger of settlement; none: the embedded one.
pub(super) fn canton(
    file: Option<(&Table, &Path)>,
    env: &dyn Fn(&str) -> Option<String>,
) -> EngineResult<Option<Setting<CantonConfig>>> {
    let (mut table, mut source) = match file {
        Some((tables, path)) => (in_file(tables, path)?, format!("file {}", path.display())),
        None => (Table::new(), String::new()),
    };
    for (key, variable) in VARIABLES {
        if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
            table.insert(key.to_owned(), Value::String(value));
            if key == "url" || source.is_empty() {
                source = format!("env {variable}");
            }
        }
    }
    if table.is_empty() {
        return Ok(None);
    }
    let wrong = |reason: &str| EngineError::Invalid(format!("{source}: {reason}"));
    let value: CantonConfig = table
        .try_into()
        .map_err(|error: toml::de::Error| wrong(&format!("ledger.canton: {}", error.message())))?;
    Client::new(&value).map_err(|error| wrong(&error.to_string()))?;
    Ok(Some(Setting { value, source }))
}

fn in_file(tables: &Table, path: &Path) -> EngineResult<Table> {
    let at = path.display();
    let wrong = |text: &str| EngineError::Invalid(format!("{at}: {text}"));
    let Some(ledger) = tables.get("ledger") else { return Ok(Table::new()) };
    let Value::Table(ledger) = ledger else {
        return Err(wrong("'ledger' is a table: write it as [ledger.canton]"));
    };
    if let Some(other) = ledger.keys().find(|key| *key != "canton") {
        return Err(wrong(&format!("unknown key 'ledger.{other}'; did you mean 'ledger.canton'?")));
    }
    let Some(Value::Table(canton)) = ledger.get("canton") else {
        return Err(wrong("'ledger.canton' is a table: write it as [ledger.canton]"));
    };
    let beside = path.parent().unwrap_or(Path::new(""));
    let absolute = |(key, value): (&String, &Value)| match value {
        Value::String(text) if PATHS.contains(&key.as_str()) => {
            (key.clone(), Value::String(beside.join(text).display().to_string()))
        }
        _ => (key.clone(), value.clone()),
    };
    Ok(canton.iter().map(absolute).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, env: &[(&str, &str)]) -> EngineResult<Option<Setting<CantonConfig>>> {
        let tables: Table = text.parse().unwrap();
        let find =
            |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        canton(Some((&tables, Path::new("/etc/p2/p2engine.toml"))), &find)
    }

    #[test]
    fn without_an_address_there_is_no_outside_ledger() {
        assert_eq!(read("", &[]).unwrap(), None);
    }

    #[test]
    fn the_environment_wins_and_paths_are_beside_the_file() {
        let text = "[ledger.canton]\nurl = 'http://one:6864'\ntoken_file = 'token'\ndar = '/opt/ledger.dar'";
        let found = read(text, &[("P2_CANTON_URL", "http://two:6864")]).unwrap().unwrap();
        assert_eq!(
            (found.value.url.as_str(), found.source.as_str()),
            ("http://two:6864", "env P2_CANTON_URL")
        );
        assert_eq!(found.value.token_file.as_deref(), Some(Path::new("/etc/p2/token")));
        assert_eq!(found.value.dar.as_deref(), Some(Path::new("/opt/ledger.dar")));
    }

    #[test]
    fn what_is_wrong_names_its_place() {
        let says = |text: &str, env: &[(&str, &str)]| read(text, env).unwrap_err().to_string();
        assert!(says("ledger = 3", &[]).contains("[ledger.canton]"));
        assert!(says("[ledger.kanton]\nurl = 'x'", &[]).contains("did you mean 'ledger.canton'"));
        assert!(says("[ledger.canton]\nurll = 'x'", &[]).contains("unknown field `urll`"));
        assert!(
            says("", &[("P2_CANTON_URL", "localhost")]).starts_with("env P2_CANTON_URL: ledger.canton: ")
        );
        let told = says("", &[("P2_CANTON_TOKEN_FILE", "/run/token")]);
        assert!(told.contains("the url is none"), "{told}");
    }
}
