//! How a participant is reached, and the token that is shown to it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use reqwest::Url;
use serde::Deserialize;

/// The user that the engine is on a participant, and the hint for its party.
const NAME: &str = "p2engine";
/// How long the participant remembers a command, seconds: a day. Seven days are its own maximum by default.
const DEDUPLICATION_S: u64 = 86_400;

/// How a participant is reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CantonConfig {
    /// Where its JSON Ledger API is: `http://127.0.0.1:6864`.
    pub url: String,
    /// A file with the bearer token, read again when it changes; none: the participant asks for none.
    pub token_file: Option<PathBuf>,
    /// The model's package as built from `daml/`; only `ledger bootstrap` reads it.
    pub dar: Option<PathBuf>,
    /// The engine's user on the participant.
    pub user: String,
    /// What the name of the engine's party begins with, where `ledger bootstrap` makes one.
    pub party_hint: String,
    /// How long the participant is to remember a command, seconds; at most what it is configured for.
    pub deduplication_s: u64,
}

impl Default for CantonConfig {
    fn default() -> CantonConfig {
        CantonConfig {
            url: String::new(),
            token_file: None,
            dar: None,
            user: NAME.to_owned(),
            party_hint: NAME.to_owned(),
            deduplication_s: DEDUPLICATION_S,
        }
    }
}

/// A setting that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ledger.canton: {0}")]
pub struct BadConfig(pub(crate) String);

impl CantonConfig {
    /// The API's address.
    pub(crate) fn base(&self) -> Result<Url, BadConfig> {
        let url = Url::parse(self.url.trim_end_matches('/'))
            .map_err(|error| BadConfig(format!("the url is none ({error}); write http://127.0.0.1:6864")))?;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err(BadConfig("the url must begin with http:// or https://".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadConfig(
                "the url must not have a user or password in it: put a token into a file and name it as token_file"
                    .to_owned(),
            ));
        }
        let names = [("user", &self.user), ("party_hint", &self.party_hint)];
        let fits = |text: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !text.is_empty() && text.len() <= 60 && text.chars().all(known)
        };
        match names.into_iter().find(|(_, name)| !fits(name)) {
            Some((key, _)) => Err(BadConfig(format!("{key} must be 1 to 60 of A-Z a-z 0-9 - _ ."))),
            None => Ok(url),
        }
    }
}

/// The token in a file. Never shown; clones share what was read.
#[derive(Clone)]
pub(crate) struct TokenFile {
    path: PathBuf,
    read: Arc<Mutex<Option<Read>>>,
}

struct Read {
    changed: Option<SystemTime>,
    bytes: u64,
    token: String,
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TokenFile {
    pub(crate) fn new(path: PathBuf) -> TokenFile {
        TokenFile { path, read: Arc::default() }
    }

    /// The token, read again where the file has changed.
    ///
    /// # Errors
    /// A sentence that names the file, never what is in it.
    pub(crate) fn token(&self) -> Result<String, String> {
        let at = self.path.display();
        let about =
            std::fs::metadata(&self.path).map_err(|error| format!("token file {at}: {}", error.kind()))?;
        let (changed, bytes) = (about.modified().ok(), about.len());
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = read.as_ref().filter(|known| (known.changed, known.bytes) == (changed, bytes)) {
            return Ok(known.token.clone());
        }
        let text = std::fs::read_to_string(&self.path)
            .map_err(|error| format!("token file {at}: {}", error.kind()))?;
        let token = text.trim().to_owned();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("token file {at}: it must have a token and nothing else in it"));
        }
        *read = Some(Read { changed, bytes, token: token.clone() });
        Ok(token)
    }

    /// Forgets what was read: the next request reads the file again.
    pub(crate) fn forget(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A text without the token, where somebody echoed it.
    pub(crate) fn scrub(&self, text: &str) -> String {
        match self.read.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(known) if known.token.len() >= 4 => text.replace(&known.token, "[redacted]"),
            _ => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_again_when_its_file_changes_and_shown_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "first-secret\n").unwrap();
        let file = TokenFile::new(path.clone());
        assert_eq!(file.token().unwrap(), "first-secret");
        assert_eq!(file.scrub("echo first-secret!"), "echo [redacted]!");
        std::fs::write(&path, "the second secret").unwrap();
        let error = file.token().unwrap_err();
        assert!(error.contains("nothing else") && !error.contains("second"), "{error}");
        std::fs::write(&path, "a-longer-second-secret").unwrap();
        assert_eq!(file.token().unwrap(), "a-longer-second-secret");
        assert!(!format!("{file:?}").contains("secret"));
        std::fs::remove_file(&path).unwrap();
        assert!(file.token().unwrap_err().contains("token file"));
    }

    #[test]
    fn an_address_with_a_password_in_it_is_refused_without_showing_it() {
        let config = |url: &str| CantonConfig { url: url.into(), ..CantonConfig::default() };
        for (url, says) in
            [("http://u:hidden@h:1", "token_file"), ("ftp://h", "http://"), ("nothing", "the url is none")]
        {
            let error = config(url).base().unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("hidden"), "{error}");
        }
        assert_eq!(config("http://h:6864/").base().unwrap().as_str(), "http://h:6864/");
        let user = CantonConfig { user: "a b".into(), ..config("http://h") };
        assert!(user.base().unwrap_err().to_string().contains("user must be"));
    }
}
