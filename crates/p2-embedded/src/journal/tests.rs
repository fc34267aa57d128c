use super::*;

const SALT: u64 = 0x1234_5678_9ABC_DEF0;

/// The journal, what was dropped, and the payloads.
type Opened = (Journal, Option<DroppedTail>, Vec<Vec<u8>>);

fn open(path: &Path) -> Result<Opened, JournalError> {
    let mut found = Vec::new();
    let (journal, dropped) = Journal::open(path, SALT, |frame| {
        found.push(frame.payload.to_vec());
        Ok(())
    })?;
    Ok((journal, dropped, found))
}

fn payloads(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|n| vec![n; 10 + usize::from(n) * 7]).collect()
}

/// A journal of so many synced frames, and where each ends.
fn written(path: &Path, count: u8, sync: bool) -> Vec<u64> {
    let (mut journal, _, _) = open(path).unwrap();
    payloads(count)
        .iter()
        .map(|payload| {
            journal.write(payload).unwrap();
            if sync {
                journal.sync().unwrap();
            }
            journal.end
        })
        .collect()
}

#[test]
fn a_journal_cut_at_any_byte_opens_to_its_whole_frames_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let ends = written(&path, 12, true);
    let whole = std::fs::read(&path).unwrap();
    for length in 0..=whole.len() {
        let cut = dir.path().join("cut");
        std::fs::write(&cut, &whole[..length]).unwrap();
        let (mut journal, dropped, found) = open(&cut).unwrap();
        let kept = ends.iter().filter(|end| **end <= length as u64).count();
        assert_eq!(found, payloads(12)[..kept], "cut to {length}");
        let boundary = length == 0 || length == FILE_HEADER || ends.contains(&(length as u64));
        assert_eq!(dropped.is_none(), boundary, "cut to {length}");
        journal.write(b"goes on").unwrap();
        drop(journal);
        let (_, dropped, found) = open(&cut).unwrap();
        assert_eq!((dropped, found.len(), found[kept].as_slice()), (None, kept + 1, b"goes on".as_slice()));
    }
}

#[test]
fn any_flipped_bit_before_the_last_frame_is_refused_and_no_byte_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let ends = written(&path, 5, true);
    let whole = std::fs::read(&path).unwrap();
    for bit in 0..ends[3] as usize * 8 {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bad).unwrap();
        let refused = open(&path);
        assert!(
            matches!(refused, Err(JournalError::Damaged { .. } | JournalError::Newer { .. })),
            "bit {bit} was not noticed"
        );
        assert_eq!(std::fs::read(&path).unwrap(), bad, "bit {bit}: a byte was changed");
    }
}

#[test]
fn a_damaged_last_frame_is_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let ends = written(&path, 5, true);
    let whole = std::fs::read(&path).unwrap();
    for at in ends[3] as usize..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        let (_, dropped, found) = open(&path).unwrap();
        assert_eq!(found, payloads(4));
        assert_eq!(dropped, Some(DroppedTail { at: ends[3], bytes: ends[4] - ends[3] }));
    }
}

#[test]
fn frames_that_were_never_synced_may_be_torn_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let ends = written(&path, 5, false);
    let mut bad = std::fs::read(&path).unwrap();
    bad[ends[1] as usize + FRAME_HEADER] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let (_, dropped, found) = open(&path).unwrap();
    assert_eq!(found, payloads(2));
    assert_eq!(dropped, Some(DroppedTail { at: ends[1], bytes: ends[4] - ends[1] }));
}

#[test]
fn a_newer_format_is_refused_and_no_byte_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    written(&path, 3, true);
    let mut newer = std::fs::read(&path).unwrap();
    newer[8] = 2;
    std::fs::write(&path, &newer).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, JournalError::Newer { found: 2, .. }));
    assert!(error.to_string().contains("use the newer program"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), newer);
}

#[test]
fn a_file_that_is_no_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["x", "P2JOURNX", "something else that is longer than a header"] {
        let path = dir.path().join("other");
        std::fs::write(&path, text).unwrap();
        assert!(matches!(open(&path), Err(JournalError::Damaged { at: 0, .. })), "{text}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

/// The batches of the whole frames in a cut-off copy of a journal.
fn batches(bytes: &[u8]) -> Result<Vec<crate::codec::FoundBatch>, JournalError> {
    let mut found = Vec::new();
    scan(Path::new("journal"), bytes, &mut |frame| {
        found.extend(crate::codec::decode_payload(frame.payload)?);
        Ok(())
    })?;
    Ok(found)
}

#[tokio::test]
async fn the_last_64_kib_cut_at_every_byte_open_to_a_prefix_of_the_acknowledged_batches() {
    use p2_core::record::Topic;
    use p2_stream::ports::{Log, NewRecord};

    let dir = tempfile::tempdir().unwrap();
    let embedded = crate::Embedded::open(dir.path(), &crate::Options::with_partitions(4)).unwrap();
    let log = embedded.log();
    let record = |partition: i32| NewRecord {
        topic: Topic::Inbox,
        partition,
        key: "key".to_owned(),
        headers: Vec::new(),
        value: vec![0x5A; 600],
        time_ms: 1,
    };
    let mut acknowledged = 0;
    for _ in 0..42 {
        let batch = || log.append(vec![record(0)]);
        // Three callers at a time, so that frames have one batch or several.
        let (first, second, third) = tokio::join!(batch(), batch(), batch());
        for positions in [first, second, third] {
            assert_eq!(positions.unwrap().len(), 1);
            acknowledged += 1;
        }
    }
    drop((log, embedded));
    let whole = std::fs::read(dir.path().join("journal")).unwrap();
    assert!(whole.len() > 64 * 1024, "{} bytes", whole.len());
    let all = batches(&whole).unwrap();
    assert_eq!(all.len(), acknowledged);
    let mut fewest = all.len();
    for length in whole.len() - 64 * 1024..whole.len() {
        let found = batches(&whole[..length]).unwrap();
        assert_eq!(found, all[..found.len()], "cut to {length}");
        fewest = fewest.min(found.len());
    }
    assert!(fewest < 40, "the cuts reach back over most batches, but {fewest} are always there");
}
