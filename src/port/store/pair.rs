//! A key pair, looked at: what its leaf says, and whether chain and key are what they should be.
//!
//! Promises: what passes is a chain in order, leaf first, whose leaf the key belongs to, that is valid now and for
//! every wanted name; what does not is refused with one sentence. Signatures are checked by those who will be shown the
//! pair, not here: a private authority's root need not be on this host.
//! Must never: print a byte of a key, or touch a disk.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

use crate::engine::message::{Pair, PairId};
use crate::units::date::Date;
use crate::units::{Domain, RevisionHash, WallTime, hex};

/// Certificates in a chain; public ones have three.
const CHAIN_MAX: usize = 10;
/// A clock that is this much behind the authority's is not worth a refusal.
const SLACK_MS: u64 = 5 * 60 * 1000;

/// Reads a chain and a key.
///
/// # Errors
/// The first thing that is wrong with them, without a subject: the caller knows whose they are.
pub(super) fn read(chain: &[u8], key: &[u8]) -> Result<Pair, String> {
    let certificates = CertificateDer::pem_slice_iter(chain)
        .take(CHAIN_MAX + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("the chain is not PEM: {error}"))?;
    let Some(leaf_der) = certificates.first() else {
        return Err("the chain holds no certificate".to_owned());
    };
    if certificates.len() > CHAIN_MAX {
        return Err(format!("the chain has more than {CHAIN_MAX} certificates"));
    }
    let leaf = parsed(leaf_der)?;
    let validity = validity(leaf_der).ok_or("the certificate's validity cannot be read")?;
    let names = leaf.valid_dns_names().map(str::to_owned).collect();
    let serial = hex(leaf.serial());
    for (at, link) in certificates.windows(2).enumerate() {
        if let [below, above] = link
            && parsed(below)?.issuer() != parsed(above)?.subject()
        {
            return Err(format!(
                "the chain is out of order: certificate {} was not issued by the one after it",
                at + 1
            ));
        }
    }
    let private =
        PrivateKeyDer::from_pem_slice(key).map_err(|_| "the key is not a PEM private key")?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(certificates, private, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            "the key does not belong to the certificate".to_owned()
        }
        error => format!("the key cannot be used: {error}"),
    })?;
    let hash = RevisionHash::of([("chain", "", chain), ("key", "", key)]).to_hex();
    Ok(Pair {
        id: PairId::new(&serial, &hash),
        serial,
        names,
        not_before: validity.0,
        not_after: validity.1,
    })
}

/// Whether a pair may become live.
///
/// # Errors
/// Why not.
pub(super) fn check(pair: &Pair, domains: &[Domain], now: WallTime) -> Result<(), String> {
    if pair.not_after <= now {
        return Err(format!("the certificate expired at {}", pair.not_after));
    }
    if pair.not_before.unix_millis() > now.unix_millis().saturating_add(SLACK_MS) {
        return Err(format!(
            "the certificate is not valid before {}, and the clock says {now}",
            pair.not_before
        ));
    }
    for domain in domains {
        if !pair.covers(std::slice::from_ref(domain)) {
            return Err(format!(
                "the certificate is not for {domain}; it is for {}",
                if pair.names.is_empty() {
                    "no DNS name".to_owned()
                } else {
                    pair.names.join(", ")
                }
            ));
        }
    }
    Ok(())
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<EndEntityCert<'a>, String> {
    EndEntityCert::try_from(certificate)
        .map_err(|error| format!("a certificate of the chain cannot be read: {error}"))
}

/// `notBefore` and `notAfter`, which webpki judges but does not hand out: the fifth field of the inner structure.
///
/// `Certificate ::= SEQUENCE { TBSCertificate ::= SEQUENCE { [0] version OPTIONAL, serial, algorithm, issuer,
/// Validity ::= SEQUENCE { Time, Time }, … } … }` (RFC 5280 §4.1).
fn validity(certificate: &[u8]) -> Option<(WallTime, WallTime)> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (tag, outer, _) = element(certificate)?;
    let (inner_tag, mut rest, _) = element(outer)?;
    if tag != SEQUENCE || inner_tag != SEQUENCE {
        return None;
    }
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    for _ in ["serial", "algorithm", "issuer"] {
        rest = element(rest)?.2;
    }
    let (_, times, _) = element(rest).filter(|(tag, _, _)| *tag == SEQUENCE)?;
    let (from_tag, from, after) = element(times)?;
    let (until_tag, until, _) = element(after)?;
    Some((time(from_tag, from)?, time(until_tag, until)?))
}

/// One DER element: its tag, its content, what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        // Long form: the low bits say how many bytes the length has; four are more than any certificate.
        long @ 0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(long & 0x7f)?;
            let length = length.iter().fold(0usize, |sum, byte| {
                sum.wrapping_shl(8).wrapping_add(usize::from(*byte))
            });
            (length, rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((*tag, content, after))
}

/// `UTCTime` (`YYMMDDHHMMSSZ`, 1950 to 2049) or `GeneralizedTime` (`YYYYMMDDHHMMSSZ`).
fn time(tag: u8, text: &[u8]) -> Option<WallTime> {
    const UTC: u8 = 0x17;
    const GENERALIZED: u8 = 0x18;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let number = |text: &str| text.parse::<u16>().ok();
    let (year, rest) = match tag {
        UTC => {
            let (year, rest) = text.split_at_checked(2)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED => {
            let (year, rest) = text.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let two = |at: usize| rest.get(at..at + 2)?.parse().ok();
    let date = Date {
        year,
        month: two(0)?,
        day: two(2)?,
        hour: two(4)?,
        minute: two(6)?,
        second: two(8)?,
    };
    // What begins before 1970 has begun.
    let millis = u64::try_from(date.unix_millis()?).unwrap_or(0);
    Some(WallTime::from_unix_millis(millis))
}

#[cfg(test)]
mod tests;
