use super::*;

#[test]
fn a_long_payload_is_compressed_and_read_back() {
    let long = "the same words again and again ".repeat(400);
    let cell = write(&long).unwrap();
    assert_eq!(cell[..2], [DEFLATE, JSON_1]);
    assert!(cell.len() < long.len() / 10, "{} of {}", cell.len(), long.len());
    assert_eq!(cell, write(&long).unwrap(), "the same value gives the same bytes");
    assert_eq!(read::<String>(&cell).unwrap(), long);
}

#[test]
fn a_payload_up_to_the_limit_stays_plain() {
    let text = "x".repeat(PLAIN_BYTES_MAX - 2);
    assert_eq!(write(&text).unwrap()[0], PLAIN);
    assert_eq!(write(&format!("{text}y")).unwrap()[0], DEFLATE);
    assert_eq!(read::<String>(&write(&text).unwrap()).unwrap(), text);
}

#[test]
fn an_unknown_or_damaged_cell_is_refused() {
    let mut cell = write(&"text").unwrap();
    for bad in
        [vec![], vec![PLAIN], vec![9, JSON_1, b'1'], vec![PLAIN, 9, b'1'], vec![DEFLATE, JSON_1, 0xFF, 0xFF]]
    {
        assert!(matches!(read::<String>(&bad), Err(StoreError::Corrupt(_))), "{bad:?}");
    }
    cell.pop();
    assert!(matches!(read::<String>(&cell), Err(StoreError::Corrupt(_))));
}
