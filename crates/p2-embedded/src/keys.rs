//! Keys of the views: injective, and in the order of their parts.
//!
//! A text is its bytes with 0x00 written as 0x00 0xFF, ended by 0x00 0x01; so no text is the beginning of
//! another one, whatever characters it has. A number is its 8 big-endian bytes with the sign turned.

/// A key that is being put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    pub(crate) fn text(mut self, text: &str) -> Key {
        for byte in text.bytes() {
            self.0.push(byte);
            if byte == 0 {
                self.0.push(0xFF);
            }
        }
        self.0.extend([0, 1]);
        self
    }

    pub(crate) fn number(mut self, number: i64) -> Key {
        self.0.extend((number ^ i64::MIN).to_be_bytes());
        self
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests;
