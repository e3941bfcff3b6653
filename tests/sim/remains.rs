//! What the model disk keeps of one file or directory: what calls see, what a crash leaves at least, and the dice
//! between the two.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

/// Numbers a file, directory or link.
pub(super) type Node = usize;

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) view: Arc<Vec<u8>>,
    /// `fsync` would write the bytes of the view from here on: changes are appended, or follow a cut.
    pub(super) clean: usize,
    pub(super) durable: Arc<Vec<u8>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Entries {
    pub(super) view: BTreeMap<OsString, Node>,
    pub(super) durable: BTreeMap<OsString, Node>,
    pub(super) unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Link(OsString, Node),
    Unlink(OsString, Node),
    Rename(OsString, OsString, Node),
}

impl Content {
    pub(super) fn write(&mut self, bytes: &[u8]) {
        Arc::make_mut(&mut self.view).extend_from_slice(bytes);
    }

    pub(super) fn cut(&mut self, len: usize) {
        if self.view.len() != len {
            Arc::make_mut(&mut self.view).resize(len, 0);
        }
        self.clean = self.clean.min(len);
    }

    pub(super) fn sync(&mut self) {
        let len = self.view.len();
        if self.clean < len || self.durable.len() != len {
            self.durable = self.blend(len, len);
        }
        self.clean = len;
    }

    /// `len` bytes: the unsynced ones before `reached` as the view has them, all others as they are durable.
    fn blend(&self, len: usize, reached: usize) -> Arc<Vec<u8>> {
        let mut bytes = self.durable.to_vec();
        bytes.resize(len, 0);
        if self.clean < reached {
            bytes[self.clean..reached].copy_from_slice(&self.view[self.clean..reached]);
        }
        Arc::new(bytes)
    }

    pub(super) fn crash(&mut self, random: &mut fastrand::Rng) {
        let len = self.view.len();
        if self.clean == len && self.durable.len() == len {
            self.view = Arc::clone(&self.durable);
            return;
        }
        let shorter = self.durable.len().min(len);
        self.durable = match random.u8(0..4) {
            0 => Arc::clone(&self.durable),
            1 => self.blend(len, len),
            2 => self.blend(len, random.usize(0..=len)),
            _ => {
                let reached = random.usize(shorter..=len);
                self.blend(reached, reached)
            }
        };
        self.view = Arc::clone(&self.durable);
        self.clean = self.view.len();
    }
}

impl Entries {
    pub(super) fn crash(&mut self, random: &mut fastrand::Rng) {
        let changes = std::mem::take(&mut self.unsynced);
        let count = changes.len();
        let prefix = random.usize(0..=count);
        let survives: Vec<bool> = match random.u8(0..4) {
            0 => vec![false; count],
            1 => vec![true; count],
            2 => (0..count).map(|at| at < prefix).collect(),
            _ => (0..count).map(|_| random.bool()).collect(),
        };
        for (change, _) in changes.into_iter().zip(survives).filter(|(_, kept)| *kept) {
            apply(&mut self.durable, change);
        }
        self.view.clone_from(&self.durable);
    }

    pub(super) fn change(&mut self, change: Change) {
        apply(&mut self.view, change.clone());
        self.unsynced.push(change);
    }
}

fn apply(entries: &mut BTreeMap<OsString, Node>, change: Change) {
    let mut remove = |name: &OsString, node: Node| {
        if entries.get(name) == Some(&node) {
            entries.remove(name);
        }
    };
    match change {
        Change::Link(name, node) => {
            entries.insert(name, node);
        }
        Change::Unlink(name, node) => remove(&name, node),
        Change::Rename(from, to, node) => {
            remove(&from, node);
            entries.insert(to, node);
        }
    }
}
