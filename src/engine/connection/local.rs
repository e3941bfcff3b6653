//! What the machine of offered connection settings is told of this side: the local settings, and why a link is lost.
//!
//! Promises: the machine sees local settings without the bytes of files: where a file is named, its name stands for
//! them. The port puts the offer on top of what the files hold when it dials.
//! Must never: read one of those files.

use std::time::Duration;

use opamp_client::settings::{Loss, LossKind as SettingsLoss};
use opamp_client::transport::{ClientCertificate, ProxyRules, Target};

use crate::config::Server;
use crate::engine::message::{LinkLoss, LossKind};
use crate::units::TextSource;

/// The local settings as the machine sees them.
pub(super) fn local(server: &Server) -> Option<Target> {
    let mut target: Target = server.endpoint.parse().ok()?;
    for (name, value) in &server.headers {
        target = target.with_header(name, value.expose()).ok()?;
    }
    let mut tls = server.tls.options();
    let stand_in = |pem: &TextSource| match pem {
        TextSource::File(path) => path.as_os_str().as_encoded_bytes().to_vec(),
        TextSource::Text(text) => text.expose().as_bytes().to_vec(),
    };
    tls.ca_pem = server.tls.ca.as_ref().map(stand_in);
    if let Some((chain, key)) = &server.tls.client_pair {
        tls.client_certificate = Some(ClientCertificate {
            chain_pem: stand_in(chain),
            key_pem: stand_in(key),
        });
    }
    let proxies = server.proxies(&ProxyRules::default());
    Some(target.with_tls(tls).with_proxies(proxies))
}

/// Why a link is lost, in its words.
pub(super) fn of_link(loss: &LinkLoss, retry_in: Duration) -> Loss {
    let kind = match loss.kind {
        LossKind::Rejected => SettingsLoss::Rejected,
        LossKind::Throttled => SettingsLoss::Throttled { retry_in },
        LossKind::Network
        | LossKind::Tls
        | LossKind::Closed
        | LossKind::TooLarge
        | LossKind::Protocol
        | LossKind::Ours => SettingsLoss::Lost,
    };
    Loss {
        kind,
        reason: loss.reason.clone(),
    }
}
