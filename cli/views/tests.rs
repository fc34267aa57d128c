use expect_test::{Expect, expect};
use p2_core::conversation::{Branch, Conversation, OpenWait, Stack};
use p2_core::ids::{AgentId, BranchId, Id};
use p2_core::record::{Artifact, ArtifactBody, BranchStatus, Evaluation, EvaluationError, JudgeScore};
use p2_core::state::{AssistantMessage, Entry, State, UserMessage, WaitKind, Waiting};

use super::lineage::{counted, find_branch, lineage};
use super::{
    branches, clean, clean_json, clean_styled, evaluation, labelled, one_line, parse_time, stack, table,
    time, wrapped,
};

fn entry(seq: i64, branch: &str, state: State) -> Entry {
    Entry {
        seq,
        id: Id::of_text(&format!("{branch}/{seq}")),
        time_ms: 1_700_000_000_000 + seq * 1_000,
        state,
    }
}

fn user(seq: i64, branch: &str, text: &str) -> Entry {
    entry(seq, branch, State::UserMessage(UserMessage { text: text.into(), origin: None }))
}

fn reply(seq: i64, branch: &str, text: &str) -> Entry {
    let message = AssistantMessage { text: text.into(), ..AssistantMessage::default() };
    entry(seq, branch, State::AssistantMessage(message))
}

fn waiting(seq: i64, branch: &str) -> Entry {
    let id = Id::of_text(&format!("wait {branch}/{seq}"));
    let waiting =
        Waiting { id, kind: WaitKind::Llm, deadline_ms: None, correlation: String::new(), budget: None };
    entry(seq, branch, State::Waiting(waiting))
}

fn branch(id: &str, parent: Option<(&str, i64)>, created_ms: i64, entries: Vec<Entry>) -> Branch {
    Branch {
        id: id.into(),
        parent: parent.map(|(id, at)| (id.into(), at)),
        name: None,
        creator: if parent.is_some() { "user" } else { "open" }.into(),
        created_ms,
        call: None,
        entries: entries.into(),
        hidden: Vec::new(),
        status: BranchStatus::Idle,
    }
}

/// main: 0 user, 1 waiting, 2 reply, 3 user, 4 waiting, 5 reply. `aa11` leaves after 2, `bb22` leaves `aa11`.
fn sample() -> Conversation {
    let main = vec![
        user(0, "main", "What is π?"),
        waiting(1, "main"),
        reply(2, "main", "3.14159"),
        user(3, "main", "And 円周率 in\nJapanese?"),
        waiting(4, "main"),
        reply(5, "main", "Enshūritsu"),
    ];
    let mut second = branch("aa11", Some(("main", 2)), 20, vec![user(3, "aa11", "thanks")]);
    second.name = Some("short".into());
    let third = branch("bb22", Some(("aa11", 3)), 30, vec![reply(4, "bb22", "welcome")]);
    let all = [branch("main", None, 10, main), second, third];
    let branches = all.into_iter().map(|branch| (branch.id.clone(), branch)).collect();
    let stack = Stack { current: "aa11".into(), branches };
    Conversation {
        id: "demo".into(),
        root: "alpha".into(),
        stacks: [("alpha".into(), stack)].into(),
        ..Conversation::default()
    }
}

fn check(actual: &str, expected: Expect) {
    // The first line has no indent: `expect!` strips what all lines have in common.
    let plain = anstream::adapter::strip_str(actual);
    expected.assert_eq(&format!("shown:\n{plain}\n"));
}

fn entries<'a>(conversation: &'a Conversation, branch: &str) -> Vec<&'a Entry> {
    lineage(conversation, &AgentId::from("alpha"), &BranchId::from(branch))
}

#[test]
fn a_branch_shows_inherited_entries_up_to_the_fork_point_only() {
    let conversation = sample();
    let seqs: Vec<i64> = entries(&conversation, "bb22").iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, [0, 1, 2, 3, 4]);
    assert_eq!(entries(&conversation, "bb22").last().unwrap().id, Id::of_text("bb22/4"));
    assert_eq!(entries(&conversation, "bb22")[3].id, Id::of_text("aa11/3"));
}

#[test]
fn entries_hidden_by_a_destructive_rewind_do_not_show() {
    let mut conversation = sample();
    let stack = conversation.stacks.get_mut(&AgentId::from("alpha")).unwrap();
    stack.branches.get_mut(&BranchId::main()).unwrap().hidden.push((3, 5));
    let seqs: Vec<i64> = entries(&conversation, "main").iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, [0, 1, 2]);
}

#[test]
fn a_fork_shows_and_counts_what_its_parent_hid_after_it() {
    let mut conversation = sample();
    let (agent, fork) = (AgentId::from("alpha"), BranchId::from("aa11"));
    let stack = conversation.stacks.get_mut(&agent).unwrap();
    stack.branches.get_mut(&BranchId::main()).unwrap().hidden.push((1, 5));
    let shown: Vec<i64> = counted(&entries(&conversation, "aa11")).iter().map(|entry| entry.seq).collect();
    assert_eq!(shown, [0, 2, 3]);
    let typed = (0..3).map(|index| conversation.seq_at(&agent, &fork, index).unwrap());
    assert_eq!(typed.collect::<Vec<_>>(), shown, "what is shown is what is typed");
}

#[test]
fn a_circle_of_parents_ends() {
    let mut conversation = sample();
    let stack = conversation.stacks.get_mut(&AgentId::from("alpha")).unwrap();
    stack.branches.get_mut(&BranchId::main()).unwrap().parent = Some(("bb22".into(), 9));
    assert!(!entries(&conversation, "bb22").is_empty());
}

#[test]
fn a_stack_hides_waits_and_numbers_what_people_count() {
    check(
        &stack::render(&entries(&sample(), "main"), false, None, 80),
        expect![[r#"
            shown:
             INDEX  TIME (UTC)  KIND              CONTENT
             0      22:13:20    UserMessage       What is π?
             1      22:13:22    AssistantMessage  3.14159
             2      22:13:23    UserMessage       And 円周率 in Japanese?
             3      22:13:25    AssistantMessage  Enshūritsu
        "#]],
    );
}

#[test]
fn a_stack_shows_waits_on_demand_without_counting_them_and_cuts_to_the_newest() {
    check(
        &stack::render(&entries(&sample(), "main"), true, Some(3), 80),
        expect![[r#"
            shown:
             INDEX  TIME (UTC)  KIND              CONTENT
             2      22:13:23    UserMessage       And 円周率 in Japanese?
             ·      22:13:24    Waiting           llm 811af023
             3      22:13:25    AssistantMessage  Enshūritsu
            (3 earlier entries not shown; --n 0 shows all)
        "#]],
    );
}

#[test]
fn the_branch_tree_draws_parents_and_marks_the_current_branch() {
    check(
        &branches::render(&sample(), &"alpha".into()),
        expect![[r#"
            shown:
            alpha
            └── main  4 entries, by open, idle
                └── aa11 "short" *  3 entries, from index 1, by user, idle
                    └── bb22  4 entries, from index 2, by user, idle
        "#]],
    );
}

#[test]
fn the_diff_of_two_branches_starts_after_what_they_share() {
    let conversation = sample();
    let (a, b) = (entries(&conversation, "main"), entries(&conversation, "bb22"));
    check(
        &stack::diff(("main", &a), ("bb22", &b), 80),
        expect![[r#"
            shown:
            --- main
            +++ bb22
              2 shared entries
            -   2 UserMessage       And 円周率 in Japanese?
            -   3 AssistantMessage  Enshūritsu
            +   2 UserMessage       thanks
            +   3 AssistantMessage  welcome
        "#]],
    );
}

#[test]
fn a_branch_is_found_by_id_name_and_unique_beginning() {
    let conversation = sample();
    let of_agent = conversation.stacks.get(&AgentId::from("alpha")).unwrap();
    for wanted in ["aa11", "short", "aa"] {
        assert_eq!(find_branch(of_agent, wanted).unwrap().id.as_str(), "aa11", "{wanted}");
    }
    assert!(find_branch(of_agent, "zz").unwrap_err().contains("no branch 'zz'"));
    assert!(find_branch(of_agent, "").unwrap_err().contains("several"));
}

#[test]
fn wide_characters_count_twice_when_a_line_is_cut() {
    assert_eq!(one_line("円周率です", 6), "円周…");
    assert_eq!(one_line("a\n b\u{1b}[31m", 20), "a b[31m");
}

#[test]
fn text_is_wrapped_between_words_and_keeps_its_own_lines() {
    assert_eq!(wrapped("one two three\nfour\u{1b}[31m", 8), "one two\nthree\nfour[31m");
    assert_eq!(wrapped("円周率です とは", 10), "円周率です\nとは");
    assert_eq!(wrapped("unbreakable", 5), "unbreakable");
    assert_eq!(wrapped("", 5), "");
}

#[test]
fn nothing_of_others_moves_a_cursor_hides_or_turns_around() {
    let bad = "a\u{1b}[2Kb\r\u{7f}\u{9b}1m\u{200b}\u{200f}\u{202e}\u{2060}\u{2067}\u{feff}\u{e0041}\u{3164}\u{2800}\tc\nd";
    assert_eq!(clean(bad), "a[2Kb1m c\nd");
    assert_eq!(one_line(bad, 99), "a[2Kb 1m c d");
    assert_eq!(one_line("a \u{200b} b", 99), "a b");
    assert_eq!(wrapped(bad, 99), "a[2Kb1m c\nd");
    assert_eq!(
        clean_styled("\u{1b}[1;31mred\u{1b}[0m\u{1b}]0;title\u{7}\u{1b}[2J"),
        "\u{1b}[1;31mred\u{1b}[0m]0;title[2J"
    );
    let value = serde_json::json!({"reason": bad});
    let shown = clean_json(&value.to_string());
    assert!(shown.is_ascii(), "{shown}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
}

#[test]
fn every_cell_of_a_table_is_clean_and_on_one_line() {
    let row = || vec!["na\nme\u{1b}[8m".to_owned(), "b\u{202e}c".to_owned()];
    let expected = " NAME      LAST\n na me[8m  bc";
    assert_eq!(plain(&table::render(&["NAME", "LAST"], vec![row()], 80)), expected);
    assert_eq!(plain(&table::render_noted(&["NAME", "LAST"], vec![(row(), Vec::new())], 80)), expected);
}

#[test]
fn times_are_utc_on_leap_days_and_before_the_epoch() {
    assert_eq!(time(0), "1970-01-01 00:00:00");
    assert_eq!(time(1_709_164_800_000), "2024-02-29 00:00:00");
    assert_eq!(time(-1), "1969-12-31 23:59:59");
}

#[test]
fn a_time_is_read_as_it_is_shown_and_a_day_is_its_beginning() {
    let noon = 1_709_208_000_000;
    for text in ["2024-02-29T12:00:00Z", "2024-02-29 12:00:00", "2024-02-29T14:00:00+02:00", &time(noon)] {
        assert_eq!(parse_time(text), Some(noon), "{text}");
    }
    assert_eq!(parse_time("2024-02-29"), Some(1_709_164_800_000));
    for text in ["", "2024-02-30", "yesterday", "12:00", "2024-02-29T12:00:00 Europe/Berlin"] {
        assert_eq!(parse_time(text), None, "{text}");
    }
}

#[test]
fn an_open_wait_survives_the_json_of_the_api() {
    let mut conversation = sample();
    let id = Id::of_text("w");
    let waiting =
        Waiting { id, kind: WaitKind::Tool, deadline_ms: Some(7), correlation: "c".into(), budget: None };
    let open = OpenWait { agent: "alpha".into(), branch: "main".into(), seq: 4, waiting, book: None };
    conversation.waits.insert(id, open);
    let text = serde_json::to_string(&conversation).unwrap();
    assert_eq!(serde_json::from_str::<Conversation>(&text).unwrap(), conversation);
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[test]
fn what_is_one_has_no_plural() {
    let told = [(0, "book"), (1, "book"), (2, "book"), (1, "entry"), (6, "entry")];
    let told = told.map(|(number, noun)| labelled::count(number, noun));
    assert_eq!(told, ["0 books", "1 book", "2 books", "1 entry", "6 entries"]);
}

#[test]
fn a_row_with_notes_cuts_nothing_and_fits_its_columns() {
    let row =
        |seq: &str, what: &str, notes| (vec![seq.to_owned(), "reward".to_owned(), what.to_owned()], notes);
    let rows = || {
        let money = "#4 mint → treasury; now alpha 15.00, beta 10.00".to_owned();
        let cause = "evaluation of alpha in x (score 1) ← evaluation 1 by paid@1 ← AssistantMessage alpha#9"
            .to_owned();
        vec![
            row("7", "treasury -> agent_alpha 25.00 TOKEN", vec![("money", money), ("cause", cause)]),
            row("12", "agent_alpha", vec![("why", String::new())]),
        ]
    };
    let header = ["SEQ", "OPERATION", "DETAILS"];
    let narrow = plain(&table::render_noted(&header, rows(), 44));
    let expected = [
        " SEQ  OPERATION  DETAILS",
        " 7    reward     treasury -> agent_alpha",
        "                 25.00 TOKEN",
        "      money  #4 mint → treasury; now alpha",
        "             15.00, beta 10.00",
        "      cause  evaluation of alpha in x (score",
        "             1) ← evaluation 1 by paid@1 ←",
        "             AssistantMessage alpha#9",
        " 12   reward     agent_alpha",
    ];
    assert_eq!(narrow.lines().collect::<Vec<_>>(), expected);
    let wide = plain(&table::render_noted(&header, rows(), u16::MAX));
    assert_eq!(wide.lines().count(), 5, "a note is one line where nothing limits it:\n{wide}");
}

fn judged(evaluation: Evaluation) -> String {
    let artifact = Artifact {
        id: Id::of_text("evaluation"),
        conversation: "x".into(),
        agent: Some(AgentId::from("alpha")),
        branch: Some("main".into()),
        entry: Some(5),
        parents: Vec::new(),
        time_ms: 0,
        body: ArtifactBody::Evaluation(Box::new(evaluation.clone())),
    };
    plain(&evaluation::render(&artifact, &evaluation, "x alpha/main@5".to_owned(), 100))
}

#[test]
fn an_evaluation_says_everything_that_it_has_and_nothing_that_it_has_not() {
    let judge = |model: &str, persona: Option<&str>, score| JudgeScore {
        model: model.to_owned(),
        persona: persona.map(str::to_owned),
        samples: 1,
        score,
    };
    let full = judged(Evaluation {
        target: Id::of_text("target"),
        evaluator: "style".to_owned(),
        version: 3,
        occasion: "after the new rubric".to_owned(),
        score: Some(0.75),
        metrics: [("wit".to_owned(), 0.5), ("words".to_owned(), 12.0)].into(),
        comment: "Short,\nand to the point.".to_owned(),
        samples: 2,
        spread: Some(0.1),
        agreement: Some(0.8),
        judges: vec![judge("m/one", Some("critic"), 0.7), judge("m/two", None, 0.8)],
        calls: 1,
        prompt_tokens: Some(200),
        completion_tokens: Some(1),
        cost_usd: Some("0.0012".to_owned()),
        latency_ms: 40,
        content: "ab".repeat(32),
        same_as: Some(Id::of_text("earlier")),
        request: None,
        error: None,
    });
    let expected = [
        " evaluation  efe77b201dc216c0edf435a227df2b28",
        " evaluator   style, version 3",
        " judged      x alpha/main@5",
        " again       after the new rubric",
        " score       0.75",
        " metrics     wit 0.5, words 12",
        " comment     Short, and to the point.",
        " samples     2, spread 0.1, agreement 0.8",
        " judge       m/one as critic: 0.7 in 1 sample",
        " judge       m/two: 0.8 in 1 sample",
        " effort      1 call of models, 200 tokens in prompts, 1 token in replies, 0.0012 USD, 40 ms",
        " same as     2a51d3547c23a8de50f3e23285a0df35",
        " target      34a04005bcaf206eec990bd9637d9fdb",
        " content     abababababababababababababababababababababababababababababababab",
    ];
    assert_eq!(full.lines().collect::<Vec<_>>(), expected);
    let failed = judged(Evaluation {
        evaluator: "style".to_owned(),
        version: 3,
        occasion: "first".to_owned(),
        error: Some(EvaluationError { code: "deadline".to_owned(), message: "it took too long".to_owned() }),
        ..Evaluation::default()
    });
    assert!(failed.contains("score       none, deadline: it took too long"), "{failed}");
    for absent in ["again", "metrics", "comment", "samples", "judge ", "same as", "request", "call"] {
        assert!(!failed.contains(absent), "{absent} in\n{failed}");
    }
}
