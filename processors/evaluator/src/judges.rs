//! Asking models to judge: several judges, several samples of each, replies that have to be repaired, and a cap on
//! what it may cost.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use p2_core::definition::{LlmJudge, Price};
use p2_core::eval::combine::{Panelist, combine};
use p2_core::eval::reply::{self, Judgement};
use p2_core::eval::{money, prompt};
use p2_core::model::{ChatMessage, ModelErrorClass, ModelRequest};
use p2_core::record::{Evaluation, EvaluationError};
use p2_core::registry::Registry;
use p2_stream::ports::Model;

use crate::port::Clock;

/// How often a judge may mend a reply.
const REPAIRS_MAX: usize = 3;
/// Calls of one evaluation at a time.
const CALLS_AT_ONCE: usize = 8;
/// Longest message of an error, characters.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// An error, its message cut to what a record should hold.
pub(crate) fn error(code: &str, message: &str) -> EvaluationError {
    let message = message.chars().take(MESSAGE_CHARS_MAX).collect();
    EvaluationError { code: code.to_owned(), message }
}

/// What judging took so far.
#[derive(Debug, Default)]
struct Tally {
    calls: i32,
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    /// 10^-18 dollars.
    spent: u128,
    /// Of calls under way, 10^-18 dollars.
    reserved: u128,
    /// A call was made whose cost nobody knows.
    unknown: bool,
}

/// One evaluation by models.
pub(crate) struct Asking<'a> {
    pub(crate) model: &'a dyn Model,
    pub(crate) clock: &'a Clock,
    pub(crate) registry: &'a Registry,
    pub(crate) judge: &'a LlmJudge,
    pub(crate) deadline_ms: i64,
}

impl Asking<'_> {
    /// Asks every judge of the panel (`requests` has one request for each) and fills in the result, or the error.
    pub(crate) async fn judge(&self, requests: &[ModelRequest], into: &mut Evaluation) {
        let tally = Mutex::new(Tally::default());
        let cap = self.judge.cost_cap_usd.as_deref().and_then(money::parse);
        if let Some(missing) = requests.iter().find(|request| self.registry.price(&request.model).is_none())
            && cap.is_some()
        {
            let model = &missing.model;
            let message = format!(
                "'cost_cap_usd' is set, but the price of {model} is not known: apply a definition of kind price for it"
            );
            into.error = Some(error("no_price", &message));
            return;
        }
        let samples = usize::try_from(self.judge.samples).unwrap_or(1).max(1);
        // Boxed: the compiler cannot tell otherwise that what borrows from `requests` may move between threads.
        let mut asked: Vec<BoxFuture<'_, (usize, Result<Judgement, EvaluationError>)>> = Vec::new();
        for (at, request) in requests.iter().enumerate() {
            for _ in 0..samples {
                let sample = self.sample(request, &tally, cap);
                asked.push(async move { (at, sample.await) }.boxed());
            }
        }
        let results: Vec<(usize, Result<Judgement, EvaluationError>)> =
            futures::stream::iter(asked).buffered(CALLS_AT_ONCE).collect().await;
        let mut panel: Vec<Panelist> = self.judge.panel().into_iter().map(empty).collect();
        let mut failed: Vec<(usize, EvaluationError)> = Vec::new();
        for (at, result) in results {
            match (result, panel.get_mut(at)) {
                (Ok(judgement), Some(panelist)) => panelist.judgements.push(judgement),
                (Err(error), _) => failed.push((at, error)),
                (Ok(_), None) => {}
            }
        }
        combine(&panel, into);
        if into.score.is_none() {
            let silent = |at: usize| panel.get(at).is_some_and(|panelist| panelist.judgements.is_empty());
            let first = failed.into_iter().find(|(at, _)| silent(*at)).map(|(_, error)| error);
            into.error = Some(first.unwrap_or_else(|| error("model", "no judge was asked")));
        }
        fill(&tally, into);
    }

    /// One judgement, with its repairs.
    async fn sample(
        &self,
        request: &ModelRequest,
        tally: &Mutex<Tally>,
        cap: Option<u128>,
    ) -> Result<Judgement, EvaluationError> {
        let mut request = request.clone();
        let price = self.registry.price(&request.model);
        let mut reason = String::new();
        for _ in 0..=REPAIRS_MAX {
            let estimate = cap.and_then(|_| estimate(&request, price?));
            reserve(tally, cap, estimate.unwrap_or(0))?;
            let outcome = self.ask(&request).await;
            settle(tally, estimate.unwrap_or(0), &outcome, price);
            match outcome {
                Err(error) => return Err(error),
                Ok(said) => match reply::parse(&said, &self.judge.metrics) {
                    Ok(judgement) => return Ok(judgement),
                    Err(why) => {
                        request = prompt::repair(&request, said.text.as_deref().unwrap_or_default(), &why);
                        reason = why;
                    }
                },
            }
        }
        let message = format!("{}: no judgement after {REPAIRS_MAX} repairs: {reason}", request.model);
        Err(error("unreadable_reply", &message))
    }

    async fn ask(&self, request: &ModelRequest) -> Result<p2_core::model::ModelReply, EvaluationError> {
        let left = self.deadline_ms.saturating_sub((self.clock)());
        let late = || error("deadline", &format!("{}: no judgement before the deadline", request.model));
        let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else { return Err(late()) };
        let asked =
            tokio::time::timeout(Duration::from_millis(left), self.model.ask(request, self.deadline_ms));
        let outcome = asked.await.map_err(|_| late())?;
        outcome.result.map_err(|failure| match failure.class {
            ModelErrorClass::Timeout => late(),
            _ => error("model", &format!("{}: {failure}", request.model)),
        })
    }
}

fn empty(judge: p2_core::definition::Judge) -> Panelist {
    Panelist { model: judge.model, persona: judge.persona, judgements: Vec::new() }
}

/// What a call costs at most, as far as can be said before it: every four bytes of a prompt are two tokens (few texts
/// have more), and the reply is as long as it may be.
fn estimate(request: &ModelRequest, price: &Price) -> Option<u128> {
    let bytes: usize = request
        .messages
        .iter()
        .map(|message| match message {
            ChatMessage::System { content } | ChatMessage::User { content } => content.len(),
            ChatMessage::Assistant { content, .. } => content.as_ref().map_or(0, String::len),
            ChatMessage::Tool { content, .. } => content.len(),
        })
        .sum();
    let prompt = i64::try_from(bytes / 2).unwrap_or(i64::MAX).saturating_add(64);
    money::usage(price, prompt, request.max_tokens.unwrap_or(1_024))
}

fn reserve(tally: &Mutex<Tally>, cap: Option<u128>, estimate: u128) -> Result<(), EvaluationError> {
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = tally.spent.saturating_add(tally.reserved).saturating_add(estimate);
    if let Some(cap) = cap.filter(|cap| wanted > *cap) {
        let message = format!(
            "the next call might cost {} USD, which with {} USD so far is more than the cap of {} USD (cost_cap_usd)",
            money::text(estimate),
            money::text(tally.spent.saturating_add(tally.reserved)),
            money::text(cap)
        );
        return Err(error("cost_cap", &message));
    }
    tally.reserved = tally.reserved.saturating_add(estimate);
    tally.calls += 1;
    Ok(())
}

/// A call whose tokens nobody counted counts at its estimate, where there is one.
fn settle(
    tally: &Mutex<Tally>,
    estimate: u128,
    outcome: &Result<p2_core::model::ModelReply, EvaluationError>,
    price: Option<&Price>,
) {
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    tally.reserved = tally.reserved.saturating_sub(estimate);
    let usage =
        outcome.as_ref().ok().and_then(|reply| Some((reply.prompt_tokens?, reply.completion_tokens?)));
    if let Some((prompt, completion)) = usage {
        tally.prompt_tokens = Some(tally.prompt_tokens.unwrap_or(0).saturating_add(prompt));
        tally.completion_tokens = Some(tally.completion_tokens.unwrap_or(0).saturating_add(completion));
    }
    match usage.and_then(|(prompt, completion)| money::usage(price?, prompt, completion)) {
        Some(cost) => tally.spent = tally.spent.saturating_add(cost),
        None => {
            tally.spent = tally.spent.saturating_add(estimate);
            tally.unknown = true;
        }
    }
}

fn fill(tally: &Mutex<Tally>, into: &mut Evaluation) {
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    into.calls = tally.calls;
    into.prompt_tokens = tally.prompt_tokens;
    into.completion_tokens = tally.completion_tokens;
    into.cost_usd = (!tally.unknown).then(|| money::text(tally.spent));
}
