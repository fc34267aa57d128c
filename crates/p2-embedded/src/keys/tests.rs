use proptest::prelude::*;

use super::*;

fn key(parts: &(String, String, i64)) -> Vec<u8> {
    Key::default().text(&parts.0).text(&parts.1).number(parts.2).into_bytes()
}

proptest! {
    #[test]
    fn keys_are_equal_and_ordered_as_their_parts_are(
        left in ("[\u{0}\u{1}a\u{7f}ä]{0,4}", "[\u{0}\u{1}a\u{7f}ä]{0,4}", any::<i64>()),
        right in ("[\u{0}\u{1}a\u{7f}ä]{0,4}", "[\u{0}\u{1}a\u{7f}ä]{0,4}", any::<i64>()),
    ) {
        prop_assert_eq!(key(&left).cmp(&key(&right)), left.cmp(&right));
    }

    #[test]
    fn keys_of_any_texts_differ(
        left in (any::<String>(), any::<String>(), any::<i64>()),
        right in (any::<String>(), any::<String>(), any::<i64>()),
    ) {
        prop_assert_eq!(key(&left) == key(&right), left == right);
    }
}
