//! `/metrics`, and a real Prometheus that asks what dashboards and documentation ask.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::home::{Home, Up, until};

pub(crate) fn scrape(url: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        reqwest::get(url).await.unwrap().error_for_status().unwrap().text().await.unwrap()
    })
}

/// Work of every kind: models and tools that succeed and fail, a person who is asked, a bad record.
fn work(up: &Up) {
    up.api.say("x", "worker", "call dev_look 1");
    up.api.settled("x");
    up.api.say("x", "worker", "be refused");
    up.api.settled("x");
    up.api.say("x", "worker", "fail");
    up.api.settled("x");
    up.api.say("y", "worker", "ask me");
    up.api.conversation_when("y", |conversation| {
        let mut waits = conversation["waits"].as_object().unwrap().values();
        waits.any(|wait| wait["waiting"]["kind"] == "UserInput")
    });
}

fn priced(home: &Home) {
    home.write(
        "prices.yml",
        "kind: price\nid: scripted/worker\nprompt_usd_per_million: '2'\ncompletion_usd_per_million: '4'\n",
    );
    home.p2(&["apply", "prices.yml"]).exits(0);
}

#[test]
fn a_scraper_needs_no_token_and_sees_what_was_done() {
    let home = Home::with_fixtures();
    priced(&home);
    let up = home.up();
    work(&up);
    let text = scrape(&format!("{}/metrics", up.api.url));
    for line in [
        r#"p2_model_calls_total{model="scripted/worker",outcome="error"} 1"#,
        r#"p2_tool_calls_total{outcome="success",tool="dev_look"} 1"#,
        r#"p2_tool_calls_total{outcome="error",tool="dev_look"} 1"#,
        r#"p2_input_outcomes_total{code="ok",processor="agent-step",verdict="applied"}"#,
        r#"p2_waits_open{kind="user_input"} 1"#,
        r#"p2_partitions_owned{processor="tool-exec"} 16"#,
        r#"p2_model_cost_usd_total{model="scripted/worker"}"#,
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "no {line} in\n{text}");
    }
    assert_eq!(up.interrupt().code, Some(130));
}

/// A process that does not outlive its test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn promtool(args: &[&str], input: Option<&str>) {
    let mut command = Command::new("promtool");
    let mut child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    if let Some(input) = input {
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), input.as_bytes()).unwrap();
    }
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "promtool {args:?}: {}", String::from_utf8_lossy(&output.stdout));
}

/// Every query that a person would see the result of.
fn queries() -> Vec<String> {
    let dashboard = std::fs::read_to_string(deploy("grafana/p2engine.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let mut found: Vec<String> = panels
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    let page = std::fs::read_to_string(deploy("../docs/metrics.md")).unwrap();
    let (_, questions) = page.split_once("| question | query |").unwrap();
    let rows = questions.lines().filter_map(|row| row.rsplit_once(" | `")?.1.strip_suffix("` |"));
    found.extend(rows.map(|query| query.replace("\\|", "|")));
    assert!(found.len() > 20, "{found:?}");
    found
}

#[test]
fn a_real_prometheus_answers_what_dashboards_ask() {
    if std::env::var("P2_REAL").as_deref() != Ok("1") {
        println!("skipped: a real Prometheus (needs prometheus and promtool; set P2_REAL=1)");
        return;
    }
    let home = Home::with_fixtures();
    priced(&home);
    let up = home.up();
    work(&up);
    promtool(&["check", "metrics"], Some(&scrape(&format!("{}/metrics", up.api.url))));
    promtool(&["test", "rules", &deploy("prometheus/rules_test.yml").display().to_string()], None);

    let target = up.api.url.strip_prefix("http://").unwrap();
    let config = std::fs::read_to_string(deploy("prometheus/prometheus.yml")).unwrap();
    let config = config.replace("127.0.0.1:7700", target).replace(": 5s", ": 1s");
    assert!(config.contains(target));
    home.write("prometheus.yml", &config);
    home.write("rules.yml", &std::fs::read_to_string(deploy("prometheus/rules.yml")).unwrap());
    let port = free_port();
    let prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", home.path("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", home.path("prometheus").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--log.level=error")
        .stdin(Stdio::null())
        .spawn()
        .expect("prometheus starts");
    let _prometheus = Service(prometheus);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |query: &str| -> Option<Value> {
        let request = client.get(format!("http://127.0.0.1:{port}/api/v1/query")).query(&[("query", query)]);
        runtime.block_on(async { request.send().await.ok()?.json::<Value>().await.ok() })
    };
    let mut round = 0;
    for query in queries() {
        until(&format!("an answer to {query}"), || {
            // Rates need a change between two scrapes.
            round += 1;
            if round % 20 == 1 {
                work(&up);
            }
            let answer = ask(&query)?;
            assert_ne!(answer["status"], "error", "{query}: {answer}");
            let found = answer["data"]["result"].as_array()?;
            // A quantile of nothing is NaN, which no panel shows.
            found.iter().any(|series| series["value"][1] != "NaN").then_some(())
        });
    }
    assert_eq!(up.interrupt().code, Some(130));
}
