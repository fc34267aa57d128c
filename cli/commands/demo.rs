//! `demo`: delegation, branches and the ledger, played on the scripted model and shown.

mod ledger;

use std::time::Duration;

use p2_core::conversation::Conversation;
use p2_core::ids::{AgentId, ConversationId};
use p2_core::record::{BranchCommand, BranchOperation, InboxBody, UserText};
use serde_json::{Value, json};

use super::{Run, data_of};
use crate::engine::{EngineError, EngineResult, draw_id};
use crate::views::labelled::count;
use crate::views::lineage::{counted, lineage};
use crate::views::{branches, stack};

/// Longest wait for one answer of the scripted model.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const AGENT: &str = "agent_alpha";

/// What is said in D1: one child twice and another once, all side by side, tools inside the children, and work of
/// its own that the parent goes on with after the answers.
const DELEGATION: [&str; 3] = [
    "hey",
    "Ask agent_helper for the weather in Tokyo and in Paris, and child who leads Ligue 1, then look up the weather \
     in San Francisco yourself and sum up",
    "thanks",
];
/// What is said in D2: seven questions and answers are 14 entries.
const BRANCHES: [&str; 7] = [
    "What is pi?",
    "How many digits of it are known?",
    "Who named it?",
    "What is Euler's number?",
    "Who found it?",
    "Is it irrational?",
    "thanks",
];

/// Plays all, then verifies.
pub(crate) async fn run(run: &Run) -> EngineResult<()> {
    let mark = draw_id().short();
    let delegation = delegation(run, &format!("demo-delegation-{mark}")).await?;
    let branches = branch_story(run, &format!("demo-branches-{mark}")).await?;
    let ledger = ledger::play(run, &format!("demo-ledger-{mark}")).await?;
    let report = run.engine.verify_replay().await?;
    let counts = run.engine.topic_counts().await?;
    if run.out.json {
        let topics: Vec<Value> =
            counts.iter().map(|count| json!({"topic": count.topic, "records": count.records()})).collect();
        run.out.data(&json!({
            "delegation": delegation, "branches": branches, "ledger": ledger, "topics": topics,
            "verified": data_of(&report)?,
        }));
    } else {
        heading(run, "Verified");
        for count in &counts {
            run.out.line(&format!("{:>8} records in {}", count.records(), count.topic));
        }
        run.out.line(&format!(
            "{} of {} replayed: {} from the live view",
            count(report.transitions, "transition"),
            count(report.conversations, "conversation"),
            count(report.differences.len(), "difference")
        ));
    }
    if report.differences.is_empty() {
        return Ok(());
    }
    Err(EngineError::Internal(format!("the replay differs: {}", report.differences.join("; "))))
}

fn heading(run: &Run, text: &str) {
    if !run.out.json {
        let bold = anstyle::Style::new().bold();
        run.out.line(&format!("\n{bold}{text}{bold:#}"));
    }
}

async fn delegation(run: &Run, name: &str) -> EngineResult<Value> {
    heading(run, "D1  An agent asks other agents");
    let mut conversation = None;
    for text in DELEGATION {
        conversation = Some(say(run, name, text).await?);
    }
    let conversation = conversation.unwrap_or_default();
    let mut data = serde_json::Map::new();
    for (agent, of_agent) in &conversation.stacks {
        for branch in of_agent.branches.keys() {
            let entries = lineage(&conversation, agent, branch);
            data.insert(format!("{agent}/{branch}"), stack::data(&entries, false));
            if !run.out.json {
                run.out.line(&format!("\n{agent} on {branch}"));
                run.out.line(&stack::render(&entries, false, None, run.out.width));
            }
        }
    }
    Ok(json!({"conversation": name, "stacks": data}))
}

async fn branch_story(run: &Run, name: &str) -> EngineResult<Value> {
    heading(run, "D2  A conversation goes back and takes another way");
    for text in BRANCHES {
        say(run, name, text).await?;
    }
    show_current(run, name).await?;
    let rewound = branch(run, name, BranchOperation::Rewind, None, Some(4), None).await?;
    narrate(run, &format!("\nRewound to index 4: now on {rewound}, main keeps its entries"));
    say(run, name, "What were we talking about here?").await?;
    show_current(run, name).await?;
    branch(run, name, BranchOperation::Checkout, Some("main"), None, None).await?;
    narrate(run, "\nChecked out main");
    let forked = branch(run, name, BranchOperation::Fork, None, Some(7), Some("after-euler")).await?;
    narrate(run, &format!("Forked main at index 7 as \"after-euler\" ({forked})\n"));
    let conversation = run.conversation(name).await?;
    let agent = AgentId::from(AGENT);
    narrate(run, &branches::render(&conversation, &agent));
    Ok(json!({"conversation": name, "branches": branches::data(&conversation, &agent)}))
}

fn narrate(run: &Run, text: &str) {
    if !run.out.json {
        run.out.line(text);
    }
}

/// The stack of the branch that is checked out.
async fn show_current(run: &Run, name: &str) -> EngineResult<()> {
    let conversation = run.conversation(name).await?;
    let agent = AgentId::from(AGENT);
    let Some(of_agent) = conversation.stacks.get(&agent) else { return Ok(()) };
    let entries = lineage(&conversation, &agent, &of_agent.current);
    let length = counted(&entries).len();
    narrate(run, &format!("\n{agent} on {}: {}", of_agent.current, count(length, "entry")));
    narrate(run, &stack::render(&entries, false, None, run.out.width));
    Ok(())
}

async fn branch(
    run: &Run,
    name: &str,
    operation: BranchOperation,
    branch: Option<&str>,
    at: Option<i64>,
    as_name: Option<&str>,
) -> EngineResult<String> {
    let body = InboxBody::BranchCommand(BranchCommand {
        operation,
        agent: None,
        branch: branch.map(str::to_owned),
        at,
        name: as_name.map(str::to_owned),
        tree: false,
        keep_wait: false,
        destructive: false,
    });
    let outcome = run.submit(name, body).await?;
    Ok(outcome.reference.unwrap_or_default())
}

/// Says something and waits until nothing is awaited any more.
async fn say(run: &Run, name: &str, text: &str) -> EngineResult<Conversation> {
    let body = UserText { agent: Some(AgentId::from(AGENT)), branch: None, text: text.to_owned() };
    run.submit(name, InboxBody::UserText(body)).await?;
    let id = ConversationId::from(name);
    let end = tokio::time::Instant::now() + ANSWER_TIMEOUT;
    let mut conversation = run.conversation(name).await?;
    while !conversation.waits.is_empty() {
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() {
            let seconds = ANSWER_TIMEOUT.as_secs();
            return Err(EngineError::Timeout(format!("'{text}' was not answered within {seconds} s")));
        }
        let changed = run.engine.wait_change(&id, conversation.next_seq, left).await?;
        conversation = changed.unwrap_or(conversation);
    }
    Ok(conversation)
}
