//! Copies of books.

use super::*;

fn original(book: &Book) -> Original {
    let accounts = book.accounts.iter().map(|(name, account)| OriginalAccount {
        account: name.clone(),
        kind: account.kind,
        posted: account.balance.posted,
        debt: account.debt,
        frozen: account.frozen,
        limits: account.limits,
    });
    let terms = book.terms.clone().unwrap();
    Original {
        unit: terms.unit,
        scale: terms.scale,
        policy: book.policy.clone(),
        accounts: accounts.collect(),
    }
}

/// A book that is made as a copy of another one is asked for.
fn copy(book: &Book) -> Book {
    let mut desk = Desk { now: NOON, ..Desk::default() };
    for (nth, body) in copied(&original(book)).unwrap().into_iter().enumerate() {
        desk.ok(&format!("copy {nth}"), body);
    }
    desk.book
}

#[test]
fn a_copy_has_the_same_accounts_limits_money_and_policy_and_nothing_that_is_under_way() {
    let mut desk = Desk::new();
    let limits = AccountLimits { credit: 5_000, transfer_max: Some(20_000), day_max: Some(30_000) };
    desk.ok("limits", PaymentBody::SetLimits(SetLimits { account: account("beta"), limits }));
    desk.ok("into credit", transfer("beta", "alpha", 12_000));
    desk.ok("a second mint", open("mint-2", AccountKind::Mint));
    let mint = Mint { mint: account("mint-2"), to: account("fees"), amount: 77 };
    desk.ok("of the second", PaymentBody::Mint(mint));
    desk.ok("set aside", reserve("alpha", "fees", 500, None));
    desk.ok("frozen", PaymentBody::Freeze(Freeze { account: account("fees"), frozen: true }));
    let policy = LedgerPolicy { version: 7, approval_above: Some(1), ..default_policy(2) };
    desk.ok("policy", PaymentBody::SetPolicy(SetPolicy { policy }));

    let made = copy(&desk.book);
    assert_eq!(original(&made), original(&desk.book));
    assert!(made.reservations.is_empty() && made.held.is_empty());
    assert_eq!(made.account(&account("alpha")).unwrap().balance.available(), 22_000);
    assert_eq!(original(&copy(&made)), original(&made), "a copy of a copy");
}

#[test]
fn a_book_with_a_debt_is_not_copied() {
    let desk = Desk::new();
    let mut owing = original(&desk.book);
    owing.accounts[0].debt = 1;
    let refusal = copied(&owing).unwrap_err();
    assert_eq!(refusal.code, Code::Insufficient);
    assert!(refusal.message.starts_with("'alpha' owes for work: pay that first"), "{}", refusal.message);
}

proptest! {
    #[test]
    fn whatever_was_paid_a_copy_has_it(paid in prop::collection::vec((0..4_usize, 0..4_usize, 1..60_000_i64), 0..40)) {
        let mut desk = Desk::new();
        let names = ["alpha", "beta", "fees", "treasury"];
        let limits = AccountLimits { credit: 100_000, ..AccountLimits::default() };
        for name in ["alpha", "fees"] {
            desk.ok(&format!("credit {name}"), PaymentBody::SetLimits(SetLimits { account: account(name), limits }));
        }
        for (nth, (from, to, amount)) in paid.into_iter().enumerate() {
            let asked = request(&format!("paid {nth}"), transfer(names[from], names[to], amount));
            let _ = desk.ask(&asked);
        }
        prop_assert_eq!(original(&copy(&desk.book)), original(&desk.book));
    }
}
