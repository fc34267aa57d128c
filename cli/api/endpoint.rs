//! `<data-dir>/api.json`: where the process that opened the data directory can be reached.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::{EngineError, EngineResult};

/// Where a running process can be reached.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    /// The process.
    pub pid: u32,
    /// What `Authorization: Bearer` must carry.
    pub token: String,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("url", &self.url).field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Reads the file; none where there is none.
pub(crate) fn read(path: &Path) -> EngineResult<Option<Endpoint>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(EngineError::Unavailable(format!("{}: {error}", path.display()))),
    };
    serde_json::from_str(&text).map(Some).map_err(|_| {
        EngineError::Unavailable(format!(
            "{}: not an endpoint file; if no p2engine process runs, remove it",
            path.display()
        ))
    })
}

/// Writes the file, readable by its owner only, and removes it when dropped if it is still this process's.
#[derive(Debug)]
pub(crate) struct Published {
    path: PathBuf,
    token: String,
}

/// Publishes an endpoint: written beside and renamed, so a reader never sees half of it.
pub(crate) fn publish(path: &Path, endpoint: &Endpoint) -> EngineResult<Published> {
    let beside = path.with_extension(format!("json.{}", endpoint.pid));
    let failed = |error: std::io::Error| EngineError::Internal(format!("{}: {error}", path.display()));
    let text = serde_json::to_string_pretty(endpoint).map_err(|error| failed(error.into()))?;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let _ = fs::remove_file(&beside);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)?;
    Ok(Published { path: path.to_owned(), token: endpoint.token.clone() })
}

impl Drop for Published {
    fn drop(&mut self) {
        let ours = fs::read_to_string(&self.path)
            .ok()
            .and_then(|text| serde_json::from_str::<Endpoint>(&text).ok())
            .is_some_and(|endpoint| endpoint.token == self.token);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}
