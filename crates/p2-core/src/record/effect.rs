//! The records of `effects`.

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, BranchId, ConversationId, Id};
use crate::json_text::JsonText;
use crate::state::RequestKind;

/// One effect to carry out, by `tool-exec` or anyone's own executor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Names the effect; also the idempotency key that is handed on.
    pub id: Id,
    /// The conversation.
    pub conversation: ConversationId,
    /// The agent that asks.
    pub agent: AgentId,
    /// Its branch.
    pub branch: BranchId,
    /// Reached later, it is answered `expired` and not done. Milliseconds since the epoch.
    pub not_after_ms: Option<i64>,
    /// What to do.
    pub body: EffectBody,
    /// What is set aside for it: a reservation of the ledger, which the conversation ends. None: nobody has to pay.
    #[serde(default)]
    pub reservation: Option<Id>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EffectBody {
    /// Call a tool; answer with a [`ToolOutcome`] on `inbox`.
    CallTool(CallTool),
    /// An agent's reply to people: for bridges to chat systems. Nothing is answered.
    PublishReply(PublishReply),
    /// Tell a webhook that a person is asked. Nothing is answered.
    NotifyWebhook(NotifyWebhook),
}

/// Call a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallTool {
    /// The tool.
    pub tool: String,
    /// Its pinned version.
    pub version: i32,
    /// The arguments, a JSON object as the model gave it or the person edited it.
    pub arguments: JsonText,
    /// The provider's call id.
    pub call_id: String,
    /// The wait that the answer closes.
    pub wait: Id,
}

/// An agent's reply to people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishReply {
    /// The entry that is the reply: `seq` on (agent, branch).
    pub entry: i64,
    /// The text.
    pub text: String,
}

/// Tell a webhook that a person is asked.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct NotifyWebhook {
    /// Where to POST `{"conversation","agent","branch","request","kind","text"}`; `${NAME}` stands for a
    /// variable of the executor's environment.
    pub url: String,
    /// The request's id.
    pub request: Id,
    /// What is asked.
    pub text: String,
    /// What kind of answer fits; absent in records of the first version, which all ask for a reply.
    #[serde(default)]
    pub kind: Option<RequestKind>,
}

impl std::fmt::Debug for NotifyWebhook {
    /// Without the URL, which may hold a token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let NotifyWebhook { url: _, request, text, kind } = self;
        let mut shown = f.debug_struct("NotifyWebhook");
        shown.field("request", request).field("text", text).field("kind", kind).finish_non_exhaustive()
    }
}
