//! The headers of a record, in one block of bytes.

use std::fmt::{self, Debug, Display, Formatter};
use std::io::Write;

use p2_core::record::Header;

/// Bytes of a length in the block.
const LENGTH: usize = size_of::<u32>();
/// What the headers of a record of ours take, as a rule.
const USUAL_BYTES: usize = 512;

/// The headers of a record, in order: names, and values that are text by convention.
///
/// They are kept as one block, each name and value after its length (`u32`, little endian): a record has ten of them,
/// and twenty small allocations cost more than everything else that is done with them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    count: u32,
    block: Vec<u8>,
}

impl Headers {
    /// None yet, with room for what a record has as a rule.
    pub fn roomy() -> Headers {
        Headers { count: 0, block: Vec::with_capacity(USUAL_BYTES) }
    }

    /// Reads `count` headers from the front of bytes in the form of [`Headers::block`], and gives what is behind them.
    ///
    /// # Errors
    /// A sentence where they are cut short, or a name is not UTF-8.
    pub fn split_off(count: u32, bytes: &[u8]) -> Result<(Headers, &[u8]), &'static str> {
        let mut rest = bytes;
        for _ in 0..count {
            let (name, behind) = split_field(rest).ok_or("a header that is cut short")?;
            std::str::from_utf8(name).map_err(|_| "the name of a header that is not UTF-8")?;
            (_, rest) = split_field(behind).ok_or("a header that is cut short")?;
        }
        let block = bytes.get(..bytes.len() - rest.len()).unwrap_or_default().to_vec();
        Ok((Headers { count, block }, rest))
    }

    /// Adds a header. No log takes a name or a value over 4 GiB: such a one is cut there.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        self.put(name.as_bytes());
        self.put(value);
        self.count += 1;
    }

    /// Adds a header whose value is text, written in place.
    pub fn push_text(&mut self, name: &str, value: impl Display) {
        self.put(name.as_bytes());
        let at = self.block.len();
        self.block.extend([0; LENGTH]);
        // Writing to memory does not fail; a value that cannot be shown is as long as it got.
        let _ = write!(self.block, "{value}");
        let length = length_of(self.block.len() - at - LENGTH);
        for (to, from) in self.block.iter_mut().skip(at).zip(length) {
            *to = from;
        }
        self.count += 1;
    }

    fn put(&mut self, field: &[u8]) {
        self.block.extend(length_of(field.len()));
        self.block.extend(field.get(..u32::MAX as usize).unwrap_or(field));
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut rest = self.block.as_slice();
        std::iter::from_fn(move || {
            let (name, behind) = split_field(rest)?;
            let (value, behind) = split_field(behind)?;
            rest = behind;
            Some((std::str::from_utf8(name).unwrap_or_default(), value))
        })
    }

    /// The value of the first one of that name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Keeps those that are to be kept.
    pub fn retain(&mut self, keeps: impl Fn(&str, &[u8]) -> bool) {
        *self = self.iter().filter(|(name, value)| keeps(name, value)).collect();
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of all names and values together.
    pub fn size(&self) -> usize {
        self.block.len() - 2 * LENGTH * self.count as usize
    }

    /// Each name and value after its length: what [`Headers::split_off`] reads.
    pub fn block(&self) -> &[u8] {
        &self.block
    }
}

impl<'a> FromIterator<(&'a str, &'a [u8])> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a [u8])>>(headers: I) -> Headers {
        let mut all = Headers::default();
        headers.into_iter().for_each(|(name, value)| all.push(name, value));
        all
    }
}

/// From those of a dead letter.
impl From<&[Header]> for Headers {
    fn from(headers: &[Header]) -> Headers {
        headers.iter().map(|header| (header.name.as_str(), header.value.as_slice())).collect()
    }
}

/// For a dead letter.
impl From<&Headers> for Vec<Header> {
    fn from(headers: &Headers) -> Vec<Header> {
        headers.iter().map(|(name, value)| Header { name: name.to_owned(), value: value.to_vec() }).collect()
    }
}

impl Debug for Headers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, value)| (name, String::from_utf8_lossy(value))))
            .finish()
    }
}

fn length_of(bytes: usize) -> [u8; LENGTH] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}

fn split_field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_in_order_with_empty_and_binary_values() {
        let mut headers = Headers::roomy();
        headers.push("ce_id", &[0, 255]);
        headers.push_text("ce_time", 17);
        headers.push("", b"");
        headers.push("ce_id", b"second");
        let all: Vec<_> = headers.iter().collect();
        assert_eq!(
            all,
            [("ce_id", &[0, 255][..]), ("ce_time", b"17"), ("", b""), ("ce_id", b"second")],
            "{headers:?}"
        );
        assert_eq!((headers.count(), headers.size()), (4, 27));
        assert_eq!((headers.get("ce_id"), headers.get("none")), (Some(&[0, 255][..]), None));
        assert_eq!(Headers::from(Vec::from(&headers).as_slice()), headers);
    }

    #[test]
    fn a_block_is_read_back_and_what_is_behind_it_is_left() {
        let mut headers: Headers = [("a", &b"1"[..]), ("b", b"")].into_iter().collect();
        let bytes = [headers.block(), b"rest"].concat();
        assert_eq!(Headers::split_off(2, &bytes), Ok((headers.clone(), &b"rest"[..])));
        for end in 0..headers.block().len() {
            assert!(Headers::split_off(2, &bytes[..end]).is_err(), "{end}");
        }
        assert!(Headers::split_off(1, &[1, 0, 0, 0, 255, 0, 0, 0, 0]).is_err());
        headers.retain(|name, _| name == "b");
        assert_eq!(headers, [("b", &b""[..])].into_iter().collect());
    }
}
