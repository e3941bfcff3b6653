//! The fallback config: it stands in for the local layers while nothing is stored and the server was never reached.
//!
//! Promises: it is taken only where no earlier life left a config, is left at the first contact with the server or
//! the first config from outside, and is not taken again in that life. What runs goes on until the config that takes
//! its place is ready.
//! Must never: take the place of a config that is stored.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Layer;
use crate::engine::message::{LayerKind, NoteLevel, Origin, Revision};
use crate::engine::{Engine, desired};
use crate::units::{Moment, Now};

/// How long the first attempt to reach the server may take before the fallback is begun. A host with a server that
/// answers never runs it.
const FIRST_CONTACT: Duration = Duration::from_secs(2);

/// The time before the server was reached.
#[derive(Debug)]
pub(crate) struct Fallback {
    /// The layers of the settings; the fallback files stand in their place.
    normal: Vec<Layer>,
    /// Nothing runs yet: when not to wait for the server any longer.
    begin_at: Option<Moment>,
}

/// Whether a stored revision is made of fallback files and nothing else that anybody wrote.
fn is_fallback(revision: &Revision, files: &[PathBuf]) -> bool {
    let mut written = revision
        .files
        .iter()
        .filter(|file| matches!(file.layer, LayerKind::Local | LayerKind::Remote))
        .peekable();
    revision.origin == Origin::Local
        && written.peek().is_some()
        && written.all(|file| {
            file.layer == LayerKind::Local
                && files
                    .iter()
                    .any(|path| path.as_os_str() == file.source.as_str())
        })
}

/// Whether a life that begins with this stored config may run the fallback files.
pub(crate) fn may_run(stored: Option<&Revision>, files: &[PathBuf]) -> bool {
    !files.is_empty() && stored.is_none_or(|stored| is_fallback(stored, files))
}

impl Engine {
    /// At the start: whether this life begins with the fallback.
    pub(crate) fn take_fallback(&mut self) {
        let has_server = self.uplink.server().is_some() || self.uplink.uses_token();
        let files = &self.settings.fallback;
        if has_server && may_run(self.current.as_ref(), files) {
            // The layers that are not local keep their places above the files.
            let local = files.iter().cloned().map(Layer::Local);
            let others = self.settings.layers.iter();
            let others = others.filter(|layer| !matches!(layer, Layer::Local(_)));
            let layers = local.chain(others.cloned()).collect();
            let normal = std::mem::replace(&mut self.settings.layers, layers);
            self.fallback = Some(Fallback {
                normal,
                begin_at: None,
            });
        }
        let paths = self.local_paths();
        self.local.retain(|file| paths.contains(&file.path));
    }

    /// Nothing is stored, and something is to be begun: true when the server gets the first word.
    pub(crate) fn fallback_waits(&mut self, now: Now) -> bool {
        let Some(fallback) = &mut self.fallback else {
            return false;
        };
        // Where it was tried in vain already, this ends with the same step.
        fallback.begin_at = Some(now.mono.after(FIRST_CONTACT));
        true
    }

    /// Begins it once the server could not be reached.
    pub(crate) fn drive_fallback(&mut self, now: Now) {
        let failed = self.uplink.has_failed();
        let Some(fallback) = &mut self.fallback else {
            return;
        };
        let waited = fallback.begin_at.is_some_and(|at| at <= now.mono);
        if self.stopping || fallback.begin_at.is_none() || !(failed || waited) {
            return;
        }
        fallback.begin_at = None;
        self.note_fallback();
        self.propose_base(now);
    }

    fn note_fallback(&mut self) {
        self.note(
            NoteLevel::Warn,
            "server not reached and nothing stored, running the fallback config",
            vec![],
        );
    }

    /// When to be called for it.
    pub(crate) fn fallback_due(&self) -> Option<Moment> {
        let begin_at = self.fallback.as_ref()?.begin_at;
        begin_at.filter(|_| !self.stopping)
    }

    /// The server was reached: the config of the settings takes its place, where there is any.
    pub(crate) fn end_fallback(&mut self, now: Now) {
        let waited = self.fallback_due().is_some();
        if !self.leave_fallback() || self.stopping {
            return;
        }
        let has_config =
            !self.local_paths().is_empty() || self.settings.profile.default_config.is_some();
        if has_config || waited {
            self.note(
                NoteLevel::Info,
                "server reached, the fallback config is not used any more",
                vec![],
            );
            self.propose_base(now);
        } else if self
            .current
            .as_ref()
            .is_some_and(|current| !desired::is_empty(&current.files))
        {
            self.note(
                NoteLevel::Info,
                "server reached, the fallback config runs until there is an offer",
                vec![],
            );
        }
    }

    /// New settings were read: the fallback files stay where they stand, and the new layers wait behind them.
    pub(crate) fn keep_fallback(&mut self, settings: &mut crate::config::Agent) {
        if let Some(fallback) = &mut self.fallback {
            let stand = self.settings.layers.clone();
            fallback.normal = std::mem::replace(&mut settings.layers, stand);
        }
    }

    /// Puts the layers of the settings back. True when the fallback files stood in their place.
    pub(crate) fn leave_fallback(&mut self) -> bool {
        let Some(fallback) = self.fallback.take() else {
            return false;
        };
        self.settings.layers = fallback.normal;
        true
    }
}
