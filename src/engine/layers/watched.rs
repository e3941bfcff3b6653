//! Local layers that are watched: a local file that changed on disk is an offer of the operator.
//!
//! Promises: a change is taken when two looks in a row see the same, so that a half-written file or one that is gone
//! for a moment is no layer; it goes the whole way of an offer, and what runs keeps its own copy until it is proven. A
//! content that was refused is not tried again by itself, and offers of the server are put on top of what the local
//! layers were before it, so that an edit on one host does not stop a rollout. A change that comes while an offer is
//! being tried waits for its end, within a bound. What the server was told about its offer stays true: a local change
//! has no offer.
//! Must never: read a file, change a local file, or touch the child but through the rollout.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Drift;
use crate::engine::disk::Purpose;
use crate::engine::message::{
    AgentEffect, DiskDone, DiskFault, DiskWork, DriftedFile, LayerKind, LayersSnapshot, LocalFile,
    NoteLevel, RevisionFile, WatchedBy,
};
use crate::engine::{Engine, report};
use crate::units::{Moment, Now, RevisionHash, RevisionId, Ticket};

/// Between a change and the look at it, and between two looks that have to agree.
const SETTLE: Duration = Duration::from_millis(500);
/// How long a file that was there may be gone before that is a change.
const GONE_FOR: Duration = Duration::from_secs(10);
/// A file that never comes to rest is taken as it is after this.
const RESTLESS_FOR: Duration = Duration::from_secs(30);
/// The longest that a change waits for the end of what a server or a person wants tried.
const WAIT_MAX: Duration = Duration::from_mins(10);
/// Files whose names one text lists.
const NAMED_MAX: usize = 8;

/// What is known of the files on disk that decide what runs.
#[derive(Debug, Default)]
pub(in crate::engine) struct Layers {
    /// The watch that is armed, or about to be, and for which revision.
    watch: Option<Ticket>,
    watched: Option<RevisionId>,
    watched_by: Option<WatchedBy>,
    /// The settings changed: what is to be watched has to be said again.
    stale: bool,
    /// When to look.
    look_at: Option<Moment>,
    /// Since when something is going on.
    since: Option<Moment>,
    /// Until when a change waits at the most that was seen while an offer was being tried.
    wait_until: Option<Moment>,
    /// The local layers as they were read last for a transaction, and by the last look that saw others.
    read: Option<RevisionHash>,
    seen: Option<RevisionHash>,
    refused: Option<Refused>,
    /// Files of what runs that are not what they were.
    pub(in crate::engine) drift: Vec<DriftedFile>,
    pub(in crate::engine) drift_error: String,
    /// Whether the child may have read them as they are.
    pub(in crate::engine) suspect: bool,
}

impl Layers {
    /// With what was found changed when the state was loaded.
    pub(in crate::engine) fn of(drift: Vec<DriftedFile>) -> Self {
        Self {
            drift,
            ..Self::default()
        }
    }
}

/// A content of the local layers that did not make it.
#[derive(Debug)]
struct Refused {
    content: RevisionHash,
    files: Vec<String>,
    reason: String,
}

/// Tells one content of the local layers from another; what cannot be read is a content, too.
fn fingerprint(local: &[LocalFile]) -> RevisionHash {
    let paths: Vec<String> = local
        .iter()
        .map(|file| file.path.display().to_string())
        .collect();
    let parts = paths
        .iter()
        .zip(local)
        .map(|(path, file)| match &file.bytes {
            Ok(bytes) => (path.as_str(), "", bytes.as_slice()),
            Err(reason) => (path.as_str(), "unreadable", reason.as_bytes()),
        });
    RevisionHash::of(parts)
}

/// The local files that are not what a revision has of them.
fn differing(local: &[LocalFile], files: &[RevisionFile]) -> Vec<String> {
    let differs = |file: &&LocalFile| {
        let source = file.path.display().to_string();
        let copy = files
            .iter()
            .find(|copy| copy.layer == LayerKind::Local && copy.source == source);
        !copy.is_some_and(|copy| file.bytes.as_ref().is_ok_and(|bytes| *bytes == copy.bytes))
    };
    let names = local.iter().filter(differs);
    names.map(|file| file.path.display().to_string()).collect()
}

impl Engine {
    /// What the watch is for: the local layers, and the files of what runs.
    fn watched_paths(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        if self.settings.apply.watch_local_files {
            paths = self.local_paths();
        }
        if self.settings.apply.drift != Drift::Off
            && let Some(current) = &self.current
        {
            let directory = self.places.revision_dir(&current.id);
            paths.extend(current.files.iter().map(|file| directory.join(&file.path)));
        }
        paths
    }

    /// What the local layers were when the state was loaded.
    pub(in crate::engine) fn begin_layers(&mut self) {
        self.layers.read = Some(fingerprint(&self.local));
        self.drifted_at_start();
    }

    /// The settings changed, or something happened to what is watched: it has to be watched anew.
    pub(in crate::engine) fn watch_again(&mut self) {
        self.layers.stale = true;
    }

    /// Arms the watch where it is not for what runs now, and looks when it is time. Called in every step.
    pub(in crate::engine) fn drive_layers(&mut self, now: Now) {
        if self.stopping || self.frozen.is_some() {
            return;
        }
        let current = self.current.as_ref().map(|current| &current.id);
        if self.layers.stale || self.layers.watched.as_ref() != current {
            self.layers.watched = current.cloned();
            self.layers.stale = false;
            let paths = self.watched_paths();
            if paths.is_empty() && self.layers.watch.is_none() {
                return;
            }
            let ticket = self.tickets.next();
            self.layers.watch = (!paths.is_empty()).then_some(ticket);
            self.layers.watched_by = None;
            self.out
                .effects
                .push(AgentEffect::WatchFiles { ticket, paths });
        }
        let waited = self.layers.wait_until.is_some() && !self.is_trying_theirs();
        if self
            .layers
            .look_at
            .is_some_and(|at| at <= now.mono || waited)
        {
            self.layers.look_at = None;
            if self.settings.apply.watch_local_files && !self.local_paths().is_empty() {
                let work = DiskWork::ReadLocal(self.local_paths());
                self.push_disk(Purpose::Layers, work);
            }
            self.verify();
        }
    }

    /// When it wants to be called.
    pub(in crate::engine) fn layers_due(&self) -> Option<Moment> {
        self.layers.look_at.filter(|_| !self.stopping)
    }

    /// The watch is armed.
    pub(in crate::engine) fn on_files_watched(&mut self, now: Now, ticket: Ticket, by: WatchedBy) {
        if self.layers.watch != Some(ticket) {
            return self.count("stale_answers");
        }
        if let WatchedBy::Looks { .. } = &by {
            let fields = vec![("how", by.to_string())];
            self.note(
                NoteLevel::Warn,
                "files are not watched by the kernel",
                fields,
            );
        }
        self.layers.watched_by = Some(by);
        // What changed before it was armed is seen by one look.
        if self.layers.look_at.is_none() {
            self.layers.look_at = Some(now.mono.after(SETTLE));
        }
    }

    /// A watched file may have changed.
    pub(in crate::engine) fn on_files_touched(&mut self, now: Now, ticket: Ticket) {
        if self.layers.watch != Some(ticket) {
            return self.count("stale_answers");
        }
        self.layers.stale = true;
        self.layers.since.get_or_insert(now.mono);
        self.layers.look_at = Some(now.mono.after(SETTLE));
    }

    /// The local layers were read for a look.
    pub(in crate::engine) fn on_layers_read(
        &mut self,
        now: Now,
        result: Result<DiskDone, DiskFault>,
    ) {
        let Ok(DiskDone::Local(local)) = result else {
            return self.count("disk_faults");
        };
        if self.stopping {
            return;
        }
        let content = fingerprint(&local);
        if self.layers.read == Some(content) {
            self.layers.seen = None;
            self.layers.since = None;
            self.layers.wait_until = None;
            return;
        }
        let since = *self.layers.since.get_or_insert(now.mono);
        let going_on = now.mono.since(since);
        let gone = self.is_newly_gone(&local);
        let rests = self.layers.seen == Some(content) && (!gone || going_on >= GONE_FOR);
        if !rests && going_on < RESTLESS_FOR {
            self.layers.seen = Some(content);
            self.layers.look_at = Some(now.mono.after(SETTLE));
            return;
        }
        if self.is_trying_theirs() {
            // In its place, or composed with it, the change would decide what the server is told of the offer.
            let until = now.mono.after(WAIT_MAX);
            let until = *self.layers.wait_until.get_or_insert(until);
            if now.mono < until {
                self.layers.seen = Some(content);
                self.layers.look_at = Some(until);
                return;
            }
        }
        self.layers.seen = None;
        self.layers.since = None;
        self.layers.wait_until = None;
        self.layers.read = Some(content);
        self.local_changed(now, local);
    }

    /// Whether a file that could be read for the last transaction cannot be now.
    fn is_newly_gone(&self, local: &[LocalFile]) -> bool {
        local.iter().filter(|file| file.bytes.is_err()).any(|file| {
            let mut known = self.local.iter();
            known.any(|known| known.path == file.path && known.bytes.is_ok())
        })
    }

    /// The local layers have another content: try it, unless it is what runs.
    fn local_changed(&mut self, now: Now, local: Vec<LocalFile>) {
        self.count("local_changes");
        let files = self.current.as_ref().map_or(&[][..], |it| &it.files);
        let changed = differing(&local, files);
        let back = changed.is_empty() && self.current.is_some();
        let fields = vec![("files", listed(&changed))];
        self.note(NoteLevel::Info, "local config changed", fields);
        let busy = self.transaction.is_some() || self.pending.is_some();
        if back && !busy {
            // As it was before: nothing to try, and nothing refused any more.
            self.local = local;
            self.layers.refused = None;
            return;
        }
        self.follow_files(now);
    }

    /// The local layers as a transaction gets them: what was refused before gives way to the copies of what runs.
    pub(in crate::engine) fn accepted_layers(
        &mut self,
        mut local: Vec<LocalFile>,
        theirs: bool,
    ) -> Vec<LocalFile> {
        let content = fingerprint(&local);
        self.layers.read = Some(content);
        let refused = self.layers.refused.as_ref();
        let (true, Some(current)) = (
            theirs && refused.is_some_and(|refused| refused.content == content),
            &self.current,
        ) else {
            return local;
        };
        for file in &mut local {
            let source = file.path.display().to_string();
            let copy = current
                .files
                .iter()
                .find(|copy| copy.layer == LayerKind::Local && copy.source == source);
            if let Some(copy) = copy {
                file.bytes = Ok(copy.bytes.clone());
            }
        }
        local
    }

    /// A job of the operator's own files failed: remembers which content that was.
    pub(in crate::engine) fn layers_refused(&mut self, reason: &str) {
        let Some(content) = self.layers.read else {
            return;
        };
        let files = self.current.as_ref().map_or(&[][..], |it| &it.files);
        let files = differing(&self.local, files);
        if files.is_empty() {
            return;
        }
        self.note(
            NoteLevel::Warn,
            "local config refused, what runs keeps its own copy",
            vec![("files", listed(&files)), ("reason", reason.to_owned())],
        );
        self.layers.refused = Some(Refused {
            content,
            files,
            reason: report::bounded(reason),
        });
    }

    /// A job made it to the end: if it was of the content that is on disk, nothing is refused any more.
    pub(in crate::engine) fn layers_accepted(&mut self) {
        let files = self.current.as_ref().map_or(&[][..], |it| &it.files);
        if self.layers.refused.is_some() && differing(&self.local, files).is_empty() {
            let of_disk = fingerprint(&self.local);
            if self.layers.read == Some(of_disk) {
                self.layers.refused = None;
            }
        }
    }

    /// What is wrong on disk, in words; none when nothing is.
    pub(in crate::engine) fn layers_trouble(&self) -> Option<String> {
        let mut words = Vec::new();
        if let Some(refused) = &self.layers.refused {
            words.push(format!(
                "local config refused ({}), what runs keeps its own copy: {}",
                listed(&refused.files),
                refused.reason
            ));
        }
        words.extend(self.drift_in_words());
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// What a door may show.
    pub(in crate::engine) fn layers_snapshot(&self) -> LayersSnapshot {
        let refused = self.layers.refused.as_ref();
        LayersSnapshot {
            watched_by: self.layers.watched_by.as_ref().map(ToString::to_string),
            refused: refused.map(|it| it.files.clone()).unwrap_or_default(),
            reason: refused.map(|it| it.reason.clone()).unwrap_or_default(),
            drift: self.layers.drift.clone(),
            drift_error: self.layers.drift_error.clone(),
        }
    }
}

/// Names in one text.
pub(in crate::engine) fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let shown: Vec<&str> = names.iter().take(NAMED_MAX).map(String::as_str).collect();
    let mut text = shown.join(", ");
    if more > 0 {
        text.extend([" and ", &more.to_string(), " more"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_file_differs_unless_its_own_copy_has_its_bytes() {
        let copy = |layer, source: &str, bytes: &str| RevisionFile {
            path: "p".to_owned(),
            layer,
            source: source.to_owned(),
            content_type: String::new(),
            bytes: bytes.as_bytes().to_vec(),
        };
        let files = [
            copy(LayerKind::Remote, "/a", "remote"),
            copy(LayerKind::Local, "/a", "1"),
            copy(LayerKind::Local, "/b", "2"),
        ];
        let local = |path: &str, bytes: Result<&str, &str>| LocalFile {
            path: path.into(),
            bytes: bytes
                .map(|bytes| bytes.as_bytes().to_vec())
                .map_err(str::to_owned),
        };
        let none: [&str; 0] = [];
        assert_eq!(
            differing(&[local("/a", Ok("1")), local("/b", Ok("2"))], &files),
            none
        );
        assert_eq!(
            differing(&[local("/a", Ok("2")), local("/b", Ok("2"))], &files),
            ["/a"]
        );
        assert_eq!(differing(&[local("/a", Ok("remote"))], &files), ["/a"]);
        assert_eq!(differing(&[local("/c", Ok("1"))], &files), ["/c"]);
        assert_eq!(differing(&[local("/a", Err("gone"))], &files), ["/a"]);
    }
}
