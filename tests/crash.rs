//! `kill -9`: in the middle of a tool call, and of a busy process at random moments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::home::{Api, Home, entries, until, user_text};

fn begins(home: &Home) -> Vec<String> {
    home.lines("calls").into_iter().filter(|line| line.starts_with("begin ")).collect()
}

/// A process that was killed while `tool` ran.
fn killed_in(tool: &str) -> Home {
    let home = Home::with_fixtures();
    let up = home.up();
    up.api.say("x", "worker", &format!("call {tool} 1500"));
    until("the tool begins", || (!begins(&home).is_empty()).then_some(()));
    up.running.kill();
    home
}

#[test]
fn a_claimed_call_that_was_cut_is_in_doubt_and_is_never_made_again() {
    let home = killed_in("dev_once");
    let up = home.up();
    let doubts = until("it is in doubt", || {
        let doubts = home.p2(&["effects", "in-doubt", "list", "--json"]).exits(0).json();
        (!doubts.as_array().unwrap().is_empty()).then_some(doubts)
    });
    assert_eq!(doubts[0]["tool"], "dev_once");
    assert_eq!(doubts[0]["conversation"], "x");
    assert_eq!(doubts[0]["arguments"]["text"], "call dev_once 1500");
    // Nobody waits in front of a screen for what may take days: it is said, and the command ends.
    let resumed = home.p2(&["chat", "resume", "x"]).exits(0);
    assert!(resumed.stderr.contains("effects in-doubt list"), "{}", resumed.stderr);
    let listed = home.p2(&["effects", "in-doubt", "list"]).exits(0).stdout;
    assert!(listed.contains("dev_once") && listed.contains("may or may not have been made"), "{listed}");
    let effect = doubts[0]["effect"].as_str().unwrap();
    let done = r#"{"text": "looked it up: done"}"#;
    home.p2(&["effects", "in-doubt", "resolve", effect, "--done", done]).exits(0);
    let conversation = up.api.settled("x");
    assert_eq!(entries(&conversation, "worker").pop().unwrap().1["text"], "dev_once said looked it up: done");
    let again = home.p2(&["effects", "in-doubt", "resolve", effect, "--done", done]).exits(4);
    assert!(again.stderr.contains("there is no effect in doubt"), "{}", again.stderr);
    assert_eq!(begins(&home).len(), 1, "it was made once");
    up.interrupt().exits(130);
    let verified = home.p2(&["replay", "stacks", "--verify", "--json"]).exits(0).json();
    assert_eq!(verified["differences"], json!([]));
}

#[test]
fn a_call_in_doubt_that_was_not_done_is_told_to_the_model() {
    let home = killed_in("dev_once");
    let up = home.up();
    let effect = until("it is in doubt", || {
        let doubts = up.api.get("effects/in-doubt").1;
        doubts[0]["effect"].as_str().map(str::to_owned)
    });
    home.p2(&["effects", "in-doubt", "resolve", &effect, "--not-done", "the shop never saw it"]).exits(0);
    let last = entries(&up.api.settled("x"), "worker").pop().unwrap();
    assert!(last.1["text"].as_str().unwrap().contains("the shop never saw it"), "{last:?}");
    up.interrupt().exits(130);
}

#[test]
fn a_call_that_may_be_repeated_is_made_again_and_the_conversation_goes_on() {
    for tool in ["dev_again", "dev_look"] {
        let home = killed_in(tool);
        let up = home.up();
        let last = entries(&up.api.settled("x"), "worker").pop().unwrap();
        assert_eq!(last.1["text"], format!("{tool} said call {tool} 1500"));
        let begins = begins(&home);
        assert_eq!(begins.len(), 2);
        assert_eq!(begins[0], begins[1], "the same key");
        assert_eq!(up.api.get("effects/in-doubt").1, json!([]));
        up.interrupt().exits(130);
    }
}

/// Conversations that are talked to at the same time.
const CONVERSATIONS: u64 = 24;
/// Threads that talk.
const TALKERS: u64 = 4;

/// What was sent: text → (conversation, id), and which of them were acknowledged.
#[derive(Default)]
struct Said {
    sent: BTreeMap<String, (String, String)>,
    stored: BTreeSet<String>,
    decided: BTreeMap<String, Value>,
}

fn text_of(rng: &mut SmallRng, number: u64) -> String {
    match rng.random_range(0..10) {
        0 => format!("call dev_once {} #{number}", rng.random_range(0..40)),
        1 => format!("call dev_again {} #{number}", rng.random_range(0..40)),
        2 => format!("call dev_look {} #{number}", rng.random_range(0..10)),
        3 => format!("fan out #{number}"),
        4 => format!("fail #{number}"),
        _ => format!("plain #{number}"),
    }
}

/// Talks until told to stop. Sends some messages twice under the same id, as a client does that got no answer.
fn talk(api: &Api, seed: u64, counter: &AtomicU64, said: &Mutex<Said>, stop: &AtomicBool) {
    let mut rng = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::SeqCst) {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        let (text, conversation) =
            (text_of(&mut rng, number), format!("c{}", rng.random_range(0..CONVERSATIONS)));
        let id = hex::encode(rng.random::<[u8; 16]>());
        let mut body = user_text(&conversation, "worker", &text);
        body["id"] = json!(id);
        said.lock().unwrap().sent.insert(text.clone(), (conversation, id));
        let wait = rng.random_bool(0.3);
        let path = if wait { "inbox?wait=outcome" } else { "inbox" };
        for _ in 0..1 + u8::from(rng.random_bool(0.2)) {
            let Some((status, answer)) = api.try_post(path, &body) else { return };
            assert!(status == 202 || status == 200, "{status} {answer}");
            let mut said = said.lock().unwrap();
            said.stored.insert(text.clone());
            if !answer["outcome"].is_null() {
                said.decided.insert(text.clone(), answer["outcome"].clone());
            }
        }
    }
}

/// One life of the process: talked to from all sides, killed at a random moment.
fn live_and_die(home: &Home, rng: &mut SmallRng, counter: &Arc<AtomicU64>, said: &Arc<Mutex<Said>>) {
    let up = home.up();
    let stop = Arc::new(AtomicBool::new(false));
    let talkers: Vec<_> = (0..TALKERS)
        .map(|_| {
            let api = home.api_of(&up);
            let (counter, said, stop, seed) = (counter.clone(), said.clone(), stop.clone(), rng.random());
            std::thread::spawn(move || talk(&api, seed, &counter, &said, &stop))
        })
        .collect();
    // The moment of the kill, which is what this is about; nothing is waited for.
    std::thread::sleep(Duration::from_millis(rng.random_range(0..250)));
    up.running.kill();
    stop.store(true, Ordering::SeqCst);
    for talker in talkers {
        talker.join().unwrap();
    }
}

/// Closes what is in doubt, until nothing is awaited anywhere.
fn settle(api: &Api) -> u64 {
    let mut resolved = 0;
    until("all conversations come to rest", || {
        for doubt in api.get("effects/in-doubt").1.as_array().unwrap() {
            let path = format!("effects/{}/resolution", doubt["effect"].as_str().unwrap());
            let (status, _) = api.post(&path, &json!({"resolution": "not_done", "reason": "killed"}));
            resolved += u64::from(status == 200);
        }
        let lines = api.get("conversations").1;
        lines.as_array().unwrap().iter().all(|line| line["open_waits"] == 0).then_some(())
    });
    resolved
}

#[test]
fn a_busy_process_killed_at_random_moments_loses_nothing_and_does_nothing_twice() {
    let kills: u64 = std::env::var("P2_KILLS").ok().map_or(60, |kills| kills.parse().unwrap());
    let seed: u64 =
        std::env::var("P2_KILL_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("P2_KILLS={kills} P2_KILL_SEED={seed}");
    let home = Home::with_fixtures();
    let mut rng = SmallRng::seed_from_u64(seed);
    let (counter, said) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Said::default())));
    for _ in 0..kills {
        live_and_die(&home, &mut rng, &counter, &said);
    }
    let up = home.up();
    let said = std::mem::take(&mut *said.lock().unwrap());
    assert!(said.stored.len() as u64 >= kills, "only {} messages were acknowledged", said.stored.len());
    let conversations: Vec<String> = (0..CONVERSATIONS).map(|index| format!("c{index}")).collect();
    // A stored message is decided once its partition is read again; then its effects come to an end.
    for name in &conversations {
        let ids = said.stored.iter().map(|text| (text, &said.sent[text]));
        let mine: Vec<_> = ids.filter(|(_, (conversation, _))| conversation == name).collect();
        if mine.is_empty() {
            continue;
        }
        let is_seen = |found: &Value| mine.iter().all(|(_, (_, id))| !found["seen"][id].is_null());
        let conversation = up.api.conversation_when(name, is_seen);
        for (text, (_, id)) in mine {
            let outcome = &conversation["seen"][id];
            assert_eq!(said.decided.get(text).unwrap_or(outcome), outcome, "the outcome of '{text}' changed");
        }
    }
    let doubts = settle(&up.api);
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for name in &conversations {
        let (status, conversation) = up.api.get(&format!("conversations/{name}"));
        if status == 200 {
            count_texts(&conversation, &mut found);
            check_calls(name, &conversation);
        }
    }
    for text in &said.stored {
        assert_eq!(found.get(text), Some(&1), "'{text}' was acknowledged");
    }
    assert!(found.values().all(|count| *count == 1), "something is there twice");
    assert!(found.keys().all(|text| said.sent.contains_key(text)), "something was never said");
    let once: Vec<String> = begins(&home).into_iter().filter(|line| line.ends_with(" dev_once")).collect();
    assert_eq!(once.iter().collect::<BTreeSet<_>>().len(), once.len(), "a claimed call was made twice");
    assert_eq!(up.api.get("dead-letters").1, json!([]));
    up.interrupt().exits(130);
    let verified = home.p2(&["replay", "stacks", "--verify", "--json"]).exits(0).json();
    assert_eq!(verified["differences"], json!([]));
    println!(
        "{kills} kills: {} messages acknowledged, {} sent, {} claimed calls, {doubts} in doubt, {} transitions",
        said.stored.len(),
        said.sent.len(),
        once.len(),
        verified["transitions"]
    );
}

fn count_texts(conversation: &Value, found: &mut BTreeMap<String, u64>) {
    for (kind, fields) in entries(conversation, "worker") {
        if kind == "UserMessage" {
            *found.entry(fields["text"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
}

/// Every call has exactly one result.
fn check_calls(name: &str, conversation: &Value) {
    for agent in ["worker", "helper"] {
        let mut open: BTreeMap<String, i64> = BTreeMap::new();
        for (kind, fields) in entries(conversation, agent) {
            let by = match kind.as_str() {
                "ToolCall" => 1,
                "ToolResult" => -1,
                _ => continue,
            };
            *open.entry(fields["call_id"].as_str().unwrap().to_owned()).or_default() += by;
        }
        assert!(open.values().all(|count| *count == 0), "{name}/{agent}: {open:?}");
    }
}
