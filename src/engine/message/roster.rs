//! An agent that joins while we run: what the outside found and made for it.
//!
//! Promises: plain data. Must never: hold what the settings say; that goes the other way.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Leftover, Persisted};

/// What an agent needs beside its settings, with its ports ready to be used.
#[derive(Debug)]
pub struct Admission {
    /// Its OpAMP instance uid: the one that was asked for, or a new one.
    pub instance_uid: [u8; 16],
    /// Its directory in the state directory.
    pub state_dir: PathBuf,
    /// Where its child finds us: a `ws://` URL or a socket path.
    pub link: Option<String>,
    /// Ports that we bind.
    pub reserved_ports: Vec<u16>,
    /// The directory of the host's certificates.
    pub certificates: PathBuf,
    /// The supervisor's own instance id.
    pub supervisor: String,
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
