//! What a model is asked and what it answers. Pure data: the `Model` port in `p2-stream` carries it out.

use serde::{Deserialize, Serialize};

use crate::json_text::JsonText;

/// A chat request, provider-neutral; its shape follows the OpenAI chat completions API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRequest {
    /// `provider/model`, e.g. `openai/gpt-4o` or `scripted/demo`.
    pub model: String,
    /// System, user, assistant and tool messages, oldest first. Every tool message follows the assistant
    /// message that holds its call.
    pub messages: Vec<ChatMessage>,
    /// Tools on offer; the model chooses (`tool_choice: auto`).
    pub tools: Vec<ToolSpec>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    pub top_p: Option<f64>,
    /// Longest reply in tokens.
    pub max_tokens: Option<i64>,
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum ChatMessage {
    /// Instructions.
    System {
        /// Text.
        content: String,
    },
    /// From a person or the caller.
    User {
        /// Text.
        content: String,
    },
    /// From the model.
    Assistant {
        /// Text; absent where there are only tool calls.
        content: Option<String>,
        /// The calls it asked for.
        tool_calls: Vec<ModelToolCall>,
    },
    /// The result of one call.
    Tool {
        /// The provider's call id.
        tool_call_id: String,
        /// The tool.
        name: String,
        /// The result as JSON text.
        content: String,
    },
}

/// A tool on offer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// Name.
    pub name: String,
    /// For the model.
    pub description: String,
    /// JSON Schema of the arguments.
    pub parameters: JsonText,
}

/// A call that the model asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelToolCall {
    /// The provider's id; may be empty or repeated, the core mends that.
    pub id: String,
    /// The tool.
    pub name: String,
    /// The arguments, JSON text as the model wrote it; may be malformed.
    pub arguments: String,
}

/// A model's reply, complete.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct ModelReply {
    /// Text, where there is some.
    pub text: Option<String>,
    /// Tool calls, in the model's order.
    pub tool_calls: Vec<ModelToolCall>,
    /// Tokens in the prompt, where the provider said.
    pub prompt_tokens: Option<i64>,
    /// Tokens in the reply, where the provider said.
    pub completion_tokens: Option<i64>,
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ModelError {
    /// What to do about it.
    pub class: ModelErrorClass,
    /// Stable: `http_<status>`, `timeout`, `connect`, `incomplete`, `malformed`, `unknown_model`, `no_key`, …
    pub code: String,
    /// For people; holds no secret.
    pub message: String,
}

/// What to do about a model error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelErrorClass {
    /// Retried until the deadline, and still failing.
    Transient,
    /// The same request will fail again.
    Permanent,
    /// The deadline passed.
    Timeout,
}

/// The end of a model call: reply or error, and what it took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelOutcome {
    /// Reply or error.
    pub result: Result<ModelReply, ModelError>,
    /// From first send to last byte over all attempts, milliseconds.
    pub latency_ms: i64,
    /// Attempts made.
    pub attempts: i32,
}
