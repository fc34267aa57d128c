//! What an evaluation earned, as far as the ledger has answered.

use std::time::Duration;

use p2_core::conversation::Conversation;
use p2_core::eval::aggregate::Judged;
use p2_core::eval::{Place, reward};
use p2_core::ids::{BookId, Id};
use p2_core::ledger::{MAIN_BOOK, TREASURY, format_amount};
use p2_core::record::{Artifact, ArtifactBody, LedgerOutcome, Payment};
use p2_core::registry::Registry;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::{Run, data_of, ledger};
use crate::engine::{ArtifactFilter, BookView, EngineResult};
use crate::views::evaluation;

/// How long the ledger's answer is awaited.
const SETTLES: Duration = Duration::from_secs(3);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is said of a reward: for people, and as data.
struct Told {
    text: String,
    data: Value,
}

/// One evaluation with everything that is in it, and what it earned.
pub(super) async fn show(
    run: &Run,
    registry: &Registry,
    conversation: &Conversation,
    judged: &Judged<'_>,
) -> EngineResult<()> {
    let Some(told) = told(run, registry, conversation, judged).await? else {
        return super::show_one(run, judged).await;
    };
    let mut data = data_of(judged.artifact)?;
    if let Some(fields) = data.as_object_mut() {
        fields.insert("reward".to_owned(), told.data);
    }
    let mut indices = super::indices(run, &[judged.artifact]).await?;
    run.show(&data, || {
        let Judged { artifact, evaluation } = judged;
        let place = super::place(artifact, &mut indices);
        let shown = evaluation::render(artifact, evaluation, place, run.out.width);
        format!("{}\n{}", shown.trim_end(), told.text)
    });
    Ok(())
}

/// None where its evaluator does not pay for it.
async fn told(
    run: &Run,
    registry: &Registry,
    conversation: &Conversation,
    judged: &Judged<'_>,
) -> EngineResult<Option<Told>> {
    let Judged { artifact, evaluation } = judged;
    let Some(rewards) = reward::rewards(registry, &evaluation.evaluator, evaluation.version) else {
        return Ok(None);
    };
    let Some(place) = Place::of_artifact(artifact) else { return Ok(None) };
    let request = match reward::request(rewards, conversation.book.as_ref(), &place, artifact.id, evaluation)
    {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(None),
        Err(why) => {
            let data = json!({"outcome": "none", "message": why});
            return Ok(Some(Told { text: format!("no reward: {why}"), data }));
        }
    };
    let end = Instant::now() + SETTLES;
    loop {
        let filter = ArtifactFilter {
            conversation: Some(place.conversation.clone()),
            kind: Some("payment".to_owned()),
            ..ArtifactFilter::default()
        };
        let payments = run.engine.artifacts(&filter).await?;
        if let Some(payment) = payments.iter().rev().find_map(|payment| of_reward(payment, &artifact.id)) {
            return settled(run, payment, artifact.id).await.map(Some);
        }
        if Instant::now() >= end {
            let data = json!({"outcome": "asked", "request": request.id, "book": request.book});
            let book = which(&request.book);
            let text = format!(
                "reward asked for in book '{}', which has not answered yet: 'p2engine ledger{book} audit --type \
                 reward'",
                request.book
            );
            return Ok(Some(Told { text, data }));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn of_reward<'a>(payment: &'a Artifact, evaluation: &Id) -> Option<&'a Payment> {
    match &payment.body {
        ArtifactBody::Payment(body) if body.operation == "reward" && payment.parents.contains(evaluation) => {
            Some(body)
        }
        _ => None,
    }
}

async fn settled(run: &Run, payment: &Payment, evaluation: Id) -> EngineResult<Told> {
    let Payment { book, request, transaction, outcome, code, postings, .. } = payment;
    let view = run.engine.book(book).await?;
    let mut data = json!({
        "outcome": outcome, "code": code, "book": book, "request": request, "transaction": transaction,
    });
    let mut tell = |key: &str, value: Value| {
        if let Some(fields) = data.as_object_mut() {
            fields.insert(key.to_owned(), value);
        }
    };
    let at = which(book);
    let text = match outcome.as_str() {
        "committed" => {
            let (scale, unit) = view.as_ref().map_or((2, ""), |view| (view.scale, view.unit.as_str()));
            let paid = |posting: &p2_core::record::Posting| {
                let amount = format_amount(posting.amount, scale);
                (format!("reward {amount} {unit} to {}", posting.to), amount)
            };
            let paid = postings.first().map(|posting| (paid(posting), posting.to.clone()));
            if let Some(((_, amount), to)) = &paid {
                tell("amount", json!(amount));
                tell("unit", json!(unit));
                tell("to", json!(to));
            }
            paid.map_or_else(|| "reward paid".to_owned(), |((text, _), _)| text)
        }
        "pending" => format!("reward waits for a person: 'p2engine ledger{at} approve {request}'"),
        "rejected" => {
            let message = refusal(run, book, *transaction).await?;
            let mend = mend(code, &at, view.as_ref(), evaluation);
            tell("message", json!(message));
            tell("mend", json!(mend));
            format!("no reward ({code}): {}{mend}", message.trim_end_matches('.'))
        }
        other => format!("reward {other}: the ledger will say what became of it"),
    };
    Ok(Told { text, data })
}

/// What the ledger said.
async fn refusal(run: &Run, book: &BookId, transaction: Id) -> EngineResult<String> {
    let made = ledger::transaction(run, book, transaction).await?;
    Ok(match made.map(|made| made.outcome) {
        Some(LedgerOutcome::Rejected(why)) => why.message,
        _ => String::new(),
    })
}

/// How to come by the reward all the same.
fn mend(code: &str, at: &str, view: Option<&BookView>, evaluation: Id) -> String {
    let treasury =
        view.and_then(|view| view.policy.as_ref()).map_or(TREASURY, |policy| policy.treasury.as_str());
    let first = match code {
        "unknown_book" => format!("open the book with 'p2engine ledger{at} init'"),
        "unknown_account" => format!("open the wallet with 'p2engine ledger{at} open ACCOUNT --kind agent'"),
        "insufficient" => format!("put money into it with 'p2engine ledger{at} mint {treasury} AMOUNT'"),
        "frozen" => format!("thaw the account with 'p2engine ledger{at} freeze ACCOUNT --thaw'"),
        "over_limit" | "over_day_limit" => {
            format!("raise the limits with 'p2engine ledger{at} limits {treasury}'")
        }
        "overflow" | "expired" | "external" => "when that has passed".to_owned(),
        _ => return String::new(),
    };
    format!(". To pay it: {first}, then 'p2engine ledger{at} reward {evaluation}'")
}

/// Which book, as an argument.
fn which(book: &BookId) -> String {
    if book.as_str() == MAIN_BOOK { String::new() } else { format!(" --book {book}") }
}
