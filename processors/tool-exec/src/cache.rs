//! Successes of tools, kept for a while.

use std::collections::BTreeMap;

use serde_json::Value;

/// Most answers kept.
const ENTRIES_MAX: usize = 1_024;
/// Longest answer kept, bytes of JSON text: longer ones are cheap to ask again compared with what they hold.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Answers by call, bounded in number and size.
///
/// The key is tool, version and arguments, and not the conversation or branch: the same question has the
/// same answer wherever it is asked.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    answers: BTreeMap<String, Answer>,
}

#[derive(Debug)]
struct Answer {
    value: Value,
    until_ms: i64,
}

impl Cache {
    /// The key of a call. Objects are sorted by key, so equal arguments are one key.
    pub(crate) fn key(tool: &str, version: i32, arguments: &Value) -> String {
        format!("{tool}@{version} {arguments}")
    }

    /// The answer, where there is one that is still fresh.
    pub(crate) fn get(&self, key: &str, now_ms: i64) -> Option<Value> {
        let answer = self.answers.get(key)?;
        (now_ms < answer.until_ms).then(|| answer.value.clone())
    }

    /// Keeps an answer until `until_ms`. Over the limit the one that ends first goes.
    pub(crate) fn put(&mut self, key: String, value: Value, now_ms: i64, until_ms: i64) {
        if value.to_string().len() > VALUE_BYTES_MAX {
            return;
        }
        self.answers.insert(key, Answer { value, until_ms });
        if self.answers.len() > ENTRIES_MAX {
            self.answers.retain(|_, answer| now_ms < answer.until_ms);
        }
        while self.answers.len() > ENTRIES_MAX {
            let first = self.answers.iter().min_by_key(|(_, answer)| answer.until_ms);
            let Some(key) = first.map(|(key, _)| key.clone()) else { return };
            self.answers.remove(&key);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.answers.len()
    }
}
