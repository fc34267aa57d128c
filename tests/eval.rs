//! Evaluators: what is judged by itself and on demand, once each, whatever the judge says and whoever is killed.

use std::path::Path;

use serde_json::{Value, json};

use crate::home::{Home, Up, entries, until};

/// A place with the agents of the fixtures, a judge of known replies, and evaluators.
fn home() -> Home {
    let mut home = Home::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let text = |name: &str| std::fs::read_to_string(fixtures.join(name)).unwrap();
    home.write("scripts/worker.yml", &text("scripts/worker.yml"));
    home.write("scripts/judge.yml", &text("eval/judge.yml"));
    home.set("P2_SCRIPTS_DIR", &home.path("scripts").display().to_string());
    home.set("P2_DEV_TOOLS", &home.path("calls").display().to_string());
    let files =
        ["definitions.yml", "eval/evaluators.yml"].map(|name| fixtures.join(name).display().to_string());
    home.p2(&["apply", &files[0], &files[1]]).exits(0);
    home
}

/// The evaluations of a conversation, once there are so many.
fn evaluations(home: &Home, conversation: &str, count: usize) -> Vec<Value> {
    until(&format!("{count} evaluations of '{conversation}'"), || {
        let listed = home.p2(&["eval", "list", "--conversation", conversation, "--json"]).exits(0).json();
        let found = listed.as_array().unwrap().clone();
        assert!(found.len() <= count, "{found:?}");
        (found.len() == count).then_some(found)
    })
}

fn body(artifact: &Value) -> &Value {
    &artifact["body"]["Evaluation"]
}

fn answered(up: &Up, name: &str, text: &str) {
    up.api.say(name, "worker", text);
    let conversation = up.api.settled(name);
    assert!(!entries(&conversation, "worker").is_empty());
}

/// Runs a command that prints JSON.
fn json_of(home: &Home, words: &[&str]) -> Value {
    let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    home.p2(&words).exits(0).json()
}

#[test]
fn a_root_and_its_delegated_child_are_both_judged_and_every_metric_can_be_read() {
    let home = home();
    let up = home.up();
    answered(&up, "x", "fan out");
    let found = evaluations(&home, "x", 2);
    let mut agents: Vec<&str> = found.iter().map(|one| one["agent"].as_str().unwrap()).collect();
    agents.sort_unstable();
    assert_eq!(agents, ["helper", "worker"]);
    for one in &found {
        assert_eq!(
            (body(one)["score"].as_f64(), body(one)["metrics"]["wit"].as_f64()),
            (Some(0.25), Some(0.75))
        );
        assert_eq!((&body(one)["evaluator"], &body(one)["error"]), (&json!("style"), &Value::Null));
        assert_eq!(one["parents"].as_array().unwrap().len(), 1, "linked to what it judged");
    }
    let top = json_of(&home, &["eval", "top", "x", "--metric", "wit"]);
    assert_eq!(top["branches"].as_array().unwrap().len(), 2);
    assert_eq!(top["branches"][0]["mean"], json!(0.75));
    let id = found[0]["id"].as_str().unwrap();
    let shown = home.p2(&["eval", "show", &id[..10]]).exits(0).stdout;
    assert!(shown.contains("comment     Fine.") && shown.contains("wit 0.75"), "{shown}");
    up.interrupt().exits(130);
}

#[test]
fn branches_are_compared_by_their_means_and_evaluations_by_their_numbers() {
    let home = home();
    let up = home.up();
    answered(&up, "x", "plain words");
    home.p2(&["conversation", "rewind", "x", "1", "--as", "second"]).exits(0);
    answered(&up, "x", "something #good");
    let found = evaluations(&home, "x", 2);
    let top = json_of(&home, &["eval", "top", "x"]);
    assert_eq!((&top["branches"][0]["mean"], &top["branches"][1]["mean"]), (&json!(1.0), &json!(0.25)));
    assert_eq!(top["best"]["branch"], found[1]["branch"]);
    assert_ne!(found[0]["branch"], found[1]["branch"]);
    let single = json_of(&home, &["eval", "top", "--evaluations", "--metric", "wit", "--k", "1"]);
    assert_eq!((single.as_array().unwrap().len(), &single[0]["value"]), (1, &json!(0.9)));
    let [left, right] = [0, 1].map(|at| found[at]["id"].as_str().unwrap());
    let diff = json_of(&home, &["eval", "diff", left, right]);
    let score = diff["metrics"].as_array().unwrap().iter().find(|one| one["metric"] == "score").unwrap();
    assert_eq!(
        (&score["left"], &score["right"], &score["change"]),
        (&json!(0.25), &json!(1.0), &json!(0.75))
    );
    up.interrupt().exits(130);
}

#[test]
fn a_judge_that_answers_garbage_is_repaired_or_ends_in_an_error_that_people_see() {
    let home = home();
    let up = home.up();
    answered(&up, "mended", "one #stubborn thing");
    let found = evaluations(&home, "mended", 1);
    assert_eq!((&body(&found[0])["score"], &body(&found[0])["calls"]), (&json!(0.5), &json!(3)));
    answered(&up, "broken", "one #never thing");
    let found = evaluations(&home, "broken", 1);
    assert_eq!(
        (&body(&found[0])["score"], &body(&found[0])["error"]["code"]),
        (&Value::Null, &json!("unreadable_reply"))
    );
    let listed = home.p2(&["eval", "list", "--conversation", "broken"]).exits(0).stdout;
    assert!(listed.contains("unreadable_reply: scripted/judge: no judgement after 3 repairs"), "{listed}");
    let again = ["eval", "backfill", "--evaluator", "style", "--failed", "--again", "once more"];
    let said = json_of(&home, &again);
    assert_eq!(
        (&said["targets"], &said["asked"], &said["failed"]),
        (&json!(1), &json!(1), &json!(1)),
        "{said}"
    );
    assert_eq!(json_of(&home, &again)["asked"], json!(0));
    let top = json_of(&home, &["eval", "top", "broken"]);
    assert_eq!((&top["best"], &top["branches"]), (&Value::Null, &json!([])), "no score is not a score of 0");
    up.interrupt().exits(130);
}

#[test]
fn on_demand_a_target_is_judged_once_and_again_only_where_that_is_asked_for() {
    let home = home();
    let up = home.up();
    answered(&up, "x", "hello");
    let asked = |more: &[&str]| {
        let words: Vec<&str> =
            ["eval", "run", "x", "--evaluator", "asked"].iter().chain(more).copied().collect();
        json_of(&home, &words)
    };
    let first = asked(&[]);
    assert_eq!((&body(&first)["occasion"], &body(&first)["score"]), (&json!("first"), &json!(0.25)));
    assert_eq!(asked(&[])["id"], first["id"]);
    let again = asked(&["--again", "a new day"]);
    assert_ne!(again["id"], first["id"]);
    assert_eq!(asked(&["--again", "a new day"])["id"], again["id"]);
    // One by `style` by itself, two by `asked`.
    evaluations(&home, "x", 3);
    let question = json_of(&home, &["eval", "run", "x", "0", "--evaluator", "said"]);
    assert_eq!((&question["entry"], &body(&question)["score"]), (&json!(0), &json!(0.0)));
    let refused = home.p2(&["eval", "top", "x"]).exits(2);
    assert!(
        refused.stderr.contains("choose one of asked, said, style with --evaluator"),
        "{}",
        refused.stderr
    );
    for (words, code, text) in [
        (["x", "--evaluator", "nobody"].as_slice(), 4, "there is no evaluator 'nobody'"),
        (&["nowhere", "--evaluator", "asked"], 4, "there is no conversation 'nowhere'"),
        (&["x", "99", "--evaluator", "asked"], 4, "has no entry 99"),
        (&["x", "--evaluator", "asked", "--again", " "], 2, "--again takes a text"),
        (&["x", "--evaluator", "outside", "--timeout", "1"], 5, "is not there after 1 s"),
    ] {
        let words: Vec<&str> = ["eval", "run"].iter().chain(words).copied().collect();
        let refused = home.p2(&words).exits(code);
        assert!(refused.stderr.contains(text), "{}", refused.stderr);
    }
    up.interrupt().exits(130);
}

#[test]
fn a_backfill_judges_the_past_once() {
    let home = home();
    let up = home.up();
    for name in ["a", "b"] {
        answered(&up, name, "hello");
        answered(&up, name, "hello again");
    }
    answered(&up, "c", "fan out");
    evaluations(&home, "c", 2);
    let fill = |more: &[&str]| {
        let words: Vec<&str> =
            ["eval", "backfill", "--evaluator", "asked"].iter().chain(more).copied().collect();
        let said = json_of(&home, &words);
        ["targets", "judged_before", "asked", "scored", "failed"].map(|key| said[key].as_u64().unwrap())
    };
    assert_eq!(fill(&["--dry-run"]), [6, 0, 0, 0, 0]);
    assert_eq!(fill(&["--conversation", "a"]), [2, 0, 2, 2, 0]);
    assert_eq!(fill(&[]), [6, 2, 4, 4, 0]);
    assert_eq!(fill(&[]), [6, 6, 0, 0, 0], "a second one finds nothing to do");
    assert_eq!(fill(&["--since", "2199-01-01T00:00:00Z"]), [0, 0, 0, 0, 0]);
    let style = json_of(&home, &["eval", "backfill", "--evaluator", "style"]);
    assert_eq!(
        (&style["targets"], &style["judged_before"]),
        (&json!(6), &json!(6)),
        "its trigger was faster"
    );
    let listed = json_of(&home, &["eval", "list", "--evaluator", "asked", "--limit", "0"]);
    assert_eq!(listed.as_array().unwrap().len(), 6);
    up.interrupt().exits(130);
}

#[test]
fn a_process_that_is_killed_while_it_judges_leaves_one_evaluation() {
    let mut home = home();
    home.set("P2_LOG", "warn,evaluator=debug");
    let up = home.up();
    up.api.say("x", "worker", "judge this #slow");
    until("judging begins", || up.running.stderr().contains("may have to be judged").then_some(()));
    up.running.kill();
    let up = home.up();
    let found = evaluations(&home, "x", 1);
    assert_eq!(body(&found[0])["score"], json!(0.9));
    // What is done is done: nothing is judged at the next start.
    up.interrupt().exits(130);
    let up = home.up();
    answered(&up, "y", "hello");
    evaluations(&home, "y", 1);
    evaluations(&home, "x", 1);
    up.interrupt().exits(130);
}

#[test]
fn evaluators_are_listed_and_judge_on_the_version_that_was_applied_last() {
    let home = home();
    let listed = home.p2(&["eval", "evaluators"]).exits(0).stdout;
    for part in ["gpt4_judge", "openai/gpt-4o-mini", "on demand", "finished roots, finished children"] {
        assert!(listed.contains(part), "{part} in {listed}");
    }
    let up = home.up();
    answered(&up, "x", "hello");
    let first = json_of(&home, &["eval", "run", "x", "--evaluator", "said"]);
    assert_eq!(body(&first)["version"], json!(1));
    home.write("said.yml", "kind: evaluator\nid: said\ntype: contains\ntexts: [nothing of this]\n");
    home.p2(&["apply", "said.yml"]).exits(0);
    let second = json_of(&home, &["eval", "run", "x", "--evaluator", "said"]);
    assert_eq!((&body(&second)["version"], &body(&second)["score"]), (&json!(2), &json!(0.0)));
    assert_ne!(first["id"], second["id"]);
    up.interrupt().exits(130);
}
