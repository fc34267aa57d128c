//! Values with the schema ids of a registry, for readers and writers that expect them.
//!
//! Without a registry values are Avro single-object encoding. With one, [`FramedLog`] stands in front of the log:
//! what is written gets registry framing (byte 0, the schema's id, the datum), what is read comes out in
//! single-object encoding whichever of the two it had. The datum is the same, so nothing behind the log knows of it,
//! and a topic may hold both. The registry is asked at start and once per id that is not known, never per record.

mod client;
mod framed;
mod ids;

pub use client::{RegistryClient, RegistryConfig, RegistryError, Schemas};
pub use framed::FramedLog;
pub use ids::register;
