//! A true story that breaks no promise; and, one by one, stories that do, with what the checker says of them.

use std::sync::Arc;

use evaluator::{EvaluatorLane, Evaluators, JudgeRequest, Ruling};
use p2_core::apply::parse_file;
use p2_core::conversation::Conversation;
use p2_core::eval::reply::Judgement;
use p2_core::eval::trajectory::Trajectory;
use p2_core::eval::{Place, rules};
use p2_core::ids::BookId;
use p2_core::ledger::Book;
use p2_core::model::{ModelOutcome, ModelReply, ModelToolCall};
use p2_core::record::*;
use p2_core::state::{Answer, AnswerKind, State, WaitKind};
use p2_core::step::{self, Context, Input};
use p2_stream::ports::ToolReply;
use p2_stream::processor::{LaneInput, Processor};
use p2_stream::wire;
use settlement::Settlement;
use tool_exec::{ToolExec, ToolExecReply, ToolLane};

use super::{BTreeMap, ConversationId, Evidence, Id, check};
use crate::chaos::evidence::{Lying as Record, POISONED, TOPICS};
use crate::chaos::history::{Called, Event, Line};
use crate::chaos::payers::opened;

mod money;

const PARTITIONS: i32 = 4;

/// Plays the processors, one after the other, and writes down what they write.
struct Story {
    evidence: Evidence,
    conversations: BTreeMap<ConversationId, Conversation>,
    books: BTreeMap<BookId, Book>,
    asked: u64,
    now_ms: i64,
}

fn key(name: &str) -> ConversationId {
    ConversationId::from(name)
}

impl Story {
    fn new() -> Story {
        let mut evidence = Evidence::default();
        p2_core::builtin::definitions().into_iter().for_each(|one| evidence.registry.insert(one, 0));
        for definition in parse_file(include_str!("../agents.yml"), "agents.yml").unwrap() {
            evidence.registry.insert(definition, 1);
        }
        for topic in TOPICS {
            (0..PARTITIONS)
                .for_each(|partition| drop(evidence.topics.insert((topic, partition), Vec::new())));
        }
        let (conversations, books) = (BTreeMap::new(), BTreeMap::new());
        let mut story = Story { evidence, conversations, books, asked: 0, now_ms: 1_000 };
        opened().into_iter().for_each(|request| story.asks(request));
        story
    }

    fn append(&mut self, partition: i32, record: Result<Message, String>, topic: Topic) -> i64 {
        let records = self.evidence.topics.get_mut(&(topic, partition)).unwrap();
        // Markers of transactions lie in between.
        let offset = records.last().map_or(0, |(offset, _)| offset + 2);
        records.push((offset, record));
        offset
    }

    fn commit(&mut self, messages: &[Message]) -> Vec<Position> {
        let one = |message: &Message| {
            let (topic, partition) =
                (message.payload.topic(), wire::partition(message.payload.key(), PARTITIONS));
            let offset = self.append(partition, Ok(message.clone()), topic);
            Position { topic, partition, offset }
        };
        messages.iter().map(one).collect()
    }

    /// Commits, and lets those who read it do their work.
    fn goes_on(&mut self, messages: &[Message]) {
        let places = self.commit(messages);
        for (message, at) in messages.iter().zip(places) {
            match &message.payload {
                Payload::PaymentRequest(request) => self.settle(message, &request.book, at),
                Payload::Artifact(_) => self.judge(message),
                _ => {}
            }
        }
    }

    /// A person asks the ledger.
    fn asks(&mut self, request: PaymentRequest) {
        self.asked += 1;
        let (id, book) = (Id::of_text(&format!("asks {}", self.asked)), request.book.to_string());
        let kind = request.body.kind().to_owned();
        let payload = Payload::PaymentRequest(request);
        let record = Message { id, cause: id, cause_position: None, time_ms: 0, traceparent: None, payload };
        self.note(Event::Asked { id, book, kind });
        let partition = wire::partition(record.payload.key(), PARTITIONS);
        let offset = self.evidence.topics[&(Topic::PaymentRequests, partition)]
            .last()
            .map_or(0, |(offset, _)| offset + 2);
        self.note(Event::Taken { id, partition, offset });
        self.goes_on(&[record]);
    }

    /// `settlement` decides, and whoever waits hears of it.
    fn settle(&mut self, record: &Message, name: &BookId, at: Position) {
        self.now_ms += 1;
        let book = self.books.entry(name.clone()).or_default();
        let input = LaneInput::Record(record.clone());
        let mut step = Settlement.decide(name.as_str(), book, &input, self.now_ms);
        step.outputs.iter_mut().for_each(|output| output.cause_position = Some(at));
        step.outputs.iter().for_each(|output| Settlement.apply(book, output).unwrap());
        self.commit(&step.outputs);
        for output in &step.outputs {
            if let Payload::Inbox(message) = &output.payload {
                let conversation = message.conversation.0.clone();
                self.decide(&conversation, &Input::Inbox { id: output.id, message: message.clone() });
            }
        }
    }

    /// `evaluator` judges.
    fn judge(&mut self, record: &Message) {
        let registry = Arc::new(self.evidence.registry.clone());
        let evaluators = Evaluators::new(move || registry.clone());
        let mut lane = EvaluatorLane::default();
        evaluators.apply(&mut lane, record).unwrap();
        let key = evaluators.lane_key(record);
        let asked = evaluators.decide(&key, &lane, &LaneInput::Record(record.clone()), self.now_ms);
        for call in &asked.calls {
            let reply = LaneInput::Reply { call: call.id, reply: self.rulings(&call.request) };
            let judged = evaluators.decide(&key, &lane, &reply, self.now_ms);
            self.goes_on(&judged.outputs);
        }
    }

    /// What rules say; models say 0.7.
    fn rulings(&self, request: &JudgeRequest) -> Vec<Ruling> {
        let (spot, entry) = (&request.spot, request.spot.entry.unwrap());
        let conversation = &self.conversations[&spot.conversation];
        let place = Place::of(conversation, &spot.agent, &spot.branch, entry);
        let shown = Trajectory::of(conversation, &place, &spot.branch).unwrap();
        let judges = request.candidates.iter().filter(|candidate| candidate.when.holds(&shown));
        let ruling = |candidate: &evaluator::Candidate| {
            let opinion = || Ok(Judgement { score: 0.7, ..Judgement::default() });
            let said = rules::judge(&candidate.evaluator.kind, &shown, None).unwrap_or_else(opinion).unwrap();
            let evaluation = Evaluation {
                target: place.target(),
                evaluator: candidate.evaluator.id.clone(),
                version: candidate.version,
                occasion: candidate.occasion.clone(),
                score: Some(said.score),
                metrics: said.metrics,
                samples: 1,
                ..Evaluation::default()
            };
            Ruling::Judged {
                place: place.clone(),
                parent: None,
                book: None,
                evaluation: Box::new(evaluation),
            }
        };
        judges.map(ruling).collect()
    }

    fn note(&mut self, event: Event) {
        self.evidence.history.push(Line { at_ms: 0, event });
    }

    /// A person writes, and `agent-step` decides.
    fn says(&mut self, conversation: &str, id: &str, body: InboxBody) -> Id {
        let id = Id::of_text(id);
        let message = InboxMessage { conversation: key(conversation), body };
        let payload = Payload::Inbox(message.clone());
        let record = Message { id, cause: id, cause_position: None, time_ms: 0, traceparent: None, payload };
        let partition = wire::partition(conversation, PARTITIONS);
        let offset = self.append(partition, Ok(record), Topic::Inbox);
        self.note(Event::Sent { id, conversation: conversation.to_owned(), kind: "said".to_owned() });
        self.note(Event::Acknowledged { id, partition, offset });
        self.decide(conversation, &Input::Inbox { id, message });
        id
    }

    fn decide(&mut self, conversation: &str, input: &Input) {
        self.now_ms += 10;
        let registry = self.evidence.registry.clone();
        let context = Context { registry: &registry, settings: &self.evidence.settings };
        let known = self.conversations.entry(key(conversation)).or_default();
        let decision = step::decide(known, input, context, self.now_ms);
        for transition in &decision.transitions {
            known.apply(transition).unwrap();
        }
        let meta = agent_step::Meta { input: input.id(), time_ms: self.now_ms, traceparent: None };
        self.goes_on(&agent_step::messages(&decision, &meta));
        for effect in &decision.effects {
            self.execute(effect);
        }
    }

    /// `tool-exec` claims, the tool does it and notes it, the outcome is decided.
    fn execute(&mut self, effect: &Effect) {
        let EffectBody::CallTool(call) = &effect.body else { return };
        let registry = std::sync::Arc::new(self.evidence.registry.clone());
        let executor = ToolExec::new(move || registry.clone());
        let payload = Payload::Effect(effect.clone());
        let (id, time_ms) = (effect.id, self.now_ms);
        let record = Message { id, cause: id, cause_position: None, time_ms, traceparent: None, payload };
        let lane_key = effect.id.to_string();
        let mut lane = ToolLane::default();
        executor.apply(&mut lane, &record).unwrap();
        let asked = executor.decide(&lane_key, &lane, &LaneInput::Record(record), self.now_ms);
        self.commit(&asked.outputs);
        asked.outputs.iter().for_each(|output| executor.apply(&mut lane, output).unwrap());
        for begin in [true, false] {
            self.evidence.calls.push(Called { begin, effect: effect.id, tool: call.tool.clone() });
        }
        let reply = ToolExecReply::Tool {
            reply: ToolReply::Success(call.arguments.0.clone()),
            latency_ms: 4,
            cache_hit: false,
        };
        let reply = LaneInput::Reply { call: asked.calls[0].id, reply };
        let done = executor.decide(&lane_key, &lane, &reply, self.now_ms);
        self.commit(&done.outputs);
        let Some(Message { id, payload: Payload::Inbox(message), .. }) = done.outputs.first() else {
            panic!("{done:?}")
        };
        let conversation = message.conversation.0.clone();
        self.decide(&conversation, &Input::Inbox { id: *id, message: message.clone() });
    }

    /// The model answers the one open question.
    fn model(&mut self, conversation: &str, text: &str, calls: &[&str]) {
        let open = &self.conversations[&key(conversation)].waits;
        let wait = *open.iter().find(|(_, wait)| wait.waiting.kind == WaitKind::Llm).unwrap().0;
        let calls = calls.iter().zip(0..).map(|(tool, n)| ModelToolCall {
            id: format!("call_{text}_{n}"),
            name: (*tool).to_owned(),
            arguments: match *tool {
                "ask_user" => r#"{"question": "which?"}"#.to_owned(),
                _ => r#"{"n": 1}"#.to_owned(),
            },
        });
        let reply =
            ModelReply { text: Some(text.to_owned()), tool_calls: calls.collect(), ..ModelReply::default() };
        let outcome = ModelOutcome { result: Ok(reply), latency_ms: 1, attempts: 1 };
        self.decide(conversation, &Input::ModelReply { wait, outcome });
    }

    /// What the store and the live reader make of it.
    fn told(mut self) -> Evidence {
        let topics = self.evidence.topics.clone();
        for (&(topic, partition), records) in &topics {
            for (offset, record) in records {
                let id = record.as_ref().ok().map(|message| message.id);
                let topic = topic.short().to_owned();
                self.note(Event::Seen { topic, partition, offset: *offset, id });
                if let Ok(Message { payload: Payload::Transition(transition), .. }) = record {
                    let store = &mut self.evidence.store;
                    let of = store.transitions.entry(transition.conversation.clone()).or_default();
                    of.push(transition.clone());
                    store.listed.insert(transition.conversation.clone(), of.len() as i64);
                    store.applied.insert(partition, offset + 1);
                }
            }
        }
        for (conversation, folded) in &self.conversations {
            let partition = wire::partition(conversation.as_str(), PARTITIONS);
            let open = self.evidence.store.open.entry(partition).or_default();
            open.extend((!folded.waits.is_empty()).then(|| conversation.clone()));
        }
        self.evidence.books = self.books;
        self.evidence
    }
}

fn text(text: &str) -> InboxBody {
    InboxBody::UserText(UserText { agent: Some("boss".into()), branch: None, text: text.to_owned() })
}

/// Two conversations: one pays, the other asks a person, who answers twice.
fn truth() -> Evidence {
    let mut story = Story::new();
    story.says("a", "a1", text("pay"));
    story.model("a", "paying", &["dev_pay"]);
    story.model("a", "paid", &[]);
    story.says("a", "a2", text("thanks"));
    story.model("a", "welcome", &[]);
    story.says("b", "b1", text("ask me"));
    story.model("b", "asking", &["ask_user"]);
    let request = *story.conversations[&key("b")].waits.keys().next().unwrap();
    let answer = Answer { kind: AnswerKind::Text, text: "that one".to_owned(), arguments: None };
    let answer =
        |by: &str| InboxBody::HumanAnswer(HumanAnswer { request, answer: answer.clone(), by: by.to_owned() });
    story.says("b", "b2", answer("one"));
    story.says("b", "b3", answer("two"));
    story.model("b", "so be it", &[]);
    let partition = wire::partition("a", PARTITIONS);
    let offset = story.append(partition, Err(POISONED.to_owned()), Topic::Inbox);
    story.note(Event::Poisoned { partition, offset });
    let letter = DeadLetter {
        id: Id::of_text("letter"),
        key: "a".to_owned(),
        topic: Topic::Inbox.name(),
        partition,
        offset,
        group: "p2.agent-step".to_owned(),
        code: "not_single_object".to_owned(),
        reason: "not Avro".to_owned(),
        headers: Vec::new(),
        value: Vec::new(),
        time_ms: 0,
    };
    let id = letter.id;
    let payload = Payload::DeadLetter(letter);
    let letter = Message { id, cause: id, cause_position: None, time_ms: 0, traceparent: None, payload };
    story.commit(&[letter]);
    story.told()
}

/// The records of the topic in the partition of a conversation.
fn records<'e>(evidence: &'e mut Evidence, topic: Topic, conversation: &str) -> &'e mut Vec<Record> {
    evidence.topics.get_mut(&(topic, wire::partition(conversation, PARTITIONS))).unwrap()
}

fn message(record: &mut Record) -> &mut Message {
    record.1.as_mut().unwrap()
}

fn transition(record: &mut Record) -> &mut StateTransition {
    let Payload::Transition(transition) = &mut message(record).payload else { panic!("no transition") };
    transition
}

/// The `n`-th transition of a conversation (another one may share its partition).
fn nth<'e>(evidence: &'e mut Evidence, conversation: &str, n: usize) -> &'e mut StateTransition {
    let of = records(evidence, Topic::StateTransitions, conversation).iter_mut().map(transition);
    of.filter(|transition| transition.conversation.as_str() == conversation).nth(n).unwrap()
}

fn effect(evidence: &mut Evidence) -> Id {
    message(&mut records(evidence, Topic::Effects, "a")[0]).id
}

#[track_caller]
fn says(change: impl FnOnce(&mut Evidence), expected: &str) {
    let mut evidence = truth();
    change(&mut evidence);
    let violations = check(&evidence).violations;
    let said = violations.iter().any(|violation| violation.contains(expected));
    assert!(said, "nothing says '{expected}': {violations:#?}");
}

fn without_outcomes(records: &mut Vec<Record>, input: &str, keep: usize) {
    let input = Id::of_text(input);
    let mut kept = 0;
    records.retain_mut(|record| match &message(record).payload {
        Payload::Artifact(Artifact { body: ArtifactBody::InputOutcome(outcome), .. })
            if outcome.input == input =>
        {
            kept += 1;
            kept <= keep
        }
        _ => true,
    });
}

#[test]
fn a_true_story_breaks_no_promise_and_is_looked_at_whole() {
    let verdict = check(&truth());
    assert_eq!(verdict.violations, Vec::<String>::new());
    let counted = |what: &str| verdict.checked[what];
    assert_eq!(counted("acknowledged inputs"), 5);
    assert_eq!(counted("inputs"), 6);
    assert_eq!(counted("conversations"), 2);
    assert_eq!(counted("claimed calls"), 1);
    assert_eq!(counted("poison records"), 1);
    assert_eq!(counted("records"), counted("records read along"));
    assert_eq!(verdict.features["answer lost the race"], 1);
}

#[test]
fn an_acknowledged_input_that_is_gone_is_lost() {
    says(
        |evidence| {
            let _ = records(evidence, Topic::Inbox, "a").remove(0);
        },
        "and is not there: it is lost",
    );
}

#[test]
fn an_input_where_another_one_was_acknowledged_is_noticed() {
    says(
        |evidence| message(&mut records(evidence, Topic::Inbox, "a")[0]).id = Id::of_text("x"),
        "was acknowledged at",
    );
}

#[test]
fn an_input_without_an_outcome_is_lost() {
    says(
        |evidence| without_outcomes(records(evidence, Topic::Artifacts, "a"), "a1", 0),
        "lies in the inbox and has no outcome: it is lost",
    );
}

#[test]
fn an_input_with_two_outcomes_is_noticed() {
    says(
        |evidence| {
            let records = records(evidence, Topic::Artifacts, "a");
            let mut again: Vec<Record> = records.clone();
            again.retain_mut(|record| {
                matches!(&message(record).payload, Payload::Artifact(artifact)
                if matches!(artifact.body, ArtifactBody::InputOutcome(_)))
            });
            let mut again = again.swap_remove(0);
            (again.0, message(&mut again).id) = (9_999, Id::of_text("again"));
            records.push(again);
        },
        "has 2 outcomes",
    );
}

#[test]
fn a_record_that_was_committed_twice_is_noticed() {
    for topic in [Topic::StateTransitions, Topic::Effects, Topic::Artifacts] {
        says(
            |evidence| {
                let records = records(evidence, topic, "a");
                let again = (9_999, records[0].1.clone());
                records.push(again);
            },
            "was committed twice: at",
        );
    }
}

#[test]
fn an_input_that_was_applied_twice_is_noticed() {
    says(|evidence| nth(evidence, "a", 4).input = Id::of_text("a1"), "was applied twice");
}

#[test]
fn inputs_that_were_applied_out_of_order_are_noticed() {
    says(
        |evidence| {
            // The first message of the conversation lies behind all others.
            let records = records(evidence, Topic::Inbox, "a");
            let (_, first) = records.remove(0);
            records.push((9_999, first));
        },
        "was applied after",
    );
}

#[test]
fn a_transition_that_is_missing_is_noticed() {
    says(
        |evidence| {
            let records = records(evidence, Topic::StateTransitions, "a");
            let place =
                records.iter_mut().position(|one| transition(one).conversation.as_str() == "a").unwrap();
            let _ = records.remove(place + 1);
        },
        "where 1 was due",
    );
}

#[test]
fn a_transition_in_a_partition_of_others_is_noticed() {
    says(
        |evidence| {
            let moved = std::mem::take(records(evidence, Topic::StateTransitions, "a"));
            let other = (wire::partition("a", PARTITIONS) + 1) % PARTITIONS;
            evidence.topics.get_mut(&(Topic::StateTransitions, other)).unwrap().extend(moved);
        },
        "lies in a partition of others",
    );
}

#[test]
fn a_wait_with_two_winners_is_noticed() {
    says(
        |evidence| {
            let request = evidence.topics.values_mut().flatten().find_map(|record| {
                let Ok(Message { payload: Payload::Inbox(inbox), .. }) = &record.1 else { return None };
                match &inbox.body {
                    InboxBody::HumanAnswer(answer) => Some(answer.request),
                    _ => None,
                }
            });
            let loser = Id::of_text("b3");
            let of = records(evidence, Topic::StateTransitions, "b").iter_mut().map(transition);
            let lost = { of }.find(|transition| transition.input == loser).unwrap();
            lost.changes.insert(0, Change::Closed(Closed { waits: vec![request.unwrap()] }));
        },
        "has two winners",
    );
}

#[test]
fn a_step_that_does_not_follow_from_the_log_is_noticed() {
    says(
        |evidence| {
            let Change::Appended(appended) = nth(evidence, "a", 0)
                .changes
                .iter_mut()
                .find(|one| matches!(one, Change::Appended(_)))
                .unwrap()
            else {
                unreachable!()
            };
            let State::UserMessage(said) = &mut appended.entries[0].state else { panic!("no message") };
            said.text = "something else".to_owned();
        },
        "decided again on its log",
    );
}

#[test]
fn a_conversation_that_never_goes_on_is_noticed() {
    says(
        |evidence| {
            let records = records(evidence, Topic::StateTransitions, "b");
            records.retain_mut(|one| {
                let transition = transition(one);
                transition.conversation.as_str() != "b" || transition.seq < 4
            });
        },
        "is open: OpenWait",
    );
}

#[test]
fn a_call_that_may_not_be_repeated_and_was_is_noticed() {
    says(
        |evidence| {
            let again = evidence.calls[0].clone();
            evidence.calls.push(again);
        },
        "may not be repeated and was called 2 times",
    );
}

#[test]
fn a_call_without_a_claim_is_noticed() {
    says(
        |evidence| {
            records(evidence, Topic::Artifacts, "a").retain_mut(|record| {
                !matches!(&message(record).payload, Payload::Artifact(Artifact { body: ArtifactBody::ToolRun(run), .. })
                    if run.phase == "intent")
            });
        },
        "was called without a committed claim",
    );
}

#[test]
fn a_call_for_an_effect_of_an_aborted_transaction_is_noticed() {
    says(
        |evidence| {
            let effect = Id::of_text("aborted");
            evidence.calls.push(Called { begin: true, effect, tool: "dev_read".to_owned() });
        },
        "which was never committed",
    );
}

#[test]
fn a_success_that_nobody_saw_outside_is_noticed() {
    says(|evidence| evidence.calls.retain(|called| called.begin), "never ended outside");
}

#[test]
fn an_expired_call_that_was_made_is_noticed() {
    says(
        |evidence| {
            for record in records(evidence, Topic::Inbox, "a").iter_mut().filter(|record| record.1.is_ok()) {
                if let Payload::Inbox(InboxMessage { body: InboxBody::ToolOutcome(outcome), .. }) =
                    &mut message(record).payload
                {
                    outcome.status = p2_core::state::ToolStatus::Expired;
                }
            }
        },
        "is said to have expired and was called 1 times",
    );
}

#[test]
fn an_effect_without_an_answer_is_noticed() {
    says(
        |evidence| {
            let answer = Id::derive(&effect(evidence), "outcome", 0);
            records(evidence, Topic::Inbox, "a")
                .retain(|(_, record)| record.as_ref().map_or(true, |message| message.id != answer));
        },
        "has 0 answers",
    );
}

#[test]
fn a_message_that_nobody_sent_is_noticed() {
    says(
        |evidence| {
            let id = Id::of_text("a2");
            evidence
                .history
                .retain(|line| !matches!(&line.event, Event::Sent { id: sent, .. } if *sent == id));
        },
        "nobody sent user_text",
    );
}

#[test]
fn what_cannot_be_read_and_is_no_poison_of_ours_is_noticed() {
    says(
        |evidence| records(evidence, Topic::Effects, "a")[0].1 = Err("torn".to_owned()),
        "cannot be read: torn",
    );
}

#[test]
fn poison_without_a_letter_and_with_two_is_noticed() {
    says(|evidence| records(evidence, Topic::DeadLetters, "a").clear(), "has 0 dead letters");
    says(
        |evidence| {
            let letters = records(evidence, Topic::DeadLetters, "a");
            let again = (9_999, letters[0].1.clone());
            letters.push(again);
        },
        "has 2 dead letters",
    );
}

#[test]
fn a_good_record_in_dead_letters_is_noticed() {
    says(
        |evidence| {
            let letters = records(evidence, Topic::DeadLetters, "a");
            let Payload::DeadLetter(letter) = &mut message(&mut letters[0]).payload else { unreachable!() };
            letter.offset = 0;
        },
        "went to dead-letters: not Avro",
    );
}

#[test]
fn poison_that_was_not_acknowledged_may_be_there_or_not() {
    let mut evidence = truth();
    evidence.history.retain(|line| !matches!(line.event, Event::Poisoned { .. }));
    assert_eq!(check(&evidence).violations, Vec::<String>::new());
    says(
        |evidence| {
            let lines = evidence.history.iter_mut();
            let offsets = lines.filter_map(|line| match &mut line.event {
                Event::Poisoned { offset, .. } => Some(offset),
                _ => None,
            });
            offsets.for_each(|offset| *offset += 1);
        },
        "poison was acknowledged at",
    );
}

/// The live reader's lines of the transitions of a conversation.
fn seen(evidence: &mut Evidence, conversation: &str) -> Vec<usize> {
    let wanted = wire::partition(conversation, PARTITIONS);
    let lines = evidence.history.iter().enumerate();
    let of = lines.filter(|(_, line)| {
        matches!(&line.event, Event::Seen { topic, partition, .. }
            if topic == "state-transitions" && *partition == wanted)
    });
    of.map(|(at, _)| at).collect()
}

#[test]
fn a_live_reader_that_saw_what_was_never_committed_is_noticed() {
    says(
        |evidence| {
            let at = seen(evidence, "a")[1];
            let mut line = evidence.history[at].clone();
            let Event::Seen { offset, id, .. } = &mut line.event else { unreachable!() };
            *offset -= 1;
            *id = Some(Id::of_text("aborted"));
            evidence.history.insert(at, line);
        },
        "which was not committed or was seen before",
    );
}

#[test]
fn a_live_reader_that_saw_a_record_twice_or_never_is_noticed() {
    says(
        |evidence| {
            let at = seen(evidence, "a")[1];
            let line = evidence.history[at].clone();
            evidence.history.insert(at, line);
        },
        "the live reader saw",
    );
    says(
        |evidence| {
            let at = *seen(evidence, "a").last().unwrap();
            evidence.history.remove(at);
        },
        "the live reader never saw",
    );
}

#[test]
fn a_store_that_lacks_or_changes_a_row_is_noticed() {
    let of =
        |evidence: &mut Evidence| evidence.store.transitions.get_mut(&key("a")).map(std::mem::take).unwrap();
    says(
        |evidence| {
            let mut rows = of(evidence);
            rows.pop();
            evidence.store.transitions.insert(key("a"), rows);
        },
        "a: the store has",
    );
    says(
        |evidence| {
            let mut rows = of(evidence);
            rows[1].time_ms += 1;
            evidence.store.transitions.insert(key("a"), rows);
        },
        "the first that differs is 1",
    );
}

#[test]
fn lists_of_the_store_that_differ_from_the_log_are_noticed() {
    says(
        |evidence| {
            evidence.store.listed.insert(key("z"), 1);
        },
        "z: the store lists it",
    );
    says(
        |evidence| {
            evidence.store.listed.remove(&key("a"));
        },
        "a: the list of the store says None",
    );
    says(
        |evidence| evidence.store.open.values_mut().for_each(|open| open.push(key("a"))),
        "a: it has no open waits and is in the store's list",
    );
}

#[test]
fn an_applied_offset_behind_the_log_is_noticed() {
    says(
        |evidence| evidence.store.applied.values_mut().for_each(|applied| *applied = 1),
        "is applied up to 1",
    );
}
