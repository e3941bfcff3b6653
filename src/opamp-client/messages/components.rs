//! The hash of a list of components.
//!
//! Promises: the same set has the same hash on every agent and in every process, in whatever order its metadata was
//! gathered; it is never empty.
//! Must never: serve where somebody might want two lists to have one hash. It tells lists apart, no more.

use std::collections::BTreeMap;

use prost::Message as _;

use super::{AvailableComponents, ComponentDetails};

/// FNV-1a of 128 bits: start and prime.
const FNV_START: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

impl AvailableComponents {
    /// The list with its canonical hash: 16 bytes over names, metadata and nesting, metadata sorted by key and value.
    /// What differs between instances of one build has no place in the metadata.
    pub fn listed(mut components: BTreeMap<String, ComponentDetails>) -> Self {
        for details in components.values_mut() {
            sort(details);
        }
        // Maps are sorted and fields are written in order, so the bytes are canonical.
        let unhashed = Self {
            components,
            hash: Vec::new(),
        };
        let mut hash = FNV_START;
        for byte in unhashed.encode_to_vec() {
            hash = (hash ^ u128::from(byte)).wrapping_mul(FNV_PRIME);
        }
        Self {
            hash: hash.to_be_bytes().to_vec(),
            ..unhashed
        }
    }
}

fn sort(details: &mut ComponentDetails) {
    details
        .metadata
        .sort_by_cached_key(|item| (item.key.clone(), item.encode_to_vec()));
    for part in details.sub_component_map.values_mut() {
        sort(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::KeyValue;

    fn details(metadata: &[(&str, &str)]) -> ComponentDetails {
        ComponentDetails {
            metadata: metadata
                .iter()
                .map(|(key, value)| KeyValue::text(*key, *value))
                .collect(),
            ..ComponentDetails::default()
        }
    }

    fn list(names: &[&str], metadata: &[(&str, &str)]) -> AvailableComponents {
        let mut receivers = ComponentDetails::default();
        for name in names {
            receivers
                .sub_component_map
                .insert((*name).to_owned(), details(metadata));
        }
        AvailableComponents::listed([("receivers".to_owned(), receivers)].into())
    }

    //
    #[test]
    fn the_same_set_has_the_same_hash_and_another_has_another() {
        let one = list(
            &["otlp", "hostmetrics"],
            &[("version", "1"), ("code.namespace", "x")],
        );
        let other = list(
            &["hostmetrics", "otlp"],
            &[("code.namespace", "x"), ("version", "1")],
        );
        assert_eq!(one, other);
        assert_eq!(one.hash.len(), 16);
        let mut hashes = vec![one.hash];
        for different in [
            list(&["otlp"], &[("version", "1"), ("code.namespace", "x")]),
            list(
                &["otlp", "hostmetrics"],
                &[("version", "2"), ("code.namespace", "x")],
            ),
            list(&["otlp", "hostmetrics"], &[]),
            AvailableComponents::listed(BTreeMap::new()),
        ] {
            assert!(!hashes.contains(&different.hash), "{different:?}");
            hashes.push(different.hash);
        }
        // Written down once, because agents of other versions must come to the same.
        let empty = hashes.last().unwrap();
        assert_eq!(*empty, FNV_START.to_be_bytes());
        let known = list(&["otlp"], &[("version", "1")]).hash;
        let known = u128::from_be_bytes(known.try_into().unwrap());
        assert_eq!(known, 0x21a6_3102_f678_4be9_b743_9d7f_1608_7bf8);
    }
}
