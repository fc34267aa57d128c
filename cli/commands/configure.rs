//! `config …`: settings, and overrides of one conversation.

use p2_core::definition::Definition;
use p2_core::ids::{AgentId, BookId};
use p2_core::record::{InboxBody, OverrideCommand, Overrides};
use serde_json::{Value, json};

use super::{Run, data_of};
use crate::args::{ConfigCommand, OverrideArgs};
use crate::config::Config;
use crate::engine::{EngineError, EngineResult};
use crate::output::Output;
use crate::views::table;

/// `config show`; needs no engine.
pub(crate) fn show(config: &Config, out: Output) {
    let rows = config.rows();
    if out.json {
        let row = |(key, value, source): &(&str, String, String)| {
            ((*key).to_owned(), json!({"value": value, "source": source}))
        };
        out.data(&Value::Object(rows.iter().map(row).collect()));
        return;
    }
    let rows = rows.into_iter().map(|(key, value, source)| vec![key.to_owned(), value, source]).collect();
    out.line(&table::render(&["KEY", "VALUE", "SOURCE"], rows, out.width));
}

/// The others.
pub(crate) async fn run(run: &Run, command: ConfigCommand) -> EngineResult<()> {
    match command {
        ConfigCommand::Show => Ok(()),
        ConfigCommand::SetBehavior { target, persona } => {
            let behavior = if persona == "none" { String::new() } else { persona };
            set(run, target, Overrides { behavior: Some(behavior), ..Overrides::default() }, false).await
        }
        ConfigCommand::SetTools { target, tools } => {
            let listed = tools.split(',').map(str::trim).filter(|tool| !tool.is_empty() && *tool != "none");
            let tools: Vec<String> = listed.map(str::to_owned).collect();
            let registry = run.engine.registry().await?;
            if let Some(unknown) = tools.iter().find(|tool| registry.tool(tool, None).is_none()) {
                let text = format!("there is no tool '{unknown}'; see 'p2engine config show-tools'");
                return Err(EngineError::NotFound(text));
            }
            set(run, target, Overrides { tools: Some(tools), ..Overrides::default() }, false).await
        }
        ConfigCommand::SetBudget { target, account } => {
            set(run, target, Overrides { budget: Some(account), ..Overrides::default() }, false).await
        }
        ConfigCommand::SetBook { name, book } => set_book(run, &name, &book).await,
        ConfigCommand::SetModel { target, model, temperature, top_p, max_tokens } => {
            let overrides = Overrides { model, temperature, top_p, max_tokens, ..Overrides::default() };
            if overrides == Overrides::default() && !target.lock && !target.unlock {
                let text = "nothing to set: give --model, --temperature, --top-p or --max-tokens";
                return Err(EngineError::Invalid(text.to_owned()));
            }
            set(run, target, overrides, false).await
        }
        ConfigCommand::ClearOverrides { target } => set(run, target, Overrides::default(), true).await,
        ConfigCommand::ShowOverrides { name } => show_overrides(run, &name).await,
        ConfigCommand::ShowTools => show_tools(run).await,
    }
}

async fn set(run: &Run, target: OverrideArgs, set: Overrides, clear: bool) -> EngineResult<()> {
    let OverrideArgs { name, agent, lock, unlock } = target;
    let agent = agent.map(AgentId);
    let body = InboxBody::OverrideCommand(OverrideCommand { agent, set, clear, lock, unlock, book: None });
    let outcome = run.submit(&name, body).await?;
    run.show(&data_of(&outcome)?, || {
        let suffix = if lock { ", locked" } else { "" };
        format!("Overrides of '{name}' changed{suffix}")
    });
    Ok(())
}

async fn set_book(run: &Run, name: &str, book: &str) -> EngineResult<()> {
    let book = if book == "none" { BookId::default() } else { BookId::from(book) };
    if !book.as_str().is_empty() && run.engine.book(&book).await?.is_none() {
        let text = format!(
            "there is no book '{book}': make it with 'p2engine ledger copy {book}', or 'p2engine ledger --book {book} init'"
        );
        return Err(EngineError::NotFound(text));
    }
    let command = OverrideCommand {
        agent: None,
        set: Overrides::default(),
        clear: false,
        lock: false,
        unlock: false,
        book: Some(book.clone()),
    };
    let outcome = run.submit(name, InboxBody::OverrideCommand(command)).await?;
    run.show(&data_of(&outcome)?, || match book.as_str() {
        "" => format!("The money of '{name}' is where its definitions say"),
        book => format!("The money of '{name}' is in book '{book}' now"),
    });
    Ok(())
}

async fn show_overrides(run: &Run, name: &str) -> EngineResult<()> {
    let conversation = run.conversation(name).await?;
    let rows: Vec<Value> = conversation
        .overrides
        .iter()
        .map(|(agent, (set, locked))| json!({"agent": agent, "locked": locked, "overrides": set}))
        .collect();
    run.show(&json!({"book": conversation.book, "agents": rows}), || {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let rows = conversation.overrides.iter().map(|(agent, (set, locked))| {
            vec![
                agent.to_string(),
                or_dash(set.model.clone()),
                or_dash(set.temperature.map(|value| value.to_string())),
                or_dash(set.top_p.map(|value| value.to_string())),
                or_dash(set.max_tokens.map(|value| value.to_string())),
                or_dash(set.tools.as_ref().map(|tools| tools.join(","))),
                or_dash(set.behavior.clone()),
                or_dash(set.budget.clone()),
                if *locked { "yes" } else { "no" }.to_owned(),
            ]
        });
        let header =
            ["AGENT", "MODEL", "TEMPERATURE", "TOP_P", "MAX_TOKENS", "TOOLS", "BEHAVIOR", "BUDGET", "LOCKED"];
        let mut shown = table::render(&header, rows.collect(), run.out.width);
        if let Some(book) = &conversation.book {
            shown.push_str(&format!("\nThe money of all agents is in book '{book}'"));
        }
        shown
    });
    Ok(())
}

async fn show_tools(run: &Run) -> EngineResult<()> {
    let registry = run.engine.registry().await?;
    let tools: Vec<_> = registry
        .list("tool")
        .filter_map(|(version, definition)| match definition {
            Definition::Tool(tool) => Some((version, tool)),
            _ => None,
        })
        .collect();
    let data: Vec<Value> =
        tools.iter().map(|(version, tool)| json!({"version": version, "tool": tool})).collect();
    run.show(&Value::Array(data), || {
        let rows = tools
            .iter()
            .map(|(version, tool)| vec![tool.id.clone(), version.to_string(), tool.description.clone()]);
        table::render(&["TOOL", "VERSION", "DESCRIPTION"], rows.collect(), run.out.width)
    });
    Ok(())
}
