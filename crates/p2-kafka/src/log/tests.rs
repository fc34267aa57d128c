use super::*;

fn counts(of: impl Fn(Topic) -> i32) -> Result<(), LogError> {
    check_counts(&Names::new("x."), &Topic::ALL.into_iter().map(|topic| (topic, of(topic))).collect())
}

fn refusal(of: impl Fn(Topic) -> i32) -> String {
    match counts(of) {
        Err(LogError::Refused(sentence)) => sentence,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn topics_of_a_conversation_must_be_partitioned_alike_and_the_registry_must_be_one() {
    let fit = |topic| if topic == Topic::Registry { 1 } else { 4 };
    counts(fit).unwrap();
    let few = refusal(|topic| if topic == Topic::Effects { 3 } else { fit(topic) });
    assert!(few.starts_with("x.p2.effects.v1 has 3 partitions, but x.p2.inbox.v1 has 4"), "{few}");
    let books = refusal(|topic| if topic == Topic::LedgerTransactions { 3 } else { fit(topic) });
    let sentence = "x.p2.ledger-transactions.v1 has 3 partitions, but x.p2.payment-requests.v1 has 4";
    assert!(books.starts_with(sentence), "{books}");
    let other = |topic| matches!(topic, Topic::PaymentRequests | Topic::LedgerTransactions);
    counts(|topic| if other(topic) { 7 } else { fit(topic) }).unwrap();
    counts(|topic| if topic == Topic::DeadLetters { 9 } else { fit(topic) }).unwrap();
    assert!(refusal(|_| 4).starts_with("x.p2.registry.v1 has 4 partitions: it must have one"));
}

#[tokio::test]
async fn slots_are_numbered_and_one_that_is_closing_is_waited_for() {
    let slots: Arc<Slots> = Arc::default();
    let first = slots.take("g").await;
    let second = slots.take("g").await;
    assert_eq!((first.index, second.index), (0, 1));
    assert_eq!(slots.take("other").await.index, 0);
    first.closing();
    let waiting = tokio::spawn({
        let slots = Arc::clone(&slots);
        async move { slots.take("g").await.index }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(first);
    assert_eq!(waiting.await.unwrap(), 0);
    drop(second);
    assert!(slots.is_empty());
}
