//! People, agents and evaluators at random: what they ask of the books as these stand.

use p2_core::ids::{AccountId, AgentId, BookId, BranchId, ConversationId, Id};
use p2_core::ledger::{default_policy, reward_again_id, reward_id};
use p2_core::record::*;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::bookkeeper::Bookkeeper;
use crate::actor::Outside;

/// The books.
pub const BOOKS: [&str; 2] = ["main", "side"];
/// Agents with a wallet, once it is opened.
pub const AGENTS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];
/// The account that pays for the work of agents in conversations.
pub const SPENDING: &str = "budget:team";
/// Names that no account has, or may have.
const STRANGERS: [&str; 4] = ["nobody", "аlpha", "", "mint "];
const MOST: i64 = 9_007_199_254_740_991;

/// Those who write payment requests.
#[derive(Clone, Debug, Default)]
pub struct Payers {
    sent: Vec<PaymentRequest>,
    count: u64,
}

/// A request of a person, under an id of that name.
pub fn request(book: &BookId, name: &str, body: PaymentBody) -> PaymentRequest {
    PaymentRequest {
        id: Id::of_text(name),
        book: book.clone(),
        by: "payers".to_owned(),
        cause: PaymentCause {
            kind: CauseKind::Human,
            reference: None,
            conversation: None,
            agent: None,
            branch: None,
            reason: name.to_owned(),
        },
        reply_to: None,
        not_after_ms: None,
        body,
    }
}

/// What opens a book with a mint, a treasury, fees and those agents, the agents and the treasury with `amount` each.
/// `times` is part of every id.
pub fn opening(book: &BookId, agents: &[&str], amount: i64, times: u64) -> Vec<PaymentRequest> {
    let name = |what: &str| format!("{what} of {book}, {times}");
    let open_book = PaymentBody::OpenBook(OpenBook { unit: "TOKEN".to_owned(), scale: 2 });
    let mut all = vec![request(book, &name("book"), open_book)];
    let others =
        [("mint", AccountKind::Mint), ("treasury", AccountKind::Treasury), ("fees", AccountKind::Fees)];
    let wallets = agents.iter().map(|agent| (*agent, AccountKind::Agent));
    for (account, kind) in others.into_iter().chain(wallets) {
        let (id, limits) = (AccountId::from(account), AccountLimits::default());
        let open = PaymentBody::OpenAccount(OpenAccount { account: id, kind, limits });
        all.push(request(book, &name(&format!("open {account}")), open));
    }
    for to in agents.iter().copied().chain(["treasury"]) {
        let mint = Mint { mint: AccountId::from("mint"), to: AccountId::from(to), amount };
        all.push(request(book, &name(&format!("mint {to}")), PaymentBody::Mint(mint)));
    }
    all
}

/// Wallets of agents that people talk to: what they do is judged and paid.
const TALKERS: [&str; 3] = ["boss", "clerk", "critic"];

/// The account for work, with a little in it, and the wallets of those who work.
fn spending(book: &BookId, times: u64) -> Vec<PaymentRequest> {
    let (account, limits) = (AccountId::from(SPENDING), AccountLimits::default());
    let mint = Mint { mint: AccountId::from("mint"), to: account.clone(), amount: 700 };
    let open = OpenAccount { account, kind: AccountKind::Escrow, limits };
    let wallet = |agent: &&str| {
        let (account, limits) = (AccountId::from(*agent), AccountLimits::default());
        let open = OpenAccount { account, kind: AccountKind::Agent, limits };
        request(book, &format!("open {agent} of {book}, {times}"), PaymentBody::OpenAccount(open))
    };
    let mut all: Vec<PaymentRequest> = TALKERS.iter().map(wallet).collect();
    all.push(request(book, &format!("open {SPENDING} of {book}, {times}"), PaymentBody::OpenAccount(open)));
    all.push(request(book, &format!("mint {SPENDING} of {book}, {times}"), PaymentBody::Mint(mint)));
    all
}

fn any<T: Copy>(all: &[T], rng: &mut SmallRng) -> Option<T> {
    all.choose(rng).copied()
}

impl Payers {
    /// What is asked now, in one go.
    pub fn act(
        &mut self,
        books: &Bookkeeper,
        now_ms: i64,
        outside: &mut Outside,
        rng: &mut SmallRng,
    ) -> Vec<PaymentRequest> {
        let book = BookId::from(if rng.random_range(0..4) == 0 { BOOKS[1] } else { BOOKS[0] });
        self.count += 1;
        let known = books.purses(&book).map_or(0, std::collections::BTreeMap::len);
        if known < AGENTS.len() + 2 + TALKERS.len() {
            // What is missing is opened again, under new ids: what is there is refused.
            let agents: Vec<&str> = AGENTS.into_iter().take(rng.random_range(3..=AGENTS.len())).collect();
            let mut requests = opening(&book, &agents, 10_000, self.count);
            requests.extend(spending(&book, self.count));
            self.sent.extend(requests.iter().cloned());
            return requests;
        }
        let many = if rng.random_bool(0.5) { rng.random_range(2..6) } else { 1 };
        let mut requests = Vec::new();
        for _ in 0..many {
            let request = match self.again(rng, outside) {
                Some(again) => again,
                None => self.fresh(&book, books, now_ms, rng),
            };
            self.sent.push(request.clone());
            requests.push(request);
        }
        requests
    }

    /// A request that was sent before, as it was or with another body.
    fn again(&self, rng: &mut SmallRng, outside: &mut Outside) -> Option<PaymentRequest> {
        if rng.random_range(0..7) > 0 {
            return None;
        }
        let mut again = self.sent.choose(rng)?.clone();
        match (&mut again.body, rng.random_range(0..3)) {
            (PaymentBody::Transfer(Transfer { legs, .. }), 0) => {
                legs.iter_mut().for_each(|leg| leg.amount = leg.amount.saturating_add(1));
            }
            (PaymentBody::Reward(reward), 0 | 1) => {
                // Judged again: another evaluation, another score, perhaps another version.
                outside.count("judged again");
                reward.evaluation = Id::of_text(&format!("evaluation {}", self.count));
                reward.score = f64::from(rng.random_range(0..=10_u32)) / 10.0;
                reward.evaluator_version += rng.random_range(0..2);
                again.cause.reference = Some(reward.evaluation);
            }
            _ => outside.count("payment asked again"),
        }
        Some(again)
    }

    fn fresh(
        &mut self,
        book: &BookId,
        books: &Bookkeeper,
        now_ms: i64,
        rng: &mut SmallRng,
    ) -> PaymentRequest {
        self.count += 1;
        let name = format!("pay {}", self.count);
        let (open, ended) = books.reservations(book);
        let waiting = books.waiting(book);
        let (from, to) = (payer(rng), payer(rng));
        let body = match rng.random_range(0..100) {
            0..30 => transfer(from, to, rng),
            30..44 => {
                let expires_ms = rng.random_bool(0.6).then(|| now_ms + rng.random_range(-500..9_000));
                PaymentBody::Reserve(Reserve { from, to, amount: amount(rng), expires_ms, scale: None })
            }
            44..54 => {
                let reservation = any(&open, rng).or(any(&ended, rng)).unwrap_or_else(|| Id::of_text(&name));
                let part = rng.random_bool(0.5).then(|| amount(rng));
                PaymentBody::Post(Post { reservation, amount: part, scale: None })
            }
            54..60 if waiting.is_empty() || rng.random_bool(0.6) => {
                let which = if rng.random_range(0..3) == 0 { &ended } else { &open };
                PaymentBody::Void(Void { reservation: any(which, rng).unwrap_or_else(|| Id::of_text(&name)) })
            }
            54..60 => {
                let reservation = any(&waiting, rng).unwrap_or_else(|| Id::of_text(&name));
                PaymentBody::Void(Void { reservation })
            }
            60..72 => return self.reward(book, rng),
            72..76 => return self.reward_again(book, books, rng),
            76..84 => match any(&waiting, rng) {
                Some(request) if rng.random_bool(0.6) => PaymentBody::Approve(Approve { request }),
                Some(request) => PaymentBody::Deny(Deny { request, reason: String::new() }),
                None => transfer(from, to, rng),
            },
            84..87 => {
                let reference = any(&open, rng).or(any(&waiting, rng)).unwrap_or_else(|| Id::of_text(&name));
                PaymentBody::Expire(Expire { reference })
            }
            87..90 => PaymentBody::Freeze(Freeze { account: from, frozen: rng.random_range(0..3) == 0 }),
            90..93 => PaymentBody::SetLimits(SetLimits { account: from, limits: limits(rng) }),
            93..96 => policy(books.policy_version(book), rng),
            96..98 => PaymentBody::Mint(Mint {
                mint: AccountId::from("mint"),
                to,
                amount: amount(rng).saturating_mul(5),
            }),
            _ => PaymentBody::Query(Query { account: from, movements: rng.random_range(0..5) }),
        };
        let mut asked = request(book, &name, body);
        if rng.random_range(0..8) == 0 {
            asked.not_after_ms = Some(now_ms + rng.random_range(-300..4_000));
        }
        self.by_whom(&mut asked, rng);
        asked
    }

    /// An agent asks in a conversation, for itself or (which is refused) for another; or a person, who is told or not.
    fn by_whom(&self, asked: &mut PaymentRequest, rng: &mut SmallRng) {
        let payer = match &asked.body {
            PaymentBody::Transfer(transfer) => transfer.legs.first().map(|leg| leg.from.clone()),
            PaymentBody::Reserve(reserve) => Some(reserve.from.clone()),
            _ => None,
        };
        let conversation = ConversationId(format!("c{}", rng.random_range(0..5)));
        if rng.random_bool(0.4)
            && let Some(payer) = payer.filter(|payer| AGENTS.contains(&payer.as_str()))
        {
            let agent = if rng.random_range(0..6) == 0 { "delta" } else { payer.as_str() };
            asked.cause.kind = if rng.random_bool(0.7) { CauseKind::ToolCall } else { CauseKind::Budget };
            asked.cause.reference = Some(Id::of_text(&format!("call {}", self.count)));
            asked.cause.conversation = Some(conversation.clone());
            asked.cause.agent = Some(AgentId::from(agent));
            asked.cause.branch = Some(BranchId::main());
        }
        if rng.random_bool(0.5) || matches!(asked.body, PaymentBody::Query(_)) {
            let wait = Id::of_text(&format!("wait {}", self.count));
            asked.reply_to = Some(PaymentReplyTo { conversation, wait, call_id: "call_1".to_owned() });
        }
    }

    /// Of few works, so that most are judged more than once.
    fn reward(&mut self, book: &BookId, rng: &mut SmallRng) -> PaymentRequest {
        let evaluation = Id::of_text(&format!("evaluation {}", self.count));
        let payee = if rng.random_range(0..8) == 0 { payer(rng) } else { AccountId::from(AGENTS[0]) };
        let target = Id::of_text(&format!("work {} of {book}", rng.random_range(0..8)));
        let reward = Reward {
            target,
            evaluator: any(&["gpt4_judge", "exact"], rng).unwrap_or_default().to_owned(),
            metric: "score".to_owned(),
            payee,
            occasion: if rng.random_range(0..5) == 0 { "again".to_owned() } else { target.to_string() },
            evaluator_version: rng.random_range(1..3),
            evaluation,
            score: f64::from(rng.random_range(2..=10_u32)) / 10.0,
        };
        let mut asked = request(book, "", PaymentBody::Reward(reward.clone()));
        asked.id = reward_id(&reward);
        if rng.random_range(0..15) == 0 {
            asked.id = Id::of_text(&format!("forged {}", self.count));
        }
        asked.cause.kind = CauseKind::Evaluation;
        asked.cause.reference = Some(evaluation);
        asked
    }
}

impl Payers {
    /// Two people ask once more for rewards that were asked for before, whatever became of those.
    fn reward_again(&mut self, book: &BookId, books: &Bookkeeper, rng: &mut SmallRng) -> PaymentRequest {
        let rewards = self.sent.iter().filter(|sent| sent.book == *book);
        let rewards: Vec<_> = rewards.filter(|sent| matches!(sent.body, PaymentBody::Reward(_))).collect();
        let Some(mut asked) = rewards.choose(rng).map(|sent| (*sent).clone()) else {
            return self.reward(book, rng);
        };
        if let PaymentBody::Reward(reward) = &asked.body {
            let mut id = reward_id(reward);
            while books.standing(book, &id).is_some() {
                id = reward_again_id(&id);
                if rng.random_range(0..12) == 0 {
                    break;
                }
            }
            asked.id = id;
        }
        asked.cause.kind = if rng.random_range(0..6) == 0 { CauseKind::Evaluation } else { CauseKind::Human };
        asked
    }
}

fn payer(rng: &mut SmallRng) -> AccountId {
    let name = match rng.random_range(0..30) {
        0 => any(&STRANGERS, rng),
        1 => Some("mint"),
        2 | 3 => Some("fees"),
        5 | 6 => Some(SPENDING),
        4 => Some("treasury"),
        _ => any(&AGENTS, rng),
    };
    AccountId::from(name.unwrap_or_default())
}

fn amount(rng: &mut SmallRng) -> i64 {
    match rng.random_range(0..40) {
        0 => any(&[0, -1, i64::MIN, i64::MAX, MOST, MOST + 1], rng).unwrap_or_default(),
        1..4 => rng.random_range(5_000..15_000),
        _ => rng.random_range(1..2_000),
    }
}

fn transfer(from: AccountId, to: AccountId, rng: &mut SmallRng) -> PaymentBody {
    let mut legs = vec![Leg { from, to, amount: amount(rng) }];
    while legs.len() < 4 && rng.random_range(0..4) == 0 {
        legs.push(Leg { from: payer(rng), to: payer(rng), amount: amount(rng) });
    }
    PaymentBody::Transfer(Transfer { legs, scale: None })
}

fn limits(rng: &mut SmallRng) -> AccountLimits {
    AccountLimits {
        credit: if rng.random_range(0..3) == 0 { rng.random_range(0..3_000) } else { 0 },
        transfer_max: (rng.random_range(0..4) == 0).then(|| rng.random_range(500..3_000)),
        day_max: (rng.random_range(0..3) == 0).then(|| rng.random_range(500..9_000)),
    }
}

fn policy(version: i32, rng: &mut SmallRng) -> PaymentBody {
    let far = rng.random_range(0..8) == 0;
    let policy = LedgerPolicy {
        version: if far { i32::MAX } else { version.max(1) + rng.random_range(0..3) },
        treasury: AccountId::from(if rng.random_range(0..8) == 0 { "mint" } else { "treasury" }),
        approval_above: rng.random_bool(0.7).then(|| rng.random_range(500..4_000)),
        ..default_policy(2)
    };
    PaymentBody::SetPolicy(SetPolicy { policy })
}
