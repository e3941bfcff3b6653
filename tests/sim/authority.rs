//! A certificate authority of the simulation: real pairs, made from fixed keys so that a seed replays to the byte.

use std::time::Duration;

use adjutant::engine::message::{
    CertificateDone, CertificateFault, CertificateFaultKind, CertificateOrder, PemPair,
};
use adjutant::units::{Domain, Secret};
use rcgen::{CertificateParams, KeyPair, SerialNumber};

/// Keys for this test alone.
const KEYS: [&str; 2] = [
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIHipA0t7Bapee7NGS2z8G4fjf0VIjc7Kt1offJKwRY0k\n-----END PRIVATE KEY-----\n",
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEICsMwdqJBkiNIpyL+eUochh/CJenIi6wU/DhYYlhZ87F\n-----END PRIVATE KEY-----\n",
];

/// How long a pair of it lives; so short that renewals belong to every run.
pub(super) const LIFE: Duration = Duration::from_hours(1);

#[derive(Debug, Default)]
pub(super) struct Authority {
    pub(super) down: bool,
    pub(super) refuses: bool,
    /// When orders reached it, by their domains.
    pub(super) orders: Vec<(u64, Vec<Domain>)>,
    issued: u64,
}

impl Authority {
    /// What an order at `now` (since the epoch) comes to.
    pub(super) fn answer(
        &mut self,
        now_ms: u64,
        order: &CertificateOrder,
    ) -> Result<CertificateDone, CertificateFault> {
        let fault = |kind, reason: &str| CertificateFault {
            kind,
            reason: reason.to_owned(),
            retry_after: None,
        };
        if self.down {
            return Err(fault(CertificateFaultKind::Unreachable, "connect: refused"));
        }
        self.orders.push((now_ms, order.domains.clone()));
        if self.refuses {
            return Err(fault(CertificateFaultKind::Refused, "no answer on port 80"));
        }
        self.issued += 1;
        Ok(CertificateDone::Issued(pair(
            self.issued,
            &order.domains,
            now_ms,
        )))
    }
}

/// A whole pair. Which key it has follows from its number, so that a chain beside another's key is seen.
pub(super) fn pair(number: u64, domains: &[Domain], now_ms: u64) -> PemPair {
    let key_pem = KEYS[usize::try_from(number % 2).unwrap()];
    let key = KeyPair::from_pem(key_pem).unwrap();
    let names: Vec<String> = domains.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.serial_number = Some(SerialNumber::from(number));
    let begin = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now_ms / 1000);
    params.not_before = begin;
    params.not_after = begin + LIFE;
    PemPair {
        chain: params.self_signed(&key).unwrap().pem(),
        key: Secret::new(key_pem),
    }
}
