//! The `format` file: lines of `name value`, written once when a directory is made.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use p2_core::ids::Id;
use p2_core::record::Topic;

use crate::disk::Disk;
use crate::{OpenError, Options};

/// The version of the directory's layout that this code writes, and the newest one that it reads.
const LAYOUT_VERSION: u32 = 2;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) log_id: String,
    pub(crate) partitions: BTreeMap<Topic, i32>,
}

impl Format {
    /// What makes the frames of this journal unlike any other bytes.
    pub(crate) fn salt(&self) -> u64 {
        let id = Id::of_text(&self.log_id);
        id.as_bytes().iter().take(8).fold(0, |salt, byte| salt << 8 | u64::from(*byte))
    }
}

/// Reads the file and compares it with the options; `None` where there is none.
pub(crate) fn read(path: &Path, options: Option<&Options>) -> Result<Option<Format>, OpenError> {
    let bad = |what: String| OpenError::Format { path: path.to_owned(), what };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(OpenError::Io { path: path.to_owned(), source }),
    };
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let version =
        lines.next().filter(|(name, _)| *name == "p2engine-data").map(|(_, version)| version.parse::<u32>());
    let Some(Ok(version)) = version else {
        return Err(bad("this is not a data directory of p2engine: choose another one".to_owned()));
    };
    if version > LAYOUT_VERSION {
        return Err(bad(format!(
            "format {version} is newer than {LAYOUT_VERSION}, the newest that this program reads: use the newer program"
        )));
    }
    if version < LAYOUT_VERSION {
        return Err(bad(format!(
            "format {version} is of a version that was never released and is not read any more: use a new data \
             directory"
        )));
    }
    let mut format = Format { log_id: String::new(), partitions: BTreeMap::new() };
    for (name, value) in lines {
        if name == "log-id" {
            value.clone_into(&mut format.log_id);
        } else if let Some(topic) = name.strip_prefix("partitions.").and_then(Topic::parse) {
            let count =
                value.parse().map_err(|_| bad(format!("'{name} {value}' is not a number of partitions")))?;
            format.partitions.insert(topic, count);
        } else {
            return Err(bad(format!("'{name}' is not known: restore the file from a copy of the directory")));
        }
    }
    if format.log_id.is_empty() {
        return Err(bad("it has no log-id: restore the file from a copy of the directory".to_owned()));
    }
    for (topic, count) in options.iter().flat_map(|options| &options.partitions) {
        // A topic that was added later has no records yet and takes the number asked for.
        let found = *format.partitions.entry(*topic).or_insert(*count);
        if found != *count {
            return Err(bad(format!(
                "{} has {found} partitions here and {count} in the options: the number is fixed when the directory \
                 is made, so ask for {found}",
                topic.name()
            )));
        }
    }
    Ok(Some(format))
}

/// Writes the file of a new directory: whole, or not at all.
pub(crate) fn create(disk: &Disk, dir: &Path, options: &Options) -> io::Result<Format> {
    if let Some((topic, count)) = options.partitions.iter().find(|(_, count)| **count < 1) {
        return Err(io::Error::other(format!("{} cannot have {count} partitions: at least 1", topic.name())));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = format!("{}/{}/{}", now.as_nanos(), std::process::id(), dir.display());
    let format = Format { log_id: Id::of_text(&seed).to_string(), partitions: options.partitions.clone() };
    let mut text = format!("p2engine-data {LAYOUT_VERSION}\nlog-id {}\n", format.log_id);
    for (topic, count) in &format.partitions {
        text.push_str(&format!("partitions.{} {count}\n", topic.short()));
    }
    let draft = dir.join("format.new");
    let file = disk.create(&draft)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.sync_all()?;
    disk.rename(&draft, &dir.join("format"))?;
    disk.sync_directory(dir)?;
    Ok(format)
}
