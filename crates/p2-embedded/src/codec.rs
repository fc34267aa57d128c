//! The payload of a journal frame: the batches of one group commit.
//!
//! ```text
//! payload = count:u32 batch*
//! batch   = records:u32 record* group:text progress:u32 progress*
//! record  = length:u32 crc:u32 body[length]                             (crc32c of the body)
//! body    = topic:u8 partition:i32 offset:i64 time:i64 key:text headers:u32 (name:text value:text)* value:text
//! progress = topic:u8 partition:i32 offset:i64 metadata:text
//! text    = length:u32 bytes
//! ```
//!
//! All integers are little-endian. Topics are numbered here, once and for ever.

use p2_core::record::Topic;
use p2_stream::ports::{CommittedOffset, Headers, NewRecord, StoredRecord};

/// A record of a frame: where it belongs, and where its bytes lie within the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) topic: Topic,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) at: usize,
    pub(crate) length: u32,
}

/// One batch of a frame.
#[derive(Debug, PartialEq)]
pub(crate) struct FoundBatch {
    pub(crate) records: Vec<Found>,
    pub(crate) group: String,
    pub(crate) progress: Vec<(Topic, i32, CommittedOffset)>,
}

pub(crate) fn code(topic: Topic) -> u8 {
    match topic {
        Topic::Inbox => 1,
        Topic::StateTransitions => 2,
        Topic::Effects => 3,
        Topic::Artifacts => 4,
        Topic::Registry => 5,
        Topic::DeadLetters => 6,
        Topic::PaymentRequests => 7,
        Topic::LedgerTransactions => 8,
    }
}

fn topic_of(code: u8) -> Result<Topic, String> {
    Topic::ALL
        .into_iter()
        .find(|topic| self::code(*topic) == code)
        .ok_or_else(|| format!("topic number {code} is not known to this program"))
}

pub(crate) fn put_text(to: &mut Vec<u8>, bytes: &[u8]) -> Result<(), String> {
    let length = u32::try_from(bytes.len()).map_err(|_| "a field over 4 GiB".to_owned())?;
    to.extend(length.to_le_bytes());
    to.extend(bytes);
    Ok(())
}

pub(crate) fn put_count(to: &mut Vec<u8>, count: usize) -> Result<(), String> {
    to.extend(u32::try_from(count).map_err(|_| "a list over 4 Gi items".to_owned())?.to_le_bytes());
    Ok(())
}

/// Appends one batch to a payload (after its count) and returns where its records lie in it.
pub(crate) fn encode_batch(
    to: &mut Vec<u8>,
    records: &[(i64, &NewRecord)],
    group: &str,
    progress: &[(Topic, i32, CommittedOffset)],
) -> Result<Vec<Found>, String> {
    put_count(to, records.len())?;
    let mut found = Vec::with_capacity(records.len());
    for (offset, record) in records {
        let at = to.len();
        // Length and checksum are known when the body is there.
        to.extend([0; 8]);
        to.push(code(record.topic));
        to.extend(record.partition.to_le_bytes());
        to.extend(offset.to_le_bytes());
        to.extend(record.time_ms.to_le_bytes());
        put_text(to, record.key.as_bytes())?;
        to.extend(record.headers.count().to_le_bytes());
        to.extend(record.headers.block());
        put_text(to, &record.value)?;
        let body = to.get(at + 8..).unwrap_or_default();
        let length = u32::try_from(body.len()).map_err(|_| "a record over 4 GiB".to_owned())?;
        let head = length.to_le_bytes().into_iter().chain(crc32c::crc32c(body).to_le_bytes());
        to.iter_mut().skip(at).zip(head).for_each(|(to, from)| *to = from);
        found.push(Found {
            topic: record.topic,
            partition: record.partition,
            offset: *offset,
            at,
            length: length + 8,
        });
    }
    put_text(to, group.as_bytes())?;
    put_count(to, progress.len())?;
    for (topic, partition, committed) in progress {
        put_progress(to, *topic, *partition, committed)?;
    }
    Ok(found)
}

/// Appends what a group has done in one partition.
pub(crate) fn put_progress(
    to: &mut Vec<u8>,
    topic: Topic,
    partition: i32,
    committed: &CommittedOffset,
) -> Result<(), String> {
    to.push(code(topic));
    to.extend(partition.to_le_bytes());
    to.extend(committed.offset.to_le_bytes());
    put_text(to, committed.metadata.as_bytes())
}

/// Reads bytes from the front; every method fails with a sentence where they run out.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(length).ok_or("a length that cannot be")?;
        let found = self.bytes.get(self.at..end).ok_or("a field that is cut short")?;
        self.at = end;
        Ok(found)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "a field that is cut short".to_owned())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn progress(&mut self) -> Result<(Topic, i32, CommittedOffset), String> {
        let (topic, partition) = (self.topic()?, self.i32()?);
        Ok((topic, partition, CommittedOffset { offset: self.i64()?, metadata: self.text()? }))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, String> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, String> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn topic(&mut self) -> Result<Topic, String> {
        let [code] = self.array()?;
        topic_of(code)
    }

    fn bytes(&mut self) -> Result<&'a [u8], String> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    /// The form of their block is that of the format.
    fn headers(&mut self) -> Result<Headers, String> {
        let count = self.u32()?;
        let (headers, rest) = Headers::split_off(count, self.bytes.get(self.at..).unwrap_or_default())?;
        self.at = self.bytes.len() - rest.len();
        Ok(headers)
    }

    pub(crate) fn text(&mut self) -> Result<String, String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| "a text that is not UTF-8".to_owned())
    }
}

/// Reads the payload of a frame.
///
/// # Errors
/// A sentence that says what does not fit.
pub(crate) fn decode_payload(payload: &[u8]) -> Result<Vec<FoundBatch>, String> {
    let mut reader = Reader::new(payload);
    let count = reader.u32()?;
    let mut batches = Vec::new();
    for _ in 0..count {
        let mut records = Vec::new();
        for _ in 0..reader.u32()? {
            let at = reader.at;
            let length = reader.u32()?;
            reader.take(4)?;
            let mut body = Reader::new(reader.take(length as usize)?);
            let (topic, partition, offset) = (body.topic()?, body.i32()?, body.i64()?);
            let length = length.checked_add(8).ok_or("a length that cannot be")?;
            records.push(Found { topic, partition, offset, at, length });
        }
        let group = reader.text()?;
        let mut progress = Vec::new();
        for _ in 0..reader.u32()? {
            progress.push(reader.progress()?);
        }
        batches.push(FoundBatch { records, group, progress });
    }
    if reader.at == payload.len() { Ok(batches) } else { Err("bytes behind the last batch".to_owned()) }
}

/// Reads one record, from its length on.
///
/// # Errors
/// A sentence that says what does not fit; a wrong checksum too.
pub(crate) fn decode_record(bytes: &[u8]) -> Result<StoredRecord, String> {
    let mut reader = Reader::new(bytes);
    let length = reader.u32()?;
    let crc = reader.u32()?;
    let body = reader.take(length as usize)?;
    if crc32c::crc32c(body) != crc {
        return Err("the checksum of a record does not fit".to_owned());
    }
    let mut body = Reader::new(body);
    let (topic, partition, offset, time_ms) = (body.topic()?, body.i32()?, body.i64()?, body.i64()?);
    let key = body.text()?;
    let headers = body.headers()?;
    let value = body.bytes()?.to_vec();
    Ok(StoredRecord { offset, record: NewRecord { topic, partition, key, headers, value, time_ms } })
}

#[cfg(test)]
mod tests;
