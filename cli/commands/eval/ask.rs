//! Asking evaluators: `eval run`, `eval backfill`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2_core::conversation::Conversation;
use p2_core::definition::Evaluator;
use p2_core::eval::aggregate::{self, Judged};
use p2_core::eval::trajectory::Trajectory;
use p2_core::eval::trigger::{self, If, Request, Spot};
use p2_core::eval::{ANSWERED, FIRST, Place, REQUESTED, evaluation_id};
use p2_core::ids::{ConversationId, Id};
use p2_core::record::{Artifact, ArtifactBody, Event, Topic};
use p2_core::registry::Registry;
use p2_stream::shell::now_ms;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::{Run, agent_or_root, data_of};
use super::earned;
use crate::args::{EvalBackfill, EvalRun};
use crate::engine::{ArtifactFilter, EngineError, EngineResult, RecordsQuery, draw_id};
use crate::views::labelled::count;
use crate::views::lineage::find_branch;
use crate::views::parse_time;

/// How often the answers are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Records read at a time.
const READ_RECORDS: usize = 1_000;
/// Requests written at a time.
const ASK_AT_ONCE: usize = 200;

/// What is asked for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    evaluator: &'a str,
    version: i32,
    occasion: &'a str,
}

impl Wanted<'_> {
    fn id(&self, place: &Place) -> Id {
        evaluation_id(&place.target(), self.evaluator, self.version, self.occasion)
    }

    /// The event that asks.
    fn event(&self, place: &Place, parent: Option<Id>) -> EngineResult<Artifact> {
        let request = Request {
            evaluator: self.evaluator.to_owned(),
            version: Some(self.version),
            occasion: self.occasion.to_owned(),
            by: "cli".to_owned(),
        };
        let mut data = data_of(&request)?;
        if let Some(data) = data.as_object_mut() {
            data.insert("entry".to_owned(), json!(place.entry));
        }
        Ok(Artifact {
            id: draw_id(),
            conversation: place.conversation.clone(),
            agent: Some(place.agent.clone()),
            branch: Some(place.branch.clone()),
            entry: Some(place.entry),
            parents: parent.into_iter().collect(),
            time_ms: now_ms(),
            body: ArtifactBody::Event(Event { name: REQUESTED.to_owned(), data: data.into() }),
        })
    }
}

fn newest<'a>(registry: &'a Registry, id: &str) -> EngineResult<(i32, &'a Evaluator)> {
    registry.evaluator(id, None).ok_or_else(|| {
        EngineError::NotFound(format!("there is no evaluator '{id}'; see 'p2engine eval evaluators'"))
    })
}

fn occasion(again: Option<&str>) -> EngineResult<&str> {
    match again.map(str::trim) {
        None => Ok(FIRST),
        Some("") => Err(EngineError::Invalid("--again takes a text: why it is judged again".to_owned())),
        Some(why) if why.len() > 200 => {
            Err(EngineError::Invalid("--again takes at most 200 bytes".to_owned()))
        }
        Some(why) => Ok(why),
    }
}

// --------------------------------------------------------------------------------------------------- run

/// `eval run`.
pub(super) async fn run(run: &Run, args: EvalRun) -> EngineResult<()> {
    let registry = run.engine.registry().await?;
    let (version, evaluator) = newest(&registry, &args.evaluator)?;
    let wanted = Wanted { evaluator: &evaluator.id, version, occasion: occasion(args.again.as_deref())? };
    let conversation = run.conversation(&args.stack.name).await?;
    let (place, parent) = target(&conversation, &args)?;
    let id = wanted.id(&place);
    let before = super::artifacts(run, Some(&args.stack.name)).await?;
    if let Some(judged) = aggregate::find(&aggregate::evaluations(&before), &id) {
        run.out.remark("it was judged before; --again WHY judges it again");
        return earned::show(run, &registry, &conversation, &judged).await;
    }
    let mut reader = Reader::new(run, &BTreeSet::from([place.conversation.clone()])).await?;
    let request = wanted.event(&place, Some(parent))?;
    let asked = request.id;
    run.engine.request_evaluations(vec![request]).await?;
    if args.no_wait {
        run.show(&json!({"evaluation": id, "request": asked}), || format!("Asked for evaluation {id}"));
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    loop {
        for artifact in reader.more(run).await? {
            match &artifact.body {
                ArtifactBody::Evaluation(evaluation) if artifact.id == id => {
                    let judged = Judged { artifact: &artifact, evaluation };
                    return earned::show(run, &registry, &conversation, &judged).await;
                }
                ArtifactBody::Event(event)
                    if event.name == ANSWERED && event.data.0.get("request") == Some(&json!(asked)) =>
                {
                    return answered(run, &event.data.0, (&registry, &conversation), &id).await;
                }
                _ => {}
            }
        }
        if Instant::now() >= deadline {
            return Err(EngineError::Timeout(format!(
                "evaluation {id} was asked for and is not there after {} s; it will be: look with 'p2engine eval show {id}'",
                args.timeout
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The target that is meant, and the artifact of its entry.
fn target(conversation: &Conversation, args: &EvalRun) -> EngineResult<(Place, Id)> {
    let name = &args.stack.name;
    let agent = agent_or_root(conversation, args.stack.agent.as_deref())?;
    let branch = match (&args.stack.branch, conversation.stacks.get(&agent)) {
        (Some(wanted), Some(stack)) => find_branch(stack, wanted).map_err(EngineError::NotFound)?.id.clone(),
        _ => conversation.current(&agent),
    };
    let entries = conversation.indexed(&agent, &branch);
    let entry = match args.index {
        None => entries.last(),
        Some(index) => entries.get(index),
    };
    let entry = entry.ok_or_else(|| {
        EngineError::NotFound(match args.index {
            Some(index) => {
                format!("{agent} on {branch} of '{name}' has no entry {index}; there are {}", entries.len())
            }
            None => format!("{agent} on {branch} of '{name}' has no entries"),
        })
    })?;
    Ok((Place::of(conversation, &agent, &branch, entry.seq), trigger::entry_artifact(&entry.id)))
}

/// A request that led to no new evaluation: somebody was faster, or it could not be met.
async fn answered(
    run: &Run,
    data: &serde_json::Value,
    (registry, conversation): (&Registry, &Conversation),
    id: &Id,
) -> EngineResult<()> {
    let message = data["message"].as_str().unwrap_or_default().to_owned();
    match data["code"].as_str().unwrap_or_default() {
        "judged_before" => {
            let all = super::artifacts(run, Some(conversation.id.as_str())).await?;
            match aggregate::find(&aggregate::evaluations(&all), id) {
                Some(judged) => earned::show(run, registry, conversation, &judged).await,
                None => Err(EngineError::NotFound(message)),
            }
        }
        "not_found" => Err(EngineError::NotFound(message)),
        code => Err(EngineError::Refused { code: code.to_owned(), message }),
    }
}

/// Reads `artifacts` on from where it ended when the reader was made.
struct Reader {
    next: BTreeMap<i32, i64>,
}

impl Reader {
    /// Of the partitions of these conversations.
    async fn new(run: &Run, conversations: &BTreeSet<ConversationId>) -> EngineResult<Reader> {
        let counts = run.engine.topic_counts().await?;
        let ends = counts.into_iter().find(|count| count.topic == Topic::Artifacts.short());
        let ends = ends.map(|count| count.partitions).unwrap_or_default();
        let count = i32::try_from(ends.len()).unwrap_or(i32::MAX);
        let of: BTreeSet<i32> =
            conversations.iter().map(|id| p2_stream::wire::partition(id.as_str(), count)).collect();
        let next = (0..).zip(ends).filter(|(at, _)| of.contains(at)).map(|(at, (_, end))| (at, end));
        Ok(Reader { next: next.collect() })
    }

    /// The artifacts that came since.
    async fn more(&mut self, run: &Run) -> EngineResult<Vec<Artifact>> {
        let mut found = Vec::new();
        for (partition, from) in &mut self.next {
            loop {
                let (topic, partition) = (Topic::Artifacts, Some(*partition));
                let query = RecordsQuery { topic, partition, from: *from, max: READ_RECORDS };
                let records = run.engine.records(&query).await?;
                let Some(last) = records.last() else { break };
                *from = last.offset + 1;
                found.extend(
                    records.into_iter().filter_map(|record| serde_json::from_value(record.value).ok()),
                );
            }
        }
        Ok(found)
    }
}

// ---------------------------------------------------------------------------------------------- backfill

/// What a look over the past found.
#[derive(Default, serde::Serialize)]
struct Found {
    /// Targets that the evaluator is meant for.
    targets: usize,
    /// Of these, judged before.
    judged_before: usize,
    /// Of these, asked for now.
    asked: usize,
    /// Of these, judged by now with a score.
    scored: usize,
    /// Of these, judged by now without one.
    failed: usize,
}

/// `eval backfill`.
pub(super) async fn backfill(run: &Run, args: EvalBackfill) -> EngineResult<()> {
    let registry = run.engine.registry().await?;
    let (version, evaluator) = newest(&registry, &args.evaluator)?;
    let wanted = Wanted { evaluator: &evaluator.id, version, occasion: occasion(args.again.as_deref())? };
    let since_ms = match &args.since {
        None => None,
        Some(text) => Some(parse_time(text).ok_or_else(|| {
            EngineError::Invalid(format!(
                "--since {text}: write a day like 2026-05-01 or a time like 2026-05-01T12:00:00Z"
            ))
        })?),
    };
    let conversation = args.conversation.as_deref().map(ConversationId::from);
    let filter = ArtifactFilter { conversation, since_ms, ..ArtifactFilter::default() };
    let past = run.engine.artifacts(&filter).await?;
    let evaluations = aggregate::evaluations(&past);
    let mut places = places(run, evaluator, &past).await?;
    if args.failed {
        let failed = |place: &Place| {
            let first = Wanted { occasion: FIRST, ..wanted }.id(place);
            evaluations.iter().any(|one| one.artifact.id == first && one.evaluation.error.is_some())
        };
        places.retain(|(place, _)| failed(place));
    }
    let known: BTreeSet<Id> = evaluations.iter().map(|judged| judged.artifact.id).collect();
    let mut found = Found { targets: places.len(), ..Found::default() };
    let open: Vec<(Place, Id)> =
        places.into_iter().filter(|(place, _)| !known.contains(&wanted.id(place))).collect();
    found.judged_before = found.targets - open.len();
    if !args.dry_run {
        let conversations = open.iter().map(|(place, _)| place.conversation.clone()).collect();
        let mut reader = Reader::new(run, &conversations).await?;
        for part in open.chunks(ASK_AT_ONCE) {
            let requests = part.iter().map(|(place, parent)| wanted.event(place, Some(*parent)));
            run.engine.request_evaluations(requests.collect::<EngineResult<_>>()?).await?;
        }
        found.asked = open.len();
        let missing: BTreeSet<Id> = open.iter().map(|(place, _)| wanted.id(place)).collect();
        if !args.no_wait {
            wait(run, &mut reader, missing, &mut found, Duration::from_secs(args.timeout)).await?;
        }
    }
    run.show(&data_of(&found)?, || {
        let Found { targets, judged_before, asked, scored, failed } = &found;
        let targets = count(*targets, "target");
        if args.dry_run {
            return format!("{targets}, {judged_before} of them judged before; nothing was asked for");
        }
        format!("{targets}, {judged_before} of them judged before; asked for {asked}: {scored} scored, {failed} failed")
    });
    Ok(())
}

/// Waits until every evaluation of `missing` is there.
async fn wait(
    run: &Run,
    reader: &mut Reader,
    mut missing: BTreeSet<Id>,
    found: &mut Found,
    timeout: Duration,
) -> EngineResult<()> {
    let deadline = Instant::now() + timeout;
    let bar = run.out.progress(u64::try_from(missing.len()).unwrap_or(u64::MAX), "evaluations");
    while !missing.is_empty() {
        for artifact in reader.more(run).await? {
            match &artifact.body {
                ArtifactBody::Evaluation(evaluation) if missing.remove(&artifact.id) => {
                    if evaluation.error.is_none() {
                        found.scored += 1
                    } else {
                        found.failed += 1
                    }
                    bar.inc(1);
                }
                // Somebody else's request was met first.
                ArtifactBody::Event(event) if event.name == ANSWERED => {
                    let id =
                        event.data.0.get("evaluation").and_then(Value::as_str).and_then(|id| id.parse().ok());
                    if id.is_some_and(|id| missing.remove(&id)) {
                        bar.inc(1);
                    }
                }
                _ => {}
            }
        }
        if Instant::now() >= deadline {
            let left = missing.len();
            return Err(EngineError::Timeout(format!(
                "not yet there of what was asked for, after {} s: {}; they will be: look with 'p2engine eval list'",
                timeout.as_secs(),
                count(left, "evaluation")
            )));
        }
        if !missing.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// The places of the past that an evaluator is meant for, each once, in the order in which they came by.
async fn places(run: &Run, evaluator: &Evaluator, past: &[Artifact]) -> EngineResult<Vec<(Place, Id)>> {
    let mut conversations: BTreeMap<ConversationId, Option<Conversation>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for artifact in past {
        let Some(when) = meant(evaluator, artifact) else { continue };
        let Some(spot) = trigger::spot(artifact) else { continue };
        if !conversations.contains_key(&spot.conversation) {
            let loaded = run.engine.conversation(&spot.conversation).await?;
            conversations.insert(spot.conversation.clone(), loaded);
        }
        let Some(Some(conversation)) = conversations.get(&spot.conversation) else { continue };
        let Some((place, trajectory)) = located(conversation, &spot, artifact.time_ms) else { continue };
        if when.holds(&trajectory) && seen.insert(place.clone()) {
            found.push((place, trigger::entry_artifact(&trajectory.entry_id)));
        }
    }
    Ok(found)
}

/// Whether an artifact is one that an evaluator would judge by itself; without a trigger, whether a run ended there.
fn meant(evaluator: &Evaluator, artifact: &Artifact) -> Option<If> {
    let without = evaluator.trigger == p2_core::definition::Trigger::default();
    if !without {
        return trigger::matches(evaluator, artifact);
    }
    let agent = artifact.agent.as_ref()?;
    let own = evaluator.agents.is_empty() || evaluator.agents.iter().any(|id| id == agent.as_str());
    let ended = matches!(&artifact.body, ArtifactBody::Event(event) if event.name == "agent_finished");
    (own && ended).then(|| If { always: true, ..If::default() })
}

fn located(conversation: &Conversation, spot: &Spot, time_ms: i64) -> Option<(Place, Trajectory)> {
    let said = || conversation.indexed(&spot.agent, &spot.branch);
    let newest = || said().iter().rev().find(|entry| entry.time_ms <= time_ms).map(|entry| entry.seq);
    let place = Place::of(conversation, &spot.agent, &spot.branch, spot.entry.or_else(newest)?);
    let trajectory = Trajectory::of(conversation, &place, &spot.branch)?;
    Some((place, trajectory))
}
