//! Progress of a consumer group in one partition, as it stands in the metadata of an offset commit.
//!
//! Records of many lanes finish out of order, so one offset does not say what is done. Beside the low watermark
//! (the committed offset) the metadata holds two bits for each offset of the window ahead of it.
//!
//! Form: `p2/2;<batch>;<nonce>;<begun>;<base64 of the bits>`, little end first, four offsets per byte, cut after the
//! last offset that is not pending. W = 8,192 offsets are 2,048 bytes, 2,732 characters of base64: well below
//! the 4,096 bytes that Kafka accepts (`offset.metadata.max.bytes`), so no packing is needed. `p2/1`, without
//! `begun`, is read as well.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::ports::CommittedOffset;

/// Most offsets ahead of the low watermark.
pub const WINDOW_OFFSETS_MAX: i64 = 8_192;

/// What is known of an offset at or above the low watermark. Pending is the absence of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetMark {
    /// A call that may not be repeated was announced.
    Claimed,
    /// Done.
    Done,
}

/// Progress in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Progress {
    /// Every offset below is done.
    pub low: i64,
    /// Counts the batches that carried this partition's progress; with the nonce it settles whether a batch
    /// whose commit outcome is unknown went through.
    pub batch: u64,
    /// Drawn by the owner at start.
    pub nonce: u64,
    /// When it was last decided where the group begins (at first, or to do something again), milliseconds since the
    /// epoch: outputs that are older say nothing of this progress. None where that was not noted.
    pub begun_ms: Option<i64>,
    marks: BTreeMap<i64, OffsetMark>,
}

impl Progress {
    /// Nothing done from `low` on.
    pub fn at(low: i64) -> Progress {
        Progress { low, ..Progress::default() }
    }

    /// The same, of a group that was made to begin at this time, milliseconds since the epoch.
    #[must_use]
    pub fn begun(mut self, begun_ms: i64) -> Progress {
        self.begun_ms = Some(begun_ms);
        self
    }

    /// The mark of an offset; none where it is pending.
    pub fn mark_of(&self, offset: i64) -> Option<OffsetMark> {
        if offset < self.low { Some(OffsetMark::Done) } else { self.marks.get(&offset).copied() }
    }

    /// Marks an offset. Done stays done; the low watermark moves over everything that is done.
    pub fn mark(&mut self, offset: i64, mark: OffsetMark) {
        if self.mark_of(offset) == Some(OffsetMark::Done) {
            return;
        }
        self.marks.insert(offset, mark);
        while self.marks.get(&self.low) == Some(&OffsetMark::Done) {
            self.marks.remove(&self.low);
            self.low += 1;
        }
    }

    /// Offsets from the low watermark to the highest marked one.
    pub fn span(&self) -> i64 {
        self.marks.last_key_value().map_or(0, |(last, _)| last - self.low + 1)
    }

    /// The form that is committed.
    pub fn encode(&self) -> CommittedOffset {
        let mut bits = vec![0u8; usize::try_from((self.span() + 3) / 4).unwrap_or(0)];
        for (offset, mark) in &self.marks {
            let at = usize::try_from(offset - self.low).unwrap_or(0);
            let code = match mark {
                OffsetMark::Claimed => 1,
                OffsetMark::Done => 2,
            };
            if let Some(byte) = bits.get_mut(at / 4) {
                *byte |= code << (2 * (at % 4));
            }
        }
        let bits = STANDARD_NO_PAD.encode(bits);
        let begun = self.begun_ms.map(|begun_ms| begun_ms.to_string()).unwrap_or_default();
        let metadata = format!("p2/2;{};{:x};{begun};{bits}", self.batch, self.nonce);
        CommittedOffset { offset: self.low, metadata }
    }

    /// Reads what was committed. Empty metadata is a bare offset: everything above it is pending.
    ///
    /// # Errors
    /// A sentence where the metadata is of another format: then nothing may be assumed done.
    pub fn decode(committed: &CommittedOffset) -> Result<Progress, String> {
        let mut progress = Progress::at(committed.offset);
        if committed.metadata.is_empty() {
            return Ok(progress);
        }
        let mut parts = committed.metadata.split(';');
        let notes_begin = match parts.next() {
            Some("p2/2") => true,
            Some("p2/1") => false,
            _ => return Err(format!("progress metadata of an unknown format: '{}'", committed.metadata)),
        };
        let bad = |what: &str| format!("progress metadata with a bad {what}: '{}'", committed.metadata);
        progress.batch = parts.next().and_then(|text| text.parse().ok()).ok_or_else(|| bad("batch"))?;
        let nonce = parts.next().and_then(|text| u64::from_str_radix(text, 16).ok());
        progress.nonce = nonce.ok_or_else(|| bad("nonce"))?;
        if notes_begin {
            let begun = parts.next().ok_or_else(|| bad("begin"))?;
            let begun_ms = (!begun.is_empty()).then(|| begun.parse()).transpose();
            progress.begun_ms = begun_ms.map_err(|_| bad("begin"))?;
        }
        let bits =
            parts.next().and_then(|text| STANDARD_NO_PAD.decode(text).ok()).ok_or_else(|| bad("window"))?;
        let mut offset = committed.offset;
        for byte in bits {
            for quarter in 0..4 {
                match (byte >> (2 * quarter)) & 3 {
                    1 => drop(progress.marks.insert(offset, OffsetMark::Claimed)),
                    2 => drop(progress.marks.insert(offset, OffsetMark::Done)),
                    3 => return Err(bad("window")),
                    _ => {}
                }
                offset += 1;
            }
        }
        Ok(progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_committed_reads_back(
            low in 0i64..1_000_000,
            begun_ms in any::<Option<i64>>(),
            marks in prop::collection::btree_map(0i64..WINDOW_OFFSETS_MAX, any::<bool>(), 0..600),
        ) {
            let mut progress = Progress { batch: 7, nonce: 0xabc, begun_ms, ..Progress::at(low) };
            for (ahead, done) in &marks {
                progress.mark(low + ahead, if *done { OffsetMark::Done } else { OffsetMark::Claimed });
            }
            let committed = progress.encode();
            prop_assert!(committed.metadata.len() <= 4_096);
            prop_assert_eq!(Progress::decode(&committed).unwrap(), progress.clone());
            for (ahead, done) in marks {
                let expected = if done { OffsetMark::Done } else { OffsetMark::Claimed };
                prop_assert_eq!(progress.mark_of(low + ahead), Some(expected));
            }
        }

        #[test]
        fn any_metadata_is_read_or_refused(metadata in "\\PC*") {
            let _ = Progress::decode(&CommittedOffset { offset: 3, metadata });
        }
    }

    #[test]
    fn the_form_without_a_begin_is_read() {
        let committed = CommittedOffset { offset: 5, metadata: "p2/1;3;ff;IA".to_owned() };
        let progress = Progress::decode(&committed).unwrap();
        assert_eq!((progress.low, progress.batch, progress.nonce, progress.begun_ms), (5, 3, 255, None));
        assert_eq!(progress.mark_of(7), Some(OffsetMark::Done));
    }

    #[test]
    fn a_full_window_fits_the_metadata_of_kafka() {
        let mut progress = Progress {
            batch: u64::MAX,
            nonce: u64::MAX,
            begun_ms: Some(i64::MIN),
            ..Progress::at(i64::MAX / 2)
        };
        for ahead in 1..WINDOW_OFFSETS_MAX {
            progress.mark(progress.low + ahead, OffsetMark::Done);
        }
        assert!(progress.encode().metadata.len() <= 4_096);
    }

    #[test]
    fn the_low_watermark_moves_over_what_is_done_and_stops_at_a_claim() {
        let mut progress = Progress::at(10);
        progress.mark(11, OffsetMark::Done);
        progress.mark(12, OffsetMark::Claimed);
        assert_eq!(progress.low, 10);
        progress.mark(10, OffsetMark::Done);
        assert_eq!(progress.low, 12);
        progress.mark(12, OffsetMark::Done);
        assert_eq!(progress.low, 13);
        assert_eq!(progress.span(), 0);
    }
}
