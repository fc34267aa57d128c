use p2_core::json_text::JsonText;
use p2_core::record::*;
use p2_core::state::{Entry, State, WaitKind, Waiting};
use serde_json::json;

use super::*;

fn artifact(body: ArtifactBody) -> Message {
    let id = p2_core::ids::Id::of_text("a");
    let artifact = Artifact {
        id,
        conversation: "talk".into(),
        agent: None,
        branch: None,
        entry: None,
        parents: Vec::new(),
        time_ms: 7,
        body,
    };
    let payload = Payload::Artifact(artifact);
    Message { id, cause: id, cause_position: None, time_ms: 7, traceparent: None, payload }
}

fn model_call(model: &str) -> ModelCall {
    ModelCall {
        model: model.into(),
        wait: p2_core::ids::Id::of_text("w"),
        prompt_ref: String::new(),
        prompt_tokens: Some(12),
        completion_tokens: None,
        cost_usd: Some("0.25".into()),
        latency_ms: 30,
        attempts: 3,
        error: None,
    }
}

fn lines(text: &str, prefix: &str) -> Vec<String> {
    text.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect()
}

#[test]
fn every_family_is_registered_under_a_good_name() {
    let metrics = Metrics::new();
    assert_eq!(metrics.0.vectors.len(), Metric::ALL.len());
    for metric in Metric::ALL {
        let family = metric.family();
        assert!(family.name.starts_with("p2_"), "{}", family.name);
        assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
        assert!(family.from_definitions.iter().all(|at| *at < family.labels.len()), "{}", family.name);
        assert!(!family.help.is_empty() && !family.help.ends_with('.'), "{}", family.name);
    }
}

#[test]
fn a_model_call_counts_tokens_cost_and_retries_and_absent_is_not_zero() {
    let metrics = Metrics::new();
    metrics.committed("agent-step", &artifact(ArtifactBody::ModelCall(model_call("openai/gpt-4o"))));
    let text = metrics.text(0);
    for line in [
        r#"p2_model_calls_total{model="openai/gpt-4o",outcome="success"} 1"#,
        r#"p2_model_retries_total{model="openai/gpt-4o"} 2"#,
        r#"p2_model_tokens_total{model="openai/gpt-4o",type="input"} 12"#,
        r#"p2_model_cost_usd_total{model="openai/gpt-4o"} 0.25"#,
        r#"p2_model_call_duration_seconds_sum{model="openai/gpt-4o"} 0.03"#,
        r#"p2_outputs_total{processor="agent-step",topic="artifacts"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "no {line}");
    }
    assert!(!text.contains(r#"type="output""#));
}

#[test]
fn an_evaluation_counts_its_outcome_its_score_and_what_judging_took_apart_from_agents() {
    let scored = Evaluation {
        evaluator: "judge".into(),
        score: Some(0.75),
        calls: 3,
        prompt_tokens: Some(90),
        cost_usd: Some("0.5".into()),
        latency_ms: 1_500,
        ..Evaluation::default()
    };
    let repeated =
        Evaluation { same_as: Some(p2_core::ids::Id::of_text("earlier")), calls: 0, ..scored.clone() };
    let error = Some(EvaluationError { code: "deadline".into(), message: "too late".into() });
    let failed = Evaluation { score: None, cost_usd: None, error, ..scored.clone() };
    let metrics = Metrics::new();
    for evaluation in [scored, repeated, failed] {
        metrics.committed("evaluator", &artifact(ArtifactBody::Evaluation(Box::new(evaluation))));
    }
    let text = metrics.text(0);
    for line in [
        r#"p2_evaluations_total{evaluator="judge",outcome="scored"} 1"#,
        r#"p2_evaluations_total{evaluator="judge",outcome="repeated"} 1"#,
        r#"p2_evaluations_total{evaluator="judge",outcome="deadline"} 1"#,
        r#"p2_evaluation_score_sum{evaluator="judge"} 1.5"#,
        r#"p2_evaluation_score_bucket{evaluator="judge",le="0.7"} 0"#,
        r#"p2_evaluation_calls_total{evaluator="judge"} 6"#,
        r#"p2_evaluation_tokens_total{evaluator="judge",type="input"} 270"#,
        r#"p2_evaluation_cost_usd_total{evaluator="judge"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    assert!(!text.contains("p2_model_tokens_total{"), "the judge is not one of the agents' models");
}

#[test]
fn an_intent_is_no_outcome_of_a_tool() {
    let run = |phase: &str, latency_ms| ToolRun {
        effect: p2_core::ids::Id::of_text("e"),
        tool: "pay".into(),
        phase: phase.into(),
        latency_ms,
        reward: None,
        detail: String::new(),
    };
    let metrics = Metrics::new();
    metrics.committed("tool-exec", &artifact(ArtifactBody::ToolRun(run("intent", None))));
    metrics.committed("tool-exec", &artifact(ArtifactBody::ToolRun(run("success", Some(2_000)))));
    let text = metrics.text(0);
    assert_eq!(
        lines(&text, "p2_tool_calls_total"),
        [r#"p2_tool_calls_total{outcome="success",tool="pay"} 1"#]
    );
    assert!(text.contains(r#"p2_tool_call_duration_seconds_sum{tool="pay"} 2"#));
}

#[test]
fn names_from_outside_cannot_make_series_without_end() {
    let metrics = Metrics::new();
    for number in 0..(LABEL_VALUES_MAX + 50) {
        let call = model_call(&format!("openai/made-up-{number}"));
        metrics.committed("agent-step", &artifact(ArtifactBody::ModelCall(call)));
    }
    let found = lines(&metrics.text(0), "p2_model_calls_total");
    assert_eq!(found.len(), LABEL_VALUES_MAX + 1);
    assert!(found.contains(&r#"p2_model_calls_total{model="other",outcome="success"} 50"#.to_owned()));
}

fn transition(changes: Vec<Change>) -> StateTransition {
    StateTransition {
        id: p2_core::ids::Id::of_text("t"),
        conversation: "talk".into(),
        seq: 0,
        previous: None,
        agent: "alpha".into(),
        branch: "main".into(),
        input: p2_core::ids::Id::of_text("i"),
        changes,
        head: 0,
        status: BranchStatus::Waiting,
        time_ms: 1_000,
    }
}

type Change = p2_core::record::Change;

fn waiting(name: &str, kind: WaitKind, deadline_ms: Option<i64>, time_ms: i64) -> Change {
    let id = p2_core::ids::Id::of_text(name);
    let state = State::Waiting(Waiting { id, kind, deadline_ms, correlation: String::new(), budget: None });
    Change::Appended(Appended { entries: vec![Entry { seq: 1, id, time_ms, state }] })
}

#[test]
fn open_waits_have_a_kind_and_an_age_and_doubt_keeps_the_age() {
    let metrics = Metrics::new();
    let open = |metrics: &Metrics, now| {
        let text = metrics.text(now);
        let mut found = lines(&text, "p2_waits_open{");
        found.extend(lines(&text, "p2_wait_oldest_age_seconds{"));
        found.retain(|line| !line.ends_with(" 0"));
        found
    };
    let opened = transition(vec![
        waiting("pay", WaitKind::Tool, Some(30_000), 1_000),
        waiting("ask", WaitKind::UserInput, None, 2_000),
    ]);
    metrics.waits(0, std::slice::from_ref(&opened));
    metrics.waits(0, &[opened]);
    assert_eq!(
        open(&metrics, 4_000),
        [
            r#"p2_waits_open{kind="tool"} 1"#,
            r#"p2_waits_open{kind="user_input"} 1"#,
            r#"p2_wait_oldest_age_seconds{kind="tool"} 3"#,
            r#"p2_wait_oldest_age_seconds{kind="user_input"} 2"#,
        ]
    );
    metrics.waits(0, &[transition(vec![waiting("pay", WaitKind::Tool, None, 31_000)])]);
    let answered = Closed { waits: vec![p2_core::ids::Id::of_text("ask")] };
    metrics.waits(0, &[transition(vec![Change::Closed(answered)])]);
    assert_eq!(
        open(&metrics, 41_000),
        [r#"p2_waits_open{kind="in_doubt"} 1"#, r#"p2_wait_oldest_age_seconds{kind="in_doubt"} 40"#]
    );
    metrics.forget_waits(0);
    assert!(open(&metrics, 41_000).is_empty());
}

#[test]
fn outcomes_and_letters_are_counted_by_code() {
    let outcome = Outcome {
        verdict: Verdict::Refused,
        code: "conflict".into(),
        message: String::new(),
        reference: None,
    };
    let input = p2_core::ids::Id::of_text("i");
    let metrics = Metrics::new();
    let body = ArtifactBody::InputOutcome(InputOutcome { input, outcome });
    metrics.committed("agent-step", &artifact(body));
    let event = Event { name: "x".into(), data: JsonText(json!({})) };
    metrics.committed("agent-step", &artifact(ArtifactBody::Event(event)));
    let text = metrics.text(0);
    let line = r#"p2_input_outcomes_total{code="conflict",processor="agent-step",verdict="refused"} 1"#;
    assert!(text.lines().any(|found| found == line), "{text}");
    assert!(text.contains(r#"p2_outputs_total{processor="agent-step",topic="artifacts"} 2"#));
}

#[test]
fn the_table_in_the_documentation_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once("<!-- table -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- /table -->").unwrap();
    let expected = format!("{before}<!-- table -->\n{}<!-- /table -->{after}", table());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    assert_eq!(page, expected, "run with UPDATE_EXPECT=1 to write it");
}
