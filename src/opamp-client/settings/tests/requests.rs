//! Given a key of our own, when the server issues a certificate for it, refuses or is silent, then the key stays here
//! and nobody is asked in a hurry.

use super::*;
use crate::messages::{ServerCapabilities, TelemetryConnectionSettings};

const TAKES: u64 = ServerCapabilities::AcceptsStatus.bit()
    | ServerCapabilities::AcceptsConnectionSettingsRequest.bit();

fn request() -> CertificateRequest {
    csr::generate(&csr::Subject {
        common_name: "agent-1".to_owned(),
        organization: Some("fleet".to_owned()),
        instance_uid: Some([0x11; 16]),
    })
    .unwrap()
}

fn asking(request: &CertificateRequest) -> Bench {
    let mut bench = Bench::connected();
    bench.settings.handle_server_capabilities(at(0), TAKES);
    bench
        .settings
        .request_certificate(at(1), request.clone())
        .unwrap();
    assert_eq!(bench.seen(), [Seen::Save], "the key is saved first");
    assert_eq!(bench.store(at(1)), [Seen::Request]);
    bench
}

//
#[test]
fn a_key_that_is_not_stored_is_not_asked_a_certificate_for() {
    let mut bench = Bench::connected();
    bench.settings.handle_server_capabilities(at(0), TAKES);
    bench
        .settings
        .request_certificate(at(1), request())
        .unwrap();
    assert_eq!(bench.seen(), [Seen::Save]);
    // Neither time nor a new connection nor a stranger's answer lets it out.
    bench.settings.handle_timeout(at(300));
    bench.lose(at(301), LossKind::Lost);
    bench.connect(at(302));
    bench.settings.handle_server_capabilities(at(302), TAKES);
    bench.settings.handle_saved(at(303), 0, Ok(()));
    bench.settings.handle_saved(at(303), 99, Ok(()));
    assert_eq!(bench.seen(), []);
    let id = *bench.ids.last().unwrap();
    let full = Err("disk is full".to_owned());
    bench.settings.handle_saved(at(304), id, full);
    let reason = "the key could not be stored: disk is full";
    assert_eq!(bench.seen(), [Seen::GivenUp(reason.to_owned())]);
    bench.settings.handle_timeout(at(9_000));
    assert_eq!(bench.seen(), []);
    assert_eq!(bench.settings.poll_timeout(), None);
    // Later there is room.
    bench
        .settings
        .request_certificate(at(9_001), request())
        .unwrap();
    assert_eq!(bench.seen(), [Seen::Save]);
    assert_eq!(bench.store(at(9_001)), [Seen::Request]);
}

#[test]
fn a_key_is_stored_with_whatever_state_comes_after_it() {
    let mut bench = Bench::connected();
    bench.settings.handle_server_capabilities(at(0), TAKES);
    bench
        .settings
        .request_certificate(at(1), request())
        .unwrap();
    let beat = OpAmpConnectionSettings {
        heartbeat_interval_seconds: 5,
        ..OpAmpConnectionSettings::default()
    };
    // Its own state is replaced before anybody took it.
    bench.settings.handle_offer(at(1), offering("h", beat));
    bench.seen();
    assert_eq!(bench.ids.len(), 1);
    assert_eq!(bench.store(at(2)), [Seen::Request]);
}

//
#[test]
fn the_request_is_pkcs10_with_our_identity_and_without_our_key() {
    let request = request();
    let bench = asking(&request);
    let sent = String::from_utf8(bench.requests[0].clone()).unwrap();
    assert!(
        sent.starts_with("-----BEGIN CERTIFICATE REQUEST-----"),
        "{sent}"
    );
    assert!(!sent.contains("PRIVATE"));
    let parsed = CertificateSigningRequestParams::from_pem(&sent).unwrap();
    let shown = format!("{:?}", parsed.params);
    assert!(
        shown.contains("agent-1") && shown.contains("fleet"),
        "{shown}"
    );
    assert!(
        shown.contains("urn:uuid:11111111-1111-1111-1111-111111111111"),
        "{shown}"
    );
    let key = KeyPair::from_pem(std::str::from_utf8(&request.key_pem).unwrap()).unwrap();
    assert_eq!(
        rcgen::PublicKeyData::der_bytes(&parsed.public_key),
        rcgen::PublicKeyData::der_bytes(&key)
    );
    assert!(!format!("{request:?} {:?}", bench.settings).contains("PRIVATE"));
}

//
#[test]
fn a_certificate_without_key_is_paired_with_ours_and_may_bring_more() {
    let request = request();
    let mut bench = asking(&request);
    let offer = OpAmpConnectionSettings {
        headers: Some(headers(&[("authorization", "Bearer own")])),
        ..with_pair(signed(&request.csr_pem))
    };
    assert_eq!(
        bench.offer(at(2), offering("h", offer)),
        [applying("h"), Seen::Save]
    );
    bench.store(at(2));
    bench.settings.handle_left(at(2));
    bench.connect(at(3));
    assert_eq!(bench.seen(), [Seen::Accepted, applied("h"), Seen::Save]);
    let tls = &bench.settings.target().tls;
    let own = tls.client_certificate.as_ref().unwrap();
    assert_eq!(own.key_pem, request.key_pem);
    assert_eq!(bench.authorization(), "Bearer own");
    bench.settings.handle_server_capabilities(at(4), TAKES);
    assert_eq!(bench.seen(), [], "answered: nothing more is asked");
    // The same key again, a new certificate: it is still ours.
    let renewed = with_pair(signed(&request.csr_pem));
    assert_eq!(
        bench.offer(at(5), offering("i", renewed)),
        [applying("i"), Seen::Save]
    );
}

//
#[test]
fn a_pending_key_survives_a_restart_and_a_strangers_certificate_fails() {
    let request = request();
    let mut bench = asking(&request);
    let mut bench = {
        let saved = bench.saved.take();
        Bench::with(config(), saved.as_ref())
    };
    bench.connect(at(10));
    assert_eq!(bench.seen(), []);
    bench.settings.handle_server_capabilities(at(10), TAKES);
    assert_eq!(bench.seen(), [Seen::Request]);
    let stranger = csr::generate(&csr::Subject::default()).unwrap();
    let seen = bench.offer(at(11), offering("h", with_pair(signed(&stranger.csr_pem))));
    let reason = "opamp.certificate.private_key: is missing, and no key that is held here belongs to the certificate";
    assert_eq!(seen[0], failed("h", reason));
    let seen = bench.offer(at(12), offering("i", with_pair(signed(&request.csr_pem))));
    assert_eq!(seen[0], applying("i"));
}

//
#[test]
fn nothing_is_asked_of_a_server_that_does_not_say_it_takes_requests() {
    let mut bench = Bench::connected();
    bench
        .settings
        .request_certificate(at(1), request())
        .unwrap();
    assert_eq!(bench.seen(), [Seen::Save]);
    assert_eq!(bench.store(at(1)), []);
    bench.settings.handle_server_capabilities(
        at(2),
        TAKES & !ServerCapabilities::AcceptsConnectionSettingsRequest.bit(),
    );
    assert_eq!(
        (bench.seen(), bench.settings.poll_timeout()),
        (vec![], None)
    );
    bench.settings.handle_server_capabilities(at(3), TAKES);
    assert_eq!(bench.seen(), [Seen::Request]);
}

//
#[test]
fn a_request_needs_a_verified_connection_and_a_store() {
    let plain: Target = "ws://127.0.0.1:1".parse().unwrap();
    let mut config = SettingsConfig::new(plain, Duration::from_secs(30));
    let try_with = |config: &SettingsConfig| {
        let mut settings = Settings::new(config.clone(), None, at(0)).unwrap();
        settings.request_certificate(at(0), request())
    };
    assert_eq!(try_with(&config), Err(RequestError::Unverified));
    config.policy.allow_plaintext_request = true;
    assert_eq!(try_with(&config), Ok(()));
    config.policy.can_save = false;
    assert_eq!(try_with(&config), Err(RequestError::Store));
    let mut blind = super::config();
    blind.base.tls.insecure_skip_verify = true;
    assert_eq!(try_with(&blind), Err(RequestError::Unverified));
    let mut settings = Settings::new(super::config(), None, at(0)).unwrap();
    let odd = CertificateRequest {
        csr_pem: b"rubbish".to_vec(),
        ..request()
    };
    assert_eq!(
        settings.request_certificate(at(0), odd),
        Err(RequestError::Request)
    );
    let odd = CertificateRequest {
        key_pem: Vec::new(),
        ..request()
    };
    assert_eq!(
        settings.request_certificate(at(0), odd),
        Err(RequestError::Key)
    );
}

//
#[test]
fn a_refused_request_is_repeated_slowly_and_other_work_goes_on() {
    let mut bench = asking(&request());
    let mut second = 2;
    let mut sent_at = Vec::new();
    while second < 3_000 {
        bench
            .settings
            .handle_server_error(at(second), ServerErrorKind::BadRequest, "not you");
        assert_eq!(bench.seen(), []);
        let due = bench.settings.poll_timeout().unwrap();
        second = due.as_secs();
        bench.settings.handle_timeout(at(second));
        assert_eq!(bench.seen(), [Seen::Request]);
        sent_at.push(second);
    }
    assert_eq!(sent_at, [62, 182, 422, 902, 1862, 3782]);
    let logs = ConnectionSettingsOffers {
        own_logs: Some(TelemetryConnectionSettings {
            destination_endpoint: "https://l.example/".to_owned(),
            ..TelemetryConnectionSettings::default()
        }),
        ..ConnectionSettingsOffers::default()
    };
    assert_eq!(
        bench.offer(at(4000), logs)[0],
        Seen::Set("own_logs".to_owned(), Some("https://l.example/".to_owned()))
    );
}

// reconnects do not make it a flood.
#[test]
fn a_lost_request_is_repeated_on_the_next_connection_but_not_at_once() {
    let mut bench = asking(&request());
    for second in 2..50 {
        bench.lose(at(second), LossKind::Lost);
        bench.connect(at(second));
        bench.settings.handle_server_capabilities(at(second), TAKES);
        assert_eq!(bench.seen(), []);
    }
    assert_eq!(bench.settings.poll_timeout(), Some(at(61).now));
    bench.settings.handle_timeout(at(61));
    assert_eq!(bench.seen(), [Seen::Request]);
}

//
#[test]
fn a_certificate_is_due_at_two_thirds_of_its_life_and_told_once() {
    let key = KeyPair::generate().unwrap();
    let mut config = config();
    config.renew = true;
    let own = pair(&key, 2026);
    config.base.tls.client_certificate = Some(crate::transport::ClientCertificate {
        chain_pem: own.cert,
        key_pem: own.private_key,
    });
    // Between 1 January and 31 December 2026, two thirds are over on 31 August.
    let august = Duration::from_hours(496_704);
    let clock = |unix: Duration, now| Clock {
        now: Duration::from_secs(now),
        unix,
    };
    let before = august.saturating_sub(Duration::from_hours(24));
    let mut bench = Bench::with(config, None);
    bench.settings.handle_timeout(clock(before, 1));
    assert_eq!(bench.seen(), []);
    // It looks again after six hours, because clocks jump.
    assert_eq!(
        bench.settings.poll_timeout(),
        Some(Duration::from_secs(1 + 6 * 3600))
    );
    bench
        .settings
        .handle_timeout(clock(august + Duration::from_hours(24), 2));
    assert_eq!(bench.seen(), [Seen::Due]);
    bench
        .settings
        .handle_timeout(clock(august + Duration::from_hours(48), 3));
    assert_eq!(
        (bench.seen(), bench.settings.poll_timeout()),
        (vec![], None)
    );
}
