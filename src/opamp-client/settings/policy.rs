//! What the local settings leave to a server, and how a refusal is told.
//!
//! Promises: what is not allowed here cannot be offered: an offer can only tighten. Every refusal names the field and
//! the reason, bounded and printable. Must never: hold or print a secret.

use std::fmt;
use std::time::Duration;

use crate::session::printable;
use crate::transport::Target;

/// What offers may ask for. Nothing that is refused here can be had by an offer, in any combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one permission, and none means anything to another"
)]
pub struct Policy {
    /// `ws` and `http` endpoints of the server.
    pub allow_plaintext: bool,
    /// `http` endpoints of own telemetry.
    pub allow_plaintext_telemetry: bool,
    /// Connections without verification.
    pub allow_insecure: bool,
    /// Authorities other than the local ones.
    pub allow_ca: bool,
    /// The system's roots beside or instead of the local authorities.
    pub allow_system_roots: bool,
    /// An offer without a certificate means none, as the specification has it, instead of keeping the present one
    ///
    pub strict_certificate: bool,
    /// An interval of zero means no heartbeats instead of keeping the present interval. An offer that does
    /// not mention the interval cannot be told from it.
    pub zero_stops_heartbeat: bool,
    /// The longest interval that an offer can set.
    pub heartbeat_max: Duration,
    /// The caller answers [`super::SettingsEffect::Save`]. Without that, certificates are refused.
    pub can_save: bool,
    /// A request for a certificate may leave over a connection that is not encrypted and verified.
    pub allow_plaintext_request: bool,
    /// Tries the local settings again when what a server offered is refused with 401 or 403 for good.
    pub fall_back: bool,
}

impl Policy {
    /// What goes without saying for a client whose local settings are `base`: what these allow themselves, authorities
    /// of the server's choice if they name none, one day between two heartbeats. A socket of this machine says nothing
    /// about plaintext over a network.
    pub fn of(base: &Target) -> Self {
        let plaintext = !base.is_tls() && !base.is_unix();
        Self {
            allow_plaintext: plaintext,
            allow_plaintext_telemetry: plaintext,
            allow_insecure: base.tls.insecure_skip_verify,
            allow_ca: base.tls.ca_pem.is_none(),
            allow_system_roots: base.tls.ca_pem.is_none() || base.tls.include_system_roots,
            strict_certificate: false,
            zero_stops_heartbeat: false,
            heartbeat_max: Duration::from_hours(24),
            can_save: true,
            allow_plaintext_request: false,
            fall_back: true,
        }
    }

    /// The same without what went without saying for `old` and does not for `new`. What was allowed in so many words
    /// stays, and nothing is added.
    pub(super) fn moved(mut self, old: &Target, new: &Target) -> Self {
        let (old, new) = (Self::of(old), Self::of(new));
        self.allow_plaintext &= new.allow_plaintext || !old.allow_plaintext;
        self.allow_plaintext_telemetry &=
            new.allow_plaintext_telemetry || !old.allow_plaintext_telemetry;
        self.allow_insecure &= new.allow_insecure || !old.allow_insecure;
        self.allow_ca &= new.allow_ca || !old.allow_ca;
        self.allow_system_roots &= new.allow_system_roots || !old.allow_system_roots;
        self
    }
}

/// One field of an offer that is refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Refused {
    /// As `opamp.tls.min_version`.
    pub field: String,
    /// Why.
    pub reason: String,
}

impl Refused {
    pub(super) fn new(scope: &str, field: &str, reason: impl fmt::Display) -> Self {
        let field = if field.is_empty() {
            scope.to_owned()
        } else {
            format!("{scope}.{field}")
        };
        Self {
            field: printable(&field),
            reason: printable(&reason.to_string()),
        }
    }
}
