//! `conversation …`.

use std::time::Duration;

use p2_core::conversation::Conversation;
use p2_core::ids::{AgentId, BranchId, Id};
use p2_core::record::{
    BranchCommand, BranchOperation, ControlCommand, ControlOperation, HumanAnswer, InboxBody,
};
use p2_core::state::{Answer, AnswerKind, Entry, State, UserInputRequest, WaitKind};
use serde_json::json;
use unicode_width::UnicodeWidthStr;

use super::{Run, agent_or_root, data_of, object};
use crate::args::{AnswerArgs, ControlArgs, ConversationCommand, CutArgs, StackArgs};
use crate::engine::{EngineError, EngineResult};
use crate::views::labelled::count;
use crate::views::lineage::{counted, find_branch, lineage};
use crate::views::{branches, one_line, stack, table, time};

/// Runs one of them.
pub(crate) async fn run(run: &Run, command: ConversationCommand) -> EngineResult<()> {
    match command {
        ConversationCommand::List => list(run).await,
        ConversationCommand::Stack { stack, n, all } => show_stack(run, &stack, n, all).await,
        ConversationCommand::Branches { name, agent } => show_branches(run, &name, agent.as_deref()).await,
        ConversationCommand::Fork { cut, tree } => {
            cut_stack(run, cut, BranchOperation::Fork, tree, false).await
        }
        ConversationCommand::Rewind { cut, destructive } => {
            cut_stack(run, cut, BranchOperation::Rewind, false, destructive).await
        }
        ConversationCommand::Checkout { name, branch, agent } => checkout(run, &name, &branch, agent).await,
        ConversationCommand::Diff { name, left, right, agent } => {
            diff(run, &name, &left, &right, agent.as_deref()).await
        }
        ConversationCommand::Watch { name } => watch(run, &name).await,
        ConversationCommand::Answer { name, request, answer, by } => {
            let conversation = run.conversation(&name).await?;
            let request = find_request(&conversation, request.as_deref())?.id;
            let answer = answer_of(&answer)?;
            let outcome =
                run.submit(&name, InboxBody::HumanAnswer(HumanAnswer { request, answer, by })).await?;
            run.show(&data_of(&outcome)?, || format!("Answered {}", request.short()));
            Ok(())
        }
        ConversationCommand::Cancel(args) => control(run, args, ControlOperation::Cancel, "Cancelled").await,
        ConversationCommand::Pause(args) => control(run, args, ControlOperation::Pause, "Paused").await,
        ConversationCommand::Resume(args) => control(run, args, ControlOperation::Resume, "Resumed").await,
    }
}

async fn list(run: &Run) -> EngineResult<()> {
    let lines = run.engine.conversations().await?;
    run.show(&data_of(&lines)?, || {
        let rows = lines.iter().map(|line| {
            let (opened, changed) = (time(line.opened_ms), time(line.changed_ms));
            let open = line.open_waits.to_string();
            vec![line.id.to_string(), line.agent.clone(), opened, changed, line.transitions.to_string(), open]
        });
        let header = ["NAME", "AGENT", "OPENED (UTC)", "CHANGED (UTC)", "STEPS", "WAITS"];
        table::render(&header, rows.collect(), run.out.width)
    });
    Ok(())
}

async fn show_stack(run: &Run, args: &StackArgs, n: usize, all: bool) -> EngineResult<()> {
    let conversation = run.conversation(&args.name).await?;
    let agent = agent_or_root(&conversation, args.agent.as_deref())?;
    let Some(of_agent) = conversation.stacks.get(&agent) else { return Ok(()) };
    let branch = match &args.branch {
        None => of_agent.current.clone(),
        Some(wanted) => find_branch(of_agent, wanted).map_err(EngineError::NotFound)?.id.clone(),
    };
    let entries = lineage(&conversation, &agent, &branch);
    let newest = (n > 0).then_some(n);
    run.show(&stack::data(&entries, all), || {
        format!("{agent} on {branch}\n{}", stack::render(&entries, all, newest, run.out.width))
    });
    Ok(())
}

async fn show_branches(run: &Run, name: &str, agent: Option<&str>) -> EngineResult<()> {
    let conversation = run.conversation(name).await?;
    let agents: Vec<AgentId> = match agent {
        Some(agent) => vec![agent_or_root(&conversation, Some(agent))?],
        None => conversation.stacks.keys().cloned().collect(),
    };
    let data: Vec<_> = agents.iter().map(|agent| branches::data(&conversation, agent)).collect();
    let flat: serde_json::Value =
        data.iter().filter_map(serde_json::Value::as_array).flatten().cloned().collect();
    run.show(&flat, || {
        let trees: Vec<String> = agents.iter().map(|agent| branches::render(&conversation, agent)).collect();
        trees.join("\n")
    });
    Ok(())
}

async fn cut_stack(
    run: &Run,
    cut: CutArgs,
    operation: BranchOperation,
    tree: bool,
    destructive: bool,
) -> EngineResult<()> {
    let name = cut.stack.name.clone();
    let before = run.conversation(&name).await?;
    let agent = agent_or_root(&before, cut.stack.agent.as_deref())?;
    let from = cut.stack.branch.clone();
    let body = InboxBody::BranchCommand(BranchCommand {
        operation,
        agent: Some(agent.clone()),
        branch: cut.stack.branch,
        at: cut.index,
        name: cut.branch_name,
        tree,
        keep_wait: cut.keep_wait,
        destructive,
    });
    let outcome = run.submit(&name, body).await?;
    let stack = before.stacks.get(&agent);
    let current = stack.map(|stack| stack.current.clone()).unwrap_or_default();
    let from = match (stack, &from) {
        (Some(stack), Some(wanted)) => find_branch(stack, wanted).map_or(current.clone(), |it| it.id.clone()),
        _ => current.clone(),
    };
    let kept = count(counted(&lineage(&before, &agent, &from)).len(), "entry");
    run.show(&data_of(&outcome)?, || {
        let index = cut.index.map_or_else(|| "its newest entry".to_owned(), |index| format!("index {index}"));
        let made = outcome.reference.as_deref().unwrap_or("?");
        match (destructive, operation) {
            (true, _) => format!("Hid the entries after {index} on '{from}'; nothing was deleted"),
            (false, BranchOperation::Rewind) => format!(
                "Created branch {made} from {index} of '{from}', which keeps its {kept}\nNow on {made}"
            ),
            (false, _) => format!("Created branch {made} from {index} of '{from}'; still on '{current}'"),
        }
    });
    Ok(())
}

async fn checkout(run: &Run, name: &str, branch: &str, agent: Option<String>) -> EngineResult<()> {
    let conversation = run.conversation(name).await?;
    let agent = agent_or_root(&conversation, agent.as_deref())?;
    let body = InboxBody::BranchCommand(BranchCommand {
        operation: BranchOperation::Checkout,
        agent: Some(agent),
        branch: Some(branch.to_owned()),
        at: None,
        name: None,
        tree: false,
        keep_wait: false,
        destructive: false,
    });
    let outcome = run.submit(name, body).await?;
    run.show(&data_of(&outcome)?, || {
        format!("Checked out {}", outcome.reference.as_deref().unwrap_or(branch))
    });
    Ok(())
}

async fn diff(run: &Run, name: &str, left: &str, right: &str, agent: Option<&str>) -> EngineResult<()> {
    let conversation = run.conversation(name).await?;
    let agent = agent_or_root(&conversation, agent)?;
    let Some(of_agent) = conversation.stacks.get(&agent) else { return Ok(()) };
    let entries = |wanted: &str| {
        let branch = find_branch(of_agent, wanted).map_err(EngineError::NotFound)?;
        Ok::<_, EngineError>(lineage(&conversation, &agent, &branch.id))
    };
    let (a, b) = (entries(left)?, entries(right)?);
    let data = json!({"left": stack::data(&a, false), "right": stack::data(&b, false)});
    run.show(&data, || stack::diff((left, &a), (right, &b), usize::from(run.out.width)));
    Ok(())
}

async fn watch(run: &Run, name: &str) -> EngineResult<()> {
    let mut conversation = run.conversation(name).await?;
    let mut printed = std::collections::BTreeSet::new();
    loop {
        for (agent, branch, entry) in in_order(&conversation) {
            if !printed.insert(entry.id) {
                continue;
            }
            let data = json!({"agent": agent, "branch": branch, "entry": entry});
            run.show(&data, || watched(agent, branch, entry, run.out.width));
        }
        let wait = Duration::from_secs(60);
        if let Some(changed) = run.engine.wait_change(&conversation.id, conversation.next_seq, wait).await? {
            conversation = changed;
        }
    }
}

/// All entries by time; of one moment, whoever asks comes before those who are asked.
fn in_order(conversation: &Conversation) -> Vec<(&AgentId, &BranchId, &Entry)> {
    let mut found: Vec<(&AgentId, &BranchId, &Entry)> = Vec::new();
    for (agent, stack) in &conversation.stacks {
        for branch in stack.branches.values() {
            found.extend(branch.entries.iter().map(|entry| (agent, &branch.id, entry)));
        }
    }
    found.sort_by_key(|(agent, _, entry)| (entry.time_ms, **agent != conversation.root));
    found
}

/// One entry on one line.
fn watched(agent: &AgentId, branch: &BranchId, entry: &Entry, width: u16) -> String {
    let kind = entry.state.kind();
    let before = format!("{} {agent}/{branch} ", time(entry.time_ms));
    let room = usize::from(width).saturating_sub(before.width() + kind.width() + 2).max(20);
    let (style, text) = (stack::style_of(kind), one_line(&stack::content(&entry.state), room));
    format!("{before}{style}{kind}{style:#}: {text}")
}

/// Requests that are open, oldest first.
pub(crate) fn open_requests(conversation: &Conversation) -> Vec<&UserInputRequest> {
    let open = conversation.waits.values().filter(|wait| wait.waiting.kind == WaitKind::UserInput);
    let mut found: Vec<(i64, &UserInputRequest)> = open
        .filter_map(|wait| {
            let branch = conversation.stacks.get(&wait.agent)?.branches.get(&wait.branch)?;
            branch.entries.iter().find_map(|entry| match &entry.state {
                State::UserInputRequest(request)
                    if wait.waiting.correlation == request.id.to_string()
                        || wait.waiting.id == request.id =>
                {
                    Some((entry.time_ms, request))
                }
                _ => None,
            })
        })
        .collect();
    found.sort_by_key(|(time_ms, request)| (*time_ms, request.id));
    found.into_iter().map(|(_, request)| request).collect()
}

fn find_request<'a>(
    conversation: &'a Conversation,
    wanted: Option<&str>,
) -> EngineResult<&'a UserInputRequest> {
    let open = open_requests(conversation);
    let matches = |id: &Id| wanted.is_none_or(|wanted| id.to_string().starts_with(wanted));
    let fitting: Vec<&UserInputRequest> = open.into_iter().filter(|request| matches(&request.id)).collect();
    match fitting.as_slice() {
        [request] => Ok(request),
        [] => Err(EngineError::NotFound(format!("'{}' has no such open request", conversation.id))),
        several => {
            let ids: Vec<String> = several.iter().map(|request| request.id.short()).collect();
            let text = format!("several requests are open: {}; choose with --request", ids.join(", "));
            Err(EngineError::Invalid(text))
        }
    }
}

fn answer_of(args: &AnswerArgs) -> EngineResult<Answer> {
    let answer = |kind, text: &str| Answer { kind, text: text.to_owned(), arguments: None };
    if let Some(edited) = &args.edit {
        let arguments = Some(object("--edit", edited)?.into());
        return Ok(Answer { kind: AnswerKind::Edit, text: String::new(), arguments });
    }
    Ok(match (&args.deny, &args.text) {
        (Some(reason), _) => answer(AnswerKind::Deny, reason),
        (None, Some(text)) => answer(AnswerKind::Text, text),
        (None, None) => answer(AnswerKind::Approve, ""),
    })
}

async fn control(run: &Run, args: ControlArgs, operation: ControlOperation, done: &str) -> EngineResult<()> {
    let body = InboxBody::ControlCommand(ControlCommand { operation, reason: args.reason });
    let outcome = run.submit(&args.name, body).await?;
    run.show(&data_of(&outcome)?, || format!("{done} '{}'", args.name));
    Ok(())
}
