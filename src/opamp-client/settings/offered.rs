//! What a server offered, apart from the local settings that it goes on top of.
//!
//! Promises: whoever reads local settings only when they are used (files of keys, tokens that change) puts an accepted
//! offer on top of them then, by the same rules and under the same policy as when it was accepted.
//! Must never: show a header, a key or a body.

use std::fmt;

use super::resolve::Scope;
use super::trial::{Phase, Side};
use super::{Policy, Refused, Settings};
use crate::messages::OpAmpConnectionSettings;
use crate::transport::Target;

/// Offered settings of the server's own connection, with the policy that they passed. `Debug` shows no secret.
#[derive(Clone, PartialEq)]
pub struct Offered {
    opamp: OpAmpConnectionSettings,
    policy: Policy,
}

impl fmt::Debug for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = crate::messages::place(&self.opamp.destination_endpoint);
        f.debug_struct("Offered")
            .field("endpoint", &endpoint)
            .finish_non_exhaustive()
    }
}

impl Offered {
    /// What to connect with, on top of what `local` is now. An offer that names no headers, TLS settings, certificate
    /// or proxy leaves those of `local`.
    ///
    /// # Errors
    /// [`Refused`] if the two do not go together any more.
    pub fn on(&self, local: &Target) -> Result<Target, Refused> {
        let scope = Scope {
            name: "opamp",
            policy: &self.policy,
            unix: None,
        };
        scope.opamp(local, &self.opamp)
    }

    /// Whether it brings a header of this name.
    pub fn has_header(&self, name: &str) -> bool {
        self.opamp.headers.as_ref().is_some_and(|headers| {
            let mut headers = headers.headers.iter();
            headers.any(|header| header.key.trim().eq_ignore_ascii_case(name))
        })
    }

    /// Whether it replaces the local headers as a whole.
    pub fn replaces_headers(&self) -> bool {
        self.opamp.headers.is_some()
    }
}

impl Settings {
    /// What was offered of what [`Settings::target`] is now; `None` if those are the local settings.
    pub fn offered(&self) -> Option<Offered> {
        let opamp = match &self.phase {
            Phase::Trying { candidate, trial } if trial.side == Side::New => &candidate.opamp,
            _ => &self.state.opamp,
        };
        (*opamp != OpAmpConnectionSettings::default()).then(|| Offered {
            opamp: opamp.clone(),
            policy: self.config.policy,
        })
    }

    /// Whether [`Settings::target`] is what is being tried, and not what is in force. A caller that can hold two
    /// connections may leave the one that stands alone as long as that is so, and bring [`Settings::handle_connected`],
    /// [`Settings::handle_answered`] and [`Settings::handle_lost`] of the other: what is in force is then asked again
    /// by telling that it is connected.
    pub fn is_candidates_turn(&self) -> bool {
        matches!(&self.phase, Phase::Trying { trial, .. } if trial.side == Side::New)
    }
}
