//! A build that takes no connection settings from a server (without feature `connection`).
//!
//! Promises: the settings say so first; no capability bit is announced, so no offer is passed on.
//! Must never: keep or use anything that was offered.

use opamp_client::messages::ConnectionSettingsOffers;
use opamp_client::session::SessionEvent;

use crate::engine::Engine;
use crate::engine::disk::SaveId;
use crate::engine::message::{DiskFault, LinkLoss, Offered};
use crate::units::{LinkId, Moment, Now};

/// There is none.
#[derive(Debug)]
pub(crate) enum Connection {}

#[expect(
    clippy::unused_self,
    clippy::needless_pass_by_ref_mut,
    reason = "stands in for the real ones"
)]
impl Engine {
    pub(super) fn begin_connection(&mut self, _now: Now) {}

    pub(super) fn rebuild_connection(&mut self, _now: Now) {}

    pub(super) fn keep_heartbeat(&mut self) {}

    pub(super) fn on_connection_offer(&mut self, _now: Now, _offers: ConnectionSettingsOffers) {
        self.count("ignored_session_events");
    }

    pub(super) fn is_beside(&self, _link: LinkId) -> bool {
        false
    }

    pub(super) fn beside_up(&mut self, _now: Now, _link: LinkId) {}

    pub(super) fn beside_down(&mut self, _now: Now, _loss: &LinkLoss) {}

    pub(super) fn connection_up(&mut self, _now: Now) {}

    pub(super) fn connection_heard(&mut self) {}

    pub(super) fn connection_answered(&mut self, _now: Now, _events: &[SessionEvent]) {}

    pub(super) fn connection_down(&mut self, _now: Now, _loss: &LinkLoss) {}

    pub(super) fn connection_saved(
        &mut self,
        _now: Now,
        _id: SaveId,
        _result: Result<(), DiskFault>,
    ) {
    }

    pub(super) fn serve_connection(&mut self, _now: Now) {}

    pub(super) fn connection_due(&self) -> Option<Moment> {
        None
    }

    pub(super) fn offered(&self) -> Option<Box<Offered>> {
        None
    }

    pub(super) fn is_on_candidate(&self) -> bool {
        false
    }

    pub(super) fn settings_in_use(&self) -> &'static str {
        "local"
    }

    pub(super) fn stop_connection(&mut self) {}
}
