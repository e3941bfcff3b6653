//! Connection settings as a table of situations: a server's offers on one side, an embedder's answers on the other.

mod destinations;
mod offered;
mod offers;
mod requests;
mod saving;
mod trials;

use rcgen::{CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair};

use super::*;
use crate::messages::{
    Header, Headers, OpAmpConnectionSettings, ProxyConnectionSettings, TlsCertificate,
    TlsConnectionSettings,
};

const BASE: &str = "wss://old.example/v1/opamp";
const NEW: &str = "wss://new.example/v1/opamp";

fn at(seconds: u64) -> Clock {
    Clock {
        now: Duration::from_secs(seconds),
        // The middle of 2026.
        unix: Duration::from_secs(1_780_000_000 + seconds),
    }
}

fn base() -> Target {
    BASE.parse::<Target>()
        .and_then(|base| base.with_header("Authorization", "Bearer local"))
        .unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    Headers {
        headers: pairs
            .iter()
            .map(|(key, value)| Header {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect(),
    }
}

fn endpoint(url: &str) -> OpAmpConnectionSettings {
    OpAmpConnectionSettings {
        destination_endpoint: url.to_owned(),
        ..OpAmpConnectionSettings::default()
    }
}

fn offering(hash: &str, opamp: OpAmpConnectionSettings) -> ConnectionSettingsOffers {
    ConnectionSettingsOffers {
        hash: hash.as_bytes().to_vec(),
        opamp: Some(opamp),
        ..ConnectionSettingsOffers::default()
    }
}

/// A pair that signed itself, valid through `year`.
fn pair(key: &KeyPair, year: i32) -> TlsCertificate {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(year, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, 12, 31);
    TlsCertificate {
        cert: params.self_signed(key).unwrap().pem().into_bytes(),
        private_key: key.serialize_pem().into_bytes(),
        ca_cert: Vec::new(),
    }
}

fn with_pair(certificate: TlsCertificate) -> OpAmpConnectionSettings {
    OpAmpConnectionSettings {
        certificate: Some(certificate),
        ..OpAmpConnectionSettings::default()
    }
}

/// What happened, in a form that reads well in a list.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Save,
    Applying(String),
    Applied(String),
    Failed(String, String),
    /// A status without a hash: the server is to offer anew.
    Unset,
    Leave,
    Heartbeat(u64),
    Set(String, Option<String>),
    Request,
    GivenUp(String),
    Due,
    Accepted,
    Reverted(String),
    Dropped(String),
}

struct Bench {
    settings: Settings,
    /// The last state that was handed out.
    saved: Option<SavedSettings>,
    ids: Vec<u64>,
    tickets: Vec<u64>,
    requests: Vec<Vec<u8>>,
}

impl Bench {
    fn new() -> Self {
        Self::with(config(), None)
    }

    fn with(config: SettingsConfig, saved: Option<&SavedSettings>) -> Self {
        Self {
            settings: Settings::new(config, saved, at(0)).unwrap(),
            saved: saved.cloned(),
            ids: Vec::new(),
            tickets: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// Connected to the server of the local settings, which has answered.
    fn connected() -> Self {
        let mut bench = Self::new();
        bench.connect(at(0));
        assert_eq!(bench.seen(), []);
        bench
    }

    fn connect(&mut self, clock: Clock) {
        self.settings.handle_connected(clock);
        self.settings.handle_answered(clock);
    }

    /// All effects.
    fn seen(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        while let Some(effect) = self.settings.poll_effect() {
            seen.push(match effect {
                SettingsEffect::Save { id, state } => {
                    self.ids.push(id);
                    self.saved = Some(state);
                    Seen::Save
                }
                SettingsEffect::Report(status) => {
                    let hash = String::from_utf8(status.last_connection_settings_hash).unwrap();
                    match ConnectionSettingsStatuses::try_from(status.status).unwrap() {
                        ConnectionSettingsStatuses::Unset => Seen::Unset,
                        ConnectionSettingsStatuses::Applied => Seen::Applied(hash),
                        ConnectionSettingsStatuses::Applying => Seen::Applying(hash),
                        ConnectionSettingsStatuses::Failed => {
                            Seen::Failed(hash, status.error_message)
                        }
                    }
                }
                SettingsEffect::Leave => Seen::Leave,
                SettingsEffect::Heartbeat(interval) => Seen::Heartbeat(interval.as_secs()),
                SettingsEffect::Destination {
                    ticket,
                    class,
                    settings,
                } => {
                    self.tickets.push(ticket);
                    Seen::Set(
                        class.to_string(),
                        settings.map(|settings| settings.endpoint),
                    )
                }
                SettingsEffect::Request(request) => {
                    let request = request.opamp.unwrap().certificate_request.unwrap();
                    self.requests.push(request.csr);
                    Seen::Request
                }
                SettingsEffect::RequestGivenUp(trouble) => Seen::GivenUp(trouble.to_string()),
                SettingsEffect::CertificateDue { .. } => Seen::Due,
                SettingsEffect::Accepted => Seen::Accepted,
                SettingsEffect::Reverted(trouble) => Seen::Reverted(trouble.to_string()),
                SettingsEffect::Dropped(refused) => Seen::Dropped(refused.to_string()),
            });
        }
        seen
    }

    fn offer(&mut self, clock: Clock, offers: ConnectionSettingsOffers) -> Vec<Seen> {
        self.settings.handle_offer(clock, offers);
        self.seen()
    }

    fn store(&mut self, clock: Clock) -> Vec<Seen> {
        let id = *self.ids.last().expect("a state to save");
        self.settings.handle_saved(clock, id, Ok(()));
        self.seen()
    }

    fn lose(&mut self, clock: Clock, kind: LossKind) -> Vec<Seen> {
        let loss = Loss {
            kind,
            reason: "nobody there".to_owned(),
        };
        self.settings.handle_lost(clock, &loss);
        self.seen()
    }

    /// Up to the first attempt with the candidate.
    fn trying(offer: OpAmpConnectionSettings) -> Self {
        let mut bench = Self::connected();
        let seen = bench.offer(at(1), offering("h", offer));
        assert_eq!(seen, [applying("h"), Seen::Save]);
        assert_eq!(bench.store(at(1)), [Seen::Leave]);
        bench.settings.handle_left(at(1));
        assert_eq!(bench.seen(), []);
        bench
    }

    fn url(&self) -> String {
        self.settings.target().to_string()
    }

    /// Who would be told what, by the headers.
    fn authorization(&self) -> &str {
        self.settings.target().headers["authorization"]
            .to_str()
            .unwrap()
    }
}

fn config() -> SettingsConfig {
    SettingsConfig::new(base(), Duration::from_secs(30))
}

fn applying(hash: &str) -> Seen {
    Seen::Applying(hash.to_owned())
}

fn applied(hash: &str) -> Seen {
    Seen::Applied(hash.to_owned())
}

fn failed(hash: &str, reason: &str) -> Seen {
    Seen::Failed(hash.to_owned(), reason.to_owned())
}

fn reverted(reason: &str) -> Seen {
    Seen::Reverted(reason.to_owned())
}

/// Signs a request as a server does: a certificate without key.
fn signed(csr_pem: &[u8]) -> TlsCertificate {
    let ca_key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(CertificateParams::default(), ca_key);
    let csr =
        CertificateSigningRequestParams::from_pem(std::str::from_utf8(csr_pem).unwrap()).unwrap();
    TlsCertificate {
        cert: csr.signed_by(&issuer).unwrap().pem().into_bytes(),
        ..TlsCertificate::default()
    }
}
