//! D4: wallets, payments in a chat, a reward for a judged answer, the audit of it all, and what is refused.

use std::time::Duration;

use clap::Parser;
use p2_core::apply::{parse_file, records};
use p2_core::ids::{AgentId, BookId, ConversationId};
use p2_core::ledger::MAIN_BOOK;
use p2_core::record::{LedgerOutcome, PaymentBody};
use p2_core::state::State;
use serde_json::{Value, json};

use super::{AGENT, heading, narrate, say, show_current};
use crate::args::{Cli, Command};
use crate::commands::{Run, data_of, eval, ledger};
use crate::engine::{BookView, EngineError, EngineResult};

/// What is said: a payment; then work for another agent and its pay in one message.
const PAYMENTS: [&str; 2] = [
    "Transfer 25 to agent_beta for helping with analysis",
    "Ask agent_helper for the weather in Paris, then pay him 10 tokens",
];
/// What is refused: too much, less than nothing, nothing, nobody.
const REFUSED: [&str; 4] = [
    "Transfer 5000 to agent_beta",
    "Transfer -50 to agent_beta",
    "Transfer 0 to agent_beta",
    "Transfer 5 to agent_nobody",
];
/// An evaluator whose judgement is paid for. It judges on demand, so it costs nothing after the demo.
const EVALUATOR: &str = "
kind: evaluator
id: demo_paid
type: expression
score: tools_failed == 0 and failure is none
rewards: {}
";
/// The payer begins with so much at least, whole units; what is missing comes from the treasury.
const PURSE: i64 = 50;
/// Longest wait for the reward.
const REWARD_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Plays it.
pub(super) async fn play(run: &Run, name: &str) -> EngineResult<Value> {
    heading(run, "D4  Agents are paid, and every movement says why");
    let begin = book(run).await?.map_or(0, |view| view.transactions);
    command(run, &["ledger", "init"]).await?;
    let view = opened(run).await?;
    let least = (0..view.scale).fold(PURSE, |minor, _| minor.saturating_mul(10));
    if view.account(AGENT).is_some_and(|line| line.available < least) {
        command(run, &["ledger", "transfer", "treasury", AGENT, "100", "--reason", "for the demo"]).await?;
    }
    for text in PAYMENTS {
        say(run, name, text).await?;
    }
    show_current(run, name).await?;
    rewarded(run, name).await?;
    command(run, &["ledger", "balance", AGENT]).await?;
    command(run, &["ledger", "history", AGENT, "--limit", "3"]).await?;
    let moved = ledger::transactions_from(run, begin).await?;
    let shown = moved.iter().filter(|made| made.request.cause.conversation.is_some()).count();
    command(run, &["ledger", "audit", "--limit", &shown.to_string()]).await?;
    let mut refused = Vec::new();
    narrate(run, "\nWhat is refused, as the agent tells it:");
    for text in REFUSED {
        let answer = refusal(run, name, text).await?;
        narrate(run, &format!("  {text}\n    {answer}"));
        refused.push(json!({"said": text, "answer": answer}));
    }
    command(run, &["ledger", "verify"]).await?;
    let report = run.engine.verify_ledger().await?;
    if !report.differences.is_empty() {
        let found = report.differences.join("; ");
        return Err(EngineError::Internal(format!("the ledger's fold differs: {found}")));
    }
    let view = opened(run).await?;
    let sum: i64 = view.accounts.iter().map(|line| line.balance.posted).sum();
    Ok(json!({
        "conversation": name,
        "accounts": data_of(&view.accounts)?,
        "sum": sum,
        "audit": ledger::audit_from(run, begin).await?,
        "refused": refused,
        "verified": data_of(&report)?,
    }))
}

/// Runs a command as it is typed; with `--json` without its output.
async fn command(run: &Run, words: &[&str]) -> EngineResult<()> {
    let typed: Vec<String> = words
        .iter()
        .map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() })
        .collect();
    narrate(run, &format!("\n$ p2engine {}", typed.join(" ")));
    let parsed = Cli::try_parse_from(std::iter::once("p2engine").chain(words.iter().copied()));
    let parsed = parsed.map_err(|error| EngineError::Internal(error.to_string()))?;
    let mut out = run.out;
    out.silent = out.json;
    let quiet = Run { engine: run.engine.clone(), out };
    match parsed.command {
        Command::Ledger(args) => ledger::run(&quiet, args).await,
        Command::Eval(args) => eval::run(&quiet, args).await,
        _ => Err(EngineError::Internal(format!("the demo has no command {}", typed.join(" ")))),
    }
}

async fn book(run: &Run) -> EngineResult<Option<BookView>> {
    run.engine.book(&BookId::from(MAIN_BOOK)).await
}

async fn opened(run: &Run) -> EngineResult<BookView> {
    book(run).await?.ok_or_else(|| EngineError::NotFound(format!("there is no book '{MAIN_BOOK}'")))
}

/// Has the newest answer judged by an evaluator with rewards, and waits until the ledger has answered.
async fn rewarded(run: &Run, name: &str) -> EngineResult<()> {
    let definitions =
        parse_file(EVALUATOR, "demo").map_err(|error| EngineError::Internal(error.to_string()))?;
    let changes = records(&definitions, &run.engine.registry().await?);
    if !changes.is_empty() {
        run.engine.apply(changes).await?;
    }
    narrate(run, &format!("\nAn evaluator whose judgements are paid for:\n{}", EVALUATOR.trim()));
    let begin = opened(run).await?.transactions;
    command(run, &["eval", "run", name, "--evaluator", "demo_paid"]).await?;
    let end = tokio::time::Instant::now() + REWARD_TIMEOUT;
    let conversation = ConversationId::from(name);
    loop {
        for made in ledger::transactions_from(run, begin).await? {
            let here = made.request.cause.conversation.as_ref() == Some(&conversation);
            match (&made.request.body, &made.outcome) {
                (PaymentBody::Reward(_), LedgerOutcome::Rejected(why)) if here => {
                    return Err(EngineError::Refused {
                        code: why.code.clone(),
                        message: why.message.clone(),
                    });
                }
                (PaymentBody::Reward(reward), _) if here => {
                    let payee = &reward.payee;
                    narrate(run, &format!("\n{payee} scored {} and is paid by the treasury.", reward.score));
                    return Ok(());
                }
                _ => {}
            }
        }
        if tokio::time::Instant::now() >= end {
            let seconds = REWARD_TIMEOUT.as_secs();
            return Err(EngineError::Timeout(format!("no reward was paid within {seconds} s")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the agent answers.
async fn refusal(run: &Run, name: &str, text: &str) -> EngineResult<String> {
    let conversation = say(run, name, text).await?;
    let agent = AgentId::from(AGENT);
    let branch = conversation.current(&agent);
    let newest = conversation.newest(&agent, &branch).find_map(|entry| match &entry.state {
        State::AssistantMessage(message) if !message.text.is_empty() => Some(message.text.clone()),
        _ => None,
    });
    Ok(newest.unwrap_or_default())
}
