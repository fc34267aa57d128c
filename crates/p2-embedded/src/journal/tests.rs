use super::*;
use crate::segment::Slot;

const SALT: u64 = 0x1234_5678_9ABC_DEF0;

/// The journal, what was dropped, and the payloads.
type Opened = (Journal, Option<DroppedTail>, Vec<Vec<u8>>);

fn open(dir: &Path) -> Result<Opened, JournalError> {
    let mut found = Vec::new();
    let (journal, dropped) = Journal::open(&Disk::default(), dir, SALT, 1_000, |part| {
        if let Found::Frame(frame) = part {
            found.push(frame.payload.to_vec());
        }
        Ok(())
    })?;
    Ok((journal, dropped, found))
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    path_of(dir, number, 0)
}

fn payloads(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|n| vec![n; 10 + usize::from(n) * 7]).collect()
}

/// A journal of so many synced frames, and where each ends.
fn written(dir: &Path, count: u8, sync: bool) -> Vec<u64> {
    let (mut journal, _, _) = open(dir).unwrap();
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
    let dir = crate::tests::fast();
    let path = segment(dir.path(), 1);
    let ends = written(dir.path(), 12, true);
    let whole = std::fs::read(&path).unwrap();
    for length in 0..=whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let (mut journal, dropped, found) = open(dir.path()).unwrap();
        let kept = ends.iter().filter(|end| **end <= length as u64).count();
        assert_eq!(found, payloads(12)[..kept], "cut to {length}");
        let boundary = length == 0 || length == FILE_HEADER || ends.contains(&(length as u64));
        assert_eq!(dropped.is_none(), boundary, "cut to {length}");
        journal.write(b"goes on").unwrap();
        drop(journal);
        let (_, dropped, found) = open(dir.path()).unwrap();
        assert_eq!((dropped, found.len(), found[kept].as_slice()), (None, kept + 1, b"goes on".as_slice()));
    }
}

#[test]
fn any_flipped_bit_before_the_last_frame_is_refused_and_no_byte_changed() {
    let dir = crate::tests::fast();
    let path = segment(dir.path(), 1);
    let ends = written(dir.path(), 5, true);
    let whole = std::fs::read(&path).unwrap();
    for bit in 0..ends[3] as usize * 8 {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bad).unwrap();
        let refused = open(dir.path());
        assert!(
            matches!(refused, Err(JournalError::Damaged { .. } | JournalError::Newer { .. })),
            "bit {bit} was not noticed"
        );
        assert_eq!(std::fs::read(&path).unwrap(), bad, "bit {bit}: a byte was changed");
    }
}

#[test]
fn a_damaged_last_frame_is_a_torn_tail() {
    let dir = crate::tests::fast();
    let path = segment(dir.path(), 1);
    let ends = written(dir.path(), 5, true);
    let whole = std::fs::read(&path).unwrap();
    for at in ends[3] as usize..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        let (_, dropped, found) = open(dir.path()).unwrap();
        assert_eq!(found, payloads(4));
        assert_eq!(dropped, Some(DroppedTail { segment: 1, at: ends[3], bytes: ends[4] - ends[3] }));
    }
}

#[test]
fn frames_that_were_never_synced_may_be_torn_in_any_order() {
    let dir = crate::tests::fast();
    let path = segment(dir.path(), 1);
    let ends = written(dir.path(), 5, false);
    let mut bad = std::fs::read(&path).unwrap();
    bad[ends[1] as usize + FRAME_HEADER] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let (_, dropped, found) = open(dir.path()).unwrap();
    assert_eq!(found, payloads(2));
    assert_eq!(dropped, Some(DroppedTail { segment: 1, at: ends[1], bytes: ends[4] - ends[1] }));
}

#[test]
fn a_newer_format_is_refused_and_no_byte_changed() {
    let dir = crate::tests::fast();
    let path = segment(dir.path(), 1);
    written(dir.path(), 3, true);
    let mut newer = std::fs::read(&path).unwrap();
    newer[8] = 3;
    std::fs::write(&path, &newer).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, JournalError::Newer { found: 3, .. }));
    assert!(error.to_string().contains("use the newer program"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), newer);
}

#[test]
fn a_file_that_is_no_journal_is_refused() {
    let dir = crate::tests::fast();
    let path = segment(dir.path(), 1);
    for text in
        ["x", "P2JOURNX", "something else that is longer than a header, so that none of it can be one"]
    {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(open(dir.path()), Err(JournalError::Damaged { at: 0, .. })), "{text}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

/// Three sealed segments of two frames each, and a last one of two.
fn segments(dir: &Path) {
    let (mut journal, _, _) = open(dir).unwrap();
    for round in 0..4 {
        for n in 0..2 {
            journal.write(&[round * 2 + n; 50]).unwrap();
        }
        journal.sync().unwrap();
        if round < 3 {
            let lane = (p2_core::record::Topic::Inbox, 0);
            let slots = vec![Slot { at: 80, length: 50 }];
            let (first, end) = (i64::from(round), i64::from(round) + 1);
            let lanes = [LaneSlots { lane, first, end, slots: Some(slots) }];
            assert!(matches!(journal.rotate(&lanes, Vec::new(), 2_000), Ok(Rotation::Done(_))));
        }
    }
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn opening_reads_the_last_segment_and_of_the_others_the_directories() {
    let dir = crate::tests::fast();
    segments(dir.path());
    let mut found = Vec::new();
    let opened = Journal::open(&Disk::default(), dir.path(), SALT, 1_000, |part| {
        found.push(match part {
            Found::Sealed(sealed) => {
                format!("segment {} to {}", sealed.header.number, sealed.directory.end_seq)
            }
            Found::Frame(frame) => format!("frame of {}", frame.payload[0]),
        });
        Ok(())
    });
    let (mut journal, dropped) = opened.unwrap();
    let expected = ["segment 1 to 2", "segment 2 to 4", "segment 3 to 6", "frame of 6", "frame of 7"];
    assert_eq!((found.as_slice(), dropped), (expected.map(str::to_owned).as_slice(), None));
    journal.write(b"goes on").unwrap();
    assert_eq!(open(dir.path()).unwrap().2.len(), 3);
}

#[test]
fn a_last_segment_cut_at_any_byte_goes_on_after_its_whole_frames() {
    let dir = crate::tests::fast();
    segments(dir.path());
    let path = segment(dir.path(), 4);
    let whole = std::fs::read(&path).unwrap();
    for length in 0..=whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let (mut journal, _, found) = open(dir.path()).unwrap();
        let kept = length.saturating_sub(FILE_HEADER) / (FRAME_HEADER + 50);
        assert_eq!(found.len(), kept, "cut to {length}");
        journal.write(b"goes on").unwrap();
        assert_eq!(open(dir.path()).unwrap().2.len(), kept + 1);
    }
}

#[test]
fn a_segment_that_was_being_sealed_is_sealed_or_goes_on() {
    let dir = crate::tests::fast();
    segments(dir.path());
    for number in 2..=4 {
        std::fs::remove_file(segment(dir.path(), number)).unwrap();
    }
    let path = segment(dir.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    let frames = FILE_HEADER + 2 * (FRAME_HEADER + 50);
    for length in frames..=whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let (mut journal, dropped, found) = open(dir.path()).unwrap();
        let is_sealed = length == whole.len();
        assert_eq!(found.len(), if is_sealed { 0 } else { 2 }, "cut to {length}");
        assert_eq!(dropped.is_some(), length > frames && !is_sealed);
        journal.write(b"goes on").unwrap();
        assert_eq!(journal.seq, 3);
        assert_eq!(segment(dir.path(), 2).exists(), is_sealed);
        drop(journal);
        let _ = std::fs::remove_file(segment(dir.path(), 2));
    }
}

#[test]
fn segments_that_are_missing_swapped_cut_or_foreign_are_refused_and_no_byte_changed() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 6] = [
        ("a segment in the middle is missing", |dir| std::fs::remove_file(segment(dir, 2)).unwrap()),
        ("the first one is missing", |dir| std::fs::remove_file(segment(dir, 1)).unwrap()),
        ("a sealed one lost its end", |dir| {
            let bytes = std::fs::read(segment(dir, 2)).unwrap();
            std::fs::write(segment(dir, 2), &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("a sealed one is empty", |dir| std::fs::write(segment(dir, 3), b"").unwrap()),
        ("two are swapped", |dir| {
            std::fs::rename(segment(dir, 1), dir.join("aside")).unwrap();
            std::fs::rename(segment(dir, 2), segment(dir, 1)).unwrap();
            std::fs::rename(dir.join("aside"), segment(dir, 2)).unwrap();
        }),
        ("one of another log", |dir| {
            let other = crate::tests::fast();
            let disk = Disk::default();
            drop(Journal::open(&disk, other.path(), SALT + 1, 1_000, |_| Ok(())).unwrap());
            std::fs::copy(segment(other.path(), 1), segment(dir, 4)).unwrap();
        }),
    ];
    for (name, harm) in harms {
        let dir = crate::tests::fast();
        segments(dir.path());
        harm(dir.path());
        let before = contents(dir.path());
        assert!(matches!(open(dir.path()), Err(JournalError::Damaged { .. })), "{name}");
        assert_eq!(contents(dir.path()), before, "{name}");
    }
}

#[test]
fn any_flipped_bit_in_the_directory_of_a_sealed_segment_is_refused_and_no_byte_changed() {
    let dir = crate::tests::fast();
    segments(dir.path());
    let path = segment(dir.path(), 2);
    let whole = std::fs::read(&path).unwrap();
    let directory = FILE_HEADER + 2 * (FRAME_HEADER + 50) + SLOT;
    for bit in (0..FILE_HEADER * 8).chain(directory * 8..whole.len() * 8) {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bad).unwrap();
        let refused = open(dir.path());
        assert!(
            matches!(refused, Err(JournalError::Damaged { .. } | JournalError::Newer { .. })),
            "bit {bit}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), bad);
    }
}
