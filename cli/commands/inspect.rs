//! `agent …`, `artifact …`, `topics …`.

use std::time::Duration;

use p2_core::definition::{AgentKind, Definition};
use p2_core::ids::ConversationId;
use p2_core::record::Topic;
use serde_json::{Value, json};

use super::{Run, by_beginning, data_of, listed};
use crate::args::{AgentCommand, ArtifactCommand, TopicsCommand};
use crate::engine::{ArtifactFilter, EngineError, EngineResult, RecordView, RecordsQuery};
use crate::views::{one_line, table, time};

/// `agent …`.
pub(crate) async fn agent(run: &Run, command: AgentCommand) -> EngineResult<()> {
    let registry = run.engine.registry().await?;
    match command {
        AgentCommand::List => {
            let agents: Vec<_> = registry
                .list("agent")
                .filter_map(|(version, definition)| match definition {
                    Definition::Agent(agent) => Some((version, agent)),
                    _ => None,
                })
                .collect();
            let data = agents.iter().map(|(version, agent)| json!({"version": version, "agent": agent}));
            run.show(&data.collect(), || {
                let rows = agents.iter().map(|(version, agent)| {
                    let (kind, model, tools) = match &agent.kind {
                        AgentKind::Llm(llm) => ("llm", llm.model.clone(), llm.tools.join(", ")),
                        AgentKind::Rule(_) => ("rule", String::new(), String::new()),
                        AgentKind::Human(_) => ("human", String::new(), String::new()),
                    };
                    vec![agent.id.to_string(), version.to_string(), kind.to_owned(), model, tools]
                });
                table::render(&["AGENT", "VERSION", "TYPE", "MODEL", "TOOLS"], rows.collect(), run.out.width)
            });
        }
        AgentCommand::Show { agent } => {
            let (version, found) = registry.agent(&agent, None).ok_or_else(|| {
                EngineError::NotFound(format!("there is no agent '{agent}'; see 'p2engine agent list'"))
            })?;
            let data = json!({"version": version, "agent": found});
            run.show(&data, || serde_yaml_ng::to_string(&data).unwrap_or_default().trim_end().to_owned());
        }
    }
    Ok(())
}

/// `artifact …`.
pub(crate) async fn artifact(run: &Run, command: ArtifactCommand) -> EngineResult<()> {
    match command {
        ArtifactCommand::List { conversation, kind, limit } => {
            let limit = (limit > 0).then_some(limit);
            let conversation = conversation.map(ConversationId);
            let filter = ArtifactFilter { conversation, kind, since_ms: None, limit };
            let found = run.engine.artifacts(&filter).await?;
            run.show(&data_of(&found)?, || {
                let rows = found.iter().map(|artifact| {
                    let body = serde_json::to_string(&artifact.body).unwrap_or_default();
                    vec![
                        listed(artifact.id),
                        time(artifact.time_ms),
                        artifact.conversation.to_string(),
                        artifact.body.kind().to_owned(),
                        body,
                    ]
                });
                let header = ["ID", "TIME (UTC)", "CONVERSATION", "KIND", "BODY"];
                table::render(&header, rows.collect(), run.out.width)
            });
        }
        ArtifactCommand::Show { id } => {
            let all = run.engine.artifacts(&ArtifactFilter::default()).await?;
            let id = by_beginning("artifact", &id, all.iter().map(|artifact| artifact.id))?;
            let found = all.iter().find(|artifact| artifact.id == id);
            let found = found.ok_or_else(|| EngineError::NotFound(format!("there is no artifact {id}")))?;
            let data = data_of(found)?;
            run.show(&data, || serde_json::to_string_pretty(&data).unwrap_or_default());
        }
    }
    Ok(())
}

fn parse_topic(name: &str) -> EngineResult<Topic> {
    Topic::parse(name).ok_or_else(|| {
        let known: Vec<&str> = Topic::ALL.iter().map(|topic| topic.short()).collect();
        EngineError::NotFound(format!("there is no topic '{name}'; there are: {}", known.join(", ")))
    })
}

/// `topics …`.
pub(crate) async fn topics(run: &Run, command: TopicsCommand) -> EngineResult<()> {
    match command {
        TopicsCommand::List => {
            let counts = run.engine.topic_counts().await?;
            let data: Vec<Value> = counts
                .iter()
                .map(|count| {
                    json!({"topic": count.topic, "partitions": count.partitions.len(), "records": count.records()})
                })
                .collect();
            run.show(&Value::Array(data), || {
                let rows = counts.iter().map(|count| {
                    let partitions = count.partitions.len().to_string();
                    vec![count.topic.clone(), partitions, count.records().to_string()]
                });
                table::render(&["TOPIC", "PARTITIONS", "OFFSETS"], rows.collect(), run.out.width)
            });
            Ok(())
        }
        // Done before an engine is opened.
        TopicsCommand::Apply(_) | TopicsCommand::Diff(_) | TopicsCommand::Copy(_) => Ok(()),
        TopicsCommand::Describe { topic } => {
            let topic = parse_topic(&topic)?;
            let counts = run.engine.topic_counts().await?;
            let found = counts.iter().find(|count| count.topic == topic.short());
            let found =
                found.ok_or_else(|| EngineError::NotFound(format!("{} is not here", topic.name())))?;
            run.show(&data_of(found)?, || {
                let rows = found.partitions.iter().enumerate().map(|(partition, (first, end))| {
                    vec![partition.to_string(), first.to_string(), end.to_string()]
                });
                let body = table::render(&["PARTITION", "FIRST", "END"], rows.collect(), run.out.width);
                format!("{}\n{body}", topic.name())
            });
            Ok(())
        }
        TopicsCommand::Tail { topic, partition, n, follow } => {
            tail(run, parse_topic(&topic)?, partition, n, follow).await
        }
    }
}

/// How often a followed topic is asked for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);

async fn tail(run: &Run, topic: Topic, partition: Option<i32>, n: usize, follow: bool) -> EngineResult<()> {
    let last = i64::try_from(n).unwrap_or(i64::MAX);
    // The ends are read first, so that nothing falls between the tail and what follows it.
    let counts = run.engine.topic_counts().await?;
    let ends = counts.iter().find(|count| count.topic == topic.short());
    let ends = ends.map(|count| count.partitions.clone()).unwrap_or_default();
    let mut next: Vec<(i32, i64)> = (0..)
        .zip(ends)
        .filter(|(of, _)| partition.is_none_or(|wanted| wanted == *of))
        .map(|(of, (first, end))| (of, end.saturating_sub(last).max(first)))
        .collect();
    if let (true, Some(partition)) = (next.is_empty(), partition) {
        return Err(EngineError::NotFound(format!("{} has no partition {partition}", topic.name())));
    }
    loop {
        let mut found = Vec::new();
        for (partition, from) in &mut next {
            let max = if follow { 1_000 } else { n };
            let query = RecordsQuery { topic, partition: Some(*partition), from: *from, max };
            let records = run.engine.records(&query).await?;
            *from = records.last().map_or(*from, |record| record.offset + 1);
            found.extend(records);
        }
        found.sort_by_key(|record| (record.time_ms, record.partition, record.offset));
        if run.out.json && !follow {
            run.out.data(&data_of(&found)?);
        } else {
            for record in &found {
                run.show(&data_of(record)?, || line(record, run.out.width));
            }
        }
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

/// One record on one line.
pub(crate) fn line(record: &RecordView, width: u16) -> String {
    let place = format!("{}/{}/{}", record.topic, record.partition, record.offset);
    let text = format!(
        "{} {place} {} {} {} {}",
        time(record.time_ms),
        record.id.short(),
        record.key,
        record.kind,
        record.value
    );
    one_line(&text, usize::from(width))
}
