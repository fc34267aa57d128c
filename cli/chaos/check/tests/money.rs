//! A true story of money and judgement, and stories that break what is promised of them.

use p2_sim::money::request;

use super::*;

/// People pay, ask again, ask for too much and set aside; an agent works under a budget, is judged and paid.
fn wealth() -> Evidence {
    let mut story = Story::new();
    let main = BookId::from("main");
    let transfer = |amount: i64| {
        let legs = vec![Leg { from: "ann".into(), to: "bob".into(), amount }];
        PaymentBody::Transfer(Transfer { legs, scale: None })
    };
    let reserve = |expires_ms: Option<i64>| {
        let (from, to) = ("ann".into(), "cid".into());
        PaymentBody::Reserve(Reserve { from, to, amount: 500, expires_ms, scale: None })
    };
    story.asks(request(&main, "first", transfer(100)));
    story.asks(request(&main, "first", transfer(100)));
    story.asks(request(&main, "first", transfer(200)));
    story.asks(request(&main, "too much", transfer(1_000_000)));
    for (name, amount) in [("set aside", Some(200)), ("given back", None)] {
        story.asks(request(&main, name, reserve(amount.map(|_| 9_000_000))));
        let reservation = Id::of_text(name);
        let end = match amount {
            Some(_) => PaymentBody::Post(Post { reservation, amount, scale: None }),
            None => PaymentBody::Void(Void { reservation }),
        };
        story.asks(request(&main, &format!("end of {name}"), end));
    }
    story.says("c", "c1", to("hired", "work"));
    story.model("c", "working", &["dev_read"]);
    story.model("c", "worked", &[]);
    story.asks(request(&main, "last", transfer(300)));
    story.told()
}

fn to(agent: &str, text: &str) -> InboxBody {
    InboxBody::UserText(UserText { agent: Some(agent.into()), branch: None, text: text.to_owned() })
}

#[track_caller]
fn says(change: impl FnOnce(&mut Evidence), expected: &str) {
    let mut evidence = wealth();
    change(&mut evidence);
    let violations = check(&evidence).violations;
    let said = violations.iter().any(|violation| violation.contains(expected));
    assert!(said, "nothing says '{expected}': {violations:#?}");
}

fn ledger(evidence: &mut Evidence) -> &mut Vec<Record> {
    records(evidence, Topic::LedgerTransactions, "main")
}

fn asked(evidence: &mut Evidence) -> &mut Vec<Record> {
    records(evidence, Topic::PaymentRequests, "main")
}

fn request_of(record: &Record) -> Option<&PaymentRequest> {
    match record.1.as_ref().map(|message| &message.payload) {
        Ok(Payload::PaymentRequest(request)) => Some(request),
        Ok(Payload::LedgerTransaction(made)) => Some(&made.request),
        _ => None,
    }
}

/// The places of records that ask for this, or say what became of it.
fn at(records: &[Record], wanted: impl Fn(&PaymentRequest) -> bool) -> Vec<usize> {
    let places = records.iter().enumerate();
    places.filter(|(_, record)| request_of(record).is_some_and(&wanted)).map(|(place, _)| place).collect()
}

fn named(name: &'static str) -> impl Fn(&PaymentRequest) -> bool {
    move |request| request.id == Id::of_text(name)
}

fn made(record: &mut Record) -> &mut LedgerTransaction {
    let Payload::LedgerTransaction(made) = &mut message(record).payload else { panic!("no transaction") };
    made
}

/// Adds a transaction at the end of the book, as somebody wrote it, with its request.
fn adds(evidence: &mut Evidence, request: PaymentRequest, change: impl FnOnce(&mut LedgerTransaction)) {
    let (offset, mut record) = ledger(evidence).last().unwrap().clone();
    let id = Id::of_text("added");
    let written = record.as_mut().unwrap();
    written.id = id;
    let Payload::LedgerTransaction(added) = &mut written.payload else { unreachable!() };
    let previous = Some(added.id);
    *added =
        LedgerTransaction { id, seq: added.seq + 1, previous, request: request.clone(), ..added.clone() };
    change(added);
    ledger(evidence).push((offset + 2, record));
    let (offset, asks) = asked(evidence).last().unwrap().clone();
    let asks = Message { id, cause: id, payload: Payload::PaymentRequest(request), ..asks.unwrap() };
    asked(evidence).push((offset + 2, Ok(asks)));
    let event = Event::Asked { id, book: "main".to_owned(), kind: "transfer".to_owned() };
    evidence.history.push(Line { at_ms: 0, event });
}

/// Takes the end of a book away from some transaction on, and the requests of it.
fn ends_before(evidence: &mut Evidence, first: impl Fn(&PaymentRequest) -> bool) {
    let place = at(ledger(evidence), first)[0];
    let gone: Vec<Id> = ledger(evidence)[place..].iter().map(|one| request_of(one).unwrap().id).collect();
    ledger(evidence).truncate(place);
    asked(evidence).retain(|one| request_of(one).is_none_or(|request| !gone.contains(&request.id)));
}

/// The artifacts of a conversation of which this is true.
fn artifacts<'e>(
    evidence: &'e mut Evidence,
    conversation: &str,
    wanted: impl Fn(&Artifact) -> bool,
) -> Vec<&'e mut Message> {
    let of = records(evidence, Topic::Artifacts, conversation).iter_mut().map(message);
    of.filter(|message| matches!(&message.payload, Payload::Artifact(artifact) if wanted(artifact))).collect()
}

fn by(evaluator: &'static str) -> impl Fn(&Artifact) -> bool {
    move |artifact| matches!(&artifact.body, ArtifactBody::Evaluation(one) if one.evaluator == evaluator)
}

fn evaluation(message: &mut Message) -> &mut Evaluation {
    let Payload::Artifact(Artifact { body: ArtifactBody::Evaluation(evaluation), .. }) = &mut message.payload
    else {
        panic!("no evaluation")
    };
    evaluation
}

fn is_reward(request: &PaymentRequest) -> bool {
    matches!(request.body, PaymentBody::Reward(_))
}

fn of_budget(kind: &'static str) -> impl Fn(&PaymentRequest) -> bool {
    move |request| request.cause.kind == CauseKind::Budget && request.body.kind() == kind
}

#[test]
fn a_true_story_of_money_is_looked_at_whole() {
    let verdict = check(&wealth());
    assert_eq!(verdict.violations, Vec::<String>::new());
    let counted = |what: &str| verdict.checked.get(what).copied().unwrap_or(0);
    assert_eq!(counted("books"), 3);
    assert_eq!(counted("payment requests asked again"), 2);
    assert_eq!(counted("conflicting payment requests"), 1);
    assert_eq!(counted("evaluations that earn"), 1);
    assert_eq!(counted("rewards paid"), 1);
    assert_eq!(counted("payment results"), 3, "two calls of the model and one of a tool");
    assert_eq!(counted("evaluations that were due"), counted("evaluations"));
    assert_eq!(counted("evaluations"), 4, "of two messages by one, of the end of the run by two");
    assert_eq!(verdict.features["work: estimate set aside"], 3);
    assert_eq!(verdict.features["work: cost posted"], 3);
    assert_eq!(verdict.features["insufficient"], 1);
}

#[test]
fn an_acknowledged_request_that_is_gone_is_lost() {
    says(
        |evidence| {
            let place = at(asked(evidence), named("last"))[0];
            drop(asked(evidence).remove(place));
        },
        "was acknowledged at payment-requests/",
    );
}

#[test]
fn a_request_without_an_answer_is_lost() {
    says(
        |evidence| {
            let last = at(ledger(evidence), named("last"))[0];
            drop(ledger(evidence).remove(last));
        },
        "was asked for and has no answer: it is lost",
    );
}

#[test]
fn a_request_that_was_decided_twice_is_noticed() {
    says(
        |evidence| {
            let last = at(ledger(evidence), named("last"))[0];
            let paid = made(&mut ledger(evidence)[last]).clone();
            adds(evidence, paid.request.clone(), |added| added.postings = paid.postings);
        },
        "was decided 2 times",
    );
    says(
        |evidence| {
            let last = at(ledger(evidence), named("last"))[0];
            let paid = made(&mut ledger(evidence)[last]).clone();
            adds(evidence, paid.request.clone(), |added| added.postings = paid.postings);
        },
        "has its final answer already",
    );
}

#[test]
fn a_request_under_an_id_that_asks_for_something_else_is_refused_each_time() {
    says(
        |evidence| {
            let place = at(asked(evidence), named("first"))[2];
            let (_, mut again) = asked(evidence)[place].clone();
            let id = Id::of_text("once more");
            let record = again.as_mut().unwrap();
            (record.id, record.cause) = (id, id);
            asked(evidence).push((9_999, again));
        },
        "something else was asked for under its id 2 times, and decided 1 times",
    );
}

#[test]
fn a_transaction_for_which_nobody_asked_is_noticed() {
    says(
        |evidence| {
            let place = at(asked(evidence), named("last"))[0];
            drop(asked(evidence).remove(place));
        },
        "for which nobody asked",
    );
    says(
        |evidence| evidence.history.retain(|line| !matches!(&line.event, Event::Asked { .. })),
        "nobody asked for transfer",
    );
}

#[test]
fn requests_and_transactions_in_a_partition_of_others_are_noticed() {
    let other = (wire::partition("main", PARTITIONS) + 1) % PARTITIONS;
    for (topic, expected) in
        [(Topic::PaymentRequests, "payment request"), (Topic::LedgerTransactions, "ledger transaction")]
    {
        says(
            |evidence| {
                let moved = records(evidence, topic, "main").pop().unwrap();
                evidence.topics.get_mut(&(topic, other)).unwrap().push(moved);
            },
            &format!("{expected} "),
        );
        says(
            |evidence| {
                let moved = records(evidence, topic, "main").pop().unwrap();
                evidence.topics.get_mut(&(topic, other)).unwrap().push(moved);
            },
            "of book 'main' lies in a partition of others",
        );
    }
}

#[test]
fn a_chain_with_a_hole_is_noticed() {
    says(
        |evidence| {
            let place = at(ledger(evidence), named("too much"))[0];
            drop(ledger(evidence).remove(place));
        },
        "does not follow seq",
    );
}

#[test]
fn money_from_nowhere_is_noticed() {
    says(
        |evidence| {
            let last = at(ledger(evidence), named("last"))[0];
            made(&mut ledger(evidence)[last]).postings[0].to_after.posted += 1;
        },
        "does not follow, but",
    );
}

/// A transfer of all that ann has and more, with the balances that follow from it.
fn overdraft(evidence: &mut Evidence) {
    let book = evidence.books[&BookId::from("main")].clone();
    let has = |name: &str| book.accounts.get(&name.into()).unwrap().balance;
    let (ann, bob, amount) = (has("ann"), has("bob"), 1_000_000);
    let legs = vec![Leg { from: "ann".into(), to: "bob".into(), amount }];
    let body = PaymentBody::Transfer(Transfer { legs, scale: None });
    adds(evidence, request(&"main".into(), "overdraft", body), |added| {
        added.postings = vec![Posting {
            from: "ann".into(),
            to: "bob".into(),
            amount,
            from_after: Balance { posted: ann.posted - amount, ..ann },
            to_after: Balance { posted: bob.posted + amount, ..bob },
        }];
    });
}

#[test]
fn an_overdraft_is_noticed() {
    says(overdraft, "'ann' has -");
    says(overdraft, "the bookkeeper says: main");
}

#[test]
fn a_refusal_of_what_had_to_be_done_is_noticed() {
    says(
        |evidence| {
            let last = at(ledger(evidence), named("last"))[0];
            let made = made(&mut ledger(evidence)[last]);
            made.postings.clear();
            let (code, message) = ("insufficient".to_owned(), "no".to_owned());
            made.outcome = LedgerOutcome::Rejected(Rejected { code, message });
        },
        "was to follow and it is Rejected",
    );
}

#[test]
fn requests_that_were_decided_out_of_order_are_noticed() {
    says(
        |evidence| {
            let last = at(ledger(evidence), named("last"))[0];
            let record = message(&mut ledger(evidence)[last]);
            record.cause_position.as_mut().unwrap().offset = 0;
        },
        "was decided after that at",
    );
}

#[test]
fn books_that_were_read_along_and_differ_are_noticed() {
    says(
        |evidence| {
            evidence.books.remove(&BookId::from("side"));
        },
        "book 'side' as it was read along has 0 transactions",
    );
}

#[test]
fn a_reservation_that_does_not_end_by_its_time_is_noticed() {
    says(|evidence| ends_before(evidence, named("end of set aside")), "was to end at 9000000, and is open");
}

#[test]
fn a_reservation_for_work_that_has_ended_is_noticed() {
    let is_tools = |request: &PaymentRequest| {
        matches!(&request.body, PaymentBody::Reserve(reserve) if reserve.expires_ms.is_some())
            && request.cause.reason == "a call of dev_read"
    };
    says(
        |evidence| {
            // The end of the tool's reservation is gone, and its reservation has no end by time.
            let place = at(ledger(evidence), is_tools)[0];
            let id = request_of(&ledger(evidence)[place]).unwrap().id;
            for topic in [Topic::LedgerTransactions, Topic::PaymentRequests] {
                for record in records(evidence, topic, "main") {
                    let asked = match &mut message(record).payload {
                        Payload::PaymentRequest(request) => request,
                        Payload::LedgerTransaction(made) => &mut made.request,
                        _ => continue,
                    };
                    if let PaymentBody::Reserve(reserve) = &mut asked.body
                        && asked.id == id
                    {
                        reserve.expires_ms = None;
                    }
                }
            }
            ends_before(
                evidence,
                |request| matches!(&request.body, PaymentBody::Post(post) if post.reservation == id),
            );
        },
        "is for work of hired that has ended, and is open",
    );
}

#[test]
fn a_reservation_that_ended_before_its_call_is_noticed() {
    says(
        |evidence| {
            // The last transition that is left opens the wait for the tool.
            let is_c = |record: &mut Record| transition(record).conversation.as_str() == "c";
            let of = records(evidence, Topic::StateTransitions, "c");
            let waits = |record: &mut Record| {
                transition(record).changes.iter().any(|change| {
                    match change {
                    Change::Appended(appended) => appended.entries.iter().any(|entry| {
                        matches!(&entry.state, State::Waiting(waiting) if waiting.kind == WaitKind::Tool)
                    }),
                    _ => false,
                }
                })
            };
            let last = of.iter_mut().position(|record| is_c(record) && waits(record)).unwrap();
            of.truncate(last + 1);
        },
        "has ended, and the call that it is for has not",
    );
}

#[test]
fn whoever_waits_and_is_not_told_is_noticed() {
    says(
        |evidence| {
            records(evidence, Topic::Inbox, "c").retain_mut(|record| {
                !matches!(&message(record).payload, Payload::Inbox(inbox)
                    if matches!(inbox.body, InboxBody::PaymentResult(_)))
            });
        },
        "nobody was told of the end of reserve",
    );
}

#[test]
fn a_result_of_nothing_is_noticed() {
    says(
        |evidence| {
            for record in records(evidence, Topic::Inbox, "c") {
                if let Payload::Inbox(InboxMessage { body: InboxBody::PaymentResult(result), .. }) =
                    &mut message(record).payload
                {
                    result.request = Id::of_text("nobody's");
                }
            }
        },
        "for which nobody asked",
    );
}

#[test]
fn movements_and_their_artifacts_belong_together() {
    let is_payment = |artifact: &Artifact| matches!(artifact.body, ArtifactBody::Payment(_));
    says(
        |evidence| {
            records(evidence, Topic::Artifacts, "ledger:main").retain_mut(
                |record| !matches!(&message(record).payload, Payload::Artifact(artifact) if is_payment(artifact)),
            );
        },
        "moves money and has no artifact",
    );
    says(
        |evidence| {
            let mut found = artifacts(evidence, "ledger:main", is_payment);
            let Payload::Artifact(Artifact { body: ArtifactBody::Payment(payment), .. }) =
                &mut found[0].payload
            else {
                unreachable!()
            };
            payment.transaction = Id::of_text("another");
        },
        "which is not there",
    );
}

#[test]
fn a_run_that_was_not_judged_is_noticed() {
    for evaluator in ["tidy", "quick", "spent"] {
        says(
            |evidence| {
                records(evidence, Topic::Artifacts, "c").retain_mut(
                    |record| !matches!(&message(record).payload, Payload::Artifact(one) if by(evaluator)(one)),
                );
            },
            &format!("was never judged by {evaluator}"),
        );
    }
}

#[test]
fn a_target_that_was_judged_twice_is_noticed() {
    says(
        |evidence| {
            let mut again = artifacts(evidence, "c", by("quick"))[0].clone();
            again.id = Id::of_text("again");
            let Payload::Artifact(artifact) = &mut again.payload else { unreachable!() };
            artifact.id = again.id;
            records(evidence, Topic::Artifacts, "c").push((9_999, Ok(again)));
        },
        "was judged twice by quick, version 1",
    );
}

#[test]
fn an_evaluation_of_something_else_is_noticed() {
    says(
        |evidence| evaluation(artifacts(evidence, "c", by("quick"))[0]).target = Id::of_text("other"),
        "its id or target is not that of its place",
    );
    says(
        |evidence| evaluation(artifacts(evidence, "c", by("quick"))[0]).version = 7,
        "there is no version 7 of it",
    );
    says(
        |evidence| {
            let mut again = artifacts(evidence, "c", by("quick"))[0].clone();
            let place = Place {
                conversation: key("c"),
                agent: "hired".into(),
                branch: p2_core::ids::BranchId::main(),
                entry: 0,
            };
            again.id = p2_core::eval::evaluation_id(&place.target(), "quick", 1, "first");
            evaluation(&mut again).target = place.target();
            let Payload::Artifact(artifact) = &mut again.payload else { unreachable!() };
            (artifact.id, artifact.entry) = (again.id, Some(0));
            records(evidence, Topic::Artifacts, "c").push((9_999, Ok(again)));
        },
        "by quick: nothing led to it",
    );
}

#[test]
fn a_score_that_the_rule_does_not_give_is_noticed() {
    says(
        |evidence| evaluation(artifacts(evidence, "c", by("tidy"))[0]).score = Some(0.5),
        "the rule says 1 and it is Some(0.5)",
    );
    says(
        |evidence| evaluation(artifacts(evidence, "c", by("tidy"))[0]).score = Some(7.0),
        "its score is Some(7.0)",
    );
}

#[test]
fn an_evaluation_without_the_request_for_its_reward_is_noticed() {
    says(
        |evidence| {
            let place = at(asked(evidence), is_reward)[0];
            drop(asked(evidence).remove(place));
        },
        "by tidy is committed without the request for its reward",
    );
    says(
        |evidence| {
            let place = at(asked(evidence), is_reward)[0];
            let Payload::PaymentRequest(request) = &mut message(&mut asked(evidence)[place]).payload else {
                unreachable!()
            };
            let PaymentBody::Reward(reward) = &mut request.body else { unreachable!() };
            reward.score = 0.9;
        },
        "by tidy asked for another reward than it earns",
    );
}

#[test]
fn an_evaluation_that_the_policy_pays_for_and_that_is_not_paid_is_noticed() {
    says(
        |evidence| {
            let place = at(ledger(evidence), is_reward)[0];
            let made = made(&mut ledger(evidence)[place]);
            made.postings.clear();
            let (code, message) = ("frozen".to_owned(), "it is frozen".to_owned());
            made.outcome = LedgerOutcome::Rejected(Rejected { code, message });
        },
        "by tidy scored 1 and was not paid: frozen",
    );
    says(|evidence| ends_before(evidence, is_reward), "by tidy is committed without the request");
    says(
        |evidence| {
            let place = at(ledger(evidence), is_reward)[0];
            ledger(evidence).truncate(place);
        },
        "by tidy scored 1 and was not paid: no answer",
    );
}

#[test]
fn a_reward_that_was_paid_twice_or_for_nothing_is_noticed() {
    let twice = |evidence: &mut Evidence| {
        let place = at(ledger(evidence), is_reward)[0];
        let paid = made(&mut ledger(evidence)[place]).clone();
        adds(evidence, paid.request.clone(), |added| added.postings = paid.postings);
    };
    says(twice, "was paid 2 times");
    says(
        |evidence| {
            records(evidence, Topic::Artifacts, "c").retain_mut(
                |record| !matches!(&message(record).payload, Payload::Artifact(one) if by("tidy")(one)),
            );
        },
        "was asked for and no evaluation earned it",
    );
}

#[test]
fn a_cost_that_is_booked_twice_is_noticed() {
    says(
        |evidence| {
            let place = at(ledger(evidence), of_budget("post"))[0];
            let paid = made(&mut ledger(evidence)[place]).clone();
            let asked = PaymentRequest { id: Id::of_text("the end once more"), ..paid.request };
            adds(evidence, asked, |added| added.postings = paid.postings);
        },
        "which was not set aside",
    );
}
