//! Tools for tests of crashes: slow ones that write down when they begin and end.
//!
//! With `P2_DEV_TOOLS=<file>` every tool whose id begins with `dev_` is carried out here. It appends
//! `begin <effect> <tool>` to the file, waits for the argument `ms`, appends `end <effect> <tool>` and answers
//! with its arguments; with `fail` it says no instead. Whether it may be repeated is up to its definition.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use p2_stream::ports::{Reconciled, ToolReply, ToolRequest, Toolbox};
use serde_json::Value;
use tool_exec::toolbox::BuiltinToolbox;

/// The variable that names the file.
const VARIABLE: &str = "P2_DEV_TOOLS";
/// What their ids begin with.
const PREFIX: &str = "dev_";

/// The tools of this process.
pub(super) fn toolbox() -> Arc<dyn Toolbox> {
    let others = BuiltinToolbox::default();
    match std::env::var_os(VARIABLE) {
        Some(file) => Arc::new(DevToolbox { file: file.into(), others }),
        None => Arc::new(others),
    }
}

struct DevToolbox {
    file: PathBuf,
    others: BuiltinToolbox,
}

fn note(file: &Path, what: &str, request: &ToolRequest) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    // One write: lines of calls that run side by side do not mix.
    file.write_all(format!("{what} {} {}\n", request.key, request.tool).as_bytes())
}

#[async_trait]
impl Toolbox for DevToolbox {
    async fn call(&self, request: &ToolRequest) -> ToolReply {
        if !request.tool.starts_with(PREFIX) {
            return self.others.call(request).await;
        }
        if let Err(error) = note(&self.file, "begin", request) {
            return ToolReply::Failure(format!("{VARIABLE}: {error}"));
        }
        let ms = request.arguments.get("ms").and_then(Value::as_u64).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(ms)).await;
        if let Err(error) = note(&self.file, "end", request) {
            return ToolReply::Unknown(format!("{VARIABLE}: {error}"));
        }
        match request.arguments.get("fail") {
            Some(Value::Bool(true)) => ToolReply::Failure("it was told to fail".to_owned()),
            _ => ToolReply::Success(request.arguments.clone()),
        }
    }

    async fn reconcile(&self, request: &ToolRequest) -> Reconciled {
        self.others.reconcile(request).await
    }
}
