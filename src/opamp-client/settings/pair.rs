//! A certificate with its key, as an offer brings them: what is wrong with the pair, and what it says about itself.
//!
//! Promises: a pair that passes can be used for a handshake, is valid now and is as strong as the one that it
//! replaces; total on any bytes. Reads just so much of X.509 as that needs: validity and kind of key.
//! Must never: judge who signed it. That is the server's affair.

use std::fmt;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::transport::{ClientCertificate, days_from_civil};

/// RSA keys below this are refused, whoever offers them.
const RSA_BITS_MIN: usize = 2048;

/// Bytes of PEM that are looked at.
pub(super) const PEM_BYTES_MAX: usize = 256 * 1024;

/// What a certificate says about itself. Times are spans since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateFacts {
    /// It is not valid earlier.
    pub not_before: Duration,
    /// Nor later.
    pub not_after: Duration,
    key: KeyKind,
}

/// Kind and size of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Rsa { bits: usize },
    Elliptic { bits: usize },
    Other,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa { bits } => write!(f, "RSA key of {bits} bits"),
            Self::Elliptic { bits } => write!(f, "elliptic key of {bits} bits"),
            Self::Other => f.write_str("key of another kind"),
        }
    }
}

impl CertificateFacts {
    /// Reads the first certificate of a PEM text; `None` if there is none that can be read.
    pub fn of_pem(pem: &[u8]) -> Option<Self> {
        let certificate = CertificateDer::pem_slice_iter(pem).next()?.ok()?;
        Self::of_der(&certificate)
    }

    fn of_der(der: &[u8]) -> Option<Self> {
        let (certificate, _) = expect(der, SEQUENCE)?;
        let (body, _) = expect(certificate, SEQUENCE)?;
        // The version is explicit but for the first one.
        let body = expect(body, VERSION).map_or(body, |(_, rest)| rest);
        let (_serial, body) = expect(body, INTEGER)?;
        let (_algorithm, body) = expect(body, SEQUENCE)?;
        let (_issuer, body) = expect(body, SEQUENCE)?;
        let (validity, body) = expect(body, SEQUENCE)?;
        let (_subject, body) = expect(body, SEQUENCE)?;
        let (public_key, _) = expect(body, SEQUENCE)?;
        let (not_before, validity) = time(validity)?;
        let (not_after, _) = time(validity)?;
        Some(Self {
            not_before,
            not_after,
            key: key_kind(public_key)?,
        })
    }

    /// When to replace it: at two thirds of its life, and up to a twentieth later, so that those who were
    /// issued together do not come back together. `random` is any number.
    pub fn renew_at(&self, random: u64) -> Duration {
        let life = self.not_after.saturating_sub(self.not_before);
        let spread = life / 20;
        let late = spread.mul_f64(f64::from(u16::try_from(random % 1000).unwrap_or(0)) / 1000.0);
        self.not_before
            .saturating_add(life / 3 * 2)
            .saturating_add(late)
    }
}

/// Checks a pair. `unix` is the present time, or `None` for a pair that was checked before and comes from a store: a
/// clock that is not set yet must not cost us what we have.
///
/// # Errors
/// The reason.
pub(super) fn check(
    pair: &ClientCertificate,
    unix: Option<Duration>,
) -> Result<CertificateFacts, String> {
    if pair.chain_pem.len() > PEM_BYTES_MAX || pair.key_pem.len() > PEM_BYTES_MAX {
        return Err(format!("is longer than {PEM_BYTES_MAX} bytes"));
    }
    let chain = chain(&pair.chain_pem)?;
    let facts = chain
        .first()
        .and_then(|leaf| CertificateFacts::of_der(leaf))
        .ok_or("is no X.509 certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&pair.key_pem)
        .map_err(|_| "comes without a private key in PEM".to_owned())?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => "does not belong to its private key".to_owned(),
        other => format!("cannot be used with its private key: {other}"),
    })?;
    if let KeyKind::Rsa { bits } = facts.key
        && bits < RSA_BITS_MIN
    {
        return Err(format!("has an {}, less than {RSA_BITS_MIN}", facts.key));
    }
    match unix {
        Some(now) if now >= facts.not_after => Err("has expired".to_owned()),
        Some(now) if now < facts.not_before => Err("is not valid yet".to_owned()),
        _ => Ok(facts),
    }
}

/// Whether `new` is at least as strong as `old`; kinds of keys are not compared with each other.
///
/// # Errors
/// The reason.
pub(super) fn not_weaker(new: &CertificateFacts, old: &CertificateFacts) -> Result<(), String> {
    let weaker = match (new.key, old.key) {
        (KeyKind::Rsa { bits: new }, KeyKind::Rsa { bits: old })
        | (KeyKind::Elliptic { bits: new }, KeyKind::Elliptic { bits: old }) => new < old,
        _ => false,
    };
    if weaker {
        return Err(format!("has an {}, shorter than the present one", new.key));
    }
    Ok(())
}

/// Whether `key_pem` is the private key of the first certificate of `chain_pem`.
pub(super) fn belongs(chain_pem: &[u8], key_pem: &[u8]) -> bool {
    let Ok(chain) = chain(chain_pem) else {
        return false;
    };
    let Ok(key) = PrivateKeyDer::from_pem_slice(key_pem) else {
        return false;
    };
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .is_ok_and(|pair| pair.keys_match().is_ok())
}

/// Reads all certificates of a PEM text.
///
/// # Errors
/// The reason.
pub(super) fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not PEM: {error}"))?;
    if chain.is_empty() {
        return Err("has no certificate in PEM".to_owned());
    }
    Ok(chain)
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;

/// rsaEncryption, 1.2.840.113549.1.1.1.
const OID_RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
/// id-ecPublicKey, 1.2.840.10045.2.1.
const OID_EC: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];
/// id-Ed25519, 1.3.101.112.
const OID_ED25519: &[u8] = &[0x2B, 0x65, 0x70];

/// One DER element: its tag, what is in it, what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        // Four bytes of length are more than anything that is read here.
        let bytes = usize::from(first & 0x7F);
        let digits = rest.get(..bytes).filter(|_| (1..=4).contains(&bytes))?;
        let len = digits
            .iter()
            .fold(0_usize, |len, digit| (len << 8) | usize::from(*digit));
        (len, rest.get(bytes..)?)
    };
    Some((tag, rest.get(..len)?, rest.get(len..)?))
}

fn expect(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    element(der).and_then(|(tag, body, rest)| (tag == wanted).then_some((body, rest)))
}

/// A point in time, and what follows it. Certificates end both forms with `Z`.
fn time(der: &[u8]) -> Option<(Duration, &[u8])> {
    let (tag, text, rest) = element(der)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, text) = match tag {
        UTC_TIME => {
            let short: i64 = text.get(..2)?.parse().ok()?;
            // RFC 5280: 50 and later are of the last century.
            (
                short + if short >= 50 { 1900 } else { 2000 },
                text.get(2..)?,
            )
        }
        GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let mut numbers = (0..5).map(|at| text.get(at * 2..at * 2 + 2)?.parse::<i64>().ok());
    let mut next = || numbers.next().flatten();
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    let valid = text.len() == 10 && (1..=12).contains(&month) && (1..=31).contains(&day);
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    // Before 1970 is as good as always.
    let seconds = u64::try_from(seconds).unwrap_or(0);
    valid.then_some((Duration::from_secs(seconds), rest))
}

fn key_kind(public_key: &[u8]) -> Option<KeyKind> {
    let (algorithm, rest) = expect(public_key, SEQUENCE)?;
    let (object_id, parameters) = expect(algorithm, OBJECT_ID)?;
    let (bits, _) = expect(rest, BIT_STRING)?;
    // The first byte counts the bits that are not used: none, in keys.
    let (_, key) = bits.split_first()?;
    Some(match object_id {
        OID_RSA => {
            let (numbers, _) = expect(key, SEQUENCE)?;
            let (modulus, _) = expect(numbers, INTEGER)?;
            let leading = modulus.iter().take_while(|byte| **byte == 0).count();
            let modulus = modulus.get(leading..)?;
            let unused = modulus.first()?.leading_zeros() as usize;
            KeyKind::Rsa {
                bits: modulus.len() * 8 - unused,
            }
        }
        OID_EC => {
            expect(parameters, OBJECT_ID)?;
            // An uncompressed point: one byte that says so, two coordinates.
            KeyKind::Elliptic {
                bits: key.len().saturating_sub(1) / 2 * 8,
            }
        }
        OID_ED25519 => KeyKind::Elliptic { bits: 256 },
        _ => KeyKind::Other,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn made(key: &KeyPair, year: i32) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(year, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let certificate = params.self_signed(key).unwrap();
        ClientCertificate {
            chain_pem: certificate.pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
        }
    }

    fn unix(year: i64) -> Duration {
        Duration::from_secs(u64::try_from(days_from_civil(year, 6, 1)).unwrap() * 86_400)
    }

    //
    #[test]
    fn pairs_are_whole_matching_and_valid_now_or_refused() {
        let key = KeyPair::generate().unwrap();
        let good = made(&key, 2026);
        let stranger = KeyPair::generate().unwrap().serialize_pem().into_bytes();
        let with = |chain: &[u8], key: &[u8]| ClientCertificate {
            chain_pem: chain.to_vec(),
            key_pem: key.to_vec(),
        };
        let cases = [
            (good.clone(), Some(2026), Ok(())),
            (good.clone(), Some(2027), Err("has expired")),
            (good.clone(), Some(2025), Err("is not valid yet")),
            (good.clone(), None, Ok(())),
            (
                with(&good.chain_pem, &stranger),
                Some(2026),
                Err("does not belong to its private key"),
            ),
            (
                with(&good.chain_pem, b""),
                Some(2026),
                Err("comes without a private key in PEM"),
            ),
            (
                with(b"", &good.key_pem),
                Some(2026),
                Err("has no certificate in PEM"),
            ),
            (
                with(
                    b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                    &good.key_pem,
                ),
                Some(2026),
                Err("is no X.509 certificate"),
            ),
        ];
        for (pair, year, wanted) in cases {
            let seen = check(&pair, year.map(unix)).map(drop);
            assert_eq!(seen, wanted.map_err(str::to_owned));
        }
        let huge = with(&vec![b'A'; PEM_BYTES_MAX + 1], &good.key_pem);
        assert!(check(&huge, None).unwrap_err().contains("longer"));
    }

    #[test]
    fn a_shorter_key_is_weaker_and_another_kind_is_not_compared() {
        let facts = |key: &KeyPair| CertificateFacts::of_pem(&made(key, 2026).chain_pem).unwrap();
        let short = facts(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
        let long = facts(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
        assert_eq!(
            (short.key, long.key),
            (
                KeyKind::Elliptic { bits: 256 },
                KeyKind::Elliptic { bits: 384 },
            )
        );
        assert_eq!(not_weaker(&long, &short), Ok(()));
        assert_eq!(
            not_weaker(&short, &long),
            Err("has an elliptic key of 256 bits, shorter than the present one".to_owned())
        );
        let rsa = CertificateFacts {
            key: KeyKind::Rsa { bits: 2048 },
            ..long
        };
        assert_eq!(not_weaker(&rsa, &long), Ok(()));
    }

    //
    #[test]
    fn renewal_is_at_two_thirds_and_a_bit() {
        let facts = CertificateFacts {
            not_before: DAY * 100,
            not_after: DAY * 160,
            key: KeyKind::Other,
        };
        assert_eq!(facts.renew_at(0), DAY * 140);
        let latest = facts.renew_at(999);
        assert!(latest > DAY * 142 && latest < DAY * 143, "{latest:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _facts = CertificateFacts::of_der(&bytes);
        }

        #[test]
        fn no_damage_panics(at in 0_usize..300, to: u8) {
            let key = KeyPair::generate().unwrap();
            let pair = made(&key, 2026);
            let mut der = CertificateDer::pem_slice_iter(&pair.chain_pem).next().unwrap().unwrap().to_vec();
            if let Some(byte) = der.get_mut(at) { *byte = to; }
            let _facts = CertificateFacts::of_der(&der);
        }
    }
}
