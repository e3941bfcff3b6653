//! Given a connected client, when a server offers settings, then what is wrong with them is named before anything is
//! given up, and what is new is tried.

use super::*;

fn tls(edit: impl FnOnce(&mut TlsConnectionSettings)) -> OpAmpConnectionSettings {
    let mut tls = TlsConnectionSettings::default();
    edit(&mut tls);
    OpAmpConnectionSettings {
        tls: Some(tls),
        ..OpAmpConnectionSettings::default()
    }
}

fn with_headers(pairs: &[(&str, &str)]) -> OpAmpConnectionSettings {
    OpAmpConnectionSettings {
        headers: Some(headers(pairs)),
        ..OpAmpConnectionSettings::default()
    }
}

fn with_proxy(url: &str) -> OpAmpConnectionSettings {
    OpAmpConnectionSettings {
        proxy: Some(ProxyConnectionSettings {
            url: url.to_owned(),
            connect_headers: None,
        }),
        ..OpAmpConnectionSettings::default()
    }
}

/// Endpoints, headers and TLS that are refused, and what for.
fn bad_places() -> Vec<(OpAmpConnectionSettings, &'static str)> {
    vec![
        (
            endpoint("ftp://x"),
            "opamp.destination_endpoint: endpoint scheme \"ftp\" is not one of ws, wss, http, https, unix",
        ),
        (
            endpoint("wss://user:hunter2@x"),
            "opamp.destination_endpoint: endpoint holds credentials; put them into a header",
        ),
        (
            endpoint("unix:/run/x.sock"),
            "opamp.destination_endpoint: a socket of this machine cannot be offered",
        ),
        (
            endpoint("ws://new.example"),
            "opamp.destination_endpoint: is not encrypted, which the local settings do not allow",
        ),
        (
            with_headers(&[("X-A", "hunter2\r\nX-B: b")]),
            "opamp.headers: header \"X-A\" is not valid",
        ),
        (
            with_headers(&[("Host", "hunter2")]),
            "opamp.headers: header \"host\" is set by the protocol",
        ),
        (
            with_headers(&[("X", &"x".repeat(40_000))]),
            "opamp.headers: has more than 64 headers or 32768 bytes",
        ),
        (
            tls(|tls| tls.insecure_skip_verify = true),
            "opamp.tls.insecure_skip_verify: verification is turned off by local settings only",
        ),
        (
            tls(|tls| tls.ca_pem_contents = "rubbish".to_owned()),
            "opamp.tls.ca_pem_contents: has no certificate in PEM",
        ),
        (
            tls(|tls| tls.min_version = "1.1".to_owned()),
            "opamp.tls.min_version: version \"1.1\" is not one of 1.2, 1.3",
        ),
        (
            tls(|tls| tls.max_version = "TLSv1.0".to_owned()),
            "opamp.tls.max_version: version \"TLSv1.0\" is not one of 1.2, 1.3",
        ),
        (
            tls(|tls| {
                tls.min_version = "1.3".to_owned();
                tls.max_version = "1.2".to_owned();
            }),
            "opamp.tls.max_version: is older than the newest that the local settings allow",
        ),
        (
            tls(|tls| tls.cipher_suites = vec!["TLS_NULL_WITH_NULL_NULL".to_owned()]),
            "opamp.tls.cipher_suites: none of them is known here for the versions allowed",
        ),
    ]
}

/// Certificates and proxies that are refused, and what for.
fn bad_pairs_and_proxies() -> Vec<(OpAmpConnectionSettings, &'static str)> {
    let key = KeyPair::generate().unwrap();
    let stranger = KeyPair::generate().unwrap().serialize_pem().into_bytes();
    let mismatched = TlsCertificate {
        private_key: stranger,
        ..pair(&key, 2026)
    };
    let bad_ca = TlsCertificate {
        ca_cert: b"rubbish".to_vec(),
        ..pair(&key, 2026)
    };
    vec![
        (
            with_pair(TlsCertificate::default()),
            "opamp.certificate: is empty",
        ),
        (
            with_pair(pair(&key, 2025)),
            "opamp.certificate.cert: has expired",
        ),
        (
            with_pair(pair(&key, 2027)),
            "opamp.certificate.cert: is not valid yet",
        ),
        (
            with_pair(mismatched),
            "opamp.certificate.cert: does not belong to its private key",
        ),
        (
            with_pair(bad_ca),
            "opamp.certificate.ca_cert: has no certificate in PEM",
        ),
        (
            with_pair(TlsCertificate {
                private_key: Vec::new(),
                ..pair(&key, 2026)
            }),
            "opamp.certificate.private_key: is missing, and no key that is held here belongs to the certificate",
        ),
        (
            with_proxy(""),
            "opamp.proxy.url: is empty or longer than 2048 bytes",
        ),
        (
            with_proxy("ftp://x"),
            "opamp.proxy.url: proxy scheme \"ftp\" is not one of http, https, socks5",
        ),
    ]
}

//
#[test]
fn each_refusal_names_the_field_and_the_reason_and_gives_up_nothing() {
    let cases = bad_places().into_iter().chain(bad_pairs_and_proxies());
    for (offer, reason) in cases {
        let mut bench = Bench::connected();
        let seen = bench.offer(at(1), offering("h", offer));
        assert_eq!(seen, [failed("h", reason), Seen::Save], "{reason}");
        assert_eq!(bench.url(), BASE, "{reason}");
        assert_eq!(bench.authorization(), "Bearer local");
        assert!(!reason.contains("hunter2"));
    }
}

// without a store, certificates are refused, the rest is not.
#[test]
fn a_client_that_cannot_store_takes_no_certificate() {
    let key = KeyPair::generate().unwrap();
    let mut config = config();
    config.policy.can_save = false;
    let mut bench = Bench::with(config, None);
    bench.connect(at(0));
    let seen = bench.offer(at(1), offering("h", with_pair(pair(&key, 2026))));
    assert_eq!(
        seen,
        [failed("h", "opamp.certificate: cannot be stored here")]
    );
    let seen = bench.offer(at(2), offering("i", endpoint(NEW)));
    assert_eq!(seen, [applying("i"), Seen::Leave]);
}

//
#[test]
fn the_same_offer_is_carried_out_once_and_one_without_hash_always() {
    let mut bench = Bench::connected();
    let beat = |seconds| OpAmpConnectionSettings {
        heartbeat_interval_seconds: seconds,
        ..OpAmpConnectionSettings::default()
    };
    let seen = bench.offer(at(1), offering("h", beat(5)));
    assert_eq!(seen, [Seen::Heartbeat(5), applied("h"), Seen::Save]);
    assert_eq!(bench.offer(at(2), offering("h", beat(7))), []);
    let seen = bench.offer(at(3), offering("", beat(7)));
    assert_eq!(seen, [Seen::Heartbeat(7), applied(""), Seen::Save]);
    let seen = bench.offer(at(4), offering("", beat(8)));
    assert_eq!(seen, [Seen::Heartbeat(8), applied(""), Seen::Save]);
}

// nothing new, or an interval alone, does not cost the connection.
#[test]
fn equal_content_under_a_new_hash_is_applied_where_we_stand() {
    let mut bench = Bench::connected();
    let same = OpAmpConnectionSettings {
        headers: Some(headers(&[("authorization", "Bearer local")])),
        ..endpoint(BASE)
    };
    let seen = bench.offer(at(1), offering("h", same));
    assert_eq!(seen, [applied("h"), Seen::Save]);
    assert_eq!(
        bench.offer(at(2), offering("i", OpAmpConnectionSettings::default())),
        [applied("i"), Seen::Save]
    );
}

//
#[test]
fn an_interval_that_is_not_mentioned_stays_and_absurd_ones_are_bounded() {
    let mut bench = Bench::connected();
    let beat = |seconds| OpAmpConnectionSettings {
        heartbeat_interval_seconds: seconds,
        ..OpAmpConnectionSettings::default()
    };
    bench.offer(at(1), offering("a", beat(5)));
    bench.offer(
        at(2),
        offering("b", with_headers(&[("authorization", "Bearer local")])),
    );
    assert_eq!(bench.settings.heartbeat(), Duration::from_secs(5));
    bench.offer(at(3), offering("c", beat(u64::MAX)));
    assert_eq!(bench.settings.heartbeat(), Duration::from_hours(24));

    let mut config = config();
    config.policy.zero_stops_heartbeat = true;
    let mut strict = Bench::with(config, None);
    strict.connect(at(0));
    assert_eq!(strict.settings.heartbeat(), Duration::from_secs(30));
    strict.offer(at(1), offering("a", beat(5)));
    let silent = with_headers(&[("authorization", "Bearer local")]);
    assert_eq!(
        strict.offer(at(2), offering("b", silent))[0],
        Seen::Heartbeat(0)
    );
}

// an offer of one field keeps all others.
#[test]
fn what_an_offer_leaves_open_is_as_it_was() {
    let key = KeyPair::generate().unwrap();
    let authority = KeyPair::generate().unwrap();
    let ca = String::from_utf8(pair(&authority, 2026).cert).unwrap();
    let mut config = config();
    config.base.tls.min_version = Some(crate::transport::TlsVersion::V1_3);
    let mut bench = Bench::with(config, None);
    bench.connect(at(0));
    let steps: [(&str, OpAmpConnectionSettings); 5] = [
        ("a", with_pair(pair(&key, 2026))),
        ("b", tls(|tls| tls.ca_pem_contents.clone_from(&ca))),
        ("c", with_headers(&[("authorization", "Bearer offered")])),
        ("d", with_proxy("proxy.example:3128")),
        ("e", endpoint(NEW)),
    ];
    for (at_second, (hash, offer)) in (1..).zip(steps) {
        let clock = at(at_second);
        assert_eq!(
            bench.offer(clock, offering(hash, offer)),
            [applying(hash), Seen::Save]
        );
        assert_eq!(bench.store(clock), [Seen::Leave]);
        bench.settings.handle_left(clock);
        bench.connect(clock);
        assert_eq!(bench.seen(), [Seen::Accepted, applied(hash), Seen::Save]);
    }
    let target = bench.settings.target();
    assert_eq!(target.to_string(), NEW);
    assert_eq!(target.headers["authorization"], "Bearer offered");
    assert_eq!(target.tls.ca_pem.as_deref(), Some(ca.as_bytes()));
    assert!(!target.tls.include_system_roots);
    assert_eq!(
        target.tls.min_version,
        Some(crate::transport::TlsVersion::V1_3),
        "the local floor stays"
    );
    assert!(target.tls.client_certificate.is_some());
    assert_eq!(
        target.proxies.https_proxy.as_deref(),
        Some("proxy.example:3128")
    );
    // As the specification has it, if somebody wants that: silence means no certificate.
    let mut strict = bench.settings.config.clone();
    strict.policy.strict_certificate = true;
    let mut bench = Bench::with(strict, bench.saved.as_ref());
    bench.connect(at(20));
    bench.seen();
    bench.offer(
        at(21),
        offering("f", with_headers(&[("authorization", "Bearer next")])),
    );
    bench.store(at(21));
    bench.settings.handle_left(at(21));
    assert_eq!(bench.settings.target().tls.client_certificate, None);
}

// four combinations, under local settings that trust the system.
#[test]
fn authorities_are_the_offered_ones_the_systems_or_both() {
    let key = KeyPair::generate().unwrap();
    let ca = String::from_utf8(pair(&key, 2026).cert).unwrap();
    for (given, system, wanted) in [
        (false, false, (false, false)),
        (false, true, (false, true)),
        (true, false, (true, false)),
        (true, true, (true, true)),
    ] {
        let offered = TlsConnectionSettings {
            ca_pem_contents: if given { ca.clone() } else { String::new() },
            include_system_ca_certs_pool: system,
            ..TlsConnectionSettings::default()
        };
        let policy = Policy::of(&base());
        let scope = Scope {
            name: "opamp",
            policy: &policy,
            unix: None,
        };
        let opamp = OpAmpConnectionSettings {
            tls: Some(offered),
            ..OpAmpConnectionSettings::default()
        };
        let tls = scope.opamp(&base(), &opamp).unwrap().tls;
        assert_eq!((tls.ca_pem.is_some(), tls.include_system_roots), wanted);
    }
}

// Local settings that trust one authority alone: the system's roots would be more than that.
#[test]
fn trust_versions_and_suites_only_get_narrower_than_the_local_ones() {
    let key = KeyPair::generate().unwrap();
    let mut config = config();
    config.base.tls.ca_pem = Some(pair(&key, 2026).cert);
    config.base.tls.min_version = Some(crate::transport::TlsVersion::V1_3);
    config.base.tls.cipher_suites = vec!["TLS_AES_256_GCM_SHA384".to_owned()];
    config.policy = Policy::of(&config.base);
    let cases = [
        (
            tls(|tls| tls.include_system_ca_certs_pool = true),
            "opamp.tls.include_system_ca_certs_pool: the local settings trust their own authorities alone",
        ),
        (
            tls(|tls| tls.min_version = "TLSv1.2".to_owned()),
            "opamp.tls.min_version: is older than what the local settings allow",
        ),
        (
            tls(|tls| tls.cipher_suites = vec!["TLS_AES_128_GCM_SHA256".to_owned()]),
            "opamp.tls.cipher_suites: none of them is allowed by the local settings",
        ),
    ];
    for (offer, reason) in cases {
        let mut bench = Bench::with(config.clone(), None);
        bench.connect(at(0));
        let seen = bench.offer(at(1), offering("h", offer));
        assert_eq!(seen, [failed("h", reason), Seen::Save]);
    }
    let ca = String::from_utf8(pair(&key, 2026).cert).unwrap();
    let mut bench = Bench::with(config.clone(), None);
    bench.connect(at(0));
    let seen = bench.offer(at(1), offering("h", tls(|tls| tls.ca_pem_contents = ca)));
    let reason = "opamp.tls.ca_pem_contents: authorities are named by local settings only";
    assert_eq!(seen[0], failed("h", reason));
}

// A pin that a server could replace would be none.
#[test]
fn authorities_are_offered_only_to_those_who_pin_none() {
    let key = KeyPair::generate().unwrap();
    let mut pinned = base();
    assert!(Policy::of(&pinned).allow_ca);
    pinned.tls.ca_pem = Some(pair(&key, 2026).cert);
    assert!(!Policy::of(&pinned).allow_ca);
}

#[test]
fn a_ceiling_that_turns_the_newest_version_off_is_refused() {
    use crate::transport::TlsVersion::{V1_2, V1_3};
    let reason = "opamp.tls.max_version: is older than the newest that the local settings allow";
    for (local, offered, allowed) in [
        (None, "1.2", false),
        (None, "1.3", true),
        (Some(V1_3), "TLSv1.2", false),
        (Some(V1_2), "1.2", true),
        (Some(V1_2), "1.3", true),
    ] {
        let mut config = config();
        config.base.tls.max_version = local;
        let mut bench = Bench::with(config, None);
        bench.connect(at(0));
        let seen = bench.offer(
            at(1),
            offering("h", tls(|tls| tls.max_version = offered.to_owned())),
        );
        let end = if allowed {
            applied("h")
        } else {
            failed("h", reason)
        };
        assert_eq!(seen, [end, Seen::Save], "{local:?} {offered}");
        assert_eq!(bench.settings.target().tls.max_version, local);
    }
}

// A proxy on this machine that speaks TLS for us is no reason to go without it.
#[test]
fn a_local_socket_does_not_allow_plaintext_over_the_network() {
    let local: Target = "unix:/run/agent.sock".parse().unwrap();
    let mut bench = Bench::with(SettingsConfig::new(local, Duration::from_secs(30)), None);
    bench.connect(at(0));
    let seen = bench.offer(at(1), offering("h", endpoint("ws://new.example")));
    let reason =
        "opamp.destination_endpoint: is not encrypted, which the local settings do not allow";
    assert_eq!(seen, [failed("h", reason), Seen::Save]);
    assert!(!bench.settings.config.policy.allow_plaintext_telemetry);
}

#[test]
fn local_settings_that_become_stricter_leave_less_to_offers() {
    let key = KeyPair::generate().unwrap();
    let mut loose: Target = "ws://127.0.0.1:4320".parse().unwrap();
    loose.tls.insecure_skip_verify = true;
    let config = SettingsConfig::new(loose.clone(), Duration::from_secs(30));
    let mut bench = Bench::with(config, None);
    let mut strict = base();
    strict.tls.ca_pem = Some(pair(&key, 2026).cert);
    bench.settings.set_base(strict.clone()).unwrap();
    assert_eq!(bench.settings.config.policy, Policy::of(&strict));
    bench.settings.set_base(loose).unwrap();
    assert_eq!(
        bench.settings.config.policy,
        Policy::of(&strict),
        "and nothing is added later"
    );
    // What was allowed in so many words does not hang on the endpoint.
    let mut config = super::config();
    config.policy.allow_plaintext_telemetry = true;
    let mut bench = Bench::with(config, None);
    bench.settings.set_base(strict).unwrap();
    let policy = bench.settings.config.policy;
    assert!(policy.allow_plaintext_telemetry && !policy.allow_ca);
}

#[test]
fn a_certificate_with_a_shorter_key_is_refused() {
    let long = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let short = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut bench = Bench::trying(with_pair(pair(&long, 2026)));
    bench.connect(at(2));
    bench.seen();
    let seen = bench.offer(at(3), offering("i", with_pair(pair(&short, 2026))));
    let reason =
        "opamp.certificate.cert: has an elliptic key of 256 bits, shorter than the present one";
    assert_eq!(seen, [failed("i", reason), Seen::Save]);
}

// What a local plaintext setting means: it allows just that.
#[test]
fn plaintext_is_offered_only_to_those_who_are_there_already() {
    let local: Target = "ws://127.0.0.1:4320".parse().unwrap();
    let config = SettingsConfig::new(local, Duration::from_secs(30));
    let mut bench = Bench::with(config, None);
    bench.connect(at(0));
    let seen = bench.offer(at(1), offering("h", endpoint("ws://127.0.0.1:4321")));
    assert_eq!(seen, [applying("h"), Seen::Save]);
}

// credentials for the proxy are the one thing that only it may be told.
#[test]
fn connect_headers_may_hold_credentials_for_the_proxy_but_not_the_protocols() {
    let with = |name: &str| OpAmpConnectionSettings {
        proxy: Some(ProxyConnectionSettings {
            url: "https://proxy.example".to_owned(),
            connect_headers: Some(headers(&[(name, "Basic hunter2")])),
        }),
        ..OpAmpConnectionSettings::default()
    };
    let bench = Bench::trying(with("Proxy-Authorization"));
    let proxies = &bench.settings.target().proxies;
    assert_eq!(
        proxies.connect_headers["proxy-authorization"],
        "Basic hunter2"
    );
    assert!(!format!("{proxies:?}").contains("hunter2"));
    let mut bench = Bench::connected();
    let seen = bench.offer(at(1), offering("h", with("Host")));
    let reason = "opamp.proxy.connect_headers: header \"host\" is set by the protocol";
    assert_eq!(seen[0], failed("h", reason));
}

// a flood is bounded; what did not fit is not reported, so that it is offered again.
#[test]
fn offers_wait_for_the_one_before_and_a_flood_is_bounded() {
    let mut bench = Bench::trying(endpoint(NEW));
    for number in 0..100 {
        let beat = OpAmpConnectionSettings {
            heartbeat_interval_seconds: 100 + number,
            ..OpAmpConnectionSettings::default()
        };
        assert_eq!(bench.offer(at(2), offering(&number.to_string(), beat)), []);
    }
    bench.connect(at(3));
    let seen = bench.seen();
    assert_eq!(seen[..2], [Seen::Accepted, applied("h")]);
    let ends: Vec<_> = seen
        .iter()
        .filter(|seen| matches!(seen, Seen::Applied(_)))
        .collect();
    assert_eq!(ends.len(), 1 + 8);
    assert_eq!(ends.last(), Some(&&applied("99")), "the latest wins");
}

#[test]
fn a_few_huge_offers_that_wait_are_bounded_too() {
    let mut bench = Bench::trying(endpoint(NEW));
    for number in 0..8 {
        let mut huge = offering(&number.to_string(), endpoint(NEW));
        huge.opamp.as_mut().unwrap().headers = Some(headers(&[("x", &"x".repeat(400_000))]));
        assert_eq!(bench.offer(at(2), huge), []);
    }
    let waiting = |bench: &Bench| -> Vec<_> {
        let queue = bench.settings.queue.iter();
        queue.map(|offers| offers.hash.clone()).collect()
    };
    assert_eq!(waiting(&bench), [b"6", b"7"]);
    // One that is larger than all that may wait still gets its turn.
    let mut larger = offering("8", endpoint(NEW));
    larger.opamp.as_mut().unwrap().headers = Some(headers(&[("x", &"x".repeat(2_000_000))]));
    bench.offer(at(3), larger);
    assert_eq!(waiting(&bench), [b"8"]);
}

#[test]
fn debug_output_shows_no_secret() {
    let key = KeyPair::generate().unwrap();
    let secret = OpAmpConnectionSettings {
        headers: Some(headers(&[("authorization", "Bearer hunter2")])),
        ..with_pair(pair(&key, 2026))
    };
    let mut bench = Bench::trying(secret);
    let shown = format!("{:?} {:?}", bench.settings, bench.saved);
    assert!(
        !shown.contains("hunter2") && !shown.contains("PRIVATE"),
        "{shown}"
    );
    bench.lose(at(2), LossKind::Rejected);
    assert!(!format!("{:?}", bench.settings).contains("hunter2"));
}
