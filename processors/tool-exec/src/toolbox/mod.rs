//! The built-in tools.

mod league;
mod weather;

use std::collections::BTreeMap;

use async_trait::async_trait;
use p2_stream::ports::{Reconciled, ToolReply, ToolRequest, Toolbox};
use serde_json::Value;

/// A built-in tool: a function of its arguments.
pub type BuiltinTool = fn(&Value) -> ToolReply;

/// The built-in tools by name. They are pure, so each may be repeated.
#[derive(Clone, Debug)]
pub struct BuiltinToolbox {
    tools: BTreeMap<&'static str, BuiltinTool>,
}

impl Default for BuiltinToolbox {
    fn default() -> BuiltinToolbox {
        let mut toolbox = BuiltinToolbox { tools: BTreeMap::new() };
        toolbox.register("get_league_leader", league::get_league_leader);
        toolbox.register("get_weather", weather::get_weather);
        toolbox
    }
}

impl BuiltinToolbox {
    /// Adds a tool, or replaces the one of that name.
    pub fn register(&mut self, name: &'static str, tool: BuiltinTool) {
        self.tools.insert(name, tool);
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.tools.keys().copied()
    }

    /// Calls a tool.
    pub fn run(&self, tool: &str, arguments: &Value) -> ToolReply {
        match self.tools.get(tool) {
            Some(run) => run(arguments),
            None => {
                let names = self.names().collect::<Vec<_>>().join(", ");
                ToolReply::Failure(format!("There is no built-in tool '{tool}'; there are: {names}."))
            }
        }
    }
}

#[async_trait]
impl Toolbox for BuiltinToolbox {
    async fn call(&self, request: &ToolRequest) -> ToolReply {
        self.run(&request.tool, &request.arguments)
    }

    async fn reconcile(&self, _request: &ToolRequest) -> Reconciled {
        // Nothing here leaves a trace that could be looked up.
        Reconciled::Unknown
    }
}

/// A text argument.
fn text<'a>(arguments: &'a Value, name: &str) -> Result<&'a str, ToolReply> {
    match arguments.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(ToolReply::Failure(format!("Argument '{name}' must be a text, given: {other}."))),
        None => Err(ToolReply::Failure(format!("Argument '{name}' is missing."))),
    }
}

#[cfg(test)]
mod tests;
