//! A revision is immutable, and yet somebody may edit its files: that is seen, said, and put right.
//!
//! Promises: what runs is looked at when a file of it was touched, at the begin of each transaction and after each
//! start of the child; a file that is not what the manifest says is an event, degrades health and counts. With
//! `apply.drift: restore` the proven bytes are put back at once, the stranger's are kept for people, and a child that
//! may have read them gets a new process. A last good that drifted is never gone back to as it is.
//! Must never: make a child wait for the disk, or report what drifted as what was proven.

use super::layers::listed;
use crate::config::Drift;
use crate::engine::Engine;
use crate::engine::disk::Purpose;
use crate::engine::message::{DiskDone, DiskFault, DiskWork, DriftedFile, NoteLevel};
use crate::units::Now;

/// What is said of it.
const CHANGED: &str = "files of the running config were changed by somebody else";

impl Engine {
    /// Looks whether the files of what runs are what they were.
    pub(super) fn verify(&mut self) {
        if self.settings.apply.drift == Drift::Off {
            return;
        }
        if let Some(current) = &self.current {
            let work = DiskWork::Verify(current.id.clone());
            self.push_disk(Purpose::Verify, work);
        }
    }

    /// Says what was found changed when the state was loaded. What runs now is whole: the loader saw to it.
    pub(super) fn drifted_at_start(&mut self) {
        let drift = std::mem::take(&mut self.layers.drift);
        if !drift.is_empty() {
            self.count("drifts");
            let fields = vec![("files", listed(&in_words(&drift)))];
            self.note(NoteLevel::Error, CHANGED, fields);
        }
    }

    /// The child has been started or told to reload: it may have read whatever is there.
    pub(super) fn child_has_read(&mut self) {
        if self.settings.apply.drift != Drift::Off {
            self.layers.suspect = true;
            self.verify();
        }
    }

    /// The files of a revision were looked at.
    pub(super) fn on_verified(&mut self, result: Result<DiskDone, DiskFault>) {
        let Ok(DiskDone::Verified { id, drift }) = result else {
            // A disk that does not let us look shows in other ways; what is not seen is not judged.
            return self.count("disk_faults");
        };
        let current = self.current.as_ref().filter(|current| current.id == id);
        let Some(current) = current.cloned() else {
            return;
        };
        if drift.is_empty() {
            self.layers.suspect = false;
            self.layers.drift_error.clear();
            if !self.layers.drift.is_empty() {
                self.layers.drift.clear();
                let fields = vec![("revision", id.to_string())];
                self.note(
                    NoteLevel::Info,
                    "config files are what they were again",
                    fields,
                );
            }
            return;
        }
        let news = self.layers.drift != drift;
        self.layers.drift = drift;
        if news {
            self.count("drifts");
            let fields = vec![
                ("revision", id.to_string()),
                ("files", listed(&in_words(&self.layers.drift))),
            ];
            self.note(NoteLevel::Error, CHANGED, fields);
        }
        if self.settings.apply.drift == Drift::Restore && self.frozen.is_none() {
            self.push_disk(Purpose::Restore, DiskWork::Restore(Box::new(current)));
        }
    }

    /// The proven bytes were put back, or not.
    pub(super) fn on_restored(&mut self, now: Now, result: Result<DiskDone, DiskFault>) {
        if let Err(fault) = result {
            self.count("disk_faults");
            self.layers.drift_error.clone_from(&fault.reason);
            let fields = vec![("error", fault.reason)];
            return self.note(NoteLevel::Error, "config files not put back", fields);
        }
        self.count("drift_restores");
        self.layers.drift_error.clear();
        let files = in_words(&std::mem::take(&mut self.layers.drift));
        let fields = vec![("files", listed(&files))];
        self.note(NoteLevel::Warn, "config files put back", fields);
        if std::mem::take(&mut self.layers.suspect) && self.life.running().is_some() {
            self.note(
                NoteLevel::Warn,
                "child may have read changed files, restarted",
                Vec::new(),
            );
            self.renew_child(now);
        }
    }

    /// What drifted, for health.
    pub(super) fn drift_in_words(&self) -> Option<String> {
        if self.layers.drift.is_empty() {
            return None;
        }
        let files = listed(&in_words(&self.layers.drift));
        let mut text = format!("{CHANGED}: {files}");
        if !self.layers.drift_error.is_empty() {
            text.extend(["; not put back: ", &self.layers.drift_error]);
        }
        Some(text)
    }
}

fn in_words(drift: &[DriftedFile]) -> Vec<String> {
    drift.iter().map(ToString::to_string).collect()
}
