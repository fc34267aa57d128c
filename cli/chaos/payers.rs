//! What people ask of the ledger as they see the books. Pure, as [`super::people`] is.

use p2_core::ids::{AccountId, BookId, Id};
use p2_core::ledger::{Book, FEES, MAIN_BOOK, TREASURY, default_policy};
use p2_core::record::{
    AccountKind, AccountLimits, Approve, Deny, Freeze, LedgerPolicy, Leg, Message, Mint, OpenAccount,
    Payload, PaymentBody, PaymentRequest, Post, Reserve, SetLimits, SetPolicy, Transfer, Void,
};
use p2_sim::money::{opening, request};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedMutRandom, IndexedRandom, IteratorRandom};

use super::money::Money;
use super::people::Deed;

/// The books. Evaluations and budgets know the first only.
pub(crate) const BOOKS: [&str; 3] = [MAIN_BOOK, "side", "shop"];
/// Who has a wallet in every book. People freeze and limit no others: what agents earn can be paid.
pub(crate) const WALLETS: [&str; 4] = ["ann", "bob", "cid", "dan"];
/// Agents that work, are judged and have a wallet in the first book.
const EARNERS: [&str; 6] = ["boss", "clerk", "human", "rules", "hired", "solo"];
/// Who pays for the work of `hired`.
const TEAM: &str = "budget:team";
/// What everybody begins with, minor units.
const BEGIN: i64 = 10_000;
/// What the treasury has for rewards: more than can be earned.
const PLENTY: i64 = 1_000_000_000_000;
/// What is above waits for a person.
const APPROVAL_ABOVE: i64 = 5_000;
/// The account for work is filled up below this.
const TEAM_LOW: i64 = 300;

/// What opens the books. Asked for once, before anything else.
pub(crate) fn opened() -> Vec<PaymentRequest> {
    let mut all = Vec::new();
    for name in BOOKS {
        let book = BookId::from(name);
        let earners: &[&str] = if name == MAIN_BOOK { &EARNERS } else { &[] };
        let agents: Vec<&str> = WALLETS.iter().chain(earners).copied().collect();
        all.extend(opening(&book, &agents, BEGIN, 0));
        let mut ask = |what: &str, body| all.push(request(&book, &format!("{what} of {book}"), body));
        let mint = |to: &str, amount| {
            PaymentBody::Mint(Mint { mint: AccountId::from("mint"), to: AccountId::from(to), amount })
        };
        ask("plenty", mint(TREASURY, PLENTY));
        let policy = LedgerPolicy { version: 2, approval_above: Some(APPROVAL_ABOVE), ..default_policy(2) };
        ask("policy", PaymentBody::SetPolicy(SetPolicy { policy }));
        if name == MAIN_BOOK {
            let (account, limits) = (AccountId::from(TEAM), AccountLimits::default());
            let open = OpenAccount { account, kind: AccountKind::Escrow, limits };
            ask("team", PaymentBody::OpenAccount(open));
            ask("money for the team", mint(TEAM, TEAM_LOW));
        }
    }
    all
}

/// Those who ask, and what they have asked for so far.
pub(crate) struct Payers {
    seed: u64,
    rng: SmallRng,
    count: u64,
    asked: Vec<PaymentRequest>,
}

impl Payers {
    /// They have asked for nothing yet.
    pub(crate) fn new(seed: u64, rng: SmallRng) -> Payers {
        Payers { seed, rng, count: 0, asked: Vec::new() }
    }

    /// The records of these requests.
    pub(crate) fn deeds(&mut self, requests: Vec<PaymentRequest>) -> Vec<Deed> {
        requests.into_iter().map(|request| self.deed(request)).collect()
    }

    /// What is asked next, all of it at once.
    pub(crate) fn act(&mut self, money: &Money, now_ms: i64) -> Vec<Deed> {
        let times = if self.rng.random_range(0..5) == 0 { 3 } else { 1 };
        let mut deeds = Vec::new();
        for _ in 0..times {
            let next = self.next(money, now_ms);
            deeds.push(self.deed(next));
        }
        deeds
    }

    /// What waits for a person is refused, so that everything comes to rest. Asked again, it is the same request.
    pub(crate) fn closing(&mut self, money: &Money) -> Vec<Deed> {
        let mut all = Vec::new();
        for (name, book) in &money.books {
            for held in book.held.values().filter(|held| held.not_after_ms.is_some()) {
                let deny = Deny { request: held.id, reason: "it is late".to_owned() };
                let mut asked = request(name, "closing", PaymentBody::Deny(deny));
                asked.id = Id::derive(&held.id, "deny", 0);
                all.push(asked);
            }
        }
        self.deeds(all)
    }

    fn deed(&mut self, request: PaymentRequest) -> Deed {
        self.count += 1;
        // Who asks again does so in another record.
        let id = Id::of_text(&format!("chaos asks {} {}", self.seed, self.count));
        if self.asked.len() < 400 {
            self.asked.push(request.clone());
        } else if let Some(place) = self.asked.choose_mut(&mut self.rng) {
            *place = request.clone();
        }
        let payload = Payload::PaymentRequest(request);
        Deed::Ask(Message { id, cause: id, cause_position: None, time_ms: 0, traceparent: None, payload })
    }

    fn next(&mut self, money: &Money, now_ms: i64) -> PaymentRequest {
        let roll = self.rng.random_range(0..20);
        if roll < 3
            && let Some(again) = self.asked.choose(&mut self.rng).cloned()
        {
            if roll > 0 {
                return again;
            }
            // The id of one, the body of another.
            let body = transfer(AccountId::from(WALLETS[0]), AccountId::from(WALLETS[1]), self.amount());
            return PaymentRequest { body, ..again };
        }
        let name = BookId::from(self.pick(&[BOOKS[0], BOOKS[0], BOOKS[1], BOOKS[2]]));
        let empty = Book::default();
        let book = money.books.get(&name).unwrap_or(&empty);
        let (body, not_after_ms) = self.body(&name, book, now_ms);
        let mut asked = request(&name, &format!("payer {} {}", self.seed, self.count), body);
        asked.not_after_ms = not_after_ms;
        asked
    }

    fn pick<'t>(&mut self, from: &[&'t str]) -> &'t str {
        from.choose(&mut self.rng).copied().unwrap_or_default()
    }

    fn wallet(&mut self) -> AccountId {
        AccountId::from(self.pick(&WALLETS))
    }

    fn amount(&mut self) -> i64 {
        self.rng.random_range(1..2_000)
    }

    fn body(&mut self, name: &BookId, book: &Book, now_ms: i64) -> (PaymentBody, Option<i64>) {
        let soon = now_ms + self.rng.random_range(2_000..30_000);
        let body = match self.rng.random_range(0..100) {
            0..38 => {
                let legs = (0..self.rng.random_range(1..4)).map(|_| Leg {
                    from: self.wallet(),
                    to: self.wallet(),
                    amount: self.amount(),
                });
                PaymentBody::Transfer(Transfer { legs: legs.collect(), scale: None })
            }
            // More than there is.
            38..46 => transfer(self.wallet(), self.wallet(), 100 * BEGIN),
            46..64 => {
                let expires_ms = self.rng.random_bool(0.5).then_some(soon);
                let (from, to, amount) = (self.wallet(), self.wallet(), self.amount());
                PaymentBody::Reserve(Reserve { from, to, amount, expires_ms, scale: None })
            }
            64..80 => self.end(book),
            80..86 => {
                let large = transfer(self.wallet(), self.wallet(), APPROVAL_ABOVE + 1 + self.amount());
                return (large, self.rng.random_bool(0.6).then_some(soon));
            }
            86..91 => match book.held.keys().copied().choose(&mut self.rng) {
                Some(request) if self.rng.random_bool(0.6) => PaymentBody::Approve(Approve { request }),
                Some(request) => PaymentBody::Deny(Deny { request, reason: "no".to_owned() }),
                None => transfer(self.wallet(), self.wallet(), self.amount()),
            },
            91..94 => {
                // One at a time, and not for long: others are to be paid.
                let is_frozen = |name: &&str| {
                    let account = book.accounts.get(&AccountId::from(*name));
                    account.is_some_and(|account| account.frozen)
                };
                let (account, frozen) = match WALLETS.into_iter().find(is_frozen) {
                    Some(name) => (AccountId::from(name), false),
                    None => (self.wallet(), true),
                };
                PaymentBody::Freeze(Freeze { account, frozen })
            }
            94..96 => {
                let credit = self.rng.random_range(0..2_000);
                let limits = AccountLimits { credit, ..AccountLimits::default() };
                PaymentBody::SetLimits(SetLimits { account: self.wallet(), limits })
            }
            _ if name.as_str() == MAIN_BOOK => {
                let team = book.accounts.get(&AccountId::from(TEAM));
                let low = team.is_none_or(|team| team.balance.available() < TEAM_LOW);
                let to = if low { AccountId::from(TEAM) } else { self.wallet() };
                transfer(AccountId::from(TREASURY), to, TEAM_LOW)
            }
            _ => transfer(self.wallet(), AccountId::from(FEES), self.amount()),
        };
        (body, None)
    }

    /// Ends a reservation: one that is open, or was.
    fn end(&mut self, book: &Book) -> PaymentBody {
        let ours = book.reservations.iter().filter(|(_, open)| open.budget.is_none());
        let open = ours.map(|(id, open)| (*id, open.amount)).choose(&mut self.rng);
        let before = self.asked.iter().filter(|asked| matches!(asked.body, PaymentBody::Reserve(_)));
        let before = before.map(|asked| (asked.id, BEGIN)).choose(&mut self.rng);
        let wanted = if self.rng.random_range(0..6) == 0 { before } else { open.or(before) };
        let Some((reservation, amount)) = wanted else {
            return transfer(self.wallet(), self.wallet(), self.amount());
        };
        let amount = match self.rng.random_range(0..5) {
            0 => return PaymentBody::Void(Void { reservation }),
            1 => Some(amount.saturating_add(1)),
            2 => Some((amount / 2).max(1)),
            _ => None,
        };
        PaymentBody::Post(Post { reservation, amount, scale: None })
    }
}

fn transfer(from: AccountId, to: AccountId, amount: i64) -> PaymentBody {
    PaymentBody::Transfer(Transfer { legs: vec![Leg { from, to, amount }], scale: None })
}
