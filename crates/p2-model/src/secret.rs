//! Text that must not be shown.

use std::fmt;

use serde::Deserialize;

const REDACTED: &str = "[redacted]";

/// A key or another value that never appears in `Debug`, `Display`, logs or errors.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself: only for the place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` with every occurrence of the secret replaced: servers like to echo a key that they refuse.
    pub fn scrub(&self, text: &str) -> String {
        // Replacing very short values would mangle the message and hide nothing.
        if self.0.len() < 4 { text.to_owned() } else { text.replace(&self.0, REDACTED) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(REDACTED)
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_secret_prints_neither_by_debug_nor_by_display() {
        let secret = Secret::new("sk-hidden");
        assert_eq!(
            format!("{secret} {secret:?} {:?}", Some(&secret)),
            "[redacted] [redacted] Some([redacted])"
        );
        assert_eq!(secret.expose(), "sk-hidden");
    }

    #[test]
    fn an_echoed_secret_is_scrubbed() {
        assert_eq!(Secret::new("sk-hidden").scrub("wrong key sk-hidden!"), "wrong key [redacted]!");
    }
}
