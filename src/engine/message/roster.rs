//! An agent that joins while we run: what the outside found and made for it.
//!
//! Promises: plain data. Must never: hold what the settings say; that goes the other way.

use std::collections::BTreeMap;

use super::{Leftover, Persisted};
use crate::engine::Places;

/// What an agent needs beside its settings, with its ports ready to be used.
#[derive(Debug)]
pub struct Admission {
    /// Its OpAMP instance uid: the one that was asked for, or a new one.
    pub instance_uid: [u8; 16],
    /// Where its things are.
    pub places: Places,
    /// The port that its own OpAMP is served on, where it is one.
    pub port: Option<u16>,
    /// Host attributes for the description.
    pub facts: BTreeMap<String, String>,
    /// What the state directory knows of it, from an earlier time.
    pub persisted: Persisted,
    /// A child of an earlier life.
    pub leftover: Option<Leftover>,
    /// Seed of its randomness.
    pub seed: u64,
}
