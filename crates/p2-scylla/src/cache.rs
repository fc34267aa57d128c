//! A bounded cache: what was not touched for long is forgotten.

use std::collections::HashMap;
use std::hash::Hash;

/// Keeps at least the `max` keys touched last and at most twice as many: two halves, the older of which is
/// dropped whole when the younger is full. No list of uses is kept, so a touch costs two look-ups at most.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    max: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    pub(crate) fn new(max: usize) -> Cache<K, V> {
        Cache { max: max.max(1), young: HashMap::new(), old: HashMap::new() }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.put(key.clone(), value.clone());
        Some(value)
    }

    pub(crate) fn put(&mut self, key: K, value: V) {
        self.young.insert(key, value);
        if self.young.len() >= self.max {
            self.old = std::mem::take(&mut self.young);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_last_stays_and_the_rest_is_bounded() {
        let mut cache = Cache::new(100);
        for n in 0..10_000 {
            cache.put(n, n);
            assert_eq!(cache.get(&0), Some(0), "touched all the time, after {n}");
            assert!(cache.young.len() + cache.old.len() <= 200);
        }
        assert_eq!(cache.get(&9_950), Some(9_950));
        assert_eq!(cache.get(&5_000), None);
        cache.clear();
        assert_eq!(cache.get(&0), None);
    }
}
