//! The commands that ask the ledger for something.

use p2_core::definition::Definition;
use p2_core::ids::Id;
use p2_core::ledger::{MINT, TREASURY, default_policy, format_amount};
use p2_core::record::{
    AccountKind, AccountLimits, Approve, Deny, Freeze, LedgerOutcome, LedgerPolicy, LedgerTransaction, Leg,
    Mint, OpenAccount, OpenBook, PaymentBody, Post, Reserve, RewardTier, SetLimits, SetPolicy, Transfer,
    Void,
};
use p2_stream::shell::now_ms;
use serde_json::{Value, json};

use super::{Desk, account, amount, limit, money, moved, said, told};
use crate::args::{AskArgs, Kind, LedgerCommand};
use crate::commands::{by_beginning, data_of};
use crate::engine::{BookView, EngineError, EngineResult};
use crate::views::table;

/// The account of what work costs, as `init` opens it.
const FEES: &str = "fees";

impl From<Kind> for AccountKind {
    fn from(kind: Kind) -> AccountKind {
        match kind {
            Kind::Agent => AccountKind::Agent,
            Kind::Treasury => AccountKind::Treasury,
            Kind::Mint => AccountKind::Mint,
            Kind::Fees => AccountKind::Fees,
            Kind::Escrow => AccountKind::Escrow,
        }
    }
}

/// How `init` is asked.
struct Opening {
    balance: String,
    treasury: String,
    unit: String,
    scale: i32,
}

impl Desk<'_> {
    pub(super) async fn request(&self, command: LedgerCommand) -> EngineResult<()> {
        let (ask, body) = match command {
            LedgerCommand::Init { balance, treasury, unit, scale, agents } => {
                let opening = Opening { balance, treasury, unit, scale };
                return self.init(opening, agents).await;
            }
            LedgerCommand::Policy { tiers, approval_above, treasury, ask } => {
                return self.policy(tiers, approval_above, treasury, ask).await;
            }
            other => self.body(other).await?,
        };
        let made = self.ask(&ask, body).await?;
        self.tell(&made).await
    }

    async fn body(&self, command: LedgerCommand) -> EngineResult<(AskArgs, PaymentBody)> {
        let view = self.view().await?;
        let scale = view.scale;
        let reservation = |text: &str| {
            // One that has ended is not listed any more: its whole id is for the ledger to judge.
            text.parse()
                .or_else(|_| by_beginning("open reservation", text, view.reservations.iter().map(|r| r.id)))
        };
        let held = |text: &str| {
            text.parse().or_else(|_| by_beginning("waiting request", text, view.held.iter().map(|r| r.id)))
        };
        Ok(match command {
            LedgerCommand::Transfer { from, to, amount: text, ask } => {
                let leg = Leg { from: account(&from), to: account(&to), amount: amount(&text, scale)? };
                (ask, PaymentBody::Transfer(Transfer { legs: vec![leg], scale: None }))
            }
            LedgerCommand::Mint { to, amount: text, ask } => {
                let amount = amount(&text, scale)?;
                (ask, PaymentBody::Mint(Mint { mint: account(MINT), to: account(&to), amount }))
            }
            LedgerCommand::Open { account: name, kind, ask } => {
                let (account, limits) = (account(&name), AccountLimits::default());
                (ask, PaymentBody::OpenAccount(OpenAccount { account, kind: kind.into(), limits }))
            }
            LedgerCommand::Reserve { from, to, amount: text, expires_in, ask } => {
                let expires_ms =
                    expires_in.map(|seconds| now_ms().saturating_add(i64::from(seconds) * 1_000));
                let (from, to, amount) = (account(&from), account(&to), amount(&text, scale)?);
                (ask, PaymentBody::Reserve(Reserve { from, to, amount, expires_ms, scale: None }))
            }
            LedgerCommand::Post { reservation: id, amount: text, ask } => {
                let amount = text.map(|text| amount(&text, scale)).transpose()?;
                (ask, PaymentBody::Post(Post { reservation: reservation(&id)?, amount, scale: None }))
            }
            LedgerCommand::Void { reservation: id, ask } => {
                let known = view.reservations.iter().map(|r| r.id).chain(view.held.iter().map(|r| r.id));
                let found =
                    id.parse().or_else(|_| by_beginning("reservation or waiting request", &id, known))?;
                (ask, PaymentBody::Void(Void { reservation: found }))
            }
            LedgerCommand::Freeze { account: name, thaw, ask } => {
                (ask, PaymentBody::Freeze(Freeze { account: account(&name), frozen: !thaw }))
            }
            LedgerCommand::Limits { account: name, credit, transfer_max, day_max, ask } => {
                let most = |text: Option<String>| text.map(|text| limit(&text, scale)).transpose();
                let limits = AccountLimits {
                    credit: limit(&credit, scale)?,
                    transfer_max: most(transfer_max)?,
                    day_max: most(day_max)?,
                };
                (ask, PaymentBody::SetLimits(SetLimits { account: account(&name), limits }))
            }
            LedgerCommand::Approve { request, ask } => {
                (ask, PaymentBody::Approve(Approve { request: held(&request)? }))
            }
            LedgerCommand::Deny { request, ask } => {
                let reason = ask.reason.clone();
                (ask, PaymentBody::Deny(Deny { request: held(&request)?, reason }))
            }
            _ => return Err(EngineError::Internal("not a request to the ledger".to_owned())),
        })
    }

    /// What became of a request; of an approval, what became of the request that waited.
    async fn tell(&self, made: &LedgerTransaction) -> EngineResult<()> {
        let view = match self.view().await {
            Ok(view) => view,
            // It is done all the same.
            Err(error) => {
                self.run.out.remark(&format!("done; the book cannot be read now: {error}"));
                self.run.show(&data_of(made)?, || {
                    format!("request {}: {}", made.request.id, made.outcome.as_str())
                });
                return Ok(());
            }
        };
        let settled = match &made.request.body {
            PaymentBody::Approve(Approve { request }) => self.settled(request).await?,
            _ => None,
        };
        let mut data = told(&view, made);
        if let (Some(settled), Some(fields)) = (&settled, data.as_object_mut()) {
            fields.insert("settled".to_owned(), told(&view, settled));
        }
        self.run.show(&data, || text(&view, made, settled.as_ref()));
        match settled.map(|settled| settled.outcome) {
            Some(LedgerOutcome::Rejected(why)) => {
                Err(EngineError::Refused { code: why.code, message: why.message })
            }
            _ => Ok(()),
        }
    }

    async fn settled(&self, request: &Id) -> EngineResult<Option<LedgerTransaction>> {
        Ok(self.transactions().await?.into_iter().rfind(|made| made.request.id == *request))
    }

    async fn init(&self, opening: Opening, mut agents: Vec<String>) -> EngineResult<()> {
        if agents.is_empty() {
            let registry = self.run.engine.registry().await?;
            agents.extend(registry.list("agent").filter_map(|(_, definition)| match definition {
                Definition::Agent(agent) => Some(agent.id.to_string()),
                _ => None,
            }));
        }
        let before = self.run.engine.book(&self.book).await?;
        let scale = before.as_ref().map_or(opening.scale, |view| view.scale);
        let (balance, treasury) = (limit(&opening.balance, scale)?, limit(&opening.treasury, scale)?);
        if before.is_none() {
            let body = PaymentBody::OpenBook(OpenBook { unit: opening.unit, scale });
            self.ask(&once("book", &self.book.0), body).await?;
        }
        let system = [
            (MINT.to_owned(), AccountKind::Mint, 0),
            (TREASURY.to_owned(), AccountKind::Treasury, treasury),
            (FEES.to_owned(), AccountKind::Fees, 0),
        ];
        let wallets = agents.into_iter().map(|agent| (agent, AccountKind::Agent, balance));
        let mut rows: Vec<(String, String)> = Vec::new();
        for (name, kind, grant) in system.into_iter().chain(wallets) {
            let there = before.as_ref().is_some_and(|view| view.account(&name).is_some());
            let outcome = match self.wallet(&name, kind, grant).await {
                Ok(()) if there => "exists".to_owned(),
                Ok(()) => "created".to_owned(),
                Err(error) => format!("failed: {error}"),
            };
            rows.push((name, outcome));
        }
        self.show_init(&rows).await
    }

    /// Opens an account and gives it what it begins with. Both have ids that follow from the name, so that an `init`
    /// that was cut off is finished by the next one, and two at once do everything once. An account that somebody else
    /// opened, and one that began with another amount, stays as it is.
    async fn wallet(&self, name: &str, kind: AccountKind, grant: i64) -> EngineResult<()> {
        let (of, limits) = (account(name), AccountLimits::default());
        let open = PaymentBody::OpenAccount(OpenAccount { account: of.clone(), kind, limits });
        match self.ask(&once("open", name), open).await {
            Err(EngineError::Refused { code, .. }) if code == "exists" => return Ok(()),
            opened => opened?,
        };
        if grant == 0 {
            return Ok(());
        }
        let mint = PaymentBody::Mint(Mint { mint: account(MINT), to: of, amount: grant });
        match self.ask(&once("grant", name), mint).await {
            Err(EngineError::Refused { code, .. }) if code == "conflict" => Ok(()),
            granted => granted.map(drop),
        }
    }

    async fn show_init(&self, rows: &[(String, String)]) -> EngineResult<()> {
        let view = self.view().await?;
        let balance =
            |name: &str| view.account(name).map(|line| format_amount(line.balance.posted, view.scale));
        let data: Vec<Value> = rows
            .iter()
            .map(|(name, outcome)| json!({"account": name, "outcome": outcome, "balance": balance(name)}))
            .collect();
        self.run.show(&json!({"book": view.book, "unit": view.unit, "accounts": data}), || {
            let line = |(name, outcome): &(String, String)| {
                let mark = match outcome.as_str() {
                    "created" => "✓ Created",
                    "exists" => "✓ Exists",
                    failed => failed,
                };
                let has = balance(name).map(|has| format!("{has} {}", view.unit)).unwrap_or_default();
                vec![name.clone(), has, mark.to_owned()]
            };
            table::render(
                &["ACCOUNT", "BALANCE", "OUTCOME"],
                rows.iter().map(line).collect(),
                self.run.out.width,
            )
        });
        match rows.iter().find(|(_, outcome)| outcome.starts_with("failed")) {
            Some((name, failed)) => {
                let message = format!("account '{name}' {failed}");
                Err(EngineError::Refused { code: "incomplete".to_owned(), message })
            }
            None => Ok(()),
        }
    }

    async fn policy(
        &self,
        tiers: Vec<String>,
        approval_above: Option<String>,
        treasury: Option<String>,
        ask: AskArgs,
    ) -> EngineResult<()> {
        let view = self.view().await?;
        let mut policy = view.policy.clone().unwrap_or_else(|| default_policy(view.scale));
        if tiers.is_empty() && approval_above.is_none() && treasury.is_none() {
            self.show_policy(&view, &policy);
            return Ok(());
        }
        policy.version = policy.version.saturating_add(1);
        if !tiers.is_empty() {
            policy.tiers = tiers.iter().map(|text| tier(text, view.scale)).collect::<EngineResult<_>>()?;
        }
        if let Some(text) = approval_above {
            policy.approval_above = if text == "none" { None } else { Some(limit(&text, view.scale)?) };
        }
        if let Some(name) = treasury {
            policy.treasury = account(&name);
        }
        self.ask(&ask, PaymentBody::SetPolicy(SetPolicy { policy: policy.clone() })).await?;
        self.show_policy(&view, &policy);
        Ok(())
    }

    fn show_policy(&self, view: &BookView, policy: &LedgerPolicy) {
        let tiers = policy
            .tiers
            .iter()
            .map(|tier| json!({"at_least": tier.at_least, "amount": format_amount(tier.amount, view.scale)}));
        let above = policy.approval_above.map(|above| format_amount(above, view.scale));
        let data = json!({
            "version": policy.version,
            "treasury": policy.treasury,
            "tiers": tiers.collect::<Vec<_>>(),
            "approval_above": above,
        });
        self.run.show(&data, || {
            let tiers: Vec<String> = policy
                .tiers
                .iter()
                .map(|tier| format!("score ≥ {} → {}", tier.at_least, money(view, tier.amount)))
                .collect();
            let above = policy.approval_above.map_or_else(
                || "nothing waits for a person".to_owned(),
                |above| format!("above {} a person has to agree", money(view, above)),
            );
            format!(
                "Policy {} of book '{}', from '{}':\n  {}\n  {above}",
                policy.version,
                view.book,
                policy.treasury,
                tiers.join("\n  ")
            )
        });
    }
}

/// A request that is made once in a book, whoever asks and how often.
fn once(what: &str, name: &str) -> AskArgs {
    let id = Some(Id::of_text(&format!("ledger init\n{what}\n{name}")).to_string());
    AskArgs { reason: format!("ledger init: {what} {name}"), by: "cli".to_owned(), id }
}

fn tier(text: &str, scale: i32) -> EngineResult<RewardTier> {
    let bad = || EngineError::Invalid(format!("'{text}' is no tier: write SCORE=AMOUNT, as in 0.8=25"));
    let (score, paid) = text.split_once('=').ok_or_else(bad)?;
    let is_plain = score.chars().all(|c| c.is_ascii_digit() || c == '.');
    let at_least = score.parse::<f64>().ok().filter(|score| is_plain && (0.0..=1.0).contains(score));
    let at_least = at_least.ok_or_else(bad)?;
    Ok(RewardTier { at_least, amount: amount(paid, scale)? })
}

fn text(view: &BookView, made: &LedgerTransaction, settled: Option<&LedgerTransaction>) -> String {
    if let LedgerOutcome::Pending(why) = &made.outcome {
        return format!("Waiting: {}\nrequest {}", why.message, made.request.id);
    }
    let shown = settled.unwrap_or(made);
    if let LedgerOutcome::Rejected(why) = &shown.outcome {
        return format!("Agreed to, but not done: {}", why.message);
    }
    let mut lines = vec![match moved(view, shown) {
        moved if moved.is_empty() => {
            format!("Done: {}, {}", made.request.body.kind(), said::asked(view, &made.request.body))
        }
        moved => moved,
    }];
    for posting in &shown.postings {
        let (from, to) = (money(view, posting.from_after.posted), money(view, posting.to_after.posted));
        lines.push(format!("  {} has {from}, {} has {to}", posting.from, posting.to));
    }
    if let PaymentBody::Reserve(_) = shown.request.body {
        lines.push(format!("  reservation {}", shown.request.id));
    }
    lines.push(format!("  transaction {}", shown.id));
    lines.join("\n")
}
