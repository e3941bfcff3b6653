//! Sorting, with one copy of the machinery for all types.
//!
//! Promises: stable, n log n comparisons, one index per item of extra memory; items move by swaps alone.
//! Must never: be generic where the work is. The sort of the standard library and the maps that are collected with it
//! are compiled anew for every type, some seven kilobytes each, and what the supervisor sorts is short: names in a
//! directory, mistakes in a file, revisions. `tests/tidy.rs` sends everybody here.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Sorts by the order of the type.
pub fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, T::cmp);
}

/// Sorts by a comparison; what compares equal keeps its order.
pub fn sort_by<T>(items: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    let mut wanted = places(items.len(), &|one, other| {
        items
            .get(one)
            .zip(items.get(other))
            .map_or(Ordering::Equal, |(one, other)| compare(one, other))
    });
    // Each swap brings one item to its place for good.
    for at in 0..items.len() {
        while let Some(to) = wanted.get(at).copied().filter(|to| *to != at) {
            items.swap(at, to);
            wanted.swap(at, to);
        }
    }
}

/// For each item the place where it belongs.
#[inline(never)]
fn places(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut sorted: Vec<usize> = (0..count).collect();
    sorted.sort_by(|one, other| compare(*one, *other));
    let mut places = vec![0; count];
    for (place, item) in sorted.into_iter().enumerate() {
        if let Some(found) = places.get_mut(item) {
            *found = place;
        }
    }
    places
}

/// A map of entries, put in one by one; the last of equal keys wins, as with `collect`.
pub fn map<K: Ord, V>(entries: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    for (key, value) in entries {
        map.insert(key, value);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sorts_as_the_standard_library_does(items in prop::collection::vec((0u8..8, any::<u16>()), 0..200)) {
            let (mut ours, mut theirs) = (items.clone(), items);
            sort_by(&mut ours, |one, other| one.0.cmp(&other.0));
            theirs.sort_by_key(|item| item.0);
            prop_assert_eq!(&ours, &theirs);
            sort(&mut ours);
            theirs.sort_unstable();
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn maps_as_collect_does(entries in prop::collection::vec((0u8..16, any::<u16>()), 0..64)) {
            let theirs: BTreeMap<_, _> = entries.iter().copied().collect();
            prop_assert_eq!(map(entries), theirs);
        }
    }

    #[test]
    fn the_worst_order_costs_no_more_than_any_other() {
        let mut items: Vec<usize> = (0..100_000).rev().collect();
        let comparisons = std::cell::Cell::new(0_usize);
        sort_by(&mut items, |one, other| {
            comparisons.set(comparisons.get() + 1);
            one.cmp(other)
        });
        assert!(items.is_sorted());
        assert!(comparisons.get() < 100_000 * 20, "{}", comparisons.get());
    }
}
