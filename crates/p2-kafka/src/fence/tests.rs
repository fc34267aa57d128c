use super::*;

#[test]
fn an_answer_is_believed_only_with_a_mark_of_this_question() {
    let (mut earlier, mut marks) = (Marks::default(), Marks::default());
    let (old, first, second) = (earlier.next(), marks.next(), marks.next());
    assert!(marks.proves(Some(&first)) && marks.proves(Some(&second)));
    assert!(
        !marks.proves(Some(&old)),
        "what an earlier question wrote may be all that the coordinator loaded"
    );
    assert!(!marks.proves(Some("")) && !marks.proves(None));
    assert!(!Marks::default().proves(Some(&first)));
}
