//! The PEM files of a connection, read when they are used: a renewed pair needs no restart of ours.
//!
//! Promises: a file is read whole or not at all, and not beyond a bound; an error names the file.
//! Must never: keep what it read, or decide what to trust: the flags are the settings'.

use opamp_client::transport::{ClientCertificate, TlsOptions};

use super::durable::{Disk as _, RealDisk};
use crate::units::TextSource;

/// Bytes of a PEM file; bundles of all public roots have a quarter of this.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// Which files a connection uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PemFiles {
    /// Certificates to trust.
    pub ca: Option<TextSource>,
    /// Our own chain and key.
    pub client_pair: Option<(TextSource, TextSource)>,
}

/// Completes `options` by what the files hold now.
///
/// # Errors
/// A sentence that names the file that cannot be read.
pub async fn complete(options: TlsOptions, files: PemFiles) -> Result<TlsOptions, String> {
    if files == PemFiles::default() {
        return Ok(options);
    }
    let read = move || {
        Ok(TlsOptions {
            ca_pem: files.ca.map(|ca| pem(&ca)).transpose()?,
            client_certificate: files.client_pair.map(pair).transpose()?,
            ..options
        })
    };
    // The disk may be slow, and nobody else must wait for it.
    match tokio::task::spawn_blocking(read).await {
        Ok(options) => options,
        Err(error) => Err(format!("read TLS files: {error}")),
    }
}

fn pair((chain, key): (TextSource, TextSource)) -> Result<ClientCertificate, String> {
    Ok(ClientCertificate {
        chain_pem: pem(&chain)?,
        key_pem: pem(&key)?,
    })
}

fn pem(pem: &TextSource) -> Result<Vec<u8>, String> {
    let path = match pem {
        TextSource::File(path) => path,
        TextSource::Text(text) => return Ok(text.expose().as_bytes().to_vec()),
    };
    RealDisk
        .read(path, PEM_BYTES_MAX)
        .map_err(|error| format!("read {}: {error}", path.display()))
}
