//! Per-conversation overrides of an agent.

use serde_json::json;

use super::builder::Step;
use super::{applied, lookup, refused, user_text};
use crate::ids::{AccountId, AgentId, BookId, BranchId};
use crate::ledger::{budget_account, check_book};
use crate::record::{BookSet, Change, Outcome, Overridden, OverrideCommand, Overrides};

pub(super) fn decide(step: &mut Step<'_>, command: &OverrideCommand) -> Outcome {
    let agent = command.agent.clone().unwrap_or_else(|| step.conv.root.clone());
    if lookup::agent(&step.conv, step.context, &agent).is_none() {
        return refused("not_found", user_text::unknown_agent(step, &agent));
    }
    let OverrideCommand { set: asked, clear, lock, unlock, book, .. } = command;
    let is_money = book.is_some() && !(*clear || *lock || *unlock) && *asked == Overrides::default();
    if !is_money && lookup::llm(&step.conv, step.context, &agent).is_none() {
        return refused("invalid", format!("agent '{agent}' is not of type llm: it has nothing to override"));
    }
    let (mut set, locked) = step.conv.overrides.get(&agent).cloned().unwrap_or_default();
    if locked && !command.unlock {
        return refused("locked", format!("the overrides of '{agent}' are locked: unlock them first"));
    }
    if let Some(why) = misfit(step, &command.set)
        .or_else(|| spending(step, &agent, &command.set))
        .or_else(|| unpayable(step, &agent, &command.set))
        .or_else(|| no_book(book.as_ref()))
    {
        return refused("invalid", why);
    }
    if command.clear {
        set = Overrides::default();
    }
    let new = command.set.clone();
    set = Overrides {
        model: new.model.or(set.model),
        temperature: new.temperature.or(set.temperature),
        top_p: new.top_p.or(set.top_p),
        max_tokens: new.max_tokens.or(set.max_tokens),
        tools: new.tools.or(set.tools),
        behavior: new.behavior.or(set.behavior),
        budget: new.budget.or(set.budget),
    };
    let branch = step.conv.current(&agent);
    if let Some(book) = book {
        move_money(step, &agent, &branch, book);
    }
    if is_money {
        return applied();
    }
    let data = json!({"agent": agent.as_str(), "locked": command.lock});
    step.change(&agent, &branch, Change::Overridden(Overridden { overrides: set, locked: command.lock }));
    user_text::pin(step, &agent, &branch);
    step.event(&agent, &branch, "override_set", data);
    applied()
}

/// From now on all that the conversation's agents pay and earn is in another book. What was set aside before ends where it
/// was.
fn move_money(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, book: &BookId) {
    let book = Some(book).filter(|book| !book.as_str().is_empty()).cloned();
    let data = json!({"book": &book});
    step.change(agent, branch, Change::BookSet(BookSet { book }));
    step.event(agent, branch, "book_set", data);
}

fn no_book(book: Option<&BookId>) -> Option<String> {
    let book = book.filter(|book| !book.as_str().is_empty())?;
    check_book(book).err().map(|refusal| refusal.message)
}

/// A made-up agent must not get a tool that spends by a detour.
fn spending(step: &Step<'_>, agent: &AgentId, set: &Overrides) -> Option<String> {
    if !lookup::is_made_up(&step.conv, step.context, agent) {
        return None;
    }
    let persona = set.behavior.as_deref().and_then(|id| step.context.registry.persona(id, None));
    let required = persona.into_iter().flat_map(|(_, persona)| &persona.required_tools);
    let mut tools = set.tools.iter().flatten().chain(required);
    let tool = tools.find(|tool| lookup::spends(&step.conv, step.context, tool))?;
    Some(format!("'{tool}' spends, and '{agent}' is defined nowhere: apply a definition of '{agent}' first"))
}

/// An account pays for work only where people said what a call costs, and only one that may.
fn unpayable(step: &Step<'_>, agent: &AgentId, set: &Overrides) -> Option<String> {
    let account = AccountId::from(set.budget.as_deref()?);
    let defined = lookup::llm_as_defined(&step.conv, step.context, agent);
    if defined.is_none_or(|llm| llm.budget.is_none()) {
        return Some(format!(
            "'{agent}' has no budget in its definition, so nobody knows what its calls cost: apply one with 'budget:'"
        ));
    }
    budget_account(agent, &account).err()
}

fn misfit(step: &Step<'_>, set: &Overrides) -> Option<String> {
    let outside = |value: Option<f64>, most: f64| value.is_some_and(|value| !(0.0..=most).contains(&value));
    if set.model.as_ref().is_some_and(|model| model.trim().is_empty()) {
        return Some("model is empty: name one, as provider/model".into());
    }
    if outside(set.temperature, 2.0) {
        return Some("temperature must be between 0 and 2".into());
    }
    if outside(set.top_p, 1.0) {
        return Some("top_p must be between 0 and 1".into());
    }
    if set.max_tokens.is_some_and(|tokens| tokens < 1) {
        return Some("max_tokens must be at least 1".into());
    }
    let registry = step.context.registry;
    if let Some(name) = set.tools.iter().flatten().find(|name| registry.newest("tool", name).is_none()) {
        let known: Vec<&str> = registry.list("tool").map(|(_, tool)| tool.id()).collect();
        return Some(format!("there is no tool '{name}': known are {}", known.join(", ")));
    }
    let behavior = set.behavior.as_deref().filter(|id| !id.is_empty());
    behavior
        .filter(|id| registry.newest("persona", id).is_none())
        .map(|id| format!("there is no persona '{id}': apply it, or give the empty text for none"))
}
