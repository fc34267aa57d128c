//! Names in the ledger: plain ASCII, so that no two of them look alike because of their alphabet.

use super::answer::{Code, Refusal};
use crate::ids::{AccountId, AgentId, BookId};

/// Longest name, bytes.
const NAME_BYTES_MAX: usize = 100;
/// Longest text that people write into a request, bytes.
const TEXT_BYTES_MAX: usize = 2_000;

/// What the names of spending accounts begin with: those that agents' budgets may use beside their own wallets.
pub const BUDGET: &str = "budget:";

/// Whether an account is named as a spending account.
pub fn is_budget(name: &AccountId) -> bool {
    name.as_str().strip_prefix(BUDGET).is_some_and(|rest| !rest.is_empty())
}

/// Checks that an account may pay for an agent's work by its name: its own wallet, or a spending account.
///
/// # Errors
/// A sentence.
pub fn budget_account(agent: &AgentId, account: &AccountId) -> Result<(), String> {
    check_account(account).map_err(|refusal| refusal.message)?;
    if is_budget(account) || account.as_str() == agent.as_str() {
        return Ok(());
    }
    Err(format!(
        "'{account}' cannot be the budget of '{agent}': name its own wallet '{agent}', or a spending account, which \
         begins with {BUDGET}"
    ))
}

/// Checks the name of an account.
///
/// # Errors
/// [`Code::Invalid`], with the first character that does not fit.
pub fn check_account(name: &AccountId) -> Result<(), Refusal> {
    check("account", name.as_str())
}

/// Checks the name of a book.
///
/// # Errors
/// As [`check_account`].
pub fn check_book(name: &BookId) -> Result<(), Refusal> {
    check("book", name.as_str())
}

/// Checks any other name that the ledger keeps: an evaluator, a metric, an occasion.
///
/// # Errors
/// As [`check_account`].
pub fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    check(what, name)
}

pub(super) fn check(what: &str, name: &str) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new(Code::Invalid, format!("the name of the {what} {why}")));
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return refuse(format!("must have 1 to {NAME_BYTES_MAX} characters"));
    }
    if let Some(foreign) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"_.-:/".contains(*c)) {
        return refuse(format!(
            "has '{}' (U+{:04X}) in it: only ASCII letters, digits and _ . - : / are allowed",
            foreign.escape_debug(),
            u32::from(foreign)
        ));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return refuse("must begin with a letter or a digit".to_owned());
    }
    Ok(())
}

/// Checks a text that people or agents wrote.
pub(super) fn check_text(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() <= TEXT_BYTES_MAX {
        return Ok(());
    }
    Err(Refusal::new(Code::Invalid, format!("{what} is longer than {TEXT_BYTES_MAX} bytes: shorten it")))
}
