//! A cell: `[codec, payload…]`, so that every row can be read on its own.
//!
//! The payload of codec 0 is Avro in single-object encoding (C3 01, the fingerprint of the writer's schema, the
//! datum): the codec says how the bytes are packed, the fingerprint what they mean. Nothing is compressed here,
//! since both servers compress their files and compress better over many rows than anyone within one.

use p2_core::record::StateTransition;
use p2_stream::ports::StoreError;
use p2_stream::wire;

use crate::head::{self, Head};

/// The payload as it is.
const PLAIN: u8 = 0;

fn bad(what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("a row cannot be read: {what}: rebuild the view"))
}

fn pack(mut payload: Vec<u8>) -> Vec<u8> {
    payload.insert(0, PLAIN);
    payload
}

fn unpack(cell: &[u8]) -> Result<&[u8], StoreError> {
    match cell {
        [PLAIN, payload @ ..] => Ok(payload),
        [codec, ..] => Err(bad(format_args!("codec {codec} is not known to this program"))),
        [] => Err(bad("its cell is empty")),
    }
}

/// The cell of a transition. The same transition gives the same bytes.
pub(crate) fn of_transition(transition: &StateTransition) -> Result<Vec<u8>, StoreError> {
    let payload = wire::encode_transition(transition)
        .map_err(|error| StoreError::Corrupt(format!("a row cannot be written: {error}")))?;
    Ok(pack(payload))
}

/// Reads [`of_transition`].
pub(crate) fn transition(cell: &[u8]) -> Result<StateTransition, StoreError> {
    wire::decode_transition(unpack(cell)?).map_err(bad)
}

/// The cell of a head. The same head gives the same bytes.
pub(crate) fn of_head(head: &Head) -> Result<Vec<u8>, StoreError> {
    head::encode(head)
        .map(pack)
        .map_err(|error| StoreError::Corrupt(format!("a row cannot be written: {error}")))
}

/// Reads [`of_head`].
pub(crate) fn head(cell: &[u8]) -> Result<Head, StoreError> {
    head::decode(unpack(cell)?).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_names_its_codec_and_its_schema() {
        let cell = of_head(&Head::default()).unwrap();
        assert_eq!(cell.get(..3), Some(&[0, 0xC3, 0x01][..]));
        let cell = of_transition(&crate::head::tests::transition(0, Vec::new())).unwrap();
        assert_eq!(cell.get(..3), Some(&[0, 0xC3, 0x01][..]));
    }

    #[test]
    fn what_cannot_be_read_is_a_sentence_that_names_what_is_wrong() {
        let mut cell = of_head(&Head::default()).unwrap();
        let said = |cell: &[u8]| head(cell).unwrap_err().to_string();
        assert!(said(&[]).contains("its cell is empty"));
        assert!(said(&cell[..5]).contains("single-object"), "{}", said(&cell[..5]));
        cell.push(0);
        assert!(said(&cell).contains("left over"), "{}", said(&cell));
        cell[4] ^= 1;
        assert!(said(&cell).contains("fingerprint"), "{}", said(&cell));
        cell[0] = 9;
        assert!(said(&cell).contains("codec 9"), "{}", said(&cell));
    }
}
