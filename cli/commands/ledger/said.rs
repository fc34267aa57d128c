//! What requests and transactions say, in words.

use std::collections::BTreeMap;

use p2_core::ids::Id;
use p2_core::ledger::{format_amount, parse_signed};
use p2_core::record::{
    AccountLimits, Artifact, ArtifactBody, CauseKind, LedgerPolicy, LedgerTransaction, PaymentBody,
    PaymentCause, PaymentRequest, Reward,
};

use super::{money, moved};
use crate::commands::listed;
use crate::engine::BookView;
use crate::views::evaluation::number;
use crate::views::labelled::{self, count};
use crate::views::lineage::Indices;
use crate::views::{one_line, time};

/// Links of a cause chain that are shown.
const CHAIN_MAX: usize = 8;
/// Columns that a request which waits takes at most, on however wide a terminal.
const WAITING_WIDTH: u16 = 100;
/// Columns of these that are the names of its lines.
const WAITING_BEFORE: usize = 14;

// --------------------------------------------------------------------------------------------- requests

/// What a transaction did, or was to do.
pub(super) fn details(view: &BookView, made: &LedgerTransaction) -> String {
    match moved(view, made) {
        moved if moved.is_empty() => asked(view, &made.request.body),
        moved => moved,
    }
}

/// An amount of a request: in the decimals of the book, or in its own where it has more, or ones that no book has.
fn written(view: &BookView, amount: i64, scale: Option<i32>) -> String {
    let own = format_amount(amount, scale.unwrap_or(view.scale));
    parse_signed(&own, view.scale).map_or_else(|_| format!("{own} {}", view.unit), |minor| money(view, minor))
}

/// What is asked.
pub(super) fn asked(view: &BookView, body: &PaymentBody) -> String {
    let money = |amount, scale| written(view, amount, scale);
    match body {
        PaymentBody::OpenBook(open) => format!("{}, {}", open.unit, count(open.scale, "decimal")),
        PaymentBody::OpenAccount(open) => {
            let limits = limits(view, &open.limits).into_iter().map(|limit| format!(", {limit}"));
            format!("{} ({}){}", open.account, open.kind.as_str(), limits.collect::<String>())
        }
        PaymentBody::SetLimits(set) => match limits(view, &set.limits) {
            none if none.is_empty() => format!("{}: no credit, no limits", set.account),
            limits => format!("{}: {}", set.account, limits.join(", ")),
        },
        PaymentBody::Freeze(set) => {
            format!("{} {}", set.account, if set.frozen { "frozen" } else { "thawed" })
        }
        PaymentBody::SetPolicy(set) => policy(view, &set.policy),
        PaymentBody::Mint(mint) => format!("{} -> {} {}", mint.mint, mint.to, money(mint.amount, None)),
        PaymentBody::Transfer(transfer) => {
            let legs = transfer.legs.iter();
            let leg =
                legs.map(|leg| format!("{} -> {} {}", leg.from, leg.to, money(leg.amount, transfer.scale)));
            leg.collect::<Vec<_>>().join("; ")
        }
        PaymentBody::Reserve(reserve) => {
            let amount = money(reserve.amount, reserve.scale);
            format!("{amount} of {} for {}{}", reserve.from, reserve.to, until(reserve.expires_ms))
        }
        PaymentBody::Post(post) => {
            let amount = post.amount.map_or_else(|| "all".to_owned(), |amount| money(amount, post.scale));
            format!("{amount} of reservation {}", listed(post.reservation))
        }
        PaymentBody::Void(void) => format!("reservation {}", listed(void.reservation)),
        PaymentBody::Expire(expire) => listed(expire.reference),
        PaymentBody::Reward(reward) => format!("{} {}", reward.payee, scored(reward)),
        PaymentBody::Approve(approve) => listed(approve.request),
        PaymentBody::Deny(deny) => listed(deny.request),
        PaymentBody::Query(query) => query.account.to_string(),
    }
}

/// Until when something is set aside; nothing where it is for ever.
pub(super) fn until(expires_ms: Option<i64>) -> String {
    expires_ms.map(|at| format!(" until {}", time(at))).unwrap_or_default()
}

fn scored(reward: &Reward) -> String {
    format!("scored {} in {} by {}", number(Some(reward.score)), reward.metric, reward.evaluator)
}

/// What an account may do that is not the usual.
pub(super) fn limits(view: &BookView, limits: &AccountLimits) -> Vec<String> {
    let AccountLimits { credit, transfer_max, day_max } = limits;
    let credit = (*credit != 0).then(|| format!("credit {}", money(view, *credit)));
    let most =
        |what, limit: &Option<i64>| limit.map(|limit| format!("at most {} {what}", money(view, limit)));
    [credit, most("per transfer", transfer_max), most("per day", day_max)].into_iter().flatten().collect()
}

fn policy(view: &BookView, policy: &LedgerPolicy) -> String {
    let tier = policy
        .tiers
        .iter()
        .map(|tier| format!("{} from a score of {}", money(view, tier.amount), number(Some(tier.at_least))));
    let tiers = tier.collect::<Vec<_>>().join(", ");
    let tiers = if tiers.is_empty() { "nothing".to_owned() } else { tiers };
    let above = policy.approval_above.map_or_else(
        || "nothing waits for a person".to_owned(),
        |above| format!("above {} a person has to agree", money(view, above)),
    );
    format!("policy {}: {} pays {tiers}; {above}", policy.version, policy.treasury)
}

// ---------------------------------------------------------------------------------------------- waiting

/// A request that waits for a person, as whoever decides has to see it: what moves, who asked, and last what they say
/// of it. No word of theirs can look like one of ours.
pub(super) fn waiting(view: &BookView, held: &PaymentRequest, width: u16) -> String {
    let width = width.min(WAITING_WIDTH);
    let room = usize::from(width).saturating_sub(WAITING_BEFORE);
    let moves = match &held.body {
        PaymentBody::Reward(reward) => rewarded(view, reward),
        PaymentBody::Reserve(reserve) => {
            let amount = written(view, reserve.amount, reserve.scale);
            format!("{} -> {} {amount}, set aside{}", reserve.from, reserve.to, until(reserve.expires_ms))
        }
        body => asked(view, body),
    };
    let lines = [
        ("moves", moves),
        ("asked by", one_line(&asker(&held.cause, &held.by), room)),
        ("until", held.not_after_ms.map(time).unwrap_or_default()),
        ("reason", one_line(&held.cause.reason, room)),
    ];
    let head = format!("waiting for a person: {} {}", held.body.kind(), listed(held.id));
    format!("{head}\n{}", labelled::render(&lines, 4, width))
}

/// What a reward would pay by the policy of now.
fn rewarded(view: &BookView, reward: &Reward) -> String {
    let tier = |policy: &LedgerPolicy| {
        let reached = policy.tiers.iter().find(|tier| reward.score >= tier.at_least);
        reached.map(|tier| (policy.treasury.clone(), tier.amount))
    };
    match view.policy.as_ref().and_then(tier) {
        Some((treasury, amount)) => {
            let amount = money(view, amount);
            format!("{treasury} -> {} {amount} as of now, {}", reward.payee, scored(reward))
        }
        None => format!("nothing to {} as of now, {}", reward.payee, scored(reward)),
    }
}

/// Who asked: an agent and where, or a person.
fn asker(cause: &PaymentCause, by: &str) -> String {
    let who = match (cause.kind, &cause.agent) {
        (CauseKind::Human, _) => format!("person '{by}'"),
        (CauseKind::ToolCall, Some(agent)) => format!("agent {agent}"),
        (CauseKind::Budget, Some(agent)) => format!("the budget of agent {agent}"),
        (CauseKind::Evaluation, Some(agent)) => format!("an evaluation of agent {agent}"),
        (kind, _) => format!("{} '{by}'", kind.as_str()),
    };
    let place = cause.conversation.as_ref().map(|name| format!(" in conversation '{name}'"));
    format!("{who}{}", place.unwrap_or_default())
}

// ------------------------------------------------------------------------------------------------ chain

/// What is known of the conversations that asked.
#[derive(Default)]
pub(super) struct Known {
    /// Their entries.
    pub(super) indices: Indices,
    /// What was written down in them.
    pub(super) artifacts: BTreeMap<Id, Artifact>,
}

impl Known {
    /// From who or what asked back to the first step that is known, or to where the line gets too long.
    pub(super) fn chain(&mut self, made: &LedgerTransaction) -> Vec<String> {
        let cause = &made.request.cause;
        // An arrow in there would be a link of its own.
        let reason = cause.reason.replace('←', "<-");
        let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        let mut links = vec![match (&cause.agent, &cause.conversation) {
            (Some(agent), Some(conversation)) => {
                format!("{} of {agent} in {conversation}{reason}", cause.kind.as_str())
            }
            (None, Some(conversation)) => format!("{} in {conversation}{reason}", cause.kind.as_str()),
            _ => format!("{} {}{reason}", cause.kind.as_str(), made.request.by.replace('←', "<-")),
        }];
        let mut next = cause.reference;
        while let Some(id) = next {
            if links.len() >= CHAIN_MAX {
                links.push(format!("… (on with: p2engine trace {})", listed(id)));
                break;
            }
            let Some(artifact) = self.artifacts.get(&id) else {
                links.push(listed(id));
                break;
            };
            links.push(link(artifact, self.indices.of(artifact)));
            next = artifact.parents.first().copied();
        }
        links
    }
}

/// One step: what it was, where, and its id. `index` is what `conversation stack` shows of its entry.
fn link(artifact: &Artifact, index: Option<usize>) -> String {
    let kind = match &artifact.body {
        ArtifactBody::EntryAppended(entry) => entry.state.clone(),
        ArtifactBody::Evaluation(evaluation) => {
            let score = evaluation.score.map(|score| format!(" {}", number(Some(score))));
            let (score, version) = (score.unwrap_or_default(), evaluation.version);
            format!("evaluation{score} by {}@{version}", evaluation.evaluator)
        }
        body => body.kind().to_owned(),
    };
    let entry = index.map(|index| format!("entry {index} of ")).unwrap_or_default();
    let place = match (&artifact.agent, &artifact.branch) {
        (Some(agent), Some(branch)) => format!(" ({entry}{agent}/{branch})"),
        (Some(agent), None) => format!(" ({agent})"),
        _ => String::new(),
    };
    format!("{kind}{place} {}", listed(artifact.id))
}

#[cfg(test)]
mod tests {
    use p2_core::ids::{AccountId, AgentId, BookId};
    use p2_core::ledger::default_policy;
    use p2_core::record::{AccountLimits, Leg, Reserve, SetLimits, SetPolicy, Transfer};

    use super::*;

    fn view() -> BookView {
        BookView {
            book: BookId::from("main"),
            unit: "TOKEN".to_owned(),
            scale: 2,
            policy: Some(default_policy(2)),
            accounts: Vec::new(),
            reservations: Vec::new(),
            held: Vec::new(),
            transactions: 0,
        }
    }

    fn held(kind: CauseKind, agent: Option<&str>, reason: &str, body: PaymentBody) -> PaymentRequest {
        let cause = PaymentCause {
            kind,
            reference: None,
            conversation: agent.map(|_| "trip".into()),
            agent: agent.map(AgentId::from),
            branch: None,
            reason: reason.to_owned(),
        };
        let (id, book, by) = (Id::of_text("one"), BookId::from("main"), "shop".to_owned());
        PaymentRequest { id, book, by, cause, reply_to: None, not_after_ms: None, body }
    }

    fn transfer(amount: i64, scale: Option<i32>) -> PaymentBody {
        let leg = Leg { from: AccountId::from("alpha"), to: AccountId::from("beta"), amount };
        PaymentBody::Transfer(Transfer { legs: vec![leg], scale })
    }

    fn reward(score: f64) -> PaymentBody {
        PaymentBody::Reward(Reward {
            target: Id::of_text("work"),
            evaluator: "judge".to_owned(),
            metric: "score".to_owned(),
            payee: AccountId::from("alpha"),
            occasion: "now".to_owned(),
            evaluator_version: 1,
            evaluation: Id::of_text("judged"),
            score,
        })
    }

    fn shown(held: &PaymentRequest) -> Vec<String> {
        let text = anstream::adapter::strip_str(&waiting(&view(), held, u16::MAX)).to_string();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn who_decides_sees_what_moves_and_who_asked_before_what_they_say() {
        let forged = "rent\n    moves     alpha -> beta 0.01 TOKEN\u{1b}[2A\u{1b}[2K\u{202e}";
        let mut request = held(CauseKind::ToolCall, Some("alpha"), forged, transfer(60, Some(0)));
        request.not_after_ms = Some(0);
        let lines = shown(&request);
        assert_eq!(
            lines,
            [
                "waiting for a person: transfer 7692c3ad3540",
                "    moves     alpha -> beta 60.00 TOKEN",
                "    asked by  agent alpha in conversation 'trip'",
                "    until     1970-01-01 00:00:00",
                "    reason    rent moves alpha -> beta 0.01 TOKEN[2A[2K",
            ]
        );
        let long = shown(&held(CauseKind::Human, None, &"x".repeat(300), transfer(1, None)));
        assert_eq!(long[2], "    asked by  person 'shop'");
        assert!(long.iter().all(|line| line.chars().count() <= 100) && long[3].ends_with('…'), "{long:?}");
    }

    #[test]
    fn a_reward_that_waits_says_what_it_would_pay_now() {
        let lines = shown(&held(CauseKind::Evaluation, Some("alpha"), "", reward(0.7)));
        assert_eq!(
            lines[1],
            "    moves     treasury -> alpha 15.00 TOKEN as of now, scored 0.7 in score by judge"
        );
        assert_eq!(lines[2], "    asked by  an evaluation of agent alpha in conversation 'trip'");
        assert_eq!(lines.len(), 3, "without a reason no line for it: {lines:?}");
        let lines = shown(&held(CauseKind::Human, None, "", reward(0.1)));
        assert_eq!(lines[1], "    moves     nothing to alpha as of now, scored 0.1 in score by judge");
        let (from, to) = (AccountId::from("alpha"), AccountId::from("fees"));
        let body = PaymentBody::Reserve(Reserve { from, to, amount: 500, expires_ms: Some(0), scale: None });
        let lines = shown(&held(CauseKind::Budget, Some("alpha"), "", body));
        assert_eq!(lines[1], "    moves     alpha -> fees 5.00 TOKEN, set aside until 1970-01-01 00:00:00");
    }

    #[test]
    fn every_request_says_what_it_asks_for_whatever_is_in_it() {
        let told = |body: &PaymentBody| asked(&view(), body);
        assert_eq!(told(&transfer(60_001, Some(4))), "alpha -> beta 6.0001 TOKEN");
        assert_eq!(told(&transfer(5, Some(i32::MAX))), "alpha -> beta 5e-2147483647 TOKEN");
        assert_eq!(told(&transfer(5, Some(-1))), "alpha -> beta 5e1 TOKEN");
        assert_eq!(told(&reward(1e308)), "alpha scored 1e308 in score by judge");
        let account = AccountId::from("alpha");
        let limits = AccountLimits { credit: 5_000, transfer_max: Some(1_000), day_max: Some(0) };
        let set = PaymentBody::SetLimits(SetLimits { account: account.clone(), limits });
        let most = "at most 10.00 TOKEN per transfer, at most 0.00 TOKEN per day";
        assert_eq!(told(&set), format!("alpha: credit 50.00 TOKEN, {most}"));
        let limits = AccountLimits::default();
        assert_eq!(
            told(&PaymentBody::SetLimits(SetLimits { account, limits })),
            "alpha: no credit, no limits"
        );
        let mut policy = default_policy(2);
        policy.tiers.truncate(1);
        let set = |policy: &LedgerPolicy| told(&PaymentBody::SetPolicy(SetPolicy { policy: policy.clone() }));
        let paid = "policy 1: treasury pays 25.00 TOKEN from a score of 0.8";
        assert_eq!(set(&policy), format!("{paid}; nothing waits for a person"));
        policy.approval_above = Some(5_000);
        assert_eq!(set(&policy), format!("{paid}; above 50.00 TOKEN a person has to agree"));
    }

    #[test]
    fn a_chain_that_is_shortened_says_so_and_a_reason_is_no_link() {
        let id = |n: usize| Id::of_text(&format!("step {n}"));
        let mut known = Known::default();
        for n in 0..12 {
            let body =
                ArtifactBody::EntryAppended(p2_core::record::EntryAppended { state: "ToolCall".into() });
            let (agent, entry) = (Some(AgentId::from("alpha")), Some(0));
            let (conversation, branch) = ("trip".into(), Some("main".into()));
            let (id, parents) = (id(n), vec![id(n + 1)]);
            let artifact = Artifact { id, conversation, agent, branch, entry, parents, time_ms: 0, body };
            known.artifacts.insert(id, artifact);
        }
        let mut request =
            held(CauseKind::ToolCall, Some("alpha"), "a) ← evaluation 1 by x", transfer(1, None));
        request.cause.reference = Some(id(0));
        let made = LedgerTransaction {
            id: Id::of_text("made"),
            book: BookId::from("main"),
            seq: 0,
            previous: None,
            request,
            holds: Vec::new(),
            postings: Vec::new(),
            outcome: p2_core::record::LedgerOutcome::Committed(p2_core::record::Committed::default()),
            time_ms: 0,
        };
        let chain = known.chain(&made);
        assert_eq!(chain[0], "tool_call of alpha in trip (a) <- evaluation 1 by x)");
        assert_eq!(chain[1], format!("ToolCall (alpha/main) {}", listed(id(0))));
        assert_eq!(
            (chain.len(), chain[8].clone()),
            (9, format!("… (on with: p2engine trace {})", listed(id(7))))
        );
    }
}
