//! TLS of the plain health door (`healthcheck.tls` of the Collector's form).
//!
//! Promises: a pair that cannot be used is told at the start; files are read again for every connection, so a renewed
//! pair needs no restart, and one that is broken while it is renewed leaves the last good one in use.
//! Must never: serve in the clear what was to be served by TLS, or show a key.

use std::io;
use std::sync::Arc;

use opamp_client::transport::TlsVersion;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::DoorTls;
use crate::sys::durable::{Disk as _, RealDisk};
use crate::units::TextSource;

/// Bytes of a PEM file.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// How connections of the door are made secure.
#[derive(Debug, Clone)]
pub(super) struct Secured {
    settings: DoorTls,
    /// What was read last, for a moment in which the files are no pair.
    good: Arc<watch::Sender<Arc<ServerConfig>>>,
}

impl Secured {
    /// Reads everything once.
    ///
    /// # Errors
    /// A sentence that names what cannot be used.
    pub(super) fn open(settings: &DoorTls) -> Result<Self, String> {
        let config = read(settings)?;
        Ok(Self {
            settings: settings.clone(),
            good: Arc::new(watch::Sender::new(Arc::new(config))),
        })
    }

    /// The handshake of one connection.
    ///
    /// # Errors
    /// The peer speaks no TLS, or has no certificate where one is wanted.
    pub(super) async fn shake(self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = tokio::task::spawn_blocking(move || self.config())
            .await
            .map_err(io::Error::other)?;
        TlsAcceptor::from(config).accept(stream).await
    }

    fn config(&self) -> Arc<ServerConfig> {
        match read(&self.settings) {
            Ok(config) => drop(self.good.send_replace(Arc::new(config))),
            Err(error) => tracing::debug!(error, "last good pair of the health door goes on"),
        }
        self.good.borrow().clone()
    }
}

fn read(settings: &DoorTls) -> Result<ServerConfig, String> {
    let DoorTls {
        certificate,
        key,
        client_ca,
        versions,
    } = settings;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: Vec<_> = versions
        .iter()
        .map(|version| match version {
            TlsVersion::V1_2 => &rustls::version::TLS12,
            _ => &rustls::version::TLS13,
        })
        .collect();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| error.to_string())?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let ca = TextSource::File(ca.clone());
            let mut roots = RootCertStore::empty();
            for certificate in chain(&ca)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("{}: {error}", named(&ca)))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| format!("{}: {error}", named(&ca)))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let secret = PrivateKeyDer::from_pem_slice(&pem(key)?)
        .map_err(|error| format!("{}: {error}", named(key)))?;
    builder
        .with_single_cert(chain(certificate)?, secret)
        .map_err(|error| format!("{}: {error}", named(certificate)))
}

fn chain(source: &TextSource) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = pem(source)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| format!("{}: {error}", named(source)))?;
    if chain.is_empty() {
        return Err(format!("{} holds no certificate", named(source)));
    }
    Ok(chain)
}

fn pem(source: &TextSource) -> Result<Vec<u8>, String> {
    match source {
        TextSource::Text(text) => Ok(text.expose().as_bytes().to_vec()),
        TextSource::File(path) => RealDisk
            .read(path, PEM_BYTES_MAX)
            .map_err(|error| format!("read {}: {error}", path.display())),
    }
}

fn named(source: &TextSource) -> String {
    match source {
        TextSource::File(path) => path.display().to_string(),
        TextSource::Text(_) => "the PEM text".to_owned(),
    }
}
