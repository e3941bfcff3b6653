//! What is put where people look for it: the config in force, merged, as `effective.yaml`.
//!
//! Promises: it holds what the child itself says that it runs, without secrets, and is written when that changes.
//! Must never: be read by anybody but people.

use opamp_client::messages::EffectiveConfig;

use crate::engine::disk::Purpose;
use crate::engine::message::DiskWork;
use crate::engine::{Engine, desired};
use crate::units::RevisionHash;

impl Engine {
    /// Takes what is reported as effective.
    pub(crate) fn show_effective(&mut self, effective: &EffectiveConfig) {
        if !self.settings.shows_files || self.frozen.is_some() {
            return;
        }
        let files = self.current.as_ref().map_or(&[][..], |it| &it.files);
        let text = if desired::is_empty(files) {
            b"# nothing runs\n".to_vec()
        } else if self.child.effective.is_some() {
            let files = effective
                .config_map
                .as_ref()
                .map(|map| map.config_map.values());
            files
                .into_iter()
                .flatten()
                .flat_map(|file| file.body.clone())
                .collect()
        } else {
            // Layers that nobody has merged yet.
            return;
        };
        let hash = RevisionHash::of([("effective.yaml", "", text.as_slice())]);
        if self.shown.replace(hash) != Some(hash) {
            self.push_disk(Purpose::Memory, DiskWork::ShowEffective(text));
        }
    }
}
