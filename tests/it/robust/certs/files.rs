//! Given the operator's two files as source; when they change, well or badly; then a good pair becomes live and the
//! child that uses it is told, and everything else is one sentence and exit code 10, with the live pair and the child
//! as they were.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair};

use super::super::rig::{Rig, agent, wait_until};
use super::{read_pair, until_live, web};

/// A self-signed pair that begins `from` days from 1970-01-01 and lives for `days`.
fn pair(domain: &str, from: u64, days: u64) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![domain.to_owned()]).unwrap();
    let day = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + day(from);
    params.not_after = params.not_before + day(days);
    let chain = params.self_signed(&key).unwrap().pem();
    (chain, key.serialize_pem())
}

/// One that is valid now and for long.
fn good() -> (String, String) {
    pair("a.test", 20_000, 20_000)
}

fn put(rig: &Rig, (chain, key): (&str, &str), mode: u32) {
    rig.write("own.pem", chain);
    let key = rig.write("own.key", key);
    fs::set_permissions(key, fs::Permissions::from_mode(mode)).unwrap();
}

fn rig() -> Rig {
    let rig = Rig::generic();
    let settings = "certificates:
  web:
    source: files
    domains: [a.test]
    files: {certificate: '{dir}/own.pem', key: '{dir}/own.key'}
";
    rig.set(&format!("{}{settings}", agent("one", "")));
    rig
}

#[test]
fn a_changed_pair_becomes_live_and_its_child_is_told() {
    let rig = rig();
    let (chain, key) = good();
    put(&rig, (&chain, &key), 0o640);
    let _supervisor = rig.start();
    until_live(&rig);
    rig.commit("uses ${ADJUTANT_CERTIFICATES_DIR}/web/current/fullchain.pem");
    let child = rig.child();
    // The same bytes are no news.
    let done = rig.cli(&["certificates", "renew", "web", "--wait"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert_eq!(web(&rig).unwrap()["renewals"], 1);
    assert_eq!(rig.child(), child);
    let (chain, key) = good();
    put(&rig, (&chain, &key), 0o600);
    let done = rig.cli(&["certificates", "renew", "web", "--wait"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert_eq!(read_pair(&rig).unwrap(), chain.as_bytes());
    // This profile proves by a fresh process, so being told is a restart.
    wait_until(
        "a new child",
        || matches!(rig.children()[..], [now] if now != child),
    );
}

#[test]
fn every_bad_pair_is_one_sentence_and_changes_nothing() {
    let rig = rig();
    let (chain, key) = good();
    put(&rig, (&chain, &key), 0o600);
    let supervisor = rig.start();
    until_live(&rig);
    rig.commit("uses ${ADJUTANT_CERTIFICATES_DIR}/web/current/fullchain.pem");
    let child = rig.child();
    let before = read_pair(&rig);

    let (other_chain, other_key) = good();
    let (old_chain, old_key) = pair("a.test", 10_000, 10);
    let (early_chain, early_key) = pair("a.test", 40_000, 10);
    let (wrong_chain, wrong_key) = pair("b.test", 20_000, 20_000);
    let stranger = KeyPair::generate().unwrap();
    let mut elsewhere = CertificateParams::new(vec![]).unwrap();
    elsewhere
        .distinguished_name
        .push(DnType::CommonName, "elsewhere");
    let two = format!("{chain}{}", elsewhere.self_signed(&stranger).unwrap().pem());
    let broken = chain.replace("BEGIN", "BEGUN");
    let cases: [((&str, &str), u32, &str); 8] = [
        (
            (&chain, &other_key),
            0o600,
            "the key does not belong to the certificate",
        ),
        (
            (&old_chain, &old_key),
            0o600,
            "the certificate expired at 1997-05-29T00:00:00.000Z",
        ),
        (
            (&early_chain, &early_key),
            0o600,
            "the certificate is not valid before 2079-07-08T00:00:00.000Z",
        ),
        (
            (&wrong_chain, &wrong_key),
            0o600,
            "the certificate is not for a.test; it is for b.test",
        ),
        ((&broken, &key), 0o600, "the chain holds no certificate"),
        (
            (&chain, "no key"),
            0o600,
            "the key is not a PEM private key",
        ),
        (
            (&other_chain, &other_key),
            0o644,
            "is open to everybody (mode 0644); run `chmod o= ",
        ),
        ((&two, &key), 0o600, "the chain is out of order"),
    ];
    for (files, mode, words) in cases {
        put(&rig, files, mode);
        let done = rig.cli(&["certificates", "renew", "web", "--wait"]);
        assert_eq!(done.code, Some(10), "{words}: {}", done.out);
        assert!(done.err.contains(words), "{words}: {}", done.err);
        assert_eq!(done.err.lines().count(), 1, "{}", done.err);
        assert_eq!(read_pair(&rig), before, "{words}");
        assert_eq!(rig.child(), child, "{words}");
    }
    fs::remove_file(rig.path().join("own.key")).unwrap();
    let done = rig.cli(&["certificates", "renew", "web", "--wait"]);
    assert_eq!(done.code, Some(10));
    assert!(done.err.contains("own.key: No such file"), "{}", done.err);
    // Nobody but the owner ever sees a key.
    let log = supervisor.log();
    assert!(!log.contains("PRIVATE KEY") && !log.contains(key.lines().nth(1).unwrap()));
}
