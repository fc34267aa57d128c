//! The ledger from the command line: wallets, payments, refusals, reservations, approvals, exports; one id once under
//! many askers and under `kill -9`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use p2_core::ids::Id;
use serde_json::{Value, json};

use crate::home::{Home, Ran, until};

/// The agents of the tests, with 100.00 each.
fn opened() -> Home {
    let home = Home::new();
    let made = home.p2(&["ledger", "init", "--agent", "alpha", "--agent", "beta", "--json"]).exits(0).json();
    let created = made["accounts"].as_array().unwrap().iter().all(|line| line["outcome"] == "created");
    assert!(created && made["accounts"].as_array().unwrap().len() == 5, "{made}");
    home
}

fn balance(home: &Home, account: &str) -> String {
    let found = home.p2(&["ledger", "balance", account, "--json"]).exits(0).json();
    found["balance"].as_str().unwrap().to_owned()
}

/// Every rule holds, and the sum of all accounts is zero.
fn verified(home: &Home) -> Value {
    let report = home.p2(&["ledger", "verify", "--json"]).exits(0).json();
    assert_eq!(report["differences"], json!([]));
    let overview = home.p2(&["ledger", "overview", "--json"]).exits(0).json();
    assert_eq!(overview["sum"], "0.00", "{overview}");
    report
}

fn code(ran: &Ran) -> String {
    ran.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn wallets_are_opened_once_and_a_payment_is_told_from_both_sides() {
    let home = opened();
    let paid = home.p2(&["ledger", "transfer", "alpha", "beta", "25", "--reason", "helping", "--json"]);
    let paid = paid.exits(0).json();
    assert_eq!(paid["outcome"], "committed");
    assert_eq!(paid["postings"][0]["from_balance"], "75.00");
    assert_eq!(paid["postings"][0]["to_balance"], "125.00");
    let transaction = paid["transaction"].as_str().unwrap();
    assert_eq!(transaction.len(), 32, "a real id");

    // Another `init` finds everything, with other balances too.
    let again =
        home.p2(&["ledger", "init", "--agent", "alpha", "--balance", "500", "--json"]).exits(0).json();
    assert!(again["accounts"].as_array().unwrap().iter().all(|line| line["outcome"] == "exists"), "{again}");
    assert_eq!((balance(&home, "alpha"), balance(&home, "beta")), ("75.00".into(), "125.00".into()));

    let history = home.p2(&["ledger", "history", "beta", "--json"]).exits(0).json();
    let newest = &history["transactions"][0];
    assert_eq!((&newest["type"], &newest["amount"]), (&json!("received"), &json!("25.00")));
    assert_eq!((&newest["other_party"], &newest["reason"]), (&json!("alpha"), &json!("helping")));
    assert_eq!(newest["id"], transaction);
    let shown = home.p2(&["ledger", "history", "alpha"]).exits(0).stdout;
    assert!(shown.contains("↑ SENT") && shown.contains("25.00"), "{shown}");
    let audit = home.p2(&["ledger", "audit", "--type", "transfer"]).exits(0).stdout;
    assert!(audit.contains("alpha -> beta 25.00 TOKEN") && audit.contains("human cli (helping)"), "{audit}");
    assert!(audit.contains("      money  #") && audit.contains("; now beta 25.00\n"), "{audit}");
    let metrics = home.p2(&["ledger", "metrics", "--json"]).exits(0).json();
    assert_eq!((&metrics["wallet_count"], &metrics["total_balance"]), (&json!(2), &json!("200.00")));
    assert_eq!(metrics["supply"], "10200.00");
    let trace = home.p2(&["trace", transaction]).exits(0).stdout;
    assert!(trace.contains("payment-requests") && trace.contains("ledger-transactions"), "{trace}");
    verified(&home);
}

#[test]
fn what_cannot_be_paid_is_refused_with_a_reason_and_changes_nothing() {
    let home = opened();
    let refused = |args: &[&str], exit: i32, expected: &str| {
        let mut all = vec!["ledger"];
        all.extend(args);
        all.push("--json");
        let ran = home.p2(&all).exits(exit);
        assert_eq!(code(&ran), expected, "{args:?}");
    };
    refused(&["transfer", "alpha", "beta", "1000"], 3, "insufficient");
    refused(&["transfer", "alpha", "weather_checker", "1"], 3, "unknown_account");
    refused(&["transfer", "alpha", "alpha", "1"], 3, "self_transfer");
    refused(&["transfer", "mint", "alpha", "1"], 3, "not_allowed");
    refused(&["transfer", "alpha", "bet\u{430}", "1"], 3, "invalid");
    for amount in ["-50", "0", "NaN", "inf", "1e3", "10.005", "12345678901234567890", "1,000", ""] {
        refused(&["transfer", "alpha", "beta", amount], 2, "invalid");
    }
    refused(&["balance", "nobody"], 4, "not_found");
    refused(&["transfer", "alpha", "beta", "1", "--book", "other"], 4, "not_found");
    home.p2(&["ledger", "freeze", "beta"]).exits(0);
    refused(&["transfer", "alpha", "beta", "1"], 3, "frozen");
    home.p2(&["ledger", "freeze", "beta", "--thaw"]).exits(0);
    home.p2(&["ledger", "limits", "alpha", "--transfer-max", "10", "--day-max", "15"]).exits(0);
    refused(&["transfer", "alpha", "beta", "10.01"], 3, "over_limit");
    home.p2(&["ledger", "transfer", "alpha", "beta", "10"]).exits(0);
    refused(&["transfer", "alpha", "beta", "5.01"], 3, "over_day_limit");
    let said = home.p2(&["ledger", "transfer", "beta", "alpha", "500"]).exits(3).stderr;
    assert!(said.contains("'beta' has 110.00 TOKEN available, 500.00 TOKEN are needed"), "{said}");
    assert_eq!((balance(&home, "alpha"), balance(&home, "beta")), ("90.00".into(), "110.00".into()));
    verified(&home);
}

#[test]
fn money_that_is_set_aside_is_paid_given_back_or_runs_out() {
    let home = opened();
    let up = home.up();
    let reserve = |amount: &str, more: &[&str]| {
        let mut args = vec!["ledger", "reserve", "alpha", "fees", amount, "--json"];
        args.extend(more);
        home.p2(&args).exits(0).json()["request"].as_str().unwrap().to_owned()
    };
    let (first, second) = (reserve("30", &[]), reserve("40", &[]));
    let found = home.p2(&["ledger", "balance", "alpha", "--json"]).exits(0).json();
    assert_eq!((&found["reserved"], &found["available"]), (&json!("70.00"), &json!("30.00")));
    home.p2(&["ledger", "transfer", "alpha", "beta", "30.01"]).exits(3);
    home.p2(&["ledger", "post", &first[..12], "--amount", "12.50"]).exits(0);
    home.p2(&["ledger", "void", &second]).exits(0);
    assert_eq!(code(&home.p2(&["ledger", "void", &first, "--json"]).exits(3)), "ended");
    assert_eq!((balance(&home, "alpha"), balance(&home, "fees")), ("87.50".into(), "12.50".into()));
    reserve("50", &["--expires-in", "1"]);
    until("the reservation runs out", || {
        let found = home.p2(&["ledger", "balance", "alpha", "--json"]).exits(0).json();
        (found["available"] == "87.50").then_some(())
    });
    let audit = home.p2(&["ledger", "audit", "--type", "expire", "--json"]).exits(0).json();
    assert_eq!(audit[0]["transaction"]["holds"][0]["state"], "Expired");
    up.interrupt().exits(130);
    verified(&home);
}

#[test]
fn what_is_above_the_threshold_waits_for_a_person() {
    let home = opened();
    home.p2(&["ledger", "policy", "--approval-above", "50", "--tier", "0.9=40"]).exits(0);
    let policy = home.p2(&["ledger", "policy", "--json"]).exits(0).json();
    assert_eq!((&policy["version"], &policy["approval_above"]), (&json!(2), &json!("50.00")));
    let ask = |name: &str| {
        let asked =
            home.p2(&["ledger", "transfer", "alpha", "beta", "60", "--id", name, "--json"]).exits(0).json();
        assert_eq!(asked["outcome"], "pending");
        asked["request"].as_str().unwrap().to_owned()
    };
    let (one, two, three) = (ask("one"), ask("two"), ask("three"));
    assert_eq!(balance(&home, "alpha"), "100.00");
    let shown = home.p2(&["ledger", "overview"]).exits(0).stdout;
    let waits = format!(
        "waiting for a person: transfer {}\n    moves     alpha -> beta 60.00 TOKEN\n    asked by  person 'cli'\n",
        &one[..12]
    );
    assert!(shown.contains(&waits), "{shown}");
    let done = home.p2(&["ledger", "approve", &one[..12], "--json"]).exits(0).json();
    assert_eq!(done["settled"]["postings"][0]["from_balance"], "40.00");
    home.p2(&["ledger", "deny", &two, "--reason", "too dear"]).exits(0);
    // There is not enough any more when the person agrees.
    home.p2(&["ledger", "approve", &three]).exits(3);
    let again = home.p2(&["ledger", "transfer", "alpha", "beta", "60", "--id", "two", "--json"]).exits(3);
    assert_eq!(code(&again), "denied");
    assert_eq!((balance(&home, "alpha"), balance(&home, "beta")), ("40.00".into(), "160.00".into()));
    verified(&home);
}

/// A transfer of 0.01 as programs ask it.
fn request(name: &str, from: &str, to: &str, amount: i64) -> Value {
    json!({
        "id": Id::of_text(name),
        "book": "main",
        "by": "test",
        "cause": {"kind": "Human", "reason": name},
        "body": {"Transfer": {"legs": [{"from": from, "to": to, "amount": amount}]}},
    })
}

#[test]
fn no_request_breaks_a_view_and_none_looks_like_another() {
    let home = opened();
    let up = home.up();
    for scale in [i32::MIN, -1, 9, 65_536, i32::MAX] {
        let mut odd = request(&format!("scale {scale}"), "alpha", "beta", 100);
        odd["body"]["Transfer"]["scale"] = json!(scale);
        let (status, made) = up.api.post("ledger/requests", &odd);
        assert_eq!((status, &made["outcome"]["Rejected"]["code"]), (200, &json!("invalid")), "{made}");
    }
    home.p2(&["ledger", "policy", "--approval-above", "50"]).exits(0);
    let forged = "rent\n    moves     alpha -> beta 0.01 TOKEN\u{1b}[3A\u{1b}[2K\u{202e}";
    let mut held = request("held", "alpha", "beta", 6_000);
    held["cause"]["reason"] = json!(forged);
    assert_eq!(up.api.post("ledger/requests", &held).0, 200);
    let audit = home.p2(&["ledger", "audit"]).exits(0).stdout;
    assert!(audit.contains("alpha -> beta 100e-65536 TOKEN"), "{audit}");
    let overview = home.p2(&["ledger", "overview"]).exits(0).stdout;
    let waits = "    moves     alpha -> beta 60.00 TOKEN\n    asked by  person 'test'\n    \
                 reason    rent moves alpha -> beta 0.01 TOKEN[3A[2K\n";
    assert!(overview.contains(waits), "{overview}");
    for view in [["ledger", "history", "alpha"].as_slice(), &["ledger", "metrics"], &["ledger", "export"]] {
        home.p2(view).exits(0);
    }
    let told = home.p2(&["ledger", "overview", "--json"]).exits(0).json();
    assert_eq!(told["waiting"][0]["cause"]["reason"], forged, "data is exact");
    up.interrupt().exits(130);
    verified(&home);
}

#[test]
fn what_is_changed_and_what_is_asked_is_said() {
    let home = opened();
    let said = home.p2(&["ledger", "reserve", "alpha", "fees", "5"]).exits(0).stdout;
    assert!(said.starts_with("set aside 5.00 TOKEN of alpha for fees\n"), "{said}");
    home.p2(&["ledger", "limits", "alpha", "--credit", "20", "--day-max", "15"]).exits(0);
    home.p2(&["ledger", "policy", "--approval-above", "50", "--tier", "0.9=40"]).exits(0);
    let limits = "credit 20.00 TOKEN, at most 15.00 TOKEN per day";
    let has = home.p2(&["ledger", "balance", "alpha"]).exits(0).stdout;
    assert_eq!(
        has,
        format!("alpha: 100.00 TOKEN (5.00 TOKEN set aside, 115.00 TOKEN available), {limits}\n")
    );
    let overview = home.p2(&["ledger", "overview"]).exits(0).stdout;
    assert!(overview.contains(&format!("  {limits}\n")), "{overview}");
    let audit = home.p2(&["ledger", "audit"]).exits(0).stdout;
    let policy =
        "policy 2: treasury pays 40.00 TOKEN from a score of 0.9; above 50.00 TOKEN a person has to agree";
    for part in [format!("  alpha: {limits}\n"), format!("  {policy}\n"), "  TOKEN, 2 decimals\n".to_owned()]
    {
        assert!(audit.contains(&part), "no {part} in\n{audit}");
    }

    let nobody = home.p2(&["ledger", "audit", "--account", "nobody"]).exits(4);
    assert!(nobody.stderr.contains("there is no account 'nobody'"), "{nobody:?}");
    let unknown = home.p2(&["ledger", "audit", "--type", "rewrd"]).exits(2);
    assert!(
        unknown.stderr.contains("set_limits, freeze") && unknown.stderr.contains("'reward'"),
        "{unknown:?}"
    );
    let since = |text: &str| home.p2(&["ledger", "audit", "--since", text, "--json"]);
    assert_ne!(since("2020-02-29").exits(0).json(), json!([]));
    assert_eq!(since("2120-02-29").exits(0).json(), json!([]));
    since("today").exits(2);
    let numbers = home.p2(&["ledger", "metrics"]).exits(0).stdout;
    assert!(numbers.contains("transactions that moved money"), "{numbers}");
    let csv = home.p2(&["ledger", "export"]).exits(0).stdout;
    assert!(csv.ends_with("\r\n") && !csv.ends_with("\n\r\n"), "{csv:?}");
}

#[test]
fn fifty_askers_of_one_id_pay_once_and_another_body_under_it_is_refused() {
    let home = opened();
    let up = home.up();
    let same = vec![request("once", "alpha", "beta", 700); 50];
    let answers = up.api.post_all("ledger/requests", same);
    assert!(answers.iter().all(|(status, body)| *status == 200 && body == &answers[0].1), "{answers:?}");
    let mut mixed = vec![request("once", "alpha", "beta", 701); 25];
    mixed.extend(vec![request("once", "alpha", "beta", 700); 25]);
    let answers = up.api.post_all("ledger/requests", mixed);
    for (index, (status, body)) in answers.iter().enumerate() {
        assert_eq!(*status, if index < 25 { 409 } else { 200 }, "{body}");
    }
    // The command line comes to the same answer, from another process.
    let id = Id::of_text("once").to_string();
    home.p2(&["ledger", "transfer", "alpha", "beta", "7", "--id", &id]).exits(0);
    assert_eq!(
        code(&home.p2(&["ledger", "transfer", "alpha", "beta", "8", "--id", &id, "--json"]).exits(3)),
        "conflict"
    );
    let paid = home.p2(&["ledger", "audit", "--type", "transfer", "--json"]).exits(0).json();
    let committed = |line: &&Value| line["transaction"]["outcome"].get("Committed").is_some();
    assert_eq!(paid.as_array().unwrap().iter().filter(committed).count(), 1);
    up.interrupt().exits(130);
    assert_eq!((balance(&home, "alpha"), balance(&home, "beta")), ("93.00".into(), "107.00".into()));
    verified(&home);
}

#[test]
fn kill_nine_amid_transfers_loses_none_and_repeats_none() {
    let home = opened();
    let (mut next, mut answered) = (0_u64, BTreeMap::new());
    for round in 0..3_u64 {
        let up = home.up();
        let api = home.api_of(&up);
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(next)));
        let askers: Vec<_> = (0..4)
            .map(|_| {
                let (api, stop, sent) = (api.clone(), stop.clone(), sent.clone());
                std::thread::spawn(move || {
                    let mut seen = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let n = sent.fetch_add(1, Ordering::Relaxed);
                        let (from, to) =
                            if n.is_multiple_of(2) { ("alpha", "beta") } else { ("beta", "alpha") };
                        let body = request(&format!("n{n}"), from, to, 1 + i64::try_from(n % 3).unwrap());
                        let Some((200, made)) = api.try_post("ledger/requests", &body) else { continue };
                        seen.push((n, made));
                    }
                    seen
                })
            })
            .collect();
        let enough = next + 20 + 15 * round;
        until("transfers are made", || (sent.load(Ordering::Relaxed) > enough).then_some(()));
        up.running.kill();
        stop.store(true, Ordering::Relaxed);
        answered.extend(askers.into_iter().flat_map(|asker| asker.join().unwrap()));
        next = sent.load(Ordering::Relaxed);
    }
    // Everything once more: what was answered has the same answer, the rest is done now or was done then.
    let up = home.up();
    let bodies = (0..next)
        .map(|n| {
            let (from, to) = if n.is_multiple_of(2) { ("alpha", "beta") } else { ("beta", "alpha") };
            request(&format!("n{n}"), from, to, 1 + i64::try_from(n % 3).unwrap())
        })
        .collect();
    let last = up.api.post_all("ledger/requests", bodies);
    for (n, (status, made)) in (0..).zip(&last) {
        assert_eq!(*status, 200, "{made}");
        if let Some(first) = answered.get(&n) {
            assert_eq!(first, made, "n{n} was answered twice");
        }
    }
    assert!(answered.len() >= 20, "{} answers before a kill", answered.len());
    up.interrupt().exits(130);
    let audit = home.p2(&["ledger", "audit", "--type", "transfer", "--limit", "0", "--json"]).exits(0).json();
    let ids: Vec<&Value> =
        audit.as_array().unwrap().iter().map(|line| &line["transaction"]["request"]["id"]).collect();
    assert_eq!(u64::try_from(ids.len()).unwrap(), next, "every request has one transaction");
    verified(&home);
}

#[test]
fn books_know_nothing_of_each_other_and_are_exported_whole() {
    let home = opened();
    home.p2(&["ledger", "init", "--book", "run-1", "--agent", "alpha", "--balance", "5"]).exits(0);
    home.p2(&["ledger", "transfer", "alpha", "fees", "5", "--book", "run-1"]).exits(0);
    assert_eq!(balance(&home, "alpha"), "100.00");
    home.p2(&["ledger", "transfer", "alpha", "beta", "2.5", "-r", "=SUM(1), \"two\""]).exits(0);
    let csv = home.p2(&["ledger", "export"]).exits(0).stdout;
    assert!(csv.starts_with("seq,time,transaction,request,operation,from,to,amount,unit,"), "{csv}");
    assert!(
        csv.contains(",transfer,alpha,beta,2.50,TOKEN,97.50,102.50,human,cli,\"'=SUM(1), \"\"two\"\"\""),
        "{csv}"
    );
    let book = home.p2(&["ledger", "export", "--format", "beancount"]).exits(0).stdout;
    for part in [
        "open Assets:Agent:A-alpha TOKEN",
        "  Assets:Agent:A-alpha  -2.50 TOKEN\n  Assets:Agent:A-beta  2.50 TOKEN",
        "balance Equity:Mint:A-mint  -10200.00 TOKEN",
        "\"cli\" \"=SUM(1), \\\"two\\\"\"",
    ] {
        assert!(book.contains(part), "no {part} in\n{book}");
    }
    assert_eq!(verified(&home)["books"], 2);
}

#[test]
fn a_copy_of_a_book_begins_as_that_is_and_goes_its_own_way() {
    let home = opened();
    home.p2(&["ledger", "transfer", "alpha", "beta", "2.5"]).exits(0);
    home.p2(&["ledger", "limits", "beta", "--credit", "50", "--day-max", "200"]).exits(0);
    home.p2(&["ledger", "transfer", "beta", "fees", "150"]).exits(0);
    home.p2(&["ledger", "reserve", "alpha", "fees", "10"]).exits(0);
    home.p2(&["ledger", "policy", "--approval-above", "40"]).exits(0);
    let made = home.p2(&["ledger", "copy", "trial-1", "--json"]).exits(0).json();
    assert_eq!((&made["accounts"], &made["reservations_left_out"]), (&json!(5), &json!(1)), "{made}");
    let of = |book: &str, account: &str, key: &str| {
        let found = home.p2(&["ledger", "balance", account, "--book", book, "--json"]).exits(0).json();
        found[key].as_str().unwrap().to_owned()
    };
    for account in ["mint", "treasury", "fees", "alpha", "beta"] {
        assert_eq!(of("trial-1", account, "balance"), of("main", account, "balance"), "{account}");
    }
    assert_eq!(
        (of("main", "alpha", "reserved"), of("trial-1", "alpha", "reserved")),
        ("10.00".into(), "0.00".into())
    );
    home.p2(&["ledger", "transfer", "alpha", "beta", "1", "--book", "trial-1"]).exits(0);
    assert_eq!(
        (of("main", "alpha", "balance"), of("trial-1", "alpha", "balance")),
        ("97.50".into(), "96.50".into())
    );
    let waits =
        home.p2(&["ledger", "transfer", "treasury", "beta", "41", "--book", "trial-1"]).exits(0).stdout;
    assert!(waits.starts_with("Waiting: "), "the policy goes along: {waits}");
    let again = home.p2(&["ledger", "copy", "trial-1"]).exits(3);
    assert!(
        again.stderr.contains("there is a book 'trial-1' already: give the copy a name of its own"),
        "{again:?}"
    );
    let nothing = home.p2(&["ledger", "copy", "trial-2", "--book", "none"]).exits(4);
    assert!(nothing.stderr.contains("there is no book 'none'"), "{nothing:?}");
    assert_eq!(verified(&home)["books"], 2);
}

#[test]
fn a_copy_that_was_cut_off_is_finished_as_it_was_begun() {
    let home = opened();
    let up = home.up();
    let view = home.p2(&["ledger", "overview", "--json"]).exits(0).json();
    let reason = format!("copy of main after its transaction {}", view["transactions"]);
    let step = |nth: u32, body: Value| {
        json!({
            "id": Id::of_text(&format!("ledger {reason}\ntrial\n{nth}")), "book": "trial", "by": "cli",
            "cause": {"kind": "Human", "reason": reason}, "body": body,
        })
    };
    // As far as a copy came that somebody killed.
    let limits = json!({"credit": 0});
    for step in [
        step(0, json!({"OpenBook": {"unit": view["unit"], "scale": 2}})),
        step(1, json!({"OpenAccount": {"account": "alpha", "kind": "Agent", "limits": limits}})),
    ] {
        assert_eq!(up.api.post("ledger/requests", &step).0, 200, "{step}");
    }
    // What happens here meanwhile is not in the copy.
    home.p2(&["ledger", "transfer", "alpha", "beta", "5"]).exits(0);
    let done = home.p2(&["ledger", "copy", "trial"]).exits(0);
    assert!(done.stderr.contains("'trial' is half a copy of main"), "{done:?}");
    let of = |book: &str, account: &str| {
        let found = home.p2(&["ledger", "balance", account, "--book", book, "--json"]).exits(0).json();
        found["balance"].as_str().unwrap().to_owned()
    };
    assert_eq!((of("trial", "alpha"), of("trial", "beta")), ("100.00".into(), "100.00".into()));
    assert_eq!(of("trial", "treasury"), of("main", "treasury"));
    let again = home.p2(&["ledger", "copy", "trial"]).exits(3);
    assert!(again.stderr.contains("there is a book 'trial' already"), "{again:?}");
    up.interrupt().exits(130);
    verified(&home);
}

#[test]
fn a_payment_that_is_misspelled_is_not_made() {
    let home = opened();
    let up = home.up();
    let refused = |change: &dyn Fn(&mut Value), says: &str| {
        let mut asked = request("misspelled", "alpha", "beta", 100);
        change(&mut asked);
        let (status, body) = up.api.post("ledger/requests", &asked);
        assert!(
            status == 400 && body["error"]["message"].as_str().unwrap().contains(says),
            "{status} {body}"
        );
    };
    refused(&|asked| asked["not_after"] = json!(1), "did you mean 'not_after_ms'?");
    refused(&|asked| asked["body"]["Transfer"]["legs"][0]["scale"] = json!(0), "unknown key 'scale'");
    refused(
        &|asked| asked["body"] = json!({"Query": {"account": "alpha", "movements": 1}}),
        "a query is for",
    );
    assert_eq!(up.api.get("ledger/requests").0, 405);
    let empty = home.p2(&["ledger", "transfer", "alpha", "beta", "1", "--id", ""]).exits(2);
    assert!(empty.stderr.contains("--id is empty"), "{empty:?}");
    assert_eq!(up.api.post("ledger/requests", &request("misspelled", "alpha", "beta", 100)).0, 200);
    up.interrupt().exits(130);
    assert_eq!(balance(&home, "alpha"), "99.00");
}

#[test]
fn an_agent_may_not_be_met_in_anothers_clothes() {
    let home = opened();
    let up = home.up();
    let mut theft = request("theft", "beta", "alpha", 100);
    theft["cause"] =
        json!({"kind": "ToolCall", "reference": Id::of_text("call"), "agent": "alpha", "reason": ""});
    let (status, made) = up.api.post("ledger/requests", &theft);
    assert_eq!((status, &made["outcome"]["Rejected"]["code"]), (200, &json!("not_allowed")));
    let mut forged = request("forged", "treasury", "alpha", 100);
    forged["cause"] = json!({"kind": "Evaluation", "reference": Id::of_text("judged"), "reason": ""});
    forged["body"] = json!({"Reward": {
        "target": Id::of_text("work"), "evaluator": "judge", "metric": "score", "payee": "alpha",
        "occasion": "now", "evaluator_version": 1, "evaluation": Id::of_text("another"), "score": 1.0,
    }});
    let (status, made) = up.api.post("ledger/requests", &forged);
    assert_eq!((status, &made["outcome"]["Rejected"]["code"]), (200, &json!("invalid")));
    assert_eq!(up.api.post("ledger/requests", &json!({"id": "x"})).0, 400);
    assert_eq!(up.api.get("ledger/books").1, json!(["main"]));
    assert_eq!(up.api.get("ledger/books/other").0, 404);
    up.interrupt().exits(130);
    assert_eq!(balance(&home, "alpha"), "100.00");
    verified(&home);
}

#[test]
fn books_on_a_canton_ledger_are_paid_there_and_read_here() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let canton = runtime.block_on(fake_canton::Fake::start());
    let mut home = Home::new();
    let unset = home.p2(&["ledger", "bootstrap"]).exits(2);
    assert!(unset.stderr.contains("P2_CANTON_URL"), "{}", unset.stderr);
    home.set("P2_CANTON_URL", &canton.url());
    home.write("ledger.dar", "PK package");
    let dar = home.path("ledger.dar").display().to_string();
    let first = home.p2(&["ledger", "bootstrap", "--dar", &dar, "--json"]).exits(0).json();
    assert_eq!((&first["party_made"], &first["user_made"]), (&json!(true), &json!(true)), "{first}");
    let again = home.p2(&["ledger", "bootstrap", "--dar", &dar]).exits(0).stdout;
    assert!(again.contains("p2engine::1220feed (there)"), "{again}");

    home.p2(&["ledger", "init", "--agent", "alpha", "--agent", "beta"]).exits(0);
    let paid = home.p2(&["ledger", "transfer", "alpha", "beta", "25", "--id", "order-1", "--json"]);
    let paid = paid.exits(0).json();
    assert_eq!(
        (&paid["outcome"], &paid["postings"][0]["to_balance"]),
        (&json!("committed"), &json!("125.00"))
    );
    let same = home.p2(&["ledger", "transfer", "alpha", "beta", "25", "--id", "order-1", "--json"]);
    assert_eq!(same.exits(0).json()["transaction"], paid["transaction"]);
    let over = home.p2(&["ledger", "transfer", "alpha", "beta", "1000", "--json"]).exits(3);
    assert_eq!(code(&over), "insufficient");
    assert_eq!((balance(&home, "alpha"), balance(&home, "beta")), ("75.00".into(), "125.00".into()));
    verified(&home);
    let state = canton.state();
    let amounts = state.active(fake_canton::model::RECEIPT);
    let transfers = amounts.iter().filter(|receipt| receipt.arguments["kind"] == "transfer");
    assert_eq!(transfers.count(), 1, "one payment, one receipt");
    drop(state);

    // Without the ledger that has its money, the book is not settled.
    home.unset("P2_CANTON_URL");
    let refused = home.p2(&["ledger", "transfer", "alpha", "beta", "1", "--json"]).exits(3);
    assert_eq!(code(&refused), "external");
}

/// Every one of them serves the others for as long as it takes itself.
#[test]
fn commands_side_by_side_all_end_well_and_each_pays_once() {
    let home = Home::new();
    home.p2(&["ledger", "init", "--agent", "alpha", "--agent", "beta"]).exits(0);
    let running: Vec<_> = (0..8).map(|_| home.start(&["ledger", "transfer", "alpha", "beta", "1"])).collect();
    for one in running {
        one.end().exits(0);
    }
    let beta = home.p2(&["ledger", "balance", "beta", "--json"]).exits(0).json();
    assert_eq!(beta["balance"], "108.00");
}
