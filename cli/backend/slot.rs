//! Slots: the names under which the processes of one machine work on Kafka.
//!
//! A process that comes back under the name of the one before it ends at once what that one left open, so a name
//! has to be stable, and no two processes may have the same. Where none is configured, a process takes the first
//! of `<host>-<data directory's id>-0`, `-1`, … that no living process of this data directory holds. Who runs some of
//! the processors only counts apart from the others (`…-agent-step-0`): processes of different kinds that start again
//! together do not take each other's slots.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::engine::{EngineError, EngineResult};

/// Most processes of one data directory.
const SLOTS_MAX: usize = 256;

/// A slot that is this process's as long as the value lives.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Its name.
    pub name: String,
    _lock: File,
}

/// Takes the slot of that name, or the first that is free of those of `kind`: the processors that run here, joined by
/// `_`; empty for all of them.
///
/// # Errors
/// Where the named one is taken by a process on this machine, or the directory cannot be written.
pub(crate) fn take(data_dir: &Path, name: Option<&str>, kind: &str) -> EngineResult<Slot> {
    let dir = data_dir.join("slots");
    let failed =
        |path: &Path, error: std::io::Error| EngineError::Unavailable(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(&dir).map_err(|error| failed(&dir, error))?;
    let try_take = |name: &str| -> EngineResult<Option<Slot>> {
        let path = dir.join(format!("{name}.lock"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| failed(&path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Slot { name: name.to_owned(), _lock: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(&path, error)),
        }
    };
    if let Some(name) = name {
        return try_take(name)?.ok_or_else(|| {
            EngineError::Unavailable(format!(
                "slot '{name}' is taken by another process of this data directory: end it, or choose another \
                 --slot (kafka.slot, P2_KAFKA_SLOT)"
            ))
        });
    }
    let id = id_of(&dir).map_err(|error| failed(&dir, error))?;
    let kind = if kind.is_empty() { String::new() } else { format!("{kind}-") };
    for number in 0..SLOTS_MAX {
        if let Some(slot) = try_take(&format!("{}-{id}-{kind}{number}", host()))? {
            return Ok(slot);
        }
    }
    Err(EngineError::Unavailable(format!("all {SLOTS_MAX} slots of this data directory are taken")))
}

/// Drawn once for a data directory.
fn id_of(dir: &Path) -> std::io::Result<String> {
    let path = dir.join("id");
    if !path.exists() {
        // Whole at once, and the first one wins.
        let fresh = hex::encode(rand::random::<[u8; 4]>());
        let beside = dir.join(format!("id.{fresh}"));
        std::fs::write(&beside, &fresh)?;
        let linked = std::fs::hard_link(&beside, &path);
        std::fs::remove_file(&beside)?;
        linked.or_else(|error| if path.exists() { Ok(()) } else { Err(error) })?;
    }
    std::fs::read_to_string(&path)
}

/// The host's name, as far as a slot may have it.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    let plain = name.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let name: String = plain.take(40).collect();
    if name.is_empty() { "host".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_one_directory_get_different_slots_and_a_free_one_is_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), None, "").unwrap();
        let second = take(dir.path(), None, "").unwrap();
        assert!(first.name.ends_with("-0") && second.name.ends_with("-1"), "{} {}", first.name, second.name);
        let name = first.name.clone();
        drop(first);
        assert_eq!(take(dir.path(), None, "").unwrap().name, name);
    }

    #[test]
    fn processes_of_different_kinds_do_not_take_each_others_slots() {
        let dir = tempfile::tempdir().unwrap();
        let agent = take(dir.path(), None, "agent-step").unwrap();
        let tools = take(dir.path(), None, "tool-exec").unwrap();
        let names = [agent.name.clone(), tools.name.clone()];
        assert!(names[0].ends_with("-agent-step-0") && names[1].ends_with("-tool-exec-0"), "{names:?}");
        let three = take(dir.path(), None, "agent-step_evaluator_settlement").unwrap().name;
        let brokers = "127.0.0.1:9092".to_owned();
        let config = p2_kafka::KafkaConfig { slot: three, brokers, ..p2_kafka::KafkaConfig::default() };
        config.check().unwrap();
        drop((agent, tools));
        // All were killed, and start again in another order.
        let tools = take(dir.path(), None, "tool-exec").unwrap();
        let agent = take(dir.path(), None, "agent-step").unwrap();
        assert_eq!([agent.name.clone(), tools.name.clone()], names);
    }

    #[test]
    fn a_named_slot_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let held = take(dir.path(), Some("east-1"), "").unwrap();
        let error = take(dir.path(), Some("east-1"), "").unwrap_err().to_string();
        assert!(error.starts_with("slot 'east-1' is taken"), "{error}");
        drop(held);
        take(dir.path(), Some("east-1"), "").unwrap();
    }
}
