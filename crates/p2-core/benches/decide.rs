//! What a decision, a rendered prompt and a fold cost on a short and on a long stack. The ratio of the two is the
//! figure to look at: `cargo bench -p p2-core`.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark of known data")]

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use p2_core::builtin;
use p2_core::conversation::Conversation;
use p2_core::ids::{BranchId, Id};
use p2_core::model::{ModelOutcome, ModelReply};
use p2_core::record::{InboxBody, InboxMessage, StateTransition, UserText};
use p2_core::registry::Registry;
use p2_core::step::{Context, Decision, Input, Settings, decide, open_asks};

/// Entries on the stack, waits included.
const DEPTHS: [usize; 2] = [10, 1_900];

struct Chat {
    conv: Conversation,
    log: Vec<StateTransition>,
    registry: Registry,
    settings: Settings,
    count: u32,
}

impl Chat {
    /// A chat of plain questions and answers with at least so many entries, nothing open.
    fn of(depth: usize) -> Chat {
        let (conv, log) = (Conversation::default(), Vec::new());
        let mut chat =
            Chat { conv, log, registry: builtin::registry(), settings: Settings::default(), count: 0 };
        while chat.conv.visible(&"agent_alpha".into(), &BranchId::main()).len() < depth {
            chat.take(&chat.question());
            chat.take(&chat.answer());
        }
        chat
    }

    fn question(&self) -> Input {
        let text = UserText {
            agent: Some("agent_alpha".into()),
            branch: None,
            text: "What is the weather in Paris today, and what will it be like tomorrow?".into(),
        };
        let message = InboxMessage { conversation: "demo".into(), body: InboxBody::UserText(text) };
        Input::Inbox { id: Id::of_text(&format!("input {}", self.count)), message }
    }

    fn answer(&self) -> Input {
        let reply = ModelReply {
            text: Some("It is 71.6 degrees today and it will be a little warmer tomorrow.".into()),
            tool_calls: Vec::new(),
            prompt_tokens: Some(100),
            completion_tokens: Some(20),
        };
        let wait = *self.conv.waits.keys().next().unwrap();
        Input::ModelReply { wait, outcome: ModelOutcome { result: Ok(reply), latency_ms: 900, attempts: 1 } }
    }

    fn context(&self) -> Context<'_> {
        Context { registry: &self.registry, settings: &self.settings }
    }

    fn decide(&self, input: &Input) -> Decision {
        decide(&self.conv, input, self.context(), 1_000 + i64::from(self.count))
    }

    fn take(&mut self, input: &Input) {
        for transition in self.decide(input).transitions {
            self.conv.apply(&transition).unwrap();
            self.log.push(transition);
        }
        self.count += 1;
    }
}

fn bench(c: &mut Criterion) {
    for depth in DEPTHS {
        let id = |name: &str| BenchmarkId::new(name, depth);
        let mut chat = Chat::of(depth);
        let question = chat.question();
        c.bench_with_input(id("clone"), &chat, |b, chat| b.iter(|| black_box(chat.conv.clone())));
        c.bench_with_input(id("decide a question"), &chat, |b, chat| {
            b.iter(|| black_box(chat.decide(&question)));
        });
        let folded = chat.decide(&question);
        c.bench_with_input(id("fold its transition"), &chat, |b, chat| {
            let setup = || chat.conv.clone();
            let fold = |mut conv: Conversation| {
                folded.transitions.iter().for_each(|one| conv.apply(one).unwrap());
                conv
            };
            b.iter_batched(setup, fold, BatchSize::SmallInput);
        });
        chat.take(&question);
        let answer = chat.answer();
        c.bench_with_input(id("decide an answer"), &chat, |b, chat| {
            b.iter(|| black_box(chat.decide(&answer)));
        });
        c.bench_with_input(id("render"), &chat, |b, chat| {
            b.iter(|| black_box(open_asks(&chat.conv, chat.context())));
        });
        c.bench_with_input(id("replay the log"), &chat, |b, chat| {
            b.iter(|| {
                let mut conv = Conversation::default();
                chat.log.iter().for_each(|one| conv.apply(one).unwrap());
                conv
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).without_plots();
    targets = bench
}
criterion_main!(benches);
