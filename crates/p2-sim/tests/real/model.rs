//! A model that decides from the seed, the request and how often it was asked what to reply.

use p2_core::model::{
    ChatMessage, ModelError, ModelErrorClass, ModelOutcome, ModelReply, ModelRequest, ModelToolCall,
};
use p2_sim::{Asked, CallAnswer, Outside, Port};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::registry::CALLEES;
use super::watched::Watched;

/// A text that no record may carry: too large.
pub(crate) const OVERSIZE: &str = "#oversize";

/// What a message may tell the model to do, as words `do:<what>`.
const TOOLS: [&str; 8] = ["read", "lookup", "put", "note", "pay", "ship", "risky", "remote"];

/// A model of one process.
pub(crate) struct SimModel {
    pub(crate) seed: u64,
}

/// FNV-1a over what the model sees.
pub(crate) fn digest(seed: u64, request: &ModelRequest, attempt: u32) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed;
    let mut eat = |text: &str| {
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    eat(&request.model);
    eat(&attempt.to_string());
    for message in &request.messages {
        match message {
            ChatMessage::System { content } | ChatMessage::User { content } => eat(content),
            ChatMessage::Assistant { content, tool_calls } => {
                eat(content.as_deref().unwrap_or_default());
                tool_calls.iter().for_each(|call| eat(&call.arguments));
            }
            ChatMessage::Tool { content, .. } => eat(content),
        }
    }
    hash
}

/// What a person's message, or a caller's, tells an agent to do.
pub(crate) fn errand(rng: &mut SmallRng, depth: u32) -> String {
    let number = rng.random_range(0..1_000);
    let what = match rng.random_range(0..40) {
        0..6 => String::new(),
        6..11 => format!("do:{}", pick(&TOOLS, rng)),
        11..16 => format!("do:{} do:{}", pick(&TOOLS, rng), pick(&TOOLS, rng)),
        16 | 17 => "do:pay do:ship".to_owned(),
        18..20 => "do:risky".to_owned(),
        20..23 if depth < 3 => format!("do:@{}", pick(&CALLEES, rng)),
        23..25 if depth < 2 => {
            let child = pick(&CALLEES, rng);
            format!("do:@{child} do:@{child}")
        }
        25..27 if depth < 2 => {
            format!("do:@{} do:{} do:@{}", pick(&CALLEES, rng), pick(&TOOLS, rng), pick(&CALLEES, rng))
        }
        27 | 28 => "do:ask".to_owned(),
        29 => "do:empty".to_owned(),
        30 => "do:error".to_owned(),
        31 => "do:slow".to_owned(),
        32 => "do:garbage do:read".to_owned(),
        33 => "do:unknown do:wrong".to_owned(),
        34 => "do:big".to_owned(),
        35 => {
            let tool = pick(&TOOLS, rng);
            format!("do:={tool} do:={tool}")
        }
        36 => "do:lookup do:lookup".to_owned(),
        37 if rng.random_bool(0.3) => "do:loop".to_owned(),
        _ => "hello".to_owned(),
    };
    format!("m{number} {what}")
}

fn pick<'a>(from: &[&'a str], rng: &mut SmallRng) -> &'a str {
    from.choose(rng).copied().unwrap_or_default()
}

/// The errand of the newest message of a person or caller, and whether tools were called since.
fn newest(request: &ModelRequest) -> (&str, bool) {
    let mut tools = false;
    for message in request.messages.iter().rev() {
        match message {
            // What a caller passes on of its own conversation stands before the errand.
            ChatMessage::User { content } => {
                return (content.rsplit("\n\n").next().unwrap_or_default(), tools);
            }
            ChatMessage::Tool { .. } => tools = true,
            _ => {}
        }
    }
    ("", tools)
}

fn text(text: &str) -> ModelReply {
    ModelReply {
        text: Some(text.to_owned()),
        prompt_tokens: Some(7),
        completion_tokens: Some(3),
        ..ModelReply::default()
    }
}

fn call_id(rng: &mut SmallRng) -> String {
    match rng.random_range(0..8) {
        0 => String::new(),
        1 => "call_1".to_owned(),
        _ => format!("c{:016x}", rng.random::<u64>()),
    }
}

/// A call for one word of an errand; none for a word that is no call.
fn call(word: &str, rng: &mut SmallRng) -> Option<ModelToolCall> {
    let n = rng.random_range(0..3);
    let (name, arguments) = match word {
        "ask" => ("ask_user".to_owned(), json!({"question": "which one?"}).to_string()),
        "garbage" => ("put".to_owned(), "{not json".to_owned()),
        "unknown" => ("no_such_tool".to_owned(), "{}".to_owned()),
        "wrong" => ("put".to_owned(), json!({"n": "three"}).to_string()),
        _ => match (word.strip_prefix('@'), word.strip_prefix('=')) {
            (Some(child), _) => {
                let context = match rng.random_range(0..6) {
                    0 => "summary",
                    1 => "last:2",
                    _ => "none",
                };
                let message = errand(rng, 2);
                let arguments = json!({"agent_id": child, "message": message, "context": context});
                ("delegate".to_owned(), arguments.to_string())
            }
            // The same arguments each time.
            (_, Some(tool)) => (tool.to_owned(), json!({"n": 7}).to_string()),
            _ if TOOLS.contains(&word) => (word.to_owned(), json!({"n": n}).to_string()),
            _ => return None,
        },
    };
    Some(ModelToolCall { id: call_id(rng), name, arguments })
}

fn calls(words: &[&str], rng: &mut SmallRng) -> ModelReply {
    let tool_calls = words.iter().filter_map(|word| call(word, rng)).collect();
    let text = rng.random_bool(0.4).then(|| "one moment".to_owned());
    ModelReply { text, tool_calls, prompt_tokens: Some(9), completion_tokens: None }
}

fn failure(rng: &mut SmallRng) -> ModelError {
    let (class, code) = match rng.random_range(0..3) {
        0 => (ModelErrorClass::Transient, "http_503"),
        1 => (ModelErrorClass::Permanent, "malformed"),
        _ => (ModelErrorClass::Timeout, "timeout"),
    };
    ModelError { class, code: code.to_owned(), message: "the simulated model fails".to_owned() }
}

fn follow_up(rng: &mut SmallRng) -> Result<ModelReply, ModelError> {
    Ok(match rng.random_range(0..40) {
        0..25 => text(&format!("it is {}", rng.random_range(0..100))),
        25..30 => calls(&[pick(&TOOLS, rng)], rng),
        30..33 => calls(&[pick(&TOOLS, rng), pick(&TOOLS, rng)], rng),
        33..35 => calls(&["=put", "=pay"], rng),
        35 => calls(&["@clerk"], rng),
        36 => calls(&["ask"], rng),
        37 | 38 => ModelReply::default(),
        _ => return Err(failure(rng)),
    })
}

fn reply(
    request: &ModelRequest,
    outside: &mut Outside,
    rng: &mut SmallRng,
) -> Result<ModelReply, ModelError> {
    let (message, after_tools) = newest(request);
    let words: Vec<&str> = message.split_whitespace().filter_map(|word| word.strip_prefix("do:")).collect();
    if words.contains(&"loop") {
        return Ok(calls(&["read"], rng));
    }
    if after_tools || message.starts_with("Before") || message.starts_with("Look") {
        return follow_up(rng);
    }
    if words.contains(&"empty") && rng.random_bool(0.8) {
        return Ok(ModelReply::default());
    }
    if words.contains(&"error") {
        return Err(failure(rng));
    }
    if words.contains(&"big") {
        outside.count("reply too large");
        return Ok(text(OVERSIZE));
    }
    let reply = calls(&words, rng);
    Ok(if reply.tool_calls.is_empty() {
        text(&format!("answer {}", rng.random_range(0..1_000)))
    } else {
        reply
    })
}

impl Port<Watched> for SimModel {
    fn answer(
        &mut self,
        asked: &Asked<'_, ModelRequest>,
        outside: &mut Outside,
        _: &mut SmallRng,
    ) -> CallAnswer<ModelOutcome> {
        let request = asked.request;
        let attempt = outside.starts.get(&asked.call).copied().unwrap_or(0);
        let mut rng = SmallRng::seed_from_u64(digest(self.seed, request, attempt));
        outside.count(if attempt > 1 { "model asked again by another owner" } else { "model asked" });
        if request.model != "sim/plain" {
            outside.count("overridden model asked");
        }
        let slow = newest(request).0.contains("do:slow") && rng.random_bool(0.7);
        let delay = if slow || rng.random_bool(0.02) {
            outside.count("slow model");
            9_000
        } else {
            rng.random_range(1..900)
        };
        let result = reply(request, outside, &mut rng);
        CallAnswer::After(delay, ModelOutcome { result, latency_ms: delay, attempts: 1 })
    }

    fn cut(&self, _: &ModelRequest, _: bool) -> Option<ModelOutcome> {
        let error = ModelError {
            class: ModelErrorClass::Timeout,
            code: "timeout".to_owned(),
            message: "no answer before the deadline".to_owned(),
        };
        Some(ModelOutcome { result: Err(error), latency_ms: 5_000, attempts: 1 })
    }
}
