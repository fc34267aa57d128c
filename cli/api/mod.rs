//! The local HTTP API: loopback only, one token per process.
//!
//! | method and path | what |
//! |---|---|
//! | `POST /v1/inbox` | append a message; 202 after the commit, `?wait=outcome` 200 with its outcome |
//! | `GET /v1/conversations` | list |
//! | `GET /v1/conversations/{id}` | one; `?seen_seq=N&timeout_ms=M` waits for a change |
//! | `GET /v1/conversations/{id}/outcomes/{input}` | what became of an input; `?timeout_ms=M` |
//! | `GET /v1/artifacts` | `?conversation=&kind=&since_ms=&limit=` |
//! | `GET /v1/topics`, `GET /v1/topics/{topic}/records` | offsets; records, `?partition=&from=&max=` |
//! | `GET`, `POST /v1/registry` | newest definitions; apply records |
//! | `GET /v1/dead-letters`, `POST /v1/dead-letters/{id}/replay` | list; replay, `?force=true` |
//! | `GET /v1/effects/in-doubt`, `POST /v1/effects/{id}/resolution` | list; resolve |
//! | `POST /v1/verify` | replay all transitions and compare |
//!
//! Every request carries `Authorization: Bearer <token>`; the token lies in `<data-dir>/api.json`, which only
//! its owner can read. Every error is `{"error":{"code","message"}}`.

pub(crate) mod endpoint;
pub(crate) mod server;
mod strict;
#[cfg(test)]
mod tests;
pub(crate) mod wire;
