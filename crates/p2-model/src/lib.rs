//! Models behind the `Model` port: [`router::Router`] picks by the model name's provider prefix.
//!
//! `scripted/<name>` answers from YAML rules, deterministically and offline ([`scripted`]); every other
//! provider is an OpenAI-compatible server over HTTP ([`openai`]). Both keep their decisions in pure
//! functions ([`scripted::answer`], [`openai::retry::decide`], [`openai::wire`]).

pub mod openai;
pub mod router;
pub mod scripted;
pub mod secret;
