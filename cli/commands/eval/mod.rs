//! `eval …`: what evaluators said, and asking them.

mod ask;
mod earned;

use std::collections::BTreeSet;

use p2_core::definition::{Evaluator, EvaluatorKind, Run as Runs, Trigger};
use p2_core::eval::aggregate::{self, Judged};
use p2_core::ids::ConversationId;
use p2_core::record::{Artifact, Evaluation};
use serde_json::{Value, json};

use super::{Run, by_beginning, data_of, listed};
use crate::args::{EvalCommand, EvalFilter, EvalList, EvalTop};
use crate::engine::{ArtifactFilter, EngineError, EngineResult};
use crate::views::evaluation::number;
use crate::views::lineage::Indices;
use crate::views::{evaluation, one_line, table, time};

/// Runs one of them.
pub(crate) async fn run(run: &Run, command: EvalCommand) -> EngineResult<()> {
    match command {
        EvalCommand::Run(args) => ask::run(run, args).await,
        EvalCommand::Backfill(args) => ask::backfill(run, args).await,
        EvalCommand::Top(args) => top(run, args).await,
        EvalCommand::Diff { left, right } => diff(run, &left, &right).await,
        EvalCommand::Show { id } => show(run, &id).await,
        EvalCommand::List(args) => list(run, args).await,
        EvalCommand::Evaluators => evaluators(run).await,
    }
}

/// The artifacts that are evaluations, oldest first.
async fn artifacts(run: &Run, conversation: Option<&str>) -> EngineResult<Vec<Artifact>> {
    let filter = ArtifactFilter {
        conversation: conversation.map(ConversationId::from),
        kind: Some("evaluation".to_owned()),
        ..ArtifactFilter::default()
    };
    run.engine.artifacts(&filter).await
}

fn fits(filter: &EvalFilter, judged: &Judged<'_>) -> bool {
    let agent = judged.artifact.agent.as_ref().map(|agent| agent.as_str());
    filter.evaluator.as_ref().is_none_or(|wanted| *wanted == judged.evaluation.evaluator)
        && filter.agent.as_deref().is_none_or(|wanted| agent == Some(wanted))
}

/// Which index the entries have that were judged; nothing where only data is shown.
async fn indices(run: &Run, judged: &[&Artifact]) -> EngineResult<Indices> {
    let mut indices = Indices::default();
    let of: BTreeSet<&ConversationId> = judged.iter().map(|artifact| &artifact.conversation).collect();
    for id in of.into_iter().filter(|_| !run.out.json) {
        if let Some(conversation) = run.engine.conversation(id).await? {
            indices.add(conversation);
        }
    }
    Ok(indices)
}

/// What an evaluation judged, for people: `trip 4 alpha/main` is entry 4 there, and what `eval run` takes.
fn place(artifact: &Artifact, indices: &mut Indices) -> String {
    let agent = artifact.agent.as_ref().map_or("?", |agent| agent.as_str());
    let branch = artifact.branch.as_ref().map_or("?", |branch| branch.as_str());
    let entry = indices.of(artifact).map_or_else(|| "-".to_owned(), |index| index.to_string());
    format!("{} {entry} {agent}/{branch}", artifact.conversation)
}

async fn list(run: &Run, args: EvalList) -> EngineResult<()> {
    let all = artifacts(run, args.conversation.as_deref()).await?;
    let mut found = aggregate::evaluations(&all);
    found.retain(|judged| fits(&args.filter, judged));
    if args.limit > 0 {
        found.drain(..found.len().saturating_sub(args.limit));
    }
    let data: Vec<&Artifact> = found.iter().map(|judged| judged.artifact).collect();
    let mut indices = indices(run, &data).await?;
    run.show(&data_of(&data)?, || render(&found, &mut indices, run.out.width));
    Ok(())
}

fn render(found: &[Judged<'_>], indices: &mut Indices, width: u16) -> String {
    let rows = found.iter().map(|Judged { artifact, evaluation }| {
        let named = format!("{}@{}", evaluation.evaluator, evaluation.version);
        let said = match &evaluation.error {
            Some(error) => format!("{}: {}", error.code, error.message),
            None => evaluation.comment.clone(),
        };
        let score = number(evaluation.score);
        vec![listed(artifact.id), time(artifact.time_ms), named, place(artifact, indices), score, said]
    });
    table::render(&["ID", "TIME (UTC)", "EVALUATOR", "JUDGED", "SCORE", "SAID"], rows.collect(), width)
}

async fn show(run: &Run, id: &str) -> EngineResult<()> {
    let all = artifacts(run, None).await?;
    let found = find(&all, id)?;
    show_one(run, &found).await
}

/// One evaluation with everything that is in it.
async fn show_one(run: &Run, judged: &Judged<'_>) -> EngineResult<()> {
    let data = data_of(judged.artifact)?;
    let mut indices = indices(run, &[judged.artifact]).await?;
    run.show(&data, || {
        let Judged { artifact, evaluation } = judged;
        evaluation::render(artifact, evaluation, place(artifact, &mut indices), run.out.width)
    });
    Ok(())
}

fn find<'a>(all: &'a [Artifact], id: &str) -> EngineResult<Judged<'a>> {
    let found = aggregate::evaluations(all);
    let id = by_beginning("evaluation", id, found.iter().map(|judged| judged.artifact.id))?;
    aggregate::find(&found, &id).ok_or_else(|| EngineError::NotFound(format!("there is no evaluation {id}")))
}

async fn diff(run: &Run, left: &str, right: &str) -> EngineResult<()> {
    let all = artifacts(run, None).await?;
    let (left, right) = (find(&all, left)?, find(&all, right)?);
    let differences = aggregate::diff(left.evaluation, right.evaluation);
    let data = json!({
        "left": left.artifact.id,
        "right": right.artifact.id,
        "metrics": differences,
        "comments": [left.evaluation.comment, right.evaluation.comment],
    });
    run.show(&data, || {
        let rows = differences
            .iter()
            .map(|one| vec![one.metric.clone(), number(one.left), number(one.right), number(one.change)]);
        let header = ["METRIC", &listed(left.artifact.id), &listed(right.artifact.id), "CHANGE"];
        let numbers = table::render(&header, rows.collect(), run.out.width);
        let said = |of: &Judged<'_>| {
            format!("{}: {}", listed(of.artifact.id), one_line(&of.evaluation.comment, usize::MAX))
        };
        format!("{numbers}\n{}\n{}", said(&left), said(&right))
    });
    Ok(())
}

async fn top(run: &Run, args: EvalTop) -> EngineResult<()> {
    if let Some(name) = &args.name {
        run.conversation(name).await?;
    }
    let all = artifacts(run, args.name.as_deref()).await?;
    let mut found = aggregate::evaluations(&all);
    found.retain(|judged| fits(&args.filter, judged));
    let mut names: Vec<&str> = found.iter().map(|judged| judged.evaluation.evaluator.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > 1 {
        let names = names.join(", ");
        let text = format!(
            "several evaluators judged here, and their numbers do not compare: choose one of {names} with --evaluator"
        );
        return Err(EngineError::Invalid(text));
    }
    if args.evaluations {
        let best = aggregate::top(&found, &args.metric, args.k);
        let data: Vec<Value> = best
            .iter()
            .map(|(value, judged)| json!({"value": value, "evaluation": judged.artifact}))
            .collect();
        let judged: Vec<&Artifact> = best.iter().map(|(_, judged)| judged.artifact).collect();
        let mut indices = indices(run, &judged).await?;
        run.show(&Value::Array(data), || {
            let rows = best.iter().map(|(value, judged)| {
                vec![
                    listed(judged.artifact.id),
                    place(judged.artifact, &mut indices),
                    number(Some(*value)),
                    comment(judged.evaluation),
                ]
            });
            table::render(&["ID", "JUDGED", "VALUE", "SAID"], rows.collect(), run.out.width)
        });
        return Ok(());
    }
    let mut branches = aggregate::branches(&found, &args.metric);
    branches.truncate(args.k);
    let best = branches
        .first()
        .map(|best| json!({"conversation": best.conversation, "agent": best.agent, "branch": best.branch}));
    run.show(&json!({"metric": args.metric, "best": best, "branches": branches}), || {
        let rows = branches.iter().enumerate().map(|(at, one)| {
            let mark = if at == 0 { "*" } else { "" };
            let (branch, count) = (format!("{}/{}", one.agent, one.branch), one.evaluations.to_string());
            vec![mark.to_owned(), one.conversation.to_string(), branch, count, number(Some(one.mean))]
        });
        let mean = format!("MEAN {}", args.metric);
        table::render(&["", "CONVERSATION", "BRANCH", "EVALUATIONS", &mean], rows.collect(), run.out.width)
    });
    Ok(())
}

fn comment(evaluation: &Evaluation) -> String {
    evaluation.comment.clone()
}

async fn evaluators(run: &Run) -> EngineResult<()> {
    let registry = run.engine.registry().await?;
    let all: Vec<(i32, &Evaluator)> = registry.evaluators().collect();
    let data: Vec<Value> =
        all.iter().map(|(version, evaluator)| json!({"version": version, "evaluator": evaluator})).collect();
    run.show(&Value::Array(data), || {
        let rows = all.iter().map(|(version, evaluator)| {
            let model = match &evaluator.kind {
                EvaluatorKind::LlmJudge(judge) => {
                    judge.panel().into_iter().map(|one| one.model).collect::<Vec<_>>().join(", ")
                }
                _ => String::new(),
            };
            let kind = evaluator.kind.name().to_owned();
            vec![evaluator.id.clone(), version.to_string(), kind, model, when(&evaluator.trigger)]
        });
        table::render(&["EVALUATOR", "VERSION", "TYPE", "MODELS", "JUDGES"], rows.collect(), run.out.width)
    });
    Ok(())
}

/// When an evaluator judges, for people.
fn when(trigger: &Trigger) -> String {
    let runs = trigger.finished.iter().map(|run| match run {
        Runs::Root => "finished roots".to_owned(),
        Runs::Children => "finished children".to_owned(),
    });
    let every = trigger.every.map(|every| format!("every {every} replies"));
    let named = trigger.states.iter().chain(&trigger.artifacts).cloned();
    let all: Vec<String> = runs.chain(every).chain(named).collect();
    if all.is_empty() { "on demand".to_owned() } else { all.join(", ") }
}
