//! The port: reads the target, judges it, and always comes back with a result.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use p2_core::conversation::Conversation;
use p2_core::definition::{EvaluatorKind, Run};
use p2_core::eval::reward::Claim;
use p2_core::eval::trajectory::Trajectory;
use p2_core::eval::trigger::{Spot, entry_artifact};
use p2_core::eval::{FIRST, Place, evaluation_id, money, prompt};
use p2_core::ids::{BookId, Id};
use p2_core::record::{ArtifactBody, Evaluation};
use p2_core::registry::Registry;
use p2_stream::ports::{Log, Model, StackStore, StoreError};
use sha2::{Digest, Sha256};

use crate::decide::timeout_ms;
use crate::judges::{Asking, error};
use crate::known::Known;
use crate::rules;
use crate::{Candidate, JudgeRequest, RegistrySnapshot, Ruling, STORE_TIMEOUT_MS, TARGET_TIMEOUT_MS};

/// The time, milliseconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// First pause before the store or the log is asked again; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long an answer that was given may take into the log before it is given again, milliseconds.
const COMMIT_MS: i64 = 2_000;

/// Judges targets. Cheap to clone; clones share what they know of earlier evaluations.
#[derive(Clone)]
pub struct JudgePort {
    model: Arc<dyn Model>,
    store: Arc<dyn StackStore>,
    known: Known,
    registry: RegistrySnapshot,
    clock: Clock,
}

impl fmt::Debug for JudgePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JudgePort").finish_non_exhaustive()
    }
}

/// A target that was found.
struct Target {
    place: Place,
    trajectory: Trajectory,
    /// The book of the conversation's money, where it has one of its own.
    book: Option<BookId>,
}

/// Why a conversation could not be read.
enum Unread {
    /// The store does not answer.
    Away(String),
    /// What it has cannot be read.
    Broken(String),
}

impl JudgePort {
    /// A port that asks `model`, reads targets from `store` and earlier evaluations from `log`.
    pub fn new(
        model: Arc<dyn Model>,
        store: Arc<dyn StackStore>,
        log: Arc<dyn Log>,
        registry: impl Fn() -> Arc<Registry> + Send + Sync + 'static,
        clock: Clock,
    ) -> JudgePort {
        JudgePort { model, store, known: Known::new(log), registry: Arc::new(registry), clock }
    }

    /// Judges one target with every candidate whose trigger holds; what fails is a result too. Dropping the future
    /// cuts the calls.
    pub async fn judge(&self, request: &JudgeRequest, deadline_ms: i64) -> Vec<Ruling> {
        let begun_ms = (self.clock)();
        let target = match self.target(&request.spot, request.time_ms, deadline_ms).await {
            Ok(target) => target,
            Err(why) => {
                let mut ruled = self.without_target(request, begun_ms, &why, deadline_ms).await;
                ruled.extend(request.claim.as_ref().map(|claim| match claim {
                    Ok(_) => Ruling::Unearned { why: format!("its target cannot be read: {why}") },
                    Err(why) => Ruling::Unearned { why: why.clone() },
                }));
                return ruled;
            }
        };
        // Boxed: the compiler cannot tell otherwise that what borrows from `request` may move between threads.
        let mut ruled: Vec<BoxFuture<'_, Ruling>> = Vec::new();
        for candidate in
            request.candidates.iter().filter(|candidate| candidate.when.holds(&target.trajectory))
        {
            ruled.push(self.rule(&target, candidate, deadline_ms).boxed());
        }
        let mut ruled = futures::future::join_all(ruled).await;
        ruled.extend(request.claim.as_ref().map(|claim| believed(claim.as_ref(), &target)));
        ruled
    }

    // -------------------------------------------------------------------------------------- the target

    /// Waits until the view has the target: it may lag behind the log by a moment, and be away for longer.
    async fn target(&self, spot: &Spot, time_ms: i64, deadline_ms: i64) -> Result<Target, String> {
        let begun_ms = (self.clock)();
        let mut absent_ms = None;
        let mut pause = PAUSE_MIN;
        loop {
            let loaded = self.load(spot).await;
            let now_ms = (self.clock)();
            let (problem, until_ms) = match loaded {
                Err(Unread::Away(problem)) => {
                    // When it is back it may have to catch up first.
                    absent_ms = None;
                    (problem, begun_ms.saturating_add(STORE_TIMEOUT_MS))
                }
                Err(Unread::Broken(problem)) => (problem, begun_ms.saturating_add(TARGET_TIMEOUT_MS)),
                Ok(conversation) => match found(&conversation, spot, time_ms)? {
                    Some(target) => return Ok(target),
                    None => {
                        let since_ms: i64 = *absent_ms.get_or_insert(now_ms);
                        let problem = "it is not in the store yet".to_owned();
                        (problem, since_ms.saturating_add(TARGET_TIMEOUT_MS))
                    }
                },
            };
            if now_ms >= until_ms.min(deadline_ms) {
                return Err(problem);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn load(&self, spot: &Spot) -> Result<Conversation, Unread> {
        let transitions = self.store.load(&spot.conversation).await.map_err(|error| match error {
            StoreError::Unavailable(_) | StoreError::Rebuilt(_) => Unread::Away(error.to_string()),
            StoreError::Foreign(_) | StoreError::Corrupt(_) => Unread::Broken(error.to_string()),
        })?;
        let mut conversation = Conversation::default();
        for transition in &transitions {
            conversation.apply(transition).map_err(|error| Unread::Broken(error.to_string()))?;
        }
        Ok(conversation)
    }

    /// A target that cannot be read is a visible failure. Whose run has ended is told by the branch then; what is
    /// meant at every so many replies cannot be told at all.
    async fn without_target(
        &self,
        request: &JudgeRequest,
        begun_ms: i64,
        why: &str,
        deadline_ms: i64,
    ) -> Vec<Ruling> {
        let Spot { conversation, agent, branch, entry } = request.spot.clone();
        let run = if branch.as_str().starts_with("call-") { Run::Children } else { Run::Root };
        let place = Place { conversation, agent, branch, entry: entry.unwrap_or(-1) };
        let mut ruled = Vec::new();
        for candidate in &request.candidates {
            if !candidate.when.always && !candidate.when.finished.contains(&run) {
                continue;
            }
            let id = evaluation_of(&place, candidate);
            let lock = self.known.lock(id);
            let _alone = lock.lock().await;
            // Where the log cannot be read: that there is no target is the same answer once more.
            if self.judged_before(&place, request.time_ms, &id, deadline_ms).await == Ok(true) {
                ruled.push(Ruling::Kept { place: place.clone(), evaluation: id, request: candidate.request });
                continue;
            }
            let mut evaluation = blank(&place, candidate);
            evaluation.latency_ms = (self.clock)().saturating_sub(begun_ms).max(0);
            evaluation.error = Some(error("no_target", &format!("the target cannot be read: {why}")));
            self.known.answered(id, &evaluation);
            let evaluation = Box::new(evaluation);
            ruled.push(Ruling::Judged { place: place.clone(), parent: None, book: None, evaluation });
        }
        ruled
    }

    // -------------------------------------------------------------------------------------- the ruling

    async fn rule(&self, target: &Target, candidate: &Candidate, deadline_ms: i64) -> Ruling {
        let place = target.place.clone();
        let id = evaluation_of(&place, candidate);
        let lock = self.known.lock(id);
        let _alone = lock.lock().await;
        let kept = Ruling::Kept { place: place.clone(), evaluation: id, request: candidate.request };
        let judged = |evaluation: Evaluation| Ruling::Judged {
            place: place.clone(),
            parent: Some(entry_artifact(&target.trajectory.entry_id)),
            book: target.book.clone(),
            evaluation: Box::new(evaluation),
        };
        match self.judged_before(&place, target.trajectory.time_ms, &id, deadline_ms).await {
            Ok(true) => return kept,
            Ok(false) => {}
            Err(why) => {
                let mut evaluation = blank(&place, candidate);
                evaluation.error =
                    Some(error("deadline", &format!("earlier evaluations cannot be read: {why}")));
                return judged(evaluation);
            }
        }
        if let Some(answer) = self.known.answer(&id) {
            return judged(answer);
        }
        let evaluation = self.evaluate(target, candidate, deadline_ms).await;
        self.known.answered(id, &evaluation);
        self.known.remember(id, &evaluation, true);
        tracing::info!(
            target: "evaluator",
            evaluator = evaluation.evaluator,
            outcome = evaluation.outcome(),
            score = evaluation.score,
            calls = evaluation.calls,
            latency_ms = evaluation.latency_ms,
            "judged"
        );
        judged(evaluation)
    }

    /// Whether the log has the evaluation. One that was answered here a moment ago is given the time to get there.
    async fn judged_before(
        &self,
        place: &Place,
        time_ms: i64,
        id: &Id,
        deadline_ms: i64,
    ) -> Result<bool, String> {
        let begun_ms = (self.clock)();
        let mut pause = PAUSE_MIN;
        loop {
            let now_ms = (self.clock)();
            match self.known.is_judged(&place.conversation, time_ms, id).await {
                Ok(true) => return Ok(true),
                Ok(false) => {
                    let on_its_way = self.known.answer(id).is_some() && now_ms < begun_ms + COMMIT_MS;
                    if !on_its_way {
                        return Ok(false);
                    }
                }
                Err(error) if now_ms >= deadline_ms => return Err(error.to_string()),
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn evaluate(&self, target: &Target, candidate: &Candidate, deadline_ms: i64) -> Evaluation {
        let begun_ms = (self.clock)();
        let own_ms = begun_ms.saturating_add(timeout_ms(&candidate.evaluator)).min(deadline_ms);
        let mut evaluation = blank(&target.place, candidate);
        match &candidate.evaluator.kind {
            EvaluatorKind::LlmJudge(_) => self.by_models(target, candidate, own_ms, &mut evaluation).await,
            kind => {
                evaluation.content = target.trajectory.content();
                self.by_rule(target, kind, &mut evaluation).await;
            }
        }
        evaluation.latency_ms = (self.clock)().saturating_sub(begun_ms).max(0);
        evaluation
    }

    async fn by_models(
        &self,
        target: &Target,
        candidate: &Candidate,
        deadline_ms: i64,
        into: &mut Evaluation,
    ) {
        let EvaluatorKind::LlmJudge(judge) = &candidate.evaluator.kind else { return };
        let registry = (self.registry)();
        let requests = match prompt::requests(&registry, &candidate.evaluator, &target.trajectory) {
            Ok(requests) => requests,
            Err(why) => {
                into.error = Some(error("definition", &why));
                return;
            }
        };
        // What the judges see is all that counts: rubrics and personas have versions of their own.
        let seen = serde_json::to_string(&requests).unwrap_or_default();
        into.content = hex::encode(Sha256::digest(seen));
        let key = (into.content.clone(), into.evaluator.clone(), into.version);
        if candidate.occasion == FIRST
            && let Some((id, earlier)) = self.known.of_content(&key, candidate.evaluator.rewards.is_some())
        {
            repeat(id, earlier, into);
            return;
        }
        let (model, clock) = (self.model.as_ref(), &self.clock);
        let asking = Asking { model, clock, registry: &registry, judge, deadline_ms };
        asking.judge(&requests, into).await;
    }

    async fn by_rule(&self, target: &Target, kind: &EvaluatorKind, into: &mut Evaluation) {
        let cost = if rules::needs_cost(kind) { self.cost(target).await } else { Ok(None) };
        let judged = cost.and_then(|cost| rules::judge(kind, &target.trajectory, cost.as_deref()));
        into.cost_usd = Some("0".to_owned());
        match judged {
            Ok(judgement) => {
                into.score = Some(judgement.score);
                into.metrics = judgement.metrics;
                into.comment = judgement.comment;
                into.samples = 1;
            }
            Err(why) => into.error = Some(error("rule", &why)),
        }
    }

    /// What the model calls of the judged turn cost, decimal text; none where one of them has no known cost.
    async fn cost(&self, target: &Target) -> Result<Option<String>, String> {
        let Target { place, trajectory, .. } = target;
        let artifacts = self.known.artifacts(&place.conversation, trajectory.asked_ms).await;
        let artifacts = artifacts.map_err(|error| format!("the model calls cannot be read: {error}"))?;
        let turn = trajectory.asked_ms..=trajectory.time_ms;
        let mut total: u128 = 0;
        for artifact in artifacts {
            let ArtifactBody::ModelCall(call) = &artifact.body else { continue };
            let own = artifact.agent.as_ref() == Some(&place.agent)
                && artifact.branch.as_ref() == Some(&place.branch);
            if !own || !turn.contains(&artifact.time_ms) {
                continue;
            }
            let Some(cost) = call.cost_usd.as_deref().and_then(money::parse) else { return Ok(None) };
            total = total.saturating_add(cost);
        }
        Ok(Some(money::text(total)))
    }
}

/// Outsiders say what they judged by the hash of the answer's text, by the engine's own one, or not at all.
fn is_content(content: &str, trajectory: &Trajectory) -> bool {
    content.is_empty()
        || content == trajectory.content()
        || content == hex::encode(Sha256::digest(&trajectory.answer))
}

/// Whether the target of a claim is what the claim says.
fn believed(claim: Result<&Claim, &String>, target: &Target) -> Ruling {
    let Target { place, trajectory, .. } = target;
    let why = match claim {
        Err(why) => why.clone(),
        Ok(claim) if claim.place != *place => {
            format!(
                "its entry {} belongs to branch '{}' and not to '{}'",
                place.entry, place.branch, claim.place.branch
            )
        }
        Ok(claim) if !is_content(&claim.content, trajectory) => {
            "its 'content' is not the hash of what is there: hash the answer's text, or leave it empty"
                .to_owned()
        }
        Ok(claim) => {
            let mut request = claim.request.clone();
            if let Some(book) = &target.book {
                request.book = book.clone();
            }
            return Ruling::Earned(Box::new(request));
        }
    };
    Ruling::Unearned { why }
}

/// The target at a spot; none where it is not there yet.
fn found(conversation: &Conversation, spot: &Spot, time_ms: i64) -> Result<Option<Target>, String> {
    let Spot { agent, branch, entry, .. } = spot;
    if conversation.branch(agent, branch).is_none() {
        return Ok(None);
    }
    let newest = || {
        let said = conversation.indexed(agent, branch);
        said.iter().rev().find(|entry| entry.time_ms <= time_ms).map(|entry| entry.seq)
    };
    let Some(entry) = entry.or_else(newest) else { return Ok(None) };
    let place = Place::of(conversation, agent, branch, entry);
    match Trajectory::of(conversation, &place, branch) {
        Some(trajectory) => Ok(Some(Target { place, trajectory, book: conversation.book.clone() })),
        None if conversation.head(agent, branch) >= entry => {
            Err(format!("entry {entry} is not visible on branch {branch}: a rewind hid it"))
        }
        None => Ok(None),
    }
}

fn evaluation_of(place: &Place, candidate: &Candidate) -> Id {
    evaluation_id(&place.target(), &candidate.evaluator.id, candidate.version, &candidate.occasion)
}

fn blank(place: &Place, candidate: &Candidate) -> Evaluation {
    Evaluation {
        target: place.target(),
        evaluator: candidate.evaluator.id.clone(),
        version: candidate.version,
        occasion: candidate.occasion.clone(),
        request: candidate.request,
        ..Evaluation::default()
    }
}

/// The result of an earlier evaluation, at no cost.
fn repeat(id: Id, earlier: Evaluation, into: &mut Evaluation) {
    into.score = earlier.score;
    into.metrics = earlier.metrics;
    into.comment = earlier.comment;
    into.samples = earlier.samples;
    into.spread = earlier.spread;
    into.agreement = earlier.agreement;
    into.judges = earlier.judges;
    into.cost_usd = Some("0".to_owned());
    into.same_as = Some(id);
}
