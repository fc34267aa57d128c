//! What the campaign did and saw, one JSON object per line, in the order in which it happened.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use p2_core::ids::Id;
use serde::{Deserialize, Serialize};

use super::plan::Fault;
use crate::engine::{EngineError, EngineResult};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(crate) enum Event {
    /// The campaign began.
    Began { seed: u64, seconds: u64, commit: String },
    /// Somebody is about to write a message to the inbox, perhaps not for the first time.
    Sent { id: Id, conversation: String, kind: String },
    /// The log acknowledged it, here.
    Acknowledged { id: Id, partition: i32, offset: i64 },
    /// It did not: the message may be there all the same.
    Unacknowledged { id: Id, reason: String },
    /// Somebody is about to ask the ledger for something, in this record.
    Asked { id: Id, book: String, kind: String },
    /// The log acknowledged it, here.
    Taken { id: Id, partition: i32, offset: i64 },
    /// Bytes that are no message lie here.
    Poisoned { partition: i32, offset: i64 },
    /// The live reader saw a committed record.
    Seen { topic: String, partition: i32, offset: i64, id: Option<Id> },
    /// A fault was caused.
    Fault(Fault),
    /// A process began or ended.
    Process { instance: String, pid: u32, what: String },
    /// A service began or ended, or anything else worth a line.
    Note { what: String },
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Milliseconds since the start of the campaign.
    pub(crate) at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// The file, written as things happen.
pub(crate) struct History {
    path: PathBuf,
    begin: Instant,
    file: Mutex<BufWriter<File>>,
}

impl History {
    /// The file, which goes on where it is there already.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn open(path: &Path) -> EngineResult<History> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.map_err(|error| failed(path, &error))?;
        Ok(History { path: path.to_owned(), begin: Instant::now(), file: Mutex::new(BufWriter::new(file)) })
    }

    /// Notes an event. What cannot be written is missed by the reader of the file, who says so.
    pub(crate) fn note(&self, event: Event) {
        let at_ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let line = serde_json::to_string(&Line { at_ms, event }).unwrap_or_default();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writeln!(file, "{line}") {
            tracing::error!(%error, "the history is not written");
        }
    }

    /// Everything that was noted, read back from the file.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it is none of ours.
    pub(crate) fn read(&self) -> EngineResult<Vec<Line>> {
        let flushed = self.file.lock().unwrap_or_else(PoisonError::into_inner).flush();
        flushed.map_err(|error| failed(&self.path, &error))?;
        let text = std::fs::read_to_string(&self.path).map_err(|error| failed(&self.path, &error))?;
        parse(&text).map_err(|error| EngineError::Internal(format!("{}: {error}", self.path.display())))
    }
}

fn failed(path: &Path, error: &std::io::Error) -> EngineError {
    EngineError::Internal(format!("{}: {error}", path.display()))
}

/// The lines of a history.
///
/// # Errors
/// The number of the line that is none, and why.
pub(crate) fn parse(text: &str) -> Result<Vec<Line>, String> {
    let lines = text.lines().zip(1_usize..);
    lines
        .map(|(line, number)| serde_json::from_str(line).map_err(|error| format!("line {number}: {error}")))
        .collect()
}

/// A call of a tool, as the tool itself noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Called {
    /// It began; otherwise it ended.
    pub(crate) begin: bool,
    /// The effect.
    pub(crate) effect: Id,
    /// The tool.
    pub(crate) tool: String,
}

/// The lines that the tools wrote: `begin <effect> <tool>` and `end <effect> <tool>`.
///
/// # Errors
/// The line that is none.
pub(crate) fn parse_calls(text: &str) -> Result<Vec<Called>, String> {
    let one = |(line, number): (&str, usize)| {
        let mut words = line.split(' ');
        let begin = match words.next() {
            Some("begin") => Some(true),
            Some("end") => Some(false),
            _ => None,
        };
        let effect = words.next().and_then(|word| word.parse().ok());
        match (begin, effect, words.next()) {
            (Some(begin), Some(effect), Some(tool)) => Ok(Called { begin, effect, tool: tool.to_owned() }),
            _ => Err(format!("line {number}: '{line}' is not `begin|end <effect> <tool>`")),
        }
    };
    text.lines().zip(1_usize..).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::plan::{Instance, Processor};

    #[test]
    fn what_is_noted_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(&dir.path().join("history.jsonl")).unwrap();
        let id = Id::of_text("a");
        let instance = Instance { processor: Processor::ToolExec, slot: 2 };
        let events = [
            Event::Began { seed: 1, seconds: 240, commit: "c".to_owned() },
            Event::Sent { id, conversation: "c".to_owned(), kind: "user_text".to_owned() },
            Event::Acknowledged { id, partition: 3, offset: 9 },
            Event::Asked { id, book: "main".to_owned(), kind: "transfer".to_owned() },
            Event::Taken { id, partition: 1, offset: 7 },
            Event::Fault(Fault::Kill { instance, down_ms: 4 }),
            Event::Fault(Fault::Suspend { instance, ms: 5_000 }),
            Event::Seen { topic: "inbox".to_owned(), partition: 0, offset: 1, id: None },
        ];
        events.iter().for_each(|event| history.note(event.clone()));
        let read: Vec<Event> = history.read().unwrap().into_iter().map(|line| line.event).collect();
        assert_eq!(read, events);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let text = "{\"at_ms\":1,\"event\":\"note\",\"what\":\"x\"}\n{\"at_ms\":1,";
        let refused = parse(text).unwrap_err();
        assert!(refused.starts_with("line 2: "), "{refused}");
    }

    #[test]
    fn lines_of_tools_are_read_and_others_are_named() {
        let id = Id::of_text("effect");
        let calls = parse_calls(&format!("begin {id} dev_pay\nend {id} dev_pay\n")).unwrap();
        let expected = [true, false].map(|begin| Called { begin, effect: id, tool: "dev_pay".to_owned() });
        assert_eq!(calls, expected);
        assert!(parse_calls("begin me up").unwrap_err().contains("line 1"));
    }
}
