//! A cell of the views: `[codec, schema, payload…]`, so that every row can be read on its own.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use p2_stream::ports::StoreError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Payloads over this many bytes are compressed.
const PLAIN_BYTES_MAX: usize = 2_048;
/// A payload that unpacks to more than this is damaged.
const UNPACKED_BYTES_MAX: u64 = 256 << 20;

const PLAIN: u8 = 0;
const DEFLATE: u8 = 1;
/// The payload is the value as JSON.
const JSON_1: u8 = 1;

/// Writes a value as a cell. The same value gives the same bytes.
pub(crate) fn write<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let bad = |what: String| StoreError::Corrupt(format!("a row cannot be written: {what}"));
    let json = serde_json::to_vec(value).map_err(|error| bad(error.to_string()))?;
    if json.len() <= PLAIN_BYTES_MAX {
        let mut cell = vec![PLAIN, JSON_1];
        cell.extend(json);
        return Ok(cell);
    }
    let mut encoder = DeflateEncoder::new(vec![DEFLATE, JSON_1], Compression::fast());
    encoder.write_all(&json).map_err(|error| bad(error.to_string()))?;
    encoder.finish().map_err(|error| bad(error.to_string()))
}

/// Reads a cell.
pub(crate) fn read<T: DeserializeOwned>(cell: &[u8]) -> Result<T, StoreError> {
    let bad = |what: String| StoreError::Corrupt(format!("a row cannot be read: {what}: rebuild the views"));
    let (codec, payload) = match cell {
        [codec, JSON_1, payload @ ..] => (*codec, payload),
        [_, schema, ..] => return Err(bad(format!("schema {schema} is not known"))),
        _ => return Err(bad("it has no header".to_owned())),
    };
    match codec {
        PLAIN => serde_json::from_slice(payload).map_err(|error| bad(error.to_string())),
        DEFLATE => {
            let mut json = Vec::new();
            let mut decoder = DeflateDecoder::new(payload).take(UNPACKED_BYTES_MAX);
            decoder.read_to_end(&mut json).map_err(|error| bad(error.to_string()))?;
            serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))
        }
        other => Err(bad(format!("codec {other} is not known"))),
    }
}

#[cfg(test)]
mod tests;
