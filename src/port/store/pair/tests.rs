//! What is read out of a pair, and what is refused.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, SerialNumber};

use super::{check, element, read, time};
use crate::units::WallTime;

fn made(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params =
        CertificateParams::new(vec!["a.test".to_owned(), "*.b.test".to_owned()]).unwrap();
    params.serial_number = Some(SerialNumber::from(0x1234_5678_u64));
    params.not_before = rcgen::date_time_ymd(2020, 1, 2) + Duration::from_secs(3);
    params.not_after = rcgen::date_time_ymd(2060, 1, 2);
    change(&mut params);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn wall(text: &str) -> WallTime {
    let stamp: jiff::Timestamp = text.parse().unwrap();
    WallTime::from_unix_millis(u64::try_from(stamp.as_millisecond()).unwrap())
}

#[test]
fn a_certificate_without_an_end_has_one_in_the_year_9999() {
    let end = time(0x18, b"99991231235959Z").unwrap();
    assert_eq!(end.unix_millis(), 253_402_300_799_000);
}

#[test]
fn serial_names_and_validity_are_read_over_both_kinds_of_time() {
    let (chain, key) = made(|_| {});
    let pair = read(chain.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(pair.serial, "12345678");
    assert_eq!(pair.names, ["a.test", "*.b.test"]);
    assert_eq!(pair.not_before, wall("2020-01-02T00:00:03Z"));
    assert_eq!(
        pair.not_after,
        wall("2060-01-02T00:00:00Z"),
        "after 2049 it is GeneralizedTime"
    );
    assert_eq!(pair.id.as_str().parse(), Ok(pair.id.clone()));
    let domains = ["a.test".parse().unwrap(), "x.b.test".parse().unwrap()];
    assert_eq!(check(&pair, &domains, wall("2030-01-01T00:00:00Z")), Ok(()));
    let strange = ["b.test".parse().unwrap()];
    assert!(check(&pair, &strange, wall("2030-01-01T00:00:00Z")).is_err());
}

#[test]
fn a_pair_whose_parts_do_not_belong_together_has_no_facts() {
    let ((chain, _), (_, key)) = (made(|_| {}), made(|_| {}));
    let refused = read(chain.as_bytes(), key.as_bytes()).unwrap_err();
    assert_eq!(refused, "the key does not belong to the certificate");
    assert!(!refused.contains("PRIVATE"));
}

#[test]
fn times_are_read_as_the_standard_says() {
    let cases: [(u8, &str, Option<&str>); 8] = [
        (0x17, "991231235959Z", Some("1999-12-31T23:59:59Z")),
        (0x17, "491231235959Z", Some("2049-12-31T23:59:59Z")),
        (0x17, "500101000000Z", Some("1970-01-01T00:00:00Z")),
        (0x18, "20500101000000Z", Some("2050-01-01T00:00:00Z")),
        (0x17, "4912312359Z", None),
        (0x17, "491331235959Z", None),
        (0x18, "2050010100000", None),
        (0x05, "491231235959Z", None),
    ];
    for (tag, text, wanted) in cases {
        assert_eq!(time(tag, text.as_bytes()), wanted.map(wall), "{text}");
    }
}

#[test]
fn a_chain_may_have_ten_certificates_and_not_eleven() {
    let (chain, key) = made(|_| {});
    let ten = read(chain.repeat(10).as_bytes(), key.as_bytes());
    assert_eq!(ten.unwrap().serial, "12345678");
    let refused = read(chain.repeat(11).as_bytes(), key.as_bytes()).unwrap_err();
    assert_eq!(refused, "the chain has more than 10 certificates");
}

#[test]
fn a_pair_is_good_from_five_minutes_before_its_begin_until_its_end() {
    let (chain, key) = made(|_| {});
    let pair = read(chain.as_bytes(), key.as_bytes()).unwrap();
    let (from, until) = (pair.not_before.unix_millis(), pair.not_after.unix_millis());
    for (millis, good) in [
        (from - 300_001, false),
        (from - 300_000, true),
        (from, true),
        (until - 1, true),
        (until, false),
        (until + 1, false),
    ] {
        let now = WallTime::from_unix_millis(millis);
        assert_eq!(check(&pair, &[], now).is_ok(), good, "{now}");
    }
}

#[test]
fn only_a_sequence_in_a_sequence_has_a_validity() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    assert!(super::validity(&der).is_some());
    // Long form of the length: tag, number of bytes, two bytes; then the inner structure.
    assert_eq!((der[0], der[1], der[4]), (0x30, 0x82, 0x30));
    for at in [0, 4] {
        let mut other = der.clone();
        other[at] = 0x31;
        assert_eq!(super::validity(&other), None, "{at}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
        if let Some((_, content, rest)) = element(&bytes) {
            proptest::prop_assert!(content.len() + rest.len() < bytes.len());
        }
        proptest::prop_assert_eq!(super::validity(&bytes), None);
        proptest::prop_assert!(read(&bytes, &bytes).is_err());
    }

    #[test]
    fn a_cut_certificate_is_refused_or_read_whole(cut in 0usize..2000) {
        let (chain, key) = made(|_| {});
        let cut = cut.min(chain.len());
        let (head, _) = chain.split_at(cut);
        if let Ok(pair) = read(head.as_bytes(), key.as_bytes()) {
            proptest::prop_assert_eq!(pair.serial, "12345678");
        }
    }
}
