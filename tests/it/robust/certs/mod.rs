//! Given a supervisor that keeps the certificate `web`, and pebble as its authority or two files as its source;
//! when pairs are issued, renewed, refused, damaged, and the supervisor is killed on the way;
//! then readers of the stable path find a whole pair at every moment and children serve the live one.

mod authority;
mod crash;
mod files;
mod issue;
mod nginx;

use std::fs;
use std::path::PathBuf;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use super::rig::{Rig, wait_for};

/// The link to the live pair of `web`.
fn live(rig: &Rig) -> PathBuf {
    rig.state().join("certificates/web/current")
}

/// The certificate `web` in the status.
fn web(rig: &Rig) -> Option<Value> {
    Some(rig.status()?["certificates"][0].clone())
}

/// Waits until it is live and answers its status.
fn until_live(rig: &Rig) -> Value {
    wait_for("a live pair", || {
        web(rig).filter(|web| web["state"] == "live")
    })
}

/// Reads the live pair as any program would: two files through the link, which must belong together. None before the
/// first pair.
fn read_pair(rig: &Rig) -> Option<Vec<u8>> {
    // Resolved once, as a program does that opens the directory; two opens through the link may meet a change.
    let directory = fs::canonicalize(live(rig)).ok()?;
    let chain = fs::read(directory.join("fullchain.pem")).unwrap();
    let key = fs::read(directory.join("key.pem")).unwrap();
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .unwrap();
    let private = PrivateKeyDer::from_pem_slice(&key).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    rustls::sign::CertifiedKey::from_der(certificates, private, &provider)
        .unwrap_or_else(|error| panic!("half a pair is visible: {error}"));
    Some(chain)
}
