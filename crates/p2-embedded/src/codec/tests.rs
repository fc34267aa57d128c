use super::*;

fn sample() -> NewRecord {
    NewRecord {
        topic: Topic::Effects,
        partition: 3,
        key: "ключ\0".to_owned(),
        headers: [("ce_id", &[0, 255][..])].into_iter().collect(),
        value: vec![1, 2, 3],
        time_ms: -5,
    }
}

fn payload() -> (Vec<u8>, Vec<Found>) {
    let mut payload = 1u32.to_le_bytes().to_vec();
    let progress = [(Topic::Inbox, 1, CommittedOffset { offset: 9, metadata: "m".to_owned() })];
    let found = encode_batch(&mut payload, &[(7, &sample()), (8, &sample())], "p2.x", &progress).unwrap();
    (payload, found)
}

#[test]
fn a_batch_is_read_back_as_it_was_written() {
    let (payload, found) = payload();
    let batches = decode_payload(&payload).unwrap();
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].records, found);
    assert_eq!(batches[0].group, "p2.x");
    assert_eq!(batches[0].progress[0].2, CommittedOffset { offset: 9, metadata: "m".to_owned() });
    let second = &payload[found[1].at..found[1].at + found[1].length as usize];
    assert_eq!(decode_record(second).unwrap(), StoredRecord { offset: 8, record: sample() });
}

#[test]
fn every_flipped_bit_of_a_record_is_noticed() {
    let (payload, found) = payload();
    let record = &payload[found[0].at..found[0].at + found[0].length as usize];
    for at in 0..record.len() * 8 {
        let mut bad = record.to_vec();
        bad[at / 8] ^= 1 << (at % 8);
        assert!(decode_record(&bad).is_err(), "bit {at}");
    }
}

#[test]
fn a_payload_cut_anywhere_is_an_error() {
    let (payload, _) = payload();
    for length in 0..payload.len() {
        assert!(decode_payload(&payload[..length]).is_err(), "cut to {length}");
    }
}
